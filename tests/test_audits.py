"""Audits of real fits: what the event file holds, what is told, and that they cost nothing else."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import ModelCheckpoint
from mishaps import VALIDATIONS, Mishap, Raises, listening, survive
from small_fits import Events, Net, board, images, labels, loader, trainer
from test_ladder import NAMES
from torch import Tensor, nn
from twin_runs import Setup, gaps, run

from lightning_saliency import SaliencyMonitor, auditing
from lightning_saliency.attribution import SmoothGrad
from lightning_saliency.audits import Audits, resolve_audits
from lightning_saliency.errors import ConfigurationError, ObservationError
from lightning_saliency.faithfulness import Faithfulness

pytestmark = [
    # The frozen BatchNorm.
    pytest.mark.filterwarnings("ignore:Found 1 module.s. in eval mode at the start of training"),
    # A resumed fit writes its checkpoints elsewhere.
    pytest.mark.filterwarnings("ignore:The dirpath has changed from"),
]

FEW = Faithfulness(steps=4)


def edges(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """A method that does not look at the model."""
    return inputs.diff(dim=-1, append=inputs[..., -1:])


METHODS: dict[str, Any] = {"gradient": "saliency", "smooth": SmoothGrad(samples=2), "edges": edges}


class Fit(NamedTuple):
    events: Events
    told: list[str]
    metrics: dict[str, float]
    net: nn.Module

    def of(self, tag: str) -> dict[int, float]:
        return self.events.scalars.get(f"saliency/{tag}", {})

    @property
    def rungs(self) -> set[str]:
        """Of the gradient."""
        begin = "saliency/gradient/floor_"
        return {
            tag.removeprefix(begin)
            for tag in self.events.scalars
            if tag.startswith(begin) and not tag.endswith(("_p10", "_p90"))
        }


def fitted(
    folder: Path,
    audits: Any,
    *,
    net: Net | None = None,
    batch: tuple[Tensor, ...] | None = None,
    methods: dict[str, Any] | None = None,
    monitor: dict[str, Any] | None = None,
    verb: str = "fit",
    resume: Path | None = None,
    **given: Any,
) -> Fit:
    torch.manual_seed(0)
    net = net or Net()
    watching = SaliencyMonitor(
        methods or METHODS, alerts=None, audits=audits, on_error="raise", **monitor or {}
    )
    callbacks = [watching, *given.pop("callbacks", [])]
    data = loader(*(batch or (images(), labels())))
    with listening() as told:
        made = trainer(callbacks=callbacks, logger=board(folder), **given)
        if verb == "fit":
            made.fit(net, data, data, ckpt_path=resume)
        else:
            made.validate(net, data, verbose=False)
    metrics = {name: float(one) for name, one in made.callback_metrics.items()}
    return Fit(Events(folder), told, metrics, net)


def masks(count: int = 12, side: int = 8) -> Tensor:
    """An object that moves."""
    found = torch.zeros(count, side, side)
    for row in range(count):
        found[row, row % 4 : row % 4 + 3, 2:6] = 1
    return found


# What the event file holds


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Fit:
    """A fit whose every observation is audited, of images with masks."""
    return fitted(
        tmp_path_factory.mktemp("audited"),
        Audits(1, FEW),
        batch=(images(), labels(), masks()),
        monitor={"mask": 2},
        max_epochs=3,
    )


def test_floors_are_told_at_every_audit_and_not_of_the_untrained(whole: Fit) -> None:
    assert whole.rungs == set(NAMES) - {"seed"}
    for method in METHODS:
        for rung in whole.rungs:
            tag = f"{method}/floor_{rung}"
            low, middle, high = (whole.of(f"{tag}{end}") for end in ("_p10", "", "_p90"))
            assert list(low) == list(middle) == list(high) == [1, 3, 5]
            for step, one in middle.items():
                assert 0 <= low[step] <= one <= high[step] <= 2
    assert whole.metrics["saliency/gradient/floor_step"] == whole.of("gradient/floor_step")[5]
    assert set(whole.of("failures").values()) == {0}


def test_floors_have_sane_values(whole: Fit) -> None:
    for method in METHODS:
        assert set(whole.of(f"{method}/floor_repeat").values()) == {0}
        assert max(whole.of(f"{method}/floor_batch_size").values()) < 1e-5
    for method in ("gradient", "smooth"):
        for step, drift in whole.of(f"{method}/floor_redrawn").items():
            assert drift > 0.3
            assert 0 < whole.of(f"{method}/floor_step")[step] < drift
            assert whole.of(f"{method}/floor_precision")[step] < 0.05
    for rung in ("precision", "step", "redrawn"):
        assert set(whole.of(f"edges/floor_{rung}").values()) == {0}
    jitter = whole.of("edges/floor_jitter_1")
    assert len(set(jitter.values())) == 1, "the same noise each time"
    assert 0 < jitter[1] < whole.of("edges/floor_jitter_5")[1] < 0.5


def test_the_other_audits_have_sane_values(whole: Fit) -> None:
    for method in METHODS:
        for audit in ("insertion", "deletion"):
            values = whole.of(f"{method}/{audit}")
            assert list(values) == [1, 3, 5]
            assert all(abs(one) < 1 for one in values.values())
        assert list(whole.of(f"{method}/sanity")) == [1], "once in a run"
    assert whole.of("gradient/insertion")[5] != whole.of("smooth/insertion")[5]
    assert whole.of("edges/sanity")[1] == pytest.approx(1)
    assert abs(whole.of("gradient/sanity")[1]) < 0.6
    agreements = [name for name in whole.events.scalars if "/agreement/" in name]
    pairs = ("gradient/smooth", "gradient/edges", "smooth/edges")
    assert agreements == [f"saliency/agreement/{pair}" for pair in pairs]
    assert whole.of("agreement/gradient/smooth")[5] > 0.5
    assert abs(whole.of("agreement/gradient/edges")[5]) < 0.5
    assert list(whole.of("context_swap_gap")) == [1, 3, 5]
    assert all(math.isfinite(one) for one in whole.of("context_swap_gap").values())


def test_the_strip_is_drawn_with_a_table_of_what_was_changed(whole: Fit) -> None:
    assert list(whole.events.images["saliency/floors"]) == [1, 3, 5]
    text = whole.events.texts["saliency/floors"]
    assert "| changed | `gradient` | `smooth` | `edges` |" in text
    assert "| the same passes again | 0 | 0 | 0 |" in text
    assert "| random weights, drawn as when the model was made |" in text
    assert text.endswith("- without `seed`: no run with another seed was given")


def test_a_method_that_ignores_the_weights_is_told_once(whole: Fit) -> None:
    (told,) = whole.told
    assert "'edges' shows the image more than what the model learned" in told
    assert "It hardly reacts to the weights." in told


def saving(folder: Path) -> dict[str, Any]:
    """So that the last weights are in `last.ckpt` there."""
    checkpoint = ModelCheckpoint(folder / "saved", filename="last")
    return {"callbacks": [checkpoint], "enable_checkpointing": True}


def test_every_second_observation_and_over_a_resume_the_sanity_once(tmp_path: Path) -> None:
    only: dict[str, Any] = {"methods": {"gradient": "saliency"}}
    found = fitted(tmp_path / "a", 2, max_epochs=2, **only, **saving(tmp_path))
    assert list(found.of("gradient/floor_repeat")) == [1]
    assert list(found.of("gradient/sanity")) == [1]
    resume = tmp_path / "saved" / "last.ckpt"
    found = fitted(tmp_path / "b", 2, max_epochs=4, resume=resume, **only, **saving(tmp_path / "b"))
    assert list(found.of("gradient/entropy")) == [5, 7]
    assert list(found.of("gradient/floor_repeat")) == [5]
    assert not found.of("gradient/sanity")
    found = fitted(tmp_path / "c", None, max_epochs=2, **only)
    assert not found.rungs
    assert "saliency/floors" not in found.events.images


def test_outside_of_a_fit_there_is_no_step(tmp_path: Path) -> None:
    found = fitted(tmp_path, 10, verb="validate", methods={"gradient": "saliency"})
    assert found.rungs == set(NAMES) - {"seed", "step"}
    assert found.of("gradient/sanity")
    assert "no training whose step it could be" in found.events.texts["saliency/floors"]


class Regression(Net):
    """One number."""

    def __init__(self) -> None:
        super().__init__(classes=1)

    def loss(self, batch: Any) -> Tensor:
        return F.mse_loss(self(batch[0])[:, 0], batch[1].float())


class Signals(Net):
    """Of two channels, 30 samples long."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv1d(2, 4, 5, padding=2), nn.ReLU())
        self.head = nn.Sequential(nn.AdaptiveAvgPool1d(4), nn.Flatten(), nn.Linear(16, 3))


