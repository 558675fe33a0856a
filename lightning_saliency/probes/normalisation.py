"""The Normalize of a dataset, so that its probes can be shown as the images that they were."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.utils.data import ConcatDataset
from torchvision.transforms import Normalize, v2

from lightning_saliency.probes.labels import wrapped_by

Normalisation = tuple[tuple[float, ...], tuple[float, ...]]

_BY_CHANCE = ("Random", "OneOf", "SomeOf")  # containers that may leave a step out
_PRESETS = "torchvision.transforms._presets"


def normalisation_of(source: Any) -> Normalisation | None:
    """Return (mean, std) per channel such that `x * std + mean` is the image in 0..1, or None.

    `source` is a dataset (looked through Subset, ConcatDataset and wrappers with a `dataset`) or a
    transform. Known are torchvision's Normalize (both versions), the presets of its weights, and
    any other class named Normalize with a `mean` and a `std`. Two in a row are composed: mean
    m₁ + s₁m₂, std s₁s₂. One for values of 0..255 (a mean above 1, or a std of 255) is brought to
    0..1. The parts of a ConcatDataset must agree.
    """
    found = _found(source)
    if found is not None and (max(found[0]) > 1 or max(found[1]) == 255):
        mean, std = (tuple(value / 255 for value in part) for part in found)
        return mean, std
    return found


def _found(source: Any) -> Normalisation | None:
    if isinstance(source, ConcatDataset):
        parts = {_found(part) for part in source.datasets}
        return parts.pop() if len(parts) == 1 else None
    if _is_normalize(source):
        return _statistics(source)
    whole: Normalisation | None = None
    for part in _parts(source):
        step = _found(part)
        if step is not None:
            whole = step if whole is None else _composed(whole, step)
    return whole


def _parts(source: Any) -> tuple[Any, ...]:
    """Return what an example meets within `source`, in this order."""
    if isinstance(source, (list, tuple, nn.Sequential)):
        return tuple(source)
    if type(source).__name__.startswith(_BY_CHANCE):
        return ()
    # `transforms` of a torchvision dataset holds its `transform`: one of them, not both.
    own = [getattr(source, name, None) for name in ("transforms", "transform")]
    first = next((part for part in own if part is not None), None)
    return tuple(part for part in (wrapped_by(source), first) if part is not None)


def _composed(first: Normalisation, second: Normalisation) -> Normalisation | None:
    channels = max(len(first[0]), len(second[0]))
    (m1, s1), (m2, s2) = ([_repeated(part, channels) for part in one] for one in (first, second))
    if len(m1) != len(m2):
        return None
    mean = tuple(a + b * c for a, b, c in zip(m1, s1, m2, strict=True))
    return mean, tuple(a * b for a, b in zip(s1, s2, strict=True))


def _repeated(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    return values * channels if len(values) == 1 else values


def _is_normalize(step: Any) -> bool:
    kind = type(step)
    known = isinstance(step, (Normalize, v2.Normalize)) or kind.__name__ == "Normalize"
    return known or (kind.__module__ == _PRESETS and hasattr(step, "mean"))


def _statistics(step: Any) -> Normalisation | None:
    mean, std = _floats(getattr(step, "mean", None)), _floats(getattr(step, "std", None))
    if not mean or not std or not all(value > 0 for value in std):
        return None
    channels = max(len(mean), len(std))
    mean, std = _repeated(mean, channels), _repeated(std, channels)
    return (mean, std) if len(mean) == len(std) else None


def _floats(value: Any) -> tuple[float, ...] | None:
    if isinstance(value, Tensor):
        value = value.detach().flatten().tolist()
    if isinstance(value, (int, float)):
        return (float(value),)
    return tuple(float(one) for one in value) if isinstance(value, Sequence) else None
