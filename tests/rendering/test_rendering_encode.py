from __future__ import annotations

from io import BytesIO
from typing import cast

import numpy as np
import pytest
from PIL import Image

from lightning_saliency.errors import ConfigurationError
from lightning_saliency.rendering.encode import BUDGET, Format, encode

NOISE = np.random.default_rng(0).integers(0, 256, (300, 500, 3), dtype=np.uint8)


def decoded(data: bytes) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.asarray(Image.open(BytesIO(data)))


def test_png_is_exact() -> None:
    np.testing.assert_array_equal(decoded(encode(NOISE, "png")), NOISE)


def test_jpeg_is_close() -> None:
    smooth = np.linspace(0, 255, 300, dtype=np.uint8)[:, None, None].repeat(400, 1).repeat(3, 2)
    data = encode(smooth)
    assert data[:3] == b"\xff\xd8\xff"
    assert np.abs(decoded(data).astype(int) - smooth).max() <= 4


def test_quality_makes_the_size() -> None:
    sizes = [len(encode(NOISE, quality=quality, most_bytes=None)) for quality in (95, 80, 40)]
    assert sizes[0] > sizes[1] > sizes[2]


@pytest.mark.parametrize("most_bytes", [110_000, 70_000, 50_000])
def test_the_budget_is_kept_and_used(most_bytes: int) -> None:
    assert len(encode(NOISE, most_bytes=None)) > most_bytes
    size = len(encode(NOISE, most_bytes=most_bytes))
    assert 0.8 * most_bytes < size <= most_bytes


def test_what_fits_the_budget_is_not_made_worse() -> None:
    assert encode(NOISE) == encode(NOISE, most_bytes=None)
    assert len(encode(NOISE)) < BUDGET


def test_an_impossible_budget_ends() -> None:
    assert encode(NOISE, most_bytes=10) == encode(NOISE, most_bytes=11)


def test_wrong_arguments_are_told() -> None:
    with pytest.raises(ConfigurationError, match=r"format='jpg' is unknown.*Did you mean 'jpeg'"):
        encode(NOISE, cast(Format, "jpg"))
    with pytest.raises(ConfigurationError, match=r"picture is uint8 of shape \(300, 500\)"):
        encode(NOISE[..., 0])
