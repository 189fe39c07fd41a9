"""From a screenplay to single frames: which digit stands where, how large, how turned, in each frame.

This is the one place that knows how a motion looks. The renderer paints what it says; the grammar describes it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vtrlib.world import card
from vtrlib.world.screenplay import Screenplay

__all__ = ["BASE_POSE", "POSES", "Staging", "stage"]

Ints = NDArray[np.int64]

# Poses of a sprite: (span in pixels, eighths of a full turn). At rest, growing, turning.
POSES: tuple[tuple[int, int], ...] = (
    (card.DIGIT_SIZE, 0),
    *((span, 0) for span in card.GROWTH),
    *((card.DIGIT_SIZE, eighth) for eighth in range(card.PHASES)),
)
BASE_POSE = 0
_GROW_POSE, _SPIN_POSE = 1, 1 + card.PHASES
_BLINK_ON = np.array([1, 1, 0, 0, 1, 1, 0, 0], dtype=bool)
_HORIZONTAL, _VERTICAL, _SIZE = 0, 1, 2
_SPIN, _BLINK = 6, 7


@dataclass(frozen=True)
class Staging:
    """What each of the V×F frames shows; every attribute has shape (V, F).

    Attributes:
        slot: the moment's slot in the screenplay, −1 between moments.
        degradation: index into `card.DEGRADATIONS`, 0 between moments.
        pose: index into `POSES`; x, y: top left corner of the sprite's canvas, pixels.
        visible: False where no digit shows: between moments, while it blinks, behind a curtain.
        curtain: True where a closed curtain hides everything.
    """

    slot: Ints
    degradation: Ints
    pose: Ints
    x: Ints
    y: Ints
    visible: NDArray[np.bool_]
    curtain: NDArray[np.bool_]


def stage(play: Screenplay) -> Staging:
    """Place the digit in each frame of each video."""
    frame = np.arange(play.frames)
    inside = (
        (play.start[:, :, None] <= frame) & (frame < play.end[:, :, None]) & play.used[:, :, None]
    )  # (V, M, F): moments never overlap, so at most one slot claims a frame
    busy = inside.any(1)
    slot = np.where(busy, inside.argmax(1), 0)

    def at(values: Ints) -> Ints:
        return np.take_along_axis(values, slot, axis=1)  # (V, M) -> (V, F)

    motion, length = at(play.motion), np.maximum(at(play.end) - at(play.start), 2)
    k = np.clip(frame - at(play.start), 0, length - 1)
    # Time itself is turned round for left, up, shrink and the other sense of a spin: exact reversals.
    backwards = np.where(motion >= _SPIN, at(play.turn) < 0, motion == np.array(_BACKWARDS)[motion])
    k = np.where(backwards, length - 1 - k, k)
    phase = (2 * k * (card.PHASES - 1) + length - 1) // (2 * (length - 1))  # rounded k (P−1) / (L−1)

    degradation = np.where(busy, at(play.degradation), 0)
    occluded = degradation == card.DEGRADATIONS.index("occlusion")
    middle = np.abs(2 * k - (length - 1)) <= 1  # the one or two frames in which the curtain is open
    axis = np.where(occluded, -1, motion // 2)
    room = card.SIZE - card.CANVAS
    across = phase * room // (card.PHASES - 1)
    pose = np.where(axis == _SIZE, _GROW_POSE + phase, BASE_POSE)
    pose = np.where((motion == _SPIN) & ~occluded, _SPIN_POSE + phase, pose)
    dark = (motion == _BLINK) & ~occluded & ~_BLINK_ON[phase]
    return Staging(
        slot=np.where(busy, slot, -1),
        degradation=degradation,
        pose=pose,
        x=np.where(axis == _HORIZONTAL, across, at(play.x)),
        y=np.where(axis == _VERTICAL, across, at(play.y)),
        visible=busy & ~dark & (~occluded | middle),
        curtain=busy & occluded & ~middle,
    )


# Of each pair of opposite motions one is staged forwards; index -> itself where it runs backwards, else -1.
_BACKWARDS = tuple(m if card.MOTIONS[m] in ("moves left", "moves up", "shrinks") else -1 for m in range(8))
