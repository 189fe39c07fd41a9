"""Released checkpoints: strict names, any size, and a conversion that runs nothing of what it reads."""

from __future__ import annotations

import io
import json
import os
import pickle
import sys
import types
import zipfile
from collections import OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from small_dreamprvr import batch, golden, golden_batch, small
from torch import Tensor

from vtrlib.dreamprvr import DreamPRVR
from vtrlib.released import convert, from_state_dict, load, renamed
from vtrlib.released.dreamprvr import names

FOUND = golden()


def theirs(model: DreamPRVR) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A model of ours as a released state dict and configuration."""
    c = model.config
    config = {
        "visual_feat_dim": c.video_width, "q_feat_size": c.text_width, "hidden_size": c.width, "n_heads": c.heads,
        "num_registers": c.registers, "timesteps": c.steps, "max_desc_l": c.words, "attention_num": c.blocks,
        "num_diffusion_layers": c.estimator_blocks, "drop": c.dropout, "input_drop": c.input_dropout,
        "sft_factor": c.mixing_temperature, "clip_scale_w": c.clip_share, "frame_scale_w": c.frame_share,
        "deterministic_tau": c.temperature, "margin": c.margin, "hard_pool_size": c.hard_pool,
        "loss_factor": [0.02, 0.04, 0.003, 0.002, 1e-4, 1e-3], "neg_factor": [0.2, 32, 1], "unheard_of": None,
    }  # fmt: skip
    return renamed({k: v.detach().clone() for k, v in model.named_parameters()}, names(model)), config


# --- names and sizes ---


def test_golden_names_both_ways() -> None:
    model = from_state_dict("dreamprvr", FOUND["state_dict"], FOUND["config"])
    assert isinstance(model, DreamPRVR) and not model.training
    again = renamed(dict(model.named_parameters()), names(model))
    assert again.keys() == FOUND["state_dict"].keys()
    assert all(again[name].equal(tensor) for name, tensor in FOUND["state_dict"].items())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "settings",
    [
        {}, {"registers": 1, "steps": 5, "heads": 2}, {"blocks": 1}, {"blocks": 6, "estimator_blocks": 3},
        {"clips": 4, "frames": 6, "clip_positions": 11}, {"width": 15, "heads": 5, "pool_width": 6},
    ],
)  # fmt: skip
def test_any_size_round_trip(settings: dict[str, Any], dtype: torch.dtype) -> None:
    model = small(dtype=dtype, **settings)
    again = from_state_dict("dreamprvr", *theirs(model))
    assert isinstance(again, DreamPRVR)
    data = batch(model.config, dtype)
    for a, b in zip(*(m.encode_video(data.clips, data.frames, data.frame_mask) for m in (model, again)), strict=True):
        assert a.equal(b) and a.dtype in (dtype, torch.bool)


def test_the_model_has_weights_of_its_own() -> None:
    model = from_state_dict("dreamprvr", FOUND["state_dict"], FOUND["config"])
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(1)
    kept = golden()["state_dict"]
    assert all(tensor.equal(kept[name]) for name, tensor in FOUND["state_dict"].items())


def test_what_does_not_fit_is_named() -> None:
    state, config = dict(FOUND["state_dict"]), FOUND["config"]
    del state["diffusion_mlp.layers.0.blcok_in.0.weight"]
    state["encoder.of.another.model"] = torch.zeros(1)
    state["modular_vector_mapping.weight"] = torch.zeros(1, 31)
    with pytest.raises(ValueError, match="do not fit the configuration") as caught:
        from_state_dict("dreamprvr", state, config)
    message = str(caught.value)
    assert "missing: diffusion_mlp.layers.0.blcok_in.0.weight" in message
    assert "not expected: encoder.of.another.model" in message
    assert "of another shape: modular_vector_mapping.weight (1, 31), not (1, 32)" in message
    with pytest.raises(ValueError, match=r"query_tokens \(1, 3, 32\), not \(1, 5, 32\)"):
        from_state_dict("dreamprvr", FOUND["state_dict"], {**config, "num_registers": 5})
    with pytest.raises(ValueError, match="config: found no n_heads, timesteps, expected the keys"):
        short = {key: value for key, value in config.items() if key not in ("n_heads", "timesteps")}
        from_state_dict("dreamprvr", FOUND["state_dict"], short)
    with pytest.raises(ValueError, match="paper='dreamprv': expected one of .* Did you mean 'dreamprvr'"):
        from_state_dict("dreamprv", state, config)
    with pytest.raises(ValueError, match="state_dict: found no tensors"):
        from_state_dict("dreamprvr", {}, config)


# --- conversion ---


class Danger:
    """Writes a file when it is unpickled, if anything does."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


