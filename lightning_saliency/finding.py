"""From what was seen to what is told of it: numbers, pictures, and the memory that goes on."""

from __future__ import annotations

from collections.abc import Mapping
from math import nan
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_saliency.class_models import ClassModel, as_bytes, class_models
from lightning_saliency.class_table import class_table
from lightning_saliency.course import Course
from lightning_saliency.gallery import SHOWN, Picture, View, drawn
from lightning_saliency.measures.aggregate import quantiles
from lightning_saliency.measures.decomposition import tortuosity
from lightning_saliency.memory import CONCEPTS, Column, Memory
from lightning_saliency.ranks import Ranks
from lightning_saliency.readings import PARTS, UNRELIABLE, Beside, readings, to_host
from lightning_saliency.record.format import Mark
from lightning_saliency.recording import Entry, Fit, entry, needed
from lightning_saliency.session import Session
from lightning_saliency.settings import Settings
from lightning_saliency.sighting import Sighting
from lightning_saliency.snapshot import Snapshot
from lightning_saliency.trainers import Moment


class Finding(NamedTuple):
    """What an observation gives to the loggers, by the end of each tag.

    Attributes:
        numbers: scalars.
        pictures: drawn where that holds nobody up.
        texts: Markdown.
        arrays: series that programs read, not people.
        events: what happened, for the record.
        entry: the record's, where there is one.
    """

    numbers: Mapping[str, float] = {}
    pictures: Mapping[str, Picture] = {}
    texts: Mapping[str, str] = {}
    arrays: Mapping[str, NDArray[np.float32]] = {}
    events: tuple[Mark, ...] = ()
    entry: Entry | None = None

    def timed(self, times: Mapping[str, float]) -> Finding:
        """The same with what it took."""
        return self._replace(numbers={**self.numbers, **times})

    def during(self, fit: Fit, *, resumed: bool) -> Finding:
        """The same with what the training does meanwhile."""
        words = f"The run was resumed from a checkpoint, at step {fit.since}."
        marks = (Mark("resumed", words),) if resumed else ()
        made = None if self.entry is None else self.entry.during(fit)
        return self._replace(events=(*marks, *self.events), entry=made)

    def joined(self, other: Finding) -> Finding:
        """Both."""
        return Finding(
            {**self.numbers, **other.numbers},
            {**self.pictures, **other.pictures},
            {**self.texts, **other.texts},
            {**self.arrays, **other.arrays},
            (*self.events, *other.events),
            other.entry or self.entry,
        )


class Found(NamedTuple):
    """What an observation of the probes gave.

    Attributes:
        finding: for the loggers.
        now: what is remembered of it.
        memory: one observation later.
        strangers: names of methods whose maps changed their size: their drift starts anew.
    """

    finding: Finding
    now: Snapshot
    memory: Memory
    strangers: list[str]


