"""Several points in one pass: few probes leave an accelerator idle, and its time is per pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from lightning_saliency.attribution.looking import Lockstep, full, look_once
from lightning_saliency.attribution.method import Evidence, Look
from lightning_saliency.attribution.points import Clean
from lightning_saliency.attribution.rules import Plain
from lightning_saliency.attribution.subject import Subject


def room(probes: int, chunk: int, device: torch.device) -> int:
    """How many points a pass takes, so that it has no more than `chunk` rows.

    One on a CPU: there, time is per row, and a smaller pass stays in the cache.
    """
    return 1 if device.type == "cpu" else max(1, chunk // probes)


def folded(looks: Sequence[Look], copies: int, shape: torch.Size) -> Iterator[Sequence[Look]]:
    """Looks in their order, next ones together that want the same: up to `copies` at a time.

    The clean input stays alone: what is seen there must not depend on what else is looked at.

    Args:
        looks: in the order in which they are wanted.
        copies: how many points a pass takes.
        shape: of the probes.
    """
    group: list[Look] = []
    for look in looks:
        if group and (len(group) == copies or not _fit(group[0], look, shape)):
            yield group
            group = []
        group.append(look)
    if group:
        yield group


def _fit(one: Look, other: Look, shape: torch.Size) -> bool:
    alone = any(look.point == Clean() or look.point.is_one for look in (one, other))
    if alone or one.point.shape_of(shape) != other.point.shape_of(shape):
        return False
    return one.rule == Plain() and replace(one, point=other.point) == other


def look_together(
    subject: Subject,
    looks: Sequence[Look],
    inputs: Tensor,
    targets: Tensor,
    first: int,
    lockstep: Lockstep,
) -> Iterator[Evidence]:
    """The evidence of each of `looks`, which `folded` put together, out of one pass."""
    if len(looks) == 1:
        yield look_once(subject, looks[0], inputs, targets, first, lockstep)
        return
    with lockstep(), torch.no_grad():
        moved = torch.cat([look.point.at(inputs, first) for look in looks])
    there = replace(looks[0], point=Clean())  # the rows are where they are looked at
    seen = look_once(subject, there, moved, targets.repeat(len(looks)), first, lockstep)
    probes = full(inputs)
    for number, look in enumerate(looks):
        rows = slice(number * len(inputs), (number + 1) * len(inputs))
        yield replace(
            seen,
            point=look.point,
            probes=probes,
            inputs=seen.inputs[rows],
            score=seen.score[rows],
            outputs=seen.outputs[rows],
            gradient=seen.gradient[rows],
            activations={name: one[rows] for name, one in seen.activations.items()},
            layer_gradients={name: one[rows] for name, one in seen.layer_gradients.items()},
            attention=tuple(one[rows] for one in seen.attention),
            attention_gradients=tuple(one[rows] for one in seen.attention_gradients),
        )
