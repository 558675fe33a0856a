"""Blur and guided integrated gradients: closed forms, and their authors' algorithms in numpy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import pytest
import torch
from attribution_nets import F64, Quadratic, close, counting, deep_case, images
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_saliency.attribution import IntegratedGradients, Maps, Method, Saliency, explain
from lightning_saliency.attribution.background import GradientSHAP
from lightning_saliency.attribution.paths import BlurIG, Blurred, GuidedIG, blurred, guided
from lightning_saliency.attribution.views import TenView
from lightning_saliency.errors import ConfigurationError
from lightning_saliency.targets import Logit

Array: TypeAlias = NDArray[np.float64]
Gradient: TypeAlias = Callable[[Array], Array]

X, Y = images(3, 2, 9, 12), torch.tensor([0, 1, 2])
SLOPE = torch.tensor(Quadratic.slopes, dtype=F64).view(3, 1, 1, 1)


def one(method: Method, model: nn.Module, inputs: Tensor, targets: Tensor, chunk: int = 32) -> Maps:
    return explain(model, inputs, targets, {"m": method}, target=Logit(), chunk=chunk).maps["m"]


def scores(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(inputs).gather(1, targets[:, None])[:, 0]
        return found


def gradient_of(model: nn.Module, target: Tensor) -> Gradient:
    """Of one example `(C, *spatial)` in numpy."""

    def gradient(example: Array) -> Array:
        leaf = torch.from_numpy(example.copy())[None].requires_grad_()
        found: Array = torch.autograd.grad(model(leaf)[0, target], leaf)[0][0].numpy()
        return found

    return gradient


def gaussian(example: Array, sigma: float) -> Array:
    """Of `(C, *spatial)`."""
    widths = [0.0] + [sigma] * (example.ndim - 1)
    found: Array = ndimage.gaussian_filter(example, widths, mode="constant") if sigma else example
    return found


@pytest.mark.parametrize("shape", [(1, 40), (2, 9, 12), (1, 5, 6, 7)], ids=["1d", "2d", "3d"])
@pytest.mark.parametrize("sigma", [0.0, 0.1, 0.3, 1.0, 2.7, 50.0])
def test_the_blur_is_scipys(shape: tuple[int, ...], sigma: float) -> None:
    inputs = images(2, *shape)
    theirs = np.stack([gaussian(example, sigma) for example in inputs.numpy()])
    close(blurred(inputs, sigma), torch.from_numpy(theirs), relative=1e-13)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, F64])
def test_a_blurred_probe_keeps_dtype_and_format(dtype: torch.dtype) -> None:
    stored = X.to(dtype).contiguous(memory_format=torch.channels_last)
    point = Blurred(1.3).at(stored, 0)
    assert point.dtype == dtype
    assert point.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(point.double(), blurred(X, 1.3), rtol=0.02, atol=0.01)


class Linear(nn.Module):
    """z_c = w_c · x, and the weights by hand."""

    weight = images(3, 2, 9, 12, seed=4)

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.einsum("nf,cf->nc", inputs.flatten(1), self.weight.flatten(1))


@pytest.mark.parametrize("steps", [1, 7])
def test_blur_ig_of_a_linear_net_is_what_the_blur_took_times_the_weights(steps: int) -> None:
    maps = one(BlurIG(steps=steps, max_sigma=4.0), Linear(), X, Y)
    torch.testing.assert_close(maps.signed, (X - blurred(X, 4.0)) * Linear.weight[Y])
    assert torch.equal(maps.map, maps.signed.abs().amax(1))
    assert maps.numbers["completeness_gap"].max() < 1e-12


def blur_ig(example: Array, gradient: Gradient, steps: int, widest: float) -> Array:
    """The gradient at the middle of each step, times what the blur takes on it."""
    total = np.zeros_like(example)
    for step in range(steps):
        near, middle, far = (
            gaussian(example, widest * (step + part) / steps) for part in (0, 0.5, 1)
        )
        total += gradient(middle) * (near - far)
    return total


def blur_ig_of_its_authors(
    example: Array, gradient: Gradient, steps: int, widest: float, tick: float
) -> Array:
    """The gradient at the sharp end of each step, times a difference quotient of the blur."""
    total = np.zeros_like(example)
    for step in range(steps):
        sigma = widest * step / steps
        here = gaussian(example, sigma)
        slope = (gaussian(example, sigma + tick) - here) / tick
        total -= widest / steps * slope * gradient(here)
    return total


def in_numpy(
    function: Callable[..., Array], model: nn.Module, inputs: Tensor, targets: Tensor, *args: Any
) -> Tensor:
    pairs = zip(inputs.numpy(), targets, strict=True)
    found = [function(example, gradient_of(model, target), *args) for example, target in pairs]
    return torch.from_numpy(np.stack(found))


@pytest.mark.parametrize(("steps", "widest"), [(1, 2.0), (6, 5.0)])
def test_blur_ig_is_its_equation_with_scipys_blur(steps: int, widest: float) -> None:
    case = deep_case()
    ours = one(BlurIG(steps=steps, max_sigma=widest), *case).signed
    close(ours, in_numpy(blur_ig, *case, steps, widest), relative=1e-11)


def test_the_authors_sum_comes_to_ours_as_its_quotient_gets_finer() -> None:
    """Why the sums differ: a quotient over 0.01 pixels, as in their code, is off by 1.5 % here."""
    case = Quadratic(), X, Y
    limit = in_numpy(blur_ig, *case, 300, 3.0)

    def error(found: Tensor) -> float:
        return float((found - limit).abs().max() / limit.abs().max())

    errors = [
        error(in_numpy(blur_ig_of_its_authors, *case, 60, 3.0, tick)) for tick in (1e-2, 1e-3, 1e-4)
    ]
    assert 0.01 < errors[0] < 0.02
    assert errors[1] < errors[0] / 9
    assert errors[2] < errors[1] / 9
    assert error(one(BlurIG(steps=60, max_sigma=3.0), *case).signed) < 1e-5


def test_the_width_follows_the_longest_side() -> None:
    default, given = BlurIG(steps=3), BlurIG(steps=3, max_sigma=12 * 50 / 224)
    assert torch.equal(one(default, Quadratic(), X, Y).map, one(given, Quadratic(), X, Y).map)


def test_the_gap_of_blur_ig_is_that_of_its_map() -> None:
    model, inputs, targets = deep_case()
    maps = one(BlurIG(steps=3, max_sigma=4.0), model, inputs, targets)
    whole = scores(model, inputs, targets) - scores(model, blurred(inputs, 4.0), targets)
    gap = (maps.signed.sum((1, 2, 3)) - whole).abs() / whole.abs()
    assert gap.min() > 1e-6, "a gap of zero proves nothing"
    torch.testing.assert_close(maps.numbers["completeness_gap"], gap, rtol=1e-9, atol=1e-12)
    finer = one(BlurIG(steps=96, max_sigma=4.0), model, inputs, targets)
    assert finer.numbers["completeness_gap"].max() < gap.max() / 10


def guided_ig_of_its_authors(
    example: Array, gradient: Gradient, steps: int, fraction: float, most: float, level: float
) -> tuple[list[Array], list[Array]]:
    """The places on the way, and the gradients there; one feature set after the other.

    Where their code asks for equal floats, this remembers which features are at their bound.
    """
    start = np.full_like(example, level)
    place, line = start.copy(), example - start
    places, gradients = [place.copy()], [gradient(place)]
    for step in range(steps):
        share = (step + 1) / steps
        low = start + line * max(share - most, 0)
        high = start + line * min(share + most, 1)
        progress = np.divide(place - start, line, out=np.full_like(line, np.inf), where=line != 0)
        behind = progress < max(share - most, 0)
        place[behind] = low[behind]
        target = np.abs(line).sum() * (1 - share)
        keys = np.abs(gradients[-1])
        keys[place == high] = np.inf
        while np.abs(example - place).sum() - target > 1e-12:
            threshold = np.quantile(keys, fraction, method="lower")
            chosen = (keys <= threshold) & (keys < np.inf)
            gain = np.abs(high - place)[chosen].sum()
            if not chosen.any():
                break
            part = (np.abs(example - place).sum() - target) / gain if gain else np.inf
            if part > 1:
                place[chosen] = high[chosen]
            else:
                place[chosen] += part * (high - place)[chosen]
            keys[chosen] = np.inf
        places.append(place.copy())
        gradients.append(gradient(place))
    return places, gradients


class Seen:
    """What goes into a model, for one probe."""

    def __init__(self, model: nn.Module) -> None:
        self.inputs: list[Tensor] = []
        self._hook = model.register_forward_pre_hook(lambda _, args: self.inputs.append(args[0][0]))

    def __enter__(self) -> list[Tensor]:
        return self.inputs

    def __exit__(self, *_: object) -> None:
        self._hook.remove()


GUIDED = [
    (6, 0.25, 0.02),
    (5, 0.25, 1.0),
    (5, 0.1, 0.3),
    (4, 1.0, 0.1),
    (7, 0.6, 0.0),
    (1, 0.3, 0.5),
]


@pytest.mark.parametrize(("steps", "fraction", "most"), GUIDED)
@pytest.mark.parametrize("level", [0.0, 0.4])
def test_guided_ig_goes_its_authors_way(
    steps: int, fraction: float, most: float, level: float
) -> None:
    model, inputs, targets = deep_case(1)
    inputs[0, :, 3] = level  # these features have no way to go
    method = GuidedIG(steps=steps, fraction=fraction, max_dist=most, baseline=level)
    with Seen(model) as seen:
        maps = one(method, model, inputs, targets)
    places, gradients = guided_ig_of_its_authors(
        inputs[0].numpy(), gradient_of(model, targets[0]), steps, fraction, most, level
    )
    went = torch.stack(seen[1:])  # after the clean input
    close(went + 10, torch.from_numpy(np.stack(places[:-1])) + 10, relative=1e-13)
    ways = np.diff(np.stack(places), axis=0)
    both = (np.stack(gradients[:-1]) + np.stack(gradients[1:])) / 2
    close(maps.signed, torch.from_numpy((ways * both).sum(0))[None], relative=1e-11)


def test_the_mean_of_two_ends_is_more_complete_than_the_start_alone() -> None:
    """Why the sum differs from the authors' on the same way."""
    model, inputs, targets = deep_case(12)
    signed = one(GuidedIG(steps=32), model, inputs, targets).signed
    whole = scores(model, inputs, targets) - scores(model, inputs * 0, targets)
    theirs = []
    for example, target in zip(inputs, targets, strict=True):
        places, gradients = guided_ig_of_its_authors(
            example.numpy(), gradient_of(model, target), 32, 0.25, 0.02, 0.0
        )
        theirs.append((np.diff(np.stack(places), axis=0) * np.stack(gradients[:-1])).sum())
    ours = (signed.sum((1, 2, 3)) - whole).abs()
    assert ours.mean() < (torch.tensor(theirs) - whole).abs().mean() / 2


