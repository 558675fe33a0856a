"""Observer: how far two ways of looking agree: two methods, two seeds, two checkpoints.

What drift is read against: two seeds of one model agree so far, and no drift means more than that.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

from torch import Tensor

from lightning_saliency.errors import ConfigurationError
from lightning_saliency.measures.drift import spearman
from lightning_saliency.measures.numeric import averaged, defined, flat, nan_unless


def agreement(one: Tensor, other: Tensor) -> Tensor:
    """Rank correlation of two maps' magnitudes, −1 to 1: 0 unrelated, 1 the same order of places.

    Spearman's, with ties averaged, at the coarser of the two resolutions (per side); the finer map
    is averaged exactly to it. NaN where either is constant, or not finite, there.

    Args:
        one: (N, *spatial).
        other: (N, *spatial) of any resolution, of the same probes.

    Raises:
        ConfigurationError: maps of different numbers of probes or of spatial dimensions.
    """
    if one.ndim != other.ndim or len(one) != len(other):
        raise ConfigurationError(
            f"maps {tuple(one.shape)} and {tuple(other.shape)}: compare maps (N, *spatial) of the "
            "same probes with as many spatial dimensions."
        )
    sides = [min(pair) for pair in zip(one.shape[1:], other.shape[1:], strict=True)]
    sizes = [flat(maps).abs().view(maps.shape) for maps in (one, other)]
    # Before they are averaged, which leaves some rounding of what is constant.
    known = defined(sizes[0]) & defined(sizes[1])
    return nan_unless(known, 1 - spearman(*(averaged(size, sides) for size in sizes)))


def agreements(maps: Mapping[str, Tensor]) -> dict[tuple[str, str], Tensor]:
    """`agreement` of each two of several methods' maps of the same probes, in their order."""
    return {(one, other): agreement(maps[one], maps[other]) for one, other in combinations(maps, 2)}
