"""XGrad-CAM, Eigen-CAM and Score-CAM: their equations, their peers, and what they promise."""

from __future__ import annotations

import itertools
import warnings
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from attribution_methods import same
from attribution_nets import F64, Closed, Deep, close, counting, deep_case, hooks_on, images, resnet
from test_attribution_models import small_net
from test_attribution_parity import CASES, Case, evidence, grad_cam, signed_map, torch_cam
from torch import Tensor, nn

from lightning_saliency.attribution import AnyMethod, GradCAM, Saliency, explain
from lightning_saliency.attribution.cam import XGradCAM
from lightning_saliency.attribution.cam_ablation import AblationCAM
from lightning_saliency.attribution.cam_forward import EigenCAM, ScoreCAM, first_projection
from lightning_saliency.errors import ConfigurationError
from lightning_saliency.targets import Logit

NEW: dict[str, AnyMethod] = {
    "x": XGradCAM("second"),
    "eigen": EigenCAM("first"),
    "score": ScoreCAM("second"),
    "few": ScoreCAM("act", channels=2),
    "ablation": AblationCAM("act"),
    "some": AblationCAM("second", channels=4),
    "fused": XGradCAM(["act", "second"]),
    "fused forward": AblationCAM(["second", "first"]),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]()


# XGrad-CAM


def test_xgrad_cam_is_its_equation(case: Case) -> None:
    activation, gradient = evidence(case)
    weights = (gradient * activation).sum((2, 3)) / activation.sum((2, 3))
    wanted = torch.einsum("nk,nkhw->nhw", weights.nan_to_num(), activation)[:, None]
    close(signed_map(XGradCAM(case[3]), case), wanted, relative=1e-10)


def test_xgrad_cam_is_that_of_pytorch_grad_cam(case: Case) -> None:
    close(signed_map(XGradCAM(case[3]), case), grad_cam("XGradCAM", case), relative=1e-5)


def test_xgrad_cam_is_torchcams(case: Case) -> None:
    model, inputs, targets, layer = case
    ours = explain(model, inputs, targets, {"m": XGradCAM(layer)}, target=Logit()).maps["m"].map
    close(ours, torch_cam("XGradCAM", case))


def test_xgrad_cam_adds_up_to_the_score_above_a_relu() -> None:
    """The axiom that it is made for (conservation): Σ_ij M_ij = Σ g A, here the logit less bias."""
    model, inputs, targets = Closed(), images(3, 2, 6, 7), torch.tensor([0, 3, 1])
    signed = signed_map(XGradCAM("relu"), (model, inputs, targets, "relu"))
    score = (model(inputs) - model.head.bias).gather(1, targets[:, None])
    torch.testing.assert_close(signed.sum((2, 3)), score.detach())


def test_a_channel_that_cancels_is_weighed_as_grad_cam_weighs_it() -> None:
    activation = torch.tensor([[[1.0, -1.0, 3.0, -3.0], [1.0, 2.0, 0.0, 1.0]]], dtype=F64)
    gradient = images(1, 2, 4, seed=1)
    weight = gradient.mean(2)[0, 0], (gradient * activation)[0, 1].sum() / 4
    for rest in (0.0, 1e-9, 0.07):  # of Σ|A| = 8; Grad-CAM below 1 %
        activation[0, 0, 0] = 1 + rest
        found = XGradCAM("any").combine(activation, gradient)
        close(found, weight[0] * activation[:, 0] + weight[1] * activation[:, 1], relative=1e-12)
    activation[0, 0, 0] = 1.1
    weighed = (gradient * activation)[0, 0].sum() / activation[0, 0].sum()
    found = XGradCAM("any").combine(activation, gradient)
    close(found, weighed * activation[:, 0] + weight[1] * activation[:, 1], relative=1e-10)


def test_xgrad_cam_of_an_even_gradient_is_grad_cam_whether_it_cancels_or_not() -> None:
    gradient = images(2, 3, 1, 1).expand(2, 3, 4, 5)
    activation = images(2, 3, 4, 5, seed=1)
    activation[0, 0] -= activation[0, 0].mean()
    ours = XGradCAM("any").combine(activation, gradient)
    close(ours, GradCAM("any").combine(activation, gradient), relative=1e-10)


def test_dead_channels_and_dead_probes_leave_zero() -> None:
    activation, gradient = images(2, 3, 4, 5).abs(), images(2, 3, 4, 5, seed=1)
    activation[0], activation[1, 1] = 0, 0
    found = XGradCAM("any").combine(activation, gradient)
    assert not found[0].any()
    kept = [0, 2]
    close(found[1:], XGradCAM("any").combine(activation[1:, kept], gradient[1:, kept]))


