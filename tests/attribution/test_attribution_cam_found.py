"""The layer that is found where none is named: the score depends on its places."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from attribution_methods import same
from attribution_nets import F64, Deep, close, counting, deep_case, hooks_on, images
from attribution_transformers import Encoder, randomised, timm_vit
from test_attribution_cam_layers import CAMS
from torch import Tensor, nn

from lightning_saliency.attribution import AnyMethod, GradCAM, Subject, explain
from lightning_saliency.attribution.cam_layers import last_spatial_layer
from lightning_saliency.attribution.taps import find_layer
from lightning_saliency.errors import ConfigurationError

ALL: dict[str, AnyMethod] = {name: make() for name, make in CAMS.items()}


class EveryToken(Encoder):
    """Its head is applied to all tokens, of which the first is read."""

    def forward(self, inputs: Tensor) -> Tensor:
        tokens = torch.cat(
            [self.before.expand(len(inputs), -1, -1), self.patches(inputs).flatten(2).mT], 1
        )
        scores: Tensor = self.head(self.encoder(tokens))
        return scores[:, 0]


def test_a_head_on_all_tokens_of_which_one_is_read_is_a_head_on_that_token() -> None:
    inputs, targets = images(2, 3, 16, 16), torch.tensor([0, 3])
    every, one = (explain(net, inputs, targets, ALL) for net in (EveryToken(), Encoder()))
    for name in ALL:
        close(every.maps[name].signed, one.maps[name].signed, relative=1e-9)


class Rebuilding(Deep):
    """A branch beside the scores ends last: a decoder."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 3, 1)).to(F64)

    def forward(self, inputs: Tensor) -> Any:
        hidden = self.squash(self.second(self.act(self.first(inputs))))
        return {"logits": self.head(hidden.flatten(1)), "image": self.decoder(hidden)}


def test_a_branch_beside_the_scores_that_ends_last_is_not_looked_at() -> None:
    model, inputs, targets = deep_case()
    subject = Subject(Rebuilding(), output=lambda found: found["logits"])
    for name, maps in explain(subject, inputs, targets, ALL).maps.items():
        same(maps, explain(model, inputs, targets, {name: ALL[name]}).maps[name])


class Branching(nn.Module):
    """Scores that are read off two layers of one shape, and a decoder beside them if asked for."""

    def __init__(self, decodes: bool) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.head = nn.Linear(6, 4)
        randomised(self)
        self.decoder = nn.Conv2d(6, 3, 1).to(F64) if decodes else nn.Identity()

    def forward(self, inputs: Tensor) -> Tensor:
        one = self.one(inputs).tanh()
        two = self.two(one)
        scores: Tensor = self.head((one * two).mean((2, 3)))
        self.decoder(two if isinstance(self.decoder, nn.Conv2d) else scores)
        return scores


@pytest.mark.parametrize("decodes", [False, True])
def test_a_last_layer_that_is_read_is_found_though_more_is_read_beside_it(decodes: bool) -> None:
    assert last_spatial_layer(Subject(Branching(decodes)), images(2, 3, 8, 9)) == "two"


class Plain(nn.Module):
    """A block written by hand: queries, keys and values by one linear layer, one head."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(8), nn.LayerNorm(8)
        self.qkv, self.mlp = nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, tokens: Tensor) -> Tensor:
        query, key, value = self.qkv(self.norm1(tokens)).chunk(3, -1)
        tokens = tokens + (query @ key.mT / 3).softmax(-1) @ value
        mixed: Tensor = self.mlp(self.norm2(tokens))
        return tokens + mixed.tanh()


def test_what_enters_an_attention_goes_before_its_queries_keys_and_values() -> None:
    net = Encoder()
    setattr(net, "encoder", nn.Sequential(Plain(), Plain()))  # noqa: B010
    found = last_spatial_layer(Subject(randomised(net)), images(2, 3, 16, 16))
    assert found == "encoder.1.norm1"


def test_two_passes_of_few_rows_find_the_layer_of_a_model_that_reads_its_last() -> None:
    model, inputs, _ = deep_case()
    with counting(model) as count:
        assert last_spatial_layer(Subject(model), inputs) == "squash"
    assert count.sizes == [2, 1]


def test_a_model_without_gradients_is_looked_at_no_further() -> None:
    model, inputs, _ = deep_case()

    subject = Subject(model, output=lambda scores: scores.detach())
    with counting(model) as count:
        assert last_spatial_layer(subject, inputs) == "squash"
    assert count.sizes == [2, 1, 1]


class Windows(nn.Module):
    """Windows of one patch, folded into the batch: of one probe they look like 4 × 4 tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mix = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 8)
        self.head = nn.Linear(8, 5)
        randomised(self)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.stem(inputs)
        mixed = self.mix(hidden.permute(0, 2, 3, 1).reshape(-1, 1, 8)).tanh()
        scores: Tensor = self.head(mixed.view(len(inputs), -1, 8).mean(1))
        return scores


