"""The picture of a region alert: the region, and what became of it in the intervention."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lightning_saliency.errors import ConfigurationError
from lightning_saliency.rendering.arrays import FLIP, AnyFloats, Bytes, Flags, Floats
from lightning_saliency.rendering.captions import texts_of
from lightning_saliency.rendering.cells import Caption, cell_size, map_cells
from lightning_saliency.rendering.colormaps import find_colormap
from lightning_saliency.rendering.grid import blocks, grid_tiling, headings
from lightning_saliency.rendering.layout import compose, sheet_width
from lightning_saliency.rendering.legend import MARGIN, header, scale_key
from lightning_saliency.rendering.marks import FRAME
from lightning_saliency.rendering.picture import to_planes
from lightning_saliency.rendering.resize import resize_maps, resize_pictures, shrink_maps
from lightning_saliency.rendering.scale import normalise
from lightning_saliency.rendering.text import Lettering

_KINDS = ("example", "map", "covered", "exchanged")
_KEYS = ("yellow: the region", "the score as it is, covered, exchanged with another example")


def alert_sheet(
    pictures: Sequence[Bytes],
    maps: AnyFloats,
    inside: Flags,
    scores: Floats,
    labels: Sequence[str],
    *,
    title: str,
    cell: int = 128,
) -> Bytes:
    """Draw examples in blocks of four cells: as it is | map over it | covered | exchanged.

    Args:
        pictures: three times (N, H, W, 3) uint8: as they are, covered, with strange contents.
        maps: (N, *spatial), of the examples as they are.
        inside: (*spatial) of the inputs, the region.
        scores: (N, 3), of the same three.
        labels: N class names.
        title: What happened, and when.
        cell: Pixels; a cell has the area cell².

    Returns:
        (H, W, 3) uint8.

    Raises:
        ConfigurationError: Nothing to draw, or numbers that do not fit each other.
    """
    own = pictures[0]
    counts = {len(own), len(maps), len(scores), len(labels)}
    if len(pictures) != 3 or counts != {len(own)} or not len(own):
        raise ConfigurationError(
            f"{[len(one) for one in pictures]} pictures, {len(maps)} maps, {len(scores)} scores "
            f"and {len(labels)} labels: give three pictures for each of at least one example."
        )
    captions = [
        Caption(f"{label} · {' → '.join(map(_number, row))}")
        for label, row in zip(labels, scores.tolist(), strict=True)
    ]
    lettering = Lettering.for_texts([title, *texts_of(captions)])
    size, colours = cell_size(cell, own), find_colormap(None, signed=False)
    shown = [resize_pictures(one, size) for one in pictures]
    planes = to_planes(np.abs(maps), maps.shape[1:])
    unit = normalise(shrink_maps(planes, size), signed=False)
    cells = [shown[0], map_cells(unit, size, colours, lettering, over=shown[0]), *shown[1:]]
    # The region is on one slice at least, and to_planes shows the middle one: all of them count.
    flat: Flags = np.logical_or.reduce(inside, axis=0) if inside.ndim == 3 else inside
    plane = to_planes(flat[None].astype(np.float32), flat.shape)
    edge = outline(np.greater(resize_maps(plane, size)[0], 0.5))
    cells = [_outlined(one, edge) for one in cells]
    tiling = grid_tiling(len(own), size, len(cells))
    body = tiling.assemble(blocks(cells, captions, lettering))
    head_line = headings(tiling, size[1], lettering, _KINDS)
    width = sheet_width(body.shape[1] - 2 * tiling.inset)
    head = header(width, title, [scale_key(colours, "map"), *_KEYS], lettering)
    return compose(head, np.concatenate([head_line, body]), MARGIN - tiling.inset)


def outline(inside: Flags, thick: int = FRAME - 1) -> Flags:
    """The inner edge of a region (h, w), `thick` pixels wide."""
    core = inside.copy()
    for _ in range(thick):
        padded = np.pad(core, 1, constant_values=False)
        near = [padded[1:-1, :-2], padded[1:-1, 2:], padded[:-2, 1:-1], padded[2:, 1:-1]]
        core = np.logical_and.reduce([core, *near])
    return np.asarray(inside & ~core)


def _number(value: float) -> str:
    return f"{value:.1f}".replace("-", "\N{MINUS SIGN}")


def _outlined(cells: Bytes, edge: Flags) -> Bytes:
    return np.where(edge[..., None], np.array(FLIP, dtype=np.uint8), cells)
