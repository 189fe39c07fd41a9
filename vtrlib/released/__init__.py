"""The authors' checkpoints in models of ours.

`convert` reads a checkpoint file without running anything in it; `from_state_dict`
makes a model of what it holds; `load` does the same from what `convert` wrote.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from vtrlib import check
from vtrlib.released.conversion import Converted, convert

__all__ = ["PAPERS", "Converted", "convert", "from_state_dict", "load", "renamed"]

# A module of this package each, with `make(config, state_dict) -> (model, our names to theirs)`; and, where theirs are
# not laid out as ours, `split(state_dict)` that makes them so. Of papers that add to a base model, `make` takes that too.
PAPERS = ("discovla", "dreamprvr", "pig", "ragme")
_ON_A_BASE = ("ragme",)


def from_state_dict(
    paper: str, state_dict: Mapping[str, Tensor], config: Mapping[str, Any], *,
    unet: nn.Module | None = None,
) -> nn.Module:  # fmt: skip
    """A model with released weights, in evaluation mode: what the released code does.

    Args:
        paper: one of `PAPERS`.
        state_dict: released parameter names to tensors; copied. The model takes their
            dtype and device.
        config: the released configuration; keys that no model needs are not read.
        unet: of "ragme" alone, the base, a `diffusers.UNet3DConditionModel`: it is
            wrapped in place, and what is new takes its dtype and device.

    Returns:
        For "dreamprvr" a `vtrlib.dreamprvr.DreamPRVR`, for "discovla" a
        `vtrlib.discovla.DiscoVLA`, for "pig" a `vtrlib.pig.PIG`, for "ragme" a
        `vtrlib.ragme.RagMe`, with `reading="released"`.

    Raises:
        TypeError: a base where none is needed, none where one is, or of another kind.
        ValueError: no such paper, a key of the configuration is missing, or parameters
            are missing, too many, or of another shape than the configuration says; all
            are named.
    """
    check.one_of("paper", paper, PAPERS)
    strange = [str(name) for name, one in state_dict.items() if not _is_tensor(one)]
    if strange or not state_dict:
        found = f"no tensor under {check.listed(strange)}" if strange else "no tensors"
        raise ValueError(
            f"state_dict: found {found}, expected the released parameters by name."
        )
    module = importlib.import_module(f"vtrlib.released.{paper}")
    if hasattr(module, "split"):
        state_dict = module.split(state_dict)
    model: nn.Module
    if (unet is not None) != (paper in _ON_A_BASE):
        raise TypeError(
            f"unet: found {type(unet).__name__}, expected "
            + ("a UNet3DConditionModel" if paper in _ON_A_BASE else "None")
            + f" for {paper!r}."
        )
    base = () if unet is None else (unet,)
    model, names = module.make(config, state_dict, *base)
    kinds = (one for one in state_dict.values() if one.is_floating_point())
    kind = next(kinds, None)
    model = model if kind is None or base else model.to(kind)
    weights = {
        name: weight
        for name, weight in model.named_parameters()
        if not (base and name.startswith("unet."))
    }
    theirs = renamed(weights, names)
    faults = _faults(
        state_dict, {name: tuple(one.shape) for name, one in theirs.items()}
    )
    if unet is not None and any(faults.values()):
        model.remove()  # type: ignore[operator]  # leave the base as it was
    _refuse(faults)
    with torch.no_grad():
        for name, weight in renamed(weights, names).items():
            weight.copy_(state_dict[name])
    return model.eval()


def renamed(
    tensors: Mapping[str, Tensor], names: Mapping[str, str | list[str]]
) -> dict[str, Tensor]:
    """Tensors of ours (weights, gradients) by their released names: views, with stacks
    taken apart.

    Args:
        tensors: by our names.
        names: ours to theirs, a list where ours is a stack along the first axis.
    """
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        theirs = names[name]
        found |= (
            {theirs: tensor}
            if isinstance(theirs, str)
            else dict(zip(theirs, tensor, strict=True))
        )
    return found


def load(
    path: str | Path, paper: str, *, unet: nn.Module | None = None
) -> nn.Module:
    """A model from the files that `convert` wrote.

    Args:
        path: as given to `convert`.
        paper: one of `PAPERS`.
        unet: as for `from_state_dict`.

    Raises:
        FileNotFoundError: one of the two files is missing. ValueError: as
            `from_state_dict`.
    """
    weights, settings = Converted.places(Path(path))
    for file in (weights, settings):
        if not file.is_file():
            raise FileNotFoundError(
                f"{file}: not there. Expected what vtrlib.released.convert(checkpoint, path) wrote."
            )
    config = json.loads(settings.read_text("utf-8"))["config"]
    return from_state_dict(paper, load_file(weights), config, unet=unet)


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor)


def _faults(
    state_dict: Mapping[str, Tensor], wanted: Mapping[str, tuple[int, ...]]
) -> dict[str, list[str]]:
    """What does not fit: kind to what of it."""
    return {
        "missing": [name for name in wanted if name not in state_dict],
        "not expected": [name for name in state_dict if name not in wanted],
        "of another shape": [
            f"{name} {tuple(state_dict[name].shape)}, not {shape}"
            for name, shape in wanted.items()
            if name in state_dict and tuple(state_dict[name].shape) != shape
        ],
    }


def _refuse(faults: dict[str, list[str]]) -> None:
    lines = [
        f"{kind}: {check.listed(names, most=12)}"
        for kind, names in faults.items()
        if names
    ]
    if lines:
        raise ValueError(
            "state_dict: found parameters that do not fit the configuration. "
            + "; ".join(lines)
            + ". Give the "
            "configuration that stands in the checkpoint."
        )
