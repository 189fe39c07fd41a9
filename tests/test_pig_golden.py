"""PIG against the authors' released code: whole model, CLIP-ViP, X-Pool, losses in both readings, training."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_pig import golden, golden_model
from torch import Tensor
from transformers import CLIPConfig, CLIPModel

from vtrlib.losses import info_nce
from vtrlib.pig import PIG, Reading, XPool, informativeness, interpolated, select
from vtrlib.pig.vip import lower, wrap
from vtrlib.released import convert, from_state_dict, load, renamed
from vtrlib.released.pig import names
from vtrlib.training import TransformersAdamW, schedules

FOUND = golden()
MODEL = FOUND["pig"]
close = functools.partial(torch.testing.assert_close, atol=1e-5, rtol=0)


@functools.cache
def model() -> PIG:
    return golden_model(MODEL)


@functools.cache
@torch.no_grad()
def videos(whole: bool = True) -> Any:
    return model().encode_video(MODEL["inputs"]["video"], whole=whole)


# --- one pass ---


@pytest.mark.parametrize("whole", [True, False])
def test_features(whole: bool) -> None:
    found, its = videos(whole), MODEL["its"]
    close(found.x_v, MODEL["vision"]["x_v"])
    close(found.x_f, MODEL["vision"]["x_f"])
    close(found.informativeness, its["S"])
    assert found.selected.equal(its["code_topk_flat"])
    assert found.selected.equal(its["topk_frame"] * 16 + its["topk_patch"])
    close(found.x_ip, its["x_ip"])
    close(found.pseudo_query, MODEL["generator"]["t_p"])
    close(found.v, MODEL["fusioner"]["v"])
    if whole:
        everything = MODEL["vision"]["video_all_feats"]
        close(found.x_p, everything[:, 4:].unflatten(1, (3, 17))[:, :, 1:])
        assert found.x_p.shape == (4, 3, 16, 32)


@torch.no_grad()
def test_text() -> None:
    inputs = MODEL["inputs"]
    close(model().encode_text(inputs["text_input_ids"], inputs["text_input_mask"]), MODEL["text"]["t"])


@torch.no_grad()
def test_its_as_the_paper_has_it() -> None:
    """Both readings of Eq. 6 select other patches, though the weights are the same."""
    read = golden_model(MODEL)
    read.config = replace(read.config, reading=read.config.reading.flipped("softmax"))
    found = read.encode_video(MODEL["inputs"]["video"])
    close(found.informativeness, MODEL["its"]["S_eq6_patch_only"])
    assert found.selected.equal(MODEL["its"]["eq6_topk_flat"])
    assert not found.selected.equal(MODEL["its"]["code_topk_flat"])


@torch.no_grad()
def test_the_last_layer_s_proxy_attention() -> None:
    """S is read off it; its other rows belong to the other proxies."""
    x, layout = lower(model().clip, MODEL["inputs"]["video"])
    layer = model().clip.vision_model.encoder.layers[-1]
    h, (expected,) = layer.layer_norm1(x), MODEL["vision"]["proxy_attention"]
    q, k = layer.self_attn.q_proj(h), layer.self_attn.k_proj(h)
    for proxy in range(4):
        patches = expected[:, :, proxy, 4:].unflatten(-1, (3, 17))[..., 1:]
        for pool, wanted in (("max", patches.amax(1)), ("mean", patches.mean(1))):
            close(informativeness(q[:, [proxy]], k, layout, 4, over="keys", pool=pool), wanted)
    close(layer(x, None, layout=layout), MODEL["vision"]["last_hidden_state"])


def test_the_mask() -> None:
    layout = model().clip.vision_model.embeddings.layout(3)
    assert layout.tokens == 55 and layout.seen(torch.arange(55)).equal(MODEL["vision"]["attention_mask"])


@torch.no_grad()
def test_generator_and_fusioner_inside() -> None:
    expected, fusioner = MODEL["fusioner"], model().fusioner
    generator, found = model().generator, MODEL["generator"]
    assert isinstance(fusioner, XPool) and generator is not None
    close(generator(found["tokens"]), found["t_p"])
    close(generator(found["tokens"], every=True), found["t_p"])
    close(torch.cat([videos().x_v, videos().x_f, videos().x_ip], 1), found["tokens"])
    sequence = torch.cat([generator.mapper(found["tokens"]), generator.eos.expand(4, 1, -1)], 1)  # type: ignore[operator, union-attr]
    close(sequence + generator.positions[:13], found["input_sequence"])  # type: ignore[index]
    close(fusioner.norm_in(found["t_p"]), expected["q_ln"])
    close(fusioner.norm_in(expected["kv"]), expected["kv_ln"])
    close(fusioner(found["t_p"], expected["kv"]), expected["v"])
    pairs = fusioner.all_pairs(found["t_p"], expected["kv"])
    close(pairs, expected["v_all_pairs"])
    close(pairs.diagonal().mT, expected["v"])


# --- losses and gradients ---


def test_losses_in_both_readings() -> None:
    expected, inputs = MODEL["loss"], MODEL["inputs"]
    assert model().scale.item() == pytest.approx(expected["logit_scale_exp"], rel=1e-6)
    with torch.no_grad():
        text = model().encode_text(inputs["text_input_ids"], inputs["text_input_mask"])
        close(model().score(text, videos().v), expected["sim_t2v"])
    wanted = {
        "released": ("contrastive_code", "generation_code", "total_code"),
        "paper": ("contrastive_paper", "recon_paper", "total_paper_alpha2"),
    }
    for reading, keys in wanted.items():
        found = model().loss(inputs, reading=reading)
        assert list(found) == ["total", "contrastive", "reconstruction"]
        for name, key in zip(("contrastive", "reconstruction", "total"), keys, strict=True):
            assert found[name].item() == pytest.approx(expected[key], abs=1e-5), key  # type: ignore[literal-required]
    own = model().loss(inputs)
    assert own["total"] == model().loss(inputs, reading="released")["total"]
    for direction, key in (("rows", "t2v_ce"), ("columns", "v2t_ce")):
        loss = info_nce(expected["sim_t2v"], scale=expected["logit_scale_exp"], directions=direction)
        assert loss.item() == pytest.approx(expected[key], abs=1e-5)


@pytest.mark.parametrize(
    ("key", "reading", "stage"),
    [
        ("grad_norms_code", "released", 2), ("grad_norms_paper", Reading.paper().flipped("target"), 2),
        ("grad_norms_stage1", "released", 1),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_gradients(key: str, reading: Any, stage: int) -> None:
    read = golden_model(MODEL).enter_stage(stage)
    found = read.loss(MODEL["inputs"], reading=reading)
    if stage == 1:
        assert found["total"] == found["reconstruction"] and found["contrastive"] == 0
    found["total"].backward()
    grads = renamed({name: w.grad for name, w in read.named_parameters() if w.grad is not None}, names(read))
    expected = {name: norm for name, norm in MODEL[key].items() if norm is not None}
    assert grads.keys() == expected.keys()
    assert set(MODEL[key]) - set(expected) == {"generator.bos_tokens"}
    for name, norm in expected.items():
        assert grads[name].norm().item() == pytest.approx(norm, rel=1e-4, abs=2e-6), name


def test_a_fixed_target_keeps_the_text_tower_from_reconstruction() -> None:
    """Released, all of the text tower moves towards the pseudo-query; the fusioner never does."""
    for reading, reached in (("released", True), ("paper", False)):
        read = golden_model(MODEL)
        read.loss(MODEL["inputs"], reading=reading)["reconstruction"].backward()
        moved = {name.split(".")[0] if "text" not in name else "text" for name, w in read.named_parameters() if w.grad is not None}
        assert moved == {"clip", "generator"} | ({"text"} if reached else set())


# --- CLIP-ViP and X-Pool alone ---


@functools.cache
def clip_vip() -> CLIPModel:
    found = FOUND["clip_vip"]
    sizes = found["config"]
    tower = {"hidden_size": sizes["vision_width"], "intermediate_size": 4 * sizes["vision_width"]}
    clip = CLIPModel(CLIPConfig(
        vision_config={
            **tower, "num_hidden_layers": sizes["vision_layers"], "num_attention_heads": sizes["heads"],
            "patch_size": sizes["patch"], "image_size": sizes["image"],
        },
        text_config={"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "vocab_size": 5},
        projection_dim=sizes["embed"],
    ))  # fmt: skip
    wrap(clip, sizes["temporal_size"], sizes["added_cls"] + 1, frame_cls=False)
    state = {name: tensor for name, tensor in found["state_dict"].items() if "position_ids" not in name}
    missing, unexpected = clip.load_state_dict(state, strict=False)
    assert not unexpected and all("text" in name for name in missing)
    return clip.eval()


@pytest.mark.parametrize("case", ["T3", "T5_interpolated"])
@torch.no_grad()
def test_clip_vip(case: str) -> None:
    clip, expected = clip_vip(), FOUND["clip_vip"][case]
    vision, video = clip.vision_model, expected["video"]
    x, layout = lower(clip, video)
    last = vision.encoder.layers[-1](x, None, layout=layout)
    close(last, expected["last_hidden_state"])
    close(vision.post_layernorm(last[:, 0]), expected["pooled"])
    feature = clip.visual_projection(vision.post_layernorm(last[:, 0]))
    close(torch.nn.functional.normalize(feature, dim=-1), expected["feature_normed"])
    assert layout.seen(torch.arange(layout.tokens)).equal(expected["attention_mask"])
    assert [layout.proxies, layout.frames, layout.patches] == list(expected["sizes"])
    if "embeddings" in expected:
        close(vision.embeddings(video), expected["embeddings"])
    close(interpolated(vision.embeddings.temporal_embedding, video.shape[1]), expected["time_embed_used"])


@pytest.mark.parametrize("heads", [1, 4])
def test_x_pool(heads: int) -> None:
    found = FOUND["xpool"][f"heads{heads}"]
    fusioner = XPool(32, heads)
    theirs = {name: names_of_x_pool(name) for name, _ in fusioner.named_parameters()}
    fusioner.load_state_dict({ours: found["state_dict"][name] for ours, name in theirs.items()})
    fusioner.eval()
    text, video = (found[name].clone().requires_grad_() for name in ("text", "video"))
    pairs = fusioner.all_pairs(text, video)
    close(pairs, found["out"])
    unit = functools.partial(torch.nn.functional.normalize, dim=-1)
    similarity = torch.einsum("qd,vqd->qv", unit(text), unit(pairs))
    close(similarity, found["sims"])
    loss = info_nce(similarity, scale=torch.tensor(4.6052).exp())
    assert loss.item() == pytest.approx(found["loss"], rel=1e-5)
    loss.backward()
    grads = {theirs[name]: w.grad for name, w in fusioner.named_parameters()}
    for name, expected in {**found["grads"], "text": found["grad_text"], "video": found["grad_video"]}.items():
        grad = {"text": text.grad, "video": video.grad}.get(name, grads.get(name))
        torch.testing.assert_close(grad, expected, atol=1e-4 * max(1.0, expected.abs().max().item()), rtol=1e-4)


def names_of_x_pool(name: str) -> str:
    full = names(model())[f"fusioner.{name}"]
    assert isinstance(full, str)
    return full.removeprefix("fusioner.")


# --- training ---


def test_rates_and_updates() -> None:
    lr = FOUND["lr"]
    for step, rate in zip(lr["steps"][1:], lr["lr"][1:], strict=True):
        assert schedules.pig(step - 1, lr["total"], lr["warmup_ratio"], lr["base"]) == pytest.approx(rate, rel=1e-9)
    plan = FOUND["adamw"]
    settings = {name: plan[name] for name in ("lr", "betas", "eps", "weight_decay")}
    for kind, expected in ((TransformersAdamW, plan["params"]), (torch.optim.AdamW, [plan["torch_adamw_final"]])):
        weight = plan["p0"].clone().requires_grad_()
        updates, seen = kind([weight], **settings), []
        for grad in plan["grads"]:
            weight.grad = grad.clone()
            updates.step()
            seen.append(weight.detach().clone())
        torch.testing.assert_close(torch.stack(seen[-len(expected) :]), torch.stack(list(expected)), atol=1e-6, rtol=0)


# --- names and configuration ---


def test_released_names_both_ways(tmp_path: Path) -> None:
    again = renamed({name: w.detach() for name, w in model().named_parameters()}, names(model()))
    state = {name: tensor for name, tensor in MODEL["state_dict"].items() if not name.endswith("position_ids")}
    assert again.keys() == state.keys() and not model().training
    assert all(again[name].equal(tensor) for name, tensor in state.items())
    torch.save({"config": MODEL["config"], "state_dict": MODEL["state_dict"]}, tmp_path / "model_best.pt")
    convert(tmp_path / "model_best.pt", tmp_path / "ours")
    loaded = load(tmp_path / "ours", "pig")
    assert all(a.equal(b) for a, b in zip(loaded.parameters(), model().parameters(), strict=True))


def changed(change: Callable[[dict[str, Any], dict[str, Any]], object]) -> Callable[[], object]:
    state, config = dict(MODEL["state_dict"]), {**MODEL["config"]}
    change(state, config)
    return lambda: from_state_dict("pig", state, config)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (changed(lambda s, c: s.pop("fusioner.linear_proj.bias")), r"missing: fusioner.linear_proj.bias\. "),
        (changed(lambda s, c: s.update({"generator.word": torch.ones(1)})), r"not expected: generator.word\."),
        (changed(lambda s, c: c.update(frames=4)), r"of another shape: .*temporal_embedding \(1, 3, 64\), not \(1, 4, 64\)"),
        (changed(lambda s, c: c.pop("topk")), r"config: found no topk, expected the keys"),
        (changed(lambda s, c: c.update(vision_heads=5)), r"vision_heads=5: expected a divisor of vision_width=64"),
        (changed(lambda s, c: c.update(raw={"generator_config": {"video_mapper_type": "MLP"}})),
         r"raw.generator_config.video_mapper_type='MLP': expected 'Linear'"),
        (changed(lambda s, c: c.update(raw={"generation_loss_config": {"norm_before_loss": 0}})),
         r"raw.generation_loss_config.norm_before_loss=0: expected 1"),
        (changed(lambda s, c: c.update(raw={"generation_loss_config": {"generation_loss_name": "ce"}})),
         r"generation_loss_name='ce': expected 'l2'"),
        (changed(lambda s, c: c.update(raw={"loss_config": {"fusioner_selected_video_feats_loss": 1}})),
         r"raw.loss_config.fusioner_selected_video_feats_loss=1: expected 0"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


@torch.no_grad()
def test_settings_are_read() -> None:
    """[bos], head pooling, heads and weights follow the configuration; raw may be missing."""
    config = {key: value for key, value in MODEL["config"].items() if key != "raw"}
    plain = from_state_dict("pig", MODEL["state_dict"], config)
    close(plain.encode_video(MODEL["inputs"]["video"]).v, MODEL["fusioner"]["v"])  # type: ignore[operator, union-attr]
    changes = {
        "use_bos": 1, "fusioner_heads": 4, "generation_loss_scale": 0.5,
        "raw": {"fusioner_config": {"select_attention_scores_type": "mean", "attn_temp": 2}},
    }  # fmt: skip
    made = from_state_dict("pig", MODEL["state_dict"], {**config, **changes})
    assert isinstance(made, PIG) and made.config.reading == Reading.released().flipped("bos")
    assert (made.config.score_heads, made.config.fusioner_heads, made.config.alpha) == ("mean", 4, 0.5)
    assert made.config.temperature == 2
    found: Tensor = made.encode_video(MODEL["inputs"]["video"]).informativeness
    (expected,) = MODEL["vision"]["proxy_attention"]
    close(found, expected[:, :, 0, 4:].unflatten(-1, (3, 17))[..., 1:].mean(1))
    assert select(found, 5).equal(made.encode_video(MODEL["inputs"]["video"]).selected)
