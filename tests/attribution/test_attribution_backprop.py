"""Guided backpropagation and DeconvNet: their rule by hand, at every way to write a ReLU."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from attribution_nets import F64, Deep, close, counting, hooks_on, images, resnet
from captum import attr
from test_attribution_models import Checkpointed, small_net
from torch import Tensor, nn

from lightning_saliency.attribution import Method, Saliency, explain
from lightning_saliency.attribution.backprop import DeconvNet, GuidedBackprop
from lightning_saliency.errors import ConfigurationError
from lightning_saliency.targets import Logit

Relu = Callable[[Tensor], Tensor]

RELUS: dict[str, Relu] = {
    "module": nn.ReLU(),
    "module in place": nn.ReLU(inplace=True),
    "F.relu": F.relu,
    "F.relu in place": lambda x: F.relu(x, inplace=True),
    "F.relu by name": lambda x: F.relu(input=x),
    "F.relu_": F.relu_,
    "torch.relu": torch.relu,
    "torch.relu by name": lambda x: torch.relu(input=x),
    "torch.relu_": torch.relu_,
    "Tensor.relu": lambda x: x.relu(),
    "Tensor.relu_": lambda x: x.relu_(),
    "its input is dropped": lambda x: (x.relu_(), x)[1],
    "its input is dropped, by argument": lambda x: (F.relu(x, inplace=True), x)[1],
    "clamp(min=0)": lambda x: x.clamp(min=0),
    "clamp(0)": lambda x: x.clamp(0.0),
    "clamp_(min=0)": lambda x: x.clamp_(min=0),
    "torch.clamp": lambda x: torch.clamp(x, min=0, max=None),
    "clamp_min": lambda x: x.clamp_min(0),
    "clamp_min_": lambda x: x.clamp_min_(0),
    "torch.clamp_min": lambda x: torch.clamp_min(x, 0),
    "clip": lambda x: x.clip(min=0),
    "clip_": lambda x: torch.clip_(x, 0),
}
METHODS: dict[str, Method] = {"guided": GuidedBackprop(), "deconv": DeconvNet()}


class Perceptron(nn.Module):
    """Three linear layers, with the same ReLU after the first and the second."""

    def __init__(self, relu: Relu) -> None:
        super().__init__()
        self.relu = relu
        with torch.random.fork_rng([]):
            torch.manual_seed(5)
            self.first, self.second, self.last = nn.Linear(12, 9), nn.Linear(9, 8), nn.Linear(8, 3)
        self.to(F64)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.relu(self.first(inputs.flatten(1)))
        scores: Tensor = self.last(self.relu(self.second(hidden)))
        return scores


def by_hand(name: str, net: Perceptron, inputs: Tensor, targets: Tensor) -> Tensor:
    """The rule of each paper, number by number."""
    layers = (net.first, net.second, net.last)
    weights = [layer.weight.tolist() for layer in layers]
    biases = [layer.bias.tolist() for layer in layers]
    found = torch.zeros_like(inputs).flatten(1)
    for n, probe in enumerate(inputs.flatten(1).tolist()):
        before: list[list[float]] = []
        signal = probe
        for weight, bias in zip(weights[:2], biases[:2], strict=True):
            rows = zip(weight, bias, strict=True)
            before.append([math.fsum(map(lambda w, x: w * x, row, signal)) + b for row, b in rows])
            signal = [max(value, 0.0) for value in before[-1]]
        back = weights[2][int(targets[n])]
        for weight, values in zip(weights[1::-1], before[::-1], strict=True):
            passed = [
                max(grad, 0.0) * (1.0 if value > 0 or name == "deconv" else 0.0)
                for grad, value in zip(back, values, strict=True)
            ]
            columns = zip(*weight, strict=True)
            back = [math.fsum(map(lambda w, r: w * r, column, passed)) for column in columns]
        found[n] = torch.tensor(back, dtype=F64)
    return found.view_as(inputs)


def signed(method: Method, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    return explain(model, inputs, targets, {"m": method}, target=Logit()).maps["m"].signed


X = images(4, 3, 2, 2)
Y = torch.tensor([0, 2, 1, 1])


@pytest.mark.parametrize("relu", RELUS)
@pytest.mark.parametrize("name", METHODS)
def test_the_rule_is_that_of_the_paper_however_the_relu_is_written(name: str, relu: str) -> None:
    net = Perceptron(RELUS[relu])
    wanted = by_hand(name, net, X, Y)
    gradient = signed(Saliency(), net, X, Y)
    assert ((wanted - gradient).abs().amax((1, 2, 3)) > 0.01).all(), "the gradient proves nothing"
    close(signed(METHODS[name], net, X, Y), wanted, relative=1e-13)


@pytest.mark.parametrize(
    "other",
    [
        lambda x: x.clamp(min=0.1),
        lambda x: x.clamp(min=0, max=1),
        lambda x: x.clamp(max=0),
        lambda x: x.clamp(x.new_zeros(())),
        lambda x: F.leaky_relu(x, 0.2),
        F.relu6,
        F.gelu,
    ],
)
@pytest.mark.parametrize("name", METHODS)
def test_a_net_without_relu_is_told(name: str, other: Relu) -> None:
    net = Perceptron(other)
    words = (
        r"No ReLU takes part in the forward pass of Perceptron, so (guided|DeconvNet).*'saliency'"
    )
    with pytest.raises(ConfigurationError, match=words):
        signed(METHODS[name], net, X, Y)
    leaf = X.clone().requires_grad_()
    (slope,) = torch.autograd.grad(-leaf.relu().sum(), leaf)
    assert torch.equal(slope, -(X > 0).to(F64)), "the rule is still there"


def test_a_relu_that_no_gradient_goes_through_is_no_relu() -> None:
    class Scaled(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            scale = F.relu(inputs.detach()).sum()
            return scale * inputs.flatten(1)

    with pytest.raises(ConfigurationError, match="No ReLU takes part"):
        signed(GuidedBackprop(), Scaled(), X, Y)


def test_other_activations_keep_their_derivative() -> None:
    class Mixed(Perceptron):
        def forward(self, inputs: Tensor) -> Tensor:
            hidden = self.relu(self.first(inputs.flatten(1)))
            scores: Tensor = self.last(F.gelu(self.second(hidden)))
            return scores

    net = Mixed(F.relu)
    before = net.first(X.flatten(1)).detach()
    hidden = before.relu().requires_grad_()
    score = net.last(F.gelu(net.second(hidden))).gather(1, Y[:, None]).sum()
    back = torch.autograd.grad(score, hidden)[0].clamp(min=0) * (before > 0)
    close(signed(GuidedBackprop(), net, X, Y), (back @ net.first.weight).view_as(X), relative=1e-13)


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_a_part_that_is_rectified_in_place_is_rectified_alone(method: Method) -> None:
    def in_place(x: Tensor) -> Tensor:
        x = x * 1
        x[:, 2:5].relu_()
        return x

    def aside(x: Tensor) -> Tensor:
        return torch.cat([x[:, :2], x[:, 2:5].relu(), x[:, 5:]], 1)

    found, wanted = (signed(method, Perceptron(relu), X, Y) for relu in (in_place, aside))
    close(found, wanted, relative=1e-13)


def captums(name: str, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    peer = {"guided": attr.GuidedBackprop, "deconv": attr.Deconvolution}[name](model)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Setting backward hooks on ReLU")
        found: Tensor = peer.attribute(inputs.clone().requires_grad_(), targets)
    return found


NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "perceptron": (lambda: Perceptron(nn.ReLU()), (3, 2, 2)),
    "in place": (lambda: Perceptron(nn.ReLU(inplace=True)), (3, 2, 2)),
    "deep": (Deep, (3, 11, 13)),
    "signal": (lambda: small_net(1), (2, 8)),
    "resnet18": (resnet, (3, 64, 64)),
}


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("name", METHODS)
def test_nets_of_relu_modules_are_captums(name: str, net: str) -> None:
    make, shape = NETS[net]
    inputs, targets = images(2, *shape), torch.tensor([0, 2])
    found = signed(METHODS[name], make(), inputs, targets)
    close(found, captums(name, make(), inputs, targets), relative=1e-12)


@pytest.mark.parametrize("name", METHODS)
def test_captum_takes_the_plain_gradient_where_the_relu_is_a_function(name: str) -> None:
    """Why we differ there: without a word, its map is another method's."""
    net = Perceptron(F.relu)
    close(captums(name, net, X, Y), signed(Saliency(), net, X, Y), relative=1e-13)


