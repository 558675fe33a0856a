"""Tables in Markdown that are as easy to read in a terminal."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from lightning_saliency.record import History
from lightning_saliency.rendering.filmplan import columns_shown
from lightning_saliency.reports.agreement import Agreement, Floats
from lightning_saliency.reports.pairing import Pair

MOMENTS = 12
"""Rows of a table over time at most."""

CLASSES = 20
"""Rows of a table of classes at most."""

LEAST = 8
"""Probes that agree least, at most."""

_SHARES = (0.5, 0.1, 0.9)


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; columns of numbers are aligned at the right."""
    cells = [[" ".join(one.split()).replace("|", "\\|") for one in row] for row in (head, *rows)]
    columns = list(zip(*cells, strict=True))
    right = [
        at > 0 and all(map(_NUMBER.fullmatch, column[1:])) for at, column in enumerate(columns)
    ]
    widths = [max(map(len, column)) for column in columns]
    lines = ["| " + " | ".join(map(_padded, row, widths, right)) + " |" for row in cells]
    rules = [
        "-" * (width + 1) + (":" if at else "-") for width, at in zip(widths, right, strict=True)
    ]
    return "\n".join([lines[0], f"|{'|'.join(rules)}|", *lines[1:]])


_NUMBER = re.compile(r"[−\d.]+|–|\d+ of \d+")


def _padded(text: str, width: int, right: bool) -> str:
    return text.rjust(width) if right else text.ljust(width)


def number(value: float) -> str:
    """In two decimals; a dash where it is undefined."""
    return "–" if math.isnan(value) else f"{value:.2f}".replace("-", "−")


def overall(one: Agreement) -> str:
    """Quantiles over probes at the last pair, beside what chance gives."""
    rows = []
    for name, values in one.values.items():
        quantiles = [number(_quantile(values[-1], share)) for share in _SHARES]
        known = int(np.isfinite(values[-1]).sum())
        chance = number(_quantile(one.chance[name], 0.5))
        rows.append([name, *quantiles, chance, f"{known} of {values.shape[1]}"])
    return markdown([one.method, "median", "10 %", "90 %", "other probes", "defined"], rows)


def by_class(one: Agreement, a: History) -> str:
    """Medians of each class at the last pair, of the least alike where there are many; or ""."""
    labels = a.probes.targets or ()
    classes = sorted({label for label in labels if isinstance(label, int)})
    if len(classes) < 2:
        return ""
    mine = {label: np.array([other == label for other in labels]) for label in classes}
    if len(classes) > CLASSES:
        classes = [classes[at] for at in order(_medians(one.last, mine.values()))[:CLASSES]]
    medians = [
        _medians(values[-1], [mine[label] for label in classes]) for values in one.values.values()
    ]
    rows = [
        [a.probes.class_name(label), str(int(mine[label].sum())), *map(number, row)]
        for label, *row in zip(classes, *medians, strict=True)
    ]
    few = f", {CLASSES} least alike of {len(mine)} classes" if len(mine) > CLASSES else ", by class"
    return markdown([f"{one.method}{few}", "probes", *one.values], rows)


def _medians(values: Floats, groups: Iterable[NDArray[np.bool_]]) -> Floats:
    return np.array([_quantile(values[group], 0.5) for group in groups], dtype=np.float32)


def least(one: Agreement, a: History, b: History) -> str:
    """The probes that agree least at the last pair."""
    last, pair = one.last, one.pairs[-1]
    rows = [
        [
            a.probes.names[probe],
            _label(a, probe),
            *(_predicted(run, at, probe) for run, at in ((a, pair.a), (b, pair.b))),
            *(number(float(values[-1][probe])) for values in one.values.values()),
        ]
        for probe in order(last)[:LEAST]
        if math.isfinite(last[probe])
    ]
    head = [f"{one.method}, least alike", "label", "A predicts", "B predicts", *one.values]
    return markdown(head, rows) if rows else ""


def over_time(one: Agreement) -> str:
    """Medians at up to `MOMENTS` pairs; "" of a single one."""
    if len(one.pairs) < 2:
        return ""
    rows = [
        [
            one.pairs[at].label,
            str(one.pairs[at].step),
            *(number(_quantile(values[at], 0.5)) for values in one.values.values()),
        ]
        for at in columns_shown(len(one.pairs), MOMENTS)
    ]
    return markdown([f"{one.method}, over time", "step", *one.values], rows)


def predictions(a: History, b: History, pair: Pair) -> str:
    """How often the runs predict the same, and how often each is right."""
    of_a, of_b = a.predictions[pair.a], b.predictions[pair.b]
    words = f"They predict the same for {int((of_a == of_b).sum())} of {len(of_a)} probes"
    labels = a.probes.targets
    if labels is None or not all(isinstance(one, int) for one in labels):
        return f"{words}."
    right = [int((given == np.array(labels)).sum()) for given in (of_a, of_b)]
    return f"{words}; A is right for {right[0]}, B for {right[1]}."


def order(values: Floats) -> list[int]:
    """Probes from the smallest value on, undefined ones at the end."""
    return [int(probe) for probe in np.argsort(values, kind="stable")]


def _label(run: History, probe: int) -> str:
    label = run.probes.targets[probe] if run.probes.targets is not None else None
    return run.probes.class_name(label) if isinstance(label, int) else "–"


def _predicted(run: History, index: int, probe: int) -> str:
    return run.probes.class_name(int(run.predictions[index, probe]))


def _quantile(values: Floats, share: float) -> float:
    known = values[np.isfinite(values)]
    return float(np.quantile(known, share)) if known.size else math.nan
