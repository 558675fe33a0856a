"""What a model, a method or a measure can do to an observation: the training goes on."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from mishaps import (
    MID_EPOCH,
    VALIDATIONS,
    Mishap,
    Moody,
    Raises,
    Survival,
    Witness,
    awake,
    crew,
    listening,
    looks,
    plain,
    survive,
)
from small_fits import Events
from torch import Tensor, nn
from twin_runs import Images, run

from lightning_saliency import GradCAM, Margin, SaliencyMonitor, Shape
from lightning_saliency.measures.shape import entropy

pytestmark = [
    # The frozen BatchNorm.
    pytest.mark.filterwarnings("ignore:Found 1 module.s. in eval mode at the start of training"),
]

PROBES = 12


def of_method(words: str, odd: Callable[..., Any]) -> Mishap:
    """A method of the user's, beside one of ours."""
    moody = Moody(lambda model, inputs, targets: inputs.abs(), odd)
    return Mishap(words, moody.breaks, {"methods": {"gradient": "saliency", "mine": moody}})


def of_measure(words: str, odd: Callable[..., Any]) -> Mishap:
    moody = Moody(entropy, odd)
    return Mishap(words, moody.breaks, {"measures": {"mine": Shape(moody)}})


def of_target(words: str, odd: Callable[..., Any]) -> Mishap:
    moody = Moody(Margin(), odd)
    return Mishap(words, moody.breaks, {"target": moody})


def of_forward(words: str, hook: Callable[..., Any], layer: str = "", **monitor: Any) -> Mishap:
    """A hook of the user's before a module's forward."""

    @contextmanager
    def breaks(trainer: Any, module: nn.Module) -> Iterator[None]:
        handle = module.get_submodule(layer).register_forward_pre_hook(hook)
        try:
            yield
        finally:
            handle.remove()

    return Mishap(words, breaks, monitor)


def host_memory() -> NoReturn:
    """What the allocator itself says."""
    torch.empty(1 << 50, dtype=torch.uint8)
    raise AssertionError("a machine of a pebibyte")


def device_memory() -> NoReturn:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def beyond(limit: int, exhaust: Callable[[], NoReturn]) -> Callable[..., None]:
    """A hook before a forward for which memory is enough up to `limit` probes."""

    def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        if len(args[0]) > limit:
            exhaust()

    return hook


def beyond_in_backward(limit: int, exhaust: Callable[[], NoReturn]) -> Callable[..., None]:
    def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        if args[0].requires_grad and len(args[0]) > limit:
            gradient: Any = args[0]
            gradient.register_hook(lambda _: exhaust())

    return hook


def not_this_one(module: nn.Module, args: tuple[Tensor, ...]) -> None:
    seventh = Images(PROBES, seed=2).inputs[7]
    if any(torch.equal(one, seventh) for one in args[0].detach()):
        raise ValueError("an image that I do not like")


@contextmanager
def without_its_stem(trainer: Any, module: Any) -> Iterator[None]:
    """The layer that is watched lies somewhere else for a while."""
    module.trunk, module.__dict__["stem_of_old"] = module.stem, module.stem
    module.stem = nn.Sequential(module.trunk)
    try:
        yield
    finally:
        module.stem = module.__dict__.pop("stem_of_old")
        del module.trunk


FAILURES = {
    "a method raises": of_method("'mine' raised OSError: no luck", Raises(OSError("no luck"))),
    "a method exits a loop": of_method("StopIteration", Raises(StopIteration())),
    "a method of a wrong shape": of_method(
        "'mine' returns the shape ()", lambda model, inputs, targets: inputs.sum()
    ),
    "a method of too few probes": of_method(
        "'mine' returns the shape (11, 2, 8, 8)", lambda model, inputs, targets: inputs[1:]
    ),
    "a method of another type": of_method(
        "'mine' returns a ndarray", lambda model, inputs, targets: inputs.numpy()
    ),
    "a measure raises": of_measure("ZeroDivisionError", lambda maps: 1 / 0),
    "a measure of a wrong shape": of_measure("'mine' returns ()", lambda maps: maps.sum()),
    "a measure of another type": of_measure("'mine' returns float", lambda maps: 0.5),
    "a target raises": of_target("KeyError: 'cat'", Raises(KeyError("cat"))),
    "a target of a wrong shape": of_target("(12, 3)", lambda outputs, classes: outputs),
    "a forward raises for one probe": of_forward("that I do not like", not_this_one),
    "a hook on a layer raises": of_forward(
        "IndexError: in my hook", Raises(IndexError("in my hook")), "body.0"
    ),
    "no memory for one probe": of_forward("can't allocate memory", beyond(0, host_memory)),
    "no device memory for one probe": of_forward("CUDA out of memory", beyond(0, device_memory)),
    "no memory for one backward": of_forward(
        "can't allocate memory", beyond_in_backward(0, host_memory), "body"
    ),
    "python has no memory": of_method("MemoryError", Raises(MemoryError())),
    "a watched layer is gone": Mishap(
        "'stem.2' is not a layer",
        without_its_stem,
        {"methods": {"gradient": "saliency", "cam": GradCAM("stem.2")}},
    ),
}


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Survival:
    """A run in which nothing happens."""
    survival = survive(Mishap(""), tmp_path_factory.mktemp("calm"))
    assert (survival.gaps, survival.told) == ({}, [])
    assert survival.failures == [0] * (1 + VALIDATIONS)
    return survival


