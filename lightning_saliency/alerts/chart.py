"""The cell chart: whether a part of the image gained evidence that the other parts did not.

A Shewhart chart for shares. The mass of each cell is compared with itself some observations ago,
against what all other cells did in the meantime, in units of how much such differences vary in this
very run; their variance is moderated over cells as gene expression's is over genes (Smyth 2004),
because a run has few observations.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_saliency.errors import ConfigurationError

FLOOR = 0.05
"""Share of a cell, in units of an even share, below which it is as good as empty."""


class Alarm(NamedTuple):
    """One cell that stands out.

    Attributes:
        group: row of the cells: 0 for all examples, 1 + c for those of class c.
        cell: its number in the grid, last side fastest.
        z: how far it moved, in standard deviations of this run.
        ratio: how many times its mass of `lag` observations ago it has now.
    """

    group: int
    cell: int
    z: float
    ratio: float


class Charted(NamedTuple):
    """The newest observation on the chart, all `(G, C)`; NaN where nothing can be said yet.

    Attributes:
        z: the move since `lag` observations ago in standard deviations, the least of the newest.
        ratio: mass now ÷ mass then, likewise.
    """

    z: Tensor
    ratio: Tensor


@dataclass(frozen=True)
class Chart:
    """What makes an alarm.

    With y = log(mass), minus that of a control where there is one, centred over cells (clr):
    r = (y_t − y_{t−lag}) minus its median over cells; s² the mean square of the r before;
    s̃² = (prior · s0² + n · s²) / (prior + n), s0² the mean of s² over cells; z = r / s̃. An alarm is
    z > `threshold` where the mass is at least `ratio` times what it was, at the newest `hold`
    observations: s² is of those before all of them, so that what came is held against what was.

    Args:
        threshold: in standard deviations, above 0. `lightning-saliency calibrate` prints the one
            for a wanted rate of false alarms: it does not transfer between recipes.
        ratio: of mass now to mass then, 1 or more.
        lag: observations between now and then, 1 or more.
        hold: observations in a row at which a cell must stand out, 1 or more: what one batch of
            examples shows by chance is gone in the next, and an alarm comes so much later.
        least: differences of the past before anything is said, 2 or more.
        prior: how many differences the other cells' variance counts for, 0 or more.

    Raises:
        ConfigurationError: an argument out of its range.
    """

    threshold: float = 4.5
    ratio: float = 2.5
    lag: int = 4
    hold: int = 2
    least: int = 5
    prior: float = 10.0

    def __post_init__(self) -> None:
        for name, least, kind in (
            ("threshold", 0.0, "a number above 0"),
            ("ratio", 1.0, "a number of 1 or more"),
            ("prior", 0.0, "a number of 0 or more"),
        ):
            value = getattr(self, name)
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not number or not math.isfinite(value) or value < least:
                raise ConfigurationError(f"Chart({name}={value!r}): give {kind}.")
        if self.threshold == 0:
            raise ConfigurationError("Chart(threshold=0): give a number above 0.")
        for name, few in (("lag", 1), ("hold", 1), ("least", 2)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < few:
                raise ConfigurationError(
                    f"Chart({name}={value!r}): give a whole number of {few} or more."
                )

    @property
    def first(self) -> int:
        """The observation, counted from 0, at which an alarm is possible first."""
        return self.lag + self.least + self.hold - 1

    def read(self, cells: Tensor, control: Tensor | None = None) -> Charted:
        """The newest of T observations against those before.

        Args:
            cells: `(T, G, C)`, shares of C cells in G groups of examples, oldest first; NaN where a
                group had no example.
            control: `(T, C)`, the shares of examples that do not have what is looked for, such as
                held-out ones: what both panels do is no news.

        Raises:
            ConfigurationError: shapes that do not fit each other.
        """
        if cells.ndim != 3 or (control is not None and control.shape != cells[:, 0].shape):
            other = "" if control is None else f" and control {tuple(control.shape)}"
            raise ConfigurationError(
                f"cells {tuple(cells.shape)}{other}: give (T, G, C), and (T, C) for the control."
            )
        floor = FLOOR / cells.shape[2]
        masses = cells.double() + floor
        nothing = torch.full(cells.shape[1:], math.nan, dtype=torch.float64)
        if len(cells) < self.lag + self.hold:
            return Charted(nothing, nothing)
        ratio = (masses[-self.hold :] / masses[-self.hold - self.lag : -self.lag]).amin(0)
        logs = masses.log()
        if control is not None:
            logs = logs - (control.double() + floor).log()[:, None]
        # The centre falls out of a difference minus its median: clr is the same without it.
        moves = logs[self.lag :] - logs[: -self.lag]
        moves = moves - moves.nanmedian(2, keepdim=True).values
        past, newest = moves[: -self.hold], moves[-self.hold :].amin(0)
        count = past.isfinite().sum(0)
        spread = past.square().nanmean(0)
        common = spread.nanmean(1, keepdim=True)
        # A group that was never there has no spread of its own, and nothing to be said of it.
        own = torch.where(count > 0, spread, 0)
        moderated = (self.prior * common + count * own) / (self.prior + count)
        z = newest / moderated.sqrt()
        enough = (count >= self.least) & (moderated > 0)
        return Charted(z.masked_fill(~enough, math.nan), ratio)

    def alarms(self, charted: Charted) -> tuple[Alarm, ...]:
        """What stands out, the largest z first."""
        z = self.counted(charted)
        groups, cells = (z > self.threshold).nonzero(as_tuple=True)
        found = [
            Alarm(group, cell, float(z[group, cell]), float(charted.ratio[group, cell]))
            for group, cell in zip(groups.tolist(), cells.tolist(), strict=True)
        ]
        return tuple(sorted(found, key=lambda one: -one.z))

    def counted(self, charted: Charted) -> Tensor:
        """The z where the mass grew enough to count, else 0: `(G, C)`."""
        grown = charted.ratio >= self.ratio
        return torch.where(grown, charted.z, 0).nan_to_num(0, posinf=0, neginf=0)

    def replayed(self, cells: Tensor, control: Tensor | None = None) -> Iterator[Charted]:
        """The chart at each of T observations, as it was read then."""
        for end in range(1, len(cells) + 1):
            yield self.read(cells[:end], None if control is None else control[:end])
