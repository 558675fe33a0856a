"""Arrays in event files: they come back as they were, beside whatever else is there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.tensorboard import SummaryWriter

from lightning_saliency import board


def array(seed: int, *shape: int) -> NDArray[np.float32]:
    made: NDArray[np.float32] = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return made


def write(
    folder: Path, tag: str, arrays: dict[int, NDArray[np.float32]], again: int | None = None
) -> None:
    """Into a new file of the folder; `again` is where a resumed run goes on."""
    writer = SummaryWriter(str(folder))
    if again is not None:
        board.begin_again(writer, again)
    for index, (step, one) in enumerate(arrays.items()):
        board.write_summary(writer, board.array_summary(tag, one), step, float(index))
    writer.close()


def same(found: list[NDArray[Any]], wanted: list[NDArray[np.float32]]) -> bool:
    pairs = zip(found, wanted, strict=True)
    return all(
        one.dtype == np.float32 and one.tobytes() == other.tobytes() and one.shape == other.shape
        for one, other in pairs
    )


def test_arrays_of_any_shape_come_back_bit_by_bit(tmp_path: Path) -> None:
    series = {0: array(0), 7: array(1, 3), 9: array(2, 2, 3, 4), 10: array(3, 2, 0)}
    series[7][1] = np.nan
    write(tmp_path, "saliency/cells/probes", series)
    (tag,) = found = board.read_arrays(str(tmp_path))
    steps, arrays = found[tag]
    assert tag == "saliency/cells/probes"
    assert steps.dtype == np.int64
    assert steps.tolist() == list(series)
    assert same(arrays, list(series.values()))


def test_what_others_wrote_is_passed_over(tmp_path: Path) -> None:
    writer = SummaryWriter(str(tmp_path))
    writer.add_scalar("loss", 1.0, 3)
    writer.add_text("about", "words", 3)
    writer.add_histogram("weights", array(0, 30), 3)
    assert board.read_arrays(str(tmp_path)) == {}
    for tag in ("a/cells/probes", "b/cells/probes"):
        board.write_summary(writer, board.array_summary(tag, array(1, 2)), 4, 1.0)
    of_record = board.array_summary("a/record/maps/gradient", array(2, 2))
    of_record.value[0].metadata.plugin_data.content = b'{"version": 1}'
    board.write_summary(writer, of_record, 4, 1.0)
    writer.close()
    found = board.read_arrays(str(tmp_path))
    assert sorted(found) == ["a/cells/probes", "b/cells/probes"]
    assert all(steps.tolist() == [4] for steps, _ in found.values())


def test_what_a_resumed_run_wrote_anew_counts_once(tmp_path: Path) -> None:
    first = {step: array(step, 2) for step in (0, 10, 20, 30)}
    later = {step: array(100 + step, 2) for step in (20, 30, 40)}
    write(tmp_path, "a", first)
    write(tmp_path, "a", later, again=20)
    steps, arrays = board.read_arrays(str(tmp_path))["a"]
    assert steps.tolist() == [0, 10, 20, 30, 40]
    assert same(arrays, [first[0], first[10], *later.values()])


def test_a_file_that_was_cut_gives_what_is_whole(tmp_path: Path) -> None:
    write(tmp_path, "a", {step: array(step, 40) for step in range(5)})
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-30])
    steps, arrays = board.read_arrays(str(tmp_path))["a"]
    assert steps.tolist() == [0, 1, 2, 3]
    assert same(arrays, [array(step, 40) for step in range(4)])


def test_where_nothing_was_written_there_is_nothing(tmp_path: Path) -> None:
    assert board.read_arrays(str(tmp_path)) == {}
