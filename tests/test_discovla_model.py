"""The DiscoVLA model: published counts, variants, switches, costs, any device, saving, and bad input."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_discovla import DEVICES, END, SIZES, batch, features, small
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPConfig, CLIPModel

from vtrlib import training
from vtrlib.clip import random_towers
from vtrlib.clip.lora import layers
from vtrlib.discovla import (
    VARIANTS,
    Adapter,
    Config,
    DiscoVLA,
    Frames,
    IVFusionAttention,
    Reading,
    attention_cost,
    image_similarity,
    objective,
    quick_gelu,
)
from vtrlib.losses import info_nce
from vtrlib.world import MovingDigits

B16 = {"vision_config": {"patch_size": 16}}


def counted(config: Config) -> tuple[int, int]:
    """Trained parameters, and those of CLIP alone; on a device that holds no numbers."""
    with torch.device("meta"):
        model = DiscoVLA(config)
    added = {"lora", "adapter"}
    trained = sum(w.numel() for w in model.parameters() if w.requires_grad)
    return trained, sum(w.numel() for name, w in model.named_parameters() if not added & set(name.split(".")))


# --- counts ---


@pytest.mark.parametrize(("clip", "frozen"), [({}, 151_277_313), (B16, 149_620_737)])
@pytest.mark.parametrize(
    ("settings", "trained"),
    [
        ({"vision_fusion": 0, "text_fusion": 0}, 491_520), ({"text_fusion": 0}, 543_776), ({}, 561_200),
        ({"reading": "paper", "text_fusion": 0}, 540_672), ({"reading": "paper"}, 557_056),
    ],
)  # fmt: skip
def test_parameters_as_published(clip: dict[str, Any], frozen: int, settings: dict[str, Any], trained: int) -> None:
    assert counted(Config(clip=clip, **settings)) == (trained, frozen)


@pytest.mark.parametrize(
    ("name", "trained"),
    [("zero_shot", 0), ("lora", 491_520), ("b1", 543_776), ("b2", 561_200), ("b3", 543_776), ("discovla", 561_200),
     ("full", 123_540_993)],
)  # fmt: skip
def test_variants_train_what_the_tables_say(name: str, trained: int) -> None:
    assert counted(Config.variant(name))[0] == trained


def test_all_is_all() -> None:
    trained, of_clip = counted(Config.variant("full", trained="all"))
    assert trained == of_clip == 151_277_313


# --- variants ---


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_scores_and_trains(name: str) -> None:
    settings: dict[str, Any] = {"clip": SIZES}
    settings |= {key: min(2, value) for key, value in VARIANTS[name].items() if key.endswith("fusion")}
    if name in ("b2", "discovla"):
        settings |= {"text_fusion": 2}
    config = Config.variant(name, **{"vision_fusion": 2, **settings})
    model, data = small(**config.__dict__ | {"reading": config.reading}), batch()
    model.freeze()
    losses = model.train().loss(data)
    if name == "zero_shot":
        assert not losses["total"].requires_grad
        return
    losses["total"].backward()
    grads = {n: w.grad for n, w in model.named_parameters()}
    # Of what is trained nothing is left out, but the scale where nothing is compared by it.
    missing = [n for n, w in model.named_parameters() if w.requires_grad and (w.grad is None or not w.grad.any())]
    assert missing == [] and sum(g is not None for g in grads.values()) > 0
    pseudo = bool(config.alpha or config.beta)
    assert bool(losses["image"] != 0) == bool(losses["distill"] != 0) == pseudo
    total = losses["video"] + config.alpha * losses["image"] + config.beta * losses["distill"]
    torch.testing.assert_close(losses["total"], total)


def test_without_alpha_and_beta_no_pseudo_caption_is_needed() -> None:
    model, data = small(alpha=0.0, beta=0.0), dict(batch())
    expected = model.loss(data)["total"]  # type: ignore[arg-type]
    del data["f_text_ids"], data["f_text_mask"]
    assert model.loss(data)["total"] == expected  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="batch: found no f_text_ids, f_text_mask.*set alpha and beta to 0"):
        small().loss(data)  # type: ignore[arg-type]


def test_on_pretrained_towers_the_zero_shot_variant_is_clip() -> None:
    """Features of the plain towers, whose end token is not the largest id; the towers stay as they are."""
    towers = random_towers(2).eval()
    kept = {name: tensor.clone() for name, tensor in towers.state_dict().items()}
    plain, tuned = (DiscoVLA.of(towers, Config.variant(name)) for name in ("zero_shot", "lora"))
    frames, _ = MovingDigits("val").frames([0, 3])
    pixels = (frames.float() / 255 - 0.5) / 0.5
    ids, mask = towers.tokenize(["a red three", "there is a blue one in the cave"])
    for model in (plain, tuned):
        videos, text = model.encode_video(pixels), model.encode_text(ids, mask)
        unit = nn.functional.normalize
        torch.testing.assert_close(unit(videos.frames, dim=-1), towers.encode_frames(frames), atol=1e-5, rtol=0)
        torch.testing.assert_close(unit(text, dim=-1), towers.encode_tokens(ids, mask), atol=1e-5, rtol=0)
        torch.testing.assert_close(videos.video, towers.encode_frames(frames).mean(1), atol=1e-5, rtol=0)
        score = model.score(text, videos.video)
        torch.testing.assert_close(score, unit(text, dim=-1) @ unit(videos.video, dim=-1).T)
    assert all(tensor.equal(kept[name]) for name, tensor in towers.state_dict().items())


def test_new_weights_follow_the_generator() -> None:
    clip = random_towers(2).model
    one, two, other = (
        DiscoVLA.of(clip, vision_fusion=2, text_fusion=1, generator=torch.Generator().manual_seed(seed))
        for seed in (4, 4, 5)
    )
    same = [a.equal(b) for a, b in zip(one.parameters(), two.parameters(), strict=True)]
    apart = [name for (name, a), b in zip(one.named_parameters(), other.parameters(), strict=True) if not a.equal(b)]
    assert all(same) and all("lora.down" in name or "adapter.down" in name for name in apart) and len(apart) == 7 + 6
    with pytest.raises(TypeError, match="config: found settings beside it"):
        DiscoVLA.of(clip, Config(clip=clip.config, vision_fusion=1), rank=2)


def test_adapters_start_at_zero_within_xavier_s_bound() -> None:
    adapter = Adapter(18, 3, True, "gelu")
    bound = math.sqrt(6 / (18 + 3))
    assert 0.5 * bound < adapter.down.weight.abs().max() <= bound
    assert 0 < adapter.down.bias.abs().max() < 1e-5
    assert not adapter.up.weight.any() and not adapter.up.bias.any()
    x = features(4, 18, seed=1, dtype=torch.float32)
    assert not adapter(x).any()
    torch.testing.assert_close(quick_gelu(x), x / (1 + (-1.702 * x).exp()))


def test_the_scale_ends_at_100_and_comes_back() -> None:
    model = small(trained="all")
    with torch.no_grad():
        model.clip.logit_scale.fill_(9.0)
    assert model.scale.item() == pytest.approx(100)
    losses = model.train().loss(batch())
    losses["total"].backward()
    assert model.clip.logit_scale.item() == pytest.approx(math.log(100)) and model.clip.logit_scale.grad is not None


# --- switches ---


# The switches that show in features, and those that show in losses alone.
FEATURES, LOSSES = {"activation", "adapter_bias"}, {"aggregation", "kl"}


@pytest.mark.parametrize("switch", [*Reading.__dataclass_fields__])
@pytest.mark.parametrize("start", ["paper", "released"])
def test_a_switch_changes_what_it_says_and_nothing_else(switch: str, start: str) -> None:
    reading, data = Reading.of(start), batch()
    one, two = small(reading), small(reading.flipped(switch))
    same = [
        torch.equal(a, b)
        for a, b in (
            (m.encode_video(data["video"], data["video_mask"]).frames for m in (one, two)),
            (m.encode_pseudo_captions(data["f_text_ids"], data["f_text_mask"], data["video_mask"]) for m in (one, two)),
            (m.encode_text(data["text_ids"], data["text_mask"]) for m in (one, two)),
        )
    ]
    moved = switch in FEATURES or switch == "padding"
    assert same == [not moved, not moved, True]
    a, b = one.loss(data), two.loss(data)
    assert (a["video"] == b["video"]).item() == (not moved)
    assert (a["image"] == b["image"]).item() == (not moved and switch != "aggregation")
    assert (a["distill"] == b["distill"]).item() == (not moved and switch not in LOSSES)
    grads = [torch.autograd.grad(loss["total"], next(w for w in m.parameters() if w.requires_grad))[0]
             for loss, m in ((a, one), (b, two))]  # fmt: skip
    assert torch.equal(*grads) == (switch == "optimiser")


def test_kl_as_released_depends_on_the_batch() -> None:
    for videos in (2, 5):
        data = batch(videos, 2)
        one, two = (small(Reading.paper().flipped(*names)).loss(data)["distill"] for names in ((), ("kl",)))
        assert (two / one).item() == pytest.approx(100 / videos)


def test_readings_by_name_and_back() -> None:
    assert Reading.of("paper") == Reading.paper() == Reading()
    assert Reading.paper().flipped(*Reading.__dataclass_fields__) == Reading.released()
    assert Config(reading="paper").reading == Reading.paper()  # type: ignore[arg-type]
    for name in ("adamw", "transformers_adamw"):
        assert hasattr(training, name)
    with pytest.raises(ValueError, match="reading.kl='sum'"):
        Reading(kl="sum")
    with pytest.raises(ValueError, match="switch='teachers'.*Did you mean 'teacher'"):
        Reading.paper().flipped("teachers")


# --- cost ---


@pytest.mark.parametrize("kind", ["image", "video", "average", "fusion"])
@pytest.mark.parametrize("rank", [0, 2])
def test_cost_against_torch_s_counter(kind: str, rank: int) -> None:
    """One layer of the vision tower, 2 videos of 5 frames of 10 tokens."""
    model = small(attention=kind, rank=rank, vision_fusion=1)
    module = layers(model.clip)[0][-1].self_attn
    frames = Frames(5, torch.zeros(10, dtype=torch.long)) if kind != "image" else None
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        module(features(10, 10, 18, seed=1), frames=frames)
    cost = attention_cost(kind, 5, 10, 18, rank=rank, adapter_rank=3)
    assert counter.get_total_flops() == 2 * 2 * cost.total


def test_cost_grows_as_the_paper_says() -> None:
    def pairs(kind: str, frames: int, tokens: int) -> int:
        return attention_cost(kind, frames, tokens, 768).pairs

    # O(F N²), O((F N)²), O(F N² + F² N)
    assert pairs("image", 24, 50) == 2 * pairs("image", 12, 50)
    assert pairs("image", 12, 100) == 4 * pairs("image", 12, 50)
    assert pairs("video", 24, 50) == 4 * pairs("video", 12, 50) == pairs("video", 12, 100)
    across = [pairs("fusion", f, n) - pairs("image", f, n) for f, n in ((12, 50), (24, 50), (12, 100))]
    assert across[1] == 4 * across[0] and across[2] == 2 * across[0]
    assert pairs("video", 12, 50) == 12 * pairs("image", 12, 50)
    assert pairs("fusion", 1, 50) < pairs("video", 12, 50)
    with pytest.raises(ValueError, match="kind='ivfusion'"):
        attention_cost("ivfusion", 1, 1, 1)
    with pytest.raises(ValueError, match="tokens=0"):
        attention_cost("image", 1, 0, 1)


# --- devices, precision, training ---


@pytest.mark.parametrize("reading", ["paper", "released"])
@pytest.mark.parametrize("device", DEVICES)
def test_every_device_and_dtype(device: str, reading: str) -> None:
    data = batch()
    expected = small(reading).loss(data)["total"].item()
    for dtype, tolerance in ((torch.float32, 1e-4), (torch.bfloat16, 0.2)):
        model = small(reading, dtype=dtype).to(device)
        moved = {k: v.to(device) for k, v in data.items()}  # type: ignore[attr-defined]
        loss = model.loss(moved)["total"]  # type: ignore[arg-type]
        loss.backward()
        assert loss.device.type == device and loss.item() == pytest.approx(expected, rel=tolerance)


@pytest.mark.parametrize("reading", ["paper", "released"])
@pytest.mark.parametrize("device", DEVICES)
def test_autocast(device: str, reading: str) -> None:
    model = small(reading, dtype=torch.float32).to(device).train()
    data = {k: v.to(device) for k, v in batch(dtype=torch.float32).items()}  # type: ignore[attr-defined]
    plain = model.loss(data)["total"].item()  # type: ignore[arg-type]
    with torch.autocast(device, torch.bfloat16):
        loss = model(data)["total"]
    loss.backward()
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(plain, rel=0.2)
    assert all(w.grad is None or w.grad.dtype == torch.float32 for w in model.parameters())


@pytest.mark.parametrize("reading", ["paper", "released"])
@pytest.mark.parametrize("device", DEVICES)
def test_similarities_are_never_rounded_to_bfloat16(device: str, reading: str) -> None:
    """Under autocast the losses are those of the features in full precision; a rounded cosine would show."""
    model = small(reading, dtype=torch.float32).to(device).train()
    data = {k: v.to(device) for k, v in batch(dtype=torch.float32).items()}  # type: ignore[attr-defined]
    with torch.autocast(device, torch.bfloat16):
        found = model(data)
        texts = model.encode_text(data["text_ids"], data["text_mask"]).float()
        videos = model.encode_video(data["video"], data["video_mask"])
        captions = model.encode_pseudo_captions(data["f_text_ids"], data["f_text_mask"], data["video_mask"]).float()
        rounded = model.score(texts, videos.video.float())
    mask = data["video_mask"] > 0 if reading == "paper" else None
    video = model.score(texts, videos.video.float())
    image = image_similarity(
        captions, videos.frames.float(), aggregation=model.config.reading.aggregation, scale=model.scale,
        caption_mask=mask, frame_mask=mask,
    ).total  # fmt: skip
    expected = objective(video, image, model.scale, model.config)
    assert {k: v.item() for k, v in found.items()} == pytest.approx({k: v.item() for k, v in expected.items()}, rel=1e-5)
    assert found["video"].item() != pytest.approx(info_nce(rounded, scale=model.scale).item(), rel=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="only an accelerator can be waited for")
def test_a_training_step_never_waits_for_the_device() -> None:
    model = small("paper", dtype=torch.float32).cuda().train()
    data = {k: v.cuda() for k, v in batch(dtype=torch.float32).items()}  # type: ignore[attr-defined]
    model.loss(data)["total"].backward()  # type: ignore[arg-type]
    torch.cuda.set_sync_debug_mode("error")
    try:
        model.loss(data)["total"].backward()  # type: ignore[arg-type]
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("reading", ["paper", "released"])
def test_a_step_compiles_in_one_graph(reading: str) -> None:
    model, data = small(reading).train(), batch()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(data)["total"], model.loss(data)["total"])


def test_masks_of_any_kind_and_views() -> None:
    model = small()
    data: dict[str, Any] = dict(batch())
    expected = model.loss(data)["total"]  # type: ignore[arg-type]
    for kind in (torch.bool, torch.int32, torch.float32):
        again = data | {name: tensor.to(kind) for name, tensor in data.items() if name.endswith("mask")}
        again |= {name: tensor.int() for name, tensor in data.items() if name.endswith("ids")}
        again["video"] = data["video"].transpose(0, 1).contiguous().transpose(0, 1)
        assert model.loss(again)["total"] == expected  # type: ignore[arg-type]
    whole = model.encode_video(batch()["video"]).video
    shown = model.encode_video(batch()["video"], torch.ones(3, 5)).video
    assert whole.equal(shown)


def test_recomputed_layers_give_the_same_gradients() -> None:
    """Gradient checkpointing, by transformers' own switch."""
    data, found = batch(), []
    for saving in (False, True):
        model = small().train()
        if saving:
            model.clip.activation_checkpointing_enable()
        model.loss(data)["total"].backward()
        found.append([w.grad for w in model.parameters() if w.grad is not None])
    assert len(found[0]) == len(found[1]) > 10
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("reading", ["paper", "released"])
def test_it_learns_a_batch(reading: str) -> None:
    model, data = small(reading, dtype=torch.float32), [batch(dtype=torch.float32)]
    optimiser = getattr(training, model.config.reading.optimiser)
    before = model.loss(data[0])["total"].item()
    kept = {name: w.detach().clone() for name, w in model.named_parameters()}
    config = training.Config(steps=15, batch_size=1, learning_rate=0.02, weight_decay=0.2, clip=1.0, schedule="cosine")
    training.fit(
        model, data, lambda model, found: model(found)["total"], config, optimiser=optimiser,  # type: ignore[arg-type]
        collate=lambda found: found[0], quiet=True,
    )  # fmt: skip
    assert model.loss(data[0])["total"].item() < 0.7 * before
    moved = {name for name, w in model.named_parameters() if not w.equal(kept[name])}
    assert moved == {name for name, w in model.named_parameters() if w.requires_grad}


