"""Two runs side by side: are their probes the same, and which observations belong together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lightning_saliency.errors import ConfigurationError
from lightning_saliency.record import History, ProbeSheet

_PNG = b"\x89PNG"
_LOSS = 1.0  # of 255, in the mean: what a JPEG may change of an image
_NAMED = 4  # probes that are named before it only counts


@dataclass(frozen=True)
class Pair:
    """An observation of each run.

    Attributes:
        a, b: their numbers in the runs.
        label: what people call that moment, in the first run.
        step: of the first run.
    """

    a: int
    b: int
    label: str
    step: int

    @property
    def words(self) -> str:
        """When it was."""
        same = self.label == f"step {self.step}"
        return self.label if same else f"{self.label}, step {self.step}"


def check_same_probes(a: History, b: History) -> None:
    """Refuse runs that watched other probes.

    Raises:
        ConfigurationError: with how they differ.
    """
    if a.probes.hash != b.probes.hash:
        raise ConfigurationError(
            f"The runs watched other probes (hash {a.probes.hash[:8]} and {b.probes.hash[:8]}): "
            f"{difference(a.probes, b.probes)}. There is nothing to lay side by side. Give both "
            "monitors the same probes, by indices or a Probes object, and the same transforms."
        )


def difference(a: ProbeSheet, b: ProbeSheet) -> str:
    """How the probes of two runs differ, in words."""
    if len(a) != len(b):
        same = len(set(a.names) & set(b.names))
        return f"{len(a)} and {len(b)} of them ({same} names are in both)"
    if a.header["image"]["size"] != b.header["image"]["size"]:
        sizes = ["×".join(map(str, one.header["image"]["size"])) for one in (a, b)]
        return f"their images are of {sizes[0]} and {sizes[1]} pixels"
    images = _differing_images(a, b)
    if images.any() and _digests(a) == _digests(b):
        return "the same images in another order"
    found = []
    if images.any():
        found.append(f"the inputs of {_which(images, a)} differ")
    labels = np.array([x != y for x, y in zip(a.targets or (), b.targets or (), strict=False)])
    if (a.targets is None) != (b.targets is None):
        found.append("only one of them has labels")
    elif labels.any():
        found.append(f"the labels of {_which(labels, a)} differ")
    if a.classes != b.classes:
        found.append("their classes have different names")
    return "; ".join(found) or (
        "their images and labels look the same, so the inputs differ by a little, or in what an "
        "image does not show, as by another normalisation or precision"
    )


def _differing_images(a: ProbeSheet, b: ProbeSheet) -> NDArray[np.bool_]:
    if a.images.shape != b.images.shape:
        return np.ones(len(a), dtype=bool)
    apart = np.abs(a.images.astype(np.int16) - b.images).mean((1, 2, 3))
    exact = a.sprite.startswith(_PNG) and b.sprite.startswith(_PNG)
    return np.asarray(apart > (0 if exact else _LOSS))


def _digests(one: ProbeSheet) -> list[bytes]:
    return sorted(image.tobytes() for image in one.images)


def _which(differ: NDArray[np.bool_], probes: ProbeSheet) -> str:
    at = np.flatnonzero(differ).tolist()
    named = ", ".join(probes.names[index] for index in at[:_NAMED])
    return f"{len(at)} of {len(probes)} ({named}{', …' if len(at) > _NAMED else ''})"


def pairs(a: History, b: History) -> tuple[list[Pair], str]:
    """The observations of two runs that belong together, and by what: ``step`` or ``label``.

    By steps, unless more of them have the same label: runs of other batch sizes have other steps at
    the same epoch.

    Raises:
        ConfigurationError: there are none.
    """
    found = {
        "step": _matching(a, a.steps.tolist(), b.steps.tolist()),
        "label": _matching(a, list(a.labels), list(b.labels)),
    }
    by = "label" if len(found["label"]) > len(found["step"]) else "step"
    if not found[by]:
        raise ConfigurationError(
            f"No observation of {a.run!r} and {b.run!r} is of one step or of one label: their "
            f"steps are {_span(a)} and {_span(b)}. Observe both at the same steps."
        )
    return found[by], by


def _matching(a: History, of_a: list[object], of_b: list[object]) -> list[Pair]:
    known = {key: index for index, key in enumerate(of_b)}
    return [
        Pair(index, known[key], a.labels[index], int(a.steps[index]))
        for index, key in enumerate(of_a)
        if key in known
    ]


def _span(one: History) -> str:
    return f"{one.steps[0]} to {one.steps[-1]}" if len(one) else "none"
