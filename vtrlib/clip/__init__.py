"""CLIP: one way to get towers of any size, and the tiny ones that ship with the book."""

from vtrlib.clip.tiny import random_towers, tiny_config
from vtrlib.clip.towers import Towers, load, preprocess

__all__ = ["Towers", "load", "preprocess", "random_towers", "tiny_config"]
