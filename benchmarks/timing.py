"""Times of jobs that take turns in one process: their ratios survive a busy machine.

What slows the machine slows the jobs of one round alike. So a ratio is taken within each round, and
of these the median and the quartiles are reported.
"""

from __future__ import annotations

import itertools
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler tells of each start and stop

Seconds = Mapping[str, Sequence[float]]
"""Job → seconds, one per round."""


@dataclass(frozen=True)
class Ratio:
    """The median of a ratio over rounds, and the quartiles around it."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"


CLOCKS: Mapping[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}
"""``cpu`` is the work of all threads: for one thread on a machine that others keep busy."""


def take_turns(
    jobs: Mapping[str, Callable[[], object]], rounds: int, clock: str = "wall", warm: bool = False
) -> dict[str, list[float]]:
    """Seconds of each job in each round, after one round that isn't counted unless they are `warm`.

    Every other round runs backwards, so that no job always follows the same one.
    """
    now = CLOCKS[clock]
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for number in range(warm, rounds + 1):
        for name in reversed(list(jobs)) if number % 2 else jobs:
            begun = now()
            jobs[name]()
            if number:
                seconds[name].append(now() - begun)
    return seconds


def peak(job: Callable[[], object], device: str = "cpu") -> int:
    """The most bytes of tensors alive at once, of those that a job makes."""
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        job()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as record:
        kept = job()
    del kept
    profiler: Any = record.profiler
    events = profiler.kineto_results.events()
    sizes: list[int] = [one.nbytes() for one in events if one.name() == "[memory]"]
    return max(itertools.accumulate(sizes))


def ratio(seconds: Seconds, above: Sequence[str], below: Sequence[str]) -> Ratio:
    """The time of all jobs `above` together ÷ that of all jobs `below`."""
    rounds = range(len(seconds[above[0]]))
    ratios = [
        sum(seconds[name][number] for name in above) / sum(seconds[name][number] for name in below)
        for number in rounds
    ]
    low, median, high = (
        statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
    )
    return Ratio(median, low, high)


def median(seconds: Seconds, name: str) -> float:
    """The median time of a job, in seconds."""
    return statistics.median(seconds[name])
