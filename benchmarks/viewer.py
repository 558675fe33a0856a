"""What the Saliency tab costs: 64 probes × 100 observations × 2 runs, laid beside each other.

    python benchmarks/viewer.py [--opens 9] [--scrubs 30]

Prints, of a headless Chromium (no GPU) and a TensorBoard on this machine: the time from the opening
of the tab's frame to the complete draw of both runs, all of it the plugin's own; the time of one
step on the time axis to the same draw, with maps that were not seen before and with maps that were;
and the size of an event file. Then, of the same runs exported with every fifth observation: the
size of the page, the time to write it, and the time from its opening to the complete draw. Maps
have 56 × 56 places, like those of gradients. Needs chromium and chromedriver on the path.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from lightning_saliency.record.format import Observation, encode_maps
from lightning_saliency.record.probes import ProbeSheet, probe_sheet
from lightning_saliency.record.summaries import summary
from lightning_saliency.reports.export import export

PROBES, OBSERVATIONS, SIDE, IMAGE, CLASSES = 64, 100, 56, 112, 10
FLAGS = "headless no-sandbox disable-gpu disable-quic no-first-run disable-background-networking"
RUNS = ("a", "b")

Floats = NDArray[np.float32]


def sheet() -> ProbeSheet:
    """Probes with the spectrum of photographs."""
    random = np.random.default_rng(0)
    down, across = np.fft.fftfreq(IMAGE)[:, None], np.fft.rfftfreq(IMAGE)[None]
    spectrum = np.hypot(down, across)
    spectrum[0, 0] = 1
    noise = np.fft.rfft2(random.standard_normal((PROBES, 3, IMAGE, IMAGE)))
    drawn = np.moveaxis(np.fft.irfft2(noise / spectrum, s=(IMAGE, IMAGE)), 1, -1)
    low, high = drawn.min((1, 2, 3), keepdims=True), drawn.max((1, 2, 3), keepdims=True)
    targets = [probe % CLASSES for probe in range(PROBES)]
    about = {
        "hash": "0" * 64,
        "names": [f"val[{probe}]" for probe in range(PROBES)],
        "classes": [f"class {name}" for name in range(CLASSES)],
        "targets": targets,
        "explained": targets,
        "methods": {"gradient": {"signed": False, "words": "Saliency()", "caution": None}},
        "target": "Margin()",
    }
    pictures = np.round(255 * (drawn - low) / (high - low)).astype(np.uint8)
    return probe_sheet(pictures, None, about)


def signed_maps(seed: int) -> Iterator[Floats]:
    """`(N, h, w)` at each observation: noise under a spot that moves, as gradients look."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[:SIDE, :SIDE] / SIDE
    place, goal = random.uniform(0, 1, (2, PROBES, 2))
    noise = random.standard_normal((PROBES, SIDE, SIDE))
    for _ in range(OBSERVATIONS):
        noise = 0.9 * noise + 0.45 * random.standard_normal(noise.shape)
        place += 0.05 * (goal - place)
        away = [(one - place[:, at, None, None]) ** 2 for at, one in enumerate((rows, columns))]
        yield (noise * (0.12 + np.exp(-sum(away) / 0.045))).astype(np.float32)


def write_run(folder: Path, seed: int, probes: ProbeSheet) -> None:
    """One run's event file, as the monitor writes it."""
    writer = EventFileWriter(str(folder))
    random = np.random.default_rng(seed)
    first = before = None
    for index, drawn in enumerate(signed_maps(seed)):
        maps = np.abs(drawn)
        peaks = maps.max((1, 2))
        known: dict[str, Any] = {"peaks": peaks}
        if before is not None and first is not None:
            known |= {"drift_previous": drift(drawn, before), "drift_first": drift(drawn, first)}
        before, first = drawn, drawn if first is None else first
        step = 50 * index
        seen = Observation(
            index=index,
            step=step,
            label=f"epoch {index}",
            time=1.7e9 + index,
            hash=probes.hash,
            predictions=random.integers(0, CLASSES, PROBES),
            confidence=random.uniform(0, 1, PROBES),
            methods={"gradient": known},
        )
        blob = encode_maps(maps / peaks[:, None, None], peaks, step=step)
        sheets = probes.encoded() if index == 0 else None
        made = summary("saliency", {"gradient": blob}, seen.encoded(), sheets)
        writer.add_event(Event(wall_time=1.7e9 + index, step=step, summary=made))
    writer.close()


def drift(now: Floats, then: Floats) -> Floats:
    """`(N,)`, 1 − cosine."""
    one, other = now.reshape(PROBES, -1), then.reshape(PROBES, -1)
    away: Floats = 1 - (one * other).sum(1) / np.sqrt((one**2).sum(1) * (other**2).sum(1))
    return away


@contextmanager
def tensorboard(logdir: Path) -> Iterator[str]:
    """The address of a TensorBoard that has read the log directory."""
    words = logdir.parent / "words"
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(logdir)]
    with words.open("wb") as stream:
        process = subprocess.Popen(
            [*command, "--port", "0", "--host", "127.0.0.1"],
            stdout=stream,
            stderr=stream,
            cwd=logdir.parent,
            env={**os.environ, "PYTHONWARNINGS": "ignore"},
        )
    try:
        address = until(lambda: re.search(rb"at (http://\S+)", words.read_bytes()))[1].decode()
        yield address
    finally:
        process.terminate()
        process.wait()


