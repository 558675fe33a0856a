"""Modules become one script: what they share is shared, what is theirs alone stays theirs."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from lightning_saliency.reports.bundle import script
from lightning_saliency.viewer.files import MODULES, STATIC

COUNTER = """
let hidden = 0;
export const start = 40;
export function next() {
  hidden += 1;
  return start + hidden;
}
export class Box { get value() { return hidden; } }
"""

SECOND = """import { next as step } from "./counter.js";
const hidden = "another";
export async function twice() { return [step(), step(), hidden]; }
"""

ENTRY = """import {
  Box,
  start,
} from "./counter.js";
import { twice } from "./second.js";
"""


def folder_of(path: Path, **modules: str) -> Path:
    for name, text in modules.items():
        (path / f"{name}.js").write_text(text)
    return path


def test_modules_run_once_and_keep_their_own_names(tmp_path: Path) -> None:
    node = shutil.which("node")
    folder = folder_of(tmp_path, counter=COUNTER, second=SECOND)
    entry = ENTRY + "twice().then((found) => console.log(start, ...found, new Box().value));\n"
    made = script(entry, folder)
    assert made.count("let hidden = 0;") == 1, "imported by two, and there once"
    assert made.index("let hidden = 0;") < made.index('const hidden = "another"')
    if node is None:
        pytest.skip("no node to run it")
    done = subprocess.run([node, "-e", made], capture_output=True, text=True, check=True)
    assert done.stdout == "40 41 42 another 2\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("export default 1;", "a.js: 'export default 1;' can't be brought"),
        ("export let changing = 1;", "export let changing"),
        ("const a = 1;\nexport { a };", "export { a }"),
        ('export * from "./b.js";', "export"),
        ('import b from "./b.js";', "import b from"),
        ('const b = import("./b.js");', r"import\("),
        ("export const here = import.meta.url;", "import.meta"),
    ],
)
def test_what_cannot_be_taken_apart_is_refused(text: str, words: str, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, a=text)
    with pytest.raises(RuntimeError, match=words):
        script('import { a } from "./a.js";\n', folder)


def test_circles_are_named(tmp_path: Path) -> None:
    folder = folder_of(
        tmp_path,
        a='import { b } from "./b.js";\nexport const a = 1;',
        b='import { a } from "./a.js";\nexport const b = 1;',
    )
    with pytest.raises(RuntimeError, match=r"a\.js → b\.js → a\.js: modules import in a circle"):
        script('import { a } from "./a.js";\n', folder)


def test_words_that_end_a_script_do_not(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, a='export const a = "</SCRIPT><!-- <script>";')
    made = script('import { a } from "./a.js";\n', folder)
    assert r'"\x3c/SCRIPT>\x3c!-- \x3cscript>"' in made


def test_the_viewer_can_be_taken_apart() -> None:
    """All of its modules but TensorBoard's way in, none of which keeps an import."""
    others = [name for name in MODULES if name != "index.js"]
    made = script("".join(f'import {{}} from "./{name}";\n' for name in others), STATIC)
    for name in others:
        assert f"const ${re.sub(r'[^a-z]', '_', name)} = " in made
    assert not re.search(r"^(import|export)\b", made, re.MULTILINE)
