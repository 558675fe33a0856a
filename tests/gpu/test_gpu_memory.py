"""Memory of the device: chunks are halved where it runs out, and nothing stays behind."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from gpu_place import CUDA, PLACE, allocated, begin_peak, figure, little_memory, needs_a_gpu, peak
from lightning.pytorch import Callback, LightningModule
from small_fits import loader, trainer
from torch import Tensor, nn

from lightning_saliency import IntegratedGradients, SaliencyMonitor, SmoothGrad, VarGrad
from lightning_saliency.attribution import ScoreCAM, Subject, explain
from lightning_saliency.class_models import ClassModel, class_models
from lightning_saliency.observation import observing

pytestmark = needs_a_gpu

SIDE, CLASSES, BATCH = (192 if CUDA else 16), 5, 4
FIVE: dict[str, Any] = {
    "gradient": "saliency",
    "smooth": SmoothGrad(samples=2),
    "variance": VarGrad(samples=2),
    "path": IntegratedGradients(steps=2),
    "cam": "grad_cam",
}


class Deep(LightningModule):
    """Activations weigh more than all else, as in the nets that people train."""

    def __init__(self) -> None:
        super().__init__()
        body: list[nn.Module] = [nn.Conv2d(3, 24, 3, padding=1), nn.ReLU()]
        for _ in range(6):
            body += [nn.Conv2d(24, 24, 3, padding=1), nn.BatchNorm2d(24), nn.ReLU()]
        self.body = nn.Sequential(*body)
        self.head = nn.Linear(24, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self.body(x).mean((2, 3)))
        return scores

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", F.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


def data(count: int, batch: int) -> Any:
    images = torch.randn(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(count))
    return loader(images, torch.arange(count) % CLASSES, batch_size=batch)


def fitted(callbacks: list[Callback], net: Deep, batch: int = BATCH, **given: Any) -> Any:
    """The Trainer after two epochs of two batches."""
    made = trainer(accelerator=PLACE, devices=1, callbacks=callbacks, **given)
    made.fit(net, data(2 * batch, batch), data(64, batch))
    return made


def deep() -> Deep:
    torch.manual_seed(0)
    return Deep()


@pytest.fixture(autouse=True)
def deterministic_as_before() -> Any:
    yield
    torch.use_deterministic_algorithms(False)


EXAMPLE = 24 * SIDE * SIDE * 4 * 14
"""About what a pass keeps of one example: what 14 layers give."""


def test_chunks_are_halved_where_memory_runs_out() -> None:
    seen: list[tuple[dict[str, Tensor], dict[str, float], int | None]] = []
    for watched, little in ((False, True), (True, True), (True, False)):
        net = deep().to(PLACE)
        monitor = SaliencyMonitor(FIVE, 64, chunk=64, on_error="raise")
        with little_memory(net.body if little else nn.Identity(), _enough(little), 9):
            fit = fitted([monitor] if watched else [], net, deterministic=True)
        logged = {name: float(one) for name, one in fit.callback_metrics.items()}
        weights = {name: one.detach().cpu() for name, one in net.state_dict().items()}
        seen.append((weights, logged, monitor._chunk))
    (alone, _, _), (weights, logged, chunk), (_, free, whole) = seen
    assert whole == 64
    assert chunk is not None
    assert chunk < whole, "the first was too large"
    figure("out of memory: chunk of 64 became", chunk)
    assert logged["saliency/failures"] == 0
    for name in ("saliency/gradient/entropy", "saliency/cam/entropy", "saliency/magnitude"):
        assert logged[name] == pytest.approx(free[name], rel=2e-2), name
    assert all(torch.equal(alone[name], weights[name]) for name in alone), "training went on"


def _enough(little: bool) -> int:
    """Bytes for a chunk of about ten, and for all that a training of four needs; or for all."""
    return 24 * EXAMPLE if little else 1000 * EXAMPLE


def test_class_models_are_halved_as_well() -> None:
    net, how = deep().to(PLACE).eval(), ClassModel(classes=[0, 1, 2, 3, 4], steps=2)

    def seen() -> Any:
        with observing(net):
            return class_models(Subject(net), how, (3, SIDE, SIDE))

    free = seen()
    with little_memory(net.body, 3 * EXAMPLE + EXAMPLE // 4, 2):
        halved = seen()
    assert torch.allclose(free.pictures, halved.pictures, atol=1e-3, rtol=1e-2)


class Peaks(Callback):
    """The most memory of each part of a fit, beside what lived before it began."""

    def __init__(self) -> None:
        self.most: dict[str, int] = {}
        self.left: list[int] = []
        self.before = 0

    def begin(self) -> None:
        begin_peak()
        self.before = allocated()

    def end(self, part: str) -> None:
        self.most[part] = max(self.most.get(part, 0), peak() - self.before)

    def on_train_batch_start(self, *_: Any) -> None:
        self.begin()

    def on_train_batch_end(self, *_: Any) -> None:
        self.end("a training step")

    def on_validation_batch_start(self, *_: Any) -> None:
        self.begin()

    def on_validation_batch_end(self, *_: Any) -> None:
        self.end("a validation step")

    def on_validation_epoch_end(self, *_: Any) -> None:
        self.begin()


class After(Callback):
    """Stands after the monitor in the list."""

    def __init__(self, peaks: Peaks) -> None:
        self.peaks = peaks

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.peaks.end("an observation")
        self.peaks.left.append(allocated() - self.peaks.before)


@pytest.mark.parametrize("methods", [None, FIVE], ids=["default", "five"])
def test_an_observation_takes_what_a_training_step_takes(methods: Any) -> None:
    peaks, probes, chunk = Peaks(), 64, 16
    monitor = SaliencyMonitor(methods, probes, on_error="raise")
    fitted([peaks, monitor, After(peaks)], deep(), batch=chunk)
    count, most = len(methods or [1]), peaks.most
    kept = count * probes * 4 * SIDE * SIDE * 4
    sums = count * chunk * 8 * 3 * SIDE * SIDE * 4
    for part in most:
        figure(f"{count} methods, {chunk} of 3 × {SIDE}²: MiB of {part}", most[part] / 2**20)
    figure(f"{count} methods: MiB allowed beside", (kept + sums) / 2**20)
    if CUDA:
        assert most["an observation"] <= most["a training step"] + kept + sums
        figure(f"{count} methods: MiB left by an observation", max(peaks.left) / 2**20)
        assert peaks.left[-1] <= peaks.left[0] + 2**20, "nothing piles up"


def test_few_probes_share_passes() -> None:
    """Of several noisy copies and steps: the maps are those of a pass each, in less time."""
    net = deep().to(PLACE).eval()
    images = torch.randn(4, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)).to(PLACE)
    classes = torch.arange(4, device=PLACE) % CLASSES
    methods: dict[str, Any] = {
        "smooth": SmoothGrad(samples=8),
        "path": IntegratedGradients(steps=16),
        "score": ScoreCAM("body.0"),
    }
    found, seconds = {}, {}
    for chunk in (4, 32, 4, 32):
        begun = time.perf_counter()
        found[chunk] = explain(net, images, classes, methods, chunk=chunk).maps
        float(found[chunk]["path"].map.sum())  # waits for the device
        seconds[chunk] = time.perf_counter() - begun
    figure("4 probes: time of passes of 32 rows ÷ of passes of 4", seconds[32] / seconds[4])
    for name, single in found[4].items():
        apart = (found[32][name].map - single.map).abs().amax() / single.map.abs().amax()
        figure(f"4 probes: {name}, largest difference", float(apart))
        assert apart < 1e-2, "TF32 rounds to 1e-3"
