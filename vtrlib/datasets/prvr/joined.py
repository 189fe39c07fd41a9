"""Real sentences and real features for partial relevance: MSR-VTT clips, joined.

A constructed collection, and labelled so: k trimmed clips of MSR-VTT stand one behind
the other as if they were one untrimmed video, and what people wrote of each is a query
that is relevant to a part of it. Within a category the parts, and so the videos, look
alike; clips joined at random are the control.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vtrlib.check import integer, one_of
from vtrlib.datasets.features import VideoFeatures, msrvtt_features
from vtrlib.datasets.msrvtt import CATEGORIES
from vtrlib.datasets.prvr.captions import Caption, Truth
from vtrlib.datasets.prvr.layout import Layout
from vtrlib.datasets.prvr.writer import made_from, write_layout
from vtrlib.datasets.splits import SHARES, SPLITS
from vtrlib.datasets.words import WordVectors

__all__ = ["JOINS", "JoinedVideo", "join_clips", "write_joined_msrvtt"]

VERSION = 1  # of how clips are joined; raise it with any change
JOINS = ("category", "random")


@dataclass(frozen=True)
class JoinedVideo:
    """A constructed video: `clips` are rows of a `VideoFeatures`, in order of time."""

    id: str
    clips: tuple[int, ...]


def join_clips(
    clips: VideoFeatures, k: int = 4, join: str = "category", *, split: str = "train",
    seed: int = 0,
) -> tuple[JoinedVideo, ...]:  # fmt: skip
    """Say which clips stand together. Every clip is in one video, none is left over.

    A category of n clips makes max(1, round(n / k)) videos of equal size, give or take
    one; so k is what sizes vary about, and a clip alone in its category stays alone.
    Random joins have the very same sizes: only who stands with whom differs. Order and
    company follow from sha256 of seed and clip id.

    Args:
        clips: of one split.
        k: clips a video.
        join: "category" or "random".
        split: names the videos, as in "train_people_02".
        seed: another one joins otherwise.

    Raises:
        ValueError, TypeError: an argument out of range.
    """
    integer("k", k, low=2), integer("seed", seed, low=0), one_of("join", join, JOINS)

    def drawn(row: int) -> bytes:
        return hashlib.sha256(f"{join} {seed} {clips.ids[row]}".encode()).digest()

    kinds: dict[int, list[int]] = {}
    for row in sorted(range(len(clips)), key=drawn):
        kinds.setdefault(clips.videos[row].category, []).append(row)
    groups = {
        c: np.array_split(rows, max(1, round(len(rows) / k)))
        for c, rows in sorted(kinds.items())
    }
    if join == "random":
        sizes = [len(group) for members in groups.values() for group in members]
        order = sorted(range(len(clips)), key=drawn)
        return tuple(
            JoinedVideo(f"{split}_random_{n:03d}", tuple(order[end - size : end]))
            for n, (size, end) in enumerate(zip(sizes, np.cumsum(sizes), strict=True))
        )
    return tuple(
        JoinedVideo(f"{split}_{_word(category)}_{n:02d}", tuple(map(int, group)))
        for category, members in groups.items()
        for n, group in enumerate(members)
    )


def write_joined_msrvtt(
    root: str | Path, *, k: int = 4, join: str = "category", seed: int = 0,
    captions: int | None = None, folder: str | Path | None = None,
    shares: tuple[int, int, int] = SHARES, width: int = 128, min_count: int = 3,
    collection: str | None = None,
) -> Layout:  # fmt: skip
    """Write joined clips of MSR-VTT's first 1,000 videos as a collection; once.

    Frames are the VGG-16 features as they are shipped, 50 of each clip; words are
    vectors fitted on the training split's captions alone. Splits share no source video.
    A `Truth` says which frames a caption is about; as in the real sets, each caption
    counts for its own video only, though it may be true of another.

    Args:
        root: the folder above the collection.
        k, join, seed: see `join_clips`.
        captions: of each clip, the first so many; default: all 20.
        folder, shares: see `msrvtt_features`.
        width, min_count: of the word vectors; see `WordVectors.fit`.
        collection: its name; default: "msrvtt-joined-category" or "…-random".

    Returns:
        The layout. Its made_from.json says that it is constructed, and of which clips.

    Raises:
        FileExistsError: a collection of that name is there that this did not make.
        FileNotFoundError, ValueError: see `msrvtt_features`, `join_clips` and
            `WordVectors.fit`.
    """
    one_of("join", join, JOINS)
    if captions is not None:
        integer("captions", captions, low=1)
    collection = collection or f"msrvtt-joined-{join}"
    parts = {name: msrvtt_features(folder, name, shares) for name in SPLITS}
    videos = {n: join_clips(p, k, join, split=n, seed=seed) for n, p in parts.items()}
    settings = [VERSION, k, join, seed, captions, list(shares), width, min_count]
    made = {
        "what": _WHAT, "settings": settings, "data": _digest(parts),
        "clips": _clips(parts, videos),
    }  # fmt: skip
    layout, found = Layout(Path(root), collection, "vgg16ae"), None
    if layout.folder.is_dir():
        found = made_from(layout.folder)
        if found == made:
            return layout
    ours = isinstance(found, dict) and found.get("what") == _WHAT
    asked = {n: _captions(p, videos[n], captions) for n, p in parts.items()}
    train = [caption for members in parts["train"].captions for caption in members]
    vectors = WordVectors.fit(train, width, min_count=min_count)
    return write_layout(
        root, collection, feature=layout.feature, made=made, replace=ours,
        frames=_frames(parts, videos),
        captions={n: [c for c, _ in rows] for n, rows in asked.items()},
        words=_words((c for rows in asked.values() for c, _ in rows), vectors),
        truth={n: {c.id: t for c, t in rows} for n, rows in asked.items()},
    )  # fmt: skip


_WHAT = (
    "Constructed: trimmed clips of MSR-VTT, joined one behind the other as if they "
    "were one video. No film, and no dataset of that name, holds them so."
)


def _frames(
    parts: Mapping[str, VideoFeatures], videos: Mapping[str, Sequence[JoinedVideo]]
) -> Iterator[tuple[str, NDArray[Any]]]:
    for split, clips in parts.items():
        for video in videos[split]:
            yield (
                video.id,
                np.concatenate([clips[row][0].numpy() for row in video.clips]),
            )


def _captions(
    clips: VideoFeatures, videos: Sequence[JoinedVideo], most: int | None
) -> list[tuple[Caption, Truth]]:
    """Captions by video, clip and order, each with the frames of its clip."""
    rows = []
    for video in videos:
        start, number = 0, 0
        for row in video.clips:
            features, sentences = clips[row]
            moment = start, start + len(features)
            for text in sentences[:most]:
                name = f"{video.id}#enc#{number}"
                one_line = " ".join(text.split())
                rows.append((Caption(name, one_line), Truth((video.id,), moment)))
                number += 1
            start = moment[1]
    return rows


def _words(
    captions: Iterable[Caption], vectors: WordVectors
) -> Iterator[tuple[str, NDArray[Any]]]:
    for caption in captions:
        ids = vectors.tokens([caption.text]).ids[0]
        yield caption.id, vectors.vectors[ids].numpy()


def _clips(
    parts: Mapping[str, VideoFeatures], videos: Mapping[str, Sequence[JoinedVideo]]
) -> dict[str, list[str]]:
    """The ids of the clips that each video is made of."""
    return {
        video.id: [parts[split].ids[row] for row in video.clips]
        for split, members in videos.items()
        for video in members
    }


def _digest(parts: Mapping[str, VideoFeatures]) -> str:
    """A hash of features and captions: others make another collection."""
    digest = hashlib.sha256()
    for part in parts.values():
        digest.update(part.features.numpy().tobytes())
        digest.update(repr(part.captions).encode())
    return digest.hexdigest()


def _word(category: int) -> str:
    """A category as part of an id: "sports-actions"."""
    return CATEGORIES[category].replace("/", "-").replace(" ", "-")
