"""From a session to what is seen of its probes, on one rank or on many together."""

from __future__ import annotations

from collections.abc import Callable

from lightning_saliency.attribution.passes import in_chunks
from lightning_saliency.ranks import Ranks
from lightning_saliency.session import Session
from lightning_saliency.sighting import PLACES, Sighting
from lightning_saliency.trainers import Module


def sight(
    session: Session,
    pl_module: Module,
    ranks: Ranks,
    *,
    chunk: int,
    progress: Callable[[int, int], None],
    fine: int = PLACES,
) -> tuple[Sighting, int]:
    """Look at this rank's share of the probes, inside `observing`.

    Args:
        session: what is watched.
        pl_module: tells the device and whose statistics are rank 0's.
        ranks: of the Trainer.
        chunk: probes per pass.
        progress: called with the passes done and their number.
        fine: places wanted of a map: `Sighting.of`.

    Returns:
        What was seen, and the probes per pass that memory allowed.
    """
    ranks.share_statistics(pl_module)
    share = ranks.share(len(session.probes))
    lockstep = ranks.lockstep
    with lockstep():
        inputs, classes = session.inputs(pl_module, share), session.classes[share]
    parts = []
    for part in in_chunks(
        session.subject,
        inputs,
        classes,
        session.methods,
        chunk=chunk,
        first=share[0],
        lockstep=lockstep,
        progress=progress,
    ):
        chunk = part.chunk
        with lockstep():
            parts.append(Sighting.of(part, fine=fine))
    return Sighting.joined(parts), chunk
