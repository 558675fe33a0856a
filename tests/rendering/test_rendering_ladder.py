"""The floor strip: where everything stands, what one number changes, and its words."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from lightning_saliency.errors import ConfigurationError
from lightning_saliency.rendering import encode
from lightning_saliency.rendering.arrays import EMPTY, INK, STRIP
from lightning_saliency.rendering.ladder import (
    HIGHEST,
    LOWEST,
    Kind,
    LadderPlan,
    floor_ladder,
    standing,
)
from lightning_saliency.rendering.legend import MARGIN

Picture = NDArray[np.uint8]
Floats = NDArray[np.float32]

LABELS = ["repeat", "bfloat16", "jitter 1 %", "1 step", "random weights"]
KINDS: list[Kind] = ["run", "run", "input", "weights", "weights"]
COLOURS = {"run": (92, 184, 255), "input": (255, 176, 64), "weights": (214, 150, 230)}
BAND = (47, 51, 64)


def floors(methods: int = 2) -> Floats:
    middle = np.array([0, 2e-4, 6e-3, 2e-2, 1], np.float32)
    rows = np.stack([0.6 * middle, middle, 1.8 * middle], 1)
    return np.repeat(rows[None], methods, 0)


def since(methods: int = 2, middle: float = 0.1) -> Floats:
    return np.full((methods, 3), middle, np.float32) * np.array([0.5, 1, 1.5], np.float32)


def drawn(found: Floats | None = None, now: Floats | None = None, **given: Any) -> Picture:
    found = floors() if found is None else found
    names = given.pop("methods", [f"method {row}" for row in range(len(found))])
    given = dict[str, Any](labels=LABELS, kinds=KINDS, title="t") | given
    return floor_ladder(names, floors=found, now=now, **given)


def body(picture: Picture, plan: LadderPlan) -> Picture:
    """Without its head: the body is at the bottom."""
    height, width = plan.size
    top = len(picture) - MARGIN // 2 - height
    return picture[top : top + height, MARGIN : MARGIN + width]


PLAN = LadderPlan.of(2, len(LABELS))


def bounds(before: Picture, after: Picture) -> tuple[int, int, int, int]:
    changed = (before != after).any(-1)
    rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
    return int(rows[0]), int(rows[-1]), int(columns[0]), int(columns[-1])


def of_colour(picture: Picture, colour: tuple[int, int, int]) -> NDArray[np.bool_]:
    return np.asarray((picture == np.array(colour)).all(-1))


# Where everything stands


@pytest.mark.parametrize("methods", [1, 2, 3, 6, 12])
def test_rows_and_lines_lie_apart_and_within_the_picture(methods: int) -> None:
    plan = LadderPlan.of(methods, 9)
    height, width = plan.size
    lines = [plan.line(row, rung) for row in range(methods) for rung in range(9)]
    assert len(set(lines)) == len(lines)
    for row in range(methods):
        own = [plan.line(row, rung) for rung in range(9)]
        assert own == sorted(own, reverse=True), "from below"
        assert plan.top(row) + plan.pitch / 3 < own[-1]
        assert own[0] < plan.top(row) + plan.row - plan.pitch / 3
    assert plan.top(methods - 1) + plan.row < height
    assert plan.x(HIGHEST) < width
    picture = drawn(floors(methods), since(methods))
    assert 1 < picture.shape[1] / picture.shape[0] < 6 or methods > 6
    assert len(encode(picture)) < 300_000


def test_the_axis_is_logarithmic_with_a_place_of_its_own_for_0() -> None:
    places = [PLAN.x(one) for one in (1e-4, 1e-3, 1e-2, 1e-1, 1)]
    steps = np.diff(places)
    assert steps.min() > 100
    assert steps.max() - steps.min() <= 1
    assert PLAN.x(0) == PLAN.x(-1) == PLAN.zero < PLAN.axis
    assert PLAN.x(1e-9) == PLAN.x(LOWEST) == PLAN.axis
    assert PLAN.x(2.5) == PLAN.x(HIGHEST)


# What is drawn


def test_a_dot_of_its_kind_stands_at_each_median_and_a_bar_from_end_to_end() -> None:
    sheet, found = body(drawn(), PLAN), floors()
    for row in range(2):
        for rung, kind in enumerate(KINDS):
            y, (low, middle, high) = PLAN.line(row, rung), found[row, rung]
            line = sheet[y - 1]
            x = PLAN.x(float(middle))
            assert of_colour(line, COLOURS[kind])[x - 3 : x + 4].all()
            if middle == 0:
                assert not of_colour(line, COLOURS[kind])[PLAN.axis :].any()
                continue
            bar = line[PLAN.x(float(low)) : x - 8]
            assert len(np.unique(bar, axis=0)) == 1
            assert (bar != np.array(EMPTY)).any()
            assert (line[PLAN.x(float(low)) - 1] == line[PLAN.x(float(low)) - 4]).all()
            ends = line[x + 8 : PLAN.x(float(high)) + 1]
            assert (ends == bar[0]).all()


def test_what_is_smaller_than_the_axis_is_an_arrow_at_its_end() -> None:
    found = floors()
    found[0, 1] = [0, 1e-6, 1e-5]
    sheet, y = body(drawn(found), PLAN), PLAN.line(0, 1)
    blue = of_colour(sheet, COLOURS["run"])[y - 10 : y + 10, PLAN.axis - 8 : PLAN.axis + 9]
    widths = blue.sum(0)
    inside = widths[widths > 0]
    assert inside[0] < inside[-1], "its point is on the left"
    dot = of_colour(body(drawn(), PLAN), COLOURS["input"])
    round_ = dot[PLAN.line(0, 2) - 10 : PLAN.line(0, 2) + 10].sum(0)
    x = PLAN.x(float(floors()[0, 2, 1]))
    assert (round_[x - 5 : x + 1] == round_[x : x + 6][::-1]).all()


def test_the_drift_of_now_is_a_line_through_all_rungs_and_a_band_behind() -> None:
    now = since()
    sheet = body(drawn(now=now), PLAN)
    x, (low, _, high) = PLAN.x(float(now[0, 1])), now[0]
    rows = slice(PLAN.top(0), PLAN.top(0) + PLAN.row)
    white = of_colour(sheet[rows, x], INK)
    assert white.mean() > 0.8
    assert white[0]
    assert white[-1]
    top = sheet[PLAN.top(0) + 1]
    band = of_colour(top, BAND)
    assert band[PLAN.x(float(low)) : x - 1].all()
    assert band[x + 2 : PLAN.x(float(high)) + 1].all()
    grid = of_colour(top, STRIP).sum()
    assert band.sum() + grid >= PLAN.x(float(high)) - PLAN.x(float(low)) - 3
    assert not band[PLAN.x(float(high)) + 1 :].any()
    still = body(drawn(now=since(middle=0.0)), PLAN)
    assert of_colour(still[rows, PLAN.zero], INK).mean() > 0.6
    assert not of_colour(still[rows, PLAN.axis : PLAN.axis + 900], INK).any()


def test_without_a_drift_there_is_no_line() -> None:
    nothing = np.full((2, 3), np.nan, np.float32)
    np.testing.assert_array_equal(drawn(now=nothing), drawn())
    half = since()
    half[1] = np.nan
    rows = slice(PLAN.top(1), PLAN.top(1) + PLAN.row)
    one, other = (body(drawn(now=now), PLAN)[rows] for now in (half, None))
    np.testing.assert_array_equal(one, other)


def test_one_rung_is_one_line_of_one_row() -> None:
    before, found = body(drawn(now=since()), PLAN), floors()
    found[1, 2] *= 2
    top, bottom, left, right = bounds(before, body(drawn(found, since()), PLAN))
    y = PLAN.line(1, 2)
    assert y - PLAN.pitch // 2 <= top
    assert bottom <= y + PLAN.pitch // 2
    assert PLAN.axis <= left
    assert right < PLAN.axis + 900


def test_a_rung_that_was_not_measured_leaves_its_line_empty() -> None:
    found = floors()
    found[0, 3] = np.nan
    sheet, y = body(drawn(found), PLAN), PLAN.line(0, 3)
    line = sheet[y - 9 : y + 9, 200:]
    assert not of_colour(line, COLOURS["weights"]).any()
    assert of_colour(body(drawn(), PLAN)[y - 9 : y + 9, 200:], COLOURS["weights"]).any()


@pytest.mark.parametrize("factor", [1e-3, 0.03, 1, 30])
def test_labels_stay_in_their_panels(factor: float) -> None:
    found = np.minimum(floors(1) * np.float32(factor), 2)
    plan = LadderPlan.of(1, len(LABELS))
    sheet = body(drawn(found, methods=["m"]), plan)
    rows = slice(plan.top(0), plan.top(0) + plan.row)
    for colour in COLOURS.values():
        columns = np.flatnonzero(of_colour(sheet[rows], colour).any(0))
        assert columns.max() < plan.axis + 900 + 9  # half a dot
        assert columns.min() >= plan.zero - 10


def test_names_of_any_length_and_script_are_drawn() -> None:
    for name in ("x", "a_very_long_name_" * 4, "two words and more than fit", "梯度", "a\nb"):
        picture = drawn(floors(1), since(1), methods=[name])
        assert picture.shape == drawn(floors(1), since(1), methods=["x"]).shape


# Its words


@pytest.mark.parametrize(
    ("drift", "words"),
    [
        (math.nan, ("", "no drift to hold against them")),
        (0.0, ("0", "the same maps")),
        (1e-6, ("under 0.0001", "above repeat")),
        (1.5e-4, ("0.00015", "above repeat")),
        (0.0123, ("0.012", "above jitter 1 %")),
        (0.9, ("0.9", "above 1 step")),
        (1.8, ("1.8", "above random weights")),
    ],
)
def test_a_drift_stands_above_the_highest_of_the_floors_below_it(
    drift: float, words: tuple[str, str]
) -> None:
    assert standing(LABELS, floors()[0, :, 1], drift) == words


def test_words_of_few_floors() -> None:
    found = np.array([0.01, np.nan, 0.005, np.nan, 0.02], np.float32)
    assert standing(LABELS, found, 0.015) == ("0.015", "above repeat")
    assert standing(LABELS, found, 0.001) == ("0.001", "below all floors")
    assert standing(LABELS, found * np.nan, 0.001) == ("0.001", "no floor was measured")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"labels": [], "kinds": []}, "nothing to draw: 2 methods and 0 rungs"),
        ({"labels": LABELS[:4]}, r"floors has shape \(2, 5, 3\), now \(2, 3\) and kinds 5 entries"),
        ({"now": since(3)}, r"now \(3, 3\)"),
        ({"kinds": KINDS[:4]}, "kinds 4 entries"),
        ({"kinds": [*KINDS[:4], "weihgts"]}, "there is no 'weihgts'. Known: 'run', 'input', 'we"),
    ],
)
def test_what_does_not_fit_is_told(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        drawn(**given)
