"""What the tiny towers learn from: single frames painted like those of Moving Digits, each with its caption.

The two thousand training videos are too few: a vision tower of a million parameters learns them by heart before it
learns to read. The world is generated, so there are always more frames, with the handwriting of the training split
alone. They are composed for learning: digits are drawn evenly, so that guessing from the scene does not pay.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from vtrlib.check import integer
from vtrlib.world import card
from vtrlib.world.draws import Draws
from vtrlib.world.grammar import frame_caption, motion_clause
from vtrlib.world.render import render
from vtrlib.world.screenplay import Screenplay, image_pools
from vtrlib.world.stage import POSES, Staging

__all__ = ["Batches", "FrameBatch", "FrameStream"]

GROUP = 32  # neighbouring frames of a grouped batch that share scene and colour
FOGGY, NOTHING = 8, 16  # one frame in so many is degraded, one in so many shows no digit


@dataclass(frozen=True)
class FrameBatch:
    """Frames (B, 3, H, W) uint8, a caption for each, and which captions say the same, (B, B) bool."""

    frames: Tensor
    captions: tuple[str, ...]
    same: Tensor


@dataclass(frozen=True)
class FrameStream:
    """Frames and captions by number: batch t is the same whenever and wherever it is asked for.

    Two things make a small transformer read digits in hundreds of steps instead of many thousands. In the first
    `easy` batches digits stand upright near the middle; until `2 * easy` the places spread out to the whole frame, and
    sizes and turns come in. And in all batches before that, then in every other one, frames come in groups that share
    scene and colour: among frames that differ in everything, the digit hardly matters.

    Attributes:
        seed: of the stream.
        easy: batches before places begin to spread; 0 for none.
    """

    seed: int = 0
    easy: int = 300

    def batch(self, t: int, size: int = 256) -> FrameBatch:
        """Batch number `t`, from 0, of `size` frames.

        Raises:
            ValueError: t is negative or size is not positive.
        """
        integer("t", t, low=0)
        integer("size", size, low=1)
        key = Draws.of("frame stream", self.seed).each(t).each(np.arange(size))
        group = Draws.of("frame groups", self.seed).each(t).each(np.arange(size) // GROUP)
        alike = group if t < 2 * self.easy or t % 2 else key
        play, staging = self._compose(t, key, alike)
        pixels, _ = render(play, staging)
        captions = []
        for n in range(size):
            text = frame_caption(play, staging, n, 0)
            if staging.visible[n, 0]:
                text += motion_clause(int(play.motion[n, 0]), Draws(key.key[n]))
            captions.append(text)
        number = {caption: k for k, caption in enumerate(dict.fromkeys(captions))}
        which = torch.tensor([number[caption] for caption in captions])
        return FrameBatch(torch.from_numpy(pixels[:, 0]), tuple(captions), which[:, None] == which)

    def _compose(self, t: int, key: Draws, alike: Draws) -> tuple[Screenplay, Staging]:
        """Videos of a single frame each: what is in them, and where."""
        size = len(key.key)
        table, pool = image_pools("train")
        digit = key.below("digit", 10)
        degradation = np.where(key.below("foggy", FOGGY) == 0, 1 + key.below("degradation", 3), 0)
        scraps = key.slots(card.SCRAPS)
        one = np.ones((size, 1), dtype=np.int64)
        play = Screenplay(
            frames=1,
            scene=alike.below("scene", len(card.SCENES)),
            counts=one[:, 0],
            duplicate_of=-one[:, 0],
            texture=key.below("texture", card.SIZE**2),
            brightness=key.below("brightness", 17) - 8,
            grain=key.below("grain", card.SIZE**2),
            clutter=table[table >= 0][scraps.below("clutter", pool.sum())],
            clutter_corner=scraps.below("clutter corner", 4),
            clutter_x=scraps.below("clutter x", card.SIZE - card.SCRAP + 1),
            clutter_y=scraps.below("clutter y", card.SIZE - card.SCRAP + 1),
            digit=digit[:, None],
            colour=alike.below("colour", len(card.COLOURS))[:, None],
            motion=key.below("motion", len(card.MOTIONS))[:, None],
            start=0 * one,
            end=one,
            captioned=one.astype(bool),
            cue=0 * one,
            degradation=degradation[:, None],
            image=table[digit, key.below("image", pool[digit])][:, None],
            x=self._place(t, key, "x"),
            y=self._place(t, key, "y"),
            turn=one,
        )
        pose = np.where(key.below("poses", 2) == 0, key.below("pose", len(POSES)), 0)
        shown = key.below("nothing", NOTHING) > 0
        closed = (degradation == card.DEGRADATIONS.index("occlusion")) & (key.below("closed", 2) == 0)
        staging = Staging(
            slot=np.where(shown | (degradation > 0), 0, -1)[:, None],
            degradation=degradation[:, None],
            pose=np.where(t < self.easy, 0, pose)[:, None],
            x=play.x,
            y=play.y,
            visible=(shown & ~closed)[:, None],
            curtain=closed[:, None],
        )
        return play, staging

    def _place(self, t: int, key: Draws, name: str) -> NDArray[np.int64]:
        """A coordinate of the sprite's canvas, (B, 1): near the middle first, anywhere later."""
        middle = (card.SIZE - card.CANVAS) // 2
        progress = 1.0 if not self.easy else min(max(t / self.easy - 1, 0), 1)
        reach = 2 + int((middle - 2) * progress)
        return (middle - reach + key.below(name, 2 * reach + 1))[:, None]


@dataclass(frozen=True)
class Batches(Dataset[FrameBatch]):
    """Batches `first` … `first + steps − 1` of a stream, `size` frames each, as a dataset with one sample per batch.

    Frames of a batch belong together, by their groups and by `same`; so they are one sample, not many.
    """

    stream: FrameStream
    first: int
    steps: int
    size: int

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, index: int) -> FrameBatch:
        if not 0 <= index < self.steps:
            raise IndexError(f"index={index}: expected one from 0 to {self.steps - 1}.")
        return self.stream.batch(self.first + index, self.size)
