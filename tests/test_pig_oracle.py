"""PIG against loops over videos, frames, patches, heads and tokens, in float64, on sizes that all differ; and its
parts against brute force and closed forms."""

from __future__ import annotations

import functools
import math
from typing import Any

import pytest
import torch
from small_pig import SIZES, Naive, batch, features, move, small, texts
from torch import Tensor, nn
from torch.nn.functional import gelu, softmax

from vtrlib.clip.lora import layers
from vtrlib.pig import (
    CoAttention,
    Config,
    CrossAttention,
    QFormerGenerator,
    Reading,
    TokenLayout,
    XPool,
    informativeness,
    interpolated,
    select,
)
from vtrlib.pig.vip import lower

# Whatever changes a number in the features, one or more of them a row.
SETTINGS: list[dict[str, Any]] = [
    {},
    {"reading": "paper"},
    {"reading": Reading.released().flipped("softmax", "bos")},
    {"reading": Reading(scale="patches"), "score_heads": "mean"},
    {"inputs": "x_f+x_ip", "top": 7, "frames": 4},
    {"inputs": "x_v", "reading": "paper"},
    {"inputs": "x_v+x_f", "proxies": 1, "pseudo_query": "mlp"},
    {"pseudo_query": "mlp", "top": 20},
    {"backbone": "clip4clip"},
    {"backbone": "clip4clip", "reading": "paper"},
]


def close(found: Tensor, expected: list[Tensor] | Tensor) -> None:
    expected = torch.stack(list(expected))
    torch.testing.assert_close(found, expected.reshape_as(found), atol=1e-9, rtol=0)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@torch.no_grad()
def test_features_and_losses(settings: dict[str, Any]) -> None:
    model, data = small(**settings), batch()
    naive = Naive(model)
    videos = model.encode_video(data["video"])
    seen = [naive.video(video) for video in data["video"]]
    for row, found in enumerate(seen):
        close(videos.x_v[row], found["x_v"])
        close(videos.x_f[row], found["x_f"])
        close(videos.x_p[row], list(found["x_p"].values()))  # type: ignore[index]
        assert videos.selected[row].tolist() == found["selected"]
        torch.testing.assert_close(videos.informativeness[row], torch.tensor(found["S"], dtype=torch.float64))
        if found["x_ip"]:
            close(videos.x_ip[row], found["x_ip"])
        query = naive.generate(found)
        close(videos.pseudo_query[row], query)  # type: ignore[index]
        close(videos.v[row], naive.pool(query, found["x_v"] + found["x_f"]))
    ids, mask = data["text_input_ids"], data["text_input_mask"]
    words = [naive.text(one) for one in ids]
    close(model.encode_text(ids, mask), words)
    losses, expected = model.loss(data), naive.loss(seen, words)
    assert {name: loss.item() for name, loss in losses.items()} == pytest.approx(expected, abs=1e-9)  # type: ignore[attr-defined]


@pytest.mark.parametrize("frames", [1, 3, 4, 6])
@torch.no_grad()
def test_other_frame_counts_are_never_mixed_up(frames: int) -> None:
    """The released selectors cut tokens by the trained count, whatever the video has."""
    model, data = small(), batch(frames=frames)
    naive, videos = Naive(model), model.encode_video(data["video"])
    found = naive.video(data["video"][1])
    close(videos.x_f[1], found["x_f"])
    close(videos.x_p[1], list(found["x_p"].values()))  # type: ignore[index]
    assert videos.selected[1].tolist() == found["selected"]
    close(videos.v[1], naive.pool(naive.generate(found), found["x_v"] + found["x_f"]))


@torch.no_grad()
def test_eq_6_to_the_letter() -> None:
    """Projected features through the last layer's matrices, where D is the tower's width; n counts patches."""
    model = small(Reading.letter(), clip={**SIZES, "projection_dim": 18})
    data = batch()
    videos, used = (model.encode_video(data["video"], whole=whole) for whole in (True, False))
    found = Naive(model).video(data["video"][2])
    torch.testing.assert_close(videos.informativeness[2], torch.tensor(found["S"], dtype=torch.float64))
    assert videos.selected[2].tolist() == found["selected"] 
    torch.testing.assert_close(used.v, videos.v)
    with pytest.raises(ValueError, match="reading.scored='projected': found features of D=8 and a vision tower of width"):
        small(Reading.letter())