def test_a_regression_has_floors_and_is_told_why_it_has_no_insertion(tmp_path: Path) -> None:
    found = fitted(
        tmp_path,
        1,
        net=Regression(),
        monitor={"target": "output"},
        methods={"gradient": "saliency"},
    )
    assert found.rungs == set(NAMES) - {"seed", "step"}
    assert not found.of("gradient/insertion")
    assert not found.of("gradient/deletion")
    text = found.events.texts["saliency/floors"]
    assert "- without `insertion`: they need the probability of a class" in text
    assert "- without `step`: the loss of a model that tells no classes isn't known" in text


def test_a_signal_is_audited_like_an_image(tmp_path: Path) -> None:
    drawn = torch.Generator().manual_seed(0)
    signals = torch.randn(12, 2, 30, generator=drawn)
    found = fitted(
        tmp_path,
        Audits(1, FEW),
        net=Signals(),
        batch=(signals, labels(), signals.abs().amax(1) > 1),
        monitor={"mask": 2},
    )
    assert found.rungs == set(NAMES) - {"seed"}
    for tag in ("gradient/insertion", "gradient/deletion", "context_swap_gap"):
        assert all(math.isfinite(one) for one in found.of(tag).values())
        assert len(found.of(tag)) == 2
    assert 0 < found.of("gradient/floor_pixel")[1] <= 2


