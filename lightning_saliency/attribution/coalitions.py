"""Which segments are seen together, and the linear models of the score over them: pure tensors.

A coalition is a row of M bits, one per segment: seen, or replaced by the baseline.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import combinations
from math import comb

import torch
from torch import Tensor

from lightning_saliency.attribution.points import mix


@dataclass(frozen=True)
class Sampling:
    """Coalitions of M segments for the Shapley kernel (Lundberg & Lee 2017, theorem 2).

    The kernel's weight is largest for the smallest and the largest coalitions, and there are few of
    them: sizes 1 and M − 1 are all taken, then 2 and M − 2, and so on while a size has no more
    coalitions than the budget would draw of it. The rest is drawn, each together with its
    complement, and shares the weight that is left; none weighs more than one that is taken. With a
    budget of 2^M − 2 nothing is drawn.

    Args:
        segments: M, ≥ 1.
        budget: how many coalitions, ≥ `fewest(segments)`.
    """

    segments: int
    budget: int

    @cached_property
    def whole(self) -> int:
        """Up to this size, and down from M minus it, all coalitions are taken."""
        left, sizes = self.budget, range(1, self.segments // 2 + 1)
        for size in sizes:
            mass = sum(self._mass(one) for one in sizes[size - 1 :])
            share = left * self._mass(size) / mass * (1 + 1e-9)
            if self._number(size) > (share if size > 1 else left):
                return size - 1
            left -= self._number(size)
        return self.segments // 2

    @cached_property
    def pairs(self) -> int:
        """How many coalitions are drawn, each with its complement."""
        if self.whole == self.segments // 2:
            return 0
        return (self.budget - len(_all_up_to(self.whole, self.segments))) // 2

    @property
    def count(self) -> int:
        """How many coalitions there are in all."""
        return len(_all_up_to(self.whole, self.segments)) + 2 * self.pairs

    def _middle(self, size: int) -> bool:
        return 2 * size == self.segments

    def _number(self, size: int) -> int:
        """Coalitions of this size and of M minus it."""
        return comb(self.segments, size) * (1 if self._middle(size) else 2)

    def _mass(self, size: int) -> float:
        """The kernel's weight of all of them together."""
        return self._number(size) * self._kernel(size)

    def _kernel(self, size: int) -> float:
        rest = self.segments - size
        return (self.segments - 1) / (comb(self.segments, size) * size * rest)

    def weights(self) -> Tensor:
        """`(count,)` float64: the kernel where all are taken, a share of what is left elsewhere."""
        taken: list[float] = []
        for size in range(1, self.whole + 1):
            taken += [self._kernel(size)] * self._number(size)
        if not self.pairs:
            return torch.tensor(taken, dtype=torch.float64, device="cpu")
        left = sum(map(self._mass, range(self.whole + 1, self.segments // 2 + 1)))
        # Of a small budget: a few drawn ones with the weight of all would add more noise than news.
        each = min(left / (2 * self.pairs), self._kernel(self.whole))
        return torch.tensor(taken + [each] * (2 * self.pairs), dtype=torch.float64, device="cpu")

    def draw(self, seed: int, probe: int) -> Tensor:
        """`(count, M)` bool, the coalitions of a probe: a function of its arguments."""
        return torch.cat([_all_up_to(self.whole, self.segments), self._drawn(seed, probe)])

    def _drawn(self, seed: int, probe: int) -> Tensor:
        if not self.pairs:
            return torch.zeros(0, self.segments, dtype=torch.bool, device="cpu")
        generator = torch.Generator("cpu").manual_seed(mix(seed, probe))
        sizes = torch.arange(self.whole + 1, self.segments - self.whole, device="cpu")
        odds = (1 / (sizes * (self.segments - sizes)).double()).cumsum(0)
        numbers = torch.rand(
            self.pairs, self.segments + 1, generator=generator, dtype=torch.float64, device="cpu"
        )
        size = sizes[torch.searchsorted(odds, numbers[:, 0] * odds[-1]).clamp(max=len(sizes) - 1)]
        ranks = numbers[:, 1:].argsort(1).argsort(1)
        one = ranks < size[:, None]
        return torch.stack([one, ~one], 1).flatten(0, 1)


@lru_cache(maxsize=64)
def _all_up_to(whole: int, segments: int) -> Tensor:
    """`(count, M)` bool: all coalitions of a size up to `whole`, and from M minus that on."""
    taken = [
        [(place in chosen) == seen for place in range(segments)]
        for size in range(1, whole + 1)
        for seen in ((True,) if 2 * size == segments else (True, False))
        for chosen in combinations(range(segments), size)
    ]
    return torch.tensor(taken, dtype=torch.bool, device="cpu").view(len(taken), segments)


def fewest(segments: int) -> int:
    """Coalitions without which the weights of M segments are not determined."""
    return 2 * segments if segments > 2 else 2 * segments - 2


def fair_coins(segments: int, count: int, seed: int, probe: int) -> Tensor:
    """`(count, M)` bool: every segment is seen with probability ½ (Ribeiro et al. 2016, 3.3)."""
    generator = torch.Generator("cpu").manual_seed(mix(seed, probe))
    return torch.rand(count, segments, generator=generator, dtype=torch.float32, device="cpu") < 0.5


def nearness(coalitions: Tensor, width: float) -> Tensor:
    """exp(−D² / 2 width²), D the cosine distance of a coalition to the full one; `(count,)`."""
    distance = 1 - coalitions.double().mean(1).sqrt()
    return torch.exp(-distance.square() / (2 * width**2))


class Moments:
    """Weighted sums over coalitions z and scores y of n probes, one coalition at a time.

    Memory is n × M², whatever the number of coalitions. In float64, except where the device has
    none. Args: `z` `(n, M)`, `y` `(n,)`, `weight` `(n,)` of `add`.
    """

    def __init__(self, probes: int, segments: int, device: torch.device) -> None:
        dtype = torch.float32 if device.type == "mps" else torch.float64

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(probes, *shape, device=device, dtype=dtype)

        self.weight, self.y, self.yy = zeros(), zeros(), zeros()
        self.z, self.zy, self.zz = zeros(segments), zeros(segments), zeros(segments, segments)

    def add(self, z: Tensor, y: Tensor, weight: Tensor) -> None:
        """Take in one coalition per probe."""
        z, y, weight = (one.to(self.y.dtype) for one in (z, y, weight))
        weighted = weight[:, None] * z
        self.weight += weight
        self.y += weight * y
        self.yy += weight * y.square()
        self.z += weighted
        self.zy += weighted * y[:, None]
        self.zz.addcmul_(weighted[:, :, None], z[:, None, :])

    def additive(self, total: Tensor) -> Tensor:
        """The φ `(n, M)` of least weighted error with Σφ = `total` `(n,)`, exactly."""
        # What no coalition holds is a segment that a probe has not, or the only one.
        empty = self.zz.diagonal(dim1=1, dim2=2) == 0
        only = empty.all(1, keepdim=True) & (empty.cumsum(1) == 1)
        used = (~empty | only).to(self.zz.dtype)
        both = torch.stack([self.zy, used], 2)
        solved = torch.linalg.solve(self.zz + empty.to(self.zz.dtype).diag_embed(), both)
        free, along = solved.unbind(2)
        excess = (free.sum(1) - total.to(free.dtype)) / along.sum(1)
        found: Tensor = free - excess[:, None] * along
        return found

    def ridge(self, penalty: float) -> tuple[Tensor, Tensor]:
        """β `(n, M)` and intercept `(n,)` of least weighted error + penalty × ‖β‖²."""
        mean_z, mean_y = self.z / self.weight[:, None], self.y / self.weight
        spread = self.zz - self.z[:, :, None] * mean_z[:, None, :]
        common = self.zy - self.z * mean_y[:, None]
        eye = torch.eye(spread.shape[1], dtype=spread.dtype, device=spread.device)
        slope = torch.linalg.solve(spread + penalty * eye, common)
        return slope, mean_y - (slope * mean_z).sum(1)

    def fit(self, slope: Tensor, intercept: Tensor | float = 0.0) -> Tensor:
        """Weighted R² `(n,)` of a linear model of the scores; NaN where all scores are the same."""
        modelled = (slope[:, None] @ self.zz @ slope[:, :, None]).flatten()
        error = (
            self.yy
            + modelled
            + self.weight * intercept**2
            + 2 * intercept * ((slope * self.z).sum(1) - self.y)
            - 2 * (slope * self.zy).sum(1)
        )
        whole = self.yy - self.y.square() / self.weight
        return 1 - error / whole.where(whole > 0, torch.nan)
