"""Plots in the book's style: readable at page width, in print and in grey."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vtrlib.check import integer
from vtrlib.show.style import PALETTE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["HATCHES", "figure"]

HATCHES = ("", "//", "..", "xx", "\\\\", "oo", "--", "++")
"""Fillings for bars, one per colour of `PALETTE`: `axes.bar(..., hatch=HATCHES[k])`."""

_LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)), (0, (8, 2)), (0, (3, 4)))
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_SIZE = 11  # points, of all letters; about the size of the text around it at the book's column width


def figure(
    width: float = 6.4, height: float = 3.6, *, rows: int = 1, columns: int = 1, **subplots: Any
) -> tuple[Figure, Any]:
    """A matplotlib figure and its axes, whatever style is set elsewhere.

    Lines differ by colour, dashes and markers, so that they can be told apart in grey. The background stays white on
    dark pages. In a notebook, give the cell that shows it an alt text (`mystnb: {image: {alt: …}}` in its metadata).

    Args:
        width, height: of the whole figure, inches, > 0; the book's column is about 7 wide.
        rows, columns: of axes, ≥ 1.
        subplots: passed on to `matplotlib.pyplot.subplots`, such as `sharey=True`.

    Returns:
        The figure, and one `Axes` or, for several, an array of them as from `matplotlib.pyplot.subplots`.

    Raises:
        TypeError, ValueError: naming the argument, what was found and what was expected.
    """
    import matplotlib.pyplot as plt  # here, because film strips and players must not wait for it
    import numpy as np
    from cycler import cycler

    for name, value in (("width", width), ("height", height)):
        if not 0 < value < float("inf"):
            raise ValueError(f"{name}={value!r}: expected a length in inches, more than 0.")
    rows, columns = integer("rows", rows, 1), integer("columns", columns, 1)
    with plt.style.context("default"):
        fig, axes = plt.subplots(rows, columns, figsize=(width, height), layout="constrained", **subplots)
        fig.set_facecolor("white")
    cycle = cycler(color=PALETTE) + cycler(linestyle=_LINES) + cycler(marker=_MARKERS)
    for ax in np.ravel(axes):
        # Set on the axes and not in rcParams: ticks and lines are made later, when no style context is open.
        ax.set_prop_cycle(cycle + cycler(markersize=[5] * len(PALETTE)))
        ax.tick_params(labelsize=_SIZE, colors="black")
        for text in (ax.title, ax.xaxis.label, ax.yaxis.label):
            text.set_fontsize(_SIZE)
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(color="#D0D0D0", linewidth=0.6)
        ax.set_axisbelow(True)
    return fig, axes
