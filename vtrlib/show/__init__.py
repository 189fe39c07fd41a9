"""Things to look at: film strips, clip players, time-lines of moments, figures.

Everything for a page is an `Html` object: it works in JupyterLab and in the built static page, by mouse and by
keyboard, loads nothing, and says in words what it shows.
"""

from vtrlib.show.figure import HATCHES, figure
from vtrlib.show.html import Html
from vtrlib.show.maps import scatter_groups
from vtrlib.show.picture import save_gif, save_strip, tile
from vtrlib.show.player import player
from vtrlib.show.steps import steps
from vtrlib.show.strip import film_strip, strips
from vtrlib.show.style import PALETTE
from vtrlib.show.timeline import timeline

__all__ = [
    "HATCHES", "PALETTE", "Html", "figure", "film_strip", "player", "save_gif", "save_strip", "scatter_groups", "steps",
    "strips", "tile", "timeline",
]  # fmt: skip
