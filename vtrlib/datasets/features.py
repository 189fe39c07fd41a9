"""Videos as stored frame features, paired with their captions.

Letters (see the notation page): V videos of F frames, D numbers a frame.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from vtrlib.check import integer, listed, one_of
from vtrlib.datasets.cards import card
from vtrlib.datasets.folders import data_folder
from vtrlib.datasets.msrvtt import AnnotatedVideo, read_msrvtt
from vtrlib.datasets.splits import SHARES, SPLITS, split_by_source

__all__ = ["FeatureBatch", "VideoFeatures", "collate_features", "load_features", "msrvtt_features", "stack_features"]

_AGAIN = "Get or make the file again; the page 'Data cards' says how."


def load_features(path: str | Path) -> NDArray[Any]:
    """Frame features (V, F, D) of a .npy file, mapped into memory: rows are read when they are used.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is empty, cut off, no array of floating-point numbers, pickled, of another number of axes, or
            holds NaN or infinity; the message names the file and the first such row.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file. Expected features (V, F, D) as .npy. {_AGAIN}")
    size = path.stat().st_size
    with path.open("rb") as stream:
        if stream.read(6) != b"\x93NUMPY":  # else NumPy would advise to unpickle what it is
            raise ValueError(f"{path}: {size:,} bytes, is no array saved by np.save, expected (V, F, D). {_AGAIN}")
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"{path}: {size:,} bytes, cannot be read as .npy ({error}). {_AGAIN}") from error
    if array.ndim != 3 or 0 in array.shape:
        raise ValueError(f"{path}: shape {array.shape}, expected (V, F, D): videos, frames, numbers a frame. {_AGAIN}")
    if not np.issubdtype(array.dtype, np.floating):
        raise ValueError(f"{path}: {array.dtype}, expected floating-point numbers. {_AGAIN}")
    for start in range(0, len(array), 64):  # in pieces: the file may be larger than the memory
        bad = ~np.isfinite(array[start : start + 64])
        if bad.any():
            row, frame, _ = (int(i) for i in np.argwhere(bad)[0])
            raise ValueError(
                f"{path}: row {start + row}, frame {frame}: NaN or infinity, expected finite numbers. {_AGAIN}"
            )
    return array


@dataclass(frozen=True, eq=False)
class FeatureBatch:
    """Videos stacked for a model: features (B, F, D) float32 and the captions of each, B tuples."""

    features: Tensor
    captions: tuple[tuple[str, ...], ...]


class VideoFeatures(Dataset[tuple[Tensor, tuple[str, ...]]]):
    """Frame features with captions: item i is (features (F, D) float32, captions of that video).

    Args:
        array: (V, F, D), as `load_features` gives it; copied row by row when asked for.
        videos: V annotated videos; row i of `array` is video i.

    Raises:
        ValueError: the two differ in length, or the same id occurs twice.
    """

    def __init__(self, array: NDArray[Any], videos: Sequence[AnnotatedVideo]) -> None:
        if array.ndim != 3 or len(array) != len(videos):
            raise ValueError(
                f"array: shape {array.shape}, expected ({len(videos)}, F, D): one row for each of the "
                f"{len(videos):,} videos, from {listed([v.id for v in videos], 2)}. Pass the videos of the rows."
            )
        self._array, self.videos = array, tuple(videos)
        self._rows: NDArray[np.int64] = np.arange(len(array))
        if twice := [i for i, count in Counter(self.ids).items() if count > 1]:
            raise ValueError(f"videos: {listed(twice)}: found more than once, expected different ids.")

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(v.id for v in self.videos)

    @property
    def captions(self) -> tuple[tuple[str, ...], ...]:
        """The captions of each video."""
        return tuple(v.captions for v in self.videos)

    @property
    def features(self) -> Tensor:
        """All of them at once, (V, F, D) float32; a copy."""
        return torch.from_numpy(np.asarray(self._array[self._rows], dtype=np.float32))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> tuple[Tensor, tuple[str, ...]]:
        index = self._index(index)
        row = np.array(self._array[self._rows[index]], dtype=np.float32)
        return torch.from_numpy(row), self.videos[index].captions

    def subset(self, indices: Sequence[int]) -> VideoFeatures:
        """Some of the videos, on the same memory."""
        chosen = [self._index(i) for i in indices]
        part = VideoFeatures.__new__(VideoFeatures)
        part._array, part._rows = self._array, self._rows[chosen]
        part.videos = tuple(self.videos[i] for i in chosen)
        return part

    def split(self, name: str, shares: tuple[int, int, int] = SHARES) -> VideoFeatures:
        """The videos of "train", "val" or "test"; no source is in two of them, see `split_by_source`."""
        chosen = {video.id for video in split_by_source(self.videos, shares)[one_of("name", name, SPLITS)]}
        return self.subset([i for i, video in enumerate(self.videos) if video.id in chosen])

    def _index(self, index: int) -> int:
        if not -len(self) <= (i := integer("index", index)) < len(self):
            raise IndexError(f"index={i}: there are {len(self):,} videos.")
        return i % len(self)


