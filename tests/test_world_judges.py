"""Judges of clips on the dark stage: against loops, against the world's truth, and on clips that show nothing."""

from functools import cache

import pytest
import torch
from torch import Tensor

from vtrlib.ragme.tiny import PixelCodec
from vtrlib.world import DarkStage, card
from vtrlib.world.dark_stage import GROUND
from vtrlib.world.judges import FEATURES, Judge, motion_features, motions, trace


@cache
def stage() -> DarkStage:
    return DarkStage("val", size=160)


def through(clips: Tensor) -> Tensor:
    return PixelCodec().decode(PixelCodec().encode(clips))


@cache
def judge() -> Judge:
    return Judge(DarkStage("train", size=700), through)


def blank(frames: int = 8) -> Tensor:
    return torch.tensor(GROUND, dtype=torch.uint8)[:, None, None].expand(1, frames, 3, 32, 32).clone()


def square(places: list[tuple[int, int, int]]) -> Tensor:
    """A white square of a side at (x, y), frame by frame."""
    clip = blank(len(places))
    for frame, (x, y, side) in enumerate(places):
        clip[0, frame, :, y : y + side, x : x + side] = 240
    return clip


def test_centre_mass_and_size_against_loops() -> None:
    clip = square([(3, 5, 4), (6, 5, 7), (10, 20, 3)])
    found = trace(clip)
    for frame, (x, y, side) in enumerate([(3, 5, 4), (6, 5, 7), (10, 20, 3)]):
        middle = (side - 1) / 2
        offsets = [(i - middle) ** 2 + (j - middle) ** 2 for i in range(side) for j in range(side)]
        assert found.x[0, frame].item() == pytest.approx(x + middle, abs=1e-3)
        assert found.y[0, frame].item() == pytest.approx(y + middle, abs=1e-3)
        assert found.size[0, frame].item() == pytest.approx((sum(offsets) / side**2) ** 0.5, abs=1e-3)
        assert found.mass[0, frame].item() == pytest.approx(side**2, rel=0.1)


def test_a_frame_without_ink_keeps_the_place_of_the_one_before() -> None:
    clip = square([(3, 5, 6), (9, 5, 6), (9, 5, 6)])
    clip[0, 1:] = blank(2)[0]
    found = trace(clip)
    assert found.seen.tolist() == [[True, False, False]]
    assert found.x[0].tolist() == pytest.approx([5.5] * 3, abs=1e-3)
    first = trace(clip.flip(1))
    assert first.x[0].tolist() == pytest.approx([5.5] * 3, abs=1e-3)


@pytest.mark.parametrize("codec", [False, True])
def test_motions_of_real_clips_and_of_their_reversals(codec: bool) -> None:
    clips = through(stage().frames) if codec else stage().frames
    assert (motions(trace(clips)) == stage().motion).double().mean() > 0.99
    turned = torch.tensor(card.OPPOSITE)[stage().motion]
    assert (motions(trace(clips.flip(1))) == turned).double().mean() > 0.99


def test_numbers_of_motions_that_are_known() -> None:
    places = [(2 * k, 10, 6) for k in range(8)]
    numbers = dict(zip(FEATURES, motion_features(trace(square(places)))[0].tolist(), strict=True))
    assert numbers["across"] == pytest.approx(14, abs=1e-2)
    assert numbers["path"] == pytest.approx(14, abs=1e-2)
    for name in ("down", "growth", "jerk", "turning"):
        assert numbers[name] == pytest.approx(0, abs=1e-2)
    shaken = [(10 + 3 * (k % 2), 10, 6) for k in range(8)]
    numbers = dict(zip(FEATURES, motion_features(trace(square(shaken)))[0].tolist(), strict=True))
    assert numbers["jerk"] == pytest.approx(6, abs=1e-2)
    assert numbers["path"] == pytest.approx(21, abs=1e-2)


def test_what_does_not_move_as_the_world_does_has_no_motion() -> None:
    still = square([(10, 10, 6)] * 8)
    little = square([(10 + k // 4, 10, 6) for k in range(8)])
    assert motions(trace(torch.cat([blank(), still, little]))).tolist() == [-1, -1, -1]
    far = square([(2 * k, 10, 6) for k in range(8)])
    assert motions(trace(far)).tolist() == [card.MOTIONS.index("moves right")]
    off = [2, 3, 6, 7]
    far[0, off] = blank(4)[0]
    assert motions(trace(far)).tolist() == [card.MOTIONS.index("blinks")]


def test_digits_and_colours_of_unseen_handwriting() -> None:
    clips = through(stage().frames)
    right = judge().scored(clips, stage().digit, stage().colour, stage().motion)
    assert right["colour"].all()
    assert right["digit"].double().mean() > 0.85
    shuffled = judge().scored(clips, stage().digit.roll(1), stage().colour.roll(1), stage().motion.roll(1))
    assert max(one.double().mean() for one in shuffled.values()) < 0.4
    nothing = trace(blank())
    assert judge().digits(nothing).tolist() == [-1] and Judge.colours(blank()).tolist() == [-1]


def test_a_clip_is_judged_as_if_it_were_alone() -> None:
    clips = through(stage().frames[:7])
    together, alone = trace(clips), [trace(clip[None]) for clip in clips]
    torch.testing.assert_close(motion_features(together), torch.cat([motion_features(one) for one in alone]))
    assert judge().digits(together).tolist() == [int(judge().digits(one)) for one in alone]


@pytest.mark.parametrize("bad", [torch.zeros(2, 8, 3, 32, 32), torch.zeros(8, 3, 32, 32, dtype=torch.uint8)])
def test_what_is_no_clip_is_refused(bad: Tensor) -> None:
    with pytest.raises(ValueError, match="frames"):
        trace(bad)
