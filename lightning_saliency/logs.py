"""Tags and their table; pictures, numbers and words → the Trainer's loggers.

The log is an API: every tag that the monitor writes stands in `TAGS`, and the README and the
monitor's docstring show that table.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lightning_saliency.errors import ConfigurationError
from lightning_saliency.gallery import Picture
from lightning_saliency.rendering import encode

Format = Literal["jpeg", "png"]


@dataclass(frozen=True)
class Tag:
    """One row of the table: `{…}` stands for a name that the user chose."""

    pattern: str
    kind: Literal["image", "scalar", "text"]
    content: str


TAGS = (
    Tag(
        "saliency/{method}",
        "image",
        "up to 32 probes: image, map over image, change since the previous observation or the "
        "reference; label, prediction and a mark where the prediction flipped",
    ),
    Tag(
        "saliency/{method}/filmstrip",
        "image",
        "up to 8 probes × 16 observations, the first and the newest always: the whole history",
    ),
    Tag(
        "saliency/{method}/drift_previous",
        "scalar",
        "1 − cosine of the signed maps to the previous observation, 0 (same) to 2, unrelated 1; "
        "median over probes, with the 10 % and 90 % quantiles under `…_p10` and `…_p90`",
    ),
    Tag("saliency/{method}/drift_first", "scalar", "the same to the first observation"),
    Tag(
        "saliency/{method}/drift_reference",
        "scalar",
        "the same to the reference, when one is configured",
    ),
    Tag(
        "saliency/{method}/{measure}",
        "scalar",
        "each further measure: mean over probes; of drift: median, as `{measure}_previous`, "
        "`…_first`, `…_reference`",
    ),
    Tag(
        "saliency/{method}/completeness_gap",
        "scalar",
        "integrated gradients: relative gap of its completeness axiom, median over probes",
    ),
    Tag(
        "saliency/{method}/undefined",
        "scalar",
        "share of this method's maps that are constant or not finite, and left out of its numbers",
    ),
    Tag("saliency/magnitude", "scalar", "log10 of the median norm of the input gradient"),
    Tag("saliency/churn", "scalar", "share of predictions that flipped since the previous, 0 to 1"),
    Tag(
        "saliency/undefined",
        "scalar",
        "share of all maps of all methods that are undefined, 0 to 1",
    ),
    Tag("saliency/mask_area", "scalar", "share of the image that the masks cover, 0 to 1"),
    Tag("saliency/seconds", "scalar", "time that this observation held up the training"),
    Tag("saliency/overhead", "scalar", "share of the fit's time so far, 0 to 1"),
    Tag("saliency/failures", "scalar", "observations that failed so far"),
    Tag("saliency/about", "text", "probes, methods, layers, target, hash; how to see every step"),
)


def table() -> str:
    """The table of tags in Markdown."""
    rows = [f"| `{tag.pattern}` | {tag.kind} | {tag.content} |" for tag in TAGS]
    return "\n".join(["| tag | kind | content |", "|---|---|---|", *rows])


class PictureWriter:
    """Draws, encodes and writes pictures on one thread of its own.

    At most two observations wait; a third one waits for them, so that memory stays bounded. The
    thread starts with the first picture and ends with `close`.

    Args:
        format: of the pictures.
        failed: told of an exception, on either thread: what can't be written stops nothing.
    """

    def __init__(self, format: Format, failed: Callable[[Exception], None]) -> None:
        if format not in ("jpeg", "png"):
            raise ConfigurationError(
                f"picture_format={format!r} is not a format of pictures. Known: 'jpeg' (small), "
                "'png' (exact)."
            )
        self._format: Format = format
        self._failed = failed
        # Both come with the first picture: a monitor is pickled before a fit that spawns processes.
        self._jobs: queue.Queue[Callable[[], None] | None] | None = None
        self._thread: threading.Thread | None = None

    def write(self, loggers: Iterable[Any], pictures: Mapping[str, Picture], step: int) -> None:
        """Draw `pictures`, full tag → picture, and write them to each logger that takes pictures.

        TensorBoard's pictures are written behind the caller's back. Others' clients belong to the
        thread that made them, so for those the caller waits for the drawing.
        """
        try:
            self._write(loggers, pictures, step)
        except Exception as error:
            self._failed(error)

    def _write(self, loggers: Iterable[Any], pictures: Mapping[str, Picture], step: int) -> None:
        sinks = [(logger, kind) for logger in loggers if (kind := _kind(logger)) is not None]
        boards = [logger for logger, kind in sinks if kind == "TensorBoardLogger"]
        others = [(logger, kind) for logger, kind in sinks if kind != "TensorBoardLogger"]
        if boards:
            # Taken here: the first access makes the event file, and two threads would make two.
            writers = [board.experiment._get_file_writer() for board in boards]
            local = [writer for writer in writers if "://" not in str(writer.get_logdir())]
            now = time.time()
            self._submit(lambda: self._to_boards(writers, local, pictures, step, now))
        drawn = {tag: draw() for tag, draw in pictures.items()} if others else {}
        for logger, kind in others:
            _SINKS[kind](logger, drawn, step)

    def drain(self) -> None:
        """Wait until everything is written."""
        if self._jobs is not None:
            self._jobs.join()

    def close(self) -> None:
        """Write what is waiting, and end the thread."""
        if self._jobs is not None and self._thread is not None:
            self._jobs.put(None)
            self._thread.join()
            self._jobs = self._thread = None

    def _submit(self, job: Callable[[], None]) -> None:
        if self._jobs is None:
            self._jobs = queue.Queue(maxsize=2)
            self._thread = threading.Thread(
                target=self._work, args=(self._jobs,), name="saliency-pictures", daemon=True
            )
            self._thread.start()
        self._jobs.put(job)

    def _work(self, jobs: queue.Queue[Callable[[], None] | None]) -> None:
        while (job := jobs.get()) is not None:
            try:
                job()
            except Exception as error:
                self._failed(error)
            finally:
                jobs.task_done()
        jobs.task_done()

    def _to_boards(
        self,
        writers: list[Any],
        local: list[Any],
        pictures: Mapping[str, Picture],
        step: int,
        now: float,
    ) -> None:
        for tag, draw in pictures.items():
            try:
                picture = draw()
                summary = image_summary(tag, picture, encode(picture, self._format))
                for writer in writers:
                    writer.add_summary(summary, step, now)
            except Exception as error:
                self._failed(error)
        # A remote directory would be uploaded whole at each flush.
        for writer in local:
            writer.flush()


def image_summary(tag: str, picture: NDArray[np.uint8], encoded: bytes) -> Any:
    """The event of one picture: TensorBoard passes an encoded image through untouched."""
    from tensorboard.compat.proto.summary_pb2 import Summary

    height, width, _ = picture.shape
    image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=encoded)
    return Summary(value=[Summary.Value(tag=tag, image=image)])


def write_scalars(loggers: Iterable[Any], scalars: Mapping[str, float], step: int) -> None:
    """Numbers of a moment at which the Trainer takes none, such as its sanity check."""
    for logger in loggers:
        logger.log_metrics(dict(scalars), step=step)
        logger.save()


def board_folders(loggers: Iterable[Any]) -> list[str]:
    """Where TensorBoard finds what is written."""
    boards = (logger for logger in loggers if _kind(logger) == "TensorBoardLogger")
    return [str(board.log_dir).rstrip("/") for board in boards]


def takes_pictures(loggers: Iterable[Any]) -> bool:
    """Whether any of the loggers shows pictures."""
    return any(_kind(logger) is not None for logger in loggers)


def write_text(loggers: Iterable[Any], tag: str, text: str, step: int) -> None:
    """Markdown, to those loggers that show it."""
    for logger in loggers:
        if _kind(logger) == "TensorBoardLogger":
            logger.experiment.add_text(tag, text, step)


def _kind(logger: object) -> str | None:
    """The class whose public calls take our pictures.

    By name: either namespace of Lightning has one, and the dummy logger of `fast_dev_run` answers
    to any attribute.
    """
    for parent in type(logger).__mro__:
        if parent.__name__ == "TensorBoardLogger" or parent.__name__ in _SINKS:
            return parent.__name__
    return None


def _to_wandb(logger: Any, pictures: Mapping[str, NDArray[np.uint8]], step: int) -> None:
    for tag, picture in pictures.items():
        logger.log_image(tag, [picture], step=step)


def _to_mlflow(logger: Any, pictures: Mapping[str, NDArray[np.uint8]], step: int) -> None:
    for tag, picture in pictures.items():
        logger.experiment.log_image(logger.run_id, picture, key=tag.replace("/", "."), step=step)


def _to_comet(logger: Any, pictures: Mapping[str, NDArray[np.uint8]], step: int) -> None:
    for tag, picture in pictures.items():
        logger.experiment.log_image(picture, name=tag, step=step)


def _to_neptune(logger: Any, pictures: Mapping[str, NDArray[np.uint8]], step: int) -> None:
    from PIL import Image

    for tag, picture in pictures.items():
        logger.experiment[tag].append(Image.fromarray(picture), step=step)


_SINKS: Mapping[str, Callable[[Any, Mapping[str, NDArray[np.uint8]], int], None]] = {
    "WandbLogger": _to_wandb,
    "MLFlowLogger": _to_mlflow,
    "CometLogger": _to_comet,
    "NeptuneLogger": _to_neptune,
}
