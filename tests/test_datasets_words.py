"""Word vectors: each step against a naive one, and nothing seen that may not be seen."""

from __future__ import annotations

import json
import math
import os
import random
import warnings
import zipfile
from collections import Counter

import numpy as np
import pytest
import torch
from small_msrvtt import ANNOTATIONS, small_msrvtt, zipped

from vtrlib.datasets import WordVectors, msrvtt_features, tokenize
from vtrlib.datasets.words import PAD, UNKNOWN

CAPTIONS = [
    "a man runs in the park", "a dog runs in the park", "the man and the dog", "a woman cooks rice in a kitchen",
    "the woman runs", "a man cooks in the kitchen", "a dog eats rice", "the man's dog", "park", "",
]  # fmt: skip


def naive(captions, width, window=5, min_count=3, smoothing=0.75):
    """The equation, pair by pair, with a dense decomposition: words, PPMI (W, W), U_D Σ_D U_Dᵀ."""
    sentences = [tokenize(c) for c in captions]
    counts = Counter(w for s in sentences for w in s)
    words = [UNKNOWN, *sorted((w for w in counts if counts[w] >= min_count), key=lambda w: (-counts[w], w))]
    sentences = [[w if w in words else UNKNOWN for w in s] for s in sentences]
    pairs = Counter()
    for s in sentences:
        for i, w in enumerate(s):
            for j, c in enumerate(s):
                if i != j and abs(i - j) <= window:
                    pairs[w, c] += 1
    total = sum(pairs.values())
    occurs = {w: sum(n for (a, _), n in pairs.items() if a == w) for w in words}
    smooth = sum(n**smoothing for n in occurs.values())
    ppmi = np.zeros((len(words), len(words)))
    for (w, c), n in pairs.items():
        pmi = math.log((n / total) / ((occurs[w] / total) * (occurs[c] ** smoothing / smooth)))
        ppmi[words.index(w), words.index(c)] = max(0, pmi)
    u, s, _ = np.linalg.svd(ppmi)
    return words, (u[:, :width] * s[:width]) @ u[:, :width].T


@pytest.fixture(scope="module")
def sentences():
    """Random sentences, with a Zipf-like vocabulary."""
    draw = random.Random(0)
    words = [f"w{i}" for i in range(29)]
    weights = [1 / (i + 1) for i in range(29)]
    return [" ".join(draw.choices(words, weights, k=draw.randrange(1, 9))) for _ in range(211)]


class TestTokenize:
    @pytest.mark.parametrize(
        "text, words",
        [
            ("A man's hand - it's 3-D!", ["a", "man's", "hand", "it's", "3", "d"]),
            ("the dog\N{RIGHT SINGLE QUOTATION MARK}s café", ["the", "dog's", "café"]),
            ("'quoted' snake_case a/b", ["quoted", "snake", "case", "a", "b"]),
            ("", []),
            ("$ # --", []),
        ],
    )
    def test_words(self, text, words):
        assert tokenize(text) == words


class TestFit:
    @pytest.mark.parametrize("settings", [{}, {"window": 2}, {"min_count": 7}, {"smoothing": 1.0}])
    def test_against_the_naive_way(self, sentences, settings):
        words, product = naive(sentences, 11, **settings)
        fitted = WordVectors.fit(sentences, 11, **settings)
        assert fitted.words == (PAD, *words)
        # U Σ^½ is known up to signs and turns of equal values; U Σ Uᵀ is unique
        vectors = fitted.vectors[1:].double().numpy()
        assert np.abs(vectors @ vectors.T - product).max() < 1e-5 * np.abs(product).max()
        assert np.count_nonzero(product) > 100
        assert not fitted.vectors[0].any() and fitted.vectors.dtype == torch.float32

    def test_columns_are_in_falling_order_and_signs_are_fixed(self, sentences):
        vectors = WordVectors.fit(sentences, 11).vectors
        sizes = vectors.double().norm(dim=0)
        assert (sizes[:-1] >= sizes[1:] - 1e-6).all()
        assert (vectors.gather(0, vectors.abs().argmax(0, keepdim=True)) > 0).all()

    def test_twice_is_the_same_and_order_matters_not(self, sentences):
        first = WordVectors.fit(sentences, 11)
        again = WordVectors.fit(iter(sentences), 11)
        assert first.words == again.words and torch.equal(first.vectors, again.vectors)
        shuffled = WordVectors.fit(sentences[::-1], 11)
        assert first.words == shuffled.words and torch.equal(first.vectors, shuffled.vectors)

    def test_words_in_the_same_places_get_the_same_vector(self):
        """A closed form: swapping the two words in every sentence changes nothing."""
        frames = ["the {} runs in the park", "a {} eats", "a boy sees the {}", "rain in the park", "a boy eats"] * 3
        captions = [f.format(w) for f in frames for w in ("dog", "puppy")]
        fitted = WordVectors.fit(captions, 5)
        vector = dict(zip(fitted.words, fitted.vectors, strict=True))
        assert torch.allclose(vector["dog"], vector["puppy"], atol=1e-5)
        cosine = torch.cosine_similarity(vector["dog"], vector["rain"], 0)
        assert vector["dog"].norm() > 0.1 and cosine < 0.9

    def test_sentences_do_not_touch(self):
        """Words of neighbouring captions are no pair."""
        apart = WordVectors.fit(["red green", "blue white"] * 5, 4, window=9)
        vector = dict(zip(apart.words, apart.vectors, strict=True))
        assert abs(float(vector["red"] @ vector["blue"])) < 1e-6 < float(vector["red"].norm())

    @pytest.mark.parametrize(
        "arguments, error, says",
        [
            (("a dog", 2), TypeError, "captions: found one string"),
            ((CAPTIONS, 0), ValueError, "width=0"),
            ((CAPTIONS, 40), ValueError, r"width=40: \d+ words occur at least min_count=3 times in 10 captions"),
            (([], 2), ValueError, "width=2: 0 words"),
            ((["one", "two", "three"] * 3, 2), ValueError, "no two words stand together in 9 captions"),
        ],
    )
    def test_bad_input(self, arguments, error, says):
        with pytest.raises(error, match=says):
            WordVectors.fit(*arguments)

    @pytest.mark.parametrize("setting", [{"window": 0}, {"min_count": 0}, {"smoothing": 0}, {"smoothing": 1.5}])
    def test_bad_settings(self, setting):
        with pytest.raises(ValueError, match=next(iter(setting))):
            WordVectors.fit(CAPTIONS, 2, **setting)


