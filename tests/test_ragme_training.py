"""The diffusion loss against its formula written out in float64, and against what diffusers noises and targets."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler
from small_ragme import features, frames, inputs, unet, wrapped
from torch import Tensor, nn

from vtrlib.ragme import Condition, RagMe, diffusion_loss

DOUBLE = torch.float64
KINDS = ("epsilon", "v_prediction")
close = functools.partial(torch.testing.assert_close, atol=1e-12, rtol=1e-12)


def scheduler(kind: str = "epsilon", of: Any = DDIMScheduler) -> Any:
    """ZeroScope's."""
    return of(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type=kind)


def levels() -> list[float]:
    """ᾱ, by its definition."""
    found, product = [], 1.0
    for i in range(1000):
        product *= 1 - (0.00085**0.5 + i / 999 * (0.012**0.5 - 0.00085**0.5)) ** 2
        found.append(product)
    return found


def exact(kind: str = "epsilon") -> Any:
    """A schedule of which float64 has the levels: those of diffusers are in float32."""
    made = scheduler(kind)
    made.alphas_cumprod = torch.tensor(levels(), dtype=DOUBLE)
    return made


class Blank(nn.Module):
    """Predicts zeros, so that the loss is the mean square of what was to be predicted; keeps what it was given."""

    def forward(self, noisy: Tensor, t: Tensor, states: Tensor) -> Tensor:
        self.noisy, self.t = noisy, t
        return torch.zeros_like(noisy)


def noise(dtype: torch.dtype = DOUBLE) -> Tensor:
    return features(*inputs()[0].shape, seed=7, dtype=dtype)


def by_hand(model: nn.Module, kind: str, *shown: Any) -> float:
    """Item by item, number by number; `shown` are neighbours."""
    (latents, t, states), bars = inputs(DOUBLE), levels()
    noisy, wanted = torch.empty_like(latents), []
    for b, step in enumerate(t.tolist()):
        signal, spread = math.sqrt(bars[step]), math.sqrt(1 - bars[step])
        pairs = list(zip(latents[b].flatten().tolist(), noise()[b].flatten().tolist(), strict=True))
        noisy[b] = torch.tensor([signal * x + spread * e for x, e in pairs]).reshape(latents[b].shape)
        wanted += [e if kind == "epsilon" else signal * e - spread * x for x, e in pairs]
    found = model(noisy, t, states, *shown)
    found = found if isinstance(found, Tensor) else found.sample
    return sum((one - want) ** 2 for one, want in zip(found.flatten().tolist(), wanted, strict=True)) / len(wanted)


@pytest.fixture(autouse=True)
def _doubles_by_default() -> Any:
    torch.set_default_dtype(DOUBLE)  # of numbers that are written out here
    yield
    torch.set_default_dtype(torch.float32)


def test_levels() -> None:
    close(torch.tensor(levels()), scheduler().alphas_cumprod.double(), atol=1e-6, rtol=0)


@functools.cache
def model() -> RagMe:
    return wrapped("released", dtype=DOUBLE, norm="ada_norm")


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_by_hand(kind: str) -> None:
    """Of a bare base, and of RagMe without and with neighbours: three losses."""
    latents, t, states = inputs(DOUBLE)
    mask = torch.tensor([[True, False, True], [True, True, False]])
    some = torch.ones(2, 3, 6, dtype=torch.bool)
    some[0, 2, 4:] = False
    given = {"latents": latents, "text_states": states, "t": t, "noise": noise()}
    loss = functools.partial(diffusion_loss, scheduler=exact(kind), **given)
    bare, base = loss(unet(DOUBLE)), loss(model())
    assert bare.shape == () and bare.dtype == DOUBLE
    close(bare.item(), by_hand(unet(DOUBLE), kind))
    close(base.item(), bare.item())
    z = frames(DOUBLE)
    shown = loss(model(), z=z, mask=mask, frame_mask=some)
    close(shown.item(), by_hand(model(), kind, z, mask, some))
    close(loss(model(), z=model().condition(z, mask, some)).item(), shown.item())
    apart = [base, shown, loss(model(), z=z), loss(model(), z=z, mask=mask)]
    assert all(abs(a - b) > 1e-5 for i, a in enumerate(apart) for b in apart[:i]), apart
    wrong = loss(model(), scheduler=exact(KINDS[kind == "epsilon"]))
    assert abs(wrong - base) > 1e-2


