"""Class activation maps: methods that read a layer's activation A and its gradient g = ∂s/∂A.

Maps are at the layer's own resolution; they are enlarged in pictures only. Tokens of transformers
and channels-last features are laid out as maps, without the tokens that are no patch.

Of several layers, each probe's map of each layer is divided by its peak, enlarged to the finest of
them, and averaged; `LayerCAM` has a rule of its own.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, TypeVar

import torch
from torch import Tensor

from lightning_saliency.attribution.cam_layers import (
    checked_layers,
    last_spatial_layer,
    of_peak_one,
    on_one_grid,
)
from lightning_saliency.attribution.layouts import layouts_of
from lightning_saliency.attribution.method import Evidence, Look, Maps, Method, Reduction
from lightning_saliency.attribution.subject import Subject
from lightning_saliency.attribution.tokens import Layout, as_map

_Bound = TypeVar("_Bound", bound="LayerMethod")


@dataclass(frozen=True)
class LayerMethod(Method):
    """A method that makes a map of each layer that it is given."""

    # No field: one that is not for `__init__` makes the parser of YAML lose the others' types.
    layouts: ClassVar[Mapping[str, Layout] | None] = None

    layer: str | list[str] | tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "layer", checked_layers(self, self.layer))

    @property
    def layers(self) -> tuple[str, ...]:
        """The names of the layers; `bind` finds one when none was given."""
        assert self.layer is not None, "bind() names the layer"
        return (self.layer,) if isinstance(self.layer, str) else tuple(self.layer)

    def bind(self: _Bound, subject: Subject, inputs: Tensor) -> _Bound:
        """The method with its layers, found where none was given, and how they are laid out."""
        if self.layouts is not None:
            return self
        found = last_spatial_layer(subject, inputs) if self.layer is None else self.layer
        bound = replace(self, layer=found)
        object.__setattr__(bound, "layouts", layouts_of(subject, inputs, bound.layers))
        return bound

    def map_of(self, activation: Tensor, inputs: Tensor, layer: str) -> Tensor:
        """What a layer answered, or its gradient, laid out as `(n, K, *spatial)`."""
        return as_map(activation, inputs, layer, (self.layouts or {}).get(layer))

    @property
    def rectified(self) -> bool:
        """Whether the map keeps what speaks for the class only."""
        return not self.signed

    def fuse(self, maps: Sequence[Tensor]) -> Tensor:
        """One map `(n, *spatial)` of those of several layers."""
        return on_one_grid([of_peak_one(one) for one in maps]).mean(0)

    def maps_of(self, signed: Sequence[Tensor]) -> Maps:
        """What the method says, of the maps with their sign of each layer, `(n, *spatial)`."""
        maps = [one.clamp(min=0) for one in signed] if self.rectified else signed
        if len(maps) == 1:
            return Maps(maps[0], signed[0][:, None])
        return Maps(self.fuse(maps), self.fuse(signed)[:, None])


@dataclass(frozen=True)
class _GradientCAM(LayerMethod):
    def looks(self) -> tuple[Look, ...]:
        """The layers' activations and gradients at the clean input."""
        return (Look(layers=self.layers),)

    def reduction(self) -> Reduction:
        """The method's combination of activation and gradient."""
        return _Combination(self)

    @abstractmethod
    def combine(self, activation: Tensor, gradient: Tensor) -> Tensor:
        """The map with its sign, `(n, *spatial)`, of A and g `(n, K, *spatial)`."""


class _Combination(Reduction):
    def __init__(self, method: _GradientCAM) -> None:
        self._method = method

    def update(self, evidence: Evidence) -> None:
        self._maps = [
            self._method.combine(
                self._method.map_of(evidence.activations[layer], evidence.inputs, layer),
                self._method.map_of(evidence.layer_gradients[layer], evidence.inputs, layer),
            )
            for layer in self._method.layers
        ]

    def compute(self) -> Maps:
        return self._method.maps_of(self._maps)


@dataclass(frozen=True)
class GradCAM(_GradientCAM):
    """ReLU(Σ_k w_k A_k), with w_k the spatial mean of g_k (Selvaraju et al. 2017, eq. 1–2).

    In units of the score per place, ≥ 0, at the layer's resolution (1610.02391). At the last block
    before a global average pooling and a linear layer it equals CAM and HiResCAM up to scale.

    Passes: 1 forward and backward, down to the layer.
    Good for: which region speaks for the class; the usual choice at the last block of a CNN.
    Misleads: below the last block, and where a linear layer reads the places one by one instead of
        their mean: the mean of g_k forgets the place. Several objects merge.

    Args:
        layer: dotted name of the layer, or a list of names whose maps are fused; when not given,
            the last layer with a map that the score depends on.
    """

    def combine(self, activation: Tensor, gradient: Tensor) -> Tensor:
        """Σ_k mean(g_k) A_k."""
        return (_spatial_mean(gradient) * activation).sum(1)


