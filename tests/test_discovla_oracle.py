"""DiscoVLA against loops over texts, frames, tokens and heads in float64, for sizes that all differ; its properties."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small_discovla import END, SIZES, Naive, batch, features, small, texts
from torch import Tensor

from vtrlib.clip.lora import layers
from vtrlib.discovla import Adapter, DiscoVLA, Frames, IVFusionAttention, aggregate, image_similarity, pool_frames
from vtrlib.released import from_state_dict, renamed
from vtrlib.released.discovla import joined, names

CASES: list[dict[str, Any]] = [
    {}, {"reading": "paper"}, {"attention": "video"}, {"attention": "average", "reading": "paper"},
    {"attention": "image"}, {"vision_fusion": 0, "text_fusion": 4}, {"vision_fusion": 3, "text_fusion": 0, "rank": 0},
    {"lora_scale": 0.5, "similarity": "paired"}, {"similarity": "video", "reading": "paper"},
    {"similarity": "paired", "reading": "paper"}, {"attention": "video", "reading": "paper", "vision_fusion": 3},
]  # fmt: skip


@pytest.mark.parametrize("settings", CASES)
def test_features_and_losses_against_loops(settings: dict[str, Any]) -> None:
    model, data = small(**settings), batch(videos=2, frames=3)
    naive, mask = Naive(model), data["video_mask"] > 0
    close(model.encode_video(data["video"], mask).frames[0], naive.frames(data["video"][0], mask[0]))
    found: Any = model.loss(data)
    for name, expected in naive.loss(data).items():
        assert found[name].item() == pytest.approx(expected, rel=1e-9, abs=1e-12), name


@pytest.mark.parametrize(("videos", "frames"), [(1, 1), (4, 1), (1, 5)])
def test_other_batches_against_loops(videos: int, frames: int) -> None:
    model, data = small(), batch(videos, frames, seed=11)
    found: Any = model.loss(data)
    for name, expected in Naive(model).loss(data).items():
        assert found[name].item() == pytest.approx(expected, rel=1e-9, abs=1e-12), name


def test_pseudo_captions_against_loops() -> None:
    model, data = small(), batch(2, 3)
    features = model.encode_pseudo_captions(data["f_text_ids"], data["f_text_mask"])
    naive = Naive(model)
    for video in range(2):
        close(features[video], naive.captions(data["f_text_ids"][video], data["f_text_mask"][video], [True] * 3, True))


@pytest.mark.parametrize("fused", [(0, 0), (1, 4), (3, 2)])
def test_released_weights_of_any_size(fused: tuple[int, int]) -> None:
    """Widths, heads, depths and inputs that the fixture does not have; heads other than width // 64 are told."""
    model = small(vision_fusion=fused[0], text_fusion=fused[1], rank=3, adapter_rank=3)
    state = joined(renamed({k: v.detach() for k, v in model.named_parameters()}, names(model)))
    vision, text = SIZES["vision_config"], SIZES["text_config"]
    released = {
        "vision_width": 18, "vision_layers": 3, "H_V": fused[0], "vision_heads": 3, "patch": 4, "image": 12,
        "text_width": 10, "text_layers": 4, "H_L": fused[1], "text_heads": 2, "embed": 7, "vocab": 31, "context": 9,
        "r": 3, "eos": END, "mlp_ratio": 4, "act": "quick_gelu",
    }  # fmt: skip
    # Theirs have inner layers four times as wide.
    for width, tower, prefix, depth in ((vision, 18, "clip.visual.", 3), (text, 10, "clip.", 4)):
        for number in range(depth):
            layer = f"{prefix}transformer.resblocks.{number}.mlp."
            more = 4 * tower - width["intermediate_size"]
            for name, shape in (("c_fc.weight", (more, tower)), ("c_fc.bias", (more,))):
                state[layer + name] = torch.cat([state[layer + name], torch.zeros(shape, dtype=torch.float64)])
            outer = state[layer + "c_proj.weight"]
            state[layer + "c_proj.weight"] = torch.cat([outer, features(tower, more, seed=number)], 1)
    again = from_state_dict("discovla", state, released)
    data = batch(3, 4, seed=5)
    assert isinstance(again, DiscoVLA)
    expected: Any = model.loss(data)
    for name, term in again.loss(data).items():
        assert term.item() == pytest.approx(expected[name].item(), rel=1e-12), name  # type: ignore[attr-defined]


# --- the three attentions ---


