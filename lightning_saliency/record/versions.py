"""Which version a piece of a record is of, and what is said of those that can't be read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from lightning_saliency.errors import ConfigurationError

VERSION = 1
"""Of all series and headers. A change that an older reader would misread makes it one more."""

Document = Mapping[str, Any]
"""What a JSON object holds."""


class RecordError(ConfigurationError):
    """A record that is not there, is damaged, or of which there are several to choose from."""


class NewerRecordError(RecordError):
    """A record that a later release wrote."""


def dumped(document: Document) -> bytes:
    """A document as bytes: no spaces, no NaN, ASCII (names of files may hold half characters)."""
    return json.dumps(document, allow_nan=False, separators=(",", ":")).encode()


def loaded(data: bytes, what: str) -> Document:
    """A document of a version that is known.

    Args:
        data: what `dumped` gave.
        what: it is, in words.

    Raises:
        NewerRecordError: a later release wrote it.
        RecordError: it is damaged.
    """
    try:
        document = json.loads(data)
        version = int(document["version"])
    except (ValueError, KeyError, TypeError) as error:
        raise RecordError(
            f"{_capital(what)} is damaged ({type(error).__name__}: {error}). Copy the run anew, or "
            "read another observation."
        ) from error
    check(version, what)
    known: Document = document
    return known


def check(version: int, what: str) -> None:
    """Refuse what a later release wrote."""
    if version > VERSION:
        raise NewerRecordError(
            f"{_capital(what)} is of version {version} of the record, and this release of "
            f"lightning-saliency knows {VERSION} at most. Read it with the release that wrote it, "
            "or a later one: pip install --upgrade lightning-saliency."
        )


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
