"""The chart: what never alarms, what always does, and that it knows no cell by name."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lightning_saliency.alerts import Chart
from lightning_saliency.alerts.chart import Alarm
from lightning_saliency.errors import ConfigurationError

CELLS, LENGTH, STEP = 49, 20, 14
AT_ONCE = Chart(hold=1)


def drifting(seed: int, groups: int = 2, length: int = LENGTH, size: float = 0.05) -> Tensor:
    """Masses `(T, G, C)` of independent noise about shares that differ between cells."""
    drawn = torch.Generator().manual_seed(seed)
    start = torch.randn(groups, CELLS, generator=drawn, dtype=torch.float64) / 2
    noise = torch.randn(length, groups, CELLS, generator=drawn, dtype=torch.float64)
    return (start + size * noise).softmax(2)


def planted(cells: Tensor, group: int, cell: int, factor: float) -> Tensor:
    """From `STEP` on one cell of one group has `factor` times its mass; shares again."""
    cells = cells.clone()
    cells[STEP:, group, cell] *= factor
    return cells / cells.sum(2, keepdim=True)


def alarms(chart: Chart, cells: Tensor, control: Tensor | None = None) -> list[tuple[Alarm, ...]]:
    return [chart.alarms(one) for one in chart.replayed(cells, control)]


def test_masses_that_stand_still_never_alarm() -> None:
    still = drifting(0)[:1].expand(LENGTH, -1, -1)
    assert not any(alarms(Chart(threshold=1e-9, ratio=1), still))


def test_noise_seldom_alarms_even_without_a_ratio() -> None:
    chart = Chart(threshold=5, ratio=1)
    wrong = sum(any(alarms(chart, drifting(seed, 1))) for seed in range(60))
    assert wrong <= 1


def test_the_ratio_keeps_a_small_move_from_counting() -> None:
    cells = planted(drifting(3, size=0.01), 0, 5, 1.5)
    assert any(alarms(Chart(ratio=1.2), cells))
    assert not any(alarms(Chart(ratio=2), cells))


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 99), st.integers(0, 1), st.integers(0, CELLS - 1))
def test_a_step_is_found_at_once_and_in_its_cell(seed: int, group: int, cell: int) -> None:
    found = alarms(AT_ONCE, planted(drifting(seed), group, cell, 8))
    assert not any(found[:STEP])
    (first, *_) = found[STEP]
    assert (first.group, first.cell) == (group, cell)
    assert first.z > AT_ONCE.threshold
    assert 3 < first.ratio < 9


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 99), st.integers(0, CELLS - 1), st.integers(2, 4))
def test_what_must_hold_is_found_when_it_has(seed: int, cell: int, hold: int) -> None:
    found = alarms(Chart(hold=hold), planted(drifting(seed), 1, cell, 8))
    late = STEP + hold - 1
    assert not any(found[:late])
    assert (found[late][0].group, found[late][0].cell) == (1, cell)


def test_what_is_gone_at_the_next_observation_is_no_alarm() -> None:
    cells = drifting(3)
    cells[STEP, 0, 7] *= 8
    cells = cells / cells.sum(2, keepdim=True)
    assert alarms(AT_ONCE, cells)[STEP]
    assert not any(alarms(Chart(), cells))


def test_power_grows_with_the_step() -> None:
    def share(factor: float) -> float:
        runs = [planted(drifting(seed, 1, size=0.2), 0, seed % CELLS, factor) for seed in range(30)]
        return sum(any(alarms(Chart(), one)[STEP:]) for one in runs) / len(runs)

    assert share(2) < 0.2
    assert share(12) > 0.9


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 99))
def test_cells_and_groups_have_no_order(seed: int) -> None:
    drawn = torch.Generator().manual_seed(seed)
    cells = planted(drifting(seed, 3), 1, 7, 6)
    order, groups = torch.randperm(CELLS, generator=drawn), torch.randperm(3, generator=drawn)
    z = Chart().read(cells).z
    torch.testing.assert_close(Chart().read(cells[:, groups][:, :, order]).z, z[groups][:, order])


def test_noise_twice_as_large_hides_a_move_twice_as_large() -> None:
    # Masses far above the floor, whose log is then all that counts.
    small = drifting(1, 1).log()
    move = torch.zeros_like(small)
    move[STEP:, 0, 4] = 0.4
    middle = small.mean(0, keepdim=True)
    both = [(middle + k * (small - middle + move)).softmax(2) * 1e6 for k in (1, 2)]
    one, other = (AT_ONCE.read(cells[: STEP + 1]).z for cells in both)
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_what_the_control_does_as_well_is_no_news() -> None:
    both = planted(drifting(2, 1), 0, 9, 8)
    alone = alarms(AT_ONCE, both)
    held = alarms(AT_ONCE, both, both[:, 0])
    other = alarms(AT_ONCE, both, drifting(5, 1)[:, 0])
    assert alone[STEP]
    assert other[STEP][0].cell == 9
    assert not any(held)


@pytest.mark.parametrize("hold", [1, 2, 3])
def test_the_formula(hold: int) -> None:
    chart = Chart(lag=1, hold=hold, least=2, prior=3)
    cells = drifting(8, 1, 5 + hold)
    logs = (cells[:, 0] + 0.05 / CELLS).log()
    moves = logs[1:] - logs[:-1]
    moves = moves - moves.median(1, keepdim=True).values
    spread = moves[:4].square().mean(0)
    moderated = (3 * spread.mean() + 4 * spread) / 7
    read = chart.read(cells)
    torch.testing.assert_close(read.z[0], moves[4:].amin(0) / moderated.sqrt())
    growth = (cells[5:, 0] + 0.05 / CELLS) / (cells[4:-1, 0] + 0.05 / CELLS)
    torch.testing.assert_close(read.ratio[0], growth.amin(0))


def test_alarms_come_largest_z_first_with_the_growth_over_the_lag() -> None:
    cells = planted(planted(drifting(9, 2), 0, 30, 6), 1, 2, 20)
    cells[: STEP - 4, 1, 2] *= 1.3
    cells = cells / cells.sum(2, keepdim=True)
    chart = Chart(lag=2, hold=1)
    found = chart.alarms(chart.read(cells[: STEP + 1]))
    assert [one.z for one in found] == sorted((one.z for one in found), reverse=True)
    assert {(one.group, one.cell) for one in found} == {(0, 30), (1, 2)}
    then, now = cells[STEP - 2] + 0.05 / CELLS, cells[STEP] + 0.05 / CELLS
    for one in found:
        at = one.group, one.cell
        assert one.ratio == pytest.approx(float(now[at] / then[at]))


def test_nothing_is_said_before_there_is_a_past() -> None:
    cells, chart = planted(drifting(4), 0, 3, 50), AT_ONCE
    for early in range(chart.first):
        shifted = cells[STEP - early : STEP + 1]
        assert chart.read(shifted).z.isnan().all()
        assert not chart.alarms(chart.read(shifted))
    assert chart.alarms(chart.read(cells[STEP - chart.first : STEP + 1]))


def test_a_class_that_comes_and_goes_does_not_disturb_the_others() -> None:
    cells = planted(drifting(6, 3), 1, 11, 8)
    wanted = AT_ONCE.read(cells[: STEP + 1])
    gaps = cells.clone()
    gaps[::3, 2] = math.nan
    gaps[:, 0] = math.nan
    found = AT_ONCE.read(gaps[: STEP + 1])
    torch.testing.assert_close(found.z[1], wanted.z[1])
    assert found.z[0].isnan().all()
    assert [one.group for one in AT_ONCE.alarms(found)][:1] == [1]


def test_a_cell_that_never_had_mass_may_gain_some() -> None:
    cells = drifting(7, 1)
    cells[:, 0, 20] = 0
    quiet = alarms(Chart(), cells / cells.sum(2, keepdim=True))
    assert not any(quiet)
    cells[STEP:, 0, 20] = 0.2
    found = alarms(AT_ONCE, cells / cells.sum(2, keepdim=True))
    assert found[STEP][0].cell == 20
    assert math.isfinite(found[STEP][0].ratio)


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        ({"threshold": 0}, "threshold=0"),
        ({"threshold": math.inf}, "threshold=inf"),
        ({"ratio": 0.9}, "ratio=0.9"),
        ({"lag": 0}, "lag=0"),
        ({"lag": 1.5}, "lag=1.5"),
        ({"hold": 0}, "hold=0"),
        ({"least": 1}, "least=1"),
        ({"prior": -1}, "prior=-1"),
        ({"prior": True}, "prior=True"),
    ],
)
def test_errors_name_the_argument(bad: dict[str, float], told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        replace(Chart(), **bad)  # type: ignore[arg-type]


def test_shapes_that_do_not_fit_are_told() -> None:
    with pytest.raises(ConfigurationError, match=r"cells \(4, 9\): give \(T, G, C\)"):
        Chart().read(torch.rand(4, 9))
    with pytest.raises(ConfigurationError, match=r"control \(4, 8\)"):
        Chart().read(torch.rand(4, 1, 9), torch.rand(4, 8))
