"""Methods meet a model: what depends on it becomes known, is checked, and is the same everywhere.

Some of it is read off numbers, such as the layer that a score depends on, or comes from a function
of the user's. Other weights or another rank might find something else, and maps of two layers can't
be compared: what was found is remembered by those who look again, and brought from one rank to all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from types import MappingProxyType
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from lightning_saliency.attribution.cam import LayerMethod
from lightning_saliency.attribution.looking import Lockstep
from lightning_saliency.attribution.method import AnyMethod, Method
from lightning_saliency.attribution.perturbation import knowing
from lightning_saliency.attribution.segments import LIME, KernelSHAP
from lightning_saliency.attribution.subject import Subject
from lightning_saliency.attribution.taps import find_layer
from lightning_saliency.errors import ConfigurationError

Layers: TypeAlias = Mapping[str, tuple[str, ...]]
"""Method name → the layers that were found for it."""

NOWHERE: Layers = MappingProxyType({})

_DECIDING = (LayerMethod, KernelSHAP, LIME)
_DECIDED = ("layer", "layouts", "folds", "labels", "counts")
"""What these methods find by numbers, or by a function of the user's."""


def bind(
    subject: Subject,
    inputs: Tensor,
    methods: Mapping[str, AnyMethod],
    *,
    layers: Layers = NOWHERE,
    lockstep: Lockstep = nullcontext,
    of_first: Callable[[Callable[[], Any]], Any] | None = None,
) -> dict[str, AnyMethod]:
    """The methods with all that depends on the model known and checked, such as layers' names.

    `explain` does this itself; binding once saves it a forward pass each time.

    Args:
        subject: the model and how it is called.
        inputs: `(N, C, *spatial)`, all probes.
        methods: names and methods.
        layers: where methods go on looking that name no layer themselves.
        lockstep: made around each pass, where ranks must take all steps together.
        of_first: what a function makes on the first rank, on all; None where there is one rank.

    Raises:
        ConfigurationError: a method does not suit the model or the inputs.
    """
    given = going_on_at(subject.module, methods, layers)
    if lockstep is not nullcontext:
        subject = replace(subject, call=_in_step(subject.call, lockstep))
    bound = {
        name: method.bind(subject, inputs) if isinstance(method, Method) else method
        for name, method in given.items()
    }
    if of_first is None:
        return bound
    decided = of_first(lambda: {name: _decided(one) for name, one in bound.items()})
    return {name: _settled(one, decided[name], inputs.device) for name, one in bound.items()}


def layers_found(methods: Mapping[str, AnyMethod], bound: Mapping[str, AnyMethod]) -> Layers:
    """The layers of those `bound` methods for which nobody had named one."""
    return {
        name: one.layers
        for name, one in bound.items()
        if isinstance(one, LayerMethod) and _names_none(methods[name])
    }


def going_on_at(
    module: nn.Module, methods: Mapping[str, AnyMethod], layers: Mapping[str, Sequence[str]]
) -> dict[str, AnyMethod]:
    """The methods, those without a layer of their own at the ones that are remembered for them."""
    given = dict(methods)
    for name, method in methods.items():
        if isinstance(method, LayerMethod) and method.layer is None and name in layers:
            _check_there(module, name, layers[name])
            given[name] = replace(method, layer=list(layers[name]))
    return given


def _names_none(method: AnyMethod) -> bool:
    return isinstance(method, LayerMethod) and method.layer is None


def _check_there(module: nn.Module, name: str, layers: Sequence[str]) -> None:
    for layer in layers:
        try:
            find_layer(module, layer)
        except ConfigurationError as error:
            raise ConfigurationError(
                f"methods: '{name}' looked at the layer '{layer}' so far, which "
                f"{type(module).__name__} does not have, so its maps can't be compared with those "
                "before. Name another one with layer=…, and its drift starts anew."
            ) from error


def _in_step(
    call: Callable[[nn.Module, Tensor], Any], lockstep: Lockstep
) -> Callable[[nn.Module, Tensor], Any]:
    """A call that begins where all ranks are, and ends where it succeeded on all."""

    def stepping(module: nn.Module, inputs: Tensor) -> Any:
        with lockstep():  # here is met who failed since the pass before
            pass
        with lockstep():
            return call(module, inputs)

    return stepping


def _decided(method: AnyMethod) -> dict[str, Any]:
    """What `bind` decided, as other processes can take it."""
    if not isinstance(method, _DECIDING):
        return {}
    known = {name: vars(method)[name] for name in _DECIDED if name in vars(method)}
    return {name: one.cpu() if isinstance(one, Tensor) else one for name, one in known.items()}


def _settled(method: AnyMethod, decided: Mapping[str, Any], device: torch.device) -> AnyMethod:
    if not decided:
        return method
    assert isinstance(method, Method)
    there = {
        name: one.to(device) if isinstance(one, Tensor) else one for name, one in decided.items()
    }
    return knowing(method, **there)
