"""RagMe on a U-Net of diffusers: exactly the base at first, without neighbours and once removed; gradients; names."""

from __future__ import annotations

import ast
import copy
import functools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet3DConditionModel
from small_ragme import SITES, WIDTH, features, frames, inputs, move, unet, wrapped
from torch import Tensor, nn

from vtrlib.ragme import Condition, Config, Infuser, RagMe, Reading, Rules, TimeEnhancer, sites
from vtrlib.released import from_state_dict
from vtrlib.released.ragme import names, split

READINGS: dict[str, dict[str, Any]] = {
    "paper": {"reading": "paper"}, "released": {"reading": "released"},
    "ada_norm": {"reading": "released", "norm": "ada_norm"},
}  # fmt: skip
each_reading = pytest.mark.parametrize("settings", READINGS.values(), ids=READINGS)


@torch.no_grad()
def base() -> Tensor:
    latents, t, text = inputs()
    found: Tensor = unet()(latents, t, text).sample
    return found


# --- ZeroScope ---


def test_zeroscope_counts() -> None:
    with torch.device("meta"):
        model = UNet3DConditionModel()  # its defaults are ZeroScope's sizes
        assert sum(one.numel() for one in model.parameters()) == 1_411_233_860
        expected = {"paper": 75_209_984, "released": 261_629_824, "ada_norm": 336_151_424}
        for name, settings in READINGS.items():
            made = RagMe(model, Config(**settings))
            assert sum(one.numel() for one in made.added().values()) == expected[name]
            assert sum(one.numel() for one in made.enhancer.parameters()) == 25_209_344  # type: ignore[union-attr]
            assert [site.channels for site in made.sites] == [320] * 2 + [640] * 2 + [1280] * 6 + [640] * 3 + [320] * 3
            assert made.remove() is model


def test_sites() -> None:
    assert dict(sites(unet())) == SITES
    assert [site.name for site in sites(unet(), "block")] == [
        "mid_block" if name.startswith("mid") else name for name in SITES
    ]


@torch.no_grad()
def test_order_of_sites_is_that_of_a_call() -> None:
    model, called = wrapped(), []
    for site in model.sites:
        model.unet.get_submodule(site.name).register_forward_hook(lambda *_, name=site.name: called.append(name))
    model(*inputs())
    assert called == list(SITES)


# --- the base, exactly ---


@torch.no_grad()
@pytest.mark.parametrize("channels", [(5, 4), (4, 8)])
def test_a_base_with_another_number_of_channels_coming_out(channels: tuple[int, int]) -> None:
    """Inpainting bases read a mask, and some give a variance too."""
    latents, t, text = inputs()
    bare = unet(channels=channels[0], out=channels[1])
    latents = features(latents.shape[0], channels[0], *latents.shape[2:], seed=4).to(latents)
    expected = bare(latents, t, text).sample
    model = RagMe(bare, Config(width=WIDTH, layers=1, heads=4)).eval()
    assert model(latents, t, text, frames()).equal(expected) and expected.shape[1] == channels[1]
    with pytest.raises(ValueError, match=rf"latents: .*expected \(B, C={channels[0]}, F, H, W\)"):
        model(latents[:, 1:], t, text)


def test_what_is_trained_of_the_base_stays_as_the_user_set_it() -> None:
    model = wrapped()
    weights = list(model.unet.parameters())
    assert not any(one.requires_grad for one in weights)
    weights[3].requires_grad_(True)
    with torch.no_grad():
        model(*inputs(), frames())
    assert [one.requires_grad for one in weights].index(True) == 3 and sum(one.requires_grad for one in weights) == 1
    bare = model.remove()
    assert all(one.requires_grad for one in bare.parameters())
    bare.requires_grad_(False)
    with torch.no_grad():
        model(*inputs(), frames())
    assert not any(one.requires_grad for one in bare.parameters())


@torch.no_grad()
def test_a_base_made_for_inference() -> None:
    with torch.inference_mode():
        bare = unet()
    expected = bare(*inputs()).sample
    model = RagMe(bare, Config(width=WIDTH, layers=1, heads=4)).eval()
    torch.testing.assert_close(model(*inputs(), frames()), expected, atol=1e-5, rtol=0)  # frozen for good
    assert model.remove() is bare


