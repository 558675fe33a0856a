"""The format stands still: a file of version 1 is read, and written as it was."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import made
import numpy as np

from lightning_saliency.record import PLUGIN, VERSION, read, runs
from lightning_saliency.record.files import event_files, events
from lightning_saliency.record.format import decode_header


def values(folder: Path) -> Iterator[tuple[int, Any]]:
    for path in event_files(folder):
        for event in events(path):
            for value in event.summary.value:
                yield event.step, value


def test_the_file_is_read() -> None:
    (found,) = runs(made.GOLDEN)
    assert (found.run, found.monitor, found.observations, found.last) == (".", "saliency", 3, 19)
    history = read(made.GOLDEN)
    assert history.steps.tolist() == made.GOLDEN_STEPS
    assert history.labels == ("start", "epoch 0", "epoch 1")
    assert history.times.tolist() == [1.7e9 + 0.25, 1.7e9 + 60.25, 1.7e9 + 120.25]
    np.testing.assert_array_equal(history.predictions, [[0, 0, 0], [0, 1, 0], [0, 1, 2]])
    np.testing.assert_array_equal(history.confidence, [[0.5, np.float32(0.12346), np.nan]] * 3)
    assert history.methods == ("gradient", "change")
    assert history.drift.keys() == {"gradient", "change"}
    drift = history.drift["gradient"]
    assert drift.keys() == {"previous", "first"}
    expected = np.array([[np.nan] * 3, [0, 1.2346e-5, np.nan], [0, 2.4691e-5, np.nan]])
    np.testing.assert_array_equal(drift["previous"], expected.astype(np.float32))
    assert history.numbers["churn"].tolist() == [0, 0.25, 0.5]
    assert history.rates == ((0.1, 0.01),) * 3
    assert history.best == 9
    assert history.events == ((), made.EVENTS, ())
    for method, shape, signed in (("gradient", (3, 5, 4), False), ("change", (3, 6), True)):
        stored = history.maps(method)
        assert stored.shape == (3, *shape)
        for index in range(3):
            given = made.maps(index + 10 * signed, *shape, signed=signed)
            np.testing.assert_allclose(stored[index], given, atol=1 / 254)
            expected = made.peaks(index)
            np.testing.assert_allclose(history.peaks(method)[index], expected, rtol=5e-6)
        np.testing.assert_array_equal(history.peaks(method), history.per_probe[method]["peaks"])
    np.testing.assert_array_equal(history.probes.images, made.sheet().images)
    np.testing.assert_array_equal(history.probes.masks, made.sheet().masks)
    assert history.probes.header == made.sheet().header


def test_the_same_content_is_written_as_it_was(tmp_path: Path) -> None:
    """But for the streams of zlib, which may be shorter with another release of it."""
    assert VERSION == 1
    pairs = zip(values(made.GOLDEN), values(made.golden(tmp_path).write()), strict=True)
    for (step, old), (step_now, new) in pairs:
        assert (step, old.tag, old.metadata) == (step_now, new.tag, new.metadata)
        assert old.metadata.plugin_data.plugin_name == PLUGIN
        assert old.tensor.tensor_shape == new.tensor.tensor_shape
        if "/maps/" in old.tag:
            (then,), (now,) = old.tensor.string_val, new.tensor.string_val
            start, again = decode_header(then)[1], decode_header(now)[1]
            assert then[:start] == now[:again]
            assert zlib.decompress(then[start:]) == zlib.decompress(now[again:])
        elif "observations" in old.tag:
            (then,), (now,) = old.tensor.string_val, new.tensor.string_val
            assert zlib.decompress(then) == zlib.decompress(now)
        else:
            assert old.tensor.string_val[0] == new.tensor.string_val[0]
            assert len(old.tensor.string_val) == len(new.tensor.string_val) == 3


def test_what_a_viewer_without_this_package_relies_on() -> None:
    found = {
        value.tag: (value.metadata.data_class, value.metadata.plugin_data.content)
        for _, value in values(made.GOLDEN)
    }
    about = b'{"version":1,"series":"%s","monitor":"saliency"%s}'
    tensor, blobs = 2, 3
    assert found == {
        "saliency/record/probes": (blobs, about % (b"probes", b"")),
        "saliency/record/maps/gradient": (blobs, about % (b"maps", b',"method":"gradient"')),
        "saliency/record/maps/change": (blobs, about % (b"maps", b',"method":"change"')),
        "saliency/record/observations": (tensor, about % (b"observations", b"")),
    }
    (blob,) = next(
        value.tensor.string_val for _, value in values(made.GOLDEN) if "/maps/change" in value.tag
    )
    length = int.from_bytes(blob[:4], "little")
    assert blob[4 : 4 + length] == (
        b'{"version":1,"step":0,"session":1700000000.0,"shape":[3,6],"signed":true,'
        b'"peaks":[0.001,2.5,null]}'
    )
    levels = zlib.decompress(blob[4 + length :])
    assert len(levels) == 18
    assert levels[12:] == bytes([128] * 6)
