"""How far two ways of looking agree, against SciPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor

from lightning_saliency.errors import ConfigurationError
from lightning_saliency.measures.observer import agreement, agreements


def normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def ranked(one: Tensor, other: Tensor) -> list[float]:
    """SciPy's, of the magnitudes."""
    rows = zip(one.abs().flatten(1).numpy(), other.abs().flatten(1).numpy(), strict=True)
    return [float(spearmanr(*pair)[0]) for pair in rows]


@pytest.mark.parametrize("spatial", [(30,), (9, 8), (4, 5, 6)])
def test_it_is_the_rank_correlation_of_the_magnitudes(spatial: tuple[int, ...]) -> None:
    one = normal(4, *spatial)
    other = one + normal(4, *spatial, seed=1)
    found = agreement(one, other)
    np.testing.assert_allclose(found.numpy(), ranked(one, other), atol=1e-12)
    torch.testing.assert_close(agreement(other, one), found)


def test_ties_have_their_mean_rank() -> None:
    one, other = normal(4, 9, 8).relu(), normal(4, 9, 8, seed=1).mul(2).round()
    np.testing.assert_allclose(agreement(one, other).numpy(), ranked(one, other), atol=1e-12)


def test_the_coarser_map_says_where() -> None:
    fine, coarse = normal(3, 12, 20), normal(3, 4, 5, seed=1)
    blocks = fine.abs().unfold(1, 3, 3).unfold(2, 4, 4).mean((3, 4))
    expected = ranked(blocks, coarse)
    np.testing.assert_allclose(agreement(fine, coarse).numpy(), expected, atol=1e-12)
    np.testing.assert_allclose(agreement(coarse, fine).numpy(), expected, atol=1e-12)
    # Each side by itself.
    wide, high = normal(3, 4, 20), normal(3, 12, 5, seed=1)
    both = wide.abs().unfold(2, 4, 4).mean(3), high.abs().unfold(1, 3, 3).mean(3)
    np.testing.assert_allclose(agreement(wide, high).numpy(), ranked(*both), atol=1e-12)


def test_an_order_has_neither_sign_nor_unit() -> None:
    one = normal(3, 9, 9)
    for other in (-one, 1e-30 * one, one * one.abs(), one.float() * 1e20):
        torch.testing.assert_close(
            agreement(one, other).double(), torch.ones(3, dtype=torch.float64)
        )
    reversed_order = 1 / one
    torch.testing.assert_close(agreement(one, reversed_order), -torch.ones(3, dtype=torch.float64))


def test_unrelated_maps_do_not_agree() -> None:
    found = agreement(normal(300, 9, 9), normal(300, 9, 9, seed=1))
    assert found.mean().abs() < 4 * found.std() / 300**0.5


def test_an_undefined_map_agrees_with_none() -> None:
    one, other = normal(5, 7, 7), normal(5, 3, 3, seed=1)
    one[0], one[1, 2, 2], other[2] = 0.3, torch.nan, 0
    one[3] = 0.3 * one[3].sign()
    assert agreement(one, other).isnan().tolist() == [True, True, True, True, False]
    assert agreement(other, one).isnan().tolist() == [True, True, True, True, False]


def test_each_two_of_several_methods_in_their_order() -> None:
    maps = {"b": normal(3, 8, 8), "a": normal(3, 4, 4, seed=1), "c": normal(3, 8, 8, seed=2)}
    found = agreements(maps)
    assert list(found) == [("b", "a"), ("b", "c"), ("a", "c")]
    for (one, other), values in found.items():
        assert torch.equal(values, agreement(maps[one], maps[other]))
    assert agreements({"a": maps["a"]}) == {}


@pytest.mark.parametrize("other", [(3, 8), (3, 8, 8, 8), (2, 8, 8)])
def test_maps_of_other_probes_are_told(other: tuple[int, ...]) -> None:
    with pytest.raises(ConfigurationError, match="compare maps"):
        agreement(torch.ones(3, 8, 8), torch.ones(other))
