"""The step that the run did not take: the weights are those of the real one, and nothing moved."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from restless import described, state
from torch import Tensor, nn
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from lightning_saliency.attribution import Subject
from lightning_saliency.errors import ConfigurationError
from lightning_saliency.observation import observing
from lightning_saliency.redrawn import lent
from lightning_saliency.stepping import in_full_precision, one_step_later
from lightning_saliency.targets import Logit, Output, Region

INPUTS = torch.randn(7, 1, 6, 6, generator=torch.Generator().manual_seed(0))
CLASSES = torch.arange(7) % 3

Made = Callable[[nn.Module], list[torch.optim.Optimizer]]


class Net(nn.Module):
    """Dropout and a BatchNorm, which an observation sees in evaluation mode; a frozen bias."""

    def __init__(self, outputs: int = 3) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5))
        self.head = nn.Linear(64, outputs)
        self.head.bias.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self.body(x).flatten(1))
        return scores


def of_all(kind: Callable[..., torch.optim.Optimizer], **given: Any) -> Made:
    return lambda net: [kind(net.parameters(), **given)]


def several(net: nn.Module) -> list[torch.optim.Optimizer]:
    """One of each part, one of two groups with rates in tensors."""
    body: Any = net.get_submodule("body")
    head = net.get_submodule("head")
    groups = [{"params": [*body[0].parameters()], "lr": torch.tensor(0.1)}]
    groups += [{"params": [*body[1].parameters()], "lr": torch.tensor(0.01)}]
    return [torch.optim.Adam(groups, foreach=False), torch.optim.SGD(head.parameters(), 0.5)]


OPTIMISERS: dict[str, Made] = {
    "sgd": of_all(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.1),
    "adam": of_all(torch.optim.Adam, lr=0.01, amsgrad=True),
    "adamw": of_all(torch.optim.AdamW, lr=0.01, foreach=False, maximize=True),
    "rmsprop": of_all(torch.optim.RMSprop, lr=0.01, momentum=0.5, centered=True),
    "adagrad": of_all(torch.optim.Adagrad, lr=0.01),
    "several": several,
}


def trained(make: Made, outputs: int = 3) -> tuple[Net, list[torch.optim.Optimizer]]:
    """A net in the middle of its training, with moments, and gradients that wait."""
    torch.manual_seed(0)
    net = Net(outputs)
    optimisers = make(net)
    for seed in range(4):
        torch.manual_seed(seed)
        loss: Any = F.cross_entropy(net(torch.randn(8, 1, 6, 6)), torch.arange(8) % outputs)
        loss.backward()
        for one in optimisers if seed < 3 else []:
            one.step()
            one.zero_grad()
    return net, optimisers


def later_by(
    net: nn.Module, optimisers: list[torch.optim.Optimizer], chunk: int = 32, **given: Any
) -> dict[str, Tensor]:
    with observing(net):
        subject = Subject(net, **given)
        return one_step_later(subject, INPUTS, CLASSES, optimisers, chunk=chunk)


def really(net: Net, optimisers: list[torch.optim.Optimizer]) -> dict[str, Tensor]:
    """The step, taken by a copy."""
    net, optimisers = copy.deepcopy((net, optimisers))
    net.eval().zero_grad()
    loss: Any = F.cross_entropy(net(INPUTS), CLASSES)
    loss.backward()
    for one in optimisers:
        one.step()
    return {name: one.detach() for name, one in net.named_parameters()}


@pytest.mark.parametrize("name", OPTIMISERS)
def test_it_is_the_step_that_the_run_would_take(name: str) -> None:
    net, optimisers = trained(OPTIMISERS[name])
    expected = really(net, optimisers)
    own = {key: one.detach().clone() for key, one in net.named_parameters()}
    for chunk in (32, 3):
        later = later_by(net, optimisers, chunk)
        assert later.keys() == own.keys()
        for key, one in later.items():
            torch.testing.assert_close(one, expected[key], rtol=1e-5, atol=1e-7)
            assert one.equal(own[key]) == (key == "head.bias"), key
            assert not one.requires_grad


@pytest.mark.parametrize("name", OPTIMISERS)
def test_nothing_of_the_run_has_moved(name: str) -> None:
    net, optimisers = trained(OPTIMISERS[name])
    calls: list[str] = []

    def note(*_: Any) -> None:
        calls.append("called")

    schedulers = [torch.optim.lr_scheduler.StepLR(one, 1) for one in optimisers]
    for one in optimisers:
        one.register_step_pre_hook(note)
        one.register_step_post_hook(note)
    handles = [register_optimizer_step_pre_hook(note), register_optimizer_step_post_hook(note)]
    weight: Any
    for weight in net.parameters():
        if weight.requires_grad:
            weight.register_hook(note)
            weight.register_post_accumulate_grad_hook(note)
    states = [described(vars(one)) for one in (*optimisers, *schedulers)]
    grads = [described(one.grad) for one in net.parameters()]
    before, stream, kinds = state(net), torch.get_rng_state(), [type(one) for one in optimisers]
    try:
        later_by(net, optimisers)
    finally:
        for handle in handles:
            handle.remove()
    assert calls == []
    assert [described(vars(one)) for one in (*optimisers, *schedulers)] == states
    assert [described(one.grad) for one in net.parameters()] == grads
    assert any(one is not None for one in grads)
    assert state(net) == before
    assert torch.equal(torch.get_rng_state(), stream)
    assert [type(one) for one in optimisers] == kinds


def test_the_later_weights_can_be_looked_through() -> None:
    net, optimisers = trained(OPTIMISERS["sgd"])
    later = later_by(net, optimisers)
    other = copy.deepcopy(net).eval()
    other.load_state_dict(later, strict=False)
    with observing(net), lent(net, later):
        assert torch.equal(net(INPUTS), other(INPUTS))
    assert not torch.equal(net.eval()(INPUTS), other(INPUTS))


def test_mixed_precision_has_no_part_in_it() -> None:
    net, optimisers = trained(OPTIMISERS["sgd"])
    mixed: dict[str, Any] = {"context": lambda: torch.autocast("cpu", dtype=torch.bfloat16)}
    plain, found = later_by(net, optimisers), later_by(net, optimisers, **mixed)
    assert all(torch.equal(found[key], one) for key, one in plain.items())
    subject = in_full_precision(Subject(net, **mixed), INPUTS)
    assert subject.scores(INPUTS).dtype == torch.float32
    assert Subject(net, **mixed).scores(INPUTS).dtype == torch.bfloat16


def test_the_loss_is_the_cross_entropy_whatever_is_explained() -> None:
    net, optimisers = trained(OPTIMISERS["sgd"])
    margin, logit = later_by(net, optimisers), later_by(net, optimisers, target=Logit())
    assert all(torch.equal(logit[key], one) for key, one in margin.items())
    # A binary net of one logit: 0 and 1.
    single, optimisers = trained(OPTIMISERS["sgd"], outputs=1)
    classes = torch.arange(7) % 2
    with observing(single):
        found = one_step_later(Subject(single), INPUTS, classes, optimisers, chunk=32)
    net = copy.deepcopy(single).eval()
    (optimiser,) = OPTIMISERS["sgd"](net)
    optimiser.load_state_dict(optimisers[0].state_dict())
    net.zero_grad()
    loss: Any = F.binary_cross_entropy_with_logits(net(INPUTS)[:, 0], classes.float())
    loss.backward()
    optimiser.step()
    torch.testing.assert_close(found["head.weight"], net.head.weight.detach())


@pytest.mark.parametrize("target", [Output(), Region(), lambda outputs, classes: outputs[:, 0]])
def test_where_no_classes_are_told_there_is_no_loss(target: Any) -> None:
    net, optimisers = trained(OPTIMISERS["sgd"])
    with pytest.raises(ConfigurationError, match="tells no classes isn't known"):
        later_by(net, optimisers, target=target)


def test_an_optimiser_that_wants_to_look_itself_says_so_and_nothing_moves() -> None:
    net = trained(OPTIMISERS["sgd"])[0]
    before = state(net)
    with pytest.raises((TypeError, AttributeError)):
        later_by(net, [torch.optim.LBFGS(net.parameters())])
    assert state(net) == before


def test_what_an_optimiser_holds_beside_the_net_is_copied_too() -> None:
    net, outside = trained(OPTIMISERS["sgd"])[0], nn.Parameter(torch.ones(3))
    outside.grad = torch.ones(3)
    optimiser = torch.optim.SGD([*net.parameters(), outside], lr=0.5)
    later = later_by(net, [optimiser])
    assert outside.eq(1).all()
    assert outside.grad.eq(1).all()
    assert later.keys() == dict(net.named_parameters()).keys()
