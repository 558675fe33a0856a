"""The exported page in a browser, from a disk: the same viewer, which asks nobody for anything."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import viewer_browser as seen
import viewer_data as data
from selenium import webdriver

from lightning_saliency.reports.compare import compare
from lightning_saliency.reports.export import export

pytest_plugins = ["viewer_fixtures"]

SECOND = ".cell:nth-child(2) canvas"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("logs")
    data.Run(folder / "one", masks=True).observe(6).close()
    data.Run(folder / "<i>two", seed=1).observe(5).close()
    return folder


@pytest.fixture
def page(chromium: webdriver.Chrome) -> Iterator[seen.Tab]:
    """At its end, nothing was complained of, and the page itself was all that was asked for."""
    made = seen.Tab(chromium, "")
    chromium.get("about:blank")
    made.complaints()
    made.requested()
    yield made
    assert made.complaints() == []
    asked = {one.split("#")[0] for one in made.requested()} - {"about:blank", "data:,"}
    assert len(asked) == 1
    assert asked.pop().startswith("file://")


def opened(page: seen.Tab, file: Path, hash: str = "") -> seen.Tab:
    page.driver.get(file.as_uri() + hash)
    return page.settled()


def test_a_page_opens_from_a_disk(runs: Path, page: seen.Tab, tmp_path: Path) -> None:
    file = tmp_path / "a page.html"
    export([str(runs), "-o", str(file)])
    opened(page, file, "#run=one&monitor=saliency")
    assert page.drawn == "50"
    assert len(page.all(".cell canvas")) == data.N
    assert page.colours(SECOND) > 3
    assert page.menu("Run") == ["<i>two", "one"]
    assert "<i>left</i>" in page.text
    assert page.all("img, b, i:not(:empty)") == [], "names are text"
    newest = page.pixels(SECOND)
    page.press(seen.HOME).shows(0)
    assert page.pixels(SECOND) != newest
    page.press(seen.END).shows(50)
    assert page.pixels(SECOND) == newest
    page.pick("Beside", "<i>two").shows("50 40")
    page.pick("Show", "Difference B − A").shows("40")
    page.press("?")
    assert page.do("return performance.getEntriesByType('resource').length") == 0
    assert page.driver.title == "Saliency: <i>two, one"


def test_a_comparison_opens_on_both_runs(runs: Path, page: seen.Tab, tmp_path: Path) -> None:
    file = tmp_path / "both.html"
    compare([str(runs / "one"), str(runs / "<i>two"), "-o", str(file), "--method", "change"])
    opened(page, file)
    assert page.drawn == "40 40"
    assert page.do("return document.querySelector('select[aria-label=Method]').value") == "change"
    page.driver.get("about:blank")
    opened(page, file, "#run=one&monitor=saliency&method=gradient&step=20")
    assert page.drawn == "20", "a link into the page wins"


def test_a_page_could_not_ask_anybody(
    runs: Path, chromium: webdriver.Chrome, tmp_path: Path
) -> None:
    file = tmp_path / "page.html"
    export([str(runs), "-o", str(file)])
    page = opened(seen.Tab(chromium, ""), file)
    page.do(
        """
        window.refused = [];
        document.addEventListener("securitypolicyviolation", (event) =>
          window.refused.push(event.effectiveDirective));
        fetch("http://127.0.0.1:9/").catch(() => {});
        new Image().src = "http://127.0.0.1:9/a.png";
        document.body.append(Object.assign(document.createElement("script"), {text: "open()"}));
        """
    )
    wanted = {"connect-src", "img-src", "script-src-elem"}
    seen.wait(lambda: set(page.do("return window.refused")) == wanted, "three refusals")


def test_a_thinned_page_says_what_it_holds(runs: Path, page: seen.Tab, tmp_path: Path) -> None:
    file = tmp_path / "thin.html"
    export([str(runs), "-o", str(file), "--run=one", "--every=5"])
    opened(page, file)
    assert (
        "This page holds 5 of 6 observations" in page.text
    )  # 10 is the best, 20 and 30 have marks
    page.press(seen.LEFT).shows(30)


def test_a_page_that_was_cut_short_says_so(runs: Path, page: seen.Tab, tmp_path: Path) -> None:
    file = tmp_path / "whole.html"
    export([str(runs), "-o", str(file)])
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) * 9 // 10])
    page.driver.get(file.as_uri())
    words = seen.wait(lambda: page.text, "words")
    assert words.startswith("This page is not whole. Copy it anew.")
