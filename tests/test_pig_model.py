"""The PIG model: ablations, switches, stages, any device, saving, and bad input."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_pig import DEVICES, END, SIZES, batch, features, small
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPConfig, CLIPModel

from vtrlib import training
from vtrlib.clip import random_towers
from vtrlib.pig import PIG, VARIANTS, Config, Reading, match_cost
from vtrlib.world import MovingDigits

FITS = {"clip": SIZES, "frames": 5, "top": 3, "proxies": 3}


def variant(name: str, **settings: Any) -> PIG:
    return small(**{**VARIANTS[name], **settings})


def unused(model: PIG) -> list[str]:
    return [name for name, w in model.named_parameters() if w.requires_grad and (w.grad is None or not w.grad.any())]


# --- the rows of Table 2 and Table 4 ---


@pytest.mark.parametrize("name", VARIANTS)
def test_every_row_scores_stores_and_trains(name: str) -> None:
    model, data = variant(name, fusioner_layers=2 if "co" not in name else 1), batch()
    found = model.train().loss(data)
    found["total"].backward()
    generates = model.config.generates
    assert (found["reconstruction"] > 0).item() == generates and found["contrastive"] > 0
    weighed = found["contrastive"] + model.config.weight() * found["reconstruction"]
    torch.testing.assert_close(found["total"], weighed)
    idle = unused(model)
    # The only parts that a loss need not reach: what no caption or video of this batch has; keys' biases, which a
    # softmax never sees; queries and keys where one token is looked at; streams behind the last that is read.
    assert not [n for n in idle if not n.endswith("k_proj.bias") and "token_embedding" not in n and not excused(name, n)]
    model.eval()
    captions = (data["caption_input_ids"], data["caption_input_mask"]) if name == "captions" else None
    stored = model.index(data["video"], captions)
    assert stored.shape == (3, 8) and not stored.requires_grad
    torch.testing.assert_close(stored.norm(dim=1), torch.ones(3).double())
    words = model.encode_text(data["text_input_ids"], data["text_input_mask"])
    whole = model.encode_video(data["video"], captions)
    torch.testing.assert_close(nn.functional.normalize(words, dim=1) @ stored.T, model.score(words, whole.v))


def excused(variant: str, name: str) -> bool:
    """What a variant has and does not read."""
    last = name.startswith("clip.vision_model")
    return {
        "co": name.startswith("fusioner.query") or "q_proj" in name or "k_proj" in name,
        "co_no_residual": name.startswith("fusioner.tokens"),
        "qformer": "self_attn" in name,
        "x_v": False,
        "clip_vip": last and ".1." in name and "q_proj.bias" in name,
    }.get(variant, False)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("pig", {"inputs": "x_v+x_f+x_ip", "pseudo_query": "causal", "fusioner": "xpool", "alpha": None}),
        ("no_recon", {"alpha": 0.0}), ("x_v", {"inputs": "x_v"}), ("x_v_x_f", {"inputs": "x_v+x_f"}),
        ("x_f_x_ip", {"inputs": "x_f+x_ip"}), ("mlp", {"pseudo_query": "mlp"}), ("qformer", {"pseudo_query": "qformer"}),
        ("cross", {"fusioner": "cross", "residual": True}), ("co", {"fusioner": "co", "residual": True}),
        ("captions", {"pseudo_query": "captions"}), ("clip_vip", {"frame_cls": False, "pseudo_query": "none"}),
        ("clip4clip", {"backbone": "clip4clip", "fusioner": "none"}), ("pig_clip4clip", {"backbone": "clip4clip"}),
        ("single_tower", {"pseudo_query": "query", "fusioner": "xpool"}),
    ],
)  # fmt: skip
def test_rows_are_what_their_names_say(name: str, settings: dict[str, Any]) -> None:
    config = Config.variant(name)
    assert {key: getattr(config, key) for key in settings} == settings
    assert config.reading == Reading.released() and config.frames == 12 and config.top == 16


def test_baselines_are_clip() -> None:
    """CLIP4Clip's mean pooling of the plain towers; CLIP-ViP at its start, one frame and no further proxy, too."""
    towers = random_towers(2).eval()
    kept = {name: tensor.clone() for name, tensor in towers.state_dict().items()}
    frames, _ = MovingDigits("val").frames([0, 3])
    pixels = (frames.float() / 255 - 0.5) / 0.5
    ids, mask = towers.tokenize(["a red three", "there is a blue one in the cave"])
    model = PIG.of(towers, **VARIANTS["clip4clip"])
    unit = functools.partial(nn.functional.normalize, dim=-1)
    videos = model.encode_video(pixels)
    torch.testing.assert_close(videos.v, towers.encode_frames(frames).mean(1), atol=1e-5, rtol=0)
    torch.testing.assert_close(unit(videos.x_f), towers.encode_frames(frames), atol=1e-5, rtol=0)
    torch.testing.assert_close(unit(model.encode_text(ids, mask)), towers.encode_tokens(ids, mask), atol=1e-5, rtol=0)
    assert model.clip.logit_scale.item() == pytest.approx(4.6)
    alone = PIG.of(towers, **VARIANTS["clip_vip"], proxies=1, frames=1)
    torch.testing.assert_close(unit(alone.encode_video(pixels[:, :1]).v), towers.encode_frames(frames[:, 0]), atol=1e-5, rtol=0)
    assert all(tensor.equal(kept[name]) for name, tensor in towers.state_dict().items())


