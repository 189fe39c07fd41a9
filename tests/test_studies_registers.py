"""Registers watched: against loops and closed forms on small models, and the experiment on a few videos."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_dreamprvr as small
import torch
from torch import Tensor

from vtrlib import diffusion, show
from vtrlib.clusters import chance_purity, neighbour_purity, tsne
from vtrlib.dreamprvr import Gaussian, Reading, divergence, perturb
from vtrlib.studies import registers as study
from vtrlib.studies.dreamprvr import settings, world

READINGS = ["paper", "released"]
CLIPS = small.features(4, 5, 13, seed=1)


def imagined(model: Any, **given: Any) -> Any:
    with torch.no_grad():
        return model.imagine(CLIPS, trajectory=True, generator=torch.Generator().manual_seed(0), **given)


def close(found: Tensor, expected: Tensor, **tolerance: float) -> None:
    torch.testing.assert_close(found, expected, **({"rtol": 1e-8, "atol": 1e-8} | tolerance))


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """32 training and 21 test videos, encoded once."""
    patch = pytest.MonkeyPatch()
    patch.setenv("VTRLIB_CACHE", str(tmp_path_factory.mktemp("cache")))
    world.cache_clear()
    yield world("train", 32), world("test", 21)
    patch.undo()
    world.cache_clear()


# --- the process ---


@pytest.mark.parametrize("reading", READINGS)
def test_start_is_drawn_from_the_video_s_gaussian(reading: str) -> None:
    """Eq. 8 and 9: mean and covariance of many draws; Σ is diagonal, with σ² of that video."""
    start = small.small(reading).video.sampler(small.features(3, 5, 6, seed=0))
    noise = torch.randn(3, 60_000, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    drawn = start.start(60_000, noise)
    close(drawn.mean(1), start.mean, rtol=0, atol=0.03)
    for video in range(3):
        cov = torch.diag(start.log_variance[video].exp())
        assert (drawn[video].T.cov() - cov).abs().max() < 0.04 * cov.max()


def test_one_chain_unrolled() -> None:
    """Eq. 12 T times: the start times 1/√ᾱ_T, less the estimates, plus the noise, each with its weight."""
    schedule = diffusion.cosine(7)
    said, z = small.features(7, 3, 5, seed=0), small.features(7, 3, 5, seed=1)
    start = small.features(3, 5, seed=2)
    end = diffusion.sample(lambda x, t: said[t - 1], start, schedule, draws=z.flip(0))
    expected = start / schedule.alpha_bar[-1].sqrt()
    for t in range(1, 8):
        beta, bar, before = schedule.beta[t - 1], schedule.alpha_bar[t], schedule.alpha_bar[t - 1]
        expected = expected - beta / (bar * (1 - bar)).sqrt() * said[t - 1]
        if t > 1:
            expected = expected + (beta / before).sqrt() * z[t - 1]
    close(end, expected)


@pytest.mark.parametrize("reading", READINGS)
def test_condition_is_attention_of_tokens_to_the_video(reading: str) -> None:
    """Eq. 28, heads and all, by loops; and the order of the clips leaves no trace."""
    model = small.small(reading)
    generator, video = model.video.condition, small.features(2, 5, 6, seed=0)
    block, tokens = generator.block, generator.tokens
    attention = block.attention
    mixed = torch.zeros(2, 2, 6, dtype=torch.float64)
    for v in range(2):
        q, k, value = attention.query(tokens[0]), attention.key(video[v]), attention.value(video[v])
        for h in range(3):
            part = slice(2 * h, 2 * h + 2)
            weights = (q[:, part] @ k[:, part].T / 2**0.5).softmax(1)
            mixed[v, :, part] = weights @ value[:, part]
    x = block.norm1(tokens + mixed)
    expected = block.norm2(x + block.outer(block.inner(x).relu()))
    close(generator(video), expected)
    close(generator(video[:, [3, 0, 4, 1, 2]]), expected)


def test_estimator_block_is_its_equation_and_registers_do_not_meet() -> None:
    """Fig. 7(a): two blocks of layers, norms and s(x) = x sigmoid(x), written out."""
    model = small.small(steps=4)
    estimator, c, x = model.video.estimator, small.features(3, 2, 6, seed=0), small.features(3, 2, 6, seed=1)

    def s(value: Tensor) -> Tensor:
        return value * value.sigmoid()

    time = estimator.time[2](s(estimator.time[0](estimator.table[2])))
    embedded = estimator.condition[2](estimator.condition[0](c).relu())
    h = x
    for block in estimator.blocks:
        u = block.layer_in(s(block.norm_in(h))) + block.time(s(time)) + block.condition(s(embedded))
        h = block.layer_out(s(block.norm_out(u))) + block.short_cut(h)
    guidance = estimator.guide(c)
    close(estimator(x, 3, guidance), estimator.short_cut(h + x))
    moved = x.clone()
    moved[:, 1] += 1
    close(estimator(moved, 3, guidance)[:, 0], estimator(x, 3, guidance)[:, 0])
    assert (estimator(moved, 3, guidance)[:, 1] - estimator(x, 3, guidance)[:, 1]).abs().max() > 1e-3


@pytest.mark.parametrize("reading", READINGS)
def test_inference_reads_the_video_alone(reading: str) -> None:
    """App. A.6: no text and no forward process; the loss's own draws change no register."""
    model = small.small(reading)
    given = small.draws(model.config)
    other = given._replace(forward=None, alpha=None, beta=None)
    assert imagined(model, draws=given).registers.equal(imagined(model, draws=other).registers)
    for name, weight in model.query.named_parameters():
        weight.data += 1
        assert imagined(model, draws=given).registers.equal(imagined(model, draws=other).registers), name
        break


