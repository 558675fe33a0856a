"""The engine: passes are shared, nothing is left behind, memory may run out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from attribution_methods import ALL, CLEAN, NOISY, same
from attribution_nets import (
    Deep,
    close,
    counting,
    deep_case,
    hooks_on,
)
from cheap_methods import cheap
from torch import Tensor, nn

from lightning_saliency.attribution import (
    RISE,
    AblationCAM,
    AnyMethod,
    BlurIG,
    DeepLIFT,
    Explanation,
    GradCAM,
    GuidedBackprop,
    IntegratedGradients,
    KernelSHAP,
    Method,
    Occlusion,
    Saliency,
    ScoreCAM,
    SmoothGrad,
    Subject,
    bind,
    explain,
)
from lightning_saliency.attribution.looking import look_once
from lightning_saliency.attribution.method import Look
from lightning_saliency.attribution.points import Clean, Noisy, OnPath, Point
from lightning_saliency.targets import Logit, Margin

# Passes are shared


@pytest.mark.parametrize(
    ("methods", "passes"),
    [
        ({}, 1),
        (CLEAN, 1),
        (NOISY, 9),
        (CLEAN | NOISY, 9),
        ({"a": SmoothGrad(samples=3), "b": SmoothGrad(samples=3, seed=1)}, 7),
        ({"a": SmoothGrad(samples=3), "b": SmoothGrad(samples=3, level=0.3)}, 7),
        ({"a": SmoothGrad(samples=3), "b": SmoothGrad(samples=3, channels="l2")}, 4),
        ({"a": IntegratedGradients(steps=4)}, 6),
        ({"a": IntegratedGradients(steps=4), "b": IntegratedGradients(steps=4)}, 6),
        (ALL, 1 + 8 + (1 + 3) + (1 + 4)),
    ],
    ids=str,
)
def test_every_distinct_point_is_passed_once(methods: dict[str, AnyMethod], passes: int) -> None:
    model, inputs, targets = deep_case()
    with counting(model) as count:
        explain(model, inputs, targets, methods)
    ends = {one.baseline for one in methods.values() if isinstance(one, IntegratedGradients)}
    # At a baseline all probes are the same: one of them tells its score.
    assert sorted(count.sizes) == [1] * len(ends) + [5] * (passes - len(ends))


def test_backward_runs_once_for_all_clean_methods(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    grad = torch.autograd.grad

    def counted(outputs: Tensor, wanted: list[Tensor], **kwargs: Any) -> tuple[Tensor, ...]:
        calls.append(len(wanted))
        return grad(outputs, wanted, **kwargs)

    monkeypatch.setattr(torch.autograd, "grad", counted)
    explain(*deep_case(), CLEAN)
    assert calls == [4], "the input and three layers, together"


@pytest.mark.parametrize("name", ALL)
def test_together_each_method_gives_what_it_gives_alone(name: str) -> None:
    together = explain(*deep_case(), ALL)
    alone = explain(*deep_case(), {name: ALL[name]})
    assert list(together.maps) == list(ALL)
    same(together.maps[name], alone.maps[name])


@pytest.mark.parametrize("chunk", [1, 3, 5])
def test_maps_do_not_depend_on_the_size_of_a_chunk(chunk: int) -> None:
    whole, parts = explain(*deep_case(), ALL), explain(*deep_case(), ALL, chunk=chunk)
    for name in ALL:
        same(parts.maps[name], whole.maps[name])
    torch.testing.assert_close(parts.outputs, whole.outputs, rtol=1e-12, atol=1e-12)
    assert parts.gradient_norm is not None
    torch.testing.assert_close(parts.gradient_norm, whole.gradient_norm, rtol=1e-12, atol=0)
    assert parts.chunk == chunk


def test_chunks_are_as_long_as_said() -> None:
    model, inputs, targets = deep_case()
    with counting(model) as count:
        explain(model, inputs, targets, CLEAN, chunk=2)
    assert count.sizes == [2, 2, 1]


@pytest.mark.parametrize("chunk", [0, -1])
def test_a_chunk_of_nothing_is_told(chunk: int) -> None:
    with pytest.raises(ValueError, match=f"chunk={chunk} for 5 probes: both are at least 1"):
        explain(*deep_case(), CLEAN, chunk=chunk)


def test_no_probe_is_told() -> None:
    model, inputs, targets = deep_case()
    with pytest.raises(ValueError, match="chunk=32 for 0 probes"):
        explain(model, inputs[:0], targets[:0], CLEAN)


def test_outputs_and_gradient_norm_are_those_of_the_clean_input() -> None:
    model, inputs, targets = deep_case()
    explanation = explain(model, inputs, targets, ALL)
    point = inputs.clone().requires_grad_()
    outputs = model(point)
    gradient = torch.autograd.grad(Margin()(outputs, targets).sum(), point)[0]
    torch.testing.assert_close(explanation.outputs, outputs.detach())
    assert explanation.gradient_norm is not None
    torch.testing.assert_close(explanation.gradient_norm, gradient.flatten(1).norm(dim=1))
    assert explain(model, inputs, targets, {"m": GradCAM("second")}).gradient_norm is None


# Memory and progress


class Tight(Deep):
    """Memory for two probes; `after` passes it is used up by something else."""

    def __init__(self, after: int = 0, most: int = 2) -> None:
        super().__init__()
        self.after, self.most = after, most

    def forward(self, inputs: Tensor) -> Tensor:
        self.after -= 1
        if self.after < 0 and len(inputs) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().forward(inputs)


@pytest.mark.parametrize("after", [0, 4])
@pytest.mark.parametrize(("chunk", "left"), [(32, 2), (4, 2), (3, 1), (2, 2), (1, 1)])
def test_chunks_are_halved_when_memory_runs_out(after: int, chunk: int, left: int) -> None:
    model, inputs, targets = deep_case()
    tight = explain(Tight(after), inputs, targets, ALL, chunk=chunk)
    roomy = explain(model, inputs, targets, ALL)
    assert tight.chunk == left
    torch.testing.assert_close(tight.outputs, roomy.outputs)
    for name in ALL:
        same(tight.maps[name], roomy.maps[name])


def test_memory_for_not_even_one_probe_is_an_error() -> None:
    model = Tight(most=0)
    with pytest.raises(torch.OutOfMemoryError):
        explain(model, *deep_case()[1:], {"m": Saliency()})
    assert hooks_on(model) == 0


def test_another_error_is_not_taken_for_lack_of_memory() -> None:
    class Broken(Deep):
        def forward(self, inputs: Tensor) -> Tensor:
            raise RuntimeError("shapes don't match")

    model = Broken()
    with counting(model) as count, pytest.raises(RuntimeError, match="shapes don't match"):
        explain(model, *deep_case()[1:], {"m": Saliency()})
    assert count.calls == 1


@pytest.mark.parametrize("chunk", [1, 2, 32])
@pytest.mark.parametrize("make", [Deep, lambda: Tight(3)], ids=["roomy", "tight"])
def test_progress_rises_to_the_total(make: Callable[[], nn.Module], chunk: int) -> None:
    told: list[tuple[int, int]] = []
    _, inputs, targets = deep_case()
    explain(make(), inputs, targets, NOISY, chunk=chunk, progress=lambda *now: told.append(now))
    done = [passes for passes, _ in told]
    assert done == sorted(done)
    assert done[0] > 0
    assert told[-1] == (45, 45)
    assert {total for _, total in told} == {45}


# Nothing is left


def explained(methods: dict[str, AnyMethod]) -> Callable[[nn.Module], Explanation]:
    return lambda model: explain(model, *deep_case()[1:], methods)


@pytest.mark.parametrize("methods", [ALL, {"m": GradCAM()}], ids=["named", "found"])
def test_no_hook_gradient_or_flag_is_left(methods: dict[str, AnyMethod]) -> None:
    model = Deep()
    before = {name: parameter.clone() for name, parameter in model.state_dict().items()}
    explained(methods)(model)
    assert hooks_on(model) == 0
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(before[name], now) for name, now in model.state_dict().items())
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("layer", [None, "first"])
@pytest.mark.parametrize("gradient", [True, False])
def test_no_hook_is_left_after_an_error(layer: str | None, gradient: bool) -> None:
    model = Deep()
    failing = model.squash.register_forward_hook(lambda *_: 1 / 0)
    methods: dict[str, AnyMethod] = {"cam": GradCAM(layer)}
    with pytest.raises(ZeroDivisionError):
        explained(methods | ({"gradient": Saliency()} if gradient else {}))(model)
    failing.remove()
    assert hooks_on(model) == 0
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("method", [Saliency(), GradCAM("1.second")])
def test_calling_a_method_gives_its_map_in_evaluation_mode(method: Method) -> None:
    net, inputs, targets = deep_case()
    model = nn.Sequential(nn.Dropout(0.5), net).train()
    with torch.no_grad():
        ours = method(model, inputs, targets, target="logit")
    wanted = explain(model.eval(), inputs, targets, {"m": method}, target=Logit()).maps["m"].map
    close(ours, wanted, relative=1e-12)


def test_calling_a_method_gives_the_mode_back() -> None:
    model, inputs, targets = deep_case()
    model.train()
    with torch.no_grad():
        GradCAM("second")(model, inputs, targets)
    assert model.training
    assert model.second.training


def test_predictions_come_from_any_pass_that_shows_them() -> None:
    """Where a rule changes the backward pass alone; for other methods a pass is made for them."""
    _, inputs, targets = deep_case()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(inputs[0].numel(), 4), nn.ReLU()).to(inputs)
    plain = explain(model, inputs, targets, {}).outputs
    for method, passes in ((GuidedBackprop(), 1), (DeepLIFT(), 2), (SmoothGrad(samples=2), 3)):
        bound = bind(Subject(model), inputs, {"one": method})
        with counting(model) as count:
            found = explain(model, inputs, targets, bound)
        assert len(count.sizes) == passes
        torch.testing.assert_close(found.outputs, plain)
    with counting(model) as count:
        unasked = explain(model, inputs, targets, {"one": SmoothGrad(samples=2)}, predictions=False)
    assert len(count.sizes) == 2
    assert not len(unasked.outputs)


OF_ANY = ["saliency", "rise", "kernel_shap", "lime", "smooth_grad", "gradient_shap", "occlusion"]


def test_another_default_device_changes_nothing() -> None:
    """What is random is drawn on the CPU, whatever `torch.set_default_device` says."""
    model, inputs, targets = deep_case()
    methods = {name: one for name, one in cheap(8).items() if name in OF_ANY}
    expected = explain(model, inputs, targets, methods).maps
    with torch.device("meta"):
        found = explain(model, inputs, targets, methods).maps
    for name in methods:
        same(found[name], expected[name])


def test_one_broken_probe_breaks_no_other() -> None:
    model, inputs, targets = deep_case()
    inputs = inputs.clone()
    inputs[0] = torch.inf
    methods = {name: cheap(8)[name] for name in ("kernel_shap", "integrated_gradients")}
    found = explain(model, inputs, targets, methods, chunk=len(inputs)).maps
    for name in methods:
        assert not found[name].map[0].isfinite().all()
        assert found[name].map[1:].isfinite().all(), name
    assert found["integrated_gradients"].numbers["completeness_gap"][1:].isfinite().all()


def test_no_graph_is_kept_for_a_look_at_scores_alone() -> None:
    """Where a backward pass of sharded modules needs a whole graph, a pass without one doesn't."""
    seen: list[bool] = []
    model, inputs, targets = deep_case()

    def call(module: nn.Module, moved: Tensor) -> Tensor:
        seen.append(torch.is_grad_enabled())
        scores: Tensor = module(moved)
        return scores

    subject = Subject(model, call=call, whole_graph=True)
    explain(subject, inputs, targets, {"m": Occlusion(window=6)})
    assert set(seen) == {False}
    seen.clear()
    explain(subject, inputs, targets, {"m": GradCAM("second")})
    assert set(seen) == {True}


