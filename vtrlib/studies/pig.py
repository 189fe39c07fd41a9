"""PIG on Moving Digits: the tiny CLIP becomes a hybrid tower, in two short stages of training.

Everything is the paper's but the sizes: eight frames of 16 patches, of which 16 go into the generator, as many as in
the paper. What is measured with it is in `vtrlib.studies.pig_tables`.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torch import Tensor

    from vtrlib.pig import PIG, Config, Reading, Videos
    from vtrlib.studies.clips import Clips
    from vtrlib.studies.pig_pairs import Pairs
    from vtrlib.training import History

__all__ = [
    "BACKBONES", "BATCH", "FIRST_RATE", "GAINS", "MODELS", "RATE", "STEPS", "TABLE_2", "TOP", "Model",
    "about_queries", "build", "encode", "evaluate_on", "first_losses", "hits", "mixing", "modality_gap", "pairs",
    "query_recall_on", "r_sum_on", "recall_of_queries", "scores", "settings", "shows_digit", "train", "train_on",
]  # fmt: skip

STEPS, BATCH, TOP = 64, 24, 16


class Model(NamedTuple):
    """What is trained.

    Attributes:
        variant: of `vtrlib.pig.VARIANTS`.
        changes: of its configuration, on top.
        first: whether stage 1 comes before; it needs a generator.
        captions: whose captions stand for pseudo-queries, see `vtrlib.studies.pig_pairs.spoken`.
    """

    variant: str
    changes: dict[str, Any] = {}  # noqa: RUF012 - a default of a NamedTuple, never changed
    first: bool = True
    captions: str | None = None


MODELS: dict[str, Model] = {
    "PIG": Model("pig"),
    "w/o L_recon": Model("no_recon", first=False),
    "L_recon in stage 1 alone": Model("no_recon"),
    "w/o stage 1": Model("pig", first=False),
    "x_v": Model("x_v"),
    "x_v, x_f": Model("x_v_x_f"),
    "x_f, x_ip": Model("x_f_x_ip"),
    "MLP": Model("mlp"),
    "Q-Former": Model("qformer"),
    "cross": Model("cross"),
    "cross, no residual": Model("cross_no_residual"),
    "co": Model("co"),
    "co, no residual": Model("co_no_residual"),
    "captions of a frame": Model("captions", captions="frame"),
    "captions with motion": Model("captions", captions="motion"),
    "CLIP4Clip": Model("clip4clip"),
    "CLIP-ViP": Model("clip_vip"),
    "PIG on CLIP4Clip": Model("pig_clip4clip"),
    "single tower": Model("single_tower"),
    "single tower on CLIP4Clip": Model("single_tower", {"backbone": "clip4clip"}),
}
"""What Tables 2 and 4 compare, by one name each. Not in them: L_recon in one stage of two, no stage 1, fusioners
without residual, and X-Pool as a single tower on the same backbones."""
TABLE_2 = (
    "PIG", "w/o L_recon", "x_v", "x_v, x_f", "x_f, x_ip", "MLP", "Q-Former", "cross", "co", "captions of a frame",
    "captions with motion",
)  # fmt: skip
BACKBONES = ("CLIP4Clip", "CLIP-ViP", "PIG on CLIP4Clip", "PIG")
GAINS: dict[str, tuple[float, float]] = {
    "CLIP-ViP B/32, MSRVTT-1k": (46.0, 48.6), "CLIP-ViP B/32, MSRVTT-3k": (30.2, 31.8),
    "CLIP-ViP B/32, MSVD": (45.1, 47.9), "CLIP-ViP B/32, VATEX": (62.1, 64.0), "CLIP-ViP B/32, DiDeMo": (39.5, 41.2),
    "CLIP4Clip B/32, MSRVTT-1k": (42.8, 45.1), "CLIP4Clip B/32, DiDeMo": (42.0, 44.1),
    "CLIP-ViP B/16, MSRVTT-1k": (49.4, 51.2), "CLIP-ViP B/16, DiDeMo": (41.8, 43.3),
}  # fmt: skip
"""R@1 of each backbone alone and of PIG on it, wherever Tables 1 and 4 print both."""
FIRST_RATE = 2e-3
"""Learning rate of stage 1, the best on validation; row pig-first-rates."""
RATE = 5e-4
"""Learning rate of stage 2, as in the paper one for all models: the best of each of four; row pig-rates."""


def pairs(split: str, size: int | None = None, captions: str | None = None, domain: str = "all") -> Pairs:
    """`Pairs` of a split, made once."""
    return _pairs(split, size, captions, domain)


@cache
def _pairs(split: str, size: int | None, captions: str | None, domain: str) -> Pairs:
    from vtrlib.studies.pig_pairs import Pairs

    return Pairs(_clips(split, size, domain), captions)


@cache
def _clips(split: str, size: int | None, domain: str) -> Clips:
    from vtrlib.studies.clips import Clips

    return Clips(split, size, domain=domain)


def settings(name: str = "PIG", reading: str | Reading = "released", **changes: Any) -> Config:
    """A model in miniature: eight frames, 16 informative patches, CLIP's own scale to start from.

    Args:
        name: of `MODELS`.
        reading: of a `vtrlib.pig.Config`.
        changes: of one, on top.
    """
    from vtrlib.pig import Config
    from vtrlib.world import card

    model = MODELS[name]
    sizes = {"frames": card.PHASES, "top": TOP, "logit_scale": None}
    return Config.variant(model.variant, reading, **{**sizes, **model.changes, **changes})


def build(config: Config, seed: int = 0) -> PIG:
    """The tiny CLIP with what `config` adds."""
    import torch

    from vtrlib.clip import load
    from vtrlib.pig import PIG

    with torch.random.fork_rng(devices=[]):  # CLIP's own weights are drawn before they are loaded
        return PIG.of(load("tiny"), config, generator=torch.Generator().manual_seed(seed))


def train(
    config: Config, data: Pairs, *, seed: int = 0, rate: float, first: float | None = FIRST_RATE, steps: int = STEPS,
    batch: int = BATCH, until: int | None = None, quiet: bool | None = None,
) -> tuple[PIG, dict[int, History]]:  # fmt: skip
    """Train a model in both stages, from the tiny CLIP.

    Args:
        config: the model.
        data: what it learns from.
        seed: of new weights, order and wordings.
        rate: peak of the learning rate in stage 2, reached after a tenth of the steps, cosine to 0.
        first: the same of stage 1; None to leave it out.
        steps, batch: of each stage: updates, and clips of each, with one caption.
        until, quiet: of `vtrlib.training.fit`.
    """
    model = build(config, seed)
    peaks = {stage: peak for stage, peak in ((1, first), (2, rate)) if peak is not None}
    return model, train_on(model, data, peaks, seed=seed, steps=steps, batch=batch, until=until, quiet=quiet)


def train_on(
    model: PIG, data: Pairs, peaks: Mapping[int, float], *, seed: int, steps: int, batch: int, until: int | None = None,
    quiet: bool | None = None,
) -> dict[int, History]:  # fmt: skip
    """Train a model that is there in those stages that a peak of the learning rate is given for, as `train` does."""
    from vtrlib.pig import plan, train_stages

    plans = {
        stage: plan(
            stage, steps=steps, batch_size=batch, learning_rate=peak, warmup=0.1, seed=seed + 1000 * (stage == 1)
        )
        for stage, peak in peaks.items()
    }  # fmt: skip
    return train_stages(model, data, plans, collate=lambda items: items, until=until, quiet=quiet)


def encode(
    model: PIG, data: Pairs, rows: Tensor | None = None, backwards: bool = False
) -> tuple[Tensor, Videos]:  # fmt: skip
    """Captions in their first wording (V, D), and clips: all, or those of some rows; `backwards`: from their end."""
    import torch

    from vtrlib.pig import Videos

    model.eval()
    texts, videos = [], []
    with torch.no_grad():
        for part in (torch.arange(len(data)) if rows is None else rows).split(100):
            texts.append(model.encode_text(data.clips.ids[0, part], data.clips.mask[0, part]))
            pixels = data.clips.pixels(part)
            said = None if data.said is None else (data.said[0][part], data.said[1][part])
            videos.append(model.encode_video(pixels.flip(1) if backwards else pixels, said, whole=False))
    parts = zip(*videos, strict=True)
    joined: Any = (None if part[0] is None else torch.cat(part) for part in parts)
    return torch.cat(texts), Videos(*joined)


def scores(model: PIG, texts: Tensor, videos: Videos) -> Tensor:
    """(Q, V): of a single tower pair by pair, of all others cosines with what is stored."""
    import torch

    with torch.no_grad():
        if model.config.pseudo_query == "query":
            return model.score_pairs(texts, videos)
        return model.score(texts, videos.v)


def r_sum_on(model: PIG, data: Pairs) -> float:
    """R@1 + R@5 + R@10 of both directions."""
    from vtrlib.studies.clips import r_sum

    return r_sum(scores(model, *encode(model, data)))


def query_recall_on(model: PIG, data: Pairs) -> float:
    """R@1 of texts among the pseudo-queries of all clips."""
    texts, videos = encode(model, data)
    assert videos.pseudo_query is not None
    return recall_of_queries(texts, videos.pseudo_query)


def evaluate_on(model: PIG, data: Pairs) -> dict[str, float]:
    """How a model retrieves clips, and what its pseudo-queries and selected patches are.

    What `vtrlib.studies.clips.retrieved` gives. "forwards": the share of order-sensitive clips, in per cent, that suit
    their caption better than they do played from the end; a tie counts half. With a fusioner "asked …": the same model
    as a single tower, which asks each clip with each caption. With a generator `about_queries`, and with informative
    patches "hits": the share of them that show the digit.
    """
    import torch

    from vtrlib.studies.clips import led, retrieved

    texts, videos = encode(model, data)
    table = scores(model, texts, videos)
    found = retrieved(table, data.clips)
    rows = data.clips.order_sensitive.nonzero().flatten()
    if len(rows):
        reversals = encode(model, data, rows, backwards=True)[1]
        some: Any = (None if part is None else part[rows] for part in videos)
        kept = type(videos)(*some)
        ways = (scores(model, texts[rows], way).diag() for way in (kept, reversals))
        found["forwards"] = 100 * float(led(next(ways) - next(ways)).mean())
    if model.fusioner is not None:
        if model.config.pseudo_query != "query":  # else the table is that already
            with torch.no_grad():
                table = model.score_pairs(texts, videos)
        asked = retrieved(table, data.clips)
        found |= {f"asked {name}": value for name, value in asked.items() if name.startswith(("t2v", "v2t", "R@sum"))}
    if videos.pseudo_query is not None:
        found |= about_queries(texts, videos.pseudo_query, videos.v)
    if videos.selected.shape[1]:
        found["hits"] = 100 * float(hits(videos.selected, shows_digit(data.clips)).mean())
    return found


def about_queries(texts: Tensor, queries: Tensor, v: Tensor) -> dict[str, float]:
    """How near pseudo-queries are to the texts that they stand for.

    Args:
        texts: t (V, D).
        queries: t_p (V, D), of the same videos.
        v: (V, D), what is stored of the videos.

    Returns:
        "own cosine" of a video's text and its pseudo-query, "other cosine" of different videos', both means; "query
        R@1" of texts among pseudo-queries; and for pseudo-queries, and for videos "of videos", `modality_gap` and
        `mixing` with the texts.
    """
    from vtrlib.similarity import cosine

    near = cosine(texts, queries)
    own = near.diag().mean()
    found = {
        "own cosine": float(own), "other cosine": float((near.sum() - near.trace()) / (near.numel() - len(near))),
        "query R@1": recall_of_queries(texts, queries),
    }  # fmt: skip
    for name, others in (("", queries), (" of videos", v)):
        found[f"gap{name}"] = modality_gap(texts, others)
        found[f"mixing{name}"] = mixing(texts, others)
    return found


def recall_of_queries(texts: Tensor, queries: Tensor) -> float:
    """R@1 of texts (V, D) among pseudo-queries (V, D): what the released code selects stage 1 by."""
    from vtrlib.metrics import evaluate
    from vtrlib.similarity import cosine

    return evaluate(cosine(texts, queries), range(len(texts)), ks=(1,)).recall(1)


def modality_gap(a: Tensor, b: Tensor) -> float:
    """Distance of the means of two clouds of features (N, D), each of length 1 (Liang et al., 2022); 0 … 2."""
    from vtrlib.similarity import unit

    return float((unit(a).mean(0) - unit(b).mean(0)).norm())


def mixing(a: Tensor, b: Tensor, neighbours: int = 10) -> float:
    """How mixed two clouds of N features each are: among the nearest neighbours by cosine, in both clouds together, the
    share that belongs to the other cloud, over what it is if kinds are dealt at random, N / (2 N − 1).

    0 if no point is near one of the other kind, about 1 if kind doesn't matter, and more if points come in pairs.
    """
    import torch

    from vtrlib.similarity import unit

    points = unit(torch.cat([a, b]).double())
    near = (points @ points.mT).fill_diagonal_(-2).topk(neighbours, -1).indices
    kind = torch.arange(len(points)) >= len(a)
    share = (kind[near] != kind[:, None]).double().mean()
    return float(share * (len(points) - 1) / len(a))


def shows_digit(clips: Clips) -> Tensor:
    """Which patches of each clip show the digit, in a pixel at least: (V, F, N) bool."""
    from vtrlib.world import card

    sides = clips.digit.unflatten(-1, (-1, card.PATCH)).unflatten(-3, (-1, card.PATCH))  # (V, F, rows, 8, columns, 8)
    return sides.any(-1).any(-2).flatten(2)


def hits(selected: Tensor, true: Tensor) -> Tensor:
    """The share of selected patches (V, k), frame · N + patch, that are true (V, F, N): (V,)."""
    return true.flatten(1).take_along_dim(selected, 1).double().mean(1)


def first_losses(
    seed: int, names: Iterable[str], configs: Mapping[str, Config] | None = None, domain: str = "all"
) -> list[float]:  # fmt: skip
    """Canary: of each model the losses of the first steps of its stages, on the first 48 training clips.

    Args:
        seed: as of `train`.
        names: of `MODELS`, or of `configs`.
        configs: variations of "PIG".
        domain: of the clips.
    """
    found: list[float] = []
    for name in names:
        model = MODELS[name] if configs is None else MODELS["PIG"]
        config = settings(name) if configs is None else configs[name]
        histories = train(
            config, pairs("train", 48, model.captions, domain), seed=seed, rate=1e-3, batch=8, until=2, quiet=True,
            first=FIRST_RATE if model.first and config.generates else None,
        )[1]  # fmt: skip
        found += [loss for history in histories.values() for loss in history.losses]
    return found


