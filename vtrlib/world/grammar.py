"""The sentences of the world: captions of moments, and captions of single frames.

A moment's captions are paraphrases: same event, same cue, other words. A frame's caption says what that frame alone
shows, so it holds no motion word, except where pretraining asks for some.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from vtrlib.world import card
from vtrlib.world.draws import Draws
from vtrlib.world.screenplay import Screenplay
from vtrlib.world.stage import POSES, Staging

__all__ = [
    "MOTION_PHRASES", "TEMPLATES", "Seen", "cue_phrase", "cue_scenes", "frame_caption", "frame_captions",
    "moment_captions", "motion_clause", "seen",
]  # fmt: skip

MOTION_PHRASES: tuple[tuple[str, ...], ...] = (
    ("moves left", "slides to the left", "drifts leftwards"),
    ("moves right", "slides to the right", "drifts rightwards"),
    ("moves up", "climbs to the top", "rises"),
    ("moves down", "sinks to the bottom", "falls"),
    ("grows", "gets bigger", "swells"),
    ("shrinks", "gets smaller", "dwindles"),
    ("spins", "turns around", "rotates"),
    ("blinks", "flashes on and off", "flickers"),
)
TEMPLATES = (
    "a {colour} {digit} {motion}{cue}",
    "the digit {digit} painted {colour} {motion}{cue}",
    "there is {a_digit} in {colour} that {motion}{cue}",
    "{a_digit} written in {colour} ink {motion}{cue}",
    "{colour} is the {digit} that {motion}{cue}",
)
_NO_CUE, _SCENE_CUE, _COARSE_CUE = 0, 1, 2


def cue_phrase(kind: int, scene: int) -> str | None:
    """What a caption says of the scene: nothing (kind 0), its name (1), or a trait it shares with another (2)."""
    return {_NO_CUE: None, _SCENE_CUE: card.SCENE_CUES[scene], _COARSE_CUE: card.COARSE_CUES[scene]}[kind]


def cue_scenes(kind: int, scene: int) -> frozenset[int]:
    """The scenes of which the same phrase would be true."""
    phrase = cue_phrase(kind, scene)
    return frozenset(s for s in range(len(card.SCENES)) if cue_phrase(kind, s) == phrase)


def moment_captions(play: Screenplay, n: int, slot: int, key: Draws) -> tuple[str, ...]:
    """`card.PARAPHRASES` captions of one moment, each from another template; `key` decides which."""
    if not play.captioned[n, slot]:
        return ()
    cue = cue_phrase(int(play.cue[n, slot]), int(play.scene[n]))
    order = np.argsort(key.slots(len(TEMPLATES)).bits("template"))[: card.PARAPHRASES]
    phrases, digit = MOTION_PHRASES[play.motion[n, slot]], card.DIGIT_WORDS[play.digit[n, slot]]
    first = int(key.below("phrase", len(phrases)))
    return tuple(
        TEMPLATES[template].format(
            colour=card.COLOURS[play.colour[n, slot]],
            digit=digit,
            a_digit=_with_article(digit),
            motion=phrases[(first + k) % len(phrases)],
            cue=f" {cue}" if cue else "",
        )
        for k, template in enumerate(order)
    )


def frame_captions(play: Screenplay, staging: Staging, n: int, motion_words: Draws | None = None) -> tuple[str, ...]:
    """One caption for each frame of video `n`, saying what that frame alone shows.

    Args:
        motion_words: if given, one caption in `card.MOTION_WORD_EVERY` of those that show a digit, chosen by these
            draws, also says how it moves. That is for pretraining only: words for motion are then known, although
            no frame shows what they mean.
    """
    captions = []
    for f in range(play.frames):
        text = frame_caption(play, staging, n, f)
        slot = staging.slot[n, f]
        if motion_words is not None and staging.visible[n, f]:
            text += motion_clause(int(play.motion[n, slot]), motion_words.each(f))
        captions.append(text)
    return tuple(captions)


def motion_clause(motion: int, key: Draws) -> str:
    """How the digit moves, for one caption in `card.MOTION_WORD_EVERY`; for the others nothing. `key` decides."""
    if key.below("says motion", card.MOTION_WORD_EVERY) != 0:
        return ""
    phrases = MOTION_PHRASES[motion]
    return f" that {phrases[int(key.below('phrase', len(phrases)))]}"


def frame_caption(play: Screenplay, staging: Staging, n: int, f: int) -> str:
    """What frame `f` of video `n` alone shows."""
    view = seen(play, staging, n, f)
    return " ".join(part for part in (view.subject, view.place, view.surroundings) if part)


@dataclass(frozen=True)
class Seen:
    """What one frame shows, part by part.

    Attributes:
        digit, colour: as far as they can be made out, else None.
        visible: whether a digit can be seen at all.
        curtain: whether a closed curtain hides everything.
        look: size and tilt, words that each end in a space.
        place: where in the frame; surroundings: the scene, or that there is fog. "" where it doesn't show.
    """

    digit: int | None
    colour: int | None
    visible: bool
    curtain: bool
    look: str
    place: str
    surroundings: str

    @property
    def subject(self) -> str:
        """What stands there."""
        if self.digit is None and self.colour is None:
            return "a closed curtain" if self.curtain else "nothing"
        colour = "grey" if self.colour is None else card.COLOURS[self.colour]
        digit = "blur" if self.digit is None else card.DIGIT_WORDS[self.digit]
        return _with_article(f"{self.look}{colour} {digit}")

    def named(self, digit: int | None, colour: int | None) -> Seen:
        """The same with another digit and colour."""
        return replace(self, digit=digit, colour=colour)


def seen(play: Screenplay, staging: Staging, n: int, f: int) -> Seen:
    """What frame `f` of video `n` alone shows."""
    slot, degradation = staging.slot[n, f], card.DEGRADATIONS[staging.degradation[n, f]]
    if staging.curtain[n, f]:
        return Seen(None, None, visible=False, curtain=True, look="", place="", surroundings="")
    surroundings = "in the fog" if degradation else card.SCENE_CUES[play.scene[n]]
    if not staging.visible[n, f]:
        return Seen(None, None, visible=False, curtain=False, look="", place="", surroundings=surroundings)
    span, eighth = POSES[staging.pose[n, f]]
    size = "small " if span < 10 else "large " if span > 15 else ""
    turned = "" if eighth == 0 else "upside-down " if eighth == 4 else "tilted "
    return Seen(
        digit=None if degradation == "blur" else int(play.digit[n, slot]),
        colour=None if degradation == "low contrast" else int(play.colour[n, slot]),
        visible=True,
        curtain=False,
        look=f"{size}{turned}",
        place=_place(int(staging.x[n, f]), int(staging.y[n, f])),
        surroundings=surroundings,
    )


def _with_article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' and not words.startswith('one') else 'a'} {words}"


def _place(x: int, y: int) -> str:
    """Where a sprite's canvas at (x, y) stands in the frame, in words."""
    middle = (card.SIZE - card.CANVAS) // 2
    dx, dy = x - middle, y - middle
    if max(abs(dx), abs(dy)) < 3:
        return "in the middle"
    if abs(dx) >= abs(dy):
        return "on the left" if dx < 0 else "on the right"
    return "at the top" if dy < 0 else "at the bottom"
