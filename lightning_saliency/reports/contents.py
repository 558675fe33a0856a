"""What a page holds: a record as the documents that the viewer asks for, and its blobs.

The documents are those of the TensorBoard plugin, but that a blob's key is the key of the page.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from lightning_saliency.record import VERSION, History
from lightning_saliency.record.format import decode_header

Document = dict[str, Any]

Pack = Callable[[bytes], str]
"""Takes a blob in, and gives its key."""


def kept(history: History, every: int, eventful: Iterable[int] = ()) -> list[int]:
    """Which observations of a run a page holds, by their number in 0..T−1.

    The first, the last, every so many, and those at which something happened: an alert that a page
    leaves out would be as good as none.

    Args:
        history: of the run.
        every: 1 keeps all.
        eventful: steps, of this run and of those beside it, so that all have the same.
    """
    last, steps = len(history) - 1, set(eventful)
    return [
        index
        for index, step in enumerate(history.steps.tolist())
        if index % every == 0 or index == last or step in steps
    ]


def eventful(history: History) -> set[int]:
    """The steps at which something happened: alerts, events, a resume, the best checkpoint."""
    marked = {int(one["step"]) for one in history.observations if one["events"]}
    return marked if history.best is None else marked | {history.best}


def row(history: History, name: str) -> Document:
    """The run's line in the index.

    Args:
        history: of the run.
        name: what the page calls it.
    """
    return {
        "run": name,
        "monitor": history.monitor,
        "methods": list(history.methods),
        "observations": len(history),
        "last": int(history.steps[-1]),
        "time": float(history.times[-1]),
    }


def series(history: History, name: str, chosen: Sequence[int], pack: Pack) -> Document:
    """The probes and the observations of a run; maps and images go to `pack`.

    Args:
        history: of the run.
        name: what the page calls it.
        chosen: observations, of `kept`.
        pack: takes the blobs.
    """
    probes = history.probes
    masks = None if probes.mask_sprite is None else pack(probes.mask_sprite)
    return {
        "version": VERSION,
        "run": name,
        "monitor": history.monitor,
        "probes": {**probes.header, "sprite": pack(probes.sprite), "masks": masks},
        "observations": _observations(history, chosen, pack),
        "notes": _notes(len(history), len(chosen)),
    }


def _observations(history: History, chosen: Sequence[int], pack: Pack) -> list[Document]:
    """The chosen ones; numbers that are not measured each time, as floors, come with the next."""
    found, start = [], 0
    for index in chosen:
        numbers: Document = {}
        for one in history.observations[start : index + 1]:
            numbers |= one["numbers"]
        found.append({**_observation(history, index, pack), "numbers": numbers})
        start = index + 1
    return found


def _observation(history: History, index: int, pack: Pack) -> Document:
    """One observation, the peaks of its maps among what is known of them."""
    document = history.observations[index]
    maps: dict[str, str] = {}
    methods = {method: dict(known) for method, known in document["methods"].items()}
    for method, blobs in history.blobs.items():
        blob = blobs[index]
        if blob is not None:
            maps[method] = pack(blob)
            methods.setdefault(method, {}).setdefault("peaks", decode_header(blob)[0]["peaks"])
    return {**document, "methods": methods, "maps": maps}


def _notes(count: int, chosen: int) -> list[str]:
    if chosen == count:
        return []
    return [
        f"This page holds {chosen} of {count} observations: the first, the last, some between, and "
        "those where something happened. Drift from the previous is from the one before in the run."
    ]
