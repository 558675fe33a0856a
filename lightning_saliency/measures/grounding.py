"""Grounding: a map and a mask of the object -> how well they agree.

Maps (N, *spatial) are read by their absolute value. Masks (N, *spatial), bool or a share in 0..1,
may have another resolution: they are averaged over the area of each pixel of the map. Where a
yes or no is asked for, a pixel is inside if the mask covers at least half of it, or as much as of
any pixel: an object smaller than half a pixel keeps the one that holds it. NaN: an empty mask, a
constant or a non-finite map. Report `mask_area` beside the rest: it is the score of chance.
"""

from __future__ import annotations

from torch import Tensor

from lightning_saliency.errors import ConfigurationError
from lightning_saliency.measures.numeric import (
    averaged,
    defined,
    distribution,
    flat,
    floating,
    nan_unless,
    top_weights,
)


def relevance_mass(maps: Tensor, masks: Tensor) -> Tensor:
    """Share of the map's mass inside the mask, 0 to 1: 1 all inside, the mask's area by chance.

    Relevance mass accuracy of Arras et al. 2022.
    """
    covered = _covered(maps, masks)
    return _where_grounded(maps, covered, (distribution(maps) * covered).sum(1).clamp(0, 1))


def relevance_rank(maps: Tensor, masks: Tensor) -> Tensor:
    """Share of the map's top pixels inside the mask, 0 to 1: as many pixels as the mask has.

    Relevance rank accuracy of Arras et al. 2022, with K clamped to the map's support.
    """
    covered = _covered(maps, masks)
    inside, rows = _inside(covered), flat(maps).abs()
    top = top_weights(rows, inside.sum(1, keepdim=True), rows.shape[1])
    return _where_grounded(maps, covered, (top * inside).sum(1) / top.sum(1))


def pointing_game(maps: Tensor, masks: Tensor) -> Tensor:
    """Whether the map's maximum lies inside the mask, 0 or 1: 1 a hit.

    Zhang et al. 2016, without their tolerance of 15 pixels. Of several equal maxima, the share.
    """
    covered = _covered(maps, masks)
    rows = flat(maps).abs()
    peaks = (rows == rows.amax(1, keepdim=True)).to(rows.dtype)
    return _where_grounded(maps, covered, (peaks * _inside(covered)).sum(1) / peaks.sum(1))


def mask_area(maps: Tensor, masks: Tensor) -> Tensor:
    """Share of the map's area inside the mask, 0 to 1: what a map without information scores.

    NaN exactly where the other scores are, so that their averages are over the same probes.
    """
    covered = _covered(maps, masks)
    return _where_grounded(maps, covered, covered.mean(1))


def fit_masks(masks: Tensor, spatial: tuple[int, ...]) -> Tensor:
    """Average masks (N, *any) over the area of each pixel of a map: (N, *spatial) in 0..1.

    Exact at any ratio, up and down: pixels that straddle an edge count by their overlap. Integer
    masks are inside where they are not 0 (0/1 and 0/255 alike).
    """
    if masks.ndim != len(spatial) + 1:
        raise ConfigurationError(
            f"masks of shape {tuple(masks.shape)} do not fit maps (N, {str(tuple(spatial))[1:-1]}):"
            " give one mask per probe with the map's number of spatial dimensions and no channels."
        )
    fitted = floating(masks if masks.is_floating_point() else masks != 0)
    return averaged(fitted, spatial).clamp(0, 1)  # shares that add up to 1 up to rounding


def _covered(maps: Tensor, masks: Tensor) -> Tensor:
    if masks.shape[0] != maps.shape[0]:
        raise ConfigurationError(
            f"masks {tuple(masks.shape)} and maps {tuple(maps.shape)} differ in the number of "
            "probes: give one mask per probe."
        )
    return fit_masks(masks, tuple(maps.shape[1:])).flatten(1).to(flat(maps).dtype)


def _inside(covered: Tensor) -> Tensor:
    return covered >= covered.amax(1, keepdim=True).clamp(max=0.5)


def _where_grounded(maps: Tensor, covered: Tensor, values: Tensor) -> Tensor:
    return nan_unless(defined(maps) & (covered > 0).any(1), values)