@pytest.mark.parametrize("reading", ["paper", "released"])
def test_saved_and_loaded(reading: str, tmp_path: Path) -> None:
    model, data = small(reading, dtype=torch.float32, attention="fusion"), batch(dtype=torch.float32)
    model.save_pretrained(tmp_path)
    assert sorted(p.name for p in tmp_path.glob("*.bin")) == []
    again = DiscoVLA.from_pretrained(tmp_path)
    assert again.config == model.config
    assert again.loss(data)["total"].equal(model.loss(data)["total"])


def test_a_configuration_takes_clip_s_own() -> None:
    config = Config(clip=CLIPConfig(**SIZES), vision_fusion=3, text_fusion=4)  # type: ignore[arg-type]
    assert config.sizes.to_dict() == CLIPConfig(**SIZES).to_dict()
    assert isinstance(config.clip, dict) and Config(**config.__dict__) == config
    assert Config().sizes.vision_config.patch_size == 32 and Config(clip=B16).sizes.vision_config.patch_size == 16


# --- bad input ---


def bad(change: Callable[[dict[str, Any]], object], settings: dict[str, Any] | None = None) -> Callable[[], object]:
    data: dict[str, Any] = {name: tensor.clone() for name, tensor in batch().items()}  # type: ignore[attr-defined]
    change(data)
    return functools.partial(small(**settings or {}).loss, data)  # type: ignore[arg-type]


