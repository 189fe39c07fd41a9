"""MSR-VTT: annotations as they are distributed, and the protocols by which papers score on it.

Xu et al., MSR-VTT: A Large Video Description Dataset for Bridging Video and Language, CVPR 2016.
"""

from __future__ import annotations

import csv
import json
import math
import zipfile
import zlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vtrlib.check import listed, one_of
from vtrlib.datasets.folders import data_folder
from vtrlib.datasets.splits import source_of

__all__ = ["CATEGORIES", "PROTOCOLS", "AnnotatedVideo", "msrvtt_protocol", "read_msrvtt"]

CATEGORIES = (
    "music", "people", "gaming", "sports/actions", "news/events/politics", "education", "tv shows", "movie/comedy",
    "animation", "vehicles/autos", "howto", "travel", "science/technology", "animals/pets", "kids/family",
    "documentary", "food/drink", "cooking", "beauty/fashion", "advertisement",
)  # fmt: skip

# Protocol: its list of training videos, or None for the splits that the annotations carry.
PROTOCOLS: dict[str, str | None] = {
    "official": None,
    "1k-A-9k": "MSRVTT_train.9k.csv",
    "1k-A-7k": "MSRVTT_train.7k.csv",
}

# The same annotations travel under several names; of each line the first file that is there is read.
_WHOLE = ("MSRVTT_data.json", "MSRVTT_data.json.zip")
_PARTS = (
    ("train_val_videodatainfo.json", "train_val_annotation/train_val_videodatainfo.json", "train_val_annotation.zip"),
    ("test_videodatainfo.json", "test_videodatainfo.json.zip"),
)
_SPLIT_NAMES = {"train": "train", "validate": "val", "test": "test"}
_AGAIN = "Get the file again; the page 'Data cards' has its origin and sha256, vtrlib.datasets.verify compares them."


@dataclass(frozen=True)
class AnnotatedVideo:
    """A video and its captions.

    Attributes:
        id: as in "video0".
        url: of the film it was cut from; start, end: where, in seconds, 0 ≤ start < end.
        category: index into `CATEGORIES`.
        split: "train", "val" or "test" by the official splits.
        captions: at least one sentence, in the order of the file.
    """

    id: str
    url: str
    start: float
    end: float
    category: int
    split: str
    captions: tuple[str, ...]

    @property
    def source(self) -> str:
        """What it was cut from; see `vtrlib.datasets.source_of`."""
        return source_of(self.url)


def read_msrvtt(folder: str | Path | None = None) -> dict[str, AnnotatedVideo]:
    """All annotated videos of a folder by id, in the order of the files.

    Reads MSRVTT_data.json, or the two files of the original distribution, train_val_annotation.zip and
    test_videodatainfo.json.zip, zipped or not; one of the two alone will do.

    Args:
        folder: as for `data_folder("msrvtt-annotations", folder)`.

    Raises:
        FileNotFoundError: no annotations there.
        ValueError: a zip or json that cannot be read, an entry that lacks something, an id that occurs twice, captions
            of a video that is not there, or videos without a caption; the message names file and entries.
    """
    place = data_folder("msrvtt-annotations", folder)
    chosen = [path for names in (_WHOLE, *_PARTS) if (path := _first(place, names))]
    if not chosen:
        raise FileNotFoundError(
            f"{place}: holds no annotations. Expected {_WHOLE[0]}, or {_PARTS[0][-1]} and {_PARTS[1][-1]}. {_AGAIN}"
        )
    if chosen[0].name in _WHOLE:
        chosen = chosen[:1]
    videos: dict[str, AnnotatedVideo] = {}
    for path in chosen:
        found = _annotations(path)
        if twice := found.keys() & videos.keys():
            raise ValueError(f"{path}: {listed(sorted(twice))}: also in {chosen[0].name}, expected in one file only.")
        videos |= found
    return videos


