"""A page holds what the record holds; what can't be exported is told."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import written

from lightning_saliency.record import read
from lightning_saliency.record.format import Mark, decode_maps
from lightning_saliency.reports.export import export
from lightning_saliency.viewer.files import STATIC, STYLE

T, N = 12, 5
HOSTILE = "</script><script>alert(1)</script><!-- <img src=x onerror=alert(2)>"


def two_methods(seed: int = 0, length: int = T) -> dict[str, written.Floats]:
    return {
        "gradient": written.maps(seed, length, N, 6, 5),
        "change": written.maps(seed + 1, length, N, 4, signed=True),
    }


def exported(*args: object) -> None:
    export([str(one) for one in args])


def refused(capsys: pytest.CaptureFixture[str], *args: object) -> str:
    with pytest.raises(SystemExit) as ended:
        exported(*args)
    assert ended.value.code == 2
    return capsys.readouterr().err


def test_the_page_holds_what_the_record_holds(tmp_path: Path) -> None:
    given = two_methods()
    given["gradient"][3, 2] = np.nan
    written.run(tmp_path / "logs" / "a", given)
    written.run(tmp_path / "logs" / "b" / "version_0", two_methods(7, 4), monitor="mine/own")
    page = tmp_path / "report.html"
    exported(tmp_path / "logs", "-o", page)
    data = written.data_of(page)
    assert [(row["run"], row["monitor"]) for row in data["index"]["runs"]] == [
        ("a", "saliency"),
        ("b/version_0", "mine/own"),
    ]
    for row in data["index"]["runs"]:
        history = read(tmp_path / "logs", row["run"])
        series = data["series"][f"{row['run']}\n{row['monitor']}"]
        assert (row["observations"], row["last"]) == (len(history), history.steps[-1])
        assert row["methods"] == list(history.methods)
        _same(series, data["blobs"], history)


def _same(series: dict[str, Any], blobs: dict[str, bytes], history: Any) -> None:
    probes = dict(series["probes"])
    assert blobs[probes.pop("sprite")] == history.probes.sprite
    assert blobs[probes.pop("masks")] == history.probes.mask_sprite
    assert probes == history.probes.header
    assert series["notes"] == []
    for index, (shown, known) in enumerate(
        zip(series["observations"], history.observations, strict=True)
    ):
        keys = shown.pop("maps")
        assert list(keys) == list(history.methods)
        for method, key in keys.items():
            blob = decode_maps(blobs[key])
            np.testing.assert_array_equal(blob.maps, history.maps(method, at=[index])[0])
            peaks = shown["methods"][method].pop("peaks")
            np.testing.assert_array_equal(np.float32(peaks), history.peaks(method)[index])
        assert shown == known


def test_what_is_the_same_is_there_once(tmp_path: Path) -> None:
    for name in "ab":
        written.run(tmp_path / name, two_methods())
    exported(tmp_path, "-o", tmp_path / "report.html")
    data = written.data_of(tmp_path / "report.html")
    assert len(data["blobs"]) == 2 + 2 * T  # two sprites, two methods


def test_every_k_keeps_the_first_the_last_and_what_happened(tmp_path: Path) -> None:
    happened = {4: [Mark("alert", "Region alert.")]}
    floors = {1: {"gradient/floor_seed": 0.5, "churn": 1.0}, 5: {"churn": 0.25}}
    written.run(tmp_path / "a", two_methods(), marks=happened, numbers=floors)
    written.run(tmp_path / "b", two_methods(3), best=80)
    exported(tmp_path, "-o", tmp_path / "report.html", "--every", 5)
    data = written.data_of(tmp_path / "report.html")
    a, b = data["series"].values()
    # 4 and 8 since something happened there in one of them: both runs have the same steps.
    assert [one["step"] for one in a["observations"]] == [0, 40, 50, 80, 100, 110]
    assert [one["step"] for one in b["observations"]] == [0, 40, 50, 80, 100, 110]
    assert a["observations"][1]["events"] == [{"kind": "alert", "text": "Region alert."}]
    # Floors are measured now and then: they come with the next that is kept.
    assert [one["numbers"] for one in a["observations"][:3]] == [
        {},
        {"gradient/floor_seed": 0.5, "churn": 1.0},
        {"churn": 0.25},
    ]
    assert "6 of 12 observations" in a["notes"][0]


@pytest.mark.parametrize("every", [1, 2, 7, 50])
def test_every_k_of_a_quiet_run(every: int, tmp_path: Path) -> None:
    written.run(tmp_path / "a", two_methods())
    exported(tmp_path, "-o", tmp_path / "report.html", "--every", every)
    (series,) = written.data_of(tmp_path / "report.html")["series"].values()
    steps = [one["step"] for one in series["observations"]]
    assert steps == sorted({*range(0, 10 * T, 10 * every), 10 * (T - 1)})


def test_labels_are_text(tmp_path: Path) -> None:
    run = tmp_path / "<b>run &amp;"
    written.run(
        run,
        two_methods(),
        labels=[HOSTILE] * T,
        names=[HOSTILE] * N,
        classes=[HOSTILE, "\ud800 half", "owl"],
        marks={1: [Mark("event", HOSTILE)]},
    )
    exported(tmp_path, "-o", tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<img" not in text
    assert "alert(1)</script>" not in text
    assert "<title>Saliency: &lt;b&gt;run &amp;amp;</title>" in text
    assert [text.lower().count(tag) for tag in ("<script", "</script", "<!--")] == [2, 2, 0]
    data = written.data_of(tmp_path / "report.html")
    (series,) = data["series"].values()
    assert series["probes"]["classes"] == [HOSTILE, "\ud800 half", "owl"]
    assert series["observations"][1]["events"][0]["text"] == HOSTILE


def test_the_page_asks_nobody_for_anything(tmp_path: Path) -> None:
    written.run(tmp_path, two_methods())
    exported(tmp_path, "-o", tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules.pop("default-src") == "'none'"
    assert rules.pop("script-src").startswith("'sha256-")
    assert rules.pop("style-src") == "'unsafe-inline'"  # the styles of elements, not of a sheet
    assert rules.pop("img-src") == "data:"
    assert set(rules.values()) == {"'none'"}
    assert not re.search(r"""(?:src|href)=["'](?!data:)""", text.split("<script", 1)[0])
    assert not re.search(r"url\(|@import", (STATIC / STYLE).read_text(encoding="utf-8"))


