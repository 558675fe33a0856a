"""The course of a fit in few numbers: what is remembered of every observation, beside its maps."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor

from lightning_saliency.alerts.tiers import Conduct
from lightning_saliency.measures.decomposition import angle

KEPT = 128
"""Observations whose cells are remembered: what a chart holds a new one against."""


@dataclass(frozen=True)
class Course:
    """Small tensors on the CPU. Every mapping is by a method's or a panel's name.

    Attributes:
        paths: method → `(N,)` float32, how far each probe's map has gone: the sum of the angles of
            its steps, in radians.
        drift: method → `(T,)` float32, the median step of each observation, newest last.
        cells: panel → `(T, G, C)` float32, the shares of the cells, newest last; NaN where the
            panel showed nothing.
        rates: learning rates at the latest observation.
        trainable: parameters that learned then; −1 where nothing was noted yet.
        alerts: region alerts so far.
        raised: `panel/cell` of alerts that still stand → observations since their alarm.
    """

    paths: Mapping[str, Tensor] = field(default_factory=dict)
    drift: Mapping[str, Tensor] = field(default_factory=dict)
    cells: Mapping[str, Tensor] = field(default_factory=dict)
    rates: tuple[float, ...] = ()
    trainable: int = -1
    alerts: int = 0
    raised: Mapping[str, int] = field(default_factory=dict)

    def gone(self, steps: Mapping[str, Tensor], medians: Mapping[str, float]) -> Course:
        """The same one observation later: drift `(N,)` of each method's maps, and their medians.

        A probe without a defined step stands still.
        """
        paths = {
            name: self.paths.get(name, torch.zeros(())) + angle(step).nan_to_num(0).float().cpu()
            for name, step in steps.items()
        }
        drift = {
            name: _longer(self.drift.get(name), torch.tensor(one)) for name, one in medians.items()
        }
        return replace(self, paths={**self.paths, **paths}, drift={**self.drift, **drift})

    def laid(self, cells: Mapping[str, Tensor]) -> Course:
        """The same with the newest cells `(G, C)` of each panel; another grid begins anew.

        A panel that shows nothing this time has NaN: panels are compared at equal observations.
        """
        longer = {}
        for panel, newest in cells.items():
            before = self.cells.get(panel)
            fits = before is not None and before.shape[1:] == newest.shape
            longer[panel] = _longer(before if fits else None, newest.cpu())
        for panel in self.cells.keys() - cells.keys():
            before = self.cells[panel]
            longer[panel] = _longer(before, torch.full_like(before[-1], torch.nan))
        return replace(self, cells=longer)

    def after(self, raised: Mapping[str, int], new: int, conduct: Conduct) -> Course:
        """The same with the alerts that stand, `new` ones more, and what the training does."""
        return replace(
            self,
            raised=raised,
            alerts=self.alerts + new,
            rates=conduct.rates,
            trainable=conduct.trainable,
        )

    def without(self, methods: Collection[str]) -> Course:
        """The same but for what is known of these methods."""
        return replace(
            self,
            paths={name: one for name, one in self.paths.items() if name not in methods},
            drift={name: one for name, one in self.drift.items() if name not in methods},
        )

    def state(self) -> dict[str, Any]:
        """Tensors and builtins only, for a checkpoint."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        return {
            name: dict(one) if isinstance(one, Mapping) else one for name, one in values.items()
        }


def _longer(before: Tensor | None, newest: Tensor) -> Tensor:
    if before is None:
        return newest[None]
    return torch.cat([before[-(KEPT - 1) :], newest[None]])
