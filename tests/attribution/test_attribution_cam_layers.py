"""Several layers in one map, and layers that answer with a tuple."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import cv2
import numpy as np
import pytest
import torch
from attribution_methods import same
from attribution_nets import F64, Deep, close, deep_case, images
from test_attribution_parity import Case, scaled
from torch import Tensor, nn

from lightning_saliency.attribution import (
    AnyMethod,
    GradCAM,
    GradCAMPlusPlus,
    HiResCAM,
    LayerCAM,
    Method,
    Saliency,
    explain,
)
from lightning_saliency.attribution.cam import XGradCAM
from lightning_saliency.attribution.cam_ablation import AblationCAM
from lightning_saliency.attribution.cam_forward import EigenCAM, ScoreCAM
from lightning_saliency.attribution.cam_layers import on_one_grid
from lightning_saliency.attribution.taps import Tap
from lightning_saliency.errors import ConfigurationError
from lightning_saliency.targets import Logit

CAMS: dict[str, Callable[..., Method]] = {
    make.__name__: make
    for make in (
        GradCAM,
        GradCAMPlusPlus,
        HiResCAM,
        LayerCAM,
        XGradCAM,
        EigenCAM,
        ScoreCAM,
        AblationCAM,
    )
}


def maps_of(method: Method, case: Case) -> tuple[Tensor, Tensor]:
    model, inputs, targets, _ = case
    maps = explain(model, inputs, targets, {"m": method}, target=Logit()).maps["m"]
    return maps.map, maps.signed


# Several layers

TWO: Case = (Deep(), images(3, 3, 11, 13), torch.tensor([0, 3, 1]), "")


def peak_one(maps: Tensor) -> Tensor:
    return maps / maps.abs().flatten(1).amax(1).view(-1, 1, 1)


def stretched(maps: Tensor, height: int, width: int) -> Tensor:
    """By OpenCV, whose linear resizing also has its pixels' centres in place."""
    done = [
        cv2.resize(one, (width, height), interpolation=cv2.INTER_LINEAR) for one in maps.numpy()
    ]
    return torch.from_numpy(np.stack(done))


@pytest.mark.parametrize("name", [name for name in CAMS if name != "LayerCAM"])
def test_several_layers_are_the_mean_of_their_maps_scaled_to_one(name: str) -> None:
    layers = ["second", "act", "squash"]
    fused = maps_of(CAMS[name](layers), TWO)
    single = [maps_of(CAMS[name](layer), TWO) for layer in layers]
    for kind, wanted in enumerate(fused):
        parts = [peak_one(one[kind].view(3, *one[kind].shape[-2:])) for one in single]
        mean = torch.stack([stretched(one, 11, 13) for one in parts]).mean(0)
        close(wanted.view(3, 11, 13), mean, relative=1e-6)
    assert (fused[1] < 0).any()


def unit(maps: Tensor) -> Tensor:
    low, high = (end.view(-1, 1, 1) for end in (maps.flatten(1).amin(1), maps.flatten(1).amax(1)))
    return (maps - low) / (high - low)


@pytest.mark.parametrize("name", ["GradCAM", "XGradCAM", "GradCAMPlusPlus"])
def test_two_layers_are_fused_as_by_pytorch_grad_cam(name: str) -> None:
    """It scales each map to 0…1 instead of to a peak of 1: the same where a map touches 0."""
    import pytorch_grad_cam
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    model, inputs, targets, _ = case = scaled(TWO)
    layers = ["model.act", "model.second"]
    modules = [model.get_submodule(layer) for layer in layers]
    with getattr(pytorch_grad_cam, name)(model, modules) as extractor:
        wanted = [ClassifierOutputTarget(int(target)) for target in targets]
        theirs = torch.from_numpy(extractor(inputs, wanted))
    model.zero_grad()
    for layer in layers:
        assert (maps_of(CAMS[name](layer), case)[0].flatten(1).amin(1) == 0).all()
    close(unit(maps_of(CAMS[name](layers), case)[0]), theirs.to(F64), relative=1e-5)


def test_layer_cams_are_fused_as_by_torchcam() -> None:
    """tanh(2 M / max M), and the largest at each place."""
    from torchcam.methods import LayerCAM as Theirs

    model, inputs, targets, _ = TWO
    layers: Any = ["act", "second", "squash"]
    with Theirs(model, layers) as extractor:
        cams = extractor(targets.tolist(), model(inputs))
        theirs = extractor.fuse_cams([cam.detach() for cam in cams])
    for layer in layers:
        assert (maps_of(LayerCAM(layer), TWO)[0].flatten(1).amin(1) < 1e-12).all()
    ours, _ = maps_of(LayerCAM(layers), TWO)
    close(ours, theirs, relative=1e-5)


def test_fused_layer_cams_keep_the_sign_of_the_larger() -> None:
    maps = [images(2, 4, 5), 3 * images(2, 4, 5, seed=1)]
    scaled = [(2 * peak_one(one)).tanh() for one in maps]
    larger = scaled[0].where(scaled[0].abs() > scaled[1].abs(), scaled[1])
    close(LayerCAM(["a", "b"]).fuse(maps), larger, relative=1e-12)


