"""What the monitor costs: a CIFAR-sized fit with it ÷ the same fit without.

    python benchmarks/overhead.py [--epochs 12] [--train 50000] [--val 10000] [--width 8]
        [--threads 1] [--device cpu] [--clock cpu | wall]

Ten classes of structured 32 × 32 images, random crops and flips, a small resnet, a validation
after each epoch. Three fits: without the monitor, with the default one, and with SmoothGrad of 64
samples under ``budget=0.01``. They take turns in one process, from the middle of one epoch to that
of the next: what slows the machine slows all of them, and what a monitor draws after an observation
it draws beside its own fit. The share that the monitor's own clock tells stands beside: it does not
see what its thread takes from the training by drawing, the ratio does.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from timing import CLOCKS, ratio
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_saliency import SaliencyMonitor, SmoothGrad, monitor, progress

CLASSES, SIDE = 10, 32
Own: TypeAlias = dict[str, list[float]]
BATCH = 128


class Block(nn.Module):
    """Two convolutions and a shortcut."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(before, width, 3, stride, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, 1, 1, bias=False),
            nn.BatchNorm2d(width),
        )
        self.shortcut = nn.Conv2d(before, width, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.shortcut(x))


class SmallResNet(LightningModule):
    """Three stages of one block each."""

    def __init__(self, width: int) -> None:
        super().__init__()
        stages = [
            Block(before, after, stride)
            for before, after, stride in (
                (width, width, 1),
                (width, 2 * width, 2),
                (2 * width, 4 * width, 2),
            )
        ]
        self.stem = nn.Conv2d(3, width, 3, 1, 1)
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(4 * width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self.stages(self.stem(x)).mean((2, 3)))
        return scores

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        x = F.pad(x, (4, 4, 4, 4))
        down, right = (int(one) for one in torch.randint(0, 9, (2,)))
        x = x[..., down : down + SIDE, right : right + SIDE]
        return F.cross_entropy(self(x.flip(-1) if torch.rand(()) < 0.5 else x), y)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.log("val_loss", F.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


def examples(count: int, seed: int) -> TensorDataset:
    """A pattern for each class, somewhere in noise."""
    own = torch.Generator().manual_seed(seed)
    patterns = torch.randn(CLASSES, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    images = 0.5 * torch.randn(count, 3, SIDE, SIDE, generator=own)
    labels = torch.randint(0, CLASSES, (count,), generator=own)
    places = torch.randint(0, SIDE - 12, (count, 2), generator=own).tolist()
    for image, label, (row, column) in zip(images, labels.tolist(), places, strict=True):
        image[:, row : row + 12, column : column + 12] += patterns[label]
    return TensorDataset(images, labels)


class Turns:
    """One fit runs, the others wait: a clock for each, which stands while it waits.

    Args:
        names: of the fits, in the order of their turns.
        clock: of the process.
    """

    def __init__(self, names: Sequence[str], clock: Callable[[], float]) -> None:
        self._waiting = {name: threading.Semaphore(0) for name in names}
        self._order, self._clock = list(names), clock
        self.rounds: dict[str, list[float]] = {name: [] for name in names}
        self._own = threading.local()

    def take(self, name: str) -> None:
        """Wait for the first turn."""
        self._waiting[name].acquire()
        self._own.stood, self._own.begun = time.perf_counter(), self._clock()

    def start(self) -> None:
        """Give the first fit its turn."""
        self._waiting[self._order[0]].release()

    def pass_on(self, name: str, *, ended: bool = False) -> None:
        """End a turn, and wait for the next unless the fit ended."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()  # what a GPU was told to do is of this turn
        self.rounds[name].append(self._clock() - self._own.begun)
        place, left = self._order.index(name), time.perf_counter()
        following = self._order[(place + 1) % len(self._order)]
        if ended:
            self._order.remove(name)
        if ended or following != name:
            self._waiting[following].release()
        if not ended and following != name:
            self._waiting[name].acquire()
        self._own.stood += time.perf_counter() - left
        self._own.begun = self._clock()

    def __getattr__(self, name: str) -> Any:
        """All other clocks are those of everybody."""
        return getattr(time, name)

    def perf_counter(self) -> float:
        """Seconds of this thread's turns: what the monitor takes for the time."""
        return time.perf_counter() - getattr(self._own, "stood", 0.0)


class Told(Callback):
    """Say which epoch is done, since a fit takes minutes, and let the other fits have theirs."""

    def __init__(self, name: str, turns: Turns) -> None:
        self.name, self.turns = name, turns

    def on_train_batch_end(self, trainer: Trainer, *given: Any) -> None:
        if given[-1] == int(trainer.num_training_batches) // 2:
            watching: Any = trainer
            for one in watching.callbacks:
                if isinstance(one, SaliencyMonitor):
                    one._teller.writer.drain()  # what it draws is of its own turn
            self.turns.pass_on(self.name)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        print(f"  {self.name}: epoch {trainer.current_epoch + 1}", flush=True)


def fit(callbacks: list[Callback], data: list[TensorDataset], given: Any) -> Own:
    """What the monitor logged of its own."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            max_epochs=given.epochs,
            accelerator="cpu" if given.device == "cpu" else "gpu",
            devices=1,
            callbacks=callbacks,
            logger=TensorBoardLogger(folder, name="", version=""),
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        train = DataLoader(data[0], batch_size=BATCH, shuffle=True)
        trainer.fit(SmallResNet(given.width), train, DataLoader(data[1], batch_size=BATCH))
        return told(Path(folder))


def in_turns(
    fits: Mapping[str, list[Callback]], data: list[TensorDataset], given: Any
) -> tuple[Mapping[str, list[float]], dict[str, Own]]:
    """Seconds of each turn of each fit, the first with the start; and what monitors logged."""
    turns = Turns(list(fits), CLOCKS[given.clock])
    found: dict[str, Own] = {}
    failed: list[Exception] = []
    for module in (progress, monitor):
        setattr(module, "time", turns)  # noqa: B010

    def run(name: str, callbacks: list[Callback]) -> None:
        turns.take(name)
        torch.set_num_threads(given.threads)
        try:
            found[name] = fit([*callbacks, Told(name, turns)], data, given)
        except Exception as error:
            failed.append(error)
        finally:
            turns.pass_on(name, ended=True)

    threads = [threading.Thread(target=run, args=one) for one in fits.items()]
    for thread in threads:
        thread.start()
    turns.start()
    for thread in threads:
        thread.join()
    for error in failed:
        raise error
    return turns.rounds, found


def told(folder: Path) -> Own:
    """Tag → values of what the monitor tells of its own cost."""
    read = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    tags = [
        tag for tag in ("saliency/seconds", "saliency/overhead") if tag in read.Tags()["scalars"]
    ]
    return {tag: [one.value for one in read.Scalars(tag)] for tag in tags}


def main(given: Any) -> None:
    """Measure and print."""
    torch.set_num_threads(given.threads)
    data = [examples(given.train, 1), examples(given.val, 2)]
    smooth: dict[str, Any] = {"smooth": SmoothGrad(samples=64)}
    fits: dict[str, list[Callback]] = {
        "without": [],
        "default": [SaliencyMonitor()],
        "SmoothGrad of 64, budget 0.01": [SaliencyMonitor(smooth, budget=0.01)],
    }
    seconds, logged = in_turns(fits, data, given)
    print(
        f"\n{given.train:,} + {given.val:,} images, {given.epochs} epochs, {given.device}, "
        f"{given.threads} thread, {given.clock} clock: {sum(seconds['without']):.0f} s without the "
        f"monitor\n{'':32}{'÷ without':>10}{'a turn':>20}{'share':>8}{'taken':>7}{'s each':>8}"
    )
    for name, own in logged.items():
        if own:
            times, share = own["saliency/seconds"], own["saliency/overhead"][-1]
            whole = sum(seconds[name]) / sum(seconds["without"])
            one = ratio(seconds, [name], ["without"])
            taken = f"{len(times)}/{given.epochs + 1}"
            print(
                f"{name:32}{whole:10.3f}{one!s:>20}{share:8.4f}{taken:>7}{statistics.median(times):8.2f}"
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--train", type=int, default=50_000)
    parser.add_argument("--val", type=int, default=10_000)
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--clock", default="cpu", choices=list(CLOCKS))
    main(parser.parse_args())
