from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from lightning_saliency.errors import ConfigurationError
from lightning_saliency.rendering import DIVERGING, Caption, encode, grid
from lightning_saliency.rendering.arrays import EMPTY, FLIP
from lightning_saliency.rendering.cells import hatching
from lightning_saliency.rendering.grid import grid_tiling
from lightning_saliency.rendering.layout import GAP
from lightning_saliency.rendering.legend import MARGIN
from lightning_saliency.rendering.marks import FRAME

Picture = NDArray[np.uint8]
Maps = NDArray[np.float64]


def probes(count: int, side: int = 28) -> tuple[Picture, Maps, Maps, list[Caption]]:
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    captions = [Caption(str(i), str(i % 3), False, 0.5, i % 3 == i) for i in range(count)]
    maps: Maps = rng.exponential(size=(2, count, side, side))
    return pictures, maps[0], maps[1], captions


def block(picture: Picture, index: int, count: int, cell: int = 112) -> tuple[slice, slice]:
    """Where block `index` is: the blocks are at the bottom of the picture."""
    tiling = grid_tiling(count, (cell, cell))
    top, left = tiling.corner(index)
    top += len(picture) - MARGIN // 2 - tiling.size[0]
    left += MARGIN - tiling.inset
    return slice(top, top + tiling.height), slice(left, left + tiling.width)


def cell_of(picture: Picture, index: int, place: int, count: int) -> Picture:
    rows, columns = block(picture, index, count)
    left = columns.start + place * (112 + GAP)
    return picture[rows.start : rows.start + 112, left : left + 112]


def bounds(before: Picture, after: Picture) -> tuple[int, int, int, int]:
    changed = (before != after).any(-1)
    rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1


def test_a_default_grid_is_about_twice_as_wide_as_high_and_small() -> None:
    pictures, maps, reference, captions = probes(32)
    picture = grid(pictures, maps, reference, captions, title="saliency/gradient · step 504")
    height, width = picture.shape[:2]
    assert picture.dtype == np.uint8
    assert 1.6 < width / height < 2.5
    assert len(encode(picture)) <= 300_000  # white noise, the worst there is


def test_the_first_cell_is_the_picture() -> None:
    pictures, maps, reference, captions = probes(6)
    picture = grid(pictures, maps, reference, captions, title="t")
    for index in range(6):
        expected = pictures[index].repeat(4, 0).repeat(4, 1)
        np.testing.assert_array_equal(cell_of(picture, index, 0, 6), expected)


def test_the_third_cell_is_the_difference_of_the_unit_maps() -> None:
    pictures, maps, _, captions = probes(2)
    maps[:] = np.linspace(0, 1, 28)[:, None]
    gained = grid(pictures, maps, maps[:, ::-1], captions, title="t")
    change = cell_of(gained, 0, 2, 2)
    assert change[0, 0].tolist() == DIVERGING.table[1].tolist()
    assert change[-1, 0].tolist() == DIVERGING.table[255].tolist()
    unchanged = cell_of(grid(pictures, maps, maps * 7, captions, title="t"), 0, 2, 2)
    assert (unchanged == np.array(EMPTY)).all(-1).mean() > 0.9  # the rest is the note
    assert (unchanged != np.array(EMPTY)).any()


def test_a_change_of_one_map_changes_that_block_alone() -> None:
    pictures, maps, reference, captions = probes(6)
    before = grid(pictures, maps, reference, captions, title="t")
    maps[4] = maps[4].T
    after = grid(pictures, maps, reference, captions, title="t")
    rows, columns = block(before, 4, 6)
    top, bottom, left, right = bounds(before, after)
    assert rows.start <= top < bottom <= rows.start + 112
    assert columns.start + 112 <= left < right <= columns.stop


def test_a_flip_mark_changes_exactly_that_block() -> None:
    pictures, maps, reference, captions = probes(6)
    before = grid(pictures, maps, reference, captions, title="t")
    captions[3] = replace(captions[3], flipped=True)
    after = grid(pictures, maps, reference, captions, title="t")
    rows, columns = block(before, 3, 6)
    expected = (rows.start - FRAME, rows.stop + FRAME, columns.start - FRAME, columns.stop + FRAME)
    assert bounds(before, after) == expected
    assert (after[rows.start - 1, columns] == np.array(FLIP)).all()
    cells = slice(rows.start, rows.start + 112)
    np.testing.assert_array_equal(after[cells, columns], before[cells, columns])


