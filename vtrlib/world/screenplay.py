"""Everything about a video that is decided before a pixel is drawn.

`write(...)` gives the screenplays of many videos at once as arrays: V videos, M slots for moments (the first
`counts[v]` are used, in order of time). All draws are named (`vtrlib.world.draws`), so a video's screenplay
depends on its split, view, domain, seed and index alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from vtrlib.world import card
from vtrlib.world.draws import Draws

__all__ = ["Screenplay", "digit_images", "image_pools", "write"]

Ints = NDArray[np.int64]
UNUSED = -1


@dataclass(frozen=True)
class Screenplay:
    """What happens in V videos, when and where.

    Attributes of shape (V,): `scene`; `counts`, moments used; `duplicate_of`, −1 for none; `texture`, how far the
    scene's pattern is rolled; `brightness` and `grain`, how this copy was recorded; and `frames`, their number F
    (an int, the same for all). Of shape (V, C), C = `card.SCRAPS`: `clutter`, the image a scrap is torn from;
    `clutter_corner`, which quarter of it; `clutter_x`, `clutter_y`, where it lies.
    Attributes of shape (V, M), meaningful in the first `counts[v]` slots: `digit`, `colour`, `motion`, `start`,
    `end`, `captioned` (bool), `cue` (0 none, 1 the scene's name, 2 coarse), `degradation`, `image` (row of
    `digit_images()`), `x`, `y` (where the sprite's canvas stands when it rests, pixels), `turn` (±1, the sense
    of a spin).
    """

    frames: int
    scene: Ints
    counts: Ints
    duplicate_of: Ints
    texture: Ints
    brightness: Ints
    grain: Ints
    clutter: Ints
    clutter_corner: Ints
    clutter_x: Ints
    clutter_y: Ints
    digit: Ints
    colour: Ints
    motion: Ints
    start: Ints
    end: Ints
    captioned: NDArray[np.bool_]
    cue: Ints
    degradation: Ints
    image: Ints
    x: Ints
    y: Ints
    turn: Ints

    @property
    def used(self) -> NDArray[np.bool_]:
        """(V, M), True where a slot holds a moment."""
        return np.arange(self.digit.shape[1]) < self.counts[:, None]


@cache
def digit_images() -> NDArray[np.int64]:
    """The 1,797 handwritten digits of UCI's optical recognition set, (1797, 8, 8) integers 0 … 16."""
    images: Ints = load_digits().images.astype(np.int64)
    images.setflags(write=False)
    return images


@cache
def image_pools(split: str) -> tuple[Ints, Ints]:
    """Which images a split may use: rows of `digit_images()` by digit, (10, P) padded with −1, and counts (10,).

    Images are dealt to the splits by a fixed shuffle within each digit; no image is in two splits.
    """
    labels = load_digits().target
    rows = []
    for digit in range(10):
        (members,) = np.nonzero(labels == digit)
        order = np.argsort(Draws.of("image splits", card.WORLD_VERSION, digit).each(members).bits("order"))
        edges = np.cumsum((0, *card.IMAGE_SHARES)) * len(members) // 100
        k = list(card.SPLITS).index(split)
        rows.append(np.sort(members[order[edges[k] : edges[k + 1]]]))
    counts = np.array([len(r) for r in rows])
    table = np.full((10, counts.max()), UNUSED)
    for row, members in zip(table, rows, strict=True):
        row[: len(members)] = members
    return table, counts


