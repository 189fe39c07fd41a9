"""How PIG is read: as its paper says, or as its released code does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from vtrlib import check
from vtrlib.readings import Switches

__all__ = ["Reading"]

# A switch's two values: as the paper has it, as the released code does.
_SWITCHES = {
    "softmax": ("patches", "keys"),
    "contrastive": ("mean", "sum"),
    "reconstruction": ("single", "double"),
    "bos": ("on", "off"),
    "pre_norm": ("none", "shared"),
    "target": ("detached", "attached"),
}
# Where both presets do what the code does, and what the letter of Eq. 6 is beside it.
_LETTER = {"scale": ("head", "patches"), "scored": ("hidden", "projected")}


@dataclass(frozen=True)
class Reading(Switches):
    r"""Where PIG's text and its released code differ, the paper's value first.

    Numbers in brackets are rows of the list of differences. Rows that are missing
    change no number, or say what the paper leaves open and the code decides, for both
    readings: one head, output layer, dropout and identity matrices of the fusioner [7];
    a frame count that was not trained, which the released code mixes up [14]; the rows
    that its code cannot run [12, 13, 15]; or they concern data, schedule, protocol and
    print [8-11, 16-21, 23].

    Attributes:
        softmax: over which keys Eq. 6 normalises [1]: the video's patches, or all
            "keys" of the last layer, whose proxies and frame-level [cls] are left out
            after it. Each head gives patches another share then, so the maximum over
            heads may choose other patches.
        contrastive: Eq. 4 [4], the "mean" of both directions, or their "sum".
        reconstruction: Eq. 8 [5], "single": $1 - \cos$, with $\alpha = 2$ by default;
            "double": $2 - 2 \cos$, with $\alpha = 1$. Up to a factor of 2 of the whole
            loss the second is $\alpha = 1$ in the paper's terms.
        bos: whether the generator's sequence starts with [bos] [6]. The released
            configuration of B/32 has it off, and so do the paper's 54.90 G; that of
            B/16 has it on.
        pre_norm: of query, keys and values in the fusioner [7]: "none", as in Eq. 7, or
            "shared", one norm for all of them, as in X-Pool's code.
        target: t in Eq. 8 [22], "detached": supervision, as the paper calls it; or
            "attached": the text tower is moved towards the pseudo-query too.
        scale: what divides the logits of Eq. 6 [2]. "head": $\sqrt{d/h}$, the width of
            a head, which the printed $\sqrt{d/n}$ is if n counts heads; both presets
            take it. "patches": $\sqrt{D/N}$, where n counts patches as elsewhere in the
            paper.
        scored: what Eq. 6 takes [3]. "hidden": what goes into the last layer's
            attention; both presets take it. "projected": the features $x_v$ and $x_p$
            that are printed, which fit that layer's matrices only where D is the
            tower's width.

    Raises:
        ValueError: a switch has no such value.
    """

    VALUES = _SWITCHES

    softmax: str = "patches"
    contrastive: str = "mean"
    reconstruction: str = "single"
    bos: str = "on"
    pre_norm: str = "none"
    target: str = "detached"
    scale: str = "head"
    scored: str = "hidden"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, options in _LETTER.items():
            check.one_of(f"reading.{name}", getattr(self, name), options)

    @property
    def alpha(self) -> float:
        r"""$\alpha$ of Eq. 9 in this reading's terms, where a model sets no other."""
        return 2.0 if self.reconstruction == "single" else 1.0

    @classmethod
    def letter(cls) -> Self:
        """The paper, with Eq. 6 to the letter: `scale` and `scored` as printed."""
        return cls(scale="patches", scored="projected")
