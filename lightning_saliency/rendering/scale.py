"""Display normalisation: raw maps stay as they are, what is drawn is on a unit scale."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from lightning_saliency.errors import ConfigurationError, did_you_mean
from lightning_saliency.rendering.arrays import AnyFloats, Flags, Floats

Scale = Literal["map", "shared"]
PERCENTILE = 99.5
_ROUNDING = 1e-6  # a constant map that was averaged down is constant up to float32's rounding


def normalise(
    maps: AnyFloats,
    scale: Scale = "map",
    *,
    signed: bool = False,
    percentile: float = PERCENTILE,
) -> Floats:
    """Bring `maps` (..., h, w) to 0..1, or to −1..1 around zero when `signed`.

    The peak of a map is the `percentile` of its values (of their magnitudes when signed): a single
    hot pixel does not darken the rest. Zero stays the darkest (signed: the neutral) value; only an
    unsigned map with negative values is lifted so that its lowest one is darkest.

    Args:
        maps: (..., h, w), any float type.
        scale: "map": each map on its own scale. "shared": the first axis, e.g. the observations of
            a probe, shares the widest of its maps' scales, so that their magnitudes compare.
        signed: Whether the sign of the values means something.
        percentile: 0..100.

    Returns:
        (..., h, w) float32. A constant map is all zeros. A map with a non-finite value is all NaN.

    Raises:
        ConfigurationError: Unknown `scale`, or a `percentile` outside 0..100.
    """
    if scale not in get_args(Scale):
        raise ConfigurationError(
            f"scale='{scale}' is unknown. {did_you_mean(scale, get_args(Scale))}"
        )
    if not 0 < percentile <= 100:
        raise ConfigurationError(f"percentile={percentile} is outside 0..100. The default is 99.5.")
    with np.errstate(over="ignore", invalid="ignore"):
        return _normalise(np.asarray(maps, dtype=np.float32), scale, signed, percentile)


def _normalise(maps: Floats, scale: Scale, signed: bool, percentile: float) -> Floats:
    flat = maps.reshape(*maps.shape[:-2], -1)
    lowest, highest = flat.min(-1), flat.max(-1)  # NaN in a map makes both NaN
    lost = ~np.isfinite(lowest + highest)
    level = highest - lowest <= _ROUNDING * np.maximum(np.abs(lowest), np.abs(highest))
    flat = np.where((lost | level)[..., None], np.float32(0), flat)
    if signed:
        floor = np.zeros_like(lowest)
        peak = _percentile(np.abs(flat), percentile)
    else:
        floor = np.minimum(flat.min(-1), 0)
        peak = _percentile(flat, percentile)
    if scale == "shared" and maps.ndim > 2:
        floor = np.broadcast_to(floor.min(0), floor.shape)
        peak = np.broadcast_to(peak.max(0), peak.shape)
    span = peak - floor
    unit = (flat - floor[..., None]) / np.where(span > 0, span, 1)[..., None]
    np.clip(unit, -1 if signed else 0, 1, out=unit)
    unit[level] = 0
    unit[lost] = np.nan
    return np.asarray(unit.reshape(maps.shape), dtype=np.float32)


def _percentile(flat: Floats, percentile: float) -> Floats:
    """Linearly interpolated over the last axis; the maximum where too few values exceed zero."""
    place = percentile / 100 * (flat.shape[-1] - 1)
    below = int(place)
    above = min(below + 1, flat.shape[-1] - 1)
    ordered = np.partition(flat, (below, above), axis=-1)
    value = ordered[..., below] + (ordered[..., above] - ordered[..., below]) * (place - below)
    peak = np.where(value > np.minimum(flat.min(-1), 0), value, flat.max(-1))
    return np.asarray(peak, dtype=np.float32)


def undefined(unit: Floats) -> Flags:
    """Which of the normalised maps (..., h, w) held a non-finite value: (...)."""
    return np.asarray(np.isnan(unit[..., 0, 0]))


def constant(unit: Floats) -> Flags:
    """Which of the normalised maps (..., h, w) were constant: (...)."""
    return np.asarray(~unit.any(axis=(-2, -1)))
