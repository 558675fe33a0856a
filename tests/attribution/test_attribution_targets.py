"""Targets: what is differentiated, in closed form and against torch."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from attribution_nets import F64, deep_case, images
from torch import Tensor, nn

from lightning_saliency.attribution import Saliency, explain
from lightning_saliency.errors import ConfigurationError
from lightning_saliency.targets import (
    TARGETS,
    Contrast,
    Logit,
    LogProb,
    Margin,
    Output,
    Prob,
    Region,
    check_classes,
    confidence,
    predictions,
    resolve_target,
)

Z = images(6, 5) * 3
Y = torch.tensor([0, 1, 2, 3, 4, 0])
P = Z.softmax(1).gather(1, Y[:, None])[:, 0]
ONE = images(6) * 3
BITS = torch.tensor([0, 1, 1, 0, 0, 1])
P_ONE = torch.where(BITS == 1, ONE.sigmoid(), 1 - ONE.sigmoid())


def test_targets_are_their_formulas() -> None:
    torch.testing.assert_close(Margin()(Z, Y), (P / (1 - P)).log())
    torch.testing.assert_close(LogProb()(Z, Y), P.log())
    torch.testing.assert_close(Prob()(Z, Y), P)
    assert Logit()(Z, Y).tolist() == [float(Z[i, c]) for i, c in enumerate(Y)]
    assert Contrast(2)(Z, Y).tolist() == [float(Z[i, c] - Z[i, 2]) for i, c in enumerate(Y)]
    assert Output(3)(Z, Y).tolist() == Z[:, 3].tolist()


@pytest.mark.parametrize("outputs", [ONE, ONE[:, None], ONE[:, None, None]], ids=["1", "2", "3"])
def test_a_single_logit_is_two_classes(outputs: Tensor) -> None:
    signed = torch.where(BITS == 1, ONE, -ONE)
    assert torch.equal(Margin()(outputs, BITS), signed)
    assert torch.equal(Logit()(outputs, BITS), signed)
    torch.testing.assert_close(Prob()(outputs, BITS), P_ONE)
    torch.testing.assert_close(LogProb()(outputs, BITS), P_ONE.log())
    assert torch.equal(predictions(outputs), (ONE > 0).long())
    assert torch.equal(Output()(outputs, BITS), ONE)


def test_a_single_logit_is_a_pair_of_which_one_is_zero() -> None:
    pair = torch.stack([0 * ONE, ONE], 1)
    torch.testing.assert_close(Margin()(ONE, BITS), Margin()(pair, BITS))
    torch.testing.assert_close(LogProb()(ONE, BITS), LogProb()(pair, BITS))


def test_the_log_odds_are_exact_where_the_probability_is_one() -> None:
    sure = torch.tensor([[1000.0, 0.0, 0.0]], requires_grad=True)
    margin = Margin()(sure, torch.tensor([0]))
    assert margin.item() == pytest.approx(1000 - torch.tensor(2.0).log().item())
    assert torch.autograd.grad(margin.sum(), sure)[0].tolist() == [[1.0, -0.5, -0.5]]


def test_gradients_of_margin_and_log_prob_differ_by_one_minus_p() -> None:
    z = Z.clone().requires_grad_()
    margin = torch.autograd.grad(Margin()(z, Y).sum(), z)[0]
    log_prob = torch.autograd.grad(LogProb()(z, Y).sum(), z)[0]
    torch.testing.assert_close(log_prob, margin * (1 - P)[:, None])


class Plus(nn.Module):
    """A model, with one linear function of the input added to all its logits."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor) -> Tensor:
        scores: Tensor = self.model(inputs)
        return scores + 5 * inputs[:, :, :3, :3].sum((1, 2, 3), keepdim=True)[:, :, 0, 0]


