"""A film shows each observation once, in order, for as long as it says."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_fits as fits
import written
from numpy.typing import NDArray
from PIL import Image

from lightning_saliency import ConfigurationError, SaliencyMonitor, readings
from lightning_saliency.movie import COLOURS, HOLD, MovieFormat, films, movie
from lightning_saliency.record import History, RecordError, read
from lightning_saliency.record.history import UNRELIABLE
from lightning_saliency.rendering.arrays import FLIP
from lightning_saliency.reports.export import export

T, N = 6, 4
FORMATS: list[MovieFormat] = ["webp", "gif"]


def wandering(length: int = T, count: int = N) -> written.Floats:
    """The one hot place of each map goes from left to right as time goes on."""
    found = np.full((length, count, length, length), 1e-3, dtype=np.float32)
    for at in range(length):
        found[at, :, length // 2, at] = 1
    return found


def history(folder: Path, given: written.Floats | None = None, **changed: Any) -> History:
    maps = wandering() if given is None else given
    black = np.zeros((maps.shape[1], 12, 12, 3), dtype=np.uint8)
    return read(written.run(folder, {"gradient": maps}, pictures=black, **changed))


def frames(encoded: bytes) -> Iterator[tuple[NDArray[np.int64], int]]:
    """The frames of a film as they are shown, and the milliseconds of each."""
    image = Image.open(io.BytesIO(encoded))
    for index in range(getattr(image, "n_frames", 1)):
        image.seek(index)
        image.load()
        yield np.asarray(image.convert("RGB")).astype(np.int64), int(image.info["duration"])


def hot(frame: NDArray[np.int64]) -> int:
    """Where the hot places of the lower left probe are, in pixels from the left."""
    cell = frame[-140:-30, 14:126]
    return int(cell.sum(2).sum(0).argmax())


@pytest.mark.parametrize("format", FORMATS)
def test_observations_come_in_order(format: MovieFormat, tmp_path: Path) -> None:
    drawn: list[int] = []
    encoded = movie(history(tmp_path), "gradient", format, done=lambda: drawn.append(1))
    shown = list(frames(encoded))
    assert len(shown) == len(drawn) == T
    assert len({frame.shape for frame, _ in shown}) == 1
    places = [hot(frame) for frame, _ in shown]
    assert places == sorted(set(places)), "from left to right, each at a place of its own"
    assert [time for _, time in shown] == [500] * (T - 1) + [HOLD]
    assert Image.open(io.BytesIO(encoded)).info["loop"] == 0


@pytest.mark.parametrize("format", FORMATS)
def test_the_clock_goes_on_with_the_steps(format: MovieFormat, tmp_path: Path) -> None:
    """The ball on the track is where the step is between the first and the last."""
    steps = [0, 10, 20, 30, 40, 100]
    encoded = movie(history(tmp_path, steps=steps), "gradient", format, milliseconds=40, hold=40)
    balls = []
    for frame, time in frames(encoded):
        assert time == 40
        bright = (frame.min(2) > 200)[60:110, 200:]
        columns = np.flatnonzero(bright.sum(0) >= 8)  # higher than any letter's stroke is wide
        balls.append(float(columns.mean()))
    went = (np.array(balls) - balls[0]) / (balls[-1] - balls[0])
    np.testing.assert_allclose(went, np.array(steps) / 100, atol=0.02)


def test_some_observations_and_some_probes(tmp_path: Path) -> None:
    long = history(tmp_path, wandering(12, 40))
    whole, few = movie(long, "gradient"), movie(long, "gradient", most_frames=5, most_probes=2)
    places = [hot(frame) for frame, _ in frames(whole)]
    assert len(places) == 12
    shown = list(frames(few))
    assert len(shown) == 5
    assert [hot(shown[at][0]) for at in (0, -1)] == pytest.approx([places[0], places[-1]], abs=2)
    chosen = movie(long, "gradient", observations=[2, 7])
    assert [hot(frame) for frame, _ in frames(chosen)] == pytest.approx(
        [places[2], places[7]], abs=2
    )
    still = Image.open(io.BytesIO(movie(long, "gradient", observations=[7]))).convert("RGB")
    assert hot(np.asarray(still).astype(np.int64)) == pytest.approx(places[7], abs=2)


@pytest.mark.parametrize("shape", [(7,), (4, 5, 6)])
def test_signals_and_volumes_are_filmed(shape: tuple[int, ...], tmp_path: Path) -> None:
    given = written.maps(0, T, N, *shape, signed=True)
    given[2, 1] = np.nan
    assert len(list(frames(movie(history(tmp_path, given), "gradient")))) == T


def test_no_more_than_32_probes_are_drawn(tmp_path: Path) -> None:
    thirty = movie(history(tmp_path / "a", wandering(3, 32)), "gradient")
    forty = movie(history(tmp_path / "b", wandering(3, 40)), "gradient")
    sizes = [Image.open(io.BytesIO(one)).size for one in (thirty, forty)]
    assert sizes[0] == sizes[1]
    assert sizes[0][0] * sizes[0][1] < 1000 * 1000


def test_a_change_of_the_prediction_is_framed_when_it_shows(tmp_path: Path) -> None:
    given = np.zeros((T, N), dtype=np.int64)
    given[3:] = 1  # it changed between the second and the third that are shown
    seen = history(tmp_path, predictions=given)
    encoded = movie(seen, "gradient", "webp", observations=[0, 2, 4, 5])
    yellow = [np.abs(frame - FLIP).max(2) < 40 for frame, _ in frames(encoded)]
    legend, *_ = counts = [int(one.sum()) for one in yellow]
    assert counts[2] > legend + 4 * 300
    assert max(counts[1], counts[3]) < legend + 50


def test_maps_of_noise_are_hidden_as_in_the_grid(tmp_path: Path) -> None:
    assert UNRELIABLE == readings.UNRELIABLE
    seen = history(tmp_path, reliability=[0.9, 0.4, 0.4, 0.4])
    whole = history(tmp_path / "whole", reliability=[0.9, np.nan, 0.5, 0.6])
    shown, hidden = (next(frames(movie(one, "gradient")))[0] for one in (whole, seen))
    changed = [np.abs(hidden - shown)[-140:-30, 14 + 122 * at :][:, :112].max() for at in (0, 1)]
    assert changed[0] < 30
    assert changed[1] > 60


def test_a_gif_has_one_palette(tmp_path: Path) -> None:
    encoded = movie(history(tmp_path), "gradient", "gif")
    shown = np.stack([frame for frame, _ in frames(encoded)])
    assert len(np.unique(shown @ [65536, 256, 1])) <= COLOURS


def test_what_cannot_be_filmed_is_told(tmp_path: Path) -> None:
    seen = history(tmp_path / "run")
    with pytest.raises(ConfigurationError, match=r"Did you mean 'webp'\?"):
        movie(seen, "gradient", "web")  # type: ignore[arg-type]
    with pytest.raises(RecordError, match=r"method 'gradients' .* Did you mean 'gradient'\?"):
        movie(seen, "gradients")
    with pytest.raises(ConfigurationError, match="most_probes=0"):
        movie(seen, "gradient", most_probes=0)
    with pytest.raises(RecordError, match="can't be read back from here"):
        next(films("s3://bucket/run", "saliency", "webp"))


def test_the_command_films_one_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in "ab":
        both = {"gradient": wandering(), "other": wandering()}
        written.run(tmp_path / name, both)
    film = tmp_path / "film.GIF"
    export([str(tmp_path), "--run=a", "--movie", str(film), "--method=other", "--every=2"])
    assert "other, 4 of 6 observations" in capsys.readouterr().out
    assert film.read_bytes()[:3] == b"GIF"
    assert len(list(frames(film.read_bytes()))) == 4
    assert not (tmp_path / "saliency.html").exists()
    with pytest.raises(SystemExit):
        export([str(tmp_path), "--movie", str(film)])
    words = "Say which: --run a --monitor saliency; --run b --monitor saliency."
    assert words in capsys.readouterr().err


def fitted(folder: Path, **given: Any) -> fits.Events:
    monitor = SaliencyMonitor(alerts=None, **given)
    made = fits.trainer(logger=fits.board(folder), callbacks=[monitor], max_epochs=3)
    made.fit(fits.Net(), fits.loader(), fits.loader())
    return fits.Events(folder)


@pytest.mark.parametrize("format", FORMATS)
def test_a_fit_ends_with_its_film(format: MovieFormat, tmp_path: Path) -> None:
    methods: Any = ["saliency", "grad_cam"]
    events = fitted(tmp_path, movie=format, methods=methods, name="mine")
    for method in methods:
        ((step, encoded),) = events.images[f"mine/{method}/movie"].items()
        seen = read(tmp_path)
        image = Image.open(io.BytesIO(encoded))
        assert image.format == format.upper()
        assert image.n_frames == len(seen) == 4  # type: ignore[attr-defined]
        assert step == seen.steps[-1]
    assert len(list(tmp_path.glob("*tfevents*"))) == 1


def test_no_film_unless_it_is_wanted(tmp_path: Path) -> None:
    assert not [tag for tag in fitted(tmp_path).images if "movie" in tag]


def test_a_film_that_fails_is_told_and_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> Iterator[tuple[str, bytes]]:
        yield from films(str(tmp_path), "saliency", "webp")
        raise OSError("the film is torn")

    monkeypatch.setattr("lightning_saliency.telling.films", broken)
    events = fitted(tmp_path, movie="webp")
    assert "saliency/gradient/movie" in events.images
    told = [one.getMessage() for one in caplog.records if "torn" in one.getMessage()]
    assert told == ["SaliencyMonitor: the movie could not be written: OSError: the film is torn"]


def test_wrong_films_are_told_before_the_fit() -> None:
    with pytest.raises(ConfigurationError, match=r"movie='mp4': give 'webp' \(small\)"):
        SaliencyMonitor(movie="mp4")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="movie='gif' with record=None"):
        SaliencyMonitor(movie="gif", record=None)
