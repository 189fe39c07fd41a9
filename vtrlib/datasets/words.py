r"""Word vectors from captions alone: positive pointwise mutual information, factorised.

With counts #(w, c) of words w and c at most `window` words apart, P(w) = #(w)/#, and P_α(c) ∝ #(c)^α:

    PPMI(w, c) = max(0, log P(w, c) / (P(w) P_α(c))) ≈ U_D Σ_D V_Dᵀ,   vectors = U_D Σ_D^½

Levy, Goldberg and Dagan, Improving Distributional Similarity with Lessons Learned from Word Embeddings, TACL 2015
(α = 0.75, exponent ½). No outside text and no random draw: who fits on training captions has seen nothing else.
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vtrlib.check import integer, number

__all__ = ["PAD", "UNKNOWN", "Tokens", "WordVectors", "tokenize"]

PAD, UNKNOWN = "<pad>", "<unk>"
_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")


def tokenize(text: str) -> list[str]:
    """Words in lower case: runs of letters and digits of any script; an apostrophe inside a word belongs to it.

    >>> tokenize("A man's hand - it's 3-D!")
    ['a', "man's", 'hand', "it's", '3', 'd']
    """
    return _WORD.findall(text.lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'"))


@dataclass(frozen=True, eq=False)
class Tokens:
    """Sentences as rows of a vocabulary.

    Attributes:
        ids: (B, L) int64, rows of `WordVectors.vectors`; 0 behind the end.
        mask: (B, L) bool, True on words; every sentence has at least one.
        unknown: how many of the words are not in the vocabulary and stand as `UNKNOWN`.
    """

    ids: Tensor
    mask: Tensor
    unknown: int


@dataclass(frozen=True, eq=False)
class WordVectors:
    """A vocabulary and its vectors; make one with `WordVectors.fit`.

    Attributes:
        words: W words; the first is `PAD`, the second `UNKNOWN`, then by falling count, ties in code-point order.
        vectors: (W, D) float32; zero for `PAD`; for `UNKNOWN` the vector of the rare words taken as one.
    """

    words: tuple[str, ...]
    vectors: Tensor

    def __post_init__(self) -> None:
        if self.words[:2] != (PAD, UNKNOWN) or self.vectors.shape[:1] != (len(self.words),) or self.vectors.ndim != 2:
            raise ValueError(
                f"words: {len(self.words):,} from {self.words[:2]}, vectors {tuple(self.vectors.shape)}: expected "
                f"{PAD} and {UNKNOWN} first, and a vector (D) for every word."
            )

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {word: row for row, word in enumerate(self.words)}

    @classmethod
    def fit(
        cls, captions: Iterable[str], width: int = 128, *, window: int = 5, min_count: int = 3, smoothing: float = 0.75
    ) -> WordVectors:
        """Fit on captions, those of the training split and no others.

        Args:
            captions: sentences.
            width: D, below the number of words kept.
            window: two words of a sentence are a pair if at most this many words apart.
            min_count: rarer words are one word, `UNKNOWN`.
            smoothing: α, 0 < α ≤ 1; below 1 it damps the scores of rare words.

        Raises:
            ValueError: too few words for that width (the message says how many there are), or a setting out of range.
            TypeError: `captions` is one string, or a setting is no number.
        """
        if isinstance(captions, str):
            raise TypeError("captions: found one string, expected several sentences. Pass a list.")
        width, window = integer("width", width, low=1), integer("window", window, low=1)
        integer("min_count", min_count, low=1)
        if number("smoothing", smoothing, low=0, high=1) == 0:
            raise ValueError("smoothing=0: expected a number above 0; 1 does not smooth.")
        sentences = [tokenize(caption) for caption in captions]
        counts = Counter(word for sentence in sentences for word in sentence)
        kept = sorted((w for w, n in counts.items() if n >= min_count), key=lambda w: (-counts[w], w))
        words = (PAD, UNKNOWN, *kept)
        if width >= len(words) - 1:
            raise ValueError(
                f"width={width}: {len(kept):,} words occur at least min_count={min_count} times in "
                f"{len(sentences):,} captions; expected more than {width}. Lower width, or pass more captions."
            )
        rows = {word: row for row, word in enumerate(words)}
        ids = [np.array([rows.get(w, 1) for w in sentence], dtype=np.int64) for sentence in sentences]
        pairs = _pairs(ids, len(words), window)
        if not len(pairs):
            raise ValueError(f"captions: no two words stand together in {len(sentences):,} captions: nothing to count.")
        return cls(words, torch.from_numpy(_factorise(pairs, len(words), width, smoothing)))

    def tokens(self, captions: Sequence[str], length: int | None = None) -> Tokens:
        """Look words up. Unknown ones become `UNKNOWN` and are counted; so does a caption without any word.

        Args:
            captions: B sentences.
            length: L; longer captions lose their end, with one warning; default: that of the longest.

        Raises:
            TypeError: `captions` is one string. ValueError: there are none, or length is below 1.
        """
        if isinstance(captions, str):
            raise TypeError("captions: found one string, expected several sentences. Pass a list.")
        if not captions:
            raise ValueError("captions: found none, expected at least one sentence.")
        sentences = [[self._rows.get(w, 1) for w in tokenize(caption)] or [1] for caption in captions]
        longest = max(map(len, sentences))
        size = longest if length is None else integer("length", length, low=1)
        if longest > size:
            cut = sum(len(s) > size for s in sentences)
            warnings.warn(
                f"captions: {cut:,} of {len(sentences):,} have more than length={size} words (up to {longest}) and "
                "lost their end. Raise length to keep it.",
                stacklevel=2,
            )
        ids = torch.zeros(len(sentences), size, dtype=torch.int64)
        for row, sentence in enumerate(sentences):
            ids[row, : len(sentence)] = torch.tensor(sentence[:size])
        return Tokens(ids, ids != 0, int((ids == 1).sum()))

    def __call__(self, captions: Sequence[str], length: int | None = None) -> tuple[Tensor, Tensor]:
        """Vectors (B, L, D) and mask (B, L) of B captions; the vectors are zero where the mask is False."""
        tokens = self.tokens(captions, length)
        return self.vectors[tokens.ids], tokens.mask


def _pairs(sentences: Sequence[NDArray[np.int64]], words: int, window: int) -> NDArray[np.int64]:
    """How often two words stand at most `window` apart, as rows (w, c, count), both orders, sorted."""
    text = np.concatenate([np.append(s, np.zeros(window, np.int64)) for s in sentences])  # PAD keeps sentences apart
    codes = []
    for distance in range(1, window + 1):
        left, right = text[:-distance], text[distance:]
        both = (left > 0) & (right > 0)
        codes += [left[both] * words + right[both], right[both] * words + left[both]]
    code, count = np.unique(np.concatenate(codes), return_counts=True)
    return np.stack([code // words, code % words, count], axis=1)


def _factorise(pairs: NDArray[np.int64], size: int, width: int, smoothing: float) -> NDArray[np.float32]:
    """Vectors (W, D) of PPMI for W = size words; rows of words that are in no pair are zero."""
    from scipy.sparse import csr_array  # a third of a second that only fitting should cost
    from scipy.sparse.linalg import svds

    w, c, count = pairs.T
    occurs = np.bincount(w, weights=count, minlength=size)  # the counts are symmetric: of contexts too
    context = occurs**smoothing / (occurs**smoothing).sum()
    pmi = np.log(count / occurs[w] / context[c])
    keep = pmi > 0
    matrix = csr_array((pmi[keep], (w[keep], c[keep])), shape=(size, size))
    # ARPACK from a fixed start: no seed. It gives ascending values, and each vector's sign is arbitrary.
    u, s, _ = svds(matrix, k=width, v0=np.full(size, size**-0.5), solver="arpack")
    u, s = u[:, ::-1], s[::-1]
    u = u * np.where(u[np.abs(u).argmax(0), np.arange(width)] < 0, -1, 1)
    vectors: NDArray[np.float32] = (u * np.sqrt(s)).astype(np.float32)
    vectors[np.bincount(w, minlength=size) == 0] = 0  # PAD and words in no pair: exactly, not up to rounding
    return vectors
