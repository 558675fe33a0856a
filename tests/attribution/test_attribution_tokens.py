"""Tokens and channels-last features as maps, and what is said where they can't be."""

from __future__ import annotations

import itertools

import pytest
import torch
from attribution_nets import images
from torch import Tensor, nn

from lightning_saliency.attribution.tokens import as_map, grid_of
from lightning_saliency.errors import ConfigurationError

Sides = tuple[int, ...]

GRIDS: list[tuple[Sides, Sides]] = [
    ((224, 224), (14, 14)),
    ((224, 224), (7, 7)),
    ((32, 64), (4, 8)),
    ((96, 32), (24, 8)),
    ((64, 64), (2, 2)),
    ((96, 96, 96), (6, 6, 6)),
    ((8, 16, 24), (2, 4, 6)),
]


def blank(*sides: int, probes: int = 2) -> Tensor:
    """Inputs of a size, without numbers."""
    return torch.empty(probes, 3, *sides, device="meta")


@pytest.mark.parametrize(("sides", "grid"), GRIDS)
@pytest.mark.parametrize("prefix", [0, 1, 2, 5])
def test_tokens_come_back_as_the_map_that_they_were(sides: Sides, grid: Sides, prefix: int) -> None:
    features = images(2, 6, *grid)
    before = torch.full((2, prefix, 6), torch.nan, dtype=features.dtype)
    tokens = torch.cat([before, features.flatten(2).mT], 1)
    assert torch.equal(as_map(tokens, blank(*sides), "blocks"), features)
    second = tokens.transpose(0, 1)
    assert torch.equal(as_map(second, blank(*sides), "blocks"), features)
    assert grid_of(tokens.shape[1], blank(*sides)) == (prefix, grid)


@pytest.mark.parametrize(("sides", "grid"), GRIDS)
def test_channels_come_first(sides: Sides, grid: Sides) -> None:
    features = images(2, 96, *grid)
    assert torch.equal(as_map(features.movedim(1, -1), blank(*sides), "features"), features)
    assert as_map(features, blank(*sides), "features") is features


@pytest.mark.parametrize(
    ("sides", "tokens", "expected"),
    [
        ((224, 224), 50, (1, (7, 7))),  # CLIP's ViT-B/32
        ((224, 224), 198, (2, (14, 14))),  # DeiT, distilled
        ((224, 224), 261, (5, (16, 16))),  # DINOv2 of side 14, with four registers
        ((224, 224), 49, (0, (7, 7))),  # the last stage of a Swin, flattened
        ((384, 384), 577, (1, (24, 24))),
        ((32, 32), 65, (1, (8, 8))),
        ((8, 8), 65, (1, (8, 8))),  # a token per pixel
        ((384, 512), 769, (1, (24, 32))),
        ((128, 1024), 513, (1, (8, 64))),  # spectrograms
        ((224, 224), 442, (1, (21, 21))),  # patches that overlap
        ((224, 224), 677, (1, (26, 26))),
        ((230, 230), 197, (1, (14, 14))),  # a rest is cut off
        ((224, 127), 99, (1, (14, 7))),
        ((250, 330), 301, (1, (15, 20))),
        ((250, 330), 337, (1, (16, 21))),  # a rest is filled up
        ((128,), 9, (1, (8,))),
        ((128,), 8, (0, (8,))),
    ],
)
def test_the_grids_of_known_models(sides: Sides, tokens: int, expected: tuple[int, Sides]) -> None:
    assert grid_of(tokens, blank(*sides)) == expected


def test_a_grid_that_tiles_the_input_goes_before_one_that_leaves_a_rest() -> None:
    """9 tokens of 32²: 2 × 2 patches after a class token and four registers, not 3 × 3."""
    assert grid_of(9, blank(32, 32)) == (5, (2, 2))


