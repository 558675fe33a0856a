"""One look: a forward pass at one point, a backward pass to the input and the named layers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import TypeAlias

import torch
from torch import Tensor

from lightning_saliency.attribution.attending import Attending
from lightning_saliency.attribution.method import Evidence, Look
from lightning_saliency.attribution.subject import NoGradientPathError, Subject
from lightning_saliency.attribution.taps import Tap
from lightning_saliency.errors import ConfigurationError

HALF_SCALE = 1024.0
"""Factor on the score of a model in float16 while it is differentiated: without it some gradients
underflow to 0. A power of two, so that dividing by it afterwards changes nothing else. Gradients
above 64 overflow with it: they are looked at once more without."""

_BLOCK = "the attention of block "

Lockstep: TypeAlias = Callable[[], AbstractContextManager[object]]
"""Makes a context around work that must succeed on all ranks before any of them goes on."""


def look_once(
    subject: Subject,
    look: Look,
    inputs: Tensor,
    targets: Tensor,
    first: int,
    lockstep: Lockstep = nullcontext,
) -> Evidence:
    """The evidence of one pass.

    Nothing that can fail on one rank alone stands between two forward or backward passes without a
    `lockstep` around it: where parameters are sharded, a pass that one rank leaves out would leave
    the others waiting in it.

    Raises:
        NoGradientPathError: the score does not depend on the input or on a named layer.
        ConfigurationError: outputs of a wrong shape, an unknown layer.
    """
    seen, scale = _look(subject, look, inputs, targets, first, lockstep, HALF_SCALE)
    # Ranks that go in step can't repeat a pass alone.
    if scale == 1 or lockstep is not nullcontext or _is_finite(seen):
        return seen
    plain, _ = _look(subject, look, inputs, targets, first, lockstep, 1.0)
    return _patched(seen, plain)


def _look(
    subject: Subject,
    look: Look,
    inputs: Tensor,
    targets: Tensor,
    first: int,
    lockstep: Lockstep,
    half_scale: float,
) -> tuple[Evidence, float]:
    """The evidence, and the factor on the score: `half_scale` of a model in float16, else 1."""
    with lockstep():
        rows = inputs[:1] if look.of_one_row else inputs
        moved = _moved(look, rows, first)
        leaf = moved.detach().requires_grad_(look.gradient)
        tap = Tap(subject.module, look.layers, look.activations)
        attending = Attending(look.attention, len(moved))
    # Without the input's gradient no graph is kept below the lowest layer: the tap starts it there.
    differentiates = bool(look.gradient or look.layers) or look.attention == "gradients"
    keeps_graph = look.gradient or (subject.whole_graph and differentiates)
    grad_mode = torch.enable_grad() if keeps_graph else torch.no_grad()
    with grad_mode, tap, attending, look.rule.around(subject.module):
        with lockstep():
            entered = look.rule.entering(leaf)
            count, spare = look.rule.rows(len(entered)), _is_spare(entered, leaf, inputs)
            unwritten = moved._version if spare else 0
            scores = look.rule.leaving(subject.scores(entered, count, spare=spare))
            if spare and moved._version != unwritten:
                moved = _moved(look, rows, first)
            scores = scores.expand(len(inputs), *scores.shape[1:]) if look.of_one_row else scores
            read, attention = tap.taken(), attending.taken()
            half = scores.dtype == torch.float16 or subject.is_half(scores.device.type)
            scale = half_scale if half else 1.0
            outputs, score, total = _scored(subject, scores, look.rule.classes(targets), scale)
        with lockstep():
            named = [(name, read[name]) for name in look.layers]
            if look.attention == "gradients":
                named += [(f"{_BLOCK}{place}", one) for place, one in enumerate(attention)]
            wanted = ([leaf] if look.gradient else []) + [tensor for _, tensor in named]
            found = _gradients(total, score, wanted, scale)
            gradients = _checked(found, ["the input"] * look.gradient + [name for name, _ in named])
    input_gradient = gradients.pop(0) if look.gradient else leaf.new_empty(0)
    layers, blocks = gradients[: len(look.layers)], gradients[len(look.layers) :]
    evidence = Evidence(
        look.point,
        look.rule,
        first,
        full(inputs),
        full(moved),
        score.detach(),
        outputs.detach(),
        full(input_gradient),
        {name: full(tensor.detach()) for name, tensor in read.items()},
        {name: full(grad) for name, grad in zip(look.layers, layers, strict=True)},
        tuple(full(one.detach()) for one in attention),
        tuple(map(full, blocks)),
    )
    return evidence, scale


def _is_finite(seen: Evidence) -> bool:
    return all(bool(one.isfinite().all()) for one in _gradients_of(seen))


def _gradients_of(seen: Evidence) -> list[Tensor]:
    return [seen.gradient, *seen.layer_gradients.values(), *seen.attention_gradients]


def _patched(seen: Evidence, plain: Evidence) -> Evidence:
    """Gradients of `plain` where those of `seen` overflowed: what depends on it is not finite."""

    def of(one: Tensor, other: Tensor) -> Tensor:
        return torch.where(one.isfinite(), one, other)

    layers = {
        name: of(one, plain.layer_gradients[name]) for name, one in seen.layer_gradients.items()
    }
    return replace(
        seen,
        gradient=of(seen.gradient, plain.gradient),
        layer_gradients=layers,
        attention_gradients=tuple(map(of, seen.attention_gradients, plain.attention_gradients)),
    )


def _moved(look: Look, inputs: Tensor, first: int) -> Tensor:
    with torch.no_grad():
        return look.point.at(inputs, first)


def _is_spare(entered: Tensor, leaf: Tensor, inputs: Tensor) -> bool:
    """Whether the model may overwrite what enters it: no copy is needed then.

    Not the probes, and not what is differentiated by. A point can be made again.
    """
    differentiated = entered.requires_grad and _shares(entered, leaf)
    untold = entered.is_inference()  # such a tensor doesn't tell that it was overwritten
    return not (differentiated or untold or _shares(entered, inputs))


def _shares(one: Tensor, other: Tensor) -> bool:
    return one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()


def _scored(
    subject: Subject, scores: Tensor, targets: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The outputs in full precision, the score of each probe, and what is differentiated."""
    # Probes don't see each other in evaluation mode, so one summed backward gives each its own.
    # Gradients may be off around this: they are left off below the lowest layer.
    with torch.enable_grad(), torch.autocast(scores.device.type, enabled=False):
        outputs = full(scores)
        score = subject.target(outputs, targets.to(outputs.device))
        if score.shape != (len(outputs),):
            raise ConfigurationError(
                f"target={subject.target!r} returns the shape {tuple(score.shape)} for "
                f"{len(outputs)} probes: a target returns one number per probe, (N,)."
            )
        return outputs, score, score.sum() * scale


