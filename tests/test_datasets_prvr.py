"""Partial relevance: pooling, items, batches and gallery as the released loader has them."""

from __future__ import annotations

import pickle
from functools import partial

import numpy as np
import pytest
import torch
from small_prvr import COLLECTION, GOLDEN, small_prvr
from torch.utils.data import DataLoader

from vtrlib.datasets.prvr import (
    Caption,
    Layout,
    PartialRelevance,
    Truth,
    clip_bounds,
    collate,
    frame_bounds,
    pool_clips,
    pool_frames,
    unit_rows,
)
from vtrlib.datasets.prvr.captions import write_truth
from vtrlib.metrics import evaluate

MAX_WORDS = 12  # of the golden run


@pytest.fixture
def root(tmp_path):
    return small_prvr(tmp_path / "data").parent


@pytest.fixture
def opened(root):
    return {split: PartialRelevance(root, COLLECTION, split, max_words=MAX_WORDS) for split in ("train", "val")}


def naive(features, pieces, kind):
    """The rule, segment by segment, as one reads it."""
    count, rows = len(features), []
    for k in range(pieces):
        start, end = (min(int(np.rint(kind(j) / kind(pieces) * kind(count))), count - 1) for j in (k, k + 1))
        row = features[start:end].mean(0) if start < end else features[start]
        rows.append(row / (np.sqrt((row**2).sum()) + 1e-5))
    return np.array(rows)


class TestPooling:
    def test_golden_bounds(self):
        assert len(GOLDEN["bounds"]) == 24
        for count, bounds in GOLDEN["bounds"].items():
            assert clip_bounds(count).tolist() == bounds["clip_bounds"].tolist()
            if count > 128:
                assert frame_bounds(count).tolist() == bounds["frame_bounds"].tolist()
        assert sum("frame_bounds" in b for b in GOLDEN["bounds"].values()) == 11

    def test_golden_videos(self):
        for entry in GOLDEN["videos"].values():
            raw = entry["raw"].numpy()
            assert np.array_equal(pool_clips(raw).astype(np.float32), entry["clips"].numpy())
            assert np.array_equal(pool_frames(raw).astype(np.float32), entry["frames"].numpy())

    @pytest.mark.parametrize("count", [1, 2, 31, 32, 33, 127, 128, 129, 500])
    @pytest.mark.parametrize("clips, frames", [(32, 128), (7, 20), (1, 1)])
    def test_naive_loop(self, count, clips, frames):
        features = np.random.default_rng(count).normal(size=(count, 5))
        expected = naive(features, clips, np.float32)
        assert np.abs(pool_clips(features, clips) - expected).max() < 1e-12
        pooled = pool_frames(features, frames)
        if count <= frames:
            assert np.array_equal(pooled, unit_rows(features))
        else:
            assert np.abs(pooled - naive(features, frames, np.float64)).max() < 1e-12
        single = pool_clips(features.astype(np.float32), clips)
        assert single.dtype == np.float64 and np.abs(single - expected).max() < 1e-6

    def test_clips_are_cut_in_float32(self):
        """As torch computes it in the released code, for any number of clips, and unlike float64."""
        differ = 0
        for clips in (3, 7, 20, 32, 49):
            for count in range(1, 700, 3):
                cuts = torch.arange(0, clips + 1, 1.0) / clips * count
                expected = torch.min(torch.round(cuts).long(), torch.tensor(count - 1))
                assert clip_bounds(count, clips).tolist() == expected.tolist()
                differ += clip_bounds(count, clips).tolist() != frame_bounds(count, clips).tolist()
        assert differ > 0  # the control
        assert all(np.array_equal(clip_bounds(n, 32), frame_bounds(n, 32)) for n in range(1, 3000))

    def test_the_last_frame_is_left_out(self):
        features = np.eye(64)
        assert pool_clips(features)[-1, 62] > 0.99 and (pool_clips(features)[:, 63] == 0).all()
        assert pool_clips(np.eye(33))[-1, 32] > 0.99  # alone, where the last segment would be empty

    def test_zero_rows_stay_zero(self):
        rows = unit_rows(np.array([[0, 0], [3, 4]], np.float16))
        assert rows.dtype == np.float32 and rows[0].tolist() == [0, 0]
        assert np.allclose(rows[1], [0.6, 0.8], atol=1e-5) and np.linalg.norm(rows[1]) < 1

    def test_no_frames(self):
        with pytest.raises(ValueError, match="count=0: expected at least 1"):
            clip_bounds(0)


