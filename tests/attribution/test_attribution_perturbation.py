"""Occlusion and RISE: closed forms, captum's and the paper's programs, and laws."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from attribution_nets import F64, Deep, close, counting, deep_case, images
from captum import attr
from torch import Tensor, nn

from lightning_saliency.attribution import Method, Saliency, explain
from lightning_saliency.attribution.method import Maps
from lightning_saliency.attribution.passes import in_chunks
from lightning_saliency.attribution.perturbation import RISE, Masked, Occluded, Occlusion
from lightning_saliency.attribution.subject import Subject
from lightning_saliency.errors import ConfigurationError
from lightning_saliency.targets import Logit


class Linear(nn.Module):
    """z_c = Σ w_c ⊙ x, for any number of dimensions."""

    def __init__(self, *shape: int, classes: int = 3) -> None:
        super().__init__()
        self.weight = images(classes, *shape, seed=7)

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.flatten(1) @ self.weight.to(inputs.dtype).flatten(1).T


class Bent(Linear):
    """A score that is no sum over pixels, of inputs of any shape."""

    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs.tanh() + inputs.square() / 4).sin()


def one(method: Method, model: nn.Module, inputs: Tensor, targets: Tensor, chunk: int = 32) -> Maps:
    return explain(model, inputs, targets, {"m": method}, target=Logit(), chunk=chunk).maps["m"]


def score(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(inputs).gather(1, targets[:, None])[:, 0]
        return found


WINDOWS: list[tuple[Any, Any, float]] = [
    (3, 2, 0.0),
    ((5, 3), (3, 2), 0.7),
    (1, 1, -0.3),
    ((11, 13), 4, 0.0),
]


@pytest.mark.parametrize(("window", "stride", "baseline"), WINDOWS)
def test_occlusion_is_captums_where_windows_end_at_the_border(
    window: Any, stride: Any, baseline: float
) -> None:
    model, inputs, targets = deep_case(3)
    pair = [(3, *one) if isinstance(one, tuple) else (3, one, one) for one in (window, stride)]
    theirs = attr.Occlusion(model).attribute(
        inputs, pair[0], strides=pair[1], baselines=baseline, target=targets
    )
    method = Occlusion(window=window, stride=stride, baseline=baseline)
    close(one(method, model, inputs, targets).map, theirs[:, 0].double())


def test_occlusion_by_a_baseline_per_channel_is_captums() -> None:
    model, inputs, targets = deep_case(2)
    start = (0.7, -1.2, 0.1)
    theirs = attr.Occlusion(model).attribute(
        inputs,
        (3, 3, 3),
        strides=(3, 2, 2),
        baselines=inputs.new_tensor(start).view(1, 3, 1, 1).expand(1, 3, 11, 13),
        target=targets,
    )
    method = Occlusion(window=3, stride=2, baseline=start)
    close(one(method, model, inputs, targets).map, theirs[:, 0].double())


def test_windows_at_the_border_are_whole() -> None:
    """An image that is the same everywhere has the same map everywhere; captum's last windows are
    cut, so that its map fades towards the border."""
    inputs, targets = torch.ones(1, 1, 7, 8, dtype=F64), torch.tensor([0])
    model = Linear(1, 7, 8)
    model.weight = torch.ones(3, 1, 7, 8, dtype=F64)
    ours = one(Occlusion(window=3, stride=3), model, inputs, targets).map
    torch.testing.assert_close(ours, torch.full_like(ours, 9), rtol=1e-12, atol=0)
    theirs = attr.Occlusion(model).attribute(inputs, (1, 3, 3), strides=(1, 3, 3), target=targets)
    assert theirs.min() == 2
    assert theirs.max() == 9


def naive_occlusion(
    model: nn.Module, inputs: Tensor, targets: Tensor, window: list[int], stride: list[int]
) -> Tensor:
    """Pixel by pixel, the mean over the windows that hold it."""
    sides = inputs.shape[2:]
    starts = []
    for side, size, step in zip(sides, window, stride, strict=True):
        along = list(range(0, side - size + 1, step))
        starts.append(along if along[-1] == side - size else [*along, side - size])
    falls: dict[tuple[int, ...], Tensor] = {}
    for corner in product(*starts):
        without = inputs.clone()
        where = tuple(slice(a, a + size) for a, size in zip(corner, window, strict=True))
        without[(slice(None),) * 2 + where] = 0
        falls[corner] = score(model, inputs, targets) - score(model, without, targets)
    pixels = []
    for pixel in product(*map(range, sides)):
        over = [
            fall
            for corner, fall in falls.items()
            if all(a <= p < a + size for a, p, size in zip(corner, pixel, window, strict=True))
        ]
        pixels.append(torch.stack(over).mean(0))
    return torch.stack(pixels, 1).view(len(inputs), *sides)


SHAPES = {"series": (2, 13), "image": (1, 7, 9), "volume": (2, 4, 5, 3)}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize(("window", "stride"), [(3, 2), (2, 2), (3, 1)])
def test_occlusion_is_the_mean_over_the_windows_that_hold_a_pixel(
    shape: tuple[int, ...], window: int, stride: int
) -> None:
    inputs, targets, model = images(2, *shape), torch.tensor([0, 2]), Bent(*shape)
    dimensions = len(shape) - 1
    wanted = naive_occlusion(model, inputs, targets, [window] * dimensions, [stride] * dimensions)
    ours = one(Occlusion(window=window, stride=stride), model, inputs, targets)
    close(ours.map, wanted, relative=1e-10)
    assert torch.equal(ours.signed[:, 0], ours.map)


def test_occluding_single_pixels_of_a_linear_net_is_input_times_weight() -> None:
    inputs, targets, model = images(3, 2, 5, 6), torch.tensor([0, 1, 2]), Linear(2, 5, 6)
    wanted = (model.weight[targets] * inputs).sum(1)
    close(one(Occlusion(window=1), model, inputs, targets).map, wanted, relative=1e-12)


def test_the_default_window_is_an_eighth_of_the_side_and_windows_do_not_overlap() -> None:
    inputs, targets, model = images(1, 1, 16, 9), torch.tensor([0]), Bent(1, 16, 9)
    with counting(model) as count:
        ours = one(Occlusion(), model, inputs, targets).map
    assert count.calls == 1 + 8 * 5
    assert torch.equal(ours[:, ::2], ours[:, 1::2])
    close(ours, one(Occlusion(window=2), model, inputs, targets).map)


def test_the_defaults_work_in_each_number_of_dimensions() -> None:
    for shape in SHAPES.values():
        inputs, targets = images(1, *shape), torch.tensor([1])
        for method in (Occlusion(), RISE(masks=3, cells=2)):
            assert one(method, Bent(*shape), inputs, targets).map.shape == (1, *shape[1:])


def test_scores_of_the_input_are_shared_with_other_methods() -> None:
    model, inputs, targets = deep_case(2)
    methods = {"a": Occlusion(window=11), "b": Saliency(), "c": Occlusion(window=11, stride=2)}
    with counting(model) as count:
        explain(model, inputs, targets, methods)
    assert count.calls == 1 + 2


METHODS: dict[str, Callable[[], Method]] = {
    "occlusion": lambda: Occlusion(window=4, stride=3),
    "rise": lambda: RISE(masks=40, cells=4),
}


@pytest.mark.parametrize("make", METHODS.values(), ids=METHODS)
def test_maps_do_not_depend_on_chunks_nor_on_the_call(make: Callable[[], Method]) -> None:
    model, inputs, targets = deep_case()
    whole = one(make(), model, inputs, targets)
    torch.manual_seed(5)
    assert torch.equal(whole.map, one(make(), model, inputs, targets).map)
    for chunk in (1, 3):
        close(one(make(), model, inputs, targets, chunk).map, whole.map, relative=1e-12)
    bound = make().bind(Subject(model, Logit()), inputs)
    parts = in_chunks(
        Subject(model, Logit()), inputs[2:], targets[2:], {"m": bound}, chunk=2, first=2
    )
    shared = torch.cat([part.maps["m"].map for part in parts])
    close(shared, whole.map[2:], relative=1e-12)


@pytest.mark.parametrize("make", METHODS.values(), ids=METHODS)
def test_no_graph_is_kept_and_inputs_stay(make: Callable[[], Method]) -> None:
    model, inputs, targets = deep_case(2)
    before = inputs.clone()
    graphs = []
    hook = model.register_forward_hook(lambda *args: graphs.append(args[2].requires_grad))
    maps = one(make(), model, inputs, targets)
    hook.remove()
    assert not any(graphs)
    assert torch.equal(inputs, before)
    assert make().signed
    assert (maps.map < 0).any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, F64])
def test_points_keep_dtype_and_memory_format(dtype: torch.dtype) -> None:
    inputs = images(2, 3, 8, 8, dtype=dtype).contiguous(memory_format=torch.channels_last)
    for point in (Occluded((1, 2), (3, 4), (0.5, 0.1, 0.0)), Masked(0), Masked(1, baseline=0.5)):
        moved = point.at(inputs, 0)
        assert moved.dtype == dtype
        assert moved.is_contiguous(memory_format=torch.channels_last)


def paper_mask(
    index: int, cells: int, sides: tuple[int, ...], seed: int = 0
) -> np.ndarray[Any, Any]:
    """The mask of a point from its own random numbers, enlarged side by side by numpy."""
    from lightning_saliency.attribution.points import mix

    generator = torch.Generator().manual_seed(mix(seed, index))
    grid = (torch.rand(*[cells] * len(sides), generator=generator) < 0.5).double().numpy()
    size = [-(-side // cells) for side in sides]
    shift = [int(torch.randint(one, (), generator=generator)) for one in size]
    for dimension, (cell, start, side) in enumerate(zip(size, shift, sides, strict=True)):
        # The centre of each pixel, in units of the small grid's centres.
        centres = (np.arange((cells + 1) * cell) + 0.5) * cells / ((cells + 1) * cell) - 0.5
        enlarge = partial(np.interp, centres, np.arange(cells))
        enlarged = np.apply_along_axis(enlarge, dimension, grid)
        grid = np.take(enlarged, range(start, start + side), dimension)
    return grid


@pytest.mark.parametrize("sides", [(17,), (11, 16), (5, 7, 6)])
def test_masks_are_the_papers(sides: tuple[int, ...]) -> None:
    like = images(1, 1, *sides)
    for index in range(5):
        mask = Masked(index, cells=4).mask(like)
        np.testing.assert_allclose(mask.numpy(), paper_mask(index, 4, sides), atol=1e-12)


def test_masks_are_a_function_of_seed_and_index_alone() -> None:
    like = images(1, 1, 40, 40)
    torch.manual_seed(9)
    assert torch.equal(Masked(3, 5).mask(like), Masked(3, 5).mask(images(4, 2, 40, 40)))
    drawn = [Masked(3, 5), Masked(4, 5), Masked(3, 6), Masked(5, 3)]
    flat = torch.stack([point.mask(like).flatten() for point in drawn])
    assert torch.corrcoef(flat).fill_diagonal_(0).abs().max() < 0.6
    mean = torch.stack([Masked(index, p=0.3).mask(like) for index in range(400)]).mean(0)
    assert (mean - 0.3).abs().max() < 0.12
    assert (mean.mean() - 0.3).abs() < 0.01


def test_rise_is_the_masks_weighted_by_their_scores() -> None:
    model, inputs, targets = deep_case(3)
    stack = torch.from_numpy(
        np.stack([paper_mask(index, 4, (11, 13), seed=2) for index in range(30)])
    )
    scores = torch.stack([score(model, inputs * mask, targets) for mask in stack])
    weighted = torch.einsum("mn,mhw->nhw", scores, stack) / stack.sum(0)
    wanted = weighted - scores.mean(0).view(-1, 1, 1)
    ours = one(RISE(masks=30, cells=4, seed=2), model, inputs, targets)
    close(ours.map, wanted, relative=1e-9)
    assert torch.equal(ours.signed[:, 0], ours.map)


def smoothing(side: int, cells: int) -> Tensor:
    """Cov(M_p, M_q) / E[M_p] of a mask along one side of `side` pixels, at p = ½: exactly."""
    cell = -(-side // cells)
    centres = (np.arange((cells + 1) * cell) + 0.5) * cells / ((cells + 1) * cell) - 0.5
    hats = np.stack([np.interp(centres, np.arange(cells), unit) for unit in np.eye(cells)], 1)
    shifted = np.stack([hats[start : start + side] for start in range(cell)])
    return torch.from_numpy((shifted @ shifted.transpose(0, 2, 1)).mean(0) / 2)


def test_rise_of_a_linear_net_is_the_smoothed_input_times_weight() -> None:
    """E[s | seen] − E[s] = K (w ⊙ x), with K the masks' covariance; what is left is noise."""
    inputs, targets, model = images(8, 2, 12), torch.arange(8) % 3, Linear(2, 12)
    wanted = (model.weight[targets] * inputs).sum(1) @ smoothing(12, 3)
    seeds: dict[str, Method] = {str(seed): RISE(masks=64, cells=3, seed=seed) for seed in range(16)}
    maps = explain(model, inputs, targets, seeds, target=Logit()).maps
    found = torch.stack([maps[seed].map for seed in seeds])
    single, mean = (
        ((one - wanted).square().mean() / wanted.square().mean()).sqrt()
        for one in (found, found.mean(0))
    )
    assert single < 0.3
    assert mean < single / 3


