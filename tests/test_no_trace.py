"""A training with the monitor is bit by bit the one without it; a naive callback's is not."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from cheap_methods import ATTENTION, cheap
from lightning.pytorch import Callback
from rude_methods import Draws, LeavesAFunction, LeavesAHook, LeavesAMode, MovesAWeight, Trains
from torch import Tensor, nn
from torch.nn.modules import module as modules
from torch.overrides import _get_current_function_mode_stack
from twin_nets import Images, Net
from twin_runs import AVERAGING, Setup, Trace, gap, gaps, hooks_of, logged, random_streams, run

import lightning_saliency
from lightning_saliency import SaliencyMonitor
from lightning_saliency.attribution import METHODS, Method, Saliency, explain
from lightning_saliency.probes import Probes

pytestmark = pytest.mark.filterwarnings(
    "ignore:Found 1 module.s. in eval mode at the start of training"  # the frozen BatchNorm
)

BUILT_IN = {"gradient": "saliency", "smooth_grad": "smooth_grad", "grad_cam": "grad_cam"}

INTERVAL: tuple[tuple[str, Any], ...] = (("val_check_interval", 4),)
ACCUMULATE = (("accumulate_grad_batches", 3), *INTERVAL)
UNVALIDATED = (("limit_val_batches", 0),)

SETUPS = {
    "plain": Setup(workers=2, pictures=True),
    "accumulate": Setup(workers=2, trainer=ACCUMULATE),
    "augmented": Setup(augmented=True, trainer=ACCUMULATE),
    "average after": Setup(average="after", trainer=INTERVAL),
    "average before": Setup(average="before", trainer=INTERVAL),
    "manual": Setup(manual=True, trainer=(("val_check_interval", 3),)),
    "bf16-mixed": Setup(trainer=(("precision", "bf16-mixed"), *ACCUMULATE)),
    "bf16-true": Setup(trainer=(("precision", "bf16-true"), *ACCUMULATE)),
    "validate": Setup(verb="validate", augmented=True),
    "two loaders": Setup(loaders=2, trainer=ACCUMULATE),
    "clipped": Setup(trainer=(("gradient_clip_val", 0.1), *ACCUMULATE)),
    "no sanity check": Setup(trainer=(("num_sanity_val_steps", 0), *ACCUMULATE)),
    "no validation": Setup(trainer=(*UNVALIDATED, ("accumulate_grad_batches", 4))),
    "deterministic": Setup(trainer=(("deterministic", True), *ACCUMULATE)),
}


@pytest.fixture(autouse=True)
def deterministic_as_before() -> Iterator[None]:
    """Lightning leaves it on where a Trainer was told so; other tests would meet it."""
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Setup], Trace]:
    """What a training leaves that nothing watches; each is run once."""
    return functools.cache(lambda setup: run(setup, list, tmp_path_factory.mktemp("alone")))


def backward_of_their_own(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """A method as many people write it: it fills every `.grad` and draws from the global stream."""
    inputs = (inputs + 0.1 * torch.randn_like(inputs)).requires_grad_()
    score: Any = F.cross_entropy(model(inputs).float(), targets)
    score.backward()
    assert inputs.grad is not None
    return inputs.grad.abs().amax(1)


def rude(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """Worse: it also leaves the model in training mode, thawed, with another frozen parameter."""
    model.train()
    map = backward_of_their_own(model, inputs, targets)
    model.zero_grad()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("frozen" in name)
    return map


def watch(
    setup: Setup, methods: dict[str, Any], folder: Path
) -> tuple[Trace, list[dict[str, str]]]:
    probes: Any = 6
    if UNVALIDATED[0] in setup.trainer:
        images = Images(6, seed=2)
        probes = Probes.from_tensors(images.inputs, images.targets)

    def callbacks() -> list[Callback]:
        return [SaliencyMonitor(methods, probes, on_error="raise", chunk=4)]

    return run(setup, callbacks, folder), logged(folder, saliency=True)


LEFT_OUT = {name for name, setup in SETUPS.items() if setup.average and AVERAGING is None}


@pytest.mark.parametrize("name", [name for name in SETUPS if name not in LEFT_OUT])
def test_the_training_is_the_one_without_the_monitor(
    name: str, alone: Callable[[Setup], Trace], tmp_path: Path
) -> None:
    setup = SETUPS[name]
    watched, observed = watch(setup, BUILT_IN, tmp_path)
    found = gaps(alone(setup), watched)
    assert not found, f"max |Δ| {found} after {name}"
    methods = {key.split("/")[1] for row in observed for key in row if key.endswith("/entropy")}
    assert methods == set(BUILT_IN), "all methods looked"
    expected = 1 if setup.verb == "validate" else 3
    assert len(observed) >= expected, "the start and two validations at least"


@pytest.mark.parametrize("method", [backward_of_their_own, rude])
@pytest.mark.parametrize("name", ["augmented", "manual"])
def test_a_users_own_method_that_calls_backward_changes_nothing(
    name: str, method: Any, alone: Callable[[Setup], Trace], tmp_path: Path
) -> None:
    watched, observed = watch(SETUPS[name], {**BUILT_IN, "mine": method}, tmp_path)
    found = gaps(alone(SETUPS[name]), watched)
    assert not found, f"max |Δ| {found} with {method.__name__} in {name}"
    assert "saliency/mine/entropy" in observed[-1]


class Naive(Callback):
    """What is found in scripts and libraries, at the end of each validation."""

    def __init__(self, look: Callable[[Any, Tensor, Tensor], None]) -> None:
        images = Images(4, seed=2)
        self.look, self.inputs, self.targets = look, images.inputs, images.targets

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        with torch.enable_grad():
            inputs = self.inputs.clone().requires_grad_()
            self.look(pl_module, inputs, self.targets)


def loss(model: Any, inputs: Tensor, targets: Tensor) -> Any:
    return F.cross_entropy(model(inputs), targets)


def validation_batch(model: Any, inputs: Tensor, targets: Tensor) -> None:
    next(iter(model.trainer.val_dataloaders))


def freeze_and_thaw(model: Any, inputs: Tensor, targets: Tensor) -> None:
    model.requires_grad_(False)
    torch.autograd.grad(loss(model, inputs, targets), inputs)
    model.requires_grad_(True)


def logging_forward(model: Any, inputs: Tensor, targets: Tensor) -> None:
    model.eval()
    torch.autograd.grad(loss(model, 9 * inputs, targets), inputs)


CAUGHT = [
    (
        validation_batch,
        "plain",
        {"weights", "buffers", "optimizers", "streams", "batches", "metrics"},
    ),
    (freeze_and_thaw, "plain", {"weights", "buffers", "flags", "optimizers", "metrics"}),
    (logging_forward, "plain", {"metrics"}),
]


@pytest.mark.parametrize(("look", "name", "differs"), CAUGHT)
def test_a_naive_callback_is_caught(
    look: Any, name: str, differs: set[str], alone: Callable[[Setup], Trace], tmp_path: Path
) -> None:
    found = gaps(alone(SETUPS[name]), run(SETUPS[name], lambda: [Naive(look)], tmp_path))
    assert set(found) == differs, f"max |Δ| {found}"
    if "weights" in differs:
        assert 1e-6 < found["weights"] < float("inf")


def test_the_gap_sees_single_bits() -> None:
    one = torch.tensor([0.0, float("nan"), 1.0])
    assert gap(one, one.clone()) == 0
    assert gap(one, one * torch.tensor([-1.0, 1.0, 1.0])) == float("inf")
    assert gap(one[2], torch.nextafter(one[2], one[0])) == 2.0**-24
    assert gap([{"a": one}], [{"b": one}]) == float("inf")
    assert gap([one], [one, one]) == float("inf")
    assert gap(one.int(), one) == float("inf")
    assert gap({"a": 1}, {"a": 1.0}) == float("inf")


# Every method by its name


class Attentive(Net):
    """Its tokens attend to each other, with dropout."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.mix = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.3, batch_first=True)

    def features(self, x: Tensor) -> Tensor:
        tokens = F.avg_pool2d(self.frozen(self.stem(x)), 2).flatten(2).mT
        features: Tensor = self.mix(tokens).mT.unflatten(2, (4, 4))
        return features


