"""``lightning-saliency calibrate``: the threshold of region alerts, from finished runs.

What a run recorded is laid and charted observation by observation, as the monitor did it then.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_saliency.alerting import charted_of
from lightning_saliency.alerts.calibration import Calibration
from lightning_saliency.alerts.chart import Chart
from lightning_saliency.board import read_arrays
from lightning_saliency.course import Course
from lightning_saliency.errors import ConfigurationError, did_you_mean


@dataclass(frozen=True)
class Recorded:
    """The cells of one run.

    Attributes:
        folder: of its event files.
        cells: panel → step → `(G, C)`; one panel or more, none of them empty.
    """

    folder: Path
    cells: dict[str, dict[int, Tensor]]

    @property
    def steps(self) -> list[int]:
        """At which anything was recorded."""
        return sorted({step for panel in self.cells.values() for step in panel})

    @property
    def grids(self) -> dict[str, set[tuple[int, ...]]]:
        """The shapes of each panel's cells: one each, unless the grid was changed on the way."""
        return {
            panel: {tuple(cells.shape) for cells in recorded.values()}
            for panel, recorded in sorted(self.cells.items())
        }

    def highest(self, chart: Chart, panels: Iterable[str]) -> float:
        """The largest z that these panels ever counted, whatever the threshold; 0 for none."""
        course, highest = Course(), 0.0
        for step in self.steps:
            now = {panel: cells[step] for panel, cells in self.cells.items() if step in cells}
            course = course.laid(now)
            for panel in now.keys() & set(panels):
                charted = charted_of(chart, course.cells, panel)
                highest = max(highest, float(chart.counted(charted).amax()))
        return highest


def recorded(given: Sequence[str | Path], name: str = "saliency") -> list[Recorded]:
    """What a monitor recorded in these folders and all that lie in them, each read once.

    Args:
        given: folders, of a run or of many.
        name: of the monitor.

    Raises:
        ConfigurationError: no such folder, or no cells in any of them.
    """
    found: list[Recorded] = []
    others: set[str] = set()
    for folder in _event_folders(given):
        cells: dict[str, dict[int, Tensor]] = {}
        for tag, (steps, arrays) in read_arrays(str(folder)).items():
            own, kind, panel = tag.rpartition("/cells/")
            if kind and own == name:
                cells[panel] = _by_step(steps, arrays)
            elif kind:
                others.add(own)
        if cells:
            found.append(Recorded(folder, cells))
    if not found:
        raise ConfigurationError(
            f"No cells of a monitor of the name {name!r} are recorded under "
            f"{', '.join(map(str, given))}. "
            + (f"--name: {did_you_mean(name, sorted(others))}" if others else _HOW)
        )
    return found


_HOW = "Train with SaliencyMonitor(alerts=64) and a TensorBoardLogger, which keeps them."


def _by_step(steps: NDArray[np.int64], arrays: Sequence[NDArray[np.float32]]) -> dict[int, Tensor]:
    pairs = zip(steps.tolist(), arrays, strict=True)
    return {step: torch.from_numpy(array.copy()) for step, array in pairs}


def _event_folders(given: Sequence[str | Path]) -> list[Path]:
    folders: set[Path] = set()
    for one in map(Path, given):
        if not one.is_dir():
            raise ConfigurationError(
                f"{str(one)!r} is {'a file' if one.exists() else 'not there'}. Give the folder of "
                "a run's event files, or one that holds many such folders."
            )
        folders |= {file.parent.resolve() for file in one.rglob("*tfevents*") if file.is_file()}
    return sorted(folders)


def comparable(runs: Sequence[Recorded], chart: Chart) -> tuple[list[Recorded], list[str]]:
    """The runs that a threshold can be told from, and why others were left out.

    Raises:
        ConfigurationError: none is long enough, or they differ in panels, classes or cells.
    """
    start = min(run.steps[min(chart.lag, len(run.steps) - 1)] for run in runs)
    kept, left = [], []
    for run in runs:
        if run.steps[0] > start:
            left.append(
                f"{run.folder}: left out. It begins at step {run.steps[0]}, where others were well "
                "on their way: it goes on with another run. Put both runs' event files in one "
                "folder to have them read as one."
            )
        elif len(run.steps) <= chart.first:
            left.append(
                f"{run.folder}: left out. It has {len(run.steps)} observations, and an alarm is "
                f"possible from the {chart.first + 1}th on."
            )
        else:
            kept.append(run)
    if not kept:
        raise ConfigurationError("No run is long enough.\n" + "\n".join(left))
    _check_same(kept)
    return kept, left


