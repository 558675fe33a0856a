"""Context: a map and a mask of the object -> how much of the map lies on what is around it."""

from __future__ import annotations

from torch import Tensor

from lightning_saliency.measures.grounding import mask_area, relevance_mass
from lightning_saliency.measures.numeric import nan_unless


def background_mass(maps: Tensor, masks: Tensor) -> Tensor:
    """Mass outside the mask ÷ area outside, 0 to 1/area: 0 all on the object, 1 as by chance.

    Masks are read as by the other measures of grounding. NaN also where a mask covers everything.
    """
    outside = 1 - mask_area(maps, masks)
    # Shares of float32 that add up to 1 up to rounding.
    return nan_unless(outside > 1e-6, (1 - relevance_mass(maps, masks)) / outside)
