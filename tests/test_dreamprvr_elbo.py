"""The ELBO, line by line: against quadrature, Monte Carlo, block formulas for Gaussians, and simulated chains."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from scipy.integrate import dblquad, quad
from torch import Generator, Tensor
from torch.distributions import Categorical, MultivariateNormal, Normal, kl_divergence

from vtrlib.diffusion import cosine, linear, sample
from vtrlib.dreamprvr.elbo import Bound, DiffusionChain, RegisterModel, elbo, estimate
from vtrlib.dreamprvr.registers import forward_diffusion_loss
from vtrlib.dreamprvr.sampler import Gaussian, divergence
from vtrlib.dreamprvr.text_space import diversity, query_similarity_preservation
from vtrlib.gaussians import Quadratic
from vtrlib.losses import info_nce, triplet

SIZES = [(3, 5, 4), (2, 1, 1), (1, 2, 7)]  # Dv, d, D
CHAINS = [(linear(4, 0.1, 0.5), 3), (cosine(10), 2), (linear(1, 0.4), 3), (linear(2, 0.3, 0.1), 1)]


def seeded(seed: int = 0) -> Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64)


def gaussian(width: int, seed: int, floor: float = 0.2) -> MultivariateNormal:
    root = normal(width, width, seed=seed + 1)
    eye = torch.eye(width, dtype=torch.float64)
    return MultivariateNormal(normal(width, seed=seed), floor * eye + root @ root.mT / width)


def drawn(under: MultivariateNormal, count: int, seed: int = 9) -> Tensor:
    return under.mean + normal(count, len(under.mean), seed=seed) @ under.scale_tril.mT


def scene(sizes: tuple[int, int, int], seed: int = 1) -> tuple[RegisterModel, Tensor, Tensor]:
    model = RegisterModel.random(seeded(seed), *sizes)
    return model, *model.draw(seeded(seed + 1), 3)


def chain(index: int, seed: int = 3, off: float = 0.2) -> tuple[DiffusionChain, MultivariateNormal, Tensor]:
    """A chain whose estimator is wrong, its target and a point; all sizes of `CHAINS`."""
    schedule, d = CHAINS[index]
    target = gaussian(d, seed)
    weight, bias = estimate(schedule, target)
    weight, bias = weight + off * normal(*weight.shape, seed=seed + 3), bias + off * normal(*bias.shape, seed=seed + 4)
    variance = schedule.beta * (0.5 + torch.rand(schedule.steps, generator=seeded(seed), dtype=torch.float64))
    made = DiffusionChain(schedule, gaussian(d, seed + 5, 0.5), weight, bias, variance)
    return made, target, drawn(target, 1)[0]


def exactly(found: Tensor, expected: Tensor, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(found, torch.as_tensor(expected, dtype=found.dtype), rtol=tolerance, atol=tolerance)


# --- quadratic forms ---


def test_residual_and_density_are_log_densities() -> None:
    matrix, offset, noise = normal(4, 3, seed=0), normal(4, seed=1), gaussian(4, 2)
    z = normal(6, 3, seed=5)
    form = Quadratic.residual(matrix, offset, noise.covariance_matrix)
    centred = MultivariateNormal(torch.zeros(4, dtype=torch.float64), noise.covariance_matrix)
    exactly(form(z), centred.log_prob(z @ matrix.mT + offset))
    exactly(Quadratic.density(noise)(normal(6, 4, seed=7)), noise.log_prob(normal(6, 4, seed=7)))


def test_integral_against_quadrature() -> None:
    one = Quadratic(*(torch.tensor(v, dtype=torch.float64) for v in ([[1.7]], [0.4], -0.3)))
    value = quad(lambda z: math.exp(-0.3 + 0.4 * z - 0.85 * z * z), -12, 12)[0]
    assert one.integral().item() == pytest.approx(math.log(value), abs=1e-10)
    two = Quadratic.density(gaussian(2, 3)) + Quadratic.residual(
        normal(1, 2, seed=1), normal(1, seed=2), torch.eye(1, dtype=torch.float64)
    )
    value = dblquad(lambda x, y: math.exp(two(torch.tensor([x, y], dtype=torch.float64))), -9, 9, -9, 9, epsabs=1e-7)[0]
    assert two.integral().item() == pytest.approx(math.log(value), abs=1e-5)


def test_sums_are_products_and_a_normalised_form_is_its_gaussian() -> None:
    a, b = (Quadratic.density(gaussian(3, seed)) for seed in (0, 4))
    z = normal(5, 3, seed=8)
    exactly((a + b)(z), a(z) + b(z))
    exactly((a - b)(z), a(z) - b(z))
    exactly((a + b).gaussian().log_prob(z), (a + b)(z) - (a + b).integral())


def test_expectation_against_draws_and_entropy() -> None:
    under, other = gaussian(3, 0), Quadratic.density(gaussian(3, 5))
    exactly(Quadratic.density(under).expectation(under), -under.entropy())
    values = other(drawn(under, 200_000))
    assert abs(values.mean() - other.expectation(under)) < 5 * values.std() / 200_000**0.5


def test_what_is_no_density_is_refused() -> None:
    flat = Quadratic.density(gaussian(2, 0)) - Quadratic.density(gaussian(2, 0))
    with pytest.raises(ValueError, match=r"precision: found the eigenvalue .*, expected all above 0"):
        flat.integral()
    with pytest.raises(ValueError, match=r"precision: found shape \(2, 3\)"):
        Quadratic(torch.zeros(2, 3), torch.zeros(2), torch.zeros(()))


# --- Eq. 1-3 and 18-24 ---


def test_evidence_is_the_integral_by_quadrature() -> None:
    model, video, queries = scene((2, 1, 1))
    prior, s = model.imagination(video), model.noise
    mean, sd = prior.mean.item(), prior.stddev.item()

    def joint(r: float) -> float:
        where = model.describe.item() * r + (model.see @ video).item()
        likelihood = math.exp(-0.5 * ((queries[0].item() - where) / s) ** 2) / (s * math.sqrt(2 * math.pi))
        return likelihood * math.exp(-0.5 * ((r - mean) / sd) ** 2) / (sd * math.sqrt(2 * math.pi))

    value = quad(joint, mean - 12 * sd, mean + 12 * sd, epsabs=1e-14)[0]
    assert model.evidence(video).log_prob(queries[0]).item() == pytest.approx(math.log(value), abs=1e-9)


@pytest.mark.parametrize("sizes", SIZES)
def test_evidence_is_the_mean_likelihood_of_drawn_registers(sizes: tuple[int, int, int]) -> None:
    model, video, queries = scene(sizes)
    r = drawn(model.imagination(video), 200_000)
    where = r @ model.describe.mT + model.see @ video
    likelihood = Normal(where, model.noise).log_prob(queries[0]).sum(-1)
    exactly(model.concentration(queries[0], video)(r), likelihood)
    weights = likelihood.exp()
    exact = model.evidence(video).log_prob(queries[0]).exp()
    assert abs(weights.mean() - exact) < 5 * weights.std() / 200_000**0.5
    together = model.concentration(queries[0], video) + Quadratic.density(model.imagination(video))
    exactly(together.integral(), exact.log())


@pytest.mark.parametrize("sizes", SIZES)
def test_posteriors_are_those_of_the_joint_gaussian(sizes: tuple[int, int, int]) -> None:
    """(V, r, Q_1 … Q_3) in one covariance, conditioned by the block formula."""
    model, video, queries = scene(sizes)
    dv, d, query = sizes
    to_r = torch.cat([model.imagine, torch.linalg.cholesky(model.doubt), torch.zeros(d, 3 * query).double()], 1)
    to_v = torch.eye(dv, to_r.shape[1], dtype=torch.float64)
    noises = torch.zeros(3, query, to_r.shape[1], dtype=torch.float64)
    for i in range(3):
        noises[i, :, dv + d + i * query : dv + d + (i + 1) * query] = model.noise * torch.eye(query)
    to_q = model.describe @ to_r + model.see @ to_v + noises  # (3, D, sources)

    def conditioned(known: Tensor, value: Tensor) -> MultivariateNormal:
        gain = torch.linalg.solve(known @ known.mT, known @ to_r.mT).mT
        return MultivariateNormal(gain @ value, to_r @ to_r.mT - gain @ known @ to_r.mT)

    text, every = conditioned(to_q.flatten(0, 1), queries.flatten()), torch.cat([to_v, to_q.flatten(0, 1)])
    both, one = conditioned(every, torch.cat([video, queries.flatten()])), torch.cat([to_v, to_q[0]])
    alone = conditioned(one, torch.cat([video, queries[0]]))
    for found, expected in (
        (model.text_posterior(queries), text),
        (model.posterior(queries, video), both),
        (model.posterior(queries[:1], video), alone),
    ):
        exactly(found.mean, expected.mean, 1e-8)
        exactly(found.covariance_matrix, expected.covariance_matrix, 1e-8)


@pytest.mark.parametrize("sizes", SIZES)
def test_dividing_by_q_changes_nothing_where_q_is_positive(sizes: tuple[int, int, int]) -> None:
    """Eq. 19, by importance sampling from a q that is wide enough; and a sum that a q with holes cuts short."""
    model, video, queries = scene(sizes)
    exact = model.posterior(queries[:1], video)
    q = MultivariateNormal(exact.mean + 0.2, 1.5 * exact.covariance_matrix)
    r = drawn(q, 100_000)
    x = model.concentration(queries[0], video)(r) + model.imagination(video).log_prob(r) - q.log_prob(r)
    weights = (x - model.evidence(video).log_prob(queries[0])).exp()
    assert abs(weights.mean() - 1) < 5 * weights.std() / 100_000**0.5 < 0.1
    likelihood, prior = torch.tensor([0.2, 0.3, 0.1]), torch.tensor([0.5, 0.2, 0.3])
    holes = torch.tensor([0.5, 0.5, 0.0])
    assert (likelihood * prior)[holes > 0].sum() < (likelihood * prior).sum()


@pytest.mark.parametrize("sizes", SIZES)
def test_jensen_and_what_it_drops(sizes: tuple[int, int, int]) -> None:
    """Eq. 20 and 21: log E X ≥ E log X, equal for a constant X, with the KL to p(r | Q, V) between them."""
    model, video, queries = scene(sizes)
    log_p = model.evidence(video).log_prob(queries[0])
    for seed in range(5):
        q = gaussian(sizes[1], 10 + seed)
        ratio = model.concentration(queries[0], video) + Quadratic.density(model.imagination(video))
        ratio = ratio - Quadratic.density(q)
        assert ratio.expectation(q) < log_p
        exactly(log_p - ratio.expectation(q), kl_divergence(q, model.posterior(queries[:1], video)), 1e-8)
        values = ratio(drawn(q, 100_000))
        assert abs(values.mean() - ratio.expectation(q)) < 5 * values.std() / 100_000**0.5
    exact = model.posterior(queries[:1], video)
    ratio = model.concentration(queries[0], video) + Quadratic.density(model.imagination(video))
    r = normal(4, sizes[1], seed=2)
    exactly((ratio - Quadratic.density(exact))(r), log_p.expand(4), 1e-8)


@pytest.mark.parametrize("sizes", SIZES)
def test_the_integrand_splits(sizes: tuple[int, int, int]) -> None:
    """Eq. 22 at points, Eq. 23 under q."""
    model, video, queries = scene(sizes)
    q, r = gaussian(sizes[1], 4), normal(6, sizes[1], seed=3)
    likelihood, prior = model.concentration(queries[0], video), Quadratic.density(model.imagination(video))
    ratio = Quadratic.density(q) - prior
    exactly((likelihood - ratio)(r), likelihood(r) - (q.log_prob(r) - model.imagination(video).log_prob(r)))
    exactly((likelihood - ratio).expectation(q), likelihood.expectation(q) - ratio.expectation(q))
    exactly(ratio.expectation(q), kl_divergence(q, model.imagination(video)))


@pytest.mark.parametrize("sizes", SIZES)
def test_elbo_plus_its_gap_is_the_evidence(sizes: tuple[int, int, int]) -> None:
    """Eq. 2 and 24, for q that know the query, the video, both, all queries, or nothing."""
    model, video, queries = scene(sizes)
    log_p = model.evidence(video).log_prob(queries[0])
    for q in (
        gaussian(sizes[1], 6),
        model.imagination(video),
        model.text_posterior(queries),
        model.posterior(queries, video),
        model.posterior(queries[:1], video),
    ):
        found = elbo(model, queries[0], video, q)
        exactly(found.value + found.gap, log_p, 1e-8)
        assert found.value <= log_p + 1e-9 and found.gap > -1e-9 and found.divergence > -1e-9
        r = drawn(q, 100_000)
        values = model.concentration(queries[0], video)(r)
        assert abs(values.mean() - found.likelihood) < 5 * values.std() / 100_000**0.5


@pytest.mark.parametrize("sizes", SIZES)
def test_the_tight_posterior_has_seen_query_and_video_and_no_other_query(sizes: tuple[int, int, int]) -> None:
    model, video, queries = scene(sizes)
    tight = elbo(model, queries[0], video, model.posterior(queries[:1], video))
    papers = elbo(model, queries[0], video, model.text_posterior(queries))
    assert abs(tight.gap) < 1e-9
    assert papers.gap > 0.01, "p(r | Q_a) is not the posterior of this bound"
    assert elbo(model, queries[0], video, model.posterior(queries, video)).gap > 0.01


@pytest.mark.parametrize("sizes", SIZES)
def test_queries_scored_together_pay_the_divergence_once(sizes: tuple[int, int, int]) -> None:
    model, video, queries = scene(sizes)
    every = model.posterior(queries, video)
    together = Quadratic.density(model.imagination(video))
    for query in queries:
        together = together + model.concentration(query, video)
    terms = [elbo(model, query, video, every) for query in queries]
    joint = torch.stack([term.likelihood for term in terms]).sum() - terms[0].divergence
    exactly(joint, together.integral(), 1e-8)
    apart = torch.stack([term.value for term in terms]).sum()
    exactly(apart, joint - 2 * terms[0].divergence, 1e-8)


def test_the_loss_is_minus_the_bound() -> None:
    """Eq. 3; its minimum over all Gaussian q is −log p, at p(r | Q, V)."""
    model, video, queries = scene(SIZES[0])
    best = model.posterior(queries[:1], video)
    mean, root = best.mean.clone().requires_grad_(), best.scale_tril.clone().requires_grad_()
    found = elbo(model, queries[0], video, MultivariateNormal(mean, root @ root.mT))
    loss = -found.value
    exactly(loss, found.divergence - found.likelihood)
    loss.backward()
    assert mean.grad.abs().max() < 1e-8 and root.grad.tril().abs().max() < 1e-8
    exactly(loss.detach(), -model.evidence(video).log_prob(queries[0]), 1e-8)


@pytest.mark.parametrize("sizes", SIZES)
def test_registers_from_the_video_give_another_and_looser_bound(sizes: tuple[int, int, int]) -> None:
    """The likelihood under p(r | V), as trained, beside the divergence of q: its gap is two divergences."""
    model, video, queries = scene(sizes)
    log_p = model.evidence(video).log_prob(queries[0])
    generated, exact = elbo(model, queries[0], video, model.imagination(video)), model.posterior(queries[:1], video)
    for q in (model.text_posterior(queries), exact, gaussian(sizes[1], 3)):
        other = elbo(model, queries[0], video, q)
        practice = generated.likelihood - other.divergence
        gap = kl_divergence(model.imagination(video), exact) + kl_divergence(q, model.imagination(video))
        exactly(practice + gap, log_p, 1e-8)
    tight = elbo(model, queries[0], video, exact)
    assert generated.likelihood - tight.divergence < tight.value - 1e-3


@pytest.mark.parametrize("sizes", SIZES)
def test_with_a_small_weight_on_the_divergence_there_is_no_bound(sizes: tuple[int, int, int]) -> None:
    model, video, queries = scene(sizes)
    found = elbo(model, queries[0], video, model.posterior(queries[:1], video))
    value, log_p = found.likelihood - 1e-3 * found.divergence, model.evidence(video).log_prob(queries[0])
    exactly(value - log_p, 0.999 * found.divergence, 1e-8)
    assert value > log_p


def test_a_point_for_an_imagination_has_no_divergence_and_needs_none() -> None:
    """The released reading: KL to a shrinking Gaussian grows as 1/σ², the evidence tends to p(Q | V, g(V))."""
    model, video, queries = scene(SIZES[0])
    eye, q = torch.eye(5, dtype=torch.float64), model.text_posterior(queries)
    at_point = model.concentration(queries[0], video)(model.imagination(video).mean)
    divergences = []
    for spread in (1e-2, 1e-3, 1e-4):
        narrow = replace(model, doubt=spread**2 * eye)
        divergences.append(elbo(narrow, queries[0], video, q).divergence)
        error = abs(narrow.evidence(video).log_prob(queries[0]) - at_point)
        assert error < 200 * spread**2
    assert divergences[1] / divergences[0] == pytest.approx(100, rel=0.02)
    assert divergences[2] / divergences[1] == pytest.approx(100, rel=0.02)


def test_bad_models_are_refused() -> None:
    model = RegisterModel.random(seeded(), 3, 5, 4)
    with pytest.raises(ValueError, match=r"see: found shape \(4, 2\), expected \(D=4, Dv=3\)"):
        replace(model, see=torch.zeros(4, 2))
    with pytest.raises(ValueError, match=r"noise=0: expected a deviation above 0"):
        replace(model, noise=0)


# --- Eq. 7 and 25-27 ---


@pytest.mark.parametrize("index", range(len(CHAINS)))
def test_evidence_of_a_chain_two_ways_and_by_sampling(index: int) -> None:
    made, _, x0 = chain(index)
    exactly(made.joint(x0).integral(), made.generated().log_prob(x0), 1e-7)
    made = replace(made, variance=made.schedule.beta)  # what `sample` adds, but for its last step
    start = drawn(made.start, 200_000)
    x = sample(lambda x, t: x @ made.weight[t - 1].mT + made.bias[t - 1], start, made.schedule, generator=seeded(5))
    exact, eye = made.generated(), torch.eye(made.width, dtype=torch.float64)
    scale = exact.covariance_matrix.diagonal().sqrt()
    assert ((x.mean(0) - exact.mean).abs() < 5 * scale / 200_000**0.5).all()
    found = x.mT.cov() + made.schedule.beta[0] * eye
    assert ((found - exact.covariance_matrix).abs() < 0.03 * torch.outer(scale, scale)).all()


def test_evidence_of_a_chain_by_quadrature() -> None:
    made, _, x0 = chain(3)  # T = 2, d = 1

    grid = torch.linspace(-15, 15, 2001, dtype=torch.float64)
    states = {0: x0, 1: grid[:, None], 2: grid[None]}
    density = Normal(made.start.mean, made.start.stddev).log_prob(states[2])
    for t in (2, 1):
        k, offset = made.reverse_map(t)
        step = Normal(k[0, 0] * states[t] + offset, made.variance[t - 1].sqrt())
        density = density + step.log_prob(states[t - 1])
    value = density.exp().sum() * (grid[1] - grid[0]) ** 2
    exactly(made.generated().log_prob(x0), value.log())


@pytest.mark.parametrize("index", range(len(CHAINS)))
def test_bound_plus_its_gap_is_the_evidence(index: int) -> None:
    """Eq. 7, first line, and Eq. 26, first two: against the evidence, and against simulated noising."""
    made, _, x0 = chain(index)
    exactly(made.bound(x0) + made.gap(x0), made.generated().log_prob(x0), 1e-7)
    assert made.gap(x0) > 1e-3
    states, log_q = [x0.expand(100_000, -1)], torch.zeros(100_000, dtype=torch.float64)
    for t, beta in enumerate(made.schedule.beta, 1):
        noise = normal(100_000, made.width, seed=20 + t)
        states.append((1 - beta).sqrt() * states[-1] + beta.sqrt() * noise)
        log_q += Normal(0, beta.sqrt()).log_prob(beta.sqrt() * noise).sum(-1)
    log_p = made.start.log_prob(states[-1])
    for t in range(1, made.schedule.steps + 1):
        k, offset = made.reverse_map(t)
        step = Normal(states[t] @ k.mT + offset, made.variance[t - 1].sqrt())
        log_p = log_p + step.log_prob(states[t - 1]).sum(-1)
    ratio = log_p - log_q
    assert abs(ratio.mean() - made.bound(x0)) < 5 * ratio.std() / 100_000**0.5


@pytest.mark.parametrize("index", range(len(CHAINS)))
def test_the_last_line_of_eq_7_is_not_its_first(index: int) -> None:
    """As printed it is off by a known sum, unless T = 1; the mend is an expectation over three neighbours."""
    made, _, x0 = chain(index)
    found, bound = made.consistency(x0), made.bound(x0)
    under, steps, beta = made.path(x0).gaussian(), made.schedule.steps, made.schedule.beta
    lost = [
        (1 - beta[t]).sqrt() * beta[t - 1] * made.reverse_map(t + 1)[0].trace() / made.variance[t]
        for t in range(1, steps)
    ]
    exactly(bound - found.value, sum(lost, torch.zeros((), dtype=torch.float64)), 1e-7)
    mended = [(made.forward_step(t, x0) - made.reverse_step(t + 1, x0)).expectation(under) for t in range(1, steps)]
    total = found.reconstruction - found.prior - sum(mended, torch.zeros((), dtype=torch.float64))
    exactly(total, bound, 1e-7)
    assert (steps == 1) == bool(abs(bound - found.value) < 0.05)


def test_the_terms_of_eq_7_are_computed_as_printed() -> None:
    """x_{t-1} and x_{t+1} drawn from the forward process, and the KL between two Gaussians at each pair."""
    made, _, x0 = chain(0)
    found, bar, beta = made.consistency(x0), made.schedule.alpha_bar, made.schedule.beta
    eye = torch.eye(3, dtype=torch.float64)
    for t in range(1, 4):
        before = bar[t - 1].sqrt() * x0 + (1 - bar[t - 1]).sqrt() * normal(50_000, 3, seed=t)
        kept = bar[t + 1] / bar[t - 1]
        after = kept.sqrt() * before + (1 - kept).sqrt() * normal(50_000, 3, seed=30 + t)
        k, offset = made.reverse_map(t + 1)
        forward = MultivariateNormal((1 - beta[t - 1]).sqrt() * before, beta[t - 1] * eye)
        reverse = MultivariateNormal(after @ k.mT + offset, made.variance[t] * eye)
        values = kl_divergence(forward, reverse)
        assert abs(values.mean() - found.steps[t - 1]) < 5 * values.std() / 50_000**0.5
    before = bar[3].sqrt() * x0 + (1 - bar[3]).sqrt() * normal(50_000, 3, seed=50)
    values = kl_divergence(MultivariateNormal((1 - beta[3]).sqrt() * before, beta[3] * eye), made.start)
    assert abs(values.mean() - found.prior) < 5 * values.std() / 50_000**0.5


@pytest.mark.parametrize("seed", range(30))
def test_eq_7_as_printed_still_bounds_the_evidence(seed: int) -> None:
    made, _, x0 = chain(seed % 4, seed=60 + seed, off=2.0)
    assert made.consistency(x0).value < made.generated().log_prob(x0) + 1e-9


@pytest.mark.parametrize("index", range(len(CHAINS)))
def test_bayes_rule_within_the_forward_process(index: int) -> None:
    """Eq. 25, at random points."""
    made, _, x0 = chain(index)
    schedule, eye, bar = made.schedule, torch.eye(made.width, dtype=torch.float64), made.schedule.alpha_bar
    for t in range(2, schedule.steps + 1):
        a, b = normal(2, made.width, seed=t)
        mean, variance = schedule.posterior(x0, b, t)
        step = MultivariateNormal((1 - schedule.beta[t - 1]).sqrt() * a, schedule.beta[t - 1] * eye)
        back = MultivariateNormal(mean, variance * eye)
        now, before = (MultivariateNormal(bar[s].sqrt() * x0, (1 - bar[s]) * eye) for s in (t, t - 1))
        exactly(step.log_prob(b), back.log_prob(a) + now.log_prob(b) - before.log_prob(a), 1e-8)


@pytest.mark.parametrize("index", range(len(CHAINS)))
def test_the_three_terms_add_up_to_the_bound(index: int) -> None:
    """Eq. 26, third line: equal to the first of Eq. 7, so that its gap is the path's divergence."""
    made, _, x0 = chain(index)
    found = made.matching(x0)
    exactly(found.value, made.bound(x0), 1e-7)
    exactly(made.generated().log_prob(x0) - found.value, made.gap(x0), 1e-6)
    assert len(found.steps) == made.schedule.steps - 1 and (found.steps >= 0).all() and found.prior >= 0
    bar, eye = made.schedule.alpha_bar, torch.eye(made.width, dtype=torch.float64)
    for t in range(2, made.schedule.steps + 1):
        xt = bar[t].sqrt() * x0 + (1 - bar[t]).sqrt() * normal(50_000, made.width, seed=t)
        mean, variance = made.schedule.posterior(x0, xt, t)
        k, offset = made.reverse_map(t)
        reverse = MultivariateNormal(xt @ k.mT + offset, made.variance[t - 1] * eye)
        values = kl_divergence(MultivariateNormal(mean, variance * eye), reverse)
        assert abs(values.mean() - found.steps[t - 2]) < 5 * values.std() / 50_000**0.5


