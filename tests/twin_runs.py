"""Twin runs: the same training twice, with and without a callback, and the gap between the two."""

from __future__ import annotations

import csv
import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

SALIENCY = "saliency"


@dataclass(frozen=True)
class Setup:
    """One way to train. Six batches an epoch, the last one smaller than the others."""

    epochs: int = 2
    workers: int = 0
    augmented: bool = False
    loaders: int = 1
    manual: bool = False
    average: Literal["", "before", "after"] = ""
    """Where an averaging callback stands, as seen from the callback under test."""
    verb: Literal["fit", "validate"] = "fit"
    pictures: bool = False
    trainer: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True)
class Trace:
    """All that a run leaves behind but for what the monitor itself logs."""

    model: dict[str, Tensor]
    flags: dict[str, bool]
    optimizers: list[Any]
    streams: tuple[Any, ...]
    batches: list[str]
    metrics: list[dict[str, str]]


class Images(Dataset[tuple[Tensor, Tensor]]):
    """Two-channel noise with a class; augmented from all three global random streams."""

    def __init__(self, count: int, seed: int, *, augmented: bool = False) -> None:
        own = torch.Generator().manual_seed(seed)
        self.inputs = torch.randn(count, 2, 8, 8, generator=own)
        self.targets = torch.arange(count) % 3
        self.augmented = augmented

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = self.inputs[index]
        if self.augmented:
            image = image * torch.rand(()) + float(np.random.randn()) + random.random()
        return image, self.targets[index]


class Net(LightningModule):
    """Dropout, a BatchNorm, and a frozen one; its forward logs, as some people's does."""

    def __init__(self, *, manual: bool = False, dropout: float = 0.3) -> None:
        super().__init__()
        self.automatic_optimization = not manual
        self.stem = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.frozen = nn.BatchNorm2d(4).eval().requires_grad_(False)
        nn.init.normal_(self.frozen.weight, 1.0, 0.1)
        nn.init.uniform_(self.frozen.get_buffer("running_var"), 0.5, 2.0)
        self.body = nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU(inplace=True), nn.Dropout(dropout))
        self.head = nn.Linear(4, 3)
        self.seen: list[str] = []

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.body(self.frozen(self.stem(x))).mean((2, 3))
        self.log("activity", features.mean(), on_step=False, on_epoch=True, batch_size=len(x))
        logits: Tensor = self.head(features)
        return logits

    def loss(self, batch: Any, stage: str) -> Tensor:
        x, y = batch
        self.seen.append(f"{stage} {hashlib.sha256(bits(x).numpy().tobytes()).hexdigest()[:16]}")
        loss = F.cross_entropy(self(x).float(), y)
        self.log(f"{stage}_loss", loss, batch_size=len(x), on_step=stage == "train", on_epoch=True)
        return loss

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self.loss(batch, "train")
        if not self.automatic_optimization:
            pair: Any = self.optimizers()
            self.manual_backward(loss)
            # The second steps at every other batch: gradients are left over validations.
            for optimizer in pair if batch_idx % 2 else pair[:1]:
                optimizer.step()
                optimizer.zero_grad()
        return loss

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.loss(batch, "val")

    def configure_optimizers(self) -> Any:
        # Frozen parameters are given too: the optimiser leaves alone what has no gradient.
        if self.automatic_optimization:
            return torch.optim.SGD(self.parameters(), 0.05, momentum=0.9, weight_decay=0.01)
        low = [*self.stem.parameters(), *self.frozen.parameters()]
        high = [*self.body.parameters(), *self.head.parameters()]
        return [torch.optim.SGD(low, 0.05, momentum=0.9), torch.optim.Adam(high, 0.01)]


def seed_streams() -> None:
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)


def trainer_for(setup: Setup, callbacks: list[Callback], folder: Path) -> Trainer:
    """A Trainer whose loggers write below `folder`."""
    loggers: list[Any] = [CSVLogger(folder, name="", version="")]
    if setup.pictures:
        loggers.append(TensorBoardLogger(folder, name="", version=""))
    if setup.average:
        average = EMAWeightAveraging(decay=0.8)
        callbacks = [average, *callbacks] if setup.average == "before" else [*callbacks, average]
    options: dict[str, Any] = {
        "max_epochs": setup.epochs,
        "accelerator": "cpu",
        "callbacks": callbacks,
        "logger": loggers,
        "log_every_n_steps": 2,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 1,
    }
    return Trainer(**options | dict(setup.trainer))


def train_loader(setup: Setup) -> DataLoader[Any]:
    images = Images(44, seed=1, augmented=setup.augmented)
    return DataLoader(images, batch_size=8, shuffle=True, num_workers=setup.workers)


def val_loaders(setup: Setup) -> Any:
    loaders = [
        DataLoader(
            Images(12, seed=2 + index, augmented=setup.augmented),
            batch_size=8,
            num_workers=setup.workers,
        )
        for index in range(setup.loaders)
    ]
    return loaders if len(loaders) > 1 else loaders[0]


def run(setup: Setup, callbacks: Callable[[], list[Callback]], folder: Path) -> Trace:
    """Train as `setup` says with the callbacks, and tell what is left.

    The callbacks are made after seeding and before the model, as LightningCLI does.
    """
    seed_streams()
    trainer = trainer_for(setup, callbacks(), folder)
    model = Net(manual=setup.manual)
    if setup.verb == "fit":
        trainer.fit(model, train_loader(setup), val_loaders(setup))
    else:
        trainer.validate(model, val_loaders(setup), verbose=False)
    parameters = {f"{name}.requires_grad": one.requires_grad for name, one in named(model)}
    return Trace(
        model={name: value.clone() for name, value in model.state_dict().items()},
        flags={name: part.training for name, part in model.named_modules()} | parameters,
        optimizers=[optimizer.state_dict() for optimizer in trainer.optimizers],
        streams=(torch.get_rng_state(), repr(np.random.get_state()), random.getstate()),
        batches=model.seen,
        metrics=logged(folder, saliency=False),
    )


def named(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return list(model.named_parameters())


def logged(folder: Path, *, saliency: bool) -> list[dict[str, str]]:
    """The rows of the log: those of the monitor, or all others, with what they are of."""
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
    }
    return {name: value for name, value in found.items() if value != 0}


def gap(one: Any, other: Any) -> float:
    """The largest absolute difference; 0 only for what is the same bit by bit."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        if one.dtype != other.dtype or one.shape != other.shape:
            return float("inf")
        if torch.equal(bits(one), bits(other)):
            return 0.0
        largest = float((one.double() - other.double()).abs().max())
        return largest if largest > 0 else float("inf")  # other NaNs, or −0 for 0
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


def bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)
