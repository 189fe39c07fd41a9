"""The dark stage: the world's own clips on one ground, and its sentences, said and understood."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from vtrlib.world import DarkStage, Event, MovingDigits, card
from vtrlib.world.dark_stage import parts_of, prompt
from vtrlib.world.draws import Draws
from vtrlib.world.grammar import MOTION_PHRASES, TEMPLATES, moment_captions
from vtrlib.world.render import sprites
from vtrlib.world.stage import stage

SIZE = 200  # with near-duplicates among them


@functools.cache
def dark(split: str = "train") -> DarkStage:
    return DarkStage(split, size=SIZE)


@functools.cache
def world(split: str = "train") -> MovingDigits:
    return MovingDigits(split, "trimmed", size=SIZE)


@functools.cache
def ground() -> torch.Tensor:
    """(3, H, W), as it stands where a digit that blinks is out."""
    return bare_frames(dark(), world())[0]


def bare_frames(made: DarkStage, of: MovingDigits) -> torch.Tensor:
    """(n, 3, H, W), those in which the world's mask has no pixel."""
    return made.frames[~of.frames()[1].flatten(2).any(2)]


# --- frames ---


def test_shapes() -> None:
    made = dark()
    assert len(made) == SIZE and made.frames.dtype == torch.uint8
    assert made.frames.shape == (SIZE, card.PHASES, 3, card.SIZE, card.SIZE)
    for one in (made.digit, made.colour, made.motion, made.duplicate_of):
        assert one.shape == (SIZE,) and one.dtype == torch.int64


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_clip_shows_what_the_worlds_clip_shows(split: str) -> None:
    """Event for event, and pixel for pixel of the digit: where the ink covers at least 96 of 255 of the ground."""
    made, of = dark(split), world(split)
    for n in range(0, SIZE, 7):
        assert [made.event(n)] == [moment.event for moment in of[n].moments]
    _, mask = of.frames()
    ink = torch.tensor(card.COLOUR_RGB)[made.colour]
    channel = (ink[:, :, None, None] - ground()).amin((2, 3)).argmax(1)  # the brightest against the ground
    every = torch.arange(SIZE)
    shown = made.frames[every, :, channel].int()  # (V, F, H, W)
    behind, over = ground()[channel].int()[:, None], ink[every, channel].int()[:, None, None, None]
    least = (behind * (255 - 96) + over * 96 + 127) // 255
    # A level of the frame is more than one of opacity: one that is met exactly may be 95 or 96.
    assert not (mask & (shown < least)).any() and not (~mask & (shown > least)).any()
    assert (shown > least).sum() > 0.95 * mask.sum() > 0


def test_a_naive_painter_agrees() -> None:
    """The sprite where the world's screenplay has it, on the ground, and nothing else: to the byte."""
    play = world().screenplay
    staging = stage(play)
    for n, f in itertools.product(range(0, SIZE, 17), range(card.PHASES)):
        expected = ground().numpy().astype(int)
        if staging.visible[n, f]:
            alpha = sprites()[play.image[n, 0], staging.pose[n, f]].astype(int)
            rows, columns = (slice(at[n, f], at[n, f] + card.CANVAS) for at in (staging.y, staging.x))
            for c, level in enumerate(card.COLOUR_RGB[play.colour[n, 0]]):
                part = expected[c, rows, columns]
                expected[c, rows, columns] = np.floor((part * (255 - alpha) + level * alpha) / 255 + 0.5)
        assert (dark().frames[n, f].numpy() == expected).all()


def test_the_ground_is_one_and_dark() -> None:
    """The same in all clips of all worlds and splits; darker than any ink, and far darker than what stood there."""
    other = bare_frames(DarkStage("val", seed=3, size=60), MovingDigits("val", seed=3, size=60))
    bare = torch.cat([bare_frames(dark(), world()), other])
    assert len(other) > 2 and len(bare) > 40 and all(one.equal(ground()) for one in bare)
    assert ground().max() < 70 and all(max(rgb) - int(ground().max()) > 150 for rgb in card.COLOUR_RGB)
    frames, mask = world().frames()
    elsewhere = frames.float().mean(2)[~mask]
    assert ground().float().mean() < 0.5 * elsewhere.mean()


def test_another_seed_is_another_world_and_a_part_is_a_part() -> None:
    assert DarkStage("train", size=7).frames.equal(dark().frames[:7])
    other = DarkStage("train", seed=1, size=SIZE)
    assert not other.frames.equal(dark().frames) and not other.digit.equal(dark().digit)


def test_duplicates() -> None:
    """They repeat an earlier clip's event, handwriting and poses, a pixel aside at most."""
    made, play = dark(), world().screenplay
    staging = stage(play)
    repeats = [(n, int(of)) for n, of in enumerate(made.duplicate_of) if of >= 0]
    assert len(repeats) > 2 and made.duplicate_of.tolist() == play.duplicate_of.tolist()
    assert set(made.duplicate_of.tolist()) - {source for _, source in repeats} == {-1}
    for n, source in repeats:
        assert source < n and made.event(n) == made.event(source) and play.image[n, 0] == play.image[source, 0]
        aside = [int(at[n, 0] - at[source, 0]) for at in (staging.y, staging.x)]
        assert max(map(abs, aside)) <= 1
        ink, repeated, other = (made.frames[one].int() - ground().int() for one in (n, source, source + 1))
        # Under the same opacity inks differ by no more than the ground does.
        most = int(ground().amax()) - int(ground().amin()) + 1
        assert (ink - repeated.roll(aside, (2, 3))).abs().max() <= most < 50 < (ink - other).abs().max()


