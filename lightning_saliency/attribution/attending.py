"""Read the attention weights of transformer blocks during one forward pass."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from lightning_saliency.attribution.taps import gradients_from
from lightning_saliency.errors import ConfigurationError

_FUSED, _MODULE = F.scaled_dot_product_attention, F.multi_head_attention_forward
_SOFTMAX = frozenset((F.softmax, torch.softmax, torch.special.softmax, Tensor.softmax))


class Attending(TorchFunctionMode):
    """Reads the attention weights of every block, in the order in which the pass meets them.

    A fused attention makes no weights, so for the length of a `with` block
    ``scaled_dot_product_attention`` is computed as it is written: softmax(QKᵀ/√d + mask) V. The
    blocks of torch, torchvision, timm and Hugging Face all end there or in a softmax over a square
    matrix. Nothing of the model is changed.

    Args:
        wanted: ``weights``; their ``mean`` over heads, which needs a share of the memory;
            ``gradients`` (weights that are differentiated by as well); or nothing.
        rows: probes of the pass.
    """

    def __init__(self, wanted: Literal["", "mean", "weights", "gradients"], rows: int) -> None:
        super().__init__()
        self._wanted, self._rows = wanted, rows
        self._taken: list[Tensor] = []
        self._latest: Tensor | None = None
        self._armed = bool(wanted)  # gradient checkpointing runs a forward again inside backward

    def __enter__(self) -> Attending:
        if self._wanted:
            super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *raised: Any) -> None:
        if self._wanted:
            super().__exit__(*raised)  # type: ignore[no-untyped-call]

    def taken(self) -> tuple[Tensor, ...]:
        """`(n, heads, T, S)` of each block; one head where the mean is wanted. Ends the reading."""
        taken, self._taken, self._latest = tuple(self._taken), [], None
        self._armed = False
        return taken

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is _MODULE:
            return self._of_module(*args, **kwargs)
        if func is _FUSED:
            return self._attend(*args, **kwargs)
        if func is torch.autograd.grad:
            with self._in_place():
                return func(*args, **kwargs)
        result = func(*args, **kwargs)
        if self._armed and func in _SOFTMAX and _over_keys(result, args, kwargs):
            return self._take(result)
        return result

    @contextmanager
    def _in_place(self) -> Iterator[None]:
        """Stand in for the functions by name, where a mode isn't asked.

        That is inside `nn.MultiheadAttention`, and in checkpointed blocks, which must compute in
        the backward pass what they did in the forward pass.
        """
        known = {name: getattr(F, name) for name in (_FUSED.__name__, _MODULE.__name__)}
        setattr(F, _FUSED.__name__, self._attend)
        setattr(F, _MODULE.__name__, self._of_module)
        try:
            yield
        finally:
            for name, function in known.items():
                setattr(F, name, function)

    def _of_module(self, query: Tensor, *args: Any, **kwargs: Any) -> Any:
        """`nn.MultiheadAttention`, by its fused function whether weights are returned or not."""
        returns = kwargs.get("need_weights", True)
        given = {**kwargs, "need_weights": False}
        if returns and kwargs.get("attn_mask") is not None:
            given["is_causal"] = False  # a hint, which it reads only where no weights are needed
        with self._in_place():
            output, _ = _MODULE(query, *args, **given)
        if not returns or self._latest is None:
            return output, None
        average = kwargs.get("average_attn_weights", True)
        weights = self._latest.mean(1) if average else self._latest
        return output, weights if query.ndim == 3 else weights[0]

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
        if query.is_nested:
            if self._armed:
                raise ConfigurationError(
                    f"The attention of block {len(self._taken)} is computed over nested tensors, "
                    "whose probes have tokens of their own number, so its weights can't be read. "
                    "Let the model pad its tokens instead, or use 'grad_cam' or 'saliency'."
                )
            more: dict[str, Any] = {"enable_gqa": True} if enable_gqa else {}
            return _FUSED(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, **more)
        query, key, value = _as_autocast(query, key, value)
        if enable_gqa:
            key = key.repeat_interleave(query.shape[-3] // key.shape[-3], -3)
            value = value.repeat_interleave(query.shape[-3] // value.shape[-3], -3)
        with torch.autocast(query.device.type, enabled=False):
            weights = _weights(query, key, attn_mask, is_causal, scale)
            self._latest = weights = self._take(weights) if self._armed else weights
            weights = F.dropout(weights, dropout_p) if dropout_p else weights
            return _laid_out_as(query, weights.to(value.dtype) @ value)

    def _take(self, weights: Tensor) -> Tensor:
        if self._wanted == "gradients":
            weights = gradients_from(weights)
        taken = _by_probe(weights, self._rows)
        self._taken.append(taken.mean(1, keepdim=True) if self._wanted == "mean" else taken)
        return taken.view(weights.shape)


def _as_autocast(*tensors: Tensor) -> list[Tensor]:
    """Tensors in the dtype in which autocast, where it is on, gives them to a fused attention."""
    kind = tensors[0].device.type
    if not torch.is_autocast_enabled(kind):
        return list(tensors)
    dtype = torch.get_autocast_dtype(kind)
    return [one if one.dtype == torch.float64 else one.to(dtype) for one in tensors]


def _weights(
    query: Tensor, key: Tensor, mask: Tensor | None, is_causal: bool, scale: float | None
) -> Tensor:
    """Softmax(QKᵀ · scale + mask), in float32 at least, as fused kernels compute it."""
    dtype = torch.promote_types(query.dtype, torch.float32)
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    logits = (query.to(dtype) * scale) @ key.to(dtype).mT
    if is_causal:
        mask = torch.ones(logits.shape[-2:], dtype=torch.bool, device=logits.device).tril()
    if mask is None:
        return logits.softmax(-1)
    logits = logits.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else logits + mask
    blind = logits.isneginf().all(-1, keepdim=True)  # a query that may see nothing: 0, not NaN
    return logits.masked_fill(blind, 0).softmax(-1).masked_fill(blind, 0)


def _laid_out_as(query: Tensor, mixed: Tensor) -> Tensor:
    """Heads next to each other in memory where the query's are: a `view` may count on it."""
    if query.ndim == 4 and query.stride(1) < query.stride(2):
        return mixed.transpose(1, 2).contiguous().transpose(1, 2)
    return mixed


def _by_probe(weights: Tensor, rows: int) -> Tensor:
    """As `(n, heads, T, S)`: blocks that fold their heads give `(n × heads, T, S)`."""
    if weights.ndim != 3:
        return weights
    heads = 1 if len(weights) % rows else len(weights) // rows
    return weights.reshape(-1, heads, *weights.shape[1:])


def _over_keys(result: Tensor, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether a softmax is that of a self-attention: over the last side of square matrices."""
    dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
    square = result.ndim in (3, 4) and result.shape[-1] == result.shape[-2] > 1
    return square and dim in (-1, result.ndim - 1)
