"""Cell mass: how a map's magnitude is shared out over a coarse grid.

Maps (N, *spatial) become shares of few cells, and those become sums per class which add up over
chunks, ranks and days: what a chart of an observation needs is a few hundred numbers, whatever the
number of probes and the size of their maps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_saliency.errors import ConfigurationError
from lightning_saliency.measures.numeric import averaged, defined, floating, scaled

CELLS = 7
"""Cells per side: on 28 × 28 digits a cell is 4 × 4, on 224 × 224 photographs 32 × 32."""

_UNIT = 2.0**40


def cell_grid(spatial: Sequence[int], cells: int = CELLS) -> tuple[int, ...]:
    """The cells along each side of a map: `cells`, or one per pixel where the map has fewer.

    Raises:
        ConfigurationError: fewer than 2 cells.
    """
    if cells < 2:
        raise ConfigurationError(
            f"cells={cells}: mass can only move between at least 2 cells per side; "
            f"{CELLS} is the default."
        )
    return tuple(min(cells, side) for side in spatial)


def cell_mass(maps: Tensor, cells: int = CELLS) -> Tensor:
    """The share of each cell in a probe's map.

    Exact where cells do not divide a side: a pixel on an edge counts by its overlap.

    Args:
        maps: `(N, *spatial)`, one to three spatial dimensions, signed or not.
        cells: per side.

    Returns:
        `(N, C)` float32 (float64 if given), 0 to 1, each row of sum 1, the cells in the order of
        `cell_grid`, last side fastest; a row of NaN where the map is constant or not finite.

    Raises:
        ConfigurationError: no or more than three spatial dimensions, or fewer than 2 cells.
    """
    if not 2 <= maps.ndim <= 4:
        raise ConfigurationError(
            f"maps of shape {tuple(maps.shape)}: expected (N, *spatial) with one to three spatial "
            "dimensions; reduce channels first, as every method's `map` does."
        )
    grid = cell_grid(maps.shape[1:], cells)
    # Scaled first: maps of size 1e-30 keep their digits, and huge ones their sum.
    rows = scaled(floating(maps).flatten(1).abs()).view(maps.shape)
    masses = averaged(rows, grid).flatten(1)
    masses = masses / masses.sum(1, keepdim=True)
    return masses.masked_fill(~defined(maps)[:, None], float("nan"))


@dataclass(frozen=True)
class CellSums:
    """Sums of squared cell masses per class. `a + b` is what all probes of both would have given.

    Whole numbers in units of 2⁻⁴⁰: their sum does not depend on the order, so neither the cut into
    chunks nor the number of ranks shows in a chart. Enough for 8 million probes.

    Attributes:
        count: `(K,)` int64, probes of each class whose map is defined.
        squared: `(K, C)` int64, the sum of the squares of their masses.
    """

    count: Tensor
    squared: Tensor

    @classmethod
    def of(cls, masses: Tensor, classes: Tensor, number: int) -> CellSums:
        """Add up the masses `(N, C)` of probes of `classes` `(N,)`, out of `number` classes.

        Rows of NaN, and classes that are not among 0 … `number` − 1, are left out.
        """
        known = masses.isfinite().all(1) & (classes >= 0) & (classes < number)
        # Left out by a row of its own, since a choice of rows would wait for the device.
        rows = torch.where(known, classes, number)
        squares = torch.where(known[:, None], masses, 0).square()

        def added(values: Tensor) -> Tensor:
            empty = values.new_zeros((number + 1, *values.shape[1:]), dtype=torch.int64)
            return empty.index_add_(0, rows, values.long())[:number]

        return cls(added(known), added((squares * _UNIT).round()))

    def __add__(self, other: CellSums) -> CellSums:
        return CellSums(self.count + other.count, self.squared + other.squared)

    def groups(self) -> Tensor:
        """What a chart follows: the root mean square of all in row 0, then of each class.

        The square, since a shortcut may be in few examples: one in fifty that has half of its
        evidence in a cell adds a hundredth to the mean, and a tenth to the root mean square.

        Returns:
            `(1 + K, C)` float32, 0..1; in row 0 the classes that have probes weigh the same. NaN
            for a class without.
        """
        count = self.count.float().masked_fill(self.count == 0, float("nan"))
        squares = self.squared.float() / _UNIT / count[:, None]
        return torch.cat([squares.nanmean(0)[None], squares]).sqrt()


def cell_mask(spatial: Sequence[int], grid: Sequence[int], cells: Sequence[int]) -> Tensor:
    """Where cells are in an input: `(*spatial)` bool, true on the pixels whose centre is in one.

    Args:
        spatial: sides of the input.
        grid: cells along each side, of `cell_grid`.
        cells: their numbers, last side fastest.
    """
    number = torch.zeros((), dtype=torch.int64)
    for size, count in zip(spatial, grid, strict=True):
        along = ((torch.arange(size) + 0.5) * count / size).long()
        number = number[..., None] * count + along
    return torch.isin(number, torch.tensor(list(cells)))
