"""Ten views: the same sum by hand, mirror images, nets that see the same everywhere, and errors."""

from __future__ import annotations

import re
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from attribution_nets import F64, Quadratic, close, counting, deep_case, images
from torch import Tensor, nn

from lightning_saliency.attribution import Maps, Method, Saliency, Subject, explain
from lightning_saliency.attribution.method import Channels, over_channels
from lightning_saliency.attribution.views import TenView, View
from lightning_saliency.errors import ConfigurationError
from lightning_saliency.targets import Logit

SHAPES = [(2, 19), (3, 11, 16), (1, 8, 9, 7)]
OF_DIMENSIONS = pytest.mark.parametrize("shape", SHAPES, ids=["1d", "2d", "3d"])


def one(method: Method, model: nn.Module, inputs: Tensor, targets: Tensor, chunk: int = 32) -> Maps:
    return explain(model, inputs, targets, {"m": method}, target=Logit(), chunk=chunk).maps["m"]


def convolution(dims: int) -> type[nn.Conv1d] | type[nn.Conv2d] | type[nn.Conv3d]:
    return (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]


class Anywhere(nn.Module):
    """Σ over places of a small net's answer there: it sees the same wherever it stands."""

    def __init__(self, channels: int, dims: int, *, even: bool = False) -> None:
        super().__init__()
        with torch.random.fork_rng([]):
            torch.manual_seed(2)
            self.first = convolution(dims)(channels, 4, 3)
            self.second = convolution(dims)(4, 3, 2 if not even else 3)
        self.to(F64)
        if even:  # mirror images look the same to it
            for layer in (self.first, self.second):
                layer.weight.data += layer.weight.data.flip(-1)

    def forward(self, inputs: Tensor) -> Tensor:
        scores: Tensor = self.second(torch.tanh(self.first(inputs))).flatten(2).sum(2)
        return scores


def by_hand(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    crop: float,
    resize: bool,
    channels: Channels = "max",
) -> tuple[Tensor, Tensor]:
    """Map and signed mean; the gradient goes to the whole input through crop, flip and resize."""
    whole = inputs.shape[2:]
    border = [round(size * (1 - crop) / 2) for size in whole]
    starts = {*product(*((0, 2 * edge) for edge in border)), tuple(border)}
    maps, signed, count = torch.zeros(()), torch.zeros(()), torch.zeros(whole, dtype=F64)
    for start, mirrored in product(starts, (False, True)):
        place = tuple(
            slice(begin, begin + size - 2 * edge)
            for begin, size, edge in zip(start, whole, border, strict=True)
        )
        leaf = inputs.clone().requires_grad_()
        shown: tuple[Any, ...] = (..., *place)
        view = leaf[shown]
        view = view.flip(-1) if mirrored else view
        if resize:
            mode = ("linear", "bilinear", "trilinear")[len(whole) - 1]
            view = F.interpolate(view, size=whole, mode=mode, align_corners=False)
        score = model(view).gather(1, targets[:, None]).sum()
        (gradient,) = torch.autograd.grad(score, leaf)
        maps, signed = maps + over_channels(gradient, channels), signed + gradient
        count[place] += 1
    return maps / count.clamp(min=1), signed / count.clamp(min=1)


@OF_DIMENSIONS
@pytest.mark.parametrize("resize", [False, True])
@pytest.mark.parametrize("crop", [0.8, 0.6])
def test_ten_views_are_their_sum_by_hand(shape: tuple[int, ...], resize: bool, crop: float) -> None:
    inputs, targets = images(3, *shape), torch.tensor([0, 1, 2])
    model = Anywhere(shape[0], len(shape) - 1)
    maps = one(TenView(crop=crop, resize=resize), model, inputs, targets)
    expected = by_hand(model, inputs, targets, crop, resize)
    close(maps.map, expected[0], relative=1e-12)
    close(maps.signed, expected[1], relative=1e-12)


