"""From what was seen to what is told of it: numbers, pictures, and the memory that goes on."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from math import nan
from typing import NamedTuple

from torch import Tensor

from lightning_saliency.class_models import ClassModel, as_bytes, class_models
from lightning_saliency.gallery import Picture, View, drawn
from lightning_saliency.memory import CONCEPTS, Column, Memory
from lightning_saliency.ranks import Ranks
from lightning_saliency.readings import readings, to_host
from lightning_saliency.session import Session
from lightning_saliency.settings import Settings
from lightning_saliency.sighting import Sighting
from lightning_saliency.snapshot import Snapshot
from lightning_saliency.trainers import Moment


class Finding(NamedTuple):
    """What an observation gives to the loggers, by the end of each tag."""

    numbers: Mapping[str, float] = {}
    pictures: Mapping[str, Picture] = {}

    def timed(self, times: Mapping[str, float]) -> Finding:
        """The same with what it took."""
        return Finding({**self.numbers, **times}, self.pictures)


def found(
    session: Session,
    seen: Sighting,
    memory: Memory,
    moment: Moment,
    *,
    settings: Settings,
    ranks: Ranks,
    masks: Tensor | None,
) -> tuple[Finding, Memory, list[str]]:
    """Measure what was seen of all probes, against what is remembered of them.

    Args:
        session: what is watched.
        seen: of all its probes.
        memory: of the observations before this one.
        moment: of this one.
        settings: what the user asked for.
        ranks: of the Trainer.
        masks: `(N, *spatial)` on the device of the maps, or None.

    Returns:
        The finding, the memory one observation later, and the names of methods whose maps changed
        their size: their drift starts anew.
    """
    now = Snapshot.of(seen, step=moment.step, label=moment.label)
    memory, strangers = memory.fitting(now)
    others, then = memory.snapshots, memory.compared_with(settings.reference)
    if not others:  # what only later observations measure is proved to work, too
        readings(seen, now, {"previous": now}, session.measures, masks)
    numbers = readings(seen, now, others, session.measures, masks)
    concepts = _concepts(session, settings.class_models, ranks)
    host = to_host(numbers | drawn(seen, now, others.get("previous"), then) | concepts)
    scalars = {name: float(host[name]) for name in numbers}
    drift = {name: scalars.get(f"{name}/drift_previous", nan) for name in now.series}
    memory = memory.after(now, Column.of(memory.count, moment.label, host, drift))
    classes = settings.class_models.classes if settings.class_models is not None else ()
    pictures = session.gallery.pictures(View.of(now, then, memory.columns, host, classes))
    return Finding(scalars, pictures), memory.marked(now, settings.reference), strangers


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
        lockstep=ranks.agreeing if ranks.sharded else nullcontext,
    )
    pictures = as_bytes(ascent, how, session.probes.std)
    return ranks.of_first({CONCEPTS: pictures, "reached": ascent.probabilities})
