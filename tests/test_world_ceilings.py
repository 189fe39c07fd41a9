"""Bayes ceilings: against a naive oracle, against themselves (calibration), and their order."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from vtrlib.world import Event, MovingDigits, bayes_ceiling, card, posterior
from vtrlib.world.ceilings import expected_recall


def naive(world, query, context, order=True):
    """The formula of the module, one video, moment and scene at a time, from the rendered videos' own labels.

    Returns what is believed of each video: that the query was written for it, and that the query is true in it.
    """
    scenes, colours = card.DOMAINS[world.domain]

    def p(table, scene, value, allowed):
        return table[scene][value] / sum(table[scene][v] for v in allowed)

    weights, contains = [], []
    for video in world.__getitems__(range(len(world))):
        n = len(video.moments)
        pairs = [(c, d) for c, d in itertools.product(card.CAPTIONED, card.DISTRACTORS) if c + d == n]
        share = np.mean([c for c, _ in pairs]) / n if context else 1.0
        total, missing = 0.0, 1.0
        for moment in video.moments:
            e, q, kind = moment.event, query.event, moment.degradation
            shown = [
                (card.DIGIT_WEIGHTS, e.digit, q.digit, range(10), kind != "blur"),
                (card.COLOUR_WEIGHTS, e.colour, q.colour, colours, kind != "low contrast"),
                (card.MOTION_WEIGHTS, e.motion, q.motion, range(8), kind != "occlusion"),
            ]
            if context or kind is None:
                belief = {s: float(s == video.scene) for s in scenes}
            else:
                belief = {s: np.prod([p(t, s, own, a) for t, own, _, a, seen in shown if seen]) for s in scenes}
                belief = {s: b / sum(belief.values()) for s, b in belief.items()}
            agrees = [own == asked for _, own, asked, _, _ in shown]
            chance = 1.0
            if not order and kind != "occlusion" and card.OPPOSITE[q.motion] != q.motion:
                agrees[2], chance = e.motion in (q.motion, card.OPPOSITE[q.motion]), 0.5
            if any(seen and not fits for (*_, seen), fits in zip(shown, agrees, strict=True)):
                continue
            here = 0.0
            for s in query.scenes & set(scenes):
                here += belief[s] * np.prod([p(t, s, asked, a) for t, _, asked, a, seen in shown if not seen])
            total += chance * here
            missing *= 1 - chance * here
        weights.append(total * share)
        contains.append(1 - missing)
    written = np.array(weights) / sum(weights)
    return written, written + (1 - written) * np.array(contains)


@pytest.mark.parametrize("context", [True, False])
@pytest.mark.parametrize(("domain", "order"), [("all", True), ("unseen colours", True), ("all", False)])
def test_a_naive_oracle_agrees(context, domain, order):
    world = MovingDigits("val", "untrimmed", domain=domain, size=23)
    queries = world.queries()[:: 17 if order else 5]
    assert len({q.event.motion for q in queries}) > 3 + (not order)
    fast = posterior(world, queries, context=context, order=order)
    for written, true, query in zip(fast.annotated, fast.true, queries, strict=True):
        expected = naive(world, query, context, order)
        np.testing.assert_allclose(written, expected[0], atol=1e-12)
        np.testing.assert_allclose(true, expected[1], atol=1e-12)


def test_a_ceiling_is_the_expected_recall_of_the_beliefs():
    world = MovingDigits("val", "untrimmed", size=60)
    queries = world.queries()[3::4]
    belief, ceiling = posterior(world, queries), bayes_ceiling(world, queries)
    own = np.array([[v == q.video for v in range(60)] for q in queries])
    any_true = np.array([[v in world.true_positives(q).tolist() for v in range(60)] for q in queries])
    for k in (1, 5, 10, 100):
        assert ceiling.annotated[k] == pytest.approx(100 * expected_recall(belief.annotated, own, k))
        assert ceiling.true[k] == pytest.approx(100 * expected_recall(belief.true, any_true, k))
    assert ceiling.sum_r == pytest.approx(sum(ceiling.annotated[k] for k in (1, 5, 10, 100)))
    assert ceiling != bayes_ceiling(world), "the queries matter"


def test_scores_that_differ_by_rounding_are_equal():
    scores = np.array([[0.1 + 0.2, 0.3, 0.0]])
    assert expected_recall(scores, np.array([[False, True, False]]), 1) == 0.5


@pytest.mark.parametrize("context, order", [(True, True), (False, True), (True, False), (False, False)])
def test_beliefs_are_calibrated(context, order):
    """An ideal observer who says 30 % is right in 30 % of the cases: what it expects to score is what it scores."""
    world = MovingDigits("train", "untrimmed", size=400)
    queries = world.queries()
    belief = posterior(world, queries, context=context, order=order)
    scored = bayes_ceiling(world, queries, context=context, order=order).annotated
    for k in (1, 5):
        top = np.sort(belief.annotated, axis=1)[:, -k:].sum(1)
        assert abs(100 * top.mean() - scored[k]) < 4 * 100 * np.sqrt((top * (1 - top)).sum()) / len(queries)
    truth = np.zeros_like(belief.true, dtype=bool)
    for row, query in enumerate(queries):
        truth[row, world.true_positives(query).numpy()] = True
    assert (belief.true[truth] > 0).all(), "what is true is never ruled out"
    if context:  # without it a video's moments are combined as if independent, which they are not quite
        for low, high in ((0.02, 0.3), (0.3, 0.7)):
            inside = (belief.true > low) & (belief.true < high)
            assert inside.sum() > 1000  # queries share videos, hence a wide band
            assert abs(belief.true[inside].mean() - truth[inside].mean()) < 0.05


def test_more_evidence_never_costs_much_and_context_helps_untrimmed_videos():
    world = MovingDigits("val", "untrimmed")
    full, local, bag = (
        bayes_ceiling(world, context=c, order=o) for c, o in ((True, True), (False, True), (True, False))
    )
    assert full.sum_r > local.sum_r + 5 and full.sum_r > bag.sum_r + 5
    assert full.true[1] > local.true[1] + 2 and full.true[1] > bag.true[1] + 10
    assert all(full.true[k] >= full.annotated[k] for k in full.true)


def test_a_trimmed_video_has_no_context_to_lose():
    world = MovingDigits("val", "trimmed")
    one, other = (bayes_ceiling(world, context=c) for c in (True, False))
    assert one == other
    assert one.true == dict.fromkeys(one.true, 100.0), "all is seen, so some true video always comes first"
    queries = world.queries()
    choices = [len(world.true_positives(q)) for q in queries]
    assert one.annotated[1] == pytest.approx(100 * np.mean(1 / np.array(choices)))


def test_expected_recall_is_the_mean_over_all_orders_of_tied_scores():
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 3, (9, 6)).astype(float)
    relevant = rng.random((9, 6)) < 0.35
    relevant[np.arange(9), rng.integers(0, 6, 9)] = True
    for k in (1, 2, 4, 6, 50):
        found = []
        for s, r in zip(scores, relevant, strict=True):
            hits = [r[sorted(order, key=lambda v: -s[v])[:k]].any() for order in itertools.permutations(range(6))]
            found.append(np.mean(hits))
        assert expected_recall(scores, relevant, k) == pytest.approx(np.mean(found), abs=1e-12)


def test_bad_k_is_named():
    with pytest.raises(ValueError, match="k=0: expected at least 1"):
        expected_recall(np.ones((1, 2)), np.ones((1, 2), bool), 0)


def test_queries_without_an_answer_are_named():
    world = MovingDigits("val", size=5)
    nowhere = replace(world.queries()[0], event=Event(0, 0, 0), text="nowhere")
    with pytest.raises(ValueError, match="queries: 'nowhere' can be true in no video of MovingDigits"):
        bayes_ceiling(world, [nowhere])
    with pytest.raises(ValueError, match="queries is empty"):
        posterior(world, [])
