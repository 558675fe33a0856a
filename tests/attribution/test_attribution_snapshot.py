"""Snapshots: pooling is a mean over blocks, and a checkpoint changes no bit."""

from __future__ import annotations

import io
import math

import pytest
import torch
from attribution_nets import deep_case, images
from torch import Tensor

from lightning_saliency.attribution import (
    Explanation,
    GradCAM,
    IntegratedGradients,
    Maps,
    Saliency,
    explain,
)
from lightning_saliency.sighting import PLACES, Sighting, pooled
from lightning_saliency.snapshot import Snapshot


def naive_blocks(map_: Tensor, side: int) -> list[float]:
    """Means over blocks of `side`, cut at the far border, in order."""
    starts = [range(0, size, side) for size in map_.shape]
    corners = torch.cartesian_prod(*[torch.tensor(list(start)) for start in starts])
    blocks = [
        map_[tuple(slice(int(c), int(c) + min(side, map_.shape[0] * side)) for c in corner)]
        for corner in corners.view(-1, map_.ndim)
    ]
    return [float(block.mean()) for block in blocks]


@pytest.mark.parametrize(
    ("spatial", "places", "side"),
    [
        ((12, 8), 6, 4),
        ((11, 13), 30, 3),
        ((7, 7), 48, 2),
        ((3, 40), 20, 3),
        ((2, 40), 10, 4),
        ((17,), 5, 4),
        ((5, 6, 7), 40, 2),
        ((9, 4), 36, 1),
    ],
)
def test_pooling_is_the_mean_over_the_smallest_blocks(
    spatial: tuple[int, ...], places: int, side: int
) -> None:
    maps = images(2, 3, *spatial)
    small = pooled(maps, skip=2, places=places)
    assert small[0, 0].numel() <= places
    assert small.shape[2:] == tuple(math.ceil(size / side) for size in spatial)
    if side > 1:
        smaller = math.prod(math.ceil(size / (side - 1)) for size in spatial)
        assert smaller > places, "smaller blocks would have been too many"
    for n in range(2):
        for k in range(3):
            assert small[n, k].flatten().tolist() == pytest.approx(naive_blocks(maps[n, k], side))


def test_usual_sizes() -> None:
    for side, kept in [(28, 28), (64, 64), (65, 33), (224, 56), (256, 64), (384, 64)]:
        assert pooled(torch.zeros(1, side, side), skip=1).shape == (1, kept, kept)


def test_a_small_map_is_not_copied() -> None:
    maps = images(2, 64, 64)
    assert maps[0].numel() == PLACES
    assert pooled(maps, skip=1) is maps


def taken(map_: Tensor, signed: Tensor | None = None) -> Snapshot:
    signed = map_[:, None] if signed is None else signed
    explanation = Explanation({"m": Maps(map_, signed)}, torch.zeros(len(map_), 2), None, 1)
    return Snapshot.of(Sighting.of(explanation), step=3, label="epoch 1")


def test_each_probe_has_peak_one_and_says_what_it_stood_for() -> None:
    map_ = images(3, 9, 9, dtype=torch.float32) * torch.tensor([1e-6, 1.0, 1e9]).view(3, 1, 1)
    signed = images(3, 2, 9, 9, seed=1, dtype=torch.float32) * 1e-5
    series = taken(map_, signed).series["m"]
    assert series.map.dtype == series.signed.dtype == torch.float16
    assert series.map.flatten(1).abs().amax(1).tolist() == [1.0, 1.0, 1.0]
    assert series.signed.flatten(1).abs().amax(1).tolist() == [1.0, 1.0, 1.0]
    assert torch.equal(series.peak, map_.flatten(1).abs().amax(1))
    back = series.map.float() * series.peak.view(3, 1, 1)
    assert ((back - map_).abs().flatten(1).amax(1) / series.peak).max() < 2**-11
    assert torch.equal(series.map.sign(), map_.sign().half())


def test_the_peak_is_that_of_the_pooled_map() -> None:
    map_ = torch.zeros(1, 128, 128)
    map_[0, 5, 5] = 8.0
    series = taken(map_).series["m"]
    assert series.map.shape == (1, 64, 64)
    assert series.peak.tolist() == [2.0]
    assert series.map[0, 2, 2] == 1.0


def test_a_zero_map_stays_zero_and_nan_stays_nan() -> None:
    map_ = torch.zeros(3, 4, 4)
    map_[1, 2, 2], map_[2, 0, 0] = torch.nan, 5.0
    series = taken(map_).series["m"]
    assert not series.map[0].any()
    assert series.map[1, 2, 2].isnan()
    assert int(series.map.isnan().sum()) == 1
    assert series.map[2].max() == 1
    assert series.peak[0] == 0
    assert series.peak[1].isnan()
    assert series.peak[2] == 5


def observed() -> Snapshot:
    methods = {
        "gradient": Saliency(),
        "cam": GradCAM("second"),
        "path": IntegratedGradients(steps=2),
    }
    return Snapshot.of(Sighting.of(explain(*deep_case(), methods)), step=7, label="start")


def bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view(torch.uint8)


def test_a_checkpoint_gives_every_bit_back() -> None:
    snapshot = observed()
    file = io.BytesIO()
    torch.save(snapshot.state(), file)
    file.seek(0)
    back = Snapshot.from_state(torch.load(file, weights_only=True))
    assert (back.step, back.label, list(back.series)) == (7, "start", ["gradient", "cam", "path"])
    assert torch.equal(back.predictions, snapshot.predictions)
    for name, one in snapshot.series.items():
        for field in ("map", "signed", "peak"):
            before, after = getattr(one, field), getattr(back.series[name], field)
            assert before.dtype == after.dtype
            assert torch.equal(bits(before), bits(after))


def test_a_snapshot_knows_the_predictions_of_its_moment() -> None:
    model, inputs, _ = deep_case()
    assert torch.equal(observed().predictions, model(inputs).argmax(1))


def test_a_snapshot_moves_as_a_whole() -> None:
    moved = observed().to(torch.device("meta"))
    tensors = [moved.predictions]
    for one in moved.series.values():
        tensors += [one.map, one.signed, one.peak]
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert (moved.step, moved.label) == (7, "start")


def test_frozen_weights_give_the_same_bits() -> None:
    first, second = observed(), observed()
    for name, one in first.series.items():
        assert torch.equal(bits(one.signed), bits(second.series[name].signed))
