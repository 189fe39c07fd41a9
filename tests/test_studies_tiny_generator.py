"""How the tiny generator is trained: what it is shown, the average that ships, and how it goes on after a stop."""

from __future__ import annotations

import functools
import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from vtrlib import world
from vtrlib.ragme import diffusion_loss
from vtrlib.ragme.tiny import PixelCodec, TinyStates, dark_scheduler, load_generator, tiny_unet
from vtrlib.studies import tiny_generator
from vtrlib.studies.tiny_generator import Painted, Recipe, pretrain, ship

WORLDS = (2, 3)
SIZE = 9  # clips of a world here; none of them repeats another
SHORT = Recipe(worlds=WORLDS, steps=3, batch=3, average=0.6)
Weights = dict[str, Tensor]


@pytest.fixture(autouse=True, scope="module")
def _small_worlds() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(world, "DarkStage", functools.partial(world.DarkStage, size=SIZE))
        yield


# --- what it is shown ---


@functools.cache
def painted(empty: float = 0.1, hidden: float = 0.45) -> Painted:
    return Painted(WORLDS, empty, hidden)


@functools.cache
def stage(seed: int) -> world.DarkStage:
    return world.DarkStage("train", seed=seed)


def wordings(clip: int) -> list[str]:
    """Of a clip of the two worlds: nothing, without motion, and three with it."""
    stage_of, at = stage(WORLDS[clip // SIZE]), clip % SIZE
    return ["", stage_of.prompts(motion=False)[at], *(stage_of.prompts(wording=wording)[at] for wording in range(3))]


def test_its_clips_are_those_of_its_worlds() -> None:
    data = painted()
    frames = torch.cat([stage(seed).frames for seed in WORLDS])
    assert len(data) == 2 * SIZE and data.latents.equal(PixelCodec().encode(frames))
    assert not stage(0).frames.equal(frames[:SIZE]) and 0 not in Recipe().worlds


def test_each_clip_has_its_five_wordings() -> None:
    data, states = painted(), TinyStates()
    assert data.said.shape == (2 * SIZE, 5)
    for clip in range(2 * SIZE):
        expected = states(wordings(clip))
        torch.testing.assert_close(data.states[data.said[clip]], expected, atol=1e-5, rtol=0)
        assert len(set(wordings(clip))) == 5 == len(data.said[clip].unique())
    assert len(data.states) == len({text for clip in range(2 * SIZE) for text in wordings(clip)})


def said(data: Painted, clip: int, states: Tensor) -> int:
    """Which of the clip's wordings was drawn."""
    (found,) = (which for which, row in enumerate(data.said[clip].tolist()) if data.states[row].equal(states))
    return found


def test_a_batch_is_in_order() -> None:
    indices = [17, 3, 3, 0, 9]
    latents, states = painted().__getitems__(indices)
    assert latents.equal(torch.stack([painted().latents[clip] for clip in indices]))
    assert all(said(painted(), clip, one) in range(5) for clip, one in zip(indices, states, strict=True))
    one, text = painted()[7]
    assert one.equal(painted().latents[7]) and said(painted(), 7, text) in range(5)


def test_shares_of_wordings() -> None:
    """Nothing, without motion and whole, as the recipe says; the three wordings evenly, and not by the clip."""
    torch.manual_seed(0)
    count = 6000
    for clip in (2, 11):
        _, states = painted().__getitems__([clip] * count)
        share = torch.tensor([said(painted(), clip, one) for one in states]).bincount(minlength=5) / count
        expected = torch.tensor([0.1, 0.45, 0.15, 0.15, 0.15])
        assert ((share - expected).abs() < 4 * (expected * (1 - expected) / count).sqrt()).all(), share


@pytest.mark.parametrize(("empty", "hidden", "only"), [(1.0, 0.0, {0}), (0.0, 1.0, {1}), (0.0, 0.0, {2, 3, 4})])
def test_extreme_shares(empty: float, hidden: float, only: set[int]) -> None:
    data = painted(empty, hidden)
    clips = list(range(2 * SIZE)) * 6
    _, states = data.__getitems__(clips)
    assert {said(data, clip, one) for clip, one in zip(clips, states, strict=True)} == only


def test_draws_are_torchs() -> None:
    found = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        found.append(painted().__getitems__(list(range(2 * SIZE)))[1])
    assert found[0].equal(found[1]) and not found[0].equal(found[2])


# --- training ---


def weights(model: nn.Module) -> Weights:
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


def same(one: Weights, other: Weights) -> bool:
    assert one.keys() == other.keys()
    return all(weight.equal(other[name]) for name, weight in one.items())


class Watched:
    """What the steps of a training looked like: weights after, rates, and norms of gradients."""

    def __init__(self) -> None:
        self.weights: list[list[Tensor]] = []
        self.rates: list[float] = []
        self.norms: list[float] = []

    def before(self, optimiser: Any, *_: object) -> None:
        self.rates.append(optimiser.param_groups[0]["lr"])
        self.norms.append(math.sqrt(sum(float(w.grad.square().sum()) for w in self.of(optimiser))))

    def after(self, optimiser: Any, *_: object) -> None:
        self.weights.append([w.detach().clone() for w in self.of(optimiser)])

    @staticmethod
    def of(optimiser: Any) -> list[Any]:
        return [w for group in optimiser.param_groups for w in group["params"]]

    def __enter__(self) -> Watched:
        self.hooks = [register_optimizer_step_pre_hook(self.before), register_optimizer_step_post_hook(self.after)]
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self.hooks:
            hook.remove()


@functools.cache
def whole() -> tuple[Weights, Weights, list[float], Watched]:
    """The short recipe to its end: last weights, average, losses, steps."""
    unet = tiny_unet()
    with Watched() as watched:
        average, losses = pretrain(unet, SHORT)
    assert not unet.training and not average.training and average is not unet
    assert all(weight.requires_grad for model in (unet, average) for weight in model.parameters())
    return weights(unet), weights(average), losses, watched


def test_the_average_is_exponential() -> None:
    """0.6 of what it was and 0.4 of the weights after a step; it begins with those after the first."""
    last, average, losses, watched = whole()
    assert len(watched.weights) == len(losses) == 3 and all(map(math.isfinite, losses))
    expected = watched.weights[0]
    for later in watched.weights[1:]:
        expected = [0.6 * old + 0.4 * new for old, new in zip(expected, later, strict=True)]
    for found, want in zip(average.values(), expected, strict=True):
        torch.testing.assert_close(found, want, atol=1e-6, rtol=1e-5)
    assert same(last, dict(zip(last, watched.weights[-1], strict=True))) and not same(last, average)
    moved = [name for name, weight in tiny_unet().named_parameters() if not weight.equal(last[name])]
    assert len(moved) > 0.9 * len(last)


def test_rates_and_clipping() -> None:
    """A cosine to 0, behind a warm-up over a twentieth of the steps (of 3 that is none); the gradient's norm is cut."""
    *_, watched = whole()
    assert watched.rates == pytest.approx([1e-3 * 0.5 * (1 + math.cos(math.pi * k / 3)) for k in range(3)])
    assert max(watched.norms) <= 1 + 1e-4
    with Watched() as tight:
        pretrain(tiny_unet(), replace(SHORT, clip=1e-3, steps=40), until=2)
    assert tight.norms == pytest.approx([1e-3] * 2, rel=1e-3)
    assert tight.rates == pytest.approx([0, 5e-4])  # 2 of 40 steps


def test_the_loss_is_the_diffusion_loss_of_its_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the order of a pass through the data, without repeats."""
    seen: list[tuple[Tensor, Tensor]] = []

    def watched(model: nn.Module, scheduler: Any, latents: Tensor, states: Tensor, of: str) -> Tensor:
        seen.append((latents, states))
        assert scheduler.config == dark_scheduler().config and of == "clean"
        return diffusion_loss(model, scheduler, latents, states, of=of)

    monkeypatch.setattr("vtrlib.ragme.diffusion_loss", watched)
    _, losses = pretrain(tiny_unet(), SHORT)
    assert losses == whole()[2]
    clips = [[int((painted().latents == one).flatten(1).all(1).nonzero()) for one in batch] for batch, _ in seen]
    flat = [clip for batch in clips for clip in batch]
    assert list(map(len, clips)) == [3] * 3 and len(set(flat)) == 9 and flat != sorted(flat)
    for batch, (_, states) in zip(clips, seen, strict=True):
        assert all(said(painted(), clip, one) in range(5) for clip, one in zip(batch, states, strict=True))


def test_it_follows_from_the_recipe() -> None:
    """Again the same, whatever was drawn before; another seed gives another order."""
    _, average, losses, _ = whole()
    torch.manual_seed(99)
    again, found = pretrain(tiny_unet(), SHORT)
    assert found == losses and same(weights(again), average)
    _, other = pretrain(tiny_unet(), replace(SHORT, seed=1), until=1)
    assert len(other) == 1 and other != losses[:1]


def test_it_goes_on_from_a_folder(tmp_path: Path) -> None:
    """Weights, average and losses are as if it had never stopped; a finished one is loaded with its average."""
    last, average, losses, _ = whole()
    pretrain(tiny_unet(), SHORT, until=2, folder=tmp_path)
    for other in (1, 2):  # goes on, then only loads; from another start, which is forgotten
        unet = tiny_unet(other)
        with Watched() as watched:
            found, curve = pretrain(unet, SHORT, folder=tmp_path)
        assert len(watched.rates) == (1 if other == 1 else 0)
        assert curve == losses and same(weights(unet), last) and same(weights(found), average)
    with pytest.raises(ValueError, match="is the checkpoint of another run"):
        pretrain(tiny_unet(), replace(SHORT, batch=2), folder=tmp_path)


def test_what_ships_is_written_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def weight_of(unet: nn.Module) -> dict[str, dict[str, float]]:
        return {"told": {"motion": float(unet.get_parameter("conv_in.weight").detach().sum())}}

    monkeypatch.setattr(tiny_generator, "scores", weight_of)
    facts = ship(tmp_path, SHORT)
    _, average, losses, _ = whole()
    assert json.loads((tmp_path / "recipe.json").read_text("utf-8")) == json.loads(json.dumps(facts))
    assert facts["curve"] == pytest.approx([sum(losses) / 3], abs=1e-5)
    shipped = (tmp_path / "diffusion_pytorch_model.safetensors").read_bytes()
    assert facts["sha256"] == hashlib.sha256(shipped).hexdigest()
    assert facts["parameters"] == sum(weight.numel() for weight in average.values())
    told = facts["recipe"]
    assert Recipe(**{**told, "worlds": tuple(told["worlds"])}) == SHORT
    loaded = weights(load_generator(tmp_path))
    assert facts["scores"] == {"told": {"motion": float(loaded["conv_in.weight"].sum())}}
    assert same(loaded, {name: weight.half().float() for name, weight in average.items()})
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 3_000_000  # half precision


def test_scores_are_of_the_same_captions_told_and_not(monkeypatch: pytest.MonkeyPatch) -> None:
    from vtrlib.studies import ragme

    small = ragme.bank(40)
    asked: list[list[str]] = []
    monkeypatch.setattr(ragme, "bank", lambda: small)
    monkeypatch.setitem(ragme.generate.__kwdefaults__, "steps", 2)
    real = ragme.generate
    monkeypatch.setattr(ragme, "generate", lambda *given: asked.append(given[2]) or real(*given))
    found = tiny_generator.scores(tiny_unet(), prompts=4)
    wanted = world.DarkStage("val", size=4)
    assert asked == [wanted.prompts(), wanted.prompts(motion=False)]
    assert set(found) == {"real", "told", "not told"} and found["real"]["motion"] == found["real"]["colour"] == 100
    assert set(found["told"]) == {"motion", "digit", "colour"} and found["told"] != found["real"]
