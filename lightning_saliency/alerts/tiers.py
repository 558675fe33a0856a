"""Two tiers: a training event is information, a region that gained evidence is an alert.

Words only: what is said of a region, and what of it may be said. That a model *relies on* a region
is said by an intervention alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_saliency.alerts.chart import Alarm

EVENT = 4.0
"""Standard deviations of the log drift above which a training event is told."""

_STEADY = 0.25
"""A run's log drift is never taken to vary less than this."""

_LEAST = 5

_NAMED = 4
"""Cells that are named beside the first one of an alert."""


class Conduct(NamedTuple):
    """What a training does to its weights, as far as it may explain a sudden change.

    Attributes:
        rates: the learning rate of each group of parameters of each optimiser.
        trainable: parameters that learn, in numbers.
    """

    rates: tuple[float, ...]
    trainable: int


def event_z(drift: Tensor) -> float:
    """How unusual the newest drift is in its run: tier 1.

    In robust standard deviations (1.4826 · MAD, at least 0.25) of log drift above the median of the
    observations before: after a change of the learning rate it is high, and so it is after every
    change that moves all maps. It is no alarm, and no probability.

    Args:
        drift: `(T,)`, the median step of each observation, oldest first; NaN where undefined.

    Returns:
        NaN with fewer than 5 steps before the newest, or where the newest is 0 or undefined.
    """
    logs = drift.double().clamp(min=0).log()
    past = logs[:-1][logs[:-1].isfinite()]
    if len(past) < _LEAST or not logs[-1].isfinite():
        return math.nan
    middle = past.median()
    spread = max(float((past - middle).abs().median()) * 1.4826, _STEADY)
    return float(logs[-1] - middle) / spread


def done_by(before: Conduct | None, now: Conduct, *, resumed: bool) -> list[str]:
    """What the training did between two observations that may explain an event, in words."""
    found = ["the run was resumed from a checkpoint"] if resumed else []
    if before is None:
        return found
    if len(before.rates) == len(now.rates):
        pairs = zip(before.rates, now.rates, strict=True)
        found += sorted({words for old, new in pairs if (words := _rate_words(old, new))})
    else:
        found.append(f"groups of parameters: {len(now.rates)}, not {len(before.rates)}")
    more = now.trainable - before.trainable
    if more:
        found.append(f"{abs(more):,} parameters {'began' if more > 0 else 'ceased'} to learn")
    return found


def _rate_words(old: float, new: float) -> str:
    """Of a learning rate; nothing of a small change, as a schedule makes it at each step."""
    if not (math.isfinite(old) and math.isfinite(new)) or 0.8 * old <= new <= 1.25 * old:
        return ""
    times = f" × {new / old:.2g}" if old > 0 else ""
    return f"learning rate{times} ({old:.3g} to {new:.3g})"


def event_words(z: float, drift: float, causes: Sequence[str]) -> str:
    """What is said of a training event."""
    because = f" Meanwhile: {'; '.join(causes)}." if causes else ""
    return (
        f"**Training event.** All maps moved more than this run's history lets expect (drift "
        f"{drift:.3g}, z {z:.1f}).{because} This is information, not an alarm."
    )


