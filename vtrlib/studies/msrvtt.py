"""A first baseline on real sentences and real features: MSR-VTT's first 1,000 videos, split by source."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vtrlib.experiments import experiment

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["baseline", "sources"]

LENGTH = 24  # words of a caption that are read
SCALES = (5.0, 10.0, 20.0, 50.0)  # of dual softmax and QB-Norm; validation chooses


@experiment(
    "msrvtt-baseline", seeds=(0, 1, 2, 3, 4), real_data=True, width=256, epochs=6, batch_size=128, learning_rate=1e-3
)
def baseline(seed: int, width: int, epochs: int, batch_size: int, learning_rate: float) -> dict[str, float]:
    """Text to video on the test videos, of two small towers trained from nothing; the epoch is chosen on validation.

    A caption is the attention-weighted mean of its word vectors, a video that of its frames, each behind a hidden
    layer; the loss is InfoNCE in which every caption of a batch's video is a positive.

    Metrics that begin with "one" are of one query per video, its first caption, as the 1k-A protocol has it: as is,
    with dual softmax over all of them, and with QB-Norm whose bank are the first captions of the training videos.
    """
    import warnings

    import torch
    from torch import nn
    from torch.utils.data import TensorDataset

    from vtrlib.datasets import WordVectors, msrvtt_features
    from vtrlib.losses import info_nce
    from vtrlib.metrics import Report, dual_softmax, evaluate, querybank_norm
    from vtrlib.similarity import unit
    from vtrlib.training import Config, fit

    parts = {name: msrvtt_features(split=name) for name in ("train", "val", "test")}
    vectors = WordVectors.fit([c for captions in parts["train"].captions for c in captions])

    class Tower(nn.Module):
        """(B, L, 128) and mask (B, L) to unit vectors (B, width)."""

        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Sequential(nn.LayerNorm(128), nn.Dropout(0.2), nn.Linear(128, width), nn.GELU())
            self.attention, self.out = nn.Linear(width, 1), nn.Linear(width, width)

        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            x = self.layer(x)
            weight = self.attention(x).squeeze(-1).masked_fill(~mask, -torch.inf).softmax(1)
            return unit(self.out(torch.einsum("bl,blw->bw", weight, x)))

    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding(len(vectors.words), 128, padding_idx=0, _weight=vectors.vectors.clone())
            self.text, self.video, self.scale = Tower(), Tower(), nn.Parameter(torch.tensor(2.7))

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

    features = {name: torch.as_tensor(data.features).float() for name, data in parts.items()}
    centre, spread = features["train"].mean((0, 1)), features["train"].std((0, 1)) + 1e-6
    features = {name: (f - centre) / spread for name, f in features.items()}

    def report(model: Any, name: str) -> Report:
        ids, which = captions(name)
        with torch.no_grad():
            return evaluate(model.texts(ids) @ model.videos(features[name]).T, which)

    def loss(model: Any, batch: tuple[Tensor, Tensor]) -> Tensor:
        ids, which = batch
        videos, place = torch.unique(which, return_inverse=True)
        scores = model.texts(ids) @ model.videos(features["train"][videos]).T
        positives = place[:, None] == torch.arange(len(videos))
        return info_nce(scores, positives, scale=model.scale.exp())

    torch.manual_seed(seed)
    model = Pair()
    config = Config(
        epochs=epochs, batch_size=batch_size, learning_rate=learning_rate, weight_decay=0.01, schedule="cosine",
        warmup=0.05, clip=1.0, seed=seed, eval_every=len(captions("train")[1]) // batch_size,
    )  # fmt: skip
    history = fit(
        model, TensorDataset(*captions("train")), loss, config, quiet=True,
        validate=lambda m: sum(report(m, "val").recall(k) for k in (1, 5, 10)),
    )  # fmt: skip
    test = report(model, "test")
    chance = 100 / len(features["test"])
    metrics = {f"R@{k}": test.recall(k) for k in (1, 5, 10)} | {f"chance R@{k}": k * chance for k in (1, 5, 10)}
    metrics |= {"MdR": test.median_rank, "MnR": test.mean_rank, "best step": float(history.best_step or 0)}

    def first(name: str, gallery: str) -> Tensor:
        """Scores of the first caption of each video of `name` with the videos of `gallery`."""
        ids, which = captions(name)
        firsts = torch.cat([torch.zeros(1), which.diff()]).ne(0) | (torch.arange(len(which)) == 0)
        with torch.no_grad():
            found: Tensor = model.texts(ids[firsts]) @ model.videos(features[gallery]).T
        return found

    ways = {
        "one": lambda part, scale: first(part, part),
        "one DSL": lambda part, scale: dual_softmax(first(part, part), scale=scale),
        "one QB-Norm": lambda part, scale: querybank_norm(first(part, part), first("train", part), scale=scale),
    }
    for way, rescored in ways.items():
        scale = max(SCALES, key=lambda s: evaluate(rescored("val", s), range(len(features["val"]))).sum_r)
        found = evaluate(rescored("test", scale), range(len(features["test"])))
        metrics |= {f"{way}/R@{k}": found.recall(k) for k in found.ks} | {f"{way}/SumR": found.sum_r}
    return metrics


@experiment("msrvtt-sources", seeds=(0,), real_data=True)
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
