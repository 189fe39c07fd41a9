"""Pooled videos and words: what models take, computed once and mapped into memory.

Letters (see the notation page): V videos of F frames; N captions of L words; width D.
"""

from __future__ import annotations

import errno
import hashlib
import json
import tempfile
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from vtrlib.check import listed
from vtrlib.datasets.prvr.cache import cached, recipe_of
from vtrlib.datasets.prvr.captions import read_captions
from vtrlib.datasets.prvr.features import feature_files, open_features
from vtrlib.datasets.prvr.hdf5 import StoredWords
from vtrlib.datasets.prvr.layout import Layout
from vtrlib.datasets.prvr.pooling import pool_clips, pool_frames, unit_rows
from vtrlib.datasets.prvr.stored import StoredFeatures, present

__all__ = [
    "EXTRA",
    "Cache",
    "PooledVideos",
    "Ragged",
    "none_extra",
    "pooled_videos",
    "pooled_words",
]

VERSION = 1  # of what this module computes; raise it with any change of a number

EXTRA = ("error", "ignore")

Floats = NDArray[np.float32]
Cache = bool | str | Path
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Ragged:
    """Arrays of different lengths, one behind the other.

    Attributes:
        rows: (R, D) float32, those of all arrays.
        starts: (n + 1,) int64; array i is rows starts[i], …, starts[i+1]−1.
    """

    rows: Floats
    starts: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, index: int) -> Floats:
        """A copy of array `index`."""
        return np.array(self.rows[self.starts[index] : self.starts[index + 1]])


@dataclass(frozen=True, eq=False)
class PooledVideos:
    """V videos, ready for a model.

    Attributes:
        lengths: how many frames each had before, by id, in the order of the others.
        spare: ids of rows that belong to no video.
        clips: (V, 32, D) float32.
        frames: V arrays (F, D), F at most 128.
    """

    lengths: dict[str, int]
    spare: tuple[str, ...]
    clips: Floats
    frames: Ragged


def pooled_videos(
    layout: Layout, clips: int, frames: int, source: str, cache: Cache
) -> PooledVideos:
    """All videos of the layout, pooled; from the cache where it is of today's files.

    Args:
        layout: whose features.
        clips, frames: how many at most; see `vtrlib.datasets.prvr.pooling`.
        source: see `open_features`.
        cache: True for <collection>/PooledData, False for none, or a folder.

    Raises:
        FileNotFoundError, ValueError: see `open_features` and `StoredFeatures.read`.
    """
    files = feature_files(layout.features, source)
    settings = {"feature": layout.feature, "clips": clips, "frames": frames}
    recipe = recipe_of("videos", VERSION, files, **settings)

    def make(folder: Path) -> None:
        with open_features(layout.features, source) as stored:
            _pool_videos(stored, clips, frames, folder)

    def load(folder: Path, mode: Any) -> PooledVideos:
        ids = json.loads((folder / "ids.json").read_text("utf-8"))
        array = np.load(folder / "clips.npy", mmap_mode=mode)
        ragged = _load_ragged(folder, mode)
        return PooledVideos(ids["lengths"], tuple(ids["spare"]), array, ragged)

    return _through(layout, cache, recipe, make, load)


def pooled_words(
    layout: Layout, split: str, max_words: int, extra: str, cache: Cache
) -> Ragged:
    """Query features of a split in the order of its captions, N arrays (L, D).

    Words are scaled to length 1; of a caption the first `max_words` are kept.

    Args:
        layout, split: whose.
        extra: "error" or "ignore": features of no caption of any split.
        cache: as for `pooled_videos`.

    Raises:
        FileNotFoundError, ValueError: see `StoredWords`; or features without caption.
    """
    present([layout.words], "a dataset (L, D) for each caption id, in HDF5")
    captions = {name: read_captions(layout.captions(name)) for name in layout.splits()}
    files = [layout.words, *map(layout.captions, captions)]
    settings = {"split": split, "max_words": max_words, "extra": extra}
    recipe = recipe_of("words", VERSION, files, **settings)

    def make(folder: Path) -> None:
        with StoredWords(layout.words, [c.id for c in captions[split]]) as stored:
            everyone = {c.id for members in captions.values() for c in members}
            if extra == "error":
                none_extra(layout.words, "captions", set(stored.ids) - everyone)
            _pool_words(stored, max_words, folder)

    return _through(layout, cache, recipe, make, _load_ragged)


def none_extra(path: Path, what: str, strangers: Collection[str]) -> None:
    """Raise if features are there that nothing refers to."""
    if strangers:
        raise ValueError(
            f"{path}: {len(strangers):,} {what} that no caption file (of rows: no "
            f"video2frames.txt) names: {listed(sorted(strangers))}. Expected captions "
            "of all; if these are of a split without captions, say extra='ignore'."
        )


def _pool_videos(stored: StoredFeatures, clips: int, frames: int, folder: Path) -> None:
    counts = [min(length, frames) for length in stored.lengths.values()]
    rows, starts = _create_ragged(folder, counts, stored.width)
    shape = (len(counts), clips, stored.width)
    segments = np.lib.format.open_memmap(folder / "clips.npy", "w+", np.float32, shape)
    for v, video in enumerate(stored.lengths):  # one by one: all may not fit in memory
        features = np.asarray(stored.read(video), dtype=np.float64)
        segments[v] = pool_clips(features, clips)
        rows[starts[v] : starts[v + 1]] = pool_frames(features, frames)
    ids = {"lengths": stored.lengths, "spare": stored.spare}
    (folder / "ids.json").write_text(json.dumps(ids), encoding="utf-8")


def _pool_words(stored: StoredFeatures, max_words: int, folder: Path) -> None:
    counts = [min(length, max_words) for length in stored.lengths.values()]
    rows, starts = _create_ragged(folder, counts, stored.width)
    for n, name in enumerate(stored.lengths):
        rows[starts[n] : starts[n + 1]] = unit_rows(stored.read(name))[:max_words]


def _create_ragged(
    folder: Path, counts: Sequence[int], width: int
) -> tuple[Floats, NDArray[np.int64]]:
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    np.save(folder / "starts.npy", starts)
    shape = (int(starts[-1]), width)
    rows = np.lib.format.open_memmap(folder / "rows.npy", "w+", np.float32, shape)
    return rows, starts


def _load_ragged(folder: Path, mode: Any) -> Ragged:
    rows = np.load(folder / "rows.npy", mmap_mode=mode)
    return Ragged(rows, np.load(folder / "starts.npy"))


def _through(
    layout: Layout, cache: Cache, recipe: str, make: Callable[[Path], None],
    load: Callable[[Path, Any], T],
) -> T:  # fmt: skip
    """What `make` writes, mapped from the cache; without one, read and thrown away."""
    if cache is False:
        with tempfile.TemporaryDirectory() as folder:
            make(Path(folder))
            return load(Path(folder), None)
    place = layout.folder / "PooledData"
    if cache is not True:  # a folder that other collections may share
        where = str(layout.folder.resolve()).encode()
        name = f"{layout.collection}-{hashlib.sha256(where).hexdigest()[:8]}"
        place = Path(cache) / name
    try:
        return load(cached(place, recipe, make), "r")
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        raise PermissionError(
            f"{place}: cannot be written ({error.strerror}). Name a folder that can, "
            "cache='folder', or hold all in memory, cache=False."
        ) from error
