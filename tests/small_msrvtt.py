"""A small MSR-VTT in the layout of the real one, for tests to read and to break."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

ANNOTATIONS, FEATURES = "msrvtt-annotations", "msrvtt-vgg128-1k"
FEATURE_FILE = "video0-999_vgg16ae_50x128_f32.npy"
NOUNS = ("man", "woman", "dog", "cat", "child", "singer", "cook", "driver", "car", "horse")
VERBS = ("runs", "sings", "cooks", "drives", "plays", "talks", "jumps", "sleeps", "eats", "dances")
PLACES = ("kitchen", "park", "street", "stage", "garden", "field", "car", "house", "school", "river")


def entries(first: int, last: int, split: str, captions: int = 3) -> dict[str, Any]:
    """Videos first … last−1 with their sentences, interleaved; every third shares its source with its neighbour."""
    videos = [
        {
            "video_id": f"video{i}",
            "category": i % 20,
            "url": f"https://www.youtube.com/watch?v=source{i - (i % 3 == 1):05d}",
            "start time": i / 4,
            "end time": i / 4 + 10,
            "split": split,
            "id": i,
        }
        for i in range(first, last)
    ]
    sentences = [
        {"caption": sentence(i, k), "video_id": f"video{i}", "sen_id": k}
        for k in range(captions)
        for i in reversed(range(first, last))
    ]
    return {"info": {"year": "2016"}, "videos": videos, "sentences": sentences}


def sentence(i: int, k: int) -> str:
    """The k-th caption of video i, from ten nouns, verbs and places."""
    return (
        f"a {NOUNS[i % 10]} {VERBS[(i + k) % 10]} with the {NOUNS[(i * 7 + k) % 10]} in a {PLACES[(i // 3 + k) % 10]}"
    )


def zipped(path: Path, name: str, data: Any) -> None:
    """Write `data` as json into a zip, beside the files the real one holds."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("readme.txt", "as in the original")
        archive.writestr(name, json.dumps(data))


def small_msrvtt(root: Path, train: int = 61, val: int = 7, test: int = 23) -> Path:
    """Write a data folder: zipped annotations, lists of the 1k-A protocols, features (train, 5, 11)."""
    folder = root / ANNOTATIONS
    folder.mkdir(parents=True)
    both = entries(0, train, "train")
    for key in ("videos", "sentences"):
        both[key] += entries(train, train + val, "validate")[key]
    zipped(folder / "train_val_annotation.zip", "train_val_videodatainfo.json", both)
    end = train + val + test
    zipped(folder / "test_videodatainfo.json.zip", "test_videodatainfo.json", entries(train + val, end, "test"))
    chosen = list(range(end - 5, end))
    lines = [f"ret{n},msr{i},video{i},{sentence(i, 9)}" for n, i in enumerate(chosen)]
    write_list(folder / "MSRVTT_JSFUSION_test.csv", ["key,vid_key,video_id,sentence", *lines])
    write_list(folder / "MSRVTT_train.9k.csv", ["video_id", *(f"video{i}" for i in range(end - 5))])
    write_list(folder / "MSRVTT_train.7k.csv", ["video_id", *(f"video{i}" for i in range(train + val))])
    (root / FEATURES).mkdir()
    np.save(root / FEATURES / FEATURE_FILE, features(train))
    return root


def write_list(path: Path, lines: list[str]) -> None:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def features(videos: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Features (V, 5, 11) that tell videos apart: row i holds i and a little noise."""
    noise = np.random.default_rng(0).normal(size=(videos, 5, 11)) / 1000
    return (np.arange(videos)[:, None, None] + noise).astype(np.float32)
