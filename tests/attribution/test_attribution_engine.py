"""The engine: passes are shared, graphs are short, nothing is left behind, memory may run out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from attribution_nets import (
    F64,
    Deep,
    close,
    counting,
    deep_case,
    hooks_on,
    images,
    resnet,
)
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lightning_saliency.attribution import (
    METHODS,
    AnyMethod,
    Explanation,
    GradCAM,
    GradCAMPlusPlus,
    HiResCAM,
    InputXGradient,
    IntegratedGradients,
    LayerCAM,
    Maps,
    Method,
    Saliency,
    SmoothGrad,
    SmoothGradSquared,
    Subject,
    VarGrad,
    bind,
    explain,
)
from lightning_saliency.targets import Logit, Margin

CLEAN: dict[str, AnyMethod] = {
    "saliency": Saliency(),
    "input_x_gradient": InputXGradient(),
    "grad_cam": GradCAM("second"),
    "grad_cam_plus_plus": GradCAMPlusPlus("first"),
    "hires_cam": HiResCAM("act"),
    "layer_cam": LayerCAM("second"),
}
NOISY: dict[str, AnyMethod] = {
    "smooth": SmoothGrad(samples=8),
    "square": SmoothGradSquared(samples=8),
    "variance": VarGrad(samples=8),
    "shorter": SmoothGrad(samples=4),
}
PATH: dict[str, AnyMethod] = {
    "path": IntegratedGradients(steps=3),
    "other": IntegratedGradients(steps=4, baseline=0.5),
}
ALL = CLEAN | NOISY | PATH


def same(ours: Maps, theirs: Maps) -> None:
    close(ours.map, theirs.map, relative=1e-12)
    close(ours.signed, theirs.signed, relative=1e-12)
    assert ours.numbers.keys() == theirs.numbers.keys()
    for name, number in ours.numbers.items():
        torch.testing.assert_close(number, theirs.numbers[name], rtol=1e-6, atol=1e-12)


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
    assert count.sizes == [5] * passes


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


# Graphs are short


def leaves_below(outputs: Tensor) -> list[Tensor]:
    """All leaf tensors in the graph of `outputs`."""
    found, seen, front = [], set(), [outputs.grad_fn]
    while front:
        node = front.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.append(node.variable)
        front += [following for following, _ in node.next_functions]
    return found


def graph_of(methods: dict[str, AnyMethod], model: nn.Module, inputs: Tensor) -> list[Tensor]:
    graphs: list[list[Tensor]] = []

    def target(outputs: Tensor, classes: Tensor) -> Tensor:
        graphs.append(leaves_below(outputs))
        return Logit()(outputs, classes)

    explain(model, inputs, torch.zeros(len(inputs), dtype=torch.long), methods, target=target)
    return graphs[0]


def among(parameter: Tensor, leaves: list[Tensor]) -> bool:
    return any(parameter is leaf for leaf in leaves)


def test_a_cam_alone_keeps_no_graph_below_its_layer() -> None:
    model, inputs, _ = deep_case()
    leaves = graph_of({"cam": GradCAM("second")}, model, inputs)
    assert not among(model.first.weight, leaves)
    assert not among(model.second.weight, leaves)
    assert among(model.head.weight, leaves)
    own = [leaf for leaf in leaves if not isinstance(leaf, nn.Parameter)]
    assert [tuple(leaf.shape) for leaf in own] == [(5, 6, 5, 6)], "the activation is a leaf"


def test_with_two_layers_the_graph_starts_at_the_lower() -> None:
    model, inputs, _ = deep_case()
    leaves = graph_of({"up": GradCAM("second"), "low": GradCAM("first")}, model, inputs)
    assert not among(model.first.weight, leaves)
    assert among(model.second.weight, leaves)


def test_with_the_inputs_gradient_the_graph_is_whole() -> None:
    model, inputs, _ = deep_case()
    leaves = graph_of({"cam": GradCAM("second"), "gradient": Saliency()}, model, inputs)
    assert among(model.first.weight, leaves)


def test_where_nothing_is_differentiated_no_graph_is_kept() -> None:
    model, inputs, _ = deep_case()
    assert graph_of({"mine": lambda model, x, y: x}, model, inputs) == []


@pytest.mark.parametrize("kind", [GradCAM, GradCAMPlusPlus, HiResCAM, LayerCAM])
@pytest.mark.parametrize("frozen", [False, True])
def test_a_short_graph_gives_the_cam_of_the_whole(kind: type[GradCAM], frozen: bool) -> None:
    model, inputs, targets = deep_case()
    model.requires_grad_(not frozen)
    short = explain(model, inputs, targets, {"cam": kind("second"), "low": kind("act")})
    whole = explain(model, inputs, targets, {"cam": kind("second"), "low": kind("act"), **CLEAN})
    for name in ("cam", "low"):
        same(short.maps[name], whole.maps[name])


class Branches(nn.Module):
    """Two layers of which neither lies below the other."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng([]):
            torch.manual_seed(1)
            self.left, self.right = (nn.Conv2d(3, 4, 3, dtype=F64) for _ in range(2))

    def forward(self, inputs: Tensor) -> Tensor:
        scores: Tensor = (self.left(inputs).tanh() * self.right(inputs).sigmoid()).sum((2, 3))
        return scores


