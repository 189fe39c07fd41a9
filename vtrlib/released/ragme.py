"""RagMe's released adapters: their configuration keys and parameter names, in terms of
`vtrlib.ragme`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from diffusers import UNet3DConditionModel
from torch import Tensor

from vtrlib.ragme import Config, RagMe, Reading

__all__ = ["config_of", "make", "names", "split"]

# The end of a released name from the part of it that says what it is; what holds the two modules may be called anything.
_NAME = re.compile(r"(?:^|\.)(?:(cls_token)|(body|blocks|zero_convs)\.(\d+(?:\.\d+)*)\.(.+))$")
_ENHANCER = {"norm_attention": "norm1", "attention": "attn1", "norm_feed": "norm3"}
_INFUSER = {"norm_first": "norm1", "first": "attn1", "norm_second": "norm2", "second": "attn2", "norm_feed": "norm3"}
_INSIDE = {
    "to_out": "to_out.0", "feed.project": "ff.net.0.proj", "feed.out": "ff.net.2", "steps": "emb",
}  # fmt: skip


def split(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Released parameters under plain names: without what the modules are held in, sites counted through, [CLS] a
    vector."""
    found = {name: _NAME.search(name) for name in state_dict}
    counted = {
        part: sorted({_numbers(m[3]) for m in found.values() if m and m[2] == part})
        for part in ("body", "blocks", "zero_convs")
    }
    plain = {}
    for name, tensor in state_dict.items():
        match = found[name]
        if match is None:
            plain[name] = tensor
        elif match[1]:
            plain["cls_token"] = tensor.flatten()
        else:
            plain[f"{match[2]}.{counted[match[2]].index(_numbers(match[3]))}.{match[4]}"] = tensor
    return plain


def names(model: RagMe) -> dict[str, str | list[str]]:
    """Each new parameter of ours, by name, to theirs, as `split` has them."""
    return {name: _theirs(name) for name, _ in model.named_parameters() if not name.startswith("unet.")}


def config_of(released: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> Config:
    """Our configuration from theirs and from the sizes of their weights, as `split` has them.

    Read are, wherever they stand in the configuration: `spatial_average` and
    `temporal_average` (True), `rag_mode` ("mean", or a name that ends in "loop" for all K
    tokens), `heads` (8), `use_cls_token` (True where there is a [CLS]). Depth, width and
    kind of norm follow from the weights.

    Raises:
        ValueError: there is no adapter among the weights, or the configuration asks for
            what no model here is: an enhancer that gives all tokens, or norms that know
            the step from the base's embedding.
    """
    known = dict(_flat(released))
    key = next((name for name in state_dict if name.endswith("attn2.to_k.weight")), None)
    if key is None:
        raise ValueError(
            "state_dict: found no blocks.0.attn2.to_k.weight, expected the released adapters. "
            "Give the controller's weights, not the base's."
        )
    adaptive = any(".norm1.linear" in name for name in state_dict)
    table = state_dict.get("blocks.0.norm1.emb.weight")
    if adaptive and (table is None or known.get("learnable_timestep") is False):
        raise ValueError(
            "config: found norms that read the base's embedding of the step (learnable_timestep=False), expected "
            "'layer_norm', or 'ada_norm' with a table of its own."
        )
    space, time = (
        bool(known.get(f"{axis}_average", known.get(f"{axis}_avg", True))) for axis in ("spatial", "temporal")
    )
    queries = {(True, True): "pooled", (True, False): "pooled_space", (False, True): "pooled_time"}
    mode = str(known.get("rag_mode", known.get("mode", "mean")))
    reading = Reading(**{
        **vars(Reading.released()), "queries": queries.get((space, time), "positions"),
        "tokens": "each" if mode.endswith("loop") else "mean",
    })  # fmt: skip
    layers = len({name.split(".")[1] for name in state_dict if name.startswith("body.")})
    cls = bool(known.get("use_cls_token", "cls_token" in state_dict or not layers))
    if not cls and "use_mean" in known and not known["use_mean"]:
        raise ValueError("config: found use_cls_token=False and use_mean=False, expected one of them.")
    return Config(
        width=state_dict[key].shape[1], layers=layers,
        heads=int(known.get("heads") or known.get("num_attention_heads") or 8), pool="cls" if cls else "mean",
        norm="ada_norm" if adaptive else "layer_norm", timesteps=1000 if table is None else len(table), reading=reading,
    )  # fmt: skip


def make(
    config: Mapping[str, Any], state_dict: Mapping[str, Tensor], unet: UNet3DConditionModel
) -> tuple[RagMe, dict[str, str | list[str]]]:
    """A model on a base, which it wraps in place, and the names of its new parameters."""
    model = RagMe(unet, config_of(config, state_dict))
    return model, names(model)


def _theirs(name: str) -> str:
    part, *rest = name.split(".", 1)
    if name == "enhancer.cls":
        return "cls_token"
    place, inside = rest[0].removeprefix("blocks.").split(".", 1)
    if part == "infusers" and inside.startswith("zero."):
        return f"zero_convs.{place}.{inside.removeprefix('zero.')}"
    inside = inside.removeprefix("block.")
    table = _ENHANCER if part == "enhancer" else _INFUSER
    outer, _, inner = inside.partition(".")
    inside = f"{table[outer]}.{inner}" if outer in table else inside
    for ours, theirs in _INSIDE.items():
        inside = re.sub(rf"(?:^|(?<=\.)){re.escape(ours)}(?=\.)", theirs, inside)
    return f"{'body' if part == 'enhancer' else 'blocks'}.{place}.{inside}"


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(".")))


def _flat(config: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Keys and values, also of mappings inside but the base's; outer ones last, so that they prevail."""
    parts = [value for key, value in config.items() if isinstance(value, Mapping) and key != "unet"]
    inner = [pair for value in parts for pair in _flat(value)]
    return inner + [(key, value) for key, value in config.items() if not isinstance(value, Mapping)]
