"""CLIP towers: the real loading path on small models saved here, and what goes in and comes out."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

from vtrlib.clip import Towers, load, preprocess, random_towers, tiny_config
from vtrlib.clip.vocabulary import CONTEXT, SPECIAL, build_tokenizer, words
from vtrlib.world import MovingDigits, card


@pytest.fixture(scope="module")
def towers() -> Towers:
    return random_towers(3).eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, towers: Towers) -> Path:
    path = tmp_path_factory.mktemp("clip") / "towers"
    towers.save(path)
    return path


def test_the_tiny_configuration_keeps_to_the_card() -> None:
    config = tiny_config()
    assert 0.9e6 < sum(p.numel() for p in CLIPModel(config).parameters()) < 1.1e6
    assert (config.vision_config.image_size, config.vision_config.patch_size) == (card.SIZE, card.PATCH)
    assert config.vision_config.num_attention_heads >= 2 and config.text_config.num_attention_heads >= 2
    assert config.text_config.max_position_embeddings >= 40


def test_every_word_of_the_world_is_in_the_vocabulary() -> None:
    known, tokenizer = set(words()), build_tokenizer()
    seen: set[str] = set()
    for split in card.SPLITS:
        for view in card.VIEWS:
            world = MovingDigits(split, view, size=60)
            seen |= {w for p in range(card.PARAPHRASES) for q in world.queries(p) for w in q.text.split()}
            seen |= {w for i in range(0, 60, 7) for c in world[i].frame_captions for w in c.split()}
            seen |= {w for i in range(0, 60, 7) for c in world.pretraining_captions(i) for w in c.split()}
    assert len(seen) > 70 and seen <= known
    assert len(tokenizer) == len(known) + len(SPECIAL)
    assert tokenizer.unk_token_id not in tokenizer(sorted(known), add_special_tokens=False)["input_ids"]


def test_tokens(towers: Towers) -> None:
    ids, mask = towers.tokenize(["A red three, in the cave.", "nothing"])
    back = towers.tokenizer.convert_ids_to_tokens(ids[0].tolist())
    assert back == ["[bos]", "a", "red", "three", "in", "the", "cave", "[eos]"]
    assert mask.sum(1).tolist() == [8, 3] and (ids[1, 3:] == 0).all()
    assert towers.tokenizer.eos_token_id == towers.model.config.text_config.eos_token_id != 2


def test_sentences_are_read_at_the_end_token_and_padding_does_not_matter(towers: Towers) -> None:
    alone = towers.encode_text(["a blue one"])
    padded = towers.encode_text(["a blue one", "there is a three in green that moves up in the cave"])[:1]
    torch.testing.assert_close(alone, padded, atol=1e-6, rtol=0)
    ids, mask = towers.tokenize(["a blue one"])
    states = towers.token_states(ids, mask)
    assert states.shape == (1, 5, 64)
    projected = torch.nn.functional.normalize(towers.model.text_projection(states[:, -1]), dim=-1)
    torch.testing.assert_close(projected, alone, atol=1e-6, rtol=0)


def test_frames_of_any_leading_shape(towers: Towers) -> None:
    frames, _ = MovingDigits("val").frames([0, 5])
    both = towers.encode_frames(frames)
    assert both.shape == (2, 8, towers.dimension)
    torch.testing.assert_close(both.norm(dim=-1), torch.ones(2, 8))
    torch.testing.assert_close(towers.encode_frames(frames[1]), both[1], atol=1e-6, rtol=0)
    torch.testing.assert_close(towers.encode_frames(frames[1, 3]), both[1, 3], atol=1e-6, rtol=0)
    assert towers.patch_states(frames[0]).shape == (8, 17, 128)


@pytest.mark.parametrize("shape", [(37, 53), (53, 37), (24, 24), (31, 80), (20, 20)])
def test_preprocessing_is_that_of_the_hugging_face_processor(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (5, 4, 3), dtype=np.uint8)  # smooth, so that only the method can differ
    picture = np.array(Image.fromarray(small).resize(shape[::-1], Image.Resampling.BICUBIC))
    reference = CLIPImageProcessor(size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24})
    expected = reference(Image.fromarray(picture), return_tensors="pt")["pixel_values"][0]
    found = preprocess(torch.from_numpy(picture).permute(2, 0, 1), 24)
    assert found.shape == expected.shape
    assert (found - expected).abs().max() < 2.1 / 255 / 0.26, "at most two grey levels: both round, in other places"
    assert (found - expected).abs().mean() < 0.3 / 255 / 0.26


def test_saved_towers_come_back_without_network(folder: Path, towers: Towers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert sorted(p.name for p in folder.glob("*.bin")) == []
    back = load(folder)
    frames, _ = MovingDigits("val").frames([2])
    torch.testing.assert_close(back.encode_frames(frames), towers.encode_frames(frames))
    torch.testing.assert_close(back.encode_text(["a red two"]), towers.encode_text(["a red two"]))
    assert (back.mean, back.std, back.context) == (towers.mean, towers.std, CONTEXT)
    assert not back.training
    assert load(folder, dtype=torch.bfloat16).encode_frames(frames).dtype == torch.bfloat16
    assert CLIPModel.from_pretrained(folder).config.projection_dim == 64, "an ordinary transformers folder"


@pytest.mark.parametrize("eos", [2, 7])
def test_both_rules_for_the_end_token(tmp_path: Path, towers: Towers, eos: int) -> None:
    """Old hub configurations (eos_token_id 2) read at the largest id, later ones at the first end token."""
    text = {"vocab_size": 90, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
            "num_attention_heads": 2, "max_position_embeddings": 12, "eos_token_id": eos, "bos_token_id": 1}  # fmt: skip
    vision = {"image_size": 16, "patch_size": 8, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
              "num_attention_heads": 2}  # fmt: skip
    torch.manual_seed(0)
    model = Towers(
        CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=20)), towers.tokenizer, "odd",
        (0.5,) * 3, (0.5,) * 3,
    ).eval()  # fmt: skip
    ids = torch.tensor([[1, 30, 7, 80, 7, 4]])
    states = model.token_states(ids, torch.ones_like(ids))
    where = 3 if eos == 2 else 2
    expected = torch.nn.functional.normalize(model.model.text_projection(states[:, where]), dim=-1)
    torch.testing.assert_close(model.encode_tokens(ids, torch.ones_like(ids)), expected)


def test_a_long_sentence_is_cut_at_its_end_token_and_warned_of_once(towers: Towers) -> None:
    fresh = random_towers(3).eval()
    long = " ".join(["red"] * 100)
    with pytest.warns(UserWarning, match="1 of 2 sentences are cut to 48 tokens"):
        ids, mask = fresh.tokenize([long, "a red one"])
    assert ids.shape == (2, 48) and ids[0, -1] == fresh.tokenizer.eos_token_id and mask[0].all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fresh.tokenize([long])
        fresh.tokenize([" ".join(["red"] * 46)])  # fits exactly


def test_an_unknown_word_is_warned_of_once() -> None:
    fresh = random_towers(3)
    with pytest.warns(UserWarning, match="not in the vocabulary.*'a zebra'"):
        ids, _ = fresh.tokenize(["a red one", "a zebra"])
    assert (ids == fresh.tokenizer.unk_token_id).sum() == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fresh.tokenize(["a zebra"])


def test_bad_input_is_named(towers: Towers) -> None:
    with pytest.raises(ValueError, match="texts is empty"):
        towers.encode_text([])
    with pytest.raises(TypeError, match="expected a list of sentences"):
        towers.encode_text("a red one")
    with pytest.raises(TypeError, match="frames .*float32.*expected uint8"):
        towers.encode_frames(torch.rand(2, 3, 32, 32))
    with pytest.raises(ValueError, match=r"frames \(2, 1, 32, 32\): expected \(..., 3, H, W\)"):
        towers.encode_frames(torch.zeros(2, 1, 32, 32, dtype=torch.uint8))
    with pytest.raises(ValueError, match="at least one frame"):
        towers.encode_frames(torch.zeros(0, 3, 32, 32, dtype=torch.uint8))


def test_folders_that_lack_a_part_are_named(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(FileNotFoundError, match="there is no such folder"):
        load(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="'nobody/nothing'.*Expected 'tiny', a folder, or the name"):
        load("nobody/nothing")
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    (broken / "model.safetensors").rename(broken / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match="has no safetensors weights; its .bin weights are pickles"):
        load(broken)
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps({**config, "model_type": "siglip"}))
    with pytest.raises(ValueError, match="model_type is 'siglip', expected 'clip'"):
        load(broken)
    (broken / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config.json: .*Expected JSON"):
        load(broken)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("model.safetensors", b"", "could not be read .*header too small.*undamaged; download or save it again"),
        ("model.safetensors", 5000, "could not be read .*invalid header length"),
        ("model.safetensors", -9, "could not be read .*incomplete"),
        ("model.safetensors", b"\x80\x04pickled code", "could not be read .*header too large"),
        ("tokenizer.json", b"{", "could not be read .*Expecting property name"),
        ("preprocessor_config.json", b"{", "preprocessor_config.json: Expecting .*Expected JSON"),
        ("config.json", b"[]", "model_type is None, expected 'clip'"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, folder: Path, name: str, content: bytes | int, message: str) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    whole = (broken / name).read_bytes()
    (broken / name).write_bytes(content if isinstance(content, bytes) else whole[:content])
    with pytest.raises(ValueError, match=f"(?s)broken.*{message}"):
        load(broken)


@pytest.mark.parametrize(
    ("key", "change", "message"),
    [
        ("num_hidden_layers", 1, r"its weights lack vision_model.encoder.layers.*in all"),
        ("num_hidden_layers", -1, r"its weights also hold vision_model.encoder.layers.*in all"),
        ("intermediate_size", 8, "could not be read"),
    ],
)
def test_weights_of_another_configuration_are_refused(
    tmp_path: Path, folder: Path, key: str, change: int, message: str
) -> None:
    """Missing ones would stay random, and only a log would say so."""
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    config = json.loads((broken / "config.json").read_text())
    config["vision_config"][key] += change
    (broken / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=f"broken.*{message}"):
        load(broken)


def test_a_folder_without_a_tokenizer_is_named(tmp_path: Path, folder: Path) -> None:
    shutil.copytree(folder, tmp_path / "broken")
    for path in (tmp_path / "broken").glob("tokenizer*"):
        path.unlink()
    with pytest.raises(FileNotFoundError, match="broken: has no tokenizer. Expected tokenizer.json"):
        load(tmp_path / "broken")


def test_random_towers_leave_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one, other = random_towers(1), random_towers(1)
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