@pytest.mark.parametrize("channels", ["max", "l2", "signed", "positive"])
def test_maps_are_averaged_after_their_channels_are_reduced(channels: Channels) -> None:
    inputs, targets = images(2, 3, 11, 16), torch.tensor([0, 2])
    model = Anywhere(3, 2)
    method = TenView(channels=channels, resize=False)
    ours = one(method, model, inputs, targets)
    close(ours.map, by_hand(model, inputs, targets, 0.875, False, channels)[0], relative=1e-12)
    assert method.signed == (channels == "signed")
    linear = torch.allclose(ours.map, over_channels(ours.signed, channels))
    assert linear == (channels == "signed")


@pytest.mark.parametrize("size", [(11, 13), (10, 12), (11, 12)])
@pytest.mark.parametrize("resize", [False, True])
def test_a_mirrored_probe_has_the_mirrored_map(size: tuple[int, int], resize: bool) -> None:
    """Of any net; also where the border is an odd share of the side."""
    inputs, targets = images(2, 3, *size), torch.tensor([0, 2])
    model = Anywhere(3, 2)
    plain, mirrored = (
        one(TenView(crop=0.7, resize=resize), model, given, targets)
        for given in (inputs, inputs.flip(-1))
    )
    close(mirrored.map, plain.map.flip(-1), relative=1e-12)
    close(mirrored.signed, plain.signed.flip(-1), relative=1e-12)


@pytest.mark.parametrize("shape", [(2, 25), (3, 23, 25), (1, 18, 20, 21)], ids=["1d", "2d", "3d"])
def test_views_agree_where_a_net_sees_the_same_everywhere(shape: tuple[int, ...]) -> None:
    """Beyond the reach of its borders the mean is the one gradient: all views are put in place."""
    inputs, targets = images(2, *shape), torch.tensor([0, 1])
    model = Anywhere(shape[0], len(shape) - 1, even=True)
    views = one(TenView(crop=0.85, resize=False), model, inputs, targets)
    once = one(Saliency(), model, inputs, targets)
    # A pixel of these is 4 or more from the border of the input and of every view.
    inner: tuple[Any, ...] = (..., *(slice(8, size - 8) for size in inputs.shape[2:]))
    close(views.map[inner], once.map[inner], relative=1e-12)
    assert not torch.allclose(views.map, once.map)


@pytest.mark.parametrize(("shape", "passes"), [((2, 19), 6), ((3, 11, 16), 10), ((1, 8, 9, 7), 18)])
def test_views_are_all_corners_and_the_centre_and_their_mirror_images(
    shape: tuple[int, ...], passes: int
) -> None:
    model = Anywhere(shape[0], len(shape) - 1)
    inputs, targets = images(2, *shape), torch.tensor([0, 1])
    with counting(model) as count:
        one(TenView(crop=0.7, resize=False), model, inputs, targets)
    assert count.calls == passes + 2, "the clean input's predictions, and one try of a crop"


def test_without_a_crop_a_probe_and_its_mirror_image_are_left() -> None:
    inputs, targets = images(2, 3, 11, 16), torch.tensor([0, 2])
    model = Anywhere(3, 2)
    with counting(model) as count:
        maps = one(TenView(crop=1.0, resize=False), model, inputs, targets)
    plain = one(Saliency(), model, inputs, targets)
    mirrored = one(Saliency(), model, inputs.flip(-1), targets).signed.flip(-1)
    close(maps.signed, (plain.signed + mirrored) / 2, relative=1e-12)
    assert count.calls == 3


def test_views_that_are_the_same_count_once() -> None:
    """A side that is too short to be cropped: left, right and centre remain."""
    inputs, targets = images(2, 3, 4, 16), torch.tensor([0, 2])
    model = Anywhere(3, 2)
    ours = one(TenView(crop=0.9, resize=False), model, inputs, targets)
    close(ours.map, by_hand(model, inputs, targets, 0.9, False)[0], relative=1e-12)


def test_a_pixel_that_no_view_shows_is_zero() -> None:
    maps = one(
        TenView(crop=0.3, resize=False), Quadratic(), images(3, 1, 20, 20), torch.tensor([0, 1, 2])
    )
    assert not maps.map[:, 6].any()
    assert maps.map[:, 0, 0].all()
    assert maps.map[:, 10, 10].all()


