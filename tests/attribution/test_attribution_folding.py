"""On an accelerator few probes share a pass between several points: the maps stay what they are."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from attribution_methods import ALL, CLEAN, NOISY, same
from attribution_nets import Deep, counting, deep_case, images, resnet
from cheap_methods import ATTENTION, cheap

from lightning_saliency.attribution import (
    RISE,
    AnyMethod,
    BlurIG,
    GradientSHAP,
    GuidedIG,
    IntegratedGradients,
    KernelSHAP,
    Occlusion,
    Saliency,
    ScoreCAM,
    SmoothGrad,
    Subject,
    TenView,
    explain,
    folding,
    passes,
)
from lightning_saliency.attribution.cam_forward import OfChannels
from lightning_saliency.attribution.method import Look
from lightning_saliency.attribution.points import Clean, Noisy, OnPath

MORE: dict[str, AnyMethod] = {
    "shap": GradientSHAP(samples=5),
    "guided": GuidedIG(steps=3),
    "blur": BlurIG(steps=5),
    "occlusion": Occlusion(window=5),
    "rise": RISE(masks=7),
    "kernel": KernelSHAP(samples=8, cells=2),
    "score": ScoreCAM("second"),
}


SHAPE = torch.Size([5, 3, 11, 13])
EVERY = {name: one for name, one in cheap(11).items() if name not in ATTENTION} | ALL | MORE


def of_accelerators(probes: int, chunk: int, own: torch.device) -> int:
    return folding.room(probes, chunk, torch.device("meta"))


@pytest.fixture
def accelerated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Passes on the CPU are put together as they are on an accelerator."""
    monkeypatch.setattr(passes, "room", of_accelerators)


@pytest.mark.parametrize(
    ("probes", "chunk", "device", "points"),
    [
        (16, 32, "cuda", 2),
        (1, 32, "cuda", 32),
        (17, 32, "mps", 1),
        (64, 32, "cuda", 1),
        (1, 32, "cpu", 1),
    ],
)
def test_a_pass_has_no_more_rows_than_a_chunk(
    probes: int, chunk: int, device: str, points: int
) -> None:
    assert folding.room(probes, chunk, torch.device(device)) == points


@pytest.mark.parametrize(
    ("methods", "chunk", "sizes"),
    [
        (NOISY, 15, [5, 15, 15, 10]),
        (NOISY, 14, [5, 10, 10, 10, 10]),
        (NOISY, 9, [5] * 9),
        ({"a": IntegratedGradients(steps=4)}, 20, [5, 1, 20]),
        ({"a": IntegratedGradients(steps=4), "b": SmoothGrad(samples=2)}, 100, [5, 1, 30]),
        (CLEAN, 100, [5]),
        # The occluded ones want the score alone, the noisy ones a gradient.
        ({"a": Occlusion(window=(11, 13)), "b": SmoothGrad(samples=2)}, 100, [5, 5, 10]),
        ({"a": GuidedIG(steps=3)}, 100, [5, 5, 5, 5]),
    ],
    ids=str,
)
def test_points_of_equal_wants_share_passes(
    accelerated: None, methods: dict[str, AnyMethod], chunk: int, sizes: list[int]
) -> None:
    model, inputs, targets = deep_case()
    with counting(model) as count:
        explain(model, inputs, targets, methods, chunk=chunk)
    assert count.sizes == sizes


@pytest.mark.parametrize("chunk", [3, 10, 100])
def test_maps_are_those_of_single_passes(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    single = explain(*deep_case(), EVERY)
    monkeypatch.setattr(passes, "room", of_accelerators)
    found = explain(*deep_case(), EVERY, chunk=chunk)
    for name in EVERY:
        same(found.maps[name], single.maps[name])
        one, other = found.maps[name].halves, single.maps[name].halves
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found.outputs, single.outputs, rtol=1e-12, atol=1e-12)
    assert found.chunk == chunk


def test_what_is_seen_at_the_clean_input_is_the_same_bit_by_bit(accelerated: None) -> None:
    """What else is looked at must not move it: drift is exactly 0 where nothing changed."""
    model, inputs, targets = deep_case(dtype=torch.float32)
    alone = explain(model, inputs, targets, {"saliency": Saliency()})
    beside = explain(model, inputs, targets, {**NOISY, "saliency": Saliency()})
    assert torch.equal(alone.maps["saliency"].map, beside.maps["saliency"].map)
    assert torch.equal(alone.outputs, beside.outputs)


