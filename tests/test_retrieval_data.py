"""From video files and captions to batches: tokens, frames, cache, pairs, workers."""

from __future__ import annotations

import gzip
import json
import os
import shutil
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from small_msrvtt import ANNOTATIONS, small_msrvtt
from test_datasets_video import record
from torch.utils.data import DataLoader
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from vtrlib import clip
from vtrlib.clip import Towers, preprocess, random_towers
from vtrlib.clip.vocabulary import build_tokenizer
from vtrlib.datasets import VideoError, data_folder, frame_positions, msrvtt_protocol, read_frames
from vtrlib.datasets.retrieval import (
    CaptionedVideo,
    VideoFolder,
    VideoTextPairs,
    WorldFrames,
    collate_pairs,
    find_videos,
    pseudo_key,
    read_captions,
    read_msvd,
    tokenize_captions,
    world_pairs,
)
from vtrlib.datasets.retrieval import frames as frames_module
from vtrlib.world import MovingDigits, card, pseudo_captions

F, S = 3, 12
MERGES = [("d", "o"), ("do", "g</w>"), ("r", "u"), ("ru", "n"), ("run", "s</w>")]


def byte_pairs():
    """CLIP's own kind of tokenizer, with a few merges: start and end first, as ids 0 and 1."""
    letters = [chr(c) for c in range(33, 127)]
    tokens = ["<|startoftext|>", "<|endoftext|>", *letters, *(c + "</w>" for c in letters), *(a + b for a, b in MERGES)]
    vocabulary = {token: n for n, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocabulary, merges=MERGES, model_max_length=77)


