"""RagMe against itself in loops, and its blocks against those of diffusers; float64, sizes that all differ."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from diffusers.models.attention import BasicTransformerBlock
from small_ragme import WIDTH, enhanced, features, frames, infused, inputs, move, wrapped
from torch import Tensor, nn

from vtrlib.ragme import Condition, Infuser, RagMe, Reading, TimeEnhancer
from vtrlib.ragme.conditioning import AdaptiveNorm
from vtrlib.released.ragme import _theirs

close = functools.partial(torch.testing.assert_close, atol=1e-10, rtol=0)
double = torch.float64
# Of 2 items with 3 neighbours of 6 frames: one without any neighbour, one video cut short, one missing.
FRAME_MASK = torch.ones(2, 3, 6, dtype=torch.bool)
FRAME_MASK[0, 1, 4:] = False
MASK = torch.tensor([[True, True, False], [False, False, False]])


def weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: one.detach() for name, one in module.named_parameters()}


@pytest.mark.parametrize("positions", [0, 7])
@torch.no_grad()
def test_enhancer(positions: int) -> None:
    made = TimeEnhancer(WIDTH, 2, 3, positions=positions).to(double)
    move(made)
    video = frames(double)
    found = made(video, FRAME_MASK)
    for b in range(2):
        for k in range(3):
            close(found[b, k], enhanced(weights(made), video[b, k], FRAME_MASK[b, k].tolist(), 2, 3))


@torch.no_grad()
def test_means_and_sequences_of_masked_frames() -> None:
    """A masked frame is as good as none; the mean is over those that are there."""
    mean, sequence = (TimeEnhancer(WIDTH, 2, 3, pool).to(double) for pool in ("mean", "sequence"))
    for made in (mean, sequence):
        move(made)
    video = frames(double)
    empty = FRAME_MASK.clone()
    empty[1, 2] = False
    found, whole = mean(video, empty), sequence(video, empty)
    short = sequence(video[0, 1, :4])
    close(whole[0, 1, :4], short)
    close(found[0, 1], short.mean(0))
    close(found[1, 1], sequence(video)[1, 1].mean(0))
    assert whole[0, 1, 4:].eq(0).all() and whole[1, 2].eq(0).all() and found[1, 2].eq(0).all()


@torch.no_grad()
def test_order() -> None:
    """Without positions a video and its reversal get the same token, with positions another."""
    video = frames(double)
    for positions, blind in ((0, True), (6, False)):
        made = TimeEnhancer(WIDTH, 2, 3, positions=positions).to(double)
        move(made)
        apart = (made(video) - made(video.flip(2))).abs().amax(-1)
        assert (apart < 1e-12).all() if blind else (apart > 1e-3).all()


@pytest.mark.parametrize(("block", "timesteps", "space", "time"), [
    ("attention", None, False, False), ("attention", None, True, True), ("transformer", None, False, False),
    ("transformer", 9, False, False), ("transformer", None, True, False), ("transformer", 9, False, True),
    ("transformer", 9, True, True),
])  # fmt: skip
@torch.no_grad()
def test_infuser(block: str, timesteps: int | None, space: bool, time: bool) -> None:
    made = Infuser(6, 4, 2, block, timesteps=timesteps, pool_space=space, pool_time=time).to(double)
    move(made)
    x, z = features(2 * 5, 6, 2, 3, seed=1, dtype=double), features(2, 3, 4, seed=2, dtype=double)
    t = torch.tensor([8, 2])
    found = made(x, 5, z, MASK, t).unflatten(0, (2, 5))
    expected = infused(weights(made), x.unflatten(0, (2, 5)), z, MASK.tolist(), 2, t.tolist(), space, time)
    close(found, expected)
    assert found[1].equal(x[5:])  # no neighbours: exactly nothing
    assert (found[0] - x[:5]).abs().min() > 0
    # What is masked is not read, not even if it is not a number.
    broken = z.clone()
    broken[0, 2], broken[1] = torch.nan, torch.inf
    assert made(x, 5, broken, MASK, t).unflatten(0, (2, 5)).equal(found)
    close(made(x, 5, z[:, :2], torch.ones(2, 2, dtype=torch.bool), t), made(x, 5, z[:, :2], None, t))


@torch.no_grad()
def test_leak() -> None:
    """As released, the first attention sees neighbours that are missing."""
    sound, leaky = (Infuser(6, 4, 2, "transformer", leaky=leaky).to(double) for leaky in (False, True))
    x, z = features(5, 6, 2, 3, seed=1, dtype=double), features(1, 3, 4, seed=2, dtype=double)
    other = z.clone()
    other[:, 2] += 1
    for made, moves in ((sound, False), (leaky, True)):
        move(made)
        apart = (made(x, 5, z, MASK[:1]) - made(x, 5, other, MASK[:1])).abs().max()
        assert (apart > 1e-3) if moves else (apart == 0)


# --- blocks of diffusers ---


def theirs(own: nn.Module, prefix: str, block: nn.Module) -> None:
    known = dict(own.named_parameters())
    state = {}
    for name, weight in known.items():
        part, inside = _theirs(prefix + name).split(".", 2)[::2]
        if part in ("body", "blocks"):
            state[inside] = weight.detach()
    block.load_state_dict(state)


@torch.no_grad()
def test_blocks_of_diffusers() -> None:
    """The enhancer's block and the released one, layer norm."""
    own = TimeEnhancer(WIDTH, 1, 3).to(double)
    move(own)
    block = BasicTransformerBlock(WIDTH, 3, 4).to(double)
    theirs(own.blocks[0], "enhancer.blocks.0.", block)
    x, seen = features(4, 5, WIDTH, seed=1, dtype=double), torch.rand(4, 5) < 0.7
    seen[:, 0] = True
    close(own.blocks[0](x, seen), block(x, attention_mask=seen[:, None]))

    infuser = Infuser(6, 4, 2, "transformer").to(double)
    move(infuser)
    block = BasicTransformerBlock(6, 2, 3, cross_attention_dim=4, only_cross_attention=True).to(double)
    theirs(infuser, "infusers.0.", block)
    x, z = features(2, 30, 6, seed=1, dtype=double), features(2, 3, 4, seed=2, dtype=double)
    mask = MASK.clone()
    mask[1, 1] = True
    out = block(x, encoder_hidden_states=z, attention_mask=mask[:, None], encoder_attention_mask=mask[:, None])
    close(infuser.block(x, z, mask, None), out)


