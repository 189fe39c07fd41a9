"""Captions of partial relevance: a caption file, and what is known beyond it.

A line of a caption file is `<video id>#<anything> <sentence>`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vtrlib.check import listed
from vtrlib.datasets.prvr.layout import AGAIN

__all__ = ["Caption", "Truth", "read_captions", "read_truth", "video_ids"]


@dataclass(frozen=True)
class Caption:
    """A sentence used as a query.

    Attributes:
        id: unlike all others, as in "v_42#enc#0"; the video's id stands before "#".
        text: the sentence.
    """

    id: str
    text: str

    @property
    def video(self) -> str:
        """The id of the annotated video."""
        return self.id.split("#", 1)[0]


@dataclass(frozen=True)
class Truth:
    """What is known of a caption beyond the video it was written for.

    Attributes:
        videos: ids of all videos of its split in which it is true, its own included.
        moment: (start, end), the frames start, …, end−1 of its own video that it
            describes, or None.
    """

    videos: tuple[str, ...]
    moment: tuple[int, int] | None = None


def video_ids(captions: Iterable[Caption]) -> tuple[str, ...]:
    """The gallery: every video once, in the order of the captions."""
    return tuple(dict.fromkeys(caption.video for caption in captions))


def read_captions(path: str | Path) -> tuple[Caption, ...]:
    """The captions of a file, in its order.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no captions, or bytes that are no UTF-8; or, with the number of the
            line, one without "#", video or sentence, or an id that occurs twice.
    """
    path = Path(path)
    if not path.is_file():
        there = listed(sorted(p.name for p in path.parent.glob("*.caption.txt")))
        raise FileNotFoundError(
            f"{path}: there is no such file, only {there or 'none'}. Expected captions "
            f"by line: <video id>#<anything> <sentence>. {AGAIN}"
        )
    found: dict[str, int] = {}
    captions = []
    try:
        with path.open(encoding="utf-8-sig") as stream:  # U+2028 ends no line here
            for number, line in enumerate(stream, 1):
                caption = _caption(f"{path}: line {number}", line)
                if (first := found.setdefault(caption.id, number)) != number:
                    raise ValueError(
                        f"{path}: line {number}: caption id {caption.id!r} also stands "
                        f"in line {first}, expected once. Give each caption its own id."
                    )
                captions.append(caption)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: no UTF-8 text ({error}). {AGAIN}") from None
    if not captions:
        raise ValueError(f"{path}: is empty, expected a caption a line. {AGAIN}")
    return tuple(captions)


def _caption(place: str, line: str) -> Caption:
    name, _, text = line.strip().partition(" ")
    if "#" not in name or name.startswith("#"):
        raise ValueError(
            f"{place}: found {line.strip()!r:.60}, expected '<video id>#<anything> "
            "<sentence>'. Mend the line or take it out."
        )
    if not text.strip():
        raise ValueError(
            f"{place}: caption {name!r} has no sentence, expected one after the first "
            "space. Mend the line or take it out."
        )
    return Caption(name, text)


def read_truth(path: str | Path, captions: Sequence[Caption]) -> tuple[Truth, ...]:
    """What is known of each of these captions, in their order, from a `.truth.json`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is no JSON, lacks a caption or has others, or an entry says
            something else than a `Truth` about videos of the split.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: there is no such file. Expected the true positives of every "
            "caption; without it each caption has only its annotated video."
        )
    try:
        entries = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: cannot be read as JSON ({error}). {AGAIN}") from None
    ids = {caption.id for caption in captions}
    if not isinstance(entries, dict) or entries.keys() != ids:
        odd = sorted(ids ^ set(entries)) if isinstance(entries, dict) else ["no object"]
        raise ValueError(
            f"{path}: differs from the caption file in {listed(odd)}; expected an "
            f"entry for each caption and no other. {AGAIN}"
        )
    gallery = set(video_ids(captions))
    return tuple(
        _truth(f"{path}: {c.id}", entries[c.id], c.video, gallery) for c in captions
    )


def write_truth(path: Path, truths: dict[str, Truth]) -> None:
    """The reverse of `read_truth`."""
    entries = {name: asdict(truth) for name, truth in truths.items()}
    path.write_text(json.dumps(entries) + "\n", encoding="utf-8")


def _truth(place: str, entry: Any, own: str, gallery: set[str]) -> Truth:
    videos = entry.get("videos") if isinstance(entry, dict) else None
    if not isinstance(videos, list) or not all(isinstance(v, str) for v in videos):
        raise ValueError(f"{place}: found {entry!r:.60}, expected a `Truth`. {AGAIN}")
    if strangers := sorted(set(videos) - gallery):
        raise ValueError(f"{place}: {listed(strangers)}: not in the split. {AGAIN}")
    if own not in videos or len(set(videos)) < len(videos):
        raise ValueError(
            f"{place}: videos {listed(videos)}: expected each once, and {own} among "
            f"them. {AGAIN}"
        )
    moment = entry.get("moment")
    if moment is None:
        return Truth(tuple(videos))
    whole = isinstance(moment, list) and all(type(f) is int for f in moment)
    if not whole or len(moment) != 2 or not 0 <= moment[0] < moment[1]:
        raise ValueError(
            f"{place}: moment {moment!r:.40}, expected [start, end] with 0 ≤ start < "
            f"end. {AGAIN}"
        )
    return Truth(tuple(videos), (moment[0], moment[1]))
