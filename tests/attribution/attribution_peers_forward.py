"""What other libraries and the papers' equations make of attention, and of hidden inputs."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import test_attribution_attention_parity as attention
import test_attribution_perturbation as perturbation
import test_attribution_segments as segments
import torch
from attribution_nets import images
from attribution_peers import captums, deep, map_of
from attribution_transformers import CLASSES, randomised
from captum import attr
from torch import Tensor, nn

from lightning_saliency import attribution as our
from lightning_saliency.attribution import Method, Subject
from lightning_saliency.attribution.coalitions import nearness
from lightning_saliency.attribution.dividing import grid
from lightning_saliency.attribution.looking import look_once
from lightning_saliency.attribution.method import Look
from lightning_saliency.targets import Logit

# Transformers

VITS = {"torchvision": "torchvision", "timm": "timm", "Hugging Face": "hugging face, eager"}


def vit(name: str) -> attention.Case:
    return attention.CASES[VITS[name]]()


def of_tokens(method: Method, name: str) -> Tensor:
    model, inputs, *_ = vit(name)
    return map_of(method, (model, inputs, torch.arange(3) % CLASSES, ""))


def rolled_out(name: str) -> Tensor:
    return attention.drawn(attention.rolled_out(vit(name)[2], "mean")[:, 0], vit(name)[3])


def chefer(name: str) -> Tensor:
    return attention.drawn(attention.chefer(vit(name)[2])[:, 0], vit(name)[3])


def positive_gradients(name: str) -> Tensor:
    blocks = vit(name)[2][1]
    columns = torch.stack([block.clamp(min=0).mean((1, 2)) for block in blocks]).mean(0)
    return attention.drawn(columns, vit(name)[3])


def one_vit(blocks: int) -> Any:
    from torchvision.models.vision_transformer import VisionTransformer

    return randomised(VisionTransformer(32, 8, blocks, 2, 16, 32, num_classes=CLASSES))


VIT_INPUTS = images(3, 3, 32, 32), torch.arange(3) % CLASSES


def layer_gradients(blocks: int) -> Tensor:
    inputs, targets = VIT_INPUTS
    return map_of(our.LayerGradientAttention(), (one_vit(blocks), inputs, targets, ""))


def le_grad(blocks: int) -> Tensor:
    """Torchcam's LeGrad of a torchvision ViT; the score after a block is its class token's."""
    from torchcam.methods import LeGrad

    model, (inputs, targets) = one_vit(blocks), VIT_INPUTS

    def score(tokens: Tensor) -> Tensor:
        scores: Tensor = model.heads(model.encoder.ln(tokens)[:, 0])
        return scores

    with LeGrad(model, list(model.encoder.layers), score_projection=score) as extractor:
        maps = extractor(targets.tolist(), model(inputs), normalized=False)
    found: Tensor = maps[0].detach()
    return found


def gradients_of_each_blocks_score(blocks: int) -> Tensor:
    """By our pass through nets that end after a block: the gradient of the last one's weights."""
    inputs, targets = VIT_INPUTS
    found = []
    for end in range(1, blocks + 1):
        model = one_vit(blocks)
        model.encoder.layers = nn.Sequential(*list(model.encoder.layers)[:end])
        look = Look(attention="gradients")
        seen = look_once(Subject(model, Logit()), look, inputs, targets, 0)
        found.append(seen.attention_gradients[-1].clamp(min=0).mean((1, 2)))
    return torch.stack(found).mean(0)[:, 1:].unflatten(1, (4, 4))  # type: ignore[no-untyped-call, no-any-return]


# Perturbations


