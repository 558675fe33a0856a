"""The intervention: closed forms of a linear model, an exact test, p-values that are uniform."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from scipy.stats import kstest
from torch import Tensor, nn

from lightning_saliency.alerts.cells import cell_grid, cell_mask, cell_mass
from lightning_saliency.attribution import Subject
from lightning_saliency.errors import ConfigurationError
from lightning_saliency.intervention import (
    DRAWS,
    GIVEN,
    Intervention,
    _chosen,
    exchange_p,
    intervene,
)
from lightning_saliency.targets import Logit

SIDE, CLASSES = 6, 3


class Linear(nn.Module):
    """Scores that are sums of pixels by weights `(classes, 1, side, side)`."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.weights = nn.Parameter(weights)

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("nchw,kchw->nk", x, self.weights)


def draw(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def corner() -> Tensor:
    return cell_mask((SIDE, SIDE), (3, 3), [0])


def subject(weights: Tensor) -> Subject:
    return Subject(Linear(weights), target=Logit())


def examples(n: int = 24, seed: int = 0) -> tuple[Tensor, Tensor]:
    return draw(n, 1, SIDE, SIDE, seed=seed), torch.arange(n) % CLASSES


def planted(n: int = 24, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Examples whose corner holds their class, and nothing else does."""
    inputs, classes = examples(n, seed)
    return torch.where(corner(), classes.view(-1, 1, 1, 1).double(), inputs), classes


def reading(region: Tensor, size: float = 1.0) -> Tensor:
    """Weights by which the class whose number stands in the region wins, by `size`."""
    weights = 0.001 * draw(CLASSES, 1, SIDE, SIDE, seed=5)
    slope = torch.tensor([-1.0, 0.0, 1.0]).double().view(-1, 1, 1, 1)
    return torch.where(region, size * slope, weights)


def test_scores_are_those_of_the_changed_inputs() -> None:
    inputs, classes = examples()
    weights = draw(CLASSES, 1, SIDE, SIDE, seed=3)
    found = intervene(subject(weights), inputs, classes, corner(), seed=7, chunk=5)
    own = torch.einsum("nchw,nchw->n", inputs, weights[classes])
    torch.testing.assert_close(found.scores[:, 0], own)
    part, around = weights[classes, 0, :2, :2], ~corner()
    mean = inputs[:, 0, around].mean(1)
    fall = ((inputs[:, 0, :2, :2] - mean.view(-1, 1, 1)) * part).sum((1, 2))
    torch.testing.assert_close(found.scores[:, 1], own - fall)
    chosen, _ = _chosen(classes, classes, 7)
    for given in range(GIVEN):
        change = ((inputs[:, 0, :2, :2] - inputs[chosen[:, given], 0, :2, :2]) * part).sum((1, 2))
        torch.testing.assert_close(found.scores[:, 2 + given], own - change)
    falls = found.scores[:, 0].mean() - found.scores[:, 1:].mean(0)
    assert found.falls == pytest.approx((float(falls[0]), float(falls[1:].mean())))


def test_pictures_are_the_inputs_but_for_the_region() -> None:
    inputs, classes = examples()
    found = intervene(subject(draw(CLASSES, 1, SIDE, SIDE)), inputs, classes, corner())
    around = ~corner()
    for changed in (found.covered, found.swapped):
        assert changed[..., around].equal(inputs[..., around])
        assert (changed[..., corner()] != inputs[..., corner()]).all()
    held = found.swapped[:, 0, :2, :2].flatten(1)
    assert all((row == inputs[:, 0, :2, :2].flatten(1)).all(1).any() for row in held)


def test_a_model_that_does_not_look_there_loses_nothing() -> None:
    inputs, classes = examples()
    weights = draw(CLASSES, 1, SIDE, SIDE) * ~corner()
    found = intervene(subject(weights), inputs, classes, corner())
    assert found.falls == pytest.approx((0, 0), abs=1e-12)
    assert found.p == 1
    assert not found.relies
    assert "no sign that the model relies on it" in found.words()
    assert found.right[0] == found.right[1] == found.right[2]


def test_a_model_that_reads_the_class_there_is_found_out() -> None:
    inputs, classes = planted()
    elsewhere = [cell_mask((SIDE, SIDE), (3, 3), [cell]) for cell in (4, 8)]
    found = intervene(
        subject(reading(corner())), inputs, classes, corner(), ordinary=elsewhere, chunk=7
    )
    assert found.p == 1 / (DRAWS + 1)
    assert found.relies
    assert found.falls[1] > 1 > 10 * abs(found.elsewhere)
    assert "p < 1e-04: **the model relies on it.**" in found.words()
    assert found.right[0] > found.right[2] + 0.1


def test_a_few_examples_among_many_suffice() -> None:
    """One donor in six carries it, as in a training of which a part was tampered with."""
    inputs, classes = examples(150)
    donors = inputs[:6] * ~corner()
    donors[0, :, :2, :2] = 2.0
    weights = reading(corner(), 5.0)
    given = donors, torch.full((6,), 2)
    found = intervene(subject(weights), inputs * ~corner(), classes, corner(), donors=given)
    assert found.relies


def test_contents_that_say_nothing_of_the_class_give_uniform_p() -> None:
    """The model reads the region; its contents were drawn without regard to the class."""
    found = []
    for seed in range(250):
        inputs, classes = examples(18, seed)
        weights = draw(CLASSES, 1, SIDE, SIDE, seed=10_000 + seed)
        found.append(intervene(subject(weights), inputs, classes, corner(), seed=seed).p)
    assert kstest(found, "uniform").pvalue > 0.01
    rejected = sum(p < 0.05 for p in found) / len(found)
    assert 0.02 <= rejected <= 0.08
    assert any(p < 0.05 for p in found)


def test_p_is_the_share_of_all_choices() -> None:
    values = draw(5, 3, seed=4)
    sums = torch.tensor(
        [
            sum(float(values[row, column]) for row, column in enumerate(choice))
            for choice in product(range(3), repeat=5)
        ]
    )
    exact = float((sums >= float(values[:, 0].sum()) - 1e-9).double().mean())
    assert exchange_p(values) == pytest.approx(exact, abs=3 * (exact * (1 - exact) / DRAWS) ** 0.5)
    assert exchange_p(values + 1e6 * draw(5, 1, seed=9)) == pytest.approx(exact, abs=0.02)


def test_rows_without_a_number_count_for_nothing() -> None:
    values = draw(5, 3, seed=4)
    lost = torch.cat([values, torch.tensor([[float("nan"), 0, 0], [0, float("inf"), 0]])])
    assert exchange_p(lost) == exchange_p(values)
    assert exchange_p(lost[5:]) != exchange_p(lost[5:])


def test_equal_contents_are_no_evidence() -> None:
    assert exchange_p(torch.full((9, 5), 0.1)) == 1
    assert exchange_p(torch.full((9, 5), 1e30) / 3) == 1


def test_donors_are_of_other_classes_and_none_comes_twice() -> None:
    classes = torch.arange(20) % 4
    chosen, apart = _chosen(classes, classes, 3)
    assert apart.all()
    assert chosen.shape == (20, GIVEN)
    assert (classes[chosen] != classes[:, None]).all()
    assert all(len(set(row)) == GIVEN for row in chosen.tolist())
    assert not chosen.equal(_chosen(classes, classes, 4)[0])
    few, apart = _chosen(classes, torch.tensor([0, 1]), 0)
    assert set(few[classes == 0].flatten().tolist()) == {1}
    assert apart.all()


def test_examples_of_the_only_class_of_the_donors_are_left_out() -> None:
    inputs, classes = planted()
    given = inputs[classes == 2], classes[classes == 2]
    found = intervene(subject(reading(corner())), inputs, classes, corner(), donors=given)
    assert found.scores.isnan().all(1).equal(classes == 2)
    assert found.relies
    alike = torch.zeros_like(classes)
    found = intervene(subject(reading(corner())), inputs, alike, corner())
    assert found.scores.isfinite().all()


def test_the_cut_into_chunks_changes_nothing() -> None:
    inputs, classes = planted()
    seen = [
        intervene(subject(reading(corner())), inputs, classes, corner(), chunk=chunk)
        for chunk in (1, 5, 64)
    ]
    for other in seen[1:]:
        torch.testing.assert_close(other.scores, seen[0].scores)
        assert other.p == seen[0].p


@pytest.mark.parametrize("spatial", [(28, 28), (10, 7), (30,), (8, 9, 10)])
def test_cells_part_an_input_among_themselves(spatial: tuple[int, ...]) -> None:
    grid = cell_grid(spatial, 4)
    count = int(torch.tensor(grid).prod())
    masks = torch.stack([cell_mask(spatial, grid, [cell]) for cell in range(count)])
    assert (masks.sum(0) == 1).all()
    assert masks.flatten(1).any(1).all()
    assert cell_mask(spatial, grid, [0, 2]).equal(masks[0] | masks[2])


def test_a_mask_is_where_the_mass_of_its_cell_is() -> None:
    masks = torch.stack([cell_mask((28, 14), (7, 7), [cell]) for cell in range(49)])
    assert cell_mass(masks.float(), 7).equal(torch.eye(49))


@pytest.mark.parametrize(
    ("inside", "donors", "word"),
    [
        (torch.ones(3, 3, dtype=torch.bool), None, r"region \(3, 3\)"),
        (None, (torch.zeros(2, 1, 9, 9), torch.zeros(2)), r"donors \(2, 1, 9, 9\)"),
    ],
)
def test_what_does_not_fit_is_told(
    inside: Tensor | None, donors: tuple[Tensor, Tensor] | None, word: str
) -> None:
    inputs, classes = examples()
    region = corner() if inside is None else inside
    with pytest.raises(ConfigurationError, match=word):
        intervene(subject(draw(3, 1, 6, 6)), inputs, classes, region, donors=donors)


def test_words_say_what_was_lost() -> None:
    scores = torch.tensor([[4.0, 3.0, 1.0, 1.0, 1.0, 1.0]])
    found = Intervention(scores, (0.98, 0.9, 0.41), 0.1, 0.2, scores, scores)
    assert found.words() == (
        "Exchanged between examples of different classes, what it holds takes 3 from the score "
        "(elsewhere 0.1) and leaves 41% of the predictions right of 98%; covered, 1 and 90%. "
        "p = 0.2: no sign that the model relies on it."
    )
