"""Probes of a folder of images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from lightning_saliency.errors import ConfigurationError
from lightning_saliency.probes import Probes, choose

FLOATS = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])


def put(path: Path, value: int = 51, size: tuple[int, int] = (6, 4), mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((size[1], size[0]), value, dtype=np.uint8)
    pixels[0, 0] = 255
    Image.fromarray(pixels).convert(mode).save(path)


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    for index, name in enumerate(["b.png", "a.PNG", "c.bmp"]):
        put(tmp_path / name, 51 * index)
    put(tmp_path / ".hidden.png")
    (tmp_path / "notes.txt").write_text("no image")
    return tmp_path


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    for name, count in (("dog", 3), ("ant", 2), ("cat", 1)):
        for index in range(count):
            put(tmp_path / name / f"{index}.png", 10 * index)
    (tmp_path / "bee").mkdir()
    return tmp_path


def test_images_of_one_folder(flat: Path) -> None:
    probes = Probes.from_folder(str(flat))
    assert probes.names == ("a.PNG", "b.png", "c.bmp")
    assert probes.inputs.shape == (3, 3, 4, 6)
    torch.testing.assert_close(probes.inputs[:, 0, 1, 1], torch.tensor([0.2, 0.0, 0.4]))
    assert (probes.inputs[:, :, 0, 0] == 1).all()
    assert (probes.targets, probes.masks, probes.classes, probes.mean) == (None,) * 4


def test_folders_are_classes_that_take_turns(classes: Path) -> None:
    probes = Probes.from_folder(str(classes))
    assert probes.classes == ("ant", "bee", "cat", "dog")  # as ImageFolder counts them
    assert probes.names == (
        "ant/0.png", "cat/0.png", "dog/0.png", "ant/1.png", "dog/1.png", "dog/2.png",
    )  # fmt: skip
    assert probes.targets is not None
    assert probes.targets.tolist() == [0, 2, 3, 0, 3, 3]
    first = Probes.from_folder(str(classes), most=3)
    assert first.names == probes.names[:3]
    assert first.targets is not None
    assert first.targets.tolist() == [0, 2, 3]


def test_an_image_folder_dataset_says_the_same(classes: Path) -> None:
    (classes / "bee").rmdir()
    normalize = transforms.Normalize([0.5] * 3, [0.25] * 3)
    transform = transforms.Compose([transforms.ToTensor(), normalize])
    dataset = ImageFolder(str(classes), transform)
    folder = Probes.from_folder(str(classes), transform)
    data = Probes.from_dataset(dataset, [0, 2, 3, 1, 4, 5])
    assert data.hash == folder.hash
    assert data.classes == folder.classes == ("ant", "cat", "dog")
    assert data.mean == folder.mean == (0.5,) * 3
    assert [dataset.targets[index] for index in choose(dataset, 6)] == [0, 1, 2, 0, 2, 2]


def test_a_transform_may_return_an_image(flat: Path) -> None:
    put(flat / "d.png", size=(9, 9))
    probes = Probes.from_folder(str(flat), transforms.Resize((2, 2)))
    assert probes.inputs.shape == (4, 3, 2, 2)
    grey = Probes.from_folder(
        str(flat), transforms.Compose([transforms.Grayscale(), transforms.Resize((2, 2))])
    )
    assert grey.inputs.shape == (4, 1, 2, 2)


def test_a_random_transform_is_seeded_and_moves_no_stream(flat: Path) -> None:
    jitter = transforms.ColorJitter(brightness=0.9)
    state = torch.get_rng_state()
    hashes = [Probes.from_folder(str(flat), jitter, seed=seed).hash for seed in (0, 0, 1)]
    assert hashes[0] == hashes[1] != hashes[2]
    assert torch.equal(torch.get_rng_state(), state)


def test_masks_lie_beside(classes: Path) -> None:
    for name in ("ant/0", "ant/1", "cat/0", "dog/0", "dog/1", "dog/2"):
        put(classes / "masks" / f"{name}.bmp", 0, mode="L")
    masks = Probes.from_folder(str(classes)).masks
    assert masks is not None
    assert masks.shape == (6, 4, 6)
    assert masks.flatten(1).sum(dim=1).tolist() == [1] * 6
    assert masks[:, 0, 0].all()


def test_a_v2_transform_moves_image_and_mask_together(flat: Path) -> None:
    for name in ("a", "b", "c"):
        put(flat / "masks" / f"{name}.png", 0)
    probes = Probes.from_folder(str(flat), v2.Compose([v2.RandomHorizontalFlip(1.0), FLOATS]))
    assert probes.masks is not None
    assert probes.masks[:, 0, 5].all()
    assert (probes.inputs[:, :, 0, 5] == 1).all()
    with pytest.raises(
        ConfigurationError, match=r"\(2, 2\) after the transform, its mask \(4, 6\)"
    ):
        Probes.from_folder(str(flat), transforms.Resize((2, 2)))


def missing(tmp: Path) -> Path:
    return tmp / "nowhere"


def no_image(tmp: Path) -> Path:
    (tmp / "a.txt").write_text("")
    return tmp


def both(tmp: Path) -> Path:
    put(tmp / "a.png")
    put(tmp / "cat" / "b.png")
    return tmp


def sizes(tmp: Path) -> Path:
    put(tmp / "a.png")
    put(tmp / "b.png", size=(5, 5))
    return tmp


def broken(tmp: Path) -> Path:
    (tmp / "a.png").write_bytes(b"no image")
    return tmp


def one_mask(tmp: Path) -> Path:
    put(tmp / "a.png")
    put(tmp / "b.png")
    put(tmp / "masks" / "a.png")
    return tmp


@pytest.mark.parametrize(
    ("make", "more", "words"),
    [
        (missing, {}, "nowhere' is not a folder"),
        (no_image, {}, r"holds no image.*\.png"),
        (both, {}, r"holds images \(a.png, …\) and class folders \(cat, …\)"),
        (sizes, {}, r"a.png is \(3, 4, 6\), b.png is \(3, 5, 5\).*Resize"),
        (broken, {}, "a.png' can't be read as an image"),
        (one_mask, {}, "no mask for b.png"),
        (sizes, {"most": 0}, "most=0"),
        (sizes, {"transform": lambda image: 3}, "transform made an int of a.png"),
        (sizes, {"transform": lambda image: torch.rand(4, 4)}, r"shape \(4, 4\) of a.png"),
    ],
)
def test_errors(tmp_path: Path, make: Any, more: dict[str, Any], words: str) -> None:
    root = make(tmp_path)
    with pytest.raises(ConfigurationError, match=words):
        Probes.from_folder(str(root), **more)
