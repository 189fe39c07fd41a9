"""Small DreamPRVR models and batches for the tests: sizes that all differ, and the golden fixture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vtrlib.dreamprvr import Batch, Config, Draws, DreamPRVR, Negatives
from vtrlib.released import from_state_dict

GOLDEN = Path(__file__).parent / "golden"
DEVICES = ["cpu"] + ["cuda"] * torch.cuda.is_available()
LABELS = torch.tensor([0, 0, 1, 2, 2, 2, 3])
SIZES: dict[str, Any] = {
    "video_width": 13, "text_width": 11, "width": 6, "heads": 3, "registers": 2, "steps": 3, "words": 8, "clips": 5,
    "frames": 9, "clip_positions": 7, "blocks": 4, "estimator_blocks": 2, "pool_width": 4, "temperature": 0.1,
}  # fmt: skip


def small(reading: Any = "released", seed: int = 0, dtype: torch.dtype = torch.float64, **settings: Any) -> DreamPRVR:
    """An untrained model in evaluation mode, its weights larger than usual so that everything shows in the output."""
    config = Config(**{**SIZES, **settings}, reading=reading)
    with torch.random.fork_rng(devices=[]):  # else the weights depend on which tests ran before
        torch.manual_seed(seed)
        model = DreamPRVR(config).to(dtype)
    generator = torch.Generator().manual_seed(seed)
    for weight in model.parameters():
        noise = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
        weight.data += (0.3 * noise).to(dtype)
    return model.eval()


def features(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def lengths(found: list[int], most: int) -> Tensor:
    return torch.arange(most) < torch.tensor(found)[:, None]


def batch(config: Config, dtype: torch.dtype = torch.float64, labels: Tensor = LABELS) -> Batch:
    """4 videos (by default) of different lengths and their queries."""
    videos, queries = int(labels.max()) + 1, len(labels)
    frames = min(7, config.frames)
    return Batch(
        features(videos, config.clips, config.video_width, seed=1, dtype=dtype),
        features(videos, frames, config.video_width, seed=2, dtype=dtype),
        lengths([max(1, frames - 2 * v) for v in range(videos)], frames),
        features(queries, 5, config.text_width, seed=3, dtype=dtype),
        lengths([1 + q % 5 for q in range(queries)], 5),
        labels,
    )


def draws(config: Config, videos: int = 4, seed: int = 5) -> Draws:
    """All noise of a step; negatives are left to a generator."""
    shape, steps = (videos, config.registers, config.width), config.steps
    return Draws(
        *(features(*size, seed=seed + number) for number, size in
          enumerate([shape, (steps, *shape), (steps, *shape), shape, shape])),
    )  # fmt: skip


def golden(name: str = "dreamprvr") -> dict[str, Any]:
    found: dict[str, Any] = torch.load(GOLDEN / f"{name}.pt", weights_only=True)
    return found


def golden_model(found: dict[str, Any], dtype: torch.dtype, key: str = "state_dict") -> DreamPRVR:
    model = from_state_dict("dreamprvr", {k: v.to(dtype) for k, v in found[key].items()}, found["config"])
    assert isinstance(model, DreamPRVR)
    return model


def golden_batch(inputs: dict[str, Tensor], dtype: torch.dtype) -> Batch:
    names = ("clip_video_features", "frame_video_features", "videos_mask", "text_feat", "text_mask")
    return Batch(*(inputs[name].to(dtype) for name in names), inputs["text_labels"])


def golden_draws(found: dict[str, Any], mode: str) -> Draws:
    """Its text-to-video places count from the positive, which is put first."""
    places, noise = found["triplet_draws"][mode], found["noise"]
    clip, frame = (
        Negatives(places[f"{branch}_t2v_neg_rank"] - 1, places.get(f"{branch}_v2t_neg_rank"))
        for branch in ("clip", "frame")
    )
    return Draws(alpha=noise["tps_eps_alpha"], beta=noise["tps_eps_beta"], clip=clip, frame=frame)
