"""Class models: the maximiser in closed form, what a trained net sees, and a row in the log."""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from PIL import Image
from scipy.ndimage import gaussian_filter
from small_fits import Events, Net, board, command, images, labels, loader, trainer
from torch import Tensor, nn

from lightning_saliency import ConfigurationError, SaliencyMonitor, SaliencyWarning, observing
from lightning_saliency.attribution import NoGradientPathError
from lightning_saliency.class_models import Ascent, ClassModel, as_bytes, class_models

F64 = torch.float64
SHAPES = [(1, 16), (1, 5, 7), (3, 6, 5), (2, 3, 4, 5)]
TAG = "saliency/class_models"


class Linear(nn.Module):
    """z = Wx + b, with weights in the shape of an input."""

    def __init__(self, *shape: int, classes: int = 4) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        made = torch.randn(classes, *shape, generator=generator, dtype=F64)
        self.weight, self.bias = nn.Parameter(made), nn.Parameter(made.flatten(1).sum(1))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x.flatten(1), self.weight.flatten(1), self.bias)


def shapes(count: int, side: int = 12) -> tuple[Tensor, Tensor]:
    """Noisy pictures of a bar across, a bar down and a frame, with mean 0; and their classes."""
    generator = torch.Generator().manual_seed(count)
    classes = torch.arange(count) % 3
    noise = torch.randn(count, 1, side, side, generator=generator) * 0.5
    return noise + templates(side)[classes], classes


def templates(side: int = 12) -> Tensor:
    drawn = torch.zeros(3, 1, side, side)
    drawn[0, 0, 5:7], drawn[1, 0, :, 5:7], drawn[2, 0] = 1, 1, 1
    drawn[2, 0, 2:-2, 2:-2] = 0
    return (drawn - drawn.mean((2, 3), keepdim=True)) * 2


@cache
def net(trained: bool) -> nn.Module:
    """Two convolutions and a linear layer that tell the shapes apart, or can't yet."""
    with torch.random.fork_rng([]):
        torch.manual_seed(1)
        model = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 3),
        )  # fmt: skip
    optimiser, (x, y) = torch.optim.Adam(model.parameters(), 3e-3), shapes(96)
    for _ in range(40 * trained):
        optimiser.zero_grad()
        loss: Any = F.cross_entropy(model(x), y)
        loss.backward()
        optimiser.step()
    return model.eval()


def objective(ascent: Ascent, decay: float) -> Tensor:
    return ascent.scores - decay * ascent.pictures.square().flatten(1).sum(1)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("l2", [None, 0.3, 40.0])
@pytest.mark.parametrize("steps", [1, 32])
def test_of_a_linear_model_it_is_the_weights_over_twice_lambda(
    shape: tuple[int, ...], l2: float | None, steps: int
) -> None:
    model, decay = Linear(*shape), l2 or torch.Size(shape).numel() ** -0.5
    found = class_models(model, ClassModel([2, 0], steps, l2=l2), shape, dtype=F64)
    weights = model.weight[[2, 0]].detach()
    torch.testing.assert_close(found.pictures, weights / (2 * decay), rtol=1e-12, atol=0)
    best = weights.flatten(1).square().sum(1) / (4 * decay) + model.bias[[2, 0]].detach()
    torch.testing.assert_close(objective(found, decay), best)
    given = model(found.pictures).softmax(1)[[0, 1], [2, 0]].detach()
    torch.testing.assert_close(found.probabilities, given)


def test_a_slower_ascent_comes_to_the_same_picture() -> None:
    model = Linear(1, 4, 4)
    slow = class_models(model, ClassModel([1], steps=128, rate=0.3, l2=0.5), (1, 4, 4), dtype=F64)
    torch.testing.assert_close(slow.pictures, model.weight[[1]].detach(), rtol=1e-6, atol=1e-6)


def test_it_begins_at_the_mean_colour_and_is_bound_to_it() -> None:
    model, mean = Linear(3, 4, 4), (0.5, -1.0, 2.0)
    found = class_models(model, ClassModel([1], l2=0.5, mean=mean), (3, 4, 4), dtype=F64)
    colour = torch.tensor(mean, dtype=F64).view(3, 1, 1)
    torch.testing.assert_close(found.pictures, colour + model.weight[[1]].detach())
    with pytest.raises(ConfigurationError, match="one per channel"):
        class_models(model, ClassModel([1], mean=[0.5, 1.0]), (3, 4, 4), dtype=F64)


