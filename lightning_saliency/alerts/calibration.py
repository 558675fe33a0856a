"""Calibration: which threshold gives the wanted rate of false alarms, from runs that were fine.

Exact and without an assumption on how z is distributed: thresholds are order statistics of the
runs' largest z, and the true rate at such a threshold has a beta distribution (Wilks 1941).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from lightning_saliency.errors import ConfigurationError


@dataclass(frozen=True)
class Calibration:
    """What n runs tell of the threshold.

    Attributes:
        rate: wanted share of runs without a shortcut that alarm nevertheless, above 0, below 1.
        highest: the largest z that each run ever counted, 0 where it counted none; sorted.
    """

    rate: float
    highest: tuple[float, ...]

    @classmethod
    def of(cls, found: Sequence[float], rate: float) -> Calibration:
        """The calibration of these runs.

        Raises:
            ConfigurationError: no runs, or a rate outside 0..1.
        """
        if not found:
            raise ConfigurationError("There is no run to calibrate with.")
        if not 0 < rate < 1:
            raise ConfigurationError(f"rate={rate}: give a share of runs above 0 and below 1.")
        return cls(rate, tuple(sorted(found)))

    @property
    def allowed(self) -> int:
        """Of these runs, how many lie above a threshold that keeps the wanted rate on average."""
        count = len(self.highest)
        return min(math.floor((count + 1) * self.rate + 1e-9), count) - 1

    @property
    def enough(self) -> bool:
        """Whether so many runs can vouch for the wanted rate."""
        return self.allowed >= 0

    @property
    def smallest(self) -> float:
        """The smallest rate that so many runs can vouch for."""
        return 1 / (len(self.highest) + 1)

    @property
    def threshold(self) -> float:
        """The smallest of the runs' values above which a new run lies at the wanted rate at most.

        The largest of all where the runs are too few.
        """
        return self.highest[-1 - max(self.allowed, 0)]

    @property
    def shown(self) -> float:
        """The threshold to two digits, never below it: its own run would alarm."""
        return math.ceil(self.threshold * 100) / 100

    def bounds(self, share: float = 0.95) -> tuple[float, float]:
        """Where the threshold of the wanted rate lies with this probability at least.

        How many of n runs lie above it is binomial, so that two of their values enclose it. 0 or
        infinite where no value bounds it: above, that takes log(tail) ÷ log(1 − rate) runs.
        """
        tail, count = (1 - share) / 2, len(self.highest)
        above = _binomial_tails(count, self.rate)
        low = next((at for at in range(count) if above[at + 1] <= tail), None)
        high = next((at for at in range(count, 0, -1) if above[at] >= 1 - tail), None)
        return (
            0.0 if low is None else self.highest[-1 - low],
            math.inf if high is None else self.highest[-high],
        )

    def interval(self, share: float = 0.95) -> tuple[float, float]:
        """Where the rate at the threshold lies with this probability: Beta(k + 1, n − k).

        Or below it, where several runs have the same value, such as 0.
        """
        above, count = max(self.allowed, 0), len(self.highest)
        tail = (1 - share) / 2
        return (
            _beta_quantile(above + 1, count - above, tail),
            _beta_quantile(above + 1, count - above, 1 - tail),
        )

    def table(self) -> str:
        """All of it in Markdown."""
        (low, high), (least, most) = self.interval(), self.bounds()
        vouched = (max(self.allowed, 0) + 1) * self.smallest
        upper = "no upper bound" if math.isinf(most) else f"{most:.2f}"
        rows = [
            ("runs", f"{len(self.highest)}"),
            ("largest z of a run: median", f"{statistics.median(self.highest):.2f}"),
            ("largest z of all", f"{self.highest[-1]:.2f}"),
            ("wanted rate of false alarms", f"{self.rate:.1%} of runs"),
            ("threshold", f"**{self.shown:.2f}**"),
            ("95 % interval of the threshold for the wanted rate", f"{least:.2f} to {upper}"),
            ("rate at this threshold, on average", f"{vouched:.1%} of runs at most"),
            ("95 % interval of that rate", f"{low:.1%} to {high:.1%}"),
        ]
        lines = ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)]
        return "\n".join([*lines, *(f"\n{caveat}" for caveat in self._caveats())])

    def _caveats(self) -> list[str]:
        found = []
        if not self.enough:
            needed = math.ceil(1 / self.rate - 1e-9) - 1
            found.append(
                f"So few runs can't vouch for {self.rate:.1%}: the largest of them keeps "
                f"{self.smallest:.1%}. Bring {needed} runs or more."
            )
        if self.threshold == 0:
            found.append(
                "In so many of these runs no cell grew by the chart's ratio at all that any "
                "threshold above 0 keeps that rate: they are no reason to change yours."
            )
        return found


def _beta_quantile(a: int, b: int, share: float) -> float:
    """Of Beta(a, b) with whole a and b, by its binomial sum; SciPy is no dependency."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if _beta_share(a, b, middle) < share:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _beta_share(a: int, b: int, x: float) -> float:
    """P(Beta(a, b) ≤ x) = P(Bin(a + b − 1, x) ≥ a)."""
    return _binomial_tails(a + b - 1, x)[a]


def _binomial_tails(n: int, share: float) -> list[float]:
    """P(Bin(n, share) ≥ k) for k of 0 … n, of a share above 0 and below 1."""
    logs = (
        math.lgamma(n + 1)
        - math.lgamma(k + 1)
        - math.lgamma(n - k + 1)
        + k * math.log(share)
        + (n - k) * math.log1p(-share)
        for k in range(n, -1, -1)
    )
    return list(accumulate(map(math.exp, logs)))[::-1]
