"""Layers that were found on untrained weights stay those that are looked at."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from small_fits import Net, loader, trainer
from test_memory import after
from torch import Tensor, nn

from lightning_saliency import ConfigurationError, SaliencyMonitor
from lightning_saliency.attribution import (
    AblationCAM,
    GradCAM,
    LayerCAM,
    Saliency,
    ScoreCAM,
    Subject,
    bind,
)
from lightning_saliency.attribution.binding import layers_found
from lightning_saliency.memory import Memory

METHODS: Any = {"cam": "grad_cam", "gradient": "saliency", "ablation": "ablation_cam"}
EARLIER = {"cam": ("features",), "ablation": ("features",)}
LATER = {"cam": ("more",), "ablation": ("more",)}


class Gated(Net):
    """What comes last, `more`, counts once the training has opened its gate."""

    def __init__(self) -> None:
        super().__init__()
        self.more = nn.Conv2d(4, 4, 3, padding=1)
        self.gate = nn.Parameter(torch.zeros(()))
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))

    def forward(self, x: Tensor) -> Any:
        seen = self.features(x)
        return self.head(seen + self.gate * self.more(seen))


def watched(state: dict[str, Any] | None = None, net: Gated | None = None) -> Any:
    """A monitor after a fit, of a fresh net or of another, perhaps from a state; and the net."""
    monitor = SaliencyMonitor(METHODS, 3, on_error="raise")
    if state is not None:
        monitor.load_state_dict(state)
    net = net or Gated()
    trainer(callbacks=[monitor]).fit(net, loader(), loader())
    return monitor, net


@pytest.fixture(scope="module")
def before() -> tuple[SaliencyMonitor, Gated]:
    found: tuple[SaliencyMonitor, Gated] = watched()
    return found


def looked_at(monitor: SaliencyMonitor) -> dict[str, tuple[str, ...]]:
    session = monitor._session
    assert session is not None
    assert list(session.methods) == list(METHODS)
    at: Any = {name: one for name, one in session.methods.items() if name != "gradient"}
    assert dict(session.layers) == {name: one.layers for name, one in at.items()}
    assert [fold.cut for fold in at["ablation"].folds] == ["features"]
    return dict(session.layers)


def resumed_from(layers: Any, before: tuple[SaliencyMonitor, Gated]) -> SaliencyMonitor:
    """A monitor with the state of the one before, which has these layers or says nothing of any."""
    state = copy.deepcopy(before[0].state_dict())
    state["memory"].pop("layers", None)
    if layers is not None:
        state["memory"]["layers"] = layers
    monitor: SaliencyMonitor = watched(state, copy.deepcopy(before[1]))[0]
    return monitor


def test_a_resumed_fit_looks_at_the_layers_of_its_checkpoint(
    before: tuple[SaliencyMonitor, Gated],
) -> None:
    assert looked_at(before[0]) == EARLIER
    monitor = resumed_from({name: list(one) for name, one in EARLIER.items()}, before)
    assert looked_at(monitor) == EARLIER


def test_a_checkpoint_that_says_nothing_of_layers_is_resumed(
    before: tuple[SaliencyMonitor, Gated],
) -> None:
    """It also shows that the trained weights alone would lead to another layer."""
    monitor = resumed_from(None, before)
    assert looked_at(monitor) == LATER
    assert monitor.state_dict()["memory"]["count"] > before[0].state_dict()["memory"]["count"]


def test_a_layer_that_is_no_more_is_told(before: tuple[SaliencyMonitor, Gated]) -> None:
    with pytest.raises(ConfigurationError, match=r"'cam' looked at the layer 'neck'.*Name another"):
        resumed_from({"cam": ["neck"]}, before)


def test_a_session_goes_on_at_the_layers_of_the_memory(
    before: tuple[SaliencyMonitor, Gated],
) -> None:
    monitor, net = watched(net=copy.deepcopy(before[1]))
    session = monitor._session
    assert looked_at(monitor) == LATER
    modes = [part.training for part in net.modules()]
    memory = Memory(session.classes, session.probes.fingerprint)
    monitor._session = session.going_on(memory.seen_at(EARLIER))
    assert looked_at(monitor) == EARLIER
    assert [part.training for part in net.modules()] == modes
    assert not any(part._forward_hooks for part in net.modules())
    assert session.going_on(memory).methods is session.methods, "nothing is known of layers"
    assert session.going_on(memory.seen_at(LATER)).methods is session.methods


def test_a_memory_takes_its_layers_through_a_checkpoint(tmp_path: Path) -> None:
    memory = after(2).seen_at({"a": ("features", "head.0")})
    torch.save(memory.state(), tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert Memory.from_state(state).layers == {"a": ("features", "head.0")}
    del state["layers"]
    assert Memory.from_state(state).layers == {}


def test_a_layer_that_the_user_names_is_looked_at() -> None:
    net = Gated().eval()
    methods = {
        "named": GradCAM("more"),
        "listed": LayerCAM(["features", "more"]),
        "found": ScoreCAM(),
        "several": GradCAM(),
        "fresh": AblationCAM(),
        "gradient": Saliency(),
    }
    remembered = {
        "named": ("features",),
        "found": ("more",),
        "several": ("features.0", "more"),
        "gradient": ("more",),
        "gone": ("more",),
    }
    bound: Any = bind(Subject(net), torch.ones(2, 1, 8, 8), methods, layers=remembered)
    assert list(bound) == list(methods)
    layers = {name: one.layers for name, one in bound.items() if name != "gradient"}
    assert layers == {
        "named": ("more",),
        "listed": ("features", "more"),
        "found": ("more",),
        "several": ("features.0", "more"),
        "fresh": ("features",),
    }
    assert layers_found(methods, bound) == {
        name: layers[name] for name in ("found", "several", "fresh")
    }
