"""A film: the probes' maps, observation by observation, on sheets alike in all else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from PIL import Image, ImageDraw

from lightning_saliency.rendering.arrays import (
    EMPTY,
    INK,
    QUIET,
    SHEET,
    STRIP,
    AnyFloats,
    Bytes,
    Flags,
)
from lightning_saliency.rendering.captions import (
    STRIP_HEIGHT,
    caption_strips,
    check_captions,
)
from lightning_saliency.rendering.cells import Caption, cell_size, hatched_cell, map_cells
from lightning_saliency.rendering.colormaps import Colormap, find_colormap
from lightning_saliency.rendering.layout import Tiling, compose, misfit, sheet_width
from lightning_saliency.rendering.legend import MARGIN, Key, MarkKey, header, scale_key
from lightning_saliency.rendering.marks import draw_frame
from lightning_saliency.rendering.picture import to_planes
from lightning_saliency.rendering.resize import resize_pictures, shrink_maps
from lightning_saliency.rendering.scale import normalise
from lightning_saliency.rendering.text import Lettering

CLOCK = 44
"""Pixels of the line that says when."""
_CLOCK_SIZE = 22
_TRACK = 6
_TYPICAL_HEAD = 130
_GAP = 4
_LETTERS = 15  # pixels of a caption's type
_SIGNS = 48  # pixels of a caption's mark, margins and spaces


@dataclass(frozen=True)
class Film:
    """What all frames of a film share; `frame` draws one of them.

    Attributes:
        pictures: (N, H, W, 3) uint8, of `to_pictures`.
        moments: T times a label and a step.
        title: Of the film.
        names: All class names that captions may have, for the choice of a font.
        signed: Whether the sign of the maps means something.
        judged: Whether captions say what is right.
        cell: Pixels; a cell has the area cell² and the aspect of the pictures.
    """

    pictures: Bytes
    moments: Sequence[tuple[str, int]]
    title: str
    names: Sequence[str] = ()
    signed: bool = False
    judged: bool = True
    cell: int = 112

    def frame(
        self,
        index: int,
        maps: AnyFloats,
        captions: Sequence[Caption],
        unreliable: Flags | None = None,
    ) -> Bytes:
        """Draw one observation: each map over its picture, on its own scale.

        Args:
            index: Of the observation, in 0..T−1.
            maps: (N, *spatial); one with a non-finite value is drawn hatched.
            captions: One for each probe; framed where the prediction changed.
            unreliable: (N,), maps that are noise for the most part, and are not shown.

        Returns:
            (H, W, 3) uint8, of one size for all frames.
        """
        check_captions(captions, len(self.pictures))
        planes = to_planes(maps, maps.shape[1:])
        unit = normalise(shrink_maps(planes, self.size), signed=self.signed)
        cells = map_cells(unit, self.size, self.colours, self.lettering, over=self.images)
        if unreliable is not None and unreliable.any():
            cells[unreliable] = hatched_cell(self.size, self.lettering, "unreliable")
        said = [self._fitting(caption) for caption in captions]
        strips = caption_strips(said, self.size[1], self.lettering)
        body = self.tiling.assemble(np.concatenate([cells, strips], axis=1))
        for place, caption in enumerate(captions):
            if caption.flipped:
                corner = self.tiling.corner(place)
                draw_frame(body, *corner, self.tiling.height, self.tiling.width)
        head = np.concatenate([self.head, self._clock(index)])
        return compose(head, body, MARGIN - self.tiling.inset)

    @cached_property
    def size(self) -> tuple[int, int]:
        """Height and width of a cell."""
        return cell_size(self.cell, self.pictures)

    @cached_property
    def images(self) -> Bytes:
        """The pictures in the size of cells."""
        return resize_pictures(self.pictures, self.size)

    @cached_property
    def colours(self) -> Colormap:
        """The colour map of the maps."""
        return find_colormap(None, signed=self.signed)

    @cached_property
    def tiling(self) -> Tiling:
        """Where the probes are: about 2:1, with few places left empty."""
        count, (height, width) = len(self.pictures), self.size
        tilings = [
            Tiling(height + STRIP_HEIGHT, width, -(-count // columns), columns, _GAP)
            for columns in range(1, count + 1)
        ]

        def unfit(one: Tiling) -> float:
            empty = 1 - count / (one.rows * one.columns)
            return misfit(*one.size, extra=_TYPICAL_HEAD) + empty

        return min(tilings, key=unfit)

    @cached_property
    def lettering(self) -> Lettering:
        """Writes all that the film says."""
        labels = [label for label, _ in self.moments]
        return Lettering.for_texts([self.title, *labels, *self.names])

    @cached_property
    def head(self) -> Bytes:
        """The title and the legend."""
        width = sheet_width(self.tiling.size[1] - 2 * self.tiling.inset)
        keys: list[Key] = [scale_key(self.colours, "map")]
        if self.judged:
            keys += [MarkKey("right", "right"), MarkKey("wrong", "wrong")]
        keys.append(MarkKey("flip", "prediction changed"))
        return header(width, self.title, keys, self.lettering)

    def _fitting(self, caption: Caption) -> Caption:
        """What there is room for in all frames: a whole name says more than two halves."""
        if self._fits("label 0.00", names=2):
            return caption
        label = "" if caption.prediction else caption.label
        probability = caption.probability if self._fits("0.00") else None
        # The frame says that it changed.
        return replace(caption, label=label, probability=probability, flipped=False)

    def _fits(self, text: str, names: int = 1) -> bool:
        """Whether a caption has room for so many names, and for this."""
        widest = max((self.lettering.width(name, _LETTERS) for name in self.names), default=0)
        return names * widest + self.lettering.width(text, _LETTERS) <= self.size[1] - _SIGNS

    def _clock(self, index: int) -> Bytes:
        """Draw when it is (CLOCK, W, 3): in words, and on a track from the first to the last."""
        width, middle = self.head.shape[1], CLOCK // 2 - 2
        image = Image.new("RGB", (width, CLOCK), SHEET)
        draw = ImageDraw.Draw(image)
        label, step = self.moments[index]
        room = self._words
        took = self.lettering.write(draw, (MARGIN, middle), label, _CLOCK_SIZE, INK, room=room)
        at = (MARGIN + took + 10, middle + 2)
        left = room - took - 10
        self.lettering.write(draw, at, _step(step), _CLOCK_SIZE - 6, QUIET, room=max(0, left))
        begin, end = MARGIN + room + 2 * MARGIN, width - MARGIN
        self._draw_track(draw, index, begin, end, middle)
        return np.asarray(image)

    def _draw_track(
        self, draw: ImageDraw.ImageDraw, index: int, begin: int, end: int, middle: int
    ) -> None:
        steps = [step for _, step in self.moments]
        span = max(1, steps[-1] - steps[0])
        places = [begin + (step - steps[0]) / span * (end - begin) for step in steps]
        top, bottom = middle - _TRACK // 2, middle + _TRACK // 2
        now = places[index]
        draw.rectangle((begin, top, end, bottom), fill=STRIP)
        draw.rectangle((begin, top, now, bottom), fill=QUIET)
        if (end - begin) / len(places) >= 4:  # else they would be one bar
            for place in places:
                draw.line((place, top, place, bottom), fill=EMPTY)
        draw.ellipse((now - 7, middle - 7, now + 7, middle + 7), fill=INK)

    @cached_property
    def _words(self) -> int:
        """Pixels of the longest moment in words, up to a third of the width."""
        widths = [
            self.lettering.width(label, _CLOCK_SIZE)
            + self.lettering.width(_step(step), _CLOCK_SIZE - 6)
            for label, step in self.moments
        ]
        return min(max(widths) + 10, len(self.head[0]) // 3)


def _step(step: int) -> str:
    return f"step {step}"
