"""What a class looks like to a model: the picture that maximises its regularised score.

The other half of Simonyan, Vedaldi & Zisserman 2013 (arXiv 1312.6034, section 2). No image is
looked at: the pictures depend on the weights alone, so a series of them shows a concept form.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lightning_saliency.attribution import Subject
from lightning_saliency.attribution.arguments import check_between, check_whole, is_finite
from lightning_saliency.attribution.looking import Lockstep, full, look_once
from lightning_saliency.attribution.method import Look
from lightning_saliency.attribution.passes import CHUNK
from lightning_saliency.attribution.points import baseline_like
from lightning_saliency.errors import ConfigurationError
from lightning_saliency.observation import out_of_memory
from lightning_saliency.sighting import pooled
from lightning_saliency.targets import (
    Target,
    TargetName,
    check_classes,
    confidence,
    resolve_target,
)

PLACES = 112 * 112
"""Places (pixels) that a picture keeps at most: no cell that it is drawn in has more."""


@dataclass(frozen=True)
class ClassModel:
    """argmax_I S_c(I) − λ‖I − I₀‖² for each class c (Simonyan et al. 2013, eq. 1).

    In the model's own input space and units, arXiv 1312.6034. The ascent begins at the plain
    picture I₀, in normalised inputs the mean colour, and is the paper's gradient ascent in units in
    which no net needs another step: each goes a share of the way to I₀ + ∂S_c/∂I ÷ 2λ, the
    maximiser of the model linearised where it stands. For a linear model with weights w that is
    I₀ + w/2λ at once. The share falls evenly to nothing, so that the ascent settles, and of all
    pictures on the way the one with the highest objective is returned: never worse than I₀. Nothing
    is random but `jitter`, which is seeded.

    Passes: `steps` forward and backward, all classes as one batch, and one forward.
    Good for: seeing a concept form, or a shortcut that stands in for it.
    Misleads: it is one maximum of many, far from any photograph, and a high probability proves
        nothing by itself: in many nets noise reaches one.

    Args:
        classes: their indices, one picture each.
        steps: of the ascent, 1 or more.
        rate: the share of the way that the first step goes, above 0 and up to 1. Give less where a
            score is so curved that pictures stay plain.
        l2: λ, above 0. None for 1/√P with P the numbers of an input (channels × pixels): then a
            gradient of norm g ends at a root mean square of g/2, the contrast of a normalised
            photograph where g is about 2, whatever the size of the input.
        target: S, the unnormalised score of the paper by default: a probability is raised as well
            by lowering the other classes.
        mean: I₀, one number or one per channel: 0 of normalised inputs is the mean colour.
        jitter: each step looks at the picture shifted by up to so many pixels in each direction,
            around the edges: evens out what depends on the place of strides and pooling windows.
        blur: the σ in pixels of a Gaussian on each step: finer detail is left out.
        seed: of the shifts.

    Raises:
        ConfigurationError: an argument out of its range.
    """

    classes: Sequence[int]
    steps: int = 32
    rate: float = 1.0
    l2: float | None = None
    target: TargetName | Target | Callable[..., Any] = "logit"
    mean: float | Sequence[float] = 0.0
    jitter: int = 0
    blur: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", _checked_classes(self.classes))
        check_whole(self, "steps", self.steps, 1)
        check_whole(self, "jitter", self.jitter, 0)
        check_whole(self, "seed", self.seed, 0)
        check_between(self, "rate", self.rate, 1e-6, 1)
        check_between(self, "blur", self.blur, 0, 1e6)
        if self.l2 is not None:
            check_between(self, "l2", self.l2, 1e-30, 1e30)
        resolve_target(self.target)
        object.__setattr__(self, "mean", _checked_mean(self.mean))


class Ascent(NamedTuple):
    """What the ascent reached.

    Attributes:
        pictures: `(K, C, *spatial)`, one per class in its order, in the model's input space.
        scores: `(K,)`, S_c of each.
        probabilities: `(K,)`, that the model gives the class, 0..1; NaN where it gives none.
    """

    pictures: Tensor
    scores: Tensor
    probabilities: Tensor


def resolve_class_models(given: Sequence[int] | ClassModel | None) -> ClassModel | None:
    """What a user may write: indices of classes, or a `ClassModel` for more; None for none."""
    return given if given is None or isinstance(given, ClassModel) else ClassModel(given)


def class_models(
    model: nn.Module | Subject,
    classes: Sequence[int] | ClassModel,
    shape: Sequence[int],
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
    chunk: int = CHUNK,
    lockstep: Lockstep = nullcontext,
) -> Ascent:
    """Climb to the picture of each class, all classes together.

    Pure but for what a forward pass does to the model: put `observing` around it where that counts.

    Args:
        model: a module that maps `(N, C, *spatial)` to scores `(N, K)`, or a `Subject`.
        classes: their indices, or a `ClassModel` for other settings.
        shape: of one input, `(C, *spatial)`.
        dtype: of the model's inputs. The ascent itself is in float32, or float64 for that.
        device: where the model is; that of its first parameter when not given.
        chunk: classes per pass. Halved where memory runs out.
        lockstep: made around each step of the work, where ranks must take all steps together.

    Raises:
        ConfigurationError: a class that the model does not have, a shape that it can't take.
        NoGradientPathError: the score does not depend on the input.
    """
    how = classes if isinstance(classes, ClassModel) else ClassModel(classes)
    subject = model if isinstance(model, Subject) else Subject(model)
    subject = replace(subject, target=resolve_target(how.target))
    _check_given(shape, chunk)
    with lockstep():
        if device is None:
            device = next((one.device for one in subject.module.parameters()), "cpu")
        start = baseline_like(torch.empty(1, *shape, dtype=dtype, device=device), _mean(how))
        indices = torch.tensor(how.classes, device=device)
    _check_known(subject, start, indices, lockstep)
    parts = [
        ascent
        for part in torch.split(indices, chunk)
        for ascent in _ascents(subject, how, start, part, lockstep)
    ]
    return Ascent(*map(torch.cat, zip(*parts, strict=True)))


def as_bytes(ascent: Ascent, how: ClassModel, std: Sequence[float] | None = None) -> Tensor:
    """The pictures as a person sees them: `(K, C, *spatial)` of whole numbers 0..255, in float32.

    128 is the plain picture that the ascent began at. Each picture has its own scale, by the 99.5th
    percentile of its distances from that; they are clipped. Large pictures are averaged down.

    Args:
        ascent: what `class_models` found.
        how: the settings that it was found with.
        std: of the inputs' normalisation, one number or one per channel: colours are undone by it.
    """
    away = full(ascent.pictures) - baseline_like(full(ascent.pictures), _mean(how))
    if std is not None and len(std) in (1, away.shape[1]):
        away = away * away.new_tensor(std).view(1, -1, *[1] * (away.ndim - 2))
    away = pooled(away, skip=2, places=PLACES)
    ordered = away.flatten(1).abs().sort(1).values
    peak = ordered[:, round(0.995 * (ordered.shape[1] - 1))]
    peak = torch.where(peak > 0, peak, ordered[:, -1])
    peak = torch.where(peak > 0, peak, 1).view(-1, *[1] * (away.ndim - 1))
    return (128 + 127 * (away / peak).clamp(-1, 1)).round().float()


def _ascents(
    subject: Subject, how: ClassModel, start: Tensor, classes: Tensor, lockstep: Lockstep
) -> list[Ascent]:
    """That of all classes together, or of half of them and the other half."""
    try:
        return [_ascent(subject, how, start, classes, lockstep)]
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error) or len(classes) == 1:
            raise
    # Outside the handler: the traceback holds the activations that must go first.
    if start.device.type == "cuda":
        torch.cuda.empty_cache()
    halves = torch.chunk(classes, 2)
    return [one for half in halves for one in _ascents(subject, how, start, half, lockstep)]


def _ascent(
    subject: Subject, how: ClassModel, start: Tensor, classes: Tensor, lockstep: Lockstep
) -> Ascent:
    origin = full(start)
    decay = how.l2 if how.l2 is not None else start.numel() ** -0.5
    pictures = origin.expand(len(classes), *origin.shape[1:])
    best = Ascent(pictures, *pictures.new_full((2, len(classes)), torch.nan))
    highest = torch.full_like(best.scores, -torch.inf)
    for step, shifts in enumerate([*_shifts(how, start.ndim - 2), ()]):
        climbs, shown = step < how.steps, step == 0 or not any(shifts)
        with lockstep():
            moved = _rolled(pictures, shifts).to(start.dtype)
        seen = look_once(subject, Look(gradient=climbs), moved, classes, 0, lockstep)
        with lockstep():
            penalty = decay * (pictures - origin).square().flatten(1).sum(1)
            # What was seen shifted has another score where it stands; a plain picture has not.
            better = (seen.score - penalty > highest) | best.scores.isnan()
            better = better & shown
            highest = torch.where(better, seen.score - penalty, highest)
            reached = Ascent(pictures, seen.score, confidence(seen.outputs, classes))
            best = Ascent(*(_where(better, *pair) for pair in zip(reached, best, strict=True)))
            if climbs:
                uphill = _blurred(_rolled(seen.gradient, [-one for one in shifts]), how.blur)
                rate = how.rate * (1 - step / how.steps)
                pictures = torch.lerp(pictures, origin + uphill / (2 * decay), rate)
    return best


def _check_known(subject: Subject, start: Tensor, classes: Tensor, lockstep: Lockstep) -> None:
    """Raise before an index goes to the device that the model does not have."""
    try:
        with torch.no_grad():
            outputs = subject.scores(start)
    except ConfigurationError:
        raise
    except (RuntimeError, ValueError) as error:
        if out_of_memory(error):
            raise
        raise ConfigurationError(
            f"class_models: the model can't be called with a picture of the shape "
            f"{tuple(start.shape)}, {start.dtype}: {type(error).__name__}: {error}"
        ) from error
    with lockstep():
        check_classes(outputs, classes, f"class_models={classes.tolist()}")


def _check_given(shape: object, chunk: object) -> None:
    sides = shape if isinstance(shape, Sequence) else ()
    if len(sides) < 2 or not all(isinstance(one, int) and one > 0 for one in sides):
        raise ConfigurationError(
            f"class_models: shape={shape!r}; give that of one input, (C, *spatial), such as "
            "(3, 224, 224)."
        )
    if not isinstance(chunk, int) or chunk < 1:
        raise ConfigurationError(f"class_models: chunk={chunk!r}; give a whole number from 1 on.")


def _checked_classes(classes: object) -> tuple[int, ...]:
    if isinstance(classes, Tensor):
        classes = classes.tolist()
    known = tuple(classes) if isinstance(classes, Sequence) and not isinstance(classes, str) else ()
    whole = all(isinstance(one, int) and not isinstance(one, bool) and one >= 0 for one in known)
    if not known or not whole or len(set(known)) < len(known):
        raise ConfigurationError(
            f"class_models={classes!r}: give the indices of classes, each once, such as [0, 1, 2], "
            "or a ClassModel(classes=[0, 1, 2]) for other settings."
        )
    return known


def _checked_mean(mean: object) -> float | tuple[float, ...]:
    if is_finite(mean):
        return float(mean)
    if isinstance(mean, Sequence) and mean and all(map(is_finite, mean)):
        return tuple(map(float, mean))
    raise ConfigurationError(
        f"ClassModel(mean={mean!r}): give one finite number, or one per channel, in the units of "
        "the model's inputs."
    )


def _mean(how: ClassModel) -> float | tuple[float, ...]:
    return tuple(how.mean) if isinstance(how.mean, Sequence) else how.mean


def _shifts(how: ClassModel, dims: int) -> list[tuple[int, ...]]:
    """By how many pixels the picture is moved at each step."""
    generator = torch.Generator().manual_seed(how.seed)
    reach = (-how.jitter, how.jitter + 1)
    drawn = torch.randint(*reach, (how.steps, dims), generator=generator, device="cpu")
    return [tuple(one) for one in drawn.tolist()]


def _rolled(pictures: Tensor, shifts: Sequence[int]) -> Tensor:
    if not any(shifts):
        return pictures
    return pictures.roll(tuple(shifts), tuple(range(2, pictures.ndim)))


def _blurred(pictures: Tensor, sigma: float) -> Tensor:
    """A Gaussian of `sigma` pixels along each spatial dimension; at the edge what is there."""
    if sigma == 0:
        return pictures
    for dim in range(2, pictures.ndim):
        places = torch.arange(pictures.shape[dim], device=pictures.device, dtype=pictures.dtype)
        weights = (-((places[:, None] - places) ** 2) / (2 * sigma**2)).exp()
        weights = weights / weights.sum(1, keepdim=True)
        pictures = (pictures.movedim(dim, -1) @ weights.T).movedim(-1, dim)
    return pictures


def _where(chosen: Tensor, one: Tensor, other: Tensor) -> Tensor:
    return torch.where(chosen.view(-1, *[1] * (one.ndim - 1)), one, other)
