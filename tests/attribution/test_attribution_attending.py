"""The attention weights are those that a model uses, and reading them changes nothing."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from attribution_nets import F64, close, images
from attribution_transformers import (
    BLOCKS,
    HEADS,
    TRANSFORMERS,
    Checkpointed,
    Encoder,
    hugging_face,
    timm_vit,
    torchvision_vit,
)
from torch import Tensor, nn
from torch.overrides import has_torch_function

from lightning_saliency.attribution.attending import Attending
from lightning_saliency.errors import ConfigurationError
from lightning_saliency.observation import observing

FUSED: Any = F.scaled_dot_product_attention
MODULE = F.multi_head_attention_forward


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Any:
    yield
    assert F.scaled_dot_product_attention is FUSED
    assert F.multi_head_attention_forward is MODULE
    assert not watched()


def watched() -> bool:
    """Whether any mode stands around calls of torch's functions."""
    return has_torch_function((torch.empty(0),))


def attended(
    model: Callable[..., Any], *args: Any, **kwargs: Any
) -> tuple[Any, tuple[Tensor, ...]]:
    """What a model returns, and the weights of each block."""
    with Attending("weights", len(args[0])) as attending:
        return model(*args, **kwargs), attending.taken()


LOWER = torch.ones(6, 6, dtype=torch.bool).tril()
SOME = images(2, 1, 6, 6, seed=9) > -0.5
CALLS: dict[str, dict[str, Any]] = {
    "plain": {},
    "boolean mask": {"attn_mask": LOWER},
    "boolean mask per probe": {"attn_mask": SOME},
    "float mask": {"attn_mask": images(6, 6, seed=8)},
    "float mask with -inf": {"attn_mask": images(6, 6, seed=8).masked_fill(~LOWER, -torch.inf)},
    "a query that sees nothing": {"attn_mask": LOWER.tril(-1)},
    "causal": {"is_causal": True},
    "scale": {"scale": 0.9},
    "scale of zero": {"scale": 0.0},
    "no dropout": {"dropout_p": 0.0},
    "grouped": {"enable_gqa": True},
}


@pytest.mark.parametrize("leading", [(2, 4), (2, 3, 4)], ids=["4 sides", "5 sides"])
@pytest.mark.parametrize("name", CALLS)
def test_the_fused_function_written_out_is_the_fused_function(
    name: str, leading: tuple[int, ...]
) -> None:
    """Value, gradient, and weights that make the value."""
    kwargs = dict(CALLS[name])
    if name == "boolean mask per probe" and len(leading) == 3:
        kwargs["attn_mask"] = SOME[:, None]
    few = (*leading[:-1], 2) if name == "grouped" else leading
    given = [images(*leading, 6, 8), images(*few, 6, 8, seed=1), images(*few, 6, 5, seed=2)]
    leaves = [one.requires_grad_() for one in given]
    expected = FUSED(*leaves, **kwargs)
    found, (weights,) = attended(F.scaled_dot_product_attention, *leaves, **kwargs)
    close(found, expected, relative=1e-12)
    value = leaves[2].repeat_interleave(2, -3) if name == "grouped" else leaves[2]
    close(weights @ value, expected, relative=1e-12)
    probe = images(*expected.shape, seed=3)
    ours, theirs = (torch.autograd.grad((one * probe).sum(), leaves) for one in (found, expected))
    for one, other in zip(ours, theirs, strict=True):
        if name == "scale of zero" and not other.any():
            assert not one.any()
        else:
            close(one, other, relative=1e-10)


def test_three_sides_are_heads_folded_into_the_probes() -> None:
    query = images(6, 5, 4)  # 2 probes × 3 heads
    with Attending("weights", 2) as attending:
        value = F.scaled_dot_product_attention(query, query, query, is_causal=True)
        (weights,) = attending.taken()
    assert weights.shape == (2, 3, 5, 5)
    close(value, FUSED(query, query, query, is_causal=True), relative=1e-12)
    with Attending("weights", 9) as attending:  # no number of heads: told by the method
        F.scaled_dot_product_attention(query, query, query)
        assert attending.taken()[0].shape == (6, 1, 5, 5)


