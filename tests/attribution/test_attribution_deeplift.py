"""DeepLIFT: its multipliers by hand, completeness, captum where captum is complete."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from attribution_nets import F64, Closed, Deep, close, counting, hooks_on, images, resnet
from captum import attr
from test_attribution_models import Checkpointed, small_net
from torch import Tensor, nn

from lightning_saliency.attribution import (
    GuidedBackprop,
    IntegratedGradients,
    Maps,
    Saliency,
    Subject,
    bind,
    explain,
)
from lightning_saliency.attribution.deeplift import DeepLIFT
from lightning_saliency.errors import ConfigurationError
from lightning_saliency.targets import Logit, LogProb, Margin, Prob, Target

Function = Callable[[Tensor], Tensor]

SLOPES = nn.PReLU(4, 0.3, dtype=F64)

FUNCTIONS: dict[str, tuple[Function, Callable[[float], float]]] = {
    "nn.ReLU": (nn.ReLU(), lambda x: max(x, 0)),
    "nn.ReLU in place": (nn.ReLU(inplace=True), lambda x: max(x, 0)),
    "F.relu": (F.relu, lambda x: max(x, 0)),
    "torch.relu_": (torch.relu_, lambda x: max(x, 0)),
    "Tensor.relu": (lambda x: x.relu(), lambda x: max(x, 0)),
    "its input is dropped": (lambda x: (x.relu_(), x)[1], lambda x: max(x, 0)),
    "its input is dropped, by argument": (
        lambda x: (F.relu(x, inplace=True), x)[1],
        lambda x: max(x, 0),
    ),
    "clamp": (lambda x: x.clamp(min=0), lambda x: max(x, 0)),
    "clamp_": (lambda x: x.clamp_(-0.2, 0.5), lambda x: min(max(x, -0.2), 0.5)),
    "nn.Threshold": (nn.Threshold(0.1, -1), lambda x: x if x > 0.1 else -1),
    "nn.ReLU6": (nn.ReLU6(), lambda x: min(max(x, 0), 6)),
    "nn.Hardtanh": (nn.Hardtanh(-0.3, 0.4, inplace=True), lambda x: min(max(x, -0.3), 0.4)),
    "F.hardtanh_": (lambda x: F.hardtanh_(x, -0.3, 0.4), lambda x: min(max(x, -0.3), 0.4)),
    "nn.LeakyReLU": (nn.LeakyReLU(0.2), lambda x: x if x > 0 else 0.2 * x),
    "nn.LeakyReLU in place": (nn.LeakyReLU(0.2, True), lambda x: x if x > 0 else 0.2 * x),
    "F.leaky_relu_": (lambda x: F.leaky_relu_(x, 0.2), lambda x: x if x > 0 else 0.2 * x),
    "nn.PReLU": (SLOPES, lambda x: x if x > 0 else 0.3 * x),
    "nn.ELU": (nn.ELU(0.7), lambda x: x if x > 0 else 0.7 * math.expm1(x)),
    "F.elu_": (lambda x: F.elu_(x, 0.7), lambda x: x if x > 0 else 0.7 * math.expm1(x)),
    "nn.CELU": (nn.CELU(0.7, True), lambda x: x if x > 0 else 0.7 * math.expm1(x / 0.7)),
    "nn.SELU": (
        nn.SELU(),
        lambda x: 1.0507009873554805 * (x if x > 0 else 1.6732632423543772 * math.expm1(x)),
    ),
    "nn.GELU": (nn.GELU(), lambda x: x * (1 + math.erf(x / 2**0.5)) / 2),
    "nn.SiLU": (nn.SiLU(), lambda x: x / (1 + math.exp(-x))),
    "nn.SiLU in place": (nn.SiLU(inplace=True), lambda x: x / (1 + math.exp(-x))),
    "nn.Mish": (nn.Mish(), lambda x: x * math.tanh(math.log1p(math.exp(x)))),
    "nn.Sigmoid": (nn.Sigmoid(), lambda x: 1 / (1 + math.exp(-x))),
    "F.sigmoid": (F.sigmoid, lambda x: 1 / (1 + math.exp(-x))),
    "Tensor.sigmoid_": (lambda x: x.sigmoid_(), lambda x: 1 / (1 + math.exp(-x))),
    "nn.LogSigmoid": (nn.LogSigmoid(), lambda x: -math.log1p(math.exp(-x))),
    "nn.Tanh": (nn.Tanh(), math.tanh),
    "torch.tanh": (torch.tanh, math.tanh),
    "Tensor.tanh_": (lambda x: x.tanh_(), math.tanh),
    "nn.Softplus": (nn.Softplus(2.0), lambda x: math.log1p(math.exp(2 * x)) / 2),
    "nn.Softsign": (nn.Softsign(), lambda x: x / (1 + abs(x))),
    "nn.Tanhshrink": (nn.Tanhshrink(), lambda x: x - math.tanh(x)),
    "nn.Hardswish": (nn.Hardswish(), lambda x: x * min(max(x + 3, 0), 6) / 6),
    "nn.Hardsigmoid": (nn.Hardsigmoid(True), lambda x: min(max(x + 3, 0), 6) / 6),
    "nn.Softshrink": (nn.Softshrink(0.2), lambda x: math.copysign(max(abs(x) - 0.2, 0), x)),
    "nn.Hardshrink": (nn.Hardshrink(0.2), lambda x: x if abs(x) > 0.2 else 0),
    "nn.RReLU": (nn.RReLU(0.2, 0.4).eval(), lambda x: x if x > 0 else 0.3 * x),
    "exp": (torch.exp, math.exp),
    "abs": (lambda x: x.abs(), abs),
    "square": (lambda x: x.square(), lambda x: x * x),
    "pow": (lambda x: x.pow(3), lambda x: x**3),
    "**": (lambda x: x**2, lambda x: x**2),
    "erf": (torch.erf, math.erf),
    "sin": (lambda x: x.sin(), math.sin),
    "by name": (lambda x: torch.tanh(input=x), math.tanh),
}


def explained(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    baseline: float | tuple[float, ...] = 0.0,
    target: Target = Logit(),  # noqa: B008 (a frozen value)
    chunk: int = 32,
) -> Maps:
    methods: dict[str, Any] = {"m": DeepLIFT(baseline=baseline)}
    return explain(model, inputs, targets, methods, target=target, chunk=chunk).maps["m"]


def complete(maps: Maps) -> bool:
    return bool(maps.numbers["completeness_gap"].max() < 1e-11)


class Units(nn.Module):
    """Four units between two linear layers, each on two thirds of the input."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function
        mix = torch.arange(24.0, dtype=F64).mul(1.3).sin().view(4, 6)
        self.register_buffer("mix", mix)
        self.register_buffer("bias", torch.tensor([0.3, -0.2, 0.1, -0.6], dtype=F64))
        self.register_buffer("head", torch.arange(8.0, dtype=F64).mul(0.9).cos().view(2, 4))

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = F.linear(inputs.flatten(1), self.mix, self.bias)  # type: ignore[arg-type]
        return F.linear(self.function(hidden), self.head)  # type: ignore[arg-type]


