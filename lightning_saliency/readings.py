"""From snapshots to the numbers of one observation, on the device, in one transfer to the host."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_saliency.errors import ConfigurationError
from lightning_saliency.measures import Drift, Grounding, Measure, Shape
from lightning_saliency.measures.aggregate import (
    magnitude,
    mean,
    quantiles,
    undefined_share,
)
from lightning_saliency.measures.decomposition import by_class, of_chance, stayed_and_flipped
from lightning_saliency.measures.drift import cosine
from lightning_saliency.measures.grounding import fit_masks
from lightning_saliency.measures.noise import (
    crossval,
    minimum_detectable,
    moved,
    reliability,
    z_score,
)
from lightning_saliency.sighting import Sighting
from lightning_saliency.snapshot import Series, Snapshot

QUANTILES = (0.1, 0.5, 0.9)

UNRELIABLE = 0.5
"""Reliability below which a map is noise for the most part."""


PARTS = ("stayed", "flipped", "by_class", "worst_class", "of_chance")
"""Of the drift since the previous observation; each is left out where there is nothing of it."""


class Beside(NamedTuple):
    """What is known of the N probes beside their maps, on the device of the maps.

    Attributes:
        classes: `(N,)`, what is explained.
        masks: `(N, *spatial)` of the inputs, for measures of grounding; those are left out without.
        images: `(N, C, *spatial)`, for measures of the stimulus; those are left out without.
        number: of classes; 0 where the classes mean something else.
    """

    classes: Tensor
    masks: Tensor | None = None
    images: Tensor | None = None
    number: int = 0


def readings(
    seen: Sighting,
    now: Snapshot,
    others: Mapping[str, Snapshot],
    measures: Mapping[str, Measure],
    beside: Beside,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """All scalars of one observation by the end of their tag, as 0-dim tensors on the device.

    Args:
        seen: what this observation saw.
        now: its snapshot.
        others: earlier snapshots of the same probes by name, such as ``previous``.
        measures: what is measured beside directional drift.
        beside: what is known of the probes.

    Returns:
        ``{method}/drift_{other}``: median over probes, with the 10 % and 90 % quantiles under
        ``…_p10`` and ``…_p90``; ``{method}/{measure}_{other}``: median; ``{method}/{measure}``:
        mean over the probes where it is defined; the drift since the previous taken apart, and the
        noise of methods that draw samples, as `logs.TAGS` says; ``magnitude``, ``churn``,
        ``undefined``, ``mask_area``. And the drift of each probe, `(N,)`, by ``{other} {method}``,
        and the ``reliability {method}``; where they have classes, these as ``classes`` and which
        ``flipped`` since the previous, all as floats.
    """
    found: dict[str, Tensor] = {}
    steps: dict[str, Tensor] = {}
    flipped = None
    if "previous" in others:
        flipped = others["previous"].predictions != now.predictions
        if beside.number > 1:
            steps |= {"flipped": flipped.float(), "classes": beside.classes.float()}
    for method, series in now.series.items():
        earlier = {
            name: other.series[method] for name, other in others.items() if method in other.series
        }
        for name, then in earlier.items():
            distance = _drift(Drift(cosine, "signed"), series, then)
            found |= _spread(f"{method}/drift_{name}", distance)
            steps[f"{name} {method}"] = distance
        if flipped is not None and "previous" in earlier:
            step = steps[f"previous {method}"]
            found |= _taken_apart(f"{method}/drift_previous", step, flipped, beside)
            before = earlier["previous"].signed.float()
            chance = of_chance(cosine, series.signed.float(), before)
            found[f"{method}/drift_previous_of_chance"] = chance
        if series.halves is not None:
            steps[f"reliability {method}"] = reliability(series.halves.float())
            found |= _noise(method, series.halves, steps[f"reliability {method}"], earlier)
        found[f"{method}/undefined"] = undefined_share(series.map)
        for measure, one in measures.items():
            found |= _measured(f"{method}/{measure}", one, series, earlier, beside)
        for number, values in seen.maps[method].numbers.items():
            found[f"{method}/{number}"] = quantiles(values, (0.5,))[0]
    return found | _of_all(seen, now, flipped, beside.masks), steps


def _taken_apart(tag: str, drift: Tensor, flipped: Tensor, beside: Beside) -> dict[str, Tensor]:
    """Who moved: those whose prediction stayed or flipped, and which class."""
    stayed, turned = stayed_and_flipped(drift, flipped)
    found = {f"{tag}_stayed": stayed, f"{tag}_flipped": turned}
    if beside.number > 1:
        classes = by_class(drift, beside.classes, beside.number)
        found |= {f"{tag}_by_class": classes.overall, f"{tag}_worst_class": classes.worst}
    return found


def _noise(
    method: str, halves: Tensor, known: Tensor, earlier: Mapping[str, Series]
) -> dict[str, Tensor]:
    """Drift without the noise of samples, and how much noise the map has."""
    found = {
        f"{method}/reliability": quantiles(known, (0.5,))[0],
        f"{method}/unreliable": mean(known.isnan() | (known < UNRELIABLE)),
    }
    for name, then in earlier.items():
        if then.halves is not None and then.halves.shape == halves.shape:
            pair, tag = (halves.float(), then.halves.float()), f"{method}/crossval_{name}"
            distance = crossval(*pair)
            found |= {
                tag: mean(distance),
                f"{tag}_z": z_score(moved(*pair)),  # whose mean no noise shifts
                f"{tag}_detectable": minimum_detectable(distance),
            }
    return found


def _measured(
    tag: str,
    one: Measure,
    now: Series,
    earlier: Mapping[str, Series],
    beside: Beside,
) -> dict[str, Tensor]:
    """One further measure of one method's maps."""
    if isinstance(one, Drift):
        values = {
            name: _checked(tag, _drift(one, now, then), now) for name, then in earlier.items()
        }
        return {f"{tag}_{name}": quantiles(each, (0.5,))[0] for name, each in values.items()}
    maps = _magnitude(now)
    if isinstance(one, Shape):
        return {tag: mean(_checked(tag, one.function(maps), now))}
    held = beside.images
    if isinstance(one, Grounding):
        held = None if beside.masks is None else fit_masks(beside.masks, maps.shape[1:])
    return {} if held is None else {tag: mean(_checked(tag, one.function(maps, held), now))}


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
    seen: Sighting, now: Snapshot, flipped: Tensor | None, masks: Tensor | None
) -> dict[str, Tensor]:
    """What is said once, not per method."""
    shares = [undefined_share(series.map) for series in now.series.values()]
    found = {"undefined": torch.stack(shares).mean()}
    if seen.gradient_norm is not None:
        found["magnitude"] = magnitude(seen.gradient_norm)
    if flipped is not None:
        found["churn"] = mean(flipped)
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
