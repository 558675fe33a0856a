"""`explain` without a Trainer: the maps of the engine, pictures of them, and no trace."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from tqdm.auto import tqdm

from lightning_saliency import ConfigurationError, GradCAM, Saliency, SmoothGrad, explain
from lightning_saliency.attribution.passes import explain as engine
from lightning_saliency.targets import Logit


class Net(nn.Module):
    """Convolutions, with all that an observation could leave its traces in."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5))
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self.body(x).mean((2, 3)))
        return scores


class Answering(Net):
    """Gives its scores by name."""

    def forward(self, x: Tensor) -> Any:
        return {"logits": super().forward(x), "other": 0}


@pytest.fixture
def inputs() -> Tensor:
    return torch.randn(5, 3, 12, 10, generator=torch.Generator().manual_seed(1))


CLASSES = torch.tensor([0, 1, 2, 3, 0])


def test_its_maps_are_those_of_the_engine(inputs: Tensor) -> None:
    net = Net().eval()
    found = explain(net, inputs, CLASSES, {"a": "saliency", "b": GradCAM()}, target="logit")
    expected = engine(net, inputs, CLASSES, {"a": Saliency(), "b": GradCAM()}, target=Logit())
    assert list(found.maps) == ["a", "b"]
    for name, one in expected.maps.items():
        assert torch.equal(found[name], one.map)
        assert torch.equal(found.signed[name], one.signed)
    assert torch.equal(found.outputs, net(inputs).detach())
    assert torch.equal(found["a"], Saliency()(net, inputs, CLASSES, target="logit"))


@pytest.mark.parametrize(
    ("methods", "names"),
    [
        (None, ["gradient"]),
        ("grad_cam", ["grad_cam"]),
        (["saliency", SmoothGrad(samples=2)], ["saliency", "smooth_grad"]),
        ({"mine": lambda model, inputs, targets: inputs.sum(1)}, ["mine"]),
    ],
)
def test_methods_in_every_form(methods: Any, names: list[str], inputs: Tensor) -> None:
    found = explain(Net(), inputs, CLASSES, methods)
    assert list(found.maps) == names
    assert all(one.shape[0] == 5 for one in found.maps.values())


def test_predictions_are_explained_where_no_class_is_given(inputs: Tensor) -> None:
    net = Net().eval()
    found = explain(net, inputs, chunk=2)
    assert torch.equal(found.targets, net(inputs).argmax(1))
    again = explain(net, inputs, found.targets)["gradient"]
    torch.testing.assert_close(found["gradient"], again, rtol=1e-5, atol=0)


def test_classes_may_be_a_list(inputs: Tensor) -> None:
    found = explain(Net(), inputs, CLASSES.tolist())
    assert torch.equal(found["gradient"], explain(Net(), inputs, CLASSES)["gradient"])


def test_numbers_of_methods_come_with_the_maps(inputs: Tensor) -> None:
    found = explain(Net(), inputs, CLASSES, ["integrated_gradients", "saliency"])
    assert found.numbers["integrated_gradients"]["completeness_gap"].shape == (5,)
    assert found.numbers["saliency"] == {}


def test_scores_and_calls_are_found_as_the_monitor_finds_them(inputs: Tensor) -> None:
    plain = explain(Net(), inputs, CLASSES)["gradient"]
    assert torch.equal(explain(Answering(), inputs, CLASSES, output="logits")["gradient"], plain)

    def call(model: Any, x: Tensor) -> Any:
        return model(x)["logits"]

    assert torch.equal(explain(Answering(), inputs, CLASSES, forward=call)["gradient"], plain)
    wrapped = nn.ModuleDict({"inner": Net()})
    assert torch.equal(explain(wrapped, inputs, CLASSES, forward="inner")["gradient"], plain)


def test_inputs_are_brought_to_the_models_dtype(inputs: Tensor) -> None:
    net = Net().double()
    found = explain(net, inputs, CLASSES)
    assert found["gradient"].dtype == torch.float64
    torch.testing.assert_close(
        found["gradient"].float(), explain(Net(), inputs, CLASSES)["gradient"]
    )


def test_nothing_is_left_behind(inputs: Tensor) -> None:
    net, given = Net().train(), inputs.clone()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    stream = torch.get_rng_state()
    found = explain(net, inputs, CLASSES, ["saliency", "smooth_grad", "grad_cam", "lime"])
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), stream)
    assert all(part.training and not part._forward_hooks for part in net.modules())
    assert all(one.grad is None for one in net.parameters())
    assert torch.equal(inputs, given)
    assert not any(one.requires_grad for one in [*found.maps.values(), found.outputs])


