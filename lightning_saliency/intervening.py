"""A region alert is followed: the intervention on the examples of its panel, its words and picture.

One rank does it for all, unless parameters are sharded.
"""

from __future__ import annotations

import random
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_saliency.alerts.cells import cell_mask, cell_mass
from lightning_saliency.alerts.tiers import RegionAlert
from lightning_saliency.attribution.points import mix
from lightning_saliency.gallery import Picture
from lightning_saliency.inquiry import Inquiry
from lightning_saliency.intervention import Intervention, intervene
from lightning_saliency.rendering import to_pictures
from lightning_saliency.rendering.alert import alert_sheet
from lightning_saliency.session import Session

ORDINARY = 8
"""Other cells that are exchanged once each, to hold the fall against."""

SHOWN = 6
"""Examples in the picture, half of them for what they have in the region, half for what it did."""


class Panel(NamedTuple):
    """Examples that are charted together: their session, and their maps `(N, *spatial)`."""

    session: Session
    maps: Tensor


class Tested(NamedTuple):
    """What came of an intervention, on the host: it goes to the other ranks.

    Attributes:
        words: of the alert and of the intervention, in Markdown.
        relies: whether it may be said that the model relies on the region.
        pictures: three times `(n, H, W, 3)`: as they are, covered, exchanged.
        maps: `(n, *spatial)`.
        scores: `(n, 3)`, of the same three.
        labels: n.
        inside: `(*spatial)` of the inputs.
    """

    words: str
    relies: bool
    pictures: list[NDArray[np.uint8]]
    maps: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: list[str]
    inside: NDArray[np.bool_]


def tested(
    inquiry: Inquiry, panel: Panel, donors: Panel, alert: RegionAlert
) -> tuple[Tested, Picture]:
    """Intervene in the region of an alert, inside `observing`.

    Args:
        inquiry: what was seen, and how to see more.
        panel: in which the alarm was; its examples are changed.
        donors: whose contents are put there: the training as it passes, where that is watched.
        alert: the region.
    """
    make = partial(_test, inquiry, panel, donors, alert)
    found = make() if inquiry.ranks.sharded else inquiry.ranks.made_by_first(make)
    now = inquiry.now
    title = f"region alert · {alert.where} · {now.label} · step {now.step}"
    sheet = partial(
        alert_sheet, found.pictures, found.maps, found.inside, found.scores, found.labels,
        title=title,
    )  # fmt: skip
    return found, sheet


def _test(inquiry: Inquiry, panel: Panel, donors: Panel, alert: RegionAlert) -> Tested:
    cells = [one.cell for one in alert.alarms]
    with inquiry.lockstep():
        inputs = panel.session.inputs(inquiry.module, range(len(panel.session.probes)))
        theirs = _of_group(donors.session, alert.alarms[0].group)
        strange = donors.session.inputs(inquiry.module, theirs), donors.session.classes[theirs]
        inside = cell_mask(inputs.shape[2:], alert.grid, cells)
    found = intervene(
        inquiry.session.subject,
        inputs,
        panel.session.classes,
        inside,
        donors=strange,
        ordinary=_ordinary(inquiry, alert, inputs),
        seed=mix(inquiry.settings.seed, inquiry.now.step),
        chunk=inquiry.chunk,
        lockstep=inquiry.lockstep,
    )
    with inquiry.lockstep():
        return _shown(inquiry, panel, alert, found, inside)


def _of_group(session: Session, group: int) -> list[int]:
    """The examples of the class in which the alarm was; all, where it was in all or there is none.

    Group 0 is all examples, 1 + c the class c.
    """
    own = (session.classes == group - 1).nonzero().flatten().tolist() if group else []
    return own or list(range(len(session.probes)))


def _ordinary(inquiry: Inquiry, alert: RegionAlert, inputs: Tensor) -> list[Tensor]:
    """Other cells, the same number of them on all ranks."""
    cells = {one.cell for one in alert.alarms}
    others = [cell for cell in range(int(np.prod(alert.grid))) if cell not in cells]
    own = random.Random(mix(inquiry.settings.seed, inquiry.now.step))
    chosen = own.sample(others, min(ORDINARY, len(others)))
    return [cell_mask(inputs.shape[2:], alert.grid, [cell]) for cell in chosen]


def _shown(
    inquiry: Inquiry, panel: Panel, alert: RegionAlert, found: Intervention, inside: Tensor
) -> Tested:
    """Those with most of their evidence in the region, and those that an exchange costs most."""
    share = cell_mass(panel.maps, max(alert.grid))[:, [one.cell for one in alert.alarms]].sum(1)
    fall = found.scores[:, 0] - found.scores[:, 2]
    most = _most(share.cpu(), SHOWN // 2, [])
    most += _most(fall, SHOWN - len(most), most)
    session, watched = panel.session, inquiry.session.probes
    own = session.probes.inputs[most].float()
    drawn = to_pictures(
        # Together, so that one range of values is black to white in all of them.
        torch.cat([own, found.covered[most].float(), found.swapped[most].float()]),
        mean=watched.mean,
        std=watched.std,
        slice_index=_slice(inside),
    )
    names = watched.classes
    classes = session.classes[most].tolist()
    return Tested(
        alert.words(found.words()),
        found.relies,
        np.split(drawn, 3),
        panel.maps[most].float().cpu().numpy(),
        found.scores[most, :3].float().numpy(),
        [str(names[one]) if names and 0 <= one < len(names) else str(one) for one in classes],
        inside.numpy(),
    )


def _most(values: Tensor, count: int, without: list[int]) -> list[int]:
    """The places of the largest values, but for some."""
    order = values.nan_to_num(-torch.inf).argsort(descending=True, stable=True).tolist()
    return [one for one in order if one not in without][:count]


def _slice(inside: Tensor) -> int | None:
    """Of a volume, the slice in the middle of the region."""
    if inside.ndim != 3:
        return None
    return int(inside.flatten(1).any(1).nonzero().float().mean())
