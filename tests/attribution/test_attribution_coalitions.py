"""Which coalitions are seen, and with which weights: the Shapley kernel and fair coins."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest
import torch
from attribution_nets import F64
from torch import Tensor

from lightning_saliency.attribution.coalitions import Sampling, fair_coins, fewest


def distinct(rows: Tensor) -> int:
    return len(np.unique(rows.numpy(), axis=0))


def kernel(segments: int, size: int) -> float:
    return (segments - 1) / (comb(segments, size) * size * (segments - size))


@pytest.mark.parametrize("segments", [2, 3, 5, 6, 9])
def test_all_coalitions_have_the_weights_of_the_shapley_kernel(segments: int) -> None:
    sampling = Sampling(segments, 2**segments - 2)
    rows = sampling.draw(0, 0)
    assert len(rows) == distinct(rows) == sampling.count == 2**segments - 2
    wanted = [kernel(segments, int(size)) for size in rows.sum(1)]
    torch.testing.assert_close(sampling.weights(), torch.tensor(wanted, dtype=F64))


@pytest.mark.parametrize(
    ("segments", "budget"), [(9, 18), (9, 60), (10, 101), (49, 128), (49, 512)]
)
def test_drawn_coalitions_are_complementary_pairs_that_share_what_is_left(
    segments: int, budget: int
) -> None:
    sampling = Sampling(segments, budget)
    rows, weights = sampling.draw(3, 8), sampling.weights()
    taken = len(rows) - 2 * sampling.pairs
    assert budget - 1 <= len(rows) == len(weights) <= budget
    assert distinct(rows[:taken]) == taken >= 2 * segments
    sizes = range(sampling.whole + 1, segments - sampling.whole)
    assert torch.equal(rows[taken::2], ~rows[taken + 1 :: 2])
    assert all(int(size) in sizes for size in rows[taken:].sum(1))
    total = sum(comb(segments, size) * kernel(segments, size) for size in range(1, segments))
    if budget == 512:
        assert float(weights.sum()) == pytest.approx(total)
    assert float(weights.sum()) <= total * (1 + 1e-12)
    assert weights.max() <= weights[0], "a coalition of size 1"
    assert torch.equal(rows, sampling.draw(3, 8))
    if sampling.pairs > 4:
        assert not torch.equal(rows, sampling.draw(3, 9))
        assert not torch.equal(rows, sampling.draw(4, 8))


def test_sizes_are_drawn_as_the_kernel_weighs_them() -> None:
    sampling = Sampling(12, 60)
    rows = torch.cat([sampling.draw(0, probe)[24:] for probe in range(300)])
    sizes = torch.tensor(range(2, 11))
    wanted = 1 / (sizes * (12 - sizes)).double()
    found = torch.stack([(rows.sum(1) == size).double().mean() for size in sizes])
    torch.testing.assert_close(found, wanted / wanted.sum(), rtol=0, atol=0.015)
    assert (rows.double().mean(0) - 0.5).abs().max() == 0, "a pair holds each segment once"
    together = torch.corrcoef(rows[::2].double().T)[~torch.eye(12, dtype=torch.bool)]
    assert together.max() - together.min() < 0.1, "no segment keeps to another"


def test_fewest_samples_determine_the_weights() -> None:
    assert [fewest(segments) for segments in (1, 2, 3, 4, 49)] == [0, 2, 6, 8, 98]
    assert fair_coins(6, 2000, 0, 0).double().mean(0).sub(0.5).abs().max() < 0.05
