"""The engine: every distinct point is looked at once, for all methods together.

One forward pass and one `torch.autograd.grad` with respect to the input, to all layers that any
method named and to all attention weights. Gradient and CAM methods on the clean input cost one
pass; SmoothGrad, SmoothGrad² and VarGrad share their noisy ones. Methods whose next point depends
on what they saw ask for it after each round. On an accelerator few probes share a pass between
several points.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from lightning_saliency.attribution.binding import bind
from lightning_saliency.attribution.cam_forward import Weighing
from lightning_saliency.attribution.checking import as_indices, check_call, ordinary
from lightning_saliency.attribution.folding import folded, look_together, room
from lightning_saliency.attribution.looking import Lockstep, full
from lightning_saliency.attribution.method import (
    AnyMethod,
    Look,
    Maps,
    Method,
    Place,
    Reduction,
    euclidean_norm,
)
from lightning_saliency.attribution.points import Clean
from lightning_saliency.attribution.rules import Plain
from lightning_saliency.attribution.subject import Subject, describe
from lightning_saliency.errors import ConfigurationError
from lightning_saliency.observation import modes_and_hooks, out_of_memory

CHUNK = 32
"""Rows in one pass, by default. Halved when memory runs out."""


@dataclass(frozen=True)
class Explanation:
    """What `explain` found.

    Attributes:
        maps: method name → its `Maps`.
        outputs: `(N, K)`, the scores at the clean input; empty where they were not wanted.
        gradient_norm: `(N,)` L2 norm of ∂score/∂input at the clean input; None where it was not
            wanted, or no method asked for that gradient.
        chunk: rows per pass that memory allowed.
    """

    maps: dict[str, Maps]
    outputs: Tensor
    gradient_norm: Tensor | None
    chunk: int

    def __repr__(self) -> str:
        """Shapes: the numbers would fill screens."""
        maps = ", ".join(f"{name} {tuple(one.map.shape)}" for name, one in self.maps.items())
        return f"Explanation({maps}; outputs {tuple(self.outputs.shape)})"


def explain(
    model: nn.Module | Subject,
    inputs: Tensor,
    targets: Tensor,
    methods: Mapping[str, AnyMethod],
    *,
    target: Callable[[Tensor, Tensor], Tensor] | None = None,
    chunk: int = CHUNK,
    predictions: bool = True,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Explanation:
    """Maps of all `methods` for all probes, every distinct point in one pass.

    Pure but for what a forward pass does to the model: put `observing` around it where that counts.

    Args:
        model: a module that maps `(N, C, *spatial)` to scores `(N, K)`, or a `Subject`.
        inputs: `(N, C, *spatial)`, in the model's dtype, on its device.
        targets: `(N,)` class indices on the same device; fixed per probe over observations.
        methods: names and methods: built-in ones, or callables ``(model, inputs, targets) ->
            maps`` with maps `(N, *spatial)` or `(N, C, *spatial)`.
        target: the scalar that is differentiated; the `Margin` of the class when not given.
        chunk: most rows of a pass: probes, and on an accelerator several points of few probes.
            Halved when memory runs out, and reported back.
        predictions: whether outputs, gradient norm and the methods' own numbers are wanted beside
            the maps. They cost a pass where no method needs to look at the clean input.
        progress: called with the passes done and their number.

    Returns:
        The maps at each method's native resolution, in float32 (float64 for float64 inputs).

    Raises:
        NoGradientPathError: the score does not depend on the input or on a named layer.
        ConfigurationError: outputs or maps of a wrong shape, an unknown layer.
    """
    subject = model if isinstance(model, Subject) else Subject(model)
    if target is not None:
        subject = replace(subject, target=target)
    check_call(inputs, targets, chunk)
    inputs, targets = ordinary(inputs), as_indices(ordinary(targets))
    bound = bind(subject, inputs, methods)
    return _joined(
        list(
            in_chunks(
                subject,
                inputs,
                targets,
                bound,
                chunk=chunk,
                predictions=predictions,
                progress=progress,
            )
        )
    )


def in_chunks(
    subject: Subject,
    inputs: Tensor,
    targets: Tensor,
    methods: Mapping[str, AnyMethod],
    *,
    chunk: int,
    first: int = 0,
    predictions: bool = True,
    lockstep: Lockstep = nullcontext,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Iterator[Explanation]:
    """The explanations of one chunk after the other, so that nothing holds the maps of all probes.

    Args:
        subject: the model and how it is called.
        inputs: `(N, C, *spatial)`.
        targets: `(N,)`.
        methods: bound ones.
        chunk: most rows of a pass. Halved when memory runs out; each explanation says what it was.
        first: the place of the first input among all probes: its noise depends on that.
        predictions: whether outputs, gradient norm and the methods' numbers are wanted.
        lockstep: made around each step of the work, where ranks must take all steps together.
        progress: called with the passes done and their number.
    """
    report = _Progress(progress, len(inputs))
    done = 0
    while done < len(inputs):
        rows = slice(done, done + chunk)
        part = None
        try:
            part = _explain_chunk(
                subject,
                inputs[rows],
                targets[rows],
                methods,
                first + done,
                predictions,
                lockstep,
                chunk,
                partial(report, done, len(inputs[rows])),
            )
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error) or chunk == 1:
                raise
            widest = min(chunk, len(inputs) * room(len(inputs), chunk, inputs.device))
            chunk = max(1, widest // 2)
        if part is not None:
            done += chunk
            yield part
        elif inputs.device.type == "cuda":
            # Outside the handler: the traceback holds the activations that must go first.
            torch.cuda.empty_cache()


class _Progress:
    """Passes over single probes. What runs again after memory ran out is not told again."""

    def __init__(self, tell: Callable[[int, int], None], probes: int) -> None:
        self._tell = tell
        self._probes = probes
        self._most, self._looks = 0, 0

    def __call__(self, first: int, size: int, done: int, looks: int) -> None:
        self._looks = max(self._looks, looks)  # a chunk learns of further looks while it is seen
        self._most = max(self._most, first * self._looks + size * done)
        self._tell(self._most, self._probes * self._looks)


def _explain_chunk(
    subject: Subject,
    inputs: Tensor,
    targets: Tensor,
    methods: Mapping[str, AnyMethod],
    first: int,
    predictions: bool,
    lockstep: Lockstep,
    chunk: int,
    progress: Callable[[int, int], None],
) -> Explanation:
    built_in = {name: method for name, method in methods.items() if isinstance(method, Method)}
    reductions = {name: _reduction(method, chunk) for name, method in built_in.items()}
    asked = {name: _needed(method, predictions) for name, method in built_in.items()}
    told = any(_tells(look.place) for looks in asked.values() for look in looks)
    plan = _plan(asked if told or not predictions else {"": (Look(),), **asked})
    outputs, norm = torch.empty(0), None
    done, known = 0, len(plan)
    copies = room(len(inputs), chunk, inputs.device)
    while plan:
        for looks in folded([look for look, _ in plan.values()], copies, inputs.shape):
            for evidence in look_together(subject, looks, inputs, targets, first, lockstep):
                place = evidence.point, evidence.rule
                look, listeners = plan[place]
                done += 1
                with lockstep():
                    for name in filter(None, listeners):
                        reductions[name].update(evidence)
                    if predictions and _tells(place):
                        outputs = evidence.outputs[: len(inputs)]
                    if predictions and place == (Clean(), Plain()) and look.gradient:
                        norm = euclidean_norm(evidence.gradient.flatten(1))
                    progress(done, known)
                del evidence  # else it would live through the next pass
        with lockstep():
            plan = _plan({name: one.further() for name, one in reductions.items()})
            known += len(plan)
    with lockstep():
        maps = {name: reduction.compute() for name, reduction in reductions.items()}
    for name, method in methods.items():
        if not isinstance(method, Method):
            with lockstep():
                maps[name] = _from_function(name, method, subject, inputs, targets)
    return Explanation({name: maps[name] for name in methods}, outputs, norm, chunk)


def _reduction(method: Method, chunk: int) -> Reduction:
    reduction = method.reduction()
    if isinstance(reduction, Weighing):
        reduction.allow(chunk)
    return reduction


def _needed(method: Method, numbers: bool) -> list[Look]:
    """What a method needs to see for its map, and for its `numbers` where they are wanted."""
    return [look for look in method.looks() if numbers or not look.optional]


def _tells(place: Place) -> bool:
    """Whether a pass shows the model's own scores of the probes."""
    point, rule = place
    return point == Clean() and rule.keeps_scores