def test_a_trained_net_knows_its_classes_and_an_untrained_one_does_not() -> None:
    knows, guesses = (class_models(net(one), range(3), (1, 12, 12)) for one in (True, False))
    assert knows.probabilities.min() > 0.99
    assert guesses.probabilities.max() < 0.6
    similar = F.cosine_similarity(
        knows.pictures.flatten(1)[:, None], templates().flatten(1)[None], dim=2
    )
    assert similar.argmax(1).tolist() == [0, 1, 2], "each picture is most like its own shape"
    assert similar.diagonal().min() > 0.3


def test_more_steps_and_more_freedom_reach_more() -> None:
    def reached(**how: Any) -> float:
        found = class_models(net(True), ClassModel(range(3), **how), (1, 12, 12))
        return float(objective(found, how["l2"]).mean())

    assert reached(l2=0.1, steps=64) > reached(l2=0.1, steps=4) > reached(l2=0.1, steps=1)
    assert reached(l2=0.02) > reached(l2=0.1) > reached(l2=0.5)


def test_it_climbs_as_high_in_32_steps_as_adam_in_600() -> None:
    picture = torch.zeros(3, 1, 12, 12, requires_grad=True)
    optimiser = torch.optim.Adam([picture], 0.02)
    for _ in range(600):
        scores = net(True)(picture).diagonal()
        penalty = 12**-1.0 * picture.square().flatten(1).sum(1)
        (picture.grad,) = torch.autograd.grad(-(scores - penalty).sum(), [picture])
        optimiser.step()
    long = (scores - penalty).detach()
    ours = objective(class_models(net(True), range(3), (1, 12, 12)), 12**-1.0)
    # There are many maxima: a class may end at another one, a little lower or higher.
    assert ours.mean() > 0.98 * long.mean()
    assert (ours > 0.9 * long).all()


def test_a_picture_is_never_worse_than_the_plain_one() -> None:
    class Steep(nn.Module):
        """Its maximiser is so near that every step goes far beyond it."""

        def forward(self, x: Tensor) -> Tensor:
            far = (x - 0.01).square().flatten(1).sum(1)
            return torch.stack([-1000 * far, x.flatten(1).sum(1)], 1)

    found = class_models(Steep(), ClassModel([0, 1], l2=0.5), (1, 4, 4))
    assert found.pictures[0].eq(0).all()
    torch.testing.assert_close(found.scores[:1], torch.tensor([-1.6]))
    torch.testing.assert_close(found.pictures[1], torch.ones(1, 4, 4))


def test_classes_do_not_depend_on_each_other_or_on_the_chunk() -> None:
    model, shape = net(True).double(), (1, 12, 12)
    how = ClassModel([2, 0, 1], steps=8, jitter=1)
    whole = class_models(model, how, shape, dtype=F64)
    for chunk in (1, 2):
        for one, other in zip(
            class_models(model, how, shape, dtype=F64, chunk=chunk), whole, strict=True
        ):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)
    model.float()


def test_where_memory_runs_out_the_classes_come_in_halves() -> None:
    class Tight(Linear):
        def forward(self, x: Tensor) -> Tensor:
            if len(x) > 1:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().forward(x)

    found = class_models(Tight(1, 4), ClassModel([0, 1, 3], l2=0.5), (1, 4), dtype=F64)
    torch.testing.assert_close(found.pictures, Linear(1, 4).weight[[0, 1, 3]].detach())


def test_nothing_is_drawn_from_the_global_stream_and_nothing_is_left_in_the_model() -> None:
    model, how = net(True), ClassModel([0, 1], steps=3, jitter=2)
    before, state = torch.get_rng_state(), {k: v.clone() for k, v in model.state_dict().items()}
    for one in model.parameters():
        one.grad = None
    with torch.no_grad(), observing(model):
        first, again = (class_models(model, how, (1, 12, 12)) for _ in range(2))
    assert torch.equal(first.pictures, again.pictures)
    assert torch.equal(before, torch.get_rng_state())
    assert all(one.grad is None and one.requires_grad for one in model.parameters())
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert not first.pictures.requires_grad


