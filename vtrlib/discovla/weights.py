"""What training changed, in a file of its own: two megabytes beside CLIP's six hundred."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from vtrlib import check
from vtrlib.discovla.model import DiscoVLA

__all__ = ["fingerprint", "load_trained", "save_trained", "trained_weights"]


def trained_weights(model: DiscoVLA) -> dict[str, Tensor]:
    """The weights that `config.trained` names, by name."""
    return {name: w for name, w in model.named_parameters() if w.requires_grad}


def fingerprint(model: DiscoVLA) -> str:
    """The sha256 of all weights that are not trained, those of the CLIP beneath.

    They are hashed as float32 on the CPU, so neither device nor precision matters, if
    the precision was float32 when CLIP was loaded.
    """
    digest = hashlib.sha256()
    for name, weight in sorted(model.named_parameters()):
        if not weight.requires_grad:
            values = weight.detach().to("cpu", torch.float32).contiguous()
            digest.update(f"{name} {tuple(values.shape)}".encode())
            digest.update(values.reshape(-1).numpy())
    return digest.hexdigest()


def save_trained(model: DiscoVLA, path: str | Path) -> Path:
    """Write the trained weights as safetensors, whole or not at all.

    With them goes the `fingerprint` of what they were trained on.
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    found = {k: w.detach().to("cpu", copy=True) for k, w in trained_weights(model).items()}
    try:
        save_file(found, part, {"clip": fingerprint(model)})
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return path


def load_trained(model: DiscoVLA, path: str | Path) -> DiscoVLA:
    """Put trained weights back, in place.

    Args:
        model: on the CLIP that they were trained on, with the same configuration:
            `DiscoVLA.of(vtrlib.clip.load(…), config)`.
        path: a file of `save_trained`.

    Returns:
        `model`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is damaged or none of ours, holds other weights than the model
            trains, or was trained on another CLIP. The model is left as it was.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file of trained weights.")
    try:
        with safe_open(path, "pt") as file:
            stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            beneath = (file.metadata() or {}).get("clip")
    except (OSError, SafetensorError) as error:
        raise ValueError(
            f"{path}: {error}. Expected a whole safetensors file of trained weights."
        ) from None
    own = trained_weights(model)
    faults = [
        f"{name} {found} here, {wanted} in the model"
        for name in sorted({*own, *stored})
        if (found := _shape(stored, name)) != (wanted := _shape(own, name))
    ]
    if faults:
        raise ValueError(
            f"{path}: {check.listed(faults, 3)}. Expected the trained weights of this "
            "configuration; use the variant and the CLIP that they were trained with."
        )
    if beneath != fingerprint(model):
        raise ValueError(
            f"{path}: trained on a CLIP with other weights than this one. Use that one, "
            "loaded in float32."
        )
    with torch.no_grad():
        for name, weight in own.items():
            weight.copy_(stored[name])
    return model


def _shape(weights: dict[str, Tensor], name: str) -> str:
    return str(tuple(weights[name].shape)) if name in weights else "missing"
