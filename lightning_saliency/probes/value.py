"""Probes: the fixed examples that are watched while a model trains."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_saliency.errors import ConfigurationError
from lightning_saliency.probes.checks import check_examples, check_normalisation
from lightning_saliency.probes.fields import Fields, as_mask, as_targets, checked_input, own_copy
from lightning_saliency.probes.fingerprint import Fingerprint
from lightning_saliency.probes.folder import read_folder
from lightning_saliency.probes.labels import class_names
from lightning_saliency.probes.normalisation import Normalisation, normalisation_of
from lightning_saliency.probes.read import checked_positions, read_batches, read_dataset


@dataclass(frozen=True, eq=False, repr=False)
class Probes:
    """N fixed examples, on the CPU, with their names and a hash.

    Args:
        inputs: (N, C, *spatial), floating and finite, or uint8 where the model's own batch hooks
            make it floating. Kept as given: nobody else may write to it (`from_tensors` copies).
        targets: (N,) int64 class indices or floating regression targets; None without labels.
        names: one per probe, such as `val[17]` or a file name.
        masks: (N, *spatial) bool, true on the object.
        classes: the class names by index.
        mean: per channel (or one for all), with `std` such that `x * std + mean` is in 0..1.
        std: per channel (or one for all), above 0.

    Raises:
        ConfigurationError: where one of these does not hold; a probe is named when it is to blame.
    """

    inputs: Tensor
    targets: Tensor | None
    names: tuple[str, ...]
    masks: Tensor | None = None
    classes: tuple[str, ...] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        for name in ("inputs", "targets", "masks"):
            tensor = getattr(self, name)
            if isinstance(tensor, Tensor):
                object.__setattr__(self, name, _settled(tensor))
        check_examples(self.inputs, self.targets, self.masks, self.names)
        check_normalisation(self.mean, self.std, self.inputs.shape[1])

    def __len__(self) -> int:
        return len(self.inputs)

    def __repr__(self) -> str:
        kind = f"{tuple(self.inputs.shape[1:])} {str(self.inputs.dtype).removeprefix('torch.')}"
        return f"Probes({len(self)} of {kind}, hash {self.hash[:8]})"

    @cached_property
    def fingerprint(self) -> Fingerprint:
        """The hashes and targets, without the inputs: what a checkpoint keeps."""
        return Fingerprint.of(self.inputs, self.targets, self.names)

    @property
    def hash(self) -> str:
        """SHA-256 (64 hex digits) over dtype, shape and bytes of the inputs and of the targets."""
        return self.fingerprint.hash

    def difference(self, old: Probes | Fingerprint) -> str:
        """Say what changed since `old` (count, shape, which inputs or targets); "" if nothing."""
        return self.fingerprint.difference(old.fingerprint if isinstance(old, Probes) else old)

    def select(self, indices: Iterable[int]) -> Probes:
        """Return the probes at `indices` (0..N−1, each once), in this order."""
        known = checked_positions(indices, len(self), "these probes")
        return dataclasses.replace(
            self,
            inputs=self.inputs[known],
            targets=None if self.targets is None else self.targets[known],
            names=tuple(self.names[index] for index in known),
            masks=None if self.masks is None else self.masks[known],
        )

    def to_state(self) -> dict[str, Any]:
        """Return all as tensors and builtins, which `torch.load(weights_only=True)` accepts."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {**values, "hash": self.hash}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Probes:
        """Build the probes again from `to_state()`.

        Raises:
            ConfigurationError: the inputs or targets are not those whose hash was stored.
        """
        known: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in state.items()
        }
        stored = known.pop("hash")
        probes = cls(**known)
        if probes.hash != stored:
            raise ConfigurationError(
                f"The stored probes are damaged: their hash is {probes.hash[:8]}, "
                f"not {stored[:8]}. Use another checkpoint, or choose the probes anew."
            )
        return probes

    @classmethod
    def from_tensors(
        cls,
        inputs: Tensor,
        targets: Tensor | Sequence[int] | Sequence[float] | None = None,
        *,
        masks: Tensor | None = None,
        names: Sequence[str] | None = None,
        classes: Sequence[str] | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> Probes:
        """Copy tensors from any device: inputs (N, C, *spatial), targets (N,), (N, 1) or one-hot.

        Masks may be (N, *spatial) or (N, 1, *spatial) of any dtype: true where not zero.
        """
        own = own_copy(checked_input(inputs))
        labels = None if targets is None else own_copy(torch.as_tensor(targets))
        return cls(
            inputs=own,
            targets=None if labels is None else as_targets(labels, strict=True),
            names=tuple(names) if names is not None else _numbered("probe", range(len(own))),
            masks=None if masks is None else as_mask(masks, own),
            classes=None if classes is None else tuple(classes),
            mean=None if mean is None else tuple(map(float, mean)),
            std=None if std is None else tuple(map(float, std)),
        )

    @classmethod
    def from_folder(
        cls,
        root: str,
        transform: Callable[..., Any] | None = None,
        most: int | None = None,
        *,
        seed: int = 0,
    ) -> Probes:
        """Read the images of a folder.

        Images in the folder itself have no targets. In sub-folders, one per class, the target is
        the index of the sub-folder by name (also an empty one counts), and the classes take
        turns. A sub-folder `masks` with a file of the same name and place for every image gives
        the masks (true where not black).

        Args:
            root: the folder.
            transform: takes a PIL image in RGB; a PIL image that it returns becomes floating 0..1,
                and so does the image without a transform. One of torchvision.transforms.v2 moves
                the mask along; after any other, image and mask must be of one size.
            most: take only so many.
            seed: of a transform that draws random numbers.
        """
        found = read_folder(root, transform, most, seed)
        mean, std = _normalisation(transform, found.inputs)
        return cls(
            inputs=found.inputs,
            targets=found.targets,
            names=found.names,
            masks=found.masks,
            classes=found.classes,
            mean=mean,
            std=std,
        )

    @classmethod
    def from_dataset(
        cls,
        dataset: Any,
        indices: Iterable[int],
        *,
        fields: Fields | None = None,
        loader: DataLoader[Any] | None = None,
        seed: int = 0,
        name: str = "val",
    ) -> Probes:
        """Read `indices` of a map-style dataset as batches of `loader` would be, and nothing more.

        Args:
            dataset: with `__len__` and `__getitem__`; classes, mean and std are looked for in it.
            indices: 0..len(dataset)−1, each once; the probes come in this order.
            fields: how a batch is read.
            loader: the user's own, whose collate function and worker settings are used.
            seed: of random transforms.
            name: probes are named `name[index]`.
        """
        known = list(indices)
        reading = read_dataset(dataset, known, fields=fields or Fields(), loader=loader, seed=seed)
        mean, std = _normalisation(dataset, reading.inputs)
        return cls(
            *reading[:2],
            names=_numbered(name, map(int, known)),
            masks=reading.masks,
            classes=class_names(dataset),
            mean=mean,
            std=std,
        )

    @classmethod
    def from_batches(
        cls,
        batches: Iterable[Any],
        most: int,
        fields: Fields | None = None,
        *,
        name: str = "val",
        classes: Sequence[str] | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> Probes:
        """Take the first `most` examples of `batches`; no batch more than needed is taken.

        For data that can only be iterated, and for a DataLoader of probes. Named `name[0]`, ….
        """
        reading = read_batches(batches, most, fields or Fields())
        return cls(
            *reading[:2],
            names=_numbered(name, range(len(reading.inputs))),
            masks=reading.masks,
            classes=None if classes is None else tuple(classes),
            mean=None if mean is None else tuple(map(float, mean)),
            std=None if std is None else tuple(map(float, std)),
        )


def _settled(tensor: Tensor) -> Tensor:
    plain = type(tensor) is Tensor and tensor.device.type == "cpu" and tensor.is_contiguous()
    return (
        tensor
        if plain and not (tensor.requires_grad or tensor.is_inference())
        else own_copy(tensor)
    )


def _numbered(name: str, indices: Iterable[int]) -> tuple[str, ...]:
    return tuple(f"{name}[{index}]" for index in indices)


def _normalisation(source: Any, inputs: Tensor) -> Normalisation | tuple[None, None]:
    """Return mean and std of the data's Normalize, where they fit the channels of `inputs`."""
    found = normalisation_of(source)
    return found if found and len(found[0]) in (1, inputs.shape[1]) else (None, None)
