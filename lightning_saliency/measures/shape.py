"""Shape: one map -> how concentrated it is and where its mass lies.

Maps (N, *spatial) are read by their absolute value; a constant or non-finite one gives NaN.
Entropy and Gini depend on the number of pixels: compare them at one resolution only.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lightning_saliency.measures.numeric import defined, distribution, flat, nan_unless, scaled


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
    rows = scaled(flat(maps).abs()).sort(1).values
    pixels = rows.shape[1]
    weights = torch.arange(1 - pixels, pixels, 2, dtype=rows.dtype, device=rows.device) / pixels
    return nan_unless(defined(maps), ((rows * weights).sum(1) / rows.sum(1)).clamp(0, 1))


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