@pytest.mark.parametrize(("fraction", "most"), [(1.0, 1.0), (0.3, 0.0)])
@pytest.mark.parametrize("level", [0.0, (0.7, -0.2)])
def test_on_the_straight_line_guided_ig_is_ig(
    fraction: float, most: float, level: float | tuple[float, ...]
) -> None:
    """Exactly, where the gradient is a straight line as well."""
    method = GuidedIG(steps=5, fraction=fraction, max_dist=most, baseline=level)
    straight = one(IntegratedGradients(steps=5, baseline=level), Quadratic(), X, Y)
    close(one(method, Quadratic(), X, Y).signed, straight.signed, relative=1e-12)


def test_on_the_straight_line_guided_ig_comes_to_ig_with_more_steps() -> None:
    case = deep_case()
    method = GuidedIG(steps=128, fraction=1.0, max_dist=1.0)
    finest = one(IntegratedGradients(steps=512), *case).signed
    close(one(method, *case).signed, finest, relative=5e-3)


def test_the_gap_of_guided_ig_is_that_of_its_map() -> None:
    model, inputs, targets = deep_case()
    maps = one(GuidedIG(steps=3, baseline=0.2), model, inputs, targets)
    whole = scores(model, inputs, targets) - scores(model, inputs * 0 + 0.2, targets)
    gap = (maps.signed.sum((1, 2, 3)) - whole).abs() / whole.abs()
    assert gap.min() > 1e-6, "a gap of zero proves nothing"
    torch.testing.assert_close(maps.numbers["completeness_gap"], gap, rtol=1e-9, atol=1e-12)
    finer = one(GuidedIG(steps=128, baseline=0.2), model, inputs, targets)
    assert finer.numbers["completeness_gap"].max() < gap.max() / 10


