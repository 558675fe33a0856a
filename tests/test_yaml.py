"""What Python can say of a monitor YAML can say too; and every config of the repository runs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import own_method
import pytest
import torch
import yaml  # type: ignore[import-untyped]
from lightning.pytorch.cli import LightningCLI
from PIL import Image
from small_fits import Events, command

from lightning_saliency import (
    Alerts,
    Audits,
    Chart,
    Contrast,
    Drift,
    Every,
    Faithfulness,
    GradCAM,
    Grounding,
    IntegratedGradients,
    Logit,
    Margin,
    Probes,
    Saliency,
    SaliencyMonitor,
    Shape,
    SmoothGrad,
)
from lightning_saliency import cli as shell
from lightning_saliency.attribution import METHODS
from lightning_saliency.measures import DEFAULT_MEASURES, MEASURES
from lightning_saliency.measures.drift import spearman
from lightning_saliency.measures.grounding import pointing_game

ROOT = Path(__file__).parents[1]
Run = Callable[..., LightningCLI]

CONFIG: dict[str, Any] = {
    "seed_everything": 1,
    "trainer": {
        "accelerator": "cpu",
        "max_epochs": 1,
        "limit_train_batches": 1,
        "log_every_n_steps": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    },
    "model": {"class_path": "own_method.SmallNet"},
    "data": {"class_path": "own_method.SmallData"},
}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command line in an empty folder, with the base config in ``base.yaml``."""
    monkeypatch.chdir(tmp_path)
    Path("base.yaml").write_text(yaml.safe_dump(CONFIG))
    return lambda *args: command(monkeypatch, "fit", "--config=base.yaml", *args)


def monitor_of(cli: LightningCLI) -> SaliencyMonitor:
    (monitor,) = (one for one in cli.trainer.callbacks if isinstance(one, SaliencyMonitor))  # type: ignore[attr-defined]
    (memory,) = monitor._history._memories.values()
    assert memory.count == 2, "it has looked at the start and after the epoch"
    return monitor


def configured(run: Run, arguments: str) -> SaliencyMonitor:
    """The monitor after a fit with these `init_args`, in YAML."""
    class_path = "lightning_saliency.SaliencyMonitor"
    callback = {"class_path": class_path, "init_args": yaml.safe_load(arguments)}
    Path("monitor.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": [callback]}}))
    return monitor_of(run("--config=monitor.yaml"))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("{}", {"gradient": Saliency()}),
        ("{methods: grad_cam}", {"grad_cam": GradCAM()}),
        ("{methods: [saliency, grad_cam]}", {"saliency": Saliency(), "grad_cam": GradCAM()}),
        ("{methods: lightning_saliency.GradCAM}", {"grad_cam": GradCAM()}),
        (
            "{methods: {class_path: SmoothGrad, init_args: {samples: 2}}}",
            {"smooth_grad": SmoothGrad(samples=2)},
        ),
        (
            """
            methods:
              plain: saliency
              smooth: {class_path: lightning_saliency.SmoothGrad, init_args: {samples: 2}}
              path: {class_path: IntegratedGradients, init_args: {steps: 2, baseline: [0.5]}}
              cam: {class_path: lightning_saliency.GradCAM, init_args: {layer: features.0}}
              mine: own_method.occlusion_of_rows
            """,
            {
                "plain": Saliency(),
                "smooth": SmoothGrad(samples=2),
                "path": IntegratedGradients(steps=2, baseline=(0.5,)),
                "cam": GradCAM("features.0"),
                "mine": own_method.occlusion_of_rows,
            },
        ),
    ],
)
def test_methods(run: Run, arguments: str, expected: dict[str, Any]) -> None:
    assert configured(run, arguments).settings.methods == expected


