"""The class that a model gives to each input."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_saliency.attribution.subject import Subject
from lightning_saliency.halving import in_chunks
from lightning_saliency.targets import predictions


def predicted(subject: Subject, inputs: Tensor, chunk: int) -> Tensor:
    """The class of each input, `(N,)` int64, without a gradient.

    Args:
        subject: the model and how it is called.
        inputs: `(N, C, *spatial)`.
        chunk: most rows of a pass; halved where memory runs out.
    """

    def of_rows(rows: slice) -> Tensor:
        with torch.no_grad():
            return predictions(subject.scores(inputs[rows]))

    return torch.cat(list(in_chunks(of_rows, len(inputs), chunk, inputs.device)))
