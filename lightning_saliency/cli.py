"""The command line: what reads recorded runs, and Lightning's own for what trains.

Each command imports what it needs when it is called: `export` works where there is no torch.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

from lightning_saliency import __version__
from lightning_saliency.errors import did_you_mean

if TYPE_CHECKING:
    from lightning.pytorch.cli import LightningCLI

TRAINING: Mapping[str, str] = MappingProxyType(
    {
        "fit": "train a LightningModule on a LightningDataModule: --config run.yaml",
        "validate": "validate it once",
        "test": "test it once",
        "predict": "predict with it",
    }
)
"""Lightning's commands, and what they do."""

READING: Mapping[str, str] = MappingProxyType(
    {
        "export": "recorded runs as one HTML file, or as a film",
        "compare": "how far two runs look at the same places of the same probes",
        "calibrate": "the threshold of region alerts, from finished runs",
    }
)
"""Commands of our own, and what they give."""


def main(args: Sequence[str] | None = None) -> LightningCLI:
    """Run ``fit``, ``validate``, ``test`` or ``predict`` as ``--config`` says.

    Args:
        args: instead of the process's own arguments.

    Returns:
        The command line that ran, with its trainer, model and data.
    """
    from lightning.pytorch import LightningDataModule, LightningModule
    from lightning.pytorch.cli import LightningCLI

    # Imported so that YAML may name them without their module.
    from lightning_saliency import attribution, measures, monitor, targets  # noqa: F401

    # A model that stands beside its config is found, as with `python -m`.
    if os.getcwd() not in sys.path and "" not in sys.path:  # noqa: PTH109
        sys.path.insert(0, os.getcwd())  # noqa: PTH109
    return LightningCLI(
        LightningModule,
        LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        parser_kwargs={"prog": "lightning-saliency"},
        args=None if args is None else list(args),
    )


def run() -> None:
    """The command of a shell: what a Python caller gets of `main` would be its exit status."""
    name, rest = (sys.argv[1], sys.argv[2:]) if len(sys.argv) > 1 else ("", [])
    if name == "export":
        from lightning_saliency.reports.export import export

        export(rest)
    elif name == "compare":
        from lightning_saliency.reports.compare import compare

        compare(rest)
    elif name == "calibrate":
        from lightning_saliency.calibrate import calibrate

        calibrate(rest)
    elif name in ("", "-h", "--help"):
        print(usage())
    elif name == "--version":
        print(f"lightning-saliency {__version__}")
    elif name in TRAINING or name.startswith("-"):
        main()
    else:
        known = did_you_mean(name, (*TRAINING, *READING))
        print(f"lightning-saliency: there is no command {name!r}. {known}", file=sys.stderr)
        sys.exit(2)


def usage() -> str:
    """All commands."""

    def listed(commands: Mapping[str, str]) -> str:
        return "\n".join(f"  {name:<10} {words}" for name, words in commands.items())

    return (
        "usage: lightning-saliency COMMAND …\n\n"
        f"From recorded runs:\n{listed(READING)}\n\n"
        f"To train, as Lightning's command line does:\n{listed(TRAINING)}\n\n"
        "lightning-saliency COMMAND --help says more of each."
    )
