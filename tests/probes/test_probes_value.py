"""The value: checks, hash, selection, state, differences."""

from __future__ import annotations

import io
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_saliency.errors import ConfigurationError
from lightning_saliency.probes import Fingerprint, Probes

HASH = "19e27f3c4d0d5675d02422b1ad60c573b0a22258b5b21bf1211bf9018cbb073c"


def inputs(count: int = 2) -> Tensor:
    return torch.arange(12 * count, dtype=torch.float32).reshape(count, 3, 2, 2)


def probes(count: int = 2, **changes: Any) -> Probes:
    given: dict[str, Any] = {"inputs": inputs(count), "targets": torch.arange(count).flip(0)}
    return Probes.from_tensors(**(given | changes))


def complete() -> Probes:
    return probes(
        masks=inputs()[:, 0] > 3,
        names=["a.png", "b.png"],
        classes=["cat", "dog"],
        mean=[0.5],
        std=[0.25],
    )


def saved(value: Any) -> Any:
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def test_the_hash_is_the_same_in_every_process() -> None:
    assert probes().hash == HASH


def test_every_bit_that_is_watched_is_in_the_hash() -> None:
    pixel = inputs()
    pixel[1, 2, 0, 1] = torch.nextafter(pixel[1, 2, 0, 1], torch.tensor(99.0))
    variants = [
        probes(),
        probes(inputs=pixel),
        probes(inputs=inputs().half()),
        probes(inputs=inputs().bfloat16()),
        probes(inputs=inputs().reshape(2, 3, 4, 1)),
        probes(inputs=inputs().flip(0)),
        probes(targets=None),
        probes(targets=torch.tensor([1, 1])),
        probes(targets=torch.tensor([1.0, 0.0])),
    ]
    assert len({one.hash for one in variants}) == len(variants)
    assert complete().hash == probes().hash  # what says how to show them is not in it


def test_the_state_comes_back_the_same() -> None:
    before = complete()
    after = Probes.from_state(saved(before.to_state()))
    assert after.hash == before.hash
    assert torch.equal(after.inputs, before.inputs)
    for name in ("targets", "masks"):
        assert torch.equal(getattr(after, name), getattr(before, name))
    for name in ("names", "classes", "mean", "std"):
        assert getattr(after, name) == getattr(before, name)
    assert Probes.from_state(saved(probes(targets=None).to_state())).targets is None
    assert pickle.loads(pickle.dumps(before)).hash == before.hash


def test_a_damaged_state_is_told() -> None:
    state = probes().to_state() | {"inputs": inputs() + 1}
    with pytest.raises(ConfigurationError, match=f"damaged: their hash is .*not {HASH[:8]}"):
        Probes.from_state(state)


def test_a_fingerprint_is_enough_to_tell_a_difference() -> None:
    old = Fingerprint.from_state(saved(probes().fingerprint.to_state()))
    listed = {k: list(v) if isinstance(v, tuple) else v for k, v in old.to_state().items()}
    assert old == Fingerprint.from_state(listed) == probes().fingerprint
    assert all(len(digest) == 16 for digest in old.inputs)
    assert probes().difference(old) == ""
    assert probes(targets=torch.tensor([1, 5])).difference(old) != ""


def changed(*positions: int, count: int = 10) -> Tensor:
    values = inputs(count)
    values[list(positions)] += 1
    return values


@pytest.mark.parametrize(
    ("new", "words"),
    [
        (probes(10), ""),
        (probes(10, names=list("abcdefghij")), ""),
        (probes(8), "8 probes, were 10 (8 inputs are the same)"),
        (probes(10, inputs=inputs(10).half()), "float16 (3, 2, 2), were float32 (3, 2, 2)"),
        (probes(10, inputs=inputs(10).reshape(10, 3, 4, 1)), "(3, 4, 1), were float32 (3, 2, 2)"),
        (probes(10).select(range(9, -1, -1)), "the same probes in another order"),
        (probes(10, inputs=changed(4)), "1 input changed: probe[4]"),
        (probes(10, inputs=changed(1, 2)), "2 inputs changed: probe[1], probe[2]"),
        (probes(10, inputs=changed(*range(8))), "probe[5], …"),
        (
            probes(10, targets=torch.tensor([*range(9, 0, -1), 7])),
            "1 target changed: probe[9] (7, was 0)",
        ),
        (probes(10, inputs=changed(0), targets=[9] * 10), "probe[0]; 9 targets changed"),
        (probes(10, targets=None), "no targets, had some"),
        (probes(10, targets=torch.arange(10.0).flip(0)), "the targets are of another dtype"),
    ],
)
def test_difference_says_what_changed(new: Probes, words: str) -> None:
    said = new.difference(probes(10))
    assert words in said
    assert bool(words) == bool(said)