@dataclass(frozen=True)
class RegionAlert:
    """Tier 2: a cell whose share of the evidence grew while the others' did not.

    Attributes:
        panel: of which examples: ``probes`` or ``stream``, the training as it passes.
        alarms: what stood out for the first time, the largest z first; one or more.
        grid: cells along each side.
        masses: of the first alarm's cell, `lag` observations ago and now, shares in 0..1.
        names: of the classes, if they have any.
    """

    panel: str
    alarms: tuple[Alarm, ...]
    grid: tuple[int, ...]
    masses: tuple[float, float]
    names: Sequence[str] | None = None

    @property
    def where(self) -> str:
        """The place of the first alarm, such as "top left cell (row 1 of 7, column 1 of 7)"."""
        return place(self.alarms[0].cell, self.grid)

    @property
    def at(self) -> tuple[int, ...]:
        """The same in numbers, such as (0, 6)."""
        return coordinates(self.alarms[0].cell, self.grid)

    def words(self, reliance: str = "") -> str:
        """What is said of it, in Markdown.

        Args:
            reliance: what the intervention found, in words; it was not made where there are none.
        """
        first, others = self.alarms[0], {one.cell for one in self.alarms[1:]}
        also = sorted(others - {first.cell})
        named = [place(one, self.grid) for one in also[:_NAMED]]
        named += [f"and {len(also) - _NAMED} more"] if len(also) > _NAMED else []
        beside = f" Also: {'; '.join(named)}." if named else ""
        whose = {"stream": "the training examples as they pass", "probes": "the probes"}
        then, now = self.masses
        return (
            f"**Region alert.** In {whose.get(self.panel, self.panel)}{self._group(first.group)}, "
            f"the {self.where} gained evidence that the other regions did not: {then:.1%} to "
            f"{now:.1%} of it (× {first.ratio:.1f}, z {first.z:.1f}).{beside} "
            + (reliance or "Whether the model relies on it was not tested.")
        )

    def _group(self, group: int) -> str:
        if group == 0:
            return ""
        known = self.names is not None and group <= len(self.names)
        name = self.names[group - 1] if known and self.names is not None else str(group - 1)
        return f" of the class {name}"


_ENDS = {1: (("left", "right"),), 2: (("top", "bottom"), ("left", "right"))}


def place(cell: int, grid: Sequence[int]) -> str:
    """Where a cell is, such as "top left cell (row 1 of 7, column 1 of 7)"."""
    at = coordinates(cell, grid)
    named = {1: ("cell",), 2: ("row", "column"), 3: ("slice", "row", "column")}[len(grid)]
    exact = ", ".join(
        f"{name} {index + 1} of {size}" for name, index, size in zip(named, at, grid, strict=True)
    )
    words = [
        ends[0] if 3 * index + 1 < size else ends[1] if 3 * index + 2 > 2 * size else ""
        for ends, index, size in zip(_ENDS.get(len(grid), ()), at, grid, strict=False)
    ]
    shown = " ".join(filter(None, words)) or ("middle" if len(grid) < 3 else "")
    return f"{shown} cell ({exact})".strip()


def coordinates(cell: int, grid: Sequence[int]) -> tuple[int, ...]:
    """Where a cell is along each side, from 0."""
    at: tuple[int, ...] = ()
    for size in reversed(grid):
        at = cell % size, *at
        cell //= size
    return at


def plain(text: str) -> str:
    """Markdown for a console, which shows no bold type."""
    return text.replace("**", "")


def standing(
    raised: Mapping[str, int], alarms: Mapping[str, Sequence[Alarm]], lag: int
) -> tuple[dict[str, int], dict[str, tuple[Alarm, ...]]]:
    """What is new, and what stands from here on: an alarm goes on for `lag` observations.

    Args:
        raised: `panel/cell` → observations since its last alarm.
        alarms: of this observation, by panel.
        lag: of the chart.

    Returns:
        The next `raised`, and the alarms of cells that did not stand yet, by panel.
    """
    stands = {key: age + 1 for key, age in raised.items() if age < lag}
    fresh = {
        panel: tuple(one for one in found if f"{panel}/{one.cell}" not in stands)
        for panel, found in alarms.items()
    }
    stands |= {f"{panel}/{one.cell}": 0 for panel, found in alarms.items() for one in found}
    return stands, {panel: found for panel, found in fresh.items() if found}


def mass(cells: Tensor, alarm: Alarm, lag: int) -> tuple[float, float]:
    """The share of an alarm's cell `lag` observations ago and now, of a history `(T, G, C)`."""
    then, now = cells[-1 - lag, alarm.group, alarm.cell], cells[-1, alarm.group, alarm.cell]
    return tuple(float(one) for one in torch.stack([then, now]))  # type: ignore[return-value]
