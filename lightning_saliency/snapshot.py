"""The form in which the maps of one observation are measured, remembered and drawn.

Pooled maps are scaled to a peak of 1 and rounded to float16 *before* they are measured, not after.
So a drift computed against a snapshot that went through a checkpoint is the one that an
uninterrupted run computes, bit by bit, and frozen weights drift by exactly 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_saliency.sighting import Sighting


@dataclass(frozen=True)
class Series:
    """One method's maps of N probes.

    Attributes:
        map: `(N, *spatial)` float16, peak 1, the map that is drawn and measured.
        signed: `(N, K, *spatial)` float16, peak 1, before channels were reduced.
        peak: `(N,)` float32, what 1 stands for in `map`, in the method's own units.
        halves: `(N, 2, K, *spatial)` float16, the same attribution from either half of the samples
            that the method draws, peak 1 over both; None where it draws none.
    """

    map: Tensor
    signed: Tensor
    peak: Tensor
    # Checkpoints from before there were halves don't have them.
    halves: Tensor | None = None

    def to(self, device: torch.device) -> Series:
        """The same on another device."""
        return Series(**{name: one.to(device) for name, one in self.state().items()})

    def state(self) -> dict[str, Tensor]:
        """The tensors that there are, by name."""
        return {name: one for name, one in vars(self).items() if one is not None}


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
    def of(cls, sighting: Sighting, *, step: int, label: str) -> Snapshot:
        """What is remembered of a sighting; everything stays on its device."""
        series = {}
        for name, maps in sighting.maps.items():
            scaled, peak = unit(maps.map)
            halves = None if maps.halves is None else unit(maps.halves)[0]
            series[name] = Series(scaled, unit(maps.signed)[0], peak, halves)
        return cls(step, label, series, sighting.predictions)

    def to(self, device: torch.device) -> Snapshot:
        """The same on another device."""
        return Snapshot(
            self.step,
            self.label,
            {name: one.to(device) for name, one in self.series.items()},
            self.predictions.to(device),
        )

    def state(self) -> dict[str, Any]:
        """Tensors and builtins on the CPU: checkpoints are read with ``weights_only=True``."""
        return {
            "step": self.step,
            "label": self.label,
            "predictions": self.predictions.cpu(),
            "series": {
                name: one.to(torch.device("cpu")).state() for name, one in self.series.items()
            },
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Snapshot:
        """What `state` gave."""
        series = {name: Series(**one) for name, one in state["series"].items()}
        return cls(state["step"], state["label"], series, state["predictions"])


def unit(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Each probe's map with peak 1 as float16, and its peak; an all-zero map stays zero."""
    peak = maps.flatten(1).abs().amax(1).float()
    scale = torch.where(peak > 0, peak, 1).to(maps.dtype).view(-1, *[1] * (maps.ndim - 1))
    return (maps / scale).half(), peak