# --- what the released code does ---


@pytest.mark.parametrize("reading", READINGS)
def test_equal_tokens_keep_registers_together(reading: str) -> None:
    """They never see each other: the start, or their token, must tell them apart."""
    model = small.small(reading)
    with torch.no_grad():
        model.video.condition.tokens[:, 1:] = model.video.condition.tokens[:, :1]
    found = imagined(model).registers
    together = torch.allclose(found[-1], found[-1, :, :1].expand_as(found[-1]), atol=1e-9)
    assert together == (reading == "released")


@pytest.mark.parametrize("reading", READINGS)
def test_variance_reaches_registers_only_where_they_are_drawn(reading: str) -> None:
    model = small.small(reading)
    before = imagined(model).registers
    head = model.video.sampler.variance if reading == "released" else model.video.sampler.deviation
    head.bias.data += 3
    assert imagined(model).registers.equal(before) == (reading == "released")


@pytest.mark.parametrize("reading", READINGS)
def test_kl_trains_the_variance_and_no_mean(reading: str) -> None:
    model = small.small(reading)
    loss = divergence(model.video.sampler(small.features(3, 5, 6, seed=0)))
    loss.backward()
    for name, weight in model.video.sampler.named_parameters():
        mean = name.startswith(("mean", "norm"))
        if not name.startswith("pool"):  # of both heads
            size = 0.0 if weight.grad is None else float(weight.grad.abs().max())
            assert (size < 1e-12) == mean, name


def test_clamped_entries_pass_no_gradient() -> None:
    """Released: the result is the last clamped estimate, and its entries at ±1 are constants to training."""
    model = small.small("released")
    found = model.imagine(CLIPS, trajectory=True)
    end = found.registers[-1]
    rim = end.abs() == 1
    assert 0 < rim.sum() < rim.numel(), "the test needs both"
    share = study.saturation(model, found)
    assert share[-1] == pytest.approx(float(rim.float().mean()), abs=1e-6)
    weights = list(model.video.estimator.blocks.parameters())
    at_rim = torch.autograd.grad(end[rim].sum(), weights, retain_graph=True)
    inside = torch.autograd.grad(end[~rim].sum(), weights)
    assert max(float(g.abs().max()) for g in at_rim) == 0
    assert max(float(g.abs().max()) for g in inside) > 0


@pytest.mark.parametrize("reading", READINGS)
def test_saturation_against_the_chain(reading: str) -> None:
    model = small.small(reading)
    found, schedule = imagined(model), model.video.schedule
    for row, t in enumerate((3, 2, 1)):
        x = found.registers[row]
        bar = schedule.alpha_bar[t]
        guess = (x - (1 - bar).sqrt() * model.video.estimator(x, t, found.guidance)) / bar.sqrt()
        expected = float((guess.abs() >= 1).double().mean())
        assert study.saturation(model, found)[row] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("reading", READINGS)
def test_one_step_is_a_process_of_one(reading: str) -> None:
    model = small.small(reading, steps=1)
    found = imagined(model)
    close(study.one_step(model, found), found.registers[-1])


# --- controls ---


@pytest.mark.parametrize("reading", READINGS)
def test_crossed_registers_one_by_one(reading: str) -> None:
    """Register k of video v: v's start, the condition of v + k. With one register nothing is crossed."""
    model = small.small(reading, registers=3)
    _, start, condition, neither = study.crossed(model, imagined(model))
    pairs = list(zip(start.tolist(), condition.tolist(), strict=True))
    assert pairs == [(v, (v + k) % 4) for v in range(4) for k in range(3)]
    assert neither.tolist() == [(v - k) % 4 for v in range(4) for k in range(3)]
    for one, other in ((start, condition), (start, neither)):
        assert len(set(zip(one.tolist(), other.tolist(), strict=True))) == 4 * 3, "no two share both"
    single = small.small(reading, registers=1)
    found = imagined(single)
    close(study.crossed(single, found)[0], found.registers)
    with pytest.raises(ValueError, match="found 4 videos, expected at least 5"):
        many = small.small(reading, registers=5)
        study.crossed(many, imagined(many))


