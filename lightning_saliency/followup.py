"""What follows an observation: audits where they are due, and alerts.

Whatever fails here is told, and takes nothing from the observation itself.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from lightning_saliency.alerting import alerted
from lightning_saliency.auditing import Audit, audits_of
from lightning_saliency.finding import Finding
from lightning_saliency.inquiry import Inquiry
from lightning_saliency.memory import Memory


class Followed(NamedTuple):
    """What came of an observation in the end.

    Attributes:
        finding: all of it.
        memory: one observation later.
        warnings: to be told once in a run.
        said: to be told now.
        failures: what was left out, in words, and why.
    """

    finding: Finding
    memory: Memory
    warnings: tuple[str, ...] = ()
    said: tuple[str, ...] = ()
    failures: tuple[tuple[str, Exception], ...] = ()

    def and_then(self, what: str, work: Callable[[Followed], Followed]) -> Followed:
        """The same after further work, or without it where it failed."""
        try:
            return work(self)
        except Exception as error:
            told = f"{what} failed and were left out"
            return self._replace(failures=(*self.failures, (told, error)))


def followed_up(inquiry: Inquiry, before: Memory, finding: Finding, after: Memory) -> Followed:
    """Audit the maps and watch the cells, where the user wants that and it is due.

    Args:
        inquiry: what was seen, and how to see more; its conduct is None outside a fit.
        before: what was remembered before this observation.
        finding: of the observation.
        after: what is remembered after it.
    """
    followed = Followed(finding, after)
    audits, fits = inquiry.settings.audits, inquiry.conduct is not None
    if audits is not None and (not fits or audits.due(before.count)):
        for what, audit in audits_of(first=before.count <= 1).items():
            followed = followed.and_then(what, partial(_audited, inquiry, audit))
    # The untrained network's cells are of another kind than those of the training.
    if inquiry.settings.alerts is not None and fits and before.count:
        followed = followed.and_then("the alerts", partial(_alerted, inquiry))
    return followed


def _audited(inquiry: Inquiry, audit: Audit, one: Followed) -> Followed:
    with inquiry.ranks.observing(inquiry.watched):
        more, warnings = audit(inquiry, one.finding.numbers)
    return one._replace(finding=one.finding.joined(more), warnings=(*one.warnings, *warnings))


def _alerted(inquiry: Inquiry, one: Followed) -> Followed:
    with inquiry.ranks.observing(inquiry.watched):
        more, course, said = alerted(inquiry, one.memory.course)
    memory = one.memory.with_course(course)
    return one._replace(finding=one.finding.joined(more), memory=memory, said=(*one.said, *said))
