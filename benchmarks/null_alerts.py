"""The stored runs of the power study on the chart as it is shipped."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from alert_runs import CHANGED_AT, FINE, PROBES, Data, Job, corner, simulate

from examples.decoy_digits import PATCH, SIDE
from lightning_saliency.alerts import Chart
from lightning_saliency.alerts.cells import CELLS, CellSums, cell_mass
from lightning_saliency.alerts.chart import Alarm

RUNS = Path("runs/alert_power")
ARMS = {"backdoor 10 %": True, "backdoor 2 %": True, "lr ×3": False, "lr ×0.1": False}
"""What happens to a run, and whether an alert is wanted."""
CLASSES = 10


class Alarmed(NamedTuple):
    """What the chart said of one run.

    Attributes:
        before: whether it alarmed before anything happened.
        delay: epochs that passed until it alarmed after; None if it did not.
        right: whether the first of these alarms lies on the patch.
    """

    before: bool
    delay: int | None
    right: bool


def alarmed(arm: str, seed: int, folder: Path = RUNS) -> Alarmed:
    """Replay a run of recipe A; it is trained first if it isn't there."""
    found = charted(arm, seed, Chart(), folder)
    after = [(late, one[0]) for late, one in enumerate(found[CHANGED_AT:]) if one]
    before = any(found[:CHANGED_AT])
    if not after:
        return Alarmed(before, None, False)
    delay, first = after[0]
    return Alarmed(before, delay, on_patch(first.cell, seed))


def charted(arm: str, seed: int, chart: Chart, folder: Path) -> list[list[Alarm]]:
    """The alarms of each epoch on the probes and on the stream, the largest z first."""
    simulate(folder, "A", seed, iter([arm]))
    files = (Job("A", name, seed).file(folder) for name in ("prefix", arm))
    parts: list[dict[str, Any]] = [torch.load(file, weights_only=True) for file in files]

    def cells(panel: str, labels: Tensor) -> Tensor:
        maps = torch.cat([part[panel] for part in parts]).float()
        masses = (cell_mass(one.view(-1, FINE, FINE), CELLS) for one in maps)
        pairs = zip(masses, labels, strict=True)
        return torch.stack([CellSums.of(one, own, CLASSES).groups() for one, own in pairs])

    passing = torch.cat([part["stream labels"] for part in parts]).long()
    clean = cells("clean", Data(seed).held[1][:PROBES].expand(len(passing), -1))
    both = chart.replayed(clean), chart.replayed(cells("stream", passing), clean[:, 0])
    return [
        sorted((one for panel in now for one in chart.alarms(panel)), key=lambda one: -one.z)
        for now in zip(*both, strict=True)
    ]


def on_patch(cell: int, seed: int) -> bool:
    """Whether a cell has a part of the run's patch."""
    side = SIDE // CELLS
    at = cell // CELLS * side, cell % CELLS * side
    return all(abs(a - b) < PATCH for a, b in zip(at, corner(seed), strict=True))
