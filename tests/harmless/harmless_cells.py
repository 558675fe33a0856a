"""The cells of the matrix: each one way to train, and what no cell can be."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import astuple, dataclass
from itertools import product

import torch
from twin_runs import AVERAGING, SHARDS_ON_A_CPU

VERBS = ("fit", "validate", "test")
PRECISIONS = ("32-true", "bf16-mixed", "bf16-true", "64-true", "16-mixed")
RANKS = ("1 process", "DDP", "DDP unused", "DDP static", "FSDP1", "FSDP2")
COMPILES = ("eager", "torch.compile", "module.compile")
LOOPS = (
    "plain",
    "accumulate 3",
    "validate every 0.25",
    "validate every 4",
    "two loaders",
    "no validation",
    "half the validation",
    "overfit",
    "fast_dev_run",
    "no sanity check",
    "clipping",
    "manual",
    "EMA",
    "SWA",
    "frozen backbone",
    "checkpointing",
    "tied weights",
    "SyncBatchNorm",
    "own train()",
)
FACTORS = {
    "verb": VERBS,
    "precision": PRECISIONS,
    "ranks": RANKS,
    "compile": COMPILES,
    "loop": LOOPS,
}
"""Factor → its values; the first of each is the baseline."""

INDUCTOR, SPAWN = "inductor", "DDP spawn"
SLOW = {"compile": INDUCTOR, "ranks": SPAWN}
"""Values that take ten times as long as others: in a few cells of their own."""

SHARDED = ("FSDP1", "FSDP2")

OF_TRAINING = (
    "accumulate 3",
    "validate every 0.25",
    "validate every 4",
    "overfit",
    "no sanity check",
    "clipping",
    "manual",
    "EMA",
    "SWA",
)


@dataclass(frozen=True)
class Cell:
    """One way to train."""

    verb: str = VERBS[0]
    precision: str = PRECISIONS[0]
    ranks: str = RANKS[0]
    compile: str = COMPILES[0]
    loop: str = LOOPS[0]

    def __str__(self) -> str:
        return " · ".join(astuple(self))

    @classmethod
    def named(cls, name: str) -> Cell:
        """The cell of this name, which may be one by a human hand."""
        values = [value.strip() for value in name.replace("·", ",").split(",")]
        for value, (factor, known) in zip(values, FACTORS.items(), strict=True):
            if value not in (*known, SLOW.get(factor)):
                raise ValueError(f"{factor}={value!r} is not one of {', '.join(known)}.")
        return cls(*values)

    @property
    def processes(self) -> int:
        return 1 if self.ranks == "1 process" else 2

    @property
    def place(self) -> tuple[int, ...]:
        """How many of its values are not those of the baseline, then which ones these are."""
        values = zip(astuple(self), FACTORS.values(), strict=True)
        indices = [known.index(value) for value, known in values]
        return (sum(index > 0 for index in indices), *indices)


BASELINE = Cell()


def impossible(cell: Cell, *, cuda: bool | None = None) -> str | None:
    """Why there is no such training, if that is so: who refuses it, or what it would mean."""
    cuda = torch.cuda.is_available() if cuda is None else cuda
    return meaningless(cell) or refused(cell, cuda=cuda)


def meaningless(cell: Cell) -> str | None:
    """Why nobody could want this, if that is so."""
    if cell.verb != "fit" and cell.loop in OF_TRAINING:
        return f"{cell.verb} does not train, so it has no {', '.join(OF_TRAINING)}"
    if cell.verb != "fit" and cell.loop == "no validation":
        return f"{cell.verb} without batches runs nothing"
    if cell.loop == "SyncBatchNorm" and cell.ranks == "1 process":
        return "SyncBatchNorm has one process to synchronise with: itself"
    if cell.loop == "SyncBatchNorm" and cell.verb != "fit":
        return f"{cell.verb} does not synchronise: Lightning converts BatchNorm in fit alone"
    return None


def refused(cell: Cell, *, cuda: bool) -> str | None:
    """What of torch or Lightning refuses to run this, if that is so; seen by running it."""
    if cell.precision == "64-true" and cell.ranks in SHARDED:
        return f"64-true: Lightning refuses it under {cell.ranks}"
    if cell.compile == "torch.compile" and cell.ranks == "FSDP2":
        return "torch.compile(module): Lightning refuses it under FSDP2"
    if cell.loop == "accumulate 3" and cell.ranks == "DDP static":
        return "accumulate 3: DDP with a static graph refuses a first backward pass that waits"
    if cell.ranks in SHARDED and not cuda and not SHARDS_ON_A_CPU:
        return f"{cell.ranks}: this release of torch has it on a GPU alone"
    if cell.loop == "EMA" and AVERAGING is None:
        return "EMA: this release of Lightning has no average of weights"
    if cell.loop == "EMA" and cell.ranks in SHARDED:
        return f"EMA: Lightning's average copies whole weights, {cell.ranks} has parts of them"
    if cell.loop == "SWA" and cell.ranks in SHARDED:
        return f"SWA: Lightning's average copies whole weights, {cell.ranks} has parts of them"
    if cell.loop == "manual" and cell.ranks == "FSDP1":
        return "manual: FSDP1 refuses a backward pass in its forward pass, where Lightning has it"
    if cell.precision == "16-mixed" and not cuda:
        return "16-mixed: Lightning refuses it without a GPU"
    if cell.precision == "16-mixed" and cell.ranks != "1 process":
        return "16-mixed: the matrix has one GPU for one process"
    if cell.precision == "16-mixed" and cell.loop == "SWA":
        return "SWA: its last epoch has no gradients, which a gradient scaler refuses"
    return None


def product_of_all(*, cuda: bool | None = None) -> Iterator[tuple[Cell, str | None]]:
    """Every cell there could be, and why not."""
    for values in product(*FACTORS.values()):
        yield Cell(*values), impossible(Cell(*values), cuda=cuda)
