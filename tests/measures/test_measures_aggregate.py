"""Aggregates over probes leave NaN out and agree with numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lightning_saliency.measures.aggregate import (
    defined,
    magnitude,
    quantiles,
    undefined_share,
)

NAN = float("nan")


@pytest.mark.parametrize("count", [1, 2, 3, 10, 101])
def test_quantiles_equal_numpy(count: int) -> None:
    values = torch.randn(count, generator=torch.Generator().manual_seed(count)).double()
    q = (0.0, 0.1, 0.5, 0.77, 0.9, 1.0)
    expected = torch.from_numpy(np.quantile(values.numpy(), q))
    torch.testing.assert_close(quantiles(values, q), expected)
    holes = torch.full((2 * count,), NAN).double()
    holes[1::2] = values
    assert torch.equal(quantiles(holes, q), quantiles(values, q))


def test_quantiles_of_nothing_are_nan() -> None:
    for values in (torch.full((4,), NAN), torch.empty(0)):
        assert quantiles(values).isnan().tolist() == [True] * 3


def test_quantiles_keep_a_float_type_and_the_device() -> None:
    assert quantiles(torch.ones(3, dtype=torch.bfloat16)).dtype == torch.float32
    assert quantiles(torch.ones(3, dtype=torch.float64)).dtype == torch.float64
    assert quantiles(torch.empty(3, device="meta")).device.type == "meta"


def test_defined_and_undefined_share() -> None:
    maps = torch.rand(8, 3, 3)
    maps[1], maps[2, 0, 0], maps[3, 1, 1], maps[4] = 0, NAN, float("inf"), 0.7
    expected = [True, False, False, False, False, True, True, True]
    assert defined(maps).tolist() == expected
    assert undefined_share(maps).item() == 0.5
    assert undefined_share(torch.empty(3, 4, device="meta")).shape == ()


def test_magnitude_is_log10_of_the_median() -> None:
    assert magnitude(torch.tensor([1e-3, 1e-4, 1e-5])).item() == pytest.approx(-4)
    assert magnitude(torch.tensor([NAN, 10.0, float("inf")])).item() == pytest.approx(1)
    for norms in ([0.0, 0.0, 1.0], [NAN, NAN], []):
        assert magnitude(torch.tensor(norms)).isnan()
    assert magnitude(torch.empty(3, device="meta")).shape == ()


def test_quantiles_of_infinite_values_are_no_nan() -> None:
    inf = float("inf")
    assert quantiles(torch.tensor([inf, inf, NAN]), (0.1, 0.5)).tolist() == [inf, inf]
    assert quantiles(torch.tensor([0.0, inf]), (0.0, 0.2, 0.5, 0.9)).tolist() == [0.0, *[inf] * 3]
    assert quantiles(torch.tensor([-inf, 0.0]), (0.2, 0.5, 1.0)).tolist() == [-inf, -inf, 0.0]
