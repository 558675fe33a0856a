"""What observations cost in time: told while they run, and counted afterwards."""

from __future__ import annotations

import time
from typing import Any

from tqdm.auto import tqdm

PATIENCE = 2.0
"""Seconds before anything is said."""


class Progress:
    """Call it with the passes done and their number, inside a `with` block.

    Under the tqdm progress bar a bar of our own appears below it and goes away; under any other one
    a line is printed; nothing is said of an observation shorter than `PATIENCE`, or where the
    user switched the progress bar off.
    """

    def __init__(self, trainer: Any, label: str) -> None:
        bar = trainer.progress_bar_callback
        self._parent = bar if bar is not None and bar.is_enabled else None
        self._below = any(kind.__name__ == "TQDMProgressBar" for kind in type(bar).__mro__)
        self._label = label
        self._bar: Any = None
        self._begun = time.monotonic()
        self._told = False

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def __call__(self, done: int, total: int) -> None:
        """Tell that `done` of `total` passes over single probes are done."""
        if self._parent is None or time.monotonic() - self._begun < PATIENCE:
            return
        if self._below:
            if self._bar is None:
                self._bar = tqdm(
                    total=total, desc=f"Saliency, {self._label}", leave=False, position=2
                )
            self._bar.update(done - self._bar.n)
        elif not self._told:
            self._told = True
            self._parent.print(
                f"SaliencyMonitor looks at {self._label}: {total} passes of a probe …"
            )


class Overhead:
    """The clock of a fit: what share of it observations took."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self._seconds = 0.0
        self._latest = 0.0

    def affords(self, budget: float) -> bool:
        """Whether one more observation like the latest, and a last one, stay within a budget.

        Time that the device still spends on the validation before counts as ours here: the budget
        is kept rather too well than not.

        Args:
            budget: share of the time since the fit's start, 0 to 1.
        """
        return self._seconds + 2 * self._latest <= budget * (time.perf_counter() - self._started)

    def add(self, seconds: float) -> None:
        """Count time that the latest observation took after its numbers were taken."""
        self._latest += seconds
        self._seconds += seconds

    def since(self, begun: float, failures: int) -> dict[str, float]:
        """Add an observation that began at `begun` (`time.perf_counter`) and ends now.

        Returns:
            Its ``seconds``, and the ``overhead``: the share of the time since the fit's start that
            all observations took together, 0 to 1; and the number of ``failures`` as it was given.
        """
        now = time.perf_counter()
        self._latest = now - begun
        self._seconds += self._latest
        whole = max(now - self._started, self._seconds)
        return {
            "seconds": now - begun,
            "overhead": self._seconds / whole,
            "failures": float(failures),
        }
