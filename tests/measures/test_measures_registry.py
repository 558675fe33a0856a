"""The table of measures, what a user may write, and the lines that describe them."""

from __future__ import annotations

import dataclasses
import functools
import re
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_saliency.errors import ConfigurationError
from lightning_saliency.measures import (
    DEFAULT_MEASURES,
    MEASURES,
    Drift,
    Grounding,
    Shape,
    Stimulus,
    describe,
    drift,
    resolve_measures,
)


def peak(maps: Tensor) -> Tensor:
    """Largest value of the map, in the map's unit: 0 nothing.

    More.
    """
    return maps.flatten(1).amax(1)


def test_names_become_measures_in_their_order() -> None:
    resolved = resolve_measures(["gini", "cosine"])
    assert list(resolved.items()) == [("gini", MEASURES["gini"]), ("cosine", MEASURES["cosine"])]
    assert resolve_measures("gini") == {"gini": MEASURES["gini"]}
    assert resolve_measures([]) == {}


def test_nothing_means_the_default() -> None:
    assert tuple(resolve_measures(None)) == DEFAULT_MEASURES


def test_a_mapping_gives_own_names_to_own_and_our_measures() -> None:
    own = Shape(peak)
    assert resolve_measures({"peak": own, "spread": "entropy"}) == {
        "peak": own,
        "spread": MEASURES["entropy"],
    }


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (["cosin"], "measures: no measure 'cosin'. Did you mean 'cosine'?"),
        ({"a": "ginni"}, "measures['a']: no measure 'ginni'. Did you mean 'gini'?"),
        ({"a": peak}, "wrap it as Drift(function)"),
        ([3], "no measure 3"),
        ([Shape(peak)], "write measures={'name': …}"),
    ],
)
def test_errors_name_the_argument_the_value_and_the_remedy(spec: Any, words: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        resolve_measures(spec)
    assert words in str(error.value)


def test_a_drift_reads_the_signed_attribution_or_the_map() -> None:
    with pytest.raises(ConfigurationError, match="Did you mean 'signed'"):
        Drift(drift.cosine, of="sigend")  # type: ignore[arg-type]
    signed = {name for name, m in MEASURES.items() if isinstance(m, Drift) and m.of == "signed"}
    assert signed == {"cosine", "signed_pearson", "signed_spearman"}


def test_the_table_and_its_entries_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        MEASURES["mine"] = Shape(peak)  # type: ignore[index]
    with pytest.raises(dataclasses.FrozenInstanceError):
        MEASURES["gini"].function = peak  # type: ignore[misc]


@pytest.mark.parametrize("name", MEASURES)
def test_every_description_is_one_line_with_its_range(name: str) -> None:
    line = describe(name)
    assert "\n" not in line
    assert len(line) < 140
    assert re.search(r"\d to |0 or 1", line)
    assert re.search(r"\b0\b", line), "what 0 means"
    assert describe(MEASURES[name]) == line


def test_a_description_says_what_a_drift_reads() -> None:
    assert describe("pearson").endswith("(map)")
    assert describe("signed_pearson").endswith("(signed attribution, all channels)")


def test_own_functions_are_described_by_their_docstring_or_name() -> None:
    assert describe(Shape(peak)) == "Largest value of the map, in the map's unit: 0 nothing."
    top_tenth = Drift(functools.partial(drift.top_k_iou, share=0.1))
    assert describe(top_tenth) == describe("top_k_iou")

    def bare(maps: Tensor, masks: Tensor) -> Tensor:
        return torch.zeros(len(maps))

    assert describe(Grounding(bare)) == "bare"
    with pytest.raises(ConfigurationError, match="Did you mean 'ssim'"):
        describe("sssim")


@pytest.mark.parametrize(
    "name",
    [3, None, ("a",), "", " a", "a/b", "drift_first", "drift_x_p10", "sanity", "floor_repeat"],
)
def test_names_that_are_no_part_of_a_tag_of_the_users_are_refused(name: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"measures: .* a short word"):
        resolve_measures({name: "entropy"})


@pytest.mark.parametrize("kind", [Drift, Grounding, Shape, Stimulus])
def test_what_is_no_function_is_refused(kind: Any) -> None:
    with pytest.raises(ConfigurationError, match=rf"{kind.__name__}\(function='ssim'\)"):
        kind("ssim")
