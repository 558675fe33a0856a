"""The record: a versioned series in a run's own event file, and how it is read back.

The whole history of a run's maps: the probes once, and of every observation the maps as compressed
bytes, the numbers, the predictions and what happened. Read it with `read`; neither torch nor
lightning is imported for that.
"""

from __future__ import annotations

from lightning_saliency.record.format import PLUGIN, VERSION, Mark
from lightning_saliency.record.history import History, Run, read, runs
from lightning_saliency.record.probes import ProbeSheet
from lightning_saliency.record.versions import NewerRecordError, RecordError

__all__ = [
    "PLUGIN",
    "VERSION",
    "History",
    "Mark",
    "NewerRecordError",
    "ProbeSheet",
    "RecordError",
    "Run",
    "read",
    "runs",
]
