"""Where in input space a model is looked at: the input, noisy copies of it, a path to it.

A point is a frozen value: methods that name equal points are served by one pass.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_saliency.errors import ConfigurationError


class Point(ABC):
    """A place in input space, relative to each probe. Instances are frozen and hashable."""

    @property
    def is_one(self) -> bool:
        """Whether it is the same place for all probes: then one row tells the scores of all."""
        return False

    def shape_of(self, shape: torch.Size) -> torch.Size:
        """The shape of what `at` makes of inputs of `shape`."""
        return shape

    @abstractmethod
    def at(self, inputs: Tensor, first: int) -> Tensor:
        """Move each probe to this point.

        Args:
            inputs: `(n, C, *spatial)`, a chunk of the probes.
            first: index of the chunk's first probe in the whole set. What is random depends on the
                probe's index alone, so that the size of a chunk changes no map.

        Returns:
            Like `inputs`: dtype, device and memory format, and the shape but for `shape_of`.
        """


@dataclass(frozen=True)
class Clean(Point):
    """The probe itself."""

    def at(self, inputs: Tensor, first: int) -> Tensor:
        return inputs


@dataclass(frozen=True)
class Noisy(Point):
    """The probe plus Gaussian noise (Smilkov et al. 2017).

    σ = `level` × (max − min) of each probe by itself. The noise is a function of `seed`, `index`
    and the probe's place in the set: the same at every observation (common random numbers), so
    frozen weights drift by exactly 0; independent over probes; and a prefix of a longer series.
    """

    level: float
    index: int
    seed: int = 0

    def at(self, inputs: Tensor, first: int) -> Tensor:
        flat = inputs.flatten(1).float()
        sigma = self.level * (flat.amax(1) - flat.amin(1))
        generator = torch.Generator(inputs.device)
        noise = torch.empty_like(inputs, dtype=torch.float32)
        for offset, row in enumerate(noise):
            generator.manual_seed(mix(self.seed, self.index, first + offset))
            # Drawn in one layout: filled in place, a noise would depend on the memory format.
            row.copy_(
                torch.randn(row.shape, generator=generator, dtype=row.dtype, device=row.device)
            )
        return inputs + (noise * _column(sigma, inputs)).to(inputs.dtype)


@dataclass(frozen=True)
class OnPath(Point):
    """Baseline + `fraction` × (probe − baseline), on the straight line of Sundararajan et al. 2017.

    `baseline` is in the model's input space, one number or one per channel: 0 of a normalised input
    is the mean colour of the data set, not black.
    """

    fraction: float
    baseline: float | tuple[float, ...] = 0.0

    @property
    def is_one(self) -> bool:
        return self.fraction == 0

    def at(self, inputs: Tensor, first: int) -> Tensor:
        if self.is_one:  # what isn't finite in a probe would stay in 0 × (x − x')
            return baseline_like(inputs, self.baseline)
        return torch.lerp(baseline_of(inputs, self.baseline), inputs, self.fraction)


def baseline_like(inputs: Tensor, baseline: float | tuple[float, ...]) -> Tensor:
    """`baseline` in the shape of `inputs`: one number, or one per channel."""
    return torch.empty_like(inputs).copy_(baseline_of(inputs, baseline))


def baseline_of(inputs: Tensor, baseline: float | tuple[float, ...]) -> Tensor:
    """The same in as few numbers as there are, which broadcast: `(1, 1 or C, 1, …)`."""
    if isinstance(baseline, tuple) and len(baseline) != inputs.shape[1]:
        raise ConfigurationError(
            f"baseline={baseline} has {len(baseline)} numbers, the inputs have {inputs.shape[1]} "
            "channels: give one number, or one per channel."
        )
    return inputs.new_tensor(baseline).view(1, -1, *[1] * (inputs.ndim - 2))


def _column(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *[1] * (like.ndim - 1))


def mix(*numbers: int) -> int:
    """One seed of several numbers (SplitMix64's finaliser), so that near seeds share no stream."""
    state = 0
    for number in numbers:
        state = (state + number + 0x9E3779B97F4A7C15) % 2**64
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) % 2**64
        state ^= state >> 31
    return state % 2**63
