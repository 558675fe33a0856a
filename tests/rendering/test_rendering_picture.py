from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from lightning_saliency.errors import ConfigurationError
from lightning_saliency.rendering.picture import display_range, to_pictures, to_planes

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def pixels(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.manual_seed(0))


@pytest.mark.parametrize("form", [tuple, list, torch.tensor])
def test_un_normalising_gives_the_picture_back(form: type) -> None:
    given = pixels(4, 3, 9, 7)
    shift, factor = torch.tensor(MEAN).view(-1, 1, 1), torch.tensor(STD).view(-1, 1, 1)
    inputs = (given / 255 - shift) / factor
    pictures = to_pictures(inputs, form(MEAN), form(STD))
    difference = pictures.astype(int) - given.permute(0, 2, 3, 1).numpy()
    assert np.abs(difference).max() <= 1


def test_un_normalising_to_0_255_when_the_values_live_there() -> None:
    given = pixels(4, 3, 9, 7)
    pictures = to_pictures((given - 120.0) / 60, 120.0, 60.0)
    assert np.abs(pictures.astype(int) - given.permute(0, 2, 3, 1).numpy()).max() <= 1


def test_known_statistics_clip_what_leaves_the_range() -> None:
    pictures = to_pictures(torch.tensor([-0.2, 0.5, 1.3]).view(1, 1, 1, 3), 0.0, 1.0)
    assert pictures[0, 0, :, 0].tolist() == [0, 128, 255]


def test_bytes_pass_through() -> None:
    given = pixels(2, 3, 5, 6)
    np.testing.assert_array_equal(to_pictures(given, MEAN, STD), given.permute(0, 2, 3, 1).numpy())


def test_without_statistics_the_range_of_all_probes_is_stretched_and_stated() -> None:
    inputs = torch.tensor([[-3.0, 0.0], [1.0, 2.0]]).view(2, 1, 1, 2)
    assert to_pictures(inputs)[..., 0].ravel().tolist() == [0, 153, 204, 255]
    shown = display_range(inputs)
    assert (shown.low, shown.high, shown.stretched) == (-3, 2, True)
    assert str(shown) == "black = -3, white = 2 (the range of all probes)"


def test_values_already_in_a_usual_range_are_taken_as_they_are() -> None:
    for inputs in (torch.tensor([0.2, 0.8]), torch.tensor([51.0, 204.0])):
        assert to_pictures(inputs.view(1, 1, 1, 2))[0, 0, :, 0].tolist() == [51, 204]


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.bool]
)
def test_every_dtype_is_drawn(dtype: torch.dtype) -> None:
    pictures = to_pictures(torch.tensor([0, 1]).view(1, 1, 1, 2).to(dtype))
    assert pictures[0, 0, :, 0].tolist() == [0, 255]


def test_channels() -> None:
    given = pixels(1, 5, 2, 2)
    image = given.numpy()[0]
    grey = to_pictures(given[:, :1])[0]
    np.testing.assert_array_equal(grey, np.repeat(image[0, ..., None], 3, axis=-1))
    np.testing.assert_array_equal(to_pictures(given[:, :4])[0], np.moveaxis(image[:3], 0, -1))
    for count in (2, 5):
        mean = image[:count].mean(0, dtype=np.float32).astype(np.uint8)
        np.testing.assert_array_equal(to_pictures(given[:, :count])[0, ..., 1], mean)


def test_a_gradient_input_and_a_nan_are_drawn() -> None:
    values = torch.tensor([float("nan"), -float("inf"), 0.0, 1.0, float("inf")])
    inputs = values.view(1, 1, 1, 5).requires_grad_()
    assert to_pictures(inputs)[0, 0, :, 0].tolist() == [0, 0, 0, 255, 255]


def test_a_constant_batch_is_drawn() -> None:
    np.testing.assert_array_equal(to_pictures(torch.full((2, 3, 4, 4), -1.0)), 0)


def test_volumes_show_the_wanted_slice_and_the_middle_by_default() -> None:
    volume = pixels(2, 1, 5, 4, 3)
    for given, found in ((None, 2), (0, 0), (4, 4), (-1, 4)):
        expected = volume[:, 0, found].numpy()
        np.testing.assert_array_equal(to_pictures(volume, slice_index=given)[..., 0], expected)
    with pytest.raises(ConfigurationError, match=r"slice_index=5 .* 5 slices; use 0\.\.4"):
        to_pictures(volume, slice_index=5)