def test_small_gradients_go_first() -> None:
    gradient = torch.tensor([[5.0, -1.0, 3.0, -2.0], [1.0, 1.0, 1.0, 9.0]])
    place, high = torch.zeros(2, 4), torch.tensor([[2.0, -2.0, 2.0, 2.0], [1.0, 1.0, 0.0, 1.0]])
    moved = guided(place, high, gradient, torch.tensor([3.0, 1.0]), 0.25)
    # Equal gradients go together; what is where it may be, not at all.
    assert moved.tolist() == [[0.0, -2.0, 0.0, 1.0], [0.5, 0.5, 0.0, 0.0]]
    assert torch.equal(guided(place, high, gradient, torch.tensor([8.0, 3.0]), 0.25), high)
    assert torch.equal(guided(place, high, gradient, torch.tensor([0.0, -1e-9]), 0.25), place)


def test_a_group_begins_after_all_that_went_before() -> None:
    """Also where more went together than a group has."""
    gradient = torch.tensor([[1.0, 1.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0]])
    moved = guided(gradient * 0, gradient * 0 + 1, gradient, torch.tensor([4.0]), 0.25)
    assert moved.tolist() == [[1.0, 1.0, 1.0, 0.5, 0.5, 0.0, 0.0, 0.0]]


def test_a_probe_that_is_the_baseline_has_nothing_to_share_out() -> None:
    inputs = X.clone()
    inputs[1] = 0.0
    maps = one(GuidedIG(steps=3), Quadratic(), inputs, Y)
    assert maps.numbers["completeness_gap"].isnan().tolist() == [False, True, False]
    assert not maps.map[1].any()


