"""How fast a gallery of many vectors per video is scored, beside what the machine can do at that moment."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from vtrlib.experiments import experiment

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["maximum"]


def _first_scores(
    seed: int, queries: int, videos: int, vectors: int, width: int, matrix: int, tries: int
) -> list[float]:
    """Canary: scores of a small part of what is timed, as their speed says nothing about them."""
    from vtrlib.similarity import max_similarity

    texts, gallery, mask = _drawn(seed, 29, 13, vectors, width)
    whole, padded = max_similarity(texts, gallery), max_similarity(texts, gallery, mask)
    return [value.item() for scores in (whole, padded) for value in (scores.mean(), scores.std())]


@experiment(
    "similarity-maximum", seeds=(0, 1, 2, 3, 4), canary=_first_scores,
    queries=1024, videos=512, vectors=160, width=384, matrix=2048, tries=9,
)  # fmt: skip
def maximum(
    seed: int, queries: int, videos: int, vectors: int, width: int, matrix: int, tries: int
) -> dict[str, float]:
    """The maximum similarity of `queries` × `videos`, `vectors` each, and a float32 matrix product, on one thread.

    A share is the rate of the first, 2 · Q · V · F · D operations, over that of the second: the best of several tries
    each, taken in turn, so that both meet the same machine.
    """
    import torch

    from vtrlib.similarity import max_similarity

    texts, gallery, mask = _drawn(seed, queries, videos, vectors, width)
    square = torch.randn(matrix, matrix, generator=torch.Generator().manual_seed(seed))
    one = texts[:1].contiguous()
    work: dict[str, tuple[Callable[[], object], int]] = {
        "sgemm": (lambda: square @ square, 2 * matrix**3),
        "all frames": (lambda: max_similarity(texts, gallery), 2 * gallery.numel() * queries),
        "padded": (lambda: max_similarity(texts, gallery, mask), 2 * gallery.numel() * queries),
        "one query": (lambda: max_similarity(one, gallery), 2 * gallery.numel()),
    }
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    best = dict.fromkeys(work, float("inf"))
    try:
        for number in range(tries + 1):  # the first warms up
            for name, (task, _) in work.items():
                start = time.perf_counter()
                task()
                if number:
                    best[name] = min(best[name], time.perf_counter() - start)
    finally:
        torch.set_num_threads(threads)
    rates = {name: operations / best[name] / 1e9 for name, (_, operations) in work.items()}
    shares = {f"{name}/share of sgemm": rates[name] / rates["sgemm"] for name in ("all frames", "padded")}
    return {f"{name}/GFLOP/s": rate for name, rate in rates.items()} | shares


def _drawn(seed: int, queries: int, videos: int, vectors: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Texts (Q, D), a gallery (V, F, D) and its mask (V, F) of videos that have 1 … F vectors."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    texts = torch.randn(queries, width, generator=generator)
    gallery = torch.randn(videos, vectors, width, generator=generator)
    return texts, gallery, torch.arange(vectors) < torch.randint(1, vectors + 1, (videos, 1), generator=generator)
