"""A small collection in the layout of the published features, for tests to read and to break.

Written by hand, not by vtrlib: from the raw features of the golden numbers, in the form of the released files.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

GOLDEN: dict[str, Any] = torch.load(Path(__file__).parent / "golden" / "prvr.pt", weights_only=True)
COLLECTION, FEATURE = "charades", "i3d_rgb_lgi"


def small_prvr(root: Path, hdf5: bool = True, shuffle: bool = False) -> Path:
    """Write the collection below `root` and return its folder.

    Args:
        hdf5: with feature.hdf5, which holds float64.
        shuffle: rows of feature.bin in any order; video2frames.txt says which is whose.
    """
    folder = root / COLLECTION
    features, texts = folder / "FeatureData" / FEATURE, folder / "TextData"
    features.mkdir(parents=True), texts.mkdir()
    raw = {video: entry["raw"].numpy() for video, entry in GOLDEN["videos"].items()}
    frames = {video: [f"{video}_{k}" for k in range(len(rows))] for video, rows in raw.items()}
    names, rows = [n for ids in frames.values() for n in ids], np.concatenate(list(raw.values()))
    order = np.random.default_rng(0).permutation(len(rows)) if shuffle else np.arange(len(rows))
    rows[order].astype("<f4").tofile(features / "feature.bin")
    (features / "id.txt").write_text(" ".join(names[i] for i in order))
    (features / "shape.txt").write_text(f"{rows.shape[0]} {rows.shape[1]}\n")
    (features / "video2frames.txt").write_text(str(frames))
    if hdf5:
        with h5py.File(features / "feature.hdf5", "w") as store:
            for video, array in raw.items():
                store[video] = array.astype(np.float64)
    for split in ("train", "val", "test"):
        ids = GOLDEN["captions"]["val" if split == "test" else split]
        lines = [f"{name} a person opens door {n}\n" for n, name in enumerate(ids)]
        (texts / f"{COLLECTION}{split}.caption.txt").write_text("".join(lines))
    with h5py.File(texts / f"roberta_{COLLECTION}_query_feat.hdf5", "w") as store:
        for name, words in GOLDEN["words"].items():
            store[name] = words.numpy()
    return folder
