"""CLIP: one way to get towers of any size, and the tiny ones that ship with the book."""

from vtrlib.clip.lora import LoRAAttention, SharedLoRA, add_lora
from vtrlib.clip.tiny import random_towers, tiny_config
from vtrlib.clip.towers import Towers, load, preprocess

__all__ = [
    "LoRAAttention", "SharedLoRA", "Towers", "add_lora", "load", "preprocess", "random_towers", "tiny_config",
]  # fmt: skip
