"""What six methods in one pass cost: against one of them alone, and against three other libraries.

    python benchmarks/one_pass.py [--rounds 5] [--batch 16] [--size 224] [--threads 1]
        [--clock wall | cpu]

A resnet18 with random weights; all libraries explain the same logits of the same classes, and read
the same layer.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import pytorch_grad_cam
import torch
from captum import attr
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from timing import CLOCKS, Seconds, median, ratio, take_turns
from torch import Tensor, nn
from torchcam import methods as torch_cam
from torchvision.models import resnet18

from lightning_saliency.attribution import (
    GradCAM,
    GradCAMPlusPlus,
    HiResCAM,
    InputXGradient,
    LayerCAM,
    Method,
    Saliency,
    explain,
)
from lightning_saliency.targets import Logit

LAYER = "layer4"
SIX: dict[str, Method] = {
    "Saliency": Saliency(),
    "InputXGradient": InputXGradient(),
    "GradCAM": GradCAM(LAYER),
    "HiResCAM": HiResCAM(LAYER),
    "LayerCAM": LayerCAM(LAYER),
    "GradCAMPlusPlus": GradCAMPlusPlus(LAYER),
}
PEERS = {"captum": attr, "torchcam": torch_cam, "pytorch-grad-cam": pytorch_grad_cam}
THEIR_NAME = {
    ("captum", "GradCAM"): "LayerGradCam",
    ("torchcam", "GradCAMPlusPlus"): "GradCAMpp",
}
Case = tuple[nn.Module, Tensor, Tensor]


def bare_gradient(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    point = inputs.detach().requires_grad_()
    score = model(point).gather(1, targets[:, None]).sum()
    return torch.autograd.grad(score, point)[0]


def ours(case: Case, *names: str) -> object:
    return explain(*case, {name: SIX[name] for name in names}, target=Logit())


def captum(peer: Any, model: nn.Module, inputs: Tensor, targets: Tensor) -> object:
    own = (model, model.get_submodule(LAYER)) if issubclass(peer, attr.LayerGradCam) else (model,)
    return peer(*own).attribute(inputs.detach().requires_grad_(), targets)


def torchcam(peer: Any, model: nn.Module, inputs: Tensor, targets: Tensor) -> object:
    with peer(model, LAYER) as extractor:
        return extractor(targets.tolist(), model(inputs))


def grad_cam(peer: Any, model: nn.Module, inputs: Tensor, targets: Tensor) -> object:
    with peer(model, [model.get_submodule(LAYER)]) as extractor:
        return extractor(inputs, [ClassifierOutputTarget(int(target)) for target in targets])


RUNNERS = {"captum": captum, "torchcam": torchcam, "pytorch-grad-cam": grad_cam}


def peers_of(method: str, case: Case) -> dict[str, Callable[[], object]]:
    """The jobs of all libraries that have the method."""
    found: dict[str, Callable[[], object]] = {}
    for library, module in PEERS.items():
        name = THEIR_NAME.get((library, method), method)
        if name is not None and hasattr(module, name):
            runner = RUNNERS[library]
            found[f"{library} {method}"] = partial(runner, getattr(module, name), *case)
    return found


def report(seconds: Seconds) -> None:
    """The tables."""
    print(f"{'one method, alone':<20}{'explain':>10}" + "".join(f"{name:>18}" for name in PEERS))
    cheapest = []
    for method in SIX:
        times = {peer: f"{peer} {method}" for peer in PEERS if f"{peer} {method}" in seconds}
        cells = [f"{median(seconds, times[p]):.3f} s" if p in times else "–" for p in PEERS]
        own = f"{median(seconds, method):.3f} s" if method in seconds else ""
        print(f"{method:<20}{own:>10}" + "".join(f"{cell:>18}" for cell in cells))
        cheapest.append(min(times.values(), key=partial(median, seconds)))
    print(f"{'all six in one':<20}{median(seconds, 'six'):>8.3f} s")
    print(f"{'bare gradient':<20}{median(seconds, 'bare'):>8.3f} s\n")
    print(f"{'ratio: median (quartiles)':<58}{'':>20}  wanted")
    for words, above, below, wanted in (
        ("six methods in one explain ÷ Saliency alone", ["six"], ["Saliency"], "≤ 1.15"),
        ("Saliency by explain ÷ bare forward and gradient", ["Saliency"], ["bare"], "≤ 1.05"),
        ("six in one ÷ the cheapest library for each, added up", ["six"], cheapest, "≤ 0.35"),
        ("GradCAM by explain ÷ captum LayerGradCam", ["GradCAM"], ["captum GradCAM"], ""),
    ):
        print(f"{words:<58}{ratio(seconds, above, below)!s:>20}  {wanted}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=16, help="probes")
    parser.add_argument("--size", type=int, default=224, help="pixels on a side")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: on a busy machine")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    targets = torch.randint(1000, (given.batch,))
    case = (resnet18().eval(), torch.randn(given.batch, 3, given.size, given.size), targets)
    jobs: dict[str, Callable[[], object]] = {
        "six": partial(ours, case, *SIX),
        "Saliency": partial(ours, case, "Saliency"),
        "bare": partial(bare_gradient, *case),
    }
    for method in SIX:
        if method == "GradCAM":  # beside captum's, with which it is compared
            jobs[method] = partial(ours, case, method)
        jobs |= peers_of(method, case)
    print(
        f"resnet18, {given.batch} × 3 × {given.size}², {given.threads} thread(s), "
        f"{given.rounds} rounds, {given.clock} time, torch {torch.__version__}\n"
    )
    report(take_turns(jobs, given.rounds, given.clock))


if __name__ == "__main__":
    main()
