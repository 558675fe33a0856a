"""What makes examples fit to be probes, told by name when they are not."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_saliency.errors import ConfigurationError
from lightning_saliency.probes.fields import checked_input, describe


def check_examples(
    inputs: Tensor, targets: Tensor | None, masks: Tensor | None, names: Sequence[str]
) -> None:
    """Raise a ConfigurationError unless these are N fit examples, as `Probes` describes them."""
    checked_input(inputs)
    for what, values in (("names", names), ("targets", targets), ("masks", masks)):
        if values is not None and len(values) != len(inputs):
            raise ConfigurationError(
                f"There are {len(inputs)} inputs but {len(values)} {what}; give one each."
            )
    if targets is not None and not (
        targets.ndim == 1 and (targets.dtype == torch.int64 or targets.is_floating_point())
    ):
        raise ConfigurationError(
            f"targets is {describe(targets)}; give (N,) int64 class indices or floating "
            "regression targets. Probes.from_tensors converts the usual others."
        )
    wanted = (len(inputs), *inputs.shape[2:])
    if masks is not None and (masks.dtype != torch.bool or masks.shape != wanted):
        raise ConfigurationError(f"masks is {describe(masks)}; give bool of shape {wanted}.")
    _check_finite(inputs, names, "input")
    if targets is not None:
        _check_finite(targets, names, "target")


def check_normalisation(
    mean: Sequence[float] | None, std: Sequence[float] | None, channels: int
) -> None:
    """Raise a ConfigurationError unless `x * std + mean` works for inputs of so many channels."""
    if mean is None and std is None:
        return
    if mean is None or std is None:
        raise ConfigurationError("Give mean and std together, or neither.")
    if len(mean) != len(std) or len(mean) not in (1, channels):
        raise ConfigurationError(
            f"mean={mean} and std={std}: give one of each, or {channels} of each, "
            f"for inputs of {channels} channels."
        )
    if not all(map(math.isfinite, (*mean, *std))) or min(std) <= 0:
        raise ConfigurationError(f"mean={mean}, std={std}: both finite, and std above 0.")


def _check_finite(values: Tensor, names: Sequence[str], what: str) -> None:
    finite = values.reshape(len(values), -1).isfinite().all(dim=1)
    bad = [name for name, good in zip(names, finite.tolist(), strict=True) if not good]
    if bad:
        more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
        raise ConfigurationError(
            f"The {what} of probe {bad[0]!r}{more} is NaN or infinite. Look at the data or its "
            "transform, or choose other probes."
        )
