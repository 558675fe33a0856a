"""Above the frames of a filmstrip: when each was taken, and how far the maps had moved by then."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from lightning_saliency.rendering.arrays import INK, QUIET, SHEET, Bytes
from lightning_saliency.rendering.filmplan import HEADING, SIDE, FilmPlan
from lightning_saliency.rendering.text import Lettering

_LETTERS = 15
_NUMBER = 13
_BAR = 24
_LEAST_DRIFT = 0.1  # full height of a bar at least: rounding noise must not look like an event
_BAR_COLOUR = (126, 158, 255)


def paste_headings(
    body: Bytes,
    plan: FilmPlan,
    headings: Sequence[Sequence[str]],
    drift: Sequence[float | None] | None,
    lettering: Lettering,
) -> None:
    """Write the headings of all columns, and the bars of `drift`, above each group of `body`."""
    width = SIDE + plan.strip.size[1]
    image = Image.new("RGB", (width, plan.top), SHEET)
    for number, lines in enumerate(headings):
        left = SIDE + plan.strip.corner(number)[1]
        newest = number == len(headings) - 1
        _write_heading(image, lines, left, plan.strip.width, newest, lettering)
    if drift is not None:
        _draw_drift(image, plan, drift, lettering)
    for group in range(plan.groups):
        start = group * plan.group_width
        body[: plan.top, start : start + width] = np.asarray(image)


def _write_heading(
    image: Image.Image,
    lines: Sequence[str],
    left: int,
    width: int,
    newest: bool,
    lettering: Lettering,
) -> None:
    middle = HEADING / 2
    for number, line in enumerate(lines):
        ink = INK if newest and not number else QUIET
        at = (left + width / 2, middle + number * (_LETTERS + 3))
        size = _LETTERS - 2 * number
        lettering.write(ImageDraw.Draw(image), at, line, size, ink, room=width, align="centre")


def _draw_drift(
    image: Image.Image, plan: FilmPlan, drift: Sequence[float | None], lettering: Lettering
) -> None:
    draw, bottom = ImageDraw.Draw(image), plan.top - 4
    for number, line in enumerate(("drift from the", "column before")):
        at = (0, bottom - 26 + number * (_LETTERS + 2))
        lettering.write(draw, at, line, _LETTERS - 1, QUIET, room=SIDE + plan.strip.across)
    fullest = max([_LEAST_DRIFT, *(value for value in drift if value is not None)])
    for column, value in enumerate(drift):
        left = SIDE + plan.strip.corner(column + 1)[1]
        right, middle = left + plan.strip.width - 1, left + plan.strip.width / 2
        height = 0 if value is None else round(_BAR * (max(0.0, value) / fullest))
        if value is not None:
            draw.rectangle((left, bottom - height, right, bottom), fill=_BAR_COLOUR)
        text = "-" if value is None else f"{value:.2f}"
        above = (middle, bottom - height - 9)
        lettering.write(draw, above, text, _NUMBER, INK, room=plan.strip.width, align="centre")
