"""DiscoVLA on Moving Digits: the tiny CLIP learns to retrieve trimmed clips by a few thousand added weights.

The paper's sizes are scaled to four vision and three text layers, rounded up: a third of the vision layers and a sixth
of the text layers fuse, and ranks are to widths as 8 is to 768. What is measured with it is in
`vtrlib.studies.discovla_tables`.
"""

from __future__ import annotations

from functools import cache, partial
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

    from vtrlib.discovla import Config, DiscoVLA, Reading, Videos
    from vtrlib.studies.clips import Captioner, Clips
    from vtrlib.training import History

__all__ = [
    "BATCH", "COMPONENTS", "MODELS", "OWN_RATES", "RATES", "STEPS", "TABLE_6", "TIME", "Model", "build", "captioner",
    "clips", "encode", "evaluate_on", "first_losses", "preferred", "r_sum_on", "reading", "settings",
    "teacher_on", "train",
]  # fmt: skip

STEPS, BATCH = 64, 24
TIME = "IVFusion with time"
_VIDEO: dict[str, Any] = {"text_fusion": 0, "alpha": 0.0, "beta": 0.0}


class Model(NamedTuple):
    """What is trained, and on which pseudo captions.

    Attributes:
        changes: of `settings`.
        captions: a variant of `vtrlib.world.pseudo_captions`, read where a loss needs them.
        time: whether `TimePositions` stand in the vision tower.
    """

    changes: dict[str, Any]
    captions: str = "guided"
    time: bool = False


MODELS: dict[str, Model] = {
    "zero-shot": Model(
        {**_VIDEO, "attention": "image", "vision_fusion": 0, "rank": 0, "trained": "nothing"}
    ),
    "image-level": Model({**_VIDEO, "attention": "image", "vision_fusion": 0}),
    "video-level": Model({**_VIDEO, "attention": "video"}),
    "IVFusion w/o adapter": Model({**_VIDEO, "attention": "average"}),
    "IVFusion": Model(_VIDEO),
    TIME: Model(_VIDEO, time=True),
    "B2": Model({"beta": 0.0}),
    "B3": Model({"text_fusion": 0, "alpha": 0.0}),
    "DiscoVLA": Model({}),
    "full fine-tuning": Model({**_VIDEO, "attention": "image", "vision_fusion": 0, "rank": 0, "trained": "clip"}),
    "video-level similarity": Model({"similarity": "video"}),
    "paired similarity": Model({"similarity": "paired"}),
    "W/O VidCap": Model({}, "unguided"),
    "shuffled captions": Model({}, "shuffled"),
}
"""What Tables 5 to 8 compare, by one name each. In Table 5 "image-level" is called LoRA, and "IVFusion" B1; in Table 7
None is B3, and Fine-grained DiscoVLA. `TIME` and "shuffled captions" are none of the paper's."""
TABLE_6 = ("image-level", "video-level", "IVFusion w/o adapter", "IVFusion", TIME)
COMPONENTS = ("zero-shot", "image-level", "IVFusion", "B2", "B3", "DiscoVLA", "full fine-tuning")
"""Table 5, and the full fine-tuning of Table 1."""
RATES: dict[str, float] = {"DiscoVLA": 1.2e-2, "full fine-tuning": 1e-3}
"""Learning rates: as in the paper one for all models that add weights, the best on validation in the mean over them;
and the best for full fine-tuning. Both from the row discovla-rates."""
OWN_RATES: dict[str, float] = {
    "image-level": 4.8e-2, "video-level": 1.2e-2, "IVFusion w/o adapter": 2.4e-2, "IVFusion": 4.8e-2, TIME: 4.8e-2,
    "B2": 1.2e-2, "B3": 2.4e-2, "DiscoVLA": 1.2e-2,
}
"""The best rate of each alone, at one seed; at twice the largest no model learns."""


def reading(name: str = "released") -> Reading:
    """DiscoVLA's `Reading`, as the study has it, "released", or as the "paper" has it.

    The released reduction of Eq. 13 makes β mean another thing with every batch size: at 24 clips it is 5 times as
    much as at the released 128. So here Eq. 13 is a mean over rows, whichever the reading, as the paper has it.
    """
    from dataclasses import replace

    from vtrlib.discovla import Reading

    return replace(Reading.of(name), kl="batchmean")


