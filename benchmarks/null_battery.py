"""What the numbers say where the answer is known: nothing moved, or all did.

    python benchmarks/null_battery.py [--repeats 1000] [--seeds 14]

A small net reads real digits. Each line sets up a case whose answer is known beforehand, measures
it, and prints both. The last lines replay the stored runs of the power study (`runs/alert_power`;
what is missing there is trained first). Also written to `docs/tables/null_battery.md`.
"""

from __future__ import annotations

import argparse
import copy
import csv
import logging
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

sys.path.insert(0, str(Path(__file__).parents[1]))

from alert_power import told as alarmed
from alert_runs import PROBES, RECIPES, Data, Job, Training, epoch_of, generator, learn, network

from examples.decoy_digits import PATCH
from lightning_saliency import Chart, SaliencyMonitor
from lightning_saliency.attribution import Saliency, SmoothGrad
from lightning_saliency.attribution.passes import explain
from lightning_saliency.measures.drift import cosine
from lightning_saliency.measures.noise import (
    ONE_SIDED,
    crossval,
    moved,
    standard_error,
    z_score,
)
from lightning_saliency.targets import Logit

TABLE = Path("docs/tables/null_battery.md")
RUNS = Path("runs/alert_power")
ARMS = {"backdoor 10 %": True, "backdoor 2 %": True, "lr ×3": False, "lr ×0.1": False}
"""What happens to a run of recipe A, and whether an alert is wanted."""
SEEDS = 46
"""The first of the seeds on which the chart's setting was not chosen."""
CLASSES, TESTED, SAMPLES, DRIFT = 10, 96, 4, 0.02
"""The drift test that is tried: its probes, samples of SmoothGrad, and the drift to be found."""


class Line(NamedTuple):
    """One case: what it is, what it must give, what it gives, and whether that is right."""

    name: str
    wanted: str
    found: str
    right: bool


class Tested(NamedTuple):
    """Many tests of one change.

    Attributes:
        z: `(repeats,)`, of `moved`.
        z_crossval: `(repeats,)`, of `crossval`.
        mean: `(repeats,)`, the mean of `crossval`.
    """

    z: Tensor
    z_crossval: Tensor
    mean: Tensor

    @property
    def share(self) -> float:
        """Of the tests that say that the maps moved."""
        return (self.z > ONE_SIDED).float().mean().item()

    def words(self) -> str:
        """Of a table."""
        other = (self.z_crossval > ONE_SIDED).float().mean()
        return (
            f"{self.share:.1%}, mean z {self.z.mean():.2f} (of crossval: {other:.1%}, "
            f"{self.z_crossval.mean():.2f})"
        )


class Case:
    """Nets and probes that the lines share.

    Args:
        epochs: of each training.
        repeats: of each test that is tried on noise.
    """

    def __init__(self, epochs: int = 10, repeats: int = 1000) -> None:
        self.epochs, self.repeats = epochs, repeats
        self.data = Data(0)
        self.images, self.labels = (one[:PROBES] for one in self.data.held)

    def trained(self, seed: int, labels: Tensor | None = None, rate: float = 1e-3) -> list[Any]:
        """A net after each epoch, the untrained one first."""
        images, own = self.data.train
        labels = own if labels is None else labels
        net = network(seed)
        state = Training(net, RECIPES["A"].optimizer(net))
        path = [copy.deepcopy(net)]
        for epoch in range(self.epochs):
            learn(state, *epoch_of(images, labels, seed, epoch, 0), rate)
            path.append(copy.deepcopy(net))
        return path

    @cached_property
    def path(self) -> list[Any]:
        """The net that most lines look at, on its way."""
        return self.trained(0)

    def gradient(self, net: nn.Module, labels: Tensor | None = None) -> Tensor:
        """Signed gradients of the margin `(256, 1, 28, 28)`."""
        labels = self.labels if labels is None else labels
        return explain(net, self.images, labels, {"map": Saliency()}).maps["map"].signed

    def halves(self, net: nn.Module, rows: Tensor, seed: int, samples: int = SAMPLES) -> Tensor:
        """SmoothGrad's halves of some held-out digits."""
        images, labels = (one[rows] for one in self.data.held)
        method = SmoothGrad(samples=samples, seed=seed)
        found = explain(net, images, labels, {"map": method}).maps["map"].halves
        assert found is not None
        return found

    def tested(self, then: nn.Module, now: nn.Module) -> Tested:
        """Try the test on fresh probes and fresh noise, again and again."""
        found = []
        for repeat in range(self.repeats):
            rows = torch.randperm(len(self.data.held[0]), generator=generator(8, repeat))[:TESTED]
            before = self.halves(then, rows, 2 * repeat)
            after = self.halves(now, rows, 2 * repeat + 1)
            naive = crossval(after, before)
            each = z_score(moved(after, before)), z_score(naive), naive.nanmean()
            found.append(torch.stack(each))
        return Tested(*torch.stack(found, dim=1))


