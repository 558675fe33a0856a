"""Twin runs: the same training twice, with and without a callback, and the gap between the two."""

from __future__ import annotations

import csv
import pickle
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch import Callback, Trainer, callbacks
from lightning.pytorch.callbacks import StochasticWeightAveraging
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.utils.data import DataLoader
from twin_nets import Images as Images
from twin_nets import Net as Net
from twin_nets import bits

SALIENCY = "saliency"

AVERAGING: Any = getattr(callbacks, "EMAWeightAveraging", None)
"""Lightning's average of weights, where there is one: from 2.6 on."""

SHARDS_ON_A_CPU = hasattr(torch.cpu.Stream, "record_event")
"""Whether FSDP runs there: it asks streams of the CPU for what newer releases of torch have."""


@dataclass(frozen=True)
class Setup:
    """One way to train. Six batches an epoch and process, the last smaller if none is compiled."""

    epochs: int = 2
    workers: int = 0
    augmented: bool = False
    loaders: int = 1
    manual: bool = False
    average: Literal["", "before", "after", "swa"] = ""
    """Where an averaging callback stands, as seen from the callback under test."""
    verb: Literal["fit", "validate", "test"] = "fit"
    pictures: bool = False
    trainer: tuple[tuple[str, Any], ...] = ()
    net: type[Net] = Net
    compiled: Literal["", "module", "method"] = ""
    """``torch.compile(module)``, or ``module.compile()``."""
    backend: str = "aot_eager"
    processes: int = 1
    spawned: bool = False
    """Whether the Trainer starts the processes itself, so that they end with the run."""
    made: Callable[[], dict[str, Any]] = dict
    """Options of the Trainer that are made anew for each run: strategies, plugins."""


@dataclass(frozen=True)
class Trace:
    """All that a run leaves behind but for what the monitor itself logs, which is `observed`."""

    weights: dict[str, Any]
    buffers: dict[str, Any]
    flags: dict[str, Any]
    hooks: dict[str, Any]
    gradients: dict[str, Any]
    optimizers: Any
    scaler: Any
    streams: Any
    batches: Any
    metrics: Any
    graphs: Any
    """How many graphs torch.compile has made."""
    observed: dict[str, float]


def seed_streams() -> None:
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)


def trainer_for(setup: Setup, listed: list[Callback], folder: Path) -> Trainer:
    """A Trainer whose loggers write below `folder`."""
    loggers: list[Any] = [CSVLogger(folder, name="", version="")]
    if setup.pictures:
        loggers.append(TensorBoardLogger(folder, name="", version=""))
    if setup.average == "swa":
        listed = [*listed, StochasticWeightAveraging(swa_lrs=0.01, swa_epoch_start=1)]
    elif setup.average:
        average = AVERAGING(decay=0.8)
        listed = [average, *listed] if setup.average == "before" else [*listed, average]
    options: dict[str, Any] = {
        "max_epochs": setup.epochs,
        "accelerator": "cpu",
        "devices": setup.processes,
        "callbacks": listed,
        "logger": loggers,
        "log_every_n_steps": 2,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 1,
    }
    return Trainer(**options | dict(setup.trainer) | setup.made())


def train_loader(setup: Setup) -> DataLoader[Any]:
    # Of a compiled model each size of a batch is another graph, and each takes seconds.
    images = Images(
        (48 if setup.compiled else 44) * setup.processes, seed=1, augmented=setup.augmented
    )
    return DataLoader(images, batch_size=8, shuffle=True, num_workers=setup.workers)


def val_loaders(setup: Setup) -> Any:
    loaders = [
        DataLoader(
            Images(
                (16 if setup.compiled else 12) * setup.processes,
                seed=2 + index,
                augmented=setup.augmented,
            ),
            batch_size=8,
            num_workers=setup.workers,
        )
        for index in range(setup.loaders)
    ]
    return loaders if len(loaders) > 1 else loaders[0]


def run(setup: Setup, callbacks: Callable[[], list[Callback]], folder: Path) -> Trace:
    """Train as `setup` says with the callbacks, and tell what is left.

    The callbacks are made after seeding and before the model, as LightningCLI does. Where the
    Trainer starts the processes, the trace is that of all of them; else that of this process.
    """
    torch._dynamo.reset()
    seed_streams()
    before = counters["stats"]["unique_graphs"]
    given = callbacks()
    if setup.spawned:
        given = [*given, Recorder(folder)]
    trainer = trainer_for(setup, given, folder)
    model = setup.net(manual=setup.manual)
    start(setup, trainer, model)
    if setup.spawned:
        return recorded(folder, setup.processes)
    return trace_of(trainer, model, folder, before)


def start(setup: Setup, trainer: Trainer, model: Net) -> None:
    """Compile the model where that is wanted, and train or evaluate it."""
    called: Any = model
    if setup.compiled == "module":
        called = torch.compile(model, backend=setup.backend)
    elif setup.compiled:
        model.compile(backend=setup.backend)
    if setup.verb == "fit":
        trainer.fit(called, train_loader(setup), val_loaders(setup))
    elif setup.verb == "validate":
        trainer.validate(called, val_loaders(setup), verbose=False)
    else:
        trainer.test(called, val_loaders(setup), verbose=False)


