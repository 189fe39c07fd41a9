"""A folder of derived files that knows what it was made from.

Its name is a hash of the recipe: which files, of which size and time, which settings.
A changed source is another name, so nothing stale is ever read; and since a folder gets
its name only when all is in it, neither is anything half-written.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

__all__ = ["cached", "recipe_of"]

_RECIPE = "made_from.json"
_PART = ".part-"
_ABANDONED = 86_400  # seconds after which an unfinished folder is nobody's


def recipe_of(what: str, version: int, files: Iterable[Path], **settings: Any) -> str:
    """What a cache is made from, as JSON: hold it against that of another day.

    Args:
        what: is made; version: of the code that makes it.
        files: the sources; their names, sizes and times of change count.
        settings: whatever else the result depends on.
    """
    stats = [(path.name, path.stat()) for path in files]
    sources = [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]
    made = {"what": what, "version": version, "settings": settings}
    return json.dumps({"made": made, "sources": sources}, sort_keys=True)


def cached(place: Path, recipe: str, make: Callable[[Path], None]) -> Path:
    """The folder below `place` that holds what `recipe` makes; made now if need be.

    Args:
        place: of all caches of this kind; made if need be.
        recipe: see `recipe_of`.
        make: writes into the empty folder it is given. May run in several processes at
            once; the first result stays.
    """
    folder = place / hashlib.sha256(recipe.encode()).hexdigest()[:16]
    if _whole(folder, recipe):
        return folder
    place.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=_PART, dir=place))
    try:
        (made := part / "made").mkdir()  # readable to others, which `part` is not
        make(made)
        record = {"recipe": json.loads(recipe), "bytes": _sizes(made)}
        (made / _RECIPE).write_text(json.dumps(record, indent=1))
        _publish(made, folder, recipe)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    _sweep(place, folder, json.loads(recipe)["made"])
    return folder


def _sizes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in sorted(folder.iterdir())}


def _whole(folder: Path, recipe: str) -> bool:
    """Whether the folder is of that recipe, and its files have the sizes they had."""
    try:
        record = json.loads((folder / _RECIPE).read_text())
        sizes = {name: n for name, n in _sizes(folder).items() if name != _RECIPE}
    except (OSError, ValueError):
        return False
    return bool(record == {"recipe": json.loads(recipe), "bytes": sizes})


def _publish(made: Path, folder: Path, recipe: str) -> None:
    for path in made.iterdir():
        with path.open("rb") as stream:  # a power cut must not keep the name alone
            os.fsync(stream.fileno())
    if folder.exists() and not _whole(folder, recipe):
        shutil.rmtree(folder)  # somebody has damaged it
    try:
        made.rename(folder)
    except OSError:
        if not _whole(folder, recipe):  # else another process was faster
            raise


def _sweep(place: Path, kept: Path, made: Any) -> None:
    """Remove what the same settings made of other sources, and what was abandoned."""
    for folder in place.iterdir():
        try:
            if folder.name.startswith(_PART):
                old = time.time() - folder.stat().st_mtime > _ABANDONED
            else:
                record = json.loads((folder / _RECIPE).read_text())["recipe"]
                old = folder != kept and record["made"] == made
        except (OSError, ValueError, KeyError):
            continue  # gone meanwhile, or none of ours
        if old:
            shutil.rmtree(folder, ignore_errors=True)
