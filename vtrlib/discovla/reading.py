"""How DiscoVLA is read: as its paper says, or as its released code does."""

from __future__ import annotations

from dataclasses import dataclass

from vtrlib.readings import Switches

__all__ = ["Reading"]

# A switch's two values: as the paper has it, as the released code does.
_SWITCHES = {
    "aggregation": ("mean", "softmax"),
    "kl": ("batchmean", "numel100"),
    "teacher": ("detached", "attached"),
    "activation": ("gelu", "quick_gelu"),
    "adapter_bias": ("none", "both"),
    "padding": ("hidden", "seen"),
    "optimiser": ("adamw", "transformers_adamw"),
}


@dataclass(frozen=True)
class Reading(Switches):
    r"""Where DiscoVLA's text and its released code differ, the paper's value first.

    Numbers in brackets are rows of the list of differences. Rows that are missing
    change no number, or say what the paper leaves open and the code decides, for both
    readings: the order of normalising and averaging frames [8], no positions in time
    [14], the adapter's start at zero [13], what the single caption passes [16],
    queries, keys and values alone with LoRA [17]; or they concern data, schedule and
    protocol [18-21, 23].

    Attributes:
        aggregation: over captions in Eq. 8, over frames in Eq. 9 [1]. "mean": 1/F Σ;
            "softmax": weights $\mathrm{softmax}(s\, m)$ over the maxima m, with CLIP's
            scale s; s → 0 is the mean, s → ∞ the greatest of all pairs.
        kl: the mean over distributions in Eq. 13, or [2] "numel100": their sum · 100 /
            B², which is 100 / B times as much, so that β means another thing with every
            batch size.
        teacher: "detached": the image-level similarity is a fixed target in Eq. 13, as
            distillation has it, though the paper does not say so; "attached": its
            gradient flows too [4].
        activation: σ of Eq. 7 [5], "gelu" or "quick_gelu", $x\,\mathrm{sigmoid}(1.702
            x)$.
        adapter_bias: of $W_{down}$ and $W_{up}$ in Eq. 7 [6], "none" or "both".
        padding: what stands where a video has no frame [9, 10]. "hidden": it takes part
            nowhere, nor does its caption; "seen": it is a key in Eq. 6 and a frame in
            Eq. 8-9. The paper does not say; its loader never pads.
        optimiser: "adamw" or "transformers_adamw", a function of `vtrlib.training` each
            [22].

    Raises:
        ValueError: a switch has no such value.
    """

    VALUES = _SWITCHES

    aggregation: str = "mean"
    kl: str = "batchmean"
    teacher: str = "detached"
    activation: str = "gelu"
    adapter_bias: str = "none"
    padding: str = "hidden"
    optimiser: str = "adamw"
