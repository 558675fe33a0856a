"""The scalar that is differentiated: from a model's outputs and a class per probe to `(N,)`.

Any callable ``(outputs, classes) -> (N,)`` is a target; the ones here are frozen values, so that
two methods with the same target can be served by one pass. The class is fixed per probe by the
caller: a target that followed the prediction would mix flips of the decision into drift of the map.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import torch
from torch import Tensor

from lightning_saliency.errors import ConfigurationError, did_you_mean, imported


class Target(ABC):
    """A differentiable scalar per probe. Subclass it, or pass any callable of this signature."""

    @abstractmethod
    def __call__(self, outputs: Tensor, classes: Tensor) -> Tensor:
        """Score each probe.

        Args:
            outputs: `(N, K)` scores (logits) of K classes, or `(N,)` / `(N, 1)` of a binary net.
            classes: `(N,)` class indices.

        Returns:
            `(N,)`, differentiable with respect to `outputs`.
        """


@dataclass(frozen=True)
class Margin(Target):
    """m_c = z_c − log Σ_{k≠c} exp z_k = log p_c / (1 − p_c), the log-odds of the class; any real.

    The default. Its gradient has the direction of that of log p_c and of the cross entropy, without
    their factor 1 − p_c, which dies as the loss falls and takes the map into rounding noise. Unlike
    a logit it does not change when one function is added to all logits (Srinivas & Fleuret 2021).
    For one logit z: z for class 1 and −z for class 0.
    """

    def __call__(self, outputs: Tensor, classes: Tensor) -> Tensor:
        if _is_binary(outputs):
            return _signed_logit(outputs, classes)
        own = _pick(outputs, classes)
        others = torch.ones_like(outputs, dtype=torch.bool).scatter_(1, classes[:, None], False)
        return own - outputs.masked_fill(~others, -torch.inf).logsumexp(1)


@dataclass(frozen=True)
class Logit(Target):
    """S_c, the unnormalised class score (Simonyan et al. 2013, section 3); any real."""

    def __call__(self, outputs: Tensor, classes: Tensor) -> Tensor:
        return _signed_logit(outputs, classes) if _is_binary(outputs) else _pick(outputs, classes)


@dataclass(frozen=True)
class LogProb(Target):
    """log p_c, ≤ 0. Its gradient vanishes as the model grows sure: prefer `Margin` for drift."""

    def __call__(self, outputs: Tensor, classes: Tensor) -> Tensor:
        if _is_binary(outputs):
            return torch.nn.functional.logsigmoid(_signed_logit(outputs, classes))
        return _pick(outputs.log_softmax(1), classes)


@dataclass(frozen=True)
class Prob(Target):
    """p_c in 0..1. Its gradient vanishes at both ends: prefer `Margin` for drift."""

    def __call__(self, outputs: Tensor, classes: Tensor) -> Tensor:
        return LogProb()(outputs, classes).exp()


def _check_index(what: str, index: object) -> None:
    if isinstance(index, bool) or not isinstance(index, int) or abs(index) >= 2**31:
        raise ConfigurationError(f"{what}: give the index of an output, a whole number from 0 on.")


@dataclass(frozen=True)
class Contrast(Target):
    """z_c − z_k: why class c rather than class `against`; any real, 0 for probes of `against`."""

    against: int

    def __post_init__(self) -> None:
        _check_index(f"target={self}", self.against)

    def __call__(self, outputs: Tensor, classes: Tensor) -> Tensor:
        if _is_binary(outputs):
            raise ConfigurationError(
                "target=Contrast needs a model with two or more outputs per probe; this one has a "
                "single logit, whose contrast is 'margin'."
            )
        _check_range(f"target={self}", torch.tensor([self.against]), outputs.shape[1])
        return _pick(outputs, classes) - outputs[:, self.against]


@dataclass(frozen=True)
class Output(Target):
    """The output itself, for regression: column `index` of `(N, K)`, or the only one; any real."""

    index: int = 0

    def __post_init__(self) -> None:
        _check_index(f"target={self}", self.index)

    def __call__(self, outputs: Tensor, classes: Tensor) -> Tensor:
        columns = outputs.reshape(len(outputs), -1)
        _check_range(f"target={self}", torch.tensor([self.index]), columns.shape[1])
        return columns[:, self.index]


@dataclass(frozen=True)
class Region(Target):
    """Segmentation: Σ of z_c over the pixels that the model gives to class c; any real.

    `outputs` are `(N, K, *spatial)`; a single channel z counts as the two classes −z and z. A probe
    without such a pixel has an all-zero gradient, that is an undefined map. The pixels are those of
    the input that is looked at: on the way from a baseline they change, so attributions that follow
    it (integrated gradients, DeepLIFT) don't add up, and their ``completeness_gap`` is large.
    """

    def __call__(self, outputs: Tensor, classes: Tensor) -> Tensor:
        if outputs.ndim < 3:
            raise ConfigurationError(
                f"target=Region needs outputs (N, classes, *spatial), got {tuple(outputs.shape)}; "
                "use 'margin' for a classifier."
            )
        outputs = _two_channels(outputs)
        index = classes.view(-1, *[1] * (outputs.ndim - 1)).expand(-1, 1, *outputs.shape[2:])
        ours = outputs.argmax(1, keepdim=True) == index
        return (outputs.gather(1, index) * ours).flatten(1).sum(1)


TargetName = Literal["margin", "logit", "log_prob", "prob", "output", "region"]

TARGETS: Mapping[str, Target] = MappingProxyType(
    {
        "margin": Margin(),
        "logit": Logit(),
        "log_prob": LogProb(),
        "prob": Prob(),
        "output": Output(),
        "region": Region(),
    }
)
"""Names of targets in YAML; `Contrast` needs an argument, so it is given by class path."""


def tells_classes(target: object) -> bool:
    """Whether the scores that a target reads are of classes, one row per probe, as far as is known.

    What a user's own function reads is not, nor are outputs of a regression or a segmentation.
    """
    return isinstance(target, Target) and not isinstance(target, (Output, Region))


def resolve_target(target: str | Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    """A target by its name, or as it is when it is callable already."""
    if callable(target):
        return target
    if isinstance(target, str) and "." in target:
        return resolve_target(imported(target, "target"))
    if not isinstance(target, str) or target not in TARGETS:
        raise ConfigurationError(
            f"target={target!r} is not the name of a target. {did_you_mean(target, TARGETS)} "
            "Or give a callable (outputs, classes) -> (N,)."
        )
    return TARGETS[target]


def predictions(outputs: Tensor) -> Tensor:
    """The class that the model gives to each probe, `(N,)` int64.

    The largest of K outputs, the sign of a single one; for `(N, K, *spatial)` the class with the
    most pixels.
    """
    if _is_binary(outputs):
        return (outputs.reshape(-1) > 0).long()
    labels = _two_channels(outputs).argmax(1)
    return labels if labels.ndim == 1 else labels.flatten(1).mode(1).values


def confidence(outputs: Tensor, classes: Tensor) -> Tensor:
    """The probability of `classes`, `(N,)` in 0..1; NaN where outputs are not one row per probe."""
    if outputs.ndim > 2:
        return torch.full((len(outputs),), torch.nan, device=outputs.device)
    return Prob()(outputs, classes)


def check_classes(outputs: Tensor, classes: Tensor, argument: str) -> None:
    """Raise when a class is not one of the model's; waits for the device, so call it once."""
    count = 2 if _is_binary(outputs) else _two_channels(outputs).shape[1]
    _check_range(argument, classes, count)


