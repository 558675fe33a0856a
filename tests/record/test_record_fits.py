"""What real fits record: what was seen, once, beside the training and without a trace in it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from boards import seen
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from mishaps import awake, survive
from small_fits import Events, Net, board, images, labels, loader, trainer
from test_failures_disk import PICTURES, STEPS, disk, in_the_thread, on_linux
from torch import Tensor
from twin_runs import gap, gaps, run

from lightning_saliency import ConfigurationError, SaliencyMonitor
from lightning_saliency.logs import TAGS
from lightning_saliency.record import History, read, runs
from lightning_saliency.record.files import event_files, tracks
from lightning_saliency.record.files import events as read_events
from lightning_saliency.record.probes import probe_sheet

pytestmark = [
    # The frozen BatchNorm.
    pytest.mark.filterwarnings("ignore:Found 1 module.s. in eval mode at the start of training"),
    # A resumed fit finds its checkpoints.
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
    # TensorBoard's own thread raises what it also hands on.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
]

METHODS: Any = {"gradient": "saliency", "change": "signed_gradient", "smooth": "smooth_grad"}


class Halving(Net):
    """With a learning rate that is halved after each epoch."""

    def configure_optimizers(self) -> Any:
        optimiser = torch.optim.SGD(self.parameters(), lr=0.1)
        return [optimiser], [torch.optim.lr_scheduler.StepLR(optimiser, 1, 0.5)]


def fit(
    folder: Path, monitor: SaliencyMonitor, *, net: Net | None = None, val: Any = None, **given: Any
) -> Net:
    """Two epochs of two batches, unless it says otherwise; the same weights each time."""
    torch.manual_seed(0)
    net, resume = net or Net(), given.pop("resume", None)
    callbacks = [monitor, *given.pop("callbacks", [])]
    made = trainer(callbacks=callbacks, **({"logger": board(folder)} | given))
    made.fit(net, loader(), val or loader(), ckpt_path=resume)
    return net


class Keeping(Callback):
    """Keeps what the monitor remembers of each observation, beside what it tells."""

    def __init__(self, monitor: SaliencyMonitor) -> None:
        self.monitor = monitor
        self.maps: list[dict[str, Tensor]] = []
        self.predictions: list[Tensor] = []

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        (memory,) = self.monitor._history._memories.values()
        now = memory.snapshots["previous"]
        self.maps.append({name: one.map.float() for name, one in now.series.items()})
        self.predictions.append(now.predictions)


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> tuple[History, Events, Keeping, Path]:
    """A fit of three epochs with labels, masks and a best checkpoint, and its record."""
    folder = tmp_path_factory.mktemp("watched")
    monitor = SaliencyMonitor(METHODS, mask=2, reference=1, on_error="raise")
    keeping = Keeping(monitor)
    saving = ModelCheckpoint(folder / "saved", monitor="val_loss", mode="min")
    masked = loader(images(), labels(), images()[:, 0] > 1)
    fit(
        folder,
        monitor,
        net=Halving(),
        val=masked,
        callbacks=[keeping, saving],
        enable_checkpointing=True,
        max_epochs=3,
    )
    return read(folder), Events(folder), keeping, folder


Watched = tuple[History, Events, Keeping, Path]


def test_every_observation_is_recorded(watched: Watched) -> None:
    history, _, keeping, _ = watched
    assert history.steps.tolist() == [0, 1, 3, 5]
    assert history.labels == ("start", "epoch 0", "epoch 1", "epoch 2")
    assert history.methods == tuple(METHODS)
    for row, (maps, predictions) in enumerate(zip(keeping.maps, keeping.predictions, strict=True)):
        np.testing.assert_array_equal(history.predictions[row], predictions)
        for name, own in maps.items():
            found = history.maps(name)[row]
            assert np.abs(found - own.numpy()).max() <= 1 / 254 + 1e-6, name
    signs = [history.probes.methods[name]["signed"] for name in METHODS]
    assert signs == [False, True, False]
    assert (history.maps("change") < 0).any()
    assert ((history.confidence > 1 / 3 - 1e-3) & (history.confidence <= 1)).all()


def test_its_numbers_are_those_of_the_curves(watched: Watched) -> None:
    history, events, *_ = watched
    own = {tag: line for tag, line in events.scalars.items() if tag.startswith("saliency/")}
    assert {f"saliency/{name}" for name in history.numbers} == own.keys()
    for name, line in history.numbers.items():
        curve = own[f"saliency/{name}"]
        expected = [curve.get(int(step), np.nan) for step in history.steps]
        np.testing.assert_allclose(line, expected, rtol=1e-4, err_msg=name)
    for method in METHODS:
        assert history.drift[method].keys() == {"previous", "first", "reference"}
        for other, drift in history.drift[method].items():
            medians = history.numbers[f"{method}/drift_{other}"]
            known = ~np.isnan(drift).all(1)
            assert known.tolist() == (~np.isnan(medians)).tolist()
            np.testing.assert_allclose(np.nanmedian(drift[known], 1), medians[known], atol=1e-4)
    assert np.isnan(history.drift["gradient"]["reference"]).all(1).tolist() == [1, 1, 0, 0]
    assert "reliability" in history.per_probe["smooth"]
    assert "reliability" not in history.per_probe["gradient"]


def test_what_the_training_did_is_recorded(watched: Watched) -> None:
    history, events, _, folder = watched
    # A scheduler of epochs steps before the epoch's validation.
    assert history.rates == ((0.1,), (0.05,), (0.025,), (0.0125,))
    losses = events.scalars["val_loss"]
    assert history.best == min(losses, key=lambda step: losses[step]) == 5
    for method in METHODS:  # also in the observation that was written again
        np.testing.assert_array_equal(
            history.per_probe[method]["peaks"], history.peaks(method), err_msg=method
        )
    known = [one["best"] for one in history.observations]
    assert known == [None, None, 1, 5], "the last one is told when the fit has ended"
    written = [value.tag for event in all_events(folder) for value in event.summary.value]
    assert written.count("saliency/record/observations") == 4 + 1
    assert written.count("saliency/record/maps/gradient") == 4
    assert written.count("saliency/record/probes") == 1
    assert history.events == ((), (), (), ())


def all_events(folder: Path) -> list[Any]:
    return [event for path in event_files(folder) for event in read_events(path)]


def test_the_probes_are_as_a_person_knows_them(watched: Watched) -> None:
    history, _, keeping, _ = watched
    sheet, gallery = history.probes, keeping.monitor
    assert len(sheet) == 12
    assert sheet.names == tuple(f"val[{index}]" for index in sorted_by_class())
    assert sheet.targets == sheet.explained
    assert sheet.header["target"] == "Margin()"
    assert sheet.methods["gradient"]["words"].startswith("Saliency(")
    assert gallery._history._fitted == sheet.hash
    assert sheet.images.shape == (12, 8, 8, 3)
    assert sheet.masks is not None
    chosen = [int(name[4:-1]) for name in sheet.names]
    np.testing.assert_array_equal(sheet.masks, (images()[:, 0] > 1)[chosen])
    grey = images()[chosen, 0]
    expected = (grey - grey.min()) / (grey.max() - grey.min()) * 255
    np.testing.assert_allclose(sheet.images[..., 0], expected, atol=0.51)


def sorted_by_class() -> list[int]:
    """Balanced classes of all 12 examples: as `choose` gives them."""
    from lightning_saliency.probes import Fields, choose

    data: Any = loader().dataset
    return choose(data, 12, seed=0, fields=Fields(), loader=loader())


def test_its_tags_stand_in_the_table(watched: Watched) -> None:
    rows = {tag.pattern: tag.kind for tag in TAGS}
    kinds = {b"probes": "blobs", b"maps": "blobs", b"observations": "tensor"}
    found = tracks(watched[3])
    recorded = [tag for tag in found if tag.startswith("saliency/record/")]
    assert len(recorded) == 2 + len(METHODS)
    for tag in recorded:
        row = re.sub(f"/({'|'.join(METHODS)})$", "/{method}", tag)
        (series,) = (one for one in kinds if b'"series":"%s"' % one in found[tag].content)
        assert rows[row] == kinds[series], tag
    # And nothing else of ours but the cells.
    assert {tag for tag in found if "/record/" not in tag} <= {
        "saliency/cells/probes",
        "saliency/cells/stream",
    }


def test_no_second_event_file(watched: Watched) -> None:
    assert len(list(watched[3].glob("*tfevents*"))) == 1


def test_a_grid_since_a_reference_is_drawn(watched: Watched) -> None:
    """Its maps and the drift from them once came to the host under one name."""
    history, events, *_ = watched
    assert list(events.images["saliency/gradient"]) == history.steps.tolist()
    assert set(events.scalars["saliency/failures"].values()) == {0.0}


def test_it_is_read_while_the_fit_runs(tmp_path: Path) -> None:
    found: list[tuple[int, list[int]]] = []

    class Reading(Callback):
        def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
            monitor._teller.writer.drain()
            found.append((trainer.global_step, read(tmp_path).steps.tolist()))

    monitor = SaliencyMonitor(probes=3)
    fit(tmp_path, monitor, callbacks=[Reading()])
    assert found == [(0, [0]), (1, [0]), (2, [0, 1]), (3, [0, 1])]


def saving_to(folder: Path) -> dict[str, Any]:
    """Arguments of a Trainer that keeps the checkpoint of each epoch, and knows the best one."""
    saving = ModelCheckpoint(folder, monitor="val_loss", save_top_k=-1, filename="{epoch}")
    return {"enable_checkpointing": True, "callbacks": [saving]}


def test_a_resumed_fit_goes_on_in_its_folder(tmp_path: Path) -> None:
    """As if it had not been killed after the third epoch, with the checkpoint of the first."""
    whole = tmp_path / "whole"
    fit(whole, SaliencyMonitor(probes=5), max_epochs=4, **saving_to(whole / "saved"))
    folder, given = tmp_path / "run", saving_to(tmp_path / "saved")
    fit(folder, SaliencyMonitor(probes=5), max_epochs=3, **given)
    sessions = {one["session"] for one in read(folder).observations}
    saved = tmp_path / "saved" / "epoch=0.ckpt"
    fit(folder, SaliencyMonitor(probes=5), max_epochs=4, resume=saved, **given)
    history, expected = read(folder), read(whole)
    assert history.steps.tolist() == expected.steps.tolist() == [0, 1, 3, 5, 7]
    assert [one["index"] for one in history.observations] == list(range(5))
    np.testing.assert_array_equal(history.maps("gradient"), expected.maps("gradient"))
    np.testing.assert_array_equal(
        history.drift["gradient"]["previous"], expected.drift["gradient"]["previous"]
    )
    best = [one["best"] for one in history.observations]
    assert best == [one["best"] for one in expected.observations]
    assert best[2] == 1, "known from before the resume"
    assert [len(marks) for marks in history.events] == [0, 0, 1, 0, 0]
    (mark,) = history.events[2]
    assert (mark.kind, "at step 2" in mark.text) == ("resumed", True)
    later = [one["session"] not in sessions for one in history.observations]
    assert later == [False, False, True, True, True]
    assert tracks(folder)["saliency/record/probes"].steps == [0, 3], "once in each process"
    # TensorBoard's loader in Python, which shows twice what it is not told twice to take back.
    lines = seen(folder, "python")["."]
    steps = [step for step, _ in lines["saliency/record/observations"]]
    assert starts(folder) == [2, 2]
    assert steps == [0, 1, 3, 5, 7, 7], "the last one again, with the best checkpoint"


def starts(folder: Path) -> list[int]:
    """From which steps TensorBoard takes back what is there."""
    return [one.step for one in all_events(folder) if one.HasField("session_log")]


def test_a_checkpoint_that_is_only_looked_at_takes_nothing_back(tmp_path: Path) -> None:
    given = saving_to(tmp_path / "saved")
    fit(tmp_path / "run", SaliencyMonitor(probes=5), max_epochs=1, **given)
    saved, given["callbacks"] = tmp_path / "saved" / "epoch=0.ckpt", given["callbacks"].copy()
    given["callbacks"].append(SaliencyMonitor(probes=5))
    made = trainer(logger=board(tmp_path / "again"), **given)
    made.validate(Net(), loader(), ckpt_path=saved, verbose=False)
    assert "saliency/gradient" in Events(tmp_path / "again").images
    assert starts(tmp_path / "again") == []
    assert nothing(tmp_path / "again")


def test_a_resumed_fit_whose_drift_starts_anew(tmp_path: Path) -> None:
    """Its first observation comes before its first step, and after what is taken back."""
    given = saving_to(tmp_path / "saved")
    fit(tmp_path / "run", SaliencyMonitor(probes=5), **given)
    saved, other = tmp_path / "saved" / "epoch=0.ckpt", SaliencyMonitor(probes=5, target="logit")
    with pytest.warns(UserWarning, match="target is not what it was"):
        fit(tmp_path / "run", other, resume=saved, **given)
    history = read(tmp_path / "run")
    assert history.steps.tolist() == [0, 1, 2, 3]
    assert [one["index"] for one in history.observations] == [0, 1, 0, 1]


def test_two_monitors_of_one_run(tmp_path: Path) -> None:
    pair = [SaliencyMonitor(probes=3), SaliencyMonitor("saliency", 5, name="my/own", record=4)]
    made = trainer(callbacks=pair, logger=board(tmp_path))
    made.fit(Net(), loader(), loader())
    assert [one.monitor for one in runs(tmp_path)] == ["saliency", "my/own"]
    shapes = [
        read(tmp_path, monitor=name).maps("gradient" if name == "saliency" else "saliency").shape
        for name in ("saliency", "my/own")
    ]
    assert shapes == [(3, 3, 8, 8), (3, 5, 4, 4)]


def test_finer_maps_change_no_number(tmp_path: Path) -> None:
    """Of images of 144 pixels: those that are measured have 48, those that are recorded 112."""
    data = loader(images(6, side=144), labels(6), batch_size=3)
    found = {}
    for side in (56, 112):
        torch.manual_seed(0)
        monitor = SaliencyMonitor(probes=3, record=side)
        made = trainer(callbacks=[monitor], logger=board(tmp_path / str(side)), max_epochs=1)
        made.fit(Net(), data, data)
        found[side] = read(tmp_path / str(side))
    coarse, fine = found[56].maps("gradient"), found[112].maps("gradient")
    assert (coarse.shape, fine.shape) == ((2, 3, 48, 48), (2, 3, 112, 112))
    # The same evidence: over blocks, in units, the finer ones are the coarser ones.
    peaks = found[112].peaks("gradient")[..., None, None]
    blocks = (fine * peaks).reshape(2, 3, 16, 7, 16, 7).mean((3, 5))
    own = coarse * found[56].peaks("gradient")[..., None, None]
    expected = own.reshape(2, 3, 16, 3, 16, 3).mean((3, 5))
    np.testing.assert_allclose(blocks, expected, atol=float(expected.max()) * 0.02)
    numbers = [one.numbers for one in found.values()]
    for tag in numbers[0].keys() - {"seconds", "overhead"}:
        np.testing.assert_array_equal(numbers[0][tag], numbers[1][tag], err_msg=tag)


class Signals(Net):
    """The same of signals or volumes: whatever comes is taken for an image of one channel."""

    def forward(self, x: Tensor) -> Any:
        return super().forward(x.reshape(len(x), 1, 8, -1))


@pytest.mark.parametrize("spatial", [(64,), (4, 4, 4)], ids=["signals", "volumes"])
def test_maps_of_other_dimensions(spatial: tuple[int, ...], tmp_path: Path) -> None:
    inputs = images().reshape(12, 1, *spatial)
    data = loader(inputs, labels(), inputs[:, 0] > 1)
    monitor = SaliencyMonitor(probes=3, mask=2, on_error="raise")
    made = trainer(callbacks=[monitor], logger=board(tmp_path), max_epochs=1)
    made.fit(Signals(), data, data)
    history = read(tmp_path)
    assert history.maps("gradient").shape == (2, 3, *spatial)
    masks = history.probes.masks
    assert masks is not None
    assert masks.shape == history.probes.images.shape[:3]
    assert masks.any()
    assert not masks.all()


def test_targets_and_scores_of_a_regression(tmp_path: Path) -> None:
    class Regression(Net):
        def loss(self, batch: Any) -> Tensor:
            error: Tensor = (self(batch[0])[:, 0] - batch[1]).square().mean()
            return error

    data = loader(images(), labels() / 7)
    monitor = SaliencyMonitor(probes=[0, 1, 2], target="output")
    made = trainer(callbacks=[monitor], logger=board(tmp_path), max_epochs=1)
    made.fit(Regression(), data, data)
    sheet = read(tmp_path).probes
    assert sheet.targets == pytest.approx([0, 1 / 7, 2 / 7])
    assert sheet.explained == (0, 0, 0)
    assert sheet.header["target"].startswith("Output")


class Saying:
    """A method of the user's that says that its maps have a sign, though none is below zero."""

    signed = True

    def __call__(self, model: Any, inputs: Tensor, targets: Tensor) -> Tensor:
        return self.maps(model, inputs, targets)

    def maps(self, model: Any, inputs: Tensor, targets: Tensor) -> Tensor:
        return inputs[:, 0].abs()


