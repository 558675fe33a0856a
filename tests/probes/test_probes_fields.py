"""How batches are read, and the words when they can't be."""

from __future__ import annotations

import re
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torchvision import tv_tensors

from lightning_saliency.errors import ConfigurationError
from lightning_saliency.probes.fields import Fields, as_targets, own_copy

X = torch.rand(4, 3, 5, 5)
Y = torch.tensor([3, 1, 0, 2])


class Pair(NamedTuple):
    image: Tensor
    label: Tensor


@dataclass
class Sample:
    image: Tensor
    label: Tensor


@dataclass
class SlottedSample:
    __slots__ = ("image", "label")
    image: Tensor
    label: Tensor


@pytest.mark.parametrize(
    ("batch", "fields"),
    [
        ((X, Y), Fields()),
        ([X, Y], Fields()),
        (Pair(X, Y), Fields()),
        (Pair(X, Y), Fields(input="image", label="label")),
        ((Y, X), Fields(input=1, label=0)),
        ((X, "meta", Y), Fields(label=-1)),
        ({"image": X, "label": Y}, Fields(input="image", label="label")),
        ({"a.b": X, "y": Y}, Fields(input="a.b", label="y")),
        (({"image": X, "m": 0}, {"y": [0, Y]}), Fields(input="0.image", label="1.y.1")),
        (Sample(X, Y), Fields(input="image", label="label")),
        (SlottedSample(X, Y), Fields(input="image", label="label")),
        (SimpleNamespace(view=Pair(X, Y)), Fields(input="view.image", label="view.label")),
        ({0: X, 1: Y}, Fields(input=0, label=1)),
        ((X.double(), Y), Fields(input=lambda batch: batch[0].float())),
        ((X, [3, 1, 0, 2]), Fields()),
        ((X, Y[:, None]), Fields(label=1)),
    ],
)
def test_input_and_label_are_found(batch: Any, fields: Fields) -> None:
    reading = fields.read(batch)
    assert torch.equal(reading.inputs, X)
    assert reading.targets is not None
    targets = as_targets(reading.targets, strict=True)
    assert targets is not None
    assert torch.equal(targets, Y)
    assert reading.masks is None


@pytest.mark.parametrize(
    "batch",
    [
        X,
        (X,),
        (X, "text"),
        (X, ["a", "b", "c", "d"]),
        (X, torch.zeros(4, 5, 5)),  # a segmentation map
        (X, torch.zeros(3)),  # not one per input
        (X, {"boxes": torch.zeros(4)}),
        (X, torch.tensor(1)),
    ],
)
def test_what_is_no_label_is_no_label_by_default(batch: Any) -> None:
    assert Fields().read(batch).targets is None


def test_the_input_is_never_its_own_label() -> None:
    assert Fields(input=1).read((Y, torch.rand(4, 1, 9))).targets is None


def test_a_callable_may_say_that_there_is_none() -> None:
    reading = Fields(label=lambda batch: None, mask=lambda batch: None).read((X, Y))
    assert reading.targets is None
    assert reading.masks is None


def test_masks_are_what_is_not_zero() -> None:
    mask = torch.zeros(4, 1, 5, 5, dtype=torch.uint8)
    mask[0, 0, 2, 3] = 7
    for given in (mask, mask[:, 0], mask.float()):
        read = Fields(mask=2).read((X, Y, given)).masks
        assert read is not None
        assert read.dtype == torch.bool
        assert read.nonzero().tolist() == [[0, 2, 3]]


