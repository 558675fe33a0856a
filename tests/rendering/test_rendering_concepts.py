from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from lightning_saliency.errors import ConfigurationError
from lightning_saliency.rendering import concept_strip, encode
from lightning_saliency.rendering.filmplan import FilmPlan, film_plan
from lightning_saliency.rendering.legend import MARGIN

UNDER = 22
Picture = NDArray[np.uint8]


def drawn(
    observations: int = 4, classes: int = 3, size: tuple[int, int] = (28, 28)
) -> tuple[Picture, NDArray[np.float32], list[str], list[str]]:
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (observations, classes, *size, 3), dtype=np.uint8)
    reached = np.linspace(0.1, 0.9, observations * classes, dtype=np.float32)
    columns = ["start", *(f"epoch {index}" for index in range(1, observations))]
    names = [f"class {index}" for index in range(classes)]
    return frames, reached.reshape(observations, classes), columns, names


def place(picture: Picture, plan: FilmPlan, row: int, column: int) -> tuple[slice, slice]:
    """A cell with the strip below it."""
    top, left = plan.corner(row, column)
    top += len(picture) - MARGIN // 2 - plan.size[0]
    left += MARGIN
    return slice(top, top + plan.strip.height), slice(left, left + plan.strip.width)


def test_rows_are_classes_and_columns_are_observations() -> None:
    frames, reached, columns, names = drawn()
    picture = concept_strip(frames, reached, columns, names, title="t")
    plan = film_plan(frames[0], [[one] for one in columns], None, lead=0, under=UNDER)
    for row in range(3):
        for column in range(4):
            other, less = frames.copy(), reached.copy()
            other[column, row] = 255 - other[column, row]
            less[column, row] = 0.0
            inside = np.zeros(picture.shape[:2], dtype=bool)
            inside[place(picture, plan, row, column)] = True
            for changed in (
                concept_strip(other, reached, columns, names, title="t"),
                concept_strip(frames, less, columns, names, title="t"),
            ):
                moved = (changed != picture).any(-1)
                assert moved[inside].any()
                assert not moved[~inside].any()


def test_the_bar_is_as_long_as_the_probability() -> None:
    frames, reached, columns, names = drawn(2, 2)
    reached[:] = [[0.0, 0.25], [1.0, float("nan")]]
    picture = concept_strip(frames, reached, columns, names, title="t")
    plan = film_plan(frames[0], [[one] for one in columns], None, lead=0, under=UNDER)
    for row, column, share in ((0, 0, 0.0), (1, 0, 0.25), (0, 1, 1.0), (1, 1, 0.0)):
        down, across = place(picture, plan, row, column)
        line = picture[down, across][-1]
        blue = (line == (126, 158, 255)).all(-1)
        assert blue.sum() == round(share * plan.strip.width)


@pytest.mark.parametrize(
    ("observations", "classes", "size"),
    [(1, 1, (28, 28)), (1, 10, (28, 28)), (16, 10, (28, 28)), (40, 2, (8, 24)), (16, 32, (9, 9))],
)
def test_any_number_fits(observations: int, classes: int, size: tuple[int, int]) -> None:
    frames, reached, columns, names = drawn(observations, classes, size)
    picture = concept_strip(frames, reached, columns, names, title="a title " * 20)
    assert picture.shape[1] <= 1800
    assert len(encode(picture)) < 1_200_000


def test_names_are_written_and_long_ones_stay_in_their_room() -> None:
    frames, reached, columns, names = drawn()
    picture = concept_strip(frames, reached, columns, names, title="t")
    plan = film_plan(frames[0], [[one] for one in columns], None, lead=0, under=UNDER)
    long = ["Grosser Schweizer Sennenhund, Greater Swiss Mountain dog", *names[1:]]
    moved = (concept_strip(frames, reached, columns, long, title="t") != picture).any(-1)
    left = min(np.flatnonzero(moved.any(0)))
    down, across = place(picture, plan, 0, 0)
    assert left >= MARGIN
    assert np.flatnonzero(moved.any(0)).max() < across.start
    assert np.flatnonzero(moved.any(1)).max() < down.stop


@pytest.mark.parametrize(
    ("part", "words"), [(0, "nothing to draw"), (1, "Give"), (2, "columns 1"), (3, "names 1")]
)
def test_shapes_that_do_not_fit_are_told(part: int, words: str) -> None:
    given: list[Any] = list(drawn())
    given[part] = given[part][:1] if part else given[part][:0]
    with pytest.raises(ConfigurationError, match=words):
        concept_strip(*given, title="t")
