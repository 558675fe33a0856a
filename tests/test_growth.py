"""A long fit costs no more at its end than near its start, and a compiled one compiles no more."""

from __future__ import annotations

import gc
import os
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from small_fits import Net, board, images, labels, loader, trainer
from torch import Tensor, nn

from lightning_saliency import SaliencyMonitor, course

OBSERVATIONS = 210
SETTLED = 20
"""Until then the filmstrip grows, files open and caches fill."""

BREATH = {"blocks of Python": 1000, "bytes of Python": 64 * 1024}
"""By how much two moments may differ: dictionaries grow in leaps, and caches now and then."""


class Census(Callback):
    """Count, after each validation, all that could pile up: what there is → its size each time."""

    def __init__(self, settle: Callable[[], None] = lambda: None) -> None:
        self.settle = settle
        self.counts: dict[str, list[int]] = {}

    def on_validation_end(self, trainer: Any, pl_module: nn.Module) -> None:
        if trainer.sanity_checking:
            return
        self.settle()
        if not self.counts:
            gc.freeze()  # what was there before is neither looked through nor counted
        gc.collect()
        for name, count in population(pl_module):
            self.counts.setdefault(name, []).append(count)


def population(module: nn.Module) -> Iterator[tuple[str, int]]:
    parts = [*module.modules(), *module.parameters()]
    held = [(key, value) for part in parts for key, value in vars(part).items()]
    yield "hooks", sum(len(value or ()) for key, value in held if key.endswith("_hooks"))
    yield "attributes", len(held)
    yield "threads", threading.active_count()
    yield "files", len(os.listdir("/dev/fd"))  # noqa: PTH208
    tensors = [one for one in gc.get_objects() if issubclass(type(one), Tensor)]
    yield "tensors", len(tensors)
    storages = {one.untyped_storage().data_ptr(): one.untyped_storage() for one in tensors}
    yield "bytes of tensors", sum(one.nbytes() for one in storages.values())
    del tensors, storages
    yield "blocks of Python", sys.getallocatedblocks()
    if tracemalloc.is_tracing():
        yield "bytes of Python", tracemalloc.get_traced_memory()[0]


@pytest.fixture(autouse=True)
def _thawed() -> Iterator[None]:
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def _full(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the memory of the charts be full before anything is counted."""
    monkeypatch.setattr(course, "KEPT", SETTLED - 4)


@pytest.fixture
def _traced() -> Iterator[None]:
    tracemalloc.start()
    yield
    tracemalloc.stop()


def long_fit(callbacks: list[Callback], validations: int, logger: Any = False) -> None:
    """A validation after each batch."""
    torch.manual_seed(0)
    made = trainer(
        max_epochs=validations // 30,
        limit_train_batches=30,
        val_check_interval=1,
        callbacks=callbacks,
        logger=logger,
    )
    made.fit(Net(), loader(images(120), labels(120)), loader())


def grown(counts: dict[str, list[int]], settled: int) -> dict[str, int]:
    """By how much the most of the later half exceeds the most of the half before it."""
    found = {}
    for name, count in counts.items():
        middle = (settled + len(count)) // 2
        more = max(count[middle:]) - max(count[settled:middle])
        if more > BREATH.get(name, 0):
            found[name] = more
    return found


def watched(logger: Any) -> dict[str, list[int]]:
    """What there is after each of the observations: few probes, no more than one of each kind."""
    methods: Any = {"gradient": "saliency", "cam": "grad_cam"}
    monitor = SaliencyMonitor(methods, probes=2, measures=[], on_error="raise")
    census = Census(monitor._teller.writer.drain)
    long_fit([monitor, census], OBSERVATIONS, logger)
    assert {len(count) for count in census.counts.values()} == {OBSERVATIONS}
    assert monitor.state_dict()["memory"]["count"] == 1 + OBSERVATIONS
    return census.counts


def test_nothing_piles_up(tmp_path: Path) -> None:
    counts = watched(board(tmp_path))
    assert not grown(counts, SETTLED)
    assert counts["hooks"][-1] == 0


@pytest.mark.usefixtures("_traced")
def test_python_memory_does_not_pile_up() -> None:
    assert not grown(watched(False), SETTLED)  # without pictures: tracing makes them slow


class Leaking(Callback):
    """Leave a little behind at each validation."""

    def __init__(self, leave: Callable[[nn.Module, int, list[Any]], object]) -> None:
        self.leave, self.kept, self.count = leave, list[Any](), 0

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.count += 1
        self.kept.append(self.leave(pl_module, self.count, self.kept))


def a_thread(module: nn.Module, count: int, kept: list[Any]) -> object:
    leave = threading.Event()
    threading.Thread(target=leave.wait, daemon=True).start()
    return leave.set


LEAKS: dict[str, tuple[Callable[[Any, int, list[Any]], object], set[str]]] = {
    "a hook": (
        lambda module, count, kept: module.head.register_forward_hook(lambda *_: None),
        {"hooks"},
    ),
    "an attribute": (lambda module, count, kept: setattr(module, f"a{count}", 0), {"attributes"}),
    "a thread": (a_thread, {"threads"}),
    "a file": (lambda module, count, kept: Path(__file__).open(), {"files"}),  # noqa: SIM115
    "a tensor": (lambda module, count, kept: torch.zeros(8), {"tensors", "bytes of tensors"}),
    "words": (lambda module, count, kept: "w" * 8192 + str(count), {"bytes of Python"}),
    "numbers": (lambda module, count, kept: [[n] for n in range(99)], {"blocks of Python"}),
}


@pytest.mark.usefixtures("_traced")
@pytest.mark.parametrize("leak", LEAKS)
def test_what_piles_up_is_counted(leak: str) -> None:
    leave, seen = LEAKS[leak]
    leaking, census = Leaking(leave), Census()
    long_fit([leaking, census], 30)
    found = set(grown(census.counts, 4))
    for left in leaking.kept:
        if hasattr(left, "close"):
            left.close()
        elif callable(left):
            left()
    assert seen <= found <= seen | {"bytes of Python", "blocks of Python"}


Compiled = Callable[[Net, Callable[..., Any], bool | None], Any]


def the_module(net: Net, backend: Callable[..., Any], dynamic: bool | None) -> Any:
    return torch.compile(net, backend=backend, dynamic=dynamic)


def in_place(net: Net, backend: Callable[..., Any], dynamic: bool | None) -> Any:
    net.compile(backend=backend, dynamic=dynamic)
    return net


def graphs(compiled: Compiled, dynamic: bool | None, callbacks: list[Callback]) -> list[str]:
    """The code of every graph that is made in a fit with batches of two sizes."""
    made: list[str] = []

    def count(graph: Any, _: Any) -> Any:
        made.append(graph.code)
        return graph.forward

    torch._dynamo.reset()
    torch.manual_seed(0)
    data = loader(images(14), labels(14), batch_size=4)
    fit = trainer(limit_train_batches=4, callbacks=callbacks)
    fit.fit(compiled(Net(), count, dynamic), data, data)
    return made


@pytest.mark.parametrize("dynamic", [None, True, False])
@pytest.mark.parametrize("compiled", [the_module, in_place])
def test_nothing_is_compiled_again(compiled: Compiled, dynamic: bool | None) -> None:
    alone = graphs(compiled, dynamic, [])
    methods: Any = ["saliency", "smooth_grad", "grad_cam"]
    monitor = SaliencyMonitor(methods, probes=6, chunk=5, on_error="raise")
    assert graphs(compiled, dynamic, [monitor]) == alone
    assert len(alone) >= 2, "training and validation"
    assert monitor.state_dict()["memory"]["count"] == 3
