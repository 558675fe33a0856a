"""What the fuzz tests draw: maps of every content, sightings, masks, labels and names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from torch import Tensor

from lightning_saliency.attribution import Explanation, Maps
from lightning_saliency.sighting import Sighting

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

LEVELS = {"normal": 1.0, "huge": 1e30, "tiny": 1e-38, "subnormal": 1e-42, "negative": -1.0}
KINDS = (*LEVELS, "zero", "constant", "one-hot", "nan", "inf", "-inf")
"""What a map may hold. In float16 the huge ones are infinite and the tiny ones zero."""

ODD_NAMES = (
    "",
    "<b onload='x'>&amp;</b>",
    "名前 имя ‮שם é",
    "word " * 1000,
    "x" * 50_000,
    "two\nlines\tand a tab",
    "\x1e\u0100",
    "\ud800\udcff",
    "\0\x07\x1b[31m",
    "🦊‍",
    "%s {0} $1",
)
"""What people, file systems and web pages call things; one is a file name that is no UTF-8."""


def fuzz(examples: int) -> settings:
    """The same examples at every run, without a clock; what fails is told and not made smaller."""
    slow = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture]
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=slow,
    )


def content(kind: str, shape: tuple[int, ...], seed: int) -> Tensor:
    """One map in float64; what is broken is broken in one place."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(shape, generator=generator, dtype=torch.float64)
    place = int(torch.randint(values.numel(), (), generator=generator))
    if kind in LEVELS:
        return (values.abs() if kind == "negative" else values) * LEVELS[kind]
    if kind == "constant":
        return torch.full_like(values, 1 + seed % 7)
    if kind in ("zero", "one-hot"):
        values.zero_()
    if kind != "zero":
        values.view(-1)[place] = 1.0 if kind == "one-hot" else float(kind)
    return values


def contents(kinds: list[str], shape: tuple[int, ...], seed: int, dtype: torch.dtype) -> Tensor:
    """`(len(kinds), *shape)`: one map of each kind."""
    maps = [content(kind, shape, seed + index) for index, kind in enumerate(kinds)]
    return torch.stack(maps).to(dtype)


seeds = st.integers(0, 2**31)
dtypes = st.sampled_from(DTYPES)
names = st.sampled_from(ODD_NAMES) | st.text(max_size=20)


@st.composite
def shapes(draw: Any, dims: int | None = None) -> tuple[int, ...]:
    """One to three sides of 1 to 40; some with more places than a snapshot keeps."""
    dims = dims or draw(st.integers(1, 3))
    if dims < 3 and draw(st.integers(0, 5)) == 0:
        return (5000,) if dims == 1 else (97, 61)
    sides = [draw(st.integers(1, 40)) for _ in range(dims)]
    if dims == 3:
        sides[2] = min(sides[2], max(1, 9000 // (sides[0] * sides[1])))
    return tuple(sides)


def kinds_of(probes: int) -> st.SearchStrategy[list[str]]:
    """The content of each probe's map; half of the sets hold nothing odd."""
    plain = st.just(["normal"] * probes)
    return plain | st.lists(st.sampled_from(KINDS), min_size=probes, max_size=probes)


class Brief:
    """Told in a line where a test fails; hypothesis would print every number of its tensors."""

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(repr(self))


@dataclass(frozen=True, repr=False)
class Pair(Brief):
    """Signed attributions `(N, C, *spatial)` of the same probes at two observations."""

    now: Tensor
    then: Tensor

    def __repr__(self) -> str:
        return f"a pair of {tuple(self.now.shape)} {self.now.dtype}"


@st.composite
def pairs(draw: Any) -> Pair:
    probes, channels = draw(st.integers(1, 5)), draw(st.integers(1, 8))
    shape, dtype = draw(shapes()), draw(dtypes)
    if len(shape) == 3 or max(shape) > 40:
        channels = min(channels, 2)
    both = [
        contents(draw(kinds_of(probes)), (channels, *shape), draw(seeds), dtype) for _ in range(2)
    ]
    return Pair(*both)


@st.composite
def masks(draw: Any, probes: int, dims: int) -> Tensor:
    """Bool masks `(probes, *spatial)` of a resolution of their own: random, empty or full."""
    sides = draw(shapes(dims))
    generator = torch.Generator().manual_seed(draw(seeds))
    chances = [draw(st.sampled_from([0.0, 0.01, 0.5, 1.0])) for _ in range(probes)]
    return torch.stack([torch.rand(sides, generator=generator) < chance for chance in chances])


def reduced(signed: Tensor) -> Tensor:
    """The map of a signed attribution, as gradient methods make it."""
    return signed.abs().amax(1)


@st.composite
def outputs(draw: Any, probes: int, classes: int) -> Tensor:
    """Scores `(probes, classes)`; a net that broke gives NaN."""
    kind = draw(st.sampled_from(["normal", "normal", "huge", "zero", "nan", "inf"]))
    return content(kind, (probes, classes), draw(seeds)).float()


def sighting(signed: dict[str, Tensor], scores: Tensor) -> Sighting:
    """What an observation would have seen, in the precision in which `explain` answers."""
    full = {
        name: one if one.dtype == torch.float64 else one.float() for name, one in signed.items()
    }
    maps = {name: Maps(reduced(one), one) for name, one in full.items()}
    norm = next(iter(full.values())).flatten(1).norm(dim=1)
    return Sighting.of(Explanation(maps, scores, norm, chunk=len(scores)))
