"""What is remembered: thinning keeps first, newest and every jump; a checkpoint gives it back."""

from __future__ import annotations

import io
from itertools import pairwise

import pytest
import torch

from lightning_saliency.memory import COLUMNS, Column, Memory
from lightning_saliency.probes import Fingerprint
from lightning_saliency.snapshot import Series, Snapshot

PROBES = Fingerprint.of(torch.zeros(4, 1, 8, 8), None, tuple("abcd"))


def snapshot(step: int, methods: tuple[str, ...] = ("a",)) -> Snapshot:
    generator = torch.Generator().manual_seed(step)
    series = {
        name: Series(
            torch.rand(4, 8, 8, generator=generator).half(),
            torch.randn(4, 3, 8, 8, generator=generator).half(),
            torch.rand(4, generator=generator),
        )
        for name in methods
    }
    return Snapshot(step, f"epoch {step}", series, torch.arange(4))


def column(index: int, drift: float = 0.0) -> Column:
    maps = {"a": torch.full((4, 8, 8), float(index)).half()}
    return Column(index, f"epoch {index}", maps, torch.arange(4), {"a": drift})


def after(count: int, drifts: dict[int, float] | None = None) -> Memory:
    memory = Memory(torch.arange(4), PROBES)
    for index in range(count):
        memory = memory.after(snapshot(index), column(index, (drifts or {}).get(index, 0.0)), {})
    return memory


@pytest.mark.parametrize("count", [1, 2, 15, 16, 17, 18, 31, 32, 33, 100, 257])
def test_columns_keep_the_first_and_the_newest_and_an_even_choice(count: int) -> None:
    indices = [one.index for one in after(count).columns]
    assert indices[0] == 0
    assert indices[-1] == count - 1
    assert len(indices) == min(count, len(indices)) <= COLUMNS
    gaps = {b - a for a, b in pairwise(indices[:-1])}
    assert len(gaps) <= 1, "the columns between are evenly spaced"
    if count >= COLUMNS:
        assert len(indices) > COLUMNS // 2


@pytest.mark.parametrize("jump", [1, 7, 33, 38, 39])
def test_a_jump_is_never_thinned_away(jump: int) -> None:
    columns = after(40, {jump: 0.9}).columns
    assert max(one.drift["a"] for one in columns) == 0.9
    holder = next(one for one in columns if one.drift["a"] == 0.9)
    assert holder.index >= jump, "a column tells of what happened up to it"
    before = max((one.index for one in columns if one.index < holder.index), default=-1)
    assert before < jump


def test_an_undefined_drift_hides_no_number() -> None:
    columns = after(40, {33: float("nan"), 34: 0.5}).columns
    assert 0.5 in [one.drift["a"] for one in columns]


def test_snapshots_are_first_previous_and_reference() -> None:
    memory = after(3)
    assert {name: one.step for name, one in memory.snapshots.items()} == {"first": 0, "previous": 2}
    marked = memory.with_reference(memory.snapshots["previous"]).after(snapshot(3), column(3), {})
    steps = {name: one.step for name, one in marked.snapshots.items()}
    assert steps == {"first": 0, "previous": 3, "reference": 2}
    assert marked.count == 4


@pytest.mark.parametrize("count", [1, 2, 20])
def test_a_checkpoint_gives_all_of_it_back(count: int) -> None:
    memory = after(count)
    file = io.BytesIO()
    torch.save(memory.state(), file)
    file.seek(0)
    back = Memory.from_state(torch.load(file, weights_only=True))
    assert back.snapshots.keys() == memory.snapshots.keys()
    for name, one in memory.snapshots.items():
        series, other = one.series["a"], back.snapshots[name].series["a"]
        for field in ("map", "signed", "peak"):
            assert torch.equal(getattr(series, field), getattr(other, field))
        assert (one.step, one.label) == (back.snapshots[name].step, back.snapshots[name].label)
    assert [one.index for one in back.columns] == [one.index for one in memory.columns]
    assert torch.equal(back.columns[-1].maps["a"], memory.columns[-1].maps["a"])
    assert (back.count, back.stride) == (memory.count, memory.stride)


def test_what_is_one_snapshot_is_written_once() -> None:
    once, twice = after(1).state(), after(2).state()
    assert len(once["snapshots"]) == 1
    assert len(twice["snapshots"]) == 2
    back = Memory.from_state(once)
    assert back.snapshots["first"] is back.snapshots["previous"]
    moved = back.to(torch.device("cpu"))
    assert moved.snapshots["first"] is moved.snapshots["previous"]


def test_a_method_that_changed_is_forgotten_alone() -> None:
    two = snapshot(0, ("a", "b"))
    memory = Memory(torch.arange(4), PROBES).after(two, column(0), {}).without({"a"})
    assert list(memory.snapshots["first"].series) == ["b"]
    assert memory.columns[0].maps == {}
    assert memory.without(()) is memory
