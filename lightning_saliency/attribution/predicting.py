"""The class that a model gives to each input."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor

from lightning_saliency.attribution.looking import Lockstep
from lightning_saliency.attribution.subject import Subject
from lightning_saliency.halving import in_chunks
from lightning_saliency.targets import predictions


def predicted(
    subject: Subject, inputs: Tensor, chunk: int, lockstep: Lockstep = nullcontext
) -> Tensor:
    """The class of each input, `(N,)` int64, without a gradient.

    Args:
        subject: the model and how it is called.
        inputs: `(N, C, *spatial)`.
        chunk: most rows of a pass; halved where memory runs out.
        lockstep: made around each pass, where ranks must take all of them together.
    """

    def of_rows(rows: slice) -> Tensor:
        with lockstep(), torch.no_grad():
            return predictions(subject.scores(inputs[rows]))

    return torch.cat(list(in_chunks(of_rows, len(inputs), chunk, inputs.device)))
