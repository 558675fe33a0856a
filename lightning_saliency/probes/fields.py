"""How a batch is read: where its input, its label and its mask are."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_saliency.errors import ConfigurationError, did_you_mean

Key = int | str | Callable[[Any], Any] | None


class Reading(NamedTuple):
    """What was read of one or more batches: CPU tensors of their own, no views of the batch."""

    inputs: Tensor  # (N, C, *spatial)
    targets: Tensor | None  # (N, …), as the batch has them
    masks: Tensor | None  # (N, *spatial) bool


@dataclass(frozen=True)
class Fields:
    """Where in a batch its `input`, `label` and `mask` are.

    Each is an index, a key or attribute (dotted when nested: `"0.image"`, `"view.left"`), or a
    callable `batch -> value`. By default (None) a tensor is the input itself; of a tuple or list,
    element 0 is the input and element 1 the label, if it looks like one: one number or one-hot row
    per example. Anything else (a dict, a dataclass) is never guessed. There is no default mask;
    a mask is what is not zero.

    Raises:
        ConfigurationError: what is not an index, a string or a callable; when reading, a key that
            the batch lacks, or an input that is no (N, C, *spatial) floating or uint8 tensor.
    """

    input: Key = None
    label: Key = None
    mask: Key = None

    def __post_init__(self) -> None:
        for name in ("input", "label", "mask"):
            key = getattr(self, name)
            if isinstance(key, bool) or not (
                key is None or isinstance(key, (int, str)) or callable(key)
            ):
                raise ConfigurationError(
                    f"{name}={key!r} is {describe(key)}. Give an index, a key (dotted when "
                    "nested) or a callable that takes the batch."
                )

    def read(self, batch: Any, rows: slice = slice(None)) -> Reading:
        """Read one batch as a DataLoader yields it, or some `rows` of it: no others are copied."""
        inputs = checked_input(self._input(batch))
        label = self._label(batch, len(inputs))
        mask = None if self.mask is None else _pick(batch, self.mask, "mask")
        return Reading(
            inputs=own_copy(inputs[rows]),
            targets=None if label is None else own_copy(label[rows]),
            masks=None if mask is None else as_mask(mask, inputs)[rows],
        )

    def count(self, batch: Any) -> int:
        """How many examples a batch holds."""
        return len(checked_input(self._input(batch)))

    def _input(self, batch: Any) -> Any:
        if self.input is not None:
            return _pick(batch, self.input, "input")
        if isinstance(batch, Tensor):
            return batch
        if isinstance(batch, (tuple, list)) and batch:
            return batch[0]
        raise ConfigurationError(
            f"The batch is {describe(batch)}, and which part is the input is not guessed: "
            f"{_suggestion(batch)}."
        )

    def _label(self, batch: Any, count: int) -> Tensor | None:
        if self.label is None:
            if not isinstance(batch, (tuple, list)) or len(batch) < 2:
                return None
            return _as_label(batch[1], count)
        value = _pick(batch, self.label, "label")
        if value is None:
            return None
        label = value if isinstance(value, Tensor) else _as_label(value, count)
        if label is None or label.ndim == 0 or len(label) != count:
            raise ConfigurationError(
                f"label={_shown(self.label)} is {describe(value)}, but there are {count} inputs "
                "in the batch. Name a tensor with one label per input."
            )
        return label


def checked_input(value: Any) -> Tensor:
    """Return `value` if it is a floating or uint8 (N, C, *spatial) tensor; else say what it is."""
    if isinstance(value, Tensor) and value.ndim >= 3 and len(value):
        if value.is_floating_point() or value.dtype == torch.uint8:
            return value
        problem = "Saliency needs floating values (or uint8 that the model's batch hooks convert)"
    elif isinstance(value, Tensor):
        problem = "Saliency needs at least one input of at least (N, C, length)"
    else:
        problem = f"Saliency needs one tensor; {_suggestion(value)}"
    raise ConfigurationError(
        f"The input is {describe(value)}. {problem}. "
        "Say where the input is: an index, a key such as '0.image', or a callable."
    )


def as_mask(value: Any, inputs: Tensor) -> Tensor:
    """Return `value` (N, *spatial) or (N, 1, *spatial) as bool (N, *spatial): what is not zero."""
    wanted = (len(inputs), *inputs.shape[2:])
    if isinstance(value, Tensor):
        flat = value.squeeze(1) if value.ndim == inputs.ndim else value
        if flat.shape == wanted:
            return own_copy(flat != 0)
    raise ConfigurationError(
        f"The mask is {describe(value)}, but inputs of shape {tuple(inputs.shape)} need "
        f"one of shape {wanted}."
    )


def as_targets(labels: Tensor, *, strict: bool) -> Tensor | None:
    """Return labels as (N,): int64 class indices, or floating regression targets.

    (N, 1) is squeezed; (N, K) is the index of the one where every row is one-hot (as any dtype);
    integers and bool are class indices; floating (N,) stays as it is. Anything else (soft or
    several labels an example, a segmentation map) is None, or an error when `strict`.
    """
    flat = labels.squeeze(1) if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if flat.ndim == 2 and _one_hot(flat):
        return flat.argmax(dim=1)
    if flat.ndim == 1 and not flat.is_complex():
        return flat if flat.is_floating_point() else flat.long()
    if not strict:
        return None
    remedy = (
        "Its rows are not one-hot; say which class is watched, as by "
        "label=lambda batch: batch[1].argmax(dim=1)"
        if flat.ndim == 2
        else "Name one label per input; a map of labels can be the mask"
    )
    raise ConfigurationError(f"The label is {describe(labels)}. {remedy}.")


def own_copy(tensor: Tensor) -> Tensor:
    """Copy to a plain, contiguous CPU tensor that autograd may use, also from inference mode."""
    with torch.inference_mode(False), torch.no_grad():
        plain = tensor.detach().as_subclass(Tensor)
        return plain.to("cpu", copy=True, memory_format=torch.contiguous_format)


def describe(value: Any) -> str:
    """Say in a few words what `value` is, for errors: `a float32 tensor of shape (4, 10)`."""
    if isinstance(value, Tensor):
        said = f"{_dtype(value)} tensor of shape {tuple(value.shape)}"
    elif parts := _parts(value):
        said = f"{type(value).__name__} with {', '.join(map(repr, parts))}"
    elif isinstance(value, (tuple, list)):
        said = f"{type(value).__name__} of {len(value)}"
    else:
        said = type(value).__name__
    return f"{'an' if said[0] in 'aeioAEIO' else 'a'} {said}"


def _pick(batch: Any, key: int | str | Callable[[Any], Any], what: str) -> Any:
    if callable(key):
        return key(batch)
    if isinstance(batch, Mapping) and key in batch:
        return batch[key]
    value = batch
    for part in key.split(".") if isinstance(key, str) else (key,):
        value = _step(value, part, what, key)
    return value


def _step(value: Any, part: int | str, what: str, key: Key) -> Any:
    parts = _parts(value)
    if isinstance(part, str) and part in parts:
        return parts[part]
    if isinstance(value, (tuple, list)) and str(part).lstrip("-").isdigit():
        if -len(value) <= int(part) < len(value):
            return value[int(part)]
        raise ConfigurationError(f"{what}={key!r}: there is no index {part} in {describe(value)}.")
    if parts:
        raise ConfigurationError(f"{what}={key!r} is not in the batch. {did_you_mean(part, parts)}")
    raise ConfigurationError(f"{what}={key!r}: there is no {part!r} in {describe(value)}.")


def _parts(value: Any) -> dict[str, Any]:
    """Return the parts of `value` that have a name: keys of a mapping, public attributes."""
    if isinstance(value, Mapping):
        return {str(key): part for key, part in value.items()}
    if dataclasses.is_dataclass(value):
        names = [field.name for field in dataclasses.fields(value)]
    elif isinstance(value, (tuple, list)):
        names = list(getattr(value, "_fields", ()))
    elif isinstance(value, Tensor) or callable(value):
        names = []
    else:
        names = [name for name in getattr(value, "__dict__", {}) if not name.startswith("_")]
    return {name: getattr(value, name) for name in names}


def _suggestion(value: Any) -> str:
    """Word the remedy with a part of `value` that could be the input."""
    parts = _parts(value)
    if not parts:
        return "give an index, a key or a callable as the input"
    tensors = (n for n, part in parts.items() if isinstance(part, Tensor) and part.ndim >= 3)
    return f"give input={next(tensors, next(iter(parts)))!r}, or another of these"


def _as_label(value: Any, count: int) -> Tensor | None:
    """Return one number or one row of numbers per input as a tensor, anything else as None."""
    if isinstance(value, Sequence) and all(isinstance(one, (int, float)) for one in value):
        value = torch.tensor(value, device="cpu")
    if not isinstance(value, Tensor) or value.ndim not in (1, 2) or len(value) != count:
        return None
    return value


def _one_hot(rows: Tensor) -> bool:
    ones = rows == 1
    return bool((ones.sum(dim=1) == 1).all() and (ones | (rows == 0)).all())


def _shown(key: Key) -> str:
    return getattr(key, "__name__", "a callable") if callable(key) else repr(key)


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
