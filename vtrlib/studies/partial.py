"""Chapter 4: how a query finds a few frames of a video, and what outscores them when it
does not.

A *curve* holds the scores of a query with the frames of a video; a video is ranked by
the maximum of its curve. What wins wrongly is sorted by what the world knows about it,
and by the width of its peak.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from vtrlib.experiments import experiment

if TYPE_CHECKING:
    from torch import Tensor

    from vtrlib.datasets.prvr import PartialRelevance
    from vtrlib.dreamprvr import DreamPRVR
    from vtrlib.world import MovingDigits

__all__ = [
    "SPIKE", "Features", "Peaks", "Winners", "at_peak", "causes", "features", "first",
    "lead", "locality", "peaks", "pooled", "registers", "rewarded", "spiked", "spikes",
]  # fmt: skip

SPIKE = 2
"""Frames that a spike is at most wide: less than half of the shortest moment of Moving
Digits, which has five."""


class Features(NamedTuple):
    """A gallery and its queries as a model embeds them, all vectors of length 1.

    Attributes:
        queries: (Q, D).
        frames: (V, F, D).
        own: (Q,), the annotated video.
        true: (Q, V), bool, where the query is true.
    """

    queries: Tensor
    frames: Tensor
    own: Tensor
    true: Tensor

    def curves(self) -> Tensor:
        """Cosines of all queries with all frames, (Q, V, F)."""
        import torch

        return torch.einsum("qd,vfd->qvf", self.queries, self.frames)


class Peaks(NamedTuple):
    """The highest point of each curve (..., F): its height, its frame, and its width in
    frames, (...) each."""

    height: Tensor
    frame: Tensor
    width: Tensor


class Winners(NamedTuple):
    """The video that comes first for each query, and what it is; (Q,) each.

    Attributes:
        video: its index.
        frame, width: of its peak; see `Peaks`.
        right: it is the annotated one.
        unannotated: it is not, and the query is true in it all the same.
        wrong: the query is not true in it.
    """

    video: Tensor
    frame: Tensor
    width: Tensor
    right: Tensor
    unannotated: Tensor
    wrong: Tensor


def features(world: MovingDigits, towers: Any = None) -> Features:
    """Frames and queries of untrimmed videos, encoded by `towers`, by default the tiny
    CLIP; 2 s for 100 videos."""
    import torch

    from vtrlib.clip import load
    from vtrlib.datasets.prvr.world import encode_frames

    towers = towers or load("tiny").frozen()
    rows = torch.arange(len(world)).split(50)
    frames = [
        torch.from_numpy(encode_frames(towers, world.frames(part.tolist())[0]))
        for part in rows
    ]
    asked = world.queries()
    with torch.no_grad():
        parts = [
            towers.encode_text([q.text for q in asked[n : n + 500]])
            for n in range(0, len(asked), 500)
        ]
    true = torch.zeros(len(asked), len(world), dtype=torch.bool)
    for row, query in enumerate(asked):
        true[row, world.true_positives(query)] = True
    return Features(
        torch.cat(parts),
        torch.cat(frames),
        torch.tensor([q.video for q in asked]),
        true,
    )


def peaks(curves: Tensor, level: Tensor | None = None) -> Peaks:
    """Where curves peak, and how wide the peaks are.

    Args:
        curves: (..., F).
        level: (...), at which width is taken; default: half of the peak's height,
            halfway from the median of the curve, which stands for the background, to
            its maximum.

    Returns:
        Heights, frames and widths. A width is that of the run of frames around the
        first maximum that reach the level, 1 … F.
    """
    import torch

    height, frame = curves.max(-1)
    if level is None:
        level = (height + curves.median(-1).values) / 2
    low = curves < level.minimum(height)[..., None]
    place = torch.arange(curves.shape[-1], device=curves.device)
    before = torch.where(low & (place < frame[..., None]), place, -1).amax(-1)
    behind = torch.where(low & (place > frame[..., None]), place, len(place)).amin(-1)
    return Peaks(height, frame, behind - before - 1)


def first(
    curves: Tensor, own: Tensor, true: Tensor, scores: Tensor | None = None
) -> Winners:
    """Who comes first.

    Args:
        curves: (Q, V, F).
        own: (Q,), the annotated video.
        true: (Q, V), bool.
        scores: (Q, V), by which videos are ranked; default: the maxima of their curves.
    """
    import torch

    row = torch.arange(len(own))
    video = (curves.amax(-1) if scores is None else scores).argmax(1)
    found = peaks(curves[row, video])
    right = video == own
    return Winners(
        video,
        found.frame,
        found.width,
        right,
        true[row, video] & ~right,
        ~true[row, video],
    )


def lead(curves: Tensor, true: Tensor, winners: Winners) -> Tensor:
    """How many frames around a winner's peak beat the best frame of all its rivals,
    (Q,).

    The rivals of a video in which the query is not true are those in which it is, and
    the other way round.
    """
    import torch

    row = torch.arange(len(true))
    rivals = torch.where(winners.wrong[:, None], true, ~true)
    level = curves.amax(-1).masked_fill(~rivals, -torch.inf).amax(1)
    return peaks(curves[row, winners.video], level).width


def at_peak(
    world: MovingDigits, winners: Winners, stride: int = 1
) -> dict[str, Tensor]:
    """What the world knows about the frame at which a winner peaks, (Q,) bool each.

    Args:
        world: the gallery.
        winners: of its queries, all of them.
        stride: frames of the world in a frame of the curve.

    Returns:
        "moment": it lies in a moment; "look-alike": in one with the digit and the
        colour of the query; "spoiled": in a degraded one; "other scene": the video's
        scene is not that of the annotated one; "forbidden": none that the query's cue
        allows.
    """
    import numpy as np
    import torch

    play, asked = world.screenplay, world.queries()
    video, frame = winners.video.numpy(), stride * winners.frame.numpy()[:, None]
    inside = (
        play.used[video]
        & (play.start[video] < frame + stride)
        & (frame < play.end[video])
    )  # (Q, M)
    event = np.array([(q.event.digit, q.event.colour) for q in asked])
    like = (play.digit[video] == event[:, :1]) & (play.colour[video] == event[:, 1:])
    scene, own = play.scene[video], play.scene[[q.video for q in asked]]
    facts = {
        "moment": inside.any(1),
        "look-alike": (inside & like).any(1),
        "spoiled": (inside & (play.degradation[video] > 0)).any(1),
        "other scene": scene != own,
        "forbidden": np.array(
            [s not in q.scenes for s, q in zip(scene, asked, strict=True)]
        ),
    }
    return {name: torch.from_numpy(fact) for name, fact in facts.items()}


def causes(
    world: MovingDigits, curves: Tensor, own: Tensor, true: Tensor, stride: int = 1
) -> dict[str, float]:
    """Shares in per cent: what comes first, and what is known of those that come first
    wrongly; and R@1 and SumR.

    "wrong/spike" is the share of peaks at most `SPIKE` frames wide, "wrong/short lead"
    of leads (see `lead`), and "right/…" is the same for winners in which the query is
    true, annotated or not, and "gallery/…" for all wrong videos, so what "wrong/…"
    would be if the winner were drawn. "struck/R@1" is R@1 if every wrong video that
    peaks with a spike were taken away, and "struck at random/R@1" if as many wrong
    videos were taken away whatever their peaks.
    """
    import torch

    found, scenes = first(curves, own, true), torch.from_numpy(world.screenplay.scene)
    known = at_peak(world, found, stride)
    known |= {
        "spike": stride * found.width <= SPIKE,
        "short lead": stride * lead(curves, true, found) <= SPIKE,
    }

    def share(fact: Tensor, among: Tensor) -> float:
        return 100 * float(fact[among].double().mean()) if bool(among.any()) else 0.0

    kinds = {
        "right": found.right,
        "unannotated": found.unannotated,
        "wrong": found.wrong,
    }
    every, spiky = torch.ones_like(found.right), spiked(curves, stride)
    shares = {f"first/{name}": share(kind, every) for name, kind in kinds.items()}
    for name, fact in known.items():
        shares |= {f"wrong/{name}": share(fact, found.wrong)}
        shares |= {f"right/{name}": share(fact, ~found.wrong)}
    shares |= {
        "gallery/spike": share(spiky, ~true),
        "wrong/spike, other scene": share(
            known["spike"] & known["other scene"], found.wrong
        ),
        "gallery/other scene": 100
        * float((scenes != scenes[own][:, None])[~true].double().mean()),
        "frames/rewarded": 100 * rewarded(curves, own),
    }
    return shares | _without_spikes(curves.amax(-1), own, true, spiky & ~true)


def spiked(curves: Tensor, stride: int = 1) -> Tensor:
    """Which curves (Q, V, F) peak with a spike, (Q, V) bool; `stride` frames of the
    world are one of the curve."""
    import torch

    # A hundred queries at a time: places of frames take twice the memory of the curves.
    return torch.cat(
        [stride * peaks(part).width <= SPIKE for part in curves.split(100)]
    )


def rewarded(curves: Tensor, own: Tensor) -> float:
    """The share of frames that are the best one of their video for a query of its own,
    0 … 1.

    A maximum hands the gradient of a positive pair to this frame alone.
    """
    import torch

    best = curves[torch.arange(len(own)), own].argmax(-1)
    return len(set(zip(own.tolist(), best.tolist(), strict=True))) / (
        curves.shape[1] * curves.shape[2]
    )


def pooled(found: Features, clips: int, frames: int) -> tuple[Tensor, Tensor]:
    """Scores (Q, V) of both branches on plain features: the best of `clips` and of
    `frames` means, as loaders pool."""
    import numpy as np
    import torch

    from vtrlib.datasets.prvr.pooling import pool_clips, pool_frames
    from vtrlib.similarity import max_similarity, unit

    def best(pool: Any, number: int) -> Tensor:
        rows = np.stack([pool(video, number) for video in found.frames.numpy()])
        return max_similarity(found.queries, unit(torch.from_numpy(rows).float()))

    return best(pool_clips, clips), best(pool_frames, frames)


def _without_spikes(
    scores: Tensor, own: Tensor, true: Tensor, spiky: Tensor
) -> dict[str, float]:
    """R@1 and SumR of scores (Q, V) as they are, without the videos `spiky` (Q, V), and
    without as many wrong ones."""
    import torch

    from vtrlib.metrics import evaluate

    generator = torch.Generator().manual_seed(0)
    dice = torch.rand(true.shape, generator=generator).masked_fill(true, 2.0)
    drawn = dice.argsort(1).argsort(1) < spiky.sum(1, keepdim=True)
    metrics = {}
    for name, struck in (
        ("", torch.zeros_like(true)),
        ("struck/", spiky),
        ("struck at random/", drawn),
    ):
        report = evaluate(scores.masked_fill(struck, -2.0), own, ks=(1, 5, 10, 100))
        metrics |= {f"{name}R@1": report.recall(1), f"{name}SumR": report.sum_r}
    return metrics


def _plain(found: Features) -> dict[str, float]:
    """SumR of ways to score a video by the features of its frames."""
    curves, (clip, frame) = found.curves(), pooled(found, clips=8, frames=32)
    ways = {
        "mean of frames": curves.mean(-1),
        "best frame": curves.amax(-1),
        "best of 32": frame,
        "best of 8": clip,
        "both": 0.6 * clip + 0.4 * frame,
    }
    return _sums(ways, found.own)


def _sums(ways: Mapping[str, Tensor], own: Tensor) -> dict[str, float]:
    from vtrlib.metrics import evaluate

    return {
        f"{name}/SumR": evaluate(scores, own, ks=(1, 5, 10, 100)).sum_r
        for name, scores in ways.items()
    }


def _branches(
    world: MovingDigits, clip: Tensor, frame: Tensor, own: Tensor
) -> dict[str, float]:
    """For each length of a moment: the share of queries whose video a branch ranks
    higher than the other does."""
    import torch

    def rank(scores: Tensor) -> Tensor:
        return (scores > scores.gather(1, own[:, None])).sum(1)

    play, asked = world.screenplay, world.queries()
    length = torch.tensor(
        [
            int(play.end[q.video, q.moment] - play.start[q.video, q.moment])
            for q in asked
        ]
    )
    ahead = {"clips": rank(clip) < rank(frame), "frames": rank(frame) < rank(clip)}
    return {
        f"{name} ahead/{n}": 100 * float(more[length == n].double().mean())
        for name, more in ahead.items() for n in length.unique().tolist()
    }  # fmt: skip


def _first_features(seed: int, split: str) -> list[float]:
    """Canary: scores of the first videos."""
    from vtrlib.world import MovingDigits

    curves = features(MovingDigits(split, "untrimmed", seed=seed, size=6)).curves()
    return [
        curves.double().mean().item(),
        curves.double().std().item(),
        curves.amax(-1).double().mean().item(),
    ]


@experiment(
    "partial-spikes", seeds=(0, 1, 2, 3, 4), canary=_first_features, split="val"
)
def spikes(seed: int, split: str) -> dict[str, float]:
    """What the tiny CLIP's frames find and what they fall for, in the world of this
    seed."""
    from vtrlib.world import MovingDigits

    world = MovingDigits(split, "untrimmed", seed=seed)
    found = features(world)
    clip, frame = pooled(found, clips=8, frames=32)
    metrics = causes(world, found.curves(), found.own, found.true) | _plain(found)
    return metrics | _branches(world, clip, frame, found.own)


def _first_losses(
    seed: int, steps: int, models: Mapping[str, Mapping[str, Any]]
) -> list[float]:
    """Canary: of each model the first losses."""
    from vtrlib.studies import dreamprvr

    return dreamprvr.first_losses(
        seed, {name: dreamprvr.settings(**changes) for name, changes in models.items()}
    )


def locality(model: DreamPRVR, data: PartialRelevance) -> float:
    """How much of its attention among frames the narrowest block of the frame branch
    gives to a frame and its two neighbours, over what an average would give them: 1 is
    none, M_f / 3 all of it."""
    import torch

    branch, at = model.video, torch.arange(model.config.frames)
    near = (at[:, None] - at).abs() <= 1
    with torch.no_grad():
        part = next(data.video_batches(100))
        tokens = branch.frame_position(branch.frame_project(part.frames))
        weights = branch.frame_block.blocks.weights(tokens, tokens[:, :0])[1].mean(
            (0, 1)
        )  # (M_f, M_f)
    return float(weights[near].sum() / weights.sum() / near.double().mean())


@experiment(
    "partial-registers", seeds=(0, 1, 2, 3, 4), canary=_first_losses, steps=160,
    models={"with": {}, "without": {"registers_from": "none"}},
)  # fmt: skip
def registers(
    seed: int, steps: int, models: dict[str, dict[str, Any]]
) -> dict[str, float]:
    """The same counts for the trained frame branch on validation, with registers and
    without; nothing is selected."""
    from vtrlib.similarity import unit
    from vtrlib.studies import dreamprvr
    from vtrlib.world import MovingDigits

    world, data, found = MovingDigits("val", "untrimmed"), dreamprvr.world("val"), {}
    for name, changes in models.items():
        model, _ = dreamprvr.train(
            dreamprvr.settings(**changes),
            dreamprvr.world("train"),
            seed=seed,
            steps=steps,
        )
        queries, videos = dreamprvr.encode(model, data, seed)
        seen = Features(
            unit(queries), unit(videos.frames), data.relevant, data.true_positives
        )
        scores = model.score(queries, videos)
        counts = causes(world, seen.curves(), seen.own, seen.true, stride=2)
        counts |= _branches(world, scores.clip, scores.frame, seen.own)
        counts |= {"frames/locality": locality(model, data)}
        counts |= _sums(
            {"clips": scores.clip, "frames": scores.frame, "both": scores.fused},
            seen.own,
        )
        found |= {f"{name}/{metric}": value for metric, value in counts.items()}
    return found
