"""Every measure on maps of every content: no exception, NaN only where it is due, and laws."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fuzz_draws import Pair, fuzz, masks, pairs, reduced
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lightning_saliency.measures import MEASURES, Drift, Grounding, Stimulus
from lightning_saliency.measures.aggregate import (
    magnitude,
    mean,
    quantiles,
    undefined_share,
)

MOST = {
    "cosine": 2.0,
    "signed_pearson": 2.0,
    "signed_spearman": 2.0,
    "pearson": 2.0,
    "spearman": 2.0,
    "ssim": 2.0,
    "centroid_shift": 5000.0 * 2,
    "background_mass": float("inf"),  # a share of mass ÷ a share of area
    "edge_similarity": 2.0,
    "spectral_residual": 2.0,
    "centre_surround": 2.0,
}
"""The largest value of a measure, where it is not 1."""

SIGNED = {"border_mass", "centre_bias"}
"""Those of one map that are less what chance gives, and may be below 0."""

DRIFTS = [name for name, one in MEASURES.items() if isinstance(one, Drift)]
STIMULI = [name for name, one in MEASURES.items() if isinstance(one, Stimulus)]
OTHERS = [name for name in MEASURES if name not in DRIFTS + STIMULI]


def defined(maps: Tensor, *, constant: bool = False) -> Tensor:
    """Which maps are finite and not constant; where constant ones count: not all zero."""
    rows = maps.double().flatten(1)
    levels = torch.stack([(row != (0 if constant else row[0])).any() for row in rows])
    return rows.isfinite().all(1) & levels


def read(name: str, signed: Tensor) -> Tensor:
    measure = MEASURES[name]
    return signed if isinstance(measure, Drift) and measure.of == "signed" else reduced(signed)


def drift_of(name: str, now: Tensor, then: Tensor) -> Tensor:
    values: Tensor = MEASURES[name].function(now, then)
    return values


def in_range(name: str, values: Tensor) -> bool:
    known, most = values[~values.isnan()], MOST.get(name, 1.0)
    least = -most if name in SIGNED.union(STIMULI) else 0.0
    return bool(((known >= least) & (known <= most)).all())


@pytest.mark.parametrize("name", DRIFTS)
@fuzz(25)
@given(pair=pairs())
def test_laws_of_drift(name: str, pair: Pair) -> None:
    now, then = read(name, pair.now), read(name, pair.then)
    values = drift_of(name, now, then)
    known = [defined(one, constant=name == "cosine") for one in (now, then)]
    assert torch.equal(values.isnan(), ~(known[0] & known[1])), "NaN, and only there"
    assert in_range(name, values)
    itself = drift_of(name, now, now.clone())
    assert torch.equal(itself == 0, known[0]), "nothing moved: exactly 0"
    back = drift_of(name, then, now)
    torch.testing.assert_close(back, values, rtol=1e-5, atol=1e-6, equal_nan=True)
    order = torch.arange(len(now)).flip(0)
    moved = drift_of(name, now[order], then[order])
    torch.testing.assert_close(moved, values[order], rtol=1e-5, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("name", DRIFTS)
@fuzz(25)
@given(pair=pairs(), exponents=st.lists(st.integers(-100, 100), min_size=2, max_size=2))
def test_a_scale_changes_no_drift(name: str, pair: Pair, exponents: list[int]) -> None:
    """From 1e-30 to 1e30; powers of two, so that the maps themselves stay what they are."""
    now, then = (
        read(name, torch.nan_to_num(one).clamp(-9, 9)).float() for one in (pair.now, pair.then)
    )
    now, then = (torch.where(one.abs() > 1e-6, one, 0) for one in (now, then))
    scaled = [one * 2.0**power for one, power in zip((now, then), exponents, strict=True)]
    plain, other = drift_of(name, now, then), drift_of(name, *scaled)
    torch.testing.assert_close(other, plain, rtol=1e-5, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("name", OTHERS)
@fuzz(25)
@given(data=st.data())
def test_laws_of_single_maps(name: str, data: Any) -> None:
    maps = reduced(data.draw(pairs()).now)
    covered = data.draw(masks(len(maps), maps.ndim - 1))
    given_masks = (covered,) if isinstance(MEASURES[name], Grounding) else ()
    values: Tensor = MEASURES[name].function(maps, *given_masks)
    known = defined(maps)
    if given_masks:
        known = known & covered.flatten(1).any(1)
    if name == "background_mass":  # the mass outside ÷ the area outside
        known = known & ~covered.flatten(1).all(1)
    assert torch.equal(values.isnan(), ~known), "NaN, and only there"
    assert in_range(name, values)
    order = torch.arange(len(maps)).flip(0)
    moved = MEASURES[name].function(maps[order], *(one[order] for one in given_masks))
    torch.testing.assert_close(moved, values[order], rtol=1e-5, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("name", STIMULI)
@fuzz(15)
@given(pair=pairs())
def test_laws_of_maps_and_their_images(name: str, pair: Pair) -> None:
    maps, images = read(name, pair.now), pair.then
    values: Tensor = MEASURES[name].function(maps, images)
    alone = len(maps) == 1
    assert bool(values[~defined(maps) | alone].isnan().all()), "no map, or nobody to compare with"
    assert in_range(name, values)
    flat = MEASURES[name].function(maps, torch.ones_like(images))
    assert bool(flat.isnan().all()), "images without anything in them"


@pytest.mark.parametrize("name", MEASURES)
@fuzz(25)
@given(pair=pairs(), data=st.data())
def test_a_broken_map_changes_no_other_probe(name: str, pair: Pair, data: Any) -> None:
    now, then = read(name, pair.now), read(name, pair.then)
    broken = data.draw(st.integers(0, len(now) - 1), label="broken probe")
    spoilt = now.clone()
    spoilt[broken].view(-1)[0] = data.draw(st.sampled_from([torch.nan, torch.inf]))
    more = [then] if name in DRIFTS else [pair.then] if name in STIMULI else []
    if isinstance(MEASURES[name], Grounding):
        more = [data.draw(masks(len(now), now.ndim - 1))]
    before, after = (MEASURES[name].function(one, *more) for one in (now, spoilt))
    assert after[broken].isnan()
    others = torch.arange(len(now)) != broken
    assert torch.equal(before[others].nan_to_num(-1), after[others].nan_to_num(-1)), "bit by bit"


VALUES = st.sampled_from([0.0, 1.0, -1.0, 1e30, 1e-38, 0.3, float("inf"), float("nan")])


@fuzz(200)
@given(values=st.lists(VALUES, max_size=9), shares=st.lists(st.floats(0, 1), min_size=1))
def test_what_is_undefined_is_left_out_of_aggregates(
    values: list[float], shares: list[float]
) -> None:
    known = [value for value in values if value == value]
    given_values, rest = torch.tensor(values), torch.tensor(known)
    found = quantiles(given_values, shares)
    assert torch.equal(found.isnan(), torch.full_like(found, not known, dtype=torch.bool))
    if known:
        assert bool(((found >= min(known)) & (found <= max(known))).all())
        for place, share in enumerate(shares):
            ordered = sorted(known)
            low = ordered[int(share * (len(known) - 1) * (1 - 1e-6))]
            assert found[place] >= torch.tensor(low) * (1 - 1e-6 if low > 0 else 1 + 1e-6)
        torch.testing.assert_close(mean(given_values), mean(rest), equal_nan=True)
    norms = [value for value in known if 0 < value < float("inf")]
    if norms and len(norms) == len(known):
        assert torch.isfinite(magnitude(given_values))
    maps = given_values[:, None] * torch.tensor([1.0, 2.0])
    if values:
        share = sum(not (0 < abs(value) < float("inf")) for value in values) / len(values)
        assert float(undefined_share(maps)) == pytest.approx(share)
