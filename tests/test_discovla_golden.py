"""DiscoVLA as released, and CLIP4Clip's mean pooling: features to training, against the authors' code.

Two models: one head of width 64, two of width 64 each. Tolerances: 1e-5 for features, 1e-5 of a loss, 1e-4 of the
largest gradient of a tensor.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_discovla import golden, golden_model
from torch import Tensor

from vtrlib.clip.lora import layers
from vtrlib.discovla import DiscoVLA, Frames, IVFusionAttention, image_similarity, objective
from vtrlib.losses import info_nce, similarity_kl
from vtrlib.released import convert, from_state_dict, load, renamed
from vtrlib.released.discovla import joined, names
from vtrlib.similarity import cosine
from vtrlib.training import BertAdam, TransformersAdamW, schedules

FOUND = golden()
both = pytest.mark.parametrize("which", FOUND)
TERMS = {"total": "loss_total", "video": "loss_vid", "image": "loss_img", "distill": "loss_kl"}


def outputs(model: DiscoVLA, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    videos = model.encode_video(inputs["video"], inputs["video_mask"])
    return {
        "caption_feat": model.encode_text(inputs["text_ids"], inputs["text_mask"]),
        "video_feat": videos.video, "frame_feat": videos.frames,
        "pseudo_feat": model.encode_pseudo_captions(inputs["f_text_ids"], inputs["f_text_mask"]),
    }  # fmt: skip


def close(found: Tensor, expected: Tensor, atol: float = 1e-5) -> None:
    torch.testing.assert_close(found.detach(), expected, atol=atol, rtol=0, check_dtype=False)


def check_losses(losses: Any, expected: dict[str, Tensor]) -> None:
    for ours, theirs in TERMS.items():
        assert losses[ours].item() == pytest.approx(expected[theirs].item(), rel=1e-5), ours


def gradients(loss: Tensor, model: DiscoVLA) -> dict[str, Tensor]:
    """By their released names."""
    weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    found = torch.autograd.grad(loss, list(weights.values()))
    return joined(renamed(dict(zip(weights, found, strict=True)), names(model)))


def check_gradients(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, grad in expected.items():
        assert (found[name] - grad).abs().max().item() < 1e-4 * grad.abs().max().item(), name


def by_released_name(model: DiscoVLA) -> dict[str, Tensor]:
    return joined(renamed({k: v.detach() for k, v in model.named_parameters()}, names(model)))


def read_as(model: DiscoVLA, *flipped: str) -> DiscoVLA:
    """Switches that no weight depends on at their other value."""
    model.config = replace(model.config, reading=model.config.reading.flipped(*flipped))
    return model


# --- one pass ---


@both
@torch.no_grad()
def test_features_and_losses(which: str) -> None:
    found = FOUND[which]
    model, expected = golden_model(found), found["outputs"]
    for name, tensor in outputs(model, found["inputs"]).items():
        close(tensor, expected[name])
    check_losses(model.loss(found["inputs"]), expected)


@functools.cache
@torch.no_grad()
def recorded(which: str) -> dict[str, Tensor]:
    """Outputs of every layer and of its attention, and its summary tokens, by the fixture's names."""
    found, kept = FOUND[which], {}
    model, inputs = golden_model(found), found["inputs"]
    now = "vision"

    def keep(name: str, layer: Any) -> list[Any]:
        def attention(module: Any, args: Any, kwargs: Any, out: Any) -> None:
            kept[f"{now}.{name}.attn_out"] = out[0]
            frames: Frames | None = kwargs["frames"]
            if isinstance(module, IVFusionAttention) and frames is not None:
                q, k, v = module.project(kwargs["hidden_states"])
                image = module.mix(q, k, v, kwargs["attention_mask"])
                fused = module.fuse(image, q, k, v, frames)
                kept.update(zip((f"{now}.{name}.{c}" for c in ("c1", "c2", "c_hat")), fused, strict=True))

        def hidden(module: Any, args: Any, out: Any) -> None:
            kept[f"{now}.{name}.hidden"] = out

        return [
            layer.self_attn.register_forward_hook(attention, with_kwargs=True), layer.register_forward_hook(hidden),
        ]  # fmt: skip

    for stack in layers(model.clip):
        for number, layer in enumerate(stack):
            keep(f"layer{number}", layer)
    model.clip.vision_model.pre_layrnorm.register_forward_hook(
        lambda module, args, out: kept.update({"vision.embed_ln_pre": out})
    )
    model.encode_video(inputs["video"], inputs["video_mask"])
    now = "caption"
    model.encode_text(inputs["text_ids"], inputs["text_mask"])
    now = "pseudo"
    model.encode_pseudo_captions(inputs["f_text_ids"], inputs["f_text_mask"])
    return kept


