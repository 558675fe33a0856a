"""`SaliencyMonitor()` on modules that know nothing of it, or with one argument each: real fits."""

from __future__ import annotations

import gc
import io
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from PIL import Image
from small_fits import Answering, Events, Net, board, images, labels, loader, trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset
from torchvision.datasets import FakeData
from torchvision.models import resnet18, vit_b_16
from torchvision.transforms import Compose, Normalize, ToTensor

from lightning_saliency import ObservationError, Probes, SaliencyMonitor, SaliencyWarning
from lightning_saliency.logs import TAGS
from lightning_saliency.readings import PARTS

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
STEPS = [1, 3]
"""At which Lightning puts the two validations of a fit: after two batches each, counted from 0."""


class Run(NamedTuple):
    monitor: SaliencyMonitor
    trainer: Trainer
    events: Events


@pytest.fixture(autouse=True, scope="module")
def few_objects() -> Iterator[None]:
    """Reading probes walks over all objects alive: put by those that are not of these tests."""
    gc.freeze()
    yield
    gc.unfreeze()


def fit(
    folder: Path,
    net: LightningModule,
    train: Any,
    val: Any,
    monitor: SaliencyMonitor | None = None,
    **settings: Any,
) -> Run:
    """Two epochs of two batches, each followed by a validation."""
    watching = monitor or SaliencyMonitor()
    callbacks = [watching, *settings.pop("callbacks", [])]
    fitting = trainer(logger=board(folder), callbacks=callbacks, **settings)
    fitting.fit(net, train, val)
    return Run(watching, fitting, Events(folder))


def check(
    run: Run, steps: list[int] = STEPS, *, first: bool = True, has_probabilities: bool = True
) -> None:
    """Maps, grids and drift came out, under the tags of the table, at the steps of `val_loss`."""
    events = run.events
    start = [0] if first else []
    looks = start + steps
    assert list(events.scalars["val_loss"]) == steps
    assert {tag: list(pictures) for tag, pictures in events.images.items()} == {
        "saliency/gradient": looks,
        "saliency/gradient/filmstrip": looks[1:],
    }
    for pictures in events.images.values():
        for encoded in pictures.values():
            assert np.asarray(Image.open(io.BytesIO(encoded))).std() > 1
    ours = {tag: list(values) for tag, values in events.scalars.items() if tag.startswith("sal")}
    parts = {tag: ours.pop(tag) for tag in list(ours) if tag.rpartition("_previous_")[2] in PARTS}
    assert set(parts) <= {f"saliency/gradient/drift_previous_{part}" for part in PARTS}
    assert all(set(seen) <= set(looks[1:]) for seen in parts.values())
    halves = [parts.get(f"saliency/gradient/drift_previous_{half}", []) for half in PARTS[:2]]
    assert {*halves[0], *halves[1]} == set(looks[1:]), "each probe stayed or flipped"
    drift = [
        f"drift_{since}{end}" for since in ("previous", "first") for end in ("", "_p10", "_p90")
    ]
    assert ours == {
        **{f"saliency/gradient/{name}": looks[1:] for name in drift},
        "saliency/churn": looks[1:],
        **{f"saliency/{name}": looks for name in ("magnitude", "undefined", "seconds", "overhead")},
        "saliency/failures": looks,
        "saliency/gradient/tortuosity": looks[1:],
        **{f"saliency/{name}": looks[1:] for name in ("alerts", "region_z")},
        **{f"saliency/gradient/{name}": looks for name in ("entropy", "undefined")},
    }
    for tag in ours:
        assert all(map(math.isfinite, events.scalars[tag].values())), tag
    assert set(events.scalars["saliency/undefined"].values()) == {0.0}
    assert set(events.scalars["saliency/failures"].values()) == {0.0}
    assert min(events.scalars["saliency/gradient/drift_previous"].values()) > 0
    assert set(events.texts) - {"saliency/classes"} == {"saliency/about"}
    by_class = "saliency/gradient/drift_previous_by_class" in parts
    assert ("saliency/classes" in events.texts) == by_class
    metrics = run.trainer.callback_metrics
    last = events.scalars["saliency/gradient/drift_previous"][looks[-1]]
    assert float(metrics["saliency/gradient/drift_previous"]) == pytest.approx(last)