@dataclass(frozen=True)
class HiResCAM(_GradientCAM):
    """Σ_k g_k A_k, with its sign: no ReLU before the picture (Draelos & Carin 2020).

    In units of the score, any real, at the layer's resolution (2011.08891). Where linear layers
    alone follow, it sums to the score less their biases.

    Passes: 1 forward and backward, down to the layer.
    Good for: exactly what the score used of the layer; evidence for and against the class.
    Misleads: at shallow layers it is as noisy as the gradient.

    Args:
        layer: dotted name of the layer, or a list of names whose maps are fused; when not given,
            the last layer with a map that the score depends on.
    """

    signed = True

    def combine(self, activation: Tensor, gradient: Tensor) -> Tensor:
        """Σ_k g_k A_k."""
        return (gradient * activation).sum(1)


@dataclass(frozen=True)
class LayerCAM(_GradientCAM):
    """ReLU(Σ_k ReLU(g_k) A_k) (Jiang et al. 2021, eq. 5–6).

    In units of the score, ≥ 0, at the layer's resolution (IEEE TIP 30, 5875). Equals elementwise
    Grad-CAM where A ≥ 0. Of several layers, the largest of tanh(2 M / max M) at each place: the
    tanh lifts the faint maps of shallow layers.

    Passes: 1 forward and backward, down to the lowest layer.
    Good for: fine detail from shallow layers; several layers at once.
    Misleads: what speaks against the class is left out, so a map is never empty.

    Args:
        layer: dotted name of the layer, or a list of names whose maps are fused; when not given,
            the last layer with a map that the score depends on.
    """

    def combine(self, activation: Tensor, gradient: Tensor) -> Tensor:
        """Σ_k ReLU(g_k) A_k."""
        return (gradient.clamp(min=0) * activation).sum(1)

    def fuse(self, maps: Sequence[Tensor]) -> Tensor:
        """The largest in magnitude over the layers, each through tanh(2 M / max M)."""
        scaled = on_one_grid([(2 * of_peak_one(one)).tanh() for one in maps])
        return scaled.gather(0, scaled.abs().argmax(0, keepdim=True))[0]


@dataclass(frozen=True)
class GradCAMPlusPlus(_GradientCAM):
    """ReLU(Σ_k w_k A_k), w_k = Σ_ij α_ij ReLU(g_ij) (Chattopadhyay et al. 2018).

    α_ij = g_ij² / (2 g_ij² + g_ij³ Σ_ab A_ab), their eq. 19 for an exponential score: the sum runs
    over A alone. α is 0 where g is. In units of the score, ≥ 0, at the layer's resolution
    (1710.11063).

    Passes: 1 forward and backward, down to the layer.
    Good for: several objects of the class in one image, and whole objects.
    Misleads: α assumes an exponential score; 1 / α may vanish where g < 0 and make peaks. It fails
        the check of Adebayo et al. 2018: with random weights its maps rank places as those of the
        trained net do (rank correlation 0.90, ``benchmarks/sanity.py``).

    Args:
        layer: dotted name of the layer, or a list of names whose maps are fused; when not given,
            the last layer with a map that the score depends on.
    """

    caution = "nearly blind to the weights"

    def combine(self, activation: Tensor, gradient: Tensor) -> Tensor:
        """Σ_k Σ_ij α_ij ReLU(g_ij) A_k."""
        # g² cancels: as written, it would underflow to 0 / 0 for the small gradients of a sure net.
        denominator = 2 + gradient * _spatial_sum(activation)
        usable = (gradient != 0) & (denominator != 0)
        alpha = torch.where(usable, denominator.where(usable, 1).reciprocal(), 0)
        weights = _spatial_sum(alpha * gradient.clamp(min=0))
        return (weights * activation).sum(1)


@dataclass(frozen=True)
class XGradCAM(_GradientCAM):
    """ReLU(Σ_k w_k A_k), w_k = Σ_ij g_ij A_ij / Σ_ij A_ij (Fu et al. 2020).

    The mean of g_k weighed by A_k. In units of the score per place, ≥ 0, at the layer's resolution
    (2008.02312). The weights of that mean are no weights where A_k has both signs and cancels: of
    a channel whose sum is less than 1 % of Σ_ij |A_ij|, w_k is the plain mean of g_k, Grad-CAM's,
    to which the formula comes for an even g_k.

    Passes: 1 forward and backward, down to the layer.
    Good for: layers after a ReLU, above which the map should add up to the score.
    Misleads: after layers without a ReLU, where channels nearly cancel and one may rule the map.

    Args:
        layer: dotted name of the layer, or a list of names whose maps are fused; when not given,
            the last layer with a map that the score depends on.
    """

    def combine(self, activation: Tensor, gradient: Tensor) -> Tensor:
        """Σ_k (Σ_ij g_ij A_ij / Σ_ij A_ij) A_k."""
        total = _spatial_sum(activation)
        usable = total.abs() > 0.01 * _spatial_sum(activation.abs())
        weighed = _spatial_sum(gradient * activation) / total.where(usable, 1)
        return (torch.where(usable, weighed, _spatial_mean(gradient)) * activation).sum(1)


def _spatial_sum(tensor: Tensor) -> Tensor:
    return tensor.flatten(2).sum(2).view(*tensor.shape[:2], *[1] * (tensor.ndim - 2))


def _spatial_mean(tensor: Tensor) -> Tensor:
    return _spatial_sum(tensor) / tensor[0, 0].numel()
