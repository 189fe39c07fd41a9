"""The tiny towers: what they learn from, how they were trained, and what ships."""

from __future__ import annotations

import itertools
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from vtrlib.clip import load, random_towers, towers
from vtrlib.clip.pretraining import Batches, FrameStream
from vtrlib.losses import info_nce
from vtrlib.studies import tiny_clip
from vtrlib.studies.tiny_clip import FLAT, Recipe, learning_rate, pretrain, zero_shot
from vtrlib.world import MovingDigits, card
from vtrlib.world.grammar import MOTION_PHRASES

FACTS = json.loads((towers.TINY / "recipe.json").read_text("utf-8"))
PHRASES = [phrase for synonyms in MOTION_PHRASES for phrase in synonyms]


def test_a_batch_is_known_by_its_number() -> None:
    stream = FrameStream(seed=2, easy=5)
    one, again = stream.batch(7, 40), FrameStream(seed=2, easy=5).batch(7, 40)
    assert torch.equal(one.frames, again.frames) and one.captions == again.captions
    assert not torch.equal(one.frames, stream.batch(8, 40).frames)
    assert not torch.equal(one.frames, FrameStream(seed=3, easy=5).batch(7, 40).frames)
    part = stream.batch(7, 17)
    assert torch.equal(part.frames, one.frames[:17]) and part.captions == one.captions[:17]
    same = torch.tensor([[a == b for b in one.captions] for a in one.captions])
    assert torch.equal(one.same, same) and same.diagonal().all()


def test_a_lesson_is_the_stream_in_order() -> None:
    stream = FrameStream(seed=2, easy=5)
    lesson = Batches(stream, first=6, steps=3, size=17)
    assert len(lesson) == 3 and lesson[1].captions == stream.batch(7, 17).captions
    assert [batch.captions for batch in lesson] == [stream.batch(t, 17).captions for t in (6, 7, 8)]
    with pytest.raises(IndexError, match="index=3: expected one from 0 to 2"):
        lesson[3]


def test_places_spread_and_groups_share_scene_and_colour() -> None:
    stream = FrameStream(easy=20)
    easy, late = stream.batch(0, 256), stream.batch(401, 256)
    shows = [c for c in easy.captions if c.startswith(("a ", "an ")) and "curtain" not in c]
    assert len(shows) > 200 and all("in the middle" in c for c in shows)
    assert not {"small", "large", "tilted", "upside-down"} & {word for c in shows for word in c.split()}
    assert sum("in the middle" in c for c in late.captions) < 80 and any("tilted" in c for c in late.captions)
    for batch in (easy, late):
        for start in range(0, 256, 32):
            group = [c for c in batch.captions[start : start + 32] if "fog" not in c and "curtain" not in c]
            assert len({cue for c in group for cue in card.SCENE_CUES if cue in c}) == 1
    mixed = stream.batch(400, 256).captions[:32]
    assert len({cue for c in mixed for cue in card.SCENE_CUES if cue in c}) > 1


def test_digits_are_even_and_motion_words_come_at_the_fixed_rate() -> None:
    captions = [c for t in range(8) for c in FrameStream(easy=0).batch(t, 256).captions]
    said = [[d in c.split() for d in card.DIGIT_WORDS] for c in captions]
    counts = np.sum(said, axis=0)
    assert abs(counts / counts.sum() - 0.1).max() < 0.025
    shows = [c for c in captions if any(d in c.split() for d in card.DIGIT_WORDS)]
    rate = np.mean([any(f" that {p}" in c for p in PHRASES) for c in shows])
    assert abs(rate - 1 / card.MOTION_WORD_EVERY) < 0.04
    assert any("blur" in c for c in captions) and any(c.startswith("nothing") for c in captions)


def test_the_rate_warms_up_stays_and_falls() -> None:
    rates = [learning_rate(step, 1000, 2.0, flat=0.3) for step in range(1000)]
    assert rates[0] == pytest.approx(2 / 40) and rates[39:300] == [2.0] * 261
    assert all(a >= b for a, b in itertools.pairwise(rates[300:])) and rates[-1] < 1e-4


def test_training_starts_on_the_recorded_curve() -> None:
    """The recipe that stands in the repository is the one that made the weights."""
    recipe = Recipe(**FACTS["recipe"])
    assert recipe == Recipe()
    curve = pretrain(random_towers(recipe.seed), recipe, until=4)
    np.testing.assert_allclose(curve["reading"], FACTS["curve"]["reading"][:4], rtol=1e-3)
    assert curve["matching"] == []


SHORT = Recipe(read_steps=3, match_steps=30, read_batch=16, match_batch=64, easy=0, match_rate=2e-3)


