"""Partially relevant video retrieval as a `torch.utils.data.Dataset`.

Letters (see the notation page): V videos of a gallery, Q queries against it.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from vtrlib.check import integer, listed, one_of
from vtrlib.datasets.prvr.batches import Item, QueryBatch, VideoBatch, pad
from vtrlib.datasets.prvr.captions import Truth, read_captions, read_truth, video_ids
from vtrlib.datasets.prvr.layout import Layout
from vtrlib.datasets.prvr.pooled import (
    EXTRA,
    Cache,
    none_extra,
    pooled_videos,
    pooled_words,
)

__all__ = ["PartialRelevance"]


class PartialRelevance(Dataset[Item]):
    """A split of a collection: item i is video i of the gallery with all its captions.

    Everything is read and checked once, pooled and kept in a cache beside the features;
    later an item is a copy of mapped memory. The gallery is every video that a caption
    of the split is about, in the order of the captions.

    Args:
        root: the folder above the collection; see `Layout`.
        collection: "activitynet", "charades", "tvr", or another name.
        split: "train", "val", "test", or another that has a caption file.
        feature: which frame features, where there are several.
        clips: C, the number of segments that every video is cut into.
        frames: of a video with more than so many only as many segments are kept.
        max_words: of a caption; later ones are left out.
        source: read feature.bin ("bin"), feature.hdf5 ("hdf5"), or whichever is there
            ("auto").
        cache: True for <collection>/PooledData, another folder, or False: pool at every
            start and hold all in memory.
        extra: "error" or "ignore": features that no caption of any split is about.

    Attributes:
        layout, split: as given.
        captions: Q of them, in the order of the file.
        video_ids: V, the gallery.
        lengths: (V,) int64, how many frames each video had before it was pooled.
        relevant: (Q,) int64, the video that each caption was written for.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: captions without features, features without captions, or a file at
            fault; the message names file, place, what was found, and what to do.
    """

    def __init__(
        self, root: str | Path, collection: str, split: str = "train", *,
        feature: str | None = None, clips: int = 32, frames: int = 128,
        max_words: int = 30, source: str = "auto", cache: Cache = True,
        extra: str = "error",
    ) -> None:  # fmt: skip
        integer("clips", clips, low=1), integer("frames", frames, low=1)
        integer("max_words", max_words, low=1), one_of("extra", extra, EXTRA)
        self.layout = layout = Layout.find(root, collection, feature)
        self.split = split
        self.captions = read_captions(layout.captions(split))
        self._read_videos = partial(
            pooled_videos, layout, clips, frames, source=source, cache=cache
        )
        self._read_words = partial(
            pooled_words, layout, split, max_words, extra=extra, cache=cache
        )
        self._mapped = cache is not False
        self._videos = self._read_videos()
        self.video_ids = self._gallery(extra)
        self._words = self._read_words()
        self._number()

    def _gallery(self, extra: str) -> tuple[str, ...]:
        """The videos of the captions, all of which have features."""
        ids, have = video_ids(self.captions), self._videos.lengths
        if absent := [video for video in ids if video not in have]:
            raise ValueError(
                f"{self.layout.captions(self.split)}: {len(absent):,} of {len(ids):,} "
                f"videos have no features in {self.layout.features}: {listed(absent)}. "
                "Expected features of each: get them, or take their captions out."
            )
        every = (self.layout.captions(name) for name in self.layout.splits())
        captioned = {c.video for path in every for c in read_captions(path)}
        if extra == "error":
            none_extra(self.layout.features, "videos", set(have) - captioned)
            none_extra(self.layout.features, "rows", self._videos.spare)
        return ids

    def _number(self) -> None:
        """Say for videos and captions where they stand."""
        place = {video: index for index, video in enumerate(self.video_ids)}
        row = {video: index for index, video in enumerate(self._videos.lengths)}
        self._rows = [row[video] for video in self.video_ids]
        self.lengths = torch.tensor([self._videos.lengths[v] for v in self.video_ids])
        self.relevant = torch.tensor([place[c.video] for c in self.captions])
        self._captions_of: list[list[int]] = [[] for _ in self.video_ids]
        for n, video in enumerate(self.relevant.tolist()):
            self._captions_of[video].append(n)

    def __getstate__(self) -> dict[str, Any]:
        # A worker that is spawned opens the cache by itself: no copy is sent to it.
        shared = ("_videos", "_words") if self._mapped else ()
        return {k: v for k, v in self.__dict__.items() if k not in shared}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        if self._mapped:
            self._videos, self._words = self._read_videos(), self._read_words()

    def __len__(self) -> int:
        return len(self.video_ids)

    def __repr__(self) -> str:
        kind = f"{self.layout.collection!r}, {self.split!r}"
        sizes = f"{len(self)} videos, {len(self.captions)} captions"
        return f"PartialRelevance({kind}: {sizes})"

    def __getitem__(self, index: int) -> Item:
        if not -len(self) <= (i := integer("index", index)) < len(self):
            raise IndexError(f"index={i}: {self!r} has videos 0 to {len(self) - 1}.")
        i %= len(self)
        numbers, row = self._captions_of[i], self._rows[i]
        return Item(
            clips=torch.from_numpy(self._videos.clips[row].copy()),
            frames=torch.from_numpy(self._videos.frames[row]),
            words=tuple(torch.from_numpy(self._words[n]) for n in numbers),
            video_id=self.video_ids[i],
            caption_ids=tuple(self.captions[n].id for n in numbers),
            place=i,
        )

    def video_batches(self, size: int = 100) -> Iterator[VideoBatch]:
        """The gallery in its order, `size` videos at a time."""
        for start in range(0, len(self), integer("size", size, low=1)):
            items = [self[i] for i in range(start, min(start + size, len(self)))]
            frames, mask = pad([item.frames for item in items])
            clips = torch.stack([item.clips for item in items])
            ids = tuple(item.video_id for item in items)
            yield VideoBatch(clips, frames, mask, ids)

    def query_batches(self, size: int = 50) -> Iterator[QueryBatch]:
        """The queries in the order of the captions, `size` at a time."""
        for start in range(0, len(self.captions), integer("size", size, low=1)):
            numbers = range(start, min(start + size, len(self.captions)))
            queries, mask = pad([torch.from_numpy(self._words[n]) for n in numbers])
            ids = tuple(self.captions[n].id for n in numbers)
            yield QueryBatch(queries, mask, ids)

    @cached_property
    def truth(self) -> tuple[Truth, ...]:
        """What is known of each caption beyond its video; see `read_truth`.

        Raises:
            FileNotFoundError: nothing is, as in the real collections.
            ValueError: see `read_truth`; or a moment that ends after its video.
        """
        path = self.layout.truth(self.split)
        truths = read_truth(path, self.captions)
        for caption, truth in zip(self.captions, truths, strict=True):
            frames = self._videos.lengths[caption.video]
            if truth.moment and truth.moment[1] > frames:
                raise ValueError(
                    f"{path}: {caption.id}: moment {list(truth.moment)} in a video of "
                    f"{frames} frames. Expected features and truth of one making."
                )
        return truths

    @cached_property
    def true_positives(self) -> Tensor:
        """(Q, V) bool, whether a caption is true in a video; as `evaluate` takes it.

        Raises:
            FileNotFoundError, ValueError: see `truth`.
        """
        place = {video: index for index, video in enumerate(self.video_ids)}
        found = torch.zeros(len(self.captions), len(self), dtype=torch.bool)
        for n, truth in enumerate(self.truth):
            found[n, [place[video] for video in truth.videos]] = True
        return found
