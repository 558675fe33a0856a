"""Two runs beside each other: each probe as image, map of A, map of B, and their difference."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lightning_saliency.errors import ConfigurationError
from lightning_saliency.rendering.arrays import AnyFloats, Bytes
from lightning_saliency.rendering.captions import check_captions, texts_of
from lightning_saliency.rendering.cells import Caption, cell_size, map_cells, note_cell
from lightning_saliency.rendering.colormaps import DIVERGING, find_colormap
from lightning_saliency.rendering.grid import blocks, grid_tiling, headings
from lightning_saliency.rendering.layout import compose, sheet_width
from lightning_saliency.rendering.legend import MARGIN, ColourKey, Key, MarkKey, header, scale_key
from lightning_saliency.rendering.picture import to_planes
from lightning_saliency.rendering.resize import resize_pictures, shrink_maps
from lightning_saliency.rendering.scale import constant, normalise
from lightning_saliency.rendering.text import Lettering

_HEADINGS = ("input", "A", "B", "difference")
_VISIBLE = 0.5 / 127  # half a step of the colour map


def beside(
    pictures: Bytes,
    maps: tuple[AnyFloats, AnyFloats],
    captions: Sequence[Caption],
    *,
    title: str,
    signed: bool = False,
    number: str = "",
    cell: int = 112,
) -> Bytes:
    """Draw probes in blocks of four cells: image | map of A | map of B | difference.

    Each map is on its own scale (`normalise`), and the difference is that of two such maps: light
    red where B has more, blue where A has.

    Args:
        pictures: (N, H, W, 3) uint8, of `to_pictures`.
        maps: Of A and of B, each (N, *spatial), in one shape.
        captions: One for each probe.
        title: Method, runs and when.
        signed: Whether the sign of the maps means something.
        number: What the number in a caption is, for the legend.
        cell: Pixels; a cell has the area cell².

    Returns:
        (H, W, 3) uint8.

    Raises:
        ConfigurationError: Nothing to draw, or shapes that do not fit together.
    """
    of_a, of_b = maps
    if not len(pictures) or of_a.shape != of_b.shape or len(of_a) != len(pictures):
        raise ConfigurationError(
            f"{len(pictures)} pictures, maps of shapes {of_a.shape} and {of_b.shape}: give a map "
            "of each run, in one shape, for each of at least one picture."
        )
    check_captions(captions, len(pictures))
    colours, size = find_colormap(None, signed=signed), cell_size(cell, pictures)
    lettering = Lettering.for_texts([title, *texts_of(captions)])
    images = resize_pictures(pictures, size)
    units = [
        normalise(shrink_maps(to_planes(one, one.shape[1:]), size), signed=signed) for one in maps
    ]
    shown = [map_cells(unit, size, colours, lettering, over=images) for unit in units]
    apart = (units[1] - units[0]) * np.float32(0.5 if signed else 1)
    apart[constant(units[0]) | constant(units[1])] = np.nan
    changes = map_cells(apart, size, DIVERGING, lettering)
    same = np.abs(apart).max(axis=(-2, -1)) < _VISIBLE
    if same.any():
        changes[same] = note_cell(size, "no difference", lettering)
    tiling = grid_tiling(len(pictures), size, len(_HEADINGS))
    body = tiling.assemble(blocks([images, *shown, changes], captions, lettering))
    head_line = headings(tiling, size[1], lettering, _HEADINGS)
    width = sheet_width(body.shape[1] - 2 * tiling.inset)
    keys: list[Key] = [scale_key(colours, "map"), ColourKey(DIVERGING, "more in A", "more in B")]
    if any(caption.correct is not None for caption in captions):
        keys += [MarkKey("right", "both right"), MarkKey("wrong", "both wrong")]
    head = header(width, title, [*keys, number] if number else keys, lettering)
    return compose(head, np.concatenate([head_line, body]), MARGIN - tiling.inset)
