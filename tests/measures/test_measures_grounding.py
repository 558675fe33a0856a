"""Grounding against loops, figures known exactly, and masks of another resolution."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from lightning_saliency.errors import ConfigurationError
from lightning_saliency.measures.grounding import (
    fit_masks,
    mask_area,
    pointing_game,
    relevance_mass,
    relevance_rank,
)

Array = npt.NDArray[np.float64]
SHAPES = [(6, 50), (6, 9, 11), (6, 5, 4, 6)]
ALL = [relevance_mass, relevance_rank, pointing_game, mask_area]


def scene(*shape: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(*shape, generator=generator, dtype=torch.float64).abs()
    return maps, torch.rand(*shape, generator=generator) < 0.3


def brute(maps: Tensor, masks: Tensor, score: Callable[..., object]) -> Tensor:
    rows = zip(maps.flatten(1).numpy(), masks.flatten(1).numpy(), strict=True)
    return torch.tensor([score(x, inside) for x, inside in rows], dtype=torch.float64)


def rank_accuracy(x: Array, inside: npt.NDArray[np.bool_]) -> float:
    top = np.argsort(-x)[: inside.sum()]
    return float(inside[top].mean())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("as_float", [False, True])
def test_scores_equal_a_loop(shape: tuple[int, ...], as_float: bool) -> None:
    maps, masks = scene(*shape)
    given = masks.double() if as_float else masks
    references = {
        relevance_mass: lambda x, inside: x[inside].sum() / x.sum(),
        relevance_rank: rank_accuracy,
        pointing_game: lambda x, inside: inside[x.argmax()],
        mask_area: lambda _, inside: inside.mean(),
    }
    for function, reference in references.items():
        torch.testing.assert_close(function(maps, given), brute(maps, masks, reference))


@pytest.mark.parametrize("function", ALL)
def test_an_empty_mask_is_undefined_for_its_probe_only(
    function: Callable[[Tensor, Tensor], Tensor],
) -> None:
    maps, masks = scene(4, 8, 8)
    masks[1] = False
    assert function(maps, masks).isnan().tolist() == [False, True, False, False]
    halved = torch.zeros(4, 5, 5)
    assert function(maps, halved).isnan().all()


def test_an_all_zero_map_is_no_hit() -> None:
    assert pointing_game(torch.zeros(1, 4, 4), torch.ones(1, 4, 4)).isnan().all()


def test_equal_maxima_share_the_hit() -> None:
    maps = torch.tensor([[1.0, 1.0, 1.0, 1.0, 0.5]])
    masks = torch.tensor([[True, False, False, False, True]])
    assert pointing_game(maps, masks).tolist() == [0.25]


def test_rank_counts_no_pixel_without_relevance() -> None:
    maps = torch.tensor([[0.0, 0.0, 2.0, 1.0, 0.0, 0.0]])  # a support of 2, a mask of 4
    inside = torch.tensor([[False, False, True, True, True, True]])
    assert relevance_rank(maps, inside).tolist() == [1.0]
    outside = torch.tensor([[True, True, True, False, True, False]])
    assert relevance_rank(maps, outside).tolist() == [0.5]


# masks of another resolution ----------------------------------------------------------------------


def brute_area(values: Array, side: int) -> Array:
    fine = np.repeat(values, side, axis=-1)
    cells: Array = fine.reshape(*values.shape[:-1], side, values.shape[-1]).mean(-1)
    return cells


@pytest.mark.parametrize(("length", "side"), [(12, 4), (12, 5), (7, 3), (4, 12), (3, 7), (5, 1)])
def test_fit_masks_averages_the_area_exactly(length: int, side: int) -> None:
    masks = scene(3, length)[1]
    expected = torch.from_numpy(brute_area(masks.double().numpy(), side))
    torch.testing.assert_close(fit_masks(masks.double(), (side,)), expected)
    square = scene(3, length, length + 1)[1].double()
    along_rows = brute_area(square.numpy(), side)
    expected = torch.from_numpy(brute_area(along_rows.swapaxes(1, 2), side).swapaxes(1, 2))
    torch.testing.assert_close(fit_masks(square, (side, side)), expected)


def test_fit_masks_keeps_the_area_in_three_dimensions() -> None:
    masks = scene(3, 9, 10, 11)[1]
    fitted = fit_masks(masks, (4, 3, 5))
    assert fitted.shape == (3, 4, 3, 5)
    torch.testing.assert_close(fitted.flatten(1).mean(1), masks.float().flatten(1).mean(1))


def test_fit_masks_of_the_same_size_only_become_floats() -> None:
    masks = scene(2, 6, 6)[1]
    assert torch.equal(fit_masks(masks, (6, 6)), masks.float())
    assert torch.equal(fit_masks(masks.to(torch.uint8) * 255, (6, 6)), masks.float())
    assert fit_masks(torch.empty(2, 8, 9, device="meta"), (3, 4)).device.type == "meta"


def test_an_object_smaller_than_half_a_pixel_is_not_lost() -> None:
    masks = torch.zeros(1, 28, 28)
    masks[0, 1:3, 1:3] = 1  # a quarter of the first of 7×7 pixels
    maps = torch.zeros(2, 7, 7)
    maps[0, 0, 0] = maps[1, 3, 3] = 1
    both = masks.expand(2, -1, -1)
    for function in (pointing_game, relevance_rank):
        assert function(maps, both).tolist() == [1.0, 0.0]
    assert relevance_mass(maps, both).tolist() == [0.25, 0.0]
    torch.testing.assert_close(mask_area(maps, both), torch.full((2,), 4 / 784))


def test_a_pixel_at_least_half_covered_is_inside() -> None:
    masks = torch.tensor([[1.0, 0.6, 0.5, 0.4]]).expand(4, -1)
    assert pointing_game(torch.eye(4), masks).tolist() == [1.0, 1.0, 1.0, 0.0]
    assert relevance_rank(torch.eye(4), masks).tolist() == [1.0, 1.0, 1.0, 0.0]


def test_wrong_masks_are_named() -> None:
    maps = torch.rand(2, 7, 7)
    with pytest.raises(ConfigurationError, match=r"\(2, 1, 28, 28\) do not fit maps \(N, 7, 7\)"):
        relevance_mass(maps, torch.ones(2, 1, 28, 28))
    with pytest.raises(ConfigurationError, match="number of probes"):
        relevance_mass(maps, torch.ones(1, 7, 7))


def test_a_full_mask_of_any_resolution_covers_exactly_all() -> None:
    for side in range(1, 41):
        fitted = fit_masks(torch.ones(1, side, dtype=torch.bool), (2,))
        assert fitted.max() <= 1
        assert mask_area(torch.tensor([[0.0, 1.0]]), torch.ones(1, side, dtype=torch.bool)) <= 1
