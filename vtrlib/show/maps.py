"""Points in the plane, in groups that can be told apart."""

from __future__ import annotations

from typing import Any

from vtrlib.check import sizes
from vtrlib.show.style import PALETTE

__all__ = ["scatter_groups"]

_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_FILLS = ("full", "none", "left")  # eight markers each: 24 that differ in grey


def scatter_groups(
    axes: Any, points: Any, groups: Any, *, size: float = 6, spokes: bool = False
) -> None:
    """Draw points (N, 2) on `axes`, each group with a colour, a marker and a filling.

    No two groups share marker and filling, so they differ in grey too. There is no
    legend, and no ticks: what counts is who lies beside whom. In two pictures of the
    same groups a group looks the same, if it comes at the same place in their order of
    first appearance.

    Args:
        axes: of matplotlib, as from `show.figure`.
        points: (N, 2).
        groups: N labels, at most 24 different ones.
        size: of a marker, points.
        spokes: thin lines from each point to the middle of its group, which show how
            far a group reaches.

    Raises:
        TypeError, ValueError: naming the argument, what was found and what was
            expected.
    """
    import numpy as np

    plane = np.asarray(points, dtype=float)
    if sizes("points", plane, "N D")["D"] != 2 or not np.isfinite(plane).all():
        raise ValueError(f"points {plane.shape}: expected (N, 2), finite.")
    labels = groups.tolist() if hasattr(groups, "tolist") else list(groups)
    if len(labels) != len(plane):
        raise ValueError(f"groups: found {len(labels)} for {len(plane)} points.")
    names = list(dict.fromkeys(labels))
    most = len(_MARKERS) * len(_FILLS)
    if len(names) > most:
        raise ValueError(f"groups: found {len(names)}, expected at most {most}.")
    for place, name in enumerate(names):
        own = plane[[label == name for label in labels]]
        colour = PALETTE[place % len(PALETTE)]
        if spokes:
            for point in own:
                axes.plot(
                    *zip(own.mean(0), point, strict=True), color=colour, marker="",
                    linestyle="-", linewidth=0.7, alpha=0.6, zorder=1.5,
                )  # fmt: skip
        axes.plot(
            own[:, 0], own[:, 1], linestyle="", color=colour, markersize=size,
            marker=_MARKERS[place % len(_MARKERS)],
            fillstyle=_FILLS[place // len(_MARKERS)], markerfacecoloralt="white",
            markeredgecolor="black" if place % len(PALETTE) == 7 else colour,
            markeredgewidth=1.1,
        )  # fmt: skip
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
