"""The sheet of the probes: every picture is found again in its place."""

from __future__ import annotations

from typing import Any

import made
import numpy as np
import pytest
from numpy.typing import NDArray

from lightning_saliency.record import NewerRecordError, ProbeSheet, RecordError
from lightning_saliency.record.probes import EXACT, probe_sheet

ABOUT: dict[str, Any] = {
    "hash": "",
    "names": [],
    "classes": None,
    "targets": None,
    "explained": [],
    "methods": {},
}


def pictures(count: int, height: int, width: int) -> NDArray[np.uint8]:
    """Soft colours, another one in each picture."""
    y, x = np.mgrid[:height, :width]
    soft = (y / height * 90 + x / width * 90)[None, :, :, None]
    colours = np.random.default_rng(0).integers(0, 70, (count, 1, 1, 3))
    found: NDArray[np.uint8] = (soft + colours).astype(np.uint8)
    return found


@pytest.mark.parametrize("size", [(1, 1), (4, 4), (28, 28), (112, 112), (30, 90), (112, 7)])
@pytest.mark.parametrize("count", [1, 2, 7, 64])
def test_small_pictures_come_back_as_they_were(count: int, size: tuple[int, int]) -> None:
    given = pictures(count, *size)
    masks = given[..., 0] > 80
    found = ProbeSheet.decode(probe_sheet(given, masks, ABOUT).encoded())
    np.testing.assert_array_equal(found.images, given)
    np.testing.assert_array_equal(found.masks, masks)
    assert len(found) == count
    assert found.header["image"]["size"] == list(size)


def test_a_sheet_is_about_square() -> None:
    for count, size in [(64, (112, 112)), (64, (32, 128)), (9, (60, 20)), (1000, (28, 28))]:
        image = probe_sheet(pictures(count, *size), None, ABOUT).header["image"]
        columns, (height, width) = image["columns"], image["cell"]
        rows = -(-count // columns)
        assert 0.5 < columns * width / (rows * height) < 2


def test_large_pictures_are_averaged_down() -> None:
    given = pictures(5, 224, 336)
    found = probe_sheet(given, None, ABOUT)
    assert found.images.shape == (5, 75, 112, 3)
    assert found.masks is None
    np.testing.assert_allclose(found.images.mean((1, 2)), given.mean((1, 2)), atol=1)


def test_many_probes_share_the_room_of_64() -> None:
    found = probe_sheet(pictures(256, 112, 112), None, ABOUT)
    assert found.images.shape == (256, 56, 56, 3)


def test_photographs_are_not_kept_exactly() -> None:
    """The event writer sums a check over each byte in Python."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 28, 28, 3))
    photographs = noise.repeat(4, 1).repeat(4, 2).astype(np.uint8)
    photographs += np.random.default_rng(1).integers(0, 9, photographs.shape).astype(np.uint8)
    found = ProbeSheet.decode(probe_sheet(photographs, None, ABOUT).encoded())
    assert found.sprite.startswith(b"\xff\xd8")
    gap = np.abs(found.images.astype(int) - photographs)
    assert np.median(gap) <= 4
    small = probe_sheet(pictures(64, 112, 112), None, ABOUT)
    assert small.sprite.startswith(b"\x89PNG")
    assert len(small.sprite) < EXACT


def test_what_the_header_says() -> None:
    found = ProbeSheet.decode(made.sheet().encoded())
    assert found.names == ("val[0]", "val[1]", "val[2]")
    assert found.classes == ("naïve", "<b>bold</b>")
    assert (found.targets, found.explained) == ((0, 1, 0), (0, 1, 0))
    assert found.hash == made.HASH
    assert found.methods["change"] == {
        "signed": True,
        "words": "mine.change",
        "caution": "a caution",
    }


def test_damage_and_later_versions_are_refused() -> None:
    header, sprite, masks = made.sheet().encoded()
    later = header.replace(b'{"version":1,', b'{"version":3,')
    with pytest.raises(NewerRecordError, match=r"The header of the probes is of version 3"):
        ProbeSheet.decode([later, sprite, masks])
    with pytest.raises(RecordError, match="images are missing"):
        ProbeSheet.decode([header, sprite])
    with pytest.raises(RecordError, match="header of the probes is damaged"):
        ProbeSheet.decode([])
    other = probe_sheet(pictures(1, 5, 5), None, ABOUT).sprite
    with pytest.raises(RecordError, match=r"\(5, 5\) and not \(8, 8\)"):
        _ = ProbeSheet.decode([header, other, masks]).images
