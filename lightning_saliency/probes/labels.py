"""What a dataset tells about its classes without reading an example."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Subset, TensorDataset

from lightning_saliency.probes.fields import as_targets

_LABELS = ("targets", "labels", "_labels", "y")
_SAMPLES = ("samples", "imgs", "_samples")


def known_labels(dataset: Any) -> Tensor | None:
    """Return the class index of every example (N,) int64 that `dataset` already holds, or None.

    Looks at `targets`, `labels`, `samples`, `imgs` and the tensors of a TensorDataset, through
    Subset and ConcatDataset at any depth; no example is read. Only one integer (or one-hot row)
    per example counts: targets that are boxes, paths, attributes or floats are not class indices.
    """
    if isinstance(dataset, Subset):
        inner = known_labels(dataset.dataset)
        return None if inner is None else inner[torch.as_tensor(dataset.indices, device="cpu")]
    if isinstance(dataset, ConcatDataset):
        parts = [known_labels(part) for part in dataset.datasets]
        present = [part for part in parts if part is not None]
        return torch.cat(present) if len(present) == len(parts) else None
    candidates = (_as_classes(values, len(dataset)) for values in _held_labels(dataset))
    return next((labels for labels in candidates if labels is not None), None)


def class_names(dataset: Any) -> tuple[str, ...] | None:
    """Return the names of the classes, by index, if `dataset` or the one that it wraps has them.

    Looks at `classes`, `class_to_idx` and `categories`; a ConcatDataset has names when all its
    parts have the same.
    """
    if isinstance(dataset, ConcatDataset):
        names = {class_names(part) for part in dataset.datasets}
        return names.pop() if len(names) == 1 else None
    for attribute in ("classes", "class_to_idx", "categories"):
        found = _as_names(getattr(dataset, attribute, None))
        if found:
            return found
    wrapped = wrapped_by(dataset)
    return None if wrapped is None else class_names(wrapped)


def wrapped_by(dataset: Any) -> Any | None:
    """Return the dataset within a Subset, or within a user's wrapper that names it so."""
    for attribute in ("dataset", "subset"):
        inner = getattr(dataset, attribute, None)
        if inner is not None and hasattr(inner, "__getitem__"):
            return inner
    return None


def _held_labels(dataset: Any) -> Iterator[Any]:
    if isinstance(dataset, TensorDataset):
        yield from dataset.tensors[1:2]
    for attribute in _LABELS:
        yield getattr(dataset, attribute, None)
    for attribute in _SAMPLES:
        samples = getattr(dataset, attribute, None)
        if isinstance(samples, Sequence) and all(
            isinstance(sample, tuple) and len(sample) > 1 for sample in samples
        ):
            yield [sample[1] for sample in samples]


def _as_classes(values: Any, length: int) -> Tensor | None:
    if isinstance(values, Sequence) and not isinstance(values, str):
        # The kinds first: a set of a million elements has few.
        if not all(issubclass(kind, (int, np.integer)) for kind in set(map(type, values))):
            return None
        values = np.asarray(values)
    if isinstance(values, np.ndarray) and values.dtype.kind in "iub":
        values = torch.from_numpy(values.astype(np.int64))
    if not isinstance(values, Tensor) or values.ndim not in (1, 2) or len(values) != length:
        return None
    classes = as_targets(values.detach().cpu(), strict=False)
    return None if classes is None or classes.is_floating_point() else classes


def _as_names(value: Any) -> tuple[str, ...] | None:
    if isinstance(value, dict):
        if sorted(value.values()) != list(range(len(value))):
            return None
        value = sorted(value, key=value.__getitem__)
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if not isinstance(value, (list, tuple)):
        return None
    # ImageNet of torchvision names a class by a tuple of synonyms.
    names = [one[0] if isinstance(one, tuple) and one else one for one in value]
    return tuple(map(str, names)) if all(isinstance(one, (str, int)) for one in names) else None
