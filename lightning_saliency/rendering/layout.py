"""Where everything is: the geometry of a picture, in pixels, without a pixel being drawn."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from lightning_saliency.rendering.arrays import Bytes, plain
from lightning_saliency.rendering.legend import MARGIN
from lightning_saliency.rendering.marks import FRAME

ASPECT = 2.0
"""Width to height of TensorBoard's image cards."""
NARROWEST = 480
"""Pixels: a title needs them."""
GAP = 2
"""Pixels between cells, and between the frames of neighbouring blocks."""


@dataclass(frozen=True)
class Tiling:
    """Equal blocks in rows, each with room for a frame around it.

    Attributes:
        height: Of a block.
        width: Of a block.
        rows: Rows of blocks.
        columns: Columns of blocks.
        gap: Between the frames of two blocks.
    """

    height: int
    width: int
    rows: int
    columns: int
    gap: int = GAP

    @property
    def inset(self) -> int:
        """Pixels from the edge of the sheet to the first block."""
        return FRAME + self.gap // 2

    @property
    def down(self) -> int:
        """Pixels from one row to the next."""
        return self.height + 2 * FRAME + self.gap

    @property
    def across(self) -> int:
        """Pixels from one column to the next."""
        return self.width + 2 * FRAME + self.gap

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of all blocks together."""
        return self.rows * self.down, self.columns * self.across

    def corner(self, index: int) -> tuple[int, int]:
        """Top and left of block `index`, counted row by row."""
        row, column = divmod(index, self.columns)
        return row * self.down + self.inset, column * self.across + self.inset

    def assemble(self, blocks: Bytes) -> Bytes:
        """Lay `blocks` (N, height, width, 3), row by row, on a sheet (*size, 3)."""
        places = self.rows * self.columns
        padded = plain(places * self.down, self.across).reshape(places, self.down, -1, 3)
        top, left = self.corner(0)
        padded[: len(blocks), top : top + self.height, left : left + self.width] = blocks
        tiled = padded.reshape(self.rows, self.columns, self.down, self.across, 3)
        return np.ascontiguousarray(tiled.transpose(0, 2, 1, 3, 4)).reshape(*self.size, 3)


def best_tiling(count: int, height: int, width: int, *, extra: int, gap: int = GAP) -> Tiling:
    """Tile `count` blocks so that they and `extra` pixels of height come nearest to 2:1."""
    tilings = [
        Tiling(height, width, -(-count // columns), columns, gap) for columns in range(1, count + 1)
    ]
    return min(tilings, key=lambda tiling: misfit(*tiling.size, extra=extra))


def misfit(height: int, width: int, *, extra: int) -> float:
    """How far a picture of this size, and `extra` pixels of height, is from 2:1; 0 is exact."""
    return abs(math.log(max(width, NARROWEST) / (height + extra) / ASPECT))


def sheet_width(body: int) -> int:
    """Width of the whole picture around a body of `body` pixels."""
    return max(NARROWEST, body + 2 * MARGIN)


def compose(head: Bytes, body: Bytes, left: int = MARGIN) -> Bytes:
    """Put `head` (h, W, 3) above `body` (b, w, 3), which begins at `left`."""
    width, bottom = head.shape[1], len(head) + len(body)
    sheet = plain(bottom + MARGIN // 2, width)
    sheet[: len(head)] = head
    sheet[len(head) : bottom, left : left + body.shape[1]] = body
    return sheet
