"""Errors name the argument, the value and the remedy; nothing is left behind after one."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from attribution_nets import F64, Deep, Quadratic, deep_case, hooks_on, images
from torch import Tensor, nn

from lightning_saliency.attribution import (
    METHODS,
    AnyMethod,
    GradCAM,
    GradCAMPlusPlus,
    HiResCAM,
    LayerCAM,
    Maps,
    NoGradientPathError,
    Saliency,
    SmoothGrad,
    Subject,
    explain,
    resolve_methods,
)
from lightning_saliency.attribution.taps import find_layer
from lightning_saliency.errors import ConfigurationError
from lightning_saliency.targets import Logit

METHODS_OF: dict[str, dict[str, AnyMethod]] = {
    "cam": {"cam": GradCAM("second")},
    "gradient": {"gradient": Saliency()},
    "both": {"cam": GradCAM("second"), "gradient": Saliency()},
}


class Twice(Deep):
    def forward(self, inputs: Tensor) -> Tensor:
        doubled: Tensor = inputs + self.act(inputs)
        return super().forward(doubled)


class Pair(nn.Module):
    def forward(self, inputs: Tensor) -> tuple[None, Tensor]:
        return None, inputs


class Tuples(Deep):
    def __init__(self) -> None:
        super().__init__()
        self.pair = Pair()
        self.spare = nn.Linear(2, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(self.pair(inputs)[1])


class Integers(Deep):
    def __init__(self) -> None:
        super().__init__()
        self.round = nn.Identity()

    def forward(self, inputs: Tensor) -> Tensor:
        rounded: Tensor = self.round(inputs.long())
        return super().forward(inputs) + rounded.sum()


class Frozen(Deep):
    """A backbone under no_grad, under a head that learns."""

    def forward(self, inputs: Tensor) -> Tensor:
        with torch.no_grad():
            hidden = self.act(self.first(inputs))
        scores: Tensor = self.head(self.squash(self.second(hidden)).flatten(1))
        return scores


class Blind(Deep):
    def forward(self, inputs: Tensor) -> Tensor:
        with torch.no_grad():
            return super().forward(inputs)


class Decision(Deep):
    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs).argmax(1)


class Aside(Deep):
    """`act` runs once, and leads nowhere."""

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.first(inputs)
        self.act(hidden)
        scores: Tensor = self.head(self.squash(self.second(hidden)).flatten(1))
        return scores


@pytest.mark.parametrize("extra", [{}, {"gradient": Saliency()}], ids=["short", "whole"])
@pytest.mark.parametrize(
    ("make", "layer", "words"),
    [
        (Deep, "secnd", "layer='secnd' is not a layer of Deep. Did you mean 'second'? Known: "),
        (Deep, "", "layer='' is not a layer of Deep. Known: 'first', 'act', 'second'"),
        (Twice, "act", "layer='act' runs more than once in a forward pass"),
        (Tuples, "pair", "layer='pair' returns a tuple, not a tensor of activations"),
        (Tuples, "spare", "layer='spare' took no part in the forward pass"),
        (Integers, "round", "layer='round' returns a Tensor, not a tensor of activations"),
        (Deep, "head", "layer='head' returns (5, 4) for inputs (5, 3, 11, 13): that has no places"),
        (Aside, "act", "The score does not depend on the layer 'act' by a differentiable path"),
    ],
)
def test_a_layer_that_cannot_be_read_is_told(
    make: Callable[[], Deep], layer: str, words: str, extra: dict[str, AnyMethod]
) -> None:
    model = make()
    with pytest.raises(ConfigurationError, match=re.escape(words)):
        explain(model, *deep_case()[1:], {"cam": GradCAM(layer), **extra})
    assert hooks_on(model) == 0
    assert torch.is_grad_enabled()


def test_an_unknown_layer_is_told_before_any_pass() -> None:
    def never(module: nn.Module, inputs: Tensor) -> Tensor:
        raise AssertionError("ran")

    subject = Subject(Deep(), call=never)
    for kind in (GradCAM, GradCAMPlusPlus, HiResCAM, LayerCAM):
        with pytest.raises(ConfigurationError, match="Did you mean 'second'"):
            explain(subject, *deep_case()[1:], {"cam": kind("secon")})


def test_a_layer_of_tokens_is_not_a_map() -> None:
    """(n, T, D) has the rank of a signal's activation: for an image it would be drawn as one."""

    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tokens = nn.Flatten(2)
            self.head = nn.Linear(16, 2, dtype=F64)

        def forward(self, inputs: Tensor) -> Tensor:
            scores: Tensor = self.head(self.tokens(inputs).mean(1))
            return scores

    words = re.escape(
        "layer='tokens' returns (2, 3, 16) for inputs (2, 3, 4, 4): 3 tokens of an input"
    )
    with pytest.raises(ConfigurationError, match=words):
        explain(Tokens(), images(2, 3, 4, 4), torch.zeros(2).long(), {"m": GradCAM("tokens")})


