"""Places: one map -> how much of it is where any map of any image might be: the rim, the middle.

Maps (N, *spatial) are read by their absolute value; a constant or non-finite one gives NaN. Both
numbers need no image: they warn of padding that shines, and of a map that knows only the middle.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lightning_saliency.measures.numeric import (
    defined,
    distribution,
    flat,
    nan_unless,
    standardised,
)

RING = 1 / 8
"""Width of the border, as a share of each side."""

CENTRE_SIGMA = 1 / 4
"""Width of the centred Gaussian, as a share of each side."""


def border_mass(maps: Tensor) -> Tensor:
    """Mass in the outermost eighth of each side minus its area, as shares, −1 to 1: 0 if even.

    The ring is cut exactly: a pixel counts by what of it lies within. Of an image it has 7/16 of
    the area, so the number is from −0.44 to 0.56.
    """
    inside = _product(maps, _inside)
    ring = 1 - inside.flatten()
    share = (distribution(maps) * ring).sum(1) - ring.mean()
    return nan_unless(defined(maps), share)


def centre_bias(maps: Tensor) -> Tensor:
    """Correlation of the map with a centred Gaussian, −1 to 1: 0 none, 1 one blob in the middle.

    Pearson's over pixels; σ is a quarter of each side (the centre baseline of Judd et al. 2012,
    stretched to the shape of the map).
    """
    rows = standardised(flat(maps).abs())
    return nan_unless(defined(maps), (rows * centre(maps)).sum(1).clamp(-1, 1))


def centre(maps: Tensor) -> Tensor:
    """The centred Gaussian of maps (N, *spatial) as a row (1, P) of mean 0 and length 1."""
    return standardised(_product(maps, _bell).flatten()[None])


def _product(maps: Tensor, of_side: Callable[[Tensor, int], Tensor]) -> Tensor:
    """The product over the sides of what `of_side` says of each: (*spatial)."""
    dims, like = maps.ndim - 1, flat(maps)
    found = torch.ones(maps.shape[1:], dtype=like.dtype, device=like.device)
    for dim, side in enumerate(maps.shape[1:]):
        places = torch.arange(side, dtype=like.dtype, device=like.device)
        found = found * of_side(places, side).view(-1, *[1] * (dims - dim - 1))
    return found


def _inside(places: Tensor, side: int) -> Tensor:
    """How much of each pixel of a side is not in the ring, 0..1."""
    low, high = RING * side, (1 - RING) * side
    return ((places + 1).clamp(max=high) - places.clamp(min=low)).clamp(min=0)


def _bell(places: Tensor, side: int) -> Tensor:
    away = ((places + 0.5) / side - 0.5) / CENTRE_SIGMA
    return (-away.square() / 2).exp()
