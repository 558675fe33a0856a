"""Ways in which people look at a model while it trains, with the libraries that they use.

The net is the one of the matrix. Each is what scripts and tutorials show, and none is careless in
one plain epoch: it is accumulation, frozen layers and shared random streams that they meet.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from captum.attr import NoiseTunnel
from captum.attr import Saliency as Gradient
from harmless_setups import ACCUMULATE
from lightning.pytorch import Callback
from pytorch_grad_cam import GradCAM, HiResCAM
from torch import Tensor
from twin_nets import Images
from twin_runs import Setup, gaps, run


class Recipe(Callback):
    """Four examples, looked at now and then."""

    def __init__(self) -> None:
        images = Images(4, seed=2)
        self.inputs, self.targets = images.inputs, images.targets

    def score(self, module: Any) -> Tensor:
        outputs: Tensor = module(self.inputs)
        return outputs.gather(1, self.targets[:, None]).sum()


class HiResCamInEachBatch(Recipe):
    """A library's CAM of each validation batch, kept for the next one."""

    cam: Any = None

    def on_validation_batch_end(self, trainer: Any, pl_module: Any, *_: Any, **__: Any) -> None:
        self.cam = self.cam or HiResCAM(pl_module, [pl_module.body[0]])
        with torch.enable_grad():
            self.cam(self.inputs, None)


class ZeroGradAndGradCam(Recipe):
    """Grad-CAM by hand: clear the gradients, go backward, clear up."""

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        kept: list[Tensor] = []
        hook = pl_module.stem.register_forward_hook(lambda *given: kept.append(given[-1]))
        with torch.enable_grad():
            pl_module.zero_grad()
            score = self.score(pl_module)
            kept[0].retain_grad()
            score.backward()  # type: ignore[no-untyped-call]
        hook.remove()
        pl_module.zero_grad()


class GradCamAfterTheEpoch(Recipe):
    """A library's CAM after each epoch. The library calls `eval()`, and nobody calls `train()`."""

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        with GradCAM(pl_module, [pl_module.body[0]]) as cam:
            cam(self.inputs, None)


class EvalBackwardTrain(Recipe):
    """The gradient of the loss after each batch, in evaluation mode and back."""

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        inputs = self.inputs.clone().requires_grad_()
        pl_module.eval()
        F.cross_entropy(pl_module(inputs), self.targets).backward()  # type: ignore[no-untyped-call]
        pl_module.train()


class NoiseTunnelAtTheEnd(Recipe):
    """SmoothGrad by captum, whose noise comes from the stream that shuffles the training data."""

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        with torch.enable_grad():
            NoiseTunnel(Gradient(pl_module)).attribute(
                self.inputs, nt_samples=4, target=self.targets
            )


class GradientInTrainingMode(Recipe):
    """captum's gradient after an epoch, without `eval()`: dropout draws, BatchNorm learns."""

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        Gradient(pl_module).attribute(self.inputs.clone().requires_grad_(), target=self.targets)


RECIPES: dict[str, Callable[[], Recipe]] = {
    "HiResCAM (pytorch-grad-cam) in `on_validation_batch_end`": HiResCamInEachBatch,
    "`zero_grad()`, Grad-CAM, `zero_grad()` in `on_validation_epoch_end`": ZeroGradAndGradCam,
    "GradCAM (pytorch-grad-cam) in `on_train_epoch_end`": GradCamAfterTheEpoch,
    "`eval()`, `loss.backward()`, `train()` in `on_train_batch_end`": EvalBackwardTrain,
    "NoiseTunnel (captum) in `on_validation_epoch_end`": NoiseTunnelAtTheEnd,
    "Saliency (captum) in `on_train_epoch_end`, without `eval()`": GradientInTrainingMode,
}

SETUPS = {
    "plain": Setup(epochs=3),
    "accumulate": Setup(epochs=3, trainer=tuple(ACCUMULATE.items())),
}


def caught(name: str, setup: str) -> dict[str, float]:
    """What differs after the recipe → max |Δ|."""
    with tempfile.TemporaryDirectory() as folder:
        bare, watched = Path(folder) / "bare", Path(folder) / "watched"
        bare.mkdir()
        watched.mkdir()
        trained = SETUPS[setup]
        return gaps(run(trained, list, bare), run(trained, lambda: [RECIPES[name]()], watched))