def test_a_model_without_a_map_has_no_last_spatial_layer() -> None:
    flat = nn.Sequential(nn.Flatten(), nn.Linear(48, 3, dtype=F64))
    inputs, targets = images(2, 3, 4, 4), torch.zeros(2).long()
    with pytest.raises(ConfigurationError, match="Sequential has no layer that answers with a map"):
        explain(flat, inputs, targets, {"cam": GradCAM()})
    assert hooks_on(flat) == 0


@pytest.mark.parametrize(
    ("model", "which", "words"),
    [
        (Frozen(), "gradient", "The score does not depend on the input by a differentiable path"),
        (Frozen(), "both", "The score does not depend on the input by a differentiable path"),
        (Blind(), "gradient", "The model's score carries no gradient"),
        (Decision(), "gradient", "which have no gradient. Say where its scores are with output="),
        (Decision(), "cam", "argmax"),
    ],
)
def test_a_missing_path_of_the_gradient_is_told(model: Deep, which: str, words: str) -> None:
    with pytest.raises(NoGradientPathError, match=words):
        explain(model, *deep_case()[1:], METHODS_OF[which])
    assert hooks_on(model) == 0


@pytest.mark.parametrize("model", [Frozen(), Blind()], ids=["backbone", "all of it"])
def test_a_cam_needs_gradients_above_its_layer_only(model: Deep) -> None:
    _, inputs, targets = deep_case()
    methods: dict[str, AnyMethod] = {"cam": GradCAM("second")}
    ours, free = (explain(net, inputs, targets, methods).maps["cam"] for net in (model, Deep()))
    torch.testing.assert_close(ours.map, free.map, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("inputs", "targets", "words"),
    [
        (torch.zeros(2, 3, 4, 4).long(), torch.zeros(2).long(), "inputs is "),
        (torch.zeros(3, 4), torch.zeros(3).long(), "give a floating-point tensor (N, C, *spatial)"),
        ([torch.zeros(3, 4, 4)], torch.zeros(1).long(), "inputs is a list of 1"),
        (torch.zeros(2, 3, 4, 4), torch.zeros(3).long(), "for 2 inputs; give a tensor (N,) with"),
        (torch.zeros(2, 3, 4, 4), torch.zeros(2, 1).long(), "targets is "),
        (torch.zeros(2, 3, 4, 4), [0, 1], "targets is a list of 2 for 2 inputs"),
        (5, torch.zeros(1), "inputs is a int"),
        (None, torch.zeros(1), "inputs is a NoneType"),
        (torch.tensor(1.0), torch.zeros(1), "inputs is a Tensor () of torch.float32"),
    ],
)
def test_inputs_and_targets_of_another_form_are_told(inputs: Any, targets: Any, words: str) -> None:
    model = Deep()
    with pytest.raises(ConfigurationError, match=re.escape(words)):
        explain(model, inputs, targets, {"m": Saliency()})


# What the model or a user's function returns


