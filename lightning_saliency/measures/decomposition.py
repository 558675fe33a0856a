"""One drift, taken apart: who moved, which class, how straight, and against chance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_saliency.errors import ConfigurationError
from lightning_saliency.measures.numeric import floating, nan_unless

FEWEST = 3
"""Probes that a class needs to be the worst one: of fewer, chance would choose it."""


def stayed_and_flipped(drift: Tensor, flipped: Tensor) -> tuple[Tensor, Tensor]:
    """Mean drift of the probes whose prediction stayed, and of those where it flipped.

    D = (1 − f) · D_const + f · D_flip with the churn f among the probes whose drift is defined.

    Args:
        drift: `(N,)`, NaN where undefined.
        flipped: `(N,)` bool.

    Returns:
        D_const and D_flip, 0-dim; NaN where there is no such probe.
    """
    _check(drift, flipped)
    drift = floating(drift)
    nothing = torch.full_like(drift, float("nan"))
    return (
        torch.where(flipped, nothing, drift).nanmean(),
        torch.where(flipped, drift, nothing).nanmean(),
    )


@dataclass(frozen=True)
class ByClass:
    """Drift of each of K classes.

    Attributes:
        mean: `(K,)`; NaN of a class without a defined probe.
        count: `(K,)`, probes whose drift is defined.
    """

    mean: Tensor
    count: Tensor

    @property
    def overall(self) -> Tensor:
        """The mean over classes, which weigh the same, however many probes they have: 0-dim."""
        return self.mean.nanmean()

    @property
    def worst(self) -> Tensor:
        """The largest mean of a class with `FEWEST` probes or more: 0-dim, NaN without one."""
        known = nan_unless(self.count >= FEWEST, self.mean)
        largest = known.nan_to_num(float("-inf")).amax()
        return nan_unless(~known.isnan().all(), largest)


def by_class(drift: Tensor, classes: Tensor, number: int) -> ByClass:
    """Mean drift of the probes of each class.

    Args:
        drift: `(N,)`, NaN where undefined.
        classes: `(N,)` int64; a probe of a class outside 0 … `number` − 1 is left out.
        number: K.
    """
    _check(drift, classes)
    drift = floating(drift)
    known = ~drift.isnan() & (classes >= 0) & (classes < number)
    # A row of its own for what is left out, since a choice of rows would wait for the device.
    rows = torch.where(known, classes, number)
    count = torch.zeros(number + 1, dtype=torch.int64, device=drift.device)
    count = count.index_add_(0, rows, known.long())[:number]
    total = drift.new_zeros(number + 1, dtype=torch.float64)
    total = total.index_add_(0, rows, torch.where(known, drift, 0).double())[:number]
    mean = (total / count.clamp(min=1)).to(drift.dtype)
    return ByClass(nan_unless(count > 0, mean), count)


def angle(drift: Tensor) -> Tensor:
    """The angle of a directional drift 1 − cosine, in radians: a metric, which the drift is not."""
    # Not the arc cosine, which loses what is small.
    return 2 * (floating(drift) / 2).clamp(0, 1).sqrt().asin()


def tortuosity(path: Tensor, drift: Tensor) -> Tensor:
    """Way gone ÷ way from the first map: `(N,)`, from 1 (straight on) up; to and fro is large.

    In angles: a sum of drifts would tell many small steps in one direction from one large one.

    Args:
        path: `(N,)`, the sum of the `angle` of every step, in radians.
        drift: `(N,)`, from the first observation, 0..2; NaN where undefined.

    Returns:
        NaN where the map is where it was at first, or undefined.
    """
    _check(path, drift)
    return nan_unless(drift > 0, floating(path) / angle(drift))


def of_chance(
    distance: Callable[[Tensor, Tensor], Tensor], now: Tensor, then: Tensor, seed: int = 0
) -> Tensor:
    """D ÷ its mean between the maps of different probes: 0 same, about 1 as far as two probes.

    Every measure stays below its nominal limit on unrelated maps, each at another place; this is
    comparable between measures and methods. Three derangements give the mean.

    Args:
        distance: `(now, then) -> (N,)`.
        now: `(N, *any)`.
        then: `(N, *any)`, the same probes earlier.
        seed: of the derangements: the same at each observation.

    Returns:
        Mean distance ÷ mean distance of mismatched probes, 0-dim; NaN with fewer than two probes.
    """
    count = len(now)
    own = floating(distance(now, then)).nanmean()
    if count < 2:
        return torch.full_like(own, float("nan"))
    generator = torch.Generator("cpu").manual_seed(seed)
    order = torch.randperm(count, generator=generator, device="cpu").to(now.device)
    place = torch.empty_like(order).scatter_(0, order, torch.arange(count, device=now.device))
    steps = sorted({1, 1 + count // 3, 1 + 2 * count // 3} & set(range(1, count)))
    others = (then[order[(place + step) % count]] for step in steps)
    chance = torch.cat([floating(distance(now, other)) for other in others]).nanmean()
    return nan_unless(chance > 0, own / chance)


def _check(one: Tensor, other: Tensor) -> None:
    if one.ndim != 1 or one.shape != other.shape:
        raise ConfigurationError(
            f"{tuple(one.shape)} and {tuple(other.shape)}: give one number per probe, (N,) each."
        )
