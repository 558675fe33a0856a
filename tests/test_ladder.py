"""The floor ladder: rungs that are known beforehand, reasons where one is missing, and no trace."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from restless import Restless, described, state
from torch import Tensor, nn

from lightning_saliency.attribution import Saliency, SmoothGrad, Subject, bind, explain
from lightning_saliency.errors import ConfigurationError
from lightning_saliency.ladder import Ladder, Rung, ladder
from lightning_saliency.measures.drift import cosine
from lightning_saliency.observation import observing
from lightning_saliency.redrawn import lent, redrawn
from lightning_saliency.stepping import one_step_later

COUNT = 40
INPUTS = torch.randn(COUNT, 1, 8, 8, generator=torch.Generator().manual_seed(0))
CLASSES = torch.arange(COUNT) % 3
NAMES = (
    *("repeat", "batch_size", "precision"),
    *("jitter_1", "jitter_5", "pixel"),
    *("step", "seed", "redrawn"),
)


class Net(nn.Module):
    """Smooth, so that a little noise on the input moves its gradient a little."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.Tanh(), nn.Dropout(0.5))
        self.head = nn.Linear(8 * 36, 3)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self.body(x).flatten(1))
        return scores


def image(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """A method that gives the image itself."""
    return inputs


METHODS: dict[str, Any] = {"gradient": Saliency(), "smooth": SmoothGrad(samples=2), "image": image}


def climbed(
    net: nn.Module | None = None,
    methods: Mapping[str, Any] = METHODS,
    count: int = COUNT,
    subject: Subject | None = None,
    **given: Any,
) -> tuple[Ladder, dict[str, Rung]]:
    net = net or Net()
    subject = subject or Subject(net)
    inputs, classes = INPUTS[:count].to(next(net.parameters()).dtype), CLASSES[:count]
    with observing(net):
        bound = bind(subject, inputs, methods)
        found = ladder(subject, inputs, classes, bound, **given)
    return found, {rung.name: rung for rung in found.rungs}


def optimisers(net: nn.Module, rate: float = 0.1) -> list[torch.optim.Optimizer]:
    return [torch.optim.SGD(net.parameters(), lr=rate)]


def median(rungs: dict[str, Rung], name: str, method: str) -> float:
    return float(rungs[name].drift[method].median())


def signed(net: nn.Module, name: str = "gradient") -> Tensor:
    net = copy.deepcopy(net).eval()
    return explain(net, INPUTS, CLASSES, {name: METHODS[name]}).maps[name].signed


def test_all_rungs_in_their_order_with_their_numbers() -> None:
    net = Net()
    other = {"gradient": torch.randn(COUNT, 1, 8, 8).half()}
    found, rungs = climbed(net, optimisers=optimisers(net), other=other)
    assert tuple(rungs) == NAMES
    assert found.left_out == {}
    assert [rung.kind for rung in found.rungs] == ["run"] * 3 + ["input"] * 3 + ["weights"] * 3
    for name, rung in rungs.items():
        assert list(rung.drift) == (["gradient"] if name == "seed" else list(METHODS))
        assert all(one.shape == (COUNT,) and one.isfinite().all() for one in rung.drift.values())
    numbers = found.numbers()
    assert len(numbers) == 3 * (8 * 3 + 1)
    for name, rung in rungs.items():
        drift, tag = rung.drift["gradient"], f"gradient/floor_{name}"
        for share, end in ((0.1, "_p10"), (0.5, ""), (0.9, "_p90")):
            torch.testing.assert_close(numbers[f"{tag}{end}"], drift.quantile(share))


def test_nothing_is_0_and_everything_is_1() -> None:
    net = Net()
    _, rungs = climbed(net, optimisers=optimisers(net))
    for method in METHODS:
        assert rungs["repeat"].drift[method].eq(0).all()
        assert rungs["batch_size"].drift[method].abs().amax() < 1e-5
    for method in ("gradient", "smooth"):
        assert rungs["redrawn"].drift[method].mean() == pytest.approx(1, abs=0.2)
        small, large = (median(rungs, f"jitter_{level}", method) for level in (1, 5))
        assert 1e-6 < median(rungs, "precision", method) < 0.01
        assert 0 < small < large < median(rungs, "pixel", method) < 1.5
        assert 0 < median(rungs, "step", method) < 0.5
    for name in ("precision", "step", "redrawn"):
        assert rungs[name].drift["image"].eq(0).all(), "the weights are nothing to it"


def test_the_rungs_of_the_input_are_those_of_its_changes() -> None:
    _, rungs = climbed(methods={"image": image})
    moved = torch.cat([INPUTS[..., :1], INPUTS[..., :-1]], -1)
    expected = cosine(moved, INPUTS)
    torch.testing.assert_close(rungs["pixel"].drift["image"], expected, rtol=1e-3, atol=1e-3)
    spread = (INPUTS.flatten(1).amax(1) - INPUTS.flatten(1).amin(1)).square()
    for level in (1, 5):
        # Of small noise of a length d on a map of the length r: d² / 2r².
        noise = 64 * spread * (level / 100) ** 2
        expected = noise / INPUTS.flatten(1).square().sum(1) / 2
        ratio = rungs[f"jitter_{level}"].drift["image"] / expected
        assert ratio.mean() == pytest.approx(1, abs=0.1)


def test_the_rungs_of_the_weights_are_those_of_the_weights() -> None:
    net, own = Net(), {"gradient": Saliency()}
    before = {"gradient": signed(Net()), "more": signed(Net())}
    other = {name: one.flip(0).half() for name, one in before.items()}
    _, rungs = climbed(net, own, optimisers=optimisers(net), other=other, seed=3)
    now = signed(net)
    torch.testing.assert_close(
        rungs["seed"].drift["gradient"], cosine(now.flip(0), now), rtol=0, atol=2e-3
    )
    subject = Subject(net)
    with observing(net):
        later = one_step_later(subject, INPUTS, CLASSES, optimisers(net), chunk=32)
        for name, scope in (("step", lent(net, later)), ("redrawn", redrawn(net, seed=3))):
            with scope:
                then = explain(subject, INPUTS, CLASSES, own).maps["gradient"].signed
            torch.testing.assert_close(
                rungs[name].drift["gradient"], cosine(then, now), rtol=0, atol=2e-3
            )


def test_a_larger_rate_is_a_longer_step() -> None:
    net = Net()
    small, large = (climbed(net, optimisers=optimisers(net, rate))[1] for rate in (0.001, 0.1))
    assert 0 < median(small, "step", "gradient") < median(large, "step", "gradient") / 10
    assert climbed(net, optimisers=optimisers(net, 0.0))[1]["step"].drift["gradient"].eq(0).all()


def test_what_is_random_in_a_pass_is_the_same_in_each() -> None:
    class Drawing(Net):
        def forward(self, x: Tensor) -> Tensor:
            return F.dropout(super().forward(x), 0.5, training=True)

    _, rungs = climbed(Drawing(), {"gradient": Saliency()})
    assert rungs["repeat"].drift["gradient"].nan_to_num(0).eq(0).all()
    assert rungs["jitter_1"].drift["gradient"].nanmedian() < 0.2


def test_rungs_that_cannot_be_are_left_out_with_a_reason() -> None:
    found, rungs = climbed(count=1)
    assert tuple(rungs) == ("repeat", "precision", "jitter_1", "jitter_5", "pixel", "redrawn")
    assert found.left_out == {
        "batch_size": "one probe in a pass can't be halved",
        "step": "there is no training whose step it could be",
        "seed": "no run with another seed was given",
    }
    wrong = {"gradient": torch.ones(COUNT, 1, 4, 4), "mine": torch.ones(COUNT, 1, 8, 8)}
    found, _ = climbed(other=wrong)
    assert found.left_out["seed"] == "it has no maps of these methods in this size"
    found, rungs = climbed(Net().double(), {"gradient": Saliency()})
    assert "of float32 weights, these are torch.float64" in found.left_out["precision"]
    assert rungs["repeat"].drift["gradient"].eq(0).all()


def test_a_rung_that_fails_is_left_out_and_the_others_are_climbed() -> None:
    def moody(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        # Of the weights, only those that a step leads to are no parameters.
        if not isinstance(model.module.head.weight, nn.Parameter):  # type: ignore[union-attr]
            raise KeyError("boom")
        return inputs

    net = Net()
    before = state(net)
    found, rungs = climbed(net, {"mine": moody}, optimisers=optimisers(net))
    assert "boom" in found.left_out["step"]
    assert set(NAMES) - rungs.keys() == {"step", "seed"}
    assert state(net) == before


def test_the_maps_themselves_must_be_there() -> None:
    def broken(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        raise KeyError("boom")

    with pytest.raises(ConfigurationError, match="boom"):
        climbed(methods={"mine": broken})


def test_in_mixed_precision_the_other_one_is_full() -> None:
    net = Net()
    mixed = Subject(net, context=lambda: torch.autocast("cpu", dtype=torch.bfloat16))
    _, full = climbed(net)
    found, rungs = climbed(net, subject=mixed)
    assert (rungs["precision"].label, full["precision"].label) == ("float32", "bfloat16")
    assert rungs["precision"].about == "without mixed precision"
    for method in ("gradient", "smooth"):
        torch.testing.assert_close(
            rungs["precision"].drift[method], full["precision"].drift[method], rtol=0, atol=1e-6
        )
    assert "step" in found.left_out


def test_memory_that_runs_out_makes_chunks_smaller_and_says_so() -> None:
    sizes: list[int] = []

    class Narrow(Net):
        def forward(self, x: Tensor) -> Tensor:
            sizes.append(len(x))
            if len(x) > 9:
                raise torch.OutOfMemoryError("none left")
            return super().forward(x)

    net = Narrow()
    found, rungs = climbed(net, {"gradient": Saliency()}, optimisers=optimisers(net))
    assert found.chunk == 8
    # Too many twice; the observation and its repetition; in halves; and so on.
    assert sizes[:22] == [32, 16, *[8] * 10, *[4] * 10]
    assert set(sizes[22:]) == {8}
    assert rungs["batch_size"].label == "batch of 4"
    assert rungs["batch_size"].about == "4 probes in a pass, not 8"
    assert set(found.left_out) == {"seed"}
    assert climbed(chunk=32)[1]["batch_size"].label == "batch of 16"
    assert climbed(count=10)[1]["batch_size"].label == "batch of 5"


@pytest.mark.parametrize("make", [Net, Restless], ids=["a net", "one that writes to everything"])
def test_the_climb_leaves_no_trace(make: Callable[[], nn.Module]) -> None:
    net: Any = make()
    channels = 2 if isinstance(net, Restless) else 1
    inputs, classes = INPUTS[:6].expand(-1, channels, -1, -1), CLASSES[:6]
    for weight in net.parameters():
        weight.grad = torch.ones_like(weight)
    own = [torch.optim.Adam(net.parameters(), lr=0.1)]
    own[0].step()
    subject = Subject(net, output=lambda outputs: outputs.flatten(1)[:, :3])
    before = state(net), [described(one.grad) for one in net.parameters()]
    stream, moments = torch.get_rng_state(), described(vars(own[0]))
    for _ in range(2):
        with observing(net):
            found = ladder(
                subject, inputs, classes, {"gradient": Saliency()}, optimisers=own, seed=1
            )
        assert set(found.left_out) == {"seed"}
        assert found.rungs[0].drift["gradient"].eq(0).all()
    assert (state(net), [described(one.grad) for one in net.parameters()]) == before
    assert torch.equal(torch.get_rng_state(), stream)
    assert described(vars(own[0])) == moments
