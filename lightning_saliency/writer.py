"""Pictures are drawn, encoded and written on a thread of their own."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

from lightning_saliency.board import image_summary, write_summary
from lightning_saliency.errors import ConfigurationError
from lightning_saliency.gallery import Picture
from lightning_saliency.logs import boards, write_pictures
from lightning_saliency.rendering import encode

Format = Literal["jpeg", "png"]

Job = Callable[[], None] | None
"""Work for the thread; None ends it."""

Films = Callable[[str], Iterable[tuple[str, bytes]]]
"""Makes the films of a folder of event files: full tag and encoded picture of each."""

Record = Callable[[bool], Any]
"""Makes the summary of an observation's record; told whether the probes are new to the file."""

MOST = 2
"""Observations that wait to be drawn, at most."""

_PATIENCE = 0.5
"""Seconds after which somebody who waits for the thread asks whether it still lives."""


class PictureWriter:
    """Draws, encodes and writes pictures on one thread of its own.

    At most two observations wait; a third one waits for them, so that memory stays bounded. The
    thread starts with the first picture and ends with `close`. Should it be killed, another one
    takes its place: nobody waits for a dead one.

    Args:
        format: of the pictures.
        failed: told of an error, of its step and of what could not be written, on either thread:
            it stops nothing.

    Attributes:
        introduced: folders whose event files hold the probes of the record.
    """

    def __init__(self, format: Format, failed: Callable[[BaseException, int, str], None]) -> None:
        if format not in ("jpeg", "png"):
            raise ConfigurationError(
                f"picture_format={format!r} is not a format of pictures. Known: 'jpeg' (small), "
                "'png' (exact)."
            )
        self._format: Format = format
        self._failed = failed
        self.introduced: set[str] = set()
        # Both come with the first picture: a monitor is pickled before a fit that spawns processes.
        self._jobs: queue.SimpleQueue[Job] | None = None
        self._thread: threading.Thread | None = None

    def write(
        self,
        loggers: Iterable[Any],
        pictures: Mapping[str, Picture],
        step: int,
        record: Record | None = None,
    ) -> None:
        """Draw `pictures`, full tag → picture, and write them to each logger that takes pictures.

        The `record` goes to TensorBoard alone.

        TensorBoard's pictures are written behind the caller's back. Others' clients belong to the
        thread that made them, so for those the caller waits for the drawing.
        """
        try:
            known = list(loggers)
            # Taken here: the first access makes the event file, and two threads would make two.
            experiments = [board.experiment for board in boards(known)]
            for experiment in experiments:
                experiment._get_file_writer()
            if experiments:
                now = time.time()
                self._submit(lambda: self._to_boards(experiments, pictures, step, now, record))
            for _, error in write_pictures(known, pictures, step):
                self._failed(error, step, "a picture")
        except Exception as error:
            self._failed(error, step, "a picture")

    def film(self, loggers: Iterable[Any], films: Films, step: int) -> None:
        """Make `films` of what is recorded by then, and write them where that is."""
        experiments = [board.experiment for board in boards(loggers)]
        self._submit(lambda: self._film(experiments, films, step, time.time()))

    def drain(self) -> None:
        """Wait until everything is written."""
        if self._jobs is not None:
            done = threading.Event()
            self._submit(done.set)
            while not done.wait(_PATIENCE):
                self._see_alive(self._jobs)

    def close(self) -> None:
        """Write what is waiting, and end the thread."""
        if self._jobs is not None and self._thread is not None:
            self._submit(None)
            self._thread.join()
            self._jobs = self._thread = None

    def _submit(self, job: Job) -> None:
        if self._jobs is None:
            # Not a Queue: its locks are held in Python, and stay locked if its thread is killed.
            self._jobs = queue.SimpleQueue()
        self._see_alive(self._jobs)
        while self._jobs.qsize() >= MOST:
            time.sleep(0.01)
            self._see_alive(self._jobs)
        self._jobs.put(job)

    def _see_alive(self, jobs: queue.SimpleQueue[Job]) -> None:
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(
                target=_work, args=(jobs,), name="saliency-pictures", daemon=True
            )
            self._thread.start()

    def _to_boards(
        self,
        experiments: list[Any],
        pictures: Mapping[str, Picture],
        step: int,
        now: float,
        record: Record | None,
    ) -> None:
        if record is not None:  # first: it is small, and holds all of the observation
            self._record(experiments, record, step, now)
        for tag, draw in pictures.items():
            try:
                summary = image_summary(tag, encode(draw(), self._format))
                for experiment in experiments:
                    write_summary(experiment, summary, step, now)
            except BaseException as error:  # also what would end a thread
                self._failed(error, step, "a picture")

    def _record(self, experiments: list[Any], record: Record, step: int, now: float) -> None:
        made: dict[bool, Any] = {}
        for experiment in experiments:
            try:
                folder = str(experiment._get_file_writer().get_logdir())
                new = folder not in self.introduced
                if new not in made:
                    made[new] = record(new)
                write_summary(experiment, made[new], step, now)
                self.introduced.add(folder)
            except BaseException as error:  # also what would end a thread
                self._failed(error, step, "the record")

    def _film(self, experiments: list[Any], films: Films, step: int, now: float) -> None:
        for experiment in experiments:
            try:
                folder = str(experiment._get_file_writer().get_logdir())
                for tag, encoded in films(folder):
                    write_summary(experiment, image_summary(tag, encoded), step, now)
            except BaseException as error:  # also what would end a thread
                self._failed(error, step, "the movie")


def _work(jobs: queue.SimpleQueue[Job]) -> None:
    while (job := jobs.get()) is not None:
        job()
