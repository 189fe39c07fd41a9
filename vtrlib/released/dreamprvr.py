"""DreamPRVR's released checkpoints: their configuration keys and parameter names, in
terms of `vtrlib.dreamprvr`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from vtrlib import check
from vtrlib.dreamprvr import Config, DreamPRVR, Reading, Weights

__all__ = ["config_of", "make", "names"]

# Ours: theirs, spelt as theirs is. {} counts the blocks that we stack.
_BLOCK = {
    "attention.query": "self.query", "attention.key": "self.key", "attention.value": "self.value",
    "inner": "output.layer1", "outer": "output.layer2", "norm1": "norm1", "norm2": "norm2",
}  # fmt: skip
_INPUT = {"norm": "LayerNorm", "linear": "net.1"}
_POSITION = {"table": "position_embeddings", "norm": "LayerNorm"}
_SAMPLER = {
    "pool.recurrent": "gpo.gru", "pool.logit": "gpo.linear", "mean_attention.inner": "pie_net_video.attention.w_1",
    "mean_attention.outer": "pie_net_video.attention.w_2", "mean": "pie_net_video.fc",
    "norm": "pie_net_video.layer_norm", "variance_attention.inner": "uncertain_net_video.attention.w_1",
    "variance_attention.outer": "uncertain_net_video.attention.w_2", "variance": "uncertain_net_video.fc",
    "variance_pooled": "uncertain_net_video.fc2",
}  # fmt: skip
_ESTIMATOR = {
    "norm_in": "blcok_in.0", "layer_in": "blcok_in.2", "short_cut": "short_cut", "norm_out": "blcok_out.0",
    "layer_out": "blcok_out.3", "time": "temb_proj.1", "condition": "cond_proj.1",
}  # fmt: skip


def _modules(config: Config) -> dict[str, str]:
    """Our modules with weights, by name, to theirs."""
    found = {
        "query.pool": "modular_vector_mapping",
        "video.condition.tokens": "video_qformer.query_tokens",
        "video.estimator.table": "diffusion_mlp.time_embedding.timembedding.0",
        "video.estimator.time.0": "diffusion_mlp.time_embedding.timembedding.1",
        "video.estimator.time.2": "diffusion_mlp.time_embedding.timembedding.3",
        "video.estimator.condition.0": "diffusion_mlp.cond_embedding.0",
        "video.estimator.condition.2": "diffusion_mlp.cond_embedding.2",
        "video.estimator.short_cut": "diffusion_mlp.short_cut",
    }

    def nested(parts: Mapping[str, str], ours: str, theirs: str) -> None:
        found.update(
            {f"{ours}.{one}": f"{theirs}.{other}" for one, other in parts.items()}
        )

    nested(_INPUT, "query.project", "query_input_proj")
    nested(_POSITION, "query.position", "query_pos_embed")
    nested(_BLOCK, "query.block", "query_encoder")
    nested(_BLOCK, "video.features.block", "mean_clip_encoder")
    nested(_SAMPLER, "video.sampler", "video_probabilistic_variational_sampler")
    nested(_BLOCK, "video.condition.block", "video_qformer.cross_attention")
    for number in range(config.estimator_blocks):
        nested(
            _ESTIMATOR,
            f"video.estimator.blocks.{number}",
            f"diffusion_mlp.layers.{number}",
        )
    for branch in ("clip", "frame"):
        ours, theirs = f"video.{branch}_block", f"{branch}_encoder"
        nested(_INPUT, f"video.{branch}_project", f"{branch}_input_proj")
        nested(_POSITION, f"video.{branch}_position", f"{branch}_pos_embed")
        nested(_INPUT, f"{ours}.register_input", f"{theirs}.noise_input_layer")
        nested(_BLOCK, f"{ours}.mixture.block", f"{theirs}.ca")
        nested({"inner": "layer1", "outer": "layer2"}, f"{ours}.mixture", theirs)
        stacked = {
            one.removeprefix("attention."): other for one, other in _BLOCK.items()
        }
        nested(stacked, f"{ours}.blocks", f"{theirs}.e_attns.{{}}")
    return found


def names(model: DreamPRVR) -> dict[str, str | list[str]]:
    """Each parameter of ours, by name, to theirs: one, or those that are stacked along
    its first axis."""
    modules, stack = _modules(model.config), range(len(model.config.widths))
    found: dict[str, str | list[str]] = {}
    for name, _ in model.named_parameters():
        module, _, leaf = name.rpartition(".")
        if name in modules:  # a table or tokens, which are no module here
            theirs = modules[name] if leaf == "tokens" else f"{modules[name]}.weight"
        else:
            theirs = f"{modules[module]}.{leaf}"
        found[name] = (
            [theirs.format(number) for number in stack] if "{}" in theirs else theirs
        )
    return found


def config_of(released: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> Config:
    """Our configuration from theirs; lengths that their code writes out (32 clips, 128
    frames) from the weights.

    Raises:
        ValueError: a key is missing, or a value out of its range.
    """
    missing = [key for key in _KEYS.values() if key not in released]
    missing += [key for key in ("loss_factor", "neg_factor") if key not in released]
    if missing:
        raise ValueError(
            f"config: found no {check.listed(missing)}, expected the keys of the released configuration."
        )
    settings = {ours: released[theirs] for ours, theirs in _KEYS.items()}
    for ours, (parameter, default) in _LENGTHS.items():
        settings[ours] = (
            state_dict[parameter].shape[0]
            if parameter in state_dict
            else released.get(default, 128)
        )
    pool = "video_probabilistic_variational_sampler.gpo.linear.weight"
    settings["pool_width"] = state_dict[pool].shape[-1] if pool in state_dict else 32
    settings |= _listed(released, "neg_factor", ("delta", "omega", "exponent"))
    names = ("clip_nce", "frame_nce", "diversity", "qsp", "kl", "dre")
    weights = Weights(**_listed(released, "loss_factor", names))
    return Config(**settings, weights=weights, reading=Reading.released())


def _listed(
    released: Mapping[str, Any], key: str, names: tuple[str, ...]
) -> dict[str, float]:
    """Settings that they keep in one list, by our names."""
    values = released[key]
    if len(values) != len(names):
        raise ValueError(
            f"config: {key}={values}: expected {len(names)} numbers, {', '.join(names)}."
        )
    return {name: float(value) for name, value in zip(names, values, strict=True)}


def make(
    config: Mapping[str, Any], state_dict: Mapping[str, Tensor]
) -> tuple[DreamPRVR, dict[str, str | list[str]]]:
    """A model of the released sizes, and the names of its parameters."""
    model = DreamPRVR(config_of(config, state_dict))
    return model, names(model)


_KEYS = {
    "video_width": "visual_feat_dim", "text_width": "q_feat_size", "width": "hidden_size", "heads": "n_heads",
    "registers": "num_registers", "steps": "timesteps", "words": "max_desc_l", "blocks": "attention_num",
    "estimator_blocks": "num_diffusion_layers", "dropout": "drop", "input_dropout": "input_drop",
    "mixing_temperature": "sft_factor", "clip_share": "clip_scale_w", "frame_share": "frame_scale_w",
    "temperature": "deterministic_tau", "margin": "margin", "hard_pool": "hard_pool_size",
}  # fmt: skip
_LENGTHS = {
    "clips": ("clip_encoder.layer2.bias", "map_size"),
    "frames": ("frame_encoder.layer2.bias", "max_ctx_l"),
    "clip_positions": ("clip_pos_embed.position_embeddings.weight", "max_ctx_l"),
}