@pytest.mark.parametrize("precision", ["bf16-true", "bf16-mixed"])
def test_half_precision_is_audited(precision: Any, tmp_path: Path) -> None:
    found = fitted(tmp_path, Audits(1, FEW), precision=precision)
    mixed = precision == "bf16-mixed"
    assert found.rungs == set(NAMES) - {"seed", *([] if mixed else ["precision"])}
    assert set(found.of("gradient/floor_repeat").values()) == {0}
    assert found.of("gradient/insertion")
    assert found.of("edges/sanity")[1] == pytest.approx(1)
    text = found.events.texts["saliency/floors"]
    told = "| without mixed precision |" if mixed else "these are torch.bfloat16"
    assert told in text


def test_the_rung_of_another_seed_is_of_its_last_maps(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"methods": {"gradient": "saliency"}, "max_epochs": 2}
    fitted(tmp_path / "a", None, **settings, **saving(tmp_path))
    path = str(tmp_path / "saved" / "last.ckpt")
    found = fitted(tmp_path / "b", Audits(1, FEW, other=path), **settings)
    assert list(found.of("gradient/floor_seed")) == [1, 3]
    # The same fit again: at its end the other's maps are its own.
    assert found.of("gradient/floor_seed")[1] > 0
    assert found.of("gradient/floor_seed")[3] < 1e-5
    with pytest.raises(ConfigurationError, match="its probes are not those of this run"):
        fitted(tmp_path / "c", Audits(other=path), monitor={"probes": 5}, **settings)
    with pytest.raises(ConfigurationError, match=r"none\.ckpt' can't be read as a checkpoint"):
        fitted(tmp_path / "d", Audits(other=str(tmp_path / "none.ckpt")), **settings)


def test_wrong_baselines_are_told_before_the_first_step(tmp_path: Path) -> None:
    net = Net()
    with pytest.raises(ConfigurationError, match=r"Faithfulness\(insertion=\(0.0, 0.0\)\) has 2"):
        fitted(tmp_path, Audits(2, Faithfulness(insertion=(0.0, 0.0))), net=net)
    assert net.seen == 0


