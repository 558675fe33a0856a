"""The head of a picture: its title, and a line of keys that tells a stranger how to read it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from lightning_saliency.rendering.arrays import FLIP, INK, QUIET, SHEET, Bytes
from lightning_saliency.rendering.colormaps import Colormap
from lightning_saliency.rendering.marks import FRAME, Mark, draw_mark
from lightning_saliency.rendering.scale import Scale
from lightning_saliency.rendering.text import Lettering

MARGIN = 14
_TITLE_LINES = 3


@dataclass(frozen=True)
class ColourKey:
    """A colour bar with what its two ends mean."""

    colormap: Colormap
    low: str
    high: str


@dataclass(frozen=True)
class MarkKey:
    """A sign and what it means; the sign "flip" is shown as a frame."""

    mark: Mark
    meaning: str


Key = ColourKey | MarkKey | str


def scale_key(colours: Colormap, scale: Scale) -> ColourKey:
    """Return the key of maps that `normalise` brought to `scale`."""
    whose = "each map on its own scale" if scale == "map" else "one scale for each row"
    if colours.signed:
        return ColourKey(colours, f"{whose}: negative", "positive, 99.5th percentile")
    return ColourKey(colours, f"{whose}: 0", "99.5th percentile")


def header(width: int, title: str, keys: Sequence[Key], lettering: Lettering) -> Bytes:
    """Draw a head (H, width, 3) of `title` over `keys`; both wrap where `width` is small.

    The type grows with the width, because a dashboard shows every picture at one size.
    """
    title_size, key_size = max(18, min(40, width // 50)), max(13, min(20, width // 100))
    room = width - 2 * MARGIN
    lines = lettering.wrap(title, title_size, room, _TITLE_LINES)
    rows = _flow(keys, key_size, room, lettering)
    title_pitch, key_pitch = round(title_size * 1.3), round(key_size * 1.6)
    height = 2 * (MARGIN // 2) + len(lines) * title_pitch + len(rows) * key_pitch
    image = Image.new("RGB", (width, height), SHEET)
    draw = ImageDraw.Draw(image)
    middle = MARGIN // 2 + title_pitch / 2
    for line in lines:
        lettering.write(draw, (MARGIN, middle), line, title_size, INK, room=room)
        middle += title_pitch
    middle += (key_pitch - title_pitch) / 2
    for row in rows:
        left = MARGIN
        for key in row:
            left += _draw_key(image, key, left, round(middle), key_size, room, lettering)
            left += _space(key_size)
        middle += key_pitch
    return np.asarray(image)


def _space(size: int) -> int:
    return round(size * 1.8)


def _flow(keys: Sequence[Key], size: int, room: int, lettering: Lettering) -> list[list[Key]]:
    """Break `keys` into rows of at most `room` pixels."""
    rows: list[list[Key]] = []
    left = room + 1
    for key in keys:
        wide = _key_width(key, size, lettering)
        if left + wide > room:
            rows.append([])
            left = 0
        rows[-1].append(key)
        left += wide + _space(size)
    return rows


def _key_width(key: Key, size: int, lettering: Lettering) -> int:
    if isinstance(key, str):
        return lettering.width(key, size)
    if isinstance(key, MarkKey):
        return round(1.4 * size) + lettering.width(key.meaning, size)
    ends = lettering.width(key.low, size) + lettering.width(key.high, size)
    return ends + _bar_width(size) + size


def _bar_width(size: int) -> int:
    return size * 7


def _draw_key(
    image: Image.Image, key: Key, left: int, middle: int, size: int, room: int, lettering: Lettering
) -> int:
    draw = ImageDraw.Draw(image)
    if isinstance(key, str):
        return lettering.write(draw, (left, middle), key, size, QUIET, room=room)
    if isinstance(key, MarkKey):
        if key.mark == "flip":
            box = (left, middle - size // 2, left + size, middle - size // 2 + size)
            draw.rectangle(box, outline=FLIP, width=FRAME)
        else:
            draw_mark(image, key.mark, (left, middle - size // 2), size)
        begin = left + round(1.4 * size)
        return (
            begin
            - left
            + lettering.write(draw, (begin, middle), key.meaning, size, QUIET, room=room)
        )
    begin = left + lettering.write(draw, (left, middle), key.low, size, QUIET, room=room)
    begin += size // 2
    reach = np.linspace(-1 if key.colormap.signed else 0, 1, _bar_width(size), dtype=np.float32)
    bar = np.broadcast_to(key.colormap(reach), (size, len(reach), 3))
    image.paste(Image.fromarray(np.ascontiguousarray(bar)), (begin, middle - size // 2))
    draw.rectangle(
        (begin, middle - size // 2, begin + len(reach) - 1, middle - size // 2 + size - 1),
        outline=(90, 94, 108),
    )
    begin += len(reach) + size - size // 2
    return begin - left + lettering.write(draw, (begin, middle), key.high, size, QUIET, room=room)
