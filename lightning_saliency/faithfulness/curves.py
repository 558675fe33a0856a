"""The areas under the insertion and the deletion curve of maps."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from lightning_saliency.attribution import Subject
from lightning_saliency.attribution.arguments import (
    check_between,
    check_whole,
    is_finite,
)
from lightning_saliency.attribution.checking import check_call
from lightning_saliency.attribution.looking import Lockstep, full, look_once
from lightning_saliency.attribution.method import Look
from lightning_saliency.attribution.passes import CHUNK
from lightning_saliency.attribution.paths import blurred
from lightning_saliency.attribution.points import baseline_like, mix
from lightning_saliency.errors import ConfigurationError
from lightning_saliency.halving import in_chunks
from lightning_saliency.measures.numeric import averaged, defined, flat, nan_unless
from lightning_saliency.targets import confidence, tells_classes

Baseline = Literal["blur"] | float | tuple[float, ...]


@dataclass(frozen=True)
class Faithfulness:
    """How the areas under the insertion and the deletion curve are taken (Petsiuk et al. 2018).

    The places of a map, at its own resolution, are uncovered (inserted) or hidden (deleted) from
    its highest value down, in `steps` equal parts; ties fall in random order. The score is the
    probability of the class, as a share of that of the whole image.

    Passes: 2 × (`steps` − 1) forward per method, as many once more for each resolution of maps (the
    null: the same places in random order), and 3.

    Args:
        steps: of a curve, 1 or more. The area is that of the trapezoids between them.
        insertion: what the image is uncovered from, in the model's input space: ``blur``, or one
            number, or one per channel.
        deletion: what hides: the same. 0 of a normalised input is the mean colour.
        sigma: of the blur in pixels, above 0; an eighth of the longest side when not given.
        seed: of the random orders, which are the same at every observation.

    Raises:
        ConfigurationError: an argument out of its range.
    """

    steps: int = 16
    insertion: Baseline = "blur"
    deletion: Baseline = 0.0
    sigma: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_whole(self, "steps", self.steps, 1)
        check_whole(self, "seed", self.seed, 0)
        for name in ("insertion", "deletion"):
            given = getattr(self, name)
            given = tuple(given) if isinstance(given, list) else given
            object.__setattr__(self, name, given)
            levels = given if isinstance(given, tuple) else (given,)
            if given != "blur" and not (levels and all(map(is_finite, levels))):
                raise ConfigurationError(
                    f"Faithfulness({name}={given!r}): give 'blur', a number, or a tuple of one "
                    "number per channel."
                )
        if self.sigma is not None:
            check_between(self, "sigma", self.sigma, 1e-3, 1e6)

    def check(self, channels: int) -> None:
        """Raise a `ConfigurationError` unless baselines are one number, or one per channel."""
        for name in ("insertion", "deletion"):
            given = getattr(self, name)
            if isinstance(given, tuple) and len(given) != channels:
                raise ConfigurationError(
                    f"Faithfulness({name}={given}) has {len(given)} numbers, the inputs have "
                    f"{channels} channels: give one number, or one per channel."
                )


class Faithful(NamedTuple):
    """What was found of one method's maps of N probes, all `(N,)`; NaN where undefined.

    Undefined is the number of a constant or non-finite map, and of a class to which the model gives
    no probability; all are, without a pass, where the target tells no classes.

    Attributes:
        insertion: area under the curve minus that of a random order: above 0 is better than chance.
        deletion: the same of deletion: *below* 0 is better than chance.
        insertion_chance: the area under the curve of the random order itself, about 0 to 1.
        deletion_chance: the same of deletion.
    """

    insertion: Tensor
    deletion: Tensor
    insertion_chance: Tensor
    deletion_chance: Tensor


def faithfulness(
    model: nn.Module | Subject,
    maps: Mapping[str, Tensor],
    inputs: Tensor,
    targets: Tensor,
    how: Faithfulness | None = None,
    *,
    first: int = 0,
    chunk: int = CHUNK,
    lockstep: Lockstep = nullcontext,
) -> dict[str, Faithful]:
    """Insertion and deletion of several methods' maps of the same probes.

    Args:
        model: a module that maps `(N, C, *spatial)` to scores `(N, K)`, or a `Subject`.
        maps: method name → `(N, *any)`, of the inputs' number of spatial dimensions, at any
            resolution. The higher a value, the sooner its place: signs count.
        inputs: `(N, C, *spatial)`, in the model's dtype, on its device.
        targets: `(N,)` class indices on the same device.
        how: the settings.
        first: the place of the first input among all probes: its random order depends on that.
        chunk: probes per pass. Halved where memory runs out.
        lockstep: made around each step of the work, where ranks must take all steps together.

    Raises:
        ConfigurationError: maps, inputs and targets that do not fit each other.
    """
    how = how or Faithfulness()
    subject = model if isinstance(model, Subject) else Subject(model)
    check_call(inputs, targets, chunk)
    how.check(inputs.shape[1])
    _check_maps(maps, inputs)
    if not tells_classes(subject.target):
        unknown = torch.full((len(inputs),), torch.nan, device=inputs.device)
        return {name: Faithful(unknown, unknown, unknown, unknown) for name in maps}

    def of_rows(rows: slice) -> dict[str, Faithful]:
        part = {name: one[rows] for name, one in maps.items()}
        work = _Curves(subject, inputs[rows], targets[rows], how, lockstep)
        return work.of_all(part, first + rows.start)

    parts = list(in_chunks(of_rows, len(inputs), chunk, inputs.device))
    return {
        name: Faithful(*map(torch.cat, zip(*(part[name] for part in parts), strict=True)))
        for name in maps
    }


class _Curves:
    """The curves of one chunk of probes."""

    def __init__(
        self,
        subject: Subject,
        inputs: Tensor,
        targets: Tensor,
        how: Faithfulness,
        lockstep: Lockstep,
    ) -> None:
        self._subject, self._inputs, self._targets = subject, inputs, targets
        self._how, self._lockstep = how, lockstep

    def of_all(self, maps: Mapping[str, Tensor], first: int) -> dict[str, Faithful]:
        """Those of all methods; one of random order for each resolution."""
        whole = self._score(self._inputs)
        with self._lockstep():
            uncovered, hidden = (
                _baseline(self._inputs, given, self._how.sigma)
                for given in (self._how.insertion, self._how.deletion)
            )
        ends = self._score(uncovered), self._score(hidden)
        chance: dict[torch.Size, list[Tensor]] = {}
        found = {}
        for name, one in maps.items():
            spatial = one.shape[1:]
            with self._lockstep():
                random = _random_ranks(spatial, len(one), self._how.seed, first).to(one.device)
                ranks = {"": random} if spatial not in chance else {}
                ranks[name] = _ranks(one, random)
            areas = {
                key: [
                    self._area(each.view(one.shape), start, end, whole)
                    for start, end in (
                        ((uncovered, ends[0]), (self._inputs, whole)),
                        ((self._inputs, whole), (hidden, ends[1])),
                    )
                ]
                for key, each in ranks.items()
            }
            chance.setdefault(spatial, areas.get("", []))
            null = chance[spatial]
            with self._lockstep():
                known = defined(one)
                numbers = [area - by for area, by in zip(areas[name], null, strict=True)]
                found[name] = Faithful(*(nan_unless(known, each) for each in (*numbers, *null)))
        return found

    def _area(
        self,
        ranks: Tensor,
        start: tuple[Tensor, Tensor],
        end: tuple[Tensor, Tensor],
        whole: Tensor,
    ) -> Tensor:
        """Area under the curve from one image to another, in the order of `ranks`: `(n,)`."""
        places = ranks[0].numel()
        counts = [step * places // self._how.steps for step in range(self._how.steps + 1)]
        area, before = torch.zeros_like(whole), start[1]
        for last, count in pairwise(counts):
            if count == last:
                continue
            if count == places:
                score = end[1]
            else:
                with self._lockstep():
                    shown = averaged((ranks < count).to(full(start[0]).dtype), start[0].shape[2:])
                    mixed = torch.lerp(full(start[0]), full(end[0]), shown[:, None])
                score = self._score(mixed.to(start[0].dtype))
            with self._lockstep():
                area, before = area + (before + score) * (count - last) / (2 * places), score
        with self._lockstep():
            return area / whole.where(whole > 0, torch.nan)

    def _score(self, inputs: Tensor) -> Tensor:
        evidence = look_once(self._subject, Look(), inputs, self._targets, 0, self._lockstep)
        with self._lockstep():
            return confidence(evidence.outputs, self._targets)


def _baseline(inputs: Tensor, given: Baseline, sigma: float | None) -> Tensor:
    if isinstance(given, str):
        width = max(inputs.shape[2:]) / 8 if sigma is None else sigma
        images = full(inputs)
        # Outside the image is nothing, and nothing has no weight.
        weight = blurred(torch.ones_like(images[:1, :1]), width)
        return (blurred(images, width) / weight).to(inputs.dtype)
    return baseline_like(inputs, given)


def _random_ranks(spatial: torch.Size, count: int, seed: int, first: int) -> Tensor:
    """The place of each pixel in a random order of its probe: `(n, P)`, on the CPU."""
    generator, orders = torch.Generator(), []
    for row in range(count):
        generator.manual_seed(mix(seed, first + row))
        orders.append(torch.randperm(spatial.numel(), generator=generator, device="cpu"))
    return torch.stack(orders)


def _ranks(maps: Tensor, random: Tensor) -> Tensor:
    """The place of each pixel from the highest value down: `(n, P)`; equal ones as in `random`."""
    chance = random.argsort(dim=1)
    shuffled = flat(maps).gather(1, chance)
    order = chance.gather(1, shuffled.argsort(dim=1, descending=True, stable=True))
    places = torch.arange(order.shape[1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places)


def _check_maps(maps: Mapping[str, Tensor], inputs: Tensor) -> None:
    for name, one in maps.items():
        if len(one) != len(inputs) or one.ndim != inputs.ndim - 1:
            raise ConfigurationError(
                f"maps['{name}'] has the shape {tuple(one.shape)} for inputs "
                f"{tuple(inputs.shape)}: give (N, *spatial), with as many spatial dimensions."
            )
