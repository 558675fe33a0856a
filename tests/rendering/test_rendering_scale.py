from __future__ import annotations

from typing import cast

import numpy as np
import pytest

from lightning_saliency.errors import ConfigurationError
from lightning_saliency.rendering.scale import Scale, constant, normalise, undefined


def random_maps(*shape: int, seed: int = 0) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.random.default_rng(seed).exponential(size=shape).astype(np.float32)


def test_peak_is_the_percentile_of_each_map() -> None:
    maps = random_maps(3, 20, 20) * np.array([1, 10, 1e-6], dtype=np.float32)[:, None, None]
    peaks = np.percentile(maps.reshape(3, -1), 99.5, axis=1)[:, None, None]
    np.testing.assert_allclose(normalise(maps), np.clip(maps / peaks, 0, 1), rtol=1e-5)


def test_signed_maps_are_symmetric_around_zero() -> None:
    maps = random_maps(2, 20, 20) - 1
    peaks = np.percentile(np.abs(maps).reshape(2, -1), 99.5, axis=1)[:, None, None]
    unit = normalise(maps, signed=True)
    np.testing.assert_allclose(unit, np.clip(maps / peaks, -1, 1), rtol=1e-5)
    np.testing.assert_array_equal(normalise(-maps, signed=True), -unit)


def test_units_do_not_matter() -> None:
    maps = random_maps(2, 9, 9)
    np.testing.assert_allclose(normalise(maps * 1e-30), normalise(maps), rtol=1e-5)


@pytest.mark.parametrize("value", [0.0, 0.7, -2.0])
@pytest.mark.parametrize("signed", [False, True])
def test_a_constant_map_is_all_zeros(value: float, signed: bool) -> None:
    unit = normalise(np.full((1, 5, 5), value), signed=signed)
    np.testing.assert_array_equal(unit, 0)
    assert constant(unit).tolist() == [True]
    assert undefined(unit).tolist() == [False]


def test_a_map_constant_up_to_rounding_is_constant() -> None:
    maps = np.full((1, 5, 5), 0.3, dtype=np.float32)
    maps[0, 2, 2] = np.nextafter(maps[0, 2, 2], np.float32(1))
    assert constant(normalise(maps)).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_non_finite_value_makes_a_map_undefined_and_no_other(value: float) -> None:
    maps = random_maps(3, 6, 6)
    expected = normalise(maps)
    maps[1, 2, 3] = value
    unit = normalise(maps)
    assert undefined(unit).tolist() == [False, True, False]
    assert np.isnan(unit[1]).all()
    np.testing.assert_array_equal(unit[[0, 2]], expected[[0, 2]])


def test_a_sparse_map_falls_back_to_its_maximum() -> None:
    maps = np.zeros((1, 28, 28))
    maps[0, 3, 4], maps[0, 5, 6] = 2.0, 1.0  # fewer than 0.5 % of the pixels
    unit = normalise(maps)[0]
    assert unit[3, 4] == 1
    assert unit[5, 6] == 0.5
    assert unit.sum() == 1.5


def test_an_unsigned_map_with_negative_values_is_lifted() -> None:
    unit = normalise(np.linspace(-3, -1, 400).reshape(1, 20, 20))
    assert unit.min() == 0
    assert (np.diff(unit.ravel()) >= 0).all()
    assert unit[0, 10, 0] == pytest.approx(0.5, abs=0.01)


def test_shared_scale_keeps_the_ratios_of_a_probe_and_not_between_probes() -> None:
    frames = random_maps(1, 2, 10, 10).repeat(3, axis=0)
    frames *= np.array([1, 4, 2], dtype=np.float32)[:, None, None, None]
    frames[:, 1] *= 1000
    unit = normalise(frames, "shared")
    np.testing.assert_allclose(unit[1], normalise(frames[1]), rtol=1e-5)
    np.testing.assert_allclose(unit[0, 0].max(), unit[2, 0].max() / 2, rtol=1e-5)
    np.testing.assert_allclose(unit[:, 0].max((1, 2)), unit[:, 1].max((1, 2)), rtol=0.5)


def test_a_constant_map_stays_black_on_a_shared_scale() -> None:
    frames = random_maps(3, 1, 6, 6) - 5
    frames[1] = 0
    assert constant(normalise(frames, "shared"))[:, 0].tolist() == [False, True, False]


def test_wrong_arguments_are_told() -> None:
    with pytest.raises(ConfigurationError, match=r"scale='share' is unknown.*'shared'"):
        normalise(random_maps(1, 4, 4), cast(Scale, "share"))
    with pytest.raises(ConfigurationError, match="percentile=120"):
        normalise(random_maps(1, 4, 4), percentile=120)


def test_inputs_are_left_alone() -> None:
    maps = random_maps(2, 6, 6)
    maps[0, 0, 0] = np.nan
    before = maps.copy()
    normalise(maps)
    np.testing.assert_array_equal(maps, before)