@each_reading
@torch.no_grad()
def test_at_first_the_model_is_the_base(settings: dict[str, Any]) -> None:
    model, expected = wrapped(moved=False, **settings), base()
    assert model(*inputs(), frames()).equal(expected)
    moved = wrapped(**settings)
    assert not torch.allclose(moved(*inputs(), frames()), expected, atol=1e-2)
    for found in (moved(*inputs()), moved(*inputs(), frames(), torch.zeros(2, 3))):
        assert found.equal(expected)
    torch.testing.assert_close(moved.unet(*inputs()).sample, expected, atol=1e-5, rtol=0)  # frozen: other products
    mask = torch.tensor([[True, False, True], [False] * 3])
    found = moved(*inputs(), frames(), mask)
    assert found[1].equal(expected[1]) and (found[0] - expected[0]).abs().max() > 1e-2


@each_reading
@torch.no_grad()
def test_removed(settings: dict[str, Any]) -> None:
    """Names, weights, what is trained and what is computed are the base's again; no hook is left."""
    bare, model = unet(), wrapped(**settings)
    assert not any(one.requires_grad for one in model.unet.parameters())
    kept = model.unet.state_dict()
    assert list(kept) == list(bare.state_dict()) and all(kept[name].equal(one) for name, one in bare.state_dict().items())
    model(*inputs(), frames())
    removed = model.remove()
    assert removed(*inputs()).sample.equal(base()) and model(*inputs(), frames()).equal(base())
    assert all(one.requires_grad for one in removed.parameters())
    assert not any(module._forward_hooks for module in removed.modules())
    again = RagMe(removed, {"width": WIDTH, "layers": 1, "heads": 4})
    assert again(*inputs(), frames()).equal(base())


@torch.no_grad()
def test_an_error_leaves_nothing_behind() -> None:
    model = wrapped()
    broken = model.infusers[3].register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model(*inputs(), frames())
    broken.remove()
    assert model(*inputs()).equal(base()) and not any(one.requires_grad for one in model.unet.parameters())
    torch.testing.assert_close(model.unet(*inputs()).sample, base(), atol=1e-5, rtol=0)


def test_with_gradients_it_is_the_frozen_base() -> None:
    frozen, model = unet().requires_grad_(False), wrapped(moved=False)
    assert model(*inputs(), frames()).equal(frozen(*inputs()).sample)


@torch.no_grad()
def test_copies_have_hooks_of_their_own() -> None:
    model = wrapped()
    twin, expected = copy.deepcopy(model), model(*inputs(), frames())
    move(twin.infusers, seed=5)
    assert model(*inputs(), frames()).equal(expected)
    assert not torch.allclose(twin(*inputs(), frames()), expected, atol=1e-2)
    twin.remove()
    assert twin(*inputs(), frames()).equal(base()) and model(*inputs(), frames()).equal(expected)


# --- training ---


@each_reading
def test_gradients_reach_what_is_new_alone(settings: dict[str, Any]) -> None:
    """At the first step the zero convolutions, from the second on everything; the base's weights never move."""
    model = wrapped(moved=False, **settings)
    new = {name: one for name, one in model.named_parameters() if not name.startswith("unet.")}
    assert {name for name, one in model.named_parameters() if one.requires_grad} == set(new)
    optimiser = torch.optim.AdamW(new.values(), lr=1e-2)
    before = {name: one.clone() for name, one in model.unet.state_dict().items()}
    for step in range(3):
        optimiser.zero_grad()
        model(*inputs(), frames()).square().mean().backward()
        reached = {name for name, one in new.items() if one.grad is not None and one.grad.abs().max() > 0}
        if step == 0:
            assert reached == {name for name in new if ".zero." in name} and len(reached) == 2 * len(SITES)
        elif settings["reading"] == "paper":
            assert reached == set(new)
        else:  # one key: weights of 1 whatever queries, keys and what leads to them alone
            blind = (".to_q.", ".to_k.", ".norm_first.", ".norm_second.")
            assert set(new) - reached == {name for name in new if "infusers" in name and any(one in name for one in blind)}
        optimiser.step()
    assert all(one.grad is None for one in model.unet.parameters())
    assert all(model.unet.state_dict()[name].equal(one) for name, one in before.items())
    weight = model.infusers[0].get_submodule("zero").weight
    assert isinstance(weight, Tensor) and weight.abs().max() > 0


# --- what z may be ---


