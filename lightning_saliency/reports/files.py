"""Files that a command writes: whole or not at all, with what went wrong in words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from lightning_saliency.errors import ConfigurationError

MAIL = 25e6
"""Bytes that most mail servers take."""


@contextmanager
def written(path: Path) -> Iterator[BinaryIO]:
    """A file under another name until it is whole.

    Raises:
        ConfigurationError: it can't be written there.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("wb") as stream:
            yield stream
        part.replace(path)
    except OSError as error:
        raise ConfigurationError(
            f"{str(path)!r} can't be written: {error.strerror or error}. Give another path."
        ) from error
    finally:
        with suppress(OSError):
            part.unlink()


def writable(option: str, path: Path, suffixes: tuple[str, ...]) -> Path:
    """The path, if a file of this kind can come there.

    Args:
        option: that gave it.
        path: of the file.
        suffixes: which it may have.

    Raises:
        ConfigurationError: it can't.
    """
    if path.suffix.lower() not in suffixes:
        raise ConfigurationError(f"{option} {str(path)!r}: end it with {' or '.join(suffixes)}.")
    if path.is_dir() or not path.parent.is_dir():
        why = "that is a folder" if path.is_dir() else f"there is no folder {str(path.parent)!r}"
        raise ConfigurationError(f"{option} {str(path)!r}: {why}. Give the path of a file.")
    return path


def told(path: Path) -> str:
    """A file's name and size."""
    size = path.stat().st_size
    return f"{path}: {size / 1e6:.1f} MB" if size >= 1e6 else f"{path}: {size / 1e3:.0f} kB"
