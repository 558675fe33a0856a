"""Every method against the fastest library that has it, and all of them in one `explain`.

    python benchmarks/peers.py [--model resnet18 vit_b_16] [--batch 16] [--size 224] [--rounds 5]
        [--clock wall | cpu] [--methods …] [--suite] [--every] [--memory] [--quick]

Random weights; captum, zennit, pytorch-grad-cam and torchcam, and a loop by hand where no package
has the method. Jobs take turns; ratios are of times within a round. A peak is the most bytes of
tensors that a job has alive at once; its ratio is to the same peer.
"""

from __future__ import annotations

import argparse
import io
import sys
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import redirect_stderr
from dataclasses import dataclass, field
from functools import partial

import torch
from peer_jobs import (
    CLEAN,
    PER_CHANNEL,
    SIX,
    SUITE,
    Case,
    Job,
    alone,
    bare_gradient,
    case_of,
    methods,
    peers,
    together,
)
from timing import CLOCKS, Ratio, Seconds, median, peak, ratio, take_turns

from lightning_saliency.attribution import IntegratedGradients, Method, SmoothGrad

BARE = "bare gradient"


@dataclass(frozen=True)
class Suite:
    """Methods that run in one `explain`.

    Attributes:
        wanted: at most so much of the time of the peers.
        over_one: at most so much of the time of the gradient alone; 0 where nothing is wanted.
    """

    methods: Collection[str]
    wanted: float
    over_one: float = 0.0


SUITES = {
    "gradient and CAM suite": Suite(SUITE, 0.5),
    "suite of the clean input": Suite(CLEAN, 0.35),
    "six of the clean input": Suite(SIX, 0.35, 1.15),
}


@dataclass(frozen=True)
class Measured:
    """What was measured of jobs named ``method`` (ours) and ``method | library``."""

    seconds: Seconds
    peaks: Mapping[str, int]
    failed: Mapping[str, str] = field(default_factory=dict)

    def rivals(self, method: str) -> list[str]:
        """The jobs of its peers."""
        return [name for name in self.peaks if name.startswith(f"{method} | ")]

    def fastest(self, method: str) -> str | None:
        """The peer's job with the least time; without times, with the least memory."""
        theirs = self.rivals(method)
        key = partial(median, self.seconds) if self.seconds else self.peaks.__getitem__
        return min(theirs, key=key) if theirs else None


def jobs_of(case: Case, chosen: Iterable[str]) -> dict[str, Job]:
    """Ours and the peers' of each method, next to each other."""
    chosen = set(chosen)
    jobs: dict[str, Job] = {}
    groups = ((case, chosen - PER_CHANNEL), (case.few(), chosen & PER_CHANNEL))
    for at, names in groups:
        known, theirs = methods(at), peers(at)
        for name in filter(names.__contains__, known):
            if name in theirs:
                jobs[name] = alone(at, known[name])
                jobs |= {f"{name} | {library}": job for library, job in theirs[name].items()}
    return jobs


def suites(case: Case, chosen: Iterable[str]) -> dict[str, list[str]]:
    """Suite → the methods in it that a peer has."""
    theirs, chosen = peers(case), set(chosen)
    return {
        title: [one for one in methods(case) if one in chosen & theirs.keys() & {*suite.methods}]
        for title, suite in SUITES.items()
    }


def measured(jobs: Mapping[str, Job], rounds: int, clock: str, device: str) -> Measured:
    """Peaks, by which the jobs are warmed up, then times."""
    peaks: dict[str, int] = {}
    failed: dict[str, str] = {}
    for name, job in jobs.items():
        try:
            peaks[name] = peak(job, device)
        except Exception as error:
            failed[name] = f"{type(error).__name__}: {error}".splitlines()[0]
    running = {name: partial(_finished, jobs[name], device) for name in peaks}
    seconds = take_turns(running, rounds, clock, warm=True) if rounds else {}
    return Measured(seconds, peaks, failed)


def _finished(job: Job, device: str) -> None:
    job()
    if device == "cuda":
        torch.cuda.synchronize()


def table(found: Measured, every: bool) -> None:
    """One line per method; with `every`, one per peer besides."""
    print(
        f"{'method':<26}{'ours':>9}{'fastest peer':>22}{'ratio (quartiles)':>24}  "
        f"{'peak':>11}{'ratio':>7}"
    )
    for name in found.peaks:
        rival = found.fastest(name)
        if " | " in name or rival is None:
            continue
        library = rival.split(" | ")[1]
        timed = (f"{'':>9}", f"{library:>22}", f"{'':>24}  ")
        if found.seconds:
            quotient = ratio(found.seconds, [name], [rival])
            theirs = f"{library} {median(found.seconds, rival):.3f} s"
            own = f"{median(found.seconds, name):.3f} s"
            timed = (f"{own:>9}", f"{theirs:>22}", f"{quotient!s:>24}{_mark(quotient)}")
        share = found.peaks[name] / found.peaks[rival]
        size = f"{found.peaks[name] / 2**20:.1f} MiB"
        few = "  *" if name in PER_CHANNEL else ""
        print(f"{name:<26}{''.join(timed)}{size:>11}{share:>7.2f}{_mark(share)}{few}")
        for one in found.rivals(name) if every else ():
            time = f"{median(found.seconds, one):.3f} s" if found.seconds else ""
            size = f"{found.peaks[one] / 2**20:.1f} MiB"
            print(f"{'':<35}{one.split(' | ')[1]:>12} {time:>9}{'':>26}{size:>11}")
    for name, why in found.failed.items():
        print(f"{name}: {why}", file=sys.stderr)