class Writing(Deep):
    """Its first layer works in place, on what it is given."""

    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs.mul_(0.5).add_(0.1))


class Aside(Deep):
    """The same function."""

    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs * 0.5 + 0.1)


OF_FRESH_ROWS: dict[str, Method] = {
    "rise": RISE(masks=3),
    "occlusion": Occlusion(window=4),
    "score": ScoreCAM("second"),
    "ablation": AblationCAM("act"),
    "kernel": KernelSHAP(samples=8, cells=2),
    "smooth": SmoothGrad(samples=2),
    "path": IntegratedGradients(steps=2),
    "lift": DeepLIFT(),
}


@pytest.mark.parametrize("name", OF_FRESH_ROWS)
def test_a_model_may_write_into_what_it_is_given(name: str) -> None:
    _, inputs, targets = deep_case()
    before = inputs.clone()
    method = {"one": OF_FRESH_ROWS[name]}
    writing = explain(Writing(), inputs, targets, method)
    assert torch.equal(inputs, before)
    same(writing.maps["one"], explain(Aside(), inputs, targets, method).maps["one"])


@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize("point", [Clean(), Noisy(0.2, 0), OnPath(0.0), OnPath(0.5)], ids=str)
def test_evidence_is_of_what_was_looked_at(point: Point, gradient: bool) -> None:
    _, inputs, targets = deep_case()
    look = Look(point, gradient=gradient)
    seen = look_once(Subject(Writing()), look, inputs, targets, 0)
    rows = 1 if look.of_one_row else len(inputs)
    torch.testing.assert_close(seen.inputs, point.at(inputs[:rows], 0), rtol=0, atol=0)
    assert torch.equal(seen.probes, inputs)


