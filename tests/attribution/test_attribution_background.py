"""Expected gradients: closed forms, captum's sum on the same points, and how these are drawn."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from attribution_nets import F64, Quadratic, close, deep_case, images
from captum.attr._core.gradient_shap import InputBaselineXGradient
from lightning.pytorch import LightningDataModule
from small_fits import Net, trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from lightning_saliency import SaliencyMonitor
from lightning_saliency.attribution import IntegratedGradients, Maps, Subject, explain
from lightning_saliency.attribution.background import GradientSHAP, _Between, _Drawn
from lightning_saliency.attribution.passes import in_chunks
from lightning_saliency.errors import ConfigurationError, ObservationError
from lightning_saliency.targets import Logit

X, Y = images(5, 2, 4, 6), torch.tensor([0, 1, 2, 0, 1])
ROWS = images(3, 2, 4, 6, seed=9)
SLOPE = torch.tensor(Quadratic.slopes, dtype=F64)[Y].view(-1, 1, 1, 1)


class Linear(nn.Module):
    """z_c = w_c · x, and the weights by hand."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.weight = images(3, *shape, seed=4)

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.einsum("nf,cf->nc", inputs.flatten(1), self.weight.flatten(1))


def maps_of(method: GradientSHAP, model: nn.Module, inputs: Tensor, targets: Tensor) -> Maps:
    return explain(model, inputs, targets, {"m": method}, target=Logit()).maps["m"]


def bound(method: GradientSHAP, inputs: Tensor, subject: Subject | None = None) -> _Drawn:
    drawn = method.bind(subject or Subject(nn.Identity()), inputs)
    assert isinstance(drawn, _Drawn)
    return drawn


def starts(drawn: _Drawn, probes: int) -> Tensor:
    """`(samples, probes, C, *spatial)`."""
    return torch.stack([drawn.draws.starts(i, 0, probes) for i in range(drawn.method.samples)])


def shares(drawn: _Drawn, probes: int) -> Tensor:
    """`(samples, probes)`."""
    like = torch.zeros(probes, dtype=F64)
    return torch.stack([drawn.draws.shares(i, 0, like) for i in range(drawn.method.samples)])


def distinct(rows: Tensor) -> int:
    return len({tuple(row.flatten().tolist()) for row in rows})


@pytest.mark.parametrize("shape", [(1, 7), (2, 4, 6), (1, 3, 4, 2)], ids=["1d", "2d", "3d"])
@pytest.mark.parametrize("seed", [0, 5])
def test_of_a_linear_net_they_are_the_way_from_the_mean_of_the_background(
    shape: tuple[int, ...], seed: int
) -> None:
    """With all rows used alike, whatever their order and α."""
    net, inputs, rows = Linear(*shape), images(5, *shape), images(3, *shape, seed=9)
    method = GradientSHAP(samples=6, background=rows, seed=seed)
    expected = (inputs - rows.mean(0)) * net.weight[Y]
    torch.testing.assert_close(maps_of(method, net, inputs, Y).signed, expected)


def test_of_a_linear_net_they_are_the_way_from_the_mean_of_the_other_probes() -> None:
    net = Linear(2, 4, 6)
    others = torch.stack([X[torch.arange(5) != probe].mean(0) for probe in range(5)])
    signed = maps_of(GradientSHAP(samples=4), net, X, Y).signed
    torch.testing.assert_close(signed, (X - others) * net.weight[Y])


def test_of_the_quadratic_net_they_are_its_gradients_at_the_points_drawn() -> None:
    method = GradientSHAP(samples=5, background=ROWS, seed=3)
    drawn = bound(method, X)
    begin, share = starts(drawn, 5), shares(drawn, 5).view(5, 5, 1, 1, 1)
    expected = ((X - begin) * SLOPE * (begin + share * (X - begin))).mean(0)
    maps = maps_of(method, Quadratic(), X, Y)
    torch.testing.assert_close(maps.signed, expected, rtol=1e-12, atol=1e-14)
    assert torch.equal(maps.map, maps.signed.abs().amax(1))