@contextmanager
def chromium(profile: Path) -> Iterator[webdriver.Chrome]:
    """Headless, with a window of 1440 × 900."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or shutil.which("google-chrome") or ""
    for flag in (*FLAGS.split(), "window-size=1440,900", f"user-data-dir={profile}"):
        options.add_argument(f"--{flag}")
    service = webdriver.ChromeService(executable_path=shutil.which("chromedriver"))
    driver = webdriver.Chrome(options=options, service=service)
    try:
        yield driver
    finally:
        driver.quit()


def until(condition: Callable[[], Any], patience: float = 60) -> Any:
    """What a condition gives as soon as it is true."""
    end = time.monotonic() + patience
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.02)
    raise TimeoutError("waited in vain; are chromium, chromedriver and the plugin installed?")


def opened(driver: webdriver.Chrome, address: str) -> float:
    """Milliseconds from the opening of the tab's frame to the complete draw."""
    a, b = RUNS
    chosen = f"p.saliency.run={a}&p.saliency.monitor=saliency&p.saliency.other={b}%0Asaliency"
    driver.switch_to.default_content()
    driver.get("about:blank")
    driver.get(f"{address}#saliency&{chosen}")
    frame = "iframe[src*='name=saliency']"
    driver.switch_to.frame(until(lambda: driver.find_elements(By.CSS_SELECTOR, frame))[0])
    drawn = "return performance.getEntriesByName('saliency:complete')[0]?.startTime"
    found: float = until(lambda: driver.execute_script(drawn))
    return found


def scrubbed(driver: webdriver.Chrome, places: list[int]) -> list[tuple[float, bool]]:
    """Of clicks on the time axis: milliseconds to the draw, and whether the maps were here."""
    track = driver.find_element(By.CSS_SELECTOR, ".track")
    room = track.size["width"] - 20
    found: list[tuple[float, bool]] = []
    for place in places:
        x = 10 + room * place / (OBSERVATIONS - 1) - track.size["width"] / 2
        pointer = ActionChains(driver, duration=0)
        pointer.move_to_element_with_offset(track, round(x), 0).click().perform()
        until(partial(driver.execute_script, _IS_DRAWN, f"{50 * place} {50 * place}"))
        found.append(tuple(driver.execute_script(_LAST_DRAW)))
        time.sleep(0.3)  # what is loaded ahead is here as well
    return found


_IS_DRAWN = "return document.querySelector('main').dataset.drawn === arguments[0]"
_LAST_DRAW = """
const last = performance.getEntriesByName("saliency:draw").at(-1);
return [last.duration, last.detail.cached];
"""


def opened_page(driver: webdriver.Chrome, page: Path) -> float:
    """Milliseconds from the opening of an exported page to the complete draw."""
    driver.switch_to.default_content()
    driver.get("about:blank")
    a, b = RUNS
    driver.get(f"{page.as_uri()}#run={a}&monitor=saliency&other={b}%0Asaliency")
    drawn = "return performance.getEntriesByName('saliency:complete')[0]?.startTime"
    found: float = until(lambda: driver.execute_script(drawn))
    return found


def export_runs(logdir: Path, page: Path) -> None:
    """Write the page, and say what that costs."""
    begun = time.perf_counter()
    export([str(logdir), "-o", str(page), "--every", "5"])
    seconds, size = time.perf_counter() - begun, page.stat().st_size / 1e6
    print(f"page of every fifth: {size:.1f} MB (wanted: 10), written in {seconds:.2f} s")


def said(name: str, values: list[float], wanted: float) -> None:
    ordered = sorted(values)
    print(
        f"{name}: median {statistics.median(ordered):.0f} ms, {ordered[0]:.0f} to "
        f"{ordered[-1]:.0f} ({len(ordered)} times; wanted: {wanted:.0f})"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--opens", type=int, default=9)
    parser.add_argument("--scrubs", type=int, default=30)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        logdir = Path(folder) / "logs"
        probes = sheet()
        for seed, run in enumerate(RUNS):
            write_run(logdir / run, seed, probes)
        sizes = [path.stat().st_size / 1e6 for path in sorted(logdir.glob("*/*tfevents*"))]
        print(f"event file: {max(sizes):.1f} MB a run (wanted: 16)")
        with tensorboard(logdir) as address, chromium(Path(folder) / "profile") as driver:
            time.sleep(3)  # TensorBoard reads
            said(
                "open to complete draw", [opened(driver, address) for _ in range(given.opens)], 600
            )
            places = random.Random(0).sample(range(OBSERVATIONS - 3), given.scrubs)
            found = scrubbed(driver, places) + scrubbed(driver, places)
            page = Path(folder) / "page.html"
            export_runs(logdir, page)
            pages = [opened_page(driver, page) for _ in range(given.opens)]
        said("a step, not seen before", [one for one, cached in found if not cached], 60)
        said("a step, seen before", [one for one, cached in found if cached], 15)
        said("open the page to complete draw", pages, 1500)


if __name__ == "__main__":
    main()