# --- proxy attention ---


@pytest.mark.parametrize("layout", [TokenLayout(4, 3, 5), TokenLayout(1, 2, 3), TokenLayout(6, 4, 1, 0), TokenLayout(0, 3, 4)])
def test_the_mask_by_brute_force(layout: TokenLayout) -> None:
    kinds: list[tuple[str, int]] = [("proxy", -1)] * layout.proxies
    for frame in range(layout.frames):
        kinds += [("cls", frame)] * layout.frame_cls + [("patch", frame)] * layout.patches
    assert len(kinds) == layout.tokens
    expected = [[a == "proxy" or b == "proxy" or f == g for b, g in kinds] for a, f in kinds]
    assert layout.seen(torch.arange(layout.tokens)).tolist() == expected
    patches = [place for place, (kind, _) in enumerate(kinds) if kind == "patch"]
    assert layout.patch_places(torch.arange(layout.frames * layout.patches)).tolist() == patches
    summaries = [place for place, (kind, _) in enumerate(kinds) if kind != "patch"]
    assert layout.summaries(torch.device("cpu")).tolist() == summaries


@pytest.mark.parametrize("backbone", ["clip_vip", "clip4clip"])
@torch.no_grad()
def test_the_rule_is_dense_attention_under_that_mask(backbone: str) -> None:
    model = small(backbone=backbone)
    x, layout = lower(model.clip, batch()["video"])
    attention = model.clip.vision_model.encoder.layers[1].self_attn
    dense = attention.mix(*attention.project(x), layout.seen(torch.arange(layout.tokens)))
    torch.testing.assert_close(attention(x, layout=layout)[0], dense)
    assert layout == TokenLayout(3 * (backbone == "clip_vip"), 5, 4)


@torch.no_grad()
def test_frames_reach_each_other_through_proxies_alone() -> None:
    """A change in one frame moves the other frames' tokens from the second layer on, and without proxies never."""
    for backbone, moved in (("clip_vip", [False, True]), ("clip4clip", [False, False])):
        model = small(backbone=backbone)
        video = batch()["video"]
        other = video.clone()
        other[:, 2] += features(3, 3, 8, 8, seed=9)
        vision, found = model.clip.vision_model, []
        layout = vision.embeddings.layout(5)
        states = [vision.pre_layrnorm(vision.embeddings(one)) for one in (video, other)]
        for layer in layers(model.clip)[0]:
            states = [layer(x, None, layout=layout) for x in states]
            apart = (layout.split(states[0])[2] - layout.split(states[1])[2]).abs().amax((0, 2, 3))
            assert apart[2] > 1e-3
            found.append(bool((apart[[0, 1, 3, 4]] > 1e-12).any()))
        assert found == moved


def test_interpolation_in_time() -> None:
    """Itself for the trained count; ends held, linear between; constants stay, and a straight line where it can."""
    table = features(1, 4, 3, seed=1)
    assert interpolated(table, 4) is table
    torch.testing.assert_close(interpolated(table, 8)[:, [0, -1]], table[:, [0, -1]])
    constant = torch.ones(1, 4, 3).double()
    for frames in (1, 2, 3, 5, 9):
        found = interpolated(constant, frames)
        assert found.shape == (1, frames, 3)
        torch.testing.assert_close(found, torch.ones_like(found))
    line = torch.arange(4.0).double()[None, :, None]
    for frames in (2, 5, 8):
        centres = ((torch.arange(frames) + 0.5) * 4 / frames - 0.5).clamp(0, 3).double()
        torch.testing.assert_close(interpolated(line, frames)[0, :, 0], centres)


# --- ITS ---


