"""What a disk, a logger or the thread of the pictures can do: the training goes on."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import twin_runs
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.loggers.logger import DummyLogger, Logger
from mishaps import (
    MID_EPOCH,
    VALIDATIONS,
    Mishap,
    Moody,
    Raises,
    Survival,
    Witness,
    awake,
    crew,
    survive,
)
from small_fits import Events
from twin_runs import run

from lightning_saliency import SaliencyMonitor

pytestmark = [
    # The frozen BatchNorm.
    pytest.mark.filterwarnings("ignore:Found 1 module.s. in eval mode at the start of training"),
    # TensorBoard's own thread raises what it also hands on.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
]

PICTURES = replace(MID_EPOCH, pictures=True)
STEPS = [0, 1, 2, 3]
"""Of the optimiser at the four validations; the first comes before its first step."""

FULL, READ_ONLY = Path("/dev/full"), Path("/sys/kernel")
on_linux = pytest.mark.skipif(not FULL.exists(), reason="no device that is always full")


def settled(trainer: Any) -> None:
    """Wait for all that is on its way to the disk."""
    for callback in trainer.callbacks:
        if isinstance(callback, SaliencyMonitor):
            callback._teller.writer.drain()


@contextmanager
def swapped(path: Path, other: Path) -> Iterator[None]:
    """Let `path` lead to `other`."""
    kept = path.rename(path.with_name(f"{path.name}.kept"))
    path.symlink_to(other)
    try:
        yield
    finally:
        path.unlink()
        kept.rename(path)


def disk(folder: Path, kind: str, until: Callable[[Any], None] = settled) -> Mishap:
    """Nothing can be written to what is open; for what the Trainer writes later there is room.

    A file that is opened meanwhile is not caught: which pictures are lost is not for a test to say.
    """

    @contextmanager
    def breaks(trainer: Any, module: Any) -> Iterator[None]:
        boards = [one for one in trainer.loggers if isinstance(one, TensorBoardLogger)]
        if not boards:  # without the monitor nobody draws
            yield
            return
        boards[0].experiment.flush()
        files = list((folder / "watched").glob("*tfevents*"))
        pairs = (
            [(one, FULL) for one in files] if kind == "full" else [(folder / "watched", READ_ONLY)]
        )
        with ExitStack() as scope:
            for pair in pairs:
                scope.enter_context(swapped(*pair))
            yield
            settled(trainer)

    return Mishap("", breaks)


@on_linux
@pytest.mark.parametrize(
    ("kind", "words"),
    [("full", "No space left on device"), ("read-only", "Permission denied|Read-only")],
)
def test_a_disk_without_room_for_a_picture(kind: str, words: str, tmp_path: Path) -> None:
    """A picture is a thousand times as large as the user's numbers, which still find room."""
    with awake():
        left = survive(disk(tmp_path, kind), tmp_path, setup=PICTURES)
    assert left.gaps == {}
    kinds = [text.split(":")[1] for text in left.told]
    assert len(kinds) == len(set(kinds)), f"once of pictures and once of numbers: {left.told}"
    assert any(word in left.told[0] for word in words.split("|")), left.told
    # What TensorBoard's own thread loses it tells at the next write, of a later observation.
    assert left.failures[-1] in (2, 3), f"both observations: {left.failures}, {left.told}"
    events = Events(tmp_path / "watched")
    # Files of one second are read by their names, and the tenth writer's stands before the ninth's.
    assert sorted(events.scalars["val_loss"]) == STEPS, "the user's numbers are all there"
    assert {0, STEPS[-1]} <= set(events.scalars["saliency/gradient/drift_previous"]), "and ours"
    pictures = events.images["saliency/gradient"]
    assert {0, STEPS[-1]} <= set(pictures), "drawn again when there is room"


class Silent(twin_runs.Net):
    """Logs nothing: it never meets a logger that is broken."""

    def log(self, *args: Any, **kwargs: Any) -> None:
        return