@pytest.mark.parametrize(
    ("target", "same"),
    [(Margin(), True), (LogProb(), True), (Prob(), True), (Contrast(1), True), (Logit(), False)],
    ids=str,
)
def test_what_is_added_to_all_logits_shows_in_the_logit_alone(
    target: Callable[[Tensor, Tensor], Tensor], same: bool
) -> None:
    model, inputs, _ = deep_case()
    targets = torch.tensor([0, 2, 3, 2, 0])
    maps = [
        explain(net, inputs, targets, {"m": Saliency()}, target=target).maps["m"].signed
        for net in (model, Plus(model))
    ]
    change = (maps[1] - maps[0]).abs().max() / maps[0].abs().max()
    assert (change < 1e-9) if same else (change > 1)


@pytest.mark.parametrize("name", [name for name in TARGETS if name != "region"])
def test_targets_of_float16_outputs_are_finite_and_have_gradients(name: str) -> None:
    """The engine hands targets float32; ±60,000 is where float16 ends."""

    class Loud(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            return inputs.flatten(1) * torch.tensor([60000.0, -60000.0, 0.0, 60000.0]).half()

    inputs = torch.full((2, 1, 2, 2), 1.0).half()
    seen: list[Tensor] = []

    def target(outputs: Tensor, classes: Tensor) -> Tensor:
        seen.append(TARGETS[name](outputs, classes).detach())
        return TARGETS[name](outputs, classes)

    explain(Loud(), inputs, torch.tensor([0, 3]), {"m": Saliency()}, target=target)
    assert seen[0].dtype == torch.float32
    assert seen[0].isfinite().all()


def test_a_margin_of_half_precision_scores_keeps_float32() -> None:
    class Close(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            return (inputs.flatten(1) * 512).half()

    scores = torch.tensor([[1.0, 1.0, 0.0]])
    explanation = explain(
        Close(), scores[:, :, None], torch.tensor([0]), {"m": Saliency(channels="signed")}
    )
    assert explanation.outputs.tolist() == [[512.0, 512.0, 0.0]]
    assert explanation.maps["m"].signed.flatten().tolist() == [512.0, -512.0, 0.0]


# Segmentation


def test_a_region_is_the_sum_over_the_pixels_of_the_class() -> None:
    outputs, classes = images(4, 3, 5, 6), torch.tensor([0, 1, 2, 1])
    found = Region()(outputs, classes)
    for n, c in enumerate(classes.tolist()):
        pixels = [
            float(outputs[n, c, i, j])
            for i in range(5)
            for j in range(6)
            if max(range(3), key=lambda k: float(outputs[n, k, i, j])) == c
        ]
        assert 0 < len(pixels) < 30
        assert float(found[n]) == pytest.approx(sum(pixels), rel=1e-12)


def test_a_region_that_is_empty_has_a_zero_gradient() -> None:
    outputs = images(1, 2, 4, 4)
    outputs[:, 1] = outputs[:, 0] - 1
    outputs.requires_grad_()
    gradient = torch.autograd.grad(Region()(outputs, torch.tensor([1])).sum(), outputs)[0]
    assert not gradient.any()


def test_a_region_of_one_channel_has_two_classes() -> None:
    """One logit per pixel: class 1 where it is positive, and class 0 with its sign turned."""
    outputs = images(2, 1, 4, 4)
    ones = Region()(outputs, torch.tensor([1, 1]))
    torch.testing.assert_close(ones, outputs.clamp(min=0).sum((1, 2, 3)))
    zeros = Region()(outputs, torch.tensor([0, 0]))
    torch.testing.assert_close(zeros, (-outputs).clamp(min=0).sum((1, 2, 3)))
    check_classes(outputs, torch.tensor([0, 1]), "target_class")
    mostly = torch.where(torch.arange(16.0).view(1, 1, 4, 4) < 12, 1.0, -1.0)
    assert predictions(torch.cat([mostly, -mostly])).tolist() == [1, 0]


def test_the_prediction_of_a_segmentation_is_the_class_with_the_most_pixels() -> None:
    outputs = torch.zeros(2, 3, 2, 2)
    outputs[0, 2] = 1
    outputs[1, 1, 0] = outputs[1, 2, 1, 0] = 1
    assert predictions(outputs).tolist() == [2, 1]
    assert predictions(Z).tolist() == Z.argmax(1).tolist()


def test_confidence_is_the_probability_or_undefined() -> None:
    torch.testing.assert_close(confidence(Z, Y), P)
    torch.testing.assert_close(confidence(ONE, BITS), P_ONE)
    assert confidence(images(4, 3, 5, 6), torch.zeros(4).long()).isnan().tolist() == [True] * 4


# Words


@pytest.mark.parametrize("wrong", [-1, 5, 700])
def test_a_class_that_the_model_does_not_have_is_told(wrong: int) -> None:
    words = f"target_class=…: {wrong} is not one of this model's 5 outputs (0 to 4)"
    with pytest.raises(ConfigurationError, match=re.escape(words)):
        check_classes(Z, torch.tensor([0, wrong, 1]), "target_class=…")
    check_classes(Z, Y, "target_class=…")


@pytest.mark.parametrize("outputs", [ONE, ONE[:, None]])
def test_a_single_logit_has_the_classes_0_and_1(outputs: Tensor) -> None:
    check_classes(outputs, torch.tensor([0, 1]), "label")
    with pytest.raises(ConfigurationError, match="label: 2 is not one of this model's 2 outputs"):
        check_classes(outputs, torch.tensor([0, 2]), "label")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Contrast(5)(Z, Y), "target=Contrast(against=5): 5 is not one of this model's 5"),
        (lambda: Contrast(0)(ONE, BITS), "target=Contrast needs a model with two or more outputs"),
        (lambda: Output(5)(Z, Y), "target=Output(index=5): 5 is not one of this model's 5 outputs"),
        (lambda: Output(-1)(Z, Y), "target=Output(index=-1): -1 is not one of"),
        (lambda: Region()(Z, Y), "target=Region needs outputs (N, classes, *spatial), got (6, 5)"),
        (lambda: Margin()(images(2, 3, 4, 4), Y[:2]), "one score per class and place"),
        (lambda: Logit()(images(2, 3, 4, 4), Y[:2]), "target='region'"),
        (lambda: LogProb()(images(2, 3, 4, 4), Y[:2]), "target='region'"),
        (lambda: resolve_target("margn"), "target='margn' is not the name of a target. Did you"),
        (lambda: resolve_target("margn"), "Did you mean 'margin'? Known: 'margin', 'logit'"),
    ],
)
def test_a_target_that_does_not_fit_is_told(call: Callable[[], object], words: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(words)):
        call()


def test_names_and_callables_are_targets() -> None:
    kinds = [type(resolve_target(name)).__name__ for name in TARGETS]
    assert kinds == ["Margin", "Logit", "LogProb", "Prob", "Output", "Region"]
    assert list(TARGETS) == ["margin", "logit", "log_prob", "prob", "output", "region"]
    contrast = Contrast(1)
    assert resolve_target(contrast) is contrast
    assert resolve_target("margin") == Margin()


def test_float64_stays() -> None:
    assert Margin()(Z, Y).dtype == F64


@pytest.mark.parametrize("target", [[1], {"margin": 1}, None, 3])
def test_what_is_neither_a_name_nor_a_callable_is_told(target: object) -> None:
    with pytest.raises(ConfigurationError, match="is not the name of a target"):
        resolve_target(target)  # type: ignore[arg-type]


@pytest.mark.parametrize("index", ["a", True, 1.5, None, 10**30])
@pytest.mark.parametrize("kind", [Contrast, Output])
def test_what_is_no_index_is_told_when_the_target_is_made(kind: Any, index: object) -> None:
    with pytest.raises(ConfigurationError, match=f"target={kind.__name__}.*the index of an output"):
        kind(index)