@pytest.mark.parametrize("frozen", [False, True])
def test_two_branches_are_read_in_one_short_graph(frozen: bool) -> None:
    model = Branches().requires_grad_(not frozen)
    _, inputs, targets = deep_case()
    methods: dict[str, AnyMethod] = {"left": HiResCAM("left"), "right": HiResCAM("right")}
    short = explain(model, inputs, targets, methods)
    whole = explain(model, inputs, targets, methods | {"gradient": Saliency()})
    for name in methods:
        same(short.maps[name], whole.maps[name])


def test_results_carry_no_graph() -> None:
    model, inputs, targets = deep_case()
    explanation = explain(
        model,
        inputs,
        targets,
        {**ALL, "mine": lambda model, x, y: model(x)[:, 0, None, None].expand(-1, 2, 3)},
    )
    tensors = [explanation.outputs, explanation.gradient_norm]
    for maps in explanation.maps.values():
        tensors += [maps.map, maps.signed, *maps.numbers.values()]
    assert all(isinstance(tensor, Tensor) and not tensor.requires_grad for tensor in tensors)


# What models do


@pytest.mark.parametrize("extra", [{}, {"gradient": Saliency()}], ids=["short", "whole"])
def test_an_inplace_layer_after_the_tap_changes_nothing(extra: dict[str, AnyMethod]) -> None:
    methods: dict[str, AnyMethod] = {"cam": GradCAM("first"), "hires": HiResCAM("first"), **extra}
    _, inputs, targets = deep_case()
    maps = [explain(Deep(inplace), inputs, targets, methods).maps for inplace in (False, True)]
    for name in methods:
        same(maps[1][name], maps[0][name])


@pytest.mark.parametrize("methods", [{"m": Saliency()}, {"m": GradCAM("1")}, {"m": GradCAM()}])
def test_an_inplace_first_layer_works_and_leaves_the_probes_alone(
    methods: dict[str, AnyMethod],
) -> None:
    _, inputs, targets = deep_case()
    models = [nn.Sequential(nn.ReLU(inplace), *Deep().children()) for inplace in (True, False)]
    for model in models:
        model.insert(5, nn.Flatten())
    kept = inputs.clone()
    maps = [explain(model, inputs, targets, methods).maps["m"] for model in models]
    assert torch.equal(inputs, kept)
    same(*maps)


