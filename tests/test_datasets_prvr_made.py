"""Partial relevance from Moving Digits and from joined clips of MSR-VTT: the same layout, their own truth."""

from __future__ import annotations

import json
import os
from collections import Counter

import numpy as np
import pytest
import torch
from small_msrvtt import FEATURE_FILE, FEATURES, small_msrvtt

from vtrlib import clip
from vtrlib.datasets import CATEGORIES, msrvtt_features, read_msrvtt
from vtrlib.datasets.prvr import (
    PartialRelevance,
    collate,
    encode_texts,
    join_clips,
    unit_rows,
    world,
    write_joined_msrvtt,
    write_world,
)
from vtrlib.metrics import evaluate
from vtrlib.world import MovingDigits

SIZES = {"train": 5, "val": 3, "test": 4}
SPLITS = ("train", "val", "test")


@pytest.fixture(scope="module")
def towers():
    return clip.load("tiny").frozen()


@pytest.fixture(scope="module")
def root(tmp_path_factory, towers):
    root = tmp_path_factory.mktemp("world")
    write_world(root, towers=towers, sizes=SIZES)
    return root


class TestWorld:
    def test_features_are_those_of_the_towers(self, root, towers):
        for split, size in SIZES.items():
            data, videos = PartialRelevance(root, "world", split), MovingDigits(split, "untrimmed", size=size)
            assert len(data) == size and data.lengths.tolist() == [64] * size
            for item, video in zip(data, videos, strict=True):
                with torch.no_grad():
                    expected = towers.encode_frames(video.frames)
                assert np.abs(item.frames.numpy() - unit_rows(expected.numpy())).max() < 1e-5
                assert item.clips.shape == (32, 64)

    def test_queries_are_those_of_the_world(self, root, towers):
        """In their order, so that a ceiling for `videos.queries()` is one for them."""
        data, videos = PartialRelevance(root, "world", "val"), MovingDigits("val", "untrimmed", size=3)
        queries = videos.queries()
        assert [c.text for c in data.captions] == [q.text for q in queries]
        assert data.relevant.tolist() == [q.video for q in queries]
        for n, query in enumerate(queries):
            assert data.true_positives[n].nonzero().flatten().tolist() == videos.true_positives(query).tolist()
            moment = videos[query.video].moments[query.moment]
            assert data.truth[n].moment == (moment.start, moment.end)
        perfect = data.true_positives.float()
        assert evaluate(perfect, data.true_positives).recall(1) == 100

    def test_words_are_states_of_valid_tokens(self, root, towers):
        data = PartialRelevance(root, "world", "val")
        for caption, words in zip(data.captions, (w for item in data for w in item.words), strict=True):
            ids, mask = towers.tokenize([caption.text])
            assert mask.all() and words.shape == (ids.shape[1], 64)  # alone it needs no padding
            with torch.no_grad():
                expected = towers.token_states(ids, mask)[0]
            assert np.abs(words.numpy() - unit_rows(expected.numpy())).max() < 1e-5

    def test_padding_changes_no_word(self, towers):
        texts = ["a red one grows", "there is a seven in blue that slides to the left in the snow", "a red one grows"]
        found = encode_texts(towers, texts)
        assert set(found) == set(texts) and len(found[texts[0]]) < len(found[texts[1]])

    def test_batches_and_repetition(self, root, towers, tmp_path):
        """Bytes depend on nothing but what is asked; features on the batch size by rounding alone."""
        again = write_world(tmp_path / "a", towers=towers, sizes=SIZES)
        for path in (root / "world").glob("*/*/*.*"):
            if "PooledData" not in path.parts:
                assert (again.folder / path.relative_to(root / "world")).read_bytes() == path.read_bytes()
        small = write_world(tmp_path / "b", towers=towers, sizes=SIZES, batch_size=2)
        one, two = (np.fromfile(layout.features / "feature.bin", "<f4") for layout in (again, small))
        assert np.abs(one - two).max() < 1e-5
        assert small.captions("val").read_bytes() == again.captions("val").read_bytes()

    def test_it_is_made_once(self, towers, tmp_path, monkeypatch):
        arguments = {"towers": towers, "sizes": {"val": 1}}
        layout = write_world(tmp_path, ["val"], **arguments)
        calls = []
        monkeypatch.setattr(world, "write_layout", lambda *a, **k: calls.append(k["replace"]))
        assert write_world(tmp_path, ["val"], **arguments) == layout and calls == []
        write_world(tmp_path, ["val"], **arguments, seed=3)
        write_world(tmp_path, ["val"], **arguments | {"towers": clip.random_towers(1)})
        assert calls == [True, True]

    def test_what_is_somebody_elses_stays(self, towers, tmp_path):
        (tmp_path / "world").mkdir()
        with pytest.raises(FileExistsError, match="world: exists"):
            write_world(tmp_path, ["val"], towers=towers, sizes={"val": 1})

    def test_paraphrases(self, towers, tmp_path):
        write_world(tmp_path, ["val"], towers=towers, sizes={"val": 2}, paraphrases=3)
        data, videos = PartialRelevance(tmp_path, "world", "val"), MovingDigits("val", "untrimmed", size=2)
        wordings = [text for v in videos for moment in v.events for text in moment.captions]
        assert [c.text for c in data.captions] == wordings and len({c.id for c in data.captions}) == len(wordings)
        with pytest.raises(ValueError, match="paraphrases=4: expected between 1 and 3"):
            write_world(tmp_path, paraphrases=4)
        with pytest.raises(ValueError, match="splits='dev'"):
            write_world(tmp_path, ["dev"])


@pytest.fixture
def folder(tmp_path):
    return small_msrvtt(tmp_path / "msrvtt")


SHARES = (40, 20, 40)


