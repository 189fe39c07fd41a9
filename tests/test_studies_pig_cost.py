"""What is timed of PIG's towers: that it is what it says, what it counts and holds, and how medians are taken."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from small_pig import SIZES, Naive, batch, cos, features, small

from vtrlib import experiments
from vtrlib.pig import VARIANTS, Videos, XPool
from vtrlib.studies import discovla_cost
from vtrlib.studies import pig_cost as study

# Frames of 4 patches and 4 proxies; D is 8.
MADE: dict[str, Any] = {"clip": SIZES, "frames": 5, "top": 3}


@pytest.mark.parametrize("tower", list(study.TOWERS))
def test_scores_of_each_tower_against_loops(tower: str) -> None:
    model = small(pseudo_query="query", alpha=0.0)
    texts, kept = features(3, 8, seed=1), features(7, 4, 8, seed=2)
    naive, expected = Naive(model), torch.empty(3, 7, dtype=torch.float64)
    for q, text in enumerate(texts):
        for v, tokens in enumerate(kept):
            if tower == "single-tower":
                expected[q, v] = cos(text, naive.pool(text, list(tokens)))
            else:
                expected[q, v] = sum(a * b for a, b in zip(text.tolist(), tokens[0].tolist(), strict=True))
    found = study.scoring(tower, model.fusioner, texts, kept if tower == "single-tower" else kept[:, 0])
    torch.testing.assert_close(found, expected)
    assert not found.requires_grad


@pytest.mark.parametrize("tower", list(study.TOWERS))
def test_what_is_stored_is_what_the_tower_s_model_scores_with(tower: str) -> None:
    variant = study.TOWERS[tower]
    assert {"two-tower": "clip_vip", "hybrid": "pig", "single-tower": "single_tower"}[tower] == variant
    model, given = small(**VARIANTS[variant]), batch()
    videos = study.encoding(model, given["video"])
    texts = torch.nn.functional.normalize(features(4, 8, seed=3), dim=1)
    if tower == "single-tower":
        kept, expected = torch.cat([videos.x_v, videos.x_f], 1), model.score_pairs(texts, videos)
    else:
        kept, expected = model.index(given["video"]), model.score(texts, videos.v)
    torch.testing.assert_close(study.scoring(tower, model.fusioner, texts, kept), expected)
    made = study.stored(tower, 3, 3 + 5, 8, torch.Generator().manual_seed(0))  # three proxies, five frames
    assert made.shape == kept.shape and made.dtype == torch.float32
    torch.testing.assert_close(made.norm(dim=-1), torch.ones(made.shape[:-1]))
    assert torch.equal(made, study.stored(tower, 3, 8, 8, torch.Generator().manual_seed(0)))


def test_encoding_is_the_model_s_with_what_is_used_alone() -> None:
    model, video = small(), batch()["video"]
    found, expected = study.encoding(model, video), model.encode_video(video)
    torch.testing.assert_close(found.v, expected.v)
    assert found.x_p is None and expected.x_p is not None and not found.v.requires_grad


def test_models_are_random_ones_of_the_towers() -> None:
    models = study._models(SIZES, 5, 3)
    assert models.keys() == study.TOWERS.keys() and not any(model.training for model in models.values())
    for tower, model in models.items():
        config = model.config
        assert (config.frames, config.top, config.backbone) == (5, 3, "clip_vip") and config.sizes.projection_dim == 8
        assert config.pseudo_query == {"two-tower": "none", "hybrid": "causal", "single-tower": "query"}[tower]


def test_a_peak_is_counted_to_the_byte() -> None:
    size, kept = 2**18, torch.ones(2**18)  # a MiB each; what was there before is not counted

    def step() -> torch.Tensor:
        three = [torch.ones(size) for _ in range(3)]
        summed = three[0] + kept
        del three
        return torch.cat([summed, summed])

    assert study.peak(step) == study.peak(step) == 4
    assert study.peak(lambda: torch.cat([kept, kept])) == 2
    assert study.peak(lambda: kept.view(2, -1)) == 0


def test_the_peak_is_what_scoring_holds() -> None:
    queries, tokens, width = 30, 5, 64
    fusioner, texts = XPool(width).eval(), study.stored("", queries, 1, width)

    def found(tower: str, videos: int) -> float:
        kept = study.stored(tower, videos, tokens, width)
        return study.peak(lambda: study.scoring(tower, fusioner, texts, kept))

    assert found("hybrid", 700) == found("two-tower", 700) == 4 * queries * 700 / 2**20, "scores alone"
    pairs = 4 * queries * 700 * width / 2**20  # one feature a pair
    assert 3 * pairs < found("single-tower", 700) < 12 * pairs, "several features of each pair are held at once"
    assert found("single-tower", 1400) == pytest.approx(2 * found("single-tower", 700), rel=1e-3)


def test_everything_that_the_ledger_keeps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Medians over rounds; the machine is three times as slow in the second."""
    videos, queries, tokens, width, matrix = 6, 3, 4 + 5, 8, 16
    threads, scored, asked = torch.get_num_threads(), dict[str, torch.Tensor](), list[object]()

    def interleaved(steps: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
        assert repeats == 3 and torch.get_num_threads() == 1
        made: dict[str, Any] = {name: step() for name, step in steps.items()}
        assert torch.equal(made.pop("matmul"), torch.full((matrix, matrix), float(matrix)))
        for name, found in made.items():
            if name.endswith("encode"):
                assert isinstance(found, Videos) and found.v.shape == (1, width)
            else:
                assert found.shape == (queries, videos) and found.abs().max() <= 1 + 1e-5
                scored[name] = found
        seconds = {name: 2.0 + 0.5 * name.startswith("hybrid") for name in made} | {"matmul": 0.5}
        taken = {name: [x, 3 * x, 1.1 * x] for name, x in seconds.items()}
        return taken | {"single-tower/score": [8.0, 24.0, 17.6]}

    def peak(step: Callable[[], object]) -> float:
        asked.append(step())
        return 7.0 + len(asked)

    monkeypatch.setattr(discovla_cost, "interleaved", interleaved)
    monkeypatch.setattr(study, "peak", peak)
    before = torch.random.get_rng_state()
    found = study.gallery_costs(0, **MADE, videos=videos, queries=queries, matrix=matrix, repeats=3)
    assert threads == torch.get_num_threads() and torch.equal(before, torch.random.get_rng_state())
    names = ["offline ms", "offline ratio", "online ms", "online ratio", "online share", "stored KB", "peak MiB"]
    assert list(found)[0] == "matmul GFLOP/s"
    assert set(found) == {"matmul GFLOP/s", *(f"{tower}/{name}" for tower in study.TOWERS for name in names)}
    product = 2 * matrix**3
    assert found["matmul GFLOP/s"] == pytest.approx(product / 0.55 / 1e9)
    assert found["hybrid/offline ms"] == pytest.approx(1000 * 2.75)
    assert found["hybrid/online ms"] == pytest.approx(1000 * 2.75 / queries)
    assert found["hybrid/online ratio"] == found["hybrid/offline ratio"] == pytest.approx(1.25)
    assert found["two-tower/online ratio"] == found["two-tower/offline ratio"] == 1
    # Rounds of 8, 24 and 17.6 s beside 2, 6 and 2.2 s: 4, 4 and 8 times as long, though medians are 8 times.
    assert found["single-tower/online ratio"] == pytest.approx(4)
    assert found["single-tower/online ms"] == pytest.approx(1000 * 17.6 / queries)
    # Operations: keys and values of each token; three matrices, and two products with tokens, of each pair; the scores.
    scores = 2 * queries * videos * width
    fused = 2 * 2 * videos * tokens * width**2 + videos * queries * (3 * 2 * width**2 + 2 * 2 * tokens * width)
    # Products of 0.5, 1.5 and 0.55 s take the same share of 2, 6 and 2.2 s each; of 8, 24 and 17.6 s the last is half.
    assert found["two-tower/online share"] == pytest.approx(scores / product * 0.5 / 2)
    assert found["hybrid/online share"] == pytest.approx(scores / product * 0.5 / 2.5)
    assert found["single-tower/online share"] == pytest.approx((scores + fused) / product * 0.5 / 8)
    assert [found[f"{tower}/stored KB"] for tower in study.TOWERS] == [4 * 8 / 1024, 4 * 8 / 1024, 4 * 9 * 8 / 1024]
    assert [found[f"{tower}/peak MiB"] for tower in study.TOWERS] == [8, 9, 10]
    for made, tower in zip(asked, study.TOWERS, strict=True):
        assert isinstance(made, torch.Tensor) and torch.equal(made, scored[f"{tower}/score"])


def test_threads_come_back_when_something_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise FloatingPointError

    monkeypatch.setattr(discovla_cost, "interleaved", fail)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(FloatingPointError):
            study.gallery_costs(0, **MADE, videos=2, queries=2, matrix=4, repeats=1)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


def test_full_size_is_that_of_the_paper() -> None:
    config = experiments.REGISTRY["pig-gallery-cost"].config
    assert (config["clip"], config["frames"], config["top"]) == ({}, 12, 16)


def test_the_canary_feels_its_seed() -> None:
    one = study._first_scores(0)
    assert len(set(one)) == 3 and all(0 < x < 1 for x in one)
    assert one == study._first_scores(0, videos=5) != study._first_scores(1)
