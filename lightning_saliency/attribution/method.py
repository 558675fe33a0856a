"""What an attribution method is: the evidence it asks for, and its reduction to a map."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn

from lightning_saliency.attribution.points import Clean, Point
from lightning_saliency.attribution.rules import Plain, Rule
from lightning_saliency.attribution.subject import Subject
from lightning_saliency.errors import ConfigurationError

Wanted = Literal["", "mean", "weights", "gradients"]
"""Of the attention; each has what those before it have."""


@dataclass(frozen=True)
class Look:
    """One thing that a method wants to see: what it wants of one pass.

    Attributes:
        point: where in input space.
        rule: how the pass runs through the model. Looks of equal point and rule are one pass.
        gradient: whether it needs ∂score/∂input there.
        layers: dotted names of the layers whose activation A and ∂score/∂A it needs there.
        activations: names of the layers whose activation it needs without a gradient.
        attention: whether it needs the attention weights of all blocks: their ``mean`` over heads,
            the ``weights``, or their ``gradients`` as well.
        optional: whether it needs it for the numbers beside its map alone.
    """

    point: Point = field(default_factory=Clean)
    rule: Rule = field(default_factory=Plain)
    gradient: bool = False
    layers: tuple[str, ...] = ()
    activations: tuple[str, ...] = ()
    attention: Wanted = ""
    optional: bool = False

    def __or__(self, other: Look) -> Look:
        """What two methods need of one pass."""
        layers = _union(self.layers, other.layers)
        activations = _union(self.activations, other.activations)
        return Look(
            self.point,
            self.rule,
            self.gradient or other.gradient,
            layers,
            tuple(name for name in activations if name not in layers),
            max(self.attention, other.attention, key=get_args(Wanted).index),
            self.optional and other.optional,
        )

    @property
    def of_one_row(self) -> bool:
        """Whether one row says what it wants of all probes: scores at a place that they share."""
        seen = self.gradient or self.layers or self.activations or self.attention
        return self.point.is_one and self.rule == Plain() and not seen

    @property
    def place(self) -> Place:
        """What makes it one pass with others."""
        return self.point, self.rule


Place: TypeAlias = tuple[Point, Rule]
"""A point and the rule of the pass there."""


def _union(one: tuple[str, ...], other: tuple[str, ...]) -> tuple[str, ...]:
    return one + tuple(name for name in other if name not in one)


@dataclass(frozen=True)
class Evidence:
    """What one pass showed, for a chunk of n probes; everything detached, in float32 or float64.

    Attributes:
        point: the point that was looked at.
        rule: how the pass ran.
        first: the place of the chunk's first probe among all probes.
        probes: `(n, C, *spatial)`, the probes themselves.
        inputs: `(n, C, *spatial)`, the probes moved to the point.
        score: `(n,)`, what was differentiated; as many rows as the rule lets leave.
        outputs: the same rows of the scores of all classes, `(n, K)`.
        gradient: `(n, C, *spatial)`, ∂score/∂inputs; empty where no method asked for it.
        activations: layer name → the layer's output, `(n, K, *spatial of the layer)`, or tokens.
        layer_gradients: layer name → the same shape, ∂score/∂activation.
        attention: of each block in the order of the pass, `(n, heads, T, T)`; one head, their mean,
            where no more was wanted. Rows sum to 1, or are 0 where a query may see nothing.
        attention_gradients: the same shapes, ∂score/∂attention.
    """

    point: Point
    rule: Rule
    first: int
    probes: Tensor
    inputs: Tensor
    score: Tensor
    outputs: Tensor
    gradient: Tensor
    activations: Mapping[str, Tensor]
    layer_gradients: Mapping[str, Tensor]
    attention: tuple[Tensor, ...] = ()
    attention_gradients: tuple[Tensor, ...] = ()


@dataclass(frozen=True)
class Maps:
    """What a method says of n probes.

    Attributes:
        map: `(n, *spatial)`, the map that is drawn and measured, at the method's native resolution.
        signed: `(n, K, *spatial)`, the attribution before its reduction to a map, with sign: what
            directional drift compares.
        numbers: further numbers `(n,)` that the method knows of itself, by name.
        halves: `(n, 2, K, *spatial)`, `signed` from every other sample that the method draws and
            from the rest: equal but for their noise. None of a method that draws none, or one.
    """

    map: Tensor
    signed: Tensor
    numbers: Mapping[str, Tensor] = field(default_factory=dict)
    halves: Tensor | None = None


class Reduction(ABC):
    """From evidence to maps, one look at a time: memory does not grow with the number of looks."""

    @abstractmethod
    def update(self, evidence: Evidence) -> None:
        """Take in one of the looks that the method asked for."""

    def further(self) -> tuple[Look, ...]:
        """What it wants to see next, after it saw what it asked for; nothing ends its looking.

        The number of looks must not depend on what was seen: where parameters are sharded, all
        ranks make the same passes.
        """
        return ()

    @abstractmethod
    def compute(self) -> Maps:
        """The maps of what has been seen."""


class Method(ABC):
    """A built-in attribution method: a frozen value. Calling it is the notebook's way."""

    signed: bool = False
    """Whether its map has a sign, and is drawn with diverging colours."""

    caution: ClassVar[str] = ""
    """What a reader of its pictures must know, in a few words: stands in their title."""

    @abstractmethod
    def looks(self) -> tuple[Look, ...]:
        """What the method asks to see."""

    @abstractmethod
    def reduction(self) -> Reduction:
        """A fresh reduction of what is seen."""

    def bind(self, subject: Subject, inputs: Tensor) -> Method:
        """The method with everything known that depends on the model, such as a layer's name.

        Args:
            subject: the model and how it is called.
            inputs: `(N, C, *spatial)`, all probes.
        """
        return self

    def __call__(
        self,
        model: nn.Module,
        inputs: Tensor,
        targets: Tensor,
        *,
        target: Callable[[Tensor, Tensor], Tensor] | str = "margin",
    ) -> Tensor:
        """Maps `(N, *spatial)` of `inputs` `(N, C, *spatial)` for the classes `targets` `(N,)`.

        The model keeps its mode, gradients and buffers.
        """
        from lightning_saliency.attribution import checking, passes
        from lightning_saliency.observation import observing
        from lightning_saliency.targets import resolve_target

        checking.check_model(model)
        checking.check_call(inputs, targets, passes.CHUNK)
        subject = Subject(model, resolve_target(target))
        with observing(model):
            checking.check_targets(subject, inputs, targets)
            found = passes.explain(subject, inputs, targets, {"map": self}, predictions=False)
        return found.maps["map"].map


