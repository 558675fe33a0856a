"""Shape against loops and figures known exactly."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import center_of_mass
from scipy.stats import entropy as scipy_entropy
from torch import Tensor

from lightning_saliency.measures.shape import centroid, entropy, gini, salient_area

SHAPES = [(5, 40), (5, 9, 13), (5, 4, 5, 6)]


def sparse(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return (torch.randn(*shape, generator=generator, dtype=torch.float64) - 0.5).relu()


def one_hot(pixels: int) -> Tensor:
    return torch.eye(pixels)[:2]


@pytest.mark.parametrize("shape", SHAPES)
def test_entropy_equals_scipy(shape: tuple[int, ...]) -> None:
    maps = sparse(*shape)
    rows = maps.flatten(1).numpy()
    expected = scipy_entropy(rows, axis=1) / np.log(rows.shape[1])
    torch.testing.assert_close(entropy(maps), torch.from_numpy(expected))


@pytest.mark.parametrize("shape", SHAPES)
def test_gini_is_half_the_relative_mean_difference(shape: tuple[int, ...]) -> None:
    maps = sparse(*shape)
    rows = maps.flatten(1).numpy()
    differences = np.abs(rows[:, :, None] - rows[:, None, :]).mean((1, 2))
    expected = differences / (2 * rows.mean(1))
    torch.testing.assert_close(gini(maps), torch.from_numpy(expected))


@pytest.mark.parametrize("shape", SHAPES)
def test_centroid_equals_scipy(shape: tuple[int, ...]) -> None:
    maps = sparse(*shape)
    expected = np.array([center_of_mass(image) for image in maps.numpy()])
    torch.testing.assert_close(centroid(maps), torch.from_numpy(expected))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_salient_area_is_the_share_of_pixels_that_a_loop_takes(
    shape: tuple[int, ...], share: float
) -> None:
    maps = sparse(*shape)
    for row, area in zip(maps.flatten(1).tolist(), salient_area(maps, share), strict=True):
        held, taken = 0.0, 0
        for value in sorted(row, reverse=True):
            if held >= share * sum(row):
                break
            held, taken = held + value, taken + 1
        assert area == taken / len(row)


def test_all_mass_on_one_pixel() -> None:
    assert entropy(one_hot(100)).tolist() == [0.0, 0.0]
    torch.testing.assert_close(salient_area(one_hot(100)), torch.full((2,), 0.01))
    torch.testing.assert_close(gini(one_hot(100)), torch.full((2,), 0.99))
    assert centroid(one_hot(100).view(2, 10, 10)).tolist() == [[0.0, 0.0], [0.0, 1.0]]


def test_half_the_pixels_share_the_mass() -> None:
    maps = torch.ones(1, 16)
    maps[0, :8] = 0
    torch.testing.assert_close(entropy(maps), torch.tensor([3 / 4]))  # log 8 ÷ log 16
    torch.testing.assert_close(gini(maps), torch.tensor([0.5]))
    assert salient_area(maps).tolist() == [0.25]


def test_nearly_even_maps_reach_the_ends_of_the_ranges() -> None:
    maps = torch.ones(1, 1000)
    maps[0, 0] = 1 + 1e-6
    assert 1 - 1e-6 < entropy(maps) <= 1
    assert 0 <= gini(maps) < 1e-6
    assert salient_area(maps) == 0.5
    for pixels in range(2, 200):
        maps = torch.ones(1, pixels)
        maps[0, 0] = 1 + 1e-6
        assert entropy(maps) <= 1
        assert gini(maps) >= 0
