"""What other libraries and the papers' equations make of the same nets and probes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from typing import Any
from unittest import mock

import numpy as np
import test_attribution_background as background
import test_attribution_cams as cams
import test_attribution_paths as paths
import torch
from attribution_nets import Deep, images
from captum import attr
from captum.attr._core.gradient_shap import InputBaselineXGradient
from test_attribution_parity import Case, evidence
from torch import Tensor

from lightning_saliency import attribution as our
from lightning_saliency.attribution import Method
from lightning_saliency.attribution.cam_forward import first_projection
from lightning_saliency.attribution.points import Noisy
from lightning_saliency.targets import Logit

Weigh = Callable[[Any], Any]

# What both sides look at.


def deep(layer: str = "second") -> Case:
    return Deep(), images(3, 3, 11, 13), torch.tensor([0, 3, 1]), layer


def signed(method: Method, case: Case | None = None) -> Tensor:
    """The attribution before its reduction to a map."""
    model, inputs, targets, _ = case or deep()
    return our.explain(model, inputs, targets, {"m": method}, target=Logit()).maps["m"].signed


def map_of(method: Method, case: Case | None = None) -> Tensor:
    model, inputs, targets, _ = case or deep()
    return our.explain(model, inputs, targets, {"m": method}, target=Logit()).maps["m"].map


# Gradients


def captums(name: str, case: Case | None = None, **call: Any) -> Tensor:
    """An attribution of captum; the arguments of its constructor after an underscore."""
    model, inputs, targets, _ = case or deep()
    peer = getattr(attr, name)(model)
    found: Tensor = peer.attribute(inputs.clone().requires_grad_(), target=targets, **call)
    return found.detach()


def zennits(name: str, composite: str = "", case: Case | None = None, **given: Any) -> Tensor:
    from zennit import attribution, composites

    model, inputs, targets, _ = case or deep()
    rule = getattr(composites, composite)() if composite else None
    classes = torch.eye(4, dtype=inputs.dtype)[targets]
    with getattr(attribution, name)(model, composite=rule, **given) as attributor:
        found: Tensor = attributor(inputs.clone(), classes)[1]
    return found


def zennits_occlusion(window: tuple[int, ...]) -> Tensor:
    """With windows that hide: by default it shows the window alone."""
    from zennit.attribution import Occlusion, occlude_independent

    model, inputs, targets, _ = deep()
    classes = torch.eye(4, dtype=inputs.dtype)[targets]
    given: Any = {"window": window, "stride": window}
    with Occlusion(
        model,
        attr_output=lambda scores: scores * classes,  # a tensor would itself be the score
        occlusion_fn=partial(occlude_independent, invert=True),
        **given,
    ) as attributor:
        found: Tensor = attributor(inputs)[1]
    return found[:, 0]


NOISE: dict[str, Any] = {"samples": 5, "level": 0.2, "seed": 3}


def noise(samples: int = 5) -> Tensor:
    """`(samples, 3, C, H, W)`: what our points add to the probes."""
    inputs = deep()[1]
    return torch.stack([Noisy(0.2, index, 3).at(inputs, 0) - inputs for index in range(samples)])


def noise_tunnel(kind: str) -> Tensor:
    """Captum's, which draws with torch.normal: here it draws our noise, probe by probe."""
    model, inputs, targets, _ = deep()
    drawn = noise().transpose(0, 1).flatten(0, 1)
    peer = attr.NoiseTunnel(attr.Saliency(model))
    with mock.patch.object(torch, "normal", return_value=drawn):
        found: Tensor = peer.attribute(
            inputs, nt_type=kind, nt_samples=5, stdevs=1.0, target=targets, abs=False
        )
    return found.detach()


def zennits_smooth_grad() -> Tensor:
    """Zennit's, which draws with torch.randn_like: here it draws our noise."""
    inputs = deep()[1]
    sigma = 0.2 * (inputs.amax((1, 2, 3), True) - inputs.amin((1, 2, 3), True))
    with mock.patch.object(torch, "randn_like", side_effect=noise(4) / sigma):
        return zennits("SmoothGrad", noise_level=0.2, n_iter=5)


def smooth_grad_with_a_clean_copy() -> Tensor:
    return (4 * signed(our.SmoothGrad(**NOISE | {"samples": 4})) + signed(our.Saliency())) / 5


def moment(reduce: Callable[[Tensor], Tensor]) -> Tensor:
    """Of captum's gradients at our noisy copies, one copy at a time."""
    model, inputs, targets, layer = deep()
    copies = [(model, inputs + one, targets, layer) for one in noise()]
    return reduce(torch.stack([captums("Saliency", copy, abs=False) for copy in copies]))


@contextmanager
def in_double() -> Iterator[None]:
    """For peers whose fractions of the path are of the default dtype."""
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def reduced(how: str) -> Tensor:
    """Captum's gradient, with its channels reduced by hand."""
    channels = captums("Saliency", abs=False).unbind(1)
    if how == "signed":
        return channels[0] + channels[1] + channels[2]
    return torch.stack([one.relu() for one in channels]).amax(0)