def test_runs_and_monitors_are_chosen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for run, monitor in (("a", "saliency"), ("a", "other"), ("b", "saliency")):
        written.run(tmp_path / run, two_methods(), monitor=monitor)
    page = tmp_path / "report.html"

    def shown(*args: str) -> list[str]:
        exported(tmp_path, "-o", page, *args)
        return [f"{one['run']} {one['monitor']}" for one in written.data_of(page)["index"]["runs"]]

    assert shown() == ["a other", "a saliency", "b saliency"]
    assert shown("--run", "a/") == ["a other", "a saliency"]
    assert shown("--monitor", "saliency") == ["a saliency", "b saliency"]
    assert shown("--run", "a", "--run", "b", "--monitor", "other") == ["a other"]
    capsys.readouterr()
    assert "--run 'c': " in refused(capsys, tmp_path, "--run", "c")
    assert "Did you mean 'saliency'?" in refused(capsys, tmp_path, "--monitor", "salience")
    assert "Leave one of them out" in refused(capsys, tmp_path, "--run=b", "--monitor=other")


def test_a_record_that_cannot_be_read_is_left_out_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written.run(tmp_path / "now", two_methods())
    later = next(written.run(tmp_path / "later", two_methods()).iterdir())
    version = b'"version":1,"series"'
    later.write_bytes(later.read_bytes().replace(version, version.replace(b"1", b"2")))
    page = tmp_path / "report.html"
    exported(tmp_path, "-o", page)
    out, err = capsys.readouterr()
    assert re.search(r"report\.html: \d+ kB\nnow: 12 of 12 observations", out)
    assert "later: left out. The record of 'saliency' in 'later' is of version 2" in err
    (told,) = written.data_of(page)["index"]["refused"]
    assert (told["run"], "pip install --upgrade" in told["why"]) == ("later", True)
    assert "Nothing can be shown of 'later'. The record" in refused(
        capsys, tmp_path, "--run", "later"
    )


def test_wrong_arguments_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = written.run(tmp_path / "run", two_methods())
    assert "nowhere' is not there. Give a log directory" in refused(capsys, tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "SaliencyMonitor(record=56)" in refused(capsys, tmp_path / "empty")
    assert "--every 0: give a whole number from 1" in refused(capsys, run, "--every", 0)
    assert "end it with .html" in refused(capsys, run, "-o", tmp_path / "report.pdf")
    assert "there is no folder" in refused(capsys, run, "-o", tmp_path / "no" / "report.html")
    assert "end it with .webp or .gif" in refused(capsys, run, "--movie", tmp_path / "film.mp4")
    (tmp_path / "folder.html").mkdir()
    assert "that is a folder" in refused(capsys, run, "-o", tmp_path / "folder.html")


def test_a_page_is_whole_or_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = written.run(tmp_path / "run", two_methods())
    (tmp_path / "report.html").write_text("before")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lightning_saliency.reports.page.series", full)
    words = refused(capsys, run, "-o", tmp_path / "report.html")
    assert "can't be written: No space left on device" in words
    assert (tmp_path / "report.html").read_text() == "before"
    assert {one.name for one in tmp_path.iterdir()} == {"run", "report.html"}


def test_it_works_where_torch_and_lightning_cannot_be_imported(tmp_path: Path) -> None:
    written.run(tmp_path / "run", two_methods())
    code = """
import sys
for name in ("torch", "torchvision", "lightning", "pytorch_lightning", "jsonargparse"):
    sys.modules[name] = None  # importing it raises
from lightning_saliency.cli import run
run()
"""
    command = [sys.executable, "-c", code, "export", "run", "-o", "page.html", "--movie=film.webp"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    film, page, run = done.stdout.splitlines()
    assert re.fullmatch(r"film\.webp: \d+ kB: gradient, 12 of 12 observations", film)
    assert re.fullmatch(r"page\.html: \d+ kB", page)
    assert run == "run: 12 of 12 observations"
    assert written.data_of(tmp_path / "page.html")["index"]["runs"][0]["run"] == "run"
