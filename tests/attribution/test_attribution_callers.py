"""Inputs, classes and models as callers bring them: the same maps, or a sentence."""

from __future__ import annotations

import gc
import warnings
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from attribution_nets import F64, Deep, counting, deep_case, images
from torch import Tensor, nn

from lightning_saliency import ConfigurationError
from lightning_saliency.attribution import (
    AnyMethod,
    DeepLIFT,
    FullGrad,
    GradCAM,
    InputXGradient,
    IntegratedGradients,
    Method,
    Saliency,
    SmoothGrad,
    Subject,
    explain,
)
from lightning_saliency.attribution.looking import look_once
from lightning_saliency.attribution.method import Look
from lightning_saliency.attribution.predicting import predicted
from lightning_saliency.notebook import explain as notebook
from lightning_saliency.observation import observing
from lightning_saliency.targets import Logit

SIGNED: list[Method] = [InputXGradient(), IntegratedGradients(steps=2), DeepLIFT(), FullGrad()]


class Binary(nn.Module):
    """One logit per input."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, dtype=F64), nn.ReLU())
        self.head = nn.Linear(4, 1, dtype=F64)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self.body(x).mean((2, 3)))
        return scores


class Squeezed(Binary):
    """Without the dimension of one logit, and of one input as well."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).squeeze()


# Scores


@pytest.mark.parametrize("chunk", [1, 2, 3])
@pytest.mark.parametrize("method", ["saliency", "grad_cam", "full_grad", "occlusion"])
def test_a_model_that_squeezes_its_scores_is_explained(method: str, chunk: int) -> None:
    inputs, targets = images(3, 3, 16, 16), [0, 1, 0]
    ours = notebook(Squeezed(), inputs, targets, method, chunk=chunk)
    plain = notebook(Binary(), inputs, targets, method, chunk=chunk)
    torch.testing.assert_close(ours[method], plain[method])
    assert len(notebook(Squeezed(), inputs, None, method, chunk=chunk).outputs) == 3


def test_a_row_of_several_scores_may_be_squeezed() -> None:
    model, inputs, targets = deep_case(1)
    squeezed = Subject(model, output=torch.squeeze)
    ours, plain = (explain(one, inputs, targets, {"m": Saliency()}) for one in (squeezed, model))
    assert torch.equal(ours.outputs, plain.outputs)
    assert torch.equal(ours.maps["m"].map, plain.maps["m"].map)


def test_rows_that_are_more_than_the_probe_are_told() -> None:
    """Of several crops, say: two-dimensional scores that are not one row."""
    model, inputs, targets = deep_case(1)
    folded = Subject(model, output=lambda scores: torch.cat([scores] * 5))
    with pytest.raises(ConfigurationError, match=r"of the shape \(5, 4\) for 1 probes"):
        explain(folded, inputs, targets, {"m": Saliency()})


# Classes


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.bool])
@pytest.mark.parametrize("make", [Binary, Deep])
def test_classes_of_any_whole_dtype_are_the_same(
    make: Callable[[], nn.Module], dtype: torch.dtype
) -> None:
    inputs, classes = images(3, 3, 11, 13), torch.tensor([0, 1, 0])
    for call in (Saliency(), lambda *given: notebook(*given)["gradient"]):
        assert torch.equal(call(make(), inputs, classes.to(dtype)), call(make(), inputs, classes))


@pytest.mark.parametrize("classes", [[0, 1, 9], [-1, 0, 0]])
@pytest.mark.parametrize("make", [Binary, Deep])
def test_a_class_that_is_not_there_is_told(
    make: Callable[[], nn.Module], classes: list[int]
) -> None:
    with pytest.raises(ConfigurationError, match="is not one of this model's"):
        Saliency()(make(), images(3, 3, 11, 13), torch.tensor(classes))


# Inputs


@pytest.mark.parametrize("method", SIGNED, ids=repr)
def test_maps_hold_no_graph(method: Method) -> None:
    model, inputs, targets = deep_case()
    own = inputs.clone().requires_grad_()
    for found in (
        method(model, own, targets, target="logit"),
        explain(model, own, targets, {"m": method}, target=Logit()).maps["m"].signed,
    ):
        assert not found.requires_grad
    assert own.grad is None