def clips(split: str, size: int | None = None, captions: str | None = None) -> Clips:
    """`Clips` of a split, made once; with pseudo captions if a variant is named."""
    return _clips(split, size, captions)  # whatever is given by name or left out, the cache sees three arguments


@cache
def _clips(split: str, size: int | None, captions: str | None) -> Clips:
    from vtrlib.studies.clips import Clips

    return Clips(split, size, None if captions is None else captioner(captions))


def captioner(variant: str) -> Captioner:
    """The world's captioner, see `vtrlib.world.pseudo_captions`."""
    from vtrlib.world import pseudo_captions

    return partial(pseudo_captions, variant=variant)


def settings(name: str | None = None, read: str | Reading = "released", **changes: Any) -> Config:
    """A model in miniature: two fusing layers of four, one of three, and ranks of two.

    Args:
        name: of `MODELS`; DiscoVLA by default.
        read: a `Reading`, or what `reading` takes.
        changes: of `vtrlib.discovla.Config`, on top.
    """
    from vtrlib.discovla import Config

    given = {} if name is None else MODELS[name].changes
    sizes = {"vision_fusion": 2, "text_fusion": 1, "rank": 2, "adapter_rank": 2}
    return Config(**sizes | given | changes, reading=reading(read) if isinstance(read, str) else read)


def build(config: Config, seed: int = 0, time: bool = False) -> DiscoVLA:
    """The tiny CLIP with what `config` adds, and with `TimePositions` for eight frames if so wished."""
    import torch

    from vtrlib.clip import load
    from vtrlib.discovla import DiscoVLA
    from vtrlib.studies.time_positions import TimePositions
    from vtrlib.world import card

    with torch.random.fork_rng(devices=[]):  # CLIP's own weights are drawn before they are loaded
        model = DiscoVLA.of(load("tiny"), config, generator=torch.Generator().manual_seed(seed))
    if time:
        vision = model.clip.vision_model
        width = model.clip.config.vision_config.hidden_size
        vision.pre_layrnorm = TimePositions(vision.pre_layrnorm, card.PHASES, width)
    return model