def test_undefined_maps_of_a_real_method(tmp_path: Path) -> None:
    def odd(model: Any, inputs: Tensor, targets: Tensor) -> Tensor:
        maps = inputs[:, 0].clone()
        maps[0], maps[1] = float("nan"), 0.5
        return maps

    methods: Any = {"odd": odd, "says so": Saying(), "does not": Saying().maps}
    fit(tmp_path, SaliencyMonitor(methods, probes=4), max_epochs=1)
    history = read(tmp_path)
    assert np.isnan(history.peaks("odd")).tolist() == [[True, True, False, False]] * 2
    assert history.numbers["odd/undefined"].tolist() == [0.5, 0.5]
    blob = history.blob("odd", 0)
    assert blob is not None
    assert blob.header["signed"], "it has negative values, though it does not say so"
    coded = [history.blob(name, 1) for name in ("says so", "does not")]
    assert [one is not None and one.header["signed"] for one in coded] == [True, False]


def nothing(folder: Path) -> bool:
    return not runs(folder)


def test_who_records_nothing(tmp_path: Path) -> None:
    """No event file, no wish, no fit, nothing real."""
    fit(tmp_path / "a", SaliencyMonitor(probes=3), logger=CSVLogger(tmp_path / "a"))
    fit(tmp_path / "b", SaliencyMonitor(probes=3, record=None))
    fit(tmp_path / "c", SaliencyMonitor(probes=3), fast_dev_run=True)
    monitor = SaliencyMonitor(probes=3)
    made = trainer(callbacks=[monitor], logger=board(tmp_path / "d"))
    made.validate(Net(), loader(), verbose=False)
    assert "saliency/gradient" in Events(tmp_path / "d").images
    assert all(nothing(tmp_path / name) for name in "abcd" if (tmp_path / name).exists())


