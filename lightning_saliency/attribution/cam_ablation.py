"""Ablation-CAM: what the score loses without a channel, at the cost of what lies above the layer.

Where a layer is a cut of the network, all that lies above it follows from its activation. Then one
row runs through what lies below, and at the cut the activations of all probes are put in, several
times over, each time with another channel at zero: all their scores come out of one pass. The cut
is the layer itself, or the last one before it (that of a block in the middle of which it lies).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lightning_saliency.attribution.cam_forward import ChannelMethod, OfChannels, Weighing
from lightning_saliency.attribution.fresh import seeing_through_zeros
from lightning_saliency.attribution.method import Evidence, Look, Reduction
from lightning_saliency.attribution.subject import Subject
from lightning_saliency.attribution.taps import (
    Tap,
    find_layer,
    first_of,
    readable_layers,
    with_first,
)
from lightning_saliency.attribution.tokens import Layout, layout_of
from lightning_saliency.observation import out_of_memory

_TRIES = 24
"""Layers that are tried for being a cut; beyond them the whole network runs."""


@dataclass(frozen=True)
class Fold:
    """How the channels of a layer are ablated.

    Attributes:
        rows: the dimension of the layer's output that holds the probes.
        channels: the one that holds the channels.
        cut: the layer whose activation is put in; empty where the whole network runs.
        copies: channels in one pass.
    """

    rows: int
    channels: int
    cut: str
    copies: int


@dataclass(frozen=True)
class AblationCAM(ChannelMethod):
    """ReLU(Σ_k w_k A_k), w_k = (s − s without channel k) / |s| (Ramaswamy & Desai 2020).

    Without means that A_k is 0, also in tokens that are no patch. As a share of the score, ≥ 0, at
    the layer's resolution (WACV 2020, 972). Divided by |s|: the paper's s would turn the map round
    where s < 0, as log-odds are while a model learns. Where s is 0 the drop stands as it is.

    Passes: 1 forward per 32 channels of a resnet18's last block (as many as make no activation
    larger than the model's largest), of one probe below the layer and of all above it; 1 forward
    per channel where no layer at or before it is a cut of the network. No backward.
    Good for: what each channel is worth where gradients vanish, saturate or are not there.
    Misleads: channels that stand in for each other lose nothing one by one; 0 is no neutral value
    of a layer without a ReLU.

    Args:
        layer: dotted name of the layer, or a list of names whose maps are fused; when not given,
            the last layer with a map that the score depends on.
        channels: at most so many channels, ≥ 1: of each probe those with the largest Σ |A|. The
            others have weight 0, and ``channels_share`` says what part of Σ |A| is left, 0…1. All
            channels when not given.
    """

    # No field: one that is not for `__init__` makes the parser of YAML lose the others' types.
    folds: ClassVar[tuple[Fold, ...]] = ()

    def bind(self, subject: Subject, inputs: Tensor) -> AblationCAM:
        """The method with its layers, and with how their channels are ablated."""
        if self.folds:
            return self
        bound = copy.copy(super().bind(subject, inputs))
        known = bound.layouts or {}
        folds = tuple(
            fold_of(subject, inputs[:1], layer, known.get(layer)) for layer in bound.layers
        )
        object.__setattr__(bound, "folds", folds)
        return bound

    def looks(self) -> tuple[Look, ...]:
        """The activations of the layers and of the cuts at the clean input."""
        cuts = dict.fromkeys(fold.cut for fold in self.folds if fold.cut not in ("", *self.layers))
        return (Look(activations=(*self.layers, *cuts)),)

    def reduction(self) -> Reduction:
        """The drops of the score."""
        return _Ablating(self)


class Ablated(OfChannels):
    """The model with a channel of a layer at zero, another one in each copy of the probes."""

    def __init__(
        self, layer: str, fold: Fold, channels: Tensor, activation: Tensor | None = None
    ) -> None:
        """Of `channels` `(n, copies)`, −1 for none; `activation` is that of n probes at the cut."""
        super().__init__(layer, channels.shape[1])
        self._fold, self._channels, self._activation = fold, channels, activation

    @contextmanager
    def around(self, module: nn.Module) -> Iterator[None]:
        with ExitStack() as hooks:
            if self._activation is not None:
                cut = find_layer(module, self._fold.cut)
                hooks.callback(cut.register_forward_hook(self._put_in).remove)
            layer = find_layer(module, self.layer)
            hooks.callback(layer.register_forward_hook(self._ablate).remove)
            yield

    def entering(self, inputs: Tensor) -> Tensor:
        if self._activation is not None:
            return inputs[:1]
        return torch.cat([inputs] * self.copies)

    def rows(self, entered: int) -> int:
        """All copies of the probes."""
        return self._channels.numel()

    def _put_in(self, module: nn.Module, args: Any, output: Any) -> Any:
        computed = first_of(output)
        assert computed is not None
        assert self._activation is not None
        stored = self._activation.to(computed.dtype)
        return with_first(output, torch.cat([stored] * self.copies))

    def _ablate(self, module: nn.Module, args: Any, output: Any) -> Any:
        activation = first_of(output)
        assert activation is not None
        shape = [1] * activation.ndim
        shape[self._fold.rows] = self._channels.numel()
        shape[self._fold.channels] = activation.shape[self._fold.channels]
        every = torch.arange(shape[self._fold.channels], device=activation.device)
        gone = every == self._channels.T.reshape(-1, 1)
        return with_first(output, activation.masked_fill(gone.view(shape), 0))


class _Ablating(Weighing):
    def __init__(self, method: AblationCAM) -> None:
        super().__init__(method)
        self._folds = dict(zip(method.layers, method.folds, strict=True))

    def _take(self, clean: Evidence) -> None:
        cuts = [fold.cut for fold in self._folds.values() if fold.cut]
        self._score, self._cuts = clean.score, {cut: clean.activations[cut] for cut in cuts}

    def _passes(self, layer: str) -> Iterator[Ablated]:
        fold = self._folds[layer]
        activation = self._cuts[fold.cut] if fold.cut else None
        for channels in torch.split(self._kept[layer].channels, fold.copies, 1):
            yield Ablated(layer, fold, channels, activation)

    def _weigh(self, scores: Tensor) -> Tensor:
        score = self._score[:, None]
        return (score - scores) / score.abs().where(score != 0, 1)


def fold_of(subject: Subject, inputs: Tensor, layer: str, layout: Layout | None = None) -> Fold:
    """How the channels of `layer` are ablated, seen by one probe `(1, C, *spatial)`."""
    with seeing_through_zeros(subject.module):
        return _fold_of(subject, torch.cat([inputs, inputs.flip(-1) / 2]), layer, layout)


def _fold_of(subject: Subject, pair: Tensor, layer: str, layout: Layout | None) -> Fold:
    # Two inputs in the range of the first, if 0 is.
    scores, activation = _read(subject, pair, layer)
    layout = layout or layout_of(tuple(activation.shape), pair, layer)
    rows, channels = layout.rows, layout.channels
    whole = Fold(rows, channels, "", 1)
    sizes = _sizes(subject, pair)
    target = find_layer(subject.module, layer)
    here = next(name for name, one in subject.module.named_modules() if one is target)
    ended = list(sizes)
    for place in islice(reversed(range(ended.index(here) + 1)), _TRIES):
        copies = max(sizes.values()) // max(sizes[name] for name in ended[place:])
        fold = Fold(rows, channels, ended[place], min(copies, activation.shape[channels]))
        if _is_cut(subject, pair, scores, layer, fold):
            return fold
    return whole


def _sizes(subject: Subject, inputs: Tensor) -> dict[str, int]:
    """Numbers in the output of each layer, in the order in which the layers end."""
    sizes: dict[str, int] = {}

    def note(name: str, module: nn.Module, args: Any, output: Any) -> None:  # noqa: ARG001
        activation = first_of(output)
        if activation is not None:
            sizes[name] = max(activation.numel(), sizes.pop(name, 1))

    with ExitStack() as hooks, torch.no_grad():
        for name, layer in readable_layers(subject.module):
            hooks.callback(layer.register_forward_hook(partial(note, name)).remove)
        subject.scores(inputs)
    return sizes


def _is_cut(subject: Subject, pair: Tensor, scores: Tensor, layer: str, fold: Fold) -> bool:
    """Whether a pass of the first of two inputs, with the activation of both put in, scores both.

    Nothing is ablated in it. What went past the layer would be the first input's.
    """
    try:
        _, activation = _read(subject, pair, fold.cut)
        if len(activation) != len(pair):
            return False
        none = torch.full((len(pair), 2), -1, device=pair.device)
        rule = Ablated(layer, fold, none, activation)
        with torch.no_grad(), rule.around(subject.module):
            found = subject.scores(rule.entering(pair), rule.rows(1))
        far = (found - torch.cat([scores, scores])).abs().max()
    except Exception as error:  # whatever a model makes of other rows than went in
        if out_of_memory(error):
            raise
        return False
    unlike = (scores[0] - scores[1]).abs().max()
    return bool((unlike > 0) & (far <= torch.finfo(scores.dtype).eps ** 0.5 * unlike))


def _read(subject: Subject, inputs: Tensor, layer: str) -> tuple[Tensor, Tensor]:
    with torch.no_grad(), Tap(subject.module, read=[layer]) as tap:
        scores = subject.scores(inputs)
    return scores, tap.taken()[layer]