def test_an_undefined_map_is_hatched_with_its_change() -> None:
    pictures, maps, reference, captions = probes(6)
    before = grid(pictures, maps, reference, captions, title="t")
    maps[2, 0, 0] = np.nan
    after = grid(pictures, maps, reference, captions, title="t")
    np.testing.assert_array_equal(cell_of(after, 2, 0, 6), cell_of(before, 2, 0, 6))
    np.testing.assert_array_equal(cell_of(after, 2, 1, 6), cell_of(after, 2, 2, 6))
    np.testing.assert_array_equal(cell_of(after, 2, 1, 6)[:40], hatching((40, 112)))


def test_a_constant_map_has_no_change() -> None:
    pictures, maps, reference, captions = probes(6)
    maps[2], reference[3] = 0, 1
    picture = grid(pictures, maps, reference, captions, title="t")
    for index in (2, 3):
        np.testing.assert_array_equal(cell_of(picture, index, 2, 6)[:40], hatching((40, 112)))
    assert (cell_of(picture, 4, 2, 6)[:40] != hatching((40, 112))).any()


def test_a_change_of_one_reference_changes_its_third_cell_alone() -> None:
    pictures, maps, reference, captions = probes(6)
    before = grid(pictures, maps, reference, captions, title="t")
    reference[4] = reference[4].T
    rows, columns = block(before, 4, 6)
    top, bottom, left, right = bounds(before, grid(pictures, maps, reference, captions, title="t"))
    assert rows.start <= top < bottom <= rows.start + 112
    assert columns.stop - 112 <= left < right <= columns.stop


def test_without_a_reference_the_shape_is_the_same_and_the_cell_says_so() -> None:
    pictures, maps, reference, captions = probes(6)
    first = grid(pictures, maps, None, captions, title="t")
    assert first.shape == grid(pictures, maps, reference, captions, title="t").shape
    notes = [cell_of(first, index, 2, 6) for index in range(6)]
    assert all((note == notes[0]).all() for note in notes)


def test_most_probes_are_shown_and_the_rest_is_told() -> None:
    pictures, maps, reference, captions = probes(10)
    cut = grid(pictures, maps, reference, captions, title="t", most=6)
    whole = grid(pictures[:6], maps[:6], reference[:6], captions[:6], title="t · 6 of 10 probes")
    np.testing.assert_array_equal(cut, whole)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 33])
@pytest.mark.parametrize("cell", [28, 60])
def test_any_number_of_probes_and_small_cells_are_drawn(count: int, cell: int) -> None:
    pictures, maps, reference, captions = probes(count, side=9)
    long = "a title that is much longer than the narrowest picture that there may be " * 3
    picture = grid(pictures, maps, reference, captions, title=long, cell=cell, most=40)
    assert picture.shape[1] >= 480


@pytest.mark.parametrize("shape", [(7, 7), (28, 28), (32, 20), (300, 300), (1, 275)])
@pytest.mark.parametrize("signed", [False, True])
def test_maps_of_any_size_over_pictures_of_any_size(shape: tuple[int, int], signed: bool) -> None:
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (2, 50, 90, 3), dtype=np.uint8)
    maps = rng.normal(size=(2, *shape))
    picture = grid(pictures, maps, -maps, [Caption("a")] * 2, title="t", signed=signed)
    assert picture.ndim == 3


def test_signals_and_volumes_are_drawn_by_the_plane_of_their_pictures() -> None:
    pictures, maps, reference, captions = probes(2)
    middle = grid(pictures, maps, reference, captions, title="t")
    volumes = np.stack([maps * 0, reference * 0, maps, maps * 0], 1)
    before = np.stack([reference] * 4, 1)
    np.testing.assert_array_equal(grid(pictures, volumes, before, captions, title="t"), middle)
    signals = grid(pictures, maps[:, 0], None, captions, title="t")
    np.testing.assert_array_equal(signals, grid(pictures, maps[:, :1], None, captions, title="t"))


def test_threads_draw_the_same() -> None:
    pictures, maps, reference, captions = probes(8)

    def draw(_: int) -> Picture:
        return grid(pictures, maps, reference, captions, title="same")

    with ThreadPoolExecutor(4) as pool:
        drawn = list(pool.map(draw, range(8)))
    for picture in drawn:
        np.testing.assert_array_equal(picture, drawn[0])


def test_wrong_shapes_are_told() -> None:
    pictures, maps, reference, captions = probes(3)
    with pytest.raises(ConfigurationError, match=r"maps has shape \(2, 28, 28\) for 3 pictures"):
        grid(pictures, maps[:2], None, captions, title="t")
    with pytest.raises(ConfigurationError, match=r"reference has shape \(3, 14, 28\)"):
        grid(pictures, maps, reference[:, ::2], captions, title="t")
    with pytest.raises(ConfigurationError, match="captions has 2 entries for 3 pictures"):
        grid(pictures, maps, None, captions[:2], title="t")
    with pytest.raises(ConfigurationError, match="nothing to draw"):
        grid(pictures[:0], maps[:0], None, [], title="t")
