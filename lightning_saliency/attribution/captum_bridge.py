"""Any attribution class of captum as a method, by its name and with its own arguments."""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from lightning_saliency.attribution.arguments import check_whole
from lightning_saliency.attribution.method import Channels, over_channels
from lightning_saliency.attribution.subject import Plain, describe
from lightning_saliency.attribution.taps import find_layer
from lightning_saliency.attribution.tokens import as_map
from lightning_saliency.errors import ConfigurationError, did_you_mean, imported
from lightning_saliency.observation import borrowed_randomness

_OF_CONSTRUCTOR = {"self", "model", "forward_func", "layer", "device_ids", "attribution_method"}
_OURS = _OF_CONSTRUCTOR | {"inputs", "target", "additional_forward_args", "kwargs"}
"""Parameters that a call fills in itself."""

_NOISE = (r"Setting (forward, )?backward hooks", r"You are providing multiple inputs for Lime")
"""Warnings about what captum does and undoes, at each call."""


@dataclass(frozen=True)
class Captum:
    """The attribution of a class of captum, as it is (Kokhlikyan et al. 2020, arXiv 2009.07896).

    In the class's own units, with its sign; channels are reduced as `channels` says. The score is
    the logit of the probe's class (captum's ``target``), not the target that other methods share; a
    single logit z counts as the two scores −z and z. Results are those of a call by hand, bit for
    bit, with defaults that hold no more than two steps in memory: an ``internal_batch_size`` of
    twice the probes, and an ``nt_samples_batch_size`` of 1. Random numbers are seeded for each
    call, and the process keeps its own: the same at every observation, others with another `chunk`.

    Passes: those of the class, not shared with other methods.
    Good for: every method of captum that has no place here, and for comparing.
    Misleads: as the class does. A class with a built-in counterpart is slower than that, and holds
        more memory.

    Args:
        name: of a class in ``captum.attr``, such as ``DeepLift``, or its import path.
        arguments: of its constructor, without the model and the layer.
        attribute: of its method ``attribute``, without the inputs and the target: numbers, strings,
            lists (which become tuples), tensors; the import path of anything else; or a mapping
            with ``class_path`` and ``init_args``.
        layer: dotted name of the layer, for classes that take one.
        wraps: for ``NoiseTunnel``, the name of the class that it wraps; `arguments` and `layer` are
            those of the wrapped class, `attribute` holds arguments of both.
        channels: how channels become one map: ``max``, ``l2``, ``signed`` or ``positive``.
        seed: of the random numbers that the class draws.

    Raises:
        ConfigurationError: captum is missing, or has no such class or argument.
    """

    name: str
    arguments: dict[str, Any] | None = None
    attribute: dict[str, Any] | None = None
    layer: str | None = None
    wraps: str | None = None
    channels: Channels = "max"
    seed: int = 0

    def __post_init__(self) -> None:
        check_whole(self, "seed", self.seed, 0)
        over_channels(torch.zeros(1, 1, 1), self.channels)  # an unknown name is told now
        outer, inner = self._classes()
        if "layer" in _names(inner) and self.layer is None:
            raise ConfigurationError(f"{self._word} needs layer=…, the dotted name of a layer.")
        if self.layer is not None and "layer" not in _names(inner):
            raise ConfigurationError(f"{self._word} takes no layer={self.layer!r}: leave it out.")
        self._check("arguments", _names(inner))
        self._check("attribute", _names(inner.attribute) + _names(outer.attribute))

    @property
    def __name__(self) -> str:
        """What it is called in a list of methods, such as ``captum_deep_lift``."""
        words = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z0-9]+", self.name.split(".")[-1])
        return "_".join(["captum", *words]).lower()

    @property
    def signed(self) -> bool:
        """Whether the map has a sign."""
        return self.channels == "signed"

    @property
    def _word(self) -> str:
        return f"Captum(name={self.name!r})"

    def _classes(self) -> tuple[Any, Any]:
        """The class, and the one that it wraps: the same where it wraps none."""
        outer = _class(self.name, "name")
        if "attribution_method" not in _names(outer):
            if self.wraps is not None:
                raise ConfigurationError(f"{self._word} wraps nothing: leave wraps=… out.")
            return outer, outer
        if self.wraps is None:
            raise ConfigurationError(
                f"{self._word} needs wraps=…, the name of the class that it wraps, such as "
                "'IntegratedGradients'."
            )
        return outer, _class(self.wraps, "wraps")

    def _check(self, argument: str, names: list[str]) -> None:
        known = sorted({*names} - _OURS)
        for name in getattr(self, argument) or {}:
            if name not in known:
                raise ConfigurationError(
                    f"{self._word}: {argument} has no {name!r}. {did_you_mean(name, known)}"
                )

    def __call__(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        """Attributions `(N, C, *spatial)`, or `(N, *spatial)` where `channels` are reduced by sign.

        Args:
            model: maps inputs to scores `(N, K)`, or `(N,)` or `(N, 1)` of a binary net.
            inputs: `(N, C, *spatial)`.
            targets: `(N,)` class indices.
        """
        outer, inner = self._classes()
        arguments = _values(self.arguments, inputs.device)
        if self.layer is not None:
            module = model.module if isinstance(model, Plain) else model
            arguments["layer"] = find_layer(module, self.layer)
        call = _values(self.attribute, inputs.device)
        if "target" in _names(inner.attribute):
            call["target"] = targets
        if "internal_batch_size" in _names(inner.attribute):
            call.setdefault("internal_batch_size", 2 * len(inputs))
        if "nt_samples_batch_size" in _names(outer.attribute):
            call.setdefault("nt_samples_batch_size", 1)
        with borrowed_randomness(inputs.device, self.seed), warnings.catch_warnings():
            for message in _NOISE:
                warnings.filterwarnings("ignore", message)
            explainer = inner(_Scores(model), **arguments)
            if outer is not inner:
                explainer = outer(explainer)
            result = explainer.attribute(inputs.detach().requires_grad_(), **call)
        return self._reduced(result, inputs)

    def _reduced(self, result: Any, inputs: Tensor) -> Tensor:
        if (self.attribute or {}).get("return_convergence_delta"):
            result = result[0]
        if isinstance(result, tuple) and len(result) == 1:
            result = result[0]
        if not isinstance(result, Tensor):
            raise ConfigurationError(
                f"{self._word} returns {describe(result)}, not one tensor: name a layer=… that "
                "returns one tensor."
            )
        found = result.detach()
        if self.layer is not None and found.shape[1:] != inputs.shape[1:]:
            found = as_map(found, inputs, self.layer)
        return found if self.channels == "max" else over_channels(found, self.channels)


class _Scores(nn.Module):
    """The model, with two scores where it gives a single logit: captum picks one by its index."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor) -> Tensor:
        scores: Tensor = self.model(inputs)
        if scores.shape[1:].numel() != 1:
            return scores
        logit = scores.reshape(-1)
        return torch.stack([-logit, logit], 1)


def _class(name: str, argument: str) -> Any:
    """The class of captum with this name or import path."""
    word = f"Captum({argument}={name!r})"
    if find_spec("captum") is None:
        raise ConfigurationError(f"{word} needs captum: pip install 'lightning-saliency[captum]'.")
    library = vars(import_module("captum.attr"))
    known = {key: one for key, one in library.items() if _explains_images(one)}
    if isinstance(name, str) and "." in name:
        found = imported(name, word)
    elif name in known:
        return known[name]
    else:
        raise ConfigurationError(
            f"{word} is not a class of captum.attr. {did_you_mean(name, known)}"
        )
    if not _explains_images(found):
        raise ConfigurationError(
            f"{word} is no attribution of images: give a class whose constructor takes a model, "
            "and whose attribute() takes inputs."
        )
    return found


def _explains_images(one: object) -> bool:
    """Whether it is a class of an attribution that can be made of a model, or of another one."""
    call = getattr(one, "attribute", None)
    if not isinstance(one, type) or not callable(call):
        return False
    made_of = {"model", "forward_func", "attribution_method"} & {*_names(one)}
    return bool(made_of) and "inputs" in _names(call)


def _names(function: Any) -> list[str]:
    """The names of a function's or a constructor's parameters."""
    return list(inspect.signature(function).parameters)


def _values(given: Mapping[str, Any] | None, device: torch.device) -> dict[str, Any]:
    return {name: _value(value, name, device) for name, value in (given or {}).items()}


def _value(value: Any, name: str, device: torch.device) -> Any:
    """An argument as captum takes it, of what YAML can say."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, list):
        return tuple(_value(one, name, device) for one in value)
    if isinstance(value, str) and "." in value:
        return imported(value, f"Captum: {name}")
    if isinstance(value, Mapping) and "class_path" in value:
        arguments = _values(value.get("init_args"), device)
        return imported(value["class_path"], f"Captum: {name}")(**arguments)
    return value
