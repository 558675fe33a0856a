"""What models do inside, and which of their layers is looked at."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from attribution_methods import ALL, CLEAN, same
from attribution_nets import (
    F64,
    Deep,
    close,
    counting,
    deep_case,
    images,
    resnet,
)
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lightning_saliency.attribution import (
    LIME,
    METHODS,
    RISE,
    AnyMethod,
    GradCAM,
    HiResCAM,
    KernelSHAP,
    Saliency,
    Subject,
    bind,
    explain,
)
from lightning_saliency.targets import Logit, Margin

# What models do


@pytest.mark.parametrize("extra", [{}, {"gradient": Saliency()}], ids=["short", "whole"])
def test_an_inplace_layer_after_the_tap_changes_nothing(extra: dict[str, AnyMethod]) -> None:
    methods: dict[str, AnyMethod] = {"cam": GradCAM("first"), "hires": HiResCAM("first"), **extra}
    _, inputs, targets = deep_case()
    maps = [explain(Deep(inplace), inputs, targets, methods).maps for inplace in (False, True)]
    for name in methods:
        same(maps[1][name], maps[0][name])


@pytest.mark.parametrize("methods", [{"m": Saliency()}, {"m": GradCAM("1")}, {"m": GradCAM()}])
def test_an_inplace_first_layer_works_and_leaves_the_probes_alone(
    methods: dict[str, AnyMethod],
) -> None:
    _, inputs, targets = deep_case()
    models = [nn.Sequential(nn.ReLU(inplace), *Deep().children()) for inplace in (True, False)]
    for model in models:
        model.insert(5, nn.Flatten())
    kept = inputs.clone()
    maps = [explain(model, inputs, targets, methods).maps["m"] for model in models]
    assert torch.equal(inputs, kept)
    same(*maps)


def test_a_users_function_cannot_overwrite_the_probes() -> None:
    inputs, targets = images(2, 3, 4, 4), torch.zeros(2, dtype=torch.long)

    def mine(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        scores: Tensor = model(x)
        return scores[:, :1, None] + x[:, 0]

    net = nn.Sequential(nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(48, 2, dtype=F64))
    kept = inputs.clone()
    explain(net, inputs, targets, {"mine": mine})
    assert torch.equal(inputs, kept)


class Checkpointed(Deep):
    def forward(self, inputs: Tensor) -> Tensor:
        hidden = checkpoint(
            lambda x: self.second(self.act(self.first(x))), inputs, use_reentrant=False
        )
        assert isinstance(hidden, Tensor)
        scores: Tensor = self.head(self.squash(hidden).flatten(1))
        return scores


@pytest.mark.parametrize("names", [["grad_cam"], ["saliency"], list(CLEAN)], ids=str)
def test_gradient_checkpointing_changes_nothing(names: list[str]) -> None:
    _, inputs, targets = deep_case()
    methods = {name: CLEAN[name] for name in names}
    plain, saved = (explain(net, inputs, targets, methods) for net in (Deep(), Checkpointed()))
    for name in names:
        same(saved.maps[name], plain.maps[name])


def small_net(dimensions: int) -> nn.Module:
    conv: Any = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[dimensions]
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        body = [conv(2, 3, 3), nn.ReLU(), conv(3, 4, 2), nn.Softplus(), nn.Flatten()]
        net = nn.Sequential(*body, nn.LazyLinear(3)).eval()
        net(torch.zeros(1, 2, *[8, 7, 6][:dimensions]))
    return net.to(F64)


@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_signals_images_and_volumes_have_maps_of_their_own_shape(dimensions: int) -> None:
    spatial = (8, 7, 6)[:dimensions]
    inputs, targets = images(3, 2, *spatial), torch.tensor([0, 1, 2])
    methods: dict[str, AnyMethod] = {
        name: make() for name, make in METHODS.items() if "attention" not in name
    }
    methods |= {
        "kernel_shap": KernelSHAP(cells=2),
        "lime": LIME(cells=2),
        "rise": RISE(masks=8, cells=3),
    }
    del methods["gradient_rollout"]
    maps = explain(small_net(dimensions), inputs, targets, methods).maps
    layer = tuple(size - 3 for size in spatial)
    for name, found in maps.items():
        wanted = layer if "cam" in name else spatial
        assert found.map.shape == (3, *wanted), name
        assert found.signed.shape[2:] == wanted, name
        assert found.map.any()


@pytest.mark.parametrize(("dtype", "digits"), [(torch.float16, 6e-2), (torch.bfloat16, 1.5e-1)])
def test_a_model_in_half_precision_is_explained_in_float32(
    dtype: torch.dtype, digits: float
) -> None:
    half = explain(*deep_case(dtype=dtype), ALL)
    full = explain(*deep_case(), ALL)
    assert half.outputs.dtype == torch.float32
    for name in ALL:
        found = half.maps[name]
        assert found.map.dtype == found.signed.dtype == torch.float32
        if name != "variance":  # of gradients nearly alike, half precision keeps little
            close(found.signed.to(F64), full.maps[name].signed, relative=digits)


class Faint(nn.Module):
    """A float16 net whose gradient, 2^−26, is below half precision's least number, 2^−24."""

    def forward(self, inputs: Tensor) -> Tensor:
        scores = (inputs * 2**-13 * 2**-13).flatten(1).sum(1, keepdim=True)
        return torch.cat([scores, 0 * scores.detach()], 1)