@pytest.mark.parametrize("probes", [1, 2])
def test_the_layer_does_not_depend_on_the_number_of_probes(probes: int) -> None:
    assert last_spatial_layer(Subject(Windows()), images(probes, 3, 16, 16)) == "stem"


class OneByOne(Deep):
    """A model that takes one row at a time."""

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.squash(self.second(self.act(self.first(inputs))))
        scores: Tensor = self.head(hidden.view(1, -1))
        return scores


def test_a_model_that_takes_one_row_has_a_layer_to_read() -> None:
    model, inputs, targets = deep_case(1)
    ours, theirs = (explain(net, inputs, targets, {"m": GradCAM()}) for net in (OneByOne(), model))
    same(ours.maps["m"], theirs.maps["m"])


@pytest.mark.parametrize(
    ("given", "layer"),
    [({"global_pool": "map"}, "norm"), ({"qk_norm": True, "depth": 2}, "blocks.1.norm1")],
)
def test_what_is_divided_among_heads_is_no_map(given: dict[str, Any], layer: str) -> None:
    """(n, heads, T, d) has as many dimensions as an image; and what it was before is no feature."""
    model, inputs = timm_vit(**given), images(2, 3, 32, 32)
    assert last_spatial_layer(Subject(model), inputs) == layer
    keys = "attn_pool.k_norm" if "global_pool" in given else "blocks.1.attn.k_norm"
    with pytest.raises(ConfigurationError, match=r"k_norm' returns \(.*queries, keys or values"):
        explain(model, inputs, torch.tensor([0, 3]), {"m": GradCAM(keys)})
    found = explain(model, inputs, torch.tensor([0, 3]), {"m": GradCAM()}).maps["m"]
    assert found.map.shape == (2, 4, 4)


# Layers that can't be read


def test_a_module_of_two_names_is_found_by_each_and_offered_by_one() -> None:
    model, inputs, targets = deep_case()
    known = find_layer(model, "second")
    model.again = nn.Sequential(known)
    assert find_layer(model, "again.0") is known
    two = explain(model, inputs, targets, {"a": GradCAM("second"), "b": GradCAM("again.0")}).maps
    same(two["a"], two["b"])
    with pytest.raises(ConfigurationError, match="Did you mean 'again'"):
        find_layer(model, "again.1")
    with pytest.raises(ConfigurationError, match="'missing' is not a layer"):
        find_layer(model, "missing")


TORCHSCRIPT: dict[str, Callable[[nn.Module], Any]] = {
    "scripted": torch.jit.script,
    "traced": partial(torch.jit.trace, example_inputs=images(2, 3, 11, 13)),
}


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")
@pytest.mark.parametrize("kind", TORCHSCRIPT)
@pytest.mark.parametrize("layer", [None, "second"])
@pytest.mark.parametrize("name", ["GradCAM", "EigenCAM", "AblationCAM"])
def test_torchscript_is_told(kind: str, layer: str | None, name: str) -> None:
    model, inputs, targets = deep_case()
    made = TORCHSCRIPT[kind](model)
    words = "is TorchScript, whose layers can't be read.*as it was before torch.jit"
    with pytest.raises(ConfigurationError, match=rf"^layer=.*{words}"):
        explain(made, inputs, targets, {"m": CAMS[name](layer)})


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")
def test_beside_a_part_that_is_torchscript_other_layers_are_read() -> None:
    model, inputs, targets = deep_case()
    partly = deep_case()[0]
    setattr(partly, "squash", torch.jit.script(partly.squash))  # noqa: B010
    for name, make in CAMS.items():
        found = explain(partly, inputs, targets, {"m": make()}).maps["m"]
        same(found, explain(model, inputs, targets, {"m": make("second")}).maps["m"])
        assert hooks_on(partly.second) == 0, name
    with pytest.raises(ConfigurationError, match="layer='squash' is TorchScript"):
        explain(partly, inputs, targets, {"m": GradCAM("squash")})


def test_a_model_that_runs_every_layer_twice_is_told_so() -> None:
    """As test-time augmentation does."""

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = Deep()

        def forward(self, inputs: Tensor) -> Tensor:
            scores: Tensor = self.net(inputs) + self.net(inputs.flip(-1))
            return scores

    words = "each layer of Both .* runs more than once in a forward pass, the last of them 'net.sq"
    with pytest.raises(ConfigurationError, match=words):
        explain(Both(), images(2, 3, 11, 13), torch.tensor([0, 3]), {"m": GradCAM()})
