from __future__ import annotations

import numpy as np
import pytest

from lightning_saliency.errors import ConfigurationError
from lightning_saliency.rendering.cells import blend, cell_size, hatching, map_cells
from lightning_saliency.rendering.colormaps import DIVERGING, SEQUENTIAL
from lightning_saliency.rendering.scale import normalise
from lightning_saliency.rendering.text import Lettering

SIZE = (64, 64)


def noise(count: int = 2) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.random.default_rng(0).integers(0, 256, (count, *SIZE, 3), dtype=np.uint8)


def test_blending_at_opacity_0_is_the_picture() -> None:
    pictures = noise()
    strength = np.random.default_rng(1).random((2, *SIZE))
    np.testing.assert_array_equal(blend(pictures, noise()[::-1], strength, 0.0), pictures)


def test_blending_at_opacity_1_is_a_dim_grey_picture_under_the_colours() -> None:
    pictures, colours = noise(), noise()[::-1]
    strength = np.zeros((2, *SIZE))
    strength[:, :32] = 1
    blended = blend(pictures, colours, strength, 1.0)
    np.testing.assert_array_equal(blended[:, :32], colours[:, :32])
    ground = blended[:, 32:].astype(int)
    assert np.ptp(ground, axis=-1).max() == 0
    luminance = pictures[:, 32:] @ np.array([0.299, 0.587, 0.114])
    assert (ground[..., 0] <= 0.5 * luminance + 1).all()
    assert (ground[..., 0] >= 0.25 * luminance - 1).all()


def test_the_stronger_the_map_the_more_of_its_colour() -> None:
    pictures = np.zeros((1, 1, 101, 3), dtype=np.uint8)
    colours = np.full_like(pictures, 200)
    blended = blend(pictures, colours, np.linspace(0, 1, 101)[None, None])[0, 0, :, 0].astype(int)
    assert (np.diff(blended) >= 0).all()
    assert blended[0] == 0
    assert blended[-1] == pytest.approx(180, abs=1)


def test_a_constant_map_is_black_with_a_note_and_hides_the_picture() -> None:
    unit = normalise(np.zeros((2, 7, 7)))
    cells = map_cells(unit, SIZE, SEQUENTIAL, Lettering(), over=np.full_like(noise(), 255))
    black = (cells == 0).all(-1).mean(axis=(1, 2))
    assert (black > 0.85).all()
    assert (black < 1).all()


def test_a_constant_signed_map_is_neutral() -> None:
    cells = map_cells(normalise(np.ones((1, 7, 7)), signed=True), SIZE, DIVERGING, Lettering())
    assert (cells == DIVERGING.table[128]).all(-1).mean() > 0.85


def test_an_undefined_map_is_hatched_and_no_other_cell_changes() -> None:
    maps = np.random.default_rng(0).random((3, 7, 7))
    before = map_cells(normalise(maps), SIZE, SEQUENTIAL, Lettering(), over=noise(3))
    maps[1, 0, 0] = np.inf
    after = map_cells(normalise(maps), SIZE, SEQUENTIAL, Lettering(), over=noise(3))
    np.testing.assert_array_equal(after[[0, 2]], before[[0, 2]])
    same_as_hatching = (after[1] == hatching(SIZE)).all(-1)
    assert same_as_hatching[:16].all()
    assert 0.5 < same_as_hatching.mean() < 1  # the rest is the note


def test_zero_shows_the_ground_and_the_peak_its_colour() -> None:
    unit = np.zeros((1, 16, 16), dtype=np.float32)
    unit[0, 4, 4] = 1
    cells = map_cells(unit, SIZE, SEQUENTIAL, Lettering())
    assert cells[0, 17, 18].tolist() == SEQUENTIAL.table[255].tolist()
    assert cells[0, 40, 40].tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((28, 28), (112, 112)), ((50, 200), (79, 158)), ((200, 100), (158, 79)), ((9, 16), (84, 149))],
)
def test_cells_keep_the_area_and_the_aspect(
    shape: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert cell_size(112, np.zeros((1, *shape, 3), dtype=np.uint8)) == expected


def test_a_tiny_cell_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="cell=4"):
        cell_size(4, noise())
