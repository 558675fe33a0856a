"""Drift against scipy, torchmetrics, brute force and figures known exactly."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cosine as scipy_cosine
from scipy.spatial.distance import jensenshannon
from scipy.stats import pearsonr, spearmanr
from torch import Tensor, nn
from torchmetrics.functional.image import structural_similarity_index_measure

from lightning_saliency.errors import ConfigurationError
from lightning_saliency.measures import drift

Function = Callable[[Tensor, Tensor], Tensor]


def normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def pair(*shape: int, kind: str = "dense") -> tuple[Tensor, Tensor]:
    a, b = normal(*shape), 0.6 * normal(*shape) + 0.8 * normal(*shape, seed=1)
    if kind == "sparse":
        return (a - 1).relu(), (b - 1).relu()
    if kind == "tied":
        return (3 * a).round().abs(), (3 * b).round().abs()
    return a.abs(), b.abs()


def by_probe(reference: Callable[..., object], a: Tensor, b: Tensor) -> Tensor:
    rows = zip(a.flatten(1).numpy(), b.flatten(1).numpy(), strict=True)
    return torch.tensor([reference(x, y) for x, y in rows], dtype=torch.float64)


REFERENCES: dict[Function, Callable[..., object]] = {
    drift.cosine: scipy_cosine,
    drift.pearson: lambda x, y: 1 - pearsonr(x, y).statistic,
    drift.spearman: lambda x, y: 1 - spearmanr(x, y).statistic,
    drift.jensen_shannon: lambda x, y: jensenshannon(x, y, base=2),
}


@pytest.mark.parametrize("kind", ["dense", "sparse", "tied"])
@pytest.mark.parametrize("shape", [(6, 200), (6, 17, 23), (6, 8, 9, 7)])
@pytest.mark.parametrize("function", REFERENCES, ids=lambda function: function.__name__)
def test_equals_scipy(function: Function, shape: tuple[int, ...], kind: str) -> None:
    a, b = pair(*shape, kind=kind)
    expected = by_probe(REFERENCES[function], a, b)
    torch.testing.assert_close(function(a, b), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(function(a.float(), b.float()).double(), expected, rtol=0, atol=5e-7)


def test_spearman_of_disjoint_sparse_maps_averages_ties() -> None:
    a, b = torch.zeros(1, 40, 40), torch.zeros(1, 40, 40)
    a[0, :10, :10], b[0, 20:30, 20:30] = normal(10, 10).abs(), normal(10, 10, seed=1).abs()
    expected = spearmanr(a.flatten().numpy(), b.flatten().numpy()).statistic
    assert -0.07 < expected < -0.06
    assert 1 - drift.spearman(a, b).item() == pytest.approx(expected, abs=1e-6)


def test_correlations_keep_the_sign() -> None:
    signed = normal(3, 50)
    for function in (drift.cosine, drift.pearson, drift.spearman):
        torch.testing.assert_close(function(signed, -signed), torch.full((3,), 2.0).double())
        many = normal(500, 50).float()
        assert (function(many, -many) <= 2).all()


def test_correlations_ignore_an_offset_even_a_large_one() -> None:
    a, b = pair(4, 30, 30)
    for function in (drift.pearson, drift.spearman):
        torch.testing.assert_close(function(a + 1e4, b), function(a, b), rtol=0, atol=1e-9)
        lifted = (a + 3e4).float()
        exact = function(lifted.double(), b)
        torch.testing.assert_close(function(lifted, b.float()).double(), exact, rtol=0, atol=1e-6)


def test_spearman_ignores_a_monotone_change() -> None:
    a, b = pair(4, 30, 30)
    assert drift.spearman(a, a.exp()).tolist() == [0.0] * 4
    torch.testing.assert_close(drift.spearman(a.pow(3), b), drift.spearman(a, b))


@pytest.mark.parametrize("size", [1_000, 150_528, 2_000_000])
@pytest.mark.parametrize("change", [1e-5, 1e-3, 1e-1])
def test_float32_cosine_keeps_the_digits_of_a_small_drift(size: int, change: float) -> None:
    a = normal(2, size)
    b = a + change * normal(2, size, seed=1)
    a, b = a.float(), b.float()
    exact = drift.cosine(a.double(), b.double())
    torch.testing.assert_close(drift.cosine(a, b).double(), exact, rtol=1e-4, atol=2e-13)


def test_float32_jensen_shannon_keeps_the_digits_of_a_small_drift() -> None:
    a, b = pair(4, 56, 56)
    for change in (1e-5, 1e-3):
        moved = (a * (1 + change * b)).float()
        exact = drift.jensen_shannon(a.float().double(), moved.double())
        assert (exact < change).all()
        torch.testing.assert_close(
            drift.jensen_shannon(a.float(), moved).double(), exact, rtol=1e-3, atol=1e-7
        )


def test_jensen_shannon_of_disjoint_maps_is_one() -> None:
    a, b = torch.zeros(500, 6, 6), torch.zeros(500, 6, 6)
    a[:, :3], b[:, 3:] = normal(2, 500, 3, 6).abs().float()
    distances = drift.jensen_shannon(a, b)
    torch.testing.assert_close(distances, torch.ones(500), rtol=0, atol=2e-7)
    assert (distances <= 1).all()


def test_reinitialised_networks_are_unrelated_in_direction() -> None:
    def gradients() -> Tensor:
        net = nn.Sequential(nn.Flatten(), nn.Linear(784, 64), nn.Tanh(), nn.Linear(64, 1))
        inputs = normal(32, 1, 28, 28, seed=7).float().requires_grad_()
        (found,) = torch.autograd.grad(net(inputs).sum(), inputs)
        return found

    with torch.random.fork_rng():
        torch.manual_seed(0)
        pairs = [drift.cosine(gradients(), gradients()).median() for _ in range(20)]
    assert 0.95 < torch.stack(pairs).mean() < 1.05


# blurred ------------------------------------------------------------------------------------------


def brute_box(image: np.ndarray) -> np.ndarray:
    blurred = np.empty_like(image)
    for place in np.ndindex(image.shape):
        box = tuple(slice(max(i - 2, 0), i + 3) for i in place)
        blurred[place] = image[box].mean()
    return blurred


@pytest.mark.parametrize("shape", [(3, 20), (3, 9, 11), (3, 6, 5, 7), (3, 2, 3)])
def test_blurred_equals_a_loop(shape: tuple[int, ...]) -> None:
    a, b = pair(*shape)
    box_a, box_b = (
        torch.stack([torch.from_numpy(brute_box(image)) for image in maps.numpy()])
        for maps in (a, b)
    )
    expected = by_probe(scipy_cosine, box_a, box_b)
    torch.testing.assert_close(drift.blurred(a, b), expected, rtol=0, atol=1e-12)


def test_blurred_forgives_one_pixel_and_cosine_does_not() -> None:
    a = (normal(4, 28, 28).abs() - 1).relu()
    moved = a.roll(1, dims=2)
    assert (drift.blurred(a, moved) < 0.15).all()
    assert (drift.cosine(a, moved) > 0.6).all()


# ssim ---------------------------------------------------------------------------------------------


def scaled_for_ssim(maps: Tensor) -> Tensor:
    images = []
    for image in maps.numpy():
        positive = np.sort(image[image > 0])[::-1]
        clipped = np.minimum(image / positive[len(positive) // 100], 1)
        images.append(clipped - clipped.mean())
    return torch.from_numpy(np.stack(images))[:, None]


@pytest.mark.parametrize("kind", ["dense", "sparse"])
@pytest.mark.parametrize("shape", [(4, 28, 28), (4, 56, 40), (4, 13, 12, 14)])
def test_ssim_equals_torchmetrics(shape: tuple[int, ...], kind: str) -> None:
    a, b = pair(*shape, kind=kind)
    similarity = structural_similarity_index_measure(
        scaled_for_ssim(a), scaled_for_ssim(b), data_range=1.0, reduction="none"
    )
    assert isinstance(similarity, Tensor)
    torch.testing.assert_close(drift.ssim(a, b), 1 - similarity, rtol=0, atol=1e-9)


def test_ssim_of_a_small_map_shrinks_the_window_to_it() -> None:
    a, b = pair(5, 7, 7)
    similarity = structural_similarity_index_measure(
        scaled_for_ssim(a), scaled_for_ssim(b), data_range=1.0, reduction="none", sigma=0.9
    )
    assert isinstance(similarity, Tensor)
    torch.testing.assert_close(drift.ssim(a, b), 1 - similarity, rtol=0, atol=1e-9)


@pytest.mark.parametrize("shape", [(3, 2), (3, 1, 9), (3, 2, 2), (3, 1, 2, 30)])
def test_ssim_of_a_tiny_map_is_finite(shape: tuple[int, ...]) -> None:
    a, b = pair(*shape)
    assert ((drift.ssim(a, b) > 0) & (drift.ssim(a, b) <= 2)).all()


def test_ssim_is_not_ruled_by_one_hot_pixel() -> None:
    a = normal(4, 56, 56).abs()
    hot = a.clone()
    hot[:, 20, 20] = 1e4
    assert (drift.ssim(a, hot) < 0.03).all()


def test_ssim_scales_a_sparse_map_by_its_support() -> None:
    a, b = torch.zeros(1, 56, 56), torch.zeros(1, 56, 56)  # 4 pixels are far below 1 %
    a[0, 10, 10:14] = torch.tensor([1.0, 2.0, 3.0, 4.0])
    b[0, 10, 10:14] = torch.tensor([4.0, 3.0, 2.0, 1.0])
    assert 0 < drift.ssim(a, b) < 0.1
    torch.testing.assert_close(drift.ssim(a, 9 * a), torch.zeros(1), rtol=0, atol=1e-6)


# top_k_iou ----------------------------------------------------------------------------------------


def brute_iou(x: np.ndarray, y: np.ndarray) -> float:
    k = max(1, round(0.05 * x.size))
    tops = [
        {i for i in np.argsort(-values)[:k] if values[i] > 0} for values in (np.abs(x), np.abs(y))
    ]
    return 1 - len(tops[0] & tops[1]) / len(tops[0] | tops[1])


@pytest.mark.parametrize("shape", [(5, 9), (5, 100), (5, 28, 28), (5, 7, 7), (5, 6, 7, 8)])
@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_top_k_iou_equals_a_loop(shape: tuple[int, ...], kind: str) -> None:
    a, b = pair(*shape, kind=kind)
    a[:, 0], b[:, 0] = 5.0 + normal(*a[:, 0].shape), 5.0 + normal(*a[:, 0].shape, seed=2)
    torch.testing.assert_close(drift.top_k_iou(a, b), by_probe(brute_iou, a, b))


def test_top_k_is_clamped_to_the_support() -> None:
    a, b = torch.zeros(2, 20, 20), torch.zeros(2, 20, 20)  # k = 20, supports of 2 and 3 pixels
    a[0, 0, :2], b[0, 0, :3] = 1.0, 1.0
    a[1, 0, :2], b[1, 5, :3] = 1.0, 1.0
    torch.testing.assert_close(drift.top_k_iou(a, b), torch.tensor([1 / 3, 1.0]))


def test_top_k_iou_shares_the_last_place_among_ties() -> None:
    a = torch.tensor([[3.0, 1.0, 1.0, 1.0, 1.0] + [0.5] * 35])  # k = 2: one sure, one of four
    b = torch.tensor([[3.0, 2.0, 1.0, 1.0, 1.0] + [0.5] * 35])
    expected = 1 - (1 + 1 / 4) / (1 + 1 + 3 / 4)
    torch.testing.assert_close(drift.top_k_iou(a, b), torch.tensor([expected]))


# centroid_shift -----------------------------------------------------------------------------------


@pytest.mark.parametrize("moved", [(3,), (3, -4), (1, 2, 2)])
def test_centroid_shift_is_the_distance_moved(moved: tuple[int, ...]) -> None:
    shape = (12,) * len(moved)
    a = torch.zeros(1, *shape)
    block = (slice(None),) + (slice(5, 7),) * len(moved)
    a[block] = normal(*a[block].shape).abs().float() + 0.1
    b = a.roll(moved, dims=tuple(range(1, len(moved) + 1)))
    assert drift.centroid_shift(a, b).item() == pytest.approx(math.hypot(*moved), abs=1e-5)


@pytest.mark.parametrize("function", [drift.blurred, drift.ssim])
def test_more_than_three_spatial_dimensions_are_refused(function: Function) -> None:
    maps = torch.rand(2, 3, 3, 3, 3)
    with pytest.raises(ConfigurationError, match="reduce the channels first"):
        function(maps, maps)


def test_blurred_reads_volumes_thinner_than_its_box() -> None:
    thin = normal(3, 2, 1, 4).abs().float()
    box = torch.nn.functional.pad(thin, (2, 2, 2, 2, 2, 2))
    within = torch.nn.functional.pad(torch.ones_like(thin), (2, 2, 2, 2, 2, 2))
    sums, counts = (
        sides.unfold(1, 5, 1).unfold(2, 5, 1).unfold(3, 5, 1).sum((-3, -2, -1))
        for sides in (box, within)
    )
    means = (sums / counts).flatten(1)
    wanted = 1 - torch.nn.functional.cosine_similarity(means[:1], means[1:])
    found = drift.blurred(thin[:1].expand(2, -1, -1, -1), thin[1:])
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-7)
