"""How often a region alert is right, and how often it is false: the power study of the chart.

    python benchmarks/alert_power.py [--folder FOLDER] [--write docs/tables/alert_power.md]

Replays the runs of `alert_runs` on the chart as it is shipped, `Chart()`, and trains those that
aren't there yet: a minute per seed and recipe. Two panels: examples of the training as they pass,
together and by class, held against the probes; and the held-out probes, together. The setting was
chosen on the first set of seeds alone. The others are for confirmation and never pooled with it.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from scipy.stats import beta
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from alert_runs import (
    ARMS,
    BENIGN,
    CHANGED_AT,
    FINE,
    PLANTED,
    PROBES,
    RECIPES,
    Data,
    Job,
    corner,
    simulate,
)

from examples.decoy_digits import PATCH, SIDE
from lightning_saliency.alerts import Alerts
from lightning_saliency.alerts.cells import CellSums, cell_mass
from lightning_saliency.alerts.chart import Alarm

CLASSES = 10
SETS = {"choice": range(8), "confirmation": range(8, 26), "second confirmation": range(26, 46)}
"""Which seeds the setting was chosen on, and on which it was tried afterwards."""


@dataclass(frozen=True)
class Told:
    """What the chart said of one run.

    Attributes:
        early: whether it alarmed before anything happened.
        delay: observations until it alarmed after, 1 for the first; None if it did not.
        panel: whose alarm it was.
        right: whether the largest z of the first alarm lies where the patch was in training.
        strict: the same without the shifts of the recipe.
        largest: the largest z after the change that the mass's growth lets count.
        clean: accuracy on held-out digits at the end.
        lying: accuracy on the same with a patch that says nothing about them.
    """

    early: bool
    delay: int | None
    panel: str
    right: bool
    strict: bool
    largest: float
    clean: float
    lying: float


def groups(masses: Tensor, labels: Tensor, cells: int) -> Tensor:
    """The shares of each observation `(T, N, 196)` in the groups of a chart, `(T, 1 + K, C)`."""
    maps = masses.float().view(*masses.shape[:2], FINE, FINE)
    rows = zip(maps, labels, strict=True)
    return torch.stack(
        [CellSums.of(cell_mass(one, cells), own, CLASSES).groups() for one, own in rows]
    )


def panels(job: Job, folder: Path, alerts: Alerts) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The cells of the probes and of the stream over a whole run, and what else was kept of it."""
    simulate(folder, job.recipe, job.seed, iter([job.arm]))
    files = (Job(job.recipe, name, job.seed).file(folder) for name in ("prefix", job.arm))
    parts = [torch.load(file, weights_only=True) for file in files]
    whole = {name: torch.cat([part[name] for part in parts]) for name in ("clean", "stream")}
    passed = torch.cat([part["stream labels"] for part in parts]).long()
    known = Data(job.seed).held[1][:PROBES].expand(len(passed), -1)
    few = alerts.stream
    cells = {
        # Of one class there are too few held-out probes for a chart of its own.
        "probes": groups(whole["clean"], known, alerts.cells)[:, :1],
        "stream": groups(whole["stream"][:, :few], passed[:, :few], alerts.cells),
    }
    return cells, parts[-1]


def told(job: Job, folder: Path, alerts: Alerts) -> Told:
    """Replay one run as `lightning_saliency.alerting` charts it."""
    cells, end = panels(job, folder, alerts)
    chart = alerts.chart
    controls = {"probes": None, "stream": cells["probes"][:, 0]}
    read = {name: list(chart.replayed(one, controls[name])) for name, one in cells.items()}
    found: list[list[tuple[Alarm, str]]] = [
        sorted(
            ((alarm, name) for name, seen in read.items() for alarm in chart.alarms(seen[when])),
            key=lambda one: -one[0].z,
        )
        for when in range(len(end["accuracy"]) + CHANGED_AT)
    ]
    later = [(when, one[0]) for when, one in enumerate(found[CHANGED_AT:], 1) if one]
    delay, (first, panel) = later[0] if later else (None, (Alarm(0, 0, 0, 0), ""))
    counted = [
        float(chart.counted(one).amax()) for seen in read.values() for one in seen[CHANGED_AT:]
    ]
    reach = RECIPES[job.recipe].shift
    return Told(
        any(found[:CHANGED_AT]),
        delay,
        panel,
        bool(later) and on_patch(first.cell, job.seed, alerts.cells, reach),
        bool(later) and on_patch(first.cell, job.seed, alerts.cells, 0),
        max(counted),
        *end["accuracy"][-1].tolist(),
    )


def on_patch(cell: int, seed: int, cells: int, reach: int) -> bool:
    """Whether a cell has a part of the run's patch, moved by up to `reach` pixels."""
    side = SIDE / cells
    at = cell // cells * side, cell % cells * side
    return all(
        low < start + PATCH + reach and low + side > start - reach
        for low, start in zip(at, corner(seed), strict=True)
    )


def interval(found: int, of: int) -> tuple[float, float]:
    """Clopper–Pearson, 95 %."""
    low = float(beta.ppf(0.025, found, of - found + 1)) if found else 0.0
    high = float(beta.ppf(0.975, found + 1, of - found)) if found < of else 1.0
    return low, high


def share(found: int, of: int) -> str:
    """A count with its interval."""
    low, high = interval(found, of)
    return f"{found}/{of} ({low:.0%}–{high:.0%})"


