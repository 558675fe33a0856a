"""Signals as pictures: antialiased line plots, drawn for all probes at once."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from lightning_saliency.rendering.arrays import Bytes, Floats

MOST_CHANNELS = 8
PICTURE_SIZE = (160, 320)
_HALF_LINE = 1.3
_MARGIN = 4
_GROUND = np.array([14, 15, 19], dtype=np.float32)
# Eight hues of similar lightness; neighbours differ for the common forms of colour blindness.
_LINES = np.array(
    [
        [236, 238, 244],
        [255, 176, 64],
        [92, 184, 255],
        [84, 208, 178],
        [255, 138, 110],
        [214, 150, 230],
        [236, 222, 92],
        [160, 172, 196],
    ],
    dtype=np.float32,
)


def draw_traces(signals: Floats, size: tuple[int, int] = PICTURE_SIZE) -> Bytes:
    """Draw `signals` (N, C, L) as line plots (N, *size, 3), time from left to right.

    Each of the first 8 channels has a lane, from its lowest to its highest value over all probes.
    Where a signal has more samples than the picture has columns, a column spans all its samples,
    so no spike is lost. A non-finite sample leaves a gap.
    """
    signals = signals[:, :MOST_CHANNELS]
    height, width = size
    pictures = np.broadcast_to(_GROUND, (len(signals), *size, 3)).copy()
    edges = np.linspace(0, height, signals.shape[1] + 1).round().astype(int)
    for channel, (top, bottom) in enumerate(pairwise(edges.tolist())):
        low, high = _envelopes(signals[:, channel], width)
        margin = min(_MARGIN, (bottom - top) / 4)
        rows = _rows(np.stack([high, low]), signals[:, channel], top + margin, bottom - margin)
        line = _coverage(rows[0], rows[1], np.arange(top, bottom))[..., None]
        lane = pictures[:, top:bottom]
        lane += line * (_LINES[channel] - lane)
    return np.asarray(pictures + 0.5, dtype=np.uint8)


def _envelopes(signal: Floats, width: int) -> tuple[Floats, Floats]:
    """Lowest and highest value (N, width) of the straight-line interpolation within each column."""
    length = signal.shape[-1]
    steps = max(4, -(-length // width))
    places = np.linspace(0, length - 1, width * steps + 1)
    before = np.minimum(places.astype(int), length - 1)
    after = np.minimum(before + 1, length - 1)
    share = (places - before).astype(np.float32)
    with np.errstate(invalid="ignore"):
        line = signal[:, before] * (1 - share) + signal[:, after] * share
    columns = line[:, :-1].reshape(len(signal), width, steps)
    following = line[:, steps::steps, None]  # neighbouring columns meet
    spans = np.concatenate([columns, following], axis=-1)
    return spans.min(-1), spans.max(-1)


def _rows(values: Floats, signal: Floats, top: float, bottom: float) -> Floats:
    finite = signal[np.isfinite(signal)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    if high == low:
        reach = max(1.0, abs(low))
        low, high = low - reach, high + reach
    with np.errstate(invalid="ignore"):
        return np.asarray(bottom - (values - low) / (high - low) * (bottom - top), dtype=np.float32)


def _coverage(upper: Floats, lower: Floats, pixels: NDArray[np.int_]) -> Floats:
    """Share (N, rows, width) of each pixel under a line that spans `upper`..`lower` (N, width)."""
    rows = pixels[None, :, None]
    reach = np.minimum(rows + 1, lower[:, None] + _HALF_LINE)
    reach = reach - np.maximum(rows, upper[:, None] - _HALF_LINE)
    return np.asarray(np.nan_to_num(np.clip(reach, 0, 1), nan=0.0), dtype=np.float32)
