"""What RagMe retrieves: against loops, faiss against torch, padding, bad input; and RagInit."""

from __future__ import annotations

import functools
import importlib.util
import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler
from small_ragme import features
from torch import Tensor

from vtrlib.ragme import Index, rag_init, retrieve, signal_level, video_embedding
from vtrlib.ragme import retrieval
from vtrlib.similarity import unit

close = functools.partial(torch.testing.assert_close, atol=1e-6, rtol=0)
BACKENDS = ["faiss", "torch"]


@functools.cache
def collection(videos: int = 61, width: int = 7) -> Tensor:
    """In families of near-duplicates that reach into each other, with exact twins; not normalised."""
    centres = features(9, width, seed=1)
    vectors = centres[torch.arange(videos) % 9] + 0.25 * features(videos, width, seed=2)
    vectors *= 1 + torch.arange(videos)[:, None] / 10
    vectors[40:44] = vectors[7]
    return vectors


# --- the oracle ---


def cos(a: np.ndarray, b: np.ndarray) -> float:
    return math.fsum(x * y for x, y in zip(a, b, strict=True)) / math.sqrt(
        math.fsum(x * x for x in a) * math.fsum(y * y for y in b)
    )


def by_hand(
    query: Tensor, vectors: Tensor, k: int, dedup: float | None, least: float | None, rule: str, radius: float | None, pool: int
) -> list[int]:
    q, all_ = query.double().numpy(), vectors.double().numpy()
    similar = [cos(q, v) for v in all_]
    # Rounding to float32 leaves twins equal; those come in their order.
    ranked = sorted(range(len(all_)), key=lambda i: (-round(similar[i], 12), i))[:pool]
    ranked = [i for i in ranked if (radius is None or similar[i] < radius) and (least is None or similar[i] >= least)]
    if dedup is None:
        return ranked[:k]
    near = {(i, j): cos(all_[i], all_[j]) > dedup for i in ranked for j in ranked}
    if rule == "greedy":
        kept: list[int] = []
        for i in ranked:
            if not any(near[i, j] for j in kept):
                kept.append(i)
        return kept[:k]
    # Components: the highest rank spreads along near-duplicates until nothing changes.
    label = {i: place for place, i in enumerate(ranked)}
    for _ in ranked:
        for i in ranked:
            label[i] = min(label[j] for j in ranked if near[i, j] or i == j)
    return [i for place, i in enumerate(ranked) if label[i] == place][:k]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("rule", ["greedy", "components"])
@pytest.mark.parametrize(("k", "dedup", "least", "radius", "pool"), [
    (3, 0.965, None, None, None), (5, 0.9, None, None, None), (6, 0.9, 0.3, None, None), (2, 0.93, None, 0.95, None),
    (4, None, None, None, None), (5, 0.9, None, None, 23), (40, 0.9, None, 0.98, 55), (1, 0.965, 0.2, 0.9, 7),
])  # fmt: skip
def test_retrieve(
    backend: str, rule: str, k: int, dedup: float | None, least: float | None, radius: float | None, pool: int | None
) -> None:
    vectors, queries = collection(), torch.cat([collection()[[7, 12]], features(3, 7, seed=3)])
    index, lists = Index(vectors, backend), []
    assert index.backend == backend and len(index) == 61
    for query in queries:
        expected = by_hand(query, vectors, k, dedup, least, rule, radius, pool or 10 * k)
        found = retrieve(query, index, k, dedup, least, rule, radius=radius, pool=pool)
        assert found.ids[: len(expected)].tolist() == expected
        assert found.ids[len(expected) :].eq(-1).all() and found.ids.shape == (k,)
        assert found.mask.equal(found.ids >= 0) and found.mask.dtype == torch.bool
        close(found.similarities[: len(expected)].double(), torch.tensor([cos(query.double().numpy(), vectors[i].double().numpy()) for i in expected], dtype=torch.float64))
        assert found.similarities[len(expected) :].eq(0).all()
        lists.append(found)
    whole = retrieve(queries, vectors, k, dedup, least, rule, radius=radius, pool=pool, backend=backend)
    for row, found in enumerate(lists):
        assert whole.ids[row].equal(found.ids) and whole.similarities[row].equal(found.similarities)


