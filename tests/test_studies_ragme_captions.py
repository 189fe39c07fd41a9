"""The study of RagMe's search in captions, on a small made-up MSR-VTT, against formulas and loops."""

from __future__ import annotations

import math
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_msrvtt as small
import torch

from vtrlib import canary
from vtrlib.datasets import read_msrvtt, words
from vtrlib.datasets.words import tokenize
from vtrlib.experiments import REGISTRY
from vtrlib.ragme import Index, Retrieved, retrieve
from vtrlib.studies import ragme_captions as study

SETTINGS: dict[str, Any] = {
    "width": 9, "queries": 13, "ks": (2, 3, 7), "dedup": 0.9, "minimum": 0.7, "radius": 0.99, "others": (0.8, 0.95),
    "narrower": (5,), "timed": 3, "matrix": 32, "repeats": 1,
}  # fmt: skip
WORDS = [
    "a man sings", "A man sings", "a man sings well", "two dogs run, run", "a dog sings", "two dogs sleep", "zebra",
]  # fmt: skip


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where VTRLIB_DATA says; some captions are said again, within a video and across videos."""
    root = small.small_msrvtt(tmp_path)
    monkeypatch.setenv("VTRLIB_DATA", str(root))
    return root


def given() -> study.Captions:
    return study.Captions(tuple(WORDS), (0, 0, 1, 1, 2, 3, 4), ("train", "train", "val", "val", "test", "test", "test"))


# --- vectors ---


def by_formula(fitted: list[str], sentences: list[str], width: int) -> np.ndarray:
    """TF-IDF as scikit-learn defines it, ln((1 + N) / (1 + n)) + 1, rows of length 1, projected by a whole SVD."""
    held = Counter(word for sentence in fitted for word in set(tokenize(sentence)))
    known = sorted(word for word, n in held.items() if n > 1)

    def weighed(text: list[str]) -> np.ndarray:
        rows = [
            [tokenize(s).count(w) * (math.log((1 + len(fitted)) / (1 + held[w])) + 1) for w in known] for s in text
        ]
        lengths = [math.sqrt(math.fsum(x * x for x in row)) or 1 for row in rows]
        return np.array(rows) / np.array(lengths)[:, None]

    directions = np.linalg.svd(weighed(fitted), full_matrices=False)[2][:width]
    return weighed(sentences) @ directions.T


@pytest.mark.parametrize("width", [3, 5])
def test_vectors_are_those_of_the_formula(width: int) -> None:
    fitted, asked = WORDS + ["two zebras sleep in a park", "a park well"], WORDS + ["nobody knows these"]
    embed = study.Embedder(fitted, width)
    found, expected = embed(asked).double(), torch.from_numpy(by_formula(fitted, asked, width))
    assert found.shape == (8, width) and embed(asked).dtype == torch.float32
    torch.testing.assert_close(found @ found.mT, expected @ expected.mT, atol=1e-5, rtol=0)
    assert found[7].eq(0).all() and found[6].eq(0).all(), "of words that nobody or one sentence has nothing is known"
    assert found[0].equal(found[1]), "case is not heard"
    weights = by_formula(fitted, fitted, 99)
    kept = by_formula(fitted, fitted, width)
    assert embed.explained == pytest.approx(kept.var(0).sum() / weights.var(0).sum(), abs=1e-5)
    assert embed.words == 8  # a, man, sings, well, two, dogs, sleep, park


def test_narrower_vectors_are_the_first_columns(data: Path) -> None:
    sentences = list(study.read().sentences)
    found, expected = study.Embedder(sentences, 9)(sentences)[:, :4], by_formula(sentences, sentences, 4)
    np.testing.assert_allclose(found @ found.mT, expected @ expected.T, atol=1e-3)


def test_vectors_are_fitted_on_training_captions_alone(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    class Watched(study.Embedder):
        def __init__(self, sentences: Any, width: int) -> None:
            seen.extend(sentences)
            super().__init__(sentences, width)

    monkeypatch.setattr(study, "Embedder", Watched)
    study.prepare(0, 9, 5)
    assert seen == [s for v in read_msrvtt().values() if v.split == "train" for s in v.captions]


# --- what is asked, and of what ---


def test_reading(data: Path) -> None:
    videos, found = read_msrvtt(), study.read()
    assert len(found) == 3 * 91 and Counter(found.splits) == {"train": 183, "val": 21, "test": 69}
    assert Counter(found.sentences) == Counter(s for v in videos.values() for s in v.captions)
    numbers = dict.fromkeys(found.videos)
    inorder = [v for split in ("train", "val", "test") for v in videos.values() if v.split == split]
    for number, video in zip(numbers, inorder, strict=True):
        mine = [i for i, n in enumerate(found.videos) if n == number]
        assert tuple(found.sentences[i] for i in mine) == video.captions
        assert {found.splits[i] for i in mine} == {video.split}
    assert Counter(study.read(5).splits) == {"train": 15, "val": 15, "test": 15}


def test_queries_are_drawn_from_test_videos_and_are_not_searched_in(data: Path) -> None:
    captions = study.read()
    known = [i % 4 != 0 for i in range(len(captions))]
    asked, rest = study.draw(captions, known, 11, 3)
    assert len(asked) == 11 == len({captions.videos[i] for i in asked})
    assert {captions.splits[i] for i in asked} == {"test"}
    assert sorted(asked + rest) == [i for i, there in enumerate(known) if there]
    assert study.draw(captions, known, 11, 3) == (asked, rest) != study.draw(captions, known, 11, 4)
    with pytest.raises(ValueError, match="queries=24: found 23 test videos with a caption, expected as many"):
        study.draw(captions, [True] * len(captions), 24, 0)


def test_facts_by_hand() -> None:
    repeated = study.Captions(("x", "y", "x", "x", "z", "z"), (0, 0, 0, 1, 2, 2), ("train",) * 6)
    assert study.facts(repeated) == {
        "captions": 6, "videos": 3, "sentences": 3, "captions with a twin": 5, "sentences of several videos": 1,
        "captions of the most frequent sentence": 3,
    }  # fmt: skip


def test_about_by_hand() -> None:
    collection, asked = given(), study.Captions(("a man sings", "a dog sings"), (1, 2), ("test", "test"))
    found = Retrieved(
        torch.tensor([[0, 1, 2], [4, -1, -1]]), torch.tensor([[1.0, 0.5, 0.25], [0.125, 0, 0]]),
        torch.tensor([[True, True, True], [True, False, False]]),
    )  # fmt: skip
    assert study.about(found, asked, collection) == {
        "kept": 2, "short %": 50, "sentences": 2, "videos": 1.5, "own video %": 50, "echo %": 50, "similarity": 0.46875,
    }  # fmt: skip
    other = found._replace(ids=torch.tensor([[0, 2, 1], [4, -1, -1]]))
    assert study.differ(found, other) == 50 and study.differ(found, found) == 0


# --- the whole, by loops ---


def naive(search: study.Search, k: int, width: int, rule: str, dedup: float, minimum: float, radius: float) -> Any:
    """Lists, and what is said of them, sentence by sentence."""
    both = (rows[:, :width].double().numpy() for rows in (search.vectors, search.queries))
    vectors, queries = ([row / np.sqrt(row @ row) for row in rows] for rows in both)
    lists, sums = [], dict.fromkeys(("kept", "short", "sentences", "videos", "own", "echo", "similarity"), 0.0)
    for q, query in enumerate(queries):
        similar = [float(query @ vector) for vector in vectors]
        ranked = sorted(range(len(vectors)), key=lambda i: (-round(similar[i], 7), i))[: 10 * k]
        if "radius" in rule:
            ranked = [i for i in ranked if similar[i] < radius]
        if "minimum" in rule:
            ranked = [i for i in ranked if similar[i] >= minimum]
        near = {(i, j): vectors[i] @ vectors[j] > dedup for i in ranked for j in ranked}
        if rule.startswith("greedy"):
            kept: list[int] = []
            for i in ranked:
                if not any(near[i, j] for j in kept):
                    kept.append(i)
            ranked = kept
        if rule == "components":  # the highest rank spreads until nothing changes
            label, before = {i: place for place, i in enumerate(ranked)}, {}
            while label != before:
                before = dict(label)
                for i in ranked:
                    label[i] = min(label[j] for j in ranked if near[i, j] or i == j)
            ranked = [i for place, i in enumerate(ranked) if label[i] == place]
        lists.append(ranked[:k])
        sums["kept"] += len(lists[-1])
        sums["short"] += len(lists[-1]) < k
        sums["sentences"] += len({search.collection.sentences[i] for i in lists[-1]})
        sums["videos"] += len({search.collection.videos[i] for i in lists[-1]})
        for i in lists[-1]:
            sums["own"] += search.collection.videos[i] == search.asked.videos[q]
            sums["echo"] += search.collection.sentences[i] == search.asked.sentences[q]
            sums["similarity"] += similar[i]
    said = {name: sums[name] / len(queries) for name in ("kept", "sentences", "videos")}
    said |= {"short %": 100 * sums["short"] / len(queries), "own video %": 100 * sums["own"] / sums["kept"]}
    said |= {"echo %": 100 * sums["echo"] / sums["kept"], "similarity": sums["similarity"] / sums["kept"]}
    return lists, said


def test_the_whole_study_against_loops(data: Path) -> None:
    threads = torch.get_num_threads()
    found = study.captions(0, **SETTINGS)
    assert torch.get_num_threads() == threads
    search = study.prepare(0, 9, 13)
    limits = {"minimum": 0.7, "radius": 0.99}
    tried = [(f"K={k}", k, 9, 0.9) for k in (2, 3, 7)]
    tried += [("δ=0.8", 3, 9, 0.8), ("δ=0.95", 3, 9, 0.95), ("D=5", 3, 5, 0.9)]
    names = set()
    for title, k, width, dedup in tried:
        lists = {}
        for rule in study.rules(dedup, **limits) if title[0] == "K" else ("all", "greedy", "components"):
            lists[rule], said = naive(search, k, width, rule, dedup, **limits)
            for what, value in said.items():
                assert found[f"{title}/{rule}/{what}"] == pytest.approx(value, abs=1e-5), (title, rule, what)
                names.add(f"{title}/{rule}/{what}")
        unlike = sum(a != b for a, b in zip(lists["greedy"], lists["components"], strict=True))
        assert found[f"{title}/rules differ %"] == pytest.approx(100 * unlike / 13)
        names.add(f"{title}/rules differ %")
    backends = {f"{b}/{what}" for b in ("torch", "faiss") for what in (
        "build s", "MiB", "one ms", "together ms", "greedy ms", "components ms", "one share", "together share")}
    rest = {"unknown", "words", "fit s", "explained %", "own video % by chance", "matmul GFLOP/s"}
    assert found.keys() == names | backends | rest | study.facts(search.collection).keys()
    assert found["captions"] == 3 * 91 - 13 - found["unknown"] and found["videos"] == 91
    left = Counter(search.collection.videos)
    chance = np.mean([left[video] / len(search.collection) for video in search.asked.videos])
    assert found["own video % by chance"] == pytest.approx(100 * chance)
    assert 0 < found["K=3/rules differ %"] < 100 and found["K=7/greedy, minimum/short %"] > 0, "else little is tested"
    assert found["K=3/all/sentences"] < found["K=3/greedy/sentences"]


@pytest.mark.parametrize("rule", ["greedy", "components"])
def test_no_sentence_is_kept_twice(data: Path, rule: str) -> None:
    search = study.prepare(0, 9, 23)
    said: dict[str, list[list[str]]] = {}
    for name in ("all", rule):
        found = retrieve(search.queries, search.vectors, 12, **study.rules(0.965, 0.6, 0.99)[name])
        said[name] = [[search.collection.sentences[i] for i in row if i >= 0] for row in found.ids.tolist()]
    assert sum(len(set(row)) < len(row) for row in said["all"]) > 5, "without it many are"
    assert all(len(set(row)) == len(row) > 1 for row in said[rule])


def test_a_minimum_leaves_long_lists_short(data: Path) -> None:
    """Whoever lacks some of K lacks some of any larger K; and more do."""
    search, short = study.prepare(0, 9, 23), []
    for k in (5, 10, 20):
        found = retrieve(search.queries, search.vectors, k, **study.rules(0.965, 0.8, 0.99)["all, minimum"])
        assert found.ids.shape == (23, k) and found.ids.ge(0).equal(found.mask), "padded to K"
        assert found.similarities[found.mask].min() >= 0.8
        short.append(~found.mask.all(1))
    assert (short[0] <= short[1]).all() and (short[1] <= short[2]).all()
    assert len(short[0]) > short[2].sum() > short[1].sum() > short[0].sum()


def test_costs_are_medians_a_query(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that says how long each step takes: of 2 queries in 64 numbers, and a product of two 8 × 8 matrices."""
    from vtrlib.studies import discovla_cost

    seconds = {
        "matmul": [1.0, 4.0, 2.0], "one": [3.0, 3.0, 9.0], "together": [1.0, 2.0, 0.5], "greedy": [6.0] * 3,
        "components": [8.0] * 3,
    }  # fmt: skip
    ran: list[str] = []

    def interleaved(steps: Any, repeats: int) -> dict[str, list[float]]:
        assert repeats == 3 and steps.keys() == seconds.keys()
        for name, step in steps.items():
            ran.append(name)
            step()
        return seconds

    monkeypatch.setattr(discovla_cost, "interleaved", interleaved)
    vectors = torch.eye(8) + 0.1
    found = study.costs(vectors, vectors[:2], 1, 8, 3)
    assert found["torch/MiB"] == 4 * 64 / 2**20 and found["faiss/MiB"] == 8 * 64 / 2**20
    for backend in ("torch", "faiss"):
        ways = ("one", "together", "greedy", "components")
        assert [found[f"{backend}/{way} ms"] for way in ways] == [1500, 500, 3000, 4000]
        shares = [(2 * 2 * 64 / own) / (2 * 8**3 / product) for product, own in ((1, 3), (4, 3), (2, 9))]
        assert found[f"{backend}/one share"] == sorted(shares)[1]
        assert found[f"{backend}/build s"] > 0
    assert found["matmul GFLOP/s"] == 2 * 8**3 / 2 / 1e9 and len(ran) == 10


