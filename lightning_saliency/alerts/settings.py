"""What the user wants to be alerted of."""

from __future__ import annotations

from dataclasses import dataclass, field

from lightning_saliency.alerts.cells import CELLS
from lightning_saliency.alerts.chart import Chart
from lightning_saliency.errors import ConfigurationError


@dataclass(frozen=True)
class Alerts:
    """Region alerts: told when a part of the image gains evidence that the others don't.

    The shares of the evidence, by `Saliency` of the explained class, are laid on a grid of cells.
    Their root mean square over the examples, in which few loud ones count, is charted over the fit:
    of the probes, and of the training as it passes, all together and by class. An alert
    is followed by an intervention: the cell is covered, and swapped between examples.

    Args:
        stream: examples of the training as they pass, drawn anew for each observation; 0 for the
            probes alone. What only the training data carry, such as a watermark, is seen in these.
        cells: per side of the grid, 2 or more.
        chart: what makes an alarm. `lightning-saliency calibrate` prints the threshold for a wanted
            rate of false alarms.

    Raises:
        ConfigurationError: an argument out of its range.
    """

    stream: int = 64
    cells: int = CELLS
    chart: Chart = field(default_factory=Chart)

    def __post_init__(self) -> None:
        for name, least in (("stream", 0), ("cells", 2)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ConfigurationError(
                    f"Alerts({name}={value!r}): give a whole number, {least} or more."
                )
        if not isinstance(self.chart, Chart):
            raise ConfigurationError(f"Alerts(chart={self.chart!r}): give a Chart().")


def resolve_alerts(given: Alerts | int | None) -> Alerts | None:
    """An `Alerts` of what a user may write: one, a number of examples, or None."""
    if given is None or isinstance(given, Alerts):
        return given
    if isinstance(given, bool) or not isinstance(given, int):
        raise ConfigurationError(
            f"alerts={given!r} is a {type(given).__name__}. Give how many examples of the training "
            "are watched as they pass (64; 0 for the probes alone), an Alerts(stream=64), or None."
        )
    return Alerts(given)
