from __future__ import annotations

import numpy as np
import pytest

from lightning_saliency.errors import ConfigurationError
from lightning_saliency.rendering.colormaps import (
    COLORMAPS,
    DIVERGING,
    GREY,
    SEQUENTIAL,
    Colormap,
    find_colormap,
    lightness,
)


def test_lightness_of_known_colours() -> None:
    colours = np.array([[0, 0, 0], [255, 255, 255], [119, 119, 119], [255, 0, 0]], dtype=np.uint8)
    np.testing.assert_allclose(lightness(colours), [0, 100, 50.03, 53.24], atol=0.05)


@pytest.mark.parametrize("colormap", [SEQUENTIAL, GREY], ids=lambda one: one.name)
def test_lightness_rises_with_every_entry(colormap: Colormap) -> None:
    assert np.diff(lightness(colormap.table)).min() > 0


def test_heat_rises_evenly_from_black_to_pale_yellow() -> None:
    light = lightness(SEQUENTIAL.table)
    straight = np.linspace(light[0], light[-1], 256)
    assert np.abs(light - straight).max() < 0.4  # one grey level is 0.39 of L*
    assert light[-1] > 97
    assert SEQUENTIAL.table[0].tolist() == [0, 0, 0]
    red, green, blue = SEQUENTIAL.table[-1].tolist()
    assert red > green > blue > 180


def test_diverging_is_symmetric_in_lightness_and_opposite_in_hue() -> None:
    light = lightness(DIVERGING.table)
    np.testing.assert_allclose(light[129:], light[127:0:-1], atol=0.4)
    assert np.diff(light[128:]).min() > 0
    below, above = DIVERGING.table[1:128].astype(int), DIVERGING.table[129:].astype(int)
    assert (below[:-8, 2] > below[:-8, 0]).all()
    assert (above[8:, 0] > above[8:, 2]).all()


def test_zero_of_a_signed_map_is_the_neutral_colour() -> None:
    neutral = DIVERGING(np.zeros(1, dtype=np.float32))[0].astype(int)
    assert neutral.tolist() == DIVERGING.table[128].tolist()
    assert np.ptp(neutral) <= 4
    ends = DIVERGING(np.array([-1.0, 1.0]))
    assert ends.tolist() == [DIVERGING.table[1].tolist(), DIVERGING.table[255].tolist()]


def test_every_entry_is_reached() -> None:
    steps = np.arange(256) / 255
    np.testing.assert_array_equal(SEQUENTIAL(steps.astype(np.float32)), SEQUENTIAL.table)
    np.testing.assert_array_equal(SEQUENTIAL(steps - 0.4 / 255), SEQUENTIAL.table)  # to the nearest
    np.testing.assert_array_equal(DIVERGING(np.arange(-127, 128) / 127), DIVERGING.table[1:])


def test_values_beyond_the_range_are_clipped() -> None:
    assert DIVERGING(np.array([-3.0, 7.0])).tolist() == DIVERGING.table[[1, 255]].tolist()
    assert SEQUENTIAL(np.array([-3.0, 7.0])).tolist() == SEQUENTIAL.table[[0, 255]].tolist()


def test_tables_are_read_only() -> None:
    with pytest.raises(ValueError, match="read-only"):
        SEQUENTIAL.table[0] = 1


def test_find_colormap() -> None:
    assert find_colormap(None) is SEQUENTIAL
    assert find_colormap(None, signed=True) is DIVERGING
    assert [find_colormap(name, signed=one.signed) for name, one in COLORMAPS.items()] == list(
        COLORMAPS.values()
    )
    with pytest.raises(ConfigurationError, match=r"no colormap 'haet'.*Did you mean 'heat'"):
        find_colormap("haet")
    with pytest.raises(ConfigurationError, match=r"'heat' does not fit signed maps.*'diverging'"):
        find_colormap("heat", signed=True)


def test_a_table_of_another_shape_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"'mine'.*\(10, 3\); give uint8 of shape"):
        Colormap("mine", np.zeros((10, 3), dtype=np.uint8))