@pytest.mark.parametrize("kind", KINDS)
def test_as_diffusers_noises_and_targets(kind: str) -> None:
    """Bit for bit in float32; and by the same formula with a sampler that itself counts in another scale of noise."""
    latents, t, states = inputs(torch.float32)
    known, drawn = scheduler(kind), noise(torch.float32)
    one = Blank()
    found = diffusion_loss(one, known, latents, states, t=t, noise=drawn)
    assert one.noisy.equal(known.add_noise(latents, drawn, t)) and one.t.equal(t)
    target = drawn if kind == "epsilon" else known.get_velocity(latents, drawn, t)
    assert found.equal(target.square().mean()) and found.dtype == torch.float32
    other = diffusion_loss(one, scheduler(kind, EulerDiscreteScheduler), latents, states, t=t, noise=drawn)
    close(other, found, atol=1e-6, rtol=1e-6)


def test_steps_and_noise_are_drawn() -> None:
    """From torch's global generator; steps are even over the schedule."""
    latents, _, states = inputs(DOUBLE)
    one = Blank()
    torch.manual_seed(4)
    found = diffusion_loss(one, exact(), latents, states)
    torch.manual_seed(4)
    t = torch.randint(1000, (2,))
    drawn = torch.randn_like(latents)
    assert found.equal(diffusion_loss(Blank(), exact(), latents, states, t=t, noise=drawn)) and one.t.equal(t)
    close(found.item(), drawn.square().mean().item())
    many = torch.zeros(20_000, 1, 1, 1, 1)
    diffusion_loss(one, exact(), many, states)
    share = one.t.bincount(minlength=1000).unflatten(0, (10, 100)).sum(1) / len(many)
    assert len(one.t.unique()) == 1000 and (share - 0.1).abs().max() < 0.012  # five standard errors


@pytest.mark.parametrize("kind", KINDS)
def test_half_precision(kind: str) -> None:
    """Noised in float32 and rounded once: bfloat16 has no number between 0.996 and 1, where the first levels lie."""
    drawn = noise(torch.bfloat16)
    latents, states = inputs(torch.bfloat16)[0], inputs(torch.bfloat16)[2]
    t = torch.tensor([0, 3])
    one, exactly = Blank(), Blank()
    found = diffusion_loss(one, scheduler(kind), latents, states, t=t, noise=drawn)
    expected = diffusion_loss(exactly, scheduler(kind), latents.float(), states, t=t, noise=drawn.float())
    assert scheduler().alphas_cumprod[0].bfloat16() == 1
    assert one.noisy.dtype == torch.bfloat16 and one.noisy.equal(exactly.noisy.bfloat16())
    assert not one.noisy[0].equal(latents[0]) and found.dtype == torch.float32 and found.equal(expected)


def test_gradient() -> None:
    """Of what is added alone; one number of it against differences."""
    made = wrapped(dtype=DOUBLE)
    latents, t, states = inputs(DOUBLE)
    given = (made, exact("v_prediction"), latents, states, frames(DOUBLE))
    loss = functools.partial(diffusion_loss, *given, t=t, noise=noise())
    loss().backward()
    trained = {name for name, weight in made.named_parameters() if weight.grad is not None}
    assert trained == set(made.added()) and all(weight.grad is None for weight in made.unet.parameters())
    weight = made.enhancer.cls  # type: ignore[union-attr]
    with torch.no_grad():
        around = []
        for step in (1e-5, -1e-5):
            weight[3] += step  # type: ignore[index]
            around.append(loss().item())
            weight[3] -= step  # type: ignore[index]
    slope = float(weight.grad[3])  # type: ignore[union-attr, index]
    close(slope, (around[0] - around[1]) / 2e-5, atol=1e-9, rtol=1e-5)
    assert abs(slope) > 1e-6


# --- bad input ---


