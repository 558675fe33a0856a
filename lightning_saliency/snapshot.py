"""The form in which the maps of one observation are measured, remembered and drawn.

Maps are pooled to a bounded number of places, scaled to a peak of 1 and rounded to float16 *before*
they are measured, not after. So a drift computed against a snapshot that went through a checkpoint
is the one that an uninterrupted run computes, bit by bit, and frozen weights drift by exactly 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_saliency.attribution import Explanation
from lightning_saliency.targets import predictions

PLACES = 64 * 64
"""Places (pixels) that a map keeps at most: 64 × 64 stays what it is, 224 × 224 becomes 56 × 56."""


@dataclass(frozen=True)
class Series:
    """One method's maps of N probes.

    Attributes:
        map: `(N, *spatial)` float16, peak 1, the map that is drawn and measured.
        signed: `(N, K, *spatial)` float16, peak 1, before channels were reduced.
        peak: `(N,)` float32, what 1 stands for in `map`, in the method's own units.
    """

    map: Tensor
    signed: Tensor
    peak: Tensor


@dataclass(frozen=True)
class Snapshot:
    """What is kept of one observation.

    Attributes:
        step: the x of its numbers and pictures.
        label: what people call that moment, such as ``start`` or ``epoch 3``.
        series: method name → its maps.
        predictions: `(N,)` int64, the class that the model gave to each probe.
    """

    step: int
    label: str
    series: Mapping[str, Series]
    predictions: Tensor

    @classmethod
    def of(cls, explanation: Explanation, *, step: int, label: str) -> Snapshot:
        """What is kept of what `explain` found; everything stays on its device."""
        series = {}
        for name, maps in explanation.maps.items():
            unit, peak = _unit(pooled(maps.map, skip=1))
            series[name] = Series(unit, _unit(pooled(maps.signed, skip=2))[0], peak)
        return cls(step, label, series, predictions(explanation.outputs))

    def to(self, device: torch.device) -> Snapshot:
        """The same on another device."""
        return Snapshot(
            self.step,
            self.label,
            {
                name: Series(one.map.to(device), one.signed.to(device), one.peak.to(device))
                for name, one in self.series.items()
            },
            self.predictions.to(device),
        )

    def state(self) -> dict[str, Any]:
        """Tensors and builtins on the CPU: checkpoints are read with ``weights_only=True``."""
        return {
            "step": self.step,
            "label": self.label,
            "predictions": self.predictions.cpu(),
            "series": {
                name: {"map": one.map.cpu(), "signed": one.signed.cpu(), "peak": one.peak.cpu()}
                for name, one in self.series.items()
            },
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Snapshot:
        """What `state` gave."""
        series = {name: Series(**one) for name, one in state["series"].items()}
        return cls(state["step"], state["label"], series, state["predictions"])


def pooled(maps: Tensor, *, skip: int, places: int = PLACES) -> Tensor:
    """The mean over equal blocks, the smallest that leave at most `places` of them.

    For a gradient this is, up to a factor, the gradient with respect to a change of the input that
    is constant on each block. Blocks at the far border may be cut.

    Args:
        maps: `(*leading, *spatial)` with one to three spatial dimensions.
        skip: how many leading dimensions there are.
        places: wanted size of a map at most.
    """
    spatial = maps.shape[skip:]
    side = 1
    while torch.Size(-(-size // side) for size in spatial).numel() > places:
        side += 1
    if side == 1:
        return maps
    pool = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}[len(spatial)]
    flat = maps.reshape(-1, 1, *spatial)
    kernel = [min(side, size) for size in spatial]
    small = pool(flat, kernel, ceil_mode=True, count_include_pad=False)
    return small.reshape(*maps.shape[:skip], *small.shape[2:])


def _unit(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Each probe's map with peak 1 as float16, and its peak; an all-zero map stays zero."""
    peak = maps.flatten(1).abs().amax(1).float()
    scale = torch.where(peak > 0, peak, 1).to(maps.dtype).view(-1, *[1] * (maps.ndim - 1))
    return (maps / scale).half(), peak