class TestGolden:
    """What the released loader gave for the same files, bit by bit."""

    @pytest.mark.parametrize("source", ["bin", "hdf5"])
    @pytest.mark.parametrize("shuffle", [False, True])
    def test_train_batch(self, tmp_path, source, shuffle):
        root = small_prvr(tmp_path / "data", shuffle=shuffle).parent
        data = PartialRelevance(root, COLLECTION, "train", max_words=MAX_WORDS, source=source)
        batch, golden = collate([data[i] for i in range(len(data))]), GOLDEN["train"]
        assert list(batch.video_ids) == golden["video_ids"] and batch.labels.tolist() == golden["labels"]
        assert torch.equal(batch.queries, golden["queries"]) and torch.equal(batch.query_mask, golden["query_mask"])
        assert torch.equal(batch.frame_mask, golden["frame_mask"])
        videos = [GOLDEN["videos"][video] for video in golden["video_ids"]]
        assert torch.equal(batch.clips, torch.stack([v["clips"] for v in videos]))
        for row, mask, video in zip(batch.frames, batch.frame_mask, videos, strict=True):
            assert torch.equal(row[mask], video["frames"]) and not row[~mask].any()
        assert [c.split("#")[0] for c in batch.caption_ids] == [batch.video_ids[v] for v in batch.labels]

    def test_gallery_and_queries(self, opened):
        data = opened["val"]
        batches = list(data.video_batches(10))
        assert [list(b.video_ids) for b in batches] == GOLDEN["val_videos"]
        assert [b.frames.shape[1] for b in batches] == [128, 128, 27]
        for video, row in zip(data.video_ids, torch.cat([b.clips for b in batches]), strict=True):
            assert torch.equal(row, GOLDEN["videos"][video]["clips"])
        for batch, golden in zip(data.query_batches(20), GOLDEN["val_queries"], strict=True):
            # The released loader sorts a batch by length; here captions keep the order of the file.
            order = [batch.caption_ids.index(name) for name in golden["caption_ids"]]
            assert torch.equal(batch.queries[order], golden["queries"])
            assert torch.equal(batch.query_mask[order], golden["query_mask"])

    def test_relevant(self, opened):
        for split, data in opened.items():
            assert [c.id for c in data.captions] == GOLDEN["captions"][split]
            found = [data.video_ids[v] for v in data.relevant]
            assert found == [c.id.split("#")[0] for c in data.captions]
            lengths = [len(GOLDEN["videos"][v]["raw"]) for v in data.video_ids]
            assert data.lengths.tolist() == lengths


