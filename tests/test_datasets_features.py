"""Stored features: what a file may hold, whose row is whose, and splits that share no source."""

from __future__ import annotations

import os
import pickle
from collections import Counter

import numpy as np
import pytest
import torch
from small_msrvtt import ANNOTATIONS, FEATURE_FILE, FEATURES, features, small_msrvtt
from torch.utils.data import DataLoader

from vtrlib.datasets import (
    VideoFeatures,
    collate_features,
    load_features,
    msrvtt_features,
    read_msrvtt,
    split_of,
    stack_features,
)

SPLITS = ("train", "val", "test")


@pytest.fixture
def root(tmp_path):
    return small_msrvtt(tmp_path / "data")


@pytest.fixture
def videos(root):
    return VideoFeatures(load_features(root / FEATURES / FEATURE_FILE), list(read_msrvtt(root).values())[:61])


class TestLoading:
    def test_rows_are_mapped_not_read(self, root):
        array = load_features(root / FEATURES / FEATURE_FILE)
        assert isinstance(array, np.memmap) and not array.flags.writeable
        assert np.array_equal(array, features(61))

    @pytest.mark.parametrize(
        "save, says",
        [
            (lambda p: np.save(p, np.zeros((3, 4), np.float32)), r"shape \(3, 4\), expected \(V, F, D\)"),
            (lambda p: np.save(p, np.zeros((0, 5, 4), np.float32)), r"shape \(0, 5, 4\), expected"),
            (lambda p: np.save(p, np.zeros((2, 3, 4), np.int64)), "int64, expected floating-point"),
            (lambda p: np.save(p, np.array([{}, {}]), allow_pickle=True), "281 bytes, cannot be read as .npy"),
            (lambda p: p.write_bytes(pickle.dumps([1])), r"17 bytes, is no array saved by np\.save"),
            (lambda p: p.write_bytes(b""), r"0 bytes, is no array saved by np\.save"),
            (lambda p: p.write_bytes(b"not features"), "12 bytes, is no array"),
            (lambda p: p.write_bytes(b"\x93NUMPY\x01\x00"), "8 bytes, cannot be read as .npy"),
            (lambda p: np.savez(p.open("wb"), a=np.zeros(3)), "[0-9]+ bytes, is no array"),
        ],
    )
    def test_a_bad_file_is_named(self, tmp_path, save, says):
        save(path := tmp_path / "bad.npy")
        with pytest.raises(ValueError, match=rf"bad\.npy: {says}.*Get or make the file again"):
            load_features(path)

    def test_cut_off(self, root):
        path = root / FEATURES / FEATURE_FILE
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(ValueError, match=rf"{FEATURE_FILE}: 13,[\d]+ bytes, cannot be read as .npy"):
            load_features(path)

    @pytest.mark.parametrize("row, frame, value", [(0, 0, np.nan), (66, 4, np.inf), (129, 2, -np.inf)])
    def test_not_finite(self, tmp_path, row, frame, value):
        array = np.zeros((131, 5, 3), np.float16)
        array[row, frame, 1] = value
        np.save(tmp_path / "bad.npy", array)
        with pytest.raises(ValueError, match=rf"bad\.npy: row {row}, frame {frame}: NaN or infinity"):
            load_features(tmp_path / "bad.npy")

    def test_missing(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"gone\.npy: there is no such file"):
            load_features(tmp_path / "gone.npy")


class TestVideoFeatures:
    def test_items(self, videos):
        assert len(videos) == 61 and videos.ids[17] == "video17"
        row, captions = videos[17]
        assert row.shape == (5, 11) and row.dtype == torch.float32 and captions == videos.captions[17]
        assert torch.equal(row, torch.from_numpy(features(61)[17])) and torch.equal(videos[-44][0], row)
        row += 1  # a copy: the file is not written to
        assert torch.equal(videos.features, torch.from_numpy(features(61)))

    def test_subset(self, videos):
        part = videos.subset([40, 3, 17]).subset([2, 0])
        assert part.ids == ("video17", "video40") and torch.equal(part[1][0], videos[40][0])
        assert torch.equal(part.features, videos.features[[17, 40]]) and part[0][1] == videos.captions[17]
        with pytest.raises(IndexError, match="index=2: there are 2 videos"):
            part[2]

    def test_batches(self, videos):
        loader = DataLoader(videos, batch_size=7, collate_fn=collate_features)
        batches = list(loader)
        assert batches[1].features.shape == (7, 5, 11) and batches[1].captions == videos.captions[7:14]
        assert torch.equal(torch.cat([b.features for b in batches]), videos.features)

    def test_half_precision_comes_out_single(self, videos):
        small = VideoFeatures(features(61).astype(np.float16), videos.videos)
        assert small.features.dtype == small[0][0].dtype == torch.float32
        assert (small.features - videos.features).abs().max() < 0.05

    def test_rows_and_videos_that_do_not_match(self, videos):
        with pytest.raises(ValueError, match=r"shape \(61, 5, 11\), expected \(60, F, D\).* 60 videos, from video0"):
            VideoFeatures(features(61), videos.videos[:60])
        with pytest.raises(ValueError, match="videos: video0: found more than once"):
            VideoFeatures(features(61), (videos.videos[0], *videos.videos[:60]))

    def test_splits_share_no_source(self, videos):
        parts = [videos.split(name, (40, 20, 40)) for name in SPLITS]
        assert sum(map(len, parts)) == 61 and min(map(len, parts)) > 3
        for name, part in zip(SPLITS, parts, strict=True):
            assert all(split_of(v.source, (40, 20, 40)) == name for v in part.videos)
            rows = [int(i.removeprefix("video")) for i in part.ids]
            assert torch.equal(part.features, videos.features[rows]) and rows == sorted(rows)
        with pytest.raises(ValueError, match="name='valid'.*Did you mean 'val'"):
            videos.split("valid")