def captums_occlusion(window: int, stride: int, cut: bool = False) -> Tensor:
    """`cut`: by hand, in windows that the border cuts."""
    model, inputs, targets, _ = deep()
    if not cut:
        whole: Any = {"sliding_window_shapes": (3, window, window), "strides": (3, stride, stride)}
        return captums("Occlusion", **whole)[:, 0]
    total, count = torch.zeros(3, 11, 13, dtype=inputs.dtype), torch.zeros(11, 13)
    sides = [range(0, -(-(side - window) // stride) * stride + 1, stride) for side in (11, 13)]
    clean = perturbation.score(model, inputs, targets)
    for top, left in product(*sides):
        where = (..., slice(top, top + window), slice(left, left + window))
        without = inputs.clone()
        without[where] = 0
        total[where] += (clean - perturbation.score(model, without, targets)).view(-1, 1, 1)
        count[where] += 1
    return total / count


def score_less_the_fall() -> Tensor:
    model, inputs, targets, _ = deep()
    clean = perturbation.score(model, inputs, targets).view(-1, 1, 1)
    return clean - map_of(our.Occlusion(window=(11, 1)))


def masked() -> tuple[Tensor, Tensor]:
    """The paper's masks `(30, H, W)` by numpy, and the scores behind them `(30, 3)`."""
    model, inputs, targets, _ = deep()
    drawn = [perturbation.paper_mask(index, 4, (11, 13), seed=2) for index in range(30)]
    stack = torch.from_numpy(np.stack(drawn))
    seen = [perturbation.score(model, inputs * mask, targets) for mask in stack]
    return stack, torch.stack(seen)


def rise_by_masks() -> Tensor:
    stack, seen = masked()
    weighted = torch.einsum("mn,mhw->nhw", seen, stack) / stack.sum(0)
    return weighted - seen.mean(0).view(-1, 1, 1)


def rise_of_the_paper() -> Tensor:
    """Eq. 6: Σ s M / (N p)."""
    stack, seen = masked()
    return torch.einsum("mn,mhw->nhw", seen, stack) / (30 * 0.5)


def rise_with_its_mean() -> Tensor:
    stack, seen = masked()
    ours = map_of(our.RISE(masks=30, cells=4, seed=2))
    return (ours + seen.mean(0).view(-1, 1, 1)) * stack.sum(0) / (30 * 0.5)


QUARTERS = grid((11, 13), 2)
NINTHS = grid((11, 13), 3)


def shapley_by_captum() -> Tensor:
    return captums("ShapleyValues", baselines=0.3, feature_mask=QUARTERS.repeat(1, 3, 1, 1))[:, 0]


def shapley_by_hand() -> Tensor:
    model, inputs, targets, _ = deep()
    return segments.spread(segments.shapley(model, inputs, targets, QUARTERS, 0.3), QUARTERS)


NEAR = our.LIME(samples=40, cells=3, seed=2)


def near(probe: int) -> Tensor:
    """The whole input and our coalitions of it, `(41, 9)`."""
    return torch.cat([torch.ones(1, 9, dtype=torch.bool), NEAR.drawn(9, probe)[0]])


def lime_by_scikit_learn() -> Tensor:
    from sklearn.linear_model import Ridge

    model, inputs, targets, _ = deep()
    found = []
    for probe, image in enumerate(inputs):
        rows = near(probe).double().numpy()
        seen = segments.scores_of(model, image, int(targets[probe]), NINTHS, rows)
        distance = 1 - np.sqrt(rows.mean(1))
        weights = np.exp(-(distance**2) / (2 * 0.25**2))
        found.append(Ridge(alpha=1.0).fit(rows, seen, sample_weight=weights).coef_)
    return segments.spread(torch.tensor(np.array(found)), NINTHS)


def lime_by_captum() -> Tensor:
    """Captum's program, with our draws and our distance: its own is over pixels."""
    from captum._utils.models.linear_model import SkLearnRidge

    model, inputs, targets, _ = deep()
    found = []
    for probe, image in enumerate(inputs):
        peer = attr.Lime(
            model,
            SkLearnRidge(alpha=1.0),
            similarity_func=lambda image, moved, row, **_: nearness(row.bool(), 0.25),
            perturb_func=segments.iterate(near(probe)),
        )
        call: Any = {"feature_mask": NINTHS.expand(1, 3, 11, 13), "n_samples": 41}
        found.append(peer.attribute(image[None], target=int(targets[probe]), **call)[:, 0])
    return torch.cat(found).double()