def test_inputs_of_inference_mode_are_explained() -> None:
    model, inputs, targets = deep_case()
    with torch.inference_mode():
        there = inputs.clone(), targets.clone()
        within = notebook(model, *there, "saliency")["saliency"]
    plain = notebook(model, inputs, targets, "saliency")["saliency"]
    assert torch.equal(within, plain)
    assert torch.equal(notebook(model, *there, "saliency")["saliency"], plain)
    assert torch.equal(Saliency()(model, *there), Saliency()(model, inputs, targets))


def test_a_model_of_inference_mode_is_told() -> None:
    _, inputs, targets = deep_case()
    with torch.inference_mode():
        model = Deep()
    for call in (notebook, Saliency()):
        with pytest.raises(ConfigurationError, match=r"made under torch\.inference_mode"):
            call(model, inputs, targets)


def test_noise_does_not_depend_on_the_default_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs, targets = deep_case()
    found = [SmoothGrad(samples=2)(model, inputs, targets)]
    torch.set_default_dtype(F64)
    try:
        found.append(SmoothGrad(samples=2)(model, inputs, targets))
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(*found)


def test_a_chunk_may_be_a_number_of_numpy() -> None:
    chunk: Any = np.int64(2)
    found, plain = (explain(*deep_case(), {"m": Saliency()}, chunk=one) for one in (chunk, 2))
    assert torch.equal(found.maps["m"].map, plain.maps["m"].map)


@pytest.mark.parametrize("chunk", [0, -1, 2.5, "8", None, True])
def test_a_chunk_that_is_none_is_told(chunk: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"chunk=.* for 5 probes"):
        explain(*deep_case(), {"m": Saliency()}, chunk=chunk)


def test_a_method_of_a_module_is_no_module() -> None:
    model, inputs, targets = deep_case()
    forward: Any = model.forward
    with pytest.raises(ConfigurationError, match=r"model is a method, not a torch.nn.Module"):
        notebook(forward, inputs, targets)


# Memory


def test_without_classes_chunks_are_halved_where_memory_runs_out() -> None:
    model, inputs, _ = deep_case(8)

    def call(module: nn.Module, given: Tensor) -> Any:
        if len(given) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return module(given)

    found = notebook(model, inputs, None, "saliency", forward=call)
    assert torch.equal(found.targets, model(inputs).argmax(1))


def test_ranks_agree_on_memory_before_one_of_them_halves_its_chunk() -> None:
    model, inputs, _ = deep_case(6)
    steps: list[int] = []

    @contextmanager
    def lockstep() -> Iterator[None]:
        yield
        steps.append(count.sizes[-1])
        if steps[-1] > 3:
            raise MemoryError("on rank 1")

    with counting(model) as count:
        found = predicted(Subject(model), inputs, 6, lockstep)
    assert torch.equal(found, model(inputs).argmax(1))
    assert steps == [6, 3, 3]


@pytest.mark.parametrize("method", [GradCAM(), GradCAM("second"), DeepLIFT(), FullGrad()])
def test_nothing_outlives_a_call_but_what_it_returns(method: Method) -> None:
    """No cycle of references, which a GPU's memory would wait for."""
    model = nn.Sequential(OrderedDict(second=nn.Conv2d(3, 4, 3), act=nn.ReLU(), flat=nn.Flatten()))
    model.append(nn.Linear(4 * 9 * 11, 4))
    model.to(F64).eval()

    def called() -> list[Any]:
        inputs = images(2, 3, 11, 13)
        found = notebook(model, inputs, [0, 1], {"m": method})
        return [weakref.ref(one) for one in (inputs, found["m"])]

    gc.collect()
    gc.disable()
    try:
        assert [one() for one in called()] == [None, None]
    finally:
        gc.enable()


# What a function leaves behind