def test_a_side_of_one_pixel_is_kept() -> None:
    maps = one(
        TenView(crop=0.01, resize=False), Quadratic(), images(3, 1, 1, 2), torch.tensor([0, 1, 2])
    )
    assert maps.map.shape == (3, 1, 2)
    assert maps.map.all()


@pytest.mark.parametrize("chunk", [1, 2, 5])
def test_the_size_of_a_chunk_changes_no_map(chunk: int) -> None:
    case, method = deep_case(), TenView(resize=True)
    whole = one(method, *case)
    close(one(method, *case, chunk).map, whole.map, relative=1e-12)
    assert torch.equal(one(method, *case).map, whole.map)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, F64])
@pytest.mark.parametrize("enlarged", [None, (6, 8)])
def test_a_view_keeps_dtype_and_format(
    dtype: torch.dtype, enlarged: tuple[int, int] | None
) -> None:
    inputs = images(2, 3, 6, 8)
    stored = inputs.to(dtype).contiguous(memory_format=torch.channels_last)
    view = View((1, 0), (4, 6), True, enlarged)
    point = view.at(stored, 0)
    assert point.dtype == dtype
    assert point.clone().is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(point.double(), view.at(inputs, 0), rtol=0.02, atol=0.02)


@pytest.mark.parametrize("shape", SHAPES, ids=["1d", "2d", "3d"])
def test_the_gradient_goes_back_by_the_transpose_of_the_view(shape: tuple[int, ...]) -> None:
    """⟨view(x), g⟩ = ⟨x, back(g)⟩, for all x and g."""
    whole = shape[1:]
    view = View((1,) * len(whole), tuple(size - 3 for size in whole), True, whole)
    inputs, gradient = images(2, *shape), images(2, *shape, seed=1)
    there = (view.at(inputs, 0) * gradient).sum()
    back = (inputs[view.place] * view.back(gradient)).sum()
    torch.testing.assert_close(there, back, rtol=1e-12, atol=0)


def transformer() -> nn.Module:
    from torchvision.models import VisionTransformer

    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        model: nn.Module = VisionTransformer(32, 8, 1, 2, 16, 16, num_classes=3)
        nn.init.normal_(model.heads.head.weight)  # type: ignore[union-attr, arg-type]
    return model.to(F64).eval()


@pytest.mark.parametrize("make", [lambda: deep_case()[0], transformer], ids=["linear", "vit"])
def test_a_net_of_one_input_size_needs_views_of_that_size(make: Any) -> None:
    model, side = make(), (11, 13)
    if not isinstance(model, type(deep_case()[0])):
        side = (32, 32)
    inputs, targets = images(3, 3, *side), torch.tensor([0, 1, 2])
    words = f"TenView(channels='max', crop=0.875, resize=False): {type(model).__name__} can't take"
    with pytest.raises(ConfigurationError, match=re.escape(words) + ".*With resize=True views are"):
        one(TenView(resize=False), model, inputs, targets)
    maps = one(TenView(), model, inputs, targets)
    close(maps.map, by_hand(model, inputs, targets, 0.875, True)[0], relative=1e-11)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("full"), ConfigurationError("own")])
def test_errors_of_another_kind_pass(error: Exception) -> None:
    def call(module: nn.Module, inputs: Tensor) -> Tensor:
        raise error

    with pytest.raises(type(error), match=str(error)) as caught:
        TenView(resize=False).bind(Subject(nn.Identity(), call=call), images(2, 3, 11, 16))
    assert caught.value is error


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"crop": 0.0}, r"TenView\(crop=0.0, resize=True\): give a share above 0"),
        ({"crop": 1.5}, r"TenView\(crop=1.5\): give a number from 0.0 to 1.0"),
        ({"crop": 224}, r"TenView\(crop=224\)"),
        ({"resize": 224}, r"resize=224\)"),
        ({"channels": "mean"}, "channels='mean'"),
    ],
)
def test_wrong_arguments_are_told_when_the_method_is_made(given: Any, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        TenView(**given)
