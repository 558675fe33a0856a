"""What of a map its image explains: direct implementations, and nulls that are exactly 0."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from lightning_saliency.errors import ConfigurationError
from lightning_saliency.measures import stimulus
from lightning_saliency.measures.numeric import averaged
from lightning_saliency.measures.places import centre
from lightning_saliency.measures.stimulus import (
    PAIRINGS,
    centre_surround,
    contrast,
    edge_similarity,
    edges,
    residual,
    spectral_residual,
    stimulus_share,
)

Array = NDArray[np.float64]

LOOKS: dict[str, tuple[Callable[..., Tensor], Callable[[Tensor], Tensor]]] = {
    "edges": (edge_similarity, edges),
    "residual": (spectral_residual, residual),
    "contrast": (centre_surround, contrast),
}
ALL = (edge_similarity, spectral_residual, centre_surround, stimulus_share)


def noise(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(*shape, generator=generator, dtype=torch.float64)


def smooth(*shape: int, seed: int = 0) -> Tensor:
    """Noise of all scales, as photographs are."""
    fine = noise(*shape, seed=seed)
    coarse = averaged(averaged(fine, [4] * len(shape[2:]), skip=2), shape[2:], skip=2)
    return fine + 2 * coarse


def in_range(images: Tensor) -> Tensor:
    rows = images.flatten(1)
    low, high = rows.amin(1), rows.amax(1)
    shape = (-1, *[1] * (images.ndim - 1))
    return (images - low.view(shape)) / (high - low).view(shape)


# What the eye sees first, against direct implementations


@pytest.mark.parametrize("spatial", [(17,), (9, 14), (6, 7, 5)])
def test_edges_are_scipys_sobel_over_all_channels(spatial: tuple[int, ...]) -> None:
    images = smooth(2, 3, *spatial)
    for image, found in zip(images.numpy(), edges(images).numpy(), strict=True):
        total = sum(
            ndimage.sobel(channel, axis=dim, mode="nearest") ** 2
            for channel in image
            for dim in range(len(spatial))
        )
        np.testing.assert_allclose(found, np.sqrt(total), atol=1e-12)


def rare(image: Array) -> Array:
    """Hou & Zhang 2007, as it stands in the paper."""
    intensity = image.mean(0)
    spectrum = np.fft.fftn(intensity)
    amplitude, phase = np.abs(spectrum), np.angle(spectrum)
    logarithm = np.log(amplitude + 1e-5 * amplitude.max())
    left = logarithm - ndimage.uniform_filter(logarithm, 3, mode="wrap")
    kept = amplitude / (amplitude + 1e-5 * amplitude.max())
    found = np.abs(np.fft.ifftn(kept * np.exp(left + 1j * phase))) ** 2
    for dim, side in enumerate(found.shape):
        sigma = 2.5 * min(side, 64) / 64
        found = ndimage.gaussian_filter1d(
            found, sigma, dim, mode="nearest", radius=int(np.ceil(3 * sigma))
        )
    return np.asarray(found)


@pytest.mark.parametrize("spatial", [(40,), (32, 48), (64, 80), (8, 9, 10)])
def test_the_residual_is_the_papers(spatial: tuple[int, ...]) -> None:
    images = smooth(2, 3, *spatial)
    for image, found in zip(images.numpy(), residual(images).numpy(), strict=True):
        np.testing.assert_allclose(found, rare(image), rtol=1e-8, atol=1e-12)


def test_the_odd_one_out_is_rare() -> None:
    rows, columns = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    image = (rows // 4 % 2).float()
    image[40:52, 12:24] = (columns // 4 % 2).float()[40:52, 12:24]
    row, column = divmod(int(residual(image[None, None])[0].argmax()), 64)
    assert 38 <= row < 54
    assert 10 <= column < 26


def surrounded(image: Array) -> Array:
    """Centre − surround over scales, by SciPy's filter."""
    intensity = image.mean(0, keepdims=True)
    parts = np.concatenate([intensity, image - intensity]) if len(image) > 1 else intensity
    pyramid = [parts]
    for step in range(5):
        taps = np.zeros(4 * 2**step + 1)
        taps[:: 2**step] = np.array([1, 4, 6, 4, 1]) / 16
        level = pyramid[-1]
        for dim in range(1, image.ndim):
            level = ndimage.correlate1d(level, taps, dim, mode="nearest")
        pyramid.append(level)
    total = sum(np.abs(pyramid[c] - pyramid[c + d]).sum(0) for c in (0, 1, 2) for d in (2, 3))
    return np.asarray(total)


@pytest.mark.parametrize(("channels", "spatial"), [(1, (90,)), (3, (40, 33)), (2, (9, 8, 10))])
def test_contrast_is_centre_less_surround(channels: int, spatial: tuple[int, ...]) -> None:
    images = smooth(2, channels, *spatial)
    for image, found in zip(images.numpy(), contrast(images).numpy(), strict=True):
        np.testing.assert_allclose(found, surrounded(image), atol=1e-12)