def test_crossed_takes_condition_and_start_from_whom_it_says() -> None:
    """Change one video's features: only registers whose condition it is move; change its start: only its own.

    Without the clamp, which may hold a register where it is whatever moves it.
    """
    model = small.small(Reading.released().flipped("reverse_step"), registers=3)
    plain = imagined(model)
    states, start, condition, _ = study.crossed(model, plain)
    features = plain.features.clone()
    features[2] += small.features(5, 6, seed=9)
    by_condition = study.crossed(model, plain._replace(features=features))[0]
    moved = (by_condition - states).abs().amax((0, 3)).flatten() > 1e-9
    assert moved.equal(condition == 2)
    mean = plain.start.mean.clone()
    mean[2] = mean[1]
    by_start = study.crossed(model, plain._replace(start=Gaussian(mean, plain.start.log_variance)))[0]
    moved = (by_start - states).abs().amax((0, 3)).flatten() > 1e-9
    assert moved.equal(start == 2)


def test_gathered_is_the_mean_over_sets() -> None:
    state, size = small.features(7, 3, 5, seed=0), 3
    found = study.gathered(state, size=size)
    groups = torch.arange(3).repeat_interleave(3)
    sets = [state[:3].flatten(0, 1), state[3:6].flatten(0, 1)]
    assert found["purity"] == pytest.approx(np.mean([neighbour_purity(s, groups) for s in sets]))
    within, across = [], []
    for points in sets:
        for i in range(9):
            for j in range(9):
                cosine = torch.cosine_similarity(points[i], points[j], dim=0).item()
                if i != j:
                    (within if i // 3 == j // 3 else across).append(cosine)
    assert found["within"] == pytest.approx(np.mean(within), abs=1e-6)
    assert found["across"] == pytest.approx(np.mean(across), abs=1e-6)
    assert study.purity(state, size=size) == pytest.approx(found["purity"])
    for measure in (study.gathered, study.purity):
        with pytest.raises(ValueError, match="found 7 videos, expected at least 8"):
            measure(state, size=8)


def test_purity_of_coinciding_registers() -> None:
    """One point per video: pure whatever the points are. One point for all: chance."""
    per_video = small.features(4, 1, 5, seed=0).expand(4, 3, 5)
    found = study.gathered(per_video, size=4)
    assert found["purity"] == 1 and found["within"] == pytest.approx(1)
    one = study.gathered(torch.ones(4, 3, 5), size=4)
    assert one["purity"] == pytest.approx(chance_purity(torch.arange(4).repeat_interleave(3)), abs=1e-6)
    assert one["silhouette"] == 0


def test_text_match_against_loops() -> None:
    state, text = small.features(4, 3, 5, seed=0), small.features(4, 5, seed=1)
    own, other = [], []
    for v in range(4):
        for n in range(3):
            for w in range(4):
                (own if v == w else other).append(torch.cosine_similarity(state[v, n], text[w], dim=0).item())
    assert study.text_match(state, text) == pytest.approx((np.mean(own), np.mean(other)))


def test_planes_are_turned_and_nothing_else() -> None:
    states = [small.features(6, 3, 5, seed=seed) for seed in (0, 1)]
    found = study.planes(states, seed=3)
    for state, plane in zip(states, found, strict=True):
        raw = torch.from_numpy(tsne(state.flatten(0, 1), seed=3, iterations=500)).double()
        shape = torch.cdist(raw, raw)
        turned = torch.cdist(torch.from_numpy(plane), torch.from_numpy(plane))
        close(turned / turned.max(), shape / shape.max(), rtol=1e-4, atol=1e-4)
        assert abs(plane.mean()) < 1e-6 and plane.std() == pytest.approx(1, abs=1e-4)
    rotations = [
        np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]) for a in np.linspace(0, 2 * np.pi, 50)
    ]
    best = min(np.square(found[1] @ turn - found[0]).sum() for turn in rotations)
    assert np.square(found[1] - found[0]).sum() <= best + 1e-6
    assert not study.planes([torch.ones(6, 3, 5)])[0].any(), "coinciding points have no t-SNE"


