"""KernelSHAP and LIME over segments: Shapley's formula, captum, scikit-learn, and laws."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from math import factorial
from typing import Any

import numpy as np
import pytest
import torch
from attribution_nets import F64, Deep, close, counting, deep_case, images
from captum import attr
from torch import Tensor, nn

from lightning_saliency.attribution import IntegratedGradients, Method, explain
from lightning_saliency.attribution.coalitions import nearness
from lightning_saliency.attribution.dividing import divided, grid
from lightning_saliency.attribution.method import Maps
from lightning_saliency.attribution.passes import in_chunks
from lightning_saliency.attribution.segments import LIME, KernelSHAP
from lightning_saliency.attribution.subject import Subject
from lightning_saliency.targets import Logit


class Bent(nn.Module):
    """A score that is no sum over segments, of inputs of any shape."""

    def __init__(self, *shape: int, bend: float = 1.0) -> None:
        super().__init__()
        self.weight, self.bend = images(3, *shape, seed=7), bend

    def forward(self, inputs: Tensor) -> Tensor:
        drive = inputs.flatten(1) @ self.weight.to(inputs.dtype).flatten(1).T / 3
        return drive + self.bend * (2 * drive).sin()


def one(method: Method, model: nn.Module, inputs: Tensor, targets: Tensor, chunk: int = 32) -> Maps:
    return explain(model, inputs, targets, {"m": method}, target=Logit(), chunk=chunk).maps["m"]


def case(*shape: int, count: int = 3) -> tuple[nn.Module, Tensor, Tensor]:
    return Bent(*shape), images(count, *shape), torch.arange(count) % 3


def with_segments(inputs: Tensor, labels: Tensor, seen: list[int], baseline: float) -> Tensor:
    """The inputs `(n, C, *spatial)` with these segments of `labels` `(*spatial)` alone."""
    shown = torch.isin(labels, torch.tensor(seen, dtype=labels.dtype))
    return torch.where(shown, inputs, torch.full_like(inputs, baseline))


def shapley(
    model: nn.Module, inputs: Tensor, targets: Tensor, labels: Tensor, baseline: float
) -> Tensor:
    """Shapley's formula, `(n, M)`: each segment over all subsets of the others."""
    segments = int(labels.max()) + 1
    scores: dict[tuple[int, ...], Tensor] = {}
    with torch.no_grad():
        for size in range(segments + 1):
            for seen in combinations(range(segments), size):
                outputs = model(with_segments(inputs, labels, list(seen), baseline))
                scores[seen] = outputs.gather(1, targets[:, None])[:, 0]
    found = torch.zeros(len(inputs), segments, dtype=F64)
    for segment in range(segments):
        others = [other for other in range(segments) if other != segment]
        for size in range(segments):
            share = factorial(size) * factorial(segments - size - 1) / factorial(segments)
            for seen in combinations(others, size):
                gain = scores[tuple(sorted((*seen, segment)))] - scores[seen]
                found[:, segment] += share * gain
    return found


def spread(values: Tensor, labels: Tensor) -> Tensor:
    return values[:, labels.flatten()].view(len(values), *labels.shape)


EXACT = {"series": ((2, 10), 4), "image": ((2, 7, 5), 2), "volume": ((1, 3, 4, 2), 2)}


@pytest.mark.parametrize(("shape", "cells"), EXACT.values(), ids=EXACT)
@pytest.mark.parametrize("baseline", [0.0, 0.7])
def test_with_all_coalitions_kernel_shap_is_shapleys_formula(
    shape: tuple[int, ...], cells: int, baseline: float
) -> None:
    model, inputs, targets = case(*shape)
    labels = grid(shape[1:], cells)
    samples = 2 ** (int(labels.max()) + 1) - 2
    wanted = spread(shapley(model, inputs, targets, labels, baseline), labels)
    method = KernelSHAP(samples=samples, cells=cells, baseline=baseline)
    ours = one(method, model, inputs, targets)
    close(ours.map, wanted, relative=1e-10)
    assert torch.equal(ours.signed[:, 0], ours.map)


def test_with_all_coalitions_kernel_shap_is_captums_shapley_values() -> None:
    model, inputs, targets = deep_case(2)
    labels = grid((11, 13), 2)
    theirs = attr.ShapleyValues(model).attribute(
        inputs, 0.3, target=targets, feature_mask=labels.repeat(1, 3, 1, 1)
    )
    ours = one(KernelSHAP(samples=14, cells=2, baseline=0.3), model, inputs, targets)
    close(ours.map, theirs[:, 0].double())


def draws(method: KernelSHAP | LIME, segments: int, probe: int) -> tuple[Any, Any]:
    coalitions, weights = method.drawn(segments, probe)
    return coalitions.double().numpy(), weights.numpy()