def train(
    config: Config, data: Clips, *, seed: int = 0, rate: float, steps: int = STEPS, batch: int = BATCH,
    time: bool = False, val: Clips | None = None, until: int | None = None, quiet: bool | None = None,
) -> tuple[DiscoVLA, History]:  # fmt: skip
    """Train what a configuration adds to the tiny CLIP.

    Args:
        config: the model; one of which nothing is trained comes back as it is.
        data: what it learns from; with pseudo captions where the configuration reads them.
        seed: of new weights, order and wordings.
        rate: peak of the learning rate, reached after a tenth of the steps, cosine to 0.
        steps, batch: updates, and clips of each, with one caption.
        time: learn `TimePositions` too.
        val: where given, four times R@sum on it is measured, and the best weights are kept; else the last.
        until, quiet: of `vtrlib.training.fit`.
    """
    from vtrlib.training import Config as Plan
    from vtrlib.training import History, adamw, bert_adam, fit, transformers_adamw

    model = build(config, seed, time)
    if config.trained == "nothing" and not time:
        return model, History(ended="steps")
    full = config.trained in ("clip", "all")  # as CLIP4Clip
    released = config.reading.optimiser == "transformers_adamw"
    plan = Plan(
        steps=steps, batch_size=batch, learning_rate=rate, weight_decay=0.2, schedule="clip4clip" if full else "cosine",
        warmup=0.1, clip=1.0, seed=seed, eval_every=-(-steps // 4),
    )  # fmt: skip
    history = fit(
        model, data, lambda m, items: m(items)["total"], plan, collate=lambda items: items, until=until, quiet=quiet,
        optimiser=partial(bert_adam, betas=(0.9, 0.98)) if full else transformers_adamw if released else adamw,
        validate=None if val is None else lambda _: r_sum_on(model, val),
    )  # fmt: skip
    return model, history


def encode(
    model: DiscoVLA, data: Clips, rows: Tensor | None = None, backwards: bool = False
) -> tuple[Tensor, Videos]:  # fmt: skip
    """Captions in their first wording (V, D), and clips: all, or those of some rows; `backwards`: from their end."""
    import torch

    from vtrlib.discovla import Videos

    model.eval()
    texts, videos = [], []
    with torch.no_grad():
        for part in (torch.arange(len(data)) if rows is None else rows).split(100):
            texts.append(model.encode_text(data.ids[0, part], data.mask[0, part]))
            pixels = data.pixels(part)
            videos.append(model.encode_video(pixels.flip(1) if backwards else pixels))
    return torch.cat(texts), Videos(*(torch.cat(parts) for parts in zip(*videos, strict=True)))


def r_sum_on(model: DiscoVLA, data: Clips) -> float:
    """R@1 + R@5 + R@10 of both directions, what validation looks at."""
    from vtrlib.studies.clips import r_sum

    texts, videos = encode(model, data)
    return r_sum(model.score(texts, videos.video))


def evaluate_on(model: DiscoVLA, data: Clips) -> dict[str, float]:
    """What `vtrlib.studies.clips.retrieved` gives, and "forwards".

    That is the share of order-sensitive clips, in per cent, that suit their caption better than the same clip played
    from the end does, where a tie counts half.
    """
    from vtrlib.studies.clips import retrieved

    texts, videos = encode(model, data)
    found = retrieved(model.score(texts, videos.video), data)
    if data.order_sensitive.any():
        found["forwards"] = 100 * float(preferred(model, data, texts, videos).mean())
    return found


def preferred(model: DiscoVLA, data: Clips, texts: Tensor, videos: Videos) -> Tensor:
    """Whether each order-sensitive clip suits its caption better than the clip played from the end: 1, ½ or 0.

    Args:
        model: any.
        data: clips.
        texts, videos: what `encode` gave.
    """
    from vtrlib.studies.clips import led

    rows = data.order_sensitive.nonzero().flatten()
    _, reversals = encode(model, data, rows=rows, backwards=True)
    return led(_cosines(texts[rows], videos.video[rows]) - _cosines(texts[rows], reversals.video))


def _cosines(texts: Tensor, videos: Tensor) -> Tensor:
    """Cosine of each text (B, D) with the video of the same row, (B,)."""
    from vtrlib.similarity import unit

    return (unit(texts) * unit(videos)).sum(1)


def teacher_on(model: DiscoVLA, data: Clips) -> dict[str, float]:
    """R@K of the image-level similarity (Eq. 10), which reads pseudo captions of the videos that are sought.

    What distillation is to learn from. No retrieval can use it: the captioner is told the query.
    """
    import torch

    from vtrlib.discovla import image_similarity
    from vtrlib.metrics import evaluate_both
    from vtrlib.studies.clips import recalls

    if data.f_ids is None or data.f_mask is None:
        raise ValueError("data: found no pseudo captions, expected clips that were made with a captioner.")
    model.eval()
    _, videos = encode(model, data)
    with torch.no_grad():
        captions = torch.cat([
            model.encode_pseudo_captions(data.f_ids[0, part], data.f_mask[0, part])
            for part in torch.arange(len(data)).split(100)
        ])  # fmt: skip
        scores = image_similarity(
            captions, videos.frames, kind=model.config.similarity, aggregation=model.config.reading.aggregation,
            scale=model.scale,
        ).total  # fmt: skip
    reports = zip(("t2v", "v2t"), evaluate_both(scores, range(len(data))), strict=True)
    return {f"teacher {way} {name}": value for way, report in reports for name, value in recalls(report).items()}


def first_losses(seed: int, names: Iterable[str], config: Config | None = None) -> list[float]:
    """Canary: of each model that is trained the losses of the first steps, on the first 48 training clips.

    Args:
        seed: as of `train`.
        names: of `MODELS`.
        config: in place of their settings.
    """
    found: list[float] = []
    for name in names:
        model = settings(name) if config is None else config
        captions = MODELS[name].captions if model.alpha or model.beta else None
        data, time = clips("train", 48, captions), MODELS[name].time
        found += train(model, data, seed=seed, rate=6e-3, batch=8, until=3, time=time, quiet=True)[1].losses
    return found
