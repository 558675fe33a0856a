"""A small part of the matrix of ``docs/harmless.py``, and that the whole leaves nothing out."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import pytest
from harmless_cells import BASELINE, FACTORS, SHARDED, Cell, impossible, product_of_all
from harmless_covering import alone, covering, matrix, meetings
from harmless_look import Result, look
from harmless_worker import results
from twin_runs import AVERAGING, SHARDS_ON_A_CPU

HERE = (
    "fit, 32-true, 1 process, eager, validate every 0.25",
    "fit, 32-true, 1 process, eager, validate every 4",
    "fit, 32-true, 1 process, eager, half the validation",
    "fit, 32-true, 1 process, eager, overfit",
    "fit, 32-true, 1 process, eager, fast_dev_run",
    "fit, 32-true, 1 process, eager, SWA",
    "fit, 32-true, 1 process, eager, frozen backbone",
    "fit, 64-true, 1 process, eager, checkpointing",
    "fit, bf16-mixed, 1 process, eager, tied weights",
    "fit, 64-true, 1 process, eager, accumulate 3",
    "fit, bf16-true, 1 process, eager, own train()",
    "fit, 32-true, 1 process, module.compile, plain",
    "validate, bf16-mixed, 1 process, eager, two loaders",
    "test, 32-true, 1 process, eager, plain",
    "test, 64-true, 1 process, eager, own train()",
)
IN_TWO = {
    "DDP": (
        "fit, 32-true, DDP, eager, accumulate 3",
        "fit, bf16-mixed, DDP unused, eager, SyncBatchNorm",
        "fit, 32-true, DDP static, eager, EMA",
        "validate, 64-true, DDP, eager, two loaders",
    ),
    "FSDP": (
        "fit, 32-true, FSDP1, eager, accumulate 3",
        "fit, bf16-mixed, FSDP2, eager, tied weights",
        "test, 32-true, FSDP1, eager, plain",
    ),
}


def possible(name: str) -> bool:
    """Whether these releases of torch and Lightning run a cell."""
    return impossible(Cell.named(name), cuda=False) is None


@pytest.mark.parametrize("name", HERE)
def test_the_training_is_the_one_without_the_monitor(name: str) -> None:
    result = look(Cell.named(name))
    assert result.verdict == "same", result


@pytest.mark.parametrize("strategy", IN_TWO)
def test_it_is_so_on_every_rank(strategy: str, tmp_path: Path) -> None:
    names, log = [name for name in IN_TWO[strategy] if possible(name)], tmp_path / "log"
    every = list(results([Cell.named(name) for name in names], 2, log, patience=120))
    wrong = [result for result in every if result.verdict != "same"]
    assert not wrong, (wrong, log.read_text()[-2000:])
    assert [result.cell for result in every] == [str(Cell.named(name)) for name in names]


CPU = [cell for cell, reason in product_of_all(cuda=False) if reason is None]


def test_every_value_stands_alone_against_the_baseline() -> None:
    single = alone(CPU)
    values = {value for factor in FACTORS.values() for value in factor}
    met = {value for cell in single for value in vars(cell).values()}
    elsewhere = {"16-mixed", "SyncBatchNorm"}  # on a GPU, and in a second process
    elsewhere |= set() if SHARDS_ON_A_CPU else set(SHARDED)
    elsewhere |= {"EMA"} if AVERAGING is None else set()
    assert met == values - elsewhere
    assert BASELINE in single
    assert len(single) == len(met) - len(FACTORS) + 1


@pytest.mark.parametrize("cuda", [False, True])
def test_every_two_values_that_can_meet_do(cuda: bool) -> None:
    possible = [cell for cell, reason in product_of_all(cuda=cuda) if reason is None]
    chosen = covering(possible)
    assert set(chosen) <= set(possible)
    assert len(set(chosen)) == len(chosen) < 300

    def pairs(cells: list[Cell]) -> set[tuple[tuple[str, str], ...]]:
        return {pair for cell in cells for pair in combinations(vars(cell).items(), 2)}

    assert pairs(chosen) == pairs(possible)
    assert {meeting for cell in chosen for meeting in meetings(cell)} == {
        meeting for cell in possible for meeting in meetings(cell)
    }, "under each verb"


def test_the_choice_is_the_same_each_time() -> None:
    assert covering(CPU) == covering(CPU[::-1])
    assert len(matrix()) == len(set(matrix()))


def test_a_cell_is_named_by_its_values() -> None:
    for cell in matrix():
        assert Cell.named(str(cell)) == cell
    with pytest.raises(ValueError, match="loop='plian' is not one of plain,"):
        Cell.named("fit, 32-true, DDP, eager, plian")


def test_what_ends_or_hangs_is_told(tmp_path: Path) -> None:
    raising, fine = Cell(precision="16-mixed"), Cell(verb="test")
    log = tmp_path / "log"
    first, second = results([raising, fine], 1, log)
    assert first.verdict == "raised"
    assert "without the monitor" in first.error
    assert second.verdict == "same", "the next one runs in a new process"
    (hung,) = results([fine], 1, log, patience=0.01)
    assert hung.verdict == "hung"
    assert "rank [0]" in hung.error


def test_verdicts() -> None:
    assert Result("a", observed=True).verdict == "same"
    assert Result("a", observed=False).verdict == "blind", "it did not look and did not say so"
    assert Result("a", observed=True, failures=1.0).verdict == "blind"
    assert Result("a", off="it keeps off").verdict == "off"
    assert Result("a", {"weights": 1.0}, off="it keeps off").verdict == "differs"
    joined = Result("a", {"weights": 1.0}, observed=True).joined(Result("a", {"weights": 2.0}))
    assert joined.gaps == {"weights": 2.0}
    assert not joined.observed
    assert Result.of_line(joined.line()) == joined
