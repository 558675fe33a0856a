"""The bytes of the record: what is written comes back, within half a step of 8 bits."""

from __future__ import annotations

import json
import zlib
from typing import Any

import made
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from lightning_saliency.record import NewerRecordError, RecordError
from lightning_saliency.record.fit import fitted, fitting
from lightning_saliency.record.format import (
    Mark,
    Observation,
    current,
    decode_header,
    decode_maps,
    decode_observation,
    encode_maps,
    rounded,
)
from lightning_saliency.sighting import pooled

Floats = NDArray[np.float32]

SHAPES = {"signal": (37,), "image": (12, 9), "volume": (3, 4, 5), "one place wide": (7, 1)}


def drawn(*shape: int, signed: bool = False, seed: int = 0) -> Floats:
    """Maps with a peak of 1 each."""
    values = np.random.default_rng(seed).standard_normal(shape).astype(np.float32) ** 3
    values = values if signed else np.abs(values)
    found: Floats = values / np.abs(values.reshape(len(values), -1)).max(1).reshape(
        -1, *[1] * (values.ndim - 1)
    )
    return found


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_maps_come_back(shape: tuple[int, ...], signed: bool) -> None:
    maps, peaks = drawn(5, *shape, signed=signed), np.array([1e-12, 3.14159265, 7, 1e9, 2.0])
    found = decode_maps(encode_maps(maps, peaks, step=504, signed=signed))
    assert found.levels.shape == (5, *shape)
    assert np.abs(found.maps - maps).max() <= (1 / 254 if signed else 1 / 510) * (1 + 1e-6)
    np.testing.assert_allclose(found.peaks, peaks, rtol=5e-6)
    assert (found.header["version"], found.header["step"]) == (1, 504)
    assert found.header["signed"] is signed
    # The sign survives, and zero stays zero.
    assert not (found.maps * maps < 0).any()
    assert not found.maps[maps == 0].any()


def test_peaks_and_zeros_are_exact() -> None:
    maps = np.array([[0, 1, 0.5], [-1, 1, 0]], dtype=np.float32)
    found = decode_maps(encode_maps(maps, np.ones(2), step=0))
    np.testing.assert_array_equal(found.levels, [[128, 255, 192], [1, 255, 128]])
    found = decode_maps(encode_maps(maps[:1], np.ones(1), step=0))
    np.testing.assert_array_equal(found.levels, [[0, 255, 128]])


def test_a_method_that_does_not_say_that_it_has_a_sign_loses_none() -> None:
    maps = np.array([[0.5, -1]], dtype=np.float32)
    found = decode_maps(encode_maps(maps, np.ones(1), step=0, signed=False))
    assert found.header["signed"]
    np.testing.assert_allclose(found.maps, maps, atol=1 / 254)


@pytest.mark.parametrize("signed", [False, True])
def test_undefined_maps_are_told_from_empty_ones(signed: bool) -> None:
    maps = drawn(6, 4, 4, signed=signed)
    maps[1], maps[2], maps[3, 0, 0], maps[4, 1, 1] = 0, 0.5, np.nan, np.inf
    peaks = np.array([1, 0, 1, 1, 1, np.nan])
    found = decode_maps(encode_maps(maps, peaks, step=0, signed=signed))
    assert found.header["peaks"] == [1, None, None, None, None, None]
    np.testing.assert_array_equal(found.levels[1:], 128 if signed else 0)
    assert np.isnan(found.maps[1:]).all()
    assert np.isfinite(found.maps[0]).all()


@pytest.mark.parametrize(
    ("spatial", "places", "wanted"),
    [
        ((64, 64), 56**2, (56, 56)),
        ((56, 56), 56**2, (56, 56)),
        ((28, 112), 56**2, (28, 112)),
        ((32, 128), 56**2, (28, 112)),
        ((4096,), 56**2, (3136,)),
        ((16, 16, 16), 56**2, (14, 14, 14)),
        ((1, 4096), 56**2, (1, 3136)),
        ((224, 224), 4**2, (4, 4)),
        ((2, 1000), 16, (1, 16)),
    ],
)
def test_sides_shrink_in_proportion(
    spatial: tuple[int, ...], places: int, wanted: tuple[int, ...]
) -> None:
    assert fitting(spatial, places) == wanted
    maps = np.ones((2, *spatial), dtype=np.float32)
    assert fitted(maps, places).shape == (2, *wanted)
    np.testing.assert_allclose(fitted(maps, places), 1, rtol=1e-5)


