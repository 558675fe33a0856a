"""Which pictures an observation gives, from what is remembered of it.

A picture is a function without arguments: it is drawn and encoded where that holds nobody up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lightning_saliency.attribution.method import AnyMethod
from lightning_saliency.memory import CONCEPTS, STRIPS, Column
from lightning_saliency.rendering import Caption, concept_strip, filmstrip, grid, to_pictures
from lightning_saliency.sighting import Sighting
from lightning_saliency.snapshot import Snapshot

SHOWN = 32
"""Probes in a grid at most."""

Picture = Callable[[], NDArray[np.uint8]]


@dataclass(frozen=True)
class Gallery:
    """What stays the same in all pictures of a fit.

    Attributes:
        images: `(n, H, W, 3)` the first n ≤ 32 probes as a person knows them.
        labels: `(n,)` the class index of each by its label; None when there are no labels.
        probes: how many there are in all.
        classes: names of the classes; their indices are written where there are none.
        signed: names of the methods whose maps have a sign.
        cautions: method name → what a reader of its pictures must know.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64] | None
    probes: int
    classes: Sequence[str] | None
    signed: frozenset[str]
    cautions: Mapping[str, str]

    @classmethod
    def of(
        cls,
        inputs: Tensor,
        labels: Tensor | None,
        classes: Sequence[str] | None,
        mean: Sequence[float] | None,
        std: Sequence[float] | None,
        methods: Mapping[str, AnyMethod],
    ) -> Gallery:
        """The gallery of these probes; `mean` and `std` are undone in pictures."""
        images = to_pictures(inputs[:SHOWN], mean=mean, std=std)
        whole = labels is not None and not labels.is_floating_point()
        indices = labels[:SHOWN].numpy() if whole and labels is not None else None
        # A user's own function may say both as well.
        signed = frozenset(name for name, one in methods.items() if getattr(one, "signed", False))
        cautions = {name: getattr(one, "caution", "") for name, one in methods.items()}
        return cls(images, indices, len(inputs), classes, signed, cautions)

    def pictures(self, view: View) -> dict[str, Picture]:
        """The pictures of one observation, by the end of their tag."""
        drawn: dict[str, Picture] = {}
        for method in view.maps:
            drawn[method] = self._grid(method, view)
            if sum(method in column.maps for column in view.columns) > 1:
                drawn[f"{method}/filmstrip"] = self._filmstrip(method, view)
        if view.concepts:
            drawn[CONCEPTS] = self._concepts(view)
        return drawn

    def _grid(self, method: str, view: View) -> Picture:
        maps, reference = view.maps[method], view.reference.get(method)
        captions = self._captions(view.predictions, view.confidence, view.flipped)
        shown = f" · {len(self.images)} of {self.probes} probes" * (len(self.images) < self.probes)
        title = " · ".join((*self._titled(method), *view.moment)) + shown
        return lambda: grid(
            self.images,
            maps,
            reference,
            captions,
            title=title,
            signed=method in self.signed,
            since=None if view.step is None else view.reference_label,
            unreliable=view.hidden.get(method),
        )

    def _filmstrip(self, method: str, view: View) -> Picture:
        columns = [column for column in view.columns if method in column.maps]
        frames = np.stack([column.maps[method].float().numpy() for column in columns])
        given = np.stack([column.predictions.numpy() for column in columns])
        flips = np.zeros(given.shape, dtype=bool)
        flips[1:] = given[1:] != given[:-1]
        captions = self._captions(view.predictions[:STRIPS], None, None)
        drift = [column.drift.get(method) for column in columns]
        return lambda: filmstrip(
            self.images[:STRIPS],
            frames,
            [column.label for column in columns],
            captions,
            flips,
            title=" · ".join((*self._titled(method), f"{columns[0].label} to {columns[-1].label}")),
            signed=method in self.signed,
            drift=drift,
        )

    def _concepts(self, view: View) -> Picture:
        known = [
            (column.label, column.concepts, column.reached)
            for column in view.columns
            if column.concepts is not None and column.reached is not None
        ]
        labels, concepts, reached = zip(*known, strict=True)
        title = " · ".join(("what a class looks like to the model", *view.moment))
        names = [self._named(index) for index in view.concepts]
        return lambda: concept_strip(
            np.stack([to_pictures(one) for one in concepts]),
            np.stack([one.numpy() for one in reached]),
            labels,
            names,
            title=title,
        )

    def _titled(self, method: str) -> tuple[str, ...]:
        """Its name, and what the reader must know of it."""
        return tuple(filter(None, (method, self.cautions.get(method))))

    def _captions(
        self,
        predictions: NDArray[np.int64],
        confidence: NDArray[np.float32] | None,
        flipped: NDArray[np.bool_] | None,
    ) -> list[Caption]:
        return [
            Caption(
                label="" if self.labels is None else self._named(int(self.labels[row])),
                prediction=self._named(int(predicted)),
                flipped=bool(flipped is not None and flipped[row]),
                probability=None if confidence is None else float(confidence[row]),
                correct=None if self.labels is None else bool(self.labels[row] == predicted),
            )
            for row, predicted in enumerate(predictions)
        ]

    def _named(self, index: int) -> str:
        known = self.classes is not None and 0 <= index < len(self.classes)
        return str(self.classes[index]) if known and self.classes is not None else str(index)


