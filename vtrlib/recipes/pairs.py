"""Training, validation and test pairs from videos, captions and pseudo captions; all that can be missing is named."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from vtrlib.check import listed
from vtrlib.clip import Towers
from vtrlib.datasets import hold_out
from vtrlib.datasets.retrieval import (
    Captioned,
    PseudoCaptions,
    VideoFolder,
    VideoTextPairs,
    check_pseudo_captions,
    find_videos,
    pseudo_key,
    read_pseudo_captions,
)
from vtrlib.datasets.retrieval.captions import caption_pairs
from vtrlib.recipes.settings import Recipe

__all__ = ["Parts", "SourcedVideo", "digest", "open_parts", "open_test", "read_pseudo"]


class SourcedVideo(Captioned, Protocol):
    """A video with captions and the source that it was cut from, as the readers of `vtrlib.datasets` give it."""

    @property
    def source(self) -> str: ...


class Parts(NamedTuple):
    """Pairs of each split; `val` is held out of the training videos, None if none are."""

    train: VideoTextPairs
    val: VideoTextPairs | None
    test: VideoTextPairs


def open_parts(
    recipe: Recipe, clip: Towers, train: Sequence[SourcedVideo], test: Sequence[SourcedVideo], videos: str | Path,
    pseudo: Sequence[str | Path] = (), cache: str | Path | None = None,
) -> Parts:  # fmt: skip
    """The pairs that a recipe trains, chooses and tests on. No video is opened yet.

    Args:
        recipe: settings.
        clip: whose tokenizer reads the captions, and whose size the frames have.
        train, test: videos with captions.
        videos: their folder, see `find_videos`.
        pseudo: JSON files of pseudo captions; needed by variants that align or distil at the level of images.
        cache: a folder for decoded frames.

    Raises:
        FileNotFoundError: video files are missing, with their number and some names; or a file of pseudo captions is.
        ValueError: a video in two splits or twice; captions or pseudo captions that are missing or unfit.
    """
    if both := sorted({v.id for v in train} & {v.id for v in test}):
        raise ValueError(f"test: {listed(both)}: also among the training videos, expected in one split.")
    find_videos(videos, dict.fromkeys(v.id for v in (*train, *test)))  # one message for all that are missing
    held: Sequence[SourcedVideo] = ()
    if recipe.val:
        train, held = hold_out(train, recipe.val)
    config, told = recipe.config(clip), None
    if config.alpha or config.beta:
        if not pseudo:
            raise ValueError(
                f"pseudo: none given, but variant={recipe.variant!r} reads pseudo captions. Make them with "
                "python -m vtrlib discovla caption."
            )
        told = read_pseudo(pseudo, train, recipe.frames, recipe.sampling)
    return Parts(
        _pairs(recipe, clip, train, videos, cache, told),
        _pairs(recipe, clip, held, videos, cache) if held else None,
        _pairs(recipe, clip, test, videos, cache),
    )


def open_test(
    recipe: Recipe, clip: Towers, test: Sequence[SourcedVideo], videos: str | Path, cache: str | Path | None = None
) -> VideoTextPairs:
    """The test pairs alone; raises as `open_parts` does."""
    return _pairs(recipe, clip, test, videos, cache)


def read_pseudo(
    paths: Sequence[str | Path], videos: Iterable[Captioned], frames: int, sampling: str
) -> dict[str, Sequence[str]]:
    """Pseudo captions of all captions of some videos, from one file or several; entries of others are left out.

    Args:
        paths: of `vtrlib.datasets.retrieval.generate`, or from elsewhere in that format.
        videos: whose they must be.
        frames: F of each.
        sampling: rule by which frames are chosen; files that say by which theirs were must agree.

    Raises:
        FileNotFoundError, ValueError: a file is missing, unfit, or of other frames; captions lack pseudo captions.
    """
    found: dict[str, Sequence[str]] = {}
    for path in map(Path, paths):
        _same_frames(path, frames, sampling)
        found |= read_pseudo_captions(path, None, frames)
    videos = list(videos)
    wanted = {pseudo_key(*pair) for pair in caption_pairs(videos)}
    found = {key: texts for key, texts in found.items() if key in wanted}
    check_pseudo_captions(found, videos, frames, source=", ".join(map(str, paths)))
    return found


def digest(pairs: VideoTextPairs, pseudo: PseudoCaptions | None = None) -> dict[str, Any]:
    """What identifies pairs: their numbers, and a sha256 of ids, captions and pseudo captions."""
    told = hashlib.sha256()
    for row, caption in zip(pairs.relevant.tolist(), pairs.captions, strict=True):
        line = [pairs.video_ids[row], caption]
        if pseudo is not None:
            line += pseudo[pseudo_key(*line)]
        told.update(json.dumps(line).encode())
    return {"videos": len(pairs.video_ids), "pairs": len(pairs), "sha256": told.hexdigest()}


def _pairs(
    recipe: Recipe, clip: Towers, videos: Sequence[SourcedVideo], folder: str | Path, cache: str | Path | None,
    pseudo: PseudoCaptions | None = None,
) -> VideoTextPairs:  # fmt: skip
    source = VideoFolder(
        folder, [v.id for v in videos], frames=recipe.frames, size=clip.size, rule=recipe.sampling, cache=cache
    )
    return VideoTextPairs(videos, source, clip.tokenizer, words=recipe.words, pseudo=pseudo)


def _same_frames(path: Path, frames: int, sampling: str) -> None:
    """Raise if the record beside a file says that its captions are of other frames."""
    try:
        record: Any = json.loads(path.with_name(f"{path.name}.made.json").read_text("utf-8"))
        made: Any = json.loads(record["settings"]["frames"])
        found = made["frames"], made["rule"]
    except (OSError, ValueError, KeyError, TypeError):
        return  # made elsewhere: nothing is known
    if found != (frames, sampling):
        raise ValueError(
            f"{path}: was made for frames={found[0]}, sampling={found[1]!r}; found frames={frames}, "
            f"sampling={sampling!r} now. Expected the same: each sentence is about one frame. Caption again, or train "
            "with those."
        )
