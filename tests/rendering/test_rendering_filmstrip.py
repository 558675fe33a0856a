from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from lightning_saliency.errors import ConfigurationError
from lightning_saliency.rendering import SEQUENTIAL, Caption, encode, filmstrip
from lightning_saliency.rendering.arrays import FLIP
from lightning_saliency.rendering.filmplan import (
    FilmPlan,
    columns_shown,
    drift_shown,
    film_plan,
    flips_shown,
)
from lightning_saliency.rendering.legend import MARGIN
from lightning_saliency.rendering.marks import FRAME

Picture = NDArray[np.uint8]
CAPTIONS = [Caption(f"class {i}", f"class {i}", False, 0.9, True) for i in range(20)]


def film(
    probes: int = 4, count: int = 5, side: int = 14
) -> tuple[Picture, NDArray[np.float64], list[str]]:
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (probes, side, side, 3), dtype=np.uint8)
    frames: NDArray[np.float64] = rng.exponential(size=(count, probes, side, side))
    return pictures, frames, ["start", *(f"epoch {i}" for i in range(1, count))]


def place(picture: Picture, plan: FilmPlan, probe: int, column: int) -> tuple[slice, slice]:
    """Where a cell is: the body is at the bottom of the picture."""
    top, left = plan.corner(probe, column)
    top += len(picture) - MARGIN // 2 - plan.size[0]
    left += MARGIN
    return slice(top, top + plan.strip.height), slice(left, left + plan.strip.width)


def plan_of(
    pictures: Picture, columns: list[str], cell: int | None = None, *, drift: bool = False
) -> FilmPlan:
    return film_plan(pictures, [[column] for column in columns], cell, with_drift=drift)


def test_a_full_filmstrip_is_about_2_to_1_at_most_1800_wide_and_small() -> None:
    pictures, frames, columns = film(8, 16, 28)
    drift = [None, *np.linspace(0.1, 0.5, 15)]
    picture = filmstrip(pictures, frames, columns, CAPTIONS[:8], title="saliency", drift=drift)
    height, width = picture.shape[:2]
    assert width <= 1800
    assert 1.7 < width / height < 2.3
    assert len(encode(picture)) <= 300_000


@pytest.mark.parametrize(("probes", "count"), [(1, 1), (8, 1), (8, 2), (8, 4), (5, 9), (3, 16)])
def test_other_counts_stay_inside_the_width_and_off_extremes(probes: int, count: int) -> None:
    pictures, frames, columns = film(probes, count)
    height, width, _ = filmstrip(pictures, frames, columns, CAPTIONS[:probes], title="t").shape
    assert width <= 1800
    assert 1.0 < width / height < 6


def test_rows_are_probes_and_columns_are_observations() -> None:
    pictures, frames, columns = film(4, 5)
    picture = filmstrip(pictures, frames, columns, CAPTIONS[:4], title="t")
    plan = plan_of(pictures, columns)
    for probe in range(4):
        for observation in range(5):
            only = frames.copy()
            only[observation, probe] = only[observation, probe].T
            changed = filmstrip(pictures, only, columns, CAPTIONS[:4], title="t") != picture
            inside = np.zeros(picture.shape[:2], dtype=bool)
            inside[place(picture, plan, probe, observation + 1)] = True
            assert changed.any(-1)[inside].mean() > 0.5
            assert not changed[~inside].any()


def test_the_first_cell_of_a_row_is_the_picture() -> None:
    pictures, frames, columns = film(4, 3, side=112)
    picture = filmstrip(pictures, frames, columns, CAPTIONS[:4], title="t", cell=112)
    plan = plan_of(pictures, columns, 112)
    for probe in range(4):
        cell = picture[place(picture, plan, probe, 0)]
        np.testing.assert_array_equal(cell, pictures[probe])


def test_a_flip_frames_its_cell_and_hides_nothing() -> None:
    pictures, frames, columns = film(4, 5)
    flips = np.zeros((5, 4), dtype=bool)
    before = filmstrip(pictures, frames, columns, CAPTIONS[:4], flips, title="t")
    flips[3, 2] = True
    after = filmstrip(pictures, frames, columns, CAPTIONS[:4], flips, title="t")
    rows, across = place(before, plan_of(pictures, columns), 2, 4)
    changed = (before != after).any(-1)
    frame = np.zeros_like(changed)
    outer = slice(rows.start - FRAME, rows.stop + FRAME)
    frame[outer, across.start - FRAME : across.stop + FRAME] = True
    frame[rows, across] = False
    np.testing.assert_array_equal(changed, frame)
    assert (after[frame] == np.array(FLIP)).all()


def test_nan_is_hatched_in_its_cell_alone() -> None:
    pictures, frames, columns = film(4, 5)
    before = filmstrip(pictures, frames, columns, CAPTIONS[:4], title="t")
    frames[2, 1, 3, 3] = np.nan
    after = filmstrip(pictures, frames, columns, CAPTIONS[:4], title="t")
    rows, across = place(before, plan_of(pictures, columns), 1, 3)
    changed = (before != after).any(-1)
    assert changed[rows, across].mean() > 0.9
    changed[rows, across] = False
    assert not changed.any()