@pytest.mark.parametrize("layout", [TokenLayout(3, 4, 5), TokenLayout(1, 2, 3, 0), TokenLayout(0, 4, 5)])
def test_eq_6_is_a_distribution(layout: TokenLayout) -> None:
    """One head: over the video's patches, or each frame's without proxies; as released what others leave them."""
    query = features(2, layout.frames if not layout.proxies else 1, 6, seed=2)
    keys = features(2, layout.tokens, 6, seed=3)
    scores = informativeness(query, keys, layout, 1)
    axes = (1, 2) if layout.proxies else (2,)
    torch.testing.assert_close(scores.sum(axes), torch.ones_like(scores.sum(axes)))
    every = informativeness(query, keys, layout, 1, over="keys")
    torch.testing.assert_close(every / every.sum(axes, keepdim=True), scores)
    assert (every.sum(axes) < 1).all()
    more, mean = (informativeness(query, keys, layout, 3, pool=pool) for pool in ("max", "mean"))
    assert (more.sum(axes) > 1).all() and (more >= mean).all() and (more <= 1).all()
    torch.testing.assert_close(mean.sum(axes), torch.ones_like(mean.sum(axes)))


def test_the_two_readings_of_eq_6_may_choose_other_patches_with_several_heads_only() -> None:
    layout, keys, query = TokenLayout(4, 3, 7), features(60, 28, 6, seed=4), features(60, 1, 6, seed=5)
    same = {}
    for heads in (1, 2):
        chosen = [select(informativeness(3 * query, keys, layout, heads, over=over), 5) for over in ("patches", "keys")]
        same[heads] = (chosen[0].sort().values == chosen[1].sort().values).all(1).float().mean().item()
    assert same[1] == 1 and 0 < same[2] < 0.9


