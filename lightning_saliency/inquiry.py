"""What one observation may ask of a run, for those who look further than the maps of the probes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lightning_saliency.alerts.tiers import Conduct
from lightning_saliency.probes.fields import Reading
from lightning_saliency.ranks import Ranks
from lightning_saliency.session import Session
from lightning_saliency.settings import Settings
from lightning_saliency.sighting import Sighting
from lightning_saliency.snapshot import Snapshot


@dataclass(frozen=True)
class Inquiry:
    """One observation of a run, after the maps of all probes were seen.

    Attributes:
        settings: what the user asked for.
        session: what is watched.
        ranks: of the Trainer.
        module: whose weights are looked at.
        watched: the module with all that a pass through it may change: a wrapper, or the same.
        seen: what was seen of all probes.
        now: what is remembered of it.
        masks: `(N, *spatial)` on the device, or None.
        chunk: probes per pass that memory allowed.
        optimisers: of the run; none outside a fit.
        conduct: what the training does to its weights; None outside a fit.
        resumed: whether the run was resumed since the observation before.
        passed: gives the examples of the training that were kept since then, on rank 0.
    """

    settings: Settings
    session: Session
    ranks: Ranks
    module: Any
    watched: nn.Module
    seen: Sighting
    now: Snapshot
    masks: Tensor | None
    chunk: int
    optimisers: Sequence[torch.optim.Optimizer]
    conduct: Conduct | None
    resumed: bool
    passed: Callable[[], list[Reading]]

    @property
    def lockstep(self) -> Callable[[], AbstractContextManager[None]]:
        """Made around each step of the work, where ranks must take all steps together."""
        return self.ranks.lockstep
