"""Frames of video files. Each frame of the clips made here is grey at a level that encodes its number."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from vtrlib.datasets import VideoError, cards, data_folder, decoding, frame_positions, read_frames, resize_frames

N, STEP = 29, 8
# Container, codec: with and without stored times, frame counts and reordered frames; the last has no times at all.
KINDS = [
    ("mp4", "libx264"), ("mp4", "mpeg4"), ("mov", "mpeg4"), ("avi", "libx264"), ("avi", "mpeg4"), ("avi", "mjpeg"),
    ("mkv", "libx264"), ("mkv", "ffv1"), ("webm", "libvpx-vp9"), ("webm", "libvpx"), ("ts", "libx264"),
    ("flv", "libx264"), ("gif", "gif"), ("h264", "libx264"),
]  # fmt: skip
FORMATS = {"mjpeg": "yuvj420p", "gif": "rgb8"}


def record(path, codec="libx264", pictures=None, size=(48, 32), gop=7, sound=False, movie=None, **options):
    """Write a clip of 25 frames a second; (W, H) = `size`; `pictures` are (H, W, 3) uint8."""
    if pictures is None:
        pictures = [np.full((size[1], size[0], 3), STEP * (i + 1), np.uint8) for i in range(N)]
    with av.open(str(path), "w", options=movie or {}) as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = *size, FORMATS.get(codec, "yuv420p")
        stream.options = {"g": str(gop), "threads": "1", **options}  # the same bytes for any number of cores
        voice = container.add_stream("aac", rate=8000, layout="mono") if sound else None
        for i, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = i
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if voice is not None:
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            silence.sample_rate, silence.pts = 8000, 0
            container.mux([*voice.encode(silence), *voice.encode()])
    return path


def numbers(frames):
    """The number of each frame, from its grey."""
    return (frames.float().mean((1, 2, 3)) / STEP - 1).round().int().tolist()


def independent_decode(path):
    """The oracle: every frame, by PyAV's shortest loop."""
    with av.open(str(path)) as container:
        return [torch.from_numpy(f.to_ndarray(format="rgb24")).permute(2, 0, 1) for f in container.decode(video=0)]


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    return {(kind, codec): record(folder / f"{codec}.{kind}", codec) for kind, codec in KINDS}