def test_fresh_rows_are_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy of each pass's rows would be a tenth of what a small net's forward pass takes."""
    copied: list[int] = []
    scores = Subject.scores

    def noting(self: Subject, *given: Any, spare: bool = False) -> Tensor:
        copied.append(not spare)
        return scores(self, *given, spare=spare)

    monkeypatch.setattr(Subject, "scores", noting)
    explain(*deep_case(), {"one": RISE(masks=3)}, predictions=False)
    assert copied == [False] * 3


@pytest.mark.parametrize("method", [IntegratedGradients(steps=3), BlurIG(steps=3)], ids=str)
def test_the_ends_of_a_path_are_looked_at_for_its_number_alone(method: Method) -> None:
    model, inputs, targets = deep_case()
    with counting(model) as count:
        found = explain(model, inputs, targets, {"one": method})
        assert len(count.sizes) == 5
        alone = explain(model, inputs, targets, {"one": method}, predictions=False)
        assert len(count.sizes) == 5 + 3
    assert set(found.maps["one"].numbers) == {"completeness_gap"}
    assert not alone.maps["one"].numbers
    assert torch.equal(alone.maps["one"].map, found.maps["one"].map)
    # Beside a method that needs the clean input for its map.
    both = {"one": method, "kernel": KernelSHAP(samples=8, cells=2)}
    found = explain(model, inputs, targets, both, predictions=False)
    assert not found.maps["one"].numbers
    assert "completeness_gap" in found.maps["kernel"].numbers
