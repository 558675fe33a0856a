"""Measures: maps -> one number per probe, and the table of the ones that are ours by name.

A measure is a function wrapped in the value that says what it reads: `Drift` two observations,
`Shape` one map, `Grounding` a map and a mask, `Stimulus` a map and its image. All are batched,
(N, ...) -> (N,), and NaN marks a probe for which the number is undefined.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

from lightning_saliency.errors import ConfigurationError, did_you_mean
from lightning_saliency.measures import context, drift, grounding, places, shape, stimulus

__all__ = [
    "DEFAULT_MEASURES",
    "MEASURES",
    "Drift",
    "Grounding",
    "Measure",
    "MeasureName",
    "Shape",
    "Stimulus",
    "describe",
    "resolve_measures",
]


class _Reading:
    """What all four are: with it, a config's class path says which; without, equal fields do.

    Their functions are of any signature there, so that one without annotations may be named.
    """

    function: Callable[..., Any]

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise ConfigurationError(
                f"{type(self).__name__}(function={self.function!r}): give a function of your own."
            )


@dataclass(frozen=True)
class Drift(_Reading):
    """A distance between two observations of the same probes: `function(now, then) -> (N,)`.

    `of` says what is observed: `"map"`, the maps (N, *spatial), or `"signed"`, the signed
    attribution with all channels (N, C, *spatial).
    """

    function: Callable[..., Any]
    of: Literal["signed", "map"] = "map"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.of not in ("signed", "map"):
            raise ConfigurationError(f"of={self.of!r}: {did_you_mean(self.of, ('signed', 'map'))}")


@dataclass(frozen=True)
class Shape(_Reading):
    """A property of one map: `function(maps) -> (N,)`."""

    function: Callable[..., Any]


@dataclass(frozen=True)
class Grounding(_Reading):
    """Agreement of a map with a mask, of any resolution: `function(maps, masks) -> (N,)`."""

    function: Callable[..., Any]


@dataclass(frozen=True)
class Stimulus(_Reading):
    """What of a map its image explains: `function(maps, images) -> (N,)`.

    Images (N, C, *spatial) are the probes as a person knows them, at any resolution.
    """

    function: Callable[..., Any]


Measure: TypeAlias = Drift | Shape | Grounding | Stimulus

MEASURES: Mapping[str, Measure] = MappingProxyType(
    {
        "cosine": Drift(drift.cosine, of="signed"),
        "signed_pearson": Drift(drift.pearson, of="signed"),
        "signed_spearman": Drift(drift.spearman, of="signed"),
        "blurred": Drift(drift.blurred),
        "jensen_shannon": Drift(drift.jensen_shannon),
        "pearson": Drift(drift.pearson),
        "spearman": Drift(drift.spearman),
        "ssim": Drift(drift.ssim),
        "top_k_iou": Drift(drift.top_k_iou),
        "centroid_shift": Drift(drift.centroid_shift),
        "entropy": Shape(shape.entropy),
        "gini": Shape(shape.gini),
        "salient_area": Shape(shape.salient_area),
        "border_mass": Shape(places.border_mass),
        "centre_bias": Shape(places.centre_bias),
        "relevance_mass": Grounding(grounding.relevance_mass),
        "relevance_rank": Grounding(grounding.relevance_rank),
        "pointing_game": Grounding(grounding.pointing_game),
        "mask_area": Grounding(grounding.mask_area),
        "background_mass": Grounding(context.background_mass),
        "edge_similarity": Stimulus(stimulus.edge_similarity),
        "spectral_residual": Stimulus(stimulus.spectral_residual),
        "centre_surround": Stimulus(stimulus.centre_surround),
        "stimulus_share": Stimulus(stimulus.stimulus_share),
    }
)
_TAKEN = (
    *("drift", "undefined", "filmstrip", "movie", "completeness_gap"),
    *("tortuosity", "reliability", "unreliable", "insertion", "deletion", "sanity"),
)
"""Ends of tags that are always, or may be, written."""

_BEGINNINGS = ("drift_", "crossval_", "floor_")

DEFAULT_MEASURES = ("entropy", "relevance_mass", "relevance_rank", "pointing_game")
"""Beside directional drift, which a monitor always measures."""

MeasureName = Literal[
    "cosine",
    "signed_pearson",
    "signed_spearman",
    "blurred",
    "jensen_shannon",
    "pearson",
    "spearman",
    "ssim",
    "top_k_iou",
    "centroid_shift",
    "entropy",
    "gini",
    "salient_area",
    "border_mass",
    "centre_bias",
    "relevance_mass",
    "relevance_rank",
    "pointing_game",
    "mask_area",
    "background_mass",
    "edge_similarity",
    "spectral_residual",
    "centre_surround",
    "stimulus_share",
]


def resolve_measures(
    spec: Sequence[str] | Mapping[str, Measure | str] | None,
) -> dict[str, Measure]:
    """Turn what a user may write into measures by name; None means `DEFAULT_MEASURES`.

    A list holds names of ours; a mapping gives a measure, or the name of one of ours, under the
    user's own name. Raises ConfigurationError on anything else.
    """
    if spec is None:
        spec = DEFAULT_MEASURES
    if isinstance(spec, str):
        spec = [spec]
    if isinstance(spec, Mapping):
        for name in spec:
            if _is_no_tag(name):
                raise ConfigurationError(
                    f"measures: {name!r} is taken by a tag of our own, or can't be a part of one. "
                    "Give another name, a short word without '/'."
                )
        return {name: _measure(f"measures[{name!r}]", entry) for name, entry in spec.items()}
    if not isinstance(spec, Sequence):
        raise ConfigurationError(
            f"measures={spec!r} is a {type(spec).__name__}. Give a list of names such as "
            "['entropy'], or a mapping of your own names to measures."
        )
    for entry in spec:
        if isinstance(entry, (Drift, Shape, Grounding, Stimulus)):
            raise ConfigurationError(
                f"measures holds {entry!r} without a name: write measures={{'name': …}}."
            )
    return {name: _measure("measures", name) for name in spec}


def _is_no_tag(name: object) -> bool:
    if not isinstance(name, str) or "/" in name or not name or name != name.strip():
        return True
    return name in _TAKEN or name.startswith(_BEGINNINGS)


def _measure(argument: str, entry: object) -> Measure:
    if isinstance(entry, (Drift, Shape, Grounding, Stimulus)):
        return entry
    if isinstance(entry, str) and entry in MEASURES:
        return MEASURES[entry]
    if callable(entry):
        raise ConfigurationError(
            f"{argument}={entry!r} does not say what it reads: wrap it as Drift(function) for two "
            "maps, Shape(function) for one map, Grounding(function) for a map and a mask or "
            "Stimulus(function) for a map and its image."
        )
    raise ConfigurationError(f"{argument}: no measure {entry!r}. {did_you_mean(entry, MEASURES)}")


_READS = {"signed": "signed attribution, all channels", "map": "map"}


def describe(measure: str | Measure) -> str:
    """One line for a chart: what a measure is, its range or unit and what 0 means, what it reads.

    It is the first line of the function's docstring, or the function's name without one.
    """
    resolved = _measure("measure", measure)
    function: Any = resolved.function
    while isinstance(function, functools.partial):
        function = function.func
    name: str = getattr(function, "__name__", type(function).__name__)
    line = (inspect.getdoc(function) or name).split("\n")[0]
    return f"{line} ({_READS[resolved.of]})" if isinstance(resolved, Drift) else line