def _check_range(what: str, classes: Tensor, count: int) -> None:
    wrong = classes[(classes < 0) | (classes >= count)]
    if len(wrong):
        raise ConfigurationError(
            f"{what}: {int(wrong[0])} is not one of this model's {count} outputs (0 to {count - 1})"
            ". Check the labels, `target_class` and the model's number of outputs."
        )


def _is_binary(outputs: Tensor) -> bool:
    return outputs.ndim == 1 or outputs.shape[1:].numel() == 1


def _two_channels(outputs: Tensor) -> Tensor:
    """A binary segmentation's single logit per place as the scores of two classes."""
    single = outputs.ndim > 2 and outputs.shape[1] == 1
    return torch.cat([-outputs, outputs], 1) if single else outputs


def _signed_logit(outputs: Tensor, classes: Tensor) -> Tensor:
    return outputs.reshape(-1) * (2 * classes - 1)


def _pick(outputs: Tensor, classes: Tensor) -> Tensor:
    if outputs.ndim > 2:
        raise ConfigurationError(
            f"The model's outputs have the shape {tuple(outputs.shape)}: one score per class and "
            "place. Say which to add up: target='region', or a callable (outputs, classes) -> (N,)."
        )
    return outputs.gather(1, classes[:, None]).squeeze(1)
