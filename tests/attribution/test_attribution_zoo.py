"""Every method on the nets that people use: a finite map of the right form, or words of a table."""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # as a script, what tests share lies above

import pytest
import torch
import torch.nn.functional as F
from attribution_transformers import hugging_face, timm_vit
from cheap_methods import ATTENTION, cheap
from torch import Tensor, nn

from lightning_saliency.attribution import METHODS, Method, TenView, explain
from lightning_saliency.errors import ConfigurationError

SMALL: dict[str, Method] = {"ten_view, not resized": TenView(crop=0.75, resize=False)}
ZOO = (*METHODS, *SMALL)
OF_RELUS = ("guided_backprop", "deconvnet")


@dataclass(frozen=True)
class Model:
    """A net of the zoo, its inputs and what its layers look like.

    Attributes:
        make: the net.
        shape: of one input.
        grid: of the maps of its last layer.
        refused: words of the error that a method ends with here.
    """

    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    grid: tuple[int, ...]
    refused: dict[str, str]


NO_ATTENTION = dict.fromkeys(ATTENTION, "no attention was seen in the forward pass. The model has")
NO_RELU = dict.fromkeys(OF_RELUS, "No ReLU takes part in the forward pass of")
ONE_SIZE = {
    "ten_view, not resized": "can't take a view of the shape .* With resize=True views are enlarged"
}
WINDOWS = dict.fromkeys(ATTENTION, "attention inside windows, .* has no product. Use 'grad_cam'")


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    """The net, with heads and scales that some begin with at 0 or nearly so."""
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        net = make()
        for name, parameter in net.named_parameters():
            if not parameter.any() and parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.1)
            elif "layer_scale" in name:
                nn.init.ones_(parameter)
    return net.eval()


def torchvisions(name: str) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        import torchvision

        net: nn.Module = getattr(torchvision.models, name)(num_classes=10)
        return net

    return make


def vit_b_16() -> nn.Module:
    """Its widths, at 64 pixels, with 2 of its 12 blocks."""
    from torchvision.models.vision_transformer import VisionTransformer

    net: nn.Module = VisionTransformer(64, 16, 2, 12, 768, 3072, num_classes=10)
    return net


class Written(nn.Module):
    """Two convolutions with a ReLU that is written in some way."""

    def __init__(self, relu: Callable[[Tensor], Tensor], channels: int = 3) -> None:
        super().__init__()
        self.relu = relu
        self.first, self.second = nn.Conv2d(channels, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 2, 1)
        self.head = nn.Linear(8, 5)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.relu(self.second(self.relu(self.first(inputs))))
        scores: Tensor = self.head(hidden.square().mean((2, 3)))
        return scores


def written(relu: Callable[[Tensor], Tensor], channels: int = 3) -> Model:
    return Model(lambda: Written(relu, channels), (channels, 32, 32), (8, 8), NO_ATTENTION)


MODELS: dict[str, Model] = {
    "resnet18": Model(torchvisions("resnet18"), (3, 64, 64), (2, 2), NO_ATTENTION),
    "convnext_tiny": Model(
        torchvisions("convnext_tiny"), (3, 64, 64), (2, 2), NO_ATTENTION | NO_RELU
    ),
    "vit_b_16": Model(vit_b_16, (3, 64, 64), (4, 4), NO_RELU | ONE_SIZE),
    "swin_t": Model(torchvisions("swin_t"), (3, 64, 64), (2, 2), NO_RELU | WINDOWS),
    "timm ViT": Model(timm_vit, (3, 32, 32), (4, 4), NO_RELU | ONE_SIZE),
    "Hugging Face ViT": Model(
        lambda: hugging_face("ViT", "sdpa"), (3, 32, 32), (4, 4), NO_RELU | ONE_SIZE
    ),
    "one channel": written(nn.ReLU(), channels=1),
    "in-place ReLU": written(nn.ReLU(inplace=True)),
    "functional ReLU": written(F.relu),
    "functional in-place ReLU": written(lambda x: F.relu(x, inplace=True)),
}


@cache
def net_of(model: str) -> nn.Module:
    return seeded(MODELS[model].make)


def case_of(model: str) -> tuple[nn.Module, Tensor, Tensor]:
    net = net_of(model)
    dtype = next(net.parameters()).dtype
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(2, *MODELS[model].shape, generator=generator).to(dtype)
    return net, inputs, torch.tensor([1, 4])


def methods_for(model: str) -> dict[str, Method]:
    return cheap(MODELS[model].shape[1]) | SMALL


def words_of(method: str, model: str) -> str:
    """The error that the pair ends with; nothing where it has a map."""
    try:
        asked = {"m": methods_for(model)[method]}
        maps = [explain(*case_of(model), asked).maps["m"] for _ in range(2)]
    except ConfigurationError as error:
        return str(error)
    map, signed = maps[0].map, maps[0].signed
    grid = MODELS[model].grid if "cam" in method or method in ATTENTION else MODELS[model].shape[1:]
    assert map.shape == (2, *grid)
    assert map.isfinite().all()
    assert varied(signed).all()
    # Of a map that shows what speaks for a class, nothing is left where all speaks against it.
    assert (varied(map) | ~(signed > 0).flatten(1).any(1)).all()
    assert torch.equal(map, maps[1].map)
    return ""


def varied(maps: Tensor) -> Tensor:
    flat = maps.flatten(1)
    return flat.std(1) > 1e-6 * flat.abs().amax(1)


@pytest.mark.parametrize("library", ["torchvision", "timm", "transformers"])
def test_the_libraries_of_the_zoo_are_there(library: str) -> None:
    """Without them their nets would be skipped, in silence."""
    assert import_module(library)


def test_no_method_is_left_out() -> None:
    refused = {name for model in MODELS.values() for name in model.refused}
    assert refused | {*METHODS} <= {*ZOO}
    assert {*cheap(8)} == {*METHODS}


@pytest.mark.parametrize("method", ZOO)
@pytest.mark.parametrize("model", MODELS)
def test_a_pair_has_maps_or_the_words_of_the_table(model: str, method: str) -> None:
    found, wanted = words_of(method, model), MODELS[model].refused.get(method)
    if wanted is None:
        assert not found, f"{method} on {model} is refused: {found}"
    else:
        assert found, f"{method} on {model} has maps, though the table says that it can't"
        assert re.search(wanted, found, re.DOTALL), found


def table() -> str:
    """As Markdown: ✓ where there are maps, else the words in a note."""
    rows = [f"| | {' | '.join(MODELS)} |", f"|---|{'---|' * len(MODELS)}"]
    notes: list[str] = []
    for method in ZOO:
        cells = []
        for model in MODELS:
            words = words_of(method, model).split(". ")[0]
            if words and words not in notes:
                notes.append(words)
            cells.append(f"[{notes.index(words) + 1}]" if words else "✓")
        rows.append(f"| `{method}` | {' | '.join(cells)} |")
    return "\n".join([*rows, "", *(f"{place}. {note}" for place, note in enumerate(notes, 1))])


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    print(table())
