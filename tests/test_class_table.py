"""The table of classes, and the maps that are hidden for being noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from small_fits import Events, Net, board, loader, trainer

from lightning_saliency import SaliencyMonitor, SmoothGrad
from lightning_saliency.class_table import MOST, class_table
from lightning_saliency.rendering import Caption, grid

CLASSES = np.array([2, 0, 0, 2, 1])
DRIFT = np.array([0.5, 0.1, np.nan, 0.7, np.nan], dtype=np.float32)
FLIPPED = np.array([True, False, True, True, False])


def rows(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()[2:]]


def test_rows_are_classes_that_moved_most_first() -> None:
    found = rows(class_table("cam", CLASSES, DRIFT, FLIPPED, ["a", "b", "c|d"]))
    assert [row[0] for row in found[:2]] == ["c\\", "a"], "a bar in a name is escaped"
    text = class_table("cam", CLASSES, DRIFT, FLIPPED, None)
    assert rows(text) == [["2", "2", "0.6", "2"], ["0", "2", "0.1", "1"], ["1", "1", "", "0"]]
    assert "drift of `cam`" in text


def test_many_classes_are_cut_to_those_that_moved_most() -> None:
    count = MOST + 5
    drift = np.arange(count, dtype=np.float32)
    text = class_table("g", np.arange(count), drift, np.zeros(count, dtype=bool), None)
    assert len(rows(text.split("\n\n")[0])) == MOST
    assert rows(text)[0][0] == str(count - 1)
    assert text.endswith("5 further classes moved less.")


def test_it_is_logged_from_the_second_observation_on(tmp_path: Path) -> None:
    trainer(logger=board(tmp_path), callbacks=[SaliencyMonitor(on_error="raise")]).fit(
        Net(), loader(), loader()
    )
    text = Events(tmp_path).texts["saliency/classes"]
    assert {row[0] for row in rows(text)} == {"0", "1", "2"}
    assert sum(int(row[1]) for row in rows(text)) == 12


def drawn(unreliable: NDArray[np.bool_] | None) -> NDArray[np.uint8]:
    rng = np.random.default_rng(0)
    pictures = np.full((3, 16, 16, 3), 200, dtype=np.uint8)
    maps = rng.random((3, 16, 16), dtype=np.float32)
    captions = [Caption("a")] * 3
    return grid(pictures, maps, maps[::-1], captions, title="t", unreliable=unreliable)


def test_maps_of_noise_are_hidden_and_their_pictures_are_not() -> None:
    plain = drawn(None)
    assert np.array_equal(plain, drawn(np.zeros(3, dtype=bool)))
    one = drawn(np.array([False, True, False]))
    changed = (plain != one).any(-1)
    assert 112 * 112 * 1.2 < changed.sum() <= 2 * 112 * 112, "its map and its change"
    picture = (plain == 200).all(-1)
    assert not (changed & picture).any()
    every = drawn(np.ones(3, dtype=bool))
    assert (plain != every).any(-1).sum() > 2 * changed.sum()


def test_samples_that_disagree_hide_a_map(tmp_path: Path) -> None:
    """Noise far larger than the image: no two samples of a map are alike."""
    seen = []
    for scale in (0.01, 300.0):
        monitor = SaliencyMonitor({"smooth": SmoothGrad(samples=2, level=scale)}, on_error="raise")
        fit = trainer(callbacks=[monitor], logger=board(tmp_path / str(scale)), max_epochs=1)
        fit.fit(Net(), loader(), loader())
        column = monitor.state_dict()["memory"]["columns"][-1]
        seen.append(bool(column["maps"]["smooth"].isnan().any()))
        share = Events(tmp_path / str(scale)).scalars["saliency/smooth/unreliable"]
        assert (max(share.values()) > 0) == seen[-1]
    assert seen == [False, True]
