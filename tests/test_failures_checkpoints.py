"""What a checkpoint or the data can bring: told before the first step, or no trouble at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.callbacks import ModelCheckpoint
from mishaps import listening
from small_fits import Events, Net, board, images, labels, loader, trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from twin_runs import gap, seed_streams

from lightning_saliency import ConfigurationError, GradCAM, SaliencyMonitor

pytestmark = [
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
    # A resumed fit writes its checkpoints elsewhere.
    pytest.mark.filterwarnings("ignore:The dirpath has changed from"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`:UserWarning"),
]

STATE = "SaliencyMonitor"


def fit(
    folder: Path,
    monitor: SaliencyMonitor | None,
    net: Net,
    *,
    resume: Path | None = None,
    data: LightningDataModule | None = None,
    epochs: int = 2,
    **options: Any,
) -> Net:
    callbacks = [ModelCheckpoint(folder, save_last=True), *([monitor] if monitor else [])]
    fitting = trainer(
        callbacks=callbacks,
        logger=board(folder),
        max_epochs=epochs,
        enable_checkpointing=True,
        **options,
    )
    given: Any = {"datamodule": data} if data else {"train_dataloaders": loader()}
    if data is None:
        given["val_dataloaders"] = loader()
    fitting.fit(net, **given, ckpt_path=None if resume is None else str(resume))
    return net


def fresh(kind: type[Net] = Net, **given: Any) -> Net:
    seed_streams()
    return kind(**given)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """The last checkpoint of a watched fit of two epochs."""
    fit(tmp_path / "first", SaliencyMonitor(probes=6), fresh())
    return tmp_path / "first" / "last.ckpt"


def edited(path: Path, edit: Callable[[dict[str, Any]], Any]) -> Path:
    """The checkpoint with another state of the monitor."""
    checkpoint = torch.load(path, weights_only=True)
    (key,) = [key for key in checkpoint["callbacks"] if STATE in key]
    changed = edit(checkpoint["callbacks"][key])
    if changed is not None:
        checkpoint["callbacks"][key] = changed
    other = path.with_name("edited.ckpt")
    torch.save(checkpoint, other)
    return other


def without(*names: str) -> Callable[[dict[str, Any]], None]:
    def edit(state: dict[str, Any]) -> None:
        for name in names[:-1]:
            state = state[name]
        del state[names[-1]]

    return edit


def instead(value: Any, *names: str) -> Callable[[dict[str, Any]], None]:
    def edit(state: dict[str, Any]) -> None:
        for name in names[:-1]:
            state = state[name]
        state[names[-1]] = value

    return edit


DAMAGES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "nothing but the version": lambda state: {"version": state["version"]},
    "no version": without("version"),
    "no memory": without("memory"),
    "no settings": without("settings"),
    "no chunk": without("chunk"),
    "no classes": without("memory", "classes"),
    "no snapshots": without("memory", "snapshots"),
    "a memory that is none": instead(None, "memory"),
    "columns that are none": instead([{"index": 0}], "memory", "columns"),
}


@pytest.mark.parametrize("sanity", [0, 1])
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_state_is_told_before_the_first_step(
    damage: Callable[..., Any], sanity: int, saved: Path, tmp_path: Path
) -> None:
    path, net = edited(saved, damage), fresh()
    monitor = SaliencyMonitor(probes=6)
    with pytest.raises(ConfigurationError, match=r"checkpoint.*SaliencyMonitor") as told:
        fit(tmp_path / "b", monitor, net, resume=path, epochs=4, num_sanity_val_steps=sanity)
    assert "without the monitor" in str(told.value), "it says the remedy"
    assert net.seen == 0


@pytest.mark.parametrize("version", [0, 99])
def test_a_state_of_another_release_is_told_before_the_first_step(
    version: int, saved: Path, tmp_path: Path
) -> None:
    path, net = edited(saved, instead(version, "version")), fresh()
    with pytest.raises(ConfigurationError, match=f"of version {version}, this is version"):
        fit(tmp_path / "b", SaliencyMonitor(probes=6), net, resume=path, epochs=4)
    assert net.seen == 0


def test_what_the_remedy_says_works(saved: Path, tmp_path: Path) -> None:
    """Resumed without the monitor, the checkpoint of a watched fit trains as with it."""
    watched = fit(
        tmp_path / "a", SaliencyMonitor(probes=6), fresh(), resume=saved, epochs=4
    ).state_dict()
    alone = fit(tmp_path / "b", None, fresh(), resume=saved, epochs=4).state_dict()
    assert gap(watched, alone) == 0


def test_a_monitor_that_comes_later_starts_at_its_step(tmp_path: Path) -> None:
    fit(tmp_path / "first", None, fresh())
    path, folder = tmp_path / "first" / "last.ckpt", tmp_path / "b"
    with listening() as told:
        watched = fit(folder, SaliencyMonitor(probes=6), fresh(), resume=path, epochs=4)
    alone = fit(tmp_path / "c", None, fresh(), resume=path, epochs=4)
    assert gap(watched.state_dict(), alone.state_dict()) == 0
    assert told == []
    steps = list(Events(folder).scalars["saliency/gradient/entropy"])
    assert steps[-2:] == [5, 7]
    assert steps[0] in (3, 4), "the weights that were brought, at the step of their training"
    assert list(Events(folder).scalars["saliency/gradient/drift_first"]) == steps[1:]


class Wider(Net):
    """Takes a checkpoint of other classes: the head is left as it is."""

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        own = self.state_dict()
        state = checkpoint["state_dict"]
        for name in [*state]:
            if name not in own or state[name].shape != own[name].shape:
                del state[name]
        state |= {name: value for name, value in own.items() if name not in state}
        checkpoint["optimizer_states"] = [torch.optim.SGD(self.parameters(), 0.1).state_dict()]


def test_more_classes_after_a_resume_go_on(saved: Path, tmp_path: Path) -> None:
    with listening() as told:
        fit(
            tmp_path / "b",
            SaliencyMonitor(probes=6),
            fresh(Wider, classes=5),
            resume=saved,
            epochs=4,
        )
    assert told == []
    scalars = Events(tmp_path / "b").scalars
    assert list(scalars["saliency/gradient/drift_previous"]) == [5, 7]
    assert set(scalars["saliency/failures"].values()) == {0}


def test_a_class_that_is_gone_after_a_resume_is_told_before_the_first_step(tmp_path: Path) -> None:
    """The class of each probe was fixed at the first prediction; the new head has fewer."""

    class Third(Net):
        def forward(self, x: Tensor) -> Any:
            return super().forward(x) + torch.tensor([0.0, 0.0, 99.0])

    class Two(Wider):
        def loss(self, batch: Any) -> Tensor:
            scores: Tensor = self(batch[0])
            return scores.square().mean()

    def monitor() -> SaliencyMonitor:
        return SaliencyMonitor(probes=6, target_class="prediction")

    fit(tmp_path / "first", monitor(), fresh(Third))
    net = fresh(Two, classes=2)
    with pytest.raises(ConfigurationError, match="class"):
        fit(tmp_path / "b", monitor(), net, resume=tmp_path / "first" / "last.ckpt", epochs=4)
    assert net.seen == 0


class Coarse(Wider):
    """Its maps have half the places: a checkpoint's can't be held against them."""

    def __init__(self) -> None:
        super().__init__()
        self.features[0] = nn.Conv2d(1, 4, 3, stride=2, padding=1)


class Renamed(Wider):
    def __init__(self) -> None:
        super().__init__()
        self.stem = self.features
        del self.features

    def forward(self, x: Tensor) -> Any:
        return self.head(self.stem(x))


def cam() -> SaliencyMonitor:
    methods: Any = {"gradient": "saliency", "cam": GradCAM("features.1")}
    return SaliencyMonitor(probes=6, methods=methods)


def test_a_layer_of_another_size_after_a_resume_starts_its_drift_anew(tmp_path: Path) -> None:
    fit(tmp_path / "first", cam(), fresh())
    with listening() as told:
        fit(tmp_path / "b", cam(), fresh(Coarse), resume=tmp_path / "first" / "last.ckpt", epochs=5)
    (text,) = told
    assert "cam" in text
    assert "anew" in text
    scalars = Events(tmp_path / "b").scalars
    assert set(scalars["saliency/failures"].values()) == {0}
    assert list(scalars["saliency/gradient/drift_previous"]) == [5, 7, 9]
    assert list(scalars["saliency/cam/drift_previous"]) == [7, 9]


def test_a_layer_of_another_name_after_a_resume_is_told_before_the_first_step(
    tmp_path: Path,
) -> None:
    fit(tmp_path / "first", cam(), fresh())
    net = fresh(Renamed)
    with pytest.raises(ConfigurationError, match=r"'features.1' is not a layer.*'stem"):
        fit(tmp_path / "b", cam(), net, resume=tmp_path / "first" / "last.ckpt", epochs=4)
    assert net.seen == 0


def test_data_that_shrank_is_told_before_the_first_step(tmp_path: Path) -> None:
    class Data(LightningDataModule):
        def __init__(self, count: int) -> None:
            super().__init__()
            self.count = count

        def train_dataloader(self) -> DataLoader[Any]:
            return loader()

        def val_dataloader(self) -> DataLoader[Any]:
            return loader(images()[: self.count], labels()[: self.count])

    fit(tmp_path / "first", SaliencyMonitor(probes=6), fresh(), data=Data(12))
    net = fresh()
    path = tmp_path / "first" / "last.ckpt"
    with pytest.raises(ConfigurationError, match="not those of the checkpoint"):
        fit(tmp_path / "b", SaliencyMonitor(probes=6), net, resume=path, data=Data(4), epochs=4)
    assert net.seen == 0


class Fixed(Net):
    """Its weights stay, so that all that could move a map is the data."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