def test_faint_gradients_of_a_float16_model_do_not_underflow() -> None:
    inputs, targets = images(2, 1, 3, 3, dtype=torch.float16), torch.zeros(2, dtype=torch.long)
    methods: dict[str, AnyMethod] = {"m": Saliency(channels="signed")}
    maps = explain(Faint(), inputs, targets, methods, target=Logit()).maps["m"].map
    assert torch.equal(maps, torch.full_like(maps, 2**-26))


def test_autocast_reaches_the_model_and_not_the_target() -> None:
    model, inputs, targets = deep_case(dtype=torch.float32)
    seen: list[torch.dtype] = []

    def target(outputs: Tensor, classes: Tensor) -> Tensor:
        assert not torch.is_autocast_enabled("cpu")
        seen.append(outputs.dtype)
        return Margin()(outputs, classes)

    subject = Subject(model, target, context=lambda: torch.autocast("cpu", torch.bfloat16))
    mixed = explain(subject, inputs, targets, CLEAN)
    full = explain(model, inputs, targets, CLEAN)
    assert seen == [torch.float32]
    for name in CLEAN:
        ours, theirs = mixed.maps[name].signed, full.maps[name].signed
        close(ours, theirs, relative=0.2)
        assert not torch.equal(ours, theirs), "the model ran in mixed precision"


# The layer that is looked at


def test_the_last_spatial_layer_is_found() -> None:
    _, inputs, targets = deep_case()
    for model, given, layer in [
        (Deep(), inputs, "squash"),
        (resnet(), images(1, 3, 64, 64), "layer4"),
        (resnet(), images(1, 3, 32, 32), "layer3"),  # layer4 answers with one place there
    ]:
        bound = bind(Subject(model), given, {"cam": GradCAM(), "path": Saliency()})
        assert bound == {"cam": GradCAM(layer), "path": Saliency()}
    found, named = (
        explain(Deep(), inputs, targets, {"m": GradCAM(name)}).maps["m"]
        for name in (None, "squash")
    )
    same(found, named)


def test_bound_methods_need_no_pass_to_find_their_layer() -> None:
    model, inputs, targets = deep_case()
    bound = bind(Subject(model), inputs, {"cam": GradCAM()})
    with counting(model) as count:
        explain(model, inputs, targets, bound)
    assert count.calls == 1


def test_a_compiled_models_layers_keep_their_names() -> None:
    model, inputs, targets = deep_case()
    wrapped = nn.ModuleDict({"_orig_mod": model})
    subject = Subject(wrapped, call=lambda module, x: module["_orig_mod"](x))  # type: ignore[index]
    for name in ("first", "_orig_mod.first"):
        ours = explain(subject, inputs, targets, {"m": HiResCAM(name)}).maps["m"]
        same(ours, explain(model, inputs, targets, {"m": HiResCAM("first")}).maps["m"])
    assert bind(subject, inputs, {"m": GradCAM()})["m"] == GradCAM("squash")


# A user's own function


def doubled(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    return inputs[:, 0] * 2


def gradient_by_hand(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    point = inputs.clone().requires_grad_()
    return torch.autograd.grad(Margin()(model(point), targets).sum(), point)[0]


def test_a_plain_function_is_a_method() -> None:
    model, inputs, targets = deep_case()
    methods: dict[str, AnyMethod] = {
        "two": doubled,
        "gradient": Saliency(),
        "own": gradient_by_hand,
    }
    maps = explain(model, inputs, targets, methods, chunk=2).maps
    assert list(maps) == ["two", "gradient", "own"]
    assert torch.equal(maps["two"].map, inputs[:, 0] * 2)
    assert torch.equal(maps["two"].signed, maps["two"].map[:, None])
    same(maps["own"], maps["gradient"])


def test_a_plain_function_sees_the_layers_and_the_scores_of_the_subject() -> None:
    model, inputs, targets = deep_case()

    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = model

        def forward(self, inputs: Tensor) -> dict[str, Tensor]:
            return {"logits": self.net(inputs)}

    def mine(module: Any, x: Tensor, y: Tensor) -> Tensor:
        assert module.net.second is model.second
        assert torch.equal(module(x), model(x))
        return x

    subject = Subject(Named(), output=lambda outputs: outputs["logits"])
    explanation = explain(subject, inputs, targets, {"mine": mine})
    assert torch.equal(explanation.maps["mine"].map, inputs.abs().amax(1))