ALL: dict[str, Method] = {
    "blur": BlurIG(steps=3),
    "guided": GuidedIG(steps=3, max_dist=0.2),
    "background": GradientSHAP(samples=3),
    "views": TenView(resize=False),
}


@pytest.mark.parametrize("chunk", [1, 2, 5])
@pytest.mark.parametrize("name", ["blur", "guided"])
def test_the_size_of_a_chunk_changes_no_map(name: str, chunk: int) -> None:
    case = deep_case()
    whole, parts = one(ALL[name], *case), one(ALL[name], *case, chunk)
    close(parts.signed, whole.signed, relative=1e-11)
    assert torch.equal(whole.signed, one(ALL[name], *case).signed)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("shape", [(1, 7), (2, 4, 6), (1, 3, 4, 2)], ids=["1d", "2d", "3d"])
def test_signals_and_volumes_have_maps_as_images_have(name: str, shape: tuple[int, ...]) -> None:
    inputs = images(3, *shape)
    maps = one(ALL[name], Quadratic(), inputs, Y)
    assert maps.map.shape == (3, *shape[1:])
    assert maps.signed.shape == inputs.shape
    assert maps.map.isfinite().all()
    assert (maps.map.flatten(1) > 0).any(1).all()


@pytest.mark.parametrize(
    ("name", "forward"), [("blur", 3 + 2), ("guided", 3 + 1), ("background", 3 + 1)]
)
def test_passes_are_as_many_as_said(name: str, forward: int) -> None:
    """The clean one is everybody's."""
    model, inputs, targets = deep_case()
    with counting(model) as count:
        explain(model, inputs, targets, {"m": ALL[name], "saliency": Saliency()})
    assert count.calls == forward


class Waiting(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Fails where the host would wait for a number of the device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        waits = (torch.ops.aten._local_scalar_dense, torch.ops.aten.nonzero, torch.ops.aten.equal)
        assert func.overloadpacket not in waits, f"{func} waits for the device"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["blur", "guided", "background", "views"])
def test_nothing_waits_for_the_device(name: str) -> None:
    inputs = images(3, 2, 5, 6)
    with Waiting():  # type: ignore[no-untyped-call]
        explain(Quadratic(), inputs, Y, {"m": ALL[name]}, target=Logit())


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: BlurIG(steps=0), r"BlurIG\(steps=0\): give at least 1"),
        (lambda: BlurIG(max_sigma=0), r"BlurIG\(max_sigma=0\): give the width"),
        (lambda: BlurIG(max_sigma=True), r"max_sigma=True"),
        (lambda: BlurIG(max_sigma=float("nan")), "max_sigma=nan"),
        (lambda: GuidedIG(steps=1.5), r"GuidedIG\(steps=1.5\)"),  # type: ignore[arg-type]
        (lambda: GuidedIG(fraction=0), r"GuidedIG\(fraction=0\): no feature would move"),
        (lambda: GuidedIG(fraction=1.1), r"fraction=1.1\): give a number from 0.0 to 1.0"),
        (lambda: GuidedIG(max_dist=-0.1), r"max_dist=-0.1\): give a number from"),
        (lambda: GuidedIG(baseline=[0.5]), r"baseline=\[0.5\]"),  # type: ignore[arg-type]
        (lambda: GuidedIG(channels="mean"), "channels='mean'"),  # type: ignore[arg-type]
    ],
)
def test_wrong_arguments_are_told_when_the_method_is_made(make: Any, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        make()


def test_a_baseline_of_other_channels_is_told() -> None:
    with pytest.raises(ConfigurationError, match="has 3 numbers, the inputs have 2 channels"):
        one(GuidedIG(baseline=(0.0, 1.0, 2.0)), Quadratic(), X, Y)
