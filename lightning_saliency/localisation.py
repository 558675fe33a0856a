"""Where the object is, from nothing but a map: the salient region, a cut, a box.

Weakly supervised localisation of Simonyan, Vedaldi & Zisserman 2013 (arXiv 1312.6034, section 3.2),
and its error by the rule of the ImageNet challenge.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from lightning_saliency.errors import ConfigurationError, did_you_mean
from lightning_saliency.measures.numeric import defined, flat
from lightning_saliency.measures.shape import centroid, salient_area, smallest_region
from lightning_saliency.rendering import to_pictures

Cut = Literal["grabcut"]


class Region(NamedTuple):
    """The smallest region that holds a share of a map's mass.

    Attributes:
        mask: `(N, *spatial)` bool; empty where the map is constant or not finite.
        area: `(N,)` its share of the map's area, 0..1; NaN where it is empty.
    """

    mask: Tensor
    area: Tensor


class Localisation(NamedTuple):
    """Where the objects are.

    Attributes:
        masks: `(N, H, W)` bool; empty where the map says nothing.
        boxes: `(N, 4)` int64 (x0, y0, x1, y1): the first pixel inside and the first one behind, so
            that x1 − x0 is the width; all 0 for an empty mask.
    """

    masks: Tensor
    boxes: Tensor


def salient_region(maps: Tensor, share: float = 0.5) -> Region:
    """The fewest pixels that hold `share` of the mass of each map.

    Args:
        maps: `(N, *spatial)`, read by their absolute value. Of equal pixels the first are taken.
        share: of the mass, above 0 and up to 1.
    """
    return Region(smallest_region(maps, share), salient_area(maps, share))


def localise(
    maps: Tensor,
    images: Tensor,
    *,
    foreground: float = 0.95,
    background: float = 0.30,
    cut: Cut | None = "grabcut",
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
) -> Localisation:
    """The object in each image: seeds by the map, the rest by colour, the largest connected part.

    As in the paper: pixels above the `foreground` quantile of the map are object, those below the
    `background` quantile are not; mixtures of Gaussians of the colours of both decide on the rest
    by one cut of the graph of pixels (Boykov & Jolly 2001; OpenCV's, with the mixtures learnt from
    the seeds alone); the largest connected part is the object. Seeds stay what they are.

    Without a cut no colour is looked at: the object is the largest connected part of the pixels
    above the `foreground` quantile.

    Args:
        maps: `(N, h, w)`, read by their absolute value. Coarser ones are brought to the size of the
            image bilinearly.
        images: `(N, C, H, W)`: the model's inputs, or pictures.
        foreground: 0..1; the highest pixel is always above it. One where the map is 0 is never a
            seed of the object.
        background: 0..1, not above `foreground`. Of pixels with equal values, such as the many
            zeros of a map that is sparse, those farther from its centre of mass count as lower.
        cut: ``grabcut`` needs OpenCV (the extra `localisation`) and works on the CPU. It seeds
            OpenCV's own random numbers, so that equal maps give equal boxes.
        mean: of the inputs' normalisation, which is undone.
        std: of the same.

    Returns:
        Masks and boxes on the device of the maps.

    Raises:
        ConfigurationError: an argument out of its range, shapes that do not fit, no OpenCV.
    """
    _check(maps, images, foreground, background, cut)
    cv2 = _opencv() if cut == "grabcut" else None
    sized = _magnitudes(maps, images.shape[2:])
    front, back = _seeds(sized, foreground, background)
    if cv2 is not None:
        pictures = to_pictures(images, mean, std)
        seeds = zip(pictures, front.cpu().numpy(), back.cpu().numpy(), strict=True)
        found = np.stack([_grabcut(cv2, *one) for one in seeds])
        front = torch.from_numpy(found).to(maps.device)
    masks = largest_component(front)
    return Localisation(masks, boxes_of(masks))


def largest_component(masks: Tensor) -> Tensor:
    """The largest connected part of each mask `(N, *spatial)`; of equal ones the first.

    Pixels are neighbours that share a side (a face in volumes). On the mask's device.
    """
    if not masks.numel():
        return masks.clone()
    pixels = masks[0].numel()
    places = torch.arange(1, pixels + 1, device=masks.device).view(masks.shape[1:])
    parts = places * masks  # each part will bear the number of its last pixel; 0 is outside
    known = None
    while known is None or not torch.equal(parts, known):
        known = parts
        for dim in range(1, masks.ndim):
            length = masks.shape[dim]
            ahead, behind = parts.narrow(dim, 1, length - 1), parts.narrow(dim, 0, length - 1)
            most = torch.maximum(ahead, behind) * ((ahead > 0) & (behind > 0))
            parts = parts.clone()
            parts.narrow(dim, 1, length - 1).copy_(torch.maximum(ahead, most))
            later = parts.narrow(dim, 0, length - 1)
            later.copy_(torch.maximum(later, most))
        # What a pixel's own number was joined with, it is joined with: paths halve at each turn.
        rows = F.pad(parts.flatten(1), (1, 0))
        parts = rows.gather(1, rows)[:, 1:].view_as(parts)
    rows = parts.flatten(1)
    sizes = torch.zeros(len(rows), pixels + 1, dtype=torch.long, device=rows.device)
    sizes.scatter_add_(1, rows, torch.ones_like(rows))
    own = sizes.gather(1, rows) * (rows > 0)
    first = own.max(1, keepdim=True).indices
    return (rows == rows.gather(1, first)).view_as(masks) & masks


def boxes_of(masks: Tensor) -> Tensor:
    """The smallest box around each mask `(N, H, W)`: `(N, 4)` as in `Localisation`."""
    ends = []
    for others in (1, 2):  # across rows for x, across columns for y
        line = masks.any(others).long()
        length = line.shape[1]
        low, high = line.argmax(1), length - line.flip(1).argmax(1)
        ends.append((low, high))
    (x0, x1), (y0, y1) = ends
    return torch.stack([x0, y0, x1, y1], 1) * masks.flatten(1).any(1)[:, None]


def localisation_error(
    boxes: Tensor,
    truth: Tensor,
    *,
    predicted: Tensor | None = None,
    labels: Tensor | None = None,
    overlap: float = 0.5,
) -> Tensor:
    """Share of the images whose object was not found, 0 to 1: the rule of the ImageNet challenge.

    An image is right where a guessed box and a true one overlap by more than `overlap`, by their
    intersection over their union, and, with classes, where the class of that guess is right.

    Args:
        boxes: `(N, 4)`, or `(N, G, 4)` with G guesses (the challenge has five).
        truth: `(N, 4)`, or `(N, T, 4)` with T objects, any of which may be found; rows of zeros or
            of NaN where an image has fewer.
        predicted: `(N,)` or `(N, G)`, the class of each guess; with `labels`, or neither.
        labels: `(N,)`, the class of the image.
        overlap: 0..1.

    Returns:
        0-dim float32.
    """
    guesses, objects = _grouped("boxes", boxes), _grouped("truth", truth)
    if len(guesses) != len(objects) or not len(guesses):
        raise ConfigurationError(
            f"boxes {tuple(boxes.shape)} and truth {tuple(truth.shape)}: give one or more boxes "
            "for each of the same images, (N, 4) or (N, boxes, 4)."
        )
    right = (_iou(guesses, objects) > overlap).any(2)
    if (predicted is None) != (labels is None):
        raise ConfigurationError(
            "predicted=… and labels=… go together: the class of each guess, and of each image."
        )
    if predicted is not None and labels is not None:
        classes = predicted.reshape(len(guesses), -1)
        if classes.shape[1] not in (1, guesses.shape[1]) or labels.shape != (len(guesses),):
            raise ConfigurationError(
                f"predicted {tuple(predicted.shape)} and labels {tuple(labels.shape)} for boxes "
                f"{tuple(boxes.shape)}: give one class for each guess, and one for each image."
            )
        right = right & (classes == labels[:, None])
    return 1 - right.any(1).float().mean()


def _grouped(name: str, boxes: Tensor) -> Tensor:
    if boxes.ndim not in (2, 3) or boxes.shape[-1] != 4:
        raise ConfigurationError(
            f"{name} has the shape {tuple(boxes.shape)}; give (N, 4) or (N, boxes, 4), each box "
            "(x0, y0, x1, y1)."
        )
    return (boxes if boxes.ndim == 3 else boxes[:, None]).float()


def _iou(guesses: Tensor, objects: Tensor) -> Tensor:
    """Intersection over union `(N, G, T)`; 0 of a box without an area, NaN of one of NaN."""
    one, other = guesses[:, :, None], objects[:, None]
    low, high = (
        torch.maximum(one[..., :2], other[..., :2]),
        torch.minimum(one[..., 2:], other[..., 2:]),
    )
    shared = (high - low).clamp(min=0).prod(-1)
    areas = [(boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(-1) for boxes in (one, other)]
    union = areas[0] + areas[1] - shared
    return shared / union.where(union > 0, 1)


def _check(maps: Tensor, images: Tensor, foreground: float, background: float, cut: object) -> None:
    if maps.ndim != 3 or images.ndim != 4 or len(maps) != len(images) or not len(maps):
        raise ConfigurationError(
            f"maps {tuple(maps.shape)} and images {tuple(images.shape)}: localise takes one map "
            "(N, h, w) for each image (N, C, H, W)."
        )
    if not 0 <= background <= foreground < 1:
        raise ConfigurationError(
            f"foreground={foreground} and background={background}: give quantiles of the map, "
            "0 ≤ background ≤ foreground < 1, such as 0.95 and 0.3."
        )
    if cut is not None and cut not in get_args(Cut):
        raise ConfigurationError(f"cut={cut!r}. {did_you_mean(cut, get_args(Cut))} Or None.")


def _opencv() -> Any:
    try:
        return import_module("cv2")
    except ImportError as error:
        raise ConfigurationError(
            "cut='grabcut' needs OpenCV, which is not installed. Install it with "
            "pip install 'lightning-saliency[localisation]', or use cut=None, which looks at no "
            "colours."
        ) from error


def _magnitudes(maps: Tensor, size: Sequence[int]) -> Tensor:
    """The maps by their absolute value at the size of the images; undefined ones are all zero."""
    rows = flat(maps).abs().view(maps.shape)
    rows = torch.where(defined(maps)[:, None, None], rows, torch.zeros_like(rows))
    if rows.shape[1:] == tuple(size):
        return rows
    return F.interpolate(rows[:, None], tuple(size), mode="bilinear", align_corners=False)[:, 0]


def _seeds(maps: Tensor, foreground: float, background: float) -> tuple[Tensor, Tensor]:
    """Pixels that are object, and that are not, by their rank in the map."""
    rows = maps.flatten(1)
    pixels = rows.shape[1]
    places = torch.arange(pixels, device=maps.device)
    at = torch.stack([places // maps.shape[2], places % maps.shape[2]], 1)
    far = (at - centroid(maps)[:, None]).square().sum(2).nan_to_num(0.0)
    order = far.argsort(dim=1, descending=True, stable=True)
    order = order.gather(1, rows.gather(1, order).argsort(dim=1, stable=True))
    rank = torch.empty_like(order).scatter_(1, order, places.expand_as(order))
    # Of few pixels none may be above the quantile: the highest is object then.
    first = min(round(foreground * pixels), pixels - 1)
    front = (rank >= first) & (rows > 0)
    back = rank < min(round(background * pixels), first)
    return front.view_as(maps), back.view_as(maps)


def _grabcut(
    cv2: Any, picture: NDArray[np.uint8], front: NDArray[np.bool_], back: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """The pixels on the object's side of the cut."""
    if not front.any() or not back.any():
        return front
    mask = np.full(front.shape, cv2.GC_PR_BGD, np.uint8)
    mask[back], mask[front] = cv2.GC_BGD, cv2.GC_FGD
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.setRNGSeed(0)
    # The mixtures see the seeds alone, as a picture of one row: undecided pixels teach no colour.
    known = front | back
    colours, sides = picture[known][None], mask[known][None]
    cv2.grabCut(colours, sides, None, *models, 0, cv2.GC_INIT_WITH_MASK)
    cv2.grabCut(picture, mask, None, *models, 1, cv2.GC_EVAL_FREEZE_MODEL)
    found: NDArray[np.bool_] = (mask == cv2.GC_FGD) | (mask == cv2.GC_PR_FGD)
    return found