def test_captum_mixes_up_the_calls_of_one_module_on_two_branches() -> None:
    """Why we differ there: it keeps one gradient per module, so one branch gets the other's."""

    class Branches(Perceptron):
        def forward(self, inputs: Tensor) -> Tensor:
            hidden = self.first(inputs.flatten(1))
            left, right = hidden[:, :8], self.second(hidden)
            left, right = self.relu(left), self.relu(right)
            scores: Tensor = self.last(left + 2 * right)
            return scores

    module, function = Branches(nn.ReLU()), Branches(F.relu)
    ours = signed(DeconvNet(), module, X, Y)
    close(ours, signed(DeconvNet(), function, X, Y), relative=1e-13)
    first, second = module.first.weight, module.second.weight
    back = module.last.weight[Y]
    left, right = back.clamp(min=0), (2 * back).clamp(min=0)
    wanted = F.pad(left, (0, 1)) @ first + right @ second @ first
    close(ours, wanted.detach().view_as(X), relative=1e-13)
    theirs = captums("deconv", module, X, Y)
    assert (theirs - ours).abs().max() > 0.1 * ours.abs().max()


def test_a_unit_that_was_off_passes_in_deconvnet_alone() -> None:
    net = Perceptron(nn.ReLU())
    with torch.no_grad():
        net.second.bias.fill_(-1e3)
    assert not signed(GuidedBackprop(), net, X, Y).any()
    assert signed(DeconvNet(), net, X, Y).flatten(1).any(1).all()