def test_a_test_after_a_fit_leaves_its_record_alone(tmp_path: Path) -> None:
    monitor = SaliencyMonitor(probes=3)
    made = trainer(callbacks=[monitor], logger=board(tmp_path))
    net = Net()
    made.fit(net, loader(), loader())
    before = read(tmp_path)
    made.test(net, loader(images(9), labels(9)), verbose=False)
    after = read(tmp_path)
    assert after.observations == before.observations
    assert after.probes.hash == before.probes.hash


def test_a_second_fit_of_the_same_trainer_goes_on(tmp_path: Path) -> None:
    monitor = SaliencyMonitor(probes=3)
    made = trainer(callbacks=[monitor], logger=board(tmp_path))
    net = Net()
    made.fit(net, loader(), loader())
    made.fit_loop.max_epochs = 3
    made.fit(net, loader(), loader())
    history = read(tmp_path)
    assert history.steps.tolist() == [0, 1, 3, 5]
    assert [one["since"] for one in history.observations] == [0, 0, 0, 4]


def test_a_second_fit_of_other_data_brings_its_probes(tmp_path: Path) -> None:
    monitor = SaliencyMonitor(probes=3)
    made = trainer(callbacks=[monitor], logger=board(tmp_path))
    net = Net()
    made.fit(net, loader(), loader())
    made.fit_loop.max_epochs = 3
    made.fit(net, loader(), loader(images(9) + 1, labels(9)))
    history = read(tmp_path)
    assert history.labels == ("step 4", "epoch 2")
    assert history.probes.hash == monitor._history._fitted
    assert tracks(tmp_path)["saliency/record/probes"].steps == [0, 4]


