"""Audits: floors, faithfulness and sanity of the maps, by one rank for all where that is possible.

They cost passes of their own, so they are made now and then, of so many probes as a table needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lightning_saliency.audits import Audits
from lightning_saliency.faithfulness import context_swap_gap, faithfulness
from lightning_saliency.finding import Finding
from lightning_saliency.inquiry import Inquiry
from lightning_saliency.ladder import Ladder, ladder
from lightning_saliency.measures.aggregate import mean, quantiles
from lightning_saliency.measures.observer import agreements
from lightning_saliency.method_sanity import method_sanity, warning
from lightning_saliency.readings import to_host
from lightning_saliency.redrawn import reason_to_keep
from lightning_saliency.rendering.ladder import Kind, floor_ladder

MOST = 64
"""Probes that are audited, evenly chosen: the floors of a median need no more."""

FLOORS = "floors"
"""The strip, and the table of what was changed."""


class Audit(NamedTuple):
    """What was found, on the host: it goes to the other ranks.

    Attributes:
        numbers: by the end of their tags.
        labels: of the rungs, from below.
        kinds: of the rungs.
        floors: `(methods, rungs, 3)`: 10 % quantile, median and 90 % quantile of the drift.
        text: the rungs in Markdown.
        warnings: what is to be said once.
    """

    numbers: dict[str, float]
    labels: list[str]
    kinds: list[Kind]
    floors: NDArray[np.float32]
    text: str
    warnings: list[str]


def audited(
    inquiry: Inquiry, audits: Audits, drift: Mapping[str, float], *, first: bool
) -> tuple[Finding, list[str]]:
    """Audit the maps of one observation, inside `observing`.

    Args:
        inquiry: what was seen, and how to see more.
        audits: what the user asked for.
        drift: numbers of the observation, those of ``drift_previous`` among them.
        first: whether this is the first audit of the run, which says how sane the methods are.

    Returns:
        The finding, and what is to be warned of.
    """
    make = partial(_audit, inquiry, audits, first)
    # Sharded parameters need all ranks; else one looks and the others wait.
    audit = make() if inquiry.ranks.sharded else inquiry.ranks.made_by_first(make)
    methods, now = list(inquiry.now.series), inquiry.now
    since = np.array(
        [
            [drift.get(f"{name}/drift_previous{end}", np.nan) for end in ("_p10", "", "_p90")]
            for name in methods
        ],
        dtype=np.float32,
    )
    title = f"floors · {now.label} · step {now.step}"
    strip = partial(
        floor_ladder, methods, audit.labels, audit.kinds, audit.floors, since, title=title
    )
    pictures = {FLOORS: strip} if audit.labels else {}
    return Finding(audit.numbers, pictures, {FLOORS: audit.text}), audit.warnings


def _audit(inquiry: Inquiry, audits: Audits, first: bool) -> Audit:
    with inquiry.lockstep():
        share = _share(len(inquiry.session.probes))
        inputs = inquiry.session.inputs(inquiry.module, share)
        classes = inquiry.session.classes[share]
        maps = {name: one.map[share].float() for name, one in inquiry.now.series.items()}
    rungs = ladder(
        inquiry.session.subject,
        inputs,
        classes,
        inquiry.session.methods,
        chunk=inquiry.chunk,
        lockstep=inquiry.lockstep,
        optimisers=inquiry.optimisers,
        other=_chosen(inquiry.session.other, share),
        seed=inquiry.settings.seed,
    )
    numbers = rungs.numbers() | _agreements(maps)
    numbers |= _faithful(inquiry, audits, maps, inputs, classes, share)
    sanity = _sanity(inquiry, maps, inputs, classes) if first else {}
    numbers |= {f"{name}/sanity": one for name, one in sanity.items()}
    host = {name: float(one) for name, one in to_host(numbers).items()}
    said = [warning(name, host[f"{name}/sanity"]) for name in sanity]
    return Audit(
        # A number that nothing defines, such as the faithfulness of a regression, is no curve.
        {name: one for name, one in host.items() if np.isfinite(one)},
        [rung.label for rung in rungs.rungs],
        [rung.kind for rung in rungs.rungs],
        _floors(rungs, list(maps), host),
        _text(rungs, list(maps), host),
        list(filter(None, said)),
    )


def _share(count: int) -> list[int]:
    """An even choice of probes: their order may be that of their classes."""
    most = min(count, MOST)
    return [index * count // most for index in range(most)]


def _chosen(maps: Mapping[str, Tensor] | None, share: list[int]) -> dict[str, Tensor] | None:
    return None if maps is None else {name: one[share] for name, one in maps.items()}


def _agreements(maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        f"agreement/{one}/{other}": quantiles(values, (0.5,))[0]
        for (one, other), values in agreements(maps).items()
    }


def _faithful(
    inquiry: Inquiry,
    audits: Audits,
    maps: Mapping[str, Tensor],
    inputs: Tensor,
    classes: Tensor,
    share: list[int],
) -> dict[str, Tensor]:
    """Insertion and deletion of each method, and what the model loses with other backgrounds."""
    subject, lockstep = inquiry.session.subject, inquiry.lockstep
    ways = faithfulness(
        subject, maps, inputs, classes, audits.faithfulness, chunk=inquiry.chunk, lockstep=lockstep
    )
    found = {f"{name}/insertion": mean(one.insertion) for name, one in ways.items()}
    found |= {f"{name}/deletion": mean(one.deletion) for name, one in ways.items()}
    if inquiry.masks is not None:
        found["context_swap_gap"] = mean(
            context_swap_gap(
                subject,
                inputs,
                classes,
                inquiry.masks[share],
                seed=inquiry.settings.seed,
                chunk=inquiry.chunk,
                lockstep=lockstep,
            )
        )
    return found


def _sanity(
    inquiry: Inquiry, maps: Mapping[str, Tensor], inputs: Tensor, classes: Tensor
) -> dict[str, Tensor]:
    """How alike the maps of random weights are; nothing where these weights must stay."""
    if reason_to_keep(inquiry.module) is not None:
        return {}
    found = method_sanity(
        inquiry.session.subject,
        inputs,
        classes,
        inquiry.session.methods,
        maps,
        seed=inquiry.settings.seed,
        chunk=inquiry.chunk,
    )
    return {name: quantiles(one, (0.5,))[0] for name, one in found.items()}


def _floors(rungs: Ladder, methods: list[str], host: Mapping[str, float]) -> NDArray[np.float32]:
    """Quantiles of each method's rungs: `(methods, rungs, 3)`; NaN where there is none."""
    ends = ("_p10", "", "_p90")
    return np.array(
        [
            [
                [host.get(f"{method}/floor_{rung.name}{end}", np.nan) for end in ends]
                for rung in rungs.rungs
            ]
            for method in methods
        ],
        dtype=np.float32,
    )


def _text(rungs: Ladder, methods: list[str], host: Mapping[str, float]) -> str:
    """What was changed, and the median drift that came of it."""
    lines = [
        "| changed | " + " | ".join(f"`{name}`" for name in methods) + " |",
        "|---|" + "---|" * len(methods),
    ]
    for rung in rungs.rungs:
        found = [host.get(f"{method}/floor_{rung.name}", np.nan) for method in methods]
        cells = " | ".join("" if np.isnan(one) else f"{one:.2g}" for one in found)
        lines.append(f"| {rung.about} | {cells} |")
    left = [f"- without `{name}`: {reason}" for name, reason in rungs.left_out.items()]
    return "\n".join([*lines, *([""] if left else []), *left])
