"""RagMe's search at scale: MSR-VTT's 200,000 captions, asked with some of them, with and without near-duplicates.

RagMe seeks videos by CLIP features, of which none are at hand. Sentences stand in for them: their words, weighed by
TF-IDF and projected on the directions in which captions of the training split differ most (latent semantic analysis,
Deerwester et al., JASIS 1990). Such a vector knows which words go together, and nothing of their order.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vtrlib.experiments import experiment

if TYPE_CHECKING:
    from torch import Tensor

    from vtrlib.ragme import Index, Retrieved

__all__ = [
    "Captions", "Embedder", "Search", "about", "captions", "costs", "differ", "draw", "facts", "prepare", "read",
    "rules",
]  # fmt: skip


@dataclass(frozen=True)
class Captions:
    """Sentences, for each the number of its video, and that video's split."""

    sentences: tuple[str, ...]
    videos: tuple[int, ...]
    splits: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.sentences)

    def at(self, places: Sequence[int]) -> Captions:
        parts = (self.sentences, self.videos, self.splits)
        return Captions(*(tuple(part[i] for i in places) for part in parts))


def read(videos: int | None = None) -> Captions:
    """MSR-VTT's, of the first so many videos of each split; default: all."""
    from vtrlib.datasets import msrvtt_protocol

    found = [video for part in msrvtt_protocol().values() for video in part[:videos]]
    each = [(sentence, number, video.split) for number, video in enumerate(found) for sentence in video.captions]
    return Captions(*zip(*each, strict=True))


class Embedder:
    """Sentences to vectors.

    Args:
        sentences: to fit it on; words that only one of them has are left out.
        width: D.

    Attributes:
        words: how many it knows.
        explained: the share of the sentences' variance that their vectors keep.
    """

    def __init__(self, sentences: Sequence[str], width: int) -> None:
        from sklearn.decomposition import TruncatedSVD
        from sklearn.feature_extraction.text import TfidfVectorizer

        from vtrlib.datasets.words import tokenize

        self._weigh, self._project = TfidfVectorizer(analyzer=tokenize, min_df=2), TruncatedSVD(width, random_state=0)
        self._project.fit(self._weigh.fit_transform(sentences))
        self.words = len(self._weigh.vocabulary_)
        self.explained = float(self._project.explained_variance_ratio_.sum())

    def __call__(self, sentences: Sequence[str]) -> Tensor:
        """(N, D), float32, not normalised; the first d columns are the vectors of width d. 0 without a known word."""
        import torch

        return torch.from_numpy(self._project.transform(self._weigh.transform(sentences))).float()


def draw(given: Captions, known: Sequence[bool], queries: int, seed: int) -> tuple[list[int], list[int]]:
    """Places of captions to ask with, each of another test video, and of all others; those not known are in neither.

    Raises:
        ValueError: there are fewer such videos.
    """
    import torch

    asked: dict[int, int] = {}  # video: place
    for place in torch.randperm(len(given), generator=torch.Generator().manual_seed(seed)).tolist():
        if len(asked) < queries and known[place] and given.splits[place] == "test":
            asked.setdefault(given.videos[place], place)
    if len(asked) < queries:
        raise ValueError(f"queries={queries}: found {len(asked)} test videos with a caption, expected as many.")
    taken = set(asked.values())
    return sorted(taken), [place for place in range(len(given)) if known[place] and place not in taken]


@dataclass(frozen=True)
class Search:
    """Captions to search among and captions to ask with, none in both.

    Attributes:
        collection: N captions; vectors: theirs, (N, D).
        asked: Q captions; queries: theirs, (Q, D).
        unknown: captions that are left out, since no word of theirs is known.
        embed: what made the vectors.
        seconds: that fitting it took.
    """

    collection: Captions
    vectors: Tensor
    asked: Captions
    queries: Tensor
    unknown: int
    embed: Embedder
    seconds: float


def prepare(seed: int, width: int, queries: int, videos: int | None = None) -> Search:
    """Read the captions, of so many videos of each split, fit on the training split, embed all, and draw queries."""
    given, start = read(videos), time.perf_counter()
    embed = Embedder([s for s, split in zip(given.sentences, given.splits, strict=True) if split == "train"], width)
    seconds, vectors = time.perf_counter() - start, embed(given.sentences)
    known = vectors.any(1).tolist()
    asked, rest = draw(given, known, queries, seed)
    unknown = known.count(False)
    return Search(given.at(rest), vectors[rest], given.at(asked), vectors[asked], unknown, embed, seconds)


