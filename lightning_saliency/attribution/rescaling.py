"""Functions whose backward pass follows Δout / Δin from a baseline, in the place of derivatives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function


class Rescaled(Function):
    """A function of one number: the multiplier of the rescale rule is found going forward."""

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        start: Tensor,
        function: Callable[[Tensor], Tensor],
        in_place: bool,
    ) -> Tensor:
        with torch.enable_grad():
            ends = inputs.detach().requires_grad_()
            outputs = function(ends)
            (slope,) = torch.autograd.grad(outputs, ends, torch.ones_like(outputs))
        outputs = outputs.detach()
        # Not saved as autograd saves: gradient checkpointing would drop it, and find the slope.
        ctx.multiplier = _multiplier(inputs - start, outputs, function(start), slope)
        if not in_place:
            return outputs
        ctx.mark_dirty(inputs)
        return inputs.copy_(outputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        return gradient * ctx.multiplier, None, None, None


def _multiplier(way: Tensor, outputs: Tensor, begin: Tensor, slope: Tensor) -> Tensor:
    """Δout / Δin; the slope where Δin is so small that Δout would be rounding.

    The bound is relative to the outputs: a ReLU's quotient is exact at any scale, and the two sides
    of its kink are never that near.
    """
    far = way.abs() > torch.finfo(outputs.dtype).eps ** 0.5 * (outputs.abs() + begin.abs())
    return torch.where(far, (outputs - begin) / way.where(far, 1), slope)


class RescaledMax(Function):
    """Max pooling: a window's Δout goes to where its maximum is, in the probe and in the baseline.

    With top = max(out, out'), the probe's maximum answers for top − out' and the baseline's for
    out − top (Lundberg & Lee 2017). One of them is 0 and the other's Δin is at least as large as
    Δout: nothing is lost, and no multiplier exceeds 1. What overlapping windows give adds up.
    """

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        start: Tensor,
        pool: Callable[[Tensor], tuple[Tensor, Tensor]],
        sides: int,
    ) -> tuple[Tensor, Tensor]:
        (outputs, places), (begin, others) = pool(inputs), pool(start)
        ctx.mark_non_differentiable(places)
        ctx.shape, ctx.sides = inputs.shape, sides
        way, rise = (inputs - start).flatten(-sides), (outputs - begin).flatten(-sides)
        own, other = places.flatten(-sides), others.expand_as(places).flatten(-sides)
        ups = _share(rise.clamp(min=0), way.gather(-1, own), still=rise == 0)
        downs = _share(rise.clamp(max=0), way.gather(-1, other), still=torch.zeros_like(rise) > 0)
        ctx.shares = (own, ups), (other, downs)
        return outputs, places

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Any) -> tuple[Tensor, None, None, None]:
        flat = gradient.flatten(-ctx.sides)
        found = gradient.new_zeros(ctx.shape).flatten(-ctx.sides)
        for at, share in ctx.shares:
            found.scatter_add_(-1, at, flat * share)
        return found.view(ctx.shape), None, None, None


def _share(rise: Tensor, way: Tensor, still: Tensor) -> Tensor:
    """Δout / Δin; where nothing moves at all, the derivative, 1 at the maximum."""
    return torch.where(way != 0, rise / way.where(way != 0, 1), still.to(rise.dtype))
