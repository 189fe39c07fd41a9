"""Pseudo captions for a whole dataset: hours of generation that may be interrupted.

Answers go into a journal beside the result, batch by batch; the JSON itself appears
only when all are there. MSR-VTT's 9,000 training videos have 180,000 captions, of which
166,748 are not one that their video has already; with 12 frames that is 2.0 million
answers with guidance, and 108,000 without. Several processes can share them: each takes
some of the videos and a file of its own, and `write_pseudo_captions` writes what
`read_pseudo_captions` read of all of them.

Letters (see the notation page): F sampled frames.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from torch import Tensor
from tqdm import tqdm

from vtrlib.check import integer, listed
from vtrlib.datasets.retrieval.captioner import GUIDED, UNGUIDED
from vtrlib.datasets.retrieval.captions import Captioned, caption_pairs
from vtrlib.datasets.retrieval.frames import FrameSource
from vtrlib.datasets.retrieval.journal import Journal, differing
from vtrlib.datasets.retrieval.pseudo_captions import (
    check_pseudo_captions,
    pseudo_key,
    write_json,
    write_pseudo_captions,
)

__all__ = ["Answers", "generate"]


class Answers(Protocol):
    """Something that captions frames; see `Captioner`."""

    @property
    def settings(self) -> Mapping[str, Any]: ...

    def caption(self, frames: Sequence[Tensor], prompts: Sequence[str]) -> list[str]: ...


class _Ask(NamedTuple):
    subject: str  # a pair's key with guidance, a video's id without
    frame: int
    prompt: str


def generate(
    path: str | Path,
    videos: Iterable[Captioned],
    frames: FrameSource,
    captioner: Answers,
    *,
    guided: bool = True,
    batch_size: int = 8,
    quiet: bool | None = None,
) -> Path:
    """Write pseudo captions of all captions of some videos, going on where a killed run stopped.

    Three files: `path`, the JSON of the released format; beside it `<path>.made.json`,
    what it was made with; and while it is being made `<path>.part`, the journal. A
    killed run loses the batch it was at.

    Args:
        path: of the JSON.
        videos: with their captions; a caption that a video has twice is answered once.
        frames: gives the F frames of a video, best at their own size (`size=None`):
            the model's processor scales them itself.
        captioner: see `load_captioner`.
        guided: put the video caption into the prompt (`GUIDED`), one answer for each
            frame and caption; or not (`UNGUIDED`, Table 8's "W/O VidCap"), one for each
            frame, the same for all captions of a video.
        batch_size: answers at a time; may change from run to run.
        quiet: no progress bar; by default there is one where the output is a terminal.

    Returns:
        `path`.

    Raises:
        FileExistsError: `path` is there and was made with other settings, changed
            since, or not made by this; or another process is at it.
        ValueError: the journal is of other settings, or damaged; two pairs share a key;
            the model says nothing to a frame, which the message names.
        VideoError: of `frames`, for a video that cannot be read.
    """
    path, videos = Path(path), list(videos)
    integer("batch_size", batch_size, low=1)
    keys = _keys(videos)
    made = {
        "prompt": GUIDED if guided else UNGUIDED,
        "captioner": dict(captioner.settings),
        "frames": frames.settings,
        "F": frames.frames,
        "pairs": hashlib.sha256(json.dumps(sorted(keys)).encode()).hexdigest(),
    }
    settings: dict[str, Any] = json.loads(json.dumps(made))  # as it is read again
    if path.exists() and _made(path, settings):
        return path
    count = (len(keys) if guided else len(videos)) * frames.frames
    with (
        Journal(path.with_name(f"{path.name}.part"), settings) as journal,
        tqdm(total=count, initial=len(journal.answers), disable=quiet, unit="answer") as bar,
    ):
        for asks, pixels in _batches(videos, frames, guided, batch_size, journal):
            answers = captioner.caption(pixels, [ask.prompt for ask in asks])
            for ask, answer in zip(asks, answers, strict=True):
                if not answer.strip():
                    raise ValueError(
                        f"{ask.subject!r}, frame {ask.frame}: the model says nothing to "
                        f"{ask.prompt!r:.80}. Raise min_new_tokens, or leave it out."
                    )
            found = zip(asks, answers, strict=True)
            journal.add({(ask.subject, ask.frame): answer for ask, answer in found})
            bar.update(len(asks))
        told = journal.answers
        texts = {
            key: [told[key if guided else video, n] for n in range(frames.frames)]
            for key, video in keys.items()
        }
        check_pseudo_captions(texts, videos, frames.frames, source=str(path))
        write_pseudo_captions(path, texts, frames.frames)
        write_json(_record(path), {"settings": settings, "sha256": _sha256(path)})
    journal.remove()
    return path


def _keys(videos: Sequence[Captioned]) -> dict[str, str]:
    """The video id of each key, in order."""
    owner: dict[str, tuple[str, str]] = {}
    for pair in caption_pairs(videos):
        first = owner.setdefault(pseudo_key(*pair), pair)
        if first != pair:
            raise ValueError(
                f"videos: {first} and {pair} have one key in the released format, "
                f"{pseudo_key(*pair)!r}. Leave one out."
            )
    return {key: video for key, (video, _) in owner.items()}


def _batches(
    videos: Sequence[Captioned],
    frames: FrameSource,
    guided: bool,
    size: int,
    journal: Journal,
) -> Iterator[tuple[list[_Ask], list[Tensor]]]:
    """What is not answered yet; a video with nothing left to ask is not decoded."""
    asks: list[_Ask] = []
    pixels: list[Tensor] = []
    for video in videos:
        prompts = {video.id: UNGUIDED}
        if guided:
            texts = dict.fromkeys(video.captions)
            prompts = {pseudo_key(video.id, c): GUIDED.format(caption=c) for c in texts}
        left = [
            _Ask(subject, n, prompt)
            for subject, prompt in prompts.items()
            for n in range(frames.frames)
            if (subject, n) not in journal.answers
        ]
        if not left:
            continue
        (shown,) = frames([video.id])
        for ask in left:
            asks.append(ask)
            pixels.append(shown[ask.frame])
            if len(asks) == size:
                yield asks, pixels
                asks, pixels = [], []
    if asks:
        yield asks, pixels


def _record(path: Path) -> Path:
    return path.with_name(f"{path.name}.made.json")


def _made(path: Path, settings: Mapping[str, Any]) -> bool:
    """Whether `path` is what these settings make; False where only the record is not yet written."""
    other = "Choose another path, or remove the file."
    try:
        record = json.loads(_record(path).read_text("utf-8"))
    except FileNotFoundError:
        if path.with_name(f"{path.name}.part").exists():
            return False  # killed between the two: the journal has everything
        raise FileExistsError(f"{path}: is there, made elsewhere. {other}") from None
    except ValueError as error:
        raise FileExistsError(f"{_record(path)}: cannot be read ({error}). {other}") from None
    if names := differing(record.get("settings"), settings):
        raise FileExistsError(
            f"{path}: was made with other settings: {listed(names, 8)}. {other}"
        )
    if record.get("sha256") != _sha256(path):
        raise FileExistsError(f"{path}: was changed since it was made. {other}")
    return True


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
