"""Pixels of Moving Digits, many videos at once.

All arithmetic is on integers (or on floats that hold integers exactly), so a frame is the same bytes on every
machine. Layout: V videos, F frames, colour channels first.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from vtrlib.world import card
from vtrlib.world.draws import Draws
from vtrlib.world.screenplay import Screenplay, digit_images, image_pools
from vtrlib.world.stage import BASE_POSE, POSES, Staging, stage

__all__ = ["render", "sprites"]

Bytes = NDArray[np.uint8]
Ints = NDArray[np.int64]

_ONE = 4096  # fixed-point one for source coordinates
_COSINES = (256, 181, 0, -181, -256, -181, 0, 181)  # 256 cos(k π/4)
_LOW_CONTRAST = 40  # grey levels a washed-out digit stands above the fog
_CURTAIN = np.array([[58, 46, 46], [44, 34, 34]])  # two folds, RGB
_OPAQUE = 96  # least alpha that counts as digit in the mask


def _resampling(span: int, eighth: int) -> NDArray[np.float64]:
    """Integer weights (64, CANVAS²) that draw an 8×8 image `span` pixels wide, turned by `eighth` × 45°, bilinearly."""
    side = digit_images().shape[-1]
    v, u = np.mgrid[: card.CANVAS, : card.CANVAS].reshape(2, -1)
    dx, dy = 2 * u + 1 - card.CANVAS, 2 * v + 1 - card.CANVAS  # half pixels from the centre
    cos, sin = _COSINES[eighth], _COSINES[(eighth - 2) % 8]
    weights = np.zeros((side, side, card.CANVAS**2))
    x, y = (
        (offset * side * _ONE) // (2 * 256 * span) + (side - 1) * _ONE // 2
        for offset in (cos * dx + sin * dy, cos * dy - sin * dx)
    )
    for step_y in (0, 1):
        for step_x in (0, 1):
            row, column = y // _ONE + step_y, x // _ONE + step_x
            share_y = y % _ONE if step_y else _ONE - y % _ONE
            share_x = x % _ONE if step_x else _ONE - x % _ONE
            (inside,) = np.nonzero((row >= 0) & (row < side) & (column >= 0) & (column < side))
            np.add.at(weights, (row[inside], column[inside], inside), (share_y * share_x)[inside])
    return weights.reshape(side**2, -1)


@cache
def sprites() -> Bytes:
    """Opacity of every handwritten digit in every pose, (1797 + 1, len(POSES), CANVAS, CANVAS), 0 … 255.

    The last row is the mean of the training digits, what is left of a digit when it is blurred beyond recognition.
    """
    images = digit_images().reshape(-1, 64).astype(np.float64)  # exact: all sums stay far below 2**53
    weights = np.concatenate([_resampling(*pose) for pose in POSES], axis=1)
    ink = (images @ weights).astype(np.int64)  # at most 16 · 4096²
    alpha = np.minimum(ink * 340 // (16 * _ONE**2), 255)  # strokes are thin: lift their centre to full opacity
    table, _ = image_pools("train")
    seen = alpha[table[table >= 0]]
    blob = seen.sum(0) * 3 // (2 * len(seen))  # half again the mean, so that it is as bright as a digit
    alpha = np.concatenate([alpha, np.minimum(blob, 255)[None]])
    bank = alpha.astype(np.uint8).reshape(-1, len(POSES), card.CANVAS, card.CANVAS)
    bank.setflags(write=False)
    return bank


@cache
def _patterns() -> Ints:
    """Grey pattern of each scene, (scenes, H, W), added to its colour; it tiles, so it can be rolled."""
    y, x = np.mgrid[: card.SIZE, : card.SIZE]
    speckle = Draws.of("speckle", card.WORLD_VERSION).each(y * card.SIZE + x).below("level", 8)
    return np.stack(
        [
            np.where(x // 2 % 4 == 0, 16, -8) + np.where(y % 8 == 7, -8, 0),  # forest: trunks
            12 * ((y + (x // 4) % 2) % 4 == 0) - 4,  # sea: waves
            10 * ((x + 2 * y) // 8 % 2) - 5,  # desert: dunes
            24 * (speckle == 0) - 6,  # snow: flakes
            np.where((x % 8 < 3) & (y % 8 < 4), 28, -6),  # city: windows
            18 * ((x // 4 * 5 + y // 4 * 3) % 4 == 0) - 4,  # cave: rocks
        ]
    )


@cache
def _grain() -> Ints:
    """One tile of sensor noise, (3, H, W), −5 … 5."""
    y, x = np.mgrid[: card.SIZE, : card.SIZE]
    return np.stack([Draws.of("grain", c).each(y * card.SIZE + x).below("level", 11) - 5 for c in range(3)])


def _rolled(offset: Ints) -> tuple[Ints, Ints]:
    """Row and column indices (V, H, 1), (V, 1, W) of a tile rolled by `offset` (0 … H·W−1)."""
    step = np.arange(card.SIZE)
    rows = (step[None, :, None] + offset[:, None, None] // card.SIZE) % card.SIZE
    return rows, (step[None, None, :] + offset[:, None, None] % card.SIZE) % card.SIZE


def _backgrounds(play: Screenplay) -> tuple[Bytes, Bytes]:
    """The scene with its clutter, and the fog, for each video: (V, 3, H, W) each."""
    colour = np.array(card.SCENE_RGB)[play.scene]
    rows, columns = _rolled(play.texture)
    scene = _patterns()[play.scene[:, None, None], rows, columns][:, None] + colour[:, :, None, None]

    step = np.arange(card.SCRAP)
    video = np.arange(len(play.scene))[:, None, None, None]
    scrap_rows = play.clutter_y[:, :, None, None] + step[:, None]  # (V, C, side, side)
    scrap_columns = play.clutter_x[:, :, None, None] + step
    bank = sprites()[:-1, BASE_POSE]
    top = 2 + 6 * (play.clutter_corner // 2)[:, :, None, None]  # a quarter of a digit, never a whole one
    left = 2 + 6 * (play.clutter_corner % 2)[:, :, None, None]
    piece = bank[play.clutter[:, :, None, None], top + step[:, None], left + step]
    lift = np.zeros((len(play.scene), card.SIZE, card.SIZE), dtype=np.int64)
    np.maximum.at(lift, (video, scrap_rows, scrap_columns), piece.astype(np.int64) * 60 // 255)

    rows, columns = _rolled(play.grain)
    recording = np.moveaxis(_grain()[:, rows, columns], 0, 1) + play.brightness[:, None, None, None]
    clear, fog = (np.clip(base + recording, 0, 255).astype(np.uint8) for base in (scene + lift[:, None], card.FOG))
    return clear, fog


def render(play: Screenplay, staging: Staging | None = None) -> tuple[Bytes, NDArray[np.bool_]]:
    """Paint the videos of a screenplay.

    Returns:
        The frames, (V, F, 3, H, W) uint8, and the mask, (V, F, H, W) bool, True on the pixels of the moving digit.
    """
    staging = stage(play) if staging is None else staging
    scene, fog = _backgrounds(play)
    count, size = len(play.scene), card.SIZE
    frames = np.empty((count, play.frames, 3, size, size), dtype=np.uint8)
    frames[:] = scene[:, None]
    video, frame = np.nonzero(staging.degradation)
    frames[video, frame] = fog[video]
    fold = _CURTAIN[np.arange(size) // 4 % 2].T.astype(np.uint8)  # (3, W)
    frames[staging.curtain] = fold[:, None, :]
    mask = np.zeros((count, play.frames, size, size), dtype=bool)

    video, frame = np.nonzero(staging.visible)  # A frames with a digit
    slot, pose = staging.slot[video, frame], staging.pose[video, frame]
    degradation = staging.degradation[video, frame]
    bank = sprites()
    image = np.where(degradation == card.DEGRADATIONS.index("blur"), len(bank) - 1, play.image[video, slot])
    alpha = bank[image, pose]  # (A, side, side)
    ink = np.array(card.COLOUR_RGB, dtype=np.uint16)[play.colour[video, slot]]
    ink[degradation == card.DEGRADATIONS.index("low contrast")] = card.FOG + _LOW_CONTRAST

    step = np.arange(card.CANVAS)
    rows = staging.y[video, frame][:, None] + step  # (A, side)
    columns = staging.x[video, frame][:, None] + step
    where = (video[:, None, None], frame[:, None, None], rows[:, :, None], columns[:, None, :])
    for channel in range(3):
        at = (*where[:2], channel, *where[2:])
        cover = alpha.astype(np.uint16)
        frames[at] = (frames[at] * (255 - cover) + ink[:, channel, None, None] * cover + 127) // 255
    mask[where] = alpha >= _OPAQUE
    return frames, mask
