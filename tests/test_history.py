"""What a checkpoint brings back depends on what is configured now."""

from __future__ import annotations

from typing import Any

import pytest
from test_memory import after

from lightning_saliency import ConfigurationError
from lightning_saliency.history import History

THEN = {"target": "Margin()", "reference": "best", "methods: a": "Saliency()"}


def loaded() -> History:
    """A history out of the state of another, whose reference is its second observation."""
    memory = after(2)
    first = History()
    first.fits(memory.probes.hash)
    first.keep(memory.with_reference(memory.snapshots["previous"]))
    second = History()
    second.load(first.state(THEN))
    return second


def recalled(**changes: str) -> tuple[dict[str, Any], list[str]]:
    """The snapshots after a recall under changed settings, and what is said of it."""
    history = loaded()
    restored = history.restored()
    assert restored is not None
    told = history.recall(THEN | changes)
    memory = history.get(restored.probes.hash)
    return {} if memory is None else dict(memory.snapshots), told


def test_all_comes_back_under_the_same_settings() -> None:
    snapshots, told = recalled()
    assert list(snapshots) == ["first", "previous", "reference"]
    assert snapshots["first"].series
    assert told == []


def test_another_reference_is_not_the_old_one() -> None:
    snapshots, told = recalled(reference="first")
    assert list(snapshots) == ["first", "previous"]
    assert told == []


def test_another_target_brings_nothing_back() -> None:
    snapshots, told = recalled(target="Logit()")
    assert snapshots == {}
    assert [text.split(" is ")[0] for text in told] == ["target"]


def test_another_method_brings_back_all_but_its_maps() -> None:
    snapshots, told = recalled(**{"methods: a": "GradCAM()"})
    assert not snapshots["first"].series
    assert "starts its drift anew" in told[0]


def test_a_state_is_given_on_until_it_is_recalled() -> None:
    history = loaded()
    assert history.state({})["settings"] == THEN
    history.recall(THEN)
    assert history.restored() is None
    assert History().state(THEN) == {}


def test_a_state_of_another_version_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"version 9.*this is version 1"):
        History().load({"version": 9})