def test_what_is_read_is_a_plain_copy_that_autograd_may_use() -> None:
    with torch.inference_mode():
        batch = (tv_tensors.Image(torch.rand(4, 3, 5, 5)), Y.clone(), torch.ones(4, 5, 5))
        reading = Fields(mask=2).read(batch)
        kept = reading.inputs.clone()
        batch[0].zero_()
    assert type(reading.inputs) is Tensor
    for tensor in reading:
        assert tensor is not None
        assert not tensor.is_inference()
    assert torch.equal(reading.inputs, kept)
    assert own_copy(X.requires_grad_(False).transpose(2, 3)).is_contiguous()


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (torch.tensor([2, 0], dtype=torch.uint8), torch.tensor([2, 0])),
        (torch.tensor([True, False]), torch.tensor([1, 0])),
        (torch.tensor([[2], [0]]), torch.tensor([2, 0])),
        (torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.tensor([1, 0])),
        (torch.tensor([[0, 0, 1], [1, 0, 0]]), torch.tensor([2, 0])),
        (torch.tensor([0.5, -1.5]), torch.tensor([0.5, -1.5])),
        (torch.tensor([[0.5], [-1.5]]).double(), torch.tensor([0.5, -1.5]).double()),
    ],
)
def test_targets_are_class_indices_or_floats(labels: Tensor, expected: Tensor) -> None:
    targets = as_targets(labels, strict=True)
    assert targets is not None
    assert targets.dtype == expected.dtype
    assert torch.equal(targets, expected)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (torch.tensor([[0.9, 0.1], [0.0, 1.0]]), "not one-hot"),  # mixup
        (torch.tensor([[1, 1], [0, 1]]), "not one-hot"),  # several labels
        (torch.tensor([[0, 0], [0, 1]]), "not one-hot"),
        (torch.tensor([[1.0, 0.5], [0.0, 1.0]]), "not one-hot"),
        (torch.zeros(2, 5, 5), "can be the mask"),
        (torch.zeros(2, dtype=torch.complex64), "one label per input"),
    ],
)
def test_other_targets_are_none_or_an_error(labels: Tensor, words: str) -> None:
    assert as_targets(labels, strict=False) is None
    with pytest.raises(ConfigurationError, match=words):
        as_targets(labels, strict=True)


@pytest.mark.parametrize(
    ("batch", "fields", "words"),
    [
        ({"image": X, "y": Y}, Fields(), r"dict with 'image', 'y'.*not guessed.*input='image'"),
        ({"y": Y, "image": X}, Fields(), "input='image'"),  # the tensor that could be it
        (Sample(X, Y), Fields(), "Sample with 'image', 'label'"),
        ((), Fields(), "tuple of 0"),
        (3, Fields(), "an int.*an index, a key or a callable"),
        ((({"image": X}), Y), Fields(), r"input is a dict with 'image'.*input='image'"),
        (([X, X], Y), Fields(), "input is a list of 2"),
        ((Y, X), Fields(), r"int64 tensor of shape \(4,\)"),
        ((X.long(), Y), Fields(), "int64 tensor.*floating values"),
        ((X[:, 0, 0], Y), Fields(), r"float32 tensor of shape \(4, 5\).*at least \(N, C, length\)"),
        ((X[:0], Y[:0]), Fields(), "at least one input"),
        ({"image": X}, Fields(input="imgae"), "input='imgae' is not in the batch.*'image'"),
        (({"image": X}, Y), Fields(input="0.imgae"), "Did you mean 'image'"),
        ((X, Y), Fields(input="image"), "no 'image' in a tuple of 2"),
        ((X, Y), Fields(label=2), "label=2: there is no index 2 in a tuple of 2"),
        ((X, Y), Fields(label="-3"), "no index -3"),
        ((X, Y[:3]), Fields(label=1), r"label=1 is an int64 tensor of shape \(3,\), but.*4 inputs"),
        ((X, "text"), Fields(label=1), "label=1 is a str"),
        ((X, torch.tensor(1)), Fields(label=1), r"shape \(\)"),
        ((X, Y, X), Fields(mask=2), r"mask is a float32 tensor.*shape \(4, 5, 5\)"),
        ((X, Y, "text"), Fields(mask=2), "mask is a str"),
    ],
)
def test_errors_say_what_was_found(batch: Any, fields: Fields, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        fields.read(batch)


@pytest.mark.parametrize("key", [True, 1.5, ["image"]])
def test_a_key_of_the_wrong_kind_is_told_at_once(key: Any) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(f"label={key!r} is")):
        Fields(label=key)