def test_the_rules_differ() -> None:
    """A ~ B ~ C with A unlike C: greedy keeps both ends, components one. A's rank decides, not the chain's middle."""
    angles = torch.tensor([0.0, 0.3, 0.6, 2.0])
    vectors = torch.stack([angles.cos(), angles.sin()], 1)
    query, dedup = torch.tensor([1.0, -0.1]), math.cos(0.4)
    assert retrieve(query, vectors, 3, dedup).ids.tolist() == [0, 2, 3]
    assert retrieve(query, vectors, 3, dedup, rule="components").ids.tolist() == [0, 3, -1]


def test_thresholds_are_strict_where_they_say_so() -> None:
    """Similarities 1, 0.5 and 0 exactly: a minimum keeps its own value, a radius doesn't; neither does dedup remove it."""
    vectors = torch.tensor([[1.0, 0, 0, 0], [0.5, 0.5, 0.5, 0.5], [0, 0, 1.0, 0]])
    query = torch.tensor([1.0, 0, 0, 0])
    assert retrieve(query, vectors, 3, None, 0.5).ids.tolist() == [0, 1, -1]
    assert retrieve(query, vectors, 3, None, radius=0.5).ids.tolist() == [2, -1, -1]
    assert retrieve(query, vectors, 3, 0.5).ids.tolist() == [0, 1, 2]
    assert retrieve(query, vectors, 3, 0.499).ids.tolist() == [0, 2, -1]


@pytest.mark.parametrize("backend", BACKENDS)
def test_search(backend: str) -> None:
    """All videos in order, the same for one query as for thirty, and twins by their place, also at the cut."""
    vectors, queries = collection(), features(30, 7, seed=3)
    index = Index(vectors, backend)
    similarities, ids = index.search(queries, 1000)
    assert ids.shape == (30, 61) and all(sorted(row) == list(range(61)) for row in ids.tolist())
    exact = torch.nn.functional.cosine_similarity(queries[:, None].double(), vectors.double(), -1)
    close(similarities, exact.gather(1, ids).float())
    assert (similarities.diff() <= 0).all()
    for row in range(0, 30, 7):
        alone = index.search(queries[row : row + 1], 5)
        assert alone[1][0].equal(ids[row, :5]) and alone[0][0].equal(similarities[row, :5])
    for k in range(1, 7):
        assert index.search(vectors[[42]], k)[1][0].tolist() == [7, 40, 41, 42, 43, *index.search(vectors[[42]], 6)[1][0, 5:]][:k]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("width", [7, 33, 128, 256])
def test_many_twins_come_in_their_order(backend: str, width: int) -> None:
    """Equal vectors have equal similarities, to the last bit; and ties may reach far beyond k."""
    three = features(3, width, seed=1)
    index = Index(three[torch.arange(505) % 3], backend)
    for query in features(12, width, seed=2):
        best = sorted(range(3), key=lambda i: -cos(query.double().numpy(), three[i].double().numpy()))
        order = [place for i in best for place in range(i, 505, 3)]
        for k in (3, 100, 499, 505):
            similarities, ids = index.search(query[None], k)
            assert ids[0].tolist() == order[:k]
            assert len(similarities.unique()) == len({place % 3 for place in order[:k]})


