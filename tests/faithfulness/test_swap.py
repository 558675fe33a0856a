"""Other backgrounds: who meets whom, the very images that are shown, and models that know them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lightning_saliency.attribution import Subject
from lightning_saliency.errors import ConfigurationError
from lightning_saliency.faithfulness import context_swap_gap
from lightning_saliency.faithfulness.swap import other_class

CLASSES = torch.tensor([0, 0, 1, 1, 2, 2])


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def squares(count: int = 6, side: int = 8) -> Tensor:
    """An object in each image, each somewhere else."""
    masks = torch.zeros(count, side, side, dtype=torch.bool)
    for row in range(count):
        masks[row, row % 3 + 1 : row % 3 + 4, 2 : 5 + row % 2] = True
    return masks


class Seeing(nn.Module):
    """Its scores are sums of one half of the image; it writes down what it is shown."""

    def __init__(self, rows: slice = slice(None)) -> None:
        super().__init__()
        self.rows, self.shown = rows, list[Tensor]()
        self.factor = nn.Parameter(torch.ones(3))

    def forward(self, inputs: Tensor) -> Tensor:
        self.shown.append(inputs.detach().clone())
        return inputs[:, :, self.rows].flatten(1).sum(1, keepdim=True) * self.factor.cumsum(0)


# Who meets whom


@settings(deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=40), st.integers(0, 99))
def test_each_is_met_once_and_by_another_class_where_no_class_has_the_most(
    classes: list[int], seed: int
) -> None:
    targets = torch.tensor(classes)
    found = other_class(targets, seed)
    assert sorted(found.tolist()) == list(range(len(classes)))
    largest = max(classes.count(one) for one in classes)
    own = int((targets[found] == targets).sum())
    assert own == max(0, 2 * largest - len(classes))


def test_partners_are_the_same_each_time_and_others_by_another_seed() -> None:
    targets, before = torch.arange(60) % 5, torch.get_rng_state()
    found = other_class(targets, 3)
    assert found.equal(other_class(targets, 3))
    assert not found.equal(other_class(targets, 4))
    assert torch.equal(torch.get_rng_state(), before)
    steps = {int((other_class(targets, seed)[0] - 0) % 60) for seed in range(40)}
    assert len(steps) > 10


# What is shown


def swapped(inputs: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """What a model is shown, and the partners."""
    model = Seeing().to(inputs.dtype)
    context_swap_gap(model, inputs, CLASSES[: len(inputs)], masks)
    own, other = model.shown
    assert torch.equal(own, inputs)
    return other, other_class(CLASSES[: len(inputs)], 0)


def test_objects_keep_their_pixels_on_painted_backgrounds() -> None:
    inputs, masks = noise(6, 3, 8, 8), squares()
    found, partner = swapped(inputs, masks)
    for row in range(6):
        scene, covered = inputs[partner[row]], masks[partner[row]]
        assert found[row][:, masks[row]].equal(inputs[row][:, masks[row]])
        around = ~masks[row] & ~covered
        assert found[row][:, around].equal(scene[:, around])
        colour = scene[:, ~covered].mean(1)
        painted = found[row][:, ~masks[row] & covered]
        torch.testing.assert_close(painted, colour[:, None].expand_as(painted))


def test_half_precision_paints_large_images_in_their_colour() -> None:
    inputs = (0.5 + noise(4, 1, 300, 300) / 100).half()
    masks = torch.zeros(4, 300, 300, dtype=torch.bool)
    masks[0::2, :50], masks[1::2, -50:] = True, True
    targets, model = torch.tensor([0, 1, 0, 1]), Seeing(slice(0, 1)).half()
    context_swap_gap(model, inputs, targets, masks)
    painted = model.shown[1].float()[~masks[:, None]]
    assert ((painted > 0.49) & (painted < 0.52)).all()


@pytest.mark.parametrize("kind", ["bytes", "shares"])
def test_masks_are_bytes_or_shares_as_well(kind: str) -> None:
    inputs, masks = noise(6, 3, 8, 8), squares()
    given = masks.byte() * 255 if kind == "bytes" else masks * 0.6 + 0.3
    wanted = context_swap_gap(Seeing(), inputs, CLASSES, masks)
    assert wanted.isfinite().all()
    assert context_swap_gap(Seeing(), inputs, CLASSES, given).equal(wanted)


# The gap


def test_where_all_backgrounds_are_alike_there_is_no_gap() -> None:
    inputs, masks = noise(6, 3, 8, 8), squares()
    inputs = torch.where(masks[:, None], inputs, 0.25)
    found = context_swap_gap(Seeing(), inputs, CLASSES, masks)
    assert found.tolist() == [0] * 6


def test_a_model_that_reads_the_background_alone_has_all_of_it_as_its_gap() -> None:
    inputs, masks = noise(6, 1, 8, 8), squares()
    model = Seeing(slice(7, 8))  # no object is there
    found = context_swap_gap(model, inputs, CLASSES, masks)
    (own, other), partner = model.shown, other_class(CLASSES, 0)
    assert other[:, :, 7:].equal(inputs[partner][:, :, 7:])

    def margin(images: Tensor) -> Tensor:
        return Subject(model).target(model(images), CLASSES)

    torch.testing.assert_close(found, (margin(own) - margin(inputs[partner])).detach())
    assert found.abs().amin() > 1e-3


def test_a_model_that_reads_the_object_alone_has_none() -> None:
    masks = torch.zeros(6, 8, 8, dtype=torch.bool)
    masks[:, :4] = True
    found = context_swap_gap(Seeing(slice(0, 4)), noise(6, 1, 8, 8), CLASSES, masks)
    assert found.tolist() == [0] * 6
    assert context_swap_gap(Seeing(), noise(6, 1, 8, 8), CLASSES, masks).abs().amin() > 0


def test_the_gap_is_in_the_units_of_the_target() -> None:
    inputs, masks, model = noise(6, 1, 8, 8), squares(), Seeing()

    def third(outputs: Tensor, classes: Tensor) -> Tensor:
        return 100 * outputs[:, 2]

    found = context_swap_gap(Subject(model, third), inputs, CLASSES, masks)
    own, other = model.shown
    torch.testing.assert_close(found, 300 * (own - other).flatten(1).sum(1), rtol=1e-4, atol=1e-2)


def test_a_share_of_the_probes_in_chunks_of_any_size() -> None:
    inputs, masks = noise(6, 3, 8, 8), squares()
    whole = context_swap_gap(Seeing(), inputs, CLASSES, masks)
    for chunk in (1, 4):
        found = context_swap_gap(Seeing(), inputs, CLASSES, masks, share=[4, 1, 5], chunk=chunk)
        torch.testing.assert_close(found, whole[[4, 1, 5]])


def test_without_a_mask_or_a_partner_there_is_no_gap() -> None:
    inputs, masks = noise(6, 3, 8, 8), squares()
    masks[1], masks[4] = False, True
    partner = other_class(CLASSES, 0).tolist()
    lost = [row in (1, 4) or partner[row] in (1, 4) for row in range(6)]
    assert context_swap_gap(Seeing(), inputs, CLASSES, masks).isnan().tolist() == lost
    assert sum(lost) < 6
    most = torch.tensor([0, 0, 0, 0, 1, 2])
    found = context_swap_gap(Seeing(), inputs, most, squares())
    assert int(found.isnan().sum()) == 2
    assert context_swap_gap(Seeing(), inputs, torch.zeros(6).long(), squares()).isnan().all()


@pytest.mark.parametrize("shape", [(6, 1, 8, 8), (5, 8, 8), (6, 8, 7)])
def test_masks_that_do_not_fit_are_told(shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigurationError, match="give one per probe, of the same size"):
        context_swap_gap(Seeing(), noise(6, 3, 8, 8), CLASSES, torch.ones(shape))
