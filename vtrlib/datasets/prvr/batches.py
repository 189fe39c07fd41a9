"""Videos and queries as models take them: padded, masked, on one device.

Letters (see the notation page): B videos of C clips and F frames, N queries of L words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from vtrlib.datasets.moving import Tensors

__all__ = ["Batch", "Item", "QueryBatch", "VideoBatch", "collate", "pad"]


class Item(NamedTuple):
    """One video with all its captions.

    Attributes:
        clips: (C, Dv). frames: (F, Dv).
        words: for each caption (L, Dq).
        video_id, caption_ids: of these.
        place: of the video in the gallery.
    """

    clips: Tensor
    frames: Tensor
    words: tuple[Tensor, ...]
    video_id: str
    caption_ids: tuple[str, ...]
    place: int


@dataclass(frozen=True, eq=False)
class VideoBatch(Tensors):
    """Videos as a model takes them.

    Attributes:
        clips: (B, C, Dv) float32.
        frames: (B, F, Dv) float32, zero behind the end of a shorter video.
        frame_mask: (B, F) bool, True on frames.
        video_ids: B.
    """

    clips: Tensor
    frames: Tensor
    frame_mask: Tensor
    video_ids: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class QueryBatch(Tensors):
    """Queries as a model takes them.

    Attributes:
        queries: (N, L, Dq) float32, zero behind the end of a shorter one.
        query_mask: (N, L) bool, True on words.
        caption_ids: N.
    """

    queries: Tensor
    query_mask: Tensor
    caption_ids: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Batch(VideoBatch, QueryBatch):
    """Videos with all their queries.

    Attributes:
        labels: (N,) int64, ascending: the row of the video each query is of.
    """

    labels: Tensor


def collate(items: Sequence[Item], *, sort: bool = True) -> Batch:
    """Stack items of `PartialRelevance`; the `collate_fn` for a `DataLoader`.

    Args:
        items: videos.
        sort: put videos with more frames first, as the released loader does; equal ones
            stay in order. What is drawn per row of a batch depends on it.
    """
    if sort:
        items = sorted(items, key=lambda item: len(item.frames), reverse=True)
    frames, frame_mask = pad([item.frames for item in items])
    queries, query_mask = pad([words for item in items for words in item.words])
    counts = torch.tensor([len(item.words) for item in items])
    return Batch(
        clips=torch.stack([item.clips for item in items]),
        frames=frames,
        frame_mask=frame_mask,
        video_ids=tuple(item.video_id for item in items),
        queries=queries,
        query_mask=query_mask,
        caption_ids=tuple(name for item in items for name in item.caption_ids),
        labels=torch.repeat_interleave(counts),
    )


def pad(arrays: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Arrays (L, D) as one (n, L, D), zero behind each one's end, and a mask (n, L)."""
    padded = torch.nn.utils.rnn.pad_sequence(list(arrays), batch_first=True)
    lengths = torch.tensor([len(array) for array in arrays])
    return padded, torch.arange(padded.shape[1]) < lengths[:, None]
