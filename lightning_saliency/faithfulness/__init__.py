"""Faithfulness: a map and the model -> whether what the map points at is what the model needs.

Forward passes alone, and of a model that is left as it is: put `observing` around them where that
counts. Where ranks must take all passes together, `lockstep` is made around what lies between.
"""

from __future__ import annotations

from lightning_saliency.faithfulness.curves import Faithful, Faithfulness, faithfulness
from lightning_saliency.faithfulness.swap import context_swap_gap

__all__ = ["Faithful", "Faithfulness", "context_swap_gap", "faithfulness"]
