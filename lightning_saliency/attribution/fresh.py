"""See through the layers of a fresh model that begin with weights of 0, such as many a head.

Nothing that comes before such a layer has a gradient, or an influence on the scores. What a trained
model will read would be hidden on the day when its layers are found.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def seeing_through_zeros(module: nn.Module) -> Iterator[None]:
    """Let linear layers that answer with their bias alone answer to all their inputs.

    By hooks, and judged by their outputs: weights may be sharded, and are never written to.
    """
    with ExitStack() as hooks:
        for part in module.modules():
            if isinstance(part, nn.Linear) or _is_pointwise(part):
                answering = _Answering()
                # The bias before the pass: afterwards it may be sharded again.
                hooks.callback(part.register_forward_pre_hook(answering.note).remove)
                after = part.register_forward_hook(answering.answer, with_kwargs=True)
                hooks.callback(after.remove)
        yield


def _is_pointwise(part: nn.Module) -> bool:
    """Whether it is a linear layer of each place by itself."""
    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    return (
        isinstance(part, kinds)
        and part.groups == 1
        and all(size == 1 for size in (*part.kernel_size, *part.stride))
    )


class _Answering:
    """What one layer answers instead."""

    def __init__(self) -> None:
        self._bias: Tensor | None = None

    def note(self, part: nn.Module, args: Any) -> None:
        bias: Any = part.bias
        self._bias = None if bias is None else bias.detach().clone()

    def answer(self, part: nn.Module, args: Any, kwargs: Any, output: Tensor) -> Tensor | None:
        dim = -1 if isinstance(part, nn.Linear) else 1
        first = output.movedim(dim, -1)
        bias: Any = 0 if self._bias is None else self._bias.to(output.dtype)
        if not bool((first == bias).all()):
            return None
        inputs = (args[0] if args else kwargs["input"]).movedim(dim, -1)
        # No two numbers weigh the same: the mean of what a LayerNorm gives is always 0.
        weighed = (inputs * _ramp(inputs)).sum(-1, keepdim=True)
        answer: Tensor = (first + weighed * _ramp(first)).movedim(-1, dim)
        return answer


def _ramp(like: Tensor) -> Tensor:
    ramp = torch.linspace(1, 2, like.shape[-1], dtype=torch.float32, device=like.device)
    return (ramp / ramp.sum()).to(like.dtype)  # by its sum: float16 would overflow
