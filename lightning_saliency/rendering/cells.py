"""One probe, one cell: a map over its picture, the undefined cell, and what a caption says."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from lightning_saliency.errors import ConfigurationError
from lightning_saliency.rendering.arrays import (
    EMPTY,
    HATCH,
    QUIET,
    AnyFloats,
    Bytes,
    Colour,
    Floats,
)
from lightning_saliency.rendering.colormaps import Colormap
from lightning_saliency.rendering.resize import resize_maps
from lightning_saliency.rendering.scale import constant, undefined
from lightning_saliency.rendering.text import Lettering

OPACITY = 0.9
"""Of a map over its picture: the picture stays as a dim grey ground, the map has the colour."""
_COARSE_OPACITY = 0.72  # what lies under a wide spot is the very thing one wants to see
_DIMMED = np.float32(0.34)
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
_WIDEST_ASPECT = 2.0
_INTERPOLATED = 3.0


@dataclass(frozen=True)
class Caption:
    """What is written beside a probe.

    Attributes:
        label: Its true class, or its name; "" when there is none.
        prediction: The class that the model predicts now; "" when there is none.
        flipped: Whether the prediction has changed since the previous observation.
        probability: Of the prediction, 0..1.
        correct: Whether the prediction is right; None when that has no meaning.
    """

    label: str
    prediction: str = ""
    flipped: bool = False
    probability: float | None = None
    correct: bool | None = None


def cell_size(cell: int, pictures: Bytes) -> tuple[int, int]:
    """Height and width of cells of the area `cell`², in the aspect of `pictures` up to 2:1."""
    if cell < 8:
        raise ConfigurationError(f"cell={cell} is too small to see anything. Use 8 pixels or more.")
    aspect = pictures.shape[2] / pictures.shape[1]
    aspect = min(max(aspect, 1 / _WIDEST_ASPECT), _WIDEST_ASPECT)
    return round(cell / math.sqrt(aspect)), round(cell * math.sqrt(aspect))


def blend(pictures: Bytes, colours: Bytes, strength: AnyFloats, opacity: float = OPACITY) -> Bytes:
    """Lay `colours` over `pictures`, the more the stronger the map.

    Args:
        pictures: (N, H, W, 3) uint8.
        colours: (N, H, W, 3) uint8, of the map.
        strength: (N, H, W), 0..1.
        opacity: 0 is the picture as it is; 1 is a dim grey picture, covered where the map is 1.

    Returns:
        (N, H, W, 3) uint8.
    """
    fade = np.float32(opacity)
    ground = pictures.astype(np.float32)
    luminance = (ground @ _LUMA)[..., None]
    ground *= 1 - fade
    ground += luminance * (_DIMMED * fade)
    strong = np.asarray(strength, dtype=np.float32)
    cover = ((2 - strong) * strong * fade)[..., None]  # weak evidence shows too
    painted = colours.astype(np.float32)
    painted -= ground
    painted *= cover
    ground += painted
    ground += 0.5
    return ground.astype(np.uint8)


def map_cells(
    unit: Floats,
    size: tuple[int, int],
    colormap: Colormap,
    lettering: Lettering,
    *,
    over: Bytes | None = None,
) -> Bytes:
    """Draw normalised maps as cells.

    Args:
        unit: (N, h, w) as `normalise` returns them.
        size: Height and width of a cell.
        colormap: For their range.
        lettering: Writes the notes on undefined and constant maps.
        over: (N, *size, 3) pictures to blend the maps over; None draws them bare.

    Returns:
        (N, *size, 3) uint8: hatched where undefined, in the colour of zero where constant.
    """
    lost, level = undefined(unit), constant(unit)
    defined = np.where(lost[:, None, None], np.float32(0), unit)
    # Few large pixels would be read as edges of the evidence; many small ones are the evidence.
    coarse = min(want / have for want, have in zip(size, unit.shape[-2:], strict=True)) > 6
    smooth = coarse or min(size[0] / unit.shape[-2], size[1] / unit.shape[-1]) < _INTERPOLATED
    shown = resize_maps(defined, size, smooth=smooth)
    cells = colormap(shown)
    if over is not None:
        cells = blend(over, cells, np.abs(shown), _COARSE_OPACITY if coarse else OPACITY)
    if level.any():
        zero = colormap(np.zeros(1, dtype=np.float32))[0]
        red, green, blue = (int(channel) for channel in zero)
        cells[level] = note_cell(size, "constant", lettering, ground=(red, green, blue))
    if lost.any():
        cells[lost] = hatched_cell(size, lettering)
    return cells


def note_cell(
    size: tuple[int, int], note: str, lettering: Lettering, *, ground: Colour = EMPTY
) -> Bytes:
    """Draw a plain cell (*size, 3) that says `note`."""
    image = Image.new("RGB", (size[1], size[0]), ground)
    _write_note(image, note, lettering)
    return np.asarray(image)


def hatched_cell(size: tuple[int, int], lettering: Lettering, note: str = "undefined") -> Bytes:
    """Draw the cell (*size, 3) of a map that can't be shown: a hatching that no map looks like."""
    image = Image.fromarray(hatching(size))
    _write_note(image, note, lettering, plate=True)
    return np.asarray(image)


def hatching(size: tuple[int, int], pitch: int = 10) -> Bytes:
    """Draw diagonal stripes (*size, 3)."""
    down, across = np.ogrid[: size[0], : size[1]]
    phase = np.abs((down + across) % pitch - pitch / 2)
    stripe = np.clip(phase - pitch / 2 + 2.0, 0, 1)[..., None]
    return np.asarray(np.array(EMPTY) * (1 - stripe) + np.array(HATCH) * stripe, dtype=np.uint8)


def _write_note(
    image: Image.Image, note: str, lettering: Lettering, *, plate: bool = False
) -> None:
    draw = ImageDraw.Draw(image)
    size = max(9, min(14, image.width // 8))
    lines = lettering.wrap(note, size, image.width - 6, most=3)
    pitch = size + 3
    top = image.height / 2 - pitch * (len(lines) - 1) / 2
    for number, line in enumerate(lines):
        middle = (image.width / 2, top + number * pitch)
        if plate:
            half = lettering.width(line, size) / 2 + 4
            low, high = middle[1] - pitch / 2 - 1, middle[1] + pitch / 2 + 1
            draw.rectangle((middle[0] - half, low, middle[0] + half, high), fill=EMPTY)
        lettering.write(draw, middle, line, size, QUIET, room=image.width - 6, align="centre")
