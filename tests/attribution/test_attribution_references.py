"""Every method agrees with its references; where it does not, for the reason that is told."""

from __future__ import annotations

import pytest
from references import ROWS, Row

from lightning_saliency.attribution import METHODS


def named(rows: list[Row]) -> dict[str, Row]:
    return {f"{row.method} × {row.reference}": row for row in rows}


AGREEING = named([row for row in ROWS if not row.reason])
DIFFERING = named([row for row in ROWS if row.reason])


def test_every_method_has_a_reference() -> None:
    assert {row.method for row in AGREEING.values()} == set(METHODS)
    assert len(AGREEING) + len(DIFFERING) == len(ROWS), "two rows of one name"


@pytest.mark.parametrize("row", AGREEING.values(), ids=AGREEING)
def test_a_method_is_its_reference(row: Row) -> None:
    assert row.undone is None
    assert row.difference() <= 1e-5


@pytest.mark.parametrize("row", DIFFERING.values(), ids=DIFFERING)
def test_a_method_that_differs_does_so_for_the_reason_told(row: Row) -> None:
    assert row.difference() > 1e-3
    assert row.difference(undone=True) <= 1e-5
