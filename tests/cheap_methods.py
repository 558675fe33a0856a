"""Every method that has a name, with as few samples as it can have."""

from __future__ import annotations

from lightning_saliency.attribution import (
    LIME,
    METHODS,
    RISE,
    AblationCAM,
    BlurIG,
    GradientSHAP,
    GuidedIG,
    IntegratedGradients,
    KernelSHAP,
    Method,
    Occlusion,
    ScoreCAM,
    SmoothGrad,
    SmoothGradSquared,
    TenView,
    VarGrad,
)

ATTENTION = ("attention_rollout", "gradient_rollout", "layer_gradient_attention")
"""Of transformers alone."""


def cheap(side: int) -> dict[str, Method]:
    """All of `METHODS`, for images of `side` × `side` pixels."""
    few: dict[str, Method] = {
        "smooth_grad": SmoothGrad(samples=2),
        "smooth_grad_squared": SmoothGradSquared(samples=2),
        "var_grad": VarGrad(samples=2),
        "integrated_gradients": IntegratedGradients(steps=2),
        "gradient_shap": GradientSHAP(samples=2),
        "blur_ig": BlurIG(steps=1),
        "guided_ig": GuidedIG(steps=1),
        "ten_view": TenView(crop=0.75),
        "score_cam": ScoreCAM(channels=2),
        "ablation_cam": AblationCAM(channels=2),
        "occlusion": Occlusion(window=(side // 4, side // 2)),
        "rise": RISE(masks=3, cells=4),
        "kernel_shap": KernelSHAP(samples=8, cells=2),
        "lime": LIME(samples=4, cells=2),
    }
    return {name: make() for name, make in METHODS.items()} | few
