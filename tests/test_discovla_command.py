"""`python -m vtrlib discovla`: from tiny video files and MSR-VTT's annotation files to a report."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from small_llava import small_llava
from small_msrvtt import entries, write_list
from test_datasets_video import record

from vtrlib.__main__ import main
from vtrlib.clip import load
from vtrlib.datasets import hold_out, msrvtt_protocol
from vtrlib.datasets.retrieval import frames as frames_module
from vtrlib.datasets.retrieval import read_pseudo_captions
from vtrlib.discovla import Config, DiscoVLA, load_trained, trained_weights
from vtrlib.recipes import discovla
from vtrlib.recipes.discovla import Recipe
from vtrlib.world import MovingDigits

TRAIN, TEST, F = 9, 5, 3
PLAN = ["--frames", str(F), "--batch", "6", "--epochs", "2", "--rate", "0.004", "--checkpoint-every", "3"]


class World(NamedTuple):
    """A folder each of CLIP, videos and annotations; of pseudo captions the files of two shares."""

    clip: Path
    videos: Path
    annotations: Path
    pseudo: list[Path]

    @property
    def data(self) -> list[str]:
        return ["--videos", str(self.videos), "--annotations", str(self.annotations)]

    def train(self, out: Path, *more: str, pseudo: bool = True) -> int:
        told = ["--pseudo", *map(str, self.pseudo)] if pseudo else []
        return main(
            ["discovla", "train", *self.data, "--clip", str(self.clip), *told, "--out", str(out), *PLAN, *more]
        )


def write_world(root: Path) -> World:
    world = MovingDigits("val", "trimmed", size=TRAIN + TEST)
    captions = [[world.queries(wording)[i].text for wording in range(3)] for i in range(len(world))]
    (root / "videos" / "test").mkdir(parents=True)
    for i in range(len(world)):
        place = root / "videos" / ("test" if i >= TRAIN else "")
        record(place / f"video{i}.mp4", pictures=[p.permute(1, 2, 0).numpy() for p in world[i].frames], size=(32, 32))
    data = entries(0, TRAIN + TEST, "train")
    data["sentences"] = [{"video_id": f"video{i}", "caption": c} for i, own in enumerate(captions) for c in own]
    (root / "annotations").mkdir()
    (root / "annotations" / "MSRVTT_data.json").write_text(json.dumps(data), encoding="utf-8")
    write_list(root / "annotations" / "MSRVTT_train.9k.csv", ["video_id", *(f"video{i}" for i in range(TRAIN))])
    lines = [f"ret{i},msr{i},video{i},{captions[i][1]}" for i in range(TRAIN, TRAIN + TEST)]
    write_list(root / "annotations" / "MSRVTT_JSFUSION_test.csv", ["key,vid_key,video_id,sentence", *lines])
    load("tiny").save(root / "clip")
    shares = [root / f"pseudo{n}.json" for n in (1, 2)]
    return World(root / "clip", root / "videos", root / "annotations", shares)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    root = tmp_path_factory.mktemp("world")
    made = write_world(root)
    llava = small_llava(root / "llava")
    for number, path in enumerate(made.pseudo, 1):
        command = ["discovla", "caption", *made.data, "--frames", str(F), "--model", str(llava), "--out", str(path)]
        settings = ["--share", f"{number}/2", "--dtype", "float32", "--max-new-tokens", "4", "--device", "cpu"]
        assert main([*command, *settings, "--quiet"]) == 0
    return made


@pytest.fixture(scope="module")
def run(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an uninterrupted run."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    assert world.train(out) == 0
    return out


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """In order: the videos that are read, and "step" for each loss."""
    told: list[str] = []
    read, loss = frames_module.read_frames, discovla._loss
    monkeypatch.setattr(frames_module, "read_frames", lambda at, *a, **o: told.append(at.stem) or read(at, *a, **o))
    monkeypatch.setattr(discovla, "_loss", lambda *a: told.append("step") or loss(*a))
    yield told


def report_of(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "report.json").read_text("utf-8"))
    return found


def naive(scores: np.ndarray[Any, Any], own: list[int]) -> dict[str, float]:
    """R@K and MnR of scores without ties, query by query."""
    ranks = [1 + int((row > row[i]).sum()) for row, i in zip(scores, own, strict=True)]
    return {f"R@{k}": 100 * np.mean([r <= k for r in ranks]) for k in (1, 5, 10)} | {"MnR": float(np.mean(ranks))}


def test_captions_of_two_shares_are_those_of_all(world: World) -> None:
    train = msrvtt_protocol("1k-A-9k", world.annotations)["train"]
    parts = [read_pseudo_captions(path, train[n::2], F) for n, path in enumerate(world.pseudo)]
    assert len(parts[0] | parts[1]) == sum(len(set(v.captions)) for v in train)
    assert len({text for part in parts for texts in part.values() for text in texts}) > 20


def test_report_against_the_saved_features(world: World, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report, features = report_of(run), load_file(run / "test_features.safetensors")
    texts, videos = (features[name].double().numpy() for name in ("texts", "videos"))
    scores = texts @ videos.T / np.outer(np.linalg.norm(texts, axis=1), np.linalg.norm(videos, axis=1))
    own = list(range(TEST))
    assert features["relevant"].tolist() == own and len(np.unique(scores)) == TEST * TEST
    scale = report["rescored"]["DSL"]["scale"]
    assert scale == pytest.approx(load(world.clip).model.logit_scale.exp().item())
    exponentials = np.exp(scale * scores)
    rescored = {
        "text to video": scores * exponentials / exponentials.sum(0),
        "video to text": scores.T * exponentials.T / exponentials.T.sum(0),
    }
    for way, plain in (("text to video", scores), ("video to text", scores.T)):
        assert {k: report["test"][way][k] for k in naive(plain, own)} == pytest.approx(naive(plain, own))
        found = report["rescored"]["DSL"][way]
        assert {k: found[k] for k in naive(plain, own)} == pytest.approx(naive(rescored[way], own))
    assert all("No result of the model alone" in ways["caution"] for ways in report["rescored"].values())
    assert report["rescored"]["QB-Norm"]["bank"] == TRAIN
    # 4 r D in each layer; adapters (2 r + 1) D + r in the top ones; D is 128 in four layers, 64 in three
    assert report["trained parameters"] == 32 * (4 * 128 + 3 * 64) + 4 * (17 * 128 + 8) + 2 * (17 * 64 + 8)
    assert sum(w.numel() for w in load_file(run / "weights.safetensors").values()) == report["trained parameters"]
    assert report["data"]["train"]["pairs"] == 3 * TRAIN and report["training"]["steps"] == 2 * (3 * TRAIN // 6)
    assert report["chosen"] == "the last epoch" and report["recipe"]["seed"] == 42 and report["processes"] == 1
    assert {"versions", "commit", "hardware"} <= report.keys()
    assert str(world.videos.parent) not in json.dumps(report)
    capsys.readouterr()
    before = (run / "report.json").read_bytes()
    assert world.train(run) == 0 and (run / "report.json").read_bytes() == before  # finished: loaded, not scored again
    assert f"test     text to video  R@1 {report['test']['text to video']['R@1']:.1f}" in capsys.readouterr().out


def test_of_the_paper_s_size() -> None:
    with torch.device("meta"):
        model = DiscoVLA(Config.variant("discovla"))
    assert sum(w.numel() for w in trained_weights(model).values()) == 561_200


def test_evaluate_gives_the_report_s_numbers(world: World, run: Path, tmp_path: Path) -> None:
    command = ["discovla", "evaluate", *world.data, "--clip", str(world.clip), "--run", str(run)]
    assert main([*command, "--report", str(tmp_path / "found.json")]) == 0
    report, found = report_of(run), json.loads((tmp_path / "found.json").read_text("utf-8"))
    assert found == {"test": report["test"], "rescored": report["rescored"]}
    untrained = discovla.load_run(run, world.clip)
    with torch.no_grad():
        for weight in trained_weights(untrained.model).values():
            weight.zero_()  # the weights that were put back are what was scored
    parts = msrvtt_protocol("1k-A-9k", world.annotations)
    other = discovla.evaluate(untrained, parts["test"], videos=world.videos)
    assert other["test"] != report["test"] and "QB-Norm" not in other["rescored"]


def test_interrupted_and_gone_on(
    world: World, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, loss, calls = tmp_path / "run", discovla._loss, []

    def pressed(*arguments: Any) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 5:
            os.kill(os.getpid(), signal.SIGINT)
        return loss(*arguments)

    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with monkeypatch.context() as patched:
            patched.setattr(discovla, "_loss", pressed)
            assert world.train(out) == 130
    finally:
        signal.signal(signal.SIGINT, handler)
    assert "Stopped after step 5 of 8" in capsys.readouterr().err
    assert sorted(path.name for path in out.iterdir()) == ["checkpoints", "config.json"]
    assert world.train(out) == 0
    assert (out / "weights.safetensors").read_bytes() == (run / "weights.safetensors").read_bytes()
    ours, theirs = report_of(out), report_of(run)
    assert ours["training"].pop("seconds") != theirs["training"].pop("seconds") and ours == theirs


def test_the_test_split_is_read_once_after_training(
    world: World, run: Path, tmp_path: Path, reads: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    tests = [f"video{i}" for i in range(TRAIN, TRAIN + TEST)]
    videos = tmp_path / "videos"
    shutil.copytree(world.videos, videos)
    broken = videos / "test" / f"{tests[2]}.mp4"
    broken.write_bytes(b"no video")
    moved = world._replace(videos=videos)
    assert moved.train(tmp_path / "run") == 1
    error = capsys.readouterr().err
    assert str(broken) in error and "Traceback" not in error
    assert (tmp_path / "run" / "weights.safetensors").is_file() and not (tmp_path / "run" / "report.json").exists()
    command = ["discovla", "evaluate", *moved.data, "--clip", str(world.clip), "--run", str(tmp_path / "run")]
    assert main([*command, "--workers", "1"]) == 1  # in a process that loads data
    assert str(broken) in (error := capsys.readouterr().err) and "Traceback" not in error
    first = next(n for n, what in enumerate(reads) if what in tests)
    assert reads.count("step") == 8 and "step" not in reads[first:] and set(reads[first:]) <= set(tests)
    reads.clear()
    shutil.copy(world.videos / "test" / broken.name, broken)
    assert moved.train(tmp_path / "run") == 0
    assert reads == tests  # no step, no training video
    assert report_of(tmp_path / "run")["test"] == report_of(run)["test"]


def test_validation_chooses_and_is_never_trained_on(world: World, tmp_path: Path, reads: list[str]) -> None:
    train = msrvtt_protocol("1k-A-9k", world.annotations)["train"]
    rest, held = hold_out(train, 4)
    assert world.train(tmp_path / "run", "--val", "4", "--cache", str(tmp_path / "cache")) == 0
    report = report_of(tmp_path / "run")
    assert report["data"]["val"]["videos"] == len(held) and report["data"]["train"]["videos"] == len(rest)
    first = [name for name in reads[: reads.index("step")]]
    assert set(first) <= {v.id for v in rest}
    assert len([name for name in reads if name != "step"]) == TRAIN + TEST  # with a cache each video is decoded once
    steps = 3 * len(rest) // 6
    assert list(report["training"]["validation"]) == [str(steps), str(2 * steps)]
    scores = report["training"]["validation"]
    best = max(scores, key=lambda step: scores[step])
    assert report["chosen"].startswith(f"step {best}, by R@1 + R@5 + R@10")


def test_it_learns_a_few_videos_by_heart(world: World, tmp_path: Path) -> None:
    train = msrvtt_protocol("1k-A-9k", world.annotations)["train"]
    (tmp_path / "train.json").write_text(json.dumps({v.id: v.captions[:1] for v in train[:6]}), encoding="utf-8")
    (tmp_path / "test.json").write_text(json.dumps({"video12": ["a digit"], "video13": ["two"]}), encoding="utf-8")
    data = ["--videos", str(world.videos), "--captions", str(tmp_path / "train.json"), str(tmp_path / "test.json")]
    told = ["--clip", str(world.clip), "--pseudo", *map(str, world.pseudo), "--out", str(tmp_path / "run")]
    assert main(["discovla", "train", *data, *told, *PLAN, "--epochs", "16", "--rate", "0.02"]) == 0
    report = report_of(tmp_path / "run")
    losses = report["training"]["curve"]["losses"]
    assert report["training"]["steps"] == 16 and losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("variant", ["zero_shot", "lora", "b1", "b2", "b3", "full"])
def test_every_row_of_table_5(world: World, run: Path, tmp_path: Path, variant: str) -> None:
    reading = "paper" if variant in ("b2", "lora") else "released"
    needs = variant in ("b2", "b3")
    more = ["--variant", variant, "--reading", reading, "--epochs", "1"] + ["--dtype", "bfloat16"] * (variant == "lora")
    if needs:
        assert world.train(tmp_path / "none", *more, pseudo=False) == 1 and not (tmp_path / "none").exists()
    assert world.train(tmp_path / "run", *more, pseudo=needs) == 0
    report = report_of(tmp_path / "run")
    assert report["model"]["alpha"] == (0.3 if variant == "b2" else 0) and report["training"]["steps"] == (
        0 if variant == "zero_shot" else 4
    )
    assert (report["trained parameters"] == 0) == (variant == "zero_shot")
    trained = discovla.load_run(tmp_path / "run", world.clip)
    start = discovla._build(trained.clip, trained.recipe.config(trained.clip), 42)
    moved = [not torch.equal(a, b) for a, b in zip(trained.model.parameters(), start.parameters(), strict=True)]
    named = [w.requires_grad for w in start.parameters()]
    assert any(moved) == any(named) and not any(m and not n for m, n in zip(moved, named, strict=True))


FAULTS: dict[str, tuple[list[str], list[str]]] = {
    "videos": ([], ["2 of 14 videos have no file: video3, video11"]),
    "annotations": ([], ["MSRVTT_train.9k.csv", "missing"]),
    "pseudo": ([], ["pseudo1.json", "missing: video1 (3, such as"]),
    "frames": (["--frames", "4"], ["pseudo1.json", "frames=3", "frames=4"]),
    "frames of any file": (["--frames", "4"], ["another number of sentences than 4"]),
    "sampling": (["--sampling", "middle"], ["sampling='seconds'", "sampling='middle'"]),
    "words": (["--words", "49"], ["words=49", "at most 48"]),
    "batch": (["--batch", "30"], ["batch=30", "27 pairs"]),
    "rate": (["--rate", "-1"], ["learning_rate=-1.0"]),
    "val": (["--val", "9"], ["number=9", "leaves 0 of 9 clips"]),
    "clip": (["--clip", "nowhere/nothing"], ["nowhere/nothing", "could not be loaded"]),
    "checkpoints": (["--checkpoint-every", "0"], ["checkpoint_every=0"]),
    "device": (["--device", "cuda:99"], ["device='cuda:99'"]),
    "device's name": (["--device", "gpu"], ["device='gpu'"]),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_wrong_is_said_and_nothing_written(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str], fault: str
) -> None:
    more, said = FAULTS[fault]
    broken = world
    if fault in ("videos", "annotations"):
        place = Path(shutil.copytree(getattr(world, fault), tmp_path / fault))
        for gone in ["video3.mp4", "test/video11.mp4"] if fault == "videos" else ["MSRVTT_train.9k.csv"]:
            (place / gone).unlink()
        broken = world._replace(**{fault: place})
    elif fault == "pseudo":
        broken = world._replace(pseudo=world.pseudo[:1])
    elif fault == "frames of any file":
        copies = [shutil.copy(path, tmp_path) for path in world.pseudo]  # without the record of how they were made
        broken = world._replace(pseudo=[Path(path) for path in copies])
    assert broken.train(tmp_path / "run", *more) == 1
    error = capsys.readouterr().err
    assert all(what in error for what in said) and "Traceback" not in error, error
    assert not (tmp_path / "run").exists()


def test_a_folder_of_another_run_is_left_alone(
    world: World, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = Path(shutil.copytree(run, tmp_path / "run"))
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert world.train(out, "--variant", "b2", "--words", "20") == 1
    error = capsys.readouterr().err
    assert "is of another run" in error and "recipe: words: found 32 there, 20 now" in error
    assert "recipe: variant: found discovla there, b2 now" in error
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    assert world.train(tmp_path) == 1 and "no config.json. Expected a new folder" in capsys.readouterr().err
    assert world.train(tmp_path / "notes.txt") == 1 and "is a file" in capsys.readouterr().err
    assert before == {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}


def test_weights_go_back_on_their_own_clip_alone(
    world: World, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, weights = discovla.load_run(run, world.clip).model, run / "weights.safetensors"
    towers = load(world.clip)
    with torch.no_grad():
        towers.model.logit_scale += 0.01
    towers.save(tmp_path / "clip")
    command = ["discovla", "evaluate", *world.data, "--run", str(run), "--clip"]
    assert main([*command, str(tmp_path / "clip")]) == 1
    assert "trained on a CLIP with other weights" in capsys.readouterr().err
    settings = json.loads((tmp_path / "clip" / "config.json").read_text("utf-8"))
    settings["vision_config"]["num_attention_heads"] = 2
    (tmp_path / "clip" / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    assert main([*command, str(tmp_path / "clip")]) == 1
    assert "was trained on a CLIP of other sizes" in capsys.readouterr().err
    before = {name: weight.clone() for name, weight in trained_weights(model).items()}
    part = {name: weight + 1 for name, weight in list(before.items())[1:]}
    save_file(part, tmp_path / "part.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(weights.read_bytes()[:-9])
    for name, said in (("part", "missing here"), ("cut", "Expected a whole safetensors file")):
        with pytest.raises(ValueError, match=said):
            load_trained(model, tmp_path / f"{name}.safetensors")
    with pytest.raises(FileNotFoundError, match="no such file of trained weights"):
        load_trained(model, tmp_path / "none.safetensors")
    assert all(torch.equal(weight, before[name]) for name, weight in trained_weights(model).items())


def test_what_the_shell_leaves_out_is_the_recipe_s(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Recipe] = []
    monkeypatch.setattr(discovla, "train", lambda recipe, *a, **o: given.append(recipe) or sys.exit("enough"))
    monkeypatch.setattr("vtrlib.recipes.commands._splits", lambda arguments: ((), ()))
    command = ["discovla", "train", "--videos", "v", "--annotations", "a", "--clip", "c", "--out", "o"]
    for more in ([], ["--variant", "full"]):
        with pytest.raises(SystemExit, match="enough"):
            main([*command, *more])
    assert given == [Recipe(), Recipe(variant="full")] and [r.rate for r in given] == [6e-4, 1e-7]


def test_two_processes_train_as_one(world: World, run: Path, tmp_path: Path) -> None:
    """Half a batch each, one loss; the test videos are shared out too.

    The environment is what `accelerate launch` and `torchrun` give each process.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {**os.environ, "ACCELERATE_USE_CPU": "true", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    command = ["discovla", "train", *world.data, "--clip", str(world.clip), "--pseudo", *map(str, world.pseudo), *PLAN]
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "vtrlib", *command, "--out", str(tmp_path / "two")], text=True,
            env={**shared, "MASTER_PORT": port, "RANK": rank, "LOCAL_RANK": rank},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for rank in "01"
    ]  # fmt: skip
    told = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], told
    ours, theirs = report_of(tmp_path / "two"), report_of(run)
    assert ours["processes"] == 2 and ours["data"] == theirs["data"]
    curve = ours["training"]["curve"]["losses"]
    assert len(curve) == 8 and curve == pytest.approx(theirs["training"]["curve"]["losses"], rel=1e-3)
    features = [load_file(out / "test_features.safetensors") for out in (tmp_path / "two", run)]
    for name in ("texts", "videos"):
        torch.testing.assert_close(features[0][name], features[1][name], atol=1e-2, rtol=0)
    # One process speaks: test, DSL and QB-Norm.
    assert told[0][0].count("text to video") == 3 and told[1][0] == ""
