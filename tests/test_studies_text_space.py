"""What DreamPRVR's textual losses ask for, and the scores of a text space: against loops, finite differences, Bayes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest
import torch
from small_dreamprvr import LABELS, features, lengths, small
from torch import Tensor
from torch.nn import functional as F

from vtrlib.clusters import neighbour_purity, silhouette
from vtrlib.dreamprvr import DATASETS, Config, diversity, perturb, query_similarity_preservation
from vtrlib.studies import dreamprvr
from vtrlib.studies import text_space as study
from vtrlib.world import MovingDigits, card

CONFIGS = [Config.for_dataset(name, reading) for name, reading in product(DATASETS, ("released", "paper"))]
NAMES = [f"{name}, {reading}" for name, reading in product(DATASETS, ("released", "paper"))]


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The world with a few videos of each split, encoded into a folder of this test."""
    monkeypatch.setenv("VTRLIB_CACHE", str(tmp_path))
    dreamprvr.world.cache_clear()
    whole, sizes = dreamprvr.world, {"train": 33, "val": 5, "test": 22}
    monkeypatch.setattr(dreamprvr, "world", lambda split, videos=None: whole(split, videos or sizes[split]))
    yield
    whole.cache_clear()


# --- the query branch and the sampler ---


def test_a_query_is_the_weighted_sum_of_its_words_and_padding_has_no_weight() -> None:
    branch = small().query
    words, mask = features(3, 5, 11, seed=1), lengths([5, 1, 3], 5)
    found = branch(words, mask)
    states = branch.states(words, mask)
    for n in range(3):
        there = mask[n].nonzero().flatten().tolist()
        scores = [math.exp(float(branch.pool.weight[0].detach() @ states[n, word].detach())) for word in there]
        expected = sum(s / sum(scores) * states[n, word] for s, word in zip(scores, there, strict=True))
        torch.testing.assert_close(found[n], expected)
    words[1, 1:] = torch.nan  # as its own query, it can't be seen
    alone = branch(words[1:2, :1], mask[1:2, :1])
    torch.testing.assert_close(found[1:2], alone)


