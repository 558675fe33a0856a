"""A fit that is killed at some moment, resumed from its last checkpoint, and read back.

Run as a script it is the fit, and tells of its moments on its standard output.
"""

from __future__ import annotations

import os
import random
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from small_fits import board, trainer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.summary.writer.record_writer import masked_crc32c
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, DataLoader
from twin_runs import Images, Net, seed_streams

import lightning_saliency
from lightning_saliency import SaliencyMonitor
from lightning_saliency.record import read

EPOCHS = 3
OBSERVATIONS = 1 + 2 * EPOCHS
"""Of the untrained network, in the middle of each epoch and at its end."""

KINDS = ("observation", "validated", "training")
"""Of moments: inside an observation, after a validation and before its checkpoint, elsewhere."""

WAITS = ("observation", "validated")
"""Kinds of moments at which the fit stands still until it is killed or told to go on."""

CLOCKS = ("saliency/seconds", "saliency/overhead")

Tell = Callable[[str], None]
Points = dict[str, list[tuple[int, float]]]
"""Tag → (step, value), in the order in which they are read."""


class Telling:
    """A method of the user's, which tells that an observation is under way."""

    def __init__(self, tell: Tell) -> None:
        self.tell = tell

    def __call__(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        self.tell("observation")
        inputs.requires_grad_()
        score = model(inputs).gather(1, targets[:, None]).sum()
        (gradient,) = torch.autograd.grad(score, inputs)
        return gradient * inputs.detach()


class Steps(Callback):
    """Tells of each training batch, and of what is on the disk before the checkpoint is."""

    def __init__(self, tell: Tell) -> None:
        self.tell = tell

    def on_train_batch_start(self, *_: Any) -> None:
        self.tell("training")

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        if not trainer.sanity_checking:
            trainer.logger.experiment.flush()
            self.tell("validated")


def fit(folder: Path, tell: Tell = lambda kind: None) -> nn.Module:
    """Train to the end, from the last checkpoint in the folder if there is one.

    Lightning starts a loader anew in the middle of an epoch, so the second half of an epoch repeats
    the first: a resumed run sees the batches that it would have seen. What was killed before its
    first checkpoint is no run to go on with: the next one begins in an empty folder.
    """
    if last(folder) is None:
        for remains in folder.glob("*tfevents*"):
            remains.unlink()
    # TensorBoard reads files in the order of their names, which tell the second: a process that is
    # there already may go on within that of the one that was killed.
    while any(f".{int(time.time())}." in remains.name for remains in folder.glob("*tfevents*")):
        time.sleep(0.02)
    seed_streams()
    half = Images(24, seed=1)
    train: DataLoader[Any] = DataLoader(ConcatDataset([half, half]), batch_size=8)
    monitor = SaliencyMonitor(methods={"gradient": "saliency", "mine": Telling(tell)}, probes=4)
    # Every checkpoint is kept: which of them was the last is then read off the folder.
    saving = ModelCheckpoint(folder, filename="{step}", save_top_k=-1, every_n_epochs=1)
    fitting = trainer(
        callbacks=[monitor, saving, Steps(tell)],
        logger=board(folder),
        enable_checkpointing=True,
        max_epochs=EPOCHS,
        limit_train_batches=None,
        val_check_interval=3,
    )
    model = Net(dropout=0.0)
    fitting.fit(model, train, DataLoader(Images(12, seed=2), batch_size=8), ckpt_path=last(folder))
    return model


def last(folder: Path) -> str | None:
    """The newest checkpoint. One that was being written has another name."""
    saved = sorted(folder.glob("step=*.ckpt"), key=lambda path: int(path.stem.partition("=")[2]))
    return str(saved[-1]) if saved else None


def moments() -> tuple[Tell, list[str]]:
    """What writes down the kind of each moment, and where."""
    kinds: list[str] = []
    return kinds.append, kinds


def chosen(kinds: list[str], seed: int) -> int:
    """A random moment, of another kind for each next seed."""
    among = [index for index, kind in enumerate(kinds) if kind == KINDS[seed % len(KINDS)]]
    return among[random.Random(f"moment {seed}").randrange(len(among))]


def killed(folder: Path, moment: int) -> str:
    """Run the fit in another process, and kill it at the moment with this number.

    Where it trains it goes on until the signal comes; elsewhere it waits for it.

    Returns:
        The kind of the moment.
    """
    command = [sys.executable, "-W", "ignore", __file__, str(folder)]
    # The same package: a script does not look for it where the one that starts it did.
    here = str(Path(lightning_saliency.__file__).parents[1])
    path = os.pathsep.join([here, os.environ.get("PYTHONPATH", "")])
    threads = str(torch.get_num_threads())
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": threads}
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stderr is not None
        told = (line.split()[1] for line in child.stdout if line.startswith("moment "))
        for number, kind in enumerate(told):
            if number == moment:
                child.kill()
                child.wait()
                return kind
            if kind in WAITS:
                child.stdin.write("go on\n")
                child.stdin.flush()
        raise AssertionError(f"it ended before moment {moment}: {child.stderr.read()[-2000:]}")


def tell_parent(kind: str) -> None:
    print(f"moment {kind}", flush=True)
    if kind in WAITS:
        sys.stdin.readline()


def shown(folder: Path) -> Points:
    """The monitor's curves as TensorBoard shows the folder, but for the clocks."""
    read = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return {
        tag: [(one.step, one.value) for one in read.Scalars(tag)]
        for tag in sorted(read.Tags()["scalars"])
        if tag.startswith("saliency/") and tag not in CLOCKS
    }


def recorded(folder: Path) -> Points:
    """The same from the bytes of all event files: what a START takes back is left out."""
    points: Points = {}
    for path in sorted(folder.glob("*tfevents*")):
        for event in events(path.read_bytes()):
            if event.HasField("session_log") and event.session_log.status == SessionLog.START:
                points = {
                    tag: [one for one in line if one[0] < event.step]
                    for tag, line in points.items()
                }
            for value in event.summary.value:
                if value.tag.startswith("saliency/") and value.HasField("simple_value"):
                    points.setdefault(value.tag, []).append((event.step, value.simple_value))
    return {tag: points[tag] for tag in sorted(points) if tag not in CLOCKS and points[tag]}


def events(content: bytes) -> Iterator[Any]:
    """The whole records of an event file. Only its end may be torn: a damaged one is an error."""
    at = 0
    while at + 12 <= len(content):
        header = content[at : at + 8]
        (length,) = struct.unpack("<Q", header)
        assert content[at + 8 : at + 12] == struct.pack("<I", masked_crc32c(header))
        data = content[at + 12 : at + 12 + length]
        footer = content[at + 12 + length : at + 16 + length]
        if len(footer) < 4:
            return
        assert footer == struct.pack("<I", masked_crc32c(data))
        yield Event.FromString(data)
        at += 16 + length


def alike(one: Points, other: Points) -> bool:
    """Whether two readings are the same; a point that is undefined is the same as another."""
    return repr(one) == repr(other)


def history(folder: Path) -> list[Any]:
    """What is recorded of each observation and of its maps, but for the clocks and the marks."""
    found = read(folder)
    apart = {"time", "session", "since", "events", "numbers"}
    seen: list[Any] = [
        {key: value for key, value in one.items() if key not in apart} for one in found.observations
    ]
    return seen + [found.maps(method).tobytes() for method in found.methods]


@dataclass(frozen=True)
class Comparison:
    """The curves of a killed and resumed run beside those of an uninterrupted one.

    Attributes:
        points: of the drift curves.
        missing: points that are not there, of any curve.
        duplicate: points that are there more than once, or that should not be there.
        gap: max |Δ| of the values.
    """

    points: int
    missing: int
    duplicate: int
    gap: float


def compared(found: Points, expected: Points) -> Comparison:
    drift = [found.get(tag, []) for tag in expected if tag.endswith("/drift_previous")]
    missing = duplicate = 0
    gap = 0.0
    for tag in found.keys() | expected.keys():
        wanted, line = dict(expected.get(tag, [])), found.get(tag, [])
        missing += len(wanted.keys() - dict(line).keys())
        duplicate += len(line) - len(wanted.keys() & dict(line).keys())
        pairs = [(value, wanted[step]) for step, value in line if step in wanted]
        gap = max([gap, *(abs(one - other) for one, other in pairs if repr(one) != repr(other))])
    return Comparison(sum(map(len, drift)), missing, duplicate, gap)


if __name__ == "__main__":
    fit(Path(sys.argv[1]), tell_parent)
