"""Chapter 4: peaks, leads and winners against loops; what a maximum and a Gaussian window do, for any weights."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_dreamprvr import batch, features, small
from torch import Tensor

from vtrlib.dreamprvr import Videos, attention_weights, gaussian_windows, similarity
from vtrlib.metrics import evaluate
from vtrlib.similarity import unit
from vtrlib.studies import partial
from vtrlib.world import MovingDigits


def width_by_steps(curve: list[float], level: float) -> int:
    """Walk from the first maximum to both sides while the curve reaches the level."""
    peak = curve.index(max(curve))
    left = right = peak
    while left > 0 and curve[left - 1] >= level:
        left -= 1
    while right < len(curve) - 1 and curve[right + 1] >= level:
        right += 1
    return right - left + 1


def median(curve: list[float]) -> float:
    return sorted(curve)[(len(curve) - 1) // 2]  # the lower one of two, as torch's


# --- curves ---


@pytest.mark.parametrize("length", [1, 2, 7, 12])
def test_peaks_against_steps(length: int) -> None:
    curves = features(5, 11, length, seed=length).round(decimals=0)  # whole numbers: plateaus and ties
    found = partial.peaks(curves)
    for row, heights, frames, widths in zip(curves, found.height, found.frame, found.width, strict=True):
        for curve, height, frame, width in zip(row.tolist(), heights, frames, widths, strict=True):
            assert height == max(curve)
            assert frame == curve.index(max(curve))
            assert width == width_by_steps(curve, (max(curve) + median(curve)) / 2)


def test_width_at_a_level_that_is_given() -> None:
    curves, level = features(13, 9, seed=3), features(13, seed=4)
    widths = partial.peaks(curves, level).width
    for curve, at, width in zip(curves.tolist(), level.tolist(), widths, strict=True):
        assert width == width_by_steps(curve, min(at, max(curve)))  # a peak that does not reach it is one frame


def toy() -> tuple[Tensor, Tensor, Tensor]:
    """Curves (Q, V, F), annotated videos and truth, in which everything happens."""
    generator = torch.Generator().manual_seed(5)
    curves = torch.randn(23, 7, 11, generator=generator)
    own = torch.randint(7, (23,), generator=generator)
    true = torch.rand(23, 7, generator=generator) < 0.2
    true[torch.arange(23), own] = True
    return curves, own, true


def test_who_comes_first() -> None:
    curves, own, true = toy()
    found = partial.first(curves, own, true)
    kinds = torch.stack([found.right, found.unannotated, found.wrong])
    assert (kinds.sum(0) == 1).all()
    assert kinds.any(1).all()
    for q, video in enumerate(found.video.tolist()):
        assert curves[q, video].max() == curves[q].max()
        assert found.frame[q] == curves[q, video].argmax()
        assert found.right[q] == (video == own[q])
        assert found.wrong[q] == (not true[q, video])
    given = curves.mean(-1)
    by_mean = partial.first(curves, own, true, given)
    assert torch.equal(by_mean.video, given.argmax(1))
    assert torch.equal(by_mean.width, partial.peaks(curves[torch.arange(23), by_mean.video]).width)


def test_a_lead_is_over_the_best_rival() -> None:
    curves, own, true = toy()
    found = partial.first(curves, own, true)
    for q, lead in enumerate(partial.lead(curves, true, found).tolist()):
        rivals = [v for v in range(7) if bool(true[q, v]) == bool(found.wrong[q])]
        level = max(float(curves[q, v].max()) for v in rivals) if rivals else -np.inf
        assert lead == width_by_steps(curves[q, found.video[q]].tolist(), level)


def test_what_is_known_at_a_peak() -> None:
    world = MovingDigits("val", "untrimmed", size=5)
    asked, generator = world.queries(), torch.Generator().manual_seed(0)
    for stride in (1, 2):
        curves = torch.rand(len(asked), 5, 64 // stride, generator=generator)
        found = partial.first(curves, torch.tensor([q.video for q in asked]), torch.ones(len(asked), 5).bool())
        known = partial.at_peak(world, found, stride)
        clips = [world[i] for i in range(5)]
        for n, q in enumerate(asked):
            video, t = clips[int(found.video[n])], stride * int(found.frame[n])
            there = [m for m in video.moments if set(range(m.start, m.end)) & set(range(t, t + stride))]
            like = [m for m in there if (m.event.digit, m.event.colour) == (q.event.digit, q.event.colour)]
            assert known["moment"][n] == bool(there)
            assert known["look-alike"][n] == bool(like)
            assert known["spoiled"][n] == any(m.degradation for m in there)
            assert known["other scene"][n] == (video.scene != clips[q.video].scene)
            assert known["forbidden"][n] == (video.scene not in q.scenes)


def test_causes_are_counts() -> None:
    world = MovingDigits("val", "untrimmed", size=9)
    asked, generator = world.queries(), torch.Generator().manual_seed(1)
    own = torch.tensor([q.video for q in asked])
    true = torch.stack([torch.isin(torch.arange(9), world.true_positives(q)) for q in asked])
    curves = torch.rand(len(asked), 9, 64, generator=generator)
    found = partial.causes(world, curves, own, true)
    won = partial.first(curves, own, true)
    assert np.isclose(found["first/right"] + found["first/unannotated"] + found["first/wrong"], 100)
    assert np.isclose(found["first/wrong"], 100 * won.wrong.float().mean())
    assert np.isclose(found["wrong/spike"], 100 * (won.width[won.wrong] <= 2).float().mean())
    assert np.isclose(found["right/spike"], 100 * (won.width[~won.wrong] <= 2).float().mean())
    spiky, scene = partial.peaks(curves).width <= 2, torch.from_numpy(world.screenplay.scene)
    assert torch.equal(spiky, partial.spiked(curves))
    assert np.isclose(found["gallery/spike"], 100 * spiky[~true].float().mean())
    other = (scene != scene[own][:, None])[~true]
    assert np.isclose(found["gallery/other scene"], 100 * other.float().mean())
    scores = curves.amax(-1)
    assert np.isclose(found["SumR"], evaluate(scores, own, ks=(1, 5, 10, 100)).sum_r)
    without = scores.clone()
    without[spiky & ~true] = -2
    assert np.isclose(found["struck/R@1"], evaluate(without, own).recall(1))
    assert found["struck/SumR"] > found["SumR"]


def test_all_that_is_wrong_may_be_struck() -> None:
    """Where every wrong video is a spike, both ways of striking leave nothing but true ones."""
    curves, own, _ = toy()
    true = torch.zeros(23, 7).bool()
    true[torch.arange(23), own] = True
    found = partial._without_spikes(curves.amax(-1), own, true, ~true)
    assert found["struck/R@1"] == found["struck at random/R@1"] == 100
    nothing = partial._without_spikes(curves.amax(-1), own, true, torch.zeros_like(true))
    assert nothing["struck/R@1"] == nothing["struck at random/R@1"] == nothing["R@1"] < 100


def test_rewarded_frames_are_counted_once() -> None:
    curves = torch.zeros(3, 2, 5)
    curves[0, 0, 1] = curves[1, 0, 1] = curves[2, 1, 4] = 1
    assert partial.rewarded(curves, torch.tensor([0, 0, 1])) == 2 / 10


def test_features_are_the_tiny_clip_s() -> None:
    from vtrlib.clip import load

    towers, world = load("tiny").frozen(), MovingDigits("val", "untrimmed", size=2)
    found = partial.features(world, towers)
    asked = world.queries()
    assert found.curves().shape == (len(asked), 2, 64)
    with torch.no_grad():
        one = towers.encode_text([asked[3].text]) @ towers.encode_frames(world[1].frames).T
    torch.testing.assert_close(found.curves()[3, 1], one[0], atol=1e-5, rtol=1e-4)
    assert found.own.tolist() == [q.video for q in asked]
    assert found.true[torch.arange(len(asked)), found.own].all()
    clip, frame = partial.pooled(found, clips=8, frames=64)
    torch.testing.assert_close(frame, found.curves().amax(-1), atol=1e-4, rtol=1e-3)
    assert clip.shape == frame.shape


# --- what a maximum teaches (Fig. 1b) ---


@pytest.mark.parametrize("reading", ["paper", "released"])
def test_a_maximum_rewards_one_frame_and_one_clip_of_each_positive_pair(reading: str) -> None:
    torch.manual_seed(0)
    model = small(reading, width=24)  # wide: in a narrow one all ReLUs may be off for a frame
    found = batch(model.config)
    clips, frames = (x.clone().requires_grad_() for x in (found.clips, found.frames))
    videos = model.encode_video(clips, frames, found.frame_mask, generator=torch.Generator().manual_seed(0))
    words = model.encode_query(found.words, found.word_mask)
    for tensor in (videos.clips, videos.frames):
        tensor.retain_grad()
    scores = model.score(words, videos)
    rows = torch.arange(len(words))
    (scores.clip + scores.frame)[rows, found.labels].sum().backward()
    for tensor in (videos.clips, videos.frames):
        cosines = torch.einsum("qd,qfd->qf", unit(words), unit(tensor[found.labels]))
        if tensor is videos.frames and reading == "paper":
            cosines = cosines.masked_fill(~videos.mask[found.labels], -torch.inf)
        best = set(zip(found.labels.tolist(), cosines.argmax(1).tolist(), strict=True))
        assert tensor.grad is not None
        reached = {tuple(place) for place in (tensor.grad != 0).any(-1).nonzero().tolist()}
        assert reached == best
        assert len(reached) <= len(words)
    # Yet every frame that goes in is learned from, but where padding was the best: it has nothing to hand on.
    assert frames.grad is not None
    real = {video for video, frame in best if videos.mask[video, frame]}
    fed = (frames.grad != 0).any(-1)
    assert real
    assert all(fed[video, found.frame_mask[video]].all() for video in real)


# --- Gaussian attention ---


def test_a_window_draws_scores_to_zero_and_not_to_minus_infinity() -> None:
    generator = torch.Generator().manual_seed(2)
    q, k, other = torch.randn(3, 1, 6, 4, generator=generator, dtype=torch.float64)
    gain = torch.ones(6, 6, dtype=torch.float64)
    gain[:, 4:] = 0
    weights = attention_weights(q, k, 2, gain=gain)
    far = weights[..., 4:]
    assert (far > 0).all()
    torch.testing.assert_close(far[..., 0], far[..., 1])
    changed = torch.cat([k[:, :4], other[:, 4:]], 1)  # what far tokens hold is not looked at
    torch.testing.assert_close(attention_weights(q, changed, 2, gain=gain), weights)
    scores = torch.log(weights / far[..., :1])  # so a far score is 0, and a near one what it was
    near = torch.einsum("bihd,bjhd->bhij", q.unflatten(-1, (2, 2)), k.unflatten(-1, (2, 2)))[..., :4] / 2**0.5
    torch.testing.assert_close(scores[..., :4], near)


@pytest.mark.parametrize("length", [7, 32, 128])
def test_windows_are_neither_symmetric_nor_centred(length: int) -> None:
    window = gaussian_windows(length, [0.25])[0]
    assert not torch.allclose(window, window.T, atol=0.01)
    assert (window.amax(1) == 1).all()
    drift = torch.arange(length) - window.argmax(1)
    assert drift[0] == 0
    assert drift[-1] == 1
    assert ((drift == 0) | (drift == 1)).all()


def test_width_over_nine_is_a_standard_deviation() -> None:
    """Around its centre, up to the drift, a window is the density of a normal with σ = w / 9, over its maximum."""
    length, w = 2001, 0.5
    row = gaussian_windows(length, [w])[0, 1000].double()
    place = torch.linspace(0, 1, length, dtype=torch.float64)
    mean = (row * place).sum() / row.sum()
    variance = (row * (place - mean) ** 2).sum() / row.sum()
    assert abs(float(variance.sqrt()) - w / 9) < 1e-5


# --- scores (Eq. 16, 17) ---


def test_fused_scores_are_shares_of_two_maxima() -> None:
    config = replace(small("paper").config, clip_share=0.7, frame_share=0.3)
    videos = Videos(
        features(3, 5, 6, seed=1), features(3, 9, 6, seed=2), torch.ones(3, 9).bool(), features(3, 2, 6, seed=3)
    )
    queries = features(4, 6, seed=4)
    found = similarity(queries, videos, config)
    for n, q in enumerate(queries):
        for v in range(3):
            clip, frame = (max(float(torch.cosine_similarity(q, x, 0)) for x in tokens[v]) for tokens in videos[:2])
            assert np.isclose(float(found.clip[n, v]), clip)
            assert np.isclose(float(found.frame[n, v]), frame)
            assert np.isclose(float(found.fused[n, v]), 0.7 * clip + 0.3 * frame)


def test_branches_are_compared_by_rank() -> None:
    world = MovingDigits("val", "untrimmed", size=4)
    asked, generator = world.queries(), torch.Generator().manual_seed(3)
    own = torch.tensor([q.video for q in asked])
    clip, frame = torch.rand(2, len(asked), 4, generator=generator)
    found = partial._branches(world, clip, frame, own)
    play, ahead = world.screenplay, {}
    for n, q in enumerate(asked):
        length = int(play.end[q.video, q.moment] - play.start[q.video, q.moment])
        ranks = [int((s[n] > s[n, q.video]).sum()) for s in (clip, frame)]
        for name, more in (("clips", ranks[0] < ranks[1]), ("frames", ranks[1] < ranks[0])):
            ahead.setdefault(f"{name} ahead/{length}", []).append(more)
    assert {name: 100 * float(np.mean(values)) for name, values in ahead.items()} == pytest.approx(found)


def test_locality_of_an_average_is_one() -> None:
    from vtrlib.dreamprvr import DreamPRVR
    from vtrlib.studies import dreamprvr

    class Gallery:
        def video_batches(self, size: int) -> object:
            from types import SimpleNamespace

            return iter([SimpleNamespace(frames=features(2, 32, 64, seed=0, dtype=torch.float32))])

    model = DreamPRVR(dreamprvr.settings()).eval()
    key = model.video.frame_block.blocks.key
    with torch.no_grad():
        key.weight.zero_()
        key.bias.zero_()
    assert partial.locality(model, Gallery()) == pytest.approx(1, abs=1e-4)  # type: ignore[arg-type]
