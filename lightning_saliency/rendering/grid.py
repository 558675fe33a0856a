"""The grid: each probe as image, map over image, and what has changed since the reference."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from lightning_saliency.errors import ConfigurationError
from lightning_saliency.rendering.arrays import QUIET, SHEET, AnyFloats, Bytes, Flags, Floats, plain
from lightning_saliency.rendering.captions import (
    STRIP_HEIGHT,
    caption_strips,
    check_captions,
    texts_of,
)
from lightning_saliency.rendering.cells import (
    Caption,
    cell_size,
    hatched_cell,
    map_cells,
    note_cell,
)
from lightning_saliency.rendering.colormaps import DIVERGING, Colormap, find_colormap
from lightning_saliency.rendering.layout import (
    GAP,
    Tiling,
    best_tiling,
    compose,
    sheet_width,
)
from lightning_saliency.rendering.legend import MARGIN, ColourKey, Key, MarkKey, header, scale_key
from lightning_saliency.rendering.marks import draw_frame
from lightning_saliency.rendering.picture import to_planes
from lightning_saliency.rendering.resize import resize_pictures, shrink_maps
from lightning_saliency.rendering.scale import constant, normalise
from lightning_saliency.rendering.text import Lettering

HEADINGS = 22
_HEADING_SIZE = 14
_BLOCK_GAP = 6
_TYPICAL_HEAD = 90
_HEADINGS = ("input", "map", "change")
_VISIBLE = 0.5 / 127  # half a step of the colour map


def grid(
    pictures: Bytes,
    maps: AnyFloats,
    reference: AnyFloats | None,
    captions: Sequence[Caption],
    *,
    title: str,
    signed: bool = False,
    colormap: str | Colormap | None = None,
    cell: int = 112,
    most: int = 32,
    since: str | None = "the reference",
    unreliable: Flags | None = None,
) -> Bytes:
    """Draw probes in blocks of three cells: image | map over image | change since the reference.

    Maps larger than a cell are averaged down first, so the scale is that of what is seen; each map
    is on its own scale (`normalise`), and the change is the difference of two such maps: light red
    where evidence was gained, blue where it was lost.

    Args:
        pictures: (N, H, W, 3) uint8, of `to_pictures`.
        maps: (N, h, w), of signals (N, l), of volumes (N, d, h, w): the middle slice. A map with
            a non-finite value is drawn hatched.
        reference: Maps to compare with, or None before there is one.
        captions: One for each probe.
        title: Method, step and epoch.
        signed: Whether the sign of the maps means something.
        colormap: Name or Colormap; by default "diverging" for signed maps, else "heat".
        cell: Pixels; a cell has the area cell² and the aspect of the pictures.
        most: Probes beyond this many are left out, and the title says so.
        since: What the reference is, for the legend; None of a picture without a history, whose
            blocks have no third cell.
        unreliable: (N,), maps that are noise for the most part, and are not shown.

    Returns:
        (H, W, 3) uint8, about twice as wide as high.

    Raises:
        ConfigurationError: Shapes that do not fit together, an unknown or unfitting colour map.
    """
    colours = find_colormap(colormap, signed=signed)
    _check(pictures, maps, reference, captions, most)
    maps = to_planes(maps, maps.shape[1:])
    reference = None if reference is None else to_planes(reference[:most], reference.shape[1:])
    total, captions = len(pictures), captions[:most]
    pictures, maps = pictures[:most], maps[:most]
    lettering = Lettering.for_texts([title, since or "", *texts_of(captions)])
    size = cell_size(cell, pictures)
    unit = normalise(shrink_maps(maps, size), signed=signed)
    images = resize_pictures(pictures, size)
    overlays = map_cells(unit, size, colours, lettering, over=images)
    cells = [images, overlays]
    if since is not None:
        cells.append(_changes(unit, reference, size, lettering, signed))
    if unreliable is not None and unreliable[:most].any():
        noise = hatched_cell(size, lettering, "unreliable")
        hide = unreliable[:most, None, None, None]
        cells[1:] = [np.where(hide, noise, one) for one in cells[1:]]
    tiling = grid_tiling(len(pictures), size, len(cells))
    body = tiling.assemble(blocks(cells, captions, lettering))
    _frame_flips(body, tiling, captions)
    if total > len(pictures):
        title += f" · {len(pictures)} of {total} probes"
    head_line = headings(tiling, size[1], lettering, _HEADINGS[: len(cells)])
    width = sheet_width(body.shape[1] - 2 * tiling.inset)
    head = header(width, title, _keys(colours, captions, since), lettering)
    return compose(head, np.concatenate([head_line, body]), MARGIN - tiling.inset)


def _frame_flips(body: Bytes, tiling: Tiling, captions: Sequence[Caption]) -> None:
    for index, caption in enumerate(captions):
        if caption.flipped:
            draw_frame(body, *tiling.corner(index), tiling.height, tiling.width)


def grid_tiling(count: int, size: tuple[int, int], cells: int = 3) -> Tiling:
    """Return the tiling of `count` probes with `cells` each of `size`."""
    width = _across(cells, size[1])
    extra = HEADINGS + _TYPICAL_HEAD
    return best_tiling(count, size[0] + STRIP_HEIGHT, width, extra=extra, gap=_BLOCK_GAP)


def _check(
    pictures: Bytes,
    maps: AnyFloats,
    reference: AnyFloats | None,
    captions: Sequence[Caption],
    most: int,
) -> None:
    if pictures.ndim != 4 or not len(pictures) or most < 1:
        raise ConfigurationError(
            f"There is nothing to draw: pictures has shape {pictures.shape} and most={most}. "
            "Give at least one picture (N, H, W, 3)."
        )
    if maps.ndim not in (2, 3, 4) or len(maps) != len(pictures):
        raise ConfigurationError(
            f"maps has shape {maps.shape} for {len(pictures)} pictures. Give one map for each."
        )
    if reference is not None and reference.shape != maps.shape:
        raise ConfigurationError(
            f"reference has shape {reference.shape} and maps {maps.shape}. "
            "Give maps of the same probes by the same method, or None."
        )
    check_captions(captions, len(pictures))


def _changes(
    unit: Floats,
    reference: AnyFloats | None,
    size: tuple[int, int],
    lettering: Lettering,
    signed: bool,
) -> Bytes:
    if reference is None:
        blank = note_cell(size, "nothing to compare with yet", lettering)
        return np.broadcast_to(blank, (len(unit), *size, 3))
    before = normalise(shrink_maps(reference, size), signed=signed)
    difference = (unit - before) * np.float32(0.5 if signed else 1)
    difference[constant(unit) | constant(before)] = np.nan
    same = np.abs(difference).max(axis=(-2, -1)) < _VISIBLE
    cells = map_cells(difference, size, DIVERGING, lettering)
    if same.any():
        cells[same] = note_cell(size, "no change", lettering)
    return cells


def blocks(cells: Sequence[Bytes], captions: Sequence[Caption], lettering: Lettering) -> Bytes:
    """Lay cells of each kind, (N, *size, 3), side by side over their captions, for `assemble`."""
    count, height, width = cells[0].shape[:3]
    across = _across(len(cells), width)
    deep = height + STRIP_HEIGHT
    laid = plain(count * deep, across).reshape(count, deep, across, 3)
    for place, kind in enumerate(cells):
        left = place * (width + GAP)
        laid[:, :height, left : left + width] = kind
    laid[:, height:] = caption_strips(captions, across, lettering)
    return laid


def _across(cells: int, width: int) -> int:
    return cells * width + (cells - 1) * GAP


def headings(tiling: Tiling, cell_width: int, lettering: Lettering, names: Sequence[str]) -> Bytes:
    """Draw the line (HEADINGS, W, 3) that names the cells of each column of blocks."""
    image = Image.new("RGB", (tiling.size[1], HEADINGS), SHEET)
    draw = ImageDraw.Draw(image)
    for column in range(tiling.columns):
        left = tiling.corner(column)[1]
        for heading in names:
            at = (left, HEADINGS / 2 + 1)
            lettering.write(draw, at, heading, _HEADING_SIZE, QUIET, room=cell_width)
            left += cell_width + GAP
    return np.asarray(image)


def _keys(colours: Colormap, captions: Sequence[Caption], since: str | None) -> list[Key]:
    keys: list[Key] = [scale_key(colours, "map")]
    if since is not None:
        keys.append(ColourKey(DIVERGING, f"change since {since}: less", "more"))
    if any(caption.correct is not None for caption in captions):
        keys += [MarkKey("right", "right"), MarkKey("wrong", "wrong")]
    return keys if since is None else [*keys, MarkKey("flip", "prediction changed")]