@pytest.mark.parametrize("mishap", FAILURES.values(), ids=FAILURES)
def test_a_failure_is_survived(mishap: Mishap, calm: Survival, tmp_path: Path) -> None:
    left = survive(mishap, tmp_path)
    assert left.gaps == {}, "the training and the model are those of a run without a monitor"
    assert left.failures == [0, 0, 1, 2, 2]
    (told,) = left.told
    assert mishap.words in told
    first = left.values("saliency/gradient/drift_first")
    assert first[2:4] == [None, None], "a failed observation leaves no number"
    expected = calm.values("saliency/gradient/drift_first")
    assert (first[1], first[4]) == (expected[1], expected[4]), "the others are what they would be"
    assert left.values("saliency/gradient/drift_previous")[4] is not None


@pytest.mark.parametrize("mishap", FAILURES.values(), ids=FAILURES)
def test_a_failure_can_end_the_run(mishap: Mishap, tmp_path: Path) -> None:
    alone, watched = Witness(), Witness()
    plain(mishap, tmp_path / "alone", alone, MID_EPOCH, (2,))
    monitor = SaliencyMonitor(probes=PROBES, chunk=PROBES, on_error="raise", **mishap.monitor)
    with pytest.raises(Exception, match="SaliencyMonitor") as ended, listening() as told:
        run(MID_EPOCH, lambda: crew(monitor, mishap, watched, (2,)), tmp_path / "watched")
    assert mishap.words in str(ended.value)
    assert told == [], "said once: by the exception"
    assert watched.exception is ended.value
    alone.seen = alone.seen[:3]
    assert looks(alone, watched) == {}, "the model is given back as it was lent"


@pytest.mark.parametrize("exhaust", [host_memory, device_memory])
@pytest.mark.parametrize("where", [beyond, beyond_in_backward])
@pytest.mark.parametrize(("limit", "chunk"), [(11, 6), (5, 3), (2, 1), (1, 1)])
def test_memory_that_runs_out_halves_the_chunk(
    where: Callable[..., Any],
    exhaust: Callable[[], NoReturn],
    limit: int,
    chunk: int,
    calm: Survival,
    tmp_path: Path,
) -> None:
    sizes: list[int] = []
    inner = where(limit, exhaust)

    def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        sizes.append(len(args[0]))
        inner(module, args)

    mishap = of_forward("", hook, "body", methods={"gradient": "saliency", "smooth": "smooth_grad"})
    left = survive(mishap, tmp_path, chunk=PROBES)
    assert left.gaps == {}
    assert (left.told, left.failures) == ([], [0] * (1 + VALIDATIONS)), "nothing failed"
    assert left.monitor.state_dict()["chunk"] == chunk, "a resumed run begins with it"
    assert sizes.count(PROBES) == 1, "what did not fit is not tried again"
    assert left.values("saliency/gradient/drift_first")[1:] == pytest.approx(
        calm.values("saliency/gradient/drift_first")[1:], abs=1e-5
    )


@pytest.mark.parametrize("sanity", [0, 1])
def test_memory_that_runs_out_at_the_first_observation_does_not_end_the_run(
    sanity: int, tmp_path: Path
) -> None:
    """Without a sanity check it looks at a model that is in training mode already."""
    odd = Moody(Raises(MemoryError()), lambda model, inputs, targets: inputs.abs())
    mishap = Mishap("", odd.breaks, {"methods": {"gradient": "saliency", "mine": odd}})
    # Without accumulation: the first validation stands at a step of its own.
    options = (("val_check_interval", 3), ("num_sanity_val_steps", sanity))
    setup = replace(MID_EPOCH, trainer=options)
    left = survive(mishap, tmp_path, setup=setup, troubled=(1, 2, 3))
    assert left.gaps == {}
    (told,) = left.told
    assert "MemoryError" in told
    assert left.failures[-1] == 2, "before the training, and at the first validation"
    drift = left.values("saliency/gradient/drift_first")[-3:]
    assert drift[0] is None
    assert all(value is not None for value in drift[1:]), "held against the first that worked"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_broken_weights_are_counted_and_drawn(value: float, tmp_path: Path) -> None:
    """They stay broken; the training goes on with them, and so does the monitor."""

    @contextmanager
    def breaks(trainer: Any, module: Any) -> Iterator[None]:
        module.head.weight.data.fill_(value)
        yield

    methods = {"gradient": "saliency", "cam": GradCAM("stem")}
    setup = replace(MID_EPOCH, pictures=True)
    left = survive(Mishap("", breaks), tmp_path, setup=setup, methods=methods)
    assert left.gaps == {}
    assert (left.told, left.failures) == ([], [0] * (1 + VALIDATIONS))
    for method in methods:
        undefined = left.values(f"saliency/{method}/undefined")
        assert undefined[:2] == [0, 0], method
        assert undefined[2:] == [1, 1, 1], method
        assert all(math.isnan(one or 0) for one in left.values(f"saliency/{method}/entropy")[2:])
    images = Events(tmp_path / "watched").images
    steps = set(left.steps("saliency/failures"))
    for method in methods:
        assert set(images[f"saliency/{method}"]) == steps
        assert set(images[f"saliency/{method}/filmstrip"]) == steps


