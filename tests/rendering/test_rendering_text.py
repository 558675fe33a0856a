from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw

from lightning_saliency.rendering.arrays import FLIP, RIGHT, STRIP, WRONG, Bytes, Colour
from lightning_saliency.rendering.captions import STRIP_HEIGHT, caption_strips, side_captions
from lightning_saliency.rendering.cells import Caption
from lightning_saliency.rendering.text import ELLIPSIS, Lettering

LONG = "black-and-tan coonhound with a very long name indeed"


def count(strip: Bytes, colour: Colour) -> int:
    return int((strip == np.array(colour)).all(-1).sum())


@pytest.mark.parametrize("room", [0, 5, 14, 40, 111, 200, 1000])
def test_fitted_text_fits_and_is_as_long_as_possible(room: int) -> None:
    lettering = Lettering()
    fitted = lettering.fit(LONG, 14, room)
    assert lettering.width(fitted, 14) <= room
    if 14 <= room < 1000:
        assert fitted.endswith(ELLIPSIS)
        kept = len(fitted) - 1
        assert lettering.width(LONG[: kept + 2].rstrip() + ELLIPSIS, 14) > room
    if room == 1000:
        assert fitted == LONG


def test_text_is_brought_to_one_line() -> None:
    assert Lettering().fit(" two\nlines\there ", 14, 500) == "two lines here"


def test_wrapping_keeps_all_words_and_the_room() -> None:
    lettering = Lettering()
    lines = lettering.wrap(LONG, 14, 150, most=6)
    assert " ".join(lines) == LONG
    assert max(lettering.width(line, 14) for line in lines) <= 150
    cut = lettering.wrap(LONG, 14, 150, most=2)
    assert len(cut) == 2
    assert cut[-1].endswith(ELLIPSIS)
    assert lettering.wrap("", 14, 150, most=2) == []


@pytest.mark.parametrize("align", ["left", "centre", "right"])
def test_written_text_stays_in_its_room(align: str) -> None:
    image = Image.new("L", (400, 40))
    at = {"left": 100.0, "centre": 200.0, "right": 300.0}[align]
    write = Lettering().write
    draw = ImageDraw.Draw(image.convert("RGB"))
    canvas = draw._image
    write(draw, (at, 20), LONG, 16, (255, 255, 255), room=200, align=align)  # type: ignore[arg-type]
    columns = np.flatnonzero(np.asarray(canvas).any(axis=(0, 2)))
    assert columns.min() >= 99
    assert columns.max() <= 301
    assert np.ptp(columns) > 150


@pytest.mark.parametrize("width", [60, 88, 120, 340])
@pytest.mark.parametrize("correct", [None, True, False])
@pytest.mark.parametrize("flipped", [True, False])
def test_long_names_never_reach_the_edge_of_their_strip(
    width: int, correct: bool | None, flipped: bool
) -> None:
    caption = Caption(LONG, LONG[::-1], flipped, 0.5, correct)
    strips = caption_strips([caption, Caption("", ""), caption], width, Lettering())
    assert strips.shape == (3, STRIP_HEIGHT, width, 3)
    plain = np.array(STRIP)
    assert (strips[:, :, :5] == plain).all()
    assert (strips[:, :, -5:] == plain).all()
    assert (strips[:, 0] == plain).all()
    assert (strips[1] == plain).all()
    assert (count(strips[0], FLIP) > 0) == flipped
    np.testing.assert_array_equal(strips[0], strips[2])


def test_parts_of_a_caption_do_not_overlap() -> None:
    """Dropping the label leaves the pixels of the prediction as they were, and the other way."""
    both = caption_strips([Caption(LONG, LONG, True, 0.5)], 340, Lettering())[0]
    ink = (both != np.array(STRIP)).any((0, 2))
    gaps = np.diff(np.flatnonzero(ink))
    assert gaps.max() >= 6  # the space before the label


def test_right_and_wrong_differ_in_colour_and_in_shape() -> None:
    strips = [
        caption_strips([Caption("a", "b", False, None, correct)], 200, Lettering())[0]
        for correct in (True, False)
    ]
    assert count(strips[0], RIGHT) > 10
    assert count(strips[0], WRONG) == 0
    assert count(strips[1], WRONG) > 10
    assert count(strips[1], RIGHT) == 0
    shapes = [(strip != np.array(STRIP)).any(-1)[:, 5:24] for strip in strips]
    assert (shapes[0] != shapes[1]).sum() > 30


def test_the_label_is_left_out_where_the_tick_has_said_it() -> None:
    def right_half(caption: Caption) -> bool:
        strip = caption_strips([caption], 300, Lettering())[0]
        return bool((strip[:, 150:] != np.array(STRIP)).any())

    assert not right_half(Caption("cat", "cat", False, 0.9, True))
    assert right_half(Caption("cat", "dog", False, 0.9, False))
    assert right_half(Caption("cat", "cat", False, 0.9, None))


def test_side_captions_stay_inside() -> None:
    caption = Caption(LONG, LONG, False, 0.5, True)
    sides = side_captions([caption] * 2, (64, 100), Lettering())
    assert sides.shape == (2, 64, 100, 3)
    np.testing.assert_array_equal(sides[0], sides[1])
    assert (sides[:, [0, -1]] == sides[0, 0, 0]).all()


def test_other_scripts_are_written_or_at_least_do_not_fail() -> None:
    lettering = Lettering.for_texts(["собака", "犬", "chien"])
    assert lettering.width("собака", 14) > 0
    assert Lettering.for_texts(["chien à Été"]).extra is None


def test_breaks_of_any_kind_and_endless_names_are_written_on_one_line() -> None:
    lettering = Lettering.for_texts(["\x1e\u0100"])
    assert lettering.fit("a\x1e\u0100\u2028 \u2029\x85b", 14, 500) == "a \u0100 b"
    assert lettering.width("\x1e\u0100", 14) == lettering.width("\u0100", 14)
    assert lettering.wrap("\x1e", 14, 100, most=2) == []
    assert lettering.fit("x" * 2_000_000, 14, 40).endswith(ELLIPSIS)
