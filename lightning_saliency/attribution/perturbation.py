"""Methods that hide parts of the input and read how the score falls: forward passes alone."""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass
from itertools import product
from typing import ClassVar, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_saliency.attribution.arguments import (
    check_baseline,
    check_between,
    check_whole,
)
from lightning_saliency.attribution.method import Evidence, Look, Maps, Method, Reduction
from lightning_saliency.attribution.points import Point, baseline_of, mix
from lightning_saliency.attribution.subject import Subject
from lightning_saliency.errors import ConfigurationError

AnyOf = TypeVar("AnyOf", bound=Method)

_ALL = slice(None)
_LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}


@dataclass(frozen=True)
class Occluded(Point):
    """The probe with one window of all its channels replaced by the baseline."""

    corner: tuple[int, ...]
    window: tuple[int, ...]
    baseline: float | tuple[float, ...] = 0.0

    @property
    def place(self) -> tuple[slice, ...]:
        """The window, as an index of the spatial dimensions."""
        return tuple(
            slice(start, start + size) for start, size in zip(self.corner, self.window, strict=True)
        )

    def at(self, inputs: Tensor, first: int) -> Tensor:
        moved = inputs.clone()
        where = (_ALL, _ALL, *self.place)
        hidden = moved[where]
        hidden.copy_(baseline_of(hidden, self.baseline))
        return moved