def test_weights_that_were_broken_for_a_while_are_looked_at_again(
    calm: Survival, tmp_path: Path
) -> None:
    @contextmanager
    def breaks(trainer: Any, module: Any) -> Iterator[None]:
        before = module.head.weight.detach().clone()
        module.head.weight.data[0, 0] = math.nan
        yield
        module.head.weight.data.copy_(before)

    left = survive(Mishap("", breaks), tmp_path)
    assert (left.gaps, left.told) == ({}, [])
    assert left.values("saliency/undefined") == [0, 0, 1, 1, 0]
    again = left.values("saliency/gradient/drift_first")[4]
    assert again == calm.values("saliency/gradient/drift_first")[4]


def test_maps_of_nan_are_undefined_and_the_other_method_is_measured(
    calm: Survival, tmp_path: Path
) -> None:
    mishap = of_method("", lambda model, inputs, targets: inputs * math.nan)
    left = survive(mishap, tmp_path)
    assert (left.gaps, left.told, left.failures) == ({}, [], [0] * 5)
    assert left.values("saliency/mine/undefined") == [0, 0, 1, 1, 0]
    assert left.values("saliency/undefined") == [0, 0, 0.5, 0.5, 0]
    drift = "saliency/gradient/drift_previous"
    assert left.values(drift) == calm.values(drift)


def test_a_layer_that_is_replaced_under_its_name_is_followed(tmp_path: Path) -> None:
    """Pruning, LoRA and fine-tuning recipes put another module in the place of one."""

    @contextmanager
    def breaks(trainer: Any, module: Any) -> Iterator[None]:
        module.stem = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        module.stem.eval()
        yield

    methods = {"gradient": "saliency", "cam": GradCAM("stem.0")}
    left = survive(Mishap("", breaks), tmp_path, troubled=(1,), methods=methods)
    assert (left.gaps, left.told, left.failures) == ({}, [], [0] * 5)
    cam = left.values("saliency/cam/drift_previous")
    assert cam[2] is not None
    assert cam[2] > 0


def test_a_layer_that_is_gone_for_good_is_told_once(tmp_path: Path) -> None:
    @contextmanager
    def breaks(trainer: Any, module: Any) -> Iterator[None]:
        module.trunk = nn.Sequential(module.stem, module.frozen)
        module.stem, module.frozen = nn.Identity(), module.trunk
        yield

    methods = {"gradient": "saliency", "cam": GradCAM("stem.0")}
    left = survive(Mishap("", breaks), tmp_path, troubled=(1,), methods=methods)
    assert left.gaps == {}
    assert left.failures == [0, 0, 1, 2, 3]
    (told,) = left.told
    assert "layer='stem.0' is not a layer" in told
    assert "Known: 'stem', 'frozen', 'frozen.0'" in told, "it names what there is"


@pytest.fixture
def interruptible() -> Iterator[None]:
    """After an interrupt Lightning switches further ones off."""
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("on_error", ["warn", "raise"])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)], ids=repr)
def test_an_interrupt_inside_an_observation_ends_the_run_as_anywhere(
    error: BaseException, on_error: Any, tmp_path: Path
) -> None:
    setup, alone, watched = replace(MID_EPOCH, pictures=True), Witness(), Witness()
    mishap = of_method("", Raises(error))
    plain(mishap, tmp_path / "alone", alone, setup, (2,))
    monitor = SaliencyMonitor(probes=PROBES, on_error=on_error, **mishap.monitor)
    with awake(), pytest.raises(SystemExit) as ended, listening() as told:
        run(setup, lambda: crew(monitor, mishap, watched, (2,)), tmp_path / "watched")
    assert ended.value.code == (1 if isinstance(error, KeyboardInterrupt) else 3)
    assert watched.exception is error, "it came through as it was"
    assert told == [], "it is no failure"
    alone.seen = alone.seen[:3]
    assert looks(alone, watched) == {}, "the model is given back as it was lent"
    assert monitor._teller.writer._thread is None, "and the thread"
