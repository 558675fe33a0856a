"""Calls of torch's functions: met in all their forms, forward and backward."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lightning_saliency.errors import ConfigurationError


class Calls(TorchFunctionMode):
    """Meets every call of a function in the forward pass, and in what backward runs again.

    Gradient checkpointing runs parts of a forward again within ``torch.autograd.grad``. That is a
    call as well, and a mode is taken off while it answers one: here it stays on.
    """

    @abstractmethod
    def call(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Answer a call; ``func(*args, **kwargs)`` leaves it as it is."""

    def turn(self) -> None:
        """The forward pass is over, backward begins."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.autograd.grad and _is_plain(args[0], kwargs):
            self.turn()
            with self:
                return _differentiate(args[0], args[1], bool(kwargs.get("allow_unused")))
        return self.call(func, args, kwargs)


def check_eager(module: nn.Module, what: str) -> None:
    """Raise a `ConfigurationError` where a part of the module is TorchScript.

    Its functions and layers are called by an interpreter of their own, where nothing meets them.

    Args:
        module: the whole model.
        what: the method and what it does, the beginning of the error.
    """
    scripted = [part for part in module.modules() if isinstance(part, torch.jit.ScriptModule)]
    if scripted:
        raise ConfigurationError(
            f"{what}, and {type(module).__name__} has a part that is TorchScript, whose functions "
            "and layers can't be met. Give the model as it was before torch.jit, or use 'saliency'."
        )


def _is_plain(outputs: Any, options: Mapping[str, Any]) -> bool:
    """Whether numbers are differentiated, once and by no weights."""
    known = {"allow_unused", "only_inputs"}
    return all(one.ndim == 0 for one in _several(outputs)) and not any(
        value for name, value in options.items() if name not in known
    )


def _differentiate(outputs: Any, inputs: Any, allow_unused: bool) -> tuple[Tensor | None, ...]:
    """``torch.autograd.grad`` without its look for modes."""
    ones = tuple(torch.ones_like(one) for one in _several(outputs))
    engine: Any = torch.autograd.Variable._execution_engine
    found: tuple[Tensor | None, ...] = engine.run_backward(
        *(_several(outputs), ones, False, False, _several(inputs), allow_unused),
        accumulate_grad=False,
    )
    return found


def _several(tensors: Any) -> tuple[Tensor, ...]:
    return (tensors,) if isinstance(tensors, Tensor) else tuple(tensors)


def forms(*names: str) -> dict[Callable[..., Any], Callable[..., Any]]:
    """Every form of the functions with these names → its form that leaves its input as it is.

    ``relu`` is ``F.relu``, ``torch.relu``, ``Tensor.relu`` and the same with an underscore; modules
    call one of these.
    """
    found: dict[Callable[..., Any], Callable[..., Any]] = {}
    for home, name in product((F, torch, Tensor), names):
        plain = getattr(home, name, None)
        if plain is not None:
            found[plain] = plain
            found[getattr(home, f"{name}_", plain)] = plain
    return found


def is_in_place(function: Callable[..., Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether a call writes its result to its input."""
    name = function.__name__
    return bool(kwargs.get("inplace")) or (name.endswith("_") and not name.endswith("__"))


def first_argument(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """What a function of one tensor is called with, by place or by name."""
    return args[0] if args else kwargs.get("input")