def trace_of(trainer: Trainer, model: Net, folder: Path, graphs: int = 0) -> Trace:
    """What the run left in this process. Of what is sharded its part, so nothing is gathered."""
    scalars = {name: value.clone() for name, value in trainer.callback_metrics.items()}
    mine = {name: value for name, value in scalars.items() if not name.startswith(SALIENCY)}
    whole = {f"{name}.whole": not hasattr(one, "to_local") for name, one in parameters_of(model)}
    reshard(model)
    parameters = dict(parameters_of(model))
    buffers = dict(model.named_buffers(remove_duplicate=False))
    frozen = {f"{name}.requires_grad": one.requires_grad for name, one in parameters.items()}
    return Trace(
        weights={name: local(tensor).clone() for name, tensor in parameters.items()},
        buffers={name: local(tensor).clone() for name, tensor in buffers.items()},
        flags={name: part.training for name, part in model.named_modules()} | frozen | whole,
        hooks=dict(hooks_of(model)),
        gradients={name: local(one.grad) for name, one in parameters.items()},
        optimizers=[optimizer.state_dict() for optimizer in trainer.optimizers],
        scaler=trainer.precision_plugin.state_dict(),
        streams=[*random_streams()],
        batches=model.seen,
        metrics=[*logged(folder, saliency=False), mine],
        graphs=counters["stats"]["unique_graphs"] - graphs,
        observed={name: float(scalars[name]) for name in scalars.keys() - mine.keys()},
    )


def parameters_of(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return list(model.named_parameters(remove_duplicate=False))


def reshard(model: nn.Module) -> None:
    """Give back what a pass of FSDP2 gathered: parts are compared, and who has them in `flags`."""
    parts: list[Any] = list(model.modules())
    for part in parts:
        if hasattr(part, "reshard"):
            part.reshard()


def random_streams() -> Iterator[Any]:
    yield torch.get_rng_state()
    yield repr(np.random.get_state())
    yield random.getstate()
    if torch.cuda.is_available():
        yield torch.cuda.get_rng_state_all()


def hooks_of(model: nn.Module) -> Iterator[tuple[str, int]]:
    """How many hooks each module and each parameter has."""
    for name, part in [*model.named_modules(), *model.named_parameters()]:
        count = sum(len(value or ()) for key, value in vars(part).items() if key.endswith("_hooks"))
        yield name, count


def local(tensor: Tensor | None) -> Any:
    """The part of a sharded tensor that is here, cut off its graph."""
    if tensor is None:
        return None
    return tensor.to_local().detach() if hasattr(tensor, "to_local") else tensor.detach()


class Recorder(Callback):
    """Write the trace down in each process, where the processes end with the run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def record(self, trainer: Any, model: Any) -> None:
        trace = trace_of(trainer, model, self.folder)
        (self.folder / f"{trainer.global_rank}.pickle").write_bytes(pickle.dumps(trace))

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        self.record(trainer, pl_module)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        if trainer.state.fn.value == "validate":
            self.record(trainer, pl_module)

    def on_test_end(self, trainer: Any, pl_module: Any) -> None:
        self.record(trainer, pl_module)


def recorded(folder: Path, processes: int) -> Trace:
    """The traces of all processes in one; what was observed is the first one's."""
    each: list[Trace] = [
        pickle.loads((folder / f"{rank}.pickle").read_bytes()) for rank in range(processes)
    ]
    together: dict[str, Any] = {
        field.name: dict(enumerate(getattr(trace, field.name) for trace in each))
        for field in fields(Trace)
    }
    # Their last rows reach the file after the hooks, when the loggers are closed.
    together["metrics"] = [*logged(folder, saliency=False), [one.metrics[-1] for one in each]]
    return Trace(**together | {"observed": each[0].observed})


def logged(folder: Path, *, saliency: bool) -> list[dict[str, str]]:
    """The rows of the log: those of the monitor, or all others, with what they are of."""
    if not (folder / "metrics.csv").exists():  # on other ranks than the first, in a fast_dev_run
        return []
    with (folder / "metrics.csv").open(newline="") as file:
        rows = [
            {key: value for key, value in row.items() if value != ""}
            for row in csv.DictReader(file)
        ]
    kept = [
        {
            key: value
            for key, value in row.items()
            if key in ("step", "epoch") or key.startswith(f"{SALIENCY}") == saliency
        }
        for row in rows
    ]
    return [row for row in kept if row.keys() - {"step", "epoch"}]


def gaps(one: Trace, other: Trace) -> dict[str, float]:
    """What differs between two runs → max |Δ|; infinite where there is no number to it."""
    found = {
        field.name: gap(getattr(one, field.name), getattr(other, field.name))
        for field in fields(Trace)
        if field.name != "observed"
    }
    return {name: value for name, value in found.items() if value != 0}


def gap(one: Any, other: Any) -> float:
    """The largest absolute difference; 0 only for what is the same bit by bit."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return tensor_gap(local(one), local(other))
    if type(one) is not type(other):
        return float("inf")
    if isinstance(one, dict):
        if list(one) != list(other):
            return float("inf")
        return max((gap(one[key], other[key]) for key in one), default=0.0)
    if isinstance(one, (list, tuple)):
        if len(one) != len(other):
            return float("inf")
        return max((gap(*pair) for pair in zip(one, other, strict=True)), default=0.0)
    same = one == other or (one != one and other != other)  # two NaNs
    return 0.0 if same else float("inf")


def tensor_gap(one: Tensor, other: Tensor) -> float:
    if one.dtype != other.dtype or one.shape != other.shape:
        return float("inf")
    if torch.equal(bits(one), bits(other)):
        return 0.0
    largest = float((one.double() - other.double()).abs().max())
    return largest if largest > 0 else float("inf")  # other NaNs, or −0 for 0
