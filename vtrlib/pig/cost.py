"""What a video costs once, and what a match with a query costs each time: Tab. 1 and 3.

Counts are multiply-accumulates (MACs). The paper calls them FLOPs, as the tool that it
used does; a MAC is two of those.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

from vtrlib import check
from vtrlib.pig.config import Config
from vtrlib.pig.model import PIG

__all__ = [
    "MATCHES", "OFFLINE", "Entry", "VideoCost", "match_cost", "parameters", "video_cost",
]  # fmt: skip


class VideoCost(NamedTuple):
    """MACs of one video, part by part.

    Attributes:
        patches: the convolution.
        linear: the vision tower's linear layers.
        attention: queries with keys and weights with values, in the vision tower.
        scores: of ITS, where they are not taken from the attention.
        projection: to D.
        generator: all of it.
        fusioner: all of it.
        elementwise: multiplications that are no product of matrices, and that the
            paper's tool counts: quick-GELU's two and the scaling of queries.
    """

    patches: int
    linear: int
    attention: int
    scores: int
    projection: int
    generator: int
    fusioner: int
    elementwise: int

    @property
    def products(self) -> int:
        """Of these the products of matrices and the convolution, half of what
        `torch.utils.flop_counter` counts. It overlooks the fused attention of a CPU: count
        under `sdpa_kernel(SDPBackend.MATH)`, or on the meta device."""
        return sum(self) - self.elementwise

    @property
    def total(self) -> int:
        """With the element-wise multiplications."""
        return sum(self)


def video_cost(config: Config, frames: int | None = None, code: str = "used") -> VideoCost:
    """What the feature of one video costs, with CLIP-ViP, causal generator and X-Pool.

    Args:
        config: sizes, and what the generator reads.
        frames: F; those that are trained by default.
        code: "released": the last layer and the projections run for all tokens, token 0
            is projected twice, and the generator projects each position. "whole":
            `encode_video(whole=True)`, the same but for that double, with scores apart.
            "used": what training and `index` compute.

    Raises:
        ValueError: another kind of model, or no such code.
    """
    check.one_of("code", code, ("released", "whole", "used"))
    parts = (config.backbone, config.frame_cls, config.pseudo_query, config.fusioner)
    if parts != ("clip_vip", True, "causal", "xpool"):
        raise ValueError(
            f"config: found backbone, frame_cls, pseudo_query and fusioner {parts}, expected "
            "('clip_vip', True, 'causal', 'xpool'), whose cost is known here."
        )
    F, sizes = config.frames if frames is None else frames, config.sizes
    config.fits(F, sizes)
    vision, text, D = sizes.vision_config, sizes.text_config, sizes.projection_dim
    d, inner, depth = vision.hidden_size, vision.intermediate_size, vision.num_hidden_layers
    N = (vision.image_size // vision.patch_size) ** 2
    P, frame = config.proxies, N + 1
    L, used = P + F * frame, code == "used"
    reads = {"x_v": P, "x_f": F, "x_ip": config.top}
    k = config.top if "x_ip" in config.reads else 0
    U = P + F + k if used else L  # tokens that pass the last layer
    layer = 4 * d**2 + 2 * d * inner
    linear = (depth - 1) * L * layer + 2 * L * d**2 + U * (layer - 2 * d**2)
    spread = 2 * d * (P * L + F * frame * (P + frame))
    attention = (depth - 1) * spread + (2 * d * U * L if used else spread)
    tokens = sum(reads[name] for name in config.reads)
    S = tokens + (2 if config.reading.bos == "on" else 1)
    w, wide, deep = text.hidden_size, text.intermediate_size, text.num_hidden_layers
    generator = tokens * D * w + deep * (S * (4 * w**2 + 2 * w * wide) + 2 * S**2 * w)
    return VideoCost(
        patches=F * N * 3 * vision.patch_size**2 * d,
        linear=linear + (d**2 if used else 0),  # the asking proxy's query comes first
        attention=attention,
        scores=0 if code == "released" else L * d,
        projection=(U + (code == "released")) * d * D,
        generator=generator + (1 if used else S) * w * D,
        fusioner=(2 * (P + F) + 3) * D**2 + 2 * (P + F) * D,
        elementwise=((depth - 1) * L + U) * (2 * inner + d) + deep * S * (2 * wide + w),
    )


def parameters(config: Config) -> int:
    """How many numbers a model has; made on a device that holds none."""
    with torch.device("meta"):
        return sum(weight.numel() for weight in PIG(config).parameters())


class Entry(NamedTuple):
    """A printed number of Tab. 1 or 3 and how it comes about.

    Attributes:
        method: as the table names it.
        printed: the number in the table.
        unit: what it counts in there: 1000 or 1024, or more.
        status: "derived", from what the methods say of themselves; "as coded", from
            what released code computes; "not derivable" from the sources at hand.
        count: of (D, F, words) the number; None if it is not derivable.
        how: the reason, in a few words.
    """

    method: str
    printed: float
    unit: int
    status: str
    count: Callable[[int, int, int], int] | None
    how: str


def match_cost(
    method: str, dimension: int = 512, frames: int = 12, words: int = 32, code: bool = False
) -> int:
    """MACs of one match of a query and a video whose features are stored (Tab. 1).

    Args:
        method: of `MATCHES`.
        dimension: D; the feature re-learning methods have sizes of their own.
        frames: F.
        words: of the query, L.
        code: what the released code computes, where that is known to be more: X-Pool
            maps each pair twice, though one map can be folded into the values.

    Raises:
        ValueError: there is no such method, or its cost cannot be derived.
    """
    for name, value in {"dimension": dimension, "frames": frames, "words": words}.items():
        check.integer(name, value, low=1)
    found = {entry.method: entry for entry in MATCHES}
    entry = found[check.one_of("method", method, found)]
    if entry.count is None:
        raise ValueError(f"method={method!r}: its cost is not derivable: {entry.how}.")
    more = dimension**2 - frames if code and method == "XPool" else 0
    return entry.count(dimension, frames, words) + more


def _own(number: int) -> Callable[[int, int, int], int]:
    return lambda D, F, words: number


def _vectors(number: int) -> Callable[[int, int, int], int]:
    return lambda D, F, words: number * D


def _x_clip(D: int, F: int, words: int) -> int:
    """Video, frames, sentence and words, each with each; then both poolings."""
    pairs = D * (1 + words + F + F * words)
    return pairs + (F**2 + F) + (words**2 + words)


def _x_pool(D: int, F: int, words: int) -> int:
    """Weights, their mix of values, one map, the product with the query."""
    return D**2 + 2 * F * D + D + F


_K = 1000
_ONE = "one product of vectors"
# Tab. 1, FLOPs. What the first four multiply is read off the numbers, which are in
# units of 1024; the paper does not say it.
MATCHES: tuple[Entry, ...] = (
    Entry("SEA", 10.0, 1024, "derived", _own(5 * 2048), "five spaces of 2048"),
    Entry("W2VV++", 2.0, 1024, "derived", _own(2048), "one space of 2048"),
    Entry("MMT", 3.5, 1024, "derived", _vectors(7), "seven experts"),
    Entry("LAFF", 4.0, 1024, "derived", _vectors(8), "eight spaces"),
    Entry("TS2-Net", 6.1, _K, "derived", lambda D, F, words: F * D, "all frames"),
    Entry("X-CLIP", 220.9, _K, "derived", _x_clip, "four similarities, two poolings"),
    Entry("XPool", 275.0, _K, "derived", _x_pool, "one of two maps folded into values"),
    Entry("DRL", 220.4, _K, "not derivable", None, "words by frames alone are 196.6 K"),
    Entry("ProST", 2017.5, _K, "not derivable", None, "needs its code"),
    Entry("UCoFiA", 9836.7, _K, "not derivable", None, "needs its code"),
    Entry("CLIP4Clip", 0.5, _K, "derived", _vectors(1), _ONE),
    Entry("CenterCLIP", 1.5, _K, "derived", _vectors(3), "three segments"),
    Entry("Cap4Video*", 1.0, _K, "derived", _vectors(2), "video and caption"),
    Entry("PromptSwitch", 0.5, _K, "derived", _vectors(1), _ONE),
    Entry("STAN", 0.5, _K, "derived", _vectors(1), _ONE),
    Entry("TeachCLIP", 0.5, _K, "derived", _vectors(1), _ONE),
    Entry("CLIP-ViP*", 0.5, _K, "derived", _vectors(1), _ONE),
    Entry("PIG(Ours)", 0.5, _K, "derived", _vectors(1), _ONE),
)


def _teach_clip(D: int, F: int, words: int) -> int:
    """CLIP; four layers of width D with 77 positions; two maps that weigh frames."""
    temporal = 4 * (12 * D**2 + 13 * D) + 77 * D
    weighing = D**2 + D + (D + 1)
    return parameters(Config.variant("clip4clip")) + temporal + weighing


def _pig_video(D: int, F: int, words: int) -> int:
    return video_cost(Config(), F, "released").total


def _pig_parameters(D: int, F: int, words: int) -> int:
    return parameters(Config())


def _bytes(D: int, F: int, words: int) -> int:
    return 4 * D


_G, _M, _UNKNOWN = 10**9, 10**6, "needs its code"
# Tab. 3 but for its matches, which are those of Tab. 1: by column.
OFFLINE: dict[str, tuple[Entry, ...]] = {
    "video": (
        Entry("ProST", 53.89, _G, "not derivable", None, _UNKNOWN),
        Entry("TeachCLIP", 53.65, _G, "not derivable", None, "unknown what is counted"),
        Entry("F-Pig(Ours)", 54.90, _G, "as coded", _pig_video, "without [bos]"),
    ),
    "parameters": (
        Entry("ProST", 180.4, _M, "not derivable", None, _UNKNOWN),
        Entry("TeachCLIP", 164.2, _M, "as coded", _teach_clip, "with its weighing"),
        Entry("F-Pig(Ours)", 191.0, _M, "as coded", _pig_parameters, "all of them"),
    ),
    "storage": (
        Entry("ProST", 294, 1024, "not derivable", None, "147 vectors; why, needs its code"),
        Entry("TeachCLIP", 2, 1024, "derived", _bytes, "one vector in float32"),
        Entry("F-Pig(Ours)", 2, 1024, "derived", _bytes, "one vector in float32"),
    ),
}
