"""Maps to fewer places, by the share that each old place has in a new one."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def fitted(maps: Floats, places: int) -> Floats:
    """The maps with at most `places` places, their sides in the same proportion.

    Args:
        maps: `(N, *spatial)`.
        places: of a map at most.
    """
    spatial = maps.shape[1:]
    for axis, size in enumerate(fitting(spatial, places), start=1):
        if size < maps.shape[axis]:
            moved = np.moveaxis(maps, axis, -1) @ _shares(maps.shape[axis], size).T
            maps = np.moveaxis(moved, -1, axis)
    return np.ascontiguousarray(maps)


def fitting(spatial: tuple[int, ...], places: int) -> tuple[int, ...]:
    """Sides in about the same proportion, whose product is at most `places`."""
    sides = tuple(spatial)
    while math.prod(sides) > places:
        # A side that is 1 already leaves more to shrink for the others.
        long = [side for side in sides if side > 1]
        share = (places / math.prod(sides)) ** (1 / len(long))
        shrunk = tuple(max(1, int(side * share + 1e-9)) if side > 1 else 1 for side in sides)
        sides = shrunk if shrunk != sides else tuple(max(1, side - 1) for side in sides)
    return sides


def _shares(size: int, wanted: int) -> Floats:
    """`(wanted, size)`: what share of a new place each old one is."""
    edges = np.arange(wanted + 1) * size / wanted
    old = np.arange(size)
    overlap = np.minimum(edges[1:, None], old + 1) - np.maximum(edges[:-1, None], old)
    return np.asarray(np.maximum(0, overlap) * wanted / size, dtype=np.float32)