def facts(collection: Captions) -> dict[str, float]:
    """How often sentences are said again, letter for letter."""
    times = Counter(collection.sentences)
    of_videos = Counter(sentence for sentence, _ in set(zip(collection.sentences, collection.videos, strict=True)))
    return {
        "captions": float(len(collection)),
        "videos": float(len(set(collection.videos))),
        "sentences": float(len(times)),
        "captions with a twin": float(sum(n for n in times.values() if n > 1)),
        "sentences of several videos": float(sum(n > 1 for n in of_videos.values())),
        "captions of the most frequent sentence": float(max(times.values())),
    }


def rules(dedup: float, minimum: float, radius: float) -> dict[str, dict[str, Any]]:
    """What may be kept of the most similar, as `vtrlib.ragme.retrieve` is told."""
    return {
        "all": {"dedup": None},
        "greedy": {"dedup": dedup},
        "components": {"dedup": dedup, "rule": "components"},
        "all, radius": {"dedup": None, "radius": radius},
        "greedy, radius": {"dedup": dedup, "radius": radius},
        "all, minimum": {"dedup": None, "min_similarity": minimum},
        "greedy, minimum": {"dedup": dedup, "min_similarity": minimum},
    }


def about(found: Retrieved, asked: Captions, collection: Captions) -> dict[str, float]:
    """What was retrieved.

    Args:
        found: neighbours of each of the captions asked with.

    Returns:
        Means over queries of how many are "kept", and how many "videos" and different "sentences" these are; the share
        of queries that got fewer than K, "short %"; and over all that are kept, the shares that are captions of the
        query's "own video %" and that say its very sentence, "echo %", and the mean "similarity" to the query.
    """
    lists = [row[there].tolist() for row, there in zip(found.ids, found.mask, strict=True)]
    number, pairs = len(lists), [(q, i) for q, ids in enumerate(lists) for i in ids]
    own = sum(asked.videos[q] == collection.videos[i] for q, i in pairs)
    echo = sum(asked.sentences[q] == collection.sentences[i] for q, i in pairs)
    return {
        "kept": len(pairs) / number,
        "short %": 100 * sum(len(ids) < found.ids.shape[1] for ids in lists) / number,
        "sentences": sum(len({collection.sentences[i] for i in ids}) for ids in lists) / number,
        "videos": sum(len({collection.videos[i] for i in ids}) for ids in lists) / number,
        "own video %": 100 * own / len(pairs),
        "echo %": 100 * echo / len(pairs),
        "similarity": float(found.similarities[found.mask].double().mean()),
    }


def differ(one: Retrieved, other: Retrieved) -> float:
    """Per cent of the queries for which two lists aren't the same."""
    return 100 * float((one.ids != other.ids).any(1).double().mean())


def costs(vectors: Tensor, queries: Tensor, k: int, matrix: int, repeats: int) -> dict[str, float]:
    """Of each backend, on one thread: to build it, to search 10 k neighbours, and to retrieve k by either rule.

    Milliseconds are a query's, "one" asked alone and the rest all together: medians over rounds. "… share" is how much
    of the rate of a large matrix product is reached, counting a multiplication and an addition for each number of the
    collection. A backend's "MiB" are those of its vectors, with faiss's own copy.
    """
    from functools import partial
    from statistics import median

    import torch

    from vtrlib.ragme import Index, retrieve
    from vtrlib.studies.discovla_cost import interleaved

    found, square = dict[str, float](), torch.ones(matrix, matrix)

    def alone(index: Index) -> None:
        for query in queries:
            index.search(query[None], 10 * k)

    for backend in ("torch", "faiss"):
        start = time.perf_counter()
        index = Index(vectors, backend)
        found[f"{backend}/build s"] = time.perf_counter() - start
        copy = index._faiss.ntotal * index._faiss.code_size if backend == "faiss" else 0
        found[f"{backend}/MiB"] = (index.vectors.nbytes + copy) / 2**20
        steps = {
            "matmul": partial(torch.matmul, square, square), "one": partial(alone, index),
            "together": partial(index.search, queries, 10 * k), "greedy": partial(retrieve, queries, index, k),
            "components": partial(retrieve, queries, index, k, rule="components"),
        }  # fmt: skip
        taken = interleaved(steps, repeats)
        found["matmul GFLOP/s"] = 2 * matrix**3 / median(taken["matmul"]) / 1e9
        for way in ("one", "together", "greedy", "components"):
            found[f"{backend}/{way} ms"] = 1e3 * median(taken[way]) / len(queries)
        for way in ("one", "together"):
            work = len(queries) * vectors.numel() / matrix**3
            rounds = zip(taken[way], taken["matmul"], strict=True)
            found[f"{backend}/{way} share"] = median(work * product / own for own, product in rounds)
    return found


