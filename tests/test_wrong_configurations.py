"""Whatever can't work is told before the first training step, with what, why and what to do."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from small_fits import Answering, Net, images, labels, loader, trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from lightning_saliency import (
    ConfigurationError,
    Contrast,
    Drift,
    Every,
    GradCAM,
    IntegratedGradients,
    Output,
    Probes,
    SaliencyMonitor,
    SmoothGrad,
    VarGrad,
)

Loader = DataLoader[Any]


@dataclass(frozen=True)
class Wrong:
    """A configuration, and the words that its error must hold."""

    words: tuple[str, ...]
    arguments: Callable[[], dict[str, Any]] = dict
    net: Callable[[], LightningModule] = Net
    train: Callable[[], Loader] = loader
    val: Callable[[], Loader | None] = loader
    trainer: dict[str, Any] = field(default_factory=dict)


def wrong(*words: str, **arguments: Any) -> Wrong:
    """Arguments alone, with a net and data that fit."""
    return Wrong(words, lambda: arguments)


def made(*words: str, arguments: Callable[[], dict[str, Any]]) -> Wrong:
    """Arguments whose own construction fails."""
    return Wrong(words, arguments)


class Unjudged(Net):
    """Trains on its inputs alone, so that no label can disturb it."""

    def loss(self, batch: Any) -> Tensor:
        scores: Tensor = self(batch[0])
        return scores.square().mean()


class ByKey(Net):
    def split(self, batch: Any) -> tuple[Tensor, Tensor]:
        return batch["image"], batch["label"]


class Tokens(Net):
    """Takes indices of an embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 1)

    def forward(self, x: Tensor) -> Any:
        return super().forward(self.embedding(x).movedim(-1, 1))


