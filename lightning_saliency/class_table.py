"""The drift and the flips of each class, as a table that people read."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

MOST = 20
"""Rows; of a model with more classes those that moved most."""


def class_table(
    method: str,
    classes: NDArray[np.int64],
    drift: NDArray[np.float32],
    flipped: NDArray[np.bool_],
    names: Sequence[str] | None,
) -> str:
    """Markdown: each class, its probes, their mean drift and how many flipped; most drift first.

    Args:
        method: whose maps drifted.
        classes: `(N,)`, what is explained.
        drift: `(N,)`, since the previous observation; NaN where undefined.
        flipped: `(N,)`, whether the prediction changed since then.
        names: of the classes, by index; the index is written where there is none.
    """
    rows = [_row(int(one), classes == one, drift, flipped, names) for one in np.unique(classes)]
    rows.sort(key=lambda row: (np.isnan(row[2]), -row[2]))
    shown = rows[:MOST]
    left = f"\n\n{len(rows) - MOST} further classes moved less." if len(rows) > MOST else ""
    lines = [
        f"| {name} | {count} | {'' if np.isnan(mean) else f'{mean:.3g}'} | {turned} |"
        for name, count, mean, turned in shown
    ]
    head = [f"| class | probes | drift of `{method}`, mean | flipped |", "|---|---|---|---|"]
    return "\n".join([*head, *lines]) + left


def _row(
    index: int,
    own: NDArray[np.bool_],
    drift: NDArray[np.float32],
    flipped: NDArray[np.bool_],
    names: Sequence[str] | None,
) -> tuple[str, int, float, int]:
    known = drift[own][~np.isnan(drift[own])]
    named = names is not None and 0 <= index < len(names)
    # A name with a bar in it would be two cells.
    name = str(names[index]).replace("|", "\\|") if named and names is not None else str(index)
    mean = float(known.mean()) if len(known) else float("nan")
    return name, int(own.sum()), mean, int(flipped[own].sum())