def attention(kind: str, **settings: Any) -> tuple[IVFusionAttention, Frames]:
    """An attention of the vision tower, 2 videos of 5 frames, some tokens hidden from other frames."""
    model = small(attention=kind, vision_fusion=1, **settings)
    found = layers(model.clip)[0][-1].self_attn
    assert isinstance(found, IVFusionAttention)
    keys = torch.rand(2, 5 * 4, generator=torch.Generator().manual_seed(3)) > 0.3
    return found, Frames(5, torch.tensor([0, 3, 1, 2, 0, 1, 1, 2, 3, 3]), keys)


@pytest.mark.parametrize("masked", [False, True])
def test_c2_is_the_summary_rows_of_video_level_attention(masked: bool) -> None:
    fused, frames = attention("fusion")
    whole, _ = attention("video")
    frames = frames if masked else frames._replace(keys=None)
    x = features(10, 4, 18, seed=1)
    q, k, v = fused.project(x)
    c2 = fused.fuse(fused.mix(q, k, v), q, k, v, frames).video
    rows = whole(x, frames=frames)[0]
    assert rows.shape == x.shape
    close(c2, rows[torch.arange(10), frames.place])


def test_other_tokens_keep_their_image_level_output() -> None:
    fused, frames = attention("fusion")
    x = features(10, 4, 18, seed=1)
    found, image = fused(x, frames=frames)[0], fused(x)[0]
    moved = (found != image).any(-1)
    expected = torch.zeros(10, 4, dtype=torch.bool)
    expected[torch.arange(10), frames.place] = True
    assert moved.equal(expected)


def test_average_is_the_mean_of_both() -> None:
    fused, frames = attention("average")
    x = features(10, 4, 18, seed=1)
    q, k, v = fused.project(x)
    c1, c2, c = fused.fuse(fused.mix(q, k, v), q, k, v, frames)
    close(c, (c1 + c2) / 2)
    assert (c1 - c2).abs().max() > 1e-3


def test_one_frame_without_an_adapter_is_image_level() -> None:
    """Only then is the start of training the pretrained model: c2 = c1."""
    model, plain = small("paper"), small("paper", attention="image")
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, Adapter):
                module.up.weight.zero_()
    one, two = batch(3, 1), batch(3, 2)
    for data, same in ((one, True), (two, False)):
        a, b = (m.encode_video(data["video"], data["video_mask"]).video for m in (model, plain))
        assert torch.allclose(a, b, atol=1e-12) == same
        a, b = (m.encode_pseudo_captions(data["f_text_ids"], data["f_text_mask"]) for m in (model, plain))
        assert torch.allclose(a, b, atol=1e-12) == same


# --- invariances ---


@pytest.mark.parametrize("reading", ["paper", "released"])
def test_the_order_of_frames_is_not_seen(reading: str) -> None:
    model, data, order = small(reading), batch(), torch.tensor([3, 0, 4, 2, 1])
    videos = model.encode_video(data["video"], data["video_mask"])
    again = model.encode_video(data["video"][:, order], data["video_mask"][:, order])
    close(again.video, videos.video)
    close(again.frames, videos.frames[:, order])


@pytest.mark.parametrize("attention", ["image", "video", "average", "fusion"])
def test_only_image_level_features_know_nothing_of_other_frames(attention: str) -> None:
    model, data = small(attention=attention), batch()
    other = data["video"].clone()
    other[:, 1] = data["video"][:, 1].flip(-1)
    one, two = (model.encode_video(video, data["video_mask"]).frames[:, 0] for video in (data["video"], other))
    assert torch.equal(one, two) == (attention == "image")


@pytest.mark.parametrize("reading", ["paper", "released"])
def test_ids_and_number_of_padding_do_not_matter(reading: str) -> None:
    model = small(reading)
    data: dict[str, Any] = dict(batch())
    losses: Any = model.loss(data)  # type: ignore[arg-type]
    for pad in (7, END):
        other = dict(data)
        for name in ("text", "f_text"):
            ids, mask = data[f"{name}_ids"], data[f"{name}_mask"]
            other[f"{name}_ids"] = torch.nn.functional.pad(ids.masked_fill(~mask, pad), (0, 1), value=pad)
            other[f"{name}_mask"] = torch.nn.functional.pad(mask, (0, 1))
        for name, term in model.loss(other).items():  # type: ignore[arg-type]
            assert term.item() == pytest.approx(losses[name].item(), rel=1e-12), (pad, name)


