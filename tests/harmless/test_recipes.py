"""The comparison of the matrix catches what people do: it can see what it says is not there."""

from __future__ import annotations

import pytest
from harmless_recipes import RECIPES, caught

pytestmark = [
    pytest.mark.filterwarnings("ignore:Found 1 module.s. in eval mode at the start of training"),
    # What the libraries do is what is shown here.
    pytest.mark.filterwarnings("ignore:Setting forward, backward hooks and attributes on"),
]

OTHERS = {"buffers", "flags", "hooks", "gradients", "optimizers", "streams", "batches", "metrics"}
"""What a recipe may change besides the weights."""


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_moves_the_weights_while_gradients_accumulate(name: str) -> None:
    found = caught(name, "accumulate")
    assert 1e-4 < found["weights"] < float("inf"), f"max |Δ| {found}"
    assert found.keys() <= OTHERS | {"weights"}


LEFT = (
    {"hooks", "gradients", "metrics"},
    {"metrics"},
    {"weights", "flags", "streams"},
    {"weights", "flags", "buffers"},
    {"weights", "streams", "batches"},
    {"weights", "buffers", "streams"},
)
"""What each leaves where nothing accumulates; some of them do not move the weights there."""


@pytest.mark.parametrize(("name", "left"), list(zip(RECIPES, LEFT, strict=True)))
def test_what_a_recipe_leaves_in_plain_training_is_seen(name: str, left: set[str]) -> None:
    found = caught(name, "plain")
    assert found.keys() >= left, f"max |Δ| {found}"
    assert ("weights" in found) == ("weights" in left)
