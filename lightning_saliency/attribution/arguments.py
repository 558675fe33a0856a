"""Arguments of methods, checked when a method is made: before any model is there."""

from __future__ import annotations

from typing import TypeGuard

from lightning_saliency.errors import ConfigurationError


def check_whole(method: object, name: str, value: object, least: int) -> None:
    """Raise a `ConfigurationError` unless `value` is a whole number, `least` or more."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigurationError(
            f"{type(method).__name__}({name}={value!r}): give at least {least}, in whole numbers."
        )


def check_between(method: object, name: str, value: object, low: float, high: float) -> None:
    """Raise a `ConfigurationError` unless `value` is a number from `low` to `high`."""
    if isinstance(value, bool) or not is_finite(value) or not low <= value <= high:
        raise ConfigurationError(
            f"{type(method).__name__}({name}={value!r}): give a number from {low} to {high}."
        )


def check_baseline(method: object, baseline: object) -> None:
    """Raise a `ConfigurationError` unless `baseline` is a number, or one per channel."""
    levels = baseline if isinstance(baseline, tuple) else (baseline,)
    if not levels or not all(map(is_finite, levels)):
        raise ConfigurationError(
            f"{type(method).__name__}(baseline={baseline!r}): give a number, or a tuple of one "
            "number per channel."
        )


def is_finite(value: object) -> TypeGuard[float]:
    """Whether it is a number that is neither infinite nor NaN."""
    return isinstance(value, (int, float)) and abs(value) < float("inf")
