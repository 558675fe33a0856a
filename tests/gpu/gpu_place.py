"""Where the tests of this folder run: on CUDA; elsewhere only by request, to try the tests.

``GPU_TESTS_ON=cpu pytest tests/gpu`` runs all of them on a CPU, which shows that they can run, not
what they are for. ``GPU_FIGURES=file`` keeps what they measured.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import nn

sys.path.append(str(Path(__file__).parents[1] / "harmless"))

PLACE = os.environ.get("GPU_TESTS_ON", "cuda")
CUDA = PLACE == "cuda"
needs_a_gpu = pytest.mark.skipif(CUDA and not torch.cuda.is_available(), reason="no GPU here")


def figure(name: str, value: float | str) -> None:
    """Keep a measured number, where somebody asked for it."""
    shown = value if isinstance(value, str) else f"{value:.4g}"
    print(f"{name}: {shown}")
    if "GPU_FIGURES" in os.environ:
        with Path(os.environ["GPU_FIGURES"]).open("a") as file:
            file.write(json.dumps([name, shown]) + "\n")


def allocated() -> int:
    """Bytes of tensors that live on the device."""
    return torch.cuda.memory_allocated() if CUDA else 0


def begin_peak() -> None:
    """Forget the peak so far."""
    if CUDA:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()


def peak() -> int:
    """The most bytes of tensors at once since `begin_peak`."""
    return torch.cuda.max_memory_allocated() if CUDA else 0


@contextmanager
def little_memory(module: nn.Module, more: int, most: int) -> Iterator[None]:
    """Let the device have `more` bytes than now; on a CPU, `module` takes `most` examples a pass.

    Args:
        module: of which passes run out of memory.
        more: bytes beside what is there by now.
        most: examples.
    """
    if not CUDA:
        with _refusing(module, most):
            yield
        return
    torch.cuda.empty_cache()
    whole = torch.cuda.get_device_properties(0).total_memory
    try:
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + more) / whole)
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()


@contextmanager
def _refusing(module: nn.Module, most: int) -> Iterator[None]:
    def refuse(_: nn.Module, given: tuple[torch.Tensor, ...]) -> None:
        if len(given[0]) > most:
            raise torch.OutOfMemoryError("as if memory ran out")

    hook = module.register_forward_pre_hook(refuse)
    try:
        yield
    finally:
        hook.remove()
