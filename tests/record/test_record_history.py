"""Reading: what is there is found, what is not is said, and torch is not asked."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import made
import numpy as np
import pytest
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard import SummaryWriter

from lightning_saliency import board
from lightning_saliency.record import NewerRecordError, RecordError, read, runs
from lightning_saliency.record.files import tracks


def newer(folder: Path, series: bytes = b'"version":1,"series"') -> Path:
    """The same run as a later release might write it."""
    run = made.run(folder, [0, 10])
    later = series.replace(b'"version":1', b'"version":2')
    run.events = [event.replace(series, later) for event in run.events]
    return run.write()


def test_runs_are_listed(tmp_path: Path) -> None:
    made.run(tmp_path / "b" / "version_0", [0, 10, 20]).write()
    both = made.run(tmp_path / "a", [0])
    both.events += made.run(tmp_path / "a", [0, 5], monitor="other").events
    both.write()
    found = [(one.run, one.monitor, one.observations, one.last) for one in runs(tmp_path)]
    assert found == [
        ("a", "saliency", 1, 0),
        ("a", "other", 2, 5),
        ("b/version_0", "saliency", 3, 20),
    ]
    assert not any(one.refused for one in runs(tmp_path))
    assert read(tmp_path, "b/version_0").run == "b/version_0"
    assert read(tmp_path, monitor="other").run == "a"


def test_what_cannot_be_chosen_is_named(tmp_path: Path) -> None:
    for name in ("one", "two"):
        made.run(tmp_path / name, [0]).write()
    with pytest.raises(
        RecordError,
        match=r"2 records .* run='one', monitor='saliency'; run='two', monitor='saliency'\.",
    ):
        read(tmp_path)
    with pytest.raises(RecordError, match=r"run='ona'.*Did you mean 'one'\?"):
        read(tmp_path, "ona")
    with pytest.raises(RecordError, match=r"monitor='salience'.*Did you mean 'saliency'\?"):
        read(tmp_path, monitor="salience")
    history = read(tmp_path, run="two")
    with pytest.raises(RecordError, match=r"'gradients'.*Did you mean 'gradient'\?"):
        history.maps("gradients")


def test_nothing_is_there(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"is not there\. Give a log directory"):
        read(tmp_path / "none")
    (tmp_path / "file").touch()
    with pytest.raises(RecordError, match="is a file"):
        runs(tmp_path / "file")
    with pytest.raises(RecordError, match=r"Nothing is recorded .*\(record=56\)"):
        read(tmp_path)
    others = made.File(tmp_path / "events.out.tfevents.1")
    others.event(Event(step=1, summary=Summary(value=[Summary.Value(tag="loss", simple_value=1)])))
    with pytest.raises(RecordError, match="Nothing is recorded"):
        read(others.write())
    assert runs(tmp_path) == ()


@pytest.mark.parametrize(
    ("series", "what"),
    [
        (b'"version":1,"series"', "The record of 'saliency' in 'later'"),
        (b'"version":1,"count"', "The header of the probes"),
    ],
)
def test_a_newer_version_is_refused_beside_one_that_is_read(
    series: bytes, what: str, tmp_path: Path
) -> None:
    newer(tmp_path / "later", series)
    made.run(tmp_path / "now", [0, 10]).write()
    with pytest.raises(NewerRecordError, match=f"{what} is of version 2 .* pip install --upgrade"):
        read(tmp_path, "later")
    assert len(read(tmp_path, "now")) == 2
    later, now = runs(tmp_path)
    assert later.refused.startswith(f"{what} is of version 2 of the record")
    assert now.refused == ""


def test_newer_maps_are_refused_when_they_are_asked_for(tmp_path: Path) -> None:
    newer(tmp_path, b'"version":1,"step"')
    history = read(tmp_path)
    assert history.numbers["churn"].tolist() == [0, 0.25]
    with pytest.raises(NewerRecordError, match="A header of maps is of version 2"):
        history.maps("gradient")


def test_a_run_without_its_first_file(tmp_path: Path) -> None:
    run = made.run(tmp_path, [0, 10])
    del run.events[0]
    with pytest.raises(RecordError, match="has no probes: its first event file is missing"):
        read(run.write())


def test_a_run_in_progress_is_read_at_every_byte(tmp_path: Path) -> None:
    """As a file grows, observations come one by one and whole; nothing is misread on the way."""
    run = made.run(tmp_path, [0, 10, 20])
    run.write()
    content = run.path.read_bytes()
    seen = [0]
    for size in (*range(0, len(content), 61), len(content)):
        run.path.write_bytes(content[:size])
        try:
            history = read(tmp_path)
        except RecordError as error:
            assert "Nothing is recorded" in str(error)  # noqa: PT017
            assert seen[-1] == 0
            continue
        seen.append(len(history))
        assert all(history.blobs["gradient"]), "maps are there as soon as their observation is"
        assert history.steps.tolist() == [0, 10, 20][: len(history)]
    assert sorted(set(seen)) == [0, 1, 2, 3]
    assert seen == sorted(seen)


@pytest.mark.parametrize(
    "end",
    [b"\0" * 4096, b"\xff" * 40, (2**40).to_bytes(8, "little") + b"\0" * 60],
    ids=["zeros", "ones", "a length of a terabyte"],
)
def test_an_end_that_says_nothing(end: bytes, tmp_path: Path) -> None:
    """What a file system leaves at the end of a file after a power cut."""
    assert read(made.run(tmp_path, [0, 10]).write(end)).steps.tolist() == [0, 10]


def test_a_damaged_middle_ends_its_file(tmp_path: Path) -> None:
    run = made.run(tmp_path, [0, 10, 20])
    run.events[1] = b"\xff" + run.events[1][1:]
    assert read(run.write()).steps.tolist() == [0]


def test_a_restart_takes_back_what_is_at_its_step(tmp_path: Path) -> None:
    """Of every series of ours, such as the cells, which say of no fit whose they are."""
    writer = SummaryWriter(str(tmp_path))
    for step in (0, 5, 6, 8):
        summary = board.array_summary("saliency/cells/probes", np.full((1, 2), step, np.float32))
        board.write_summary(writer, summary, step, 0.0)
    board.begin_again(writer, 6)
    writer.flush()
    found = tracks(tmp_path)["saliency/cells/probes"]
    assert (found.steps, len(found.tensors)) == ([0, 5], 2)
    board.write_summary(writer, summary, 9, 0.0)
    board.write_summary(writer, summary, 9, 0.0)  # again: the newest of a step counts
    writer.close()
    assert tracks(tmp_path)["saliency/cells/probes"].steps == [0, 5, 9]
    (steps, arrays) = board.read_arrays(str(tmp_path))["saliency/cells/probes"]
    assert (steps.tolist(), [one.tolist() for one in arrays[:2]]) == (
        [0, 5, 9], [[[0, 0]], [[5, 5]]],
    )  # fmt: skip
    assert runs(tmp_path) == (), "cells are no record"


def test_files_whose_names_are_in_another_order(tmp_path: Path) -> None:
    """Of one second: the hundredth that a process writes comes before the ninety-ninth."""
    made.run(tmp_path, [0, 10], name="99").write()
    resumed = made.File(tmp_path / "events.out.tfevents.100").goes_on(6)
    again = made.run(tmp_path, [10, 20], name="100", first=1, since=6, session=1.8e9)
    resumed.events += again.events
    resumed.write()
    history = read(tmp_path)
    assert history.steps.tolist() == [0, 10, 20]
    sessions = [one["session"] for one in history.observations]
    assert sessions == [1.7e9, 1.8e9, 1.8e9]
    for row, session in enumerate(sessions):
        blob = history.blob("gradient", row)
        assert blob is not None
        assert blob.header["session"] == session


def test_probes_whose_files_are_in_another_order(tmp_path: Path) -> None:
    made.run(tmp_path, [0, 10], name="99").write()
    other = "f" * 64
    made.run(tmp_path, [20, 30], name="100", hash=other, since=11, session=1.8e9).write()
    history = read(tmp_path)
    assert (history.steps.tolist(), history.probes.hash) == ([20, 30], other)


def test_maps_that_come_later_or_change_their_size(tmp_path: Path) -> None:
    file = made.File(tmp_path / "events.out.tfevents.1")
    sizes = [{}, {"cam": 3}, {"cam": 4}, {}, {"cam": 4, "late": 2}]
    for index, size in enumerate(sizes):
        seen = {name: made.maps(index, made.N, side, side) for name, side in size.items()}
        file.observe(
            made.observation(index, 10 * index, methods={}), seen, None if index else made.sheet()
        )
    history = read(file.write())
    assert history.methods == ("cam", "late")
    maps = history.maps("cam")
    assert maps.shape == (5, 3, 4, 4)
    undefined = np.isnan(maps).all((2, 3))
    assert undefined.tolist() == [[True] * 3] * 2 + [
        [False, False, True],
        [True] * 3,
        [False, False, True],
    ]
    first = history.blob("cam", 1)
    assert first is not None
    assert first.levels.shape == (3, 3, 3)
    assert history.blob("cam", 0) is None
    np.testing.assert_array_equal(history.maps("cam", at=[2]), maps[2:3])
    assert np.isnan(history.peaks("late")[:4]).all()
    assert history.drift == {}


def test_links_are_followed_and_loops_are_not(tmp_path: Path) -> None:
    made.run(tmp_path / "elsewhere" / "run", [0]).write()
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "run" / "up").symlink_to(tmp_path / "elsewhere")
    assert [one.run for one in runs(tmp_path / "logs")] == ["linked/run"]


def test_it_says_what_it_is(tmp_path: Path) -> None:
    history = read(made.run(tmp_path, [0, 10]).write())
    assert repr(history) == (
        "History('saliency' of '.': 2 observations to step 10, 3 probes, "
        "methods ['gradient', 'change'])"
    )


def test_it_is_read_where_torch_cannot_be_imported() -> None:
    code = f"""
import sys
sys.modules["torch"] = sys.modules["lightning"] = None  # importing them raises
from lightning_saliency.record import read, runs
folder = {str(made.GOLDEN)!r}
history = read(folder)
print(len(history), history.maps("gradient").shape, history.probes.images.shape)
print(runs(folder)[0].last)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "3 (3, 3, 5, 4) (3, 4, 4, 3)\n19"
