"""Videos and the sentences people wrote about them: MSVD as it is distributed.

Chen and Dolan, Collecting Highly Parallel Data for Paraphrase Evaluation, ACL 2011.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from vtrlib.check import listed
from vtrlib.datasets.folders import data_folder

__all__ = [
    "Captioned", "CaptionedVideo", "caption_pairs", "read_captions", "read_msvd",
]  # fmt: skip

_AGAIN = "Get the file again; the page 'Data cards' has its origin and sha256."
_LISTS = {"train": "train_list.txt", "val": "val_list.txt", "test": "test_list.txt"}


class Captioned(Protocol):
    """A video with captions, such as `AnnotatedVideo` or `CaptionedVideo`."""

    @property
    def id(self) -> str: ...

    @property
    def captions(self) -> tuple[str, ...]: ...


@dataclass(frozen=True)
class CaptionedVideo:
    """A video and its captions, at least one, in the order of the file."""

    id: str
    captions: tuple[str, ...]

    @property
    def source(self) -> str:
        """The film it was cut from: an id of MSVD is a YouTube id, start and end."""
        parts = self.id.rsplit("_", 2)
        cut = len(parts) == 3 and all(part.isdigit() for part in parts[1:])
        return parts[0] if cut else self.id


def caption_pairs(videos: Iterable[Captioned]) -> tuple[tuple[str, str], ...]:
    """(video id, caption) of every caption, in order.

    Raises:
        ValueError: no video; an id twice; a video without a caption or with an empty
            one. The message names the videos.
    """
    videos = list(videos)
    if not videos:
        raise ValueError("videos: there is none, expected at least one with captions.")
    if twice := repeated(video.id for video in videos):
        raise ValueError(f"videos: {listed(twice)}: found more than once.")
    if silent := [v.id for v in videos if not v.captions]:
        raise ValueError(
            f"videos: {listed(silent)}: no caption, expected at least one each. Leave "
            "these videos out, or get their captions."
        )
    if empty := [v.id for v in videos if not all(c.strip() for c in v.captions)]:
        raise ValueError(f"videos: {listed(empty)}: an empty caption. Leave it out.")
    return tuple((v.id, c) for v in videos for c in v.captions)


def read_captions(path: str | Path) -> dict[str, CaptionedVideo]:
    """Videos of a JSON object, id to list of captions, in its order.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it cannot be read, or holds something else; the message names the
            entry.
    """
    path = Path(path)
    data = read_object(path, _AGAIN)
    for name, captions in data.items():
        texts = captions if isinstance(captions, list) else []
        if not texts or not all(isinstance(c, str) and c.strip() for c in texts):
            raise ValueError(
                f"{path}: {name}: found {captions!r:.60}, expected a list of captions, "
                f"none empty. {_AGAIN}"
            )
    if not data:
        raise ValueError(f"{path}: holds no videos. {_AGAIN}")
    return {name: CaptionedVideo(name, tuple(c)) for name, c in data.items()}


def read_msvd(folder: str | Path | None = None) -> dict[str, tuple[CaptionedVideo, ...]]:
    """MSVD's "train", "val" and "test" videos with all their captions.

    They number 1,200, 100 and 670. The task is scored with every caption a query.

    Args:
        folder: as for `data_folder("msvd-annotations", folder)`.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: as `read_captions`; or a list is empty, repeats an id, shares one
            with another list, or names a video without captions.
    """
    place = data_folder("msvd-annotations", folder)
    path = place / "captions_msvd.json"
    videos, taken = read_captions(path), dict[str, str]()
    splits = {}
    for split, name in _LISTS.items():
        names = _lines(place / name)
        for number, video in names:
            if video in taken:
                raise ValueError(
                    f"{place / name}: line {number}: {video}: also in {taken[video]}, "
                    f"expected once in one list. {_AGAIN}"
                )
            taken[video] = name
        if absent := [video for _, video in names if video not in videos]:
            raise ValueError(
                f"{place / name}: {listed(absent)}: no captions in {path.name}. {_AGAIN}"
            )
        splits[split] = tuple(videos[video] for _, video in names)
    return splits


def read_object(path: Path, advice: str) -> dict[str, Any]:
    """What a JSON file holds that is one object; a key that stands twice is refused."""

    def once(entries: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(entries)
        if len(found) < len(entries):
            raise ValueError(f"found more than once: {listed(repeated(k for k, _ in entries))}")
        return found

    try:
        data = json.loads(path.read_bytes(), object_pairs_hook=once)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: there is no such file. {advice}") from None
    except (ValueError, RecursionError) as error:  # broken JSON or UTF-8, or a key twice
        raise ValueError(f"{path}: cannot be read ({error}). {advice}") from error
    if not isinstance(data, dict):
        raise ValueError(  # noqa: TRY004  the file is at fault
            f"{path}: found {data!r:.60}, expected one object. {advice}"
        )
    return data


def repeated(names: Iterable[str]) -> list[str]:
    """The names that occur more than once, in order."""
    return [name for name, count in Counter(names).items() if count > 1]


def _lines(path: Path) -> list[tuple[int, str]]:
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: there is no such file. {_AGAIN}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: cannot be read ({error}). {_AGAIN}") from error
    found = [(n, line.strip()) for n, line in enumerate(lines, 1) if line.strip()]
    if not found:
        raise ValueError(f"{path}: no line, expected a video id on each. {_AGAIN}")
    return found
