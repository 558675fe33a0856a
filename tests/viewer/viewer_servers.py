"""TensorBoard in a process of its own, as a user starts it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

ADDRESS = re.compile(rb"at (http://\S+)")

START = "import sys; sys.modules.update({}); from tensorboard import main; main.run_main()"
"""Of TensorBoard, where importing what stands in the braces fails."""

HEAVY = dict.fromkeys(("torch", "lightning", "pytorch_lightning", "torchvision"))


class Server:
    """A TensorBoard on a free port of this machine.

    Args:
        logdir: what it shows.
        flags: of its command line.
        words: a file for what it says.
        missing: names of modules that can't be imported → None.
    """

    def __init__(
        self, logdir: Path, *flags: str, words: Path, missing: dict[str, None] | None = None
    ) -> None:
        self.words = words
        code = START.format(missing or {})
        command = [sys.executable, "-c", code, "--logdir", str(logdir), "--port", "0"]
        with words.open("wb") as stream:
            self._process = subprocess.Popen(
                [*command, "--host", "127.0.0.1", "--reload_interval", "1", *flags],
                stdout=stream,
                stderr=stream,
                cwd=words.parent,  # not where an older install's metadata may lie
                env={**os.environ, "PYTHONWARNINGS": "ignore"},
            )

    def address(self, patience: float = 60) -> str:
        """Where it serves, as soon as it does; ends with a slash."""
        until = time.monotonic() + patience
        while time.monotonic() < until and self._process.poll() is None:
            found = ADDRESS.search(self.words.read_bytes())
            if found:
                return found[1].decode().rstrip("/") + "/"
            time.sleep(0.05)
        raise AssertionError(f"TensorBoard does not serve: {self.words.read_text()}")

    def stop(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait(timeout=20)
