"""The attention family: closed forms, its laws, and what is said where it can't be."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from attribution_nets import F64, Closed, close, images
from attribution_transformers import (
    BLOCKS,
    CLASSES,
    TRANSFORMERS,
    Checkpointed,
    Encoder,
    maps_of,
    timm_vit,
    torchvision_vit,
)
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from lightning_saliency.attribution import GradCAM, IntegratedGradients, Saliency, explain
from lightning_saliency.attribution.attention import (
    AttentionRollout,
    GradientRollout,
    LayerGradientAttention,
)
from lightning_saliency.attribution.method import AnyMethod, Method
from lightning_saliency.attribution.subject import Subject
from lightning_saliency.errors import ConfigurationError
from lightning_saliency.targets import Logit

METHODS: dict[str, Method] = {
    "rollout": AttentionRollout(),
    "gradient rollout": GradientRollout(),
    "layers": LayerGradientAttention(),
}


class Even(nn.Module):
    """Blocks without keys: every token attends to all alike. The scores are one value's."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.blocks = blocks

    def forward(self, inputs: Tensor) -> Tensor:
        tokens = inputs.flatten(2).mT  # a token per pixel, no class token
        for _ in range(self.blocks):
            key = 0 * tokens[:, None]
            tokens = tokens + scaled_dot_product_attention(key, key, tokens[:, None])[:, 0]
        return tokens[:, 0]


@pytest.mark.parametrize("blocks", [1, 4])
def test_rollout_of_even_attention_is_exact(blocks: int) -> None:
    """Ã = (I + 11ᵀ/T) / 2, so a row of the product keeps 2^−L, and spreads the rest evenly."""
    maps = maps_of(AttentionRollout(readout="mean"), Even(blocks), images(2, 3, 3, 4)).map
    torch.testing.assert_close(maps, torch.full((2, 3, 4), 1 / 12, dtype=F64))
    with_class = Encoder(dimensions=2, patch=4, blocks=blocks)
    with torch.no_grad():
        for layer in with_class.encoder.layers:
            layer.self_attn.in_proj_weight.zero_()
            layer.self_attn.in_proj_bias.zero_()
    maps = maps_of(AttentionRollout(), with_class, images(2, 3, 12, 8)).map
    torch.testing.assert_close(maps, torch.full((2, 3, 2), (1 - 0.5**blocks) / 7, dtype=F64))


def test_gradients_of_one_even_block_are_exact() -> None:
    """Score c = x_c0 + Σ_j A_0j x_cj: ∂s/∂A_0j = x_cj, of every other row 0."""
    inputs = images(3, CLASSES, 2, 2)
    own = inputs[torch.arange(3), torch.arange(3)]
    close(maps_of(LayerGradientAttention(), Even(1), inputs).map, own.clamp(min=0) / 4)
    rollout = maps_of(GradientRollout(readout="mean"), Even(1), inputs).map
    close(rollout, own.clamp(min=0) / 16)


@pytest.mark.parametrize("name", TRANSFORMERS)
@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_maps_are_the_same_in_any_chunk_and_at_every_call(method: Method, name: str) -> None:
    model, inputs = TRANSFORMERS[name](), images(5, 3, 32, 32)
    whole = maps_of(method, model, inputs)
    assert whole.map.shape == (5, 4, 4)
    assert whole.map.min() >= 0
    assert torch.equal(whole.map, maps_of(method, model, inputs).map)
    close(maps_of(method, model, inputs, chunk=2).map, whole.map, relative=1e-10)


