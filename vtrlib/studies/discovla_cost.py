"""What the attentions of DiscoVLA's Fig. 3 cost on this machine, at the sizes of CLIP's ViT-B/32."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from vtrlib.experiments import experiment

if TYPE_CHECKING:
    from torch import Tensor, nn

    from vtrlib.discovla import Frames

__all__ = ["FRAMES", "KINDS", "VISION", "attention_times", "counted", "interleaved", "layer", "timed", "video"]

KINDS = ("image", "video", "fusion")
FRAMES = (1, 4, 12, 24)
VISION = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12}
_TEXT = {  # a text tower there must be, however small
    "hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 1, "num_hidden_layers": 1, "vocab_size": 3,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip

Steps = Mapping[str, Callable[[], object]]


def layer(kind: str, vision: Mapping[str, int], generator: Any = None) -> nn.Module:
    """One layer of CLIP's vision tower, frozen, with LoRA and one of `KINDS` of attention as "self_attn".

    What is trained, LoRA and adapter, is drawn, so that nothing is multiplied by zeros.
    """
    import torch

    from vtrlib.clip.lora import layers
    from vtrlib.discovla import Config, DiscoVLA

    sizes = {"vision_config": {**vision, "num_hidden_layers": 1}, "text_config": _TEXT}
    model = DiscoVLA(Config(sizes, attention=kind, vision_fusion=int(kind != "image"), text_fusion=0))
    top: nn.Module = layers(model.clip)[0][0]
    with torch.no_grad():
        for weight in top.parameters():
            weight.normal_(0, 0.02, generator=generator)
    return top.train()


def video(frames: int, tokens: int, width: int, generator: Any = None) -> tuple[Tensor, Frames]:
    """What a video brings to the layer, (F, N + 1, D), and that its rows are one video."""
    import torch

    from vtrlib.discovla import Frames

    x = torch.randn(frames, tokens, width, generator=generator).requires_grad_()  # layers below it are trained, too
    return x, Frames(frames, torch.zeros(frames, dtype=torch.long))


def timed(frames: int, tokens: int, vision: Mapping[str, int], seed: int) -> dict[str, Callable[[], object]]:
    """What is timed: each kind's attention alone and the layer around it, forward, and forward and backward."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    x, rows = video(frames, tokens, vision["hidden_size"], generator)
    found: dict[str, Callable[[], object]] = {}
    for kind in KINDS:
        whole = layer(kind, vision, generator)
        for part, module in {"attention": whole.get_submodule("self_attn"), "layer": whole}.items():
            found[f"{kind}/F={frames}/{part} forward"] = partial(_forward, module, x, rows)
            found[f"{kind}/F={frames}/{part} step"] = partial(_step, module, x, rows)
    return found


def _forward(module: nn.Module, x: Tensor, rows: Frames) -> Tensor:
    import torch

    with torch.no_grad():
        return _out(module, x, rows)


def _step(module: nn.Module, x: Tensor, rows: Frames) -> None:
    _out(module, x, rows).sum().backward()  # type: ignore[no-untyped-call]


def _out(module: nn.Module, x: Tensor, rows: Frames) -> Tensor:
    found: Any = module(x, None, frames=rows)
    out: Tensor = found[0] if isinstance(found, tuple) else found  # attention has weights to return, or None
    return out


def counted(step: Callable[[], object]) -> int:
    """Floating-point operations of a step, by torch's counter: two for each multiplication with an addition."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        step()
    total: int = counter.get_total_flops()
    return total


def interleaved(steps: Steps, repeats: int, clock: Callable[[], float] | None = None) -> dict[str, list[float]]:
    """Seconds of each step in each of some rounds, which take all steps in turn; a first round isn't counted."""
    import time

    clock = clock or time.perf_counter
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(repeats + 1):
        for name, step in steps.items():
            start = clock()
            step()
            if turn:
                seconds[name].append(clock() - start)
    return seconds


def _first_outputs(seed: int, tokens: int, vision: Mapping[str, int], **_: Any) -> list[float]:
    """Canary: of each layer the size of its output for two frames."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    x, rows = video(2, tokens, vision["hidden_size"], generator)
    with torch.no_grad():
        return [_out(layer(kind, vision, generator), x, rows).square().mean().sqrt().item() for kind in KINDS]


@experiment(
    "discovla-attention-cost", seeds=(0, 1, 2), canary=_first_outputs, frames=FRAMES, tokens=50, vision=VISION,
    matrix=1024, repeats=7,
)  # fmt: skip
def attention_times(
    seed: int, frames: Sequence[int], tokens: int, vision: Mapping[str, int], matrix: int, repeats: int
) -> dict[str, float]:
    """Milliseconds on one thread of each kind's attention and layer, for one video of so many frames.

    Beside them "… ratio", to image-level attention in the same round; and "… share", how much of the rate of a large
    matrix product in the same round is reached. All are medians over the rounds.
    """
    from statistics import median

    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    found: dict[str, float] = {}
    try:
        square = torch.ones(matrix, matrix)
        for number in frames:
            steps = timed(number, tokens, vision, seed)
            taken = interleaved({"matmul": lambda: square @ square, **steps}, repeats)
            product = 2 * matrix**3
            found[f"F={number}/matmul GFLOP/s"] = product / median(taken["matmul"]) / 1e9
            for name, step in steps.items():
                rounds = list(zip(taken[name], taken["image/" + name.partition("/")[2]], taken["matmul"], strict=True))
                work = counted(step) / product  # in large matrix products
                found[f"{name} ms"] = 1e3 * median(taken[name])
                found[f"{name} ratio"] = median(own / image for own, image, _ in rounds)
                found[f"{name} share"] = median(work * matmul / own for own, _, matmul in rounds)
    finally:
        torch.set_num_threads(threads)
    return found