def test_layers_and_attention_are_shared_out_by_row(accelerated: None) -> None:
    """No built-in method asks for them anywhere but at the clean input; the engine may be asked."""
    model, inputs, targets = deep_case()
    subject = Subject(model)
    looks = [
        Look(Noisy(0.1, index), gradient=True, layers=("second",), activations=("act",))
        for index in range(3)
    ]
    (together,) = folding.folded(looks, 3, SHAPE)
    one_by_one = folding.folded(looks, 1, SHAPE)
    seen = list(folding.look_together(subject, together, inputs, targets, 2, nullcontext))
    for found, (look,) in zip(seen, one_by_one, strict=True):
        (single,) = folding.look_together(subject, [look], inputs, targets, 2, nullcontext)
        assert found.point == single.point == look.point
        for name in ("probes", "inputs", "score", "outputs", "gradient"):
            torch.testing.assert_close(getattr(found, name), getattr(single, name))
        torch.testing.assert_close(found.activations, single.activations)
        torch.testing.assert_close(found.layer_gradients, single.layer_gradients)


@pytest.mark.parametrize("wanted", ["mean", "weights", "gradients"])
def test_attention_is_shared_out_by_row(wanted: str) -> None:
    model = torch.nn.TransformerEncoderLayer(6, 2, 8, batch_first=True, dtype=torch.float64).eval()

    def call(module: torch.nn.Module, given: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = module(given.flatten(2).mT).mean(1)
        return scores

    subject = Subject(model, call=call)
    inputs, targets = images(2, 6, 2, 2), torch.tensor([0, 3])
    looks = [Look(Noisy(0.1, index), attention=wanted) for index in range(3)]  # type: ignore[arg-type]
    seen = list(folding.look_together(subject, looks, inputs, targets, 0, nullcontext))
    for found, look in zip(seen, looks, strict=True):
        (single,) = folding.look_together(subject, [look], inputs, targets, 0, nullcontext)
        assert len(found.attention) == len(single.attention) == 1
        torch.testing.assert_close(found.attention, single.attention)
        torch.testing.assert_close(found.attention_gradients, single.attention_gradients)


def test_neither_the_clean_input_nor_a_shared_place_is_put_together() -> None:
    looks = [Look(gradient=True), Look(OnPath(0.0), gradient=True), Look(Clean(), gradient=True)]
    assert [len(group) for group in folding.folded(looks, 8, SHAPE)] == [1, 1, 1]
    assert list(folding.folded([], 8, SHAPE)) == []


def test_points_of_other_sizes_have_their_own_passes(accelerated: None) -> None:
    model, inputs, targets = resnet(), images(2, 3, 32, 32), torch.tensor([0, 3])
    methods: dict[str, AnyMethod] = {
        "noisy": SmoothGrad(samples=2),
        "views": TenView(resize=False, crop=0.8),
        "smaller": TenView(resize=False, crop=0.6),
    }
    together = explain(model, inputs, targets, methods).maps
    for name, method in methods.items():
        alone = explain(model, inputs, targets, {name: method}).maps[name]
        torch.testing.assert_close(together[name].signed, alone.signed)


def test_another_rule_has_its_own_passes() -> None:
    """It may send further rows along with those that it is given."""
    rule = OfChannels("layer", 2)
    looks = [Look(Noisy(0.1, index), rule, gradient=True) for index in range(3)]
    assert [len(group) for group in folding.folded(looks, 8, SHAPE)] == [1, 1, 1]


def test_progress_counts_points(accelerated: None) -> None:
    told: list[tuple[int, int]] = []
    model, inputs, targets = deep_case()
    explain(model, inputs, targets, NOISY, progress=lambda *now: told.append(now))
    assert [done for done, _ in told] == [5 * points for points in range(1, 10)]


class Tight(Deep):
    """Memory for a few rows."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if len(inputs) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().forward(inputs)


@pytest.mark.parametrize(
    ("chunk", "most", "left", "sizes"),
    [
        # 40 noisy rows don't fit, nor 20 of four points; two points of five do.
        (40, 12, 10, [5, 40, 5, 20, 5, 10, 10, 10, 10]),
        (47, 12, 10, None),
        (40, 4, 2, None),
    ],
)
def test_where_memory_runs_out_fewer_points_share_a_pass(
    accelerated: None, chunk: int, most: int, left: int, sizes: list[int] | None
) -> None:
    _, inputs, targets = deep_case()
    model = Tight(most)
    roomy = explain(*deep_case(), NOISY)
    with counting(model) as count:
        found = explain(model, inputs, targets, NOISY, chunk=chunk)
    assert found.chunk == left
    assert sizes is None or count.sizes == sizes
    for name in NOISY:
        same(found.maps[name], roomy.maps[name])


def test_masks_of_channels_fill_a_pass() -> None:
    """On every device: 16 of two probes were faster than 8 on a CPU as well."""
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 20, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()
    )
    with counting(model) as count:
        explain(model, images(2, 3, 6, 6).float(), torch.tensor([0, 1]), {"one": ScoreCAM("0")})
    assert count.sizes == [2, 32, 8]
