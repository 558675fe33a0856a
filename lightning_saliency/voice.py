"""What the monitor says in the console: each thing once, on one rank."""

from __future__ import annotations

import logging
import warnings
from typing import Any

log = logging.getLogger("lightning.pytorch.saliency")


class SaliencyWarning(UserWarning):
    """Something about an observation that a user should know; the training goes on."""


class Voice:
    """Say things in the Trainer's way, and warn once of each."""

    def __init__(self) -> None:
        self._told: set[str] = set()

    def say(self, trainer: Any, text: str) -> None:
        """Print beside the progress bar, or log where there is none."""
        bar = trainer.progress_bar_callback
        if bar is not None and bar.is_enabled:
            bar.print(text)
        else:
            log.info(text)

    def warn(self, trainer: Any, text: str, *, about: str = "") -> None:
        """Warn of this, unless it, or something else `about` the same, was said before."""
        if self._first(about or text) and trainer.is_global_zero:
            try:
                warnings.warn(f"SaliencyMonitor: {text}", SaliencyWarning, stacklevel=2)
            except SaliencyWarning:  # where warnings are errors: it must not end a training
                log.warning("SaliencyMonitor: %s", text)

    def warn_from_thread(self, text: str, *, about: str) -> None:
        """Log this, unless it was said before: a warning on another thread reaches nobody."""
        if self._first(about):
            log.warning("SaliencyMonitor: %s", text)

    def _first(self, text: str) -> bool:
        new = text not in self._told
        self._told.add(text)
        return new
