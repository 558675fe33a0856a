"""`observing` leaves no trace in a module: one law per thing that it borrows."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from restless import Restless, described, draw, ends, look, mishap, state, streams
from torch import Tensor, nn

from lightning_saliency import observation
from lightning_saliency.observation import observing


@ends
def test_nothing_of_a_restless_module_changes(fails: bool) -> None:
    module = Restless()
    module(torch.rand(4, 2, 5, 5))  # caches are filled
    before = state(module)
    look(module, fails=fails)
    assert state(module) == before


def test_a_restless_module_writes_to_its_copies_inside() -> None:
    module = Restless()
    with observing(module):
        module(torch.rand(4, 2, 5, 5))
        assert module.calls == 1
        assert module.counter.tolist() == [1, 1, 1]
        assert module.tied is module.counter, "tied buffers stay tied"
        assert module.kept["list"][0].item() == 1
        assert module.kept["deque"].maxlen == 3
        assert module.kept["tuple"][0].item() == 1
        assert not module.last.is_leaf
    assert module.calls == 0
    assert module.counter.tolist() == [0, 0, 0]
    assert module.tied is module.counter
    assert not hasattr(module, "last")


class Stubborn(nn.Linear):
    """Like the usual recipe for a frozen BatchNorm: its mode can't be changed by `train`."""

    def train(self, mode: bool = True) -> Stubborn:
        raise AssertionError("an observation has no business here")


@ends
def test_modes_come_back_one_by_one(fails: bool) -> None:
    inner = nn.Sequential(nn.Dropout(), nn.ReLU())
    module = nn.Sequential(nn.Linear(2, 2), Stubborn(2, 2), inner)
    module[0].training = inner[1].training = False
    modes = {name: part.training for name, part in module.named_modules()}
    assert set(modes.values()) == {True, False}
    with mishap(fails), observing(module):
        assert not any(part.training for part in module.modules())
        module[0].training = True
        if fails:
            raise KeyError
    assert {name: part.training for name, part in module.named_modules()} == modes


@ends
def test_buffers_that_are_replaced_added_or_deleted_come_back_in_order(fails: bool) -> None:
    module = nn.BatchNorm1d(2)
    before, order = described(module._buffers), list(module._buffers)
    with mishap(fails), observing(module):
        del module.running_mean
        module.register_buffer("running_mean", torch.ones(2, dtype=torch.float64))
        module.register_buffer("late", torch.ones(1))
        module.running_var = None
        if fails:
            raise KeyError
    assert described(module._buffers) == before
    assert list(module.state_dict())[2:] == order


def test_a_structure_that_holds_itself_is_copied_once() -> None:
    module: Any = nn.Linear(1, 1)
    ring: list[Any] = [torch.zeros(1)]
    table: dict[str, Any] = {"ring": ring}
    ring += [ring, table, (ring, table)]
    table["table"] = table
    module.ring, module.table = ring, table
    with observing(module):
        inside = module.ring
        assert inside is not ring
        assert inside[1] is inside
        assert inside[2] is module.table
        assert inside[3][0] is inside
        assert inside[3][1] is module.table
        inside[0] += 1
        inside.append(1)
        inside[2]["more"] = 1
    assert module.ring is ring
    assert ring[0].item() == 0
    assert (len(ring), list(table)) == (4, ["ring", "table"])


class Rotary(nn.Module):
    """Makes its tables when it is first called, as rotary embeddings and masks do."""

    def __init__(self) -> None:
        super().__init__()
        self.table: dict[str, Tensor] = {}
        self.angle: Tensor | None = None
        self.register_buffer("mask", None)

    def forward(self, x: Tensor) -> Tensor:
        if self.angle is None:
            self.angle, self.mask = torch.rand(3), torch.rand(3)
            self.table["cos"] = torch.rand(3)
        assert isinstance(self.mask, Tensor)
        return x * self.angle * self.mask * self.table["cos"]


def test_caches_made_under_inference_mode_let_gradients_through() -> None:
    x = torch.ones(2, 3)
    module: Any = Rotary()
    with torch.inference_mode():
        module(x)
        made = (module.angle, module.mask, module.table["cos"])
        assert all(tensor is not None and tensor.is_inference() for tensor in made)
        with observing(module):
            leaf = x.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(module(leaf).sum(), leaf)
            assert not gradient.is_inference()
        assert torch.is_inference_mode_enabled()
        assert (module.angle, module.mask, module.table["cos"]) == made  # by identity
    expected = module.angle * module.mask * module.table["cos"]
    torch.testing.assert_close(gradient, expected.clone().expand(2, 3))