X = images(5, 3, 2)
Y = torch.tensor([0, 1, 1, 0, 1])


@pytest.mark.parametrize("name", FUNCTIONS)
def test_multipliers_are_quotients_of_differences(name: str) -> None:
    function, scalar = FUNCTIONS[name]
    net = Units(function)
    maps = explained(net, X, Y, baseline=(0.2, -0.1, 0.4))
    mix, bias, head = (getattr(net, part).tolist() for part in ("mix", "bias", "head"))
    start = [0.2, 0.2, -0.1, -0.1, 0.4, 0.4]
    for n, probe in enumerate(X.flatten(1).tolist()):
        found = [0.0] * 6
        for row, shift, weight in zip(mix, bias, head[int(Y[n])], strict=True):
            ends = [
                sum(w * x for w, x in zip(row, end, strict=True)) + shift for end in (probe, start)
            ]
            quotient = (scalar(ends[0]) - scalar(ends[1])) / (ends[0] - ends[1])
            for place in range(6):
                found[place] += weight * quotient * row[place] * (probe[place] - start[place])
        close(maps.signed[n : n + 1].flatten(1), torch.tensor([found], dtype=F64), relative=1e-11)
    assert complete(maps)
    gradient = explain(net, X, Y, {"m": Saliency()}, target=Logit()).maps["m"].signed
    differentiated = gradient * (X - torch.tensor(start, dtype=F64).view(1, 3, 2))
    assert (differentiated - maps.signed).abs().max() > 1e-3, "the gradient proves nothing"


