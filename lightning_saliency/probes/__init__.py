"""Probes: the fixed, hashed examples that are watched, and how they are chosen and read."""

from __future__ import annotations

from lightning_saliency.probes.choose import choose
from lightning_saliency.probes.fields import Fields
from lightning_saliency.probes.fingerprint import Fingerprint
from lightning_saliency.probes.isolation import own_randomness
from lightning_saliency.probes.labels import class_names, known_labels
from lightning_saliency.probes.normalisation import normalisation_of
from lightning_saliency.probes.read import is_iterable
from lightning_saliency.probes.value import Probes

__all__ = [
    "Fields",
    "Fingerprint",
    "Probes",
    "choose",
    "class_names",
    "is_iterable",
    "known_labels",
    "normalisation_of",
    "own_randomness",
]
