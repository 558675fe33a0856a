"""The plugin without a browser: what it serves, what it refuses, and that it stops nothing."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import viewer_data as data
from tensorboard.backend import application
from tensorboard.backend.event_processing import data_provider, plugin_event_multiplexer
from tensorboard.plugins import base_plugin
from werkzeug.test import Client

from lightning_saliency.record import PLUGIN, read
from lightning_saliency.record.summaries import summary
from lightning_saliency.rendering.colormaps import DIVERGING, SEQUENTIAL, lightness
from lightning_saliency.viewer import files
from lightning_saliency.viewer.plugin import PLUGIN as SERVED
from lightning_saliency.viewer.plugin import SaliencyLoader

pytest_plugins = ["viewer_fixtures"]

ROOT = "/data/plugin/saliency/"


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("logs")
    data.Run(folder / "one", masks=True).observe(4).close()
    torn = data.Run(folder / "torn", monitor="eyes").observe(3)
    torn.event(data.damaged("eyes", 30), 30).event(data.nonsense("eyes", 40), 40)
    torn.event(summary("eyes", {}, data.observation(5, 0, hash="b" * 64).encoded()), 50).close()
    made = summary("saliency", {}, data.observation(0, 0).encoded(), data.sheet().encoded())
    data.Run(folder / "newer").event(data.newer(made), 0).close()
    other = data.Run(folder / "two_of_a_kind").observe(2)
    other.monitor = "later"
    other.event(data.newer(summary("later", {}, data.observation(0, 0).encoded())), 0).close()
    bare = data.Run(folder / "bare")
    bare.event(summary("saliency", {}, data.observation(0, 0).encoded()), 0).close()
    return folder


@pytest.fixture(scope="module")
def client(logs: Path) -> Client:
    """TensorBoard's own application around the plugin, with the Python loader."""
    multiplexer = plugin_event_multiplexer.EventMultiplexer(tensor_size_guidance={PLUGIN: 0})
    multiplexer.AddRunsFromDirectory(str(logs))
    multiplexer.Reload()
    provider = data_provider.MultiplexerDataProvider(multiplexer, str(logs))
    context = base_plugin.TBContext(data_provider=provider)
    plugin = SaliencyLoader().load(context)
    assert plugin is not None
    return Client(application.TensorBoardWSGI([plugin], data_provider=provider))


def document(client: Client, path: str) -> Any:
    answer = client.get(ROOT + path)
    assert answer.status_code == 200
    return json.loads(answer.get_data())


def test_the_index_names_what_is_there_and_why_the_rest_is_not_shown(client: Client) -> None:
    found = document(client, "index")
    assert found["version"] == 1
    shown = {(one["run"], one["monitor"]): one for one in found["runs"]}
    assert list(shown) == [("one", "saliency"), ("torn", "eyes"), ("two_of_a_kind", "saliency")]
    assert shown["one", "saliency"]["last"] == 30
    assert sorted(shown["one", "saliency"]["methods"]) == ["change", "gradient"]
    refused = {(one["run"], one["monitor"]): one["why"] for one in found["refused"]}
    assert refused.keys() == {
        ("bare", "saliency"),
        ("newer", "saliency"),
        ("two_of_a_kind", "later"),
    }
    for key in (("newer", "saliency"), ("two_of_a_kind", "later")):
        assert re.search("version 2 .* knows 1 at most.*pip install --upgrade", refused[key])
    assert "no probes" in refused["bare", "saliency"]


def test_a_series_is_what_the_reader_reads(client: Client, logs: Path) -> None:
    found, history = document(client, "series?run=one&monitor=saliency"), read(logs, run="one")
    observations = found["observations"]
    assert [one["step"] for one in observations] == history.steps.tolist() == [0, 10, 20, 30]
    plain = [{key: one[key] for key in one if key != "maps"} for one in observations]
    assert plain == [dict(one) for one in history.observations]
    assert found["notes"] == []
    probes = found["probes"]
    assert {key: probes[key] for key in history.probes.header} == history.probes.header
    assert blob(client, probes["sprite"]) == history.probes.sprite
    assert blob(client, probes["masks"]) == history.probes.mask_sprite
    for t, one in enumerate(observations):
        for method in ("gradient", "change"):
            assert blob(client, one["maps"][method]) == history.blobs[method][t]


def blob(client: Client, key: str) -> bytes:
    answer = client.get(f"{ROOT}blob?key={key}")
    assert answer.status_code == 200
    assert answer.mimetype == "application/octet-stream"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    return answer.get_data()


def test_what_is_damaged_is_left_out_and_said(client: Client) -> None:
    found = document(client, "series?run=torn&monitor=eyes")
    assert [one["step"] for one in found["observations"]] == [0, 10, 20]
    spoilt, others = found["notes"]
    assert spoilt.startswith("2 observations can't be read and are left out: ")
    assert others == "1 observation of other probes, from before a resume, is left out."


def test_a_newer_record_is_refused_with_a_word(client: Client) -> None:
    found = document(client, "series?run=newer&monitor=saliency")
    assert list(found) == ["refused"]
    assert "version 2" in found["refused"]


