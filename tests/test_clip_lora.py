"""Shared-A LoRA on CLIP's attention: its formula, and a wrapped CLIP against the plain one."""

from __future__ import annotations

import copy

import pytest
import torch
from small_discovla import SIZES, features, texts
from torch import nn
from transformers import CLIPConfig, CLIPModel

from vtrlib.clip import LoRAAttention, SharedLoRA, add_lora
from vtrlib.clip.lora import attend, layers

LETTERS = {"dtype": torch.float64}


@pytest.fixture
def clip() -> CLIPModel:
    torch.manual_seed(0)
    return CLIPModel(CLIPConfig(**SIZES)).double().eval()


def test_attention_is_torch_s() -> None:
    """Three heads, other lengths of queries and keys, some keys hidden."""
    torch.manual_seed(0)
    reference = nn.MultiheadAttention(6, 3, batch_first=True, **LETTERS)
    x, y = features(2, 4, 6, seed=1), features(2, 5, 6, seed=2)
    mask = torch.tensor([[True, False, True, True, False], [True, True, False, False, True]])
    q, k, v = (
        torch.nn.functional.linear(z, w, b)
        for z, w, b in zip((x, y, y), reference.in_proj_weight.chunk(3), reference.in_proj_bias.chunk(3), strict=True)
    )
    found = reference.out_proj(attend(q, k, v, 3, mask[:, None, None]))
    torch.testing.assert_close(found, reference(x, y, y, key_padding_mask=~mask)[0])
    causal = torch.ones(4, 4, dtype=torch.bool).tril()
    torch.testing.assert_close(attend(q, q, q, 3, causal), attend(q, q, q, 3, causal=True))


def test_update_against_its_matrices() -> None:
    lora = SharedLoRA(5, [3, 4, 2], rank=2, scale=0.7).double()
    assert all(not part.any() for part in lora(features(6, 5, seed=1))), "nothing changes at the start"
    assert lora.down.abs().max() <= 5**-0.5 and lora.down.abs().max() > 0.5 * 5**-0.5
    with torch.no_grad():
        lora.up.copy_(features(9, 2, seed=2))
    x, start = features(2, 6, 5, seed=1), 0
    for part, width in zip(lora(x), (3, 4, 2), strict=True):
        matrix = 0.7 * lora.up[start : start + width] @ lora.down
        torch.testing.assert_close(part, x @ matrix.T)
        start += width
    assert sum(w.numel() for w in lora.parameters()) == 2 * 5 + 2 * 9, "one A for all"


def test_draws_follow_the_generator() -> None:
    one, two = SharedLoRA(5, [5], 2), SharedLoRA(5, [5], 2)
    for lora in (one, two):
        lora.draw(torch.Generator().manual_seed(3))
    assert one.down.equal(two.down)


@pytest.mark.parametrize("padded", [False, True])
def test_a_wrapped_clip_starts_as_the_plain_one(clip: CLIPModel, padded: bool) -> None:
    """Transformers gives the text tower a mask where something is padded, else says that it is causal."""
    plain = copy.deepcopy(clip)
    assert add_lora(clip, rank=3) is clip
    ids, mask = texts(3, length=8, seed=1)
    mask = mask if padded else torch.ones_like(mask)
    pixels = features(2, 3, 12, 12, seed=3)
    for found, expected in (
        (clip.get_text_features(ids, mask), plain.get_text_features(ids, mask)),
        (clip.get_image_features(pixels), plain.get_image_features(pixels)),
    ):
        torch.testing.assert_close(found.pooler_output, expected.pooler_output, atol=1e-12, rtol=0)
    assert {k for k in clip.state_dict() if "lora" not in k} == set(plain.state_dict()), "names stay"


def test_what_is_trained_moves_queries_keys_and_values(clip: CLIPModel) -> None:
    """Updated projections are those of a plain CLIP whose weights are W + s B A."""
    add_lora(clip, rank=3, scale=0.5)
    assert {name.split(".")[-2] for name, w in clip.named_parameters() if w.requires_grad} == {"lora"}
    trained = sum(w.numel() for w in clip.parameters() if w.requires_grad)
    assert trained == 3 * 4 * 3 * 18 + 4 * 4 * 3 * 10, "4 r D in each layer"
    merged = CLIPModel(clip.config).double().eval()
    state = {name: tensor for name, tensor in clip.state_dict().items() if "lora" not in name}
    with torch.no_grad():
        for tower, stack in zip(("vision_model", "text_model"), layers(clip), strict=True):
            for number, layer in enumerate(stack):
                lora = layer.self_attn.lora
                lora.up.copy_(features(*lora.up.shape, seed=number))
                updates = (0.5 * lora.up @ lora.down).chunk(3)
                for one, update in zip("qkv", updates, strict=True):
                    name = f"{tower}.encoder.layers.{number}.self_attn.{one}_proj.weight"
                    state[name] = state[name] + update
    merged.load_state_dict(state)
    pixels = features(2, 3, 12, 12, seed=3)
    found, expected = (m.get_image_features(pixels).pooler_output for m in (clip, merged))
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
    ids, mask = texts(3, length=8, seed=1)
    found, expected = (m.get_text_features(ids, mask).pooler_output for m in (clip, merged))
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


def test_bad_settings(clip: CLIPModel) -> None:
    with pytest.raises(ValueError, match="rank=0: expected at least 1"):
        SharedLoRA(5, [5], 0)
    with pytest.raises(ValueError, match="scale=nan"):
        add_lora(clip, scale=float("nan"))
    assert LoRAAttention(layers(CLIPModel(CLIPConfig(**SIZES)))[0][0].self_attn).lora is None
