"""What an observation tells of the noise of methods that draw samples."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_saliency.attribution.method import Maps
from lightning_saliency.measures.noise import (
    ONE_SIDED,
    crossval,
    minimum_detectable,
    moved,
    reliability,
    z_score,
)
from lightning_saliency.readings import UNRELIABLE, Beside, readings
from lightning_saliency.sighting import Sighting
from lightning_saliency.snapshot import Snapshot

COUNT, SIDE, LEVEL = 60, 5, 0.15


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def seen(truth: Tensor, seed: int, noise: float = LEVEL) -> tuple[Sighting, Snapshot]:
    """Maps whose two halves have fresh noise."""
    halves = truth[:, None] + noise * normal(COUNT, 2, 1, SIDE, SIDE, seed=seed)
    signed = halves.mean(1)
    maps = {"smooth": Maps(signed.abs().amax(1), signed, {}, halves)}
    sighting = Sighting(maps, torch.zeros(COUNT).long(), torch.ones(COUNT), None)
    return sighting, Snapshot.of(sighting, step=seed, label="")


def told(now: tuple[Sighting, Snapshot], then: Snapshot) -> dict[str, float]:
    beside = Beside(torch.zeros(COUNT, dtype=torch.long))
    numbers, _ = readings(*now, {"previous": then}, {}, beside)
    return {name.removeprefix("smooth/"): float(one) for name, one in numbers.items()}


def test_drift_without_noise_is_told_with_a_test_of_it() -> None:
    truth = normal(COUNT, 1, SIDE, SIDE, seed=0)
    truth = truth / truth.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    now, then = seen(truth, 1, 0.3), seen(truth, 2, 0.3)[1]
    found = told(now, then)
    series, earlier = now[1].series["smooth"], then.series["smooth"]
    assert series.halves is not None
    assert earlier.halves is not None
    pair = series.halves.float(), earlier.halves.float()
    distance = crossval(*pair)
    assert found["crossval_previous"] == float(distance.nanmean())
    assert found["crossval_previous_detectable"] == float(minimum_detectable(distance))
    assert found["crossval_previous_z"] == float(z_score(moved(*pair)))
    assert found["reliability"] == float(reliability(pair[0]).nanquantile(0.5))
    below = reliability(pair[0])
    assert found["unreliable"] == float((below.isnan() | (below < UNRELIABLE)).float().mean())
    assert 0 < found["unreliable"] < 1


def test_noise_alone_is_no_shift_and_the_same_noise_is_none_at_all() -> None:
    truth = normal(COUNT, 1, SIDE, SIDE, seed=0)
    truth = truth / truth.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    z = [told(seen(truth, 2 * one), seen(truth, 2 * one + 1)[1]) for one in range(30)]
    scores = torch.tensor([one["crossval_previous_z"] for one in z])
    # Of crossval itself, whose lengths are estimates too, it would be far below 0.
    assert scores.mean().abs() < 4 / 30**0.5
    assert (scores > ONE_SIDED).sum() <= 5
    now = seen(truth, 1)
    still = told(now, seen(truth, 1)[1])
    assert still["crossval_previous"] == still["crossval_previous_z"] == 0
    other = told(now, seen(-truth, 2)[1])
    assert other["crossval_previous_z"] > 5
