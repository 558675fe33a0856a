"""Exact values, and the laws that tie the methods together."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from attribution_nets import F64, Closed, Deep, Quadratic, close, deep_case, images, resnet
from torch import Tensor

from lightning_saliency.attribution import (
    GradCAM,
    GradCAMPlusPlus,
    HiResCAM,
    InputXGradient,
    IntegratedGradients,
    LayerCAM,
    Method,
    Saliency,
    SmoothGrad,
    SmoothGradSquared,
    VarGrad,
    explain,
)
from lightning_saliency.attribution.method import Channels, Maps, over_channels
from lightning_saliency.attribution.points import Clean, Noisy, OnPath, baseline_like
from lightning_saliency.errors import ConfigurationError
from lightning_saliency.targets import Logit


def one(
    method: Method, model: torch.nn.Module, inputs: Tensor, targets: Tensor, chunk: int = 32
) -> Maps:
    return explain(model, inputs, targets, {"m": method}, target=Logit(), chunk=chunk).maps["m"]


X = images(3, 2, 4, 5)
Y = torch.tensor([0, 1, 2])
SLOPE = torch.tensor(Quadratic.slopes, dtype=F64).view(3, 1, 1, 1)


def test_the_gradient_of_the_quadratic_net_is_exact() -> None:
    maps = one(Saliency(), Quadratic(), X, Y)
    torch.testing.assert_close(maps.signed, SLOPE * X, rtol=0, atol=1e-15)
    torch.testing.assert_close(maps.map, (SLOPE * X).abs().amax(1), rtol=0, atol=1e-15)


def test_input_times_gradient_of_the_quadratic_net_is_exact() -> None:
    signed = one(InputXGradient(), Quadratic(), X, Y).signed
    torch.testing.assert_close(signed, SLOPE * X.square(), rtol=1e-14, atol=0)


@pytest.mark.parametrize("steps", [1, 2, 32])
@pytest.mark.parametrize("baseline", [0.0, 0.7, (0.7, -3.0)])
def test_integrated_gradients_of_the_quadratic_net_are_exact(
    steps: int, baseline: float | tuple[float, ...]
) -> None:
    """The midpoint rule integrates a straight line without error, whatever the steps."""
    maps = one(IntegratedGradients(steps=steps, baseline=baseline), Quadratic(), X, Y)
    start = torch.tensor(baseline, dtype=F64).expand(2).view(1, 2, 1, 1)
    torch.testing.assert_close(maps.signed, SLOPE * (X**2 - start**2) / 2, rtol=0, atol=1e-13)
    assert maps.numbers["completeness_gap"].max() < 1e-13


def test_the_reported_gap_of_completeness_is_that_of_the_map() -> None:
    model, inputs, targets = deep_case()
    maps = one(IntegratedGradients(steps=3, baseline=0.2), model, inputs, targets)
    with torch.no_grad():
        ends = [model(end).gather(1, targets[:, None])[:, 0] for end in (inputs, inputs * 0 + 0.2)]
    whole = ends[0] - ends[1]
    gap = (maps.signed.sum((1, 2, 3)) - whole).abs() / whole.abs()
    assert gap.min() > 1e-6, "a gap of zero proves nothing"
    torch.testing.assert_close(maps.numbers["completeness_gap"], gap, rtol=1e-9, atol=1e-12)


def test_integrated_gradients_become_complete_with_more_steps() -> None:
    model, inputs, targets = deep_case()
    gaps = [
        one(IntegratedGradients(steps=steps), model, inputs, targets).numbers["completeness_gap"]
        for steps in (4, 256)
    ]
    assert gaps[1].max() < 2e-3
    assert gaps[1].max() < gaps[0].max() / 10


@pytest.mark.parametrize("samples", [1, 5])
def test_smooth_grad_without_noise_is_the_gradient(samples: int) -> None:
    model, inputs, targets = deep_case()
    smooth = one(SmoothGrad(samples=samples, level=0.0), model, inputs, targets)
    gradient = one(Saliency(), model, inputs, targets)
    torch.testing.assert_close(smooth.signed, gradient.signed, rtol=1e-14, atol=0)
    squares = one(SmoothGradSquared(samples=samples, level=0.0), model, inputs, targets)
    torch.testing.assert_close(squares.signed, gradient.signed**2, rtol=1e-14, atol=0)


def test_var_grad_without_noise_is_zero() -> None:
    assert not one(VarGrad(samples=4, level=0.0), *deep_case()).signed.any()


def noisy_gradients(samples: int, level: float, seed: int) -> Tensor:
    """`(samples, N, C, H, W)`: one autograd pass per probe and sample, nothing shared."""
    model, inputs, targets = deep_case()
    stacked = torch.zeros(samples, *inputs.shape, dtype=F64)
    for index in range(samples):
        for probe, inputs_of_one in enumerate(inputs[:, None]):
            point = Noisy(level, index, seed).at(inputs_of_one, probe).requires_grad_()
            score = model(point)[0, targets[probe]]
            stacked[index, probe] = torch.autograd.grad(score, point)[0][0]
    return stacked


@pytest.mark.parametrize("samples", [2, 5])
@pytest.mark.parametrize(("level", "seed"), [(0.15, 0), (0.6, 7)])
def test_moments_are_those_of_the_stacked_gradients(samples: int, level: float, seed: int) -> None:
    stacked = noisy_gradients(samples, level, seed)
    noise: dict[str, Any] = {"samples": samples, "level": level, "seed": seed}
    expected: list[tuple[Method, Tensor]] = [
        (SmoothGrad(**noise), stacked.mean(0)),
        (SmoothGradSquared(**noise), stacked.square().mean(0)),
        (VarGrad(**noise), torch.var(stacked, 0, correction=1)),
    ]
    for method, wanted in expected:
        close(one(method, *deep_case()).signed, wanted, relative=1e-12)


def test_a_variance_far_from_zero_keeps_its_digits() -> None:
    """Welford's: a difference of mean squares would lose all of them at a mean of 1e8."""

    class Steep(torch.nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            total = (inputs.square() / 2 + 1e8 * inputs).flatten(1).sum(1, keepdim=True)
            return torch.cat([total, 0 * total], 1)

    inputs, targets = images(2, 1, 4, 4), torch.zeros(2, dtype=torch.long)
    copies = torch.stack([Noisy(0.15, index).at(inputs, 0) for index in range(6)])
    signed = one(VarGrad(samples=6), Steep(), inputs, targets).signed
    torch.testing.assert_close(signed, copies.var(0), rtol=1e-5, atol=0)


@pytest.mark.parametrize("model", [Closed(), resnet()], ids=["closed", "resnet18"])
def test_before_an_average_and_a_linear_layer_all_cams_are_cam(model: torch.nn.Module) -> None:
    """Zhou et al. 2016: Σ_k W_ck A_k, over the number of places."""
    closed = isinstance(model, Closed)
    layer, head = ("relu", "head") if closed else ("layer4", "fc")
    inputs, targets = images(2, 2, 6, 7) if closed else images(2, 3, 64, 64), torch.tensor([1, 3])
    taken: list[Tensor] = []
    hook = model.get_submodule(layer).register_forward_hook(lambda m, a, out: taken.append(out))
    with torch.no_grad():
        model(inputs)
    hook.remove()
    weights = model.get_parameter(f"{head}.weight").detach()[targets]
    cam = torch.einsum("nk,nkhw->nhw", weights, taken[0]) / taken[0][0, 0].numel()
    for method in (GradCAM(layer), HiResCAM(layer)):
        close(one(method, model, inputs, targets).signed[:, 0], cam, relative=1e-12)


def test_grad_cam_and_hires_cam_differ_under_another_head() -> None:
    model, inputs, targets = deep_case()
    grad, hires = (one(kind("second"), model, inputs, targets) for kind in (GradCAM, HiResCAM))
    assert (grad.signed - hires.signed).abs().max() > 0.1 * hires.signed.abs().max()


def elementwise(activation: Tensor, gradient: Tensor) -> Tensor:
    return (activation * gradient).clamp(min=0).sum(1)


def test_layer_cam_is_elementwise_grad_cam_where_activations_are_positive() -> None:
    model, inputs, targets = deep_case()
    activation = model.act(model.first(inputs)).detach().requires_grad_()
    score = model.head(model.squash(model.second(activation)).flatten(1))
    gradient = torch.autograd.grad(score.gather(1, targets[:, None]).sum(), activation)[0]
    close(one(LayerCAM("act"), model, inputs, targets).map, elementwise(activation, gradient))


@pytest.mark.parametrize("kind", [GradCAM, LayerCAM, GradCAMPlusPlus])
def test_rectified_maps_are_the_positive_part(kind: type[GradCAM]) -> None:
    maps = one(kind("second"), *deep_case())
    assert (maps.signed < 0).any()
    assert torch.equal(maps.map, maps.signed[:, 0].clamp(min=0))
    assert not kind("second").signed


def test_hires_cam_keeps_its_sign() -> None:
    maps = one(HiResCAM("second"), *deep_case())
    assert (maps.map < 0).any()
    assert torch.equal(maps.map, maps.signed[:, 0])
    assert HiResCAM("second").signed


def test_grad_cam_plus_plus_survives_gradients_whose_square_underflows() -> None:
    activation = images(1, 2, 3, 3, dtype=torch.float32)
    gradient = images(1, 2, 3, 3, seed=1, dtype=torch.float32)
    method = GradCAMPlusPlus("any")
    small = method.combine(activation, gradient * 1e-30)
    half = method.combine(activation.double(), gradient.double() * 1e-9) * 1e-21
    torch.testing.assert_close(small.double(), half, rtol=1e-5, atol=0)


def test_grad_cam_plus_plus_of_a_zero_gradient_is_zero() -> None:
    activation = images(1, 2, 3, 3)
    assert not GradCAMPlusPlus("any").combine(activation, activation * 0).any()


@pytest.mark.parametrize(
    ("how", "expected"),
    [("max", [4.0, 2.0]), ("l2", [5.0, 2.5]), ("signed", [-1.0, -3.5]), ("positive", [3.0, 0.0])],
)
def test_channels_are_reduced_as_said(how: Channels, expected: list[float]) -> None:
    attribution = torch.tensor([[[3.0, -2.0], [-4.0, -1.5]]])  # (1, 2 channels, 2 places)
    assert over_channels(attribution, how).tolist() == [expected]
    assert Saliency(channels=how).signed == (how == "signed")


@pytest.mark.parametrize("kind", [Saliency, InputXGradient, SmoothGrad, IntegratedGradients])
def test_an_unknown_reduction_is_told_when_the_method_is_made(kind: type[Saliency]) -> None:
    with pytest.raises(ConfigurationError, match="channels='mean' is not a reduction"):
        kind(channels="mean")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: SmoothGrad(samples=0), r"SmoothGrad\(samples=0\): give at least 1"),
        (lambda: SmoothGradSquared(level=-0.1), r"SmoothGradSquared\(level=-0.1\): the noise"),
        (lambda: SmoothGrad(level=float("nan")), r"level=nan"),
        (lambda: VarGrad(samples=1), r"VarGrad\(samples=1\): give at least 2"),
        (lambda: IntegratedGradients(steps=0), r"IntegratedGradients\(steps=0\): give at least 1"),
    ],
)
def test_numbers_out_of_range_are_told_when_the_method_is_made(make: type, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        make()


def test_noise_has_the_width_of_each_probes_own_range() -> None:
    inputs = torch.rand(3, 1, 100, 100, generator=torch.Generator().manual_seed(0))
    inputs *= torch.tensor([1.0, 10.0, 0.0]).view(3, 1, 1, 1)
    noise = Noisy(0.2, 0).at(inputs, 0) - inputs
    spread = noise.flatten(1).std(1)
    torch.testing.assert_close(spread, torch.tensor([0.2, 2.0, 0.0]), rtol=0.03, atol=0)
    assert noise.mean().abs() < 0.03


def test_noise_depends_on_seed_index_and_probe_alone() -> None:
    inputs = images(4, 2, 8, 8)
    first = Noisy(0.3, 1, 5).at(inputs, 10)
    torch.manual_seed(99)
    assert torch.equal(first, Noisy(0.3, 1, 5).at(inputs, 10))
    assert torch.equal(first[2:], Noisy(0.3, 1, 5).at(inputs[2:], 12))
    draws = [
        (Noisy(0.3, *point).at(inputs, place) - inputs).flatten()
        for point, place in [((1, 5), 10), ((2, 5), 10), ((1, 6), 10), ((1, 5), 14), ((5, 1), 10)]
    ]
    correlations = torch.corrcoef(torch.stack(draws)).fill_diagonal_(0)
    assert correlations.abs().max() < 0.2


def test_noise_and_format_of_the_inputs_do_not_meddle() -> None:
    inputs = images(2, 3, 8, 8, dtype=torch.float32)
    stored = inputs.contiguous(memory_format=torch.channels_last)
    plain, last = Noisy(0.3, 0).at(inputs, 0), Noisy(0.3, 0).at(stored, 0)
    assert torch.equal(plain, last)
    assert last.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, F64])
