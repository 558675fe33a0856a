"""The biases of a model: which layers add one on the way to the scores, and at which places."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from lightning_saliency.attribution.looking import full
from lightning_saliency.attribution.subject import Subject
from lightning_saliency.attribution.taps import displayed
from lightning_saliency.attribution.tokens import follows

_NORMALISING = (_BatchNorm.forward, nn.SyncBatchNorm.forward)

_CLEAR = 0.1
"""Of the length of a side: how far a stripe that goes from one end to the other must move what
changes along it. Two thirds where places stay apart, 0 where they are mixed evenly."""


class Sides(NamedTuple):
    """What the dimensions of a layer's output hold.

    Attributes:
        rows: the dimension of the probes: 0, also of windows folded into them, or 1.
        channels: the dimension of the channels; None where the output has no places of the input.
    """

    rows: int
    channels: int | None


def biased_layers(subject: Subject, inputs: Tensor) -> dict[str, Sides]:
    """The names of the layers with a bias that run once, on the way to the scores.

    Args:
        subject: the model and how it is called.
        inputs: `(1, C, *spatial)`.
    """
    inputs = inputs.detach().nan_to_num(0.0, 0.0, 0.0)
    met: dict[str, list[_Call]] = defaultdict(list)

    def note(name: str, *call: Any) -> None:
        met[name].append(_Call(*call))

    with _met(subject.module, note), torch.enable_grad():
        scores = subject.scores(inputs.clone().requires_grad_())
        behind = _nodes_behind(scores)
    once = {name: calls[0] for name, calls in met.items() if len(calls) == 1}
    found = {name: call for name, call in once.items() if call.node in behind and call.adds}
    placed = [
        name
        for name, call in found.items()
        if len(call.shape) == inputs.ndim and call.shape[0] == 1
    ]
    before = {
        name: (*found[name].shape[:-1], layer.in_features)
        for name in placed
        if isinstance(layer := found[name].layer, nn.Linear)
    }
    channels = dict.fromkeys(placed, 1) | _channels_of_linear(subject, inputs, before)
    return {
        displayed(name): Sides(int(call.shape[0] != 1 in call.shape[1:2]), channels.get(name))
        for name, call in found.items()
    }


class _Call:
    """One call of a layer: its place in the graph, its shape, and whether it adds its bias."""

    def __init__(self, layer: nn.Module, args: Any, kwargs: Any, output: object) -> None:
        self.layer = layer
        self.node = output.grad_fn if isinstance(output, Tensor) else None
        self.shape: tuple[int, ...] = output.shape if isinstance(output, Tensor) else ()
        own = type(layer).forward in _OWN and "forward" not in vars(layer)
        self.adds = isinstance(output, Tensor) and (
            own or _adds_its_bias(layer, args, kwargs, output)
        )


def _met(module: nn.Module, note: Callable[..., None]) -> ExitStack:
    """Hooks that tell of each call of a layer with a bias: name, layer, arguments, output."""

    def told(name: str, layer: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        note(name, layer, args, kwargs, output)

    hooks = ExitStack()
    for name, layer in module.named_modules():
        if _has_bias(layer):
            handle = layer.register_forward_hook(partial(told, name), with_kwargs=True)
            hooks.callback(handle.remove)
    return hooks


def _has_bias(layer: nn.Module) -> bool:
    if isinstance(layer, (_ConvNd, nn.Linear)):
        return layer.bias is not None
    # A subclass may do more in its forward than to normalise: an activation, say.
    known = isinstance(layer, _BatchNorm) and type(layer).forward in _NORMALISING
    return known and layer.running_mean is not None and layer.running_var is not None


_OWN = (
    *_NORMALISING,
    *(nn.Linear.forward, nn.Conv1d.forward, nn.Conv2d.forward, nn.Conv3d.forward),
    *(one.forward for one in (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)),
)


def _adds_its_bias(layer: nn.Module, args: Any, kwargs: Any, output: Tensor) -> bool:
    """Whether a layer with a forward of its own answers to another bias by the difference.

    So it is where a convolution pads in its own way, and not where an activation follows.
    """
    bias = layer._parameters.get("bias")
    if bias is None:
        return False
    step = output.detach().abs().amax().to(bias.dtype)
    step = step.where(step > 0, 1)
    with torch.no_grad():
        # Not by the layer itself, whose hooks would tell of a second call.
        less = functional_call(_Forward(layer), {"layer.bias": bias - step}, args, kwargs)
    return bool((output.detach() - less - step).abs().amax() < 0.02 * step)


class _Forward(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.layer.forward(*args, **kwargs)


def bias_of(layer: Any) -> Tensor:
    """What a layer adds, `(K,)`: for γ (x − μ) / σ + β, batch normalisation, that is β − γμ / σ."""
    bias: Tensor = layer.bias
    if not isinstance(layer, _BatchNorm):
        return bias
    mean, variance = layer.running_mean, layer.running_var
    assert mean is not None
    assert variance is not None
    scaled = -mean * (variance + layer.eps).rsqrt()
    return scaled * layer.weight + bias if layer.affine else scaled


def spread(bias: Tensor, layer: nn.Module, dimensions: int) -> Tensor:
    """A bias `(K,)` in a shape that broadcasts to the layer's output of so many dimensions."""
    return bias if isinstance(layer, nn.Linear) else bias.view(-1, *[1] * (dimensions - 2))