def test_a_linear_net_has_the_gradient_times_the_way() -> None:
    net = Units(lambda x: 2 * x)
    gradient = explain(net, X, Y, {"m": Saliency()}, target=Logit()).maps["m"].signed
    close(explained(net, X, Y, 0.7).signed, gradient * (X - 0.7), relative=1e-13)


def captums(
    model: nn.Module, inputs: Tensor, targets: Tensor, baseline: float
) -> tuple[Tensor, Tensor]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Setting forward, backward hooks")
        found, gap = attr.DeepLift(model).attribute(
            inputs.clone().requires_grad_(),
            torch.full_like(inputs, baseline),
            target=targets,
            return_convergence_delta=True,
        )
    return found.detach(), gap.detach()


def convolutional(activation: Callable[[], nn.Module], *pool: nn.Module) -> nn.Module:
    with torch.random.fork_rng([]):
        torch.manual_seed(2)
        first, second = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 5, 3)
        body = [first, *pool, nn.BatchNorm2d(6), activation(), second, activation()]
        net = nn.Sequential(*body, nn.Flatten(), nn.LazyLinear(4)).eval()
        net(torch.zeros(1, 3, 9, 8))
    return net.to(F64)


IMAGES, CLASSES = images(3, 3, 9, 8), torch.tensor([1, 3, 0])
ACTIVATIONS: list[Callable[[], nn.Module]] = [
    nn.ReLU,
    lambda: nn.ReLU(inplace=True),
    nn.ELU,
    nn.LeakyReLU,
    nn.Sigmoid,
    nn.Tanh,
    nn.Softplus,
]


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda make: str(make()))
@pytest.mark.parametrize("baseline", [0.0, -0.6])
def test_nets_of_modules_are_captums(activation: Callable[[], nn.Module], baseline: float) -> None:
    net = convolutional(activation, nn.MaxPool2d(2))
    ours = explained(net, IMAGES, CLASSES, baseline)
    theirs, _ = captums(net, IMAGES, CLASSES, baseline)
    close(ours.signed, theirs, relative=1e-9)
    assert complete(ours)


def test_captum_loses_what_overlapping_windows_share() -> None:
    """Why we differ there: it unpools, so of windows with one maximum only one counts."""
    net = convolutional(nn.ReLU, nn.MaxPool2d(3, 1))
    ours = explained(net, IMAGES, CLASSES)
    theirs, missing = captums(net, IMAGES, CLASSES, 0.0)
    assert (missing.abs() / theirs.abs().sum((1, 2, 3))).min() > 1e-3
    assert complete(ours)


def test_captum_passes_over_max_pooling_right_after_an_activation() -> None:
    """Why we differ there: the activation's hook takes the gradient before the pooling's is set."""
    with torch.random.fork_rng([]):
        torch.manual_seed(3)
        body = [nn.Conv2d(3, 4, 3, padding=2), nn.Softplus(), nn.MaxPool2d(2)]
        net = nn.Sequential(*body, nn.Flatten(), nn.Linear(100, 4)).to(F64)
    ours = explained(net, IMAGES, CLASSES, -0.6)
    theirs, missing = captums(net, IMAGES, CLASSES, -0.6)
    assert (missing.abs() / theirs.abs().sum((1, 2, 3))).min() > 1e-3
    assert complete(ours)


def test_captum_differentiates_functions() -> None:
    """Why we differ there: without a word, a functional ReLU is followed by its derivative."""
    _, missing = captums(Units(F.relu), X, Y, 0.3)
    assert missing.abs().max() > 1e-2
    assert complete(explained(Units(F.relu), X, Y, 0.3))


def test_captum_refuses_a_module_that_runs_twice() -> None:
    net = Twice()
    with pytest.raises(RuntimeError, match="being used more than once"):
        captums(net, X, Y, 0.3)
    assert complete(explained(net, X, Y, 0.3))


class Twice(Units):
    def __init__(self) -> None:
        super().__init__(nn.ReLU())

    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(self.function(inputs - 0.1))