def test_the_reversed_process_leaves_no_gap() -> None:
    """For round targets the exact reverse step is in the family, and the bound is tight; Eq. 7's print isn't."""
    schedule, eye = linear(4, 0.1, 0.5), torch.eye(3, dtype=torch.float64)
    target, bar = MultivariateNormal(normal(3, seed=0), 0.3 * eye), schedule.alpha_bar
    unknown = 0.3 * (1 - bar[1:]) / (0.3 * bar[1:] + 1 - bar[1:])
    factor = schedule.beta * bar[:-1].sqrt() / (1 - bar[1:])
    variance = schedule.beta * (1 - bar[:-1]) / (1 - bar[1:]) + factor**2 * unknown
    start = MultivariateNormal(bar[4].sqrt() * target.mean, (0.3 * bar[4] + 1 - bar[4]) * eye)
    made, x0 = DiffusionChain(schedule, start, *estimate(schedule, target), variance), normal(3, seed=4)
    assert abs(made.gap(x0)) < 1e-9
    exactly(made.bound(x0), target.log_prob(x0), 1e-9)
    exactly(made.generated().covariance_matrix, target.covariance_matrix, 1e-9)
    assert made.consistency(x0).value < made.bound(x0) - 1


def test_the_prior_term_trains_the_start() -> None:
    """Eq. 26's "no trainable parameters" is false of a start that is learned, as PVS is."""
    made, _, x0 = chain(0)
    mean, log_sigma = made.start.mean.clone().requires_grad_(), torch.zeros(3).double().requires_grad_()
    prior = replace(made, start=MultivariateNormal(mean, torch.diag((2 * log_sigma).exp()))).matching(x0).prior
    prior.backward()
    assert mean.grad.norm() > 0.1 and log_sigma.grad.norm() > 0.1