def msrvtt_protocol(name: str = "official", folder: str | Path | None = None) -> dict[str, tuple[AnnotatedVideo, ...]]:
    """The videos of "train", "val" and "test" by one of the protocols that papers report.

    "official" is the one of the dataset: 6,513, 497 and 2,990 videos, every caption a query. "1k-A-9k" and "1k-A-7k"
    test on the 1,000 videos of JSFUSION (Yu et al., ECCV 2018), whose only captions here are the one query each,
    and train on 9,000 or 7,010 other videos with all their captions. They have no validation videos, so "val" is
    empty: hold some training videos out, for instance with `split_by_source`.

    Raises:
        ValueError: unknown protocol; a list that cannot be read, repeats an id or names videos without annotations;
            videos that are in both train and test.
        FileNotFoundError: as `read_msrvtt`, or the protocol's list is missing.
    """
    train_list = PROTOCOLS[one_of("name", name, PROTOCOLS)]
    place = data_folder("msrvtt-annotations", folder)
    videos = read_msrvtt(folder)
    if train_list is None:
        splits = {s: tuple(v for v in videos.values() if v.split == s) for s in _SPLIT_NAMES.values()}
        if absent := [s for s, members in splits.items() if not members]:
            raise ValueError(
                f"{place}: no videos of {' and '.join(absent)}; found {len(videos):,} of other splits. Expected both "
                f"{_PARTS[0][-1]} and {_PARTS[1][-1]}, or {_WHOLE[0]}. {_AGAIN}"
            )
        return splits
    train = _read_list(place / train_list, videos)
    test = _read_list(place / "MSRVTT_JSFUSION_test.csv", videos, sentences=True)
    if both := train.keys() & test.keys():
        raise ValueError(
            f"{place / train_list}: {listed(sorted(both))}: also in MSRVTT_JSFUSION_test.csv, expected in one. {_AGAIN}"
        )
    return {
        "train": tuple(videos[i] for i in train),
        "val": (),
        "test": tuple(replace(videos[i], captions=(sentence,)) for i, sentence in test.items()),
    }


def _first(place: Path, names: tuple[str, ...]) -> Path | None:
    return next((place / name for name in names if (place / name).is_file()), None)


def _annotations(path: Path) -> dict[str, AnnotatedVideo]:
    """Videos with their captions from one json."""
    data = _read_json(path)
    if not isinstance(data, dict) or not all(isinstance(data.get(key), list) for key in ("videos", "sentences")):
        raise ValueError(f"{path}: expected an object with the lists videos and sentences. {_AGAIN}")
    entries = [_entry(path, f"videos[{n}]", _VIDEO, entry) for n, entry in enumerate(data["videos"])]
    ids = Counter(entry["video_id"] for entry in entries)
    if twice := [i for i, count in ids.items() if count > 1]:
        raise ValueError(f"{path}: videos: {listed(twice)}: found more than once, expected once. {_AGAIN}")
    captions: dict[str, list[str]] = {i: [] for i in ids}
    strangers: Counter[str] = Counter()
    for n, sentence in enumerate(data["sentences"]):
        entry = _entry(path, f"sentences[{n}]", _SENTENCE, sentence)
        if (i := entry["video_id"]) in captions:
            captions[i].append(entry["caption"])
        else:
            strangers[i] += 1
    if strangers:
        raise ValueError(
            f"{path}: sentences: {strangers.total():,} of {len(data['sentences']):,} are about videos that are not "
            f"under videos: {listed(strangers)}. Videos and sentences are of different sets or versions. {_AGAIN}"
        )
    if silent := [i for i, sentences in captions.items() if not sentences]:
        raise ValueError(f"{path}: videos: {listed(silent)}: without a sentence, expected at least one. {_AGAIN}")
    return {i: _video(path, n, entry, captions[i]) for n, (i, entry) in enumerate(zip(ids, entries, strict=True))}


_VIDEO = {"video_id": str, "url": str, "start time": float, "end time": float, "category": int, "split": str}
_SENTENCE = {"video_id": str, "caption": str}


