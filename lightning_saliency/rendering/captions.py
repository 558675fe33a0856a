"""Captions as strips of pixels: under a block of cells, and at the side of a row."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from lightning_saliency.errors import ConfigurationError
from lightning_saliency.rendering.arrays import (
    INK,
    QUIET,
    RIGHT,
    SHEET,
    STRIP,
    WRONG,
    Bytes,
    Colour,
)
from lightning_saliency.rendering.cells import Caption
from lightning_saliency.rendering.marks import draw_mark
from lightning_saliency.rendering.text import Lettering

STRIP_HEIGHT = 24
_SIZE = 15
_PAD = 7
_SPACE = 7


def check_captions(captions: Sequence[Caption], count: int) -> None:
    """Raise ConfigurationError unless there is one caption for each probe."""
    if len(captions) != count:
        raise ConfigurationError(
            f"captions has {len(captions)} entries for {count} pictures. Give one for each."
        )


def texts_of(captions: Sequence[Caption]) -> list[str]:
    """Return all that `captions` will write, for the choice of a font."""
    return [text for caption in captions for text in (caption.label, caption.prediction)]


def caption_strips(captions: Sequence[Caption], width: int, lettering: Lettering) -> Bytes:
    """Draw one-line captions (N, STRIP_HEIGHT, width, 3): mark, prediction, probability … label."""
    image = Image.new("RGB", (width, STRIP_HEIGHT * len(captions)), STRIP)
    for number, caption in enumerate(captions):
        _write_strip(image, caption, number * STRIP_HEIGHT, lettering)
    return np.asarray(image).reshape(len(captions), STRIP_HEIGHT, width, 3)


def _write_strip(image: Image.Image, caption: Caption, top: int, lettering: Lettering) -> None:
    draw, middle = ImageDraw.Draw(image), top + STRIP_HEIGHT / 2
    left, right = _PAD, image.width - _PAD
    left = _mark(image, caption, left, top + (STRIP_HEIGHT - _SIZE) // 2)
    label = _label(caption)
    if caption.correct and caption.prediction == caption.label:
        label = ""  # the tick has said it
    room = right - left if not caption.prediction else max(0, (right - left) * 45 // 100)
    if label:
        at = (right, middle)
        right -= lettering.write(draw, at, label, _SIZE, QUIET, room=room, align="right") + _SPACE
    number = _probability(caption)
    change = _SIZE + _SPACE if caption.flipped else 0
    numbers = lettering.width(number, _SIZE) + _SPACE if number else 0
    if right - left < change + numbers + 2 * _SIZE:
        numbers, number = 0, ""  # a name says more than a number
    left += lettering.write(
        draw, (left, middle), caption.prediction, _SIZE, _ink(caption),
        room=max(0, right - left - change - numbers),
    )  # fmt: skip
    if number:
        draw_at = (left + _SPACE, middle)
        left += _SPACE + lettering.write(draw, draw_at, number, _SIZE, INK, room=right - left)
    if change:
        draw_mark(image, "flip", (left + _SPACE, top + (STRIP_HEIGHT - _SIZE) // 2), _SIZE)


def side_captions(
    captions: Sequence[Caption], size: tuple[int, int], lettering: Lettering
) -> Bytes:
    """Draw captions (N, *size, 3) of three lines, for the left end of a row."""
    height, width = size
    pitch = min(22, height // 3)
    letters = max(8, min(_SIZE, pitch - 3))
    image = Image.new("RGB", (width, height * len(captions)), SHEET)
    draw = ImageDraw.Draw(image)
    for number, caption in enumerate(captions):
        middle = number * height + height / 2 - pitch
        lettering.write(draw, (0, middle), _label(caption), letters, INK, room=width)
        left = _mark(image, caption, 0, round(middle + pitch - letters / 2), letters)
        lettering.write(
            draw, (left, middle + pitch), caption.prediction, letters, _ink(caption),
            room=width - left,
        )  # fmt: skip
        at = (left, middle + 2 * pitch)
        lettering.write(draw, at, _probability(caption), letters, QUIET, room=width - left)
    return np.asarray(image).reshape(len(captions), height, width, 3)


def _mark(image: Image.Image, caption: Caption, left: int, top: int, size: int = _SIZE) -> int:
    """Draw the tick or the cross, and return where the prediction begins."""
    if caption.correct is None or not caption.prediction:
        return left
    draw_mark(image, "right" if caption.correct else "wrong", (left, top), size)
    return left + size + 5


def _ink(caption: Caption) -> Colour:
    return {True: RIGHT, False: WRONG, None: INK}[caption.correct]


def _label(caption: Caption) -> str:
    return f"label {caption.label}" if caption.label and caption.prediction else caption.label


def _probability(caption: Caption) -> str:
    return "" if caption.probability is None else f"{caption.probability:.2f}"
