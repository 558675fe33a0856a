"""How often a region alert is right, and how often it is false: the power study of the chart.

    python benchmarks/alert_power.py [--folder FOLDER] [--write docs/tables/alert_power.md]

Replays the runs of `alert_runs` on the chart as it is shipped, `Chart()`, and trains those that
aren't there yet: a minute per seed and recipe. Two panels: examples of the training as they pass,
together and by class, held against the probes; and the held-out probes, together. Each alarm on the
patch is followed by the intervention, as in a fit. The setting was chosen on the first set of seeds
alone. The others are for confirmation and never pooled with it.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from scipy.stats import beta
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from alert_runs import (
    ARMS,
    BENIGN,
    CHANGED_AT,
    PLANTED,
    PROBES,
    RECIPES,
    SIZES,
    Data,
    Job,
    corner,
    epoch_of,
    network,
    simulate,
    stream_panel,
)

from examples.decoy_digits import PATCH, SIDE
from lightning_saliency.alerts import Chart
from lightning_saliency.alerts.cells import CELLS, cell_mask
from lightning_saliency.alerts.chart import Alarm
from lightning_saliency.attribution import Subject
from lightning_saliency.intervention import SIGNIFICANT, intervene

SETS = {"confirmation": range(46, 66), "choice": range(14)}
"""Which seeds the setting was chosen on, and on which it was tried afterwards."""
GRID = (CELLS, CELLS)


@dataclass(frozen=True)
class Told:
    """What the chart said of one run.

    Attributes:
        early: whether it alarmed before anything happened.
        delay: observations until it alarmed after, 1 for the first; None if it did not.
        right: whether the largest z of the first alarm lies where the patch was in training.
        strict: the same without the shifts of the recipe.
        p: of the intervention after that alarm; None where it was not made.
        largest: the largest z after the change that the mass's growth lets count.
        clean: accuracy on held-out digits at the end.
        lying: accuracy on the same with a patch that says nothing about them.
    """

    early: bool
    delay: int | None
    right: bool
    strict: bool
    p: float | None
    largest: float
    clean: float
    lying: float


def parts_of(job: Job, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What was kept of a run before the change and after it; trained where it isn't there."""
    simulate(folder, job.recipe, job.seed, iter([job.arm]))
    files = (Job(job.recipe, name, job.seed).file(folder) for name in ("prefix", job.arm))
    before, after = (torch.load(file, weights_only=True) for file in files)
    return before, after


def told(job: Job, folder: Path, chart: Chart, size: int) -> Told:
    """Replay one run as `lightning_saliency.alerting` charts it."""
    before, after = parts_of(job, folder)
    cells = {
        panel: torch.cat([part[f"{panel} {size}"] for part in (before, after)]).float()
        for panel in ("probes", "stream")
    }
    controls = {"probes": None, "stream": cells["probes"][:, 0]}
    read = {name: list(chart.replayed(one, controls[name])) for name, one in cells.items()}
    # Of all alarms of one observation the largest z leads; its panel's others go with it.
    found = [
        max(((chart.alarms(seen[when]), name) for name, seen in read.items()), key=_largest)
        for when in range(len(cells["probes"]))
    ]
    later = [(when, *one) for when, one in enumerate(found[CHANGED_AT:]) if one[0]]
    counted = [
        float(chart.counted(one).amax()) for seen in read.values() for one in seen[CHANGED_AT:]
    ]
    when, alarms, panel = later[0] if later else (0, (Alarm(0, 0, 0, 0),), "")
    reach = RECIPES[job.recipe].shift
    right = bool(later) and on_patch(alarms[0].cell, job.seed, reach)
    p = None
    if right and job.arm in PLANTED and when < len(after["weights"]):
        p = intervened(job, after["weights"][when], CHANGED_AT + when, panel, alarms, size)
    return Told(
        any(alarms for alarms, _ in found[:CHANGED_AT]),
        when + 1 if later else None,
        right,
        bool(later) and on_patch(alarms[0].cell, job.seed, 0),
        p,
        max(counted),
        *after["accuracy"][-1].tolist(),
    )


def _largest(found: tuple[tuple[Alarm, ...], str]) -> float:
    alarms, _ = found
    return alarms[0].z if alarms else 0.0


