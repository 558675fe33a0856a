"""Records made by hand: known content, written as the monitor writes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.summary.writer.record_writer import RecordWriter

from lightning_saliency.record.format import Mark, Observation, encode_maps
from lightning_saliency.record.probes import ProbeSheet, probe_sheet
from lightning_saliency.record.summaries import summary

N = 3
HASH = "0123456789abcdef" * 4

Maps = NDArray[np.float32]


def sheet(count: int = N, side: int = 4, hash: str = HASH) -> ProbeSheet:
    """Of pictures that all differ, with masks."""
    pictures = np.arange(count * side * side * 3, dtype=np.uint8).reshape(count, side, side, 3)
    masks = np.arange(side * side).reshape(side, side) % (2 + np.arange(count)[:, None, None]) == 0
    about = {
        "hash": hash,
        "names": [f"val[{index}]" for index in range(count)],
        "classes": ["naïve", "<b>bold</b>"],
        "targets": [index % 2 for index in range(count)],
        "explained": [index % 2 for index in range(count)],
        "methods": {
            "gradient": {"signed": False, "words": "Saliency()", "caution": None},
            "change": {"signed": True, "words": "mine.change", "caution": "a caution"},
        },
        "target": "Margin()",
    }
    return probe_sheet(pictures, masks, about)


def maps(index: int, *shape: int, signed: bool = False) -> Maps:
    """`shape` with a peak of 1 in each, the last one undefined."""
    drawn = np.random.default_rng(index).random((*shape,), dtype=np.float32)
    drawn = drawn - 0.5 if signed else drawn
    flat = np.abs(drawn.reshape(len(drawn), -1)).max(1)
    unit: Maps = drawn / flat.reshape(-1, *[1] * (drawn.ndim - 1))
    unit[-1] = np.nan
    return unit


def peaks(index: int) -> Maps:
    """What 1 stands for; not known of the undefined map."""
    return np.array([1e-3 * (index + 1), 2.5, np.nan], dtype=np.float32)


def observation(index: int, step: int, **changed: Any) -> Observation:
    """Of `N` probes."""
    given: dict[str, Any] = {
        "index": index,
        "step": step,
        "label": "start" if index == 0 else f"epoch {index - 1}",
        "time": 1.7e9 + 60 * index + 0.25,
        "hash": HASH,
        "predictions": np.arange(N) % (index + 1),
        "confidence": np.array([0.5, 0.123456789, np.nan]),
        "methods": {"gradient": _drift(index), "change": _drift(index)},
        "numbers": {"churn": 0.25 * index, "gradient/drift_first": 1 / (index + 1)},
        "rates": (0.1, 0.01),
        "best": None if index < 2 else step - 10,
        "events": EVENTS if index == 1 else (),
        "since": 0,
        "session": 1.7e9,
    }
    return Observation(**given | changed)


EVENTS = (
    Mark("alert", "Region alert. The top left cell.", "probes", 0, (0, 1), (3, 3)),
    Mark("event", "Training event. × 0.1"),
)


def _drift(index: int) -> dict[str, NDArray[np.float32]]:
    if index == 0:
        return {"peaks": peaks(0)}
    drift = np.array([0.0, 1.23456789e-5, np.nan], dtype=np.float32) * index
    return {"drift_previous": drift, "drift_first": 2 * drift, "peaks": peaks(index)}


@dataclass
class File:
    """An event file in the making.

    Attributes:
        path: where it is; its folder is made.
        monitor: whose record it is.
    """

    path: Path
    monitor: str = "saliency"
    events: list[bytes] = field(default_factory=list)

    def observe(
        self,
        observed: Observation,
        maps: Mapping[str, Maps],
        probes: ProbeSheet | None = None,
    ) -> File:
        """One observation's event; all maps have the peaks of its index."""
        blobs = {
            method: encode_maps(
                one, peaks(observed.index), step=observed.step, session=observed.session
            )
            for method, one in maps.items()
        }
        sheets = None if probes is None else probes.encoded()
        made = summary(self.monitor, blobs, observed.encoded(), sheets)
        return self.event(Event(wall_time=observed.time, step=observed.step, summary=made))

    def goes_on(self, step: int) -> File:
        """What a resumed fit writes first."""
        start = SessionLog(status=SessionLog.START)
        for _ in range(2):
            self.event(Event(wall_time=1.7e9, step=step, session_log=start))
        return self

    def event(self, event: Any) -> File:
        self.events.append(event.SerializeToString())
        return self

    def write(self, extra: bytes = b"") -> Path:
        """The file as it is, with `extra` bytes at its end; its folder."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("wb") as stream:
            version = Event(wall_time=1.7e9, file_version="brain.Event:2")
            for one in (version.SerializeToString(), *self.events):
                RecordWriter(stream).write(one)
            stream.write(extra)
        return self.path.parent


def run(folder: Path, steps: list[int], *, name: str = "a", **given: Any) -> File:
    """A whole run: an observation at each step, two methods, the probes with the first."""
    file = File(folder / f"events.out.tfevents.{name}", given.pop("monitor", "saliency"))
    for row, step in enumerate(steps):
        index = given.get("first", 0) + row
        changed = {key: value for key, value in given.items() if key != "first"}
        seen = {
            "gradient": maps(index, N, 5, 4),
            "change": maps(10 + index, N, 6, signed=True),
        }
        sheets = sheet(hash=given.get("hash", HASH)) if row == 0 else None
        file.observe(observation(index, step, **changed), seen, sheets)
    return file


GOLDEN = Path(__file__).parent / "golden"
"""A folder with the event file of version 1, which every later release must read."""

GOLDEN_STEPS = [0, 7, 19]


def golden(folder: Path) -> File:
    """The content of that file."""
    return run(folder, GOLDEN_STEPS, name="version1")


if __name__ == "__main__":  # only for a new version of the record, beside the old ones
    golden(GOLDEN).write()
