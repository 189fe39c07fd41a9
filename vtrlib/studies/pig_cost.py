"""What the towers of PIG's Fig. 1 cost on this machine, at full size: offline for a video, online for a gallery."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from vtrlib.experiments import experiment

if TYPE_CHECKING:
    from torch import Tensor

    from vtrlib.pig import PIG, Videos

__all__ = ["TOWERS", "encoding", "gallery_costs", "kept_for_backward", "peak", "scoring", "stored"]

TOWERS = {"two-tower": "clip_vip", "hybrid": "pig", "single-tower": "single_tower"}
"""The towers, and the variant of `vtrlib.pig.Config` that each is."""


def _models(clip: Mapping[str, Any], frames: int, top: int) -> dict[str, PIG]:
    """A model of each kind, random."""
    from vtrlib.pig import PIG, Config

    made = {"clip": dict(clip), "frames": frames, "top": top}
    return {tower: PIG(Config.variant(variant, **made)).eval() for tower, variant in TOWERS.items()}


def encoding(model: PIG, video: Tensor) -> Videos:
    """What happens offline for each video."""
    import torch

    with torch.no_grad():
        return model.encode_video(video, whole=False)


def stored(tower: str, videos: int, tokens: int, width: int, generator: Any = None) -> Tensor:
    """What is kept of a gallery: a unit vector a video (V, D), or all that queries are to meet (V, S, D)."""
    import torch

    from vtrlib.similarity import unit

    shape = (videos, tokens, width) if tower == "single-tower" else (videos, width)
    return unit(torch.randn(*shape, generator=generator))


def scoring(tower: str, fusioner: Any, texts: Tensor, kept: Tensor) -> Tensor:
    """What happens online: unit vectors of queries (Q, D) and what is stored to scores (Q, V)."""
    import torch

    with torch.no_grad():
        if tower != "single-tower":
            return texts @ kept.mT
        scores: Tensor = fusioner.score(texts, kept)
        return scores


def peak(step: Callable[[], object]) -> float:
    """MiB of the tensors that a step makes, where most of them are held at once: what torch is asked for on the CPU.

    Counted, not read off the process: pages of a process depend on what was given back before, and Linux counts them
    by processor, up to some 100 MiB late. What libraries take for themselves inside one call is not in it.
    """
    import json
    from itertools import accumulate
    from pathlib import Path
    from tempfile import TemporaryDirectory

    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        made = step()
    del made
    with TemporaryDirectory() as folder:
        trace = Path(folder, "trace.json")
        profiled.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    asked = sorted((event["ts"], event["args"]["Bytes"]) for event in events if event["name"] == "[memory]")
    return max(accumulate((size for _, size in asked), initial=0)) / 2**20


def kept_for_backward(tops: Sequence[int], clip: Mapping[str, Any] | None = None, frames: int = 12) -> dict[str, int]:
    """Bytes that a training step keeps for its backward pass, for one video, in float32, by part of the model.

    Nothing is computed: tensors have shapes and no numbers. Weights are not counted; attention keeps its weights, as
    code without fused attention does.

    Args:
        tops: k of ITS, once for each generator; positions are added where a text tower has too few.
        clip: sizes of the CLIP model; ViT-B/32 by default.
        frames: F.

    Returns:
        "vision tower" with all tokens in the last layer, as released, and "generator, k = …".
    """
    import torch
    from transformers import CLIPConfig

    from vtrlib.pig import PIG, Config
    from vtrlib.pig.tokens import visual_tokens

    plain, found = CLIPConfig(**(clip or {})), dict[str, int]()
    for top in tops:
        sizes = plain.to_dict()
        text, width = sizes["text_config"], plain.projection_dim
        text["max_position_embeddings"] = max(text["max_position_embeddings"], 4 + frames + top + 2)
        with torch.device("meta"):
            model = PIG(Config(clip=sizes, frames=frames, top=top)).train()
            side = plain.vision_config.image_size
            video = torch.empty(1, frames, 3, side, side)
            tokens = torch.empty(1, 4 + frames + top, width, requires_grad=True)
        assert model.generator is not None
        if not found:
            found["vision tower"] = _saved(model, partial(visual_tokens, model.clip, video, model.config, True))
        found[f"generator, k = {top}"] = _saved(model, partial(model.generator, tokens, True))
    return found


def _saved(model: PIG, step: Callable[[], object]) -> int:
    """Bytes of the tensors that a step saves for its backward pass, each storage once, weights left out."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    storages = {weight.untyped_storage()._cdata: weight.untyped_storage() for weight in model.parameters()}
    weights = set(storages)

    def pack(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        storages.setdefault(storage._cdata, storage)  # held, so that no later one gets its address
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x), sdpa_kernel(SDPBackend.MATH):
        kept = step()
    del kept
    return sum(storage.nbytes() for key, storage in storages.items() if key not in weights)


