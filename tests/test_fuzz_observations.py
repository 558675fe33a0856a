"""From what is seen to numbers, pictures and back from a checkpoint, for maps of every content."""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass
from io import BytesIO
from typing import Any

import numpy as np
import torch
from fuzz_draws import (
    Brief,
    contents,
    dtypes,
    fuzz,
    kinds_of,
    masks,
    names,
    outputs,
    seeds,
    shapes,
    sighting,
)
from hypothesis import given
from hypothesis import strategies as st
from test_fuzz_measures import defined
from torch import Tensor
from twin_runs import gap

from lightning_saliency.attribution import Saliency
from lightning_saliency.gallery import Gallery, View, drawn
from lightning_saliency.measures import MEASURES, Drift, Grounding, Stimulus
from lightning_saliency.memory import Column, Memory
from lightning_saliency.probes import Fingerprint, Probes
from lightning_saliency.readings import PARTS, Beside, readings, to_host
from lightning_saliency.sighting import Sighting
from lightning_saliency.snapshot import Snapshot

METHODS = ("gradient", "<b>ü</b>")


@dataclass(frozen=True, repr=False)
class Case(Brief):
    """Probes, what was seen of them at each observation, and masks of any resolution or None."""

    probes: Probes
    seen: list[Sighting]
    masks: Tensor | None

    def __repr__(self) -> str:
        return f"{self.probes!r} seen {len(self.seen)} times"


@st.composite
def observed(draw: Any, most: int = 4) -> Case:
    probes, channels, classes = (draw(st.integers(1, top)) for top in (6, 3, 12))
    spatial, seed = draw(shapes()), draw(seeds)
    methods = METHODS[: draw(st.integers(1, 2))]
    inputs = contents(["normal"] * probes, (channels, *spatial), seed, draw(dtypes))
    labelled = draw(st.booleans())
    covered = draw(st.none() | masks(probes, len(spatial)))
    known = Probes.from_tensors(
        inputs,
        torch.arange(probes) % classes if labelled else None,
        names=draw(st.lists(names, min_size=probes, max_size=probes)),
        classes=draw(st.none() | st.lists(names, min_size=classes, max_size=classes)),
    )
    kind = draw(dtypes)
    seen = []
    for time in range(draw(st.integers(1, most))):
        signed = {
            name: contents(draw(kinds_of(probes)), (channels, *spatial), seed + 9 * time, kind)
            for name in methods
        }
        seen.append(sighting(signed, draw(outputs(probes, classes))))
    return Case(known, seen, covered)


def undefined(snapshot: Snapshot, method: str) -> Tensor:
    return ~defined(snapshot.series[method].map)


@fuzz(60)
@given(case=observed(most=2), label=names)
def test_no_number_is_undefined_without_being_counted(case: Case, label: str) -> None:
    seen, covered = case.seen, case.masks
    now = Snapshot.of(seen[-1], step=3, label=label)
    others = {"previous": Snapshot.of(seen[0], step=0, label="start")} if len(seen) > 1 else {}
    labels = case.probes.targets
    classes = torch.zeros(len(case.probes), dtype=torch.int64) if labels is None else labels
    beside = Beside(classes, covered, number=12)
    found, _ = readings(seen[-1], now, others, MEASURES, beside)
    host = {name: float(value) for name, value in to_host(found).items()}
    shares = []
    for method in now.series:
        lost = undefined(now, method)
        shares.append(float(lost.float().mean()))
        assert abs(host.pop(f"{method}/undefined") - shares[-1]) < 1e-6
        both = lost | undefined(others["previous"], method) if others else lost
        bare = lost if covered is None else lost | ~covered.flatten(1).any(1)
        for name, measure in MEASURES.items():
            end, due, asked = name, lost, not isinstance(measure, Stimulus)
            if isinstance(measure, Drift):
                end, due, asked = f"{name}_previous", both, bool(others)
            elif isinstance(measure, Grounding):
                due, asked = bare, covered is not None
                if name == "background_mass" and covered is not None:
                    due = due | covered.flatten(1).all(1)
            if asked:
                assert np.isfinite(host.pop(f"{method}/{end}")) or bool(due.all()), end
        for end in ("", "_p10", "_p90") if others else ():
            assert np.isfinite(host.pop(f"{method}/drift_previous{end}")) or bool(both.all()), end
        parts = [host.pop(f"{method}/drift_previous_{part}") for part in PARTS if others]
        assert not parts or np.isfinite(parts[:2]).any() or bool(both.all()), "stayed or flipped"
        assert not parts or np.isfinite(parts[2]) or bool(both.all()), "by class"
    assert abs(host.pop("undefined") - float(np.mean(shares))) < 1e-6
    norm = seen[-1].gradient_norm
    assert norm is not None
    some = bool((norm.nan_to_num(0, 0, 0) > 0).any())
    assert np.isfinite(host.pop("magnitude")) or not some or bool((norm == 0).any())
    assert (0 <= host.pop("churn") <= 1) if others else True
    assert covered is None or 0 <= host.pop("mask_area") <= 1
    assert host == {}, "every number was looked at"


