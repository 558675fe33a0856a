"""Methods that read the gradient with respect to the input."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_saliency.attribution.arguments import check_baseline, check_whole, is_finite
from lightning_saliency.attribution.method import (
    Channels,
    Evidence,
    Look,
    Maps,
    OverChannels,
    Reduction,
    gap_between,
    over_channels,
)
from lightning_saliency.attribution.points import Clean, Noisy, OnPath, baseline_of
from lightning_saliency.errors import ConfigurationError


@dataclass(frozen=True, kw_only=True)
class Saliency(OverChannels):
    """M = max over channels of |∂s/∂x| (Simonyan, Vedaldi & Zisserman 2013, section 3.1).

    The raw gradient of the score (1312.6034), in units of score per unit of input, ≥ 0. With
    ``channels="signed"`` the sum over channels with its sign, with ``"positive"`` the largest
    positive part: where more of a channel speaks for the class.

    Passes: 1 forward and backward, shared with all that looks at the clean input.
    Good for: what a small change of a pixel would do, on any differentiable net, at no cost.
    Misleads: it is a sensitivity, not a contribution: where the score is saturated a decisive part
    of the image has no gradient. Single maps are noisy.

    Args:
        channels: how channels become one map: ``max``, ``l2``, ``signed`` or ``positive``.
    """

    def looks(self) -> tuple[Look, ...]:
        """The input's gradient at the clean input."""
        return (Look(gradient=True),)

    def reduction(self) -> Reduction:
        """The gradient itself."""
        return OnePass(self.channels, times_input=False)


@dataclass(frozen=True, kw_only=True)
class InputXGradient(OverChannels):
    """x ⊙ ∂s/∂x, reduced over channels (Shrikumar et al. 2016).

    In units of the score (1605.01713). Of a net of ReLUs without biases it sums to the score.

    Passes: 1 forward and backward, shared with all that looks at the clean input.
    Good for: contributions against an all-zero input, at no cost.
    Misleads: the map is 0 where the input is, whatever the net does there, and takes its form from
    the image: on sparse images it hardly changes when the weights are random.

    Args:
        channels: how channels become one map: ``max``, ``l2``, ``signed`` or ``positive``.
    """

    def looks(self) -> tuple[Look, ...]:
        """The input's gradient at the clean input."""
        return (Look(gradient=True),)

    def reduction(self) -> Reduction:
        """The gradient times the input."""
        return OnePass(self.channels, times_input=True)


class OnePass(Reduction):
    """The gradient of a single pass, times the input if that is wanted."""

    def __init__(self, channels: Channels, *, times_input: bool) -> None:
        self._channels = channels
        self._times_input = times_input

    def update(self, evidence: Evidence) -> None:
        gradient = evidence.gradient
        self._signed = gradient * evidence.inputs if self._times_input else gradient

    def compute(self) -> Maps:
        return Maps(over_channels(self._signed, self._channels), self._signed)


@dataclass(frozen=True, kw_only=True)
class _NoisyMethod(OverChannels):
    samples: int = 8
    level: float = 0.15
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole(self, "samples", self.samples, self._fewest)
        check_whole(self, "seed", self.seed, 0)
        if not is_finite(self.level) or self.level < 0:
            raise ConfigurationError(
                f"{type(self).__name__}(level={self.level!r}): the noise level is a share of the "
                "input's range, 0 or more; 0.15 is usual."
            )

    @property
    def _fewest(self) -> int:
        return 1

    def looks(self) -> tuple[Look, ...]:
        """The input's gradient at `samples` noisy copies."""
        points = (Noisy(self.level, index, self.seed) for index in range(self.samples))
        return tuple(Look(point, gradient=True) for point in points)


@dataclass(frozen=True, kw_only=True)
class SmoothGrad(_NoisyMethod):
    """max over channels of |mean of ∂s/∂x at x + σε| (Smilkov et al. 2017).

    The mean of signed gradients at noisy copies (1706.03825), with σ = `level` × (max − min) of
    each probe by itself. The noise of a probe is the same at every observation.

    Passes: 1 forward and backward per sample; SmoothGrad, SmoothGrad² and VarGrad of equal `level`
    and `seed` share them.
    Good for: a quieter gradient, whose drift stands out of the noise.
    Misleads: it shows where the net is sensitive around the image, not at it; few samples leave
    noise of their own.

    Args:
        samples: noisy copies, ≥ 1. Same weights and another seed correlate by 0.78 at 8 samples,
            0.86 at 16 and 0.92 at 32.
        level: σ as a share of the probe's range.
        seed: of the noise.
        channels: how channels become one map: ``max``, ``l2``, ``signed`` or ``positive``.
    """

    def reduction(self) -> Reduction:
        """The running mean of the gradients."""
        return _Mean(self.channels)


@dataclass(frozen=True, kw_only=True)
class SmoothGradSquared(_NoisyMethod):
    """max over channels of the mean of (∂s/∂x)² at x + σε (Hooker et al. 2019).

    SmoothGrad² (1806.10758): squares, so nothing cancels; ≥ 0, in squared units of the gradient.

    Passes: 1 forward and backward per sample, shared with `SmoothGrad`.
    Good for: a ranking of pixels that did best when they were removed and the net was trained anew.
    Misleads: squares make few pixels outshine all others, and lose the sign.

    Args:
        samples: noisy copies, ≥ 1.
        level: σ as a share of the probe's range.
        seed: of the noise.
        channels: how channels become one map: ``max``, ``l2``, ``signed`` or ``positive``.
    """

    def reduction(self) -> Reduction:
        """The running mean of the squared gradients."""
        return _Moments(self.channels, "square")


