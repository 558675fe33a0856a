"""How little a method reacts to random weights (Adebayo et al. 2018): a warning, once per run.

A method whose maps stay what they are when the weights are drawn anew shows the image, and not what
the model learned.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from lightning_saliency.attribution import AnyMethod, Subject
from lightning_saliency.attribution.passes import CHUNK, in_chunks
from lightning_saliency.measures.observer import agreement
from lightning_saliency.redrawn import redrawn
from lightning_saliency.sighting import pooled

INSENSITIVE = 0.5
"""Rank correlation with the maps of random weights above which it is told."""


def method_sanity(
    subject: Subject,
    inputs: Tensor,
    targets: Tensor,
    methods: Mapping[str, AnyMethod],
    maps: Mapping[str, Tensor],
    *,
    seed: int = 0,
    first: int = 0,
    chunk: int = CHUNK,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Tensor]:
    """How alike each method's maps of a model and of the same model with random weights are.

    Call it inside `observing`, and only where `redrawn.reason_to_keep` gives no reason: so never
    where ranks share the weights. Costs the methods' passes once more, and the memory of the
    weights.

    Args:
        subject: the model and how it is called.
        inputs: `(n, C, *spatial)`.
        targets: `(n,)` class indices.
        methods: bound ones, as for `in_chunks`.
        maps: method name → `(n, *any)`, its maps of these inputs with the model's own weights.
        seed: of the weights.
        first: the place of the first input among all probes, as for `in_chunks`.
        chunk: probes per pass. Halved when memory runs out.
        progress: called with the passes done and their number.

    Returns:
        Method name → `(n,)`, the `agreement` of the magnitudes: −1..1, 0 no more than two unrelated
        maps, 1 the weights do not matter; NaN where either map is constant or not finite.

    Raises:
        ConfigurationError: weights that can't be put aside.
    """
    found: dict[str, list[Tensor]] = {name: [] for name in methods}
    done = 0
    with redrawn(subject.module, seed=seed):
        for part in in_chunks(
            subject,
            inputs,
            targets,
            methods,
            chunk=chunk,
            first=first,
            predictions=False,
            progress=progress,
        ):
            rows = slice(done, done + part.chunk)
            for name, one in part.maps.items():
                found[name].append(agreement(maps[name][rows], pooled(one.map, skip=1)))
            done = rows.stop
    return {name: torch.cat(each) for name, each in found.items()}


def warning(name: str, similarity: float, drift: float) -> str:
    """What is to be said of a method; "" where nothing is.

    Args:
        name: of the method.
        similarity: the median over probes.
        drift: of its signed maps from those of random weights, the median; NaN where not known.
    """
    if not similarity > INSENSITIVE:
        return ""
    said = (
        f"'{name}' shows the image more than what the model learned: its maps are large where "
        f"those of random weights are (rank correlation {similarity:.2f}; Adebayo et al. 2018). "
    )
    if drift > INSENSITIVE:
        return (
            f"{said}Its signs do react to the weights (drift {drift:.2f} from random ones), so the "
            "drift tells more than the pictures."
        )
    return f"{said}It hardly reacts to the weights."
