"""Pseudo captions of Moving Digits: what a captioner with a known error rate says of each frame.

DiscoVLA (section 3.4) has a multimodal language model caption every sampled frame, told the video's caption. Here the
grammar takes its place, so that it is known which sentences are wrong.

Letters (see the notation page): F frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from vtrlib.check import integer, one_of
from vtrlib.world import card
from vtrlib.world.dataset import MovingDigits
from vtrlib.world.draws import Draws
from vtrlib.world.grammar import MOTION_PHRASES, Seen, cue_phrase, moment_captions, seen
from vtrlib.world.screenplay import Screenplay, write
from vtrlib.world.stage import Staging, stage
from vtrlib.world.video import Event, Query

__all__ = ["ERROR_EVERY", "VARIANTS", "erroneous", "pseudo_captions", "shuffled_videos"]

VARIANTS = ("guided", "unguided", "shuffled")
# One pseudo caption in so many is wrong: on average one of the eight frames of a trimmed clip. Fixed before any
# training; no error rate of LLaVA-NeXT with the paper's prompt is published.
ERROR_EVERY = 8


@dataclass(frozen=True)
class _Told:
    """What a video's caption says: the event, the phrase for its motion, the phrase for its surroundings if any."""

    event: Event
    phrase: str
    cue: str | None


def pseudo_captions(
    world: MovingDigits,
    queries: Sequence[Query],
    positions: Sequence[int] | None = None,
    *,
    variant: str = "guided",
    errors: bool = True,
) -> list[tuple[str, ...]]:
    """Pseudo captions of sampled frames, F for each query.

    "guided" is the paper's: the captioner sees the frame and is told the query. While the query's event happens it
    names digit and colour in full, though the frame may spoil or hide them, and says the motion in the query's words;
    of a degraded frame, which hides the scene, it knows the surroundings if the query names them. Size, tilt and place
    come from the frame alone. Of another event, or of none, it says what the frame shows.

    "unguided" is Table 8's "W/O VidCap", captions that "focus only on salient regions while missing globally relevant
    details": digit, colour, size, tilt and place as this frame shows them; no motion, and no surroundings unless
    nothing else shows. The scene is what frames and captions of a video share, so it is global detail.

    "shuffled" is a control: the "guided" captions of another video (`shuffled_videos`), which is asked for its own
    moments in their order. They are as well-formed, as guided and as often wrong, but of other frames.

    Wrong captions (`erroneous`) depend on the frame alone: all queries and variants stumble over the same frames, so
    that variants differ by what is told and not by luck. A wrong one names another digit or another colour, each as
    often where both are named; where no digit is named, it makes one up.

    Args:
        world: whose queries they are.
        queries: as `world.queries` gives them.
        positions: the F frames; default: all.
        variant: "guided", "unguided" or "shuffled".
        errors: False: none is wrong.

    Raises:
        ValueError: an unknown variant, a frame that the view has not, or a query of another world.
    """
    one_of("variant", variant, VARIANTS)
    if not queries:
        return []
    asked = np.array([query.video for query in queries], dtype=np.int64)
    sources = shuffled_videos(world)[asked] if variant == "shuffled" else asked
    own, shown = _write(world, np.unique(asked)), _write(world, np.unique(sources))
    count = own.play.frames
    chosen = range(count) if positions is None else [integer("positions", p, 0, count - 1) for p in positions]
    captions = []
    for query, source in zip(queries, sources.tolist(), strict=True):
        told = _told(own, query, shown, source)
        n = shown.row[source]
        frame, wrong = _errors(world, source).each(np.arange(count)), erroneous(world, source, count)
        texts = []
        for f in chosen:
            error = Draws(frame.key[f]) if errors and wrong[f] else None
            texts.append(_sentence(shown, n, f, told, variant != "unguided", error))
        captions.append(tuple(texts))
    return captions


def erroneous(world: MovingDigits, index: int, frames: int) -> NDArray[np.bool_]:
    """Which of the first `frames` frames of a video are captioned wrongly: a hash of split, video and frame decides."""
    wrong: NDArray[np.bool_] = _errors(world, index).each(np.arange(frames)).below("error", ERROR_EVERY) == 0
    return wrong


def shuffled_videos(world: MovingDigits) -> NDArray[np.int64]:
    """For each video of the split the one whose captions stand for its own in the shuffled control, never itself.

    All videos of the split stand in a fixed random order, and each takes the captions of the next; of one further on
    if that is a near-duplicate of it, so a few serve twice. The order is that of the whole split, whatever the size of
    `world`. That two videos by chance show the same event is left as it is.
    """
    return _shuffled(world.split, world.view, world.domain, world.seed)


