"""Event files: the record's series as they are on the disk, by TensorBoard's rules."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightning_saliency.record.format import PLUGIN
from lightning_saliency.record.versions import RecordError

_HEADER = struct.Struct("<QI")
_FOOTER = 4


@dataclass
class Track:
    """One tag of an event folder.

    Attributes:
        content: what its metadata says, as it was written.
        steps: those that TensorBoard shows, in order, each once.
        tensors: what is there at each, as protocol buffers.
        written: all steps and what was written there, as strings, in the order of the files.
    """

    content: bytes
    steps: list[int] = field(default_factory=list)
    tensors: list[Any] = field(default_factory=list)
    written: list[tuple[int, list[bytes]]] = field(default_factory=list)

    def take_back(self, step: int) -> None:
        """Leave out what is at this step or after it."""
        while self.steps and self.steps[-1] >= step:
            self.steps.pop()
            self.tensors.pop()

    def add(self, step: int, tensor: Any) -> None:
        """Take in what was written at a step: of a run that went back, the newest counts."""
        self.take_back(step)
        self.steps.append(step)
        self.tensors.append(tensor)
        self.written.append((step, list(tensor.string_val)))


def tracks(folder: Path) -> dict[str, Track]:
    """The series of our plugin in the event files of one folder, by tag.

    TensorBoard's readers leave out what stands at or after the step of a restart, or of a later
    event of the same tag with an earlier step. That goes by the order of the files, which is that
    of their names, so of several in one second it may be wrong: a record says itself what counts.
    """
    from tensorboard.compat.proto.event_pb2 import SessionLog

    found: dict[str, Track] = {}
    for path in event_files(folder):
        for event in events(path):
            if event.HasField("session_log") and event.session_log.status == SessionLog.START:
                for track in found.values():
                    track.take_back(event.step)
            for value in event.summary.value:
                plugin = value.metadata.plugin_data
                if plugin.plugin_name == PLUGIN:
                    track = found.setdefault(value.tag, Track(plugin.content))
                    track.add(event.step, value.tensor)
    return found


def event_files(folder: Path) -> list[Path]:
    """The event files of one folder, in the order in which TensorBoard reads them."""
    return sorted(path for path in folder.glob("*tfevents*") if path.is_file())


def event_folders(logdir: str | Path) -> list[Path]:
    """All folders below a log directory that hold event files: TensorBoard's runs.

    Raises:
        RecordError: there is no such folder.
    """
    root = Path(logdir)
    if not root.is_dir():
        raise RecordError(
            f"{str(logdir)!r} is {'a file' if root.exists() else 'not there'}. Give a log "
            "directory: the folder of a run's event files, or one that holds such folders."
        )
    found, seen = [], set()
    for folder, below, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # a link that leads back
            below.clear()
            continue
        seen.add(real)
        if any("tfevents" in name for name in files):
            found.append(Path(folder))
    return sorted(found)


def events(path: Path) -> Iterator[Any]:
    """The whole events of a file: one that is being written, or was torn, ends where it ends."""
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from tensorboard.compat.proto.event_pb2 import Event

    with path.open("rb") as file:
        while len(header := file.read(_HEADER.size)) == _HEADER.size:
            length, _ = _HEADER.unpack(header)
            # A length that was torn may say anything: no more is asked for than there is.
            if length > os.fstat(file.fileno()).st_size - file.tell():
                return
            data, footer = file.read(length), file.read(_FOOTER)
            if len(data) < length or len(footer) < _FOOTER:
                return
            try:
                event = Event.FromString(data)
            except DecodeError:
                return
            yield event
