"""Lettering: a scalable font without a font file of our own, and text that stays in its strip."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

from PIL import ImageDraw, ImageFont

from lightning_saliency.rendering.arrays import Colour

ELLIPSIS = "…"
# Pillow's own font holds Latin letters; names in other scripts need one of the system's.
_WIDER_FONTS = (
    "DejaVuSans.ttf",
    "NotoSansCJK-Regular.ttc",
    "Arial Unicode.ttf",
    "msyh.ttc",
    "arial.ttf",
)
_UNASSIGNED = "\uffff"
_LONGEST = 1000  # letters: more fit into no picture, and take long to measure


@dataclass(frozen=True)
class Lettering:
    """Fonts for one picture: FreeType faces are not shared between threads.

    Attributes:
        extra: Name of a system font for `texts` outside Latin, or None.
    """

    extra: str | None = None
    _fonts: dict[tuple[str | None, int], ImageFont.FreeTypeFont] = field(
        default_factory=dict, repr=False, compare=False
    )
    _widths: dict[tuple[str, int], int] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def for_texts(cls, texts: Iterable[str]) -> Lettering:
        """Lettering that can write all `texts`, as far as the system has a font for them."""
        foreign = sorted({letter for text in texts for letter in text if not _is_latin(letter)})
        return cls(_font_with("".join(foreign[:32])) if foreign else None)

    def font(self, text: str, size: int) -> ImageFont.FreeTypeFont:
        """Return the font for `text` at `size` pixels."""
        name = None if all(map(_is_latin, text)) else self.extra
        if (name, size) not in self._fonts:
            self._fonts[name, size] = _load(name, size)
        return self._fonts[name, size]

    def width(self, text: str, size: int) -> int:
        """Pixels that `text` takes on one line, rounded up."""
        text = _one_line(text)
        if (text, size) not in self._widths:
            self._widths[text, size] = math.ceil(self.font(text, size).getlength(text))
        return self._widths[text, size]

    def fit(self, text: str, size: int, room: int) -> str:
        """Return `text` on one line, ended by an ellipsis where it is wider than `room` pixels."""
        text = _one_line(text)
        if self.width(text, size) <= room:
            return text
        low, high = 0, len(text)
        while low < high:
            middle = (low + high + 1) // 2
            fits = self.width(text[:middle].rstrip() + ELLIPSIS, size) <= room
            low, high = (middle, high) if fits else (low, middle - 1)
        shortened = text[:low].rstrip() + ELLIPSIS
        return shortened if low or self.width(ELLIPSIS, size) <= room else ""

    def wrap(self, text: str, size: int, room: int, most: int) -> list[str]:
        """Break `text` into at most `most` lines of `room` pixels; the last one is ellipsised."""
        lines: list[str] = []
        words = _one_line(text).split()
        while words and len(lines) < most - 1:
            count = len(words)
            while count > 1 and self.width(" ".join(words[:count]), size) > room:
                count -= 1
            lines.append(self.fit(" ".join(words[:count]), size, room))
            words = words[count:]
        return [*lines, self.fit(" ".join(words), size, room)] if words else lines

    def write(
        self,
        draw: ImageDraw.ImageDraw,
        at: tuple[float, float],
        text: str,
        size: int,
        colour: Colour,
        *,
        room: int,
        align: Literal["left", "centre", "right"] = "left",
    ) -> int:
        """Write `text` within `room` pixels and return the width it took.

        `at` is the (left | centre | right) end of the line and its vertical middle.
        """
        fitted = self.fit(text, size, room)
        anchor = {"left": "lm", "centre": "mm", "right": "rm"}[align]
        draw.text(at, fitted, font=self.font(fitted, size), fill=colour, anchor=anchor)
        return self.width(fitted, size)


def _one_line(text: str) -> str:
    """`text` without breaks of any kind: the text engine refuses them."""
    return " ".join(text[:_LONGEST].split())


def _is_latin(letter: str) -> bool:
    return letter < "\u0100" or letter == ELLIPSIS


def _load(name: str | None, size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.truetype(name, size) if name else ImageFont.load_default(size)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise RuntimeError("Pillow was built without FreeType: install Pillow's own wheel.")
    return font


@lru_cache(maxsize=64)
def _font_with(letters: str) -> str | None:
    """Name of the first system font that can draw most of `letters`."""
    best, most = None, 0
    for name in _WIDER_FONTS:
        try:
            font = _load(name, 16)
        except OSError:
            continue
        nothing = bytes(font.getmask(_UNASSIGNED))
        drawn = sum(bytes(font.getmask(letter)) != nothing for letter in letters)
        if drawn > most:
            best, most = name, drawn
    return best