def test_the_perturbation_trains_nothing_and_passes_the_gradient_through_the_whitened_mean_alone() -> None:
    mean = features(3, 7, seed=2).requires_grad_()
    alpha, beta = features(3, 2, 7, seed=3), features(3, 2, 7, seed=4)
    weight = features(3, 2, 7, seed=5)
    (found,) = torch.autograd.grad((perturb(mean, 2, 0.1, alpha, beta) * weight).sum(), mean)
    gain = 1 + 0.1 * mean.detach().std(-1, keepdim=True)[:, None] * alpha

    def whitened(x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()

    (expected,) = torch.autograd.grad((gain * whitened(mean)[:, None] * weight).sum(), mean)
    torch.testing.assert_close(found, expected)
    assert not perturb(mean.detach(), 2).requires_grad  # nothing of its own to train


def test_perturbations_vary_little() -> None:
    """Their variance is 2 γ² σ_q² of the whitened mean's square, 2 per cent where σ_q = 1."""
    mean = F.layer_norm(features(5, 64, seed=6), (64,))
    drawn = perturb(mean, 4000, 0.1, generator=torch.Generator().manual_seed(0))
    middle = drawn.mean(1, keepdim=True)
    share = (drawn - middle).square().sum(-1).mean() / middle.square().sum(-1).mean()
    assert share.item() == pytest.approx(2 * 0.1**2, rel=0.05)
    assert F.cosine_similarity(drawn, mean[:, None], dim=-1).min() > 0.97


# --- what the losses ask for ---


def test_diversity_separates_queries_of_a_video_and_sees_no_others() -> None:
    q = features(7, 5, seed=0).requires_grad_()
    for over in ("videos", "queries"):
        parts = [diversity(q[v == LABELS], LABELS[v == LABELS], over=over) for v in LABELS.unique()]
        sizes = [int((v == LABELS).sum()) for v in LABELS.unique()]
        whole = diversity(q, LABELS, over=over)
        if over == "queries":
            expected = sum(s * part for s, part in zip(sizes, parts, strict=True)) / sum(sizes)
        else:
            expected = sum(parts) / sum(s > 1 for s in sizes)
        torch.testing.assert_close(whole, torch.as_tensor(expected))
        # Moving a video's queries as one, towards or away from the others, is free.
        turned = torch.linalg.qr(features(5, 5, seed=1))[0]
        moved = torch.where((LABELS == 2)[:, None], q @ turned, q)
        torch.testing.assert_close(diversity(moved, LABELS, over=over), whole)


@pytest.mark.parametrize("itself", [False, True])
def test_with_itself_among_its_competitors_a_query_contrasts_nothing(itself: bool) -> None:
    """At the released τ of Charades-STA its own term in the softmax is e¹⁰⁰, and queries of other videos have no say."""
    q = F.normalize(features(7, 5, seed=0))
    basis = torch.eye(7, dtype=torch.float64)
    offsets = torch.zeros(7, 7, dtype=torch.float64, requires_grad=True)
    cosines, tau, mates = q @ q.T + offsets, Config.for_dataset("charades").temperature, LABELS[:, None] == LABELS
    rows = []
    for i in range(7):
        own = [j for j in range(7) if j != i and mates[i, j]]
        field = [k for k in range(7) if itself or k != i]
        if own:
            rows.append(torch.logsumexp(cosines[i, field] / tau, 0) - cosines[i, own].mean() / tau)
    loss = torch.stack(rows).mean()
    torch.testing.assert_close(loss, query_similarity_preservation(q, LABELS, tau, itself=itself))
    (slopes,) = torch.autograd.grad(loss, offsets)
    others = slopes[~mates & (basis == 0)]
    aligned = slopes[mates & (basis == 0)]
    assert aligned.mean() < -1
    assert (others.abs().max() < 1e-6) == itself


@pytest.mark.parametrize("config", CONFIGS, ids=NAMES)
@pytest.mark.parametrize("queries", [2, 3, 5])
def test_forces_by_finite_differences(config: Config, queries: int) -> None:
    """Turn one of many orthogonal queries towards another one of its video: two cosines grow, no other one does."""
    videos, printed = 20, config.reading.averages == "printed"
    number = videos * queries
    labels, axes = torch.arange(videos).repeat_interleave(queries), torch.eye(number, dtype=torch.float64)

    def losses(angle: float) -> tuple[float, float]:
        q = axes.clone()
        q[0] = math.cos(angle) * axes[0] + math.sin(angle) * axes[1]
        over = "videos" if printed else "queries"
        push = diversity(q, labels, omega=config.omega, delta=config.delta, over=over)
        pull = query_similarity_preservation(q, labels, config.temperature, itself=printed)
        return float(config.weights.diversity * push), float(config.weights.qsp * pull)

    step = 1e-6
    slopes = [(a - b) / (2 * step) for a, b in zip(losses(step), losses(-step), strict=True)]
    push, pull = study.forces(config, queries)
    taken = 0 if printed else (queries - 1) / (number - 1)  # of the softmax, by its mates
    assert slopes[0] == pytest.approx(2 / number * push, rel=1e-5)
    assert slopes[1] == pytest.approx(-2 / number * pull * (1 - taken), rel=1e-3)


@pytest.mark.parametrize("config", CONFIGS, ids=NAMES)
def test_who_pulls_harder_decides_where_free_queries_rest(config: Config) -> None:
    """With the released weights for ActivityNet and Charades-STA, three queries of a video end further apart than those
    of different videos; with TVR's, together."""
    for queries in (2, 3):
        free, labels = study.settle(config, queries, videos=11, width=32, steps=150)
        cosines = study.mean_cosines(free, study.Shared(labels, labels, labels))
        together = cosines["video"] > cosines["other"]
        assert together == (study.balance(config, queries) > 1)
        pure = neighbour_purity(free, labels)
        assert pure > 0.9 if together else pure < 0.1
    assert (study.balance(config, 3) > 1) == (config.delta == 0.15)  # TVR's


def test_each_loss_alone_is_obeyed() -> None:
    config = Config.for_dataset("charades")
    for off, together in (("qsp", False), ("diversity", True)):
        alone = replace(config, weights=replace(config.weights, **{off: 0.0}))
        free, labels = study.settle(alone, 4, videos=11, width=32, steps=150)
        pure = neighbour_purity(free, labels)
        assert pure > 0.9 if together else pure < 0.1
        assert (study.balance(alone, 4) > 1) == together


# --- scores of a space ---


def test_structure_against_loops() -> None:
    kinds = study.Shared(LABELS, torch.tensor([0, 1, 0, 2, 1, 3, 3]), torch.tensor([5, 5, 4, 5, 5, 5, 4]))
    q = features(7, 5, seed=3)
    found, unit = study.structure(q, kinds), F.normalize(q)
    cosines: dict[str, list[float]] = {"video": [], "event": [], "scene": [], "other": []}
    for i in range(7):
        for j in range(7):
            c, own = float(unit[i] @ unit[j]), kinds.video[i] == kinds.video[j]
            if own and i != j:
                cosines["video"].append(c)
            if not own:
                cosines["other"].append(c)
                for kind in ("event", "scene"):
                    if getattr(kinds, kind)[i] == getattr(kinds, kind)[j]:
                        cosines[kind].append(c)
    mean = {kind: fmean(values) for kind, values in cosines.items()}
    assert study.mean_cosines(q, kinds) == pytest.approx(mean)
    assert found == pytest.approx({
        "purity": neighbour_purity(q, LABELS), "silhouette": silhouette(q, LABELS),
        "event purity": neighbour_purity(q, kinds.event), "dispersion": 1 - mean["other"],
        "coherence": mean["video"] - mean["other"], "video cosine": mean["video"], "event cosine": mean["event"],
    })  # fmt: skip


def test_few_videos_come_with_all_their_queries() -> None:
    kinds = study.Shared(LABELS, LABELS, LABELS)
    some = study.few_videos(kinds, 2, seed=3)
    chosen = LABELS[some].unique()
    assert len(chosen) == 2 and len(some) == sum(Counter(LABELS.tolist())[v] for v in chosen.tolist())
    assert len({tuple(study.few_videos(kinds, 2, seed=s).tolist()) for s in range(30)}) == 6
    with pytest.raises(ValueError, match=r"^videos=5: expected at most 4"):
        study.few_videos(kinds, 5)


def test_the_reader_is_calibrated_and_knows_no_more_than_bayes() -> None:
    world = MovingDigits("train", "untrimmed")
    beliefs, kinds = study.reader(world), study.shared(world)
    assert beliefs.sum(1).numpy() == pytest.approx(np.ones(len(kinds.video)))
    # What is believed with probability p comes true in a share p of cases.
    true = F.one_hot(kinds.scene, len(card.SCENES)).bool()
    for low in (0.0, 0.1, 0.3, 0.6, 0.9):
        at = (beliefs > low) & (beliefs <= low + 0.3)
        assert true[at].float().mean().item() == pytest.approx(float(beliefs[at].mean()), abs=0.02)
    query, belief = next((q, b) for q, b in zip(world.queries(), beliefs, strict=True) if len(q.scenes) == 2)
    weights = [
        card.DIGIT_WEIGHTS[s, query.event.digit] / card.DIGIT_WEIGHTS[s].sum()
        * card.COLOUR_WEIGHTS[s, query.event.colour] / card.COLOUR_WEIGHTS[s].sum()
        * card.MOTION_WEIGHTS[s, query.event.motion] / card.MOTION_WEIGHTS[s].sum()
        * (s in query.scenes)
        for s in range(6)
    ]  # fmt: skip
    assert belief.numpy() == pytest.approx(np.array(weights) / sum(weights))


# --- models and the experiment ---


def test_models_differ_in_what_their_names_say() -> None:
    models = study.text_models("released")
    full = models["full"]
    assert models["L_div only"] == replace(full, weights=replace(full.weights, qsp=0.0))
    assert models["L_qsp only"] == replace(full, weights=replace(full.weights, diversity=0.0))
    assert models["w/o L_tss"] == replace(full, weights=replace(full.weights, diversity=0.0, qsp=0.0))
    assert models["as printed"] == replace(full, reading=full.reading.flipped("averages"))
    tvr = models["balance of TVR"]
    assert study.balance(tvr, 5) == study.balance(Config.for_dataset("tvr"), 5)
    assert replace(tvr, temperature=full.temperature, delta=full.delta, weights=full.weights) == full
    paper = study.text_models("paper")
    assert paper["as printed"] == paper["full"] != full


@pytest.mark.usefixtures("tiny")
def test_queries_are_those_of_the_collection_and_training_starts_untrained() -> None:
    data, world = dreamprvr.world("val", 5), MovingDigits("val", "untrimmed", size=5)
    assert [caption.text for caption in data.captions] == [query.text for query in world.queries()]
    kinds = study.shared(world)
    assert kinds.video.equal(data.relevant)
    for i, a in enumerate(world.queries()):
        for j, b in enumerate(world.queries()):
            assert (kinds.event[i] == kinds.event[j]) == (a.event == b.event)
    config = dreamprvr.settings()
    first, _ = dreamprvr.train(config, data, seed=3, batch=2, until=1)  # BertAdam begins with a step of 0
    fresh = study.untrained(config, 3)
    for (name, a), b in zip(first.named_parameters(), fresh.parameters(), strict=True):
        assert a.equal(b), name
    torch.testing.assert_close(study.embed(fresh, data), dreamprvr.encode(fresh, data)[0])


@pytest.mark.usefixtures("tiny")
def test_the_experiment_measures_every_model_and_its_controls(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = {name: study.text_models("released")[name] for name in ("full", "L_div only")}
    monkeypatch.setattr(study, "text_models", lambda reading: kept)
    metrics: dict[str, Any] = study.text_space(seed=1, reading="released", steps=2, pictures=1)
    per_model = {name.partition("/")[2] for name in metrics if name.startswith("full/")}
    assert per_model == {
        "purity", "silhouette", "event purity", "dispersion", "coherence", "video cosine", "event cosine",
        "few purity", "few silhouette", "plane purity", "plane silhouette", "seen purity", "SumR",
    }  # fmt: skip
    assert {name.partition("/")[0] for name in metrics} == {*kept, "untrained", "reader", "chance"}
    assert all(math.isfinite(value) for value in metrics.values())
    assert metrics["reader/few purity"] > metrics["chance/few purity"]
