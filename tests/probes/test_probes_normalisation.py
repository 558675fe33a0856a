"""The Normalize of a dataset, found wherever it is."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import ConcatDataset, Dataset, Subset
from torchvision import transforms
from torchvision.datasets import FakeData
from torchvision.transforms import v2
from torchvision.transforms._presets import ImageClassification

from lightning_saliency.probes.normalisation import normalisation_of

MEAN, STD = (0.5, 0.25, 0.125), (0.5, 1.0, 0.25)
FOUND = (MEAN, STD)
NORMALIZE = transforms.Normalize(MEAN, STD)


class Own(Dataset[Any]):
    def __init__(self, transform: Any = None, **attributes: Any) -> None:
        self.transform = transform
        self.__dict__.update(attributes)

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Any:
        raise AssertionError("an example was read")


class Normalize:
    """Of another library."""

    def __init__(self, mean: Any, std: Any) -> None:
        self.mean, self.std = mean, std


class AddGaussianNoise(Normalize):
    """Has a mean and a std, and is no Normalize."""


@pytest.mark.parametrize(
    "transform",
    [
        NORMALIZE,
        v2.Normalize(list(MEAN), list(STD)),
        transforms.Compose([transforms.ToTensor(), NORMALIZE]),
        v2.Compose([v2.ToImage(), v2.Compose([v2.Normalize(list(MEAN), list(STD))])]),
        nn.Sequential(transforms.Resize(4), NORMALIZE),
        ImageClassification(crop_size=4, mean=MEAN, std=STD),
        Normalize(torch.tensor(MEAN).reshape(3, 1, 1), list(STD)),
        transforms.Compose([AddGaussianNoise(0.0, 1.0), NORMALIZE]),
    ],
)
def test_found_in_transforms_and_through_wrappers(transform: Any) -> None:
    dataset = Own(transform)
    assert normalisation_of(transform) == FOUND
    assert normalisation_of(dataset) == FOUND
    assert normalisation_of(Own(transforms=transform)) == FOUND
    assert normalisation_of(Subset(Subset(dataset, [0, 1]), [0])) == FOUND
    assert normalisation_of(Subset(ConcatDataset([dataset, dataset]), [0])) == FOUND
    assert normalisation_of(Own(subset=dataset)) == FOUND
    assert normalisation_of(Own(transform, dataset=Own())) == FOUND


def test_a_torchvision_dataset_has_its_transform_once() -> None:
    assert normalisation_of(FakeData(4, transform=NORMALIZE)) == FOUND


@pytest.mark.parametrize(
    "transform",
    [
        None,
        transforms.ToTensor(),
        AddGaussianNoise(0.0, 1.0),
        transforms.RandomApply([NORMALIZE]),
        Normalize(MEAN, None),
        Normalize((0.1, 0.2), STD),
        Normalize(MEAN, (0.0, 1.0, 1.0)),
        transforms.Compose([NORMALIZE, Normalize((0.1, 0.2), (1.0, 1.0))]),
    ],
)
def test_none_is_found_where_there_is_none(transform: Any) -> None:
    assert normalisation_of(Own(transform)) is None


def test_two_in_a_row_are_undone_by_one() -> None:
    image = torch.rand(3, 4, 4)
    first, second = NORMALIZE, transforms.Normalize((0.25,), (2.0,))
    found = normalisation_of(Own(second, dataset=Own(first)))
    assert found is not None
    mean, std = (torch.tensor(part)[:, None, None] for part in found)
    torch.testing.assert_close(second(first(image)) * std + mean, image)


def test_values_of_0_to_255_become_0_to_1() -> None:
    found = normalisation_of(transforms.Normalize((127.5,), (51.0,)))
    assert found == ((0.5,), (0.2,))
    assert normalisation_of(transforms.Normalize((0.0,), (255.0,))) == ((0.0,), (1.0,))
    assert normalisation_of(transforms.Normalize((0.0,), (1.0,))) == ((0.0,), (1.0,))


def test_parts_must_agree() -> None:
    other = Own(transforms.Normalize((0.5,), (0.5,)))
    assert normalisation_of(ConcatDataset([Own(NORMALIZE), other])) is None
    assert normalisation_of(ConcatDataset([Own(NORMALIZE), Own()])) is None