class Recorder(Logger):
    """Keeps what it is given; `refuses` says what it raises at."""

    def __init__(self, refuses: Callable[[dict[str, float]], bool] = lambda metrics: False) -> None:
        super().__init__()
        self.refuses = refuses
        self.kept: list[tuple[int | None, dict[str, float]]] = []

    @property
    def name(self) -> str:
        return "recorder"

    @property
    def version(self) -> str:
        return ""

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        return

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        if self.refuses(metrics):
            raise ConnectionError("413 payload too large")
        self.kept.append((step, metrics))


def with_loggers(folder: Path, *others: Any) -> twin_runs.Setup:
    """The log that the tests read, behind others: what those raise must not keep it from it."""
    loggers = [*others, CSVLogger(folder, name="", version="")]
    return replace(MID_EPOCH, trainer=(*MID_EPOCH.trainer, ("logger", loggers)))


def meet(mishap: Mishap, tmp_path: Path, *others: Any, **given: Any) -> Survival:
    """A run with further loggers, held against one without them and without a monitor."""
    setup = with_loggers(tmp_path / "watched", *others)
    with awake():
        return survive(mishap, tmp_path, setup=setup, twin=MID_EPOCH, **given)


@pytest.mark.parametrize("first", [True, False], ids=["from the start", "later"])
def test_a_logger_that_refuses_our_numbers(first: bool, tmp_path: Path) -> None:
    """A server that does not like slashes, or so many keys: the user's numbers reach it."""
    calls: list[bool] = []

    def refuses(metrics: dict[str, float]) -> bool:
        ours = any(key.startswith("saliency/") for key in metrics)
        calls.append(ours)
        return ours and (first or sum(calls) > 2)

    server = Recorder(refuses)
    left = meet(Mishap(""), tmp_path, server)
    assert left.gaps == {}
    assert len(left.told) == 1, left.told
    (told,) = left.told
    assert "ConnectionError: 413 payload too large" in told
    losses = [metrics["val_loss"] for _, metrics in server.kept if "val_loss" in metrics]
    assert len(losses) == VALIDATIONS, "the user's numbers reach the logger"
    assert left.failures[-1] > 0
    drift = [
        value for value in left.values("saliency/gradient/drift_previous") if value is not None
    ]
    assert len(drift) == VALIDATIONS, "and the other logger has all of ours"


@on_linux
def test_a_disk_that_stays_full_for_somebody_who_logs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the monitor nothing would be written, so nothing would raise."""
    monkeypatch.setattr(twin_runs, "Net", Silent)

    @contextmanager
    def breaks(trainer: Any, module: Any) -> Iterator[None]:
        for events in (tmp_path / "watched").glob("*tfevents*"):
            settled(trainer)
            events.unlink()
            events.symlink_to(FULL)
        yield

    with awake():
        left = survive(Mishap("", breaks), tmp_path, setup=PICTURES, troubled=(1,))
    assert left.gaps == {}
    assert len(left.told) == 1, left.told
    (told,) = left.told
    assert "No space left on device" in told


class WandbLogger(Recorder):
    """Shows pictures, under the name by which such loggers are known."""

    def __init__(self, log_image: Callable[..., None]) -> None:
        super().__init__()
        self.log_image = log_image


def test_a_logger_that_refuses_a_picture(tmp_path: Path) -> None:
    shown: list[int] = []
    moody = Moody(lambda *_: None, Raises(TimeoutError("the server sleeps")))

    def log_image(tag: str, pictures: list[Any], step: int) -> None:
        moody()
        if not tag.endswith("filmstrip"):
            shown.append(step)

    left = meet(Mishap("", moody.breaks), tmp_path, WandbLogger(log_image))
    assert left.gaps == {}
    assert len(left.told) == 1, left.told
    (told,) = left.told
    assert "TimeoutError: the server sleeps" in told
    assert left.failures == [0, 0, 0, 1, 2], "a picture is written after the numbers"
    assert len(shown) == 1 + VALIDATIONS - 2
    assert None not in left.values("saliency/gradient/entropy"), "no number is lost"


def in_the_thread(path: str, error: BaseException, monkeypatch: pytest.MonkeyPatch) -> Mishap:
    """A function of ours, found under `path`, raises."""
    import pkgutil

    moody = Moody(pkgutil.resolve_name(path), Raises(error))
    monkeypatch.setattr(path, lambda *args, **given: moody(*args, **given))

    @contextmanager
    def breaks(trainer: Any, module: Any) -> Iterator[None]:
        settled(trainer)
        with moody.breaks(trainer, module):
            yield
            settled(trainer)

    return Mishap("", breaks)


@pytest.mark.parametrize(
    "error", [ValueError("no such font"), MemoryError(), SystemExit(1)], ids=repr
)
@pytest.mark.parametrize("what", ["encode", "image_summary"])
def test_pictures_that_fail_in_their_thread(
    what: str, error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A SystemExit ends a thread; pictures come again, and nobody waits for ever."""
    mishap = in_the_thread(f"lightning_saliency.writer.{what}", error, monkeypatch)
    with awake():
        left = survive(mishap, tmp_path, setup=PICTURES)
    assert left.gaps == {}
    assert len(left.told) == 1, left.told
    (told,) = left.told
    assert type(error).__name__ in told
    assert left.failures[-1] == 2, "of observations, not of pictures"
    assert None not in left.values("saliency/gradient/entropy"), "no number is lost"
    events = Events(tmp_path / "watched")
    assert list(events.scalars["saliency/gradient/drift_previous"]) == STEPS
    assert {0, STEPS[-1]} == set(events.images["saliency/gradient"])


