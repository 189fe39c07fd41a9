"""Random numbers by name.

The world needs the same item whatever was asked before it, on every machine and in every process. So its numbers
do not come from a stream that moves on: each is a hash of what it is for (split, item, slot, purpose). Integer
arithmetic only, hence bit-equal everywhere; arrays of keys give arrays of draws.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Draws"]

Keys = NDArray[np.uint64]
Ints = NDArray[np.int64]


def _mix(x: Keys) -> Keys:
    """The splitmix64 finaliser (Steele, Lea and Flood, 2014): each input bit reaches each output bit."""
    with np.errstate(over="ignore"):  # arithmetic modulo 2**64 is meant
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def _join(key: Keys, part: ArrayLike) -> Keys:
    with np.errstate(over="ignore"):
        return _mix(key * np.uint64(0x9E3779B97F4A7C15) + _mix(np.asarray(part, dtype=np.uint64) + np.uint64(1)))


@dataclass(frozen=True)
class Draws:
    """Independent draws for each key of an array.

    Attributes:
        key: uint64 of any shape, one key per item (and slot).
    """

    key: Keys

    @staticmethod
    def of(*parts: int | str) -> Draws:
        """One key from names and non-negative numbers, e.g. `Draws.of("moving digits", 1, "train")`."""
        key: Keys = np.zeros((), np.uint64)
        for part in parts:
            key = _join(key, zlib.crc32(part.encode()) if isinstance(part, str) else part)
        return Draws(key)

    def each(self, index: ArrayLike) -> Draws:
        """One key per entry of `index` (broadcast against the keys already there)."""
        return Draws(_join(self.key, index))

    def slots(self, count: int) -> Draws:
        """`count` keys for each key, along a new last axis."""
        return Draws(_join(self.key[..., None], np.arange(count)))

    def bits(self, name: str) -> Keys:
        """64 random bits for each key, for the purpose `name`."""
        return _join(self.key, zlib.crc32(name.encode()))

    def below(self, name: str, n: ArrayLike) -> Ints:
        """Integers 0 … n−1, uniform up to a bias of n/2³²; `n` is a number or an array that broadcasts."""
        high = self.bits(name) >> np.uint64(32)
        return ((high * np.asarray(n, dtype=np.uint64)) >> np.uint64(32)).astype(np.int64)

    def weighted(self, name: str, weights: ArrayLike) -> Ints:
        """Indices with probability proportional to non-negative integer `weights` (last axis; the rest broadcasts)."""
        edges = np.cumsum(np.asarray(weights, dtype=np.int64), axis=-1)
        index: Ints = (self.below(name, edges[..., -1])[..., None] >= edges).sum(-1)
        return index
