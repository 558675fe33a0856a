"""Labels and class names without reading an example."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset, random_split

from lightning_saliency.probes.labels import class_names, known_labels


class Unread(Dataset[Any]):
    """Has attributes, and fails when an example is read."""

    def __init__(self, length: int = 6, **attributes: Any) -> None:
        self.length = length
        self.__dict__.update(attributes)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Any:
        raise AssertionError("an example was read")


@pytest.mark.parametrize(
    "attributes",
    [
        {"targets": [0, 1, 2, 0, 1, 2]},
        {"targets": torch.tensor([0, 1, 2, 0, 1, 2])},
        {"targets": np.array([0, 1, 2, 0, 1, 2], dtype=np.uint8)},
        {"targets": [np.int64(i % 3) for i in range(6)]},
        {"labels": (0, 1, 2, 0, 1, 2)},
        {"_labels": [0, 1, 2, 0, 1, 2]},
        {"samples": [("a.png", i % 3) for i in range(6)]},
        {"imgs": [("a.png", i % 3) for i in range(6)]},
        {"targets": torch.eye(3)[[0, 1, 2, 0, 1, 2]]},
        {"targets": ["0.png"] * 6, "labels": [0, 1, 2, 0, 1, 2]},
    ],
)
def test_known_labels(attributes: dict[str, Any]) -> None:
    labels = known_labels(Unread(**attributes))
    assert labels is not None
    assert labels.tolist() == [0, 1, 2, 0, 1, 2]


@pytest.mark.parametrize(
    "targets",
    [
        None,
        "abcdef",
        ["a/mask.png"] * 6,
        [0.5] * 6,
        torch.rand(6),
        torch.zeros(6, 4),
        torch.zeros(6, 8, dtype=torch.int64),
        torch.zeros(6, 4, 4, dtype=torch.int64),
        [{"boxes": 1}] * 6,
        [0, 1, 2],
        [[0]] * 6,
    ],
)
def test_targets_that_are_no_class_indices(targets: Any) -> None:
    assert known_labels(Unread(targets=targets)) is None


def test_labels_through_wrappers() -> None:
    first, second = Unread(targets=[0, 1, 2, 3, 4, 5]), Unread(labels=[9] * 6)
    part, _ = random_split(first, [4, 2], generator=torch.Generator().manual_seed(0))
    both: Subset[Any] = Subset(ConcatDataset([Subset(part, [3, 0]), second]), [2, 1, 0])
    labels = known_labels(both)
    assert labels is not None
    assert labels.tolist() == [9, part.indices[0], part.indices[3]]
    assert known_labels(ConcatDataset([first, Unread()])) is None


def test_labels_of_tensors() -> None:
    x = torch.rand(3, 1, 2, 2)
    labels = known_labels(TensorDataset(x, torch.tensor([[2], [0], [1]])))
    assert labels is not None
    assert labels.tolist() == [2, 0, 1]
    assert known_labels(TensorDataset(x)) is None
    assert known_labels(TensorDataset(x, torch.rand(3))) is None


@pytest.mark.parametrize(
    ("attributes", "names"),
    [
        ({"classes": ["cat", "dog"]}, ("cat", "dog")),
        ({"classes": [("tench", "Tinca"), ("goldfish",)]}, ("tench", "goldfish")),
        ({"classes": np.array(["cat", "dog"])}, ("cat", "dog")),
        ({"classes": [3, 4]}, ("3", "4")),
        ({"class_to_idx": {"dog": 1, "cat": 0}}, ("cat", "dog")),
        ({"class_to_idx": {"tench": 0, "Tinca": 0}}, None),
        ({"categories": ["cat", "dog"]}, ("cat", "dog")),
        ({"classes": 10}, None),
        ({}, None),
    ],
)
def test_class_names(attributes: dict[str, Any], names: tuple[str, ...] | None) -> None:
    dataset = Unread(**attributes)
    assert class_names(dataset) == names
    assert class_names(Subset(Subset(dataset, [1, 2]), [0])) == names
    assert class_names(Unread(subset=dataset)) == names
    assert class_names(ConcatDataset([dataset, dataset])) == names


def test_class_names_must_agree() -> None:
    parts = [Unread(classes=["cat", "dog"]), Unread(classes=["dog", "cat"])]
    assert class_names(ConcatDataset(parts)) is None
