"""Run a cell twice, and say what the monitor left."""

from __future__ import annotations

import json
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from harmless_cells import Cell
from harmless_setups import setup_of
from lightning.pytorch import Callback
from twin_nets import Images
from twin_runs import Setup, Trace, gaps, run

from lightning_saliency import SaliencyMonitor, SaliencyWarning
from lightning_saliency.attribution import MethodName
from lightning_saliency.probes import Probes

METHODS: tuple[MethodName, ...] = ("saliency", "smooth_grad", "grad_cam")
LOOKED = {f"saliency/{name}/entropy" for name in METHODS} | {"saliency/failures"}
"""What is in the log of a monitor that looked."""

PROBES = 5


@dataclass(frozen=True)
class Result:
    """What became of a cell.

    Attributes:
        cell: its name.
        gaps: what differs → max |Δ|.
        observed: whether the maps of all methods were in the log at the end.
        failures: as the monitor counts them.
        off: why the monitor says that it looks at nothing, if it does.
        error: what raised, in which of the two runs.
        seconds: that both runs took.
    """

    cell: str
    gaps: dict[str, float] = field(default_factory=dict)
    observed: bool = False
    failures: float = 0.0
    off: str = ""
    error: str = ""
    seconds: float = 0.0

    @property
    def verdict(self) -> str:
        """One word; ``same`` and ``off`` are the good ones."""
        if self.error:
            return "hung" if self.error.startswith("no answer") else "raised"
        if self.gaps:
            return "differs"
        if self.off:
            return "off"
        return "same" if self.observed and not self.failures else "blind"

    @property
    def largest(self) -> float:
        return max(self.gaps.values(), default=0.0)

    def line(self) -> str:
        """As JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def of_line(cls, line: str) -> Result:
        return cls(**json.loads(line))

    def joined(self, other: Result) -> Result:
        """The same cell, seen from two ranks: the worse of each."""
        keys = self.gaps.keys() | other.gaps.keys()
        return Result(
            self.cell,
            {key: max(self.gaps.get(key, 0.0), other.gaps.get(key, 0.0)) for key in sorted(keys)},
            self.observed and other.observed,
            max(self.failures, other.failures),
            self.off or other.off,
            self.error or other.error,
            max(self.seconds, other.seconds),
        )


def look(cell: Cell, device: str = "cpu") -> Result:
    """Run the cell in this process, with and without the monitor, and compare."""
    return compared(str(cell), setup_of(cell, device), monitor, LOOKED)


def compared(
    name: str,
    setup: Setup,
    watching: Callable[[Setup], SaliencyMonitor],
    looked: Collection[str],
) -> Result:
    """Run a setup in this process, with and without a monitor that logs what is to be looked at."""
    begun, doing = time.perf_counter(), "without the monitor"
    try:
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            bare = twin(setup, list, Path(folder) / "bare")
            doing = "with the monitor"
            watched = twin(setup, lambda: [watching(setup)], Path(folder) / "watched")
            found = gaps(bare, watched)
            off = kept_off([str(one.message) for one in told if of_the_monitor(one)])
    except Exception as error:
        return Result(name, error=f"{doing}: {in_short(error)}")
    observed = watched.observed
    return Result(
        name,
        found,
        observed=observed.keys() >= set(looked),
        failures=observed.get("saliency/failures", 0.0),
        off=off,
        seconds=round(time.perf_counter() - begun, 1),
    )


def twin(setup: Setup, callbacks: Callable[[], list[Callback]], folder: Path) -> Trace:
    folder.mkdir()
    return run(setup, callbacks, folder)


def monitor(setup: Setup) -> SaliencyMonitor:
    probes: Any = PROBES
    if ("limit_val_batches", 0) in setup.trainer:  # there is no validation data to choose from
        images = Images(PROBES, seed=2)
        probes = Probes.from_tensors(images.inputs, images.targets)
    return SaliencyMonitor(list(METHODS), probes, chunk=3, on_error="raise")


def of_the_monitor(warning: warnings.WarningMessage) -> bool:
    return issubclass(warning.category, SaliencyWarning)


def kept_off(told: list[str]) -> str:
    return next((text for text in told if "keeps off" in text), "")


def in_short(error: BaseException) -> str:
    """Type, first line, and where."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    first = str(error).strip().splitlines()[0] if str(error).strip() else ""
    return f"{type(error).__name__}: {first} [{Path(frame.filename).name}:{frame.lineno}]"
