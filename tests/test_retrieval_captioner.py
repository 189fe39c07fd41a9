"""Pseudo captions from a LLaVA-NeXT of random weights: prompts, batches, resuming; no network."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest
import torch
from small_llava import small_llava
from test_datasets_video import record

from vtrlib.datasets.retrieval import (
    GUIDED,
    CaptionedVideo,
    VideoFolder,
    generate,
    load_captioner,
    read_pseudo_captions,
)
from vtrlib.datasets.video import read_frames

F, TOKENS = 3, 9
VIDEOS = (CaptionedVideo("video0", ("a dog runs", "dogs")), CaptionedVideo("video1", ("a much longer caption of it",)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return small_llava(tmp_path_factory.mktemp("llava"))


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Two clips of different shape, of noise that differs from frame to frame."""
    place, noise = tmp_path_factory.mktemp("clips"), torch.Generator().manual_seed(3)
    for name, (width, height) in {"video0": (24, 16), "video1": (16, 32)}.items():
        pictures = torch.randint(0, 256, (7, height // 8, width // 8, 3), generator=noise, dtype=torch.uint8)
        pictures = pictures.repeat_interleave(8, 1).repeat_interleave(8, 2).numpy()
        record(place / f"{name}.avi", "mjpeg", pictures=list(pictures), size=(width, height))
    return place


@pytest.fixture(scope="module")
def captioner(folder):
    return load_captioner(folder, max_new_tokens=TOKENS)


def oracle(captioner, clips, template):
    """Frame by frame with the model's own methods, without a batch and without padding."""
    found = {}
    for video in VIDEOS:
        frames = read_frames(clips / f"{video.id}.avi", F)
        for caption in video.captions:
            answers = []
            for frame in frames:
                text = f"user: <image>\n{template.replace('CAPTION', caption)} assistant:"
                inputs = captioner.processor(images=[frame], text=[text], return_tensors="pt")
                ids = captioner.model.generate(**inputs, do_sample=False, max_new_tokens=TOKENS, min_new_tokens=1)
                new = ids[0, inputs["input_ids"].shape[1] :]
                answers.append(captioner.processor.tokenizer.decode(new, skip_special_tokens=True).strip())
            found[f"{video.id}_{caption}"] = answers
    return found


TEMPLATES = {
    True: "The provided image is a frame sampled from the video, which describes CAPTION. Based on the video's "
    "content, provide a caption for the provided image.",
    False: "Provide a caption for the provided image.",
}


@pytest.mark.parametrize("guided", [True, False])
def test_end_to_end_for_any_batch_size(captioner, clips, tmp_path, guided):
    wanted = oracle(captioner, clips, TEMPLATES[guided])
    normal = {key: [" ".join(text.split()) for text in texts] for key, texts in wanted.items()}
    answers = [text for texts in normal.values() for text in texts]
    assert len(set(answers)) > len(answers) * (0.8 if guided else 0.5)  # the model looks and reads
    frames = VideoFolder(clips, frames=F, size=None)
    for size in (1, 2, 5):
        path = generate(tmp_path / f"{size}.json", VIDEOS, frames, captioner, guided=guided, batch_size=size)
        assert json.loads(path.read_text("utf-8")) == normal
    read = read_pseudo_captions(path, VIDEOS, F)
    assert (read["video0_a dog runs"] == read["video0_dogs"]) == (not guided)


def test_answers_don_t_depend_on_company(captioner):
    noise = torch.Generator().manual_seed(5)
    shapes = [(9, 7), (5, 20), (12, 12), (30, 8), (9, 7)]
    frames = [torch.randint(0, 256, (3, *shape), generator=noise, dtype=torch.uint8) for shape in shapes]
    prompts = ["x", GUIDED.format(caption="a cat"), "a dog?", "who", "say what is to be seen"]
    together = captioner.caption(frames, prompts)
    assert together == [captioner.caption([f], [p])[0] for f, p in zip(frames, prompts, strict=True)]
    assert together == captioner.caption(frames[::-1], prompts[::-1])[::-1] and len(set(together)) == 5
    assert captioner.processor.tokenizer.padding_side == "left"


def test_padding_on_the_right_would_be_noticed(captioner, monkeypatch):
    """The planted fault: with the padding behind the prompt, answers of a batch are others."""
    noise = torch.Generator().manual_seed(5)
    frames = [torch.randint(0, 256, (3, 9, 7), generator=noise, dtype=torch.uint8) for _ in range(2)]
    prompts = ["x", "a much longer question, so that the first is padded"]
    alone = [captioner.caption([f], [p])[0] for f, p in zip(frames, prompts, strict=True)]
    tokenizer = captioner.processor.tokenizer
    kind = type("Right", (type(tokenizer),), {"padding_side": property(lambda self: "right", lambda self, value: None)})
    monkeypatch.setattr(tokenizer, "__class__", kind)
    assert captioner.caption(frames, prompts) != alone


def test_killed_in_the_middle_and_gone_on(captioner, folder, clips, tmp_path):
    path = tmp_path / "a.json"
    code = f"""
import os, signal
from vtrlib.datasets.retrieval import Captioner, VideoFolder, generate, load_captioner
from tests.test_retrieval_captioner import F, TOKENS, VIDEOS
captioner, calls, answer = load_captioner({str(folder)!r}, max_new_tokens=TOKENS), [], Captioner.caption
def caption(self, frames, prompts):
    calls.append(1)
    if len(calls) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return answer(self, frames, prompts)
Captioner.caption = caption
generate({str(path)!r}, VIDEOS, VideoFolder({str(clips)!r}, frames=F, size=None), captioner, batch_size=2)
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(["tests", os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not path.exists() and len(path.with_name("a.json.part").read_bytes().splitlines()) == 3
    frames = VideoFolder(clips, frames=F, size=None)
    whole = generate(tmp_path / "whole.json", VIDEOS, frames, captioner, batch_size=4)
    # Other weights, another precision, other lengths: each is refused, and the journal stays.
    with pytest.raises(ValueError, match=r"a\.json\.part: was begun with other settings: .*captioner\.weights"):
        generate(path, VIDEOS, frames, load_captioner(small_llava(tmp_path / "other", 1), max_new_tokens=TOKENS))
    with pytest.raises(ValueError, match=r"captioner\.dtype: 'float32', not 'bfloat16'"):
        generate(path, VIDEOS, frames, load_captioner(folder, dtype=torch.bfloat16, max_new_tokens=TOKENS))
    with pytest.raises(ValueError, match=r"captioner\.tokens: \[1, 9\], not \[1, 8\]"):
        generate(path, VIDEOS, frames, load_captioner(folder, max_new_tokens=8))
    assert generate(path, VIDEOS, frames, captioner, batch_size=4).read_bytes() == whole.read_bytes()


def test_device_and_precision(folder):
    captioner = load_captioner(folder, device="cpu", dtype=torch.bfloat16, max_new_tokens=4)
    assert captioner.model.dtype == torch.bfloat16 and not captioner.model.training
    assert not any(weight.requires_grad for weight in captioner.model.parameters())
    (answer,) = captioner.caption([torch.zeros(3, 8, 8, dtype=torch.uint8)], ["x"])
    assert answer
    assert str(folder.parent) not in json.dumps(dict(captioner.settings))


def test_bad_input(captioner, folder, tmp_path):
    frame = torch.zeros(3, 8, 8, dtype=torch.uint8)
    with pytest.raises(ValueError, match="1 frames and 2 prompts"):
        captioner.caption([frame], ["x", "y"])
    with pytest.raises(ValueError, match="0 frames and 0 prompts"):
        captioner.caption([], [])
    with pytest.raises(TypeError, match=r"frames\[1\]: torch\.float32, expected uint8"):
        captioner.caption([frame, frame.float()], ["x", "y"])
    with pytest.raises(ValueError, match=r"frames\[0\]: \(8, 8, 3\), expected \(3, H, W\)"):
        captioner.caption([frame.permute(1, 2, 0)], ["x"])
    with pytest.raises(ValueError, match="holds <image>, which the model takes for an image"):
        captioner.caption([frame], ["a <image> of a dog"])
    with pytest.raises(FileNotFoundError, match="could not be loaded"):
        load_captioner("nobody/nothing")
    with pytest.raises(ValueError, match="max_new_tokens=0"):
        load_captioner(folder, max_new_tokens=0)
    plain = small_llava(tmp_path / "plain")
    (plain / "chat_template.jinja").unlink()
    with pytest.raises(ValueError, match="has no chat template"):
        load_captioner(plain)
    settings = json.loads((plain / "config.json").read_text("utf-8"))
    (plain / "config.json").write_text(json.dumps(settings | {"model_type": "clip"}), encoding="utf-8")
    with pytest.raises(ValueError, match="image-text-to-text"):
        load_captioner(plain)