def test_points_keep_the_dtype(dtype: torch.dtype) -> None:
    inputs = images(2, 3, 4, 4, dtype=dtype)
    for point in (Clean(), Noisy(0.1, 0), OnPath(0.3, 0.5), OnPath(0.3, (0.5, 0.1, 0.0))):
        assert point.at(inputs, 0).dtype == dtype


def test_the_path_runs_from_the_baseline_to_the_probe() -> None:
    inputs = images(2, 3, 4, 4)
    start = baseline_like(inputs, (1.0, 2.0, 3.0))
    assert start[1, :, 3, 0].tolist() == [1.0, 2.0, 3.0]
    assert torch.equal(OnPath(0.0, (1.0, 2.0, 3.0)).at(inputs, 0), start)
    assert torch.equal(OnPath(1.0, (1.0, 2.0, 3.0)).at(inputs, 0), inputs)
    middle = OnPath(0.25, (1.0, 2.0, 3.0)).at(inputs, 0)
    torch.testing.assert_close(middle, 0.75 * start + 0.25 * inputs)


def test_a_baseline_of_other_channels_is_told() -> None:
    with pytest.raises(ConfigurationError, match="has 2 numbers, the inputs have 3 channels"):
        one(IntegratedGradients(baseline=(0.0, 1.0)), Deep(), *deep_case()[1:])


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
def test_the_norm_over_channels_neither_underflows_nor_overflows(size: float) -> None:
    attribution = torch.tensor([[[3.0, 0.0], [-4.0, 0.0]]]) * size
    found = over_channels(attribution, "l2") / size
    torch.testing.assert_close(found, torch.tensor([[5.0, 0.0]]))