class WithoutForward(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = Net()
        self.seen = 0

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.seen += 1
        return F.cross_entropy(self.backbone(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        return

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Flat(Net):
    """Without a layer that answers with a map."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Flatten(), nn.Linear(64, 16))
        self.head = nn.Sequential(nn.ReLU(), nn.Linear(16, 3))


class Frozen(Net):
    """Its backbone runs without gradients."""

    def forward(self, x: Tensor) -> Any:
        with torch.no_grad():
            found = self.features(x)
        return self.head(found)


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter(zip(images(), labels(), strict=True))


def by_key() -> Loader:
    examples = [
        {"image": image, "label": label} for image, label in zip(images(), labels(), strict=True)
    ]
    return DataLoader(examples, batch_size=4)  # type: ignore[arg-type]


def empty() -> Loader:
    return loader(images()[:0], labels()[:0])


def with_nan() -> Loader:
    broken = images()
    broken[5, 0, 2, 2] = float("nan")
    return loader(broken, labels())


def tokens() -> Loader:
    return loader(torch.arange(12 * 64).view(12, 8, 8) % 10, labels())


def raising(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    raise KeyError("boom")


def of_everything(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    return inputs.sum()


def as_array(model: nn.Module, inputs: Tensor, targets: Tensor) -> Any:
    return inputs.numpy()


def unsummed(outputs: Tensor, classes: Tensor) -> Tensor:
    return outputs


def of_two_colours(now: Tensor, then: Tensor) -> Tensor:
    gap: Tensor = (now[:, 0] - then[:, 1]).flatten(1)
    return gap.square().sum(1)


ARGUMENTS = {
    "unknown method": wrong(
        "methods: 'saliensy'",
        "Did you mean 'saliency'",
        "'grad_cam'",
        methods=["saliensy"],
    ),
    "unknown method in a mapping": wrong(
        "methods: 'gradcam'",
        "Did you mean 'grad_cam'",
        methods={"cam": "gradcam"},
    ),
    "no method": wrong("methods=[] is empty", "'saliency'", methods=[]),
    "methods of a wrong type": wrong("methods=3", "['saliency', 'grad_cam']", methods=3),
    "a method's class": wrong("methods: 'cam'", "an instance such as", methods={"cam": GradCAM}),
    "a method's name makes no tag": wrong(
        "methods: 'a/b'",
        "without '/'",
        methods={"a/b": "saliency"},
    ),
    "no samples": made(
        "SmoothGrad(samples=0)",
        "at least 1",
        arguments=lambda: {"methods": {"smooth": SmoothGrad(samples=0)}},
    ),
    "one sample of a variance": made(
        "VarGrad(samples=1)",
        "at least 2",
        arguments=lambda: {"methods": {"variance": VarGrad(samples=1)}},
    ),
    "no steps": made(
        "IntegratedGradients(steps=0)",
        "at least 1",
        arguments=lambda: {"methods": {"path": IntegratedGradients(steps=0)}},
    ),
    "unknown channels": made(
        "channels='mean'",
        "'l2'",
        arguments=lambda: {"methods": SmoothGrad(channels="mean")},  # type: ignore[arg-type]
    ),
    "unknown target": wrong(
        "target='margn'",
        "Did you mean 'margin'",
        "'region'",
        "(outputs, classes)",
        target="margn",
    ),
    "target of a wrong type": wrong("target=3", "'margin'", target=3),
    "unknown target_class": wrong(
        "target_class='lable'",
        "Did you mean 'label'",
        target_class="lable",
    ),
    "target_class below 0": wrong("target_class=-1", "or a class from 0 on", target_class=-1),
    "unknown measure": wrong(
        "measures",
        "'entropi'",
        "Did you mean 'entropy'",
        measures=["entropi"],
    ),
    "measures of a wrong type": wrong("measures=3", "['entropy']", measures=3),
    "a measure that is a function": wrong(
        "measures['mine']",
        "Shape(function)",
        measures={"mine": len},
    ),
    "a measure whose tag is taken": wrong(
        "measures",
        "'drift' is taken",
        measures={"drift": "entropy"},
    ),
    "no probes": wrong("probes=0", "1 or more", probes=0),
    "probes=True": wrong("probes=True", "1 or more", probes=True),
    "probes in words": wrong("probes='ten'", "a list of indices", probes="ten"),
    "probes in a dict": wrong("probes={'a': 1}", "a list of indices", probes={"a": 1}),
    "half a probe": wrong("probes=2.5", "a list of indices", probes=2.5),
    "a tensor of images": wrong("probes=", "Tensor", "Probes object", probes=images()),
    "an input of a wrong type": wrong("input=[1]", "an index, a key", input=[1]),
    "mean without std": wrong("mean=[0.5]", "std=None", "both", mean=[0.5]),
    "std of 0": wrong("std=[0.0]", "above 0", mean=[0.5], std=[0.0]),
    "mean that is a number": wrong("mean=0.5", "a list", mean=0.5, std=0.5),
    "picture_format": wrong("picture_format='gif'", "'jpeg'", "'png'", picture_format="gif"),
    "every=0": wrong("every", "n=0", "1 or more", every=0),
    "every=True": wrong("every=True", "Every(n=2", every=True),
    "every='x'": wrong("every='x'", "Every(n=2", every="x"),
    "every in a dict": wrong("every={'n': 2}", "Every(n=2", every={"n": 2}),
    "every of an unknown unit": made(
        "every",
        "unit='epochs'",
        "Did you mean 'epoch'",
        arguments=lambda: {"every": Every(2, "epochs")},  # type: ignore[arg-type]
    ),
    "every from an epoch below 0": made(
        "every",
        "start=-1",
        "0 or more",
        arguments=lambda: {"every": Every(start=-1)},
    ),
    "reference": wrong("reference='bset'", "Did you mean 'best'", "'first'", reference="bset"),
    "reference below 0": wrong("reference=-1", "or a step from 0 on", reference=-1),
    "on_error": wrong("on_error='explode'", "'warn'", "'raise'", on_error="explode"),
    "on_error=1": wrong("on_error=1", "'warn'", "'raise'", on_error=1),
    "name": wrong("name='/saliency/'", "a word such as 'saliency'", name="/saliency/"),
    "name with an empty part": wrong("name='a//b'", "a word", name="a//b"),
    "name that is a number": wrong("name=3", "a word", name=3),
    "chunk": wrong("chunk=0", "from 1", chunk=0),
    "budget in percent": wrong("budget=2", "0.02", budget=2),
    "budget of nothing": wrong("budget=0", "above 0", budget=0),
    "budget as a word": wrong("budget='low'", "above 0", budget="low"),
    "seed": wrong("seed='x'", "a whole number", seed="x"),
}
"""Told where the monitor is made."""

FITS = {
    "unknown layer": wrong(
        "layer='feature.1'",
        "Did you mean 'features.1'",
        "'head.0'",
        methods={"cam": GradCAM("feature.1")},
    ),
    "method raises": wrong(
        "methods: 'mine' raised KeyError: 'boom'",
        "inputs (4, 1, 8, 8)",
        "correct it",
        methods={"mine": raising, "ours": "saliency"},
    ),
    "method of a wrong shape": wrong(
        "methods: 'mine' returns the shape ()",
        "(4, *spatial)",
        methods={"mine": of_everything},
    ),
    "method of a wrong type": wrong(
        "methods: 'mine' returns a ndarray",
        "a tensor",
        methods={"mine": as_array},
    ),
    "no layer with a map": Wrong(
        ("layer=None", "Flat", "gradient method", "'saliency'"),
        lambda: {"methods": ["grad_cam"]},
        net=Flat,
    ),
    "a layer after the pooling": wrong(
        "layer='head.1'",
        "(4, 16)",
        "a layer before it",
        methods={"cam": GradCAM("head.1")},
    ),
    "a measure that can't read the map": wrong(
        "first observation failed",
        "measures ['moved']",
        "measures=…",
        measures={"moved": Drift(of_two_colours, of="signed")},
    ),
    "target of a wrong shape": wrong("target=", "unsummed", "(4, 3)", "(N,)", target=unsummed),
    "contrast to no class": wrong(
        "target=Contrast(against=99)",
        "0 to 2",
        target=Contrast(against=99),
    ),
    "output of no column": wrong("target=Output(index=9)", "0 to 2", target=Output(9)),
    "region of a classifier": wrong("target=Region", "(4, 3)", "'margin'", target="region"),
    "target_class out of range": wrong("target_class=7", "0 to 2", target_class=7),
    "index beyond the data": wrong("probes=[0, 99]", "Index 99", "0 to 11", probes=[0, 99]),
    "index below 0": wrong("probes=[-1]", "Index -1", "0 to 11", probes=[-1]),
    "index twice": wrong("probes=[3, 3]", "Index 3 is there twice", probes=[3, 3]),
    "index twice in an array": wrong("probes=[3, 3]", "twice", probes=np.array([3, 3])),
    "index that is no int": wrong("probes=[1.5]", "give an int", probes=[1.5]),
    "no index": wrong("probes=[]", "at least one", probes=[]),
    "probes that the model can't take": Wrong(
        ("Net can't be called", "(1, 3, 8, 8)", "forward=…"),
        lambda: {"probes": Probes.from_tensors(images(channels=3), labels())},
    ),
    "probes of an empty loader": Wrong(
        ("probes=DataLoader", "the loader is empty"),
        lambda: {"probes": empty()},
    ),
    "indices of a stream": Wrong(
        ("probes=[0, 1]", "Stream", "only be iterated", "Give a number"),
        lambda: {"probes": [0, 1]},
        val=lambda: DataLoader(Stream(), batch_size=4),
    ),
    "empty validation data": Wrong(
        ("probes=64", "validation data", "length 0", "from_tensors"),
        val=empty,
    ),
    "indices of empty validation data": Wrong(
        ("probes=[0]", "length 0", "from_tensors"),
        lambda: {"probes": [0]},
        val=empty,
    ),
    "no validation data": Wrong(
        ("probes=64", "no validation data", "from_tensors"),
        val=lambda: None,
    ),
    "NaN in a probe": Wrong(("probes=64", "'val[5]'", "NaN", "Look at the data"), val=with_nan),
    "token ids": Wrong(
        ("probes=64", "int64 tensor of shape (4, 8, 8)", "floating"),
        net=Tokens,
        train=tokens,
        val=tokens,
    ),
    "no label": Wrong(
        ("target_class='label'", "label=…", "target_class='prediction'"),
        net=Unjudged,
        val=lambda: loader(images()),
    ),
    "labels that are no classes": Wrong(
        ("target_class='label'", "target='output'", "label=…"),
        net=Unjudged,
        val=lambda: loader(images(), torch.rand(12)),
    ),
    "label beyond the model": Wrong(
        ("target_class='label'", "3 is not one", "0 to 2"),
        net=Unjudged,
        val=lambda: loader(images(), labels() + 1),
    ),
    "dict batches": Wrong(
        ("a dict with 'image', 'label'", "give input='image'"),
        net=ByKey,
        train=by_key,
        val=by_key,
    ),
    "a wrong key of the input": Wrong(
        ("input='imge'", "Did you mean 'image'"),
        lambda: {"input": "imge", "label": "label"},
        net=ByKey,
        train=by_key,
        val=by_key,
    ),
    "a wrong key of the label": Wrong(
        ("label='lable'", "Did you mean 'label'"),
        lambda: {"input": "image", "label": "lable"},
        net=ByKey,
        train=by_key,
        val=by_key,
    ),
    "a wrong index of the input": wrong("input=5", "no index 5", "of 2", input=5),
    "a mask of a wrong shape": Wrong(
        ("mask", "(4, 5, 5)", "one of shape (4, 8, 8)"),
        lambda: {"mask": 2},
        val=lambda: loader(images(), labels(), torch.zeros(12, 5, 5)),
    ),
    "dict of outputs": Wrong(
        ("a dict with the keys ['loss', 'scores']", "output="),
        net=lambda: Answering(lambda z: {"scores": z, "loss": z.mean()}),
    ),
    "tuple of outputs": Wrong(
        ("a tuple of 2", "output=0"), net=lambda: Answering(lambda z: (z, z))
    ),
    "a wrong key of the output": Wrong(
        ("output='score'", "Did you mean 'scores'"),
        lambda: {"output": "score"},
        net=lambda: Answering(lambda z: {"scores": z}),
    ),
    "a wrong index of the output": Wrong(
        ("output=2", "a tuple of 2", "'0', '1'"),
        lambda: {"output": 2},
        net=lambda: Answering(lambda z: (z, z)),
    ),
    "an index of a tensor": wrong("output=0", "one tensor (1, 3)", "out", output=0),
    "one score for all": Wrong(
        ("the shape ()", "one row per probe", "output=…"),
        net=lambda: Answering(lambda z: z.mean()),
    ),
    "classes instead of scores": Wrong(
        ("torch.int64", "argmax", "output=…", "forward=…"),
        net=lambda: Answering(lambda z: z.argmax(1)),
    ),
    "detached": Wrong(
        ("no gradient", "detaches", "forward=…"),
        net=lambda: Answering(lambda z: z.detach()),
    ),
    "a backbone without gradients": Wrong(
        ("the input", "torch.no_grad()", "let gradients"),
        net=Frozen,
    ),
    "no forward": Wrong(("forward=None", "WithoutForward", "'backbone'"), net=WithoutForward),
    "unknown forward": wrong("forward='featurs'", "Did you mean 'features'", forward="featurs"),
    "forward that is a number": wrong(
        "forward='seen'", "can't be called", "'head'", forward="seen"
    ),
    "forward of a wrong type": wrong("forward=3", "name of a submodule", "'head'", forward=3),
    "mean of other channels": wrong(
        "mean=(0.5, 0.5)",
        "inputs of 1 channel",
        mean=[0.5, 0.5],
        std=[1.0, 1.0],
    ),
}
"""Told where the fit begins, by a sanity check or without one."""


@pytest.fixture(autouse=True, scope="module")
def few_objects() -> Iterator[None]:
    """Reading probes walks over all objects alive: put by those that are not of these tests."""
    gc.freeze()
    yield
    gc.unfreeze()


def check(case: Wrong, told: Exception) -> None:
    assert [word for word in case.words if word not in str(told)] == [], str(told)


@pytest.mark.parametrize("case", ARGUMENTS.values(), ids=ARGUMENTS)
def test_told_where_the_monitor_is_made(case: Wrong) -> None:
    with pytest.raises(ConfigurationError) as told:
        SaliencyMonitor(**case.arguments())
    check(case, told.value)


@pytest.mark.filterwarnings("ignore:Total length of `DataLoader` across ranks is zero")
@pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`")
@pytest.mark.parametrize("sanity", [2, 0], ids=["sanity check", "no sanity check"])
@pytest.mark.parametrize("case", FITS.values(), ids=FITS)
def test_told_before_the_first_step(case: Wrong, sanity: int) -> None:
    net, monitor = case.net(), SaliencyMonitor(**case.arguments())
    fit = trainer(num_sanity_val_steps=sanity, callbacks=[monitor])
    with pytest.raises(ConfigurationError) as told:
        fit.fit(net, case.train(), case.val())
    check(case, told.value)
    assert net.seen == 0
    assert fit.global_step == 0


@pytest.mark.parametrize("sanity", [2, 0], ids=["sanity check", "no sanity check"])
def test_the_same_fit_without_a_mistake_trains(sanity: int) -> None:
    net, fit = Net(), trainer(num_sanity_val_steps=sanity, callbacks=[SaliencyMonitor()])
    fit.fit(net, loader(), loader())
    assert net.seen == fit.global_step == 4
