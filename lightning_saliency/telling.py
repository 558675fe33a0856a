"""To whom it is told: numbers, pictures and texts to the loggers, words to the console, failures.

What goes wrong on the way to a logger is counted and told once, and stops no run unless the user
wants that.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, TypeVar

from lightning_saliency import trainers
from lightning_saliency.errors import ObservationError, in_words
from lightning_saliency.finding import Finding
from lightning_saliency.logs import (
    Ledger,
    board_folders,
    takes_pictures,
    write_arrays,
    write_texts,
)
from lightning_saliency.movie import films
from lightning_saliency.recording import Entry
from lightning_saliency.session import Session
from lightning_saliency.settings import Settings
from lightning_saliency.voice import Voice
from lightning_saliency.writer import Format, PictureWriter

T = TypeVar("T")


class Teller:
    """Tells what one monitor found.

    Args:
        settings: whose name begins all tags, and what a failure does.
        picture_format: ``jpeg`` or ``png``.

    Attributes:
        writer: of pictures, on a thread of its own.
        failures: observations that failed so far, in whole or in part.
    """

    def __init__(self, settings: Settings, picture_format: Format) -> None:
        self.writer = PictureWriter(picture_format, self._not_written)
        self.failures = 0
        self._settings = settings
        self._ledger = Ledger()
        self._voice = Voice()
        self._thread_error: tuple[BaseException, int, str] | None = None
        self._newest: Entry | None = None
        self._failed_steps: set[int] = set()

    def begin(self) -> None:
        """Begin a fit, a validation or a test: loggers may be others."""
        self._ledger, self._thread_error, self._newest = Ledger(), None, None
        self._failed_steps.clear()
        self.writer.introduced.clear()

    def tell(self, trainer: Any, finding: Finding, step: int, unknown: Session | None) -> float:
        """Give what was found to the loggers, and introduce a session that is `unknown` there.

        Returns:
            The seconds that it took.
        """
        begun, loggers = time.perf_counter(), trainer.loggers
        try:
            with trainers.ranks_of(trainer).agreeing():
                if trainer.is_global_zero:
                    self._write(trainer, loggers, finding, step, unknown)
        except Exception as error:
            self.failed(trainer, error, step, "a logger did not take the numbers")
        return time.perf_counter() - begun

    def _write(
        self, trainer: Any, loggers: Any, finding: Finding, step: int, unknown: Session | None
    ) -> None:
        refused = self._ledger.write(loggers, self.tagged(finding.numbers), step)
        # Who takes no numbers is not asked for more; who takes no words may take pictures.
        deaf = [logger for logger, _ in refused]
        hearing = [logger for logger in loggers if logger not in deaf]
        texts = dict(finding.texts)
        if unknown is not None:
            texts["about"] = self._introduction(trainer, unknown)
        refused += write_texts(loggers, self.tagged(texts), step)
        refused += write_arrays(loggers, self.tagged(finding.arrays), step)
        record = None
        if finding.entry is not None:
            made = finding.entry.told(finding.numbers, finding.events)
            record = partial(made.summary, self._settings.name)
            self._newest = made
        self.writer.write(hearing, self.tagged(finding.pictures), step, record)
        if refused:
            raise refused[0][1]

    def _introduction(self, trainer: Any, session: Session) -> str:
        """Say on the console what is watched and how to see it; the text of the log."""
        folders = board_folders(trainer.loggers)
        command = "tensorboard --logdir {} --samples_per_plugin images=1000"
        said = command.format(folders[0]) if folders else ""
        about = session.about(self._settings)
        if said:
            about += f"\n\nTensorBoard keeps ten random steps of a picture. All of them: `{said}`"
        elif not takes_pictures(trainer.loggers):
            said = "No logger of this Trainer takes pictures, so there are numbers only."
        self.say(trainer, f"watches {len(session.probes)} probes. {said}")
        return about

    def tagged(self, named: Mapping[str, T]) -> dict[str, T]:
        """The same under full tags."""
        return {f"{self._settings.name}/{name}": value for name, value in named.items()}

    def failed(
        self,
        trainer: Any,
        error: BaseException,
        step: int,
        what: str = "an observation failed and was left out",
    ) -> None:
        """Count a failure and tell it once, or stop the run where that is wanted."""
        if isinstance(error, ObservationError):
            raise error  # of a part: it says what that was
        if self._settings.on_error == "raise":
            raise ObservationError(
                f"SaliencyMonitor: {what}: {in_words(error)}\nWith on_error='warn' the training "
                "would go on without it."
            ) from error
        self._count(step)
        self._voice.warn(trainer, f"{what}: {in_words(error)}", about=f"{what} {type(error)}")

    def _count(self, step: int) -> None:
        """Count an observation that failed, or a part of it, once."""
        self.failures += step not in self._failed_steps
        self._failed_steps.add(step)

    def warn(self, trainer: Any, text: str | None) -> None:
        """Warn of this once, if there is anything."""
        if text is not None:
            self._voice.warn(trainer, text)

    def say(self, trainer: Any, text: str) -> None:
        """Print beside the progress bar."""
        self._voice.say(trainer, f"SaliencyMonitor {text}")

    def end(self, trainer: Any, best: int | None) -> None:
        """See the last numbers and pictures written.

        Args:
            trainer: of the fit that ends.
            best: step of the best checkpoint, which the last observation could not know.
        """
        if trainer.is_global_zero:
            self._ledger.settle(trainer.loggers)
            newest = self._newest
            if newest is not None and newest.observation.best != best:
                record = partial(newest.corrected(best).summary, self._settings.name)
                self.writer.write(trainer.loggers, {}, newest.observation.step, record)
            if self._settings.movie is not None:
                self._film(trainer, newest)
        self.writer.drain()
        with trainers.ranks_of(trainer).agreeing():
            if self._thread_error is not None and self._settings.on_error == "raise":
                self.failed(trainer, *self._thread_error)

    def _film(self, trainer: Any, newest: Entry | None) -> None:
        """Draw what is recorded, where there is anything."""
        if newest is None:
            self.say(trainer, "draws no movie: nothing was recorded. A TensorBoardLogger keeps it.")
        else:
            self.writer.film(trainer.loggers, self._films, newest.observation.step)

    def _films(self, folder: str) -> Iterator[tuple[str, bytes]]:
        name, movie = self._settings.name, self._settings.movie
        if movie is not None:
            for tag, encoded in films(folder, name, movie):
                yield f"{name}/{tag}", encoded

    def _not_written(self, error: BaseException, step: int, what: str) -> None:
        self._count(step)
        text = f"{what} could not be written"
        self._thread_error = self._thread_error or (error, step, text)
        # Of one cause: the record goes the way of the pictures.
        self._voice.warn_from_thread(f"{text}: {in_words(error)}", about=type(error).__name__)
