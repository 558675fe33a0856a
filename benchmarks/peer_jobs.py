"""The methods, and the same maps as other libraries make them: each in its documented, fastest way.

A job is a call without arguments. Both sides get the same inputs, classes, layer and numbers of
samples, and explain the logit of the class.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias

import pytorch_grad_cam
import torch
import torchcam.methods
import zennit.attribution
import zennit.composites
from captum import attr
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn
from torchvision.models import resnet18, vit_b_16
from torchvision.models.resnet import BasicBlock

from lightning_saliency import attribution as own
from lightning_saliency.attribution import Method, explain
from lightning_saliency.targets import Logit

Job: TypeAlias = Callable[[], object]

CLEAN = {"saliency", "input_x_gradient", "full_grad", "grad_cam", "grad_cam_plus_plus"}
CLEAN |= {"hires_cam", "layer_cam", "xgrad_cam", "eigen_cam"}
"""Gradient and class activation maps that need nothing but the clean input."""

SIX = {"saliency", "input_x_gradient", "grad_cam", "grad_cam_plus_plus", "hires_cam", "layer_cam"}
"""What most people log."""

SUITE = CLEAN | {"smooth_grad", "smooth_grad_squared", "var_grad", "integrated_gradients"}
SUITE |= {"gradient_shap", "deep_lift", "guided_backprop", "deconvnet"}

PER_CHANNEL = {"score_cam", "ablation_cam"}
"""Hundreds of forward passes: measured on few small probes, and in no suite."""


@dataclass(frozen=True)
class Case:
    """What is explained.

    Attributes:
        model: in evaluation mode, with random weights.
        apart: the same weights, with every ReLU a module of its own that doesn't work in place:
            what some peers ask their users for.
        layer: which class activation maps read.
        grid: patches per side, where the layer answers with tokens; else 0.
        samples: noisy copies, masks or coalitions; integrated gradients take 4 times as many steps.
    """

    model: nn.Module
    apart: nn.Module
    inputs: Tensor
    targets: Tensor
    layer: str
    grid: int
    samples: int

    def few(self) -> Case:
        """The same with two probes, half as large where the model takes any size."""
        side = self.inputs.shape[-1] // (1 if self.grid else 2)
        inputs = self.inputs[:2, :, :side, :side].contiguous()
        return replace(self, inputs=inputs, targets=self.targets[:2])


def case_of(model: str, batch: int, size: int, samples: int, device: str) -> Case:
    """Random probes for a torchvision model."""
    torch.manual_seed(0)
    vision_transformer = model == "vit_b_16"
    net = vit_b_16(image_size=size) if vision_transformer else resnet18()
    if vision_transformer:  # its head starts with zeros, and all gradients with it
        nn.init.normal_(net.heads.head.weight, std=0.02)
    net = net.eval().to(device)
    inputs, targets = torch.randn(batch, 3, size, size), torch.randint(1000, (batch,))
    layer = "encoder.layers.encoder_layer_11.ln_1" if vision_transformer else "layer4"
    grid = size // 16 if vision_transformer else 0
    return Case(net, _apart(net), inputs.to(device), targets.to(device), layer, grid, samples)


class _Apart(BasicBlock):  # type: ignore[misc]
    def forward(self, inputs: Tensor) -> Tensor:
        way = inputs if self.downsample is None else self.downsample(inputs)
        inner = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(inputs)))))
        outputs: Tensor = self.last_relu(inner + way)
        return outputs


def _apart(model: nn.Module) -> nn.Module:
    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
        if isinstance(module, BasicBlock):
            module.last_relu = nn.ReLU()
            module.__class__ = _Apart
    return model


def methods(case: Case) -> dict[str, Method]:
    """All methods that somebody else has, or that are a short loop."""
    layer, samples = case.layer, case.samples
    found: dict[str, Method] = {
        "saliency": own.Saliency(),
        "input_x_gradient": own.InputXGradient(),
        "smooth_grad": own.SmoothGrad(samples=samples),
        "smooth_grad_squared": own.SmoothGradSquared(samples=samples),
        "var_grad": own.VarGrad(samples=samples),
        "integrated_gradients": own.IntegratedGradients(steps=4 * samples),
        "gradient_shap": own.GradientSHAP(samples=samples),
        "deep_lift": own.DeepLIFT(),
        "full_grad": own.FullGrad(),
        "guided_backprop": own.GuidedBackprop(),
        "deconvnet": own.DeconvNet(),
        "grad_cam": own.GradCAM(layer),
        "grad_cam_plus_plus": own.GradCAMPlusPlus(layer),
        "hires_cam": own.HiResCAM(layer),
        "layer_cam": own.LayerCAM(layer),
        "xgrad_cam": own.XGradCAM(layer),
        "eigen_cam": own.EigenCAM(layer),
        "score_cam": own.ScoreCAM(layer),
        "ablation_cam": own.AblationCAM(layer),
        "attention_rollout": own.AttentionRollout(),
        "gradient_rollout": own.GradientRollout(),
        "layer_gradient_attention": own.LayerGradientAttention(),
        "occlusion": own.Occlusion(window=case.inputs.shape[-1] // 2),
        "rise": own.RISE(masks=samples),
        "kernel_shap": own.KernelSHAP(samples=max(samples, 8), cells=2),
        "lime": own.LIME(samples=max(samples, 8), cells=2),
    }
    attention = {"attention_rollout", "gradient_rollout", "layer_gradient_attention"}
    return {name: method for name, method in found.items() if case.grid or name not in attention}


def alone(case: Case, method: Method) -> Job:
    """One method, of whose maps alone something is wanted, as of its peers."""
    return together(case, {"map": method}, predictions=False)


def together(case: Case, chosen: Mapping[str, Method], predictions: bool = True) -> Job:
    """Several methods in one `explain`."""
    return lambda: explain(
        case.model,
        case.inputs,
        case.targets,
        chosen,
        target=Logit(),
        predictions=predictions,
    )


def peers(case: Case) -> dict[str, dict[str, Job]]:
    """Method → library → its job."""
    found: dict[str, dict[str, Job]] = {}
    libraries = {"captum": _captum, "zennit": _zennit, "grad-cam": _grad_cam, "loop": _loops}
    if not case.grid:  # it has no way to lay out tokens
        libraries["torchcam"] = _torchcam
    for library, jobs in libraries.items():
        for method, job in jobs(case).items():
            found.setdefault(method, {})[library] = job
    return found


def _captum(case: Case) -> dict[str, Job]:
    net, apart, samples = case.model, case.apart, case.samples
    half, count = case.inputs.shape[-1] // 2, max(samples, 8)

    def job(explainer: Any, **given: Any) -> Job:
        def run() -> object:
            return explainer.attribute(leaf(case), target=case.targets, **given)

        return run

    # On a CPU one sample at a time is fastest, on a GPU all at once.
    folded = samples if case.inputs.is_cuda else 1
    noisy = partial(job, attr.NoiseTunnel(attr.Saliency(net)), abs=False, stdevs=0.5)
    noisy = partial(noisy, nt_samples=samples, nt_samples_batch_size=folded)
    cells = own.KernelSHAP(cells=2).bind(None, case.inputs[:1]).labels.long()  # type: ignore
    cells = cells.to(case.inputs.device)
    coalitions = {"feature_mask": cells[:, None], "n_samples": count}
    coalitions |= {"perturbations_per_eval": count}
    jobs = {
        "saliency": job(attr.Saliency(net)),
        "input_x_gradient": job(attr.InputXGradient(net)),
        "smooth_grad": noisy(nt_type="smoothgrad"),
        "smooth_grad_squared": noisy(nt_type="smoothgrad_sq"),
        "var_grad": noisy(nt_type="vargrad"),
        "integrated_gradients": job(
            attr.IntegratedGradients(net),
            n_steps=4 * samples,
            method="riemann_middle",
            internal_batch_size=len(case.inputs) * folded,
        ),
        "gradient_shap": job(
            attr.GradientShap(net), baselines=case.inputs, n_samples=samples, stdevs=0.0
        ),
        "deep_lift": job(attr.DeepLift(apart)),
        "occlusion": job(
            attr.Occlusion(net), sliding_window_shapes=(3, half, half), strides=(3, half, half)
        ),
        "kernel_shap": job(attr.KernelShap(net), **coalitions),
        "lime": job(attr.Lime(net), **coalitions),
    }
    if not case.grid:  # tokens have no places for it; and there are no ReLUs
        jobs["guided_backprop"] = job(attr.GuidedBackprop(apart))
        jobs["deconvnet"] = job(attr.Deconvolution(apart))
        jobs["grad_cam"] = job(attr.LayerGradCam(net, net.get_submodule(case.layer)))
    return jobs


def _zennit(case: Case) -> dict[str, Job]:
    one_hot = torch.eye(1000, device=case.inputs.device)[case.targets]
    kinds, rules = zennit.attribution, zennit.composites

    def job(kind: Any, composite: Any = None, **given: Any) -> Job:
        def run() -> object:
            with kind(model=case.model, composite=composite() if composite else None, **given) as a:
                return a(case.inputs, one_hot)

        return run

    jobs = {
        "saliency": job(kinds.Gradient),
        "smooth_grad": job(kinds.SmoothGrad, noise_level=0.15, n_iter=case.samples),
        "integrated_gradients": job(kinds.IntegratedGradients, n_iter=4 * case.samples),
    }
    if not case.grid:
        jobs["guided_backprop"] = job(kinds.Gradient, rules.GuidedBackprop)
        jobs["deconvnet"] = job(kinds.Gradient, rules.DeconvNet)
    return jobs


def _grad_cam(case: Case) -> dict[str, Job]:
    def as_map(tokens: Tensor) -> Tensor:
        return tokens[:, 1:].mT.reshape(len(tokens), -1, case.grid, case.grid)

    def job(name: str) -> Job:
        def run() -> object:
            layers = [] if name == "FullGrad" else [case.model.get_submodule(case.layer)]
            reshape = as_map if case.grid else None
            with getattr(pytorch_grad_cam, name)(
                case.model, layers, reshape_transform=reshape
            ) as cam:
                cam.batch_size = 32
                return cam(case.inputs, [ClassifierOutputTarget(int(one)) for one in case.targets])

        return run

    names = {
        "full_grad": "FullGrad",
        "grad_cam": "GradCAM",
        "grad_cam_plus_plus": "GradCAMPlusPlus",
        "hires_cam": "HiResCAM",
        "layer_cam": "LayerCAM",
        "xgrad_cam": "XGradCAM",
        "eigen_cam": "EigenCAM",
        "score_cam": "ScoreCAM",
        "ablation_cam": "AblationCAM",
    }
    return {
        method: job(name)
        for method, name in names.items()
        if not (case.grid and name == "FullGrad")  # it reads maps of places alone
    }


def _torchcam(case: Case) -> dict[str, Job]:
    def job(name: str, **given: Any) -> Job:
        def run() -> object:
            with getattr(torchcam.methods, name)(case.model, case.layer, **given) as extractor:
                return extractor(case.targets.tolist(), case.model(case.inputs))

        return run

    return {
        "grad_cam": job("GradCAM"),
        "grad_cam_plus_plus": job("GradCAMpp"),
        "layer_cam": job("LayerCAM"),
        "xgrad_cam": job("XGradCAM"),
        "score_cam": job("ScoreCAM", batch_size=32),
    }


def _loops(case: Case) -> dict[str, Job]:
    """What nobody packages: the few lines that people write."""
    jobs: dict[str, Job] = {"rise": partial(_masked, case)}
    if case.grid:
        jobs["attention_rollout"] = partial(_rolled_out, case)
        jobs["gradient_rollout"] = partial(_weighted, case)
        jobs["layer_gradient_attention"] = partial(_weighted, case, rolled=False)
    return jobs


@torch.no_grad()
def _masked(case: Case) -> Tensor:
    size, cell = case.inputs.shape[-1], -(-case.inputs.shape[-1] // 8)
    total, rows = torch.zeros_like(case.inputs[:, 0]), torch.arange(len(case.inputs))
    for _ in range(case.samples):
        cells = (torch.rand(1, 1, 8, 8, device=case.inputs.device) < 0.5).float()
        mask = nn.functional.interpolate(cells, size=size + cell, mode="bilinear")
        y, x = torch.randint(cell, (2,)).tolist()
        mask = mask[..., y : y + size, x : x + size]
        total += case.model(case.inputs * mask)[rows, case.targets][:, None, None] * mask[0]
    return total


def _attentions(case: Case) -> tuple[Tensor, Sequence[Tensor]]:
    """Scores, and the weights of all blocks: torchvision's blocks make none, so they are rewritten.

    Weights that `nn.MultiheadAttention` returns are beside the graph, and have no gradient.
    """
    taken: list[Tensor] = []
    with ExitStack() as scope:
        for block in case.model.modules():
            if isinstance(block, nn.MultiheadAttention):
                vars(block)["forward"] = partial(_attend, block, taken)
                scope.callback(vars(block).pop, "forward")
        return case.model(case.inputs), taken


def _attend(block: Any, taken: list[Tensor], tokens: Tensor, *_: Any, **__: Any) -> Any:
    joined = nn.functional.linear(tokens, block.in_proj_weight, block.in_proj_bias)
    heads = joined.view(*tokens.shape[:2], 3, block.num_heads, -1).permute(2, 0, 3, 1, 4)
    query, key, value = heads
    weights = (query @ key.mT / query.shape[-1] ** 0.5).softmax(-1)
    taken.append(weights)
    return block.out_proj((weights @ value).transpose(1, 2).flatten(2)), None


@torch.no_grad()
def _rolled_out(case: Case) -> Tensor:
    _, weights = _attentions(case)
    eye = torch.eye(weights[0].shape[-1], device=case.inputs.device)
    rolled = eye
    for one in (block.mean(1) for block in weights):
        rolled = (one + eye) / (one + eye).sum(-1, keepdim=True) @ rolled
    return rolled[:, 0, 1:]


def _weighted(case: Case, rolled: bool = True) -> Tensor:
    scores, weights = _attentions(case)
    total = scores.gather(1, case.targets[:, None]).sum()
    gradients = torch.autograd.grad(total, weights)
    if not rolled:
        return torch.stack([one.clamp(min=0).mean((1, 2)) for one in gradients]).mean(0)[:, 1:]
    relevance = torch.eye(weights[0].shape[-1], device=case.inputs.device)
    for one, gradient in zip(weights, gradients, strict=True):
        relevance = relevance + (one.detach() * gradient).clamp(min=0).mean(1) @ relevance
    return relevance[:, 0, 1:]


def leaf(case: Case) -> Tensor:
    return case.inputs.detach().requires_grad_()


def bare_gradient(case: Case) -> Tensor:
    """The least that a gradient costs."""
    point = leaf(case)
    total = case.model(point).gather(1, case.targets[:, None]).sum()
    return torch.autograd.grad(total, point)[0]