# Eigen-CAM


def by_svd(activation: Tensor) -> Tensor:
    """The paper's: A v₁ of the places × channels of each probe, by numpy; of either sign."""
    found = []
    for one in activation.numpy():
        matrix = one.reshape(len(one), -1).T
        vectors = np.linalg.svd(matrix, full_matrices=False)[2]
        found.append(torch.from_numpy(matrix @ vectors[0]).view(one.shape[1:]))
    return torch.stack(found)


def of_one_sign(ours: Tensor, theirs: Tensor) -> Tensor:
    """Theirs, with the sign of ours."""
    dot = (ours * theirs).flatten(1).sum(1).sign()
    return theirs * dot.view(-1, *[1] * (ours.ndim - 1))


def test_eigen_cam_is_a_singular_value_decomposition(case: Case) -> None:
    wanted = by_svd(evidence(case)[0])
    ours = signed_map(EigenCAM(case[3]), case)[:, 0]
    close(ours, of_one_sign(ours, wanted), relative=1e-8)


@pytest.mark.parametrize("shape", [(3, 4, 9), (3, 20, 5), (2, 7, 3, 4), (2, 3, 2, 3, 4), (2, 1, 6)])
def test_more_channels_than_places_or_fewer_give_the_same_projection(
    shape: tuple[int, ...],
) -> None:
    activation = images(*shape)
    ours = first_projection(activation)
    close(ours, of_one_sign(ours, by_svd(activation)), relative=1e-8)
    close(first_projection(1e-30 * activation.float()).to(F64), 1e-30 * ours, relative=1e-4)


class Centred(Deep):
    """A layer whose channels have mean 0 over places: there centring changes nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.centre = nn.Identity()

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.act(self.first(inputs))
        hidden = self.centre(hidden - hidden.mean((2, 3), keepdim=True))
        scores: Tensor = self.head(self.squash(self.second(hidden)).flatten(1))
        return scores


def test_eigen_cam_of_centred_channels_is_that_of_pytorch_grad_cam_but_for_its_sign() -> None:
    """pytorch-grad-cam centres every channel over places, the paper's equation does not."""
    case: Case = (Centred(), images(3, 3, 11, 13), torch.tensor([0, 3, 1]), "centre")
    ours, theirs = signed_map(EigenCAM("centre"), case), grad_cam("EigenCAM", case)
    close(ours, of_one_sign(ours, theirs.to(F64)), relative=1e-6)
    raw: Case = (Deep(), *case[1:3], "act")
    ours, theirs = signed_map(EigenCAM("act"), raw), grad_cam("EigenCAM", raw)
    with pytest.raises(AssertionError, match="relative difference"):
        close(ours, of_one_sign(ours, theirs.to(F64)), relative=0.05)


def test_of_positive_activations_nothing_is_cut_off() -> None:
    maps = explain(*deep_case(), {"m": EigenCAM("act")}).maps["m"]
    assert (maps.signed > -1e-12).all()
    assert torch.equal(maps.map, maps.signed[:, 0].clamp(min=0))


def test_the_larger_part_of_a_projection_is_positive() -> None:
    activation = images(6, 4, 3, 5)
    found = first_projection(activation).flatten(1)
    kept, lost = found.clamp(min=0), found.clamp(max=0)
    assert (kept.square().sum(1) > lost.square().sum(1)).all()
    torch.testing.assert_close(first_projection(-activation).flatten(1), found)


def test_eigen_cam_knows_no_class_and_says_so() -> None:
    model, inputs, targets = deep_case()
    one, other = (
        explain(model, inputs, classes, {"m": EigenCAM()})
        for classes in (targets, (targets + 1) % 4)
    )
    assert torch.equal(one.maps["m"].map, other.maps["m"].map)
    assert "every class" in EigenCAM.caution


def test_a_probe_that_is_not_finite_has_no_projection_and_spoils_no_other() -> None:
    activation = images(3, 4, 3, 5)
    whole = first_projection(activation)
    activation[1, 2, 0, 0] = torch.inf
    found = first_projection(activation)
    assert found[1].isnan().all()
    assert torch.equal(found[[0, 2]], whole[[0, 2]])
    assert not first_projection(torch.zeros(1, 4, 3, 5)).any()


# Score-CAM


