"""Frames of a video file in the order they are shown, with what is wrong with the file said plainly.

The number of frames is known only after decoding all of them: headers lie or say nothing, packets may give no frame.
So `packets` is a guess that costs no decoding, and who uses it compares with what `frames` yields.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # av is imported where it is used: 0.1 s and libraries that most of this package never needs
    from av import VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream

__all__ = ["Damage", "Packets", "VideoError", "frames", "packets", "shown_times"]

# Containers that store when each frame is shown. The others store at most an order, from which times are guessed, and
# after a jump guessed otherwise.
_TIMED = ("mov", "mp4", "matroska", "webm")


class VideoError(OSError):
    """A video file that is missing, empty, no video, or damaged; the message says what was found and what to do."""


class Damage(Exception):
    """Decoding came to a damaged place; the message is the decoder's."""


@dataclass(frozen=True)
class Packets:
    """What a file says of itself without being decoded.

    Attributes:
        count: packets that should give one frame each.
        times: their times in seconds, ascending; None where the container stores none.
        promised: frames by the header, or None where it doesn't say.
        lasts: seconds by the header, or None where it doesn't say. Only one of the two is given, the one to believe.
        rate: frames a second on average by the header, or None where it doesn't say.
    """

    count: int
    times: tuple[float, ...] | None
    promised: int | None
    lasts: float | None
    rate: float | None = None


def packets(path: Path) -> Packets:
    """List the packets of the first video stream.

    Raises:
        VideoError: see `frames`.
    """
    import av

    with _video(path) as (container, stream):
        stamps: list[int | None] = []
        try:
            stamps += [p.pts for p in container.demux(stream) if p.size and not p.is_discard]
        except av.FFmpegError:
            pass  # the packets before the damage; decoding will name it
        known = [stamp for stamp in stamps if stamp is not None]
        timed = any(kind in container.format.name.split(",") for kind in _TIMED) and stream.time_base is not None
        exact = timed and len(known) == len(stamps) == len(set(known))
        times = tuple(float(stamp * stream.time_base) for stamp in sorted(known)) if exact else None  # type: ignore[operator]
        # MP4 counts frames that an edit list cuts off, but its duration doesn't; AVI's duration is only computed.
        promised, lasts = (None, _lasts(stream)) if timed else (stream.frames or None, None)
        return Packets(len(stamps), times, promised, lasts, float(stream.average_rate) if stream.average_rate else None)


def frames(path: Path, since: float | None = None) -> Iterator[VideoFrame]:
    """Decode the first video stream in the order of display.

    Args:
        path: any container and codec that FFmpeg knows.
        since: a time of `packets`; frames before the last key frame up to there are passed over undecoded.

    Raises:
        VideoError: the file is missing, empty, no media file, or holds no video.
        Damage: a part cannot be decoded, or only with errors. The frames before it have been yielded, but for the few
            that the decoder still held back to bring them in order.
    """
    import av

    with _video(path) as (container, stream):
        try:
            if since is not None and stream.time_base:
                container.seek(round(since / stream.time_base), stream=stream)
            for packet in container.demux(stream):
                for frame in packet.decode():
                    # Frames before a key frame may lack what they build on after a jump; nobody asked for them.
                    if frame.is_corrupt and not (since is not None and frame.time is not None and frame.time < since):
                        raise Damage("a frame could be decoded only with errors")
                    yield frame
        except av.FFmpegError as error:
            raise Damage(error.strerror or str(error)) from error


def shown_times(path: Path) -> tuple[tuple[float, ...], Damage | None]:
    """When each frame is shown, in seconds and ascending, by decoding them all; and what ended it early, if anything.

    Where the file has no times, or times out of order (AVI with reordered frames), frames are taken to be evenly
    spaced.
    """
    found: list[float | None] = []
    damage = None
    try:
        for frame in frames(path):
            found.append(frame.time)
    except Damage as error:
        damage = error
    times = tuple(time for time in found if time is not None)
    if len(times) < len(found) or any(b <= a for a, b in pairwise(times)):
        with _video(path) as (_, stream):
            rate = float(stream.average_rate or stream.guessed_rate or 25)
        times = tuple(n / rate for n in range(len(found)))
    return times, damage


@contextmanager
def _video(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """The opened file and its first video stream."""
    import av

    if not path.is_file():
        raise VideoError(f"{path}: there is no such file. Expected a video; check the path and the data folder.")
    if not (size := path.stat().st_size):
        raise VideoError(f"{path}: is empty (0 bytes). Expected a video; get the file again.")
    try:
        container: Any = av.open(str(path))
    except (av.FFmpegError, OSError) as error:
        raise VideoError(
            f"{path}: {size:,} bytes, cannot be opened as a video ({getattr(error, 'strerror', None) or error}): it is "
            "none, or its index is cut off or damaged. Get the file again."
        ) from error
    with container:
        streams = container.streams
        if not streams.video:
            kinds = " and ".join(sorted({stream.type for stream in streams})) or "no streams"
            raise VideoError(
                f"{path}: holds {kinds}, no video. Expected a video stream: check that it is the right file, or get it "
                "again."
            )
        yield container, streams.video[0]


def _lasts(stream: VideoStream) -> float | None:
    """The stream's own duration in seconds: that of the file may be its sound's."""
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    if written := re.fullmatch(r"(\d+):(\d+):([\d.]+)", stream.metadata.get("DURATION", "")):  # Matroska's
        hours, minutes, seconds = map(float, written.groups())
        return 3600 * hours + 60 * minutes + seconds
    return None