def _check_same(runs: Sequence[Recorded]) -> None:
    for run in runs:
        if run.grids != runs[0].grids or any(len(shapes) > 1 for shapes in run.grids.values()):
            raise ConfigurationError(
                "The runs were charted in different ways (classes + 1, cells), and each has a "
                f"threshold of its own: {_shapes(runs[0])}; {_shapes(run)}. Calibrate them apart."
            )


def _shapes(run: Recorded) -> str:
    shapes = (
        f"{panel} {' and '.join(map(str, sorted(found)))}" for panel, found in run.grids.items()
    )
    return f"{run.folder} has {', '.join(shapes)}"


def report(
    runs: Sequence[Recorded], chart: Chart, panels: Sequence[str], rate: float, shown: int = 5
) -> str:
    """The calibration of these runs in Markdown.

    Raises:
        ConfigurationError: a panel that was not recorded, or a rate outside 0..1.
    """
    known = sorted(runs[0].cells)
    for panel in panels:
        if panel not in known:
            raise ConfigurationError(f"--panel {panel!r}: {did_you_mean(panel, known)}")
    watched = sorted(set(panels)) or known
    found = [(run.highest(chart, watched), run) for run in runs]
    calibration = Calibration.of([z for z, _ in found], rate)
    lengths = sorted(len(run.steps) for run in runs)
    long = str(lengths[0]) if lengths[0] == lengths[-1] else f"{lengths[0]} to {lengths[-1]}"
    parts = [
        f"Panels: {' and '.join(watched)}. {long} observations per run: longer runs alarm more "
        "often, other recipes at other thresholds.",
        calibration.table(),
        "\n".join(_largest(found, shown)),
    ]
    if calibration.threshold > 0:
        setting = replace(chart, threshold=calibration.shown)
        parts.append(f"```python\nSaliencyMonitor(alerts=Alerts(chart={setting}))\n```")
    return "\n\n".join(parts)


def _largest(found: Sequence[tuple[float, Recorded]], shown: int) -> list[str]:
    """The runs that decide: each should be one without a shortcut."""
    order = sorted(found, key=lambda one: (-one[0], one[1].folder))
    rows = [f"| {run.folder} | {len(run.steps)} | {z:.2f} |" for z, run in order[:shown]]
    return ["| the runs of the largest z | observations | z |", "|---|---|---|", *rows]


def calibrate(args: Sequence[str]) -> None:
    """Print the threshold for the runs that the arguments of a command name."""
    parser = _parser()
    given = parser.parse_args(args)
    try:
        chart = Chart(**{one: getattr(given, one) for one in _OF_CHART})
        runs, left = comparable(recorded(given.runs, given.name), chart)
        text = report(runs, chart, given.panel or [], given.rate)
    except ConfigurationError as error:
        parser.error(str(error))
    for line in left:
        print(line, file=sys.stderr)
    print(text)


_OF_CHART = ("ratio", "lag", "hold", "least", "prior")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lightning-saliency calibrate",
        description="Print the threshold of region alerts for a wanted rate of false alarms, from "
        "finished runs of one recipe that had no shortcut.",
    )
    add = parser.add_argument
    add("runs", nargs="+", metavar="RUN", help="folder of event files, or one of such folders")
    add("--rate", type=float, default=0.02, help="wanted share of runs that alarm (%(default)s)")
    add("--panel", action="append", help="whose alerts count, such as probes; all if not given")
    add("--name", default="saliency", help="of the monitor (%(default)s)")
    for one in fields(Chart):
        if one.name in _OF_CHART:
            kind = type(one.default)
            add(f"--{one.name}", type=kind, default=one.default, help="of the Chart (%(default)s)")
    return parser
