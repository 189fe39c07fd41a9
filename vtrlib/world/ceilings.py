r"""What an ideal observer would score: Bayes ceilings, computed from the generator itself.

A query (event e, allowed scenes S) was written for one captioned moment. For a moment m of a video v whose observable
attributes are o, the probability that the query was written for it is, up to a factor common to all,

    P(m | query, o)  ∝  P(captioned) · Σ_s P(s | what is known of v's scene) · 1[s ∈ S] · 1[e agrees with o]
                        · Π_a P(e_a | s)   over the attributes a that are erased in m.

*With context* the scene is known: other frames of the video show it. *Without*, a moment is judged by its own frames;
where they are degraded they hide the scene, and only P(s | o) ∝ Π P(o_a | s) is left; and P(captioned) is taken as equal
for all, while with context it follows from the number of moments. Ranking by the probability that a video is the
annotated one maximises the expected R@K of each query, so nothing that answers each query on its own from the same
evidence scores more on average. Scoring all queries jointly, as dual softmax does, may.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vtrlib.check import integer
from vtrlib.world import card
from vtrlib.world.dataset import MovingDigits
from vtrlib.world.video import Query

__all__ = ["Ceiling", "Posterior", "bayes_ceiling", "expected_recall", "posterior"]

Floats = NDArray[np.float64]
RANKS = (1, 5, 10, 100)
_BLUR, _LOW_CONTRAST, _OCCLUSION = 1, 2, 3


@dataclass(frozen=True)
class Posterior:
    """What an ideal observer believes about Q queries and V videos.

    Attributes:
        annotated: (Q, V), P(the query was written for video v); rows sum to 1.
        true: (Q, V), P(the query is true in video v). Without context the moments of a video are combined as if
            independent, though they share a scene; the ranking is then close to ideal, not exactly so.
    """

    annotated: Floats
    true: Floats


@dataclass(frozen=True)
class Ceiling:
    """Expected R@K in per cent, K in `RANKS`, when videos are ranked by a `Posterior`, ties broken at random.

    Attributes:
        annotated: only the annotated video counts as found.
        true: any video in which the query is true counts.
    """

    annotated: dict[int, float]
    true: dict[int, float]

    @property
    def sum_r(self) -> float:
        """SumR of the annotated video, 0 … 400."""
        return sum(self.annotated.values())


def posterior(
    world: MovingDigits, queries: list[Query] | None = None, *, context: bool = True, order: bool = True
) -> Posterior:
    """The ideal observer's beliefs.

    Args:
        world: the gallery.
        queries: of this world; all of them by default.
        context: whether a moment is judged knowing the scene of its video, or by its own frames alone.
        order: whether frames are seen in order. Out of order, opposite motions look alike.

    Raises:
        ValueError: there is no query, or one that can be true in no video of the world.
    """
    queries = world.queries() if queries is None else queries
    if not queries:
        raise ValueError("queries is empty: expected at least one.")
    play = world.screenplay
    scenes, colours = (list(part) for part in card.DOMAINS[world.domain])
    p_digit, p_motion = _rows_to_one(card.DIGIT_WEIGHTS[scenes]), _rows_to_one(card.MOTION_WEIGHTS[scenes])
    p_colour = np.zeros((len(scenes), len(card.COLOURS)))
    p_colour[:, colours] = _rows_to_one(card.COLOUR_WEIGHTS[scenes][:, colours])

    blur, pale, hidden = (play.degradation == kind for kind in (_BLUR, _LOW_CONTRAST, _OCCLUSION))
    # Beliefs about the scene, (V, M, S): certain where it is seen, else from what the moment itself shows.
    scene = np.repeat((np.array(scenes) == play.scene[:, None])[:, None].astype(float), play.digit.shape[1], axis=1)
    if not context:
        guess = np.where(blur[..., None], 1, p_digit.T[play.digit])
        guess = guess * np.where(pale[..., None], 1, p_colour.T[play.colour])
        guess = guess * np.where(hidden[..., None], 1, p_motion.T[play.motion])
        degraded = (play.degradation > 0)[..., None]
        scene = np.where(degraded, guess / guess.sum(-1, keepdims=True), scene)
    weight = _captioned_share(play.counts, world.view) if context else np.ones(len(world))

    annotated = np.empty((len(queries), len(world)))
    contains = np.empty_like(annotated)
    known: dict[tuple[object, frozenset[int]], tuple[Floats, Floats]] = {}
    for row, query in enumerate(queries):
        event, key = query.event, (query.event, query.scenes)
        if key not in known:
            direction = np.ones(play.motion.shape)
            moves = play.motion == event.motion
            if not order and card.OPPOSITE[event.motion] != event.motion:
                moves = play.motion // 2 == event.motion // 2
                direction = np.where(hidden, 1.0, 0.5)
            agrees = play.used & (hidden | moves)
            agrees &= blur | (play.digit == event.digit)
            agrees &= pale | (play.colour == event.colour)
            likely = np.where(blur[..., None], p_digit[:, event.digit], 1)
            likely = likely * np.where(pale[..., None], p_colour[:, event.colour], 1)
            likely = likely * np.where(hidden[..., None], p_motion[:, event.motion], 1)
            allowed = np.isin(scenes, list(query.scenes))
            p = agrees * direction * (scene * likely * allowed).sum(-1)  # (V, M)
            known[key] = p.sum(1) * weight, 1 - np.prod(1 - p, axis=1)
        annotated[row], contains[row] = known[key]
    mass = annotated.sum(1, keepdims=True)
    if not mass.all():
        stranger = queries[int(np.flatnonzero(mass[:, 0] == 0)[0])]
        raise ValueError(f"queries: {stranger.text!r} can be true in no video of {world!r}. Leave such queries out.")
    annotated /= mass
    # The video the query was written for holds the event for sure; of the others we know what their frames say.
    return Posterior(annotated, annotated + (1 - annotated) * contains)


def bayes_ceiling(
    world: MovingDigits, queries: list[Query] | None = None, *, context: bool = True, order: bool = True
) -> Ceiling:
    """What an ideal observer scores on this very gallery; arguments as for `posterior`."""
    queries = world.queries() if queries is None else queries
    belief = posterior(world, queries, context=context, order=order)
    found = np.zeros(belief.annotated.shape, dtype=bool)
    found[np.arange(len(queries)), [q.video for q in queries]] = True
    correct = np.zeros_like(found)
    for row, query in enumerate(queries):
        correct[row, world.true_positives(query).numpy()] = True
    return Ceiling(
        {k: 100 * expected_recall(belief.annotated, found, k) for k in RANKS},
        {k: 100 * expected_recall(belief.true, correct, k) for k in RANKS},
    )


def expected_recall(scores: Floats, relevant: NDArray[np.bool_], k: int) -> float:
    """Share of queries with a relevant video among the first `k`, expected over random orders of equal scores, 0 … 1.

    Args:
        scores: (Q, V), higher is better; scores within 1e-9 of each other count as equal.
        relevant: (Q, V), at least one per query.
    """
    # Not by vtrlib.metrics, which stands above the world; tests hold the two against each other.
    k = min(integer("k", k, low=1), scores.shape[1])
    scores = np.round(scores, 9)
    cut = -np.sort(-scores, axis=1)[:, k - 1 : k]  # the k-th best score of each query
    above, tied = scores > cut, scores == cut
    sure = (above & relevant).any(1)
    places, size, hits = k - above.sum(1), tied.sum(1), (tied & relevant).sum(1)
    # Chance that a random choice of `places` of the `size` tied videos misses all `hits` relevant ones.
    step = np.arange(scores.shape[1])
    drawn = step < hits[:, None]
    left = np.clip((size - places)[:, None] - step, 0, None) / np.maximum(size[:, None] - step, 1)
    miss = np.where(drawn, left, 1.0).prod(1)
    return float(np.where(sure, 1.0, 1 - miss).mean())


def _rows_to_one(weights: NDArray[np.int64]) -> Floats:
    rows: Floats = weights / weights.sum(1, keepdims=True)
    return rows


def _captioned_share(counts: NDArray[np.int64], view: str) -> Floats:
    """P(a moment is captioned | its video has `counts` moments), (V,)."""
    if view == "trimmed":
        return np.ones(len(counts))
    described = {n: [c for c in card.CAPTIONED for d in card.DISTRACTORS if c + d == n] for n in set(counts.tolist())}
    return np.array([np.mean(described[n]) / n for n in counts.tolist()])
