"""How the tiny towers that ship with the book were trained, from nothing, on single frames and their captions."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from hashlib import sha256
from itertools import pairwise
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vtrlib.experiments import experiment

if TYPE_CHECKING:
    from torch import Tensor

    from vtrlib.clip import Towers

__all__ = ["Recipe", "learning_rate", "matching_alone", "pretrain", "ship", "step_cost", "zero_shot"]

FLAT = {"reading": 0.5, "matching": 0.3}  # share of a lesson's steps after which its rate begins to fall


@dataclass(frozen=True)
class Recipe:
    """Two lessons, one after the other.

    *Reading*: the vision tower alone learns to name the digit it sees, by the word of the caption that is one: a
    linear layer on its output, thrown away afterwards, scores the ten words. *Matching*: both towers learn to match
    frames with whole captions, contrastively. Matching alone would do in principle; but the digit is the one thing in
    a frame that a small transformer finds hard, and a contrastive loss between captions that differ in everything
    hardly asks for it.

    Attributes:
        seed: of the weights and of the stream of frames.
        read_steps, match_steps: optimiser steps of the lessons.
        read_batch, match_batch: frames a step.
        easy: steps of the first lesson before places begin to spread; see `vtrlib.clip.pretraining.FrameStream`.
        read_rate, match_rate: largest learning rates of AdamW; warm-up over 40 steps, cosine over the last part.
        decay: weight decay of matrices; clip: largest norm of the gradient.
    """

    seed: int = 0
    read_steps: int = 4500
    match_steps: int = 700
    read_batch: int = 128
    match_batch: int = 256
    easy: int = 400
    read_rate: float = 1e-3
    match_rate: float = 5e-4
    decay: float = 0.05
    clip: float = 1.0


def learning_rate(step: int, steps: int, peak: float, flat: float = 0.5) -> float:
    """Warm-up over 40 steps, constant for the share `flat` of all steps, then a cosine to 0."""
    warm = min(1.0, (step + 1) / 40)
    late = max(0.0, (step - flat * steps) / ((1 - flat) * steps))
    return peak * warm * 0.5 * (1 + math.cos(math.pi * late))


def pretrain(towers: Towers, recipe: Recipe, *, until: int | None = None) -> dict[str, list[float]]:
    """Train untrained towers in place.

    Args:
        towers: come back in evaluation mode.
        recipe: settings.
        until: stop after this many steps of both lessons together; all of them by default.

    Returns:
        The loss of each step that was taken, under "reading" and "matching".
    """
    import torch
    from torch import nn
    from torch.nn import functional as F

    from vtrlib.clip import preprocess
    from vtrlib.clip.pretraining import Batches, FrameBatch, FrameStream
    from vtrlib.losses import info_nce
    from vtrlib.training import Config, fit, schedules
    from vtrlib.world import card

    stream = FrameStream(recipe.seed, recipe.easy)
    digits = torch.tensor(towers.tokenizer.convert_tokens_to_ids(list(card.DIGIT_WORDS)), device=towers.device)
    generator = torch.Generator().manual_seed(recipe.seed)
    reader = nn.Linear(towers.dimension, len(digits)).to(towers.device)
    with torch.no_grad():
        reader.weight.copy_(0.1 * torch.randn(reader.weight.shape, generator=generator))
        reader.bias.zero_()

    def read(model: nn.Module, batch: FrameBatch) -> Tensor:
        ids, _ = towers.tokenize(batch.captions)
        said = (ids[:, :, None] == digits).any(1)  # (B, 10)
        shown = said.any(1)  # the caption names a digit
        frames = batch.frames.to(towers.device)[shown]
        pixels = preprocess(frames, towers.size, towers.mean, towers.std)
        features = towers.model.get_image_features(pixel_values=pixels).pooler_output
        return F.cross_entropy(reader(features), said[shown].float().argmax(1))

    def match(model: nn.Module, batch: FrameBatch) -> Tensor:
        frames, texts = towers.encode_frames(batch.frames), towers.encode_text(batch.captions)
        same, scale = batch.same.to(frames.device), towers.model.logit_scale.exp()
        return info_nce(frames @ texts.T, same, scale=scale)

    def lesson(
        name: str, model: nn.Module, loss: Callable[..., Tensor], first: int, steps: int, size: int, rate: float
    ) -> list[float]:
        """Train `model` on batches `first`, first + 1, … of the stream, which are in order; the losses."""
        left = steps if until is None else min(steps, until - first)
        if left < 1:
            return []
        schedules.SCHEDULES[f"tiny-clip-{name}"] = partial(_scheduled, FLAT[name])
        config = Config(
            steps=steps, batch_size=1, learning_rate=rate, weight_decay=recipe.decay, schedule=f"tiny-clip-{name}",
            clip=recipe.clip, seed=recipe.seed,
        )  # fmt: skip
        batches = Batches(stream, first, steps, size)  # each is one sample
        return fit(
            model, batches, loss, config, optimiser=partial(_adamw, towers), collate=itemgetter(0),
            sampler=lambda _: range(steps), until=left,
        ).losses  # fmt: skip

    vision = nn.ModuleList([towers.model.vision_model, towers.model.visual_projection, reader])
    reading = lesson("reading", vision, read, 0, recipe.read_steps, recipe.read_batch, recipe.read_rate)
    rest = recipe.match_steps, recipe.match_batch, recipe.match_rate
    matching = lesson("matching", towers, match, recipe.read_steps, *rest)
    towers.eval()
    return {"reading": reading, "matching": matching}


def zero_shot(towers: Towers, split: str = "val", clips: int = 300) -> dict[str, float]:
    """Accuracy of naming digit, colour and scene of single frames by the nearest sentences, 0 … 1.

    A name's vector is the mean over sentences that differ in everything else. Frames are those of trimmed clips in
    which the digit shows; their handwriting was never trained on unless split is "train".
    """
    import torch
    from torch.nn import functional as F

    from vtrlib.world import MovingDigits, card

    world = MovingDigits(split, "trimmed", size=clips)
    frames, mask = world.frames()
    shows = mask.flatten(2).any(2)
    play = world.screenplay
    truth = {"digit": play.digit[:, 0], "colour": play.colour[:, 0], "scene": play.scene}
    places = ("in the middle", "on the left", "on the right", "at the top", "at the bottom")
    sentences = [
        f"a {colour} {digit} {place} {scene}"
        for digit in card.DIGIT_WORDS for colour in card.COLOURS for place in places for scene in card.SCENE_CUES
    ]  # fmt: skip
    training = towers.training
    towers.eval()
    with torch.no_grad():
        seen = torch.cat([towers.encode_frames(part) for part in torch.split(frames[shows], 512)])
        said = torch.cat([towers.encode_text(sentences[k : k + 600]) for k in range(0, len(sentences), 600)])
    towers.train(training)
    grid = said.reshape(10, len(card.COLOURS), len(places), len(card.SCENES), -1)
    means = {"digit": grid.mean((1, 2, 3)), "colour": grid.mean((0, 2, 3)), "scene": grid.mean((0, 1, 2))}
    scores = {}
    for what, names in means.items():
        answer = torch.from_numpy(truth[what])[:, None].expand(-1, frames.shape[1])[shows]
        guess = (seen @ F.normalize(names, dim=-1).T).argmax(1).cpu()
        scores[what] = (guess == answer).float().mean().item()
    return scores


def ship(folder: Path, recipe: Recipe, every: int = 50) -> dict[str, Any]:
    """Train by the recipe and write the towers in half precision, with recipe, hash, scores and the loss curve."""
    import torch

    from vtrlib.clip import load, random_towers

    towers = random_towers(recipe.seed)
    curve = {lesson: [round(loss, 5) for loss in losses] for lesson, losses in pretrain(towers, recipe).items()}
    towers.to(torch.float16).save(folder)
    loaded = load(folder)
    facts = {
        "recipe": asdict(recipe),
        "sha256": sha256((folder / "model.safetensors").read_bytes()).hexdigest(),
        "parameters": sum(p.numel() for p in loaded.parameters()),
        "zero_shot": {split: zero_shot(loaded, split) for split in ("val", "test")},
        "curve": {lesson: losses[:200] + losses[200::every] for lesson, losses in curve.items()},
    }
    (folder / "recipe.json").write_text(json.dumps(facts, indent=1) + "\n", "utf-8")
    return facts


def _first_losses(seed: int, batch: int, matrix: int, steps: int) -> list[float]:
    """Canary: of the steps that are timed, on fewer frames."""
    from vtrlib.clip import random_towers

    recipe = Recipe(seed=seed, read_steps=0, match_steps=steps, match_batch=48)
    return pretrain(random_towers(seed), recipe, until=3)["matching"]


@experiment("tiny-clip-step", seeds=(0, 1, 2, 3, 4), canary=_first_losses, batch=256, matrix=1024, steps=6)
def step_cost(seed: int, batch: int, matrix: int, steps: int) -> dict[str, float]:
    """Seconds of one matching step of the tiny towers on one thread, and what that is in matrix products."""
    import time

    import torch
    from torch.optim.optimizer import register_optimizer_step_post_hook

    from vtrlib.clip import random_towers

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        a = torch.ones(matrix, matrix)
        a @ a
        marks = [time.perf_counter()]
        for _ in range(10):
            a @ a
            marks.append(time.perf_counter())
        rate = 2 * matrix**3 / min(end - start for start, end in pairwise(marks))
        marks = []
        watch = register_optimizer_step_post_hook(lambda *_: marks.append(time.perf_counter()))
        try:
            pretrain(random_towers(seed), Recipe(seed=seed, read_steps=0, match_steps=steps, match_batch=batch))
        finally:
            watch.remove()
    finally:
        torch.set_num_threads(threads)
    best = min(end - start for start, end in pairwise(marks))
    return {"seconds a step": best, "matmul GFLOP/s": rate / 1e9, "matmul GFLOP a step": best * rate / 1e9}


def _alone(seed: int, steps: int, batch: int) -> Recipe:
    return Recipe(seed=seed, easy=0, read_steps=0, match_steps=steps, match_batch=batch)


def _first_losses_alone(seed: int, steps: int, batch: int) -> list[float]:
    """Canary: of the training."""
    from vtrlib.clip import random_towers

    return pretrain(random_towers(seed), _alone(seed, steps, batch), until=3)["matching"]


@experiment("tiny-clip-matching-alone", seeds=(0, 1, 2), canary=_first_losses_alone, steps=500, batch=256)
def matching_alone(seed: int, steps: int, batch: int) -> dict[str, float]:
    """What towers can name after the second lesson of the recipe without the first, on validation."""
    from vtrlib.clip import random_towers

    towers = random_towers(seed)
    losses = pretrain(towers, _alone(seed, steps, batch))
    chance = {"chance digit": 1 / 10, "chance colour": 1 / 6, "chance scene": 1 / 6}
    return {**zero_shot(towers), **chance, "loss": sum(losses["matching"][-50:]) / 50}


def _scheduled(flat: float, step: int, steps: int, warmup: float, peak: float) -> float:
    """`learning_rate` in the form that `vtrlib.training.schedules` has."""
    return learning_rate(step, steps, peak, flat)


def _adamw(towers: Towers, model: Any, config: Any) -> Any:
    """AdamW that decays matrices alone, and after each step clamps the temperature as CLIP does."""
    import torch

    def clamp(*_: object) -> None:
        with torch.no_grad():
            towers.model.logit_scale.clamp_(max=math.log(100))

    groups: list[dict[str, Any]] = [{"params": [], "weight_decay": decay} for decay in (config.weight_decay, 0.0)]
    for weight in model.parameters():
        groups[weight.ndim < 2]["params"].append(weight)
    optimiser = torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.98))
    optimiser.register_step_post_hook(clamp)
    return optimiser
