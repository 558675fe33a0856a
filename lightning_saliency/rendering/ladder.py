"""The floor ladder as a picture: above which accidents does the drift of today stand.

One row per method, one line per rung from below, on a logarithmic axis; exactly 0 has a place of
its own beside it. A white line through all rungs is the drift that was measured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw

from lightning_saliency.errors import ConfigurationError
from lightning_saliency.rendering.arrays import (
    EMPTY,
    INK,
    QUIET,
    SHEET,
    STRIP,
    Bytes,
    Colour,
    Floats,
)
from lightning_saliency.rendering.layout import compose, sheet_width
from lightning_saliency.rendering.legend import header
from lightning_saliency.rendering.text import Lettering

Kind = Literal["run", "input", "weights"]

LOWEST, HIGHEST = 1e-4, 2.0
"""The ends of the axis; reversed maps drift by 2."""
TICKS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)

_COLOURS: Mapping[str, Colour] = MappingProxyType(
    {"run": (92, 184, 255), "input": (255, 176, 64), "weights": (214, 150, 230)}
)
_MEANINGS: Mapping[str, str] = MappingProxyType(
    {"run": "how the passes run", "input": "the input", "weights": "the weights"}
)
_KEYS = (
    "each line: the same probes looked at again, with one thing changed",
    "drift: 0 same, 1 unrelated (1 minus the cosine of the signed maps)",
    "dot: median over probes, bar: 10 % to 90 %",
    "white: since the previous observation",
)
_NAMES, _ZERO, _AXIS, _WORDS = 200, 172, 900, 220
_HEAD, _FOOT, _GAP, _PAD = 34, 34, 10, 10
_TEXT = 17
_FINE = 4
_BAND: Colour = (47, 51, 64)


@dataclass(frozen=True)
class LadderPlan:
    """Where everything is, in pixels of the body.

    Attributes:
        methods: rows.
        rungs: lines in a row.
        pitch: height of a line.
    """

    methods: int
    rungs: int
    pitch: int

    @classmethod
    def of(cls, methods: int, rungs: int) -> LadderPlan:
        """Lines are closer where there are many rows: a picture is best twice as wide as high."""
        pitch = {1: 40, 2: 30}.get(methods, 24 if methods <= 4 else 20 if methods <= 8 else 17)
        return cls(methods, rungs, pitch)

    @property
    def row(self) -> int:
        """Height of a row: at least three lines of words stand beside it."""
        return max(self.rungs * self.pitch, 3 * _TEXT * 4 // 3) + 2 * _PAD

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        height = _HEAD + self.methods * (self.row + _GAP) + _FOOT
        return height, _NAMES + _ZERO + _GAP + _AXIS + _WORDS

    @property
    def axis(self) -> int:
        """Where the axis begins."""
        return _NAMES + _ZERO + _GAP

    @property
    def zero(self) -> int:
        """Where exactly 0 is."""
        return _NAMES + 22

    def top(self, method: int) -> int:
        """Of a row."""
        return _HEAD + method * (self.row + _GAP)

    def line(self, method: int, rung: int) -> int:
        """The middle of a rung's line, counted from below."""
        free = self.row - self.rungs * self.pitch
        return self.top(method) + self.row - free // 2 - round((rung + 0.5) * self.pitch)

    def x(self, drift: float) -> int:
        """Of a drift; what lies beyond an end of the axis is there."""
        if drift <= 0:
            return self.zero
        reach = math.log10(HIGHEST / LOWEST)
        share = math.log10(min(max(drift, LOWEST), HIGHEST) / LOWEST) / reach
        return self.axis + round(share * (_AXIS - 1))


def floor_ladder(
    methods: Sequence[str],
    labels: Sequence[str],
    kinds: Sequence[Kind],
    floors: Floats,
    now: Floats | None = None,
    *,
    title: str,
) -> Bytes:
    """Draw how far maps move when nothing that matters changed, and how far they moved now.

    Args:
        methods: M names, a row for each.
        labels: R names of what was changed, the rung below all others first.
        kinds: R, what it was: how the passes run, the input or the weights.
        floors: (M, R, 3): 10 % quantile, median and 90 % quantile of the drift, 0..2; NaN for a
            rung that was not measured.
        now: (M, 3), the same of the drift since the previous observation; NaN or None for none.
        title: What it is, and when.

    Returns:
        (H, W, 3) uint8.

    Raises:
        ConfigurationError: Shapes that do not fit together.
    """
    now = np.full((len(methods), 3), np.nan, np.float32) if now is None else now
    _check(methods, labels, kinds, floors, now)
    plan = LadderPlan.of(len(methods), len(labels))
    lettering = Lettering.for_texts([title, *methods, *labels])
    image = Image.new("RGB", plan.size[::-1], SHEET)
    _draw_scale(image, plan, lettering)
    for row, method in enumerate(methods):
        _draw_panel(image, plan, row, method, lettering)
        _draw_now(image, plan, row, now[row])
        for rung, name in enumerate(labels):
            line = _Line(plan.line(row, rung), name, _COLOURS[kinds[rung]])
            _draw_rung(image, plan, line, floors[row, rung], float(now[row, 1]), lettering)
        words = standing(labels, floors[row, :, 1], float(now[row, 1]))
        _draw_words(image, plan, row, words, lettering)
    _draw_foot(image, plan, kinds, lettering)
    body = np.asarray(image)
    return compose(header(sheet_width(body.shape[1]), title, _KEYS, lettering), body)


