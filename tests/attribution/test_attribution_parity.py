"""The same maps as captum, pytorch-grad-cam and torchcam, and as the papers' equations in loops."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from attribution_nets import Closed, Deep, close, images, resnet
from captum import attr
from torch import Tensor, nn

from lightning_saliency.attribution import (
    GradCAM,
    GradCAMPlusPlus,
    HiResCAM,
    InputXGradient,
    IntegratedGradients,
    LayerCAM,
    Method,
    Saliency,
    explain,
)
from lightning_saliency.targets import Logit

Case = tuple[nn.Module, Tensor, Tensor, str]


def _resnet_case(count: int, side: int) -> Case:
    return resnet(), images(count, 3, side, side), torch.tensor([3, 999, 0])[:count], "layer3"


CASES: dict[str, Callable[[], Case]] = {
    "closed": lambda: (Closed(), images(3, 2, 6, 7), torch.tensor([0, 3, 1]), "relu"),
    "deep": lambda: (Deep(), images(3, 3, 11, 13), torch.tensor([0, 3, 1]), "second"),
    "resnet18 at 64": lambda: _resnet_case(2, 64),
    "resnet18 at 96": lambda: _resnet_case(1, 96),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]()


def signed_map(method: Method, case: Case) -> Tensor:
    model, inputs, targets, _ = case
    return explain(model, inputs, targets, {"m": method}, target=Logit()).maps["m"].signed


def test_saliency_is_captums(case: Case) -> None:
    model, inputs, targets, _ = case
    theirs = attr.Saliency(model).attribute(inputs.clone().requires_grad_(), targets, abs=False)
    close(signed_map(Saliency(), case), theirs)


def test_input_x_gradient_is_captums(case: Case) -> None:
    model, inputs, targets, _ = case
    theirs = attr.InputXGradient(model).attribute(inputs.clone().requires_grad_(), targets)
    close(signed_map(InputXGradient(), case), theirs.detach())


@pytest.fixture
def float64_by_default() -> Iterator[None]:
    """Else captum's fractions of the path are float32, and one ReLU in a million flips by that."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("float64_by_default")
@pytest.mark.parametrize(("steps", "baseline"), [(3, -0.4)])
def test_integrated_gradients_are_captums(case: Case, steps: int, baseline: float) -> None:
    model, inputs, targets, _ = case
    theirs = attr.IntegratedGradients(model).attribute(
        inputs, baseline, target=targets, n_steps=steps, method="riemann_middle"
    )
    close(signed_map(IntegratedGradients(steps=steps, baseline=baseline), case), theirs)


@pytest.mark.usefixtures("float64_by_default")
def test_integrated_gradients_from_a_baseline_per_channel_are_captums() -> None:
    case = CASES["closed"]()
    model, inputs, targets, _ = case
    start = torch.tensor([0.7, -1.2], dtype=inputs.dtype).view(1, 2, 1, 1).expand_as(inputs)
    theirs = attr.IntegratedGradients(model).attribute(
        inputs, start, target=targets, n_steps=5, method="riemann_middle"
    )
    close(signed_map(IntegratedGradients(steps=5, baseline=(0.7, -1.2)), case), theirs)


def test_grad_cam_is_captums(case: Case) -> None:
    model, inputs, targets, layer = case
    peer = attr.LayerGradCam(model, model.get_submodule(layer))
    close(signed_map(GradCAM(layer), case), peer.attribute(inputs, targets).detach())


def torch_cam(name: str, case: Case) -> Tensor:
    """Torchcam's map after its ReLU, before it is min-max scaled."""
    from torchcam import methods

    model, inputs, targets, layer = case
    with getattr(methods, name)(model, layer) as extractor:
        scores = model(inputs)
        maps: Tensor = extractor(targets.tolist(), scores, normalized=False)[0]
        return maps.detach()


class Scaled(nn.Module):
    """A model whose scores are so large that pytorch-grad-cam's ε of 1e-6 doesn't count."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor) -> Tensor:
        scores: Tensor = 1e6 * self.model(inputs)
        return scores


def scaled(case: Case) -> Case:
    model, inputs, targets, layer = case
    return Scaled(model), inputs, targets, f"model.{layer}"


def grad_cam(name: str, case: Case) -> Tensor:
    """pytorch-grad-cam's raw `get_cam_image`: before ReLU, resizing and min-max."""
    import pytorch_grad_cam
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    model, inputs, targets, layer = case
    raw: list[Any] = []

    class Raw(getattr(pytorch_grad_cam, name)):  # type: ignore[misc]
        def get_cam_image(self, *args: Any, **kwargs: Any) -> Any:
            raw.append(super().get_cam_image(*args, **kwargs))
            return raw[-1]

    with Raw(model, [model.get_submodule(layer)]) as extractor:
        extractor(inputs, [ClassifierOutputTarget(int(target)) for target in targets])
    model.zero_grad()
    return torch.from_numpy(raw[0])[:, None]


def evidence(case: Case) -> tuple[Tensor, Tensor]:
    """A and g of the layer, read by hand."""
    model, inputs, targets, layer = case
    taken: list[Tensor] = []
    hook = model.get_submodule(layer).register_forward_hook(
        lambda module, args, output: taken.append(output)
    )
    score = model(inputs).gather(1, targets[:, None]).sum()
    hook.remove()
    return taken[0].detach(), torch.autograd.grad(score, taken[0])[0]


def naive_cam(name: str, case: Case) -> Tensor:
    """The papers' equations, number by number."""
    activations, gradients = evidence(case)
    probes, channels, height, width = activations.shape
    places = [(i, j) for i in range(height) for j in range(width)]
    found = torch.zeros(probes, 1, height, width, dtype=activations.dtype)
    for n in range(probes):
        for k in range(channels):
            a, g = activations[n, k].tolist(), gradients[n, k].tolist()
            total = sum(a[i][j] for i, j in places)
            mean = sum(g[i][j] for i, j in places) / len(places)
            weight = 0.0  # of Grad-CAM++, eq. 19 and eq. 7
            for i, j in places:
                if g[i][j] != 0:
                    alpha = g[i][j] ** 2 / (2 * g[i][j] ** 2 + total * g[i][j] ** 3)
                    weight += alpha * max(g[i][j], 0.0)
            for i, j in places:
                found[n, 0, i, j] += (
                    a[i][j]
                    * {
                        "GradCAM": mean,
                        "HiResCAM": g[i][j],
                        "LayerCAM": max(g[i][j], 0.0),
                        "GradCAMPlusPlus": weight,
                    }[name]
                )
    return found


CAMS: dict[str, Callable[[str], Method]] = {
    "GradCAM": GradCAM,
    "HiResCAM": HiResCAM,
    "LayerCAM": LayerCAM,
    "GradCAMPlusPlus": GradCAMPlusPlus,
}


@pytest.mark.parametrize("name", CAMS)
def test_cams_are_their_equations(name: str, case: Case) -> None:
    close(signed_map(CAMS[name](case[3]), case), naive_cam(name, case))


@pytest.mark.parametrize("name", CAMS)
def test_cams_are_those_of_pytorch_grad_cam(name: str, case: Case) -> None:
    large = scaled(case)
    close(signed_map(CAMS[name](large[3]), large), grad_cam(name, large))


@pytest.mark.parametrize("name", ["GradCAM", "LayerCAM"])
def test_rectified_cams_are_those_of_torchcam(name: str, case: Case) -> None:
    model, inputs, targets, layer = case
    method = CAMS[name](layer)
    ours = explain(model, inputs, targets, {"m": method}, target=Logit()).maps["m"].map
    close(ours, torch_cam(name, case))
