"""What the user asked for, checked as far as it can be without a model or data."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from torch import Tensor

from lightning_saliency.alerts.settings import Alerts, resolve_alerts
from lightning_saliency.attribution import AnyMethod, resolve_methods
from lightning_saliency.audits import Audits, resolve_audits
from lightning_saliency.calling import Forward, Output
from lightning_saliency.class_models import ClassModel, resolve_class_models
from lightning_saliency.errors import ConfigurationError, did_you_mean
from lightning_saliency.measures import Grounding, Measure, resolve_measures
from lightning_saliency.movie import FORMATS, MovieFormat
from lightning_saliency.probes import Fields, Probes
from lightning_saliency.schedule import Every
from lightning_saliency.targets import resolve_target

TargetClass: TypeAlias = int | Literal["label", "prediction"]
Wanted: TypeAlias = int | Sequence[int] | Probes | Iterable[Any]

MOST_CLASSES = 32
"""Class models in a picture."""

SIDES = (4, 112)
"""Of a square map in the record: the fewest pixels and the most."""


@dataclass(frozen=True)
class Settings:
    """The monitor's arguments, resolved; each is described there.

    Attributes:
        needs_masks: whether the user asked for a measure of grounding.
        chunk: how many probes the first pass takes; None for what the data suggest.
        record: the side of a square map in the record at most; None for no record.
        movie: the format of the film at the end of a fit; None for no film.
    """

    name: str
    methods: Mapping[str, AnyMethod]
    measures: Mapping[str, Measure]
    needs_masks: bool
    target: Callable[[Tensor, Tensor], Tensor]
    target_class: TargetClass
    probes: Wanted
    every: Every
    budget: float | None
    reference: int | str
    fields: Fields
    output: Output
    forward: Forward
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    seed: int
    chunk: int | None
    on_error: str
    class_models: ClassModel | None
    audits: Audits | None
    alerts: Alerts | None
    record: int | None
    movie: MovieFormat | None

    @property
    def places(self) -> int:
        """Of a map in the record at most; 0 without one."""
        return (self.record or 0) ** 2

    @classmethod
    def of(cls, **given: Any) -> Settings:
        """The settings of the monitor's arguments, by their names."""
        return cls(
            name=_checked_name(given["name"]),
            methods=resolve_methods(given["methods"]),
            measures=(measures := resolve_measures(given["measures"])),
            needs_masks=given["measures"] is not None
            and any(isinstance(one, Grounding) for one in measures.values()),
            target=resolve_target(given["target"]),
            target_class=_checked_choice(
                "target_class", given["target_class"], ("label", "prediction"), "a class"
            ),
            probes=_checked_probes(given["probes"]),
            every=_checked_every(given["every"]),
            budget=_checked_budget(given["budget"]),
            reference=_checked_choice(
                "reference", given["reference"], ("previous", "first", "best"), "a step"
            ),
            fields=Fields(given["input"], given["label"], given["mask"]),
            output=given["output"],
            forward=given["forward"],
            **_checked_normalisation(given["mean"], given["std"]),
            seed=_checked_number("seed", given["seed"], 0),
            chunk=None if given["chunk"] is None else _checked_number("chunk", given["chunk"], 1),
            on_error=_checked_choice("on_error", given["on_error"], ("warn", "raise")),
            class_models=_checked_class_models(given["class_models"]),
            audits=resolve_audits(given["audits"]),
            alerts=resolve_alerts(given["alerts"]),
            record=_checked_record(given["record"]),
            movie=_checked_movie(given["movie"], given["record"]),
        )

    def described(self) -> dict[str, str]:
        """What maps depend on, in words: maps before and after a change can't be compared."""
        described = {
            "target": words(self.target),
            "target_class": str(self.target_class),
            "reference": str(self.reference),
            **{f"methods: {name}": words(method) for name, method in self.methods.items()},
        }
        if self.class_models is not None:
            described["class_models"] = words(self.class_models)
        return described


def words(value: object) -> str:
    """A description that is the same in the next process: no addresses."""
    if hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    described = repr(value)
    return type(value).__qualname__ if " at 0x" in described else described


def _checked_name(name: str) -> str:
    """The first part of all tags."""
    written = isinstance(name, str) and name.isprintable()
    if not written or not all(part.strip() == part != "" for part in name.split("/")):
        raise ConfigurationError(f"name={name!r} can't begin a tag. Use a word such as 'saliency'.")
    return name


def _checked_every(every: Any) -> Every:
    """A number of validations as an `Every`, or an `Every`."""
    if isinstance(every, Every):
        return every
    if isinstance(every, bool) or not isinstance(every, int):
        raise ConfigurationError(
            f"every={every!r} is a {type(every).__name__}. Give a number (2 observes every second "
            "validation) or an Every(n=2, unit='epoch')."
        )
    return Every(every)