AnyMethod: TypeAlias = Method | Callable[[nn.Module, Tensor, Tensor], Tensor]
"""A built-in method, or any callable ``(model, inputs, targets) -> maps``."""

Channels = Literal["max", "l2", "signed", "positive"]
"""How `(n, C, *spatial)` becomes `(n, *spatial)`; see `over_channels`."""


def over_channels(attribution: Tensor, how: Channels) -> Tensor:
    """Reduce the channels of a signed attribution `(n, C, *spatial)` to a map `(n, *spatial)`.

    - ``max``: max over channels of the absolute value (Simonyan et al. 2013, section 3.1).
    - ``l2``: Euclidean norm over channels.
    - ``signed``: sum over channels, with sign.
    - ``positive``: max over channels of the positive part.

    The absolute value is taken before the channels are reduced: the other order compares to it with
    a rank correlation of about 0.
    """
    if how == "max":
        return attribution.abs().amax(1)
    if how == "l2":
        return euclidean_norm(attribution)
    if how == "signed":
        return attribution.sum(1)
    if how == "positive":
        return attribution.clamp(min=0).amax(1)
    raise ConfigurationError(
        f"channels={how!r} is not a reduction. Known: 'max', 'l2', 'signed', 'positive'."
    )


def completeness_gap(attributed: Tensor, whole: Tensor) -> Tensor:
    """|attributed − whole| / |whole|, `(n,)`; NaN where there is nothing to attribute.

    Args:
        attributed: `(n,)`, the sum of each probe's attributions.
        whole: `(n,)`, the change of the score that they should add up to.
    """
    return (attributed - whole).abs() / whole.abs().where(whole != 0, torch.nan)


def gap_between(ends: Mapping[int, Tensor], attribution: Tensor) -> dict[str, Tensor]:
    """The number ``completeness_gap`` of an attribution `(n, …)`.

    Args:
        ends: the scores `(n,)` at the start, 0, and at the end, 1; none where nobody wants numbers.
        attribution: what should add up to their difference.
    """
    if not ends:
        return {}
    whole = ends[1] - ends[0]
    return {"completeness_gap": completeness_gap(attribution.flatten(1).sum(1), whole)}


def euclidean_norm(attribution: Tensor) -> Tensor:
    """Euclidean norm over the second dimension; squares of small gradients would underflow to 0."""
    peak = attribution.abs().amax(1, keepdim=True)
    unit = attribution / peak.where(peak > 0, 1)
    return unit.square().sum(1).sqrt() * peak.squeeze(1)


@dataclass(frozen=True, kw_only=True)
class OverChannels(Method):
    """A method whose evidence has the channels of the input, which its map has not.

    Args:
        channels: how channels become one map: ``max``, ``l2``, ``signed`` or ``positive``.
    """

    channels: Channels = "max"

    @property
    def signed(self) -> bool:  # type: ignore[override]
        """Whether the map has a sign."""
        return self.channels == "signed"

    def __post_init__(self) -> None:
        over_channels(torch.zeros(1, 1, 1), self.channels)  # an unknown name is told now
