"""Class activation maps of forward passes alone, for models and layers without a gradient."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_saliency.attribution.arguments import check_whole
from lightning_saliency.attribution.cam import LayerMethod
from lightning_saliency.attribution.cam_layers import enlarged
from lightning_saliency.attribution.method import Evidence, Look, Maps, Reduction
from lightning_saliency.attribution.rules import Rule

_ROWS = 32
"""Rows that fill a machine."""


@dataclass(frozen=True)
class EigenCAM(LayerMethod):
    """ReLU(Σ_k v_k A_k), v the first right-singular vector of A (Muhammad & Yeasin 2020).

    A is the matrix of places × channels, not centred. In units of the activation, ≥ 0, at the
    layer's resolution (2008.00299). A singular vector has no sign: it is the one that leaves the
    larger part of the map positive, in squares, so that of A ≥ 0 nothing is cut off.

    Passes: 1 forward, shared with all methods at the clean input; no backward.
    Good for: what a layer mostly sees, in models without gradients; the same map for every class.
    Misleads: it knows no class and no score, so what stands out is not what decides. It fails the
        check of Adebayo et al. 2018: with random weights its maps rank places as those of the
        trained net do (rank correlation 0.94, ``benchmarks/sanity.py``).

    Args:
        layer: dotted name of the layer, or a list of names whose maps are fused; when not given,
            the last layer with a map that the score depends on.
    """

    caution = "the same for every class, nearly blind to the weights"

    def looks(self) -> tuple[Look, ...]:
        """The layers' activations at the clean input."""
        return (Look(activations=self.layers),)

    def reduction(self) -> Reduction:
        """The projection of each layer's activation."""
        return _Projection(self)


class _Projection(Reduction):
    def __init__(self, method: EigenCAM) -> None:
        self._method = method

    def update(self, evidence: Evidence) -> None:
        method = self._method
        self._maps = [
            first_projection(method.map_of(evidence.activations[layer], evidence.inputs, layer))
            for layer in method.layers
        ]

    def compute(self) -> Maps:
        return self._method.maps_of(self._maps)


def first_projection(activation: Tensor) -> Tensor:
    """Σ_k v_k A_k `(n, *spatial)` of A `(n, K, *spatial)`, v its first right-singular vector.

    NaN where A is not finite.
    """
    flat = activation.flatten(2)
    finite = flat.isfinite().all(2).all(1)[:, None, None]
    flat = flat.where(finite, 0)  # else the solver raises for all probes
    peak = flat.abs().amax((1, 2), keepdim=True)
    unit = flat / peak.where(peak > 0, 1)
    channels, places = unit.shape[1:]
    # Of the smaller Gram matrix: 49 × 49 instead of 512 × 512 at the last block of a resnet.
    if channels <= places:
        vector = torch.linalg.eigh(unit @ unit.mT).eigenvectors[..., -1:]
    else:
        vector = unit @ torch.linalg.eigh(unit.mT @ unit).eigenvectors[..., -1:]
    norm = vector.norm(dim=1, keepdim=True)
    projection = (vector / norm.where(norm > 0, 1)).mT @ unit
    against = (projection * projection.abs()).sum(2, keepdim=True) < 0
    signed = torch.where(against, -projection, projection) * peak
    return signed.where(finite, torch.nan).view(len(activation), *activation.shape[2:])


@dataclass(frozen=True)
class ChannelMethod(LayerMethod):
    """A method that weighs the channels of a layer by one look at each.

    `channels` limits them: the number of looks is that of the channels.
    """

    channels: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.channels is not None:
            check_whole(self, "channels", self.channels, 1)

    def looks(self) -> tuple[Look, ...]:
        """The layers' activations at the clean input: what else is looked at follows from them."""
        return (Look(activations=self.layers),)


class OfChannels(Rule):
    """A pass for some channels of a layer: the probes once for each, with something done to it.

    The copies come one after the other, each with all probes: rows `(copies · n)`.
    """

    def __init__(self, layer: str, copies: int) -> None:
        self.layer, self.copies = layer, copies

    def classes(self, targets: Tensor) -> Tensor:
        return targets.repeat(self.copies)


