"""Drift without its noise, and how much noise there is: for maps that are means of samples.

A method that averages noisy samples gives two independent estimates of the same map for nothing:
the mean of every other sample, and of the rest (`halves`). A distance between estimates that share
no noise is unbiased: frozen weights drift by 0 on average, whatever the seeds (Walther et al. 2016,
the crossnobis distance).
"""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_saliency.errors import ConfigurationError
from lightning_saliency.measures.numeric import flat, nan_unless, require_same_shape, scaled

ONE_SIDED = 1.645
"""Standard errors that noise alone exceeds once in 20 times."""


def crossval(now: Tensor, then: Tensor) -> Tensor:
    """Cross-validated directional drift: about 0..2, below 0 where noise outweighs it; keep that.

    ½ (b₁/n_b − a₁/n_a) · (b₂/n_b − a₂/n_a) with the halves a₁, a₂ then and b₁, b₂ now, and
    n_a² = a₁·a₂: ½‖b̂ − â‖² of the noiseless unit maps, that is 1 − cosine, less the little by which
    the noise of the lengths shifts it (½ s² + ¾ P s⁴ for P pixels of noise s relative to the map).
    With common random numbers (the default of all methods here) it is exactly 0 for frozen weights.
    For a test take `moved`, which has no shift.

    Args:
        now: `(N, 2, *any)`, the halves of an observation.
        then: those of an earlier one.

    Returns:
        `(N,)`; NaN where the halves of either disagree so much that n² ≤ 0, and where they are not
        finite.

    Raises:
        ConfigurationError: shapes that differ, or no two halves.
    """
    require_same_shape(now, then)
    (b1, b2), (a1, a2) = _units(now), _units(then)
    distance = ((b1 - a1) * (b2 - a2)).sum(1) / 2
    return nan_unless(distance.isfinite(), distance)


def moved(now: Tensor, then: Tensor) -> Tensor:
    """What `z_score` tests: near the directional drift where that is small; unrelated maps 1.

    (κ − χ) / (κ + χ) with κ = (a₁·a₂)₊(b₁·b₂)₊ and χ = (b₁·a₂)₊(a₁·b₂)₊, of the halves as in
    `crossval`. Who swaps a₂ and b₂ swaps κ and χ: where nothing but fresh noise lies between the
    observations the value is as often below 0 as above, at any noise and any scale, and 0 on
    average.

    Args:
        now: `(N, 2, *any)`, the halves of an observation.
        then: those of an earlier one.

    Returns:
        `(N,)`, −1..1; NaN where κ and χ are both 0, or not finite.

    Raises:
        ConfigurationError: shapes that differ, or no two halves.
    """
    require_same_shape(now, then)
    (b1, b2), (a1, a2) = _same_scale(now), _same_scale(then)

    def agreement(one: Tensor, other: Tensor) -> Tensor:
        return (one * other).sum(1).clamp(min=0)

    within = agreement(a1, a2) * agreement(b1, b2)
    between = agreement(b1, a2) * agreement(a1, b2)
    contrast = (within - between) / (within + between)
    return nan_unless(contrast.isfinite(), contrast)


def reliability(halves: Tensor) -> Tensor:
    """How much of a map is no noise: 1 noiseless, 0 or below nothing but noise; `(N,)`.

    The cosine r of the halves, corrected for the map having twice their samples: 2r / (1 + r)
    (Spearman 1910; Brown 1910). Below 0.5 half of what is drawn, or more, is noise.

    Args:
        halves: `(N, 2, *any)`.

    Raises:
        ConfigurationError: no two halves.
    """
    one, other = (scaled(rows) for rows in _rows(halves))
    cosine = (one * other).sum(1) / (one.norm(dim=1) * other.norm(dim=1))
    # Halves that contradict each other: the correction has a pole at −1.
    corrected = torch.where(cosine > 0, 2 * cosine / (1 + cosine), cosine)
    return nan_unless(corrected.isfinite(), corrected)


def standard_error(values: Tensor) -> Tensor:
    """Of the mean of the defined values `(N,)`: 0-dim; NaN with fewer than two."""
    known = ~values.isnan()
    count = known.sum()
    mean = values.nanmean()
    squares = torch.where(known, values - mean, 0).square().sum()
    error = (squares / (count - 1).clamp(min=1) / count.clamp(min=1)).sqrt()
    return error.masked_fill(count < 2, float("nan"))


def z_score(values: Tensor) -> Tensor:
    """Mean of the values `(N,)` in standard errors: 0-dim; 0 where all are exactly 0.

    Of `moved`: above 1.645 the maps moved, or noise made it so once in 20 times.
    """
    z = values.nanmean() / standard_error(values)
    still = (values.nan_to_num(0) == 0).all() & (~values.isnan()).any()
    return z.masked_fill(still, 0.0)


def minimum_detectable(values: Tensor) -> Tensor:
    """The smallest mean drift that is told from none, once in 20 wrongly: 1.645 SE, 0-dim."""
    return ONE_SIDED * standard_error(values)


def _rows(halves: Tensor) -> tuple[Tensor, Tensor]:
    if halves.ndim < 3 or halves.shape[1] != 2:
        raise ConfigurationError(
            f"halves of shape {tuple(halves.shape)}: give (N, 2, *any), the maps of either half of "
            "the samples."
        )
    return flat(halves[:, 0]), flat(halves[:, 1])


def _same_scale(halves: Tensor) -> tuple[Tensor, Tensor]:
    """Both halves ÷ the largest magnitude in either: their products keep their size."""
    one, other = scaled(torch.cat(_rows(halves), dim=1)).chunk(2, dim=1)
    return one, other


def _units(halves: Tensor) -> tuple[Tensor, Tensor]:
    """Both halves ÷ the length of what they have in common; NaN where that is nothing."""
    one, other = _same_scale(halves)
    square = (one * other).sum(1, keepdim=True)
    length = square.masked_fill(square <= 0, float("nan")).sqrt()
    return one / length, other / length
