"""How the layers of a model lay out what they answer, seen in one pass of few rows.

A shape alone may be read in several ways: of (17, 17, 64) either side may be the probes, of
(2, 32, 16) either side the channels of a signal. So it is looked at where the number of rows is
chosen, and layers whose channels are where they are by definition tell of those that follow them.
"""

from __future__ import annotations

import math
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lightning_saliency.attribution.subject import Subject
from lightning_saliency.attribution.taps import find_layer, first_of, readable_layers
from lightning_saliency.attribution.tokens import Layout, as_map, follows, layout_of
from lightning_saliency.errors import ConfigurationError, is_agreed
from lightning_saliency.observation import out_of_memory

_FIRST = (
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d),
    *(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.GroupNorm, nn.InstanceNorm1d),
    *(nn.MaxPool1d, nn.AvgPool1d, nn.AdaptiveMaxPool1d, nn.AdaptiveAvgPool1d),
    *(nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveMaxPool2d, nn.AdaptiveAvgPool2d),
    *(nn.MaxPool3d, nn.AvgPool3d, nn.AdaptiveMaxPool3d, nn.AdaptiveAvgPool3d),
)
_LAST = (
    *(nn.Linear, nn.Embedding, nn.LayerNorm, nn.RNNBase, nn.MultiheadAttention),
    *(nn.TransformerEncoderLayer, nn.TransformerDecoderLayer),
)
"""Layers whose channels are the second dimension, and those whose channels are the last."""


@dataclass(frozen=True)
class Answer:
    """What a layer answered with.

    Attributes:
        calls: how often it ran.
        shape: `(n, D, *grid)` of the map that it is; None where it is none.
        layout: of the answer that is a map.
        problem: why it is none, in words.
        aside: whether it is a map of no use: tokens of one number each, which a pooling over them
            leaves, or queries, keys and values before they are divided among heads.
    """

    calls: int = 1
    shape: torch.Size | None = None
    layout: Layout | None = None
    problem: str = ""
    aside: bool = False

    @property
    def is_map(self) -> bool:
        """Whether it is one of features, with more than one place along each side."""
        return self.shape is not None and not self.aside and 1 not in self.shape[2:]


def layouts_of(subject: Subject, inputs: Tensor, layers: tuple[str, ...]) -> dict[str, Layout]:
    """The layouts of named layers that run once; a pass is made where shapes alone may mislead.

    Raises:
        ConfigurationError: an answer of one of them is no map.
    """
    named = {name: find_layer(subject.module, name) for name in layers}
    if inputs.ndim > 3 and not _may_hold_tokens(subject.module):
        return {name: Layout(0, 1) for name, layer in named.items() if isinstance(layer, _FIRST)}
    try:
        seen = answers(subject, inputs)
    except Exception as error:
        if out_of_memory(error) or is_agreed(error) or isinstance(error, ConfigurationError):
            raise
        return {}  # perhaps the model takes as many rows as there are probes, and no others
    names = {layer: name for name, layer in readable_layers(subject.module)}
    found = {name: seen.get(names[layer]) for name, layer in named.items()}
    once = {name: one for name, one in found.items() if one is not None and one.calls == 1}
    for one in once.values():
        if one.problem:
            raise ConfigurationError(one.problem)
    return {name: one.layout for name, one in once.items() if one.layout is not None}


def _may_hold_tokens(module: nn.Module) -> bool:
    """Whether it has a layer that normalises over the last dimension, or one of sequences."""
    marks = ("normalized_shape", "batch_first")
    return any(hasattr(part, mark) for part in module.modules() for mark in marks)


def answers(subject: Subject, inputs: Tensor) -> dict[str, Answer]:
    """What each layer answers with that can be read, in the order in which they end."""
    # Kept where functools.cached_property would keep it: methods that are bound together share it.
    known: dict[torch.Size, dict[str, Answer]] = vars(subject).setdefault("_answers", {})
    size = inputs.shape[1:]
    if size not in known:
        known[size] = _answers(subject, inputs[:1])
    return known[size]


