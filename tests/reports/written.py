"""Runs with maps that a test knows: written as the monitor writes them, without a training."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.summary.writer.record_writer import RecordWriter

from lightning_saliency.record.format import Mark, Observation, encode_maps
from lightning_saliency.record.probes import ProbeSheet, probe_sheet
from lightning_saliency.record.summaries import summary

Floats = NDArray[np.float32]

HASH = "0123456789abcdef" * 4


def maps(seed: int, *shape: int, signed: bool = False) -> Floats:
    """`(T, N, *spatial)`, heavy-tailed, each with a peak of 1."""
    drawn = np.random.default_rng(seed).standard_normal(shape).astype(np.float32) ** 3
    drawn = drawn if signed else np.abs(drawn)
    peak = np.abs(drawn).max(axis=tuple(range(2, drawn.ndim)), keepdims=True)
    unit: Floats = drawn / peak
    return unit


def sheet(count: int, methods: Mapping[str, bool], **changed: Any) -> ProbeSheet:
    """Probes of three classes; each picture differs, unless they are given."""
    drawn = np.random.default_rng(0).integers(0, 255, (count, 12, 12, 3), dtype=np.uint8)
    pictures = changed.pop("pictures", drawn)
    order = changed.pop("order", range(count))
    about: dict[str, Any] = {
        "hash": HASH,
        "names": [f"val[{index}]" for index in order],
        "classes": ["cat", "dog", "owl"],
        "targets": [index % 3 for index in order],
        "explained": [index % 3 for index in order],
        "methods": {
            name: {"signed": signed, "words": f"{name}()", "caution": None}
            for name, signed in methods.items()
        },
        "target": "Margin()",
    }
    masks = np.zeros((count, 12, 12), dtype=bool)
    masks[:, 3:9, 3:9] = True
    return probe_sheet(pictures[list(order)], masks, about | changed)


def run(
    folder: Path,
    given: Mapping[str, Floats],
    *,
    monitor: str = "saliency",
    steps: Sequence[int] | None = None,
    labels: Sequence[str] | None = None,
    predictions: NDArray[np.int64] | None = None,
    marks: Mapping[int, Sequence[Mark]] | None = None,
    numbers: Mapping[int, Mapping[str, float]] | None = None,
    best: int | None = None,
    reliability: Sequence[float] | None = None,
    **probes: Any,
) -> Path:
    """The event file of a run with these maps `(T, N, *spatial)`, by method; its folder.

    Marks and numbers are given by the number of the observation. NaN maps are undefined ones.
    """
    length, count = next(iter(given.values())).shape[:2]
    introduced = sheet(
        count, {name: bool((one < 0).any()) for name, one in given.items()}, **probes
    )
    predicted = np.tile(np.arange(count) % 3, (length, 1)) if predictions is None else predictions
    known = {} if reliability is None else {"reliability": np.array(reliability)}
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"events.out.tfevents.{monitor.replace('/', '.')}"
    with file.open("wb") as stream:
        write = RecordWriter(stream).write
        write(Event(wall_time=1.7e9, file_version="brain.Event:2").SerializeToString())
        for index in range(length):
            step = 10 * index if steps is None else steps[index]
            seen = Observation(
                index=index,
                step=step,
                label=f"epoch {index}" if labels is None else labels[index],
                time=1.7e9 + index,
                hash=introduced.hash,
                predictions=predicted[index],
                confidence=np.linspace(0.5, 1, count),
                methods={
                    name: {"drift_first": np.full(count, 0.1 * index)} | known for name in given
                },
                numbers=(numbers or {}).get(index, {}),
                rates=(0.1,),
                best=best,
                events=tuple((marks or {}).get(index, ())),
            )
            blobs = {
                name: encode_maps(one[index], np.linspace(1, 2, count), step=step)
                for name, one in given.items()
            }
            first = introduced.encoded() if index == 0 else None
            made = summary(monitor, blobs, seen.encoded(), first)
            event = Event(wall_time=1.7e9 + index, step=step, summary=made)
            write(event.SerializeToString())
    return folder


def data_of(page: Path) -> dict[str, Any]:
    """What a page holds, its blobs as bytes."""
    found = re.findall(
        r'<script type="application/json" id="saliency-data">(.*?)</script>',
        page.read_text(encoding="utf-8"),
        re.DOTALL,
    )
    assert len(found) == 1
    data: dict[str, Any] = json.loads(found[0])
    data["blobs"] = {key: base64.b64decode(text) for key, text in data["blobs"].items()}
    return data
