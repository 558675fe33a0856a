"""The viewer and its data as one HTML file that opens from a disk and asks nobody for anything."""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, BinaryIO

from lightning_saliency.record import VERSION, History
from lightning_saliency.reports.bundle import script
from lightning_saliency.reports.contents import Document, row, series
from lightning_saliency.viewer.files import STATIC, STYLE

Held = tuple[str, History, list[int]]
"""A run in a page: what it is called there, its record, and which observations of it."""

# The script stands before the data, so that of a page that was cut short it can say so. The address
# wins over what the page was made to show, so that links into it work.
_ENTRY = """\
import { PageSource } from "./source.js";
import { mount } from "./viewer.js";

function open() {
  const root = document.querySelector("main");
  try {
    const source = new PageSource(document);
    const wanted = Object.entries(source.data.start);
    if (location.hash === "" && wanted.length > 0) point(wanted);
    mount(root, source, {});
  } catch (error) {
    root.textContent = `This page is not whole. Copy it anew. (${error.message})`;
  }
}

function point(wanted) {
  const hash = `#${wanted.map((pair) => pair.map(encodeURIComponent).join("=")).join("&")}`;
  try {
    history.replaceState(null, "", hash);
  } catch {
    location.hash = hash;
  }
}

document.addEventListener("DOMContentLoaded", open);
"""

_HEAD = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width">
<meta name="referrer" content="no-referrer">
<meta name="generator" content="lightning-saliency">
<title>{title}</title>
<link rel="icon" href="data:,">
<style>
{style}</style>
</head>
<body>
<main></main>
<noscript>The maps are drawn by a script in this page: allow it to run.</noscript>
<script>{script}</script>
<script type="application/json" id="saliency-data">"""

_TAIL = b"""</script>
</body>
</html>
"""


def write_page(
    out: BinaryIO,
    held: Iterable[Held],
    *,
    title: str,
    start: Mapping[str, str] | None = None,
    refused: Iterable[Mapping[str, str]] = (),
    done: Callable[[], object] = lambda: None,
) -> None:
    """Write a page, run by run: no more than one of them needs to be in memory.

    Args:
        out: the file.
        held: the runs.
        title: of the page.
        start: what is shown first, in the terms of the viewer's addresses.
        refused: runs that the page does not have, each with ``run``, ``monitor`` and ``why``.
        done: called after each run.
    """
    code = script(_ENTRY, STATIC)
    style = (STATIC / STYLE).read_text(encoding="utf-8")
    head = _HEAD.format(policy=_policy(code), title=_as_html(title), style=style, script=code)
    out.write(head.encode() + b'{"blobs":{')
    blobs = _Blobs(out)
    index: Document = {"version": VERSION, "runs": [], "refused": list(refused)}
    found: dict[str, Document] = {}
    for name, history, chosen in held:
        index["runs"].append(row(history, name))
        found[f"{name}\n{history.monitor}"] = series(history, name, chosen, blobs.take)
        done()
    whole = {"index": index, "series": found, "start": dict(start or {})}
    out.write(b"}," + _as_json(whole)[1:].encode())
    out.write(_TAIL)


class _Blobs:
    """Writes blobs as the members of an object, each once."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._keys: dict[bytes, str] = {}

    def take(self, blob: bytes) -> str:
        """Write a blob, and give its key."""
        digest = hashlib.sha256(blob).digest()
        if digest not in self._keys:
            key = self._keys[digest] = str(len(self._keys))
            comma = b"," if len(self._keys) > 1 else b""
            self._out.write(b'%s"%s":"%s"' % (comma, key.encode(), base64.b64encode(blob)))
        return self._keys[digest]


def _policy(code: str) -> str:
    """Our script runs and no other; nothing is fetched, nothing is sent."""
    known = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    return (
        f"default-src 'none'; script-src 'sha256-{known}'; style-src 'unsafe-inline'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


def _as_json(value: Any) -> str:
    """As JSON that no HTML parser takes for a tag, in ASCII."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _as_html(text: str) -> str:
    # Names of folders may hold half characters, which no encoding has.
    return html.escape(text).encode("ascii", "xmlcharrefreplace").decode()
