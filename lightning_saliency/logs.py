"""Tags and their table; pictures, numbers and words → the Trainer's loggers.

The log is an API: every tag that the monitor writes stands in `TAGS`, and the README and the
monitor's docstring show that table.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lightning_saliency import board
from lightning_saliency.gallery import Picture

OWED = 100
"""Steps of which a logger that refuses numbers is owed them; older ones are given up."""


@dataclass(frozen=True)
class Tag:
    """One row of the table: `{…}` stands for a name that the user chose."""

    pattern: str
    kind: Literal["image", "scalar", "text", "tensor", "blobs"]
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
        "saliency/{method}/movie",
        "image",
        "with `movie`, at the end of a fit: the maps of up to 32 probes at up to 50 observations, "
        "as an animated picture",
    ),
    Tag(
        "saliency/class_models",
        "image",
        "one row per class, one column per observation as in the filmstrip: the picture that "
        "maximises the class's score, and the probability it reaches",
    ),
    Tag(
        "saliency/floors",
        "image",
        "with `audits`: one row per method: how far its maps move when nothing that matters "
        "changed, and when all did, beside the drift of now; as text with what was changed",
    ),
    Tag(
        "saliency/alert",
        "image",
        "of a region alert: the cell, what passed or the probes, covered and swapped, and what "
        "that did to the score; as text in words",
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
        "saliency/{method}/drift_previous_{part}",
        "scalar",
        "means: of the probes whose prediction `stayed` or `flipped`; `by_class`, where classes "
        "weigh the same; of the `worst_class`; `of_chance`, ÷ the same between mismatched probes",
    ),
    Tag(
        "saliency/{method}/tortuosity",
        "scalar",
        "the way that the maps went ÷ the distance from the first, from 1 (straight) on; median",
    ),
    Tag(
        "saliency/{method}/crossval_{other}",
        "scalar",
        "of methods that draw samples: drift without their noise, about 0 to 2, mean over probes; "
        "with `…_z`, and `…_detectable`, the smallest that is told from none",
    ),
    Tag(
        "saliency/{method}/reliability",
        "scalar",
        "of the same: 1 noiseless, below 0.5 mostly noise; median. `unreliable`: the share below",
    ),
    Tag(
        "saliency/{method}/{measure}",
        "scalar",
        "each further measure: mean over probes; of drift: median, as `{measure}_previous`, "
        "`…_first`, `…_reference`",
    ),
    Tag(
        "saliency/{method}/{number}",
        "scalar",
        "what a method knows of its own maps, median over probes: `completeness_gap` (relative; "
        "paths, KernelSHAP; DeepLIFT and FullGrad with `target='logit'`), `fit` (R² of LIME and "
        "KernelSHAP), `channels_share` (of the activation that Score-CAM and Ablation-CAM weighed)",
    ),
    Tag(
        "saliency/{method}/undefined",
        "scalar",
        "share of this method's maps that are constant or not finite, and left out of its numbers",
    ),
    Tag(
        "saliency/{method}/floor_{rung}",
        "scalar",
        "with `audits`: the drift by `repeat`, `batch_size`, `precision`, `jitter_1`, `jitter_5`, "
        "`pixel`, `step`, `seed` and `redrawn`; median, `…_p10`, `…_p90`",
    ),
    Tag(
        "saliency/{method}/{audit}",
        "scalar",
        "with `audits`: `insertion` (above 0) and `deletion` (below 0) against a random order; "
        "`sanity`, once: rank correlation with the maps of random weights, good near 0",
    ),
    Tag(
        "saliency/agreement/{method}/{method}",
        "scalar",
        "with `audits`: rank correlation of two methods' maps of the same probes; median",
    ),
    Tag(
        "saliency/context_swap_gap",
        "scalar",
        "with `audits` and masks: what the score loses on backgrounds of other classes",
    ),
    Tag("saliency/alerts", "scalar", "region alerts so far"),
    Tag(
        "saliency/region_z",
        "scalar",
        "the largest z of a cell that gained evidence; an alert where it passes the threshold",
    ),
    Tag(
        "saliency/event_z",
        "scalar",
        "how unusual the drift of all maps is in this run; high at changes of the learning rate",
    ),
    Tag("saliency/cells/{panel}", "tensor", "shares of the cells, for `calibrate`"),
    Tag(
        "saliency/record/probes",
        "blobs",
        "with `record`, for the Saliency tab and `record.read`: the probes' names, classes and "
        "images, once",
    ),
    Tag(
        "saliency/record/maps/{method}",
        "blobs",
        "with `record`: all maps of each observation, up to 56 × 56, in 8 bits with their peaks",
    ),
    Tag(
        "saliency/record/observations",
        "tensor",
        "with `record`: of each observation the predictions, the drift of each probe, the numbers, "
        "learning rates, alerts and events, and the best checkpoint",
    ),
    Tag("saliency/classes", "text", "drift and flips of each class"),
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
    Tag("saliency/failures", "scalar", "observations that failed so far, in whole or in part"),
    Tag("saliency/about", "text", "probes, methods, layers, target, hash; how to see every step"),
)


def table() -> str:
    """The table of tags in Markdown."""
    rows = [f"| `{tag.pattern}` | {tag.kind} | {tag.content} |" for tag in TAGS]
    return "\n".join(["| tag | kind | content |", "|---|---|---|", *rows])


class Ledger:
    """Gives numbers to loggers; what one refuses is given to it again, before the next numbers.

    Not through `LightningModule.log`, whose numbers reach the loggers when nobody can tell any more
    whose they are: a logger that refuses ours would end the training.
    """

    def __init__(self) -> None:
        self._owed: dict[int, deque[tuple[dict[str, float], int]]] = {}

    def write(
        self, loggers: Iterable[Any], numbers: Mapping[str, float], step: int
    ) -> list[tuple[Any, Exception]]:
        """Give numbers of a step to each logger; those that refuse them are returned, with why."""
        known = list(loggers)
        for logger in known:
            owed = self._owed.setdefault(id(logger), deque(maxlen=OWED))
            owed.append((dict(numbers), step))
        return self.settle(known)

    def settle(self, loggers: Iterable[Any]) -> list[tuple[Any, Exception]]:
        """Give each logger what it is owed."""
        return _each(loggers, self._settle)

    def _settle(self, logger: Any) -> None:
        owed, of_board = self._owed.get(id(logger), deque()), bool(boards([logger]))
        try:
            while owed:
                numbers, step = owed[0]
                logger.log_metrics(numbers, step=step)
                if of_board:  # it writes later, and would raise later
                    board.flush(logger.experiment)
                owed.popleft()
                logger.save()
        except Exception:
            if of_board:
                board.revive(logger.experiment)
            raise


def write_texts(
    loggers: Iterable[Any], texts: Mapping[str, str], step: int
) -> list[tuple[Any, Exception]]:
    """Markdown, to those loggers that show it."""

    def write(logger: Any) -> None:
        for tag, text in texts.items():
            logger.experiment.add_text(tag, text, step)

    return _each(boards(loggers), write)


def write_arrays(
    loggers: Iterable[Any], arrays: Mapping[str, NDArray[np.float32]], step: int
) -> list[tuple[Any, Exception]]:
    """Series that programs read, to TensorBoard's event files."""
    now = time.time()

    def write(logger: Any) -> None:
        for tag, array in arrays.items():
            board.write_summary(logger.experiment, board.array_summary(tag, array), step, now)

    return _each(boards(loggers), write)