def scores_of(
    model: nn.Module, image: Tensor, target: int, labels: Tensor, coalitions: Any
) -> np.ndarray[Any, Any]:
    with torch.no_grad():
        rows = [
            model(with_segments(image[None], labels, np.flatnonzero(row).tolist(), 0.0))[0, target]
            for row in coalitions
        ]
    return torch.stack(rows).numpy()


def test_sampled_kernel_shap_is_the_constrained_least_squares_of_its_coalitions() -> None:
    """With the last weight written as the rest of the sum, by numpy's least squares."""
    model, inputs, targets = deep_case(2)
    method, labels = KernelSHAP(samples=60, cells=3, seed=4), grid((11, 13), 3)
    ends = np.array([[0.0] * 9, [1.0] * 9])
    wanted = []
    for probe, image in enumerate(inputs):
        coalitions, weights = draws(method, 9, probe)
        assert len(coalitions) == 60
        none, full = scores_of(model, image, int(targets[probe]), labels, ends)
        scores = scores_of(model, image, int(targets[probe]), labels, coalitions) - none
        root, last = np.sqrt(weights)[:, None], coalitions[:, -1:]
        free = np.linalg.lstsq(
            root * (coalitions[:, :-1] - last),
            root[:, 0] * (scores - last[:, 0] * (full - none)),
            rcond=None,
        )[0]
        wanted.append([*free, full - none - free.sum()])
    ours = one(method, model, inputs, targets)
    close(ours.map, spread(torch.tensor(np.array(wanted)), labels), relative=1e-9)


def test_lime_is_the_ridge_regression_of_its_coalitions() -> None:
    from sklearn.linear_model import Ridge

    model, inputs, targets = deep_case(2)
    method, labels = LIME(samples=50, cells=3, seed=2, alpha=0.5, width=0.3), grid((11, 13), 3)
    wanted, fits = [], []
    for probe, image in enumerate(inputs):
        coalitions, _ = draws(method, 9, probe)
        coalitions = np.vstack([np.ones(9), coalitions])
        cosine = coalitions.sum(1) / np.sqrt(9 * coalitions.sum(1))
        weights = np.exp(-((1 - cosine) ** 2) / (2 * 0.3**2))
        scores = scores_of(model, image, int(targets[probe]), labels, coalitions)
        ridge = Ridge(alpha=0.5).fit(coalitions, scores, sample_weight=weights)
        wanted.append(ridge.coef_)
        fits.append(ridge.score(coalitions, scores, sample_weight=weights))
    ours = one(method, model, inputs, targets)
    close(ours.map, spread(torch.tensor(np.array(wanted)), labels), relative=1e-9)
    torch.testing.assert_close(ours.numbers["fit"], torch.tensor(fits, dtype=F64))


def test_lime_is_captums_with_the_same_coalitions() -> None:
    """Captum's program, with our draws and our distance: its own is over pixels."""
    from captum._utils.models.linear_model import SkLearnRidge

    model, inputs, targets = deep_case(1)
    method, labels = LIME(samples=40, cells=3), grid((11, 13), 3)
    coalitions = torch.cat([torch.ones(1, 9, dtype=torch.bool), method.drawn(9, 0)[0]])
    peer = attr.Lime(
        model,
        SkLearnRidge(alpha=1.0),
        similarity_func=lambda image, moved, row, **_: nearness(row.bool(), 0.25),
        perturb_func=iterate(coalitions),
    )
    mask = labels.expand(1, 3, 11, 13)
    theirs = peer.attribute(inputs, target=targets, feature_mask=mask, n_samples=41)
    close(one(method, model, inputs, targets).map, theirs[:, 0].double(), relative=1e-5)


def iterate(rows: Tensor) -> Callable[..., Any]:
    def perturb(image: Tensor, **_: Any) -> Any:
        for row in rows:
            yield row[None].long()

    return perturb


@pytest.mark.parametrize("samples", [18, 31, 100])
def test_a_sum_over_segments_is_found_exactly(samples: int) -> None:
    """Of a linear net each segment's share is Σ w x, whatever is sampled; nothing else remains."""
    inputs, targets, model = images(3, 2, 6, 7), torch.arange(3), Bent(2, 6, 7, bend=0.0)
    labels = grid((6, 7), 3)
    parts = (model.weight[targets] * inputs / 3).sum(1).flatten(1)
    wanted = torch.zeros(3, 9, dtype=F64).index_add_(1, labels.flatten(), parts)
    ours = one(KernelSHAP(samples=samples, cells=3), model, inputs, targets)
    close(ours.map, spread(wanted, labels), relative=1e-9)
    torch.testing.assert_close(ours.numbers["fit"], torch.ones(3, dtype=F64))
    near = one(LIME(samples=samples, cells=3, alpha=1e-9), model, inputs, targets)
    close(near.map, spread(wanted, labels), relative=1e-6)