@dataclass(frozen=True)
class View:
    """One observation on the host, as it is drawn: its first n ≤ 32 probes.

    Attributes:
        step: the x of the pictures; None of a picture without a training.
        label: what people call that moment.
        maps: method name → `(n, *spatial)` float32.
        reference: the same of an earlier observation, or empty at the first.
        reference_label: what people call that one.
        predictions: `(n,)` int64.
        confidence: `(n,)` float32, probability of the prediction in 0..1.
        flipped: `(n,)` bool, whether the prediction changed since the previous observation.
        columns: of the filmstrip.
        concepts: the classes whose pictures the columns hold.
        hidden: method name → `(n,)` bool, which of its maps are noise for the most part.
    """

    step: int | None
    label: str
    maps: Mapping[str, NDArray[np.float32]]
    reference: Mapping[str, NDArray[np.float32]]
    reference_label: str
    predictions: NDArray[np.int64]
    confidence: NDArray[np.float32]
    flipped: NDArray[np.bool_]
    columns: tuple[Column, ...]
    concepts: Sequence[int] = ()
    hidden: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)

    @property
    def moment(self) -> tuple[str, ...]:
        """When it was, in words."""
        return () if self.step is None else (self.label, f"step {self.step}")

    @classmethod
    def of(
        cls,
        now: Snapshot,
        reference: Snapshot | None,
        columns: tuple[Column, ...],
        host: Mapping[str, NDArray[np.float32]],
        concepts: Sequence[int] = (),
        hidden: Mapping[str, NDArray[np.bool_]] = MappingProxyType({}),
    ) -> View:
        """The view of an observation that came to the host as `drawn` named things."""
        given = host["predictions"]
        return cls(
            step=now.step,
            label=now.label,
            maps={name: host[f"map {name}"] for name in now.series},
            reference={
                name: host[f"map before {name}"]
                for name in now.series
                if f"map before {name}" in host
            },
            reference_label="" if reference is None else reference.label,
            predictions=given.astype(np.int64),
            confidence=host["confidence"],
            flipped=given != host.get("predictions before", given),
            columns=columns,
            concepts=concepts,
            hidden=hidden,
        )


def drawn(
    seen: Sighting, now: Snapshot, before: Snapshot | None, reference: Snapshot | None
) -> dict[str, Tensor]:
    """What pictures need, by name, for the one transfer to the host."""
    needed = {
        "predictions": now.predictions[:SHOWN],
        "confidence": seen.confidence[:SHOWN],
    }
    if before is not None:
        needed["predictions before"] = before.predictions[:SHOWN]
    for name, series in now.series.items():
        needed[f"map {name}"] = series.map[:SHOWN]
        if reference is not None and name in reference.series:
            needed[f"map before {name}"] = reference.series[name].map[:SHOWN]
    return needed
