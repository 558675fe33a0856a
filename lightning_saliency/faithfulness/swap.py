"""Whether the model needs the background: objects put on the backgrounds of other classes."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from lightning_saliency.attribution import Subject
from lightning_saliency.attribution.checking import check_call
from lightning_saliency.attribution.looking import Lockstep, full, look_once
from lightning_saliency.attribution.method import Look
from lightning_saliency.attribution.passes import CHUNK
from lightning_saliency.attribution.points import mix
from lightning_saliency.errors import ConfigurationError
from lightning_saliency.halving import in_chunks
from lightning_saliency.measures.numeric import nan_unless


def context_swap_gap(
    model: nn.Module | Subject,
    inputs: Tensor,
    targets: Tensor,
    masks: Tensor,
    *,
    share: Sequence[int] | None = None,
    seed: int = 0,
    chunk: int = CHUNK,
    lockstep: Lockstep = nullcontext,
) -> Tensor:
    """Fall of the margin when the background is that of a probe of another class; any real, 0 none.

    In the units of the subject's target (log-odds, for the margin). Each object is put, by its
    mask, on another probe's background, whose own object is first painted over with the mean colour
    of what is around it. Every background is used once (a derangement, the same at every
    observation). A part of the fall is the seam: compare observations, not with 0. After the
    background challenge of Xiao et al. 2021 (2006.09994).

    Args:
        model: a module that maps `(N, C, *spatial)` to scores `(N, K)`, or a `Subject`.
        inputs: `(N, C, *spatial)`, of all probes.
        targets: `(N,)` class indices.
        masks: `(N, *spatial)`, not 0 on the object; of shares 0..1, at least half.
        share: the probes to look at; all when not given.
        seed: of the choice.
        chunk: probes per pass. Halved where memory runs out.
        lockstep: made around each step of the work, where ranks must take all steps together.

    Returns:
        `(N,)`, or one per probe of `share`; NaN for a probe whose mask or whose partner's is empty
        or covers everything, and for those of a class that more than half of the probes have, for
        which no partner is left.

    Raises:
        ConfigurationError: masks that do not fit the inputs.
    """
    subject = model if isinstance(model, Subject) else Subject(model)
    check_call(inputs, targets, chunk)
    if masks.shape != (len(inputs), *inputs.shape[2:]):
        raise ConfigurationError(
            f"masks {tuple(masks.shape)} for inputs {tuple(inputs.shape)}: give one per probe, of "
            "the same size, without channels."
        )
    chosen = list(range(len(inputs)) if share is None else share)
    with lockstep():
        partner = other_class(targets, seed)
        places = torch.tensor(chosen, device=targets.device)
        inside = masks.to(inputs.device)
        inside = inside >= 0.5 if masks.is_floating_point() else inside != 0
        split = inside.flatten(1).any(1) & ~inside.flatten(1).all(1)
        known = (targets[partner] != targets) & split & split[partner]

    def of_rows(rows: slice) -> Tensor:
        with lockstep():
            here = places[rows]
            there = partner[here]
            own, classes = inputs[here], targets[here]
            swapped = _on(own, inside[here], inputs[there], inside[there])
        before, after = (
            look_once(subject, Look(), images, classes, 0, lockstep).score
            for images in (own, swapped)
        )
        with lockstep():
            return nan_unless(known[here], before - after)

    return torch.cat(list(in_chunks(of_rows, len(chosen), chunk, inputs.device)))


def other_class(targets: Tensor, seed: int) -> Tensor:
    """For each of N probes another of a different class, each once: `(N,)` places.

    In order of their classes and at random within one, all are moved on by a random step that is no
    shorter than the largest class, nor longer than the rest. Where one class has more than half of
    all, some meet their own.
    """
    generator = torch.Generator().manual_seed(mix(seed))
    count = len(targets)
    order = torch.randperm(count, generator=generator, device="cpu").to(targets.device)
    order = order[targets[order].argsort(stable=True)]
    largest = (targets[:, None] == targets).sum(1).amax()
    way = torch.rand((), generator=generator, dtype=torch.float64, device="cpu")
    room = (count - 2 * largest + 1).clamp(min=1)
    # In float32, since not every device has more: it may round up to 1.
    longer = (way.to(targets.device, torch.float32) * room).floor().long().clamp(max=room - 1)
    step = largest + longer
    there = order[(torch.arange(count, device=targets.device) + step) % count]
    return torch.empty_like(order).scatter_(0, order, there)


def _on(objects: Tensor, inside: Tensor, scenes: Tensor, covered: Tensor) -> Tensor:
    """Objects on the backgrounds of other scenes, whose own objects are painted over."""
    around, dims = (~covered)[:, None], tuple(range(2, scenes.ndim))
    count = around.sum(dims, keepdim=True)
    # Float16 holds no sum over a large image.
    total = torch.where(around, full(scenes), 0).sum(dims, keepdim=True)
    colour = (total / count.clamp(min=1)).to(scenes.dtype)
    background = torch.where(around, scenes, colour)
    return torch.where(inside[:, None], objects, background)
