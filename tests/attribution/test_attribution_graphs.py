"""Graphs are as short as the methods allow, and give the same maps."""

from __future__ import annotations

import pytest
import torch
from attribution_methods import ALL, CLEAN, same
from attribution_nets import (
    F64,
    deep_case,
)
from torch import Tensor, nn

from lightning_saliency.attribution import (
    AnyMethod,
    GradCAM,
    GradCAMPlusPlus,
    HiResCAM,
    LayerCAM,
    Saliency,
    explain,
)
from lightning_saliency.targets import Logit


def leaves_below(outputs: Tensor) -> list[Tensor]:
    """All leaf tensors in the graph of `outputs`."""
    found, seen, front = [], set(), [outputs.grad_fn]
    while front:
        node = front.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.append(node.variable)
        front += [following for following, _ in node.next_functions]
    return found


def graph_of(methods: dict[str, AnyMethod], model: nn.Module, inputs: Tensor) -> list[Tensor]:
    graphs: list[list[Tensor]] = []

    def target(outputs: Tensor, classes: Tensor) -> Tensor:
        graphs.append(leaves_below(outputs))
        return Logit()(outputs, classes)

    explain(model, inputs, torch.zeros(len(inputs), dtype=torch.long), methods, target=target)
    return graphs[0]


def among(parameter: Tensor, leaves: list[Tensor]) -> bool:
    return any(parameter is leaf for leaf in leaves)


def test_a_cam_alone_keeps_no_graph_below_its_layer() -> None:
    model, inputs, _ = deep_case()
    leaves = graph_of({"cam": GradCAM("second")}, model, inputs)
    assert not among(model.first.weight, leaves)
    assert not among(model.second.weight, leaves)
    assert among(model.head.weight, leaves)
    own = [leaf for leaf in leaves if not isinstance(leaf, nn.Parameter)]
    assert [tuple(leaf.shape) for leaf in own] == [(5, 6, 5, 6)], "the activation is a leaf"


def test_with_two_layers_the_graph_starts_at_the_lower() -> None:
    model, inputs, _ = deep_case()
    leaves = graph_of({"up": GradCAM("second"), "low": GradCAM("first")}, model, inputs)
    assert not among(model.first.weight, leaves)
    assert among(model.second.weight, leaves)


def test_with_the_inputs_gradient_the_graph_is_whole() -> None:
    model, inputs, _ = deep_case()
    leaves = graph_of({"cam": GradCAM("second"), "gradient": Saliency()}, model, inputs)
    assert among(model.first.weight, leaves)


def test_where_nothing_is_differentiated_no_graph_is_kept() -> None:
    model, inputs, _ = deep_case()
    assert graph_of({"mine": lambda model, x, y: x}, model, inputs) == []


@pytest.mark.parametrize("kind", [GradCAM, GradCAMPlusPlus, HiResCAM, LayerCAM])
@pytest.mark.parametrize("frozen", [False, True])
def test_a_short_graph_gives_the_cam_of_the_whole(kind: type[GradCAM], frozen: bool) -> None:
    model, inputs, targets = deep_case()
    model.requires_grad_(not frozen)
    short = explain(model, inputs, targets, {"cam": kind("second"), "low": kind("act")})
    whole = explain(model, inputs, targets, {"cam": kind("second"), "low": kind("act"), **CLEAN})
    for name in ("cam", "low"):
        same(short.maps[name], whole.maps[name])


class Branches(nn.Module):
    """Two layers of which neither lies below the other."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng([]):
            torch.manual_seed(1)
            self.left, self.right = (nn.Conv2d(3, 4, 3, dtype=F64) for _ in range(2))

    def forward(self, inputs: Tensor) -> Tensor:
        scores: Tensor = (self.left(inputs).tanh() * self.right(inputs).sigmoid()).sum((2, 3))
        return scores


@pytest.mark.parametrize("frozen", [False, True])
def test_two_branches_are_read_in_one_short_graph(frozen: bool) -> None:
    model = Branches().requires_grad_(not frozen)
    _, inputs, targets = deep_case()
    methods: dict[str, AnyMethod] = {"left": HiResCAM("left"), "right": HiResCAM("right")}
    short = explain(model, inputs, targets, methods)
    whole = explain(model, inputs, targets, methods | {"gradient": Saliency()})
    for name in methods:
        same(short.maps[name], whole.maps[name])


def test_results_carry_no_graph() -> None:
    model, inputs, targets = deep_case()
    explanation = explain(
        model,
        inputs,
        targets,
        {**ALL, "mine": lambda model, x, y: model(x)[:, 0, None, None].expand(-1, 2, 3)},
    )
    tensors = [explanation.outputs, explanation.gradient_norm]
    for maps in explanation.maps.values():
        tensors += [maps.map, maps.signed, *maps.numbers.values()]
    assert all(isinstance(tensor, Tensor) and not tensor.requires_grad for tensor in tensors)