def _plan(asked: Mapping[str, Iterable[Look]]) -> dict[Place, tuple[Look, list[str]]]:
    """Every distinct pass once, with all that is wanted of it and all who want it."""
    plan: dict[Place, tuple[Look, list[str]]] = {}
    for name, looks in asked.items():
        for look in looks:
            known, listeners = plan.get(look.place, (look, []))
            plan[look.place] = known | look, [*listeners, name]
    return plan


def _from_function(
    name: str, function: Callable[..., object], subject: Subject, inputs: Tensor, targets: Tensor
) -> Maps:
    try:
        # Its own copies: what it writes to, and the gradients it leaves there, are its affair. The
        # mode that it leaves the model in, and its hooks, must not reach the next chunk.
        with modes_and_hooks(subject.module.modules()):
            maps = function(subject.plain(), inputs.detach().clone(), targets.clone())
    except Exception as error:
        if out_of_memory(error) or isinstance(error, ConfigurationError):
            raise
        raise ConfigurationError(
            f"methods: '{name}' raised {type(error).__name__}: {error}. It was called with the "
            f"model, inputs {tuple(inputs.shape)} and targets {tuple(targets.shape)}; correct it, "
            "or leave it out."
        ) from error
    wanted = f"({len(inputs)}, *spatial) or ({len(inputs)}, C, *spatial)"
    if not isinstance(maps, Tensor):
        raise ConfigurationError(
            f"methods: '{name}' returns {describe(maps)}; a method returns a tensor {wanted}."
        )
    if maps.ndim not in (inputs.ndim - 1, inputs.ndim) or len(maps) != len(inputs):
        raise ConfigurationError(
            f"methods: '{name}' returns the shape {tuple(maps.shape)}; a method returns {wanted}."
        )
    maps = full(maps.detach()).to(inputs.device)
    if maps.ndim == inputs.ndim:
        return Maps(maps.abs().amax(1), maps)
    return Maps(maps, maps[:, None])


def _joined(parts: Sequence[Explanation]) -> Explanation:
    if len(parts) == 1:
        return parts[0]

    def joined(tensors: Iterable[Tensor]) -> Tensor:
        return torch.cat(list(tensors))

    maps = {
        name: Maps(
            joined(part.maps[name].map for part in parts),
            joined(part.maps[name].signed for part in parts),
            {key: joined(part.maps[name].numbers[key] for part in parts) for key in one.numbers},
            None
            if one.halves is None
            else joined(half for part in parts if (half := part.maps[name].halves) is not None),
        )
        for name, one in parts[0].maps.items()
    }
    norms = [part.gradient_norm for part in parts if part.gradient_norm is not None]
    outputs = joined(part.outputs for part in parts)
    return Explanation(maps, outputs, joined(norms) if norms else None, parts[-1].chunk)
