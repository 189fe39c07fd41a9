"""Who draws what: torch's global generators lent to a run and given back, and the draws of data made its own."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256

import numpy as np
import torch

__all__ = ["draws_of", "lent", "set_states", "states"]


def states(device: torch.device) -> dict[str, torch.Tensor]:
    """The states of torch's global generators that dropout on `device` draws from, bytes by device type."""
    found = {"cpu": torch.get_rng_state()}
    if device.type != "cpu":
        found[device.type] = torch.get_device_module(device).get_rng_state()
    return found


def set_states(found: dict[str, torch.Tensor]) -> None:
    """Undo what has been drawn since `states` gave `found`."""
    for kind, state in found.items():
        if kind == "cpu":
            torch.set_rng_state(state)
        else:
            torch.get_device_module(kind).set_rng_state(state)


@contextmanager
def lent(device: torch.device, seed: int) -> Iterator[None]:
    """Seed torch's global generators for the block; afterwards they are as they were, whatever it drew."""
    kept = states(device)
    torch.manual_seed(seed)
    try:
        yield
    finally:
        set_states(kept)


@contextmanager
def draws_of(*name: int) -> Iterator[None]:
    """Seed the CPU's global generators (torch, NumPy, random) by a name for the block, then undo that.

    Datasets and collate functions draw from these. Seeded per batch, they draw the same in any worker process.
    """
    seed = int.from_bytes(sha256(repr(name).encode()).digest()[:8], "little")
    kept = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed the GPU too, under the model's feet
    try:
        yield
    finally:
        random.setstate(kept[0])
        np.random.set_state(kept[1])
        torch.set_rng_state(kept[2])
