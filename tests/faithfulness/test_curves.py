"""Insertion and deletion: closed forms on linear models, and the very images that are shown."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor, nn

from lightning_saliency.attribution import Subject
from lightning_saliency.errors import ConfigurationError
from lightning_saliency.faithfulness import Faithful, Faithfulness, faithfulness
from lightning_saliency.targets import Margin, Output, Region

BLACK = Faithfulness(steps=7, insertion=0.0, deletion=0.0)


def noise(*shape: int, seed: int = 0) -> Tensor:
    """In 0.1 to 1: hiding a pixel always takes something."""
    generator = torch.Generator().manual_seed(seed)
    return 0.1 + 0.9 * torch.rand(*shape, generator=generator, dtype=torch.float64)


class Linear(nn.Module):
    """The probability of class 0 is linear in the image."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        weight = noise(*shape, seed=9)
        self.weight = nn.Parameter(weight / weight.sum())

    def share(self, inputs: Tensor) -> Tensor:
        """Of each pixel in that probability, `(N, *spatial)`."""
        return (inputs * self.weight).detach().sum(1)

    def forward(self, inputs: Tensor) -> Tensor:
        probability = (inputs * self.weight).flatten(1).sum(1)
        return torch.stack([probability, 1 - probability], 1).log()


class Seeing(nn.Module):
    """Writes down what it is shown; its probability depends on the sum."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: list[Tensor] = []
        self.factor = nn.Parameter(torch.tensor(0.1))

    def forward(self, inputs: Tensor) -> Tensor:
        self.shown.append(inputs.detach().clone())
        total = self.factor * inputs.flatten(1).sum(1)
        return torch.stack([total, -total], 1)


def zeros(count: int) -> Tensor:
    return torch.zeros(count, dtype=torch.long)


def areas(found: Faithful) -> tuple[Tensor, Tensor]:
    """Those of the maps themselves."""
    return found.insertion + found.insertion_chance, found.deletion + found.deletion_chance


# Linear models


@pytest.mark.parametrize("shape", [(1, 40), (3, 6, 7), (2, 3, 4, 5)])
@pytest.mark.parametrize("steps", [1, 7, 1000])
def test_of_a_linear_model_the_areas_have_a_closed_form(shape: tuple[int, ...], steps: int) -> None:
    model, inputs, order = Linear(*shape), noise(5, *shape), noise(5, *shape[1:], seed=1)
    how = Faithfulness(steps=steps, insertion=0.3, deletion=(0.2,) * shape[0])
    found = faithfulness(model, {"map": order}, inputs, zeros(5), how)["map"]
    places = order[0].numel()
    at = np.unique([step * places // steps for step in range(steps + 1)])
    for row, expected in enumerate(zip(*areas(found), strict=True)):
        ranked = order[row].flatten().argsort(descending=True)
        for area, (start, end) in zip(
            expected,
            ((torch.full_like(inputs, 0.3), inputs), (inputs, 0 * inputs + 0.2)),
            strict=True,
        ):
            one, other = (model.share(image)[row].flatten()[ranked] for image in (start, end))
            gained = torch.cat([torch.zeros(1, dtype=torch.float64), (other - one).cumsum(0)])
            curve = (one.sum() + gained)[at] / model.share(inputs)[row].sum()
            assert area.item() == pytest.approx(
                torch.trapezoid(curve, torch.tensor(at)).item() / places
            )


def test_what_is_shown_on_black_is_what_is_missing_when_it_is_hidden() -> None:
    model, inputs = Linear(3, 6, 7), noise(8, 3, 6, 7)
    maps = {"any": noise(8, 6, 7, seed=1), "coarse": noise(8, 3, 2, seed=2)}
    for found in faithfulness(model, maps, inputs, zeros(8), BLACK).values():
        torch.testing.assert_close(found.insertion, -found.deletion)
        torch.testing.assert_close(found.insertion_chance, 1 - found.deletion_chance)
        assert found.insertion.abs().amin() > 1e-4


def test_no_map_is_better_than_the_truth_and_its_reverse_is_worst() -> None:
    model, inputs = Linear(1, 6, 7), noise(20, 1, 6, 7)
    share = model.share(inputs)
    maps = {"truth": share, "noise": noise(20, 6, 7, seed=1), "reverse": -share}
    found = faithfulness(model, maps, inputs, zeros(20), BLACK)
    assert (found["truth"].insertion > found["noise"].insertion).all()
    assert (found["noise"].insertion > found["reverse"].insertion).all()
    assert (found["truth"].deletion < 0).all()
    assert (found["reverse"].deletion > 0).all()


def test_a_map_of_noise_is_no_better_than_chance() -> None:
    model, inputs = Linear(1, 6, 7), noise(300, 1, 6, 7)
    maps = {"noise": noise(300, 6, 7, seed=1)}
    found = faithfulness(model, maps, inputs, zeros(300), BLACK, chunk=300)["noise"]
    for one in (found.insertion, found.deletion):
        assert one.mean().abs() < 4 * one.std() / 300**0.5
    assert (found.insertion_chance - 0.5).abs().mean() < 0.1


# What is shown


def shown(maps: Tensor, inputs: Tensor, how: Faithfulness) -> list[Tensor]:
    """The images that the model sees of one method."""
    model = Seeing().to(inputs.dtype)
    faithfulness(model, {"map": maps}, inputs, zeros(len(inputs)), how)
    return model.shown


def test_passes_are_as_many_as_is_said() -> None:
    for steps in (1, 4):
        model, inputs = Seeing().double(), noise(3, 1, 6, 6)
        maps = {"a": noise(3, 6, 6), "b": noise(3, 6, 6, seed=1), "c": noise(3, 3, 3)}
        how = Faithfulness(steps=steps)
        faithfulness(model, maps, inputs, zeros(3), how)
        methods, resolutions = 3, 2
        assert len(model.shown) == 2 * (steps - 1) * (methods + resolutions) + 3


def test_places_come_and_go_from_the_highest_value_down() -> None:
    inputs = noise(2, 2, 4, 4)
    order = torch.stack([torch.randperm(16), torch.randperm(16)])
    maps = (-order).double().view(2, 4, 4)  # the rank is the number
    how = Faithfulness(steps=4, insertion=-1.0, deletion=(-2.0, -3.0))
    images = shown(maps, inputs, how)
    whole, nothing, hidden = images[:3]
    # Those of the random order come first.
    first = images[3 + 6 :]
    assert torch.equal(whole, inputs)
    assert torch.equal(nothing, torch.full_like(inputs, -1))
    assert torch.equal(hidden[:, 0], torch.full_like(inputs[:, 0], -2))
    assert torch.equal(hidden[:, 1], torch.full_like(inputs[:, 1], -3))
    for index, count in enumerate((4, 8, 12)):
        chosen = (order < count).view(2, 1, 4, 4)
        assert torch.equal(first[index], torch.where(chosen, inputs, nothing))
        assert torch.equal(first[index + 3], torch.where(chosen, hidden, inputs))


def test_the_null_is_a_random_order_of_each_probe_the_same_each_time() -> None:
    inputs, maps = noise(2, 1, 5, 5), noise(2, 5, 5, seed=1)
    one, other = (shown(maps, inputs, BLACK)[3:15] for _ in range(2))
    assert all(torch.equal(*pair) for pair in zip(one, other, strict=True))
    here, there = (one[0] == 0)[:, 0]
    assert not torch.equal(here, there)
    assert [int((image[0] == 0).sum()) for image in one[:6]] == [22, 18, 15, 11, 8, 4]
    another = shown(maps, inputs, Faithfulness(steps=7, insertion=0.0, deletion=0.0, seed=1))[3:15]
    assert not torch.equal(one[0], another[0])


def test_ties_fall_in_the_random_order() -> None:
    inputs = noise(2, 1, 5, 5)
    maps = torch.zeros(2, 5, 5, dtype=torch.float64)
    maps[:, 2, 3] = 1
    random, own = (shown(maps, inputs, BLACK)[begin : begin + 6] for begin in (3, 15))
    for one, other in zip(random, own, strict=True):
        changed = one != other  # the peak came first, and pushed out at most the last
        assert (changed.flatten(1).sum(1) <= 2).all()
        assert other[:, 0, 2, 3].equal(inputs[:, 0, 2, 3])


def test_a_coarse_map_uncovers_what_it_covers() -> None:
    inputs = torch.ones(1, 1, 8, 8, dtype=torch.float64)
    maps = torch.tensor([[[1.0, 4.0], [3.0, 2.0]]])
    images = shown(maps, inputs, Faithfulness(steps=4, insertion=0.0, deletion=0.0))
    blocks = [image[0, 0, ::4, ::4] for image in images[9:12]]
    expected = [[[0, 1], [0, 0]], [[0, 1], [1, 0]], [[0, 1], [1, 1]]]
    assert [block.tolist() for block in blocks] == expected
    for image, block in zip(images[9:12], blocks, strict=True):
        assert torch.equal(image[0, 0], block.repeat_interleave(4, 0).repeat_interleave(4, 1))
    # Where sides don't divide, an edge is uncovered in part; finer maps than the image, too.
    for side in (3, 16):
        fine = shown(noise(1, side, side), inputs, Faithfulness(steps=3, insertion=0.0))
        for image in fine[3:5]:
            count = round(float(image.mean()) * side**2)
            assert count == pytest.approx(float(image.mean()) * side**2)
            assert 0 < count < side**2


@pytest.mark.parametrize("sigma", [None, 0.7])
def test_the_blur_is_scipys_with_nothing_outside(sigma: float | None) -> None:
    inputs = noise(2, 3, 16, 24)
    image = shown(noise(2, 16, 24), inputs, Faithfulness(sigma=sigma))[1]
    width = 24 / 8 if sigma is None else sigma
    weight = ndimage.gaussian_filter(np.ones((16, 24)), width, mode="constant")
    for one, other in zip(inputs.flatten(0, 1).numpy(), image.flatten(0, 1).numpy(), strict=True):
        blurred = ndimage.gaussian_filter(one, width, mode="constant")
        np.testing.assert_allclose(other, blurred / weight, rtol=1e-8)


def test_of_an_image_that_a_blur_leaves_alone_nothing_is_learned() -> None:
    inputs = torch.full((2, 3, 9, 9), 0.7, dtype=torch.float64)
    found = faithfulness(
        Linear(3, 9, 9), {"map": noise(2, 9, 9)}, inputs, zeros(2), Faithfulness(deletion="blur")
    )["map"]
    for one in found:
        assert one.allclose((one > 0.5).double())  # chance: all of the area
    assert found.insertion_chance.allclose(torch.ones(2, dtype=torch.float64))


# Laws of the whole


def test_neither_chunks_nor_company_change_a_number() -> None:
    model, inputs, maps = Linear(1, 6, 7), noise(7, 1, 6, 7), {"map": noise(7, 6, 7, seed=1)}
    before = torch.get_rng_state()
    whole = faithfulness(model, maps, inputs, zeros(7), BLACK)["map"]
    for chunk in (1, 3):
        found = faithfulness(model, maps, inputs, zeros(7), BLACK, chunk=chunk)["map"]
        for one, other in zip(found, whole, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
    seeing = Seeing().double()
    faithfulness(seeing, maps, inputs, zeros(7), BLACK, chunk=3)
    assert {len(one) for one in seeing.shown} == {1, 3}
    last = {"x": maps["map"][0:4], "map": maps["map"][3:]}
    found = faithfulness(model, last, inputs[3:], zeros(4), BLACK, first=3)["map"]
    torch.testing.assert_close(found.insertion, whole.insertion[3:], rtol=0, atol=1e-12)
    torch.testing.assert_close(found.deletion_chance, whole.deletion_chance[3:], rtol=0, atol=1e-12)
    assert torch.equal(torch.get_rng_state(), before)


def test_memory_that_runs_out_makes_chunks_smaller() -> None:
    class Narrow(Linear):
        def forward(self, inputs: Tensor) -> Tensor:
            if len(inputs) > 2:
                raise torch.OutOfMemoryError("out of memory")
            return super().forward(inputs)

    inputs, maps = noise(7, 1, 6, 7), {"map": noise(7, 6, 7, seed=1)}
    wanted = faithfulness(Linear(1, 6, 7), maps, inputs, zeros(7), BLACK)["map"]
    found = faithfulness(Narrow(1, 6, 7), maps, inputs, zeros(7), BLACK)["map"]
    torch.testing.assert_close(found.insertion, wanted.insertion, rtol=0, atol=1e-12)


def test_an_undefined_map_has_no_number_and_changes_no_other() -> None:
    model, inputs, maps = Linear(1, 6, 7), noise(5, 1, 6, 7), noise(5, 6, 7, seed=1)
    wanted = faithfulness(model, {"map": maps}, inputs, zeros(5), BLACK)["map"]
    maps[1], maps[2, 0, 0], maps[3, 0, 0] = 0.3, torch.nan, torch.inf
    found = faithfulness(model, {"map": maps}, inputs, zeros(5), BLACK)["map"]
    for one, other in zip(found, wanted, strict=True):
        assert one.isnan().tolist() == [False, True, True, True, False]
        assert one[[0, 4]].equal(other[[0, 4]])


def test_a_class_without_probability_has_no_number() -> None:
    class Blinded(Linear):
        """By images that are all there."""

        def forward(self, inputs: Tensor) -> Tensor:
            whole = (inputs > 0).flatten(1).all(1)
            return super().forward(inputs) - 1e4 * torch.stack([whole, torch.zeros_like(whole)], 1)

    maps, inputs = {"map": noise(3, 6, 7)}, noise(3, 1, 6, 7)
    found = faithfulness(Blinded(1, 6, 7), maps, inputs, zeros(3), BLACK)["map"]
    assert all(one.isnan().all() for one in found)


def summed(outputs: Tensor, classes: Tensor) -> Tensor:
    return outputs.flatten(1).sum(1)


@pytest.mark.parametrize("target", [Output(), Region(), summed])
def test_what_tells_no_classes_costs_no_pass_and_has_no_number(target: Callable[..., Any]) -> None:
    model, inputs = Seeing().double(), noise(3, 1, 6, 7)
    subject = Subject(model, target)
    found = faithfulness(subject, {"map": noise(3, 6, 7)}, inputs, zeros(3), BLACK)["map"]
    assert model.shown == []
    assert all(one.shape == (3,) and one.isnan().all() for one in found)
    faithfulness(Subject(model, Margin()), {"map": noise(3, 6, 7)}, inputs, zeros(3), BLACK)
    assert model.shown


def test_half_precision_is_near_and_small_numbers_are_not_lost() -> None:
    model, inputs, maps = Linear(1, 6, 7), noise(5, 1, 6, 7), {"map": noise(5, 6, 7, seed=1)}
    wanted = faithfulness(model, maps, inputs, zeros(5), BLACK)["map"].insertion
    found = faithfulness(model.bfloat16(), maps, inputs.bfloat16(), zeros(5), BLACK)["map"]
    assert found.insertion.dtype == torch.float32
    assert (found.insertion - wanted).abs().amax() < 0.05


# Words


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"steps": 0}, r"Faithfulness\(steps=0\): give at least 1"),
        ({"seed": -1}, r"Faithfulness\(seed=-1\)"),
        ({"sigma": 0}, r"Faithfulness\(sigma=0\): give a number from"),
        ({"insertion": "blurr"}, r"Faithfulness\(insertion='blurr'\): give 'blur', a number"),
        ({"deletion": ()}, r"Faithfulness\(deletion=\(\)\): give 'blur', a number"),
        ({"deletion": float("nan")}, r"Faithfulness\(deletion=nan\)"),
    ],
)
def test_wrong_settings_are_told(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        Faithfulness(**given)


def test_a_list_of_a_config_is_one_number_per_channel() -> None:
    listed: Any = [0.1, 0.2]
    assert Faithfulness(deletion=listed) == Faithfulness(deletion=(0.1, 0.2))
    words = r"Faithfulness\(deletion=\(0.1, 0.2\)\) has 2 numbers, the inputs have 1 channels"
    with pytest.raises(ConfigurationError, match=words):
        faithfulness(
            Linear(1, 4, 4),
            {"map": noise(1, 4, 4)},
            noise(1, 1, 4, 4),
            zeros(1),
            Faithfulness(deletion=listed),
        )


@pytest.mark.parametrize("shape", [(2, 4, 4), (3, 1, 4, 4)])
def test_maps_that_do_not_fit_are_told(shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigurationError, match=r"maps\['mine'\] has the shape"):
        faithfulness(Linear(1, 4, 4), {"mine": noise(*shape)}, noise(3, 1, 4, 4), zeros(3))