def test_both_lessons_run_and_teach() -> None:
    pupil = random_towers(1)
    curve = pretrain(pupil, SHORT)
    assert [len(curve["reading"]), len(curve["matching"])] == [3, 30]
    assert np.mean(curve["matching"][-5:]) < np.mean(curve["matching"][:5]) - 0.15
    assert float(pupil.model.logit_scale.detach()) <= np.log(100) + 1e-6
    assert not pupil.training
    stopped = pretrain(random_towers(1), SHORT, until=5)
    assert stopped == {"reading": curve["reading"], "matching": curve["matching"][:2]}, "the same plan"


def test_pretraining_is_the_naive_loop() -> None:
    """Matching alone, against a loop written out: rates, decay of matrices only, clipping, clamped temperature."""
    recipe = Recipe(seed=1, read_steps=0, match_steps=5, match_batch=48, easy=0, match_rate=0.05, decay=0.3, clip=0.2)
    pupil, naive = random_towers(1), random_towers(1)
    for one in (pupil, naive):
        one.model.logit_scale.data.fill_(np.log(100) + 0.1)  # so that the clamp is met
    losses = pretrain(pupil, recipe)["matching"]
    wide = [p for p in naive.parameters() if p.ndim > 1]
    narrow = [p for p in naive.parameters() if p.ndim < 2]
    groups = [{"params": wide, "weight_decay": 0.3}, {"params": narrow, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, betas=(0.9, 0.98))
    expected = []
    for step in range(5):
        batch = FrameStream(1, 0).batch(step, 48)
        scores = naive.encode_frames(batch.frames) @ naive.encode_text(batch.captions).T
        loss = info_nce(scores, batch.same, scale=naive.model.logit_scale.exp())
        expected.append(loss.item())
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(naive.parameters(), 0.2)
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, 5, 0.05, FLAT["matching"])
        optimiser.step()
        naive.model.logit_scale.data.clamp_(max=np.log(100))
    assert losses == pytest.approx(expected, rel=1e-4)
    for ours, theirs in zip(pupil.parameters(), naive.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


def test_what_ships_is_written_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiny_clip, "zero_shot", lambda towers, split: {"digit": float(len(split))})
    facts = tiny_clip.ship(tmp_path, replace(SHORT, match_steps=2), every=2)
    assert json.loads((tmp_path / "recipe.json").read_text()) == facts
    assert facts.keys() == FACTS.keys() and facts["zero_shot"] == {"val": {"digit": 3.0}, "test": {"digit": 4.0}}
    assert {lesson: len(losses) for lesson, losses in facts["curve"].items()} == {"reading": 3, "matching": 2}
    assert next(load(tmp_path).parameters()).dtype == torch.float32


def test_shipped_towers_are_small_half_precision_and_as_recorded() -> None:
    weights = towers.TINY / "model.safetensors"
    assert sum(p.stat().st_size for p in towers.TINY.iterdir()) < 5_000_000
    shipped = load("tiny")
    assert sum(p.numel() for p in shipped.parameters()) == FACTS["parameters"]
    from safetensors import safe_open

    with safe_open(weights, "pt") as file:
        floats = [file.get_tensor(key).dtype for key in file.keys()]  # noqa: SIM118  not a mapping
    assert set(floats) <= {torch.float16, torch.int64}
    scores = zero_shot(shipped, "val", clips=120)
    for what, chance in (("digit", 0.1), ("colour", 1 / 6), ("scene", 1 / 6)):
        assert abs(scores[what] - FACTS["zero_shot"]["val"][what]) < 0.06
        assert scores[what] > 4 * chance


def test_other_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "tiny_clip"
    shutil.copytree(towers.TINY, copy)
    monkeypatch.setattr(towers, "TINY", copy)
    load("tiny")
    data = bytearray((copy / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (copy / "model.safetensors").write_bytes(data)
    with pytest.raises(ValueError, match="sha256 is .* expected .* Install vtrlib again"):
        load("tiny")
    (copy / "recipe.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"recipe.json: is missing"):
        load("tiny")


def test_frames_are_encoded_one_by_one() -> None:
    """So no order of frames reaches the space: a clip and its reversal are the same bag of points."""
    shipped = load("tiny").frozen()
    frames, _ = MovingDigits("val").frames([4, 9])
    there, back = shipped.encode_frames(frames), shipped.encode_frames(frames.flip(1))
    torch.testing.assert_close(there, back.flip(1), atol=1e-6, rtol=0)
    alone = torch.stack([shipped.encode_frames(frame) for frame in frames[0]])
    torch.testing.assert_close(there[0], alone, atol=1e-6, rtol=0)
    assert (there[0, 0] - there[0, -1]).abs().max() > 1e-3
