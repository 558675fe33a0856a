"""Crops and mirror images of the probe: what a network says of it in ten views."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from types import EllipsisType
from typing import NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_saliency.attribution.arguments import check_between
from lightning_saliency.attribution.looking import full
from lightning_saliency.attribution.method import (
    Evidence,
    Look,
    Maps,
    Method,
    OverChannels,
    Reduction,
    over_channels,
)
from lightning_saliency.attribution.paths import along_axes
from lightning_saliency.attribution.points import Point
from lightning_saliency.attribution.subject import Subject
from lightning_saliency.errors import ConfigurationError, in_words
from lightning_saliency.observation import out_of_memory


@dataclass(frozen=True, kw_only=True)
class TenView(OverChannels):
    """Mean over ten views of max over channels of |∂s/∂x|, put in place (Simonyan et al. 2013).

    The seed paper (1312.6034) averages the maps of ten sub-images: four corners, the centre and
    their mirror images (Krizhevsky et al. 2012). Here a map is mirrored back and put where its view
    was cropped first, and a pixel is the mean over the views that show it; 0 where none does. Raw,
    in units of score per unit of input. The centre has the same border on all sides, in whole
    pixels, so a mirrored probe gets exactly the mirrored map. Corners are 2^d in d spatial
    dimensions; mirrored is the last one.

    Passes: 1 forward and backward per view: ten of an image.
    Good for: less noise than one gradient, from views that the net may well meet.
    Misleads: a crop may cut off what the net looks for; with `resize` all is larger than it was.

    Args:
        crop: side of a view as a share of the input's, above 0 and up to 1; 0.875 is 224 of 256.
        resize: enlarge each view to the input's size (bilinear, ``align_corners=False``), as nets
            of a fixed input size need. The gradient goes back through that, to the input's pixels.
        channels: how channels become one map: ``max``, ``l2``, ``signed`` or ``positive``.

    Raises:
        ConfigurationError: a net that can't take the smaller views, without `resize`.
    """

    crop: float = 0.875
    resize: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_between(self, "crop", self.crop, 0.0, 1.0)
        if self.crop == 0 or not isinstance(self.resize, bool):
            raise ConfigurationError(
                f"TenView(crop={self.crop!r}, resize={self.resize!r}): give a share above 0, and "
                "True or False."
            )

    def bind(self, subject: Subject, inputs: Tensor) -> Method:
        """The method with its views of inputs of this size; proved to suit the net."""
        views = _views(inputs.shape[2:], self.crop, self.resize)
        if not self.resize and views[0].size != inputs.shape[2:]:
            self._try(subject, views[0].at(inputs[:1], 0))
        return _Seen(self, views, tuple(inputs.shape[2:]))

    def _try(self, subject: Subject, crop: Tensor) -> None:
        try:
            with torch.no_grad():
                subject.scores(crop)
        except ConfigurationError:
            raise
        except Exception as error:
            if out_of_memory(error):
                raise
            raise ConfigurationError(
                f"{self!r}: {type(subject.module).__name__} can't take a view of the shape "
                f"{tuple(crop.shape)}: {in_words(error)}. With resize=True views are enlarged to "
                "the size of the probes."
            ) from error

    def looks(self) -> NoReturn:
        """Known with the size of the probes."""
        raise AssertionError("bind() finds the views")

    def reduction(self) -> NoReturn:
        """Known with the size of the probes."""
        raise AssertionError("bind() finds the views")


def _views(whole: Sequence[int], crop: float, enlarged: bool) -> tuple[View, ...]:
    """Every corner and the centre, plain and mirrored; each once where the border is 0 wide."""
    # The same border on both sides of the centre: else a mirrored probe would have other views.
    borders = [min(round(size * (1 - crop) / 2), (size - 1) // 2) for size in whole]
    inner = tuple(size - 2 * border for size, border in zip(whole, borders, strict=True))
    corners = [*product(*((0, 2 * border) for border in borders)), tuple(borders)]
    return tuple(
        View(start, inner, mirrored, tuple(whole) if enlarged else None)
        for start in dict.fromkeys(corners)
        for mirrored in (False, True)
    )


@dataclass(frozen=True)
class View(Point):
    """A crop of the probe, and its mirror image along the last axis; the smaller input itself.

    Attributes:
        start: the first pixel of the crop, by spatial dimension.
        size: of the crop.
        mirrored: whether it is flipped along the last dimension.
        enlarged: the size that it is brought to, or None.
    """

    start: tuple[int, ...]
    size: tuple[int, ...]
    mirrored: bool
    enlarged: tuple[int, ...] | None = None

    @property
    def place(self) -> tuple[EllipsisType | slice, ...]:
        """Where the crop is in `(…, *spatial)`."""
        ends = zip(self.start, self.size, strict=True)
        return (..., *(slice(start, start + size) for start, size in ends))

    def shape_of(self, shape: torch.Size) -> torch.Size:
        return torch.Size([*shape[:2], *(self.enlarged or self.size)])

    def at(self, inputs: Tensor, first: int) -> Tensor:
        crop = inputs[self.place]
        crop = crop.flip(-1) if self.mirrored else crop
        if self.enlarged is None:
            return crop
        resized = along_axes(full(crop), self._matrices(crop))
        return torch.empty_like(inputs).copy_(resized)

    def back(self, gradient: Tensor) -> Tensor:
        """∂s/∂pixels of the crop `(n, C, *size)`, of the gradient at this point."""
        if self.enlarged is not None:
            gradient = along_axes(gradient, [one.T for one in self._matrices(gradient)])
        return gradient.flip(-1) if self.mirrored else gradient

    def _matrices(self, like: Tensor) -> list[Tensor]:
        """Linear interpolation of each axis, `(enlarged, size)`: bilinear is their product."""
        assert self.enlarged is not None
        return [
            F.interpolate(
                torch.eye(size, dtype=full(like).dtype, device=like.device)[None],
                size=enlarged,
                mode="linear",
                align_corners=False,
            )[0].T
            for size, enlarged in zip(self.size, self.enlarged, strict=True)
        ]


@dataclass(frozen=True)
class _Seen(Method):
    """`TenView` of inputs of one size."""

    method: TenView
    views: tuple[View, ...]
    whole: tuple[int, ...]

    @property
    def signed(self) -> bool:  # type: ignore[override]
        """As the method that was bound."""
        return self.method.signed

    def __repr__(self) -> str:
        return repr(self.method)

    def looks(self) -> tuple[Look, ...]:
        """The input's gradient at each view."""
        return tuple(Look(view, gradient=True) for view in self.views)

    def reduction(self) -> Reduction:
        """The mean of maps and of gradients, in place."""
        return _InPlace(self)


class _InPlace(Reduction):
    def __init__(self, seen: _Seen) -> None:
        self._seen = seen
        self._signed: Tensor | None = None

    def update(self, evidence: Evidence) -> None:
        view = evidence.point
        assert isinstance(view, View)
        gradient = view.back(evidence.gradient)
        if self._signed is None:
            self._signed = gradient.new_zeros(*gradient.shape[:2], *self._seen.whole)
            self._map = gradient.new_zeros(len(gradient), *self._seen.whole)
            self._count = gradient.new_zeros(self._seen.whole)
        self._signed[view.place] += gradient
        self._map[view.place] += over_channels(gradient, self._seen.method.channels)
        self._count[view.place] += 1

    def compute(self) -> Maps:
        assert self._signed is not None
        count = self._count.clamp(min=1)
        return Maps(self._map / count, self._signed / count)