def test_a_method_of_the_users_with_arguments(run: Run) -> None:
    arguments = "{methods: {mine: {class_path: own_method.Scaled, init_args: {factor: 2}}}}"
    mine = configured(run, arguments).settings.methods["mine"]
    assert isinstance(mine, own_method.Scaled)
    assert mine.factor == 2


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("{}", Margin()),
        ("{target: logit}", Logit()),
        (
            "{target: {class_path: lightning_saliency.Contrast, init_args: {against: 1}}}",
            Contrast(1),
        ),
        ("{target: {class_path: Contrast, init_args: {against: 1}}}", Contrast(1)),
        ("{target: own_method.second_logit}", own_method.second_logit),
    ],
)
def test_target(run: Run, arguments: str, expected: Any) -> None:
    assert configured(run, arguments).settings.target == expected


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("{every: 1}", Every(1)),
        ("{every: {n: 1, unit: epoch}}", Every(1, "epoch")),
        (
            "{every: {class_path: lightning_saliency.Every, init_args: {unit: epoch}}}",
            Every(1, "epoch"),
        ),
    ],
)
def test_every(run: Run, arguments: str, expected: Every) -> None:
    assert configured(run, arguments).settings.every == expected


@pytest.mark.parametrize("arguments", ["{every: 2}", "{every: {n: 2, unit: epoch}}"])
def test_every_second_epoch(run: Run, arguments: str) -> None:
    Path("epochs.yaml").write_text(yaml.safe_dump({"trainer": {"max_epochs": 2}}))
    callback = {
        "class_path": "lightning_saliency.SaliencyMonitor",
        "init_args": yaml.safe_load(arguments),
    }
    Path("monitor.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": [callback]}}))
    # The start and the first epoch, not the second one.
    assert monitor_of(run("--config=epochs.yaml", "--config=monitor.yaml")).settings.every.n == 2


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("{measures: []}", {}),
        ("{measures: [gini, blurred]}", {name: MEASURES[name] for name in ("gini", "blurred")}),
        ("{}", {name: MEASURES[name] for name in DEFAULT_MEASURES}),
        (
            """
            mask: own_method.left_half
            measures:
              spread: gini
              peak: {class_path: Shape, init_args: {function: own_method.largest}}
              moved:
                class_path: lightning_saliency.Drift
                init_args: {function: lightning_saliency.measures.drift.spearman, of: signed}
              hit:
                class_path: lightning_saliency.Grounding
                init_args: {function: lightning_saliency.measures.grounding.pointing_game}
            """,
            {
                "spread": MEASURES["gini"],
                "peak": Shape(own_method.largest),
                "moved": Drift(spearman, of="signed"),
                "hit": Grounding(pointing_game),
            },
        ),
    ],
)
def test_measures(run: Run, arguments: str, expected: dict[str, Any]) -> None:
    assert configured(run, arguments).settings.measures == expected


@pytest.mark.parametrize(
    ("arguments", "audits", "alerts"),
    [
        ("{}", None, Alerts()),
        ("{audits: 2, alerts: 8}", Audits(2), Alerts(8)),
        ("{audits: {every: 3}, alerts: null}", Audits(3), None),
        (
            """
            methods: saliency
            audits:
              class_path: lightning_saliency.Audits
              init_args:
                every: 1
                faithfulness:
                  class_path: Faithfulness
                  init_args: {steps: 2, insertion: blur, deletion: [0.5], sigma: 1.5}
            alerts:
              class_path: Alerts
              init_args: {stream: 0, chart: {class_path: Chart, init_args: {lag: 2}}}
            """,
            Audits(1, Faithfulness(2, "blur", (0.5,), 1.5)),
            Alerts(0, chart=Chart(lag=2)),
        ),
    ],
)
def test_audits_and_alerts(run: Run, arguments: str, audits: Any, alerts: Any) -> None:
    monitor = configured(run, arguments)
    assert (monitor.settings.audits, monitor.settings.alerts) == (audits, alerts)
    assert monitor.state_dict()["failures"] == 0