def test_they_are_captums_on_the_same_points(monkeypatch: pytest.MonkeyPatch) -> None:
    """Captum draws with numpy's global stream; here it draws our α for our rows."""
    model, inputs, targets = deep_case()
    method = GradientSHAP(samples=6, background=images(4, 3, 11, 13, seed=2), seed=1)
    drawn = bound(method, inputs)
    total = torch.zeros_like(inputs)
    for begin, share in zip(starts(drawn, 5), shares(drawn, 5), strict=True):
        monkeypatch.setattr(np.random, "uniform", lambda *args, share=share: share.numpy())
        peer = InputBaselineXGradient(model)
        total += peer.attribute(inputs, begin, target=targets).detach()
    close(maps_of(method, model, inputs, targets).signed, total / 6, relative=1e-12)


def test_many_samples_share_out_the_score_less_that_of_the_background() -> None:
    model, inputs, targets = deep_case()
    rows = images(8, 3, 11, 13, seed=2)
    signed = maps_of(GradientSHAP(samples=512, background=rows), model, inputs, targets).signed
    with torch.no_grad():
        own = model(inputs).gather(1, targets[:, None])[:, 0]
        whole = own - model(rows)[:, targets].mean(0)
    torch.testing.assert_close(signed.sum((1, 2, 3)), whole, rtol=0.02, atol=0.01)


def test_one_row_at_many_samples_is_integrated_gradients() -> None:
    model, inputs, targets = deep_case()
    black = torch.full_like(inputs[:1], 0.3)
    shap = maps_of(GradientSHAP(samples=128, background=black), model, inputs, targets)
    straight = {"m": IntegratedGradients(steps=128, baseline=0.3)}
    path = explain(model, inputs, targets, straight, target=Logit()).maps["m"]
    close(shap.signed, path.signed, relative=0.01)


@pytest.mark.parametrize("samples", [4, 10])
def test_every_row_comes_once_before_any_comes_again(samples: int) -> None:
    drawn = bound(GradientSHAP(samples=samples, background=ROWS), X)
    for probe in range(len(X)):
        rows = [one.tolist() for one in starts(drawn, 5)[:, probe].flatten(1)]
        for begin in range(0, samples, len(ROWS)):
            cycle = rows[begin : begin + len(ROWS)]
            assert all(cycle.count(one) == 1 for one in cycle)


def test_a_probe_is_no_background_of_its_own() -> None:
    drawn = bound(GradientSHAP(samples=8), X)
    begin = starts(drawn, 5)
    assert not (begin == X).flatten(2).all(2).any()
    for probe in range(5):
        assert distinct(begin[:4, probe]) == 4


def test_each_part_of_the_way_has_its_sample() -> None:
    share = shares(bound(GradientSHAP(samples=8, background=ROWS), X), 5)
    assert torch.equal((share * 8).floor(), torch.arange(8.0, dtype=F64)[:, None].expand(8, 5))
    spread = (share * 8) % 1
    assert distinct(spread.flatten()) == spread.numel()


def test_draws_depend_on_seed_and_probe_and_nothing_else() -> None:
    method = GradientSHAP(samples=8, background=images(20, 2, 4, 6))
    first = bound(method, X)
    torch.manual_seed(99)
    before = torch.get_rng_state()
    again, other = bound(method, X[:3]), bound(GradientSHAP(samples=8, background=ROWS, seed=1), X)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(starts(first, 5)[:, :3], starts(again, 3))
    assert torch.equal(shares(first, 5)[:, :3], shares(again, 3))
    assert not torch.equal(shares(first, 5), shares(other, 5))
    assert distinct(starts(first, 5)[0]) > 1, "one order for all probes"


@pytest.mark.parametrize("chunk", [1, 2, 5])
def test_the_size_of_a_chunk_changes_no_map(chunk: int) -> None:
    model, inputs, targets = deep_case()
    methods = {"m": GradientSHAP(samples=3)}
    whole = explain(model, inputs, targets, methods, chunk=32).maps["m"]
    parts = explain(model, inputs, targets, methods, chunk=chunk).maps["m"]
    close(parts.signed, whole.signed, relative=1e-12)


def test_a_rank_sees_its_share_as_one_process_does() -> None:
    """And the last probe as often as it is asked for it again."""
    model, inputs, targets = deep_case()
    methods = {"m": GradientSHAP(samples=3).bind(Subject(model), inputs)}
    whole = explain(model, inputs, targets, {"m": GradientSHAP(samples=3)}).maps["m"].signed
    share = [3, 4, 4]
    (part,) = in_chunks(Subject(model), inputs[share], targets[share], methods, chunk=32, first=3)
    close(part.maps["m"].signed, whole[share], relative=1e-12)