def test_drift_bars_grow_with_the_drift_and_stay_above_the_rows() -> None:
    pictures, frames, columns = film(4, 5)
    plan = plan_of(pictures, columns, drift=True)
    drift = [None, 0.1, 0.4, float("nan"), -0.2]
    picture = filmstrip(pictures, frames, columns, CAPTIONS[:4], title="t", drift=drift)
    heights = []
    for column in range(1, 6):
        rows, across = place(picture, plan, 0, column)
        above = picture[rows.start - plan.top : rows.start, across]
        heights.append(int((above == np.array((126, 158, 255))).all(-1)[:, 0].sum()))
    assert heights == [0, 7, 25, 0, 1]
    no_bars = filmstrip(pictures, frames, columns, CAPTIONS[:4], title="t", drift=[None] * 5)
    assert no_bars.shape == picture.shape


def test_shared_scale_shows_when_a_map_was_faint() -> None:
    pictures, frames, columns = film(2, 2)
    frames[0] = frames[1] / 10
    plan = plan_of(pictures, columns)

    def brightness(scale: str, column: int) -> float:
        picture = filmstrip(
            pictures, frames, columns, CAPTIONS[:2], title="t",
            scale=scale, over=False,  # type: ignore[arg-type]
        )  # fmt: skip
        return float(picture[place(picture, plan, 0, column)].mean())

    assert brightness("map", 1) == brightness("map", 2)
    assert brightness("shared", 1) < brightness("shared", 2) / 3


def test_coarse_maps_are_blended_and_fine_ones_are_bare() -> None:
    pictures = np.full((1, 84, 84, 3), 255, dtype=np.uint8)
    for side, over in ((84, False), (7, True)):
        frames = np.zeros((1, 1, side, side))
        frames[..., 0, 0] = 1
        picture = filmstrip(pictures, frames, ["start"], CAPTIONS[:1], title="t", cell=84)
        corner = picture[place(picture, plan_of(pictures, ["start"], 84), 0, 1)][-1, -1]
        assert (corner.tolist() != SEQUENTIAL.table[0].tolist()) == over


def test_columns_keep_the_first_and_the_newest() -> None:
    assert columns_shown(5, 16) == [0, 1, 2, 3, 4]
    assert columns_shown(1, 16) == [0]
    assert columns_shown(7, 1) == [6]
    for count in (17, 40, 1000):
        shown = columns_shown(count, 16)
        assert (shown[0], shown[-1], len(set(shown))) == (0, count - 1, 16)
        assert max(np.diff(shown)) - min(np.diff(shown)) <= 1


def test_what_a_skipped_observation_had_is_shown_at_the_next() -> None:
    flips = np.zeros((7, 2), dtype=bool)
    flips[[2, 6], [0, 1]] = True
    assert flips_shown(flips, [0, 3, 6]).tolist() == [[False, False], [True, False], [False, True]]
    drift = [None, 0.1, 0.9, 0.2, float("nan"), None, None]
    assert drift_shown(drift, [0, 3, 6]) == [None, 0.9, None]


def test_many_observations_and_probes_are_thinned() -> None:
    pictures, frames, columns = film(12, 30)
    thinned = filmstrip(pictures, frames, columns, CAPTIONS[:12], title="t")
    shown = columns_shown(30, 16)
    direct = filmstrip(
        pictures[:8], frames[shown][:, :8], [columns[i] for i in shown], CAPTIONS[:8], title="t"
    )
    np.testing.assert_array_equal(thinned, direct)


def test_volumes_are_drawn_by_the_plane_of_their_pictures() -> None:
    pictures, frames, columns = film(2, 3)
    volumes = np.stack([frames * 0, frames, frames * 0], 2)
    np.testing.assert_array_equal(
        filmstrip(pictures, volumes, columns, CAPTIONS[:2], title="t"),
        filmstrip(pictures, frames, columns, CAPTIONS[:2], title="t"),
    )


def test_headings_may_have_two_lines() -> None:
    pictures, frames, columns = film(2, 3)
    one = filmstrip(pictures, frames, columns, CAPTIONS[:2], title="t")
    columns = [f"{column}\nstep 12" for column in columns]
    two = filmstrip(pictures, frames, columns, CAPTIONS[:2], title="t")
    assert len(two) == len(one) + 24


def test_wrong_shapes_are_told() -> None:
    pictures, frames, columns = film(3, 4)
    captions = CAPTIONS[:3]
    with pytest.raises(ConfigurationError, match=r"frames has shape \(4, 2, 14, 14\)"):
        filmstrip(pictures, frames[:, :2], columns, captions, title="t")
    with pytest.raises(ConfigurationError, match="columns has 3 entries for 4 observations"):
        filmstrip(pictures, frames, columns[:3], captions, title="t")
    with pytest.raises(ConfigurationError, match="drift has 1 entries for 4 observations"):
        filmstrip(pictures, frames, columns, captions, title="t", drift=[0.1])
    with pytest.raises(ConfigurationError, match=r"flips has shape \(3, 4\)"):
        filmstrip(pictures, frames, columns, captions, np.zeros((3, 4), dtype=bool), title="t")
    with pytest.raises(ConfigurationError, match="captions has 2 entries for 3 pictures"):
        filmstrip(pictures, frames, columns, captions[:2], title="t")
    with pytest.raises(ConfigurationError, match="most_columns=0"):
        filmstrip(pictures, frames, columns, captions, title="t", most_columns=0)
