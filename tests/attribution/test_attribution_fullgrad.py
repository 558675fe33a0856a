"""FullGrad: the score is the sum of its parts, and the map is the equation in loops."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from attribution_nets import F64, Closed, Deep, close, counting, hooks_on, images, resnet
from test_attribution_models import Checkpointed
from torch import Tensor, nn

from lightning_saliency.attribution import GradCAM, Maps, Saliency, Subject, bind, explain
from lightning_saliency.attribution.fullgrad import FullGrad, Rescale
from lightning_saliency.errors import ConfigurationError
from lightning_saliency.targets import Logit, Margin, Target


def explained(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    rescale: Rescale = "layer",
    target: Target = Logit(),  # noqa: B008 (a frozen value)
    chunk: int = 32,
) -> Maps:
    methods: dict[str, Any] = {"m": FullGrad(rescale=rescale)}
    return explain(model, inputs, targets, methods, target=target, chunk=chunk).maps["m"]


def complete(maps: Maps) -> bool:
    return bool(maps.numbers["completeness_gap"].max() < 1e-10)


def seeded(*layers: nn.Module, shape: tuple[int, ...]) -> nn.Sequential:
    """The layers with parameters and statistics that none of them has by itself."""
    net = nn.Sequential(*layers)
    generator = torch.Generator().manual_seed(6)
    net.eval()(torch.zeros(1, *shape))
    with torch.no_grad():
        for name, tensor in net.state_dict().items():
            if tensor.is_floating_point():
                tensor.uniform_(-0.5, 0.5, generator=generator)
                if name.endswith("running_var"):
                    tensor.add_(1)
    return net.to(F64)


class Last(nn.Module):
    """Applies a module to channels that are last."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, inputs: Tensor) -> Tensor:
        moved: Tensor = self.module(inputs.movedim(1, -1))
        return moved.movedim(-1, 1)


NETS: dict[str, Callable[[], tuple[nn.Module, tuple[int, ...]]]] = {
    "closed": lambda: (Closed(), (2, 6, 7)),
    "without biases": lambda: (
        seeded(
            nn.Conv2d(2, 3, 3, bias=False),
            nn.ReLU(),
            nn.Flatten(),
            nn.LazyLinear(4, bias=False),
            shape=(2, 6, 7),
        ),
        (2, 6, 7),
    ),
    "normalised": lambda: (
        seeded(
            nn.Conv2d(1, 3, 3),
            nn.BatchNorm2d(3),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2, 1),
            nn.Conv2d(3, 4, 2, bias=False),
            nn.BatchNorm2d(4, affine=False),
            nn.LeakyReLU(0.1),
            nn.Flatten(),
            nn.LazyLinear(5),
            nn.ReLU(),
            nn.BatchNorm1d(5),
            nn.Linear(5, 4),
            shape=(1, 7, 6),
        ),
        (1, 7, 6),
    ),
    "transposed": lambda: (
        seeded(
            nn.Conv2d(2, 4, 2, stride=2),
            nn.ReLU(),
            nn.ConvTranspose2d(4, 3, 3, stride=2),
            nn.ReLU(),
            nn.AvgPool2d(2),
            nn.Flatten(),
            nn.LazyLinear(4),
            shape=(2, 6, 6),
        ),
        (2, 6, 6),
    ),
    "signal": lambda: (
        seeded(
            nn.Conv1d(2, 3, 3),
            nn.BatchNorm1d(3),
            nn.ReLU(),
            nn.Flatten(),
            nn.LazyLinear(4),
            shape=(2, 9),
        ),
        (2, 9),
    ),
    "volume": lambda: (
        seeded(
            nn.Conv3d(1, 3, 2),
            nn.BatchNorm3d(3),
            nn.ReLU(),
            nn.Flatten(),
            nn.LazyLinear(4),
            shape=(1, 4, 5, 3),
        ),
        (1, 4, 5, 3),
    ),
    "channels last": lambda: (
        seeded(
            nn.Conv2d(2, 3, 2),
            Last(nn.Linear(3, 5)),
            nn.ReLU(),
            Last(nn.Linear(5, 4)),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            shape=(2, 5, 6),
        ),
        (2, 5, 6),
    ),
    "tokens": lambda: (
        seeded(
            nn.Conv2d(2, 3, 2),
            nn.Flatten(2),
            Last(nn.Linear(3, 5)),
            nn.ReLU(),
            nn.AdaptiveMaxPool1d(1),
            nn.Flatten(),
            nn.Linear(5, 4),
            shape=(2, 5, 6),
        ),
        (2, 5, 6),
    ),
    "resnet18": lambda: (resnet(), (3, 64, 64)),
}


