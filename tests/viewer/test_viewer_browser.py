"""The tab in a browser: what a person sees, and what follows from what they do."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import small_fits as fits
import viewer_browser as seen
import viewer_data as data
from lightning.pytorch import Callback

from lightning_saliency import SaliencyMonitor
from lightning_saliency.record import read
from lightning_saliency.record.format import decode_maps, encode_maps
from lightning_saliency.rendering.colormaps import DIVERGING, SEQUENTIAL, Colormap

pytest_plugins = ["viewer_fixtures"]

SECOND = ".cell:nth-child(2) canvas"


def test_the_tab_is_there_and_drawn(tab: seen.Tab) -> None:
    tab.open(framed=True, run="one")
    assert tab.drawn == "50"
    assert len(tab.all(".cell canvas")) == data.N
    cells = [tab.pixels(f".cell:nth-child({at}) canvas") for at in (1, 2, 5)]
    assert len(set(cells)) == 3
    for part in (".plot", ".track", ".frame", "figure", ".scale"):
        assert tab.colours(f"{part} canvas") > 3, part
    runs = tab.menu("Run")
    assert len(runs) == 22
    assert {"plain", "newer"}.isdisjoint(runs)
    tab.driver.switch_to.default_content()
    labels = tab.driver.find_elements("css selector", "app-header [role=tab]")
    assert "SALIENCY" in [one.text.upper() for one in labels]


def test_keys_and_the_track_move_through_time(tab: seen.Tab) -> None:
    tab.open(run="one")
    newest = tab.pixels(SECOND)
    spoken = tab.one(".track").get_attribute("aria-valuetext")
    assert spoken == "epoch 4, step 50, observation 6 of 6"
    tab.press(seen.LEFT).shows(40)
    before = tab.pixels(SECOND)
    assert before != newest
    tab.press(seen.HOME).shows(0)
    tab.press(seen.RIGHT, seen.RIGHT).shows(20)
    assert tab.one(".track").get_attribute("aria-valuenow") == "3"
    tab.click(".track", 10 + 0.8 * (tab.one(".track").size["width"] - 20), 26).shows(40)
    assert tab.pixels(SECOND) == before
    tab.press(seen.END).shows(50)
    assert tab.pixels(SECOND) == newest


def test_play_shows_every_observation_in_turn(tab: seen.Tab) -> None:
    tab.open(run="one", step=0)
    tab.do(
        """
        window.film = [];
        const root = document.querySelector("main");
        const note = () => window.film.push(root.dataset.drawn);
        new MutationObserver(note).observe(root, {attributes: true});
        document.querySelector("select[aria-label=Pace]").value = "40";
        """
    )
    tab.press(" ").shows(50)
    assert list(dict.fromkeys(tab.do("return window.film"))) == ["10", "20", "30", "40", "50"]
    seen.wait(lambda: tab.one(".play").get_attribute("aria-label") == "Play (space)", "the end")


def test_a_click_on_a_curve_jumps_there(tab: seen.Tab) -> None:
    tab.open(run="one", measure="drift_first")
    x = 40 + 0.41 * (tab.one(".plot").size["width"] - 54)
    tab.click(".plot", x, 100).shows(20)
    assert tab.one(".track").get_attribute("aria-valuenow") == "3"
    found = set()
    for y in range(40, 200, 16):  # where a line is, its probe is chosen as well
        tab.click(".plot", x, y)
        found.add(tab.one(".names p").text)
    assert len(found) > 1
    assert tab.drawn == "20"


def test_two_runs_beside_each_other_and_their_difference(tab: seen.Tab) -> None:
    tab.open(run="one", step=30)
    alone = tab.pixels(SECOND)
    tab.pick("Beside", "two").shows("30 30")
    pair = tab.pixels(SECOND)
    assert pair != alone
    assert [one.text for one in tab.all(".facts th.a, .facts th.b")] == ["A", "B"]
    tab.press(seen.END).shows("50 40")  # of the other run the nearest
    tab.press(seen.LEFT, seen.LEFT).shows("30 30")
    tab.pick("Show", "Difference B − A").shows("30")
    assert tab.pixels(SECOND) not in (alone, pair)
    assert "−1" in tab.one(".scale").text
    tab.pick("Beside", "no other run").shows("30")
    assert "Difference B − A" not in tab.menu("Show")
    assert tab.pixels(SECOND) == alone


def test_other_probes_are_not_laid_beside(tab: seen.Tab) -> None:
    tab.open(run="one", other="elsewhere\nsaliency")
    assert "“elsewhere” watched other probes than “one” (hash bbbbbbbb, not aaaaaaaa)" in tab.text
    assert tab.drawn == "50"
    assert tab.all(".facts th.b") == []


def test_changes_from_the_first_the_previous_and_a_held_step(tab: seen.Tab) -> None:
    tab.open(run="one", step=30)
    drawn = {"Maps": tab.pixels(SECOND)}
    for words in ("Change from the first", "Change from the previous"):
        tab.pick("Show", words).shows(30)
        drawn[words] = tab.pixels(SECOND)
    assert len(set(drawn.values())) == 3
    tab.press(seen.HOME).shows(0).press("h")
    tab.press(seen.RIGHT, seen.RIGHT, seen.RIGHT).shows(30)
    tab.pick("Show", "Change from start").shows(30)
    assert tab.pixels(SECOND) == drawn["Change from the first"]
    tab.press(seen.HOME).shows(0)
    nothing = tab.pixels(SECOND)
    tab.pick("Show", "Change from the previous").shows(0)
    assert tab.pixels(SECOND) != nothing  # hatched: before the first there was none


def test_the_theme_is_that_of_tensorboard_or_of_the_system(tab: seen.Tab) -> None:
    tab.open(framed=True, run="one")
    light, ground = tab.pixels(".plot canvas"), tab.background
    tab.do("parent.document.body.classList.add('dark-mode')")
    seen.wait(lambda: tab.background != ground, "the dark")
    assert tab.pixels(".plot canvas") != light
    assert tab.colours(".plot canvas") > 3
    prefer(tab, "dark")
    tab.open(run="one")
    assert tab.background != ground
    prefer(tab, "light")
    seen.wait(lambda: tab.background == ground, "the light")


def prefer(tab: seen.Tab, theme: str) -> None:
    media = {"name": "prefers-color-scheme", "value": theme}
    tab.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [media]})


def test_the_matrix_is_sorted_by_drift_and_leads_to_its_places(tab: seen.Tab) -> None:
    tab.open(run="one", view="matrix", measure="drift_first")
    assert tab.colours(".matrix canvas") > 20
    tab.click(".matrix", 160, 40).shows(0)
    first = tab.one(".names p").text
    assert tab.press(seen.UP).one(".names p").text == first
    found = [drift(tab)]
    for _ in range(3):
        tab.press(seen.DOWN)
        found.append(drift(tab))
    assert found == sorted(found, reverse=True)
    assert found[0] > found[-1] > 0
    tab.pick("Order", "As given").press("m")
    assert len(tab.all(".cell")) == data.N


def drift(tab: seen.Tab) -> float:
    """The chosen probe's at the end, from the first."""
    tab.press(seen.END).shows(50)
    rows = [one.text for one in tab.all(".facts tr")]
    (row,) = [one for one in rows if one.startswith("from first")]
    return float(row.split()[-1])


