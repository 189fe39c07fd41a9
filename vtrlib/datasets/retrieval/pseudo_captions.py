"""Pseudo captions as DiscoVLA's released code reads them: one JSON object.

Its keys are `f"{video_id}_{caption}"`, its values lists of F sentences, one for each
sampled frame in order of time (reference row 27). The released loader passes over pairs
that the file lacks and believes every length; this one says what is wrong.

Letters (see the notation page): F sampled frames.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vtrlib.check import integer, listed
from vtrlib.datasets.retrieval.captions import Captioned, caption_pairs, read_object

__all__ = [
    "PseudoCaptions", "check_pseudo_captions", "pseudo_key", "read_pseudo_captions",
    "write_json", "write_pseudo_captions",
]  # fmt: skip

PseudoCaptions = Mapping[str, Sequence[str]]

_ADVICE = (
    "Expected one object, video_id + '_' + caption to a list of F sentences: make the "
    "file again, for instance with vtrlib.datasets.retrieval.generate."
)


def pseudo_key(video_id: str, caption: str) -> str:
    """The key under which the released format keeps a pair's pseudo captions."""
    return f"{video_id}_{caption}"


def read_pseudo_captions(
    path: str | Path,
    videos: Iterable[Captioned] | None = None,
    frames: int = 12,
    *,
    extra: bool = False,
) -> dict[str, tuple[str, ...]]:
    """Pseudo captions by `pseudo_key`, each F sentences.

    Args:
        path: of the JSON.
        videos: hold the file against these: it must have every caption of each.
        frames: F that every entry must have.
        extra: True takes a file that also has entries of other pairs, and leaves those
            out; such as the one for 9,000 videos where 7,010 are trained on.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it cannot be read, has a key twice, or `check_pseudo_captions` finds
            a fault.
    """
    path = Path(path)
    data: dict[str, Any] = read_object(path, _ADVICE)
    if videos is not None:
        videos = list(videos)
        if extra:
            wanted = {pseudo_key(*pair) for pair in caption_pairs(videos)}
            data = {key: value for key, value in data.items() if key in wanted}
    check_pseudo_captions(data, videos, frames, source=str(path))
    return {key: tuple(value) for key, value in data.items()}


def check_pseudo_captions(
    captions: Mapping[str, Any],
    videos: Iterable[Captioned] | None,
    frames: int,
    *,
    source: str = "pseudo captions",
) -> None:
    """Raise unless `captions` are F sentences for every caption of every video.

    Args:
        captions: by `pseudo_key`.
        videos: whose they must be, all of them and no others; None: do not ask whose.
        frames: F.
        source: what the message calls them.

    Raises:
        ValueError: no entry at all; entries that are no lists, have another number of
            sentences than F, or an empty one; captions without an entry; entries of no
            caption; two pairs that share a key. One line for each kind of fault, with
            the keys.
    """
    integer("frames", frames, low=1)
    kinds: dict[str, list[str]] = {}

    def fault(kind: str, what: str) -> None:
        kinds.setdefault(kind, []).append(what)

    for key, texts in captions.items():
        if not isinstance(texts, (list, tuple)) or not all(isinstance(t, str) for t in texts):
            fault(f"no list of {frames} sentences", f"{key!r} ({texts!r:.40})")
        elif len(texts) != frames:
            fault(f"another number of sentences than {frames}", f"{key!r} ({len(texts)})")
        elif empty := [n for n, text in enumerate(texts) if not text.strip()]:
            fault("an empty sentence", f"{key!r} (frame {', '.join(map(str, empty))})")
    if not captions:
        fault("nothing", "no entry at all")
    if videos is not None:
        owner: dict[str, tuple[str, str]] = {}
        for pair in caption_pairs(videos):
            first = owner.setdefault(pseudo_key(*pair), pair)
            if first != pair:
                fault("one key for two pairs", f"{first} and {pair}")
        absent: dict[str, list[str]] = {}
        for key, (video, caption) in owner.items():
            if key not in captions:
                absent.setdefault(video, []).append(caption)
        for video, lacking in absent.items():
            fault("missing", f"{video} ({len(lacking)}, such as {lacking[0]!r})")
        for key in captions:
            if key not in owner:
                fault("of no caption of these videos", repr(key))
    if kinds:
        lines = [f"{source}: {kind}: {listed(found, 3)}." for kind, found in kinds.items()]
        raise ValueError("\n".join([*lines, _ADVICE]))


def write_pseudo_captions(path: str | Path, captions: PseudoCaptions, frames: int) -> Path:
    """Write pseudo captions, whole or not at all.

    Raises:
        ValueError: `check_pseudo_captions` finds a fault; nothing is written.
    """
    check_pseudo_captions(captions, None, frames)
    return write_json(path, {key: list(texts) for key, texts in captions.items()})


def write_json(path: str | Path, data: Any) -> Path:
    """Write JSON under another name first, so that `path` is never half of it."""
    path = Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("w", encoding="utf-8") as stream:
            json.dump(data, stream, ensure_ascii=False, indent=0)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return path