def case(name: str, count: int = 3) -> tuple[nn.Module, Tensor, Tensor]:
    model, shape = NETS[name]()
    return model, images(count, *shape), torch.tensor([0, 3, 1])[:count]


@pytest.mark.parametrize("name", NETS)
def test_the_score_is_the_sum_of_its_full_gradient(name: str) -> None:
    maps = explained(*case(name))
    assert complete(maps)
    assert (maps.map >= 0).all()


def in_loops(
    model: nn.Module, inputs: Tensor, targets: Tensor, rescale: Rescale
) -> tuple[Tensor, Tensor]:
    """The map and the sum of what has places, from a leaf of zeros added to each layer's output."""
    leaves: list[tuple[nn.Module, Tensor]] = []

    def add(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        leaves.append((module, torch.zeros_like(output).requires_grad_()))
        return output + leaves[-1][1]

    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.Linear)
    norms = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
    hooks = [
        layer.register_forward_hook(add)
        for layer in model.modules()
        if isinstance(layer, norms) or (isinstance(layer, kinds) and layer.bias is not None)
    ]
    leaf = inputs.clone().requires_grad_()
    score = model(leaf).gather(1, targets[:, None]).sum()
    for hook in hooks:
        hook.remove()
    first, *found = torch.autograd.grad(score, [leaf, *(leaf for _, leaf in leaves)])
    parts = [first * inputs]
    for (layer, _), gradient in zip(leaves, found, strict=True):
        gradient = gradient.movedim(-1, 1) if isinstance(layer, nn.Linear) else gradient
        bias: Any = layer.bias
        if isinstance(layer, norms):
            # What it answers to an input of zeros is what it adds.
            width = gradient.shape[1]
            bias = layer(torch.zeros(1, width, *[1] * (gradient.ndim - 2), dtype=F64)).view(-1)
        parts.append((gradient * bias.view(-1, *[1] * (gradient.ndim - 2))).detach())
    whole = np.zeros((len(inputs), *inputs.shape[2:]))
    total = torch.zeros(len(inputs), dtype=F64)
    for part in parts:
        if part.ndim != inputs.ndim:
            continue
        total += part.flatten(1).sum(1)
        for n in range(len(inputs)):
            sizes = np.abs(part[n].numpy())
            for c in range(len(sizes)):
                compared = sizes if rescale == "layer" else sizes[c]
                low, high = compared.min(), compared.max()
                unit = (sizes[c] - low) / (high - low) if high > low else 0 * sizes[c]
                whole[n] += enlarged(unit, whole.shape[1:])
    return torch.from_numpy(whole), total


def enlarged(map_: Any, shape: tuple[int, ...]) -> Any:
    """Linear interpolation between the centres of cells, one side after the other."""
    for axis, size in enumerate(shape):
        have = map_.shape[axis]
        places = np.clip((np.arange(size) + 0.5) * have / size - 0.5, 0, have - 1)
        low = np.floor(places).astype(int)
        share = (places - low).reshape([-1 if side == axis else 1 for side in range(map_.ndim)])
        high = np.minimum(low + 1, have - 1)
        map_ = np.take(map_, low, axis) * (1 - share) + np.take(map_, high, axis) * share
    return map_