def _entry(path: Path, place: str, fields: Mapping[str, type], entry: Any) -> dict[str, Any]:
    """Return `entry` if it has these fields. By hand: a JSON schema would take a minute for 200,000 sentences."""
    if not isinstance(entry, dict):
        raise ValueError(  # noqa: TRY004  the file is at fault, not the type of an argument
            f"{path}: {place}: found {entry!r:.60}, expected an object. {_AGAIN}"
        )
    for name, kind in fields.items():
        value: Any = entry.get(name)
        good = isinstance(value, (int, float) if kind is float else kind) and not isinstance(value, bool)
        if not good or (kind is str and not value.strip()):
            what = {str: "text", float: "a number", int: "an integer"}[kind]
            found = f"found {value!r:.60}" if name in entry else "missing"
            raise ValueError(f"{path}: {place}: {name}: {found}, expected {what}. {_AGAIN}")
    return entry


def _video(path: Path, n: int, entry: dict[str, Any], captions: list[str]) -> AnnotatedVideo:
    place, start, end = f"videos[{n}] ({entry['video_id']})", float(entry["start time"]), float(entry["end time"])
    if not (0 <= start < end and math.isfinite(end)):
        raise ValueError(f"{path}: {place}: start {start}, end {end}: expected 0 <= start < end. {_AGAIN}")
    if entry["category"] not in range(len(CATEGORIES)):
        raise ValueError(f"{path}: {place}: category: found {entry['category']}, expected 0 to 19. {_AGAIN}")
    if entry["split"] not in _SPLIT_NAMES:
        raise ValueError(
            f"{path}: {place}: split: found {entry['split']!r}, expected {' or '.join(_SPLIT_NAMES)}. {_AGAIN}"
        )
    split = _SPLIT_NAMES[entry["split"]]
    return AnnotatedVideo(entry["video_id"], entry["url"], start, end, entry["category"], split, tuple(captions))


def _read_json(path: Path) -> Any:
    """What a json holds that is plain or the only one of its kind in a zip."""
    try:
        if path.suffix != ".zip":
            return json.loads(path.read_bytes())
        with zipfile.ZipFile(path) as archive:
            members = [n for n in archive.namelist() if n.endswith(".json") and not n.startswith("__MACOSX/")]
            if len(members) != 1:
                raise ValueError(f"holds {listed(members) if members else 'no json'}, expected one json")
            return json.loads(archive.read(members[0]))
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError) as error:
        # RuntimeError: an encrypted or unknown kind of zip; ValueError: broken JSON, broken UTF-8
        raise ValueError(f"{path}: cannot be read ({error}). {_AGAIN}") from error


def _read_list(path: Path, videos: Mapping[str, AnnotatedVideo], sentences: bool = False) -> dict[str, str]:
    """The video ids of a csv in its order, each with its sentence where there are any."""
    columns = ("video_id", "sentence") if sentences else ("video_id",)
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            rows = list(csv.DictReader(stream, strict=True))
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: missing; the 1k-A protocols need it. {_AGAIN}") from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: cannot be read ({error}). {_AGAIN}") from error
    if not rows:
        raise ValueError(f"{path}: no rows, expected a line of column names and one line a video. {_AGAIN}")
    if lacking := [name for name in columns if name not in rows[0]]:
        raise ValueError(f"{path}: no column {lacking[0]}; found {', '.join(map(str, rows[0]))}. {_AGAIN}")
    found: dict[str, str] = {}
    for line, row in enumerate(rows, 2):
        if not all((row[name] or "").strip() for name in columns):
            raise ValueError(f"{path}: row {line}: found {list(row.values())}, expected {' and '.join(columns)}.")
        if row["video_id"] in found:
            raise ValueError(f"{path}: row {line}: {row['video_id']}: found twice, expected once. {_AGAIN}")
        found[row["video_id"]] = row["sentence"] if sentences else ""
    if strangers := [i for i in found if i not in videos]:
        raise ValueError(
            f"{path}: {len(strangers):,} of {len(found):,} ids are not in the annotations: {listed(strangers)}. "
            f"Expected ids of the same set, and all its annotation files. {_AGAIN}"
        )
    return found
