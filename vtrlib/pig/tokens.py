"""The last layer of the vision tower: features on three grains, and which patches count.

ITS needs only that layer's queries and keys. So patches can be selected first, and the
rest of the layer, the last norm and the projection run for what is used: P + F + k
tokens instead of all P + F (N + 1).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import CLIPModel

from vtrlib.clip.lora import attend, layers
from vtrlib.pig.config import Config
from vtrlib.pig.its import informativeness, select
from vtrlib.pig.vip import TokenLayout, lower

__all__ = ["Tokens", "visual_tokens"]


class Tokens(NamedTuple):
    """Features of some videos (Eq. 5) and their informative patches (Eq. 6); see
    `vtrlib.pig.Videos`."""

    x_v: Tensor
    x_f: Tensor
    x_p: Tensor | None
    x_ip: Tensor
    informativeness: Tensor
    selected: Tensor


def visual_tokens(
    clip: CLIPModel, pixels: Tensor, config: Config, whole: bool = False
) -> Tokens:
    """Videos to their features.

    Args:
        clip: wrapped by `vtrlib.pig.vip.wrap`.
        pixels: (B, F, 3, size, size).
        config: how patches are scored, and how many are selected.
        whole: see `vtrlib.pig.PIG.encode_video`. Where Eq. 6 takes projected features,
            everything is computed anyway.
    """
    x, layout = lower(clip, pixels)
    vision, layer = clip.vision_model, layers(clip)[0][-1]
    attention, heads = layer.self_attn, layer.self_attn.heads
    top = config.top if "x_ip" in config.reads else 0
    summaries = layout.summaries(x.device)
    h = layer.layer_norm1(x)
    k, v = attention.k_proj(h), attention.v_proj(h)

    def finished(x: Tensor, mixed: Tensor) -> Tensor:
        """The layer's remainder, the last norm and the projection; token by token."""
        x = x + attention.out_proj(mixed)
        x = x + layer.mlp(layer.layer_norm2(x))
        features: Tensor = clip.visual_projection(vision.post_layernorm(x))
        return features

    def scores(query: Tensor, keys: Tensor) -> Tensor:
        divisor = None
        if config.reading.scale == "patches":
            divisor = math.sqrt(clip.config.projection_dim / layout.patches)
        return informativeness(
            query, keys, layout, heads, over=config.reading.softmax,
            pool=config.score_heads, divisor=divisor,
        )  # fmt: skip

    def places_of(S: Tensor) -> Tensor:
        """(B, k), with k = 0 where the generator reads no patch."""
        return select(S, top) if top else S.new_zeros(len(S), 0, dtype=torch.int64)

    projected = config.reading.scored == "projected"
    asking = summaries[:1] if layout.proxies else summaries
    if whole or projected:
        q = attention.q_proj(h)
        features = finished(x, attention.spread(q, k, v, layout))
        with torch.no_grad():
            if projected:
                q, k = attention.q_proj(features), attention.k_proj(features)
            S = scores(q[:, asking], k)
            chosen = places_of(S)
        x_v, x_f, patches = layout.split(features)
        x_ip = patches.flatten(1, 2).take_along_dim(chosen[..., None], 1)
        x_p = patches if whole else None
        return Tokens(_video(x_v, x_f, layout), x_f, x_p, x_ip, S, chosen)
    with torch.no_grad():
        S = scores(attention.q_proj(h[:, asking]), k)
        chosen = places_of(S)
    places = torch.cat([summaries.expand(len(x), -1), layout.patch_places(chosen)], 1)
    q = attention.q_proj(h.take_along_dim(places[..., None], 1))
    mixed = attend(q, k, v, heads, layout.seen(places)[:, None])
    features = finished(x.take_along_dim(places[..., None], 1), mixed)
    sizes = [layout.proxies, len(summaries) - layout.proxies, top]
    x_v, x_f, x_ip = features.split(sizes, 1)
    return Tokens(_video(x_v, x_f, layout), x_f, None, x_ip, S, chosen)


def _video(x_v: Tensor, x_f: Tensor, layout: TokenLayout) -> Tensor:
    """Video-level tokens; where there are no proxies the mean of the frames."""
    return x_v if layout.proxies else x_f.mean(1, keepdim=True)
