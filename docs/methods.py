"""Write docs/methods.md: each method by its own docstring, and a picture of a net that is known.

python docs/methods.py

Two nets learn on real digits that a white patch tells the class (`examples/explain_digits.py`):
there a map that shows what the net uses lies on the patch. Takes about two minutes on a CPU.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from torch import Tensor, nn

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from examples.decoy_digits import DigitNet  # noqa: E402
from examples.explain_digits import DigitViT, reads_attention, shortcut, trained  # noqa: E402
from lightning_saliency import explain  # noqa: E402
from lightning_saliency.attribution import METHODS  # noqa: E402
from lightning_saliency.measures.grounding import fit_masks, relevance_mass  # noqa: E402

PROBES = 6

HEAD = """# Methods

Every method by its short name, with its definition, its cost and its limits, from its own
docstring: `help(lightning_saliency.GradCAM)` says the same. Made by `python docs/methods.py`.

The pictures show two nets that learned a shortcut: a white patch at the border tells the class of
each digit (its place is the class), and a look at the digit is not needed. Where a method shows
what the net uses, its map lies on the patch. **On the patch** is the share of the map's mass there,
the mean of {probes} digits, without maps that are all 0; the patch covers {area:.1%} of the image,
which is what a map that knows nothing has there. The attention family is shown on a vision
transformer, where occlusion has {occlusion:.2f} on the patch and all of the family miss it; all
others on a convolutional net, which flattens its last map into a linear layer. What rank
correlation is left when the weights are random, `python benchmarks/sanity.py` prints. How far each
is from other libraries and from its equation: [references](tables/references.md); what it costs
beside them: [speed and memory](speed.md).

| name | class | passes | on the patch |
|---|---|---|---|
"""


@dataclass(frozen=True)
class Words:
    """A docstring in its parts."""

    formula: str
    text: str
    facts: Mapping[str, str]

    @classmethod
    def of(cls, documented: type) -> Words:
        """The parts of a class's docstring, without its arguments."""
        doc = inspect.getdoc(documented) or ""
        doc = re.split(r"\n(?:Args|Raises|Attributes):", doc)[0]
        formula, *paragraphs = [" ".join(one.split()) for one in doc.split("\n\n")]
        facts, texts = {}, []
        for paragraph in paragraphs:
            found = re.split(r"\b(Passes|Good for|Misleads): ", paragraph)
            texts.append(found[0])
            facts |= dict(zip(found[1::2], map(str.strip, found[2::2]), strict=True))
        return cls(formula, "\n\n".join(filter(None, texts)), facts)


@dataclass(frozen=True)
class Shown:
    """A net and what is looked at."""

    net: nn.Module
    inputs: Tensor
    labels: Tensor
    masks: Tensor


def nets() -> dict[str, Shown]:
    """The two nets, trained."""
    inputs, labels, masks = shortcut()
    torch.manual_seed(0)
    made = {"cnn": DigitNet(), "vit": DigitViT()}
    rows = slice(PROBES)
    return {
        name: Shown(trained(net, inputs, labels), inputs[rows], labels[rows], masks[rows])
        for name, net in made.items()
    }


def drawn(name: str, shown: Shown) -> float:
    """Draw a method's picture, and give the share of its maps on the patch."""
    found = explain(shown.net, shown.inputs, shown.labels, [name], progress=False)
    (HERE / "images" / "methods").mkdir(parents=True, exist_ok=True)
    path = HERE / "images" / "methods" / f"{name}.jpg"
    found.pictures()[name].save(path, quality=88, subsampling=0)
    return on_patch(shown, found[name])


def on_patch(shown: Shown, maps: Tensor) -> float:
    """The share of maps' mass on the patch."""
    masks = fit_masks(shown.masks, maps.shape[1:])
    return float(relevance_mass(maps.abs(), masks).nanmean())


def sections(shares: Mapping[str, float]) -> Iterator[str]:
    """The page, part by part."""
    kinds = {name: type(make()) for name, make in METHODS.items()}
    for name, share in shares.items():
        passes = re.split("[.,;:]", Words.of(kinds[name]).facts["Passes"])[0]
        yield f"| [`{name}`](#{name}) | `{made(name)}` | {passes} | {share:.2f} |\n"
    for name in shares:
        if made(name) != kinds[name].__name__:  # a form of one that has its section
            yield f"\n## {name}\n\n`{made(name)}`.\n\n![{name}](images/methods/{name}.jpg)\n"
            continue
        words, caution = Words.of(kinds[name]), METHODS[name]().caution
        yield f"\n## {name}\n\n**{words.formula}**\n\n{words.text}\n\n"
        yield "".join(f"- {fact}: {text}\n" for fact, text in words.facts.items())
        yield f"- Its pictures say: *{caution}*\n" if caution else ""
        yield f"\n![{name}](images/methods/{name}.jpg)\n"


def made(name: str) -> str:
    """How a user makes the method of a short name."""
    method = METHODS[name]()
    own = {one.name: getattr(method, one.name) for one in fields(method) if one.init}
    plain = {one.name: one.default for one in fields(method)}
    given = ", ".join(f"{key}={value!r}" for key, value in own.items() if value != plain[key])
    return f"{type(method).__name__}({given})" if given else type(method).__name__


def main() -> None:
    """Write the page and its pictures."""
    torch.set_num_threads(1)
    shown = nets()
    shares = {}
    for name in METHODS:
        shares[name] = drawn(name, shown["vit" if reads_attention(name) else "cnn"])
        print(f"{name:28}{shares[name]:.2f}", flush=True)
    area = float(shown["cnn"].masks.float().mean())
    vit = shown["vit"]
    hidden = on_patch(vit, explain(vit.net, vit.inputs, vit.labels, ["occlusion"])["occlusion"])
    page = HEAD.format(probes=PROBES, area=area, occlusion=hidden) + "".join(sections(shares))
    (HERE / "methods.md").write_text(page)


if __name__ == "__main__":
    main()
