"""The parts of DreamPRVR against naive loops, torch's own modules, and closed forms; float64, sizes that all differ."""

from __future__ import annotations

import math

import pytest
import torch
from small_dreamprvr import LABELS, draws, features, lengths, small
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as F

from vtrlib import diffusion
from vtrlib.dreamprvr import (
    AttentionBlock,
    Gaussian,
    asymmetric_mask,
    attention_weights,
    contrast,
    divergence,
    diversity,
    forward_diffusion_loss,
    gaussian_windows,
    mean_queries,
    perturb,
    query_similarity_preservation,
    ranking,
    same_video,
    similarity,
)
from vtrlib.dreamprvr.draws import places
from vtrlib.dreamprvr.layers import key_bias
from vtrlib.dreamprvr.sampler import sinusoids
from vtrlib.dreamprvr.video import Videos

W = (float("inf"), 0.25, 2.0, 0.001)


# --- attention ---


def test_attention_is_torch_s() -> None:
    """Without its last layer, which torch's has and which is set to the identity."""
    block = small().query.block
    ours, theirs = block.attention, nn.MultiheadAttention(6, 3, batch_first=True, dtype=torch.float64)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([ours.query.weight, ours.key.weight, ours.value.weight]))
        theirs.in_proj_bias.copy_(torch.cat([ours.query.bias, ours.key.bias, ours.value.bias]))
        theirs.out_proj.weight.copy_(torch.eye(6))
        theirs.out_proj.bias.zero_()
    x, context, mask = features(2, 4, 6, seed=0), features(2, 7, 6, seed=1), lengths([7, 3], 7)
    expected, weights = theirs(x, context, context, key_padding_mask=~mask, average_attn_weights=False)
    bias = key_bias(mask, torch.float64)
    close(ours(x, context, bias), expected)
    close(ours.weights(x, context, bias), weights)


def test_attention_block_is_a_transformer_layer() -> None:
    block = AttentionBlock(6, 3, 0.5).double().eval()
    layer = nn.TransformerEncoderLayer(6, 3, 24, batch_first=True, dtype=torch.float64).eval()
    with torch.no_grad():
        a, b = block.attention, layer.self_attn
        b.in_proj_weight.copy_(torch.cat([a.query.weight, a.key.weight, a.value.weight]))
        b.in_proj_bias.copy_(torch.cat([a.query.bias, a.key.bias, a.value.bias]))
        b.out_proj.weight.copy_(torch.eye(6))
        b.out_proj.bias.zero_()
        for one, other in ((layer.linear1, block.inner), (layer.linear2, block.outer)):
            one.load_state_dict(other.state_dict())
    x = features(2, 5, 6, seed=0)
    close(block(x), layer(x))


@pytest.mark.parametrize("length", [1, 2, 7])
def test_gaussian_windows_against_loops(length: int) -> None:
    found = gaussian_windows(length, W)
    for number, width in enumerate(W):
        sigma = max(width, 0.01) / 9
        for i in range(length):
            at = [k / (length - 1) if length > 1 else 0.0 for k in range(length)]
            row = [-((p - i / length) ** 2) / (2 * sigma**2) for p in at]
            close(found[number, i], torch.tensor([math.exp(v - max(row)) for v in row]), atol=1e-6)
    assert (found[0] == 1).all() and found.amax(-1).eq(1).all()


def test_windows_drift_off_the_diagonal() -> None:
    """32 clips and w = ¼: the best column of the first and last rows; row 16 has two, 15 and 16."""
    window = gaussian_windows(32, [0.25])[0]
    assert window.argmax(-1)[[0, 1, 15, 30, 31]].tolist() == [0, 1, 15, 29, 30]
    assert window[16, 15:17].eq(1).all()
    assert window[31, 31].item() == pytest.approx(0.53, abs=0.005)
    assert not window.allclose(window.mT)


