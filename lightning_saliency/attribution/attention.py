"""Methods that read what the blocks of a vision transformer attend to.

Maps have one place per patch. Attention has the shape `(n, heads, T, T)`, row i is what token i
attends to. The products of matrices that rollouts are made of are taken from the last block down,
on the one row that is shown: T times less work than the whole product, and the same numbers.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from functools import reduce
from typing import ClassVar, Literal

import torch
from torch import Tensor

from lightning_saliency.attribution.method import Evidence, Look, Maps, Method, Reduction
from lightning_saliency.attribution.tokens import grid_of
from lightning_saliency.errors import ConfigurationError

Heads = Literal["mean", "max", "min"]
"""How the heads of a block become one matrix."""

Readout = Literal["auto", "class", "mean"]
"""Which rows of a rollout are shown: those of the tokens that the model reads its scores off."""


@dataclass(frozen=True, kw_only=True)
class _AttentionMethod(Method):
    def reduction(self) -> Reduction:
        """The method's relevance of tokens, laid out as a map."""
        return _OverTokens(self)

    @abstractmethod
    def relevance(self, evidence: Evidence, prefix: int) -> Tensor:
        """Of each token, `(n, T)`.

        Args:
            evidence: attention of one shape in all blocks, over all tokens.
            prefix: number of tokens before the patches.
        """


class _OverTokens(Reduction):
    def __init__(self, method: _AttentionMethod) -> None:
        self._method = method

    def update(self, evidence: Evidence) -> None:
        name = type(self._method).__name__
        tokens = _tokens(name, evidence)
        prefix, grid = grid_of(tokens, evidence.inputs, f"{name}: the attention")
        relevance = self._method.relevance(evidence, prefix)
        self._map = relevance[:, prefix:].reshape(-1, *grid)

    def compute(self) -> Maps:
        return Maps(self._map, self._map[:, None])


@dataclass(frozen=True, kw_only=True)
class _Rollout(_AttentionMethod):
    readout: Readout = "auto"

    def __post_init__(self) -> None:
        _check_choice(self, "readout", self.readout, ("auto", "class", "mean"))

    def _start(self, like: Tensor, prefix: int) -> Tensor:
        """The weight of each row in what is shown, `(n, 1, T)`."""
        rows, _, tokens, _ = like.shape
        if self.readout == "mean" or (self.readout == "auto" and not prefix):
            return like.new_full((rows, 1, tokens), 1 / tokens)
        if not prefix:
            raise ConfigurationError(
                f"{type(self).__name__}(readout='class'): the model has {tokens} tokens, all of "
                "them patches, and no class token. Say readout='mean', or leave it out."
            )
        return torch.eye(1, tokens, dtype=like.dtype, device=like.device).expand(rows, 1, tokens)


@dataclass(frozen=True, kw_only=True)
class AttentionRollout(_Rollout):
    """Class row of Ã_L ⋯ Ã_1, with Ã = (A + I) / 2, its rows scaled to 1 (Abnar & Zuidema 2020).

    2005.00928, section 3: how much of each patch has reached the class token, if attention passes
    tokens on and the residual connection keeps one half. A share, 0 to 1: over all tokens, those
    before the patches included, it sums to 1. Heads become one matrix before the residual is added.
    The same for every class: it shows where the model looks, not what speaks for the score.

    Passes: 1 forward, no backward.
    Good for: how far information is mixed over the training; a cheap first look at a transformer.
    Misleads: it can't tell for from against, nor class from class, and ignores values and MLPs. It
        fails the check of Adebayo et al. 2018: with random weights its maps rank places as those
        of the trained net do (rank correlation 0.67, ``benchmarks/sanity.py``).

    Args:
        heads: how the heads of a block are fused: their ``mean``, as in the paper, ``max`` or
            ``min``.
        readout: the row that is shown: of the first token (``class``), or the ``mean`` of all rows;
            ``auto`` is the first where tokens come before the patches, and else the mean. Say
            ``mean`` for a model that averages its patches though it has such tokens.

    Raises:
        ConfigurationError: an unknown choice; on the first look, a model without attention over all
            tokens in every block, such as one that attends inside windows.
    """

    caution: ClassVar[str] = "not of a class, nearly blind to the weights"

    heads: Heads = "mean"

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_choice(self, "heads", self.heads, ("mean", "max", "min"))

    def looks(self) -> tuple[Look, ...]:
        """The attention weights at the clean input."""
        return (Look(attention="mean" if self.heads == "mean" else "weights"),)

    def relevance(self, evidence: Evidence, prefix: int) -> Tensor:
        """The row of the product, from the last block down."""

        def through(row: Tensor, weights: Tensor) -> Tensor:
            fused = _fused(weights, self.heads)
            # Dividing the row by the sums of A + I is scaling the matrix's rows: r D⁻¹ (A + I).
            row = row / (fused.sum(-1) + 1)[:, None]
            return row @ fused + row

        start = self._start(evidence.attention[-1], prefix)
        return reduce(through, reversed(evidence.attention), start)[:, 0]