def checkpoint(**more: Any) -> dict[str, Any]:
    weights = OrderedDict((name, tensor.clone()) for name, tensor in FOUND["state_dict"].items())
    return {"config": FOUND["config"], "epoch": 7, "model_val": np.float64(80.5), "state_dict": weights, **more}


def schedule_of_authors() -> Any:
    """An object of a class that cannot be imported any more."""
    module = types.ModuleType("src_of_authors.opts")
    kind = type("_WarmupLinearSchedule", (), {"__module__": module.__name__, "__qualname__": "_WarmupLinearSchedule"})
    module._WarmupLinearSchedule = kind  # type: ignore[attr-defined]
    sys.modules["src_of_authors"], sys.modules[module.__name__] = types.ModuleType("src_of_authors"), module
    made = kind()
    made.warmup, made.itself = 0.1, made
    return made


@pytest.fixture
def optimizer() -> Any:
    found = {"state": {0: {"next_m": torch.ones(3)}}, "param_groups": [{"lr": 0.1, "schedule": schedule_of_authors()}]}
    yield found
    for name in ("src_of_authors.opts", "src_of_authors"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("protocol", [2, 4])
def test_a_checkpoint_becomes_safetensors(tmp_path: Path, zipped: bool, protocol: int, optimizer: Any) -> None:
    path = tmp_path / "best.ckpt"
    torch.save(
        checkpoint(optimizer=optimizer), path, _use_new_zipfile_serialization=zipped, pickle_protocol=protocol
    )  # fmt: skip
    del sys.modules["src_of_authors.opts"], sys.modules["src_of_authors"]
    made = convert(path, tmp_path / "ours")
    assert made.skipped == ("optimizer: src_of_authors.opts._WarmupLinearSchedule",)
    found = load_file(made.weights)
    assert found.keys() == FOUND["state_dict"].keys()
    assert all(found[name].equal(tensor) for name, tensor in FOUND["state_dict"].items())
    settings = json.loads(made.settings.read_text("utf-8"))
    assert settings["config"] == FOUND["config"] and settings["epoch"] == 7 and settings["model_val"] == 80.5
    assert "optimizer" not in settings and len(settings["sha256"]) == 64
    model = load(tmp_path / "ours", "dreamprvr")
    data = golden_batch(FOUND["inputs"], torch.float32)
    with torch.no_grad():
        clips = model.encode_video(*data[:3]).clips  # type: ignore[operator]
    torch.testing.assert_close(clips, FOUND["outputs"]["float32"]["clip_encoding"], rtol=1e-5, atol=1e-5)
    assert sorted(file.name for file in (tmp_path / "ours").iterdir()) == ["config.json", "weights.safetensors"]


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("place", ["config", "optimizer", "state_dict", "extra"])
def test_nothing_runs_and_what_would_is_named(tmp_path: Path, zipped: bool, place: str) -> None:
    path, trap = tmp_path / "best.ckpt", tmp_path / "it_ran"
    content = checkpoint(optimizer={"param_groups": []}, extra=0)
    content[place] = {"here": Danger(trap)}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(
        ValueError, match=r"best.ckpt: found the name (posix|nt)\.system, .*not imported, let alone run"
    ):
        convert(path, tmp_path / "ours.safetensors")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["best.ckpt"]


@pytest.mark.parametrize(
    ("payload", "name"),
    [
        (b"cbuiltins\neval\n(S'1/0'\ntR.", "builtins.eval"),
        (b"csubprocess\nPopen\n(S'false'\ntR.", "subprocess.Popen"),
        (b"cimportlib\nimport_module\n(S'antigravity'\ntR.", "importlib.import_module"),
        (b"c__builtin__\ngetattr\n.", "__builtin__.getattr"),
    ],
)
def test_no_way_out_of_the_standard_library(tmp_path: Path, payload: bytes, name: str) -> None:
    path = archive(tmp_path, payload)
    with pytest.raises(ValueError, match=f"found the name {name}"):
        convert(path, tmp_path / "ours")


@pytest.mark.parametrize(
    ("payload", "name"),
    [
        (b"(dS'state_dict'\nctorch.hub\nload\n(S'x'\ntRs.", "state_dict: torch.hub.load"),
        (b"(dS'config'\nctorch\nload\ns.", "config: torch.load"),
        (b"(dS'config'\ncauthors.module\nOptions\n)\x81}S'a'\nI1\nsbs.", "config: authors.module.Options"),
        (b"cauthors\nModel\n)\x81.", "top level: authors.Model"),
    ],
)
def test_other_objects_are_refused_by_name(tmp_path: Path, payload: bytes, name: str) -> None:
    path = archive(tmp_path, payload)
    with pytest.raises(ValueError, match=f"found {name}"):
        convert(path, tmp_path / "ours")


def archive(folder: Path, payload: bytes) -> Path:
    path = folder / "best.ckpt"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", payload)
    return path


def test_plain_things_of_many_kinds(tmp_path: Path) -> None:
    odd = {
        "set": {3}, "tuple": (1, 2.5), "nan": float("nan"), "bytes": b"ab", "dtype": torch.float16, "none": None,
        "device": torch.device("cpu"), "size": torch.Size([2, 3]), "many": defaultdict(list, a=[1]), 3: np.int64(4),
        "flag": np.bool_(True), "scalar": torch.tensor(2.5),
    }  # fmt: skip
    loop: list[Any] = []
    loop.append(loop)
    shared = torch.arange(12.0).reshape(3, 4)
    weights = {"a": shared[:, 1:3], "b": shared.mT, "c": torch.nn.Parameter(shared), "d": torch.empty(0, 3),
               "e": torch.tensor(3), "f": torch.ones(2, dtype=torch.bfloat16), "module.g": torch.tensor([True])}  # fmt: skip
    for number, content in enumerate(({"state_dict": weights, "odd": odd, "optimizer": loop}, weights)):
        path = tmp_path / f"{number}.ckpt"
        torch.save(content, path)
        made = convert(path, tmp_path / f"{number}.safetensors")
        found = load_file(made.weights)
        assert found["a"].equal(shared[:, 1:3]) and found["b"].equal(shared.mT) and found["c"].equal(shared)
        assert found["d"].shape == (0, 3) and found["e"] == 3 and found["f"].dtype == torch.bfloat16 and found["g"]
    settings = json.loads((tmp_path / "0.json").read_text("utf-8"))["odd"]
    assert settings == {
        "set": [3], "tuple": [1, 2.5], "nan": "nan", "bytes": "b'ab'", "dtype": "torch.float16", "none": None,
        "device": "cpu", "size": [2, 3], "many": {"a": [1]}, "3": 4, "flag": True, "scalar": 2.5,
    }  # fmt: skip


def test_damaged_files_are_named(tmp_path: Path) -> None:
    path, out = tmp_path / "best.ckpt", tmp_path / "ours"
    with pytest.raises(FileNotFoundError, match="best.ckpt: not there"):
        convert(path, out)
    torch.save(checkpoint(), path)
    whole = path.read_bytes()
    for content in (b"", b"hello", whole[: len(whole) // 2], pickle.dumps([1, 2])):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="best.ckpt: found no checkpoint that can be read"):
            convert(path, out)
    old = io.BytesIO()
    torch.save(checkpoint(), old, _use_new_zipfile_serialization=False)
    path.write_bytes(old.getvalue()[:-50])
    with pytest.raises(ValueError, match="best.ckpt: found no checkpoint"):
        convert(path, out)
    for content, message in (
        ([1], "found list, expected a mapping"),
        ({"a": 1}, "found a among the weights"),
        ({}, "found nothing"),
    ):
        torch.save(content, path)
        with pytest.raises(ValueError, match=message):
            convert(path, out)
    loop: dict[str, Any] = {}
    loop["config"] = loop
    torch.save({"state_dict": {"a": torch.ones(1)}, "config": loop}, path)
    with pytest.raises(ValueError, match="holds itself"):
        convert(path, out)
    assert not out.exists()


def test_a_tensor_cannot_reach_beyond_its_storage(tmp_path: Path) -> None:
    path = tmp_path / "best.ckpt"
    torch.save({"a": torch.ones(4)}, path)
    with zipfile.ZipFile(path) as file:
        content = {name: file.read(name) for name in file.namelist()}
    key = next(name for name in content if name.endswith("data.pkl"))
    content[key] = content[key].replace(b"K\x04\x85", b"K\x40\x85")  # its size 4 becomes 64
    with zipfile.ZipFile(path, "w") as file:
        for name, value in content.items():
            file.writestr(name, value)
    with pytest.raises(ValueError, match="found no checkpoint that can be read .*out of bounds"):
        convert(path, tmp_path / "ours")


def test_a_failed_write_leaves_the_older_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "best.ckpt"
    torch.save(checkpoint(), path)
    made = convert(path, tmp_path / "ours")
    kept = made.weights.read_bytes()

    def full(weights: object, part: Path) -> None:
        part.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("vtrlib.released.conversion.save_file", full)
    with pytest.raises(OSError, match="No space left"):
        convert(path, tmp_path / "ours")
    assert made.weights.read_bytes() == kept and len([*(tmp_path / "ours").iterdir()]) == 2


def test_load_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match="weights.safetensors: not there. Expected what vtrlib.released.convert"
    ):
        load(tmp_path, "dreamprvr")
