"""Methods that are built in as others are, and leave something behind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from lightning_saliency.attribution import Method, Saliency, Subject


@dataclass(frozen=True)
class LeavesAHook(Saliency):
    """A method that forgets a hook."""

    def bind(self, subject: Subject, inputs: Tensor) -> Method:
        subject.module.get_submodule("head").register_forward_hook(lambda *args: args[2] * 1.01)
        return self


@dataclass(frozen=True)
class MovesAWeight(Saliency):
    """A method that is built in, and adds to a parameter."""

    def bind(self, subject: Subject, inputs: Tensor) -> Method:
        subject.module.get_parameter("head.bias").data += 1e-3
        return self


@dataclass(frozen=True)
class LeavesAFunction(Saliency):
    """A method that puts another function in place of torch's."""

    def bind(self, subject: Subject, inputs: Tensor) -> Method:
        known = F.linear
        F.linear = lambda *args: known(*args)
        return self


@dataclass(frozen=True)
class LeavesAMode(Saliency):
    """A method that never takes its mode off."""

    def bind(self, subject: Subject, inputs: Tensor) -> Method:
        Through().__enter__()  # type: ignore[no-untyped-call]
        return self


class Through(TorchFunctionMode):
    """Lets everything through."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


@dataclass(frozen=True)
class Draws(Saliency):
    """A method that draws from the global stream."""

    def bind(self, subject: Subject, inputs: Tensor) -> Method:
        torch.rand(())
        return self


@dataclass(frozen=True)
class Trains(Saliency):
    """A method that runs the model in training mode: its BatchNorm follows."""

    def bind(self, subject: Subject, inputs: Tensor) -> Method:
        subject.scores(inputs)
        subject.module.train()
        subject.scores(inputs)
        return self