def test_rollout_is_a_share_of_all_tokens() -> None:
    """Over all tokens it sums to 1; the class token keeps at least 2^−L, which isn't drawn."""
    for model in (torchvision_vit(), timm_vit(reg_tokens=4), Encoder(before=0, patch=8)):
        total = maps_of(AttentionRollout(), model, images(3, 3, 32, 32)).map.sum((1, 2))
        kept = 0.5 ** (2 if isinstance(model, Encoder) else BLOCKS)
        if isinstance(model, Encoder):
            torch.testing.assert_close(total, torch.ones_like(total))
        else:
            assert (total <= 1 - kept).all()
            assert (total > 0.1).all()


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
@pytest.mark.parametrize("sides", [(32,), (8, 12), (8, 4, 12)])
def test_one_to_three_dimensions_and_one_channel(method: Method, sides: tuple[int, ...]) -> None:
    model = Encoder(len(sides), channels=1)
    maps = maps_of(method, model, images(2, 1, *sides))
    assert maps.map.shape == (2, *(side // 4 for side in sides))
    assert maps.map.std() > 0


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_probes_that_are_not_first_inside_are_first_in_maps(method: Method) -> None:
    inputs = images(3, 3, 8, 12)
    first, second = (
        maps_of(method, Encoder(batch_first=batch_first), inputs).map
        for batch_first in (True, False)
    )
    close(second, first, relative=1e-10)


@pytest.mark.parametrize("tokens", [{}, {"reg_tokens": 4}, {"class_token": False}])
@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_tokens_before_the_patches_are_left_out(method: Method, tokens: Any) -> None:
    if "class_token" in tokens:
        tokens = {**tokens, "global_pool": "avg"}
    maps = maps_of(method, timm_vit(**tokens), images(2, 3, 32, 32)).map
    assert maps.shape == (2, 4, 4)
    default = maps_of(METHODS["rollout"], timm_vit(**tokens), images(2, 3, 32, 32)).map
    readout = "mean" if "class_token" in tokens else "class"
    explicit = AttentionRollout(readout=readout)  # type: ignore[arg-type]
    assert torch.equal(default, maps_of(explicit, timm_vit(**tokens), images(2, 3, 32, 32)).map)


def test_a_small_relevance_keeps_its_digits_beside_that_of_a_token_to_itself() -> None:
    """In float32, of a score with gradients of 1e-9."""
    model = Encoder(before=0).float()
    with torch.no_grad():
        model.head.weight.mul_(1e-9)
    inputs = images(2, 3, 8, 12)
    method = GradientRollout()
    exact = maps_of(method, copy.deepcopy(model).double(), inputs).map
    close(maps_of(method, model, inputs.float()).map.double(), exact, relative=1e-4)


def test_rollout_is_the_same_for_every_class_and_the_others_are_not() -> None:
    model, inputs = torchvision_vit(), images(1, 3, 32, 32)
    for method in METHODS.values():
        maps = [
            explain(model, inputs, torch.tensor([c]), {"m": method}, target=Logit()).maps["m"].map
            for c in (0, 1)
        ]
        assert torch.equal(*maps) == isinstance(method, AttentionRollout)
    assert AttentionRollout.caution
    assert not GradientRollout.caution


def test_rollout_makes_no_graph() -> None:
    model = torchvision_vit()
    graphs: list[bool] = []
    model.register_forward_hook(lambda layer, args, scores: graphs.append(scores.requires_grad))
    for method in METHODS.values():
        maps_of(method, model, images(2, 3, 32, 32))
    assert graphs == [False, True, True]


def test_one_pass_serves_the_family_and_the_gradient() -> None:
    model, inputs, calls = torchvision_vit(), images(3, 3, 32, 32), []
    model.register_forward_pre_hook(lambda *_: calls.append(1))
    together: dict[str, AnyMethod] = {**METHODS, "saliency": Saliency()}
    targets = torch.arange(3)
    shared = explain(model, inputs, targets, together, target=Logit())
    assert len(calls) == 1
    for name, method in together.items():
        assert isinstance(method, Method)
        close(shared.maps[name].map, maps_of(method, model, inputs).map, relative=1e-10)


def test_other_points_are_looked_at_without_attention() -> None:
    """The passes of a path are by the fused function: their maps don't change a bit."""
    model, inputs, targets = torchvision_vit(), images(2, 3, 32, 32), torch.arange(2)
    path: dict[str, AnyMethod] = {"path": IntegratedGradients(steps=2)}
    alone = explain(model, inputs, targets, path).maps["path"]
    both = explain(model, inputs, targets, {**path, "m": AttentionRollout()}).maps["path"]
    assert torch.equal(alone.signed, both.signed)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lower_precision_is_close(dtype: torch.dtype) -> None:
    exact = torchvision_vit()
    model, inputs, targets = torchvision_vit().to(dtype), images(2, 3, 32, 32), torch.arange(2)
    for method in (AttentionRollout(), GradientRollout(), LayerGradientAttention()):
        found = explain(model, inputs.to(dtype), targets, {"m": method}, target=Logit()).maps["m"]
        assert found.map.dtype == torch.float32
        relative = 1e-4 if dtype == torch.float32 else 0.2
        close(found.map.double(), maps_of(method, exact, inputs).map, relative=relative)


@pytest.mark.parametrize("beside", [{}, {"saliency": Saliency()}], ids=["alone", "with input"])
@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_checkpointed_blocks_change_no_map(method: Method, beside: dict[str, AnyMethod]) -> None:
    inputs, targets = images(2, 3, 8, 12), torch.arange(2)
    found, expected = (
        explain(model, inputs, targets, {"m": method, **beside}, target=Logit()).maps
        for model in (Checkpointed(), Encoder())
    )
    for name, maps in expected.items():
        close(found[name].map, maps.map, relative=1e-12)


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_mixed_precision_is_close(method: Method) -> None:
    model, inputs, targets = torchvision_vit().float(), images(2, 3, 32, 32), torch.arange(2)
    mixed = Subject(model, Logit(), context=lambda: torch.autocast("cpu", torch.bfloat16))
    found = explain(mixed, inputs.float(), targets, {"m": method}).maps["m"].map
    assert found.dtype == torch.float32
    exact = maps_of(method, torchvision_vit(), inputs).map
    assert not torch.allclose(found.double(), exact, rtol=1e-4)  # it was in lower precision
    close(found.double(), exact, relative=0.2)


class Narrowing(nn.Module):
    """Attention over the rows of an image, folded into the batch; to every second token; or over
    all tokens, then over every second one."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def forward(self, inputs: Tensor) -> Tensor:
        tokens = inputs.movedim(1, -1)
        tokens = (tokens.flatten(0, 1) if self.how == "folded" else tokens.flatten(1, 2))[:, None]
        keys = tokens[:, :, ::2] if self.how == "fewer keys" else tokens
        mixed = scaled_dot_product_attention(tokens, keys, keys)
        if self.how == "fewer tokens":
            tokens = mixed[:, :, ::2]
            mixed = scaled_dot_product_attention(tokens, tokens, tokens)
        return mixed.reshape(len(inputs), -1, mixed.shape[-1]).sum(1)


def swin() -> Any:
    from torchvision.models import SwinTransformer

    return SwinTransformer([4, 4], 12, [1, 1], [2, 2], [2, 2], num_classes=CLASSES).to(F64).eval()


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (Closed, "no attention was seen in the forward pass"),
        (swin, r"block 0 has attention of the shape \(\d+, [12], 4, 4\).* for 2 probes"),
        (lambda: Narrowing("folded"), r"block 0 has .* the shape \(16, 1, 8, 8\) for 2 probes\."),
        (lambda: Narrowing("fewer keys"), r"block 0 has .* the shape \(2, 1, 64, 32\)"),
        (
            lambda: Narrowing("fewer tokens"),
            r"block 1 has .* the shape \(2, 1, 32, 32\) .*, unlike block 0 with \(2, 1, 64, 64\)",
        ),
    ],
    ids=["none", "swin", "folded", "fewer keys", "fewer tokens"],
)
@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_a_model_without_attention_over_all_tokens_is_told(
    method: Method, model: Callable[[], nn.Module], words: str
) -> None:
    net = model()
    channels, side = 2 if isinstance(net, Closed) else 3, 8 if isinstance(net, Narrowing) else 32
    with pytest.raises(ConfigurationError, match=rf"^{type(method).__name__}: .*{words}") as met:
        explain(net, images(2, channels, side, side), torch.zeros(2).long(), {"m": method})
    assert "'saliency'" in str(met.value)


def test_tokens_without_places_are_told() -> None:
    with pytest.raises(ConfigurationError, match=r"^AttentionRollout: the attention: 45 tokens of"):
        maps_of(AttentionRollout(), Encoder(before=41, patch=16), images(2, 3, 32, 32))


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: AttentionRollout(heads="sum"), r"heads='sum'\): known are 'mean', 'max' and"),  # type: ignore[arg-type]
        (lambda: AttentionRollout(readout=0), r"AttentionRollout\(readout=0\): known are 'auto'"),  # type: ignore[arg-type]
        (lambda: GradientRollout(readout="row"), r"GradientRollout\(readout='row'\)"),  # type: ignore[arg-type]
    ],
)
def test_an_unknown_choice_is_told_before_any_model(
    build: Callable[[], Method], words: str
) -> None:
    with pytest.raises(ConfigurationError, match=words):
        build()


def test_a_class_token_that_is_not_there_is_told() -> None:
    with pytest.raises(ConfigurationError, match=r"readout='class'\): the model has 6 tokens"):
        maps_of(AttentionRollout(readout="class"), Encoder(before=0), images(2, 3, 8, 12))


def test_a_class_activation_map_and_attention_share_the_pass() -> None:
    model, inputs, targets = timm_vit(), images(2, 3, 32, 32), torch.arange(2)
    with_layers: dict[str, AnyMethod] = {
        "cam": GradCAM("patch_embed.proj"),
        "m": GradientRollout(),
    }
    shared = explain(model, inputs, targets, with_layers, target=Logit()).maps
    close(shared["m"].map, maps_of(GradientRollout(), model, inputs).map, relative=1e-10)
    alone = explain(model, inputs, targets, {"cam": with_layers["cam"]}, target=Logit()).maps
    close(shared["cam"].signed, alone["cam"].signed, relative=1e-10)
