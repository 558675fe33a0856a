"""Laws that every measure of the table keeps."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lightning_saliency.errors import ConfigurationError
from lightning_saliency.measures import MEASURES, Drift, Grounding, Measure, Shape, Stimulus
from lightning_saliency.measures.shape import centroid

NAMES = list(MEASURES)
DRIFTS = {name: m.function for name, m in MEASURES.items() if isinstance(m, Drift)}
OF_A_BATCH = {name for name, m in MEASURES.items() if isinstance(m, Stimulus)}
"""Their null is of the other probes' images."""
SIGNED = {"border_mass", "centre_bias", *OF_A_BATCH}
BOUNDED_BY_2 = {"cosine", "signed_pearson", "signed_spearman", "pearson", "spearman", "ssim"}
BOUNDED_BY_2 |= OF_A_BATCH - {"stimulus_share"}
SPATIAL = [(31,), (9, 14), (6, 7, 5)]


def maps_of(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).abs().to(dtype)


def sparse_maps(*shape: int, seed: int = 0) -> Tensor:
    return (maps_of(*shape, seed=seed) - 1).relu()


def masks_of(*shape: int) -> Tensor:
    return maps_of(*shape, seed=99) > 0.8


def images_like(maps: Tensor) -> Tensor:
    """Two channels of noise for each map, the same for maps of one shape."""
    shape = (len(maps), 2, *maps.shape[1:])
    if maps.device.type == "meta":
        return torch.empty(shape, device="meta")
    return torch.rand(shape, generator=torch.Generator().manual_seed(7))


def apply(measure: Measure, now: Tensor, then: Tensor, masks: Tensor) -> Tensor:
    others = {Drift: [then], Grounding: [masks], Stimulus: [images_like(now)]}
    values: Tensor = measure.function(now, *others.get(type(measure), []))
    return values


@pytest.mark.parametrize("name", DRIFTS)
@pytest.mark.parametrize("shape", [(4, *spatial) for spatial in SPATIAL] + [(1, 3, 3), (4, 56, 56)])
@pytest.mark.parametrize("make", [maps_of, sparse_maps])
def test_drift_of_equal_maps_is_exactly_zero(
    name: str, shape: tuple[int, ...], make: Callable[..., Tensor]
) -> None:
    maps = make(*shape)
    drift = DRIFTS[name](maps, maps.clone())
    assert drift.tolist() == [0.0] * shape[0]


@pytest.mark.parametrize("name", ["cosine", "signed_pearson", "signed_spearman"])
def test_drift_of_equal_attributions_is_exactly_zero_in_any_memory_layout(name: str) -> None:
    signed = torch.randn(8, 3, 57, 57, generator=torch.Generator().manual_seed(0))
    stored = signed.contiguous(memory_format=torch.channels_last)
    assert DRIFTS[name](signed, stored).tolist() == [0.0] * 8
    assert DRIFTS[name](signed[:1], stored[:1]).tolist() == [0.0]


@pytest.mark.parametrize("name", DRIFTS)
def test_drift_of_equal_maps_is_exactly_zero_when_rows_are_strided(name: str) -> None:
    maps = maps_of(8, 100)
    strided = maps.T.contiguous().T
    assert DRIFTS[name](maps, strided).tolist() == [0.0] * 8


@pytest.mark.parametrize("name", DRIFTS)
@pytest.mark.parametrize("spatial", SPATIAL)
def test_drift_is_symmetric(name: str, spatial: tuple[int, ...]) -> None:
    a, b = maps_of(5, *spatial), maps_of(5, *spatial, seed=1)
    function = DRIFTS[name]
    torch.testing.assert_close(function(a, b), function(b, a), rtol=1e-6, atol=1e-7)
    assert (function(a, b) > 1e-3).all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1e30])
