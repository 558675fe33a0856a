"""Let something go wrong at chosen validations, and see what is left of the run."""

from __future__ import annotations

import logging
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

import torch
from lightning.pytorch import Callback
from torch import Tensor, nn
from twin_runs import Setup, Trace, gap, gaps, logged, run

from lightning_saliency import SaliencyMonitor, SaliencyWarning

MID_EPOCH = Setup(
    epochs=2,
    trainer=(("accumulate_grad_batches", 4), ("val_check_interval", 3)),
)
"""Six batches an epoch and four validations, every other one while gradients are accumulated."""

TROUBLED = (1, 2)
"""The validations at which something is broken: the end of an epoch, the middle of the next."""

VALIDATIONS = 4

Breaks = Callable[[Any, Any], AbstractContextManager[Any]]
"""`(trainer, pl_module)`: broken inside the `with` block."""


@dataclass(frozen=True)
class Mishap:
    """What goes wrong.

    Attributes:
        words: a part of what is told.
        breaks: around each troubled observation.
        monitor: arguments of the monitor that meets it.
    """

    words: str
    breaks: Breaks = lambda trainer, module: nullcontext()
    monitor: dict[str, Any] = field(default_factory=dict)


class Moody:
    """A function that does one thing as a rule, and another while it is in the mood."""

    def __init__(self, usual: Callable[..., Any], odd: Callable[..., Any]) -> None:
        self.usual, self.odd, self.mood = usual, odd, False

    def __call__(self, *args: Any) -> Any:
        return self.odd(*args) if self.mood else self.usual(*args)

    @contextmanager
    def breaks(self, trainer: Any, module: Any) -> Iterator[None]:
        self.mood = True
        try:
            yield
        finally:
            self.mood = False


class Raises:
    """A function of any arguments that raises."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise self.error


class Begin(Callback):
    """Stands before the monitor, and breaks what the mishap breaks."""

    def __init__(self, breaks: Breaks, troubled: tuple[int, ...]) -> None:
        self.breaks, self.troubled = breaks, troubled
        self.validation, self.stack = -1, ExitStack()

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.validation += not trainer.sanity_checking
        if self.validation in self.troubled and not trainer.sanity_checking:
            self.stack.enter_context(self.breaks(trainer, pl_module))

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self.stack.close()


class End(Callback):
    """Stands behind the monitor, and mends it."""

    def __init__(self, begin: Begin) -> None:
        self.begin = begin

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.begin.stack.close()


class Witness(Callback):
    """Writes down how it finds the model after each observation, and after an exception."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []
        self.exception: BaseException | None = None

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        if not trainer.sanity_checking:
            self.seen.append(state_of(pl_module))

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self.exception = exception
        self.seen.append(state_of(pl_module))


def state_of(module: nn.Module) -> dict[str, Any]:
    """All that an observation borrows."""
    hooks = {
        f"{name}.{kind}": len(registry)
        for name, part in module.named_modules()
        for kind, registry in vars(part).items()
        if "hooks" in kind and isinstance(registry, dict)
    }
    return {
        "weights": {name: value.clone() for name, value in module.state_dict().items()},
        "grads": {name: copied(one.grad) for name, one in module.named_parameters()},
        "modes": {name: part.training for name, part in module.named_modules()},
        "hooks": hooks,
        "attributes": sorted(vars(module)),
        "modules": [name for name, _ in module.named_modules()],
        "random": torch.get_rng_state(),
    }


def copied(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.clone()


def crew(
    monitor: SaliencyMonitor | None,
    mishap: Mishap,
    witness: Witness,
    troubled: tuple[int, ...] = TROUBLED,
) -> list[Callback]:
    """The callbacks of a run that meets the mishap, with a monitor or without one."""
    begin = Begin(mishap.breaks, troubled)
    return [begin, *([] if monitor is None else [monitor]), End(begin), witness]


@dataclass(frozen=True)
class Survival:
    """How a watched run ended, beside the same run without a monitor.

    Attributes:
        gaps: what differs from the run without: of all that it leaves, and of the model's state
            after each observation.
        told: what the monitor warned of, on either thread.
        rows: what it logged, an observation each; the first one is of the untrained network.
        monitor: itself.
    """

    gaps: dict[str, float]
    told: list[str]
    rows: list[dict[str, str]]
    monitor: SaliencyMonitor

    @property
    def failures(self) -> list[int]:
        return [int(float(row["saliency/failures"])) for row in self.rows]

    def values(self, tag: str) -> list[float | None]:
        """Of each observation; None where there is none."""
        return [float(row[tag]) if tag in row else None for row in self.rows]

    def steps(self, tag: str) -> list[int]:
        return [int(row["step"]) for row in self.rows if tag in row]


def survive(
    mishap: Mishap,
    folder: Path,
    *,
    setup: Setup = MID_EPOCH,
    troubled: tuple[int, ...] = TROUBLED,
    twin: Setup | None = None,
    **given: Any,
) -> Survival:
    """Run twice, with and without the monitor; the mishap happens in both.

    Args:
        mishap: what goes wrong.
        folder: where both write.
        setup: of the watched run.
        troubled: the validations, counted from 0, at which it goes wrong.
        twin: the setup of the run without, where that is another one.
        given: further arguments of the monitor.
    """
    alone, watched = Witness(), Witness()
    trace = plain(mishap, folder / "alone", alone, twin or setup, troubled)
    monitor = SaliencyMonitor(**{"probes": 12, "chunk": 12} | mishap.monitor | given)
    with listening() as told:
        other = run(setup, lambda: crew(monitor, mishap, watched, troubled), folder / "watched")
    found = gaps(trace, other) | looks(alone, watched)
    return Survival(found, told, logged(folder / "watched", saliency=True), monitor)


def plain(
    mishap: Mishap, folder: Path, witness: Witness, setup: Setup, troubled: tuple[int, ...]
) -> Trace:
    setup = replace(setup, pictures=False)
    return run(setup, lambda: crew(None, mishap, witness, troubled), folder)


def looks(alone: Witness, watched: Witness) -> dict[str, float]:
    """Where the model's state after an observation is not that without a monitor."""
    assert len(alone.seen) == len(watched.seen)
    return {
        f"{what} after validation {index}": gap(one[what], other[what])
        for index, (one, other) in enumerate(zip(alone.seen, watched.seen, strict=True))
        for what in one
        if gap(one[what], other[what]) != 0
    }


@contextmanager
def listening() -> Iterator[list[str]]:
    """Collect what the monitor warns of. Any other warning stays what it is, an error."""
    told: list[str] = []

    class Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            told.append(record.getMessage())

    log, ear = logging.getLogger("lightning.pytorch.saliency"), Ear(logging.WARNING)
    log.addHandler(ear)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.filterwarnings("always", category=SaliencyWarning)
            yield told
        told += [str(one.message) for one in caught]
    finally:
        log.removeHandler(ear)


@contextmanager
def awake(seconds: int = 15) -> Iterator[None]:
    """Fail instead of waiting for ever, also where the failure is cleaned up after."""

    def wake(*_: Any) -> NoReturn:
        raise AssertionError(f"it still hangs after {seconds} s")

    before = signal.signal(signal.SIGALRM, wake)
    signal.setitimer(signal.ITIMER_REAL, seconds, 1)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
