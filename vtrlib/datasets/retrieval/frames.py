"""Where frames of videos come from: files of a folder.

Frames stay uint8 until they are on the model's device, a quarter of the memory of
float32 and an eighth of the released code's float64; `vtrlib.clip.preprocess` makes
floats of them there.

Letters (see the notation page): V videos, F sampled frames of H×W pixels, S×S where they
are squares.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from vtrlib.check import integer, listed, nearest, one_of
from vtrlib.datasets.retrieval.frame_cache import FrameCache
from vtrlib.datasets.sampling import FILTERS, FITS, RULES
from vtrlib.datasets.video import VideoError, read_frames

__all__ = ["FrameSource", "VideoFolder", "find_videos"]

SUFFIXES = frozenset(".mp4 .avi .mkv .webm .mov .m4v .mpg .mpeg .flv .wmv .3gp".split())
_VERSION = 1  # of what `VideoFolder` computes; raise it with any change of a pixel


class FrameSource(Protocol):
    """Gives F frames of each video it is asked for, by id.

    Attributes:
        frames: F.
        settings: what the frames depend on, in words; equal settings, equal frames.
    """

    @property
    def frames(self) -> int: ...

    @property
    def settings(self) -> str: ...

    def __call__(self, videos: Sequence[str]) -> Tensor:
        """(V, F, 3, H, W) uint8, 0 … 255."""
        ...


def find_videos(
    folder: str | Path, ids: Iterable[str] | None = None
) -> dict[str, Path]:
    """The video files of a folder and the folders in it, by name without suffix.

    Args:
        folder: as MSR-VTT's, of video0.mp4, video1.mp4, …, all in one or in folders by
            split; or MSVD's.
        ids: only these, in this order; default: all, by name.

    Raises:
        FileNotFoundError: no such folder, or no video in it; or some of `ids` have no
            file, with their names.
        ValueError: an id has two files.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: there is no such folder of videos.")
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in SUFFIXES and not path.name.startswith("."):
            found.setdefault(path.stem, []).append(path)
    if not found:
        raise FileNotFoundError(
            f"{folder}: holds no video. Expected files such as video0.mp4; known "
            f"suffixes are {' '.join(sorted(SUFFIXES))}."
        )
    wanted = list(found) if ids is None else list(ids)
    if absent := [name for name in wanted if name not in found]:
        raise FileNotFoundError(
            f"{folder}: {len(absent):,} of {len(wanted):,} videos have no file: "
            f"{listed(absent)}. Expected {absent[0]}.mp4 or with another suffix. Get "
            "them, or leave out their captions."
        )
    if twice := [name for name in wanted if len(found[name]) > 1]:
        files = ", ".join(str(path.relative_to(folder)) for path in found[twice[0]])
        raise ValueError(f"{folder}: {listed(twice)}: several files, such as {files}.")
    return {name: found[name][0] for name in wanted}


class VideoFolder:
    """Frames of video files; see `read_frames`, which says what is wrong with a file.

    Nothing is ever filled in for a video that cannot be read.

    Args:
        folder: see `find_videos`.
        ids: the videos that will be asked for; default: all that are there.
        frames: F.
        size: S, side of the square that is cut out of the middle after scaling, as CLIP
            does; None: as in the file, so that videos of two sizes don't stack.
        rule: "ends", "middle", or "seconds" as DiscoVLA's released code; see
            `frame_positions`.
        fit, resample: see `resize_frames`.
        cache: a folder for decoded frames, see `FrameCache`; None: decode each time.
        allow_truncated: see `read_frames`.

    Attributes:
        paths: of the videos, by id.

    Raises:
        FileNotFoundError, ValueError: as `find_videos`; or an option out of range.
    """

    def __init__(
        self,
        folder: str | Path,
        ids: Collection[str] | None = None,
        *,
        frames: int = 12,
        size: int | None = 224,
        rule: str = "ends",
        fit: str = "crop",
        resample: str = "bicubic",
        cache: str | Path | None = None,
        allow_truncated: bool = False,
    ) -> None:
        self._frames = integer("frames", frames, low=1)
        self._size = None if size is None else integer("size", size, low=1)
        self._rule = one_of("rule", rule, RULES)
        self._fit = one_of("fit", fit, FITS)
        self._resample = one_of("resample", resample, FILTERS)
        self._truncated = bool(allow_truncated)
        self.paths = find_videos(folder, ids)
        self._cache = None if cache is None else FrameCache(cache, self.settings)

    @property
    def frames(self) -> int:
        return self._frames

    @property
    def settings(self) -> str:
        return json.dumps(
            {
                "version": _VERSION, "frames": self._frames, "size": self._size,
                "rule": self._rule, "fit": self._fit, "resample": self._resample,
                "allow_truncated": self._truncated,
            }
        )  # fmt: skip

    def __call__(self, videos: Sequence[str]) -> Tensor:
        """(V, F, 3, S, S) uint8.

        Raises:
            VideoError: a file is missing, empty, damaged or no video, with its path.
            KeyError: an id is none of this folder's.
            ValueError: no id; or, without a size, videos of several sizes.
        """
        if not videos or isinstance(videos, str):
            raise ValueError(f"videos={videos!r}: expected a list of ids, not empty.")
        found = [self._one(video) for video in videos]
        if len({frames.shape for frames in found}) > 1:
            sizes = sorted({tuple(frames.shape[-2:]) for frames in found})
            raise ValueError(f"videos of several sizes, {listed(map(str, sizes))}: pass size=.")
        return torch.stack(found)

    def faults(self, videos: Iterable[str] | None = None) -> list[str]:
        """What is wrong with each video that cannot be read; fills the cache.

        Worth its time before days of training.
        """
        lines = []
        for video in self.paths if videos is None else videos:
            try:
                self([video])
            except VideoError as error:
                lines.append(str(error))
        return lines

    def _one(self, video: str) -> Tensor:
        if video not in self.paths:
            expected = nearest(video, self.paths, "an id of this folder")
            raise KeyError(f"{video!r}: expected {expected}.")
        path = self.paths[video]

        def decode() -> Tensor:
            return read_frames(
                path, self._frames, self._size, rule=self._rule, fit=self._fit,
                resample=self._resample, allow_truncated=self._truncated,
            )  # fmt: skip

        return decode() if self._cache is None else self._cache.get(video, path, decode)