@pytest.mark.parametrize("samples", [18, 40, 200])
def test_shapley_values_add_up_to_the_score_whatever_is_sampled(samples: int) -> None:
    model, inputs, targets = case(2, 6, 9)
    method = KernelSHAP(samples=samples, cells=3, baseline=-0.4)
    ours = one(method, model, inputs, targets)
    values = torch.stack([ours.map[:, grid((6, 9), 3) == k][:, 0] for k in range(9)], 1)
    with torch.no_grad():
        ends = [model(end).gather(1, targets[:, None])[:, 0] for end in (inputs, inputs * 0 - 0.4)]
    torch.testing.assert_close(values.sum(1), ends[0] - ends[1], rtol=1e-10, atol=1e-12)
    assert ours.numbers["completeness_gap"].max() < 1e-9
    assert ours.numbers["fit"].max() < 0.999, "a perfect fit proves nothing"


def test_more_samples_come_closer_and_closer_than_captums_do() -> None:
    model, inputs, targets = case(1, 6, 6, count=4)
    labels = grid((6, 6), 3)
    exact = shapley(model, inputs, targets, labels, 0.0)

    def error(values: Tensor) -> float:
        found = torch.stack([values[:, labels == k][:, 0] for k in range(9)], 1)
        return float((found - exact).square().mean().sqrt() / exact.square().mean().sqrt())

    errors = [
        error(one(KernelSHAP(samples=samples, cells=3), model, inputs, targets).map)
        for samples in (24, 120, 480)
    ]
    assert errors[0] > 2 * errors[1] > 4 * errors[2]
    peer = attr.KernelShap(model)
    torch.manual_seed(0)
    theirs = torch.cat(
        [
            peer.attribute(
                image[None], target=int(target), feature_mask=labels[None, None], n_samples=120
            )[:, 0]
            for image, target in zip(inputs, targets, strict=True)
        ]
    )
    assert errors[1] < error(theirs.double()) / 1.5


