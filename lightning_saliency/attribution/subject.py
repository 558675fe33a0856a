"""A model as methods see it: a module, the way it is called, and the scalar that is read off it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lightning_saliency.errors import ConfigurationError
from lightning_saliency.targets import Margin


class NoGradientPathError(ConfigurationError):
    """The score does not depend differentiably on the input or on a layer."""


@dataclass(frozen=True)
class Subject:
    """A model as the engine sees it.

    Attributes:
        module: where layers are looked up.
        target: the scalar that is differentiated.
        output: picks the scores `(N, K)` out of what the module returns.
        context: surrounds each forward pass (mixed precision).
        call: how the module is called.
        whole_graph: whether a forward pass must keep its graph from the input on, though only
            layers are asked for.
        examples: draws as many training inputs `(n, C, *spatial)` as are asked for, the same each
            time; fewer where there are fewer. None where there is no training to draw from.
    """

    module: nn.Module
    target: Callable[[Tensor, Tensor], Tensor] = Margin()  # noqa: RUF009 (a frozen value)
    output: Callable[[Any], Any] = lambda outputs: outputs
    context: Callable[[], AbstractContextManager[Any]] = nullcontext
    call: Callable[[nn.Module, Tensor], Any] = lambda module, inputs: module(inputs)
    whole_graph: bool = False
    examples: Callable[[int], Tensor] | None = None

    def is_half(self, kind: str) -> bool:
        """Whether a part of it is computed in float16 on that kind of device.

        Whatever the dtype of its scores.
        """
        if any(one.dtype == torch.float16 for one in self.module.parameters()):
            return True
        with self.context():
            mixed = torch.is_autocast_enabled(kind)
            return mixed and torch.get_autocast_dtype(kind) == torch.float16

    def scores(self, inputs: Tensor, rows: int | None = None, *, spare: bool = False) -> Tensor:
        """The outputs `(N, K)`, in the dtype in which the model gives them.

        Args:
            inputs: `(N, C, *spatial)`.
            rows: how many rows of outputs there must be, where these are not N.
            spare: whether nobody needs the inputs afterwards.
        """
        rows = len(inputs) if rows is None else rows
        if not spare:
            # A copy: an in-place first layer refuses a leaf, and would overwrite the probes.
            inputs = inputs.clone()
        with self.context():
            outputs = self.output(self.call(self.module, inputs))
        if not isinstance(outputs, Tensor):
            raise ConfigurationError(
                f"The model returns {describe(outputs)}, not a tensor of scores. Say where the "
                "scores are: output='logits' (a key or attribute), output=0 (an index), or a "
                "callable."
            )
        if not outputs.is_floating_point():
            raise NoGradientPathError(
                f"The model returns {outputs.dtype} numbers, such as the classes of an argmax, "
                "which have no gradient. Say where its scores are with output=… (in what it "
                "returns) or forward=… (what to call)."
            )
        if rows == 1 and outputs.ndim < 2 and outputs.shape != (1,):
            outputs = outputs[None]  # by a model that ends in squeeze(), which takes away the row
        if outputs.ndim == 0 or len(outputs) != rows:
            raise ConfigurationError(
                f"The model returns scores of the shape {tuple(outputs.shape)} for {rows} "
                "probes: expected one row per probe. Say which part holds them with output=…."
            )
        return outputs

    def plain(self) -> nn.Module:
        """A module that maps inputs to scores, for a user's own function."""
        return Plain(self)


class Plain(nn.Module):
    """A subject as a module that maps inputs to scores, with the layers of the user's module."""

    def __init__(self, subject: Subject) -> None:
        super().__init__()
        self.module = subject.module
        self.training = getattr(subject.module, "training", False)  # frozen TorchScript has none
        self.__dict__["subject"] = subject  # not registered: it holds the module a second time

    def forward(self, inputs: Tensor) -> Tensor:
        scores: Tensor = self.__dict__["subject"].scores(inputs)
        return scores

    def __getattr__(self, name: str) -> Any:
        """Layers are found by the names that they have in the user's module."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("module"), name)


def describe(value: object) -> str:
    """What a wrong value is, for an error."""
    if isinstance(value, Tensor):
        return f"a {type(value).__name__} {tuple(value.shape)} of {value.dtype}"
    if isinstance(value, Mapping):
        return f"a {type(value).__name__} with the keys {sorted(map(str, value))}"
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a {type(value).__name__}"
