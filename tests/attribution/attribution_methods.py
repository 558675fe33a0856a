"""The methods that the engine is tested with."""

from __future__ import annotations

import torch
from attribution_nets import (
    close,
)

from lightning_saliency.attribution import (
    AnyMethod,
    GradCAM,
    GradCAMPlusPlus,
    HiResCAM,
    InputXGradient,
    IntegratedGradients,
    LayerCAM,
    Maps,
    Saliency,
    SmoothGrad,
    SmoothGradSquared,
    VarGrad,
)

CLEAN: dict[str, AnyMethod] = {
    "saliency": Saliency(),
    "input_x_gradient": InputXGradient(),
    "grad_cam": GradCAM("second"),
    "grad_cam_plus_plus": GradCAMPlusPlus("first"),
    "hires_cam": HiResCAM("act"),
    "layer_cam": LayerCAM("second"),
}
NOISY: dict[str, AnyMethod] = {
    "smooth": SmoothGrad(samples=8),
    "square": SmoothGradSquared(samples=8),
    "variance": VarGrad(samples=8),
    "shorter": SmoothGrad(samples=4),
}
PATH: dict[str, AnyMethod] = {
    "path": IntegratedGradients(steps=3),
    "other": IntegratedGradients(steps=4, baseline=0.5),
}
ALL = CLEAN | NOISY | PATH


def same(ours: Maps, theirs: Maps) -> None:
    close(ours.map, theirs.map, relative=1e-12)
    close(ours.signed, theirs.signed, relative=1e-12)
    assert ours.numbers.keys() == theirs.numbers.keys()
    for name, number in ours.numbers.items():
        torch.testing.assert_close(number, theirs.numbers[name], rtol=1e-6, atol=1e-12)
