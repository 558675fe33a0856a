"""The attention family is the papers' matrices, of weights read without our machinery."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from attribution_nets import F64, close, images
from attribution_transformers import (
    BLOCKS,
    CLASSES,
    hugging_face,
    maps_of,
    timm_vit,
    torchvision_vit,
)
from torch import Tensor, nn

from lightning_saliency.attribution.attention import (
    AttentionRollout,
    GradientRollout,
    LayerGradientAttention,
)

Read = tuple[list[Tensor], list[Tensor]]


def of_hugging_face(model: Any, inputs: Tensor) -> Read:
    """Weights that it returns itself, of one probe at a time, and autograd through them."""
    every: list[tuple[Tensor, ...]] = []
    for index, probe in enumerate(inputs):
        output = model(probe[None], output_attentions=True)
        score = output.logits[0, index % CLASSES]
        weights = output.attentions
        every.append((*weights, *torch.autograd.grad(score, weights)))
    stacked = [torch.cat(block).detach() for block in zip(*every, strict=True)]
    return stacked[:BLOCKS], stacked[BLOCKS:]


def of_timm(model: Any, inputs: Tensor) -> Read:
    """Weights as its written-out attention hands them to its dropout."""
    weights: list[Tensor] = []
    hooks = [
        block.attn.attn_drop.register_forward_hook(lambda layer, args, out: weights.append(out))
        for block in model.blocks
    ]
    targets = torch.arange(len(inputs)) % CLASSES
    score = model(inputs).gather(1, targets[:, None]).sum()
    for hook in hooks:
        hook.remove()
    return [block.detach() for block in weights], list(torch.autograd.grad(score, weights))


def of_torchvision(model: Any, inputs: Tensor) -> Read:
    """Weights that `nn.MultiheadAttention` returns where it is asked to; gradients by hand.

    It returns a view of the weights that it uses, so the graph behind the view is used: the blocks
    are run on by hand from the weights and the values.
    """
    weights: list[Tensor] = []

    def block(layer: Any, tokens: Any) -> Any:
        normed, inner = layer.ln_1(tokens), layer.self_attention
        _, found = inner(normed, normed, normed, average_attn_weights=False)
        weights.append(found)
        value = normed @ inner.in_proj_weight[-16:].mT + inner.in_proj_bias[-16:]
        mixed = (found @ value.unflatten(2, (2, 8)).transpose(1, 2)).transpose(1, 2).flatten(2)
        tokens = tokens + inner.out_proj(mixed)
        return tokens + layer.mlp(layer.ln_2(tokens))

    tokens = model._process_input(inputs)
    tokens = torch.cat([model.class_token.expand(len(inputs), -1, -1), tokens], 1)
    tokens = tokens + model.encoder.pos_embedding
    for layer in model.encoder.layers:
        tokens = block(layer, tokens)
    scores = model.heads(model.encoder.ln(tokens)[:, 0])
    torch.testing.assert_close(scores, model(inputs), rtol=1e-10, atol=1e-10)
    score = scores.gather(1, (torch.arange(len(inputs)) % CLASSES)[:, None]).sum()
    return [block.detach() for block in weights], list(torch.autograd.grad(score, weights))


Case = tuple[nn.Module, Tensor, Read, int, float]


def _hugging_face_case(kind: str, implementation: str, prefix: int) -> Case:
    inputs = images(3, 3, 32, 32)
    read = of_hugging_face(getattr(hugging_face(kind, "eager"), "model"), inputs)  # noqa: B009
    # Its written-out softmax is in float32, whatever the model is in.
    return hugging_face(kind, implementation), inputs, read, prefix, 1e-5


def _timm_case() -> Case:
    inputs = images(3, 3, 32, 32)
    return timm_vit(), inputs, of_timm(timm_vit(fused=False), inputs), 1, 1e-10


def _torchvision_case() -> Case:
    inputs = images(3, 3, 32, 32)
    return torchvision_vit(), inputs, of_torchvision(torchvision_vit(), inputs), 1, 1e-10


CASES: dict[str, Callable[[], Case]] = {
    "torchvision": _torchvision_case,
    "timm": _timm_case,
    "hugging face, eager": lambda: _hugging_face_case("ViT", "eager", 1),
    "hugging face, sdpa": lambda: _hugging_face_case("ViT", "sdpa", 1),
    "hugging face, distilled": lambda: _hugging_face_case("DeiT", "sdpa", 2),
}


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]()


def matrices(read: Read, heads: str) -> list[list[Tensor]]:
    """Per probe and block, one `(T, T)` matrix."""
    fuse: Any = {"mean": Tensor.mean, "max": Tensor.amax, "min": Tensor.amin}[heads]
    return [[fuse(block[probe], 0) for block in read[0]] for probe in range(len(read[0][0]))]


def rolled_out(read: Read, heads: str, axis: int = -1) -> Tensor:
    """Abnar & Zuidema, section 3, as matrices: `(n, T, T)`, residuals, rows that sum to 1."""
    found = []
    for blocks in matrices(read, heads):
        rollout = torch.eye(len(blocks[0]), dtype=F64)
        for block in blocks:
            mixed = 0.5 * block.to(F64) + 0.5 * torch.eye(len(block), dtype=F64)
            rollout = mixed / mixed.sum(-1).unsqueeze(axis) @ rollout
        found.append(rollout)
    return torch.stack(found)


def chefer(read: Read) -> Tensor:
    """Chefer et al. 2021, eq. 5–6, number by number over probes, blocks and heads: `(n, T, T)`."""
    found = []
    for probe in range(len(read[0][0])):
        tokens = read[0][0].shape[-1]
        relevance = torch.eye(tokens, dtype=F64)
        for weights, gradient in zip(*read, strict=True):
            mean = torch.zeros(tokens, tokens, dtype=F64)
            for head in range(weights.shape[1]):
                product = weights[probe, head].to(F64) * gradient[probe, head].to(F64)
                mean += torch.where(product > 0, product, 0) / weights.shape[1]
            relevance = relevance + mean @ relevance
        found.append(relevance)
    return torch.stack(found)


def drawn(tokens: Tensor, prefix: int) -> Tensor:
    return tokens[:, prefix:].unflatten(1, (4, 4))  # type: ignore[no-untyped-call, no-any-return]


@pytest.mark.parametrize("heads", ["mean", "max", "min"])
def test_rollout_is_the_product_of_whole_matrices(case: Case, heads: Any) -> None:
    model, inputs, read, prefix, relative = case
    whole = rolled_out(read, heads)
    found = maps_of(AttentionRollout(heads=heads), model, inputs)
    close(found.map, drawn(whole[:, 0], prefix), relative=relative)
    assert torch.equal(found.signed, found.map[:, None])
    mean = maps_of(AttentionRollout(heads=heads, readout="mean"), model, inputs).map
    close(mean, drawn(whole.mean(1), prefix), relative=relative)


@pytest.mark.parametrize("heads", ["max", "min"])
def test_rollout_is_not_that_of_the_wrong_axis(case: Case, heads: Any) -> None:
    """A much copied version divides columns by the sums of rows, which is only right where all
    sums are 1: for one probe at a time, `a / a.sum(-1)`."""
    model, inputs, read, prefix, _ = case
    wrong = drawn(rolled_out(read, heads, axis=0)[:, 0], prefix)
    found = maps_of(AttentionRollout(heads=heads), model, inputs).map
    assert (found - wrong).abs().max() > 0.05 * found.max()


def test_gradient_rollout_is_chefers_loop(case: Case) -> None:
    model, inputs, read, prefix, relative = case
    whole = chefer(read)
    found = maps_of(GradientRollout(), model, inputs)
    close(found.map, drawn(whole[:, 0], prefix), relative=relative)
    mean = maps_of(GradientRollout(readout="mean"), model, inputs).map
    without_itself = whole - torch.eye(whole.shape[-1], dtype=F64)
    close(mean, drawn(without_itself.mean(1), prefix), relative=relative)


def test_layer_gradients_are_their_definition_in_a_loop(case: Case) -> None:
    model, inputs, read, prefix, relative = case
    columns = torch.zeros(len(inputs), read[1][0].shape[-1], dtype=F64)
    for block in read[1]:
        for head in range(block.shape[1]):
            for row in range(block.shape[2]):
                positive = block[:, head, row].clamp(min=0)
                columns += positive / (len(read[1]) * block.shape[1] * block.shape[2])
    close(
        maps_of(LayerGradientAttention(), model, inputs).map,
        drawn(columns, prefix),
        relative=relative,
    )
