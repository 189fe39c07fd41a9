"""Authors' checkpoints, which are pickles, into safetensors, running nothing in them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safetensors.torch import save_file
from torch import Tensor

from vtrlib import check
from vtrlib.released.unpickling import foreign_names, read

__all__ = ["Converted", "convert"]

# What a checkpoint may keep its weights under, and parts of the keys of what is left
# behind together with whatever objects it holds.
_WEIGHTS = ("state_dict", "model", "model_state_dict")
_LEFT = ("optim", "sched")


class Converted(NamedTuple):
    """What `convert` made.

    Attributes:
        weights: the safetensors file.
        settings: the JSON file: config, the rest of the checkpoint, what was skipped,
            the source's sha256.
        skipped: "key: module.name" of each object that was left behind.
    """

    weights: Path
    settings: Path
    skipped: tuple[str, ...]

    @staticmethod
    def places(out: Path) -> tuple[Path, Path]:
        """The two files: `out` and its .json neighbour if it is called .safetensors,
        else two files in the folder."""
        if out.suffix == ".safetensors":
            return out, out.with_suffix(".json")
        return out / "weights.safetensors", out / "config.json"


def convert(path: str | Path, out: str | Path) -> Converted:
    """An authors' checkpoint (`best.ckpt`): weights to safetensors, the rest to JSON.

    The pickle is read by a machine that knows tensors and plain containers and imports
    nothing. Objects of other classes, such as the schedule in the optimiser's groups,
    become inert placeholders: under an optimiser's or a scheduler's key they are left
    behind and named, anywhere else refused. A name out of the standard library, such as
    `os.system`, is refused wherever it stands: no checkpoint has a use for it.

    Args:
        path: what `torch.save` wrote, in its zip or its older format: weights by name,
            or a mapping that holds them under "state_dict" beside "config" and the
            like.
        out: a file ending in .safetensors, with a .json beside it, or a folder. Each
            file appears whole or not at all.

    Returns:
        The files, and what was left behind. `load` makes a model of them.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        ValueError: it is damaged, no checkpoint, holds no weights, or something else
            than tensors and plain containers; each thing refused is named.
        OSError: the result cannot be written.
    """
    path = Path(path)
    content = read(path)
    if not isinstance(content, Mapping):
        found = foreign_names(content, "top level") or [type(content).__name__]
        raise ValueError(  # noqa: TRY004  a file is at fault, no argument
            f"{path}: found {found[0]}, expected a mapping of weights or of a checkpoint."
        )
    left = {key for key in content if any(part in str(key).lower() for part in _LEFT)}
    left -= {key for key, value in content.items() if isinstance(value, Tensor)}
    kept = {key: value for key, value in content.items() if key not in left}
    refused = [
        name
        for key, value in kept.items()
        for name in foreign_names([key, value], str(key))
    ]
    if refused:
        raise ValueError(
            f"{path}: found {check.listed(refused)}, expected tensors and plain containers there. "
            "Nothing of it was run. Ask for a checkpoint without it, or save its state_dict alone."
        )
    skipped = tuple(
        name for key in content if key in left for name in foreign_names(content[key], str(key))
    )  # fmt: skip
    weights, rest = _split(path, kept)
    try:
        settings = {"skipped": skipped, "sha256": _hash(path), **_plain(rest)}
    except RecursionError:
        raise ValueError(
            f"{path}: found a container that holds itself, expected what JSON can hold."
        ) from None
    target = Converted(*Converted.places(Path(out)), skipped)
    with _whole(target.settings) as part:
        part.write_text(
            json.dumps(settings, indent=1, allow_nan=False), encoding="utf-8"
        )
    with _whole(target.weights) as part:
        save_file(weights, part)
    return target


def _split(
    path: Path, content: Mapping[str, Any]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights, as tensors that share no memory, and the rest of a checkpoint."""
    key = next((key for key in _WEIGHTS if isinstance(content.get(key), Mapping)), None)
    found = content if key is None else content[key]
    strange = [
        str(name)
        for name, value in found.items()
        if not isinstance(value, Tensor) or not isinstance(name, str)
    ]
    if strange or not found:
        raise ValueError(
            f"{path}: found {check.listed(strange) or 'nothing'} among the weights, expected tensors by name, or a "
            f"checkpoint with them under one of {', '.join(_WEIGHTS)}."
        )
    weights = {
        name.removeprefix("module."): value.detach().clone().contiguous()
        for name, value in found.items()
    }
    return weights, {} if key is None else {
        name: value for name, value in content.items() if name != key
    }


def _plain(value: Any) -> Any:
    """As JSON holds it: tensors as lists, NaN and infinity as words."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(inner) for inner in value]
    if isinstance(value, Tensor):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)  # bytes, torch.dtype, torch.device


def _hash(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """A file to write that takes its place once it is complete and on the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        with part.open("rb") as stream:
            os.fsync(stream.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