def test_a_model_on_pretrained_towers_starts_from_them() -> None:
    towers, made = random_towers(2).eval(), {"frames": 8, "top": 4}
    one, two, other = (
        PIG.of(towers, **made, logit_scale=None, generator=torch.Generator().manual_seed(seed)) for seed in (4, 4, 5)
    )
    assert all(a.equal(b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    apart = [name for (name, a), b in zip(one.named_parameters(), other.parameters(), strict=True) if not a.equal(b)]
    assert apart == ["clip.vision_model.embeddings.added_cls", "generator.mapper.weight", "generator.mapper.bias"]
    source, generator, text = towers.model, one.generator, towers.model.text_model
    table = text.embeddings.token_embedding.weight
    assert generator.bos.equal(table[1]) and generator.eos.equal(table[3])  # type: ignore[union-attr, operator]
    assert generator.positions.equal(text.embeddings.position_embedding.weight)  # type: ignore[union-attr, operator]
    assert generator.projection.weight.equal(source.text_projection.weight)  # type: ignore[union-attr]
    ours, theirs = generator.layers.state_dict(), text.encoder.layers.state_dict()  # type: ignore[union-attr]
    assert ours.keys() == theirs.keys() and all(ours[name].equal(theirs[name]) for name in ours)
    shared = {w.data_ptr() for w in one.clip.parameters()} & {w.data_ptr() for w in generator.parameters()}  # type: ignore[union-attr]
    assert not shared, "the generator is no text tower that it shares"
    embeddings = one.clip.vision_model.embeddings
    assert embeddings.cls_in_frames.equal(source.vision_model.embeddings.class_embedding)
    assert not embeddings.temporal_embedding.any() and one.clip.logit_scale.equal(source.logit_scale)
    with pytest.raises(TypeError, match="config: found settings beside it"):
        PIG.of(towers, Config(clip=source.config, frames=8, top=4), top=2)


@pytest.mark.parametrize(("eos", "bos", "starts", "ends"), [(2, 0, 39, 40), (7, 3, 3, 7)])
def test_the_generator_s_ends_are_the_tokens_that_texts_have(eos: int, bos: int, starts: int, ends: int) -> None:
    """Hub configurations from before transformers 4.31 say bos 0 and eos 2, where CLIP's are the last two."""
    text = {**SIZES["text_config"], "vocab_size": 41, "bos_token_id": bos, "eos_token_id": eos}
    clip = CLIPModel(CLIPConfig(**{**SIZES, "text_config": text}))
    model = PIG.of(clip, frames=3, top=4, reading="paper")
    table = clip.text_model.embeddings.token_embedding.weight
    assert model.generator.bos.equal(table[starts]) and model.generator.eos.equal(table[ends])  # type: ignore[union-attr, operator]


@torch.no_grad()
def test_online_it_is_a_two_tower(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a query meets: as many numbers a video as of the backbone alone, the same products, and neither generator
    nor fusioner, nor anything of the vision tower."""
    data, spent, stored = batch(), {}, {}
    for name in ("pig", "clip_vip"):
        model = variant(name)
        stored[name] = gallery = model.index(data["video"])
        for part in ("generator", "fusioner", "encode_video", "index", "_fuse"):
            monkeypatch.setattr(model, part, None)
        monkeypatch.setattr(model.clip.vision_model, "embeddings", None)
        with FlopCounterMode(display=False) as online:
            model.score(model.encode_text(data["text_input_ids"], data["text_input_mask"]), gallery)
        with FlopCounterMode(display=False) as match:
            model.score(features(4, 8, seed=1), gallery)
        spent[name] = online.get_total_flops(), match.get_total_flops()
    assert stored["pig"].shape == stored["clip_vip"].shape and stored["pig"].dtype == stored["clip_vip"].dtype
    assert spent["pig"] == spent["clip_vip"] and spent["pig"][1] == 2 * 4 * len(data["video"]) * match_cost("PIG(Ours)", 8)


# --- gradients and stages ---


def reached(model: PIG, loss: Tensor) -> set[str]:
    model.zero_grad()
    loss.backward()
    found = set()
    for name, weight in model.named_parameters():
        if weight.grad is not None and weight.grad.any():
            found.add("text" if name.startswith("clip.text") else "vision" if "vis" in name else name.split(".")[0])
    return found - {"clip"}  # the scale


def test_what_each_loss_reaches() -> None:
    model, data = small("paper"), batch()
    everything = {"vision", "text", "generator", "fusioner"}
    assert reached(model, model.loss(data)["total"]) == everything
    assert reached(model, model.loss(data)["contrastive"]) == everything, "the generator too, through the fusioner"
    assert reached(model, model.loss(data)["reconstruction"]) == {"vision", "generator"}
    assert reached(model, model.loss(data, reading="released")["reconstruction"]) == {"vision", "generator", "text"}
    alone = small("paper", alpha=0.0)
    found = alone.loss(data)
    assert found["reconstruction"] > 0 and not found["reconstruction"].requires_grad
    torch.testing.assert_close(found["total"], found["contrastive"])
    bare = small("paper", pseudo_query="captions", alpha=0.0).loss(data)
    assert bare["reconstruction"] == 0


@pytest.mark.parametrize("generator", ["causal", "mlp", "qformer"])
def test_stages(generator: str) -> None:
    """1: the generator alone, on reconstruction; 2: everything, on both."""
    model, data = small("paper", pseudo_query=generator, stage=1), batch()
    trained = {name.split(".")[0] for name, w in model.named_parameters() if w.requires_grad}
    assert trained == {"generator"} and all(w.requires_grad for w in model.generator.parameters())  # type: ignore[union-attr]
    found = model.loss(data)
    assert found["contrastive"] == 0 and found["total"] == 2 * found["reconstruction"]
    assert found["total"] == model.loss(data, reading="released")["total"]
    alone = small("paper", pseudo_query=generator, stage=1, alpha=0.0).loss(data)
    assert alone["total"] == found["total"] and alone["total"].requires_grad
    assert reached(model, found["total"]) == {"generator"}
    assert {id(w) for group in model.parameter_groups(0.3) for w in group["params"]} == {id(w) for w in model.generator.parameters()}  # type: ignore[union-attr]
    model.enter_stage(2)
    assert all(w.requires_grad for w in model.parameters()) and model.loss(data)["contrastive"] > 0
    names = {id(weight): name for name, weight in model.named_parameters()}
    decayed, spared = ({names[id(w)] for w in group["params"]} for group in model.parameter_groups(0.3))
    assert [group["weight_decay"] for group in model.parameter_groups(0.3)] == [0.3, 0.0]
    assert decayed | spared == set(names.values()) and not decayed & spared
    assert spared == {name for name in names.values() if name.endswith(("bias", "logit_scale"))}
    assert "clip.vision_model.post_layernorm.weight" in decayed
    with pytest.raises(ValueError, match="stage=3: expected between 1 and 2"):
        model.enter_stage(3)
    with pytest.raises(ValueError, match="stage=1, pseudo_query='none': there is none to train"):
        variant("clip_vip", stage=1)


def test_an_unused_bos_is_not_trained() -> None:
    for reading in ("released", "paper"):
        model = small(reading)
        assert [name for name, w in model.named_parameters() if not w.requires_grad] == ["generator.bos"] * (reading == "released")


def test_dropout_is_for_training_alone() -> None:
    model, data = small(fusioner_dropout=0.5), batch()
    once = [model.loss(data)["contrastive"] for _ in range(2)]
    assert once[0] == once[1]
    torch.manual_seed(1)
    moved = [model.train().loss(data)["contrastive"] for _ in range(2)]
    assert moved[0] != moved[1] and once[0] not in moved


def test_the_scale_stays_between_1_and_200_and_comes_back() -> None:
    model = small()
    for value, expected in ((9.0, 200), (-3.0, 1)):
        with torch.no_grad():
            model.clip.logit_scale.fill_(value)
        assert model.eval().scale.item() == pytest.approx(expected)
        model.train().loss(batch())["total"].backward()
        assert model.clip.logit_scale.item() == pytest.approx(math.log(expected))
        assert model.clip.logit_scale.grad is not None


# --- switches ---

# Of each switch: whether features of videos move, and which losses do where they do not.
MOVES = {
    "softmax": (True, ""), "contrastive": (False, "contrastive"), "reconstruction": (False, "reconstruction"),
    "bos": (True, ""), "pre_norm": (True, ""), "target": (False, ""),
}  # fmt: skip


@pytest.mark.parametrize("switch", Reading.VALUES)
@pytest.mark.parametrize("start", ["paper", "released"])
def test_a_switch_changes_what_it_says_and_nothing_else(switch: str, start: str) -> None:
    reading, data = Reading.of(start), batch()
    one, two = (small(read, top=7, alpha=1.5, fusioner_dropout=0.0) for read in (reading, reading.flipped(switch)))
    a, b = (m.encode_video(data["video"]) for m in (one, two))
    moved, loss = MOVES[switch]
    assert a.x_v.equal(b.x_v) and a.x_p.equal(b.x_p) and a.v.equal(b.v) == (not moved)  # type: ignore[union-attr, arg-type]
    assert a.informativeness.equal(b.informativeness) == (switch != "softmax")
    x, y = one.loss(data), two.loss(data)
    same = {name: bool(x[name] == y[name]) for name in ("contrastive", "reconstruction")}  # type: ignore[literal-required]
    if not moved:
        assert same == {name: name != loss for name in same}
    pairs = []
    for found, m in ((x, one), (y, two)):
        weights = m.clip.text_projection.weight, m.clip.visual_projection.weight
        pairs.append(torch.cat([grad.flatten() for grad in torch.autograd.grad(found["total"], weights)]))
    assert not pairs[0].equal(pairs[1])


def test_doubling_both_losses_is_one_with_alpha_1() -> None:
    """Released: twice [contrast + 1 · reconstruction] in the paper's terms, not α = 2."""
    model, data = small(alpha=None), batch()
    released, paper = (model.loss(data, reading=name) for name in ("released", "paper"))
    torch.testing.assert_close(released["total"], 2 * (paper["contrastive"] + paper["reconstruction"]))
    torch.testing.assert_close(paper["total"], paper["contrastive"] + 2 * paper["reconstruction"])
    half = small(alpha=0.5)
    for reading in ("released", "paper"):  # what is set counts in the model's own terms, and is the same in others'
        found = half.loss(data, reading=reading)
        alpha = {"released": 0.5, "paper": 1.0}[reading]
        torch.testing.assert_close(found["total"], found["contrastive"] + alpha * found["reconstruction"])
    assert Config(reading="paper").weight() == 2 and Config().weight() == 1 and Config(alpha=0.3).weight() == 0.3  # type: ignore[arg-type]


def test_readings_by_name_and_back() -> None:
    assert Reading.of("paper") == Reading.paper() == Reading()
    assert Reading.paper().flipped(*Reading.VALUES) == Reading.released()
    letter = Reading.letter()
    assert (letter.scale, letter.scored) == ("patches", "projected")
    assert replace(letter, scale="head", scored="hidden") == Reading.paper()
    with pytest.raises(ValueError, match="reading.scale='n'"):
        Reading(scale="n")
    with pytest.raises(ValueError, match="reading.softmax='all'"):
        Reading(softmax="all")
    with pytest.raises(ValueError, match="reading='letter'"):
        small().loss(batch(), reading="letter")


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


@pytest.mark.parametrize("name", ["pig", "qformer", "cross", "co", "pig_clip4clip"])
@pytest.mark.parametrize("device", DEVICES)
def test_autocast(device: str, name: str) -> None:
    model = variant(name, dtype=torch.float32, fusioner_dropout=0.0).to(device).train()
    data = {k: v.to(device) for k, v in batch(dtype=torch.float32).items()}  # type: ignore[attr-defined]
    plain = model.loss(data)["total"].item()  # type: ignore[arg-type]
    with torch.autocast(device, torch.bfloat16):
        loss = model(data)["total"]
    loss.backward()
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(plain, rel=0.3)
    assert all(w.grad is None or w.grad.dtype == torch.float32 for w in model.parameters())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="only an accelerator can be waited for")
@pytest.mark.parametrize("name", VARIANTS)
def test_a_training_step_never_waits_for_the_device(name: str) -> None:
    model = variant(name, dtype=torch.float32).cuda().train()
    data = {k: v.cuda() for k, v in batch(dtype=torch.float32).items()}  # type: ignore[attr-defined]
    model.loss(data)["total"].backward()  # type: ignore[arg-type]
    torch.cuda.set_sync_debug_mode("error")
    try:
        model.loss(data)["total"].backward()  # type: ignore[arg-type]
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("name", ["pig", "qformer", "pig_clip4clip"])
def test_a_step_compiles_in_one_graph(name: str) -> None:
    model, data = variant(name, fusioner_dropout=0.0).train(), batch()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(data)["total"], model.loss(data)["total"])


def test_masks_of_any_kind_and_views() -> None:
    model = small()
    data: dict[str, Any] = dict(batch())
    expected = model.loss(data)["total"]  # type: ignore[arg-type]
    for kind in (torch.bool, torch.int32, torch.float32):
        again = data | {"text_input_mask": data["text_input_mask"].to(kind), "text_input_ids": data["text_input_ids"].int()}
        again["video"] = data["video"].transpose(0, 1).contiguous().transpose(0, 1)
        assert model.loss(again)["total"] == expected  # type: ignore[arg-type]
    ids, mask = data["text_input_ids"], data["text_input_mask"]
    longer = nn.functional.pad(ids, (0, 3), value=5), nn.functional.pad(mask, (0, 3))
    torch.testing.assert_close(model.encode_text(*longer), model.encode_text(ids, mask))


def test_videos_do_not_depend_on_their_batch() -> None:
    model, video = small(), batch()["video"]
    together = model.encode_video(video)
    for row in range(3):
        torch.testing.assert_close(model.encode_video(video[[row]]).v[0], together.v[row])


def test_recomputed_layers_give_the_same_gradients() -> None:
    """Gradient checkpointing, by transformers' own switch."""
    data, found = batch(), []
    for saving in (False, True):
        model = small(fusioner_dropout=0.0).train()
        if saving:
            model.clip.activation_checkpointing_enable()
        model.loss(data)["total"].backward()
        found.append([w.grad for w in model.parameters() if w.grad is not None])
    assert len(found[0]) == len(found[1]) > 100
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("stage", [1, 2])
def test_it_learns_a_batch(stage: int) -> None:
    model, data = small("paper", dtype=torch.float32, stage=stage, fusioner_dropout=0.0), [batch(dtype=torch.float32)]
    before = model.loss(data[0])["total"].item()
    kept = {name: w.detach().clone() for name, w in model.named_parameters()}
    config = training.Config(steps=15, batch_size=1, learning_rate=0.01, weight_decay=0.2, clip=1.0, schedule="pig")
    training.fit(
        model, data, lambda model, found: model(found)["total"], config, collate=lambda found: found[0], quiet=True,
    )  # fmt: skip
    assert model.loss(data[0])["total"].item() < 0.7 * before
    moved = {name for name, w in model.named_parameters() if not w.equal(kept[name])}
    assert moved == {name for name, w in model.named_parameters() if w.requires_grad}


@pytest.mark.parametrize("name", ["pig", "cross_no_residual", "qformer", "pig_clip4clip"])
def test_saved_and_loaded(name: str, tmp_path: Path) -> None:
    model, data = variant(name, dtype=torch.float32, reading=Reading.paper()), batch(dtype=torch.float32)
    model.save_pretrained(tmp_path)
    assert sorted(p.name for p in tmp_path.glob("*.bin")) == []
    again = PIG.from_pretrained(tmp_path)
    assert again.config == model.config
    assert again.loss(data)["total"].equal(model.loss(data)["total"])


# --- bad input ---


def bad(change: Callable[[dict[str, Any]], object], settings: dict[str, Any] | None = None) -> Callable[[], object]:
    data: dict[str, Any] = {name: tensor.clone() for name, tensor in batch().items()}  # type: ignore[attr-defined]
    change(data)
    return lambda: small(**settings or {}).loss(data)  # type: ignore[arg-type]


def put(name: str, place: Any, value: Any) -> Callable[[], object]:
    return bad(lambda data: data[name].__setitem__(place, value))


def swap(name: str, change: Callable[[Tensor], Tensor]) -> Callable[[], object]:
    return bad(lambda data: data.__setitem__(name, change(data[name])))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (put("text_input_mask", 1, 0), r"text_input_ids\[1\]: found no token, expected at least \[bos\] and \[eos\]"),
        (put("text_input_ids", batch()["text_input_ids"] == END, 5), r"text_input_ids\[0\], .*found no end token"),
        (put("text_input_mask", (1, 0), 0), r"text_input_ids\[1\]: found the first token masked"),
        (put("text_input_ids", (0, 1), 31), r"text_input_ids: found ids from .* to 31, expected 0 to 30"),
        (put("video", (1, 0), 0.0), r"video\[1, 0\]: found a frame that is all zeros"),
        (put("video", (1, 0, 2, 3, 4), math.nan), r"video\[1, 0\]: found NaN or infinity"),
        (swap("video", lambda x: x[..., :4, :]), r"video: found frames of 4×8 pixels, expected 8×8"),
        (swap("video", lambda x: x[:, 0]), r"video: found shape \(3, 3, 8, 8\), expected \(B, F, C, H, W\)"),
        (swap("video", lambda x: x.byte()), r"video: found torch.uint8, expected floating-point"),
        (swap("video", lambda x: x.repeat(1, 3, 1, 1, 1)), r"frames=15, top=3: found 22 tokens for the generator"),
        (swap("text_input_ids", lambda x: x[:2]), r"text_input_ids: found shape \(2, 7\), expected \(B=3, L\)"),
        (swap("text_input_ids", lambda x: x.double()), r"text_input_ids: found torch.float64, expected integers"),
        (swap("text_input_mask", lambda x: x[:, :5]), r"the mask of text_input_ids: found shape \(3, 5\)"),
        (swap("text_input_ids", lambda x: x.repeat(1, 3)), r"text_input_ids: found 21 tokens in a text, expected at most 17"),
        (bad(lambda data: data.pop("video")), r"batch: found no video, expected video, text_input_ids, text_input_mask"),
        (bad(lambda data: data.pop("caption_input_ids"), {"pseudo_query": "captions"}), r"batch: found no caption_input_ids"),
        (bad(lambda data: data.update(video=data["video"][:, :1]), {"top": 5}), r"top=5: found 1 frames of 4 patches"),
    ],
)  # fmt: skip
def test_bad_input_is_named(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("video", [[1, 2], None, "clip.mp4"])
def test_what_is_no_tensor_is_named(video: Any) -> None:
    with pytest.raises(TypeError, match=f"video: found {type(video).__name__}, expected a tensor"):
        small().encode_video(video)
    with pytest.raises(TypeError, match=f"ids: found {type(video).__name__}, expected a tensor"):
        small().encode_text(video, torch.ones(1, 3))


def test_advice_is_for_this_model() -> None:
    with pytest.raises(ValueError, match="Decode it again, or leave it out"):
        small().encode_video(torch.zeros(1, 3, 3, 8, 8))


@pytest.mark.parametrize("reading", ["released", "paper"])
def test_a_batch_of_one_video_has_no_contrast(reading: str) -> None:
    """Its own caption is the only one: the contrast is 0 and moves nothing, reconstruction still trains."""
    model = small(reading)
    data = {name: value[:1] for name, value in batch().items()}
    found = model.loss(data)  # type: ignore[arg-type]
    assert found["contrastive"] == 0 < found["reconstruction"]
    assert found["total"] == model.config.weight() * found["reconstruction"]
    found["total"].backward()
    gradients = [w.grad for w in model.parameters() if w.grad is not None]
    assert all(g.isfinite().all() for g in gradients) and any(g.any() for g in gradients)


def test_the_other_backbone_has_no_trained_frame_count() -> None:
    """CLIP4Clip has no temporal embedding: `frames` is not read, and the tokens of each video count."""
    model = small(backbone="clip4clip", frames=100)
    assert model.encode_video(features(2, 4, 3, 8, 8, seed=3)).v.shape == (2, 8)
    with pytest.raises(ValueError, match="frames=20, top=3: found 25 tokens"):
        model.encode_video(features(1, 20, 3, 8, 8, seed=3))


def test_long_videos_are_for_generators_that_have_room() -> None:
    assert small(pseudo_query="mlp").encode_video(features(1, 20, 3, 8, 8, seed=3)).v.shape == (1, 8)
    with pytest.raises(ValueError, match="frames=20, top=3: found 27 tokens for the generator, expected at most 17"):
        small().encode_video(features(1, 20, 3, 8, 8, seed=3))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"backbone": "clip"}, "backbone='clip': expected one of .*'clip4clip'"), ({"inputs": "x_f+x_v"}, "inputs='x_f.x_v'"),
        ({"pseudo_query": "bert"}, "pseudo_query='bert'"), ({"fusioner": "self"}, "fusioner='self'"), ({"top": 0}, "top=0"),
        ({"score_heads": "sum"}, "score_heads='sum'"), ({"frames": 0}, "frames=0"), ({"proxies": 0}, "proxies=0"),
        ({"fusioner_heads": 3}, "fusioner_heads=3: expected a divisor of D=8"), ({"stage": 0}, "stage=0"),
        ({"fusioner_dropout": 1.5}, "fusioner_dropout=1.5"), ({"temperature": 0}, "temperature=0"),
        ({"alpha": -1.0}, "alpha=-1.0"), ({"logit_scale": math.inf}, "logit_scale=inf"), ({"top": 21}, "top=21: found 5 frames"),
        ({"pseudo_query": "none"}, "pseudo_query='none', fusioner='xpool'"),
        ({"pseudo_query": "query", "fusioner": "none"}, "pseudo_query='query', fusioner='none': expected a fusioner"),
        ({"frame_cls": False}, "frame_cls=False"),
        ({"top": 10}, "frames=5, top=10: found 19 tokens for the generator, expected at most 17"),
        ({"clip": {**SIZES, "text_config": {**SIZES["text_config"], "bos_token_id": 31}}}, "bos_token_id=31"),
    ],
)  # fmt: skip
def test_bad_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Config(**{**FITS, **settings})


def test_settings_of_wrong_kind() -> None:
    with pytest.raises(TypeError, match="reading=3: expected a Reading"):
        Config(reading=3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="clip .str.: expected a transformers.CLIPConfig"):
        Config(clip="ViT-B/32")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="name='setup_5': expected one of"):
        Config.variant("setup_5")
    config = Config(**{**FITS, "clip": CLIPConfig(**SIZES)})
    assert isinstance(config.clip, dict) and Config(**config.__dict__) == config
    assert config.sizes.to_dict() == CLIPConfig(**SIZES).to_dict()
