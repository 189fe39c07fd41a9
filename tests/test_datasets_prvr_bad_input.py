"""Partial relevance: every file that can be wrong is named, with what was found and what to do."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from small_prvr import COLLECTION, FEATURE, small_prvr

from vtrlib.datasets.prvr import PartialRelevance, open_features, read_captions, read_truth

BIN, SHAPE, IDS, FRAMES, HDF5 = "feature.bin", "shape.txt", "id.txt", "video2frames.txt", "feature.hdf5"


@pytest.fixture
def root(tmp_path):
    return small_prvr(tmp_path / "data").parent


@pytest.fixture
def features(root):
    return root / COLLECTION / "FeatureData" / FEATURE


@pytest.fixture
def texts(root):
    return root / COLLECTION / "TextData"


@pytest.fixture
def words(texts):
    return texts / "roberta_charades_query_feat.hdf5"


def read(root, split="train", **settings):
    return PartialRelevance(root, COLLECTION, split, **settings)


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


class TestCaptions:
    @pytest.mark.parametrize(
        "old, new, says",
        [
            ("TR02#enc#1 ", "TR02-enc-1 ", r"line 7: found 'TR02-enc-1 a person .*', expected '<video id>#<any"),
            ("TR02#enc#1 ", "#enc#1 ", r"line 7: found '#enc#1 a person"),
            ("TR02#enc#1 a", "\nTR02#enc#1 a", r"line 7: found '', expected"),
            ("TR02#enc#1 a person opens door 6", "TR02#enc#1", r"line 7: caption 'TR02#enc#1' has no sentence"),
            ("TR02#enc#1 a person opens door 6", "TR02#enc#1   ", r"line 7: caption 'TR02#enc#1' has no sentence"),
            ("TR02#enc#1 ", "TR02#enc#0 ", r"line 7: caption id 'TR02#enc#0' also stands in line 6, expected once"),
        ],
    )
    def test_bad_line(self, root, texts, old, new, says):
        edit(texts / "charadestrain.caption.txt", old, new)
        with pytest.raises(ValueError, match=r"charadestrain\.caption\.txt: " + says):
            read(root)

    def test_bad_file(self, root, texts):
        path = texts / "charadestrain.caption.txt"
        path.write_bytes(b"TR00#enc#0 caf\xe9\n")
        with pytest.raises(ValueError, match=r"charadestrain\.caption\.txt: no UTF-8 text"):
            read(root)
        path.write_bytes(b"")
        with pytest.raises(ValueError, match="is empty, expected a caption a line"):
            read(root)
        path.unlink()
        with pytest.raises(
            FileNotFoundError, match=r"train\.caption\.txt: there is no such file, only charadestest\.cap"
        ):
            read(root)

    def test_odd_but_right(self, tmp_path):
        path = tmp_path / "odd.txt"
        path.write_bytes("\ufeffv_1#enc#0 one  two\u2028three\r\nv_1#x tab\there # hash\n".encode())
        one, two = read_captions(path)
        assert (one.id, one.text, two.text) == ("v_1#enc#0", "one  two\u2028three", "tab\there # hash")

    @pytest.mark.parametrize("source", ["bin", "hdf5"])
    def test_caption_without_features(self, root, texts, source):
        with (texts / "charadestrain.caption.txt").open("a") as stream:
            stream.write("TR77#enc#0 a stranger waves\nTR78#enc#0 another\n")
        says = r"train\.caption\.txt: 2 of 14 videos have no features in .*i3d_rgb_lgi: TR77, TR78\. Expected"
        with pytest.raises(ValueError, match=says):
            read(root, source=source)

    def test_features_without_caption(self, root, texts):
        path = texts / "charadestrain.caption.txt"
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(line for line in lines if not line.startswith("TR02#")))
        with pytest.raises(ValueError, match=r"i3d_rgb_lgi: 1 videos that no caption file .*names: TR02\..*extra='ign"):
            read(root)
        assert len(read(root, extra="ignore")) == 11
        path.write_text("".join(line for line in lines if not line.startswith("TR02#enc#1")))
        with pytest.raises(ValueError, match=r"feat\.hdf5: 1 captions that no .*names: TR02#enc#1\."):
            read(root)
        assert len(read(root, extra="ignore").captions) == 29

    def test_no_collection(self, root):
        with pytest.raises(FileNotFoundError, match=r"charade: there is no such folder; expected one of these: charad"):
            PartialRelevance(root, "charade")
        shutil.rmtree(root / COLLECTION / "FeatureData")
        with pytest.raises(FileNotFoundError, match="FeatureData: holds nothing, expected a folder with frame feat"):
            read(root)

    def test_bad_settings(self, root):
        with pytest.raises(ValueError, match="source='binary': expected one of 'auto', 'bin', 'hdf5'"):
            read(root, source="binary")
        with pytest.raises(ValueError, match="extra='skip': expected one of 'error', 'ignore'"):
            read(root, extra="skip")


class TestBinary:
    @pytest.mark.parametrize("name", [SHAPE, IDS, FRAMES])
    def test_missing_file(self, root, features, name):
        (features / name).unlink()
        with pytest.raises(FileNotFoundError, match=rf"{name}: there is no such file; .* lacks {name}\. Expected"):
            read(root)

    def test_nothing_there(self, features):
        (features / BIN).unlink(), (features / HDF5).unlink()
        with pytest.raises(FileNotFoundError, match=r"feature\.hdf5: there is no such file"):
            open_features(features)

    @pytest.mark.parametrize("shape", ["", "24", "2781 24 1", "2781 x", "-2781 24", "0 24", "2781.0 24"])
    def test_bad_shape(self, root, features, shape):
        (features / SHAPE).write_text(shape + "\n")
        with pytest.raises(ValueError, match=r"shape\.txt: line 1: found '.*', expected '<rows> <width>'"):
            read(root)

    def test_shape_that_differs(self, root, features):
        (features / SHAPE).write_text("2781 25\n")
        with pytest.raises(ValueError, match=r"266,976 bytes, expected 2,781 × 25 × 4 = 278,100 by shape\.txt"):
            read(root)
        (features / SHAPE).write_text("2780 24\n")
        with pytest.raises(ValueError, match="266,976 bytes, expected 2,780 × 24 × 4 = 266,880"):
            read(root)

    @pytest.mark.parametrize("bytes_", [0, 100, 266_975])
    def test_cut_off(self, root, features, bytes_):
        (features / BIN).write_bytes((features / BIN).read_bytes()[:bytes_])
        with pytest.raises(ValueError, match=rf"feature\.bin: {bytes_:,} bytes, expected 2,781 × 24 × 4.*cut off"):
            read(root)

    def test_ids_that_differ(self, root, features):
        ids = (features / IDS).read_text().split()
        (features / IDS).write_text(" ".join(ids[:-1]))
        with pytest.raises(ValueError, match=r"id\.txt: 2,780 ids, expected 2,781 by shape\.txt"):
            read(root)
        (features / IDS).write_text(" ".join([*ids[:-1], ids[4]]))
        with pytest.raises(ValueError, match=rf"id\.txt: {ids[4]}: found more than once"):
            read(root)
        (features / IDS).write_text(" ".join([*ids[:-1], "XX_0"]))
        with pytest.raises(ValueError, match=rf"video2frames\.txt: 1 frames have no features: {ids[-1]}\."):
            read(root)

    def test_rows_of_no_video(self, root, features):
        edit(features / FRAMES, "'TR01_0', ", "")
        says = r"1 rows that no caption file \(of rows: no video2frames\.txt\) names: TR01_0\."
        with pytest.raises(ValueError, match=says):
            read(root)
        assert read(root, extra="ignore").lengths[1] == 4

    @pytest.mark.parametrize(
        "text, says",
        [
            ("", "is no dictionary of names"),
            ("{'TR00': ['TR00_0'", "is no dictionary of names"),
            ("[1, 2]", r"found \[1, 2\], expected"),
            ("{}", r"found \{\}, expected"),
            ("{'TR00': 'TR00_0'}", "'TR00': 'TR00_0', expected"),
            ("{'TR00': [0]}", r"'TR00': \[0\], expected"),
            ("{0: ['TR00_0']}", r"0: \['TR00_0'\], expected"),
            ("{[]: 1}", "is no dictionary of names"),
            ("(" * 500 + ")" * 500, "is no dictionary of names"),
            ("-" * 100_000 + "1", "is no dictionary of names"),
            ("{'TR00': []}", "TR00: without frames, expected at least one"),
            ("{'TR00': ['TR00_0', 'TR00_0']}", "TR00_0: found more than once"),
            ("{'TR00': ['TR00_0'], 'TR01': ['TR00_0']}", "TR00_0: found more than once"),
            ("{'TR00': ['TR00_0'], 'TR00': ['TR01_0']}", "TR00: found more than once"),
        ],
    )
    def test_malformed_video2frames(self, root, features, text, says):
        (features / FRAMES).write_text(text)
        with pytest.raises(ValueError, match=r"video2frames\.txt: " + says):
            read(root)

    @pytest.mark.parametrize(
        "hostile",
        [
            "__import__('os').system('touch {}')",
            "{{'TR00': [__import__('pathlib').Path('{}').touch()]}}",
            "{{**__import__('os').environ, 'TR00': [open('{}', 'w')]}}",
            "[open('{}', 'w') for _ in [0]]",
            "(lambda: open('{}', 'w'))()",
        ],
    )
    def test_hostile_video2frames_is_not_run(self, root, features, tmp_path, hostile):
        text = hostile.format(tmp_path / "ran")
        (features / FRAMES).write_text(text)
        with pytest.raises(ValueError, match=r"video2frames\.txt: is no dictionary of names \(malformed node"):
            read(root)
        assert not (tmp_path / "ran").exists()
        eval(text)  # the control: the released code would have
        assert (tmp_path / "ran").exists()

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_not_finite(self, root, features, value):
        array = np.fromfile(features / BIN, np.float32).reshape(2781, 24)
        array[40, 7] = value  # rows 0, 1-5, 6-36, 37-68: TR00 to TR03
        array[44, 7] = value
        array.tofile(features / BIN)
        says = r"feature\.bin: video 'TR03', frame 3 \(row 40\): NaN or infinity, in 2 of its 32 frames"
        with pytest.raises(ValueError, match=says):
            read(root)
        assert len(read(root, source="hdf5")) == 12


class TestHdf5:
    def test_missing(self, root, features):
        (features / HDF5).unlink()
        with pytest.raises(FileNotFoundError, match=r"feature\.hdf5: there is no such file"):
            read(root, source="hdf5")

    def test_alone(self, root, features):
        for name in (BIN, SHAPE, IDS, FRAMES):
            (features / name).unlink()
        assert len(read(root)) == 12

    @pytest.mark.parametrize("bytes_", [0, 100, 400_000])
    def test_cut_off(self, root, features, bytes_):
        (features / HDF5).write_bytes((features / HDF5).read_bytes()[:bytes_])
        with pytest.raises(ValueError, match=rf"feature\.hdf5: {bytes_:,} bytes, cannot be read as HDF5"):
            read(root, source="hdf5")

    @pytest.mark.parametrize(
        "value, says",
        [
            (np.zeros((0, 24)), "TR04: without frames"),
            (np.zeros(24), r"'TR04': found \(24,\) float64, expected rows of floating"),
            (np.zeros((3, 24), int), r"'TR04': found \(3, 24\) int64, expected rows of floating"),
            (np.zeros((3, 23)), "TR04: of another width than 24"),
            (np.full((3, 24), np.nan), r"video 'TR04', frame 0 \(row 0\): NaN or infinity, in 3 of its 3"),
            (None, r"caption\.txt: 1 of 12 videos have no features in .*: TR04\."),
            ("group", "'TR04': found a group, expected rows"),
            (h5py.SoftLink("/gone"), "'TR04': a link to nowhere"),
        ],
    )
    def test_bad_dataset(self, root, features, value, says):
        with h5py.File(features / HDF5, "r+") as store:
            del store["TR04"]
            if isinstance(value, str):
                store.create_group("TR04")
            elif value is not None:
                store["TR04"] = value
        with pytest.raises(ValueError, match=says):
            read(root, source="hdf5")

    def test_empty(self, root, features):
        h5py.File(features / HDF5, "w").close()
        with pytest.raises(ValueError, match=r"feature\.hdf5: holds no video"):
            read(root, source="hdf5")


class TestWords:
    @pytest.mark.parametrize(
        "value, says",
        [
            (None, r"lacks 1 of 30 captions: TR02#enc#1\. Expected features for each"),
            (np.zeros((0, 20), np.float32), "TR02#enc#1: without words, expected at least one"),
            (np.zeros(20, np.float32), r"'TR02#enc#1': found \(20,\) float32, expected rows"),
            (np.zeros((2, 21), np.float32), "TR02#enc#1: of another width than 20"),
            (np.full((2, 20), np.inf, np.float32), r"caption 'TR02#enc#1', word 0 \(row 0\): NaN or infinity"),
        ],
    )
    def test_bad_dataset(self, root, words, value, says):
        with h5py.File(words, "r+") as store:
            del store["TR02#enc#1"]
            if value is not None:
                store["TR02#enc#1"] = value
        with pytest.raises(ValueError, match=r"query_feat\.hdf5: .*" + says):
            read(root)
        assert len(read(root, "val")) == 23  # whose captions are all well

    def test_missing(self, root, words):
        words.unlink()
        with pytest.raises(FileNotFoundError, match=r"roberta_charades_query_feat\.hdf5: there is no such file"):
            read(root)

    def test_cut_off(self, root, words):
        words.write_bytes(words.read_bytes()[:-1000])
        with pytest.raises(ValueError, match=r"feat\.hdf5: [\d,]+ bytes, cannot be read as HDF5"):
            read(root)


class TestTruth:
    @pytest.mark.parametrize(
        "entry, says",
        [
            (None, "differs from the caption file in TR02#enc#1"),
            (7, "TR02#enc#1: found 7, expected a `Truth`"),
            ({"videos": ["TR02", 3]}, "TR02#enc#1: found"),
            ({"videos": ["TR02", "VA00"]}, "TR02#enc#1: VA00: not in the split"),
            ({"videos": ["TR01"]}, "TR02#enc#1: videos TR01: expected each once, and TR02 among them"),
            ({"videos": ["TR02", "TR02"]}, "expected each once"),
            ({"videos": ["TR02"], "moment": [3]}, r"moment \[3\], expected \[start, end\]"),
            ({"videos": ["TR02"], "moment": [3, 3]}, r"moment \[3, 3\], expected"),
            ({"videos": ["TR02"], "moment": [0, 32]}, r"moment \[0, 32\] in a video of 31 frames"),
        ],
    )
    def test_bad_entry(self, root, texts, entry, says):
        data = read(root)
        entries = {c.id: {"videos": [c.video], "moment": None} for c in data.captions}
        entries["TR02#enc#1"] = entry
        if entry is None:
            del entries["TR02#enc#1"]
        (texts / "charadestrain.truth.json").write_text(json.dumps(entries))
        with pytest.raises(ValueError, match=r"charadestrain\.truth\.json: .*" + says):
            data.truth  # noqa: B018

    @pytest.mark.parametrize("text, says", [("{", "cannot be read as JSON"), ("[]", "in no object; expected an entry")])
    def test_bad_file(self, root, texts, text, says):
        data, path = read(root), texts / "charadestrain.truth.json"
        path.write_text(text)
        with pytest.raises(ValueError, match=says):
            read_truth(path, data.captions)
