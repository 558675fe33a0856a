"""On a GPU as well a training with the monitor is bit by bit the one without it.

`check.py` beside this runs the whole matrix of one process there; here are the monitors that the
matrix does not have, a gradient scaler that has much to do, and compilers that only a GPU has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from gpu_place import CUDA, PLACE, figure, needs_a_gpu
from harmless_cells import INDUCTOR, Cell
from harmless_look import LOOKED, PROBES, Result, compared, monitor
from harmless_setups import setup_of
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor
from twin_nets import Net
from twin_runs import Setup, gap, random_streams, seed_streams

from lightning_saliency import SaliencyMonitor
from lightning_saliency.observation import observing

pytestmark = needs_a_gpu

DEFAULT = {"saliency/gradient/entropy", "saliency/failures"}

Monitor = Callable[[Setup], SaliencyMonitor]


@pytest.fixture(autouse=True)
def deterministic_as_before() -> Iterator[None]:
    """Lightning leaves it on where a Trainer was told so; other tests would meet it."""
    yield
    torch.use_deterministic_algorithms(False)


def default(_: Setup) -> SaliencyMonitor:
    """As people add it, but for the probes."""
    return SaliencyMonitor(probes=PROBES, on_error="raise")


def with_class_models(_: Setup) -> SaliencyMonitor:
    methods: Any = ["saliency", "smooth_grad", "grad_cam"]
    return SaliencyMonitor(methods, PROBES, class_models=[0, 1, 2], on_error="raise")


MONITORS: dict[str, tuple[Monitor, set[str]]] = {
    "default": (default, DEFAULT),
    "class models": (with_class_models, LOOKED),
}
CELLS = (
    Cell(),
    Cell(precision="32-true", loop="accumulate 3"),
    Cell(precision="16-mixed", loop="accumulate 3"),
    Cell(precision="bf16-mixed", loop="accumulate 3"),
    Cell(precision="bf16-true", loop="validate every 4"),
    Cell(precision="16-mixed", loop="manual"),
    Cell(precision="16-mixed", loop="clipping"),
    Cell(precision="bf16-mixed", loop="EMA"),
    Cell(verb="validate", precision="bf16-mixed"),
)


def placed(cell: Cell) -> Setup:
    """The setup of a cell, on the device of these tests."""
    setup = setup_of(cell, PLACE)
    options = dict(setup.trainer)
    if not CUDA and options["precision"] == "16-mixed":
        options |= {"precision": "bf16-mixed", "accelerator": "cpu"}
    return replace(setup, trainer=tuple(options.items()))


def same(name: str, setup: Setup, watching: Monitor = monitor, looked: Any = LOOKED) -> Result:
    result = compared(name, setup, watching, looked)
    assert result.verdict == "same", result
    return result


@pytest.mark.parametrize("watching", MONITORS)
@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_the_training_is_the_one_without_the_monitor(cell: Cell, watching: str) -> None:
    same(str(cell), placed(cell), *MONITORS[watching])


SCALED: list[Any] = []


def busy_scaler() -> dict[str, Any]:
    """Scales that overflow at first, and are raised again after every second step."""
    made: Any = torch.amp.GradScaler
    scaler = made(PLACE, init_scale=2.0**40, growth_interval=2)
    SCALED.append(scaler)
    plugin = MixedPrecision("16-mixed" if CUDA else "bf16-mixed", PLACE, scaler if CUDA else None)
    return {"plugins": [plugin]}


@pytest.mark.parametrize("watching", MONITORS)
def test_a_scaler_skips_and_grows_as_without(watching: str) -> None:
    cell = Cell(precision="16-mixed", loop="accumulate 3")
    setup = placed(cell)
    options = tuple((key, value) for key, value in setup.trainer if key != "precision")
    SCALED.clear()
    same(
        str(cell), replace(setup, epochs=4, trainer=options, made=busy_scaler), *MONITORS[watching]
    )
    if CUDA:
        scales = {one.get_scale() for one in SCALED}
        assert len(scales) == 1
        assert scales < {2.0**power for power in range(1, 40)}, "it went down, and not to nothing"
        figure("16-mixed: scale at the end, from 2^40", scales.pop())


class Drawing(Net):
    """Draws from the device's stream in every forward pass, also in evaluation mode."""

    def features(self, x: Tensor) -> Tensor:
        return super().features(x) + 0.1 * torch.randn((), device=x.device, dtype=x.dtype)


def test_what_a_forward_draws_on_the_device_is_drawn_as_without() -> None:
    same("a forward that draws", replace(placed(Cell(loop="accumulate 3")), net=Drawing))


@pytest.mark.parametrize("precision", ["32-true", "16-mixed"])
def test_inductor_compiles_no_more_than_without(precision: str) -> None:
    setup = placed(Cell(compile=INDUCTOR, precision=precision, loop="accumulate 3"))
    result = same("inductor", setup, default, DEFAULT)
    figure(f"inductor, {precision}: seconds of both fits", result.seconds)


def test_graphs_recorded_on_the_device_replay_as_without(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch._inductor.config as inductor

    monkeypatch.setattr(inductor.triton, "cudagraphs", True)
    result = compared("cudagraphs", placed(Cell(compile=INDUCTOR)), default, DEFAULT)
    if result.error.startswith("without the monitor"):
        pytest.skip(f"it does not train: {result.error}")
    assert result.verdict == "same", result
    figure("inductor with CUDA graphs: seconds of both fits", result.seconds)


def test_a_module_compiled_in_place_is_compiled_no_more_than_without() -> None:
    setup = replace(placed(Cell(compile="module.compile")), backend="inductor")
    same("module.compile, inductor", setup, default, DEFAULT)


def test_observing_gives_the_streams_back() -> None:
    net = Net().to(PLACE)
    seed_streams()
    torch.rand(4, device=PLACE)
    before, drawn = [*random_streams()], []
    for _ in range(2):
        with observing(net):
            drawn.append(torch.rand(4, device=PLACE))
            drawn.append(torch.nn.functional.dropout(torch.ones(64, device=PLACE)))
    assert gap(before, [*random_streams()]) == 0
    assert torch.equal(drawn[0], drawn[2])
    assert torch.equal(drawn[1], drawn[3])
    assert not torch.equal(drawn[0], torch.rand(4, device=PLACE)), "seeded by the observation"