@pytest.mark.parametrize("padded", [False, True])
def test_blocks_against_one_after_the_other_with_the_whole_mask(padded: bool) -> None:
    """Registers as rows too, under the asymmetric mask, cut off at the end: what we never compute changes nothing."""
    model = small(blocks=4)
    blocks, length, number = model.video.frame_block.blocks, 9, 2
    x, registers = features(3, length, 6, seed=0), features(3, number, 6, seed=1)
    mask = lengths([9, 4, 1], length) if padded else torch.ones(3, length, dtype=torch.bool)
    found = blocks(x, registers, key_bias(mask, torch.float64, extra=number) if padded else None)
    windows = gaussian_windows(length, model.config.widths).double()
    z = torch.cat([x, registers], 1)
    allowed = asymmetric_mask(length, number) & F.pad(mask, (0, number), value=True)[:, None]
    for k in range(len(model.config.widths)):
        gain = torch.ones(length + number, length + number, dtype=torch.float64)
        gain[:length, :length] = windows[k]
        q, key, value = (
            F.linear(z, part.weight[k], part.bias[k]).view(3, -1, 3, 2).transpose(1, 2)
            for part in (blocks.query, blocks.key, blocks.value)
        )
        scores = (q @ key.mT / math.sqrt(2)) * gain + torch.where(allowed, 0.0, -1e4)[:, None]
        attended = (scores.softmax(-1) @ value).transpose(1, 2).flatten(-2)
        y = F.layer_norm(z + attended, (6,), blocks.norm1.weight[k], blocks.norm1.bias[k])
        inner = F.linear(y, blocks.inner.weight[k], blocks.inner.bias[k]).relu()
        y = y + F.linear(inner, blocks.outer.weight[k], blocks.outer.bias[k])
        y = F.layer_norm(y, (6,), blocks.norm2.weight[k], blocks.norm2.bias[k])
        close(found[k], y[:, :length])


def test_the_mask_is_asymmetric() -> None:
    mask = asymmetric_mask(3, 2)
    assert mask[:3].all() and mask[3:, :3].all() and not mask[3:, 3:].any()


@pytest.mark.parametrize("hidden", [False, True])
def test_mixture_against_loops(hidden: bool) -> None:
    mixture = small().video.frame_block.mixture
    outputs, mask = features(4, 3, 9, 6, seed=0), lengths([9, 4, 1], 9)
    found = mixture(outputs, key_bias(mask, torch.float64), mask if hidden else None)
    for b in range(3):
        kept = int(mask[b].sum()) if hidden else 9
        token = outputs[:, b, :kept].mean((0, 1))[None]
        answers = [mixture.block(token, outputs[k, b, mask[b]])[0] for k in range(4)]
        logits = torch.stack([mixture.outer(mixture.inner(answer).relu()) for answer in answers])  # (4, 9)
        weights = (logits / mixture.temperature).softmax(0)
        close(found[b], sum(weights[k][:, None] * outputs[k, b] for k in range(4)))


def test_key_bias_hides_all_but_extra_keys() -> None:
    bias = key_bias(lengths([2, 3], 3), torch.float32, extra=1)
    assert bias.tolist() == [[[[0, 0, -1e4, 0]]], [[[0, 0, 0, 0]]]]
    weights = attention_weights(features(2, 1, 6, seed=0), features(2, 4, 6, seed=1), 3, bias)
    assert (weights[0, ..., 2] == 0).all() and (weights[1] > 0).all()


# --- text space ---


def naive_diversity(q: Tensor, over: str) -> float:
    unit = F.normalize(q)
    total: list[float] = []
    for video in LABELS.unique():
        mine = (video == LABELS).nonzero().flatten().tolist()
        terms = []
        for i in mine:
            for j in mine:
                if i != j:
                    c = float(unit[i] @ unit[j])
                    terms.append((1 + c) * math.log(1 + math.exp(8 * (c + 0.3))))
        if over == "queries":
            total.append(sum(terms))
        elif terms:
            total.append(2 / (len(mine) * (len(mine) - 1)) * sum(terms))
    return sum(total) / (len(q) if over == "queries" else len(total))


@pytest.mark.parametrize("over", ["queries", "videos"])
def test_diversity_against_loops(over: str) -> None:
    q = features(7, 5, seed=0)
    found = diversity(q, LABELS, omega=8.0, delta=0.3, over=over)
    assert found.item() == pytest.approx(naive_diversity(q, over), abs=1e-12)