def summary(found: Measured, groups: Mapping[str, list[str]]) -> None:
    """The suites against their peers one by one, and what sharing costs."""
    lines: list[tuple[str, Ratio, float]] = []
    for title, names in groups.items():
        rivals = [rival for rival in map(found.fastest, names) if rival is not None]
        if title not in found.seconds or not rivals:
            continue
        words = f"{title}, {len(names)} methods in one explain"
        print(f"{words:<69}{median(found.seconds, title):>9.3f} s")
        quotient = ratio(found.seconds, [title], rivals)
        lines.append((f"{words} ÷ the fastest peers, added up", quotient, SUITES[title].wanted))
        if "saliency" in names and "saliency" in found.seconds:
            quotient = ratio(found.seconds, [title], ["saliency"])
            lines.append((f"{words} ÷ saliency alone", quotient, SUITES[title].over_one))
    if BARE in found.seconds:
        print(f"{BARE:<69}{median(found.seconds, BARE):>9.3f} s")
    if "saliency" in found.seconds:
        quotient = ratio(found.seconds, ["saliency"], [BARE])
        lines.append(("saliency by explain ÷ bare forward and gradient", quotient, 1.05))
    print()
    for words, quotient, wanted in lines:
        goal = f"{_mark(quotient, wanted)} ≤ {wanted}" if wanted else ""
        print(f"{words:<92}{quotient!s:>24}{goal}")


def long_ones(case: Case, device: str) -> None:
    """Memory that doesn't grow with the samples."""
    few = case.few()
    many: dict[str, tuple[Method, Method]] = {
        "SmoothGrad of 64": (SmoothGrad(samples=64), SmoothGrad(samples=2)),
        "IntegratedGradients of 128": (
            IntegratedGradients(steps=128),
            IntegratedGradients(steps=2),
        ),
    }
    for words, (long, short) in many.items():
        share = peak(alone(few, long), device) / peak(alone(few, short), device)
        print(f"{f'peak of {words} ÷ of 2':<92}{share:>24.3f}{_mark(share)} ≤ 1")


def _mark(value: float | Ratio, wanted: float = 1.0) -> str:
    """✓ what was wanted, to the two digits that are printed; ≈ within the quartiles; ✗ neither."""
    middle, low = (value.median, value.low) if isinstance(value, Ratio) else (value, value)
    if round(middle, 2) <= wanted:
        return " ✓"
    return " ≈" if round(low, 2) <= wanted else " ✗"


def compare(given: argparse.Namespace, model: str) -> bool:
    """Print the tables of a model, and tell whether all of our methods ran."""
    case = case_of(model, given.batch, given.size, given.samples, given.device)
    known = set(methods(case)) - (PER_CHANNEL if case.grid else set())
    chosen = known & set(given.methods) if given.methods else known
    groups = suites(case, chosen)
    if given.suite:
        chosen &= {name for names in groups.values() for name in names}
    jobs: dict[str, Job] = {BARE: partial(bare_gradient, case)} | jobs_of(case, chosen)
    for title, names in groups.items():
        if len(names) > 1:
            jobs[title] = together(case, {name: methods(case)[name] for name in names})
    rounds = 0 if given.memory else given.rounds
    print(
        f"\n{model}, {given.batch} × 3 × {given.size}², samples: {given.samples}, "
        f"{given.threads} thread(s), {given.device}, {rounds} rounds, {given.clock} time, "
        f"torch {torch.__version__}\n"
    )
    with redirect_stderr(io.StringIO()):  # the peers' progress
        found = measured(jobs, rounds, given.clock, given.device)
    table(found, given.every)
    if chosen & PER_CHANNEL:
        few = case.few().inputs
        print(f"* of {len(few)} × 3 × {few.shape[-1]}²: a pass per channel")
    summary(found, groups)
    if given.memory or not case.grid:  # minutes for a transformer, which has nothing else to show
        long_ones(case, given.device)
    return all(" | " in name for name in found.failed)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    add: Callable[..., object] = parser.add_argument
    models = ("resnet18", "vit_b_16")
    add("--model", nargs="+", choices=models, default=models)
    add("--batch", type=int, default=16, help="probes")
    add("--size", type=int, default=224, help="pixels on a side")
    add("--samples", type=int, default=4, help="of the methods that sample, on both sides")
    add("--rounds", type=int, default=5)
    add("--threads", type=int, default=1)
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--clock", choices=CLOCKS, default="wall", help="cpu: on a busy machine")
    add("--methods", nargs="+", metavar="NAME", help="only these")
    add("--suite", action="store_true", help="only the methods of the gradient and CAM suite")
    add("--every", action="store_true", help="every peer, beside the fastest")
    add("--memory", action="store_true", help="peaks, without times")
    add("--quick", action="store_true", help="few small probes: two minutes")
    given = parser.parse_args()
    if given.quick:
        given.samples, given.rounds = 2, 2
    torch.set_num_threads(given.threads)
    warnings.simplefilter("ignore")  # of the peers, and of the profiler
    well = True
    for model in given.model:
        if given.quick:
            given.batch, given.size = (4, 96) if model == "resnet18" else (2, 64)
        well &= compare(given, model)
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
