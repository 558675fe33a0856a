"""All class activation maps on transformers and convolutions as they come, and the layer found."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
import torchvision
from attribution_nets import F64, Deep, close, deep_case, hooks_on, images, resnet
from attribution_transformers import HUGGING_FACE_BLOCKS, Logits
from test_attribution_cam_layers import CAMS
from test_attribution_parity import Case, grad_cam, signed_map
from torch import Tensor, nn

from lightning_saliency.attribution import (
    AblationCAM,
    AnyMethod,
    GradCAM,
    HiResCAM,
    Subject,
    bind,
    explain,
)
from lightning_saliency.attribution.cam_forward import EigenCAM
from lightning_saliency.attribution.cam_layers import last_spatial_layer
from lightning_saliency.targets import Logit


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    """In float64, with no parameter at 0: a fresh head or bias of zeros would hide what counts."""
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        model = make()
        for parameter in model.parameters():
            if parameter.ndim == 1 or not parameter.any():
                nn.init.normal_(parameter, 0.5, 0.2)
    return model.to(F64).eval()


def torchvision_vit() -> nn.Module:
    from torchvision.models import VisionTransformer

    model: nn.Module = VisionTransformer(32, 8, 3, 2, 16, 32, num_classes=5)
    return model


def torchvision_swin() -> nn.Module:
    from torchvision.models import SwinTransformer

    model: nn.Module = SwinTransformer([4, 4], 16, [2, 2], [2, 2], [2, 2], num_classes=5)
    return model


def torchvision_convnext() -> nn.Module:
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    blocks = [CNBlockConfig(8, 16, 1), CNBlockConfig(16, 24, 2), CNBlockConfig(24, None, 1)]
    model: nn.Module = ConvNeXt(blocks, num_classes=5)
    return model


def timm_vit(**given: Any) -> nn.Module:
    import timm

    size: dict[str, Any] = {
        "img_size": 32,
        "patch_size": 8,
        "embed_dim": 16,
        "depth": 3,
        "num_heads": 2,
    }
    model: nn.Module = timm.create_model("vit_tiny_patch16_224", num_classes=5, **size, **given)
    return model


def hugging_face(kind: str, **given: Any) -> nn.Module:
    import transformers

    config = getattr(transformers, f"{kind}Config")(num_labels=5, image_size=32, **given)
    return Logits(getattr(transformers, f"{kind}ForImageClassification")(config))


def hugging_face_vit() -> nn.Module:
    sizes = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}
    return hugging_face("ViT", patch_size=8, intermediate_size=32, **sizes)


def hugging_face_swin() -> nn.Module:
    sizes = {"depths": [2, 2], "num_heads": [2, 2], "window_size": 4}
    return hugging_face("Swin", patch_size=2, embed_dim=16, **sizes)


MODELS: dict[str, tuple[Callable[[], nn.Module], int, str]] = {
    "torchvision vit": (torchvision_vit, 4, "encoder.layers.encoder_layer_2.ln_1"),
    "torchvision swin": (torchvision_swin, 4, "permute"),
    "torchvision convnext": (torchvision_convnext, 2, "features"),
    "timm vit": (timm_vit, 4, "blocks.2.norm1"),
    "timm vit, averaged": (lambda: timm_vit(global_pool="avg", reg_tokens=2), 4, "norm"),
    "hugging face vit": (hugging_face_vit, 4, f"{HUGGING_FACE_BLOCKS}.2.layernorm_before"),
    "hugging face swin": (hugging_face_swin, 8, "model.swin.layernorm"),
    "resnet18": (resnet, 2, "layer4"),
}
"""How it is made, the side of its map, and the layer that is found."""


@cache
def net_of(name: str) -> nn.Module:
    make, _, _ = MODELS[name]
    return make() if make is resnet else seeded(make)


def case_of(name: str) -> tuple[nn.Module, Tensor, Tensor]:
    side = 64 if name == "resnet18" else 32
    return net_of(name), images(2, 3, side, side), torch.tensor([0, 3])


@pytest.mark.parametrize("name", MODELS)
def test_every_cam_works_on_every_model_without_a_word_about_it(name: str) -> None:
    model, inputs, targets = case_of(name)
    few = {"ScoreCAM": {"channels": 6}, "AblationCAM": {"channels": 12}}
    methods: dict[str, AnyMethod] = {one: make(**few.get(one, {})) for one, make in CAMS.items()}
    bound = bind(Subject(model), inputs, methods)
    _, side, layer = MODELS[name]
    assert {one.layer for one in bound.values()} == {layer}  # type: ignore[union-attr]
    for one, maps in explain(model, inputs, targets, bound, target=Logit()).maps.items():
        assert maps.map.shape == (2, side, side), one
        assert maps.signed.isfinite().all(), one
        assert (maps.signed.flatten(1).std(1) > 1e-12).all(), one
    assert hooks_on(model) == 0


def test_a_convnext_of_full_size_works() -> None:
    from torchvision.models import convnext_tiny

    model = seeded(lambda: convnext_tiny(num_classes=5)).float()
    inputs, targets = images(1, 3, 64, 64, dtype=torch.float32), torch.tensor([3])
    few = {"ScoreCAM": {"channels": 2}, "AblationCAM": {"channels": 64}}
    methods: dict[str, AnyMethod] = {
        name: make("features", **few.get(name, {})) for name, make in CAMS.items()
    }
    for name, maps in explain(model, inputs, targets, methods).maps.items():
        assert maps.map.shape == (1, 2, 2)
        assert (maps.signed.flatten(1).std(1) > 0).all(), name


@pytest.mark.parametrize("name", ["torchvision vit", "timm vit", "hugging face vit"])
def test_patches_of_the_last_block_say_nothing_where_the_class_token_is_read(name: str) -> None:
    """Why the found layer is not the last block, where g is 0, nor the one before it.

    What enters a normalisation has a gradient that is orthogonal to it.
    """
    model, inputs, targets = case_of(name)
    found = last_spatial_layer(Subject(model), inputs)
    last = found.rpartition(".")[0]
    methods: dict[str, AnyMethod] = {
        "found": HiResCAM(found),
        "last": HiResCAM(last),
        "before": HiResCAM(last.replace("2", "1")),
    }
    maps = explain(model, inputs, targets, methods, target=Logit()).maps
    size = {one: float(maps[one].signed.abs().amax()) for one in methods}
    assert size["last"] == 0
    assert size["before"] < 1e-5 * size["found"]


def test_the_layer_is_found_whatever_the_probe_scores() -> None:
    """Softmax outputs sum to 1: the gradient of their plain sum would be 0 everywhere."""
    net = nn.Sequential(net_of("timm vit"), nn.Softmax(1))
    inputs = images(2, 3, 32, 32)
    assert last_spatial_layer(Subject(net), inputs) == "0.blocks.2.norm1"


def test_the_layer_is_found_once_for_all_methods() -> None:
    model, inputs, _ = case_of("timm vit")
    calls: list[int] = []
    hook = model.register_forward_hook(lambda *_: calls.append(1))
    for methods in ({"one": GradCAM()}, {name: make() for name, make in CAMS.items()}):
        bind(
            Subject(model),
            inputs,
            {name: one for name, one in methods.items() if name != "AblationCAM"},
        )
        calls.append(0)
    hook.remove()
    alone = calls.index(0)
    assert alone > 1
    assert calls == [*[1] * alone, 0, *[1] * alone, 0]
    subject = Subject(model)
    assert last_spatial_layer(subject, inputs) == last_spatial_layer(subject, inputs)
    assert subject == Subject(model, output=subject.output, call=subject.call)


def test_a_pooling_over_tokens_is_no_map() -> None:
    """AdaptiveAvgPool1d leaves (n, D, 1), which would be D tokens of one number."""
    model, inputs, _ = case_of("hugging face swin")
    assert last_spatial_layer(Subject(model), inputs) == "model.swin.layernorm"


# Peers on tokens


def square(tokens: Tensor, prefix: int, side: int = 4) -> Tensor:
    """What a user of pytorch-grad-cam writes for each transformer."""
    return torch.unflatten(tokens[:, prefix:], 1, (side, side)).permute(0, 3, 1, 2)


@pytest.mark.parametrize(
    ("model", "layer", "transform"),
    [
        ("torchvision vit", "encoder.layers.encoder_layer_2.ln_1", lambda t: square(t, 1)),
        ("timm vit", "blocks.2.norm1", lambda t: square(t, 1)),
        ("timm vit, averaged", "blocks.2", lambda t: square(t, 2 + 1)),
        ("hugging face vit", f"{HUGGING_FACE_BLOCKS}.2.layernorm_before", lambda t: square(t, 1)),
        ("torchvision swin", "features.3.1", lambda t: t.permute(0, 3, 1, 2)),
        ("hugging face swin", "model.swin.layernorm", lambda t: square(t, 0, 8)),
    ],
)
@pytest.mark.parametrize("name", ["GradCAM", "HiResCAM", "LayerCAM", "XGradCAM"])
def test_tokens_give_the_maps_of_pytorch_grad_cam_with_a_transform_by_hand(
    name: str,
    model: str,
    layer: str,
    transform: Callable[[Tensor], Tensor],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import pytorch_grad_cam

    class Transformed(getattr(pytorch_grad_cam, name)):  # type: ignore[misc]
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, reshape_transform=transform)

    monkeypatch.setattr(pytorch_grad_cam, name, Transformed)
    net, inputs, targets = case_of(model)
    # No channel cancels, whatever the release draws as weights: there XGrad-CAM differs on purpose.
    net.get_submodule(layer).register_forward_hook(lambda module, given, tokens: tokens + 1)
    case: Case = (net, inputs, targets, layer)
    close(signed_map(CAMS[name](layer), case), grad_cam(name, case).to(F64), relative=1e-5)


class NoBackward(torch.autograd.Function):
    """Stands for what refuses to be differentiated, such as reentrant checkpointing."""

    error: type[Exception] = RuntimeError

    @staticmethod
    def forward(ctx: Any, hidden: Tensor) -> Tensor:
        return hidden.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        raise NoBackward.error("no backward")


class Refusing(Deep):
    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.squash(self.second(self.act(self.first(inputs))))
        scores: Tensor = self.head(NoBackward.apply(hidden).flatten(1))
        return scores


def test_a_model_that_cannot_be_differentiated_has_a_layer_to_read() -> None:
    model, inputs, targets = deep_case()
    ours, theirs = (
        explain(net, inputs, targets, {"m": EigenCAM()}).maps["m"].map
        for net in (Refusing(), model)
    )
    assert torch.equal(ours, theirs)


def test_memory_that_runs_out_while_the_layer_is_found_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(NoBackward, "error", torch.OutOfMemoryError)
    model = Refusing()
    with pytest.raises(torch.OutOfMemoryError):
        last_spatial_layer(Subject(model), deep_case()[1])
    assert hooks_on(model) == 0
    assert torch.is_grad_enabled()


def test_a_fresh_head_of_zeros_hides_no_layer() -> None:
    """torchvision's transformers begin with one: their layer is found on the untrained model."""
    torch.manual_seed(0)
    net = torchvision.models.VisionTransformer(32, 8, 2, 4, 32, 64, num_classes=4).eval()
    inputs, targets = torch.randn(3, 3, 32, 32), torch.tensor([0, 1, 2])
    assert not net.heads[-1].weight.any()
    bound = bind(Subject(net), inputs, {"cam": GradCAM(), "ablation": AblationCAM()})
    with torch.no_grad():
        net.heads[-1].weight.normal_()
    again = bind(Subject(net), inputs, {"cam": GradCAM(), "ablation": AblationCAM()})
    assert bound["cam"] == again["cam"]
    assert getattr(bound["ablation"], "folds") == getattr(again["ablation"], "folds")  # noqa: B009
    assert explain(net, inputs, targets, bound).maps["cam"].map.any()
    assert not any(part._forward_hooks for part in net.modules())