def test_every_tag_stands_in_the_table(tmp_path: Path) -> None:
    monitor = SaliencyMonitor(
        ["saliency", "integrated_gradients"],
        mask=2,
        reference="first",
        measures=["blurred", "gini"],
    )
    masked = loader(images(), labels(), (images()[:, 0] > 1))
    events = fit(tmp_path, Net(), loader(), masked, monitor).events
    # A measure's own tag is anything, so that row is for the configured ones alone.
    rows = {(tag.kind, tag.pattern) for tag in TAGS}
    written = {"image": events.images, "scalar": events.scalars, "text": events.texts}
    for kind, tags in written.items():
        for tag in (tag for tag in tags if tag.startswith("saliency/")):
            row = re.sub(r"^saliency/(saliency|integrated_gradients)", "saliency/{method}", tag)
            row = re.sub(r"(drift_\w+)_p[19]0$", r"\1", row)
            row = re.sub(rf"(drift_previous)_({'|'.join(PARTS)})$", r"\1_{part}", row)
            row = re.sub(r"/(gini|blurred_previous|blurred_first)$", "/{measure}", row)
            row = re.sub(r"/completeness_gap$", "/{number}", row)
            assert (kind, row) in rows, tag
    assert "saliency/integrated_gradients/completeness_gap" in events.scalars
    assert "saliency/saliency/blurred_first" in events.scalars
    assert "saliency/mask_area" in events.scalars


def test_one_channel(tmp_path: Path) -> None:
    check(fit(tmp_path, Net(), loader(), loader()))