def collate_features(items: Sequence[tuple[Tensor, tuple[str, ...]]]) -> FeatureBatch:
    """Stack items of `VideoFeatures`; the `collate_fn` for a `DataLoader`."""
    return FeatureBatch(torch.stack([f for f, _ in items]), tuple(captions for _, captions in items))


def msrvtt_features(
    folder: str | Path | None = None, split: str = "train", shares: tuple[int, int, int] = SHARES
) -> VideoFeatures:
    """VGG-16 features and captions of MSR-VTT's first 1,000 videos: one split that shares no source with the others.

    Its `features` are (V, 50, 128), its `captions` V tuples of 20 sentences, its `ids` as in "video0". With the
    default shares V is 707, 110 or 183.

    Args:
        folder: the data folder, with msrvtt-annotations/ and msrvtt-vgg128-1k/; default: VTRLIB_DATA.
        split: "train", "val" or "test".
        shares: per cent of each; see `split_of`.

    Raises:
        FileNotFoundError: a folder or file is missing; the message says where to get it.
        ValueError: as `read_msrvtt` and `load_features`; or rows without annotations.
    """
    one_of("split", split, SPLITS)
    name = "msrvtt-vgg128-1k"
    path = data_folder(name, folder) / card(name).files[0].name
    array = load_features(path)
    annotations = read_msrvtt(folder)
    ids = [f"video{row}" for row in range(len(array))]
    if strangers := [i for i in ids if i not in annotations]:
        raise ValueError(
            f"{path}: {len(strangers):,} of {len(ids):,} rows are videos without annotations: {listed(strangers)}. "
            "Expected train_val_annotation.zip of MSR-VTT beside it; the page 'Data cards' says where to get it."
        )
    return VideoFeatures(array, [annotations[i] for i in ids]).split(split, shares)


def stack_features(folder: str | Path, target: str | Path, videos: int) -> Path:
    """Stack video0.npy, video1.npy, …, one (F, D) array each, into one .npy (V, F, D), unchanged.

    Raises:
        FileNotFoundError: one of them is missing.
        ValueError: one differs in shape or type from the first, or cannot be read. No file is left behind.
    """
    paths = [Path(folder) / f"video{i}.npy" for i in range(integer("videos", videos, low=1))]
    if absent := [path.name for path in paths if not path.is_file()]:
        raise FileNotFoundError(f"{folder}: lacks {listed(absent)}. Expected video0.npy to {paths[-1].name}.")
    rows: list[NDArray[Any]] = []
    for path in paths:
        try:
            row = np.load(path, allow_pickle=False)
        except (ValueError, EOFError, OSError) as error:
            raise ValueError(f"{path}: cannot be read as .npy ({error}). Get the file again.") from error
        first = rows[0] if rows else row
        if row.ndim != 2 or row.shape != first.shape or row.dtype != first.dtype:
            expected = f"{first.shape} {first.dtype}, as {paths[0].name}" if rows else "(F, D)"
            raise ValueError(f"{path}: {row.shape} {row.dtype}, expected {expected}.")
        rows.append(row)
    target = Path(target)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as stream:
            np.save(stream, np.stack(rows), allow_pickle=False)
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)
    return target
