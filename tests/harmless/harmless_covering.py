"""Which cells to run: each value alone, and every possible pair of values under each verb."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple
from itertools import combinations

from harmless_cells import FACTORS, INDUCTOR, SPAWN, Cell, product_of_all

Meeting = tuple[tuple[str, str], ...]
"""Factors, each with a value."""

SLOW_ONES = (
    Cell(compile=INDUCTOR),
    Cell(compile=INDUCTOR, precision="bf16-mixed", loop="accumulate 3"),
    Cell(compile=INDUCTOR, ranks="DDP", loop="EMA"),
    Cell(ranks=SPAWN),
    Cell(ranks=SPAWN, precision="bf16-mixed", loop="accumulate 3"),
    Cell(ranks=SPAWN, loop="SWA"),
    Cell(ranks=SPAWN, loop="manual"),
    Cell(ranks=SPAWN, verb="validate"),
    Cell(ranks=SPAWN, verb="test"),
)
"""Run besides: with the compiler that people use, and in processes that end with the run."""


def meetings(cell: Cell) -> Iterator[Meeting]:
    """Every two values that meet in a cell, with the verb under which they do."""
    verb, *others = zip(FACTORS, astuple(cell), strict=True)
    return ((verb, *pair) for pair in combinations(others, 2))


def alone(possible: Iterable[Cell]) -> list[Cell]:
    """The baseline, and what differs from it by one value."""
    return [cell for cell in sorted(possible, key=lambda cell: cell.place) if cell.place[0] <= 1]


def covering(possible: Sequence[Cell]) -> list[Cell]:
    """`alone`, and as few further cells as a greedy search finds to have every meeting in one.

    The same for the same cells: ties go to the cell with most values of the baseline, which is
    the cheapest to run and the easiest to understand, then to the first.
    """
    chosen = alone(possible)
    bit: dict[Meeting, int] = {}
    masks = {
        cell: sum(1 << bit.setdefault(meeting, len(bit)) for meeting in meetings(cell))
        for cell in sorted(possible, key=lambda cell: cell.place)
    }
    missing = (1 << len(bit)) - 1
    for cell in chosen:
        missing &= ~masks[cell]
    while missing:
        best = max(masks, key=lambda cell: (masks[cell] & missing).bit_count())
        chosen.append(best)
        missing &= ~masks[best]
    return chosen


def matrix() -> list[Cell]:
    """All cells that are run."""
    possible = [cell for cell, reason in product_of_all() if reason is None]
    return [*covering(possible), *SLOW_ONES]
