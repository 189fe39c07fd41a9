"""The pictures of the README and of the first page, drawn from the world: python .ci/pictures.py"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vtrlib import show
from vtrlib.world import MovingDigits, card

FOLDER = Path(__file__).resolve().parents[1] / "book" / "_static"


def cast(count: int) -> list[int]:
    """Clips of the training split, of changing scene, motion and colour."""
    play = MovingDigits("train").screenplay
    chosen: list[int] = []
    for k in range(count):
        fits = (play.scene == k % len(card.SCENES)) & (play.motion[:, 0] == (5 * k + 1) % len(card.MOTIONS))
        (rows,) = np.nonzero(fits)
        fresh = [row for row in rows if play.colour[row, 0] not in play.colour[chosen[-4:], 0]]
        chosen.append(int((fresh or rows)[0]))
    return chosen


def cover(folder: Path) -> None:
    """Write moving-digits.png (six strips) and moving-digits.gif (twelve clips) into `folder`."""
    world = MovingDigits("train")
    clips = list(world.frames(cast(12))[0])
    show.save_strip(show.tile(clips[:6], columns=1), folder / "moving-digits.png", scale=3)
    show.save_gif(show.tile(clips, columns=6), folder / "moving-digits.gif", fps=5, scale=4)


if __name__ == "__main__":
    cover(FOLDER)
