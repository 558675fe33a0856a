"""One drift taken apart: figures by hand, loops, and laws."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from lightning_saliency.errors import ConfigurationError
from lightning_saliency.measures.decomposition import (
    FEWEST,
    angle,
    by_class,
    of_chance,
    stayed_and_flipped,
    tortuosity,
)
from lightning_saliency.measures.drift import blurred, cosine, jensen_shannon

NAN = float("nan")


def normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def test_the_parts_weighted_by_churn_are_the_whole() -> None:
    drift, flipped = normal(50).abs(), normal(50, seed=1) > 1
    drift[[3, 7]] = NAN
    stayed, turned = stayed_and_flipped(drift, flipped)
    churn = flipped[~drift.isnan()].double().mean()
    assert 0 < churn < 0.5
    assert torch.allclose((1 - churn) * stayed + churn * turned, drift.nanmean())


def test_the_parts_by_hand() -> None:
    drift = torch.tensor([0.1, 0.3, 1.0, NAN, NAN])
    flipped = torch.tensor([False, False, True, True, False])
    stayed, turned = stayed_and_flipped(drift, flipped)
    assert stayed.item() == pytest.approx(0.2)
    assert turned.item() == 1
    assert stayed_and_flipped(drift, torch.zeros(5, dtype=torch.bool))[1].isnan()
    assert stayed_and_flipped(drift, torch.ones(5, dtype=torch.bool))[0].isnan()


def test_classes_weigh_the_same() -> None:
    drift = torch.tensor([0.0] * 9 + [1.0] * 3 + [NAN, 7.0])
    classes = torch.tensor([0] * 9 + [1] * 3 + [1, 5])
    found = by_class(drift, classes, 3)
    assert found.count.tolist() == [9, 3, 0]
    assert found.mean[:2].tolist() == [0, 1]
    assert found.mean[2].isnan()
    assert found.overall == 0.5
    assert found.worst == 1


def test_a_class_of_few_probes_is_never_the_worst() -> None:
    drift = torch.tensor([0.2] * FEWEST + [0.9] * (FEWEST - 1) + [NAN])
    classes = torch.tensor([0] * FEWEST + [1] * FEWEST)
    found = by_class(drift, classes, 2)
    assert found.count.tolist() == [FEWEST, FEWEST - 1]
    assert found.worst.item() == pytest.approx(0.2)
    assert by_class(drift[FEWEST:], classes[FEWEST:], 2).worst.isnan()
    two, three = torch.tensor([0.9] * 2 + [-0.2] * 3), torch.tensor([0] * 2 + [1] * 3)
    assert by_class(two, three, 3).worst.item() == pytest.approx(-0.2), "also below 0"


def test_classes_against_a_loop() -> None:
    drift = normal(200).float().abs()
    classes = torch.randint(-1, 8, (200,), generator=torch.Generator().manual_seed(1))
    drift[::9] = NAN
    found = by_class(drift, classes, 7)
    for one in range(7):
        own = drift[classes == one]
        assert found.count[one] == (~own.isnan()).sum()
        assert found.mean[one].item() == pytest.approx(own.nanmean().item())


def test_nothing_of_no_class() -> None:
    found = by_class(torch.tensor([NAN]), torch.tensor([0]), 2)
    assert found.overall.isnan()
    assert found.worst.isnan()


def turned(by: float) -> Tensor:
    return torch.tensor([[math.cos(by), math.sin(by)]], dtype=torch.float64)


def test_the_angle_is_the_one_between_the_maps() -> None:
    for by in (0.0, 1e-7, 3e-6, 0.3, math.pi / 2, 3.1):
        found = angle(cosine(turned(by), turned(0.0)))
        assert found.item() == pytest.approx(by, rel=1e-9, abs=0)


@pytest.mark.parametrize("steps", [1, 2, 10, 100])
def test_straight_on_has_tortuosity_1_however_many_steps(steps: int) -> None:
    maps = [turned(1.2 * step / steps) for step in range(steps + 1)]
    path = torch.stack([angle(cosine(b, a)) for a, b in pairwise(maps)]).sum(0)
    assert tortuosity(path, cosine(maps[-1], maps[0])).item() == pytest.approx(1)


def test_to_and_fro_is_tortuous() -> None:
    maps = [turned(by) for by in (0.0, 0.5, 0.0, 0.5)]
    path = torch.stack([angle(cosine(b, a)) for a, b in pairwise(maps)]).sum(0)
    assert tortuosity(path, cosine(maps[-1], maps[0])).item() == pytest.approx(3)


def test_where_it_began_there_is_no_way() -> None:
    found = tortuosity(torch.tensor([1.0, 1.0]), torch.tensor([0.0, NAN]))
    assert found.isnan().all()


def test_unrelated_maps_are_as_far_as_chance() -> None:
    now, then = normal(300, 8, 8), normal(300, 8, 8, seed=1)
    for distance in (cosine, blurred, jensen_shannon):
        assert of_chance(distance, now, then).item() == pytest.approx(1, abs=0.03)


def test_equal_maps_are_at_0_and_small_drifts_in_proportion() -> None:
    then = normal(300, 8, 8)
    assert of_chance(cosine, then.clone(), then) == 0
    now = then + 0.3 * normal(300, 8, 8, seed=1)
    wanted = cosine(now, then).mean().item()  # mismatched pairs of noise are 1 apart
    assert of_chance(cosine, now, then).item() == pytest.approx(wanted, rel=0.03)


@pytest.mark.parametrize("count", [2, 3, 4, 5, 16])
def test_no_probe_is_matched_with_itself(count: int) -> None:
    seen: list[tuple[int, int]] = []

    def distance(now: Tensor, then: Tensor) -> Tensor:
        seen.extend(zip(now[:, 0].int().tolist(), then[:, 0].int().tolist(), strict=True))
        return (now[:, 0] != then[:, 0]).float()

    rows = torch.arange(count)[:, None].float()
    assert of_chance(distance, rows, rows) == 0
    own, mismatched = seen[:count], seen[count:]
    assert all(one == other for one, other in own)
    assert not any(one == other for one, other in mismatched)
    assert len(set(mismatched)) == len(mismatched) == count * min(3, count - 1)


def test_chance_is_the_same_each_time_and_moves_no_random_stream() -> None:
    now, then = normal(20, 8), normal(20, 8, seed=1)
    before = torch.get_rng_state()
    assert of_chance(cosine, now, then) == of_chance(cosine, now, then)
    assert of_chance(cosine, now, then, seed=1) != of_chance(cosine, now, then, seed=2)
    assert torch.equal(torch.get_rng_state(), before)


def test_one_probe_has_no_chance() -> None:
    assert of_chance(cosine, normal(1, 8), normal(1, 8, seed=1)).isnan()
    same = normal(1, 8).expand(4, -1)
    assert of_chance(cosine, same, same).isnan()


def test_one_number_per_probe_is_wanted() -> None:
    with pytest.raises(ConfigurationError, match=r"one number per probe, \(N,\) each"):
        by_class(torch.ones(3), torch.ones(4, dtype=torch.int64), 2)
    with pytest.raises(ConfigurationError, match=r"one number per probe, \(N,\) each"):
        stayed_and_flipped(torch.ones(3, 1), torch.ones(3, 1, dtype=torch.bool))