POOLS: dict[str, tuple[int, Function]] = {
    "nn.MaxPool1d": (1, nn.MaxPool1d(3, 2, 1)),
    "nn.MaxPool2d": (2, nn.MaxPool2d((3, 2), 1, (1, 0), ceil_mode=True)),
    "nn.MaxPool3d": (3, nn.MaxPool3d(2, 1)),
    "dilated": (2, lambda x: F.max_pool2d(x, 2, 1, dilation=2)),
    "F.max_pool1d": (1, lambda x: F.max_pool1d(x, 3)),
    "F.max_pool2d": (2, lambda x: F.max_pool2d(x, 3)),
    "F.max_pool2d by name": (2, lambda x: F.max_pool2d(input=x, kernel_size=3, stride=1)),
    "F.max_pool3d": (3, lambda x: F.max_pool3d(x, 3, 1)),
    "with indices": (2, lambda x: F.max_pool2d(x, 3, return_indices=True)[0]),
    "its own name with indices": (2, lambda x: F.max_pool2d_with_indices(x, (3, 3))[0]),
    "torch.max_pool1d": (1, lambda x: torch.max_pool1d(x, 3)),
    "torch.max_pool2d": (2, lambda x: torch.max_pool2d(x, 3)),
    "torch.max_pool3d": (3, lambda x: torch.max_pool3d(x, 2)),
    "adaptive 1": (1, nn.AdaptiveMaxPool1d(3)),
    "adaptive 2": (2, nn.AdaptiveMaxPool2d((4, 3))),
    "adaptive 3": (3, nn.AdaptiveMaxPool3d(1)),
    "torch.adaptive_max_pool1d": (1, lambda x: torch.adaptive_max_pool1d(x, 2)[0]),
    "channels last": (2, lambda x: F.max_pool2d(x.to(memory_format=torch.channels_last), 3, 1)),
}


class Pooled(nn.Module):
    def __init__(self, pool: Function) -> None:
        super().__init__()
        self.pool = pool

    def forward(self, inputs: Tensor) -> Tensor:
        pooled = self.pool(inputs).flatten(1)
        rows = torch.arange(2 * pooled.shape[1], dtype=F64).mul(0.7).sin()
        return pooled @ rows.to(pooled.dtype).view(-1, 2)


def pooled_by_hand(net: Pooled, inputs: Tensor, classes: Tensor, start: Tensor) -> Tensor:
    """Each output's Δ goes to the input where the larger of its two maxima lies."""
    found = torch.zeros_like(inputs)
    for n in range(len(inputs)):
        ends = [end.clone().requires_grad_() for end in (inputs[n : n + 1], start[n : n + 1])]
        outputs = [net.pool(end).flatten() for end in ends]
        rows = torch.arange(2 * len(outputs[0]), dtype=F64).mul(0.7).sin().view(-1, 2)
        for place in range(len(outputs[0])):
            larger = 0 if outputs[0][place] > outputs[1][place] else 1
            (where,) = torch.autograd.grad(outputs[larger][place], ends[larger], retain_graph=True)
            rise = outputs[0][place] - outputs[1][place]
            found[n] += (rows[place, classes[n]] * rise * where[0]).detach()
    return found


@pytest.mark.parametrize("name", POOLS)
def test_max_pooling_gives_to_the_larger_maximum(name: str) -> None:
    dimensions, pool = POOLS[name]
    inputs, classes = images(3, 2, *(7, 6, 5)[:dimensions]), torch.tensor([0, 1, 1])

    class Shifted(Pooled):  # a reference that is not the same everywhere
        def forward(self, inputs: Tensor) -> Tensor:
            return super().forward(inputs + ramp)

    ramp = images(1, 2, *inputs.shape[2:], seed=9) / 2
    maps = explained(Shifted(pool), inputs, classes, 0.1)
    start = (ramp + 0.1).expand_as(inputs)
    wanted = pooled_by_hand(Pooled(pool), inputs + ramp, classes, start)
    close(maps.signed, wanted, relative=1e-12)
    assert complete(maps)