def test_faiss_may_choose_any_of_equal_ones() -> None:
    """Its neighbours at the cut are the last of the collection here; all that are as near are then asked for."""
    vectors = features(3, 33, seed=1)[torch.arange(505) % 3]
    queries, index = features(5, 33, seed=2), Index(vectors, "faiss")
    expected, real = Index(vectors, "torch").search(queries, 20), index._faiss

    def search(asked: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        products = asked @ index.vectors.numpy().T
        ids = np.stack([sorted(range(505), key=lambda i: (-row[i].round(5), -i))[:k] for row in products])
        return np.take_along_axis(products, ids, 1), ids

    index._faiss = SimpleNamespace(search=search, range_search=real.range_search)
    found = index.search(queries, 20)
    assert found[0].equal(expected[0]) and found[1].equal(expected[1])


@pytest.mark.parametrize("backend", BACKENDS)
def test_queries_in_blocks(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, queries = collection(), features(30, 7, seed=3)
    expected = Index(vectors, backend).search(queries, 9)
    monkeypatch.setattr(retrieval, "_PRODUCTS", 4 * 61 + 1)  # four queries a block, two in the last
    found = Index(vectors, backend).search(queries, 9)
    assert found[0].equal(expected[0]) and found[1].equal(expected[1])
    monkeypatch.setattr(retrieval, "_PRODUCTS", 1)
    assert Index(vectors, backend).search(queries, 9)[1].equal(expected[1])


def test_faiss_and_torch_find_the_same() -> None:
    vectors, queries = collection(997, 33), features(21, 33, seed=4)
    one, other = (Index(vectors, backend).search(queries, 50) for backend in BACKENDS)
    assert one[0].equal(other[0]) and one[1].equal(other[1])


def test_without_faiss(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "faiss" else found(name))
    assert Index(collection()).backend == "torch"
    with pytest.raises(ImportError, match=r"backend='faiss': found no faiss.*choose 'torch'"):
        Index(collection(), "faiss")


@pytest.mark.parametrize("backend", BACKENDS)
def test_collections_smaller_than_the_pool(backend: str) -> None:
    """No phantom: what is not there is padding."""
    vectors = torch.eye(3) + 0.1
    found = retrieve(torch.tensor([1.0, 0.5, 0.2]), vectors, 5, backend=backend)
    assert found.ids.tolist() == [0, 1, 2, -1, -1] and found.mask.tolist() == [True] * 3 + [False] * 2
    assert retrieve(torch.ones(3), vectors[:1], 4, backend=backend).ids.tolist() == [0, -1, -1, -1]


def test_other_arrays() -> None:
    """numpy, float64, float16, and a transposed tensor, which lies in memory the other way."""
    vectors, query = collection(), features(7, seed=3)
    expected = retrieve(query, vectors, 5)
    for given in (vectors.numpy(), vectors.double(), vectors.T.contiguous().T):
        assert retrieve(query.numpy(), given, 5).ids.equal(expected.ids)  # type: ignore[arg-type]
    assert retrieve(query.half(), vectors.half(), 5).ids.shape == (5,)
    kept = vectors.clone().requires_grad_()
    assert not retrieve(query, kept, 5).similarities.requires_grad


# --- one vector a video ---


def test_video_embedding() -> None:
    frames = features(2, 3, 5, 4, seed=1) * 7
    frames[1, 2, 3] = 0
    mask = torch.tensor([True, True, False, True, False]).expand(2, 3, 5)
    for given in (None, mask):
        found = video_embedding(frames, given)
        for b in range(2):
            for v in range(3):
                seen = [f for f, there in zip(frames[b, v], mask[b, v], strict=True) if given is None or there]
                units = [f / f.norm() if f.norm() > 0 else f for f in seen]
                mean = torch.stack(units).mean(0)
                close(found[b, v], mean / mean.norm())
    assert video_embedding(torch.zeros(3, 4)).eq(0).all()
    assert video_embedding(frames.half()).dtype == torch.float32
    assert video_embedding(frames, torch.zeros(2, 3, 5)).eq(0).all()
    # Order-blind, and blind to how long a frame's vector is.
    close(video_embedding(frames.flip(2)), video_embedding(frames))


@pytest.mark.parametrize("size", [1e-38, 1e-30, 1e-14, 1e14, 1e30])
def test_vectors_of_any_length_have_a_direction(size: float) -> None:
    """Their squares leave float32, at both ends."""
    vectors = features(20, 6, seed=1)
    lengths = torch.ones(20, 1)
    lengths[::2] = size
    for query in (vectors[3], vectors[3] * size):
        found, expected = retrieve(query, vectors * lengths, 4), retrieve(vectors[3], vectors, 4)
        assert found.ids.equal(expected.ids) and found.ids[0] == 3
        torch.testing.assert_close(found.similarities, expected.similarities, atol=1e-6, rtol=0)
    frames = vectors.view(4, 5, 6)
    torch.testing.assert_close(video_embedding(frames * lengths.view(4, 5, 1)), video_embedding(frames), atol=1e-6, rtol=0)


def test_of_ordinary_vectors_nothing_is_rounded_twice() -> None:
    vectors = features(50, 7, seed=2, dtype=torch.float32) * 40
    assert Index(vectors).vectors.equal(unit(vectors))


# --- RagInit ---


def scheduler(steps: int | None = 20, **settings: Any) -> DDIMScheduler:
    known = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
    made = DDIMScheduler(**{**known, **settings})
    if steps:
        made.set_timesteps(steps)
    return made


def test_the_mean_of_latents_in_half_precision_does_not_overflow() -> None:
    latents, noise = torch.full((1, 3, 1, 1, 1, 1), 30000.0, dtype=torch.float16), torch.zeros(1, 1, 1, 1, 1).half()
    found = rag_init(scheduler(), latents, noise)
    assert found.dtype == torch.float16
    close(found.float(), torch.full_like(found, signal_level(scheduler()) ** 0.5 * 30000).float(), atol=2.0)


def test_levels() -> None:
    """√ᾱ of ZeroScope's schedule: at T, and where samplers of 100, 50, 25, 20 and 10 steps start."""
    assert signal_level(scheduler(None)) ** 0.5 == pytest.approx(0.0683, abs=5e-5)
    for steps, level in {100: 0.0716, 50: 0.0760, 25: 0.0853, 20: 0.0903, 10: 0.1183}.items():
        assert signal_level(scheduler(steps), "first") ** 0.5 == pytest.approx(level, abs=5e-5)
    betas = [(0.00085**0.5 + i / 999 * (0.012**0.5 - 0.00085**0.5)) ** 2 for i in range(1000)]
    assert signal_level(scheduler(None)) == pytest.approx(math.prod(1 - b for b in betas), rel=1e-4)


def test_rag_init() -> None:
    latents, noise = features(2, 3, 4, 5, 2, 6, seed=1, dtype=torch.float64), features(2, 4, 5, 2, 6, seed=2, dtype=torch.float64)
    level = signal_level(scheduler(), "first")
    found = rag_init(scheduler(), latents, noise, start="first")
    for b in range(2):
        close(found[b], math.sqrt(level) * sum(latents[b]) / 3 + math.sqrt(1 - level) * noise[b])
    mask = torch.tensor([[True, False, True], [False] * 3])
    broken = latents.masked_fill(~mask[:, :, None, None, None, None], torch.nan)
    found = rag_init(scheduler(), broken, noise, mask, start="first")
    close(found[0], math.sqrt(level) * (latents[0, 0] + latents[0, 2]) / 2 + math.sqrt(1 - level) * noise[0])
    assert found[1].equal(noise[1])


# --- bad input ---

UNIT = torch.eye(4)


@pytest.mark.parametrize(("call", "message"), [
    (lambda: retrieve(UNIT[0], torch.zeros(0, 4), 1), r"embeddings: found an empty collection, expected at least one video"),
    (lambda: retrieve(UNIT[0], UNIT[0], 1), r"embeddings: found shape \(4,\), expected \(V, D\)"),
    (lambda: retrieve(UNIT[0], torch.cat([UNIT, torch.zeros(2, 4)]), 1), r"embeddings: found only 0 in row 4, 5, expected finite"),
    (lambda: retrieve(UNIT[0], UNIT / UNIT, 1), r"embeddings: found NaN or infinity in row 0, 1, 2, 3, expected"),
    (lambda: retrieve(UNIT[0] * math.inf, UNIT, 1), r"query: found NaN or infinity in row 0"),
    (lambda: retrieve(UNIT[0] * 0, UNIT, 1), r"query: found only 0 in row 0, expected finite vectors that have a direction"),
    (lambda: retrieve(torch.ones(5), UNIT, 1), r"query: found shape \(1, 5\), expected \(Q, 4\) or \(4,\).*same encoder"),
    (lambda: retrieve(torch.ones(1, 1, 4), UNIT, 1), r"query: found shape \(1, 1, 4\), expected \(Q, 4\)"),
    (lambda: retrieve(torch.ones(0, 4), UNIT, 1), r"query: found shape \(0, 4\)"),
    (lambda: retrieve(UNIT[0], UNIT, 0), r"k=0: expected at least 1"),
    (lambda: retrieve(UNIT[0], UNIT, 3, pool=2), r"pool=2: expected at least 3"),
    (lambda: retrieve(UNIT[0], UNIT, 3, math.nan), r"dedup=nan: expected a finite number"),
    (lambda: retrieve(UNIT[0], UNIT, 3, rule="component"), r"rule='component': .*Did you mean 'components'"),
    (lambda: Index(UNIT, "faise"), r"backend='faise': expected one of"),
    (lambda: Index(UNIT).search(UNIT, 0), r"k=0: expected at least 1"),
    (lambda: video_embedding(UNIT[0]), r"frames: found shape \(4,\), expected \(\.\.\., F, D\)"),
    (lambda: video_embedding(torch.ones(2, 0, 4)), r"frames: found shape \(2, 0, 4\)"),
    (lambda: video_embedding(UNIT, torch.ones(3)), r"mask: found shape \(3,\), expected \(4,\), one value a frame"),
    (lambda: rag_init(scheduler(), torch.ones(1, 2, 3, 5, 4, 4), torch.ones(1, 3, 6, 4, 4)),
     r"latents: found shape \(1, 2, 3, 5, 4, 4\), expected \(B=1, K, C=3, F=6, H=4, W=4\).*length and size"),
    (lambda: rag_init(scheduler(), torch.ones(1, 2, 3, 5, 4, 4) / 0, torch.ones(1, 3, 5, 4, 4)), r"latents: found NaN or infinity"),
    (lambda: rag_init(scheduler(), torch.ones(1, 2, 3, 5, 4, 4), torch.ones(1, 3, 5, 4, 4), torch.ones(1, 3)),
     r"mask: found shape \(1, 3\), expected \(B=1, K=2\)"),
    (lambda: signal_level(scheduler(), "end"), r"start='end': expected one of 'last', 'first'"),
    (lambda: signal_level(EulerDiscreteScheduler()), r"scheduler: found init_noise_sigma=.*expected 1, on which Eq. 7 rests"),
])  # fmt: skip
def test_bad_input(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(("call", "message"), [
    (lambda: retrieve(UNIT[0], UNIT, 1.5), r"k=1.5 \(float\): expected an integer"),  # type: ignore[arg-type]
    (lambda: retrieve(UNIT[0], None, 1), r"embeddings: found NoneType, expected a tensor"),  # type: ignore[arg-type]
    (lambda: signal_level(SimpleNamespace()), r"scheduler: found SimpleNamespace without alphas_cumprod"),
    (lambda: signal_level(scheduler(None), "first"), r"scheduler: found none of its steps set.*set_timesteps"),
])  # fmt: skip
def test_wrong_types(call: Callable[[], object], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        call()
