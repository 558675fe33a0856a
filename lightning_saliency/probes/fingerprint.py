"""What a checkpoint keeps of the probes, so that it can tell later which of them changed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

_NAMED = 6  # probes named in a message before it only counts


@dataclass(frozen=True)
class Fingerprint:
    """A hash of all probes and one of each: about 60 bytes a probe, whatever the size of its image.

    `hash` is SHA-256 (64 hex digits) over dtype, shape and bytes of every input and every target.
    `inputs` holds the first 16 hex digits (64 bits) of each input's own SHA-256, `targets` the
    targets themselves; `shape` is that of one input.
    """

    hash: str
    shape: tuple[int, ...]
    dtype: str
    names: tuple[str, ...]
    inputs: tuple[str, ...]
    targets: tuple[int | float, ...] | None

    @classmethod
    def of(cls, inputs: Tensor, targets: Tensor | None, names: Sequence[str]) -> Fingerprint:
        """Hash CPU tensors `inputs` (N, …) and `targets` (N,), in one pass over their bytes."""
        shape, dtype = tuple(inputs.shape[1:]), str(inputs.dtype).removeprefix("torch.")
        header = f"{dtype} {shape}".encode()
        digests = [hashlib.sha256(header + _bytes(one)) for one in inputs]
        whole = hashlib.sha256(b"".join(digest.digest() for digest in digests))
        if targets is not None:
            whole.update(f"targets {targets.dtype}".encode() + _bytes(targets))
        return cls(
            hash=whole.hexdigest(),
            shape=shape,
            dtype=dtype,
            names=tuple(names),
            inputs=tuple(digest.hexdigest()[:16] for digest in digests),
            targets=None if targets is None else tuple(targets.tolist()),
        )

    def to_state(self) -> dict[str, Any]:
        """Return the same as builtins only, which `torch.load(weights_only=True)` accepts."""
        return asdict(self)

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Fingerprint:
        """Build it again from `to_state()`, also after a trip that made its tuples lists."""
        known: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in state.items()
        }
        return cls(**known)

    def difference(self, old: Fingerprint) -> str:
        """Say what changed since `old`, for a sentence like "The probes changed: …"; "" if nothing.

        Names alone are no change: the numbers of the same examples stay comparable.
        """
        if self.hash == old.hash:
            return ""
        if (self.dtype, self.shape) != (old.dtype, old.shape):
            return f"inputs are {self._kind()}, were {old._kind()}"
        if len(self.inputs) != len(old.inputs):
            same = len(set(self.inputs) & set(old.inputs))
            return f"{len(self.inputs)} probes, were {len(old.inputs)} ({same} inputs are the same)"
        new, was = self._pairs(), old._pairs()
        if new != was and sorted(new) == sorted(was):
            return "the same probes in another order"
        return "; ".join(filter(None, [self._inputs_since(old), self._targets_since(old)]))

    def _kind(self) -> str:
        return f"{self.dtype} {self.shape}"

    def _pairs(self) -> list[tuple[str, str]]:
        targets = self.targets or ("",) * len(self.inputs)
        return [(digest, repr(target)) for digest, target in zip(self.inputs, targets, strict=True)]

    def _inputs_since(self, old: Fingerprint) -> str:
        changed = [
            name
            for name, new, was in zip(self.names, self.inputs, old.inputs, strict=True)
            if new != was
        ]
        return _counted("input", changed) if changed else ""

    def _targets_since(self, old: Fingerprint) -> str:
        if self.targets is None or old.targets is None:
            gone = "no targets, had some" if old.targets is not None else "targets, had none"
            return gone if self.targets != old.targets else ""
        changed = [
            f"{name} ({new}, was {was})"
            for name, new, was in zip(self.names, self.targets, old.targets, strict=True)
            if new != was
        ]
        if changed:
            return _counted("target", changed)
        return "" if self.inputs != old.inputs else "the targets are of another dtype"


def _counted(what: str, changed: list[str]) -> str:
    more = ", …" if len(changed) > _NAMED else ""
    plural = "" if len(changed) == 1 else "s"
    return f"{len(changed)} {what}{plural} changed: {', '.join(changed[:_NAMED])}{more}"


def _bytes(tensor: Tensor) -> bytes:
    # Through uint8, since numpy knows no bfloat16.
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