@pytest.mark.parametrize("record", [3, 113, 56.0, "56", True])
def test_a_wrong_side_is_told(record: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"record=.*whole number from 4 to 112; or None"):
        SaliencyMonitor(record=record)


def test_the_training_is_the_one_without_a_record(tmp_path: Path) -> None:
    """Weights, buffers, optimiser, random streams, metrics."""
    make: Callable[[int | None], Any] = lambda side: lambda: [SaliencyMonitor(record=side)]  # noqa: E731
    alone = run(PICTURES, make(None), tmp_path / "none")
    recorded = run(PICTURES, make(112), tmp_path / "all")
    assert gaps(alone, recorded) == {}
    values = [
        {tag: one for tag, one in trace.observed.items() if not tag.endswith(CLOCKS)}
        for trace in (alone, recorded)
    ]
    assert gap(values[0], values[1]) == 0
    # The untrained network and the first validation, before the first step, are at one step.
    assert read(tmp_path / "all").steps.tolist() == STEPS
    assert nothing(tmp_path / "none")


CLOCKS = ("seconds", "overhead")


@pytest.mark.parametrize(
    "error", [OSError("no space left"), MemoryError(), SystemExit(1)], ids=repr
)
def test_a_record_that_fails_stops_nothing(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told once, counted, left out as a whole; the pictures and later ones are there."""
    mishap = in_the_thread("lightning_saliency.recording.summary", error, monkeypatch)
    with awake():
        left = survive(mishap, tmp_path, setup=PICTURES)
    assert left.gaps == {}
    (told,) = left.told
    assert "the record could not be written" in told
    assert type(error).__name__ in told
    assert left.failures[-1] == 2
    folder = tmp_path / "watched"
    assert list(Events(folder).images["saliency/gradient"]) == STEPS
    assert read(folder).steps.tolist() == [0, STEPS[-1]]


@on_linux
@pytest.mark.parametrize("kind", ["full", "read-only"])
def test_a_disk_without_room(kind: str, tmp_path: Path) -> None:
    with awake():
        left = survive(disk(tmp_path, kind), tmp_path, setup=PICTURES)
    assert left.gaps == {}
    history = read(tmp_path / "watched")
    assert {0, STEPS[-1]} <= set(history.steps.tolist()), "recorded again when there is room"
    assert all(history.blobs["gradient"]), "each with its maps"


def test_probes_that_could_not_be_written_come_with_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[bool] = []

    def once(*args: Any) -> Any:
        calls.append(True)
        if len(calls) == 1:
            raise OSError("no space left")
        return probe_sheet(*args)

    monkeypatch.setattr("lightning_saliency.recording.probe_sheet", once)
    fit(tmp_path, SaliencyMonitor(probes=3))
    assert (read(tmp_path).steps.tolist(), len(calls)) == ([1, 3], 2)
