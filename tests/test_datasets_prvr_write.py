"""Partial relevance: what is written is what is read, and is written whole or not at all."""

from __future__ import annotations

import ast
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from small_prvr import COLLECTION, GOLDEN, small_prvr

from vtrlib.datasets.prvr import Caption, PartialRelevance, Truth, open_features, read_captions, write_layout


def contents(videos=5, width=7, words=3):
    """Arguments of `write_layout`: videos of 1, 2, … frames, two captions each, the last video in "val"."""
    random = np.random.default_rng(0)
    frames = [(f"v_{n}", random.normal(size=(n + 1, width)).astype(np.float32)) for n in range(videos)]
    captions = [Caption(f"{video}#enc#{k}", f"caption {k} of {video}") for video, _ in frames for k in range(2)]
    return {
        "frames": frames,
        "captions": {"train": captions[:-2], "val": captions[-2:]},
        "words": [(c.id, random.normal(size=(k % 4 + 1, words)).astype(np.float32)) for k, c in enumerate(captions)],
    }


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


class TestRoundTrip:
    @pytest.mark.parametrize("source", ["bin", "hdf5"])
    def test_what_is_written_is_read(self, tmp_path, source):
        given = contents()
        truth = {"val": {c.id: Truth((c.video,), (1, 3)) for c in given["captions"]["val"]}}
        layout = write_layout(tmp_path, "mine", **given, truth=truth, hdf5=True)
        assert layout.splits() == ("train", "val")
        with open_features(layout.features, source) as stored:
            assert stored.width == 7 and stored.lengths == {f"v_{n}": n + 1 for n in range(5)}
            for video, rows in given["frames"]:
                assert np.array_equal(stored.read(video), rows)
                assert stored.read(video).dtype == (np.float32 if source == "bin" else np.float64)
        for split, captions in given["captions"].items():
            assert list(read_captions(layout.captions(split))) == captions
        data = PartialRelevance(tmp_path, "mine", "val", source=source)
        assert len(data) == 1 and data.truth[1].moment == (1, 3) and data.true_positives.tolist() == [[True], [True]]
        with h5py.File(layout.words) as store:
            assert all(np.array_equal(store[name][...], rows) for name, rows in given["words"])

    def test_the_published_form(self, tmp_path):
        """What released loaders rely on, read as they read it."""
        layout = write_layout(tmp_path, "mine", **contents(), feature="i3d")
        folder = tmp_path / "mine" / "FeatureData" / "i3d"
        assert layout.features == folder and (folder / "shape.txt").read_text().split("\n")[0] == "15 7"
        names = [str(name, encoding="ISO-8859-1") for name in (folder / "id.txt").read_bytes().strip().split()]
        frames = ast.literal_eval((folder / "video2frames.txt").read_text())
        assert frames["v_2"] == ["v_2_0", "v_2_1", "v_2_2"] and len(names) == 15
        row = np.fromfile(folder / "feature.bin", np.float32).reshape(15, 7)[names.index("v_2_1")]
        assert np.array_equal(row, contents()["frames"][2][1][1])
        line = (tmp_path / "mine" / "TextData" / "minetrain.caption.txt").read_text().splitlines()[3]
        assert line.strip().split(" ", 1) == ["v_1#enc#1", "caption 1 of v_1"]

    def test_golden(self, tmp_path):
        """A collection copied by reading and writing it gives the same batches."""
        root = small_prvr(tmp_path / "data").parent
        ids = {s: GOLDEN["captions"]["val" if s == "test" else s] for s in ("train", "val", "test")}
        write_layout(
            tmp_path / "copy", COLLECTION,
            frames=((video, entry["raw"].numpy()) for video, entry in GOLDEN["videos"].items()),
            captions={s: [Caption(i, "words") for i in names] for s, names in ids.items()},
            words=((name, rows.numpy()) for name, rows in GOLDEN["words"].items()),
        )  # fmt: skip
        one, two = (PartialRelevance(place, COLLECTION, "val") for place in (root, tmp_path / "copy"))
        for a, b in zip(one, two, strict=True):
            assert torch.equal(a.frames, b.frames) and a.caption_ids == b.caption_ids
            assert all(torch.equal(x, y) for x, y in zip(a.words, b.words, strict=True))

    def test_the_same_bytes(self, tmp_path):
        one, two = (write_layout(tmp_path / n, "mine", **contents(), hdf5=True, made={"n": 1}) for n in "ab")
        assert files(one.folder) == files(two.folder) and len(files(one.folder)) == 9


