"""The probes in the record: a header, and all their images in one picture."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_saliency.record.versions import VERSION, Document, RecordError, dumped, loaded

SIDE = 112
"""Pixels of the longer side of a probe's image in the sprite, at most."""

AREA = 64 * SIDE * SIDE
"""Pixels of all of them: more than 64 probes are smaller."""

EXACT = 2**19
"""Bytes of a PNG at most: larger ones, of photographs, become a JPEG."""

_QUALITY = 90

Pictures = NDArray[np.uint8]


@dataclass(frozen=True)
class ProbeSheet:
    """The probes of a run, as a record keeps them.

    Attributes:
        header: its document: names, classes, targets, what is explained, the methods.
        sprite: PNG or JPEG of all images, row by row.
        mask_sprite: PNG of all masks in the same places, white on the object; None without masks.
    """

    header: Document
    sprite: bytes
    mask_sprite: bytes | None = None

    def __len__(self) -> int:
        return int(self.header["count"])

    @property
    def hash(self) -> str:
        """SHA-256 of the probes, as `Probes.hash` has it."""
        return str(self.header["hash"])

    @property
    def names(self) -> tuple[str, ...]:
        """One per probe."""
        return tuple(self.header["names"])

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Names of the classes."""
        known = self.header["classes"]
        return None if known is None else tuple(known)

    def class_name(self, index: int) -> str:
        """What a class is called; its index where it has no name."""
        names = self.classes or ()
        return names[index] if 0 <= index < len(names) else str(index)

    @property
    def targets(self) -> tuple[int | float | None, ...] | None:
        """The label of each probe; None without labels."""
        known = self.header["targets"]
        return None if known is None else tuple(known)

    @property
    def explained(self) -> tuple[int | float, ...]:
        """The class that is explained for each probe."""
        return tuple(self.header["explained"])

    @property
    def methods(self) -> Mapping[str, Document]:
        """Method → its document: ``signed``, ``words``, ``caution``."""
        known: Mapping[str, Document] = self.header["methods"]
        return known

    @cached_property
    def images(self) -> Pictures:
        """`(N, h, w, 3)` uint8: the probes as a person knows them."""
        return self._cut(self.sprite, "RGB")

    @cached_property
    def masks(self) -> NDArray[np.bool_] | None:
        """`(N, h, w)`, true on the object."""
        if self.mask_sprite is None:
            return None
        return np.asarray(self._cut(self.mask_sprite, "L") > 127)

    def _cut(self, encoded: bytes, mode: str) -> Pictures:
        from PIL import Image

        image = self.header["image"]
        (height, width), columns, count = image["cell"], image["columns"], len(self)
        rows = -(-count // columns)
        sprite = np.asarray(Image.open(io.BytesIO(encoded)).convert(mode))
        if sprite.shape[:2] != (rows * height, columns * width):
            raise RecordError(
                f"the sprite of the probes is {sprite.shape[:2]} and not "
                f"{(rows * height, columns * width)}: it is damaged. Copy the run anew."
            )
        cells = sprite.reshape(rows, height, columns, width, -1).swapaxes(1, 2)
        found = cells.reshape(rows * columns, height, width, -1)[:count]
        return np.ascontiguousarray(found[..., 0] if mode == "L" else found)

    def encoded(self) -> list[bytes]:
        """The blobs of the series."""
        blobs = [dumped(self.header), self.sprite]
        return blobs if self.mask_sprite is None else [*blobs, self.mask_sprite]

    @classmethod
    def decode(cls, blobs: Sequence[bytes]) -> ProbeSheet:
        """What `encoded` gave.

        Raises:
            NewerRecordError: a later release wrote it.
            RecordError: it is damaged.
        """
        header = loaded(blobs[0] if blobs else b"", "the header of the probes")
        if len(blobs) < (3 if header["mask"] else 2):
            raise RecordError("the probes' images are missing. Copy the run anew.")
        return cls(header, bytes(blobs[1]), bytes(blobs[2]) if header["mask"] else None)


def probe_sheet(
    pictures: Pictures, masks: NDArray[np.bool_] | None, about: Mapping[str, Any]
) -> ProbeSheet:
    """Lay out all probes on one sheet.

    Args:
        pictures: `(N, H, W, 3)` uint8.
        masks: `(N, H, W)`.
        about: what the header says beside the images: ``hash``, ``names``, ``classes``,
            ``targets``, ``explained``, ``methods``, ``target``.
    """
    size = (int(pictures.shape[1]), int(pictures.shape[2]))
    cell, columns = _plan(len(pictures), size)
    header = {
        "version": VERSION,
        "count": len(pictures),
        **about,
        "image": {"size": list(size), "columns": columns, "cell": list(cell)},
        "mask": masks is not None,
    }
    grey = None if masks is None else masks.astype(np.uint8) * np.uint8(255)
    return ProbeSheet(
        header,
        _compact(_laid(pictures, cell, columns)),
        None if grey is None else _png(_laid(grey, cell, columns)),
    )


def _plan(count: int, size: tuple[int, int]) -> tuple[tuple[int, int], int]:
    """The size of a cell, and how many there are in a row: about as wide as high."""
    height, width = size
    share = min(1.0, SIDE / max(size), math.sqrt(AREA / (count * height * width)))
    cell = (max(1, round(height * share)), max(1, round(width * share)))
    return cell, max(1, round(math.sqrt(count * cell[0] / cell[1])))


def _laid(pictures: Pictures, cell: tuple[int, int], columns: int) -> Pictures:
    """`(N, H, W[, 3])` as one picture of cells."""
    from PIL import Image

    count, (height, width) = len(pictures), cell
    rows = -(-count // columns)
    sheet = np.zeros((rows, columns, height, width, *pictures.shape[3:]), dtype=np.uint8)
    for index, picture in enumerate(pictures):
        if picture.shape[:2] != cell:
            picture = np.asarray(
                Image.fromarray(picture).resize((width, height), Image.Resampling.BOX)
            )
        sheet[index // columns, index % columns] = picture
    return np.ascontiguousarray(sheet.swapaxes(1, 2)).reshape(
        rows * height, columns * width, *pictures.shape[3:]
    )


def _compact(picture: Pictures) -> bytes:
    """Exact, unless that is large: TensorBoard sums a check over each byte in Python."""
    from PIL import Image

    exact = _png(picture)
    if len(exact) <= EXACT:
        return exact
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "JPEG", quality=_QUALITY, subsampling="4:4:4")
    return stream.getvalue()


def _png(picture: Pictures) -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "PNG", compress_level=6)
    return stream.getvalue()
