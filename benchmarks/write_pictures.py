"""What writing the pictures of one observation costs, against `SummaryWriter.add_image`.

    python benchmarks/write_pictures.py

Prints the time for which the training thread is held up by the grid and the filmstrip of 32 probes,
the same until everything is written, what the thread that writes takes from pure Python work beside
it (they share the interpreter's lock), and the bytes; times as ratios to `add_image` of the grid.
Rounds are interleaved in one process; medians are printed.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch.loggers import TensorBoardLogger

from lightning_saliency.gallery import Gallery, View
from lightning_saliency.memory import Column
from lightning_saliency.rendering import encode
from lightning_saliency.writer import PictureWriter

PROBES, COLUMNS = 32, 16


def view(side: int, generator: torch.Generator) -> tuple[Gallery, View]:
    """Smooth noise in the shape of a default observation late in a fit."""

    def smooth(*shape: int) -> torch.Tensor:
        noise = torch.rand(*shape, generator=generator)
        return torch.nn.functional.avg_pool2d(noise, 5, 1, 2)

    inputs = smooth(PROBES, 3, side, side)
    maps = smooth(PROBES, 56, 56).numpy()
    given = np.arange(PROBES) % 10
    columns = tuple(
        Column(
            index,
            f"epoch {index}",
            {"gradient": smooth(8, 56, 56).half()},
            torch.from_numpy(given[:8]),
            {"gradient": 0.1},
        )
        for index in range(COLUMNS)
    )
    gallery = Gallery.of(inputs, torch.from_numpy(given), None, None, None, {})
    return gallery, View(
        step=0,
        label="epoch 15",
        maps={"gradient": maps},
        reference={"gradient": maps[::-1].copy()},
        reference_label="epoch 14",
        predictions=given,
        confidence=np.full(PROBES, 0.9, dtype=np.float32),
        flipped=given > 8,
        columns=columns,
    )


def seconds(act: Callable[[], object]) -> float:
    """Wall time of one call."""
    begun = time.perf_counter()
    act()
    return time.perf_counter() - begun


def fail(error: BaseException, step: int, what: str) -> None:
    """Nothing may go wrong unseen."""
    raise RuntimeError(f"{what} of step {step} could not be written") from error


def busy() -> int:
    """Work that holds the interpreter's lock all the time, longer than the writing takes."""
    return sum(value * value for value in range(8_000_000))


def main(rounds: int, side: int) -> None:
    """Measure and print."""
    gallery, seen = view(side, torch.Generator().manual_seed(0))
    grid = gallery.pictures(seen)["gradient"]()
    times: dict[str, list[float]] = {name: [] for name in ("call", "whole", "taken", "peer")}
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = (TensorBoardLogger(Path(folder), name=name) for name in ("ours", "theirs"))
        writer = PictureWriter("jpeg", fail)

        def write(step: int) -> None:
            pictures = gallery.pictures(seen)
            writer.write([ours], {f"saliency/{tag}": pictures[tag] for tag in pictures}, step)

        for step in range(rounds + 1):
            begun = time.perf_counter()
            times["call"].append(seconds(lambda step=step: write(step)))  # type: ignore[misc]
            writer.drain()
            times["whole"].append(time.perf_counter() - begun)
            alone = seconds(busy)
            write(step)
            times["taken"].append(max(seconds(busy) - alone, 0.0))
            writer.drain()
            times["peer"].append(
                seconds(
                    lambda step=step: theirs.experiment.add_image(  # type: ignore[misc]
                        "grid", grid, step, dataformats="HWC"
                    )
                )
            )
            theirs.experiment.flush()
        writer.close()
    peer = times["peer"][1:]  # the first round opens files and threads
    for name, key in (
        ("training thread, grid + filmstrip", "call"),
        ("taken from pure Python work beside it", "taken"),
        ("until both are in the file", "whole"),
        ("SummaryWriter.add_image of the grid", "peer"),
    ):
        found = times[key][1:]
        ratio = statistics.median(a / b for a, b in zip(found, peer, strict=True))
        print(f"{name:40s} {statistics.median(found) * 1e3:9.2f} ms   ÷ add_image {ratio:7.4f}")
    sizes = {tag: len(encode(draw())) for tag, draw in gallery.pictures(seen).items()}
    exact = len(encode(grid, "png"))
    print(f"bytes of an observation: {sum(sizes.values()):,} ({sizes}); the grid as PNG: {exact:,}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--side", type=int, default=224)
    arguments = parser.parse_args()
    main(arguments.rounds, arguments.side)