def _few(seed: int, dedup: float, **_: Any) -> list[float]:
    """Canary: what is found among the captions of a few videos."""
    from vtrlib.ragme import Index, retrieve

    search = prepare(seed, 16, 20, videos=150)
    index = Index(search.vectors, "torch")
    lists = [retrieve(search.queries, index, 5, threshold) for threshold in (None, dedup)]
    found = [about(one, search.asked, search.collection)["similarity"] for one in lists]
    return [search.embed.explained, *found]


@experiment(
    "ragme-captions", seeds=(0,), canary=_few, real_data=True, width=256, queries=300, ks=(5, 20, 50), dedup=0.965,
    minimum=0.6, radius=0.99, others=(0.92, 0.94, 0.98), narrower=(64, 128), timed=32, matrix=1024, repeats=3,
)  # fmt: skip
def captions(
    seed: int, width: int, queries: int, ks: Sequence[int], dedup: float, minimum: float, radius: float,
    others: Sequence[float], narrower: Sequence[int], timed: int, matrix: int, repeats: int, videos: int | None = None,
) -> dict[str, float]:  # fmt: skip
    """What is found with captions of the test split among all others of MSR-VTT, and what it costs on one thread.

    Args:
        seed: draws the captions to ask with.
        width: D of the vectors.
        queries: Q.
        ks: K, each with a pool of 10 K.
        dedup: the threshold between captions; minimum, radius: of similarities to the query.
        others: thresholds tried beside it; narrower: widths too; for the K in the middle.
        timed: how many of the queries are timed, with the last K; matrix, repeats: see `costs`.
        videos: see `read`.
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        search = prepare(seed, width, queries, videos)
        times = Counter(search.collection.videos)
        chance = sum(times[video] for video in search.asked.videos) / queries / len(search.collection)
        found = facts(search.collection) | {
            "unknown": float(search.unknown), "words": float(search.embed.words), "fit s": search.seconds,
            "explained %": 100 * search.embed.explained, "own video % by chance": 100 * chance,
        }  # fmt: skip
        every = rules(dedup, minimum, radius)
        for k in ks:
            found |= _compared(search, f"K={k}", k, width, every)
        middle, names = ks[len(ks) // 2], ("all", "greedy", "components")
        for other in others:
            made = rules(other, minimum, radius)
            found |= _compared(search, f"δ={other:g}", middle, width, {name: made[name] for name in names})
        for d in narrower:
            found |= _compared(search, f"D={d}", middle, d, {name: every[name] for name in names})
        return found | costs(search.vectors, search.queries[:timed], ks[-1], matrix, repeats)
    finally:
        torch.set_num_threads(threads)


def _compared(
    search: Search, title: str, k: int, width: int, made: Mapping[str, Mapping[str, Any]]
) -> dict[str, float]:
    """`about` the lists that rules give, and how often greedy ones differ from those by components."""
    from vtrlib.ragme import Index, retrieve

    index = Index(search.vectors[:, :width], "torch")
    lists = {name: retrieve(search.queries[:, :width], index, k, **rule) for name, rule in made.items()}
    found = {
        f"{title}/{name}/{what}": value
        for name, one in lists.items()
        for what, value in about(one, search.asked, search.collection).items()
    }
    return found | {f"{title}/rules differ %": differ(lists["greedy"], lists["components"])}
