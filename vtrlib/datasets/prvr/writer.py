"""Writing the layout, whole or not at all."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from vtrlib.check import listed
from vtrlib.datasets.prvr.captions import Caption, Truth, video_ids, write_truth
from vtrlib.datasets.prvr.layout import Layout

__all__ = ["MADE_FROM", "made_from", "write_layout"]

MADE_FROM = "made_from.json"
# What every reader takes: the released ones decode ids as Latin-1 and split at blanks.
_ID = re.compile(r"[!-~]+", re.ASCII)

Rows = Iterable[tuple[str, NDArray[Any]]]


def write_layout(
    root: str | Path, collection: str, frames: Rows,
    captions: Mapping[str, Sequence[Caption]], words: Rows, *,
    feature: str = "features", hdf5: bool = False,
    truth: Mapping[str, Mapping[str, Truth]] | None = None,
    made: Mapping[str, Any] | None = None, replace: bool = False,
) -> Layout:  # fmt: skip
    """Write a collection that `PartialRelevance` and the released loaders read.

    It gets its name only when all is written and its ids agree; until then, and if this
    fails, there is nothing under that name, or what was there before.

    Args:
        root: the folder above the collection.
        collection: its name.
        frames: for each video its id and features (F, D), taken one at a time.
        captions: of each split.
        words: for each caption id its features (L, D), taken one at a time.
        feature: a name for the frame features.
        hdf5: write feature.hdf5 too, in float64 as the released converter does.
        truth: for splits where more is known, a `Truth` for each caption id.
        made: written to made_from.json: whatever says what this was made from.
        replace: take the place of a collection of that name.

    Raises:
        FileExistsError: it exists, and `replace` is False.
        ValueError: ids that are missing, extra, twice, or with blanks; captions without
            a sentence; arrays that are empty, not finite, or of different width.
    """
    target = Layout(Path(root), collection, feature)
    if target.folder.exists() and not replace:
        raise _exists(target.folder)
    target.root.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{collection}.part-", dir=target.root))
    try:
        named = Layout(part, collection, feature)
        _write(named, frames, captions, words, hdf5)
        for split, truths in (truth or {}).items():
            write_truth(named.truth(split), dict(truths))
        if made is not None:
            text = json.dumps(made, indent=1, sort_keys=True)
            (named.folder / MADE_FROM).write_text(text + "\n", encoding="utf-8")
        if replace or not _same(target.folder, made):
            _take_place(named.folder, target.folder, part / "before", replace)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return target


def _exists(folder: Path) -> FileExistsError:
    return FileExistsError(
        f"{folder}: exists. Choose another name, or say replace=True."
    )


def made_from(folder: Path) -> Any:
    """What made_from.json of a collection says, or None."""
    try:
        return json.loads((folder / MADE_FROM).read_text("utf-8"))
    except (OSError, ValueError):
        return None


def _write(
    layout: Layout, frames: Rows, captions: Mapping[str, Sequence[Caption]],
    words: Rows, hdf5: bool,
) -> None:  # fmt: skip
    everyone = [caption for members in captions.values() for caption in members]
    layout.features.mkdir(parents=True)
    layout.texts.mkdir()
    for split, members in captions.items():
        if not members:
            raise ValueError(f"captions: {split!r} has none, expected at least one.")
        lines = [f"{_name('caption', c.id)} {_sentence(c)}\n" for c in members]
        layout.captions(split).write_text("".join(lines), encoding="utf-8")
    lengths = _write_frames(layout, frames, hdf5)
    _agree("frames", list(lengths), video_ids(everyone), "videos")
    with h5py.File(layout.words, "w") as store:
        for name, rows in _checked("words", words):
            store.create_dataset(name, data=rows.astype(np.float32, copy=False))
        # A caption may stand in two splits: of the real sets, test is a copy of val.
        _agree("words", list(store), dict.fromkeys(c.id for c in everyone), "captions")


def _write_frames(layout: Layout, frames: Rows, hdf5: bool) -> dict[str, int]:
    lengths: dict[str, int] = {}
    width = 0
    folder = layout.features
    store = h5py.File(folder / "feature.hdf5", "w") if hdf5 else None
    with (folder / "feature.bin").open("wb") as stream:
        for name, rows in _checked("frames", frames):
            stream.write(np.ascontiguousarray(rows, dtype=np.float32).tobytes())
            if store is not None:
                single = rows.astype(np.float32, copy=False)  # the two files agree
                store.create_dataset(name, data=single.astype(np.float64))
            lengths[name], width = rows.shape
    if store is not None:
        store.close()
    ids = {video: [f"{video}_{k}" for k in range(n)] for video, n in lengths.items()}
    names = " ".join(name for members in ids.values() for name in members)
    (folder / "id.txt").write_text(names + "\n", encoding="utf-8")
    (folder / "video2frames.txt").write_text(f"{ids!r}\n", encoding="utf-8")
    (folder / "shape.txt").write_text(f"{sum(lengths.values())} {width}\n")
    return lengths


def _checked(argument: str, arrays: Rows) -> Iterable[tuple[str, NDArray[Any]]]:
    """The same arrays, each looked at as it passes."""
    seen: dict[str, int] = {}
    for name, rows in arrays:
        if _name(argument, name) in seen:
            raise ValueError(f"{argument}: {name!r}: found twice, expected once.")
        width = next(iter(seen.values()), rows.shape[-1] if rows.ndim == 2 else None)
        if rows.ndim != 2 or 0 in rows.shape or rows.shape[1] != width:
            raise ValueError(
                f"{argument}: {name!r}: shape {rows.shape}, expected (rows, "
                f"{width or 'width'}) with at least one row."
            )
        if not np.isfinite(rows).all():
            raise ValueError(
                f"{argument}: {name!r}: NaN or infinity among its numbers."
            )
        seen[name] = rows.shape[1]
        yield name, rows
    if not seen:
        raise ValueError(f"{argument}: found none, expected at least one.")


def _name(argument: str, name: str) -> str:
    """Return an id that all readers take."""
    inner = name.partition("#")[0] if argument in ("caption", "words") else name
    good = _ID.fullmatch(name) and inner and "/" not in name
    if not good or ("#" in name) != (argument in ("caption", "words")):
        kind = "'<video id>#<anything>'" if argument != "frames" else "no '#'"
        raise ValueError(
            f"{argument}: id {name!r}: expected printable ASCII without blanks and "
            f"'/', {kind}."
        )
    return name


def _sentence(caption: Caption) -> str:
    text = caption.text
    if not text.strip() or text != text.strip() or len(text.splitlines()) > 1:
        raise ValueError(
            f"captions: {caption.id}: {text!r:.60}: expected one line, not empty, "
            "without blanks at the ends."
        )
    return text


def _agree(
    argument: str, found: Sequence[str], wanted: Iterable[str], what: str
) -> None:
    missing, extra = set(wanted) - set(found), set(found) - set(wanted)
    if missing or extra:
        lacking, odd = listed(sorted(missing)), listed(sorted(extra))
        raise ValueError(
            f"{argument}: missing for {len(missing):,} {what} ({lacking or 'none'}), "
            f"there for {len(extra):,} unknown ones ({odd or 'none'}). Give one each."
        )


def _same(folder: Path, made: Mapping[str, Any] | None) -> bool:
    """Whether another process has written just this meanwhile."""
    return made is not None and made_from(folder) == json.loads(json.dumps(made))


def _take_place(new: Path, target: Path, aside: Path, replace: bool) -> None:
    if target.exists():
        if not replace:
            raise _exists(target)
        target.rename(aside)
    try:
        new.rename(target)
    except OSError:
        if aside.exists():
            aside.rename(target)
        raise
