"""Both of TensorBoard's readers show the record, every step of it; ours agrees with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import made
import numpy as np
import pytest
from boards import READERS, Found, Reader, seen

from lightning_saliency.record import read
from lightning_saliency.record.format import current, decode_maps, decode_observation
from lightning_saliency.record.probes import ProbeSheet

STEPS = list(range(0, 300, 10))
"""More than either reader keeps of a series, if nobody asks for all of it."""

TAGS = {
    "saliency/record/probes",
    "saliency/record/maps/gradient",
    "saliency/record/maps/change",
    "saliency/record/observations",
}


def agrees(found: Found, folder: Path) -> None:
    """What a plugin makes of a reader's answer is what `read` makes of the file."""
    history = read(folder)
    lines = found[history.run if history.run != "." else folder.name]
    documents = current(
        decode_observation(data) for _, data in lines["saliency/record/observations"]
    )
    assert documents == list(history.observations)
    sheet = ProbeSheet.decode(lines["saliency/record/probes"][-1][1])
    assert (sheet.header, sheet.sprite) == (history.probes.header, history.probes.sprite)
    for method in history.methods:
        at = dict(lines[f"saliency/record/maps/{method}"])
        blobs = tuple(at[step][0] for step in history.steps)
        assert blobs == history.blobs[method]
        decoded = np.stack([decode_maps(blob).maps for blob in blobs])
        np.testing.assert_array_equal(decoded, history.maps(method))


@pytest.mark.parametrize("reader", READERS)
def test_every_step_is_there(reader: Reader, tmp_path: Path) -> None:
    folder = made.run(tmp_path / "run", STEPS).write()
    found = seen(tmp_path, reader)
    assert found.keys() == {"run"}
    assert found["run"].keys() == TAGS
    for tag in TAGS - {"saliency/record/probes"}:
        assert [step for step, _ in found["run"][tag]] == STEPS, tag
    assert [step for step, _ in found["run"]["saliency/record/probes"]] == [0]
    agrees(found, folder)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("cadence", [10, 15], ids=["as before", "other steps than before"])
def test_a_resumed_run_has_no_gap_and_no_duplicate(
    cadence: int, reader: Reader, tmp_path: Path
) -> None:
    """Killed after 40, with the checkpoint of 20: the steps of 30 and 40 are taken back."""
    made.run(tmp_path / "run", [0, 10, 20, 30, 40], name="1").write()
    again = made.File(tmp_path / "run" / "events.out.tfevents.2").goes_on(21)
    steps = [20 + cadence, 20 + 2 * cadence, 20 + 3 * cadence]
    resumed = made.run(tmp_path / "run", steps, name="2", first=3, since=21, session=1.8e9)
    again.events += resumed.events
    folder = again.write()
    history = read(folder)
    assert history.steps.tolist() == [0, 10, 20, *steps]
    assert [one["index"] for one in history.observations] == list(range(6))
    assert [one["session"] for one in history.observations] == [1.7e9] * 3 + [1.8e9] * 3
    agrees(seen(tmp_path, reader), folder)


@pytest.mark.parametrize("reader", READERS)
def test_a_new_fit_in_the_same_folder_takes_all_back(reader: Reader, tmp_path: Path) -> None:
    made.run(tmp_path / "run", [0, 10, 20, 30], name="1").write()
    other = "f" * 64
    made.run(tmp_path / "run", [0, 15], name="2", session=1.8e9, hash=other).write()
    history = read(tmp_path)
    assert (history.steps.tolist(), history.probes.hash) == ([0, 15], other)
    found = seen(tmp_path, reader)
    if reader == "server":
        agrees(found, tmp_path / "run")
        return
    # The loader in Python gives the first of two blobs at one step: the maps of another fit. Their
    # sessions tell.
    lines = found["run"]
    observed = [decode_observation(data) for _, data in lines["saliency/record/observations"]]
    assert current(observed) == list(history.observations)
    at = dict(lines["saliency/record/maps/gradient"])
    fits = {one: decode_maps(at[one][0]).header["session"] for one in (0, 15)}
    assert fits == {0: 1.7e9, 15: 1.8e9}
    assert {one["session"] for one in history.observations} == {1.8e9}


@pytest.mark.parametrize("reader", READERS)
def test_a_later_fit_of_other_probes_hides_what_was_before(reader: Reader, tmp_path: Path) -> None:
    """Of the same Trainer, which goes on in its folder: the maps of the two are no series."""
    made.run(tmp_path / "run", [0, 10, 20], name="1").write()
    given: dict[str, Any] = {"first": 3, "since": 21, "session": 1.8e9, "hash": "f" * 64}
    folder = made.run(tmp_path / "run", [30, 40], name="2", **given).write()
    history = read(folder)
    assert (history.steps.tolist(), history.probes.hash) == ([30, 40], "f" * 64)
    assert history.maps("gradient").shape[0] == 2
    lines = seen(tmp_path, reader)["run"]
    assert [step for step, _ in lines["saliency/record/probes"]] == [0, 30]


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("cut", [2, 9], ids=["in its check", "in its data"])
def test_what_is_torn_at_the_end_is_left_out(cut: int, reader: Reader, tmp_path: Path) -> None:
    whole = made.run(tmp_path / "run", [0, 10, 20])
    folder = whole.write()
    content = whole.path.read_bytes()
    whole.path.write_bytes(content[:-cut])
    assert read(folder).steps.tolist() == [0, 10]
    agrees(seen(tmp_path, reader), folder)


@pytest.mark.parametrize("reader", READERS)
def test_two_monitors_of_one_run(reader: Reader, tmp_path: Path) -> None:
    run = made.run(tmp_path / "run", [0, 10])
    run.events += made.run(tmp_path / "run", [0, 10], monitor="other/one").events
    folder = run.write()
    found = seen(tmp_path, reader)["run"]
    assert found.keys() == TAGS | {tag.replace("saliency", "other/one", 1) for tag in TAGS}
    for monitor in ("saliency", "other/one"):
        history = read(folder, monitor=monitor)
        assert (history.monitor, history.steps.tolist()) == (monitor, [0, 10])
