"""The choice: seeded, balanced, in turns, cheap."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from lightning_saliency.errors import ConfigurationError
from lightning_saliency.probes import Fields, choose


class Unread(Dataset[Any]):
    def __init__(self, targets: Any) -> None:
        self.targets = targets

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> Any:
        raise AssertionError("an example was read")


class Read(Dataset[Any]):
    """Tells its labels only when it is read, and counts."""

    def __init__(self, labels: list[Any], **more: Any) -> None:
        self.hidden, self.read = labels, list[int]()

    def __len__(self) -> int:
        return len(self.hidden)

    def __getitem__(self, index: int) -> Any:
        self.read.append(index)
        return torch.full((1, 2, 2), float(index)), self.hidden[index]


def drawn() -> list[int]:
    labels: list[int] = torch.randint(
        10, (500,), generator=torch.Generator().manual_seed(3)
    ).tolist()
    return labels


def test_one_seed_one_choice() -> None:
    dataset = Unread(drawn())
    assert choose(dataset, 64, seed=7) == choose(dataset, 64, seed=7)
    assert choose(dataset, 64, seed=7) != choose(dataset, 64, seed=8)
    assert len(set(choose(dataset, 64, seed=7))) == 64


def test_more_probes_begin_with_the_same() -> None:
    dataset = Unread(drawn())
    assert choose(dataset, 64)[:32] == choose(dataset, 32)


def test_classes_take_turns() -> None:
    labels = drawn()
    chosen = [labels[index] for index in choose(Unread(labels), 64)]
    assert chosen[:10] == list(range(10))
    assert chosen[50:60] == list(range(10))
    counts = Counter(chosen).values()
    assert max(counts) - min(counts) <= 1


def test_a_rare_class_gives_all_that_it_has() -> None:
    labels = [0] * 90 + [1] * 2 + [5] * 8
    chosen = Counter(labels[index] for index in choose(Unread(labels), 24))
    assert chosen == {0: 14, 1: 2, 5: 8}


def test_more_classes_than_probes() -> None:
    labels = [index % 100 for index in range(1000)]
    chosen = [labels[index] for index in choose(Unread(labels), 8)]
    assert len(set(chosen)) == 8
    assert chosen == sorted(chosen)
    assert max(chosen) >= 8  # not always the first classes
    assert chosen != [labels[index] for index in choose(Unread(labels), 8, seed=1)]


def test_all_where_there_are_fewer() -> None:
    assert sorted(choose(Unread([1, 0, 1]), 64)) == [0, 1, 2]


def test_a_subset_is_chosen_by_its_own_indices() -> None:
    chosen = choose(Subset(Unread([0, 1, 2, 3]), [3, 1]), 2)
    assert chosen == [1, 0]  # class 1 before class 3


def test_labels_of_is_asked_first() -> None:
    chosen = choose(Unread([0, 0, 0, 0]), 2, labels_of=lambda dataset: [4, 4, 4, 2])
    assert chosen[0] == 3


@pytest.mark.parametrize(("n", "most"), [(8, 256), (100, 400)])
def test_unknown_labels_are_read_of_a_sample(n: int, most: int) -> None:
    dataset = Read([index % 4 for index in range(1000)])
    chosen = choose(dataset, n, loader=DataLoader(dataset, batch_size=50))
    assert [dataset.hidden[index] for index in chosen[:8]] == [0, 1, 2, 3] * 2
    assert len(dataset.read) == len(set(dataset.read)) == most
    assert set(chosen) <= set(dataset.read)


def test_fields_say_where_the_label_is() -> None:
    x, y = torch.rand(300, 1, 2, 2), torch.arange(300) % 3
    dataset = TensorDataset(x, torch.rand(300), y)
    chosen = choose(dataset, 6, fields=Fields(label=2))
    assert y[chosen].tolist() == [0, 1, 2, 0, 1, 2]


@pytest.mark.parametrize("labels", [[0.5] * 50, ["a"] * 50])
def test_without_classes_the_choice_is_seeded(labels: list[Any]) -> None:
    chosen = choose(Read(labels), 5, seed=1)
    assert chosen == choose(Read(labels), 5, seed=1) != choose(Read(labels), 5, seed=2)
    assert len(set(chosen)) == 5


def test_no_global_stream_is_used() -> None:
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    before = (random.getstate(), str(np.random.get_state()), torch.get_rng_state())
    choose(Unread(drawn()), 8)
    choose(Read(drawn()), 8)
    assert random.getstate() == before[0]
    assert str(np.random.get_state()) == before[1]
    assert torch.equal(torch.get_rng_state(), before[2])


class Stream(IterableDataset[Any]):
    def __len__(self) -> int:
        return 4

    def __iter__(self) -> Iterator[Any]:
        return iter(())


@pytest.mark.parametrize(
    ("dataset", "n", "words"),
    [
        (Unread([]), 4, "dataset is empty"),
        (Unread([1]), 0, "n=0: give a whole number of at least 1"),
        (Unread([1]), True, "n=True"),
        (Unread([1]), 2.0, "n=2.0"),
        (Stream(), 4, r"Stream has no indices.*Probes.from_batches"),
    ],
)
def test_errors(dataset: Any, n: Any, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        choose(dataset, n)
