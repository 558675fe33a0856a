"""The floor ladder: how far maps move when nothing that matters changed, by the drift's formula.

A drift of 0.05 means nothing by itself. Beside what the same maps do when the same weights are
looked at again, in another precision, on an input with a little noise, and when the weights are one
step older, another seed's or random, it can be read: real is what stands above the rungs of the
accidents, and large what comes near the rungs of other weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from lightning_saliency.attribution import AnyMethod, Subject
from lightning_saliency.attribution.looking import Lockstep
from lightning_saliency.attribution.passes import CHUNK, in_chunks
from lightning_saliency.attribution.points import Noisy
from lightning_saliency.errors import ConfigurationError, in_words
from lightning_saliency.measures.aggregate import quantiles
from lightning_saliency.measures.drift import cosine
from lightning_saliency.observation import borrowed_randomness
from lightning_saliency.redrawn import lent, reason_to_keep, redrawn
from lightning_saliency.sighting import Sighting
from lightning_saliency.snapshot import Snapshot
from lightning_saliency.stepping import in_full_precision, one_step_later

Kind = Literal["run", "input", "weights"]
"""What was changed: how the passes run, what they look at, or the model."""

QUANTILES = (0.1, 0.5, 0.9)
_JITTER_SEED = 0x1ADDE2  # no method's own noise begins with it

Signed: TypeAlias = Mapping[str, Tensor]
"""Method name → `(N, K, *spatial)` float16, signed attributions as they are remembered."""


@dataclass(frozen=True)
class Rung:
    """What one change does to the maps.

    Attributes:
        name: as in tags, such as ``jitter_1``.
        kind: what was changed.
        label: the change in two words, for a picture.
        about: the change in one line.
        drift: method name → `(N,)`, 1 − cosine of each probe's signed attributions with and without
            it, 0..2; NaN where a map is undefined.
    """

    name: str
    kind: Kind
    label: str
    about: str
    drift: Mapping[str, Tensor]


@dataclass(frozen=True)
class Ladder:
    """All rungs of one set of weights.

    Attributes:
        rungs: from the smallest accident to weights that know nothing.
        left_out: name of a rung that could not be measured → the reason.
        chunk: probes per pass that memory allowed.
    """

    rungs: tuple[Rung, ...]
    left_out: Mapping[str, str]
    chunk: int

    def numbers(self) -> dict[str, Tensor]:
        """``{method}/floor_{rung}``: the median over probes, 10 % and 90 % under ``…_p10, …_p90``.

        0-dim tensors on the device, as `readings` gives those of drift.
        """
        found: dict[str, Tensor] = {}
        for rung in self.rungs:
            for method, drift in rung.drift.items():
                low, middle, high = quantiles(drift, QUANTILES)
                tag = f"{method}/floor_{rung.name}"
                found |= {tag: middle, f"{tag}_p10": low, f"{tag}_p90": high}
        return found


def ladder(
    subject: Subject,
    inputs: Tensor,
    classes: Tensor,
    methods: Mapping[str, AnyMethod],
    *,
    chunk: int = CHUNK,
    lockstep: Lockstep = nullcontext,
    optimisers: Sequence[torch.optim.Optimizer] = (),
    other: Signed | None = None,
    seed: int = 0,
) -> Ladder:
    """Climb from the same pass again to random weights, and say how far the maps moved.

    Each rung costs the passes of one observation. A rung that can't be measured is left out with
    its reason; only the observation itself raises. Call it inside `observing`: it writes to no
    parameter, gradient, buffer or random stream.

    Args:
        subject: the model and how it is called.
        inputs: `(N, C, *spatial)`, the probes.
        classes: `(N,)`, what is explained.
        methods: bound ones.
        chunk: probes per pass. Halved when memory runs out.
        lockstep: made around each step of the work, where ranks must take all steps together: then
            all of them look at the same probes.
        optimisers: of the run, for the rung of one step. None without a training.
        other: signed maps of the same probes at the end of a run with another seed.
        seed: of the random weights.

    Raises:
        NoGradientPathError: the score does not depend on the input or on a named layer.
        ConfigurationError: outputs or maps of a wrong shape.
    """
    look = _Looking(inputs, classes, methods, lockstep, chunk)
    now = look(subject)
    rungs: list[Rung] = []
    left_out: dict[str, str] = {}
    for change in _changes(subject, look, optimisers, other, seed):
        try:
            then = change.maps()
            with lockstep():
                drift = _drift(now, then)
        except Exception as error:  # one rung less: the training must not hear of it
            ours = isinstance(error, ConfigurationError)
            left_out[change.name] = str(error) if ours else in_words(error)
            continue
        rungs.append(Rung(change.name, change.kind, change.label, change.about, drift))
    return Ladder(tuple(rungs), left_out, look.chunk)


def _drift(now: Signed, then: Signed) -> dict[str, Tensor]:
    found = {
        method: cosine(then[method].to(signed.device).float(), signed.float())
        for method, signed in now.items()
        if method in then and then[method].shape == signed.shape
    }
    if not found:
        raise ConfigurationError("it has no maps of these methods in this size")
    return found


class _Looking:
    """The maps of the probes as an observation remembers them, whatever is changed about it."""

    def __init__(
        self,
        inputs: Tensor,
        classes: Tensor,
        methods: Mapping[str, AnyMethod],
        lockstep: Lockstep,
        chunk: int,
    ) -> None:
        self.inputs = inputs
        self.classes = classes
        self.methods = methods
        self.lockstep = lockstep
        self.chunk = chunk

    def __call__(
        self, subject: Subject, inputs: Tensor | None = None, chunk: int | None = None
    ) -> Signed:
        inputs = self.inputs if inputs is None else inputs
        parts = []
        # What draws from the process's streams finds them as at each observation.
        with borrowed_randomness(inputs.device):
            for part in in_chunks(
                subject,
                inputs,
                self.classes,
                self.methods,
                chunk=chunk or self.chunk,
                lockstep=self.lockstep,
            ):
                self.chunk = self.chunk if chunk else part.chunk
                with self.lockstep():
                    parts.append(Snapshot.of(Sighting.of(part), step=0, label="").series)
        return {name: torch.cat([one[name].signed for one in parts]) for name in self.methods}

    def moved(self, subject: Subject, move: Callable[[Tensor], Tensor]) -> Signed:
        """Of inputs that are not quite the probes."""
        with self.lockstep():
            inputs = move(self.inputs)
        return self(subject, inputs)

    def inside(self, subject: Subject, weights: AbstractContextManager[None]) -> Signed:
        """Of other weights."""
        with ExitStack() as scope:
            with self.lockstep():
                scope.enter_context(weights)
            return self(subject)


@dataclass(frozen=True)
class _Change:
    name: str
    kind: Kind
    label: str
    about: str
    maps: Callable[[], Signed]


def _changes(
    subject: Subject,
    look: _Looking,
    optimisers: Sequence[torch.optim.Optimizer],
    other: Signed | None,
    seed: int,
) -> Iterator[_Change]:
    """The rungs, from below."""
    yield _Change("repeat", "run", "repeat", "the same passes again", lambda: look(subject))
    yield _other_batch(subject, look)
    yield _other_precision(subject, look)
    for percent in (1, 5):
        yield _Change(
            f"jitter_{percent}",
            "input",
            f"jitter {percent} %",
            f"inputs with Gaussian noise of {percent} % of their range",
            partial(look.moved, subject, partial(_jittered, level=percent / 100)),
        )
    about = "inputs moved by one pixel along their last dimension"
    yield _Change("pixel", "input", "1 pixel", about, lambda: look.moved(subject, _shifted))
    about = "weights one step of the run's optimiser later, the probes being its batch"
    stepped = partial(_stepped, subject, look, optimisers)
    yield _Change("step", "weights", "1 step", about, stepped)
    about = "the maps of a run with another seed"
    yield _Change("seed", "weights", "other seed", about, partial(_given, other))
    about = "random weights, drawn as when the model was made"
    yield _Change(
        "redrawn", "weights", "random weights", about, partial(_redrawn, subject, look, seed)
    )


def _other_batch(subject: Subject, look: _Looking) -> _Change:
    now = min(look.chunk, len(look.inputs))
    other = now // 2

    def maps() -> Signed:
        if not other:
            raise ConfigurationError("one probe in a pass can't be halved")
        return look(subject, chunk=other)

    about = f"{other} probes in a pass, not {now}"
    return _Change("batch_size", "run", f"batch of {other}", about, maps)


def _other_precision(subject: Subject, look: _Looking) -> _Change:
    kind = look.inputs.device.type
    with subject.context():
        mixed = torch.is_autocast_enabled(kind)

    @contextmanager
    def lower() -> Iterator[None]:
        with subject.context(), torch.autocast(kind, dtype=torch.bfloat16):
            yield

    def maps() -> Signed:
        weights = {one.dtype for one in subject.module.parameters() if one.is_floating_point()}
        if torch.float32 not in weights:
            shown = ", ".join(sorted(map(str, weights)))
            raise ConfigurationError(f"mixed precision is of float32 weights, these are {shown}")
        return look(
            in_full_precision(subject, look.inputs) if mixed else replace(subject, context=lower)
        )

    label = "float32" if mixed else "bfloat16"
    about = "without mixed precision" if mixed else "in mixed precision, bfloat16"
    return _Change("precision", "run", label, about, maps)


def _jittered(inputs: Tensor, level: float) -> Tensor:
    return Noisy(level, 0, _JITTER_SEED).at(inputs, 0)


def _shifted(inputs: Tensor) -> Tensor:
    """One pixel to the right; the border is repeated."""
    moved = inputs.clone()
    moved[..., 1:] = inputs[..., :-1]
    return moved


def _stepped(
    subject: Subject, look: _Looking, optimisers: Sequence[torch.optim.Optimizer]
) -> Signed:
    _check_weights(subject)
    if not optimisers:
        raise ConfigurationError("there is no training whose step it could be")
    later = one_step_later(
        subject, look.inputs, look.classes, optimisers, chunk=look.chunk, lockstep=look.lockstep
    )
    return look.inside(subject, lent(subject.module, later))


def _given(other: Signed | None) -> Signed:
    if other is None:
        raise ConfigurationError("no run with another seed was given")
    return other


def _redrawn(subject: Subject, look: _Looking, seed: int) -> Signed:
    _check_weights(subject)
    return look.inside(subject, redrawn(subject.module, seed=seed))


def _check_weights(subject: Subject) -> None:
    reason = reason_to_keep(subject.module)
    if reason is not None:
        raise ConfigurationError(reason)
