"""A run's record, read back: arrays of observations × probes × places."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_saliency.errors import did_you_mean
from lightning_saliency.record.files import Track, event_folders, tracks
from lightning_saliency.record.format import (
    MapBlob,
    Mark,
    current,
    decode_header,
    decode_maps,
    decode_observation,
)
from lightning_saliency.record.probes import ProbeSheet
from lightning_saliency.record.versions import (
    Document,
    RecordError,
    check,
)

Floats = NDArray[np.float32]

UNRELIABLE = 0.5
"""Reliability below which half of a map, or more, is noise."""


@dataclass(frozen=True)
class History:
    """What one monitor recorded of one run: T observations of N probes.

    Attributes:
        monitor: its name.
        run: the folder, relative to the log directory; ``.`` for that itself.
        folder: of the event files.
        probes: what was watched.
        observations: the document of each observation, in the order of their steps.
        blobs: method → the maps of each observation as they are in the file; None where there are
            none.
    """

    monitor: str
    run: str
    folder: Path
    probes: ProbeSheet
    observations: tuple[Document, ...]
    blobs: Mapping[str, tuple[bytes | None, ...]]

    def __len__(self) -> int:
        return len(self.observations)

    def __repr__(self) -> str:
        last = self.steps[-1] if len(self) else None
        return (
            f"History({self.monitor!r} of {self.run!r}: {len(self)} observations to step {last}, "
            f"{len(self.probes)} probes, methods {list(self.methods)})"
        )

    @property
    def methods(self) -> tuple[str, ...]:
        """Names of the methods with maps."""
        return tuple(self.blobs)

    @cached_property
    def steps(self) -> NDArray[np.int64]:
        """`(T,)`, rising."""
        return np.array([one["step"] for one in self.observations], dtype=np.int64)

    @property
    def labels(self) -> tuple[str, ...]:
        """What people call each observation."""
        return tuple(str(one["label"]) for one in self.observations)

    @cached_property
    def times(self) -> NDArray[np.float64]:
        """`(T,)` seconds since 1970."""
        return np.array([one["time"] for one in self.observations], dtype=np.float64)

    @cached_property
    def predictions(self) -> NDArray[np.int64]:
        """`(T, N)` class that the model gave to each probe."""
        given = [one["predictions"] for one in self.observations]
        return np.array(given, dtype=np.int64).reshape(len(self), len(self.probes))

    @cached_property
    def confidence(self) -> Floats:
        """`(T, N)` its probability in 0..1; NaN where there is none."""
        given = [one["confidence"] for one in self.observations]
        return np.array(given, dtype=np.float32).reshape(len(self), len(self.probes))

    @cached_property
    def per_probe(self) -> dict[str, dict[str, Floats]]:
        """Method → what is known of each probe's map, such as ``drift_first`` → `(T, N)`."""
        found: dict[str, dict[str, Floats]] = {}
        for row, one in enumerate(self.observations):
            for method, known in one["methods"].items():
                for name, values in known.items():
                    series = found.setdefault(method, {}).setdefault(name, self._unknown())
                    series[row] = values
        return found

    @cached_property
    def drift(self) -> dict[str, dict[str, Floats]]:
        """Method → ``previous``, ``first``, ``reference`` → `(T, N)`; NaN where undefined."""
        start = "drift_"
        return {
            method: {
                name.removeprefix(start): values
                for name, values in known.items()
                if name.startswith(start)
            }
            for method, known in self.per_probe.items()
        }

    @cached_property
    def numbers(self) -> dict[str, Floats]:
        """Tag without the monitor's name → `(T,)`; NaN where an observation has none."""
        found: dict[str, Floats] = {}
        for row, one in enumerate(self.observations):
            for tag, value in one["numbers"].items():
                line = found.setdefault(tag, np.full(len(self), np.nan, dtype=np.float32))
                line[row] = np.nan if value is None else value
        return found

    @property
    def events(self) -> tuple[tuple[Mark, ...], ...]:
        """What happened at each observation."""
        return tuple(tuple(map(Mark.of, one["events"])) for one in self.observations)

    @property
    def rates(self) -> tuple[tuple[float, ...], ...]:
        """Learning rates at each observation."""
        nan = float("nan")
        return tuple(
            tuple(nan if rate is None else float(rate) for rate in one["rates"])
            for one in self.observations
        )

    @property
    def best(self) -> int | None:
        """Step of the best checkpoint, as far as is known."""
        known = [one["best"] for one in self.observations if one["best"] is not None]
        return int(known[-1]) if known else None

    def unreliable(self, method: str, index: int) -> NDArray[np.bool_]:
        """`(N,)` which maps of an observation are noise for the most part: not to be looked at."""
        known = self.per_probe.get(method, {}).get("reliability")
        if known is None:
            return np.zeros(len(self.probes), dtype=bool)
        return np.asarray(known[index] < UNRELIABLE)

    def blob(self, method: str, index: int) -> MapBlob | None:
        """One observation's maps as they were stored; None where it has none."""
        data = self._of(method)[index]
        return None if data is None else decode_maps(data)

    def maps(self, method: str, at: Sequence[int] | None = None) -> Floats:
        """`(T, N, *spatial)`, each map with a peak of 1; decoded at each call.

        NaN where a map is undefined, and where an observation has none or has maps of another size
        than the newest: see `blob`.

        Args:
            method: its name.
            at: which observations, by their number in 0..T−1; all when not given.
        """
        wanted = range(len(self)) if at is None else at
        decoded = [self.blob(method, index) for index in wanted]
        newest = next((data for data in reversed(self._of(method)) if data is not None), None)
        shape = () if newest is None else decode_maps(newest).levels.shape
        found = np.full((len(decoded), *shape), np.nan, dtype=np.float32)
        for row, blob in enumerate(decoded):
            if blob is not None and blob.levels.shape == shape:
                found[row] = blob.maps
        return found

    def peaks(self, method: str) -> Floats:
        """`(T, N)` what 1 stands for in `maps`, in the method's units; NaN where undefined."""
        found = self._unknown()
        for row in range(len(self)):
            blob = self.blob(method, row)
            if blob is not None:
                found[row] = blob.peaks
        return found

    def _of(self, method: str) -> tuple[bytes | None, ...]:
        if method not in self.blobs:
            raise RecordError(
                f"method {method!r} is not in the record of {self.monitor!r} in {self.run!r}. "
                f"{did_you_mean(method, self.blobs)}"
            )
        return self.blobs[method]

    def _unknown(self) -> Floats:
        return np.full((len(self), len(self.probes)), np.nan, dtype=np.float32)


