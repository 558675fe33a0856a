"""A shortcut as it is learned, in the numbers of the monitor: Decoy-MNIST (Ross et al. 2017).

    python benchmarks/decoy_mnist.py [--seeds 5] [--epochs 30]
        [--write docs/tables/decoy_mnist.md] [--picture docs/images/decoy-mnist.png]

Each digit gets a grey 4×4 square in one of its four corners. In the training its grey is
255 − 25 × the label, so the corners tell the class; an ordinary validation set carries the same
squares and can't tell. The truth is a set whose greys are drawn at random. A net of 784-50-30-10
units is trained beside `SaliencyMonitor`, which measures the share of each probe's gradient that
lies in the corners; the same net on clean digits is the control. Prints the table and draws it.
Runs that are done are read, not run again: delete `runs/decoy_mnist` to start anew.
"""

from __future__ import annotations

import argparse
import csv
import logging
import statistics
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

sys.path.insert(0, str(Path(__file__).parents[1]))

from examples.decoy_digits import PATCH, SIDE, digits
from lightning_saliency import SaliencyMonitor

FOLDER = Path("runs/decoy_mnist")
ARMS = ("decoy", "clean")
SETS = ("same", "random", "clean")
"""Of the validation: with squares as in the training, with squares that say nothing, without."""
MASS = "saliency/gradient/relevance_mass"
TRAINED, PROBES = 4000, 256

Curves = dict[str, list[float]]
"""Name in the log → its values, epoch after epoch; of the maps also before the first."""


class Mlp(LightningModule):
    """784-50-30-10 units with ReLU, and Adam at 1e-3."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(SIDE * SIDE, 50), nn.ReLU(), nn.Linear(50, 30), nn.ReLU(),
            nn.Linear(30, 10),
        )  # fmt: skip

    def forward(self, images: Tensor) -> Tensor:
        """The logits of the ten digits."""
        logits: Tensor = self.layers(images)
        return logits

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """The cross entropy."""
        return F.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: list[Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        """The accuracy on each of the three sets."""
        accuracy = (self(batch[0]).argmax(1) == batch[1]).float().mean()
        self.log(f"accuracy/{SETS[dataloader_idx]}", accuracy, add_dataloader_idx=False)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam."""
        return torch.optim.Adam(self.parameters(), lr=1e-3)


def corners() -> Tensor:
    """One mask `(28, 28)` for each of the four corners, `(4, 28, 28)` bool."""
    masks = torch.zeros(4, SIDE, SIDE, dtype=torch.bool)
    for corner, mask in enumerate(masks):
        top, left = (SIDE - PATCH) * (corner // 2), (SIDE - PATCH) * (corner % 2)
        mask[top : top + PATCH, left : left + PATCH] = True
    return masks


def decoy(images: Tensor, told: Tensor, generator: torch.Generator) -> Tensor:
    """Put a square of the grey that names the class `told` into a corner drawn for each image."""
    where = corners()[torch.randint(4, (len(images),), generator=generator)]
    grey = (255 - 25 * told.float()) / 255
    return torch.where(where[:, None], grey.view(-1, 1, 1, 1), images)


def loaders(arm: str, seed: int) -> tuple[DataLoader[Any], list[DataLoader[Any]]]:
    """Of the training, and of the three sets of the validation with the corners as masks."""
    images, labels = digits()
    own = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(images), generator=own)
    train, held = order[:TRAINED], order[TRAINED:]
    shown = decoy(images[train], labels[train], own) if arm == "decoy" else images[train]
    training = TensorDataset(shown, labels[train])
    truth = labels[held]
    nothing = torch.randint(10, truth.shape, generator=own)
    sets = {
        "same": decoy(images[held], truth, own),
        "random": decoy(images[held], nothing, own),
        "clean": images[held],
    }
    if arm == "clean":  # its ordinary validation is clean, and so are its probes
        sets["same"] = sets["clean"]
    masks = corners().any(0).expand(len(held), -1, -1)
    return DataLoader(training, batch_size=64, shuffle=True), [
        DataLoader(TensorDataset(sets[name], truth, masks), batch_size=len(held)) for name in SETS
    ]


