"""Maps to uint8 pictures: pure functions of arrays, safe in any thread."""

from __future__ import annotations

from lightning_saliency.rendering.cells import Caption, blend
from lightning_saliency.rendering.colormaps import (
    COLORMAPS,
    DIVERGING,
    GREY,
    SEQUENTIAL,
    Colormap,
    find_colormap,
)
from lightning_saliency.rendering.concepts import concept_strip
from lightning_saliency.rendering.encode import Format, encode
from lightning_saliency.rendering.filmstrip import filmstrip
from lightning_saliency.rendering.grid import grid
from lightning_saliency.rendering.picture import (
    DisplayRange,
    display_range,
    to_pictures,
    to_planes,
)
from lightning_saliency.rendering.scale import Scale, normalise

__all__ = [
    "COLORMAPS",
    "DIVERGING",
    "GREY",
    "SEQUENTIAL",
    "Caption",
    "Colormap",
    "DisplayRange",
    "Format",
    "Scale",
    "blend",
    "concept_strip",
    "display_range",
    "encode",
    "filmstrip",
    "find_colormap",
    "grid",
    "normalise",
    "to_pictures",
    "to_planes",
]