def naive_score_cam(case: Case, channels: int | None = None) -> Tensor:
    """Algorithm 1, channel by channel; the baseline is the image itself."""
    model, inputs, targets, _ = case
    found = []
    for probe, target, activation in zip(inputs, targets, evidence(case)[0], strict=True):
        active = activation.flatten(1).abs().sum(1).argsort(descending=True)[:channels]
        increases = []
        for one in activation[active]:
            mask = F.interpolate(one[None, None], probe.shape[1:], mode="bilinear")
            low, high = mask.min(), mask.max()
            mask = (mask - low) / (high - low) if high > low else 0 * mask
            pair = torch.cat([probe * mask, probe[None]])
            with torch.no_grad():
                masked, clean = model(pair)[:, target]
            increases.append(float(masked - clean))
        weights = np.exp(increases) / np.exp(increases).sum()
        found.append(sum(w * one for w, one in zip(weights, activation[active], strict=True)))
    return torch.stack([one for one in found if isinstance(one, Tensor)])[:, None]


@pytest.mark.parametrize("layer", ["first", "act", "second", "squash"])
@pytest.mark.parametrize("channels", [None, 1, 3])
def test_score_cam_is_its_algorithm(layer: str, channels: int | None) -> None:
    case: Case = (Deep(), images(3, 3, 11, 13), torch.tensor([0, 3, 1]), layer)
    ours = signed_map(ScoreCAM(layer, channels=channels), case)
    close(ours, naive_score_cam(case, channels), relative=1e-10)


@pytest.mark.parametrize("layer", ["first", "act"])
def test_score_cam_is_that_of_the_peers_where_nothing_is_enlarged(layer: str) -> None:
    """Elsewhere pytorch-grad-cam enlarges with corners aligned, and torchcam scales before."""
    case: Case = (Deep(), images(3, 3, 11, 13), torch.tensor([0, 3, 1]), layer)
    model, inputs, targets, _ = case
    maps = explain(model, inputs, targets, {"m": ScoreCAM(layer)}, target=Logit()).maps["m"]
    theirs = grad_cam("ScoreCAM", case)
    close(maps.signed, theirs.to(F64), relative=1e-5)
    close(maps.map, torch_cam("ScoreCAM", case), relative=1e-5)


def test_masks_are_scaled_after_they_are_enlarged() -> None:
    """As the paper's algorithm has it: the mask of the image has 0 and 1; torchcam's has not."""
    seen: list[Tensor] = []

    class Watched(Deep):
        def forward(self, inputs: Tensor) -> Tensor:
            seen.append(inputs)
            return super().forward(inputs)

    explain(
        Watched(),
        torch.ones(2, 3, 11, 13, dtype=F64),
        torch.zeros(2).long(),
        {"m": ScoreCAM("second")},
    )
    masked = seen[-1]
    assert masked.shape == (6 * 2, 3, 11, 13)
    assert (masked.flatten(1).amin(1) == 0).all()
    assert (masked.flatten(1).amax(1) == 1).all()


def test_a_channel_of_one_value_masks_everything() -> None:
    class Flat(Deep):
        def forward(self, inputs: Tensor) -> Tensor:
            hidden = self.act(self.first(inputs) * torch.tensor([1, 0, 1, 1, 1]).view(1, 5, 1, 1))
            scores: Tensor = self.head(self.squash(self.second(hidden)).flatten(1))
            return scores

    case: Case = (Flat(), images(2, 3, 11, 13), torch.tensor([0, 3]), "act")
    close(signed_map(ScoreCAM("act"), case), naive_score_cam(case), relative=1e-10)


# All of them


def test_score_cam_takes_one_pass_per_channel_and_fills_it_where_probes_are_few() -> None:
    model, inputs, targets = deep_case()
    for method, sizes in [
        (ScoreCAM("second"), [30]),
        (ScoreCAM(["act", "second"]), [25, 30]),
        (ScoreCAM("second", channels=2), [10]),
        (ScoreCAM("second", channels=99), [30]),
    ]:
        with counting(model) as count:
            explain(model, inputs, targets, {"m": method, "gradient": Saliency()})
        assert count.sizes == [5, *sizes]
    for probes, copies in [(1, 6), (8, 4), (10, 3), (16, 2), (17, 1), (32, 1)]:
        with counting(model) as count:
            explain(model, images(probes, 3, 11, 13), torch.zeros(probes).long(), {"m": method})
        assert count.sizes[:2] == [probes, copies * probes]


