"""Pictures of maps, names and probes of every kind: of the planned size, each map in its cell."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
import torch
from fuzz_draws import KINDS, contents, dtypes, fuzz, kinds_of, names, pairs, reduced, seeds, shapes
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from lightning_saliency.rendering import Caption, encode, filmstrip, grid, to_pictures
from lightning_saliency.rendering.cells import cell_size, hatched_cell
from lightning_saliency.rendering.filmplan import film_plan
from lightning_saliency.rendering.grid import HEADINGS, grid_tiling
from lightning_saliency.rendering.layout import GAP, sheet_width
from lightning_saliency.rendering.legend import MARGIN
from lightning_saliency.rendering.text import Lettering

Sheet = NDArray[np.uint8]
Box = tuple[slice, slice]

captions = st.builds(
    Caption,
    label=names,
    prediction=names,
    flipped=st.booleans(),
    probability=st.none() | st.floats(0, 1) | st.just(float("nan")),
    correct=st.none() | st.booleans(),
)


def is_sheet(picture: Sheet, width: int) -> bool:
    return picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[1:] == (width, 3)


def readable(picture: Sheet, *, whole: bool) -> None:
    """Both formats decode to the size that was encoded; PNG to the very pixels."""
    jpeg = Image.open(BytesIO(encode(picture)))
    assert (jpeg.format, jpeg.size) == ("JPEG", picture.shape[1::-1])
    if whole:
        png = np.asarray(Image.open(BytesIO(encode(picture, "png"))))
        assert np.array_equal(png, picture)


@fuzz(60)
@given(data=st.data())
def test_probes_of_every_kind_are_drawn(data: Any) -> None:
    probes, channels = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 8))
    inputs = contents(
        data.draw(st.lists(st.sampled_from(KINDS), min_size=probes, max_size=probes)),
        (channels, *data.draw(shapes())),
        data.draw(seeds),
        data.draw(dtypes | st.just(torch.uint8)),
    )
    known = data.draw(st.sampled_from([{}, {"mean": [0.5], "std": [0.2]}, {"std": 1e30}]))
    pictures = to_pictures(inputs, **known)
    assert pictures.dtype == np.uint8
    assert (pictures.ndim, pictures.shape[-1]) == (4, 3)
    assert len(pictures) == probes
    if inputs.ndim > 3:
        assert pictures.shape[1:3] == inputs.shape[-2:]


def drawn_pictures(data: Any, probes: int, spatial: tuple[int, ...]) -> Sheet:
    channels = data.draw(st.integers(1, 4))
    return to_pictures(contents(["normal"] * probes, (channels, *spatial), 1, torch.float32))


@fuzz(30)
@given(data=st.data(), pair=pairs(), signed=st.booleans(), title=names, since=names)
def test_a_grid_has_its_planned_size_and_a_broken_map_only_its_own_cells(
    data: Any, pair: Any, signed: bool, title: str, since: str
) -> None:
    read = (lambda one: one[:, 0]) if signed else reduced
    maps = read(pair.now).float().numpy()
    reference = data.draw(st.none() | st.just(read(pair.then).float().numpy()))
    pictures = drawn_pictures(data, len(maps), data.draw(shapes(maps.ndim - 1)))
    said = data.draw(st.lists(captions, min_size=len(maps), max_size=len(maps)))
    drawing: dict[str, Any] = {"title": title, "signed": signed, "since": since}
    sheet = grid(pictures, maps, reference, said, **drawing)
    size = cell_size(112, pictures)
    tiling = grid_tiling(len(maps), size)
    assert is_sheet(sheet, sheet_width(tiling.size[1] - 2 * tiling.inset))
    top = len(sheet) - MARGIN // 2 - tiling.size[0]
    assert top > HEADINGS
    readable(sheet, whole=len(maps) == 1)

    broken = data.draw(st.integers(0, len(maps) - 1), label="broken probe")
    spoilt = maps.copy()
    places = spoilt[broken].reshape(-1)
    places[data.draw(st.integers(0, places.size - 1), label="place")] = np.nan
    down, across = tiling.corner(broken)
    down, left = top + down, MARGIN - tiling.inset + across + size[1] + GAP
    cells = slice(down, down + size[0]), slice(left, left + 2 * size[1] + GAP)
    other = grid(pictures, spoilt, reference, said, **drawing)
    assert_only(sheet, other, cells)
    hatched = hatched_cell(size, Lettering())
    assert np.array_equal(other[cells][:, : size[1]], hatched)
    assert reference is None or np.array_equal(other[cells][:, -size[1] :], hatched)


@fuzz(30)
@given(data=st.data(), title=names, signed=st.booleans())
def test_a_filmstrip_has_its_planned_size_and_a_broken_map_only_its_own_cell(
    data: Any, title: str, signed: bool
) -> None:
    probes, times = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 5))
    shape, seed = data.draw(shapes()), data.draw(seeds)
    frames = np.stack(
        [
            contents(data.draw(kinds_of(probes)), shape, seed + time, torch.float32).numpy()
            for time in range(times)
        ]
    )
    pictures = drawn_pictures(data, probes, data.draw(shapes(len(shape))))
    columns = data.draw(st.lists(names, min_size=times, max_size=times))
    said = data.draw(st.lists(captions, min_size=probes, max_size=probes))
    drift = data.draw(st.none() | st.lists(st.none() | st.floats(), min_size=times, max_size=times))
    flips = np.zeros((times, probes), dtype=bool)
    drawing: dict[str, Any] = {"title": title, "signed": signed, "drift": drift}
    sheet = filmstrip(pictures, frames, columns, said, flips, **drawing)
    headings = [column.split("\n")[:2] for column in columns]
    plan = film_plan(pictures, headings, None, with_drift=drift is not None)
    assert is_sheet(sheet, sheet_width(plan.size[1]))
    start = len(sheet) - MARGIN // 2 - plan.size[0]
    assert start > 0
    readable(sheet, whole=probes == 1)

    time, probe = data.draw(st.integers(0, times - 1)), data.draw(st.integers(0, probes - 1))
    spoilt = frames.copy()
    spoilt[time, probe].reshape(-1)[0] = np.inf
    other = filmstrip(pictures, spoilt, columns, said, flips, **drawing)
    top, left = plan.corner(probe, time + 1)
    top, left = start + top, MARGIN + left
    cell = slice(top, top + plan.strip.height), slice(left, left + plan.strip.width)
    assert_only(sheet, other, cell)
    size = plan.strip.height, plan.strip.width
    assert np.array_equal(other[cell], hatched_cell(size, Lettering()))


def assert_only(one: Sheet, other: Sheet, box: Box) -> None:
    """Two pictures differ nowhere but in a rectangle."""
    assert one.shape == other.shape
    differs = (one != other).any(-1)
    differs[box] = False
    assert not differs.any(), np.argwhere(differs)[:3]
