"""The tiers: what is an event, what is told of it, where a cell is, and that it is told once."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lightning_saliency.alerts.chart import Alarm, Chart
from lightning_saliency.alerts.tiers import (
    EVENT,
    Conduct,
    RegionAlert,
    done_by,
    event_words,
    event_z,
    mass,
    place,
    standing,
)


def drift(seed: int, steps: int = 20) -> Tensor:
    """A run's median drift: about 0.05, its logarithm by about 0.3 up and down."""
    drawn = torch.Generator().manual_seed(seed)
    return 0.05 * (0.3 * torch.randn(steps, generator=drawn)).exp()


def test_an_ordinary_run_has_few_events_and_a_burst_is_one() -> None:
    runs = [drift(seed) for seed in range(50)]
    assert sum(event_z(one) > EVENT for one in runs) <= 1
    assert all(event_z(torch.cat([one, one.median()[None] * 10])) > EVENT for one in runs)
    assert all(event_z(torch.cat([one, one.median()[None] / 10])) < -EVENT for one in runs)


@given(st.integers(0, 99), st.floats(1e-3, 1e3))
def test_an_event_has_no_unit(seed: int, unit: float) -> None:
    assert event_z(unit * drift(seed)) == pytest.approx(event_z(drift(seed)), rel=1e-3, abs=1e-3)


def test_the_statistic_is_robust_and_never_takes_a_run_for_steadier_than_a_quarter() -> None:
    still = torch.full((10,), 0.1)
    assert event_z(torch.cat([still, still[:1] * 2])) == pytest.approx(math.log(2) / 0.25, rel=1e-5)
    logs = torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0, 2.0])
    assert event_z((logs - 5).exp()) == pytest.approx(0, abs=1e-5)
    logs[-1] = 6
    assert event_z(logs.exp()) == pytest.approx(4 / 1.4826, rel=1e-5)
    wild = torch.cat([logs[:3].exp(), torch.tensor([1e30]), logs[4:].exp()])
    assert event_z(wild) == pytest.approx(4 / 2 / 1.4826, rel=1e-5)


def test_nothing_is_said_of_too_short_a_past_or_of_no_drift() -> None:
    past = drift(0, 6)
    assert math.isfinite(event_z(past))
    assert math.isnan(event_z(past[1:]))
    assert math.isnan(event_z(torch.cat([past[:2], torch.tensor([math.nan]), past[3:]])))
    for newest in (0.0, math.nan):
        assert math.isnan(event_z(torch.cat([past, torch.tensor([newest])])))


@pytest.mark.parametrize(
    ("before", "now", "told"),
    [
        (Conduct((0.001,), 5), Conduct((0.003,), 5), ["learning rate × 3 (0.001 to 0.003)"]),
        (Conduct((0.1, 0.1), 5), Conduct((0.01, 0.01), 5), ["learning rate × 0.1 (0.1 to 0.01)"]),
        (Conduct((0.0,), 5), Conduct((0.01,), 5), ["learning rate (0 to 0.01)"]),
        (Conduct((0.01,), 5), Conduct((0.0,), 5), ["learning rate × 0 (0.01 to 0)"]),
        (Conduct((0.0,), 5), Conduct((0.0,), 5), []),
        (Conduct((0.01,), 5), Conduct((0.0095,), 5), []),
        (Conduct((math.nan,), 5), Conduct((0.01,), 5), []),
        (Conduct((0.1,), 5), Conduct((0.1,), 12350), ["12,345 parameters began to learn"]),
        (Conduct((0.1,), 12350), Conduct((0.1,), 5), ["12,345 parameters ceased to learn"]),
        (Conduct((0.1,), 5), Conduct((0.1, 0.1), 5), ["groups of parameters: 2, not 1"]),
        (None, Conduct((0.1,), 5), []),
    ],
)
def test_what_the_training_did(before: Conduct | None, now: Conduct, told: list[str]) -> None:
    assert done_by(before, now, resumed=False) == told
    resumed = "the run was resumed from a checkpoint"
    assert done_by(before, now, resumed=True) == [resumed, *told]
    words = event_words(5.0, 0.5, told)
    assert all(one in words for one in told)
    assert ("Meanwhile" in words) == bool(told)
    assert "not an alarm" in words