def test_probes_are_searched_filtered_and_sorted(tab: seen.Tab) -> None:
    tab.open(run="one").press("/")
    tab.driver.switch_to.active_element.send_keys("val[1")
    seen.wait(lambda: len(tab.all(".cell")) == 3, "val[1], val[10], val[11]")
    assert tab.one(".count").text == "3 of 12 probes"
    tab.driver.switch_to.active_element.send_keys("nowhere")
    seen.wait(lambda: "No probe fits the filter." in tab.text, "an empty grid")
    tab.one(".nothing button").click()
    assert len(tab.all(".cell")) == data.N
    tab.pick("Class", "right")
    assert len(tab.all(".cell")) == data.N // 2
    tab.pick("Class", "Classes").pick("Predictions", "Flipped")
    assert len(tab.all(".cell")) == 6
    tab.pick("Predictions", "Wrong at the end")
    assert len(tab.all(".cell")) == 1
    tab.pick("Predictions", "Predictions").pick("Order", "Most flips first")
    assert tab.one(".cell:first-child").get_attribute("id") == "probe-1"
    tab.slide("Least drift", 0.9)
    assert 0 < len(tab.all(".cell")) < data.N


def test_the_overlay_its_colours_and_its_scale(tab: seen.Tab) -> None:
    tab.open(run="one", step=30)
    drawn = [tab.pixels(SECOND)]
    tab.slide("overlay", 0.2)
    drawn.append(tab.pixels(SECOND))
    tab.pick("Colour map", "Sea")
    drawn.append(tab.pixels(SECOND))
    tab.pick("Scale", "shared")  # its peak is a quarter of the largest
    drawn.append(tab.pixels(SECOND))
    assert "largest peak over the run" in tab.one(".words").text
    tab.press("o")
    bare = tab.pixels(SECOND)
    tab.press(seen.HOME).shows(0)
    assert tab.pixels(SECOND) == bare  # the image alone, at any time
    tab.press("o", seen.END).shows(50)
    drawn.append(tab.pixels(SECOND))
    assert len({*drawn, bare}) == len(drawn) + 1


