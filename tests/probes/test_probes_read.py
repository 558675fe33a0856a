"""Probes of datasets and batches: the right examples, and no random stream moved."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, random_split
from torchvision import transforms

from lightning_saliency.errors import ConfigurationError
from lightning_saliency.probes import Fields, Probes, is_iterable, own_randomness

MODULE_STREAM = np.random.default_rng(5)
MODULE_GENERATOR = torch.Generator().manual_seed(5)


class Augment:
    """A transform with a stream of its own, and one that it makes when it is first called."""

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(1)
        self.lazy: np.random.Generator | None = None

    def __call__(self) -> float:
        self.lazy = self.lazy or np.random.default_rng(2)
        return float(torch.rand(1, generator=self.generator)) + self.lazy.random()


class Jittered(Dataset[Any]):
    """Draws from every stream that a dataset may have."""

    class_stream = np.random.RandomState(3)

    def __init__(self) -> None:
        self.stream = np.random.default_rng(1)
        self.nested: dict[str, Any] = {"python": [random.Random(2)], "tensors": torch.rand(2)}
        self.call = Augment()
        self.augment: Any = transforms.Compose([lambda x: x + self.call()])
        self.calls = 0
        hidden = torch.Generator().manual_seed(4)
        self.closure: Any = lambda: torch.rand(1, generator=hidden).item()
        self.pid = os.getpid()

    def __len__(self) -> int:
        return 50

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        self.calls += 1
        own = self.stream.random() + self.nested["python"][0].random() + self.closure()
        shared = MODULE_STREAM.random() + float(torch.rand(1, generator=MODULE_GENERATOR))
        world = random.random() + np.random.rand() + float(torch.rand(1))
        noise = own + shared + world + self.class_stream.rand() + self.calls
        image = self.augment(torch.full((1, 4, 4), float(index), dtype=torch.float64)) + noise
        return image, index % 3


def seeded() -> Jittered:
    """Bring every stream to its beginning."""
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    MODULE_STREAM.bit_generator.state = np.random.default_rng(5).bit_generator.state
    MODULE_GENERATOR.manual_seed(5)
    Jittered.class_stream.seed(3)
    return Jittered()


def three_of(dataset: Dataset[Any]) -> list[Tensor]:
    loader = DataLoader(dataset, batch_size=1, shuffle=True)  # draws from the global stream
    return [image for (image, _), _ in zip(loader, range(3), strict=False)]


@pytest.mark.parametrize("seen_before", [0, 2])
@pytest.mark.parametrize("workers", [0, 2])
def test_the_next_training_example_is_bit_identical(workers: int, seen_before: int) -> None:
    after: list[list[Tensor]] = []
    for watched in (False, True):
        train, val = random_split(seeded(), [40, 10], generator=torch.Generator().manual_seed(0))
        for index in range(seen_before):
            train[index]
        if watched:
            loader = DataLoader(val, batch_size=4, num_workers=workers)
            Probes.from_dataset(val, [7, 1, 2], loader=loader)
        after.append(three_of(train))
    assert all(torch.equal(*pair) for pair in zip(*after, strict=True))


@pytest.mark.parametrize("workers", [0, 1])
def test_reading_is_reproducible(workers: int) -> None:
    def read(seed: int) -> str:
        dataset = seeded()
        anything = random.SystemRandom().randrange(2**31)
        random.seed(anything), np.random.seed(anything), torch.manual_seed(anything)
        loader = DataLoader(dataset, batch_size=4, num_workers=workers)
        return Probes.from_dataset(dataset, range(9), loader=loader, seed=seed).hash

    assert read(1) == read(1) != read(2)


def test_streams_are_put_back_after_an_error() -> None:
    dataset = seeded()
    expected = [stream.random() for stream in (np.random.default_rng(1), random.Random(2))]
    state = torch.get_rng_state(), random.getstate(), str(np.random.get_state())
    with pytest.raises(IndexError), own_randomness(0, dataset):
        _ = [dataset[0], [][0]]
    assert torch.equal(torch.get_rng_state(), state[0])
    assert (random.getstate(), str(np.random.get_state())) == state[1:]
    assert dataset.stream.random() == expected[0]
    assert dataset.nested["python"][0].random() == expected[1]
    assert dataset.calls == 0
    assert dataset.call.lazy is None


def test_a_system_random_has_nothing_to_keep() -> None:
    class Owner:
        stream = random.SystemRandom()

    with own_randomness(0, Owner()):
        pass


def test_only_what_was_set_is_set_back() -> None:
    class Caching:
        def __init__(self) -> None:
            self.cache: dict[int, int] = {}
            self.kept = self.gone = [1]

        def __len__(self) -> int:
            return 1

    owner = Caching()
    with own_randomness(0, owner):
        owner.cache[3] = 4  # in place: stays
        owner.kept = [2]
        del owner.gone
        owner.new = 5  # type: ignore[attr-defined]
    assert vars(owner) == {"cache": {3: 4}, "kept": [1], "gone": [1]}


def test_a_seed_for_cuda_is_not_queued() -> None:
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        pytest.skip("another test has begun to use the device")
    queued = torch.cuda._lazy_seed_tracker
    before = queued.get_calls().copy()
    with own_randomness(0):
        pass
    assert queued.get_calls() == before


def test_devices_in_use_are_seeded_and_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    device = torch.Generator().manual_seed(9)  # stands for a device: the tests need none
    monkeypatch.setattr(torch.cuda, "default_generators", (device,))
    with own_randomness(3):
        assert torch.equal(drawn(device), drawn(torch.Generator().manual_seed(3)))
    assert torch.equal(drawn(device), drawn(torch.Generator().manual_seed(9)))


def drawn(generator: torch.Generator) -> Tensor:
    return torch.rand(1, generator=generator)


def helper_module() -> Any:
    """Return a function of a module that holds a generator, and one within a container."""
    module: dict[str, Any] = {"generator": torch.Generator().manual_seed(1)}
    module |= {"streams": {"numpy": np.random.default_rng(1)}, "torch": torch}
    source = (
        "def jitter(): return float(torch.rand(1, generator=generator)), streams['numpy'].random()"
    )
    exec(source, module)
    return module["jitter"]


def test_streams_of_a_helper_module_are_put_back() -> None:
    def dataset() -> Any:
        return SimpleNamespace(jitter=helper_module())

    untouched, read = dataset(), dataset()
    with own_randomness(0, read):
        read.jitter()
    assert read.jitter() == untouched.jitter()


class Caching(TensorDataset):
    cache: dict[int, Tensor]

    def __getitem__(self, index: int) -> Any:
        return self.cache.setdefault(index, torch.zeros(1, 2, 2) + index)


def test_what_a_dataset_caches_can_be_differentiated() -> None:
    dataset = Caching(torch.zeros(3))
    dataset.cache = {}
    with torch.inference_mode():
        Probes.from_dataset(dataset, [1])
    assert not dataset.cache[1].is_inference()


class Process(TensorDataset):
    """Tells the process in which it was read."""

    def __getitem__(self, index: int) -> Any:
        return torch.full((1, 2, 2), float(os.getpid())), index


class Collate:
    def __init__(self, offset: float = 10.0) -> None:
        self.offset = offset

    def __call__(self, examples: list[Any]) -> dict[str, Tensor]:
        images, labels = zip(*examples, strict=True)
        return {"image": torch.stack(images) + self.offset, "label": torch.tensor(labels)}


def initialise(worker: int) -> None:
    os.environ["PROBE_WORKER"] = "7"


class Environment(TensorDataset):
    def __getitem__(self, index: int) -> Any:
        return torch.full((1, 2, 2), float(os.environ.get("PROBE_WORKER", 0))), index


def test_a_worker_reads_where_the_user_has_workers() -> None:
    dataset = Process(torch.zeros(5))
    here = Probes.from_dataset(dataset, [0], loader=DataLoader(dataset)).inputs
    there = Probes.from_dataset(dataset, [0], loader=DataLoader(dataset, num_workers=2)).inputs
    assert (here == os.getpid()).all()
    assert (there != os.getpid()).all()


def test_the_settings_of_the_users_loader_are_used() -> None:
    dataset = Environment(torch.zeros(9))
    loader = DataLoader(
        dataset,
        batch_size=2,
        num_workers=1,
        collate_fn=Collate(),
        worker_init_fn=initialise,
        multiprocessing_context="fork",
    )
    fields = Fields(input="image", label="label")
    probes = Probes.from_dataset(dataset, [8, 3, 5], loader=loader, fields=fields, name="test")
    assert (probes.inputs == 17).all()
    assert probes.targets is not None
    assert probes.targets.tolist() == [8, 3, 5]
    assert probes.names == ("test[8]", "test[3]", "test[5]")


class Sizes(TensorDataset):
    """Notes in which batches it is read."""

    def __init__(self) -> None:
        super().__init__(torch.zeros(100, 1, 2, 2))
        self.batches: list[int] = []

    def __getitems__(self, indices: list[int]) -> list[Any]:
        self.batches.append(len(indices))
        return [self[index] for index in indices]


@pytest.mark.parametrize(
    ("loader", "sizes"),
    [
        (None, [32, 32, 6]),
        (DataLoader(Sizes(), batch_size=50), [50, 20]),
        (
            DataLoader(Sizes(), batch_sampler=torch.utils.data.BatchSampler(range(9), 40, False)),
            [40, 30],
        ),
        (DataLoader(Sizes(), batch_sampler=[[0], [1]]), [32, 32, 6]),
    ],
)
def test_batches_are_no_larger_than_the_users(loader: Any, sizes: list[int]) -> None:
    dataset = Sizes()
    assert len(Probes.from_dataset(dataset, range(70), loader=loader)) == 70
    assert dataset.batches == sizes


def test_classes_and_normalisation_come_along() -> None:
    dataset = TensorDataset(torch.rand(3, 3, 2, 2), torch.tensor([1, 0, 1]))
    dataset.classes, dataset.transform = ["a", "b"], transforms.Normalize([0.5] * 3, [0.2] * 3)  # type: ignore[attr-defined]
    probes = Probes.from_dataset(dataset, np.array([2, 0]))
    assert torch.equal(probes.inputs, dataset.tensors[0][[2, 0]])
    assert (probes.classes, probes.mean, probes.std) == (("a", "b"), (0.5,) * 3, (0.2,) * 3)
    dataset.transform = transforms.Normalize([0.5] * 4, [0.2] * 4)  # type: ignore[attr-defined]
    assert Probes.from_dataset(dataset, [0]).mean is None  # of other channels: not to be undone


def test_masks_of_a_dataset() -> None:
    dataset = TensorDataset(torch.rand(3, 1, 2, 2), torch.arange(3), torch.eye(2).expand(3, 2, 2))
    masks = Probes.from_dataset(dataset, [2, 0], fields=Fields(mask=2)).masks
    assert masks is not None
    assert torch.equal(masks, torch.eye(2).expand(2, 2, 2) > 0)


class Ragged(Dataset[Any]):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Any:
        return torch.rand(1, 2 + index, 2), index


def drop_odd(examples: list[Any]) -> Any:
    return torch.utils.data.default_collate([one for one in examples if one[1] % 2 == 0])


X = TensorDataset(torch.rand(4, 1, 2, 2), torch.arange(4))


class Stream(IterableDataset[Any]):
    def __init__(self, count: int = 10**9) -> None:
        self.count, self.taken = count, 0

    def __iter__(self) -> Iterator[Any]:
        for index in range(self.count):
            self.taken += 1
            yield torch.full((1, 2, 2), float(index)), index % 3


@pytest.mark.parametrize(
    ("dataset", "indices", "loader", "words"),
    [
        (X, [4], None, "Index 4 is not in the dataset, which has 4 examples: 0 to 3"),
        (X, [-1], None, "Index -1 is not in the dataset"),
        (X, [1, 1], None, "Index 1 is there twice"),
        (X, [False], None, "Index False is a bool; give an int"),
        (X, [1.0], None, "Index 1.0 is a float; give an int"),
        (X, ["1"], None, "Index '1' is a str; give an int"),
        (X, [], None, "chooses no probe"),
        (TensorDataset(torch.zeros(0, 1, 2, 2)), [0], None, "the dataset is empty"),
        (Stream(), [0], None, "Stream has no indices.*from_batches"),
        (X, [0], DataLoader(X, batch_size=None), "batch_size=None.*from_batches"),
        (X, [0, 1], DataLoader(X, 2, collate_fn=drop_odd), "2 indices gave 1 examples"),
        (
            Ragged(),
            [0, 1],
            DataLoader(Ragged()),
            r"differ between batches: \(1, 2, 2\).*\(1, 3, 2\)",
        ),
    ],
)
def test_errors(dataset: Any, indices: Any, loader: Any, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        Probes.from_dataset(dataset, indices, loader=loader)


def test_iterable_or_not() -> None:
    assert is_iterable(Stream())
    assert is_iterable(iter([]))
    assert not is_iterable(X)
    assert not is_iterable([1, 2])


def test_the_first_of_the_batches() -> None:
    stream = Stream()
    probes = Probes.from_batches(
        iter(DataLoader(stream, batch_size=4)), 6, classes=["a", "b", "c"], mean=[0], std=[1]
    )
    assert probes.inputs[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert probes.targets is not None
    assert probes.targets.tolist() == [0, 1, 2, 0, 1, 2]
    assert stream.taken == 8  # no batch more than needed
    whole = Stream()
    assert len(Probes.from_batches(iter(DataLoader(whole, batch_size=4)), 8)) == whole.taken == 8
    assert probes.names[5] == "val[5]"
    assert (probes.classes, probes.mean) == (("a", "b", "c"), (0.0,))


def test_a_loader_of_probes_is_left_as_it_was() -> None:
    after: list[list[Tensor]] = []
    for watched in (False, True):
        dataset = seeded()
        if watched:
            masked = Probes.from_batches(DataLoader(dataset, batch_size=4, shuffle=True), 6)
            assert len(masked) == 6
        after.append(three_of(dataset))
    assert all(torch.equal(*pair) for pair in zip(*after, strict=True))


def test_batches_in_inference_mode_can_be_differentiated() -> None:
    with torch.inference_mode():
        probes = Probes.from_batches(DataLoader(Stream(5), batch_size=2), 3)
    assert not probes.inputs.is_inference()


def test_fewer_batches_than_wanted() -> None:
    assert len(Probes.from_batches(DataLoader(Stream(3), batch_size=2), 64)) == 3


@pytest.mark.parametrize(
    ("batches", "most", "words"),
    [
        ([], 4, "no batch"),
        ([torch.rand(1, 1, 2, 2)], 0, "most=0"),
        ([torch.rand(1, 1, 2, 2), torch.rand(1, 1, 3, 2)], 2, "differ between batches"),
        ([{"image": torch.rand(1, 1, 2, 2)}], 2, "input='image'"),
    ],
)
def test_errors_of_batches(batches: list[Any], most: int, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        Probes.from_batches(batches, most)