def test_rise_is_blind_to_a_constant_of_the_score() -> None:
    class Lifted(Bent):
        def forward(self, inputs: Tensor) -> Tensor:
            return super().forward(inputs) * 1e-3 + 1e3

    inputs, targets = images(2, 1, 8, 8, dtype=torch.float32), torch.tensor([0, 1])
    ours = one(RISE(masks=50, cells=4), Lifted(1, 8, 8), inputs, targets).map
    exact = one(RISE(masks=50, cells=4), Lifted(1, 8, 8), inputs.double(), targets).map
    # The scores themselves are rounded to 6e-5, of differences of 1e-3.
    close(ours.double(), exact, relative=0.1)


def test_rise_where_no_mask_has_been_is_zero() -> None:
    inputs, targets = images(1, 1, 30), torch.tensor([0])
    method = RISE(masks=2, cells=10, p=0.1)
    unseen = torch.stack([Masked(index, 0, 10, 0.1).mask(inputs) for index in range(2)]).sum(0) == 0
    assert unseen.any()
    found = one(method, Bent(1, 30), inputs, targets).map[0]
    assert found.isfinite().all()
    assert not found[unseen].any()
    assert found.any()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Occlusion(window=0), r"Occlusion\(window=0\): give at least 1"),
        (lambda: Occlusion(window=(3, 2.5)), r"window=2.5"),  # type: ignore[arg-type]
        (lambda: Occlusion(stride=True), r"stride=True"),
        (lambda: Occlusion(baseline="mean"), r"baseline='mean'\): give a number"),  # type: ignore[arg-type]
        (lambda: Occlusion(baseline=()), r"baseline=\(\)"),
        (lambda: RISE(masks=1), r"RISE\(masks=1\): give at least 2"),
        (lambda: RISE(cells=0), r"cells=0"),
        (lambda: RISE(p=1.5), r"p=1.5\): give a number from 0 to 1"),
        (lambda: RISE(p=0), r"p=0\): masks would all be equal"),
        (lambda: RISE(seed=-1), r"seed=-1"),
        (lambda: RISE(baseline=float("nan")), r"baseline=nan"),
    ],
)
def test_wrong_arguments_are_told_when_the_method_is_made(make: Any, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        make()


@pytest.mark.parametrize(
    ("method", "words"),
    [
        (Occlusion(window=12), r"window=12\) is larger than the input, \(11, 13\)"),
        (Occlusion(window=(3, 3, 3)), r"window=\(3, 3, 3\)\) has 3 numbers, the inputs have 2"),
        (Occlusion(window=3, stride=4), r"stride=4\) steps over pixels"),
        (Occlusion(window=3, stride=(1, 2, 3)), r"stride=\(1, 2, 3\)\) has 3 numbers"),
        (Occlusion(baseline=(0.0, 1.0)), "has 2 numbers, the inputs have 3 channels"),
        (RISE(cells=12), r"RISE\(cells=12\) divides sides of \(11, 13\) pixels: give at most 11"),
    ],
)
def test_what_does_not_fit_the_inputs_is_told(method: Method, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        one(method, Deep(), *deep_case(1)[1:])


def test_binding_leaves_the_method_of_the_user() -> None:
    method = Occlusion(window=3)
    model, inputs, targets = deep_case(1)
    one(method, model, inputs, targets)
    assert method == Occlusion(window=3)
    assert repr(method) == "Occlusion(window=3, stride=None, baseline=0.0)"
