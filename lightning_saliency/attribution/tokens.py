"""Activations of transformers as maps: where tokens, or channels-last features, lie in the input.

What is known is the shape of the activation and that of the input, nothing of the architecture.
Where a shape may be read in several ways, `layouts` finds which by a look at the model.
Patches are taken to have one side length along all dimensions, and to come last: tokens before
them (class, distillation, registers) are a prefix, which is dropped.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from lightning_saliency.errors import ConfigurationError

PREFIX = 16
"""Tokens before the patches, at most. Vision transformers in use have 0 to 5, rarely 8 or 16."""

_USUAL = 5
"""Tokens before patches that don't tile the input: of looser grids, some fits any number."""

_LOST = 16
"""Places along a side that convolutions without padding cost, at most."""

Grid = tuple[int, ...]
"""The number of patches along each spatial dimension: `(h, w)` of an image."""


@dataclass(frozen=True)
class Layout:
    """Which dimensions of a layer's output hold what; the others are places, or tokens.

    Attributes:
        rows: the dimension of the probes: 0, or 1 of tokens that come first.
        channels: the dimension of the channels: 1, or the last, and then counted from 0 as well.
        prefix: how many tokens of a line come before its places; None where their number tells.
    """

    rows: int
    channels: int
    prefix: int | None = None


def as_map(activation: Tensor, inputs: Tensor, layer: str, layout: Layout | None = None) -> Tensor:
    """A layer's activation as `(n, D, *grid)`, with the spatial dimensions of the input.

    Args:
        activation: what the layer returned: tokens `(n, T, D)` or `(T, n, D)`, channels-last
            features `(n, *grid, D)`, or channels-first ones `(n, D, *grid)`, which are returned as
            they are.
        inputs: `(n, C, *spatial)`, what went into the model.
        layer: the layer's name, for errors.
        layout: which of these it is; read off the shapes when not given.

    Returns:
        `(n, D, *grid)`; prefix tokens are left out. A view where that is possible.

    Raises:
        ConfigurationError: the shape says not where the places of the input are.
    """
    shape = tuple(activation.shape)
    layout = layout or layout_of(shape, inputs, layer)
    if layout.channels == 1 and (len(shape) != inputs.ndim or shape[0] != len(inputs)):
        layout = layout_of(shape, inputs, layer)
    if layout.channels == 1:
        return activation
    if activation.ndim > 3:
        return activation.movedim(-1, 1)
    tokens = activation.transpose(0, layout.rows)
    if layout.prefix is not None:
        return tokens[:, layout.prefix :].mT
    prefix, grid = grid_of(tokens.shape[1], inputs, _source(shape, inputs, layer))
    patches = tokens[:, prefix:]
    return patches.reshape(len(patches), *grid, -1).movedim(-1, 1)


def layout_of(shape: Grid, inputs: Tensor, layer: str, last: bool | None = None) -> Layout:
    """The layout of an activation, as far as its shape tells.

    Where n = T the probes are first. Where channels may be first or last, they are first, as in
    every convolution; with one spatial dimension they are, unless that would make the map longer
    than the input.

    Args:
        shape: of the activation.
        inputs: `(n, C, *spatial)`, what went into the model.
        layer: the layer's name, for errors.
        last: whether channels are last where both are possible, or first, if something else tells.

    Raises:
        ConfigurationError: the shape says not where the places of the input are.
    """
    end = len(shape) - 1
    if end > 2 and end + 1 == inputs.ndim and shape[0] == len(inputs):
        if last is False:
            return Layout(0, 1)
        at_last, at_first = follows(shape[1:-1], inputs), follows(shape[2:], inputs)
        return Layout(0, end if at_last and (last or not at_first) else 1)
    if end == 2:
        first = last is False or (last is None and shape[2] <= inputs.shape[2])
        if inputs.ndim == 3 and shape[0] == len(inputs) and first:
            return Layout(0, 1)
        if len(inputs) in shape[:2]:
            return Layout(int(shape[0] != len(inputs)), 2)
    raise ConfigurationError(
        f"{_source(shape, inputs, layer)}: that has no places of the input. Expected are features "
        "(n, D, *grid) or (n, *grid, D) with the input's spatial dimensions, or tokens (n, T, D) "
        "or (T, n, D). Windows that were folded into the batch, and what comes after a pooling, "
        "can't be drawn: name the block around them, or a layer before it."
    )


def _source(shape: Grid, inputs: Tensor, layer: str) -> str:
    return f"layer={layer!r} returns {shape} for inputs {tuple(inputs.shape)}"


def grid_of(tokens: int, inputs: Tensor, source: str = "the model") -> tuple[int, Grid]:
    """How many tokens come before the patches, and the grid of the patches.

    A grid must fit the input: patches of one side length that tile it, with the smallest prefix;
    else, in two or three dimensions, patches that leave a rest or overlap but keep the aspect.

    Args:
        tokens: T, prefix and patches.
        inputs: `(n, C, *spatial)`, what went into the model.
        source: what has the tokens, as the subject of an error.

    Returns:
        The length of the prefix, 0 to 16, and the grid.

    Raises:
        ConfigurationError: no grid fits.
    """
    sides = tuple(inputs.shape[2:])
    longest = PREFIX if len(sides) > 1 else 2  # a line has no aspect to tell a prefix from a patch
    for grids, most in ((_tiling(sides), longest), (_roughly(sides), _USUAL)):
        fitting = [grid for grid in grids if max(2, tokens - most) <= math.prod(grid) <= tokens]
        if fitting:
            grid = max(fitting, key=math.prod)
            return tokens - math.prod(grid), grid
    raise ConfigurationError(
        f"{source}: {tokens} tokens of an input of {' × '.join(map(str, sides))} can't be laid out "
        f"as a map: no grid of patches with the input's aspect, and up to {longest} tokens before "
        "it, has so many. Name a layer that returns (n, D, *grid), or give inputs whose sides are "
        "multiples of the patch."
    )


def _tiling(sides: Grid) -> Iterator[Grid]:
    """The grids of patches of one side length that tile the input exactly; of several places."""
    for patch in range(1, max(sides)):
        if all(side % patch == 0 for side in sides):
            yield tuple(side // patch for side in sides)


def _roughly(sides: Grid) -> Iterator[Grid]:
    """Grids that keep the aspect: a rest is cut off or filled up, or patches overlap."""
    if len(sides) == 1:
        return
    for patch in range(2, max(sides)):
        yield tuple(max(1, side // patch) for side in sides)
        yield tuple(-(-side // patch) for side in sides)
    unit = math.gcd(*sides)
    for times in range(1, unit):
        yield tuple(side // unit * times for side in sides)


def follows(grid: Grid, inputs: Tensor) -> bool:
    """Whether `grid` can be what some stride makes of the input's last two sides.

    Convolutions, poolings and patches that treat both sides alike take a side H to
    ⌊(H − K) / P⌋ + 1, whatever their number: K and P, the stride of all together, are shared. K is
    taken to cost a few places at most. The first of three dimensions may have a stride of its own,
    as time has.
    """
    if len(grid) == 1:
        return False
    (high, wide), (rows, columns) = inputs.shape[-2:], grid[-2:]
    return any(
        abs(high - wide - stride * (rows - columns)) < stride
        and 0 <= high - stride * (rows - 1) <= stride * _LOST
        and 0 <= wide - stride * (columns - 1) <= stride * _LOST
        for stride in range(1, max(high, wide) + 1)
    )
