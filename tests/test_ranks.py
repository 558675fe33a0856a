"""Several ranks see what one sees; a failure of one is a failure of all, and ends nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from twin_runs import SHARDS_ON_A_CPU
from two_ranks import SCENES, Found, found, play

from lightning_saliency.errors import ConfigurationError
from lightning_saliency.ranks import Ranks

KINDS = ("ddp", "fsdp1", "fsdp2") if SHARDS_ON_A_CPU else ("ddp",)
OF_ONE_KIND = {"stream", "advised", "spent"}

Played = dict[tuple[str, str], tuple[Found, Found]]


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Played:
    """What both ranks found in each scene under each strategy."""
    results: Played = {}
    for kind in KINDS:
        folder = tmp_path_factory.mktemp(kind)
        scenes = [name for name in SCENES if kind == "ddp" or name not in OF_ONE_KIND]
        play(kind, scenes, folder)
        for name in scenes:
            results[kind, name] = found(folder, name, 0), found(folder, name, 1)
    return results


def largest_gap(one: dict[Any, Tensor], other: dict[Any, Tensor]) -> float:
    """Relative to the largest value of each tensor."""
    assert list(one) == list(other)
    return max(
        float((one[key] - other[key]).abs().max() / other[key].abs().max().clamp(min=1e-30))
        for key in one
    )


def of_start(found: Found) -> dict[str, Tensor]:
    """The record of the untrained network's maps: later on more ranks have seen more data."""
    return {name: one[0].nan_to_num(0) for name, one in found["recorded"].items() if "maps" in name}


@pytest.mark.parametrize("count", [1, 3, 7, 64])
@pytest.mark.parametrize("kind", KINDS)
def test_two_ranks_see_what_one_sees(kind: str, count: int, played: Played, tmp_path: Path) -> None:
    first, second = played[kind, f"probes {count}"]
    single = SCENES[f"probes {count}"]("one", tmp_path)
    assert len(first["rows"]["predictions",]) == count
    assert largest_gap(first["rows"], single["rows"]) < 1e-5
    assert largest_gap(second["rows"], first["rows"]) == 0
    assert len(first["concepts"]["concepts"].unique()) > 9, "pictures that are not plain"
    assert largest_gap(first["concepts"], single["concepts"]) < 0.01, "a byte more or less"
    assert largest_gap(second["concepts"], first["concepts"]) == 0
    clocks = {"saliency/seconds", "saliency/overhead"}
    assert clocks < first["logged"].keys()
    assert second["logged"] == pytest.approx(first["logged"], abs=0, nan_ok=True)
    assert first["logged"]["saliency/failures"] == 0
    assert (first["files"], second["files"]) == (1, 1), "one event file, seen by both"
    for name, one in single["recorded"].items():
        assert first["recorded"][name].shape[1:] == one.shape[1:], "of all probes, by rank 0"
    assert largest_gap(of_start(first), of_start(single)) < 1 / 127