def test_parts_and_orders_make_the_error_smaller() -> None:
    """Against independent draws, at as many samples as rows."""
    model, inputs, targets = deep_case()
    rows = images(16, 3, 11, 13, seed=2)

    def loose(seed: int) -> Tensor:
        own = torch.Generator().manual_seed(seed)
        total = torch.zeros_like(inputs)
        for _ in range(16):
            begin = rows[torch.randint(16, (5,), generator=own)]
            point = begin + torch.rand(5, 1, 1, 1, generator=own, dtype=F64) * (inputs - begin)
            point.requires_grad_()
            score = model(point).gather(1, targets[:, None]).sum()
            total += (inputs - begin) * torch.autograd.grad(score, point)[0]
        return total / 16

    def ours(seed: int, samples: int = 16) -> Tensor:
        method = GradientSHAP(samples=samples, background=rows, seed=seed)
        return maps_of(method, model, inputs, targets).signed

    truth = ours(100, 512)
    errors = [
        sum((one(seed) - truth).square().mean().item() for seed in range(4))
        for one in (ours, loose)
    ]
    assert errors[0] < errors[1] / 2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, F64])
def test_points_keep_dtype_and_format(dtype: torch.dtype) -> None:
    stored = X.to(dtype).contiguous(memory_format=torch.channels_last)
    drawn = bound(GradientSHAP(samples=2, background=ROWS), stored)
    point = _Between(drawn.draws, 1).at(stored, 0)
    assert point.dtype == dtype
    assert point.is_contiguous(memory_format=torch.channels_last)
    exact = _Between(bound(GradientSHAP(samples=2, background=ROWS), X).draws, 1).at(X, 0)
    torch.testing.assert_close(point.double(), exact, rtol=0.02, atol=0.02)


def test_methods_are_described_by_shapes_not_by_numbers() -> None:
    method = GradientSHAP(samples=2, background=ROWS, channels="signed")
    words = "GradientSHAP(channels='signed', samples=2, background=Tensor(3, 2, 4, 6), seed=0)"
    drawn = method.bind(Subject(nn.Identity()), X)
    assert (repr(method), repr(drawn)) == (words, words)
    assert method.signed
    assert drawn.signed
    assert "background='training'" in repr(GradientSHAP(background="training"))


