"""DeepLIFT: a backward pass by differences from a baseline in the place of derivatives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_saliency.attribution.arguments import check_baseline
from lightning_saliency.attribution.calls import (
    Calls,
    check_eager,
    first_argument,
    forms,
    is_in_place,
)
from lightning_saliency.attribution.method import (
    Channels,
    Evidence,
    Look,
    Maps,
    Method,
    OverChannels,
    Reduction,
    completeness_gap,
    over_channels,
)
from lightning_saliency.attribution.points import OnPath, baseline_like, baseline_of
from lightning_saliency.attribution.rescaling import Rescaled, RescaledMax
from lightning_saliency.attribution.rules import Rule
from lightning_saliency.attribution.subject import Subject
from lightning_saliency.errors import ConfigurationError, is_agreed
from lightning_saliency.observation import out_of_memory

_ELEMENTWISE = forms(
    *("relu", "relu6", "leaky_relu", "prelu", "rrelu", "threshold", "hardtanh", "clamp"),
    *("clamp_min", "clamp_max", "clip", "elu", "selu", "celu", "gelu", "silu", "mish"),
    *("sigmoid", "logsigmoid", "hardsigmoid", "hardswish", "tanh", "softplus", "softsign"),
    *("tanhshrink", "hardshrink", "softshrink", "abs", "exp", "expm1", "log", "log1p"),
    *("sqrt", "rsqrt", "square", "reciprocal", "pow", "__pow__", "erf", "sin", "cos"),
)
"""Functions of one number, whatever else they are given."""

_POOLS: dict[Any, tuple[Callable[..., tuple[Tensor, Tensor]], int]] = {
    form: (getattr(F, f"{name}_pool{sides}d_with_indices"), sides)
    for sides in (1, 2, 3)
    for name in ("max", "adaptive_max")
    for whole in (f"{name}_pool{sides}d", f"{name}_pool{sides}d_with_indices")
    for form in forms(whole)
}
"""Every form of max pooling → the form that says where the maxima are, and its dimensions."""


class _Course:
    """The calls of nonlinear functions in the baseline's pass, in their order, for the probes'."""

    def __init__(self) -> None:
        self._calls: list[tuple[Any, Tensor]] = []
        self._next = 0  # the call that is expected
        self.probes = 0
        """How many there are in the chunk."""
        self.runs = False
        """Whether the model runs: what reads a score off its outputs is not a part of it."""

    def begin(self) -> None:
        """Nothing has been called yet."""
        self._calls, self._next, self.runs = [], 0, True

    def again(self) -> None:
        """The probes' pass begins, perhaps once more."""
        self._next, self.runs = 0, True

    def end(self) -> None:
        """What is called from here on has no baseline."""
        self._next, self.runs = len(self._calls), True

    def add(self, func: Any, inputs: Tensor) -> None:
        """Keep what a function was called with."""
        self._calls.append((func, inputs.detach().clone()))  # what comes after may overwrite it

    def taken(self, func: Any, inputs: Tensor) -> Tensor:
        """The baseline's input of the same call, `inputs` where it made none.

        In the shape of `inputs`, or with one row for all. Calls of the baseline alone are passed
        over: its pass may be the first, which fills a cache.
        """
        for place in range(self._next, len(self._calls)):
            known, start = self._calls[place]
            if known == func and _covers(start.shape, inputs.shape):
                self._next = place + 1
                return start
        return inputs

    def is_laid_out_as(self, other: _Course) -> bool:
        """Whether `other`, of two rows, made the same calls with two where this has one."""
        if len(self._calls) != len(other._calls):
            return False
        return all(
            func == another and _differing(one.shape, two.shape) in ([], [(1, 2)])
            for (func, one), (another, two) in zip(self._calls, other._calls, strict=True)
        )


def _differing(one: Sequence[int], other: Sequence[int]) -> list[tuple[int, int]]:
    """The sides that are not the same; of shapes of other lengths, something that none is."""
    if len(one) != len(other):
        return [(0, 0)]
    return [pair for pair in zip(one, other, strict=True) if pair[0] != pair[1]]


def _covers(one: Sequence[int], other: Sequence[int]) -> bool:
    """Whether the first shape is the second, but for sides of 1 that stand for any."""
    return all(side == 1 for side, _ in _differing(one, other))


