"""How RagMe is read: as its paper says, or as its released code does."""

from __future__ import annotations

from dataclasses import dataclass

from vtrlib import check
from vtrlib.readings import Switches

__all__ = ["Reading"]

# A switch's two values: as the paper has it, as the released code does.
_SWITCHES = {
    "tokens": ("each", "mean"),
    "queries": ("positions", "pooled"),
    "block": ("attention", "transformer"),
    "mid": ("attention", "block"),
    "rule": ("greedy", "components"),
    "thresholds": ("printed", "code"),
    "start": ("last", "first"),
}
# Half of what the code pools; and where both presets do what is right.
_MORE = {
    "queries": ("positions", "pooled", "pooled_space", "pooled_time"),
    "masks": ("honoured", "leaky"),
}


@dataclass(frozen=True)
class Reading(Switches):
    r"""Where RagMe's text and its released code differ, the paper's value first.

    Both are silent on frame positions, and the configuration of the released weights is
    not in the code: the enhancer's depth (6 in the paper, 8 by default in the code), its
    positions and the norm of the added blocks are fields of `Config`. The code's slips
    (wrapped pixels, frames that are not normalised and grey clips in the place of
    missing ones at inference, a phantom neighbour when the pool exceeds the
    collection) are not reproduced under either reading.

    Attributes:
        tokens: what is attended to, "each" of the K tokens $z$, or their "mean", one
            token, whose attention weight is 1 whatever the query.
        queries: of Eq. 6, "positions": every position of every frame; "pooled": their
            mean, so that the residual is one constant per channel. Also "pooled_space"
            (a query per frame) and "pooled_time" (a query per position), which the code
            can be set to.
        block: what meets $z$, "attention": the MCA of Eq. 6, after a layer norm;
            "transformer": two MCA and a feed-forward layer, each with norm and
            residual.
        mid: where the middle site is, right after the temporal "attention" like all
            others, or at the end of its "block", after one more pair of convolutions.
        rule: of deduplication. The paper has none; "greedy" keeps a video unless a kept
            one is too similar, "components" keeps one of each connected component.
        thresholds: "printed", $\delta_{dedup} = 0.965$ and, between videos,
            $\delta_{min} = 0.6$; "code", 0.98 and none.
        start: $t$ of Eq. 7, the "last" step T of the process, or the "first" that the
            sampler visits. $\alpha_t$ is read as $\bar\alpha_t$ in both, since
            Eq. 7 goes from clean latents to step t at once.
        masks: "honoured" in every attention by both presets; "leaky", the code's: only
            the second attention of a block knows which neighbours are missing. It
            serves to compare numbers alone.

    Raises:
        ValueError: a switch has no such value.
    """

    VALUES = _SWITCHES

    tokens: str = "each"
    queries: str = "positions"
    block: str = "attention"
    mid: str = "attention"
    rule: str = "greedy"
    thresholds: str = "printed"
    start: str = "last"
    masks: str = "honoured"

    def __post_init__(self) -> None:
        for name, options in {**self.VALUES, **_MORE}.items():
            check.one_of(f"reading.{name}", getattr(self, name), options)
        if self.masks == "leaky" and self.block == "attention":
            raise ValueError(
                "reading.masks='leaky': expected reading.block='transformer' with it, "
                "the only block that leaks."
            )

    @property
    def pooled(self) -> tuple[bool, bool]:
        """Whether queries are pooled over space, and over frames."""
        whole = self.queries == "pooled"
        space, time = self.queries == "pooled_space", self.queries == "pooled_time"
        return whole or space, whole or time
