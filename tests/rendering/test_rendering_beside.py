"""Two runs beside each other: what either has alone is told apart by its colour."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from lightning_saliency.errors import ConfigurationError
from lightning_saliency.rendering import Caption
from lightning_saliency.rendering.arrays import EMPTY, QUIET, Bytes, Floats
from lightning_saliency.rendering.beside import beside

CELL = 64
CAPTIONS = [Caption("cat", "both cat", correct=True), Caption("dog", "A dog, B cat")]


def spot(row: int, column: int) -> Floats:
    """Two maps with one hot place each."""
    maps = np.full((2, 8, 8), 1e-3, dtype=np.float32)
    maps[:, row, column] = 1
    return maps


def drawn(a: Floats, b: Floats, *, signed: bool = False) -> Bytes:
    pictures = np.zeros((2, 16, 16, 3), dtype=np.uint8)
    return beside(pictures, (a, b), CAPTIONS, title="a title", signed=signed, cell=CELL)


def cells(sheet: Bytes, left: int = 14, gap: int = 2) -> list[NDArray[np.int64]]:
    """The four cells of the first of two blocks, above its caption and the edge."""
    bottom = len(sheet) - 7 - 3 - 3 - 24
    block = sheet[bottom - CELL : bottom].astype(np.int64)
    return [block[:, left + at * (CELL + gap) :][:, :CELL] for at in range(4)]


def test_what_b_has_is_red_and_what_a_has_is_blue() -> None:
    _, of_a, of_b, apart = cells(drawn(spot(1, 1), spot(6, 6)))
    assert of_a[12, 12].sum() > of_a[52, 52].sum() + 200
    assert of_b[52, 52].sum() > of_b[12, 12].sum() + 200
    assert apart[12, 12, 2] > apart[12, 12, 0] + 40
    assert apart[52, 52, 0] > apart[52, 52, 2] + 40
    assert np.ptp(apart[32, 32]) < 16


def test_the_same_maps_have_no_difference() -> None:
    *_, apart = cells(drawn(spot(1, 1), spot(1, 1)))
    assert (apart[:4] == EMPTY).all()
    assert np.abs(apart - np.array(QUIET)).sum(2).min() < 30, "in words"


def test_reversed_maps_differ_by_all_there_is() -> None:
    maps = spot(1, 1) - spot(6, 6)
    *_, apart = cells(drawn(maps, -maps, signed=True))
    assert apart[12, 12, 2] > apart[12, 12, 0] + 40
    assert apart[52, 52, 0] > apart[52, 52, 2] + 40
    lightest = apart[12, 12].sum(), apart[52, 52].sum()
    assert min(lightest) > 400


def test_an_undefined_map_is_hatched_and_has_no_difference() -> None:
    maps = spot(1, 1)
    maps[0] = np.nan
    _, of_a, of_b, apart = cells(drawn(maps, spot(1, 1)))
    assert not (of_a == of_b).all()
    np.testing.assert_array_equal(of_a, apart)


@pytest.mark.parametrize(
    ("a", "b"), [(spot(1, 1), spot(1, 1)[:, :4]), (spot(1, 1)[:1], spot(1, 1)[:1])]
)
def test_what_does_not_fit_is_told(a: Floats, b: Floats) -> None:
    with pytest.raises(ConfigurationError, match="give a map of each run"):
        drawn(a, b)