def path() -> Tensor:
    case = deep()
    with in_double():
        return captums(
            "IntegratedGradients", case, baselines=-0.4, n_steps=6, method="riemann_middle"
        )


def zennits_path() -> Tensor:
    case = deep()
    with in_double():
        return zennits(
            "IntegratedGradients",
            case=case,
            n_iter=6,
            baseline_fn=lambda inputs: torch.full_like(inputs, -0.4),
        )


def at_the_ends_of_the_steps() -> Tensor:
    """Our gradients there, times the way."""
    model, inputs, targets, layer = deep()
    steps = [(model, -0.4 + (inputs + 0.4) * (k + 1) / 6, targets, layer) for k in range(6)]
    return (inputs + 0.4) * torch.stack([signed(our.Saliency(), step) for step in steps]).mean(0)


SHAP = our.GradientSHAP(samples=6, background=images(4, 3, 11, 13, seed=2), seed=1)


def expected_gradients() -> Tensor:
    """Captum draws its way and its α itself: here it gets ours."""
    model, inputs, targets, _ = deep()
    drawn = background.bound(SHAP, inputs)
    pairs = zip(background.starts(drawn, 3), background.shares(drawn, 3), strict=True)
    total = torch.zeros_like(inputs)
    for begin, share in pairs:
        with mock.patch.object(np.random, "uniform", lambda *args, share=share: share.numpy()):
            peer = InputBaselineXGradient(model)
            total += peer.attribute(inputs, begin, target=targets).detach()
    return total / 6


GUIDED = our.GuidedIG(steps=6, fraction=0.25, max_dist=0.02)


def out_of_blur() -> Tensor:
    return paths.in_numpy(paths.blur_ig, *deep()[:3], 6, 5.0)


def guided_ig_of_starts() -> Tensor:
    return guided_ig(lambda gradients: gradients[:-1])


def guided_ig_of_ends() -> Tensor:
    return guided_ig(lambda gradients: (gradients[:-1] + gradients[1:]) / 2)


def guided_ig(weigh: Weigh) -> Tensor:
    """Along the authors' way: each step times its gradient, which `weigh` makes of those met."""
    model, inputs, targets, _ = deep()
    found = []
    for example, target in zip(inputs.numpy(), targets, strict=True):
        gradient = paths.gradient_of(model, target)
        ways = paths.guided_ig_of_its_authors(example, gradient, 6, 0.25, 0.02, 0.0)
        places, gradients = map(np.stack, ways)
        found.append((np.diff(places, axis=0) * weigh(gradients)).sum(0))
    return torch.from_numpy(np.stack(found))


def our_way_with_the_gradient_at_its_starts() -> Tensor:
    model, inputs, targets, _ = deep()
    found = []
    for probe in range(3):
        rows = slice(probe, probe + 1)
        with paths.Seen(model) as seen:
            signed(GUIDED, (model, inputs[rows], targets[rows], ""))
        places = [*(one.detach() for one in seen[1:]), inputs[probe]]  # after the clean input
        gradient = paths.gradient_of(model, targets[probe])
        gradients = [torch.from_numpy(gradient(place.numpy())) for place in places[:-1]]
        steps = [after - before for before, after in pairwise(places)]
        found.append(sum(step * one for step, one in zip(steps, gradients, strict=True)))
    return torch.stack([one for one in found if isinstance(one, Tensor)])


def guided_by_grad_cam() -> Tensor:
    """It takes one probe at a time."""
    from pytorch_grad_cam import GuidedBackpropReLUModel

    model, inputs, targets, _ = deep()
    found = [
        GuidedBackpropReLUModel(model)(probe[None].clone(), int(target))
        for probe, target in zip(inputs, targets, strict=True)
    ]
    return torch.from_numpy(np.stack(found)).movedim(-1, 1)


# Class activation maps


def without_the_denominator() -> Tensor:
    """Grad-CAM++ with g² for eq. 19's quotient."""
    activation, gradient = evidence(deep())
    weights = (gradient**2 * gradient.clamp(min=0)).sum((2, 3), keepdim=True)
    return (weights * activation).sum(1).clamp(min=0)


def layer_grad_cam() -> Tensor:
    model, inputs, targets, layer = deep()
    peer = attr.LayerGradCam(model, model.get_submodule(layer))
    found: Tensor = peer.attribute(inputs, targets)
    return found


def turned(theirs: Tensor, ours: Tensor) -> Tensor:
    """Theirs, with the sign of ours: that of a singular vector is free."""
    return cams.of_one_sign(ours, theirs)


def centred_projection() -> Tensor:
    """Of the channels less their means over places."""
    activation = evidence(deep("act"))[0]
    return first_projection(activation - activation.mean((2, 3), keepdim=True))[:, None]


def sign_of_the_score() -> Tensor:
    model, inputs, targets, _ = deep()
    return Logit()(model(inputs), targets).sign().view(-1, 1, 1, 1)