EVERY: dict[str, Any] = cheap(8)
FAMILIES = {
    "gradients": [*METHODS][: [*METHODS].index("grad_cam")],
    "layers": [name for name in METHODS if name.endswith(("cam", "cam_plus_plus"))],
    "attention": list(ATTENTION),
    "hidden": ["occlusion", "rise", "kernel_shap", "lime"],
}
SHORT: tuple[tuple[str, Any], ...] = (("val_check_interval", 3),)


def short(family: str) -> Setup:
    """One epoch of augmented images; six batches, and a validation after three."""
    net = Attentive if family == "attention" else Net
    return Setup(epochs=1, augmented=True, net=net, trainer=SHORT)


def culprits(
    setup: Setup, methods: dict[str, Any], alone: Callable[[Setup], Trace], folder: Path
) -> dict[str, dict[str, float]]:
    """Methods whose training differs → what differs; each runs by itself where any does."""
    watched, observed = watch(setup, methods, folder / "all")
    seen = {key.split("/")[1] for row in observed for key in row if key.endswith("/entropy")}
    assert seen == set(methods), "all methods looked"
    if not gaps(alone(setup), watched):
        return {}
    each = {
        name: gaps(alone(setup), watch(setup, {name: method}, folder / name)[0])
        for name, method in methods.items()
    }
    return {name: found for name, found in each.items() if found}


