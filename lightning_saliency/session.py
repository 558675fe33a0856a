"""What stays fixed while a fit is watched: the probes, their classes, the methods, the gallery."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lightning_saliency import trainers
from lightning_saliency.attribution import AnyMethod, Subject
from lightning_saliency.attribution.binding import NOWHERE, Layers, layers_found
from lightning_saliency.attribution.passes import CHUNK
from lightning_saliency.errors import ConfigurationError, in_words
from lightning_saliency.gallery import Gallery
from lightning_saliency.history import left_by
from lightning_saliency.measures import Measure, Stimulus
from lightning_saliency.memory import Memory
from lightning_saliency.observation import observing, out_of_memory
from lightning_saliency.probes import (
    Fields,
    Fingerprint,
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
from lightning_saliency.settings import Settings, Wanted, words
from lightning_saliency.targets import Output, Target, check_classes, predictions

MOST_OF_A_LOADER = 1024
"""Probes taken from a loader of the user's at most: it may be endless."""


@dataclass(frozen=True)
class Session:
    """The settings, met with a model and its data.

    Attributes:
        probes: what is watched, on the CPU, as the model's validation step would get it.
        classes: `(N,)` int64 on the model's device: the class that is explained.
        subject: the model and how it is called.
        methods: with their layers found.
        measures: what is measured beside directional drift.
        gallery: how the probes look.
        chunk: probes per pass, if nobody says otherwise.
        scores: how many the model gives to each probe.
        layers: those of the methods that were found, since the user named none.
        bound_at: the methods, with other layers instead of those that would be found.
        other: method → the signed maps of the same probes at the end of a run with another seed.
    """

    probes: Probes
    classes: Tensor
    subject: Subject
    methods: Mapping[str, AnyMethod]
    measures: Mapping[str, Measure]
    gallery: Gallery
    chunk: int
    scores: int
    layers: Layers
    bound_at: Callable[[Layers], Mapping[str, AnyMethod]]
    other: Mapping[str, Tensor] | None = None

    def inputs(self, pl_module: trainers.Module, share: Sequence[int]) -> Tensor:
        """A share of the probes on the model's device, in the memory format of its weights."""
        inputs = self.probes.inputs[list(share)].to(pl_module.device)
        weights = (one for one in pl_module.parameters() if one.ndim == inputs.ndim == 4)
        # Where convolutions run channels last, the input's own format would be converted in each.
        last = any(
            one.is_contiguous(memory_format=torch.channels_last) and not one.is_contiguous()
            for one in weights
        )
        return inputs.contiguous(memory_format=torch.channels_last) if last else inputs

    @property
    def number(self) -> int:
        """Of the classes that may be explained; 0 where a target means something else by them."""
        known = isinstance(self.subject.target, Target)
        if not known or isinstance(self.subject.target, Output):
            return 0
        return max(self.scores, 2)

    def masks(self, pl_module: trainers.Module) -> Tensor | None:
        """The masks on the model's device."""
        masks = self.probes.masks
        return None if masks is None else masks.to(pl_module.device)

    def images(self, pl_module: trainers.Module) -> Tensor | None:
        """The probes as a person knows them, on the model's device, where a measure reads them."""
        if not any(isinstance(one, Stimulus) for one in self.measures.values()):
            return None
        images = self.probes.inputs.to(pl_module.device).float()
        if self.probes.mean is None or self.probes.std is None:
            return images
        shape = (1, -1, *[1] * (images.ndim - 2))
        mean, std = (
            images.new_tensor(one).view(shape) for one in (self.probes.mean, self.probes.std)
        )
        return images * std + mean

    def going_on(self, memory: Memory) -> Session:
        """The session with the classes that earlier observations explained, at their layers."""
        layers = {name: memory.layers.get(name, found) for name, found in self.layers.items()}
        methods = self.methods if layers == self.layers else self.bound_at(layers)
        return replace(self, classes=memory.classes, layers=layers, methods=methods)

    def of(self, probes: Probes, methods: Mapping[str, AnyMethod], classes: Tensor) -> Session:
        """The session that looks at other examples in the same way, with bound methods."""
        return replace(self, probes=probes, methods=methods, classes=classes)

    def impossible(self, error: Exception) -> ConfigurationError:
        """The error that ends a run whose first observation failed with `error`."""
        return ConfigurationError(
            f"The first observation failed with {in_words(error)}\nIt looked at probes "
            f"{tuple(self.probes.inputs.shape)}, {self.probes.inputs.dtype}, with the methods "
            f"{list(self.methods)} and measures {list(self.measures)}. Check methods=…, "
            "measures=…, input=… and forward=…."
        )

    def about(self, settings: Settings) -> str:
        """The text of the log that says what is seen, in Markdown."""
        rows = {
            "probes": f"{len(self.probes)}, `{self.probes.hash[:16]}`",
            "input": f"{tuple(self.probes.inputs.shape[1:])}, {self.probes.inputs.dtype}",
            "target": f"{words(settings.target)} of the class by {settings.target_class!r}",
            **{f"method `{name}`": f"`{words(one)}`" for name, one in self.methods.items()},
        }
        lines = [f"| {name} | {value} |" for name, value in rows.items()]
        return "\n".join(["| what | value |", "|---|---|", *lines])


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


