"""All that only a GPU can show, in six minutes: whether it is harmless there, and what it costs.

    python tests/gpu/check.py [--out FOLDER] [--device cuda] [--jobs 12]

Runs the matrix of `docs/harmless.py` for one process with everything on the device, the tests of
this folder, `benchmarks/overhead.py` and `benchmarks/peers.py`. Each part has its time and fails by
itself; a table at the end has a line for each. ``--device cpu`` tries the script, on little.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "harmless"), str(ROOT / "tests")]

from harmless_cells import FACTORS, INDUCTOR, Cell, product_of_all  # noqa: E402
from harmless_covering import covering  # noqa: E402
from harmless_look import Result  # noqa: E402
from harmless_worker import results  # noqa: E402

ONE = "1 process"
SLOW = ("torch.compile", "module.compile")


@dataclass
class Check:
    """One run of the script.

    Attributes:
        out: folder for what is found.
        device: ``cuda``; ``cpu`` tries the script.
        jobs: processes that train at the same time.
        began: when, by `time.monotonic`.
        rows: what is told at the end: part, verdict, words.
    """

    out: Path
    device: str
    jobs: int
    began: float = field(default_factory=time.monotonic)
    rows: list[tuple[str, str, str]] = field(default_factory=list)

    @property
    def little(self) -> bool:
        return self.device == "cpu"

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    def tell(self, part: str, verdict: str, words: str) -> None:
        """A line of the table, printed at once as well: the machine may be taken away."""
        self.rows.append((part, verdict, words))
        print(f"[{self.seconds:5.0f} s] {part}: {verdict}: {words}", flush=True)

    def command(self, name: str, given: Sequence[str], limit: float, **env: str) -> tuple[int, str]:
        """Exit status and output of a command, which is also kept as a file; 124 when it took
        longer than its limit."""
        path = os.pathsep.join([str(ROOT), *filter(None, sys.path)])
        settings = {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", **env}
        file = self.out / f"{name}.txt"
        with file.open("w") as printed:
            try:
                status = subprocess.run(
                    [sys.executable, *given],
                    cwd=ROOT,
                    env=settings,
                    timeout=limit,
                    stdin=subprocess.DEVNULL,
                    stdout=printed,
                    stderr=subprocess.STDOUT,
                    check=False,
                ).returncode
            except subprocess.TimeoutExpired:
                status = 124
        return status, file.read_text()


def cells_of(device: str) -> list[Cell]:
    """Every two values that meet in one process; compilers in fits alone, with each loop once."""
    possible = [
        cell
        for cell, reason in product_of_all(cuda=device == "cuda")
        if reason is None and cell.ranks == ONE
    ]
    chosen = covering([cell for cell in possible if cell.compile not in SLOW])
    for compiled in SLOW:
        fits = [cell for cell in possible if cell.verb == "fit" and cell.compile == compiled]
        kinds = sorted({cell.precision for cell in fits})
        loops = dict.fromkeys(cell.loop for cell in fits)
        turns = dict(zip(loops, kinds * len(loops), strict=False))
        chosen += [cell for cell in fits if turns[cell.loop] == cell.precision]
    chosen += [Cell(compile=INDUCTOR), Cell(compile=INDUCTOR, precision="bf16-mixed")]
    return chosen if device == "cuda" else [chosen[0], chosen[-5]]


def matrix(check: Check, limit: float) -> None:
    """The cells, dealt to processes; what is not done when the time is over is told as not run."""
    cells = cells_of(check.device)
    hands = [hand for index in range(check.jobs) if (hand := cells[index :: check.jobs])]
    found: list[Result] = []
    until = check.seconds + limit

    def played(hand: Sequence[Cell], log: Path) -> None:
        for result in results(hand, 1, log, limit, check.device):
            found.append(result)
            if check.seconds > until:
                return

    with ThreadPoolExecutor(len(hands)) as pool:
        logs = [
            check.out.parent / f"{check.out.name}-worker-{index}" for index in range(len(hands))
        ]
        list(pool.map(played, hands, logs))
    (check.out / "cells.jsonl").write_text("".join(f"{one.line()}\n" for one in found))
    (check.out / "cells.md").write_text("\n".join(per_value(cells, found)) + "\n")
    verdicts = Counter(one.verdict for one in found)
    largest = max((one.largest for one in found), default=0.0)
    words = f"{verdicts['same']} of {len(cells)} cells the same, max |Δ| {largest:g}"
    words += f", {len(cells) - len(found)} not run"
    check.tell("matrix", "passed" if verdicts["same"] == len(found) else "FAILED", words)
    for one in found:
        if one.verdict != "same":
            words = f"{one.error or one.gaps or one.off or (one.observed, one.failures)}"
            check.tell(f"matrix, {one.cell}", one.verdict, words)


def per_value(cells: Sequence[Cell], found: Sequence[Result]) -> Iterator[str]:
    """The rows of a table like the one of ``docs/harmless.md``."""
    known = {result.cell: result for result in found}
    yield "| factor | value | cells | looked | max \\|Δ\\| |"
    yield "|---|---|---|---|---|"
    for factor, values in FACTORS.items():
        for value in (*values, INDUCTOR):
            names = [str(cell) for cell in cells if getattr(cell, factor) == value]
            of = [known[name] for name in names if name in known]
            if of:
                looked = sum(result.observed for result in of)
                largest = max(result.largest for result in of)
                yield f"| {factor} | {value} | {len(of)} | {looked} | {largest:g} |"


def tests(check: Check, limit: float) -> None:
    """The tests of this folder, and the figures that they measured."""
    figures = check.out / "figures.jsonl"
    # Warnings are told, not errors: the releases there are not those of our constraints.
    given = ["-m", "pytest", "tests/gpu", "-v", "-W", "default", "-rA", "--durations=10"]
    given += ["-p", "no:cacheprovider", "-n", "1" if check.little else "4", "--color=no"]
    given += ["-k", "half or memory or gives or scaler"] if check.little else []
    env = {"GPU_TESTS_ON": check.device, "GPU_FIGURES": str(figures), "OMP_NUM_THREADS": "1"}
    env |= {"TORCHINDUCTOR_COMPILE_THREADS": "4"}
    status, printed = check.command("tests", given, limit, **env)
    lines = printed.splitlines()
    for line in lines:
        if line.startswith(("FAILED", "ERROR")):
            check.tell("test", *line.split(" ", 1))
    check.tell(
        "tests", "passed" if status == 0 else f"FAILED ({status})", lines[-1] if lines else ""
    )
    if figures.exists():
        for name, value in map(json.loads, sorted(set(figures.read_text().splitlines()))):
            check.tell("figure", name, value)


def overhead(check: Check, limit: float) -> None:
    """A CIFAR-sized fit with the monitor ÷ without."""
    size = ["--epochs", "4", "--width", "32"]
    size = ["--epochs", "2", "--train", "1024", "--val", "256"] if check.little else size
    given = ["benchmarks/overhead.py", "--device", check.device, "--clock", "wall", *size]
    status, printed = check.command("overhead", given, limit, OMP_NUM_THREADS="1")
    lines = printed.splitlines()
    start = next((at for at, line in enumerate(lines) if "clock:" in line), len(lines) - 4)
    verdict = "measured" if status == 0 else f"FAILED ({status})"
    for line in lines[max(start, 0) :] or ["no output"]:
        check.tell("overhead", verdict, line)


def peers(check: Check, limit: float) -> None:
    """Each method against the fastest library, a model at a time."""
    for model, more in (("resnet18", []), ("vit_b_16", ["--suite"])):
        size = ["--quick", "--methods", "saliency", "grad_cam"] if check.little else []
        given = ["benchmarks/peers.py", "--model", model, "--device", check.device, *size, *more]
        status, printed = check.command(f"peers-{model}", [*given, "--rounds", "3"], limit)
        lines = [line for line in printed.splitlines() if "÷" in line]
        slower = [line.split()[0] for line in printed.splitlines() if ") ✗" in line]
        verdict = "measured" if status == 0 else f"FAILED ({status})"
        check.tell(f"peers, {model}", verdict, f"slower than a peer: {', '.join(slower) or 'none'}")
        for line in lines:
            check.tell(f"peers, {model}", verdict, line)


def attempt(check: Check, part: Callable[[Check, float], None], limit: float) -> None:
    """One part; what goes wrong in it is a line of the table."""
    try:
        part(check, limit)
    except Exception as error:
        check.tell(part.__name__, "BROKEN", f"{type(error).__name__}: {error}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", "runs/gpu")))
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--jobs", type=int, default=12)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    check = Check(given.out.resolve(), given.device, given.jobs)
    longer = 10.0 if check.little else 1.0  # the processors of a laptop
    with ThreadPoolExecutor(2) as pool:  # neither is of times
        list(pool.map(lambda part: attempt(check, part, 105.0 * longer), (matrix, tests)))
    attempt(check, overhead, 80.0 * longer)
    attempt(check, peers, 90.0 * longer)
    width = max(len(part) for part, _, _ in check.rows)
    table = "\n".join(
        f"{part:{width}}  {verdict:10}  {words}" for part, verdict, words in check.rows
    )
    (check.out / "report.txt").write_text(f"{table}\n{check.seconds:.0f} s\n")
    print(f"\n{table}\n{check.seconds:.0f} s")


if __name__ == "__main__":
    main()
