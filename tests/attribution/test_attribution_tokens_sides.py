"""Which side of tokens is which, where their shape alone may be read in several ways."""

from __future__ import annotations

import pytest
import torch
from attribution_nets import close, counting, deep_case, images
from attribution_transformers import CLASSES, Encoder, randomised
from test_attribution_cam_ablation import naive
from test_attribution_cam_layers import CAMS
from test_attribution_parity import signed_map
from torch import Tensor, nn

from lightning_saliency.attribution import (
    AblationCAM,
    AnyMethod,
    GradCAM,
    HiResCAM,
    Subject,
    bind,
    explain,
)
from lightning_saliency.attribution.cam_layers import last_spatial_layer
from lightning_saliency.targets import Logit


@pytest.mark.parametrize(
    ("sides", "before", "layer"),
    [
        ((16, 16), 1, None),
        ((16, 16), 1, "encoder.layers.0"),
        ((8, 16), 0, "encoder.layers.0"),
        ((8, 24), 0, "encoder.layers.0"),
    ],
)
def test_tokens_before_probes_give_the_same_maps_where_there_are_as_many_of_both(
    sides: tuple[int, int], before: int, layer: str | None
) -> None:
    count = sides[0] * sides[1] // 64 + before
    inputs, targets = images(count, 3, *sides), torch.arange(count) % CLASSES
    methods: dict[str, AnyMethod] = {name: make(layer) for name, make in CAMS.items()}
    first, second = (
        explain(Encoder(2, 3, 8, before, batch_first=one), inputs, targets, methods)
        for one in (True, False)
    )
    for name in methods:
        close(second.maps[name].signed, first.maps[name].signed, relative=1e-9)


def test_a_method_that_is_bound_looks_no_further() -> None:
    net, inputs, targets = Encoder(), images(2, 3, 16, 16), torch.tensor([0, 3])
    bound = bind(Subject(net), inputs, {"m": HiResCAM("encoder.layers.0")})
    with counting(net) as count:
        explain(net, inputs, targets, bound)
    assert count.sizes == [2]
    model, inputs, targets = deep_case()
    with counting(model) as count:
        explain(model, inputs, targets, {"m": HiResCAM("second")})
    assert count.sizes == [5], "what has no tokens needs no look"


# Signals: the channels of a line may be the second side or the last


