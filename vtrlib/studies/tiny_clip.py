"""How the tiny towers that ship with the book were trained, from nothing, on single frames and their captions."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vtrlib.experiments import experiment

if TYPE_CHECKING:
    from vtrlib.clip import Towers

__all__ = ["Recipe", "learning_rate", "pretrain", "ship", "step_cost", "zero_shot"]


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


def pretrain(towers: Towers, recipe: Recipe) -> Iterator[tuple[str, int, float]]:
    """Train untrained towers in place, giving lesson, step and loss after each step.

    The towers are left in training mode; the caller may stop at any step.
    """
    import torch
    from torch import nn
    from torch.nn import functional as F

    from vtrlib.clip import preprocess
    from vtrlib.clip.pretraining import FrameStream
    from vtrlib.losses import info_nce
    from vtrlib.world import card

    stream = FrameStream(recipe.seed, recipe.easy)
    digits = torch.tensor(towers.tokenizer.convert_tokens_to_ids(list(card.DIGIT_WORDS)), device=towers.device)
    generator = torch.Generator().manual_seed(recipe.seed)
    reader = nn.Linear(towers.dimension, len(digits)).to(towers.device)
    with torch.no_grad():
        reader.weight.copy_(0.1 * torch.randn(reader.weight.shape, generator=generator))
        reader.bias.zero_()
    vision = [towers.model.vision_model, towers.model.visual_projection]
    towers.train()

    optimiser = _adamw([p for m in (*vision, reader) for p in m.parameters()], recipe)
    for step in range(recipe.read_steps):
        batch = stream.batch(step, recipe.read_batch)
        ids, _ = towers.tokenize(batch.captions)
        said = (ids[:, :, None] == digits).any(1)  # (B, 10)
        shown = said.any(1)  # the caption names a digit
        frames = batch.frames.to(towers.device)[shown]
        pixels = preprocess(frames, towers.size, towers.mean, towers.std)
        features = towers.model.get_image_features(pixel_values=pixels).pooler_output
        loss = F.cross_entropy(reader(features), said[shown].float().argmax(1))
        _step(optimiser, loss, learning_rate(step, recipe.read_steps, recipe.read_rate), recipe.clip)
        yield "reading", step, loss.item()

    optimiser = _adamw(list(towers.parameters()), recipe)
    for step in range(recipe.match_steps):
        batch = stream.batch(recipe.read_steps + step, recipe.match_batch)
        frames, texts = towers.encode_frames(batch.frames), towers.encode_text(batch.captions)
        same = batch.same.to(frames.device)
        loss = info_nce(frames @ texts.T, same, scale=towers.model.logit_scale.exp())
        _step(optimiser, loss, learning_rate(step, recipe.match_steps, recipe.match_rate, flat=0.3), recipe.clip)
        with torch.no_grad():
            towers.model.logit_scale.clamp_(max=math.log(100))  # as CLIP does
        yield "matching", step, loss.item()


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


def ship(folder: Path, recipe: Recipe, report: Callable[[str], None] = print, every: int = 50) -> dict[str, Any]:
    """Train by the recipe and write the towers in half precision, with recipe, hash, scores and the loss curve."""
    import torch

    from vtrlib.clip import load, random_towers

    towers = random_towers(recipe.seed)
    curve: dict[str, list[float]] = {"reading": [], "matching": []}
    for lesson, step, loss in pretrain(towers, recipe):
        curve[lesson].append(round(loss, 5))
        if step % every == 0:
            report(f"{lesson} {step}: loss {sum(curve[lesson][-every:]) / len(curve[lesson][-every:]):.3f}")
        if lesson == "matching" and step % 200 == 199:
            report(f"zero-shot on validation: {zero_shot(towers)}")
    towers.eval().to(torch.float16).save(folder)
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


@experiment("tiny-clip-step", seeds=(0, 1, 2, 3, 4), batch=256, matrix=1024, steps=6)
def step_cost(seed: int, batch: int, matrix: int, steps: int) -> dict[str, float]:
    """Seconds of one matching step of the tiny towers on one thread, and what that is in matrix products."""
    import time
    from itertools import islice

    import torch

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
        lessons = pretrain(random_towers(seed), Recipe(seed=seed, read_steps=0, match_steps=steps, match_batch=batch))
        marks = [time.perf_counter()]
        for _ in islice(lessons, steps):
            marks.append(time.perf_counter())
    finally:
        torch.set_num_threads(threads)
    best = min(end - start for start, end in pairwise(marks))
    return {"seconds a step": best, "matmul GFLOP/s": rate / 1e9, "matmul GFLOP a step": best * rate / 1e9}


def _adamw(parameters: list[Any], recipe: Recipe) -> Any:
    import torch

    matrices, others = ([p for p in parameters if (p.ndim > 1) == wide] for wide in (True, False))
    groups = [{"params": matrices, "weight_decay": recipe.decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, betas=(0.9, 0.98))


def _step(optimiser: Any, loss: Any, rate: float, clip: float) -> None:
    import torch

    for group in optimiser.param_groups:
        group["lr"] = rate
    optimiser.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_([p for group in optimiser.param_groups for p in group["params"]], clip)
    optimiser.step()
