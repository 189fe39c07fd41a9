r"""From any number of frames to a fixed number of clips and at most so many frames.

A video of n frames is cut at the n_k = min(round(k n / K), n − 1), k = 0, …, K, and

    segment k  =  mean of V_{n_k : n_{k+1}},   or V_{n_k} alone where that is empty.

DreamPRVR does so for K = 32 clips, whatever n is, and for K = 128 frames where n > 128
(§4.1; the rule is MS-SL's). Three things the released code does, and this does too:
`round` sends halves to the even neighbour; the cuts of clips are computed in float32;
and since the last cut is n − 1, not n, the last frame is in no segment unless the last
segment would be empty.

Letters (see the notation page): F frames of width D.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vtrlib.check import integer

__all__ = [
    "clip_bounds",
    "frame_bounds",
    "pool",
    "pool_clips",
    "pool_frames",
    "unit_rows",
]

Ints = NDArray[np.int64]
Array = NDArray[Any]

_EPS = 1e-5  # as released: rows come out a little shorter than 1, zero rows stay zero


def clip_bounds(count: int, clips: int = 32) -> Ints:
    """Where a video of `count` frames is cut into clips, (clips + 1,), ascending."""
    return _bounds(count, clips, np.float32)


def frame_bounds(count: int, frames: int = 128) -> Ints:
    """Where a video of more than `frames` frames is cut, (frames + 1,), ascending."""
    return _bounds(count, frames, np.float64)


def _bounds(count: int, pieces: int, kind: type[np.floating[Any]]) -> Ints:
    integer("count", count, low=1), integer("pieces", pieces, low=1)
    # In the order of the released code: 3 / 7 · 14 and 3 · 14 / 7 may round apart.
    cuts = np.arange(pieces + 1, dtype=kind) / kind(pieces) * kind(count)
    bounds: Ints = np.minimum(np.rint(cuts).astype(np.int64), count - 1)
    return bounds


def pool(features: Array, bounds: Ints) -> NDArray[np.float64]:
    """Means of the segments between `bounds`, (K, D) of features (F, D), in float64.

    `np.add.reduceat` sums rows bounds[k] … bounds[k+1]−1, and where there are none it
    takes row bounds[k]: just the rule above. Its last sum, behind the last cut, is none
    of the K.
    """
    sums = np.add.reduceat(np.asarray(features, dtype=np.float64), bounds, axis=0)[:-1]
    means: NDArray[np.float64] = sums / np.maximum(np.diff(bounds), 1)[:, None]
    return means


def unit_rows(rows: Array) -> Array:
    """x / (‖x‖ + 10⁻⁵) for every row, in the precision of `rows`, float32 at least."""
    rows = rows.astype(np.promote_types(rows.dtype, np.float32), copy=False)
    scaled: Array = rows / (np.linalg.norm(rows, axis=-1, keepdims=True) + _EPS)
    return scaled


def pool_clips(features: Array, clips: int = 32) -> NDArray[np.float64]:
    """Features (F, D) of any length as (clips, D), rows scaled to length 1."""
    return unit_rows(pool(features, clip_bounds(len(features), clips)))


def pool_frames(features: Array, frames: int = 128) -> NDArray[np.float64]:
    """Features (F, D) as (min(F, frames), D), rows scaled to length 1."""
    if len(features) <= integer("frames", frames, low=1):
        return unit_rows(np.asarray(features, dtype=np.float64))
    return unit_rows(pool(features, frame_bounds(len(features), frames)))
