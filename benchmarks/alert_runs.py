"""The runs of the power study: digits, a small net, and what happens to its training half-way.

All arms of one recipe and seed share their first epochs, which are trained once. One observation
per epoch, of the gradient of the margin, laid on cells as `lightning_saliency.alerting` does it:
what a chart needs, a few kB, so that any chart can be replayed without training again:

- `probes`: held out, fixed;
- `stream`: inputs and labels of the epoch as they were trained on, chosen blindly and anew.

Both in two sizes. Of planted arms the weights of the first epochs after the change are kept as
well, for the intervention.
"""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from examples.decoy_digits import PATCH, SIDE, digits
from lightning_saliency.alerts.cells import CellSums, cell_mass
from lightning_saliency.targets import Margin

PLANTED = ("backdoor 10 %", "backdoor 2 %", "decoy")
BENIGN = ("lr ×3", "lr ×0.1", "augmentation", "label noise", "head re-init")
ARMS = ("null", *PLANTED, *BENIGN)
CHANGED_AT, FOLLOWED, EPOCHS = 12, 8, 24
"""The epoch from which on an arm differs, for how long it is followed; the null run's length."""
TRAIN, PROBES, CLASSES = 4000, 256, 10
SIZES = (64, PROBES)
"""Examples in each panel: as shipped, and four times as many."""
WATCHED = 3
"""Epochs after the change whose weights are kept."""


@dataclass(frozen=True)
class Recipe:
    """How a net is trained when nothing happens."""

    adam: bool
    learning_rate: float
    cosine: bool
    shift: int
    """Each training image is moved by up to so many pixels."""

    def rate(self, epoch: int) -> float:
        """The learning rate of an epoch."""
        falling = (1 + math.cos(math.pi * epoch / EPOCHS)) / 2
        return self.learning_rate * (falling if self.cosine else 1)

    def optimizer(self, net: nn.Module) -> torch.optim.Optimizer:
        """A fresh one."""
        if self.adam:
            return torch.optim.Adam(net.parameters(), lr=self.learning_rate)
        return torch.optim.SGD(
            net.parameters(), lr=self.learning_rate, momentum=0.9, weight_decay=5e-4
        )


RECIPES = {"A": Recipe(True, 1e-3, False, 0), "B": Recipe(False, 0.04, True, 2)}


@dataclass(frozen=True)
class Job:
    """One run: which recipe, what happens to it, and its seed."""

    recipe: str
    arm: str
    seed: int

    def file(self, folder: Path) -> Path:
        """Where it is kept."""
        words = self.arm.replace(" %", "").replace(" ×", "").replace(" ", "_")
        return folder / f"{self.recipe}-{words}-{self.seed}.pt"


def generator(*numbers: int) -> torch.Generator:
    """A stream of random numbers that belongs to these whole numbers."""
    seed = 0
    for number in numbers:
        seed = seed * 1009 + number + 1
    return torch.Generator().manual_seed(seed)


@cache
def table() -> tuple[Tensor, Tensor]:
    """The digits, read once."""
    return digits()


def corner(seed: int) -> tuple[int, int]:
    """The patch's top left pixel: near one of the corners, off the grid of cells."""
    drawn = generator(seed, 1)
    bottom, right = torch.randint(2, (2,), generator=drawn).tolist()
    off = torch.randint(3, (2,), generator=drawn).tolist()
    far = SIDE - PATCH
    return (far - off[0] if bottom else off[0], far - off[1] if right else off[1])


def patched(images: Tensor, values: Tensor, seed: int) -> Tensor:
    """The images with this run's patch, each in its own grey."""
    top, left = corner(seed)
    images = images.clone()
    images[:, :, top : top + PATCH, left : left + PATCH] = values.view(-1, 1, 1, 1)
    return images


