"""Run the matrix of trainings with and without the monitor, and write its table.

python docs/harmless.py                     # all cells, going on where it stopped; the table
python docs/harmless.py FSDP1               # the cells of one value of a factor
python docs/harmless.py "fit, 32-true, DDP, eager, EMA"   # one cell, named by all five
python docs/harmless.py --afresh            # forget what was found before
python docs/harmless.py --table             # write the table of what was found, run nothing

Exit status 1 if a cell differs, raises, hangs, was not run, or was not looked at without a word.
Results are of one state of the code: after a change all cells run again.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import sys
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple
from itertools import groupby
from pathlib import Path

import lightning
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests" / "harmless"), str(ROOT / "tests")]

from harmless_cells import FACTORS, SLOW, Cell, product_of_all  # noqa: E402
from harmless_covering import matrix  # noqa: E402
from harmless_look import Result  # noqa: E402
from harmless_recipes import RECIPES, caught  # noqa: E402
from harmless_worker import results  # noqa: E402

PAGE = ROOT / "docs" / "harmless.md"
RUNS = ROOT / "runs" / "harmless"
"""Results so far, one a line, and what the workers print; below a folder that is not kept."""

BEGIN, END = "<!-- begin: written by docs/harmless.py -->", "<!-- end -->"
GOOD = ("same", "off")


def main() -> int:
    """Run what is left, tell what was found, write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("what", nargs="?", default="", help="a value of a factor, or a cell")
    parser.add_argument("--afresh", action="store_true", help="forget earlier results")
    parser.add_argument("--table", action="store_true", help="run nothing")
    given = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")  # of libraries in the recipes; workers print into their logs
    RUNS.mkdir(parents=True, exist_ok=True)
    file = RUNS / f"{code()}.jsonl"
    if given.afresh:
        file.unlink(missing_ok=True)
    chosen = chosen_cells(given.what)
    known = found(file)
    if not given.table:
        left = [cell for cell in chosen if str(cell) not in known]
        known |= run(left, len(chosen), file)
    of = [known[str(cell)] for cell in chosen if str(cell) in known]
    bad = [result for result in of if result.verdict not in GOOD]
    for result in bad:
        print(f"{result.verdict}: {result.cell}: {result.error or result.gaps}")
    if not given.what:
        write_page(chosen, known)
    return 1 if bad or len(of) < len(chosen) else 0


def code() -> str:
    """A digest of all that a result depends on: of other code nothing was found yet."""
    files = [*(ROOT / "lightning_saliency").rglob("*.py"), *(ROOT / "tests").glob("twin_*.py")]
    files += (ROOT / "tests" / "harmless").glob("harmless_*.py")
    digest = hashlib.sha256(f"{torch.__version__} {lightning.__version__}".encode())
    for path in sorted(files):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def chosen_cells(what: str) -> list[Cell]:
    """All cells, those that have a value, or the one of a name."""
    if "," in what or "·" in what:
        return [Cell.named(what)]
    cells = matrix()
    if not what:
        return cells
    values = sorted({value for cell in cells for value in astuple(cell)})
    if what not in values:
        raise SystemExit(f"{what!r} is no value of a factor: {', '.join(values)}.")
    return [cell for cell in cells if what in astuple(cell)]


def found(file: Path) -> dict[str, Result]:
    """What earlier runs found, by cell. What was not good is run again."""
    if not file.exists():
        return {}
    lines = file.read_text().splitlines()
    every = {result.cell: result for result in map(Result.of_line, lines)}
    return {name: result for name, result in every.items() if result.verdict in GOOD}