Runs = dict[Job, Told]


def replayed(folder: Path, alerts: Alerts, seeds: Sequence[int]) -> Runs:
    """All runs of these seeds."""
    found: Runs = {}
    for seed in seeds:
        for recipe in RECIPES:
            jobs = [Job(recipe, arm, seed) for arm in ARMS]
            found |= {job: told(job, folder, alerts) for job in jobs}
        print(f"seed {seed}", file=sys.stderr)
    return found


def false_alarm(job: Job, one: Told) -> bool:
    """Whether a run in which no evidence was planted alarmed at all."""
    return job.arm not in PLANTED and (one.early or one.delay is not None)


def planted_rows(runs: Runs) -> Iterator[str]:
    """A row per recipe and planted arm."""
    yield (
        "| recipe | planted | found | in the right cell | median delay, longest "
        "| missed: accuracy on clean digits/with a patch that lies (largest z) |"
    )
    yield "|---|---|---|---|---|---|"
    for recipe in RECIPES:
        for arms in (*((arm,) for arm in PLANTED), PLANTED):
            own = [one for job, one in runs.items() if job.recipe == recipe and job.arm in arms]
            delays = [one.delay for one in own if one.delay is not None]
            missed = [one for one in own if one.delay is None]
            right = sum(one.right for one in own)
            strict = sum(one.strict for one in own)
            narrow = "" if strict == right else f"; {strict} unless shifted"
            late = f"{statistics.median(delays):g}, {max(delays)}" if delays else "–"
            why = "see above" if len(arms) > 1 else misses(missed)
            name = "all" if len(arms) > 1 else arms[0]
            yield (
                f"| {recipe} | {name} | {share(len(delays), len(own))} | "
                f"{share(right, len(delays)) if delays else '–'}{narrow} | {late} | {why} |"
            )


def misses(missed: Sequence[Told]) -> str:
    """What each missed run's model makes of the patch, and how near it came to an alarm."""
    rows = sorted((one.clean, one.lying, one.largest) for one in missed)
    return ", ".join(f"{clean:.0%}/{lying:.0%} ({z:.1f})" for clean, lying, z in rows) or "none"


def quiet_rows(runs: Runs) -> Iterator[str]:
    """A row per arm in which nothing was planted."""
    yield "| nothing planted | A: runs with an alarm | its largest z | B: runs | its largest z |"
    yield "|---|---|---|---|---|"
    for arm in ("null", *BENIGN):
        cells = []
        for recipe in RECIPES:
            own = {job: one for job, one in runs.items() if (job.recipe, job.arm) == (recipe, arm)}
            wrong = sum(false_alarm(job, one) for job, one in own.items())
            cells.append(f"{wrong}/{len(own)} | {max(one.largest for one in own.values()):.1f}")
        yield f"| {arm} | {' | '.join(cells)} |"


def summary(runs: Runs) -> Iterator[str]:
    """The rate of false alarms over all of them."""
    quiet = {job: one for job, one in runs.items() if job.arm not in PLANTED}
    wrong = [job for job, one in quiet.items() if false_alarm(job, one)]
    early = {(job.recipe, job.seed) for job, one in runs.items() if one.early}
    shared = len({(job.recipe, job.seed) for job in runs})
    high = interval(len(wrong), len(quiet))[1]
    yield (
        f"False-alarm runs: **{len(wrong)} of {len(quiet)}** ({len(wrong) / len(quiet):.1%}, upper "
        f"95 % bound {high:.1%}). Before the change: {len(early)} of {shared} beginnings, which "
        "the arms of one recipe and seed share."
    )


def report(runs: Runs, name: str, seeds: Sequence[int]) -> str:
    """One set of seeds in Markdown."""
    title = f"**{name.capitalize()}: seeds {seeds[0]} to {seeds[-1]}**"
    parts = ["\n".join(planted_rows(runs)), "\n".join(quiet_rows(runs)), *summary(runs)]
    return "\n\n".join([title, *parts])


def setting(alerts: Alerts) -> str:
    """What was tried."""
    chart = alerts.chart
    return (
        f"{PROBES} held-out probes, charted together, and {alerts.stream} examples of the "
        "training, drawn anew for each observation, held against the probes, charted together and "
        f"by class; {alerts.cells}×{alerts.cells} cells; `{chart}`. Something happens at "
        f"observation {CHANGED_AT}; the delay counts from there, 1 for the first observation after "
        "it. Intervals are Clopper–Pearson, 95 %; the arms of one recipe and seed share their "
        "first epochs. The setting was chosen on the first set of seeds. The confirmation set had "
        "been replayed before with an earlier setting (threshold 5.5, no probes); "
        "of the second no earlier replay is known."
    )


def main() -> None:
    """Replay and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("runs/alert_power"))
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--stream", type=int, default=PROBES, help="examples watched, at most 256")
    parser.add_argument("--write", type=Path, help="a file for the tables, besides the console")
    given = parser.parse_args()
    torch.set_num_threads(1)
    alerts = Alerts(stream=given.stream)
    sets = {name: replayed(given.folder, alerts, SETS[name]) for name in given.sets}
    parts = [setting(alerts), *(report(one, name, SETS[name]) for name, one in sets.items())]
    text = "\n\n".join(parts) + "\n"
    print(text)
    if given.write:
        given.write.parent.mkdir(parents=True, exist_ok=True)
        given.write.write_text(text)


if __name__ == "__main__":
    main()