def standing(labels: Sequence[str], floors: Floats, drift: float) -> tuple[str, str]:
    """A drift as a number, and the highest of the rungs (their medians, `(R,)`) that it exceeds."""
    if not math.isfinite(drift):
        return "", "no drift to hold against them"
    if drift == 0:
        return "0", "the same maps"
    shown = f"{drift:.2g}" if drift >= LOWEST else f"under {LOWEST}"
    if not np.isfinite(floors).any():
        return shown, "no floor was measured"
    below = [
        (float(floor), label)
        for floor, label in zip(floors, labels, strict=True)
        if floor < drift  # a NaN is not
    ]
    return shown, f"above {max(below)[1]}" if below else "below all floors"


def _check(
    methods: Sequence[str],
    labels: Sequence[str],
    kinds: Sequence[str],
    floors: Floats,
    now: Floats,
) -> None:
    wanted = (len(methods), len(labels), 3)
    if not methods or not labels:
        raise ConfigurationError(
            f"There is nothing to draw: {len(methods)} methods and {len(labels)} rungs. Give at "
            "least one of each."
        )
    if floors.shape != wanted or now.shape != wanted[::2] or len(kinds) != len(labels):
        raise ConfigurationError(
            f"floors has shape {floors.shape}, now {now.shape} and kinds {len(kinds)} entries, for "
            f"{len(methods)} methods and {len(labels)} rungs. Give {wanted}, {wanted[::2]} and "
            f"{len(labels)}."
        )
    unknown = [kind for kind in kinds if kind not in _COLOURS]
    if unknown:
        known = ", ".join(f"'{kind}'" for kind in _COLOURS)
        raise ConfigurationError(f"kinds: there is no '{unknown[0]}'. Known: {known}.")


def _draw_scale(image: Image.Image, plan: LadderPlan, lettering: Lettering) -> None:
    draw, middle = ImageDraw.Draw(image), _HEAD / 2
    for tick in (0.0, *TICKS):
        at, text = (plan.x(tick), middle), f"{tick:.4f}".rstrip("0").rstrip(".")
        lettering.write(draw, at, text, _TEXT, QUIET, room=90, align="centre")


def _draw_panel(
    image: Image.Image, plan: LadderPlan, row: int, method: str, lettering: Lettering
) -> None:
    draw, top = ImageDraw.Draw(image), plan.top(row)
    bottom = top + plan.row - 1
    draw.rectangle((_NAMES, top, _NAMES + _ZERO - 1, bottom), fill=EMPTY)
    draw.rectangle((plan.axis, top, plan.axis + _AXIS - 1, bottom), fill=EMPTY)
    for tick in (0.0, *TICKS):
        draw.line((plan.x(tick), top, plan.x(tick), bottom), fill=STRIP, width=2)
    room, size = _NAMES - 2 * _PAD, _TEXT + 3
    while size > 13 and max(lettering.width(word, size) for word in method.split()) > room:
        size -= 1  # such as integrated_gradients, which has no space to break at
    lines = lettering.wrap(method, size, room, 3)
    for number, line in enumerate(lines):
        middle = (top + bottom) / 2 + (number - (len(lines) - 1) / 2) * size * 1.3
        at = (_NAMES - 2 * _PAD, middle)
        lettering.write(draw, at, line, size, INK, room=room, align="right")


def _draw_now(image: Image.Image, plan: LadderPlan, row: int, drift: Floats) -> None:
    low, middle, high = map(float, drift)
    if not math.isfinite(middle):
        return
    draw, top = ImageDraw.Draw(image), plan.top(row)
    bottom = top + plan.row - 1
    _draw_span(draw, plan, (low, high), (top, bottom), _BAND)
    x = plan.x(middle)
    draw.rectangle((x - 1, top, x + 1, bottom), fill=INK)