def test_a_number_of_probes(run: Run) -> None:
    assert len(watched(configured(run, "{probes: 5}"))) == 5


def test_probes_by_index(run: Run) -> None:
    assert watched(configured(run, "{probes: [7, 2]}")).names == ("val[7]", "val[2]")


def test_probes_of_a_folder(run: Run) -> None:
    for name, level in (("dark", 40), ("light", 200)):
        Path("pictures", name).mkdir(parents=True)
        Image.new("L", (8, 8), level).save(Path("pictures", name, "one.png"))
    arguments = """
    probes:
      class_path: lightning_saliency.Probes.from_folder
      init_args:
        root: pictures
        transform: {class_path: torchvision.transforms.v2.Grayscale}
    """
    probes = watched(configured(run, arguments))
    assert probes.classes == ("dark", "light")
    assert torch.allclose(probes.inputs.mean((1, 2, 3)) * 255, torch.tensor([40.0, 200.0]))


def watched(monitor: SaliencyMonitor) -> Probes:
    assert monitor._session is not None
    return monitor._session.probes


def test_all_else(run: Run) -> None:
    monitor = configured(
        run,
        """
        {target_class: 1, reference: 3, input: 0, label: "1", forward: features, output: null,
        target: region, methods: [saliency], mean: [0.5], std: [0.25], seed: 3, chunk: 4,
        picture_format: png, name: watch, on_error: raise}
        """,
    )
    settings = monitor.settings
    assert (settings.target_class, monitor.settings.reference, monitor.settings.name) == (
        1,
        3,
        "watch",
    )
    assert (settings.fields.input, settings.fields.label) == (0, 1)
    assert (settings.mean, settings.std, settings.seed) == ((0.5,), (0.25,), 3)
    assert (settings.forward, settings.on_error) == ("features", "raise")


