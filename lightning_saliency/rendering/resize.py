"""Resampling in batches: pictures by Pillow, maps by one pair of small matrices for all of them."""

from __future__ import annotations

import numpy as np
from PIL import Image

from lightning_saliency.rendering.arrays import AnyFloats, Bytes, Floats

PIXELATED = 2.0
"""From this enlargement on, the pixels of a picture are shown as what they are."""


def linear_weights(size: int, wanted: int) -> Floats:
    """(wanted, size) bilinear interpolation between pixel centres (align_corners=False)."""
    centres = np.clip((np.arange(wanted) + 0.5) * size / wanted - 0.5, 0, size - 1)
    distance = np.abs(centres[:, None] - np.arange(size))
    return np.asarray(np.maximum(0, 1 - distance), dtype=np.float32)


def area_weights(size: int, wanted: int) -> Floats:
    """(wanted, size) share of each source pixel in each wanted one: means down, crisp pixels up."""
    edges = np.arange(wanted + 1) * size / wanted
    pixels = np.arange(size)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return np.asarray(np.maximum(0, overlap) * wanted / size, dtype=np.float32)


def resize_maps(maps: AnyFloats | Bytes, size: tuple[int, int], *, smooth: bool = True) -> Floats:
    """Resample `maps` (..., h, w) to `size` (height, width).

    An axis that shrinks is averaged; one that grows is interpolated, or kept as crisp pixels when
    not `smooth`. A map with NaN becomes NaN.
    """
    result = np.asarray(maps, dtype=np.float32)
    if result.shape[-2:] == tuple(size):
        return result
    down, across = (
        linear_weights(have, want) if smooth and want > have else area_weights(have, want)
        for have, want in zip(result.shape[-2:], size, strict=True)
    )
    with np.errstate(invalid="ignore", over="ignore"):
        return np.asarray(down @ result @ across.T, dtype=np.float32)


def shrink_maps(maps: AnyFloats, size: tuple[int, int]) -> Floats:
    """Average `maps` (..., h, w) down to at most `size`; an axis that is smaller stays."""
    height, width = maps.shape[-2:]
    return resize_maps(maps, (min(height, size[0]), min(width, size[1])))


def resize_pictures(pictures: Bytes, size: tuple[int, int]) -> Bytes:
    """Resample `pictures` (N, H, W, 3) to `size` (height, width)."""
    height, width = pictures.shape[1:3]
    if (height, width) == tuple(size):
        return pictures
    if min(size[0] / height, size[1] / width) >= PIXELATED:
        crisp = resize_maps(np.moveaxis(pictures, -1, 1), size, smooth=False)
        return np.asarray(np.moveaxis(crisp, 1, -1) + 0.5, dtype=np.uint8)
    resized = np.empty((len(pictures), *size, 3), dtype=np.uint8)
    for index, picture in enumerate(pictures):
        resized[index] = np.asarray(_resize(Image.fromarray(picture), (size[1], size[0])))
    return resized


def _resize(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    if image.width % size[0] == 0 and image.height % size[1] == 0:
        return image.reduce((image.width // size[0], image.height // size[1]))
    if image.width < size[0] or image.height < size[1]:
        return image.resize(size, Image.Resampling.BICUBIC)
    return image.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)
