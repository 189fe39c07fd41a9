"""Low-rank adaptation of CLIP's attention: queries, keys and values share one factor.

Layers of `transformers.CLIPModel` are wrapped, their parts keep their names: a wrapped
model reads the weights of a plain one, and what is new stands beside them as `lora`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F
from transformers import CLIPModel

from vtrlib import check

__all__ = [
    "LoRAAttention", "SharedLoRA", "add_lora", "attend", "layers", "wrap_attention",
]  # fmt: skip


def attend(
    query: Tensor, key: Tensor, value: Tensor, heads: int, mask: Tensor | None = None,
    dropout: float = 0.0, causal: bool = False,
) -> Tensor:  # fmt: skip
    r"""$\mathrm{softmax}(q k^\top / \sqrt{D/h})\, v$ in h heads, put side by side.

    Args:
        query: (B, L, D). key, value: (B, L', D).
        heads: h, divides D.
        mask: bool, true where a key is seen; broadcast to (B, h, L, L').
        dropout: of attention weights.
        causal: instead of a mask; each query sees the keys up to its own place.

    Returns:
        (B, L, D).
    """
    q, k, v = (_split(x, heads) for x in (query, key, value))
    mixed = F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=causal
    )
    return mixed.transpose(1, 2).flatten(2)


class SharedLoRA(nn.Module):
    r"""Low-rank updates of several linear layers with one input (Hu et al., 2021).

    $$ \Delta W_i = s\, B_i A, \quad A \in \mathbb R^{r \times D}, \;
       B_i \in \mathbb R^{D_i \times r} $$

    A is shared, as DiscoVLA's 0.49 M parameters say: $4 r D$ for queries, keys and
    values, where a factor for each would take $6 r D$.

    Args:
        width: D.
        widths: $D_i$ of the layers.
        rank: r ≥ 1.
        scale: s.

    Attributes:
        down: A (r, D), drawn from $\mathcal U(\pm 1/\sqrt D)$.
        up: all $B_i$, (ΣD_i, r), zeros at the start, so that nothing changes then.
    """

    def __init__(
        self, width: int, widths: Sequence[int], rank: int, scale: float = 1.0
    ) -> None:
        super().__init__()
        self.widths, self.scale = list(widths), check.number("scale", scale)
        check.integer("rank", rank, low=1)
        self.down = nn.Parameter(torch.empty(rank, width))
        self.up = nn.Parameter(torch.empty(sum(widths), rank))
        self.draw()

    @torch.no_grad()
    def draw(self, generator: Generator | None = None) -> None:
        """Draw the weights anew."""
        bound = self.down.shape[1] ** -0.5
        self.down.uniform_(-bound, bound, generator=generator)
        self.up.zero_()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """x (..., D) to what each layer's output (..., D_i) is moved by."""
        moved = F.linear(F.linear(x, self.down), self.up)
        return (moved if self.scale == 1 else self.scale * moved).split(self.widths, -1)


class LoRAAttention(nn.Module):
    """CLIP's attention with a `SharedLoRA` on queries, keys and values.

    Stands where a `CLIPAttention` stood, whose projections it takes over.

    Args:
        attention: a `CLIPAttention`.
        rank: r of the LoRA; 0 for none.
        scale: of the LoRA.
    """

    def __init__(self, attention: Any, rank: int = 0, scale: float = 1.0) -> None:
        super().__init__()
        self.q_proj, self.k_proj = attention.q_proj, attention.k_proj
        self.v_proj, self.out_proj = attention.v_proj, attention.out_proj
        self.heads: int = attention.num_heads
        self.dropout: float = attention.dropout
        width: int = attention.embed_dim
        self.lora = SharedLoRA(width, [width] * 3, rank, scale) if rank else None

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of x (..., D), each (..., D), heads side by side."""
        q, k, v = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        if self.lora is None:
            return q, k, v
        dq, dk, dv = self.lora(x)
        return q + dq, k + dk, v + dv

    def mix(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None,
        causal: bool = False,
    ) -> Tensor:  # fmt: skip
        """Attention and the output layer: (B, L, D), (B, L', D) twice, to (B, L, D)."""
        dropout = self.dropout if self.training else 0.0
        mixed = attend(query, key, value, self.heads, mask, dropout, causal)
        out: Tensor = self.out_proj(mixed)
        return out

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor | None = None,
        is_causal: bool = False, **_: Any,
    ) -> tuple[Tensor, None]:  # fmt: skip
        """Tokens (B, L, D), and a mask as `attend` takes it, to (B, L, D); there are no
        weights to return. Transformers leaves a causal mask out where nothing is
        padded, and says `is_causal`."""
        causal = is_causal and attention_mask is None
        return self.mix(*self.project(hidden_states), attention_mask, causal), None


def layers(model: CLIPModel) -> tuple[nn.ModuleList, nn.ModuleList]:
    """The layers of the vision tower and of the text tower, from the lowest."""
    return model.vision_model.encoder.layers, model.text_model.encoder.layers


def wrap_attention(
    stack: nn.ModuleList, wrap: Callable[[int, nn.Module], nn.Module]
) -> None:
    """Replace the attention of each layer of a tower.

    Args:
        stack: one of `layers`.
        wrap: (number of the layer from 0, its attention) to what takes its place.
    """
    for number, layer in enumerate(stack):
        layer.self_attn = wrap(number, layer.get_submodule("self_attn"))


def add_lora(model: CLIPModel, rank: int = 8, scale: float = 1.0) -> CLIPModel:
    """Freeze a CLIP model and give all its layers a `SharedLoRA`, which is trained.

    Args:
        model: with the attention that transformers gives it.
        rank: r.
        scale: of the updates.

    Returns:
        The model itself.
    """
    model.requires_grad_(False)
    for stack in layers(model):
        wrap_attention(stack, lambda _, one: LoRAAttention(one, rank, scale))
    for module in model.modules():
        if isinstance(module, SharedLoRA):
            module.to(model.device, model.dtype).requires_grad_(True)
    return model


def _split(x: Tensor, heads: int) -> Tensor:
    """(B, L, D) to (B, h, L, D/h)."""
    split: Tensor = x.unflatten(-1, (heads, -1))  # type: ignore[no-untyped-call]
    return split.transpose(1, 2)
