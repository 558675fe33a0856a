"""Work on many probes in chunks that fit into memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

from lightning_saliency.observation import out_of_memory

T = TypeVar("T")


def in_chunks(
    work: Callable[[slice], T], count: int, chunk: int, device: torch.device
) -> Iterator[T]:
    """The work on rows, chunk by chunk; where memory runs out, on half as many."""
    done = 0
    while done < count:
        rows, found = slice(done, min(done + chunk, count)), None
        try:
            found = work(rows)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error) or chunk == 1:
                raise
            chunk = max(1, min(chunk, count) // 2)
        if found is not None:
            done = rows.stop
            yield found
        elif device.type == "cuda":
            # Outside the handler: the traceback holds the activations that must go first.
            torch.cuda.empty_cache()
