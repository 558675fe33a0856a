"""Make the screenshots of the viewer from the demo's run: `make demo`, then run this.

    python docs/viewer.py runs/demo

Needs Chromium and its driver, as the tests of the viewer do.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests" / "viewer"), str(ROOT / "tests")]

from viewer_browser import Tab, browser  # noqa: E402
from viewer_servers import Server  # noqa: E402

SHOTS: dict[str, dict[str, object]] = {
    "viewer-grid": {"method": "gradient"},
    "viewer-change": {"method": "gradient", "show": "previous", "step": 315, "opacity": 1},
    "viewer-matrix": {"method": "smoothgrad", "view": "matrix"},
}
"""Name of the picture → what is chosen in the address; step 315 is epoch 4, the mended data."""


def main(logdir: str) -> None:
    """One picture each, the last of them dark."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        server = Server(Path(logdir).resolve(), words=folder / "words")
        try:
            address = server.address()
            with browser(folder / "profile") as chromium:
                tab = Tab(chromium, address)
                for name, chosen in SHOTS.items():
                    tab.open(framed=True, **chosen)
                    time.sleep(2)  # the frames of the film come after the grid
                    chromium.switch_to.default_content()
                    shot = folder / f"{name}.png"
                    chromium.save_screenshot(str(shot))
                    kept = ROOT / "docs" / "images" / f"{name}.png"
                    # A few hundred colours are all there are; a quarter of the bytes.
                    Image.open(shot).convert("RGB").quantize(256).save(kept, optimize=True)
                    print(kept.name)
        finally:
            server.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