def write_pictures(
    loggers: Iterable[Any], pictures: Mapping[str, Picture], step: int
) -> list[tuple[Any, Exception]]:
    """Pictures, to those loggers that take them, but for TensorBoard's."""
    sinks = [logger for logger in loggers if _kind(logger) in _SINKS]
    drawn = {tag: draw() for tag, draw in pictures.items()} if sinks else {}
    return _each(sinks, lambda logger: _SINKS[_kind(logger) or ""](logger, drawn, step))


def begin_again(loggers: Iterable[Any], step: int) -> list[tuple[Any, Exception]]:
    """Tell boards that a run goes on at `step`: what is there from then on is of no run."""
    return _each(boards(loggers), lambda one: board.begin_again(one.experiment, step))


def _each(loggers: Iterable[Any], give: Callable[[Any], object]) -> list[tuple[Any, Exception]]:
    """Do the same for each logger, also after one that raises; these are returned, with why."""
    errors: list[tuple[Any, Exception]] = []
    for logger in loggers:
        try:
            give(logger)
        except Exception as error:
            errors.append((logger, error))
    return errors


def board_folders(loggers: Iterable[Any]) -> list[str]:
    """Where TensorBoard finds what is written."""
    return [str(one.log_dir).rstrip("/") for one in boards(loggers)]


def takes_pictures(loggers: Iterable[Any]) -> bool:
    """Whether any of the loggers shows pictures."""
    return any(_kind(logger) is not None for logger in loggers)


def boards(loggers: Iterable[Any]) -> list[Any]:
    """Those of the loggers that write TensorBoard's event files."""
    return [logger for logger in loggers if _kind(logger) == "TensorBoardLogger"]


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