@pytest.mark.parametrize("shape", [(3, 60), (3, 12, 18), (2, 6, 8, 4)])
def test_whole_blocks_are_their_mean(shape: tuple[int, ...]) -> None:
    """Of another implementation: that of the maps that are measured."""
    maps = drawn(*shape, signed=True)
    places = int(np.prod([size // 2 for size in shape[1:]]))
    blocks = pooled(torch.from_numpy(maps), skip=1, places=places).numpy()
    np.testing.assert_allclose(fitted(maps, places), blocks, atol=1e-6)


def test_what_is_averaged_down_keeps_its_mean_and_its_units() -> None:
    maps, peaks = drawn(4, 64, 50), np.array([1.0, 2.0, 3.0, 4.0])
    np.testing.assert_allclose(fitted(maps, 900).mean((1, 2)), maps.mean((1, 2)), rtol=1e-5)
    found = decode_maps(encode_maps(maps, peaks, step=0, places=900))
    assert found.levels.reshape(4, -1).max(1).tolist() == [255] * 4, "the peak is 1 again"
    restored = found.maps * found.peaks[:, None, None]
    expected = fitted(maps, 900) * peaks[:, None, None]
    assert np.abs(restored - expected).max() <= (found.peaks / 510).max() * (1 + 1e-3)


def test_a_constant_map_that_is_averaged_down_stays_undefined() -> None:
    maps = np.full((1, 61, 61), 0.3, dtype=np.float32)
    assert decode_maps(encode_maps(maps, np.ones(1), step=0, places=100)).header["peaks"] == [None]


def pixel_maps(side: int, seed: int = 0) -> Floats:
    """64 maps as gradients are: heavy tails under a soft spot."""
    draws = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] / side
    spot = np.exp(-((y - 0.4) ** 2 + (x - 0.6) ** 2) / 0.05)
    values = np.abs(draws.standard_normal((64, side, side))) * (0.12 + spot)
    found: Floats = (values / values.max((1, 2), keepdims=True)).astype(np.float32)
    return found


def smooth_maps(side: int) -> Floats:
    """64 maps as those of a layer are: a ReLU of smooth noise."""
    draws = np.random.default_rng(0).standard_normal((64, side + 2, side + 2))
    soft = sum(draws[:, a : a + side, b : b + side] for a in range(3) for b in range(3))
    values = np.maximum(np.asarray(soft), 0)
    found: Floats = (values / values.max((1, 2), keepdims=True)).astype(np.float32)
    return found


def test_sizes_keep_to_the_budget() -> None:
    """Of 64 probes and one method; pixels whose values all differ can't be smaller by much."""
    drift = {
        name: np.random.default_rng(1).random(64) for name in ("drift_previous", "reliability")
    }
    numbers = {f"gradient/number_{index}": 0.1234567 * index for index in range(60)}
    beside = made.observation(
        1,
        504,
        predictions=np.arange(64),
        confidence=drift["reliability"],
        methods={"gradient": drift},
        numbers=numbers,
    ).encoded()
    peaks = np.random.default_rng(2).random(64)
    pixels = encode_maps(pixel_maps(56), peaks, step=504)
    assert 100_000 < len(pixels) + len(beside) < 160_000
    for side in (7, 14):
        coarse = encode_maps(smooth_maps(side), peaks, step=504)
        assert len(coarse) + len(beside) < 15_000


def test_blocks_and_noise_each_take_the_smaller_stream() -> None:
    """Runs of zeros alone would store the first in four times its size, repeats the second."""
    blocks = np.kron(drawn(16, 7, 7), np.ones((8, 8), dtype=np.float32))
    levels = np.rint(blocks * 255).astype(np.uint8).tobytes()
    data = encode_maps(blocks, np.ones(16), step=0)
    assert len(data) < len(zlib.compress(levels)) + 400
    noise = pixel_maps(28)
    levels = np.rint(noise * 255).astype(np.uint8).tobytes()
    data = encode_maps(noise, np.ones(64), step=0)
    assert len(data) - decode_header(data)[1] < 0.98 * len(zlib.compress(levels))


def test_an_observation_comes_back() -> None:
    observed = made.observation(1, 504)
    found = decode_observation(observed.encoded())
    assert (found["version"], found["step"], found["index"], found["label"]) == (
        1, 504, 1, "epoch 0",
    )  # fmt: skip
    assert found["predictions"] == [0, 1, 0]
    assert found["confidence"] == [0.5, 0.12346, None]
    assert found["methods"]["gradient"]["drift_previous"] == [0, 1.2346e-05, None]
    assert found["numbers"] == {"churn": 0.25, "gradient/drift_first": 0.5}
    assert (found["rates"], found["best"], found["since"]) == ([0.1, 0.01], None, 0)
    assert [Mark.of(one) for one in found["events"]] == list(made.EVENTS)
    assert list(found["events"][1]) == ["kind", "text"], "what is not known is not there"


def test_numbers_that_json_does_not_know() -> None:
    observed = made.observation(1, 5, numbers={"a": float("nan"), "b": float("inf"), "c": 1e300})
    assert decode_observation(observed.encoded())["numbers"] == {"a": None, "b": None, "c": 1e300}
    assert rounded([1 / 3, -12345678, 0.0, float("-inf")]) == [0.33333, -12346000, 0, None]


def test_a_name_that_is_no_unicode() -> None:
    """Of a file whose name's bytes are not UTF-8, as Python has it."""
    label = b"caf\xe9".decode(errors="surrogateescape")
    assert decode_observation(made.observation(0, 0, label=label).encoded())["label"] == label


def test_a_mark_of_a_later_release_is_read() -> None:
    assert Mark.of({"kind": "new", "text": "…", "colour": "red"}) == Mark("new", "…")


BLOB = encode_maps(made.maps(0, 3, 4, 4), made.peaks(0), step=0)


@pytest.mark.parametrize(
    ("damaged", "words"),
    [
        (b"", "0 bytes are too short"),
        (BLOB[:20], "too short for their header"),
        (BLOB[:-6], "incomplete or truncated"),
        (BLOB[:4] + b"]" + BLOB[5:], "A header of maps is damaged"),
        (BLOB.replace(b"[3,4,4]", b"[3,4,5]"), r"48 bytes for the shape \[3, 4, 5\]"),
    ],
)
def test_damaged_maps_are_refused(damaged: bytes, words: str) -> None:
    with pytest.raises(RecordError, match=words) as caught:
        decode_maps(damaged)
    assert "opy the run anew" in str(caught.value)


def test_later_versions_are_refused() -> None:
    later = BLOB.replace(b'{"version":1,', b'{"version":2,')
    with pytest.raises(NewerRecordError, match=r"of version 2 .* knows 1 at most.*pip install"):
        decode_maps(later)
    document = zlib.compress(json.dumps({"version": 12}).encode())
    with pytest.raises(NewerRecordError, match="An observation is of version 12"):
        decode_observation(document)
    with pytest.raises(RecordError, match=r"damaged \(KeyError"):
        decode_observation(zlib.compress(b"{}"))
    with pytest.raises(RecordError, match=r"An observation has no best, confidence, .*since"):
        decode_observation(zlib.compress(b'{"version":1,"step":5,"hash":""}'))


def documents(*steps: int, since: int = 0, session: float = 0.0, first: int = 0) -> list[Any]:
    made_of: list[Observation] = [
        made.observation(first + row, step, since=since, session=session, time=session + row)
        for row, step in enumerate(steps)
    ]
    return [decode_observation(one.encoded()) for one in made_of]


def told(found: list[Any]) -> list[tuple[int, float]]:
    return [(one["step"], one["session"]) for one in found]


def test_what_a_resumed_fit_takes_back() -> None:
    first = documents(0, 5, 6, 8, 11)
    second = documents(9, 14, since=6, session=50.0, first=2)
    third = documents(10, 17, since=10, session=70.0, first=3)
    expected = [(0, 0.0), (5, 0.0), (9, 50.0), (10, 70.0), (17, 70.0)]
    written = [*first, *second, *third]
    assert told(current(written)) == expected
    # As the data server gives them, in the order of the steps, and as nobody does.
    assert told(current(sorted(written, key=lambda one: one["step"]))) == expected
    assert told(current(reversed(written))) == expected


def test_a_new_fit_in_the_folder_takes_all_back() -> None:
    written = [*documents(0, 5, 8), *documents(0, 3, session=9.0)]
    assert told(current(written)) == [(0, 9.0), (3, 9.0)]
    assert current([]) == []


def test_of_one_step_the_last_that_was_written_counts() -> None:
    again = decode_observation(made.observation(2, 8, best=8, session=0.0).encoded())
    found = current([*documents(0, 5, 8), again])
    assert [(one["step"], one["best"]) for one in found] == [(0, None), (5, None), (8, 8)]
