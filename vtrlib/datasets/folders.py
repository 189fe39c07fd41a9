"""Where the real data are on this machine, and whether they are what the data cards say."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from vtrlib.datasets.cards import CARDS, card

__all__ = ["data_folder", "verify"]

_VARIABLE = "VTRLIB_DATA"


def data_folder(name: str, folder: str | Path | None = None) -> Path:
    """The folder with the files of the dataset `name`.

    Args:
        name: a key of `vtrlib.datasets.CARDS`.
        folder: the data folder, which holds one folder per dataset, or that dataset's own folder; default: the
            environment variable VTRLIB_DATA.

    Raises:
        ValueError: no dataset has that name.
        FileNotFoundError: the dataset is not there, or neither `folder` nor VTRLIB_DATA says where; the message says
            where to get it.
    """
    entry = card(name)
    given = folder if folder is not None else os.environ.get(_VARIABLE) or None
    said = "folder" if folder is not None else _VARIABLE
    repositories = " and ".join(f"https://github.com/{repository} ({path})" for repository, _, path in entry.origin)
    advice = f"Get its files from {repositories}; the page 'Data cards' has their sha256."
    if given is None:
        raise FileNotFoundError(
            f"{_VARIABLE}: not set. Expected the folder that holds {name}/, or the argument folder=. {advice}"
        )
    root = Path(given)
    if not root.is_dir():
        raise FileNotFoundError(f"{said}={str(root)!r}: there is no such folder. Expected one with {name}/. {advice}")
    if (root / name).is_dir():
        return root / name
    if any((root / other).is_dir() for other in CARDS):
        raise FileNotFoundError(f"{said}={str(root)!r}: holds no {name}/. {advice}")
    return root


def verify(folder: str | Path | None = None, *names: str) -> list[str]:
    """What differs from the data cards, one line per file that is missing or not the same; empty if all is well.

    Args:
        folder: as for `data_folder`.
        names: the datasets to check; default: those that are there.

    Raises:
        ValueError, FileNotFoundError: as `data_folder` does.
    """
    if not names:
        given = folder if folder is not None else os.environ.get(_VARIABLE)
        names = tuple(name for name in CARDS if given and (Path(given) / name).is_dir())
        if not names:
            data_folder(next(iter(CARDS)), folder)  # says what is wrong with the folder, if something is
            raise FileNotFoundError(
                f"folder={str(given)!r}: holds none of {', '.join(CARDS)}. Expected the folder above them; to check "
                "the files of one dataset in a folder of its own, name it: verify(folder, 'msrvtt-annotations')."
            )
    faults = []
    for name in names:
        place = data_folder(name, folder)
        for file in card(name).files:
            path = place / file.name
            if not path.is_file():
                faults.append(f"{path}: missing, expected {file.bytes:,} bytes.")
                continue
            size = path.stat().st_size
            if size != file.bytes:
                faults.append(f"{path}: {size:,} bytes, expected {file.bytes:,}. Get it again.")
                continue
            with path.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
            if digest != file.sha256:
                faults.append(f"{path}: sha256 {digest}, expected {file.sha256}. Get it again.")
    return faults
