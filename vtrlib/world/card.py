"""The world card: every constant of Moving Digits, in one place.

Fixed before any ablation and never tuned to a claim. Changing a number here changes pixels or
captions, so it needs a new `WORLD_VERSION`; the pixel-hash test holds both together.
"""

from __future__ import annotations

import numpy as np

__all__ = [
    "AXES", "CANVAS", "CAPTIONED", "COARSE_CUES", "COLOURS", "COLOUR_RGB", "COLOUR_WEIGHTS", "CUE_WEIGHTS",
    "DEGRADATIONS", "DEGRADATION_WEIGHTS", "DIGIT_SIZE", "DIGIT_WEIGHTS", "DIGIT_WORDS", "DISTRACTORS", "DOMAINS",
    "DUPLICATE_EVERY", "FOG", "GROWTH", "IMAGE_SHARES", "LENGTHS", "MOTIONS", "MOTION_WEIGHTS", "MOTION_WORD_EVERY",
    "OPPOSITE", "PARAPHRASES", "PATCH", "PHASES", "SCENES", "SCENE_CUES", "SCENE_RGB", "SCRAP", "SCRAPS", "SIZE",
    "SLOTS", "SPLITS", "UNTRIMMED_FRAMES", "VIEWS", "WORLD_VERSION",
]  # fmt: skip

WORLD_VERSION = 1

# Pictures
SIZE = 32  # H = W, pixels
PATCH = 8  # side of a patch of the tiny towers: 16 patches a frame
CANVAS = 18  # side of a sprite, pixels
PHASES = 8  # steps of one motion; a trimmed clip has as many frames
DIGIT_SIZE = 14  # pixels a digit spans at rest
GROWTH = (6, 8, 9, 11, 13, 14, 16, 18)  # the same, phase by phase, while it grows
SCRAPS, SCRAP = 5, 8  # clutter: so many scraps of handwriting of so many pixels in each scene
FOG = 96  # grey level behind a degraded moment
UNTRIMMED_FRAMES = 64

# Videos
SPLITS: dict[str, int] = {"train": 2000, "val": 300, "test": 600}  # videos, in either view
IMAGE_SHARES = (60, 15, 25)  # per cent of the handwritten digits in train, val and test: no image is in two
VIEWS = ("trimmed", "untrimmed")
CAPTIONED = (4, 5, 6)  # events with captions in an untrimmed video, each count equally often
DISTRACTORS = (1, 2)  # events that nobody described
SLOTS = max(CAPTIONED) + max(DISTRACTORS)
LENGTHS = (5, 6, 7)  # frames of a moment in an untrimmed video
DUPLICATE_EVERY = 20  # one video in so many nearly repeats another one of its split

# Events
DIGIT_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
COLOURS = ("red", "green", "blue", "yellow", "purple", "white")
COLOUR_RGB = ((240, 70, 60), (70, 215, 85), (75, 125, 255), (245, 220, 50), (195, 85, 230), (245, 245, 245))
MOTIONS = ("moves left", "moves right", "moves up", "moves down", "grows", "shrinks", "spins", "blinks")
OPPOSITE = (1, 0, 3, 2, 5, 4, 6, 7)  # the motion seen when time runs backwards
AXES = ("horizontal", "vertical", "size", "order-free")  # motion // 2

# Scenes, and what they make likely: P(event | scene) = P(digit | scene) P(colour | scene) P(motion | scene).
# Integer weights, so that a draw is the same on every machine. Opposite motions weigh the same in every
# scene: no scene gives away a direction.
SCENES = ("forest", "sea", "desert", "snow", "city", "cave")
SCENE_RGB = ((26, 70, 40), (24, 58, 96), (120, 94, 52), (118, 124, 132), (72, 66, 76), (34, 30, 34))
_FAVOURITE_DIGITS = ((0, 3, 6), (2, 5, 8), (4, 7, 0), (6, 9, 2), (7, 1, 4), (9, 3, 5))
_FAVOURITE_COLOURS = ((0, 2), (1, 3), (2, 4), (3, 5), (4, 0), (5, 1))
_FAVOURITE_AXIS = (0, 1, 2, 3, 0, 1)


def _weights(count: int, favourites: tuple[tuple[int, ...], ...], weight: int) -> np.ndarray:
    table = np.ones((len(SCENES), count), dtype=np.int64)
    for row, favourite in zip(table, favourites, strict=True):
        row[list(favourite)] = weight
    table.setflags(write=False)
    return table


DIGIT_WEIGHTS = _weights(10, _FAVOURITE_DIGITS, 6)  # (scenes, digits)
COLOUR_WEIGHTS = _weights(6, _FAVOURITE_COLOURS, 4)  # (scenes, colours)
MOTION_WEIGHTS = _weights(8, tuple((2 * a, 2 * a + 1) for a in _FAVOURITE_AXIS), 3)  # (scenes, motions)

# What a caption may say about the scene: nothing, its name, or what it shares with one other scene.
SCENE_CUES = ("in the forest", "by the sea", "in the desert", "in the snow", "in the city", "in the cave")
COARSE_CUES = ("somewhere wet", "somewhere wet", "somewhere hot", "somewhere cold", "somewhere hot", "somewhere cold")
CUE_WEIGHTS = (3, 5, 2)
PARAPHRASES = 3  # captions of a moment
MOTION_WORD_EVERY = 4  # one pretraining caption of a frame in so many says the motion word

# How a moment's own frames may be spoiled (untrimmed view only). Each kind hides the scene and erases exactly
# one attribute of the event, so that an ideal observer can be computed.
DEGRADATIONS = (None, "blur", "low contrast", "occlusion")  # erases: nothing, digit, colour, motion
DEGRADATION_WEIGHTS = (9, 2, 2, 2)

# Cross-domain splits: train on what is seen, test on what is not.
DOMAINS: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {  # name: (scenes, colours)
    "all": ((0, 1, 2, 3, 4, 5), (0, 1, 2, 3, 4, 5)),
    "seen scenes": ((0, 1, 2, 3), (0, 1, 2, 3, 4, 5)),
    "unseen scenes": ((4, 5), (0, 1, 2, 3, 4, 5)),
    "seen colours": ((0, 1, 2, 3, 4, 5), (0, 1, 2, 3)),
    "unseen colours": ((0, 1, 2, 3, 4, 5), (4, 5)),
}