def test_adaptive_norm_starts_near_a_norm() -> None:
    made = AdaptiveNorm(6, 9).to(double)
    x = features(2, 5, 6, seed=1, dtype=double)
    with torch.no_grad():
        made.linear.weight.zero_()
        made.linear.bias.zero_()
    close(made(x, torch.tensor([0, 8])), nn.functional.layer_norm(x, (6,)))


# --- the whole model: modules swapped by hand in the place of hooks ---


class Swapped(nn.Module):
    """A layer of the base and what Eq. 6 adds behind it, in loops."""

    def __init__(self, layer: nn.Module, adapter: Infuser, condition: Condition, t: list[int], reading: Reading) -> None:
        super().__init__()
        self.layer, self.t, self.reading = layer, t, reading
        self.known, self.condition = weights(adapter), condition

    def forward(self, *args: Any, num_frames: int, **settings: Any) -> Any:
        out = self.layer(*args, num_frames=num_frames, **settings)
        x = out[0] if isinstance(out, tuple) else out
        z, mask = self.condition
        seen = torch.ones(z.shape[:2]) if mask is None else mask
        x = x.unflatten(0, (-1, num_frames))
        x = infused(self.known, x, z, seen.bool().tolist(), 4, self.t, *self.reading.pooled).flatten(0, 1)
        return (x,) if isinstance(out, tuple) else x


def by_hand(model: RagMe, z: Tensor, mask: Tensor | None) -> Tensor:
    latents, t, text = inputs(double)
    token = torch.stack([
        torch.stack([enhanced(weights(model.enhancer), one, [True] * 6, 2, 4) for one in item]) for item in z
    ])  # fmt: skip
    if model.config.reading.tokens == "mean":
        token = torch.stack([item[there].mean(0, keepdim=True) for item, there in zip(token, mask, strict=True)])
        mask = None
    base = model.remove()
    for site, adapter in zip(model.sites, model.infusers, strict=True):
        parent, _, last = site.name.rpartition(".")
        place = base.get_submodule(parent)
        setattr(place, last, Swapped(getattr(place, last), adapter, Condition(token, mask), t.tolist(), model.config.reading))
    return base(latents, t, text).sample


@pytest.mark.parametrize("settings", [
    {"reading": "paper"}, {"reading": "released"}, {"reading": "released", "norm": "ada_norm"},
    {"reading": Reading.paper().flipped("mid")}, {"reading": Reading.released().flipped("tokens", "queries")},
], ids=["paper", "released", "ada_norm", "paper_mid_block", "loop"])  # fmt: skip
@torch.no_grad()
def test_whole_model(settings: dict[str, Any]) -> None:
    model = wrapped(dtype=double, **settings)
    z, mask = frames(double), MASK.clone()
    mask[1, 2] = True
    latents, t, text = inputs(double)
    found, base = model(latents, t, text, z, mask), model(latents, t, text)
    assert (found - base).abs().amax((1, 2, 3, 4)).min() > 1e-3
    close(found, by_hand(model, z, mask))
