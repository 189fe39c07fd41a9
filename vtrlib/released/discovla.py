"""DiscoVLA's released checkpoints: their configuration keys and parameter names, in
terms of `vtrlib.discovla`; also plain CLIP ones, as OpenAI and CLIP4Clip have them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vtrlib import check
from vtrlib.discovla import Config, DiscoVLA, Reading

__all__ = ["config_of", "joined", "make", "names", "split"]

_PREFIX = "clip."
# What OpenAI's archives hold beside weights.
_SETTINGS = ("input_resolution", "context_length", "vocab_size")
# Their fused projections: parts in this order.
_FUSED = ("q", "k", "v")
# Theirs multiply from the right.
_TRANSPOSED = ("clip.visual.proj", "clip.text_projection")

_TOWERS = {"vision_model": "clip.visual.", "text_model": "clip."}
_TOP = {
    "logit_scale": "clip.logit_scale",
    "visual_projection.weight": "clip.visual.proj[T]",
    "text_projection.weight": "clip.text_projection[T]",
    "vision_model.embeddings.class_embedding": "clip.visual.class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "clip.visual.conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "clip.visual.positional_embedding",
    "text_model.embeddings.token_embedding.weight": "clip.token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "clip.positional_embedding",
}
_NORMS = {
    "vision_model.pre_layrnorm": "clip.visual.ln_pre", "vision_model.post_layernorm": "clip.visual.ln_post",
    "text_model.final_layer_norm": "clip.ln_final",
}  # fmt: skip
_LAYER = {
    "layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}  # fmt: skip
_ADDED = {
    "self_attn.lora.down": "attn.TVPt_LoRA_a", "self_attn.lora.up": "attn.TVPt_LoRA_b",
    "self_attn.adapter.down.weight": "attn.TVPt_down_weight", "self_attn.adapter.down.bias": "attn.TVPt_down_bias",
    "self_attn.adapter.up.weight": "attn.TVPt_up_weight", "self_attn.adapter.up.bias": "attn.TVPt_up_bias",
}  # fmt: skip


def split(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Released parameters as ours lie: fused projections in three, "…[q]" and so on, and
    what multiplies from the right transposed, "…[T]". Views.

    The prefix "clip." may be missing, as in CLIP's own checkpoints, if no name has it.
    """
    bare = not any(name.startswith(_PREFIX) for name in state_dict)
    found: dict[str, Tensor] = {}
    for name, tensor in state_dict.items():
        if name.removeprefix(_PREFIX) in _SETTINGS:
            continue
        name = _PREFIX + name if bare else name
        if name in _TRANSPOSED and tensor.ndim == 2:
            found[f"{name}[T]"] = tensor.T
        elif "attn.in_proj_" in name and tensor.ndim and len(tensor) % 3 == 0:
            parts = zip(_FUSED, tensor.chunk(3), strict=True)
            found |= {f"{name}[{one}]": part for one, part in parts}
        else:
            found[name] = tensor
    return found