def test_a_step_of_a_shifted_picture_is_shifted_back() -> None:
    class Recording(Linear):
        seen: list[Tensor]

        def forward(self, x: Tensor) -> Tensor:
            self.seen.append(x.detach()[0, 0])
            return super().forward(x)

    model = Recording(1, 16)
    model.seen, weights = [], model.weight.data[1, 0]
    weights += 3  # so that its shifted copies are better than nothing
    class_models(model, ClassModel([1], steps=2, l2=0.5, jitter=3, seed=5), (1, 16), dtype=F64)
    _, _, second, last = model.seen
    # The first step goes all of its way and the second one half of it; both shifts are unknown.
    found = [
        (a, b)
        for a in range(-3, 4)
        for b in range(-3, 4)
        if torch.allclose(2 * last, weights.roll(a) + weights.roll(b))
        and torch.allclose(second, weights.roll(a - b))
    ]
    assert len(found) == 1
    assert 0 not in found[0]


@pytest.mark.parametrize("shape", SHAPES)
def test_a_blur_is_the_gaussian_of_scipy(shape: tuple[int, ...]) -> None:
    model = Linear(*shape)
    found = class_models(model, ClassModel([1], steps=1, l2=0.5, blur=0.8), shape, dtype=F64)
    sigmas = (0.0, *(0.8 for _ in shape[1:]))
    weights = model.weight[1].detach().numpy()
    blurred, cover = (
        gaussian_filter(one, sigmas, mode="constant", truncate=30)
        for one in (weights, np.ones_like(weights))
    )
    np.testing.assert_allclose(found.pictures[0].numpy(), blurred / cover, rtol=1e-10)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"classes": []}, "class_models=.*give the indices of classes, each once"),
        ({"classes": [1, 1]}, "each once"),
        ({"classes": "01"}, "class_models='01'"),
        ({"classes": [0.5]}, "indices of classes"),
        ({"classes": [0], "steps": 0}, r"ClassModel\(steps=0\): give at least 1"),
        ({"classes": [0], "rate": 0}, r"ClassModel\(rate=0\): give a number from"),
        ({"classes": [0], "l2": -1.0}, r"ClassModel\(l2=-1.0\)"),
        ({"classes": [0], "blur": float("nan")}, r"ClassModel\(blur=nan\)"),
        ({"classes": [0], "jitter": -1}, r"ClassModel\(jitter=-1\)"),
        ({"classes": [0], "mean": []}, r"ClassModel\(mean=\[\]\): give one finite number"),
        ({"classes": [0], "target": "logits"}, "Did you mean 'logit'"),
    ],
)
def test_errors_name_the_argument_and_the_value(given: Any, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        ClassModel(**given)


def test_what_the_model_can_not_take_is_told() -> None:
    with pytest.raises(ConfigurationError, match=r"class_models=\[1, 3\]: 3 is not one of"):
        class_models(net(True), [1, 3], (1, 12, 12))
    with pytest.raises(ConfigurationError, match=r"can't be called with a picture .*\(1, 1, 9, 9"):
        class_models(net(True), [1], (1, 9, 9))
    with pytest.raises(NoGradientPathError):
        class_models(nn.Sequential(net(True), Detached()), [1], (1, 12, 12))


class Detached(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.detach()


def test_bytes_are_around_the_plain_picture_on_a_scale_of_each() -> None:
    pictures = torch.full((2, 3, 4, 4), 0.25)
    pictures[0, 0, 1, 2], pictures[0, 1, 3, 3] = 0.75, 0.0
    ascent = Ascent(pictures, torch.zeros(2), torch.zeros(2))
    drawn = as_bytes(ascent, ClassModel([0, 1], mean=0.25), std=[1.0, 2.0, 1.0])
    assert drawn[1].eq(128).all(), "a picture that stayed plain"
    assert drawn[0, 0, 1, 2] == drawn.max() == 255
    assert drawn[0, 1, 3, 3] == drawn.min() == 1, "twice 0.25 by the second channel's std"
    assert as_bytes(ascent, ClassModel([0, 1], mean=0.25))[0, 1, 3, 3] == 64  # 128 − 63.5
    spot = torch.zeros(1, 1, 20, 20)
    spot[0, 0, 3, 4] = 1e-3
    shown = as_bytes(Ascent(spot, torch.zeros(1), torch.zeros(1)), ClassModel([0]))
    assert shown[0, 0, 3, 4] == 255, "a picture with less in it than its percentile leaves out"
    large = Ascent(torch.randn(1, 3, 224, 224), torch.zeros(1), torch.zeros(1))
    assert as_bytes(large, ClassModel([0])).shape == (1, 3, 112, 112)


def fit(folder: Path, monitor: SaliencyMonitor | None, **given: Any) -> tuple[Trainer, Net]:
    torch.manual_seed(0)
    model, path = Net(), given.pop("ckpt_path", None)
    callbacks = [one for one in (monitor, *given.pop("callbacks", [])) if one is not None]
    run = trainer(logger=board(folder), callbacks=callbacks, **{"max_epochs": 3} | given)
    run.fit(model, loader(), loader(), ckpt_path=path)
    return run, model


def resumable(folder: Path, watching: SaliencyMonitor, resume: Path | None = None) -> Path:
    """A fit of two epochs; where its first one was saved."""
    saving = ModelCheckpoint(folder / "saved", filename="{epoch}", save_top_k=-1)
    settings: dict[str, Any] = {"enable_checkpointing": True, "max_epochs": 2, "ckpt_path": resume}
    fit(folder, watching, callbacks=[saving], **settings)
    return folder / "saved" / "epoch=0.ckpt"


def monitor(**given: Any) -> SaliencyMonitor:
    settings: dict[str, Any] = {"class_models": [2, 0], "on_error": "raise", "probes": 4}
    return SaliencyMonitor(**settings | given)


def columns(one: SaliencyMonitor) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = one.state_dict()["memory"]["columns"]
    return found


def test_a_fit_logs_one_picture_whose_columns_grow(tmp_path: Path) -> None:
    watching = monitor(picture_format="png")
    fit(tmp_path, watching)
    pictures = Events(tmp_path).images[TAG]
    assert list(pictures) == [0, 1, 3, 5]
    opened = [np.asarray(Image.open(io.BytesIO(one))) for one in pictures.values()]
    assert all(one.std() > 5 for one in opened)
    assert len({one.tobytes() for one in opened}) == 4
    kept = columns(watching)
    assert [one["label"] for one in kept] == ["start", "epoch 0", "epoch 1", "epoch 2"]
    for one in kept:
        assert (one["concepts"].shape, one["concepts"].dtype) == ((2, 1, 8, 8), torch.uint8)
        assert one["concepts"].untyped_storage().nbytes() == 128
        assert (one["reached"].shape, one["reached"].untyped_storage().nbytes()) == ((2,), 8)
    changes = [not torch.equal(kept[0]["concepts"], one["concepts"]) for one in kept[1:]]
    assert all(changes)


def test_it_is_off_unless_asked_for(tmp_path: Path) -> None:
    watching = monitor(class_models=None)
    fit(tmp_path, watching)
    assert TAG not in Events(tmp_path).images
    assert all(one["concepts"] is None for one in columns(watching))


def test_the_training_is_the_one_without_it(tmp_path: Path) -> None:
    alone, watched = (
        fit(tmp_path / str(index), one)[1].state_dict()
        for index, one in enumerate([None, monitor()])
    )
    assert all(torch.equal(alone[name], watched[name]) for name in alone)


@pytest.mark.filterwarnings("ignore:The dirpath has changed from")
def test_a_resumed_fit_keeps_its_columns(tmp_path: Path) -> None:
    whole, again = monitor(), monitor()
    saved = resumable(tmp_path / "whole", whole)
    resumable(tmp_path / "again", again, saved)
    one, other = columns(whole), columns(again)
    assert [column["label"] for column in other] == ["start", "epoch 0", "epoch 1"]
    for mine, theirs in zip(one, other, strict=True):
        assert torch.equal(mine["concepts"], theirs["concepts"])
        assert torch.equal(mine["reached"], theirs["reached"])


@pytest.mark.filterwarnings("ignore:The dirpath has changed from")
def test_other_settings_start_anew_and_older_checkpoints_load(tmp_path: Path) -> None:
    saved = resumable(tmp_path / "whole", monitor())
    with pytest.warns(SaliencyWarning, match="class_models is not what it was"):
        resumable(tmp_path / "other", other := monitor(class_models=[1]), saved)
    assert [one["concepts"] is None for one in columns(other)] == [True, True, False]

    old = torch.load(saved, weights_only=True)
    (state,) = (one for key, one in old["callbacks"].items() if "Saliency" in key)
    del state["settings"]["class_models"]
    for one in state["memory"]["columns"]:
        del one["concepts"], one["reached"]
    torch.save(old, tmp_path / "old.ckpt")
    plain = monitor(class_models=None)
    resumable(tmp_path / "plain", plain, tmp_path / "old.ckpt")
    assert len(columns(plain)) == 3


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"shape": 8}, r"shape=8; give that of one input, \(C, \*spatial\)"),
        ({"shape": (8,)}, r"shape=\(8,\); give that of one input"),
        ({"chunk": 0}, "chunk=0; give a whole number from 1 on"),
        ({"chunk": "8"}, "chunk='8'; give a whole number"),
    ],
)
def test_a_shape_or_a_chunk_that_is_none_is_told(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        class_models(**{"model": net(True), "classes": [1], "shape": (1, 12, 12), **given})


def test_inference_mode_is_named_and_not_the_model() -> None:
    with torch.inference_mode(), pytest.raises(NoGradientPathError, match="inference_mode"):
        class_models(net(True), [1], (1, 12, 12))


def test_a_wrong_class_stops_the_run_before_its_first_step(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"class_models=\[3\]: 3 is not one of"):
        fit(tmp_path, monitor(class_models=[3], on_error="warn"))
    with pytest.raises(ConfigurationError, match="a picture shows up to 32"):
        SaliencyMonitor(class_models=list(range(33)))


@pytest.mark.parametrize(
    ("inputs", "channels"), [(images(12, 5), 5), (torch.randn(12, 1, 8, 24), 1)], ids=["5", "wide"]
)
def test_pictures_of_other_inputs(tmp_path: Path, inputs: Tensor, channels: int) -> None:
    run = trainer(logger=board(tmp_path), callbacks=[monitor()], max_epochs=1)
    data = loader(inputs, labels())
    run.fit(Net(channels=channels), data, data)
    assert len(Events(tmp_path).images[TAG]) == 2


@pytest.mark.parametrize(
    ("argument", "classes", "steps"),
    [
        ("[0, 2]", (0, 2), 32),
        ("{class_path: lightning_saliency.class_models.ClassModel, "
         "init_args: {classes: [1], steps: 5, target: margin}}", (1,), 5),
    ],
)  # fmt: skip
def test_yaml_says_it_too(
    argument: str,
    classes: tuple[int, ...],
    steps: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("run.yaml").write_text(f"""
seed_everything: 1
trainer:
  accelerator: cpu
  max_epochs: 1
  limit_train_batches: 1
  logger: false
  enable_checkpointing: false
  enable_progress_bar: false
  enable_model_summary: false
  callbacks:
    - class_path: lightning_saliency.SaliencyMonitor
      init_args: {{class_models: {argument}}}
model: {{class_path: own_method.SmallNet}}
data: {{class_path: own_method.SmallData}}
""")
    cli = command(monkeypatch, "fit", "--config=run.yaml")
    (one,) = (
        one
        for one in cli.trainer.callbacks  # type: ignore[attr-defined]
        if isinstance(one, SaliencyMonitor)
    )
    how = one.settings.class_models
    assert how is not None
    assert (tuple(how.classes), how.steps) == (classes, steps)
    assert columns(one)[-1]["concepts"] is not None


def test_jitter_never_ends_below_where_it_began() -> None:
    """What is returned was seen where it stands, and its numbers are its own."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 5, 4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3)).eval()
    ascent = class_models(net, ClassModel([0, 1, 2], steps=16, jitter=3), (1, 28, 28))
    scores = net(ascent.pictures).detach()
    torch.testing.assert_close(scores.diagonal(), ascent.scores)
    torch.testing.assert_close(scores.softmax(1).diagonal(), ascent.probabilities)
    penalty = 28**-1 * ascent.pictures.square().flatten(1).sum(1)
    assert (ascent.scores - penalty >= net(torch.zeros(1, 1, 28, 28))[0] - 1e-6).all()
