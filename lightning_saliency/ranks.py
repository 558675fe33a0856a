"""Several processes that look together: who looks at what, and what they agree on.

Where every rank holds the whole model, each looks at its share of the probes and one transfer
brings the results together. Where parameters are sharded, every forward pass needs all ranks: they
take the same steps for all probes, and rank 0's results count.

What keeps ranks from waiting for each other for ever: nothing that can fail on one rank alone is
done outside `Ranks.agreeing`, and an error that all agreed on is not agreed on again further out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from lightning_saliency.attribution import AnyMethod, Subject, bind
from lightning_saliency.attribution.binding import Layers
from lightning_saliency.errors import AGREED, ConfigurationError
from lightning_saliency.observation import observing, out_of_memory

K = TypeVar("K")
T = TypeVar("T")

_FINE, _MEMORY, _FAILED, _WRONG = range(4)

_work: ContextVar[object | None] = ContextVar("work that ranks agree on", default=None)


class PeerError(RuntimeError):
    """Another rank failed, and this one must leave the same work out."""


class PeerMemoryError(MemoryError):
    """Another rank ran out of memory, and this one must take smaller chunks as well."""


@dataclass(frozen=True)
class Ranks:
    """The ranks of one Trainer.

    Attributes:
        rank: of this process, 0 for the one that writes logs.
        size: how many there are.
        sharded: whether each holds a part of the parameters only.
        device: where tensors must be that are sent.
    """

    rank: int = 0
    size: int = 1
    sharded: bool = False
    device: torch.device = torch.device("cpu")  # noqa: RUF009 (a value)

    def share(self, count: int) -> list[int]:
        """Which of `count` probes this rank looks at: equally many on all ranks.

        The last probe is looked at more often where `count` is no multiple of `size`.
        """
        if self.size == 1 or self.sharded:
            return list(range(count))
        each = -(-count // self.size)
        return [min(self.rank * each + index, count - 1) for index in range(each)]

    def together(self, rows: Mapping[K, Tensor], count: int) -> dict[K, Tensor]:
        """The rows of all `count` probes, from what each rank has of its share; bit by bit.

        Args:
            rows: `(n, …)` tensors of any dtype, with the same keys and kinds on all ranks.
            count: of the probes in all.
        """
        if self.size == 1:
            return dict(rows)
        if self.sharded:
            return self.of_first(rows)
        with self.agreeing():
            packed = _packed(rows).to(self.device)
        parts = [torch.empty_like(packed) for _ in range(self.size)]
        dist.all_gather(parts, packed)
        return _unpacked(torch.cat(parts)[:count], rows)

    def of_first(self, rows: Mapping[K, Tensor]) -> dict[K, Tensor]:
        """Rank 0's tensors, which have the same keys, shapes and dtypes on all ranks."""
        if self.size == 1 or not rows:
            return dict(rows)
        flat = {key: one.reshape(1, -1) for key, one in rows.items()}
        with self.agreeing():
            packed = _packed(flat).to(self.device)
        dist.broadcast(packed, src=0)
        found = _unpacked(packed, flat)
        return {key: found[key].reshape(one.shape) for key, one in rows.items()}

    def numbers_of_first(self, numbers: Mapping[str, float]) -> dict[str, float]:
        """Rank 0's numbers: a Trainer must log the same on all ranks, time taken included."""
        values = torch.tensor(list(numbers.values()), dtype=torch.float64)
        return dict(zip(numbers, self.of_first({"": values})[""].tolist(), strict=True))

    def made_by_first(self, make: Callable[[], T]) -> T:
        """What `make` gives on rank 0, on all ranks; its error, too."""
        made: list[Any] = [None]
        with self.agreeing():
            if self.rank == 0:
                made = [make()]
        if self.size > 1:
            dist.broadcast_object_list(made, src=0, device=self.device)
        result: T = made[0]
        return result

    def bound(
        self, subject: Subject, inputs: Tensor, methods: Mapping[str, AnyMethod], layers: Layers
    ) -> dict[str, AnyMethod]:
        """The methods as rank 0 binds them, with the `layers` that are known."""
        return bind(
            subject,
            inputs,
            methods,
            layers=layers,
            lockstep=self.lockstep,
            of_first=self.made_by_first if self.size > 1 else None,
        )

    @property
    def lockstep(self) -> Callable[[], AbstractContextManager[None]]:
        """What is made around each step where parameters are sharded: then ranks go together."""
        return self.agreeing if self.sharded else nullcontext

    @contextmanager
    def agreeing(self) -> Iterator[None]:
        """Work that counts only if it succeeds on every rank: an error of one ends it on all.

        Raises:
            PeerError: another rank failed; its words are in the message.
            PeerMemoryError: another rank ran out of memory.
            ConfigurationError: another rank found one.
        """
        if self.size == 1:
            yield
            return
        error: Exception | None = None
        outermost = _work.get() is None
        work = object() if outermost else _work.get()
        _work.set(work)
        try:
            yield
        except Exception as caught:
            # An error may be raised again later, in other work: it is a new one there.
            if vars(caught).get(AGREED) is work:
                raise
            error = caught
        finally:
            _work.set(None if outermost else work)
        mine = _kind(error)
        kinds = [torch.zeros(1, dtype=torch.long, device=self.device) for _ in range(self.size)]
        dist.all_gather(kinds, torch.tensor([mine], device=self.device))
        found = [int(kind) for kind in kinds]
        worst = max(found)
        if worst == _FINE:
            return
        words: list[Any] = [f"{type(error).__name__}: {error}"]
        dist.broadcast_object_list(words, src=found.index(worst), device=self.device)
        try:
            raised = error
            if raised is None or mine != worst:
                raised = _of_peer(worst, f"on rank {found.index(worst)}: {words[0]}")
            vars(raised)[AGREED] = work
            raise raised
        finally:
            del error, raised  # their tracebacks hold this frame, and activations that must go

    @contextmanager
    def observing(self, module: nn.Module) -> Iterator[None]:
        """`observing` on all ranks or on none, around work that they agree on."""
        with self.agreeing(), ExitStack() as scope:
            with self.agreeing():
                scope.enter_context(observing(module))
            yield

    def share_statistics(self, module: nn.Module) -> None:
        """Let all ranks look with rank 0's running statistics, as all of them validate.

        Sharded modules as well: what is decided by numbers decides how many passes all ranks take.
        Call it inside `observing`: the module's own buffers are not written to.
        """
        if self.size == 1:
            return
        norms = [
            (name, part) for name, part in module.named_modules() if isinstance(part, _NormBase)
        ]
        held = {
            (name, key): buffer
            for name, part in norms
            for key, buffer in part._buffers.items()
            if buffer is not None
        }
        parts = dict(norms)
        for (name, key), buffer in self.of_first(held).items():
            parts[name]._buffers[key] = buffer


def _kind(error: Exception | None) -> int:
    if error is None:
        return _FINE
    if isinstance(error, ConfigurationError):
        return _WRONG
    return _MEMORY if out_of_memory(error) else _FAILED


def _of_peer(kind: int, words: str) -> Exception:
    if kind == _MEMORY:
        return PeerMemoryError(words)
    return ConfigurationError(words) if kind == _WRONG else PeerError(words)


def _packed(rows: Mapping[K, Tensor]) -> Tensor:
    """All tensors as one of bytes, `(n, bytes)`."""
    pieces = [
        one.detach().reshape(len(one), -1).contiguous().view(torch.uint8) for one in rows.values()
    ]
    return torch.cat(pieces, dim=1)


def _unpacked(packed: Tensor, like: Mapping[K, Tensor]) -> dict[K, Tensor]:
    """The tensors that were packed, of as many rows as there are now, on their own devices."""
    found, end = {}, 0
    for key, one in like.items():
        start, end = end, end + one[0].numel() * one.element_size()
        piece = packed[:, start:end].to(one.device).clone(memory_format=torch.contiguous_format)
        found[key] = piece.view(one.dtype).reshape(len(packed), *one.shape[1:])
    return found