def test_what_is_shown_has_an_address(tab: seen.Tab) -> None:
    tab.open(framed=True, run="one").press(seen.LEFT, "m").pick("Method", "change").shows(40)
    seen.wait(lambda: "method=change" in tab.do("return parent.location.hash"), "the address")
    hash = tab.do("return parent.location.hash")
    assert hash.startswith("#saliency&")
    assert "p.saliency.step=40" in hash
    tab.driver.switch_to.default_content()
    tab.driver.get("about:blank")
    tab.driver.get(tab.address + hash)
    tab.enter()
    tab.settled().shows(40)
    assert tab.do("return document.querySelector('[aria-label=Method]').value") == "change"
    assert tab.one(".switch [aria-checked=true]").text == "Matrix"


def test_strange_addresses_do_no_harm(tab: seen.Tab) -> None:
    tab.open(run="none", monitor="x", method="?", probe=999, step="x", view="<b>", opacity=-5)
    assert tab.state == "ready"
    assert tab.one(".switch [aria-checked=true]").text == "Grid"


def test_labels_are_text(tab: seen.Tab) -> None:
    tab.open(run="one", probe=0, step=20)
    assert data.MARKUP in tab.one(".names p").text
    assert tab.one(".names h1").text == "<i>left</i>"
    happened = tab.one(".happenings").get_attribute("textContent")
    assert "The <b>top</b> left cell." in happened
    assert tab.all("b, img, i:not(.key > i)") == []
    assert [one.get_attribute("textContent") for one in tab.all("strong")].count("Region alert.")
    assert "broken in" not in tab.driver.title


def test_maps_of_another_fit_at_the_same_step_are_not_shown(tab: seen.Tab) -> None:
    tab.open(run="two", step=10, opacity=0.6)
    stale = tab.pixels(SECOND)
    tab.open(run="two", step=10, opacity=0.6, method="change")
    assert tab.pixels(SECOND) == stale  # hatched, both
    tab.press(seen.RIGHT).shows(20)
    assert tab.pixels(SECOND) != stale


def test_maps_that_are_noise_are_not_shown(tab: seen.Tab) -> None:
    noisy = f"#probe-{data.NOISY} canvas"
    tab.open(run="one", step=40, method="change")
    hatched = tab.pixels(noisy)
    tab.press(seen.RIGHT).shows(50)
    assert tab.pixels(noisy) == hatched
    tab.pick("Method", "gradient").shows(50)
    assert tab.pixels(noisy) != hatched


def test_what_can_not_be_shown_is_said(tab: seen.Tab) -> None:
    tab.open(run="torn")
    assert tab.drawn == "10"
    assert re.search("“newer” is not shown: .*record is of version 2", tab.text)
    assert "“torn”: 1 observation can't be read and is left out" in tab.text
    notes = len(tab.all(".notices p"))
    tab.one(".notices p:first-child button").click()
    assert len(tab.all(".notices p")) == notes - 1


def test_the_python_loader_under_a_prefix_without_torch(
    tab: seen.Tab, addresses: dict[str, str]
) -> None:
    tab.address = addresses["slow"]
    assert tab.address.endswith("/deep/er/")
    tab.open(framed=True, run="one", other="two\nsaliency")
    assert tab.drawn == "50 40"
    slow = tab.pixels(SECOND)
    tab.address = addresses["fast"]
    tab.open(framed=True, run="one", other="two\nsaliency")
    assert tab.pixels(SECOND) == slow


def test_a_fit_is_followed_while_it_runs(
    tab: seen.Tab, addresses: dict[str, str], nothing: Path
) -> None:
    tab.address = addresses["nothing"]
    tab.open()
    assert tab.state == "empty"
    assert "No run in this log directory has a saliency record yet." in tab.text
    watcher = Watcher(tab)
    trainer = fits.trainer(
        max_epochs=2,
        logger=fits.board(nothing / "fit"),
        callbacks=[SaliencyMonitor(probes=4, record=8), watcher],
        num_sanity_val_steps=1,
    )
    trainer.fit(fits.Net(), fits.loader(), fits.loader())
    assert watcher.seen == [1, 2, 3]
    assert tab.one(".count").text == "4 probes"


