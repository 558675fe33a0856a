"""How an input is divided into segments: a grid, superpixels, or as a user's own function says."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from lightning_saliency.errors import ConfigurationError, did_you_mean, imported
from lightning_saliency.observation import out_of_memory

Segments: TypeAlias = Literal["grid", "slic"] | Callable[..., Any]
"""A name, or a callable (image `(C, *spatial)`) -> labels `(*spatial)`."""

_NAMES = ("grid", "slic")


def check_segments(method: object, segments: object) -> None:
    """Raise a `ConfigurationError` unless `segments` says how an input is divided."""
    word = f"{type(method).__name__}(segments={segments!r})"
    if isinstance(segments, str) and "." in segments:
        imported(segments, word)
    elif not callable(segments) and segments not in _NAMES:
        raise ConfigurationError(
            f"{word} is not a way to divide an input. {did_you_mean(segments, _NAMES)} Or give a "
            "callable (image (C, *spatial)) -> labels (*spatial), or its import path."
        )
    if segments == "slic" and find_spec("skimage") is None:
        raise ConfigurationError(
            f"{word} needs scikit-image: pip install 'lightning-saliency[segments]', or use "
            "segments='grid'."
        )


def divided(inputs: Tensor, segments: Segments | str, cells: int) -> Tensor:
    """The segment of each place, numbered from 0 without gaps in each probe.

    Args:
        inputs: `(N, C, *spatial)`.
        segments: as `check_segments` allows.
        cells: per side, of a grid; about as many superpixels.

    Returns:
        `(N, *spatial)` int64 on the CPU, or `(1, *spatial)` where all probes are divided alike.
    """
    if segments == "grid":
        return grid(tuple(inputs.shape[2:]), cells)[None]
    if segments == "slic":
        return torch.stack([superpixels(image, cells) for image in inputs.detach().cpu()])
    images = inputs.detach().cpu()
    return torch.stack([_numbered(_asked(segments, image), image) for image in images])


def _asked(segments: Callable[..., Any] | str, image: Tensor) -> Any:
    """What a user's function answers to an image `(C, *spatial)`."""
    divide = imported(segments, "segments") if isinstance(segments, str) else segments
    try:
        return divide(_shown(image))
    except Exception as error:
        if out_of_memory(error) or isinstance(error, ConfigurationError):
            raise
        name = segments if isinstance(segments, str) else getattr(divide, "__name__", repr(divide))
        raise ConfigurationError(
            f"segments: '{name}' raised {type(error).__name__}: {error}. It was called with an "
            f"image {tuple(image.shape)}; correct it, or use 'grid' or 'slic'."
        ) from error


def grid(sides: tuple[int, ...], cells: int) -> Tensor:
    """Cells of a side of equal size, up to a pixel: `(*sides)`."""
    labels = torch.zeros(sides, dtype=torch.int64, device="cpu")
    for dimension, side in enumerate(sides):
        cell = torch.arange(side, device="cpu") * cells // side
        labels = labels * cells + cell.view(-1, *[1] * (len(sides) - dimension - 1))
    return labels


def superpixels(image: Tensor, cells: int) -> Tensor:
    """SLIC (Achanta et al. 2012) of an image `(C, *spatial)`: labels `(*spatial)`.

    The image is scaled to its own range. Three channels are taken as a colour and compared as Lab.
    What is not finite counts as one of the ends: SLIC would refuse the image, and so all of them.
    """
    numbers = _shown(image)
    known = numbers[numbers.isfinite()]
    low, high = (known.amin(), known.amax()) if len(known) else numbers.new_zeros(2)
    unit = ((numbers - low) / (high - low).clamp(min=1e-12)).nan_to_num(0.0, 1.0, 0.0)
    channels_last = unit.movedim(0, -1)
    line = channels_last.ndim == 2  # of one spatial dimension: a picture of one row
    picture = channels_last[None] if line else channels_last
    colour = len(image) == 3 and picture.ndim == 3
    labels = import_module("skimage.segmentation").slic(
        picture.numpy(),
        n_segments=cells ** (image.ndim - 1),
        compactness=10 if colour else 0.1,  # the scale of Lab is 100, of other numbers 1
        convert2lab=colour,
        start_label=0,
        channel_axis=-1,
    )
    return _numbered(labels[0] if line else labels, image)


def _shown(image: Tensor) -> Tensor:
    """A copy in float32: numpy knows no bfloat16, and a user's function may write."""
    return image.float().clone()


def _numbered(given: object, image: Tensor) -> Tensor:
    wanted = tuple(image.shape[1:])
    labels = np.asarray(given.detach().cpu() if isinstance(given, Tensor) else given)
    if labels.shape != wanted or labels.dtype.kind not in "iu":
        raise ConfigurationError(
            f"segments: labels are {labels.dtype} {labels.shape}; give whole numbers {wanted}, one "
            "for each place."
        )
    return torch.from_numpy(np.unique(labels, return_inverse=True)[1].reshape(wanted))
