"""What is particular to TensorBoard's event files."""

from __future__ import annotations

import shutil
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lightning_saliency.record.files import tracks
from lightning_saliency.record.format import PLUGIN

ROOM = 64 * 2**20
"""Bytes of a disk that no picture takes: they are left to numbers and checkpoints."""


def image_summary(tag: str, encoded: bytes) -> Any:
    """The event of one picture: TensorBoard passes an encoded image through untouched."""
    from tensorboard.compat.proto.summary_pb2 import Summary

    width, height = Image.open(BytesIO(encoded)).size
    image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=encoded)
    return Summary(value=[Summary.Value(tag=tag, image=image)])


def array_summary(tag: str, array: NDArray[np.float32]) -> Any:
    """The event of an array, which dashboards pass over and programs read back."""
    from tensorboard.compat.proto.summary_pb2 import DATA_CLASS_TENSOR, Summary, SummaryMetadata
    from tensorboard.util.tensor_util import make_tensor_proto

    plugin = SummaryMetadata.PluginData(plugin_name=PLUGIN)
    metadata = SummaryMetadata(plugin_data=plugin, data_class=DATA_CLASS_TENSOR)
    value = Summary.Value(tag=tag, tensor=make_tensor_proto(array), metadata=metadata)
    return Summary(value=[value])


def read_arrays(folder: str) -> dict[str, tuple[NDArray[np.int64], list[NDArray[np.float32]]]]:
    """What `array_summary` wrote into the event files of a folder: tag → steps and arrays.

    Reads as TensorBoard does: what a resumed run wrote anew counts once.
    """
    from tensorboard.util.tensor_util import make_ndarray

    return {
        tag: (np.array(track.steps, dtype=np.int64), [make_ndarray(one) for one in track.tensors])
        for tag, track in tracks(Path(folder)).items()
        if not track.content  # else it is a series of the record
    }


def write_summary(experiment: Any, summary: Any, step: int, now: float) -> None:
    """Write a summary and see it written, so that an error comes here and not at the next number.

    Args:
        experiment: a `SummaryWriter`.
        summary: of a picture.
        step: its x.
        now: its time, in seconds since 1970.

    Raises:
        OSError: it could not be written, or would take the last of the disk.
    """
    try:
        writer = experiment._get_file_writer()
        if _is_local(writer):
            free = shutil.disk_usage(writer.get_logdir()).free
            if 0 < free < summary.ByteSize() + ROOM:  # none is told by the disk itself, with why
                raise OSError(f"only {free / 2**20:.0f} MB are left on the disk")
        writer.add_summary(summary, step, now)
        _flush(writer)
    except Exception:
        revive(experiment)
        raise


def begin_again(experiment: Any, step: int) -> None:
    """Tell TensorBoard that a run goes on at `step`.

    What an ended run wrote in the same folder after the checkpoint would be there twice otherwise.
    This is the event that `SummaryWriter(purge_step=…)` writes.
    """
    from tensorboard.compat.proto.event_pb2 import Event, SessionLog

    # Twice: TensorBoard's own loader in Python takes the first of a run for its very beginning.
    for _ in range(2):
        started = Event(session_log=SessionLog(status=SessionLog.START))
        experiment._get_file_writer().add_event(started, step)


def flush(experiment: Any) -> None:
    """See in the file what the experiment was given."""
    _flush(experiment._get_file_writer())


def _flush(writer: Any) -> None:
    # A remote directory would be uploaded whole each time.
    if _is_local(writer):
        writer.flush()


def _is_local(writer: Any) -> bool:
    return "://" not in str(writer.get_logdir())


def revive(experiment: Any) -> None:
    """Let the experiment begin a new file if its writer died.

    TensorBoard's thread keeps the error that ended it, and raises it at whatever is logged next:
    the user's loss. Our picture may be what it died of.
    """
    try:
        experiment._get_file_writer().flush()
    except Exception:
        with suppress(Exception):
            experiment.close()
        experiment.file_writer = experiment.all_writers = None
