"""Real clips through the whole data path: decoded, sampled, encoded at full size and by the tiny towers.

No pretrained CLIP is at hand, so the weights of ViT-B/32 are random and nothing is retrieved. What can be seen is that
real files go through, how long it takes, and what holds for any weights.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from vtrlib.experiments import experiment

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from vtrlib.discovla import DiscoVLA

__all__ = ["big", "clips", "tiny"]


def big(seed: int) -> DiscoVLA:
    """DiscoVLA on ViT-B/32, weights drawn from a seed, adapters too: those that start at zero would hide."""
    import torch

    from vtrlib.discovla import Config, DiscoVLA

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = DiscoVLA(Config.variant("b1")).eval()
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if "adapter" in name or "lora" in name:
                    weight.normal_(std=0.02)
    return model


def tiny() -> DiscoVLA:
    """The same on the tiny CLIP, untrained."""
    from vtrlib.studies.discovla import build, settings

    return build(settings("IVFusion"))


def _encode(model: DiscoVLA, frames: Tensor, *colours: Sequence[float]) -> tuple[Tensor, float]:
    """Video features (V, D) of uint8 frames (V, F, 3, H, W), one video after the other; and seconds a video."""
    import torch

    from vtrlib.clip import preprocess

    size, found, start = model.clip.config.vision_config.image_size, [], time.perf_counter()
    with torch.no_grad():
        for video in frames:
            found.append(model.encode_video(preprocess(video[None], size, *colours)).video)
    return torch.cat(found), (time.perf_counter() - start) / len(frames)


def _first_numbers(seed: int, frames: int) -> list[float]:
    """Canary: what the tiny towers make of the first clip."""
    return [clips(seed, frames, videos=1, models=("tiny",))["tiny/feature length"]]


@experiment("msvd-clips", seeds=(0,), canary=_first_numbers, real_data=True, frames=12)
def clips(
    seed: int, frames: int, videos: int | None = None, models: tuple[str, ...] = ("ViT-B/32", "tiny")
) -> dict[str, float]:
    """Decode, sample and encode MSVD's clips.

    Args:
        seed: of ViT-B/32's weights.
        frames: F.
        videos: the first so many, by name; default: all.
        models: of "ViT-B/32" and "tiny".
    """
    import torch

    from vtrlib.clip import load
    from vtrlib.datasets import data_folder
    from vtrlib.datasets.retrieval import VideoFolder, find_videos
    from vtrlib.similarity import cosine

    folder = data_folder("msvd-clips")
    ids = list(find_videos(folder))[:videos]
    start = time.perf_counter()
    pixels = VideoFolder(folder, ids, frames=frames, size=224)(ids)  # (V, F, 3, 224, 224)
    found = {
        "clips": float(len(ids)), "decode ms a clip": 1000 * (time.perf_counter() - start) / len(ids),
        "different frames of a clip": min(float(len({f.numpy().tobytes() for f in video})) for video in pixels),
    }  # fmt: skip
    towers = load("tiny")
    for name in models:
        model, colours = (big(seed), ()) if name == "ViT-B/32" else (tiny(), (towers.mean, towers.std))
        one, seconds = _encode(model, pixels, *colours)
        other, _ = _encode(model, pixels.flip(1), *colours)
        cosines = cosine(one, one)
        found |= {
            f"{name}/encode ms a clip": 1000 * seconds,
            f"{name}/feature length": float(one.norm(dim=1).mean()),
            f"{name}/feature, moved by reversal": float((one - other).abs().max()),
        }
        if len(ids) > 1:
            apart = cosines[~torch.eye(len(ids), dtype=torch.bool)]
            found |= {f"{name}/least cosine of two clips": float(apart.min())}
    return found
