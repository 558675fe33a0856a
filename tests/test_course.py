"""The course of a fit: what is added, what is kept, and that a checkpoint takes it along."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from lightning_saliency.alerts.tiers import Conduct
from lightning_saliency.course import KEPT, Course
from lightning_saliency.measures.decomposition import angle

STEP = torch.tensor([0.5, math.nan, 0.0, 2.0])


def test_paths_are_sums_of_angles_and_a_probe_without_a_step_stands_still() -> None:
    course = Course().gone({"a": STEP}, {"a": 0.5})
    assert course.paths["a"].tolist() == pytest.approx([math.pi / 3, 0, 0, math.pi])
    course = course.gone({"a": torch.ones(4)}, {"a": 1.0})
    expected = angle(STEP).nan_to_num(0) + math.pi / 2
    torch.testing.assert_close(course.paths["a"], expected)
    assert course.paths["a"].dtype == torch.float32
    assert course.drift["a"].tolist() == [0.5, 1.0]


def test_a_method_that_rests_keeps_its_path_and_one_that_comes_later_begins() -> None:
    course = Course().gone({"a": STEP}, {"a": 0.5}).gone({"b": STEP}, {"b": 0.1, "a": math.nan})
    assert course.paths["a"].equal(course.paths["b"])
    assert course.drift["b"].tolist() == pytest.approx([0.1])
    assert course.drift["a"][0] == 0.5
    assert course.drift["a"][1].isnan()
    course = course.gone({}, {"b": 0.3})
    assert (len(course.drift["a"]), len(course.drift["b"])) == (2, 2)
    assert course.without({"a"}).paths.keys() == course.without({"a"}).drift.keys() == {"b"}


def test_the_newest_observations_are_kept_in_their_order() -> None:
    course = Course()
    for index in range(KEPT + 5):
        course = course.laid({"probes": torch.full((2, 3), float(index))})
        course = course.gone({}, {"a": float(index)})
        assert course.cells["probes"][-1, 0, 0] == course.drift["a"][-1] == index
    assert course.cells["probes"].shape == (KEPT, 2, 3)
    assert course.cells["probes"][:, 1, 2].tolist() == list(range(5, KEPT + 5))
    assert course.drift["a"].tolist() == list(range(5, KEPT + 5))


def test_another_grid_begins_anew_and_another_panel_beside_it() -> None:
    ones = torch.ones(2, 3)
    course = Course().laid({"probes": ones}).laid({"probes": ones, "stream": ones})
    assert (len(course.cells["probes"]), len(course.cells["stream"])) == (2, 1)
    course = course.laid({"probes": torch.ones(2, 4), "stream": ones})
    assert course.cells["probes"].shape == (1, 2, 4)
    assert course.cells["stream"].shape == (2, 2, 3)


def test_a_panel_that_shows_nothing_keeps_step_with_the_others() -> None:
    """A training batch need not have passed between two observations."""
    course = Course()
    for value, panels in ((1.0, "ab"), (2.0, "a"), (3.0, "ab")):
        course = course.laid({panel: torch.full((2, 3), value) for panel in panels})
    assert course.cells["a"][:, 0, 0].tolist() == [1, 2, 3]
    assert course.cells["b"][[0, 2], 0, 0].tolist() == [1, 3]
    assert course.cells["b"][1].isnan().all()


def test_alerts_add_up_and_a_checkpoint_takes_all_of_it_along(tmp_path: Path) -> None:
    course = Course().gone({"a": STEP}, {"a": 0.5}).laid({"probes": torch.ones(2, 3)})
    course = course.after({"probes/4": 0}, 2, Conduct((0.1, 0.2), 5))
    course = course.after({"probes/4": 1}, 1, Conduct((0.1,), 6))
    assert (course.alerts, course.rates, course.trainable) == (3, (0.1,), 6)
    torch.save(course.state(), tmp_path / "state.pt")
    again = Course(**torch.load(tmp_path / "state.pt", weights_only=True))
    assert again.paths["a"].equal(course.paths["a"])
    assert again.drift["a"].equal(course.drift["a"])
    assert again.cells["probes"].equal(course.cells["probes"])
    assert again.after({}, 0, Conduct(again.rates, again.trainable)).alerts == 3
    assert (again.raised, again.rates) == (course.raised, course.rates)
    assert Course(**{}) == Course()