class Recurrent(nn.Module):
    """A convolution without padding, an LSTM, the mean over time: narrower than the input long."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv1d(2, 8, 5, 2)
        self.norm = nn.BatchNorm1d(8)
        self.lstm = nn.LSTM(8, 8, batch_first=True)
        self.drop = nn.Dropout()
        self.head = nn.Linear(8, CLASSES)
        randomised(self)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden, _ = self.lstm(self.norm(self.stem(inputs)).tanh().mT)
        scores: Tensor = self.head(self.drop(hidden).square().mean(1))
        return scores


def by_hand(net: nn.Module, layer: str, inputs: Tensor, axis: int) -> Tensor:
    """Σ_k g_k A_k over the channels of a layer, of the first score."""
    kept: list[Tensor] = []

    def keep(module: nn.Module, args: object, output: Tensor | tuple[Tensor, ...]) -> None:
        kept.append(output if isinstance(output, Tensor) else output[0])

    hook = net.get_submodule(layer).register_forward_hook(keep)
    (gradient,) = torch.autograd.grad(net(inputs)[:, 0].sum(), kept)
    hook.remove()
    return (gradient * kept[0]).sum(axis).detach()


@pytest.mark.parametrize(
    ("net", "layer", "axis", "prefix", "places"),
    [
        (Encoder(1, 2, 8), "encoder.layers.0", 2, 1, 8),
        (Encoder(1, 2, 8, before=0), "encoder", 2, 0, 8),
        (Encoder(1, 2, 8), "encoder.layers.1.norm1", 2, 1, 8),
        (Encoder(1, 2, 8), "patches", 1, 0, 8),
        (Recurrent(), "norm", 1, 0, 30),
        (Recurrent(), "lstm", 2, 0, 30),
        (Recurrent(), "drop", 2, 0, 30),
    ],
    ids=lambda one: type(one).__name__ if isinstance(one, nn.Module) else str(one),
)
def test_layers_of_signals_are_read_as_they_are_laid_out(
    net: nn.Module, layer: str, axis: int, prefix: int, places: int
) -> None:
    inputs = images(3, 2, 64)
    found = explain(net, inputs, torch.zeros(3).long(), {"m": HiResCAM(layer)}, target=Logit())
    assert found.maps["m"].map.shape == (3, places)
    wanted = by_hand(net, layer, inputs, axis)[:, prefix:]
    if wanted.any():
        close(found.maps["m"].map, wanted, relative=1e-9)
    assert wanted.any() or layer == "encoder.layers.1.norm1"


@pytest.mark.parametrize(
    ("net", "layer", "places"),
    [(Encoder(1, 2, 8, before=0), "encoder", 8), (Recurrent(), "drop", 30)],
    ids=["tokens", "lstm"],
)
def test_every_cam_of_a_signal_has_its_places(net: nn.Module, layer: str, places: int) -> None:
    inputs = images(2, 2, 64)
    assert last_spatial_layer(Subject(net), inputs) == layer
    methods: dict[str, AnyMethod] = {name: make() for name, make in CAMS.items()}
    for name, maps in explain(net, inputs, torch.tensor([0, 3]), methods).maps.items():
        assert maps.map.shape == (2, places), name


def test_a_convolution_may_make_a_signal_longer() -> None:
    net = nn.Sequential(nn.Conv1d(2, 8, 3, padding=4), nn.Tanh(), nn.Flatten(), nn.LazyLinear(4))
    net(torch.zeros(1, 2, 16))
    net, inputs = net.double(), images(2, 2, 16)
    found = explain(net, inputs, torch.zeros(2).long(), {"m": HiResCAM("1")}, target=Logit())
    close(found.maps["m"].map, by_hand(net, "1", inputs, 1), relative=1e-9)


class ChannelsFirst(nn.LayerNorm):
    """Over channels that come first, as in convolutional nets that are built like transformers."""

    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs.mT).mT


def test_a_normalisation_of_its_own_layout_is_not_taken_for_the_plain_one() -> None:
    net = nn.Sequential(nn.Conv1d(2, 8, 4, 4), ChannelsFirst(8), nn.Flatten(), nn.LazyLinear(4))
    net(torch.zeros(1, 2, 32))
    net, inputs = net.double(), images(2, 2, 32)
    found = explain(net, inputs, torch.zeros(2).long(), {"m": HiResCAM("1")}, target=Logit())
    close(found.maps["m"].map, by_hand(net, "1", inputs, 1), relative=1e-9)


def test_features_beside_as_many_tokens_as_channels_are_not_taken_for_heads() -> None:
    """(n, 8, 2, 4) with 8 tokens of 8 numbers: the sides have the proportions of the input."""
    net, inputs = Encoder(2, 3, 8, before=0), images(2, 3, 16, 32)
    found = explain(net, inputs, torch.zeros(2).long(), {"m": HiResCAM("patches")}, target=Logit())
    close(found.maps["m"].map, by_hand(net, "patches", inputs, 1), relative=1e-9)


def test_channels_of_a_signal_are_ablated_where_they_are() -> None:
    case = (Recurrent(), images(2, 2, 64), torch.tensor([0, 3]), "drop")
    close(signed_map(AblationCAM("drop"), case), naive(case, axis=2), relative=1e-9)


def test_a_convolution_has_its_channels_first_whatever_the_proportions() -> None:
    """Of (n, 32, 16, 32), both (32, 16) and (16, 32) look like an input of 64 × 32 made smaller."""

    class Bands(nn.Module):
        def __init__(self, normed: bool) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 32, (4, 1), (4, 1))
            self.norm = nn.LayerNorm(32) if normed else nn.Identity()
            self.head = nn.Linear(32, 3)

        def forward(self, inputs: Tensor) -> Tensor:
            scores: Tensor = self.head(self.norm(self.conv(inputs).mean((2, 3))))
            return scores

    inputs, targets = torch.randn(2, 1, 64, 32), torch.tensor([0, 1])
    for normed in (False, True):
        found = explain(Bands(normed), inputs, targets, {"m": GradCAM("conv")}).maps["m"]
        assert found.map.shape == (2, 16, 32)


def test_a_pooling_with_as_many_channels_as_tokens_after_it_is_a_map() -> None:
    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.pool = nn.Conv2d(3, 16, 3, 2, 1), nn.AdaptiveAvgPool2d(4)
            self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, 3)

        def forward(self, inputs: Tensor) -> Tensor:
            tokens = self.norm(self.pool(self.conv(inputs)).flatten(2).mT)
            scores: Tensor = self.head(tokens.mean(1))
            return scores

    inputs, targets = torch.randn(2, 3, 64, 256), torch.tensor([0, 1])
    found = explain(Pooled(), inputs, targets, {"m": GradCAM("pool")}).maps["m"]
    assert found.map.shape == (2, 4, 4)


def test_a_model_of_a_fixed_number_of_rows_is_read_by_shape() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv1d(2, 6, 3), nn.Linear(6, 3)

        def forward(self, inputs: Tensor) -> Tensor:
            scores: Tensor = self.head(self.conv(inputs.view(4, 2, 16)).mean(2))
            return scores

    inputs, targets = torch.randn(4, 2, 16), torch.tensor([0, 1, 2, 0])
    found = explain(Fixed(), inputs, targets, {"m": GradCAM("conv")}).maps["m"]
    assert found.map.shape == (4, 14)
