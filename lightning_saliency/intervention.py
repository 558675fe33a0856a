"""The intervention after a region alert: whether the model relies on what is in the region.

A map says that the score would react there. Here it is made to: what the region holds is exchanged
between examples, and covered. Forward passes alone; put `observing` around them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_saliency.attribution import Subject
from lightning_saliency.attribution.checking import check_call
from lightning_saliency.attribution.looking import Lockstep, full, look_once
from lightning_saliency.attribution.method import Look
from lightning_saliency.attribution.passes import CHUNK
from lightning_saliency.attribution.points import mix
from lightning_saliency.errors import ConfigurationError
from lightning_saliency.halving import in_chunks
from lightning_saliency.targets import predictions

GIVEN = 4
"""Strange contents that each example is seen with."""

SIGNIFICANT = 0.01
"""Below this p the text says that the model relies on the region."""

DRAWS = 9999
"""Permutations; the smallest p is one in so many and one."""


class Intervention(NamedTuple):
    """What became of N examples, on the CPU.

    Attributes:
        scores: `(N, 2 + GIVEN)`, the target's score as it is, covered, with each strange content;
            NaN for an example whose class all donors have.
        right: shares of the others whose prediction is the explained class: as they are, covered,
            and with strange contents.
        elsewhere: the fall of the mean score where ordinary cells are exchanged: median over cells.
        p: that own contents serve the score no better than strange ones; NaN without an example.
        covered: `(N, C, *spatial)`, the examples with the region covered.
        swapped: `(N, C, *spatial)`, the examples with the first of the strange contents.
    """

    scores: Tensor
    right: tuple[float, float, float]
    elsewhere: float
    p: float
    covered: Tensor
    swapped: Tensor

    @property
    def relies(self) -> bool:
        """Whether it may be said that the model relies on the region."""
        return self.p < SIGNIFICANT

    @property
    def falls(self) -> tuple[float, float]:
        """Of the mean score: covered, and with strange contents; any real, 0 none."""
        own, covered, *strange = self.scores.nanmean(0).tolist()
        return own - covered, own - sum(strange) / len(strange)

    def words(self) -> str:
        """What is said of it, in Markdown."""
        covered, swapped = self.falls
        own, hidden, strange = (f"{share:.0%}" for share in self.right)
        chance = f"p < {1 / DRAWS:.0e}" if self.p < 1.5 / DRAWS else f"p = {self.p:.2g}"
        verdict = (
            "**the model relies on it.**" if self.relies else "no sign that the model relies on it."
        )
        return (
            f"Exchanged between examples of different classes, what it holds takes {swapped:.2g} "
            f"from the score (elsewhere {self.elsewhere:.2g}) and leaves {strange} of the "
            f"predictions right of {own}; covered, {covered:.2g} and {hidden}. {chance}: {verdict}"
        )


def intervene(
    subject: Subject,
    inputs: Tensor,
    classes: Tensor,
    inside: Tensor,
    *,
    donors: tuple[Tensor, Tensor] | None = None,
    ordinary: Sequence[Tensor] = (),
    seed: int = 0,
    chunk: int = CHUNK,
    lockstep: Lockstep = nullcontext,
) -> Intervention:
    """Exchange and cover a region of examples, and test whether the score needs its own contents.

    Each example is seen as it is and with what `GIVEN` examples of other classes have there. If
    what the region holds says nothing about the class, its own contents are one of so many that
    could as well stand there: p is the share of random choices of an "own" one for each example
    that serve the sum of scores as well (a permutation test within each example; one-sided).

    Args:
        subject: the model and how it is called.
        inputs: `(N, C, *spatial)`.
        classes: `(N,)`, what is explained.
        inside: `(*spatial)` bool, the region.
        donors: inputs and classes of those whose contents are put there; the examples themselves
            when not given.
        ordinary: other regions, exchanged once each, to hold the fall against.
        seed: of the choices.
        chunk: examples per pass; halved where memory runs out.
        lockstep: made around each step of the work, where ranks must take all steps together.

    Raises:
        ConfigurationError: a region or donors that do not fit the inputs.
    """
    check_call(inputs, classes, chunk)
    strange, theirs = (inputs, classes) if donors is None else donors
    if inside.shape != inputs.shape[2:] or strange.shape[1:] != inputs.shape[1:]:
        raise ConfigurationError(
            f"a region {tuple(inside.shape)} and donors {tuple(strange.shape)} for inputs "
            f"{tuple(inputs.shape)}: the region has their sides, the donors their size."
        )
    with lockstep():
        inside = inside.to(inputs.device)
        chosen, apart = _chosen(classes.cpu(), theirs.cpu(), seed)
        chosen = chosen.to(inputs.device)

    def exchanged(region: Tensor, given: int) -> Callable[[slice], Tensor]:
        where = region.to(inputs.device)
        return lambda rows: torch.where(where, strange[chosen[rows, given]], inputs[rows])

    variants: list[Callable[[slice], Tensor]] = [
        lambda rows: inputs[rows],
        lambda rows: _covered(inputs[rows], inside),
        *(exchanged(inside, given) for given in range(GIVEN)),
        *(exchanged(region, 0) for region in ordinary),
    ]
    seen = [_seen(subject, one, classes, chunk, lockstep) for one in variants]
    with lockstep():
        score = torch.stack([one for one, _ in seen], 1).double().cpu()
        score[~apart] = torch.nan
        right = torch.stack([one for _, one in seen], 1).cpu()[apart].double().mean(0).tolist()
        own, falls = score[:, :1], (score[:, :1] - score[:, 2 + GIVEN :]).nanmean(0)
        return Intervention(
            score[:, : 2 + GIVEN],
            (right[0], right[1], sum(right[2 : 2 + GIVEN]) / GIVEN),
            float(falls.nanmedian()) if len(falls) else 0.0,
            exchange_p(torch.cat([own, score[:, 2 : 2 + GIVEN]], 1), seed=seed),
            _covered(inputs, inside).cpu(),
            exchanged(inside, 0)(slice(None)).cpu(),
        )


def exchange_p(values: Tensor, *, seed: int = 0) -> float:
    """How often a random choice of one value per row has a sum as large as that of the first ones.

    Exact under exchangeability within each row, up to the number of draws (`DRAWS`); ties count.

    Args:
        values: `(N, K)`; rows that are not finite are left out.
        seed: of the draws.

    Returns:
        1 / (DRAWS + 1) to 1; NaN without a finite row.
    """
    rows = values.double()[values.isfinite().all(1)]
    if not len(rows):
        return math.nan
    # Rows that hold one value many times are to give 0, not what rounding makes of it.
    rows = rows - rows.mean(1, keepdim=True)
    generator = torch.Generator().manual_seed(mix(seed))
    found, done, part = 0, 0, max(1, 1_000_000 // len(rows))
    tie = 1e-9 * float(rows.abs().sum())
    while done < DRAWS:
        draws = min(part, DRAWS - done)
        picked = torch.randint(rows.shape[1], (draws, len(rows)), generator=generator)
        sums = rows[torch.arange(len(rows)), picked].sum(1)
        found += int((sums >= rows[:, 0].sum() - tie).sum())
        done += draws
    return (1 + found) / (DRAWS + 1)


def _chosen(classes: Tensor, theirs: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """For each example `GIVEN` donors of other classes, in random order, and whether there are any.

    None twice where there are so many. Where all have one class, any donor is as good as another.

    Returns:
        `(N, GIVEN)` places, and `(N,)` bool.
    """
    generator = torch.Generator().manual_seed(mix(seed))
    other = classes[:, None] != theirs
    apart = other.any(1) | ~other.any()
    other |= ~other.any(1, keepdim=True)
    order = torch.rand(other.shape, generator=generator).masked_fill(~other, -1.0)
    ranked = order.argsort(1, descending=True)
    turn = torch.arange(GIVEN) % other.sum(1, keepdim=True)
    return ranked.gather(1, turn), apart


def _covered(inputs: Tensor, inside: Tensor) -> Tensor:
    """The examples with the region painted over in the mean colour of what is around it."""
    around = (~inside).float()
    dims = tuple(range(2, inputs.ndim))
    colour = (full(inputs) * around).sum(dims, keepdim=True) / around.sum().clamp(min=1)
    return torch.where(inside, colour.to(inputs.dtype), inputs)


def _seen(
    subject: Subject,
    variant: Callable[[slice], Tensor],
    classes: Tensor,
    chunk: int,
    lockstep: Lockstep,
) -> tuple[Tensor, Tensor]:
    """Of each example the score, and whether its class is what the model says: `(N,)` each."""

    def of_rows(rows: slice) -> tuple[Tensor, Tensor]:
        with lockstep():
            images = variant(rows)
        found = look_once(subject, Look(), images, classes[rows], 0, lockstep)
        with lockstep():
            return found.score, predictions(found.outputs) == classes[rows]

    parts = list(in_chunks(of_rows, len(classes), chunk, classes.device))
    return torch.cat([one for one, _ in parts]), torch.cat([one for _, one in parts])
