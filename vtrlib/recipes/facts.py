"""What a run is made from and what its report says beside the metrics."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from vtrlib import provenance
from vtrlib.discovla import DiscoVLA, trained_weights
from vtrlib.discovla.weights import fingerprint
from vtrlib.recipes.pairs import Parts, digest
from vtrlib.recipes.settings import Recipe
from vtrlib.training import History

__all__ = ["decisive", "plain", "refuse_unfit", "told", "where"]


def decisive(recipe: Recipe, model: DiscoVLA, parts: Parts) -> dict[str, Any]:
    """What decides a result, as JSON: settings, sizes, and hashes of weights and data, but of no video."""
    vision = model.clip.config.vision_config
    data = {
        "train": digest(parts.train, parts.train.pseudo),
        "val": None if parts.val is None else digest(parts.val),
        "test": digest(parts.test),
    }
    return plain({
        "recipe": asdict(recipe),
        "model": asdict(model.config),
        "clip": {"size": vision.image_size, "patch": vision.patch_size, "sha256": fingerprint(model)},
        "data": data,
    })  # fmt: skip


def plain(found: dict[str, Any]) -> dict[str, Any]:
    """As JSON gives it back."""
    read: dict[str, Any] = json.loads(json.dumps(found))
    return read


def refuse_unfit(recipe: Recipe, parts: Parts, processes: int) -> None:
    """Raise ValueError where a batch cannot be shared by the processes, or there are too few pairs for one."""
    if recipe.batch % processes:
        raise ValueError(
            f"batch={recipe.batch}: {processes} processes cannot share it evenly. Expected a multiple of {processes}."
        )
    if recipe.variant != "zero_shot" and len(parts.train) < recipe.batch:
        raise ValueError(
            f"batch={recipe.batch}: there are {len(parts.train):,} pairs of video and caption to train on, expected at "
            "least one batch. Lower batch."
        )


def told(model: DiscoVLA, history: History, recipe: Recipe) -> dict[str, Any]:
    """What a report says of a training: which weights count, how many are trained, losses, seconds."""
    chosen = "no training" if recipe.variant == "zero_shot" else "the last epoch"
    if history.scores:
        chosen = f"step {history.best_step}, by R@1 + R@5 + R@10 of both directions on held out training videos"
    steps, losses = history.curve()
    return {
        "chosen": chosen,
        "trained parameters": sum(w.numel() for w in trained_weights(model).values()),
        "parameters": sum(w.numel() for w in model.parameters()),
        "training": {
            "steps": len(history.losses), "seconds": history.seconds, "validation": history.scores,
            "curve": {"steps": steps, "losses": losses},
        },
    }  # fmt: skip


def where(processes: int) -> dict[str, Any]:
    """What a report says of the machine and the code."""
    return {
        "versions": provenance.versions(), "commit": provenance.commit(), "hardware": provenance.hardware(),
        "processes": processes,
    }  # fmt: skip
