"""What the world hands out: events, moments, videos and queries.

Letters (see the notation page): F frames of H×W pixels; a moment covers frames start, …, end−1.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from vtrlib.world.card import COLOURS, DIGIT_WORDS, MOTIONS

__all__ = ["Event", "Moment", "Query", "Video"]


@dataclass(frozen=True, order=True)
class Event:
    """What happens: a digit of one colour makes one motion. Each field indexes its list in `vtrlib.world.card`."""

    digit: int
    colour: int
    motion: int

    def __str__(self) -> str:
        return f"{COLOURS[self.colour]} {DIGIT_WORDS[self.digit]} {MOTIONS[self.motion]}"


@dataclass(frozen=True)
class Moment:
    """A stretch of a video in which one event happens.

    Attributes:
        start, end: first frame and one past the last, 0 ≤ start < end ≤ F.
        event: what happens.
        captions: paraphrases of one description; empty for a distractor, which nobody annotated.
        cue: the phrase about the surroundings that all captions of this moment carry, or None.
        degradation: "blur", "low contrast" or "occlusion" where the local evidence is spoiled, else None.
    """

    start: int
    end: int
    event: Event
    captions: tuple[str, ...]
    cue: str | None
    degradation: str | None

    @property
    def is_distractor(self) -> bool:
        return not self.captions


@dataclass(frozen=True)
class Video:
    """One item of Moving Digits.

    Attributes:
        index, split, view: where it comes from.
        scene: index into `vtrlib.world.card.SCENES`.
        frames: (F, 3, H, W) uint8, 0 … 255.
        mask: (F, H, W) bool, True on the pixels of the moving digit.
        moments: in order of time; they never overlap.
        frame_captions: F sentences, each saying what that frame alone shows (no motion word).
        duplicate_of: index of the video this one nearly repeats, or None.
    """

    index: int
    split: str
    view: str
    scene: int
    frames: Tensor
    mask: Tensor
    moments: tuple[Moment, ...]
    frame_captions: tuple[str, ...]
    duplicate_of: int | None

    @property
    def events(self) -> tuple[Moment, ...]:
        """The captioned moments, without distractors."""
        return tuple(m for m in self.moments if not m.is_distractor)


@dataclass(frozen=True)
class Query:
    """A caption used as a text query.

    Attributes:
        text: the sentence.
        video: index of the annotated video; moment: index into its `moments`.
        event: what the sentence says happens.
        scenes: the scenes the sentence allows: all of them without a cue.
    """

    text: str
    video: int
    moment: int
    event: Event
    scenes: frozenset[int]