def test_heads_may_be_joined_by_a_view() -> None:
    """As kernels lay them out, where the query's heads come out of one linear layer."""
    joined = images(2, 6, 3, 4, 8).permute(2, 0, 3, 1, 4).unbind(0)
    for query, key, value in (joined, [one.contiguous() for one in joined]):
        found, _ = attended(FUSED, query, key, value)
        expected = FUSED(query, key, value)
        close(found, expected, relative=1e-12)
        if query is joined[0]:
            close(found.transpose(1, 2).view(2, 6, 32), expected.transpose(1, 2).view(2, 6, 32))


def test_dropout_is_still_drawn() -> None:
    query = images(1, 1, 64, 4)
    torch.manual_seed(0)
    value, (weights,) = attended(FUSED, query, query, torch.ones_like(query), dropout_p=0.5)
    torch.testing.assert_close(weights.sum(-1), torch.ones(1, 1, 64, dtype=F64))
    assert (value != 1).any()
    assert 0.8 < value.mean() < 1.2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("autocast", [False, True])
def test_half_precision_loses_no_more_than_the_fused_function(
    dtype: torch.dtype, autocast: bool
) -> None:
    """Logits and softmax are in float32, as kernels have them; in bfloat16 it would be 6× worse."""
    query, key, value = (3 * images(2, 4, 50, 32, seed=seed).to(dtype) for seed in range(3))
    exact = FUSED(query.double(), key.double(), value.double())
    given = [one.float() if autocast else one for one in (query, key, value)]
    with torch.autocast("cpu", dtype, enabled=autocast):
        theirs, (ours, (weights,)) = FUSED(*given), attended(FUSED, *given)
    assert ours.dtype == theirs.dtype == dtype
    assert weights.dtype == torch.float32
    lost = [(one.double() - exact).abs().max() for one in (ours, theirs)]
    assert lost[0] < 2 * lost[1]


MODULES: dict[str, dict[str, Any]] = {
    "no weights": {"need_weights": False},
    "weights": {"need_weights": True},
    "weights of each head": {"need_weights": True, "average_attn_weights": False},
    "float mask": {"attn_mask": images(6, 6, seed=8)},
    "causal, no weights": {"attn_mask": ~LOWER, "is_causal": True, "need_weights": False},
    "causal, weights": {"attn_mask": ~LOWER, "is_causal": True},
    "a hint that is wrong": {"attn_mask": images(6, 6, seed=8), "is_causal": True},
    "padding": {"key_padding_mask": torch.tensor([[False] * 5 + [True], [False] * 6])},
}
BUILDS: dict[str, dict[str, Any]] = {
    "batch first": {"batch_first": True},
    "batch second": {},
    "further keys": {"batch_first": True, "add_bias_kv": True, "add_zero_attn": True},
    "other keys": {"batch_first": True, "kdim": 5, "vdim": 7},
}


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize("name", MODULES)
def test_a_module_returns_what_it_returned(name: str, build: str, graph: bool) -> None:
    layer = nn.MultiheadAttention(8, 2, dropout=0.3, dtype=F64, **BUILDS[build]).eval()
    first = layer.batch_first
    query = images(*((2, 6) if first else (6, 2)), 8)
    key = images(2, 6, 5, seed=1) if build == "other keys" else query
    value = images(2, 6, 7, seed=2) if build == "other keys" else query
    kwargs = MODULES[name]
    with torch.set_grad_enabled(graph):
        expected, weights = layer(query, key, value, **kwargs)
        with Attending("weights", 2) as attending:
            found, returned = layer(query, key, value, **kwargs)
            (taken,) = attending.taken()
        _, every = layer(query, key, value, **{**kwargs, "average_attn_weights": False} | NEED)
    close(found, expected, relative=1e-12)
    if name != "causal, no weights" or build != "further keys":  # torch has two answers to that
        close(taken, every, relative=1e-12)
    assert taken.shape == (2, 2, 6, 8 if build == "further keys" else 6)
    assert (returned is None) == (weights is None)
    if weights is not None:
        close(returned, weights, relative=1e-12)


NEED = {"need_weights": True}


def test_a_module_of_one_probe_without_its_side() -> None:
    query = images(6, 8)
    layer: Any = nn.MultiheadAttention(8, 2, dtype=F64).eval()
    for average in (True, False):
        expected = layer(query, query, query, average_attn_weights=average)
        with Attending("weights", 1) as attending:
            found = layer(query, query, query, average_attn_weights=average)
            assert attending.taken()[0].shape == (1, 2, 6, 6)
        for one, other in zip(found, expected, strict=True):
            close(one, other, relative=1e-12)