def _checked_class_models(given: Any) -> ClassModel | None:
    """A `ClassModel` with no more classes than a picture shows, or None."""
    resolved = resolve_class_models(given)
    if resolved is not None and len(resolved.classes) > MOST_CLASSES:
        raise ConfigurationError(
            f"class_models holds {len(resolved.classes)} classes, and a picture shows up to "
            f"{MOST_CLASSES}. Give those that matter most."
        )
    return resolved


def _checked_budget(budget: Any) -> float | None:
    """A share of time, or None for as much as it takes."""
    number = isinstance(budget, (int, float)) and not isinstance(budget, bool)
    if budget is None or (number and 0 < budget <= 1):
        return None if budget is None else float(budget)
    raise ConfigurationError(
        f"budget={budget!r}: give the share of the fit's time that observations may take, above 0 "
        "and at most 1, such as 0.02; or None for all that are due."
    )


def _checked_record(record: Any) -> int | None:
    """The side of a map, or None."""
    if record is None:
        return None
    least, most = SIDES
    if isinstance(record, bool) or not isinstance(record, int) or not least <= record <= most:
        raise ConfigurationError(
            f"record={record!r}: give the pixels of a map's side that are kept of each observation "
            f"at most, a whole number from {least} to {most}; or None to keep no maps."
        )
    return record


def _checked_movie(movie: Any, record: Any) -> MovieFormat | None:
    """A format, where there is a record to draw the film from; or None."""
    if movie is None:
        return None
    if not isinstance(movie, str) or movie not in FORMATS:
        raise ConfigurationError(
            f"movie={movie!r}: give 'webp' (small), 'gif', or None for none. "
            f"{did_you_mean(movie, FORMATS)}"
        )
    if record is None:
        raise ConfigurationError(
            f"movie={movie!r} with record=None: the film is drawn from the record. Give record=56, "
            "or movie=None."
        )
    return FORMATS[movie]


def _checked_number(argument: str, value: Any, least: int) -> int:
    """A whole number of `least` or more."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 2**63:
        raise ConfigurationError(
            f"{argument}={value!r}: give a whole number from {least} to 2**63 - 1."
        )
    return value


def _checked_choice(argument: str, value: Any, known: tuple[str, ...], number: str = "") -> Any:
    """One of the words, or, where a `number` has a meaning such as ``a class``, 0 or more."""
    if isinstance(value, str):
        if value not in known:
            raise ConfigurationError(f"{argument}={value!r}. {did_you_mean(value, known)}")
    elif isinstance(value, bool) or not isinstance(value, int) or not number or value < 0:
        instead = f", or {number} from 0 on" if number else ""
        raise ConfigurationError(
            f"{argument}={value!r} ({type(value).__name__}). Give one of "
            f"{', '.join(map(repr, known))}{instead}."
        )
    return value


def _checked_probes(probes: Any) -> Any:
    """How many, or which; 1-D tensors and arrays become lists of indices."""
    if isinstance(probes, int):
        if isinstance(probes, bool) or probes < 1:
            raise ConfigurationError(f"probes={probes!r}: give how many to watch, 1 or more.")
        return probes
    if hasattr(probes, "tolist") and getattr(probes, "ndim", 0) == 1:
        return probes.tolist()  # indices in a tensor or an array
    loader = isinstance(probes, Iterable) and not isinstance(probes, (Mapping, Set, Tensor))
    if isinstance(probes, str) or not (loader or isinstance(probes, Probes)):
        raise ConfigurationError(
            f"probes={probes!r} is a {type(probes).__name__}. Give a number, a list of indices, a "
            "Probes object or a DataLoader."
        )
    return probes


def _checked_normalisation(mean: Any, std: Any) -> dict[str, tuple[float, ...] | None]:
    """Both or neither, as the fields of `Settings`."""
    if (mean is None) != (std is None):
        raise ConfigurationError(
            f"mean={mean} and std={std}: a normalisation is undone with both, one number per "
            "channel each."
        )
    if mean is None:
        return {"mean": None, "std": None}
    means, stds = _numbers(mean), _numbers(std)
    if not means or len(means) != len(stds) or not all(value > 0 for value in stds):
        raise ConfigurationError(
            f"mean={mean} and std={std}: give a list of each with one finite number per channel, "
            "std above 0."
        )
    return {"mean": means, "std": stds}


def _numbers(values: Any) -> tuple[float, ...]:
    """Finite numbers of a list; none where there is anything else."""
    try:
        found = tuple(map(float, () if isinstance(values, str) else values))
    except (TypeError, ValueError, OverflowError):
        return ()
    return found if all(map(math.isfinite, found)) else ()