def test_where_nothing_moves_max_pooling_has_its_derivative() -> None:
    """A window where probe and baseline are alike lets what is below it move."""
    linear = nn.Linear(4, 4, bias=False, dtype=F64)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[1, 1, 0, 0], [0, 0, 0, 0.1]] + [[0] * 4] * 2))
    net = nn.Sequential(linear, nn.MaxPool1d(2), nn.Flatten())
    probe = torch.tensor([[[2.0, -2.0, 0.0, -1.0]]], dtype=F64)  # the first unit is 0, as at 0
    maps = explained(net, probe, torch.tensor([0]))
    assert maps.signed.flatten().tolist() == [2.0, -2.0, 0.0, 0.0]
    assert maps.numbers["completeness_gap"].isnan().all(), "the score is the same at both ends"


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_where_the_way_is_short_the_derivative_stands(dtype: torch.dtype) -> None:
    """Δout / Δin would be the rounding of a sigmoid, of any size."""
    way = 4 * torch.finfo(dtype).eps
    inputs = torch.full((1, 3, 2), 0.4, dtype=dtype) + way
    net = Units(lambda x: torch.sigmoid(x) + 5).to(dtype)
    multipliers = explained(net, inputs, Y[:1], 0.4).signed / (inputs - 0.4)
    gradient = explain(net, inputs, Y[:1], {"m": Saliency()}, target=Logit()).maps["m"].signed
    close(multipliers, gradient, relative=1e-5)


@pytest.mark.parametrize("size", [1e-18, 1e-6, 1.0, 1e12])
def test_a_relu_is_rescaled_at_any_scale(size: float) -> None:
    """A net without biases is homogeneous, and so are its contributions."""
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        first, last = nn.Linear(6, 30, bias=False), nn.Linear(30, 2, bias=False)
    net = nn.Sequential(nn.Flatten(), first, nn.ReLU(), last)
    inputs = images(4, 3, 2, dtype=torch.float32)
    one, other = (explained(net, inputs * by, Y[:4], 0.3 * by) for by in (1.0, size))
    close(other.signed / size, one.signed, relative=1e-5)
    assert other.numbers["completeness_gap"].max() < 1e-4


@pytest.mark.parametrize("chunk", [1, 2, 4])
@pytest.mark.parametrize("target", [Logit(), Margin(), Prob(), LogProb()], ids=str)
def test_maps_do_not_depend_on_the_size_of_a_chunk(chunk: int, target: Target) -> None:
    net, classes = Deep(), torch.tensor([0, 1, 2, 3, 0])
    inputs = images(5, 3, 11, 13)
    whole, parts = (explained(net, inputs, classes, 0.1, target, size) for size in (32, chunk))
    close(parts.signed, whole.signed, relative=1e-10)
    gaps = [maps.numbers["completeness_gap"] for maps in (parts, whole)]
    torch.testing.assert_close(*gaps, rtol=1e-6, atol=1e-11)
    assert (gaps[0].max() < 1e-11) == (target == Logit())


@pytest.mark.parametrize("target", [Margin(), Prob()], ids=str)
def test_the_reported_gap_is_that_of_the_map(target: Target) -> None:
    net, inputs, classes = Deep(), images(3, 3, 11, 13), torch.tensor([0, 1, 2])
    maps = explained(net, inputs, classes, 0.1, target)
    ends = [target(net(end), classes) for end in (inputs, torch.full_like(inputs, 0.1))]
    whole = (ends[0] - ends[1]).detach()
    wanted = (maps.signed.sum((1, 2, 3)) - whole).abs() / whole.abs()
    assert wanted.min() > 1e-4
    torch.testing.assert_close(maps.numbers["completeness_gap"], wanted, rtol=1e-9, atol=0)


class Attention(nn.Module):
    """One block of attention and a perceptron over patches; rows first, or second."""

    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        with torch.random.fork_rng([]):
            torch.manual_seed(1)
            self.block = nn.TransformerEncoderLayer(6, 2, 8, 0.0, batch_first=batch_first)
            self.head = nn.Linear(6, 3)
        self.first = batch_first
        self.to(F64).eval()

    def forward(self, inputs: Tensor) -> Tensor:
        tokens = inputs.mT if self.first else inputs.permute(2, 0, 1)
        scores: Tensor = self.head(self.block(tokens).mean(1 if self.first else 0))
        return scores


