"""Where TensorBoard finds the Saliency tab.

TensorBoard imports this module when it starts, and an error here, or in `fix_flags`, would keep it
from starting: nothing is imported but what TensorBoard itself has, and nothing is let out.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from tensorboard.plugins import base_plugin
from tensorboard.util import tb_logging

PLUGIN = "saliency"
"""The name of the plugin and of its series, in event files and in addresses."""

logger = tb_logging.get_logger()


class SaliencyLoader(base_plugin.TBLoader):  # type: ignore[misc]  # tensorboard is not typed
    """Makes the plugin, and makes TensorBoard keep every step of its series."""

    def fix_flags(self, flags: Any) -> None:
        with suppress(Exception):
            flags.samples_per_plugin.setdefault(PLUGIN, 0)  # 0 keeps all

    def load(self, context: Any) -> Any:
        try:
            from lightning_saliency.viewer.routes import SaliencyPlugin

            return None if context.data_provider is None else SaliencyPlugin(context)
        except Exception:
            logger.warning("The Saliency tab is not there, because of this:", exc_info=True)
            return None
