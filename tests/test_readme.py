"""The README's tour does what its comments say, and its pictures show the world as it is."""

import re
import sys
from pathlib import Path

import numpy as np
import torch
from diffusers import TextToVideoSDPipeline
from PIL import Image
from test_discovla_command import write_world
from test_ragme_pipeline import parts

from vtrlib.clip import load
from vtrlib.world import MovingDigits

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text("utf-8")
sys.path.insert(0, str(ROOT / ".ci"))
import pictures  # noqa: E402


def test_the_tour_prints_what_it_says():
    code, _, _ = re.findall(r"```python\n(.*?)```", README, re.S)
    names: dict[str, object] = {}
    compared = 0
    for line in code.splitlines():
        source, _, comment = line.partition("  #")
        if " = " in source or source.startswith("from"):
            exec(source, names)
        elif source.strip():
            value, said = repr(eval(source, names)), comment.strip().split(":")[0]
            if not said.startswith("R@K"):
                assert re.sub(r"\s", "", value) == re.sub(r"\s", "", said)
                compared += 1
    assert compared == 3


def test_pig_trains_by_those_lines(tmp_path, monkeypatch):
    """On small videos and the tiny CLIP, one pass in each stage; and what is saved comes back."""
    made = write_world(tmp_path)
    monkeypatch.chdir(tmp_path)
    _, code, _ = re.findall(r"```python\n(.*?)```", README, re.S)
    smaller = {"openai/clip-vit-base-patch32": str(made.clip), "words=50": "words=20"}
    smaller["workers=8, checkpoint_every=200"] = "batch_size=9, epochs=1"
    for there, here in smaller.items():
        assert code.count(there) == 1
        code = code.replace(there, here)
    names: dict = {}
    exec(code, names)
    model = names["model"]
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"stage1", "stage2", "model"}
    video = names["prepared"](names["collate_pairs"]([names["pairs"][0]]), names["clip"])["video"]
    again = type(model).from_pretrained(tmp_path / "run" / "model")
    assert video.shape == (1, 12, 3, 32, 32) and again.index(video).equal(model.index(video))


def test_ragme_samples_by_those_lines(tmp_path, monkeypatch):
    """On a tiny random pipeline, with the tiny CLIP and clips of the world to retrieve from."""
    TextToVideoSDPipeline(**parts()).save_pretrained(tmp_path / "zeroscope")
    monkeypatch.chdir(tmp_path)
    *_, code = re.findall(r"```python\n(.*?)```", README, re.S)
    smaller = {"openai/clip-vit-base-patch32": "tiny", "zeroscope_v2_576w": "zeroscope", "a horse runs": "a red seven spins"}
    smaller["adapters=None"] = "{'width': 64, 'layers': 1, 'heads': 4}"
    smaller["k=5"] = "k=2, frames=4, size=(16, 8), steps=2"
    for there, here in smaller.items():
        assert code.count(there) == 1
        code = code.replace(there, here)
    clips = MovingDigits("val", "trimmed", size=5).frames()[0]
    with torch.no_grad():
        names = {"frames": load("tiny").encode_frames(clips)}
    exec(code, names)
    made = names["made"]
    assert made.video.shape == (1, 4, 3, 16, 8) and made.retrieved.mask.tolist() == [[True, True]]
    with Image.open(tmp_path / "horse.gif") as stored:
        assert stored.n_frames == 4 and stored.size == (24, 48)


def test_every_command_it_names_exists():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.M))
    named = set(re.findall(r"make ([a-z]+)\b", re.sub(r"install make|make (is|and)\b", "", README)))
    assert {"book", "test", "page", "lab", "run", "sync", "results"} <= named <= targets


def test_links_and_pictures_are_there():
    for link in re.findall(r"\]\((?!http|#)([^)]+)\)", README):
        assert (ROOT / link).is_file(), link


def test_pictures_show_the_world_as_it_is(tmp_path):
    pictures.cover(tmp_path)
    for name in ("moving-digits.png", "moving-digits.gif"):
        with Image.open(ROOT / "book" / "_static" / name) as stored, Image.open(tmp_path / name) as drawn:
            assert getattr(stored, "n_frames", 1) == getattr(drawn, "n_frames", 1) == (8 if name.endswith("gif") else 1)
            for frame in range(getattr(stored, "n_frames", 1)):
                stored.seek(frame), drawn.seek(frame)
                difference = np.asarray(stored.convert("RGB")).astype(int) - np.asarray(drawn.convert("RGB"))
                # the GIF's palette is chosen by Pillow, so its colours may shift a little with a new version
                assert np.abs(difference).mean() < (2 if name.endswith("gif") else 1e-9), f"{name}: run .ci/pictures.py"
