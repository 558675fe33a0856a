from __future__ import annotations

import numpy as np
import pytest
import torch

from lightning_saliency.rendering.resize import (
    area_weights,
    linear_weights,
    resize_maps,
    resize_pictures,
    shrink_maps,
)


@pytest.mark.parametrize("size", [(21, 35), (112, 112), (30, 70)])
def test_enlarging_is_torchs_bilinear_interpolation(size: tuple[int, int]) -> None:
    maps = np.random.default_rng(0).normal(size=(4, 7, 14)).astype(np.float32)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(maps)[None], size=size, mode="bilinear", align_corners=False
    )[0]
    np.testing.assert_allclose(resize_maps(maps, size), expected.numpy(), atol=1e-5)


def test_shrinking_is_torchs_adaptive_average_for_whole_factors() -> None:
    maps = np.random.default_rng(0).normal(size=(2, 24, 12)).astype(np.float32)
    expected = torch.nn.functional.adaptive_avg_pool2d(torch.from_numpy(maps), (8, 6))
    np.testing.assert_allclose(shrink_maps(maps, (8, 6)), expected.numpy(), atol=1e-6)


def test_bilinear_keeps_the_centre_of_the_brightest_block() -> None:
    maps = np.zeros((49, 7, 7), dtype=np.float32)
    maps.reshape(49, 49)[np.arange(49), np.arange(49)] = 1
    large = resize_maps(maps, (77, 77))  # odd factor: each block has a centre pixel
    found = large.reshape(49, -1).argmax(1)
    row, column = np.divmod(np.arange(49), 7)
    inside = (row > 0) & (row < 6) & (column > 0) & (column < 6)
    centres = (row * 11 + 5) * 77 + column * 11 + 5
    np.testing.assert_array_equal(found[inside], centres[inside])
    np.testing.assert_array_equal(found // 77 // 11, row)
    np.testing.assert_array_equal(found % 77 // 11, column)


@pytest.mark.parametrize("weights", [linear_weights, area_weights])
@pytest.mark.parametrize(("size", "wanted"), [(7, 112), (28, 88), (30, 11), (1, 9), (9, 1)])
def test_weights_are_a_mean(weights: object, size: int, wanted: int) -> None:
    assert callable(weights)
    matrix = weights(size, wanted)
    assert matrix.shape == (wanted, size)
    assert matrix.min() >= 0
    np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-6)


def test_crisp_enlarging_repeats_pixels_and_keeps_the_mean() -> None:
    maps = np.random.default_rng(0).normal(size=(2, 4, 4)).astype(np.float32)
    np.testing.assert_allclose(
        resize_maps(maps, (12, 12), smooth=False), maps.repeat(3, 1).repeat(3, 2), atol=1e-6
    )
    uneven = resize_maps(maps, (14, 14), smooth=False)
    np.testing.assert_allclose(uneven.mean((1, 2)), maps.mean((1, 2)), atol=1e-6)


def test_shrink_leaves_smaller_maps_alone() -> None:
    maps = np.ones((2, 7, 300), dtype=np.float32)
    assert shrink_maps(maps, (112, 112)).shape == (2, 7, 112)


def test_non_finite_values_survive_shrinking_without_a_warning() -> None:
    maps = np.ones((3, 50, 50), dtype=np.float32)
    maps[0, 4, 4], maps[1, 5, 5] = np.nan, np.inf
    lost = ~np.isfinite(shrink_maps(maps, (20, 20))).all(axis=(1, 2))
    assert lost.tolist() == [True, True, False]


def test_small_pictures_keep_crisp_pixels_at_whole_multiples() -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    np.testing.assert_array_equal(
        resize_pictures(pictures, (32, 32)), pictures.repeat(4, 1).repeat(4, 2)
    )


def test_small_pictures_keep_even_pixels_at_other_multiples() -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (2, 12, 12, 3), dtype=np.uint8)
    by_area = resize_maps(np.moveaxis(pictures, -1, 1).astype(np.float32), (32, 32), smooth=False)
    difference = resize_pictures(pictures, (32, 32)) - np.moveaxis(by_area, 1, -1)
    assert np.abs(difference).max() < 1.1


@pytest.mark.parametrize("side", [8, 20, 31, 32, 45, 64, 100])
def test_any_resizing_keeps_the_mean_colour_and_a_plain_picture(side: int) -> None:
    rng = np.random.default_rng(0)
    plain = np.full((1, side, side, 3), (200, 30, 90), dtype=np.uint8)
    assert (resize_pictures(plain, (32, 32)) == plain[0, 0, 0]).all()
    noise = rng.integers(0, 256, (1, side, side, 3), dtype=np.uint8)
    assert abs(resize_pictures(noise, (32, 32)).mean() - noise.mean()) < 4