def test_signals_and_volumes_are_enlarged_between_the_centres_of_their_places() -> None:
    low, high = images(2, 4), images(2, 10)
    centres = (np.arange(10) + 0.5) * 4 / 10 - 0.5
    wanted = np.stack([np.interp(centres, np.arange(4), one) for one in low.numpy()])
    found = on_one_grid([low, high])
    close(found[0], torch.from_numpy(wanted), relative=1e-12)
    assert torch.equal(found[1], high)
    ramp = torch.linspace(0, 1, 4, dtype=F64).view(1, 1, 1, 4).expand(1, 2, 3, 4)
    sides = on_one_grid([ramp, images(1, 6, 3, 2)])
    assert sides.shape == (2, 1, 6, 3, 4)
    close(sides[0], ramp[:, :1].expand(1, 6, 3, 4), relative=1e-12)


def test_the_order_of_layers_and_the_size_of_chunks_change_nothing() -> None:
    model, inputs, targets = deep_case()
    for make in CAMS.values():
        one, other = make(["act", "second"]), make(["second", "act"])
        first = explain(model, inputs, targets, {"m": one}).maps["m"]
        same(explain(model, inputs, targets, {"m": other}, chunk=2).maps["m"], first)


def test_an_empty_map_of_a_layer_adds_nothing() -> None:
    maps = [torch.zeros(2, 3, 3, dtype=F64), images(2, 3, 3).abs()]
    for make in (GradCAM, LayerCAM):
        found = make(["a", "b"]).fuse(maps)
        close(found, make(["a", "b"]).fuse([maps[1], maps[0]]), relative=1e-12)
        assert found.isfinite().all()


def test_several_layers_are_read_in_one_pass() -> None:
    calls: list[int] = []
    model, inputs, targets = deep_case()
    model.register_forward_hook(lambda *_: calls.append(1))
    gradient_based = ("GradCAM", "GradCAMPlusPlus", "HiResCAM", "LayerCAM", "XGradCAM", "EigenCAM")
    methods: dict[str, AnyMethod] = {
        name: CAMS[name](["first", "second"]) for name in gradient_based
    }
    explain(model, inputs, targets, methods)
    assert calls == [1]


# The argument


def test_a_list_of_layers_is_kept_as_a_tuple_and_one_in_a_list_is_one() -> None:
    assert GradCAM(["a", "b"]).layer == ("a", "b")
    assert GradCAM(["a", "b"]) == GradCAM(("a", "b"))
    assert len({GradCAM(["a", "b"]), GradCAM(("a", "b")), GradCAM(["b", "a"])}) == 2
    for make in CAMS.values():
        assert make(["a"]) == make("a")


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        ([], r"GradCAM\(layer=\[\]\): give the dotted name of a layer"),
        (["a", 3], r"GradCAM\(layer=\['a', 3\]\): give the dotted name"),
        (3, r"GradCAM\(layer=3\): give the dotted name"),
        (["a", "b", "a"], r"a layer is named twice"),
    ],
)
def test_wrong_layers_are_told(layer: Any, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        GradCAM(layer)


def test_each_of_several_layers_is_looked_up() -> None:
    with pytest.raises(ConfigurationError, match="'secnd' is not a layer of Deep"):
        explain(*deep_case(), {"m": EigenCAM(["act", "secnd"])})


def test_yaml_gives_layers_as_a_list() -> None:
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--method", type=Method)
    for name, more in [("cam.XGradCAM", {}), ("cam_forward.ScoreCAM", {"channels": 8})]:
        config = {
            "class_path": f"lightning_saliency.attribution.{name}",
            "init_args": {"layer": ["features.3", "features.6"], **more},
        }
        method = parser.instantiate_classes(parser.parse_object({"method": config})).method
        assert method.layers == ("features.3", "features.6")


# Tuples


class Both(NamedTuple):
    hidden: Tensor
    extra: str


class Answers(nn.Module):
    """A convolution that answers with more than its activation."""

    def __init__(self, conv: nn.Module, kind: str) -> None:
        super().__init__()
        self.conv, self.kind = conv, kind

    def forward(self, inputs: Tensor) -> Any:
        hidden = self.conv(inputs)
        return Both(hidden, "more") if self.kind == "named" else (hidden, None)


class Tupled(Deep):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.first = Answers(self.first, kind)  # type: ignore[assignment]
        self.kind = kind

    def forward(self, inputs: Tensor) -> Tensor:
        answer = self.first(inputs)
        if self.kind == "named":
            assert answer.extra == "more"
        hidden = self.act(answer[0])
        scores: Tensor = self.head(self.squash(self.second(hidden)).flatten(1))
        return scores


@pytest.mark.parametrize("kind", ["plain", "named"])
@pytest.mark.parametrize("extra", [{}, {"gradient": Saliency()}], ids=["short", "whole"])
def test_of_a_layer_that_returns_a_tuple_the_first_is_read(
    kind: str, extra: dict[str, AnyMethod]
) -> None:
    model, inputs, targets = deep_case()
    methods = {name: make("first") for name, make in CAMS.items()} | extra
    tupled, plain = (explain(net, inputs, targets, methods) for net in (Tupled(kind), model))
    for name in methods:
        same(tupled.maps[name], plain.maps[name])


def test_a_tuple_without_an_activation_is_told() -> None:
    class Empty(nn.Module):
        def forward(self, inputs: Tensor) -> Any:
            return (None, inputs)

    with (
        pytest.raises(ConfigurationError, match="layer='0' returns a tuple, not a tensor of"),
        Tap(net := nn.Sequential(Empty()), ["0"]),
    ):
        net(torch.zeros(1))
