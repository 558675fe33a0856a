"""FullGrad: the input's gradient and those of all biases, which together make up the score."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_saliency.attribution.biases import Sides, bias_of, biased_layers, spread
from lightning_saliency.attribution.calls import check_eager
from lightning_saliency.attribution.method import (
    Evidence,
    Look,
    Maps,
    Method,
    Reduction,
    completeness_gap,
)
from lightning_saliency.attribution.subject import Subject
from lightning_saliency.attribution.taps import find_layer
from lightning_saliency.errors import ConfigurationError
from lightning_saliency.shards import is_flattened

Rescale = Literal["layer", "channel"]
"""What is brought to 0–1 as one."""


@dataclass(frozen=True, kw_only=True)
class FullGrad(Method):
    """Σ_c ψ(x ⊙ ∂s/∂x)_c + Σ_l Σ_c ψ(b ⊙ ∂s/∂b)_lc (Srinivas & Fleuret 2019, section 4).

    1905.00780; ≥ 0, without a unit: ψ is the absolute value, brought to 0–1 for each probe and
    layer, and enlarged to the input by bilinear interpolation (linear, trilinear). ∂s/∂b is taken
    at each place of the layer's output. Biases are those of convolutions and linear layers, and
    β − γμ/σ of batch normalisation in evaluation mode; those of linear layers without places, as
    in a classifier's head, are not in the map. Which sides of a linear layer's output are places is
    seen as stripes of a probe change, else by their proportions; where neither tells, as behind
    attention over a signal, it is not in the map either. Where the target is a logit and the net is
    made of these, ReLUs and pooling, s = Σ x ∂s/∂x + Σ b ∂s/∂b; the relative gap to this, logged
    beside the map, tells of biases that were not seen: of layers that run more than once, of
    functions, of other activations, of layer normalisation; and of targets that are not a logit,
    such as the margin. It is left out where the score is 0.

    Passes: 1 forward and backward, shared with every method that looks at the clean input.
    Good for: convolutional nets with ReLU: what all layers say, in one fine map.
    Misleads: each layer counts alike after ψ, whatever its share of the score; nets of attention
        and layer normalisation keep most of their score outside (see the gap).

    Args:
        rescale: what ψ brings to 0–1 as one: a ``layer``, as the authors' code does, or each of its
            channels (``channel``), as their equation is read elsewhere.
    """

    rescale: Rescale = "layer"

    def __post_init__(self) -> None:
        if self.rescale not in get_args(Rescale):
            raise ConfigurationError(
                f"FullGrad(rescale={self.rescale!r}): give 'layer' or 'channel'."
            )

    def bind(self, subject: Subject, inputs: Tensor) -> Method:
        """The method with the layers that carry a bias, found in a few passes of one probe."""
        check_eager(subject.module, "FullGrad reads the bias of each layer")
        sides = biased_layers(subject, inputs[:1])
        return _BoundFullGrad(rescale=self.rescale, layers=_found(subject, sides), sides=sides)

    def looks(self) -> tuple[Look, ...]:
        """The gradients of the input and of the layers with a bias, at the clean input."""
        raise AssertionError("bind() finds the layers")

    def reduction(self) -> Reduction:
        """The sum over layers."""
        raise AssertionError("bind() finds the layers")


@dataclass(frozen=True, kw_only=True)
class _BoundFullGrad(FullGrad):
    layers: Mapping[str, nn.Module] = field(compare=False)
    sides: Mapping[str, Sides] = field(compare=False)

    def __repr__(self) -> str:
        """As the user wrote it."""
        return f"FullGrad(rescale={self.rescale!r})"

    def bind(self, subject: Subject, inputs: Tensor) -> Method:
        return replace(self, layers=_found(subject, self.layers))

    def looks(self) -> tuple[Look, ...]:
        return (Look(gradient=True, layers=tuple(self.layers)),)

    def reduction(self) -> Reduction:
        return _FullGradients(self.layers, self.sides, self.rescale)


class _FullGradients(Reduction):
    def __init__(
        self, layers: Mapping[str, nn.Module], sides: Mapping[str, Sides], rescale: Rescale
    ) -> None:
        self._layers, self._sides = layers, sides
        self._rescale = rescale

    def update(self, evidence: Evidence) -> None:
        count, spatial = len(evidence.inputs), evidence.inputs.shape[2:]
        self._signed = (evidence.gradient * evidence.inputs).sum(1)
        self._map = _unit(evidence.gradient * evidence.inputs, self._rescale).sum(1)
        total = self._signed.flatten(1).sum(1)
        for name, layer in self._layers.items():
            rows, channels = self._sides[name]
            part = _bias_gradient(name, layer, evidence.layer_gradients[name]).movedim(rows, 0)
            if len(part) % count == 0:  # where windows are folded into it, a probe's are together
                total = total + part.reshape(count, -1).sum(1)
            if channels is not None:
                part = part.movedim(channels, 1)
                cells = part[0, 0].numel() / spatial.numel()
                self._map += _enlarged(_unit(part, self._rescale).sum(1), spatial)
                self._signed += _enlarged(part.sum(1), spatial) * cells
        score = evidence.score
        self._gap = completeness_gap(total, score)

    def compute(self) -> Maps:
        return Maps(self._map, self._signed[:, None], {"completeness_gap": self._gap})


def _bias_gradient(name: str, layer: nn.Module, gradient: Tensor) -> Tensor:
    """The bias times ∂s/∂b at each place, in the shape of the layer's output."""
    if any(is_flattened(one) or hasattr(one, "to_local") for one in layer.parameters()):
        raise ConfigurationError(
            f"FullGrad reads the bias of each layer, and that of '{name}' is sharded over ranks. "
            "Leave the method out where parameters are."
        )
    return gradient * spread(bias_of(layer).detach().to(gradient.dtype), layer, gradient.ndim)


def _unit(part: Tensor, rescale: Rescale) -> Tensor:
    """The absolute value, from 0 to 1 in each probe's layer or channel; 0 where it is constant."""
    size = part.abs()
    sides = tuple(range(1 if rescale == "layer" else 2, part.ndim))
    low, high = size.amin(sides, keepdim=True), size.amax(sides, keepdim=True)
    return (size - low) / (high - low).where(high > low, 1)


def _enlarged(maps: Tensor, spatial: torch.Size) -> Tensor:
    """`(n, *spatial of the layer)` at the size of the input."""
    mode = ("linear", "bilinear", "trilinear")[len(spatial) - 1]
    return F.interpolate(maps[:, None], tuple(spatial), mode=mode)[:, 0]


def _found(subject: Subject, names: Iterable[str]) -> dict[str, nn.Module]:
    return {name: find_layer(subject.module, name) for name in names}
