"""Moving Digits as `torch.utils.data.Dataset`s, with its queries and its truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from vtrlib.check import integer, one_of
from vtrlib.world import card
from vtrlib.world.draws import Draws
from vtrlib.world.grammar import cue_phrase, cue_scenes, frame_captions, moment_captions
from vtrlib.world.render import render
from vtrlib.world.screenplay import Screenplay, write
from vtrlib.world.stage import stage
from vtrlib.world.video import Event, Moment, Query, Video

__all__ = ["Batch", "MovingDigits", "collate"]


@dataclass(frozen=True)
class Batch:
    """Videos stacked for a model: frames (B, F, 3, H, W) uint8, mask (B, F, H, W) bool, and the videos themselves."""

    frames: Tensor
    mask: Tensor
    videos: tuple[Video, ...]


def collate(videos: Sequence[Video]) -> Batch:
    """Stack videos of one view; the `collate_fn` for a `DataLoader` over `MovingDigits`."""
    return Batch(torch.stack([v.frames for v in videos]), torch.stack([v.mask for v in videos]), tuple(videos))


class MovingDigits(Dataset[Video]):
    """A generated video-text world with known truth.

    Item i of a split is the same bytes and words on every machine, in any order, for any worker count; nothing is
    stored, a video is rendered when asked for.

    Args:
        split: "train" (2,000 videos), "val" (300) or "test" (600); handwriting is disjoint between splits.
        view: "trimmed": one event, 8 frames, one description; "untrimmed": 64 frames, 4 to 6 captioned events and
            one or two that nobody described, some of them hard to see.
        domain: "all", or one side of a cross-domain split: "seen scenes", "unseen scenes", "seen colours",
            "unseen colours".
        seed: another seed is another world by the same card; the book's own is 0.
        size: use only the first `size` videos; default: all.

    Raises:
        ValueError: unknown split, view or domain (the message lists them); size or seed out of range.
        TypeError: size or seed is no integer.

    Example:
        >>> clip = MovingDigits("train", "trimmed")[0]
        >>> clip.frames.shape
        torch.Size([8, 3, 32, 32])
    """

    def __init__(
        self, split: str, view: str = "trimmed", *, domain: str = "all", seed: int = 0, size: int | None = None
    ) -> None:
        self.split = one_of("split", split, card.SPLITS)
        self.view = one_of("view", view, card.VIEWS)
        self.domain = one_of("domain", domain, card.DOMAINS)
        self.seed = integer("seed", seed, low=0, high=2**63 - 1)
        full = card.SPLITS[self.split]
        self.size = full if size is None else integer("size", size, low=1, high=full)
        self._captions = Draws.of("captions", card.WORLD_VERSION, split, view, domain, self.seed)
        self._play: Screenplay | None = None

    def __len__(self) -> int:
        return self.size

    def __repr__(self) -> str:
        settings = f"domain={self.domain!r}, seed={self.seed}, size={self.size}"
        return f"MovingDigits({self.split!r}, {self.view!r}, {settings})"

    def __getitem__(self, index: int) -> Video:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Video]:
        """Several videos rendered together (a `DataLoader` calls this by itself): about twice as fast as one by one."""
        rows = self._rows(indices)
        play = self._write(rows)
        staging = stage(play)
        frames, masks = render(play, staging)
        return [
            Video(
                index=int(row),
                split=self.split,
                view=self.view,
                scene=int(play.scene[n]),
                frames=torch.from_numpy(frames[n]),
                mask=torch.from_numpy(masks[n]),
                moments=self._moments(play, n, int(row)),
                frame_captions=frame_captions(play, staging, n),
                duplicate_of=int(play.duplicate_of[n]) if play.duplicate_of[n] >= 0 else None,
            )
            for n, row in enumerate(rows)
        ]

    @property
    def caption_draws(self) -> Draws:
        """The draws that word captions, `.each(index).each(slot)` for those of a moment; see `moment_captions`."""
        return self._captions

    def frames(self, indices: Sequence[int] | None = None) -> tuple[Tensor, Tensor]:
        """Pixels alone, without the words: frames (B, F, 3, H, W) uint8 and mask (B, F, H, W) bool.

        The fast way through many videos; all of them by default (an untrimmed video is 197 kB).
        """
        rows = np.arange(self.size) if indices is None else self._rows(indices)
        pixels, mask = render(self._write(rows))
        return torch.from_numpy(pixels), torch.from_numpy(mask)

    def pretraining_captions(self, index: int) -> tuple[str, ...]:
        """Frame captions of a video of which one in `card.MOTION_WORD_EVERY` also says how the digit moves, (F,)."""
        (row,) = self._rows([index])
        play = self._write(np.array([row]))
        words = self._captions.each(int(row)).each(1)
        return frame_captions(play, stage(play), 0, motion_words=words)

    @property
    def screenplay(self) -> Screenplay:
        """The world's truth as arrays, what happens in every video of the dataset, without a pixel rendered."""
        if self._play is None:
            self._play = self._write(np.arange(self.size))
        return self._play

    def queries(self, paraphrase: int = 0) -> list[Query]:
        """One query per captioned moment, in order of video and time, in its `paraphrase`-th wording (0, 1 or 2)."""
        integer("paraphrase", paraphrase, low=0, high=card.PARAPHRASES - 1)
        play, queries = self.screenplay, []
        for n in range(self.size):
            for slot in range(int(play.counts[n])):
                if not play.captioned[n, slot]:
                    continue
                text = moment_captions(play, n, slot, self._captions.each(n).each(slot))[paraphrase]
                scenes = cue_scenes(int(play.cue[n, slot]), int(play.scene[n]))
                queries.append(Query(text, n, slot, _event(play, n, slot), scenes))
        return queries

    def true_positives(self, query: Query) -> Tensor:
        """Indices of all videos in which the query is true, ascending, int64.

        A video counts if the event happens in it, described by anyone or not, in a scene the query allows. The
        annotated video is always among them; that it is often not alone is the ambiguity of the task.
        """
        play, event = self.screenplay, query.event
        happens = play.used & (play.digit == event.digit)
        happens &= (play.colour == event.colour) & (play.motion == event.motion)
        return torch.from_numpy(np.flatnonzero(happens.any(1) & np.isin(play.scene, list(query.scenes))))

    def _rows(self, indices: Sequence[int]) -> NDArray[np.int64]:
        rows = [integer("index", i) for i in indices]
        for i in rows:
            if not -self.size <= i < self.size:
                raise IndexError(f"index={i}: {self!r} has videos 0 to {self.size - 1}.")
        return np.array(rows, dtype=np.int64) % self.size

    def _write(self, rows: NDArray[np.int64]) -> Screenplay:
        return write(rows, self.split, self.view, self.domain, self.seed)

    def _moments(self, play: Screenplay, n: int, row: int) -> tuple[Moment, ...]:
        return tuple(
            Moment(
                start=int(play.start[n, slot]),
                end=int(play.end[n, slot]),
                event=_event(play, n, slot),
                captions=moment_captions(play, n, slot, self._captions.each(row).each(slot)),
                cue=cue_phrase(int(play.cue[n, slot]), int(play.scene[n])),
                degradation=card.DEGRADATIONS[play.degradation[n, slot]],
            )
            for slot in range(int(play.counts[n]))
        )


def _event(play: Screenplay, n: int, slot: int) -> Event:
    return Event(int(play.digit[n, slot]), int(play.colour[n, slot]), int(play.motion[n, slot]))
