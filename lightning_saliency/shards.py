"""What FSDP keeps beside a module: put aside before a pass that must not touch it, and back.

FSDP 1 keeps the parameters of a wrapped part in one flat tensor. Every backward pass moves that
tensor's gradient about and expects that a new one was computed; a pass that computes none, as ours,
would lose what was accumulated so far. So it must find no gradient, and no memory of one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

_MEMORY = ("_post_backward_called", "_saved_grad_shard")


def is_flattened(parameter: nn.Parameter) -> bool:
    """Whether a parameter is a part of a flat one."""
    return bool(getattr(parameter, "_fsdp_flattened", False))


def is_wrapper(module: nn.Module) -> bool:
    """Whether a module is the wrapper that owns flat parameters."""
    return any(kind.__name__ == "FullyShardedDataParallel" for kind in type(module).__mro__)


@contextmanager
def without_gradients(parts: Iterable[nn.Module]) -> Iterator[None]:
    """Let the flat parameters of `parts` have no gradient inside; afterwards all is as it was."""
    owned: list[Any] = []
    for part in parts:
        handle = getattr(part, "_handle", None) if is_wrapper(part) else None
        if handle is not None:
            owned.append(handle.flat_param)
        owned.extend(one for one in part.parameters(recurse=False) if is_flattened(one))
    with ExitStack() as scope:
        for parameter in {id(one): one for one in owned}.values():
            known = {name: vars(parameter)[name] for name in _MEMORY if name in vars(parameter)}
            scope.callback(_restore, parameter, parameter.grad, known)
            parameter.grad = None
            vars(parameter).pop("_saved_grad_shard", None)
            if known:
                parameter._post_backward_called = False
        yield


@contextmanager
def as_gathered(parts: Iterable[nn.Module]) -> Iterator[None]:
    """Let the parameters that FSDP 2 has gathered be gathered afterwards as well.

    It leaves those of the whole module together after a validation; a backward pass scatters them.
    """
    gathered = [part for part in parts if _is_sharded(part) and any(map(_is_whole, _own(part)))]
    yield
    # After an error the ranks need not be here together.
    for part in gathered:
        unshard: Any = part.unshard
        unshard()


def _is_sharded(part: nn.Module) -> bool:
    return any(kind.__name__ == "FSDPModule" for kind in type(part).__mro__)


def _own(part: nn.Module) -> Iterator[nn.Parameter]:
    """The parameters that are gathered with this part, and not with one within it."""
    yield from part.parameters(recurse=False)
    for child in part.children():
        if not _is_sharded(child):
            yield from _own(child)


def _is_whole(parameter: nn.Parameter) -> bool:
    return not hasattr(parameter, "to_local")


def _restore(parameter: Any, grad: Tensor | None, known: dict[str, Any]) -> None:
    vars(parameter).pop("_saved_grad_shard", None)
    vars(parameter).update(known)
    if parameter.grad is grad:
        return
    parameter.grad = None
    if grad is not None:
        # Its shape may be that of the whole while the data is a shard: torch would refuse it.
        data = parameter.data
        parameter.data = torch.empty_like(grad)
        parameter.grad = grad
        parameter.data = data
