"""What is wrong in a config is told by the command line: what, where, and what there is instead."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_fits import command

CONFIG = """
seed_everything: 1
trainer:
  accelerator: cpu
  max_epochs: 1
  logger: false
  enable_checkpointing: false
  enable_progress_bar: false
  enable_model_summary: false
  callbacks:
    - class_path: lightning_saliency.SaliencyMonitor
      init_args: {arguments}
model: own_method.SmallNet
data: own_method.SmallData
"""

TYPOS = {
    "{methods: [saliensy]}": ("methods", "'saliensy'", "'saliency', 'signed_gradient'"),
    "{methods: {cam: gradcam}}": ("methods", "gradcam", "'grad_cam'"),
    "{methods: {mine: own_method.no_such}}": ("methods", "has no attribute 'no_such'"),
    "{methods: {cam: {class_path: GradCAM, init_args: {layr: a}}}}": ("methods", "'layr'"),
    "{probes: {a: 1}}": ("probes", "{'a': 1}", "'int'", "list[int]"),
    "{probes: ten}": ("probes", "ten", "'int'", "list[int]"),
    "{every: x}": ("every", "Given value: x", "'int'", "Every"),
    "{target: margn}": ("target", "margn", "'margin'"),
    "{measures: [entropi]}": ("measures", "entropi", "'entropy'"),
    "{reference: bset}": ("reference", "bset", "'best'"),
    "{picture_format: gif}": ("picture_format", "gif", "'png'"),
    "{on_error: explode}": ("on_error", "explode", "'warn', 'raise'"),
    "{prbes: 3}": ("'prbes' is not accepted",),
}


@pytest.mark.parametrize("arguments", TYPOS)
def test_a_wrong_type_in_yaml_is_told_by_the_command_line(
    arguments: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(CONFIG.replace("{arguments}", arguments))
    with pytest.raises(SystemExit) as left:
        command(monkeypatch, "fit", f"--config={config}")
    told = capsys.readouterr().err
    assert left.value.code == 2
    assert [word for word in TYPOS[arguments] if word not in told.split("error:")[-1]] == [], told


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("{every: 0}", ("every", "n=0", "1 or more")),
        ("{probes: 0}", ("probes=0", "1 or more")),
        ("{probes: [0, 99]}", ("probes=[0, 99]", "0 to 11")),
        ("{name: /a/}", ("name='/a/'", "a word")),
        ("{methods: {m: {class_path: SmoothGrad, init_args: {samples: 0}}}}", ("samples=0",)),
        ("{methods: {m: {class_path: GradCAM, init_args: {layer: featurs}}}}", ("'features'",)),
    ],
)
def test_a_wrong_value_in_yaml_is_told_in_our_words(
    arguments: str, words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = tmp_path / "given.yaml"
    config.write_text(CONFIG.replace("{arguments}", arguments))
    # A ConfigurationError of a value within the arguments comes wrapped by the parser.
    with pytest.raises(ValueError) as told:  # noqa: PT011
        command(monkeypatch, "fit", f"--config={config}")
    assert [word for word in words if word not in str(told.value)] == [], str(told.value)
