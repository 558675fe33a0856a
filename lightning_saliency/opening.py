"""The settings meet a model and its data: a session is opened, or why it can't be is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from torch import Tensor

from lightning_saliency import trainers
from lightning_saliency.attribution import AnyMethod, Subject
from lightning_saliency.attribution.binding import NOWHERE, Layers, layers_found
from lightning_saliency.attribution.passes import CHUNK
from lightning_saliency.choosing import Passing, probes_of, training_examples
from lightning_saliency.errors import ConfigurationError
from lightning_saliency.gallery import Gallery
from lightning_saliency.history import left_by
from lightning_saliency.memory import Memory
from lightning_saliency.observation import observing
from lightning_saliency.probes import (
    Fingerprint,
    Probes,
)
from lightning_saliency.session import Session, explained_classes, first_outputs
from lightning_saliency.settings import Settings
from lightning_saliency.targets import Target, check_classes


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
            return probes_of(settings, trainer, pl_module, stage, passing)

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
        outputs = first_outputs(subject, inputs, settings.chunk)
        classes = explained_classes(settings, probes, subject, inputs, outputs, ranks.lockstep)
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
    other = ranks.made_by_first(partial(_beside, settings, probes))
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
        drawing = partial(training_examples, settings, trainer, pl_module, ranks)
        return ranks.bound(replace(subject, examples=drawing), inputs, settings.methods, layers)


def _beside(settings: Settings, probes: Probes) -> dict[str, Tensor] | None:
    """What audits need, checked: the last maps of the run that the user names beside this one."""
    if settings.audits is None:
        return None
    settings.audits.faithfulness.check(probes.inputs.shape[1])
    path = settings.audits.other
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


def _check_unchanged(probes: Probes, then: Fingerprint) -> None:
    difference = probes.difference(then)
    if difference:
        raise ConfigurationError(
            f"probes: they are not those of the checkpoint, so drift would compare different "
            f"images. {difference} Bring the same data back, or start a new fit without ckpt_path."
        )
