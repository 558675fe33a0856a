"""Which layers class activation maps read, and how the maps of several become one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from itertools import islice
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_saliency.attribution.fresh import seeing_through_zeros
from lightning_saliency.attribution.layouts import Answer, answers
from lightning_saliency.attribution.subject import Subject
from lightning_saliency.attribution.taps import (
    Tap,
    displayed,
    find_layer,
    first_of,
    scripted,
    with_first,
)
from lightning_saliency.attribution.tokens import as_map
from lightning_saliency.errors import ConfigurationError
from lightning_saliency.observation import out_of_memory

_TRIES = 24
"""Layers that are tried for being all that the score reads of the places."""


def checked_layers(method: object, layer: object) -> str | tuple[str, ...] | None:
    """The argument `layer` of a method: a name, several, or none; one in a list is one."""
    if layer is None or isinstance(layer, str):
        return layer
    names = tuple(layer) if isinstance(layer, (list, tuple)) else ()
    if not names or not all(isinstance(name, str) for name in names):
        raise ConfigurationError(
            f"{type(method).__name__}(layer={layer!r}): give the dotted name of a layer, such as "
            "'features.0', a list of names, or leave it out."
        )
    if len(set(names)) < len(names):
        raise ConfigurationError(
            f"{type(method).__name__}(layer={layer!r}): a layer is named twice. Name each once."
        )
    return names if len(names) > 1 else names[0]


def on_one_grid(maps: Sequence[Tensor]) -> Tensor:
    """Maps `(n, *spatial)` of L layers, as `(L, n, *spatial)` at the finest of their resolutions.

    The finest has the longest of each side; linear interpolation, ``align_corners=False``.
    """
    sides = tuple(map(max, zip(*(one.shape[1:] for one in maps), strict=True)))
    return torch.stack([enlarged(one, sides) for one in maps])


def enlarged(maps: Tensor, sides: Sequence[int]) -> Tensor:
    """Maps `(n, *spatial)` at another resolution, by linear interpolation between centres."""
    if maps.shape[1:] == tuple(sides):
        return maps
    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[len(sides)]
    return F.interpolate(maps[:, None], tuple(sides), mode=mode, align_corners=False)[:, 0]


def of_peak_one(maps: Tensor) -> Tensor:
    """Each map `(n, *spatial)` divided by its largest magnitude; a map of zeros stays one."""
    peak = maps.abs().flatten(1).amax(1).view(-1, *[1] * (maps.ndim - 1))
    return maps / peak.where(peak != 0, 1)


def last_spatial_layer(subject: Subject, inputs: Tensor) -> str:
    """The name of the last layer that answers with a map on whose places the score depends.

    A map has as many spatial dimensions as the input, more than one place along each, and may be
    laid out as tokens or with channels last. Layers that run more than once, such as a shared ReLU,
    are passed over, and so are those that end later but beside the way to the score: a branch of
    its own, or a head that is applied to all tokens, of which one is read.

    A transformer whose head reads the class token alone depends on no patch of its last block.
    There it is the last layer of the same width through which goes all that the score reads of the
    patches that enter this block: the normalisation before its attention. What enters the block
    will not do: g is orthogonal there to each A that is normalised, and Σ_k g_k A_k = 0.

    Raises:
        ConfigurationError: the model has no layer that answers with a map.
    """
    # Kept where functools.cached_property would keep it: methods that are bound together share it.
    found: dict[torch.Size, str] = vars(subject).setdefault("_last_spatial_layers", {})
    if inputs.shape[1:] not in found:
        found[inputs.shape[1:]] = _find(subject, inputs[:1])
    return found[inputs.shape[1:]]


def _find(subject: Subject, inputs: Tensor) -> str:
    maps = _maps(subject, inputs)
    last = next(reversed(maps))
    if last in _read(subject, inputs, {last: maps[last]}):
        return displayed(last)
    read = _read(subject, inputs, maps)
    shapes = {maps[name].shape for name in read}
    # Where none is read, the model has no gradients: of that the methods tell that need them.
    last = next((name for name in reversed(maps) if maps[name].shape in shapes), last)
    if last in read or not read:
        return displayed(last)
    alike = {name: maps[name] for name in read if maps[name].shape == maps[last].shape}
    return displayed(_last_of_all(subject, inputs, alike) or last)


def _maps(subject: Subject, inputs: Tensor) -> dict[str, Answer]:
    """The layers that answer once, with a map of several places, in the order they end in."""
    model = type(subject.module).__name__
    maps = {name: one for name, one in answers(subject, inputs).items() if one.is_map}
    once = {name: one for name, one in maps.items() if one.calls == 1}
    if once:
        return once
    if maps:
        raise ConfigurationError(
            f"layer=None: each layer of {model} that answers with a map runs more than once in a "
            f"forward pass, the last of them '{displayed(next(reversed(maps)))}', so none has one "
            "activation. Of a model that averages over several runs, as test-time augmentation "
            "does, call one with forward=…; or use a gradient method, such as 'saliency'."
        )
    for name, part in subject.module.named_modules():
        if isinstance(part, torch.jit.ScriptModule):
            raise scripted(f"layer=None: {f'the part {displayed(name)!r} of ' * bool(name)}{model}")
    raise ConfigurationError(
        f"layer=None: {model} has no layer that answers with a map (n, K, *spatial), so a class "
        "activation map has nothing to show. Use a gradient method, such as 'saliency'."
    )


def _last_of_all(subject: Subject, inputs: Tensor, maps: Mapping[str, Answer]) -> str | None:
    """Of layers that are read, the last through which goes what is read of the last cut's places.

    A cut is a layer without which the score reads no place of any layer before it.
    """
    names = list(maps)
    past: dict[str, list[str]] = {}  # layer → those before it that are read past it
    for place in islice(reversed(range(len(names))), _TRIES):
        name = names[place]
        before = {one: maps[one] for one in names[:place]}
        past[name] = _read(subject, inputs, before, severed=name) if place else []
        if not past[name]:
            return next(later for later, others in past.items() if name not in others)
    return names[-1] if names else None


def _read(
    subject: Subject, inputs: Tensor, maps: Mapping[str, Answer], severed: str | None = None
) -> list[str]:
    """Those of the layers on whose places the scores depend, perhaps with one layer cut off."""
    try:
        gradients = _gradients(subject, inputs, list(maps), severed)
    except RuntimeError as error:
        if out_of_memory(error):
            raise
        return list(maps)  # a model without gradients is told of by the methods that need them
    return [
        name
        for name, gradient in zip(maps, gradients, strict=True)
        if gradient is not None and as_map(gradient, inputs, name, maps[name].layout).any()
    ]


def _gradients(
    subject: Subject, inputs: Tensor, names: list[str], severed: str | None
) -> Sequence[Tensor | None]:
    """Of a sum of all scores, no two of which weigh the same, with respect to the layers."""
    inputs = inputs.detach().requires_grad_(subject.whole_graph)
    with ExitStack() as scope:
        scope.enter_context(torch.set_grad_enabled(subject.whole_graph))
        scope.enter_context(seeing_through_zeros(subject.module))
        tap = scope.enter_context(Tap(subject.module, names))
        if severed is not None:
            layer = find_layer(subject.module, severed)
            scope.callback(layer.register_forward_hook(_sever).remove)
        scores = subject.scores(inputs)
        wanted = list(tap.taken().values())
        torch.set_grad_enabled(True)
        scores = scores.flatten().float()
        # Sums of probabilities are constant; in half precision small gradients underflow.
        total = (scores * torch.linspace(1024, 2048, len(scores), device=scores.device)).sum()
        if not total.requires_grad:
            return [None] * len(names)
        return torch.autograd.grad(total, wanted, allow_unused=True)


def _sever(module: nn.Module, args: Any, output: Any) -> Any:  # noqa: ARG001
    activation = first_of(output)
    return None if activation is None else with_first(output, activation.detach())
