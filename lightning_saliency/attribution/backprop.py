"""Backward passes that treat the ReLU by a rule of their own: guided backpropagation, DeconvNet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.autograd import Function

from lightning_saliency.attribution.calls import (
    Calls,
    check_eager,
    first_argument,
    forms,
    is_in_place,
)
from lightning_saliency.attribution.gradient import OnePass
from lightning_saliency.attribution.method import Look, OverChannels, Reduction
from lightning_saliency.attribution.rules import Rule
from lightning_saliency.errors import ConfigurationError

_RELUS = forms("relu")
_CLAMPS = forms("clamp", "clamp_min", "clip")


@dataclass(frozen=True)
class ReluRule(Rule):
    """Every ReLU of the forward pass answers the backward pass by a rule of its own."""

    keeps_scores = True

    relu: ClassVar[type[Function]]
    """Takes the input and whether to work in place."""

    title: ClassVar[str]

    @contextmanager
    def around(self, module: nn.Module) -> Iterator[None]:
        """Replace the ReLUs, in whatever form they are called.

        Raises:
            ConfigurationError: there was none.
        """
        check_eager(module, f"{self.title} changes the derivatives of functions")
        with _Replacing(self.relu) as mode:
            yield
        if not mode.met:
            raise ConfigurationError(
                f"No ReLU takes part in the forward pass of {type(module).__name__}, so "
                f"{self.title} would be its plain gradient (GELU, SiLU, ReLU6 and others keep "
                "their derivative). Leave the method out, or use 'saliency'."
            )


class _Replacing(Calls):
    """Runs `relu` in the place of every ReLU, and knows whether there was one."""

    def __init__(self, relu: type[Function]) -> None:
        super().__init__()
        self._relu = relu
        self.met = False

    def call(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        inputs = first_argument(args, kwargs) if _is_relu(func, args, kwargs) else None
        if not isinstance(inputs, Tensor) or not inputs.requires_grad:
            return func(*args, **kwargs)
        self.met = True
        return self._relu.apply(inputs, is_in_place(func, kwargs))


def _is_relu(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    if func in _RELUS:
        return True
    if func not in _CLAMPS:
        return False
    low = kwargs.get("min", args[1] if len(args) > 1 else None)
    high = kwargs.get("max", args[2] if len(args) > 2 else None)
    return isinstance(low, (int, float)) and low == 0 and high is None


def _rectified(ctx: Any, inputs: Tensor, in_place: bool) -> Tensor:
    if not in_place:
        return inputs.relu()
    ctx.mark_dirty(inputs)
    return inputs.relu_()


class _GuidedRelu(Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, in_place: bool) -> Tensor:
        outputs = _rectified(ctx, inputs, in_place)
        ctx.save_for_backward(outputs)
        return outputs

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (outputs,) = ctx.saved_tensors
        derived: Tensor = torch.ops.aten.threshold_backward(gradient, outputs, 0)  # torch's own
        return derived.clamp_(min=0), None


class _DeconvRelu(Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, in_place: bool) -> Tensor:
        return _rectified(ctx, inputs, in_place)

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient.clamp(min=0), None


class Guided(ReluRule):
    """Back through a ReLU goes what is positive, where the ReLU's input was positive too."""

    relu = _GuidedRelu
    title = "guided backpropagation"


class Deconvolving(ReluRule):
    """Back through a ReLU goes what is positive, wherever the ReLU's input was."""

    relu = _DeconvRelu
    title = "DeconvNet"


@dataclass(frozen=True, kw_only=True)
class _ReluMethod(OverChannels):
    caution: ClassVar[str] = "nearly blind to the weights"
    rule: ClassVar[ReluRule]

    def looks(self) -> tuple[Look, ...]:
        """What arrives at the clean input."""
        return (Look(rule=self.rule, gradient=True),)

    def reduction(self) -> Reduction:
        """What arrives itself."""
        return OnePass(self.channels, times_input=False)


@dataclass(frozen=True, kw_only=True)
class GuidedBackprop(_ReluMethod):
    """M = max over channels of |R⁰|, with Rˡ = 1[xˡ > 0] · max(Rˡ⁺¹, 0) (Springenberg et al. 2014).

    1412.6806, section 3.4: the rule of ReLUs; R is ∂s/∂x everywhere else. Raw, in units of score
    per unit of input, ≥ 0. Every ReLU counts: modules, functions and ``clamp(min=0)``, in place or
    not, one module that runs many times. Other activations keep their derivative.

    Passes: 1 forward and backward of its own.
    Good for: sharp pictures of the edges and textures that a net responds to at all.
    Misleads: it hardly depends on the weights or on the class: maps of a net with random weights
        look alike (Adebayo et al. 2018, 1810.03292), since it approaches the input itself
        (Nie et al. 2018). Don't read from it what was learned.

    Args:
        channels: how channels become one map: ``max``, ``l2``, ``signed`` or ``positive``.

    Raises:
        ConfigurationError: at the first observation, where the forward pass has no ReLU.
    """

    rule = Guided()


@dataclass(frozen=True, kw_only=True)
class DeconvNet(_ReluMethod):
    """M = max over channels of |R⁰|, with Rˡ = max(Rˡ⁺¹, 0) (Zeiler & Fergus 2013, section 2.1).

    The rule of ReLUs in 1311.2901; R is ∂s/∂x everywhere else: Simonyan et al. 2013
    (1312.6034), section 4, show that the ReLU is all in which it differs from the gradient. Raw, in
    units of score per unit of input, ≥ 0. ReLUs are found as by `GuidedBackprop`.

    Passes: 1 forward and backward of its own.
    Good for: comparison with older work.
    Misleads: a unit that was off still passes relevance on; without max pooling the map hardly
        depends on the input, and with it hardly on the weights or on the class (Nie et al. 2018,
        1805.07039).

    Args:
        channels: how channels become one map: ``max``, ``l2``, ``signed`` or ``positive``.

    Raises:
        ConfigurationError: at the first observation, where the forward pass has no ReLU.
    """

    rule = Deconvolving()
