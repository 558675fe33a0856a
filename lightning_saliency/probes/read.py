"""Read probes through a private DataLoader that is like the user's."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset

from lightning_saliency.errors import ConfigurationError
from lightning_saliency.probes.fields import Fields, Reading, as_targets
from lightning_saliency.probes.isolation import own_randomness

_BATCH = 32  # where the user's loader does not tell


def is_iterable(dataset: Any) -> bool:
    """Tell whether `dataset` can only be iterated, so that its probes come from passing batches."""
    return isinstance(dataset, IterableDataset) or not (
        hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")
    )


def read_dataset(
    dataset: Any,
    indices: Iterable[Any],
    *,
    fields: Fields,
    loader: DataLoader[Any] | None = None,
    seed: int = 0,
    labels_only: bool = False,
) -> Reading:
    """Read the examples `indices` of `dataset`, in this order, as a batch of `loader` would be.

    Only the collate function and the settings of the workers are taken from `loader`: it is not
    iterated. With workers one worker of our own reads; without, this process (see `isolation`).
    `labels_only` keeps no input and no mask: inputs are (N, 0).

    Raises:
        ConfigurationError: an index that is no int, beyond the dataset or there twice; a loader
            without automatic batching; a batch that `fields` does not fit.
    """
    known = checked_indices(indices, dataset)
    private = _private_loader(dataset, known, loader)
    owners = () if private.num_workers else (dataset, private.collate_fn)
    keep = _label_of if labels_only else _all_of
    with own_randomness(seed, *owners):  # also what a worker is seeded with is drawn within
        reading = assemble([keep(fields.read(batch)) for batch in private], fields)
    if len(reading.inputs) != len(known):
        raise ConfigurationError(
            f"{len(known)} indices gave {len(reading.inputs)} examples: the collate function drops "
            "or multiplies examples. Choose other indices, or use Probes.from_batches(...)."
        )
    return reading


def read_batches(batches: Iterable[Any], most: int, fields: Fields, *, seed: int = 0) -> Reading:
    """Read the first `most` examples of `batches`, taking no batch more than needed.

    What can be iterated again (a DataLoader, a list) is left as it was; an iterator moves on.
    """
    checked_count(most, "most")
    owners = () if isinstance(batches, Iterator) else (batches,)
    with own_randomness(seed, *owners):
        readings = list(_until(batches, most, fields))
        if not readings:
            raise ConfigurationError("There is no batch to take probes from: the loader is empty.")
        inputs, targets, masks = assemble(readings, fields)
    return Reading(
        inputs=inputs[:most],
        targets=None if targets is None else targets[:most],
        masks=None if masks is None else masks[:most],
    )


def assemble(readings: Sequence[Reading], fields: Fields) -> Reading:
    """Join what was read of several batches; `targets` become (N,), or None (see `as_targets`)."""
    inputs = _joined([reading.inputs for reading in readings], "inputs")
    masks = [reading.masks for reading in readings if reading.masks is not None]
    labels = [reading.targets for reading in readings if reading.targets is not None]
    strict = fields.label is not None
    targets = _joined(labels, "labels") if len(labels) == len(readings) else None
    return Reading(
        inputs=inputs,
        targets=None if targets is None else as_targets(targets, strict=strict),
        masks=_joined(masks, "masks") if masks else None,
    )


def checked_count(count: Any, name: str) -> int:
    """Return `count` if it is a whole number of at least 1; `name` is for the error."""
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ConfigurationError(f"{name}={count!r}: give a whole number of at least 1.")
    return count


def checked_indices(indices: Iterable[Any], dataset: Any) -> list[int]:
    """Return `indices` as ints if each is in 0..len(dataset)−1 and there once."""
    if is_iterable(dataset):
        raise ConfigurationError(
            f"{type(dataset).__name__} has no indices (it can only be iterated). Make the probes "
            "of its batches: Probes.from_batches(...)."
        )
    return checked_positions(indices, len(dataset), "the dataset")


def checked_positions(indices: Iterable[Any], length: int, what: str) -> list[int]:
    """Return `indices` as ints if each is in 0..length−1 and there once; `what` is for errors."""
    if length == 0:
        raise ConfigurationError(f"There is nothing to choose probes from: {what} is empty.")
    known: dict[int, None] = {}
    for index in indices.tolist() if isinstance(indices, Tensor) else indices:
        position = _as_int(index)
        if not 0 <= position < length:
            raise ConfigurationError(
                f"Index {position} is not in {what}, which has {length} examples: "
                f"0 to {length - 1}."
            )
        if position in known:
            raise ConfigurationError(f"Index {position} is there twice; a probe is watched once.")
        known[position] = None
    if not known:
        raise ConfigurationError("indices=[] chooses no probe. Give at least one index.")
    return list(known)


def _as_int(index: Any) -> int:
    try:
        if not isinstance(index, bool):
            return operator.index(index)
    except TypeError:
        pass
    raise ConfigurationError(f"Index {index!r} is a {type(index).__name__}; give an int.")


def _private_loader(
    dataset: Any, indices: list[int], like: DataLoader[Any] | None
) -> DataLoader[Any]:
    """Build the loader; its batches are no larger than the user's, for the sake of /dev/shm."""
    if like is not None and like.batch_size is None and like.batch_sampler is None:
        raise ConfigurationError(
            "The loader has batch_size=None, so an item of its dataset may be a whole batch and "
            "has no index of its own. Make the probes of batches: Probes.from_batches(...)."
        )
    size = _BATCH
    settings: dict[str, Any] = {}
    if like is not None:
        size = like.batch_size or getattr(like.batch_sampler, "batch_size", None) or _BATCH
        settings = {"collate_fn": like.collate_fn, "worker_init_fn": like.worker_init_fn}
        if like.num_workers:
            settings |= {
                "num_workers": 1,
                "multiprocessing_context": like.multiprocessing_context,
                "timeout": like.timeout,
            }
    subset: Dataset[Any] = Subset(dataset, indices)
    return DataLoader(subset, batch_size=min(size, len(indices)), **settings)


def _all_of(reading: Reading) -> Reading:
    return reading


def _label_of(reading: Reading) -> Reading:
    return Reading(reading.inputs.new_empty(len(reading.inputs), 0), reading.targets, None)


def _until(batches: Iterable[Any], most: int, fields: Fields) -> Iterator[Reading]:
    count = 0
    for batch in batches:
        reading = fields.read(batch)
        yield reading
        count += len(reading.inputs)
        if count >= most:
            return


def _joined(parts: Sequence[Tensor], what: str) -> Tensor:
    kinds = list(dict.fromkeys((tuple(part.shape[1:]), str(part.dtype)) for part in parts))
    if len(kinds) > 1:
        (first, first_dtype), (other, other_dtype) = kinds[:2]
        raise ConfigurationError(
            f"The {what} differ between batches: {first} {first_dtype} and {other} {other_dtype}. "
            "Probes share one shape; give the dataset a Resize or a crop, or choose other indices."
        )
    return torch.cat(list(parts))