def test_a_large_tensor_is_used_in_place_unless_it_is_an_inference_tensor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(observation, "LARGE", 16)
    module: Any = nn.Module()
    module.register_buffer("small", torch.zeros(4))
    module.register_buffer("bank", torch.zeros(5))
    module.memory = [torch.zeros(5)]
    with torch.inference_mode():
        module.register_buffer("frozen", torch.zeros(5))
    bank, memory, small, frozen = module.bank, module.memory, module.small, module.frozen
    with observing(module):
        assert module.bank is bank
        assert module.memory is not memory
        assert module.memory[0] is memory[0]
        assert module.small is not small
        assert module.frozen is not frozen
    assert module.frozen is frozen
    assert module.small is small


@ends
def test_gradients_accumulated_so_far_are_the_very_same(fails: bool) -> None:
    module: Any = Restless()
    module.conv.bias.requires_grad_(False)
    module(torch.rand(4, 2, 5, 5)).square().sum().backward()
    module.norm.bias.grad = None  # one that has none stays without
    before = {name: described(parameter.grad) for name, parameter in module.named_parameters()}
    flags = {name: parameter.requires_grad for name, parameter in module.named_parameters()}
    assert [value is not None for value in before.values()] == [True, False, True, False]
    with mishap(fails), observing(module):
        assert all(parameter.grad is None for parameter in module.parameters())
        for parameter in module.parameters():
            parameter.requires_grad_(not parameter.requires_grad)
        module.norm.bias.requires_grad_(True)
        module(torch.rand(4, 2, 5, 5)).square().sum().backward()
        if fails:
            raise KeyError
    after = {name: described(parameter.grad) for name, parameter in module.named_parameters()}
    assert after == before
    assert {name: one.requires_grad for name, one in module.named_parameters()} == flags


def test_parameters_are_not_copied() -> None:
    module: Any = nn.Linear(2, 2)
    module.tied = [module.weight]
    weight = module.weight
    with observing(module):
        assert module.weight is weight
        assert module.tied[0] is weight


def test_hooks_are_kept_and_fire() -> None:
    module = Restless()
    fired: list[str] = []
    module.register_forward_hook(lambda *_: fired.append("forward"))
    module.register_full_backward_hook(lambda *_: fired.append("backward"))
    module.conv.register_forward_pre_hook(lambda *_: fired.append("before"))
    before = state(module)
    look(module)
    assert fired == ["before", "forward", "backward"]
    assert state(module) == before


@ends
def test_nested_observations(fails: bool) -> None:
    module = Restless()
    draw()
    before, random_before = state(module), streams()
    with observing(module, seed=1):
        module(torch.rand(4, 2, 5, 5))
        inside, random_inside = state(module), streams()
        look(module, fails=fails)
        assert state(module) == inside
        assert streams() == random_inside
        assert torch.is_grad_enabled()
    assert state(module) == before
    assert streams() == random_before


@ends
@pytest.mark.parametrize("hide", [lambda one: [one], lambda one: {"a": (one,)}])
def test_a_module_hidden_from_its_parent_is_observed_too(hide: Any, fails: bool) -> None:
    teacher, module = Restless(), Restless()
    module.teacher = hide(teacher)
    assert len(list(module.modules())) == 3
    teacher(torch.rand(4, 2, 5, 5)).sum().backward()
    before = state(teacher), state(module)
    gradient = described(teacher.conv.weight.grad)
    with mishap(fails), observing(module):
        assert not teacher.norm.training
        teacher(module(torch.rand(4, 2, 7, 7))[:, :2]).sum().backward()
        if fails:
            raise KeyError
    assert (state(teacher), state(module)) == before
    assert described(teacher.conv.weight.grad) == gradient


@ends
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("traced", [False, True], ids=["scripted", "traced"])
def test_torchscript_in_a_model_is_observed_too(traced: bool, fails: bool) -> None:
    norm: Any = nn.Sequential(nn.BatchNorm2d(2))
    x = torch.rand(4, 2, 5, 5)
    norm = torch.jit.trace(norm, x) if traced else torch.jit.script(norm)  # type: ignore[no-untyped-call]
    module = nn.Sequential(norm, nn.Conv2d(2, 3, 3))
    before = {name: value.clone() for name, value in norm.named_buffers()}
    with mishap(fails), observing(module):
        assert not norm.training
        norm.training = True
        module(x)
        if fails:
            raise KeyError
    assert norm.training
    for name, value in norm.named_buffers():
        assert torch.equal(value, before[name]), name


