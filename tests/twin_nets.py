"""What twin runs train: noise with classes, and one net in the shapes that people give theirs."""

from __future__ import annotations

import hashlib
import random
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import Dataset


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

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def log(self, *given: Any, **named: Any) -> None:
        """Log, outside of any graph: one that follows Lightning there is made again for each
        number that anything else logs."""
        super().log(*given, **named)

    def features(self, x: Tensor) -> Tensor:
        features: Tensor = self.body(self.frozen(self.stem(x)))
        return features

    def forward(self, x: Tensor) -> Tensor:
        features = self.features(x).mean((2, 3))
        self.log("activity", features.mean(), on_step=False, on_epoch=True, batch_size=len(x))
        logits: Tensor = self.head(features)
        return logits

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def note(self, stage: str, x: Tensor) -> None:
        self.seen.append(f"{stage} {hashlib.sha256(bits(x).cpu().numpy().tobytes()).hexdigest()}")

    def loss(self, batch: Any, stage: str) -> Tensor:
        x, y = batch
        self.note(stage, x)
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

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.loss(batch, "test")

    def configure_optimizers(self) -> Any:
        # Frozen parameters are given too: the optimiser leaves alone what has no gradient.
        if self.automatic_optimization:
            return torch.optim.SGD(self.parameters(), 0.05, momentum=0.9, weight_decay=0.01)
        low = [*self.stem.parameters(), *self.frozen.parameters()]
        high = [*self.body.parameters(), *self.head.parameters()]
        return [torch.optim.SGD(low, 0.05, momentum=0.9), torch.optim.Adam(high, 0.01)]


class FrozenBackbone(Net):
    """Its stem takes no gradient and stays in evaluation mode."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.stem.requires_grad_(False).eval()


class Checkpointed(Net):
    """Its body runs again in the backward pass, with the random numbers of the forward pass."""

    def features(self, x: Tensor) -> Tensor:
        features: Tensor = checkpoint(self.body, self.frozen(self.stem(x)), use_reentrant=False)
        return features


class Tied(Net):
    """One weight in two layers."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        again = nn.Conv2d(4, 4, 3, padding=1)
        again.weight = self.body[0].get_parameter("weight")
        self.body.append(again)


class OwnTrain(Net):
    """Counts who calls `train()`, and keeps its stem in evaluation mode whatever they want."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.register_buffer("called", torch.zeros((), dtype=torch.long))

    def train(self, mode: bool = True) -> OwnTrain:
        super().train(mode)
        self.get_buffer("called").add_(1)
        self.stem.eval()
        return self


class Sharding(LightningModule):
    """Mixed into a net: shards it, as ModelParallelStrategy wants the module to do itself."""

    def configure_model(self) -> None:
        from torch.distributed.fsdp import FSDPModule, fully_shard

        if self.device_mesh is not None and not isinstance(self, FSDPModule):
            parts: list[Any] = [self.stem, self.body, self]
            for part in parts:
                fully_shard(part, mesh=self.device_mesh["data_parallel"])


def sharded(net: type[Net]) -> type[Net]:
    """The net, sharding itself."""
    return type(f"Sharded{net.__name__}", (Sharding, net), {})


def bits(tensor: Tensor) -> Tensor:
    """The bytes of a tensor: NaNs and the sign of 0 count."""
    return tensor.contiguous().reshape(-1).view(torch.uint8)