SIDES = [(11, 13), (12, 12), (16, 40), (33, 31), (64, 48)]
STEMS = [
    (kernel, stride, padding)
    for kernel, stride in itertools.product((1, 2, 3, 5, 7), (1, 2, 3))
    for padding in {0, kernel // 2 * (kernel % 2)}
]


def convolved(sides: Sides, *stems: tuple[int, int, int]) -> Sides:
    """The sides after convolutions of (kernel, stride, padding); empty where nothing is left."""
    for kernel, stride, padding in stems:
        sides = tuple((side + 2 * padding - kernel) // stride + 1 for side in sides)
    return sides if min(sides) > 1 else ()


@pytest.mark.parametrize("sides", SIDES)
def test_what_convolutions_return_is_never_taken_for_channels_last(sides: Sides) -> None:
    """For every number of channels: kernels, strides, paddings that treat both sides alike."""
    met = 0
    for stems in itertools.combinations(STEMS, 2):
        grid = convolved(sides, *stems)
        if grid and max(grid) <= max(sides):
            met += 1
            for channels in (1, 3, *grid, 2 * grid[0], 64):
                features = torch.empty(2, channels, *grid, device="meta")
                assert as_map(features, blank(*sides), "layer") is features, (stems, grid)
    assert met > 100


@pytest.mark.parametrize("sides", [(224, 224), (224, 448), (448, 224), (384, 384), (256, 192)])
@pytest.mark.parametrize("patch", [4, 8, 16, 32])
@pytest.mark.parametrize("width", [26, 50, 100, 200, 768])
def test_what_patches_return_is_taken_for_channels_last(
    sides: Sides, patch: int, width: int
) -> None:
    grid = tuple(side // patch for side in sides)
    features = torch.empty(2, *grid, width, device="meta")
    assert as_map(features, blank(*sides), "layer").shape == (2, width, *grid)


def test_of_two_readings_the_convolution_wins() -> None:
    cube = torch.empty(2, 8, 8, 8, device="meta")
    assert as_map(cube, blank(32, 32), "layer") is cube
    line = torch.empty(2, 9, 64, device="meta")
    assert as_map(line, blank(128), "layer") is line


def test_a_video_keeps_its_own_stride_in_time() -> None:
    first, last = (torch.empty(2, *s, device="meta") for s in ((96, 8, 28, 28), (8, 28, 28, 96)))
    assert as_map(first, blank(16, 112, 112), "layer") is first
    assert as_map(last, blank(16, 112, 112), "layer").shape == first.shape


def test_a_line_of_tokens_is_wider_than_the_input_is_long() -> None:
    tokens = images(2, 9, 40)
    assert torch.equal(as_map(tokens, blank(32), "layer"), tokens[:, 1:].mT)


def test_torchvisions_swin_is_read_as_it_is_laid_out() -> None:
    from torchvision.models import SwinTransformer

    net = SwinTransformer([4, 4], 24, [1, 1], [2, 2], [2, 2], num_classes=3).eval()
    taken: list[Tensor] = []
    hook = net.features[1].register_forward_hook(lambda layer, args, out: taken.append(out))
    with torch.no_grad():
        net(torch.zeros(2, 3, 32, 48))
    hook.remove()
    assert taken[0].shape == (2, 8, 12, 24)
    found = as_map(taken[0], blank(32, 48), "features.1")
    assert torch.equal(found, taken[0].permute(0, 3, 1, 2))


@pytest.mark.parametrize(
    ("shape", "sides", "words"),
    [
        ((2, 512), (224, 224), "that has no places of the input"),
        ((128, 49, 96), (224, 224), r"\(128, 49, 96\).*Windows that were folded into the batch"),
        ((128, 7, 7, 96), (224, 224), "Windows that were folded into the batch"),
        ((2, 5, 6, 7, 8), (224, 224), "that has no places of the input"),
        ((2, 768, 200), (224, 224), "768 tokens of an input of 224 × 224"),
        ((2, 1, 64), (32, 32), "1 tokens of an input of 32 × 32"),
        ((2, 3, 64), (32, 32), "3 tokens of an input of 32 × 32"),
        ((2, 500, 64), (224, 224), "500 tokens of"),  # not 22 × 22 after 16 others
        ((2, 49, 16001), (16000,), "49 tokens of an input of 16000.*up to 2 tokens before it,"),
    ],
)
def test_an_error_says_what_was_met_and_what_to_do(shape: Sides, sides: Sides, words: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"^layer='head\.norm' returns .*{words}") as met:
        as_map(torch.empty(shape, device="meta"), blank(*sides), "head.norm")
    assert "ame a layer" in str(met.value) or "a layer before it" in str(met.value)


def test_a_map_is_a_view_of_what_was_read() -> None:
    tokens = images(2, 17, 8)
    found = as_map(tokens, blank(32, 32), "layer")
    assert found.untyped_storage().data_ptr() == tokens.untyped_storage().data_ptr()


def test_gradients_pass_through() -> None:
    tokens = images(2, 17, 8).requires_grad_()
    weights = images(2, 8, 4, 4, seed=1)
    (gradient,) = torch.autograd.grad((as_map(tokens, blank(32, 32), "x") * weights).sum(), tokens)
    assert torch.equal(gradient, nn.functional.pad(weights.flatten(2).mT, (0, 0, 1, 0)))
