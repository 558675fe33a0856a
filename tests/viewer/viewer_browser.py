"""A headless Chromium, and the Saliency tab in it."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

FLAGS = (
    "headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run",
    "disable-background-networking", "disable-component-update", "disable-sync",
    "disable-dev-shm-usage", "window-size=1440,900",
)  # fmt: skip

OTHERS = ("favicon.ico", "/font-roboto/", "/data/plugin/hparams/")
"""What fails in TensorBoard itself: an icon without its page, its fonts under a prefix, and a page
of its oldest release beside a newer protobuf."""

FRAME = "iframe[src*='name=saliency']"


@contextmanager
def browser(profile: Path) -> Iterator[webdriver.Chrome]:
    """Chromium with a fresh profile; without one the test is skipped, but not in CI."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if program is None or driver is None:
        if os.environ.get("CI"):
            pytest.fail("There is no chromium or no chromedriver: .ci/run installs them.")
        pytest.skip("needs chromium and chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in (*FLAGS, f"user-data-dir={profile}"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.ChromeService(executable_path=driver)
    chromium = webdriver.Chrome(options=options, service=service)
    try:
        yield chromium
    finally:
        chromium.quit()


def wait(condition: Callable[[], Any], what: str, patience: float = 20) -> Any:
    """What a condition gives as soon as it is true."""
    until = time.monotonic() + patience
    while time.monotonic() < until:
        found = condition()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError(f"waited in vain for {what}")


class Tab:
    """The Saliency tab of a TensorBoard, alone or in TensorBoard's page."""

    def __init__(self, driver: webdriver.Chrome, address: str) -> None:
        self.driver, self.address = driver, address
        self.framed = False

    def open(self, *, framed: bool = False, **chosen: Any) -> Tab:
        """Load it anew with what is chosen in the address, and wait for the complete draw."""
        self.driver.switch_to.default_content()
        self.driver.get("about:blank")  # else another hash alone would load nothing
        self.framed = framed
        prefix = "p.saliency." if framed else ""
        hash = "&".join(f"{prefix}{name}={quote(str(value))}" for name, value in chosen.items())
        page = "" if framed else "data/plugin_entry.html?name=saliency"
        self.driver.get(f"{self.address}{page}#{'saliency&' if framed else ''}{hash}")
        if framed:
            self.enter()
        return self.settled()

    def enter(self) -> None:
        """Go into the tab's frame."""
        self.driver.switch_to.default_content()
        find = self.driver.find_elements
        self.driver.switch_to.frame(wait(lambda: find(By.CSS_SELECTOR, FRAME), "the frame")[0])

    def settled(self) -> Tab:
        """Wait until all is drawn, or said."""
        wait(lambda: self.do(_SETTLED), "the tab")
        return self

    def do(self, code: str, *given: Any) -> Any:
        """What a script in the tab returns."""
        return self.driver.execute_script(code, *given)

    @property
    def state(self) -> str | None:
        """Of the whole: loading, ready, empty or error."""
        found: str | None = self.do("return document.querySelector('main')?.dataset.state")
        return found

    @property
    def drawn(self) -> str:
        """The steps whose maps are seen."""
        found: str = self.do("return document.querySelector('main').dataset.drawn || ''")
        return found

    @property
    def text(self) -> str:
        """All words that are seen."""
        found: str = self.do("return document.querySelector('main').innerText")
        return found

    def all(self, selector: str) -> list[Any]:
        """Elements."""
        return self.driver.find_elements(By.CSS_SELECTOR, f"main {selector}")

    def one(self, selector: str) -> Any:
        """The only element of its kind."""
        (found,) = self.all(selector)
        return found

    def pick(self, name: str, words: str) -> Tab:
        """Choose from the menu of this name."""
        self.do(
            """
            const [name, words] = arguments;
            const menu = document.querySelector(`select[aria-label="${name}"]`);
            const option = [...menu.options].find((one) => one.textContent === words);
            if (!option) throw new Error(`${words} is not among ${menu.textContent}`);
            menu.value = option.value;
            menu.dispatchEvent(new Event("change"));
            """,
            name,
            words,
        )
        return self.settled()

    def menu(self, name: str) -> list[str]:
        """What can be chosen."""
        code = "return [...document.querySelector(`select[aria-label='${arguments[0]}']`).options]"
        found: list[str] = self.do(f"{code}.map((one) => one.textContent)", name)
        return found

    def press(self, *keys: str) -> Tab:
        """Keys, wherever the tab itself has them."""
        self.do("window.focus(); document.activeElement?.blur()")
        for key in keys:
            self.driver.find_element(By.TAG_NAME, "body").send_keys(key)
        return self

    def shows(self, step: int | str) -> Tab:
        """Wait for the maps of a step; of two runs, for both."""
        wait(lambda: self.drawn == str(step), f"step {step}, which is {self.drawn}")
        return self

    def pixels(self, selector: str) -> str:
        """What is on a canvas, as an address of data."""
        code = "return document.querySelector(`main ${arguments[0]}`).toDataURL()"
        found: str = self.do(code, selector)
        return found

    def colours(self, selector: str) -> int:
        """How many different ones are on a canvas."""
        code = """
            const canvas = document.querySelector(`main ${arguments[0]}`);
            const {data} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
            return new Set(new Uint32Array(data.buffer)).size;
        """
        found: int = self.do(code, selector)
        return found

    @property
    def background(self) -> str:
        """The colour of the ground."""
        code = "return getComputedStyle(document.querySelector('main')).backgroundColor"
        found: str = self.do(code)
        return found

    def click(self, selector: str, x: float, y: float) -> Tab:
        """On a place of an element, counted from its top left corner."""
        node = self.one(selector)
        wide, high = node.size["width"], node.size["height"]
        pointer = ActionChains(self.driver, duration=0)
        pointer.move_to_element_with_offset(node, int(x - wide / 2), int(y - high / 2))
        pointer.click().perform()
        return self

    def slide(self, name: str, value: float) -> Tab:
        """Move the slider of this name."""
        self.do(
            """
            const [name, value] = arguments;
            const slides = [...document.querySelectorAll("input[type=range]")];
            const named = (one) => one.getAttribute("aria-label") || one.closest("label").innerText;
            const slide = slides.find((one) => named(one).trim() === name);
            slide.value = String(value);
            slide.dispatchEvent(new Event("input"));
            """,
            name,
            value,
        )
        return self

    def complaints(self) -> list[str]:
        """Errors on the console since this was asked last."""
        return [
            entry["message"]
            for entry in self.driver.get_log("browser")  # type: ignore[no-untyped-call]
            if entry["level"] == "SEVERE" and not any(one in entry["message"] for one in OTHERS)
        ]

    def requested(self) -> list[str]:
        """Addresses that were asked for since this was asked last."""
        messages = [
            json.loads(entry["message"])["message"]
            for entry in self.driver.get_log("performance")  # type: ignore[no-untyped-call]
        ]
        return [
            one["params"]["request"]["url"]
            for one in messages
            if one["method"] == "Network.requestWillBeSent"
        ]


_SETTLED = """
    const root = document.querySelector("main");
    const done = ["ready", "empty", "error"].includes(root?.dataset.state);
    return done && !root.hasAttribute("aria-busy");
"""

LEFT, RIGHT, UP, DOWN, HOME, END = (
    Keys.ARROW_LEFT, Keys.ARROW_RIGHT, Keys.ARROW_UP, Keys.ARROW_DOWN, Keys.HOME, Keys.END,
)  # fmt: skip