def test_top_k_is_joint_over_frames() -> None:
    scores = features(3, 4, 5, seed=6)
    for top in (1, 4, 20):
        chosen = select(scores, top)
        for row in range(3):
            order = sorted(range(20), key=lambda flat, row=row: -scores[row].flatten()[flat])  # type: ignore[misc]
            assert chosen[row].tolist() == order[:top]
    scores[0, 2] += 100
    assert {flat // 5 for flat in select(scores, 5)[0].tolist()} == {2}, "one frame may give all of them"


def test_equal_scores_stand_in_the_order_of_frames_and_patches() -> None:
    scores = torch.tensor([[[1.0, 3.0, 1.0], [3.0, 0.0, 1.0]]])
    assert select(scores, 6).tolist() == [[1, 3, 0, 2, 5, 4]]
    many = torch.zeros(1, 12, 49)
    assert select(many, 16).tolist() == [list(range(16))]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_changes_near_ties_alone(dtype: torch.dtype) -> None:
    """A patch that is chosen in half precision and not in float64 scores nearly as much there as the last that is: its
    logit may have moved by the rounding, and the logits that its share is of by as much."""
    layout, top = TokenLayout(3, 4, 9), 7
    query, keys = (features(80, rows, 12, seed=seed).to(dtype).double() for rows, seed in ((1, 8), (layout.tokens, 9)))
    exact = informativeness(query, keys, layout, 2)
    rounded = informativeness(query.to(dtype), keys.to(dtype), layout, 2)
    assert rounded.dtype == torch.float32
    one, two = select(exact, top), select(rounded, top)
    last, flat = exact.flatten(1).gather(1, one)[:, -1:], exact.flatten(1)
    q, k = (x.unflatten(-1, (2, 6)).transpose(1, 2) for x in (query / 6**0.5, keys))
    most = (q @ k.mT).abs().max()
    moved = 4 * most * torch.finfo(dtype).eps  # of a logit: the query, the product, and as much for the sum
    new = [[p for p in two[i].tolist() if p not in one[i].tolist()] for i in range(80)]
    assert dtype == torch.float16 or any(new), "there are near-ties among these"
    for i, patches in enumerate(new):
        assert all(flat[i, p] >= last[i] * (-2 * moved).exp() for p in patches)


def test_scores_that_half_precision_cannot_tell_apart_are_ties() -> None:
    scores = torch.tensor([[[0.5, 0.5001, 0.4], [0.5002, 0.1, 0.2]]])
    assert select(scores, 3).tolist() == [[3, 1, 0]]
    assert select(scores.bfloat16(), 3).tolist() == [[0, 1, 3]], "the earlier patch first"


@pytest.mark.parametrize(
    ("scores", "top", "message"),
    [
        (torch.ones(1, 2, 3), 7, "top=7: expected between 1 and 6"), (torch.ones(1, 2, 3), 0, "top=0: expected between 1 and 6"),
        (torch.ones(1, 2, 3), -1, "top=-1"), (torch.ones(2, 3), 1, r"scores: found shape \(2, 3\), expected \(B, F, N\)"),
    ],
)  # fmt: skip
def test_no_more_patches_than_there_are(scores: Tensor, top: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        select(scores, top)


def test_its_options() -> None:
    call = functools.partial(informativeness, torch.ones(1, 1, 4), torch.ones(1, 9, 4), TokenLayout(1, 2, 3), 2)
    with pytest.raises(ValueError, match="over='frames'"):
        call(over="frames")
    with pytest.raises(ValueError, match="pool='sum'"):
        call(pool="sum")


# --- fusioners ---

FUSIONERS = {
    "xpool": lambda: XPool(6, 2), "xpool_printed": lambda: XPool(6, 3, pre_norm=False, temperature=0.5),
    "cross": lambda: CrossAttention(6, 2, layers=2), "cross_bare": lambda: CrossAttention(6, 3, residual=False),
    "co": lambda: CoAttention(6, 2, layers=2), "co_bare": lambda: CoAttention(6, 3, residual=False),
}  # fmt: skip


@pytest.mark.parametrize("name", FUSIONERS)
def test_own_queries_are_the_diagonal_of_all_pairs(name: str) -> None:
    fusioner = FUSIONERS[name]().double().eval()
    move(fusioner)
    queries, tokens = features(4, 6, seed=1), features(4, 5, 6, seed=2)
    pairs = fusioner.all_pairs(queries, tokens)
    assert pairs.shape == (4, 4, 6)
    torch.testing.assert_close(fusioner(queries, tokens), pairs.diagonal().mT)
    apart = fusioner(queries.roll(1, 0), tokens)
    torch.testing.assert_close(apart[2], pairs[2, 1])
    assert fusioner.all_pairs(queries[:3], tokens).shape == (4, 3, 6)
    with pytest.raises(ValueError, match="tokens: found shape"):
        fusioner.all_pairs(queries, tokens[..., :5])


@torch.no_grad()
def test_x_pool_at_its_start_is_a_soft_choice_of_normed_tokens() -> None:
    fusioner = XPool(6, 1).double().eval()
    query, tokens = features(1, 6, seed=1), features(1, 5, 6, seed=2)
    norm = functools.partial(nn.functional.layer_norm, normalized_shape=(6,))
    weights = softmax(norm(tokens[0]) @ norm(query[0]) / math.sqrt(6), 0)
    torch.testing.assert_close(fusioner(query, tokens)[0], norm(2 * norm(weights @ norm(tokens[0]))))


@torch.no_grad()
def test_a_temperature_divides_the_logits() -> None:
    plain, warm = XPool(6, 2).double().eval(), XPool(6, 2, temperature=4.0).double().eval()
    move(plain)
    warm.load_state_dict(plain.state_dict())
    query, tokens = features(3, 6, seed=1), features(3, 5, 6, seed=2)
    assert not torch.allclose(warm(query, tokens), plain(query, tokens))
    for weight in plain.q_proj.parameters():
        weight /= 4
    torch.testing.assert_close(warm(query, tokens), plain(query, tokens))


def multihead(layer: Any, query: Tensor, tokens: Tensor, heads: int) -> Tensor:
    """One query (D,) with tokens (S, D), head by head."""
    parts = []
    q, k, v = layer.q_proj(query), layer.k_proj(tokens), layer.v_proj(tokens)
    width = len(q) // heads
    for head in range(heads):
        own = slice(head * width, (head + 1) * width)
        parts.append(softmax(k[:, own] @ q[own] / math.sqrt(width), 0) @ v[:, own])
    found: Tensor = layer.out_proj(torch.cat(parts))
    return found


@pytest.mark.parametrize("residual", [True, False])
@torch.no_grad()
def test_cross_and_co_attention_by_hand(residual: bool) -> None:
    query, tokens, share = features(6, seed=1), features(5, 6, seed=2), float(residual)
    cross = CrossAttention(6, 2, residual=residual).double().eval()
    move(cross)
    (layer,) = cross.layers
    x = share * query + multihead(layer, layer.norm_query(query), layer.norm_tokens(tokens), 2)
    x = x + layer.down(gelu(layer.up(layer.norm_mlp(x))))
    torch.testing.assert_close(cross(query[None], tokens[None])[0], cross.fc(cross.norm(x + share * query)))
    co = CoAttention(6, 2, residual=residual).double().eval()
    move(co)
    streams = []
    for own, others, (layer,) in ((tokens, query[None], co.tokens), (query[None], tokens, co.query)):
        rows = []
        for one in own:
            x = layer.norm_attention(share * one + multihead(layer, one, others, 2))
            rows.append(layer.norm_mlp(x + layer.down(gelu(layer.up(x)))))
        streams.append(torch.stack(rows).mean(0))
    torch.testing.assert_close(co(query[None], tokens[None])[0], streams[0] if residual else streams[1])


@torch.no_grad()
def test_the_co_attention_s_tokens_alone_would_not_know_the_video_without_residual() -> None:
    """Why its result is the query's stream there: each token looks at one key."""
    co = CoAttention(6, 2, residual=False).double().eval()
    move(co)
    query = features(1, 1, 6, seed=1)
    a, b = (co.tokens[0](features(1, 5, 6, seed=seed), query) for seed in (2, 3))
    torch.testing.assert_close(a, b)


@torch.no_grad()
def test_fusioners_start_as_identities() -> None:
    cross = CrossAttention(6, 2)
    assert cross.layers[0].q_proj.weight.equal(torch.eye(12, 6)) and cross.fc.weight.equal(torch.eye(6))
    assert cross.layers[0].down.weight.equal(torch.eye(6, 24)) and not cross.layers[0].down.bias.any()
    one, two = CoAttention(64, 2), CoAttention(64, 2)
    for part in (one, two):
        part.start(torch.Generator().manual_seed(3))
    assert all(a.equal(b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert one.query[0].up.weight.std() == pytest.approx(0.02, rel=0.05)


# --- the other generators ---


@torch.no_grad()
def test_a_q_former_layer_by_hand() -> None:
    text = Config(clip=SIZES, frames=1, top=4).sizes.text_config
    former = QFormerGenerator(text, 8, queries=2).double().eval()
    move(former)
    tokens = features(1, 5, 8, seed=1)
    x, seen = former.queries, former.mapper(tokens[0])
    for layer in former.layers:
        for one, norm, keys in ((layer.self_attn, layer.norm1, None), (layer.multihead_attn, layer.norm2, seen)):
            weights = one.in_proj_weight.chunk(3), one.in_proj_bias.chunk(3)
            part = nn.Module()
            for number, name in enumerate("qkv"):
                linear = nn.Linear(10, 10).double()
                linear.weight, linear.bias = (nn.Parameter(kind[number]) for kind in weights)
                part.add_module(f"{name}_proj", linear)
            part.add_module("out_proj", one.out_proj)
            x = torch.stack([norm(q + multihead(part, q, x if keys is None else keys, 2)) for q in x])
        x = layer.norm3(x + layer.linear2(gelu(layer.linear1(x))))
    torch.testing.assert_close(former(tokens)[0], former.projection(x.mean(0)))


@torch.no_grad()
def test_captions_in_the_place_of_pseudo_queries() -> None:
    model, data = small(pseudo_query="captions"), batch()
    ids, mask = texts(3, 9, 8)
    videos = model.encode_video(data["video"], (ids, mask))
    naive = Naive(model)
    for row, video in enumerate(data["video"]):
        found, query = naive.video(video), naive.text(ids[row])
        close(videos.pseudo_query[row], query)  # type: ignore[index]
        close(videos.v[row], naive.pool(query, found["x_v"] + found["x_f"]))
    assert videos.selected.shape == (3, 0)
    with pytest.raises(ValueError, match="captions=None: expected ids and mask"):
        model.encode_video(data["video"])


# --- the single tower ---


@torch.no_grad()
def test_a_single_tower_asks_every_video_with_every_caption() -> None:
    model, data = small(), batch()
    naive, videos = Naive(model), model.encode_video(data["video"])
    words = model.encode_text(data["text_input_ids"], data["text_input_mask"])[:2]
    scores = model.score_pairs(words, videos)
    for v, video in enumerate(data["video"]):
        found = naive.video(video)
        for q, t in enumerate(words):
            seen = naive.pool(t, found["x_v"] + found["x_f"])
            assert scores[q, v].item() == pytest.approx(float(t @ seen / t.norm() / seen.norm()), abs=1e-9)
    own = model.fusioner.all_pairs(videos.pseudo_query, torch.cat([videos.x_v, videos.x_f], 1))  # type: ignore[union-attr, arg-type]
    torch.testing.assert_close(own.diagonal().mT, videos.v)
    with pytest.raises(ValueError, match="config.fusioner='none'"):
        small(pseudo_query="none", fusioner="none").score_pairs(words, videos)


@torch.no_grad()
def test_a_single_tower_is_trained_on_all_pairs() -> None:
    """Pair by pair, and the contrast of Eq. 2-4 over them by hand; nothing is reconstructed."""
    model, data = small("paper", pseudo_query="query"), batch()
    videos = model.encode_video(data["video"])
    torch.testing.assert_close(videos.v, videos.x_v[:, 0])
    assert videos.pseudo_query is None and model.generator is None
    words = model.encode_text(data["text_input_ids"], data["text_input_mask"])
    pairs = torch.zeros(3, 3, dtype=torch.float64)
    for q, word in enumerate(words):
        for v in range(3):
            seen = model.fusioner(word[None], torch.cat([videos.x_v[v], videos.x_f[v]])[None])[0]  # type: ignore[misc]
            pairs[q, v] = model.scale * torch.nn.functional.cosine_similarity(word, seen, dim=0)
    by_hand = -sum(pairs.log_softmax(way).diag().mean() for way in (0, 1)) / 2
    found = model.loss(data)
    torch.testing.assert_close(found["total"], by_hand, atol=1e-9, rtol=0)
    assert found["reconstruction"] == 0


@pytest.mark.parametrize("heads", [1, 2])
@torch.no_grad()
def test_what_x_pool_looks_at(heads: int) -> None:
    """Weights head by head; they mix the values to what the layer gives on."""
    fusioner = XPool(6, heads, temperature=0.7).double()
    move(fusioner)
    query, tokens = features(4, 3, 6, seed=1), features(4, 5, 6, seed=2)
    found = fusioner.weights(query, tokens)
    assert found.shape == (4, 3, 5)
    torch.testing.assert_close(found.sum(-1), torch.ones(4, 3).double())
    q, k = fusioner.q_proj(fusioner.norm_in(query)) / 0.7, fusioner.k_proj(fusioner.norm_in(tokens))
    width = 6 // heads
    by_head = [
        softmax(q[..., at : at + width] @ k[..., at : at + width].mT / math.sqrt(width), -1)
        for at in range(0, 6, width)
    ]  # fmt: skip
    torch.testing.assert_close(found, torch.stack(by_head).mean(0))
    if heads == 1:
        inner = fusioner.norm_attention(fusioner.out_proj(found @ fusioner.v_proj(fusioner.norm_in(tokens))))
        torch.testing.assert_close(fusioner.eval().pool(query, tokens), fusioner.norm_out(inner + fusioner.fc(inner)))