@lru_cache(maxsize=16)
def _shuffled(split: str, view: str, domain: str, seed: int) -> NDArray[np.int64]:
    every = np.arange(card.SPLITS[split])
    repeats = write(every, split, view, domain, seed).duplicate_of
    story = np.where(repeats >= 0, repeats, every)
    key = Draws.of("shuffled captions", card.WORLD_VERSION, split, view, domain, seed)
    order = np.argsort(key.each(every).bits("order"))
    other, step = every.copy(), 0
    while (same := story[other] == story).any():
        step += 1
        following = np.empty_like(every)
        following[order] = np.roll(order, -step)
        other[same] = following[same]
    other.setflags(write=False)
    return other


@dataclass(frozen=True)
class _Videos:
    """Some videos as written and staged; `row` gives a video's row in both."""

    world: MovingDigits
    play: Screenplay
    staging: Staging
    row: dict[int, int]


def _write(world: MovingDigits, indices: NDArray[np.int64]) -> _Videos:
    play = write(indices, world.split, world.view, world.domain, world.seed)
    return _Videos(world, play, stage(play), {int(index): n for n, index in enumerate(indices)})


def _errors(world: MovingDigits, index: int) -> Draws:
    every = Draws.of("pseudo captions", card.WORLD_VERSION, world.split, world.view, world.domain, world.seed)
    return every.each(index)


def _told(own: _Videos, query: Query, shown: _Videos, source: int) -> _Told:
    """What the captioner of video `source` is told: the query, or the caption of `source` in its place."""
    n, slot = own.row[query.video], query.moment
    slots = np.flatnonzero(own.play.captioned[n] & own.play.used[n])
    texts = _captions(own, query.video, slot) if slot in slots else ()
    if query.text not in texts:
        raise ValueError(f"queries: {query.text!r} is no caption of video {query.video} of {own.world!r}.")
    text = query.text
    if source != query.video:
        wording, rank = texts.index(query.text), int(np.flatnonzero(slots == slot)[0])
        n = shown.row[source]
        slots = np.flatnonzero(shown.play.captioned[n] & shown.play.used[n])
        slot = int(slots[rank % len(slots)])
        text = _captions(shown, source, slot)[wording]
    play = shown.play
    event = _event(play, n, slot)
    (phrase,) = (phrase for phrase in MOTION_PHRASES[event.motion] if phrase in text)
    return _Told(event, phrase, cue_phrase(int(play.cue[n, slot]), int(play.scene[n])))


def _captions(videos: _Videos, video: int, slot: int) -> tuple[str, ...]:
    key = videos.world.caption_draws.each(video).each(slot)
    return moment_captions(videos.play, videos.row[video], slot, key)


def _sentence(videos: _Videos, n: int, f: int, told: _Told, guided: bool, error: Draws | None) -> str:
    """What is said of frame `f` of row `n`; wrongly, as `error` decides, if there is one."""
    play, staging = videos.play, videos.staging
    view, slot = seen(play, staging, n, f), int(staging.slot[n, f])
    surroundings, motion = view.surroundings, ""
    if not guided and view.visible:
        surroundings = ""
    if guided and slot >= 0:
        if staging.degradation[n, f] and told.cue:
            surroundings = told.cue
        if _event(play, n, slot) == told.event:
            view, motion = view.named(told.event.digit, told.event.colour), f"that {told.phrase}"
    if error is not None:
        view = _misread(view, error, card.DOMAINS[videos.world.domain][1])
    return " ".join(part for part in (view.subject, view.place, surroundings, motion) if part)


def _misread(view: Seen, error: Draws, colours: tuple[int, ...]) -> Seen:
    """The same with another digit, another colour of those there are, or a digit where none is named."""
    digit, colour = view.digit, view.colour
    if digit is None and colour is None:
        return view.named(int(error.below("digit", 10)), colours[int(error.below("colour", len(colours)))])
    if colour is None or (digit is not None and error.below("which", 2) == 0):
        assert digit is not None
        return view.named((digit + 1 + int(error.below("digit", 9))) % 10, colour)
    others = [c for c in colours if c != colour]
    return view.named(digit, others[int(error.below("colour", len(others)))])


def _event(play: Screenplay, n: int, slot: int) -> Event:
    return Event(int(play.digit[n, slot]), int(play.colour[n, slot]), int(play.motion[n, slot]))