@torch.no_grad()
def test_forms_of_z() -> None:
    """Frames, tokens, tokens as released, and a condition that was computed before: the same."""
    model, mask = wrapped(), torch.tensor([[True, True, False], [True, False, True]])
    condition = model.condition(frames(), mask)
    assert condition.tokens.shape == (2, 3, WIDTH)
    expected = model(*inputs(), frames(), mask)
    assert model(*inputs(), condition).equal(expected)
    assert model(*inputs(), condition.tokens, mask).equal(expected)
    assert model(*inputs(), condition.tokens.reshape(6, 1, WIDTH), mask).equal(expected)
    latents, t, text = inputs()
    assert model(latents, 11, text, condition).equal(model(latents, torch.tensor(11), text, condition))
    cut = torch.ones(2, 3, 6, dtype=torch.bool)
    cut[0, 2] = cut[1, 1] = False  # a video without frames is no neighbour
    assert model(*inputs(), frames(), None, cut).equal(expected)
    assert model(*inputs(), frames(), torch.ones(2, 3), cut).equal(expected)
    broken = frames().masked_fill(~mask[..., None, None], torch.nan)
    assert model(*inputs(), broken, mask).equal(expected)


@torch.no_grad()
def test_mean_of_those_that_are_there() -> None:
    model, mask = wrapped("released"), torch.tensor([[True, True, False], [False] * 3])
    found = model.condition(frames(), mask)
    each = wrapped(Reading.released().flipped("tokens")).condition(frames(), mask)
    torch.testing.assert_close(found.tokens[0], each.tokens[0, :2].mean(0, keepdim=True))
    assert found.mask.tolist() == [[True], [False]]  # type: ignore[union-attr]


@torch.no_grad()
def test_guidance_batch() -> None:
    """Both halves get the same neighbours."""
    model, (latents, t, text) = wrapped(), inputs()
    twice = [torch.cat([one, one]) for one in (latents, t, text)]
    mask = torch.tensor([[True, True, False], [True, False, True]])
    condition = model.condition(frames(), mask)
    doubled = Condition(torch.cat([condition.tokens] * 2), torch.cat([mask, mask]))
    found = model(*twice, condition)
    assert found.equal(model(*twice, doubled))
    torch.testing.assert_close(found.chunk(2)[0], model(latents, t, text, condition), atol=1e-5, rtol=0)


@torch.no_grad()
def test_weights_of_adapters() -> None:
    model, other = wrapped(), wrapped(moved=False)
    assert not any(name.startswith("unet") for name in model.added())
    other.load_added(model.added())
    assert other(*inputs(), frames()).equal(model(*inputs(), frames()))
    assert Config(**{**vars(model.config), "reading": vars(model.config.reading)}) == model.config


# --- released names ---


def released(model: RagMe) -> dict[str, Tensor]:
    theirs = names(model)
    held = {"body": "time_enhancer.", "cls_token": "time_enhancer.", "blocks": "infuser.", "zero_convs": "infuser."}
    found = {}
    for name, weight in model.named_parameters():
        if name in theirs:
            plain = str(theirs[name])
            shaped = weight.detach()[None, None] if plain == "cls_token" else weight.detach()
            found[held[plain.split(".")[0]] + plain] = shaped
    return found


@pytest.mark.parametrize(("config", "settings"), [
    ({}, {}), ({"spatial_average": False, "temporal_average": False, "rag_mode": "crossattn-temporal-loop"},
              {"reading": Reading.released().flipped("queries", "tokens")}),
    ({"infuser": {"spatial_average": False}}, {"reading": Reading(**{**vars(Reading.released()), "queries": "pooled_time"})}),
    ({}, {"norm": "ada_norm", "timesteps": 800}), ({"heads": 2}, {"heads": 2}), ({}, {"layers": 0}),
    ({}, {"pool": "mean"}), ({"norm_type": "layer_norm", "learnable_timestep": False}, {}),
    ({"unet": {"num_attention_heads": 2, "heads": 3}}, {}),
])  # fmt: skip
@torch.no_grad()
def test_released_weights(config: dict[str, Any], settings: dict[str, Any]) -> None:
    model = wrapped(**{"reading": "released", **settings})
    made = from_state_dict("ragme", released(model), {"heads": 4, **config}, unet=unet())
    assert isinstance(made, RagMe) and not made.training
    assert made.config == model.config and made.sites[1].name == "mid_block"
    z = frames() if model.enhancer is not None else frames()[:, :, 0]
    assert made(*inputs(), z).equal(model(*inputs(), z))
    assert not made(*inputs(), z).equal(base())


def test_heads_that_are_not_said_are_eight() -> None:
    model = wrapped("released", width=16, heads=8)
    for config in ({}, {"heads": None}, {"unet": dict(unet().config)}):
        made = from_state_dict("ragme", released(model), config, unet=unet())
        assert isinstance(made, RagMe) and made.config == model.config


def test_split_counts_nested_sites() -> None:
    weight = torch.zeros(1)
    nested = {"a.blocks.10.0.norm1.bias": weight, "a.blocks.2.1.norm1.bias": weight, "a.blocks.2.0.norm1.bias": weight}
    assert list(split(nested)) == ["blocks.2.norm1.bias", "blocks.1.norm1.bias", "blocks.0.norm1.bias"]


