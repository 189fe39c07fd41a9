"""A split scored by a trained DiscoVLA: features, R@K in both directions, and what rescoring makes of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env
from torch import Tensor
from torch.utils.data import DataLoader, Subset
from tqdm import tqdm

from vtrlib.clip import Towers, preprocess
from vtrlib.datasets.retrieval import VideoTextPairs, tokenize_captions
from vtrlib.discovla import DiscoVLA
from vtrlib.gathering import gather
from vtrlib.metrics import Report, dual_softmax, evaluate, evaluate_both, querybank_norm
from vtrlib.recipes.settings import Recipe
from vtrlib.similarity import cosine

__all__ = ["CAUTION", "Features", "encode_pairs", "encode_sentences", "measured", "processes", "r_sum", "rescored"]

_TEXTS, _VIDEOS = 256, 16  # at a time

CAUTION = {
    "DSL": (
        "No result of the model alone: a softmax over all test queries, which must be there at once; it presumes that "
        "each video is wanted about equally often."
    ),
    "QB-Norm": (
        "No result of the model alone: rescored against other queries, the first captions of the training videos. "
        "Text to video only; the other way would need the training videos as a bank."
    ),
}


class Features(NamedTuple):
    """What a split is scored from, float32 on the CPU.

    Attributes:
        texts: (Q, D), of all captions.
        videos: (V, D).
        relevant: (Q,), int64, each caption's video.
    """

    texts: Tensor
    videos: Tensor
    relevant: Tensor

    @property
    def scores(self) -> Tensor:
        """Cosines, (Q, V), in float64, so that none tie by rounding."""
        return cosine(self.texts.double(), self.videos.double())


def processes() -> PartialState:
    """The processes of this run, as `vtrlib.training.fit` will see them."""
    return PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"))


def encode_pairs(
    model: DiscoVLA, clip: Towers, pairs: VideoTextPairs, recipe: Recipe, *, workers: int = 0, quiet: bool | None = None
) -> Features:
    """Features of all captions and videos of a split; several processes share the work, and each gets all.

    Args:
        model: in evaluation mode.
        clip: whose colours the model expects.
        pairs: the split.
        recipe: its precision counts.
        workers: processes that decode.
        quiet: no progress bar; by default there is one where the output is a terminal.
    """
    texts = encode_sentences(model, clip, pairs.captions, recipe)
    mine = _share(len(pairs.video_ids))
    loader: Any = DataLoader(Subset(pairs.gallery, mine), _VIDEOS, num_workers=workers, generator=torch.Generator())
    found, device = [], model.clip.device
    off = quiet if processes().is_main_process else True
    with torch.no_grad(), _autocast(model, recipe):
        for frames, _ in tqdm(loader, disable=off, unit="batch", desc="videos", dynamic_ncols=True):
            pixels = preprocess(frames.to(device), clip.size, clip.mean, clip.std)
            found.append(model.encode_video(pixels.to(model.clip.dtype)).video.float())
    videos = gather(torch.cat(found))[: len(pairs.video_ids)].cpu()
    return Features(texts, videos, pairs.relevant)


def encode_sentences(model: DiscoVLA, clip: Towers, sentences: Sequence[str], recipe: Recipe) -> Tensor:
    """Features of sentences, (Q, D), float32 on the CPU; several processes share the work, and each gets all."""
    mine = _share(len(sentences))
    found = []
    with torch.no_grad(), _autocast(model, recipe):
        for start in range(0, len(mine), _TEXTS):
            part = [sentences[row] for row in mine[start : start + _TEXTS]]
            ids, mask = tokenize_captions(clip.tokenizer, part, recipe.words)
            found.append(model.encode_text(ids.to(model.clip.device), mask.to(model.clip.device)).float())
    return gather(torch.cat(found))[: len(sentences)].cpu()


def r_sum(features: Features) -> float:
    """R@1 + R@5 + R@10 of both directions, 0 … 600, by which an epoch is chosen on validation."""
    return sum(report.sum_r for report in evaluate_both(features.scores, features.relevant))


def measured(features: Features) -> dict[str, dict[str, float]]:
    """R@1, 5 and 10, SumR, MdR and MnR by direction; every caption is a query, and a video's best caption counts."""
    return _both(evaluate_both(features.scores, features.relevant))


def rescored(features: Features, bank: Tensor | None, scale: float) -> dict[str, dict[str, Any]]:
    """DSL where each video has one caption, QB-Norm where there is a bank: the same metrics, each with its `CAUTION`.

    Scales are CLIP's own for DSL and the 20 of QB-Norm's paper; none is chosen here.

    Args:
        features: of the split.
        bank: (B, D), features of captions of training videos.
        scale: exp of CLIP's logit scale.
    """
    found: dict[str, dict[str, Any]] = {}
    if bool((features.relevant.bincount(minlength=len(features.videos)) == 1).all()):
        ways = dual_softmax(features.scores, scale=scale), dual_softmax(features.scores.mT, scale=scale)
        backwards = features.relevant.argsort()  # the caption of each video
        reports = evaluate(ways[0], features.relevant), evaluate(ways[1], backwards)
        found["DSL"] = {"caution": CAUTION["DSL"], "scale": scale, **_both(reports)}
    if bank is not None:
        others = features._replace(texts=bank).scores
        report = evaluate(querybank_norm(features.scores, others), features.relevant)
        found["QB-Norm"] = {
            "caution": CAUTION["QB-Norm"], "scale": 20.0, "bank": len(bank), "text to video": report.metrics()
        }  # fmt: skip
    return found


def _both(reports: tuple[Report, Report]) -> dict[str, dict[str, float]]:
    return {"text to video": reports[0].metrics(), "video to text": reports[1].metrics()}


def _share(count: int) -> list[int]:
    """The rows of this process: as many on each, in order; the last ones repeat the last row, and are cut off."""
    state = processes()
    size = -(-count // state.num_processes)
    return [min(state.process_index * size + n, count - 1) for n in range(size)]


def _autocast(model: DiscoVLA, recipe: Recipe) -> Any:
    kind: Callable[..., Any] = torch.autocast
    return kind(model.clip.device.type, recipe.dtype, enabled=recipe.dtype is not None)
