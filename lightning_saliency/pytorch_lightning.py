"""The monitor for Lightning's other name, ``pytorch_lightning``.

    from lightning_saliency.pytorch_lightning import SaliencyMonitor

The two packages have the same code and classes of their own. A list of callbacks may hold the
monitor of either; a single callback, and its class in a config of
``pytorch_lightning.cli.LightningCLI``, must be a ``pytorch_lightning.Callback``.
"""

from __future__ import annotations

import pytorch_lightning

from lightning_saliency import monitor


class SaliencyMonitor(  # type: ignore[misc]  # noqa: D101
    monitor.SaliencyMonitor, pytorch_lightning.Callback
):
    __doc__ = monitor.SaliencyMonitor.__doc__