def run(arm: str, seed: int, epochs: int) -> Curves:
    """One training, or what is known of it."""
    folder = FOLDER / f"{arm}-{seed}-{epochs}"
    if not (folder / "done").exists():
        seed_everything(seed, verbose=False)
        training, validation = loaders(arm, seed)
        trainer = Trainer(
            accelerator="cpu",
            max_epochs=epochs,
            num_sanity_val_steps=0,
            logger=CSVLogger(folder, name="", version=""),
            callbacks=[SaliencyMonitor(probes=PROBES, mask=2, measures=["relevance_mass"])],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(Mlp(), training, validation)
        (folder / "done").touch()
    return read(folder / "metrics.csv")


def read(path: Path) -> Curves:
    """What a logger wrote, without the gaps."""
    curves: Curves = {}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            for name, value in row.items():
                if value:
                    curves.setdefault(name, []).append(float(value))
    return curves


def spread(values: Sequence[float]) -> str:
    """The mean over seeds, and the lowest and the highest."""
    low, middle, high = (
        f"{one:.3f}" for one in (min(values), statistics.fmean(values), max(values))
    )
    return f"{middle} ({low} to {high})"


def table(decoys: Sequence[Curves], controls: Sequence[Curves]) -> str:
    """The figures of the study, in Markdown."""
    random = [one["accuracy/random"] for one in decoys]
    peaks = [max(each) for each in random]
    when = [each.index(peak) + 1 for each, peak in zip(random, peaks, strict=True)]
    rows = [
        ("accuracy with the same decoy", [one["accuracy/same"][-1] for one in decoys]),
        ("the control's, on clean digits", [one["accuracy/clean"][-1] for one in controls]),
        ("accuracy with a random decoy", [each[-1] for each in random]),
        ("… its peak", peaks),
        ("… in epoch", [float(each) for each in when]),
        ("… the mean of all epochs", [statistics.fmean(each) for each in random]),
        ("accuracy without a decoy", [one["accuracy/clean"][-1] for one in decoys]),
        ("mass in the corners, untrained", [one[MASS][0] for one in decoys]),
        ("… after the first epoch", [one[MASS][1] for one in decoys]),
        ("… at the end", [one[MASS][-1] for one in decoys]),
        ("the control's, untrained", [one[MASS][0] for one in controls]),
        ("… after the first epoch", [one[MASS][1] for one in controls]),
        ("… at the end", [one[MASS][-1] for one in controls]),
        ("the corners' share of the image", [one["saliency/mask_area"][0] for one in decoys]),
    ]
    lines = [f"| {name} | {spread(values)} |" for name, values in rows]
    head = f"| {len(decoys)} seeds, last epoch | mean (lowest to highest) |"
    return "\n".join([head, "|---|---|", *lines])


def figure(decoys: Sequence[Curves], controls: Sequence[Curves], path: Path) -> None:
    """What everyone looks at, the truth, and the map's mass in the corners: mean, and each seed."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    accuracy, mass = pyplot.subplots(1, 2, figsize=(11, 4), layout="constrained")[1]
    shown = (
        (accuracy, decoys, "accuracy/same", "#1f6fb4", "the same decoy: what validation shows"),
        (accuracy, decoys, "accuracy/random", "#d1495b", "a random decoy: the truth"),
        (mass, decoys, MASS, "#d1495b", "trained with the decoy"),
        (mass, controls, MASS, "#7a7f87", "trained on clean digits"),
    )
    for axes, runs, name, colour, label in shown:
        # Of the maps there is one before the first epoch, too.
        first = 0 if name == MASS else 1
        rows = [one[name] for one in runs]
        epochs = range(first, first + len(rows[0]))
        for row in rows:
            axes.plot(epochs, row, color=colour, alpha=0.25, linewidth=1)
        means = [statistics.fmean(column) for column in zip(*rows, strict=True)]
        axes.plot(epochs, means, color=colour, linewidth=2.5, label=label)
    area = decoys[0]["saliency/mask_area"][0]
    mass.axhline(area, color="#7a7f87", linestyle=":", label="the corners' share of the image")
    accuracy.set(title="accuracy on held-out digits", xlabel="epoch", ylim=(0.5, 1.0))
    mass.set(title="share of the gradient in the four corners", xlabel="epoch", ylim=(0, None))
    for axes in (accuracy, mass):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    pyplot.gcf().savefig(path, dpi=120)


def main(given: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    found: dict[str, list[Curves]] = {arm: [] for arm in ARMS}
    for seed in range(given.seeds):
        for arm in ARMS:
            print(f"{arm}, seed {seed}", file=sys.stderr, flush=True)
            found[arm].append(run(arm, seed, given.epochs))
    text = table(found["decoy"], found["clean"])
    print(text)
    if given.write:
        given.write.write_text(text + "\n", encoding="utf-8")
    if given.picture:
        figure(found["decoy"], found["clean"], given.picture)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--write", type=Path, help="a file for the table, besides the console")
    parser.add_argument("--picture", type=Path, help="where the figure goes, .png or .jpg")
    main(parser.parse_args())
