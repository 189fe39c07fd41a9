"""MSR-VTT's annotations and protocols, on a small copy of the layout and, where it is at hand, on the real one."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections import Counter
from dataclasses import FrozenInstanceError
from fractions import Fraction

import pytest
from small_msrvtt import ANNOTATIONS, entries, sentence, small_msrvtt, write_list, zipped

from vtrlib.datasets import (
    AnnotatedVideo,
    hold_out,
    msrvtt_protocol,
    read_msrvtt,
    source_of,
    split_by_source,
    split_of,
)
from vtrlib.datasets.msrvtt import CATEGORIES

TRAIN_VAL, TEST = "train_val_annotation.zip", "test_videodatainfo.json.zip"


@pytest.fixture
def root(tmp_path):
    return small_msrvtt(tmp_path / "data")


@pytest.fixture
def folder(root):
    return root / ANNOTATIONS


class TestReading:
    def test_a_video(self, root):
        videos = read_msrvtt(root)
        assert list(videos) == [f"video{i}" for i in range(91)]
        assert videos["video64"] == AnnotatedVideo(
            id="video64",
            url="https://www.youtube.com/watch?v=source00063",
            start=16.0,
            end=26.0,
            category=4,
            split="val",
            captions=(sentence(64, 0), sentence(64, 1), sentence(64, 2)),
        )
        assert videos["video64"].source == "source00063" == videos["video63"].source != videos["video65"].source
        with pytest.raises(FrozenInstanceError):
            videos["video0"].split = "test"

    def test_any_form_of_the_same_files_reads_the_same(self, root, folder, tmp_path):
        zips = read_msrvtt(root)
        assert read_msrvtt(folder) == zips  # the dataset's own folder
        plain, whole = tmp_path / "plain", tmp_path / "whole"
        plain.mkdir(), whole.mkdir()
        both = {"videos": [], "sentences": []}
        for name in (TRAIN_VAL, TEST):
            with zipfile.ZipFile(folder / name) as archive:
                (member,) = [n for n in archive.namelist() if n.endswith(".json")]
                data = json.loads(archive.read(member))
            (plain / member).write_text(json.dumps(data))
            for key in both:
                both[key] += data[key]
        (whole / "MSRVTT_data.json").write_text(json.dumps(both))
        assert read_msrvtt(plain) == zips == read_msrvtt(whole)
        (folder / TEST).unlink()
        assert len(read_msrvtt(root)) == 68

    def test_the_folder_comes_from_the_environment(self, root, monkeypatch):
        monkeypatch.setenv("VTRLIB_DATA", str(root))
        assert read_msrvtt() == read_msrvtt(root)


class TestProtocols:
    def test_official(self, root):
        splits = msrvtt_protocol("official", root)
        assert {s: len(v) for s, v in splits.items()} == {"train": 61, "val": 7, "test": 23}
        for name, videos in splits.items():
            assert {v.split for v in videos} == {name} and all(len(v.captions) == 3 for v in videos)

    @pytest.mark.parametrize("name, train", [("1k-A-9k", 86), ("1k-A-7k", 68)])
    def test_1k_a(self, root, name, train):
        splits = msrvtt_protocol(name, root)
        assert [v.id for v in splits["train"]] == [f"video{i}" for i in range(train)] and splits["val"] == ()
        assert splits["train"][5] == read_msrvtt(root)["video5"]
        assert [(v.id, v.captions) for v in splits["test"]] == [
            (f"video{i}", (sentence(i, 9),)) for i in range(86, 91)
        ]  # the list's sentence, which is none of the video's captions here

    def test_half_a_dataset_has_no_official_test(self, root, folder):
        (folder / TEST).unlink()
        with pytest.raises(ValueError, match=r"no videos of test; found 68 of other splits.*test_videodatainfo"):
            msrvtt_protocol("official", root)
        assert len(read_msrvtt(root)) == 68

    def test_unknown(self, root):
        with pytest.raises(ValueError, match="name='1k-A-9'.*Did you mean '1k-A-9k'"):
            msrvtt_protocol("1k-A-9", root)


def broken(key, value, n=2):
    """A fault in entry n of videos or sentences."""

    def plant(data):
        part, field = key.split("/")
        if value is KeyError:
            del data[part][n][field]
        else:
            data[part][n][field] = value

    return plant


class TestBadFiles:
    @pytest.mark.parametrize(
        "plant, says",
        [
            (broken("videos/url", KeyError), r"videos\[2\]: url: missing, expected text"),
            (broken("videos/url", ""), r"videos\[2\]: url: found ''"),
            (broken("videos/start time", "0"), r"videos\[2\]: start time: found '0', expected a number"),
            (broken("videos/category", True), r"videos\[2\]: category: found True, expected an integer"),
            (broken("videos/category", 20), r"videos\[2\] \(video2\): category: found 20, expected 0 to 19"),
            (broken("videos/split", "val"), r"videos\[2\] \(video2\): split: found 'val', expected train or validate"),
            (broken("videos/end time", 0.25), r"videos\[2\] \(video2\): start 0.5, end 0.25"),
            (broken("videos/end time", float("nan")), r"videos\[2\] \(video2\): start 0.5, end nan"),
            (broken("videos/video_id", "video5"), "videos: video5: found more than once"),
            (broken("sentences/caption", None), r"sentences\[2\]: caption: found None, expected text"),
            (broken("sentences/caption", "  "), r"sentences\[2\]: caption: found '  '"),
            (broken("sentences/video_id", "video999"), r"sentences: 1 of 204 are about videos.*: video999\."),
            (lambda d: d["videos"].__setitem__(3, "video3"), r"videos\[3\]: found 'video3', expected an object"),
            (lambda d: d.pop("sentences"), "expected an object with the lists videos and sentences"),
            (
                lambda d: d.update(videos=[v for v in d["videos"] if v["id"] % 10]),
                r"sentences: 21 of 204 are about.*: video60, video50, video40, video30, video20, … \(7 in all\)",
            ),
            (
                lambda d: d.update(sentences=[s for s in d["sentences"] if s["video_id"] not in ("video4", "video9")]),
                "videos: video4, video9: without a sentence",
            ),
        ],
    )
    def test_an_entry_is_named(self, root, folder, plant, says):
        data = entries(0, 61, "train")
        for key in ("videos", "sentences"):
            data[key] += entries(61, 68, "validate")[key]
        plant(data)
        zipped(folder / TRAIN_VAL, "train_val_videodatainfo.json", data)
        with pytest.raises(ValueError, match=rf"(?s){TRAIN_VAL}: {says}.*Get the file again"):
            read_msrvtt(root)

    def test_cut_off_zip(self, root, folder):
        data = (folder / TEST).read_bytes()
        (folder / TEST).write_bytes(data[: len(data) // 2])
        with pytest.raises(ValueError, match=rf"{TEST}: cannot be read \(.*zip.*\).*Get the file again.*sha256"):
            read_msrvtt(root)

    def test_damaged_zip(self, root, folder):
        data = bytearray((folder / TEST).read_bytes())
        data[len(data) // 2] ^= 0xFF
        (folder / TEST).write_bytes(data)
        with pytest.raises(ValueError, match=rf"{TEST}: cannot be read"):
            read_msrvtt(root)

    def test_zip_with_other_things(self, root, folder):
        with zipfile.ZipFile(folder / TEST, "w") as archive:
            archive.writestr("readme.txt", "nothing else")
        with pytest.raises(ValueError, match=rf"{TEST}: cannot be read \(holds no json, expected one json\)"):
            read_msrvtt(root)

    @pytest.mark.parametrize("content", [b"", b'{"videos": [', b"\xff\xfe{}", b"[1, 2]"])
    def test_broken_json(self, root, folder, content):
        (folder / "test_videodatainfo.json").write_bytes(content)  # the plain file goes before the zip
        with pytest.raises(ValueError, match=r"test_videodatainfo\.json: (cannot be read|expected an object)"):
            read_msrvtt(root)

    def test_the_same_videos_in_both_files(self, root, folder):
        zipped(folder / TEST, "test_videodatainfo.json", entries(60, 70, "test"))
        with pytest.raises(ValueError, match=rf"{TEST}: video60, .*\(8 in all\): also in {TRAIN_VAL}"):
            read_msrvtt(root)

    def test_nothing_there(self, root, folder):
        (folder / TEST).unlink(), (folder / TRAIN_VAL).unlink()
        with pytest.raises(
            FileNotFoundError, match="holds no annotations. Expected MSRVTT_data.json, or train_val_ann"
        ):
            read_msrvtt(root)

    @pytest.mark.parametrize(
        "lines, says",
        [
            (
                ["video_id", "video1", "video200", "video3", "video300"],
                r"2 of 4 ids are not in.*: video200, video300\.",
            ),
            (["video_id", "video1", "video1"], "row 3: video1: found twice"),
            (["video_id", "video1", " "], r"row 3: found \[' '\], expected video_id"),
            (["id", "video1"], "no column video_id; found id"),
            (["video_id"], "no rows"),
            (["video_id", "video90"], r"video90: also in MSRVTT_JSFUSION_test\.csv"),
            (["video_id", '"video1'], "cannot be read"),
        ],
    )
    def test_lists(self, root, folder, lines, says):
        write_list(folder / "MSRVTT_train.9k.csv", lines)
        with pytest.raises(ValueError, match=rf"MSRVTT_train\.9k\.csv: {says}"):
            msrvtt_protocol("1k-A-9k", root)

    def test_list_with_a_row_cut_off(self, root, folder):
        write_list(folder / "MSRVTT_JSFUSION_test.csv", ["key,vid_key,video_id,sentence", "ret0,msr86,video86"])
        with pytest.raises(ValueError, match=r"row 2: found .*'video86', None\], expected video_id and sentence"):
            msrvtt_protocol("1k-A-7k", root)

    def test_missing_list(self, root, folder):
        (folder / "MSRVTT_train.7k.csv").unlink()
        with pytest.raises(FileNotFoundError, match=r"MSRVTT_train\.7k\.csv: missing"):
            msrvtt_protocol("1k-A-7k", root)
        assert len(msrvtt_protocol("1k-A-9k", root)["train"]) == 86

    def test_list_of_another_system(self, root, folder):
        """A byte-order mark and carriage returns are no fault."""
        path = folder / "MSRVTT_train.7k.csv"
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
        assert len(msrvtt_protocol("1k-A-7k", root)["train"]) == 68


class TestSplitsBySource:
    @pytest.mark.parametrize(
        "url",
        [
            "https://www.youtube.com/watch?v=9lZi22qLlEo",
            "http://youtube.com/watch?feature=share&v=9lZi22qLlEo&t=12s",
            "https://m.youtube.com/watch?v=9lZi22qLlEo#t=3",
            "https://youtu.be/9lZi22qLlEo?t=3",
            "https://www.youtube.com/embed/9lZi22qLlEo",
            " https://www.youtube.com/shorts/9lZi22qLlEo/",
        ],
    )
    def test_one_film_under_many_addresses(self, url):
        assert source_of(url) == "9lZi22qLlEo"

    @pytest.mark.parametrize("url", ["https://example.org/watch?v=abc", "clip-17", "https://www.youtube.com/feed"])
    def test_other_addresses_stand_for_themselves(self, url):
        assert source_of(url) == url

    def test_no_source_is_in_two_splits(self, root):
        videos = list(read_msrvtt(root).values())
        splits = split_by_source(videos)
        sources = [{v.source for v in part} for part in splits.values()]
        assert sum(map(len, sources)) == len(set.union(*sources)) == len({v.source for v in videos}) < len(videos)
        assert sorted(v.id for part in splits.values() for v in part) == sorted(v.id for v in videos)
        assert all(list(part) == [v for v in videos if v in part] for part in splits.values())  # in their order

    def test_a_split_is_fixed_and_does_not_depend_on_the_others(self):
        """The counts are written down: other values would silently be another split."""
        names = [f"clip {i}" for i in range(10_000)]
        drawn = [split_of(name) for name in names]
        assert Counter(drawn) == {"train": 7005, "val": 963, "test": 2032}
        for name, split in zip(names[:500], drawn, strict=False):  # the definition, in fractions
            u = Fraction(int(hashlib.sha256(name.encode()).hexdigest()[:16], 16), 2**64)
            assert split == ("train" if u < Fraction(7, 10) else "val" if u < Fraction(8, 10) else "test")

    def test_shares(self):
        names = [f"clip {i}" for i in range(2000)]
        assert {split_of(n, (0, 100, 0)) for n in names} == {"val"} and {split_of(n, (0, 0, 100)) for n in names} == {
            "test"
        }
        narrow = {n for n in names if split_of(n, (30, 30, 40)) == "train"}
        assert 500 < len(narrow) < 700 and narrow < {n for n in names if split_of(n) == "train"}
        for shares in ((70, 10, 10), (120, -30, 10), (100,)):
            with pytest.raises(ValueError, match="expected three numbers from 0 that sum to 100"):
                split_of("x", shares)

    @pytest.mark.parametrize("number", [1, 2, 7, 40])
    def test_what_is_held_out_is_decided_by_sources_alone(self, root, number):
        videos = list(read_msrvtt(root).values())
        rest, held = hold_out(videos, number)
        assert [v for v in videos if v not in held] == list(rest) and [v for v in videos if v in held] == list(held)
        assert not {v.source for v in rest} & {v.source for v in held}
        assert 0 <= number - len(held) <= 1  # sources here have one or two videos
        order = sorted({v.source for v in videos}, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
        assert {v.source for v in held} >= set(order[: number // 2])
        assert {v.id for v in hold_out(reversed(videos), number)[1]} == {v.id for v in held}

    def test_too_much_or_too_little_to_hold_out(self, root):
        videos = list(read_msrvtt(root).values())
        with pytest.raises(ValueError, match="number=91: leaves 0 of 91 clips"):
            hold_out(videos, len(videos))
        twins = [v for v in videos if v.source == videos[0].source]
        with pytest.raises(ValueError, match="holds 0 out, expected some of both"):
            hold_out(twins, 1)
        with pytest.raises(ValueError, match="number=0: expected at least 1"):
            hold_out(videos, 0)


@pytest.mark.skipif("VTRLIB_DATA" not in os.environ, reason="VTRLIB_DATA is not set: no real annotations")
class TestRealAnnotations:
    def test_counts(self):
        videos = read_msrvtt()
        assert len(videos) == 10_000 and {len(v.captions) for v in videos.values()} == {20}
        assert len({v.source for v in videos.values()}) == len({v.url for v in videos.values()}) == 7_180
        assert {v.category for v in videos.values()} == set(range(len(CATEGORIES)))
        assert videos["video2960"].captions[0] == "a cartoon animals runs through an ice cave in a video game"
        official = msrvtt_protocol("official")
        assert {s: len(v) for s, v in official.items()} == {"train": 6_513, "val": 497, "test": 2_990}
        assert len({v.source for part in official.values() for v in part}) == sum(
            len({v.source for v in part}) for part in official.values()
        )

    @pytest.mark.parametrize("name, train, shared", [("1k-A-9k", 9_000, 372), ("1k-A-7k", 7_010, 0)])
    def test_1k_a(self, name, train, shared):
        splits, videos = msrvtt_protocol(name), read_msrvtt()
        assert len(splits["train"]) == train and len(splits["test"]) == 1_000
        assert {v.split for v in splits["test"]} == {"test"}
        known = {v.source for v in splits["train"]}
        assert sum(v.source in known for v in splits["test"]) == shared  # as its data card says
        assert sum(v.captions[0] not in videos[v.id].captions for v in splits["test"]) == 35
