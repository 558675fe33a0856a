"""Expected gradients: what speaks for a class in a probe, and not in a background of others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NoReturn

import torch
from torch import Tensor

from lightning_saliency.attribution.arguments import check_whole
from lightning_saliency.attribution.looking import full
from lightning_saliency.attribution.method import (
    Evidence,
    Look,
    Maps,
    Method,
    OverChannels,
    Reduction,
    over_channels,
)
from lightning_saliency.attribution.points import Point, mix
from lightning_saliency.attribution.subject import Subject
from lightning_saliency.errors import ConfigurationError


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class GradientSHAP(OverChannels):
    """Mean of (x − b) ⊙ ∂s/∂x at b + α (x − b), over rows b of a background (Erion et al. 2021).

    Expected gradients (1906.10670), known as GradientSHAP (Lundberg & Lee 2017, 1705.07874), here
    without noise on x. In units of the score: attributions sum to s(x) minus the mean score of the
    background, in expectation. Each probe meets every row once before any row again, in an order of
    its own, and sample i has its α in the i-th of `samples` equal parts of 0..1: against
    independent draws the mean squared error is 0.8 of that at 16 samples of 64 rows, and 0.3 at 64.
    Both depend on `seed`, the sample and the probe alone, so a fixed network drifts by exactly 0.

    Passes: 1 forward and backward per sample.
    Good for: a baseline that is not one arbitrary colour, but what the data look like.
    Misleads: a few samples are noisy, and what the probe shares with the background gets nothing.

    Args:
        samples: points in all, ≥ 1. Use a multiple of the background's rows where these are few:
            then all of them count alike.
        background: rows b. ``probes``: the other probes. ``training``: as many inputs of the
            Trainer's training data as there are samples. Or a tensor `(rows, C, *spatial)` in the
            model's input space.
        seed: of the order of the rows, and of α.
        channels: how channels become one map: ``max``, ``l2``, ``signed`` or ``positive``.

    Raises:
        ConfigurationError: a background of another shape than the probes; ``probes`` with one probe
            only; ``training`` where no training data can be drawn from.
    """

    samples: int = 16
    background: Literal["probes", "training"] | Tensor = "probes"
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole(self, "samples", self.samples, 1)
        check_whole(self, "seed", self.seed, 0)
        given = self.background
        if not isinstance(given, Tensor) and given not in ("probes", "training"):
            raise ConfigurationError(
                f"GradientSHAP(background={given!r}): give 'probes', 'training', or a tensor "
                "(rows, C, *spatial)."
            )

    def __eq__(self, other: object) -> bool:
        """By value, but for a tensor: it is equal to itself."""
        return isinstance(other, GradientSHAP) and self._values == other._values

    def __hash__(self) -> int:
        return hash(self._values)

    @property
    def _values(self) -> tuple[object, ...]:
        given = self.background
        return (
            self.channels,
            self.samples,
            self.seed,
            given if isinstance(given, str) else id(given),
        )

    def __repr__(self) -> str:
        """A background of the user's by its shape: its numbers would fill screens."""
        given = self.background
        shown = f"Tensor{tuple(given.shape)}" if isinstance(given, Tensor) else repr(given)
        return (
            f"GradientSHAP(channels={self.channels!r}, samples={self.samples}, background={shown}, "
            f"seed={self.seed})"
        )

    def bind(self, subject: Subject, inputs: Tensor) -> Method:
        """The method with its background at hand, and drawn from for every probe."""
        rows = self._rows(subject, inputs).detach().to(inputs)
        if rows.shape[1:] != inputs.shape[1:] or not len(rows):
            raise ConfigurationError(
                f"{self!r}: the background is {tuple(rows.shape)}, the probes are "
                f"{tuple(inputs.shape)}. Give at least one row, of the shape of a probe."
            )
        own = isinstance(self.background, str) and self.background == "probes"
        return _Drawn(self, _Draws(rows, self.samples, len(inputs), self.seed, without_own=own))

    def _rows(self, subject: Subject, inputs: Tensor) -> Tensor:
        if isinstance(self.background, Tensor):
            return self.background
        if self.background == "training":
            if subject.examples is None:
                raise ConfigurationError(
                    f"{self!r}: there is no Trainer whose training data could be drawn from. Give "
                    "a tensor of examples (rows, C, *spatial)."
                )
            return subject.examples(self.samples)
        if len(inputs) < 2:
            raise ConfigurationError(
                f"{self!r}: one probe has no others to be compared with. Give more probes, or a "
                "tensor of examples (rows, C, *spatial)."
            )
        return inputs

    def looks(self) -> NoReturn:
        """Known when the background is drawn."""
        raise AssertionError("bind() draws the background")

    def reduction(self) -> NoReturn:
        """Known when the background is drawn."""
        raise AssertionError("bind() draws the background")