@pytest.mark.parametrize("batch_first", [True, False])
def test_the_fast_path_of_torchs_encoder_is_seen_through(batch_first: bool) -> None:
    """In evaluation mode, without a graph, its layers are one fused kernel."""
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=batch_first, dtype=F64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nested tensors: of the batch's side, and a prototype
        encoder = nn.TransformerEncoder(layer, 3).eval()
        tokens = images(2, 6, 8) if batch_first else images(6, 2, 8)
        padding = torch.tensor([[False] * 5 + [True], [False] * 6])
        with torch.no_grad():
            expected = encoder(tokens, src_key_padding_mask=padding)
            with Attending("weights", 2) as attending:
                found = encoder(tokens, src_key_padding_mask=padding)
                taken = attending.taken()
    seen = ~padding if batch_first else ~padding.mT
    close(found[seen][None], expected[seen][None], relative=1e-10)
    assert [one.shape for one in taken] == [(2, 2, 6, 6)] * 3
    assert all(not one[0, :, :, 5].any() for one in taken), "what is padded is not attended to"


@pytest.mark.parametrize("wanted", ["mean", "weights", "gradients"])
@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("name", TRANSFORMERS)
def test_each_block_is_read_once_and_the_scores_stay(name: str, wanted: Any, graph: bool) -> None:
    model, inputs = TRANSFORMERS[name](), images(3, 3, 32, 32)
    with torch.set_grad_enabled(graph):
        expected = model(inputs)
        with Attending(wanted, 3) as attending:
            found = model(inputs)
            taken = attending.taken()
    close(found, expected, relative=1e-10)
    tokens = 18 if "distilled" in name else 17
    heads = 1 if wanted == "mean" else HEADS
    assert [tuple(one.shape) for one in taken] == [(3, heads, tokens, tokens)] * BLOCKS
    for one in taken:
        torch.testing.assert_close(one.sum(-1), torch.ones_like(one[..., 0]))
        assert one.requires_grad == (wanted == "gradients" or graph)


@pytest.mark.parametrize("kind", ["ViT", "DeiT"])
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_weights_are_those_that_hugging_face_returns(kind: str, implementation: str) -> None:
    """Its written-out softmax is in float32 whatever the model is in."""
    inputs = images(2, 3, 32, 32)
    written: Any = hugging_face(kind, "eager").model
    eager = written(inputs, output_attentions=True).attentions
    _, taken = attended(hugging_face(kind, implementation), inputs)
    for one, other in zip(taken, eager, strict=True):
        close(one, other, relative=1e-6)


def test_weights_are_those_that_timm_writes_out() -> None:
    inputs, model = images(2, 3, 32, 32), timm_vit(fused=False)
    written: list[Tensor] = []
    for block in model.blocks:
        block.attn.attn_drop.register_forward_hook(lambda layer, args, out: written.append(out))
    model(inputs)
    _, taken = attended(timm_vit(), inputs)
    for one, other in zip(taken, written, strict=True):
        close(one, other, relative=1e-12)


def test_the_mean_is_the_mean_of_the_heads() -> None:
    model, inputs = torchvision_vit(), images(2, 3, 32, 32)
    _, every = attended(model, inputs)
    with Attending("mean", 2) as attending:
        model(inputs)
        for one, other in zip(attending.taken(), every, strict=True):
            assert torch.equal(one, other.mean(1, keepdim=True))