@pytest.mark.parametrize("rescale", ["layer", "channel"])
@pytest.mark.parametrize("name", [name for name in NETS if name != "resnet18"])
def test_the_map_is_the_equation_in_loops(name: str, rescale: Rescale) -> None:
    model, inputs, targets = case(name)
    wanted, _ = in_loops(model, inputs, targets, rescale)
    close(explained(model, inputs, targets, rescale).map, wanted, relative=1e-10)


def grad_cams(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """pytorch-grad-cam's sum over layers, before its last scaling to 0–1."""
    from pytorch_grad_cam import FullGrad as Peer
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    raw: list[Any] = []

    class Raw(Peer):  # type: ignore[misc]
        def compute_cam_per_layer(self, *args: Any) -> Any:
            raw.append(super().compute_cam_per_layer(*args))
            return raw[-1]

    with Raw(model, []) as peer:
        peer(inputs, [ClassifierOutputTarget(int(target)) for target in targets])
    model.zero_grad()
    return torch.from_numpy(raw[0])[:, 0]


class Large(nn.Module):
    """A model whose scores are so large that the peer's ε of 1e-7 doesn't count."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor) -> Tensor:
        scores: Tensor = 1e6 * self.model(inputs)
        return scores


@pytest.mark.parametrize("name", ["closed", "normalised", "resnet18"])
def test_maps_by_channel_are_those_of_pytorch_grad_cam(name: str) -> None:
    """It brings each channel to 0–1 by itself. It has affine normalisation only."""
    model, inputs, targets = case(name, 2)
    if name == "normalised":
        model = nn.Sequential(*model[:4], nn.Conv2d(3, 4, 2), *model[6:]).to(F64)  # type: ignore[index]
    large = Large(model)
    ours = explained(large, inputs, targets, "channel").map
    close(ours, grad_cams(large, inputs, targets).to(F64), relative=1e-5)


def test_the_parts_with_a_sign_keep_their_sum() -> None:
    """Enlarged by a whole factor, what a layer says is spread and not multiplied."""
    model = seeded(
        nn.Conv2d(2, 4, 2, stride=2),
        nn.ReLU(),
        nn.Conv2d(4, 3, 2, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.LazyLinear(4),
        shape=(2, 8, 12),
    )
    inputs, targets = images(3, 2, 8, 12), torch.tensor([0, 3, 1])
    maps = explained(model, inputs, targets)
    _, total = in_loops(model, inputs, targets, "layer")
    assert maps.signed.shape == (3, 1, 8, 12)
    torch.testing.assert_close(maps.signed.sum((1, 2, 3)), total, rtol=1e-11, atol=0)
    head: Any = model[5]
    scores = model(inputs).gather(1, targets[:, None])[:, 0].detach()
    torch.testing.assert_close(total + head.bias.detach()[targets], scores, rtol=1e-11, atol=0)


# Where the channels of a linear layer are


@pytest.mark.parametrize("sides", [(9,), (6, 6), (6, 7), (5, 6, 4)])
def test_a_linear_layer_over_channels_is_a_convolution_of_one_place(sides: tuple[int, ...]) -> None:
    """Also where there are as many channels as places on each side."""
    convolution: Any = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[len(sides) - 1]
    twins = []
    for over_channels in (True, False):
        layers = [
            Last(nn.Linear(have, want)) if over_channels else convolution(have, want, 1)
            for have, want in ((2, 6), (6, 6))
        ]
        body = [layers[0], nn.ReLU(), convolution(6, 6, 3, padding=1), nn.ReLU(), layers[1]]
        net = seeded(*body, nn.ReLU(), nn.Flatten(), nn.LazyLinear(4), shape=(2, *sides))
        twins.append(explained(net, images(3, 2, *sides), torch.tensor([0, 3, 1])))
    assert complete(twins[0])
    close(twins[0].map, twins[1].map, relative=1e-12)
    close(twins[0].signed, twins[1].signed, relative=1e-12)


class OverTheLastSide(nn.Module):
    """A linear layer over columns, or over time: of its outputs the score reads one alone."""

    def __init__(self, *shape: int, reads: tuple[int, ...]) -> None:
        super().__init__()
        halved = (*shape[:-1], shape[-1] // 2)
        self.mix = nn.Linear(shape[-1], halved[-1], dtype=F64)
        self.read = torch.zeros(halved, dtype=F64)
        self.read[reads] = 1
        with torch.no_grad():
            self.mix.bias.fill_(1)

    def forward(self, inputs: Tensor) -> Tensor:
        score = (F.relu(self.mix(inputs)) * self.read).flatten(1).sum(1)
        return torch.stack([score, -score], 1)


@pytest.mark.parametrize(
    ("shape", "reads", "peak"),
    [
        ((3, 16, 16), (0, 15, 7), (15, 15)),
        ((16, 16, 16), (2, 4, 1), (4, 2)),  # as many channels as rows
        ((4, 64), (2, 5), (10,)),
        ((2, 4, 6, 8), (1, 3, 0, 2), (3, 0, 4)),
    ],
)
def test_a_linear_layer_over_a_side_has_its_places_there(
    shape: tuple[int, ...], reads: tuple[int, ...], peak: tuple[int, ...]
) -> None:
    """Of a probe of zeros nothing but the bias is seen."""
    model = OverTheLastSide(*shape, reads=reads)
    maps = explained(model, torch.zeros(2, *shape, dtype=F64), torch.tensor([0, 0]))
    assert complete(maps)
    for row in maps.map:
        found = np.unravel_index(int(row.argmax()), row.shape)
        # Outputs are half as many as columns: they lie between two.
        assert all(0 <= one - other <= 1 for one, other in zip(found, peak, strict=True)), found


def test_a_linear_layer_whose_places_are_mixed_is_in_the_gap_alone() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.each, self.head = nn.Linear(5, 5), nn.Linear(40, 4)
            seeded(self.each, shape=(5,))
            seeded(self.head, shape=(40,))

        def forward(self, inputs: Tensor) -> Tensor:
            pooled = inputs.mean((1, 2))[:, None, None].expand(-1, 8, 5)
            scores: Tensor = self.head(self.each(pooled).relu().flatten(1))
            return scores

    inputs, targets = images(3, 2, 9), torch.tensor([0, 3, 1])
    maps = explained(Mixed(), inputs, targets)
    assert complete(maps)
    gradient = explain(Mixed(), inputs, targets, {"m": Saliency()}, target=Logit()).maps["m"]
    parts = (gradient.signed * inputs).abs()
    low, high = parts.amin((1, 2), keepdim=True), parts.amax((1, 2), keepdim=True)
    close(maps.map, ((parts - low) / (high - low)).sum(1), relative=1e-12)


def test_where_places_are_mixed_the_proportions_of_an_image_tell() -> None:
    """Behind a convolution that sees all, as late in a ConvNeXt."""
    twins = []
    for over_channels in (True, False):
        even = nn.Conv2d(2, 9, (13, 9), padding=(6, 4), stride=2)
        each = Last(nn.Linear(9, 5)) if over_channels else nn.Conv2d(9, 5, 1)
        net = seeded(even, each, nn.ReLU(), nn.Flatten(), nn.LazyLinear(4), shape=(2, 7, 5))
        with torch.no_grad():
            even.weight.copy_(even.weight[:, :, :1, :1].expand_as(even.weight))
        twins.append(explained(net, images(3, 2, 7, 5), torch.tensor([0, 3, 1])))
    close(twins[0].map, twins[1].map, relative=1e-12)


def test_a_linear_layer_that_runs_for_some_inputs_alone_is_no_obstacle() -> None:
    class Sometimes(Closed):
        def __init__(self) -> None:
            super().__init__()
            self.each = nn.Linear(7, 7, dtype=F64)

        def forward(self, inputs: Tensor) -> Tensor:
            return super().forward(self.each(inputs) if inputs.amax() < 4 else inputs)

    inputs, targets = images(3, 2, 6, 7).clamp(-2, 2), torch.tensor([0, 3, 1])
    bound: Any = bind(Subject(Sometimes()), inputs, {"m": FullGrad()})["m"]
    assert list(bound.layers) == ["each", "conv", "head"]
    assert complete(explained(Sometimes(), inputs, targets))


def test_the_first_probe_may_be_spoilt() -> None:
    model, inputs, targets = case("channels last")
    wanted = explained(model, inputs, targets).map
    inputs[0, 0, 0, 0] = torch.nan
    close(explained(model, inputs, targets).map[1:], wanted[1:], relative=1e-12)


# What is not seen


class Functional(nn.Module):
    """A convolution that is no module's own call."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(2, 3, 2), nn.Linear(90, 4)
        seeded(self.conv, shape=(2, 6, 7))
        seeded(self.head, shape=(90,))

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = F.conv2d(inputs, self.conv.weight, self.conv.bias).relu()
        scores: Tensor = self.head(hidden.flatten(1))
        return scores


def test_the_gap_is_the_share_of_biases_that_are_not_seen() -> None:
    model, inputs, targets = Functional(), images(3, 2, 6, 7), torch.tensor([0, 3, 1])
    maps = explained(model, inputs, targets)
    assert model.conv.bias is not None
    bias = model.conv.bias.detach().requires_grad_()
    wanted = []
    for probe, target in zip(inputs, targets, strict=True):
        hidden = F.conv2d(probe[None], model.conv.weight, bias).relu()
        score = model.head(hidden.flatten(1))[0, target]
        unseen = (torch.autograd.grad(score, bias)[0] * bias).sum()
        wanted.append((unseen / score).abs().detach())
    assert min(wanted) > 1e-3
    torch.testing.assert_close(
        maps.numbers["completeness_gap"], torch.stack(wanted), rtol=1e-9, atol=0
    )


class Windows(nn.Module):
    """A linear layer over windows that are folded into the rows: three for each probe."""

    def __init__(self) -> None:
        super().__init__()
        self.each, self.head = nn.Linear(4, 5), nn.Linear(15, 4)
        seeded(self.each, shape=(4,))
        seeded(self.head, shape=(15,))

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.each(inputs.reshape(-1, 4)).relu()
        scores: Tensor = self.head(hidden.view(len(inputs), 15))
        return scores


def test_windows_that_are_folded_into_the_rows_count() -> None:
    assert complete(explained(Windows(), images(3, 2, 6), torch.tensor([0, 3, 1])))


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_tokens_that_come_first_count(count: int) -> None:
    """As many tokens as probes, twice as many, and what is no multiple."""

    class TokensFirst(Windows):
        def forward(self, inputs: Tensor) -> Tensor:
            hidden = self.each(inputs.permute(2, 0, 1)).relu()
            scores: Tensor = self.head(hidden[:3].transpose(0, 1).flatten(1))
            return scores

    maps = explained(TokensFirst(), images(count, 4, 4), torch.tensor([0, 3, 1, 2])[:count])
    assert complete(maps)


def test_a_layer_that_runs_twice_is_left_to_the_gap() -> None:
    conv = nn.Conv2d(2, 2, 3, padding=1)
    model = seeded(conv, nn.ReLU(), conv, nn.Flatten(), nn.LazyLinear(4), shape=(2, 6, 7))
    maps = explained(model, images(3, 2, 6, 7), torch.tensor([0, 3, 1]))
    assert maps.numbers["completeness_gap"].min() > 1e-3


@pytest.mark.parametrize(
    ("model", "target"), [(Closed(), Margin()), (Deep(), Logit())], ids=["margin", "tanh"]
)
def test_the_law_is_that_of_a_logit_of_a_piecewise_linear_net(
    model: nn.Module, target: Target
) -> None:
    shape = (2, 6, 7) if isinstance(model, Closed) else (3, 11, 13)
    maps = explained(model, images(3, *shape), torch.tensor([0, 3, 1]), target=target)
    assert maps.numbers["completeness_gap"].min() > 1e-3


def test_a_score_of_zero_has_no_relative_gap() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2, bias=False)).to(F64)
    inputs = torch.cat([images(1, 1, 2, 2), torch.zeros(1, 1, 2, 2, dtype=F64)])
    maps = explained(model, inputs, torch.tensor([0, 0]))
    assert maps.numbers["completeness_gap"].isnan().tolist() == [False, True]
    assert not maps.map[1].any()

    class Levelled(Closed):
        def forward(self, inputs: Tensor) -> Tensor:
            scores = super().forward(inputs)
            return scores - scores.detach()

    maps = explained(Levelled(), images(2, 2, 6, 7), torch.tensor([0, 3]))
    assert maps.numbers["completeness_gap"].isnan().all()
    assert maps.map.any()