@dataclass(frozen=True)
class Run:
    """A record that was found.

    Attributes:
        run: the folder, relative to the log directory.
        monitor: the name.
        observations: how many.
        last: step of the newest; None without any.
        refused: why it can't be read, in words; empty where it can.
    """

    run: str
    monitor: str
    observations: int = 0
    last: int | None = None
    refused: str = ""


def runs(logdir: str | Path) -> tuple[Run, ...]:
    """All records below a log directory, those that can't be read among them.

    Raises:
        RecordError: there is no such folder.
    """
    found = []
    for folder in event_folders(logdir):
        run = _relative(folder, logdir)
        for monitor, own in _monitors(tracks(folder)).items():
            try:
                history = _history(monitor, run, folder, own)
                last = int(history.steps[-1]) if len(history) else None
                found.append(Run(run, monitor, len(history), last))
            except RecordError as error:
                found.append(Run(run, monitor, refused=str(error)))
    return tuple(found)


def read(logdir: str | Path, run: str | None = None, monitor: str | None = None) -> History:
    """Read what a monitor recorded of a run; also while it is being written.

    Args:
        logdir: a run's folder of event files, or one that holds such folders.
        run: which of them, relative to `logdir`; not needed where there is one.
        monitor: its name; not needed where there is one.

    Raises:
        RecordError: nothing is recorded there, or several records match; they are named.
        NewerRecordError: a later release wrote it.
    """
    known = []
    for folder in event_folders(logdir):
        name = _relative(folder, logdir)
        if run is not None and name != run.strip("/"):
            continue
        own = _monitors(tracks(folder))
        known += [(name, one, folder, found) for one, found in own.items()]
    chosen = [one for one in known if monitor is None or one[1] == monitor]
    if len(chosen) != 1:
        raise RecordError(_which(logdir, run, monitor, known, chosen))
    name, found_monitor, folder, own_tracks = chosen[0]
    return _history(found_monitor, name, folder, own_tracks)