def write(indices: NDArray[np.int64], split: str, view: str, domain: str = "all", seed: int = 0) -> Screenplay:
    """Write the screenplays of the videos `indices` (V,) of a split and view."""
    every = Draws.of("moving digits", card.WORLD_VERSION, split, view, domain, seed)
    own = every.each(indices)
    # A near-duplicate has an odd index and repeats an even one, so what is repeated is never a repeat itself.
    repeats = (indices % 2 == 1) & (own.below("is a duplicate", card.DUPLICATE_EVERY // 2) == 0)
    source = np.where(repeats, 2 * own.below("duplicate of", (indices + 1) // 2 + (indices < 1)), indices)
    story = every.each(source)  # what happens comes from the source, how it looks from the video itself

    scenes, colours = (np.array(part) for part in card.DOMAINS[domain])
    scene = scenes[story.below("scene", len(scenes))]
    if view == "trimmed":
        counts = np.ones(len(indices), dtype=np.int64)
        captioned = np.ones((len(indices), 1), dtype=bool)
        slots = story.slots(1)
        start, end = np.zeros((len(indices), 1), np.int64), np.full((len(indices), 1), card.PHASES)
        frames, degradation = card.PHASES, np.zeros((len(indices), 1), np.int64)
    else:
        described = np.array(card.CAPTIONED)[story.below("captioned", len(card.CAPTIONED))]
        counts = described + np.array(card.DISTRACTORS)[story.below("distractors", len(card.DISTRACTORS))]
        slots = story.slots(card.SLOTS)
        captioned = _deal(slots, described, counts)
        start, end = _schedule(slots, story, counts)
        frames, degradation = card.UNTRIMMED_FRAMES, slots.weighted("degradation", card.DEGRADATION_WEIGHTS)

    digit = slots.weighted("digit", card.DIGIT_WEIGHTS[scene][:, None])
    colour = colours[slots.weighted("colour", card.COLOUR_WEIGHTS[scene][:, None, colours])]
    table, pool = image_pools(split)
    scraps = story.slots(card.SCRAPS)
    room = card.SIZE - card.CANVAS
    return Screenplay(
        frames=frames,
        scene=scene,
        counts=counts,
        duplicate_of=np.where(repeats, source, UNUSED),
        texture=story.below("texture", card.SIZE**2),
        brightness=own.below("brightness", 17) - 8,
        grain=own.below("grain", card.SIZE**2),
        clutter=table[table != UNUSED][scraps.below("clutter", pool.sum())],
        clutter_corner=scraps.below("clutter corner", 4),
        clutter_x=scraps.below("clutter x", card.SIZE - card.SCRAP + 1),
        clutter_y=scraps.below("clutter y", card.SIZE - card.SCRAP + 1),
        digit=digit,
        colour=colour,
        motion=slots.weighted("motion", card.MOTION_WEIGHTS[scene][:, None]),
        start=start,
        end=end,
        captioned=captioned,
        cue=slots.weighted("cue", card.CUE_WEIGHTS),
        degradation=degradation,
        image=table[digit, slots.below("image", pool[digit])],
        x=_nudge(slots.below("x", room + 1), own, "nudge x", repeats, room),
        y=_nudge(slots.below("y", room + 1), own, "nudge y", repeats, room),
        turn=2 * slots.below("turn", 2) - 1,
    )


def _nudge(place: Ints, own: Draws, name: str, repeats: NDArray[np.bool_], room: int) -> Ints:
    """A near-duplicate stands up to a pixel beside its source."""
    shift = np.where(repeats, own.below(name, 3) - 1, 0)
    return np.clip(place + shift[:, None], 0, room)


def _deal(slots: Draws, described: Ints, counts: Ints) -> NDArray[np.bool_]:
    """Which slots are captioned: `described[n]` of the first `counts[v]`, each choice equally likely. (V, M)."""
    lot = slots.bits("captioned slot")
    lot = np.where(np.arange(lot.shape[1]) < counts[:, None], lot, np.iinfo(np.uint64).max)
    rank = lot.argsort(axis=1, kind="stable").argsort(axis=1, kind="stable")
    return rank < described[:, None]


def _schedule(slots: Draws, story: Draws, counts: Ints) -> tuple[Ints, Ints]:
    """Start and end of each moment, (V, M) each: drawn lengths, and the frames left over shared among the gaps."""
    shortest, longest = card.LENGTHS[0], card.LENGTHS[-1]
    used = np.arange(card.SLOTS) < counts[:, None]
    length = np.where(used, shortest + slots.below("length", longest - shortest + 1), 0)
    spare = card.UNTRIMMED_FRAMES - length.sum(1)
    weight = 1 + story.slots(card.SLOTS + 1).below("gap", 8)  # a gap before each moment and one at the end
    weight = np.where(np.arange(card.SLOTS + 1) <= counts[:, None], weight, 0)
    before = weight.cumsum(1) * spare[:, None] // weight.sum(1, keepdims=True)
    start = before[:, :-1] + length.cumsum(1) - length
    return np.where(used, start, 0), np.where(used, start + length, 0)
