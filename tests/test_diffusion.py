"""Diffusion: against `diffusers`, Bayes' rule, Gaussian data whose reverse process is known exactly, and released
constants."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler
from torch import Tensor

from vtrlib.diffusion import Schedule, cosine, draw_normal, linear, sample

GOLDEN = torch.load(Path(__file__).parent / "golden" / "dreamprvr.pt", weights_only=True)["schedule"]
DEVICES = ["cpu"] + ["cuda"] * torch.cuda.is_available()
SCHEDULES = [linear(7, 0.02, 0.6), cosine(5), cosine(1), linear(2, 0.3, 0.1)]


def points(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def theirs(schedule: Schedule, **settings: Any) -> DDPMScheduler:
    made = DDPMScheduler(schedule.steps, trained_betas=schedule.beta.double().numpy(), **settings)
    made.alphas_cumprod = schedule.alpha_bar[1:]  # they keep float32
    made.alphas, made.betas, made.one = 1 - schedule.beta, schedule.beta, torch.tensor(1.0, dtype=torch.float64)
    return made


# --- schedules ---


def test_released_constants() -> None:
    schedule = cosine(4)
    torch.testing.assert_close(schedule.beta, GOLDEN["betas"], rtol=1e-13, atol=0)
    one = torch.ones(1, dtype=torch.float64)
    for t in range(1, 5):
        found = {
            "alphas_cumprod": schedule.alpha_bar[t],
            "posterior_variance": schedule.posterior(one, one, t)[1],
            "posterior_mean_coef1": schedule.posterior(one, 0 * one, t)[0].item(),
            "posterior_mean_coef2": schedule.posterior(0 * one, one, t)[0].item(),
            "sqrt_recip_alphas_cumprod": schedule.x0_from_noise(one, t, 0 * one).item(),
            "sqrt_recipm1_alphas_cumprod": -schedule.x0_from_noise(0 * one, t, one).item(),
        }
        for name, value in found.items():
            assert float(value) == pytest.approx(GOLDEN[name][t - 1].item(), rel=1e-12), (name, t)


@pytest.mark.parametrize("steps", [1, 2, 10, 100])
def test_cosine_is_its_formula_up_to_the_clip(steps: int) -> None:
    schedule = cosine(steps, offset=0.02, clip=0.99)
    f = [math.cos((t / steps + 0.02) / 1.02 * math.pi / 2) ** 2 for t in range(steps + 1)]
    for t in range(steps):
        assert schedule.alpha_bar[t].item() == pytest.approx(f[t] / f[0], rel=1e-9)
    assert schedule.beta[-1] == 0.99, "the last step would destroy everything"


def test_linear_and_cumulated_products() -> None:
    schedule = linear(5, 0.1, 0.5)
    assert schedule.beta.tolist() == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])
    assert schedule.alpha_bar.tolist() == pytest.approx([1, 0.9, 0.72, 0.504, 0.3024, 0.1512])
    assert (linear(1000).beta[[0, -1]] == torch.tensor([1e-4, 0.02], dtype=torch.float64)).all()


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_steps_one_by_one_are_the_jump(schedule: Schedule) -> None:
    """q(x_t | x_0) from the chain q(x_t | x_{t-1}): means shrink, variances add."""
    mean, variance = 1.0, 0.0
    zero, one = points(3) * 0, points(3) * 0 + 1
    for t, beta in enumerate(schedule.beta.tolist(), 1):
        mean, variance = mean * (1 - beta) ** 0.5, variance * (1 - beta) + beta
        torch.testing.assert_close(schedule.diffuse(one, t, zero), mean * one)
        torch.testing.assert_close(schedule.diffuse(zero, t, one), variance**0.5 * one)
    assert schedule.diffuse(one, 0, 99 * one).equal(one), "nothing happens at t = 0"


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_posterior_is_bayes_rule(schedule: Schedule) -> None:
    r"""q(x_{t-1} | x_t, x_0) by conditioning the joint Gaussian of x_{t-1} and x_t."""
    x0, xt = points(3, 5), points(3, 5, seed=1)
    for t in range(1, schedule.steps + 1):
        bar, alpha = schedule.alpha_bar[t - 1].item(), 1 - schedule.beta[t - 1].item()
        before, now = 1 - bar, alpha * (1 - bar) + 1 - alpha  # variances
        gain = alpha**0.5 * before / now
        mean = bar**0.5 * x0 + gain * (xt - (alpha * bar) ** 0.5 * x0)
        found, variance = schedule.posterior(x0, xt, t)
        torch.testing.assert_close(found, mean, rtol=1e-10, atol=1e-10)
        assert variance == pytest.approx(before - gain**2 * now, abs=1e-12)
    assert schedule.posterior(x0, xt, 1)[1] == 0, "t = 1 leads to x_0 itself"
    torch.testing.assert_close(schedule.posterior(x0, xt, 1)[0], x0)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_three_ways_to_say_noise(schedule: Schedule) -> None:
    x0, noise = points(2, 5), points(2, 5, seed=1)
    for t in range(1, schedule.steps + 1):
        xt = schedule.diffuse(x0, t, noise)
        torch.testing.assert_close(schedule.x0_from_noise(xt, t, noise), x0, rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(schedule.noise_from_x0(xt, t, x0), noise, rtol=1e-8, atol=1e-8)
        mean = schedule.posterior(schedule.x0_from_noise(xt, t, 2 * noise), xt, t)[0]
        torch.testing.assert_close(schedule.reverse_mean(xt, t, 2 * noise), mean, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_many_steps_at_once(device: str, dtype: torch.dtype) -> None:
    """A tensor of steps is the same as each step by itself, in any shape."""
    schedule = cosine(6)
    x0, noise = (points(4, 3, 5, seed=seed, dtype=dtype).to(device) for seed in (0, 1))
    t = torch.tensor([[2], [6], [1], [3]], device=device)
    together = schedule.diffuse(x0, t, noise)
    assert together.dtype == dtype and together.device.type == device
    for row, step in enumerate(t.flatten().tolist()):
        alone = schedule.diffuse(x0[row], step, noise[row])
        torch.testing.assert_close(together[row], alone, rtol=0.02, atol=0.02 if dtype == torch.bfloat16 else 1e-6)
    mean, variance = schedule.posterior(x0, noise, t)
    assert mean.shape == x0.shape and variance.shape == (4, 1, 1)  # type: ignore[union-attr]


def test_constants_made_in_inference_serve_training() -> None:
    schedule, t = cosine(3), torch.tensor([1, 3])
    x0, noise = points(2, 5, dtype=torch.float32), points(2, 5, seed=1, dtype=torch.float32)
    with torch.inference_mode():
        schedule.diffuse(x0, t, noise)
    x0.requires_grad_()
    (schedule.diffuse(x0, t, noise) ** 2).sum().backward()


# --- diffusers ---


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_forward_process_of_diffusers(schedule: Schedule) -> None:
    x0, noise = points(schedule.steps, 3, 5), points(schedule.steps, 3, 5, seed=1)
    t = torch.arange(1, schedule.steps + 1)
    expected = theirs(schedule).add_noise(x0, noise, t - 1)
    torch.testing.assert_close(schedule.diffuse(x0, t[:, None], noise), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("clamp", [None, 0.7])
@pytest.mark.parametrize("step", ["noise", "posterior"])
def test_samplers_of_diffusers(schedule: Schedule, step: str, clamp: float | None) -> None:
    """Every state of the reverse process with a denoiser that depends on x and t."""
    if step == "noise" and clamp is not None:
        pytest.skip("Eq. 12 has nothing to clamp")

    def denoiser(x: Tensor, t: int) -> Tensor:
        return (x * (0.3 + t)).sin()

    other = theirs(
        schedule, clip_sample=clamp is not None, clip_sample_range=clamp or 1.0,
        variance_type="fixed_large" if step == "noise" else "fixed_small",
    )  # fmt: skip
    start = points(2, 3, 5)
    states, generator = [start], torch.Generator().manual_seed(7)
    for t in range(schedule.steps, 0, -1):
        estimate = denoiser(states[-1], t)
        states.append(other.step(estimate, t - 1, states[-1], generator=generator).prev_sample)
    found = sample(
        denoiser, start, schedule, step=step, clamp=clamp, generator=torch.Generator().manual_seed(7), trajectory=True
    )
    torch.testing.assert_close(found, torch.stack(states), rtol=1e-8, atol=1e-8)


# --- Gaussian data ---


def exact(schedule: Schedule, mean: float, deviation: float) -> Callable[[Tensor, int], Tensor]:
    """The best denoiser for data from N(mean, deviation²): E[ε | x_t]."""

    def denoiser(x: Tensor, t: int) -> Tensor:
        bar = schedule.alpha_bar[t].item()
        return (1 - bar) ** 0.5 * (x - bar**0.5 * mean) / (bar * deviation**2 + 1 - bar)

    return denoiser


@pytest.mark.parametrize("step", ["noise", "posterior"])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_single_point_is_found_from_anywhere(schedule: Schedule, step: str) -> None:
    """Data without spread: the last step lands on it exactly, whatever noise came before."""
    found = sample(exact(schedule, 1.7, 0.0), 50 * points(3, 5), schedule, step=step)
    torch.testing.assert_close(found, torch.full_like(found, 1.7), rtol=1e-8, atol=1e-8)


def test_reverse_process_of_standard_normal_data() -> None:
    """Then q(x_{t-1} | x_t) = N(√α_t x_t, β_t): the chain with σ² = β keeps variance 1, and the last step, without
    noise, leaves α_1. The chain is linear, so its Jacobian gives the variance exactly."""
    schedule = linear(6, 0.05, 0.5)
    draws = torch.zeros(6, 1, dtype=torch.float64)

    def run(start: Tensor, draws: Tensor) -> Tensor:
        return sample(exact(schedule, 0.0, 1.0), start, schedule, draws=draws)

    slopes = torch.autograd.functional.jacobian(run, (torch.zeros(1, dtype=torch.float64), draws))
    variance = sum(slope.square().sum().item() for slope in slopes)
    assert variance == pytest.approx(1 - schedule.beta[0].item(), rel=1e-12)
    assert slopes[1].flatten()[-1] == 0, "no noise at t = 1"


def test_samples_have_the_data_s_moments() -> None:
    schedule = linear(200, 1e-4, 0.08)
    generator = torch.Generator().manual_seed(0)
    start = draw_normal((20_000,), torch.empty(0, dtype=torch.float64), generator)
    for step in ("noise", "posterior"):
        found = sample(exact(schedule, 2.0, 0.5), start, schedule, step=step, generator=generator)
        assert found.mean().item() == pytest.approx(2.0, abs=0.02)
        assert found.std().item() == pytest.approx(0.5, abs=0.02)


# --- edges ---


def test_no_steps_and_one_step() -> None:
    start = points(2, 5)
    for make in (linear, cosine):
        nothing = sample(lambda x, t: pytest.fail("called"), start, make(0), trajectory=True)
        assert nothing.equal(start[None])
    called: list[int] = []
    found = sample(lambda x, t: (called.append(t), x)[1], start, cosine(1), draws=torch.tensor(torch.nan))
    assert called == [1] and found.isfinite().all(), "the only step is the last one, which adds no noise"


def test_the_last_draw_is_never_read_and_all_others_are() -> None:
    schedule, start, draws = cosine(4), points(3), points(4, 3, seed=1)
    expected = sample(exact(schedule, 0.3, 0.8), start, schedule, draws=draws)
    for row in range(4):
        spoiled = draws.clone()
        spoiled[row] = torch.nan
        found = sample(exact(schedule, 0.3, 0.8), start, schedule, draws=spoiled)
        assert found.equal(expected) if row == 3 else found.isnan().all()


def test_draws_follow_the_generator() -> None:
    def run(seed: int | None) -> Tensor:
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        return sample(lambda x, t: x, points(3), cosine(3), generator=generator)

    assert run(0).equal(run(0)) and not run(0).equal(run(1)) and not run(None).equal(run(None))


def test_gradient_reaches_start_and_denoiser() -> None:
    schedule, draws = cosine(3), points(3, 2, seed=1)
    assert torch.autograd.gradcheck(
        lambda x, w: sample(lambda y, t: w * y * t, x, schedule, step="posterior", draws=draws),
        (points(2).requires_grad_(), points(2, seed=2).requires_grad_()),
    )


BAD: list[tuple[Callable[[], object], type[Exception], str]] = [
    (
        lambda: linear(3, 0.1, 1.5),
        ValueError,
        r"beta: found \[0.1, 0.8, 1.5\], expected shape \(T,\) with 0 < beta < 1",
    ),
    (lambda: Schedule(torch.ones(2, 2)), ValueError, "beta: found"),
    (lambda: cosine(-1), ValueError, "steps=-1: expected at least 0"),
    (lambda: cosine(2.5), TypeError, "steps=2.5"),  # type: ignore[arg-type]
    (lambda: sample(lambda x, t: x, points(2), cosine(2), step="ddim"), ValueError, "step='ddim': expected one of"),
    (lambda: sample(lambda x, t: x, points(2), cosine(2), clamp=1.0), ValueError, "clamp=1.0: Eq. 12 holds no x0"),
    (lambda: sample(lambda x, t: x, points(2), cosine(2), draws=points(3, 2)), ValueError, r"draws: .*\(2, 2\)"),
]


@pytest.mark.parametrize(("call", "kind", "message"), BAD)
def test_bad_input_is_named(call: Callable[[], object], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        call()