def test_planes_of_maps_follow_their_pictures() -> None:
    maps = np.arange(2 * 4 * 3 * 3, dtype=np.float32).reshape(2, 4, 3, 3)
    np.testing.assert_array_equal(to_planes(maps, (4, 9, 9), slice_index=1), maps[:, 1])
    np.testing.assert_array_equal(to_planes(maps, (16, 9, 9), slice_index=15), maps[:, 3])
    np.testing.assert_array_equal(to_planes(maps, (16, 9, 9)), maps[:, 2])
    assert to_planes(maps[:, 0, 0], (3,)).shape == (2, 1, 3)
    assert to_planes(maps[:, 0], (9, 9)).shape == (2, 3, 3)


def test_signals_are_drawn_from_their_lowest_to_their_highest_value() -> None:
    ramp = torch.linspace(-5, 5, 50).view(1, 1, 50)
    picture = to_pictures(ramp)[0]
    ink = picture.max(-1).astype(int) - 19 > 100
    rows = np.array([np.flatnonzero(column).mean() for column in ink.T])
    assert (np.diff(rows) <= 0).all()
    assert rows[0] > 0.9 * len(picture)
    assert rows[-1] < 0.1 * len(picture)


def test_a_spike_of_a_long_signal_is_not_lost() -> None:
    signal = torch.zeros(1, 1, 100_000)
    signal[0, 0, 61_803] = 1
    ink = to_pictures(signal)[0].max(-1) > 120
    top = ink[: ink.shape[0] // 2]
    assert np.flatnonzero(top.any(0)).mean() == pytest.approx(0.618 * ink.shape[1], abs=1.5)


def test_a_step_is_joined_from_bottom_to_top() -> None:
    ink = to_pictures((torch.arange(60) >= 30).float().view(1, 1, 60))[0].max(-1) > 120
    assert ink.any(0).all()
    tops, bottoms = ink.argmax(0), len(ink) - 1 - ink[::-1].argmax(0)
    assert (tops[1:] <= bottoms[:-1]).all()  # neighbouring columns overlap
    assert (bottoms[1:] >= tops[:-1]).all()


def test_channels_of_a_signal_have_lanes_and_eight_at_most() -> None:
    signals = torch.randn(3, 10, 40, generator=torch.manual_seed(0))
    pictures = to_pictures(signals)
    np.testing.assert_array_equal(pictures, to_pictures(signals[:, :8]))
    changed = signals.clone()
    changed[:, 1] *= -1
    rows = np.flatnonzero((to_pictures(changed) != pictures).any(axis=(0, 2, 3)))
    lane = pictures.shape[1] / 8
    assert rows.min() >= lane
    assert rows.max() < 2 * lane


def test_features_signals_with_gaps_and_constant_signals_are_drawn() -> None:
    assert to_pictures(torch.randn(2, 30)).shape == to_pictures(torch.randn(2, 1, 30)).shape
    signal = torch.ones(1, 1, 30)
    signal[0, 0, 10:20] = float("nan")
    columns = (to_pictures(signal)[0].max(-1) > 120).any(0)
    width = len(columns)
    assert columns[: width // 4].all()
    assert not columns[width * 2 // 5 : width * 3 // 5].any()


def test_wrong_shapes_and_statistics_are_told() -> None:
    with pytest.raises(ConfigurationError, match=r"inputs have shape \(3,\)"):
        to_pictures(torch.zeros(3))
    with pytest.raises(ConfigurationError, match=r"std has 2 values, .* have 3 channels"):
        to_pictures(torch.zeros(1, 3, 4, 4), MEAN, (1.0, 2.0))


def test_drawing_needs_no_torch() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import numpy as np\n"
        "from lightning_saliency.rendering import Caption, encode, grid\n"
        "maps = np.random.rand(2, 7, 7)\n"
        "pictures = np.zeros((2, 28, 28, 3), dtype=np.uint8)\n"
        "encode(grid(pictures, maps, maps, [Caption('a')] * 2, title='t'))\n"
        "assert 'matplotlib' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_volume_that_is_broken_in_another_slice_is_broken_in_the_one_that_is_shown() -> None:
    maps = np.arange(2 * 3 * 2 * 2, dtype=np.float16).reshape(2, 3, 2, 2)
    maps[1, 0, 0, 1] = np.inf
    planes = to_planes(maps, (3, 2, 2))
    assert planes.dtype == np.float16
    np.testing.assert_array_equal(planes[0], maps[0, 1])
    assert np.isnan(planes[1]).all()


def test_large_constant_signals_lie_in_the_middle_like_small_ones() -> None:
    small, large = (to_pictures(torch.full((1, 1, 9), level)) for level in (5.0, 5e30))
    np.testing.assert_array_equal(large, small)


def test_what_overflows_is_drawn_without_a_warning() -> None:
    inputs = torch.tensor([3e38, -3e38, float("inf"), float("-inf")]).view(1, 1, 2, 2)
    assert to_pictures(inputs.expand(1, 2, 2, 2), std=1e30).shape == (1, 2, 2, 3)
    assert to_pictures(inputs).shape == (1, 2, 2, 3)
