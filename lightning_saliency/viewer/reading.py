"""TensorBoard's data provider → what the browser asks for, as documents.

Nothing here knows HTTP. What can't be read is left out and said; only what isn't there raises.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lightning_saliency.record import PLUGIN, VERSION, RecordError
from lightning_saliency.record.format import current, decode_observation
from lightning_saliency.record.versions import check, loaded

Document = dict[str, Any]

_ALL = 10**9
"""Steps of a series that are wanted: every one."""

_NEEDED: Mapping[str, Any] = {
    "step": int, "time": (int, float), "hash": str, "predictions": list, "methods": dict,
    "session": (int, float), "since": int,
}  # fmt: skip
"""What the browser, or the order of observations, can't do without."""

_MARK = "/record/"
"""In the tags of a record; what else has our plugin's name are the arrays of `calibrate`."""


@dataclass
class Record:
    """The series of one monitor in one run.

    Attributes:
        run, monitor: their names.
        tags: ``probes``, ``observations`` or ``maps/{method}`` → tag.
        last: the newest step; None before the first observation.
        time: of the newest event, in seconds since 1970.
        refused: why it is not shown; "" where it is.
    """

    run: str
    monitor: str
    tags: dict[str, str] = field(default_factory=dict)
    last: int | None = None
    time: float = 0.0
    refused: str = ""

    @property
    def methods(self) -> list[str]:
        """Names of the methods whose maps are there."""
        return [name.removeprefix("maps/") for name in self.tags if name.startswith("maps/")]

    def take(self, tag: str, series: Any) -> None:
        """Take in what the provider lists of a tag."""
        name = tag.split(_MARK, 1)[1]
        self.tags[name] = tag
        self.time = max(self.time, series.max_wall_time or 0.0)
        if name == "observations":
            self.last = series.max_step
        self.refused = self.refused or _refusal(series.plugin_content)


def _refusal(content: bytes) -> str:
    """Why a series with this metadata can't be read; "" if it can."""
    try:
        document = json.loads(content)
        check(int(document["version"]), "this run's record")
    except RecordError as error:
        return str(error)
    except Exception as error:
        return f"its record is damaged ({type(error).__name__}: {error})."
    return ""


