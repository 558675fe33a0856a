"""A resumed fit is the uninterrupted one, its drift included."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader
from twin_runs import Images, Net, Setup, gap, logged, seed_streams, trainer_for

from lightning_saliency import ConfigurationError, SaliencyMonitor
from lightning_saliency.attribution import Saliency, SmoothGrad, VarGrad
from lightning_saliency.voice import SaliencyWarning

pytestmark = [
    # The frozen BatchNorm.
    pytest.mark.filterwarnings("ignore:Found 1 module.s. in eval mode at the start of training"),
    # A resumed fit writes its checkpoints elsewhere.
    pytest.mark.filterwarnings("ignore:The dirpath has changed from"),
]

EPOCHS = 4
CLOCKS = ("saliency/seconds", "saliency/overhead")


def monitor(**changed: Any) -> SaliencyMonitor:
    methods: Any = {"gradient": "saliency", "smooth_grad": "smooth_grad", "grad_cam": "grad_cam"}
    given: dict[str, Any] = {"methods": methods, "probes": [1, 3, 5, 7], "on_error": "raise"}
    return SaliencyMonitor(**given | changed)


def fit(
    folder: Path,
    watching: list[SaliencyMonitor],
    *,
    epochs: int = EPOCHS,
    resume: Path | None = None,
    validation: Images | None = None,
    options: tuple[tuple[str, Any], ...] = (),
) -> tuple[Trainer, Net]:
    """Train on batches in a fixed order, without dropout: Lightning restores no random streams."""
    seed_streams()
    checkpoints = ModelCheckpoint(folder, filename="{step}", save_top_k=-1, every_n_epochs=1)
    callbacks: list[Callback] = [checkpoints, *watching]
    options = (("enable_checkpointing", True), *options)
    trainer = trainer_for(Setup(epochs=epochs, trainer=options), callbacks, folder)
    model = Net(dropout=0.0)
    loaders = [
        DataLoader(images, batch_size=8)
        for images in (Images(44, seed=1), validation or Images(12, seed=2))
    ]
    path = None if resume is None else str(resume)
    # Lightning asks how to read a checkpoint from 2.6 on.
    asked = "weights_only" in inspect.signature(trainer.fit).parameters
    strict: dict[str, Any] = {"weights_only": True} if asked else {}
    trainer.fit(model, loaders[0], loaders[1], ckpt_path=path, **strict)
    return trainer, model


def observed(folder: Path) -> list[dict[str, str]]:
    rows = logged(folder, saliency=True)
    return [{key: value for key, value in row.items() if key not in CLOCKS} for row in rows]


def saved(folder: Path) -> list[Path]:
    """The checkpoints of a fit, oldest first."""
    return sorted(folder.glob("*.ckpt"), key=lambda path: int(path.stem.partition("=")[2]))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SaliencyMonitor, Net]:
    """An uninterrupted fit."""
    folder, watching = tmp_path_factory.mktemp("whole"), monitor(reference=12)
    _, model = fit(folder, [watching])
    assert len(observed(folder)) == 1 + EPOCHS
    return folder, watching, model


@pytest.mark.parametrize("sanity", [0, 1])
@pytest.mark.parametrize("done", [1, 3])
def test_a_resumed_fit_is_the_uninterrupted_one(
    whole: tuple[Path, SaliencyMonitor, Net], done: int, sanity: int, tmp_path: Path
) -> None:
    folder, watching, model = whole
    again = monitor(reference=12)
    options = (("num_sanity_val_steps", sanity),)
    _, resumed = fit(tmp_path, [again], resume=saved(folder)[done - 1], options=options)
    assert gap(model.state_dict(), resumed.state_dict()) == 0
    assert observed(tmp_path) == observed(folder)[1 + done :]
    first, last = watching.state_dict(), again.state_dict()
    assert first["memory"]["count"] == last["memory"]["count"] == 1 + EPOCHS
    assert gap(first, last) == 0, "the maps, the filmstrip, the validations, all of it"


def test_the_untrained_network_is_observed_once(
    whole: tuple[Path, SaliencyMonitor, Net], tmp_path: Path
) -> None:
    again = monitor(reference=12)
    fit(tmp_path, [again], resume=saved(whole[0])[1])
    labels = [column["label"] for column in again.state_dict()["memory"]["columns"]]
    assert labels == ["start", *(f"epoch {epoch}" for epoch in range(EPOCHS))]
    assert [row["step"] for row in observed(tmp_path)] == ["17", "23"]


def test_the_state_is_tensors_and_builtins(whole: tuple[Path, SaliencyMonitor, Net]) -> None:
    path = saved(whole[0])[-1]
    checkpoint = torch.load(path, weights_only=True)
    (state,) = (one for key, one in checkpoint["callbacks"].items() if "Saliency" in key)
    assert gap(whole[1].state_dict(), state) == 0
    tensors = [one for one in leaves(state) if isinstance(one, torch.Tensor)]
    assert tensors
    assert all(one.device.type == "cpu" for one in tensors)


def leaves(value: Any) -> list[Any]:
    if isinstance(value, (dict, list, tuple)):
        items = value.values() if isinstance(value, dict) else value
        return [leaf for item in items for leaf in leaves(item)]
    return [value]


@pytest.mark.parametrize("sanity", [0, 1])
@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"inputs": 5}, r"1 input changed: val\[5\]"),
        ({"targets": 3}, r"1 target changed: val\[3\] \(1, was 0\)"),
        ({"probes": [1, 3, 5]}, r"3 probes, were 4 \(3 inputs are the same\)"),
        ({"probes": [3, 1, 5, 7]}, r"the same probes in another order"),
    ],
)
def test_changed_probes_are_told_by_name_before_the_first_step(
    whole: tuple[Path, SaliencyMonitor, Net],
    changed: dict[str, Any],
    words: str,
    sanity: int,
    tmp_path: Path,
) -> None:
    images = Images(12, seed=2)
    if "inputs" in changed:
        images.inputs[changed["inputs"], 0, 0, 0] += 1
    if "targets" in changed:
        images.targets[changed["targets"]] += 1
    watching = monitor(probes=changed.get("probes", [1, 3, 5, 7]))
    with pytest.raises(ConfigurationError, match=words) as caught:
        fit(
            tmp_path,
            [watching],
            resume=saved(whole[0])[0],
            validation=images,
            options=(("num_sanity_val_steps", sanity),),
        )
    assert "ckpt_path" in str(caught.value), "it says the remedy"
    assert not (tmp_path / "metrics.csv").exists() or not logged(tmp_path, saliency=False)


def test_another_target_starts_anew(
    whole: tuple[Path, SaliencyMonitor, Net], tmp_path: Path
) -> None:
    again = monitor(target="logit")
    with pytest.warns(SaliencyWarning, match="target is not what it was in the checkpoint"):
        fit(tmp_path, [again], resume=saved(whole[0])[-2])
    first, second = observed(tmp_path)
    assert "saliency/gradient/drift_first" not in first
    assert "saliency/gradient/drift_first" in second
    assert again.state_dict()["memory"]["count"] == 2


def test_another_method_starts_anew_and_the_others_go_on(
    whole: tuple[Path, SaliencyMonitor, Net], tmp_path: Path
) -> None:
    methods = {"gradient": Saliency(), "smooth_grad": SmoothGrad(samples=2), "new": VarGrad()}
    again = monitor(methods=methods, reference=12)
    with pytest.warns(SaliencyWarning, match="is not what it was in the checkpoint") as told:
        fit(tmp_path, [again], resume=saved(whole[0])[-2])
    ours = [str(one.message) for one in told if one.category is SaliencyWarning]
    assert sorted(text.split(" is not")[0] for text in ours) == [
        "SaliencyMonitor: methods: grad_cam",
        "SaliencyMonitor: methods: new",
        "SaliencyMonitor: methods: smooth_grad",
    ]
    (row,) = observed(tmp_path)
    expected = observed(whole[0])[-1]
    shared = [key for key in row if key.startswith("saliency/gradient/")]
    assert "saliency/gradient/drift_first" in shared
    assert {key: row[key] for key in shared} == {key: expected[key] for key in shared}
    for anew in ("new", "smooth_grad"):
        assert f"saliency/{anew}/entropy" in row
        assert f"saliency/{anew}/drift_first" not in row


def test_a_state_of_another_version_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="of version 0, this is version 1"):
        monitor().load_state_dict({"version": 0})


def test_a_monitor_that_saw_nothing_passes_its_state_on(
    whole: tuple[Path, SaliencyMonitor, Net],
) -> None:
    state, again = whole[1].state_dict(), monitor()
    assert again.state_dict() == {}
    again.load_state_dict(state)
    assert gap(again.state_dict(), state) == 0


def test_two_monitors_of_two_names(tmp_path: Path) -> None:
    pair = [monitor(), monitor(name="logit", target="logit", probes=3)]
    trainer, _ = fit(tmp_path, pair, epochs=2)
    assert {"saliency/churn", "logit/churn"} <= set(trainer.callback_metrics)
    assert (
        trainer.callback_metrics["saliency/gradient/entropy"]
        != (trainer.callback_metrics["logit/gradient/entropy"])
    )
    states = torch.load(saved(tmp_path)[-1], weights_only=True)["callbacks"]
    mine = {key: state for key, state in states.items() if "Saliency" in key}
    assert [len(state["memory"]["probes"]["names"]) for state in mine.values()] == [4, 3]

    again = [monitor(), monitor(name="logit", target="logit", probes=3)]
    fit(tmp_path / "again", again, epochs=2, resume=saved(tmp_path)[0])
    for one, other in zip(pair, again, strict=True):
        assert gap(one.state_dict(), other.state_dict()) == 0


def test_two_monitors_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="more than one stateful callback of type"):
        fit(tmp_path, [monitor(), monitor(probes=3)])