class TestDataset:
    def test_items(self, opened):
        data = opened["train"]
        assert len(data) == 12 and len(data.captions) == 30
        item = data[2]
        assert (item.video_id, item.place) == ("TR02", 2) and item.clips.shape == (32, 24)
        assert item.caption_ids == ("TR02#enc#0", "TR02#enc#1", "TR02#enc#2")
        assert [len(words) for words in item.words] == [11, 5, 12] and item.words[0].dtype == torch.float32
        assert data[-10].video_id == "TR02"
        with pytest.raises(IndexError, match="index=12: .*'train': 12 videos, 30 captions.* 0 to 11"):
            data[12]
        item.clips.add_(1), item.frames.add_(1), item.words[0].add_(1)  # copies: the cache is not written to
        assert float(data[2].clips.max()) < 1 and float(data[2].words[0].max()) < 1

    def test_the_numbers_are_parameters(self, root):
        data = PartialRelevance(root, COLLECTION, "val", clips=5, frames=17, max_words=3)
        batch = collate([data[i] for i in (8, 0)])
        assert batch.clips.shape == (2, 5, 24) and batch.frames.shape == (2, 17, 24)
        assert batch.queries.shape[1] == 3 and data.lengths[8] == 300
        raw = GOLDEN["videos"]["VA08"]["raw"].numpy()
        assert np.array_equal(batch.frames[0].numpy(), pool_frames(raw, 17).astype(np.float32))
        words = GOLDEN["words"]["VA08#enc#0"].numpy()
        assert np.array_equal(batch.queries[0].numpy(), unit_rows(words)[:3])
        for name in ("clips", "frames", "max_words"):
            with pytest.raises(ValueError, match=f"{name}=0: expected at least 1"):
                PartialRelevance(root, COLLECTION, "val", **{name: 0})

    def test_unsorted_batches(self, opened):
        items = [opened["train"][i] for i in (1, 9, 5)]
        assert collate(items).video_ids == ("TR09", "TR05", "TR01")
        batch = collate(items, sort=False)
        assert batch.video_ids == ("TR01", "TR09", "TR05") and items[0].video_id == "TR01"
        assert batch.frame_mask.sum(1).tolist() == [5, 128, 64]
        assert batch.labels.bincount().tolist() == [len(item.words) for item in items]

    def test_loader(self, opened):
        loader = DataLoader(opened["train"], 5, collate_fn=partial(collate, sort=False))
        batches = list(loader)
        assert [len(b.video_ids) for b in batches] == [5, 5, 2] and batches[2].labels.unique().tolist() == [0, 1]
        assert sum(len(b.labels) for b in batches) == 30

    def test_moving(self, opened):
        batch = collate([opened["train"][0]])
        moved = batch.to("meta")
        assert {t.device.type for t in (moved.clips, moved.frames, moved.frame_mask, moved.queries, moved.labels)} == {
            "meta"
        }
        assert moved.video_ids == batch.video_ids and batch.clips.device.type == "cpu"
        assert next(opened["val"].query_batches()).to("meta").query_mask.is_meta

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
    def test_pinned(self, opened):
        (batch,) = DataLoader(opened["train"], 12, collate_fn=collate, pin_memory=True)
        assert batch.clips.is_pinned() and batch.to("cuda", non_blocking=True).labels.is_cuda

    @pytest.mark.parametrize("cache", [True, False])
    def test_a_copy_in_another_process(self, root, cache):
        data = PartialRelevance(root, COLLECTION, "train", cache=cache)
        sent = pickle.dumps(data)
        assert (len(sent) < 20_000) == cache  # what is mapped is not sent
        again = pickle.loads(sent)
        assert torch.equal(again[7].frames, data[7].frames) and again.captions == data.captions

    def test_several_features(self, root):
        (root / COLLECTION / "FeatureData" / "clip").mkdir()
        with pytest.raises(ValueError, match="holds clip, i3d_rgb_lgi; expected the name of one"):
            PartialRelevance(root, COLLECTION)
        assert len(PartialRelevance(root, COLLECTION, feature="i3d_rgb_lgi")) == 12
        with pytest.raises(FileNotFoundError, match="holds clip, i3d_rgb_lgi, expected i3d"):
            PartialRelevance(root, COLLECTION, feature="i3d")


class TestEvaluation:
    def test_scores_and_relevant(self, opened):
        data = opened["val"]
        scores = torch.nn.functional.one_hot(data.relevant, len(data)).float()
        assert evaluate(scores, data.relevant, ks=(1, 5, 10, 100)).sum_r == 400

    def test_true_positives(self, root, opened):
        data = opened["train"]
        with pytest.raises(FileNotFoundError, match=r"charadestrain\.truth\.json: there is no such file"):
            data.true_positives  # noqa: B018
        truths = {c.id: Truth((c.video,), (0, 1)) for c in data.captions}
        truths["TR02#enc#1"] = Truth(("TR02", "TR11"), None)
        write_truth(Layout.find(root, COLLECTION).truth("train"), truths)
        found = data.true_positives
        assert found.shape == (30, 12) and found.dtype == torch.bool and found.sum() == 31
        assert found[6].nonzero().flatten().tolist() == [2, 11] and data.truth[5].moment == (0, 1)
        scores = torch.zeros(30, 12)
        scores[torch.arange(30), data.relevant] = 1
        scores[6, 11] = 2  # wrong by annotation, right in truth
        assert evaluate(scores, found).recall(1) == 100 > evaluate(scores, data.relevant).recall(1)


def test_a_caption_knows_its_video():
    assert Caption("friends_s01e03_seg02_clip_19#enc#0", "he sits").video == "friends_s01e03_seg02_clip_19"
