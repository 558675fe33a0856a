"""The entry without a Trainer: maps of any images by any methods, and pictures of them."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from tqdm.auto import tqdm

from lightning_saliency.attribution import AnyMethod, Subject, resolve_methods
from lightning_saliency.attribution.checking import (
    as_indices,
    check_call,
    check_inputs,
    check_model,
    check_targets,
)
from lightning_saliency.attribution.passes import CHUNK
from lightning_saliency.attribution.passes import explain as look
from lightning_saliency.attribution.predicting import predicted
from lightning_saliency.calling import Forward, called_by, picked_by
from lightning_saliency.calling import Output as Picked
from lightning_saliency.errors import ConfigurationError
from lightning_saliency.gallery import Gallery, View
from lightning_saliency.observation import observing
from lightning_saliency.progress import PATIENCE
from lightning_saliency.targets import confidence, predictions, resolve_target


@dataclass(frozen=True)
class Explained:
    """Maps of N inputs by some methods. In a notebook it shows itself.

    Attributes:
        maps: method name → `(N, *spatial)` float32, at the method's own resolution and units.
        signed: method name → `(N, K, *spatial)`, before channels were reduced.
        numbers: method name → further numbers of the method by name, `(N,)` each, such as the
            ``completeness_gap``.
        outputs: `(N, K)`, the scores.
        targets: `(N,)`, the classes that are explained.
    """

    maps: Mapping[str, Tensor]
    signed: Mapping[str, Tensor]
    numbers: Mapping[str, Mapping[str, Tensor]]
    outputs: Tensor
    targets: Tensor
    _gallery: Gallery

    def __getitem__(self, method: str) -> Tensor:
        """The maps of a method."""
        if method not in self.maps:
            raise KeyError(f"no maps of {method!r}; there are those of {', '.join(self.maps)}")
        return self.maps[method]

    def pictures(self) -> dict[str, Image.Image]:
        """Method name → the grid that the monitor logs: each image, and the map over it."""
        given = predictions(self.outputs)
        shown = len(self._gallery.images)
        view = View(
            step=None,
            label="",
            maps={name: one[:shown].cpu().numpy() for name, one in self.maps.items()},
            reference={},
            reference_label="",
            predictions=given[:shown].cpu().numpy(),
            confidence=confidence(self.outputs, given)[:shown].cpu().numpy(),
            flipped=torch.zeros(shown, dtype=torch.bool).numpy(),
            columns=(),
        )
        drawn = self._gallery.pictures(view)
        return {name: Image.fromarray(draw()) for name, draw in drawn.items()}

    def save(self, folder: str | Path) -> list[Path]:
        """Write one PNG per method into `folder`, which is made where it is missing."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        paths = []
        for name, picture in self.pictures().items():
            paths.append(Path(folder, f"{name}.png"))
            picture.save(paths[-1])
        return paths

    def __repr__(self) -> str:
        """Shapes: the numbers would fill screens."""
        maps = ", ".join(f"{name} {tuple(one.shape)}" for name, one in self.maps.items())
        return f"Explained({maps}; outputs {tuple(self.outputs.shape)})"

    def _repr_html_(self) -> str:
        return "<br>".join(map(_as_html, self.pictures().values()))


def _as_html(picture: Image.Image) -> str:
    kept = io.BytesIO()
    picture.save(kept, "PNG")
    return f'<img src="data:image/png;base64,{base64.b64encode(kept.getvalue()).decode()}">'


def explain(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor | Sequence[int] | None = None,
    methods: str
    | AnyMethod
    | Iterable[str | AnyMethod]
    | Mapping[str, str | AnyMethod]
    | None = None,
    *,
    target: str | Callable[[Tensor, Tensor], Tensor] = "margin",
    output: Picked = None,
    forward: Forward = None,
    classes: Sequence[str] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    chunk: int = CHUNK,
    progress: bool = True,
) -> Explained:
    """Maps of `inputs` by all `methods`, together: what methods have in common is computed once.

    The engine of `SaliencyMonitor` without a Trainer. The model keeps its mode, gradients, buffers
    and hooks; no random number of the process is drawn.

    Args:
        model: a module that maps `(N, C, *spatial)` to scores `(N, K)`.
        inputs: `(N, C, *spatial)`, as the model takes them; brought to its device and dtype.
        targets: `(N,)` the class to explain of each, a tensor or numbers; its prediction when not
            given.
        methods: as the monitor's: names such as ``["saliency", "grad_cam"]``, methods, callables,
            or a mapping of your names to them; the gradient alone when not given.
        target: the scalar that is differentiated: ``margin``, ``logit``, …, or a callable.
        output: where the scores are in what the model returns: an index, a key, an attribute, or a
            callable.
        forward: what is called instead of ``model(x)``: the name of a submodule or method, or a
            callable ``(model, x) -> outputs``.
        classes: names of the classes, for pictures.
        mean: of the normalisation of the inputs, undone in pictures.
        std: of the normalisation.
        chunk: most rows of a pass: inputs, and on an accelerator several noisy copies of few.
            Halved when memory runs out.
        progress: whether a bar is shown when it takes longer than two seconds.

    Returns:
        The maps, and pictures of them by one call.

    Raises:
        ConfigurationError: an unknown method or layer, inputs or targets of a wrong shape, scores
            that can't be found; with the argument and the remedy.
        NoGradientPathError: the score does not depend differentiably on the input or a layer.
    """
    check_model(model)
    resolved = resolve_methods(methods)
    check_inputs(inputs, chunk)
    labels = None if targets is None else as_indices(_as_classes(targets))
    if labels is not None:
        check_call(inputs, labels, chunk)
    like = next((one for one in model.parameters() if one.is_floating_point()), inputs)
    inputs = inputs.detach().to(like)
    subject = Subject(
        model,
        resolve_target(target),
        output=picked_by(output),
        call=called_by(model, forward),
    )
    with (
        observing(model),
        tqdm(desc="Saliency", delay=PATIENCE, disable=not progress, leave=False) as bar,
    ):
        if labels is None:
            explained = predicted(subject, inputs, chunk)
        else:
            explained = labels.to(inputs.device)
            check_targets(subject, inputs, explained)
        told = partial(_tell, bar)
        found = look(subject, inputs, explained, resolved, chunk=chunk, progress=told)
    return Explained(
        {name: one.map for name, one in found.maps.items()},
        {name: one.signed for name, one in found.maps.items()},
        {name: one.numbers for name, one in found.maps.items()},
        found.outputs,
        explained,
        Gallery.of(
            inputs.cpu(), None if labels is None else labels.cpu(), classes, mean, std, resolved
        ),
    )


def _as_classes(targets: object) -> Tensor:
    try:
        return torch.as_tensor(targets)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigurationError(
            f"targets={targets!r} are no numbers: give the class of each input, or name what you "
            "mean, such as methods='grad_cam'."
        ) from error


def _tell(bar: Any, done: int, total: int) -> None:
    bar.total = total
    bar.update(done - bar.n)