def intervened(
    job: Job, weights: Tensor, epoch: int, panel: str, alarms: Sequence[Alarm], size: int
) -> float:
    """The p of the intervention that an alarm is followed by, as in a fit."""
    net = network(job.seed)
    nn.utils.vector_to_parameters(weights.float(), net.parameters())
    data = Data(job.seed)
    passing = epoch_of(*data.training(job.arm), job.seed, epoch, RECIPES[job.recipe].shift)
    images, labels = (one[:size] for one in stream_panel(*passing, job.seed, epoch))
    held, known = (one[:size] for one in data.held)
    inputs, classes = (images, labels) if panel == "stream" else (held, known)
    own = labels == alarms[0].group - 1
    donors = (images[own], labels[own]) if own.any() else (images, labels)
    cells = [one.cell for one in alarms]
    others = [cell for cell in range(CELLS**2) if cell not in cells]
    with torch.no_grad():
        found = intervene(
            Subject(net),
            inputs,
            classes,
            cell_mask((SIDE, SIDE), GRID, cells),
            donors=donors,
            ordinary=[
                cell_mask((SIDE, SIDE), GRID, [cell])
                for cell in random.Random(job.seed).sample(others, 8)
            ],
            seed=job.seed,
        )
    return found.p


def on_patch(cell: int, seed: int, reach: int) -> bool:
    """Whether a cell has a part of the run's patch, moved by up to `reach` pixels."""
    side = SIDE / CELLS
    at = cell // CELLS * side, cell % CELLS * side
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


def replayed(folder: Path, chart: Chart, size: int, seeds: Sequence[int]) -> Runs:
    """All runs of these seeds."""
    found: Runs = {}
    for seed in seeds:
        for recipe in RECIPES:
            jobs = [Job(recipe, arm, seed) for arm in ARMS]
            found |= {job: told(job, folder, chart, size) for job in jobs}
    return found


def false_alarm(job: Job, one: Told) -> bool:
    """Whether a run in which no evidence was planted alarmed at all."""
    return job.arm not in PLANTED and (one.early or one.delay is not None)


def planted_rows(runs: Runs) -> Iterator[str]:
    """A row per recipe and planted arm."""
    yield (
        "| recipe | planted | found | in the right cell | median delay, longest | intervention: "
        "p < 0.01 | missed: accuracy on clean digits/with a patch that lies (largest z) |"
    )
    yield "|---|---|---|---|---|---|---|"
    for recipe in RECIPES:
        for arms in (*((arm,) for arm in PLANTED), PLANTED):
            own = [one for job, one in runs.items() if job.recipe == recipe and job.arm in arms]
            delays = [one.delay for one in own if one.delay is not None]
            missed = [one for one in own if one.delay is None]
            right = sum(one.right for one in own)
            strict = sum(one.strict for one in own)
            narrow = "" if strict == right else f"; {strict} unless shifted"
            late = f"{statistics.median(delays):g}, {max(delays)}" if delays else "–"
            p = [one.p for one in own if one.p is not None]
            sure = f"{sum(one < SIGNIFICANT for one in p)}/{len(p)}" if p else "–"
            why = "see above" if len(arms) > 1 else misses(missed)
            name = "all" if len(arms) > 1 else arms[0]
            place = share(right, len(delays)) if delays else "–"
            yield (
                f"| {recipe} | {name} | {share(len(delays), len(own))} | {place}{narrow} | {late} "
                f"| {sure} | {why} |"
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


def setting(chart: Chart, size: int) -> str:
    """What was tried."""
    return (
        f"{size} held-out probes, charted together, and {size} examples of the training, drawn "
        "anew for each observation, held against the probes, charted together and by class; "
        f"{CELLS}×{CELLS} cells; `{chart}`. Something happens at observation {CHANGED_AT}; the "
        "delay counts from there, 1 for the first observation after it. The intervention follows "
        "each first alarm on the patch. Intervals are Clopper–Pearson, 95 %; the arms of one "
        "recipe and seed share their first epochs. The setting was chosen on the first set of "
        "seeds; the confirmation was run once, after that."
    )


def main() -> None:
    """Replay and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("runs/alert_power"))
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--sizes", nargs="+", type=int, choices=SIZES, default=[PROBES, SIZES[0]])
    parser.add_argument("--write", type=Path, help="a file for the tables, besides the console")
    given = parser.parse_args()
    torch.set_num_threads(1)
    chart, parts = Chart(), []
    for name in given.sets:
        for size in given.sizes:
            runs = replayed(given.folder, chart, size, SETS[name])
            parts.append(f"{setting(chart, size)}\n\n{report(runs, name, SETS[name])}\n")
            print(f"{name}: {size}", file=sys.stderr)
    text = "\n-----\n\n".join(parts)  # each may stand alone on a page
    print(text)
    if given.write:
        given.write.parent.mkdir(parents=True, exist_ok=True)
        given.write.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