class _Draws:
    """For every probe the rows of the background in its own order, and an α for each."""

    def __init__(
        self, rows: Tensor, samples: int, probes: int, seed: int, *, without_own: bool
    ) -> None:
        own = torch.Generator("cpu")  # the same numbers on every device, whatever the default one
        orders, shares = [], []
        for probe in range(probes):
            own.manual_seed(mix(seed, probe))
            count = len(rows) - without_own
            cycles = -(-samples // count)
            order = torch.cat([_permuted(count, own) for _ in range(cycles)])
            orders.append(order + (order >= probe) * without_own)
            shares.append(torch.rand(samples, generator=own, dtype=torch.float64, device="cpu"))
        self._rows = rows
        self._orders = torch.stack(orders).to(rows.device)
        parts = (torch.stack(shares) + torch.arange(samples, device="cpu")) / samples
        self._shares = parts.to(rows.device)

    def starts(self, sample: int, first: int, count: int) -> Tensor:
        """The background's rows for a chunk of probes, `(count, C, *spatial)`."""
        return self._rows[self._orders[self._places(first, count), sample]]

    def shares(self, sample: int, first: int, like: Tensor) -> Tensor:
        """α of a chunk of probes, one column beside `like`."""
        column = self._shares[self._places(first, len(like)), sample].to(like.dtype)
        return column.view(-1, *[1] * (like.ndim - 1))

    def _places(self, first: int, count: int) -> Tensor:
        # Ranks look at the last probe again where there is none left for them.
        places = torch.arange(first, first + count, device=self._orders.device)
        return places.clamp(max=len(self._orders) - 1)


def _permuted(count: int, generator: torch.Generator) -> Tensor:
    return torch.randperm(count, generator=generator, device="cpu")


@dataclass(frozen=True)
class _Between(Point):
    """On the line from a row of the background to the probe."""

    draws: _Draws
    sample: int

    def at(self, inputs: Tensor, first: int) -> Tensor:
        starts = full(self.draws.starts(self.sample, first, len(inputs)))
        share = self.draws.shares(self.sample, first, starts)
        return torch.empty_like(inputs).copy_(torch.lerp(starts, full(inputs), share))


@dataclass(frozen=True)
class _Drawn(Method):
    """`GradientSHAP` with its draws."""

    method: GradientSHAP
    draws: _Draws

    @property
    def signed(self) -> bool:  # type: ignore[override]
        """As the method that was bound."""
        return self.method.signed

    def __repr__(self) -> str:
        return repr(self.method)

    def looks(self) -> tuple[Look, ...]:
        """The gradient on the way to the probe from each row drawn."""
        points = (_Between(self.draws, sample) for sample in range(self.method.samples))
        return tuple(Look(point, gradient=True) for point in points)

    def reduction(self) -> Reduction:
        """The running mean of gradients times ways."""
        return _Samples(self)


class _Samples(Reduction):
    def __init__(self, drawn: _Drawn) -> None:
        self._drawn = drawn
        self._total: Tensor | float = 0.0

    def update(self, evidence: Evidence) -> None:
        point = evidence.point
        assert isinstance(point, _Between), "it asks for nothing else"
        starts = point.draws.starts(point.sample, evidence.first, len(evidence.probes))
        self._total = self._total + (evidence.probes - starts) * evidence.gradient

    def compute(self) -> Maps:
        assert isinstance(self._total, Tensor)
        signed = self._total / self._drawn.method.samples
        return Maps(over_channels(signed, self._drawn.method.channels), signed)