class Activated(nn.BatchNorm2d):
    """A normalisation that does more."""

    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs).relu()


def test_a_normalisation_that_does_more_is_left_alone() -> None:
    inner = nn.Sequential(nn.Conv2d(2, 3, 2), Activated(3), nn.Flatten(), nn.LazyLinear(4))
    model = seeded(*inner, shape=(2, 6, 7))
    bound: Any = bind(Subject(model), images(2, 2, 6, 7), {"m": FullGrad()})["m"]
    assert list(bound.layers) == ["0", "3"]


class Rectified(nn.Conv2d):
    """A convolution that does more, as in detectron2; without a bias to begin with."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        nn.init.zeros_(self.bias)  # type: ignore[arg-type]

    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs).relu()


class Padded(nn.Conv2d):
    """A convolution with a padding of its own, as in timm."""

    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(F.pad(inputs, (0, 1, 0, 1)))


def test_a_convolution_that_does_more_is_left_to_the_gap_and_one_that_pads_is_not() -> None:
    inputs, targets = images(3, 2, 6, 7), torch.tensor([0, 3, 1])
    body = [Padded(2, 3, 2), Rectified(3, 3, 2), nn.Flatten(), nn.LazyLinear(4)]
    model = nn.Sequential(*body)
    model.eval()(inputs.float())
    bound: Any = bind(Subject(model.to(F64)), inputs, {"m": FullGrad()})["m"]
    assert list(bound.layers) == ["0", "3"]
    assert hooks_on(model) == 0
    padded = seeded(Padded(2, 3, 2), nn.ReLU(), nn.Flatten(), nn.LazyLinear(4), shape=(2, 6, 7))
    assert complete(explained(padded, inputs, targets))
    padded[0].forward = padded[0].forward  # as wrappers put their own in an instance
    assert complete(explained(padded, inputs, targets))


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
def test_torchscript_is_told() -> None:
    model, inputs, targets = case("closed")
    with pytest.raises(ConfigurationError, match=r"FullGrad reads .*TorchScript"):
        explained(torch.jit.script(model), inputs, targets)


def test_statistics_of_the_batch_are_left_alone() -> None:
    layers = [nn.Conv2d(2, 3, 2), nn.BatchNorm2d(3, track_running_stats=False), nn.Flatten()]
    model = seeded(*layers, nn.LazyLinear(4), shape=(2, 6, 7))
    bound: Any = bind(Subject(model), images(2, 2, 6, 7), {"m": FullGrad()})["m"]
    assert list(bound.layers) == ["0", "3"]


class Heads(Closed):
    """Layers beside the way to the score: another head, a detached branch, an unused layer."""

    def __init__(self) -> None:
        super().__init__()
        self.other, self.aside, self.unused = (nn.Linear(3, 4, dtype=F64) for _ in range(3))

    def forward(self, inputs: Tensor) -> Any:
        pooled = self.pool(self.relu(self.conv(inputs))).flatten(1)
        scores = self.head(pooled) + 0 * self.aside(pooled).detach()
        return {"logits": scores, "other": self.other(pooled)}


def test_layers_beside_the_way_to_the_score_do_not_matter() -> None:
    inputs, targets = images(3, 2, 6, 7), torch.tensor([0, 3, 1])
    subject = Subject(Heads(), Logit(), output=lambda outputs: outputs["logits"])
    found = explain(subject, inputs, targets, {"m": FullGrad()}).maps["m"]
    assert complete(found)
    close(found.map, explained(Closed(), inputs, targets).map, relative=1e-13)


# The engine


def test_it_shares_the_pass_at_the_clean_input() -> None:
    model, inputs, targets = case("closed")
    bound = bind(Subject(model), inputs, {"m": FullGrad(), "cam": GradCAM(), "s": Saliency()})
    with counting(model) as count:
        maps = explain(model, inputs, targets, bound, target=Logit()).maps
    assert count.sizes == [3]
    close(maps["m"].map, explained(model, inputs, targets).map, relative=1e-13)


def test_a_bound_method_reads_the_biases_of_now() -> None:
    model, inputs, targets = Closed(), images(3, 2, 6, 7), torch.tensor([0, 3, 1])
    bound = bind(Subject(model), inputs, {"m": FullGrad()})
    with torch.no_grad():
        model.conv.bias.add_(0.3)  # type: ignore[union-attr]
    later = explain(model, inputs, targets, bound, target=Logit()).maps["m"]
    assert complete(later)
    close(later.map, explained(model, inputs, targets).map, relative=1e-13)
    other = Closed()
    moved = explain(other, inputs, targets, bound, target=Logit()).maps["m"]
    close(moved.map, explained(other, inputs, targets).map, relative=1e-13)


@pytest.mark.parametrize("name", ["normalised", "signal", "volume", "channels last"])
def test_maps_do_not_depend_on_the_size_of_a_chunk(name: str) -> None:
    whole, again, parts = (explained(*case(name), chunk=chunk) for chunk in (32, 32, 2))
    assert torch.equal(whole.map, again.map)
    close(parts.map, whole.map, relative=1e-12)
    close(parts.signed, whole.signed, relative=1e-12)


def test_gradient_checkpointing_changes_nothing() -> None:
    inputs, targets = images(3, 3, 11, 13), torch.tensor([0, 1, 2])
    plain, saved = (explained(net, inputs, targets) for net in (Deep(), Checkpointed()))
    close(saved.map, plain.map, relative=1e-13)


def test_nothing_is_left_behind() -> None:
    model, inputs, targets = case("closed")
    explained(model, inputs, targets)
    assert hooks_on(model) == 0
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not inputs.requires_grad


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_model_in_half_precision_is_explained(dtype: torch.dtype) -> None:
    model, inputs, targets = case("closed")
    wanted = explained(model, inputs, targets).map
    found = explained(model.to(dtype), inputs.to(dtype), targets).map
    assert found.dtype == torch.float32
    close(found.double(), wanted, relative=0.1)


def test_an_unknown_rescaling_is_told_when_the_method_is_made() -> None:
    with pytest.raises(ConfigurationError, match=r"FullGrad\(rescale='map'\): give 'layer'"):
        FullGrad(rescale="map")  # type: ignore[arg-type]


def test_parameters_that_are_sharded_are_told() -> None:
    model, inputs, targets = case("closed")
    bound = bind(Subject(model), inputs, {"m": FullGrad()})
    model.head.bias.to_local = None  # type: ignore[union-attr]
    with pytest.raises(ConfigurationError, match="that of 'head' is sharded over ranks"):
        explain(model, inputs, targets, bound)


def test_the_gap_of_float32_is_rounding() -> None:
    model, inputs, targets = case("resnet18", 2)
    single = copy.deepcopy(model).float()
    gap = explained(single, inputs.float(), targets).numbers["completeness_gap"]
    assert 1e-10 < gap.max() < 1e-3