@pytest.mark.parametrize("itself", [False, True])
def test_qsp_against_loops(itself: bool) -> None:
    q = features(7, 5, seed=0)
    unit, rows = F.normalize(q), []
    for i in range(7):
        mine = [j for j in range(7) if j != i and LABELS[j] == LABELS[i]]
        all_of_them = [k for k in range(7) if itself or k != i]
        lower = sum(math.exp(float(unit[i] @ unit[k]) / 0.2) for k in all_of_them)
        terms = [math.log(math.exp(float(unit[i] @ unit[j]) / 0.2) / lower) for j in mine]
        rows += [-sum(terms) / len(terms)] if terms else []
    found = query_similarity_preservation(q, LABELS, 0.2, itself=itself)
    assert found.item() == pytest.approx(sum(rows) / len(rows), abs=1e-12)


@pytest.mark.parametrize("loss", [query_similarity_preservation, diversity])
def test_without_two_queries_of_a_video_a_loss_is_zero_with_a_gradient(loss) -> None:  # type: ignore[no-untyped-def]
    q = features(4, 5, seed=0).requires_grad_()
    value = loss(q, torch.arange(4))
    assert value.item() == 0
    assert torch.autograd.grad(value, q)[0].eq(0).all()
    one = features(1, 5, seed=0).requires_grad_()
    value = loss(one, torch.zeros(1, dtype=torch.long))
    assert value.item() == 0 and torch.autograd.grad(value, one)[0].eq(0).all()


def test_textual_losses_by_finite_differences() -> None:
    q = features(7, 3, seed=0).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: diversity(x, LABELS, omega=3.0, over="videos"), q)
    assert torch.autograd.gradcheck(lambda x: query_similarity_preservation(x, LABELS, 0.5), q)


def test_mean_queries_and_pairs() -> None:
    q = features(7, 5, seed=0)
    expected = torch.stack([q[v == LABELS].mean(0) for v in range(4)])
    close(mean_queries(q, LABELS, 4), expected)
    assert mean_queries(q, LABELS, 6)[4:].eq(0).all()
    assert same_video(LABELS).sum(1).tolist() == [1, 1, 0, 2, 2, 2, 0]


def test_perturbation_is_instance_norm_and_its_draws() -> None:
    mean, given = features(4, 6, seed=0), draws(small().config)
    assert given.alpha is not None and given.beta is not None
    found = perturb(mean, 2, 0.3, given.alpha, given.beta)
    whitened = F.instance_norm(mean[:, None])[:, 0]
    for b in range(4):
        for r in range(2):
            sigma = mean[b].std()
            alpha, beta = 1 + 0.3 * sigma * given.alpha[b, r], mean[b].mean() + 0.3 * sigma * given.beta[b, r]
            close(found[b, r], alpha * whitened[b] + beta)
    drawn = perturb(mean, 20_000, 0.3, generator=torch.Generator().manual_seed(0))
    spread = 0.3 * mean.std(-1, keepdim=True) * (1 + whitened**2).sqrt()
    close(drawn.mean(1), whitened + mean.mean(-1, keepdim=True), atol=0.02)
    close(drawn.std(1), spread, atol=0.02)


# --- where generation starts ---


def test_divergence_is_torch_s() -> None:
    start = Gaussian(features(3, 5, seed=0), features(3, 5, seed=1))
    normal = Normal(start.mean, (0.5 * start.log_variance).exp())
    expected = kl_divergence(normal, Normal(0.0, 1.0)).sum(-1).mean()
    close(divergence(start), expected)


def test_divergence_has_a_floor_and_no_gradient_to_the_direction() -> None:
    """‖μ‖ = 1: the mean's part is the constant ½, whatever the heads (row 4)."""
    direction = features(3, 5, seed=0).requires_grad_()
    value = divergence(Gaussian(F.normalize(direction), torch.zeros(3, 5, dtype=torch.float64)))
    assert value.item() == pytest.approx(0.5)
    assert torch.autograd.grad(value, direction)[0].abs().max() < 1e-15