def test_scale_of_a_map_does_not_matter(name: str, scale: float) -> None:
    a, b, masks = maps_of(4, 12, 12), maps_of(4, 12, 12, seed=1), masks_of(4, 12, 12)
    expected = apply(MEASURES[name], a, b, masks)
    torch.testing.assert_close(
        apply(MEASURES[name], a * scale, b, masks), expected, rtol=2e-5, atol=2e-6
    )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("spatial", SPATIAL)
def test_values_are_finite_one_per_probe_and_within_the_stated_range(
    name: str, spatial: tuple[int, ...]
) -> None:
    masks = masks_of(6, *spatial)
    for make in (maps_of, sparse_maps):
        values = apply(MEASURES[name], make(6, *spatial), make(6, *spatial, seed=1), masks)
        assert values.shape == (6,)
        upper = 2.0 if name in BOUNDED_BY_2 else 1.0
        if name == "centroid_shift":
            upper = sum((side - 1) ** 2 for side in spatial) ** 0.5
        if name == "background_mass":
            upper = 1 / float(1 - masks.flatten(1).float().mean(1).amax())
        assert ((values >= (-upper if name in SIGNED else 0)) & (values <= upper)).all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_one_bad_pixel_makes_its_own_probe_nan_and_no_other(name: str, bad: float) -> None:
    a, b, masks = maps_of(5, 8, 9), maps_of(5, 8, 9, seed=1), masks_of(5, 8, 9)
    expected = apply(MEASURES[name], a, b, masks)
    a[2, 3, 3] = bad
    values = apply(MEASURES[name], a, b, masks)
    assert values.isnan().tolist() == [False, False, True, False, False]
    keep = [0, 1, 3, 4]
    assert torch.equal(values[keep], expected[keep])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("constant", [0.0, 0.3])
@pytest.mark.parametrize("spatial", SPATIAL)
def test_a_constant_map_is_undefined(name: str, constant: float, spatial: tuple[int, ...]) -> None:
    a, b, masks = maps_of(3, *spatial), maps_of(3, *spatial, seed=1), masks_of(3, *spatial)
    a[1] = constant
    undefined = name != "cosine" or constant == 0  # a constant gradient still has a direction
    expected = [False, undefined, False]
    assert apply(MEASURES[name], a, b, masks).isnan().tolist() == expected
    if name in DRIFTS:
        assert DRIFTS[name](b, a).isnan().tolist() == expected
        assert DRIFTS[name](a, a).isnan().tolist() == expected


@pytest.mark.parametrize("name", NAMES)
def test_permuting_the_batch_permutes_the_result(name: str) -> None:
    a, b, masks = maps_of(7, 10, 11), maps_of(7, 10, 11, seed=1), masks_of(7, 10, 11)
    order, function = torch.tensor([3, 0, 6, 1, 5, 2, 4]), MEASURES[name].function
    if name in OF_A_BATCH:
        permuted, expected = function(a[order], images_like(a)[order]), function(a, images_like(a))
        torch.testing.assert_close(permuted, expected[order], rtol=0, atol=1e-6)
        return
    permuted = apply(MEASURES[name], a[order], b[order], masks[order])
    assert torch.equal(permuted, apply(MEASURES[name], a, b, masks)[order])


@pytest.mark.parametrize("name", sorted(set(NAMES) - OF_A_BATCH))
def test_a_batch_equals_its_probes_one_by_one(name: str) -> None:
    a, b, masks = maps_of(4, 10, 11), maps_of(4, 10, 11, seed=1), masks_of(4, 10, 11)
    single = [apply(MEASURES[name], a[i, None], b[i, None], masks[i, None]) for i in range(4)]
    torch.testing.assert_close(
        torch.cat(single), apply(MEASURES[name], a, b, masks), rtol=1e-6, atol=1e-7
    )