def joined(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Undo `split`: weights, or gradients, by their released names."""
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name.endswith("[T]"):
            found[name.removesuffix("[T]")] = tensor.T
        elif name.endswith("[q]"):
            stem = name.removesuffix("[q]")
            found[stem] = torch.cat([tensors[f"{stem}[{one}]"] for one in _FUSED])
        elif not name.endswith("]"):
            found[name] = tensor
    return found


def names(model: DiscoVLA) -> dict[str, str | list[str]]:
    """Each parameter of ours, by name, to theirs, as `split` names them."""
    return {name: _theirs(name.removeprefix("clip.")) for name, _ in model.named_parameters()}


def config_of(released: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> Config:
    """Our configuration from theirs.

    Read are: `vision_width`, `vision_layers`, `H_V`, `patch`, `image`, `text_width`,
    `text_layers`, `H_L`, `embed`, `vocab`, `context`, `r` (0: plain CLIP, all of it
    trained); and where they stand `vision_heads`, `text_heads` (by default width // 64,
    as released), `mlp_ratio` (4), `act` ("quick_gelu"), `adapter_act`, `ln_eps`,
    `lora_scale`, `alpha`, `beta`, `sos`, `eos` (by default the last two of the
    vocabulary) and `pad`.

    Raises:
        ValueError: a key is missing, or a value out of its range.
    """
    missing = [key for key in _KEYS if key not in released]
    if missing:
        raise ValueError(
            f"config: found no {check.listed(missing, most=len(_KEYS))}, expected the keys of the released "
            "configuration."
        )
    r, vocabulary = int(released["r"]), int(released["vocab"])
    towers = {tower: _tower(released, tower) for tower in ("vision", "text")}
    towers["vision"] |= {"patch_size": released["patch"], "image_size": released["image"]}
    towers["text"] |= {
        "vocab_size": vocabulary, "max_position_embeddings": released["context"],
        "bos_token_id": released.get("sos", vocabulary - 2), "eos_token_id": released.get("eos", vocabulary - 1),
        "pad_token_id": released.get("pad", 0),
    }  # fmt: skip
    clip = {
        "vision_config": towers["vision"], "text_config": towers["text"],
        "projection_dim": released["embed"],
    }  # fmt: skip
    reading = Reading.released()
    if check.one_of("config: adapter_act", released.get("adapter_act", "quick_gelu"), ("gelu", "quick_gelu")) == "gelu":
        reading = reading.flipped("activation")
    weights = {name: float(released[name]) for name in ("alpha", "beta") if name in released}
    if not r:
        weights |= {"alpha": 0.0, "beta": 0.0}
    return Config(
        clip=clip, vision_fusion=released["H_V"], text_fusion=released["H_L"], rank=r, adapter_rank=max(r, 1),
        lora_scale=float(released.get("lora_scale", 1.0)), trained="added" if r else "all", reading=reading, **weights,
    )  # fmt: skip


def make(
    config: Mapping[str, Any], state_dict: Mapping[str, Tensor]
) -> tuple[DiscoVLA, dict[str, str | list[str]]]:
    """A model of the released sizes, and the names of its parameters."""
    model = DiscoVLA(config_of(config, state_dict))
    return model, names(model)


def _theirs(name: str) -> str:
    if name in _TOP:
        return _TOP[name]
    module, _, leaf = name.rpartition(".")
    if module in _NORMS:
        return f"{_NORMS[module]}.{leaf}"
    tower, _, _, number, rest = name.split(".", 4)  # vision_model.encoder.layers.3.mlp.fc1.weight
    layer = f"{_TOWERS[tower]}transformer.resblocks.{number}."
    if rest in _ADDED:
        return layer + _ADDED[rest]
    inner, _, leaf = rest.rpartition(".")
    if inner in _LAYER:
        return f"{layer}{_LAYER[inner]}.{leaf}"
    one = inner.removeprefix("self_attn.").removesuffix("_proj")
    return f"{layer}attn.in_proj_{leaf}[{one}]"


def _tower(released: Mapping[str, Any], tower: str) -> dict[str, Any]:
    width = int(released[f"{tower}_width"])
    heads = int(released.get(f"{tower}_heads", width // 64))
    if heads < 1 or width % heads:
        raise ValueError(
            f"config: {tower}_heads={heads}: expected a divisor of {tower}_width={width}; it is width // 64 by default."
        )
    return {
        "hidden_size": width, "num_hidden_layers": released[f"{tower}_layers"], "num_attention_heads": heads,
        "intermediate_size": int(released.get("mlp_ratio", 4) * width), "hidden_act": released.get("act", "quick_gelu"),
        "layer_norm_eps": released.get("ln_eps", 1e-5), "projection_dim": released["embed"],
    }  # fmt: skip


_KEYS = (
    "vision_width", "vision_layers", "H_V", "patch", "image", "text_width", "text_layers", "H_L", "embed", "vocab",
    "context", "r",
)  # fmt: skip
