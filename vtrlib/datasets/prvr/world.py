"""Moving Digits in the layout of the real collections, so that one code path reads all.

Frame features and token states of the tiny CLIP stand where the papers have I3D and
RoBERTa. A moment of an untrimmed video is what one caption describes.

Letters (see the notation page): F frames, L tokens, D wide.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from vtrlib.check import integer, one_of
from vtrlib.datasets.prvr.captions import Caption, Truth
from vtrlib.datasets.prvr.layout import Layout
from vtrlib.datasets.prvr.writer import made_from, write_layout
from vtrlib.world import WORLD_VERSION, MovingDigits, card

if TYPE_CHECKING:  # transformers takes seconds to import, and a cache needs none of it
    from vtrlib.clip import Towers

__all__ = ["encode_frames", "encode_texts", "write_world"]

VERSION = 1  # of what this module computes; raise it with any change of a number
_FRAMES = 128  # at a time: small enough for the processor's cache
_TEXTS = 256

Floats = NDArray[np.float32]


def write_world(
    root: str | Path, splits: Sequence[str] = ("train", "val", "test"), *,
    towers: Towers | None = None, collection: str = "world", paraphrases: int = 1,
    sizes: Mapping[str, int] | None = None, domain: str = "all", seed: int = 0,
    batch_size: int = 32,
) -> Layout:  # fmt: skip
    """Write the untrimmed view of Moving Digits as a collection; once, then it is kept.

    Each captioned moment gives `paraphrases` captions. One is the default: real
    collections describe a moment once, the ceilings of `bayes_ceiling` are for one, and
    a loss that pushes captions of a video apart should not be fed paraphrases of one
    another. A `Truth` says for each caption which videos it is true in, and when.

    Args:
        root: the folder above the collection.
        splits: which to write.
        towers: what encodes frames and sentences; default: the tiny CLIP of the book.
        collection: its name.
        paraphrases: wordings of each moment, 1 to 3.
        sizes: for some splits, only so many of the first videos.
        domain, seed: of the world; see `MovingDigits`.
        batch_size: videos rendered at a time. Features depend on it by rounding alone.

    Returns:
        The layout. Frame features are `Towers.encode_frames` (F, D), unit vectors;
        words are `Towers.token_states` (L, D) of all tokens, those of start and end
        included.

    Raises:
        FileExistsError: a collection of that name is there that this did not make.
        ValueError, TypeError: an argument out of range; see `MovingDigits`.
    """
    integer("paraphrases", paraphrases, low=1, high=card.PARAPHRASES)
    integer("batch_size", batch_size, low=1)
    worlds = {
        name: MovingDigits(
            name, "untrimmed", domain=domain, seed=seed, size=(sizes or {}).get(name)
        )
        for name in (one_of("splits", split, card.SPLITS) for split in splits)
    }
    if towers is None:
        from vtrlib import clip

        towers = clip.load("tiny").frozen()
    made = {
        "what": "Moving Digits, untrimmed, encoded by CLIP",
        "version": [VERSION, WORLD_VERSION],
        "towers": _weights(towers),  # no name: that may be a path of this machine
        "settings": [repr(world) for world in worlds.values()] + [paraphrases],
    }
    layout, found = Layout(Path(root), collection, "clip"), None
    if layout.folder.is_dir():
        found = made_from(layout.folder)
        if found == made:
            return layout
    ours = isinstance(found, dict) and found.get("what") == made["what"]
    asked = {name: _queries(world, paraphrases) for name, world in worlds.items()}
    captions = {n: [c for c, _ in rows] for n, rows in asked.items()}
    return write_layout(
        root, collection, feature="clip", made=made, replace=ours,
        frames=_videos(worlds, towers, batch_size),
        captions=captions,
        words=_words([c for members in captions.values() for c in members], towers),
        truth={n: {c.id: t for c, t in rows} for n, rows in asked.items()},
    )  # fmt: skip


@torch.inference_mode()
def encode_frames(towers: Towers, frames: torch.Tensor) -> Floats:
    """Frames (..., 3, H, W) uint8 to unit vectors (..., D); equal frames only once.

    Half the frames of an untrimmed video repeat another one, pixel by pixel.
    """
    flat = frames.reshape(-1, *frames.shape[-3:])
    rows: dict[bytes, int] = {}
    place = [rows.setdefault(f.tobytes(), len(rows)) for f in flat.cpu().numpy()]
    first = np.unique(place, return_index=True)[1]
    unique = flat[torch.from_numpy(first)]
    parts = torch.split(unique, _FRAMES)
    found = torch.cat([towers.encode_frames(part) for part in parts])
    encoded: Floats = found.float().cpu().numpy()[place]
    return encoded.reshape(*frames.shape[:-3], -1)


@torch.inference_mode()
def encode_texts(towers: Towers, texts: Iterable[str]) -> dict[str, Floats]:
    """For each sentence the states of its tokens (L, D), without padding."""
    # By length: sentences that stand together need little padding.
    unique = sorted(set(texts), key=lambda text: (len(text.split()), text))
    found: dict[str, Floats] = {}
    for start in range(0, len(unique), _TEXTS):
        part = unique[start : start + _TEXTS]
        ids, mask = towers.tokenize(part)
        states = towers.token_states(ids, mask).float().cpu().numpy()
        lengths = mask.sum(1).tolist()
        found |= {t: s[:n] for t, s, n in zip(part, states, lengths, strict=True)}
    return found


def _videos(
    worlds: Mapping[str, MovingDigits], towers: Towers, batch_size: int
) -> Iterator[tuple[str, Floats]]:
    for split, world in worlds.items():
        for start in range(0, len(world), batch_size):
            rows = range(start, min(start + batch_size, len(world)))
            features = encode_frames(towers, world.frames(rows)[0])
            yield from zip((_id(split, i) for i in rows), features, strict=True)


def _words(captions: Sequence[Caption], towers: Towers) -> Iterator[tuple[str, Floats]]:
    states = encode_texts(towers, (caption.text for caption in captions))
    for caption in captions:
        yield caption.id, states[caption.text]


def _queries(world: MovingDigits, paraphrases: int) -> list[tuple[Caption, Truth]]:
    """Captions of a split by video, moment and wording, and what is true of each."""
    wordings = zip(*(world.queries(p) for p in range(paraphrases)), strict=True)
    play, count = world.screenplay, [0] * len(world)
    rows = []
    for query in (query for wording in wordings for query in wording):
        name = f"{_id(world.split, query.video)}#enc#{count[query.video]}"
        count[query.video] += 1
        at = query.video, query.moment
        moment = int(play.start[at]), int(play.end[at])
        true = (_id(world.split, int(v)) for v in world.true_positives(query))
        rows.append((Caption(name, query.text), Truth(tuple(true), moment)))
    return rows


def _id(split: str, index: int) -> str:
    return f"{split}{index:04d}"


def _weights(towers: Towers) -> str:
    """A hash of the towers' weights: other weights are other features."""
    digest = hashlib.sha256()
    state: dict[str, Any] = towers.state_dict()
    for name in sorted(state):
        digest.update(name.encode())
        flat = state[name].detach().cpu().reshape(-1).contiguous()
        digest.update(flat.view(torch.uint8).numpy())
    return digest.hexdigest()