@pytest.fixture(scope="module")
def words():
    return WordVectors.fit(CAPTIONS, 3)


class TestTokens:
    def test_rows_mask_and_unknown(self, words):
        tokens = words.tokens(["the dog RUNS", "zebra dog", "...", "a"])
        spelled = [[words.words[i] for i in row] for row in tokens.ids]
        assert spelled == [
            ["the", "dog", "runs"],
            [UNKNOWN, "dog", PAD],
            [UNKNOWN, PAD, PAD],  # no word at all: still something to attend to
            ["a", PAD, PAD],
        ]
        assert tokens.mask.tolist() == [[w != PAD for w in row] for row in spelled]
        assert tokens.unknown == 2 and tokens.ids.dtype == torch.int64 and tokens.mask.dtype == torch.bool

    def test_vectors(self, words):
        vectors, mask = words(["the dog runs", "zebra"], length=5)
        assert vectors.shape == (2, 5, 3) and mask.shape == (2, 5)
        assert torch.equal(vectors[0, 1], words.vectors[words.words.index("dog")])
        assert torch.equal(vectors[1, 0], words.vectors[1]) and not vectors[~mask].any() and vectors[mask].any(1).all()

    def test_long_captions_lose_their_end_with_one_warning(self, words):
        with pytest.warns(UserWarning, match=r"2 of 3 have more than length=2 words \(up to 4\)") as caught:
            tokens = words.tokens(["a dog runs", "the man", "the man and dog"], length=2)
        assert len(caught) == 1
        assert [[words.words[i] for i in row] for row in tokens.ids] == [["a", "dog"], ["the", "man"], ["the", "man"]]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            words.tokens(["a dog runs", "the man"], length=3)

    def test_bad_input(self, words):
        with pytest.raises(TypeError, match="captions: found one string"):
            words.tokens("a dog")
        with pytest.raises(ValueError, match="captions: found none"):
            words.tokens([])
        with pytest.raises(ValueError, match="length=0"):
            words.tokens(["a dog"], length=0)
        with pytest.raises(ValueError, match=r"words: 3 from \('a', 'b'\).*expected <pad> and <unk> first"):
            WordVectors(("a", "b", "c"), torch.zeros(3, 2))


def fit_on_training(root):
    videos = msrvtt_features(root, "train", (40, 20, 40))
    return WordVectors.fit([c for captions in videos.captions for c in captions], 7)


class TestOnlyTraining:
    """Fitted on the training split of the small MSR-VTT."""

    def rewrite(self, root, splits):
        """Give every caption of some splits other words."""
        path = root / ANNOTATIONS / "train_val_annotation.zip"
        with zipfile.ZipFile(path) as archive:
            data = json.loads(archive.read("train_val_videodatainfo.json"))
        touched = {i for split in splits for i in msrvtt_features(root, split, (40, 20, 40)).ids}
        for entry in data["sentences"]:
            if entry["video_id"] in touched:
                entry["caption"] = "quantum zebras " + entry["caption"].replace("the", "seven")
        zipped(path, "train_val_videodatainfo.json", data)
        return touched

    def test_other_captions_change_nothing(self, tmp_path):
        root = small_msrvtt(tmp_path / "data")
        before = fit_on_training(root)
        assert len(self.rewrite(root, ("val", "test"))) > 20
        after = fit_on_training(root)
        assert before.words == after.words and torch.equal(before.vectors, after.vectors)
        assert "zebras" in msrvtt_features(root, "test", (40, 20, 40)).captions[0][0]
        assert after.tokens(["quantum zebras"]).unknown == 2

    def test_training_captions_do(self, tmp_path):
        """The control."""
        root = small_msrvtt(tmp_path / "data")
        before = fit_on_training(root)
        self.rewrite(root, ("train",))
        assert "zebras" in fit_on_training(root).words and "zebras" not in before.words


@pytest.mark.skipif("VTRLIB_DATA" not in os.environ, reason="VTRLIB_DATA is not set: no real captions")
def test_real_words_have_sensible_neighbours():
    fitted = WordVectors.fit([c for captions in msrvtt_features().captions for c in captions], 128)
    assert fitted.vectors.shape == (3083, 128) and torch.isfinite(fitted.vectors).all()
    row = {word: n for n, word in enumerate(fitted.words)}
    unit = torch.nn.functional.normalize(fitted.vectors, dim=1)
    for word, related in (("car", "vehicle"), ("dog", "cat"), ("cooking", "pot"), ("song", "singing"), ("red", "blue")):
        rank = int((unit @ unit[row[word]] > unit[row[related]] @ unit[row[word]]).sum())
        assert rank <= 30, (word, related, rank)
    captions = [c for captions in msrvtt_features(split="test").captions for c in captions]
    tokens = fitted.tokens(captions)
    assert tokens.ids.shape[0] == 3660 and 0.05 < tokens.unknown / int(tokens.mask.sum()) < 0.1
