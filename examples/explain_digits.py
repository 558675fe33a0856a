"""Maps without a Trainer: two nets learn a shortcut, and any method shows where they look.

    python -m examples.explain_digits saliency grad_cam lime --folder maps

A convolutional net and a vision transformer are trained in plain PyTorch on real digits whose
class is told by the place of a white patch (see `examples.decoy_digits`): in a minute, on a CPU.
What a map should show is known, so it is a test of the map as well.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import VisionTransformer

from examples.decoy_digits import SIDE, DigitNet, decoy, digits
from lightning_saliency import explain
from lightning_saliency.attribution import METHODS


def shortcut(count: int = 4000) -> tuple[Tensor, Tensor, Tensor]:
    """Digits `(count, 1, 28, 28)` whose patch tells the class, their labels, and where it is."""
    images, labels = digits()
    chosen = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:count]
    patched, masks = decoy(images[chosen], labels[chosen])
    return patched, labels[chosen], masks


class DigitViT(DigitNet):
    """A vision transformer of three blocks and 4 × 4 patches.

    Args:
        learning_rate: of Adam.
    """

    def __init__(self, learning_rate: float = 1e-3) -> None:
        super().__init__(learning_rate)
        del self.features, self.head
        self.vit = VisionTransformer(SIDE, 4, 3, 4, 64, 128, num_classes=10)
        nn.init.xavier_uniform_(self.vit.heads[-1].weight)  # torchvision's begins with zeros

    def forward(self, images: Tensor) -> Tensor:
        """The logits of the ten digits."""
        logits: Tensor = self.vit(images.expand(-1, 3, -1, -1))
        return logits


def reads_attention(name: str) -> bool:
    """Whether a method is for transformers alone."""
    return type(METHODS[name]()).__module__.endswith(".attention")


def trained(net: nn.Module, inputs: Tensor, labels: Tensor, epochs: int = 3) -> nn.Module:
    """The net after some epochs of Adam, in evaluation mode."""
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(0)
    net.train()
    for _ in range(epochs):
        for rows in torch.split(torch.randperm(len(inputs), generator=generator), 64):
            optimizer.zero_grad()
            loss: Any = F.cross_entropy(net(inputs[rows]), labels[rows])
            loss.backward()
            optimizer.step()
    return net.eval()


def main() -> None:
    """Explain six digits by the methods of the command line, and write pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("methods", nargs="+", help="names of methods")
    parser.add_argument("--net", choices=["cnn", "vit"], default="cnn")
    parser.add_argument("--folder", default="maps")
    given = parser.parse_args()
    inputs, labels, _ = shortcut()
    torch.manual_seed(0)
    net = trained(DigitNet() if given.net == "cnn" else DigitViT(), inputs, labels)
    found = explain(net, inputs[:6], labels[:6], given.methods)
    for path in found.save(given.folder):
        print(path)


if __name__ == "__main__":
    main()
