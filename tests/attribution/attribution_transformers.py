"""Small vision transformers of torchvision, timm and Hugging Face, in float64, random and deep."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from attribution_nets import F64
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lightning_saliency.attribution import explain
from lightning_saliency.attribution.method import Maps, Method
from lightning_saliency.targets import Logit

BLOCKS, HEADS, WIDTH, CLASSES = 3, 2, 16, 5


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    """Parameters that make attention far from even, and no head of zeros, as torchvision's is."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            spread = 1.5 / parameter.shape[-1] ** 0.5 if parameter.ndim > 1 else 0.5
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * spread)
    return model.to(F64).eval()


def torchvision_vit() -> nn.Module:
    """17 tokens of 32²: a class token, 4 × 4 patches; `nn.MultiheadAttention`."""
    from torchvision.models.vision_transformer import VisionTransformer

    return randomised(VisionTransformer(32, 8, BLOCKS, HEADS, WIDTH, 32, num_classes=CLASSES))


def timm_vit(fused: bool = True, **kwargs: Any) -> Any:
    """As torchvision's; `fused` or written out. Its tokens are as `kwargs` say."""
    timm = pytest.importorskip("timm")

    sizes: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": WIDTH, "depth": BLOCKS}
    model: Any = timm.models.vision_transformer.VisionTransformer(
        **{**sizes, "num_heads": HEADS, "num_classes": CLASSES, **kwargs}
    )
    for block in model.blocks:
        block.attn.fused_attn = fused
    return randomised(model)


class Logits(nn.Module):
    """A Hugging Face model that answers with its scores."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor) -> Tensor:
        scores: Tensor = self.model(inputs).logits
        return scores


def hugging_face(kind: str, implementation: str) -> nn.Module:
    """A `ViT` or `DeiT` (a distillation token besides): ``eager`` or ``sdpa``."""
    transformers = pytest.importorskip("transformers")

    sizes: dict[str, Any] = {
        "hidden_size": WIDTH,
        "num_hidden_layers": BLOCKS,
        "num_attention_heads": HEADS,
        "intermediate_size": 32,
        "image_size": 32,
        "patch_size": 8,
        "num_labels": CLASSES,
    }
    config = getattr(transformers, f"{kind}Config")(**sizes, attn_implementation=implementation)
    return Logits(randomised(getattr(transformers, f"{kind}ForImageClassification")(config)))


TRANSFORMERS: dict[str, Callable[[], nn.Module]] = {
    "torchvision": torchvision_vit,
    "timm, fused": timm_vit,
    "timm, written out": lambda: timm_vit(fused=False),
    "hugging face, sdpa": lambda: hugging_face("ViT", "sdpa"),
    "hugging face, eager": lambda: hugging_face("ViT", "eager"),
    "hugging face, distilled": lambda: hugging_face("DeiT", "sdpa"),
}


class Encoder(nn.Module):
    """Patches of one side in any number of dimensions, tokens before them, blocks, a head."""

    def __init__(
        self,
        dimensions: int = 2,
        channels: int = 3,
        patch: int = 4,
        before: int = 1,
        batch_first: bool = True,
        blocks: int = 2,
    ) -> None:
        super().__init__()
        convolution = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dimensions - 1]
        self.patches = convolution(channels, 8, patch, patch)
        self.before = nn.Parameter(torch.zeros(before, 8))
        self.batch_first = batch_first
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=batch_first)
        self.encoder = nn.TransformerEncoder(layer, blocks, enable_nested_tensor=False)
        self.head = nn.Linear(8, CLASSES)
        randomised(self)

    def forward(self, inputs: Tensor) -> Tensor:
        patches = self.patches(inputs).flatten(2).mT
        tokens = torch.cat([self.before.expand(len(inputs), -1, -1), patches], 1)
        tokens = self.encoder(tokens if self.batch_first else tokens.transpose(0, 1))
        tokens = tokens if self.batch_first else tokens.transpose(0, 1)
        scores: Tensor = self.head(tokens[:, 0] if len(self.before) else tokens.mean(1))
        return scores


class Checkpointed(nn.Module):
    """An `Encoder` whose layers run again inside backward; their attention may return weights."""

    def __init__(self, returns: bool = False) -> None:
        super().__init__()
        self.inner: Any = Encoder()
        for layer in self.inner.encoder.layers:
            attend, run = layer.self_attn.forward, layer.forward
            layer.self_attn.forward = lambda *args, attend=attend, **kwargs: attend(
                *args, **{**kwargs, "need_weights": returns}
            )
            layer.forward = lambda *args, run=run, **kwargs: checkpoint(
                run, *args, use_reentrant=False, **kwargs
            )

    def forward(self, inputs: Tensor) -> Tensor:
        scores: Tensor = self.inner(inputs)
        return scores


def maps_of(method: Method, model: nn.Module, inputs: Tensor, chunk: int = 32) -> Maps:
    """Of the classes 0, 1, 2 … for one probe after the other, by their logits."""
    targets = torch.arange(len(inputs)) % CLASSES
    return explain(model, inputs, targets, {"m": method}, target=Logit(), chunk=chunk).maps["m"]


def _blocks() -> str:
    found: str
    names = (name for name, _ in hugging_face("ViT", "eager").named_modules())
    (found,) = (name for name in names if name.endswith(".0.layernorm_before"))
    return found.removesuffix(".0.layernorm_before")


HUGGING_FACE_BLOCKS = _blocks()
"""Where the blocks of its vision transformer are: releases name them differently."""
