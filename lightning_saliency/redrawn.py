"""A model with other weights for a while: drawn anew, or given. Its own are never written to.

Other tensors take the places of the parameters and buffers, inside a context, and leave them again.
So layers keep their names, hooks stay where they are, and what is tied stays tied, without a copy
of a module that may hold its Trainer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from lightning_saliency.errors import ConfigurationError, did_you_mean
from lightning_saliency.observation import borrowed_randomness
from lightning_saliency.shards import is_flattened

_REGISTRIES = ("_parameters", "_buffers", "_modules")
_SHARDED = {"FullyShardedDataParallel", "FSDPModule"}

Places: TypeAlias = dict[int, Tensor]
"""The identity of a tensor → what takes its places."""


@contextmanager
def redrawn(module: nn.Module, *, seed: int = 0) -> Iterator[None]:
    """Let `module` have weights that know nothing (Adebayo et al. 2018), inside.

    Every part draws its own as when it was made, by its ``reset_parameters``; parents after their
    children. What no part draws, such as a parameter of the user's own, is normal with the mean and
    the standard deviation that it has now. Statistics start afresh where a part resets them, other
    buffers are copies. Costs the memory of the weights once more.

    Args:
        module: what is looked at, best inside `observing`.
        seed: of all that is drawn, on the CPU: the same weights on every device. No random stream
            of the process moves.

    Raises:
        ConfigurationError: weights that can't be put aside; see `reason_to_keep`.
    """
    with _put_aside(module) as parts:
        now = {id(one): one for part in parts for one in part.parameters(recurse=False)}
        blank: Places = {key: _blank(one) for key, one in now.items() if _is_drawn(one)}
        held: Places = {id(one): one for part in parts for one in part.buffers(recurse=False)}
        held |= {key: one for key, one in now.items() if key not in blank}
        # On the CPU beside the weights that are drawn there.
        fresh: Places = {key: one.detach().to("cpu", copy=True) for key, one in held.items()}
        _put(parts, {**blank, **fresh})
        with borrowed_randomness(None, seed), torch.no_grad():
            _reset(parts)
            for key, one in blank.items():
                _draw_the_rest(one, now[key])
        home: Places = {id(new): _like(new, now[key]) for key, new in blank.items()}
        home |= {id(new): _like(new, held[key]) for key, new in fresh.items()}
        _put(parts, home)
        _as_cudnn_likes(parts)
        yield


@contextmanager
def lent(module: nn.Module, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Let `module` have the given weights, inside; those that are not named stay.

    Args:
        module: what is looked at.
        weights: dotted names of parameters or buffers, and the very tensors that take their places:
            on the module's device, in its dtype. One name of a tied weight is enough.

    Raises:
        ConfigurationError: a name that there is not, another shape, weights that can't be put
            aside.
    """
    own: dict[str, Tensor] = dict(module.named_buffers(remove_duplicate=False))
    own |= dict(module.named_parameters(remove_duplicate=False))
    for name, one in weights.items():
        if name not in own:
            raise ConfigurationError(f"weights: there is no '{name}'. {did_you_mean(name, own)}")
        if one.shape != own[name].shape:
            raise ConfigurationError(
                f"weights: '{name}' is {tuple(one.shape)}, the model's own {tuple(own[name].shape)}"
                ". Give the weights of a model of the same build."
            )
    with _put_aside(module) as parts:
        _put(parts, {id(own[name]): one for name, one in weights.items()})
        _as_cudnn_likes(parts)
        yield


def reason_to_keep(module: nn.Module) -> str | None:
    """Why `module` can't have other weights for a while; None where it can."""
    if isinstance(module, torch.jit.ScriptModule):
        return "a TorchScript module's weights can't be put aside"
    if any(kind.__name__ in _SHARDED for part in module.modules() for kind in type(part).__mro__):
        return "its weights are sharded over ranks"
    weights = list(module.parameters())
    if not weights:
        return "it has no weights of its own"  # or they are in a flat tensor elsewhere
    if any(hasattr(one, "to_local") or is_flattened(one) for one in weights):
        return "its weights are sharded over ranks"
    strange = next((type(one) for one in weights if type(one) is not nn.Parameter), None)
    return None if strange is None else f"some of its weights are of the type {strange.__name__}"


@contextmanager
def _put_aside(module: nn.Module) -> Iterator[list[nn.Module]]:
    """The parts of `module`, which afterwards hold exactly what they hold now."""
    reason = reason_to_keep(module)
    if reason is not None:
        raise ConfigurationError(
            f"{type(module).__name__} can't have other weights for a while: {reason}."
        )
    parts = list(module.modules())
    before = [
        (part, dict(vars(part)), [dict(vars(part)[name]) for name in _REGISTRIES]) for part in parts
    ]
    try:
        yield parts
    finally:
        for part, attributes, registries in before:
            for name in vars(part).keys() - attributes.keys():
                del vars(part)[name]
            vars(part).update(attributes)
            for name, entries in zip(_REGISTRIES, registries, strict=True):
                vars(part)[name].clear()
                vars(part)[name].update(entries)


def _put(parts: list[nn.Module], places: Places) -> None:
    """Let tensors take the places of others, also in lists that a part keeps (recurrent nets)."""
    for part in parts:
        for registry in (part._parameters, part._buffers):
            for name, one in registry.items():
                if id(one) in places:
                    registry[name] = places[id(one)]  # type: ignore[assignment]
        for name, value in vars(part).items():
            if type(value) in (list, tuple) and any(id(one) in places for one in value):
                vars(part)[name] = type(value)(places.get(id(one), one) for one in value)


def _is_drawn(one: Tensor) -> bool:
    return one.is_floating_point() or one.is_complex()


def _blank(one: nn.Parameter) -> nn.Parameter:
    """NaN everywhere: what is still NaN later was not drawn by any part."""
    exact = one.dtype in (torch.float32, torch.float64) or one.is_complex()
    dtype = one.dtype if exact else torch.float32
    return nn.Parameter(
        torch.full(one.shape, torch.nan, dtype=dtype, device="cpu"), one.requires_grad
    )


def _reset(parts: list[nn.Module]) -> None:
    for part in reversed(parts):
        reset: Any = getattr(part, "reset_parameters", None)
        reset = reset or getattr(part, "_reset_parameters", None)  # of nn.MultiheadAttention
        if callable(reset):
            # One that wants arguments, or can't be called again: its weights are drawn below.
            with suppress(Exception):
                reset()


def _draw_the_rest(one: Tensor, now: nn.Parameter) -> None:
    left = one.isnan()
    if bool(left.any()):
        known = now.detach().to("cpu", one.dtype)
        spread = known.std(correction=0)
        drawn = torch.randn(one.shape, dtype=one.dtype, device="cpu") * spread + known.mean()
        one.copy_(torch.where(left, drawn, one))


def _like(new: Tensor, old: Tensor) -> Tensor:
    """On the old one's device, in its dtype and memory format."""
    moved = torch.empty_like(old, requires_grad=False)
    with torch.no_grad():
        moved.copy_(new)
    if not isinstance(old, nn.Parameter):
        return moved
    return nn.Parameter(moved, old.requires_grad)


def _as_cudnn_likes(parts: list[nn.Module]) -> None:
    for part in parts:
        if isinstance(part, nn.RNNBase):
            part.flatten_parameters()
