"""Frame features of a folder: from feature.bin or feature.hdf5, whichever is there."""

from __future__ import annotations

from pathlib import Path

from vtrlib.check import one_of
from vtrlib.datasets.prvr import binary, hdf5
from vtrlib.datasets.prvr.stored import StoredFeatures, present

__all__ = ["SOURCES", "feature_files", "open_features"]

SOURCES = ("auto", "bin", "hdf5")


def open_features(folder: str | Path, source: str = "auto") -> StoredFeatures:
    """The frame features of a folder.

    Args:
        folder: with feature.bin and its three text files, or feature.hdf5.
        source: which to read: "bin", "hdf5", or "auto", the first that is there.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: files that cannot be read or contradict each other, ids that occur
            twice or have no features, a video without frames.
    """
    files = feature_files(folder, source)
    if len(files) == 1:
        return hdf5.Hdf5Features(files[0])
    return binary.BinaryFeatures(files)


def feature_files(folder: str | Path, source: str = "auto") -> tuple[Path, ...]:
    """The files that `open_features` reads; the first holds the numbers.

    Raises:
        FileNotFoundError: one is missing.
    """
    folder = Path(folder)
    if one_of("source", source, SOURCES) == "auto":
        source = "bin" if (folder / binary.FILES[0]).is_file() else "hdf5"
    names = binary.FILES if source == "bin" else (hdf5.FILE,)
    files = tuple(folder / name for name in names)
    present(files, f"{', '.join(binary.FILES)}, or {hdf5.FILE}")
    return files