def test_methods_of_equal_arguments_are_equal() -> None:
    """A tensor as a background is equal to itself, not to another with the same numbers."""
    one = GradientSHAP(samples=2, background=ROWS)
    assert one == GradientSHAP(samples=2, background=ROWS)
    assert hash(one) == hash(GradientSHAP(samples=2, background=ROWS))
    others = [{"samples": 3}, {"seed": 1}, {"channels": "l2"}, {"background": ROWS.clone()}]
    for other in (*others, {"background": "probes"}):
        assert one != replace(one, **other)  # type: ignore[arg-type]
    assert GradientSHAP() == GradientSHAP()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"samples": 0}, r"GradientSHAP\(samples=0\): give at least 1"),
        ({"seed": -1}, r"GradientSHAP\(seed=-1\): give at least 0"),
        ({"background": "train"}, r"background='train'\): give 'probes', 'training', or a tensor"),
        ({"background": 0.5}, r"background=0.5\)"),
        ({"channels": "mean"}, "channels='mean' is not a reduction"),
    ],
)
def test_wrong_arguments_are_told_when_the_method_is_made(given: Any, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        GradientSHAP(**given)


@pytest.mark.parametrize(
    ("given", "inputs", "words"),
    [
        ({"background": ROWS[:, :1]}, X, r"the background is \(3, 1, 4, 6\), the probes are"),
        ({"background": ROWS[:0]}, X, r"the background is \(0, 2, 4, 6\)"),
        ({}, X[:1], "one probe has no others to be compared with. Give more probes, or a tensor"),
        ({"background": "training"}, X, "no Trainer whose training data could be drawn from. Give"),
    ],
)
def test_a_background_that_does_not_suit_is_told(given: Any, inputs: Tensor, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        maps_of(GradientSHAP(**given), Quadratic(), inputs, Y[: len(inputs)])


def test_training_examples_come_from_the_subject() -> None:
    asked: list[int] = []

    def examples(count: int) -> Tensor:
        asked.append(count)
        return ROWS

    subject = Subject(Quadratic(), target=Logit(), examples=examples)
    training = {"m": GradientSHAP(samples=7, background="training")}
    given = {"m": GradientSHAP(samples=7, background=ROWS)}
    ours, theirs = (explain(subject, X, Y, one).maps["m"] for one in (training, given))
    assert torch.equal(ours.signed, theirs.signed)
    assert asked == [7]


class Restless(Dataset[Any]):
    """Training examples with a random stream of their own, a counter, and augmentation."""

    def __init__(self) -> None:
        self.own = torch.Generator().manual_seed(3)
        self.read = 0

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        self.read += 1
        noise = torch.randn(1, 8, 8, generator=self.own) + torch.rand(1) + np.random.rand()
        return index + 0.1 * noise.float(), index % 3


class Asked:
    """Makes its training data when asked, from the global streams, and counts how often."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def train_dataloader(self) -> DataLoader[Any]:
        self.asked += 1
        self.data = Restless()
        self.data.own.manual_seed(int(torch.randint(1000, ())))
        return DataLoader(self.data, batch_size=4, shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(
            TensorDataset(images(4, 1, 8, 8, dtype=torch.float32), torch.arange(4) % 3)
        )


class OfModel(Asked, Net): ...


class OfData(Asked, LightningDataModule): ...


def fitted(callbacks: list[Any], data: type[Asked], **given: Any) -> tuple[Net, Asked]:
    torch.manual_seed(0)
    np.random.seed(0)
    owner: Any = data()
    model = owner if isinstance(owner, Net) else Net()
    trainer(callbacks=callbacks, **given).fit(model, datamodule=None if model is owner else owner)
    return model, owner


@pytest.mark.parametrize("data", [OfModel, OfData])
@pytest.mark.parametrize("sanity", [0, 1])
def test_training_data_are_drawn_from_without_a_trace(data: type[Asked], sanity: int) -> None:
    """Before the Trainer has asked for them, too: weights, streams and counters stay the same."""
    method = GradientSHAP(samples=5, background="training")
    monitor = SaliencyMonitor(methods={"m": method}, probes=4, budget=None)
    (alone, own), (watched, other) = (
        fitted(one, data, num_sanity_val_steps=sanity) for one in ([], [monitor])
    )
    assert all(map(torch.equal, alone.state_dict().values(), watched.state_dict().values()))
    assert (own.asked, own.data.read) == (other.asked, other.data.read)
    assert torch.equal(own.data.own.get_state(), other.data.own.get_state())
    session = monitor._session
    assert session is not None
    drawn = session.methods["m"]
    assert isinstance(drawn, _Drawn)
    means = starts(drawn, 4).mean((2, 3, 4)).round()
    assert distinct(means.flatten()) == 5, "five examples for all"
    assert all(distinct(own) == 5 for own in means.T), "each of them once"
    assert means.min() >= 0
    assert means.max() <= 13


class Endless(IterableDataset[Any]):
    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        while True:
            yield torch.zeros(1, 8, 8), 0


class Streaming(OfModel):
    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(Endless(), batch_size=4)


class Unprepared(OfModel):
    def train_dataloader(self) -> DataLoader[Any]:
        if not self.trainer.sanity_checking:
            return super().train_dataloader()
        raise FileNotFoundError("train.tar")


@pytest.mark.parametrize(
    ("net", "words"),
    [
        (Streaming, "The training data, a Endless, has no examples that could be drawn by their"),
        (Unprepared, "can't be asked for here: FileNotFoundError: train.tar. Give a tensor"),
    ],
)
def test_training_data_that_cannot_be_drawn_from_are_told(net: type[OfModel], words: str) -> None:
    method = GradientSHAP(samples=5, background="training")
    monitor = SaliencyMonitor(methods={"m": method}, probes=4)
    with pytest.raises(ConfigurationError, match=words):
        fitted([monitor], net)


def test_a_run_without_training_data_is_told() -> None:
    method = GradientSHAP(samples=5, background="training")
    monitor = SaliencyMonitor(methods={"m": method}, probes=4, on_error="raise")
    data = TensorDataset(images(4, 1, 8, 8, dtype=torch.float32), torch.arange(4) % 3)
    with pytest.raises(ObservationError, match="This run has no training data"):
        trainer(callbacks=[monitor]).test(Net(), DataLoader(data))
