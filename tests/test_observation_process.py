"""`observing` leaves no trace in the process: streams, flags, modes of autograd, logs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from restless import draw, ends, mishap, streams
from torch import Tensor, nn

from lightning_saliency.observation import borrowed_randomness, observing, out_of_memory


@ends
def test_random_streams_are_seeded_inside_and_come_back(fails: bool) -> None:
    module = nn.Linear(1, 1)
    draw()  # numpy and python now hold the second number of a Gaussian pair
    before, drawn = streams(), []
    for seed in (0, 0, 1):
        with mishap(fails), observing(module, seed=seed):
            drawn.append(draw())
            if fails:
                raise KeyError
        assert streams() == before
    assert drawn[0] == drawn[1]
    assert all(one != other for one, other in zip(drawn[0], drawn[2], strict=True))


def test_a_seed_may_be_larger_than_numpy_takes() -> None:
    with borrowed_randomness(seed=2**40):
        draw()


@pytest.fixture
def flags() -> Iterator[Callable[[], tuple[Any, ...]]]:
    """Read the process's switches; put them back after the test."""
    cudnn: Any = torch.backends.cudnn
    newer = [getattr(cudnn, name) for name in ("conv", "rnn") if hasattr(cudnn, name)]

    def read() -> tuple[Any, ...]:
        return (
            torch.get_deterministic_debug_mode(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
            (cudnn.enabled, cudnn.benchmark, cudnn.deterministic),
            [one.fp32_precision for one in newer],
        )

    before = read()
    yield read
    torch.set_deterministic_debug_mode(before[0])
    cudnn.enabled, cudnn.benchmark, cudnn.deterministic = before[2]
    cudnn.allow_tf32 = True
    assert read() == before


@ends
@pytest.mark.parametrize("mode", ["default", "warn", "error"])
def test_backend_flags_come_back(flags: Any, mode: str, fails: bool) -> None:
    cudnn = torch.backends.cudnn
    torch.set_deterministic_debug_mode(mode)
    cudnn.benchmark = True
    before = flags()
    with mishap(fails), observing(nn.Linear(1, 1)):
        inside = torch.get_deterministic_debug_mode()
        assert inside == min(1, before[0]), "what would raise only warns"
        torch.set_deterministic_debug_mode("default")
        cudnn.enabled, cudnn.benchmark, cudnn.deterministic = False, False, True
        cudnn.allow_tf32 = False
        if fails:
            raise KeyError
    assert flags() == before
    assert cudnn.allow_tf32


@pytest.mark.skipif(not hasattr(torch.backends.cudnn, "conv"), reason="a flag of newer releases")
def test_a_precision_for_one_operation_alone_is_kept(flags: Any) -> None:
    cudnn: Any = torch.backends.cudnn
    cudnn.conv.fp32_precision = "ieee"
    before = flags()
    with pytest.raises(RuntimeError, match="allow_tf32"):
        _ = cudnn.allow_tf32  # what made an observation fail
    with observing(nn.Linear(1, 1)):
        cudnn.allow_tf32 = False
    assert flags() == before


@pytest.mark.parametrize("outer", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@ends
def test_gradients_are_on_inside_and_the_mode_comes_back(outer: Any, fails: bool) -> None:
    module = nn.Linear(2, 1)
    with outer():
        before = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        with mishap(fails), observing(module):
            assert (torch.is_grad_enabled(), torch.is_inference_mode_enabled()) == (True, False)
            x = torch.ones(1, 2, requires_grad=True)
            (gradient,) = torch.autograd.grad(module(x).sum(), x)
            assert torch.equal(gradient, module.weight)
            if fails:
                raise KeyError
        assert (torch.is_grad_enabled(), torch.is_inference_mode_enabled()) == before


class Chatty(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def log(self, name: str, *args: Any, **kwargs: Any) -> None:
        self.said.append(name)

    def log_dict(self, dictionary: Any, *args: Any, **kwargs: Any) -> None:
        self.said.extend(dictionary)

    def forward(self, x: Tensor) -> Tensor:
        self.log("one", x.mean())
        self.log_dict({"two": x.mean()})
        return x


@ends
def test_what_forward_logs_is_muted_also_in_a_child(fails: bool) -> None:
    module = Chatty()
    module.child = Chatty()
    x = torch.ones(1)
    with mishap(fails), observing(module):
        module.child(module(x))
        assert module.said == module.child.said == []
        if fails:
            raise KeyError
    assert "log" not in vars(module)
    module.child(module(x))
    assert module.said == module.child.said == ["one", "two"]


def test_a_log_of_the_instance_comes_back() -> None:
    module: Any = Chatty()
    said: list[str] = []
    module.log = lambda name, *_, **__: said.append(name)
    with observing(module):
        module(torch.ones(1))
    module(torch.ones(1))
    assert said == ["one"]


@ends
def test_compiled_modules_run_eagerly_inside_and_compiled_after(fails: bool) -> None:
    graphs: list[int] = []

    def backend(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        graphs.append(1)
        return graph.forward

    torch._dynamo.reset()
    compiled = torch.compile(nn.Linear(2, 2), backend=backend)
    with mishap(fails), observing(compiled):  # type: ignore[arg-type]
        compiled(torch.ones(3, 2))
        assert graphs == []
        if fails:
            raise KeyError
    compiled(torch.ones(3, 2))
    assert graphs == [1]
    torch._dynamo.reset()


def test_exhausted_memory_is_told_apart() -> None:
    assert out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert out_of_memory(MemoryError())
    assert out_of_memory(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"))
    assert not out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not out_of_memory(ValueError("DefaultCPUAllocator: can't allocate memory"))