def _channels_of_linear(
    subject: Subject, inputs: Tensor, shapes: Mapping[str, Sequence[int]]
) -> dict[str, int | None]:
    """The dimension of the channels of linear layers; None where it can't be told.

    A linear layer is over the last dimension, whatever that is: features, a side of an image, time.
    So stripes of the probe are changed, at one end of a side and at the other: what changes before
    the layer moves along the dimension that is this side, and no other. Where all places see all
    that changes, the proportions of an image tell, if they do.

    Args:
        subject: the model and how it is called.
        inputs: `(1, C, *spatial)`.
        shapes: of what goes into the layers, by their names: of as many dimensions.
    """
    found: dict[str, int | None] = {}
    moves = _moves(subject, inputs, tuple(shapes)) if shapes else {}
    for name, ways in moves.items():
        # How far it moves along the dimensions of the sides: all but the last, or all but 1.
        last, first = (min(float(way[side + at]) for side, way in enumerate(ways)) for at in (0, 1))
        if max(last, first) <= max(_CLEAR, 2 * min(last, first)):
            shape = tuple(shapes[name])
            last, first = follows(shape[1:-1], inputs), follows(shape[2:], inputs)
        found[name] = None if last == first else inputs.ndim - 1 if last > first else 1
    return found


def _moves(subject: Subject, inputs: Tensor, names: Sequence[str]) -> dict[str, list[Tensor]]:
    """How far what changes before a layer moves when a stripe goes from one end to the other.

    Of each layer, for each side of the input: shares of the layer's dimensions but the rows.
    """
    before = _inputs_of(subject, inputs, names)
    step = (inputs.amax() - inputs.amin()).clamp(min=1)
    found: dict[str, list[Tensor]] = {name: [] for name in names}
    for side in range(2, inputs.ndim):
        width = -(-inputs.shape[side] // 3)
        ends = []
        for start in (0, inputs.shape[side] - width):
            changed = inputs.clone()
            changed.narrow(side, start, width).add_(step)
            ends.append(_inputs_of(subject, changed, names))
        for name, ways in found.items():
            still, low, high = (one.get(name, inputs[:0]) for one in (before, *ends))
            if len(still) and still.shape == low.shape == high.shape:
                way = _middles(high - still) - _middles(low - still)
                ways.append(way.nan_to_num())  # 0 where nothing changes
            else:  # a layer that runs for some inputs alone
                ways.append(torch.zeros(inputs.ndim - 1, device="cpu"))
    return found


def _inputs_of(subject: Subject, inputs: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
    """What these layers are called with."""
    found: dict[str, Tensor] = {}

    def keep(name: str, *call: Any) -> None:
        _, args, kwargs, _ = call
        given = args[0] if args else kwargs.get("input")
        if name in names and isinstance(given, Tensor):
            found[name] = full(given.detach()).clone()

    with _met(subject.module, keep), torch.no_grad():
        subject.scores(inputs)
    return found


def _middles(change: Tensor) -> Tensor:
    """Where along each dimension but that of the rows the change is on average, from 0 to 1."""
    size = change.abs()[0]
    found = []
    for dimension, length in enumerate(size.shape):
        weights = size.movedim(dimension, 0).flatten(1).sum(1)
        places = (torch.arange(length, device=size.device) + 0.5) / length
        found.append((weights * places).sum() / weights.sum())
    return torch.stack(found)


def _nodes_behind(scores: Tensor) -> set[object]:
    """All nodes of the graph that the scores come from."""
    found: set[object] = set()
    waiting: list[Any] = [scores.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in found:
            found.add(node)
            waiting += [below for below, _ in node.next_functions]
    return found
