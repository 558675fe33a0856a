"""The arithmetic that measures share: brute force, and laws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lightning_saliency.measures.numeric import averaged, centred, sorted_rows, standardised

SIDES = st.integers(1, 13)


def normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def test_rows_of_any_offset_are_centred() -> None:
    rows = normal(4, 50).float()
    # Whole numbers: their sum with the offset is exact.
    whole = (1000 * rows).round()
    expected = whole - whole.double().mean(1, keepdim=True)
    torch.testing.assert_close(centred(whole + 2**23), expected.float(), rtol=0, atol=1e-3)
    assert centred(torch.full((2, 7), 0.1)).eq(0).all()


def test_products_of_standardised_rows_are_correlations() -> None:
    one, other = normal(5, 40) + 9, 1e-30 * normal(5, 40, seed=1)
    found = (standardised(one) * standardised(other)).sum(1)
    expected = [np.corrcoef(*pair)[0, 1] for pair in zip(one.numpy(), other.numpy(), strict=True)]
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)
    torch.testing.assert_close(standardised(one).square().sum(1), torch.ones(5).double())
    huge = (1e38 * other / other.abs().amax()).float()
    torch.testing.assert_close(standardised(huge).double(), standardised(other))
    assert standardised(torch.full((2, 7), 0.1)).isnan().all()
    assert standardised(torch.zeros(2, 7)).isnan().all()


@settings(deadline=None, max_examples=50)
@given(SIDES, SIDES, SIDES, SIDES)
def test_each_is_the_mean_over_its_own_area(high: int, wide: int, rows: int, columns: int) -> None:
    values = normal(2, 3, high, wide)
    fine = values.numpy().repeat(rows, 2).repeat(columns, 3)
    blocks = fine.reshape(2, 3, rows, high, columns, wide).mean((3, 5))
    found = averaged(values, (rows, columns), skip=2)
    np.testing.assert_allclose(found.numpy(), blocks, atol=1e-12)
    torch.testing.assert_close(found.mean((2, 3)), values.mean((2, 3)))


@pytest.mark.parametrize("sides", [(3, 4), (6, 4), (9, 20)])
def test_finer_and_back_is_the_same(sides: tuple[int, ...]) -> None:
    values = normal(2, 3, 4)
    finer = averaged(values, [side * times for side, times in zip((3, 4), sides, strict=True)])
    torch.testing.assert_close(averaged(finer, (3, 4)), values)


def test_the_size_that_it_has_is_no_work() -> None:
    values = normal(2, 3, 4)
    assert averaged(values, (3, 4)) is values
    assert averaged(values.half(), (2, 4)).dtype == torch.float16
    assert averaged(values[..., None], (3,), skip=1).shape == (2, 3, 4, 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_are_sorted_as_torch_sorts_them(dtype: torch.dtype) -> None:
    rows = torch.randn(5, 700, generator=torch.Generator().manual_seed(0)).round(decimals=1)
    rows[1, 3], rows[1, 4], rows[2, ::2] = torch.nan, -torch.inf, 0.0
    rows[2, 1::4] = -0.0
    rows = rows.to(dtype).requires_grad_()
    ordered, order = sorted_rows(rows)
    assert torch.equal(ordered.nan_to_num(9.0), rows.sort(1).values.nan_to_num(9.0))
    assert torch.equal(rows.gather(1, order).nan_to_num(9.0), ordered.nan_to_num(9.0))
    assert torch.equal(order.sort(1).values, torch.arange(700).expand(5, -1))
    assert sorted_rows(rows[:0])[0].shape == (0, 700)
