"""Probes as a person knows them: model inputs back to uint8 pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lightning_saliency.errors import ConfigurationError
from lightning_saliency.rendering.arrays import AnyFloats, Bytes, Floats
from lightning_saliency.rendering.traces import draw_traces

if TYPE_CHECKING:
    from torch import Tensor

    Statistics = float | Sequence[float] | Tensor


@dataclass(frozen=True)
class DisplayRange:
    """The values that are drawn black and white.

    Attributes:
        low: Drawn black.
        high: Drawn white.
        stretched: Whether the range was read from the probes, for want of a known one.
    """

    low: float
    high: float
    stretched: bool

    def __str__(self) -> str:
        """Say it for a legend."""
        source = "the range of all probes" if self.stretched else "as given"
        return f"black = {self.low:.3g}, white = {self.high:.3g} ({source})"


@np.errstate(over="ignore", invalid="ignore")  # what is out of range is drawn at its end
def to_pictures(
    inputs: Tensor,
    mean: Statistics | None = None,
    std: Statistics | None = None,
    *,
    slice_index: int | None = None,
) -> Bytes:
    """Draw `inputs` as pictures.

    Values: un-normalised as x·std + mean where these are given, then clipped to 0..1, or to 0..255
    where the values clearly live there. Without them, values already in one of these ranges are
    taken as they are, and others are stretched from the lowest to the highest over all the probes
    together (`display_range` says which). uint8 is passed through.

    Channels: 1 is grey; 3 is RGB; of 4 the first three are RGB (RGBA, RGB + infrared); any other
    number is averaged to grey.

    Shapes: (N, C, H, W) images. (N, C, D, H, W) volumes: one slice. (N, C, L) signals, and (N, L)
    feature vectors: line plots, one lane for each of the first 8 channels, each lane from the
    lowest to the highest value of its channel over all probes.

    Args:
        inputs: (N, C, *spatial), any dtype and device.
        mean: Per channel, or one for all: what the user's Normalize subtracted.
        std: Per channel, or one for all: what it divided by.
        slice_index: Of the first spatial axis of a volume; the middle by default.

    Returns:
        (N, H, W, 3) uint8.

    Raises:
        ConfigurationError: A rank, a slice or statistics that do not fit `inputs`.
    """
    values = _as_array(inputs)
    if values.ndim not in (2, 3, 4, 5):
        raise ConfigurationError(
            f"inputs have shape {values.shape}, and only (N, C, L), (N, C, H, W) and "
            "(N, C, D, H, W) can be drawn. Reshape them, or give the pictures yourself."
        )
    if values.ndim == 5:
        values = values[:, :, slice_at(slice_index, values.shape[2], values.shape[2])]
    values = _unnormalised(values, mean, std)
    if values.ndim < 4:
        return draw_traces(values.reshape(len(values), -1, values.shape[-1]).astype(np.float32))
    values = _shown_channels(values)
    if values.dtype != np.uint8:
        values = _to_bytes(values, _range_of(values, known=mean is not None or std is not None))
    pictures = np.moveaxis(values, 1, -1)
    return np.ascontiguousarray(np.broadcast_to(pictures, (*pictures.shape[:3], 3)))


def display_range(
    inputs: Tensor, mean: Statistics | None = None, std: Statistics | None = None
) -> DisplayRange:
    """Return which un-normalised values of `inputs` (N, C, *spatial) are black and white."""
    values = _as_array(inputs)
    if values.dtype == np.uint8:
        return DisplayRange(0.0, 255.0, stretched=False)
    shown = _shown_channels(_unnormalised(values, mean, std))
    return _range_of(shown, known=mean is not None or std is not None)


def to_planes(
    maps: AnyFloats, spatial: Sequence[int], *, slice_index: int | None = None
) -> AnyFloats:
    """Cut `maps` (N, *any) of inputs of `spatial` shape to planes (N, h, w), as pictures are.

    A signal's map (N, l) becomes (N, 1, l). Of a volume's map the slice is taken that lies at the
    same relative depth, since a map may be coarser than its input; it is NaN where a value of
    another slice is not finite, because then the whole map is undefined.
    """
    if maps.ndim == 2:
        return maps[:, None, :]
    if maps.ndim == 4:
        plane = maps[:, slice_at(slice_index, spatial[0], maps.shape[1])]
        whole = np.isfinite(maps).all(axis=(1, 2, 3), keepdims=True)
        return np.where(np.asarray(whole)[:, 0], plane, np.nan).astype(maps.dtype, copy=False)
    return maps


def slice_at(index: int | None, depth: int, map_depth: int) -> int:
    """Return the slice of `map_depth` that lies where slice `index` of `depth` lies."""
    if index is None:
        return map_depth // 2
    if not -depth <= index < depth:
        raise ConfigurationError(
            f"slice_index={index} is outside the {depth} slices; use 0..{depth - 1}."
        )
    return int((index % depth + 0.5) * map_depth / depth)


def _as_array(inputs: Tensor) -> AnyFloats | Bytes:
    held = inputs.detach().cpu()
    if str(held.dtype) != "torch.uint8":  # NumPy has no bfloat16
        held = held.float()
    array: AnyFloats | Bytes = held.numpy()
    return array


def _unnormalised(
    values: AnyFloats | Bytes, mean: Statistics | None, std: Statistics | None
) -> AnyFloats | Bytes:
    if values.dtype == np.uint8 or (mean is None and std is None):
        return values
    shift, factor = _per_channel("mean", mean, 0.0, values), _per_channel("std", std, 1.0, values)
    return np.asarray(values * factor + shift, dtype=np.float32)


def _per_channel(
    name: str, given: Statistics | None, otherwise: float, values: AnyFloats | Bytes
) -> Floats:
    numbers = given if given is not None else otherwise
    if not isinstance(numbers, float | int | Sequence):
        numbers = numbers.detach().cpu().float().tolist()
    statistics = np.asarray(numbers, dtype=np.float32).reshape(-1)
    if len(statistics) not in (1, values.shape[1]):
        raise ConfigurationError(
            f"{name} has {len(statistics)} values, and the inputs have {values.shape[1]} channels. "
            f"Give one number, or {values.shape[1]}."
        )
    return statistics.reshape(1, -1, *(1,) * (values.ndim - 2))


def _shown_channels(values: AnyFloats | Bytes) -> AnyFloats | Bytes:
    channels = values.shape[1]
    if channels in (1, 3):
        return values
    if channels == 4:
        return values[:, :3]
    mean: Floats = np.mean(values, axis=1, keepdims=True, dtype=np.float32)
    return mean.astype(np.uint8) if values.dtype == np.uint8 else mean


def _range_of(values: AnyFloats | Bytes, *, known: bool) -> DisplayRange:
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    if known:  # float error and clipped augmentations leave 0..1 a little, never by a factor of 4
        return DisplayRange(0.0, 255.0 if high > 4 else 1.0, stretched=False)
    if low >= 0 and 0.5 < high <= 1:
        return DisplayRange(0.0, 1.0, stretched=False)
    if low >= 0 and 127.5 < high <= 255:
        return DisplayRange(0.0, 255.0, stretched=False)
    return DisplayRange(low, high, stretched=True)


def _to_bytes(values: AnyFloats | Bytes, shown: DisplayRange) -> Bytes:
    span = shown.high - shown.low
    unit = (np.nan_to_num(values, nan=shown.low) - shown.low) / (span if span > 0 else 1)
    return np.asarray(np.clip(unit, 0, 1) * 255 + 0.5, dtype=np.uint8)