@pytest.mark.parametrize(
    ("cell", "grid", "told"),
    [
        (0, (7, 7), "top left cell (row 1 of 7, column 1 of 7)"),
        (6, (7, 7), "top right cell (row 1 of 7, column 7 of 7)"),
        (43, (7, 7), "bottom left cell (row 7 of 7, column 2 of 7)"),
        (44, (7, 7), "bottom cell (row 7 of 7, column 3 of 7)"),
        (24, (7, 7), "middle cell (row 4 of 7, column 4 of 7)"),
        (3, (7, 7), "top cell (row 1 of 7, column 4 of 7)"),
        (5, (4, 4), "middle cell (row 2 of 4, column 2 of 4)"),
        (10, (4, 4), "middle cell (row 3 of 4, column 3 of 4)"),
        (1, (2, 3), "top cell (row 1 of 2, column 2 of 3)"),
        (5, (2, 3), "bottom right cell (row 2 of 2, column 3 of 3)"),
        (2, (5,), "middle cell (cell 3 of 5)"),
        (4, (5,), "right cell (cell 5 of 5)"),
        (33, (3, 4, 5), "cell (slice 2 of 3, row 3 of 4, column 4 of 5)"),
    ],
)
def test_where_a_cell_is(cell: int, grid: tuple[int, ...], told: str) -> None:
    assert place(cell, grid) == told


ALERT = RegionAlert("probes", (Alarm(0, 8, 6.12, 3.4),), (7, 7), (0.01, 0.034))


def test_an_alert_says_where_how_much_and_no_more_than_is_known() -> None:
    text = ALERT.words()
    for part in ("the probes,", "top left cell", "1.0% to 3.4%", "× 3.4", "z 6.1"):
        assert part in text
    assert "Whether the model relies on it was not tested." in text
    assert text.replace("Whether the model relies on it was not tested.", "").count("rel") == 0
    tested = ALERT.words("It relies on it (p = 0.001).")
    assert tested.endswith("It relies on it (p = 0.001).")
    assert "not tested" not in tested


def test_an_alert_of_a_class_names_it() -> None:
    of_class = replace(ALERT, panel="stream", alarms=(Alarm(2, 8, 6.0, 3.0),))
    assert "as they pass of the class 1," in of_class.words()
    assert "of the class dog," in replace(of_class, names=("cat", "dog")).words()
    assert "of the class 1," in replace(of_class, names=("cat",)).words()


def test_an_alert_names_each_other_cell_once() -> None:
    more = (*ALERT.alarms, Alarm(1, 8, 5.9, 3.0), Alarm(0, 48, 5.8, 3.0), Alarm(3, 48, 5.7, 3.0))
    text = replace(ALERT, alarms=more).words()
    assert "Also: bottom right cell (row 7 of 7, column 7 of 7). " in text
    assert "Also" not in replace(ALERT, alarms=more[:2]).words()
    others = tuple(Alarm(0, cell, 5.0, 3.0) for cell in (48, 40, 30, 20, 10, 0))
    text = replace(ALERT, alarms=(*ALERT.alarms, *others)).words()
    assert [text.count(place(one.cell, (7, 7))) for one in others] == [0, 0, 1, 1, 1, 1]
    assert "; and 2 more. " in text


def test_a_growing_mass_is_told_once() -> None:
    drawn = torch.Generator().manual_seed(1)
    chart, cells = Chart(), (0.05 * torch.randn(40, 1, 49, generator=drawn)).softmax(2)
    for when in range(20, 24):
        cells[when:, :, 5] *= 2.5
    cells = cells / cells.sum(2, keepdim=True)
    told, alarmed, raised = [], [], dict[str, int]()
    for when, charted in enumerate(chart.replayed(cells)):
        alarms = chart.alarms(charted)
        raised, fresh = standing(raised, {"probes": alarms}, chart.lag)
        told += [(when, one.cell) for found in fresh.values() for one in found]
        alarmed += [when] * bool(alarms)
    assert len(alarmed) >= 2
    assert told == [(alarmed[0], 5)]
    assert not raised


def test_an_alarm_stands_for_the_lag_whoever_it_is_of() -> None:
    first, other = Alarm(0, 5, 6.0, 3.0), Alarm(4, 5, 6.0, 3.0)
    raised, fresh = standing({}, {"probes": (first,), "stream": ()}, 2)
    assert (raised, fresh) == ({"probes/5": 0}, {"probes": (first,)})
    # The same cell in another group is the same news; in another panel it is not.
    raised, fresh = standing(raised, {"probes": (other,), "stream": (first,)}, 2)
    assert fresh == {"stream": (first,)}
    ages = []
    for _ in range(3):
        raised, fresh = standing(raised, {}, 2)
        ages.append(raised.get("probes/5"))
    assert ages == [1, 2, None]
    assert standing(raised, {"probes": (first,)}, 2)[1] == {"probes": (first,)}


def test_the_mass_is_that_of_the_cell_then_and_now() -> None:
    cells = torch.arange(24.0).view(4, 2, 3)
    assert mass(cells, Alarm(1, 2, 6.0, 3.0), 2) == (11.0, 23.0)
