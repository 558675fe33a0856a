"""Lightning under its other name: a fit of ``pytorch_lightning`` is watched as one of
``lightning.pytorch`` is, number by number and picture by picture."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning
import torch
from pytorch_lightning.cli import LightningCLI
from small_fits import Events, Small, board, loader, trainer
from twin_runs import gap

import lightning_saliency.pytorch_lightning
from lightning_saliency import SaliencyMonitor

OURS, THEIRS = "lightning.pytorch", "pytorch_lightning"
DRIFT = "saliency/gradient/drift_previous"
CLOCKS = ("saliency/seconds", "saliency/overhead")

# A resumed fit writes its checkpoints elsewhere.
pytestmark = pytest.mark.filterwarnings("ignore:The dirpath has changed from")

ITS = lightning_saliency.pytorch_lightning.SaliencyMonitor

Callbacks = Callable[[Any, Path], list[Any]]


def watching(space: Any, folder: Path) -> list[Any]:
    methods: Any = {"gradient": "saliency", "cam": "grad_cam"}
    kind = SaliencyMonitor if space.__name__ == OURS else ITS
    return [kind(methods, probes=6, on_error="raise")]


def choosing(space: Any, folder: Path) -> list[Any]:
    """A monitor, and checkpoints that are chosen by its drift."""
    kept = space.callbacks.ModelCheckpoint(folder / "saved", "{epoch}", DRIFT, save_top_k=-1)
    return [kept, *watching(space, folder)]


def averaging(space: Any, folder: Path) -> list[Any]:
    """A monitor behind the callback that swaps averaged weights in."""
    return [space.callbacks.EMAWeightAveraging(decay=0.8), *watching(space, folder)]


@dataclass(frozen=True)
class Fitted:
    trainer: Any
    model: Any
    events: Events

    @property
    def scalars(self) -> dict[str, Mapping[int, float]]:
        """All that was logged but for what a clock says."""
        return {tag: one for tag, one in self.events.scalars.items() if tag not in CLOCKS}


def fit(
    namespace: str,
    folder: Path,
    callbacks: Callbacks = watching,
    *,
    epochs: int = 3,
    resume: str | None = None,
) -> Fitted:
    """A fit in which all that Lightning gives is of one namespace."""
    space: Any = import_module(namespace)
    import_module(f"{namespace}.loggers")
    torch.manual_seed(0)
    model = type("Net", (Small, space.LightningModule), {})()
    made = trainer(
        space.Trainer,
        max_epochs=epochs,
        logger=board(folder, space.loggers.TensorBoardLogger),
        callbacks=callbacks(space, folder),
        enable_checkpointing=callbacks is choosing,
    )
    made.fit(model, loader(), loader(), ckpt_path=resume)
    return Fitted(made, model, Events(folder))


Whole = Callable[..., Fitted]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """An uninterrupted fit; each is run once."""
    return functools.cache(
        lambda namespace, callbacks: fit(namespace, tmp_path_factory.mktemp("whole"), callbacks)
    )


@pytest.mark.parametrize("callbacks", [watching, choosing])
def test_numbers_and_pictures_are_the_same_in_both(callbacks: Callbacks, whole: Whole) -> None:
    ours, theirs = whole(OURS, callbacks), whole(THEIRS, callbacks)
    assert theirs.scalars == ours.scalars
    assert theirs.events.images == ours.events.images
    assert set(theirs.events.images) == {
        f"saliency/{name}{tail}" for name in ("gradient", "cam") for tail in ("", "/filmstrip")
    }
    assert len(theirs.events.images["saliency/gradient"]) == 4, "the start, and three epochs"
    assert len(theirs.scalars[DRIFT]) == 3
    assert "saliency/about" in theirs.events.texts


def test_the_training_is_the_one_without_the_monitor(whole: Whole, tmp_path: Path) -> None:
    watched, alone = whole(THEIRS, watching), fit(THEIRS, tmp_path, lambda space, folder: [])
    assert gap(watched.model.state_dict(), alone.model.state_dict()) == 0
    flags = [(part.training, part._forward_hooks) for part in watched.model.modules()]
    assert flags == [(part.training, part._forward_hooks) for part in alone.model.modules()]
    assert watched.events.scalars["val_loss"] == alone.events.scalars["val_loss"]


def test_checkpoints_are_chosen_by_drift(whole: Whole) -> None:
    fitted = whole(THEIRS, choosing)
    least = min(fitted.scalars[DRIFT].values())
    assert float(fitted.trainer.checkpoint_callback.best_model_score) == pytest.approx(least)
    assert 0 < least < 1


def test_a_fit_is_stopped_by_drift(whole: Whole, tmp_path: Path) -> None:
    def stopping(space: Any, folder: Path) -> list[Any]:
        below = space.callbacks.EarlyStopping(DRIFT, stopping_threshold=2.0, strict=False)
        return [below, *watching(space, folder)]

    fitted = fit(THEIRS, tmp_path, stopping)
    first = min(whole(THEIRS, watching).scalars[DRIFT].items())
    assert dict(fitted.scalars[DRIFT]) == dict([first]), "after one epoch of three"


@pytest.mark.parametrize("then", [OURS, THEIRS])
def test_a_fit_goes_on_from_a_checkpoint_of_either(then: str, whole: Whole, tmp_path: Path) -> None:
    fitted = whole(then, choosing)
    path = Path(fitted.trainer.checkpoint_callback.dirpath, "epoch=0.ckpt")
    resumed = fit(THEIRS, tmp_path, choosing, resume=str(path))
    assert gap(resumed.model.state_dict(), fitted.model.state_dict()) == 0
    for tag, steps in whole(THEIRS, choosing).scalars.items():
        if tag.startswith("saliency/"):
            expected = dict(sorted(steps.items())[-2:])
            assert resumed.scalars[tag] == expected, tag


def test_averaged_weights_are_seen(whole: Whole) -> None:
    if not hasattr(pytorch_lightning.callbacks, "EMAWeightAveraging"):
        pytest.skip("Lightning averages weights by a callback from 2.6 on")
    ours, theirs = whole(OURS, averaging), whole(THEIRS, averaging)
    monitor, average = theirs.trainer.callbacks[:2]
    assert isinstance(monitor, SaliencyMonitor)
    assert type(average).__name__ == "EMAWeightAveraging"
    assert theirs.scalars == ours.scalars
    raw = whole(THEIRS, watching).scalars[DRIFT]
    assert 0 < theirs.scalars[DRIFT][5] < raw[5], "averages move less"


class Own(Small, pytorch_lightning.LightningModule):
    """A module that a command line can make."""


class Data(pytorch_lightning.LightningDataModule):
    def train_dataloader(self) -> Any:
        return loader()

    val_dataloader = train_dataloader


def test_one_callback_without_a_list() -> None:
    made: Any = trainer(pytorch_lightning.Trainer, callbacks=ITS(probes=6, on_error="raise"))
    made.fit(Own(), loader(), loader())
    assert 0 < float(made.callback_metrics[DRIFT]) < 1


def test_its_class_in_a_config(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("""
    seed_everything: 0
    trainer:
      accelerator: cpu
      max_epochs: 1
      logger: false
      enable_checkpointing: false
      enable_progress_bar: false
      enable_model_summary: false
      log_every_n_steps: 1
      callbacks:
        - class_path: lightning_saliency.pytorch_lightning.SaliencyMonitor
          init_args: {probes: [0, 5], methods: [saliency], on_error: raise}
    """)
    ran = LightningCLI(Own, Data, args=["fit", f"--config={config}"], save_config_callback=None)
    assert 0 < float(ran.trainer.callback_metrics["saliency/saliency/drift_previous"]) < 1


def test_either_class_reads_the_others_state() -> None:
    assert ITS().state_key == SaliencyMonitor().state_key
