"""Cell masses: shares that add up to 1, and sums that do not know how they were cut."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lightning_saliency.alerts.cells import CellSums, cell_grid, cell_mass
from lightning_saliency.errors import ConfigurationError

SIDES = st.lists(st.integers(2, 13), min_size=1, max_size=3)


def maps_of(sides: list[int], seed: int, number: int = 5) -> Tensor:
    drawn = torch.Generator().manual_seed(seed)
    return torch.randn(number, *sides, generator=drawn, dtype=torch.float64)


@settings(deadline=None)
@given(SIDES, st.integers(2, 8), st.integers(0, 99))
def test_shares_add_up_to_one_and_ignore_scale_and_sign(
    sides: list[int], cells: int, seed: int
) -> None:
    maps = maps_of(sides, seed)
    masses = cell_mass(maps, cells)
    assert masses.shape == (5, math.prod(cell_grid(sides, cells)))
    torch.testing.assert_close(masses.sum(1), torch.ones(5, dtype=torch.float64))
    scales = torch.tensor([1e-200, -1.0, 3.0, 1e200, -1e-30], dtype=torch.float64)
    scaled = maps * scales.view(-1, *[1] * len(sides))
    torch.testing.assert_close(cell_mass(scaled, cells), masses)


def test_a_pixel_on_an_edge_counts_by_its_overlap() -> None:
    row = torch.tensor([[1.0, 2.0, 5.0]], dtype=torch.float64)
    torch.testing.assert_close(cell_mass(row, 2), torch.tensor([[2.0, 6.0]]).double() / 8)


def test_the_mass_of_one_pixel_lies_in_the_cell_that_holds_it() -> None:
    for where, cell in (((0, 0), 0), ((0, 27), 6), ((27, 0), 42), ((13, 9), 3 * 7 + 2)):
        spot = torch.zeros(1, 28, 28)
        row, column = where
        spot[0, row, column] = 3
        assert cell_mass(spot)[0].nonzero().tolist() == [[cell]]


def test_a_map_with_fewer_pixels_than_cells_keeps_its_pixels() -> None:
    maps = maps_of([4, 9], 0)
    assert cell_grid((4, 9)) == (4, 7)
    torch.testing.assert_close(
        cell_mass(maps).view(5, 4, 7).sum(2), cell_mass(maps.abs().sum(2), 4)
    )


@pytest.mark.parametrize("bad", [0.0, 2.0, float("nan"), float("inf")])
def test_an_undefined_map_is_a_row_of_nan_and_left_out_of_sums(bad: float) -> None:
    maps = maps_of([6, 6], 1)
    if bad in (0.0, 2.0):
        maps[2] = bad
    else:
        maps[2, 0, 0] = bad
    masses = cell_mass(maps, 3)
    assert masses.isnan().all(1).tolist() == [False, False, True, False, False]
    sums = CellSums.of(masses, torch.zeros(5, dtype=torch.long), 1)
    others = cell_mass(maps[[0, 1, 3, 4]], 3)
    assert sums.count.tolist() == [4]
    wanted = others.square().mean(0).sqrt()
    torch.testing.assert_close(sums.groups()[1].double(), wanted, atol=1e-5, rtol=0)


@settings(deadline=None)
@given(st.integers(0, 99), st.lists(st.integers(1, 6), min_size=1, max_size=5))
def test_parts_add_up_to_the_whole_exactly_in_any_order(seed: int, sizes: list[int]) -> None:
    number = sum(sizes)
    masses = cell_mass(maps_of([8, 5], seed, number).float(), 3)
    classes = torch.randint(0, 4, (number,), generator=torch.Generator().manual_seed(seed))
    whole = CellSums.of(masses, classes, 4)
    parts = [
        CellSums.of(*pair, 4)
        for pair in zip(torch.split(masses, sizes), torch.split(classes, sizes), strict=True)
    ]
    merged = parts[-1]
    for part in parts[:-1]:
        merged = part + merged
    for name in ("count", "squared"):
        assert torch.equal(getattr(merged, name), getattr(whole, name)), name


def test_classes_weigh_the_same_however_many_probes_they_have() -> None:
    masses = torch.tensor([[1.0, 0.0]] * 9 + [[0.0, 1.0]])
    groups = CellSums.of(masses, torch.tensor([0] * 9 + [1]), 3).groups()
    half = math.sqrt(0.5)
    torch.testing.assert_close(groups[:3], torch.tensor([[half, half], [1.0, 0.0], [0.0, 1.0]]))
    assert groups[3].isnan().all()


def test_few_loud_probes_count_for_more_than_their_share() -> None:
    quiet = torch.full((49, 4), 0.25)
    loud = torch.tensor([[0.7, 0.1, 0.1, 0.1]])
    masses = torch.cat([quiet, loud])
    before, after = (
        CellSums.of(rows, torch.zeros(len(rows), dtype=torch.long), 1).groups()[0, 0]
        for rows in (quiet, masses)
    )
    assert after / before - 1 > 1.5 * (masses[:, 0].mean() / 0.25 - 1)


def test_a_class_beyond_the_number_is_left_out() -> None:
    sums = CellSums.of(torch.full((3, 2), 0.5), torch.tensor([0, -1, 7]), 2)
    assert sums.count.tolist() == [1, 0]


def test_errors_name_the_argument() -> None:
    with pytest.raises(ConfigurationError, match="cells=1: mass can only move"):
        cell_mass(torch.rand(1, 4, 4), 1)
    with pytest.raises(ConfigurationError, match=r"maps of shape \(3,\): expected \(N, \*spatial"):
        cell_mass(torch.rand(3))
