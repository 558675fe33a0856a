"""When a monitor looks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lightning_saliency.errors import ConfigurationError, did_you_mean


@dataclass(frozen=True)
class Every:
    """Every n-th validation, or the last validation of every n-th epoch, from a chosen epoch on.

    The untrained network is observed whatever the start: it is observation 0. The last weights of
    a fit are observed where they fall on a turn.

    Args:
        n: 1 for each.
        unit: ``validation`` or ``epoch``.
        start: the first epoch that is observed, counted from 0.
    """

    n: int = 1
    unit: Literal["validation", "epoch"] = "validation"
    start: int = 0

    def __post_init__(self) -> None:
        for name, least in (("n", 1), ("start", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ConfigurationError(
                    f"every: {name}={value!r}. Give a whole number, {least} or more."
                )
        if self.unit not in ("validation", "epoch"):
            raise ConfigurationError(
                f"every: unit={self.unit!r}. {did_you_mean(self.unit, ('validation', 'epoch'))}"
            )

    def due(self, validation: int, epoch: int, ends_epoch: bool) -> bool:
        """Whether to look now.

        Args:
            validation: how many validations came before, from `start` on.
            epoch: the current one, from 0.
            ends_epoch: whether this validation is the last one of its epoch.
        """
        if epoch < self.start:
            return False
        if self.unit == "validation":
            return validation % self.n == 0
        return ends_epoch and (epoch - self.start) % self.n == 0
