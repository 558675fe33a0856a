"""Methods that explain a score by whole segments of the input: KernelSHAP and LIME.

A segment that is absent takes the baseline. The score of each coalition of segments is one forward
pass; a linear model of the scores over the coalitions gives each segment its weight.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lightning_saliency.attribution.arguments import check_baseline, check_whole, is_finite
from lightning_saliency.attribution.coalitions import (
    Moments,
    Sampling,
    fair_coins,
    fewest,
    nearness,
)
from lightning_saliency.attribution.dividing import Segments, check_segments, divided
from lightning_saliency.attribution.method import (
    Evidence,
    Look,
    Maps,
    Method,
    Reduction,
    completeness_gap,
)
from lightning_saliency.attribution.perturbation import check_cells, knowing
from lightning_saliency.attribution.points import Clean, OnPath, Point, baseline_of
from lightning_saliency.attribution.subject import Subject
from lightning_saliency.errors import ConfigurationError


@dataclass(frozen=True, kw_only=True)
class _SegmentMethod(Method):
    signed = True

    samples: int = 512
    segments: Segments = "grid"
    cells: int = 7
    baseline: float | tuple[float, ...] = 0.0
    seed: int = 0
    labels: ClassVar[Tensor]  # of what `bind` returns: `(N, *spatial)`, or `(1, *spatial)` for all
    counts: ClassVar[tuple[int, ...]] = ()  # M of each probe, or of all

    def __post_init__(self) -> None:
        check_whole(self, "samples", self.samples, 1)
        check_whole(self, "cells", self.cells, 1)
        check_whole(self, "seed", self.seed, 0)
        check_baseline(self, self.baseline)
        check_segments(self, self.segments)

    def bind(self, subject: Subject, inputs: Tensor) -> Method:
        """The method with the segments of these inputs: they are found once, on the CPU."""
        if self.segments == "grid":
            check_cells(self, self.cells, inputs)
        labels = divided(inputs, self.segments, self.cells)
        counts = tuple(int(one.max()) + 1 for one in labels)
        self._check(max(counts))
        small = torch.int16 if max(counts) < 2**15 else torch.int32
        return knowing(self, labels=labels.to(inputs.device, small), counts=counts)

    def reduction(self) -> Reduction:
        """Sums over the coalitions."""
        return _Coalitions(self)

    def _check(self, most: int) -> None:
        """Raise a `ConfigurationError` when the samples can't determine so many weights."""

    @property
    @abstractmethod
    def rounds(self) -> int:
        """Coalitions per probe: the same number for all, on all ranks."""

    @abstractmethod
    def drawn(self, segments: int, probe: int) -> tuple[Tensor, Tensor]:
        """Coalitions `(count, M)` of a probe and their weights `(count,)`, at most `rounds`."""

    @abstractmethod
    def solved(self, sums: Moments, whole: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Each segment's weight `(n, M)`, and numbers `(n,)`, of what was seen.

        Args:
            sums: over the coalitions.
            whole: `(n,)`, s(x) − s(baseline).
        """


@dataclass(frozen=True, kw_only=True)
class KernelSHAP(_SegmentMethod):
    """φ of least kernel-weighted error with Σφ = s(x) − s(baseline) (Lundberg & Lee 2017, thm. 2).

    Shapley values of segments, in units of the score, with their sign; each pixel has the value of
    its segment, not divided by its area. Exactly the Shapley values where `samples` ≥ 2^M − 2, with
    M segments. Fewer samples are spent from both ends of the coalition sizes inwards; what is drawn
    comes in complementary pairs (Covert & Lee 2021), and the efficiency constraint always holds
    exactly, so ``completeness_gap`` is rounding. ``fit`` is the weighted R² of the linear model:
    how far the score is a sum over segments. arXiv 1705.07874; the solve is in float64.

    Passes: 1 forward per sample and two for the ends: 514 with the defaults.
    Good for: fair shares of the score between few parts of the input.
    Misleads: coalitions are pictures that the model has never seen; what lies inside a segment is
        not told apart.

    Args:
        samples: coalitions, at least 2 per segment. Of 49 segments the relative error is 0.21 at
            104 samples, 0.20 at 256, 0.12 at 512 and 0.08 at 1,024 (digits, a small convolutional
            net).
        segments: ``grid`` (equal cells), ``slic`` (superpixels of scikit-image, extra
            ``segments``; about as many as the grid has), or a callable or its import path: from an
            image `(C, *spatial)`, float32 on the CPU, to whole numbers `(*spatial)`.
        cells: of the grid per side, 1 to the input's side.
        baseline: what an absent segment shows, in the model's input space, one number or one per
            channel. 0 of a normalised input is the mean colour.
        seed: of the coalitions, which differ from probe to probe and are the same at every
            observation.

    Raises:
        ConfigurationError: fewer samples than 2 per segment, segments of a wrong shape, or
            scikit-image is missing.
    """

    def _check(self, most: int) -> None:
        if self.samples < fewest(most):
            raise ConfigurationError(
                f"KernelSHAP(samples={self.samples}) can't tell {most} segments apart: give at "
                f"least samples={fewest(most)}, or fewer segments with cells=…."
            )

    @property
    def rounds(self) -> int:
        """As many as the probe with the most of them has."""
        return max(1, *(Sampling(count, self.samples).count for count in set(self.counts)))

    def drawn(self, segments: int, probe: int) -> tuple[Tensor, Tensor]:
        """Whole sizes, and complementary pairs."""
        sampling = Sampling(segments, self.samples)
        return sampling.draw(self.seed, probe), sampling.weights()

    def solved(self, sums: Moments, whole: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The weights under the constraint."""
        found = sums.additive(whole)
        gap = completeness_gap(found.sum(1), whole)
        return found, {"completeness_gap": gap, "fit": sums.fit(found)}

    def looks(self) -> tuple[Look, ...]:
        """The score with all segments and with none; the coalitions come after."""
        return Look(), Look(OnPath(0.0, self.baseline))


@dataclass(frozen=True, kw_only=True)
class LIME(_SegmentMethod):
    """β of least error π(z) (s(z) − c − zᵀβ)² summed over z, + α‖β‖² (Ribeiro et al. 2016, eq. 1).

    Weights of segments, in units of the score, with their sign; each pixel has the weight of its
    segment. z are coalitions in which a segment is seen with probability ½, and the whole input;
    π(z) = exp(−D² / 2 width²), D = 1 − √(share of segments seen), the cosine distance to the whole
    input, as the authors' program has it; all segments are features. ``fit`` is the weighted R²:
    below about 0.5 the weights say little. arXiv 1602.04938; the solve is in float64.

    Passes: 1 forward per sample and one for the input: 513 with the defaults.
    Good for: a linear picture of the model near one input, with its own measure of trust.
    Misleads: by `width`, which decides what "near" is; and as KernelSHAP does.

    Args:
        samples: coalitions, ≥ 1. Same weights and another seed correlate, over 49 segments, by
            0.87 at 128 samples, 0.94 at 256, 0.97 at 512 and 0.99 at 1,024.
        segments: as of `KernelSHAP`.
        cells: of the grid per side, 1 to the input's side.
        baseline: what an absent segment shows, in the model's input space, one number or one per
            channel.
        seed: of the coalitions, which differ from probe to probe and are the same at every
            observation.
        width: of the kernel π, above 0; in units of the cosine distance, 0 to 1.
        alpha: α, the penalty on the weights, above 0.

    Raises:
        ConfigurationError: segments of a wrong shape, or scikit-image is missing.
    """

    width: float = 0.25
    alpha: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("width", "alpha"):
            value = getattr(self, name)
            if not is_finite(value) or value <= 0:
                raise ConfigurationError(f"LIME({name}={value!r}): give a number above 0.")

    @property
    def rounds(self) -> int:
        """The samples."""
        return self.samples

    def drawn(self, segments: int, probe: int) -> tuple[Tensor, Tensor]:
        """Fair coins."""
        coalitions = fair_coins(segments, self.samples, self.seed, probe)
        return coalitions, nearness(coalitions, self.width)

    def solved(self, sums: Moments, whole: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The ridge regression, with the whole input as one more sample of weight 1."""
        slope, intercept = sums.ridge(self.alpha)
        return slope, {"fit": sums.fit(slope, intercept)}

    def looks(self) -> tuple[Look, ...]:
        """The score of the input; the coalitions come after."""
        return (Look(),)


class _Drawing:
    """Segments and coalitions of the probes of one chunk: made when a point is told which."""

    def __init__(self, method: _SegmentMethod) -> None:
        self.method = method
        self._known = False

    def of(self, inputs: Tensor, first: int) -> _Drawing:
        """Itself, with what follows from the probes' places among all of them."""
        if self._known:
            return self
        method, device = self.method, inputs.device
        # The last probe of all may come more than once, where ranks share them out.
        rows = [min(first + row, len(method.counts) - 1) for row in range(len(inputs))]
        counts = [method.counts[row] for row in rows]
        drawn = [method.drawn(count, first + row) for row, count in enumerate(counts)]
        most = max(counts)
        self.labels = method.labels[torch.tensor(rows, device="cpu")].to(device).flatten(1).long()
        self.coalitions = _joined([one for one, _ in drawn], method.rounds, most).to(device)
        self.weights = _joined([one[:, None] for _, one in drawn], method.rounds, 1).to(device)
        self.whole = (
            torch.arange(most, device=device) < torch.tensor(counts, device=device)[:, None]
        )
        self._known = True
        return self


def _joined(parts: Sequence[Tensor], rows: int, columns: int) -> Tensor:
    """One matrix per probe as one `(rows, n, columns)`: zero where a probe has fewer."""
    joined = parts[0].new_zeros(rows, len(parts), columns)
    for place, part in enumerate(parts):
        joined[: part.shape[0], place, : part.shape[1]] = part
    return joined


class _Seen(Point):
    """The segments of one coalition per probe, the baseline elsewhere."""

    def __init__(self, drawing: _Drawing, index: int) -> None:
        self.drawing, self.index = drawing, index

    def at(self, inputs: Tensor, first: int) -> Tensor:
        drawing = self.drawing.of(inputs, first)
        seen = drawing.coalitions[self.index].gather(1, drawing.labels)
        start = baseline_of(inputs, drawing.method.baseline)
        return torch.where(seen.view(len(inputs), 1, *inputs.shape[2:]), inputs, start)


class _Coalitions(Reduction):
    """The ends first, then all coalitions: only a point is told which probes it is asked for."""

    def __init__(self, method: _SegmentMethod) -> None:
        self._method, self._drawing = method, _Drawing(method)
        self._asked = False
        self._empty: Tensor | None = None
        self._sums: Moments | None = None

    def update(self, evidence: Evidence) -> None:
        if isinstance(evidence.point, _Seen):
            self._add(evidence.point.index, evidence.score)
        elif evidence.point == Clean():
            self._clean, self._shape = evidence.score, evidence.inputs.shape
        else:
            self._empty = evidence.score

    def further(self) -> tuple[Look, ...]:
        asked, self._asked = self._asked, True
        rounds = 0 if asked else self._method.rounds
        return tuple(Look(_Seen(self._drawing, index)) for index in range(rounds))

    def _add(self, index: int, score: Tensor) -> None:
        drawing = self._drawing
        if self._sums is None:
            self._sums = Moments(len(score), drawing.whole.shape[1], score.device)
            if self._empty is None:
                self._sums.add(drawing.whole, torch.zeros_like(score), torch.ones_like(score))
        # Counted from an end, so that no digits are lost in differences of sums.
        above = score - (self._clean if self._empty is None else self._empty)
        self._sums.add(drawing.coalitions[index], above, drawing.weights[index, :, 0])

    def compute(self) -> Maps:
        assert self._sums is not None
        whole = torch.zeros_like(self._clean) if self._empty is None else self._clean - self._empty
        found, numbers = self._method.solved(self._sums, whole)
        values = found.gather(1, self._drawing.labels).to(self._clean.dtype)
        map = values.view(len(values), *self._shape[2:])
        numbers = {name: one.to(self._clean.dtype) for name, one in numbers.items()}
        return Maps(map, map[:, None], numbers)
