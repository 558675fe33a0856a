"""Where any map of any image might be: figures by hand, and direct implementations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_saliency.measures.places import border_mass, centre, centre_bias


def noise(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(*shape, generator=generator, dtype=torch.float64)


def spot(*place: int, side: int = 16) -> Tensor:
    """One pixel of an image."""
    maps = torch.zeros(1, *[side] * len(place), dtype=torch.float64)
    maps[0][place] = -3.0
    return maps


def test_what_is_in_the_middle_and_what_is_at_the_rim() -> None:
    assert border_mass(spot(8, 8)).item() == pytest.approx(-7 / 16)
    for place in ((0, 0), (1, 9), (9, 14), (15, 15)):
        assert border_mass(spot(*place)).item() == pytest.approx(9 / 16)
    assert border_mass(spot(2, 13)).item() == pytest.approx(-7 / 16)
    assert border_mass(spot(9, side=16)).item() == pytest.approx(-1 / 4)
    assert border_mass(spot(0, side=16)).item() == pytest.approx(3 / 4)
    assert border_mass(spot(4, 4, 4, side=8)).item() == pytest.approx((6 / 8) ** 3 - 1)


@pytest.mark.parametrize("spatial", [(7,), (7, 7), (14, 9), (5, 6, 7)])
def test_the_ring_is_cut_exactly(spatial: tuple[int, ...]) -> None:
    maps = noise(3, *spatial)
    fine, inside = maps.numpy(), np.ones([8 * side for side in spatial], dtype=bool)
    for dim, side in enumerate(spatial):
        fine = fine.repeat(8, dim + 1)
        place = np.arange(8 * side).reshape([-1 if dim == d else 1 for d in range(len(spatial))])
        inside &= (place >= side) & (place < 7 * side)
    share = (fine * ~inside).reshape(3, -1).sum(1) / fine.reshape(3, -1).sum(1)
    np.testing.assert_allclose(border_mass(maps).numpy(), share - (~inside).mean())


def test_an_even_map_of_any_sign_has_nothing_at_the_rim() -> None:
    signs = noise(4, 9, 9).sub(0.5).sign()
    torch.testing.assert_close(border_mass(signs), torch.zeros(4, dtype=torch.float64))
    many = border_mass(noise(500, 9, 9))
    assert many.mean().abs() < 4 * many.std() / math.sqrt(500)


@pytest.mark.parametrize("spatial", [(11,), (7, 7), (14, 9), (5, 6, 7)])
def test_the_bias_is_the_correlation_with_a_gaussian(spatial: tuple[int, ...]) -> None:
    maps = noise(3, *spatial) - 0.3
    axes = [((np.arange(side) + 0.5) / side - 0.5) / 0.25 for side in spatial]
    distance = sum(axis**2 for axis in np.meshgrid(*axes, indexing="ij"))
    bell = np.exp(-np.asarray(distance) / 2).ravel()
    rows = maps.abs().flatten(1).numpy()
    expected = [np.corrcoef(row, bell)[0, 1] for row in rows]
    np.testing.assert_allclose(centre_bias(maps).numpy(), expected, atol=1e-12)


def test_the_gaussian_itself_is_all_bias_and_its_hole_none_at_all() -> None:
    middle = centre(torch.empty(1, 12, 17, dtype=torch.float64))
    assert middle.shape == (1, 12 * 17)
    assert middle.sum().abs() < 1e-12
    assert middle.square().sum().item() == pytest.approx(1)
    bell = (middle - middle.amin()).view(1, 12, 17)
    assert centre_bias(bell).item() == pytest.approx(1)
    assert centre_bias(-5 * bell).item() == pytest.approx(1)
    assert centre_bias(bell.amax() - bell).item() == pytest.approx(-1)
    assert centre_bias(spot(8, 8)) > 0.1 > -0.05 > centre_bias(spot(0, 0))
    many = centre_bias(noise(500, 9, 9))
    assert many.mean().abs() < 4 * many.std() / math.sqrt(500)