class TestMsrvtt:
    def test_splits(self, root):
        parts = {name: msrvtt_features(root, name, (40, 20, 40)) for name in SPLITS}
        assert sorted(i for p in parts.values() for i in p.ids) == sorted(f"video{i}" for i in range(61))
        annotations = read_msrvtt(root)
        for part in parts.values():
            assert part.captions == tuple(annotations[i].captions for i in part.ids)
            assert part.features.mean((1, 2)).round().int().tolist() == [int(i[5:]) for i in part.ids]
        sources = Counter(s for p in parts.values() for s in {v.source for v in p.videos})
        assert set(sources.values()) == {1}

    def test_rows_without_annotations(self, root):
        np.save(root / FEATURES / FEATURE_FILE, features(93))
        with pytest.raises(ValueError, match=r"2 of 93 rows are videos without annotations: video91, video92\."):
            msrvtt_features(root)

    def test_nothing_there(self, root):
        (root / FEATURES / FEATURE_FILE).unlink()
        with pytest.raises(FileNotFoundError, match=rf"{FEATURE_FILE}: there is no such file"):
            msrvtt_features(root)
        with pytest.raises(ValueError, match="split='dev'"):
            msrvtt_features(root, "dev")
        with pytest.raises(FileNotFoundError, match=rf"holds no {FEATURES}/.*Hassaan-Elahi/Dense-Captioning"):
            (root / FEATURES).rmdir()
            msrvtt_features(root)


class TestStacking:
    def test_one_file_from_many(self, tmp_path):
        rows = features(13)
        for i, row in enumerate(rows):
            np.save(tmp_path / f"video{i}.npy", row)
        path = stack_features(tmp_path, tmp_path / "all.npy", 13)
        np.save(tmp_path / "expected.npy", rows)
        assert path.read_bytes() == (tmp_path / "expected.npy").read_bytes()

    def test_what_does_not_stack(self, tmp_path):
        for i in range(3):
            np.save(tmp_path / f"video{i}.npy", np.zeros((5, 4 + (i == 2))))
        with pytest.raises(ValueError, match=r"video2\.npy: \(5, 5\) float64, expected \(5, 4\) float64, as video0"):
            stack_features(tmp_path, tmp_path / "all.npy", 3)
        with pytest.raises(FileNotFoundError, match=r"lacks video3\.npy, video4\.npy\."):
            stack_features(tmp_path, tmp_path / "all.npy", 5)
        (tmp_path / "video1.npy").write_bytes(b"")
        with pytest.raises(ValueError, match=r"video1\.npy: cannot be read"):
            stack_features(tmp_path, tmp_path / "all.npy", 2)
        assert sorted(p.name for p in tmp_path.iterdir()) == ["video0.npy", "video1.npy", "video2.npy"]


@pytest.fixture(scope="module")
def real():
    """The three splits of the real features."""
    if "VTRLIB_DATA" not in os.environ:
        pytest.skip("VTRLIB_DATA is not set: no real features")
    return {name: msrvtt_features(split=name) for name in SPLITS}


class TestRealFeatures:
    def test_the_split_is_fixed_and_shares_no_source(self, real):
        assert {name: len(part) for name, part in real.items()} == {"train": 707, "val": 110, "test": 183}
        assert real["test"].features.shape == (183, 50, 128)
        sources = {name: {v.source for v in part.videos} for name, part in real.items()}
        assert {name: len(s) for name, s in sources.items()} == {"train": 676, "val": 104, "test": 174}
        assert len(set.union(*sources.values())) == 676 + 104 + 174 == 1000 - 46
        assert all(len(captions) == 20 for part in real.values() for captions in part.captions)

    def test_a_random_split_would_share_sources(self, real):
        """The control: the test above can fail."""
        videos = [v for part in real.values() for v in part.videos]
        order = np.random.default_rng(0).permutation(1000)
        train, test = ({videos[i].source for i in part} for part in (order[:700], order[800:]))
        assert len(train & test) > 5

    def test_no_two_videos_are_alike(self, real):
        rows = torch.cat([part.features for part in real.values()])
        assert len({row.numpy().tobytes() for row in rows}) == 1000


def test_the_small_copy_has_the_layout_of_the_real_one(root):
    assert sorted(p.name for p in (root / ANNOTATIONS).iterdir()) == [
        "MSRVTT_JSFUSION_test.csv",
        "MSRVTT_train.7k.csv",
        "MSRVTT_train.9k.csv",
        "test_videodatainfo.json.zip",
        "train_val_annotation.zip",
    ]
