"""Observations keep to their share of the fit's time; the first and the last are always taken."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import lightning.pytorch.callbacks
import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EarlyStopping
from small_fits import Events, Net, board, loader, trainer

from lightning_saliency import SaliencyMonitor
from lightning_saliency.progress import Overhead


class Clock:
    """A clock that stands still but where it is told how much time passed."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Work(Callback):
    """A training batch takes a second, and so does the end of the fit."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_train_batch_end(self, *_: Any) -> None:
        self.clock.now += 1.0


class Reader(Callback):
    """Keeps what ModelCheckpoint and EarlyStopping would read, validation by validation."""

    def __init__(self) -> None:
        self.read: list[bool] = []

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        if not trainer.sanity_checking:
            self.read.append("saliency/mine/entropy" in trainer.callback_metrics)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("lightning_saliency.monitor.time.perf_counter", clock)
    return clock


def watch(
    folder: Path, clock: Clock, budget: float | None, *, cost: float = 0.5, **given: Any
) -> Events:
    """A fit of 40 epochs of 2 s each, whose observations take `cost` seconds."""

    def slow(model: Any, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        clock.now += cost
        return inputs

    monitor = SaliencyMonitor({"mine": slow}, probes=3, budget=budget, on_error="raise", chunk=3)
    callbacks = [monitor, Work(clock), *given.pop("callbacks", [])]
    run = trainer(**{"callbacks": callbacks, "logger": board(folder), "max_epochs": 40} | given)
    run.fit(Net(), loader(), loader())
    return Events(folder)


def steps(events: Events) -> list[int]:
    return list(events.scalars["saliency/mine/entropy"])


LAST = 79
"""Number of the last of 40 × 2 batches."""


@pytest.mark.parametrize("budget", [0.03, 0.05, 0.1, 0.2])
def test_the_share_holds_over_the_run(budget: float, clock: Clock, tmp_path: Path) -> None:
    events = watch(tmp_path, clock, budget)
    taken = steps(events)
    assert taken[0] == 0
    assert taken[-1] == LAST
    assert max(events.scalars["saliency/overhead"].values()) > 0
    assert events.scalars["saliency/overhead"][LAST] <= budget
    # It is spent as well: one more observation would have exceeded it.
    assert (len(taken) + 1) * 0.5 > budget * 80
    gaps = [later - earlier for earlier, later in itertools.pairwise(taken[1:-1])]
    assert max(gaps, default=0) <= 2 * min(gaps, default=1), "spaced evenly"


def test_without_a_budget_each_is_taken(clock: Clock, tmp_path: Path) -> None:
    assert steps(watch(tmp_path, clock, None)) == [0, *range(1, LAST + 1, 2)]


def test_a_budget_that_allows_nothing_takes_the_first_and_the_last(
    clock: Clock, tmp_path: Path
) -> None:
    assert steps(watch(tmp_path, clock, 1e-6)) == [0, LAST]


@pytest.mark.parametrize(
    ("given", "last"),
    [
        ({"max_steps": 31, "max_epochs": -1}, 29),  # the 15th epoch has the last validation
        ({"check_val_every_n_epoch": 7}, 69),
        ({"val_check_interval": 1, "max_epochs": 3}, 5),
        ({"limit_train_batches": 3, "val_check_interval": 2, "max_epochs": 4}, 10),
    ],
)
def test_the_last_validation_is_known(
    given: dict[str, Any], last: int, clock: Clock, tmp_path: Path
) -> None:
    """So its numbers are there when its checkpoint is chosen."""
    reader = Reader()
    assert steps(watch(tmp_path, clock, 1e-6, callbacks=[reader], **given)) == [0, last]
    assert reader.read[-1]
    assert not any(reader.read[:-1])


def test_a_fit_that_stops_by_itself_is_looked_at_when_it_has_stopped(
    clock: Clock, tmp_path: Path
) -> None:
    stopping = EarlyStopping("val_loss", patience=2, min_delta=1e9)
    events = watch(tmp_path, clock, 1e-6, callbacks=[stopping])
    assert steps(events) == [0, 5], "at the x of its last validation"
    assert list(events.images["saliency/mine"]) == [0, 5]


def test_at_the_end_averaged_weights_are_seen_as_validations_see_them(tmp_path: Path) -> None:
    averaging: Any = getattr(lightning.pytorch.callbacks, "EMAWeightAveraging", None)
    if averaging is None:
        pytest.skip("Lightning brings averaging callbacks from 2.6 on")
    seen: list[torch.Tensor] = []

    def keep(model: Any, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        seen.append(model.head[2].weight.detach().clone())
        return inputs

    monitor = SaliencyMonitor({"mine": keep}, probes=3, budget=1e-9, on_error="raise", chunk=3)
    stopping = EarlyStopping("val_loss", patience=2, min_delta=1e9)
    callbacks = [averaging(decay=0.5), stopping, monitor]
    net = Net()
    trainer(callbacks=callbacks, max_epochs=40).fit(net, loader(), loader())
    assert len(seen) == 2
    last: Any = net.head[2].weight  # which the averaging callback leaves in the module
    assert torch.equal(seen[-1], last)


def test_the_budget_counts_what_comes_after_the_numbers(clock: Clock) -> None:
    overhead = Overhead()
    clock.now = 100.0
    begun, clock.now = clock.now, 101.0
    overhead.since(begun, 0)
    clock.now = 200.0
    assert overhead.affords(0.0151)
    assert not overhead.affords(0.0149), "this one, one more, and the last"
    overhead.add(1.0)
    assert not overhead.affords(0.0299)
    assert overhead.affords(0.0301)
