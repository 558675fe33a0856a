"""DeepLIFT: a backward pass by differences from a baseline in the place of derivatives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from torch.overrides import handle_torch_function, has_torch_function_unary

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
    OverChannels,
    Reduction,
    completeness_gap,
    over_channels,
)
from lightning_saliency.attribution.points import baseline_like, baseline_of
from lightning_saliency.attribution.rules import Rule

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


@dataclass(frozen=True)
class FromBaseline(Rule):
    """Nonlinear functions are followed back by Δout / Δin, both from the baseline to the probe.

    The baseline is one for all probes, so it goes with them as one further row, not as one each.
    """

    keeps_scores = True

    baseline: float | tuple[float, ...] = 0.0

    def around(self, module: nn.Module) -> _Rescaling:
        """Replace the derivatives of nonlinear functions."""
        check_eager(module, "DeepLIFT")
        return _Rescaling()

    def entering(self, inputs: Tensor) -> Tensor:
        """The probes, and the baseline below them."""
        return _beside(inputs, self.baseline)

    def leaving(self, scores: Tensor) -> Tensor:
        """The rows of the probes, and the baseline's as often again: once for the class of each."""
        return _apart(scores)

    def classes(self, targets: Tensor) -> Tensor:
        """The classes of the probes, twice."""
        return targets.repeat(2)


# Modes meet these two like torch's own functions: so the one around them learns how many rows there
# are, and where the model ends.


def _beside(inputs: Tensor, baseline: float | tuple[float, ...]) -> Tensor:
    if has_torch_function_unary(inputs):
        joined: Tensor = handle_torch_function(_beside, (inputs,), inputs, baseline)
        return joined
    return torch.cat([inputs, baseline_like(inputs[:1], baseline)])


def _apart(scores: Tensor) -> Tensor:
    if has_torch_function_unary(scores):
        parted: Tensor = handle_torch_function(_apart, (scores,), scores)
        return parted
    return torch.cat([scores[:-1], scores[-1:].detach().expand_as(scores[:-1])])


