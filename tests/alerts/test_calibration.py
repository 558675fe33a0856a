"""The threshold: its rate on runs it has not seen, and its intervals against SciPy's."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta, binom

from lightning_saliency.alerts.calibration import Calibration
from lightning_saliency.errors import ConfigurationError

DRAWN = np.random.default_rng(0)


def uniform(runs: int, rate: float) -> Calibration:
    """Of runs whose largest z is uniform in 0..1: a threshold's rate is 1 − threshold."""
    return Calibration.of(DRAWN.random(runs).tolist(), rate)


@pytest.mark.parametrize(("runs", "rate"), [(19, 0.05), (60, 0.1), (100, 0.02), (30, 0.5)])
def test_a_new_run_alarms_at_the_wanted_rate(runs: int, rate: float) -> None:
    rates = [1 - uniform(runs, rate).threshold for _ in range(2000)]
    wanted = math.floor((runs + 1) * rate) / (runs + 1)
    assert wanted <= rate
    assert np.mean(rates) == pytest.approx(wanted, abs=4 * np.std(rates) / 2000**0.5)


@pytest.mark.parametrize(("runs", "rate"), [(10, 0.02), (60, 0.1), (300, 0.02)])
def test_intervals_cover_as_often_as_they_say(runs: int, rate: float) -> None:
    made = [uniform(runs, rate) for _ in range(400)]
    low, high = made[0].interval()  # which knows the number of runs alone
    bounds = [one.bounds() for one in made]
    covered = np.mean([low <= 1 - one.threshold <= high for one in made])
    assert covered == pytest.approx(0.95, abs=0.04)
    assert np.mean([least <= 1 - rate <= most for least, most in bounds]) >= 0.95 - 0.03
    assert {math.isinf(high) for _, high in bounds} == {runs * math.log(1 - rate) > math.log(0.025)}


@given(st.integers(1, 400), st.floats(0.001, 0.99))
def test_the_interval_is_that_of_an_order_statistic(runs: int, rate: float) -> None:
    found = Calibration.of(range(runs), rate)
    above = sum(one > found.threshold for one in found.highest)
    wanted = beta.ppf([0.025, 0.975], above + 1, runs - above)
    assert found.interval() == pytest.approx(tuple(wanted), abs=1e-6)


@given(st.integers(1, 300), st.floats(0.005, 0.9))
def test_the_bounds_are_the_narrowest_that_are_sure_enough(runs: int, rate: float) -> None:
    low, high = Calibration.of(range(1, runs + 1), rate).bounds()
    # Of n runs, n − low lie above the lower one, n + 1 − high at the upper one or above it.
    fewest, most = (0 if math.isinf(high) else runs + 1 - int(high)), runs - int(low)
    assert binom.sf(most, runs, rate) <= 0.025 + 1e-9
    assert most == 0 or binom.sf(most - 1, runs, rate) > 0.025 - 1e-9
    assert binom.sf(fewest - 1, runs, rate) >= 0.975 - 1e-9
    assert fewest == runs or binom.sf(fewest, runs, rate) < 0.975 + 1e-9


@given(st.lists(st.floats(0, 20), min_size=1, max_size=50), st.floats(0.01, 0.9))
def test_a_lower_rate_takes_a_higher_threshold(found: list[float], rate: float) -> None:
    low, high = Calibration.of(found, rate), Calibration.of(found, rate * 1.1)
    assert low.threshold >= high.threshold
    assert low.shown >= low.threshold > low.shown - 0.011


def test_a_rate_of_just_as_many_runs_is_enough() -> None:
    # (n + 1) · rate is a hair below 29 in floating point.
    assert Calibration.of(range(99), 0.29).threshold == 99 - 29
    assert Calibration.of(range(49), 0.02).enough
    assert not Calibration.of(range(48), 0.02).enough
    assert Calibration.of(range(9), 1 - 1e-12).threshold == 0


def test_too_few_runs_are_told_with_how_many_it_takes() -> None:
    few = Calibration.of([3.0, 5.123, 4.0], 0.02)
    text = few.table()
    assert "can't vouch for 2.0%: the largest of them keeps 25.0%. Bring 49 runs" in text
    assert "| threshold | **5.13** |" in text
    assert "no upper bound" in text
    assert "can't vouch" not in Calibration.of(range(1, 50), 0.02).table()


def test_runs_that_counted_nothing_recommend_nothing() -> None:
    text = Calibration.of([0.0] * 30, 0.1).table()
    assert "no cell grew by the chart's ratio" in text
    assert "no cell grew" not in Calibration.of([1.0] * 30, 0.1).table()


@pytest.mark.parametrize("rate", [0, 1, -0.1, math.nan])
def test_a_rate_that_is_none_is_told(rate: float) -> None:
    with pytest.raises(ConfigurationError, match="rate="):
        Calibration.of([1.0], rate)


def test_no_runs_are_told() -> None:
    with pytest.raises(ConfigurationError, match="no run"):
        Calibration.of([], 0.1)