def put(name: str, place: Any, value: Any) -> Callable[[], object]:
    return bad(lambda data: data[name].__setitem__(place, value))


def swap(name: str, change: Callable[[Tensor], Tensor]) -> Callable[[], object]:
    return bad(lambda data: data.__setitem__(name, change(data[name])))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (put("text_mask", 1, False), r"ids\[1\]: found no token, expected at least \[bos\] and \[eos\]"),
        (put("f_text_mask", (2, 3), False), r"ids\[2, 3\]: found no token"),
        (put("video_mask", 1, 0), r"video_mask\[1\]: found no frame, expected at least one"),
        (put("text_ids", batch()["text_ids"] == END, 5), r"ids\[0\], \[1\], \[2\]: found no end token \(largest id 27"),
        (put("f_text_ids", (0, 1), 5), r"ids\[0, 1\]: found no end token"),
        (bad(lambda d: d["text_mask"].logical_and_(d["text_ids"] != END)), r"ids\[0\], .*: found no end token"),
        (put("text_mask", (1, 0), False), r"ids\[1\]: found the first token masked.*Pad on the right"),
        (put("text_ids", (0, 1), 31), r"ids: found ids from 0 to 31, expected 0 to 30, the vocabulary"),
        (put("text_ids", (0, 1), -1), r"found ids from -1"),
        (put("video", 0, 0.0), r"video\[0, 0\], \[0, 1\], .*: found a frame that is all zeros.*not decoded"),
        (put("video", (1, 0), 0.0), r"video\[1, 0\]: found a frame that is all zeros"),
        (put("video", (1, 0, 2, 3, 4), math.nan), r"video\[1, 0\]: found NaN or infinity"),
        (put("video", (1, 0, 2, 3, 4), math.inf), r"video\[1, 0\]: found NaN or infinity"),
        (swap("video", lambda x: x[..., :8, :]), r"video: found frames of 8×12 pixels, expected 12×12"),
        (swap("video", lambda x: x.repeat(1, 1, 1, 2, 2)), r"found frames of 24×24 pixels"),
        (swap("video", lambda x: x[:, :, :2]), r"video: found shape \(3, 5, 2, 12, 12\), expected \(B, F, C=3, H, W\)"),
        (swap("video", lambda x: x[:, 0]), r"video: found shape \(3, 3, 12, 12\)"),
        (swap("video", lambda x: x.byte()), r"video: found torch.uint8, expected floating-point"),
        (swap("f_text_ids", lambda x: x[:, :4]), r"f_text_ids: found shape \(3, 4, 8\), expected \(B=3, F=5, L\)"),
        (swap("f_text_ids", lambda x: x[:, 0]), r"f_text_ids: found shape \(3, 8\)"),
        (swap("f_text_mask", lambda x: x[..., :7]), r"the mask of ids: found shape \(3, 5, 7\), expected \(3, 5, 8\)"),
        (swap("video_mask", lambda x: x[:, :4]), r"video_mask: found shape \(3, 4\), expected \(3, 5\), as video"),
        (swap("text_ids", lambda x: x[:2]), r"text_ids: found shape \(2, 6\), expected \(B=3, L\)"),
        (swap("text_ids", lambda x: x.double()), r"ids: found torch.float64, expected integers"),
        (swap("text_ids", lambda x: x[:, :0]), r"text_ids: found shape \(3, 0\)"),
        (swap("text_ids", lambda x: x.repeat(1, 2)), r"ids: found 12 tokens in a text, expected at most 9"),
        (bad(lambda data: data.pop("video_mask")), r"batch: found no video_mask"),
    ],
)  # fmt: skip
def test_bad_input_is_named(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_a_masked_frame_may_hold_anything_where_it_is_hidden() -> None:
    data = batch()
    expected = small("paper").loss(data)["total"]
    for value in (0.0, math.nan, math.inf):
        data["video"][1, 4] = value
        assert small("paper").loss(data)["total"] == expected
    with pytest.raises(ValueError, match=r"video\[1, 4\]: found NaN or infinity"):
        small("released").loss(data)
    data["video"][1, 4] = 0
    assert small("released").loss(data)["total"].isfinite(), "zeros are padding there"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"attention": "ivfusion"}, "attention='ivfusion': expected one of .*'fusion'"),
        ({"vision_fusion": 13}, "vision_fusion=13: expected between 0 and 12"),
        ({"text_fusion": -1}, "text_fusion=-1"), ({"rank": -1}, "rank=-1"), ({"adapter_rank": 0}, "adapter_rank=0"),
        ({"similarity": "none"}, "similarity='none'"), ({"trained": "lora"}, "trained='lora'"),
        ({"alpha": -0.1}, "alpha=-0.1"), ({"beta": math.nan}, "beta=nan"),
    ],
)  # fmt: skip
def test_bad_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Config(**settings)


def test_settings_of_wrong_kind() -> None:
    with pytest.raises(TypeError, match="reading=3: expected a Reading"):
        Config(reading=3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="clip .str.: expected a transformers.CLIPConfig"):
        Config(clip="ViT-B/32")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="name='b4': expected one of"):
        Config.variant("b4")
    attention = layers(CLIPModel(CLIPConfig(**SIZES)))[0][0].self_attn
    with pytest.raises(ValueError, match="adapter=None: expected one for 'fusion' alone"):
        IVFusionAttention(attention, "fusion")
    with pytest.raises(ValueError, match="activation='relu'"):
        Adapter(4, 2, True, "relu")


def test_replaced_settings_keep_their_reading() -> None:
    config = replace(Config(reading="paper"), alpha=0.5)  # type: ignore[arg-type]
    assert config.reading == Reading.paper() and config.alpha == 0.5
