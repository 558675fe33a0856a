"""Read the activations of named layers during one forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_saliency.errors import ConfigurationError, did_you_mean

_WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""Names under which wrappers keep the module that they wrap."""


def find_layer(model: nn.Module, name: str) -> nn.Module:
    """The submodule with this dotted name; what wrappers put in may be left out.

    A module that is registered twice is found by each of its names.

    Raises:
        ConfigurationError: there is none, or it is TorchScript, which carries no hooks.
    """
    layer = _reached(model, name)
    if layer is None:
        shown = [displayed(known) for known, _ in model.named_modules() if known]
        raise ConfigurationError(
            f"layer={name!r} is not a layer of {type(model).__name__}. {did_you_mean(name, shown)}"
        )
    if isinstance(layer, torch.jit.ScriptModule):
        raise scripted(f"layer={name!r}")
    return layer


def _reached(module: nn.Module, name: str) -> nn.Module | None:
    for part in name.split("."):
        while part not in module._modules:
            wrapped = next((one for one in _WRAPPERS if one in module._modules), None)
            inner = None if wrapped is None else module._modules[wrapped]
            if inner is None:
                return None
            module = inner
        child = module._modules[part]
        if child is None:
            return None
        module = child
    return module


def readable_layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The layers that can be read, by one name each: all but the model itself and TorchScript."""
    for name, layer in model.named_modules():
        if name and not isinstance(layer, torch.jit.ScriptModule):
            yield name, layer


def scripted(what: str) -> ConfigurationError:
    """The error that something is TorchScript."""
    return ConfigurationError(
        f"{what} is TorchScript, whose layers can't be read: torch.jit calls them where no hook is "
        "met. Give the model as it was before torch.jit, or use a gradient method, such as "
        "'saliency'."
    )


def displayed(name: str) -> str:
    """A layer's name as its author wrote it, without what wrappers put in."""
    for wrapper in _WRAPPERS:
        name = name.replace(f"{wrapper}.", "")
    return name


def first_of(output: object) -> Tensor | None:
    """A layer's activation: what it returns, or the first of the tuple that it returns."""
    first = output[0] if isinstance(output, tuple) and output else output
    return first if isinstance(first, Tensor) and first.is_floating_point() else None


def with_first(output: Any, activation: Tensor) -> Any:
    """What the layer returned, with another activation in it."""
    if not isinstance(output, tuple):
        return activation
    rest = (activation, *output[1:])
    return type(output)(*rest) if hasattr(output, "_fields") else rest


class Tap:
    """Hooks on layers, for the length of a `with` block.

    Of a layer that returns a tuple, as the blocks of some transformers do, the first is read.
    Where gradients are off when the first of the layers answers, they are switched on there: what
    lies below it keeps no graph (a third of the memory, half the time of a full backward pass).

    Args:
        model: where the layers are.
        names: of layers whose activation is differentiated by.
        read: names of layers whose activation is wanted without a gradient.
    """

    def __init__(
        self, model: nn.Module, names: Sequence[str] = (), read: Sequence[str] = ()
    ) -> None:
        self._layers = {name: find_layer(model, name) for name in (*names, *read)}
        self._read = frozenset(read)
        self._taken: dict[str, Tensor] = {}
        self._armed = True  # gradient checkpointing runs a forward again inside backward

    def __enter__(self) -> Tap:
        self._handles = [
            layer.register_forward_hook(self._hook(name)) for name, layer in self._layers.items()
        ]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def taken(self) -> dict[str, Tensor]:
        """Layer name → activation, in the order in which they were asked for. Ends the reading."""
        self._armed = False
        for name in self._layers:
            if name not in self._taken:
                raise ConfigurationError(
                    f"layer={name!r} took no part in the forward pass (it is not called, or its "
                    "code is called past the module). Name a layer that is called once."
                )
        return {name: self._taken[name] for name in self._layers}

    def _hook(self, name: str) -> Callable[[nn.Module, Any, Any], Any]:
        def take(module: nn.Module, args: Any, output: Any) -> Any:  # noqa: ARG001
            if not self._armed:
                return None
            if name in self._taken:
                raise ConfigurationError(
                    f"layer={name!r} runs more than once in a forward pass, so its activation is "
                    "not one map. Name a layer that runs once, such as the block around it."
                )
            activation = first_of(output)
            if activation is None:
                raise ConfigurationError(
                    f"layer={name!r} returns a {type(output).__name__}, not a tensor of activations"
                    ". Name a layer that returns one tensor (n, K, *spatial), or tokens (n, T, D)."
                )
            if name in self._read:
                # A copy: an in-place operation after the layer would overwrite it.
                self._taken[name] = activation.detach().clone()
                return None
            self._taken[name] = gradients_from(activation)
            # A copy goes on: an in-place operation after the layer would overwrite the activation.
            return with_first(output, self._taken[name].clone())

        return take


def gradients_from(tensor: Tensor) -> Tensor:
    """The tensor as one that is differentiated by; where gradients are off, on from here on."""
    if torch.is_grad_enabled() and tensor.requires_grad:
        return tensor
    torch.set_grad_enabled(True)
    return tensor.detach().requires_grad_()