@pytest.mark.parametrize("reading", ["paper", "released"])
def test_mean_of_the_start_has_length_one(reading: str) -> None:
    start = small(reading).video.sampler(features(3, 5, 6, seed=0))
    close(start.mean.norm(dim=-1), torch.ones(3, dtype=torch.float64))
    noise = features(3, 2, 6, seed=1)
    expected = start.mean[:, None] + (start.log_variance.exp().sqrt())[:, None] * noise
    close(start.start(2, noise), expected)
    assert start.start(2).equal(start.mean[:, None].expand(3, 2, 6))


def test_sorted_pooling_per_video_is_the_shared_one() -> None:
    """The recurrent net over a batch of equal codes, packed, as released."""
    pool, x = small().video.sampler.pool, features(3, 5, 6, seed=0)
    codes = pool.code.expand(3, -1, -1)
    packed = nn.utils.rnn.pack_padded_sequence(codes, torch.full((3,), 5), batch_first=True, enforce_sorted=False)
    states = nn.utils.rnn.pad_packed_sequence(pool.recurrent(packed)[0], batch_first=True)[0]
    both = (states[..., :4] + states[..., 4:]) / 2
    weights = (pool.logit(both)[..., 0] / 0.1).softmax(-1)
    expected = torch.stack([(weights[b][:, None] * x[b].sort(0, descending=True)[0]).sum(0) for b in range(3)])
    close(pool(x), expected)


@pytest.mark.parametrize("width", [4, 5])
def test_sinusoids_against_loops(width: int) -> None:
    found = sinusoids(torch.tensor([0, 3, 17]), width)
    for row, k in enumerate((0, 3, 17)):
        for j in range(width):
            angle = k * 10_000 ** (-(j - j % 2) / width)
            assert found[row, j].item() == pytest.approx(math.cos(angle) if j % 2 else math.sin(angle), abs=1e-6)


# --- registers ---


def test_estimator_at_all_steps_is_itself_at_each() -> None:
    model = small(steps=4)
    estimator = model.video.estimator
    guidance = estimator.guide(features(3, 2, 6, seed=0))
    x, t = features(4, 3, 2, 6, seed=1), torch.arange(1, 5)[:, None, None]
    together = estimator(x, t, guidance)
    for row in range(4):
        close(together[row], estimator(x[row], row + 1, guidance))


def test_forward_loss_against_algorithm_1() -> None:
    model = small(steps=3)
    estimator, schedule = model.video.estimator, diffusion.cosine(3)
    guidance, target, noise = (
        estimator.guide(features(2, 2, 6, seed=0)),
        features(2, 2, 6, seed=1),
        features(3, 2, 2, 6, seed=2),
    )
    total = 0.0
    for t in range(1, 4):
        bar = schedule.alpha_bar[t]
        noisy = bar.sqrt() * target + (1 - bar).sqrt() * noise[t - 1]
        total += (noise[t - 1] - estimator(noisy, t, guidance)).square().sum().item()
    found = forward_diffusion_loss(estimator, target, guidance, schedule, noise, "sum")
    assert found.item() == pytest.approx(total / 2)
    mean = forward_diffusion_loss(estimator, target, guidance, schedule, noise, "mean")
    assert found.item() == pytest.approx(mean.item() * 3 * 2 * 6), "T N_r d times the mean"


@pytest.mark.parametrize("reading", ["paper", "released"])
def test_generation_against_algorithm_1(reading: str) -> None:
    model = small(reading, steps=3)
    given, clips = draws(model.config), features(4, 5, 13, seed=1)
    imagined = model.imagine(clips, draws=given, trajectory=True)
    assert given.start is not None and given.reverse is not None
    start, guidance, schedule = imagined.start, imagined.guidance, model.video.schedule
    mu = start.mean[:, None].expand(4, 2, 6)
    x = mu + (0.5 * start.log_variance).exp()[:, None] * given.start if reading == "paper" else mu
    close(imagined.registers[0], x)
    for t in (3, 2, 1):
        beta, bar, before = schedule.beta[t - 1], schedule.alpha_bar[t], schedule.alpha_bar[t - 1]
        guess = model.video.estimator(x, t, guidance)
        if reading == "paper":
            x = (x - beta / (1 - bar).sqrt() * guess) / (1 - beta).sqrt()
            x = x + beta.sqrt() * given.reverse[3 - t] if t > 1 else x
        else:
            x0 = ((x - (1 - bar).sqrt() * guess) / bar.sqrt()).clamp(-1, 1)
            x = (beta * before.sqrt() * x0 + (1 - before) * (1 - beta).sqrt() * x) / (1 - bar)
            x = x + ((1 - before) / (1 - bar) * beta).sqrt() * mu if t > 1 else x
        close(imagined.registers[4 - t], x, atol=1e-9)


