"""A few examples of the training as they pass, for a panel that is as the training now is.

Probes are fixed, and mostly held out: what only the training data have (a watermark, a label that
leaks) is not in them. Nothing is drawn from the run's random streams, and no batch is changed.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from lightning_saliency.attribution.points import mix
from lightning_saliency.probes import Fields
from lightning_saliency.probes.fields import Reading

BATCHES = 8
"""Of which a panel is made, where they are large enough."""


@dataclass
class Stream:
    """A fair choice of the batches since it was last emptied, and of rows in them.

    Algorithm R (Vitter 1985) over batches: each has the same chance to be in the panel, however
    many pass. After n batches about `BATCHES` · (1 + ln(n / `BATCHES`)) have been copied, in part.

    Attributes:
        fields: where input and label are in a training batch.
        size: examples wanted.
        seed: of the choice.
        emptied_before: how often, in the run that goes on here.
    """

    fields: Fields
    size: int
    seed: int
    emptied_before: int = 0
    _kept: list[Reading] = field(default_factory=list, repr=False)
    _passed: int = 0

    def pass_by(self, batch: object) -> None:
        """Keep some rows of a batch, or let it pass.

        Raises:
            ConfigurationError: the fields are not in the batch.
        """
        self._passed += 1
        # Numbers of its own for each batch: how a panel is made depends on nothing before it.
        own = random.Random(mix(self.seed, self.emptied_before, self._passed))
        full = sum(len(one.inputs) for one in self._kept) >= self.size
        slot = own.randrange(self._passed) if full else len(self._kept)
        if full and slot >= len(self._kept):
            return
        count = self.fields.count(batch)
        rows = min(count, -(-self.size // BATCHES))
        start = own.randrange(count - rows + 1)
        self._kept[slot : slot + 1] = [self.fields.read(batch, slice(start, start + rows))]

    def emptied(self) -> list[Reading]:
        """What was kept since it was last emptied; from here on it begins anew."""
        kept, self._kept = self._kept, []
        self._passed, self.emptied_before = 0, self.emptied_before + 1
        return kept
