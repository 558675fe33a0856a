"""The filmstrip: the whole history of a few probes in one picture, read from left to right."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from lightning_saliency.errors import ConfigurationError
from lightning_saliency.rendering.arrays import AnyFloats, Bytes, Flags, Floats, plain
from lightning_saliency.rendering.captions import check_captions, side_captions, texts_of
from lightning_saliency.rendering.cells import Caption, map_cells
from lightning_saliency.rendering.colormaps import Colormap, find_colormap
from lightning_saliency.rendering.filmhead import paste_headings
from lightning_saliency.rendering.filmplan import (
    SIDE,
    FilmPlan,
    columns_shown,
    drift_shown,
    film_plan,
    flips_shown,
)
from lightning_saliency.rendering.layout import compose, sheet_width
from lightning_saliency.rendering.legend import Key, MarkKey, header, scale_key
from lightning_saliency.rendering.marks import draw_frame
from lightning_saliency.rendering.picture import to_planes
from lightning_saliency.rendering.resize import resize_pictures, shrink_maps
from lightning_saliency.rendering.scale import Scale, normalise
from lightning_saliency.rendering.text import Lettering

_SPACE = 8  # between a caption and its picture


def filmstrip(
    pictures: Bytes,
    frames: AnyFloats,
    columns: Sequence[str],
    captions: Sequence[Caption],
    flips: Flags | None = None,
    *,
    title: str,
    signed: bool = False,
    colormap: str | Colormap | None = None,
    cell: int | None = None,
    most_probes: int = 8,
    most_columns: int = 16,
    drift: Sequence[float | None] | None = None,
    scale: Scale = "map",
    over: bool | None = None,
) -> Bytes:
    """Draw one row for each probe: its image, then its map at each observation.

    Args:
        pictures: (P, H, W, 3) uint8, of `to_pictures`.
        frames: (T, P, h, w), or of signals or volumes as of `grid`.
        columns: T headings such as "start" or "epoch 3"; a second line after a line feed.
        captions: One for each probe; the prediction is that of the newest observation.
        flips: (T, P): the prediction had changed at this observation.
        title: Method and, if wanted, what the run is.
        signed: As of `grid`.
        colormap: As of `grid`.
        cell: As of `grid`; by default the largest up to 112 within 1800 pixels of width.
        most_probes: The first so many are drawn.
        most_columns: The first and the newest observation, and others evenly between them; a flip
            or drift in what is skipped is shown at the next column.
        drift: T numbers, drawn as bars under the headings; None or NaN where there is none.
        scale: "map": each map on its own scale; "shared": one scale for all maps of a probe.
        over: Whether maps are blended over the picture; by default those much coarser than it.

    Returns:
        (H, W, 3) uint8, about twice as wide as high.

    Raises:
        ConfigurationError: Shapes that do not fit together, an unknown or unfitting colour map.
    """
    colours = find_colormap(colormap, signed=signed)
    _check(pictures, frames, columns, captions, flips, drift, most_probes, most_columns)
    shown = columns_shown(len(frames), most_columns)
    frames = _planes(frames)
    pictures, captions = pictures[:most_probes], captions[:most_probes]
    lettering = Lettering.for_texts([title, *columns, *texts_of(captions)])
    headings = [columns[index].split("\n")[:2] for index in shown]
    plan = film_plan(pictures, headings, cell, with_drift=drift is not None)
    size = plan.strip.height, plan.strip.width
    images = resize_pictures(pictures, size)
    over = _much_coarser(frames, pictures) if over is None else over
    unit = normalise(shrink_maps(frames[:, :most_probes], size), scale, signed=signed)[shown]
    film = _film(unit, images, colours, lettering, over=over)
    body = _assemble(plan, film, side_captions(captions, (size[0], SIDE - _SPACE), lettering))
    _frame_flips(body, plan, flips_shown(flips, shown))
    paste_headings(body, plan, [["input"], *headings], drift_shown(drift, shown), lettering)
    keys = _keys(colours, scale, captions, flips is not None)
    return compose(header(sheet_width(body.shape[1]), title, keys, lettering), body)


def _check(
    pictures: Bytes,
    frames: AnyFloats,
    columns: Sequence[str],
    captions: Sequence[Caption],
    flips: Flags | None,
    drift: Sequence[float | None] | None,
    most_probes: int,
    most_columns: int,
) -> None:
    if pictures.ndim != 4 or not len(pictures) or not len(frames):
        raise ConfigurationError(
            f"There is nothing to draw: pictures has shape {pictures.shape} and frames "
            f"{frames.shape}. Give at least one probe and one observation."
        )
    if most_probes < 1 or most_columns < 1:
        raise ConfigurationError(
            f"most_probes={most_probes} and most_columns={most_columns} must be 1 or more."
        )
    if frames.ndim not in (3, 4, 5) or frames.shape[1] != len(pictures):
        raise ConfigurationError(
            f"frames has shape {frames.shape} for {len(pictures)} pictures. Give (T, P, h, w)."
        )
    if flips is not None and flips.shape != frames.shape[:2]:
        raise ConfigurationError(
            f"flips has shape {flips.shape}. Give one flag for each map: {frames.shape[:2]}."
        )
    for name, given in (("columns", columns), ("drift", drift)):
        if given is not None and len(given) != len(frames):
            raise ConfigurationError(
                f"{name} has {len(given)} entries for {len(frames)} observations. "
                "Give one for each."
            )
    check_captions(captions, len(pictures))


def _much_coarser(frames: AnyFloats, pictures: Bytes) -> bool:
    return bool(9 * math.prod(frames.shape[-2:]) <= math.prod(pictures.shape[1:3]))


def _planes(frames: AnyFloats) -> AnyFloats:
    planes = to_planes(frames.reshape(-1, *frames.shape[2:]), frames.shape[2:])
    return planes.reshape(*frames.shape[:2], *planes.shape[1:])


def _film(
    unit: Floats, images: Bytes, colours: Colormap, lettering: Lettering, *, over: bool
) -> Bytes:
    """Draw the pictures and the maps `unit` (T, P, h, w): (1 + T, P, height, width, 3)."""
    ground = np.tile(images, (len(unit), 1, 1, 1)) if over else None
    maps = unit.reshape(-1, *unit.shape[2:])
    cells = map_cells(maps, images.shape[1:3], colours, lettering, over=ground)
    return np.concatenate([images[None], cells.reshape(*unit.shape[:2], *cells.shape[1:])])


def _assemble(plan: FilmPlan, film: Bytes, sides: Bytes) -> Bytes:
    """Lay out `film` (1 + T, P, height, width, 3) and the captions at the side of its rows."""
    body = plain(*plan.size)
    height, width = film.shape[2:4]
    for probe in range(plan.probes):
        for column in range(len(film)):
            top, left = plan.corner(probe, column)
            body[top : top + height, left : left + width] = film[column, probe]
        top, left = plan.corner(probe, 0)
        start = left - plan.strip.corner(0)[1] - SIDE
        body[top : top + height, start : start + SIDE - _SPACE] = sides[probe]
    return body


def _frame_flips(body: Bytes, plan: FilmPlan, flips: Flags) -> None:
    for observation, probe in np.argwhere(flips[:, : plan.probes]):
        corner = plan.corner(int(probe), int(observation) + 1)
        draw_frame(body, *corner, plan.strip.height, plan.strip.width)


def _keys(colours: Colormap, scale: Scale, captions: Sequence[Caption], flips: bool) -> list[Key]:
    keys: list[Key] = [scale_key(colours, scale)]
    if any(caption.correct is not None for caption in captions):
        keys += [MarkKey("right", "right now"), MarkKey("wrong", "wrong now")]
    if flips:
        keys.append(MarkKey("flip", "prediction changed here"))
    return keys
