"""FullGrad: the input's gradient and those of all biases, which together make up the score."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from lightning_saliency.attribution.method import (
    Evidence,
    Look,
    Maps,
    Method,
    Reduction,
    completeness_gap,
)
from lightning_saliency.attribution.subject import Subject
from lightning_saliency.attribution.taps import displayed, find_layer
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
    in a classifier's head, are not in the map. Where the target is a logit and the net is made
    of these, ReLUs and pooling, s = Σ x ∂s/∂x + Σ b ∂s/∂b; the relative gap to this, logged beside
    the map, tells of biases that were not seen: of layers that run more than once, of functions,
    of other activations, of layer normalisation; and of targets that are not a logit, such as the
    margin. It is left out where the score is 0.

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
        """The method with the layers that carry a bias, found in one pass of one probe."""
        names = _names_of_biased_layers(subject, inputs[:1])
        return _BoundFullGrad(rescale=self.rescale, layers=_found(subject, names))

    def looks(self) -> tuple[Look, ...]:
        """The gradients of the input and of the layers with a bias, at the clean input."""
        raise AssertionError("bind() finds the layers")

    def reduction(self) -> Reduction:
        """The sum over layers."""
        raise AssertionError("bind() finds the layers")


@dataclass(frozen=True, kw_only=True)
class _BoundFullGrad(FullGrad):
    layers: Mapping[str, nn.Module] = field(compare=False)

    def __repr__(self) -> str:
        """As the user wrote it."""
        return f"FullGrad(rescale={self.rescale!r})"

    def bind(self, subject: Subject, inputs: Tensor) -> Method:
        return _BoundFullGrad(rescale=self.rescale, layers=_found(subject, self.layers))

    def looks(self) -> tuple[Look, ...]:
        return (Look(gradient=True, layers=tuple(self.layers)),)

    def reduction(self) -> Reduction:
        return _FullGradients(self.layers, self.rescale)


class _FullGradients(Reduction):
    def __init__(self, layers: Mapping[str, nn.Module], rescale: Rescale) -> None:
        self._layers = layers
        self._rescale = rescale

    def update(self, evidence: Evidence) -> None:
        count, spatial = len(evidence.inputs), evidence.inputs.shape[2:]
        self._signed = (evidence.gradient * evidence.inputs).sum(1)
        self._map = _unit(evidence.gradient * evidence.inputs, self._rescale).sum(1)
        total = self._signed.flatten(1).sum(1)
        for name, layer in self._layers.items():
            part = _bias_gradient(name, layer, evidence.layer_gradients[name])
            if len(part) % count == 0:  # where windows are folded into it, a probe's are together
                total = total + part.reshape(count, -1).sum(1)
            if (len(part), part.ndim) == (count, evidence.inputs.ndim):
                cells = part[0, 0].numel() / spatial.numel()
                self._map += _enlarged(_unit(part, self._rescale).sum(1), spatial)
                self._signed += _enlarged(part.sum(1), spatial) * cells
        score = evidence.score
        self._gap = completeness_gap(total, score)

    def compute(self) -> Maps:
        return Maps(self._map, self._signed[:, None], {"completeness_gap": self._gap})


def _bias_gradient(name: str, layer: nn.Module, gradient: Tensor) -> Tensor:
    """The bias times ∂s/∂b at each place, `(n, K, *spatial of the layer)`."""
    gradient = gradient.movedim(-1, 1) if isinstance(layer, nn.Linear) else gradient
    if any(is_flattened(one) or hasattr(one, "to_local") for one in layer.parameters()):
        raise ConfigurationError(
            f"FullGrad reads the bias of each layer, and that of '{name}' is sharded over ranks. "
            "Leave the method out where parameters are."
        )
    return gradient * _bias(layer).detach().to(gradient.dtype).view(-1, *[1] * (gradient.ndim - 2))


def _adds(layer: nn.Module) -> bool:
    """Whether a layer is a linear function of its input and a bias."""
    if isinstance(layer, (_ConvNd, nn.Linear)):
        return layer.bias is not None
    # A subclass may do more in its forward than to normalise: an activation, say.
    known = isinstance(layer, _BatchNorm) and type(layer).forward in _NORMALISING
    return known and layer.running_mean is not None and layer.running_var is not None


_NORMALISING = (_BatchNorm.forward, nn.SyncBatchNorm.forward)


def _bias(layer: Any) -> Tensor:
    """What a layer adds, `(K,)`: for γ (x − μ) / σ + β, batch normalisation, that is β − γμ / σ."""
    bias: Tensor = layer.bias
    if not isinstance(layer, _BatchNorm):
        return bias
    mean, variance = layer.running_mean, layer.running_var
    assert mean is not None
    assert variance is not None
    scaled = -mean * (variance + layer.eps).rsqrt()
    return scaled * layer.weight + bias if layer.affine else scaled


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


def _names_of_biased_layers(subject: Subject, inputs: Tensor) -> tuple[str, ...]:
    """The layers with a bias that run once, on the way to the model's scores."""
    met: dict[str, list[object]] = defaultdict(list)

    def note(name: str, output: object) -> None:
        met[name].append(output.grad_fn if isinstance(output, Tensor) else None)

    with ExitStack() as hooks, torch.enable_grad():
        for name, layer in subject.module.named_modules():
            if _adds(layer):
                hook = partial(lambda name, module, args, output: note(name, output), name)
                hooks.callback(layer.register_forward_hook(hook).remove)
        scores = subject.scores(inputs.detach().requires_grad_())
        behind = _nodes_behind(scores)
    return tuple(
        displayed(name) for name, nodes in met.items() if len(nodes) == 1 and nodes[0] in behind
    )


def _nodes_behind(scores: Tensor) -> set[object]:
    """All nodes of the graph that the scores come from."""
    found: set[object] = set()
    waiting: list[Any] = [scores.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in found:
            found.add(node)
            waiting += [below for below, _ in node.next_functions]
    return found


def _found(subject: Subject, names: Iterable[str]) -> dict[str, nn.Module]:
    return {name: find_layer(subject.module, name) for name in names}