@dataclass(frozen=True, kw_only=True)
class GradientRollout(_Rollout):
    """Class row of R: R ← R + Ā R, Ā = mean over heads of ReLU(∂s/∂A ⊙ A) (Chefer 2021, eq. 5–6).

    Chefer, Gur & Wolf 2021 (2103.15679), block by block from R = I: their rule for self-attention.
    Rows are not normalised, and relevance is not propagated inside a block, as it is in their
    earlier 2012.09838. What is shown is R − I: a token's relevance to itself says nothing, and of
    the class row it lies outside of the map. ≥ 0 and of no fixed unit, since products of gradients
    are summed over paths through the blocks: compare maps by shape, not by size.

    Passes: 1 forward and backward, shared with the gradient and CAM methods at the clean input.
    Good for: what in a transformer speaks for one class.
    Misleads: it drops what speaks against the class, and all that flows past attention.

    Args:
        readout: the row that is shown: of the first token (``class``), or the ``mean`` of all rows;
            ``auto`` is the first where tokens come before the patches, and else the mean. Say
            ``mean`` for a model that averages its patches though it has such tokens.

    Raises:
        ConfigurationError: an unknown choice; on the first look, a model without attention over all
            tokens in every block, such as one that attends inside windows.
    """

    def looks(self) -> tuple[Look, ...]:
        """The attention weights at the clean input, and their gradients."""
        return (Look(attention="gradients"),)

    def relevance(self, evidence: Evidence, prefix: int) -> Tensor:
        """The row of the sum over paths, from the last block down."""
        own = self._start(evidence.attention[-1], prefix)
        gained = torch.zeros_like(own)  # added up by itself: beside 1 / T it would lose its digits
        pairs = zip(evidence.attention, evidence.attention_gradients, strict=True)
        for weights, gradient in reversed(list(pairs)):
            gained = gained + (own + gained) @ (weights * gradient).clamp(min=0).mean(1)
        return gained[:, 0]


@dataclass(frozen=True, kw_only=True)
class LayerGradientAttention(_AttentionMethod):
    """Mean over blocks, heads and query rows of ReLU(∂s/∂A) (after Bousselham et al. 2024: LeGrad).

    LeGrad (2404.03214) differentiates in each block a score of its own, which the model's head
    reads off that block's tokens; here every block is differentiated by the one score of the model.
    That needs no knowledge of the head, is one backward pass instead of one per block, and is what
    the model's answer depends on; in the last block both are the same. So it is the rule of LeGrad
    on the final score, and not called LeGrad. ≥ 0, in units of score per unit of attention. The
    column of a patch is averaged over all rows, those of tokens before the patches too.

    Passes: 1 forward and backward, shared with the gradient and CAM methods at the clean input.
    Good for: sharp maps of a class from a transformer, whatever it reads its score off.
    Misleads: a weight may have a large gradient though nothing is attended to there.

    Raises:
        ConfigurationError: on the first look, a model without attention over all tokens in every
            block, such as one that attends inside windows.
    """

    def looks(self) -> tuple[Look, ...]:
        """The gradients of the attention weights at the clean input."""
        return (Look(attention="gradients"),)

    def relevance(self, evidence: Evidence, prefix: int) -> Tensor:
        """The mean positive gradient of each column."""
        columns = [one.clamp(min=0).mean((1, 2)) for one in evidence.attention_gradients]
        return torch.stack(columns).mean(0)


def _fused(weights: Tensor, heads: Heads) -> Tensor:
    if heads == "mean":
        return weights.mean(1)
    return weights.amax(1) if heads == "max" else weights.amin(1)


def _check_choice(method: object, name: str, value: object, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigurationError(
            f"{type(method).__name__}({name}={value!r}): known are "
            f"{', '.join(map(repr, known[:-1]))} and {known[-1]!r}."
        )


def _tokens(name: str, evidence: Evidence) -> int:
    """The number of tokens, the same in all blocks.

    Raises:
        ConfigurationError: no attention was seen, or not one over all tokens in every block.
    """
    if not evidence.attention:
        raise ConfigurationError(
            f"{name}: no attention was seen in the forward pass. The model has none, or computes "
            "it in a way that can't be read, such as flash-attn or FlexAttention: build it with "
            "attn_implementation='sdpa' where it has that argument. For a convolutional net use a "
            "gradient or a class activation method, such as 'saliency'."
        )
    first = evidence.attention[0].shape
    for place, block in enumerate(evidence.attention):
        whole = block.ndim == 4 and block.shape[2] == block.shape[3]
        if not whole or len(block) != len(evidence.inputs) or block.shape != first:
            other = f", unlike block 0 with {tuple(first)}" if place else ""
            raise ConfigurationError(
                f"{name}: block {place} has attention of the shape {tuple(block.shape)} for "
                f"{len(evidence.inputs)} probes{other}. Expected is (n, heads, T, T), the same in "
                "all blocks: attention inside windows, of a pooling token, or to fewer and fewer "
                "tokens has no product. Use 'grad_cam' or 'saliency'."
            )
    return first[-1]