def _answers(subject: Subject, inputs: Tensor) -> dict[str, Answer]:
    # Of one row, windows that were folded into the batch look like tokens; of as many rows as
    # tokens, the rows do.
    try:
        notes = _noted(subject, torch.cat([inputs] * 2))
    except Exception as error:
        if out_of_memory(error) or is_agreed(error):
            raise
        notes = _noted(subject, inputs)  # perhaps the model takes one row at a time
    if notes.of_as_many_tokens:
        notes = _noted(subject, torch.cat([inputs] * 3))
    return notes.answers()


def _noted(subject: Subject, inputs: Tensor) -> _Notes:
    notes = _Notes(inputs)
    with ExitStack() as hooks, torch.no_grad():
        for name, layer in readable_layers(subject.module):
            hooks.callback(layer.register_forward_hook(partial(notes.take, name)).remove)
        subject.scores(inputs)
    return notes


class _Notes:
    """What is seen in the pass."""

    def __init__(self, inputs: Tensor) -> None:
        self.inputs = inputs
        self.of_as_many_tokens = False
        self._calls: Counter[str] = Counter()
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._last: dict[str, bool | None] = {}
        self._linear: dict[str, list[str]] = {}  # parent → its linear layers so far
        self._projections: set[str] = set()
        self._said: dict[tuple[int, ...], bool] = {}  # shape → are channels last, the latest word
        self._lengths: set[int] = set()  # of the last sides of features whose channels are first

    def take(self, name: str, layer: nn.Module, args: Any, output: object) -> None:
        self._calls[name] += 1
        activation = first_of(output)
        if activation is None:
            return
        shape = tuple(activation.shape)
        said = _channels_last(layer)
        if said is not None:
            self._said[shape] = said
        self._shapes[name], self._last[name] = shape, self._said.get(shape)
        siblings = self._linear.setdefault(name.rpartition(".")[0], [])
        if isinstance(layer, nn.Linear):
            siblings.append(name)
        elif self._for_heads(shape):
            self._projections.update(siblings)
        self.of_as_many_tokens |= len(shape) == 3 and shape[0] == shape[1] == len(self.inputs) > 1
        if said is False:
            self._lengths.add(shape[-1])

    def answers(self) -> dict[str, Answer]:
        """Of each layer that answered with a tensor."""
        return {name: self._answer(name, shape) for name, shape in self._shapes.items()}

    def _answer(self, name: str, shape: tuple[int, ...]) -> Answer:
        calls = self._calls[name]
        try:
            if self._last[name] is not False and self._for_heads(shape):
                raise ConfigurationError(
                    f"layer={name!r} returns {shape} for inputs {tuple(self.inputs.shape)}: the "
                    "queries, keys or values of an attention, divided among its heads, which are "
                    "no map. Name the attention, the block around it, or the layer before it."
                )
            layout = layout_of(shape, self.inputs, name, self._last[name])
            if self.inputs.ndim == 3 and shape[1 - layout.rows] in self._lengths:
                layout = replace(layout, prefix=0)
            blank = torch.empty(shape, device="meta")
            found = as_map(blank, self.inputs, name, layout).shape
            pooled = len(shape) < self.inputs.ndim and found[1] == 1
            return Answer(calls, found, layout, aside=pooled or name in self._projections)
        except ConfigurationError as problem:
            return Answer(calls, problem=str(problem))  # itself it would keep who called

    def _for_heads(self, shape: tuple[int, ...]) -> bool:
        """Whether it is `(n, heads, T, d)` or `(n, T, heads, d)`.

        Then there were tokens of heads · d numbers, or of several times as many (queries, keys and
        values together), and neither pair of sides has the proportions of the input.
        """
        if len(shape) != 4 or follows(shape[1:3], self.inputs) or follows(shape[2:], self.inputs):
            return False
        return any(
            tokens in shape[1:3] and width * tokens % math.prod(shape[1:]) == 0
            for *sides, width in self._shapes.values()
            if len(sides) == 2
            for tokens in sides
        )


def _channels_last(layer: nn.Module) -> bool | None:
    """Whether the channels of its answer are last or first by definition; else None."""
    if isinstance(layer, nn.LayerNorm):
        # Of subclasses, some normalise over channels that come first.
        plain = type(layer).forward is nn.LayerNorm.forward
        return True if plain and len(layer.normalized_shape) == 1 else None
    if isinstance(layer, _FIRST):
        return False
    return True if isinstance(layer, _LAST) else None
