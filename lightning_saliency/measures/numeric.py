"""Batched arithmetic that the measures share: one row per probe, float32 (float64 if given).

Every row is scaled by its largest magnitude before anything is squared or summed, so a map of size
1e-30 (a confident model's) keeps all its digits. Rows never mix, nothing asks the device for a
value, and no operation is used that `torch.use_deterministic_algorithms(True)` forbids or that
TensorFloat-32 rounds (convolution, matrix product).
"""

from __future__ import annotations

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


def _unit(rows: Tensor) -> Tensor:
    rows = scaled(rows)
    return rows / rows.square().sum(1, keepdim=True).sqrt()


def centred_ranks(rows: Tensor) -> Tensor:
    """Twice the ranks of rows (N, P), ties averaged, minus their mean: (N, P), whole numbers.

    In sorted order equal values form a run; each of them has the mean of its first and last place.
    """
    pixels = rows.shape[1]
    ordered, order = rows.sort(1)
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
