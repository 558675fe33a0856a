"""Which examples become probes: a seeded choice in which every class has its turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_saliency.errors import ConfigurationError
from lightning_saliency.probes.fields import Fields
from lightning_saliency.probes.labels import known_labels
from lightning_saliency.probes.read import checked_count, is_iterable, read_dataset


def choose(
    dataset: Any,
    n: int,
    *,
    seed: int = 0,
    fields: Fields | None = None,
    loader: DataLoader[Any] | None = None,
    labels_of: Callable[[Any], Sequence[int] | Tensor | None] = known_labels,
) -> list[int]:
    """Choose `n` indices of `dataset`, the same for the same seed; all, if there are fewer.

    The classes take turns, so that the first probes are of distinct classes and the counts of two
    classes with enough examples differ by at most one. With more classes than probes, the seed
    also chooses the classes. Labels come from `labels_of`; where it returns None, a seeded sample
    of max(4n, 256) examples is read for them (as by `Probes.from_dataset`), and where these have
    no class, the choice is not balanced. No global random stream is used.

    Raises:
        ConfigurationError: n < 1, an empty dataset, or one that can only be iterated.
    """
    checked_count(n, "n")
    if is_iterable(dataset):
        raise ConfigurationError(
            f"{type(dataset).__name__} has no indices to choose from (it can only be iterated). "
            "Make the probes of its batches: Probes.from_batches(...)."
        )
    if len(dataset) == 0:
        raise ConfigurationError("There is nothing to choose probes from: the dataset is empty.")
    own = torch.Generator(device="cpu").manual_seed(seed)
    candidates = torch.randperm(len(dataset), generator=own, device="cpu")
    known = labels_of(dataset)
    if known is not None:
        labels: Tensor | None = torch.as_tensor(known, device="cpu")[candidates]
    else:
        candidates = candidates[: max(4 * n, 256)]
        labels = _read_labels(dataset, candidates, fields or Fields(), loader, seed)
    if labels is None:
        return [int(index) for index in candidates[:n]]
    return [int(index) for index in candidates[take_turns(labels, n, generator=own)]]


def take_turns(labels: Tensor, n: int, *, generator: torch.Generator | None = None) -> Tensor:
    """Return the positions of `n` labels (N,), class after class in turns.

    Within a class earlier positions come first; within a turn, lower classes. Where there are more
    classes than `n`, which of them is drawn from `generator` (without one: the lowest).
    """
    _, classes = torch.unique(labels, return_inverse=True)
    count = int(classes.max()) + 1
    if count > n and generator is not None:
        drawn = torch.randperm(count, generator=generator, device="cpu")[:n]
        kept = torch.isin(classes, drawn).nonzero().squeeze(1)
    else:
        kept = torch.arange(len(labels), device="cpu")
    by_class = kept[classes[kept].argsort(stable=True)]
    sizes = classes[kept].bincount(minlength=count)
    firsts = (sizes.cumsum(0) - sizes)[classes[by_class]]
    turns = torch.arange(len(by_class), device="cpu") - firsts
    return by_class[turns.argsort(stable=True)][:n]


def _read_labels(
    dataset: Any, candidates: Tensor, fields: Fields, loader: DataLoader[Any] | None, seed: int
) -> Tensor | None:
    targets = read_dataset(
        dataset, candidates.tolist(), fields=fields, loader=loader, seed=seed, labels_only=True
    ).targets
    return None if targets is None or targets.is_floating_point() else targets
