"""How far two runs look at the same places of the same probes: one number per probe."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_saliency.measures import drift
from lightning_saliency.measures.numeric import averaged
from lightning_saliency.record import History
from lightning_saliency.reports.pairing import Pair

Floats = NDArray[np.float32]

COSINE, RANKS, TOP = "cosine", "rank correlation", "top 5 % shared"

MEANING: Mapping[str, str] = MappingProxyType(
    {
        COSINE: "of the signed maps: 1 same, 0 unrelated, −1 reversed",
        RANKS: "Spearman's, of the magnitudes: 1 same order, 0 unrelated, −1 reversed",
        TOP: "intersection over union of the 5 % strongest places: 1 same places, 0 none",
    }
)
"""Agreement → what it is."""

_MISMATCHED = 3  # other probes that each is held against


@dataclass(frozen=True)
class Agreement:
    """How far two runs agree by one method.

    Attributes:
        method: its name.
        pairs: P observations of both.
        values: agreement → `(P, N)`; NaN where either map is undefined.
        chance: agreement → `(N,)` at the last pair: between the first run's map of a probe and the
            second run's maps of others: what any two of them have in common.
        signed: whether both have maps with a sign.
        shape: of a map, as they were compared.
    """

    method: str
    pairs: Sequence[Pair]
    values: Mapping[str, Floats]
    chance: Mapping[str, Floats]
    signed: bool
    shape: tuple[int, ...]

    @property
    def main(self) -> str:
        """The agreement that probes are sorted by."""
        return COSINE if self.signed else RANKS

    @property
    def last(self) -> Floats:
        """`(N,)` the main agreement at the last pair."""
        latest: Floats = self.values[self.main][-1]
        return latest


def agreement(
    a: History,
    b: History,
    method: str,
    pairs: Sequence[Pair],
    done: Callable[[], object] = lambda: None,
) -> Agreement | None:
    """Compare two runs by a method, pair by pair; None where no pair has maps of both.

    Maps of different sizes are averaged to the smaller one. Probes that are explained for different
    classes are left out.

    Args:
        a: a run.
        b: another one, of the same probes.
        method: whose maps.
        pairs: of their observations.
        done: called after each pair.
    """
    known = [one for one in pairs if a.blobs[method][one.a] and b.blobs[method][one.b]]
    if not known:
        return None
    signed = all(_signed(run, method, at) for run, at in ((a, known[-1].a), (b, known[-1].b)))
    same = torch.tensor(
        [x == y for x, y in zip(a.probes.explained, b.probes.explained, strict=True)]
    )
    rows = []
    for one in known:
        of_a, of_b = (torch.from_numpy(maps) for maps in maps_at(a, b, method, one))
        rows.append(_agreements(of_a.where(_over(same, of_a), torch.nan), of_b, signed))
        done()
    return Agreement(
        method,
        known,
        {name: np.stack([row[name] for row in rows]) for name in rows[0]},
        _by_chance(of_a, of_b, signed),
        signed,
        tuple(of_a.shape[1:]),
    )


def maps_at(a: History, b: History, method: str, pair: Pair) -> tuple[Floats, Floats]:
    """The maps `(N, *spatial)` of both runs at a pair, of one size; NaN where undefined."""
    of_a, of_b = a.blob(method, pair.a), b.blob(method, pair.b)
    if of_a is None or of_b is None:
        raise ValueError(f"no maps of {method!r} at {pair.words}")
    first, second = torch.from_numpy(of_a.maps), torch.from_numpy(of_b.maps)
    if first.ndim == second.ndim:
        sides = tuple(map(min, first.shape[1:], second.shape[1:]))
        first, second = averaged(first, sides), averaged(second, sides)
    return first.numpy(), second.numpy()


def _signed(run: History, method: str, index: int) -> bool:
    blob = run.blob(method, index)
    return blob is not None and bool(blob.header["signed"])


def _over(flags: Tensor, maps: Tensor) -> Tensor:
    return flags.view(-1, *(1,) * (maps.ndim - 1))


def _agreements(a: Tensor, b: Tensor, signed: bool) -> dict[str, Floats]:
    apart = {COSINE: drift.cosine(a, b)} if signed else {}
    apart |= {RANKS: drift.spearman(a.abs(), b.abs()), TOP: drift.top_k_iou(a, b)}
    return {name: (1 - values).numpy() for name, values in apart.items()}


def _by_chance(a: Tensor, b: Tensor, signed: bool) -> dict[str, Floats]:
    rolls = range(1, min(_MISMATCHED, len(a) - 1) + 1)
    found = [_agreements(a, b.roll(roll, 0), signed) for roll in rolls]
    names = _agreements(a[:1], b[:1], signed)
    if not found:
        return {name: np.full(len(a), np.nan, dtype=np.float32) for name in names}
    stacked = {name: torch.from_numpy(np.stack([one[name] for one in found])) for name in names}
    return {name: values.nanmean(0).numpy() for name, values in stacked.items()}
