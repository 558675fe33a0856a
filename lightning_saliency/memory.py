"""What is remembered between observations: the maps that later ones are held against."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, TypeVar

import torch
from torch import Tensor

from lightning_saliency.course import Course
from lightning_saliency.probes import Fingerprint
from lightning_saliency.snapshot import Snapshot

T = TypeVar("T")

COLUMNS = 16
"""Observations in a filmstrip, the first and the newest always among them."""

STRIPS = 8
"""Probes in a filmstrip."""

CONCEPTS = "class_models"
"""What the pictures of classes are called, in tags, among what comes to the host, and here."""


@dataclass(frozen=True)
class Column:
    """One observation in the filmstrip, on the CPU.

    Attributes:
        index: number of the observation, 0 for the first.
        label: what people call that moment.
        maps: method name → `(P, *spatial)` float16 of the first P ≤ 8 probes.
        predictions: `(P,)` int64.
        drift: method name → the median directional drift since the previous observation; in a
            column that stands for several observations the largest of theirs.
        concepts: `(K, C, *spatial)` uint8, what K classes look like to the model; None where nobody
            asked.
        reached: `(K,)` the probability of each class by its picture.
    """

    index: int
    label: str
    maps: Mapping[str, Tensor]
    predictions: Tensor
    drift: Mapping[str, float]
    # Checkpoints from before there were class models don't have them.
    concepts: Tensor | None = None
    reached: Tensor | None = None

    @classmethod
    def of(
        cls,
        index: int,
        label: str,
        host: Mapping[str, Any],
        drift: Mapping[str, float],
        hidden: Mapping[str, Any] = MappingProxyType({}),
    ) -> Column:
        """The column of an observation that came to the `host` as `gallery.drawn` names things.

        Maps that are `hidden`, by method and probe, become NaN: they are noise for the most part.
        """
        maps = {name: torch.from_numpy(host[f"map {name}"][:STRIPS]).half() for name in drift}
        for name, noisy in hidden.items():
            maps[name][torch.from_numpy(noisy[:STRIPS])] = torch.nan
        given = torch.from_numpy(host["predictions"][:STRIPS]).long()
        if CONCEPTS not in host:
            return cls(index, label, maps, given, drift)
        concepts = torch.from_numpy(host[CONCEPTS]).to(torch.uint8)
        # A copy: what came to the host is one array, which no column should keep.
        return cls(index, label, maps, given, drift, concepts, torch.tensor(host["reached"]))


@dataclass(frozen=True)
class Memory:
    """Earlier observations, and the columns of the filmstrip.

    Attributes:
        classes: `(N,)` int64, the class that is explained for each probe, fixed for ever.
        probes: what identifies them.
        snapshots: ``first`` (of the untrained network, in a fit), ``previous`` and, if the user
            wants one, ``reference``.
        columns: of the filmstrip, oldest first.
        count: observations so far.
        stride: the filmstrip keeps every `stride`-th observation; doubled when it is full.
        course: of the fit, in few numbers.
        layers: method name → the layers that were found for it, where the user named none.
    """

    classes: Tensor
    probes: Fingerprint
    snapshots: Mapping[str, Snapshot] = field(default_factory=dict)
    columns: tuple[Column, ...] = ()
    count: int = 0
    stride: int = 1
    course: Course = field(default_factory=Course)
    layers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def after(self, now: Snapshot, column: Column, steps: Mapping[str, Tensor]) -> Memory:
        """The memory one observation later; `steps` `(N,)` of each method's maps lead to it."""
        columns, stride = _thinned((*self.columns, column), self.stride)
        first = self.snapshots.get("first", now)
        if now.series.keys() - first.series.keys():  # a method that came later starts later
            first = replace(first, series={**now.series, **first.series})
        snapshots = {**self.snapshots, "first": first, "previous": now}
        return replace(
            self,
            snapshots=snapshots,
            columns=columns,
            count=self.count + 1,
            stride=stride,
            course=self.course.gone(steps, {name: column.drift[name] for name in steps}),
        )

    def fitting(self, now: Snapshot) -> tuple[Memory, list[str]]:
        """The same without the maps of methods that are of another size now, and their names."""
        strange = [
            name
            for name, series in now.series.items()
            if any(
                one.series[name].signed.shape != series.signed.shape
                for one in self.snapshots.values()
                if name in one.series
            )
        ]
        return self.without(strange), strange

    def compared_with(self, reference: int | str) -> Snapshot | None:
        """What a grid of now shows the change since; None before there is anything."""
        if reference == "previous":
            return self.snapshots.get("previous")
        return self.snapshots.get("reference", self.snapshots.get("first"))

    def marked(self, now: Snapshot, reference: int | str) -> Memory:
        """The same with `now` as the reference, if it is the first at or after the wanted step."""
        wanted = isinstance(reference, int) and "reference" not in self.snapshots
        return self.with_reference(now) if wanted and now.step >= int(reference) else self

    def with_reference(self, snapshot: Snapshot) -> Memory:
        """The same with another reference."""
        return replace(self, snapshots={**self.snapshots, "reference": snapshot})

    def seen_at(self, layers: Mapping[str, tuple[str, ...]]) -> Memory:
        """The same with the layers that were found for methods."""
        return replace(self, layers=layers)

    def with_course(self, course: Course) -> Memory:
        """The same with what was added to the course."""
        return replace(self, course=course)

    def without_reference(self) -> Memory:
        """The same without a reference."""
        return replace(self, snapshots=_but(self.snapshots, {"reference"}))

    def without(self, methods: Collection[str]) -> Memory:
        """The same but for the maps of these methods, or for `CONCEPTS`."""
        if not methods:
            return self
        snapshots = {
            name: replace(snapshot, series=_but(snapshot.series, methods))
            for name, snapshot in self.snapshots.items()
        }
        columns = tuple(
            replace(column, maps=_but(column.maps, methods), drift=_but(column.drift, methods))
            for column in self.columns
        )
        if CONCEPTS in methods:
            columns = tuple(replace(column, concepts=None, reached=None) for column in columns)
        course = self.course.without(methods)
        return replace(self, snapshots=snapshots, columns=columns, course=course)

    def to(self, device: torch.device) -> Memory:
        """The same with its maps on another device; what was one snapshot stays one."""
        moved = {id(snapshot): snapshot.to(device) for snapshot in self.snapshots.values()}
        snapshots = {name: moved[id(snapshot)] for name, snapshot in self.snapshots.items()}
        return replace(self, classes=self.classes.to(device), snapshots=snapshots)

    def state(self) -> dict[str, Any]:
        """Tensors and builtins only, for a checkpoint."""
        # The previous observation may be the first or the reference as well: it is written once.
        names = {id(snapshot): name for name, snapshot in self.snapshots.items()}
        return {
            "classes": self.classes.cpu(),
            "probes": self.probes.to_state(),
            "snapshots": {
                name: snapshot.state()
                for name, snapshot in self.snapshots.items()
                if names[id(snapshot)] == name
            },
            "same": {name: names[id(snapshot)] for name, snapshot in self.snapshots.items()},
            "columns": [dict(vars(column)) for column in self.columns],
            "count": self.count,
            "stride": self.stride,
            "course": self.course.state(),
            "layers": {name: list(layers) for name, layers in self.layers.items()},
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Memory:
        """What `state` gave."""
        known = {name: Snapshot.from_state(one) for name, one in state["snapshots"].items()}
        return cls(
            state["classes"],
            Fingerprint.from_state(state["probes"]),
            {name: known[same] for name, same in state["same"].items()},
            tuple(Column(**column) for column in state["columns"]),
            state["count"],
            state["stride"],
            # Checkpoints from before there were alerts don't have one, and older ones no layers.
            Course(**state.get("course", {})),
            {name: tuple(layers) for name, layers in state.get("layers", {}).items()},
        )


def _but(named: Mapping[str, T], left_out: Collection[str]) -> dict[str, T]:
    return {name: value for name, value in named.items() if name not in left_out}


def _thinned(columns: tuple[Column, ...], stride: int) -> tuple[tuple[Column, ...], int]:
    """Keep the first, the newest and an even choice between them; nothing drifts out unseen."""
    *kept, newest = columns
    while True:
        chosen: list[Column] = []
        passed: dict[str, float] = {}  # the largest drift of the columns left out since the last
        for column in kept:
            passed = _larger(passed, column.drift)
            if column.index % stride == 0:
                chosen.append(replace(column, drift=passed))
                passed = {}
        if len(chosen) < COLUMNS:
            return (*chosen, replace(newest, drift=_larger(passed, newest.drift))), stride
        stride *= 2


def _larger(one: Mapping[str, float], other: Mapping[str, float]) -> dict[str, float]:
    # A NaN (nothing was defined) must not hide a number.
    return {
        name: max((each[name] for each in (one, other) if name in each), key=_nan_last)
        for name in {**one, **other}
    }


def _nan_last(value: float) -> float:
    return value if value == value else float("-inf")
