"""PIG's released checkpoints: their configuration keys and parameter names, in terms of
`vtrlib.pig`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from vtrlib import check
from vtrlib.pig import PIG, Config, Reading

__all__ = ["config_of", "make", "names", "split"]

_GENERATOR = "generator.clip_reconstructor."
_TOP = {
    "generator.bos": "generator.bos_tokens",
    "generator.eos": "generator.query_tokens",
    "generator.positions": f"{_GENERATOR}embeddings.position_embedding.weight",
}
_PARTS = {
    "clip.": "encoder.clipmodel.",
    "generator.mapper.": f"{_GENERATOR}video_mapper.",
    "generator.layers.": f"{_GENERATOR}encoder.layers.",
    "generator.norm.": f"{_GENERATOR}final_layer_norm.",
    "generator.projection.": f"{_GENERATOR}text_projection.",
    "fusioner.norm_in.": "fusioner.layer_norm1.",
    "fusioner.norm_attention.": "fusioner.layer_norm2.",
    "fusioner.norm_out.": "fusioner.layer_norm3.",
    "fusioner.fc.": "fusioner.linear_proj.",
    "fusioner.": "fusioner.cross_attn.",
}
_KEYS = (
    "vision_width", "vision_layers", "vision_heads", "patch", "image", "frames", "text_width", "text_layers",
    "text_heads", "vocab", "context", "embed", "topk",
)  # fmt: skip
# What the released configuration can ask for and no paper row needs: key to the one value that is read.
_ONLY = {
    "clip_vision_additional_config": {
        "type": "ViP", "if_use_temporal_embed": 1, "use_different_frame_cls": 0, "wo_global_view_in_frame_attn": 0,
        "keep_frame_cls": 1,
    },
    "generator_config": {
        "fr_model_type": "CLIP-text-encoder", "video_mapper_type": "Linear", "num_query_token": 1,
        "input_video_tokens_type": "cls+added_cls+frame_cls+cls_attention_scores_no_overlap",
        "overall_text_repr_type": "pick_eot",
    },
    "fusioner_config": {
        "fusioner_type": "XPoolCrossAttention", "text_embeds_type": "eot-level",
        "input_video_tokens_type": "cls+added_cls+frame_cls", "final_residual_add": 0, "final_alpha_add": 0,
        "gt_text2fuse": 0, "num_layers": 1,
    },
    "loss_config": {"loss_name": "NCELearnableTempLoss", "fusioner_selected_video_feats_loss": 0},
    "generation_loss_config": {
        "generation_loss_level": "eot", "generation_loss_name": "l2", "norm_before_loss": 1,
        "use_aux_retrieval_loss": 0,
    },
}  # fmt: skip


def split(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Released parameters without the buffers that number positions."""
    return {name: tensor for name, tensor in state_dict.items() if not name.endswith("position_ids")}


def names(model: PIG) -> dict[str, str | list[str]]:
    """Each parameter of ours, by name, to theirs."""
    return {name: _theirs(name) for name, _ in model.named_parameters()}


def config_of(released: Mapping[str, Any]) -> Config:
    """Our configuration from theirs.

    Read are: `vision_width`, `vision_layers`, `vision_heads`, `patch`, `image`,
    `frames`, `text_width`, `text_layers`, `text_heads`, `vocab`, `context`, `embed`,
    `topk`; and where they stand `vision_mlp` and `text_mlp` (by default 4 times the
    width), `proxies` (4, or one more than `added_cls`), `use_bos` (0),
    `fusioner_heads` (1), `fusioner_dropout` (0.1), `act` ("quick_gelu"), `ln_eps`,
    `logit_scale` (4.6), `generation_loss_scale` (1.0; α in the released terms),
    `bos_id`, `eos_id` (by default the last two of the vocabulary); of `raw`
    the head pooling of ITS and the temperature of the fusioner. What `raw` has under
    other names too (frames, k, heads, [bos]) is read from the keys above alone.

    Raises:
        ValueError: a key is missing, a value out of its range, or `raw` asks for what no
            model here is.
    """
    missing = [key for key in _KEYS if key not in released]
    if missing:
        raise ValueError(
            f"config: found no {check.listed(missing, most=len(_KEYS))}, expected the keys of the released "
            "configuration."
        )
    raw = released.get("raw") or {}
    for part, values in _ONLY.items():
        for key, value in values.items():
            found = raw.get(part, {}).get(key, value)
            if found != value:
                raise ValueError(f"config: raw.{part}.{key}={found!r}: expected {value!r}, the released setting.")
    vocabulary = int(released["vocab"])
    towers: dict[str, dict[str, Any]] = {tower: _tower(released, tower) for tower in ("vision", "text")}
    towers["vision"] |= {"patch_size": released["patch"], "image_size": released["image"]}
    end = int(released.get("eos_id", vocabulary - 1))
    towers["text"] |= {
        "vocab_size": vocabulary, "max_position_embeddings": released["context"], "eos_token_id": end,
        "bos_token_id": int(released.get("bos_id", vocabulary - 2)), "pad_token_id": end,
    }  # fmt: skip
    reading = Reading.released()
    if int(released.get("use_bos", 0)):
        reading = reading.flipped("bos")
    weight = float(released.get("generation_loss_scale", 1.0))
    pooling = raw.get("fusioner_config", {})
    return Config(
        clip={"vision_config": towers["vision"], "text_config": towers["text"], "projection_dim": released["embed"]},
        frames=released["frames"], proxies=released.get("proxies", released.get("added_cls", 3) + 1),
        top=released["topk"], score_heads=pooling.get("select_attention_scores_type", "max"),
        fusioner_heads=released.get("fusioner_heads", 1), temperature=float(pooling.get("attn_temp", 1)),
        fusioner_dropout=float(released.get("fusioner_dropout", 0.1)), alpha=None if weight == 1 else weight,
        logit_scale=float(released.get("logit_scale", 4.6)), reading=reading,
    )  # fmt: skip


def make(config: Mapping[str, Any], _: Mapping[str, Tensor]) -> tuple[PIG, dict[str, str | list[str]]]:
    """A model of the released sizes, and the names of its parameters."""
    model = PIG(config_of(config))
    return model, names(model)


def _theirs(name: str) -> str:
    if name in _TOP:
        return _TOP[name]
    ours = next(part for part in _PARTS if name.startswith(part))
    return _PARTS[ours] + name.removeprefix(ours)


def _tower(released: Mapping[str, Any], tower: str) -> dict[str, Any]:
    width, heads = int(released[f"{tower}_width"]), int(released[f"{tower}_heads"])
    if heads < 1 or width % heads:
        raise ValueError(f"config: {tower}_heads={heads}: expected a divisor of {tower}_width={width}.")
    return {
        "hidden_size": width, "num_hidden_layers": released[f"{tower}_layers"], "num_attention_heads": heads,
        "intermediate_size": released.get(f"{tower}_mlp", 4 * width), "projection_dim": released["embed"],
        "hidden_act": released.get("act", "quick_gelu"), "layer_norm_eps": released.get("ln_eps", 1e-5),
    }  # fmt: skip
