"""The tiny towers before any training: their shape, and seeded random weights."""

from __future__ import annotations

import torch
from transformers import CLIPConfig, CLIPModel

from vtrlib.clip.towers import Towers
from vtrlib.clip.vocabulary import CONTEXT, build_tokenizer
from vtrlib.world import card

__all__ = ["random_towers", "tiny_config"]

_COLOURS = (0.5, 0.5, 0.5)  # mean and spread: the world's colours need no finer standard


def tiny_config() -> CLIPConfig:
    """About a million parameters: 32×32 frames in patches of 8, four heads, a common space of 64 dimensions."""
    vocabulary = len(build_tokenizer())
    return CLIPConfig(
        vision_config={
            "image_size": card.SIZE, "patch_size": card.PATCH, "hidden_size": 128, "intermediate_size": 512,
            "num_hidden_layers": 4, "num_attention_heads": 4,
        },
        text_config={
            "vocab_size": vocabulary, "max_position_embeddings": CONTEXT, "hidden_size": 64, "intermediate_size": 256,
            "num_hidden_layers": 3, "num_attention_heads": 4, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 3,
        },
        projection_dim=64,
    )  # fmt: skip


def random_towers(seed: int = 0) -> Towers:
    """Untrained tiny towers; the global generator is left as it was."""
    state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    try:
        model = CLIPModel(tiny_config())
    finally:
        torch.random.set_rng_state(state)
    return Towers(model, build_tokenizer(), f"tiny, untrained, seed {seed}", _COLOURS, _COLOURS)