def test_a_score_that_is_the_same_at_both_ends_has_no_relative_gap() -> None:
    inputs = images(2, 1, 2, 2)
    inputs[1] *= 0
    maps = one(IntegratedGradients(steps=2), Quadratic(), inputs, torch.tensor([0, 0]))
    assert maps.numbers["completeness_gap"].isnan().tolist() == [False, True]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: SmoothGrad(samples="3"), "samples='3'"),  # type: ignore[arg-type]
        (lambda: SmoothGrad(samples=2.5), "samples=2.5"),  # type: ignore[arg-type]
        (lambda: SmoothGrad(seed=None), "seed=None"),  # type: ignore[arg-type]
        (lambda: VarGrad(level=float("inf")), "level=inf"),
        (lambda: VarGrad(level="a"), "level='a'"),  # type: ignore[arg-type]
        (lambda: IntegratedGradients(steps=True), "steps=True"),
        (lambda: IntegratedGradients(baseline=[0.5]), r"baseline=\[0.5\]"),  # type: ignore[arg-type]
        (lambda: IntegratedGradients(baseline=(0.5, "a")), "one number per channel"),  # type: ignore[arg-type]
        (lambda: GradCAM(3), "layer=3"),  # type: ignore[arg-type]
    ],
)
def test_arguments_of_a_wrong_type_are_told_when_the_method_is_made(make: Any, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        make()