def _steps(models: Mapping[str, PIG], videos: int, queries: int, seed: int) -> dict[str, Callable[[], object]]:
    """What is timed, "tower/encode" of one video and "tower/score" of the whole gallery."""
    import torch

    config = models["hybrid"].config
    sizes, generator = config.sizes, torch.Generator().manual_seed(seed)
    side, width = sizes.vision_config.image_size, sizes.projection_dim
    video = torch.randn(1, config.frames, 3, side, side, generator=generator)
    texts, tokens = stored("", queries, 1, width, generator), config.proxies + config.frames
    found: dict[str, Callable[[], object]] = {}
    for tower, model in models.items():
        found[f"{tower}/encode"] = partial(encoding, model, video)
        kept = stored(tower, videos, tokens, width, generator)
        found[f"{tower}/score"] = partial(scoring, tower, model.fusioner, texts, kept)
    return found


def _first_scores(seed: int, **_: Any) -> list[float]:
    """Canary: the size of the first scores of each tower."""
    import torch

    from vtrlib.pig import XPool

    generator = torch.Generator().manual_seed(seed)
    fusioner, texts = XPool(12).eval(), stored("", 3, 1, 12, generator)
    found = (scoring(tower, fusioner, texts, stored(tower, 5, 4, 12, generator)) for tower in TOWERS)
    return [scores.square().mean().sqrt().item() for scores in found]


@experiment(
    "pig-gallery-cost", seeds=(0, 1, 2), canary=_first_scores, clip={}, frames=12, top=16, videos=1000, queries=128,
    matrix=1024, repeats=5,
)  # fmt: skip
def gallery_costs(
    seed: int, clip: Mapping[str, Any], frames: int, top: int, videos: int, queries: int, matrix: int, repeats: int
) -> dict[str, float]:  # fmt: skip
    """Of each tower, on one thread: "offline ms" a video, "online ms" a query over the gallery, "stored KB" a video.

    Beside the first two "… ratio", to the two-tower in the same round, and "online share", how much of the rate of a
    large matrix product in the same round is reached; "peak MiB" of scoring all queries at once. Medians over rounds.
    """
    from statistics import median

    import torch

    from vtrlib.studies.discovla_cost import counted, interleaved

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    found: dict[str, float] = {}
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            models = _models(clip, frames, top)
        config = models["hybrid"].config
        tokens, width = config.proxies + frames, config.sizes.projection_dim
        square = torch.ones(matrix, matrix)
        steps = _steps(models, videos, queries, seed)
        taken = interleaved({"matmul": lambda: square @ square, **steps}, repeats)
        found["matmul GFLOP/s"] = 2 * matrix**3 / median(taken["matmul"]) / 1e9
        for tower in TOWERS:
            for part, name, number in (("encode", "offline", 1), ("score", "online", queries)):
                own, base = taken[f"{tower}/{part}"], taken[f"two-tower/{part}"]
                found[f"{tower}/{name} ms"] = 1e3 * median(own) / number
                found[f"{tower}/{name} ratio"] = median(a / b for a, b in zip(own, base, strict=True))
            work = counted(steps[f"{tower}/score"]) / (2 * matrix**3)
            rounds = zip(taken[f"{tower}/score"], taken["matmul"], strict=True)
            found[f"{tower}/online share"] = median(work * product / own for own, product in rounds)
            found[f"{tower}/stored KB"] = stored(tower, 1, tokens, width, torch.Generator()).nbytes / 1024
            found[f"{tower}/peak MiB"] = peak(steps[f"{tower}/score"])
    finally:
        torch.set_num_threads(threads)
    return found
