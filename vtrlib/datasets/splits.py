"""Splits that share no source: two clips cut from one film never stand on both sides."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Protocol, TypeVar
from urllib.parse import parse_qs, urlsplit

from vtrlib.check import integer

__all__ = ["SHARES", "SPLITS", "hold_out", "source_of", "split_by_source", "split_of"]

SPLITS = ("train", "val", "test")
SHARES = (70, 10, 20)


class HasSource(Protocol):
    """Anything cut from a source, such as `AnnotatedVideo`."""

    @property
    def source(self) -> str: ...


Clip = TypeVar("Clip", bound=HasSource)


def source_of(url: str) -> str:
    """What a clip was cut from: the video id of a YouTube address, however it is written; else the address itself."""
    parts = urlsplit(url.strip())
    host = (parts.hostname or "").removeprefix("www.").removeprefix("m.")
    if host == "youtu.be" and len(parts.path) > 1:
        return parts.path.split("/")[1]
    if host in ("youtube.com", "youtube-nocookie.com"):
        if ids := parse_qs(parts.query).get("v"):
            return ids[0]
        place, _, rest = parts.path.lstrip("/").partition("/")
        if place in ("embed", "shorts", "v", "live") and rest:
            return rest.split("/")[0]
    return url.strip()


def split_of(source: str, shares: tuple[int, int, int] = SHARES) -> str:
    """The split of a source, "train", "val" or "test", from its name alone: the same on every machine, for ever.

    The first 8 bytes of sha256(source), read as a number u in [0, 1), fall into the split whose share holds u. So a
    video keeps its split when others are added, and clips of one source are never apart.

    Args:
        source: as `source_of` gives it.
        shares: per cent of train, val and test; they sum to 100.

    Raises:
        ValueError: the shares do not sum to 100, or one is negative.
    """
    if len(shares) != len(SPLITS) or sum(shares) != 100 or min(shares) < 0:
        raise ValueError(f"shares={shares}: expected three numbers from 0 that sum to 100, such as {SHARES}.")
    # In integers, so that no rounding decides: u < (cumulative share) / 100.
    u = int.from_bytes(hashlib.sha256(source.encode()).digest()[:8], "big") * 100
    if u < shares[0] << 64:
        return SPLITS[0]
    return SPLITS[1] if u < (shares[0] + shares[1]) << 64 else SPLITS[2]


def split_by_source(clips: Iterable[Clip], shares: tuple[int, int, int] = SHARES) -> dict[str, tuple[Clip, ...]]:
    """Clips by split, in their order; no source is in two splits. See `split_of`.

    Sizes are the shares only on average, since whole sources move and each is drawn by itself.
    """
    found: dict[str, list[Clip]] = {name: [] for name in SPLITS}
    for clip in clips:
        found[split_of(clip.source, shares)].append(clip)
    return {name: tuple(members) for name, members in found.items()}


def hold_out(clips: Iterable[Clip], number: int) -> tuple[tuple[Clip, ...], tuple[Clip, ...]]:
    """Clips to train on, and about `number` of them to validate on, from the names of their sources alone.

    Sources go to validation whole, in the order of sha256(source), each that still fits. So no source is on both
    sides, and the same clips are held out on every machine and for every seed of a training.

    Args:
        clips: of a training split.
        number: at most so many are held out; fewer where no source is small enough for what is left.

    Returns:
        The rest and the held out ones, in their order.

    Raises:
        ValueError: nothing would be left to train on, or nothing be held out.
    """
    members: dict[str, list[Clip]] = {}
    clips = tuple(clips)
    for clip in clips:
        members.setdefault(clip.source, []).append(clip)
    left, held = integer("number", number, low=1), set[str]()
    for source in sorted(members, key=lambda name: hashlib.sha256(name.encode()).digest()):
        if len(members[source]) <= left:
            held.add(source)
            left -= len(members[source])
    parts = tuple(tuple(c for c in clips if (c.source in held) == side) for side in (False, True))
    if not all(parts):
        raise ValueError(
            f"number={number}: leaves {len(parts[0]):,} of {len(clips):,} clips to train on and holds {len(parts[1]):,} "
            f"out, expected some of both. They are of {len(members):,} sources, which stay whole."
        )
    return parts[0], parts[1]
