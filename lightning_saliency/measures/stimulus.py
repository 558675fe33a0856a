"""Stimulus: a map and its image -> how much of the map the image explains, whatever the model is.

Three images of the eye's first glance are compared with the map: edges, what is rare in the
spectrum, and what differs from its surroundings. Any map resembles any image somewhat (both have
mass in the middle), so each number is less its null: the same for the maps and *other* probes'
images. 0 means no more than with somebody else's image; what is left of a map is the model's.

Maps (N, *spatial) are read by their absolute value, with one to three spatial dimensions. Images
(N, C, *any) are as a person knows them, or normalised: their scale and offset do not matter, and a
normalisation per channel matters as far as it weighs the channels anew. They are brought to at
most 64 pixels a side (of an image; all three are computed there), then exactly to the pixels of
the map. NaN: a constant or non-finite map or image, and where there is no other probe.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, MutableMapping, Sequence

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from lightning_saliency.errors import ConfigurationError
from lightning_saliency.measures.numeric import (
    averaged,
    defined,
    flat,
    floating,
    nan_unless,
    standardised,
)
from lightning_saliency.measures.places import centre

PLACES = 64 * 64
"""Places (pixels) at which an image is looked at; more only where the map has more."""

PAIRINGS = 8
"""With how many other images a map is regressed, for the null of its share."""

LEAST = 1e-4
"""Contrast below which an image, or what is seen of it, is flat, as a share of its range."""

_KNOWN: MutableMapping[Tensor, dict[tuple[object, ...], Tensor]] = WeakTensorKeyDictionary()
"""Images → what was seen of them, as long as somebody holds them."""

_BINOMIAL = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)
_CENTRES, _SURROUNDS = (0, 1, 2), (2, 3)


def edge_similarity(maps: Tensor, images: Tensor) -> Tensor:
    """Correlation with the image's edges, less that with others' images, −2 to 2: 0 as by chance.

    The edges are the magnitude of the Sobel gradient over all channels. A high number is a warning:
    a method that draws edges looks convincing and may know nothing of the model (Adebayo et al.
    2018). `method_sanity` tells.
    """
    return _beyond_chance(maps, images, edges)


def spectral_residual(maps: Tensor, images: Tensor) -> Tensor:
    """Correlation with what is rare in the image's spectrum, less others', −2 to 2: 0 as by chance.

    The bottom-up saliency of Hou & Zhang 2007: the residual of the log spectrum.
    """
    return _beyond_chance(maps, images, residual)


def centre_surround(maps: Tensor, images: Tensor) -> Tensor:
    """Correlation with the image's local contrast, less that with others', −2 to 2: 0 as by chance.

    Centre against surround, of intensity and colour, after Itti, Koch & Niebur 1998.
    """
    return _beyond_chance(maps, images, contrast)


def stimulus_share(maps: Tensor, images: Tensor) -> Tensor:
    """Share of the map that its image explains, less what others' do, about −1 to 1: 0 by chance.

    Adjusted R² of the map on edges, spectral residual, centre-surround contrast and the centred
    Gaussian. The Gaussian is the same for all images: what it alone explains is in both terms. The
    null is the mean over 8 other images (all, where there are fewer), the same ones each time.
    """
    _check(maps, images)
    rows = standardised(flat(maps).abs())
    seen = [_seen(images, maps, look) for look in (edges, residual, contrast)]
    known = torch.stack([one.isfinite().all(1) for one in seen]).all(0)
    basis = _orthonormal([centre(maps).expand_as(rows), *seen]).masked_fill(
        ~known[:, None, None], 0
    )
    others = count = torch.zeros_like(rows[:, 0])
    for shift in _shifts(len(maps)):
        others = others + _explained(rows, basis.roll(shift, 0))  # 0 by an unknown image
        count = count + known.roll(shift)
    share = _explained(rows, basis) - others / count
    return nan_unless(defined(maps) & known & (count > 0), share)


def edges(images: Tensor) -> Tensor:
    """Magnitude of the Sobel gradient over all channels of (N, C, *spatial): (N, *spatial)."""
    total = torch.zeros_like(images[:, 0])
    for dim in range(2, images.ndim):
        slope = _filtered(images, (-1, 0, 1), dim)
        for other in range(2, images.ndim):
            slope = slope if other == dim else _filtered(slope, (1, 2, 1), other)
        total = total + slope.square().sum(1)
    return total.sqrt()


def residual(images: Tensor) -> Tensor:
    """Spectral residual of the intensity of (N, C, *spatial): (N, *spatial), Hou & Zhang 2007.

    |F⁻¹[exp(L − h ∗ L) · phase]|², L the log amplitude and h a mean over 3 neighbours a side, here
    around the ends of the spectrum; smoothed by a Gaussian of 2.5 of 64 pixels, as in their code.
    What is below 1e-5 of the largest amplitude is rounding, and left out.
    """
    if not len(images):
        return images[:, 0]  # MKL refuses to transform nothing
    dims = tuple(range(1, images.ndim - 1))
    spectrum = torch.fft.fftn(images.mean(1), dim=dims)
    amplitude = spectrum.abs()
    least = 1e-5 * amplitude.amax(dims, keepdim=True)
    logarithm = (amplitude + least).log()
    smooth = logarithm
    for dim in dims:
        smooth = _filtered(smooth, (1 / 3, 1 / 3, 1 / 3), dim, around=True)
    whitened = spectrum / (amplitude + least) * (logarithm - smooth).exp()
    found: Tensor = torch.fft.ifftn(whitened, dim=dims).abs().square()
    for dim in dims:
        found = _filtered(found, _gaussian(2.5 * min(images.shape[dim + 1], 64) / 64), dim)
    return found


def contrast(images: Tensor) -> Tensor:
    """Centre-surround contrast of (N, C, *spatial): (N, *spatial), after Itti, Koch & Niebur 1998.

    Σ |blurred by 2^c − blurred by 2^s| over c = 0, 1, 2 and s = c + 2, c + 3, of the intensity and
    of each colour (a channel less the intensity). The pyramid keeps its resolution (à trous), and
    there is no orientation and no normalisation of the parts: a grey image's colour stays 0.
    """
    intensity = images.mean(1, keepdim=True)
    level = torch.cat((intensity, images - intensity), 1) if images.shape[1] > 1 else intensity
    pyramid = [level]
    for step in range(_CENTRES[-1] + _SURROUNDS[-1]):
        for dim in range(2, images.ndim):
            level = _filtered(level, _BINOMIAL, dim, step=2**step)
        pyramid.append(level)
    pairs = [(at, at + away) for at in _CENTRES for away in _SURROUNDS]
    found = torch.stack([(pyramid[at] - pyramid[by]).abs().sum(1) for at, by in pairs])
    return found.sum(0)


def _beyond_chance(maps: Tensor, images: Tensor, look: Callable[[Tensor], Tensor]) -> Tensor:
    """Correlation of maps with what their image shows, less the mean with that of all others.

    The mean over all others is one product: correlation is linear in either of the two.
    """
    _check(maps, images)
    rows, seen = standardised(flat(maps).abs()), _seen(images, maps, look)
    known = seen.isfinite().all(1)
    seen = seen.masked_fill(~known[:, None], 0)
    others = known.sum() - known.long()
    own = (rows * seen).sum(1)
    null = (rows * (seen.sum(0) - seen)).sum(1) / others
    return nan_unless(defined(maps) & known & (others > 0), own - null)


def _check(maps: Tensor, images: Tensor) -> None:
    dims = maps.ndim - 1
    if images.ndim != maps.ndim + 1 or len(images) != len(maps) or dims not in (1, 2, 3):
        raise ConfigurationError(
            f"images {tuple(images.shape)} and maps {tuple(maps.shape)}: give an image "
            "(N, C, *spatial) for each map (N, *spatial), with 1, 2 or 3 spatial dimensions."
        )


def _seen(images: Tensor, maps: Tensor, look: Callable[[Tensor], Tensor]) -> Tensor:
    """What `look` sees of images at the pixels of maps: rows (N, P), standardised, NaN if flat.

    It is the same for all methods and for several measures, so it is kept as long as the images.
    """
    spatial, dtype = tuple(maps.shape[1:]), floating(maps[:0]).dtype
    if images.is_inference():  # which doesn't tell that it was overwritten
        return _looked(images, spatial, look).to(dtype)
    known, key = _KNOWN.setdefault(images, {}), (look, spatial, dtype, images._version)
    if key not in known:
        known[key] = _looked(images, spatial, look).to(dtype)
    return known[key]


def _looked(images: Tensor, spatial: Sequence[int], look: Callable[[Tensor], Tensor]) -> Tensor:
    given = images.shape[2:]
    most = round(PLACES ** (1 / len(spatial)))
    sides = [
        length if length <= side else side * max(1, min(most, length) // side)
        for side, length in zip(spatial, given, strict=True)
    ]
    unit = _in_range(images)
    seen = flat(averaged(look(averaged(unit, sides, skip=2)), spatial))
    # Rounding leaves differences where there are none, and to standardise would magnify them.
    textured = _varies(unit.flatten(2)).any(1) & _varies(seen / seen.abs().amax(1, keepdim=True))
    return standardised(seen).masked_fill(~textured[:, None], torch.nan)


def _in_range(images: Tensor) -> Tensor:
    """Images (N, C, *spatial) with 0 for their lowest and 1 for their highest number."""
    rows = flat(images)
    low, high = rows.amin(1, keepdim=True), rows.amax(1, keepdim=True)
    return ((rows - low) / (high - low)).view(images.shape)


def _varies(values: Tensor) -> Tensor:
    return values.amax(-1) - values.amin(-1) > LEAST


def _filtered(
    values: Tensor, taps: Sequence[float], dim: int, *, step: int = 1, around: bool = False
) -> Tensor:
    """Weigh neighbours along one side; beyond its ends are the end itself, or the other end."""
    side, radius = values.shape[dim], len(taps) // 2 * step
    places = torch.arange(-radius, side + radius, device=values.device)
    places = places % side if around else places.clamp(0, side - 1)
    wide = values.index_select(dim, places)
    found = torch.zeros_like(values)
    for offset, tap in enumerate(taps):
        if tap:
            found = found.add(wide.narrow(dim, offset * step, side), alpha=tap)
    return found


def _gaussian(sigma: float) -> list[float]:
    reach = math.ceil(3 * sigma)
    taps = [math.exp(-0.5 * (place / sigma) ** 2) for place in range(-reach, reach + 1)]
    return [tap / sum(taps) for tap in taps]


def _orthonormal(columns: Sequence[Tensor]) -> Tensor:
    """An orthonormal basis of K columns (N, P): (N, K, P), zero where one is in reach of others."""
    basis: list[Tensor] = []
    for column in columns:
        left = column
        for known in basis * 2:  # once more: what the first time left of rounding
            left = left - (left * known).sum(1, keepdim=True) * known
        norm = left.square().sum(1, keepdim=True)
        basis.append(torch.where(norm > LEAST, left / norm.sqrt(), 0))
    return torch.stack(basis, 1)


def _explained(rows: Tensor, basis: Tensor) -> Tensor:
    """Adjusted R² of rows (N, P) of length 1 on a basis (N, K, P): (N,)."""
    pixels = rows.shape[1]
    share = torch.stack([(rows * one).sum(1).square() for one in basis.unbind(1)]).sum(0)
    rank = (basis != 0).any(2).sum(1)
    free = (pixels - 1 - rank).to(rows.dtype)
    return 1 - (1 - share) * (pixels - 1) / free.where(free > 0, torch.nan)


def _shifts(count: int) -> list[int]:
    """By how many places probes are moved, so that each meets others' images."""
    others = range(1, count)
    if len(others) <= PAIRINGS:
        return list(others)
    return random.Random(0).sample(others, PAIRINGS)