def test_of_many_probes_an_even_choice_is_audited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen: list[Tensor] = []

    def mine(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        chosen.append(inputs)
        return inputs

    monkeypatch.setattr(auditing, "MOST", 5)
    whole = {"probes": list(range(12)), "chunk": 12}
    fitted(tmp_path, 1, methods={"mine": mine}, monitor=whole, max_epochs=1)
    audited = [one for one in chosen if len(one) == 5]
    assert audited
    assert torch.equal(audited[0], images()[[0, 2, 4, 7, 9]])


# What they cost


SETUPS = {
    "accumulate": Setup(
        augmented=True, trainer=(("accumulate_grad_batches", 3), ("val_check_interval", 4))
    ),
    "manual": Setup(manual=True, trainer=(("val_check_interval", 3),)),
    "bf16-mixed": Setup(trainer=(("precision", "bf16-mixed"), ("accumulate_grad_batches", 4))),
}


@pytest.mark.parametrize("name", SETUPS)
def test_the_training_is_the_one_without_audits(name: str, tmp_path: Path) -> None:
    setup = SETUPS[name]

    def watching() -> list[Any]:
        audits = Audits(1, FEW)
        return [SaliencyMonitor(METHODS, 6, on_error="raise", chunk=4, audits=audits)]

    with listening():
        watched = run(setup, watching, tmp_path / "watched")
    assert watched.observed["saliency/gradient/floor_step"] > 0
    assert watched.observed["saliency/gradient/floor_redrawn"] > 0
    found = gaps(run(setup, list, tmp_path / "alone"), watched)
    assert not found, f"max |Δ| {found}"


def breaking(name: str, error: Exception) -> Callable[..., Any]:
    """One audit fails while the mishap lasts."""

    @contextmanager
    def breaks(trainer: Any, module: Any) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(auditing, name, Raises(error))
            yield

    return breaks


@pytest.mark.parametrize(
    ("name", "words", "lost", "kept"),
    [
        ("ladder", "the floors", "gradient/floor_repeat", "gradient/insertion"),
        ("faithfulness", "insertion and deletion", "gradient/insertion", "gradient/floor_repeat"),
    ],
)
def test_an_audit_that_fails_is_told_and_costs_nothing_else(
    name: str, words: str, lost: str, kept: str, tmp_path: Path
) -> None:
    mishap = Mishap(words, breaking(name, KeyError("boom")), {"audits": Audits(1, FEW)})
    found = survive(mishap, tmp_path)
    assert not found.gaps
    (told,) = found.told
    assert f"{words} failed and were left out: KeyError: 'boom'" in told
    assert found.failures == [0, 0, 1, 2, 2]
    assert [one is not None for one in found.values(f"saliency/{lost}")] == [
        *(False, True, False, False, True)
    ]
    assert [one is not None for one in found.values(f"saliency/{kept}")] == [False] + 4 * [True]
    drift = found.values("saliency/gradient/drift_previous")
    assert sum(one is not None for one in drift) == VALIDATIONS
    assert found.monitor.state_dict()["memory"]["count"] == VALIDATIONS + 1


def test_an_audit_that_fails_stops_the_run_where_that_is_wanted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(auditing, "ladder", Raises(KeyError("boom")))
    monitor = SaliencyMonitor(METHODS, 6, on_error="raise", audits=Audits(1, FEW))
    with pytest.raises(ObservationError, match="'boom'") as raised:
        trainer(max_epochs=1, callbacks=[monitor]).fit(Net(), loader(), loader())
    assert str(raised.value).count("SaliencyMonitor") == 1, "told once"
    assert "the floors failed" in str(raised.value)
    assert isinstance(raised.value.__cause__, KeyError)


def test_sanity_that_fails_leaves_the_floors(tmp_path: Path) -> None:
    broken = breaking("method_sanity", torch.OutOfMemoryError("none left"))
    mishap = Mishap("the checks of sanity", broken, {"audits": Audits(1, FEW)})
    found = survive(mishap, tmp_path, troubled=(0,))
    assert not found.gaps
    (told,) = found.told
    assert "the checks of sanity failed and were left out: OutOfMemoryError: none left" in told
    assert found.values("saliency/gradient/floor_repeat")[1:] == [0] * VALIDATIONS
    assert found.values("saliency/gradient/sanity") == [None] * (VALIDATIONS + 1)


# What a user may write


def test_when_it_is_due() -> None:
    due = [[index for index in range(25) if Audits(every).due(index)] for every in (1, 3, 10)]
    assert due == [list(range(1, 25)), [1, 4, 7, 10, 13, 16, 19, 22], [1, 11, 21]]


def wrong(**given: Any) -> dict[str, Any]:
    return given


def test_what_a_user_may_write() -> None:
    assert resolve_audits(None) is None
    assert resolve_audits(5) == Audits(every=5)
    own = Audits(2, FEW, "a.ckpt")
    assert resolve_audits(own) is own


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Audits(0), r"Audits\(every=0\): give a whole number"),
        (lambda: Audits(True), r"Audits\(every=True\)"),
        (lambda: Audits(**wrong(faithfulness=3)), r"faithfulness=3\): give a Faithfulness\(\)"),
        (lambda: Audits(**wrong(other=Path("a"))), r"other=.*\): give the path of a checkpoint"),
        (lambda: resolve_audits(True), r"audits=True is a bool. Give a number"),
        (lambda: SaliencyMonitor(**wrong(audits="all")), r"audits='all' is a str. Give a number"),
        (lambda: SaliencyMonitor(audits=0), r"Audits\(every=0\)"),
    ],
)
def test_wrong_settings_are_told(make: Callable[[], Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        make()
