"""`lightning-saliency calibrate`: what event files hold, replayed as the monitor charted it."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import small_fits as fits
import torch
from numpy.typing import NDArray
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from lightning_saliency import SaliencyMonitor, board, cli
from lightning_saliency.alerts import Alerts, Chart
from lightning_saliency.calibrate import Recorded, calibrate, comparable, recorded
from lightning_saliency.errors import ConfigurationError

CHART = Chart(ratio=1.5)
LENGTH = 14


def cells(seed: int, groups: int = 1, count: int = 9, length: int = LENGTH) -> NDArray[np.float32]:
    """`(T, G, C)` shares, noise about what each cell has."""
    drawn = np.random.default_rng(seed)
    start = drawn.normal(size=(1, groups, count))
    masses = np.exp(start + 0.3 * drawn.normal(size=(length, groups, count)))
    shares: NDArray[np.float32] = (masses / masses.sum(2, keepdims=True)).astype(np.float32)
    return shares


def write(
    folder: Path,
    name: str = "saliency",
    first: int = 0,
    again: bool = False,
    **panels: NDArray[np.float32],
) -> Path:
    """An event file with cells at every tenth step from `first` on."""
    writer = SummaryWriter(str(folder))
    if again:
        board.begin_again(writer, first)
    for panel, series in panels.items():
        for index, array in enumerate(series):
            summary = board.array_summary(f"{name}/cells/{panel}", array)
            board.write_summary(writer, summary, first + 10 * index, 1.0 + index)
    writer.close()
    return folder


def run_of(series: NDArray[np.float32], **others: NDArray[np.float32]) -> Recorded:
    """Without an event file."""
    both = {"probes": series, **others}
    read = {
        panel: {10 * at: torch.from_numpy(one) for at, one in enumerate(given)}
        for panel, given in both.items()
    }
    return Recorded(Path("run"), read)


def said(capsys: pytest.CaptureFixture[str], *args: object) -> str:
    calibrate([str(one) for one in args])
    return capsys.readouterr().out


def threshold(text: str) -> float:
    (found,) = re.findall(r"\| threshold \| \*\*([\d.]+)\*\* \|", text)
    return float(found)


def test_the_threshold_gives_the_wanted_rate_on_fresh_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in range(59):
        write(tmp_path / f"run{seed}", probes=cells(seed))
    text = said(capsys, tmp_path, "--rate", 0.1, "--ratio", 1.5)
    (interval,) = re.findall(r"interval of that rate \| ([\d.]+)% to ([\d.]+)%", text)
    low, high = (float(one) / 100 for one in interval)
    fresh = [run_of(cells(seed)).highest(CHART, ["probes"]) for seed in range(1000, 1400)]
    rate = float(np.mean([z > threshold(text) for z in fresh]))
    assert 0.01 < low <= rate <= high < 0.25
    assert f"Chart(threshold={threshold(text)}, ratio=1.5, " in text


def test_the_rate_is_that_of_runs_that_alarm_on_the_chart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [cells(seed) for seed in range(20)]
    for at, one in enumerate(given):
        write(tmp_path / f"run{at}", probes=one)
    shown = [threshold(said(capsys, tmp_path, "--rate", r, "--ratio", 1.5)) for r in (0.3, 0.1)]
    assert shown[0] < shown[1]
    for wanted, found in ((5, shown[0]), (1, shown[1])):
        chart = Chart(threshold=found, ratio=1.5)
        charted = [chart.replayed(torch.from_numpy(one)) for one in given]
        assert sum(any(map(chart.alarms, run)) for run in charted) == wanted


def test_a_resumed_run_counts_once(tmp_path: Path) -> None:
    whole = cells(3)
    write(tmp_path / "whole", probes=whole)
    other = cells(4)
    other[:6] = whole[:6]
    write(tmp_path / "resumed", probes=other[:9])  # its last three are of no run
    write(tmp_path / "resumed", first=60, again=True, probes=whole[6:])
    once, resumed = recorded([tmp_path, tmp_path / "resumed" / ".." / "whole"])[::-1]
    assert (once.folder.name, resumed.folder.name) == ("whole", "resumed")
    assert once.steps == resumed.steps == list(range(0, 10 * LENGTH, 10))
    assert once.highest(CHART, ["probes"]) == resumed.highest(CHART, ["probes"])


def test_a_fit_is_replayed_as_its_monitor_charted_it(tmp_path: Path) -> None:
    chart = Chart(threshold=1e9, ratio=1, lag=1, least=2)

    def fit(epochs: int, checkpoint: Path | None = None) -> None:
        monitor = SaliencyMonitor(alerts=Alerts(stream=6, cells=3, chart=chart))
        logger = fits.board(tmp_path / "run")
        made = fits.trainer(logger=logger, max_epochs=epochs, callbacks=[monitor])
        made.fit(fits.Net(), fits.loader(), fits.loader(), ckpt_path=checkpoint)
        if checkpoint is None:
            made.save_checkpoint(tmp_path / "run.ckpt")

    fit(5)
    fit(7, tmp_path / "run.ckpt")  # was killed, and what it wrote is written anew
    fit(9, tmp_path / "run.ckpt")
    logged = EventAccumulator(str(tmp_path / "run"), size_guidance={"scalars": 0}).Reload()
    charted = [one.value for one in logged.Scalars("saliency/region_z")]
    (run,) = recorded([tmp_path])
    assert (run.grids, len(run.steps)) == ({"probes": {(1, 9)}, "stream": {(4, 9)}}, 9)
    assert run.highest(chart, ["probes", "stream"]) == pytest.approx(max(charted), rel=1e-6)
    assert max(charted) > 0


def test_a_run_resumed_in_a_folder_of_its_own_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "a", probes=cells(1))
    write(tmp_path / "b", first=200, probes=cells(2))
    write(tmp_path / "c", probes=cells(3, length=CHART.first))
    calibrate([str(tmp_path)])
    out, err = capsys.readouterr()
    assert "| runs | 1 |" in out
    assert re.search(r"b: left out\. It begins at step 200", err)
    assert re.search(r"c: left out\. It has 10 observations, .* from the 11th on", err)


def test_panels_are_charted_as_the_monitor_does(tmp_path: Path) -> None:
    probes, stream = cells(1, 3), cells(2, 3)
    run = write(tmp_path / "run", probes=probes, stream=stream)
    (found,) = recorded([run])

    def largest(series: NDArray[np.float32], control: Tensor | None = None) -> float:
        charted = CHART.replayed(torch.from_numpy(series), control)
        return max(float(CHART.counted(one).amax()) for one in charted)

    own = largest(probes)
    held = largest(stream, torch.from_numpy(probes[:, 0]))
    assert held != largest(stream)
    assert found.highest(CHART, ["probes"]) == own
    assert found.highest(CHART, ["stream"]) == held
    assert found.highest(CHART, ["probes", "stream"]) == max(own, held)


def test_panels_are_chosen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write(tmp_path, probes=cells(1), stream=cells(2))
    assert "Panels: probes and stream. 14 observations" in said(capsys, run)
    assert "Panels: stream. " in said(capsys, run, "--panel", "stream")


def test_the_runs_that_decide_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shortcut = cells(0)
    shortcut[11:, :, 4] *= 30
    shortcut /= shortcut.sum(2, keepdims=True)
    for seed in range(1, 5):
        write(tmp_path / f"fine{seed}", probes=cells(seed))
    write(tmp_path / "guilty", probes=shortcut)
    rows = said(capsys, tmp_path).split("| the runs of the largest z |")[1].splitlines()
    assert "guilty | 14 |" in rows[2]


def test_a_shell_finds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write(tmp_path, name="mine/own", probes=cells(1))
    args = ["lightning-saliency", "calibrate", str(run), "--name", "mine/own"]
    monkeypatch.setattr(sys, "argv", args)
    cli.run()
    assert "| runs | 1 |" in capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str], *args: object) -> str:
    with pytest.raises(SystemExit) as ended:
        calibrate([str(one) for one in args])
    assert ended.value.code == 2
    return capsys.readouterr().err


def test_wrong_arguments_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write(tmp_path / "run", probes=cells(1))
    (file,) = run.iterdir()
    assert "nowhere' is not there" in refused(capsys, tmp_path / "nowhere")
    assert "is a file. Give the folder" in refused(capsys, file)
    assert "--panel 'prob': Did you mean 'probes'?" in refused(capsys, run, "--panel", "prob")
    assert "rate=2.0: give a share" in refused(capsys, run, "--rate", 2)
    assert "Chart(lag=0)" in refused(capsys, run, "--lag", 0)
    assert "Did you mean 'saliency'?" in refused(capsys, run, "--name", "salience")


def test_runs_without_cells_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    writer = SummaryWriter(str(tmp_path))
    writer.add_scalar("loss", 1.0, 0)
    writer.close()
    assert "SaliencyMonitor(alerts=64)" in refused(capsys, tmp_path)


def test_short_runs_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write(tmp_path, probes=cells(1, length=4))
    assert "No run is long enough" in refused(capsys, run)
    assert "| runs | 1 |" in said(capsys, run, "--lag", 1, "--hold", 1, "--least", 2)


@pytest.mark.parametrize(
    "other", [run_of(cells(2, count=16)), run_of(cells(2, 3)), run_of(cells(2), stream=cells(3))]
)
def test_runs_that_were_charted_otherwise_are_told(other: Recorded) -> None:
    comparable([run_of(cells(1)), run_of(cells(2))], CHART)
    with pytest.raises(ConfigurationError, match="charted in different ways"):
        comparable([run_of(cells(1)), other], CHART)


def test_a_grid_that_changed_on_the_way_is_told() -> None:
    run = run_of(cells(1))
    run.cells["probes"][20] = torch.rand(1, 16)
    with pytest.raises(ConfigurationError, match=r"\(1, 9\) and \(1, 16\)"):
        comparable([run], CHART)