def test_the_canary_sees_other_words(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = REGISTRY["ragme-captions"]
    before = canary.measure(known)
    assert before == canary.measure(known) and len(before or []) == 3
    monkeypatch.setattr(words, "tokenize", list)
    assert canary.drift(before or [], canary.measure(known) or []) > canary.TOLERANCE


def test_without_data_it_is_said_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VTRLIB_DATA", raising=False)
    known = REGISTRY["ragme-captions"]
    assert canary.lacks_data(known) == "needs real data: set VTRLIB_DATA to its folder"
    with pytest.raises(FileNotFoundError, match="VTRLIB_DATA: not set. Expected the folder that holds"):
        known.function(0, **known.config)


@pytest.mark.skipif("VTRLIB_DATA" not in os.environ, reason="VTRLIB_DATA is not set: no real captions")
def test_real_captions() -> None:
    """Of 600 videos: backends agree among many twins, rules keep no sentence twice, and what is found is related."""
    search = study.prepare(0, 64, 40, videos=200)
    assert len(search.collection) == 11_960 - search.unknown and search.unknown < 10
    lists = {}
    for backend in ("torch", "faiss"):
        index = Index(search.vectors, backend)
        for name, rule in study.rules(0.965, 0.6, 0.99).items():
            lists[backend, name] = retrieve(search.queries, index, 20, **rule)
    for (_, name), one in lists.items():
        assert one.ids.equal(lists["torch", name].ids) and one.similarities.equal(lists["torch", name].similarities)
    said = {name: study.about(one, search.asked, search.collection) for (_, name), one in lists.items()}
    chance = 100 * 19 / len(search.collection)
    assert said["all"]["own video %"] > 20 * chance and said["all"]["sentences"] < 18 < said["greedy"]["sentences"]
    for name in ("greedy", "components"):
        assert said[name]["sentences"] == said[name]["kept"] and said[name]["similarity"] < said["all"]["similarity"]
    assert said["greedy"]["kept"] >= said["components"]["kept"] and said["all, radius"]["echo %"] == 0
