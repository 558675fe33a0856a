"""The frames of a film differ in maps, captions and the clock, and in nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from lightning_saliency.errors import ConfigurationError
from lightning_saliency.rendering import Caption
from lightning_saliency.rendering.arrays import FLIP, INK, SHEET, Bytes
from lightning_saliency.rendering.film import CLOCK, Film

MOMENTS = [("start", 0), ("epoch 0", 100), ("epoch 1 of a long name", 400)]


def film(count: int = 3, *, names: tuple[str, ...] = (), cell: int = 64) -> Film:
    pictures = np.random.default_rng(0).integers(0, 90, (count, 12, 12, 3), dtype=np.uint8)
    return Film(pictures, MOMENTS, "a title", names, cell=cell)


def frame(of: Film, index: int, *captions: Caption) -> Bytes:
    maps = np.random.default_rng(1).random((len(of.pictures), 4, 4), dtype=np.float32)
    given = captions or (Caption("cat", "cat", probability=0.5, correct=True),) * len(of.pictures)
    return of.frame(index, maps, given)


def test_only_the_clock_goes_on() -> None:
    one = film()
    first, last = frame(one, 0), frame(one, 2)
    assert first.shape == last.shape
    rows = np.flatnonzero((first != last).any((1, 2)))
    assert len(one.head) <= rows.min() <= rows.max() < len(one.head) + CLOCK


@pytest.mark.parametrize(("count", "least"), [(1, 1.0), (5, 0.8), (32, 0.9), (31, 0.9)])
def test_few_places_are_empty(count: int, least: float) -> None:
    tiling = film(count, cell=112).tiling
    assert count / (tiling.rows * tiling.columns) >= least
    assert tiling.rows * tiling.columns - count < tiling.columns


def test_a_change_is_framed() -> None:
    still, changed = Caption("cat", "cat"), Caption("cat", "dog", flipped=True)
    one = film()
    yellow = [
        int((frame(one, 0, *captions) == FLIP).all(2).sum())
        for captions in ((still,) * 3, (still, changed, still))
    ]
    around = 2 * (64 + 64 + 24) * 3
    assert around <= yellow[1] - yellow[0] < around + 200


def test_a_map_of_noise_is_not_shown() -> None:
    one = film()
    maps = np.random.default_rng(1).random((3, 4, 4), dtype=np.float32)
    given = [Caption("cat")] * 3
    shown, hidden = one.frame(0, maps, given), one.frame(0, maps, given, np.array([0, 1, 0]) > 0)
    others = [one.frame(0, maps + 5 * np.eye(3)[at][:, None, None], given) for at in range(3)]
    differ = (shown != hidden).any((0, 2))
    where = [(shown != other).any((0, 2)) for other in others]
    assert differ.any()
    assert not (differ & ~where[1]).any(), "the second, and no other"
    undefined = maps.copy()
    undefined[1] = np.nan
    assert (one.frame(0, undefined, given) != hidden).any(), "it says why"


def test_a_name_says_more_than_two_halves() -> None:
    """Where names are long, the prediction is written whole, and alone."""
    whole = Caption("wolf hound", "wolf hound", probability=0.5)
    alone = Caption("", "wolf hound")
    tight, roomy = film(names=("wolf hound",)), film(names=("wolf hound",), cell=224)
    same = [
        (frame(one, 0, *[whole] * 3) == frame(one, 0, *[alone] * 3)).all() for one in (tight, roomy)
    ]
    assert same == [True, False]


def test_there_is_room_for_all_moments() -> None:
    one = film(9)
    ends = []
    for index in range(3):
        clock = frame(one, index)[len(one.head) : len(one.head) + CLOCK, : 14 + one._words]
        ends.append(int(np.flatnonzero((clock != SHEET).any((0, 2)))[-1]))
    assert ends[0] < ends[1] < ends[2] - 50


def test_the_ball_is_where_the_step_is() -> None:
    one = film()
    lefts = []
    for index in range(3):
        clock = frame(one, index)[len(one.head) : len(one.head) + CLOCK]
        white = (clock == INK).all(2)[:, one._words + 30 :]
        lefts.append(np.flatnonzero(white.any(0)).mean())
    assert (lefts[1] - lefts[0]) / (lefts[2] - lefts[0]) == pytest.approx(0.25, abs=0.02)


def test_captions_must_fit() -> None:
    with pytest.raises(ConfigurationError, match="captions has 1 entries for 3 pictures"):
        frame(film(), 0, Caption("cat"))