@pytest.fixture(scope="module")
def videos():
    return (
        CaptionedVideo("video0", ("a dog runs", "a dog")),
        CaptionedVideo("video1", ("it rains",)),
        CaptionedVideo("video2", ("a dog", "one more dog that runs and runs", "it runs")),
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three clips of different shape and length, one in a folder of its own."""
    place, noise = tmp_path_factory.mktemp("videos"), np.random.default_rng(7)
    (place / "test").mkdir()
    for name, count, (width, height) in (
        ("video0", 11, (32, 16)),
        ("video1", 2, (16, 24)),
        ("test/video2", 60, (16, 16)),
    ):
        blocks = noise.integers(0, 256, (count, height // 8, width // 8, 3), dtype=np.uint8)
        record(place / f"{name}.avi", "mjpeg", pictures=list(blocks.repeat(8, 1).repeat(8, 2)), size=(width, height))
    (place / "readme.txt").write_text("no video", encoding="utf-8")
    return place


def pseudo(videos, frames=F):
    return {
        pseudo_key(v.id, c): tuple(f"{c} in frame {'i' * n}" for n in range(1, frames + 1))
        for v in videos
        for c in v.captions
    }


def same(a, b):
    return all(
        torch.equal(x, y) if isinstance(x, torch.Tensor) else x is y is None
        for x, y in ((getattr(a, name), getattr(b, name)) for name in a.__dataclass_fields__)
    )


class TestTokens:
    @pytest.mark.parametrize("words", [3, 5, 32])
    @pytest.mark.parametrize("make", [byte_pairs, build_tokenizer])
    def test_against_the_released_rule(self, make, words):
        tokenizer = make()
        texts = ["a dog", "a " * 60, "the dog runs and runs and runs by the sea"]
        ids, mask = tokenize_captions(tokenizer, texts, words)
        assert ids.shape == mask.shape == (3, words) and ids.dtype == torch.int64 and mask.dtype == torch.bool
        for row, text in enumerate(texts):
            body = tokenizer(text, add_special_tokens=False)["input_ids"]
            line = [tokenizer.bos_token_id, *body]
            if len(line) > words - 1:
                line = line[: words - 1]
            line.append(tokenizer.eos_token_id)
            assert ids[row, : len(line)].tolist() == line and mask[row].sum() == len(line)
            assert (ids[row, len(line) :] == tokenizer.pad_token_id).all() and mask[row, : len(line)].all()

    def test_tokenizer_that_leaves_the_end_out(self):
        tokenizer = build_tokenizer()
        for cut in (lambda line: line[:-1], lambda line: line[1:], lambda line: []):
            broken = SimpleNamespace(bos_token_id=1, eos_token_id=3, pad_token_id=0)
            broken = type("Broken", (SimpleNamespace,), {"__call__": lambda self, texts, **o: {
                "input_ids": [cut(line) for line in tokenizer(texts, **o)["input_ids"]]}})(**vars(broken))  # fmt: skip
            with pytest.raises(ValueError, match=r"tokenizer: makes .* of 'the sea'\. Expected the start token 1"):
                tokenize_captions(broken, ["the sea"])

    def test_bad_input(self):
        with pytest.raises(TypeError, match="expected a list of sentences"):
            tokenize_captions(build_tokenizer(), "a dog")
        with pytest.raises(ValueError, match="at least one sentence, and none empty"):
            tokenize_captions(build_tokenizer(), ["a dog", " "])
        with pytest.raises(ValueError, match="words=49: the tokenizer's model takes at most 48"):
            tokenize_captions(build_tokenizer(), ["a dog"], 49)


class TestSeconds:
    """DiscoVLA's released sampling, reference row 18."""

    @pytest.mark.parametrize("count", [1, 2, 11, 25, 60, 250, 299, 300, 301, 1000])
    @pytest.mark.parametrize("rate", [0.3, 1.0, 2.5, 23.976, 25.0, 29.97])
    def test_against_a_loop(self, count, rate):
        ticks, tick = [], 0
        while tick < count:
            ticks.append(tick)
            tick += max(1, round(rate))
        for frames in (1, 3, 12):
            if len(ticks) > frames:
                expected = [ticks[int(p)] for p in np.linspace(0, len(ticks) - 1, frames)]
            elif len(ticks) == frames:
                expected = ticks
            else:
                expected = [int(p) for p in np.linspace(0, count - 1, frames)]
            assert frame_positions(count, frames, "seconds", rate).tolist() == expected

    def test_it_is_another_rule(self):
        assert frame_positions(60, 2, "seconds", 25.0).tolist() == [0, 50] != frame_positions(60, 2).tolist()
        assert frame_positions(60, 12, "seconds", 25.0).tolist() == frame_positions(60, 12).tolist()
        for rate in (None, 0.0, -1.0):
            with pytest.raises(ValueError, match="rate="):
                frame_positions(60, 12, "seconds", rate)

    def test_with_the_rate_of_the_file(self, folder):
        path = folder / "test" / "video2.avi"
        assert torch.equal(read_frames(path, 2, rule="seconds"), read_frames(path, 60)[[0, 50]])
        raw = record(folder / "raw.h264", "libx264")
        try:
            read_frames(raw, 2, rule="seconds")
        except VideoError as error:
            assert "how many frames it shows a second" in str(error)
        finally:
            raw.unlink()


class TestVideoFolder:
    def test_pixels_against_pillow(self, folder):
        """CLIP's own preparation: short side by bicubic interpolation, the middle cut out."""
        source = VideoFolder(folder, frames=F, size=S)
        for name, path in source.paths.items():
            (frames,) = source([name])
            assert frames.shape == (F, 3, S, S) and frames.dtype == torch.uint8
            for ours, whole in zip(frames, read_frames(path, F), strict=True):
                picture = Image.fromarray(whole.permute(1, 2, 0).numpy())
                width, height = picture.size
                scaled = (S * width // min(width, height), S * height // min(width, height))
                picture = picture.resize(scaled, Image.Resampling.BICUBIC)
                left, top = (scaled[0] - S) // 2, (scaled[1] - S) // 2
                cut = np.asarray(picture.crop((left, top, left + S, top + S))).astype(int)
                assert np.abs(cut - ours.permute(1, 2, 0).numpy()).max() <= 1
        assert source(["video1", "video0"]).shape == (2, F, 3, S, S)

    def test_files_are_found_and_missing_ones_named(self, folder, tmp_path):
        assert [p.name for p in find_videos(folder, ["video2", "video0"]).values()] == ["video2.avi", "video0.avi"]
        with pytest.raises(
            FileNotFoundError, match=r"2 of 3 videos have no file: video8, video9\. Expected video8\.mp4"
        ):
            find_videos(folder, ["video8", "video0", "video9"])
        with pytest.raises(FileNotFoundError, match="there is no such folder of videos"):
            find_videos(tmp_path / "none")
        with pytest.raises(FileNotFoundError, match="holds no video"):
            find_videos(tmp_path)
        for name in ("a/video0.mp4", "b/video0.avi", "b/.video0.mp4"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).touch()
        with pytest.raises(ValueError, match="video0: several files, such as a.video0.mp4, b.video0.avi"):
            find_videos(tmp_path)
        with pytest.raises(KeyError, match="expected an id of this folder: video"):
            VideoFolder(folder)(["video3"])
        with pytest.raises(ValueError, match="pass size="):
            VideoFolder(folder, frames=F, size=None)(["video0", "video1"])

    @pytest.mark.parametrize("workers", [0, 2])
    @pytest.mark.parametrize("cached", [False, True])
    def test_unreadable_videos_are_named_and_never_filled_in(self, folder, videos, tmp_path, workers, cached):
        broken = shutil.copytree(folder, tmp_path / "broken")
        (broken / "video0.avi").write_bytes(b"")
        (broken / "video1.avi").write_bytes(b"RIFF" + b"\0" * 3000)
        source = VideoFolder(broken, frames=F, size=S, cache=tmp_path / "cache" if cached else None)
        faults = source.faults()
        assert len(faults) == 2 and faults[0].startswith(f"{broken / 'video0.avi'}: is empty (0 bytes)")
        assert faults[1].startswith(f"{broken / 'video1.avi'}: 3,004 bytes, cannot be opened as a video")
        pairs = VideoTextPairs(videos, source, build_tokenizer())
        loader = DataLoader(pairs, batch_size=2, num_workers=workers, collate_fn=collate_pairs)
        with pytest.raises(VideoError, match=r"video0\.avi: is empty"):
            list(loader)
        if cached:
            assert [p.stem for p in (tmp_path / "cache").rglob("*.safetensors")] == ["video2"]


class TestCache:
    @pytest.fixture
    def place(self, folder, tmp_path):
        return shutil.copytree(folder, tmp_path / "videos")

    @pytest.fixture
    def decoded(self, monkeypatch):
        """The names of the files that were decoded."""
        names, real = [], frames_module.read_frames
        monkeypatch.setattr(
            frames_module, "read_frames", lambda path, *a, **o: names.append(path.name) or real(path, *a, **o)
        )
        return names

    def source(self, place, **options):
        return VideoFolder(place, **{"frames": F, "size": S, "cache": place.parent / "cache"} | options)

    def test_the_same_frames_decoded_once(self, place, decoded):
        plain = VideoFolder(place, frames=F, size=S)(["video0", "video1"])
        decoded.clear()
        for _ in range(3):
            assert torch.equal(self.source(place)(["video0", "video1"]), plain)
        assert decoded == ["video0.avi", "video1.avi"]
        assert not list(place.parent.rglob("*.part"))

    @pytest.mark.parametrize("options", [{"frames": 2}, {"size": 8}, {"rule": "middle"}, {"fit": "squash"},
                                         {"resample": "bilinear"}, {"size": None}])  # fmt: skip
    def test_other_settings_are_other_frames(self, place, decoded, options):
        self.source(place)(["video0"])
        other = self.source(place, **options)(["video0"])
        assert len(decoded) == 2 and torch.equal(
            other, VideoFolder(place, **{"frames": F, "size": S} | options)(["video0"])
        )
        # even where somebody moves a file
        (mine,) = self.source(place)._cache.folder.iterdir()
        shutil.copy(mine, self.source(place, **options)._cache.folder / mine.name)
        assert torch.equal(self.source(place, **options)(["video0"]), other)

    def test_a_changed_video_is_decoded_again(self, place, decoded):
        old = self.source(place)(["video0"])
        stat = (place / "video0.avi").stat()
        shutil.copy(place / "video1.avi", place / "video0.avi")
        new = self.source(place)(["video0"])
        assert torch.equal(new, self.source(place)(["video1"])) and not torch.equal(new, old)
        assert decoded == ["video0.avi", "video0.avi", "video1.avi"]
        # of the same size, at another time: the sha256 tells
        data = bytearray((place / "video1.avi").read_bytes())
        data[2000] ^= 1
        (place / "video1.avi").write_bytes(data)
        os.utime(place / "video1.avi", ns=(stat.st_mtime_ns + 1, stat.st_mtime_ns + 1))
        self.source(place)(["video1"])
        assert decoded[3:] == ["video1.avi"]

    def test_a_changed_video_of_the_same_time(self, place, decoded):
        """As after unpacking an archive whose files all have one time."""
        stat = (place / "video0.avi").stat()
        self.source(place)(["video0"])
        shutil.copy(place / "video1.avi", place / "video0.avi")
        os.utime(place / "video0.avi", ns=(stat.st_mtime_ns, stat.st_mtime_ns))
        self.source(place)(["video0"])
        assert decoded == ["video0.avi", "video0.avi"]

    def test_frames_under_the_name_of_a_video_of_the_same_size_and_time(self, place, decoded):
        data = bytearray((place / "video0.avi").read_bytes())
        data[-1] ^= 1
        (place / "video3.avi").write_bytes(data)
        for name in ("video0.avi", "video3.avi"):
            os.utime(place / name, ns=(1, 1))
        source = self.source(place)
        source(["video3"])
        folder = source._cache.folder
        shutil.copy(folder / "video3.safetensors", folder / "video0.safetensors")
        source(["video0"])
        assert decoded == ["video3.avi", "video0.avi"]

    def test_a_touched_video_is_not_decoded_again(self, place, decoded):
        old = self.source(place)(["video0"])
        os.utime(place / "video0.avi", ns=(1, 1))
        assert torch.equal(self.source(place)(["video0"]), old) and decoded == ["video0.avi"]

    @pytest.mark.parametrize("fault", ["cut", "flipped", "foreign", "empty", "of another"])
    def test_a_damaged_file_is_not_used(self, place, decoded, fault):
        old = self.source(place)(["video0"])
        path = self.source(place)._cache.folder / "video0.safetensors"
        data = bytearray(path.read_bytes())
        if fault == "of another":
            self.source(place)(["video1"])
            data = bytearray(path.with_name("video1.safetensors").read_bytes())
        data[-5] ^= fault == "flipped"
        path.write_bytes({"cut": data[:-7], "foreign": b"gibberish", "empty": b""}.get(fault, bytes(data)))
        decoded.clear()
        assert torch.equal(self.source(place)(["video0"]), old) and decoded == ["video0.avi"]
        assert torch.equal(self.source(place)(["video0"]), old) and decoded == ["video0.avi"]


class TestPairs:
    def test_items_against_a_loop(self, folder, videos):
        tokenizer = build_tokenizer()
        source, told = VideoFolder(folder, frames=F, size=S), pseudo(videos)
        pairs = VideoTextPairs(videos, source, tokenizer, words=9, pseudo=told)
        assert len(pairs) == 6 and pairs.video_ids == ("video0", "video1", "video2")
        assert pairs.relevant.tolist() == [0, 0, 1, 2, 2, 2]
        n = 0
        for v, video in enumerate(videos):
            for caption in video.captions:
                item = pairs[n]
                assert (item.video, item.pair, pairs.captions[n]) == (v, n, caption)
                assert torch.equal(item.frames, source([video.id])[0])
                (ids,), (mask,) = tokenize_captions(tokenizer, [caption], 9)
                assert torch.equal(item.text_ids, ids) and torch.equal(item.text_mask, mask)
                for f in range(F):
                    (ids,), (mask,) = tokenize_captions(tokenizer, [told[f"{video.id}_{caption}"][f]], 9)
                    assert torch.equal(item.pseudo_ids[f], ids) and torch.equal(item.pseudo_mask[f], mask)
                n += 1
        ids, mask = pairs.texts()
        assert torch.equal(ids, torch.stack([pairs[n].text_ids for n in range(6)])) and mask.shape == (6, 9)
        assert torch.equal(pairs[-1].text_ids, pairs[5].text_ids)
        with pytest.raises(IndexError, match="index=6: there are 6 pairs"):
            pairs[6]

    def test_batches(self, folder, videos):
        source = VideoFolder(folder, frames=F, size=S)
        pairs = VideoTextPairs(videos, source, build_tokenizer(), words=17, pseudo=pseudo(videos))
        items = [pairs[n] for n in (4, 0, 2)]
        whole, cut = collate_pairs(items, trim=False), collate_pairs(items)
        assert whole.text_ids.shape == (3, 17) and whole.pseudo_ids.shape == (3, F, 17) and len(whole) == 3
        longest = max(int(item.text_mask.sum()) for item in items)
        assert cut.text_ids.shape == (3, longest) and 5 < longest < 17
        assert torch.equal(whole.text_ids[:, :longest], cut.text_ids) and not whole.text_mask[:, longest:].any()
        assert cut.pseudo_mask.shape[2] == max(int(item.pseudo_mask.sum(-1).max()) for item in items)
        assert cut.frames.shape == (3, F, 3, S, S) and cut.frames.dtype == torch.uint8
        assert cut.frame_mask.shape == (3, F) and cut.frame_mask.all() and cut.frame_mask.dtype == torch.bool
        assert cut.video.tolist() == [2, 0, 1] and cut.pair.tolist() == [4, 0, 2]
        moved = cut.to("meta")
        assert moved.frames.device.type == moved.pseudo_ids.device.type == "meta" and moved.frames.dtype == torch.uint8
        without = collate_pairs([item._replace(pseudo_ids=None, pseudo_mask=None) for item in items])
        assert without.pseudo_ids is None and without.to("meta").pseudo_mask is None
        with pytest.raises(ValueError, match="some with pseudo captions, some without"):
            collate_pairs([items[0], items[1]._replace(pseudo_ids=None, pseudo_mask=None)])
        with pytest.raises(ValueError, match=r"shapes \(2, 3, 12, 12\) and \(3, 3, 12, 12\) in one batch"):
            collate_pairs([items[0], items[1]._replace(frames=items[1].frames[:2])])
        with pytest.raises(ValueError, match="items: there is none"):
            collate_pairs([])

    @pytest.mark.parametrize("cached", [False, True])
    def test_any_number_of_workers(self, folder, videos, tmp_path, cached):
        source = VideoFolder(folder, frames=F, size=S, cache=tmp_path if cached else None)
        pairs = VideoTextPairs(videos, source, build_tokenizer(), pseudo=pseudo(videos))
        found = []
        for workers in (0, 1, 2):
            order = torch.Generator().manual_seed(11)
            loader = DataLoader(
                pairs, batch_size=4, shuffle=True, generator=order, num_workers=workers, collate_fn=collate_pairs
            )
            found.append(list(loader))
        assert [len(batch) for batch in found[0]] == [4, 2] and found[0][0].pair.tolist() != [0, 1, 2, 3]
        for other in found[1:]:
            assert all(same(a, b) for a, b in zip(found[0], other, strict=True))

    def test_a_video_is_read_once_in_a_batch(self, folder, videos):
        asked = []
        source = VideoFolder(folder, frames=F, size=S)
        spy = type(
            "Spy", (), {"frames": F, "settings": "", "__call__": lambda self, v: asked.append(list(v)) or source(v)}
        )
        pairs = VideoTextPairs(videos, spy(), build_tokenizer())
        assert [item.video for item in pairs.__getitems__([5, 0, 3, 1])] == [2, 0, 2, 0]
        assert asked == [["video2", "video0"]]

    def test_gallery(self, folder, videos):
        source = VideoFolder(folder, frames=F, size=S)
        gallery = VideoTextPairs(videos, source, build_tokenizer()).gallery
        frames, rows = next(iter(DataLoader(gallery, batch_size=3)))
        assert rows.tolist() == [0, 1, 2] and torch.equal(frames, source(["video0", "video1", "video2"]))

    def test_floats_are_made_where_the_model_is(self, folder, videos):
        pairs = VideoTextPairs(videos, VideoFolder(folder, frames=F, size=S), build_tokenizer())
        frames = collate_pairs([pairs[0], pairs[5]]).frames
        floats = preprocess(frames, S)
        mean, std = np.array([0.48145466, 0.4578275, 0.40821073]), np.array([0.26862954, 0.26130258, 0.27577711])
        expected = (frames.double().numpy() / 255 - mean[:, None, None]) / std[:, None, None]
        assert floats.dtype == torch.float32 and np.abs(floats.numpy() - expected).max() < 1e-5
        assert frames.nbytes * 8 == expected.nbytes

    def test_missing_captions_are_named(self, folder, videos):
        source, tokenizer = VideoFolder(folder, frames=F, size=S), build_tokenizer()
        with pytest.raises(ValueError, match="videos: video3: no caption, expected at least one"):
            VideoTextPairs([*videos, CaptionedVideo("video3", ())], source, tokenizer)
        with pytest.raises(ValueError, match="videos: video3: an empty caption"):
            VideoTextPairs([*videos, CaptionedVideo("video3", ("a", " "))], source, tokenizer)
        with pytest.raises(ValueError, match="videos: there is none"):
            VideoTextPairs([], source, tokenizer)
        told = pseudo(videos)
        del told["video1_it rains"]
        with pytest.raises(ValueError, match=r"pseudo captions: missing: video1 \(1, such as 'it rains'\)"):
            VideoTextPairs(videos, source, tokenizer, pseudo=told)
        with pytest.raises(ValueError, match="another number of sentences than 3"):
            VideoTextPairs(videos, source, tokenizer, pseudo=pseudo(videos, 4))


class TestLayouts:
    def test_msrvtt(self, tmp_path, folder):
        root = small_msrvtt(tmp_path)
        splits = msrvtt_protocol("1k-A-9k", root)
        source = WorldLike(F)
        train = VideoTextPairs(splits["train"], source, build_tokenizer())
        assert len(train) == sum(len(v.captions) for v in splits["train"]) > len(splits["train"])
        test = VideoTextPairs(splits["test"], source, build_tokenizer())
        assert len(test) == len(splits["test"]) and test.relevant.tolist() == list(range(len(test)))
        assert not set(train.video_ids) & set(test.video_ids)
        assert (root / ANNOTATIONS).is_dir()

    def write_msvd(self, place):
        place.mkdir()
        captions = {f"film{n}_{n}_{n + 9}": [f"caption {k} of {n}" for k in range(1 + n % 3)] for n in range(9)}
        (place / "captions_msvd.json").write_text(json.dumps(captions), encoding="utf-8")
        names = list(captions)
        for split, part in (("train", names[:5]), ("val", names[5:6]), ("test", names[6:])):
            (place / f"{split}_list.txt").write_text("\n".join(part) + "\n", encoding="utf-8")
        return place, captions

    def test_msvd(self, tmp_path):
        place, captions = self.write_msvd(tmp_path / "msvd-annotations")
        splits = read_msvd(tmp_path)
        assert {split: len(videos) for split, videos in splits.items()} == {"train": 5, "val": 1, "test": 3}
        assert {v.id: list(v.captions) for videos in splits.values() for v in videos} == captions
        assert splits["test"][0].source == "film6" and CaptionedVideo("a_b", ("c",)).source == "a_b"
        pairs = VideoTextPairs(splits["test"], WorldLike(F), build_tokenizer())
        assert pairs.relevant.tolist() == [0, 1, 1, 2, 2, 2]

    @pytest.mark.parametrize(
        ("name", "text", "place"),
        [
            ("val_list.txt", "film0_0_9\n", r"val_list\.txt: line 1: film0_0_9: also in train_list\.txt"),
            ("val_list.txt", "film5_5_14\nfilm5_5_14", r"line 2: film5_5_14: also in val_list\.txt"),
            ("test_list.txt", "film77_0_9\n", r"test_list\.txt: film77_0_9: no captions in captions_msvd\.json"),
            ("test_list.txt", "\n", "no line"),
            ("captions_msvd.json", '{"a": []}', r"captions_msvd\.json: a: found \[\]"),
            ("captions_msvd.json", '{"a": ["x", ""]}', "none empty"),
            ("captions_msvd.json", '{"a": ["x"], "a": ["y"]}', "found more than once: a"),
            ("captions_msvd.json", "{}", "holds no videos"),
        ],
    )
    def test_bad_msvd(self, tmp_path, name, text, place):
        folder, _ = self.write_msvd(tmp_path / "msvd-annotations")
        (folder / name).write_text(text, encoding="utf-8")
        with pytest.raises(ValueError, match=place):
            read_msvd(tmp_path)
        (folder / name).unlink()
        with pytest.raises(FileNotFoundError, match=name):
            read_msvd(tmp_path)


class WorldLike:
    """Black frames of any video."""

    settings = "black"

    def __init__(self, frames):
        self.frames = frames

    def __call__(self, videos):
        return torch.zeros(len(videos), self.frames, 3, S, S, dtype=torch.uint8)


class TestWorld:
    @pytest.mark.parametrize(("view", "frames"), [("trimmed", None), ("trimmed", 5), ("untrimmed", 12)])
    def test_pairs_of_the_world(self, view, frames):
        world = MovingDigits("val", view, size=9)
        pairs = world_pairs(world, build_tokenizer(), frames, paraphrases=2, variant="guided")
        queries = world.queries(0) + world.queries(1)
        assert sorted(pairs.captions) == sorted(query.text for query in queries)
        positions = frame_positions(world.screenplay.frames, frames or 8).tolist()
        item = pairs[5]
        assert torch.equal(item.frames, world[item.video].frames[positions])
        query = next(q for q in queries if (q.video, q.text) == (item.video, pairs.captions[5]))
        (told,) = pseudo_captions(world, [query], positions)
        ids, mask = tokenize_captions(build_tokenizer(), told)
        assert torch.equal(item.pseudo_ids, ids) and torch.equal(item.pseudo_mask, mask)
        assert world_pairs(world, build_tokenizer(), frames)[0].pseudo_ids is None

    def test_it_trains_the_tiny_towers(self):
        pairs = world_pairs(MovingDigits("val", size=6), build_tokenizer(), 4, variant="unguided")
        loader = DataLoader(pairs, batch_size=3, num_workers=1, collate_fn=partial(collate_pairs, trim=False))
        batch, towers = next(iter(loader)), random_towers()
        frames = towers.encode_frames(batch.frames)
        told = towers.encode_tokens(batch.pseudo_ids.flatten(0, 1), batch.pseudo_mask.flatten(0, 1))
        assert frames.shape == (3, 4, 64) and told.shape == (12, 64)
        (frames.flatten(0, 1) * told).sum().backward()
        assert all(w.grad is not None for n, w in towers.named_parameters() if "logit_scale" not in n)

    def test_bad_ids(self):
        source = WorldFrames(MovingDigits("val", size=6))
        assert source(["val0005", "val0000"]).shape == (2, 8, 3, card.SIZE, card.SIZE)
        for name in ("val5", "test0001", "val0006", "val00005"):
            with pytest.raises(KeyError, match=name):
                source([name])
        with pytest.raises(ValueError, match="frames=9: expected between 1 and 8"):
            WorldFrames(MovingDigits("val"), 9)


@pytest.mark.skipif("VTRLIB_DATA" not in os.environ, reason="VTRLIB_DATA is not set: no real clips")
class TestRealClips:
    """MSVD: all its captions, and the eleven clips of the data card."""

    def test_lists(self):
        splits = read_msvd()
        assert {split: len(videos) for split, videos in splits.items()} == {"train": 1200, "val": 100, "test": 670}
        assert sum(len(v.captions) for videos in splits.values() for v in videos) == 80827
        films = {split: {v.source for v in videos} for split, videos in splits.items()}
        assert not films["train"] & films["test"] and all(len(f) < len(splits[s]) for s, f in films.items())

    def test_msrvtt_trains_on_every_caption(self):
        """9,000 videos of 20 captions are 180,000 pairs (reference row 20), some of one video alike to the letter."""
        splits = msrvtt_protocol("1k-A-9k")
        train = VideoTextPairs(splits["train"], WorldLike(F), build_tokenizer())
        assert len(train) == 180_000 and len(train.video_ids) == 9_000
        assert len({(int(v), c) for v, c in zip(train.relevant, train.captions, strict=True)}) == 166_748
        test = VideoTextPairs(splits["test"], WorldLike(F), build_tokenizer())
        assert test.relevant.tolist() == list(range(1000))

    @pytest.mark.parametrize("rule", ["ends", "seconds"])
    def test_clips_through_the_shipped_towers(self, tmp_path, rule):
        place = data_folder("msvd-clips")
        videos = list(read_captions(place / "captions.json").values())
        official = {v.id: v for members in read_msvd().values() for v in members}
        assert all(official[v.id] == v for v in videos) and len(videos) == 11
        source = VideoFolder(place, [v.id for v in videos], frames=12, size=224, rule=rule, cache=tmp_path)
        assert source.faults() == []
        towers = clip.load("tiny").frozen()
        pairs = VideoTextPairs(videos, source, towers.tokenizer)
        ids, mask = pairs.texts()
        assert len(pairs) == sum(len(v.captions) for v in videos) > 400 and ids.shape == (len(pairs), 32)
        texts = towers.encode_tokens(ids[:64], mask[:64])
        found = {}
        for workers in (0, 2):
            loader = DataLoader(pairs.gallery, batch_size=4, num_workers=workers)
            found[workers] = torch.cat([towers.encode_frames(frames) for frames, _ in loader])
        assert found[0].shape == (11, 12, 64) and torch.equal(found[0], found[2])
        means = torch.nn.functional.normalize(found[0].mean(1), dim=-1)
        assert len(np.unique(means.numpy().round(4), axis=0)) == 11
        assert torch.isfinite(texts @ means.T).all()

    def test_clips_through_a_vit_b32(self):
        """ViT-B/32 in shape, two layers deep, with CLIP's real vocabulary of byte pairs."""
        merges = gzip.open(data_folder("clip-bpe") / "bpe_simple_vocab_16e6.txt.gz", "rt", encoding="utf-8").read()
        tokenizer = clip_tokenizer(merges)
        torch.manual_seed(0)
        config = CLIPConfig(
            vision_config={"num_hidden_layers": 2, "patch_size": 32},
            text_config={"num_hidden_layers": 2, "eos_token_id": 49407, "bos_token_id": 49406},
        )
        towers = Towers(CLIPModel(config), tokenizer, "random", (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)).frozen()
        place = data_folder("msvd-clips")
        videos = list(read_captions(place / "captions.json").values())[:2]
        told = {
            pseudo_key(v.id, c): [f"frame {n} of a clip where {c}" for n in range(4)]
            for v in videos
            for c in v.captions
        }
        pairs = VideoTextPairs(videos, VideoFolder(place, frames=4, rule="seconds"), tokenizer, pseudo=told)
        batch = collate_pairs([pairs[0], pairs[len(pairs) - 1]])
        assert batch.frames.shape == (2, 4, 3, 224, 224) and batch.text_ids[0, 0] == 49406
        last = batch.text_mask.sum(1) - 1
        assert (batch.text_ids[torch.arange(2), last] == 49407).all()
        frames = towers.encode_frames(batch.frames)
        texts = towers.encode_tokens(batch.text_ids, batch.text_mask)
        pseudo_texts = towers.encode_tokens(batch.pseudo_ids.flatten(0, 1), batch.pseudo_mask.flatten(0, 1))
        assert frames.shape == (2, 4, 512) and texts.shape == (2, 512) and pseudo_texts.shape == (8, 512)
        # trimmed padding changes nothing
        whole = collate_pairs([pairs[0], pairs[len(pairs) - 1]], trim=False)
        torch.testing.assert_close(towers.encode_tokens(whole.text_ids, whole.text_mask), texts, atol=1e-5, rtol=0)


def clip_tokenizer(merges: str) -> CLIPTokenizer:
    """CLIP's tokenizer from its list of merges: 256 bytes, the same at the end of a word, 48,894 merges, two signs."""
    pairs = [tuple(line.split()) for line in merges.split("\n")[1 : 49152 - 256 - 2 + 1]]
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    letters = [chr(b) for b in printable] + [chr(256 + n) for n in range(len(others))]
    tokens = [
        *letters,
        *(c + "</w>" for c in letters),
        *("".join(p) for p in pairs),
        "<|startoftext|>",
        "<|endoftext|>",
    ]
    return CLIPTokenizer(vocab={t: n for n, t in enumerate(tokens)}, merges=pairs, model_max_length=77)


def test_paths_are_no_part_of_settings(folder):
    assert str(Path(folder)) not in VideoFolder(folder).settings
