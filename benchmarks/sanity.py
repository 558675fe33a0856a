"""How much of a map belongs to what the net learned (Adebayo et al. 2018).

    python benchmarks/sanity.py [--methods saliency grad_cam …] [--probes 16]

A trained net is randomised layer by layer, from the head down. The rank correlation of each
method's maps with those of the trained net is printed after each step, the median over probes; a
method that shows what the net learned falls to about 0 (maps that are ≥ 0 keep a share that comes
from the image). Signed attributions are compared where a method has them. A method whose last
number stays above 0.5 fails; such methods carry a ``caution`` that stands in their pictures.
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from examples.explain_digits import DigitNet, DigitViT, reads_attention, shortcut, trained
from lightning_saliency import explain
from lightning_saliency.attribution import METHODS
from lightning_saliency.measures.drift import spearman

FAILS = 0.5


def cascade(net: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Copies of the net, randomised from the last layer with weights down to the first."""
    torch.manual_seed(1)
    net = copy.deepcopy(net)
    layers = [(name, one) for name, one in net.named_modules() if hasattr(one, "reset_parameters")]
    for name, layer in reversed(layers):
        layer.reset_parameters()  # type: ignore[operator]
        yield name, net


def similarity(now: Tensor, then: Tensor) -> float:
    """The median rank correlation of maps; NaN where all of either are constant."""
    return float((1 - spearman(now, then)).nanmedian())


def table(net: nn.Module, inputs: Tensor, labels: Tensor, names: list[str]) -> None:
    """Print a row per method and a column per randomised layer."""
    trained_maps = explain(net, inputs, labels, names, progress=False).maps
    columns, rows = [], {name: list[float]() for name in names}
    for layer, random in cascade(net):
        columns.append(layer)
        found = explain(random, inputs, labels, names, progress=False).maps
        for name in names:
            rows[name].append(similarity(found[name].abs(), trained_maps[name].abs()))
    print(f"{'':28}" + "".join(f"{name[-11:]:>12}" for name in columns))
    for name, values in rows.items():
        verdict = "fails" if values[-1] > FAILS else ""
        caution = METHODS[name]().caution
        print(f"{name:28}" + "".join(f"{one:12.2f}" for one in values) + f"  {verdict}  {caution}")


def main(given: argparse.Namespace) -> None:
    """Both nets."""
    torch.set_num_threads(1)
    inputs, labels, _ = shortcut()
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
