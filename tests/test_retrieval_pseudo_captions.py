"""The released format of pseudo captions, and generation that is killed, resumed and mixed up."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from vtrlib.datasets.retrieval import (
    GUIDED,
    UNGUIDED,
    CaptionedVideo,
    check_pseudo_captions,
    generate,
    pseudo_key,
    read_pseudo_captions,
    world_pseudo_captions,
    write_pseudo_captions,
)
from vtrlib.world import MovingDigits

F = 5
VIDEOS = (
    CaptionedVideo("video0", ("a dog runs", "a dog", "a dog")),  # one caption twice, as in MSR-VTT
    CaptionedVideo("video7", ("it's “{caption}”",)),
    CaptionedVideo("clip_2", ("two\nlines", "a dog")),
)
PAIRS = 5


class Frames:
    """Frame n of a video is grey at a level that encodes both."""

    frames, settings = F, "grey"

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, videos: Sequence[str]) -> Tensor:
        self.asked += videos
        levels = [[10 * [v.id for v in VIDEOS].index(video) + n for n in range(F)] for video in videos]
        return torch.tensor(levels, dtype=torch.uint8)[:, :, None, None, None].expand(-1, -1, 3, 2, 4)


class Echo:
    """Says which frame it was shown and what it was asked; fails, or kills its process, at one of its calls."""

    def __init__(self, fail: int | None = None, kill: bool = False, name: str = "echo", silent: str = "no prompt"):
        self.calls, self.answers, self.fail, self.kill, self.silent = 0, 0, fail, kill, silent
        self.settings = {"model": name, "tokens": [1, 64]}

    def caption(self, frames: Sequence[Tensor], prompts: Sequence[str]) -> list[str]:
        if self.calls == self.fail:
            if self.kill:
                os.kill(os.getpid(), signal.SIGKILL)
            raise KeyboardInterrupt
        self.calls += 1
        self.answers += len(prompts)
        assert all(len(set(frame.flatten().tolist())) == 1 for frame in frames)
        return [
            "" if self.silent in prompt else f"{int(frame.max())}: {prompt}"
            for frame, prompt in zip(frames, prompts, strict=True)
        ]


def expected(guided: bool = True) -> dict[str, list[str]]:
    """The oracle: a loop over videos, captions and frames."""
    return {
        f"{video.id}_{caption}": [
            f"{10 * v + n}: "
            + (
                "The provided image is a frame sampled from the video, which describes " + caption + ". Based on the "
                "video's content, provide a caption for the provided image."
                if guided
                else "Provide a caption for the provided image."
            )
            for n in range(F)
        ]
        for v, video in enumerate(VIDEOS)
        for caption in video.captions
    }


def lines(path: Path) -> list[bytes]:
    return path.with_name(path.name + ".part").read_bytes().splitlines()


class TestFormat:
    def test_round_trip(self, tmp_path):
        path = write_pseudo_captions(tmp_path / "captions.json", expected(), F)
        assert json.loads(path.read_text("utf-8")) == expected()
        read = read_pseudo_captions(path, VIDEOS, F)
        assert read == {key: tuple(texts) for key, texts in expected().items()} and len(read) == PAIRS
        assert list(tmp_path.iterdir()) == [path]

    def test_every_fault_is_named(self, tmp_path):
        bad = expected()
        del bad["video0_a dog"]
        bad["video7_it's “{caption}”"][3] = "  "
        bad["clip_2_a dog"].append("one more")
        bad["clip_2_two\nlines"] = "no list"
        bad["video9_a cat"] = ["a cat"] * F
        path = tmp_path / "captions.json"
        path.write_text(json.dumps(bad), encoding="utf-8")
        with pytest.raises(ValueError) as error:
            read_pseudo_captions(path, VIDEOS, F)
        told = str(error.value).splitlines()
        assert len(told) == 6 and all(line.startswith(str(path)) for line in told[:-1])
        for place in (
            "missing: video0 (1, such as 'a dog')",
            'an empty sentence: "video7_it\'s “{caption}”" (frame 3)',
            "another number of sentences than 5: 'clip_2_a dog' (6)",
            r"no list of 5 sentences: 'clip_2_two\nlines' ('no list')",
            "of no caption of these videos: 'video9_a cat'",
        ):
            assert sum(place in line for line in told) == 1, (place, told)
        with pytest.raises(ValueError, match="another number of sentences than 12: .*5 in all"):
            check_pseudo_captions(expected(), VIDEOS, 12)

    def test_entries_of_other_videos_on_request(self, tmp_path):
        path = write_pseudo_captions(tmp_path / "captions.json", expected(), F)
        with pytest.raises(ValueError, match="of no caption of these videos: .*3 in all|of no caption"):
            read_pseudo_captions(path, VIDEOS[:1], F)
        assert list(read_pseudo_captions(path, VIDEOS[:1], F, extra=True)) == ["video0_a dog runs", "video0_a dog"]
        with pytest.raises(ValueError, match="missing: video1 "):
            read_pseudo_captions(path, [CaptionedVideo("video1", ("a dog",))], F, extra=True)

    @pytest.mark.parametrize(
        ("text", "place"),
        [
            ('{"v_a": ["x"], "v_b": ["x"], "v_a": ["y"]}', "found more than once: v_a"),
            ('{"v_a": ["x"', "cannot be read"),
            ('[["v_a", ["x"]]]', "expected one object"),
            ("{}", "no entry at all"),
            ('{"v_a": ["x", 3]}', "no list of 2 sentences"),
        ],
    )
    def test_broken_files(self, tmp_path, text, place):
        path = tmp_path / "captions.json"
        path.write_text(text, encoding="utf-8")
        with pytest.raises(ValueError, match=rf"captions\.json: .*{place}"):
            read_pseudo_captions(path, frames=2)
        with pytest.raises(FileNotFoundError, match=r"none\.json: there is no such file"):
            read_pseudo_captions(tmp_path / "none.json")

    def test_two_pairs_with_one_key(self, tmp_path):
        twins = (CaptionedVideo("a", ("b_c",)), CaptionedVideo("a_b", ("c",)))
        assert pseudo_key("a", "b_c") == pseudo_key("a_b", "c")
        with pytest.raises(ValueError, match=r"one key for two pairs: \('a', 'b_c'\) and \('a_b', 'c'\)"):
            check_pseudo_captions({"a_b_c": ["x"] * F}, twins, F)
        with pytest.raises(ValueError, match="have one key"):
            generate(tmp_path / "captions.json", twins, Frames(), Echo())
        with pytest.raises(ValueError, match="videos: video0: found more than once"):
            check_pseudo_captions(expected(), [*VIDEOS, VIDEOS[0]], F)
        with pytest.raises(ValueError, match="videos: mute: no caption"):
            check_pseudo_captions(expected(), [*VIDEOS, CaptionedVideo("mute", ())], F)

    def test_nothing_is_written_of_bad_captions(self, tmp_path):
        with pytest.raises(ValueError, match="an empty sentence"):
            write_pseudo_captions(tmp_path / "captions.json", {"v_a": ["x", ""]}, 2)
        assert not list(tmp_path.iterdir())

    def test_the_world_in_the_released_format(self, tmp_path):
        world = MovingDigits("val", "trimmed", size=7)
        told = world_pseudo_captions(world, 5, paraphrases=2)
        path = write_pseudo_captions(tmp_path / "world.json", told, 5)
        assert read_pseudo_captions(path, frames=5) == told and len(told) == 14


class TestGeneration:
    @pytest.mark.parametrize("size", [1, 3, 100])
    @pytest.mark.parametrize("guided", [True, False])
    def test_against_a_loop(self, tmp_path, size, guided):
        frames, echo = Frames(), Echo()
        path = generate(tmp_path / "a.json", VIDEOS, frames, echo, guided=guided, batch_size=size)
        assert json.loads(path.read_text("utf-8")) == expected(guided)
        assert frames.asked == [video.id for video in VIDEOS]  # each decoded once
        assert echo.answers == F * (PAIRS if guided else len(VIDEOS)) and echo.calls == -(-echo.answers // size)
        assert sorted(p.name for p in tmp_path.iterdir()) == ["a.json", "a.json.made.json"]
        again = Echo()
        assert generate(path, VIDEOS, frames, again, guided=guided) == path and again.calls == 0

    def test_prompts_are_the_papers(self):
        assert GUIDED.format(caption="X") == (
            "The provided image is a frame sampled from the video, which describes X. Based on the video's content, "
            "provide a caption for the provided image."
        )
        assert UNGUIDED == "Provide a caption for the provided image."

    @pytest.mark.parametrize("fail", [0, 1, 4, 6])
    def test_going_on_after_an_interruption(self, tmp_path, fail):
        path, frames, second = tmp_path / "a.json", Frames(), Echo()
        with pytest.raises(KeyboardInterrupt):
            generate(path, VIDEOS, Frames(), Echo(fail=fail), batch_size=4)
        assert not path.exists() and len(lines(path)) == 1 + fail
        generate(path, VIDEOS, frames, second, batch_size=7)
        assert json.loads(path.read_text("utf-8")) == expected()
        assert second.answers == F * PAIRS - 4 * fail  # nothing is asked twice
        assert ("video0" in frames.asked) == (4 * fail < 10)  # nor decoded, where nothing is left to ask

    def test_progress_is_shown_from_where_it_stopped(self, tmp_path, capsys):
        path = tmp_path / "a.json"
        with pytest.raises(KeyboardInterrupt):
            generate(path, VIDEOS, Frames(), Echo(fail=2), batch_size=4)
        assert "answer" not in capsys.readouterr().err  # no terminal
        generate(path, VIDEOS, Frames(), Echo(), batch_size=4, quiet=False)
        told, count = capsys.readouterr(), F * PAIRS
        assert f"8/{count}" in told.err and f"{count}/{count}" in told.err and not told.out

    def test_going_on_after_a_kill(self, tmp_path):
        path = tmp_path / "a.json"
        code = (
            "from tests.test_retrieval_pseudo_captions import *\n"
            f"generate({str(path)!r}, VIDEOS, Frames(), Echo(fail=4, kill=True), batch_size=4)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.returncode == -signal.SIGKILL, done.stderr
        assert not path.exists() and len(lines(path)) == 5
        second = Echo()
        generate(path, VIDEOS, Frames(), second, batch_size=4)
        assert second.answers == F * PAIRS - 16 and json.loads(path.read_text("utf-8")) == expected()

    def test_a_line_that_a_kill_left_unfinished(self, tmp_path):
        path = tmp_path / "a.json"
        with pytest.raises(KeyboardInterrupt):
            generate(path, VIDEOS, Frames(), Echo(fail=3), batch_size=4)
        part = path.with_name("a.json.part")
        part.write_bytes(part.read_bytes()[:-9])
        with pytest.raises(KeyboardInterrupt):  # again, with nothing but the end cut off
            generate(path, VIDEOS, Frames(), Echo(fail=0), batch_size=4)
        assert [len(json.loads(line)) for line in lines(path)[1:]] == [4, 4]
        second = Echo()
        generate(path, VIDEOS, Frames(), second, batch_size=4)
        assert second.answers == F * PAIRS - 8 and json.loads(path.read_text("utf-8")) == expected()

    def test_killed_between_file_and_record(self, tmp_path, monkeypatch):
        path = tmp_path / "a.json"
        with monkeypatch.context() as patch:
            patch.setattr("vtrlib.datasets.retrieval.generation._record", lambda p: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                generate(tmp_path / "a.json", VIDEOS, Frames(), Echo())
        assert path.exists() and not path.with_name("a.json.made.json").exists()
        second = Echo()
        generate(path, VIDEOS, Frames(), second)
        assert second.answers == 0 and json.loads(path.read_text("utf-8")) == expected()
        assert not path.with_name("a.json.part").exists()

    def test_a_damaged_journal(self, tmp_path):
        path, part = tmp_path / "a.json", tmp_path / "a.json.part"
        with pytest.raises(KeyboardInterrupt):
            generate(path, VIDEOS, Frames(), Echo(fail=3), batch_size=4)
        whole = lines(path)
        part.write_bytes(b"\n".join([whole[0], b"gibberish", *whole[2:]]) + b"\n")
        with pytest.raises(ValueError, match=r"a\.json\.part: line 2: cannot be read"):
            generate(path, VIDEOS, Frames(), Echo())

    def changes(self):
        other = Frames()
        other.settings = "colourful"
        yield "captioner.model: 'echo', not 'other'", (VIDEOS, Frames(), Echo(name="other")), {}
        yield "prompt: ", (VIDEOS, Frames(), Echo()), {"guided": False}
        yield "frames: 'grey', not 'colourful'", (VIDEOS, other, Echo()), {}
        yield "pairs: ", (VIDEOS[:2], Frames(), Echo()), {}

    def test_settings_are_never_mixed(self, tmp_path):
        path = tmp_path / "a.json"
        with pytest.raises(KeyboardInterrupt):
            generate(path, VIDEOS, Frames(), Echo(fail=3), batch_size=4)
        kept = lines(path)
        for place, arguments, options in self.changes():
            with pytest.raises(ValueError, match=f"part: was begun with other settings: {place}"):
                generate(path, *arguments, **options)
            assert lines(path) == kept and not path.exists()
        generate(path, VIDEOS, Frames(), Echo())
        for place, arguments, options in self.changes():
            with pytest.raises(FileExistsError, match=f"a.json: was made with other settings: {place}"):
                generate(path, *arguments, **options)
        assert json.loads(path.read_text("utf-8")) == expected()

    def test_a_file_that_is_there_already(self, tmp_path):
        path = write_pseudo_captions(tmp_path / "a.json", expected(), F)
        with pytest.raises(FileExistsError, match=r"a\.json: is there, made elsewhere"):
            generate(path, VIDEOS, Frames(), Echo())
        path.unlink()
        generate(path, VIDEOS, Frames(), Echo())
        path.write_text(path.read_text("utf-8") + " ", encoding="utf-8")
        with pytest.raises(FileExistsError, match=r"a\.json: was changed since"):
            generate(path, VIDEOS, Frames(), Echo())

    def test_a_model_that_says_nothing(self, tmp_path):
        path = tmp_path / "a.json"
        with pytest.raises(ValueError, match=r"\"video7_it's.*, frame 0: the model says nothing to.*min_new_tokens"):
            generate(path, VIDEOS, Frames(), Echo(silent="it's"), batch_size=4)
        assert not path.exists() and len(lines(path)) == 3

    @pytest.mark.skipif(sys.platform == "win32", reason="no such locks on Windows")
    def test_one_process_at_a_time(self, tmp_path):
        class Second(Echo):
            def caption(self, frames, prompts):
                with pytest.raises(FileExistsError, match="another process is writing it"):
                    generate(tmp_path / "a.json", VIDEOS, Frames(), Echo())
                return super().caption(frames, prompts)

        second = Second()
        generate(tmp_path / "a.json", VIDEOS, Frames(), second)
        assert second.calls > 0
