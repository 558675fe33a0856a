"""Shape: one map -> how concentrated it is and where its mass lies.

Maps (N, *spatial) are read by their absolute value; a constant or non-finite one gives NaN.
Entropy and Gini depend on the number of pixels: compare them at one resolution only.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lightning_saliency.errors import ConfigurationError
from lightning_saliency.measures.numeric import (
    defined,
    distribution,
    flat,
    nan_unless,
    scaled,
    sorted_rows,
)


def entropy(maps: Tensor) -> Tensor:
    """Normalised entropy of the map, 0 to 1: 0 all mass on one pixel, near 1 spread evenly.

    Shannon entropy of the magnitude as a distribution over P pixels ÷ log P.
    """
    p = distribution(maps)
    share = torch.special.entr(p).sum(1) / math.log(p.shape[1])
    return nan_unless(defined(maps), share.clamp(0, 1))


def gini(maps: Tensor) -> Tensor:
    """Gini index of the map, 0 to 1: near 0 spread evenly, 1 − 1/pixels all mass on one pixel.

    Σ (2 i − P − 1) x_i ÷ (P Σ x) over the magnitudes in rising order (Hurley & Rickard 2009).
    """
    rows, _ = sorted_rows(scaled(flat(maps).abs()))
    pixels = rows.shape[1]
    weights = torch.arange(1 - pixels, pixels, 2, dtype=rows.dtype, device=rows.device) / pixels
    return nan_unless(defined(maps), ((rows * weights).sum(1) / rows.sum(1)).clamp(0, 1))


def salient_area(maps: Tensor, share: float = 0.5) -> Tensor:
    """Area of the smallest region with half the map's mass, 0 to 1: near 0 all on a few pixels.

    In general with `share` of the mass; by chance, that of an even map, it is `share` itself.
    """
    region = smallest_region(maps, share).flatten(1)
    return nan_unless(defined(maps), region.to(flat(maps).dtype).mean(1))


def smallest_region(maps: Tensor, share: float) -> Tensor:
    """The fewest pixels that hold `share` of each map's mass: (N, *spatial) bool.

    Of equal pixels the first ones are taken. Empty where the map is constant or not finite.
    """
    if not 0 < share <= 1:
        raise ConfigurationError(f"share={share}: give the share of the mass, above 0 and up to 1.")
    rows = scaled(flat(maps).abs()).nan_to_num(0.0)
    ordered = rows.sort(dim=1, descending=True, stable=True)
    # Whole numbers add up to the same on every device, whatever the order of the additions.
    mass = (ordered.values * 2.0 ** (62 - rows.shape[1].bit_length())).long()
    reached = mass.cumsum(1)
    total = reached[:, -1:]
    left = round((1 - share) * 2**30)  # so that what may be left out is a whole number, too
    enough = total - ((total >> 30) * left + ((total & (2**30 - 1)) * left >> 30))
    taken = (reached - mass < enough) & defined(maps)[:, None]
    return torch.zeros_like(taken).scatter_(1, ordered.indices, taken).view(maps.shape)


def centroid(maps: Tensor) -> Tensor:
    """Centre of mass in pixels, (N, d) in the order of the sides: 0 is the first pixel's centre."""
    p = distribution(maps).view(maps.shape)
    dims = range(1, p.ndim)
    centres = []
    for dim in dims:
        others = [other for other in dims if other != dim]
        along = p.sum(others) if others else p
        places = torch.arange(p.shape[dim], dtype=p.dtype, device=p.device)
        centres.append(nan_unless(defined(maps), (along * places).sum(1)))
    return torch.stack(centres, 1)