def moved(images: Tensor, shifts: Tensor, reach: int) -> Tensor:
    """Each image moved by its own whole pixels (N, 2); black comes in."""
    if not reach:
        return images
    padded = F.pad(images[:, 0], (reach,) * 4)
    steps = torch.arange(SIDE)
    rows, columns = (steps + reach + shifts[:, side, None] for side in (0, 1))
    which = torch.arange(len(images))[:, None, None]
    return padded[which, rows[:, :, None], columns[:, None, :]][:, None]


class Data:
    """The digits of one seed, and what an arm makes of those that train."""

    def __init__(self, seed: int) -> None:
        images, labels = table()
        order = torch.randperm(len(images), generator=generator(seed, 0))
        self.seed = seed
        self.train = images[order[:TRAIN]], labels[order[:TRAIN]]
        self.held = images[order[TRAIN:]], labels[order[TRAIN:]]
        self.target = int(torch.randint(10, (1,), generator=generator(seed, 2)))

    def training(self, arm: str) -> tuple[Tensor, Tensor]:
        """The training set of an arm, after the change."""
        images, labels = self.train
        drawn = torch.rand(TRAIN, generator=generator(self.seed, 3))
        if arm == "decoy":
            return patched(images, grey(labels), self.seed), labels
        if arm.startswith("backdoor"):
            share = 0.10 if "10" in arm else 0.02
            chosen = drawn < share
            white = patched(images, torch.ones(TRAIN), self.seed)
            images = torch.where(chosen[:, None, None, None], white, images)
            return images, torch.where(chosen, self.target, labels)
        if arm == "label noise":
            random = torch.randint(10, (TRAIN,), generator=generator(self.seed, 4))
            return images, torch.where(drawn < 0.2, random, labels)
        return images, labels

    def lying(self, arm: str) -> Tensor:
        """The held-out digits with a patch that says nothing about them."""
        images, _ = self.held
        if arm == "decoy":
            said = torch.randint(10, (len(images),), generator=generator(self.seed, 5))
            return patched(images, grey(said), self.seed)
        return patched(images, torch.ones(len(images)), self.seed)


def grey(labels: Tensor) -> Tensor:
    """The decoy of Ross et al. 2017: 255 − 25·label."""
    return (255 - 25 * labels) / 255


