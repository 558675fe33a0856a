"""Chunks that fit into memory."""

from __future__ import annotations

import pytest
import torch

from lightning_saliency.halving import in_chunks

CPU = torch.device("cpu")


def rows_of(fits: int, count: int, chunk: int) -> tuple[list[int], list[int]]:
    """Which rows were worked on, and the sizes that were tried."""
    tried: list[int] = []

    def work(rows: slice) -> list[int]:
        tried.append(rows.stop - rows.start)
        if tried[-1] > fits:
            raise torch.OutOfMemoryError("none left")
        return list(range(count))[rows]

    return [row for part in in_chunks(work, count, chunk, CPU) for row in part], tried


@pytest.mark.parametrize(
    ("fits", "count", "chunk", "sizes"),
    [
        (99, 10, 4, [4, 4, 2]),
        (99, 3, 32, [3]),
        (2, 10, 8, [8, 4, 2, 2, 2, 2, 2]),
        (3, 10, 32, [10, 5, 2, 2, 2, 2, 2]),
        (1, 3, 3, [3, 1, 1, 1]),
        (99, 0, 4, []),
    ],
)
def test_all_rows_in_their_order_in_chunks_that_fit(
    fits: int, count: int, chunk: int, sizes: list[int]
) -> None:
    assert rows_of(fits, count, chunk) == (list(range(count)), sizes)


def test_where_one_row_does_not_fit_that_is_told() -> None:
    with pytest.raises(torch.OutOfMemoryError):
        rows_of(0, 4, 4)


def test_any_other_error_is_told_at_once() -> None:
    tried: list[slice] = []

    def work(rows: slice) -> None:
        tried.append(rows)
        raise RuntimeError("shapes")

    with pytest.raises(RuntimeError, match="shapes"):
        list(in_chunks(work, 4, 4, CPU))
    assert tried == [slice(0, 4)]
