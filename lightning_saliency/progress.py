"""Say that a long observation is under way, in the Trainer's own way of saying things."""

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
