"""The folder of a run: what it was made from, its weights, features and report; each file is whole or not there."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from vtrlib.check import listed
from vtrlib.datasets.retrieval.pseudo_captions import write_json
from vtrlib.training.checkpoint import differences

__all__ = [
    "CHECKPOINTS", "CONFIG", "FEATURES", "REPORT", "WEIGHTS", "begin", "read_config", "refuse_other", "write_features",
]  # fmt: skip

CONFIG, WEIGHTS, REPORT = "config.json", "weights.safetensors", "report.json"
FEATURES, CHECKPOINTS = "test_features.safetensors", "checkpoints"


def refuse_other(out: Path, config: Mapping[str, Any]) -> None:
    """Raise unless a folder is missing, empty, or of a run with this configuration.

    Raises:
        ValueError: it is of another one, with what differs; or its configuration cannot be read.
        FileExistsError: it holds other things, or is a file.
    """
    if not out.exists():
        return
    if not out.is_dir():
        raise FileExistsError(f"{out}: is a file. Expected a folder for the run, new or its own.")
    if not (out / CONFIG).is_file():
        if found := sorted(path.name for path in out.iterdir()):
            raise FileExistsError(
                f"{out}: holds {listed(found)}, and no {CONFIG}. Expected a new folder, or one that a run has begun."
            )
        return
    if faults := differences(read_config(out), config):
        lines = [line.replace("in the checkpoint", "there") for line in faults]
        raise ValueError(
            "\n  ".join([f"{out}: is of another run.", *lines])
            + "\nTo go on with that run use its settings and data; for this one name another folder."
        )


def begin(out: Path, config: Mapping[str, Any]) -> None:
    """Make the folder and write what it is of.

    Raises:
        OSError: it can't be made or written to.
    """
    out.mkdir(parents=True, exist_ok=True)
    if not (out / CONFIG).exists():
        write_json(out / CONFIG, config)


def read_config(out: Path) -> dict[str, Any]:
    """What a run was made from.

    Raises:
        FileNotFoundError: it is no folder of a run.
        ValueError: its configuration cannot be read.
    """
    path = out / CONFIG
    try:
        found = json.loads(path.read_text("utf-8"))
        if not isinstance(found, dict) or not found.keys() >= {"recipe", "model", "clip", "data"}:
            raise ValueError("found no object with recipe, model, clip and data")
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: there is no such file. Expected the folder of a run.") from None
    except ValueError as error:
        raise ValueError(f"{path}: cannot be read ({error}). Name another folder.") from None
    return found


def write_features(out: Path, features: Mapping[str, Tensor]) -> Path:
    """Write tensors as safetensors."""
    part = out / f".{FEATURES}.{os.getpid()}.part"
    try:
        save_file({name: x.contiguous() for name, x in features.items()}, part)
        os.replace(part, out / FEATURES)
    finally:
        part.unlink(missing_ok=True)
    return out / FEATURES
