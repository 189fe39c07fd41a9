"""Moving Digits: an embedded video-text world with known truth.

Handwritten digits move over scenes; sentences from a small grammar say what happens. The world is generated, so the
book runs anywhere, offline, and a model can be held against what an ideal observer would score.
"""

from vtrlib.world.captioner import pseudo_captions
from vtrlib.world.card import WORLD_VERSION
from vtrlib.world.ceilings import Ceiling, bayes_ceiling, posterior
from vtrlib.world.dark_stage import DarkStage
from vtrlib.world.dataset import Batch, MovingDigits, collate
from vtrlib.world.video import Event, Moment, Query, Video

__all__ = [
    "WORLD_VERSION", "Batch", "Ceiling", "DarkStage", "Event", "Moment", "MovingDigits", "Query", "Video", "bayes_ceiling",
    "collate", "posterior", "pseudo_captions",
]  # fmt: skip
