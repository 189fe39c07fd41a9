"""A small view of the world for models that have to paint it: its trimmed clips with the lights out.

The same events, handwriting, places and poses as `MovingDigits` has them, on one dark ground, the same pixels in every
clip: nothing is left to paint but a digit that moves. Nothing is drawn anew: a clip here is a clip there.
"""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from vtrlib.check import integer, listed
from vtrlib.world import card
from vtrlib.world.dataset import MovingDigits
from vtrlib.world.grammar import MOTION_PHRASES
from vtrlib.world.render import render
from vtrlib.world.video import Event

__all__ = ["DarkStage", "parts_of", "prompt"]

_CAVE = card.SCENES.index("cave")  # the darkest
GROUND = card.SCENE_RGB[_CAVE]  # about: its rocks stay
_FILLERS = frozenset("a an the digit there is in painted written ink that".split())


class DarkStage:
    """Trimmed clips of a split with the lights out, and their truth as arrays.

    Args:
        split, seed, size: of `MovingDigits`.

    Attributes:
        frames: (V, F, 3, H, W) uint8.
        digit, colour, motion: (V,) int64, indices as in `vtrlib.world.card`.
        duplicate_of: (V,) int64, the clip that this one repeats, a pixel aside at most (so some are the same bytes), −1
            for none.

    Raises:
        TypeError, ValueError: as `MovingDigits`.
    """

    def __init__(self, split: str, *, seed: int = 0, size: int | None = None) -> None:
        play = MovingDigits(split, "trimmed", seed=seed, size=size).screenplay
        none = {name: getattr(play, name)[:, :0] for name in ("clutter", "clutter_corner", "clutter_x", "clutter_y")}
        even = {name: np.zeros_like(play.scene) for name in ("texture", "brightness", "grain")}
        frames, _ = render(replace(play, scene=np.full_like(play.scene, _CAVE), **none, **even))
        self.frames = torch.from_numpy(frames)
        self.digit, self.colour, self.motion = (
            torch.from_numpy(one[:, 0]) for one in (play.digit, play.colour, play.motion)
        )
        self.duplicate_of = torch.from_numpy(play.duplicate_of)

    def __len__(self) -> int:
        return len(self.frames)

    def event(self, index: int) -> Event:
        """What clip `index` shows."""
        return Event(int(self.digit[index]), int(self.colour[index]), int(self.motion[index]))

    def prompts(self, *, motion: bool = True, wording: int = 0) -> list[str]:
        """A sentence for each clip, as of `prompt`."""
        events = zip(self.digit.tolist(), self.colour.tolist(), self.motion.tolist(), strict=True)
        return [prompt(digit, colour, way if motion else None, wording) for digit, colour, way in events]


def prompt(digit: int, colour: int, motion: int | None = None, wording: int = 0) -> str:
    """"a red seven moves left", or, without a motion, "a red seven".

    Args:
        digit, colour, motion: indices as in `vtrlib.world.card`.
        wording: 0, 1 or 2, of the motion.

    Raises:
        TypeError, ValueError: one of them is no such number.
    """
    integer("digit", digit, low=0, high=len(card.DIGIT_WORDS) - 1)
    integer("colour", colour, low=0, high=len(card.COLOURS) - 1)
    integer("wording", wording, low=0, high=len(MOTION_PHRASES[0]) - 1)
    if motion is not None:
        integer("motion", motion, low=0, high=len(MOTION_PHRASES) - 1)
    thing = f"a {card.COLOURS[colour]} {card.DIGIT_WORDS[digit]}"
    return thing if motion is None else f"{thing} {MOTION_PHRASES[motion][wording]}"


def parts_of(text: str) -> tuple[int, int, int | None]:
    """What a sentence says: digit, colour, and motion, None where it says none.

    Any wording of the world's captions is understood, cues about a scene are not: it is dark.

    Raises:
        TypeError: it is no text.
        ValueError: no digit or no colour, two of a kind, or a word that the dark stage has no use for; it names them.
    """
    if not isinstance(text, str):
        raise TypeError(f"text: found {type(text).__name__}, expected a sentence such as 'a red seven moves left'.")
    rest = " ".join(re.findall(r"\w+", text.lower()))
    motions = {phrase: way for way, phrases in enumerate(MOTION_PHRASES) for phrase in phrases}
    either = rf"\b(?:{'|'.join(motions)})\b"
    said = re.findall(either, rest)
    words = re.sub(either, "", rest).split()
    digits, colours = ([word for word in words if word in names] for names in (card.DIGIT_WORDS, card.COLOURS))
    strange = [word for word in words if word not in {*_FILLERS, *card.DIGIT_WORDS, *card.COLOURS}]
    if strange:
        raise ValueError(
            f"text={text!r}: found {listed(map(repr, strange))}, expected a colour, a digit and a motion, such as "
            f"'a red seven moves left'. Colours: {', '.join(card.COLOURS)}. Motions: "
            f"{', '.join(phrases[0] for phrases in MOTION_PHRASES)}."
        )
    for kind, found, most in (("digit", digits, 1), ("colour", colours, 1), ("motion", said, 1)):
        if len(found) > most or (not found and kind != "motion"):
            raise ValueError(
                f"text={text!r}: found {len(found)} words for a {kind}{': ' if found else ''}"
                f"{', '.join(found)}, expected one, as in 'a red seven moves left'."
            )
    digit, colour = card.DIGIT_WORDS.index(digits[0]), card.COLOURS.index(colours[0])
    return digit, colour, motions[said[0]] if said else None
