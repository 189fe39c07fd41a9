"""A player over scatter plots: how points in groups move, step by step."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from vtrlib.show.figure import figure
from vtrlib.show.html import Html
from vtrlib.show.maps import scatter_groups
from vtrlib.show.player import player

__all__ = ["steps"]

_INCH, _COLOURS = 96, 64


def steps(
    planes: Sequence[Any], groups: Any, *, alt: str,
    captions: Iterable[object] | None = None, size: float = 4.4, fps: int = 2,
) -> Html:  # fmt: skip
    """Points in the plane at one step after another, to play or to step through.

    All pictures have the same limits, and a group looks the same in all of them, as
    `scatter_groups` draws it.

    Args:
        planes: (N, 2) each, at least one.
        groups: N labels, at most 24 different ones.
        alt: what is to be seen, for those who cannot see it.
        captions: a text per picture.
        size: of a picture, inches, > 0.
        fps: pictures per second, 1 … 60.

    Raises:
        TypeError, ValueError: naming the argument, what was found and what was
            expected.
    """
    import matplotlib.pyplot as plt
    import numpy as np

    if not len(planes):
        raise ValueError("planes is empty: expected (N, 2) points of one step or more.")
    farthest = 1.08 * max(float(np.abs(np.asarray(plane)).max()) for plane in planes)
    limits = (-(farthest or 1.0), farthest or 1.0)
    pictures = []
    for plane in planes:
        drawn, axes = figure(size, size)
        drawn.set_dpi(_INCH)
        axes.set(xlim=limits, ylim=limits, aspect="equal")
        scatter_groups(axes, plane, groups, size=5)
        drawn.canvas.draw()
        pictures.append(np.asarray(drawn.canvas.buffer_rgba())[..., :3].copy())
        plt.close(drawn)
    frames = np.moveaxis(_few_colours(np.stack(pictures)), -1, 1)
    return player(frames, alt=alt, captions=captions, fps=fps, scale=1)


def _few_colours(pixels: Any) -> Any:
    """(F, H, W, 3) with few colours, which make a picture file small."""
    import numpy as np
    from PIL import Image

    flat = Image.fromarray(pixels.reshape(-1, *pixels.shape[2:]))
    drawn = flat.quantize(_COLOURS, dither=Image.Dither.NONE).convert("RGB")
    return np.asarray(drawn).reshape(pixels.shape)
