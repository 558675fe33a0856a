"""What a user would write in a module of their own, to be named by import path."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from small_fits import CLASSES, Net, images, labels, loader
from torch import Tensor, nn
from torch.utils.data import DataLoader


def occlusion_of_rows(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """A method: how much the score falls without each row."""
    with torch.no_grad():
        before = model(inputs).gather(1, targets[:, None])
        falls = []
        for row in range(inputs.shape[2]):
            without = inputs.clone()
            without[:, :, row] = 0
            falls.append(before - model(without).gather(1, targets[:, None]))
    return torch.cat(falls, 1)[:, :, None].expand(-1, -1, inputs.shape[3])


def second_logit(outputs: Tensor, classes: Tensor) -> Tensor:
    """A target."""
    return outputs[:, 1]


def largest(maps):  # type: ignore[no-untyped-def]
    """A measure, written without annotations."""
    return maps.flatten(1).amax(1)


def left_half(batch: Any) -> Tensor:
    """Where the masks are in a batch that has none: computed."""
    masks = torch.zeros(len(batch[0]), *batch[0].shape[2:])
    masks[:, :, : masks.shape[2] // 2] = 1
    return masks


class SmallNet(Net):
    """A model for the command line."""

    def __init__(self, classes: int = CLASSES) -> None:
        super().__init__(classes)


class SmallData(LightningDataModule):
    """Twelve pictures."""

    def train_dataloader(self) -> DataLoader[Any]:
        return loader(images(), labels())

    def val_dataloader(self) -> DataLoader[Any]:
        return loader(images(), labels())


class Scaled:
    """A method with an argument of its own."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def __call__(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        return inputs[:, 0] * self.factor
