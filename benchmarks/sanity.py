"""How much of a map belongs to what the net learned (Adebayo et al. 2018).

    python benchmarks/sanity.py [--methods saliency grad_cam …] [--probes 16]

A net that reads digits on crops of a photograph is randomised layer by layer, from the head down.
After each step the rank correlation of each method's maps |M| with those of the trained net is
printed, the median over probes, and at the end the cosine of the signed attributions, which drift
compares. A method that shows what the net learned falls to about 0. One that stays above 0.5 fails:
its maps take their form from the image. Such methods carry a ``caution`` that stands in the titles
of their pictures; signed attributions of theirs may be telling none the less.
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from skimage import data
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from examples.decoy_digits import SIDE, DigitNet, digits
from examples.explain_digits import DigitViT, reads_attention, trained
from lightning_saliency import explain
from lightning_saliency.attribution import METHODS
from lightning_saliency.measures.drift import cosine
from lightning_saliency.measures.observer import agreement
from lightning_saliency.method_sanity import INSENSITIVE

photographs: Any = data


def cascade(net: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Copies of the net, randomised from the last layer with weights down to the first."""
    torch.manual_seed(1)
    net = copy.deepcopy(net)
    layers = [(name, one) for name, one in net.named_modules() if hasattr(one, "reset_parameters")]
    for name, layer in reversed(layers):
        layer.reset_parameters()
        yield name, net


def on_photographs() -> tuple[Tensor, Tensor]:
    """Digits in white on crops of a photograph: black would have attributions of exactly 0."""
    images, labels = digits()
    photograph = torch.from_numpy(photographs.camera()).float() / 255
    generator = torch.Generator().manual_seed(0)
    corners = torch.randint(0, len(photograph) - SIDE, (len(images), 2), generator=generator)
    crops = [photograph[y : y + SIDE, x : x + SIDE] for y, x in corners.tolist()]
    return torch.maximum(images, 0.7 * torch.stack(crops)[:, None]), labels


def table(net: nn.Module, inputs: Tensor, labels: Tensor, names: list[str]) -> None:
    """Print a row per method and a column per randomised layer."""
    learned = explain(net, inputs, labels, names, progress=False)
    columns, rows, signed = [], {name: list[float]() for name in names}, dict[str, float]()
    for layer, random in cascade(net):
        columns.append(layer)
        found = explain(random, inputs, labels, names, progress=False)
        for name in names:
            rows[name].append(float(agreement(found[name], learned[name]).nanmedian()))
            distance = cosine(found.signed[name], learned.signed[name])
            signed[name] = float((1 - distance).nanmedian())
    print(f"{'':28}" + "".join(f"{name[-11:]:>12}" for name in columns) + f"{'signed':>10}")
    for name, values in rows.items():
        verdict = "fails" if values[-1] > INSENSITIVE else ""
        shown = "".join(f"{one:12.2f}" for one in values)
        print(f"{name:28}{shown}{signed[name]:10.2f}  {verdict:6} {METHODS[name]().caution}")


def main(given: argparse.Namespace) -> None:
    """Both nets."""
    torch.set_num_threads(1)
    inputs, labels = on_photographs()
    torch.manual_seed(0)
    attentive = list(filter(reads_attention, given.methods))
    rows = slice(given.probes)
    for net, names in (
        (DigitNet(), [name for name in given.methods if name not in attentive]),
        (DigitViT(), attentive),
    ):
        if names:
            print(f"\n{type(net).__name__}, randomised from the head down to …")
            table(trained(net, inputs, labels), inputs[rows], labels[rows], names)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--probes", type=int, default=16)
    main(parser.parse_args())
