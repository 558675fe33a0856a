"""The bytes of the record: pure functions between arrays and blobs.

Of maps: a `uint32` (little-endian) that is the length of a header, the header as JSON, and a zlib
stream of `uint8` `(N, *spatial)`. Of an observation's numbers: zlib-compressed JSON.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lightning_saliency.record.fit import fitted
from lightning_saliency.record.versions import VERSION, Document, RecordError, dumped, loaded

__all__ = ["PLUGIN", "VERSION"]

PLUGIN = "saliency"
"""Whose series these are in event files: the name of the TensorBoard plugin that shows them."""

_LENGTH = struct.Struct("<I")


class Mark(NamedTuple):
    """Something that happened at an observation, and is marked on its time axis.

    Attributes:
        kind: ``alert`` (a region that gained evidence), ``event`` (all maps moved more than usual)
            or ``resumed``.
        text: in words, plain.
        panel: of an alert: ``probes`` or ``stream``.
        group: of an alert: 0 for all examples, else 1 + the class.
        cell: of an alert: where the cell is in the grid, such as row and column.
        cells: of an alert: how many cells there are along each side.
    """

    kind: str
    text: str
    panel: str | None = None
    group: int | None = None
    cell: tuple[int, ...] | None = None
    cells: tuple[int, ...] | None = None

    def document(self) -> dict[str, Any]:
        """What of it is known."""
        known = {name: value for name, value in self._asdict().items() if value is not None}
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in known.items()
        }

    @classmethod
    def of(cls, document: Document) -> Mark:
        """What `document` gave; what is not known of it is passed over."""
        known: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in document.items()
            if name in cls._fields
        }
        return cls(**known)


@dataclass(frozen=True)
class Observation:
    """One observation but for its maps.

    Attributes:
        index: of the run, 0 for the first.
        step: the x of its numbers and pictures.
        label: what people call that moment.
        time: seconds since 1970.
        hash: of the probes.
        predictions: `(N,)` class that the model gave to each probe.
        confidence: `(N,)` its probability; NaN where there is none.
        methods: method → what is known of each probe's map, such as ``drift_previous`` → `(N,)`.
        numbers: tag without the monitor's name → value.
        rates: learning rates.
        best: step of the best checkpoint that is known so far.
        events: what happened.
        since: the step from which this fit went on: of what an earlier one wrote into the same
            folder, nothing counts from there on.
        session: when this fit began, in seconds since 1970: later ones are larger.
    """

    index: int
    step: int
    label: str
    time: float
    hash: str
    predictions: NDArray[Any]
    confidence: NDArray[Any]
    methods: Mapping[str, Mapping[str, NDArray[Any]]] = field(default_factory=dict)
    numbers: Mapping[str, float] = field(default_factory=dict)
    rates: tuple[float, ...] = ()
    best: int | None = None
    events: tuple[Mark, ...] = ()
    since: int = 0
    session: float = 0.0

    def encoded(self) -> bytes:
        """As it stands in the event file."""
        document = {
            "version": VERSION,
            "index": self.index,
            "step": self.step,
            "label": self.label,
            "time": round(self.time, 3),
            "since": self.since,
            "session": round(self.session, 3),
            "hash": self.hash,
            "predictions": [int(one) for one in self.predictions],
            "confidence": rounded(self.confidence),
            "methods": {
                method: {name: rounded(values) for name, values in known.items()}
                for method, known in self.methods.items()
            },
            "numbers": {tag: number(value) for tag, value in self.numbers.items()},
            "rates": rounded(self.rates),
            "best": self.best,
            "events": [mark.document() for mark in self.events],
        }
        return zlib.compress(dumped(document))


def decode_observation(data: bytes) -> Document:
    """The document that `Observation.encoded` wrote.

    Raises:
        NewerRecordError: a later release wrote it.
        RecordError: it is damaged.
    """
    document = loaded(_inflated(data, "an observation"), "an observation")
    missing = {one.name for one in fields(Observation)} - document.keys()
    if missing:
        raise RecordError(f"An observation has no {', '.join(sorted(missing))}. {_DAMAGED}")
    return document


def current(documents: Iterable[Document]) -> list[Document]:
    """The observations that count, in the order of their steps: what readers leave is judged here.

    A resumed run goes on from the step of its checkpoint, and a new one in the same folder from 0:
    what an earlier one wrote from there on is taken back. Of one step the last that was written
    counts.

    Args:
        documents: of one monitor and run, as `decode_observation` gives them, those of a fit in the
            order in which they were written.
    """
    known: dict[int, Document] = {}
    session = -math.inf
    for one in sorted(documents, key=lambda one: float(one["session"])):
        if one["session"] > session:
            session = one["session"]
            known = {step: old for step, old in known.items() if step < one["since"]}
        known[one["step"]] = one
    return [known[step] for step in sorted(known)]


def number(value: float) -> float | None:
    """With 5 significant digits; None where it is not finite."""
    return float(f"{value:.5g}") if math.isfinite(value) else None


def finite(values: Iterable[float]) -> list[float | None]:
    """The same numbers; None where one is not finite."""
    return [value if math.isfinite(value) else None for value in values]


def rounded(values: Iterable[float]) -> list[float | None]:
    """Each with 5 significant digits; None where it is not finite."""
    return [number(float(value)) for value in values]


def encode_maps(
    maps: NDArray[Any],
    peaks: NDArray[Any],
    *,
    step: int,
    session: float = 0.0,
    signed: bool = False,
    places: int | None = None,
) -> bytes:
    """One method's maps of one observation.

    Unsigned maps become `round(255 m)`, those with a sign `128 + round(127 m)`: off by 1/254 of
    the peak at most. An undefined map (constant, not finite) has no peak, and is 0 or 128.

    Args:
        maps: `(N, *spatial)`, one to three spatial dimensions, each with a peak of 1.
        peaks: `(N,)` what 1 stands for, in the method's own units.
        step: of the observation.
        session: of the observation: where two fits wrote into one folder, TensorBoard's loader in
            Python may give the maps of the one for those of the other.
        signed: whether the method says so; maps that are below zero anywhere are signed anyhow.
        places: of a map at most: larger ones are averaged down, and brought to a peak of 1 again.
    """
    whole = np.asarray(maps, dtype=np.float32)
    known = _defined(whole) & np.isfinite(peaks) & (np.asarray(peaks) > 0)
    whole = np.where(known.reshape(-1, *[1] * (whole.ndim - 1)), whole, np.float32(0))
    if places is not None and math.prod(whole.shape[1:]) > places:
        whole, peaks = _at_peak(fitted(whole, places), np.asarray(peaks))
    signed = signed or bool((whole < 0).any())
    scaled = np.rint(whole * (127 if signed else 255)) + (128 if signed else 0)
    levels = np.clip(scaled, 1 if signed else 0, 255).astype(np.uint8)
    header = {
        "version": VERSION,
        "step": int(step),
        "session": round(session, 3),
        "shape": list(whole.shape),
        "signed": signed,
        "peaks": rounded(np.where(known, peaks, np.nan)),
    }
    head = dumped(header)
    return _LENGTH.pack(len(head)) + head + _deflated(levels.tobytes())


def _deflated(levels: bytes) -> bytes:
    """The smaller of two zlib streams.

    Maps of pixels are noise, of which runs of zeros are all that repeats: looking for more makes
    the codes of the values longer. Maps of blocks do repeat.
    """
    runs = zlib.compressobj(6, zlib.DEFLATED, zlib.MAX_WBITS, 9, zlib.Z_RLE)
    return min(runs.compress(levels) + runs.flush(), zlib.compress(levels), key=len)


def _defined(maps: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which of the maps are finite and not constant."""
    flat = maps.reshape(len(maps), -1)
    level = flat.max(1, initial=-np.inf) == flat.min(1, initial=np.inf)
    return np.asarray(np.isfinite(flat).all(1) & ~level)


