"""feature.bin: rows of float32, and three text files that say what they are.

shape.txt holds "<rows> <width>", id.txt the frame id of every row, and video2frames.txt
a Python dictionary from video ids to lists of frame ids in order of time.
"""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vtrlib.check import listed
from vtrlib.datasets.prvr.layout import AGAIN
from vtrlib.datasets.prvr.stored import Places, StoredFeatures, filled, once

__all__ = ["FILES", "BinaryFeatures"]

FILES = ("feature.bin", "shape.txt", "id.txt", "video2frames.txt")


class BinaryFeatures(StoredFeatures):
    """Frame features in feature.bin, mapped into memory; see `StoredFeatures`."""

    def __init__(self, files: tuple[Path, ...]) -> None:
        self.files = files
        binary, shape, names, frames = files
        count, self.width = _shape(shape)
        size, expected = binary.stat().st_size, count * self.width * 4
        if size != expected:
            raise ValueError(
                f"{binary}: {size:,} bytes, expected {count:,} × {self.width} × 4 = "
                f"{expected:,} by {shape.name}: cut off, or of another set. {AGAIN}"
            )
        self._array = np.memmap(binary, "<f4", "r", shape=(count, self.width))
        ids = _names(names, count)
        self._places = _places(frames, names, ids)
        placed = set(np.concatenate([*self._places.values()]).tolist())
        self.spare = tuple(name for row, name in enumerate(ids) if row not in placed)
        self.lengths = {video: len(rows) for video, rows in self._places.items()}

    def _rows(self, name: str) -> tuple[NDArray[np.float32], Places]:
        places = self._places[name]
        first, last = int(places[0]), int(places[-1])
        if last - first + 1 == len(places) and (np.diff(places) == 1).all():
            return self._array[first : last + 1], places  # as they lie: no copy
        return self._array[places], places


def _shape(path: Path) -> tuple[int, int]:
    first = path.read_text("utf-8", errors="replace").partition("\n")[0]
    parts = first.split()
    whole = all(part.isascii() and part.isdigit() and int(part) for part in parts)
    if len(parts) != 2 or not whole:
        raise ValueError(
            f"{path}: line 1: found {first!r:.60}, expected '<rows> <width>', two "
            f"numbers above 0. {AGAIN}"
        )
    return int(parts[0]), int(parts[1])


def _names(path: Path, count: int) -> list[str]:
    """Frame ids in the order of the rows; Latin-1, as released, if not UTF-8."""
    data = path.read_bytes()
    try:
        names = [name.decode("utf-8") for name in data.split()]
    except UnicodeDecodeError:
        names = [name.decode("iso-8859-1") for name in data.split()]
    if len(names) != count:
        raise ValueError(
            f"{path}: {len(names):,} ids, expected {count:,} by shape.txt, one a row. "
            f"{AGAIN}"
        )
    once(path, names)
    return names


def _places(
    path: Path, id_file: Path, names: list[str]
) -> dict[str, NDArray[np.int64]]:
    """The rows of each video's frames in order of time."""
    frames = _video2frames(path)
    filled(path, {video: len(members) for video, members in frames.items()})
    row_of = {name: row for row, name in enumerate(names)}
    used = [frame for members in frames.values() for frame in members]
    once(path, used)
    if absent := [frame for frame in used if frame not in row_of]:
        raise ValueError(
            f"{path}: {len(absent):,} frames have no features: {listed(absent)}. "
            f"Expected only ids of {id_file.name}. {AGAIN}"
        )
    return {
        video: np.array([row_of[frame] for frame in members], dtype=np.int64)
        for video, members in frames.items()
    }


def _video2frames(path: Path) -> dict[str, list[str]]:
    """The one dictionary of the file; parsed as a literal: nothing in it is run."""
    expected = f"expected {{'<video id>': ['<frame id>', …], …}}, no more. {AGAIN}"
    try:
        tree = ast.parse(path.read_text("utf-8").strip(), path.name, mode="eval")
        value = ast.literal_eval(tree)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        reason = str(error) or type(error).__name__
        raise ValueError(
            f"{path}: is no dictionary of names ({reason:.100}); {expected}"
        ) from None
    if not isinstance(value, dict) or not value:
        raise ValueError(f"{path}: found {value!r:.60}, {expected}")
    for video, members in value.items():
        good = isinstance(video, str) and isinstance(members, (list, tuple))
        if not good or not all(isinstance(frame, str) for frame in members):
            raise ValueError(f"{path}: {video!r:.60}: {members!r:.60}, {expected}")
    assert isinstance(tree.body, ast.Dict)
    # The dictionary itself has dropped all but the last of equal keys.
    once(path, [k.value for k in tree.body.keys if isinstance(k, ast.Constant)])
    return value
