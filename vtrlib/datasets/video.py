"""Frames sampled from a video file, for models that take F of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from vtrlib.check import integer, number, one_of
from vtrlib.datasets import decoding
from vtrlib.datasets.decoding import Damage, Packets, VideoError
from vtrlib.datasets.sampling import FILTERS, FITS, RULES, frame_positions, resize_frames, target_size

if TYPE_CHECKING:
    from av import VideoFrame

__all__ = ["VideoError", "read_frames"]

_SHORTFALL = 0.02  # headers are often off by a frame or two; a file that was cut lacks more
_TAKE = "Get the file again, or pass allow_truncated=True to take what can be read."


def read_frames(
    path: str | Path,
    frames: int = 12,
    size: int | tuple[int, int] | None = None,
    *,
    start: float | None = None,
    end: float | None = None,
    rule: str = "ends",
    fit: str = "squash",
    resample: str = "bicubic",
    allow_truncated: bool = False,
) -> Tensor:
    """F frames of a video, evenly spread, (F, 3, H, W) uint8, RGB, upright.

    Frames are counted by decoding them, no header is believed. Only the F are kept, at their final size.

    Args:
        path: any container and codec that FFmpeg knows; its first video stream is read.
        frames: F; a video with fewer repeats some, see `frame_positions`.
        size: height and width, one number for a square; default: as in the file. Pixels are taken to be square.
        start, end: take only frames shown at start ≤ t < end, in seconds after the first frame; default: all. An end
            beyond that of the video is no error, since annotations overrun.
        rule: "ends", "middle" or "seconds", see `frame_positions`; the frames a second are those of the file's header.
        fit, resample: see `resize_frames`.
        allow_truncated: take what is before a damage or an early end, instead of raising.

    Raises:
        VideoError: the file is missing, empty, no video, without any frame, damaged where frames are wanted, or ends
            earlier than its header says by more than 2 per cent and 2 frames. The message names the file, up to where
            it can be read, and what to do. A container that promises no length can be cut without a trace, and damage
            that the decoder doesn't notice stays unnoticed.
        ValueError, TypeError: an argument is out of range, or no frame is shown between `start` and `end`.
    """
    path = Path(path)
    integer("frames", frames, low=1)
    one_of("rule", rule, RULES), one_of("fit", fit, FITS), one_of("resample", resample, FILTERS)
    target = None if size is None else target_size(size)
    since = 0.0 if start is None else number("start", start, low=0)
    until = math.inf if end is None else number("end", end, low=0)
    if until <= since:
        raise ValueError(f"end={until}: expected more than start={since}.")

    def picture(frame: VideoFrame) -> Tensor:
        upright = np.rot90(frame.to_ndarray(format="rgb24"), k=round(frame.rotation / 90) % 4)  # (H, W, 3)
        pixels = torch.from_numpy(upright.transpose(2, 0, 1).copy())
        return pixels if target is None else resize_frames(pixels[None], target, fit=fit, resample=resample)[0]

    guess = decoding.packets(path)
    if rule == "seconds" and not guess.rate:
        raise VideoError(f"{path}: does not say how many frames it shows a second. Pass rule='ends' or 'middle'.")

    def positions(count: int) -> list[int]:
        return [int(p) for p in frame_positions(count, frames, rule, guess.rate)]

    if start is None and end is None:
        wanted, pictures = _whole(path, guess, positions, picture, allow_truncated)
    else:
        wanted, pictures = _stretch(path, guess, since, until, positions, picture, allow_truncated)
    shapes = {tuple(p.shape[1:]) for p in pictures.values()}
    if len(shapes) > 1:
        raise VideoError(f"{path}: its pictures change size along the way: {sorted(shapes)}. Pass size= to unite them.")
    return torch.stack([pictures[p] for p in wanted])


@dataclass
class _Reading:
    """One pass over a file: the pictures kept by position, frames seen, seconds from first to last, what ended it."""

    pictures: dict[int, Tensor]
    seen: int = 0
    time: float = 0.0
    damage: Damage | None = None


_Positions = Callable[[int], list[int]]
_Picture = Callable[["VideoFrame"], Tensor]
_Chosen = tuple[list[int], dict[int, Tensor]]


def _read(path: Path, wanted: Collection[int], picture: _Picture, stop: int | None = None) -> _Reading:
    """Decode from the beginning, all of it or `stop` frames."""
    reading, chosen, first = _Reading({}), set(wanted), None
    try:
        for frame in decoding.frames(path):
            if reading.seen in chosen:
                reading.pictures[reading.seen] = picture(frame)
            reading.seen += 1
            shown = frame.time or 0.0
            first = shown if first is None else first
            reading.time = shown - first
            if reading.seen == stop:
                break
    except Damage as damage:
        reading.damage = damage
    return reading


def _whole(path: Path, guess: Packets, positions: _Positions, picture: _Picture, lenient: bool) -> _Chosen:
    """Frames over the whole video: one pass where the packets were counted right, else a second with the true count."""
    count = max(guess.count, 1)
    for _ in range(3):
        wanted = positions(count)
        reading = _read(path, wanted, picture)
        _refuse(path, reading.seen, reading.time, reading.damage, guess, lenient)
        if reading.seen == count:
            return wanted, reading.pictures
        count = reading.seen
    raise VideoError(f"{path}: gives another number of frames each time it is decoded. Get the file again.")


def _stretch(
    path: Path, guess: Packets, since: float, until: float, positions: _Positions, picture: _Picture, lenient: bool
) -> _Chosen:
    """Frames of a stretch of the video."""
    if guess.times is not None:
        inside = _inside(guess.times, since, until)
        wanted = [inside.start + p for p in positions(len(inside))] if inside else []
        pictures = _jump(path, guess.times, inside, wanted, picture) if inside else None
        if pictures is not None:
            if inside.stop == len(guess.times):
                _refuse(path, len(guess.times), guess.times[-1] - guess.times[0], None, guess, lenient)
            return wanted, pictures
    # The slow way, which is always right: decode it all for the times, then again up to the last frame wanted.
    times, damage = decoding.shown_times(path)
    inside = _inside(times, since, until)
    if inside.stop == len(times):  # the stretch reaches the end of what can be read: is that where the video ends?
        _refuse(path, len(times), times[-1] - times[0] if times else 0.0, damage, guess, lenient)
    if not inside:
        raise ValueError(
            f"start={since}, end={until}: {path} shows no frame then: its {len(times):,} frames are shown from 0 to "
            f"{times[-1] - times[0]:.2f} s. Check the times, and that they count from this file's beginning."
        )
    wanted = [inside.start + p for p in positions(len(inside))]
    return wanted, _read(path, wanted, picture, stop=wanted[-1] + 1).pictures


def _inside(times: tuple[float, ...], since: float, until: float) -> range:
    """The frames shown at since ≤ t < until after the first, to the microsecond: times are sums of rounded numbers."""
    chosen = [n for n, time in enumerate(times) if since - 1e-6 <= time - times[0] < until - 1e-6]
    return range(chosen[0], chosen[-1] + 1) if chosen else range(len(times), len(times))


def _jump(
    path: Path, times: tuple[float, ...], inside: range, wanted: list[int], picture: _Picture
) -> dict[int, Tensor] | None:
    """Pictures from a jump to the key frame before a stretch; None unless every frame came when the packets said."""
    pictures: dict[int, Tensor] = {}
    expected = iter(inside)
    try:
        for frame in decoding.frames(path, since=times[inside.start]):
            if frame.time is None:
                return None
            if frame.time < times[inside.start] - 1e-6:
                continue
            place = next(expected)
            if not math.isclose(frame.time, times[place], abs_tol=1e-6):
                return None
            if place in wanted:
                pictures[place] = picture(frame)
            if place == inside[-1]:
                return pictures
    except Damage:
        pass
    return None


def _refuse(path: Path, seen: int, time: float, damage: Damage | None, guess: Packets, lenient: bool) -> None:
    """Raise if what could be read, `seen` frames over `time` seconds, is nothing, or not all there is."""
    promised = guess.promised
    if guess.lasts is not None and seen > 1 and time > 0:
        promised = round(guess.lasts * (seen - 1) / time)  # as many as would be, going on at this pace
    total = max(promised or guess.count, seen)
    if not seen:
        raise VideoError(
            f"{path}: none of about {total:,} frames can be decoded ({damage or 'the video stream is empty'}). "
            "Get the file again."
        )
    until = f"{seen:,} of about {total:,} frames can be decoded, up to {time:.2f} s"
    if damage is not None and not lenient:
        raise VideoError(f"{path}: damaged: {until} ({damage}). {_TAKE}")
    if promised is not None and promised - seen > max(2, _SHORTFALL * promised) and not lenient:
        raise VideoError(f"{path}: cut off: {until}, where the file ends. {_TAKE}")
