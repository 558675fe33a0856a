"""Several ES modules as one script, so that a page from a disk can run them.

Browsers load no module from `file://`. Ours import each other by name alone, so each becomes a
function that returns what it exports, called once and before those that import it.
"""

from __future__ import annotations

import re
from pathlib import Path

_IMPORT = re.compile(r"^import\s*\{([^{}]*)\}\s*from\s*\"\./([\w.-]+)\";?[ \t]*$", re.MULTILINE)
_EXPORT = re.compile(r"^export ((?:async )?function\*?|class|const) ([\w$]+)", re.MULTILINE)
_OTHER = re.compile(r"^(?:import|export)\b.*|\bimport\s*\(.*|\bimport\.meta\b.*", re.MULTILINE)
_ENDS = re.compile(r"<(?=/script|!--|script)", re.IGNORECASE)


def script(entry: str, folder: Path) -> str:
    """One script that does what `entry` does.

    Args:
        entry: a module's text, which imports from modules of the folder.
        folder: of the modules.

    Raises:
        RuntimeError: a module is written in a way that can't be taken apart here: an import that is
            not ``import {name} from "./file.js"``, an export that is not of a function, a class or
            a constant, or modules that import each other in a circle.
    """
    texts: dict[str, str] = {}
    _collect(entry, folder, texts, ())
    parts = [f"const {_name(file)} = {_called(file, text)};" for file, text in texts.items()]
    whole = "\n".join([*parts, _inlined("the entry", entry)])
    return f'"use strict";\n(() => {{\n{_harmless(whole)}\n}})();\n'


def _collect(text: str, folder: Path, texts: dict[str, str], path: tuple[str, ...]) -> None:
    """Take in what a module imports, each file after those that it needs."""
    for _, wanted in _IMPORT.findall(text):
        if wanted in path:
            raise RuntimeError(f"{' → '.join((*path, wanted))}: modules import in a circle.")
        if wanted not in texts:
            own = (folder / wanted).read_text(encoding="utf-8")
            _collect(own, folder, texts, (*path, wanted))
            texts[wanted] = own


def _called(file: str, text: str) -> str:
    """A module as the value of a function: an object of its exports."""
    exported = [name for _, name in _EXPORT.findall(text)]
    bare = _EXPORT.sub(r"\1 \2", text)
    return f"(() => {{\n{_inlined(file, bare)}\nreturn {{ {', '.join(exported)} }};\n}})()"


def _inlined(file: str, text: str) -> str:
    """A module's text with constants in the place of its imports."""

    def constant(found: re.Match[str]) -> str:
        names = re.sub(r"\s+as\s+", ": ", " ".join(found[1].split()))
        return f"const {{ {names} }} = {_name(found[2])};"

    inlined = _IMPORT.sub(constant, text)
    left = _OTHER.search(inlined)
    if left is not None:
        raise RuntimeError(f"{file}: {left[0]!r} can't be brought into one script.")
    return inlined.strip("\n")


def _name(file: str) -> str:
    return "$" + re.sub(r"\W", "_", file)


def _harmless(script: str) -> str:
    """The same without what HTML takes for the end of a script, which only words can hold."""
    return _ENDS.sub(r"\\x3c", script)
