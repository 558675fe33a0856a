"""Put the tables that the benchmarks print into docs/signal.md.

    python docs/fill_tables.py

Each benchmark writes its table into `docs/tables/`; this copies them between the marks of the page,
so that no figure there was typed by hand. Of the power study the page has the parts named below.
"""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).with_name("signal.md")
TABLES = Path(__file__).with_name("tables")
MARK = re.compile(r"<!-- table: (\w+)(?:, part (\d+))? -->\n.*?<!-- end -->", re.DOTALL)


def part_of(text: str, number: int) -> str:
    """A part of a long table: those are parted by a line of dashes."""
    parts = re.split(r"\n-{5,}\n", text)
    return parts[number - 1]


def filled(page: str) -> str:
    """The page with the newest tables."""

    def table(mark: re.Match[str]) -> str:
        name, part = mark.groups()
        text = (TABLES / f"{name}.md").read_text(encoding="utf-8")
        text = text if part is None else part_of(text, int(part))
        opening = mark[0].splitlines()[0]
        return f"{opening}\n\n{text.strip()}\n\n<!-- end -->"

    return MARK.sub(table, page)


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
