"""Over the probes of one observation: (N,) -> the few numbers of a chart. NaN is left out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_saliency.measures.numeric import defined, floating

__all__ = ["defined", "magnitude", "mean", "quantiles", "undefined_share"]


def quantiles(values: Tensor, q: Sequence[float] = (0.1, 0.5, 0.9)) -> Tensor:
    """Quantiles of the defined values (N,), linear between neighbours: (len(q),), NaN if none is.

    Unlike `torch.nanquantile` this copies nothing to the device and has no limit on N.
    """
    values = floating(values)
    if values.numel() == 0:
        return values.new_full((len(q),), float("nan"))
    ordered = values.flatten().sort().values  # NaN comes last
    last = (~ordered.isnan()).sum() - 1
    found = []
    for share in q:
        position = share * last.clamp(min=0).to(ordered.dtype)
        low, high = position.floor().long(), position.ceil().long()
        below, above, way = ordered.take(low), ordered.take(high), position - low
        # Not lerp, whose differences of infinite values are NaN.
        found.append(torch.where(below == above, below, below * (1 - way) + above * way))
    return torch.stack(found)


def mean(values: Tensor) -> Tensor:
    """Mean of the defined values (N,): 0-dim, NaN if none is."""
    return floating(values).nanmean()


def undefined_share(maps: Tensor) -> Tensor:
    """Share of the maps (N, ...) that are constant or not finite, 0 to 1: 0-dim."""
    return 1 - defined(maps).float().mean()


def magnitude(norms: Tensor) -> Tensor:
    """log10 of the median gradient norm (N,): 0-dim, NaN where that is 0 or no norm is finite."""
    norms = floating(norms)
    median = quantiles(norms.masked_fill(~norms.isfinite(), float("nan")), (0.5,))[0]
    return median.masked_fill(median <= 0, float("nan")).log10()