def _which(
    logdir: str | Path,
    run: str | None,
    monitor: str | None,
    known: Sequence[tuple[str, str, Path, Any]],
    chosen: Sequence[tuple[str, str, Path, Any]],
) -> str:
    """Why no one record was chosen."""
    if not known and run is not None:
        every = [_relative(folder, logdir) for folder in event_folders(logdir)]
        return f"run={run!r} holds no record below {str(logdir)!r}. {did_you_mean(run, every)}"
    if not known:
        return (
            f"Nothing is recorded below {str(logdir)!r}. Train with SaliencyMonitor(record=56) and "
            "a TensorBoardLogger, which keeps it."
        )
    if not chosen:
        names = sorted({one[1] for one in known})
        return f"monitor={monitor!r} recorded nothing there. {did_you_mean(monitor, names)}"
    listed = "; ".join(f"run={one[0]!r}, monitor={one[1]!r}" for one in chosen)
    return f"{len(chosen)} records are below {str(logdir)!r}. Say which: {listed}."


def _relative(folder: Path, logdir: str | Path) -> str:
    return folder.relative_to(logdir).as_posix()


Tracks = dict[tuple[str, str], tuple[Document, Track]]
"""(series, method) → what its metadata says, and what is in the file."""


def _monitors(found: Mapping[str, Track]) -> dict[str, Tracks]:
    """The series of each monitor."""
    by_monitor: dict[str, Tracks] = {}
    for track in found.values():
        try:
            content = json.loads(track.content)
            series, name = str(content["series"]), str(content["monitor"])
        except (ValueError, KeyError, TypeError):
            continue  # another series of ours
        key = series, str(content.get("method", ""))
        by_monitor.setdefault(name, {})[key] = content, track
    return by_monitor


def _history(monitor: str, run: str, folder: Path, own: Tracks) -> History:
    what = f"{monitor!r} in {run!r}"
    for content, _ in own.values():
        check(int(content.get("version", 1)), f"The record of {what}")
    written = [decode_observation(data) for _, (data,) in _written(own, "observations")]
    documents = current(written)
    sheets = [ProbeSheet.decode(blobs) for _, blobs in _written(own, "probes")]
    # A later fit in the same folder may have other probes: its own are the ones to go by.
    hashes = {one["hash"] for one in documents[-1:]}
    known = [sheet for sheet in sheets if sheet.hash in hashes]
    if not known:
        raise RecordError(
            f"The record of {what} has no probes: its first event file is missing. Bring it back."
        )
    documents = [one for one in documents if one["hash"] in hashes]
    blobs = {
        method: _aligned(documents, _written(own, series, method))
        for series, method in own
        if series == "maps"
    }
    return History(monitor, run, folder, known[-1], tuple(documents), blobs)


Written = Sequence[tuple[int, list[bytes]]]


def _written(own: Tracks, series: str, method: str = "") -> Written:
    """Steps and what is in the files there; nothing of a series that is not there."""
    known = own.get((series, method))
    return () if known is None else known[1].written


def _aligned(documents: Sequence[Document], written: Written) -> tuple[bytes | None, ...]:
    """The maps of each observation: of several at its step those of its own session."""
    at: dict[int, list[bytes]] = {}
    for step, blobs in written:
        at.setdefault(step, []).extend(blobs)
    return tuple(_of_session(at.get(one["step"], []), one["session"]) for one in documents)


def _of_session(blobs: Sequence[bytes], session: float) -> bytes | None:
    if len(blobs) > 1:
        blobs = [one for one in blobs if decode_header(one)[0]["session"] == session]
    return blobs[-1] if blobs else None
