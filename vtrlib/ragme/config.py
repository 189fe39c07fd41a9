"""What RagMe adds to a base model: the enhancer's and the adapters' sizes, how read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from vtrlib import check
from vtrlib.ragme.reading import Reading

__all__ = ["Config", "Rules"]


class Rules(NamedTuple):
    """How neighbours are chosen; arguments of `retrieve`.

    Attributes:
        dedup: $\\delta_{dedup}$.
        min_similarity: $\\delta_{min}$, or None.
        rule: "greedy" or "components".
    """

    dedup: float
    min_similarity: float | None
    rule: str


@dataclass(frozen=True)
class Config:
    r"""Sizes and settings of what is added; the defaults are RagMe's on ZeroScope.

    Attributes:
        width: D, of frame embeddings, the enhancer and its tokens z.
        layers: of the enhancer; 0 for none: z is given as tokens then.
        heads: of the enhancer, and of the added attention at every site.
        pool: what stands for a video, "cls" (Eq. 5), or the "mean" of its frames'
            tokens, without [CLS].
        positions: the most frames a video may have, for learned frame positions; 0 for
            none, as in paper and code: z does not depend on the order of frames then.
        norm: of the added attentions, "layer_norm", or "ada_norm", which is scaled and
            shifted by the time step ("transformer" blocks only).
        timesteps: that "ada_norm" knows, 0 … timesteps - 1.
        reading: a `Reading`, or "paper" or "released".

    Raises:
        TypeError, ValueError: a setting out of its range, or two that do not fit.
    """

    width: int = 512
    layers: int = 6
    heads: int = 8
    pool: str = "cls"
    positions: int = 0
    norm: str = "layer_norm"
    timesteps: int = 1000
    reading: Reading = field(default_factory=Reading.paper)

    def __post_init__(self) -> None:
        object.__setattr__(self, "reading", Reading.given(self.reading))
        for name, low in (
            ("width", 1), ("layers", 0), ("heads", 1), ("positions", 0),
            ("timesteps", 1),
        ):  # fmt: skip
            check.integer(name, getattr(self, name), low=low)
        check.one_of("pool", self.pool, ("cls", "mean"))
        check.one_of("norm", self.norm, ("layer_norm", "ada_norm"))
        if self.layers and self.width % self.heads:
            raise ValueError(
                f"heads={self.heads}: expected a divisor of width={self.width}."
            )
        if self.norm == "ada_norm" and self.reading.block == "attention":
            raise ValueError(
                "norm='ada_norm': expected reading.block='transformer' with it; the "
                "paper's attention knows no time step. Choose 'layer_norm'."
            )

    def rules(self, query: str = "text") -> Rules:
        r"""Thresholds and rule of the reading.

        Args:
            query: "text", or "video". A text asks without $\delta_{min}$: CLIP B/32
                puts a caption and its own video at a cosine of about 0.2 to 0.35, so
                that 0.6, which suits two videos, would leave nothing. Give `retrieve` a
                quantile of your encoder's similarities instead.

        Raises:
            ValueError: neither of them.
        """
        check.one_of("query", query, ("text", "video"))
        printed = self.reading.thresholds == "printed"
        minimum = 0.6 if printed and query == "video" else None
        return Rules(0.965 if printed else 0.98, minimum, self.reading.rule)
