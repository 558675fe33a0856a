"""Memory: an observation takes what a training step of one chunk takes, whatever the probes."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_saliency.attribution import AnyMethod, Subject, bind, resolve_methods
from lightning_saliency.attribution.passes import in_chunks
from lightning_saliency.observation import observing
from lightning_saliency.sighting import Sighting

SIDE = 48
METHODS: Any = ["saliency", "smooth_grad", "var_grad", "integrated_gradients", "grad_cam"]

pytestmark = pytest.mark.filterwarnings("ignore:.*profiler.*")


class Deep(nn.Sequential):
    """Activations weigh more than all else, as in the nets that people train."""

    def __init__(self) -> None:
        body: list[nn.Module] = [nn.Conv2d(3, 24, 3, padding=1), nn.ReLU()]
        for _ in range(6):
            body += [nn.Conv2d(24, 24, 3, padding=1), nn.BatchNorm2d(24), nn.ReLU()]
        super().__init__(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 5))


def peak(work: Callable[[], object]) -> int:
    """The most bytes of tensors that live at once, of those that `work` makes."""
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as record:
        kept = work()
    del kept
    profiler: Any = record.profiler
    events = profiler.kineto_results.events()
    sizes: list[int] = [event.nbytes() for event in events if event.name() == "[memory]"]
    return max(itertools.accumulate(sizes))


def observation(net: nn.Module, probes: int, chunk: int) -> Callable[[], object]:
    inputs = torch.randn(probes, 3, SIDE, SIDE)
    targets = torch.arange(probes) % 5
    methods: dict[str, AnyMethod] = dict(resolve_methods(METHODS))
    subject = Subject(net)

    def look() -> Sighting:
        with observing(net):
            bound = bind(subject, inputs[:1], methods)
            parts = in_chunks(subject, inputs, targets, bound, chunk=chunk)
            return Sighting.joined(Sighting.of(part) for part in parts)

    return look


def training_step(net: nn.Module, examples: int) -> Callable[[], object]:
    inputs, targets = torch.randn(examples, 3, SIDE, SIDE), torch.arange(examples) % 5

    def step() -> Tensor:
        loss: Any = F.cross_entropy(net(inputs), targets)
        loss.backward()
        kept: Tensor = loss
        return kept

    return step


@pytest.mark.parametrize("chunk", [2, 4])
def test_it_takes_what_a_training_step_of_a_chunk_takes(chunk: int) -> None:
    net, probes = Deep(), 16
    # Beside it: what is kept of each probe (a map and three signed channels for each method), and
    # what the methods sum up for one chunk (a few maps of the size of the input each).
    kept = len(METHODS) * probes * 4 * SIDE * SIDE * 4
    sums = len(METHODS) * chunk * 8 * 3 * SIDE * SIDE * 4
    bound = peak(training_step(net, chunk)) + kept + sums
    assert peak(observation(net, probes, chunk)) <= bound
    assert peak(observation(net, probes, 8 * chunk)) > bound, "the bound is not a wide one"


def test_more_probes_take_no_more_than_what_is_kept_of_them() -> None:
    net = Deep()
    few, many = (peak(observation(net, probes, 4)) for probes in (8, 32))
    assert many - few <= 1.3 * len(METHODS) * 24 * 4 * SIDE * SIDE * 4
