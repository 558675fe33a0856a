"""Scenes of a fit on two ranks. Run as a script it is one of the ranks, and plays them in order.

A scene leaves what it found in a file of its own for each rank.
"""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from small_fits import Net, board, images, labels, loader, trainer
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.utils.data import DataLoader, IterableDataset

import lightning_saliency.finding as room
from lightning_saliency import (
    Audits,
    ClassModel,
    Faithfulness,
    Saliency,
    SaliencyMonitor,
    SaliencyWarning,
)
from lightning_saliency.attribution import (
    RISE,
    AblationCAM,
    GradCAM,
    KernelSHAP,
    Method,
    ScoreCAM,
    Subject,
)
from lightning_saliency.record import read
from lightning_saliency.sighting import Sighting
from lightning_saliency.snapshot import Snapshot

RANK = int(os.environ.get("RANK", "0"))
METHODS: Any = {
    "gradient": "saliency",
    "smooth": "smooth_grad",
    "cam": "grad_cam",
    "rise": RISE(masks=6, cells=4),
    "score": ScoreCAM(),
    "ablation": AblationCAM(),
    "shap": KernelSHAP(samples=14, cells=2),
}

Found = dict[str, Any]


class Normed(Net):
    """With a BatchNorm whose running statistics are each rank's own."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.features = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True)
        )
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3))
        norm: Any = self.features[1]
        norm.running_mean += RANK

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)

    def encode(self, x: Tensor) -> Tensor:
        """The same under another name."""
        scores: Tensor = self.head(self.features(x))
        return scores


class Sharded(Normed):
    """The same, sharded by its author as FSDP 2 wants it."""

    def configure_model(self) -> None:
        if getattr(self, "sharded", False):
            return
        self.sharded = True
        mesh = self.device_mesh["data_parallel"]  # type: ignore[index]
        for part in self.units():
            fully_shard(part, mesh=mesh)

    def units(self) -> tuple[nn.Module, ...]:
        """What is sharded by itself, from within."""
        return self.features, self.head, self


class Fresh(Sharded):
    """A net whose scores read the last layer, `more`, by a factor, through a head of zeros."""

    def __init__(self, kind: str, factor: float) -> None:
        super().__init__()
        self.sharded, self.factor = kind != "fsdp2", factor
        self.more = nn.Conv2d(4, 4, 3, padding=1)
        self.last = nn.Linear(4, 3)
        nn.init.zeros_(self.last.weight)
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), self.last)

    def forward(self, x: Tensor) -> Tensor:
        seen = self.features(x)
        scores: Tensor = self.head(seen + self.factor * self.more(seen))
        return scores

    def units(self) -> tuple[nn.Module, ...]:
        return self.last, *super().units()


class FSDPStrategyOnCPU(FSDPStrategy):
    """FSDP 1, which asks for an accelerator otherwise."""

    def _setup_model(self, model: nn.Module) -> nn.Module:
        def wraps(module: nn.Module, recurse: bool, **_: Any) -> bool:
            return recurse or isinstance(module, nn.Sequential)

        return FullyShardedDataParallel(
            model,
            device_id=torch.device("cpu"),
            mixed_precision=self.mixed_precision_config,
            auto_wrap_policy=wraps,
            use_orig_params=True,
        )


def strategy(kind: str) -> Any:
    if kind == "fsdp1":
        return FSDPStrategyOnCPU(state_dict_type="full")
    if kind == "fsdp2":
        return ModelParallelStrategy(
            data_parallel_size=2, tensor_parallel_size=1, save_distributed_checkpoint=False
        )
    return kind


def fit(
    kind: str,
    folder: Path,
    monitor: SaliencyMonitor | None,
    *,
    validation: Any = None,
    resume: Path | None = None,
    net: Normed | None = None,
    **given: Any,
) -> tuple[Trainer, Normed]:
    """A short fit; `kind` is ``one`` for a single process."""
    if net is None:
        net = Sharded() if kind == "fsdp2" else Normed()
    several = {} if kind == "one" else {"devices": 2, "strategy": strategy(kind)}
    callbacks = given.pop("callbacks", [])
    run = trainer(
        callbacks=[*callbacks, *([] if monitor is None else [monitor])],
        logger=board(folder),
        **several | given,
    )
    data = loader(images(64), labels(64), batch_size=8)
    if validation is None:
        validation = loader(images(64), labels(64), batch_size=8)
    run.fit(net, data, validation, ckpt_path=resume)
    return run, net


@contextmanager
def seen() -> Iterator[list[Sighting]]:
    """What each observation saw, before it is scaled and rounded."""
    kept: list[Sighting] = []

    class Keeping(Snapshot):
        @classmethod
        def of(cls, sighting: Sighting, **given: Any) -> Snapshot:
            kept.append(sighting)
            return Snapshot.of(sighting, **given)

    setattr(room, "Snapshot", Keeping)  # noqa: B010
    try:
        yield kept
    finally:
        setattr(room, "Snapshot", Snapshot)  # noqa: B010


def recorded(folder: Path) -> dict[str, Tensor]:
    """All that the record of a fit holds of its probes."""
    history = read(folder)
    found = {f"maps {name}": torch.from_numpy(history.maps(name)) for name in history.methods}
    found["predictions"] = torch.from_numpy(history.predictions)
    return found | {"steps": torch.from_numpy(history.steps)}


def digest(net: nn.Module) -> str:
    """Of this rank's weights and buffers."""
    whole = hashlib.sha256()
    for value in (*net.parameters(), *net.buffers()):
        local: Any = getattr(value, "_local_tensor", value)
        whole.update(local.detach().contiguous().numpy().tobytes())
    return whole.hexdigest()