def joined(root, folder, **settings):
    return write_joined_msrvtt(root, folder=folder, shares=SHARES, width=8, min_count=1, **settings)


class TestJoining:
    @pytest.mark.parametrize("k", [2, 3, 4])
    def test_every_clip_once_and_pure(self, folder, k):
        clips = msrvtt_features(folder, "train", SHARES)
        videos, control = (join_clips(clips, k, join) for join in ("category", "random"))
        for made in (videos, control):
            assert sorted(row for video in made for row in video.clips) == list(range(len(clips)))
            assert len({video.id for video in made}) == len(made)
        assert Counter(len(v.clips) for v in videos) == Counter(len(v.clips) for v in control)
        assert all(len({clips.videos[row].category for row in v.clips}) == 1 for v in videos)
        assert any(len({clips.videos[row].category for row in v.clips}) > 1 for v in control)
        members = Counter(video.category for video in clips.videos)
        counts = Counter(clips.videos[v.clips[0]].category for v in videos)
        assert counts == {c: max(1, round(n / k)) for c, n in members.items()}

    def test_seed_decides(self, folder):
        clips = msrvtt_features(folder, "train", SHARES)
        assert join_clips(clips, 2) == join_clips(clips, 2) != join_clips(clips, 2, seed=1)
        assert join_clips(clips, 2, "random") != join_clips(clips, 2, "random", seed=1)
        with pytest.raises(ValueError, match="k=1: expected at least 2"):
            join_clips(clips, 1)
        with pytest.raises(ValueError, match="join='topic'"):
            join_clips(clips, join="topic")


class TestJoined:
    @pytest.mark.parametrize("join", ["category", "random"])
    def test_collection(self, folder, tmp_path, join):
        layout = joined(tmp_path, folder, join=join, k=3)
        made = json.loads((layout.folder / "made_from.json").read_text())
        assert made["what"].startswith("Constructed: ") and layout.collection == f"msrvtt-joined-{join}"
        annotations, sources = read_msrvtt(folder), {}
        for split in SPLITS:
            data = PartialRelevance(tmp_path, layout.collection, split)
            clips = msrvtt_features(folder, split, SHARES)
            assert [made["clips"][v] for v in data.video_ids] == [
                [clips.ids[row] for row in video.clips] for video in join_clips(clips, 3, join, split=split)
            ]
            sources[split] = {annotations[c].source for v in data.video_ids for c in made["clips"][v]}
            self.check_moments(data, made["clips"], annotations)
            self.check_features(data, made["clips"], clips)
        assert sum(map(len, sources.values())) == len(set.union(*sources.values()))  # no source in two splits

    @staticmethod
    def check_moments(data, members, annotations):
        """Each caption was written for the clip whose frames its moment is."""
        for caption, truth in zip(data.captions, data.truth, strict=True):
            clip_id = members[caption.video][truth.moment[0] // 5]
            assert caption.text in annotations[clip_id].captions and truth.moment[1] - truth.moment[0] == 5
            assert truth.videos == (caption.video,)
        assert len(data.captions) == sum(3 * len(members[v]) for v in data.video_ids)

    @staticmethod
    def check_features(data, members, clips):
        for item in data:
            rows = [clips[clips.ids.index(c)][0].numpy() for c in members[item.video_id]]
            expected = unit_rows(np.concatenate(rows).astype(np.float64))
            assert np.abs(item.frames.numpy() - expected).max() < 1e-6

    def test_words(self, folder, tmp_path):
        layout = joined(tmp_path, folder, captions=1)
        data = PartialRelevance(tmp_path, layout.collection, "val")
        lengths = [len(c.text.split()) for c in data.captions]
        assert [len(w) for item in data for w in item.words] == lengths and data[0].words[0].shape[1] == 8
        assert collate([data[0]]).queries.norm(dim=-1).max() < 1.0001

    def test_it_is_made_once_of_these_data(self, folder, tmp_path):
        layout = joined(tmp_path, folder)
        before = (layout.folder / "made_from.json").stat().st_ino
        joined(tmp_path, folder)
        assert (layout.folder / "made_from.json").stat().st_ino == before
        path = folder / FEATURES / FEATURE_FILE
        np.save(path, np.load(path) + 1)
        joined(tmp_path, folder)
        assert (layout.folder / "made_from.json").stat().st_ino != before


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """Both joins of the real clips, two captions of each."""
    if "VTRLIB_DATA" not in os.environ:
        pytest.skip("VTRLIB_DATA is not set: no real clips to join")
    root = tmp_path_factory.mktemp("joined")
    for join in ("category", "random"):
        write_joined_msrvtt(root, join=join, captions=2)
    return root


class TestRealJoined:
    def test_sizes(self, real):
        sizes = {}
        for join in ("category", "random"):
            parts = {s: PartialRelevance(real, f"msrvtt-joined-{join}", s) for s in SPLITS}
            assert {s: (len(p), len(p.captions)) for s, p in parts.items()} == {
                "train": (177, 1414), "val": (33, 220), "test": (47, 366),
            }  # fmt: skip
            sizes[join] = {s: Counter((p.lengths // 50).tolist()) for s, p in parts.items()}
        assert sizes["category"] == sizes["random"]
        assert sizes["category"]["train"] == {3: 11, 4: 156, 5: 10}

    def test_categories(self, real):
        annotations = read_msrvtt()
        for join, pure in (("category", True), ("random", False)):
            made = json.loads((real / f"msrvtt-joined-{join}" / "made_from.json").read_text())["clips"]
            kinds = {v: {CATEGORIES[annotations[c].category] for c in clips} for v, clips in made.items()}
            assert all(len(k) == 1 for k in kinds.values()) == pure
        assert made["train_random_000"] and sum(map(len, made.values())) == 1000
