"""Batched arithmetic that the measures share: one row per probe, float32 (float64 if given).

Every row is scaled by its largest magnitude before anything is squared or summed, so a map of size
1e-30 (a confident model's) keeps all its digits. Rows never mix, nothing asks the device for a
value, and no operation is used that `torch.use_deterministic_algorithms(True)` forbids or that
TensorFloat-32 rounds (convolution, matrix product).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_saliency.errors import ConfigurationError


def floating(values: Tensor) -> Tensor:
    """Keep float32 and float64; everything else (bfloat16, float16, integers) becomes float32."""
    return values if values.dtype in (torch.float32, torch.float64) else values.float()


def flat(maps: Tensor) -> Tensor:
    """Lay maps (N, ...) out as rows (N, P)."""
    if maps.ndim < 2:
        raise ConfigurationError(
            f"maps of shape {tuple(maps.shape)}: expected (N, *spatial), the probes first; "
            "use maps[None] for one map."
        )
    # Contiguous, because a sum's last bits depend on the layout and equal maps must drift by 0.
    return floating(maps).flatten(1).contiguous()


def require_same_shape(now: Tensor, then: Tensor) -> None:
    """Refuse two observations that would broadcast."""
    if now.shape != then.shape:
        raise ConfigurationError(
            f"now {tuple(now.shape)} and then {tuple(then.shape)} differ in shape: "
            "compare two observations of the same probes at one resolution."
        )


def defined(maps: Tensor) -> Tensor:
    """Tell which maps (N, ...) are finite and not constant: (N,) bool."""
    rows = flat(maps)
    return rows.isfinite().all(1) & (rows.amax(1) != rows.amin(1))


def nan_unless(condition: Tensor, values: Tensor) -> Tensor:
    """Replace the values (N,) of the probes where the condition (N,) fails by NaN."""
    return values.masked_fill(~condition, float("nan"))


def scaled(rows: Tensor) -> Tensor:
    """Divide each row (N, P) by its largest magnitude: NaN in an all-zero or non-finite row."""
    return rows / rows.abs().amax(1, keepdim=True)


def distribution(maps: Tensor) -> Tensor:
    """Read the magnitudes of maps (N, ...) as one distribution per probe: (N, P), sum 1."""
    rows = scaled(flat(maps).abs())
    return rows / rows.sum(1, keepdim=True)


def directional_distance(now: Tensor, then: Tensor) -> Tensor:
    """1 − cosine of rows (N, P), as ½‖u − v‖² of the unit vectors u, v: (N,) in 0..2.

    Equal rows give exactly 0 and a small drift keeps its digits, which 1 − ⟨u, v⟩ loses to rounding
    below 1e-7. Sums are plain `sum`, pairwise in float32 and so right to about 1e-7 at any size;
    `vector_norm` adds up in sequence on a CPU.
    """
    return ((_unit(now) - _unit(then)).square().sum(1) / 2).clamp(max=2)


def centred(rows: Tensor) -> Tensor:
    """Subtract the mean of each row (N, P)."""
    rows = rows - rows[:, :1]  # a large offset would round the mean
    return rows - rows.mean(1, keepdim=True)


def standardised(rows: Tensor) -> Tensor:
    """Rows (N, P) of mean 0 and length 1, whose products are correlations; NaN where constant."""
    return _unit(centred(scaled(rows)))


def averaged(values: Tensor, sides: Sequence[int], *, skip: int = 1) -> Tensor:
    """Bring values (*leading, *any) to (*leading, *sides), each the mean over its own area.

    Exact at any ratio, up and down: what straddles an edge counts by its overlap.
    """
    for dim, side in enumerate(sides, start=skip):
        values = _average_along(values, dim, side)
    return values


def _average_along(values: Tensor, dim: int, side: int) -> Tensor:
    """Average `values` along one side to `side` pixels, each the mean over its own interval."""
    length = values.shape[dim]
    if length == side:
        return values
    # In units of 1/(length·side) of the whole side, all edges are whole numbers.
    starts = torch.arange(side, device=values.device)[:, None] * length
    reach = length // side + (2 if length % side else 0)
    reached = starts // side + torch.arange(reach, device=values.device)
    ends = torch.minimum(starts + length, (reached + 1) * side)
    overlap = (ends - torch.maximum(starts, reached * side)).clamp(min=0)
    before, after = values.shape[:dim], values.shape[dim + 1 :]
    # Not what a quotient of whole numbers is by default: float64 keeps its digits.
    exact = overlap.to(torch.promote_types(values.dtype, torch.float32)) / length
    weights = exact.to(values.dtype).view(side, reach, *(1 for _ in after))
    taken = values.index_select(dim, reached.clamp(max=length - 1).flatten())
    return (taken.view(*before, side, reach, *after) * weights).sum(dim + 1)


def _unit(rows: Tensor) -> Tensor:
    rows = scaled(rows)
    return rows / rows.square().sum(1, keepdim=True).sqrt()


def sorted_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (N, P) in rising order, NaN last, and where each number was; equal ones in any order."""
    if rows.device.type != "cpu":
        return tuple(rows.sort(1))  # type: ignore[return-value]
    # On a CPU torch takes three times as long, and sorting is most of what measures take.
    order = torch.from_numpy(np.argsort(rows.detach().numpy(), axis=1))
    return rows.gather(1, order), order


def centred_ranks(rows: Tensor) -> Tensor:
    """Twice the ranks of rows (N, P), ties averaged, minus their mean: (N, P), whole numbers.

    In sorted order equal values form a run; each of them has the mean of its first and last place.
    """
    pixels = rows.shape[1]
    ordered, order = sorted_rows(rows)
    places = torch.arange(pixels, device=rows.device).expand_as(rows)
    differs = ordered[:, 1:] != ordered[:, :-1]
    first = torch.where(F.pad(differs, (1, 0), value=True), places, 0).cummax(1).values
    last = torch.where(F.pad(differs, (0, 1), value=True), places, pixels)
    last = last.flip(1).cummin(1).values.flip(1)
    ranks = (first + last + 1 - pixels).to(rows.dtype)
    return torch.empty_like(ranks).scatter_(1, order, ranks)


def top_weights(magnitudes: Tensor, k: Tensor, most: int) -> Tensor:
    """Weigh the k largest pixels of rows (N, P) by 1: (N, P), with k (N, 1) up to `most`.

    k is clamped to the support, since an order among zeros says nothing. Pixels tied at the last
    place share what is left of it, so neither the device nor the layout decides between them.
    """
    ordered = magnitudes.topk(most, dim=1).values
    support = (magnitudes > 0).sum(1, keepdim=True)
    k = torch.minimum(k, support).clamp(min=1)
    last = ordered.gather(1, k - 1)
    above, tied = magnitudes > last, magnitudes == last
    share = (k - above.sum(1, keepdim=True)).to(magnitudes.dtype) / tied.sum(1, keepdim=True)
    return above + tied * share