def logged(run: Trainer) -> dict[str, float]:
    """What ModelCheckpoint and EarlyStopping can read."""
    return {
        name: float(value)
        for name, value in run.callback_metrics.items()
        if name.startswith("saliency/")
    }


class OnRankOne:
    """Stands for a function, and raises on rank 1 from its n-th call on."""

    def __init__(self, function: Callable[..., Any], error: Exception, start: int, times: int = 99):
        self.function, self.error = function, error
        self.turns, self.calls = range(start, start + times), 0

    def __call__(self, *args: Any) -> Any:
        self.calls += 1
        if RANK == 1 and self.calls - 1 in self.turns:
            raise self.error
        return self.function(*args)


def margin(outputs: Tensor, classes: Tensor) -> Tensor:
    return outputs.gather(1, classes[:, None])[:, 0]


def probes_of(count: int) -> Callable[[str, Path], Found]:
    """The first observation of so many probes, and what is logged of the fit."""

    def scene(kind: str, folder: Path) -> Found:
        concepts = ClassModel([0, 2], steps=3, l2=1.0, mean=0.3)
        every = 1 if count < 8 else 2  # the first and the last observation of many take long enough
        given: dict[str, Any] = {"class_models": concepts, "every": every, "on_error": "raise"}
        monitor = SaliencyMonitor(METHODS, count, **given)
        with seen() as kept:
            run, net = fit(kind, folder, monitor)
        (first, *_) = monitor.state_dict()["memory"]["columns"]
        return {
            "concepts": {name: first[name].float() for name in ("concepts", "reached")},
            "rows": kept[0].rows(),
            "logged": logged(run),
            "weights": digest(net),
            "files": len(list(folder.glob("*tfevents*"))),
            "recorded": recorded(folder) if RANK == 0 else {},  # the others don't wait for its disk
        }

    return scene


def alone(kind: str, folder: Path) -> Found:
    """The fit without a monitor."""
    return {"weights": digest(fit(kind, folder, None)[1])}


def calls_backward(model: Any, inputs: Tensor, targets: Tensor) -> Tensor:
    """A method as many people write it: it fills every `.grad`."""
    inputs.requires_grad_()
    score: Any = margin(model(inputs), targets).sum()
    score.backward()
    assert inputs.grad is not None
    return inputs.grad


def accumulated(kind: str, folder: Path) -> Found:
    """Gradients wait while the validation is watched, also by somebody who calls `backward`."""
    given: dict[str, Any] = {
        "accumulate_grad_batches": 3,
        "val_check_interval": 2,
        "limit_train_batches": 4,
    }
    plain = digest(fit(kind, folder / "a", None, **given)[1])
    methods = {**METHODS, "mine": calls_backward}
    run, net = fit(kind, folder / "b", SaliencyMonitor(methods, 5, on_error="raise"), **given)
    return {"same": digest(net) == plain, "logged": logged(run)}


