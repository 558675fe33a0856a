"""From an observation to its entry in the record: what was seen, as arrays on the host.

What the training waits for is one transfer that is made anyhow. The bytes are made later, where
that holds nobody up.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lightning_saliency.record.format import Mark, Observation, decode_header, encode_maps, finite
from lightning_saliency.record.probes import ProbeSheet, probe_sheet
from lightning_saliency.record.summaries import summary
from lightning_saliency.rendering import to_pictures
from lightning_saliency.rendering.picture import slice_at
from lightning_saliency.session import Session
from lightning_saliency.settings import Settings, words
from lightning_saliency.sighting import Sighting
from lightning_saliency.snapshot import Snapshot, unit

Host = Mapping[str, NDArray[np.float32]]


class Fit(NamedTuple):
    """What the training does at an observation.

    Attributes:
        rates: learning rates.
        best: step of the best checkpoint that is known so far.
        since: the step from which this fit went on.
        session: when it began, in seconds since 1970.
    """

    rates: tuple[float, ...]
    best: int | None
    since: int
    session: float


@dataclass(frozen=True)
class Entry:
    """What one observation gives to the record.

    Attributes:
        observation: what is known of it yet.
        maps: method → its maps `(N, *spatial)`, each with a peak of 1, and the peaks `(N,)`.
        signed: methods whose maps have a sign.
        places: of a map in the record at most.
        sheet: makes the sheet of the probes.
        again: whether the maps are in the file already.
    """

    observation: Observation
    maps: Mapping[str, tuple[NDArray[np.float32], NDArray[np.float32]]]
    signed: Collection[str]
    places: int
    sheet: Callable[[], ProbeSheet]
    again: bool = False

    def during(self, fit: Fit) -> Entry:
        """The same with what the training does meanwhile."""
        return replace(self, observation=replace(self.observation, **fit._asdict()))

    def told(self, numbers: Mapping[str, float], events: Sequence[Mark]) -> Entry:
        """The same with all that was found in the end."""
        whole = replace(
            self.observation, time=time.time(), numbers=dict(numbers), events=tuple(events)
        )
        return replace(self, observation=whole)

    def corrected(self, best: int | None) -> Entry:
        """The same, written again with another best checkpoint."""
        return replace(self, observation=replace(self.observation, best=best), again=True)

    def summary(self, monitor: str, introduce: bool) -> Any:
        """For the event file: of the monitor of this name, with the probes where they are new."""
        whole = self.observation
        maps = {
            method: encode_maps(
                maps,
                peaks,
                step=whole.step,
                session=whole.session,
                signed=method in self.signed,
                places=self.places,
            )
            for method, (maps, peaks) in self.maps.items()
        }
        probes = self.sheet().encoded() if introduce else None
        observation = _with_peaks(whole, maps).encoded()
        return summary(monitor, {} if self.again else maps, observation, probes)


def needed(session: Session, seen: Sighting, now: Snapshot) -> dict[str, Tensor]:
    """What a record needs, by name, for the one transfer to the host.

    All of it, since no other thread may ask the device for anything: the training may be capturing
    a graph there.
    """
    found = {
        "recorded predictions": now.predictions,
        "recorded confidence": seen.confidence,
        "recorded classes": session.classes,
    }
    for name, series in now.series.items():
        fine = seen.fine.get(name)
        maps, peak = (series.map, series.peak) if fine is None else unit(fine)
        found |= {f"recorded {name}": maps, f"peak {name}": peak}
    return found


def entry(session: Session, settings: Settings, now: Snapshot, host: Host, *, index: int) -> Entry:
    """The entry of an observation that came to the host as `needed` and `readings` name things.

    Args:
        session: what is watched.
        settings: what the user asked for.
        now: of the observation.
        host: what came.
        index: of the observation in its run.
    """
    observation = Observation(
        index=index,
        step=now.step,
        label=now.label,
        time=0.0,
        hash=session.probes.hash,
        predictions=host["recorded predictions"].astype(np.int64),
        confidence=host["recorded confidence"],
        methods={name: _each_probe(name, host) for name in now.series},
    )
    maps = {name: (host[f"recorded {name}"], host[f"peak {name}"]) for name in now.series}
    classes, whole = host["recorded classes"], not session.classes.is_floating_point()
    sheet = partial(_sheet, session, settings, classes.astype(np.int64) if whole else classes)
    return Entry(observation, maps, session.gallery.signed, settings.places, sheet)


_KNOWN = {
    "previous": "drift_previous",
    "first": "drift_first",
    "reference": "drift_reference",
    "reliability": "reliability",
}
"""What `readings` calls the numbers of each probe, and what a record calls them."""


def _each_probe(method: str, host: Host) -> dict[str, NDArray[np.float32]]:
    return {
        known: host[f"{name} {method}"]
        for name, known in _KNOWN.items()
        if f"{name} {method}" in host
    }


def _with_peaks(observation: Observation, maps: Mapping[str, bytes]) -> Observation:
    """The same with the peaks of these maps as they are stored, which may have fewer places.

    They stand in both: whoever draws all observations on one scale need not load all maps.
    """
    methods = dict(observation.methods)
    for method, blob in maps.items():
        peaks = np.array(decode_header(blob)[0]["peaks"], dtype=np.float64)  # None becomes NaN
        methods[method] = {**methods.get(method, {}), "peaks": peaks}
    return replace(observation, methods=methods)


def _sheet(session: Session, settings: Settings, explained: NDArray[Any]) -> ProbeSheet:
    """The sheet of the probes, as a person knows them, with the class that is explained of each."""
    probes, gallery = session.probes, session.gallery
    pictures = to_pictures(probes.inputs, mean=probes.mean, std=probes.std)
    methods = {
        name: {
            "signed": name in gallery.signed,
            "words": words(one),
            "caution": gallery.cautions.get(name) or None,
        }
        for name, one in session.methods.items()
    }
    about = {
        "hash": probes.hash,
        "names": list(probes.names),
        "classes": None if gallery.classes is None else [str(one) for one in gallery.classes],
        "targets": None if probes.targets is None else finite(probes.targets.tolist()),
        "explained": finite(explained.tolist()),
        "methods": methods,
        "target": words(settings.target),
    }
    return probe_sheet(pictures, _masks(probes.masks, pictures.shape[1:3]), about)


def _masks(masks: Tensor | None, size: tuple[int, ...]) -> NDArray[np.bool_] | None:
    """`(N, H, W)` as the pictures are: the middle slice of a volume's, a signal's on all lines."""
    if masks is None:
        return None
    held = masks.numpy()
    if held.ndim == 4:
        held = held[:, slice_at(None, held.shape[1], held.shape[1])]
    if held.ndim == 2:
        held = held[:, None, np.arange(size[1]) * held.shape[1] // size[1]]
    return np.asarray(np.broadcast_to(held, (len(held), *size)))
