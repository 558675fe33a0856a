"""Colour maps as data: 256 colours, laid out so that equal steps of value are equal steps of light.

A path through a few control points in Oklch (Ottosson 2020) is resampled until its CIE lightness L*
rises by the same amount from each entry to the next.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from lightning_saliency.errors import ConfigurationError, did_you_mean
from lightning_saliency.rendering.arrays import AnyFloats, Bytes

Doubles = NDArray[np.float64]
Stop = tuple[float, float, float]
"""A colour in Oklch: lightness 0..1, chroma 0..0.4, hue in degrees."""

_LMS_FROM_LAB = np.array(
    [
        [1.0, 0.3963377774, 0.2158037573],
        [1.0, -0.1055613458, -0.0638541728],
        [1.0, -0.0894841775, -1.2914855480],
    ]
)
_RGB_FROM_LMS = np.array(
    [
        [4.0767416621, -3.3077115913, 0.2309699292],
        [-1.2684380046, 2.6097574011, -0.3413193965],
        [-0.0041960863, -0.7034186147, 1.7076147010],
    ]
)
_LUMINANCE = np.array([0.2126, 0.7152, 0.0722])


@dataclass(frozen=True, eq=False)
class Colormap:
    """A look-up table.

    Attributes:
        name: What configurations call it.
        table: (256, 3) uint8 sRGB.
        signed: False: the values 0..1 run over entries 0..255. True: −1..1 run over entries 1..255
            around entry 128, the neutral colour of zero.
    """

    name: str
    table: Bytes
    signed: bool = False

    def __post_init__(self) -> None:
        if self.table.shape != (256, 3) or self.table.dtype != np.uint8:
            raise ConfigurationError(
                f"Colormap '{self.name}': table is {self.table.dtype} of shape "
                f"{self.table.shape}; give uint8 of shape (256, 3)."
            )
        self.table.setflags(write=False)

    def __call__(self, values: AnyFloats) -> Bytes:
        """Colours (..., 3) of `values` (...), which are clipped to the range; NaN is undefined."""
        if self.signed:
            entries = np.rint(np.clip(values, -1, 1) * 127) + 128
        else:
            entries = np.clip(values, 0, 1) * 255 + 0.5
        return self.table.take(entries.astype(np.uint8), axis=0)


def lightness(colours: Bytes) -> Doubles:
    """CIE L* (0 black .. 100 white) of sRGB `colours` (..., 3) (IEC 61966-2-1, CIE 15)."""
    encoded = colours / 255.0
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    return _lightness(linear)


def _lightness(linear: Doubles) -> Doubles:
    luminance = linear @ _LUMINANCE
    curve = np.where(luminance > 216 / 24389, 116 * np.cbrt(luminance) - 16, luminance * 24389 / 27)
    return np.asarray(curve, dtype=np.float64)


def _linear_path(stops: Sequence[Stop], samples: int = 8192) -> Doubles:
    """Linear sRGB (samples, 3): lines in Oklab through `stops`, rounded at the corners."""
    light, chroma, hue = np.array(stops, dtype=float).T
    lab = np.stack([light, chroma * np.cos(np.radians(hue)), chroma * np.sin(np.radians(hue))], 1)
    where = np.linspace(0, len(stops) - 1, samples)
    path = np.stack([np.interp(where, range(len(stops)), axis) for axis in lab.T], 1)
    reach = samples // (3 * (len(stops) - 1))
    before, after = 2 * path[0] - path[reach:0:-1], 2 * path[-1] - path[-2 : -reach - 2 : -1]
    padded = np.concatenate([before, path, after])
    window = np.full(2 * reach + 1, 1 / (2 * reach + 1))
    smooth = np.stack([np.convolve(axis, window, "valid") for axis in padded.T], 1)
    return np.asarray(np.clip((smooth @ _LMS_FROM_LAB.T) ** 3 @ _RGB_FROM_LMS.T, 0, 1))


def _even_lightness(stops: Sequence[Stop], entries: int, brightest: float) -> Bytes:
    """(entries, 3) uint8 along `stops`, L* rising by equal steps from the first to `brightest`."""
    linear = _linear_path(stops)
    light = _lightness(linear)
    wanted = np.linspace(light[0], brightest, entries)
    where = np.interp(wanted, light, np.arange(len(light)))
    chosen = np.stack([np.interp(where, np.arange(len(light)), axis) for axis in linear.T], 1)
    encoded = np.where(chosen <= 0.0031308, chosen * 12.92, 1.055 * chosen ** (1 / 2.4) - 0.055)
    return np.asarray(np.rint(encoded * 255), dtype=np.uint8)


def _diverging(below: Sequence[Stop], above: Sequence[Stop]) -> Bytes:
    """Two arms with one neutral start; entry 0 repeats entry 1, so that zero has an entry."""
    low, high = _even_lightness(below, 128, 80.0), _even_lightness(above, 128, 80.0)
    return np.concatenate([low[-1:], low[:0:-1], high])


_NEUTRAL: Stop = (0.23, 0.005, 280)

SEQUENTIAL = Colormap(
    "heat",
    _even_lightness(
        [
            (0.00, 0.000, 295),
            (0.28, 0.130, 295),
            (0.46, 0.190, 330),
            (0.64, 0.195, 18),
            (0.78, 0.155, 55),
            (0.90, 0.125, 85),
            (0.985, 0.060, 104),
        ],
        256,
        98.0,
    ),
)
"""Black, violet, rose, orange, pale yellow: unsigned maps."""

DIVERGING = Colormap(
    "diverging",
    _diverging(
        [_NEUTRAL, (0.47, 0.140, 262), (0.66, 0.130, 245), (0.84, 0.085, 225)],
        [_NEUTRAL, (0.47, 0.150, 22), (0.66, 0.180, 35), (0.84, 0.105, 62)],
    ),
    signed=True,
)
"""Light blue (−1), dark neutral (0), light orange over red (+1): signed maps and differences."""

GREY = Colormap("grey", np.arange(256, dtype=np.uint8)[:, None].repeat(3, axis=1))

COLORMAPS: Mapping[str, Colormap] = MappingProxyType(
    {colormap.name: colormap for colormap in (SEQUENTIAL, DIVERGING, GREY)}
)


def find_colormap(colormap: str | Colormap | None, *, signed: bool = False) -> Colormap:
    """Return the colour map meant by a name, by itself, or by None: the default for `signed` maps.

    Raises:
        ConfigurationError: An unknown name, or a colour map whose range does not fit the maps.
    """
    if colormap is None:
        return DIVERGING if signed else SEQUENTIAL
    if isinstance(colormap, str):
        if colormap not in COLORMAPS:
            known = did_you_mean(colormap, COLORMAPS)
            raise ConfigurationError(f"There is no colormap '{colormap}'. {known}")
        colormap = COLORMAPS[colormap]
    if colormap.signed != signed:
        kind = "signed" if signed else "unsigned"
        fitting = ", ".join(f"'{name}'" for name, one in COLORMAPS.items() if one.signed == signed)
        raise ConfigurationError(
            f"colormap '{colormap.name}' does not fit {kind} maps. Use one of {fitting}."
        )
    return colormap