@pytest.mark.parametrize(("which", "name"), [(w, n) for w in FOUND for n in FOUND[w]["outputs"]["hidden"]])
def test_every_layer(which: str, name: str) -> None:
    """States grow to 10 and more on the way."""
    expected = FOUND[which]["outputs"]["hidden"][name]
    close(recorded(which)[name], expected, 1e-5 * max(1.0, expected.abs().max().item()))


@pytest.mark.parametrize(("which", "layer"), [(w, n) for w in FOUND for n in FOUND[w]["outputs"]["ivfusion"]])
def test_summary_tokens(which: str, layer: str) -> None:
    for name, expected in FOUND[which]["outputs"]["ivfusion"][layer].items():
        close(recorded(which)[f"{layer}.{name}"], expected)


@both
@torch.no_grad()
def test_scores(which: str) -> None:
    found = FOUND[which]
    model, expected = golden_model(found), found["outputs"]["eval"]
    inputs = found["inputs"]
    text = model.encode_text(inputs["text_ids"], inputs["text_mask"])
    videos = model.encode_video(inputs["video"], inputs["video_mask"])
    close(text, expected["caption_feat"])
    close(videos.video, expected["video_feat"])
    close(model.scale * model.score(text, videos.video), expected["logits"], 1e-4)


@both
@torch.no_grad()
def test_gelu_in_the_adapter(which: str) -> None:
    found = FOUND[which]
    expected = found["outputs"]["variant_adapter_gelu"]
    model = golden_model(found, adapter_act="gelu")
    for name, tensor in outputs(model, found["inputs"]).items():
        close(tensor, expected[name])
    check_losses(model.loss(found["inputs"]), expected)


@both
@torch.no_grad()
def test_image_level_layers_alone(which: str) -> None:
    found = FOUND[which]
    expected = found["outputs"]["variant_image_level"]
    model = golden_model(found, H_V=0, H_L=0)
    for name, tensor in outputs(model, found["inputs"]).items():
        close(tensor, expected[name])
    check_losses(model.loss(found["inputs"]), expected)


@both
@torch.no_grad()
def test_what_stands_in_a_masked_frame_leaks_as_released(which: str) -> None:
    found = FOUND[which]
    leak, video = found["outputs"]["padded_content_leak"], found["inputs"]["video"].clone()
    video[2, 3] = leak["frame"]
    feature = golden_model(found).encode_video(video, found["inputs"]["video_mask"]).video
    close(feature, leak["video_feat"])
    assert (feature - found["outputs"]["video_feat"]).abs().amax(1).gt(1e-3).tolist() == [False, False, True, False]


# --- losses in all their variants ---


@both
@pytest.mark.parametrize("scale", ["variants", "variants_scale100"])
def test_similarities_and_losses_of_both_readings(which: str, scale: str) -> None:
    out = FOUND[which]["outputs"]
    expected, s = out[scale], 100.0 if "100" in scale else torch.tensor(3.0).exp().item()
    model = golden_model(FOUND[which])
    video = cosine(out["caption_feat"], out["video_feat"])
    close(video, expected["sim_vid"])
    assert info_nce(video, scale=s).item() == pytest.approx(expected["L_A_vid"].item(), rel=1e-5)
    for form in ("mean", "softmax"):
        image = image_similarity(out["pseudo_feat"], out["frame_feat"], aggregation=form, scale=s)
        for name, one in (("", image.total), ("_t2v", image.t2v), ("_v2t", image.v2t)):
            close(one, expected[f"sim_img{name}_{form}"])
        assert info_nce(image.total, scale=s).item() == pytest.approx(expected[f"L_A_img_{form}"].item(), rel=1e-5)
        for kl in ("batchmean", "numel100"):
            loss = similarity_kl(video, image.total, scale=s, reduction=kl).item()
            assert loss == pytest.approx(expected[f"KL_{form}_{kl}"].item(), rel=2e-5)
        back = similarity_kl(image.total, video, scale=s).item()
        assert back == pytest.approx(expected[f"KLrev_{form}_batchmean"].item(), rel=2e-5)
        kept = read_as(model, "kl", "aggregation").config if form == "mean" else golden_model(FOUND[which]).config
        total = objective(video, image.total, s, kept)["total"].item()
        wanted = expected["total_paper" if form == "mean" else "total_code"].item()
        assert total == pytest.approx(wanted, rel=2e-5)


