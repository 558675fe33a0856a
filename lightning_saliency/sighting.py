"""What is kept of an explanation: small, one row per probe, so that chunks and ranks can be joined.

Maps are pooled here, chunk by chunk: what an observation holds beside the activations of one chunk
does not grow with the size of the images.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_saliency.attribution import Explanation
from lightning_saliency.attribution.method import Maps
from lightning_saliency.targets import confidence, predictions

PLACES = 64 * 64
"""Places (pixels) that a map keeps at most: 64 × 64 stays what it is, 224 × 224 becomes 56 × 56."""

Rows: TypeAlias = dict[tuple[str, ...], Tensor]


@dataclass(frozen=True)
class Sighting:
    """What was seen of N probes; everything stays on its device.

    Attributes:
        maps: method name → its pooled maps.
        predictions: `(N,)` int64, the class that the model gave to each probe.
        confidence: `(N,)` the probability of that class, in 0..1; NaN where there is none.
        gradient_norm: `(N,)` L2 norm of the input gradient; None when no method asked for it.
        fine: method name → `(N, *spatial)`, its maps with more places than those that are measured,
            where somebody asked for them and the method has them.
    """

    maps: Mapping[str, Maps]
    predictions: Tensor
    confidence: Tensor
    gradient_norm: Tensor | None
    fine: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, explanation: Explanation, *, fine: int = PLACES) -> Sighting:
        """What is kept of what `explain` found.

        Args:
            explanation: of some probes.
            fine: places wanted of a map; above `PLACES` they are kept beside the measured ones.
        """
        maps = {
            name: Maps(
                pooled(one.map, skip=1),
                pooled(one.signed, skip=2),
                one.numbers,
                None if one.halves is None else pooled(one.halves, skip=3),
            )
            for name, one in explanation.maps.items()
        }
        given = predictions(explanation.outputs)
        finer = {
            name: finely_pooled(one.map, fine)
            for name, one in explanation.maps.items()
            if fine > PLACES and one.map.shape[1:].numel() > PLACES
        }
        sure = confidence(explanation.outputs, given)
        return cls(maps, given, sure, explanation.gradient_norm, finer)

    @classmethod
    def joined(cls, parts: Iterable[Sighting]) -> Sighting:
        """The sightings of several chunks as one."""
        rows = [part.rows() for part in parts]
        return cls.from_rows({key: torch.cat([one[key] for one in rows]) for key in rows[0]})

    def rows(self) -> Rows:
        """Every tensor under a key of its own, `(N, …)` each."""
        found: Rows = {("predictions",): self.predictions, ("confidence",): self.confidence}
        if self.gradient_norm is not None:
            found["gradient_norm",] = self.gradient_norm
        for method, maps in self.maps.items():
            found |= {("map", method): maps.map, ("signed", method): maps.signed}
            found |= {("number", method, name): value for name, value in maps.numbers.items()}
            if maps.halves is not None:
                found["halves", method] = maps.halves
        return found | {("fine", method): maps for method, maps in self.fine.items()}

    @classmethod
    def from_rows(cls, rows: Rows) -> Sighting:
        """What `rows` gave, of these or of more probes."""
        numbers: dict[str, dict[str, Tensor]] = {key[1]: {} for key in rows if key[0] == "map"}
        for key, values in rows.items():
            if key[0] == "number":
                numbers[key[1]][key[2]] = values
        maps = {
            method: Maps(
                rows["map", method], rows["signed", method], own, rows.get(("halves", method))
            )
            for method, own in numbers.items()
        }
        fine = {key[1]: values for key, values in rows.items() if key[0] == "fine"}
        norm = rows.get(("gradient_norm",))
        return cls(maps, rows["predictions",], rows["confidence",], norm, fine)


def pooled(maps: Tensor, *, skip: int, places: int = PLACES) -> Tensor:
    """The mean over equal blocks, the smallest that leave at most `places` of them.

    For a gradient this is, up to a factor, the gradient with respect to a change of the input that
    is constant on each block. Blocks at the far border may be cut.

    Args:
        maps: `(*leading, *spatial)` with one to three spatial dimensions.
        skip: how many leading dimensions there are.
        places: wanted size of a map at most.
    """
    return _averaged(maps, skip, _block(maps.shape[skip:], places))


def finely_pooled(maps: Tensor, places: int) -> Tensor:
    """The same of maps `(N, *spatial)` that are brought to `places` exactly later on.

    Blocks of one less where they would leave fewer than half the places: up to twice as many.
    """
    spatial = maps.shape[1:]
    side = _block(spatial, places)
    if 2 * _left(spatial, side) < places:
        side -= 1
    return _averaged(maps, 1, side)


def _block(spatial: torch.Size, places: int) -> int:
    """The side of the smallest blocks that leave at most so many places."""
    side = 1
    while _left(spatial, side) > places:
        side += 1
    return side


def _left(spatial: torch.Size, side: int) -> int:
    return torch.Size(-(-size // side) for size in spatial).numel()


def _averaged(maps: Tensor, skip: int, side: int) -> Tensor:
    """The mean over blocks of this side, of `(*leading, *spatial)`."""
    if side <= 1:
        return maps
    spatial = maps.shape[skip:]
    pool = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}[len(spatial)]
    flat = maps.reshape(-1, 1, *spatial)
    kernel = [min(side, size) for size in spatial]
    small = pool(flat, kernel, ceil_mode=True, count_include_pad=False)
    return small.reshape(*maps.shape[:skip], *small.shape[2:])