@fuzz(40)
@given(case=observed(most=1), power=st.integers(-100, 100))
def test_a_snapshot_keeps_the_form_of_a_map_of_any_scale(case: Case, power: int) -> None:
    """From 1e-30 to 1e30; powers of two, so that the maps themselves stay what they are."""
    seen = case.seen[0]
    one = {name: torch.nan_to_num(maps.signed).clamp(-9, 9) for name, maps in seen.maps.items()}
    one = {name: torch.where(signed.abs() > 1e-6, signed, 0) for name, signed in one.items()}
    scores = torch.zeros(len(seen.predictions), 2)
    plain = Snapshot.of(sighting(one, scores), step=0, label="")
    other = {name: signed * 2.0**power for name, signed in one.items()}
    scaled = Snapshot.of(sighting(other, scores), step=0, label="")
    for name, series in plain.series.items():
        assert torch.equal(series.map, scaled.series[name].map)
        assert torch.equal(series.signed, scaled.series[name].signed)
        assert torch.equal(series.peak * 2.0**power, scaled.series[name].peak)


def remembered(case: Case, label: str) -> tuple[Memory, list[Snapshot]]:
    memory = Memory(case.seen[0].predictions, case.probes.fingerprint)
    snapshots = []
    for index, one in enumerate(case.seen):
        now = Snapshot.of(one, step=2 * index, label=label)
        host = to_host(drawn(one, now, memory.snapshots.get("previous"), None))
        drift = dict.fromkeys(now.series, float("nan") if index == 0 else index / 7)
        memory = memory.after(now, Column.of(index, label, host, drift), {}).marked(now, 3)
        snapshots.append(now)
    return memory, snapshots


def through_a_file(state: Any) -> Any:
    """As a checkpoint that is read without trusting it."""
    file = BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def plain(value: Any) -> Any:
    """Nested dicts and lists of what a value holds, for the comparison of bits."""
    if is_dataclass(value):
        return {one.name: plain(getattr(value, one.name)) for one in fields(value)}
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, (tuple, list)):
        return [plain(one) for one in value]
    return value


@fuzz(50)
@given(case=observed(), label=names)
def test_states_come_back_from_a_file_bit_by_bit(case: Case, label: str) -> None:
    probes, (memory, snapshots) = case.probes, remembered(case, label)
    again = Memory.from_state(through_a_file(memory.state()))
    assert gap(plain(again), plain(memory)) == 0
    assert (again.snapshots["previous"] is again.snapshots["first"]) == (len(snapshots) == 1)
    assert again.state().keys() == memory.state().keys()
    for one in snapshots:
        assert gap(plain(Snapshot.from_state(through_a_file(one.state()))), plain(one)) == 0
    fingerprint = Fingerprint.from_state(through_a_file(probes.fingerprint.to_state()))
    assert fingerprint == probes.fingerprint
    back = Probes.from_state(through_a_file(probes.to_state()))
    assert gap(plain(back), plain(probes)) == 0
    assert back.difference(probes) == ""


@fuzz(25)
@given(case=observed(), label=names)
def test_an_observation_is_drawn_whatever_it_holds(case: Case, label: str) -> None:
    probes, (memory, snapshots) = case.probes, remembered(case, label)
    signed = {METHODS[1]: Saliency(channels="signed")}
    gallery = Gallery.of(probes.inputs, probes.targets, probes.classes, None, None, signed)
    before = snapshots[-2] if len(snapshots) > 1 else None
    host = to_host(drawn(case.seen[-1], snapshots[-1], before, before))
    pictures = gallery.pictures(View.of(snapshots[-1], before, memory.columns, host))
    methods = list(snapshots[-1].series)
    strips = [f"{name}/filmstrip" for name in methods] if before is not None else []
    assert sorted(pictures) == sorted(methods + strips)
    for draw in pictures.values():
        picture = draw()
        assert picture.dtype == np.uint8
        assert (picture.ndim, picture.shape[2]) == (3, 3)
        assert min(picture.shape[:2]) > 60
