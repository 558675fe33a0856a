"""What is looked into now and then, beside the maps of every observation, and costs more passes."""

from __future__ import annotations

from dataclasses import dataclass, field

from lightning_saliency.errors import ConfigurationError
from lightning_saliency.faithfulness import Faithfulness


@dataclass(frozen=True)
class Audits:
    """Checks of the maps themselves: their floors, their faithfulness, whether they know the model.

    - **Floors**: what the same maps do when nothing that matters changes (the same pass again,
      another batch size, another precision, 1 % and 5 % of noise, one pixel, one training step) and
      when all does (another seed, random weights): one strip, to read drift against.
    - **Faithfulness** (Petsiuk et al. 2018): the model's own score while places are uncovered or
      hidden in the order of the map, less a random order; with masks, what it loses when
      backgrounds are swapped.
    - **Sanity** (Adebayo et al. 2018), once in a run: how alike maps stay when the weights are
      random. A method whose pictures hardly react is told in the log.

    Passes, of up to 64 probes: as many as 9 observations for the floors and one for the sanity;
    30 forward per method and 33 more for the faithfulness with its 16 steps.

    Args:
        every: audit the first observation after the training began, and every so many from there.
        faithfulness: how it is measured.
        other: the checkpoint of a second run with another seed and the same probes, watched by a
            monitor of the same name: the rung of another seed.

    Raises:
        ConfigurationError: an argument out of its range.
    """

    every: int = 10
    faithfulness: Faithfulness = field(default_factory=Faithfulness)
    other: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.every, bool) or not isinstance(self.every, int) or self.every < 1:
            raise ConfigurationError(
                f"Audits(every={self.every!r}): give a whole number of observations, 1 or more."
            )
        if not isinstance(self.faithfulness, Faithfulness):
            raise ConfigurationError(
                f"Audits(faithfulness={self.faithfulness!r}): give a Faithfulness()."
            )
        if self.other is not None and not isinstance(self.other, str):
            raise ConfigurationError(
                f"Audits(other={self.other!r}): give the path of a checkpoint."
            )

    def due(self, observation: int) -> bool:
        """Whether to audit this observation; 0 is the one before the training."""
        return observation > 0 and (observation - 1) % self.every == 0


def resolve_audits(given: Audits | int | None) -> Audits | None:
    """An `Audits` of what a user may write: one, a number of observations, or None."""
    if given is None or isinstance(given, Audits):
        return given
    if isinstance(given, bool) or not isinstance(given, int):
        raise ConfigurationError(
            f"audits={given!r} is a {type(given).__name__}. Give a number (10 audits every tenth "
            "observation) or an Audits(every=10)."
        )
    return Audits(given)
