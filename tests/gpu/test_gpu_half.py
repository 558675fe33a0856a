"""Maps of mixed precision are those of full precision, as far as float16 and bfloat16 can say."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import pytest
import torch
from gpu_place import CUDA, PLACE, figure, needs_a_gpu
from torch import Tensor, nn
from torchvision.models import resnet18

from lightning_saliency.attribution import GradCAM, Saliency, Subject, explain, looking

pytestmark = needs_a_gpu

PROBES, SIDE = (16, 64) if CUDA else (4, 32)


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(0)
    made: nn.Module = resnet18(num_classes=10)
    return made.eval().to(PLACE)


def signed(
    net: nn.Module, autocast: torch.dtype | None = None, dimmed: float = 1.0
) -> dict[str, Tensor]:
    """Signed maps of each method, `(N, …)`; the class is the same whatever the precision."""

    def call(module: nn.Module, inputs: Tensor) -> Any:
        return module(inputs) * dimmed

    context = partial(torch.autocast, PLACE, dtype=autocast, enabled=autocast is not None)
    subject = Subject(net, context=context, call=call)
    own = torch.Generator().manual_seed(1)
    inputs = torch.randn(PROBES, 3, SIDE, SIDE, generator=own)
    inputs = inputs.to(PLACE, next(net.parameters()).dtype)
    classes = (torch.arange(PROBES) % 10).to(PLACE)
    found = explain(subject, inputs, classes, {"gradient": Saliency(), "cam": GradCAM("layer4")})
    return {name: one.signed.double().flatten(1) for name, one in found.maps.items()}


def exact(net: nn.Module, dimmed: float = 1.0) -> dict[str, Tensor]:
    """In float64: what a GPU calls float32 has the digits of TF32 in convolutions."""
    return signed(copy.deepcopy(net).double(), dimmed=dimmed)


def cosines(one: dict[str, Tensor], other: dict[str, Tensor]) -> dict[str, float]:
    """The least cosine of any probe."""
    return {name: float(torch.cosine_similarity(one[name], other[name]).min()) for name in one}


WIDE: list[tuple[torch.dtype | None, float]] = [
    (None, 0.99),
    (torch.float16, 0.98),
    (torch.bfloat16, 0.9),
]


@pytest.mark.parametrize(("autocast", "least"), WIDE, ids=str)
def test_half_the_bits_give_the_same_maps(
    net: nn.Module, autocast: torch.dtype | None, least: float
) -> None:
    found = cosines(signed(net, autocast), exact(net))
    for name, value in found.items():
        figure(f"{name}: least cosine of {autocast or 'float32'} to float64", value)
    assert min(found.values()) > least


def test_scores_are_scaled_where_gradients_would_vanish(
    net: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    dim = 2.0**-14
    scaled = signed(net, torch.float16, dim)["gradient"]
    monkeypatch.setattr(looking, "HALF_SCALE", 1.0)
    plain = signed(net, torch.float16, dim)["gradient"]
    one = exact(net, dim)["gradient"]
    cosine = [float(torch.cosine_similarity(two, one).min()) for two in (scaled, plain)]
    zeros = [float((two == 0).double().mean()) for two in (scaled, plain)]
    figure("float16, a score ÷ 2^14: gradients that are 0, scaled", zeros[0])
    figure("float16, a score ÷ 2^14: gradients that are 0, plain", zeros[1])
    figure("float16, a score ÷ 2^14: least cosine, scaled", cosine[0])
    figure("float16, a score ÷ 2^14: least cosine, plain", cosine[1])
    assert zeros[0] < zeros[1] / 4
    assert cosine[0] > max(0.95, cosine[1])