@pytest.mark.parametrize("scene", ["probes 1", "probes 64", "a method", "a target", "memory"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_training_is_the_one_without_a_monitor(kind: str, scene: str, played: Played) -> None:
    for rank in range(2):
        assert played[kind, scene][rank]["weights"] == played[kind, "alone"][rank]["weights"]


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_that_wait_are_left_alone(kind: str, played: Played) -> None:
    for one in played[kind, "accumulated"]:
        assert one["same"]
        assert one["logged"]["saliency/gradient/drift_previous"] > 0


@pytest.mark.parametrize("kind", KINDS)
def test_audits_are_made_by_one_for_all_and_leave_what_waits_alone(
    kind: str, played: Played
) -> None:
    first, second = played[kind, "audited"]
    assert first["same"]
    assert second["same"]
    assert second["logged"] == pytest.approx(first["logged"], abs=0, nan_ok=True)
    floors = {name for name in first["logged"] if name.startswith("saliency/gradient/floor_")}
    of_weights = {f"saliency/gradient/floor_{rung}" for rung in ("step", "redrawn")}
    assert first["logged"]["saliency/gradient/floor_repeat"] == 0
    assert floors.isdisjoint(of_weights) == (kind != "ddp"), "sharded weights stay"
    assert ("saliency/gradient/sanity" in first["logged"]) == (kind == "ddp")
    assert "saliency/gradient/insertion" in first["logged"]
    assert first["logged"]["saliency/failures"] == 0


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_called_by_name_is_called_through_the_wrapper(kind: str, played: Played) -> None:
    named, plain = played[kind, "by name"][0], played[kind, "probes 3"][0]
    assert largest_gap(named["rows"], plain["rows"]) == 0


@pytest.mark.parametrize("scene", ["a method", "a target"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_failure_on_one_rank_is_told_once_and_both_go_on(
    kind: str, scene: str, played: Played
) -> None:
    first, second = played[kind, scene]
    (told,) = first["told"]
    assert "on rank 1: " in told
    assert "boom" in told
    assert second["told"] == [], "the rank that writes no log says nothing"
    assert first["logged"]["saliency/failures"] == second["logged"]["saliency/failures"] == 2


@pytest.mark.parametrize("kind", KINDS)
def test_memory_that_runs_out_on_one_rank_makes_chunks_smaller(kind: str, played: Played) -> None:
    for one in played[kind, "memory"]:
        assert one["told"] == []
        assert one["logged"]["saliency/failures"] == 0
        assert "saliency/gradient/drift_previous" in one["logged"]


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_that_is_wanted_is_raised_on_both(kind: str, played: Played) -> None:
    first, second = (one["error"] for one in played[kind, "raise"])
    assert first.startswith("ObservationError: SaliencyMonitor")
    assert "on rank 1" in first
    assert second.startswith("ObservationError: SaliencyMonitor")
    assert "boom" in second


@pytest.mark.parametrize("kind", KINDS)
def test_what_cannot_work_on_one_rank_starts_on_none(kind: str, played: Played) -> None:
    first, second = (one["error"] for one in played[kind, "from the start"])
    assert first.startswith("ConfigurationError: on rank 1: ")
    assert second.startswith("ConfigurationError: methods: 'mine' raised KeyError: 'boom'")


@pytest.mark.parametrize("kind", KINDS)
def test_a_method_that_one_rank_cannot_bind_starts_on_none(kind: str, played: Played) -> None:
    first, second = (one["error"] for one in played[kind, "unbound"])
    assert "on rank 1: KeyError: 'boom'" in first
    assert second == "KeyError: 'boom'"


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_decided_by_numbers_is_what_rank_zero_decides(kind: str, played: Played) -> None:
    first, second = played[kind, "unlike"]
    assert first["layers"] == second["layers"] == ("features", "features")
    assert first["folds"] == second["folds"]
    assert [fold.cut for fold in first["folds"]] == ["features"]
    assert first["counts"] == second["counts"] == (2, 2, 2)
    assert first["labels"].equal(second["labels"])
    assert first["logged"]["saliency/failures"] == 0


def test_of_a_stream_rank_zeros_examples_are_watched(played: Played, tmp_path: Path) -> None:
    first, second = played["ddp", "stream"]
    single = SCENES["stream"]("one", tmp_path)
    assert largest_gap(first["rows"], single["rows"]) < 1e-5
    assert largest_gap(second["rows"], first["rows"]) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_fit_logs_what_an_uninterrupted_one_does(kind: str, played: Played) -> None:
    for one in played[kind, "resumed"]:
        kept = {name for name in one["whole"] if "seconds" not in name and "overhead" not in name}
        assert "saliency/cam/drift_first" in kept
        for name in kept:
            assert one["resumed"][name] == pytest.approx(one["whole"][name], abs=0, nan_ok=True)


def test_nobody_is_advised_to_average_what_is_equal(played: Played) -> None:
    told = played["ddp", "advised"][0]["told"]
    assert any("sync_dist=True" in text and "val_loss" in text for text in told), "as ever"
    assert not any("saliency/" in text for text in told)


def test_rank_zero_keeps_the_budget_for_all(played: Played) -> None:
    assert [one["count"] for one in played["ddp", "spent"]] == [2, 2]


@pytest.mark.parametrize(("count", "size"), [(1, 2), (3, 2), (7, 3), (64, 8), (5, 7), (2, 2)])
def test_shares_are_equally_large_and_leave_nothing_out(count: int, size: int) -> None:
    shares = [Ranks(rank, size).share(count) for rank in range(size)]
    assert len({len(share) for share in shares}) == 1
    assert list(dict.fromkeys(index for share in shares for index in share)) == list(range(count))
    assert [index for share in shares for index in share][:count] == list(range(count))
    assert Ranks(0, size, sharded=True).share(count) == list(range(count))


def test_one_rank_needs_nobody() -> None:
    ranks = Ranks()
    rows = {"a": torch.ones(3)}
    assert ranks.together(rows, 3) == rows
    assert ranks.of_first(rows) == rows
    assert ranks.made_by_first(lambda: 5) == 5
    with pytest.raises(ConfigurationError, match="mine"), ranks.agreeing():
        raise ConfigurationError("mine")
