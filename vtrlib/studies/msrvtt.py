"""A first baseline on real sentences and real features: MSR-VTT's first 1,000 videos, split by source."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vtrlib.experiments import experiment

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["baseline"]

LENGTH = 24  # words of a caption that are read


@experiment(
    "msrvtt-baseline", seeds=(0, 1, 2, 3, 4), real_data=True, width=256, epochs=6, batch_size=128, learning_rate=1e-3
)
def baseline(seed: int, width: int, epochs: int, batch_size: int, learning_rate: float) -> dict[str, float]:
    """Text to video on the test videos, of two small towers trained from nothing; the epoch is chosen on validation.

    A caption is the attention-weighted mean of its word vectors, a video that of its frames, each behind a hidden
    layer; the loss is InfoNCE in which every caption of a batch's video is a positive.
    """
    import warnings

    import torch
    from torch import nn
    from torch.utils.data import TensorDataset

    from vtrlib.datasets import WordVectors, msrvtt_features
    from vtrlib.losses import info_nce
    from vtrlib.metrics import Report, evaluate
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
    return metrics | {"MdR": test.median_rank, "MnR": test.mean_rank, "best step": float(history.best_step or 0)}