class Weighing(Reduction):
    """First the activations; then a round of looks at channels, whose scores weigh them."""

    def __init__(self, method: ChannelMethod) -> None:
        self._method = method
        self._kept: dict[str, Kept] = {}
        self._scores: dict[str, list[Tensor]] = {layer: [] for layer in method.layers}
        self._asked = False
        self._rows = _ROWS

    def allow(self, rows: int) -> None:
        """Let no pass take more rows than memory allowed for one of probes."""
        self._rows = min(_ROWS, rows)

    def update(self, evidence: Evidence) -> None:
        if self._asked:
            assert isinstance(evidence.rule, OfChannels)
            scores = evidence.score.view(evidence.rule.copies, -1)
            self._scores[evidence.rule.layer].append(scores.T)
            return
        self._take(evidence)
        method, seen = self._method, evidence.activations
        self._kept = {
            layer: Kept(method.map_of(seen[layer], evidence.inputs, layer), self._most)
            for layer in method.layers
        }

    def _take(self, clean: Evidence) -> None:
        """What is needed of the clean pass; its evidence may hold what other methods asked for."""

    def further(self) -> tuple[Look, ...]:
        if self._asked:
            return ()
        self._asked = True
        return tuple(
            Look(rule=rule) for layer in self._method.layers for rule in self._passes(layer)
        )

    def compute(self) -> Maps:
        maps = self._method.maps_of(
            [
                torch.einsum("nk,nk...->n...", self._weights(layer), kept.activation)
                for layer, kept in self._kept.items()
            ]
        )
        if self._most is None:
            return maps
        share = torch.stack([kept.share for kept in self._kept.values()]).mean(0)
        return Maps(maps.map, maps.signed, {"channels_share": share})

    @property
    def _most(self) -> int | None:
        return self._method.channels

    def _weights(self, layer: str) -> Tensor:
        """The weights `(n, k)` of the channels that are kept."""
        return self._weigh(torch.cat(self._scores[layer], 1))

    @abstractmethod
    def _passes(self, layer: str) -> Iterator[OfChannels]:
        """How the passes run that look at the channels of a layer, in their order."""

    @abstractmethod
    def _weigh(self, scores: Tensor) -> Tensor:
        """The weights of the scores `(n, k)` of these passes."""


class Kept:
    """The channels of a layer that are looked at: all of them, or of each probe the most active.

    Attributes:
        activation: `(n, k, *spatial)` of these channels.
        channels: `(n, k)`, which they are.
        share: `(n,)`, their part of Σ |A| over all channels.
    """

    def __init__(self, activation: Tensor, most: int | None) -> None:
        size = activation.flatten(2).abs().sum(2)
        probes, count = size.shape
        if most is None or most >= count:
            self.activation = activation
            self.channels = torch.arange(count, device=size.device).expand(probes, -1)
        else:
            self.channels = size.topk(most, 1).indices
            rows = torch.arange(probes, device=size.device)[:, None]
            self.activation = activation[rows, self.channels]
        whole = size.sum(1)
        self.share = size.gather(1, self.channels).sum(1) / whole.where(whole > 0, 1)


@dataclass(frozen=True)
class ScoreCAM(ChannelMethod):
    """ReLU(Σ_k w_k A_k), w = softmax_k s(x ⊙ M_k) (Wang et al. 2020, algorithm 1).

    M_k is A_k enlarged to the input and min–max scaled to 0…1; a channel of one value everywhere
    masks everything. x ⊙ M_k fades to 0 of the input space, of a normalised input the mean colour.
    The softmax runs over channels, so that the score of any baseline cancels. In units of the
    activation, ≥ 0, at the layer's resolution (1910.01279).

    Passes: 1 forward per channel, 512 at the last block of a resnet18, 2,048 of a resnet50, those
    of few probes together, 32 rows at a time; no backward. Not in every validation.
    Good for: what the class is worth to the model where gradients vanish or mislead.
    Misleads: scores far apart let one channel rule the map; a masked image is one never trained on.
        It fails the check of Adebayo et al. 2018: with random weights its maps rank places as those
        of the trained net do (rank correlation 0.81, ``benchmarks/sanity.py``).

    Args:
        layer: dotted name of the layer, or a list of names whose maps are fused; when not given,
            the last layer with a map that the score depends on.
        channels: at most so many channels, ≥ 1: of each probe those with the largest Σ |A|. The
            others have weight 0, and ``channels_share`` says what part of Σ |A| is left, 0…1. All
            channels when not given.
    """

    caution = "nearly blind to the weights"

    def reduction(self) -> Reduction:
        """Softmax over channels of the masked scores."""
        return _Masking(self)


class Masked(OfChannels):
    """The probes, seen through channels: through another one in each copy."""

    def __init__(self, layer: str, channels: Tensor) -> None:
        """Of `channels` `(n, copies, *spatial of the layer)`."""
        super().__init__(layer, channels.shape[1])
        self._channels = channels

    def entering(self, inputs: Tensor) -> Tensor:
        masks = enlarged(self._channels.transpose(0, 1).flatten(0, 1), inputs.shape[2:])
        flat = masks.flatten(1)
        low, high = flat.amin(1, keepdim=True), flat.amax(1, keepdim=True)
        spread = high - low
        unit = (flat - low).div_(spread.where(spread > 0, 1)).to(inputs.dtype)
        # As (copies, n, 1, *spatial), so that the probes needn't be copied to be multiplied.
        masked = inputs * unit.view(self.copies, len(inputs), 1, *inputs.shape[2:])
        return masked.flatten(0, 1)


class _Masking(Weighing):
    def _passes(self, layer: str) -> Iterator[Masked]:
        activation = self._kept[layer].activation
        copies = max(1, self._rows // len(activation))
        for channels in torch.split(activation, copies, 1):
            yield Masked(layer, channels)

    def _weigh(self, scores: Tensor) -> Tensor:
        return scores.softmax(1)
