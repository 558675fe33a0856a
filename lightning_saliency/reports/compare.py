"""``lightning-saliency compare``: the same probes in two runs, in numbers, a picture and a page."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from tqdm.auto import tqdm

from lightning_saliency.errors import ConfigurationError, did_you_mean
from lightning_saliency.record import History, RecordError, read
from lightning_saliency.rendering import Caption, encode
from lightning_saliency.rendering.beside import beside
from lightning_saliency.reports import tables
from lightning_saliency.reports.agreement import MEANING, Agreement, agreement, maps_at
from lightning_saliency.reports.contents import eventful, kept
from lightning_saliency.reports.export import PATIENCE
from lightning_saliency.reports.files import told, writable, written
from lightning_saliency.reports.page import write_page
from lightning_saliency.reports.pairing import Pair, check_same_probes, pairs

DRAWN = 24
"""Probes in a picture at most: those that are least alike."""


def compare(args: Sequence[str]) -> None:
    """Print how far two runs agree, and write the picture and the page that were asked for."""
    parser = _parser()
    given = parser.parse_args(args)
    try:
        parts = list(_compared(given))
    except ConfigurationError as error:
        parser.error(str(error))
    print("\n\n".join(parts))


def _compared(given: argparse.Namespace) -> Iterator[str]:
    if given.every < 1:
        raise ConfigurationError(f"--every {given.every}: give a whole number from 1 on.")
    if given.output is not None:
        writable("-o", given.output, (".html", ".htm"))
    if given.picture is not None:
        writable("--picture", given.picture, (".png", ".jpg", ".jpeg"))
    a, b = (_read(folder, given.monitor) for folder in (given.a, given.b))
    check_same_probes(a, b)
    methods = _methods(given.method or (), a, b)
    both, by = pairs(a, b)
    names = _names(given.a, given.b)
    yield _introduced(a, b, names, both, by)
    found = list(_agreements(a, b, methods, both))
    if not found:
        raise RecordError("No observation of both runs has maps. Compare runs with record=56.")
    for one in found:
        parts = (tables.overall(one), tables.by_class(one, a), tables.least(one, a, b))
        yield from filter(None, (*parts, tables.over_time(one)))
    yield _explained(found, a, b)
    if given.picture is not None:
        yield _picture(given.picture, found[0], a, b, names)
    if given.output is not None:
        yield _page(given.output, a, b, names, given.every, found[0])


def _read(folder: Path, monitor: str | None) -> History:
    try:
        history = read(folder, monitor=monitor)
    except RecordError as error:
        raise RecordError(
            f"{error} (Give the folder of one run, and --monitor where several watched it.)"
        ) from error
    if not len(history):
        raise RecordError(f"{str(folder)!r} has no observation yet. Wait for its first validation.")
    return history


def _methods(wanted: Sequence[str], a: History, b: History) -> list[str]:
    both = [method for method in a.methods if method in b.methods]
    for method in wanted:
        if method not in both:
            raise ConfigurationError(f"--method {method!r}: {did_you_mean(method, both)}")
    if not both:
        raise ConfigurationError(
            f"The runs have no method in common: {', '.join(a.methods)} and "
            f"{', '.join(b.methods)}. Give both monitors a method of one name."
        )
    return list(dict.fromkeys(wanted)) or both


def _names(a: Path, b: Path) -> tuple[str, str]:
    """What the runs are called: their folders, as far as they differ."""
    folders = [one.resolve() for one in (a, b)]
    if folders[0] == folders[1]:
        return folders[0].name, f"{folders[1].name} again"
    above = Path(os.path.commonpath(folders))
    first, second = (one.relative_to(above).as_posix() for one in folders)
    return (first if first != "." else above.name), (second if second != "." else above.name)


def _introduced(
    a: History, b: History, names: tuple[str, str], both: Sequence[Pair], by: str
) -> str:
    last = both[-1]
    unlike = "" if by == "step" else " They are paired by their labels: the steps are others."
    return (
        f"A is {names[0]}, B is {names[1]}: {len(a.probes)} probes, {len(both)} observations of "
        f"both, the last of them {last.words}.{unlike}\n{tables.predictions(a, b, last)}"
    )


def _agreements(
    a: History, b: History, methods: Sequence[str], both: Sequence[Pair]
) -> Iterator[Agreement]:
    total = len(methods) * len(both)
    with tqdm(total=total, desc="compare", unit="pair", delay=PATIENCE, leave=False) as bar:
        for method in methods:
            found = agreement(a, b, method, both, bar.update)
            if found is not None:
                yield found


def _explained(found: Sequence[Agreement], a: History, b: History) -> str:
    """What the numbers are, and what makes them less than they seem."""
    used = [name for name in MEANING if any(name in one.values for one in found)]
    lines = [f"{name}: {MEANING[name]}." for name in used]
    lines.append(
        "other probes: the median between A's map of one probe and B's of others, which is what "
        "maps have in common anyway. Maps are as recorded, in 8 bits."
    )
    for one in found:
        pair = one.pairs[-1]
        said = [run.probes.methods.get(one.method, {}).get("words") for run in (a, b)]
        if said[0] != said[1]:
            lines.append(f"Note: {one.method} is {said[0]} in A and {said[1]} in B.")
        noisy = a.unreliable(one.method, pair.a) | b.unreliable(one.method, pair.b)
        if noisy.any():
            lines.append(
                f"Note: maps of {one.method} are noise for the most part for {int(noisy.sum())} "
                "probes, in one run or both: what differs there may be noise."
            )
    targets = [str(run.probes.header.get("target")) for run in (a, b)]
    if targets[0] != targets[1]:
        lines.append(f"Note: A explains {targets[0]}, B {targets[1]}.")
    others = sum(x != y for x, y in zip(a.probes.explained, b.probes.explained, strict=True))
    if others:
        lines.append(f"Note: {others} probes are explained for other classes, and left out.")
    return "\n".join(lines)


def _picture(path: Path, one: Agreement, a: History, b: History, names: tuple[str, str]) -> str:
    pair, count = one.pairs[-1], len(a.probes)
    chosen = tables.order(one.last)[:DRAWN]
    of_a, of_b = maps_at(a, b, one.method, pair)
    some = f" · {len(chosen)} least alike of {count} probes" if len(chosen) < count else ""
    picture = beside(
        a.probes.images[chosen],
        (of_a[chosen], of_b[chosen]),
        [_caption(one, a, b, probe) for probe in chosen],
        title=f"{one.method} · A: {names[0]} · B: {names[1]} · {pair.words}{some}",
        signed=one.signed,
        number=f"number: {one.main}",
    )
    exact = path.suffix.lower() == ".png"
    with written(path) as out:
        out.write(encode(picture, "png" if exact else "jpeg", quality=92, most_bytes=None))
    return f"{told(path)}: {one.method}"


def _caption(one: Agreement, a: History, b: History, probe: int) -> Caption:
    pair, label = one.pairs[-1], a.probes.targets[probe] if a.probes.targets else None
    of_a, of_b = int(a.predictions[pair.a, probe]), int(b.predictions[pair.b, probe])
    name, value = a.probes.class_name, float(one.last[probe])
    judged = isinstance(label, int) and of_a == of_b
    right = judged and of_a == label
    return Caption(
        label=name(label) if isinstance(label, int) and not right else "",  # a tick says it
        prediction=f"both {name(of_a)}" if of_a == of_b else f"A {name(of_a)}, B {name(of_b)}",
        probability=None if math.isnan(value) else value,
        correct=right if judged else None,
    )


def _page(
    path: Path, a: History, b: History, names: tuple[str, str], every: int, one: Agreement
) -> str:
    """Both runs in the viewer, which opens on what was compared."""
    last = one.pairs[-1]
    marked = eventful(a) | eventful(b) | {last.step, int(b.steps[last.b])}
    held = [(name, run, kept(run, every, marked)) for name, run in zip(names, (a, b), strict=True)]
    start = {
        "run": names[0],
        "monitor": a.monitor,
        "other": f"{names[1]}\n{b.monitor}",
        "method": one.method,
    }
    if last.a < len(a) - 1:
        start["step"] = str(last.step)
    with written(path) as out:
        write_page(out, held, title=f"Saliency: {names[0]} and {names[1]}", start=start)
    return f"{told(path)}: both runs in the viewer"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lightning-saliency compare",
        description="Print how far two runs look at the same places of the same probes, at their "
        "last common observation and over time.",
    )
    add = parser.add_argument
    add("a", type=Path, metavar="RUN_A", help="folder of a run's event files")
    add("b", type=Path, metavar="RUN_B", help="the same of another run")
    add("-o", "--output", type=Path, metavar="PAGE", help="write both runs into one page, .html")
    add(
        "--picture",
        type=Path,
        metavar="PICTURE",
        help=f"draw the {DRAWN} probes that are least alike: image, A, B, difference; .png, .jpg",
    )
    add("--method", action="append", help="may be repeated; all that both have if not given")
    add("--monitor", help="whose record, by the monitor's name, where a run has several")
    add("--every", type=int, default=1, metavar="K", help="in the page, as of export (%(default)s)")
    return parser
