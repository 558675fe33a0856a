"""Other weights for a while: random ones as fresh as new, or given ones; the own stay untouched."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import torch
from restless import Restless, state
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from lightning_saliency.errors import ConfigurationError
from lightning_saliency.redrawn import lent, reason_to_keep, redrawn


class Odd(nn.Module):
    """Weights of many kinds: drawn by nobody, tied, frozen, of whole numbers, in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.second = nn.Linear(6, 6)
        self.second.weight = self.first.weight
        self.own = nn.Parameter(3 + 0.5 * torch.randn(50, 100))
        self.scalar = nn.Parameter(torch.tensor(0.7), requires_grad=False)
        self.turns = nn.Parameter(torch.arange(4), requires_grad=False)
        self.listed = [self.own]
        self.norm = nn.BatchNorm1d(6)
        self.norm(torch.randn(30, 6) + 5)

    def reset_parameters(self) -> None:
        with torch.no_grad():
            self.turns.zero_()

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.norm(self.second(self.first(x))) + self.own.mean()
        return found


class Wanting(nn.Linear):
    """Can't be drawn again without a word."""

    def reset_parameters(self, how: str = "") -> None:
        if hasattr(self, "made"):
            raise TypeError("how?")
        super().reset_parameters()
        self.made = True


class Renewing(nn.Linear):
    """Makes new parameters where it draws them, and notes that it did, each time elsewhere."""

    def reset_parameters(self) -> None:
        self.weight = nn.Parameter(torch.randn(self.out_features, self.in_features))
        self.bias = nn.Parameter(torch.zeros(self.out_features))
        self.register_buffer(f"seen{len(self._buffers)}", torch.zeros(1))
        setattr(self, f"note{len(vars(self))}", 1)


NETS: dict[str, Callable[[], nn.Module]] = {
    "odd": Odd,
    "convolutions": lambda: nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1)
    ),
    "recurrent": lambda: nn.LSTM(3, 4, 2, bidirectional=True),
    "attention": lambda: nn.TransformerEncoderLayer(8, 2, 16),
    "embedding": lambda: nn.Embedding(5, 6, padding_idx=2),
    "weight norm": lambda: parametrizations.weight_norm(nn.Linear(4, 3)),
    "wanting": lambda: Wanting(4, 3),
    "renewing": lambda: Renewing(4, 3),
    "restless": Restless,
}


@pytest.mark.parametrize("fails", [False, True], ids=["returns", "raises"])
@pytest.mark.parametrize("name", NETS)
def test_inside_all_weights_are_others_and_afterwards_nothing_is(name: str, fails: bool) -> None:
    torch.manual_seed(0)
    net = NETS[name]()
    before, stream = state(net), torch.get_rng_state()
    own = {key: one.detach().clone() for key, one in net.named_parameters()}
    with suppress(KeyError), redrawn(net, seed=3):
        inside = dict(net.named_parameters())
        assert inside.keys() == own.keys()
        for key, one in inside.items():
            assert one.flatten()[0].eq(one).all() or not torch.equal(one, own[key]), key
            assert one.isfinite().all()
        assert torch.equal(torch.get_rng_state(), stream)
        if fails:
            raise KeyError("in the middle")
    assert state(net) == before
    assert torch.equal(torch.get_rng_state(), stream)


def test_parts_draw_as_when_they_were_made() -> None:
    torch.manual_seed(0)
    net: Any = nn.Sequential(nn.Linear(400, 300), nn.BatchNorm1d(300), Odd())
    with torch.no_grad():
        net[0].weight.mul_(50).add_(3)
        net[1].weight.fill_(7)
        net[1](torch.randn(20, 300) + 4)
    norm: Any = net[1]
    with redrawn(net):
        weight: Any = net[0].weight
        assert weight.abs().max().item() == pytest.approx(1 / math.sqrt(400), rel=1e-3)
        assert weight.std().item() == pytest.approx(1 / math.sqrt(1200), rel=0.05)
        assert norm.weight.eq(1).all()
        assert norm.running_mean.eq(0).all()
        assert norm.running_var.eq(1).all()
        assert norm.num_batches_tracked == 0
        odd: Any = net[2]
        # What nobody draws is as it was, in the mean and the spread.
        assert odd.own.mean().item() == pytest.approx(3, abs=0.05)
        assert odd.own.std().item() == pytest.approx(0.5, abs=0.03)
        assert odd.scalar.item() == pytest.approx(0.7)
        assert odd.turns.eq(0).all()
        assert odd.listed[0] is odd.own
        assert odd.second.weight is odd.first.weight
    assert norm.running_mean.mean() > 0.3
    assert net[2].turns.tolist() == [0, 1, 2, 3]


def test_a_part_that_draws_a_share_of_its_weights_draws_that() -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(2000))

        def reset_parameters(self) -> None:
            with torch.no_grad():
                self.weight[:1000] = 9

    net = Half()
    with redrawn(net):
        assert net.weight[:1000].eq(9).all()
        assert net.weight[1000:].std().item() == pytest.approx(1, abs=0.1)


