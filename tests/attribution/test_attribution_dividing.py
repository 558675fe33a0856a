"""Grids, superpixels, and segments by a user's own function."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from attribution_nets import F64, images
from torch import Tensor

from lightning_saliency.attribution import dividing
from lightning_saliency.attribution.dividing import divided, grid
from lightning_saliency.attribution.segments import LIME, KernelSHAP
from lightning_saliency.errors import ConfigurationError


def test_a_grid_has_cells_of_equal_size_up_to_a_pixel() -> None:
    assert grid((5,), 2).tolist() == [0, 0, 0, 1, 1]
    assert grid((4, 6), 2).tolist() == [[0, 0, 0, 1, 1, 1]] * 2 + [[2, 2, 2, 3, 3, 3]] * 2
    for side, cells in [(224, 7), (30, 7), (7, 7)]:
        sizes = grid((side, side), cells).flatten().bincount().double()
        assert len(sizes) == cells**2
        assert sizes.max().sqrt() - sizes.min().sqrt() <= 1


def coloured() -> Tensor:
    """Four flat fields of other sizes than a grid's, as a normalised image."""
    image = torch.zeros(1, 3, 24, 30, dtype=F64)
    image[:, 0, :10], image[:, 1, :, 21:] = 2.0, -1.5
    return image


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_superpixels_follow_the_edges(channels: int) -> None:
    image = coloured().sum(1, keepdim=True) if channels == 1 else coloured()[:, :channels]
    labels = divided(image, "slic", 4)[0]
    fields = (torch.arange(24)[:, None] < 10).long() * 2 + (torch.arange(30) >= 21).long()
    count = distinct(labels.flatten())
    assert 4 <= count < 40
    for label in range(count):
        assert distinct(fields[labels == label]) == 1, "no superpixel lies over an edge"


@pytest.mark.parametrize("shape", [(1, 40), (2, 12, 12), (3, 12, 12), (3, 6, 6, 6)])
def test_superpixels_of_each_number_of_dimensions(shape: tuple[int, ...]) -> None:
    inputs = images(2, *shape).cumsum(-1)
    labels = divided(inputs, "slic", 3)
    assert labels.shape == (2, *shape[1:])
    assert labels.max() >= 1
    constant = divided(inputs * 0, "slic", 3)
    assert (constant >= 0).all()


def test_a_function_is_given_each_image_as_float32_and_may_write_to_it() -> None:
    given = []

    def divide(image: Tensor) -> Tensor:
        given.append(image.clone())
        image.zero_()
        return torch.ones(image.shape[1:]).cumsum(1).long()

    inputs = images(2, 3, 4, 5, dtype=torch.bfloat16)
    before = inputs.clone()
    labels = divided(inputs, divide, 0)
    assert labels[1].tolist() == [[0, 1, 2, 3, 4]] * 4
    assert torch.equal(inputs, before)
    assert torch.equal(torch.stack(given), inputs.float())


def test_missing_superpixels_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dividing, "find_spec", lambda name: None)
    assert KernelSHAP(segments="grid")
    with pytest.raises(ConfigurationError, match=r"pip install 'lightning-saliency\[segments\]'"):
        LIME(segments="slic")


def distinct(rows: Tensor) -> int:
    return len(np.unique(rows.numpy(), axis=0))
