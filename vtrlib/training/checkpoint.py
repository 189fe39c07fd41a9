"""Checkpoints: tensors as safetensors and the rest as JSON, in a folder that appears whole or not at all.

`folder/step-00000120/` holds one file per set of tensors and `state.json`. It is written under another name, flushed to
the disk and renamed; then older ones are deleted. So whenever a process dies, the newest `step-…` is complete. Nothing
in it is code, and nothing in it is unpickled.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

__all__ = ["differences", "newest", "read", "tensors_of", "usable", "write"]

Tensors = Mapping[str, torch.Tensor]
_STATE = "state.json"
_NAME = "step-" + 8 * "[0-9]"  # and nothing else that may lie in the folder: older ones are deleted
_KEYS = {"step", "place", "plan", "optimiser", "history", "files"}


def newest(folder: Path) -> Path | None:
    """The latest checkpoint in `folder`, None if there is none."""
    return max(folder.glob(_NAME), default=None)


def usable(folder: Path) -> None:
    """Make the folder of a run's checkpoints if need be, and see that one can be written, before hours of training.

    Raises:
        OSError: it can't be made or written to.
    """
    probe = folder / f".step-00000000.{os.getpid()}.part"
    try:
        shutil.rmtree(probe, ignore_errors=True)
        probe.mkdir(parents=True)
        probe.rmdir()
    except OSError as error:
        raise type(error)(
            f"{folder}: cannot hold checkpoints ({error.strerror or error}). Expected a folder that you may write to. "
            "Choose another, or correct the rights."
        ) from error


def write(folder: Path, step: int, state: Mapping[str, Any], tensors: Mapping[str, Tensors]) -> Path:
    """Write the checkpoint of a step and, once it stands, delete older ones.

    Args:
        folder: of this run's checkpoints; made if need be.
        step: 0 ≤ step < 10⁸.
        state: any JSON, with step, place, plan, optimiser and history.
        tensors: file name to its tensors by name.

    Raises:
        OSError: it cannot be written (no space, no right); the older checkpoint stays as it was.
    """
    target = folder / f"step-{step:08d}"
    part = folder / f".{target.name}.{os.getpid()}.part"
    shutil.rmtree(part, ignore_errors=True)  # a killed process of the same number left it
    try:
        part.mkdir(parents=True)
        for name, found in tensors.items():
            # Copies, because safetensors refuses tied weights: tensors that share their memory.
            copies = {key: value.detach().to("cpu", copy=True).contiguous() for key, value in found.items()}
            save_file(copies, part / f"{name}.safetensors")
        (part / _STATE).write_text(json.dumps({**state, "files": [*tensors]}, allow_nan=False), encoding="utf-8")
        for path in [*part.iterdir(), part]:
            _flush(path)
        os.rename(part, target)
        _flush(folder)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        older = newest(folder)
        kept = f"The one of {older.name} stands" if older else "There is no older one"
        kind = type(error) if isinstance(error, OSError) else OSError
        raise kind(
            f"{folder}: cannot write the checkpoint of step {step} ({reason}). Expected a folder that you may write "
            f"to, with space. {kept}. Free some space or correct the rights, and run the same command again."
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)  # gone after a success
    for old in [*folder.glob(_NAME), *folder.glob(f".{_NAME}.*.part")]:
        if old != target:
            shutil.rmtree(old, ignore_errors=True)
    return target


def read(path: Path) -> tuple[dict[str, Any], dict[str, dict[str, torch.Tensor]]]:
    """State and tensors of a checkpoint, on the CPU.

    Raises:
        ValueError: a file is missing, damaged, or no safetensors file: one that pickle wrote is never opened, since
            loading it could run code.
    """
    advice = f"Delete {path} and run again."
    try:
        state = json.loads((path / _STATE).read_text("utf-8"))
        if not isinstance(state, dict) or not state.keys() >= _KEYS:
            raise ValueError(f"found no mapping with the keys {', '.join(sorted(_KEYS))}")
    except (OSError, ValueError) as error:
        raise ValueError(f"{path / _STATE}: {error}. Expected the state of a checkpoint. {advice}") from None
    tensors = {}
    for name in state["files"]:
        file = path / f"{name}.safetensors"
        try:
            tensors[name] = load_file(file)
        except (OSError, SafetensorError) as error:
            pickled = _looks_pickled(file)
            found = "a pickle, which could run code when loaded" if pickled else error
            raise ValueError(f"{file}: found {found}. Expected a whole safetensors file. {advice}") from None
    return state, tensors


def tensors_of(stored: Tensors) -> dict[str, list[Any]]:
    """What identifies tensors in JSON: name to [shape, dtype]."""
    return {name: [list(tensor.shape), str(tensor.dtype).removeprefix("torch.")] for name, tensor in stored.items()}


def differences(stored: Mapping[str, Any], now: Mapping[str, Any], most: int = 6) -> list[str]:
    """A line per entry in which two nested mappings of JSON differ, at most so many; empty if they agree."""
    before, after = _flat(stored), _flat(json.loads(json.dumps(now)))
    lines = [
        f"{key}: found {before.get(key, 'nothing')} in the checkpoint, {after.get(key, 'nothing')} now"
        for key in dict.fromkeys([*before, *after])
        if before.get(key, ...) != after.get(key, ...)
    ]
    return lines[:most] + [f"and {len(lines) - most} more"] * (len(lines) > most)


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        flat |= _flat(inner, f"{prefix}{key}: ") if isinstance(inner, dict) else {f"{prefix}{key}": inner}
    return flat


def _flush(path: Path) -> None:
    """Have the disk hold a file, or the entries of a folder, before anything else is done."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _looks_pickled(file: Path) -> bool:
    with contextlib.suppress(OSError), file.open("rb") as stream:
        head = stream.read(2)
        return head == b"PK" or head[:1] == b"\x80"  # torch.save's archive, a bare pickle
    return False
