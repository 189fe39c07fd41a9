"""Video-text retrieval as a `torch.utils.data.Dataset`.

Letters (see the notation page): V videos of a gallery, F frames of S×S pixels, L tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from vtrlib.check import integer
from vtrlib.datasets.retrieval.batches import Pair
from vtrlib.datasets.retrieval.captions import Captioned, caption_pairs
from vtrlib.datasets.retrieval.frames import FrameSource
from vtrlib.datasets.retrieval.pseudo_captions import (
    PseudoCaptions,
    check_pseudo_captions,
    pseudo_key,
)
from vtrlib.datasets.retrieval.tokens import tokenize_captions

__all__ = ["Gallery", "VideoTextPairs"]

_TEXTS = 4096  # tokenised at a time


class VideoTextPairs(Dataset[Pair]):
    """Every caption of every video with its frames: item i is pair i.

    Nothing is drawn at random, so an item is the same in any order and for any number
    of workers; what is shuffled is the sampler's affair. In training the released code
    also distorts the frames (RandAugment, reference row 19); this doesn't.

    Args:
        videos: with captions, such as those of `msrvtt_protocol`, `read_msvd` or
            `read_captions`.
        frames: where their frames come from: `VideoFolder`, `WorldFrames`.
        tokenizer: of the model; see `tokenize_captions`.
        words: L, most tokens of a sentence, start and end included.
        pseudo: F pseudo captions of each pair, as `read_pseudo_captions` gives them;
            None where none are needed, as at inference.

    Attributes:
        video_ids: V, the gallery.
        captions: of each pair.
        pseudo: as given.
        relevant: (pairs,) int64, each caption's video as its place in the gallery.

    Raises:
        ValueError: no videos, an id twice, a video without captions; pseudo captions
            that miss a pair, have another number than F, or are empty. The message
            names them.

    Example:
        >>> from vtrlib.clip.tiny import build_tokenizer
        >>> from vtrlib.datasets.retrieval import world_pairs
        >>> from vtrlib.world import MovingDigits
        >>> pairs = world_pairs(MovingDigits("val"), build_tokenizer())
        >>> pairs[0].frames.shape
        torch.Size([8, 3, 32, 32])
    """

    def __init__(
        self,
        videos: Iterable[Captioned],
        frames: FrameSource,
        tokenizer: Any,
        *,
        words: int = 32,
        pseudo: PseudoCaptions | None = None,
    ) -> None:
        videos = list(videos)
        self._pairs = caption_pairs(videos)
        self.video_ids = tuple(video.id for video in videos)
        place = {video: n for n, video in enumerate(self.video_ids)}
        self.relevant = torch.tensor([place[video] for video, _ in self._pairs])
        self.frames, self.tokenizer = frames, tokenizer
        self.words = integer("words", words, low=3)
        if pseudo is not None:
            check_pseudo_captions(pseudo, videos, frames.frames)
        self.pseudo = pseudo
        tokenize_captions(tokenizer, [self._pairs[0][1]], words)  # fail here, not in a worker

    @property
    def captions(self) -> tuple[str, ...]:
        return tuple(caption for _, caption in self._pairs)

    @property
    def gallery(self) -> Gallery:
        """The videos alone, each once."""
        return Gallery(self.video_ids, self.frames)

    def texts(self) -> tuple[Tensor, Tensor]:
        """Ids and mask of all captions, (pairs, L) each; at inference they are encoded once."""
        parts = [
            tokenize_captions(self.tokenizer, self.captions[n : n + _TEXTS], self.words)
            for n in range(0, len(self), _TEXTS)
        ]
        return torch.cat([ids for ids, _ in parts]), torch.cat([mask for _, mask in parts])

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> Pair:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Pair]:
        """Several pairs (a `DataLoader` calls this by itself); a video that they share is read once."""
        rows = [_place(index, len(self), "pairs") for index in indices]
        names = list(dict.fromkeys(self._pairs[row][0] for row in rows))
        frames = dict(zip(names, self.frames(names), strict=True))
        return [self._item(row, frames[self._pairs[row][0]]) for row in rows]

    def _item(self, row: int, frames: Tensor) -> Pair:
        video, caption = self._pairs[row]
        texts = [caption]
        if self.pseudo is not None:
            texts += self.pseudo[pseudo_key(video, caption)]
        ids, mask = tokenize_captions(self.tokenizer, texts, self.words)
        item = Pair(ids[0], mask[0], frames, int(self.relevant[row]), row)
        if self.pseudo is None:
            return item
        return item._replace(pseudo_ids=ids[1:], pseudo_mask=mask[1:])


class Gallery(Dataset[tuple[Tensor, int]]):
    """Videos alone: item v is (frames (F, 3, S, S) uint8, v).

    Args:
        video_ids: V.
        frames: where their frames come from.
    """

    def __init__(self, video_ids: Sequence[str], frames: FrameSource) -> None:
        self.video_ids, self.frames = tuple(video_ids), frames

    def __len__(self) -> int:
        return len(self.video_ids)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Tensor, int]]:
        rows = [_place(index, len(self), "videos") for index in indices]
        frames = self.frames([self.video_ids[row] for row in rows])
        return list(zip(frames, rows, strict=True))


def _place(index: int, count: int, what: str) -> int:
    if not -count <= (place := integer("index", index)) < count:
        raise IndexError(f"index={place}: there are {count:,} {what}.")
    return place % count
