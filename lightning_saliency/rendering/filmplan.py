"""What a filmstrip shows where: which observations, and the geometry, without a pixel drawn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lightning_saliency.rendering.arrays import Bytes, Flags
from lightning_saliency.rendering.cells import cell_size
from lightning_saliency.rendering.layout import Tiling, misfit
from lightning_saliency.rendering.legend import MARGIN

WIDEST = 1800
LARGEST_CELL = 112
SIDE = 124
"""Pixels of the captions at the left of a row."""
HEADING = 24
"""Pixels of a line of the column headings."""
DRIFT = 46
"""Pixels of the bars of drift."""
_SMALLEST_CELL = 64
_TYPICAL_HEAD = 90


@dataclass(frozen=True)
class FilmPlan:
    """The geometry of a filmstrip without its head.

    Attributes:
        strip: One group of rows: the pictures and the frames are its blocks, row by row.
        probes: Probes drawn.
        groups: Groups of rows side by side.
        top: Pixels of the column headings above the rows.
    """

    strip: Tiling
    probes: int
    groups: int
    top: int

    @property
    def group_width(self) -> int:
        """Pixels of a group with its captions and the space before the next one."""
        return SIDE + self.strip.size[1] + MARGIN

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.top + self.strip.size[0], self.groups * self.group_width - MARGIN

    def corner(self, probe: int, column: int) -> tuple[int, int]:
        """Top and left of a cell; what leads a row comes before its observations."""
        group, row = divmod(probe, self.strip.rows)
        top, left = self.strip.corner(row * self.strip.columns + column)
        return self.top + top, group * self.group_width + SIDE + left


def columns_shown(count: int, most: int) -> list[int]:
    """Return at most `most` of `count` observations: the first, the newest, and evenly between."""
    if most == 1:
        return [count - 1]
    return [round(place) for place in np.linspace(0, count - 1, min(count, most))]


def film_plan(
    pictures: Bytes,
    headings: Sequence[Sequence[str]],
    cell: int | None,
    *,
    with_drift: bool = False,
    lead: int = 1,
    under: int = 0,
) -> FilmPlan:
    """Choose the number of groups, and the size of the cells where it is free, for 2:1.

    `lead` cells come before the observations of a row: the picture. Each cell has `under` more
    pixels below it, for words.
    """
    probes, columns = len(pictures), len(headings) + lead
    top = HEADING * max(map(len, headings)) + (DRIFT if with_drift else 0)
    plans = []
    for groups in range(1, probes + 1):
        side = cell if cell is not None else _fitting_cell(groups, columns, pictures)
        if groups > 1 and (side is None or -(-probes // -(-probes // groups)) < groups):
            continue
        height, width = cell_size(side or 28, pictures)
        strip = Tiling(height + under, width, -(-probes // groups), columns)
        plan = FilmPlan(strip, probes, groups, top)
        if groups == 1 or plan.size[1] <= WIDEST - 2 * MARGIN:
            plans.append(plan)
    return min(plans, key=lambda plan: misfit(*plan.size, extra=_TYPICAL_HEAD))


def _fitting_cell(groups: int, columns: int, pictures: Bytes) -> int | None:
    """Return the largest cell with which the picture is at most 1800 pixels wide."""
    least = _SMALLEST_CELL if groups > 1 else 16
    for cell in range(LARGEST_CELL, least - 1, -1):
        width = cell_size(cell, pictures)[1]
        group = SIDE + columns * Tiling(1, width, 1, 1).across + MARGIN
        if groups * group + MARGIN <= WIDEST:
            return cell
    return None


def flips_shown(flips: Flags | None, shown: Sequence[int]) -> Flags:
    """(columns, P): any flip after the column before, up to this one."""
    if flips is None:
        return np.zeros((len(shown), 0), dtype=bool)
    starts = [0, *(index + 1 for index in shown[:-1])]
    spans = zip(starts, shown, strict=True)
    return np.stack([flips[start : last + 1].any(0) for start, last in spans])


def drift_shown(
    drift: Sequence[float | None] | None, shown: Sequence[int]
) -> list[float | None] | None:
    """Return the largest drift after the column before, up to this one."""
    if drift is None:
        return None
    largest: list[float | None] = []
    start = 0
    for last in shown:
        known = [value for value in drift[start : last + 1] if value is not None]
        finite = [value for value in known if math.isfinite(value)]
        largest.append(max(finite) if finite else None)
        start = last + 1
    return largest