class Rolling(nn.Module):
    """Writes to a memory by one tensor and reads it by others."""

    def __init__(self) -> None:
        super().__init__()
        whole = torch.arange(40.0, dtype=torch.float64)
        self.mem: Tensor
        self.register_buffer("mem", whole[3:27].view(4, 6))
        self.row = self.mem[1]
        self.views: list[Any] = [self.mem.mT[2:5], (self.mem.view(torch.int64)[2],)]
        self.apart = torch.arange(4.0)[1:3]  # of a storage that nobody shares

    def forward(self, x: Tensor) -> Tensor:
        self.row.add_(x.detach().sum(0))
        self.views[1][0].bitwise_and_(~1)
        self.apart.zero_()
        scores: Tensor = (x @ self.mem.mT) @ self.views[0].mT[:, :2]
        return scores


@pytest.mark.parametrize("inference", [False, True])
def test_views_of_one_storage_stay_views_of_one(inference: bool) -> None:
    with torch.inference_mode(inference):
        module: Any = Rolling()
        free = copy.deepcopy(module) if not inference else Rolling()
    x = torch.linspace(-1, 1, 12, dtype=torch.float64).view(2, 6)
    before = {"mem": module.mem.clone(), "apart": module.apart.clone()}
    held = module.mem, module.row, module.views, module.apart
    with observing(module):
        inside = [module(x), module(x)]
        assert module.mem.stride() == held[0].stride()
        assert module.row.untyped_storage().nbytes() <= 25 * 8, "what nobody reaches is copied"
    with torch.inference_mode(inference):
        outside = [free(x), free(x)]
    assert not torch.equal(*inside)
    for one, other in zip(inside, outside, strict=True):
        assert torch.equal(one, other)
    for name, value in before.items():
        assert torch.equal(getattr(module, name), value)
    now = module.mem, module.row, module.views, module.apart
    assert all(one is other for one, other in zip(now, held, strict=True))


def test_a_large_memory_and_its_views_are_used_in_place_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(observation, "LARGE", 100)
    module: Any = Rolling()
    mem, row, apart = module.mem, module.row, module.apart
    with observing(module):
        assert module.mem is mem
        assert module.row is row
        assert module.apart is not apart


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
def test_frozen_torchscript_has_no_mode_to_change() -> None:
    inner = nn.Sequential(nn.Linear(2, 2), nn.Tanh()).eval()
    frozen: Any = torch.jit.freeze(torch.jit.script(inner))
    assert not hasattr(frozen, "training"), "the test proves nothing"
    module: Any = nn.Sequential(nn.Linear(3, 2), frozen)
    with observing(module):
        assert not module.training
        module(torch.ones(1, 3)).sum().backward()
    assert module.training
    assert not hasattr(frozen, "training")


def test_sparse_buffers_are_no_obstacle() -> None:
    module = nn.Linear(2, 2)
    module.register_buffer("graph", torch.eye(2).to_sparse())
    with observing(module):
        assert module.graph is not None
    assert module.graph.is_sparse


def test_hooks_that_a_body_leaves_are_taken_off() -> None:
    module = nn.Sequential(nn.Linear(2, 2))
    own = module[0].register_forward_hook(lambda *_: None)
    with observing(module):
        module[0].register_forward_hook(lambda *_: None)
        module.register_full_backward_hook(lambda *_: None)
    assert len(module[0]._forward_hooks) == 1
    assert not module._backward_hooks
    own.remove()
    assert not module[0]._forward_hooks


@pytest.mark.parametrize("several", [False, True])
def test_tensors_whose_memory_was_given_back_are_left_alone(several: bool) -> None:
    """As FSDP leaves the views of a flat parameter between two passes."""
    flat = torch.arange(8.0)
    module: Any = nn.Identity()
    module.weight = flat[:4]
    if several:
        module.other = flat[4:]
    flat.untyped_storage().resize_(0)
    weight = module.weight
    with observing(module):
        assert module.weight is weight
    assert flat.untyped_storage().nbytes() == 0