class TestPositions:
    @pytest.mark.parametrize("count", [1, 2, 5, 11, 12, 13, 29, 30, 97, 421])
    @pytest.mark.parametrize("frames", [1, 2, 5, 12])
    def test_rules_as_released(self, count, frames):
        assert frame_positions(count, frames).tolist() == np.linspace(0, count - 1, frames).astype(int).tolist()
        # X-Pool, step by step: edges, inclusive intervals, their middles, the last repeated
        taken = min(frames, count)
        edges = np.linspace(start=0, stop=count, num=taken + 1).astype(int)
        expected = [int(edges[k] + edges[k + 1] - 1) // 2 for k in range(taken)]
        assert frame_positions(count, frames, "middle").tolist() == expected + expected[-1:] * (frames - taken)

    def test_ends_are_the_ends_and_short_videos_repeat(self):
        assert frame_positions(29, 12)[[0, -1]].tolist() == [0, 28]
        assert frame_positions(3, 7).tolist() == [0, 0, 0, 1, 1, 1, 2]
        assert frame_positions(3, 7, "middle").tolist() == [0, 1, 2, 2, 2, 2, 2]
        assert frame_positions(12, 12).tolist() == list(range(12)) == frame_positions(12, 12, "middle").tolist()


class TestReading:
    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("rule", ["ends", "middle"])
    def test_any_container(self, clips, kind, rule):
        frames = read_frames(clips[kind], 7, rule=rule)
        assert frames.shape == (7, 3, 32, 48) and frames.dtype == torch.uint8
        assert numbers(frames) == frame_positions(N, 7, rule).tolist()

    @pytest.mark.parametrize("kind", KINDS)
    def test_frames_are_those_of_an_independent_pass(self, clips, kind):
        whole = independent_decode(clips[kind])
        assert torch.equal(read_frames(clips[kind], N), torch.stack(whole))

    @pytest.mark.parametrize("kind", KINDS)
    def test_stretches(self, clips, kind):
        """Start and end are times; frame i is shown at i / 25 s, whatever the container says or leaves out."""
        draw = random.Random(0)
        for _ in range(8):
            low = draw.randrange(N - 1)
            high = draw.randrange(low + 1, N)
            got = read_frames(clips[kind], 5, start=low / 25, end=high / 25)
            assert numbers(got) == [low + p for p in frame_positions(high - low, 5).tolist()]
        assert numbers(read_frames(clips[kind], 4, start=1)) == [25, 26, 27, 28]
        assert numbers(read_frames(clips[kind], 2, end=0.1)) == [0, 2]
        assert numbers(read_frames(clips[kind], 2, start=1, end=99)) == [25, 28]

    @pytest.mark.parametrize("kind", [("mp4", "libx264"), ("mkv", "libx264"), ("webm", "libvpx-vp9")])
    def test_a_jump_passes_over_frames_and_changes_nothing(self, clips, kind, monkeypatch):
        decoded, frames = [], decoding.frames

        def counting(path, since=None):
            for frame in frames(path, since):
                decoded.append(frame.time)
                yield frame

        monkeypatch.setattr(decoding, "frames", counting)
        fast = read_frames(clips[kind], 3, start=0.9, end=1.0)
        few = len(decoded)
        listing = decoding.packets(clips[kind])
        monkeypatch.setattr(decoding, "packets", lambda path: decoding.Packets(listing.count, None, None, None))
        assert torch.equal(read_frames(clips[kind], 3, start=0.9, end=1.0), fast)
        assert few <= 14 and len(decoded) - few > N  # a group of pictures and a little; then all, and all again

    def test_a_wrong_guess_is_corrected(self, clips, monkeypatch):
        """Packets may give no frame, headers lie: the count that decides is that of the frames."""
        path = clips["ts", "libx264"]
        for lie in (1, 17, N + 5):
            monkeypatch.setattr(decoding, "packets", lambda path, lie=lie: decoding.Packets(lie, None, None, None))
            assert numbers(read_frames(path, 5)) == frame_positions(N, 5).tolist()
        times = tuple(i / 25 for i in range(N))  # off by the stream's start, 0.08 s
        monkeypatch.setattr(decoding, "packets", lambda path: decoding.Packets(N, times, None, None))
        assert numbers(read_frames(path, 3, start=0.4, end=0.52)) == [10, 11, 12]

    def test_frames_that_an_edit_list_hides_do_not_count(self, clips, tmp_path):
        """As in clips cut out of a longer MP4 without encoding again."""
        path = tmp_path / "cut.mp4"
        with av.open(str(clips["mp4", "libx264"])) as source, av.open(str(path), "w") as target:
            stream = source.streams.video[0]
            copy = target.add_stream_from_template(stream)
            for packet in source.demux(stream):
                if packet.dts is not None:
                    shift = round(Fraction(10, 25) / stream.time_base)
                    packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, copy
                    target.mux(packet)
        with av.open(str(path)) as check:
            assert check.streams.video[0].frames > 19 == decoding.packets(path).count  # the header counts hidden ones
        assert numbers(read_frames(path, 19)) == list(range(10, 29))
        assert numbers(read_frames(path, 2, start=0.2, end=0.32)) == [15, 17]

    def test_times_out_of_order(self, tmp_path):
        """AVI stores no times; with reordered frames FFmpeg's guesses jump to and fro."""
        pictures = [np.full((48, 64, 3), STEP * (i + 1), np.uint8) for i in range(N)]
        for i, picture in enumerate(pictures):
            picture[10:20, i : i + 10] = 255 - STEP * i  # something moves, so frames are worth reordering
        path = record(tmp_path / "reordered.avi", pictures=pictures, size=(64, 48))
        with av.open(str(path)) as container:
            guesses = [frame.time for frame in container.decode(video=0)]
        assert guesses != sorted(guesses)
        whole = independent_decode(path)
        for low in range(0, N - 4, 3):
            got = read_frames(path, 4, start=low / 25, end=(low + 4) / 25)
            assert torch.equal(got, torch.stack(whole[low : low + 4]))

    def test_short_video_repeats_frames(self, tmp_path):
        path = record(tmp_path / "short.mkv", "ffv1", [np.full((32, 48, 3), STEP * i, np.uint8) for i in (1, 2, 3)])
        assert numbers(read_frames(path, 7)) == [0, 0, 0, 1, 1, 1, 2]
        one = record(tmp_path / "one.mp4", "mpeg4", [np.full((32, 48, 3), STEP, np.uint8)])
        assert numbers(read_frames(one, 3)) == [0, 0, 0]

    @pytest.mark.parametrize("turn, quarter", [((0, 1, -1, 0), -1), ((-1, 0, 0, -1), 2), ((0, -1, 1, 0), 1)])
    def test_pictures_are_upright(self, tmp_path, turn, quarter):
        """MP4's matrix (a, b, c, d) shows stored (x, y) at (ax + cy, bx + dy): (0, 1, -1, 0) is a turn clockwise."""
        picture = np.zeros((32, 48, 3), np.uint8)
        picture[:8, :12] = 200  # a light corner, top left
        path = record(tmp_path / "clip.mp4", "mpeg4", [picture] * 3)
        data = bytearray(path.read_bytes())
        matrix = data.index(b"tkhd") + 4 + 40  # version 0: 40 bytes before it
        for place, value in zip((0, 4, 12, 16), turn, strict=True):
            data[matrix + place : matrix + place + 4] = int(value * 65536).to_bytes(4, "big", signed=True)
        path.write_bytes(data)
        frames = read_frames(path, 2)
        expected = np.rot90(picture, quarter)
        assert frames.shape[2:] == expected.shape[:2]
        assert (frames[0].permute(1, 2, 0).numpy().astype(int) - expected).__abs__().max() < 24

    def test_odd_sizes(self, tmp_path):
        picture = np.full((19, 33, 3), (16, 120, 240), np.uint8)
        path = record(tmp_path / "odd.avi", "mpeg4", [picture] * 2, size=(33, 19))
        frames = read_frames(path, 3)
        assert frames.shape == (3, 3, 19, 33)
        assert (frames.float().mean((0, 2, 3)) - torch.tensor([16.0, 120, 240])).abs().max() < 6  # R, G, B in order
        assert read_frames(path, 3, (7, 11)).shape == (3, 3, 7, 11) and read_frames(path, 1, 5).shape == (1, 3, 5, 5)

    def test_first_video_stream_beside_sound(self, tmp_path):
        assert numbers(read_frames(record(tmp_path / "sound.mp4", sound=True), 4)) == frame_positions(N, 4).tolist()

    def test_memory_holds_the_frames_asked_for_and_no_others(self, tmp_path):
        """200 frames of 640×480 are 184 MB."""
        path = record(tmp_path / "long.mp4", "mpeg4", [np.zeros((480, 640, 3), np.uint8)] * 200, size=(640, 480))
        code = f"""
import resource
from vtrlib.datasets import read_frames
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
read_frames({str(path)!r}, 3, end=0.2)
before = peak()
assert read_frames({str(path)!r}, 3).shape == (3, 3, 480, 640)
print((peak() - before) // (1024 if {sys.platform == "linux"} else 2**20))
"""
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert int(done.stdout) < 60


def noise(frames, height, width):
    draw = torch.Generator().manual_seed(0)
    return torch.randint(256, (frames, 3, height, width), generator=draw, dtype=torch.uint8)


def pillow(channel, size, resample):
    """The oracle: Pillow on floats (on bytes it also clips between its two passes)."""
    image = Image.fromarray(channel.numpy().astype(np.float32))
    resized = np.asarray(image.resize(size[::-1], getattr(Image.Resampling, resample.upper())))
    return torch.from_numpy(resized.copy()).clamp(0, 255)


class TestResizing:
    @pytest.mark.parametrize("resample", ["bicubic", "bilinear"])
    @pytest.mark.parametrize("size", [(23, 17), (61, 89), (32, 48)])
    def test_squash_is_pillow(self, size, resample):
        pixels = noise(2, 32, 48)
        got = resize_frames(pixels, size, resample=resample)
        assert got.shape == (2, 3, *size) and got.dtype == torch.uint8
        for channel, small in zip(pixels.flatten(0, 1), got.flatten(0, 1), strict=True):
            assert (small - pillow(channel, size, resample)).abs().max() <= 1

    @pytest.mark.parametrize("shape", [(32, 48), (53, 31), (20, 20)])
    @pytest.mark.parametrize("side", [24, 60])
    def test_crop_keeps_proportions(self, shape, side):
        """By CLIP's recipe: the short side to `side`, then the middle."""
        pixels = noise(1, *shape)
        long = side * max(shape) // min(shape)
        height, width = (side, long) if shape[1] >= shape[0] else (long, side)
        top, left = round((height - side) / 2), round((width - side) / 2)
        got = resize_frames(pixels, side, fit="crop")
        assert got.shape == (1, 3, side, side)
        for channel, small in zip(pixels[0], got[0], strict=True):
            expected = pillow(channel, (height, width), "bicubic")[top : top + side, left : left + side]
            assert (small - expected).abs().max() <= 1

    def test_crop_to_a_rectangle(self):
        pixels = torch.zeros(1, 3, 30, 90, dtype=torch.uint8)
        pixels[..., 40:50] = 250  # the middle ninth
        assert resize_frames(pixels, (30, 10), fit="crop").min() == 250
        assert resize_frames(pixels.transpose(2, 3), (10, 30), fit="crop").min() == 250
        assert resize_frames(pixels, (10, 10)).float().mean() < 60

    def test_read_frames_passes_it_on(self, clips):
        path = clips["mkv", "ffv1"]
        whole = read_frames(path, 5)
        for options in ({}, {"fit": "crop"}, {"resample": "bilinear"}):
            assert torch.equal(read_frames(path, 5, (20, 16), **options), resize_frames(whole, (20, 16), **options))


def cut(path, share, target):
    data = path.read_bytes()
    target.write_bytes(data[: int(len(data) * share)])
    return target


class TestDamage:
    """What is broken is named, with what was found and what to do."""

    @pytest.mark.parametrize(
        "kind, share, found",
        [
            (("avi", "mpeg4"), 0.9, r"(damaged|cut off): 2\d of about 29 frames can be decoded, up to 0\.\d\d s"),
            (("avi", "mjpeg"), 0.9, r"damaged: 2\d of about 29"),
            (
                ("mkv", "libx264"),
                0.9,
                r"cut off: 2\d of about 29 frames can be decoded, up to 0\.\d\d s, where the file",
            ),
            (("mkv", "ffv1"), 0.9, "cut off: 26 of about 29"),
            (("webm", "libvpx"), 0.75, r"cut off: \d\d of about 29"),
            (("flv", "libx264"), 0.9, r"damaged: 2\d of about"),
        ],
    )
    def test_truncated(self, clips, kind, share, found, tmp_path):
        path = cut(clips[kind], share, tmp_path / f"cut.{kind[0]}")
        advice = r".*Get the file again, or pass allow_truncated=True"
        with pytest.raises(VideoError, match=rf"cut\.{kind[0]}: {found}{advice}"):
            read_frames(path, 5)
        with pytest.raises(VideoError, match=f"{found}{advice}"):
            read_frames(path, 5, start=0.5)
        there = read_frames(path, 5, allow_truncated=True)
        count = numbers(there)[-1] + 1
        assert 15 < count < N and numbers(there) == frame_positions(count, 5).tolist()
        early = read_frames(path, 3, start=0.1, end=0.3)  # before the damage: nothing is amiss
        assert torch.equal(early, read_frames(clips[kind], 3, start=0.1, end=0.3))

    def test_truncated_mp4(self, clips, tmp_path):
        path = cut(clips["mp4", "libx264"], 0.9, tmp_path / "cut.mp4")  # its index is at the end
        for allow in (False, True):
            with pytest.raises(
                VideoError, match=r"cut\.mp4: [\d,]+ bytes, cannot be opened.*index.*Get the file again"
            ):
                read_frames(path, allow_truncated=allow)
        fast = record(tmp_path / "fast.mp4", movie={"movflags": "faststart"})
        with pytest.raises(VideoError, match=r"damaged: [12]\d of about 29 frames"):
            read_frames(cut(fast, 0.93, fast), 5)
        there = numbers(read_frames(fast, 5, allow_truncated=True))
        assert there == frame_positions(there[-1] + 1, 5).tolist()

    @pytest.mark.parametrize("kind", [("mp4", "libx264"), ("avi", "mjpeg"), ("mkv", "ffv1")])
    def test_corrupt_in_the_middle(self, clips, kind, tmp_path):
        with av.open(str(clips[kind])) as container:
            packet = [p for p in container.demux(video=0) if p.size][20]
            place, size = packet.pos, packet.size
        data = bytearray(clips[kind].read_bytes())
        offset = 12 if kind[0] == "mkv" else 0  # pos is that of the block, some bytes before the frame
        data[place + offset : place + size] = random.Random(3).randbytes(size - offset)
        path = tmp_path / f"bad.{kind[0]}"
        path.write_bytes(data)
        with pytest.raises(VideoError, match=rf"bad\.{kind[0]}: damaged: (1\d|20|21) of about 29.*allow_truncated"):
            read_frames(path, 5)
        there = numbers(read_frames(path, 5, allow_truncated=True))
        assert there == frame_positions(there[-1] + 1, 5).tolist() and 8 < there[-1] < 22

    def test_pictures_with_errors_are_not_passed_off_as_sound(self, tmp_path):
        """h264 fills what it cannot decode and only marks the frame; such a frame counts as damage."""
        pictures = np.random.default_rng(0).integers(0, 256, (N, 48, 64, 3)).astype(np.uint8)
        path = record(tmp_path / "noise.mkv", "libx264", list(pictures), size=(64, 48), gop=30, coder="0")
        with av.open(str(path)) as container:
            packet = [p for p in container.demux(video=0) if p.size][10]
        data, middle = bytearray(path.read_bytes()), packet.pos + packet.size // 2
        data[middle : middle + 300] = bytes(300)
        path.write_bytes(data)
        with av.open(str(path)) as container:
            marks = [frame.is_corrupt for frame in container.decode(video=0)]
        assert marks.index(True) == 10 and len(marks) == N
        with pytest.raises(VideoError, match="damaged: 10 of about 29.*decoded only with errors"):
            read_frames(path)

    @pytest.mark.parametrize(
        "name, content, says",
        [
            ("gone.mp4", None, r"gone\.mp4: there is no such file"),
            ("empty.mp4", b"", r"empty\.mp4: is empty \(0 bytes\)"),
            ("text.mp4", b"not a video " * 99, r"text\.mp4: 1,188 bytes, cannot be opened as a video"),
            ("zeros.avi", bytes(5000), r"zeros\.avi: 5,000 bytes, cannot be opened as a video"),
        ],
    )
    def test_no_video_at_all(self, tmp_path, name, content, says):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        for options in ({}, {"start": 1.0}, {"allow_truncated": True}):
            with pytest.raises(VideoError, match=says):
                read_frames(tmp_path / name, **options)

    def test_sound_alone(self, tmp_path):
        path = tmp_path / "song.mp4"
        with av.open(str(path), "w") as container:
            stream = container.add_stream("aac", rate=8000, layout="mono")
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 8000, 0
            container.mux([*stream.encode(frame), *stream.encode()])
        with pytest.raises(VideoError, match=r"song\.mp4: holds audio, no video.*right file"):
            read_frames(path)

    def test_header_without_a_frame(self, clips, tmp_path):
        path = cut(clips["mkv", "libx264"], 0.3, tmp_path / "bare.mkv")
        with pytest.raises(VideoError, match=r"bare\.mkv: none of about.*Get the file again"):
            read_frames(path, allow_truncated=True)

    @pytest.mark.parametrize(
        "arguments, error, says",
        [
            ({"frames": 0}, ValueError, "frames=0: expected at least 1"),
            ({"frames": 2.0}, TypeError, "frames=2.0"),
            ({"size": 0}, ValueError, "size=0"),
            ({"size": (3, 4, 5)}, ValueError, r"size=\(3, 4, 5\).*height and width"),
            ({"rule": "end"}, ValueError, "rule='end'.*Did you mean 'ends'"),
            ({"fit": "pad"}, ValueError, "fit='pad'.*'squash', 'crop'"),
            ({"resample": "nearest"}, ValueError, "resample='nearest'.*'bicubic', 'bilinear'"),
            ({"start": -1}, ValueError, "start=-1"),
            ({"start": float("nan")}, ValueError, "start=nan"),
            ({"start": 0.5, "end": 0.5}, ValueError, "end=0.5: expected more than start=0.5"),
            ({"start": 7}, ValueError, r"start=7.0.*mpeg4\.mp4 shows no frame then: its 29 frames.*0 to 1\.12 s"),
        ],
    )
    def test_arguments(self, clips, arguments, error, says):
        with pytest.raises(error, match=says):
            read_frames(clips["mp4", "mpeg4"], **arguments)

    def test_pixels_of_another_kind(self):
        with pytest.raises(ValueError, match=r"pixels: \(2, 3, 4\).*expected frames \(F, 3, H, W\)"):
            resize_frames(torch.zeros(2, 3, 4, dtype=torch.uint8), 3)
        with pytest.raises(ValueError, match=r"torch\.float32"):
            resize_frames(torch.zeros(1, 3, 4, 4), 3)


def test_importing_the_datasets_loads_no_decoder_and_no_solver():
    code = "import sys, vtrlib.datasets; print([m for m in ('av', 'scipy', 'sklearn', 'transformers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


REAL = [(n, f.name) for n in ("msvd-clips", "nasa-clip") for f in cards.card(n).files if f.name != "captions.json"]


@pytest.mark.skipif("VTRLIB_DATA" not in os.environ, reason="VTRLIB_DATA is not set: no real clips")
class TestRealClips:
    """The eleven MSVD clips and the NASA clip of the data cards."""

    @pytest.mark.parametrize("name, file", REAL)
    def test_against_an_independent_pass(self, name, file):
        path = data_folder(name) / file
        whole = independent_decode(path)
        assert len(whole) == {"nasa_13013.mp4": 325, "3qqEKTPxLNs_1_15.avi": 421}.get(file, len(whole)) >= 91
        frames = read_frames(path, 12)
        assert torch.equal(frames, torch.stack([whole[p] for p in frame_positions(len(whole), 12)]))
        assert len({frame.numpy().tobytes() for frame in frames}) > 6  # not one picture over and over
        stretch = read_frames(path, 4, start=1.0, end=2.5)
        times, _ = decoding.shown_times(path)
        inside = [i for i, t in enumerate(times) if 1.0 <= t - times[0] < 2.5]
        assert torch.equal(stretch, torch.stack([whole[inside[p]] for p in frame_positions(len(inside), 4)]))

    def test_truncated(self, tmp_path):
        path = cut(data_folder("msvd-clips") / "klteYv1Uv9A_27_33.avi", 0.8, tmp_path / "cut.avi")
        with pytest.raises(VideoError, match=r"cut\.avi: (damaged|cut off): [5-8]\d of about 91 frames"):
            read_frames(path)

    def test_captions_are_of_these_clips(self):
        captions = json.loads((data_folder("msvd-clips") / "captions.json").read_text("utf-8"))
        assert sorted(captions) == sorted(Path(f).stem for n, f in REAL if n == "msvd-clips")
        assert all(28 <= len(sentences) <= 55 for sentences in captions.values())