class Wrapped(Net):
    """A network of torchvision's in the usual module around it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Any:
        return self.network(x)


def photographs(side: int) -> DataLoader[Any]:
    normalised = Compose([ToTensor(), Normalize(MEAN, STD)])
    data = FakeData(8, (3, side, side), num_classes=10, transform=normalised)
    return DataLoader(data, batch_size=4)


def check_pictures(run: Run, side: int) -> None:
    """The probes are shown as they were before they were normalised."""
    session = run.monitor._session
    assert session is not None
    assert (session.probes.mean, session.probes.std) == (MEAN, STD)
    raw = FakeData(8, (3, side, side), num_classes=10)
    for name, shown in zip(session.probes.names, session.gallery.images, strict=True):
        image = np.asarray(raw[int(name.removeprefix("val[").removesuffix("]"))][0], np.int16)
        assert np.abs(shown.astype(np.int16) - image).max() <= 1


def test_a_resnet_and_normalised_photographs(tmp_path: Path) -> None:
    run = fit(tmp_path, Wrapped(resnet18(num_classes=10)), photographs(64), photographs(64))
    check(run)
    check_pictures(run, 64)


def test_a_vision_transformer(tmp_path: Path) -> None:
    network = vit_b_16(image_size=32, num_classes=10)
    nn.init.normal_(network.heads.head.weight, std=0.02)  # all 0 in an untrained one
    data = photographs(32)
    run = fit(tmp_path, Wrapped(network), data, data, max_epochs=1)
    check(run, [1])
    check_pictures(run, 32)


def test_an_untrained_head_of_zeros_is_counted_and_not_measured(tmp_path: Path) -> None:
    net = Net()
    nn.init.zeros_(net.head[-1].weight)  # type: ignore[arg-type]
    nn.init.zeros_(net.head[-1].bias)  # type: ignore[arg-type]
    run = fit(tmp_path, net, loader(), loader())
    assert list(run.events.scalars["saliency/undefined"].values()) == [1.0, 0.0, 0.0]
    drift = run.events.scalars["saliency/gradient/drift_previous"]
    assert math.isnan(drift[1])
    assert drift[3] > 0


class Binary(Net):
    """One logit, and labels as the loss wants them: floating 0 and 1."""

    def __init__(self) -> None:
        super().__init__(classes=1)

    def loss(self, batch: Any) -> Tensor:
        return F.binary_cross_entropy_with_logits(self(batch[0]).squeeze(1), batch[1].float())


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
def test_one_logit(tmp_path: Path, dtype: torch.dtype) -> None:
    def data() -> DataLoader[Any]:
        return loader(images(classes=2), labels(classes=2).to(dtype))

    run = fit(tmp_path, Binary(), data(), data())
    check(run)
    session = run.monitor._session
    assert session is not None
    assert sorted(session.classes.tolist()) == [0] * 6 + [1] * 6


class ByKey(Net):
    """Dicts come in and go out."""

    def split(self, batch: Any) -> tuple[Tensor, Tensor]:
        return batch["image"], batch["label"]

    def forward(self, x: Tensor) -> Any:
        return {"features": x, "logits": super().forward(x)}

    def loss(self, batch: Any) -> Tensor:
        x, y = self.split(batch)
        return F.cross_entropy(self(x)["logits"], y)


def test_dicts_need_one_argument_each(tmp_path: Path) -> None:
    examples: Any = [
        {"image": image, "label": label} for image, label in zip(images(), labels(), strict=True)
    ]
    data: DataLoader[Any] = DataLoader(examples, batch_size=4)
    check(
        fit(
            tmp_path,
            ByKey(),
            data,
            data,
            SaliencyMonitor(input="image", label="label", output="logits"),
        )
    )


class Regression(Net):
    def __init__(self) -> None:
        super().__init__(classes=1)

    def loss(self, batch: Any) -> Tensor:
        return F.mse_loss(self(batch[0]).squeeze(1), batch[1])


def test_regression(tmp_path: Path) -> None:
    data = loader(images(), images().mean((1, 2, 3)))
    check(fit(tmp_path, Regression(), data, data, SaliencyMonitor(target="output")))


class WithoutForward(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = Net()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self.backbone(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.training_step(batch, batch_idx))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_a_module_without_forward(tmp_path: Path) -> None:
    check(fit(tmp_path, WithoutForward(), loader(), loader(), SaliencyMonitor(forward="backbone")))


class Signals(Net):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv1d(2, 4, 3, padding=1), nn.ReLU())
        self.head = nn.Sequential(nn.AdaptiveAvgPool1d(4), nn.Flatten(), nn.Linear(16, 3))


def test_signals(tmp_path: Path) -> None:
    data = loader(images(channels=2).flatten(2), labels())
    check(fit(tmp_path, Signals(), data, data))


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter(zip(images(), labels(), strict=True))


class Overwriting(Net):
    """Its validation normalises in place, as some do."""

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        super().validation_step(batch, batch_idx)
        batch[0].zero_()


def test_a_stream_gives_the_first_examples_that_pass(tmp_path: Path) -> None:
    stream: DataLoader[Any] = DataLoader(Stream(), batch_size=4)
    run = fit(tmp_path, Overwriting(), loader(), stream, SaliencyMonitor(probes=6))
    check(run)
    session = run.monitor._session
    assert session is not None
    assert torch.equal(session.probes.inputs, images()[:6])
    assert session.probes.targets is not None
    assert torch.equal(session.probes.targets, labels()[:6])


def test_a_stream_without_a_sanity_check_starts_at_the_first_validation(tmp_path: Path) -> None:
    stream: DataLoader[Any] = DataLoader(Stream(), batch_size=4)
    with pytest.warns(SaliencyWarning, match="can only be iterated and no sanity check ran"):
        run = fit(tmp_path, Net(), loader(), stream, num_sanity_val_steps=0)
    check(run, first=False)


def test_the_first_of_several_validation_loaders_is_watched(tmp_path: Path) -> None:
    run = fit(tmp_path, Net(), loader(), [loader(), loader(images(9), labels(9))])
    check(run)
    session = run.monitor._session
    assert session is not None
    assert len(session.probes) == 12


def test_no_sanity_check(tmp_path: Path) -> None:
    check(fit(tmp_path, Net(), loader(), loader(), num_sanity_val_steps=0))


def test_several_validations_an_epoch(tmp_path: Path) -> None:
    train = loader(images(), labels(), batch_size=2)
    run = fit(tmp_path, Net(), train, loader(), val_check_interval=2, limit_train_batches=4)
    check(run, [1, 3, 5, 7])


def test_other_callbacks_see_the_drift(tmp_path: Path) -> None:
    drift = "saliency/gradient/drift_previous"
    checkpoint = ModelCheckpoint(tmp_path / "best", monitor=drift, mode="min")
    stop = EarlyStopping(drift, patience=1, mode="max", min_delta=10.0)
    run = fit(
        tmp_path,
        Net(),
        loader(),
        loader(),
        max_epochs=5,
        enable_checkpointing=True,
        callbacks=[checkpoint, stop],
    )
    check(run)  # nothing grew by 10: stopped after two epochs of five
    measured = run.events.scalars[drift]
    assert stop.stopped_epoch == 1
    assert float(checkpoint.best_model_score or 0) == pytest.approx(min(measured.values()))


def test_a_logger_that_takes_numbers_only(tmp_path: Path) -> None:
    fitting = trainer(
        logger=CSVLogger(tmp_path, name="", version=""), callbacks=[SaliencyMonitor()]
    )
    fitting.fit(Net(), loader(), loader())
    header, *rows = (tmp_path / "metrics.csv").read_text().splitlines()
    assert "saliency/gradient/drift_previous" in header.split(",")
    assert len(rows) >= 3


def test_no_logger() -> None:
    fitting = trainer(logger=False, callbacks=[SaliencyMonitor()])
    fitting.fit(Net(), loader(), loader())
    assert fitting.callback_metrics["saliency/gradient/drift_previous"] > 0
    assert fitting.callback_metrics["saliency/failures"] == 0


def test_fast_dev_run(tmp_path: Path) -> None:
    fitting = trainer(
        fast_dev_run=True, logger=board(tmp_path), callbacks=[SaliencyMonitor()], max_epochs=1
    )
    fitting.fit(Net(), loader(), loader())
    assert fitting.callback_metrics["saliency/gradient/drift_previous"] > 0
    assert not list(tmp_path.rglob("events*"))


def test_validation_alone(tmp_path: Path) -> None:
    net = Net()
    alone = trainer(logger=board(tmp_path), callbacks=[SaliencyMonitor()])
    alone.validate(net, loader(), verbose=False)
    assert "saliency/gradient/drift_previous" not in alone.callback_metrics
    alone.validate(net, loader(), verbose=False)
    assert alone.callback_metrics["saliency/gradient/drift_previous"] == 0
    events = Events(tmp_path)
    assert list(events.images["saliency/gradient"]) == [0]
    assert events.scalars["saliency/gradient/entropy"][0] > 0


def test_a_test_alone(tmp_path: Path) -> None:
    alone = trainer(logger=board(tmp_path), callbacks=[SaliencyMonitor()])
    alone.test(Net(), loader(), verbose=False)
    events = Events(tmp_path)
    assert list(events.images) == ["saliency/gradient"]
    assert events.scalars["saliency/gradient/entropy"][0] > 0


@pytest.mark.parametrize("best", [True, False])
def test_a_test_after_a_fit_watches_its_own_data(tmp_path: Path, best: bool) -> None:
    net, monitor = Net(), SaliencyMonitor()
    both = trainer(
        callbacks=[monitor, ModelCheckpoint(tmp_path, monitor="val_loss")],
        enable_checkpointing=True,
    )
    both.fit(net, loader(), loader())
    before = monitor.state_dict()
    both.test(net, loader(images(9), labels(9)), ckpt_path="best" if best else None, verbose=False)
    assert both.callback_metrics["saliency/failures"] == 0
    assert "saliency/gradient/drift_previous" not in both.callback_metrics
    assert len(monitor._session.probes) == 9  # type: ignore[union-attr]
    assert monitor.state_dict()["memory"]["probes"] == before["memory"]["probes"]
    both.validate(net, loader(), verbose=False)
    assert both.callback_metrics["saliency/gradient/drift_previous"] == 0


def test_a_test_of_the_same_probes_is_one_more_observation() -> None:
    net, probes = Net(), Probes.from_tensors(images(), labels())
    both = trainer(callbacks=[SaliencyMonitor(probes=probes)])
    both.fit(net, loader(), loader())
    both.test(net, loader(images(9), labels(9)), verbose=False)
    assert both.callback_metrics["saliency/gradient/drift_previous"] == 0


@pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`")
def test_without_validation_fixed_probes_are_watched_after_each_epoch(tmp_path: Path) -> None:
    monitor = SaliencyMonitor(probes=Probes.from_tensors(images(), labels()))
    watched = trainer(logger=board(tmp_path), callbacks=[monitor], limit_val_batches=0)
    watched.fit(Net(), loader())
    assert list(Events(tmp_path).images["saliency/gradient"]) == [0, 2, 4]


def test_without_validation_it_keeps_off_with_a_word(tmp_path: Path) -> None:
    watched = trainer(callbacks=[SaliencyMonitor()], limit_val_batches=0)
    with pytest.warns(SaliencyWarning, match=r"limit_val_batches=0.*Probes\.from_tensors"):
        watched.fit(Net(), loader(), loader())
    assert not [name for name in watched.callback_metrics if name.startswith("saliency")]


def test_a_failure_while_training_is_told_once_and_counted(tmp_path: Path) -> None:
    net = Answering(lambda logits: logits)
    calls: list[int] = []

    def flaky(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        calls.append(1)
        if len(calls) > 1:
            raise KeyError("boom")
        return inputs[:, 0]

    monitor = SaliencyMonitor({"gradient": "saliency", "mine": flaky}, chunk=12)
    with pytest.warns(SaliencyWarning, match="'mine' raised KeyError: 'boom'") as told:
        run = fit(tmp_path, net, loader(), loader(), monitor)
    assert len([one for one in told if one.category is SaliencyWarning]) == 1
    assert run.events.scalars["saliency/failures"] == {0: 0.0, 1: 1.0, 3: 2.0}
    assert net.seen == 4
    calls.clear()
    strict = SaliencyMonitor({"mine": flaky}, on_error="raise", chunk=12)
    with pytest.raises(ObservationError, match="'mine' raised KeyError: 'boom'"):
        fit(tmp_path / "strict", net, loader(), loader(), strict)