@dataclass(frozen=True)
class _AtBaseline(Rule):
    """The model as it is; what its nonlinear functions are called with is kept."""

    wide: bool
    course: _Course = field(compare=False)

    def around(self, module: nn.Module) -> _Keeping:
        check_eager(module, "DeepLIFT changes the derivatives of functions")
        self.course.begin()
        return _Keeping(self.course)

    def entering(self, inputs: Tensor) -> Tensor:
        """One row, since the baseline is the same for all probes; as many as they are if `wide`."""
        self.course.probes = len(inputs)
        return inputs if self.wide else inputs[:1]

    def leaving(self, scores: Tensor) -> Tensor:
        """Its scores for each probe: the model ends here."""
        self.course.runs = False
        return scores.expand(self.course.probes, *scores.shape[1:])


@dataclass(frozen=True)
class FromBaseline(Rule):
    """Nonlinear functions are followed back by Δout / Δin, both from the baseline to the probe.

    The baseline's pass comes before. Each number has its own of the baseline at the same place of
    the same call: of one row that stands for all, or, where a model folds something into its rows
    and it can't be told whose they are, of as many rows as there are probes. Equal
    baselines are equal rules: methods share both passes, and the course of the first of them.
    """

    keeps_scores = True

    baseline: float | tuple[float, ...]
    course: _Course = field(compare=False)

    def around(self, module: nn.Module) -> _Rescaling:
        """Replace the derivatives of nonlinear functions."""
        self.course.again()
        return _Rescaling(self.course)

    def leaving(self, scores: Tensor) -> Tensor:
        """The scores: the model ends here."""
        self.course.runs = False
        return scores


