"""Features in HDF5: at the root of the file a dataset for each video or caption."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from vtrlib.check import listed
from vtrlib.datasets.prvr.layout import AGAIN
from vtrlib.datasets.prvr.stored import Places, StoredFeatures, filled, present

__all__ = ["FILE", "Hdf5Features", "StoredWords", "open_hdf5"]

FILE = "feature.hdf5"


class Hdf5Features(StoredFeatures):
    """One dataset (F, D) for each item, as the released converter writes them."""

    def __init__(self, path: Path, names: Iterable[str] | None = None) -> None:
        self.files = (path,)
        self._store = open_hdf5(path)
        self.ids = tuple(self._store)
        chosen = self.ids if names is None else tuple(names)
        self._present(chosen)
        shapes = {name: _sized(path, self._store, name) for name in chosen}
        self.lengths = {name: shape[0] for name, shape in shapes.items()}
        filled(path, self.lengths, f"{self.row}s")
        self.width = _one_width(path, shapes)

    def _present(self, names: Sequence[str]) -> None:
        path = self.files[0]
        if absent := sorted(set(names).difference(self.ids)):
            raise ValueError(
                f"{path}: lacks {len(absent):,} of {len(names):,} {self.item}s: "
                f"{listed(absent)}. Expected features for each: make them, or take "
                f"these {self.item}s out."
            )
        if not names:
            raise ValueError(f"{path}: holds no {self.item}. {AGAIN}")

    def close(self) -> None:
        self._store.close()

    def _rows(self, name: str) -> tuple[NDArray[Any], Places]:
        try:
            rows: NDArray[Any] = self._store[name][...]
        except OSError as error:  # a damaged piece of a file whose head is whole
            raise _unreadable(self.files[0], error) from None
        return rows, range(len(rows))


class StoredWords(Hdf5Features):
    """Query features: for each caption id a dataset (L, D), one row a word.

    Attributes:
        ids: of all captions that have features, asked for or not.
    """

    item, row = "caption", "word"


def open_hdf5(path: Path) -> Any:
    """An HDF5 file to read from; to be closed before processes fork, who share it.

    Raises:
        FileNotFoundError: no such file. ValueError: it cannot be read as HDF5.
    """
    present([path], "features in HDF5")
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise _unreadable(path, error) from None


def _sized(path: Path, store: Any, name: str) -> tuple[int, int]:
    try:
        entry = store[name]
    except KeyError:
        raise ValueError(f"{path}: {name!r}: a link to nowhere. {AGAIN}") from None
    kind = getattr(entry, "dtype", None)
    if kind is None or entry.ndim != 2 or not np.issubdtype(kind, np.floating):
        found = "a group" if kind is None else f"{entry.shape} {kind}"
        raise ValueError(
            f"{path}: {name!r}: found {found}, expected rows of floating-point "
            f"numbers. {AGAIN}"
        )
    return int(entry.shape[0]), int(entry.shape[1])


def _unreadable(path: Path, error: OSError) -> ValueError:
    size = path.stat().st_size
    return ValueError(
        f"{path}: {size:,} bytes, cannot be read as HDF5 ({error}). {AGAIN}"
    )


def _one_width(path: Path, shapes: dict[str, tuple[int, int]]) -> int:
    (width, _), *others = Counter(shape[1] for shape in shapes.values()).most_common()
    if others or not width:
        odd = [name for name, shape in shapes.items() if shape[1] != width] or shapes
        raise ValueError(
            f"{path}: {listed(odd)}: of another width than {width}, that of most; "
            f"expected one above 0 for all. {AGAIN}"
        )
    return width
