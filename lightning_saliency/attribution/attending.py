"""Read the attention weights of transformer blocks during one forward pass."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from lightning_saliency.attribution.taps import gradients_from

_SOFTMAX = frozenset((F.softmax, torch.softmax, Tensor.softmax))


class Attending(TorchFunctionMode):
    """Reads the attention weights of every block, in the order in which the pass meets them.

    A fused attention makes no weights, so for the length of a `with` block
    ``scaled_dot_product_attention`` is computed as it is written: softmax(QKᵀ/√d + mask) V. The
    blocks of torch, torchvision, timm and Hugging Face all end there or in a softmax over a square
    matrix. Nothing of the model is changed.

    Args:
        wanted: ``weights``, ``gradients`` (they are differentiated by as well), or nothing.
        rows: probes of the pass.
    """

    def __init__(self, wanted: Literal["", "weights", "gradients"], rows: int) -> None:
        super().__init__()
        self._wanted, self._rows = wanted, rows
        self._taken: list[Tensor] = []
        self._latest = torch.empty(0)
        self._armed = bool(wanted)  # gradient checkpointing runs a forward again inside backward

    def __enter__(self) -> Attending:
        if self._wanted:
            super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *raised: Any) -> None:
        if self._wanted:
            super().__exit__(*raised)  # type: ignore[no-untyped-call]

    def taken(self) -> tuple[Tensor, ...]:
        """`(n, heads, T, S)` of each block. Ends the reading."""
        self._armed = False
        return tuple(self._taken)

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.multi_head_attention_forward:
            return self._of_module(args, kwargs)
        if func is F.scaled_dot_product_attention:
            return self._attend(*args, **kwargs)
        result = func(*args, **kwargs)
        if self._armed and func in _SOFTMAX and _over_keys(result, args, kwargs):
            return self._take(result)
        return result

    def _of_module(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """`nn.MultiheadAttention`: what it calls inside is not seen by a mode."""
        fused = F.scaled_dot_product_attention
        setattr(F, fused.__name__, self._attend)
        try:
            given = {**kwargs, "need_weights": False}
            output, _ = F.multi_head_attention_forward(*args, **given)
        finally:
            setattr(F, fused.__name__, fused)
        if not kwargs.get("need_weights", True):
            return output, None
        weights = self._latest.mean(1) if kwargs.get("average_attn_weights", True) else self._latest
        return output, weights if args[0].ndim == 3 else weights[0]

    def _attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """The fused function as its documentation writes it, with its arguments."""
        if enable_gqa:
            key = key.repeat_interleave(query.shape[-3] // key.shape[-3], -3)
            value = value.repeat_interleave(query.shape[-3] // value.shape[-3], -3)
        logits = (query @ key.mT) * (scale or 1 / math.sqrt(query.shape[-1]))
        if is_causal:
            attn_mask = torch.ones_like(logits[0, 0], dtype=torch.bool).tril()
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            logits = logits.masked_fill(~attn_mask, -math.inf)
        elif attn_mask is not None:
            logits = logits + attn_mask
        weights = logits.softmax(-1)
        weights = self._latest = self._take(weights) if self._armed else weights
        return F.dropout(weights, dropout_p) @ value if dropout_p else weights @ value

    def _take(self, weights: Tensor) -> Tensor:
        if self._wanted == "gradients":
            weights = gradients_from(weights)
        # Blocks that fold their heads give (n × heads, T, S).
        heads = (
            weights if weights.ndim == 4 else weights.reshape(self._rows, -1, *weights.shape[1:])
        )
        self._taken.append(heads)
        return heads.view(weights.shape)


def _over_keys(result: Tensor, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether a softmax is that of a self-attention: over the last side of square matrices."""
    dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
    square = result.ndim in (3, 4) and result.shape[-1] == result.shape[-2] > 1
    return square and dim in (-1, result.ndim - 1)
