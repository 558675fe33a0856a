"""How a pass runs through a model: as it is, or by another rule forward or backward.

A rule is a frozen value, as a point is: methods that name equal points and rules share one pass.
Rules act on calls of functions (`TorchFunctionMode`), not on modules: a functional or an in-place
ReLU is met like any other, no hook is set, and nothing is left behind.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from torch import Tensor, nn


class Rule:
    """How a pass runs. Instances are frozen and hashable."""

    def around(self, module: nn.Module) -> AbstractContextManager[object]:
        """What is made around the forward and the backward pass of `module`."""
        return nullcontext()

    def entering(self, inputs: Tensor) -> Tensor:
        """What goes into the model for the probes `inputs` `(n, C, *spatial)`: further rows."""
        return inputs

    def leaving(self, scores: Tensor) -> Tensor:
        """The n rows of the probes, of the scores of what went in."""
        return scores


@dataclass(frozen=True)
class Plain(Rule):
    """The model as it is."""