@dataclass(frozen=True, kw_only=True)
class VarGrad(_NoisyMethod):
    """max over channels of the unbiased variance of ∂s/∂x at x + σε (Adebayo et al. 2018).

    VarGrad (1810.03307); ≥ 0, in squared units of the gradient.

    Passes: 1 forward and backward per sample, shared with `SmoothGrad`.
    Good for: where the gradient is unsteady, which is often along edges that matter.
    Misleads: it says nothing of the direction: a pixel with a large steady gradient is dark.

    Args:
        samples: noisy copies, ≥ 2.
        level: σ as a share of the probe's range.
        seed: of the noise.
        channels: how channels become one map: ``max``, ``l2``, ``signed`` or ``positive``.
    """

    @property
    def _fewest(self) -> int:
        return 2

    def reduction(self) -> Reduction:
        """The running variance of the gradients."""
        return _Moments(self.channels, "variance")


class _Moments(Reduction):
    """Running moments (Welford 1962): no difference of large sums, memory of three gradients."""

    def __init__(self, channels: Channels, moment: str) -> None:
        self._channels = channels
        self._moment = moment
        self._count = 0

    def update(self, evidence: Evidence) -> None:
        gradient = evidence.gradient.square() if self._moment == "square" else evidence.gradient
        self._count += 1
        if self._count == 1:
            self._mean = gradient.clone()
            self._spread = torch.zeros_like(gradient) if self._moment == "variance" else None
            return
        step = gradient - self._mean
        self._mean += step / self._count
        if self._spread is not None:
            self._spread += step * (gradient - self._mean)

    def compute(self) -> Maps:
        signed = self._mean if self._spread is None else self._spread / (self._count - 1)
        return Maps(over_channels(signed, self._channels), signed)


class _Mean(_Moments):
    """The running mean, and that of every other sample beside it."""

    def __init__(self, channels: Channels) -> None:
        super().__init__(channels, "mean")
        self._even: Tensor | None = None

    def update(self, evidence: Evidence) -> None:
        super().update(evidence)
        if self._count % 2 == 0:
            return
        number = (self._count + 1) // 2
        if self._even is None:
            self._even = evidence.gradient.clone()
        else:
            self._even += (evidence.gradient - self._even) / number

    def compute(self) -> Maps:
        maps = super().compute()
        if self._even is None or self._count < 2:
            return maps
        even = (self._count + 1) // 2
        # What is left of the mean of all is the mean of the rest.
        odd = maps.signed + (maps.signed - self._even) * (even / (self._count - even))
        return Maps(maps.map, maps.signed, halves=torch.stack([self._even, odd], dim=1))


@dataclass(frozen=True, kw_only=True)
class IntegratedGradients(OverChannels):
    """(x − x') ⊙ mean of ∂s/∂x on the line from x' to x (Sundararajan et al. 2017, eq. 1).

    In units of the score (1703.01365), by the midpoint rule. The relative gap of its completeness
    axiom, |Σ IG − (s(x) − s(x'))| / |s(x) − s(x')|, is logged beside the map; it is left out where
    the score is the same at both ends.

    Passes: 1 forward and backward per step, and the score at both ends.
    Good for: contributions that add up to the change of the score, saturated or not.
    Misleads: it explains the difference to one baseline: what looks like it is dark, whatever it
    means to the net; and like input × gradient it takes its form from the image.

    Args:
        steps: points on the path, ≥ 1. The median gap is about 0.003 at 16 and 0.001 at 32.
        baseline: x' in the model's input space, one number or one per channel. 0 of a normalised
            input is the mean colour; black is (0 − mean) / std.
        channels: how channels become one map: ``max``, ``l2``, ``signed`` or ``positive``.
    """

    steps: int = 32
    baseline: float | tuple[float, ...] = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole(self, "steps", self.steps, 1)
        check_baseline(self, self.baseline)

    def looks(self) -> tuple[Look, ...]:
        """The score at both ends, and the gradient at the middle of each step between them."""
        path = (OnPath((step + 0.5) / self.steps, self.baseline) for step in range(self.steps))
        ends = (Look(optional=True), Look(OnPath(0.0, self.baseline), optional=True))
        return ends + tuple(Look(point, gradient=True) for point in path)

    def reduction(self) -> Reduction:
        """The running mean of the gradients, times the way."""
        return _Path(self.channels, self.baseline)


class _Path(Reduction):
    def __init__(self, channels: Channels, baseline: float | tuple[float, ...]) -> None:
        self._channels = channels
        self._baseline = baseline
        self._start = OnPath(0.0, baseline)
        self._sum: Tensor | None = None
        self._count = 0
        self._ends: dict[int, Tensor] = {}

    def update(self, evidence: Evidence) -> None:
        if evidence.point == Clean():
            self._ends[1] = evidence.score
        elif evidence.point == self._start:
            self._ends[0] = evidence.score
        else:
            self._count += 1
            gradient, self._probes = evidence.gradient, evidence.probes
            self._sum = gradient.clone() if self._sum is None else self._sum.add_(gradient)

    def compute(self) -> Maps:
        assert self._sum is not None
        way = self._probes - baseline_of(self._probes, self._baseline)
        signed = way * self._sum / self._count
        gap = gap_between(self._ends, signed)
        return Maps(over_channels(signed, self._channels), signed, gap)
