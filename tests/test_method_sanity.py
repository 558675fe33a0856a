"""Methods that ignore the weights are told from those that don't."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_saliency.attribution import InputXGradient, Saliency, Subject, bind, explain
from lightning_saliency.measures.observer import agreement
from lightning_saliency.method_sanity import INSENSITIVE, method_sanity, warning
from lightning_saliency.observation import observing
from lightning_saliency.redrawn import redrawn

INPUTS = torch.randn(10, 1, 8, 8, generator=torch.Generator().manual_seed(0))
CLASSES = torch.arange(10) % 3


def edges(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    return inputs.diff(dim=-1, append=inputs[..., -1:])


class Net(nn.Sequential):
    """One convolution; more than `most` examples are too many."""

    def __init__(self, most: int = 99) -> None:
        torch.manual_seed(0)
        super().__init__(nn.Conv2d(1, 6, 3), nn.Tanh(), nn.Flatten(), nn.Linear(216, 3))
        self.most = most

    def forward(self, x: Tensor) -> Any:
        if len(x) > self.most:
            raise torch.OutOfMemoryError("none left")
        scores: Any = super().forward(x)  # type: ignore[no-untyped-call]
        return scores


METHODS: dict[str, Any] = {
    "gradient": Saliency(),
    "edges": edges,
    "both": InputXGradient(),
    "flat": lambda model, inputs, targets: torch.ones_like(inputs),
}


def found_of(net: nn.Module, **given: Any) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Its similarities, and the maps of its own weights."""
    subject, told = Subject(net), list[tuple[int, int]]()
    with observing(net):
        bound = bind(subject, INPUTS, METHODS)
        maps = {
            name: one.map for name, one in explain(subject, INPUTS, CLASSES, bound).maps.items()
        }
        found = method_sanity(
            subject, INPUTS, CLASSES, bound, maps, progress=lambda *now: told.append(now), **given
        )
    assert told[-1][0] == told[-1][1] > 0
    return found, maps


def test_it_is_the_agreement_with_the_maps_of_random_weights() -> None:
    net = Net()
    found, maps = found_of(net, seed=4)
    with observing(net), redrawn(net, seed=4):
        random = explain(net, INPUTS, CLASSES, METHODS).maps
    for name, one in found.items():
        torch.testing.assert_close(one, agreement(maps[name], random[name].map), equal_nan=True)
    assert found["edges"].allclose(torch.ones(10))
    assert found["gradient"].median().abs() < 0.3
    assert 0.1 < found["both"].median() < 0.95, "it has the form of the image, and some of its own"
    assert found["flat"].isnan().all()
    assert not found_of(net, seed=5)[0]["gradient"].equal(found["gradient"])


@pytest.mark.parametrize(("most", "chunk"), [(99, 4), (3, 8), (1, 4)])
def test_each_map_is_held_against_its_own_whatever_fits(most: int, chunk: int) -> None:
    found, _ = found_of(Net(most), chunk=chunk)
    wanted, _ = found_of(Net())
    for name, one in found.items():
        torch.testing.assert_close(one, wanted[name], rtol=0, atol=1e-3, equal_nan=True)


def test_a_warning_says_what_may_be_trusted() -> None:
    assert warning("mine", INSENSITIVE, 0.0) == ""
    assert warning("mine", math.nan, 0.0) == ""
    blind = warning("mine", 0.987, 0.01)
    assert "'mine' shows the image" in blind
    assert "(rank correlation 0.99; Adebayo et al. 2018)" in blind
    assert blind.endswith("It hardly reacts to the weights.")
    assert warning("mine", 0.987, math.nan) == blind
    signed = warning("mine", 0.987, 1.02)
    assert "Its signs do react to the weights (drift 1.02 from random ones)" in signed