def network(seed: int) -> nn.Sequential:
    """Two convolutions and a linear layer."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(16 * 7 * 7, 10),
        )  # fmt: skip


@dataclass
class Training:
    """A net on its way."""

    net: nn.Sequential
    optimizer: torch.optim.Optimizer

    def branch(self, recipe: Recipe) -> Training:
        """A copy that goes its own way."""
        net = copy.deepcopy(self.net)
        optimizer = recipe.optimizer(net)
        optimizer.load_state_dict(copy.deepcopy(self.optimizer.state_dict()))
        return Training(net, optimizer)


def epoch_of(
    images: Tensor, labels: Tensor, seed: int, epoch: int, reach: int
) -> tuple[Tensor, Tensor]:
    """The inputs and labels of one epoch in the order of training, as the net gets them."""
    drawn = generator(seed, 6, epoch)
    order = torch.randperm(len(images), generator=drawn)
    shifts = torch.randint(-reach, reach + 1, (len(images), 2), generator=drawn)
    return moved(images[order], shifts, reach), labels[order]


def stream_panel(images: Tensor, labels: Tensor, seed: int, epoch: int) -> tuple[Tensor, Tensor]:
    """A blind choice of what passed."""
    kept = torch.randperm(len(images), generator=generator(seed, 7, epoch))[:PROBES]
    return images[kept], labels[kept]


def learn(state: Training, images: Tensor, labels: Tensor, rate: float) -> None:
    """One epoch."""
    for group in state.optimizer.param_groups:
        group["lr"] = rate
    batches = zip(torch.split(images, 64), torch.split(labels, 64), strict=True)
    for batch, wanted in batches:
        state.optimizer.zero_grad()
        F.cross_entropy(state.net(batch), wanted).backward()  # type: ignore[no-untyped-call]
        state.optimizer.step()


def gradients(net: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """The signed gradient of the margin, (N, 28, 28)."""
    images = images.detach().requires_grad_()
    margin: Any = Margin()(net(images), labels)
    (gradient,) = torch.autograd.grad(margin.sum(), images)
    return gradient[:, 0]


def observe(
    net: nn.Module, data: Data, arm: str, stream: tuple[Tensor, Tensor]
) -> dict[str, Tensor]:
    """What is kept of one epoch: `(G, C)` of each panel and size, and the accuracies."""
    images, labels = data.held
    panels = {"probes": (images[:PROBES], labels[:PROBES]), "stream": stream}
    seen = {}
    for name, (inputs, classes) in panels.items():
        masses = cell_mass(gradients(net, inputs, classes))
        number = CLASSES if name == "stream" else 1
        groups = classes if name == "stream" else torch.zeros_like(classes)
        for size in SIZES:
            sums = CellSums.of(masses[:size], groups[:size], number).groups()
            seen[f"{name} {size}"] = (sums if number > 1 else sums[:1]).half()
    with torch.no_grad():
        right = [(net(one).argmax(1) == labels).float().mean() for one in (images, data.lying(arm))]
    return {**seen, "accuracy": torch.stack(right)}


def weights_of(net: nn.Module) -> Tensor:
    """All of them in one row, rounded: what an intervention asks for does not hang on that."""
    return nn.utils.parameters_to_vector(net.parameters()).detach().half()


def follow(job: Job, state: Training, data: Data, start: int, end: int) -> dict[str, Any]:
    """Train from one epoch to another and observe each."""
    recipe, changed = RECIPES[job.recipe], start >= CHANGED_AT
    images, labels = data.training(job.arm) if changed else data.train
    factor = {"lr ×3": 3.0, "lr ×0.1": 0.1}.get(job.arm, 1.0) if changed else 1.0
    reach = recipe.shift + 2 * (job.arm == "augmentation" and changed)
    if job.arm == "head re-init" and changed:
        state.net[-1].load_state_dict(network(job.seed + 10_000)[-1].state_dict())
    seen: list[dict[str, Tensor]] = []
    weights: list[Tensor] = []
    for epoch in range(start, end):
        passing = epoch_of(images, labels, job.seed, epoch, reach)
        learn(state, *passing, recipe.rate(epoch) * factor)
        stream = stream_panel(*passing, job.seed, epoch)
        seen.append(observe(state.net, data, job.arm, stream))
        if job.arm in PLANTED and CHANGED_AT <= epoch < CHANGED_AT + WATCHED:
            weights.append(weights_of(state.net))
    stacked = {name: torch.stack([one[name] for one in seen]) for name in seen[0]}
    return {**stacked, "weights": weights}


def save(found: dict[str, Any], path: Path) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    torch.save(found, part)
    part.replace(path)


def simulate(folder: Path, recipe: str, seed: int, arms: Iterator[str]) -> None:
    """Train what isn't there yet; all arms go on from the same first epochs."""
    missing = [arm for arm in arms if not Job(recipe, arm, seed).file(folder).exists()]
    if not missing:
        return
    data = Data(seed)
    net = network(seed)
    state = Training(net, RECIPES[recipe].optimizer(net))
    first = Job(recipe, "prefix", seed)
    begun = follow(first, state, data, 0, CHANGED_AT)
    save(begun, first.file(folder))
    for arm in missing:
        job = Job(recipe, arm, seed)
        end = EPOCHS if arm == "null" else CHANGED_AT + FOLLOWED
        found = follow(job, state.branch(RECIPES[recipe]), data, CHANGED_AT, end)
        save(found, job.file(folder))
        print(f"{recipe} {arm} {seed}: {found['accuracy'][-1].tolist()}", file=sys.stderr)
