"""The small layers that all branches share: input, positions, attention."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = [
    "Attention", "AttentionBlock", "InputProjection", "PositionCode",
    "attention_weights", "key_bias",
]  # fmt: skip

# Added to a masked score before the softmax, as released: exp(-10⁴) is 0 in every
# dtype, and a row with nothing but masked keys still has a finite softmax.
_MASKED = -1e4


def key_bias(mask: Tensor, dtype: torch.dtype, extra: int = 0) -> Tensor:
    """What masks attention scores: 0 where there is a key, −10⁴ where there is none.

    Args:
        mask: (B, L), bool.
        dtype: of the scores.
        extra: keys behind them that are always there, such as registers.

    Returns:
        (B, 1, 1, L + extra), to be added to scores (B, h, ·, L + extra).
    """
    mask = F.pad(mask, (0, extra), value=True)
    bias = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
    return bias.masked_fill_(~mask, _MASKED)[:, None, None]


def attention_weights(
    query: Tensor,
    key: Tensor,
    heads: int,
    bias: Tensor | None = None,
    gain: Tensor | None = None,
) -> Tensor:
    r"""$\mathrm{softmax}(M \odot q k^\top / \sqrt{d/h} + b)$ (DreamPRVR Eq. 14).

    Args:
        query: (..., L, d). key: (..., L', d).
        heads: h.
        bias: b, see `key_bias`.
        gain: M, (..., L, L'): a Gaussian window. It multiplies scores before the
            softmax, so it draws them towards 0, not towards −∞.

    Returns:
        (..., h, L, L'), rows sum to 1.
    """
    q, k = _split(query, heads), _split(key, heads)
    scores = (q * q.shape[-1] ** -0.5) @ k.mT
    if gain is not None:
        scores = scores * gain[..., None, :, :]
    if bias is not None:
        scores = scores + bias
    weights: Tensor = scores.softmax(-1)
    return weights


def mixed(weights: Tensor, value: Tensor, heads: int) -> Tensor:
    """Values (..., L', d) mixed by weights (..., h, L, L') to (..., L, d)."""
    return (weights @ _split(value, heads)).transpose(-3, -2).flatten(-2)


def feed_forward(
    x: Tensor, attended: Tensor, drop: Callable[[Tensor], Tensor],
    norm1: nn.Module, inner: nn.Module, outer: nn.Module, norm2: nn.Module,
) -> Tensor:  # fmt: skip
    """What follows attention in every block: residual, norm, two layers, the same."""
    x = norm1(x + drop(attended))
    hidden = drop(F.relu(inner(x)))
    out: Tensor = norm2(x + drop(outer(hidden)))
    return out


class InputProjection(nn.Module):
    """Norm, dropout, layer, ReLU: features (..., in) to (..., out)."""

    def __init__(self, width_in: int, width_out: int, dropout: float) -> None:
        super().__init__()
        self.norm, self.drop = nn.LayerNorm(width_in), nn.Dropout(dropout)
        self.linear = nn.Linear(width_in, width_out)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = F.relu(self.linear(self.drop(self.norm(x))))
        return out


class PositionCode(nn.Module):
    """A learned vector for each position, norm, dropout; (..., L, d), L ≤ `length`."""

    def __init__(self, length: int, width: int, dropout: float) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.empty(length, width))
        self.norm, self.drop = nn.LayerNorm(width), nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.drop(self.norm(x + self.table[: x.shape[-2]]))
        return out


class Attention(nn.Module):
    """Attention of `heads` heads, put together without a last layer."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.drop = nn.Dropout(dropout)

    def weights(self, x: Tensor, context: Tensor, bias: Tensor | None = None) -> Tensor:
        """(..., h, L, L')."""
        return attention_weights(self.query(x), self.key(context), self.heads, bias)

    def forward(self, x: Tensor, context: Tensor, bias: Tensor | None = None) -> Tensor:
        weights = self.drop(self.weights(x, context, bias))
        return mixed(weights, self.value(context), self.heads)


class AttentionBlock(nn.Module):
    r"""A Transformer block with its norms last.

    $$ x \leftarrow \mathrm{LN}(x + \mathrm{attention}(x, \mathrm{context})), \quad
       x \leftarrow \mathrm{LN}(x + W_2 \max(0, W_1 x)) $$

    Queries are x (..., L, d); keys and values the context (..., L', d), by default x.

    Args:
        width: d.
        heads: h.
        dropout: of attention weights and of every branch before its sum.
        expansion: width of the inner layer over d; 4 in self-attention, 1 in
            cross-attention.
    """

    def __init__(
        self, width: int, heads: int, dropout: float, expansion: int = 4
    ) -> None:
        super().__init__()
        self.attention = Attention(width, heads, dropout)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.inner = nn.Linear(width, expansion * width)
        self.outer = nn.Linear(expansion * width, width)
        self.drop = nn.Dropout(dropout)

    def forward(
        self, x: Tensor, context: Tensor | None = None, bias: Tensor | None = None
    ) -> Tensor:
        attended = self.attention(x, x if context is None else context, bias)
        return feed_forward(
            x, attended, self.drop, self.norm1, self.inner, self.outer, self.norm2
        )


def _split(x: Tensor, heads: int) -> Tensor:
    """(..., L, d) to (..., h, L, d/h)."""
    split: Tensor = x.unflatten(-1, (heads, -1))  # type: ignore[no-untyped-call]
    return split.transpose(-3, -2)
