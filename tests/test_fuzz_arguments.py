"""Random trees of arguments give a monitor, or an error of ours that names the argument."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]
from fuzz_draws import ODD_NAMES, fuzz
from hypothesis import assume, given
from hypothesis import strategies as st
from jsonargparse import ArgumentError
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser

from lightning_saliency import (
    ConfigurationError,
    Contrast,
    Drift,
    Every,
    GradCAM,
    Grounding,
    IntegratedGradients,
    Output,
    SaliencyMonitor,
    Shape,
    SmoothGrad,
)
from lightning_saliency.attribution import METHODS
from lightning_saliency.measures import MEASURES
from lightning_saliency.targets import TARGETS

DEFAULTS = inspect.signature(SaliencyMonitor).parameters
ARGUMENTS = list(DEFAULTS)

words = st.sampled_from(
    [
        *(*METHODS, *MEASURES, *TARGETS, *ODD_NAMES),
        *("label", "prediction", "previous", "first", "best", "jpeg", "png", "warn", "raise"),
        *("saliensy", "margn", "a/b", ".", "a..b", "os.path.join", "os.no_such", "no_such.x"),
    ]
)
numbers = st.integers(-3, 40) | st.sampled_from([2**31, 2**63, 2**64, 10**400, -(2**63), 0.5, 1e30])
scalars = st.none() | st.booleans() | numbers | words | st.text(max_size=5)
trees = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(words | st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
strange: st.SearchStrategy[Any] = st.sampled_from(
    [float("nan"), float("inf"), b"ab", (), set(), object(), len, GradCAM, 1j, range(3), Shape(len)]
) | st.dictionaries(scalars, trees, max_size=2)

FITTING: dict[str, st.SearchStrategy[Any]] = {
    "methods": st.sampled_from([None, "saliency", ["grad_cam", "saliency"], {"a": "var_grad"}]),
    "probes": st.sampled_from([1, 64, [0, 2]]),
    "target": st.sampled_from(list(TARGETS)),
    "target_class": st.sampled_from(["label", "prediction", 0, 7]),
    "measures": st.sampled_from([None, [], ["gini"], {"a": "blurred"}]),
    "every": st.sampled_from([1, 5]),
    "reference": st.sampled_from(["previous", "first", "best", 0, 100]),
    "input": st.sampled_from([None, 0, "image", "a.b"]),
    "label": st.sampled_from([None, 1, "label"]),
    "mask": st.sampled_from([None, 2, "mask"]),
    "output": st.sampled_from([None, 0, "logits"]),
    "forward": st.sampled_from([None, "backbone"]),
    "seed": st.sampled_from([0, 3, 2**31]),
    "chunk": st.sampled_from([1, 64]),
    "budget": st.sampled_from([None, 0.01]),
    "picture_format": st.sampled_from(["jpeg", "png"]),
    "name": st.sampled_from(["saliency", "a/b", "日本"]),
    "on_error": st.sampled_from(["warn", "raise"]),
}
fitting = st.fixed_dictionaries({}, optional=FITTING)


def tried(make: Callable[[], Any], *kinds: type[Exception]) -> tuple[Any, Exception | None]:
    """What came of it: a value, or an error of one of these kinds."""
    try:
        return make(), None
    except kinds as error:
        return None, error


def told(error: Exception, argument: str) -> bool:
    """Whether an error names the argument; a normalisation is told by its pair."""
    names = {"mean": "mean", "std": "mean"}
    return names.get(argument, argument) in str(error)


@pytest.mark.parametrize("argument", ARGUMENTS)
@fuzz(60)
@given(value=trees | strange, rest=fitting)
def test_one_wrong_argument_is_told_by_its_name(argument: str, value: Any, rest: Any) -> None:
    pair = {"mean": value, "std": value} if argument in ("mean", "std") else {}
    given_arguments = rest | pair | {argument: value}
    monitor, error = tried(lambda: SaliencyMonitor(**given_arguments), ConfigurationError)
    if error is not None:
        assert told(error, argument), error
    else:
        assert monitor.settings.name == given_arguments.get("name", "saliency")


@fuzz(40)
@given(arguments=fitting, name=words | st.text(min_size=1, max_size=9))
def test_fitting_arguments_make_a_monitor_and_a_misspelt_one_does_not(
    arguments: dict[str, Any], name: str
) -> None:
    settings = SaliencyMonitor(**arguments).settings
    for kept in ("name", "probes", "target_class", "reference", "seed", "chunk", "on_error"):
        assert getattr(settings, kept) == arguments.get(kept, DEFAULTS[kept].default)
    if name not in ARGUMENTS:
        with pytest.raises(TypeError, match="unexpected keyword argument"):
            SaliencyMonitor(**arguments | {name: 1})


@pytest.mark.parametrize(
    ("kind", "argument"),
    [
        (SmoothGrad, "samples"),
        (SmoothGrad, "level"),
        (SmoothGrad, "seed"),
        (SmoothGrad, "channels"),
        (IntegratedGradients, "steps"),
        (IntegratedGradients, "baseline"),
        (GradCAM, "layer"),
        (Contrast, "against"),
        (Output, "index"),
        (Every, "n"),
        (Every, "unit"),
        (Every, "start"),
        (Drift, "of"),
        (Drift, "function"),
        (Grounding, "function"),
    ],
)
@fuzz(60)
@given(value=trees | strange)
def test_one_wrong_argument_of_a_part_is_told_by_its_name(
    kind: Any, argument: str, value: Any
) -> None:
    more = {"function": len} if kind is Drift else {}
    made, error = tried(lambda: kind(**more | {argument: value}), ConfigurationError)
    if error is not None:
        assert argument in str(error), error
    else:
        kept = getattr(made, argument)
        listed = argument == "layer" and isinstance(value, list)  # YAML has lists, a value has none
        assert kept is value or (listed and kept in (value[0], tuple(value)))
        assert made == kind(**more | {argument: value})
        hash(made)


@pytest.fixture(scope="module")
def parser() -> LightningArgumentParser:
    """As LightningCLI makes it, but that it raises where a shell would see an exit."""
    made = LightningArgumentParser(exit_on_error=False)
    made.add_lightning_class_args(Trainer, "trainer")
    return made


def instantiate(parser: LightningArgumentParser) -> Any:
    """By its newer name, or by the one that it had before."""
    return getattr(parser, "instantiate", None) or parser.instantiate_classes


def config_of(arguments: Any) -> str:
    callback = {"class_path": "lightning_saliency.SaliencyMonitor", "init_args": arguments}
    trainer = {"logger": False, "enable_checkpointing": False, "callbacks": [callback]}
    return str(yaml.safe_dump({"trainer": trainer}, allow_unicode=True))


CLASSES = {
    "methods": {
        "smooth": {"class_path": "SmoothGrad", "init_args": {"samples": 2}},
        "path": {"class_path": "IntegratedGradients", "init_args": {"baseline": [0.5]}},
    },
    "target": {"class_path": "lightning_saliency.Contrast", "init_args": {"against": 1}},
    "measures": {"m": {"class_path": "Shape", "init_args": {"function": "torch.norm"}}},
    "every": {"n": 2, "unit": "epoch"},
    "mean": [0.5, 0.1],
    "std": [1, 2],
}
with_classes = st.tuples(
    fitting, st.lists(st.sampled_from([*CLASSES]), unique=True, max_size=4)
).map(lambda drawn: drawn[0] | {name: CLASSES[name] for name in drawn[1]})


@fuzz(20)
@given(arguments=with_classes)
def test_a_saved_config_is_read_as_what_was_given(
    parser: LightningArgumentParser, arguments: dict[str, Any]
) -> None:
    first = parser.parse_string(config_of(arguments))
    saved = parser.dump(first)
    again = parser.parse_string(saved)
    assert again == first
    assert parser.dump(again) == saved
    if ("mean" in arguments) == ("std" in arguments):
        made = [
            instantiate(parser)(config).trainer.callbacks[0].settings for config in (first, again)
        ]
        assert made[0] == made[1]


@fuzz(250)
@given(
    argument=st.sampled_from(ARGUMENTS),
    value=st.integers(-9, 3) | words | trees,
    rest=fitting,
    misspelt=st.integers(0, 3).map(lambda drawn: drawn == 0),
)
def test_a_wrong_config_ends_with_an_error_that_names_the_argument(
    parser: LightningArgumentParser, argument: str, value: Any, rest: Any, misspelt: bool
) -> None:
    if misspelt:  # (the parser passes over an unknown key without a value)
        argument, value = argument[:-1] + "X", 1
    written = config_of(rest | {argument: value})
    assume("\\ud800" not in written.lower())  # YAML has no lone surrogates
    read, refused = tried(lambda: parser.parse_string(written), ArgumentError)
    if refused is not None:
        assert argument in str(refused)
        return
    assert not misspelt
    _, error = tried(lambda: instantiate(parser)(read), ValueError)
    assert error is None or told(error, argument), error  # of ours, or of an older parser