class Restless(LightningDataModule):
    """Other validation data, and another number of them, at each epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[int] = []

    def train_dataloader(self) -> DataLoader[Any]:
        return loader()

    def val_dataloader(self) -> DataLoader[Any]:
        count = 12 - 2 * len(self.made)
        self.made.append(count)
        return loader(images(24)[count:], labels(24)[count:])


@pytest.mark.parametrize("net", [Net, Fixed])
def test_validation_data_that_change_between_epochs(net: type[Net], tmp_path: Path) -> None:
    given: dict[str, Any] = {"reload_dataloaders_every_n_epochs": 1, "epochs": 4}
    data, other = Restless(), Restless()
    with listening() as told:
        watched = fit(tmp_path / "a", SaliencyMonitor(probes=6), fresh(net), data=data, **given)
    alone = fit(tmp_path / "b", None, fresh(net), data=other, **given)
    assert gap(watched.state_dict(), alone.state_dict()) == 0
    assert data.made == other.made, "it asks for no loader of its own"
    assert len(set(data.made)) > 2
    assert told == []
    scalars = Events(tmp_path / "a").scalars
    assert scalars["val_loss"] == Events(tmp_path / "b").scalars["val_loss"]
    drift = set(scalars["saliency/gradient/drift_previous"].values())
    assert (drift == {0.0}) == (net is Fixed), "the probes are those of the first epoch"


class Rotting(Dataset[Any]):
    """Its last images can't be read any more after they were read once."""

    def __init__(self) -> None:
        self.left = dict.fromkeys(range(8, 12), 1)

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> Any:
        if index in self.left:
            self.left[index] -= 1
            if self.left[index] < 0:
                raise OSError(f"image {index}: stale file handle")
        return images()[index], labels()[index]


def test_probes_that_cannot_be_read_again_are_not(tmp_path: Path) -> None:
    class Data(LightningDataModule):
        def train_dataloader(self) -> DataLoader[Any]:
            return loader()

        def val_dataloader(self) -> DataLoader[Any]:
            return DataLoader(Rotting(), batch_size=4)

    given: dict[str, Any] = {"data": Data(), "limit_val_batches": 2}
    with listening() as told:
        watched = fit(tmp_path / "a", SaliencyMonitor(probes=[9, 11]), fresh(), **given)
    alone = fit(tmp_path / "b", None, fresh(), **given)
    assert gap(watched.state_dict(), alone.state_dict()) == 0
    assert told == []
    scalars = Events(tmp_path / "a").scalars
    assert list(scalars["saliency/gradient/drift_previous"]) == [1, 3]
    assert set(scalars["saliency/failures"].values()) == {0}
