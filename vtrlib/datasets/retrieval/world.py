"""Moving Digits as pairs of video and caption, with pseudo captions from its grammar.

Letters (see the notation page): V videos, F sampled frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from vtrlib.check import integer, one_of
from vtrlib.datasets.retrieval.captions import CaptionedVideo
from vtrlib.datasets.retrieval.pairs import VideoTextPairs
from vtrlib.datasets.retrieval.pseudo_captions import pseudo_key
from vtrlib.datasets.sampling import frame_positions
from vtrlib.world import WORLD_VERSION, MovingDigits, card
from vtrlib.world.captioner import VARIANTS, pseudo_captions

__all__ = ["WorldFrames", "world_captions", "world_pairs", "world_pseudo_captions"]


class WorldFrames:
    """Frames of Moving Digits, whose videos are called train0000, train0001, ….

    Args:
        world: the videos.
        frames: F, by the rule "ends"; default: all of the view.

    Raises:
        ValueError: more frames than the view has.
    """

    def __init__(self, world: MovingDigits, frames: int | None = None) -> None:
        count = world.screenplay.frames
        self._frames = count if frames is None else integer("frames", frames, 1, count)
        self.world, self.positions = world, frame_positions(count, self._frames)

    @property
    def frames(self) -> int:
        return self._frames

    @property
    def settings(self) -> str:
        world = self.world
        named = f"{world.split}, {world.view}, {world.domain}, seed {world.seed}"
        return f"Moving Digits {WORLD_VERSION}: {named}; {self._frames} frames"

    def __call__(self, videos: Sequence[str]) -> Tensor:
        """(V, F, 3, 32, 32) uint8.

        Raises:
            KeyError: an id is none of this world's.
        """
        split, rows = self.world.split, []
        for video in videos:
            number = video.removeprefix(split)
            if not number.isdigit() or video != f"{split}{int(number):04d}":
                raise KeyError(f"{video!r}: expected an id such as {split}0000.")
            if int(number) >= len(self.world):
                raise KeyError(f"{video!r}: {self.world!r} has {len(self.world)} videos.")
            rows.append(int(number))
        pixels, _ = self.world.frames(rows)
        return pixels[:, self.positions]


def world_captions(world: MovingDigits, paraphrases: int = 1) -> list[CaptionedVideo]:
    """The videos of a world with the captions of their moments.

    Args:
        world: the videos.
        paraphrases: wordings of each moment, 1 to 3, one after another.
    """
    integer("paraphrases", paraphrases, low=1, high=card.PARAPHRASES)
    captions: dict[int, list[str]] = {}
    for wording in range(paraphrases):
        for query in world.queries(wording):
            captions.setdefault(query.video, []).append(query.text)
    return [
        CaptionedVideo(_id(world, video), tuple(texts))
        for video, texts in sorted(captions.items())
    ]


def world_pseudo_captions(
    world: MovingDigits,
    frames: int | None = None,
    *,
    paraphrases: int = 1,
    variant: str = "guided",
    errors: bool = True,
) -> dict[str, tuple[str, ...]]:
    """Pseudo captions of a world by `pseudo_key`, as `write_pseudo_captions` writes them.

    Args:
        world: the videos.
        frames: F, see `WorldFrames`.
        paraphrases: see `world_captions`.
        variant, errors: see `vtrlib.world.pseudo_captions`.
    """
    positions = WorldFrames(world, frames).positions.tolist()
    queries = [query for wording in range(paraphrases) for query in world.queries(wording)]
    told = pseudo_captions(world, queries, positions, variant=variant, errors=errors)
    return {
        pseudo_key(_id(world, query.video), query.text): texts
        for query, texts in zip(queries, told, strict=True)
    }


def world_pairs(
    world: MovingDigits,
    tokenizer: Any,
    frames: int | None = None,
    *,
    paraphrases: int = 1,
    words: int = 32,
    variant: str | None = None,
    errors: bool = True,
) -> VideoTextPairs:
    """Moving Digits as `VideoTextPairs`.

    Args:
        world: the videos; the trimmed view has one caption for each wording.
        tokenizer: of the model, such as `vtrlib.clip.load().tokenizer`.
        frames: F, see `WorldFrames`.
        paraphrases: see `world_captions`.
        words: see `VideoTextPairs`.
        variant: of the pseudo captions, see `vtrlib.world.pseudo_captions`; None: none.
        errors: in the pseudo captions.
    """
    told = None
    if variant is not None:
        one_of("variant", variant, VARIANTS)
        told = world_pseudo_captions(
            world, frames, paraphrases=paraphrases, variant=variant, errors=errors
        )
    videos = world_captions(world, paraphrases)
    return VideoTextPairs(videos, WorldFrames(world, frames), tokenizer, words=words, pseudo=told)


def _id(world: MovingDigits, index: int) -> str:
    return f"{world.split}{index:04d}"