def frozen(case: Case) -> Line:
    """The same weights twice, with the same noise."""
    rows = torch.arange(PROBES)
    methods = {"gradient": Saliency(), "smooth": SmoothGrad(samples=SAMPLES)}
    one, other = (
        explain(case.path[-1], case.images, case.labels, methods, chunk=64).maps for _ in range(2)
    )
    drifts = [cosine(one[name].signed, other[name].signed) for name in methods]
    drifts.append(crossval(*(case.halves(case.path[-1], rows, 0) for _ in range(2))))
    return exactly_zero("frozen weights, drift and crossval", torch.cat(drifts).abs().amax())


def rate_of_zero(case: Case) -> Line:
    """A fit that changes nothing, as the monitor logs it."""
    with tempfile.TemporaryDirectory() as folder:
        fit(case, 0.0, SaliencyMonitor(methods=["saliency", "smooth_grad"], alerts=None), folder)
        with (Path(folder) / "metrics.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
    drifts = [
        float(value)
        for row in rows
        for name, value in row.items()
        if "/drift_previous" in name and "chance" not in name and value not in ("", "nan")
    ]
    return exactly_zero(f"lr = 0, {len(drifts)} values in a log", torch.tensor(drifts).abs().amax())


def exactly_zero(name: str, found: Tensor) -> Line:
    return Line(name, "0", f"{found:.3g}", bool(found == 0))


def fresh_noise(case: Case) -> Line:
    """Frozen weights, but other noise: what the naive distance makes of it, and what crossval."""
    rows = torch.arange(PROBES)
    then, now = (case.halves(case.path[-1], rows, seed) for seed in (1, 2))
    naive = cosine(now.mean(1), then.mean(1)).nanmean()
    unbiased = crossval(now, then)
    mean, error = unbiased.nanmean(), standard_error(unbiased)
    return Line(
        "frozen weights, fresh noise: crossval",
        "within 2 SE of 0",
        f"{mean:.4f} ± {error:.4f} (naive {naive:.3f}; {unbiased.isnan().sum()} of {len(rows)} "
        "probes undefined)",
        bool(mean.abs() <= 2 * error),
    )


def false_alarms(case: Case) -> Line:
    """Frozen weights, fresh noise: how often the test says that they moved."""
    found = case.tested(case.path[-1], case.path[-1])
    name = f"the same, z > {ONE_SIDED} in {len(found.z)} tests of {TESTED} probes"
    return Line(name, "2 to 7 %", found.words(), 0.02 <= found.share <= 0.07)


def power(case: Case) -> Line:
    """Weights that moved so far that the drift is 0.02."""
    found = case.tested(case.path[-2], moved_by(case, DRIFT))
    name = f"drift {DRIFT}, measured {found.mean.mean():.4f}: found in {len(found.z)} tests"
    return Line(name, "95 % or more", found.words(), found.share >= 0.95)


def moved_by(case: Case, drift: float) -> nn.Module:
    """The net on the straight line of the last epoch whose SmoothGrad drifted so far."""
    rows = torch.arange(PROBES)
    then = case.halves(case.path[-2], rows, 1, samples=32)
    low, high = 0.0, 4.0
    for _ in range(12):
        way = (low + high) / 2
        net = between(case.path[-2], case.path[-1], way)
        far = crossval(case.halves(net, rows, 2, samples=32), then).nanmean() > drift
        low, high = (low, way) if far else (way, high)
    return net


def between(one: nn.Module, other: nn.Module, way: float) -> nn.Module:
    """A net with weights on the line from one to the other, at `way` 0 to 1, or beyond."""
    net = copy.deepcopy(one)
    with torch.no_grad():
        for weight, end in zip(net.parameters(), other.parameters(), strict=True):
            weight.lerp_(end, way)
    return net


def drawn_anew(case: Case) -> Line:
    """Against nets that know nothing."""
    known = case.gradient(case.path[-1])
    drifts = [cosine(case.gradient(network(seed)), known).nanmean() for seed in range(1000, 1020)]
    found = torch.stack(drifts)
    return Line(
        "weights drawn anew: signed drift",
        "0.95 to 1.05",
        f"{found.mean():.3f} (20 draws, {found.amin():.3f} to {found.amax():.3f})",
        bool(0.95 <= found.mean() <= 1.05),
    )


def permuted_labels(case: Case) -> Line:
    """Against a net that learned the same digits by wrong labels."""
    labels = case.data.train[1]
    wrong = labels[torch.randperm(len(labels), generator=generator(9))]
    other = case.gradient(case.trained(0, wrong)[-1])
    found = (1 - cosine(other, case.gradient(case.path[-1]))).nanmean()
    return Line(
        "labels permuted: cosine", "-0.05 to 0.05", f"{found:.3f}", bool(found.abs() < 0.05)
    )


def other_seed(case: Case) -> Line:
    """Against a net of another seed."""
    other = case.gradient(case.trained(1)[-1])
    found = (1 - cosine(other, case.gradient(case.path[-1]))).nanmean()
    return Line("another seed: cosine", "above 0.6", f"{found:.3f}", bool(found > 0.6))


class Shifted(nn.Module):
    """A net, with one linear function of a corner added to all of its logits."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        """Logits that predict what they did."""
        logits: Tensor = self.net(images)
        return logits + 10 * images[:, 0, :PATCH, :PATCH].sum((1, 2))[:, None]


def same_for_all_logits(case: Case) -> Iterator[Line]:
    """The predictions stay, to the last digit; float64, where rounding is no answer."""
    net = copy.deepcopy(case.path[-1]).double()
    images, ways = case.images.double(), {"margin": None, "logit": Logit()}
    for name, target in ways.items():
        one, other = (
            explain(each, images, case.labels, {"map": Saliency()}, target=target)
            .maps["map"]
            .signed
            for each in (net, Shifted(net))
        )
        found = ((one - other).abs().amax() / one.abs().amax()).item()
        right = found < 1e-6 if name == "margin" else found > 0.1
        wanted = "below 1e-6" if name == "margin" else "above 0.1"
        title = f"a linear function of a corner added to all logits: {name} map"
        yield Line(title, wanted, f"{found:.2g} of its peak", right)


def next_class(case: Case) -> Line:
    """The same net, asked for the next class."""
    other = case.gradient(case.path[-1], (case.labels + 1) % CLASSES)
    found = cosine(other, case.gradient(case.path[-1])).nanmean()
    return Line("class y + 1 for y: drift", "above 1.3", f"{found:.3f}", bool(found > 1.3))


class Module(LightningModule):
    """The net with dropout, so that a random stream that moved would show."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.net = nn.Sequential(nn.Dropout(0.1), network(0))

    def forward(self, images: Tensor) -> Tensor:
        """The logits."""
        logits: Tensor = self.net(images)
        return logits

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """The cross entropy."""
        return F.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        """The cross entropy."""
        self.log("loss", F.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam."""
        return torch.optim.Adam(self.parameters(), lr=self.rate)


def fit(case: Case, rate: float, monitor: SaliencyMonitor | None, folder: str) -> list[Tensor]:
    """A real short fit; all that it leaves: weights, the optimiser's state, the random stream."""
    seed_everything(0, verbose=False)
    module = Module(rate)
    training, held = (
        TensorDataset(images[:640], labels[:640])
        for images, labels in (case.data.train, case.data.held)
    )
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=3,
        logger=CSVLogger(folder, name="", version=""),
        callbacks=[] if monitor is None else [monitor],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=10,
    )
    trainer.fit(
        module, DataLoader(training, batch_size=64, shuffle=True), DataLoader(held, batch_size=64)
    )
    states = trainer.optimizers[0].state.values()
    moments = [one for state in states for one in state.values() if isinstance(one, Tensor)]
    return [*module.state_dict().values(), *moments, torch.get_rng_state()]


def no_trace(case: Case) -> Line:
    """The same fit with a monitor and without."""
    monitor = SaliencyMonitor(methods=["saliency", "smooth_grad"], on_error="raise")
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        pairs = list(zip(fit(case, 1e-3, monitor, one), fit(case, 1e-3, None, other), strict=True))
    same = sum(bool(torch.equal(watched, alone)) for watched, alone in pairs)
    name = "a fit with the monitor and without: weights, optimiser, random stream"
    return Line(name, "identical", f"{same} of {len(pairs)} tensors are", same == len(pairs))


ENGINE: tuple[Callable[[Case], Line | Iterator[Line]], ...] = (
    frozen,
    rate_of_zero,
    fresh_noise,
    false_alarms,
    power,
    drawn_anew,
    permuted_labels,
    other_seed,
    same_for_all_logits,
    next_class,
    no_trace,
)


def told(case: Case, chosen: tuple[Callable[[Case], Line | Iterator[Line]], ...]) -> Iterator[Line]:
    """The lines, one after the other."""
    for one in chosen:
        found = one(case)
        yield from [found] if isinstance(found, Line) else found


def alerts(seeds: int) -> Iterator[Line]:
    """The chart on runs with a planted backdoor, and on runs whose learning rate jumped."""
    for arm, planted in ARMS.items():
        jobs = [Job("A", arm, SEEDS + seed) for seed in range(seeds)]
        found = [alarmed(job, RUNS, Chart(), PROBES) for job in jobs]
        early = sum(one.early for one in found)
        after = [one for one in found if one.delay is not None]
        if planted:
            soon = [one for one in after if one.delay is not None and one.delay <= 3]
            right = sum(one.right for one in soon)
            told = f"{len(soon)} of {seeds}; {right} in the right cell"
            fine = len(soon) >= 0.9 * seeds and right >= 0.95 * len(soon)
            yield Line(f"{arm}: alert within 3 epochs", "90 %, 95 % of them right", told, fine)
        else:
            yield Line(f"{arm}: runs with an alert", "0", f"{len(after)} of {seeds}", not after)
        yield Line(f"{arm}: runs with one before", "0", f"{early} of {seeds}", not early)


def main(given: argparse.Namespace) -> None:
    """All lines, as they come."""
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    lines = ["| line | wanted | found | ok |", "|---|---|---|---|"]
    print("\n".join(lines), flush=True)
    case = Case(repeats=given.repeats)
    for source in (told(case, ENGINE), alerts(given.seeds)):
        for name, wanted, found, right in source:
            lines.append(f"| {name} | {wanted} | {found} | {'yes' if right else '**no**'} |")
            print(lines[-1], flush=True)
    TABLE.parent.mkdir(parents=True, exist_ok=True)
    TABLE.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--repeats", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=14)
    main(parser.parse_args())
