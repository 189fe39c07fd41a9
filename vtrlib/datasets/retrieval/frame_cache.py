"""Decoded frames on disk, so that a video is decoded once and not at every epoch."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

__all__ = ["FrameCache"]


class FrameCache:
    """A file of uint8 frames for each video, below a folder for each choice of settings.

    A file is used only if it is whole, of these settings and of the video as it is now:
    same size and time of change, or, where only the time differs, same sha256. Else the
    video is decoded again. A file appears whole or not at all, so that processes may
    share a cache.

    Args:
        place: the folder of all caches; made if need be.
        settings: what the frames depend on beside the video.
    """

    def __init__(self, place: str | Path, settings: str) -> None:
        self._settings = settings
        self.folder = Path(place) / hashlib.sha256(settings.encode()).hexdigest()[:16]

    def get(self, video: str, source: Path, decode: Callable[[], Tensor]) -> Tensor:
        """Frames of a video, from the cache or by decoding it now.

        Args:
            video: its id.
            source: its file.
            decode: gives its frames, uint8; what it raises is raised, nothing is kept.
        """
        path = self.folder / f"{quote(video, safe='')}.safetensors"
        try:
            before = source.stat()
        except OSError:
            return decode()  # says what is wrong with the file
        found = self._read(path, video)
        if found is not None:
            frames, of = found
            if of["bytes"] == before.st_size:
                if of["changed"] == before.st_mtime_ns:
                    return frames
                if of["sha256"] == _sha256(source):  # copied, or touched
                    self._write(path, video, source, before, frames)
                    return frames
        frames = decode()
        if frames.dtype != torch.uint8:
            raise TypeError(f"{video}: {frames.dtype}, expected frames of uint8.")
        after = source.stat()
        same = (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
        if same:  # else it changed while it was decoded
            self._write(path, video, source, before, frames)
        return frames

    def _read(self, path: Path, video: str) -> tuple[Tensor, dict[str, Any]] | None:
        try:
            with safe_open(path, "pt") as stored:
                of = json.loads(stored.metadata()["of"])
                frames: Tensor = stored.get_tensor("frames")
            good = of["settings"] == self._settings and of["video"] == video
            good = good and of["crc32"] == _crc32(frames)
            good = good and {"bytes", "changed", "sha256"} <= of.keys()
        except (OSError, SafetensorError, ValueError, KeyError, TypeError):
            return None  # not there, cut off, or none of ours
        return (frames, of) if good else None

    def _write(
        self, path: Path, video: str, source: Path, stat: os.stat_result, frames: Tensor
    ) -> None:
        frames = frames.contiguous()
        of = {
            "settings": self._settings, "video": video, "bytes": stat.st_size,
            "changed": stat.st_mtime_ns, "sha256": _sha256(source), "crc32": _crc32(frames),
        }  # fmt: skip
        self.folder.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{secrets.token_hex(8)}.part")
        try:
            part.write_bytes(save({"frames": frames}, {"of": json.dumps(of)}))
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)


def _crc32(frames: Tensor) -> int:
    return zlib.crc32(frames.contiguous().numpy().data)


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
