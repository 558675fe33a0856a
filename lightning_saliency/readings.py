"""From snapshots to the numbers of one observation, on the device, in one transfer to the host."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_saliency.errors import ConfigurationError
from lightning_saliency.measures import Drift, Grounding, Measure
from lightning_saliency.measures.aggregate import (
    churn,
    magnitude,
    mean,
    quantiles,
    undefined_share,
)
from lightning_saliency.measures.drift import cosine
from lightning_saliency.measures.grounding import fit_masks
from lightning_saliency.sighting import Sighting
from lightning_saliency.snapshot import Series, Snapshot

QUANTILES = (0.1, 0.5, 0.9)


def readings(
    seen: Sighting,
    now: Snapshot,
    others: Mapping[str, Snapshot],
    measures: Mapping[str, Measure],
    masks: Tensor | None,
) -> dict[str, Tensor]:
    """All scalars of one observation by the end of their tag, as 0-dim tensors on the device.

    Args:
        seen: what this observation saw.
        now: its snapshot.
        others: earlier snapshots of the same probes by name, such as ``previous``.
        measures: what is measured beside directional drift.
        masks: `(N, *spatial)` of the inputs, for measures of grounding; those are left out without.

    Returns:
        ``{method}/drift_{other}``: median over probes, with the 10 % and 90 % quantiles under
        ``…_p10`` and ``…_p90``; ``{method}/{measure}_{other}``: median; ``{method}/{measure}``:
        mean over the probes where it is defined; ``magnitude``, ``churn``, ``undefined``,
        ``mask_area``.
    """
    found: dict[str, Tensor] = {}
    for method, series in now.series.items():
        earlier = {
            name: other.series[method] for name, other in others.items() if method in other.series
        }
        for name, then in earlier.items():
            found |= _spread(
                f"{method}/drift_{name}", _drift(Drift(cosine, "signed"), series, then)
            )
        found[f"{method}/undefined"] = undefined_share(series.map)
        for measure, one in measures.items():
            found |= _measured(f"{method}/{measure}", one, series, earlier, masks)
        for number, values in seen.maps[method].numbers.items():
            found[f"{method}/{number}"] = quantiles(values, (0.5,))[0]
    return found | _of_all(seen, now, others, masks)


def _measured(
    tag: str, one: Measure, now: Series, earlier: Mapping[str, Series], masks: Tensor | None
) -> dict[str, Tensor]:
    """One further measure of one method's maps."""
    if isinstance(one, Drift):
        values = {
            name: _checked(tag, _drift(one, now, then), now) for name, then in earlier.items()
        }
        return {f"{tag}_{name}": quantiles(each, (0.5,))[0] for name, each in values.items()}
    if not isinstance(one, Grounding):
        return {tag: mean(_checked(tag, one.function(_magnitude(now)), now))}
    if masks is None:
        return {}
    maps = _magnitude(now)
    return {tag: mean(_checked(tag, one.function(maps, fit_masks(masks, maps.shape[1:])), now))}


def _checked(tag: str, values: object, series: Series) -> Tensor:
    """What a measure returned, if it is one number per probe."""
    if isinstance(values, Tensor) and values.shape == (len(series.map),):
        return values.to(series.map.device)
    shape = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
    raise ConfigurationError(
        f"measures: '{tag.split('/')[-1]}' returns {shape} for {len(series.map)} probes. A measure "
        "returns one number per probe, a tensor (N,)."
    )


def _of_all(
    seen: Sighting, now: Snapshot, others: Mapping[str, Snapshot], masks: Tensor | None
) -> dict[str, Tensor]:
    """What is said once, not per method."""
    shares = [undefined_share(series.map) for series in now.series.values()]
    found = {"undefined": torch.stack(shares).mean()}
    if seen.gradient_norm is not None:
        found["magnitude"] = magnitude(seen.gradient_norm)
    if "previous" in others:
        found["churn"] = churn(others["previous"].predictions, now.predictions)
    if masks is not None:
        found["mask_area"] = masks.float().mean()
    return found


def _drift(measure: Drift, now: Series, then: Series) -> Tensor:
    if measure.of == "signed":
        pair = now.signed.float(), then.signed.float()
    else:
        pair = _magnitude(now), _magnitude(then)
    distances: Tensor = measure.function(*pair)
    return distances


def _magnitude(series: Series) -> Tensor:
    return series.map.float().abs()


def _spread(name: str, values: Tensor) -> dict[str, Tensor]:
    low, middle, high = quantiles(values, QUANTILES)
    return {name: middle, f"{name}_p10": low, f"{name}_p90": high}


def to_host(tensors: Mapping[str, Tensor]) -> dict[str, NDArray[np.float32]]:
    """Bring all tensors to the host in one transfer, as float32 arrays of their shapes.

    Class indices come through exactly up to 2²⁴.
    """
    packed = torch.cat([tensor.detach().float().flatten() for tensor in tensors.values()])
    flat = packed.cpu().numpy()
    ends = np.cumsum([tensor.numel() for tensor in tensors.values()])
    pieces = np.split(flat, ends[:-1])
    return {
        name: piece.reshape(tensor.shape)
        for (name, tensor), piece in zip(tensors.items(), pieces, strict=True)
    }