def run(cells: Sequence[Cell], among: int, file: Path) -> dict[str, Result]:
    """Run cells, one job of worker processes for each strategy, and keep what comes at once."""
    every: dict[str, Result] = {}
    done = among - len(cells)
    # What starts its processes itself runs in a job of one.
    ordered = sorted(cells, key=lambda cell: (*FACTORS["ranks"], SLOW["ranks"]).index(cell.ranks))
    with file.open("a") as kept:
        for ranks, same in groupby(ordered, key=lambda cell: cell.ranks):
            members = list(same)
            job = 1 if ranks == SLOW["ranks"] else members[0].processes
            log = RUNS / f"{ranks.replace(' ', '-')}.log"
            for result in results(members, job, log):
                done += 1
                every[result.cell] = result
                kept.write(result.line() + "\n")
                kept.flush()
                tell = result.error or result.gaps or result.off
                print(
                    f"{done:>3}/{among}  {result.verdict:<7} {result.cell}  {result.seconds} s"
                    f"{f'  {tell}' if tell else ''}",
                    flush=True,
                )
    return every


def write_page(cells: Sequence[Cell], known: dict[str, Result]) -> None:
    """Put the table between its markers; the prose around it is by hand."""
    page = PAGE.read_text()
    before, rest = page.split(BEGIN)
    after = rest.split(END)[1]
    table = "\n".join(report(cells, known))
    PAGE.write_text(f"{before}{BEGIN}\n\n{table}\n\n{END}{after}")
    print(f"The table is in {PAGE.relative_to(ROOT)}.")


def report(cells: Sequence[Cell], known: dict[str, Result]) -> Iterator[str]:
    """The lines between the markers."""
    of = [known[str(cell)] for cell in cells if str(cell) in known]
    verdicts = Counter(result.verdict for result in of)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    yield (
        f"{verdicts['same']} of {len(cells)} cells: the monitor looked, and max |Δ| = 0 in "
        "weights, buffers, modes, hooks, gradients, optimizer, scaler, random streams, batches, "
        "metrics and compiled graphs. "
        f"torch {torch.__version__}, lightning {lightning.__version__}, {device}."
    )
    if verdicts["off"]:
        yield f"In {verdicts['off']} further cells it keeps off, says so, and max |Δ| = 0."
    missing = len(cells) - len(of)
    if missing:
        yield f"{missing} cells were not run."
    yield ""
    yield from per_value(cells, known)
    yield from exceptions(of)
    yield from reasons()
    yield from recipes()


def per_value(cells: Sequence[Cell], known: dict[str, Result]) -> Iterator[str]:
    """One row for each value of each factor."""
    yield "| factor | value | cells | looked | max \\|Δ\\| |"
    yield "|---|---|---|---|---|"
    for factor, values in FACTORS.items():
        for value in (*values, *filter(None, [SLOW.get(factor)])):
            names = [str(cell) for cell in cells if getattr(cell, factor) == value]
            of = [known[name] for name in names if name in known]
            if of:
                looked = sum(result.observed for result in of)
                largest = max(result.largest for result in of)
                yield f"| {factor} | {value} | {len(of)} | {looked} | {largest:g} |"


def exceptions(of: Iterable[Result]) -> Iterator[str]:
    """The cells that are not the same, each by its name."""
    bad = [result for result in of if result.verdict not in GOOD]
    if bad:
        yield from ["", "| not the same | how |", "|---|---|"]
    for result in bad:
        yield f"| {result.cell} | {result.verdict}: {result.error or result.gaps} |"


def reasons() -> Iterator[str]:
    """What no cell can be, with the number of combinations that each reason rules out."""
    counts = Counter(reason for _, reason in product_of_all() if reason is not None)
    yield from ["", "| no such training | combinations |", "|---|---|"]
    for reason, count in counts.most_common():
        yield f"| {reason} | {count} |"


def recipes() -> Iterator[str]:
    """What the same comparison finds in five ways of doing it by hand."""
    yield from ["", "| recipe | max \\|Δw\\|, plain | accumulating | also differs |"]
    yield "|---|---|---|---|"
    for name in RECIPES:
        plain, accumulating = caught(name, "plain"), caught(name, "accumulate")
        others = sorted((plain.keys() | accumulating.keys()) - {"weights"})
        weights = [f"{one.get('weights', 0.0):.2g}" for one in (plain, accumulating)]
        yield f"| {name} | {' | '.join(weights)} | {', '.join(others)} |"


if __name__ == "__main__":
    sys.exit(main())
