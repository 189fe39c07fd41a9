"""A first baseline on real sentences and real features: MSR-VTT's first 1,000 videos, split by source."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vtrlib.experiments import experiment

if TYPE_CHECKING:
    from torch import Tensor

    from vtrlib.metrics import Report

__all__ = ["baseline", "sources"]

LENGTH = 24  # words of a caption that are read
SCALES = (5.0, 10.0, 20.0, 50.0)  # of dual softmax and QB-Norm; validation chooses


@dataclass(frozen=True)
class _Plan:
    """What a seed trains and how it is scored.

    Attributes:
        training: model, data, loss and configuration, as `vtrlib.training.fit` takes them.
        sizes: videos of "train", "val" and "test".
        report: of all captions of a part with its videos, by the model as it is.
        first: scores of the first caption of each video of a part with the videos of another, by the model as it is.
    """

    training: tuple[Any, ...]
    sizes: dict[str, int]
    report: Callable[[str], Report]
    first: Callable[[str, str], Tensor]


def _plan(seed: int, width: int, words: int, epochs: int, batch_size: int, learning_rate: float) -> _Plan:
    import warnings

    import torch
    from torch import nn
    from torch.utils.data import TensorDataset

    from vtrlib.datasets import WordVectors, msrvtt_features
    from vtrlib.losses import info_nce
    from vtrlib.metrics import evaluate
    from vtrlib.similarity import unit
    from vtrlib.training import Config

    parts = {name: msrvtt_features(split=name) for name in ("train", "val", "test")}
    vectors = WordVectors.fit([c for captions in parts["train"].captions for c in captions], words)
    features = {name: data.features for name, data in parts.items()}  # (V, F, D)
    centre, spread = features["train"].mean((0, 1)), features["train"].std((0, 1)) + 1e-6
    features = {name: (f - centre) / spread for name, f in features.items()}

    class Tower(nn.Module):
        """(B, L, D) and mask (B, L) to unit vectors (B, width)."""

        def __init__(self, size: int) -> None:
            super().__init__()
            self.layer = nn.Sequential(nn.LayerNorm(size), nn.Dropout(0.2), nn.Linear(size, width), nn.GELU())
            self.attention, self.out = nn.Linear(width, 1), nn.Linear(width, width)

        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            x = self.layer(x)
            weight = self.attention(x).squeeze(-1).masked_fill(~mask, -torch.inf).softmax(1)
            return unit(self.out(torch.einsum("bl,blw->bw", weight, x)))

    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding(len(vectors.words), words, padding_idx=0, _weight=vectors.vectors.clone())
            self.text, self.video = Tower(words), Tower(features["train"].shape[-1])
            self.scale = nn.Parameter(torch.tensor(2.7))

        def texts(self, ids: Tensor) -> Tensor:
            found: Tensor = self.text(self.words(ids), ids != 0)
            return found

        def videos(self, features: Tensor) -> Tensor:
            found: Tensor = self.video(features, torch.ones(features.shape[:2], dtype=torch.bool))
            return found

    def captions(name: str) -> tuple[Tensor, Tensor]:
        """Word ids of all captions of a part, (Q, L), and the video of each, (Q,)."""
        data = parts[name]
        which = torch.tensor([v for v, own in enumerate(data.captions) for _ in own])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a few captions are longer than LENGTH
            return vectors.tokens([c for own in data.captions for c in own], LENGTH).ids, which

    def loss(model: Pair, batch: tuple[Tensor, Tensor]) -> Tensor:
        ids, which = batch
        videos, place = torch.unique(which, return_inverse=True)
        scores = model.texts(ids) @ model.videos(features["train"][videos]).T
        positives = place[:, None] == torch.arange(len(videos))
        return info_nce(scores, positives, scale=model.scale.exp())

    torch.manual_seed(seed)
    model, queries = Pair(), captions("train")

    def report(name: str) -> Report:
        ids, which = captions(name)
        with torch.no_grad():
            return evaluate(model.texts(ids) @ model.videos(features[name]).T, which)

    def first(name: str, gallery: str) -> Tensor:
        ids, which = captions(name)
        firsts = torch.cat([torch.zeros(1), which.diff()]).ne(0) | (torch.arange(len(which)) == 0)
        with torch.no_grad():
            found: Tensor = model.texts(ids[firsts]) @ model.videos(features[gallery]).T
        return found

    config = Config(
        epochs=epochs, batch_size=batch_size, learning_rate=learning_rate, weight_decay=0.01, schedule="cosine",
        warmup=0.05, clip=1.0, seed=seed, eval_every=len(queries[0]) // batch_size,
    )  # fmt: skip
    sizes = {name: len(data) for name, data in parts.items()}
    return _Plan((model, TensorDataset(*queries), loss, config), sizes, report, first)


def _first_losses(seed: int, **settings: Any) -> list[float]:
    """Canary: of the training, on the real data."""
    from vtrlib.training import fit

    return fit(*_plan(seed, **settings).training, until=3, quiet=True).losses


@experiment(
    "msrvtt-baseline", seeds=(0, 1, 2, 3, 4), canary=_first_losses, real_data=True,
    width=256, words=128, epochs=6, batch_size=128, learning_rate=1e-3,
)  # fmt: skip
def baseline(seed: int, **settings: Any) -> dict[str, float]:
    """Text to video on the test videos, of two small towers trained from nothing; the epoch is chosen on validation.

    A caption is the attention-weighted mean of its word vectors, a video that of its frames, each behind a hidden
    layer; the loss is InfoNCE in which every caption of a batch's video is a positive.

    Metrics that begin with "one" are of one query per video, its first caption, as the 1k-A protocol has it: as is,
    with dual softmax over all of them, and with QB-Norm whose bank are the first captions of the training videos.

    Args:
        seed: of weights, order and dropout.
        settings: width of the common space and the hidden layers, that of the word vectors, and those of the training.
    """
    from vtrlib.metrics import dual_softmax, evaluate, querybank_norm
    from vtrlib.training import fit

    plan = _plan(seed, **settings)
    report, first = plan.report, plan.first
    history = fit(*plan.training, quiet=True, validate=lambda _: sum(report("val").recall(k) for k in (1, 5, 10)))
    test = report("test")
    chance = 100 / plan.sizes["test"]
    metrics = {f"R@{k}": test.recall(k) for k in (1, 5, 10)} | {f"chance R@{k}": k * chance for k in (1, 5, 10)}
    metrics |= {"MdR": test.median_rank, "MnR": test.mean_rank, "best step": float(history.best_step or 0)}
    ways: dict[str, Callable[[str, float], Tensor]] = {
        "one": lambda part, scale: first(part, part),
        "one DSL": lambda part, scale: dual_softmax(first(part, part), scale=scale),
        "one QB-Norm": lambda part, scale: querybank_norm(first(part, part), first("train", part), scale=scale),
    }

    def scored(way: str, part: str, scale: float) -> Report:
        return evaluate(ways[way](part, scale), range(plan.sizes[part]))

    for way in ways:
        scale = max(SCALES, key=lambda s: scored(way, "val", s).sum_r)
        found = scored(way, "test", scale)
        metrics |= {f"{way}/R@{k}": found.recall(k) for k in found.ks} | {f"{way}/SumR": found.sum_r}
    return metrics


def _all_counts(seed: int) -> list[float]:
    """Canary: the whole result, which takes seconds."""
    return list(sources(seed).values())


@experiment("msrvtt-sources", seeds=(0,), canary=_all_counts, real_data=True)
def sources(seed: int) -> dict[str, float]:
    """How many test videos of each protocol were cut from a source of which training has another cut. No seed in it."""
    from vtrlib.datasets import msrvtt_protocol, read_msrvtt, split_by_source

    protocols = {name: msrvtt_protocol(name) for name in ("official", "1k-A-9k", "1k-A-7k")}
    protocols["book"] = split_by_source(read_msrvtt().values())
    metrics = {}
    for name, parts in protocols.items():
        seen = {video.source for video in parts["train"]}
        metrics[f"{name} train"] = float(len(parts["train"]))
        metrics[f"{name} test"] = float(len(parts["test"]))
        metrics[f"{name} shared"] = float(sum(video.source in seen for video in parts["test"]))
    return metrics
