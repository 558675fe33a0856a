"""Read probes from a folder of images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torchvision import tv_tensors
from torchvision.datasets.folder import IMG_EXTENSIONS
from torchvision.transforms import v2
from torchvision.transforms.functional import pil_to_tensor, to_tensor

from lightning_saliency.errors import ConfigurationError
from lightning_saliency.probes.choose import take_turns
from lightning_saliency.probes.fields import describe
from lightning_saliency.probes.isolation import own_randomness
from lightning_saliency.probes.read import checked_count

MASKS = "masks"


class Folder(NamedTuple):
    """What was read: N images and what their folder says of them."""

    inputs: Tensor  # (N, C, H, W)
    targets: Tensor | None  # (N,) int64
    masks: Tensor | None  # (N, H, W) bool
    names: tuple[str, ...]  # paths within the folder
    classes: tuple[str, ...] | None


def read_folder(
    root: str | Path, transform: Callable[..., Any] | None, most: int | None, seed: int
) -> Folder:
    """Read the images of a folder; see `Probes.from_folder`."""
    base = Path(root).expanduser()
    if not base.is_dir():
        raise ConfigurationError(f"{str(root)!r} is not a folder; give one that holds images.")
    if most is not None:
        checked_count(most, "most")
    files, targets, classes = _listed(base)
    files = files[:most]
    with own_randomness(seed, *([] if transform is None else [transform])):
        pairs = [_read(file, _mask_of(file, base), transform) for file in files]
    names = tuple(file.relative_to(base).as_posix() for file in files)
    return Folder(
        inputs=_stacked([image for image, _ in pairs], names),
        targets=None if targets is None else targets[:most],
        masks=_masks([mask for _, mask in pairs], names),
        names=names,
        classes=classes,
    )


def _listed(base: Path) -> tuple[list[Path], Tensor | None, tuple[str, ...] | None]:
    """List the images, the classes in turns, with the class of each."""
    direct = _images(base)
    folders = sorted(f for f in base.iterdir() if f.is_dir() and not f.name.startswith("."))
    folders = [folder for folder in folders if folder.name != MASKS]
    by_class = [_images(folder) for folder in folders]
    within = [file for files in by_class for file in files]
    if direct and within:
        raise ConfigurationError(
            f"'{base}' holds images ({direct[0].name}, …) and class folders ({folders[0].name}, …)."
            " Put all images in the folder itself, or all in one folder per class."
        )
    if direct:
        return direct, None, None
    if not within:
        known = ", ".join(sorted(IMG_EXTENSIONS))
        raise ConfigurationError(
            f"'{base}' holds no image, neither itself nor in class folders. Known are {known}."
        )
    classes = torch.tensor([i for i, files in enumerate(by_class) for _ in files], device="cpu")
    order = take_turns(classes, len(within))
    names = tuple(folder.name for folder in folders)
    return [within[int(i)] for i in order], classes[order], names


def _images(folder: Path) -> list[Path]:
    found = (file for file in folder.iterdir() if file.suffix.lower() in IMG_EXTENSIONS)
    return sorted(file for file in found if file.is_file() and not file.name.startswith("."))


def _mask_of(file: Path, base: Path) -> Path | None:
    """Return the mask at the same place within `masks`, whatever its suffix; None without them."""
    if not (base / MASKS).is_dir():
        return None
    place = base / MASKS / file.relative_to(base).parent
    found = [one for one in _images(place) if one.stem == file.stem] if place.is_dir() else []
    if not found:
        raise ConfigurationError(
            f"'{place}' holds no mask for {file.name}. Give every image one of the same name, or "
            f"remove the folder '{MASKS}'."
        )
    return found[0]


def _read(
    file: Path, mask_file: Path | None, transform: Callable[..., Any] | None
) -> tuple[Tensor, Tensor | None]:
    image: Any = _opened(file, "RGB")
    mask: Any = None
    if mask_file is not None:
        mask = tv_tensors.Mask(pil_to_tensor(_opened(mask_file, "L")))
    if transform is not None and mask is not None and isinstance(transform, v2.Transform):
        image, mask = transform(image, mask)
    elif transform is not None:
        image = transform(image)
    tensor = to_tensor(image) if isinstance(image, Image.Image) else image
    if not isinstance(tensor, Tensor) or tensor.ndim != 3:
        raise ConfigurationError(
            f"transform made {describe(image)} of {file.name}; it should make an image or a "
            "(C, H, W) tensor."
        )
    if mask is not None and mask.shape[-2:] != tensor.shape[-2:]:
        raise ConfigurationError(
            f"{file.name} is {tuple(tensor.shape[-2:])} after the transform, its mask "
            f"{tuple(mask.shape[-2:])}. Give a transform of torchvision.transforms.v2, which moves "
            "both, or a mask of the final size."
        )
    return tensor.as_subclass(Tensor), None if mask is None else mask.as_subclass(Tensor)[0] != 0


def _opened(file: Path, mode: str) -> Image.Image:
    try:
        with Image.open(file) as image:
            converted: Image.Image = image.convert(mode)
            return converted
    except (UnidentifiedImageError, OSError) as error:
        raise ConfigurationError(f"'{file}' can't be read as an image: {error}.") from error


def _stacked(images: list[Tensor], names: tuple[str, ...]) -> Tensor:
    for image, name in zip(images, names, strict=True):
        if image.shape != images[0].shape:
            raise ConfigurationError(
                f"The images differ in size: {names[0]} is {tuple(images[0].shape)}, {name} is "
                f"{tuple(image.shape)}. Give transform=torchvision.transforms.Resize((224, 224)), "
                "or what the model was trained with."
            )
    return torch.stack(images)


def _masks(masks: list[Tensor | None], names: tuple[str, ...]) -> Tensor | None:
    present = [mask for mask in masks if mask is not None]  # all or none
    return _stacked(present, names) if present else None