class _Rescaling(Calls):
    """Gives nonlinear functions the multiplier Δout / Δin for their derivative.

    A tensor whose first side is a multiple of the rows, as where windows are folded into it, holds
    the rows one after the other; that of a transformer whose tokens come first has them on its
    second side. Elsewhere derivatives stay.
    """

    def __init__(self) -> None:
        super().__init__()
        self._rows = 0
        self._inside = False

    def turn(self) -> None:
        self._inside = True  # in what runs again

    def call(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if func in (_beside, _apart):
            rows = func(*args, **kwargs)
            self._inside = func is _beside
            self._rows = len(rows) if self._inside else self._rows
            return rows
        inputs = first_argument(args, kwargs) if func in _ELEMENTWISE or func in _POOLS else None
        if not self._has_rows(inputs):
            return func(*args, **kwargs)
        assert isinstance(inputs, Tensor)
        kwargs.pop("input", None)
        if func in _POOLS and self._second(inputs):
            return func(inputs, *args[1:], **kwargs)
        if func in _POOLS:
            return self._pooled(func, inputs, args[1:], kwargs)
        if not all(map(_is_constant, (*args[1:], *kwargs.values()))):
            return func(inputs, *args[1:], **kwargs)
        in_place = is_in_place(func, kwargs)
        kwargs.pop("inplace", None)
        plain = partial(_applied, _ELEMENTWISE[func], args[1:], kwargs)
        if not self._second(inputs):
            return _Rescaled.apply(inputs, plain, self._rows, in_place)
        turned = _Rescaled.apply(inputs.transpose(0, 1), plain, self._rows, False)
        return inputs.copy_(turned.transpose(0, 1)) if in_place else turned.transpose(0, 1)

    def _has_rows(self, inputs: Any) -> bool:
        return (
            isinstance(inputs, Tensor)
            and inputs.requires_grad
            and inputs.ndim > 0
            and self._inside
            and (self._second(inputs) or len(inputs) % self._rows == 0)
        )

    def _second(self, inputs: Tensor) -> bool:
        """Whether the rows are the second side, as where tokens come first."""
        return inputs.ndim == 3 and len(inputs) != self._rows == inputs.shape[1]

    def _pooled(self, func: Any, inputs: Tensor, rest: Any, kwargs: dict[str, Any]) -> Any:
        pool, sides = _POOLS[func]
        if inputs.ndim != sides + 2:
            return func(inputs, *rest, **kwargs)
        wants_places = kwargs.pop("return_indices", False) or func is pool
        found = _RescaledMax.apply(inputs, partial(_applied, pool, rest, kwargs), self._rows)
        return found if wants_places or func is torch.adaptive_max_pool1d else found[0]


def _applied(function: Callable[..., Any], rest: Any, kwargs: Any, inputs: Tensor) -> Any:
    return function(inputs, *rest, **kwargs)


def _is_constant(argument: object) -> bool:
    """Whether an argument is no tensor that the model computed: a number, or a parameter."""
    return not isinstance(argument, Tensor) or argument.is_leaf


class _Rescaled(Function):
    """A function of one number: the multiplier of the rescale rule is found going forward."""

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, function: Callable[[Tensor], Tensor], rows: int, in_place: bool
    ) -> Tensor:
        with torch.enable_grad():
            ends = inputs.detach().requires_grad_()
            outputs = function(ends)
            (slope,) = torch.autograd.grad(outputs, ends, torch.ones_like(outputs))
        outputs = outputs.detach()
        ctx.save_for_backward(_multiplier(*_in_rows(rows, inputs, outputs, slope)))
        if not in_place:
            return outputs
        ctx.mark_dirty(inputs)
        return inputs.copy_(outputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        (multiplier,) = ctx.saved_tensors
        return gradient * multiplier, None, None, None


def _in_rows(rows: int, *tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(tensor.detach().reshape(rows, -1, *tensor.shape[1:]) for tensor in tensors)


def _multiplier(inputs: Tensor, outputs: Tensor, slope: Tensor) -> Tensor:
    """Δout / Δin; the slope where Δin is so small that Δout would be rounding; 0 for the baseline.

    The bound is relative to the outputs: a ReLU's quotient is exact at any scale, and the two sides
    of its kink are never that near.
    """
    way, rise = inputs[:-1] - inputs[-1:], outputs[:-1] - outputs[-1:]
    rounding = torch.finfo(outputs.dtype).eps ** 0.5 * (outputs[:-1].abs() + outputs[-1:].abs())
    far = way.abs() > rounding
    multiplier = torch.where(far, rise / way.where(far, 1), slope[:-1])
    return torch.cat([multiplier, torch.zeros_like(multiplier[:1])]).flatten(0, 1)


class _RescaledMax(Function):
    """Max pooling: a window's Δout goes to where its maximum is, in the probe and in the baseline.

    With top = max(out, out'), the probe's maximum answers for top − out' and the baseline's for
    out − top (Lundberg & Lee 2017). One of them is 0 and the other's Δin is at least as large as
    Δout: nothing is lost, and no multiplier exceeds 1. What overlapping windows give adds up.
    """

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, pool: Callable[[Tensor], tuple[Tensor, Tensor]], rows: int
    ) -> tuple[Tensor, Tensor]:
        outputs, places = pool(inputs)
        ctx.mark_non_differentiable(places)
        flat = [tensor.flatten(2) for tensor in (inputs, outputs, places)]
        values, tops, at = _in_rows(rows, *flat)
        way, rise = values[:-1] - values[-1:], tops[:-1] - tops[-1:]
        own, other = at[:-1], at[-1:].expand_as(at[:-1])
        ups = _share(rise.clamp(min=0), way.gather(-1, own), still=rise == 0)
        downs = _share(rise.clamp(max=0), way.gather(-1, other), still=torch.zeros_like(rise) > 0)
        ctx.shape, ctx.places, ctx.rows = inputs.shape, inputs[0, 0].numel(), rows
        ctx.save_for_backward(own, other, ups, downs)
        return outputs, places

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Any) -> tuple[Tensor, None, None]:
        own, other, ups, downs = ctx.saved_tensors
        (flat,) = _in_rows(ctx.rows, gradient.flatten(2))
        found = gradient.new_zeros(ctx.rows, len(gradient) // ctx.rows, ctx.shape[1], ctx.places)
        found[:-1].scatter_add_(-1, own, flat[:-1] * ups)
        found[:-1].scatter_add_(-1, other, flat[:-1] * downs)
        return found.view(ctx.shape), None, None


def _share(rise: Tensor, way: Tensor, still: Tensor) -> Tensor:
    """Δout / Δin; where nothing moves at all, the derivative, 1 at the maximum."""
    return torch.where(way != 0, rise / way.where(way != 0, 1), still.to(rise.dtype))


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

    Passes: 1 forward and backward of its own, with one row more than the probes.
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

    def looks(self) -> tuple[Look, ...]:
        """The multipliers at the clean input, and the score there and at the baseline."""
        return (Look(rule=FromBaseline(self.baseline), gradient=True),)

    def reduction(self) -> Reduction:
        """The multipliers, times the way."""
        return _Contributions(self.channels, self.baseline)


class _Contributions(Reduction):
    def __init__(self, channels: Channels, baseline: float | tuple[float, ...]) -> None:
        self._channels = channels
        self._baseline = baseline

    def update(self, evidence: Evidence) -> None:
        way = evidence.inputs - baseline_of(evidence.inputs, self._baseline)
        self._signed = way * evidence.gradient
        self._ends = evidence.score

    def compute(self) -> Maps:
        score, start = self._ends.chunk(2)
        gap = completeness_gap(self._signed.flatten(1).sum(1), score - start)
        return Maps(
            over_channels(self._signed, self._channels), self._signed, {"completeness_gap": gap}
        )
