"""Model, inputs and targets → maps: the methods, and the engine that runs them together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Literal

from lightning_saliency.attribution.attention import (
    AttentionRollout,
    GradientRollout,
    LayerGradientAttention,
)
from lightning_saliency.attribution.background import GradientSHAP
from lightning_saliency.attribution.backprop import DeconvNet, GuidedBackprop
from lightning_saliency.attribution.binding import bind
from lightning_saliency.attribution.cam import (
    GradCAM,
    GradCAMPlusPlus,
    HiResCAM,
    LayerCAM,
    XGradCAM,
)
from lightning_saliency.attribution.cam_ablation import AblationCAM
from lightning_saliency.attribution.cam_forward import EigenCAM, ScoreCAM
from lightning_saliency.attribution.captum_bridge import Captum
from lightning_saliency.attribution.deeplift import DeepLIFT
from lightning_saliency.attribution.fullgrad import FullGrad
from lightning_saliency.attribution.gradient import (
    InputXGradient,
    IntegratedGradients,
    Saliency,
    SmoothGrad,
    SmoothGradSquared,
    VarGrad,
)
from lightning_saliency.attribution.method import AnyMethod, Maps, Method
from lightning_saliency.attribution.passes import Explanation, explain
from lightning_saliency.attribution.paths import BlurIG, GuidedIG
from lightning_saliency.attribution.perturbation import RISE, Occlusion
from lightning_saliency.attribution.segments import LIME, KernelSHAP
from lightning_saliency.attribution.subject import NoGradientPathError, Subject
from lightning_saliency.attribution.views import TenView
from lightning_saliency.errors import ConfigurationError, did_you_mean, imported

MethodName = Literal[
    "saliency",
    "signed_gradient",
    "positive_gradient",
    "input_x_gradient",
    "smooth_grad",
    "smooth_grad_squared",
    "var_grad",
    "integrated_gradients",
    "gradient_shap",
    "blur_ig",
    "guided_ig",
    "deep_lift",
    "full_grad",
    "ten_view",
    "guided_backprop",
    "deconvnet",
    "grad_cam",
    "grad_cam_plus_plus",
    "hires_cam",
    "layer_cam",
    "xgrad_cam",
    "eigen_cam",
    "score_cam",
    "ablation_cam",
    "attention_rollout",
    "gradient_rollout",
    "layer_gradient_attention",
    "occlusion",
    "rise",
    "kernel_shap",
    "lime",
]

METHODS: Mapping[str, Callable[[], Method]] = MappingProxyType(
    {
        "saliency": Saliency,
        "signed_gradient": partial(Saliency, channels="signed"),
        "positive_gradient": partial(Saliency, channels="positive"),
        "input_x_gradient": InputXGradient,
        "smooth_grad": SmoothGrad,
        "smooth_grad_squared": SmoothGradSquared,
        "var_grad": VarGrad,
        "integrated_gradients": IntegratedGradients,
        "gradient_shap": GradientSHAP,
        "blur_ig": BlurIG,
        "guided_ig": GuidedIG,
        "deep_lift": DeepLIFT,
        "full_grad": FullGrad,
        "ten_view": TenView,
        "guided_backprop": GuidedBackprop,
        "deconvnet": DeconvNet,
        "grad_cam": GradCAM,
        "grad_cam_plus_plus": GradCAMPlusPlus,
        "hires_cam": HiResCAM,
        "layer_cam": LayerCAM,
        "xgrad_cam": XGradCAM,
        "eigen_cam": EigenCAM,
        "score_cam": ScoreCAM,
        "ablation_cam": AblationCAM,
        "attention_rollout": AttentionRollout,
        "gradient_rollout": GradientRollout,
        "layer_gradient_attention": LayerGradientAttention,
        "occlusion": Occlusion,
        "rise": RISE,
        "kernel_shap": KernelSHAP,
        "lime": LIME,
    }
)
"""The short names of YAML: each method with its defaults."""

__all__ = [
    "LIME",
    "METHODS",
    "RISE",
    "AblationCAM",
    "AnyMethod",
    "AttentionRollout",
    "BlurIG",
    "Captum",
    "DeconvNet",
    "DeepLIFT",
    "EigenCAM",
    "Explanation",
    "FullGrad",
    "GradCAM",
    "GradCAMPlusPlus",
    "GradientRollout",
    "GradientSHAP",
    "GuidedBackprop",
    "GuidedIG",
    "HiResCAM",
    "InputXGradient",
    "IntegratedGradients",
    "KernelSHAP",
    "LayerCAM",
    "LayerGradientAttention",
    "Maps",
    "Method",
    "MethodName",
    "NoGradientPathError",
    "Occlusion",
    "Saliency",
    "ScoreCAM",
    "SmoothGrad",
    "SmoothGradSquared",
    "Subject",
    "TenView",
    "VarGrad",
    "XGradCAM",
    "bind",
    "explain",
    "resolve_methods",
]


def resolve_methods(
    methods: str | AnyMethod | Iterable[str | AnyMethod] | Mapping[str, str | AnyMethod] | None,
) -> dict[str, AnyMethod]:
    """Names and methods, from any of the forms that a user may write.

    Args:
        methods: None (the gradient alone, named ``gradient``), a name or a method, a list of names,
            or a mapping of the user's own names to names, methods or callables.

    Raises:
        ConfigurationError: an unknown name, none at all, a wrong type, or a name that makes no tag.
    """
    if methods is None:
        return {"gradient": Saliency()}
    if isinstance(methods, str):
        methods = [methods]
    if isinstance(methods, Mapping):
        named = dict(methods)
    elif callable(methods):
        named = {_own_name(methods): methods}
    elif isinstance(methods, Iterable):
        named = _named(methods)
    else:
        raise ConfigurationError(
            f"methods={methods!r} is a {type(methods).__name__}. Give names such as "
            "['saliency', 'grad_cam'], or a mapping of your own names to methods."
        )
    if not named:
        raise ConfigurationError(f"methods={methods!r} is empty. {did_you_mean('', METHODS)}")
    return {_tag(name): _method(name, method) for name, method in named.items()}


def _named(methods: Iterable[object]) -> dict[str, object]:
    named: dict[str, object] = {}
    for method in methods:
        name = method if isinstance(method, str) else _own_name(method)
        if name in named:
            raise ConfigurationError(
                f"methods: '{name}' is given twice. Give a mapping of your own names to methods."
            )
        named[name] = method
    return named


def _own_name(method: object) -> str:
    for name, known in METHODS.items():
        if type(method) is known:
            return name
    return str(getattr(method, "__name__", type(method).__name__))


_TAKEN = ("class_models", "floors", "alert")
"""Tags of other pictures."""


def _tag(name: object) -> str:
    taken = name in _TAKEN
    if not isinstance(name, str) or not name or "/" in name or name != name.strip() or taken:
        raise ConfigurationError(
            f"methods: {name!r} can't be a part of a tag. Use a short word without '/', "
            f"and none of {', '.join(map(repr, _TAKEN))}."
        )
    return name


def _method(name: str, method: object) -> AnyMethod:
    if isinstance(method, str) and "." in method:
        method = imported(method, f"methods: '{name}'")
    if isinstance(method, str):
        if method not in METHODS:
            raise ConfigurationError(
                f"methods: {method!r} is not the name of a method. "
                f"{did_you_mean(method, METHODS, most=len(METHODS))} "
                "A function of your own is given as a mapping: {'mine': 'package.module.function'}."
            )
        return METHODS[method]()
    if isinstance(method, type) or not callable(method):
        raise ConfigurationError(
            f"methods: '{name}' is {method!r}, not a method. Give a name, an instance such as "
            "GradCAM(layer='…'), or a callable (model, inputs, targets) -> maps."
        )
    return method
