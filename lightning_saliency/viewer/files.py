"""The viewer's files: the whole list, by name, since nothing else is ever served or exported."""

from __future__ import annotations

from pathlib import Path

STATIC = Path(__file__).parent / "static"

STYLE = "style.css"

MODULES = (
    "index.js",
    "axis.js",
    "cache.js",
    "choice.js",
    "colour.js",
    "controls.js",
    "curves.js",
    "decode.js",
    "dom.js",
    "empty.js",
    "filmstrip.js",
    "filters.js",
    "frames.js",
    "grid.js",
    "happenings.js",
    "help.js",
    "host.js",
    "inspector.js",
    "keys.js",
    "library.js",
    "looks.js",
    "marks.js",
    "matrix.js",
    "paint.js",
    "run.js",
    "sheet.js",
    "source.js",
    "state.js",
    "tables.js",
    "timeline.js",
    "tip.js",
    "viewer.js",
    "words.js",
)
"""ES modules; `index.js` is TensorBoard's way in, and not part of an exported page."""