def open_session(
    settings: Settings,
    trainer: trainers.Trainer,
    pl_module: trainers.Module,
    *,
    stage: str,
    passing: Passing,
    restored: Memory | None = None,
) -> Session:
    """Read the probes, find the layers, fix the classes; nothing of the run is changed by it.

    Args:
        settings: what the user asked for.
        trainer: of the run that is about to start or goes on.
        pl_module: what is watched.
        stage: ``test``, or anything else for the validation's data.
        passing: what was read of the batches of data that can only be iterated.
        restored: of a checkpoint, whose probes these must be, and whose classes are explained.

    Raises:
        ConfigurationError: anything that would end the first observation; with the argument.
    """
    ranks = trainers.ranks_of(trainer)

    def read() -> Probes:
        with observing(trainers.watched(trainer)), trainers.as_validation(trainer):
            return _probes(settings, trainer, pl_module, stage, passing)

    # By one rank for all: a data set may be there alone, or give each what it draws.
    probes = ranks.made_by_first(read)
    with ranks.observing(trainers.watched(trainer)), trainers.as_validation(trainer):
        if settings.needs_masks and probes.masks is None:
            raise ConfigurationError(
                "measures of grounding need masks, and the probes have none. Say where they are in "
                "a batch with mask=… (an index, a key or a callable), or leave the measures out."
            )
        if settings.mean is not None:
            probes = replace(probes, mean=settings.mean, std=settings.std)
        if restored is not None:
            _check_unchanged(probes, restored.probes)
        subject = trainers.subject_of(
            trainer, pl_module, settings.target, settings.output, settings.forward
        )
        with ranks.agreeing():
            inputs = probes.inputs.to(pl_module.device)
        outputs = first_outputs(subject, inputs)
        classes = explained_classes(settings, probes, subject, inputs, outputs)
        if restored is not None and isinstance(settings.target, Target):
            check_classes(outputs, restored.classes.to(inputs.device), "classes of the checkpoint")
    classes = ranks.of_first({"classes": classes})["classes"]
    bound_at = partial(_bound_at, settings, trainer, pl_module, subject, probes)
    methods = bound_at(NOWHERE)
    gallery = Gallery.of(
        probes.inputs, probes.targets, probes.classes, probes.mean, probes.std, methods
    )
    # A pass keeps what a training step keeps, so it takes no more examples than the validation.
    chunk = settings.chunk or min(CHUNK, trainers.batch_size(trainer, stage) or CHUNK)
    scores = outputs[0].numel()
    other = ranks.made_by_first(partial(_other_seed, settings, probes))
    return Session(
        probes,
        classes,
        subject,
        methods,
        settings.measures,
        gallery,
        chunk,
        scores,
        layers_found(settings.methods, methods),
        bound_at,
        other,
    )


def _bound_at(
    settings: Settings,
    trainer: trainers.Trainer,
    pl_module: trainers.Module,
    subject: Subject,
    probes: Probes,
    layers: Layers,
) -> dict[str, AnyMethod]:
    """The methods as rank 0 finds them, and with the layers that are known of earlier ones."""
    ranks = trainers.ranks_of(trainer)
    with ranks.observing(trainers.watched(trainer)), trainers.as_validation(trainer):
        ranks.share_statistics(pl_module)
        with ranks.agreeing():
            inputs = probes.inputs.to(pl_module.device)
        drawing = partial(_examples, settings, trainer, pl_module, ranks)
        return ranks.bound(replace(subject, examples=drawing), inputs, settings.methods, layers)


def _other_seed(settings: Settings, probes: Probes) -> dict[str, Tensor] | None:
    """The last maps of the run that the user names beside this one."""
    path = None if settings.audits is None else settings.audits.other
    if path is None:
        return None
    memory = left_by(path, settings.name)
    difference = probes.difference(memory.probes)
    if difference:
        raise ConfigurationError(
            f"Audits(other={path!r}): its probes are not those of this run, so their maps can't be "
            f"compared. {difference} Give both monitors the same probes."
        )
    series = memory.snapshots["previous"].series
    return {name: one.signed for name, one in series.items()}


