"""Partial relevance: the cache is of today's files, or it is made again; nothing in it is half-written."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from small_prvr import COLLECTION, FEATURE, small_prvr

from vtrlib.datasets.prvr import PartialRelevance, cache, pooled
from vtrlib.datasets.prvr.cache import cached, recipe_of


@pytest.fixture
def root(tmp_path):
    return small_prvr(tmp_path / "data").parent


@pytest.fixture
def place(root):
    return root / COLLECTION / "PooledData"


@pytest.fixture
def binary(root):
    return root / COLLECTION / "FeatureData" / FEATURE / "feature.bin"


@pytest.fixture
def made(monkeypatch):
    """How often videos are pooled."""
    calls = []
    pool = pooled._pool_videos
    monkeypatch.setattr(pooled, "_pool_videos", lambda *a: (calls.append(1), pool(*a)))
    return calls


def read(root, split="train", **settings):
    return PartialRelevance(root, COLLECTION, split, **settings)


def files(place):
    return sorted(str(p.relative_to(place)) for p in place.rglob("*"))


class TestReuse:
    def test_once_for_all_splits(self, root, place, made):
        read(root), read(root, "val"), read(root, "test"), read(root)
        assert len(made) == 1 and len(list(place.iterdir())) == 4  # videos, and the words of three splits

    def test_settings_stand_side_by_side(self, root, place, made):
        assert read(root)[0].clips.shape[0] == 32 and read(root, clips=5)[0].clips.shape[0] == 5
        assert read(root)[0].clips.shape[0] == 32 and len(made) == 2
        assert read(root, max_words=2)[1].words[0].shape[0] == 2 and read(root)[1].words[0].shape[0] == 30
        assert len(list(place.iterdir())) == 4

    def test_elsewhere(self, root, place, made, tmp_path):
        other = small_prvr(tmp_path / "other").parent
        for where in (root, other, root, other):
            read(where, cache=tmp_path / "cache")
        assert len(made) == 2 and not place.exists() and len(list((tmp_path / "cache").iterdir())) == 2

    def test_none(self, root, place, made):
        one, two = read(root, cache=False), read(root)
        assert len(made) == 2 and all(torch.equal(one[i].frames, two[i].frames) for i in range(12))
        assert not isinstance(one._videos.clips, np.memmap) and isinstance(two._videos.clips, np.memmap)
        assert list(place.iterdir())

    def test_a_folder_that_cannot_be_written(self, root, monkeypatch):
        def refuse(*args, **kwargs):
            raise OSError(30, "Read-only file system")

        monkeypatch.setattr(Path, "mkdir", refuse)
        with pytest.raises(PermissionError, match="PooledData: cannot be written .*cache='folder'.*cache=False"):
            read(root)


class TestStale:
    def test_changed_features(self, root, place, binary, made):
        before = read(root)[0].frames
        array = np.fromfile(binary, np.float32)
        array[:24] = array[:24][::-1]
        array.tofile(binary)  # as many bytes as before
        after = read(root)[0].frames
        assert torch.equal(after, before.flip(1)) and not torch.equal(after, before)
        assert len(made) == 2 and len(list(place.iterdir())) == 2  # the stale one is gone

    @pytest.mark.parametrize("name", ["id.txt", "shape.txt", "video2frames.txt"])
    def test_touched(self, root, binary, made, name):
        read(root)
        os.utime(binary.with_name(name), ns=(0, 0))  # older than before, and yet another one
        read(root)
        assert len(made) == 2

    def test_changed_captions(self, root):
        path = root / COLLECTION / "TextData" / "charadestrain.caption.txt"
        lines = path.read_text().splitlines(keepends=True)
        before = read(root)
        path.write_text("".join(reversed(lines)))
        after = read(root)
        assert after.video_ids == before.video_ids[::-1] and len(after.captions) == 30
        words = {n: w for item in before for n, w in zip(item.caption_ids, item.words, strict=True)}
        for item in after:
            assert all(torch.equal(w, words[n]) for n, w in zip(item.caption_ids, item.words, strict=True))

    def test_another_version_of_the_code(self, root, made, monkeypatch):
        read(root)
        monkeypatch.setattr(pooled, "VERSION", pooled.VERSION + 1)
        read(root)
        assert len(made) == 2


class TestDamage:
    @pytest.mark.parametrize("name", ["clips.npy", "rows.npy", "starts.npy", "ids.json", "made_from.json"])
    @pytest.mark.parametrize("how", ["cut off", "gone"])
    def test_is_made_again(self, root, place, made, name, how):
        before = read(root)[3].clips
        (folder,) = (p.parent for p in place.rglob("clips.npy"))
        path = folder / name
        path.unlink() if how == "gone" else path.write_bytes(path.read_bytes()[:-3])
        assert torch.equal(read(root)[3].clips, before) and len(made) == 2

    def test_error_leaves_nothing(self, root, place, monkeypatch):
        def broken(stored, clips, frames, folder):
            np.save(folder / "clips.npy", np.zeros(3))
            raise RuntimeError("out of order")

        with monkeypatch.context() as patch:
            patch.setattr(pooled, "_pool_videos", broken)
            with pytest.raises(RuntimeError, match="out of order"):
                read(root)
        assert files(place) == []
        assert len(read(root)) == 12

    def test_killed_while_writing(self, root, place):
        """As by a power cut: no clean-up runs. What is left has no name that is ever read."""
        pid = os.fork()
        if pid == 0:
            pool_clips = pooled.pool_clips
            pooled.pool_clips = lambda rows, n: (
                os.kill(os.getpid(), signal.SIGKILL) if len(rows) == 64 else pool_clips(rows, n)
            )
            read(root)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
        (part,) = place.iterdir()
        assert part.name.startswith(".part-") and (part / "made" / "clips.npy").exists()
        assert float(read(root)[11].clips.abs().max()) > 0
        assert part.exists()  # it could still be somebody's
        os.utime(part, (time.time() - 90_000,) * 2)
        read(root, clips=3)
        assert not part.exists()


class TestCached:
    def test_two_at_once(self, tmp_path):
        source = tmp_path / "source"
        source.write_text("1")
        recipe = recipe_of("sum", 1, [source], add=2)

        def make(folder):
            (folder / "sum.txt").write_text("3")
            cached(tmp_path / "cache", recipe, lambda other: (other / "sum.txt").write_text("3"))  # is faster

        folder = cached(tmp_path / "cache", recipe, make)
        assert [p.name for p in (tmp_path / "cache").iterdir()] == [folder.name]
        assert json.loads((folder / "made_from.json").read_text())["bytes"] == {"sum.txt": 1}

    def test_others_are_left_alone(self, tmp_path):
        source = tmp_path / "source"
        source.write_text("1")
        (tmp_path / "cache" / "precious").mkdir(parents=True)
        (tmp_path / "cache" / "precious" / "made_from.json").write_text('{"mine": 1}')
        (tmp_path / "cache" / "note.txt").write_text("mine")
        kept = cached(tmp_path / "cache", recipe_of("sum", 1, [source], add=9), lambda folder: None)
        for text in ("1", "22"):
            source.write_text(text)
            folder = cached(tmp_path / "cache", recipe_of("sum", 1, [source], add=2), lambda folder: None)
        names = {p.name for p in (tmp_path / "cache").iterdir()}
        assert names == {"precious", "note.txt", kept.name, folder.name}
        assert cache._whole(kept, recipe_of("sum", 1, [source], add=9)) is False
