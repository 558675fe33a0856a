"""The command line: Lightning's own, with every class given by its import path."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.cli import LightningCLI

# Imported so that YAML may name them without their module.
from lightning_saliency import attribution, measures, targets  # noqa: F401
from lightning_saliency.calibrate import calibrate
from lightning_saliency.monitor import SaliencyMonitor  # noqa: F401


def main(args: Sequence[str] | None = None) -> LightningCLI:
    """Run ``fit``, ``validate``, ``test`` or ``predict`` as ``--config`` says.

    Args:
        args: instead of the process's own arguments.

    Returns:
        The command line that ran, with its trainer, model and data.
    """
    # A model that stands beside its config is found, as with `python -m`.
    if os.getcwd() not in sys.path and "" not in sys.path:  # noqa: PTH109
        sys.path.insert(0, os.getcwd())  # noqa: PTH109
    return LightningCLI(
        LightningModule,
        LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        parser_kwargs={
            "prog": "lightning-saliency",
            "epilog": "Besides: lightning-saliency calibrate RUN…, the threshold of region alerts.",
        },
        args=None if args is None else list(args),
    )


def run() -> None:
    """The command of a shell: what a Python caller gets of `main` would be its exit status."""
    if sys.argv[1:2] == ["calibrate"]:
        calibrate(sys.argv[2:])
    else:
        main()
