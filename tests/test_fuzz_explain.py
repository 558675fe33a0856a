"""All methods on small nets of many kinds: chunks change nothing, and nothing else is changed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from cheap_methods import cheap
from fuzz_draws import Brief, content, fuzz, seeds
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from lightning_saliency.attribution import METHODS, AnyMethod, Explanation, Saliency, explain
from lightning_saliency.attribution.cam_layers import last_spatial_layer
from lightning_saliency.attribution.subject import Subject
from lightning_saliency.errors import ConfigurationError
from lightning_saliency.targets import TARGETS

CAMS = ("grad_cam", "grad_cam_plus_plus", "hires_cam", "layer_cam")
NOISY = ("smooth_grad", "smooth_grad_squared", "var_grad")

ROUNDING = {torch.float64: 1e-9, torch.float32: 1e-3, torch.bfloat16: 0.3}
"""How far maps may be apart that differ by the size of a chunk, as a share of the peak."""


@dataclass(frozen=True, repr=False)
class Case(Brief):
    net: nn.Module
    inputs: Tensor
    classes: Tensor
    layered: bool  # whether a layer answers with a map
    rounding: float

    def __repr__(self) -> str:
        return f"{self.net} for {tuple(self.inputs.shape)} {self.inputs.dtype}"


def net_of(draw: Any, channels: int, classes: int, sides: tuple[int, ...], smooth: bool) -> Any:
    """Convolutions, perhaps a pooling, and a linear head, in as many dimensions as the input has.

    Rounding decides at a kink, so nets that are compared in few digits have none.
    """
    dims = len(sides)
    conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
    pools: dict[str, Any] = {
        "average": (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)[dims - 1](2, ceil_mode=True),
        "none": nn.Identity(),
        "max": (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)[dims - 1](2, ceil_mode=True),
    }
    pool = draw(st.sampled_from(["average", "none"] + ["max"] * (not smooth)))
    pool = pool if min(sides) > 3 else "none"
    bends = [nn.Tanh(), nn.Softplus()] + [nn.ReLU(inplace=True), nn.ReLU()] * (not smooth)
    kernel, width = draw(st.sampled_from([1, 3])), draw(st.integers(1, 6))
    stride = draw(st.integers(1, 2))
    last = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)[dims - 1]
    ends = [nn.Flatten(), nn.LazyLinear(classes)]
    if draw(st.booleans()):
        ends.insert(0, last(1))
    return nn.Sequential(
        conv(channels, width, kernel, padding=kernel // 2, stride=stride),
        draw(st.sampled_from(bends)),
        pools[pool],
        *ends,
    )


@st.composite
def cases(draw: Any) -> Case:
    dtype = draw(st.sampled_from(list(ROUNDING)))
    dims, channels = draw(st.integers(1, 3)), draw(st.integers(1, 8))
    classes = draw(st.integers(1, 12))
    sides = tuple(draw(st.integers(1, 11 if dims < 3 else 5)) for _ in range(dims))
    probes, seed = draw(st.integers(1, 5)), draw(seeds)
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        net = net_of(draw, channels, classes, sides, smooth=dtype != torch.float64)
        net(torch.zeros(2, channels, *sides))
    net = net.to(dtype).train(draw(st.booleans()))
    inputs = content("normal", (probes, channels, *sides), seed).to(dtype)
    try:
        last_spatial_layer(Subject(net), inputs)
        layered = True
    except ConfigurationError:
        layered = False
    labels = torch.arange(probes) % max(2, classes)
    return Case(net, inputs, labels, layered, ROUNDING[dtype])


OF_ANY_SHAPE = ("saliency", "input_x_gradient", "integrated_gradients", *NOISY, *CAMS)
"""Others need more than one probe, some pixels on a side, a ReLU, or attention."""


def methods_of(case: Case, samples: int) -> dict[str, AnyMethod]:
    given = {"samples": samples}
    more = dict.fromkeys(NOISY, given) | {"integrated_gradients": {"steps": samples}}
    return {
        name: method(**more.get(name, {}))
        for name, method in METHODS.items()
        if name in OF_ANY_SHAPE and (case.layered or name not in CAMS)
    }


def same(one: Explanation, other: Explanation, rounding: float) -> None:
    for name, maps in one.maps.items():
        for kind in ("map", "signed"):
            ours, theirs = getattr(maps, kind), getattr(other.maps[name], kind)
            assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype), name
            peak = theirs.abs().amax().clamp(min=1e-6 if ours.dtype == torch.float32 else 1e-12)
            worst = float(((ours - theirs).abs() / peak).amax())
            assert worst <= rounding, f"{name}: {worst:.1e}"


@fuzz(150)
@given(case=cases(), name=st.sampled_from(list(METHODS)))
def test_every_method_gives_maps_or_says_why_not(case: Case, name: str) -> None:
    methods = {name: cheap(8)[name]}
    probes, cases_ = len(case.inputs), (case.net, case.inputs, case.classes)
    try:
        maps = explain(*cases_, methods).maps[name]
    except ConfigurationError:  # of ours, and of no other kind
        return
    assert len(maps.map) == len(maps.signed) == probes
    assert maps.map.ndim == case.inputs.ndim - 1
    assert maps.signed.ndim == case.inputs.ndim


@fuzz(60)
@given(case=cases(), data=st.data(), samples=st.integers(2, 3))
def test_the_size_of_a_chunk_changes_no_map_and_nothing_is_touched(
    case: Case, data: Any, samples: int
) -> None:
    probes, methods = len(case.inputs), methods_of(case, samples)
    target = TARGETS[data.draw(st.sampled_from(["margin", "logit", "log_prob", "prob"]))]
    before = case.inputs.clone()
    weights = {name: value.clone() for name, value in case.net.state_dict().items()}
    modes = [part.training for part in case.net.modules()]
    whole = explain(case.net, case.inputs, case.classes, methods, target=target, chunk=probes)
    chunk = data.draw(st.integers(1, probes + 3), label="chunk")
    parts = explain(case.net, case.inputs, case.classes, methods, target=target, chunk=chunk)
    same(parts, whole, case.rounding)
    full = torch.float64 if case.inputs.dtype == torch.float64 else torch.float32
    for name, maps in whole.maps.items():
        assert maps.map.dtype == maps.signed.dtype == full
        assert maps.map.isfinite().all(), name
        assert maps.signed.isfinite().all(), name
        assert len(maps.map) == probes
        assert maps.map.shape[1:] == maps.signed.shape[2:]
        if name not in CAMS:
            assert maps.signed.shape == case.inputs.shape
        signed = getattr(methods[name], "signed", False)
        assert signed or name == "hires_cam" or bool((maps.map >= 0).all()), name
        assert all(number.shape == (probes,) for number in maps.numbers.values())
    assert whole.gradient_norm is not None
    assert whole.gradient_norm.isfinite().all()
    assert torch.equal(before, case.inputs)
    assert not case.inputs.requires_grad
    assert [one.grad for one in case.net.parameters()] == [None] * len(weights)
    assert all(torch.equal(weights[name], one) for name, one in case.net.state_dict().items())
    assert [part.training for part in case.net.modules()] == modes
    assert not any(part._forward_hooks or part._backward_hooks for part in case.net.modules())


@fuzz(30)
@given(case=cases(), data=st.data())
def test_a_net_that_broke_gives_maps_and_no_exception(case: Case, data: Any) -> None:
    """One weight is NaN, infinite or huge: maps may not be finite, and still have their shape."""
    weights = next(case.net.parameters())
    place = data.draw(st.integers(0, weights.numel() - 1))
    with torch.no_grad():
        weights.view(-1)[place] = data.draw(st.sampled_from([torch.nan, torch.inf, -1e30]))
    found = explain(case.net, case.inputs, case.classes, methods_of(case, 2))
    for name, maps in found.maps.items():
        assert maps.map.shape[1:] == maps.signed.shape[2:], name
    assert found.outputs.shape[0] == len(case.inputs)


@fuzz(20)
@given(case=cases(), factor=st.sampled_from([1e-30, 1e-20, 1e20]))
def test_gradients_of_any_size_keep_their_form(case: Case, factor: float) -> None:
    """A head that is scaled scales the gradient, and no method loses it to an underflow."""
    if case.inputs.dtype == torch.bfloat16:
        return
    names = [name for name in methods_of(case, 2) if name not in NOISY[1:]]
    methods = {name: one for name, one in methods_of(case, 2).items() if name in names}
    methods |= {
        "l2": Saliency(channels="l2"),
        "signed": Saliency(channels="signed"),
        "positive": Saliency(channels="positive"),
    }
    plain = explain(case.net, case.inputs, case.classes, methods, target=TARGETS["logit"])
    with torch.no_grad():
        for one in case.net[-1].parameters():  # type: ignore[index]
            one.mul_(factor)
    scaled = explain(case.net, case.inputs, case.classes, methods, target=TARGETS["logit"])
    assert plain.gradient_norm is not None
    assert scaled.gradient_norm is not None
    norms = scaled.gradient_norm / factor
    torch.testing.assert_close(norms, plain.gradient_norm, rtol=1e-3, atol=0)
    for name, maps in plain.maps.items():
        if name == "grad_cam_plus_plus":
            continue  # its weights depend on the size of the gradient, by its equation
        peak = float(maps.map.abs().amax())
        worst = float((scaled.maps[name].map / factor - maps.map).abs().amax())
        assert worst <= 1e-3 * peak, f"{name}: {worst:.1e} of {peak:.1e}"
