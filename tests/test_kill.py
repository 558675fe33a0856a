"""A run that was killed and resumed shows the curves of one that was not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from kills import (
    EPOCHS,
    OBSERVATIONS,
    Comparison,
    Points,
    alike,
    chosen,
    compared,
    fit,
    history,
    killed,
    moments,
    recorded,
    shown,
)
from twin_runs import gap

pytestmark = [
    # The frozen BatchNorm.
    pytest.mark.filterwarnings("ignore:Found 1 module.s. in eval mode at the start of training"),
    # A resumed fit finds its checkpoints.
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
    # The second half of an epoch repeats the first: see `fit`.
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before"),
]

DRIFTS = ("saliency/gradient/drift_previous", "saliency/mine/drift_previous")


@pytest.fixture(scope="module")
def whole(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Points, list[str], dict[str, torch.Tensor], list[Any]]:
    """An uninterrupted run: its curves, the kinds of its moments, its weights, its record."""
    folder = tmp_path_factory.mktemp("whole")
    tell, kinds = moments()
    model = fit(folder, tell)
    curves = shown(folder)
    assert alike(curves, recorded(folder))
    for tag in DRIFTS:
        assert [step for step, _ in curves[tag]] == [2, 5, 8, 11, 14, 17]
    assert kinds.count("observation") == OBSERVATIONS
    assert kinds.count("training") == 6 * EPOCHS
    assert kinds.count("validated") == 2 * EPOCHS
    seen = history(folder)
    assert len(seen) == OBSERVATIONS + 2
    return curves, kinds, model.state_dict(), seen


# Between the numbers and their checkpoint; while it trains; before there is any checkpoint.
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_killed_run_goes_on_as_if_nothing_had_happened(
    whole: tuple[Points, list[str], dict[str, torch.Tensor], list[Any]], seed: int, tmp_path: Path
) -> None:
    curves, kinds, weights, seen = whole
    moment = chosen(kinds, seed)
    assert killed(tmp_path, moment) == kinds[moment]
    model = fit(tmp_path)
    assert gap(model.state_dict(), weights) == 0
    found = shown(tmp_path)
    points = sum(len(curves[tag]) for tag in DRIFTS)
    assert compared(found, curves) == Comparison(points, missing=0, duplicate=0, gap=0.0)
    assert alike(found, curves)
    assert alike(found, recorded(tmp_path))
    assert history(tmp_path) == seen


def test_a_torn_end_is_read_and_a_damaged_middle_is_not(
    whole: tuple[Points, list[str], dict[str, torch.Tensor], list[Any]], tmp_path: Path
) -> None:
    """The reading by which the kills are judged is itself no judge that never says no."""
    fit(tmp_path)
    (path,) = tmp_path.glob("*tfevents*")
    content = path.read_bytes()
    assert compared(shown(tmp_path), whole[0]).gap == 0.0
    path.write_bytes(content[:-3])
    recorded(tmp_path)
    path.write_bytes(content[:100] + bytes([content[100] ^ 1]) + content[101:])
    with pytest.raises(AssertionError):
        recorded(tmp_path)


def test_gaps_and_duplicates_are_seen() -> None:
    line = [(0, 0.5), (1, 0.25)]
    expected: Points = {"saliency/a/drift_previous": line}
    tag = "saliency/a/drift_previous"
    assert compared({tag: line}, expected) == Comparison(2, 0, 0, 0.0)
    assert compared({tag: line[:1]}, expected) == Comparison(1, 1, 0, 0.0)
    assert compared({tag: [*line, line[1]]}, expected) == Comparison(3, 0, 1, 0.0)
    assert compared({tag: [*line, (2, 0.0)]}, expected) == Comparison(3, 0, 1, 0.0)
    assert compared({tag: [line[0], (1, 0.75)]}, expected) == Comparison(2, 0, 0, 0.5)
    assert compared({}, expected) == Comparison(0, 2, 0, 0.0)