def found(
    session: Session,
    seen: Sighting,
    memory: Memory,
    moment: Moment,
    *,
    settings: Settings,
    ranks: Ranks,
    masks: Tensor | None,
    images: Tensor | None = None,
    recorded: bool = False,
) -> Found:
    """Measure what was seen of all probes, against what is remembered of them.

    Args:
        session: what is watched.
        seen: of all its probes.
        memory: of the observations before this one.
        moment: of this one.
        settings: what the user asked for.
        ranks: of the Trainer.
        masks: `(N, *spatial)` on the device of the maps, or None.
        images: `(N, C, *spatial)` there, the probes as a person knows them, where a measure reads
            them.
        recorded: whether an entry of the record is made of it.
    """
    now = Snapshot.of(seen, step=moment.step, label=moment.label)
    memory, strangers = memory.fitting(now)
    others, then = memory.snapshots, memory.compared_with(settings.reference)
    beside = Beside(session.classes, masks, images, session.number)
    if not others:  # what only later observations measure is proved to work, too
        readings(seen, now, {"previous": now, "first": now}, session.measures, beside)
    numbers, steps = readings(seen, now, others, session.measures, beside)
    concepts = _concepts(session, settings.class_models, ranks)
    wanted = drawn(seen, now, others.get("previous"), then) | concepts | steps
    if recorded:
        wanted |= needed(session, seen, now)
    host = to_host(numbers | wanted)
    said = {name: float(host[name]) for name in numbers}
    scalars = {name: one for name, one in said.items() if _is_said(name, said)}
    drift = {name: scalars.get(f"{name}/drift_previous", nan) for name in now.series}
    made = entry(session, settings, now, host, index=memory.count) if recorded else None
    hidden = {
        name: host[f"reliability {name}"][:SHOWN] < UNRELIABLE
        for name in now.series
        if f"reliability {name}" in host
    }
    column = Column.of(memory.count, moment.label, host, drift, hidden)
    memory = memory.after(now, column, _each(host, "previous", now))
    scalars |= _tortuosity(memory.course, _each(host, "first", now))
    classes = settings.class_models.classes if settings.class_models is not None else ()
    view = View.of(now, then, memory.columns, host, classes, hidden)
    pictures, texts = session.gallery.pictures(view), _by_class(session, now, host)
    marked = memory.marked(now, settings.reference)
    return Found(Finding(scalars, pictures, texts, entry=made), now, marked, strangers)


def _by_class(
    session: Session, now: Snapshot, host: Mapping[str, NDArray[np.float32]]
) -> dict[str, str]:
    """The table of the classes, of the first method; none where there is nothing before."""
    method = next(iter(now.series))
    if "flipped" not in host or f"previous {method}" not in host:
        return {}
    classes, flipped = host["classes"].astype(np.int64), host["flipped"] > 0
    drift, names = host[f"previous {method}"], session.probes.classes
    return {"classes": class_table(method, classes, drift, flipped, names)}


def _is_said(name: str, numbers: Mapping[str, float]) -> bool:
    """Whether a number is logged: one that nothing defines is no curve.

    Such as a part of the drift that no probe has, or a spread over one probe. Where there was no
    map at all, which `undefined` counts, and of the drift itself, the gap is logged.
    """
    method, _, what = name.partition("/")
    lost = numbers.get(f"{method}/undefined") == 1
    drift = what.startswith("drift_") and what.removeprefix("drift_previous_") not in PARTS
    return numbers[name] == numbers[name] or lost or drift or not what


def _each(host: Mapping[str, NDArray[np.float32]], other: str, now: Snapshot) -> dict[str, Tensor]:
    """The drift of each probe from another observation, by method."""
    return {
        name: torch.from_numpy(host[f"{other} {name}"].copy())
        for name in now.series
        if f"{other} {name}" in host
    }


def _tortuosity(course: Course, ways: Mapping[str, Tensor]) -> dict[str, float]:
    """How far the maps went ÷ how far they are from where they began: median over probes.

    Left out where they are where they began: that is no way.
    """
    found = {
        f"{name}/tortuosity": float(quantiles(tortuosity(course.paths[name], way), (0.5,))[0])
        for name, way in ways.items()
        if name in course.paths
    }
    return {name: ratio for name, ratio in found.items() if ratio == ratio}


def _concepts(session: Session, how: ClassModel | None, ranks: Ranks) -> dict[str, Tensor]:
    """What classes look like to the model, by the names that `Column.of` knows.

    All ranks climb, since sharded parameters need them all; rank 0's pictures count.
    """
    if how is None:
        return {}
    inputs = session.probes.inputs
    ascent = class_models(
        session.subject,
        how,
        inputs.shape[1:],
        dtype=inputs.dtype,
        device=session.classes.device,
        chunk=session.chunk,
        lockstep=ranks.lockstep,
    )
    pictures = as_bytes(ascent, how, session.probes.std)
    return ranks.of_first({CONCEPTS: pictures, "reached": ascent.probabilities})