class Reader:
    """Reads records by a data provider alone, so it serves with either of TensorBoard's loaders.

    Args:
        provider: a `tensorboard.data.provider.DataProvider`.
        ctx: of the request.
        experiment: its id.
    """

    def __init__(self, provider: Any, ctx: Any, experiment: str = "") -> None:
        self._provider = provider
        self._where: dict[str, Any] = {
            "ctx": ctx, "experiment_id": experiment, "plugin_name": PLUGIN,
        }  # fmt: skip

    def index(self) -> Document:
        """Which runs have a record, and which have one that can't be shown."""
        shown: list[Document] = []
        refused: list[Document] = []
        for _, record in sorted(self._records().items()):
            names = {"run": record.run, "monitor": record.monitor}
            why = record.refused
            if not why and "probes" not in record.tags:
                why = "its record has no probes: the event file is not whole. Copy the run anew."
            if why:
                refused.append({**names, "why": why})
            else:
                known = {"methods": record.methods, "last": record.last, "time": record.time}
                shown.append({**names, **known})
        return {"version": VERSION, "runs": shown, "refused": refused}

    def series(self, run: str, monitor: str) -> Document:
        """The probes and all observations of a run, but for the maps, of which there are keys.

        Raises:
            RecordError: there is no such record, or its version or its probes can't be read.
        """
        record = self._records([run]).get((run, monitor))
        if record is None or record.refused:
            raise RecordError(record.refused if record else f"There is no record of {run!r}.")
        blobs = self._blobs(record)
        probes = self._probes(blobs.pop("probes", []))
        observations, notes = self._observations(record, probes)
        for name, data in blobs.items():
            for datum in data:
                if datum.step in observations and datum.values:
                    maps = observations[datum.step]["maps"]
                    maps[name.removeprefix("maps/")] = datum.values[0].blob_key
        return {
            "version": VERSION,
            "run": run,
            "monitor": monitor,
            "probes": probes,
            "observations": [observations[step] for step in sorted(observations)],
            "notes": notes,
        }

    def blob(self, key: str) -> bytes:
        """What a key of `series` stands for; any error means that it stands for nothing."""
        blob: bytes = self._provider.read_blob(ctx=self._where["ctx"], blob_key=key)
        return blob

    def _records(self, runs: list[str] | None = None) -> dict[tuple[str, str], Record]:
        from tensorboard.data.provider import RunTagFilter

        chosen = RunTagFilter(runs=runs)
        found: dict[tuple[str, str], Record] = {}
        for read in (self._provider.list_blob_sequences, self._provider.list_tensors):
            for run, tags in read(**self._where, run_tag_filter=chosen).items():
                for tag, series in tags.items():
                    if _MARK in tag:
                        monitor = tag.split(_MARK, 1)[0]
                        record = found.setdefault((run, monitor), Record(run, monitor))
                        record.take(tag, series)
        return found

    def _blobs(self, record: Record) -> dict[str, list[Any]]:
        """The keys of each of a record's series of blobs."""
        tags = {tag: name for name, tag in record.tags.items() if name != "observations"}
        found = self._provider.read_blob_sequences(
            **self._where, downsample=_ALL, run_tag_filter=_only(record.run, *tags)
        )
        return {tags[tag]: list(data) for tag, data in found.get(record.run, {}).items()}

    def _probes(self, data: list[Any]) -> Document:
        """The newest header of the probes, and the keys of their pictures."""
        if not data or len(data[-1].values) < 2:
            raise RecordError("the run's record has no probes. Copy the run anew.")
        head, sprite, *masks = (value.blob_key for value in data[-1].values)
        header = dict(loaded(self.blob(head), "the header of the probes"))
        return {**header, "sprite": sprite, "masks": masks[0] if masks else None}

    def _observations(
        self, record: Record, probes: Mapping[str, Any]
    ) -> tuple[dict[int, Document], list[str]]:
        """The observations of these probes by step, and what is to be said of the others."""
        tag = record.tags.get("observations")
        if tag is None:
            return {}, []
        found = self._provider.read_tensors(
            **self._where, downsample=_ALL, run_tag_filter=_only(record.run, tag)
        )
        whole: list[Document] = []
        damaged: list[str] = []
        for datum in found.get(record.run, {}).get(tag, []):
            try:
                whole.append(_observation(datum))
            except Exception as error:
                damaged.append(str(error) or type(error).__name__)
        counted = current(whole)
        own = [one for one in counted if _of_these(one, probes)]
        observations = {one["step"]: {**one, "maps": {}} for one in own}
        return observations, _notes(damaged, len(counted) - len(own))


def _only(run: str, *tags: str) -> Any:
    from tensorboard.data.provider import RunTagFilter

    return RunTagFilter(runs=[run], tags=list(tags))


def _observation(datum: Any) -> Document:
    document = dict(decode_observation(bytes(datum.numpy.item())))
    lacking = [name for name, kind in _NEEDED.items() if not isinstance(document.get(name), kind)]
    if lacking or document["step"] != datum.step:
        words = f"its {lacking[0]} is missing" if lacking else "it says that it is of another step"
        raise RecordError(f"at step {datum.step}: {words}.")
    return document


def _of_these(observation: Mapping[str, Any], probes: Mapping[str, Any]) -> bool:
    same: bool = observation["hash"] == probes["hash"]
    return same and len(observation["predictions"]) == probes["count"]


def _notes(damaged: list[str], others: int) -> list[str]:
    notes = []
    if damaged:
        these = "1 observation" if len(damaged) == 1 else f"{len(damaged)} observations"
        notes.append(f"{these} can't be read and {_are(len(damaged))} left out: {damaged[0]}")
    if others:
        these = "1 observation" if others == 1 else f"{others} observations"
        notes.append(f"{these} of other probes, from before a resume, {_are(others)} left out.")
    return notes


def _are(count: int) -> str:
    return "is" if count == 1 else "are"