def test_player_over_steps() -> None:
    rng = np.random.default_rng(0)
    found = show.steps([rng.normal(size=(8, 2)) for _ in range(3)], [0, 0, 1, 1, 2, 2, 3, 3],
                       alt="eight points", captions=["a", "b", "c"], size=2)  # fmt: skip
    assert "3 frames of 192×192 pixels" in found.kind and found.alt == "eight points"
    assert re.search(r'max="3"', found.html) and "<script" not in found.html
    with pytest.raises(ValueError, match="planes is empty"):
        show.steps([], [], alt="none")
    import matplotlib.pyplot as plt

    assert not plt.get_fignums(), "no figure is left open for the notebook to show"


# --- training and measuring ---


@pytest.mark.parametrize("reading", READINGS)
def test_error_of_answering_nothing(worlds: Any, reading: str) -> None:
    """Released: μ has length 1, so exactly 1/d. Paper: standard normal, so about 1. A silent estimator scores it."""
    model = study.untrained(settings(reading, registers=3))
    error, of_zero = study.estimator_errors(model, worlds[1])
    assert of_zero == pytest.approx(1 / 64, rel=1e-5) if reading == "released" else abs(of_zero - 1) < 0.02
    assert error > of_zero
    for weight in model.video.estimator.short_cut.parameters():
        weight.data.zero_()
    silent, of_zero = study.estimator_errors(model, worlds[1])
    assert silent == pytest.approx(of_zero, rel=1e-6)


@pytest.mark.parametrize("reading", READINGS)
def test_estimator_alone_learns_and_touches_nothing_else(worlds: Any, reading: str) -> None:
    model = study.untrained(settings(reading, registers=3))
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    taught, losses = study.train_estimator(model, worlds[0], steps=150, batch=8)
    assert all(before[name].equal(weight) for name, weight in model.state_dict().items())
    changed = {name for name, weight in taught.state_dict().items() if not before[name].equal(weight)}
    assert changed and all(name.startswith(("video.estimator", "video.condition")) for name in changed)
    assert "video.estimator.table" not in changed
    flags = [[weight.requires_grad for weight in m.parameters()] for m in (model, taught)]
    assert flags[0] == flags[1], "what can be trained on is what could be before"
    assert np.mean(losses[-20:]) < 0.8 * np.mean(losses[:5])
    again = study.train_estimator(model, worlds[0], steps=3, batch=8)[1]
    assert again == study.train_estimator(model, worlds[0], steps=3, batch=8)[1], "its seed decides"


def test_text_targets_are_those_of_the_loss(worlds: Any) -> None:
    """What `perturb` makes targets of, without its draws and up to their mean."""
    model = study.untrained(settings("paper", registers=3))
    text = study.lesson(model, worlds[1]).text
    still = perturb(text, 3, 1e-9)
    moved = (still - text.mean(1)[:, None, None])[:, 0]
    assert (moved - study.targets(model, worlds[1])).abs().max() < 1e-4


def test_scene_probe_reads_what_is_there_and_nothing_else(worlds: Any) -> None:
    fitted, asked = worlds
    scenes = [torch.nn.functional.one_hot(torch.tensor(study._scenes(d)), 6).float()[:, None] for d in worlds]
    assert study.scene_probe(scenes[0], fitted, scenes[1], asked) == 1
    noise = [small.features(len(d), 2, 6, seed=i, dtype=torch.float32) for i, d in enumerate(worlds)]
    assert study.scene_probe(noise[0], fitted, noise[1], asked) < 0.6


def test_everything_that_the_ledger_keeps(worlds: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The experiment at toy size: all claims' metrics are there, and an untrained model's don't depend on training."""
    monkeypatch.setattr(study, "REGISTERS", 4)
    monkeypatch.setattr(study, "models", lambda reading: {
        "trained": settings(reading, registers=4), "w/o L_dre": settings(reading, {"dre": 0.0}, registers=4)})  # fmt: skip
    rates = {"paper": {"trained": 1e-3, "w/o L_dre": 1e-3}}
    found = study.every_model(0, ["paper"], 2, 2, rates, *worlds)
    other = study.every_model(0, ["paper"], 3, 1, rates, *worlds)
    arms = {name.split("/")[1] if name.count("/") == 2 else name for name in found}
    assert all(np.isfinite(value) for value in found.values()) and set(found) == set(other)
    still = [name for name in found if name.startswith("paper/untrained/") or name.startswith("chance/")]
    assert still and all(found[name] == other[name] for name in still)
    assert found["paper/trained/KL"] != other["paper/trained/KL"], arms
    assert found["paper/trained/purity T=0"] == found["paper/trained on/purity T=0"], "the start is the same"
    claims = Path(__file__).parents[1] / "book" / "claims.yml"
    asked = re.findall(r"row: dreamprvr-registers, better: (.+?), worse: (.+?)}", claims.read_text("utf-8"))
    wanted = {name for pair in asked for name in pair if name.startswith(("paper/", "chance/"))}
    assert wanted <= set(found)
