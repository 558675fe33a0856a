"""Floors of the drift: closed forms, and simulated samples whose noiseless drift is known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lightning_saliency.errors import ConfigurationError
from lightning_saliency.measures.drift import cosine
from lightning_saliency.measures.noise import (
    ONE_SIDED,
    crossval,
    minimum_detectable,
    moved,
    reliability,
    standard_error,
    z_score,
)

NAN = float("nan")


def normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def twice(maps: Tensor) -> Tensor:
    """Halves without noise."""
    return torch.stack([maps, maps], dim=1)


def turned(count: int, drift: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Two unit maps (N, 64) of every probe, `drift` apart."""
    one, other = normal(2, count, 64, seed=seed)
    one = one / one.norm(dim=1, keepdim=True)
    other = other - (other * one).sum(1, keepdim=True) * one
    other = other / other.norm(dim=1, keepdim=True)
    return one, (1 - drift) * one + math.sqrt(1 - (1 - drift) ** 2) * other


def noisy(maps: Tensor, seed: int, level: float = 0.03) -> Tensor:
    return twice(maps) + level * normal(len(maps), 2, maps.shape[1], seed=seed)


def test_without_noise_it_is_the_directional_drift() -> None:
    now, then = normal(2, 20, 3, 4, 5)
    assert torch.allclose(crossval(twice(now), twice(then)), cosine(now, then))


def test_by_hand() -> None:
    then = torch.tensor([[[2.0, 0.0], [2.0, 2.0]]])  # a₁·a₂ = 4, so n_a = 2
    now = torch.tensor([[[0.0, 1.0], [3.0, 1.0]]])  # b₁·b₂ = 1
    # b₁ − a₁ = (−1, 1) and b₂ − a₂ = (2, 0): half of their product is −1.
    assert crossval(now, then).tolist() == [-1.0]
    assert crossval(then, now).tolist() == [-1.0]


def test_the_scale_of_either_observation_does_not_count() -> None:
    now, then = noisy(normal(5, 64), 1), noisy(normal(5, 64, seed=2), 3)
    wanted = crossval(now, then)
    assert torch.allclose(crossval(1e-30 * now, 1e20 * then), wanted)
    assert torch.allclose(reliability(1e-30 * now), reliability(now))


def test_equal_halves_of_any_noise_drift_by_exactly_0() -> None:
    halves = noisy(normal(10, 64), 1, level=0.5).float()
    assert crossval(halves, halves.clone()).eq(0).all()
    assert z_score(crossval(halves, halves.clone())) == 0


@pytest.mark.parametrize("drift", [0.0, 0.02, 0.3, 1.0, 1.5])
def test_the_mean_is_the_drift_of_the_noiseless_maps(drift: float) -> None:
    then, now = turned(20_000, drift)
    found = crossval(noisy(now, 1), noisy(then, 2))
    error = standard_error(found)
    assert error < 0.01 * max(drift, 0.1)
    # The lengths are estimates as well, and their noise shifts the ratio.
    shift = 0.03**2 / 2 + 0.75 * 64 * 0.03**4
    assert (found.mean() - drift + (1 - drift) * shift).abs() < 4 * error + 0.002 * drift
    naive = cosine(noisy(now, 1).mean(1), noisy(then, 2).mean(1)).mean()
    assert drift > 0.5 or naive > drift + 20 * error


def test_noise_that_both_observations_share_leaves_no_bias_either() -> None:
    then, now = turned(20_000, 0.02)
    shared = noisy(torch.zeros_like(then), 1, level=0.05)
    found = crossval(twice(now) + shared, twice(then) + shared)
    assert (found.mean() - 0.02).abs() < 4 * standard_error(found) + 0.001


def test_halves_that_contradict_each_other_have_no_drift() -> None:
    good, bad = torch.ones(1, 2, 3), torch.tensor([[[1.0, 0, 0], [-1.0, 0, 0]]])
    for one in (bad, torch.zeros(1, 2, 3), torch.full((1, 2, 3), NAN), good * math.inf):
        both = torch.cat([good, one])
        assert crossval(both, good.expand(2, -1, -1)).isnan().tolist() == [False, True]
        assert crossval(good.expand(2, -1, -1), both).isnan().tolist() == [False, True]


