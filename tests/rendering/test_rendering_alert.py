from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from lightning_saliency.errors import ConfigurationError
from lightning_saliency.rendering.alert import alert_sheet, outline
from lightning_saliency.rendering.arrays import FLIP

Bytes = NDArray[np.uint8]


def drawn(n: int = 4, side: int = 28) -> tuple[list[Bytes], NDArray[np.float32]]:
    rng = np.random.default_rng(0)
    kinds = [np.full((n, side, side, 3), level, dtype=np.uint8) for level in (40, 120, 200)]
    return kinds, rng.random((n, side, side), dtype=np.float32)


def corner(side: int = 28) -> NDArray[np.bool_]:
    inside = np.zeros((side, side), dtype=bool)
    inside[:4, -4:] = True
    return inside


def sheet(n: int = 4, inside: NDArray[np.bool_] | None = None) -> Bytes:
    kinds, maps = drawn(n)
    inside = corner() if inside is None else inside
    scores = np.arange(3 * n, dtype=np.float32).reshape(n, 3) - 4.5
    return alert_sheet(kinds, maps, inside, scores, ["a"] * n, title="here")


def test_the_region_is_framed_in_all_four_cells_of_each_example() -> None:
    framed = (sheet() == FLIP).all(-1)
    without = (sheet(inside=np.zeros((28, 28), dtype=bool)) == FLIP).all(-1)
    assert not without.any()
    # A cell of 128 pixels, the region a seventh of each side: its edge, two pixels wide.
    side = round(128 * 4 / 28)
    assert framed.sum() == pytest.approx(4 * 4 * (4 * side * 2 - 16), rel=0.06)


def test_each_kind_is_shown_once_for_each_example() -> None:
    picture = sheet()
    for level in (120, 200):
        shown = (picture == level).all(-1).sum()
        assert shown == pytest.approx(4 * 128 * 128, rel=0.02)


def test_maps_are_laid_over_the_example_and_captions_written() -> None:
    kinds, maps = drawn()
    given = kinds, maps, corner()
    scores = np.zeros((4, 3), dtype=np.float32)
    plain = alert_sheet(*given, scores, ["a"] * 4, title="here")
    assert not np.array_equal(plain, alert_sheet(*given, scores - 2, ["a"] * 4, title="here"))
    assert not np.array_equal(plain, alert_sheet(*given, scores, ["b"] * 4, title="here"))
    assert not np.array_equal(plain, alert_sheet(*given, scores, ["a"] * 4, title="there"))
    other = alert_sheet(kinds, maps[::-1], corner(), scores, ["a"] * 4, title="here")
    assert not np.array_equal(plain, other)


def test_an_outline_is_the_edge_inside() -> None:
    inside = np.zeros((9, 9), dtype=bool)
    inside[2:8, 3:9] = True
    edge = outline(inside)
    assert not (edge & ~inside).any()
    assert edge[2:4, 3:9].all()
    assert not edge[4:6, 5:7].any()
    assert edge[4:6, 3:5].all()
    assert edge[4:6, 7:9].all(), "also where the sheet ends it"


@pytest.mark.parametrize("spatial", [(30,), (6, 12, 12)])
def test_signals_and_volumes_are_drawn(spatial: tuple[int, ...]) -> None:
    kinds, _ = drawn(2)
    inside = np.zeros(spatial, dtype=bool)
    inside[..., :4] = True
    maps = np.random.default_rng(1).random((2, *spatial), dtype=np.float32)
    picture = alert_sheet(kinds, maps, inside, np.zeros((2, 3), np.float32), "ab", title="t")
    assert (picture == FLIP).all(-1).any()


def test_what_does_not_fit_is_told() -> None:
    kinds, maps = drawn()
    for pictures, labels in ((kinds[:2], "abcd"), (kinds, "abc"), ([one[:0] for one in kinds], "")):
        with pytest.raises(ConfigurationError, match="three pictures for each"):
            alert_sheet(pictures, maps, corner(), np.zeros((4, 3), np.float32), labels, title="t")