@both
@pytest.mark.parametrize(
    ("variant", "flipped"),
    [("code", ()), ("paper", ("kl", "aggregation")), ("code_detach", ("teacher",)),
     ("paper_detach", ("kl", "aggregation", "teacher"))],
)  # fmt: skip
def test_gradients(which: str, variant: str, flipped: tuple[str, ...]) -> None:
    found = FOUND[which]
    expected = found["outputs"]["grad_variants"][variant]
    model = read_as(golden_model(found), *flipped)
    total = model.loss(found["inputs"])["total"]
    assert total.item() == pytest.approx(expected["total"].item(), rel=1e-5)
    check_gradients(gradients(total, model), expected["grads"])


@both
def test_gradient_norms(which: str) -> None:
    found = FOUND[which]
    model = golden_model(found)
    grads = gradients(model.loss(found["inputs"])["total"], model)
    check_gradients(grads, found["outputs"]["grads"])
    for name, norm in found["outputs"]["grad_norms"].items():
        assert grads[name].norm().item() == pytest.approx(norm, rel=1e-4), name
    whole = torch.stack([grad.norm() for grad in grads.values()]).norm().item()
    assert whole == pytest.approx(found["outputs"]["total_grad_norm"], rel=1e-5)
    frozen = {name for name, weight in model.named_parameters() if not weight.requires_grad}
    assert len(frozen) > 80 and not any("lora" in name or "adapter" in name for name in frozen)


# --- training ---


@both
@pytest.mark.parametrize("optimiser", [TransformersAdamW, torch.optim.AdamW])
def test_six_steps_of_training(which: str, optimiser: Any) -> None:
    """The optimiser's ε stands where the released one has it; torch's own AdamW goes elsewhere."""
    found = FOUND[which]
    plan, model = found["outputs"]["train_traj"], golden_model(found)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    updates = optimiser(weights, lr=plan["lr"], eps=1e-6, weight_decay=plan["weight_decay"])
    steps = []
    for number, rate in enumerate(plan["lrs"]):
        losses = model.loss(found["inputs"])
        updates.zero_grad()
        losses["total"].backward()
        norm = torch.nn.utils.clip_grad_norm_(weights, plan["clip"])
        steps.append(torch.stack([losses[term].detach() for term in TERMS] + [norm]))
        for group in updates.param_groups:
            group["lr"] = schedules.cosine(number, plan["total"], plan["warmup"] / plan["total"], plan["lr"])
            assert group["lr"] == pytest.approx(rate, abs=1e-12)
        updates.step()
    final = by_released_name(model)
    apart = max((final[name] - expected).abs().max().item() for name, expected in plan["final"].items())
    if optimiser is torch.optim.AdamW:
        assert 5e-4 < apart < 3e-3
    else:
        torch.testing.assert_close(torch.stack(steps), plan["steps"], rtol=1e-4, atol=1e-5)
        assert apart < 1e-5


# --- CLIP4Clip ---


def clip4clip(found: dict[str, Any]) -> DiscoVLA:
    return golden_model(found, r=0, H_V=0, H_L=0)


@both
def test_mean_pooling(which: str) -> None:
    found = FOUND[which]
    expected, inputs, model = found["clip4clip_meanP"], found["inputs"], clip4clip(found)
    text = model.encode_text(inputs["text_ids"], inputs["text_mask"])
    videos = model.encode_video(inputs["video"], inputs["video_mask"])
    close(text, expected["text_feat"].reshape_as(text))
    close(videos.frames, expected["frame_feat"])
    close(model.scale * model.score(text, videos.video), expected["logits"], 1e-4)
    losses = model.loss(inputs)
    assert losses["total"].item() == pytest.approx(expected["loss"].item(), rel=1e-5)
    assert losses["image"] == losses["distill"] == 0
    grads = gradients(losses["total"], model)
    assert grads.keys() == expected["grad_norms"].keys()
    for name, norm in expected["grad_norms"].items():
        assert grads[name].norm().item() == pytest.approx(norm, rel=1e-4), name


@both
def test_decay_groups_of_clip4clip(which: str) -> None:
    found = FOUND[which]
    model = clip4clip(found)
    theirs = names(model)
    named = {id(weight): theirs[name] for name, weight in model.named_parameters()}
    for group in model.parameter_groups(0.2):
        key = "decay_names" if group["weight_decay"] else "no_decay_names"
        marked = {str(named[id(weight)]).partition("[")[0] for weight in group["params"]}
        assert marked == set(found["clip4clip_meanP"][key])


