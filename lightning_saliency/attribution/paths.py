"""Methods that add up gradients on a way to the probe: out of a blur, or guided by the net."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from lightning_saliency.attribution.arguments import (
    check_baseline,
    check_between,
    check_whole,
    is_finite,
)
from lightning_saliency.attribution.looking import full
from lightning_saliency.attribution.method import (
    Evidence,
    Look,
    Maps,
    Method,
    OverChannels,
    Reduction,
    gap_between,
    over_channels,
)
from lightning_saliency.attribution.points import Clean, OnPath, Point, baseline_like
from lightning_saliency.attribution.subject import Subject
from lightning_saliency.errors import ConfigurationError


@dataclass(frozen=True, kw_only=True)
class BlurIG(OverChannels):
    """∫ ∂s/∂L ⊙ dL on the way of the probe out of a Gaussian blur L (Xu et al. 2020).

    Blur integrated gradients (2004.03383). The width σ of the blur falls from `max_sigma` to 0 in
    equal steps. In units of the score: attributions sum to s(x) − s(blurred x), and the relative
    gap of that is logged as ``completeness_gap``. The kernel is sampled and cut at 4 σ, and outside
    of the input is 0, as in the authors' code. There, a step takes the gradient at its start and a
    difference quotient of the blur; here the gradient at its middle and the way between its ends:
    exact for a linear net. The median gap of a small net is 0.007 at 16 steps and 0.003 at 32
    (0.047 and 0.006 their way).

    Passes: 1 forward and backward per step, and one forward pass.
    Good for: what is recognised by its shape or texture; no baseline colour has to be chosen.
    Misleads: flat areas get nothing, whatever they mean: a blur doesn't change them. So its maps
        take their form from the image: with random weights their sizes rank as those of the trained
        net do (rank correlation 0.53, ``benchmarks/sanity.py``); the signs don't.

    Args:
        steps: widths on the way, ≥ 1.
        max_sigma: the widest σ in pixels, > 0; 50 of 224 pixels of the longest side when not given.
        channels: how channels become one map: ``max``, ``l2``, ``signed`` or ``positive``.
    """

    caution: ClassVar[str] = "takes its form from the image"

    steps: int = 32
    max_sigma: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole(self, "steps", self.steps, 1)
        width = self.max_sigma
        if width is not None and (isinstance(width, bool) or not is_finite(width) or width <= 0):
            raise ConfigurationError(
                f"BlurIG(max_sigma={width!r}): give the width of the widest blur in pixels, above "
                "0, or leave it out."
            )

    def bind(self, subject: Subject, inputs: Tensor) -> Method:
        """The method with a width that fits the probes."""
        if self.max_sigma is not None:
            return self
        return replace(self, max_sigma=max(inputs.shape[2:]) * 50 / 224)

    def sigma(self, step: float) -> float:
        """The width after `step` of the `steps` steps away from the probe."""
        assert self.max_sigma is not None, "bind() finds the width"
        return self.max_sigma * step / self.steps

    def looks(self) -> tuple[Look, ...]:
        """The score at both ends, and the gradient at the middle of each step between them."""
        path = (Blurred(self.sigma(step + 0.5)) for step in range(self.steps))
        blurry = Look(Blurred(self.sigma(self.steps)), optional=True)
        return Look(optional=True), blurry, *(Look(point, gradient=True) for point in path)

    def reduction(self) -> Reduction:
        """The running sum of gradients times ways."""
        return _OutOfBlur(self)


@dataclass(frozen=True)
class Blurred(Point):
    """The probe under a Gaussian of the width `sigma`, in pixels; outside of it is 0."""

    sigma: float

    def at(self, inputs: Tensor, first: int) -> Tensor:
        return torch.empty_like(inputs).copy_(blurred(full(inputs), self.sigma))


def blurred(inputs: Tensor, sigma: float) -> Tensor:
    """`inputs` `(n, C, *spatial)` under a Gaussian that is sampled and cut at 4 σ, with sum 1."""
    reach = int(4 * sigma + 0.5)
    if reach == 0:
        return inputs
    places = torch.arange(max(inputs.shape[2:]), dtype=torch.float64, device=inputs.device)
    distance = (places[:, None] - places).abs()
    weights = distance.div(sigma).square().mul(-0.5).exp() * (distance <= reach)
    weights /= sum(math.exp(-0.5 * (place / sigma) ** 2) for place in range(-reach, reach + 1))
    weights = weights.to(inputs.dtype)
    return along_axes(inputs, [weights[:size, :size] for size in inputs.shape[2:]])


def along_axes(inputs: Tensor, matrices: Sequence[Tensor]) -> Tensor:
    """Multiply each spatial axis of `(n, C, *spatial)` by a matrix of its own, `(after, before)`.

    A separable filter or resize is that, with zeros around; its transpose has the matrices
    transposed.
    """
    for axis, matrix in enumerate(matrices, start=2):
        inputs = (inputs.movedim(axis, -1) @ matrix.T).movedim(-1, axis)
    return inputs


class _OutOfBlur(Reduction):
    def __init__(self, method: BlurIG) -> None:
        self._method = method
        self._blurry = Blurred(method.sigma(method.steps))
        middles = (method.sigma(step + 0.5) for step in range(method.steps))
        self._steps = {sigma: step for step, sigma in enumerate(middles)}
        self._sum: Tensor | float = 0.0
        self._ends: dict[int, Tensor] = {}

    def update(self, evidence: Evidence) -> None:
        point = evidence.point
        if point == Clean():
            self._ends[1] = evidence.score
        elif point == self._blurry:
            self._ends[0] = evidence.score
        else:
            assert isinstance(point, Blurred)
            step = self._steps[point.sigma]
            near, far = (self._method.sigma(one) for one in (step, step + 1))
            way = blurred(evidence.probes, near) - blurred(evidence.probes, far)
            self._sum += way * evidence.gradient

    def compute(self) -> Maps:
        assert isinstance(self._sum, Tensor)
        maps = over_channels(self._sum, self._method.channels)
        return Maps(maps, self._sum, gap_between(self._ends, self._sum))


@dataclass(frozen=True, kw_only=True)
class GuidedIG(OverChannels):
    """∫ ∂s/∂x ⊙ dx on a way from x' to x that small gradients go first (Kapishnikov et al. 2021).

    Guided integrated gradients (2106.09788). Each step takes 1 / `steps` of the L1 distance from x'
    to x: features move in groups of a `fraction` of all, those of the smallest |∂s/∂x| first, and
    none leaves the straight line by more than `max_dist`. In units of the score: attributions sum
    to s(x) − s(x'), and the relative gap of that is logged as ``completeness_gap``. The way is that
    of the authors' code. There, the gradient of a step is the one at its start; here it is the mean
    of those at its ends: the median gap of a small net at 32 steps is 0.003, not 0.026.

    Passes: 1 forward and backward per step, one after the other, and one at the clean input.
    Good for: less speckle than integrated gradients where the net is sure.
    Misleads: the way depends on the net, so two checkpoints are compared on different ways.

    Args:
        steps: ≥ 1.
        fraction: of the features that move first, above 0 and up to 1. With 1 and `max_dist` 1 all
            move at once: integrated gradients.
        max_dist: how far a feature may be ahead of the straight line or behind, as a share of its
            whole way, 0..1. With 0 it is integrated gradients.
        baseline: x' in the model's input space, one number or one per channel.
        channels: how channels become one map: ``max``, ``l2``, ``signed`` or ``positive``.
    """

    steps: int = 32
    fraction: float = 0.25
    max_dist: float = 0.02
    baseline: float | tuple[float, ...] = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole(self, "steps", self.steps, 1)
        check_between(self, "fraction", self.fraction, 0.0, 1.0)
        check_between(self, "max_dist", self.max_dist, 0.0, 1.0)
        check_baseline(self, self.baseline)
        if self.fraction == 0:
            raise ConfigurationError(
                "GuidedIG(fraction=0): no feature would move. Give a fraction above 0, up to 1."
            )

    def looks(self) -> tuple[Look, ...]:
        """The gradient at both ends; those between depend on what is seen."""
        return Look(gradient=True), Look(OnPath(0.0, self.baseline), gradient=True)

    def reduction(self) -> Reduction:
        """The running sum of gradients times ways, and the next point of the way."""
        return _Guided(self)


class _At(Point):
    """Where a reduction has brought the probes of its chunk."""

    def __init__(self, place: Tensor) -> None:
        self._place = place

    def at(self, inputs: Tensor, first: int) -> Tensor:
        return torch.empty_like(inputs).copy_(self._place)


class _Guided(Reduction):
    def __init__(self, method: GuidedIG) -> None:
        self._method = method
        self._step = 0

    def update(self, evidence: Evidence) -> None:
        if evidence.point == Clean():
            self._inputs, self._end_score = evidence.inputs, evidence.score
            self._last = evidence.gradient
            self._start = self._place = baseline_like(evidence.inputs, self._method.baseline)
            self._sum, self._way = torch.zeros_like(self._start), torch.zeros_like(self._start)
            return
        if self._step == 0:
            self._start_score = evidence.score
        self._gradient = evidence.gradient

    def further(self) -> tuple[Look, ...]:
        if self._step == self._method.steps:
            return ()
        place = self._next()
        way = place - self._place
        self._sum += self._gradient * (self._way + way) / 2
        self._place, self._way = place, way
        self._step += 1
        if self._step < self._method.steps:
            return (Look(_At(place), gradient=True),)
        self._sum += self._last * way / 2
        return ()

    def _next(self) -> Tensor:
        method = self._method
        share = (self._step + 1) / method.steps
        line = self._inputs - self._start
        low = self._start + line * max(share - method.max_dist, 0.0)
        high = self._start + line * min(share + method.max_dist, 1.0)
        behind = (self._place - self._start).abs() < (low - self._start).abs()
        place = low.where(behind, self._place)
        target = line.abs().flatten(1).sum(1) * (1 - share)
        need = (self._inputs - place).abs().flatten(1).sum(1) - target
        moved = guided(
            place.flatten(1), high.flatten(1), self._gradient.flatten(1), need, method.fraction
        )
        return moved.view_as(place)

    def compute(self) -> Maps:
        maps = over_channels(self._sum, self._method.channels)
        ends = {0: self._start_score, 1: self._end_score}
        return Maps(maps, self._sum, gap_between(ends, self._sum))


def guided(place: Tensor, high: Tensor, gradient: Tensor, need: Tensor, fraction: float) -> Tensor:
    """Move features of the smallest gradients towards `high` until a distance is covered.

    Groups of a `fraction` of all features move one after the other, each wholly, but the last one
    in part. Nothing here waits for the device: the number of groups is known beforehand.

    Args:
        place: `(n, F)`, where the features are.
        high: `(n, F)`, how far they may go.
        gradient: `(n, F)`.
        need: `(n,)`, the sum of the distances that are to be covered.
        fraction: in (0, 1].
    """
    features = place.shape[1]
    size = int(fraction * (features - 1)) + 1
    keys = gradient.abs().where(place != high, torch.inf)
    need, room = need.clamp(min=0), (high - place).abs()
    for _ in range(-(-features // size)):
        group = keys.topk(size, dim=1, largest=False, sorted=False).values
        chosen = (keys <= group.amax(1, keepdim=True)) & (keys < torch.inf)
        ability = (room * chosen).sum(1)
        share = (need / ability.where(ability > 0, 1)).clamp(max=1)
        place = torch.lerp(place, high, share[:, None] * chosen)
        need = need - share * ability
        keys = keys.where(~chosen, torch.inf)
    return place