@pytest.mark.parametrize("index", range(len(CHAINS)))
def test_a_step_is_its_weight_times_the_error_of_the_noise(index: int) -> None:
    """Eq. 27: denoising terms and reconstruction, up to constants of the variances."""
    made, _, x0 = chain(index)
    error, weight, found = made.noise_error(x0), made.noise_weight(), made.matching(x0)
    exactly(weight[1:] * error[1:] + made.variance_cost(), found.steps, 1e-8)
    log_norm = made.width / 2 * (2 * math.pi * made.variance[0]).log()
    exactly(found.reconstruction, -weight[0] * error[0] - log_norm, 1e-8)
    for t in range(1, made.schedule.steps + 1):
        noise = normal(50_000, made.width, seed=t)
        xt = made.schedule.diffuse(x0, t, noise)
        values = ((noise - xt @ made.weight[t - 1].mT - made.bias[t - 1]) ** 2).sum(-1)
        assert abs(values.mean() - error[t - 1]) < 5 * values.std() / 50_000**0.5
    if made.schedule.steps > 1:
        spread = torch.tensor([float(made.schedule.posterior(x0, x0, t)[1]) for t in range(2, len(weight) + 1)])
        exact = replace(made, variance=torch.cat([made.variance[:1], spread.double()]))
        assert exact.variance_cost().abs().max() < 1e-9