def test_bad_stage() -> None:
    with pytest.raises(ValueError, match="split='trian': expected one of .*Did you mean 'train'"):
        DarkStage("trian")
    with pytest.raises(ValueError, match="size=0: expected between 1 and 2000"):
        DarkStage("train", size=0)


# --- sentences ---


def test_prompts() -> None:
    assert prompt(7, 0) == "a red seven" and prompt(7, 0, 0) == "a red seven moves left"
    assert [prompt(8, 4, 7, wording) for wording in range(3)] == [
        "a purple eight blinks", "a purple eight flashes on and off", "a purple eight flickers",
    ]  # fmt: skip
    made = dark()
    for wording in range(3):
        said = made.prompts(wording=wording)
        assert [parts_of(text) for text in said] == [
            (event.digit, event.colour, event.motion) for event in map(made.event, range(SIZE))
        ]
        assert said[5] == prompt(*(int(one[5]) for one in (made.digit, made.colour, made.motion)), wording)
    assert len({*made.prompts(), *made.prompts(wording=1), *made.prompts(wording=2)}) > 2 * len(set(made.prompts()))
    bare = made.prompts(motion=False)
    assert [parts_of(text) for text in bare] == [(*pair, None) for pair in zip(made.digit, made.colour, strict=True)]


@pytest.mark.parametrize("template", TEMPLATES)
def test_every_wording_is_understood(template: str) -> None:
    """All digits, colours and phrases."""
    for digit, colour, motion in itertools.product(range(10), range(len(card.COLOURS)), range(len(card.MOTIONS))):
        word = card.DIGIT_WORDS[digit]
        for phrase in MOTION_PHRASES[motion]:
            text = template.format(
                colour=card.COLOURS[colour], digit=word, a_digit=f"{'an' if digit == 8 else 'a'} {word}", motion=phrase,
                cue="",
            )  # fmt: skip
            assert parts_of(text) == (digit, colour, motion), text


def test_captions_of_the_world_are_understood() -> None:
    """As its own grammar says them, where nothing is said about the scene; where something is, they are refused."""
    play = world().screenplay
    silent = replace(play, cue=np.zeros_like(play.cue))
    spoken = replace(play, cue=np.ones_like(play.cue))
    for n in range(0, SIZE, 3):
        key = Draws.of("captions of a test", n).each(n)
        texts = moment_captions(silent, n, 0, key)
        assert len(texts) == card.PARAPHRASES and all(Event(*parts_of(text)) == dark().event(n) for text in texts)
        for text in moment_captions(spoken, n, 0, key):
            place = card.SCENE_CUES[play.scene[n]].split()[-1]
            with pytest.raises(ValueError, match=rf"found .*'{place}', expected a colour, a digit and a motion"):
                parts_of(text)


def test_case_and_points_do_not_matter() -> None:
    assert parts_of("A red SEVEN, moves left.") == (7, 0, 0)
    assert parts_of("red seven") == (7, 0, None)
    assert parts_of("moves left: a red seven") == (7, 0, 0)


@pytest.mark.parametrize(("text", "message"), [
    ("", r"text='': found 0 words for a digit, expected one, as in 'a red seven moves left'"),
    ("a red one and a two", r"found 'and', expected a colour"),
    ("a seven moves left", r"found 0 words for a colour, expected one"),
    ("a red moves left", r"found 0 words for a digit, expected one"),
    ("a red two seven", r"found 2 words for a digit: two, seven, expected one"),
    ("a red red seven", r"found 2 words for a colour: red, red, expected one"),
    ("a red seven that grows spins", r"found 2 words for a motion: grows, spins, expected one"),
    ("a red seven grows grows", r"found 2 words for a motion: grows, grows, expected one"),
    ("a red seven moves", r"found 'moves', expected .*Colours: red, green, .*Motions: moves left, .*, blinks\."),
    ("a red seven moves leftwards", r"found 'moves', 'leftwards', expected"),
    ("a red 7 moves left", r"found '7', expected"),
    ("a red seven 8", r"found '8', expected"),
    ("a röd seven", r"found 'röd', expected"),
    ("a tiny grey cat sits quietly here today", r"found 'tiny', 'grey', 'cat', 'sits', 'quietly', … \(7 in all\)"),
])  # fmt: skip
def test_what_is_not_understood(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parts_of(text)


@pytest.mark.parametrize(("call", "kind", "message"), [
    (lambda: parts_of(7), TypeError, r"text: found int, expected a sentence such as 'a red seven"),  # type: ignore[arg-type]
    (lambda: prompt(10, 0), ValueError, r"digit=10: expected between 0 and 9"),
    (lambda: prompt(-1, 0), ValueError, r"digit=-1: expected between 0 and 9"),
    (lambda: prompt(0, 6), ValueError, r"colour=6: expected between 0 and 5"),
    (lambda: prompt(0, 0, 8), ValueError, r"motion=8: expected between 0 and 7"),
    (lambda: prompt(0, 0, 0, 3), ValueError, r"wording=3: expected between 0 and 2"),
    (lambda: prompt(0, 0, wording=1.0), TypeError, r"wording=1.0 \(float\): expected an integer"),  # type: ignore[arg-type]
])  # fmt: skip
def test_bad_input(call: Callable[[], object], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        call()