def halves_and_quarters(image: Tensor) -> Any:
    """Two segments where the mean is positive, else seven; labels with gaps and below 0."""
    labels = np.zeros(image.shape[1:], dtype=int)
    labels[:, image.shape[2] // 2 :] = -3
    if image.mean() < 0:
        labels += np.arange(image.shape[1])[:, None] // 3 * 10
    return labels


def as_segmented(method: Callable[..., Method]) -> Method:
    return method(samples=20, segments=halves_and_quarters)


METHODS: dict[str, Callable[[], Method]] = {
    "kernel_shap": lambda: KernelSHAP(samples=40, cells=3),
    "lime": lambda: LIME(samples=20, cells=3),
    "kernel_shap of own segments": lambda: as_segmented(KernelSHAP),
    "lime of own segments": lambda: as_segmented(LIME),
    "kernel_shap of superpixels": lambda: KernelSHAP(samples=70, segments="slic", cells=4),
}


@pytest.mark.parametrize("make", METHODS.values(), ids=METHODS)
def test_maps_do_not_depend_on_chunks_ranks_nor_on_the_call(make: Callable[[], Method]) -> None:
    model, inputs, targets = deep_case()
    inputs[0] += 0.2
    inputs[3] -= 0.2
    whole = one(make(), model, inputs, targets)
    torch.manual_seed(5)
    assert torch.equal(whole.map, one(make(), model, inputs, targets).map)
    for chunk in (1, 3):
        close(one(make(), model, inputs, targets, chunk).map, whole.map, relative=1e-9)
    subject = Subject(model, Logit())
    # The last rank's share: the last probe comes twice, so that all ranks have equally many.
    bound, share = {"m": make().bind(subject, inputs)}, [3, 4, 4]
    parts = in_chunks(subject, inputs[share], targets[share], bound, chunk=32, first=3)
    shared = torch.cat([part.maps["m"].map for part in parts])
    close(shared[:2], whole.map[3:], relative=1e-9)


def test_probes_of_different_numbers_of_segments_have_their_own_shapley_values() -> None:
    model, inputs, targets = deep_case(3)
    inputs -= inputs.mean((1, 2, 3), keepdim=True)
    inputs += torch.tensor([0.3, -0.3, 0.3]).view(3, 1, 1, 1)
    method = KernelSHAP(samples=254, segments=halves_and_quarters)
    ours = one(method, model, inputs, targets)
    for probe, count in enumerate([2, 8, 2]):
        image, target = inputs[probe : probe + 1], targets[probe : probe + 1]
        labels = divided(image, halves_and_quarters, 0)[0]
        assert int(labels.max()) + 1 == count
        wanted = spread(shapley(model, image, target, labels, 0.0), labels)
        close(ours.map[probe : probe + 1], wanted, relative=1e-9)


@pytest.mark.parametrize("method", [KernelSHAP, LIME])
@pytest.mark.parametrize("segments", ["grid", "slic"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_probe_that_is_not_finite_has_no_map_and_ends_no_other(
    method: Any, segments: Any, value: float
) -> None:
    model, inputs, targets = deep_case(4)
    made = method(samples=70, segments=segments, cells=3)
    wanted = one(made, model, inputs, targets).map
    inputs[1, 0, 2, 3], inputs[3] = value, value
    found = one(made, model, inputs, targets).map
    close(found[[0, 2]], wanted[[0, 2]], relative=1e-9)
    assert not found[[1, 3]].isfinite().any()


def test_superpixels_of_what_is_not_finite_are_those_of_the_ends() -> None:
    inputs = images(1, 3, 12, 12)
    for value, end in (
        (torch.nan, inputs.min()),
        (-torch.inf, inputs.min()),
        (torch.inf, inputs.max()),
    ):
        spoilt, replaced = inputs.clone(), inputs.clone()
        spoilt[0, :, 2:6, 5], replaced[0, :, 2:6, 5] = value, end
        assert torch.equal(divided(spoilt, "slic", 3), divided(replaced, "slic", 3))


def test_a_single_segment_has_the_whole_score() -> None:
    model, inputs, targets = case(1, 4, 4)
    ours = one(KernelSHAP(cells=1), model, inputs, targets)
    with torch.no_grad():
        ends = [model(end).gather(1, targets[:, None]) for end in (inputs, inputs * 0)]
    close(ours.map, (ends[0] - ends[1])[:, :, None].expand(3, 4, 4), relative=1e-12)


def test_a_pass_per_coalition_and_the_baseline_is_shared_with_integrated_gradients() -> None:
    model, inputs, targets = case(1, 4, 4)
    for method, passes in [
        (KernelSHAP(samples=9, cells=2), 2 + 8 + 0),
        (KernelSHAP(samples=11, cells=2), 2 + 8 + 2),
        (KernelSHAP(samples=500, cells=2), 2 + 14),
        (LIME(samples=9, cells=2), 1 + 9),
    ]:
        with counting(model) as count:
            explain(model, inputs, targets, {"m": method})
        assert count.calls == passes, method
    with counting(model) as count:
        both: dict[str, Method] = {
            "path": IntegratedGradients(steps=4, baseline=0.5),
            "shap": KernelSHAP(samples=14, cells=2, baseline=0.5),
        }
        explain(model, inputs, targets, both)
    assert count.calls == 2 + 4 + 14


@pytest.mark.parametrize("make", METHODS.values(), ids=METHODS)
def test_no_graph_is_kept_and_inputs_stay(make: Callable[[], Method]) -> None:
    model, inputs, targets = deep_case(2)
    before, graphs = inputs.clone(), []
    hook = model.register_forward_hook(lambda *args: graphs.append(args[2].requires_grad))
    one(make(), model, inputs, targets)
    hook.remove()
    assert not any(graphs)
    assert torch.equal(inputs, before)
    assert make().signed


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_less_precise_inputs_are_looked_at_in_their_own_dtype(dtype: torch.dtype) -> None:
    model, inputs, targets = Deep(dtype=dtype), images(2, 3, 11, 13, dtype=dtype), torch.arange(2)
    inputs = inputs.contiguous(memory_format=torch.channels_last)
    seen: list[tuple[torch.dtype, bool]] = []
    hook = model.register_forward_pre_hook(
        lambda module, args: seen.append(
            (args[0].dtype, args[0].is_contiguous(memory_format=torch.channels_last))
        )
    )
    ours = one(KernelSHAP(samples=14, cells=2), model, inputs, targets)
    hook.remove()
    assert set(seen) == {(dtype, True)}
    assert ours.map.dtype == ours.numbers["fit"].dtype == torch.float32
    exact = one(KernelSHAP(samples=14, cells=2), Deep(), inputs.double(), targets)
    close(ours.map.double(), exact.map, relative=0.1 if dtype == torch.bfloat16 else 0.02)


def test_a_function_by_its_import_path() -> None:
    path = "test_attribution_segments.halves_and_quarters"
    method = LIME(samples=5, segments=path)  # type: ignore[arg-type]
    close(
        one(method, *deep_case(2)).map,
        one(LIME(samples=5, segments=halves_and_quarters), *deep_case(2)).map,
    )