def test_a_users_function_cannot_overwrite_the_probes() -> None:
    inputs, targets = images(2, 3, 4, 4), torch.zeros(2, dtype=torch.long)

    def mine(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        scores: Tensor = model(x)
        return scores[:, :1, None] + x[:, 0]

    net = nn.Sequential(nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(48, 2, dtype=F64))
    kept = inputs.clone()
    explain(net, inputs, targets, {"mine": mine})
    assert torch.equal(inputs, kept)


class Checkpointed(Deep):
    def forward(self, inputs: Tensor) -> Tensor:
        hidden = checkpoint(
            lambda x: self.second(self.act(self.first(x))), inputs, use_reentrant=False
        )
        assert isinstance(hidden, Tensor)
        scores: Tensor = self.head(self.squash(hidden).flatten(1))
        return scores


@pytest.mark.parametrize("names", [["grad_cam"], ["saliency"], list(CLEAN)], ids=str)
def test_gradient_checkpointing_changes_nothing(names: list[str]) -> None:
    _, inputs, targets = deep_case()
    methods = {name: CLEAN[name] for name in names}
    plain, saved = (explain(net, inputs, targets, methods) for net in (Deep(), Checkpointed()))
    for name in names:
        same(saved.maps[name], plain.maps[name])


def small_net(dimensions: int) -> nn.Module:
    conv: Any = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[dimensions]
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        body = [conv(2, 3, 3), nn.ReLU(), conv(3, 4, 2), nn.Softplus(), nn.Flatten()]
        net = nn.Sequential(*body, nn.LazyLinear(3)).eval()
        net(torch.zeros(1, 2, *[8, 7, 6][:dimensions]))
    return net.to(F64)


@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_signals_images_and_volumes_have_maps_of_their_own_shape(dimensions: int) -> None:
    spatial = (8, 7, 6)[:dimensions]
    inputs, targets = images(3, 2, *spatial), torch.tensor([0, 1, 2])
    methods: dict[str, AnyMethod] = {name: make() for name, make in METHODS.items()}
    maps = explain(small_net(dimensions), inputs, targets, methods).maps
    layer = tuple(size - 3 for size in spatial)
    for name, found in maps.items():
        wanted = layer if "cam" in name else spatial
        assert found.map.shape == (3, *wanted)
        assert found.signed.shape == (3, 1 if "cam" in name else 2, *wanted)
        assert found.map.any()


@pytest.mark.parametrize(("dtype", "digits"), [(torch.float16, 6e-2), (torch.bfloat16, 1.5e-1)])
def test_a_model_in_half_precision_is_explained_in_float32(
    dtype: torch.dtype, digits: float
) -> None:
    half = explain(*deep_case(dtype=dtype), ALL)
    full = explain(*deep_case(), ALL)
    assert half.outputs.dtype == torch.float32
    for name in ALL:
        found = half.maps[name]
        assert found.map.dtype == found.signed.dtype == torch.float32
        if name != "variance":  # of gradients nearly alike, half precision keeps little
            close(found.signed.to(F64), full.maps[name].signed, relative=digits)


class Faint(nn.Module):
    """A float16 net whose gradient, 2^−26, is below half precision's least number, 2^−24."""

    def forward(self, inputs: Tensor) -> Tensor:
        scores = (inputs * 2**-13 * 2**-13).flatten(1).sum(1, keepdim=True)
        return torch.cat([scores, 0 * scores.detach()], 1)


def test_faint_gradients_of_a_float16_model_do_not_underflow() -> None:
    inputs, targets = images(2, 1, 3, 3, dtype=torch.float16), torch.zeros(2, dtype=torch.long)
    methods: dict[str, AnyMethod] = {"m": Saliency(channels="signed")}
    maps = explain(Faint(), inputs, targets, methods, target=Logit()).maps["m"].map
    assert torch.equal(maps, torch.full_like(maps, 2**-26))


def test_autocast_reaches_the_model_and_not_the_target() -> None:
    model, inputs, targets = deep_case(dtype=torch.float32)
    seen: list[torch.dtype] = []

    def target(outputs: Tensor, classes: Tensor) -> Tensor:
        assert not torch.is_autocast_enabled("cpu")
        seen.append(outputs.dtype)
        return Margin()(outputs, classes)

    subject = Subject(model, target, context=lambda: torch.autocast("cpu", torch.bfloat16))
    mixed = explain(subject, inputs, targets, CLEAN)
    full = explain(model, inputs, targets, CLEAN)
    assert seen == [torch.float32]
    for name in CLEAN:
        ours, theirs = mixed.maps[name].signed, full.maps[name].signed
        close(ours, theirs, relative=0.2)
        assert not torch.equal(ours, theirs), "the model ran in mixed precision"


# The layer that is looked at


def test_the_last_spatial_layer_is_found() -> None:
    _, inputs, targets = deep_case()
    for model, given, layer in [
        (Deep(), inputs, "squash"),
        (resnet(), images(1, 3, 64, 64), "layer4"),
        (resnet(), images(1, 3, 32, 32), "layer3"),  # layer4 answers with one place there
    ]:
        bound = bind(Subject(model), given, {"cam": GradCAM(), "path": Saliency()})
        assert bound == {"cam": GradCAM(layer), "path": Saliency()}
    found, named = (
        explain(Deep(), inputs, targets, {"m": GradCAM(name)}).maps["m"]
        for name in (None, "squash")
    )
    same(found, named)


def test_bound_methods_need_no_pass_to_find_their_layer() -> None:
    model, inputs, targets = deep_case()
    bound = bind(Subject(model), inputs, {"cam": GradCAM()})
    with counting(model) as count:
        explain(model, inputs, targets, bound)
    assert count.calls == 1


def test_a_compiled_models_layers_keep_their_names() -> None:
    model, inputs, targets = deep_case()
    wrapped = nn.ModuleDict({"_orig_mod": model})
    subject = Subject(wrapped, call=lambda module, x: module["_orig_mod"](x))  # type: ignore[index]
    for name in ("first", "_orig_mod.first"):
        ours = explain(subject, inputs, targets, {"m": HiResCAM(name)}).maps["m"]
        same(ours, explain(model, inputs, targets, {"m": HiResCAM("first")}).maps["m"])
    assert bind(subject, inputs, {"m": GradCAM()})["m"] == GradCAM("squash")


# A user's own function


def doubled(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    return inputs[:, 0] * 2


def gradient_by_hand(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    point = inputs.clone().requires_grad_()
    return torch.autograd.grad(Margin()(model(point), targets).sum(), point)[0]


def test_a_plain_function_is_a_method() -> None:
    model, inputs, targets = deep_case()
    methods: dict[str, AnyMethod] = {
        "two": doubled,
        "gradient": Saliency(),
        "own": gradient_by_hand,
    }
    maps = explain(model, inputs, targets, methods, chunk=2).maps
    assert list(maps) == ["two", "gradient", "own"]
    assert torch.equal(maps["two"].map, inputs[:, 0] * 2)
    assert torch.equal(maps["two"].signed, maps["two"].map[:, None])
    same(maps["own"], maps["gradient"])


def test_a_plain_function_sees_the_layers_and_the_scores_of_the_subject() -> None:
    model, inputs, targets = deep_case()

    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = model

        def forward(self, inputs: Tensor) -> dict[str, Tensor]:
            return {"logits": self.net(inputs)}

    def mine(module: Any, x: Tensor, y: Tensor) -> Tensor:
        assert module.net.second is model.second
        assert torch.equal(module(x), model(x))
        return x

    subject = Subject(Named(), output=lambda outputs: outputs["logits"])
    explanation = explain(subject, inputs, targets, {"mine": mine})
    assert torch.equal(explanation.maps["mine"].map, inputs.abs().amax(1))


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