def _draw_span(
    draw: ImageDraw.ImageDraw,
    plan: LadderPlan,
    ends: tuple[float, float],
    rows: tuple[int, int],
    colour: Colour,
) -> None:
    """From quantile to quantile; what begins at exactly 0 begins at the axis."""
    low, high = ends
    if high > 0:
        draw.rectangle((plan.x(max(low, LOWEST)), rows[0], plan.x(high), rows[1]), fill=colour)


@dataclass(frozen=True)
class _Line:
    y: int
    label: str
    colour: Colour


def _draw_rung(
    image: Image.Image,
    plan: LadderPlan,
    line: _Line,
    drift: Floats,
    now: float,
    lettering: Lettering,
) -> None:
    low, middle, high = map(float, drift)
    if not math.isfinite(middle):
        return
    draw, y, colour = ImageDraw.Draw(image), line.y, line.colour
    dim = [round(0.55 * one + 0.45 * other) for one, other in zip(colour, EMPTY, strict=True)]
    _draw_span(draw, plan, (low, high), (y - 3, y + 2), (dim[0], dim[1], dim[2]))
    x, size = plan.x(middle), min(_TEXT, plan.pitch - 5)
    mark = "less" if 0 < middle < LOWEST else "dot"
    image.paste(colour, (x - size // 2, y - size // 2 - 1), _mask(mark, size))
    left, room = _label_place(plan, line.label, (low, middle, high), size, lettering)
    if math.isfinite(now) and left - 4 <= plan.x(now) <= left + room + 4:  # the line makes way
        strip = (plan.x(now) - 1, y - size // 2 - 2, plan.x(now) + 1, y + size // 2 + 2)
        draw.rectangle(strip, fill=_BAND if now > 0 else EMPTY)
    lettering.write(draw, (left, y), line.label, size, colour, room=room)


def _label_place(
    plan: LadderPlan, label: str, drift: tuple[float, float, float], size: int, lettering: Lettering
) -> tuple[int, int]:
    """The left end of a label and its width: after the bar, or before it where the axis ends."""
    low, middle, high = drift
    wide, away = lettering.width(label, size), size // 2 + 8
    if middle <= 0:
        left = plan.zero + away
        return left, min(wide, _NAMES + _ZERO - left)
    left = max(plan.x(middle), plan.x(high)) + away
    if left + wide > plan.axis + _AXIS - 4:
        left = min(plan.x(middle), plan.x(max(low, LOWEST))) - away - wide
    return left, wide


@lru_cache(maxsize=16)
def _mask(mark: str, size: int) -> Image.Image:
    """A dot, or an arrow to what lies beyond the axis; antialiased."""
    fine = size * _FINE
    mask = Image.new("L", (fine, fine))
    draw, far = ImageDraw.Draw(mask), fine - 1
    if mark == "dot":
        draw.ellipse((fine // 8, fine // 8, far - fine // 8, far - fine // 8), fill=255)
    else:
        draw.polygon([(0, fine / 2), (far, fine // 8), (far, far - fine // 8)], fill=255)
    return mask.reduce(_FINE)


def _draw_words(
    image: Image.Image, plan: LadderPlan, row: int, words: tuple[str, str], lettering: Lettering
) -> None:
    draw, left = ImageDraw.Draw(image), plan.axis + _AXIS + 2 * _PAD
    number, where = words
    middle, room = plan.top(row) + plan.row / 2, plan.size[1] - left
    pitch = round(_TEXT * 1.35)
    lines = lettering.wrap(where, _TEXT, room, 2)
    if number:
        lettering.write(draw, (left, middle - pitch / 2), number, _TEXT + 7, INK, room=room)
        middle += pitch * 0.7
    for number_of_line, line in enumerate(lines):
        lettering.write(
            draw, (left, middle + number_of_line * pitch), line, _TEXT, QUIET, room=room
        )


def _draw_foot(
    image: Image.Image, plan: LadderPlan, kinds: Sequence[str], lettering: Lettering
) -> None:
    draw, left = ImageDraw.Draw(image), plan.axis
    middle = plan.size[0] - _FOOT // 2
    left += lettering.write(draw, (left, middle), "changed:", _TEXT, QUIET, room=200) + _PAD
    for kind in dict.fromkeys(kinds):
        image.paste(_COLOURS[kind], (left, middle - _TEXT // 2), _mask("dot", _TEXT))
        left += _TEXT + 6
        text = _MEANINGS[kind]
        left += lettering.write(draw, (left, middle), text, _TEXT, QUIET, room=250) + 2 * _PAD
