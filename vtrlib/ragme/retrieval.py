"""Which videos show a generator how things move: search, and what is left out of it."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch  # before faiss: each brings an OpenMP, and the other order can crash
from torch import Tensor

from vtrlib import check
from vtrlib.similarity import unit

__all__ = ["Index", "Retrieved", "retrieve", "video_embedding"]

_TIE = 1e-5  # two float32 products of the same unit vectors differ by less
_POOL = 10  # candidates for each that is wanted, as released
_SPARE = 32  # asked of faiss beyond those wanted, to see where ties end
_PRODUCTS = 1 << 24  # queries by videos that are multiplied at once: 64 MiB


class Retrieved(NamedTuple):
    """K neighbours of each query, the most similar first.

    Attributes:
        ids: (Q, K), places in the collection; -1 where there are fewer.
        similarities: (Q, K), cosines; 0 there.
        mask: (Q, K), true where there is a neighbour.
    """

    ids: Tensor
    similarities: Tensor
    mask: Tensor


def video_embedding(frames: Tensor, mask: Tensor | None = None) -> Tensor:
    r"""One unit vector a video: its frames', normalised, averaged and normalised.

    $$ x = u\Big(\frac1F \sum_j u(f_{vis}(X_j))\Big), \qquad u(x) = x / \|x\| $$

    In float32 at least. A frame of zeros stays one, and counts.

    Args:
        frames: (..., F, D), embeddings of frames.
        mask: (..., F), true where there is a frame.

    Returns:
        (..., D), zeros where there is no frame that is not zero.

    Raises:
        TypeError: it is no tensor. ValueError: no frames, or a mask of another shape.
    """
    frames = _floating("frames", frames)
    if frames.ndim < 2 or 0 in frames.shape[-2:]:
        raise ValueError(
            f"frames: found shape {tuple(frames.shape)}, expected (..., F, D), at "
            "least one frame."
        )
    each = unit(_moderate(frames))
    if mask is None:
        return unit(each.mean(-2))
    if mask.shape != frames.shape[:-1]:
        raise ValueError(
            f"mask: found shape {tuple(mask.shape)}, expected "
            f"{tuple(frames.shape[:-1])}, one value a frame."
        )
    # The sum has the direction of the mean.
    return unit(each.masked_fill(~mask.bool()[..., None], 0).sum(-2))


class Index:
    """All videos of a collection, searched exactly by inner products of unit vectors.

    With faiss, or with torch alone where it is not installed; neighbours, similarities
    and their order are the same: candidates' products are computed once more, in
    float64, and equal ones are ordered by their place in the collection.

    Args:
        embeddings: (V, D), finite, none zero; normalised here.
        backend: "faiss", "torch", or "auto", faiss where there is one.

    Attributes:
        vectors: (V, D), float32 unit vectors.

    Raises:
        ValueError: an empty collection, an embedding that is zero or not finite, or
            another backend.
        ImportError: "faiss" is asked for, and is not installed.
    """

    def __init__(self, embeddings: Tensor, backend: str = "auto") -> None:
        check.one_of("backend", backend, ("auto", "faiss", "torch"))
        embeddings = _floating("embeddings", embeddings)
        if embeddings.ndim == 2 and not len(embeddings):
            raise ValueError(
                "embeddings: found an empty collection, expected at least one video "
                "(V, D). Embed the videos to retrieve from first."
            )
        check.sizes("embeddings", embeddings, "V D")
        self.vectors = _units("embeddings", embeddings).contiguous()
        self._faiss = _faiss(backend, self.vectors)

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def backend(self) -> str:
        """What searches, "faiss" or "torch"."""
        return "torch" if self._faiss is None else "faiss"

    def search(self, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The k most similar videos of each query, all of them if there are fewer.

        Args:
            queries: (Q, D), finite, none zero; normalised here.
            k: at least 1.

        Returns:
            Similarities and places (Q, min(k, V)), the most similar first, of equal
            ones the first of the collection; float32 and int64, on the collection's
            device.

        Raises:
            TypeError, ValueError: queries of another width, zero or not finite, or k.
        """
        found = self._ranked(self._queries(queries, k), k)
        similarities, ids = (torch.stack(one) for one in zip(*found, strict=True))
        return similarities.float(), ids

    def _queries(self, queries: Tensor, k: int) -> Tensor:
        check.integer("k", k, low=1)
        queries = _floating("query", queries)
        width = self.vectors.shape[1]
        if queries.ndim != 2 or queries.shape[-1] != width or not len(queries):
            raise ValueError(
                f"query: found shape {tuple(queries.shape)}, expected (Q, {width}) or "
                f"({width},), the collection's width. Embed queries and videos with "
                "the same encoder."
            )
        return _units("query", queries).to(self.vectors.device)

    def _ranked(self, queries: Tensor, k: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Of each query the similarities, in float64, and places of its k best."""
        number = min(k, len(self))
        # One query reads the whole collection; several share that and cost little more.
        for block in queries.split(max(1, _PRODUCTS // len(self))):
            for query, ids in zip(block, self._candidates(block, number), strict=True):
                # Not a matrix product, which may round equal rows differently.
                exact = (self.vectors[ids].double() * query.double()).sum(1)
                # Candidates come in the collection's order, which a stable sort keeps.
                order = exact.sort(descending=True, stable=True).indices[:number]
                yield exact[order], ids[order]

    def _candidates(self, queries: Tensor, number: int) -> Iterator[Tensor]:
        """Of each query a superset of its best `number`, in the collection's order:
        rounding and ties at its lower end may put others in."""
        if self._faiss is None:
            products = queries @ self.vectors.mT
            lowest = products.topk(number).values[:, -1:]
            for near in products >= lowest - _TIE:
                yield near.nonzero().squeeze(1)
            return
        asked = queries.cpu().numpy()
        more = min(number + _SPARE, len(self))
        for row, (best, ids) in enumerate(
            zip(*self._faiss.search(asked, more), strict=True)
        ):
            lower = float(best[number - 1]) - _TIE
            if more < len(self) and best[-1] >= lower:  # others may be as near
                _, _, ids = self._faiss.range_search(asked[row : row + 1], lower)
            yield torch.from_numpy(ids).sort().values.to(self.vectors.device)


def retrieve(
    query: Tensor, embeddings: Tensor | Index, k: int, dedup: float | None = 0.965,
    min_similarity: float | None = None, rule: str = "greedy", *,
    radius: float | None = None, pool: int | None = None, backend: str = "auto",
) -> Retrieved:  # fmt: skip
    r"""The K videos that a query is shown with, without near-duplicates.

    In this order: the `pool` most similar; of these the ones below `radius` and from
    `min_similarity` on; of near-duplicates, more similar to each other than `dedup`,
    only the highest ranked; of the rest the first k. Where fewer are left, the answer
    is padded to k.

    Args:
        query: (D,), or (Q, D), of a text or a video. Normalised here.
        embeddings: (V, D), as of `video_embedding`, or an `Index` of them.
        k: K, at least 1; it may exceed the collection.
        dedup: $\delta_{dedup}$, between videos, strictly above which one of them goes;
            None: all are kept.
        min_similarity: $\delta_{min}$, to the query; None: no minimum. The paper's 0.6
            suits a video as the query; a text is never so similar to a video in CLIP
            B/32 (0.2 to 0.35), and would be left without neighbours.
        rule: "greedy", a video goes if one that is kept is too similar to it;
            "components", as released: one is kept of all that near-duplicates connect.
            Of a chain A ~ B ~ C whose ends differ, the first keeps A and C, the second
            A.
        radius: similarities have to lie below, strictly. In training, 0.99 keeps a
            video and its twins from being their own neighbours.
        pool: candidates; 10 k by default, as released.
        backend: of the `Index`, where embeddings are given.

    Returns:
        ids, similarities and mask, (K,) for one query, (Q, K) for several.

    Raises:
        TypeError, ValueError: an empty collection, k or pool below 1, a query of
            another width, an embedding that is zero or not finite, or a setting out of
            its range.
    """
    k = check.integer("k", k, low=1)
    pool = _POOL * k if pool is None else check.integer("pool", pool, low=k)
    check.one_of("rule", rule, ("greedy", "components"))
    for name, value in (
        ("dedup", dedup), ("min_similarity", min_similarity), ("radius", radius)
    ):  # fmt: skip
        if value is not None:
            check.number(name, value)
    index = embeddings if isinstance(embeddings, Index) else Index(embeddings, backend)
    asked = _floating("query", query)
    rows = []
    queries = index._queries(asked[None] if asked.ndim == 1 else asked, pool)
    for similarities, ids in index._ranked(queries, pool):
        kept = torch.ones_like(ids, dtype=torch.bool)
        if radius is not None:
            kept &= similarities < radius
        if min_similarity is not None:
            kept &= similarities >= min_similarity
        similarities, ids = similarities[kept], ids[kept]
        if dedup is not None:
            first = _distinct(index.vectors[ids], dedup, rule, k)
            similarities, ids = similarities[first], ids[first]
        rows.append(_padded(ids[:k], similarities[:k].float(), k))
    if asked.ndim == 1:
        return rows[0]
    return Retrieved(*(torch.stack(one) for one in zip(*rows, strict=True)))


def _distinct(vectors: Tensor, dedup: float, rule: str, most: int) -> list[int]:
    """Places of what is kept of ranked vectors (P, D), in order, at most `most`."""
    # In numpy: on single rows torch's calls cost more than their work.
    twins = (vectors.double() @ vectors.double().mT > dedup).cpu().numpy()
    kept: list[int] = []
    gone = np.zeros(len(twins), dtype=bool)
    for place in range(len(twins)):
        if len(kept) == most:
            break
        if gone[place]:
            continue
        kept.append(place)
        waiting = [place]
        while waiting:  # by components: everything that it is connected with
            near = twins[waiting.pop()] & ~gone
            gone |= near
            if rule == "components":
                waiting += np.flatnonzero(near).tolist()
    return kept


def _padded(ids: Tensor, similarities: Tensor, k: int) -> Retrieved:
    missing = k - len(ids)
    return Retrieved(
        torch.cat([ids, ids.new_full((missing,), -1)]),
        torch.cat([similarities, similarities.new_zeros(missing)]),
        torch.arange(k, device=ids.device) < len(ids),
    )


def _floating(name: str, value: Any) -> Tensor:
    """In float32 or more; numpy arrays are taken too."""
    if not hasattr(value, "shape") and not isinstance(value, Sequence):
        raise TypeError(f"{name}: found {type(value).__name__}, expected a tensor.")
    found = torch.as_tensor(value)
    return found.to(torch.promote_types(found.dtype, torch.float32))


def _units(name: str, vectors: Tensor) -> Tensor:
    """Rows (N, D) of length 1, in float32.

    Raises:
        ValueError: a row is zero, or not finite.
    """
    vectors = vectors.detach()
    finite, long = vectors.isfinite().all(1), (vectors != 0).any(1)
    for good, what in ((finite, "NaN or infinity"), (long, "only 0")):
        if not bool(good.all()):
            places = (~good).nonzero().flatten().tolist()
            raise ValueError(
                f"{name}: found {what} in row {check.listed(map(str, places))}, "
                "expected finite vectors that have a direction. Leave such rows out."
            )
    return unit(_moderate(vectors)).float()


def _moderate(vectors: Tensor) -> Tensor:
    """Each (..., D) times a power of two that brings its largest number near 1: squares
    of 1e30 or 1e-30 leave float32. Nothing is rounded by it."""
    _, exponent = torch.frexp(vectors.detach().abs().amax(-1, keepdim=True))
    return torch.ldexp(vectors, -exponent.clamp(-126, 126))


def _faiss(backend: str, vectors: Tensor) -> Any:
    """An exact index of the vectors, or None for torch."""
    there = importlib.util.find_spec("faiss") is not None
    if backend == "torch" or (backend == "auto" and not there):
        return None
    if not there:
        raise ImportError(
            "backend='faiss': found no faiss, expected it installed. Run pip install "
            "faiss-cpu, or choose 'torch', which finds the same."
        )
    faiss = importlib.import_module("faiss")
    # A second OpenMP pool beside torch's is slow at best, and crashes on some systems.
    faiss.omp_set_num_threads(1)
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors.cpu().numpy())
    return index
