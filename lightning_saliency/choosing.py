"""Which examples are watched: read from the run's data as a validation would get them."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lightning_saliency import trainers
from lightning_saliency.errors import ConfigurationError, in_words
from lightning_saliency.probes import (
    Fields,
    Probes,
    choose,
    class_names,
    is_iterable,
    normalisation_of,
)
from lightning_saliency.probes.fields import Reading
from lightning_saliency.probes.isolation import own_randomness
from lightning_saliency.probes.read import read_dataset
from lightning_saliency.ranks import Ranks
from lightning_saliency.settings import Settings, Wanted

MOST_OF_A_LOADER = 1024
"""Probes taken from a loader of the user's at most: it may be endless."""


class Passing:
    """The first examples that pass, of data that can only be iterated.

    Args:
        fields: where they are in a batch.
    """

    def __init__(self, fields: Fields) -> None:
        self._fields = fields
        self._readings: list[Reading] = []
        self._error: Exception | None = None

    def keep(self, batch: Any, wanted: int) -> None:
        """Read a batch, unless `wanted` examples are there or one could not be read."""
        if self._error is None and sum(len(one.inputs) for one in self._readings) < wanted:
            try:
                # A copy on the CPU, made now: the validation step may write to its batch.
                self._readings.append(self._fields.read(batch))
            except Exception as error:  # told when the session is opened
                self._error = error

    def taken(self) -> Sequence[Reading]:
        """What was read; the error where that failed."""
        if isinstance(self._error, ConfigurationError):
            raise self._error
        if self._error is not None:
            raise ConfigurationError(
                f"a batch could not be read: {in_words(self._error)}. Say where things are in it "
                "with input=…, label=… and mask=…."
            ) from self._error
        return self._readings


@dataclass(frozen=True)
class _Transferred(Fields):
    """Read a batch after it went the way of every validation batch: precision, hooks, device."""

    transfer: Callable[[Any], Any] = lambda batch: batch

    def read(self, batch: Any, rows: slice = slice(None)) -> Reading:
        return super().read(self.transfer(batch), rows)


@contextmanager
def _speaking_of(probes: Wanted) -> Iterator[None]:
    """Let an error say of which `probes` it speaks."""
    try:
        yield
    except ConfigurationError as error:
        listed = isinstance(probes, (int, list))
        shown = reprlib.repr(probes) if listed else type(probes).__name__
        raise ConfigurationError(f"probes={shown}: {error}") from error


def probes_of(
    settings: Settings,
    trainer: trainers.Trainer,
    pl_module: trainers.Module,
    stage: str,
    passing: Passing,
) -> Probes:
    """The probes that the user wants, whatever `probes` is."""
    transferring = _transferring(settings.fields, trainer, pl_module)
    with _speaking_of(settings.probes):
        return _read(settings, trainer, transferring, stage, passing)


def training_examples(
    settings: Settings,
    trainer: trainers.Trainer,
    pl_module: trainers.Module,
    ranks: Ranks,
    count: int,
) -> Tensor:
    """Inputs of the training data, as the validation step would get them; drawn by the seed."""
    owner = trainers.training_owner(trainer)

    def asked() -> Any:
        try:
            with own_randomness(settings.seed, owner):
                return trainers.training_loader(trainer)
        except Exception as error:
            raise ConfigurationError(
                f"The training data can't be asked for here: {in_words(error)}. {_GIVE_EXAMPLES}"
            ) from error

    with ranks.agreeing():  # on every rank: a hook of the user's may wait for the others
        loader = asked()

    def read() -> Tensor:
        dataset = getattr(loader, "dataset", loader)
        if dataset is None:
            raise ConfigurationError(f"This run has no training data. {_GIVE_EXAMPLES}")
        if is_iterable(dataset) or len(dataset) == 0:
            raise ConfigurationError(
                f"The training data, a {type(dataset).__name__}, has no examples that could be "
                f"drawn by their index. {_GIVE_EXAMPLES}"
            )
        own = torch.Generator("cpu").manual_seed(settings.seed)
        indices = torch.randperm(len(dataset), generator=own, device="cpu")[:count]
        fields = _transferring(replace(settings.fields, label=None, mask=None), trainer, pl_module)
        return read_dataset(
            dataset, indices.tolist(), fields=fields, loader=loader, seed=settings.seed
        ).inputs

    return ranks.made_by_first(read).to(pl_module.device)


_GIVE_EXAMPLES = "Give a tensor of examples instead."


def _transferring(
    fields: Fields, trainer: trainers.Trainer, pl_module: trainers.Module
) -> _Transferred:
    transfer = partial(trainers.transferred, trainer, pl_module)
    return _Transferred(fields.input, fields.label, fields.mask, transfer)


def _read(
    settings: Settings,
    trainer: trainers.Trainer,
    transferring: Fields,
    stage: str,
    passing: Passing,
) -> Probes:
    wanted, fields = settings.probes, settings.fields
    if isinstance(wanted, Probes):
        return replace(wanted, inputs=trainer.precision_plugin.convert_input(wanted.inputs))
    if not isinstance(wanted, (int, Sequence)):
        return _from_batches(wanted, MOST_OF_A_LOADER, transferring, wanted)
    loader = _first_loader(trainer, stage)
    dataset = getattr(loader, "dataset", None)
    if not is_iterable(dataset) and dataset is not None and len(dataset) == 0:
        raise ConfigurationError(
            f"The {_data(stage)} data, a {type(dataset).__name__} of length 0, is empty. {_INSTEAD}"
        )
    if not is_iterable(dataset):
        seed = settings.seed
        if isinstance(wanted, int):
            wanted = choose(dataset, wanted, seed=seed, fields=transferring, loader=loader)
        return Probes.from_dataset(dataset, wanted, fields=transferring, loader=loader, seed=seed)
    if isinstance(wanted, Sequence):
        raise ConfigurationError(
            f"These are indices, but the {_data(stage)} data, a {type(dataset).__name__}, can only "
            "be iterated. Give a number: the first examples that pass are kept."
        )
    kept = Fields(0, None if fields.label is None else 1, None if fields.mask is None else 2)
    return _from_batches(passing.taken(), wanted, kept, loader)


def _from_batches(batches: Iterable[Any], most: int, fields: Fields, loader: Any) -> Probes:
    dataset = getattr(loader, "dataset", None)
    mean, std = normalisation_of(dataset) or (None, None)
    names = class_names(dataset)
    return Probes.from_batches(batches, most, fields, classes=names, mean=mean, std=std)


_INSTEAD = "Give the Trainer a loader with examples, or give probes=Probes.from_tensors(…)."


def _data(stage: str) -> str:
    return "test" if stage == "test" else "validation"


def _first_loader(trainer: trainers.Trainer, stage: str) -> Any:
    loaders = trainers.loaders_of(trainer, stage)
    if loaders:
        return loaders[0]
    if stage != "test" and not trainers.validates(trainer.lightning_module):
        name = type(trainer.lightning_module).__name__
        raise ConfigurationError(
            f"{name} has no validation_step, so the Trainer passes over its validation data. Write "
            "one (it may be empty), or give probes=Probes.from_tensors(…)."
        )
    raise ConfigurationError(f"There is no {_data(stage)} data to take them from. {_INSTEAD}")


def needs_passing_batches(settings: Settings, trainer: trainers.Trainer, stage: str) -> bool:
    """Whether the probes are the first examples that pass: the data can only be iterated."""
    if not isinstance(settings.probes, int):
        return False
    loaders = trainers.loaders_of(trainer, stage)
    return bool(loaders) and is_iterable(getattr(loaders[0], "dataset", None))
