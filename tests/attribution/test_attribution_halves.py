"""The halves of SmoothGrad: means of every other sample, at no pass more."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lightning_saliency.attribution import (
    Saliency,
    SmoothGrad,
    SmoothGradSquared,
    VarGrad,
)
from lightning_saliency.attribution.method import Maps, Method
from lightning_saliency.attribution.passes import explain
from lightning_saliency.attribution.points import Noisy
from lightning_saliency.sighting import Sighting
from lightning_saliency.targets import Logit

LEVEL = 0.5


class Net(nn.Sequential):
    """Smooth, so that every sample has a gradient of its own; counts its passes."""

    def __init__(self) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            super().__init__(nn.Flatten(), nn.Linear(2 * 5 * 4, 6), nn.Tanh(), nn.Linear(6, 3))
        self.double()
        self.passes = 0

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        scores: Tensor = super().forward(x)  # type: ignore[no-untyped-call]
        return scores


def probes(count: int = 7) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(count, 2, 5, 4, generator=generator, dtype=torch.float64)
    return images, torch.arange(count) % 3


def found(methods: dict[str, Method], chunk: int = 64, net: Net | None = None) -> dict[str, Maps]:
    return explain(
        net or Net(), *probes(), methods, target=Logit(), chunk=chunk, predictions=False
    ).maps


def each_sample(samples: int) -> Tensor:
    """The gradients `(samples, N, C, *spatial)`, one by one, by autograd alone."""
    net, (images, labels) = Net(), probes()
    gradients = []
    for index in range(samples):
        inputs = Noisy(LEVEL, index).at(images, 0).requires_grad_()
        score = net(inputs).gather(1, labels[:, None]).sum()
        gradients.append(torch.autograd.grad(score, inputs)[0])
    return torch.stack(gradients)


@pytest.mark.parametrize("samples", [2, 3, 4, 7, 8])
def test_they_are_the_means_of_every_other_sample(samples: int) -> None:
    maps = found({"smooth": SmoothGrad(samples=samples, level=LEVEL)})["smooth"]
    own = each_sample(samples)
    assert maps.halves is not None
    assert maps.halves.shape == (7, 2, 2, 5, 4)
    assert torch.allclose(maps.halves[:, 0], own[::2].mean(0), rtol=1e-12, atol=1e-14)
    assert torch.allclose(maps.halves[:, 1], own[1::2].mean(0), rtol=1e-12, atol=1e-14)
    even, odd = (samples + 1) // 2, samples // 2
    whole = (even * maps.halves[:, 0] + odd * maps.halves[:, 1]) / samples
    assert torch.allclose(whole, maps.signed, rtol=1e-12, atol=1e-14)


def test_one_sample_and_methods_without_a_mean_have_none() -> None:
    maps = found(
        {
            "one": SmoothGrad(samples=1),
            "square": SmoothGradSquared(samples=4),
            "variance": VarGrad(samples=4),
            "gradient": Saliency(),
        }
    )
    assert all(one.halves is None for one in maps.values())


def test_chunks_do_not_show() -> None:
    method: dict[str, Method] = {"smooth": SmoothGrad(samples=5, level=LEVEL)}
    whole, cut = (found(method, chunk)["smooth"].halves for chunk in (64, 3))
    assert whole is not None
    assert cut is not None
    assert torch.allclose(cut, whole, rtol=1e-12, atol=1e-14)


def test_they_cost_no_pass_and_a_shorter_series_shares_the_longer() -> None:
    net, alone = Net(), SmoothGrad(samples=4, level=LEVEL)
    both = found({"4": alone, "8": SmoothGrad(samples=8, level=LEVEL)}, net=net)
    assert net.passes == 8
    wanted = found({"4": alone})["4"].halves
    assert wanted is not None
    assert both["4"].halves is not None
    assert torch.equal(both["4"].halves, wanted)
    assert both["8"].halves is not None
    assert not torch.equal(both["8"].halves, wanted)


def test_ranks_give_them_to_each_other() -> None:
    maps = found({"smooth": SmoothGrad(samples=4), "gradient": Saliency()})
    seen = Sighting(maps, torch.zeros(7, dtype=torch.int64), torch.zeros(7), None)
    rows = seen.rows()
    assert all(len(one) == 7 for one in rows.values())
    again = Sighting.from_rows(rows)
    assert again.maps["gradient"].halves is None
    assert maps["smooth"].halves is not None
    assert again.maps["smooth"].halves is maps["smooth"].halves