def _at_peak(
    maps: NDArray[np.float32], peaks: NDArray[Any]
) -> tuple[NDArray[np.float32], NDArray[Any]]:
    """The maps with a peak of 1 again, and what that stands for."""
    highest = np.abs(maps.reshape(len(maps), -1)).max(1, initial=0)
    scale = np.where(highest > 0, highest, 1).astype(np.float32)
    return maps / scale.reshape(-1, *[1] * (maps.ndim - 1)), peaks * scale


class MapBlob(NamedTuple):
    """What `encode_maps` wrote.

    Attributes:
        header: its document.
        levels: `(N, *spatial)` uint8.
    """

    header: Document
    levels: NDArray[np.uint8]

    @property
    def peaks(self) -> NDArray[np.float32]:
        """`(N,)` what 1 stands for; NaN of an undefined map."""
        return np.array(self.header["peaks"], dtype=np.float32)  # None becomes NaN

    @property
    def maps(self) -> NDArray[np.float32]:
        """`(N, *spatial)` with a peak of 1; NaN where a map is undefined."""
        zero, one = (128, 127) if self.header["signed"] else (0, 255)
        unit: NDArray[np.float32] = (self.levels.astype(np.float32) - zero) / np.float32(one)
        unit[np.isnan(self.peaks)] = np.nan
        return unit


def decode_header(blob: bytes) -> tuple[Document, int]:
    """The header of a maps blob, and where its stream begins.

    Raises:
        NewerRecordError: a later release wrote it.
        RecordError: it is damaged.
    """
    if len(blob) < _LENGTH.size or len(blob) < (end := _LENGTH.size + _LENGTH.unpack_from(blob)[0]):
        raise RecordError(f"maps of {len(blob)} bytes are too short for their header. {_DAMAGED}")
    return loaded(blob[_LENGTH.size : end], "a header of maps"), end


def decode_maps(blob: bytes) -> MapBlob:
    """What `encode_maps` wrote.

    Raises:
        NewerRecordError: a later release wrote it.
        RecordError: it is damaged.
    """
    header, end = decode_header(blob)
    levels = np.frombuffer(_inflated(blob[end:], "maps"), dtype=np.uint8)
    shape, peaks = header["shape"], header["peaks"]
    if levels.size != math.prod(shape) or len(peaks) != shape[0]:
        raise RecordError(f"maps: {levels.size} bytes for the shape {shape}. {_DAMAGED}")
    return MapBlob(header, levels.reshape(shape))


_DAMAGED = "The record is damaged there: copy the run anew, or read another observation."


def _inflated(data: bytes, what: str) -> bytes:
    try:
        return zlib.decompress(data)
    except zlib.error as error:
        raise RecordError(f"{what}: {error}. {_DAMAGED}") from error
