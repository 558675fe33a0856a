"""The weights one training step later, of a run that does not take the step.

The step is a real one, of the run's own optimisers with their moments and learning rates; its batch
are the probes. All is done on copies: the run keeps its weights, gradients, moments and hooks.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lightning_saliency.attribution import Subject
from lightning_saliency.attribution.looking import Lockstep, full
from lightning_saliency.errors import ConfigurationError
from lightning_saliency.redrawn import lent
from lightning_saliency.targets import LogProb, tells_classes


def one_step_later(
    subject: Subject,
    inputs: Tensor,
    classes: Tensor,
    optimisers: Sequence[torch.optim.Optimizer],
    *,
    chunk: int,
    lockstep: Lockstep = nullcontext,
) -> dict[str, Tensor]:
    """The weights after one step on the cross entropy of the probes, by their names.

    In evaluation mode and full precision, so that neither dropout nor a scaler has a part in it.
    Costs the memory of the weights twice more, and that of the optimisers' moments.

    Args:
        subject: the model and how it is called; its weights are all on this rank.
        inputs: `(N, C, *spatial)`.
        classes: `(N,)`.
        optimisers: of the run. Each steps once.
        chunk: probes per pass.
        lockstep: made around each step of the work, where ranks must take all steps together.

    Raises:
        ConfigurationError: a model that tells no classes, so that its loss isn't known.
    """
    if not tells_classes(subject.target):
        raise ConfigurationError("the loss of a model that tells no classes isn't known")
    with lockstep():
        own = dict(subject.module.named_parameters())
        later = {name: _copy(one) for name, one in own.items()}
        memo = {id(own[name]): later[name] for name in own}
        twins = [_twin(one, memo) for one in optimisers]
    wanted = [one for one in later.values() if one.requires_grad]
    with lent(subject.module, later):
        _backward(in_full_precision(subject, inputs), inputs, classes, wanted, chunk, lockstep)
    with lockstep():
        for twin in twins:
            _step(twin)
    return {name: one.detach() for name, one in later.items()}


def in_full_precision(subject: Subject, inputs: Tensor) -> Subject:
    """The same without autocast."""

    def call(module: torch.nn.Module, given: Tensor) -> Any:
        with torch.autocast(inputs.device.type, enabled=False):
            return subject.call(module, given)

    return replace(subject, call=call)


def _copy(one: Tensor) -> Tensor:
    return one.detach().clone().requires_grad_(one.requires_grad)


def _twin(optimiser: torch.optim.Optimizer, memo: Mapping[int, Tensor]) -> torch.optim.Optimizer:
    """The optimiser of the copies: what it pickles, that is no hooks and no scheduler's wrapper."""
    return copy.deepcopy(optimiser, dict(memo))


def _backward(
    subject: Subject,
    inputs: Tensor,
    classes: Tensor,
    wanted: list[Tensor],
    chunk: int,
    lockstep: Lockstep,
) -> None:
    for first in range(0, len(inputs), chunk):
        rows = slice(first, first + chunk)
        with lockstep():
            outputs = full(subject.scores(inputs[rows]))
            loss = -LogProb()(outputs, classes[rows]).sum() / len(inputs)
            loss.backward(inputs=wanted)  # type: ignore[no-untyped-call]


def _step(twin: torch.optim.Optimizer) -> None:
    step: Any = type(twin).step
    # Within its wrapper, which calls the hooks that somebody put around every step of the process.
    step = step.__wrapped__ if getattr(step, "hooked", False) else step
    with torch.enable_grad():
        step(twin)