def first_outputs(subject: Subject, inputs: Tensor) -> Tensor:
    """The scores of the first probe: the proof that the model can be called as configured."""
    try:
        with torch.no_grad():
            return subject.scores(inputs[:1])
    except ConfigurationError:
        raise
    except Exception as error:
        if out_of_memory(error):
            raise
        raise ConfigurationError(
            f"{type(subject.module).__name__} can't be called with one probe of the shape "
            f"{tuple(inputs[:1].shape)}, {inputs.dtype}: {type(error).__name__}: {error}. Say what "
            "the model takes with input=… (where it is in a batch) or forward=… (what to call)."
        ) from error


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


def _probes(
    settings: Settings,
    trainer: trainers.Trainer,
    pl_module: trainers.Module,
    stage: str,
    passing: Passing,
) -> Probes:
    transferring = _transferring(settings.fields, trainer, pl_module)
    with _speaking_of(settings.probes):
        return _read(settings, trainer, transferring, stage, passing)


def _examples(
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


def reason_to_keep_off(trainer: trainers.Trainer, settings: Settings) -> str | None:
    """Why nothing is observed in this run, if that is so."""
    untried = trainers.untried_strategy(trainer)
    if untried is not None:
        return f"it keeps off the strategy {untried}, under which it was not tried."
    if trainer.barebones:
        return "it keeps off a barebones Trainer, which logs nothing."
    without_validation = trainer.state.fn.value == "fit" and trainer.limit_val_batches == 0
    if without_validation and isinstance(settings.probes, (int, Sequence)):
        return (
            "limit_val_batches=0, so there is neither data to take probes from nor a validation "
            "to observe at. Give probes=Probes.from_tensors(…) to go on."
        )
    return None


def needs_passing_batches(settings: Settings, trainer: trainers.Trainer, stage: str) -> bool:
    """Whether the probes are the first examples that pass: the data can only be iterated."""
    if not isinstance(settings.probes, int):
        return False
    loaders = trainers.loaders_of(trainer, stage)
    return bool(loaders) and is_iterable(getattr(loaders[0], "dataset", None))


def _check_unchanged(probes: Probes, then: Fingerprint) -> None:
    difference = probes.difference(then)
    if difference:
        raise ConfigurationError(
            f"probes: they are not those of the checkpoint, so drift would compare different "
            f"images. {difference} Bring the same data back, or start a new fit without ckpt_path."
        )


def _are_classes(labels: Tensor, outputs: Tensor) -> bool:
    """Whether labels are class indices: whole numbers; 0.0 and 1.0 only of a binary net."""
    if not labels.is_floating_point():
        return True
    binary = outputs.shape[1:].numel() == 1
    return binary and bool(((labels == 0) | (labels == 1)).all())


def explained_classes(
    settings: Settings, probes: Probes, subject: Subject, inputs: Tensor, outputs: Tensor
) -> Tensor:
    """The class that is explained for each probe: `(N,)` on the device of the inputs.

    Args:
        settings: whose `target_class` says which.
        probes: with their targets.
        subject: the model and how it is called.
        inputs: of the probes, on the model's device.
        outputs: of one or more of them.

    Raises:
        ConfigurationError: targets that are no classes of this model.
    """
    wanted, count = settings.target_class, len(probes)
    if isinstance(settings.target, Output):
        return torch.zeros(count, dtype=torch.long, device=inputs.device)
    if wanted == "prediction":
        with torch.no_grad():
            chunks = torch.split(inputs, min(settings.chunk or CHUNK, count))
            parts = [predictions(subject.scores(chunk)) for chunk in chunks]
        return torch.cat(parts)
    if isinstance(wanted, int):
        classes = torch.full((count,), wanted, device=inputs.device)
    elif probes.targets is None:
        raise ConfigurationError(
            "target_class='label', but the batches have no label that could be found. Say where it "
            "is with label=… (an index, a key or a callable), or use target_class='prediction' or "
            "the number of a class."
        )
    elif not isinstance(settings.target, Target):
        return probes.targets.to(inputs.device)  # what they mean is known to the user's function
    elif not _are_classes(probes.targets, outputs):
        raise ConfigurationError(
            "target_class='label', but the labels are floating-point numbers, not classes. For a "
            "regression use target='output'; else say with label=… where the classes are."
        )
    else:
        classes = probes.targets.to(inputs.device).long()
    check_classes(outputs, classes, f"target_class={wanted!r}")
    return classes
