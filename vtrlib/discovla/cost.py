"""What attention costs: multiply-accumulates of a layer, derived from its shapes."""

from __future__ import annotations

from typing import NamedTuple

from vtrlib import check

__all__ = ["AttentionCost", "attention_cost"]


class AttentionCost(NamedTuple):
    """Multiply-accumulates (MACs, half a FLOP count) of one layer for one video.

    Attributes:
        pairs: of all queries with all keys, and of the weights with the values.
        projections: queries, keys, values and output.
        added: LoRA and adapter.
    """

    pairs: int
    projections: int
    added: int

    @property
    def total(self) -> int:
        """Their sum."""
        return sum(self)


def attention_cost(
    kind: str, frames: int, tokens: int, width: int, *, rank: int = 0,
    adapter_rank: int = 0,
) -> AttentionCost:  # fmt: skip
    r"""Cost of a layer's attention (Fig. 3) for F frames of N + 1 tokens, width D.

    Products of queries with keys and of weights with values take, in all heads:

    - "image": $2 F (N+1)^2 D$, which is $O(F N^2)$;
    - "video": $2 (F (N+1))^2 D$, which is $O((F N)^2)$;
    - "fusion" or "average": $2 F (N+1)^2 D + 2 F^2 (N+1) D$, which is $O(F N^2 + F^2
      N)$.

    Projections take $4 F (N+1) D^2$, and $F D^2$ more where summary tokens pass the
    output layer twice; LoRA $4 F (N+1) r D$; an adapter $2 F r' D$. Softmax, biases and
    activations are not counted.

    Args:
        kind: as `Config.attention`.
        frames: F.
        tokens: N + 1, of a frame with its class token, or of a padded caption.
        width: D.
        rank: r of the LoRA, 0 for none.
        adapter_rank: r' of the adapter of "fusion".

    Raises:
        ValueError: there is no such kind, or a size is out of range.
    """
    check.one_of("kind", kind, ("image", "video", "average", "fusion"))
    for name, value in {"frames": frames, "tokens": tokens, "width": width}.items():
        check.integer(name, value, low=1)
    every, fused = frames * tokens, kind in ("average", "fusion")
    pairs = 2 * every * (every if kind == "video" else tokens) * width
    projections = 4 * every * width**2
    if fused:
        pairs += 2 * frames * every * width
        projections += frames * width**2
    added = 4 * every * rank * width
    if kind == "fusion":
        added += 2 * frames * adapter_rank * width
    return AttentionCost(pairs, projections, added)
