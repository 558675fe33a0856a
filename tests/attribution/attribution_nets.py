"""The networks that the attribution tests look at, and small instruments around them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch
from torch import Tensor, nn

F64 = torch.float64


def images(*shape: int, seed: int = 0, dtype: torch.dtype = F64) -> Tensor:
    """Standard normal inputs; the same numbers in every dtype up to rounding."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=F64).to(dtype)


class Closed(nn.Module):
    """Convolution, ReLU, global average, linear: the net in which CAM is exact. Weights by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 2)
        self.relu = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(3, 4)
        kernel = torch.arange(24.0).sub(11).div(7).sin().view(3, 2, 2, 2)
        with torch.no_grad():
            self.conv.weight.copy_(kernel)
            self.conv.bias.copy_(torch.tensor([0.1, -0.2, 0.3]))  # type: ignore[union-attr]
            self.head.weight.copy_(torch.arange(12.0).mul(1.7).cos().view(4, 3))
            self.head.bias.copy_(torch.tensor([0.5, -1.0, 0.0, 2.0]))
        self.to(F64).eval()

    def forward(self, inputs: Tensor) -> Tensor:
        pooled = self.pool(self.relu(self.conv(inputs))).flatten(1)
        scores: Tensor = self.head(pooled)
        return scores


class Deep(nn.Module):
    """Two convolutions and a head that isn't linear: ∂s/∂A differs from place to place."""

    def __init__(self, inplace: bool = False, dtype: torch.dtype = F64) -> None:
        super().__init__()
        with torch.random.fork_rng([]):
            torch.manual_seed(3)
            self.first = nn.Conv2d(3, 5, 3, padding=1)
            self.act = nn.ReLU(inplace)
            self.second = nn.Conv2d(5, 6, 3, stride=2)
            self.squash = nn.Tanh()
            self.head = nn.LazyLinear(4)
            self.head(torch.zeros(1, 6 * 5 * 6))
        self.to(dtype).eval()

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.act(self.first(inputs))
        scores: Tensor = self.head(self.squash(self.second(hidden)).flatten(1))
        return scores


def deep_case(count: int = 5, dtype: torch.dtype = F64) -> tuple[Deep, Tensor, Tensor]:
    """A `Deep` net, its inputs `(count, 3, 11, 13)` and their classes."""
    return Deep(dtype=dtype), images(count, 3, 11, 13, dtype=dtype), torch.arange(count) % 4


class Quadratic(nn.Module):
    """z_c = a_c Σ x² / 2 with a = (1, −2, 3): the gradient of z_c is a_c x, exactly."""

    slopes = (1.0, -2.0, 3.0)

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.square().flatten(1).sum(1, keepdim=True) / 2 * inputs.new_tensor(self.slopes)


@cache
def resnet() -> nn.Module:
    """A resnet18 in evaluation mode, whose BatchNorms have statistics as if it had been trained."""
    from torchvision.models import resnet18

    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        model: nn.Module = resnet18()
        for layer in model.modules():
            if isinstance(layer, nn.BatchNorm2d):
                mean, variance = layer.running_mean, layer.running_var
                assert mean is not None
                assert variance is not None
                mean.normal_(0, 0.1)
                variance.uniform_(0.5, 1.5)
    return model.to(F64).eval()


class Count:
    """Forward passes of a module, and the size of each."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    @property
    def calls(self) -> int:
        return len(self.sizes)


@contextmanager
def counting(model: nn.Module) -> Iterator[Count]:
    """Count the forward passes inside."""
    count = Count()
    hook = model.register_forward_pre_hook(lambda module, args: count.sizes.append(len(args[0])))
    try:
        yield count
    finally:
        hook.remove()


def hooks_on(model: nn.Module) -> int:
    """All hooks that any submodule carries."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(layer, kind)) for layer in model.modules() for kind in kinds)


def close(ours: Tensor, theirs: Tensor, *, relative: float = 1e-6) -> None:
    """Assert equality within `relative` of the largest value of each probe."""
    assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
    scale = theirs.flatten(1).abs().amax(1)
    assert (scale > 0).all(), "an all-zero reference proves nothing"
    worst = ((ours - theirs).flatten(1).abs().amax(1) / scale).max()
    assert worst <= relative, f"relative difference {worst:.2e}"
