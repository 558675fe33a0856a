"""Names of the arrays that pass through the rendering, and the colours they are drawn in."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Bytes: TypeAlias = NDArray[np.uint8]
"""Pixels: (..., 3) sRGB in 0..255."""
Floats: TypeAlias = NDArray[np.float32]
Flags: TypeAlias = NDArray[np.bool_]
AnyFloats: TypeAlias = NDArray[np.floating[Any]]
Colour: TypeAlias = tuple[int, int, int]

# One dark sheet for TensorBoard's light and dark mode alike: maps are read against black, and the
# sheet is a little lighter than black so that the edge of a dark cell stays visible.
SHEET: Colour = (24, 26, 33)
STRIP: Colour = (40, 43, 53)
EMPTY: Colour = (31, 33, 41)
HATCH: Colour = (78, 82, 96)
INK: Colour = (240, 241, 245)
QUIET: Colour = (172, 176, 188)

# Apart in hue and in lightness for the common forms of colour blindness (after Okabe & Ito 2008:
# bluish green, vermillion, yellow), and never the only sign: a tick, a cross, a triangle go along.
RIGHT: Colour = (84, 208, 178)
WRONG: Colour = (255, 128, 88)
FLIP: Colour = (255, 205, 40)


def plain(height: int, width: int, colour: Colour = SHEET) -> Bytes:
    """Return a sheet (height, width, 3) of one colour."""
    row = np.empty((width, 3), dtype=np.uint8)
    row[:] = colour
    return np.repeat(row[None], height, axis=0)  # whole rows: ten times faster than by pixel
