"""A film of a run: the maps of its probes, observation by observation, as one animated picture."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lightning_saliency.errors import ConfigurationError, did_you_mean
from lightning_saliency.record import History, RecordError, read
from lightning_saliency.rendering import Caption
from lightning_saliency.rendering.film import Film
from lightning_saliency.rendering.filmplan import columns_shown, flips_shown

MovieFormat = Literal["webp", "gif"]

FORMATS: Mapping[str, MovieFormat] = MappingProxyType({"webp": "webp", "gif": "gif"})

PROBES = 32
"""Probes in a film at most."""

CELL = 112
"""Pixels of a probe's side."""

PACE = (100, 500)
"""Milliseconds of a frame, the fewest and the most, by default."""

LENGTH = 15_000
"""Milliseconds of a film by default, where its pace allows it."""

HOLD = 2_000
"""Milliseconds for which the last frame stays."""

COLOURS = 128
"""Of a GIF: it may have 256."""

LOGGED = 50
"""Frames of a film in an event file at most, each of which is some 60 kB there."""

_GIF_CELL = 80  # pixels, in an event file: a GIF takes four times the bytes

_QUALITY = 70
_EFFORT = 1  # of 6: more saves a tenth of the bytes, and takes four times the time
_SAMPLED = 8


def movie(
    history: History,
    method: str,
    format: MovieFormat = "webp",
    *,
    observations: Sequence[int] | None = None,
    milliseconds: int | None = None,
    hold: int = HOLD,
    most_probes: int = PROBES,
    most_frames: int | None = None,
    cell: int = CELL,
    done: Callable[[], object] = lambda: None,
) -> bytes:
    """Draw a film of the grid of probes.

    Args:
        history: of the run.
        method: whose maps.
        format: ``webp`` (small, millions of colours) or ``gif`` (128 colours).
        observations: which, by their number in 0..T−1; those with maps of this method when not
            given.
        milliseconds: of a frame; as long as the film is short when not given.
        hold: milliseconds of the last frame.
        most_probes: the first so many are drawn.
        most_frames: the first and the newest observation, and others evenly between them.
        cell: pixels; a probe has the area cell².
        done: called after each frame.

    Raises:
        RecordError: there are no maps of that method.
        ConfigurationError: another format, or no probe and no frame.
    """
    if format not in FORMATS:
        raise ConfigurationError(f"format={format!r} of a film. {did_you_mean(format, FORMATS)}")
    shown = _shown(history, method, observations, most_frames)
    count = min(most_probes, len(history.probes))
    if count < 1 or not shown:
        raise ConfigurationError(
            f"most_probes={most_probes} and most_frames={most_frames}: give 1 or more of each."
        )
    pace = milliseconds or max(PACE[0], min(PACE[1], LENGTH // len(shown)))
    times = [pace] * (len(shown) - 1) + [max(hold, pace)]
    draw = _drawing(history, method, shown, count, cell)
    encoded = _as_webp if format == "webp" else _as_gif
    return encoded(draw, times, done)


def films(folder: str, monitor: str, format: MovieFormat) -> Iterator[tuple[str, bytes]]:
    """The end of a tag and the film of each method that a monitor recorded, for the event file.

    Args:
        folder: of a run's event files.
        monitor: its name.
        format: of the films.

    Raises:
        RecordError: nothing can be read there.
    """
    if "://" in folder:
        raise RecordError(
            f"what is recorded in {folder!r} can't be read back from here. Copy the run to a disk: "
            "lightning-saliency export RUN --movie film.webp"
        )
    history = read(folder, ".", monitor)
    cell = CELL if format == "webp" else _GIF_CELL
    for method, blobs in history.blobs.items():
        if sum(blob is not None for blob in blobs) > 1:
            yield f"{method}/movie", movie(history, method, format, most_frames=LOGGED, cell=cell)


def _shown(
    history: History, method: str, wanted: Sequence[int] | None, most: int | None
) -> list[int]:
    if method not in history.blobs:
        raise RecordError(
            f"method {method!r} is not in the record of {history.run!r}. "
            f"{did_you_mean(method, history.blobs)}"
        )
    blobs = history.blobs[method]
    every = range(len(history)) if wanted is None else wanted
    known = [index for index in every if blobs[index] is not None]
    if not known:
        raise RecordError(f"{history.run!r} has no maps of {method!r} yet: wait for a validation.")
    return [known[at] for at in columns_shown(len(known), most or len(known))]


def captions(history: History, index: int, flipped: NDArray[np.bool_], count: int) -> list[Caption]:
    """What the model said of the first probes at an observation, and whether that is right."""
    probes = history.probes
    labels = probes.targets or [None] * count
    given = history.predictions[index, :count].tolist()
    sure = history.confidence[index, :count].tolist()
    found = []
    for label, predicted, probability, change in zip(labels, given, sure, flipped, strict=False):
        known = isinstance(label, int)
        found.append(
            Caption(
                label=probes.class_name(label) if isinstance(label, int) else "",
                prediction=probes.class_name(predicted),
                flipped=bool(change),
                probability=None if np.isnan(probability) else probability,
                correct=label == predicted if known else None,
            )
        )
    return found


def _drawing(
    history: History, method: str, shown: Sequence[int], count: int, cell: int
) -> Callable[[int], Image.Image]:
    """A function that draws a frame by its number."""
    changed = np.zeros(history.predictions.shape, dtype=bool)
    changed[1:] = history.predictions[1:] != history.predictions[:-1]
    flips = flips_shown(changed, shown)
    flips[0] = False
    film = _film(history, method, shown, count, cell)

    def draw(place: int) -> Image.Image:
        blob = history.blob(method, shown[place])
        if blob is None:
            raise RecordError(f"the maps of observation {shown[place]} are gone.")
        said = captions(history, shown[place], flips[place], count)
        noisy = history.unreliable(method, shown[place])[:count]
        return Image.fromarray(film.frame(place, blob.maps[:count], said, noisy))

    return draw


def _film(history: History, method: str, shown: Sequence[int], count: int, cell: int) -> Film:
    probes = history.probes
    about = probes.methods.get(method, {})
    first = history.blob(method, shown[-1])
    some = f"{count} of {len(probes)} probes" if count < len(probes) else None
    title = [method, about.get("caution"), None if history.run == "." else history.run, some]
    return Film(
        probes.images[:count],
        [(history.labels[index], int(history.steps[index])) for index in shown],
        title=" · ".join(filter(None, title)),
        names=probes.classes or (),
        signed=first is not None and bool(first.header["signed"]),
        judged=any(isinstance(one, int) for one in probes.targets or ()),
        cell=cell,
    )


class _Reel(Image.Image):
    """Frames as one picture of many, each drawn when it is asked for: one at a time in memory."""

    def __init__(
        self, draw: Callable[[int], Image.Image], count: int, done: Callable[[], object]
    ) -> None:
        super().__init__()
        self.n_frames = count
        self._draw, self._done, self._at = draw, done, -1
        self.seek(0)

    def seek(self, frame: int) -> None:
        """Go on to the next frame; an encoder that goes back, at its end, finds the last."""
        if frame >= self.n_frames:
            raise EOFError(f"{frame} of {self.n_frames} frames")
        if frame > self._at:
            drawn = self._draw(frame)
            self.im, self._mode, self._size = drawn.im, drawn.mode, drawn.size
            self._at = frame
            self._done()

    def tell(self) -> int:
        """The frame that is there."""
        return self._at


def _as_webp(
    draw: Callable[[int], Image.Image], times: list[int], done: Callable[[], object]
) -> bytes:
    reel = _Reel(draw, len(times), done)
    return _saved(reel, "WEBP", times, quality=_QUALITY, method=_EFFORT)


def _as_gif(
    draw: Callable[[int], Image.Image], times: list[int], done: Callable[[], object]
) -> bytes:
    """With one palette for all frames: with one for each, what stays the same would flicker."""
    sampled = [draw(place) for place in range(0, len(times), max(1, len(times) // _SAMPLED))]
    # Few colours repeat more often, and what repeats is small.
    mixture = Image.new("RGB", (sampled[0].width, sampled[0].height * len(sampled)))
    for place, one in enumerate(sampled):
        mixture.paste(one, (0, place * one.height))
    palette = mixture.quantize(COLOURS, dither=Image.Dither.NONE)

    def frames() -> Iterator[Image.Image]:
        for place in range(len(times)):
            yield draw(place).quantize(palette=palette, dither=Image.Dither.NONE)
            done()

    first, *others = frames()
    return _saved(first, "GIF", times, append_images=others)


def _saved(image: Image.Image, kind: str, times: list[int], **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, save_all=True, duration=times, loop=0, **options)
    return stream.getvalue()