@dataclass(frozen=True)
class Masked(Point):
    """Baseline + M ⊙ (probe − baseline), M a random mask in 0..1 (Petsiuk et al. 2018, sec. 3.3).

    `cells` per side are on with probability `p`, enlarged linearly, and shifted by up to one cell.
    The mask is a function of `seed` and `index`: the same for all probes, as in the paper, at
    every observation, and on every device.
    """

    index: int
    seed: int = 0
    cells: int = 8
    p: float = 0.5
    baseline: float | tuple[float, ...] = 0.0

    def mask(self, like: Tensor) -> Tensor:
        """M, `(*spatial)`, for inputs `like` `(n, C, *spatial)`."""
        sides = like.shape[2:]
        # Drawn on the CPU: few numbers, and the same ones on every device.
        generator = torch.Generator("cpu").manual_seed(mix(self.seed, self.index))
        grid = (
            torch.rand(
                1,
                1,
                *[self.cells] * len(sides),
                generator=generator,
                dtype=torch.float32,
                device="cpu",
            )
            < self.p
        )
        size = [-(-side // self.cells) for side in sides]
        shift = [int(torch.randint(one, (), generator=generator, device="cpu")) for one in size]
        large = F.interpolate(
            grid.to(like.device, torch.promote_types(like.dtype, torch.float32)),
            [(self.cells + 1) * one for one in size],
            mode=_LINEAR[len(sides)],
            align_corners=False,
        )
        where = tuple(slice(one, one + side) for one, side in zip(shift, sides, strict=True))
        return large[0, 0][where]

    def at(self, inputs: Tensor, first: int) -> Tensor:
        start = baseline_of(inputs, self.baseline)
        return torch.addcmul(start, inputs - start, self.mask(inputs).to(inputs.dtype))


@dataclass(frozen=True, kw_only=True)
class Occlusion(Method):
    """s(x) − s(x without the window), mean over the pixel's windows (Zeiler & Fergus 2013, 4.2).

    In units of the score, with its sign: positive where the score falls when the place is hidden.
    A window hides all channels, and all windows have one size: the last of a row is moved in to end
    at the border, where other libraries cut it and so show a smaller fall. A pixel has the mean
    over the windows that cover it. arXiv 1311.2901. Nothing is random.

    Passes: 1 forward per window, 8 per side with the defaults: 64 for an image.
    Good for: what the score really does without a place; models without a gradient.
    Misleads: where the evidence is redundant, or larger than a window: no single window hides it.
        A flat patch is itself something that the model has never seen.

    Args:
        window: side of the window in pixels, or one per spatial dimension; an eighth of the side,
            rounded up, when not given.
        stride: step between windows, 1 to `window`, in pixels or one per spatial dimension; the
            window itself when not given. Half a window costs 2 times as much per dimension.
        baseline: what hides, in the model's input space, one number or one per channel. 0 of a
            normalised input is the mean colour.

    Raises:
        ConfigurationError: a window larger than the input, or strides that leave gaps.
    """

    signed = True

    window: int | tuple[int, ...] | None = None
    stride: int | tuple[int, ...] | None = None
    baseline: float | tuple[float, ...] = 0.0
    sides: ClassVar[tuple[int, ...]] = ()  # of what `bind` returns: of the inputs

    def __post_init__(self) -> None:
        for name in ("window", "stride"):
            given = getattr(self, name)
            for one in given if isinstance(given, tuple) else (given,):
                if one is not None:
                    check_whole(self, name, one, 1)
        check_baseline(self, self.baseline)

    def bind(self, subject: Subject, inputs: Tensor) -> Method:
        """The method with the windows of these inputs."""
        bound = knowing(self, sides=tuple(inputs.shape[2:]))
        bound._windows()
        return bound

    def _windows(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        window = self._per_side("window", tuple(-(-side // 8) for side in self.sides))
        stride = self._per_side("stride", window)
        for side, size, step in zip(self.sides, window, stride, strict=True):
            if size > side:
                raise ConfigurationError(
                    f"Occlusion(window={self.window}) is larger than the input, {self.sides}: give "
                    f"at most {min(self.sides)}, or one size per spatial dimension."
                )
            if step > size < side:
                raise ConfigurationError(
                    f"Occlusion(stride={self.stride}) steps over pixels with windows of {window}: "
                    "give a stride of at most the window."
                )
        return window, stride

    def _per_side(self, name: str, default: tuple[int, ...]) -> tuple[int, ...]:
        given = getattr(self, name)
        if given is None:
            return default
        each: tuple[int, ...] = given if isinstance(given, tuple) else (given,) * len(self.sides)
        if len(each) != len(self.sides):
            raise ConfigurationError(
                f"Occlusion({name}={given}) has {len(each)} numbers, the inputs have "
                f"{len(self.sides)} spatial dimensions: give one number, or one per dimension."
            )
        return each

    def looks(self) -> tuple[Look, ...]:
        """The score of the input, and without each window."""
        return Look(), *(Look(point) for point in self._places())

    def _places(self) -> Iterator[Occluded]:
        assert self.sides, "bind() tells the sides"
        window, stride = self._windows()
        starts = (
            sorted({*range(0, side - size, step), side - size})
            for side, size, step in zip(self.sides, window, stride, strict=True)
        )
        for corner in product(*starts):
            yield Occluded(corner, window, self.baseline)

    def reduction(self) -> Reduction:
        """The running sum of scores per pixel."""
        return _Windows()


class _Windows(Reduction):
    def __init__(self) -> None:
        self._sum: Tensor | None = None

    def update(self, evidence: Evidence) -> None:
        point, score = evidence.point, evidence.score
        if not isinstance(point, Occluded):
            self._clean = score
            return
        if self._sum is None:
            sides = evidence.inputs.shape[2:]
            self._sum, self._count = score.new_zeros(len(score), *sides), score.new_zeros(sides)
        where = (_ALL, *point.place)
        self._sum[where] += _column(score, len(point.window))
        self._count[point.place] += 1

    def compute(self) -> Maps:
        assert self._sum is not None
        fall = _column(self._clean, self._count.ndim) - self._sum / self._count
        return Maps(fall, fall[:, None])


@dataclass(frozen=True, kw_only=True)
class RISE(Method):
    """Σ s(x ⊙ M) M / Σ M − mean s(x ⊙ M), over random masks M (Petsiuk et al. 2018, eq. 6).

    In units of the score, with its sign: how much higher the score is where the pixel is seen. Two
    things differ from arXiv 1806.07421, in expectation by a constant of each probe alone: a pixel
    is divided by the sum of its masks, not by N × p, and the mean score is taken away. Else the
    level of the score would stand in every pixel, add its own noise, and drown all drift. s is the
    target that all methods share: ``target="prob"`` is the paper's. Masks are the same for all
    probes, as there.

    Passes: 1 forward per mask: 500 with the defaults.
    Good for: any model, also without a gradient; it asks what suffices, not what is missed.
    Misleads: by its noise (see `masks`), and where the evidence is finer than a cell.

    Args:
        masks: how many, ≥ 2. Same weights and another seed correlate by 0.88 at 256 masks, 0.94 at
            512, 0.97 at 1,024 and 0.99 at 4,000 (digits, a small convolutional net).
        cells: of the mask per side, ≥ 1 and at most the input's side; the paper has 7 and 8.
        p: probability that a cell is seen, between 0 and 1.
        baseline: what hides, in the model's input space, one number or one per channel. 0 of a
            normalised input is the mean colour.
        seed: of the masks.

    Raises:
        ConfigurationError: more cells than pixels.
    """

    signed = True

    masks: int = 500
    cells: int = 8
    p: float = 0.5
    baseline: float | tuple[float, ...] = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_whole(self, "masks", self.masks, 2)
        check_whole(self, "cells", self.cells, 1)
        check_whole(self, "seed", self.seed, 0)
        check_between(self, "p", self.p, 0, 1)
        if self.p in (0, 1):
            raise ConfigurationError(f"RISE(p={self.p}): masks would all be equal. 0.5 is usual.")
        check_baseline(self, self.baseline)

    def bind(self, subject: Subject, inputs: Tensor) -> Method:
        """The method itself, if the cells are not finer than the pixels."""
        check_cells(self, self.cells, inputs)
        return self

    def looks(self) -> tuple[Look, ...]:
        """The score behind each mask."""
        return tuple(
            Look(Masked(index, self.seed, self.cells, self.p, self.baseline))
            for index in range(self.masks)
        )

    def reduction(self) -> Reduction:
        """The running sums of masks, and of masks times scores."""
        return _Masks()


class _Masks(Reduction):
    def __init__(self) -> None:
        self._count = 0

    def update(self, evidence: Evidence) -> None:
        point, score = evidence.point, evidence.score
        assert isinstance(point, Masked)
        mask = point.mask(evidence.inputs)
        if not self._count:
            # Scores are counted from the first one: no digits are lost in a difference of sums.
            self._start, self._score = score, torch.zeros_like(score)
            self._seen = mask.new_zeros(mask.shape)
            self._sum = mask.new_zeros(len(score), *mask.shape)
        self._count += 1
        above = score - self._start
        self._score += above
        self._seen += mask
        self._sum.addcmul_(_column(above, mask.ndim), mask)

    def compute(self) -> Maps:
        seen = self._seen.clamp(min=torch.finfo(self._seen.dtype).tiny)  # 0 / 0 of few masks is 0
        mean = _column(self._score / self._count, seen.ndim)
        higher = torch.where(self._seen > 0, self._sum / seen - mean, 0)
        return Maps(higher, higher[:, None])


def knowing(method: AnyOf, **known: object) -> AnyOf:
    """A copy of a method that knows what its `bind` found.

    What is `known` is no field, which configs would offer; the class has the same attribute, empty.
    """
    bound = copy(method)
    for name, value in known.items():
        object.__setattr__(bound, name, value)
    return bound


def check_cells(method: object, cells: int, inputs: Tensor) -> None:
    """Raise a `ConfigurationError` when cells would be smaller than the pixels of `inputs`."""
    sides = tuple(inputs.shape[2:])
    if cells > min(sides):
        raise ConfigurationError(
            f"{type(method).__name__}(cells={cells}) divides sides of {sides} pixels: give at most "
            f"{min(sides)}."
        )


def _column(values: Tensor, dimensions: int) -> Tensor:
    return values.view(-1, *[1] * dimensions)