def call(one: Any = None, known: Any = None, **change: Any) -> Tensor:
    latents, t, states = inputs(DOUBLE)
    given = {"latents": latents, "text_states": states, "t": t, "noise": noise(), **change}
    return diffusion_loss(one or model(), known or exact(), **given)


@pytest.mark.parametrize(("bad", "message"), [
    (lambda: call(latents=torch.zeros(3, 5, 4, 6)), r"latents: found shape \(3, 5, 4, 6\), expected \(B, C, F, H, W\)"),
    (lambda: call(latents=torch.zeros(0, 3, 5, 4, 6)), r"latents: found shape \(0, 3, 5, 4, 6\), .*no axis empty"),
    (lambda: call(noise=noise()[:1]), r"noise: found shape \(1, 3, 5, 4, 6\), expected \(B=2, C=3, F=5, H=4, W=6\)"),
    (lambda: call(t=torch.tensor([7])), r"t: found shape \(1,\), expected \(B=2\)"),
    (lambda: call(t=torch.tensor(7)), r"t: found shape \(\), expected \(B=2\)"),
    (lambda: call(t=torch.tensor([3, -1])), r"t: found \[3, -1\], expected steps from 0 to 999"),
    (lambda: call(t=torch.tensor([1000, 2])), r"t: found \[1000, 2\], expected steps from 0 to 999"),
    (lambda: call(known=scheduler("sample")), r"scheduler.config.prediction_type='sample': expected one of 'epsilon', 'v_pred"),
    (lambda: call(text_states=torch.zeros(2, 7, 9)), r"text_states: found shape \(2, 7, 9\), expected \(B=2, L, d=10\)"),
    (lambda: call(latents=torch.zeros(2, 4, 5, 4, 6), noise=None), r"latents: found shape .*C=3"),
    (lambda: call(z=frames(DOUBLE)[..., :5]), r"z: found shape \(2, 3, 6, 5\), expected \(B, K, F, D=12\)"),
    (lambda: call(z=frames(DOUBLE), mask=torch.ones(2, 4)), r"mask: found shape \(2, 4\), expected \(B=2, K=3\)"),
    (lambda: call(z=Condition(torch.zeros(2, 3, 12), None), mask=torch.ones(2, 3)), r"mask, frame_mask: found beside a Condition"),
])  # fmt: skip
def test_bad_input(bad: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bad()


@pytest.mark.parametrize(("bad", "message"), [
    (lambda: call(latents=[1.0]), r"latents: found list, expected a tensor \(B, C, F, H, W\)"),
    (lambda: call(t=3), r"t: found int, expected a tensor \(B\)"),
    (lambda: call(unet(DOUBLE), z=frames(DOUBLE)), r"unexpected keyword argument 'z'"),  # it would not look at them
])  # fmt: skip
def test_wrong_types(bad: Callable[[], object], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        bad()


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_an_error_of_what_is_clean(kind: str) -> None:
    """By undoing the noise with what was predicted; the prediction itself is anything."""
    scheduler = DDIMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, prediction_type=kind)
    draws = torch.Generator().manual_seed(4)
    x0, noise, said = (torch.randn(3, 2, 4, 3, 5, generator=draws, dtype=torch.float64) for _ in range(3))
    t = torch.tensor([3, 500, 977])

    class Says(torch.nn.Module):
        def forward(self, noisy: torch.Tensor, *_: object) -> torch.Tensor:
            self.noisy = noisy
            return said

    model, states = Says().eval(), torch.zeros(3, 1, 2)
    found = diffusion_loss(model, scheduler, x0, states, of="clean", t=t, noise=noise)
    errors = []
    for one, noisy, step, target in zip(said, model.noisy, t.tolist(), x0, strict=True):
        kept = float(scheduler.alphas_cumprod[step])
        clean = (noisy - (1 - kept) ** 0.5 * one) / kept**0.5
        if kind == "v_prediction":
            clean = kept**0.5 * noisy - (1 - kept) ** 0.5 * one
        errors.append(((clean - target) ** 2).mean())
    torch.testing.assert_close(found, torch.stack(errors).mean(), rtol=1e-6, atol=0)
    with pytest.raises(ValueError, match="of"):
        diffusion_loss(model, scheduler, x0, states, of="noise", t=t, noise=noise)
