"""Worker processes that run cells one after the other, as the ranks of one job.

A rank that raises ends: what waits for it in a collective then raises as well, instead of waiting
for ever. What hangs all the same is ended after a time, and told as a hang.
"""

from __future__ import annotations

import logging
import os
import selectors
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from functools import reduce
from pathlib import Path
from typing import IO

from harmless_cells import Cell
from harmless_look import Result, look

PATIENCE = 600.0
"""Seconds without an answer after which a cell counts as hung."""

HERE = Path(__file__).resolve()


def results(
    cells: Sequence[Cell],
    ranks: int,
    log: Path,
    patience: float = PATIENCE,
    device: str = "cpu",
) -> Iterator[Result]:
    """What became of each cell, in order, joined over the ranks.

    Args:
        cells: of as many ranks as given, or that start their processes themselves.
        ranks: processes of the job; they stay the same from cell to cell until one raises.
        log: file for what the workers print.
        patience: seconds that one cell may take.
        device: ``cpu``, or ``cuda`` for cells of one process.
    """
    left = list(cells)
    while left:
        for result in _until_one_raises(tuple(left), ranks, log, patience, device):
            left.pop(0)
            yield result


def _until_one_raises(
    cells: Sequence[Cell], ranks: int, log: Path, patience: float, device: str
) -> Iterator[Result]:
    with ExitStack() as scope, selectors.DefaultSelector() as answers:
        printed = scope.enter_context(log.open("a"))
        port = _free_port()
        for rank in range(ranks):
            worker, answer = _start([device, *map(str, cells)], rank, ranks, port, printed)
            scope.callback(_end, worker)
            answers.register(scope.enter_context(answer), selectors.EVENT_READ, rank)
        for cell in cells:
            each = _answers_to(cell, answers, ranks, patience)
            yield reduce(Result.joined, each)
            if any(result.error for result in each):
                return


def _answers_to(
    cell: Cell, answers: selectors.BaseSelector, ranks: int, patience: float
) -> list[Result]:
    """One answer from each rank, or one that says which are silent."""
    given: dict[int, Result] = {}
    while len(given) < ranks:
        ready = answers.select(timeout=patience)
        if not ready:
            silent = sorted(set(range(ranks)) - set(given))
            hung = Result(str(cell), error=f"no answer from rank {silent} in {patience:.0f} s")
            return [*given.values(), hung]
        for key, _ in ready:
            stream: IO[bytes] = key.fileobj  # type: ignore[assignment]
            line = stream.readline()
            if not line:
                answers.unregister(stream)
            given.setdefault(
                key.data,
                Result.of_line(line.decode())
                if line
                else Result(str(cell), error="the process ended"),
            )
    return list(given.values())


def _start(
    given: Sequence[str], rank: int, ranks: int, port: int, printed: IO[str]
) -> tuple[subprocess.Popen[bytes], IO[bytes]]:
    """A worker, and where its answers are read."""
    read, write = os.pipe()
    of_a_job = {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(ranks),
        "LOCAL_WORLD_SIZE": str(ranks),
        "GROUP_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": "matrix",  # tells Lightning that the processes are there already
    }
    path = os.pathsep.join([str(HERE.parent), str(HERE.parent.parent), *filter(None, sys.path)])
    settings = {"OMP_NUM_THREADS": "1", **os.environ, "PYTHONPATH": path}
    worker = subprocess.Popen(
        [sys.executable, str(HERE), str(write), *given],
        env=settings | (of_a_job if ranks > 1 else {}),
        pass_fds=(write,),
        stdin=subprocess.DEVNULL,
        stdout=printed,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    os.close(write)
    # Unbuffered: a line that a buffer holds back is one that `select` does not see.
    return worker, os.fdopen(read, "rb", buffering=0)


def _end(worker: subprocess.Popen[bytes]) -> None:
    """End it with the processes that it started."""
    with suppress(ProcessLookupError):
        os.killpg(worker.pid, signal.SIGKILL)
    worker.wait()


def _free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def answer(descriptor: int, device: str, cells: Sequence[str]) -> None:
    """Run the cells in this process, until one raises."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with os.fdopen(descriptor, "w") as answers:
        for name in cells:
            print(f"--- {name}", flush=True)
            result = look(Cell.named(name), device)
            answers.write(result.line() + "\n")
            answers.flush()
            if result.error:
                print(result.error, flush=True)
                return


if __name__ == "__main__":
    answer(int(sys.argv[1]), sys.argv[2], sys.argv[3:])
