"""The log is an API: its table is shown where people look, and what is written comes back."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from numpy.typing import NDArray
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_saliency import SaliencyMonitor
from lightning_saliency.errors import ConfigurationError
from lightning_saliency.logs import TAGS, table
from lightning_saliency.writer import PictureWriter

README = Path(__file__).parents[1] / "README.md"


def picture() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 255, (40, 80, 3), dtype=np.uint8)


def fail(error: BaseException, step: int, what: str) -> None:
    raise AssertionError(f"unexpected failure on the thread at {step}") from error


def read(folder: str) -> EventAccumulator:
    events = EventAccumulator(folder, size_guidance={"images": 0, "scalars": 0, "tensors": 0})
    events.Reload()
    return events


def test_readme_shows_the_table() -> None:
    assert table() in README.read_text()


def test_docstring_shows_the_table() -> None:
    doc = " ".join((SaliencyMonitor.__doc__ or "").split())
    for tag in TAGS:
        assert f"``{tag.pattern}`` ({tag.kind}): {' '.join(tag.content.split())}" in doc


def test_a_png_comes_back_as_it_was(tmp_path: Path) -> None:
    board = TensorBoardLogger(tmp_path)
    writer = PictureWriter("png", fail)
    writer.write([board], {"saliency/a": picture}, 7)
    writer.close()
    (image,) = read(board.log_dir).Images("saliency/a")
    assert (image.step, image.width, image.height) == (7, 80, 40)
    np.testing.assert_array_equal(Image.open(io.BytesIO(image.encoded_image_string)), picture())


def test_no_second_event_file(tmp_path: Path) -> None:
    board = TensorBoardLogger(tmp_path)
    board.log_metrics({"loss": 1.0}, step=0)
    writer = PictureWriter("jpeg", fail)
    for step in range(3):
        writer.write([board], {"saliency/a": picture}, step)
    writer.close()
    assert len(list(Path(board.log_dir).glob("*tfevents*"))) == 1
    assert [image.step for image in read(board.log_dir).Images("saliency/a")] == [0, 1, 2]


def test_pictures_are_drawn_on_another_thread(tmp_path: Path) -> None:
    threads: list[threading.Thread] = []

    def draw() -> NDArray[np.uint8]:
        threads.append(threading.current_thread())
        return picture()

    writer = PictureWriter("jpeg", fail)
    writer.write([TensorBoardLogger(tmp_path)], {"saliency/a": draw}, 0)
    writer.drain()
    (drawn_on,) = threads
    assert drawn_on is not threading.current_thread()
    writer.close()
    assert not drawn_on.is_alive()


def test_a_picture_that_fails_stops_nothing(tmp_path: Path) -> None:
    told: list[BaseException] = []
    board = TensorBoardLogger(tmp_path)
    writer = PictureWriter("png", lambda error, step, what: told.append(error))

    def broken() -> NDArray[np.uint8]:
        raise OSError("no space left on device")

    writer.write([board], {"saliency/a": broken}, 0)
    writer.write([board], {"saliency/a": picture}, 1)
    writer.close()
    assert [str(error) for error in told] == ["no space left on device"]
    assert [image.step for image in read(board.log_dir).Images("saliency/a")] == [1]


def test_a_disk_that_fills_at_the_flush_ends_no_thread() -> None:
    class Full:
        def __getattr__(self, name: str) -> Callable[..., Any]:
            return lambda *_: "."

        def flush(self) -> None:
            raise OSError("no space left on device")

    told: list[BaseException] = []
    experiment = type("Experiment", (), {"_get_file_writer": lambda self: Full()})()
    board = type("TensorBoardLogger", (), {"experiment": experiment})()
    writer = PictureWriter("png", lambda error, step, what: told.append(error))
    for step in range(2):
        writer.write([board], {"saliency/a": picture}, step)
        writer.drain()
    writer.close()
    assert [str(error) for error in told] == ["no space left on device"] * 2


def test_a_folder_that_cannot_be_written_to_stops_nothing() -> None:
    def denied(self: object) -> None:
        raise PermissionError("read-only file system")

    told: list[BaseException] = []
    board = type("TensorBoardLogger", (), {"experiment": property(denied)})()
    PictureWriter("png", lambda error, step, what: told.append(error)).write(
        [board], {"saliency/a": picture}, 0
    )
    assert [type(error) for error in told] == [PermissionError]


def test_a_closed_writer_can_be_used_again(tmp_path: Path) -> None:
    board = TensorBoardLogger(tmp_path)
    writer = PictureWriter("png", fail)
    for step in range(2):
        writer.write([board], {"saliency/a": picture}, step)
        writer.close()
    assert len(read(board.log_dir).Images("saliency/a")) == 2


def test_loggers_without_pictures_are_passed_over(tmp_path: Path) -> None:
    def draw() -> NDArray[np.uint8]:
        raise AssertionError("nobody takes this picture")

    writer = PictureWriter("jpeg", fail)
    writer.write([CSVLogger(tmp_path)], {"saliency/a": draw}, 0)
    writer.close()


class Recorder:
    """Stands where a client's object stands, and writes down what it is asked."""

    def __init__(self, calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]]) -> None:
        self._calls = calls

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args, **kwargs: self._calls.append((name, args, kwargs))

    def __getitem__(self, key: str) -> Recorder:
        self._calls.append(("[]", (key,), {}))
        return self


def logger_named(name: str, calls: list[Any], **attributes: Any) -> Any:
    """A logger whose class has the name of one of Lightning's, with a recording client."""
    return type(name, (), {"experiment": Recorder(calls), **attributes})()


def test_wandb_is_given_a_list_of_images() -> None:
    calls: list[Any] = []
    log_image = lambda self, key, images, step: calls.append((key, len(images), step))  # noqa: E731
    writer = PictureWriter("jpeg", fail)
    writer.write(
        [logger_named("WandbLogger", calls, log_image=log_image)], {"saliency/a": picture}, 3
    )
    assert calls == [("saliency/a", 1, 3)]


def test_mlflow_is_given_an_array_with_key_and_step() -> None:
    calls: list[Any] = []
    writer = PictureWriter("jpeg", fail)
    writer.write([logger_named("MLFlowLogger", calls, run_id="r1")], {"saliency/a": picture}, 3)
    ((name, args, kwargs),) = calls
    assert name == "log_image"
    assert args[0] == "r1"
    np.testing.assert_array_equal(args[1], picture())
    assert kwargs == {"key": "saliency.a", "step": 3}


def test_comet_and_neptune_are_given_the_step() -> None:
    calls: list[Any] = []
    loggers = [logger_named("CometLogger", calls), logger_named("NeptuneLogger", calls)]
    PictureWriter("jpeg", fail).write(loggers, {"saliency/a": picture}, 3)
    comet, at, neptune = calls
    assert (comet[0], comet[2]) == ("log_image", {"name": "saliency/a", "step": 3})
    assert at == ("[]", ("saliency/a",), {})
    assert (neptune[0], neptune[2]) == ("append", {"step": 3})


def test_an_unknown_format_is_told() -> None:
    with pytest.raises(ConfigurationError, match=r"picture_format='gif'.*'jpeg'"):
        PictureWriter("gif", fail)  # type: ignore[arg-type]
