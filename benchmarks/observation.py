"""What an observation costs beside its passes: measures, drift, charts, pictures and the record.

    python benchmarks/observation.py [--probes 256] [--observations 12]

A fit of a small residual net on images of 64×64 with everything that is measured at every
observation: two methods, all measures of one map and of two, alerts with a stream of the training,
the record. The passes of an observation are timed where they are made, so that both times are of
one and the same observation; audits, which make passes of their own, are off. Prints the ratio of
each, and their median.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
import time
import warnings
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision.models import resnet18

from lightning_saliency import Alerts, SaliencyMonitor
from lightning_saliency.attribution import folding, looking
from lightning_saliency.measures import MEASURES, Grounding

CLASSES, SIDE = 10, 64


class Passes:
    """Seconds in passes since they were last asked for."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def taken(self) -> float:
        """And from here on anew."""
        seconds, self.seconds = self.seconds, 0.0
        return seconds

    def around(self, function: Any) -> Any:
        """The same function, timed."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            begun = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds += time.perf_counter() - begun

        return timed


class Watched(SaliencyMonitor):
    """The monitor, which notes what each observation took, and how much of it were passes."""

    def __init__(self, timed: Passes, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.timed = timed
        self.ratios: list[float] = []

    def _look(self, *args: Any) -> None:
        self.timed.taken()
        begun = time.perf_counter()
        super()._look(*args)
        self.ratios.append((time.perf_counter() - begun) / self.timed.taken())


class Module(LightningModule):
    """A residual net on noise: what it learns does not matter here."""

    def __init__(self) -> None:
        super().__init__()
        self.net = resnet18(num_classes=CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        """The logits."""
        logits: Tensor = self.net(images)
        return logits

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """The cross entropy."""
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        """Nothing but the passes."""
        self(batch[0])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Plain descent."""
        return torch.optim.SGD(self.parameters(), lr=1e-3)


def ratios(probes: int, observations: int) -> list[float]:
    """Whole observation ÷ its passes, one a validation but for the first, which opens a session."""
    timed = Passes()
    folding.look_once = timed.around(looking.look_once)  # type: ignore[attr-defined]
    monitor = Watched(
        timed,
        ["saliency", "smooth_grad"],
        probes=probes,
        measures=[name for name, one in MEASURES.items() if not isinstance(one, Grounding)],
        alerts=Alerts(stream=64),
        on_error="raise",
    )
    images = torch.randn(probes, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    data = TensorDataset(images, torch.arange(probes) % CLASSES)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            accelerator="cpu",
            max_epochs=observations,
            limit_train_batches=4,
            num_sanity_val_steps=0,
            logger=TensorBoardLogger(folder),
            callbacks=[monitor],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        loader = DataLoader(data, batch_size=32)
        trainer.fit(Module(), loader, loader)
    return monitor.ratios


def main() -> None:
    """Print them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--probes", type=int, default=256)
    parser.add_argument("--observations", type=int, default=12)
    given = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    found = ratios(given.probes, given.observations)
    low, middle, high = statistics.quantiles(found, n=4)
    print(f"{given.probes} probes, {len(found)} observations: whole ÷ passes")
    print(f"median {middle:.3f} ({low:.3f} to {high:.3f}), wanted ≤ 1.2")


if __name__ == "__main__":
    main()
