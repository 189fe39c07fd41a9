"""Clips as picture files, for a README or a slide."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vtrlib.check import integer
from vtrlib.show.sheet import Frames, Pixels, as_pixels, indexed

__all__ = ["save_gif", "save_strip", "tile"]


def tile(clips: Sequence[Frames], columns: int | None = None, gap: int = 1) -> NDArray[np.uint8]:
    """Clips of one shape (F, 3, H, W) in a grid, as one clip (F, 3, H', W').

    Args:
        clips: uint8, at least one.
        columns: ≥ 1; by default the grid is about square.
        gap: white pixels between clips, ≥ 0.

    Raises:
        TypeError, ValueError: naming the argument, what was found and what was expected.
    """
    pixels = [as_pixels(f"clips[{k}]", clip) for k, clip in enumerate(clips)]
    if not pixels:
        raise ValueError("clips is empty: expected at least one clip (F, 3, H, W).")
    for k, clip in enumerate(pixels):
        if clip.shape != pixels[0].shape:
            found, expected = tuple(clips[k].shape), tuple(clips[0].shape)
            raise ValueError(f"clips[{k}]: found shape {found}; expected {expected} as in clips[0].")
    columns = math.ceil(math.sqrt(len(pixels))) if columns is None else integer("columns", columns, 1)
    gap, rows = integer("gap", gap, 0), math.ceil(len(pixels) / columns)
    count, height, width, _ = pixels[0].shape
    grid = np.full((count, rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, dtype=np.uint8)
    for k, clip in enumerate(pixels):
        top, left = k // columns * (height + gap), k % columns * (width + gap)
        grid[:, top : top + height, left : left + width] = clip
    return np.ascontiguousarray(np.moveaxis(grid, -1, 1))


def save_gif(frames: Frames, path: str | os.PathLike[str], *, fps: int = 8, scale: int = 3) -> None:
    """Write a clip as an animated GIF that repeats for ever.

    Exact up to 256 colours; with more, each becomes the nearest of 256. GIF counts hundredths of a second, so
    1 / fps is rounded to those.

    Args:
        frames: (F, 3, H, W) uint8, torch or numpy.
        path: a file name ending in .gif; what is there is replaced.
        fps: frames per second, 1 … 50.
        scale: picture pixels per pixel, ≥ 1.

    Raises:
        TypeError, ValueError: naming the argument, what was found and what was expected.
        FileNotFoundError: the folder of `path` does not exist.
    """
    pixels = _enlarged(as_pixels("frames", frames), integer("scale", scale, 1))
    duration = 10 * round(100 / integer("fps", fps, 1, 50))  # milliseconds
    exact = indexed(pixels)
    if exact is not None:
        palette, index = exact
    else:
        # One palette for all frames, or colours would flicker.
        joined = Image.fromarray(pixels.reshape(-1, pixels.shape[2], 3)).quantize(256, dither=Image.Dither.NONE)
        palette, index = np.array(joined.getpalette(), dtype=np.uint8), np.asarray(joined).reshape(pixels.shape[:3])
    pictures = [Image.fromarray(frame) for frame in index]
    for picture in pictures:
        picture.putpalette(palette.tobytes())
    movie: dict[str, Any] = {"save_all": True, "append_images": pictures[1:], "duration": duration, "loop": 0}
    _save(pictures[0], path, ".gif", **movie, optimize=False)


def save_strip(frames: Frames, path: str | os.PathLike[str], *, scale: int = 3, every: int = 1, gap: int = 2) -> None:
    """Write frames side by side as a PNG; the gaps between them are transparent.

    Args:
        frames: (F, 3, H, W) uint8, torch or numpy.
        path: a file name ending in .png; what is there is replaced.
        scale: picture pixels per pixel, ≥ 1.
        every: write frames 0, every, 2·every, …
        gap: picture pixels between frames, ≥ 0.

    Raises:
        TypeError, ValueError: naming the argument, what was found and what was expected.
        FileNotFoundError: the folder of `path` does not exist.
    """
    pixels = as_pixels("frames", frames)[:: integer("every", every, 1)]
    pixels, gap = _enlarged(pixels, integer("scale", scale, 1)), integer("gap", gap, 0)
    count, height, width, _ = pixels.shape
    strip = np.zeros((height, count * (width + gap) - gap, 4), dtype=np.uint8)
    for k, frame in enumerate(pixels):
        left = k * (width + gap)
        strip[:, left : left + width, :3], strip[:, left : left + width, 3] = frame, 255
    _save(Image.fromarray(strip), path, ".png", optimize=True)


def _enlarged(pixels: Pixels, scale: int) -> Pixels:
    return pixels.repeat(scale, axis=1).repeat(scale, axis=2)


def _save(picture: Image.Image, path: str | os.PathLike[str], suffix: str, **options: Any) -> None:
    """Write all of the file or nothing."""
    target = Path(path)
    if target.suffix.lower() != suffix:
        raise ValueError(f"path={str(target)!r}: found suffix {target.suffix!r}; expected {suffix!r}.")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"path={str(target)!r}: there is no folder {str(target.parent)!r}. Create it first.")
    unfinished = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        picture.save(unfinished, suffix[1:].upper(), **options)
        os.replace(unfinished, target)
    finally:
        unfinished.unlink(missing_ok=True)