def test_the_best_estimator_is_a_regression() -> None:
    """E[ε | x_t] by least squares over draws."""
    schedule, target = linear(3, 0.2, 0.5), gaussian(2, 0)
    weight, bias = estimate(schedule, target)
    x0, noise = drawn(target, 200_000), normal(200_000, 2, seed=1)
    for t in (1, 3):
        xt = schedule.diffuse(x0, t, noise)
        design = torch.cat([xt, torch.ones(len(xt), 1, dtype=torch.float64)], 1)
        fit = torch.linalg.lstsq(design, noise).solution
        torch.testing.assert_close(fit[:2].mT, weight[t - 1], atol=0.02, rtol=0)
        torch.testing.assert_close(fit[2], bias[t - 1], atol=0.02, rtol=0)


def test_bad_chains_are_refused() -> None:
    made, _, _ = chain(0)
    with pytest.raises(ValueError, match=r"variance: found .*, expected all above 0"):
        replace(made, variance=torch.zeros(4, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"weight: found shape \(3, 3, 3\), expected \(T=4, d=3, d=3\)"):
        replace(made, weight=made.weight[:3])


# --- App. A.5 ---


def mean_over(target: MultivariateNormal, values: object) -> Tensor:
    """E f(x0) of a quadratic f, exactly, by 2d points with the target's mean and covariance."""
    spread = len(target.mean) ** 0.5 * target.scale_tril.mT
    return torch.stack([values(x) for x in torch.cat([target.mean + spread, target.mean - spread])]).mean()  # type: ignore[operator]


@pytest.mark.parametrize("index", range(len(CHAINS)))
@pytest.mark.parametrize("seed", [3, 40])
def test_weighted_dre_loss_bounds_the_divergence(index: int, seed: int) -> None:
    """KL(q ‖ p_φ(r | V)) ≤ Σ w_t ℓ_t + what no estimator changes; the slack is the path's divergence."""
    made, target, _ = chain(index, seed)
    cost = mean_over(target, lambda x: made.noise_weight() @ made.noise_error(x))
    rest = made.variance_cost().sum() + made.width / 2 * (2 * math.pi * made.variance[0]).log() - target.entropy()
    upper = cost + mean_over(target, lambda x: made.matching(x).prior) + rest
    exact = kl_divergence(target, made.generated())
    assert upper > exact
    exactly(upper - exact, mean_over(target, made.gap), 1e-6)
    plain = mean_over(target, lambda x: made.noise_error(x).sum())
    assert cost <= made.noise_weight().max() * plain + 1e-9


def test_pvs_is_the_other_direction_of_prior_matching_and_bounds_nothing() -> None:
    made, target, _ = chain(1)  # cosine: next to nothing of x0 is left at T
    eye, larger = torch.eye(2, dtype=torch.float64), set()
    for deviation in (0.2, 4.0):
        start = MultivariateNormal(torch.zeros(2, dtype=torch.float64), deviation**2 * eye)
        log_variance = torch.full((1, 2), 2 * math.log(deviation), dtype=torch.float64)
        pvs = divergence(Gaussian(start.mean[None], log_variance))
        white = MultivariateNormal(start.mean, eye)
        exactly(pvs, kl_divergence(start, white))
        prior = mean_over(target, lambda x, start=start: replace(made, start=start).matching(x).prior)
        assert prior.item() == pytest.approx(kl_divergence(white, start).item(), rel=0.01)
        larger.add(bool(pvs > prior))
    assert larger == {True, False}


def test_pvs_of_a_unit_mean_is_a_half_and_a_part_in_sigma() -> None:
    mean = torch.nn.functional.normalize(normal(5, 7, seed=0), dim=1)
    log_variance = normal(5, 7, seed=1)
    only = 0.5 * (log_variance.exp() - 1 - log_variance).sum(1).mean()
    exactly(divergence(Gaussian(mean, log_variance)), 0.5 + only)
    exactly(divergence(Gaussian(mean, 0 * log_variance)), torch.tensor(0.5))


def test_textual_losses_say_nothing_about_the_divergence() -> None:
    """Any divergence at one value of the losses: they hold neither q nor p, and of the queries only angles."""
    queries, labels = normal(6, 5, seed=0), torch.tensor([0, 0, 0, 1, 1, 1])

    def loss(x: Tensor) -> Tensor:
        return diversity(x, labels) + query_similarity_preservation(x, labels, 0.1)

    exactly(loss(queries), loss(7 * queries))
    assert abs(loss(queries) - loss(queries.roll(1, 0))) > 0.1, "not a constant"
    q = gaussian(5, 3)
    away = [kl_divergence(q, MultivariateNormal(q.mean + s, q.covariance_matrix)) for s in (0, 1, 10)]
    assert away[0] == 0 and away[1] < away[2] / 50


def test_nce_to_text_is_the_log_likelihood_of_a_query_of_the_batch() -> None:
    scores = normal(9, 9, seed=0)
    chosen = Categorical(logits=scores.mT).log_prob(torch.arange(9)).mean()
    exactly(info_nce(scores, directions="columns"), -chosen)
    exactly(info_nce(scores + normal(9, seed=1), directions="columns"), -chosen)
    assert abs(info_nce(scores + normal(9, seed=1), directions="rows") - info_nce(scores, directions="rows")) > 0.01
    triple = triplet(scores, margin=0.2, hardest=1)
    assert triple <= 0.2 + info_nce(scores, directions="rows")
    apart = torch.eye(9, dtype=torch.float64)
    assert triplet(apart, margin=0.2, hardest=1) == 0 and info_nce(apart, directions="rows") > 1


def test_nce_bounds_mutual_information() -> None:
    model, video, _ = scene((3, 5, 4))
    model = replace(model, noise=1.5)
    to_query = model.describe @ model.imagine + model.see
    given = MultivariateNormal(torch.zeros(4).double(), model.evidence(video).covariance_matrix)
    alone = MultivariateNormal(torch.zeros(4).double(), given.covariance_matrix + to_query @ to_query.mT)
    information = alone.entropy() - given.entropy()
    found = []
    for n, times in ((4, 500), (128, 20)):
        values = []
        for k in range(times):
            v, noise = normal(n, 3, seed=k), drawn(given, n, seed=10_000 + k)
            scores = given.log_prob((v @ to_query.mT + noise)[:, None] - v @ to_query.mT)
            values.append(math.log(n) - info_nce(scores, directions="rows"))
        found.append(torch.stack(values).mean())
    assert found[0] < information - 0.1 and abs(found[1] - information) < 0.1


# --- the released reading ---


def test_released_dre_loss_is_zero_without_any_text() -> None:
    """ε = μ: the estimator that answers μ is perfect for every target, and generates multiples of μ."""
    schedule, mu = cosine(10), torch.nn.functional.normalize(normal(384, seed=0), dim=0)
    for seed in range(3):
        target, noise = normal(2, 3, 384, seed=seed), mu.expand(10, 2, 3, 384)
        loss = forward_diffusion_loss(lambda x, t, g: mu.expand_as(x), target, None, schedule, noise)  # type: ignore[arg-type]
        assert loss == 0
    for step, clamp in (("posterior", 1.0), ("noise", None)):
        r0 = sample(lambda x, t: mu, mu, schedule, step=step, clamp=clamp, draws=mu)
        assert torch.cosine_similarity(r0, mu, dim=0) > 1 - 1e-9
    one, other = (estimate(schedule, MultivariateNormal(torch.full((2,), m).double(), torch.eye(2).double()))
                  for m in (0.0, 1.0))  # fmt: skip
    assert (one[1] - other[1]).abs().max() > 0.1, "with fresh noise the best estimator knows its target"


def test_bound_is_a_value_with_its_gap() -> None:
    one, two, three = torch.tensor(5.0), torch.tensor(2.0), torch.tensor(1.0)
    assert Bound(one, two, three).value == 3
