"""Nets, data and Trainers that are as small as a real fit can be."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_saliency.cli import main

CLASSES = 3
SIDE = 8


def images(n: int = 12, channels: int = 1, side: int = SIDE, classes: int = CLASSES) -> Tensor:
    """`(n, channels, side, side)`, the same each time, brighter for higher classes."""
    noise = torch.randn(n, channels, side, side, generator=torch.Generator().manual_seed(n))
    return noise + labels(n, classes).view(-1, 1, 1, 1)


def labels(n: int = 12, classes: int = CLASSES) -> Tensor:
    """`(n,)` class indices in turns."""
    return torch.arange(n) % classes


def loader(*tensors: Tensor, batch_size: int = 4) -> DataLoader[Any]:
    """Batches of tuples, in order."""
    return DataLoader(TensorDataset(*(tensors or (images(), labels()))), batch_size=batch_size)


class Small(nn.Module):
    """What `Net` does, for a LightningModule of either namespace to derive from before its own."""

    log: Any

    def __init__(self, classes: int = CLASSES, channels: int = 1) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(channels, 4, 3, padding=1), nn.ReLU())
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, classes))
        self.seen = 0

    def forward(self, x: Tensor) -> Any:
        return self.head(self.features(x))

    def split(self, batch: Any) -> tuple[Tensor, Tensor]:
        return batch[0], batch[1]

    def loss(self, batch: Any) -> Tensor:
        x, y = self.split(batch)
        return F.cross_entropy(self(x), y)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.seen += 1
        return self.loss(batch)

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        if dataloader_idx == 0:
            self.log("val_loss", self.loss(batch), add_dataloader_idx=False)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.log("test_loss", self.loss(batch))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Net(Small, LightningModule):
    """A convolution and a linear layer. Like all modules here it knows nothing of a monitor.

    `seen` counts training batches.
    """


def trainer(kind: Any = Trainer, **given: Any) -> Trainer:
    """A Trainer that says nothing and takes two training batches and two epochs."""
    settings: dict[str, Any] = {
        "accelerator": "cpu",
        "max_epochs": 2,
        "limit_train_batches": 2,
        "log_every_n_steps": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    made: Trainer = kind(**(settings | given))
    return made


def board(folder: Path, kind: Any = TensorBoardLogger) -> TensorBoardLogger:
    made: TensorBoardLogger = kind(folder, name="", version="")
    return made


class Events:
    """What an event file holds: tag → step → value."""

    def __init__(self, folder: Path) -> None:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        everything = {"images": 0, "scalars": 0, "tensors": 0}
        read = EventAccumulator(str(folder), size_guidance=everything).Reload()
        tags = read.Tags()
        self.images: Mapping[str, dict[int, bytes]] = {
            tag: {one.step: one.encoded_image_string for one in read.Images(tag)}
            for tag in tags["images"]
        }
        self.scalars: Mapping[str, dict[int, float]] = {
            tag: {one.step: one.value for one in read.Scalars(tag)} for tag in tags["scalars"]
        }
        self.texts: Mapping[str, str] = {
            tag.removesuffix("/text_summary"): read.Tensors(tag)[0]
            .tensor_proto.string_val[0]
            .decode()
            for tag in tags["tensors"]
            if tag.endswith("/text_summary")
        }


class Answering(Net):
    """A net whose `forward` does something to the logits before it returns them."""

    def __init__(self, answer: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, x: Tensor) -> Any:
        return self.answer(super().forward(x))

    def loss(self, batch: Any) -> Tensor:
        x, y = self.split(batch)
        return F.cross_entropy(super().forward(x), y)


def command(monkeypatch: pytest.MonkeyPatch, *args: str) -> LightningCLI:
    """``lightning-saliency`` with these arguments, as from a shell."""
    monkeypatch.setattr(sys, "argv", ["lightning-saliency", *args])
    return main()