def test_short_names_of_our_classes_need_no_import(run: Run) -> None:
    arguments = """
    methods: {smooth: {class_path: SmoothGrad, init_args: {samples: 2}}}
    target: {class_path: Contrast, init_args: {against: 1}}
    measures: {moved: {class_path: Drift, init_args: {function: torch.dist}}}
    """
    callback = {"class_path": "SaliencyMonitor", "init_args": yaml.safe_load(arguments)}
    Path("monitor.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": [callback]}}))
    # In a process of its own: here the tests have imported everything.
    shell = [sys.executable, "-m", "lightning_saliency", "fit", "--config=monitor.yaml"]
    shell += ["--model=lightning.pytorch.demos.boring_classes.BoringModel", "--print_config"]
    done = subprocess.run(shell, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (printed,) = yaml.safe_load(done.stdout)["trainer"]["callbacks"]
    assert printed["class_path"] == "lightning_saliency.SaliencyMonitor"
    given = printed["init_args"]
    assert given["methods"]["smooth"]["class_path"] == "lightning_saliency.SmoothGrad"
    assert given["target"]["class_path"] == "lightning_saliency.Contrast"
    assert given["measures"]["moved"]["class_path"] == "lightning_saliency.Drift"


def test_on_the_command_line_alone(run: Run) -> None:
    monitor = monitor_of(
        run(
            "--trainer.callbacks=lightning_saliency.SaliencyMonitor",
            "--trainer.callbacks.probes=4",
            "--trainer.callbacks.methods=[grad_cam]",
        )
    )
    assert monitor.settings.probes == 4
    assert monitor.settings.methods == {"grad_cam": GradCAM()}


def test_added_to_others_on_the_command_line(run: Run) -> None:
    cli = run(
        "--trainer.callbacks+=LambdaCallback",
        "--trainer.callbacks+=lightning_saliency.SaliencyMonitor",
    )
    assert monitor_of(cli).settings.methods == {"gradient": Saliency()}


ARGUMENTS = """
methods:
  smooth: {class_path: lightning_saliency.SmoothGrad, init_args: {samples: 2}}
  mine: own_method.occlusion_of_rows
measures:
  peak: {class_path: lightning_saliency.Shape, init_args: {function: own_method.largest}}
target: {class_path: lightning_saliency.Contrast, init_args: {against: 1}}
every: {n: 1, unit: epoch}
probes: [0, 5]
"""


def test_the_saved_config_runs_again(run: Run) -> None:
    first = configured(run, ARGUMENTS)
    saved = Path("config.yaml").rename("saved.yaml")
    again = monitor_of(run(f"--config={saved}"))
    assert again.settings == first.settings
    assert again.settings.every == first.settings.every
    assert Path("config.yaml").read_text() == saved.read_text()


def test_the_printed_config_runs_again(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    first = configured(run, ARGUMENTS)
    capsys.readouterr()
    with pytest.raises(SystemExit) as left:
        run("--config=monitor.yaml", "--print_config")
    assert left.value.code == 0
    Path("printed.yaml").write_text(capsys.readouterr().out)
    Path("config.yaml").unlink()
    assert monitor_of(run("--config=printed.yaml")).settings == first.settings


def test_the_help_lists_the_arguments(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        run("--trainer.callbacks.help=lightning_saliency.SaliencyMonitor")
    assert left.value.code == 0
    told = " ".join(capsys.readouterr().out.split())
    for argument in ("methods", "probes", "target_class", "picture_format", "on_error"):
        assert f".{argument} " in told
    assert "how many examples of the first validation set to watch" in told


CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))


def test_there_are_configs() -> None:
    assert {path.name for path in CONFIGS} >= {"minimal.yaml", "demo.yaml", "all_methods.yaml"}


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.name)
def test_a_config_of_the_repository_runs(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    cli = command(
        monkeypatch,
        "fit",
        f"--config={config}",
        f"--trainer.logger.init_args.save_dir={tmp_path}",
        "--trainer.max_epochs=1",
        "--trainer.limit_train_batches=2",
        "--trainer.limit_val_batches=1",
        "--trainer.log_every_n_steps=1",
        "--trainer.enable_progress_bar=false",
        "--trainer.enable_model_summary=false",
    )
    events, monitor = Events(Path(cli.trainer.log_dir or "")), monitor_of(cli)
    assert cli.trainer.log_dir is not None
    assert tmp_path in Path(cli.trainer.log_dir).parents
    for method in monitor.settings.methods:
        assert list(events.images[f"saliency/{method}"]) == [0, 1]
        assert events.scalars[f"saliency/{method}/drift_previous"][1] > 0
    assert set(events.scalars["saliency/failures"].values()) == {0.0}


def test_all_methods_and_all_measures_are_in_the_config_of_that_name() -> None:
    def arguments(name: str) -> dict[str, Any]:
        config = yaml.safe_load((ROOT / "configs" / name).read_text())
        given: dict[str, Any] = config["trainer"]["callbacks"][0]["init_args"]
        return given

    convolutional, others = arguments("all_methods.yaml"), arguments("transformer.yaml")
    home = "lightning_saliency.attribution.attention"
    of_attention = [name for name, make in METHODS.items() if type(make()).__module__ == home]
    wanted = [name for name in METHODS if name not in of_attention]
    assert [*convolutional["methods"]][1:] == [*wanted[1:], "captum_saliency"]
    assert set(of_attention) < set(others["methods"])
    assert convolutional["measures"] == list(MEASURES)


def test_the_command_of_a_shell_ends_well(monkeypatch: pytest.MonkeyPatch) -> None:
    """A script's exit status is what its function returns."""
    assert (
        'lightning-saliency = "lightning_saliency.cli:run"' in (ROOT / "pyproject.toml").read_text()
    )
    monkeypatch.setattr(sys, "argv", ["lightning-saliency", "fit"])
    monkeypatch.setattr(shell, "main", lambda: "a command line")
    returned: Any = shell.run  # typed as returning nothing
    assert returned() is None