def test_gradients_are_those_of_weights_that_are_moved() -> None:
    """By central differences: one weight of one block is moved, and the scores follow."""
    model, inputs = timm_vit(fused=False), images(1, 3, 32, 32)
    with torch.no_grad(), Attending("gradients", 1) as attending:
        score = model(inputs)[0, 2]
        gradients = torch.autograd.grad(score, attending.taken())
    for block, place in ((0, (0, 1, 0, 5)), (1, (0, 0, 3, 16)), (2, (0, 1, 0, 0))):
        sides = []
        for step in (1e-5, -1e-5):

            def moved(
                layer: nn.Module, args: Any, out: Tensor, step: float = step, place: Any = place
            ) -> Tensor:
                out = out.clone()
                out[place] += step
                return out

            hook = model.blocks[block].attn.attn_drop.register_forward_hook(moved)
            with torch.no_grad():
                sides.append(model(inputs)[0, 2])
            hook.remove()
        difference = (sides[0] - sides[1]) / 2e-5
        assert difference != 0
        torch.testing.assert_close(gradients[block][place], difference, rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize("returns", [False, True], ids=["fused", "returns weights"])
def test_checkpointed_blocks_are_read_once_and_differentiated(returns: bool) -> None:
    inputs = images(2, 3, 16, 16)
    found: list[tuple[Tensor, ...]] = []
    for model in (Checkpointed(returns=returns), Encoder()):
        leaf = inputs.clone().requires_grad_()
        with Attending("gradients", 2) as attending:
            score = model(leaf)[:, 1].sum()
            taken = attending.taken()
            assert len(taken) == 2
            found.append((*taken, *torch.autograd.grad(score, [*taken, leaf])))
            assert attending.taken() == (), "what ran again was read again"
    for one, other in zip(*found, strict=True):
        close(one.detach(), other.detach(), relative=1e-10)


def test_it_works_inside_an_observation_of_an_inference() -> None:
    model, inputs = torchvision_vit(), images(2, 3, 32, 32)
    _, expected = attended(model, inputs)
    with torch.inference_mode(), observing(model):
        _, taken = attended(model, inputs.clone())
    for one, other in zip(taken, expected, strict=True):
        assert torch.equal(one, other)
        assert not one.is_inference()


@pytest.mark.parametrize("build", [torchvision_vit, timm_vit])
def test_an_exception_leaves_nothing_behind(build: Callable[[], nn.Module]) -> None:
    model = build()
    model.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        attended(model, images(1, 3, 32, 32))
    layer = nn.MultiheadAttention(8, 2, dtype=F64)
    with pytest.raises(AssertionError), Attending("weights", 1):
        layer(images(2, 6, 8), images(3, 6, 8), images(2, 6, 8))


def test_wanting_nothing_is_not_to_be_there() -> None:
    with Attending("", 2) as attending:
        assert not watched()
        assert attending.taken() == ()


def test_other_softmaxes_are_not_attention() -> None:
    """Of classes, of a square over another side, of one place; calls of every name are met."""
    square = images(2, 5, 5)
    with Attending("weights", 2) as attending:
        torch.softmax(images(2, 5), -1)
        images(2, 3, 4, 5).softmax(3)
        torch.softmax(square, 1)
        F.softmax(square, dim=-2)
        torch.softmax(square[:, :1, :1], -1)
        assert attending.taken() == ()
        torch.softmax(square, -1)  # the reading has ended
        FUSED(square, square, square)
        assert attending.taken() == ()
    named: list[Callable[[Tensor], Tensor]] = [
        lambda x: x.softmax(-1),
        lambda x: x.softmax(dim=2),
        lambda x: torch.softmax(x, 2),
        lambda x: torch.special.softmax(x, dim=-1),
        lambda x: F.softmax(x, -1),
        lambda x: F.softmax(x, dim=-1, dtype=torch.float32),
        nn.Softmax(-1),
    ]
    with Attending("weights", 2) as attending:
        for call in named:
            call(square)
        taken = attending.taken()
    assert len(taken) == len(named)
    for one in taken:
        torch.testing.assert_close(one.double(), square.softmax(-1)[:, None], rtol=0, atol=1e-6)


def jagged() -> Tensor:
    """Two probes of 3 and 5 tokens, `(2, heads, tokens of its own, d)`."""
    parts = [images(size, 2, 4) for size in (3, 5)]
    return torch.nested.nested_tensor(parts, layout=torch.jagged).transpose(1, 2)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
def test_attention_over_nested_tensors_is_told_where_its_weights_are_wanted() -> None:
    tokens = jagged()
    words = "attention of block 1 is computed over nested tensors.*Let the model pad"
    dense = images(2, 2, 3, 4)
    with Attending("weights", 2):
        FUSED(dense, dense, dense)
        with pytest.raises(ConfigurationError, match=words):
            FUSED(tokens, tokens, tokens)
    wanted = FUSED(tokens, tokens, tokens, scale=0.3)
    with Attending("weights", 2) as attending:
        attending.taken()  # the reading has ended: what runs again inside backward is left alone
        found = FUSED(tokens, tokens, tokens, scale=0.3)
    torch.testing.assert_close(found.values(), wanted.values())
