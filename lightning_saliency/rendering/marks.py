"""Signs drawn as shapes, since fonts may lack them: tick, cross, triangle, frame."""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw

from lightning_saliency.rendering.arrays import FLIP, RIGHT, WRONG, Bytes, Colour

Mark = Literal["right", "wrong", "flip"]
FRAME = 3
"""Pixels of the frame around what belongs to a changed prediction."""

COLOURS: dict[Mark, Colour] = {"right": RIGHT, "wrong": WRONG, "flip": FLIP}
_FINE = 4
# Corner points in a unit square.
_STROKES: dict[Mark, list[list[tuple[float, float]]]] = {
    "right": [[(0.12, 0.55), (0.40, 0.82), (0.90, 0.20)]],
    "wrong": [[(0.18, 0.18), (0.82, 0.82)], [(0.18, 0.82), (0.82, 0.18)]],
}
_TRIANGLE = [(0.5, 0.08), (0.97, 0.90), (0.03, 0.90)]


def draw_mark(image: Image.Image, mark: Mark, at: tuple[int, int], size: int) -> None:
    """Draw `mark` into `image`, antialiased, `at` its left upper corner."""
    image.paste(COLOURS[mark], at, _mask(mark, size))


@lru_cache(maxsize=64)
def _mask(mark: Mark, size: int) -> Image.Image:
    fine = size * _FINE
    mask = Image.new("L", (fine, fine))
    draw = ImageDraw.Draw(mask)
    if mark == "flip":
        draw.polygon([(x * fine, y * fine) for x, y in _TRIANGLE], fill=255)
    for stroke in _STROKES.get(mark, []):
        points = [(x * fine, y * fine) for x, y in stroke]
        draw.line(points, fill=255, width=round(0.2 * fine), joint="curve")
    return mask.reduce(_FINE)


def draw_frame(sheet: Bytes, top: int, left: int, height: int, width: int) -> None:
    """Draw the frame of a changed prediction around the rectangle, outside of it, into `sheet`."""
    colour = np.array(FLIP, dtype=np.uint8)
    bottom, right = top + height, left + width
    sheet[top - FRAME : top, left - FRAME : right + FRAME] = colour
    sheet[bottom : bottom + FRAME, left - FRAME : right + FRAME] = colour
    sheet[top:bottom, left - FRAME : left] = colour
    sheet[top:bottom, right : right + FRAME] = colour
