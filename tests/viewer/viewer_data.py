"""Runs with known content, written as the monitor writes them, for what reads them by a browser."""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from lightning_saliency.record.format import Mark, Observation, decode_header, encode_maps
from lightning_saliency.record.probes import ProbeSheet, probe_sheet
from lightning_saliency.record.summaries import summary

N, SIDE, PLACES = 12, 28, 14
STEP = 10
NOISY = 6
"""A probe whose maps are unreliable, of the method that draws samples."""

BEGAN = 1.7e9

MARKUP = "<img src=x onerror=\"document.title='broken in'\"><b>bold</b>"
"""What somebody calls a probe."""

Floats = NDArray[np.float32]


def sheet(hash: str = "a" * 64, *, masks: bool = False) -> ProbeSheet:
    """Pictures that differ, of two classes, one name being markup."""
    rows, columns = np.mgrid[:SIDE, :SIDE]
    shades = [(rows * (1 + probe % 3) + columns * (1 + probe % 5)) * 4 % 256 for probe in range(N)]
    pictures = np.repeat(np.stack(shades)[..., None], 3, -1).astype(np.uint8)
    about = {
        "hash": hash,
        "names": [MARKUP, *(f"val[{probe}]" for probe in range(1, N))],
        "classes": ["<i>left</i>", "right"],
        "targets": [probe % 2 for probe in range(N)],
        "explained": [probe % 2 for probe in range(N)],
        "methods": {
            "gradient": {"signed": False, "words": "Saliency()", "caution": None},
            "change": {"signed": True, "words": "mine.change", "caution": "a caution"},
        },
        "target": "Margin()",
    }
    shown = np.broadcast_to((rows > 8) & (columns > 8), (N, SIDE, SIDE))
    return probe_sheet(pictures, shown if masks else None, about)


def maps(index: int, seed: int, *, signed: bool = False) -> Floats:
    """A spot that goes from the left to the right, on ground of its own."""
    rows, columns = np.mgrid[:PLACES, :PLACES] / (PLACES - 1)
    random = np.random.default_rng([seed, index])
    down = np.linspace(0.2, 0.8, N)[:, None, None]
    speed = np.linspace(0.3, 1, N)[:, None, None]
    across = 0.15 + 0.07 * index * speed + 0.02 * seed
    spot = np.exp(-((rows - down) ** 2 + (columns - across) ** 2) / 0.03)
    drawn = spot * (random.choice([-1, 1], spot.shape) if signed else 1)
    drawn = (drawn + 0.05 * random.random(spot.shape)).astype(np.float32)
    unit: Floats = drawn / np.abs(drawn).max((1, 2), keepdims=True)
    return unit


def observation(index: int, seed: int, **changed: Any) -> Observation:
    """At every tenth step; one prediction flips at each, and something happens at some."""
    happened = {
        2: (
            Mark(
                "alert", "**Region alert.** The <b>top</b> left cell.", "probes", 0, (0, 1), (7, 7)
            ),
        ),
        3: (Mark("event", "Training event."),),
    }
    predictions = np.arange(N) % 2
    predictions[index % N] ^= 1
    floors = {"gradient/floor_jitter_5": 0.04, "gradient/floor_redrawn": 1.0}
    given: dict[str, Any] = {
        "index": index,
        "step": STEP * index,
        "label": "start" if index == 0 else f"epoch {index - 1}",
        "time": BEGAN + index,
        "hash": "a" * 64,
        "predictions": predictions,
        "confidence": np.linspace(0.5, 0.99, N),
        "numbers": floors if index == 1 else {},
        "rates": (0.1 if index < 3 else 0.01,),
        "best": STEP if index > 1 else None,
        "events": happened.get(index, ()),
        "since": 0,
        "session": BEGAN,
    }
    return Observation(**given | changed)


@dataclass
class Run:
    """A run that is being written.

    Attributes:
        folder: of its event file.
        seed: of its maps.
        monitor: whose record it is.
        hash: of its probes.
        lost: the probe whose map is undefined at the second observation.
        masks: whether the probes have them.
        stale: the observation whose maps say that another fit made them.
    """

    folder: Path
    seed: int = 0
    monitor: str = "saliency"
    hash: str = "a" * 64
    lost: int = 3
    masks: bool = False
    stale: int | None = None
    stored: list[dict[str, bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._writer = EventFileWriter(str(self.folder))
        self._maps: dict[str, list[Floats]] = {"gradient": [], "change": []}

    def observe(self, count: int = 1) -> Run:
        """Write as many observations, and see them in the file."""
        for _ in range(count):
            index = len(self.stored)
            blobs = {method: self._encoded(method, index) for method in self._maps}
            self.stored.append(blobs)
            methods = {method: self._numbers(method, blobs[method]) for method in self._maps}
            seen = observation(index, self.seed, hash=self.hash, methods=methods)
            sheets = sheet(self.hash, masks=self.masks).encoded() if index == 0 else None
            self.event(summary(self.monitor, blobs, seen.encoded(), sheets), seen.step)
        return self

    def event(self, made: Summary, step: int) -> Run:
        """Write what was made, and see it in the file."""
        self._writer.add_event(Event(wall_time=BEGAN + step, step=step, summary=made))
        self._writer.flush()
        return self

    def close(self) -> None:
        """No more of it."""
        self._writer.close()

    def _encoded(self, method: str, index: int) -> bytes:
        drawn = maps(index, self.seed, signed=method == "change")
        if index == 1:
            drawn[self.lost] = np.nan
        self._maps[method].append(drawn)
        peaks = np.linspace(1, 2, N) / (1 + index)
        began = BEGAN if index != self.stale else BEGAN - 1
        signed = method == "change"
        return encode_maps(drawn, peaks, step=STEP * index, session=began, signed=signed)

    def _numbers(self, method: str, blob: bytes) -> dict[str, NDArray[Any]]:
        peaks = np.array(decode_header(blob)[0]["peaks"], dtype=np.float64)
        known: dict[str, NDArray[Any]] = {"peaks": peaks}
        if method == "change":
            known["reliability"] = np.where(np.arange(N) == NOISY, 0.3, 0.9)
        drawn = self._maps[method]
        if len(drawn) > 1:
            known["drift_previous"] = _cosine(drawn[-1], drawn[-2])
            known["drift_first"] = _cosine(drawn[-1], drawn[0])
        return known


def _cosine(now: Floats, then: Floats) -> NDArray[Any]:
    one, other = now.reshape(N, -1).astype(np.float64), then.reshape(N, -1).astype(np.float64)
    away: NDArray[Any] = 1 - (one * other).sum(1) / np.sqrt((one**2).sum(1) * (other**2).sum(1))
    return away


def newer(made: Summary) -> Summary:
    """The same as a later release would write it."""
    for value in made.value:
        content = json.loads(value.metadata.plugin_data.content)
        value.metadata.plugin_data.content = json.dumps({**content, "version": 2}).encode()
    return made


def damaged(monitor: str, step: int) -> Summary:
    """An observation of which a byte in the middle is another."""
    whole = bytearray(observation(step // STEP, 0).encoded())
    whole[len(whole) // 2] ^= 0xFF
    return summary(monitor, {}, bytes(whole))


def nonsense(monitor: str, step: int) -> Summary:
    """An observation that says something else."""
    return summary(monitor, {}, zlib.compress(b'{"version":1,"step":%d}' % step))