@pytest.mark.parametrize(
    "path",
    [
        "../../../etc/passwd", "..%2f..%2fplugin.py", "static/index.js", "files.py", "plugin.py",
        "index.js/..", "%2e%2e/reading.py", "unknown.js", "blob", "blob?key=", "blob?key=../x",
        "blob?key=WyIiXQ", "blob?key=%00", "blob?key=WyIiLCJzYWxpZW5jeSIsIm9uZSIsIngiLDAsMF0",
        "series/one", "blobs",
    ],
)  # fmt: skip
def test_what_is_not_known_is_not_there(client: Client, path: str) -> None:
    assert client.get(ROOT + path).status_code == 404


@pytest.mark.parametrize(
    "names", ["", "?run=one", "?run=..%2fone&monitor=saliency", "?run=one&monitor=nobody"]
)
def test_of_an_unknown_run_there_is_no_record(client: Client, names: str) -> None:
    found = document(client, f"series{names}")
    assert list(found) == ["refused"]
    assert found["refused"].startswith("There is no record")


def test_only_the_listed_files_are_served_as_what_they_are(client: Client) -> None:
    on_disk = {path.name for path in files.STATIC.iterdir()}
    assert on_disk == {*files.MODULES, files.STYLE}
    for name in (*files.MODULES, files.STYLE):
        answer = client.get(ROOT + name)
        assert answer.get_data() == (files.STATIC / name).read_bytes()
        assert answer.mimetype == ("text/css" if name == files.STYLE else "text/javascript")


IMPORT = re.compile(r'^import \{ [\w, ]+ \} from "\./(\w+\.js)";$')
EXPORT = re.compile(r"^export (async function|function|class|const) \w+")


def test_modules_can_be_put_into_one_page() -> None:
    """Static imports of names, one a line, of listed modules, in no circle; nothing from afar."""
    imported: dict[str, set[str]] = {}
    for name in files.MODULES:
        lines = (files.STATIC / name).read_text().splitlines()
        assert len(lines) <= 400, name
        found = [line for line in lines if line.startswith("import")]
        assert all(IMPORT.match(line) for line in found), name
        imported[name] = {match[1] for line in found if (match := IMPORT.match(line))}
        assert all(EXPORT.match(line) for line in lines if line.startswith("export")), name
        if name == "index.js":
            continue  # no part of such a page
        source = "\n".join(lines).replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?:|//cdn|\beval\(|innerHTML|new Worker|import\(", source), name
        assert name == "source.js" or not re.search(r"(?<![.\w])fetch\(", source), name
    assert set().union(*imported.values()) < set(files.MODULES)
    while imported:
        free = {name for name, needed in imported.items() if not needed & imported.keys()}
        assert free, f"these import each other: {sorted(imported)}"
        imported = {name: needed for name, needed in imported.items() if name not in free}
    assert "url(" not in (files.STATIC / files.STYLE).read_text()


def table(name: str) -> Any:
    source = (files.STATIC / "tables.js").read_text()
    written = source.split(f"export const {name} =")[1].split(";")[0]
    text = "".join(re.findall('"([^"]*)"', written))
    return np.frombuffer(base64.b64decode(text), dtype=np.uint8).reshape(256, 3)


def test_colours_are_those_of_the_pictures() -> None:
    np.testing.assert_array_equal(table("HEAT"), SEQUENTIAL.table)
    np.testing.assert_array_equal(table("DIVERGING"), DIVERGING.table)
    rising = np.diff(lightness(table("SEA")))
    assert rising.min() > 0
    np.testing.assert_allclose(rising, rising.mean(), atol=0.35)


def test_every_step_is_kept_and_flags_of_any_kind_do_no_harm() -> None:
    flags = Namespace(samples_per_plugin={"images": 5})
    SaliencyLoader().fix_flags(flags)
    assert flags.samples_per_plugin == {"images": 5, "saliency": 0}
    flags.samples_per_plugin = {"saliency": 7}
    SaliencyLoader().fix_flags(flags)
    assert flags.samples_per_plugin == {"saliency": 7}
    for strange in (Namespace(), Namespace(samples_per_plugin=None), None):
        SaliencyLoader().fix_flags(strange)


def test_a_plugin_that_cannot_be_made_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    assert SaliencyLoader().load(SimpleNamespace(data_provider=None)) is None
    monkeypatch.setitem(sys.modules, "lightning_saliency.viewer.routes", None)
    assert SaliencyLoader().load(SimpleNamespace(data_provider=object())) is None


def test_the_name_is_that_of_the_series() -> None:
    assert SERVED == PLUGIN


def test_tensorboard_imports_the_standard_library_only() -> None:
    code = (
        "import sys, tensorboard.plugins.base_plugin, tensorboard.util.tb_logging; "
        "known = set(sys.modules); import lightning_saliency.viewer.plugin; "
        "print(*(set(sys.modules) - known))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    foreign = {name.split(".")[0] for name in done.stdout.split()} - sys.stdlib_module_names
    assert foreign == {"lightning_saliency"}