def test_a_picture_is_a_pair_of_cells_for_each_input(inputs: Tensor) -> None:
    found = explain(Net(), inputs, CLASSES, ["saliency", "guided_backprop"], classes="abcd")
    pictures = found.pictures()
    assert list(pictures) == ["saliency", "guided_backprop"]
    single = explain(Net(), inputs[:1], CLASSES[:1], "saliency").pictures()["saliency"]
    cells = 2 * 112 + 2  # one pixel or two between them
    assert cells <= single.width - 2 * 14 <= cells + 4 or single.width >= cells
    assert pictures["saliency"].width > single.width
    kept = {name: np.asarray(one) for name, one in pictures.items()}
    assert not np.array_equal(kept["saliency"], kept["guided_backprop"])
    without = explain(Net(), inputs, None, ["saliency"]).pictures()["saliency"]
    assert not np.array_equal(np.asarray(without), kept["saliency"]), "no label, nothing is wrong"


def test_pictures_are_saved_and_shown(inputs: Tensor, tmp_path: Path) -> None:
    found = explain(Net(), inputs, CLASSES, ["saliency", "grad_cam"])
    paths = found.save(tmp_path / "deep" / "maps")
    assert [path.name for path in paths] == ["saliency.png", "grad_cam.png"]
    pictures = found.pictures()
    for path in paths:
        np.testing.assert_array_equal(Image.open(path), pictures[path.stem])
    shown = re.findall(r"base64,([^\"]+)", found._repr_html_())
    for one, picture in zip(shown, pictures.values(), strict=True):
        np.testing.assert_array_equal(Image.open(io.BytesIO(base64.b64decode(one))), picture)
    assert repr(found) == "Explained(saliency (5, 12, 10), grad_cam (5, 10, 8); outputs (5, 4))"


def test_normalised_inputs_are_shown_as_a_person_knows_them(inputs: Tensor) -> None:
    shifted = explain(
        nn.Sequential(Net()), 2 * inputs, CLASSES, mean=[0.5] * 3, std=[0.25] * 3
    )._gallery.images
    plain = explain(Net(), (0.5 + 0.5 * inputs).clamp(0, 1), CLASSES)._gallery.images
    assert np.abs(shifted.astype(int) - plain.astype(int)).max() <= 1


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"methods": "grad_camm"}, "Did you mean 'grad_cam'"),
        ({"targets": torch.zeros(2, dtype=torch.long)}, "targets is"),
        ({"targets": torch.tensor(1)}, r"targets\[None\]"),
        ({"targets": [0, 1, 2, 3, 4]}, "targets: 4 is not one of this model's 4 outputs"),
        ({"target": "margn"}, "Did you mean 'margin'"),
        ({"output": "logits"}, "output='logits': the model returns one tensor"),
        ({"forward": "tail"}, "forward='tail' is no submodule"),
        ({"methods": {"cam": GradCAM(layer="bdy")}}, "Did you mean 'body'"),
    ],
)
def test_what_is_wrong_is_told(given: dict[str, Any], words: str, inputs: Tensor) -> None:
    with pytest.raises(ConfigurationError, match=words):
        explain(Net(), inputs, **{"targets": CLASSES, **given})


def test_maps_that_are_not_there_are_told(inputs: Tensor) -> None:
    with pytest.raises(KeyError, match=r"no maps of 'cam'; there are those of gradient"):
        explain(Net(), inputs, CLASSES)["cam"]


def test_long_work_tells_how_far_it_is(
    inputs: Tensor, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bars: list[Any] = []

    class Kept(tqdm):  # type: ignore[misc]
        def __init__(self, **given: Any) -> None:
            super().__init__(**given)
            bars.append(self)

    monkeypatch.setattr("lightning_saliency.notebook.tqdm", Kept)
    explain(Net(), inputs, CLASSES, ["smooth_grad"])
    assert bars[0].n == bars[0].total == 45, "five inputs, clean and eight times noisy"
    assert capsys.readouterr().err == "", "two seconds have not passed"
    monkeypatch.setattr("lightning_saliency.notebook.PATIENCE", 0)
    explain(Net(), inputs, CLASSES, ["smooth_grad"])
    assert "Saliency" in capsys.readouterr().err
    explain(Net(), inputs, CLASSES, ["smooth_grad"], progress=False)
    assert capsys.readouterr().err == ""