class Rooted(Normed):
    """A part of its weights belongs to no part of it."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self.features(x)) + self.bias
        return scores


class ShardedRooted(Rooted, Sharded):
    """The same, sharded by its author."""


def audited(kind: str, folder: Path) -> Found:
    """Audits while gradients wait, also those of weights at the root."""
    given: dict[str, Any] = {
        "accumulate_grad_batches": 3,
        "val_check_interval": 2,
        "limit_train_batches": 4,
        "max_epochs": 1,
    }
    make = ShardedRooted if kind == "fsdp2" else Rooted
    plain = digest(fit(kind, folder / "a", None, net=make(), **given)[1])
    methods: Any = {"gradient": "saliency", "cam": "grad_cam"}
    audits = Audits(1, Faithfulness(steps=3))
    monitor = SaliencyMonitor(methods, 5, audits=audits, on_error="raise")
    run, net = fit(kind, folder / "b", monitor, net=make(), **given)
    return {"same": digest(net) == plain, "logged": logged(run)}


def by_name(kind: str, folder: Path) -> Found:
    """What is called is a method of the module, not its forward."""
    given: dict[str, Any] = {"probes": 3, "on_error": "raise"}
    with seen() as kept:
        fit(kind, folder, SaliencyMonitor(METHODS, forward="encode", **given))
    return {"rows": kept[0].rows()}


def survived(**monitor: Any) -> Callable[[str, Path], Found]:
    """A failure on rank 1: what each rank logs, says and is left with."""

    def scene(kind: str, folder: Path) -> Found:
        given = {name: value() if callable(value) else value for name, value in monitor.items()}
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            run, net = fit(kind, folder, SaliencyMonitor(probes=5, **given))
        words = [str(one.message) for one in told if one.category is SaliencyWarning]
        return {"told": words, "logged": logged(run), "weights": digest(net)}

    return scene


def ended(**monitor: Any) -> Callable[[str, Path], Found]:
    """A failure on rank 1 that stops the fit: the error of each rank."""

    def scene(kind: str, folder: Path) -> Found:
        given = {name: value() if callable(value) else value for name, value in monitor.items()}
        try:
            fit(kind, folder, SaliencyMonitor(probes=5, **given))
        except Exception as error:
            return {"error": f"{type(error).__name__}: {error}"}
        return {"error": ""}

    return scene


def broken(start: int) -> Callable[[], dict[str, Any]]:
    """A method that fails on rank 1, beside one that does not."""
    plain = lambda model, inputs, targets: inputs  # noqa: E731
    return lambda: {"gradient": Saliency(), "mine": OnRankOne(plain, KeyError("boom"), start)}


def target(error: Exception, start: int, times: int = 99) -> Callable[[], OnRankOne]:
    """The scalar between the forward and the backward pass fails on rank 1."""
    return lambda: OnRankOne(margin, error, start, times)


@dataclass(frozen=True)
class Unbound(Saliency):
    """A method that can't be bound on rank 1."""

    def bind(self, subject: Subject, inputs: Tensor) -> Method:
        if RANK == 1:
            raise KeyError("boom")
        return self


def stripes(image: Tensor) -> Tensor:
    """Two segments on rank 0, three on rank 1."""
    columns = torch.arange(image.shape[2]) // (4 if RANK == 0 else 3)
    return columns.expand(image.shape[1:])


def unlike(kind: str, folder: Path) -> Found:
    """Numbers and functions that say something else on rank 1, and decide what is looked at."""
    sharded = kind.startswith("fsdp")
    # Where they are sharded, ranks also search together: what they search in is rank 0's.
    net = Fresh(kind, 0.0 if sharded else float(RANK))
    norm: Any = net.features[1]
    norm.running_mean += 100 * RANK  # after it no unit is active
    methods: Any = {
        "ablation": AblationCAM(),
        "cam": GradCAM(),
        "shap": KernelSHAP(samples=6, segments=stripes),
    }
    monitor = SaliencyMonitor(methods, 3, on_error="raise")
    run, _ = fit(kind, folder, monitor, net=net)
    assert monitor._session is not None
    bound: Any = monitor._session.methods
    return {
        "layers": (bound["cam"].layer, bound["ablation"].layer),
        "folds": bound["ablation"].folds,
        "counts": bound["shap"].counts,
        "labels": bound["shap"].labels,
        "logged": logged(run),
    }


def streamed(kind: str, folder: Path) -> Found:
    """Each rank gets its own part of the data; rank 0's first examples are watched."""

    class Stream(IterableDataset[Any]):
        def __iter__(self) -> Any:
            return iter(zip(images(64)[RANK::2], labels(64)[RANK::2], strict=True))

    stream = DataLoader(Stream(), batch_size=4)
    with seen() as kept:
        run, _ = fit(kind, folder, SaliencyMonitor(probes=3, on_error="raise"), validation=stream)
    return {"rows": kept[0].rows(), "logged": logged(run)}


