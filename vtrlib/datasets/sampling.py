"""Which frames of a video a model sees, and at what size.

Letters (see the notation page): F frames of H×W pixels.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from vtrlib.check import integer, number, one_of

__all__ = ["FILTERS", "FITS", "RULES", "frame_positions", "resize_frames"]

RULES = ("ends", "middle", "seconds")
FITS = ("squash", "crop")
FILTERS = ("bicubic", "bilinear")


def frame_positions(count: int, frames: int = 12, rule: str = "ends", rate: float | None = None) -> Tensor:
    """Which of `count` frames to take, (F,) int64, ascending.

    "ends" is the rule of CLIP-ViP's and PIG's released code: `linspace(0, count - 1, F).astype(int)`, first and last
    frame included, in NumPy's arithmetic, whose rounding can fall one below the exact fraction. A video that is too
    short repeats frames throughout. "middle" is X-Pool's: the middle of each of F equal intervals. A video that is
    too short gives all its frames and repeats the last. "seconds" is DiscoVLA's (reference row 18): one frame a
    second, every `round(rate)`-th; of more than F "ends" keeps F; where they are fewer, "ends" over all frames instead.

    Args:
        count: frames of the video, or of the stretch of it that is sampled.
        frames: F.
        rule: "ends", "middle" or "seconds".
        rate: frames a second, above 0; only "seconds" needs it.

    Raises:
        ValueError: `count` or `frames` below 1, an unknown rule, or "seconds" without a rate.
        TypeError: one is no number.
    """
    integer("count", count, low=1)
    integer("frames", frames, low=1)
    if one_of("rule", rule, RULES) == "seconds":
        if rate is None or number("rate", rate) <= 0:
            raise ValueError(f"rate={rate}: expected the video's frames a second, above 0, for rule='seconds'.")
        ticks = np.arange(0, count, max(1, round(rate)))  # Python's round: a half goes to the even number, as there
        if len(ticks) >= frames:
            return torch.from_numpy(ticks[np.linspace(0, len(ticks) - 1, frames).astype(np.int64)])
    if rule != "middle":
        return torch.from_numpy(np.linspace(0, count - 1, frames).astype(np.int64))
    edges = np.linspace(0, count, min(frames, count) + 1).astype(np.int64)
    middles = (edges[:-1] + edges[1:] - 1) // 2
    return torch.from_numpy(np.pad(middles, (0, frames - len(middles)), mode="edge"))


def resize_frames(
    pixels: Tensor, size: int | tuple[int, int], *, fit: str = "squash", resample: str = "bicubic"
) -> Tensor:
    """Frames (F, 3, H, W) uint8 at another size, uint8.

    Torch's interpolation with antialiasing, computed in float32, then rounded: Pillow's filters on floats, to a level.

    Args:
        pixels: frames.
        size: new height and width, one number for a square.
        fit: "squash" scales both sides independently, as PIG's released code does; "crop" keeps the proportions,
            scales until the frame covers `size` and cuts the middle out, as X-Pool and CLIP do.
        resample: "bicubic" or "bilinear".

    Raises:
        ValueError: another shape, type or option; a size below 1. TypeError: a size that is no integer.
    """
    if pixels.ndim != 4 or pixels.shape[1] != 3 or pixels.dtype != torch.uint8:
        raise ValueError(f"pixels: {tuple(pixels.shape)} {pixels.dtype}, expected frames (F, 3, H, W) of torch.uint8.")
    one_of("fit", fit, FITS), one_of("resample", resample, FILTERS)
    height, width = target_size(size)
    tall, wide = pixels.shape[-2:]
    scaled = (height, width)
    if fit == "crop" and tall * width < wide * height:  # wider than asked for: its height decides
        scaled = (height, height * wide // tall)
    elif fit == "crop":
        scaled = (width * tall // wide, width)
    if scaled != (tall, wide):
        floats = functional.interpolate(pixels.float(), scaled, mode=resample, antialias=True, align_corners=False)
        pixels = floats.round_().clamp_(0, 255).to(torch.uint8)
    top, left = round((scaled[0] - height) / 2), round((scaled[1] - width) / 2)
    return pixels[..., top : top + height, left : left + width]


def target_size(size: int | tuple[int, int]) -> tuple[int, int]:
    """Height and width of a size given as one number or two."""
    sides = size if isinstance(size, tuple) else (size, size)
    if len(sides) != 2:
        raise ValueError(f"size={size}: expected one number, or height and width.")
    return integer("size", sides[0], low=1), integer("size", sides[1], low=1)
