"""How a pass runs through a model: as it is, or by another rule forward or backward.

A rule is a frozen value, as a point is: methods that name equal points and rules share one pass.
Rules act on calls of functions (`TorchFunctionMode`), not on modules: a functional or an in-place
ReLU is met like any other, no hook is set, and nothing is left behind.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn


class Rule:
    """How a pass runs. Instances are frozen and hashable."""

    keeps_scores: ClassVar[bool] = False
    """Whether the first rows that leave are the model's own scores of the probes, in their order:
    where the rule changes the backward pass alone."""

    def around(self, module: nn.Module) -> AbstractContextManager[object]:
        """What is made around the forward and the backward pass of `module`."""
        return nullcontext()

    def entering(self, inputs: Tensor) -> Tensor:
        """What goes into the model for the probes `inputs` `(n, C, *spatial)`: further rows."""
        return inputs

    def rows(self, entered: int) -> int:
        """How many rows of scores the model gives when so many rows entered it."""
        return entered

    def leaving(self, scores: Tensor) -> Tensor:
        """The rows that are wanted, of the scores of what went in."""
        return scores

    def classes(self, targets: Tensor) -> Tensor:
        """The class of each row that leaves, of the classes `(n,)` of the probes."""
        return targets


@dataclass(frozen=True)
class Plain(Rule):
    """The model as it is."""

    keeps_scores = True
