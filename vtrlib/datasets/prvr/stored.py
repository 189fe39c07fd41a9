"""Features of many videos or captions as they are stored, whatever the kind of file.

Letters (see the notation page): F frames or L words of width D.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from vtrlib.check import listed
from vtrlib.datasets.prvr.layout import AGAIN

__all__ = ["Places", "StoredFeatures", "filled", "once", "present"]

Places = range | NDArray[np.int64]


class StoredFeatures(ABC):
    """Features of many videos or captions: opened, checked for shape, read when needed.

    Attributes:
        files: what they are read from; the first holds the numbers.
        lengths: rows of each item by its id, all at least 1.
        width: D.
        spare: ids of rows that belong to no item.
        item, row: what these are, for messages.
    """

    files: tuple[Path, ...]
    lengths: dict[str, int]
    width: int
    spare: tuple[str, ...] = ()
    item, row = "video", "frame"

    @abstractmethod
    def _rows(self, name: str) -> tuple[NDArray[Any], Places]:
        """Features (F, D) of an item, and the row of the file that each stands in."""

    def close(self) -> None:
        """Close what is open; `with` does it too."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read(self, name: str) -> NDArray[Any]:
        """Features (F, D) of an item.

        Raises:
            ValueError: one is NaN or infinite; the message names item, frame and row.
        """
        rows, places = self._rows(name)
        bad = np.flatnonzero(~np.isfinite(rows).all(1))
        if len(bad):
            k = int(bad[0])
            place = f"{self.item} {name!r}, {self.row} {k} (row {places[k]})"
            raise ValueError(
                f"{self.files[0]}: {place}: NaN or infinity, in {len(bad)} of its "
                f"{len(rows)} {self.row}s; expected finite numbers. {AGAIN}"
            )
        return rows


def present(paths: Iterable[Path], expected: str) -> None:
    """Raise unless these files are there."""
    if absent := [path for path in paths if not path.is_file()]:
        raise FileNotFoundError(
            f"{absent[0]}: there is no such file; {absent[0].parent} lacks "
            f"{listed(path.name for path in absent)}. Expected {expected}. {AGAIN}"
        )


def once(path: Path, names: Sequence[Any]) -> None:
    """Raise if a name stands twice."""
    if len(set(names)) < len(names):
        twice = [str(name) for name, n in Counter(names).items() if n > 1]
        raise ValueError(
            f"{path}: {listed(twice)}: found more than once, expected once. {AGAIN}"
        )


def filled(path: Path, lengths: dict[str, int], rows: str = "frames") -> None:
    """Raise if an item has no rows."""
    if empty := [name for name, length in lengths.items() if not length]:
        raise ValueError(
            f"{path}: {listed(empty)}: without {rows}, expected at least one. Take "
            "them out, here and in the caption file."
        )
