"""What classes look like to a model, one row per class, over the training from left to right."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from lightning_saliency.errors import ConfigurationError
from lightning_saliency.rendering.arrays import INK, QUIET, SHEET, STRIP, Bytes, Floats, plain
from lightning_saliency.rendering.filmhead import paste_headings
from lightning_saliency.rendering.filmplan import SIDE, FilmPlan, columns_shown, film_plan
from lightning_saliency.rendering.layout import compose, sheet_width
from lightning_saliency.rendering.legend import header
from lightning_saliency.rendering.resize import resize_pictures
from lightning_saliency.rendering.text import Lettering

_UNDER = 22  # pixels of the strip below a picture
_NUMBER = 14
_NAME = 20
_SPACE = 12  # between a name and its row
_BAR = 3
_BAR_COLOUR = (126, 158, 255)
_KEYS = (
    "grey: the plain picture that each starts from",
    "brighter, darker: what raises the class's score; each on its own scale",
    "below: the probability that the model gives the class",
)


def concept_strip(
    frames: Bytes,
    reached: Floats,
    columns: Sequence[str],
    names: Sequence[str],
    *,
    title: str,
    cell: int | None = None,
    most_columns: int = 16,
) -> Bytes:
    """Draw one row for each class: its picture at each observation, over the probability reached.

    Args:
        frames: (T, K, H, W, 3) uint8.
        reached: (T, K), 0..1; NaN where there is no probability.
        columns: T headings such as "start" or "epoch 3"; a second line after a line feed.
        names: K, of the classes.
        title: What it is, and when.
        cell: Pixels; a cell has the area cell² and the aspect of the pictures. By default the
            largest up to 112 within 1800 pixels of width.
        most_columns: The first and the newest observation, and others evenly between them.

    Returns:
        (H, W, 3) uint8.

    Raises:
        ConfigurationError: Shapes that do not fit together.
    """
    _check(frames, reached, columns, names)
    shown = columns_shown(len(frames), most_columns)
    headings = [columns[index].split("\n")[:2] for index in shown]
    lettering = Lettering.for_texts([title, *columns, *names])
    plan = film_plan(frames[0], headings, cell, lead=0, under=_UNDER)
    body = _assemble(plan, frames[shown], reached[shown], lettering)
    _write_names(body, plan, names, lettering)
    paste_headings(body, plan, headings, None, lettering)
    return compose(header(sheet_width(body.shape[1]), title, _KEYS, lettering), body)


def _check(frames: Bytes, reached: Floats, columns: Sequence[str], names: Sequence[str]) -> None:
    if frames.ndim != 5 or not frames.size:
        raise ConfigurationError(
            f"There is nothing to draw: frames has shape {frames.shape}. Give (T, K, H, W, 3), at "
            "least one observation of one class."
        )
    if reached.shape != frames.shape[:2] or (len(columns), len(names)) != frames.shape[:2]:
        raise ConfigurationError(
            f"reached has shape {reached.shape}, columns {len(columns)} entries and names "
            f"{len(names)}, for frames of shape {frames.shape}. Give (T, K), T and K."
        )


def _assemble(plan: FilmPlan, frames: Bytes, reached: Floats, lettering: Lettering) -> Bytes:
    body = plain(*plan.size)
    height, width = plan.strip.height - _UNDER, plan.strip.width
    for column, (pictures, shares) in enumerate(zip(frames, reached, strict=True)):
        for row, picture in enumerate(resize_pictures(pictures, (height, width))):
            top, left = plan.corner(row, column)
            body[top : top + height, left : left + width] = picture
            strip = _strip(float(shares[row]), width, lettering)
            body[top + height : top + height + _UNDER, left : left + width] = strip
    return body


def _strip(share: float, width: int, lettering: Lettering) -> Bytes:
    """The number, over a bar as long as it is large."""
    image = Image.new("RGB", (width, _UNDER), STRIP)
    draw, known = ImageDraw.Draw(image), share == share
    at = (width / 2, (_UNDER - _BAR) / 2)
    ink, text = (INK, f"{share:.2f}") if known else (QUIET, "-")
    lettering.write(draw, at, text, _NUMBER, ink, room=width, align="centre")
    reach = round(width * min(max(share, 0.0), 1.0)) if known else 0
    if reach:
        draw.rectangle((0, _UNDER - _BAR, reach - 1, _UNDER - 1), fill=_BAR_COLOUR)
    return np.asarray(image)


def _write_names(body: Bytes, plan: FilmPlan, names: Sequence[str], lettering: Lettering) -> None:
    height, room = plan.strip.height - _UNDER, SIDE - _SPACE
    for row, name in enumerate(names):
        image = Image.new("RGB", (room, height), SHEET)
        lines = lettering.wrap(name, _NAME, room, most=3)
        middle = height / 2 - (len(lines) - 1) * _NAME * 0.65
        for number, line in enumerate(lines):
            at = (room, middle + number * _NAME * 1.3)
            lettering.write(ImageDraw.Draw(image), at, line, _NAME, INK, room=room, align="right")
        top, left = plan.corner(row, 0)
        start = left - plan.strip.corner(0)[1] - SIDE
        body[top : top + height, start : start + room] = np.asarray(image)
