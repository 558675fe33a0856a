"""Localisation against libraries, and on pictures whose object is known."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor
from torchvision.ops import box_iou, masks_to_boxes

from lightning_saliency import ConfigurationError
from lightning_saliency.localisation import (
    boxes_of,
    largest_component,
    localisation_error,
    localise,
    salient_region,
)

SIDE = 64


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def scenes(count: int = 6, noise: float = 0.06) -> tuple[Tensor, Tensor, Tensor]:
    """Ellipses in warm colours on cool ground: images, masks, and maps that lie on their middles.

    As real maps do, these find a part of the object alone, and are noisy everywhere.
    """
    generator = torch.Generator().manual_seed(1)
    axis = torch.linspace(-1, 1, SIDE)
    down, across = torch.meshgrid(axis, axis, indexing="ij")
    images, masks, maps = [], [], []
    for index in range(count):
        x, y = (torch.rand(2, generator=generator) - 0.5).tolist()
        wide, high = 0.25 + 0.06 * index, 0.5 - 0.05 * index
        far = ((across - x) / wide).square() + ((down - y) / high).square()
        warm, cool = torch.tensor([0.85, 0.4, 0.2]), torch.tensor([0.2, 0.4, 0.6])
        colours = torch.where(far[None] < 1, warm.view(3, 1, 1), cool.view(3, 1, 1))
        grain = noise * torch.randn(3, SIDE, SIDE, generator=generator)
        images.append((colours + grain).clamp(0, 1))
        masks.append(far < 1)
        maps.append((-2 * far).exp() + 0.02 * torch.rand(SIDE, SIDE, generator=generator))
    return torch.stack(images), torch.stack(masks), torch.stack(maps)


def overlap(one: Tensor, other: Tensor) -> Tensor:
    return (one & other).flatten(1).sum(1) / (one | other).flatten(1).sum(1)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
@pytest.mark.parametrize("shape", [(6, 31), (6, 9, 14), (6, 5, 6, 7)])
def test_no_smaller_region_holds_the_share(shape: tuple[int, ...], share: float) -> None:
    maps = random(*shape) - 0.3
    region = salient_region(maps, share)
    for row, mask, area in zip(maps.flatten(1), region.mask.flatten(1), region.area, strict=True):
        mass, count = row.abs().sort(descending=True).values, int(mask.sum())
        assert set(row[mask].abs().tolist()) == set(mass[:count].tolist()), "the largest ones"
        assert mass[:count].sum() >= share * mass.sum() > mass[: count - 1].sum()
        assert area == count / row.numel()


def test_regions_at_the_ends() -> None:
    maps = torch.zeros(4, 4, 4)
    maps[0, 1, 2], maps[1, :2], maps[2] = -3, 1, 0.5
    maps[3, 0] = torch.tensor([1, float("nan"), 0, 0])
    half, whole = salient_region(maps), salient_region(maps, 1.0)
    assert half.mask[0].nonzero().tolist() == [[1, 2]]
    assert half.mask[1].nonzero().tolist() == [[0, 0], [0, 1], [0, 2], [0, 3]], (
        "the first of equals"
    )
    assert torch.equal(whole.mask[1], maps[1] > 0), "never a pixel without mass"
    assert half.area.tolist()[:2] == [1 / 16, 4 / 16]
    assert half.area[2:].isnan().all()
    assert not half.mask[2:].any(), "constant and not finite"
    one = torch.full((1, 100_000), 1e-6)
    one[0, 0] = 1
    assert salient_region(one, 1.0).mask.all(), "small masses count when all is asked for"
    for share in (0.0, 1.5):
        with pytest.raises(ConfigurationError, match=rf"share={share}: .*above 0 and up to 1"):
            salient_region(maps, share)


@pytest.mark.parametrize("shape", [(40,), (23, 31), (7, 8, 9)])
@pytest.mark.parametrize("density", [0.2, 0.45, 0.6, 0.8])
def test_the_largest_component_is_that_of_scipy(shape: tuple[int, ...], density: float) -> None:
    masks = random(6, *shape) < density
    for mask, found in zip(masks.numpy(), largest_component(masks).numpy(), strict=True):
        parts, _ = ndimage.label(mask)
        sizes = np.bincount(parts.ravel())[1:]
        assert found.sum() == sizes.max()
        (bearing,) = np.unique(parts[found])
        assert bearing == 1 + sizes.argmax(), "of equal ones the first"


def test_a_component_that_winds_is_one() -> None:
    spiral = torch.zeros(1, 33, 33, dtype=torch.bool)
    at, step, left = [16, 16], [0, 1], 2
    spiral[0, 16, 16] = True
    while all(2 <= one < 31 for one in at):
        for _ in range(2):
            for _ in range(left):
                at = [one + more for one, more in zip(at, step, strict=True)]
                if all(0 <= one < 33 for one in at):
                    spiral[0, at[0], at[1]] = True
            step = [step[1], -step[0]]
        left += 2
    assert torch.equal(largest_component(spiral), spiral)
    assert spiral.sum() > 300
    corners = torch.eye(5, dtype=torch.bool)[None]
    assert largest_component(corners).sum() == 1, "corners do not connect"
    assert not largest_component(torch.zeros(2, 4, 4, dtype=torch.bool)).any()
    for empty in ((0, 4, 5), (2, 0, 5), (0, 3, 4, 5)):
        assert largest_component(torch.zeros(empty, dtype=torch.bool)).shape == empty


@pytest.mark.parametrize(
    ("side", "quantiles"),
    [(3, {}), (32, {"foreground": 0.9999}), (3, {"foreground": 0.99, "background": 0.99})],
)
@pytest.mark.parametrize("cut", ["grabcut", None])
def test_the_highest_pixel_is_object_however_few_there_are(
    side: int, quantiles: dict[str, float], cut: Any
) -> None:
    maps, pictures = random(2, side, side), random(2, 3, side, side, seed=1)
    masks, boxes = localise(maps, pictures, cut=cut, **quantiles)
    highest = maps.flatten(1).argmax(1, keepdim=True)
    if cut is None:  # else the largest part may be another one
        assert masks.flatten(1).gather(1, highest).all()
    assert (boxes[:, 2:] > boxes[:, :2]).all()
    silent, _ = localise(0 * maps, pictures, cut=cut, **quantiles)
    assert not silent.any()


def test_boxes_are_those_of_torchvision_with_the_end_behind() -> None:
    masks = random(20, 13, 17) < 0.04
    masks = masks[masks.flatten(1).any(1)]
    expected = masks_to_boxes(masks).long() + torch.tensor([0, 0, 1, 1])
    assert torch.equal(boxes_of(masks), expected)
    assert boxes_of(torch.zeros(1, 3, 4, dtype=torch.bool)).tolist() == [[0, 0, 0, 0]]
    assert boxes_of(torch.ones(1, 3, 4, dtype=torch.bool)).tolist() == [[0, 0, 4, 3]]


def test_the_object_is_found_by_its_colour() -> None:
    images, masks, maps = scenes()
    found, alone = localise(maps, images), localise(maps, images, cut=None)
    assert overlap(found.masks, masks).min() > 0.9
    assert overlap(alone.masks, masks).max() < 0.55, "the map alone finds a part"
    truth = boxes_of(masks)
    assert localisation_error(found.boxes, truth) == 0
    assert localisation_error(alone.boxes, truth) > 0.5
    ious = box_iou(found.boxes.float(), truth.float()).diagonal()
    assert ious.min() > 0.85


def test_the_mixtures_of_colours_learn_from_the_seeds_alone() -> None:
    # A rim of a colour that no seed has: grabCut by itself would count all undecided pixels as
    # ground when it learns, and take the rim for it.
    axis = torch.linspace(-1, 1, SIDE)
    far = (axis.square()[:, None] + axis.square()).sqrt()
    core, rim, ground = (
        torch.tensor(one).view(3, 1, 1)
        for one in ([0.85, 0.4, 0.2], [0.75, 0.5, 0.3], [0.2, 0.4, 0.6])
    )
    image = torch.where(far < 0.4, core, torch.where(far < 0.75, rim, ground))
    image += 0.03 * torch.randn(3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    found = localise((-4 * far.square()).exp()[None], image.clamp(0, 1)[None])
    assert overlap(found.masks, far[None] < 0.75) > 0.95


def test_maps_with_more_zeros_than_the_quantiles_allow() -> None:
    images, masks, maps = scenes()
    sparse = (maps - 0.6).relu()
    assert (sparse == 0).float().mean() > 0.9
    assert overlap(localise(sparse, images).masks, masks).min() > 0.9


def test_noise_finds_nothing() -> None:
    images, masks, _ = scenes()
    found = localise(random(*masks.shape, seed=5), images)
    assert localisation_error(found.boxes, boxes_of(masks)) > 0.8
    alone = localise(random(*masks.shape, seed=5), images, cut=None)
    assert localisation_error(alone.boxes, boxes_of(masks)) == 1


def test_it_is_the_same_each_time_and_for_each_image_alone() -> None:
    _, _, maps = scenes(3)
    clouds = F.interpolate(random(3, 3, 6, 6, seed=3), (SIDE, SIDE), mode="bilinear")
    images = (clouds + 0.1 * random(3, 3, SIDE, SIDE, seed=9)).clamp(0, 1)
    whole = localise(maps, images)
    for _ in range(4):
        assert torch.equal(localise(maps, images).masks, whole.masks)
    for index in range(3):
        part = slice(index, index + 1)
        assert torch.equal(localise(maps[part], images[part]).masks[0], whole.masks[index])


def test_signed_coarse_grey_and_normalised() -> None:
    images, masks, maps = scenes(3)
    expected = localise(maps, images).masks
    assert torch.equal(localise(-maps, images).masks, expected), "the absolute value counts"
    images[:, 2] = 0.4 + 0.05 * random(3, SIDE, SIDE)
    mean, std = [0.4, 0.5, 0.6], [0.2, 0.1, 1e-5]
    column = [torch.tensor(one).view(1, 3, 1, 1) for one in (mean, std)]
    again = localise(maps, (images - column[0]) / column[1], mean=mean, std=std).masks
    assert overlap(again, masks).min() > 0.95, "a channel of noise does not drown the others"
    coarse = F.avg_pool2d(maps, 8)
    assert overlap(localise(coarse, images).masks, masks).min() > 0.85
    grey = localise(maps, images[:, :1])
    assert overlap(grey.masks, masks).min() > 0.85


@pytest.mark.parametrize("cut", ["grabcut", None])
def test_maps_that_say_nothing_and_maps_of_few_pixels(cut: Any) -> None:
    images, masks, _ = scenes(4)
    maps = torch.zeros(4, SIDE, SIDE)
    maps[1], maps[2, 3, 4] = 0.7, float("inf")
    inside = masks[3].nonzero()[masks[3].sum() // 2]
    maps[3, inside[0], inside[1]] = 1
    found = localise(maps, images, cut=cut)
    assert not found.masks[:3].any()
    assert found.boxes[:3].eq(0).all()
    assert found.masks[3, inside[0], inside[1]], "a seed stays what it is"


def test_without_opencv_the_remedy_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    images, _, maps = scenes(1)
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ConfigurationError, match=r"lightning-saliency\[localisation\].*cut=None"):
        localise(maps, images)
    assert localise(maps, images, cut=None).masks.any()


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"foreground": 1.0}, "foreground=1.0 and background=0.3: give quantiles"),
        ({"background": 0.99}, "background ≤ foreground"),
        ({"cut": "grab_cut"}, "cut='grab_cut'. Did you mean 'grabcut'"),
        ({"maps": torch.ones(2, 4, 4)}, r"maps \(2, 4, 4\) and images \(1, 3, 64, 64\)"),
        ({"maps": torch.ones(1, 1, 4, 4)}, r"one map \(N, h, w\) for each image"),
    ],
)
def test_errors_name_the_argument_and_the_value(changed: dict[str, Any], words: str) -> None:
    images, _, maps = scenes(1)
    with pytest.raises(ConfigurationError, match=words):
        localise(**{"maps": maps, "images": images} | changed)


def drawn_boxes(*shape: int, seed: int) -> Tensor:
    corners = random(*shape, 2, 2, seed=seed) * 30
    return torch.cat([corners.amin(-2), corners.amax(-2) + 1], -1)


def test_the_error_is_that_of_torchvisions_overlap() -> None:
    boxes, truth = drawn_boxes(400, seed=1), drawn_boxes(400, seed=2)
    truth[:200] = boxes[:200] + random(200, 4, seed=3) * 4
    ious = box_iou(boxes, truth).diagonal()
    for least in (0.3, 0.5, 0.7):
        expected = (ious <= least).float().mean()
        assert 0.2 < expected < 0.99
        torch.testing.assert_close(localisation_error(boxes, truth, overlap=least), expected)


def test_half_is_not_enough() -> None:
    box, half = torch.tensor([[0, 0, 4, 4]]), torch.tensor([[0, 0, 4, 2]])
    assert localisation_error(box, half) == 1
    assert localisation_error(box, torch.tensor([[0, 0, 4, 3]])) == 0
    nowhere = torch.zeros(1, 4)
    assert localisation_error(nowhere, nowhere) == 1, "an empty box finds nothing"


def test_any_of_five_guesses_may_find_any_object_of_the_right_class() -> None:
    boxes, truth = drawn_boxes(60, 5, seed=4), drawn_boxes(60, 3, seed=5)
    truth[:40, 1] = boxes[:40, 3]
    truth[::2, 2] = float("nan")
    labels = torch.arange(60) % 7
    predicted = (random(60, 5, seed=6) * 7).long()
    predicted[:20, 3] = labels[:20]
    plain = aware = 0
    for index in range(60):
        hits = (box_iou(boxes[index], truth[index]).nan_to_num(0) > 0.5).any(1)
        plain += bool(hits.any())
        aware += bool((hits & (predicted[index] == labels[index])).any())
    assert 0 < aware < plain < 60
    error = localisation_error(boxes, truth, predicted=predicted, labels=labels)
    torch.testing.assert_close(error, torch.tensor(1 - aware / 60))
    torch.testing.assert_close(localisation_error(boxes, truth), torch.tensor(1 - plain / 60))
    one = localisation_error(boxes[:, 3], truth, predicted=predicted[:, 3], labels=labels)
    assert one >= error


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"boxes": torch.ones(3, 5)}, r"boxes has the shape \(3, 5\)"),
        ({"truth": torch.ones(2, 4)}, r"truth \(2, 4\): give one or more boxes"),
        ({"labels": torch.ones(3)}, "predicted=… and labels=… go together"),
        ({"labels": torch.ones(3), "predicted": torch.ones(3, 2)}, "one class for each guess"),
    ],
)
def test_errors_of_the_error(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        localisation_error(**{"boxes": torch.ones(3, 4), "truth": torch.ones(3, 4)} | given)