@pytest.mark.parametrize("make", [ScoreCAM, AblationCAM])
def test_channels_are_the_most_active_and_their_share_is_told(make: type[ScoreCAM]) -> None:
    case = deep_case()
    few = explain(*case, {"m": make("act", channels=2)}).maps["m"]
    activation = evidence((*case, "act"))[0].flatten(2).abs().sum(2)
    share = activation.topk(2, 1).values.sum(1) / activation.sum(1)
    torch.testing.assert_close(few.numbers["channels_share"], share)
    whole = explain(*case, {"m": make("act")}).maps["m"]
    assert whole.numbers == {}
    every = explain(*case, {"m": make("act", channels=5)}).maps["m"]
    torch.testing.assert_close(every.numbers["channels_share"], torch.ones(5, dtype=F64))
    close(every.signed, whole.signed, relative=1e-12)


@pytest.mark.parametrize("make", [ScoreCAM, AblationCAM])
@pytest.mark.parametrize("wrong", [0, -1, 2.0, True, "all"])
def test_wrong_channels_are_told(make: type[ScoreCAM], wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"channels={wrong!r}.: give at least 1"):
        make(channels=wrong)


@pytest.mark.parametrize("chunk", [1, 2, 5])
def test_chunks_and_company_change_nothing(chunk: int) -> None:
    together = explain(*deep_case(), {**NEW, "gradient": Saliency()}, chunk=chunk)
    for name, method in NEW.items():
        same(together.maps[name], explain(*deep_case(), {name: method}).maps[name])


def test_a_second_call_gives_the_same_to_the_last_bit_and_nothing_is_left() -> None:
    model, inputs, targets = deep_case()
    one, other = (explain(model, inputs, targets, NEW) for _ in range(2))
    for name in NEW:
        assert torch.equal(one.maps[name].signed, other.maps[name].signed)
        assert (one.maps[name].map >= 0).all()
        assert not one.maps[name].signed.requires_grad
    assert hooks_on(model) == 0
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("dimensions", [1, 2, 3])
@pytest.mark.parametrize("channels", [2, 1])
def test_signals_images_and_volumes_of_one_channel_too(dimensions: int, channels: int) -> None:
    net, spatial = small_net(dimensions), (8, 7, 6)[:dimensions]
    if channels == 1:
        net = nn.Sequential(Twofold(), *net.children())
    inputs, targets = images(3, channels, *spatial), torch.tensor([0, 1, 2])
    methods: dict[str, AnyMethod] = {
        make.__name__: make() for make in (XGradCAM, EigenCAM, ScoreCAM, AblationCAM)
    }
    for name, maps in explain(net, inputs, targets, methods).maps.items():
        assert maps.map.shape == (3, *(side - 3 for side in spatial)), name
        assert maps.signed.isfinite().all()
        assert (maps.signed.flatten(1).std(1) > 0).all(), name


class Twofold(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        return torch.cat([inputs, -inputs], 1)


@pytest.mark.parametrize("layer", [None, "act"])
def test_a_model_without_gradients_has_forward_maps(layer: str | None) -> None:
    class Blind(Deep):
        def forward(self, inputs: Tensor) -> Tensor:
            with torch.no_grad():
                return super().forward(inputs)

    _, inputs, targets = deep_case()
    methods: dict[str, AnyMethod] = {
        make.__name__: make(layer) for make in (EigenCAM, ScoreCAM, AblationCAM)
    }
    blind, sighted = (explain(net, inputs, targets, methods) for net in (Blind(), Deep()))
    for name in methods:
        same(blind.maps[name], sighted.maps[name])


@pytest.mark.parametrize(("dtype", "digits"), [(torch.float16, 3e-2), (torch.bfloat16, 1e-1)])
def test_half_precision_is_near_full(dtype: torch.dtype, digits: float) -> None:
    half, full = explain(*deep_case(dtype=dtype), NEW), explain(*deep_case(), NEW)
    for name, kind in itertools.product(("eigen", "score", "x"), ("map", "signed")):
        ours, theirs = getattr(half.maps[name], kind), getattr(full.maps[name], kind)
        assert ours.dtype == torch.float32
        close(ours.to(F64), theirs, relative=digits)


def test_a_resnet_is_explained_by_all_of_them_without_a_warning() -> None:
    methods: dict[str, AnyMethod] = {
        make.__name__: make() for make in (XGradCAM, EigenCAM, AblationCAM)
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = explain(resnet(), images(2, 3, 64, 64), torch.tensor([3, 9]), methods)
    for maps in found.maps.values():
        assert maps.signed.shape == (2, 1, 2, 2)
        assert (maps.signed.flatten(1).std(1) > 0).all()
