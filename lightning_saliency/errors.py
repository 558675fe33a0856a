"""Names that users write, and words of our own errors about them."""

from __future__ import annotations

import difflib
import pkgutil
from collections.abc import Iterable
from typing import Any


class ConfigurationError(ValueError):
    """A wrong argument, told before the first training step."""


class ObservationError(RuntimeError):
    """An observation failed in the middle of a run, and `on_error` says to stop there."""


AGREED = "agreed on by all ranks"
"""Name of the attribute of an error that ranks have told each other: the work that it ended."""


def is_agreed(error: BaseException) -> bool:
    """Whether all ranks left their work with it: none may go on with that work alone."""
    return AGREED in vars(error)


def did_you_mean(name: object, known: Iterable[str], *, most: int = 8) -> str:
    """End an error about an unknown `name` with the nearest of the `known` ones, and some more."""
    names = list(known)
    near = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
    hint = f"Did you mean '{near[0]}'? " if near else ""
    if not names:
        return f"{hint}There is none to choose from."
    shown = ", ".join(f"'{known_name}'" for known_name in names[:most])
    rest = f" … ({len(names)} in all)" if len(names) > most else ""
    return f"{hint}Known: {shown}{rest}."


def imported(path: str, argument: str) -> Any:
    """What an import path such as ``my_package.my_module.my_function`` names.

    Raises:
        ConfigurationError: there is nothing under that path; with the reason.
    """
    try:
        return pkgutil.resolve_name(path)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigurationError(
            f"{argument}: nothing can be imported as {path!r} ({error}). Give the path of a "
            "function, package.module.function, where Python finds it."
        ) from error


def in_words(error: BaseException) -> str:
    """An error in one line, with what it came from where it does not say so itself."""
    text, cause = f"{type(error).__name__}: {error}", error.__cause__
    return text if cause is None or str(cause) in text else f"{text} ({in_words(cause)})"
