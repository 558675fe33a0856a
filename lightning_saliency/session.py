"""What stays fixed while a fit is watched: the probes, their classes, the methods, the gallery."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lightning_saliency import trainers
from lightning_saliency.attribution import AnyMethod, Subject
from lightning_saliency.attribution.binding import Layers
from lightning_saliency.attribution.looking import Lockstep
from lightning_saliency.attribution.passes import CHUNK
from lightning_saliency.attribution.predicting import predicted
from lightning_saliency.errors import ConfigurationError, in_words
from lightning_saliency.gallery import Gallery
from lightning_saliency.measures import Measure, Stimulus
from lightning_saliency.memory import Memory
from lightning_saliency.observation import out_of_memory
from lightning_saliency.probes import (
    Probes,
)
from lightning_saliency.settings import Settings, words
from lightning_saliency.targets import Output, Target, check_classes


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


def first_outputs(subject: Subject, inputs: Tensor, chunk: int | None) -> Tensor:
    """The scores of the first probe: the proof that the model can be called as configured."""
    try:
        with torch.no_grad():
            outputs = subject.scores(inputs[:1])
            if outputs.numel() == 1 and chunk != 1:
                subject.scores(inputs[:2])  # one score for all probes shows with two of them
            return outputs
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


def _are_classes(labels: Tensor, outputs: Tensor) -> bool:
    """Whether labels are class indices: whole numbers; 0.0 and 1.0 only of a binary net."""
    if not labels.is_floating_point():
        return True
    binary = outputs.shape[1:].numel() == 1
    return binary and bool(((labels == 0) | (labels == 1)).all())


def explained_classes(
    settings: Settings,
    probes: Probes,
    subject: Subject,
    inputs: Tensor,
    outputs: Tensor,
    lockstep: Lockstep = nullcontext,
) -> Tensor:
    """The class that is explained for each probe: `(N,)` on the device of the inputs.

    Args:
        settings: whose `target_class` says which.
        probes: with their targets.
        subject: the model and how it is called.
        inputs: of the probes, on the model's device.
        outputs: of one or more of them.
        lockstep: made around each pass, where ranks must take all of them together.

    Raises:
        ConfigurationError: targets that are no classes of this model.
    """
    wanted, count = settings.target_class, len(probes)
    if isinstance(settings.target, Output):
        return torch.zeros(count, dtype=torch.long, device=inputs.device)
    if wanted == "prediction":
        return predicted(subject, inputs, settings.chunk or CHUNK, lockstep)
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
