"""``lightning-saliency export``: recorded runs as one HTML file, or as a film."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from tqdm.auto import tqdm

from lightning_saliency.errors import ConfigurationError, did_you_mean
from lightning_saliency.movie import FORMATS, movie
from lightning_saliency.record import History, RecordError, Run, read, runs
from lightning_saliency.reports.contents import eventful, kept
from lightning_saliency.reports.files import MAIL, told, writable, written
from lightning_saliency.reports.page import Held, write_page

PATIENCE = 2.0
"""Seconds before a progress bar appears."""


def export(args: Sequence[str]) -> None:
    """Write the page, and the film, that the arguments of a command ask for."""
    parser = _parser()
    given = parser.parse_args(args)
    try:
        for line in _exported(given):
            print(line)
    except ConfigurationError as error:
        parser.error(str(error))


def _exported(given: argparse.Namespace) -> Iterator[str]:
    """Do it, and say what came of it."""
    page = given.output or (None if given.movie else Path("saliency.html"))
    if page is not None:
        writable("-o", page, (".html", ".htm"))
    if given.movie is not None:
        writable("--movie", given.movie, tuple(f".{one}" for one in FORMATS))
    if given.every < 1:
        raise ConfigurationError(f"--every {given.every}: give a whole number from 1 on.")
    found, refused = chosen(given.logdir, given.run or (), given.monitor or ())
    for one in refused:
        print(f"{one.run}: left out. {one.refused}", file=sys.stderr)
    if given.movie is not None:
        yield _film(given, found)
    if page is not None:
        yield from _page(given, page, found, refused)


def chosen(
    logdir: Path, wanted: Sequence[str], monitors: Sequence[str]
) -> tuple[list[Run], list[Run]]:
    """The records of a log directory that were asked for: those to show, and those that can't be.

    Args:
        logdir: a run's folder, or one that holds such folders.
        wanted: runs, relative to it; all when empty.
        monitors: their names; all when empty.

    Raises:
        ConfigurationError: there is nothing of that, or nothing that can be shown.
    """
    known = runs(logdir)
    if not known:
        raise RecordError(
            f"Nothing is recorded below {str(logdir)!r}. Train with SaliencyMonitor(record=56) and "
            "a TensorBoardLogger, which keeps it."
        )
    wanted = [run.strip("/") for run in wanted]
    _check_known("--run", wanted, [one.run for one in known])
    _check_known("--monitor", monitors, [one.monitor for one in known])
    found = [
        one
        for one in known
        if (not wanted or one.run in wanted) and (not monitors or one.monitor in monitors)
    ]
    if not found:
        raise RecordError(
            f"--run {' '.join(wanted)} has no record of --monitor {' '.join(monitors)}. Leave one "
            "of them out."
        )
    shown = [one for one in found if one.observations]
    if not shown:
        why = found[0].refused or "It has no observation yet: wait for its first validation."
        raise RecordError(f"Nothing can be shown of {found[0].run!r}. {why}")
    return shown, [one for one in found if one.refused]


def _check_known(option: str, wanted: Sequence[str], known: Sequence[str]) -> None:
    for one in wanted:
        if one not in known:
            raise RecordError(f"{option} {one!r}: {did_you_mean(one, sorted(set(known)))}")


def _page(
    given: argparse.Namespace, path: Path, found: Sequence[Run], refused: Sequence[Run]
) -> Iterator[str]:
    # Twice over the runs, so that one at a time is in memory.
    marked = set().union(*(eventful(_read(given.logdir, run)) for run in found))
    counts: list[str] = []

    def held() -> Iterator[Held]:
        for run in found:
            history = _read(given.logdir, run)
            some = kept(history, given.every, marked if given.every > 1 else ())
            counts.append(
                f"{_called(given.logdir, run)}: {len(some)} of {len(history)} observations"
            )
            yield _called(given.logdir, run), history, some

    with (
        tqdm(total=len(found), desc="export", unit="run", delay=PATIENCE, leave=False) as bar,
        written(path) as out,
    ):
        write_page(
            out,
            held(),
            title=f"Saliency: {', '.join(_called(given.logdir, run) for run in found)}",
            refused=[{"run": x.run, "monitor": x.monitor, "why": x.refused} for x in refused],
            done=bar.update,
        )
    yield told(path)
    yield from counts
    if path.stat().st_size > MAIL:
        yield "Larger than most mail takes: --every 5 or --run make it smaller."


def _film(given: argparse.Namespace, found: Sequence[Run]) -> str:
    if len(found) > 1:
        names = "; ".join(f"--run {one.run} --monitor {one.monitor}" for one in found)
        raise ConfigurationError(
            f"--movie is of one run, and {len(found)} are below {str(given.logdir)!r}. "
            f"Say which: {names}."
        )
    history = _read(given.logdir, found[0])
    method = given.method or history.methods[0]
    kind = FORMATS[given.movie.suffix.lower()[1:]]
    shown = kept(history, given.every)
    with tqdm(total=len(shown), desc="film", unit="frame", delay=PATIENCE, leave=False) as bar:
        film = movie(history, method, kind, observations=shown, done=bar.update)
    with written(given.movie) as out:
        out.write(film)
    return f"{told(given.movie)}: {method}, {len(shown)} of {len(history)} observations"


def _read(logdir: Path, run: Run) -> History:
    return read(logdir, run.run, run.monitor)


def _called(logdir: Path, run: Run) -> str:
    """What a run is called: by its folder, where that is the log directory itself."""
    return logdir.resolve().name if run.run == "." else run.run


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lightning-saliency export",
        description="Write recorded runs as one HTML file, the viewer of TensorBoard's Saliency "
        "tab, which opens without TensorBoard or a network; or as a film.",
    )
    add = parser.add_argument
    add("logdir", type=Path, metavar="LOGDIR", help="folder of event files, or one of such folders")
    add("-o", "--output", type=Path, metavar="PAGE", help="the page, saliency.html if not given")
    add("--run", action="append", help="which run, relative to LOGDIR; may be repeated; or all")
    add("--monitor", action="append", help="whose record, by the monitor's name; or all")
    add(
        "--every",
        type=int,
        default=1,
        metavar="K",
        help="keep each K-th observation, the first and the last, and in a page those where "
        "something happened (%(default)s)",
    )
    add("--movie", type=Path, metavar="FILM", help="a film of one run's probes, .webp or .gif")
    add("--method", help="of the film; the first if not given")
    return parser
