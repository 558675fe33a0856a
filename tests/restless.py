"""A module that writes to everything that it can, and how to see whether something changed."""

from __future__ import annotations

import random
from collections import OrderedDict, defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightning_saliency.observation import observing


class Restless(nn.Module):
    """Writes to everything that a forward pass can write to."""

    counter: Tensor
    tied: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(2)
        self.conv = nn.Conv2d(2, 3, 3)
        self.register_buffer("counter", torch.zeros(3, dtype=torch.int16))
        self.register_buffer("tied", self.counter)
        self.register_buffer("nothing", None)
        self.cached = torch.zeros(2)
        self.calls = 0
        self.kept: dict[str, Any] = {
            "list": [torch.zeros(1)],
            "deque": deque([1.0], maxlen=3),
            "default": defaultdict(list, seen=[1.0]),
            "ordered": OrderedDict(a=torch.zeros(1)),
            "set": {1},
            "tuple": (torch.zeros(1), [0.0]),
        }

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(self.norm(x))
        self.counter += 1
        self.cached.add_(1)
        self.calls += 1
        self.kept["list"].append(x)
        self.kept["list"][0] += 1
        self.kept["deque"].append(x)
        self.kept["default"]["seen"].append(x)
        self.kept["default"]["new"].append(x)
        self.kept["ordered"]["a"] += 1
        self.kept["set"].add(self.calls + 1)
        self.kept["tuple"][0].add_(1)
        self.kept["tuple"][1].append(x)
        self.last = x
        return x


def described(value: Any) -> Any:
    """A value that can be compared: identity, dtype and bytes of all tensors within."""
    if isinstance(value, Tensor):
        return id(value), value.dtype, value.shape, value.detach().clone().numpy().tobytes()
    if isinstance(value, dict):
        return id(value), [(key, described(item)) for key, item in value.items()]
    if isinstance(value, (list, tuple, deque)):
        return id(value), [described(item) for item in value]
    if isinstance(value, set):
        return id(value), sorted(value)
    return value if isinstance(value, (int, float, str, type(None))) else id(value)


def state(module: nn.Module) -> dict[str, Any]:
    return {
        f"{name}.{what}": described(value)
        for name, part in module.named_modules()
        for what, value in vars(part).items()
    }


@contextmanager
def mishap(fails: bool) -> Iterator[None]:
    """Let the body of an observation raise, or not."""
    with suppress(KeyError):
        yield
        if fails:
            raise KeyError("the body raised")


def look(module: nn.Module, *, fails: bool = False) -> None:
    """One observation of `module` with all that a user's own method might do inside."""
    with mishap(fails), observing(module):
        x = torch.rand(4, 2, 5, 5, requires_grad=True)
        module(x).square().sum().backward()
        if fails:
            raise KeyError("in the middle")


ends = pytest.mark.parametrize("fails", [False, True], ids=["returns", "raises"])


def streams() -> tuple[Any, ...]:
    numpy: Any = np.random.get_state(legacy=False)
    return torch.get_rng_state().tolist(), repr(numpy), random.getstate()


def draw() -> tuple[float, ...]:
    return torch.rand(1).item(), float(np.random.randn()), random.gauss(0, 1)