@pytest.mark.parametrize(
    ("output", "words"),
    [
        (lambda scores: {"logits": scores, "loss": 0}, "a dict with the keys ['logits', 'loss']"),
        (lambda scores: (scores, scores), "The model returns a tuple of 2, not a tensor of scores"),
        (lambda scores: None, "The model returns a NoneType"),
        (lambda scores: scores.sum(), "scores of the shape () for 5 probes"),
        (lambda scores: scores[:2], "scores of the shape (2, 4) for 5 probes"),
        (lambda scores: scores.argmax(1), "returns torch.int64 numbers"),
    ],
)
def test_outputs_that_are_no_scores_are_told(output: Callable[[Tensor], Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(words)):
        explain(Subject(Deep(), output=output), *deep_case()[1:], {"m": Saliency()})


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda m, x, y: "map", "methods: 'mine' returns a str; a method returns a tensor (5, *sp"),
        (lambda m, x, y: [x], "methods: 'mine' returns a list of 1; a method returns a tensor"),
        (lambda m, x, y: x[:2], "methods: 'mine' returns the shape (2, 3, 11, 13); a method"),
        (lambda m, x, y: x[:, 0, 0], "methods: 'mine' returns the shape (5, 13); a method returns"),
        (lambda m, x, y: x[None], "methods: 'mine' returns the shape (1, 5, 3, 11, 13)"),
        (lambda m, x, y: x / 0 / {}, "methods: 'mine' raised TypeError"),
    ],
)
def test_maps_of_a_function_that_are_no_maps_are_told(
    function: Callable[[nn.Module, Tensor, Tensor], Tensor], words: str
) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(words)):
        explain(*deep_case(), {"mine": function})


def test_a_target_of_another_shape_is_told() -> None:
    def whole(outputs: Tensor, classes: Tensor) -> Tensor:
        return outputs

    with pytest.raises(ConfigurationError, match=r"returns the shape \(5, 4\) for 5 probes"):
        explain(*deep_case(), {"m": Saliency()}, target=whole)


# Methods by their names


READ = {"attention_rollout", "gradient_rollout", "layer_gradient_attention"}
"""They need a transformer: tests of their own have one."""


def test_every_name_makes_a_method_that_runs() -> None:
    assert list(resolve_methods(list(METHODS))) == list(METHODS)
    named = {name: one for name, one in resolve_methods(list(METHODS)).items() if name not in READ}
    maps = explain(*deep_case(2), named).maps
    assert all(isinstance(found, Maps) and found.map.any() for found in maps.values())


def plain(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    return inputs


@pytest.mark.parametrize(
    ("given", "resolved"),
    [
        (None, {"gradient": Saliency()}),
        ("grad_cam", {"grad_cam": GradCAM()}),
        (["saliency", GradCAM("x")], {"saliency": Saliency(), "grad_cam": GradCAM("x")}),
        (SmoothGrad(samples=3), {"smooth_grad": SmoothGrad(samples=3)}),
        (plain, {"plain": plain}),
        (
            {"a": "saliency", "b": GradCAM(), "c": plain},
            {"a": Saliency(), "b": GradCAM(), "c": plain},
        ),
    ],
    ids=["none", "name", "list", "method", "function", "mapping"],
)
def test_methods_are_read_in_every_form(given: Any, resolved: dict[str, AnyMethod]) -> None:
    assert resolve_methods(given) == resolved


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("grad_camm", "methods: 'grad_camm' is not the name of a method. Did you mean 'grad_cam'?"),
        (3, "methods=3 is a int. Give names such as ['saliency', 'grad_cam']"),
        ([], "methods=[] is empty. Known: 'saliency'"),
        ({"a/b": "saliency"}, "methods: 'a/b' can't be a part of a tag. Use a short word"),
        ({" a": "saliency"}, "methods: ' a' can't be a part of a tag"),
        ({"": "saliency"}, "methods: '' can't be a part of a tag"),
        ({"floors": "saliency"}, "none of 'class_models', 'floors', 'alert'"),
        ({"a": GradCAM}, "methods: 'a' is <class"),
        ({"a": 3}, "methods: 'a' is 3, not a method"),
    ],
    ids=str,
)
def test_what_is_no_method_is_told(given: Any, words: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(words)):
        resolve_methods(given)


def test_two_methods_of_one_kind_in_a_list_do_not_hide_each_other() -> None:
    with pytest.raises(ConfigurationError, match="methods: 'grad_cam' is given twice"):
        resolve_methods([GradCAM("a"), GradCAM("b")])


def test_a_layer_is_found_with_and_without_what_compiling_puts_in() -> None:
    inner = Quadratic()
    model = nn.Sequential(nn.ModuleDict({"_orig_mod": inner}))
    assert find_layer(model, "0._orig_mod") is inner
    with pytest.raises(ConfigurationError, match="is not a layer of Sequential"):
        find_layer(model, "1")
    maps = explain(
        inner, images(1, 1, 2, 2), torch.zeros(1).long(), {"m": Saliency()}, target=Logit()
    )
    assert maps.chunk == 32