class _Keeping(Calls):
    def __init__(self, course: _Course) -> None:
        super().__init__()
        self._course = course

    def call(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        inputs = _met(func, args, kwargs)
        if inputs is not None and self._course.runs:
            self._course.add(func, inputs)
        return func(*args, **kwargs)


class _Rescaling(Calls):
    """Gives nonlinear functions the multiplier Δout / Δin for their derivative."""

    def __init__(self, course: _Course) -> None:
        super().__init__()
        self._course = course

    def turn(self) -> None:
        # What gradient checkpointing runs again meets no baseline and needs none: the nodes of the
        # first run keep their multipliers, and save nothing that would be asked for again.
        self._course.end()

    def call(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        inputs = _met(func, args, kwargs)
        if inputs is None or not self._course.runs:
            return func(*args, **kwargs)
        start = self._course.taken(func, inputs)
        if not inputs.requires_grad:
            return func(*args, **kwargs)
        kwargs.pop("input", None)
        if func in _POOLS:
            return _pooled(func, inputs, start, args[1:], kwargs)
        if not all(map(_is_constant, (*args[1:], *kwargs.values()))):
            return func(inputs, *args[1:], **kwargs)
        in_place = is_in_place(func, kwargs)
        kwargs.pop("inplace", None)
        plain = partial(_applied, _ELEMENTWISE[func], args[1:], kwargs)
        return Rescaled.apply(inputs, start, plain, in_place)


def _met(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor | None:
    """What a nonlinear function is called with; None of other calls."""
    inputs = first_argument(args, kwargs) if func in _ELEMENTWISE or func in _POOLS else None
    return inputs if isinstance(inputs, Tensor) else None


def _pooled(func: Any, inputs: Tensor, start: Tensor, rest: Any, kwargs: dict[str, Any]) -> Any:
    pool, sides = _POOLS[func]
    wants_places = kwargs.pop("return_indices", False) or func is pool
    found = RescaledMax.apply(inputs, start, partial(_applied, pool, rest, kwargs), sides)
    return found if wants_places or func is torch.adaptive_max_pool1d else found[0]


def _applied(function: Callable[..., Any], rest: Any, kwargs: Any, inputs: Tensor) -> Any:
    return function(inputs, *rest, **kwargs)


def _is_constant(argument: object) -> bool:
    """Whether an argument is no tensor that the model computed: a number, or a parameter."""
    return not isinstance(argument, Tensor) or argument.is_leaf


@dataclass(frozen=True, kw_only=True)
class DeepLIFT(OverChannels):
    """(x − x') ⊙ m, with Δout / Δin for derivatives (Shrikumar et al. 2017, section 3.5.2).

    The rescale rule of DeepLIFT (1704.02685), from the baseline x'; any real, in units of the score
    before the reduction. Activations count in all forms: modules, functions, in place or not, one
    module that runs many times. Max pooling has its rule (Lundberg & Lee 2017, 1705.07874), with
    overlapping windows too. The sum over all places is s(x) − s(x') where the target is a logit and
    the net is made of these and of linear parts. What is neither (softmax, normalisation by the
    input's own statistics, products; the default target, a margin) is differentiated at x. The
    relative gap that this leaves, |Σ − (s(x) − s(x'))| / |s(x) − s(x')|, is logged beside the map;
    it is left out where the score is the same at both ends.

    Each number of a call is compared with the baseline's in the same call at the same place, so it
    does not matter how a model lays its rows out: tokens first, windows folded into the rows, one
    sample after the other. Where the calls depend on the data,
    derivatives stay where the baseline made none.

    Passes: 1 forward and backward of its own and 1 forward of the baseline.
    Good for: signed contributions relative to a baseline at the cost of a gradient; it sees through
        saturated units, where the gradient is 0.
    Misleads: it shows nothing where the probe equals the baseline, black objects on black say; with
        attention or layer normalisation the gap may be large: look at it.

    Args:
        baseline: x' in the model's input space, one number or one per channel. 0 of a normalised
            input is the mean colour; black is (0 − mean) / std.
        channels: how channels become one map: ``max``, ``l2``, ``signed`` or ``positive``.
    """

    baseline: float | tuple[float, ...] = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_baseline(self, self.baseline)

    def bind(self, subject: Subject, inputs: Tensor) -> Method:
        """The method, knowing how many rows of the baseline it needs, by two passes of few rows."""
        return _BoundDeepLIFT(
            baseline=self.baseline,
            channels=self.channels,
            wide=_folds_rows(subject, baseline_like(inputs[:1], self.baseline)),
        )

    def looks(self) -> tuple[Look, ...]:
        """The baseline first; then the multipliers at the clean input, by what was seen there."""
        raise AssertionError("bind() sees how rows are laid out")

    def reduction(self) -> Reduction:
        """The multipliers, times the way."""
        return _Contributions(self.channels, self.baseline)


@dataclass(frozen=True, kw_only=True)
class _BoundDeepLIFT(DeepLIFT):
    wide: bool

    def __repr__(self) -> str:
        """As the user wrote it."""
        return repr(DeepLIFT(baseline=self.baseline, channels=self.channels))

    def bind(self, subject: Subject, inputs: Tensor) -> Method:
        return self

    def looks(self) -> tuple[Look, ...]:
        course = _Course()
        return (
            Look(OnPath(0.0, self.baseline), _AtBaseline(self.wide, course)),
            Look(rule=FromBaseline(self.baseline, course), gradient=True),
        )


def _folds_rows(subject: Subject, baseline: Tensor) -> bool:
    """Whether a nonlinear function meets rows in which something is folded.

    Args:
        subject: the model and how it is called.
        baseline: `(1, C, *spatial)`.
    """
    one, two = _Course(), _Course()
    try:
        for rows, course in enumerate((one, two), start=1):
            rule = _AtBaseline(True, course)
            with torch.no_grad(), rule.around(subject.module):
                entered = rule.entering(torch.cat([baseline] * rows))
                rule.leaving(subject.scores(entered))
    except Exception as error:
        if out_of_memory(error) or is_agreed(error) or isinstance(error, ConfigurationError):
            raise
        return True  # perhaps the model takes as many rows as there are probes, and no others
    return not one.is_laid_out_as(two)


class _Contributions(Reduction):
    def __init__(self, channels: Channels, baseline: float | tuple[float, ...]) -> None:
        self._channels = channels
        self._baseline = baseline

    def update(self, evidence: Evidence) -> None:
        if isinstance(evidence.rule, _AtBaseline):
            self._start = evidence.score
            return
        assert isinstance(evidence.rule, FromBaseline)
        evidence.rule.course.begin()  # nobody needs what it holds any more
        way = evidence.inputs - baseline_of(evidence.inputs, self._baseline)
        self._signed, self._score = way * evidence.gradient, evidence.score

    def compute(self) -> Maps:
        gap = completeness_gap(self._signed.flatten(1).sum(1), self._score - self._start)
        return Maps(
            over_channels(self._signed, self._channels), self._signed, {"completeness_gap": gap}
        )
