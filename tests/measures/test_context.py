"""How much of a map lies on what is around the object: figures by hand, and chance."""

from __future__ import annotations

import pytest
import torch

from lightning_saliency.measures.context import background_mass
from lightning_saliency.measures.grounding import mask_area, relevance_mass


def test_mass_outside_by_area_outside() -> None:
    maps = torch.tensor([[3.0, -1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0], [1.0, 0.0, 0.0, 0.0]])
    masks = torch.tensor([[True, False, False, False]]).expand(3, -1)
    found = background_mass(maps, masks)
    assert found.tolist() == pytest.approx([1 / 4 / (3 / 4), 1 / (3 / 4), 0])


def test_inside_and_outside_are_the_whole() -> None:
    drawn = torch.Generator().manual_seed(0)
    maps = torch.rand(20, 7, 7, generator=drawn)
    masks = torch.rand(20, 28, 28, generator=drawn) > 0.6
    area = mask_area(maps, masks)
    both = relevance_mass(maps, masks) + background_mass(maps, masks) * (1 - area)
    torch.testing.assert_close(both, torch.ones(20))


def test_a_map_that_knows_no_object_is_at_1_whatever_the_area() -> None:
    drawn = torch.Generator().manual_seed(0)
    maps = torch.rand(400, 9, 9, generator=drawn)
    for size in (1, 4, 8):
        masks = torch.zeros(400, 9, 9, dtype=torch.bool)
        masks[:, :size, :size] = True
        found = background_mass(maps, masks)
        assert (found.mean() - 1).abs() < 4 * found.std() / 20


def test_without_a_background_there_is_no_context() -> None:
    maps = torch.rand(3, 5, 5, generator=torch.Generator().manual_seed(0))
    masks = torch.zeros(3, 20, 15)
    masks[0] = 1
    masks[1, :-1] = 1
    maps[2] = 1
    assert background_mass(maps, masks).isnan().tolist() == [True, False, True]
    for side in range(1, 41):  # of whatever resolution
        whole = torch.ones(1, side, side + 3, dtype=torch.bool)
        assert background_mass(maps[:1], whole).isnan()
