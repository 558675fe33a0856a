"""Alerts: charts of where the evidence is, of the probes and of the training as it passes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from lightning_saliency.alerts.cells import CellSums, cell_grid, cell_mass
from lightning_saliency.alerts.chart import Chart, Charted
from lightning_saliency.alerts.tiers import (
    EVENT,
    Conduct,
    RegionAlert,
    done_by,
    event_words,
    event_z,
    mass,
    plain,
    standing,
)
from lightning_saliency.attribution import Saliency
from lightning_saliency.course import Course
from lightning_saliency.errors import ConfigurationError
from lightning_saliency.finding import Finding
from lightning_saliency.gallery import Picture
from lightning_saliency.inquiry import Inquiry
from lightning_saliency.intervening import Panel, tested
from lightning_saliency.probes import Probes
from lightning_saliency.probes.fields import Reading, as_targets
from lightning_saliency.record.format import Mark
from lightning_saliency.session import Session, explained_classes, first_outputs
from lightning_saliency.sight import sight
from lightning_saliency.sighting import Sighting

ALERT = "alert"

CHARTED = "gradient"
"""The method whose maps are charted, as it is named in tags."""

MOST_CLASSES = 20
"""Of a model whose classes have charts of their own; with more, each has few examples."""

PROBES, STREAM = "probes", "stream"


def alerted(inquiry: Inquiry, course: Course) -> tuple[Finding, Course, list[str]]:
    """Chart the newest observation, and follow what stands out.

    Args:
        inquiry: what was seen, and how to see more; inside `observing`.
        course: of the fit, this observation's drift included.

    Returns:
        The finding, the course with the newest cells, and what is to be said on the console.
    """
    alerts = inquiry.settings.alerts
    assert alerts is not None
    panels = _panels(inquiry)
    donors = panels.get(STREAM, panels[PROBES])
    cells = {
        panel: _cells(one, alerts.cells, by_class=panel == STREAM) for panel, one in panels.items()
    }
    course = course.laid(cells)
    arrays = {f"cells/{panel}": one.numpy() for panel, one in cells.items()}
    numbers, event = _event(inquiry, course)
    charted = {panel: charted_of(alerts.chart, course.cells, panel) for panel in panels}
    alarms = {panel: alerts.chart.alarms(one) for panel, one in charted.items()}
    counted = [float(alerts.chart.counted(one).amax()) for one in charted.values()]
    raised, fresh = standing(course.raised, alarms, alerts.chart.lag)
    told = [Mark("event", plain(event))] if event else []
    texts = [event] if event else []
    pictures: dict[str, Picture] = {}
    # The largest last: one picture is shown, of the panel where it was seen best.
    for panel, found in sorted(fresh.items(), key=lambda one: one[1][0].z):
        alert = RegionAlert(
            panel,
            found,
            cell_grid(panels[panel].maps.shape[1:], alerts.cells),
            mass(course.cells[panel], found[0], alerts.chart.lag),
            inquiry.session.probes.classes,
        )
        followed, pictures[ALERT] = tested(inquiry, panels[panel], donors, alert)
        texts.append(followed.words)
        words = plain(followed.words)
        told.append(Mark("alert", words, panel, found[0].group, alert.at, alert.grid))
    conduct = inquiry.conduct or Conduct((), 0)
    course = course.after(raised, len(fresh), conduct)
    numbers |= {"alerts": float(course.alerts), "region_z": max(counted, default=0.0)}
    written = {ALERT: "\n\n".join(texts)} if texts else {}
    found_out = Finding(numbers, pictures, written, arrays, events=tuple(told))
    return found_out, course, [f"tells: {mark.text}" for mark in told]


def charted_of(chart: Chart, cells: Mapping[str, Tensor], panel: str) -> Charted:
    """One panel's newest observation on its chart.

    What passes in the training is held against the probes at the same observations: what moves in
    both is the network's way, what moves in the training alone is what only the training has.
    """
    own = cells[panel]
    control = cells.get(PROBES) if panel == STREAM else None
    if control is None:
        return chart.read(own)
    return chart.read(own, control[-len(own) :, 0])


def _cells(panel: Panel, cells: int, *, by_class: bool) -> Tensor:
    """The shares of the cells, of all examples and of each class: `(G, C)` on the CPU.

    Not of the classes of the probes: each has few, and they are the same few for ever.
    """
    session, masses = panel.session, cell_mass(panel.maps, cells)
    number = session.number if by_class and session.number <= MOST_CLASSES else 0
    classes = session.classes if number else torch.zeros_like(session.classes)
    groups = CellSums.of(masses, classes, number or 1).groups()
    return (groups if number else groups[:1]).cpu()


def _event(inquiry: Inquiry, course: Course) -> tuple[dict[str, float], str]:
    """Tier 1: how unusual the drift of the first method is in this run."""
    method = next(iter(inquiry.now.series))
    drift = course.drift.get(method)
    z = math.nan if drift is None else event_z(drift)
    if drift is None or math.isnan(z):
        return {}, ""
    before = Conduct(course.rates, course.trainable) if course.trainable >= 0 else None
    assert inquiry.conduct is not None
    causes = done_by(before, inquiry.conduct, resumed=inquiry.resumed)
    return {"event_z": z}, event_words(z, float(drift[-1]), causes) if z > EVENT else ""


def _panels(inquiry: Inquiry) -> dict[str, Panel]:
    """Each panel's session and the maps of its examples, `(N, *spatial)`."""
    charted = Saliency()
    known = [name for name, one in inquiry.session.methods.items() if one == charted]
    if known:
        maps = inquiry.seen.maps[known[0]].map
        panels = {PROBES: Panel(inquiry.session, maps)}
    else:
        session = inquiry.session.of(
            inquiry.session.probes, {CHARTED: charted}, inquiry.session.classes
        )
        panels = {PROBES: Panel(session, _seen(inquiry, session))}
    stream = _stream(inquiry)
    if stream is not None:
        panels[STREAM] = Panel(stream, _seen(inquiry, stream))
    return panels