@both
def test_six_steps_of_clip4clip(which: str) -> None:
    found = FOUND[which]
    plan, model = found["clip4clip_meanP"]["train_traj"], clip4clip(found)
    updates = BertAdam(model.parameter_groups(0.2), lr=plan["lr"], betas=(0.9, 0.98))
    steps = []
    for number in range(len(plan["steps"])):
        loss = model.loss(found["inputs"])["total"]
        updates.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        steps.append(torch.stack([loss.detach(), norm]))
        for group in updates.param_groups:
            group["lr"] = schedules.clip4clip(number, plan["t_total"], plan["warmup"], plan["lr"])
        updates.step()
    torch.testing.assert_close(torch.stack(steps), plan["steps"], rtol=1e-4, atol=1e-5)
    final = by_released_name(model)
    close(final["clip.visual.proj"], plan["final_proj"])
    close(final["clip.text_projection"], plan["final_text_projection"])
    close(final["clip.logit_scale"], plan["final_logit_scale"])


# --- names ---


@both
def test_released_names_both_ways(which: str) -> None:
    found = FOUND[which]
    model = golden_model(found)
    again = by_released_name(model)
    assert again.keys() == found["state_dict"].keys() and not model.training
    assert all(again[name].equal(tensor) for name, tensor in found["state_dict"].items())


def test_a_checkpoint_by_way_of_safetensors(tmp_path: Path) -> None:
    found = FOUND["tiny"]
    torch.save({"config": found["config"], "state_dict": found["state_dict"]}, tmp_path / "best.pth")
    convert(tmp_path / "best.pth", tmp_path / "ours")
    model = load(tmp_path / "ours", "discovla")
    assert isinstance(model, DiscoVLA)
    assert all(a.equal(b) for a, b in zip(model.parameters(), golden_model(found).parameters(), strict=True))


def test_names_without_their_prefix_and_openai_s_settings() -> None:
    found = FOUND["tiny_2heads"]
    state = {k.removeprefix("clip."): v for k, v in found["state_dict"].items() if "TVPt" not in k}
    state |= {"input_resolution": torch.tensor(32), "context_length": torch.tensor(16), "vocab_size": torch.tensor(100)}
    model = from_state_dict("discovla", state, {**found["config"], "r": 0, "H_V": 0, "H_L": 0})
    assert isinstance(model, DiscoVLA)
    inputs = found["inputs"]
    text = model.encode_text(inputs["text_ids"], inputs["text_mask"])
    close(text, found["clip4clip_meanP"]["text_feat"].reshape_as(text))


def test_what_does_not_fit_is_named() -> None:
    state, config = dict(FOUND["tiny"]["state_dict"]), FOUND["tiny"]["config"]
    layer = "clip.visual.transformer.resblocks.1.attn."
    del state[f"{layer}TVPt_up_weight"]
    state[f"{layer}in_proj_weight"] = torch.zeros(192, 65)
    state["clip.visual.proj"] = torch.zeros(64, 33)
    with pytest.raises(ValueError, match="do not fit the configuration") as caught:
        from_state_dict("discovla", state, config)
    message = str(caught.value)
    assert f"missing: {layer}TVPt_up_weight" in message
    assert f"{layer}in_proj_weight[q] (64, 65), not (64, 64)" in message
    assert "clip.visual.proj[T] (33, 64), not (32, 64)" in message
    with pytest.raises(ValueError, match="missing: clip.visual.transformer.resblocks.0.attn.TVPt_down_weight"):
        from_state_dict("discovla", FOUND["tiny"]["state_dict"], {**config, "H_V": 3})
    with pytest.raises(ValueError, match="config: found no H_V, r, expected the keys"):
        short = {key: value for key, value in config.items() if key not in ("H_V", "r")}
        from_state_dict("discovla", FOUND["tiny"]["state_dict"], short)
    with pytest.raises(ValueError, match="vision_heads=5: expected a divisor of vision_width=64"):
        from_state_dict("discovla", FOUND["tiny"]["state_dict"], {**config, "vision_heads": 5})
    with pytest.raises(ValueError, match="vision_fusion=4: expected between 0 and 3"):
        from_state_dict("discovla", FOUND["tiny"]["state_dict"], {**config, "H_V": 4})