def test_a_thread_that_was_killed_is_followed_by_another(tmp_path: Path) -> None:
    """Libraries of timeouts end threads from outside."""
    import ctypes

    @contextmanager
    def breaks(trainer: Any, module: Any) -> Iterator[None]:
        for callback in trainer.callbacks:
            if isinstance(callback, SaliencyMonitor):
                callback._teller.writer.drain()  # it waits for work
                thread = callback._teller.writer._thread
                assert thread is not None
                ident, end = ctypes.c_ulong(thread.ident or 0), ctypes.py_object(SystemExit)
                assert ctypes.pythonapi.PyThreadState_SetAsyncExc(ident, end) == 1
                assert callback._teller.writer._jobs is not None
                callback._teller.writer._jobs.put(lambda: None)  # it wakes to end
                thread.join()
        yield

    with awake():
        left = survive(Mishap("", breaks), tmp_path, setup=PICTURES, troubled=(1,))
    assert left.gaps == {}
    assert len(left.told) <= 1
    events = Events(tmp_path / "watched")
    assert {0, STEPS[-1]} <= set(events.images["saliency/gradient"])


def test_a_picture_that_fails_can_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mishap = in_the_thread(
        "lightning_saliency.writer.encode", OSError(errno.EIO, "io"), monkeypatch
    )
    monitor = SaliencyMonitor(probes=12, on_error="raise")
    with awake(), pytest.raises(Exception, match=r"SaliencyMonitor.*Errno 5"):
        run(PICTURES, lambda: crew(monitor, mishap, Witness()), tmp_path)
    assert monitor._teller.writer._thread is None


def test_an_introduction_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The text is no part of the training, nor of the observation."""
    refused = Raises(PermissionError("no words here"))
    monkeypatch.setattr("torch.utils.tensorboard.SummaryWriter.add_text", refused)
    with awake():
        left = survive(Mishap(""), tmp_path, setup=PICTURES)
    assert left.gaps == {}
    assert len(left.told) == 1, left.told
    (told,) = left.told
    assert "PermissionError: no words here" in told
    assert None not in left.values("saliency/gradient/entropy"), "no number is lost"
    assert set(Events(tmp_path / "watched").images["saliency/gradient"]) == set(STEPS)


def test_a_logger_that_answers_to_everything(tmp_path: Path) -> None:
    left = meet(Mishap(""), tmp_path, DummyLogger())
    assert (left.gaps, left.told, left.failures) == ({}, [], [0] * (1 + VALIDATIONS))