@pytest.mark.parametrize("name", NAMES)
def test_float32_agrees_with_float64(name: str) -> None:
    masks = masks_of(4, 64, 64)
    a, b = maps_of(4, 64, 64), maps_of(4, 64, 64, seed=1)
    b = a + 0.1 * b
    single = apply(MEASURES[name], a, b, masks)
    double = apply(MEASURES[name], a.double(), b.double(), masks)
    assert (single.dtype, double.dtype) == (torch.float32, torch.float64)
    tolerance = 1e-4 if name == "centroid_shift" else 1e-6  # pixels
    torch.testing.assert_close(single.double(), double, rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(name: str, dtype: torch.dtype) -> None:
    a, b, masks = maps_of(3, 9, 9), maps_of(3, 9, 9, seed=1), masks_of(3, 9, 9)
    a, b = a.to(dtype), b.to(dtype)
    values = apply(MEASURES[name], a, b, masks)
    assert values.dtype == torch.float32
    assert torch.equal(values, apply(MEASURES[name], a.float(), b.float(), masks))


@pytest.mark.parametrize("name", NAMES)
def test_a_map_of_one_pixel_is_undefined_but_for_its_sign(name: str) -> None:
    a, b, masks = torch.ones(2, 1, 1), -torch.ones(2, 1, 1), torch.ones(2, 1, 1)
    values = apply(MEASURES[name], a, b, masks)
    assert values.tolist() == [2.0, 2.0] if name == "cosine" else values.isnan().all()


@pytest.mark.parametrize("name", NAMES)
def test_no_probes_give_no_numbers(name: str) -> None:
    empty = torch.zeros(0, 8, 8)
    assert apply(MEASURES[name], empty, empty, empty).shape == (0,)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("spatial", SPATIAL)
def test_no_value_is_asked_of_the_device(name: str, spatial: tuple[int, ...]) -> None:
    # A meta tensor has no values: .item(), bool() and nonzero() raise, and so does a CPU helper.
    maps, masks = torch.empty(4, *spatial, device="meta"), torch.empty(4, *spatial, device="meta")
    values = apply(MEASURES[name], maps, torch.empty_like(maps), masks > 0)
    assert (values.device.type, values.shape) == ("meta", (4,))


@pytest.mark.parametrize("name", NAMES)
def test_inputs_are_not_written_to(name: str) -> None:
    a, b, masks = maps_of(3, 9, 9), maps_of(3, 9, 9, seed=1), masks_of(3, 9, 9).float()
    before = a.clone(), b.clone(), masks.clone()
    apply(MEASURES[name], a, b, masks)
    assert all(torch.equal(x, y) for x, y in zip((a, b, masks), before, strict=True))


@pytest.mark.parametrize("name", sorted(set(NAMES) - BOUNDED_BY_2 | {"ssim"} | OF_A_BATCH))
def test_magnitude_measures_do_not_see_the_sign(name: str) -> None:
    signs = torch.randn(4, 9, 9, generator=torch.Generator().manual_seed(5)).sign()
    a, b, masks = maps_of(4, 9, 9), maps_of(4, 9, 9, seed=1), masks_of(4, 9, 9)
    assert torch.equal(
        apply(MEASURES[name], a * signs, b, masks), apply(MEASURES[name], a, b, masks)
    )


@pytest.mark.parametrize("name", DRIFTS)
def test_observations_of_two_shapes_are_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match=r"now \(4, 8, 8\) and then \(1, 8, 8\)"):
        DRIFTS[name](torch.ones(4, 8, 8), torch.ones(1, 8, 8))


@pytest.mark.parametrize("name", NAMES)
def test_a_map_without_a_batch_dimension_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match=r"maps\[None\]|spatial"):
        apply(MEASURES[name], torch.arange(8.0), torch.arange(8.0), torch.ones(8, 1))


def test_centroid_keeps_the_laws_too() -> None:
    maps = maps_of(3, 4, 5)
    maps[1] = 0
    centres = centroid(maps)
    assert centres.isnan().tolist() == [[False] * 2, [True] * 2, [False] * 2]
    assert centroid(torch.empty(4, 5, 6, 7, device="meta")).shape == (4, 3)


def test_the_table_holds_every_kind() -> None:
    kinds = {type(measure) for measure in MEASURES.values()}
    assert kinds == {Drift, Shape, Grounding, Stimulus}