def test_deconvnet_without_pooling_does_not_look_at_the_input() -> None:
    """Nie et al. 2018: the reason of the warning."""
    net, target = Perceptron(nn.ReLU()), torch.zeros(4, dtype=torch.long)
    maps = signed(DeconvNet(), net, X, target)
    assert torch.equal(maps, maps[:1].expand_as(maps))
    assert (signed(Saliency(), net, X, target).std(0) > 0).any()


@pytest.mark.parametrize("dimensions", [1, 2, 3])
@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_signals_images_and_volumes_in_chunks_of_any_size(method: Method, dimensions: int) -> None:
    spatial = (8, 7, 6)[:dimensions]
    model, inputs, targets = small_net(dimensions), images(3, 2, *spatial), torch.tensor([0, 1, 2])
    whole, again, parts = (
        explain(model, inputs, targets, {"m": method}, chunk=chunk).maps["m"]
        for chunk in (32, 32, 2)
    )
    assert whole.map.shape == (3, *spatial)
    assert torch.equal(whole.map, again.map)
    close(parts.signed, whole.signed, relative=1e-12)


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_gradient_checkpointing_changes_nothing(method: Method) -> None:
    inputs, targets = images(3, 3, 11, 13), torch.tensor([0, 1, 2])
    plain, saved = (signed(method, net, inputs, targets) for net in (Deep(), Checkpointed()))
    close(saved, plain, relative=1e-13)


def test_passes_are_shared_by_methods_of_one_rule_alone() -> None:
    net = Perceptron(nn.ReLU())
    methods: dict[str, Any] = {
        "a": GuidedBackprop(),
        "b": GuidedBackprop(channels="signed"),
        "c": DeconvNet(),
        "d": Saliency(),
    }
    with counting(net) as count:
        maps = explain(net, X, Y, methods, target=Logit()).maps
    assert count.calls == 3
    close(maps["a"].signed, by_hand("guided", net, X, Y), relative=1e-13)
    assert torch.equal(maps["b"].map, maps["a"].signed.sum(1))
    close(maps["c"].signed, by_hand("deconv", net, X, Y), relative=1e-13)


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_nothing_is_left_behind(method: Method) -> None:
    net = Perceptron(nn.ReLU())
    before = signed(Saliency(), net, X, Y)
    signed(method, net, X, Y)
    assert hooks_on(net) == 0
    assert all(parameter.grad is None for parameter in net.parameters())
    assert torch.equal(signed(Saliency(), net, X, Y), before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_model_in_half_precision_is_explained(dtype: torch.dtype) -> None:
    for name, method in METHODS.items():
        net = Perceptron(nn.ReLU())
        wanted = by_hand(name, net, X, Y)
        found = signed(method, net.to(dtype), X.to(dtype), Y)
        assert found.dtype == torch.float32
        close(found.double(), wanted, relative=0.05)


def test_a_gradient_that_is_not_a_number_is_not_hidden() -> None:
    net = Perceptron(nn.ReLU())
    with torch.no_grad():
        net.last.weight[0] = torch.nan
    for method in METHODS.values():
        assert signed(method, net, X[:1], Y[:1]).isnan().any()


def test_the_pictures_are_marked() -> None:
    assert GuidedBackprop.caution == DeconvNet.caution == "nearly blind to the weights"