class TestWhole:
    def test_a_failure_leaves_nothing(self, tmp_path):
        def broken():
            yield from contents()["words"][:3]
            raise RuntimeError("no more")

        with pytest.raises(RuntimeError, match="no more"):
            write_layout(tmp_path, "mine", **contents() | {"words": broken()})
        assert list(tmp_path.iterdir()) == []

    def test_what_was_there_stays(self, tmp_path):
        before = files(write_layout(tmp_path, "mine", **contents()).folder)
        with pytest.raises(FileExistsError, match=r"mine: exists\. Choose another name, or say replace=True"):
            write_layout(tmp_path, "mine", **contents(4))
        with pytest.raises(ValueError, match="words: missing for 2 captions"):
            write_layout(tmp_path, "mine", **contents(4) | {"words": contents(3)["words"]}, replace=True)
        assert files(tmp_path / "mine") == before and [p.name for p in tmp_path.iterdir()] == ["mine"]
        write_layout(tmp_path, "mine", **contents(4), replace=True)
        assert len(PartialRelevance(tmp_path, "mine")) == 3 and [p.name for p in tmp_path.iterdir()] == ["mine"]

    def test_two_at_once(self, tmp_path):
        def frames(made):
            yield from contents()["frames"]
            write_layout(tmp_path, "mine", **contents(), made=made)  # is faster

        write_layout(tmp_path, "mine", **contents() | {"frames": frames({"n": [1]})}, made={"n": [1]})
        assert len(PartialRelevance(tmp_path, "mine")) == 4 and [p.name for p in tmp_path.iterdir()] == ["mine"]
        with pytest.raises(FileExistsError, match="other: exists"):
            broken = contents() | {"frames": self.other(tmp_path)}
            write_layout(tmp_path, "other", **broken, made={"n": [1]})

    @staticmethod
    def other(tmp_path):
        yield from contents()["frames"]
        write_layout(tmp_path, "other", **contents(3), made={"n": [2]})


NAN, SQUARE = np.full((2, 7), np.nan, np.float32), np.ones((2, 2), np.float32)


@pytest.mark.parametrize(
    "change, says",
    [
        ({"frames": []}, "frames: found none"),
        (
            {"frames": contents()["frames"][1:]},
            r"frames: missing for 1 videos \(v_0\), there for 0 unknown ones \(none",
        ),
        ({"frames": [*contents()["frames"], ("v_9", NAN * 0 + 1)]}, r"frames: 'v_9': NaN"),
        ({"frames": [*contents()["frames"], ("v_9", np.ones((2, 7)))]}, r"there for 1 unknown ones \(v_9\)"),
        ({"frames": [*contents()["frames"], ("v_1", np.ones((2, 7)))]}, "frames: 'v_1': found twice"),
        ({"frames": [("v_0", np.ones((0, 7)))]}, r"frames: 'v_0': shape \(0, 7\), expected \(rows, 7\)"),
        ({"frames": [("v_0", np.ones((2, 7))), ("v_1", SQUARE)]}, r"'v_1': shape \(2, 2\), expected \(rows, 7\)"),
        ({"frames": [("v 0", np.ones((2, 7)))]}, "frames: id 'v 0': expected printable ASCII without blanks"),
        ({"frames": [("v#0", np.ones((2, 7)))]}, "frames: id 'v#0': expected .* no '#'"),
        ({"frames": [("vidéo", np.ones((2, 7)))]}, "frames: id 'vidéo': expected printable ASCII"),
        ({"frames": [("a/b", np.ones((2, 7)))]}, "frames: id 'a/b': expected"),
        ({"words": [*contents()["words"], ("v_9#0", np.ones((2, 3)))]}, r"words: .* 1 unknown ones \(v_9#0\)"),
        ({"words": [("v_0", np.ones((2, 3)))]}, "words: id 'v_0': expected .*'<video id>#<anything>'"),
        ({"captions": {"train": []}}, "captions: 'train' has none"),
        ({"captions": {"train": [Caption("v_0", "text")]}}, "caption: id 'v_0': expected .*'<video id>#"),
        ({"captions": {"train": [Caption("#0", "text")]}}, "caption: id '#0': expected"),
        ({"captions": {"train": [Caption("v_0#0", "")]}}, "captions: v_0#0: '': expected one line"),
        ({"captions": {"train": [Caption("v_0#0", "two\nlines")]}}, r"'two\\nlines': expected one line"),
    ],
)
def test_bad_contents(tmp_path, change, says):
    with pytest.raises(ValueError, match=says):
        write_layout(tmp_path, "mine", **contents() | change)
    assert list(tmp_path.iterdir()) == []