def test_reliability_is_the_correlation_of_maps_of_all_samples() -> None:
    truth = normal(50, 4000)
    halves, others = (noisy(truth, seed, level=1.0) for seed in (1, 2))
    # Signal and noise of each half weigh the same: r = 1/2, and of both together 2/3.
    assert reliability(halves).mean().item() == pytest.approx(2 / 3, abs=0.005)
    again = 1 - cosine(halves.mean(1), others.mean(1))
    assert reliability(halves).mean().item() == pytest.approx(again.mean().item(), abs=0.005)


def test_reliability_at_its_ends() -> None:
    one = normal(3, 8)
    assert torch.allclose(reliability(twice(one)), torch.ones(3, dtype=torch.float64))
    assert torch.allclose(
        reliability(torch.stack([one, -one], dim=1)), -torch.ones(3, dtype=torch.float64)
    )
    assert reliability(torch.stack([one, 0 * one], dim=1)).isnan().all()


def test_z_and_the_smallest_drift_by_hand() -> None:
    values = torch.tensor([1.0, NAN, 2.0, 3.0, NAN, 2.0])
    error = math.sqrt(2 / 3 / 4)
    assert standard_error(values).item() == pytest.approx(error)
    assert z_score(values).item() == pytest.approx(2 / error)
    assert minimum_detectable(values).item() == pytest.approx(ONE_SIDED * error)


def test_too_few_values_say_nothing() -> None:
    for values in (torch.tensor([]), torch.tensor([NAN, NAN]), torch.tensor([0.5, NAN])):
        for measure in (z_score, minimum_detectable, standard_error):
            assert measure(values).shape == ()
            assert measure(values).isnan()
    assert z_score(torch.tensor([0.0, NAN, 0.0])) == 0


@pytest.mark.parametrize("level", [0.03, 0.1, 0.15])
def test_noise_alone_exceeds_the_limit_once_in_twenty_times(level: float) -> None:
    maps = turned(96, 0.0)[0].repeat(400, 1)
    found = moved(noisy(maps, 1, level), noisy(maps, 2, level)).view(400, 96)
    z = torch.stack([z_score(one) for one in found])
    assert 0.025 <= (z > ONE_SIDED).double().mean() <= 0.08
    assert z.mean().abs() < 4 / math.sqrt(400)


def test_what_is_tested_changes_its_sign_with_the_second_halves() -> None:
    now, then = noisy(normal(50, 64), 1, 1.0), noisy(normal(50, 64, seed=2), 3, 1.0)
    swapped_now = torch.stack([now[:, 0], then[:, 1]], dim=1)
    swapped_then = torch.stack([then[:, 0], now[:, 1]], dim=1)
    assert torch.allclose(moved(swapped_now, swapped_then), -moved(now, then), equal_nan=True)
    assert torch.allclose(moved(1e-9 * now, 1e9 * then), moved(now, then), equal_nan=True)


def test_what_is_tested_is_the_drift_where_that_is_small() -> None:
    for drift in (0.0, 0.001, 0.02):
        now, then = turned(50, drift)
        found = moved(twice(now), twice(then))
        assert torch.allclose(found, torch.full_like(found, drift), rtol=0.02, atol=1e-12)
    for drift in (1.0, 1.5):
        now, then = turned(50, drift + 1e-6)
        assert moved(twice(now), twice(then)).eq(1).all()
    assert moved(torch.zeros(1, 2, 3), torch.ones(1, 2, 3)).isnan().all()


@pytest.mark.parametrize("shape", [(4, 2), (4, 3, 8), (4, 1, 8)])
def test_no_two_halves_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigurationError, match=r"give \(N, 2, \*any\)"):
        reliability(torch.ones(shape))
    with pytest.raises(ConfigurationError, match=r"give \(N, 2, \*any\)"):
        crossval(torch.ones(shape), torch.ones(shape))


def test_other_shapes_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="differ in shape"):
        crossval(torch.ones(4, 2, 8), torch.ones(4, 2, 9))