def test_difference_says_when_targets_came() -> None:
    assert probes().difference(probes(targets=None)) == "targets, had none"


def test_select_takes_all_along() -> None:
    one = complete().select(torch.tensor([1]))
    assert len(one) == 1
    assert torch.equal(one.inputs, inputs()[1:])
    assert one.targets is not None
    assert one.targets.tolist() == [0]
    assert one.names == ("b.png",)
    assert one.masks is not None
    assert torch.equal(one.masks, inputs()[1:, 0] > 3)
    assert (one.classes, one.mean, one.std) == (("cat", "dog"), (0.5,), (0.25,))
    assert one.hash != complete().hash


@pytest.mark.parametrize(
    ("indices", "words"),
    [
        ([2], "Index 2 is not in these probes, which has 2 examples: 0 to 1"),
        ([-1], "Index -1 is not in"),
        ([0, 0], "Index 0 is there twice"),
        ([True], "Index True is a bool"),
        ([0.0], "Index 0.0 is a float"),
        ([], "chooses no probe"),
    ],
)
def test_select_refuses(indices: list[Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        probes().select(indices)


def test_tensors_are_copied_and_plain() -> None:
    given = inputs().requires_grad_()
    made = Probes.from_tensors(given, [[0.0, 1.0], [1.0, 0.0]])  # type: ignore[arg-type]
    with torch.no_grad():
        given.zero_()
    assert made.hash == HASH
    assert torch.equal(made.inputs, inputs())
    assert not made.inputs.requires_grad
    assert made.names == ("probe[0]", "probe[1]")


def test_probes_made_in_inference_mode_can_be_differentiated() -> None:
    with torch.inference_mode():
        made = probes(masks=torch.ones(2, 2, 2)).select([1, 0])
        again = Probes.from_state(made.to_state())
    for one in (made, again):
        for tensor in (one.inputs, one.targets, one.masks):
            assert tensor is not None
            assert not tensor.is_inference()


def test_the_value_itself_cuts_the_graph_and_makes_tensors_plain() -> None:
    given = inputs().requires_grad_().transpose(2, 3)
    for tensor in (given.detach(), given.contiguous()):
        made = Probes(tensor, None, ("a", "b")).inputs
        assert made.is_contiguous()
        assert not made.requires_grad


def test_repr_is_short() -> None:
    assert repr(probes()) == f"Probes(2 of (3, 2, 2) float32, hash {HASH[:8]})"


def test_uint8_images_are_kept() -> None:
    assert probes(inputs=inputs().to(torch.uint8)).inputs.dtype == torch.uint8


def with_value(value: float, *rows: int) -> Tensor:
    values = inputs()
    values[list(rows), 0, 0, 0] = value
    return values


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"inputs": with_value(float("nan"), 1)}, r"input of probe 'probe\[1\]' is NaN"),
        ({"inputs": with_value(float("inf"), 0, 1)}, r"'probe\[0\]' and 1 more is NaN"),
        ({"targets": torch.tensor([0.0, float("nan")])}, r"target of probe 'probe\[1\]'"),
        ({"inputs": inputs()[:0]}, "at least one input"),
        ({"inputs": inputs().long()}, "int64 tensor"),
        ({"inputs": [[1.0]]}, "input is a list"),
        ({"names": ["a"]}, "2 inputs but 1 names"),
        ({"targets": torch.tensor([1])}, "2 inputs but 1 targets"),
        ({"targets": torch.rand(2, 3)}, "not one-hot"),
        ({"masks": torch.ones(2, 3, 3)}, r"shape \(2, 2, 2\)"),
        ({"mean": [0.5]}, "mean and std together"),
        ({"mean": [0.5, 0.5], "std": [0.5, 0.5]}, "or 3 of each"),
        ({"mean": [0.5], "std": [0.5, 0.5, 0.5]}, "or 3 of each"),
        ({"mean": [0.5], "std": [0.0]}, "std above 0"),
        ({"mean": [float("nan")], "std": [1.0]}, "both finite"),
    ],
)
def test_unfit_tensors_are_told(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        probes(**changes)


@pytest.mark.parametrize(
    ("targets", "masks", "words"),
    [
        (torch.tensor([1, 0], dtype=torch.int32), None, "give .* int64 class indices"),
        (torch.rand(2, 1), None, "give .* int64 class indices"),
        (None, torch.ones(2, 2, 2), "give bool of shape"),
        (None, torch.ones(2, 4, 2) > 0, r"give bool of shape \(2, 2, 2\)"),
    ],
)
def test_the_value_itself_is_strict(targets: Any, masks: Any, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        Probes(inputs(), targets, ("a", "b"), masks)