def _gradients(
    total: Tensor, score: Tensor, wanted: list[Tensor], scale: float
) -> Iterable[Tensor | None]:
    if not wanted:
        return ()
    if not score.requires_grad:
        if torch.is_inference_mode_enabled():
            raise NoGradientPathError(
                "Nothing can be differentiated under torch.inference_mode(): call this outside of "
                "it, or within `lightning_saliency.observation.observing(model)`, which leaves it."
            )
        raise NoGradientPathError(
            "The model's score carries no gradient: its forward runs under torch.no_grad(), "
            "detaches, or takes an argmax. A saliency map needs a differentiable path from the "
            "input to the score: let gradients through, or say with forward=… what to call."
        )
    gradients = torch.autograd.grad(total, wanted, allow_unused=True)
    if scale == 1:
        return gradients
    return [None if grad is None else full(grad) / scale for grad in gradients]


def _checked(gradients: Iterable[Tensor | None], names: list[str]) -> list[Tensor]:
    found = list(gradients)
    for name, gradient in zip(names, found, strict=True):
        if gradient is None:
            spoken = name == "the input" or name.startswith(_BLOCK)
            what = name if spoken else f"the layer '{name}'"
            raise NoGradientPathError(
                f"The score does not depend on {what} by a differentiable path: a part of the "
                "model after it runs under torch.no_grad() or detaches. Name a layer after that "
                "part, or let gradients through it."
            )
    return [gradient for gradient in found if gradient is not None]


def full(tensor: Tensor) -> Tensor:
    """Float32 for arithmetic; float64 stays what it is."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()
