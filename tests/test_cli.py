"""The command of a shell finds its way, and brings along no more than it needs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest

from lightning_saliency import __version__, cli

Shell = Callable[..., str]


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    def call(*args: str) -> str:
        monkeypatch.setattr(sys, "argv", ["lightning-saliency", *args])
        cli.run()
        return capsys.readouterr().out

    return call


@pytest.mark.parametrize("args", [(), ("--help",), ("-h",)])
def test_help_lists_every_command(args: tuple[str, ...], shell: Shell) -> None:
    said = shell(*args)
    assert set(cli.READING) == {"export", "compare", "calibrate"}
    for name, words in {**cli.READING, **cli.TRAINING}.items():
        assert f"  {name:<10} {words}" in said


def test_the_version_is_said(shell: Shell) -> None:
    assert shell("--version") == f"lightning-saliency {__version__}\n"


def test_an_unknown_command_is_told(shell: Shell, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        shell("exprot", "runs")
    assert ended.value.code == 2
    words = "lightning-saliency: there is no command 'exprot'. Did you mean 'export'?"
    assert capsys.readouterr().err.startswith(words)


@pytest.mark.parametrize("args", [("fit", "--config", "run.yaml"), ("--config", "run.yaml", "fit")])
def test_what_trains_is_lightnings(
    args: tuple[str, ...], shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[list[str]] = []
    monkeypatch.setattr(cli, "main", lambda: called.append(sys.argv[1:]))
    shell(*args)
    assert called == [list(args)]


@pytest.mark.parametrize("name", ["export", "compare", "calibrate"])
def test_each_command_helps(name: str, shell: Shell, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        shell(name, "--help")
    assert ended.value.code == 0
    assert f"usage: lightning-saliency {name} " in capsys.readouterr().out


def test_an_export_brings_no_trainer_along() -> None:
    """In a process of its own: here the tests have imported everything."""
    code = """
import sys
from lightning_saliency import cli
from lightning_saliency.reports import export
print([name for name in ("torch", "lightning", "jsonargparse") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_module_is_the_command() -> None:
    command = [sys.executable, "-m", "lightning_saliency", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"lightning-saliency {__version__}\n"