# --- similarity and its losses ---


def videos_of(seed: int = 0) -> Videos:
    mask = lengths([9, 4, 1, 7], 9)
    frames = features(4, 9, 6, seed=seed).masked_fill(~mask[..., None], 0)
    return Videos(features(4, 5, 6, seed=seed + 1), frames, mask, features(4, 2, 6, seed=seed + 2))


@pytest.mark.parametrize("cosine", [True, False])
@pytest.mark.parametrize("reading", ["paper", "released"])
def test_similarity_against_loops(reading: str, cosine: bool) -> None:
    config, q, videos = small(reading).config, features(7, 6, seed=9), videos_of()
    found = similarity(q, videos, config, cosine=cosine)
    for n in range(7):
        for v in range(4):
            kept = videos.frames[v] if reading == "released" else videos.frames[v][videos.mask[v]]
            best = []
            for tokens in (videos.clips[v], kept):
                norm = q[n].norm() * tokens.norm(dim=-1).clamp(min=1e-12) if cosine else 1.0
                best.append((tokens @ q[n] / norm).max())
            close(found.clip[n, v], best[0])
            close(found.frame[n, v], best[1])
            close(found.fused[n, v], 0.6 * best[0] + 0.4 * best[1])


def test_contrast_as_printed() -> None:
    """Eq. 32 with exponentials: each pair against the negatives of its query and of its video; mean over pairs."""
    scores, positives = features(7, 4, seed=0), LABELS[:, None] == torch.arange(4)
    terms = []
    for q, v in positives.nonzero().tolist():
        for row, wrong in ((scores[q], ~positives[q]), (scores[:, v], ~positives[:, v])):
            good = scores[q, v].exp()
            terms.append(-(good / (good + row[wrong].exp().sum())).log().item())
    assert contrast(scores, 0 * scores, positives, "cosine").item() == pytest.approx(sum(terms) / 7)


@pytest.mark.parametrize("reading", ["paper", "released"])
@pytest.mark.parametrize("hard", [False, True])
def test_ranking_draws_only_negatives(reading: str, hard: bool) -> None:
    """With a margin that every pair violates, the gradient shows what was drawn."""
    config = small(reading, margin=50.0, hard_pool=2).config
    positives = LABELS[:, None] == torch.arange(4)
    scores = features(7, 4, seed=0).requires_grad_()
    gradient = torch.zeros(7, 4, dtype=torch.float64)
    for seed in range(200):
        loss = ranking(scores, positives, config, hard=hard, generator=torch.Generator().manual_seed(seed))
        gradient += torch.autograd.grad(loss, scores)[0]
    assert (gradient[positives] < 0).all() and gradient.sum().abs() < 1e-9
    drawn = (gradient > 0) & ~positives
    if not hard:
        assert drawn.equal(~positives), "all of them, sooner or later"
        return
    wrong = scores.detach().masked_fill(positives, -torch.inf)
    rows = torch.zeros_like(positives).scatter_(1, wrong.topk(2, dim=1).indices, True)
    columns = torch.zeros_like(positives).scatter_(0, wrong.argmax(0)[None], True)
    assert drawn.equal(rows | columns)


def test_places_fit_the_number_of_negatives() -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = places(None, torch.tensor([0, 1, 5, 50]).repeat(200), 20, generator).view(200, 4)
    assert drawn.amax(0).tolist() == [-1, 0, 4, 19] and drawn.amin(0).tolist() == [-1, 0, 0, 0]


def close(found: Tensor, expected: object, atol: float = 1e-10) -> None:
    torch.testing.assert_close(found, torch.as_tensor(expected), atol=atol, rtol=1e-9, check_dtype=False)