@pytest.mark.parametrize("batch_first", [True, False])
def test_the_gap_tells_of_attention_and_layer_normalisation(batch_first: bool) -> None:
    maps = explained(Attention(batch_first), images(3, 6, 7), torch.tensor([0, 1, 2]))
    assert maps.map.shape == (3, 7)
    assert maps.numbers["completeness_gap"].min() > 1e-3


def test_a_function_of_two_tensors_is_left_alone() -> None:
    class Bounded(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            flat = inputs.flatten(1)
            return torch.clamp(flat, min=flat * 0.5)

    inputs, classes = images(3, 1, 3), torch.tensor([0, 1, 2])
    found = explained(Bounded(), inputs, classes, 0.2).signed
    gradient = explain(Bounded(), inputs, classes, {"m": Saliency()}, target=Logit()).maps["m"]
    close(found, gradient.signed * (inputs - 0.2), relative=1e-13)


def test_max_pooling_over_rows_of_numbers_has_its_rule() -> None:
    class Rows(nn.Module):  # `(n, L)`, which torch reads as n channels of one signal
        def forward(self, inputs: Tensor) -> Tensor:
            return F.max_pool1d(inputs.flatten(1), 2)

    class Channels(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            return F.max_pool1d(inputs, 2).flatten(1)

    inputs, classes = images(3, 1, 6), torch.tensor([0, 1, 2])
    found, wanted = (explained(net, inputs, classes, 0.2) for net in (Rows(), Channels()))
    close(found.signed, wanted.signed, relative=1e-13)
    assert complete(found)


@pytest.mark.parametrize("dimensions", [1, 2, 3])
@pytest.mark.parametrize("channels", [1, 2])
def test_signals_images_and_volumes_of_any_channels_are_complete(
    dimensions: int, channels: int
) -> None:
    spatial = (8, 7, 6)[:dimensions]
    net = small_net(dimensions)
    if channels == 1:
        net = nn.Sequential(nn.Upsample(scale_factor=1), _Doubled(), net)
    maps = explained(net, images(3, channels, *spatial), torch.tensor([0, 1, 2]), 0.3)
    assert maps.map.shape == (3, *spatial)
    assert complete(maps)


class _Doubled(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        return torch.cat([inputs, 2 * inputs], 1)


def test_a_resnet_is_complete() -> None:
    """In-place ReLUs that run twice, batch normalisation, overlapping pooling, sums."""
    maps = explained(resnet(), images(2, 3, 64, 64), torch.tensor([3, 999]), (0.1, 0.0, -0.2))
    assert complete(maps)
    assert maps.map.any()


def test_gradient_checkpointing_changes_nothing() -> None:
    inputs, classes = images(3, 3, 11, 13), torch.tensor([0, 1, 2])
    plain, saved = (explained(net, inputs, classes, 0.1) for net in (Deep(), Checkpointed()))
    close(saved.signed, plain.signed, relative=1e-13)
    assert complete(saved)


def test_it_costs_a_pass_of_the_baseline_and_one_of_the_probes() -> None:
    net, inputs, classes = Closed(), images(5, 2, 6, 7), torch.tensor([0, 1, 2, 3, 0])
    methods: dict[str, Any] = {"a": DeepLIFT(), "b": DeepLIFT(channels="l2"), "c": Saliency()}
    bound = bind(Subject(net), inputs, methods)
    with counting(net) as count:
        explain(net, inputs, classes, bound)
    assert count.sizes == [1, 5, 5]
    assert repr(bound) == repr(methods)


def test_contributions_are_those_of_integrated_gradients_where_units_do_not_meet() -> None:
    """Section 3.5.2: both spread a unit's Δ over its own linear input alone."""
    net, baseline = Units(torch.tanh), (0.3, -0.4, 0.1)
    methods: dict[str, Any] = {
        "rescale": DeepLIFT(baseline=baseline),
        "path": IntegratedGradients(steps=200, baseline=baseline),
    }
    maps = explain(net, X, Y, methods, target=Logit()).maps
    close(maps["rescale"].signed, maps["path"].signed, relative=1e-4)


def test_nothing_is_left_behind() -> None:
    net = convolutional(nn.ReLU, nn.MaxPool2d(2))
    explained(net, IMAGES, CLASSES)
    with pytest.raises(RuntimeError, match="shape"):
        explained(net, images(2, 3, 30, 30), CLASSES[:2])
    assert hooks_on(net) == 0
    leaf = X.clone().requires_grad_()
    (slope,) = torch.autograd.grad(leaf.relu().sum(), leaf)
    assert torch.equal(slope, (X > 0).to(F64)), "the rule is still there"
    assert all(parameter.grad is None for parameter in net.parameters())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_model_in_half_precision_is_explained(dtype: torch.dtype) -> None:
    wanted = explained(Units(torch.tanh), X, Y, 0.5).signed
    found = explained(Units(torch.tanh).to(dtype), X.to(dtype), Y, 0.5).signed
    assert found.dtype == torch.float32
    close(found.double(), wanted, relative=0.1)


@pytest.mark.parametrize("baseline", [float("nan"), "black", [0.5], (0.5, "a"), None])
def test_a_wrong_baseline_is_told_when_the_method_is_made(baseline: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"DeepLIFT\(baseline=.*one number per channel"):
        DeepLIFT(baseline=baseline)


def test_a_baseline_of_other_channels_is_told() -> None:
    with pytest.raises(ConfigurationError, match="has 2 numbers, the inputs have 3 channels"):
        explained(Units(F.relu), X, Y, (0.0, 1.0))


def of_each(body: Function, rows: Tensor) -> Tensor:
    return torch.stack([body(row) for row in rows])


def of_columns(body: Function, rows: Tensor) -> Tensor:
    """Activations of `(D, n × T)`."""
    mixed = rows.flatten(0, 1)
    for layer in body:  # type: ignore[attr-defined]
        mixed = layer(mixed.mT).mT if isinstance(layer, nn.ReLU | nn.Tanh) else layer(mixed)
    return mixed.view(*rows.shape[:2], -1)


def of_two_views(body: Function, rows: Tensor) -> Tensor:
    one, other = body(torch.cat([rows, rows.flip(1)])).chunk(2)
    return (one + other.flip(1)) / 2


LAYOUTS: dict[str, Callable[[Function, Tensor], Tensor]] = {
    "tokens first": lambda body, rows: body(rows.transpose(0, 1)).transpose(0, 1),
    "tokens first, folded": lambda body, rows: (
        body(rows.transpose(0, 1).flatten(0, 1)).view(-1, len(rows), 4).transpose(0, 1)
    ),
    "rows third": lambda body, rows: (
        body(rows.transpose(0, 1).reshape(2, -1, len(rows), 3)).flatten(0, 1).transpose(0, 1)
    ),
    "folded": lambda body, rows: body(rows.flatten(0, 1)).view(len(rows), -1, 4),
    "columns": of_columns,
    "one after the other": of_each,
    "two views": of_two_views,
}


class Laid(nn.Module):
    """A perceptron over the places of `(n, C, T)`, laid out in some way."""

    def __init__(self, layout: Callable[[Function, Tensor], Tensor]) -> None:
        super().__init__()
        self.layout = layout
        with torch.random.fork_rng([]):
            torch.manual_seed(0)
            self.body = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 4), nn.Tanh())
        self.to(F64)

    def forward(self, inputs: Tensor) -> Tensor:
        weights = torch.arange(1.0, inputs.shape[2] + 1, dtype=F64).cos()
        scores: Tensor = (self.layout(self.body, inputs.mT) * weights[:, None]).sum(1)
        return scores


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_layout_of_rows_does_not_matter(name: str) -> None:
    """The same net, its rows where a model may have them: the same maps, whatever the chunk."""
    classes = torch.tensor([0, 1, 2, 3])
    # As many places as rows, one more, twice as many: a size says nothing of which side it is.
    for tokens in (4, 6, 8):
        inputs = images(4, 3, tokens)
        wanted = explained(Laid(lambda body, rows: body(rows)), inputs, classes, 0.3)
        assert complete(wanted)
        for chunk in (1, 3, 4):
            found = explained(Laid(LAYOUTS[name]), inputs, classes, 0.3, chunk=chunk)
            close(found.signed, wanted.signed, relative=1e-11)


@pytest.mark.parametrize("name", LAYOUTS)
def test_one_row_of_the_baseline_does_unless_something_is_folded_into_rows(name: str) -> None:
    net, inputs, classes = Laid(LAYOUTS[name]), images(4, 3, 6), torch.tensor([0, 1, 2, 3])
    bound = bind(Subject(net), inputs, {"m": DeepLIFT()})
    with counting(net) as count:
        explain(net, inputs, classes, bound)
    assert count.sizes == [1 if name in ("tokens first", "rows third") else 4, 4]


def test_a_model_of_a_fixed_number_of_rows_is_explained() -> None:
    class Fixed(Units):
        def forward(self, inputs: Tensor) -> Tensor:
            return super().forward(inputs.view(5, *inputs.shape[1:]))

    close(explained(Fixed(F.relu), X, Y).signed, explained(Units(F.relu), X, Y).signed)


@pytest.mark.parametrize("chunk", [1, 2, 5])
def test_where_tokens_come_first_their_number_does_not_matter(chunk: int) -> None:
    """As many tokens as probes, or one more, and attention between them."""
    for tokens in (5, 6):
        inputs, classes = images(5, 6, tokens), torch.tensor([0, 1, 2, 0, 1])
        wanted = explained(Attention(True), inputs, classes, 0.2)
        found = explained(Attention(False), inputs, classes, 0.2, chunk=chunk)
        close(found.signed, wanted.signed, relative=1e-10)


def test_calls_that_the_baseline_does_not_make_are_differentiated() -> None:
    class Longer(nn.Module):  # the second call is made where there is something to see
        def forward(self, inputs: Tensor) -> Tensor:
            hidden = (inputs.flatten(1) @ mix).tanh()
            return (hidden @ mix).sigmoid() if inputs.any() else hidden @ mix

    mix = torch.arange(36.0, dtype=F64).mul(0.7).sin().view(6, 6)
    found = explained(Longer(), X, Y).signed.flatten(1)
    first = X.flatten(1) @ mix
    last = (first.tanh() @ mix).sigmoid()
    slope = (last * (1 - last))[torch.arange(5), Y, None] * mix.T[Y]
    close(found, X.flatten(1) * ((slope * first.tanh() / first) @ mix.T), relative=1e-11)


def test_a_cache_that_the_baseline_fills_changes_nothing() -> None:
    class Caching(nn.Module):
        encoding: Tensor | None = None

        def forward(self, inputs: Tensor) -> Tensor:
            if self.encoding is None:
                self.encoding = torch.arange(6, dtype=F64).sin()
            return (inputs.flatten(1) + self.encoding).tanh() @ mix

    mix, net = torch.arange(36.0, dtype=F64).mul(0.7).sin().view(6, 6), Caching()
    bound = bind(Subject(net), X, {"m": DeepLIFT()})
    with_cache = explain(net, X, Y, bound, target=Logit()).maps["m"].signed
    net.encoding = None
    close(explain(net, X, Y, bound, target=Logit()).maps["m"].signed, with_cache)


def test_a_gradient_that_overflows_float16_has_its_baseline_too() -> None:
    net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Sigmoid(), nn.Flatten())
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        net.append(nn.Linear(256, 3))
        list(net.parameters())[2].data.normal_(0, 1500)
    inputs, classes = 2 * images(2, 1, 8, 8, dtype=torch.float32), torch.tensor([0, 1])
    full = explained(net, inputs, classes, 0.0).signed
    assert float(full.abs().amax()) > 64
    half = explained(net.half(), inputs.half(), classes, 0.0).signed
    close(half, full, relative=0.02)


def test_what_is_torchscript_is_told() -> None:
    net, trace = nn.Sequential(nn.Flatten(), nn.Linear(12, 3), nn.Tanh()), torch.jit.trace
    with warnings.catch_warnings():  # newer releases of torch advise against it
        warnings.simplefilter("ignore")
        traced: Any = trace(net, torch.zeros(2, 3, 4))  # type: ignore[no-untyped-call]
    for method in (DeepLIFT(), GuidedBackprop()):
        with pytest.raises(ConfigurationError, match="TorchScript"):
            explain(traced, torch.randn(2, 3, 4), torch.tensor([0, 1]), {"m": method})