class Watcher(Callback):
    """After each validation, presses TensorBoard's reload button until the tab has it."""

    def __init__(self, tab: seen.Tab) -> None:
        self.tab = tab
        self.seen: list[int] = []

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        wanted = len(self.seen) + 1
        self.seen.append(seen.wait(lambda: self.reloaded(wanted), f"observation {wanted}", 30))

    def reloaded(self, wanted: int) -> int:
        driver = self.tab.driver
        driver.switch_to.default_content()
        if wanted == 1:  # TensorBoard has no frame for a tab without data
            driver.get("about:blank")
            driver.get(f"{self.tab.address}#saliency")
            time.sleep(1)
            if not driver.find_elements("css selector", seen.FRAME):
                return 0
        driver.find_element("css selector", "app-header-reload button").click()
        self.tab.enter()
        time.sleep(0.3)
        track = self.tab.settled().all(".track[aria-valuemax]")
        count = int(track[0].get_attribute("aria-valuemax")) if track else 0
        return count if count >= wanted else 0


def test_maps_are_decoded_and_painted_as_python_does(tab: seen.Tab, logs: Path) -> None:
    tab.open(run="one")
    history = read(logs, run="one")
    for method, signed in (("gradient", False), ("change", True)):
        blob = history.blobs[method][1]
        assert blob is not None
        found = decoded(tab, blob)
        assert found["signed"] is signed
        assert found["defined"] == [probe != 3 for probe in range(data.N)]
        np.testing.assert_array_equal(found["planes"], decode_maps(blob).levels.reshape(data.N, -1))
    hot = np.random.default_rng(0).random((data.N, 40, 40), dtype=np.float32) / 2
    hot[:, 7, 3] = 1  # one place alone, which is not to darken the others
    blobs = [history.blobs["gradient"][4], encode_maps(hot, np.ones(data.N), step=0)]
    for blob in blobs:
        assert blob is not None
        assert painted_otherwise(tab, blob, 2, SEQUENTIAL) < 0.05
    blob = history.blobs["change"][4]
    assert blob is not None
    assert painted_otherwise(tab, blob, 2, DIVERGING) < 0.05
    for shape in ((7,), (5, 4, 3)):  # a signal is a row; of a volume the middle slice is seen
        drawn = np.random.default_rng(0).random((2, *shape), dtype=np.float32)
        drawn /= drawn.reshape(2, -1).max(1).reshape(2, *[1] * len(shape))
        blob = encode_maps(drawn, np.ones(2), step=0)
        kept = decode_maps(blob).levels
        plane = kept if len(shape) == 1 else kept[:, shape[0] // 2]
        np.testing.assert_array_equal(decoded(tab, blob)["planes"], plane.reshape(2, -1))


def decoded(tab: seen.Tab, blob: bytes) -> Any:
    """What the browser makes of the bytes."""
    return tab.driver.execute_async_script(
        """
        const [bytes, done] = arguments;
        import("./decode.js").then(async ({decodeMaps}) => {
          const maps = await decodeMaps(new Uint8Array(bytes).buffer);
          const probes = [...Array(maps.count).keys()];
          const defined = probes.map((one) => maps.defined(one));
          done({signed: maps.signed, defined, planes: probes.map((one) => [...maps.plane(one)])});
        });
        """,
        list(blob),
    )


def painted_otherwise(tab: seen.Tab, blob: bytes, probe: int, colours: Colormap) -> float:
    """The share of colours that are not Python's; none is more than an entry of the table off."""
    maps = decode_maps(blob).maps[probe]
    top = np.sort(np.abs(maps).ravel())[-1 - int(0.005 * (maps.size - 1))]
    found = tab.driver.execute_async_script(
        """
        const [bytes, probe, side, done] = arguments;
        const modules = [import("./decode.js"), import("./paint.js")];
        Promise.all(modules).then(async ([{decodeMaps}, {paint}]) => {
          const maps = await decodeMaps(new Uint8Array(bytes).buffer);
          const canvas = document.createElement("canvas");
          [canvas.width, canvas.height] = [side, side];
          const context = canvas.getContext("2d");
          const gain = 1 / maps.top(probe);
          const pane = {sheet: {draw() {}}, probe, maps, base: null, gain, note: ""};
          const box = {left: 0, top: 0, width: side, height: side};
          paint(context, box, pane, {opacity: 1, colour: "heat"});
          done([...context.getImageData(0, 0, side, side).data]);
        });
        """,
        list(blob),
        probe,
        len(maps),
    )
    off = np.abs(np.array(found).reshape(*maps.shape, 4)[..., :3] - colours(maps / top).astype(int))
    assert off.max() <= 12
    return float((off > 0).mean())
