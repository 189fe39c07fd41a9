"""Weights that come with the package."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

__all__ = ["verify"]


def verify(folder: Path, weights: str = "model.safetensors") -> None:
    """See that a folder's weights are the ones of which its recipe.json speaks.

    Raises:
        FileNotFoundError: one of the two files is missing, or config.json. ValueError: the weights have another hash.
    """
    recipe, path = folder / "recipe.json", folder / weights
    for one in (recipe, path, folder / "config.json"):
        if not one.is_file():
            raise FileNotFoundError(f"{one}: is missing. Install vtrlib again, or get the file from its repository.")
    expected = json.loads(recipe.read_text("utf-8"))["sha256"]
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != expected:
        raise ValueError(f"{path}: sha256 is {found}, expected {expected}. Install vtrlib again.")