def changed(change: Callable[[dict[str, Tensor]], object], norm: str = "layer_norm", **config: Any) -> Callable[[], object]:
    def call() -> object:
        state, bare = released(wrapped("released", norm=norm)), unet()
        change(state)
        try:
            return from_state_dict("ragme", state, {"heads": 4, **config}, unet=bare)
        finally:
            assert not any(module._forward_hooks for module in bare.modules())

    return call


@pytest.mark.parametrize(("call", "message"), [
    (changed(lambda s: s.pop("infuser.zero_convs.2.bias")), r"missing: zero_convs.2.bias\. "),
    (changed(lambda s: s.update({"gate": torch.ones(1)})), r"not expected: gate\."),
    (changed(lambda s: s.update({"infuser.zero_convs.0.bias": torch.ones(3)})), r"another shape: zero_convs.0.bias \(3,\), not \(8,\)"),
    (changed(lambda s: s.clear() or s.update(x=torch.ones(1))), r"no blocks.0.attn2.to_k.weight, expected the released"),
    (changed(lambda s: None, norm="ada_norm", learnable_timestep=False), r"learnable_timestep=False\), expected 'layer_norm'"),
    (changed(lambda s: None, heads=5), r"heads=5: expected a divisor of width=12"),
    (changed(lambda s: None, use_cls_token=False, use_mean=False), r"use_mean=False, expected one of them"),
])  # fmt: skip
def test_released_weights_that_do_not_fit(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_a_base_is_needed_for_this_paper_alone() -> None:
    state = released(wrapped("released"))
    with pytest.raises(TypeError, match=r"unet: found NoneType, expected a UNet3DConditionModel for 'ragme'"):
        from_state_dict("ragme", state, {"heads": 4})
    with pytest.raises(TypeError, match=r"unet: found UNet3DConditionModel, expected None for 'pig'"):
        from_state_dict("pig", state, {}, unet=unet())
    with pytest.raises(TypeError, match=r"unet: found Linear, expected a diffusers.UNet3DConditionModel"):
        from_state_dict("ragme", state, {"heads": 4}, unet=nn.Linear(1, 1))


# --- readings ---


def test_readings() -> None:
    paper, code = Reading.paper(), Reading.released()
    assert all(getattr(paper, name) != getattr(code, name) for name in Reading.VALUES)
    assert paper.masks == code.masks == "honoured"
    assert paper.pooled == (False, False) and code.pooled == (True, True)
    assert Config().rules() == Rules(0.965, None, "greedy") and Config().rules("video").min_similarity == 0.6
    released = Config(reading="released")
    assert released.rules() == released.rules("video") == Rules(0.98, None, "components")


# --- bad input ---


@functools.cache
def shared(**settings: Any) -> RagMe:
    return wrapped(**settings)


def bad(call: Callable[[RagMe], object], **settings: Any) -> Callable[[], object]:
    return lambda: call(shared(**settings))


def given(model: RagMe, *z: Any, **change: Tensor | float) -> Tensor:
    latents, t, text = inputs()
    known = {"latents": latents, "t": t, "text_states": text, **change}
    return model(known["latents"], known["t"], known["text_states"], *(z or (frames(),)))


@pytest.mark.parametrize(("call", "message"), [
    (bad(lambda m: given(m, latents=torch.zeros(2, 4, 5, 4, 6))), r"latents: found shape \(2, 4, 5, 4, 6\), expected \(B, C=3, F"),
    (bad(lambda m: given(m, latents=torch.zeros(2, 3, 4, 6))), r"latents: found shape .*expected \(B, C=3, F, H, W\)"),
    (bad(lambda m: given(m, text_states=torch.zeros(2, 7, 9))), r"text_states: found shape \(2, 7, 9\), expected \(B=2, L, d=10\)"),
    (bad(lambda m: given(m, t=torch.arange(3))), r"t: found shape \(3,\), expected \(B=2\)"),
    (bad(lambda m: given(m, frames()[..., :5])), r"z: found shape \(2, 3, 6, 5\), expected \(B, K, F, D=12\)"),
    (bad(lambda m: given(m, torch.zeros(2, 0, WIDTH))), r"z: found shape \(2, 0, 12\), expected \(B, K, D=12\), no axis empty"),
    (bad(lambda m: given(m, features(3, 2, WIDTH, seed=1))), r"z: found 3 items, expected 2, one for each of the latents"),
    (bad(lambda m: given(m, frames() / 0)), r"z: found NaN or infinity, expected finite embeddings\. Embed"),
    (bad(lambda m: given(m, frames(), torch.ones(2, 4))), r"mask: found shape \(2, 4\), expected \(B=2, K=3\)"),
    (bad(lambda m: given(m, frames()[:, :, 0], None, torch.ones(2, 3, 6))), r"frame_mask: found one with tokens z"),
    (bad(lambda m: given(m, frames()), layers=0), r"expected tokens \(B, K, D\), since config.layers=0"),
    (bad(lambda m: given(m, frames()), positions=5), r"frames: found 6 frames, expected at most 5, the enhancer's positions"),
    (bad(lambda m: given(m, m.condition(frames()), torch.ones(2, 3))), r"beside a Condition, which has its mask"),
    (bad(lambda m: given(m, t=1000), reading="released", norm="ada_norm"), r"t: found \[1000, 1000\], expected integers from 0 to 999"),
    (bad(lambda m: given(m, t=0.5), reading="released", norm="ada_norm"), r"t: found \[0.5, 0.5\], expected integers"),
    (bad(lambda m: RagMe(m.unet)), r"unet: found a base that is wrapped already"),
    (bad(lambda m: given(m, None, torch.ones(2, 3))), r"mask, frame_mask: found without z"),
    (bad(lambda m: given(m, Condition(torch.zeros(2, 3, 5), None))), r"z: found shape \(2, 3, 5\), expected \(B, K, D=12\)"),
    (bad(lambda m: given(m, Condition(torch.zeros(2, 3, 12), torch.ones(2, 4)))), r"mask: found shape \(2, 4\), expected \(B=2, K=3"),
    (bad(lambda m: m.load_added({})), r"weights: found missing, unknown or misshapen enhancer.*expected the \d+ of this"),
    (lambda: RagMe(unet(), Config(width=12, heads=3)), r"heads=3: expected a divisor of width=8"),
    (lambda: sites(unet(), "end"), r"mid='end': expected one of 'attention', 'block'"),
    (lambda: Config(heads=7), r"heads=7: expected a divisor of width=512"),
    (lambda: Config(layers=-1), r"layers=-1: expected at least 0"),
    (lambda: Config(pool="max"), r"pool='max': expected one of 'cls', 'mean'"),
    (lambda: Config(norm="ada_norm"), r"norm='ada_norm': expected reading.block='transformer'"),
    (lambda: Config().rules("texts"), r"query='texts': expected one of 'text', 'video'. Did you mean 'text'"),
    (lambda: Reading(tokens="all"), r"reading.tokens='all': expected one of 'each', 'mean'"),
    (lambda: Reading(masks="leaky"), r"reading.masks='leaky': expected reading.block='transformer'"),
    (lambda: TimeEnhancer(12, 1, 5), r"heads=5: expected a divisor of width=12"),
    (lambda: Infuser(8, 4, 2, "mlp"), r"block='mlp': expected one of 'attention', 'transformer'"),
])  # fmt: skip
def test_bad_input(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_what_is_no_tensor() -> None:
    with pytest.raises(TypeError, match=r"z: found ndarray, expected a tensor"):
        wrapped()(*inputs(), frames().numpy())
    with pytest.raises(TypeError, match=r"z: found list, expected a tensor"):
        wrapped()(*inputs(), [[1.0]])


def test_the_package_imports_neither_diffusers_nor_faiss() -> None:
    """Only `vtrlib.ragme` and what makes its released models do, and faiss waits for the first index."""
    root = Path(__file__).resolve().parents[1]
    importing: dict[str, set[str]] = {"diffusers": set(), "faiss": set()}
    for path in (root / "vtrlib").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            modules += [one.name for one in node.names] if isinstance(node, ast.Import) else []
            for module in modules:
                importing.get(module.split(".")[0], set()).add(path.relative_to(root / "vtrlib").as_posix())
    diffusers = {"ragme/model.py", "ragme/pipeline.py", "ragme/tiny.py", "released/ragme.py"}
    assert importing == {"diffusers": diffusers, "faiss": set()}
    code = "import sys, vtrlib, vtrlib.released; assert not {'diffusers', 'faiss'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@torch.no_grad()
def test_a_mask_of_numbers_is_one() -> None:
    model, tokens = wrapped(), frames()[:, :, 0]
    mask = torch.tensor([[1, 0, 1], [0, 0, 0]])
    expected = model(*inputs(), Condition(tokens, mask.bool()))
    assert model(*inputs(), Condition(tokens, mask.float())).equal(expected) and not expected[0].equal(base()[0])