def _seen(inquiry: Inquiry, session: Session) -> Tensor:
    mine, _ = sight(
        session,
        inquiry.module,
        inquiry.ranks,
        chunk=inquiry.chunk,
        progress=lambda done, total: None,
    )
    rows = inquiry.ranks.together(mine.rows(), len(session.probes))
    return Sighting.from_rows(rows).maps[CHARTED].map


def _stream(inquiry: Inquiry) -> Session | None:
    """The session of what passed, with rank 0's examples; None where nothing did."""
    readings = inquiry.ranks.made_by_first(inquiry.passed)
    if not readings:
        return None
    with inquiry.ranks.agreeing():
        probes = _as_probes(readings)
    session = inquiry.session.of(probes, {CHARTED: Saliency()}, inquiry.session.classes)
    with inquiry.ranks.agreeing():
        inputs = session.inputs(inquiry.module, range(len(probes)))
    outputs = first_outputs(session.subject, inputs, session.chunk)
    settings = inquiry.settings
    seen = probes, session.subject, inputs, outputs, inquiry.lockstep
    try:
        classes = explained_classes(settings, *seen)
    except ConfigurationError:  # such as mixed labels: the class is what the model says
        settings = replace(settings, target_class="prediction")
        classes = explained_classes(settings, *seen)
    return replace(session, classes=classes)


def _as_probes(readings: Sequence[Reading]) -> Probes:
    """What passed in the size of the newest, as examples without names; the finite ones."""
    size = readings[-1].inputs.shape[1:]
    same = [one for one in readings if one.inputs.shape[1:] == size]
    inputs = torch.cat([one.inputs for one in same])
    given = [one.targets for one in same if one.targets is not None]
    labels = as_targets(torch.cat(given), strict=False) if len(given) == len(same) else None
    fit = inputs.flatten(1).isfinite().all(1)
    if labels is not None:
        fit &= labels.isfinite()
        labels = labels[fit]
    inputs = inputs[fit]
    return Probes(inputs, labels, tuple(f"passed[{index}]" for index in range(len(inputs))))