def test_every_method_is_of_a_family() -> None:
    assert sorted(name for names in FAMILIES.values() for name in names) == sorted(METHODS)


@pytest.mark.parametrize("family", FAMILIES)
def test_no_method_changes_the_training(
    family: str, alone: Callable[[Setup], Trace], tmp_path: Path
) -> None:
    methods = {name: EVERY[name] for name in FAMILIES[family]}
    assert not culprits(short(family), methods, alone, tmp_path)


def test_a_method_that_moves_a_weight_is_told_from_the_others(
    alone: Callable[[Setup], Trace], tmp_path: Path
) -> None:
    methods = {"saliency": Saliency(), "rude": MovesAWeight(), "eigen_cam": EVERY["eigen_cam"]}
    found = culprits(short(""), methods, alone, tmp_path)
    assert found.keys() == {"rude"}
    assert {"weights", "metrics"} <= found["rude"].keys()


PLACES: dict[str, Any] = {
    "torch": torch,
    "torch.nn.functional": F,
    "torch.nn.init": nn.init,
    "torch.autograd": torch.autograd,
    "Tensor": torch.Tensor,
    "Module": nn.Module,
    "ReLU": nn.ReLU,
    "MultiheadAttention": nn.MultiheadAttention,
}
"""Where a method might put a function of its own."""


def modes() -> list[Any]:
    return [*_get_current_function_mode_stack()]  # type: ignore[no-untyped-call]


def footprint(model: nn.Module) -> dict[str, Any]:
    """All that a method could leave: in the model, and in the process."""
    of_all = [vars(modules)[name] for name in sorted(vars(modules)) if name.startswith("_global_")]
    named = model.named_parameters(remove_duplicate=False)
    return {
        "state": {name: value.clone() for name, value in model.state_dict().items()},
        "flags": {name: part.training for name, part in model.named_modules()},
        "gradients": {name: (one.requires_grad, one.grad is None) for name, one in named},
        "attributes": [sorted(vars(part)) for part in model.modules()],
        "hooks": [dict(hooks_of(model)), *map(len, filter(None, of_all))],
        "functions": {
            f"{place}.{name}": id(value)
            for place, owner in PLACES.items()
            for name, value in vars(owner).items()
            if callable(value)
        },
        "modes": [type(one).__name__ for one in modes()],
        "streams": [*random_streams()],
        "switches": [
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
            torch.are_deterministic_algorithms_enabled(),
            torch.is_autocast_enabled("cpu"),
            str(torch.get_default_dtype()),
            torch.backends.mha.get_fastpath_enabled(),
        ],
    }


def left(name: str, method: Any, *, raw: bool) -> set[str]:
    """What one call leaves. `raw`: of the engine itself, on a model that nobody takes care of."""
    torch.manual_seed(0)
    model: Any = Attentive() if name in ATTENTION else Net()
    model.log = lambda *args, **kwargs: None
    images, methods = Images(3, seed=2), {name: method}
    if raw:
        model.eval()
    before = footprint(model)
    if raw:
        explain(model, images.inputs, images.targets, methods)
    else:
        lightning_saliency.explain(model, images.inputs, images.targets, methods, progress=False)
    after = footprint(model)
    return {what for what in before if gap(before[what], after[what])}


@pytest.mark.parametrize("raw", [False, True], ids=["of a model that trains", "raw"])
@pytest.mark.parametrize("name", METHODS)
def test_a_call_of_a_method_leaves_nothing(name: str, raw: bool) -> None:
    assert not left(name, EVERY[name], raw=raw)


@pytest.fixture
def functions_and_modes() -> Iterator[None]:
    """Given back after a rude method."""
    known = F.linear
    yield
    F.linear = known
    while modes():
        modes()[-1].__exit__(None, None, None)


RUDE: list[tuple[Method, bool, set[str]]] = [
    (MovesAWeight(), False, {"state"}),
    (LeavesAHook(), True, {"hooks"}),
    (LeavesAHook(), False, set()),  # whoever observes a model takes new hooks off
    (LeavesAFunction(), False, {"functions"}),
    (LeavesAMode(), False, {"modes"}),
    (Draws(), True, {"streams"}),
    (Trains(), True, {"flags", "state", "streams"}),
    (Trains(), False, set()),
]


@pytest.mark.usefixtures("functions_and_modes")
@pytest.mark.parametrize(("method", "raw", "differs"), RUDE)
def test_what_a_rude_method_leaves_is_seen(method: Method, raw: bool, differs: set[str]) -> None:
    assert left("rude", method, raw=raw) == differs
