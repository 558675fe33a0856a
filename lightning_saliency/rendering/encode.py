"""Pictures to bytes: TensorBoard passes encoded images through, so the encoder is ours."""

from __future__ import annotations

from io import BytesIO
from typing import Any, Literal

from PIL import Image

from lightning_saliency.errors import ConfigurationError, did_you_mean
from lightning_saliency.rendering.arrays import Bytes

Format = Literal["jpeg", "png"]


BUDGET = 300_000
"""Bytes. TensorBoard's event writer sums a check over each byte in Python, holding the GIL."""
_COARSEST = 30
_MARGIN = 1.06  # on the estimate of a size, so that the second try is mostly the last
_OPTIMISED = 0.9  # own Huffman tables make a JPEG smaller, and take twice the time


def encode(
    picture: Bytes,
    format: Format = "jpeg",
    quality: int = 88,
    *,
    most_bytes: int | None = BUDGET,
) -> bytes:
    """Encode `picture` (H, W, 3) uint8.

    Args:
        picture: sRGB pixels.
        format: "jpeg": small, with colour at half resolution. "png": exact, of any size.
        quality: 1..95, of the JPEG; less, down to 30, where it would be larger than `most_bytes`.
        most_bytes: None is no limit.

    Raises:
        ConfigurationError: Unknown `format`, or not a (H, W, 3) uint8 picture.
    """
    if format not in ("jpeg", "png"):
        known = did_you_mean(format, ("jpeg", "png"))
        raise ConfigurationError(f"format='{format}' is unknown. {known}")
    if picture.dtype != "uint8" or picture.ndim != 3 or picture.shape[-1] != 3:
        raise ConfigurationError(
            f"picture is {picture.dtype} of shape {picture.shape}; give uint8 of shape (H, W, 3)."
        )
    image = Image.fromarray(picture)
    if format == "png":
        return _saved(image, "PNG", compress_level=3)
    encoded = _jpeg(image, quality, optimize=False)
    excess = 0.0 if most_bytes is None else _OPTIMISED * len(encoded) / most_bytes
    while most_bytes is not None and len(encoded) > most_bytes and quality > _COARSEST:
        quality = max(_COARSEST, min(quality - 1, _coarser(quality, _MARGIN * excess)))
        encoded = _jpeg(image, quality, optimize=True)
        excess = len(encoded) / most_bytes
    return encoded


def _coarser(quality: int, excess: float) -> int:
    """Return the quality of a JPEG smaller by `excess`: its size goes about as steps^(-0.55).

    The steps of the quantisation are 2 - quality / 50 times the standard's, and 50 / quality times
    below 50 (libjpeg's jcparam.c).
    """
    steps = (2 - quality / 50 if quality >= 50 else 50 / quality) * max(excess, 1) ** (1 / 0.55)
    return int(100 - 50 * steps if steps <= 1 else 50 / steps)


def _jpeg(image: Image.Image, quality: int, *, optimize: bool) -> bytes:
    return _saved(image, "JPEG", quality=quality, subsampling="4:2:0", optimize=optimize)


def _saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()