def resumed(kind: str, folder: Path) -> Found:
    """Two epochs at once, and one after the other."""
    whole, _ = fit(kind, folder / "whole", SaliencyMonitor(METHODS, 5, on_error="raise"))
    saving = ModelCheckpoint(folder, filename="first")
    given: dict[str, Any] = {"enable_checkpointing": True, "num_sanity_val_steps": 0}
    first = SaliencyMonitor(METHODS, 5, on_error="raise")
    fit(kind, folder / "a", first, callbacks=[saving], max_epochs=1, **given)
    again = SaliencyMonitor(METHODS, 5, on_error="raise")
    run, _ = fit(
        kind,
        folder / "b",
        again,
        resume=folder / "first.ckpt",
        **given | {"enable_checkpointing": False},
    )
    return {"whole": logged(whole), "resumed": logged(run)}


def advised(kind: str, folder: Path) -> Found:
    """What Lightning says of our numbers."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        fit(kind, folder, SaliencyMonitor(probes=3, on_error="raise"))
    return {"told": [str(one.message) for one in told]}


def spent(kind: str, folder: Path) -> Found:
    """A budget that allows the first and the last observation only, on clocks that differ."""
    monitor = SaliencyMonitor(probes=3, budget=1e-6 if RANK == 0 else 1.0, on_error="raise")
    fit(kind, folder, monitor, max_epochs=4)
    return {"count": monitor.state_dict()["memory"]["count"]}


SCENES: dict[str, Callable[[str, Path], Found]] = {
    "advised": advised,  # the first: Lightning says each thing once in a process
    **{f"probes {count}": probes_of(count) for count in (1, 3, 7, 64)},
    "alone": alone,
    "accumulated": accumulated,
    "audited": audited,
    "by name": by_name,
    "a method": survived(methods=broken(1)),
    "a target": survived(target=target(KeyError("boom"), 1)),
    "memory": survived(target=target(MemoryError("none left"), 2, 1), chunk=4),
    "raise": ended(methods=broken(1), on_error="raise"),
    "from the start": ended(methods=broken(0)),
    "unbound": ended(methods=lambda: {"mine": Unbound(), "cam": "grad_cam"}),
    "unlike": unlike,
    "stream": streamed,
    "resumed": resumed,
    "spent": spent,
}


def play(kind: str, scenes: Sequence[str], folder: Path, *, limit: float = 150.0) -> None:
    """Play scenes on two ranks.

    Raises:
        AssertionError: a rank ended with an error, or none came to an end in time; with what both
            printed.
    """
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    with ExitStack() as scope:
        workers = []
        for rank in range(2):
            # Not a pipe: a rank that fills one waits for ever, and the other for it.
            printed = scope.enter_context((folder / f"rank {rank}.log").open("w"))
            worker = subprocess.Popen(
                [sys.executable, __file__, kind, str(folder), *scenes],
                env={**os.environ, **job(rank, port)},
                stdout=printed,
                stderr=subprocess.STDOUT,
            )
            scope.callback(worker.wait)
            scope.callback(worker.kill)
            workers.append(worker)
        try:
            codes = [worker.wait(limit) for worker in workers]
        except subprocess.TimeoutExpired:
            codes = [-1]
    logs = "\n".join((folder / f"rank {rank}.log").read_text()[-4000:] for rank in range(2))
    assert codes == [0, 0], f"{kind}: {'hangs' if codes == [-1] else 'ended'}\n{logs}"


def job(rank: int, port: str) -> dict[str, str]:
    """What tells Lightning that the processes are there already."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "GROUP_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "TORCHELASTIC_RUN_ID": "ranks",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }


def found(folder: Path, scene: str, rank: int) -> Found:
    result: Found = torch.load(folder / scene / f"{rank}.pt", weights_only=False)
    return result


if __name__ == "__main__":
    kind, folder, *names = sys.argv[1:]
    for name in names:
        print(f"--- {name}", flush=True)
        place = Path(folder) / name
        result = SCENES[name](kind, place)
        place.mkdir(parents=True, exist_ok=True)
        torch.save(result, place / f"{RANK}.pt")
    torch.distributed.destroy_process_group()
