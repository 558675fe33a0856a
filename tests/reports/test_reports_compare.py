"""Two runs of the same probes: what agrees, what does not, and what may not be compared."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import written
from PIL import Image
from scipy.stats import spearmanr

from lightning_saliency.record import History, read
from lightning_saliency.rendering.beside import beside
from lightning_saliency.reports.agreement import COSINE, RANKS, TOP, Agreement, agreement, maps_at
from lightning_saliency.reports.compare import compare
from lightning_saliency.reports.pairing import difference, pairs
from lightning_saliency.reports.tables import markdown

T, N = 4, 6


def run(folder: Path, given: written.Floats, **changed: Any) -> History:
    return read(written.run(folder, {"gradient": given}, **changed))


def agreed(a: History, b: History) -> Agreement:
    found = agreement(a, b, "gradient", pairs(a, b)[0])
    assert found is not None
    return found


def compared(capsys: pytest.CaptureFixture[str], *args: object) -> str:
    compare([str(one) for one in args])
    return capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str], *args: object) -> str:
    with pytest.raises(SystemExit) as ended:
        compare([str(one) for one in args])
    assert ended.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize("signed", [False, True])
def test_a_run_agrees_with_itself(signed: bool, tmp_path: Path) -> None:
    one = run(tmp_path, written.maps(0, T, N, 8, 7, signed=signed))
    found = agreed(one, one)
    assert set(found.values) == ({COSINE} if signed else set()) | {RANKS, TOP}
    assert found.main == (COSINE if signed else RANKS)
    for values in found.values.values():
        np.testing.assert_array_equal(values, np.ones((T, N)))
    for chance in found.chance.values():
        assert np.abs(chance).max() < 0.5


def test_reversed_maps_are_opposite(tmp_path: Path) -> None:
    given = written.maps(0, T, N, 8, 7, signed=True)
    found = agreed(run(tmp_path / "a", given), run(tmp_path / "b", -given))
    np.testing.assert_allclose(found.values[COSINE], -1, atol=1e-6)
    np.testing.assert_array_equal(found.values[RANKS], 1)  # of magnitudes
    np.testing.assert_array_equal(found.values[TOP], 1)
    ranks = np.argsort(np.argsort(given.reshape(T, N, -1), 2), 2)
    up = (ranks / 55).astype(np.float32).reshape(given.shape)
    found = agreed(run(tmp_path / "c", up), run(tmp_path / "d", np.float32(1) - up))
    np.testing.assert_allclose(found.values[RANKS], -1, atol=1e-6)
    np.testing.assert_array_equal(found.values[TOP], 0)


def test_numbers_are_those_of_a_reference(tmp_path: Path) -> None:
    a = run(tmp_path / "a", written.maps(0, T, N, 8, 7, signed=True))
    b = run(tmp_path / "b", written.maps(1, T, N, 8, 7, signed=True))
    found = agreed(a, b)
    for at in range(T):
        rows = zip(a.maps("gradient")[at], b.maps("gradient")[at], strict=True)
        for probe, (x, y) in enumerate(rows):
            cosine = (x * y).sum() / np.linalg.norm(x) / np.linalg.norm(y)
            ranks = spearmanr(np.abs(x).ravel(), np.abs(y).ravel()).statistic
            assert found.values[COSINE][at, probe] == pytest.approx(cosine, abs=1e-5)
            assert found.values[RANKS][at, probe] == pytest.approx(ranks, abs=1e-5)


def test_chance_is_the_agreement_of_other_probes(tmp_path: Path) -> None:
    """Maps that are all alike agree by chance as well as by probe."""
    spot = np.exp(-((np.mgrid[:8, :8] - 3.5) ** 2).sum(0) / 8).astype(np.float32)
    noise = written.maps(0, T, N, 8, 8)
    same = np.tile(spot, (T, N, 1, 1)) + 0.05 * noise
    other = np.tile(spot, (T, N, 1, 1)) + 0.05 * written.maps(1, T, N, 8, 8)
    found = agreed(run(tmp_path / "a", same), run(tmp_path / "b", other))
    assert float(np.median(found.chance[RANKS])) > 0.7
    assert float(np.median(found.last - found.chance[RANKS])) < 0.1


def test_undefined_maps_and_other_classes_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = written.maps(0, T, N, 8, 7)
    given[-1, 2] = np.nan
    explained = [0, 1, 2, 0, 1, 0]
    a, b = run(tmp_path / "a", given), run(tmp_path / "b", given, explained=explained)
    found = agreed(a, b)
    assert np.isnan(found.last).tolist() == [False, False, True, False, False, True]
    text = compared(capsys, tmp_path / "a", tmp_path / "b")
    assert re.search(r"\| rank correlation \|\s+1.00 \|.*4 of 6 \|", text)
    assert "1 probes are explained for other classes, and left out" in text


def test_maps_of_noise_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given, sure = written.maps(0, T, N, 5), [0.9] * N
    run(tmp_path / "a", given, reliability=sure)
    run(tmp_path / "b", given, reliability=[0.4, 0.49, np.nan, 0.5, 0.6, 0.7])
    text = compared(capsys, tmp_path / "a", tmp_path / "b")
    assert "maps of gradient are noise for the most part for 2 probes" in text
    assert "noise" not in compared(capsys, tmp_path / "a", tmp_path / "a")


def test_maps_of_other_sizes_are_brought_together(tmp_path: Path) -> None:
    coarse = written.maps(0, T, N, 4, 4)
    fine = np.repeat(np.repeat(coarse, 2, 2), 2, 3)
    a, b = run(tmp_path / "a", coarse), run(tmp_path / "b", fine)
    found = agreed(a, b)
    assert found.shape == (4, 4)
    np.testing.assert_allclose(found.values[RANKS], 1, atol=1e-5)
    of_a, of_b = maps_at(a, b, "gradient", found.pairs[-1])
    np.testing.assert_allclose(of_a, of_b, atol=1e-6)


def test_observations_are_paired_by_steps_or_else_by_labels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = written.maps(0, T, N, 5)
    a = run(tmp_path / "a", given)
    b = run(tmp_path / "b", given, steps=[0, 20, 30, 40])
    found, by = pairs(a, b)
    assert by == "label"  # four epochs against three steps
    c = run(tmp_path / "c", given, steps=[0, 20, 30, 40], labels=list("wxyz"))
    found, by = pairs(a, c)
    assert (by, [(one.a, one.b, one.step) for one in found]) == (
        "step",
        [(0, 0, 0), (2, 1, 20), (3, 2, 30)],
    )
    run(tmp_path / "d", given, steps=[1, 2, 3, 4], labels=list("wxyz"))
    assert "their steps are 0 to 30 and 1 to 4" in refused(capsys, a.folder, tmp_path / "d")
    assert "paired by their labels" in compared(capsys, a.folder, b.folder)


def test_the_table_says_who_is_least_alike(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = written.maps(0, T, N, 8, 7)
    other = given.copy()
    other[-1, 4] = written.maps(9, 1, 1, 8, 7)[0, 0]
    predictions = np.tile(np.arange(N) % 3, (T, 1))
    predictions[-1, 4] = 2
    run(tmp_path / "a", given)
    run(tmp_path / "b", other, predictions=predictions)
    text = compared(capsys, tmp_path / "a", tmp_path / "b")
    assert (
        "A is a, B is b: 6 probes, 4 observations of both, the last of them epoch 3, step 30."
        in text
    )
    assert "They predict the same for 5 of 6 probes; A is right for 6, B for 5." in text
    rows = text.split("| gradient, least alike")[1].splitlines()
    assert re.match(r"\| val\[4\] +\| dog +\| dog +\| owl +\|", rows[2])
    assert re.match(r"\| val\[0\] +\| cat +\| cat +\| cat +\|", rows[3])
    assert re.search(r"\| dog +\| +2 \|", text.split("by class")[1])
    assert text.split("over time")[1].count("| epoch ") == T


def test_methods_are_those_of_both(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = written.maps(0, T, N, 5)
    written.run(tmp_path / "a", {"gradient": given, "cam": given, "own": given})
    written.run(tmp_path / "b", {"other": given, "cam": given, "gradient": given})
    written.run(tmp_path / "c", {"lime": given})
    text = compared(capsys, tmp_path / "a", tmp_path / "b")
    assert re.findall(r"\| (\w+) +\| median", text) == ["gradient", "cam"]
    text = compared(capsys, tmp_path / "a", tmp_path / "b", "--method", "cam")
    assert re.findall(r"\| (\w+) +\| median", text) == ["cam"]
    words = refused(capsys, tmp_path / "a", tmp_path / "b", "--method", "own")
    assert "--method 'own': " in words
    assert "no method in common: gradient, cam, own and lime" in refused(
        capsys, tmp_path / "a", tmp_path / "c"
    )


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"order": [1, 0, 2, 3, 4, 5]}, "the same images in another order"),
        ({"targets": [0, 1, 2, 0, 1, 1]}, r"the labels of 1 of 6 \(val\[5\]\) differ"),
        ({"targets": None}, "only one of them has labels"),
        ({"classes": ["cat", "dog", "emu"]}, "their classes have different names"),
        (
            {"pictures": np.zeros((N, 12, 12, 3), dtype=np.uint8)},
            r"the inputs of 6 of 6 \(val\[0\], val\[1\], val\[2\], val\[3\], …\) differ",
        ),
        ({}, "their images and labels look the same, .* as by another normalisation"),
    ],
    ids=["order", "labels", "no labels", "classes", "inputs", "invisible"],
)
def test_other_probes_are_refused_with_how_they_differ(
    changed: dict[str, Any], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = written.maps(0, T, N, 5)
    a = run(tmp_path / "a", given)
    b = run(tmp_path / "b", given, hash="f" * 64, **changed)
    said = refused(capsys, a.folder, b.folder)
    assert "The runs watched other probes (hash 01234567 and ffffffff): " in said
    assert re.search(words, said)
    assert "Give both monitors the same probes" in said


def test_another_number_of_probes_is_refused(tmp_path: Path) -> None:
    a = run(tmp_path / "a", written.maps(0, T, N, 5))
    b = run(tmp_path / "b", written.maps(0, T, N + 2, 5), hash="f" * 64)
    assert difference(a.probes, b.probes) == "6 and 8 of them (6 names are in both)"
    c = run(tmp_path / "c", written.maps(0, T, N, 5), pictures=np.zeros((N, 9, 5, 3), np.uint8))
    assert difference(a.probes, c.probes) == "their images are of 12×12 and 9×5 pixels"


def test_what_cannot_be_compared_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a = run(tmp_path / "a", written.maps(0, T, N, 5)).folder
    b = run(tmp_path / "b", written.maps(0, T, N, 5)).folder
    assert "is not there" in refused(capsys, a, tmp_path / "none")
    assert "Give the folder of one run" in refused(capsys, a, tmp_path)
    assert "--picture" in refused(capsys, a, b, "--picture", tmp_path / "picture.tiff")
    assert "end it with .html" in refused(capsys, a, b, "-o", tmp_path / "page.pdf")
    assert "--every 0" in refused(capsys, a, b, "--every", 0)


def test_the_picture_is_of_the_least_alike(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = written.maps(0, T, 30, 8, 8)
    other = given.copy()
    other[-1, 20:] = written.maps(1, 1, 10, 8, 8)[0]
    a, b = run(tmp_path / "a", given).folder, run(tmp_path / "b", other).folder
    drawn: list[tuple[Any, ...]] = []

    def watched(*args: Any, **named: Any) -> Any:
        drawn.append((*args, named["title"], named["number"]))
        return beside(*args, **named)

    monkeypatch.setattr("lightning_saliency.reports.compare.beside", watched)
    assert "c.png: " in compared(capsys, a, b, "--picture", tmp_path / "c.png")
    with Image.open(tmp_path / "c.png") as image:
        assert image.format == "PNG"
        assert image.width > 1.5 * image.height
    ((pictures, (of_a, of_b), captions, title, number),) = drawn
    assert len(pictures) == len(captions) == 24
    assert [bool(np.abs(x - y).max() > 0.01) for x, y in zip(of_a, of_b, strict=True)] == (
        [True] * 10 + [False] * 14
    )
    assert [caption.probability for caption in captions[10:]] == [1.0] * 14
    assert title == "gradient · A: a · B: b · epoch 3, step 30 · 24 least alike of 30 probes"
    assert number == "number: rank correlation"


def test_the_page_opens_on_both(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = run(tmp_path / "logs" / "a" / "version_0", written.maps(0, T, N, 5)).folder
    b = run(tmp_path / "logs" / "b", written.maps(1, T - 1, N, 5)).folder
    page = tmp_path / "page.html"
    compared(capsys, a, b, "-o", page)
    data = written.data_of(page)
    assert data["start"] == {
        "run": "a/version_0",
        "monitor": "saliency",
        "other": "b\nsaliency",
        "method": "gradient",
        "step": "20",
    }
    assert set(data["series"]) == {"a/version_0\nsaliency", "b\nsaliency"}
    compared(capsys, a, a, "-o", page)
    assert written.data_of(page)["start"]["other"] == "version_0 again\nsaliency"


def test_tables_are_markdown_that_lines_up() -> None:
    made = markdown(["who", "says", "how often"], [["a|b", "two\nlines", "3"], ["c", "x", "−10.5"]])
    assert made.splitlines() == [
        "| who  | says      | how often |",
        "|------|-----------|----------:|",
        r"| a\|b | two lines |         3 |",
        "| c    | x         |     −10.5 |",
    ]