def test_grey_has_no_colour() -> None:
    grey = smooth(2, 1, 20, 20)
    torch.testing.assert_close(contrast(grey.expand(-1, 3, -1, -1)), contrast(grey))


# The numbers: correlations, less those with others' images


def correlations(maps: Tensor, images: Tensor, look: Callable[[Tensor], Tensor]) -> Array:
    """Of each map with what each image shows, `(N, N)`."""
    seen = averaged(look(in_range(images)), maps.shape[1:]).flatten(1).numpy()
    rows, count = maps.abs().flatten(1).numpy(), len(maps)
    return np.asarray(np.corrcoef(rows, seen)[:count, count:])


@pytest.mark.parametrize("name", LOOKS)
@pytest.mark.parametrize("side", [7, 28])
def test_the_number_is_a_correlation_less_the_mean_of_others(name: str, side: int) -> None:
    measure, look = LOOKS[name]
    images, maps = smooth(5, 3, 28, 28), noise(5, side, side, seed=1) - 0.5
    table = correlations(maps, images, look)
    own = table.diagonal()
    others = (table.sum(1) - own) / 4
    np.testing.assert_allclose(measure(maps, images).numpy(), own - others, atol=1e-10)


@pytest.mark.parametrize("measure", [edge_similarity, spectral_residual, centre_surround])
@pytest.mark.parametrize("count", [2, 5, 12])
def test_over_all_ways_to_shuffle_the_images_the_null_is_0(
    measure: Callable[..., Tensor], count: int
) -> None:
    images, maps = smooth(count, 1, 16, 16), smooth(count, 1, 16, 16, seed=1)[:, 0]
    found = torch.stack([measure(maps, images.roll(by, 0)) for by in range(count)])
    assert found.abs().amax() > 0.01
    torch.testing.assert_close(found.mean(0), torch.zeros(count, dtype=torch.float64))


@pytest.mark.parametrize("measure", ALL)
def test_a_map_that_knows_no_image_is_at_0_and_one_that_draws_it_is_not(
    measure: Callable[..., Tensor],
) -> None:
    images = smooth(9, 1, 20, 20)
    same = smooth(1, 1, 20, 20, seed=3)[:, 0].expand(9, -1, -1)
    assert measure(same, images).mean().abs() < 1e-12
    look = dict(LOOKS.values()).get(measure, edges)
    assert (measure(look(images), images) > 0.5).all()


