"""The panel of the training: a fair choice of what passes, of bounded size, at little cost."""

from __future__ import annotations

import random
from collections import Counter

import pytest
import torch

from lightning_saliency.errors import ConfigurationError
from lightning_saliency.probes import Fields
from lightning_saliency.probes.fields import Reading
from lightning_saliency.stream import BATCHES, Stream


def batches(count: int, size: int = 4) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Each example tells its batch by its value and its place by its label."""
    return [
        (torch.full((size, 1, 2, 2), float(index)), torch.arange(size)) for index in range(count)
    ]


def taken(stream: Stream, count: int, size: int = 4) -> list[int]:
    for batch in batches(count, size):
        stream.pass_by(batch)
    return [int(one.inputs[0, 0, 0, 0]) for one in stream.emptied()]


def labels_of(reading: Reading) -> torch.Tensor:
    assert reading.targets is not None
    return reading.targets


def test_every_batch_has_the_same_chance() -> None:
    counts: Counter[int] = Counter()
    for seed in range(600):
        counts.update(taken(Stream(Fields(), 2 * BATCHES, seed), 24))
    # Each of 24 batches is among the 8 kept with p = 1/3: 200 of 600, σ = 11.5.
    assert set(counts) == set(range(24))
    assert all(abs(count - 200) < 5 * 11.5 for count in counts.values()), counts


def test_rows_of_a_batch_have_a_chance_too() -> None:
    rows: Counter[int] = Counter()
    for seed in range(300):
        stream = Stream(Fields(), BATCHES, seed)
        for batch in batches(BATCHES):
            stream.pass_by(batch)
        rows.update(int(label) for one in stream.emptied() for label in labels_of(one))
    assert all(abs(rows[row] - 600) < 5 * 21.3 for row in range(4)), rows


@pytest.mark.parametrize(("size", "batch"), [(1, 1), (8, 4), (64, 1), (64, 3), (64, 64), (5, 100)])
def test_it_is_full_with_little_more_than_what_was_wanted(size: int, batch: int) -> None:
    stream = Stream(Fields(), size, 0)
    for one in batches(100, batch):
        stream.pass_by(one)
    kept = sum(len(one.inputs) for one in stream.emptied())
    assert size <= kept < size + max(batch, -(-size // BATCHES))


def test_begins_anew_and_chooses_otherwise() -> None:
    stream = Stream(Fields(), 2 * BATCHES, 0)
    first, second = taken(stream, 200), taken(stream, 200)
    assert len(first) == len(second) == BATCHES
    assert first != second
    assert stream.emptied() == []


def test_is_the_same_in_a_run_with_the_same_seed_and_draws_nothing_of_the_runs() -> None:
    python, torchs = random.getstate(), torch.get_rng_state()
    assert taken(Stream(Fields(), 64, 3), 50) == taken(Stream(Fields(), 64, 3), 50)
    assert taken(Stream(Fields(), 64, 3), 50) != taken(Stream(Fields(), 64, 4), 50)
    assert random.getstate() == python
    assert torch.equal(torch.get_rng_state(), torchs)


def test_copies_few_batches_and_no_whole_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    read, copied = Fields.read, []

    def counting(self: Fields, batch: object, rows: slice = slice(None)) -> object:
        reading = read(self, batch, rows)
        copied.append(len(reading.inputs))
        return reading

    monkeypatch.setattr(Fields, "read", counting)
    taken(Stream(Fields(), 2 * BATCHES, 0), 2000, size=32)
    assert set(copied) == {2}
    assert len(copied) < 4 * BATCHES * 6.5  # 8 · (1 + ln 250) are expected


def test_what_is_kept_is_a_copy() -> None:
    stream, (inputs, labels) = Stream(Fields(), 4, 0), batches(1)[0]
    stream.pass_by((inputs, labels))
    inputs.fill_(7)
    assert float(stream.emptied()[0].inputs.max()) == 0


def test_a_batch_that_cannot_be_read_is_told() -> None:
    with pytest.raises(ConfigurationError, match="which part is the input is not guessed"):
        Stream(Fields(), 4, 0).pass_by({"image": torch.zeros(2, 1, 2, 2)})
