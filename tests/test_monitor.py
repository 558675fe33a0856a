"""The monitor in short real fits: exact zeros, references, schedules, failures."""

from __future__ import annotations

import copy
import math
import pickle
import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from small_fits import Events, Net, board, images, labels, loader, trainer
from torch import Tensor, nn

from lightning_saliency import (
    ConfigurationError,
    Every,
    ObservationError,
    SaliencyMonitor,
    SaliencyWarning,
    SmoothGrad,
)
from lightning_saliency.attribution import MethodName
from lightning_saliency.measures import MEASURES, Grounding
from lightning_saliency.observation import observing
from lightning_saliency.readings import to_host

ALL: list[MethodName] = ["saliency", "smooth_grad", "integrated_gradients", "grad_cam", "hires_cam"]


RESUMED = pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`:UserWarning")


class Frozen(Net):
    """Trains, but its weights stay."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


class Reset(Callback):
    """Give the net fresh weights at the end of an epoch."""

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        for layer in pl_module.modules():
            if isinstance(layer, (nn.Conv2d, nn.Linear)):
                layer.reset_parameters()


def saved_by_a_fit(folder: Path) -> Path:
    """The last checkpoint of a watched fit, at step 3."""
    data, saving = loader(images(12), labels(12)), ModelCheckpoint(folder, save_last=True)
    fit = trainer(callbacks=[SaliencyMonitor(probes=3), saving], enable_checkpointing=True)
    fit.fit(Net(), data, data)
    return folder / "last.ckpt"


def watch(
    folder: Path, monitor: SaliencyMonitor, net: Net, *others: Callback, **given: Any
) -> Events:
    fit = trainer(logger=board(folder), callbacks=[monitor, *others], **given)
    fit.fit(net, loader(images(48), labels(48)), loader(images(24), labels(24)))
    return Events(folder)


def test_frozen_weights_drift_by_exactly_nothing(tmp_path: Path) -> None:
    measures: dict[str, Any] = {
        name: one for name, one in MEASURES.items() if not isinstance(one, Grounding)
    }
    monitor = SaliencyMonitor(methods=ALL, measures=measures, probes=9, reference="first")
    events = watch(tmp_path, monitor, Frozen(), max_epochs=3)
    drifts = {
        tag: set(points.values())
        for tag, points in events.scalars.items()
        if "_previous" in tag or "_first" in tag
    }
    measured = {tag.split("/")[2] for tag in drifts}
    assert {"drift_previous", "drift_first", "ssim_previous", "centroid_shift_first"} <= measured
    for tag, values in drifts.items():
        # Maps of 1 × 1 places and constant ones have no rank correlation: undefined, not 0.
        assert all(value == 0.0 for value in values if not math.isnan(value)), tag
    assert drifts["saliency/saliency/drift_previous"] == {0.0}
    assert drifts["saliency/smooth_grad/drift_first"] == {0.0}
    assert set(events.scalars["saliency/churn"].values()) == {0.0}


def test_fresh_weights_are_unrelated(tmp_path: Path) -> None:
    """1 − cosine of unrelated signed maps is 1, for nets as deep as this one within 5 %."""
    torch.manual_seed(0)
    net = Net(channels=3)
    net.features = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(),
        nn.Conv2d(16, 4, 3, padding=1), nn.ReLU(),
    )  # fmt: skip
    fit = trainer(
        logger=board(tmp_path),
        callbacks=[SaliencyMonitor(probes=64), Reset()],
        max_epochs=8,
        limit_train_batches=1,
    )
    data = loader(images(96, 3, 32), labels(96), batch_size=32)
    fit.fit(net, data, data)
    # The weights of the first validation are trained ones: an epoch ends after it.
    _, *drifts = Events(tmp_path).scalars["saliency/gradient/drift_first"].values()
    assert 0.95 <= sum(drifts) / len(drifts) <= 1.05


def test_a_drift_is_that_of_the_maps_by_hand(tmp_path: Path) -> None:
    """Against the definition, by an independent computation on the same weights."""
    net, kept = Net(), []

    class Keep(Callback):
        def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            x = images(24).requires_grad_()
            with torch.inference_mode(False), torch.enable_grad():
                scores = pl_module(x)
                picked = scores.gather(1, labels(24)[:, None]).squeeze(1)
                others = scores.clone()
                others[torch.arange(24), labels(24)] = -torch.inf
                (gradient,) = torch.autograd.grad((picked - others.logsumexp(1)).sum(), x)
            kept.append(nn.functional.normalize(gradient.flatten(1)))

    events = watch(tmp_path, SaliencyMonitor(probes=list(range(24))), net, Keep())
    expected = [(1 - (now * then).sum(1)).quantile(0.5).item() for then, now in pairwise(kept)]
    found = list(events.scalars["saliency/gradient/drift_previous"].values())
    assert found == pytest.approx(expected, abs=1e-5)


def test_smoothgrad_sees_the_same_noise_each_time() -> None:
    net, method = Net(), SmoothGrad(samples=2)
    first, second = (method(net, images(6), labels(6)) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, SmoothGrad(samples=2, seed=1)(net, images(6), labels(6)))


@pytest.mark.parametrize(
    ("every", "epochs", "wanted"),
    [
        (1, 4, [0, 1, 3, 5, 7]),
        (2, 4, [0, 1, 5]),
        (Every(2, start=1), 4, [0, 3, 7]),
        (Every(1, start=3), 4, [0, 7]),
        (Every(2, unit="epoch"), 5, [0, 1, 5, 9]),
    ],
)
def test_it_looks_when_it_is_told_to(
    tmp_path: Path, every: int | Every, epochs: int, wanted: list[int]
) -> None:
    events = watch(tmp_path, SaliencyMonitor(probes=3, every=every), Net(), max_epochs=epochs)
    assert list(events.images["saliency/gradient"]) == wanted
    assert list(events.scalars["saliency/gradient/entropy"]) == wanted


def test_an_epoch_with_several_validations_is_observed_at_its_end(tmp_path: Path) -> None:
    monitor = SaliencyMonitor(probes=3, every=Every(unit="epoch"))
    given: dict[str, Any] = {"limit_train_batches": 4, "val_check_interval": 2}
    events = watch(tmp_path, monitor, Net(), **given)
    assert list(events.images["saliency/gradient"]) == [0, 3, 7]
    assert list(events.scalars["val_loss"]) == [1, 3, 5, 7]


def test_without_a_validation_it_looks_after_epochs(tmp_path: Path) -> None:
    from lightning_saliency import Probes

    monitor = SaliencyMonitor(probes=Probes.from_tensors(images(6), labels(6)))
    events = watch(tmp_path, monitor, Net(), limit_val_batches=0)
    assert len(events.images["saliency/gradient"]) == 3


def drift_reference(folder: Path, reference: Any, *others: Callback, **given: Any) -> list[float]:
    monitor = SaliencyMonitor(probes=6, reference=reference)
    events = watch(folder, monitor, Net(), *others, max_epochs=4, **given)
    return list(events.scalars.get("saliency/gradient/drift_reference", {}).values())


def test_a_step_can_be_the_reference(tmp_path: Path) -> None:
    from_step = drift_reference(tmp_path, 3)
    assert len(from_step) == 2, "the observations after the one at step 3"


def test_the_first_and_the_previous_need_no_curve_of_their_own(tmp_path: Path) -> None:
    assert drift_reference(tmp_path / "a", "first") == []
    assert drift_reference(tmp_path / "b", "previous") == []


def test_the_best_checkpoint_is_the_reference(tmp_path: Path) -> None:
    class Worse(Net):
        """Its metric is best after the first epoch."""

        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            self.log("loss_of_mine", float(self.current_epoch))

    best = ModelCheckpoint(tmp_path / "c", monitor="loss_of_mine")
    monitor = SaliencyMonitor(probes=6, reference="best")
    fit = trainer(
        logger=board(tmp_path), callbacks=[monitor, best], max_epochs=4, enable_checkpointing=True
    )
    fit.fit(Worse(), loader(images(48), labels(48)), loader(images(24), labels(24)))
    scalars = Events(tmp_path).scalars
    to_best = scalars["saliency/gradient/drift_reference"]
    to_previous = scalars["saliency/gradient/drift_previous"]
    assert list(to_best) == [3, 5, 7]
    assert to_best[3] == to_previous[3], "the best one was the previous one"
    assert to_best[7] != to_previous[7]


class Breaks:
    """A method that works for a while."""

    def __init__(self, after: int, error: Exception) -> None:
        self.left, self.error = after, error

    def __call__(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        self.left -= 1
        if self.left < 0:
            raise self.error
        return inputs.abs()


def test_a_failure_while_training_is_told_once_and_counted(tmp_path: Path) -> None:
    monitor = SaliencyMonitor(methods={"mine": Breaks(2, OSError("no luck"))}, probes=3)
    with pytest.warns(SaliencyWarning, match="no luck") as told:
        events = watch(tmp_path, monitor, Net(), max_epochs=4)
    assert len([one for one in told if one.category is SaliencyWarning]) == 1
    assert list(events.scalars["saliency/failures"].values()) == [0, 0, 1, 2, 3]
    assert list(events.scalars["val_loss"]) == [1, 3, 5, 7], "the training went on"


def test_a_failure_can_stop_the_run(tmp_path: Path) -> None:
    monitor = SaliencyMonitor(
        methods={"mine": Breaks(2, OSError("no luck"))}, probes=3, on_error="raise"
    )
    with pytest.raises(Exception, match="no luck"):
        watch(tmp_path, monitor, Net(), max_epochs=4)


def test_broken_weights_are_counted_as_undefined(tmp_path: Path) -> None:
    class Burst(Callback):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            with torch.no_grad():
                pl_module.head[2].weight.fill_(math.nan)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        events = watch(tmp_path, SaliencyMonitor(probes=3), Net(), Burst(), max_epochs=3)
    undefined = list(events.scalars["saliency/undefined"].values())
    assert undefined[:2] == [0, 0]
    assert undefined[2:] == [1, 1]
    assert math.isnan(list(events.scalars["saliency/gradient/drift_previous"].values())[-1])
    assert len(events.images["saliency/gradient"]) == 4, "drawn as undefined"


def test_all_numbers_come_in_one_transfer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls = []

    def counted(tensors: dict[str, Tensor]) -> Any:
        calls.append(len(tensors))
        return to_host(tensors)

    monkeypatch.setattr("lightning_saliency.finding.to_host", counted)
    watch(tmp_path, SaliencyMonitor(methods=ALL, probes=3), Net(), max_epochs=2)
    assert len(calls) == 3
    assert all(count > 10 for count in calls)


def test_the_class_is_fixed_at_the_first_prediction(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = Net()
    with observing(net), torch.no_grad():
        first = net(images(24)).argmax(1)
    monitor = SaliencyMonitor(probes=list(range(24)), target_class="prediction")
    watch(tmp_path, monitor, net, max_epochs=3)
    (memory,) = monitor._history._memories.values()
    assert torch.equal(memory.classes, first)


def test_the_monitor_says_what_it_watches(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        watch(tmp_path, SaliencyMonitor(probes=3), Net())
    (said,) = [one for one in caplog.messages if "SaliencyMonitor" in one]
    assert f"tensorboard --logdir {tmp_path} --samples_per_plugin images=1000" in said


def test_a_monitor_can_be_pickled_and_copied() -> None:
    """A fit that spawns processes pickles it; a tuner copies it."""
    monitor = SaliencyMonitor(methods=ALL, target="logit", probes=3, name="mine")
    for other in (pickle.loads(pickle.dumps(monitor)), copy.deepcopy(monitor)):
        assert other.settings == monitor.settings
        assert other.state_key == monitor.state_key


@pytest.mark.parametrize("last", [True, False])
def test_probes_have_the_memory_format_of_the_weights(tmp_path: Path, last: bool) -> None:
    seen: list[bool] = []

    class Layout(Net):
        def forward(self, x: Tensor) -> Any:
            if x.requires_grad:  # the monitor's pass
                seen.append(x.is_contiguous(memory_format=torch.channels_last))
            return super().forward(x)

    net = Layout(channels=3)
    if last:
        net = net.to(memory_format=torch.channels_last)
    data = loader(images(12, 3), labels(12))
    trainer(callbacks=[SaliencyMonitor(probes=3)]).fit(net, data, data)
    assert seen
    assert all(one is last for one in seen)


@RESUMED
def test_a_method_that_comes_with_a_resume_starts_anew(tmp_path: Path) -> None:
    data, checkpoint = loader(images(12), labels(12)), saved_by_a_fit(tmp_path)
    monitor = SaliencyMonitor(methods={"gradient": "saliency", "cam": "grad_cam"}, probes=3)
    again = trainer(callbacks=[monitor], logger=board(tmp_path / "again"), max_epochs=5)
    with pytest.warns(SaliencyWarning, match="methods: cam .* starts its drift anew"):
        again.fit(Net(), data, data, ckpt_path=checkpoint)
    scalars = Events(tmp_path / "again").scalars
    assert list(scalars["saliency/gradient/drift_first"]) == [5, 7, 9]
    assert list(scalars["saliency/cam/drift_first"]) == [7, 9]


def test_two_methods_do_not_see_what_the_other_wrote(tmp_path: Path) -> None:
    """Each of the user's functions has its own inputs, with its own gradients."""

    def careless(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        inputs.requires_grad_()
        model(inputs).gather(1, targets[:, None]).sum().backward()
        assert inputs.grad is not None
        maps = inputs.grad.abs()
        inputs.data.mul_(2)
        return maps

    monitor = SaliencyMonitor(methods={"a": careless, "b": careless}, probes=3, target="logit")
    watch(tmp_path, monitor, Frozen())
    (memory,) = monitor._history._memories.values()
    series = memory.snapshots["previous"].series
    assert torch.equal(series["a"].peak, series["b"].peak)
    assert monitor._session is not None
    assert any(torch.equal(monitor._session.probes.inputs[0], one) for one in images(24))


def test_a_test_that_cannot_be_observed_does_not_end_in_an_error(tmp_path: Path) -> None:
    class Unlabelled(Net):
        def test_step(self, batch: Any, batch_idx: int) -> None:
            self.log("tested", 1.0)

    fit = trainer(callbacks=[SaliencyMonitor(probes=3)])
    data = loader(images(12), labels(12))
    net = Unlabelled()
    fit.fit(net, data, data)
    with pytest.warns(SaliencyWarning, match="target_class='label'"):
        results = fit.test(net, loader(images(12)), verbose=False)
    assert results[0]["tested"] == 1.0


def test_a_second_fit_starts_a_new_history(tmp_path: Path) -> None:
    monitor = SaliencyMonitor(probes=3)
    for name in ("one", "two"):
        events = watch(tmp_path / name, monitor, Net(), max_epochs=1)
        assert list(events.images["saliency/gradient"]) == [0, 1]


@RESUMED
def test_a_validation_after_a_resume_stands_at_its_own_step(tmp_path: Path) -> None:
    data, checkpoint = loader(images(12), labels(12)), saved_by_a_fit(tmp_path)
    again = trainer(
        callbacks=[SaliencyMonitor(probes=3)], logger=board(tmp_path / "a"), max_epochs=4
    )
    net = Net()
    again.fit(net, data, data, ckpt_path=checkpoint)
    again.validate(net, data, verbose=False)
    steps = list(Events(tmp_path / "a").images["saliency/gradient"])
    assert min(steps) == 5, "the checkpoint was written at step 3; nothing is seen there again"


def test_a_best_checkpoint_of_one_name_is_followed(tmp_path: Path) -> None:
    """Its path stays; its score tells that it is another one."""

    class Better(Net):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            self.log("loss_of_mine", -float(self.current_epoch))

    saving = ModelCheckpoint(
        tmp_path, filename="best", monitor="loss_of_mine", enable_version_counter=False
    )
    monitor = SaliencyMonitor(probes=3, reference="best")
    fit = trainer(callbacks=[monitor, saving], enable_checkpointing=True, max_epochs=4)
    fit.fit(Better(), loader(images(12), labels(12)), loader(images(12), labels(12)))
    (memory,) = monitor._history._memories.values()
    assert memory.snapshots["reference"].label == "epoch 2"


def test_a_best_checkpoint_that_was_not_observed_is_no_reference(tmp_path: Path) -> None:
    class BestAtOne(Net):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            self.log("loss_of_mine", abs(float(self.current_epoch) - 1))

    saving = ModelCheckpoint(tmp_path, monitor="loss_of_mine")
    monitor = SaliencyMonitor(probes=3, reference="best", every=2)  # epochs 0 and 2
    fit = trainer(callbacks=[monitor, saving], enable_checkpointing=True, max_epochs=3)
    with pytest.warns(SaliencyWarning, match="a validation that was not observed"):
        fit.fit(BestAtOne(), loader(images(12), labels(12)), loader(images(12), labels(12)))
    (memory,) = monitor._history._memories.values()
    assert memory.snapshots["reference"].label == "epoch 0"


def test_the_best_needs_a_checkpoint_that_chooses(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"reference='best'.*ModelCheckpoint\(monitor="):
        watch(tmp_path, SaliencyMonitor(probes=3, reference="best"), Net())


def test_pictures_that_fail_can_stop_the_run_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> bytes:
        raise OSError("no space left on device")

    monkeypatch.setattr("lightning_saliency.writer.encode", full)
    with pytest.raises(ObservationError, match="OSError: no space left"):
        watch(tmp_path, SaliencyMonitor(probes=3, on_error="raise"), Net())
    events = watch(tmp_path / "b", SaliencyMonitor(probes=3), Net())
    assert max(events.scalars["saliency/failures"].values()) > 0