def leaves_it_training(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    model.train()
    return inputs.abs().amax(1)


def gives_back_its_mode(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    before = model.training
    assert not before
    model.eval()
    model.train(before)
    return inputs.abs().amax(1)


def leaves_a_hook(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    model.module.register_forward_hook(lambda module, given, scores: -2 * scores)  # type: ignore[union-attr]
    return inputs.abs().amax(1)


def test_a_function_may_look_at_frozen_torchscript() -> None:
    model, inputs, targets = deep_case()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is on its way out
        frozen: Any = torch.jit.freeze(torch.jit.script(model))
    found = notebook(frozen, inputs, targets, {"own": gives_back_its_mode, "plain": Saliency()})
    torch.testing.assert_close(found["plain"], notebook(model, inputs, targets)["gradient"])


@pytest.mark.parametrize("function", [leaves_it_training, gives_back_its_mode, leaves_a_hook])
def test_a_function_changes_no_map_of_the_next_chunk(
    function: Callable[[nn.Module, Tensor, Tensor], Tensor],
) -> None:
    _, inputs, targets = deep_case()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten())
    model.append(nn.LazyLinear(4)).double()(inputs)
    model.eval()
    methods: dict[str, AnyMethod] = {"saliency": Saliency(), "own": function}
    with observing(model):
        together = explain(model, inputs, targets, methods, chunk=2).maps["saliency"].signed
        alone = explain(model, inputs, targets, {"m": Saliency()}, chunk=2).maps["m"].signed
    assert torch.equal(together, alone)


def test_a_function_meets_the_buffers_that_are_there() -> None:
    """An observation has its copies already: more of them would cost each chunk what they take."""
    _, inputs, targets = deep_case()
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3 * 11 * 13, 4)).to(F64)
    met: set[int] = set()

    def function(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        met.add(id(model.module[0].running_mean))  # type: ignore[index,union-attr]
        return inputs.abs().amax(1)

    with observing(model):
        explain(model, inputs, targets, {"own": function}, chunk=2)
        assert met == {id(model[0].running_mean)}


# Half precision


def slope(factors: list[list[float]], upcast: bool = False) -> Subject:
    """A linear score in float16; by row of the inputs, its gradient is the product of `factors`."""

    def call(module: nn.Module, given: Tensor) -> Tensor:
        rows = given.flatten(1)
        for column in torch.tensor(factors, dtype=torch.float16).T:
            rows = rows * column[:, None]
        scores = rows.sum(1, keepdim=True).expand(-1, 2)
        return scores.float() if upcast else scores

    return Subject(nn.Linear(1, 1).half(), Logit(), call=call)


def slopes(subject: Subject, rows: int) -> list[float]:
    """What is seen of the gradient, by row."""
    inputs = torch.zeros(rows, 1, 2, 2, dtype=torch.float16)
    classes = torch.zeros(rows, dtype=torch.long)
    gradient = look_once(subject, Look(gradient=True), inputs, classes, 0).gradient
    assert gradient.dtype == torch.float32
    return [float(one) for one in gradient.flatten(1).amax(1)]


TINY = 2.0**-14


@pytest.mark.parametrize("upcast", [False, True])
@pytest.mark.parametrize("factors", [[TINY, TINY], [1.0, 1.0], [100.0, 1.0], [3e4, 2.0]])
def test_gradients_of_any_size_survive_float16(factors: list[float], upcast: bool) -> None:
    """Whether or not the model gives its scores in float32."""
    expected = factors[0] * factors[1]
    assert slopes(slope([factors], upcast), 1) == pytest.approx([expected], rel=1e-3)


def test_an_overflow_changes_no_other_probe() -> None:
    """That of the first would vanish without the scale, with which that of the second overflows."""
    found = slopes(slope([[TINY, TINY], [1000.0, 1.0]]), 2)
    assert found == pytest.approx([TINY * TINY, 1000.0], rel=1e-3, abs=0)


def test_mixed_precision_is_known_by_its_context() -> None:
    """The scores are in float32, and so is every weight."""
    model = nn.Conv2d(1, 2, 2)
    mixed = partial(torch.autocast, "cpu", torch.float16)
    assert not Subject(model).is_half("cpu")
    assert Subject(model, context=mixed).is_half("cpu")
    assert not Subject(model, context=partial(torch.autocast, "cpu", torch.bfloat16)).is_half("cpu")
    assert Subject(model.half()).is_half("cpu")
    assert not Subject(nn.Flatten()).is_half("cpu")
