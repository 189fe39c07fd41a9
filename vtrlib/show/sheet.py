"""Frames as one picture: the sprite sheet that carries a clip's pixels into a page, without loss."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from io import BytesIO
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

__all__ = ["Frames", "Pixels", "as_pixels", "data_uri", "fingerprint", "indexed"]

Frames: TypeAlias = torch.Tensor | NDArray[np.uint8]
"""A clip as the library holds it: (F, 3, H, W) uint8, 0 … 255."""
Pixels: TypeAlias = NDArray[np.uint8]
"""A clip as pictures hold it: (F, H, W, 3)."""

_WIDEST = 32_767  # pixels; the widest picture that every browser decodes


def as_pixels(name: str, frames: Any) -> Pixels:
    """Return (F, 3, H, W) frames with colours last, (F, H, W, 3).

    Raises:
        TypeError: `frames` is neither tensor nor array, or its values are not uint8.
        ValueError: its shape is another, or has an empty axis.
    """
    if isinstance(frames, torch.Tensor):
        to_bytes, move = "(frames * 255).round().to(torch.uint8)", "permute(0, 3, 1, 2)"
    elif isinstance(frames, np.ndarray):
        to_bytes, move = "(frames * 255).round().astype(numpy.uint8)", "transpose(0, 3, 1, 2)"
    else:
        raise TypeError(f"{name} ({type(frames).__name__}): expected a torch or numpy array (F, 3, H, W) of uint8.")
    shape, dtype = tuple(frames.shape), str(frames.dtype)
    if len(shape) != 4 or shape[1] != 3 or 0 in shape:
        hint = ""
        if len(shape) == 4 and shape[3] == 3:
            hint = f" Colours come last here: use frames.{move}."
        elif len(shape) == 3 and shape[0] == 3:
            hint = " For a single frame use frames[None]."
        raise ValueError(f"{name}: found shape {shape}; expected (F, 3, H, W), none of them 0.{hint}")
    if dtype not in ("uint8", "torch.uint8"):
        hint = f" If they run from 0 to 1, convert: {to_bytes}." if "float" in dtype else ""
        raise TypeError(f"{name}: found {dtype} values; expected uint8, 0 … 255.{hint}")
    array = frames.detach().cpu().numpy() if isinstance(frames, torch.Tensor) else frames
    return np.ascontiguousarray(np.moveaxis(array, 1, -1))


def fingerprint(pixels: Pixels) -> str:
    """16 hexadecimal digits that change with any pixel and the shape; the bytes of a PNG depend on zlib's build."""
    return hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()[:16]


def indexed(pixels: Pixels) -> tuple[NDArray[np.uint8], NDArray[np.uint8]] | None:
    """Split pixels (..., 3) into a palette (C ≤ 256, 3) and its indices (...), or None if there are more colours."""
    red, green, blue = np.moveaxis(pixels.astype(np.uint32), -1, 0)
    codes, index = np.unique(red << 16 | green << 8 | blue, return_inverse=True)
    if len(codes) > 256:
        return None
    palette = np.stack([codes >> 16, codes >> 8 & 255, codes & 255], axis=-1)
    return palette.astype(np.uint8), index.reshape(pixels.shape[:-1]).astype(np.uint8)


def data_uri(name: str, pixels: Pixels) -> str:
    """All frames (F, H, W, 3) side by side in one PNG, as a data URI.

    Side by side and not one above the other: a still background then repeats within each row, where PNG finds it.

    Raises:
        ValueError: the picture would be wider than browsers show.
    """
    count, height, width, _ = pixels.shape
    if count * width > _WIDEST:
        raise ValueError(
            f"{name}: {count} frames of {width} pixels make a picture {count * width} pixels wide; expected at most "
            f"{_WIDEST}, which all browsers show. Pass fewer frames (frames[::2]) or smaller ones."
        )
    row = pixels.transpose(1, 0, 2, 3).reshape(height, count * width, 3)
    palette = indexed(row)
    if palette is None:
        picture = Image.fromarray(row)
    else:
        picture = Image.fromarray(palette[1])
        picture.putpalette(palette[0].tobytes())
    buffer = BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + b64encode(buffer.getvalue()).decode("ascii")