def test_parents_draw_after_their_children() -> None:
    class Parent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.child = nn.Sequential(nn.Linear(3, 3))

        def reset_parameters(self) -> None:
            nn.init.ones_(self.child[0].weight)  # type: ignore[arg-type]

    net: Any = Parent()
    with redrawn(net):
        assert net.child[0].weight.eq(1).all()
        assert net.child[0].bias.abs().amax() > 0


def test_the_same_seed_draws_the_same_weights() -> None:
    net, drawn = Odd(), []
    for seed in (1, 1, 2):
        with redrawn(net, seed=seed):
            drawn.append([one.detach().clone() for one in (net.first.weight, net.own)])
    assert all(torch.equal(*pair) for pair in zip(drawn[0], drawn[1], strict=True))
    assert not any(torch.equal(*pair) for pair in zip(drawn[0], drawn[2], strict=True))


def test_weights_stay_of_their_kind() -> None:
    net: Any = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(4, 2, dtype=torch.float64))
    net[0].weight.data = net[0].weight.data.contiguous(memory_format=torch.channels_last)
    net[0].bias.requires_grad_(False)
    net.append(nn.Linear(4, 2).bfloat16())
    with redrawn(net):
        assert net[0].weight.is_contiguous(memory_format=torch.channels_last)
        assert not net[0].bias.requires_grad
        assert [one.weight.dtype for one in net] == [torch.float32, torch.float64, torch.bfloat16]
        assert net[0].weight.requires_grad
        assert all(type(one) is nn.Parameter for one in net.parameters())
        assert net[2].weight.float().abs().max() <= 0.5


def test_a_recurrent_net_sees_with_the_other_weights() -> None:
    net, x = nn.LSTM(3, 4, 2), torch.randn(5, 2, 3)
    before = net(x)[0]
    with redrawn(net):
        inside = net(x)[0]
        plain = nn.LSTM(3, 4, 2)
        plain.load_state_dict(net.state_dict())
        assert torch.equal(inside, plain(x)[0])
    assert not torch.allclose(inside, before)
    assert torch.equal(net(x)[0], before)


# Given weights


def test_given_weights_take_the_places_of_all_that_share_them() -> None:
    net = Odd()
    before, weight, mean = state(net), torch.ones(6, 6), torch.full((6,), 5.0)
    with lent(net, {"second.weight": weight, "norm.running_mean": mean}):
        assert net.first.weight is weight
        assert net.second.weight is weight
        assert net.norm.running_mean is mean
        assert net.first.bias is dict(net.named_parameters())["first.bias"]
    assert state(net) == before


def test_of_given_weights_gradients_are_theirs() -> None:
    net = nn.Linear(3, 2)
    later = net.weight.detach().clone().requires_grad_()
    with lent(net, {"weight": later}):
        net(torch.ones(1, 3)).sum().backward()
    assert later.grad is not None
    assert net.weight.grad is None


def test_names_and_shapes_that_do_not_fit_are_told() -> None:
    net = Odd()
    with pytest.raises(
        ConfigurationError, match=r"no 'frist\.weight'. Did you mean 'first\.weight"
    ):
        lent(net, {"frist.weight": torch.ones(6, 6)}).__enter__()
    with pytest.raises(ConfigurationError, match=r"'own' is \(3,\), the model's own \(50, 100\)"):
        lent(net, {"own": torch.ones(3)}).__enter__()


# Weights that must stay


class FSDPModule(nn.Linear):
    """By its name."""


class Local(nn.Parameter):
    def to_local(self) -> Tensor:
        return self


def quantised() -> nn.Module:
    net = nn.Linear(2, 2)
    net.weight = type("Packed", (nn.Parameter,), {})(torch.ones(2, 2))
    return net


def distributed() -> nn.Module:
    net = nn.Linear(2, 2)
    net.weight = Local(torch.ones(2, 2))
    return net


def flattened() -> nn.Module:
    net: Any = nn.Linear(2, 2)
    net.weight._fsdp_flattened = True
    return nn.Sequential(net)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: nn.Sequential(FSDPModule(2, 2)), "its weights are sharded over ranks"),
        (distributed, "its weights are sharded over ranks"),
        (flattened, "its weights are sharded over ranks"),
        (nn.ReLU, "it has no weights of its own"),
        (quantised, "some of its weights are of the type Packed"),
        (lambda: nn.LazyLinear(2), "some of its weights are of the type UninitializedParameter"),
    ],
)
def test_weights_that_must_stay_are_told(make: Callable[[], nn.Module], reason: str) -> None:
    net = make()
    assert reason_to_keep(net) == reason
    for scope in (redrawn(net), lent(net, {})):
        with pytest.raises(ConfigurationError, match=f"for a while: {reason}"):
            scope.__enter__()
    assert reason_to_keep(nn.Sequential(nn.Linear(2, 2), Odd())) is None


def test_torchscript_keeps_its_weights() -> None:
    script: Any = torch.jit.ScriptModule.__new__(torch.jit.ScriptModule)
    assert "TorchScript" in str(reason_to_keep(script))
