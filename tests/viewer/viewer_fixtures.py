"""One TensorBoard of each kind and one Chromium for all tests of a module."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import urlopen

import pytest
import viewer_browser as seen
import viewer_data as data
from selenium import webdriver
from tensorboard.compat.proto.summary_pb2 import Summary
from viewer_servers import HEAVY, Server

from lightning_saliency.record.summaries import summary

MANY = 18
"""Small runs beside those with a name."""

SHOWN = MANY + 4


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs: two to compare, small ones, a torn, a foreign and a newer one, and one without ours."""
    folder = tmp_path_factory.mktemp("logs")
    data.Run(folder / "one", masks=True).observe(6).close()
    data.Run(folder / "two", seed=1, stale=1).observe(5).close()
    for number in range(MANY):
        data.Run(folder / f"many/{number:02d}", seed=number).observe(1).close()
    torn = data.Run(folder / "torn").observe(2)
    torn.event(data.damaged("saliency", 30), 30).close()
    data.Run(folder / "elsewhere", hash="b" * 64).observe(2).close()
    made = summary("saliency", {}, data.observation(0, 0).encoded(), data.sheet().encoded())
    data.Run(folder / "newer").event(data.newer(made), 0).close()
    plain = data.Run(folder / "plain")
    plain.event(Summary(value=[Summary.Value(tag="loss", simple_value=1.0)]), 0).close()
    return folder


@pytest.fixture(scope="module")
def nothing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log directory that is empty at first."""
    return tmp_path_factory.mktemp("nothing")


@pytest.fixture(scope="module")
def addresses(
    tmp_path_factory: pytest.TempPathFactory, logs: Path, nothing: Path
) -> Iterator[dict[str, str]]:
    """By either loader, one under a prefix and where torch can't be imported; one of nothing."""
    words = tmp_path_factory.mktemp("words")
    slow = ("--load_fast=false", "--path_prefix=/deep/er")
    servers = {
        "fast": Server(logs, "--load_fast=true", words=words / "fast"),
        "slow": Server(logs, *slow, words=words / "slow", missing=HEAVY),
        "nothing": Server(nothing, "--load_fast=true", words=words / "nothing"),
    }
    try:
        found = {name: one.address() for name, one in servers.items()}
        for name in ("fast", "slow"):
            seen.wait(partial(shows_all, found[name]), f"the runs of {name}", 60)
        yield found
    finally:
        for one in servers.values():
            one.stop()


def shows_all(address: str) -> bool:
    """Whether the plugin knows every run already."""
    with urlopen(f"{address}data/plugin/saliency/index") as answer:
        return len(json.load(answer)["runs"]) == SHOWN


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    with seen.browser(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


@pytest.fixture
def tab(chromium: webdriver.Chrome, addresses: dict[str, str]) -> Iterator[seen.Tab]:
    """The tab of the fast one; at the end, nothing was complained of or asked of another host."""
    made = seen.Tab(chromium, addresses["fast"])
    made.complaints()
    made.requested()
    yield made
    assert made.complaints() == []
    hosts = {urlsplit(one).hostname for one in made.requested() if one.startswith("http")}
    assert hosts <= {"127.0.0.1"}
