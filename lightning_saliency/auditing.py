"""Audits: floors, faithfulness and sanity of the maps, by one rank for all where that is possible.

They cost passes of their own, so they are made now and then, of so many probes as a table needs.
Each is one by itself: where one fails, the others are told.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

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
from lightning_saliency.targets import tells_classes

T = TypeVar("T")

MOST = 64
"""Probes that are audited, evenly chosen: the floors of a median need no more."""

FLOORS = "floors"
"""The strip, and the table of what was changed."""

Audit: TypeAlias = Callable[[Inquiry, Mapping[str, float]], tuple[Finding, list[str]]]
"""Of what was seen, and the numbers that there are so far → more, and what is to be warned of.

To be made inside `observing`, on all ranks.
"""


def audits_of(*, first: bool) -> dict[str, Audit]:
    """What is audited, by what it is called where it fails.

    Args:
        first: whether this is the first time in a run, which says how sane the methods are.
    """
    every: dict[str, Audit] = {"the floors": floors, "insertion and deletion": faithful}
    return {**every, "the checks of sanity": sane} if first else every


class Floors(NamedTuple):
    """What was found, on the host: it goes to the other ranks.

    Attributes:
        numbers: by the end of their tags.
        labels: of the rungs, from below.
        kinds: of the rungs.
        drift: `(methods, rungs, 3)`: 10 % quantile, median and 90 % quantile.
        text: the rungs in Markdown.
    """

    numbers: dict[str, float]
    labels: list[str]
    kinds: list[Kind]
    drift: NDArray[np.float32]
    text: str


def floors(inquiry: Inquiry, numbers: Mapping[str, float]) -> tuple[Finding, list[str]]:
    """How far the maps move when nothing that matters changes, beside how far they moved now."""
    found, now = _made(inquiry, partial(_floors, inquiry)), inquiry.now
    methods = list(now.series)
    since = np.array(
        [[numbers.get(f"{name}/drift_previous{end}", np.nan) for end in _ENDS] for name in methods],
        dtype=np.float32,
    )
    title = f"floors · {now.label} · step {now.step}"
    strip = partial(
        floor_ladder, methods, found.labels, found.kinds, found.drift, since, title=title
    )
    pictures = {FLOORS: strip} if found.labels else {}
    return Finding(found.numbers, pictures, {FLOORS: found.text}), []


def faithful(inquiry: Inquiry, _: Mapping[str, float]) -> tuple[Finding, list[str]]:
    """Insertion and deletion of each method, and what the model loses with other backgrounds."""
    return Finding(_made(inquiry, partial(_faithful, inquiry))), []


def sane(inquiry: Inquiry, numbers: Mapping[str, float]) -> tuple[Finding, list[str]]:
    """How alike the maps of random weights are; nothing where the weights must stay."""
    found = _made(inquiry, partial(_sanity, inquiry))
    said = [
        warning(name, one, numbers.get(f"{name}/floor_redrawn", np.nan))
        for name, one in found.items()
    ]
    return Finding({f"{name}/sanity": one for name, one in found.items()}), list(filter(None, said))


def _made(inquiry: Inquiry, make: Callable[[], T]) -> T:
    """What rank 0 makes; sharded parameters need all ranks for that."""
    ranks = inquiry.ranks
    if not ranks.sharded:
        return ranks.made_by_first(make)
    ranks.share_statistics(inquiry.module)
    mine = make()
    return ranks.made_by_first(lambda: mine)


class _Share(NamedTuple):
    """Of the probes, evenly chosen: their order may be that of their classes."""

    places: list[int]
    inputs: Tensor
    classes: Tensor
    maps: Mapping[str, Tensor]


def _share(inquiry: Inquiry) -> _Share:
    count = len(inquiry.session.probes)
    most = min(count, MOST)
    places = [index * count // most for index in range(most)]
    with inquiry.lockstep():
        return _Share(
            places,
            inquiry.session.inputs(inquiry.module, places),
            inquiry.session.classes[places],
            {name: one.map[places].float() for name, one in inquiry.now.series.items()},
        )


def _floors(inquiry: Inquiry) -> Floors:
    share, session = _share(inquiry), inquiry.session
    other = None
    if session.other is not None:
        other = {name: one[share.places] for name, one in session.other.items()}
    rungs = ladder(
        session.subject,
        share.inputs,
        share.classes,
        session.methods,
        chunk=inquiry.chunk,
        lockstep=inquiry.lockstep,
        optimisers=inquiry.optimisers,
        other=other,
        seed=inquiry.settings.seed,
    )
    numbers, methods = _told(rungs.numbers() | _agreements(share.maps)), list(share.maps)
    left = dict(rungs.left_out)
    if not tells_classes(session.subject.target):
        left["insertion"] = left["deletion"] = "they need the probability of a class"
    return Floors(
        numbers,
        [rung.label for rung in rungs.rungs],
        [rung.kind for rung in rungs.rungs],
        _table(rungs, methods, numbers),
        _text(rungs, methods, numbers, left),
    )


def _told(numbers: Mapping[str, Tensor]) -> dict[str, float]:
    """On the host. A number that nothing defines is no curve."""
    host = {name: float(one) for name, one in to_host(numbers).items()} if numbers else {}
    return {name: one for name, one in host.items() if np.isfinite(one)}


def _agreements(maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        f"agreement/{one}/{other}": quantiles(values, (0.5,))[0]
        for (one, other), values in agreements(maps).items()
    }


def _faithful(inquiry: Inquiry) -> dict[str, float]:
    share, settings = _share(inquiry), inquiry.settings
    assert settings.audits is not None
    subject, chunk, lockstep = inquiry.session.subject, inquiry.chunk, inquiry.lockstep
    ways = faithfulness(
        subject,
        share.maps,
        share.inputs,
        share.classes,
        settings.audits.faithfulness,
        chunk=chunk,
        lockstep=lockstep,
    )
    found = {f"{name}/insertion": mean(one.insertion) for name, one in ways.items()}
    found |= {f"{name}/deletion": mean(one.deletion) for name, one in ways.items()}
    if inquiry.masks is not None:
        found["context_swap_gap"] = mean(
            context_swap_gap(
                subject,
                share.inputs,
                share.classes,
                inquiry.masks[share.places],
                seed=settings.seed,
                chunk=chunk,
                lockstep=lockstep,
            )
        )
    return _told(found)


def _sanity(inquiry: Inquiry) -> dict[str, float]:
    if reason_to_keep(inquiry.module) is not None:
        return {}
    share, session = _share(inquiry), inquiry.session
    found = method_sanity(
        session.subject,
        share.inputs,
        share.classes,
        session.methods,
        share.maps,
        seed=inquiry.settings.seed,
        chunk=inquiry.chunk,
    )
    return _told({name: quantiles(one, (0.5,))[0] for name, one in found.items()})


_ENDS = ("_p10", "", "_p90")


def _table(rungs: Ladder, methods: list[str], numbers: Mapping[str, float]) -> NDArray[np.float32]:
    """Quantiles of each method's rungs: `(methods, rungs, 3)`; NaN where there is none."""
    return np.array(
        [
            [
                [numbers.get(f"{method}/floor_{rung.name}{end}", np.nan) for end in _ENDS]
                for rung in rungs.rungs
            ]
            for method in methods
        ],
        dtype=np.float32,
    )


def _text(
    rungs: Ladder, methods: list[str], numbers: Mapping[str, float], left_out: Mapping[str, str]
) -> str:
    """What was changed, and the median drift that came of it."""
    lines = [
        "| changed | " + " | ".join(f"`{name}`" for name in methods) + " |",
        "|---|" + "---|" * len(methods),
    ]
    for rung in rungs.rungs:
        found = [numbers.get(f"{method}/floor_{rung.name}", np.nan) for method in methods]
        cells = " | ".join("" if np.isnan(one) else f"{one:.2g}" for one in found)
        lines.append(f"| {rung.about} | {cells} |")
    left = [f"- without `{name}`: {reason}" for name, reason in left_out.items()]
    return "\n".join([*lines, *([""] if left else []), *left])
