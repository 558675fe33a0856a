"""What ``make test-lowest`` installs is what pyproject.toml promises."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


def requirements() -> list[str]:
    """What users need, and what is tried beside it; tools of ours may be of any age."""
    tomllib: Any = pytest.importorskip("tomllib", reason="Python reads TOML from 3.11 on")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    tried = ("pytorch-lightning", "transformers")
    others = [one for one in extras["dev"] if one.startswith(tried)]
    assert len(others) == len(tried)
    given = [one for name, extra in extras.items() if name != "dev" for one in extra]
    return [*project["dependencies"], *given, *others]


def lowest(requirement: str) -> str:
    name, least, version = requirement.partition(">=")
    assert least, f"{requirement} has no lower bound"
    return f"{name.partition('[')[0]}=={version}"


def test_the_constraints_are_the_lower_bounds() -> None:
    lines = (ROOT / "constraints" / "lowest.txt").read_text().splitlines()
    assert [line for line in lines if not line.startswith("#")] == [*map(lowest, requirements())]