@pytest.mark.parametrize("measure", ALL)
def test_scale_and_offset_of_an_image_do_not_matter(measure: Callable[..., Tensor]) -> None:
    images, maps = smooth(6, 3, 20, 20), smooth(6, 1, 20, 20, seed=1)[:, 0]
    expected = measure(maps, images)
    for other in (1e-3 * images - 7, 255 * images, images.float()):
        torch.testing.assert_close(measure(maps, other), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("measure", ALL)
def test_an_image_without_anything_to_see_is_left_out_for_all(
    measure: Callable[..., Tensor],
) -> None:
    images, maps = smooth(6, 3, 20, 20), smooth(6, 1, 20, 20, seed=1)[:, 0]
    kept = [0, 1, 3, 4, 5]
    expected = measure(maps[kept], images[kept])
    plain = torch.tensor([0.1, 0.5, 0.9]).view(3, 1, 1).expand(3, 20, 20)
    broken = images[2].clone()
    broken[0, 3, 3] = torch.nan
    for bad in (torch.full((3, 20, 20), 0.3), plain, plain + 1e-9 * images[2], broken):
        images[2] = bad
        found = measure(maps, images)
        assert found.isnan().tolist() == [False, False, True, False, False, False]
        torch.testing.assert_close(found[kept], expected)


@pytest.mark.parametrize("measure", ALL)
def test_an_image_that_is_the_same_in_all_places_of_a_map_is_left_out(
    measure: Callable[..., Tensor],
) -> None:
    images, maps = smooth(20, 2, 15, 13), noise(20, 2, 2, seed=1)
    known = measure(maps[:9], images[:9])
    images = images + images.flip(2)
    images = images + images.flip(3)
    assert known.isfinite().all() or measure is stimulus_share  # more regressors than places
    assert measure(maps, images).isnan().all()


@pytest.mark.parametrize("measure", ALL)
def test_one_image_has_no_others(measure: Callable[..., Tensor]) -> None:
    assert measure(noise(1, 8, 8), noise(1, 1, 8, 8)).isnan().all()
    assert measure(noise(2, 8, 8), noise(2, 1, 8, 8)).isfinite().all()


@pytest.mark.parametrize("measure", ALL)
def test_large_images_are_looked_at_in_the_size_of_a_thumbnail(
    measure: Callable[..., Tensor],
) -> None:
    images, maps = smooth(3, 1, 140, 98), noise(3, 7, 7, seed=1)
    images[..., :9, :9], images[..., -9:, -9:] = 0, 3  # so that means have the same range
    small = averaged(in_range(images), (63, 63), skip=2)
    torch.testing.assert_close(measure(maps, images), measure(maps, small), rtol=0, atol=1e-6)
    other = averaged(in_range(images), (56, 56), skip=2)
    assert (measure(maps, images) - measure(maps, other)).abs().amax() > 1e-4


# The share


def explained(row: Array, columns: Array) -> float:
    """Adjusted R² by least squares."""
    design = np.column_stack([np.ones(len(row)), *columns])
    left = row - design @ np.linalg.lstsq(design, row, rcond=None)[0]
    rank = np.linalg.matrix_rank(design) - 1
    total = ((row - row.mean()) ** 2).sum()
    return float(1 - (left**2).sum() / total * (len(row) - 1) / (len(row) - 1 - rank))


@pytest.mark.parametrize("side", [7, 21])
@pytest.mark.parametrize("count", [2, 6])
def test_the_share_is_that_of_least_squares(side: int, count: int) -> None:
    images = smooth(count, 3, 21, 21)
    maps = averaged(edges(images), (side, side)) + 2 * noise(count, side, side, seed=1)
    seen = [
        averaged(look(in_range(images)), (side, side)).flatten(1).numpy()
        for look in (edges, residual, contrast)
    ]
    middle = centre(maps)[0].numpy()
    rows = maps.flatten(1).numpy()

    def by(row: int, image: int) -> float:
        return explained(rows[row], np.stack([middle, *(one[image] for one in seen)]))

    expected = [
        by(row, row) - np.mean([by(row, image) for image in range(count) if image != row])
        for row in range(count)
    ]
    np.testing.assert_allclose(stimulus_share(maps, images).numpy(), expected, atol=1e-9)


def test_what_the_middle_alone_explains_is_no_share_of_the_image() -> None:
    images = smooth(6, 1, 20, 20)
    middle = centre(torch.empty(1, 20, 20, dtype=torch.float64)).view(1, 20, 20)
    maps = middle - middle.amin() + 0.01 * noise(6, 20, 20)
    assert stimulus_share(maps, images).abs().amax() < 0.02


def test_the_share_of_many_is_less_that_of_a_few_others_the_same_each_time() -> None:
    count = 4 * PAIRINGS
    images = smooth(count, 1, 12, 12)
    maps = edges(images) + noise(count, 12, 12, seed=1)
    before = torch.get_rng_state()
    found = stimulus_share(maps, images)
    assert torch.equal(found, stimulus_share(maps, images))
    assert torch.equal(torch.get_rng_state(), before)
    few = stimulus_share(maps[:9], images[:9])
    assert found.mean() > 0.1
    assert (found[:9] - few).abs().amax() < 0.2


def test_maps_with_fewer_places_than_regressors_have_no_share() -> None:
    assert stimulus_share(noise(40, 4), smooth(40, 1, 16)).isnan().all()
    assert stimulus_share(noise(4, 2, 3), smooth(4, 1, 18, 18)).isfinite().all()


@pytest.mark.parametrize("measure", ALL)
@pytest.mark.parametrize(
    ("maps", "images"), [((3, 8, 8), (3, 8, 8)), ((3, 8, 8), (2, 1, 8, 8)), ((3,), (3, 1))]
)
def test_images_that_do_not_fit_are_told(
    measure: Any, maps: tuple[int, ...], images: tuple[int, ...]
) -> None:
    with pytest.raises(ConfigurationError, match=r"give an image \(N, C, \*spatial\) for each map"):
        measure(torch.ones(maps), torch.ones(images))


def test_what_is_seen_of_images_is_kept_as_long_as_they_are_the_same() -> None:
    maps, images = torch.rand(4, 8, 8), torch.rand(4, 3, 16, 16)
    first = stimulus.edge_similarity(maps, images)
    kept = stimulus._KNOWN[images]
    assert len(kept) == 1
    stimulus.stimulus_share(maps, images)
    stimulus.edge_similarity(maps.sqrt(), images)
    assert len(kept) == 3, "edges, residual and contrast, once each"
    assert torch.equal(stimulus.edge_similarity(maps, images.clone()), first)
    other = stimulus.edge_similarity(maps, torch.rand(4, 3, 16, 16))
    assert not torch.equal(other, first)
    images.copy_(images.flip(0).clone())
    assert torch.equal(
        stimulus.edge_similarity(maps, images), stimulus.edge_similarity(maps, images.clone())
    )
    assert not torch.equal(stimulus.edge_similarity(maps, images), first), "they were overwritten"
    held = len(stimulus._KNOWN)
    del images, kept
    gc.collect()
    assert len(stimulus._KNOWN) < held


def test_inference_tensors_are_looked_at_each_time() -> None:
    maps, plain = torch.rand(4, 8, 8), torch.rand(4, 3, 16, 16)
    with torch.inference_mode():
        images = plain.clone()
        found = stimulus.edge_similarity(maps, images)
        assert torch.equal(found, stimulus.edge_similarity(maps, plain))
        images.copy_(plain.flip(0))
        assert not torch.equal(stimulus.edge_similarity(maps, images), found)
