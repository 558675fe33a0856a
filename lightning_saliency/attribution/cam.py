"""Class activation maps: methods that read a layer's activation A and its gradient g = ∂s/∂A.

Maps are at the layer's own resolution; they are enlarged in pictures only.
"""

from __future__ import annotations

from abc import abstractmethod
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from lightning_saliency.attribution.method import Evidence, Look, Maps, Method, Reduction
from lightning_saliency.attribution.subject import Subject
from lightning_saliency.attribution.taps import displayed, find_layer
from lightning_saliency.errors import ConfigurationError


@dataclass(frozen=True)
class _LayerMethod(Method):
    layer: str | None = None

    def __post_init__(self) -> None:
        if not (self.layer is None or isinstance(self.layer, str)):
            raise ConfigurationError(
                f"{type(self).__name__}(layer={self.layer!r}): give the dotted name of a layer, "
                "such as 'features.0', or leave it out."
            )

    def bind(self, subject: Subject, inputs: Tensor) -> Method:
        """The method with the layer's name checked, or found when none was given."""
        if self.layer is None:
            return replace(self, layer=last_spatial_layer(subject, inputs[:1]))
        find_layer(subject.module, self.layer)
        return self

    def looks(self) -> tuple[Look, ...]:
        """The layer's activation and gradient at the clean input."""
        assert self.layer is not None, "bind() names the layer"
        return (Look(layers=(self.layer,)),)

    def reduction(self) -> Reduction:
        """The method's combination of activation and gradient."""
        return _Combination(self)

    @property
    def rectified(self) -> bool:
        """Whether the map keeps what speaks for the class only."""
        return not self.signed

    @abstractmethod
    def combine(self, activation: Tensor, gradient: Tensor) -> Tensor:
        """The map with its sign, `(n, *spatial)`, of A and g `(n, K, *spatial)`."""


class _Combination(Reduction):
    def __init__(self, method: _LayerMethod) -> None:
        self._method = method

    def update(self, evidence: Evidence) -> None:
        layer = self._method.layer
        assert layer is not None
        activation, gradient = evidence.activations[layer], evidence.layer_gradients[layer]
        wanted = max(3, evidence.inputs.ndim)  # tokens (n, T, D) of an image would make nonsense
        if activation.ndim < wanted:
            raise ConfigurationError(
                f"layer={layer!r} returns activations of the shape {tuple(activation.shape)}: a "
                "class activation map needs (n, K, *spatial), with the input's spatial dimensions. "
                "Name a layer before the pooling."
            )
        self._map = self._method.combine(activation, gradient)

    def compute(self) -> Maps:
        signed = self._map
        return Maps(signed.clamp(min=0) if self._method.rectified else signed, signed[:, None])


@dataclass(frozen=True)
class GradCAM(_LayerMethod):
    """ReLU(Σ_k w_k A_k), with w_k the spatial mean of g_k (Selvaraju et al. 2017, eq. 1–2); ≥ 0.

    At the last block before a global average pooling and a linear layer it equals CAM and HiResCAM
    up to scale.

    Args:
        layer: dotted name of the layer; the last spatial one when not given.
    """

    def combine(self, activation: Tensor, gradient: Tensor) -> Tensor:
        """Σ_k mean(g_k) A_k."""
        weights = _spatial_sum(gradient) / gradient[0, 0].numel()
        return (weights * activation).sum(1)


@dataclass(frozen=True)
class HiResCAM(_LayerMethod):
    """Σ_k g_k A_k, with its sign: no ReLU before the picture (Draelos & Carin 2020); any real.

    Args:
        layer: dotted name of the layer; the last spatial one when not given.
    """

    signed = True

    def combine(self, activation: Tensor, gradient: Tensor) -> Tensor:
        """Σ_k g_k A_k."""
        return (gradient * activation).sum(1)


@dataclass(frozen=True)
class LayerCAM(_LayerMethod):
    """ReLU(Σ_k ReLU(g_k) A_k) (Jiang et al. 2021, eq. 5–6); ≥ 0.

    Equals elementwise Grad-CAM where A ≥ 0. The scaling of shallow layers by tanh belongs to the
    fusion of several layers, not to one.

    Args:
        layer: dotted name of the layer; the last spatial one when not given.
    """

    def combine(self, activation: Tensor, gradient: Tensor) -> Tensor:
        """Σ_k ReLU(g_k) A_k."""
        return (gradient.clamp(min=0) * activation).sum(1)


@dataclass(frozen=True)
class GradCAMPlusPlus(_LayerMethod):
    """ReLU(Σ_k w_k A_k), with w_k = Σ_ij α_ij ReLU(g_ij) (Chattopadhyay et al. 2018); ≥ 0.

    α_ij = g_ij² / (2 g_ij² + g_ij³ Σ_ab A_ab), their eq. 19 for an exponential score: the sum runs
    over A alone. α is 0 where g is.

    Args:
        layer: dotted name of the layer; the last spatial one when not given.
    """

    def combine(self, activation: Tensor, gradient: Tensor) -> Tensor:
        """Σ_k Σ_ij α_ij ReLU(g_ij) A_k."""
        # g² cancels: as written, it would underflow to 0 / 0 for the small gradients of a sure net.
        denominator = 2 + gradient * _spatial_sum(activation)
        usable = (gradient != 0) & (denominator != 0)
        alpha = torch.where(usable, denominator.where(usable, 1).reciprocal(), 0)
        weights = _spatial_sum(alpha * gradient.clamp(min=0))
        return (weights * activation).sum(1)


def last_spatial_layer(subject: Subject, inputs: Tensor) -> str:
    """The name of the layer that answers last with a map: `(n, K, *spatial)`, more than one place.

    Spatial means as many spatial dimensions as the input has. Layers that run more than once, such
    as a shared ReLU, are passed over.

    Raises:
        ConfigurationError: the model has no such layer.
    """
    calls: list[tuple[str, bool]] = []

    def note(name: str, output: object) -> None:
        shape = output.shape if isinstance(output, Tensor) else ()
        calls.append((name, len(shape) == inputs.ndim and all(size > 1 for size in shape[2:])))

    with ExitStack() as hooks, torch.no_grad():
        for name, layer in subject.module.named_modules():
            if name:
                hook = partial(lambda name, module, args, output: note(name, output), name)
                hooks.callback(layer.register_forward_hook(hook).remove)
        subject.scores(inputs)
    names = [name for name, _ in calls]
    found = [name for name, spatial in calls if spatial and names.count(name) == 1]
    if not found:
        raise ConfigurationError(
            f"layer=None: {type(subject.module).__name__} has no layer that answers with a map "
            "(n, K, *spatial), so a class activation map has nothing to show. Use a gradient "
            "method, such as 'saliency'."
        )
    return displayed(found[-1])


def _spatial_sum(tensor: Tensor) -> Tensor:
    return tensor.flatten(2).sum(2).view(*tensor.shape[:2], *[1] * (tensor.ndim - 2))
