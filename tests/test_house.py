"""The house: arrows between modules run one way, and the package is light to import."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import lightning_saliency

ROOT = Path(lightning_saliency.__file__).parent

FLOORS = (
    "__main__",
    "cli",
    "reports",
    "calibrate",
    "pytorch_lightning",
    "monitor",
    "followup",
    "auditing",
    "alerting",
    "intervening",
    "inquiry",
    "telling",
    "sight",
    "finding",
    "class_table",
    "viewer",
    "recording",
    "opening",
    "choosing",
    "session",
    "settings",
    "audits",
    "notebook",
    "progress",
    "voice",
    "trainers",
    "ranks",
    "writer",
    "logs",
    "board",
    "gallery",
    "history",
    "memory",
    "course",
    "readings",
    "intervention",
    "ladder",
    "stepping",
    "method_sanity",
    "redrawn",
    "faithfulness",
    "stream",
    "localisation",
    "movie",
    "rendering",
    "class_models",
    "snapshot",
    "sighting",
    "alerts",
    "measures",
    "calling",
    "attribution",
    "targets",
    "probes",
    "halving",
    "observation",
    "shards",
    "record",
    "schedule",
    "errors",
)
"""From the roof down: a module may import what stands below it."""

SHELL = {"cli", "pytorch_lightning", "monitor"}
"""The only ones that know Lightning's classes."""


def floor_of(path: Path) -> str:
    return path.relative_to(ROOT).with_suffix("").parts[0]


def imported(path: Path) -> set[str]:
    """Every module that a file imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


FILES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def test_every_module_has_a_floor() -> None:
    assert {floor_of(path) for path in FILES} == set(FLOORS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_arrows_run_down(path: Path) -> None:
    here = FLOORS.index(floor_of(path))
    names = {
        name.split(".")[1] for name in imported(path) if name.startswith("lightning_saliency.")
    }
    above = {name for name in names if name in FLOORS and FLOORS.index(name) < here}
    assert not above, f"{path.name} imports {above}, which stand above it"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_only_the_shell_knows_lightning(path: Path) -> None:
    known = {name.split(".")[0] for name in imported(path)} & {"lightning", "pytorch_lightning"}
    assert not known or floor_of(path) in SHELL


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_keep_one_idea(path: Path) -> None:
    source = path.read_text()
    words = 0
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            doc = ast.get_docstring(node, clean=False)
            words += doc.count("\n") + 1 if doc else 0
            if not isinstance(node, ast.ClassDef) and node.end_lineno:
                lines = node.end_lineno - node.lineno + 1
                assert lines - (doc.count("\n") + 1 if doc else 0) <= 60, node.name
    assert source.count("\n") - words <= 400


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_the_package_imports_neither_torch_nor_lightning() -> None:
    code = (
        "import sys, lightning_saliency; lightning_saliency.__version__; "
        "print([name for name in ('torch', 'lightning', 'numpy') if name in sys.modules])"
    )
    assert run(code) == "[]"


def test_the_core_does_not_import_lightning() -> None:
    code = (
        "import sys; from lightning_saliency import Saliency, Probes, explain; "
        "print([name for name in ('lightning', 'pytorch_lightning') if name in sys.modules])"
    )
    assert run(code) == "[]"


def test_public_names_are_all_there() -> None:
    for name in lightning_saliency.__all__:
        assert getattr(lightning_saliency, name) is not None
    assert set(lightning_saliency.__all__) <= set(dir(lightning_saliency))
    with pytest.raises(AttributeError, match="no attribute 'Salliency'"):
        lightning_saliency.Salliency  # noqa: B018
