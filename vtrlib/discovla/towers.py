"""CLIP's towers with DiscoVLA's attention in their layers: wrapping them, and running
them over the frames and the pseudo captions of videos."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPModel

from vtrlib.clip.lora import LoRAAttention, layers, wrap_attention
from vtrlib.discovla.config import Config
from vtrlib.discovla.ivfusion import Adapter, Frames, IVFusionAttention

__all__ = ["first_parts", "frame_features", "places", "text_features", "wrap_towers"]


def wrap_towers(clip: CLIPModel, config: Config) -> None:
    """Give all layers LoRA, and those on top the attention of the configuration."""
    vision, text = layers(clip)
    _wrap(vision, config.vision_fusion, config)
    _wrap(text, config.text_fusion, config)


def frame_features(clip: CLIPModel, pixels: Tensor, mask: Tensor | None) -> Tensor:
    """Features of the frames of some videos.

    Only class tokens reach the last norm and the projection.

    Args:
        clip: wrapped.
        pixels: (B, F, 3, size, size).
        mask: (B, F), bool, true for frames that others may see; None for all.

    Returns:
        (B, F, D), not normalised.
    """
    vision = clip.vision_model
    x = vision.pre_layrnorm(vision.embeddings(pixels.flatten(0, 1)))  # (B F, 1 + N, ·)
    keys = None if mask is None else mask.repeat_interleave(x.shape[1], 1)
    place = torch.zeros(len(x), dtype=torch.long, device=x.device)
    frames = Frames(pixels.shape[1], place, keys)
    for layer in layers(clip)[0]:
        x = layer(x, None, frames=frames)
    features: Tensor = clip.visual_projection(vision.post_layernorm(x[:, 0]))
    return features.reshape(*pixels.shape[:2], -1)


def text_features(
    clip: CLIPModel, ids: Tensor, mask: Tensor, ends: Tensor, frames: Frames | None
) -> Tensor:
    """Features of texts, read at their end tokens; only those reach the last norm and
    the projection.

    Args:
        clip: wrapped.
        ids: (R, L), token ids.
        mask: (R, L), bool, true where there is a token.
        ends: (R, L), bool, true at the end token.
        frames: which texts are a video's pseudo captions; None for single captions.

    Returns:
        (R, D), not normalised.
    """
    text = clip.text_model
    x = text.embeddings(ids)
    causal = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device)
    seen = mask[:, None, None] & causal.tril()
    for layer in layers(clip)[1]:
        x = layer(x, seen, frames=frames)
    last = x.take_along_dim(places(ends)[:, None, None], 1).squeeze(1)
    features: Tensor = clip.text_projection(text.final_layer_norm(last))
    return features


def places(ends: Tensor) -> Tensor:
    """Where each row (R, L) is true, (R,)."""
    return ends.int().argmax(1)


def first_parts(clip: CLIPModel) -> list[nn.Module]:
    """What stands before the first layers, which CLIP4Clip leaves as it is."""
    vision, text = clip.vision_model, clip.text_model
    return [vision.embeddings, vision.pre_layrnorm, text.embeddings]


def _wrap(stack: nn.ModuleList, fused: int, config: Config) -> None:
    def wrap(number: int, attention: Any) -> nn.Module:
        kind, rank, scale = config.attention, config.rank, config.lora_scale
        if kind == "image" or number < len(stack) - fused:
            return LoRAAttention(attention, rank, scale)
        adapter = None
        if kind == "fusion":
            adapter = Adapter(
                attention.embed_dim, config.adapter_rank,
                config.reading.adapter_bias == "both", config.reading.activation,
            )  # fmt: skip
        return IVFusionAttention(attention, kind, rank, scale, adapter)

    wrap_attention(stack, wrap)