@pytest.mark.parametrize(("reading", "seen"), [("paper", False), ("released", True)])
def test_hidden_padding_is_not_there(reading: str, seen: bool) -> None:
    """Masked frames and their captions change nothing where they are hidden; as released they do."""
    model, data = small(reading), batch(2, 4)
    data["video_mask"] = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])
    other = dict(data)
    other["video"] = data["video"].clone()
    other["video"][0, 3] = 5.0
    other["f_text_ids"] = data["f_text_ids"].clone()
    other["f_text_ids"][0, 3, 1] = 9 if data["f_text_ids"][0, 3, 1] != 9 else 8
    for name, term in model.loss(other).items():  # type: ignore[arg-type]
        apart = abs(term.item() - model.loss(data)[name].item())  # type: ignore[literal-required]
        assert (apart > 1e-6) == seen, name
    cut = model.encode_video(data["video"][:1, :3])
    whole = model.encode_video(data["video"][:1], data["video_mask"][:1])
    assert torch.allclose(whole.video, cut.video, atol=1e-10) != seen
    ids, mask = data["f_text_ids"][:1], data["f_text_mask"][:1]
    cut, whole = (
        model.encode_pseudo_captions(ids[:, :3], mask[:, :3]),
        model.encode_pseudo_captions(ids, mask, data["video_mask"][:1])[:, :3],
    )
    assert torch.allclose(whole, cut, atol=1e-10) != seen


def test_padding_hides_captions_from_each_other() -> None:
    """The mask matters across captions, where no causal limit hides padding; within a caption it does not."""
    model, (ids, mask) = small(), texts(2, 3, length=8, seed=4)
    assert not mask.all()
    features = model.encode_pseudo_captions(ids, mask)
    shown = model.encode_pseudo_captions(ids, torch.ones_like(mask))
    assert (features - shown).abs().max() > 1e-3
    plain = small(attention="image")
    close(plain.encode_pseudo_captions(ids, mask), plain.encode_pseudo_captions(ids, torch.ones_like(mask)))


def test_a_video_caption_is_image_level_in_every_model() -> None:
    data = batch()
    plain, *others = (small(attention=kind) for kind in ("image", "video", "average", "fusion"))
    expected = plain.encode_text(data["text_ids"], data["text_mask"])
    for model in others:
        close(model.encode_text(data["text_ids"], data["text_mask"]), expected)


# --- image-level similarity ---


def test_softmax_aggregation_between_its_limits() -> None:
    maxima = features(3, 4, 5, seed=2)
    close(aggregate(maxima, "softmax", 1e-9), maxima.mean(-1), 1e-7)
    close(aggregate(maxima, "softmax", 1e5), maxima.amax(-1))
    close(aggregate(maxima, "mean", 7.0), maxima.mean(-1))
    between = aggregate(maxima, "softmax", 2.0)
    assert (between > maxima.mean(-1)).all() and (between < maxima.amax(-1)).all()
    with pytest.raises(ValueError, match="form='max': expected one of 'mean', 'softmax'"):
        aggregate(maxima, "max")


def test_s_to_infinity_is_the_best_pair_of_all() -> None:
    t, v = features(3, 4, 7, seed=1), features(2, 5, 7, seed=2)
    found = image_similarity(t, v, aggregation="softmax", scale=1e6)
    cosines = torch.einsum("and,bmd->abnm", *(x / x.norm(dim=-1, keepdim=True) for x in (t, v)))
    close(found.t2v, cosines.amax((2, 3)))
    close(found.v2t, found.t2v)
    assert found.total.shape == (3, 2), "captions and frames may differ in number"


@pytest.mark.parametrize("kind", ["fine", "paired", "video"])
def test_similarity_takes_what_the_masks_show(kind: str) -> None:
    t, v = features(3, 5, 7, seed=1), features(4, 5, 7, seed=2)
    shown = torch.tensor([True, True, False, True, False])
    masks = {"caption_mask": shown.expand(3, -1), "frame_mask": shown.expand(4, -1)}
    for form in ("mean", "softmax"):
        found = image_similarity(t, v, kind=kind, aggregation=form, scale=3.0, **masks)
        alone = image_similarity(t[:, shown], v[:, shown], kind=kind, aggregation=form, scale=3.0)
        close(found.total, alone.total)
    with pytest.raises(ValueError, match="frames: found shape"):
        image_similarity(t, v[:, :, :6], kind=kind)


def test_similarity_by_finite_differences() -> None:
    t, v = features(2, 3, 4, seed=1).requires_grad_(), features(3, 2, 4, seed=2).requires_grad_()
    scale = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(
        lambda t, v, s: image_similarity(t, v, aggregation="softmax", scale=s).total, (t, v, scale)
    )
    mask = torch.tensor([[True, True, False], [False, True, True]])
    torch.autograd.gradcheck(lambda t: pool_frames(t, mask), (t,))


def close(found: Tensor, expected: Tensor, atol: float = 1e-10) -> None:
    torch.testing.assert_close(found, expected, atol=atol, rtol=0)
