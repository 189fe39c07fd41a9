"""What a PIG video and a match cost: parameters, multiply-accumulates against torch's counter, the printed tables."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from small_pig import SIZES, batch, small
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from vtrlib.pig import MATCHES, OFFLINE, PIG, Config, Reading, match_cost, parameters, video_cost

B16 = {"vision_config": {"patch_size": 16}}
BOS = Reading.released().flipped("bos")


def sums(model: PIG) -> dict[str, int]:
    return {name: sum(w.numel() for w in part.parameters()) for name, part in model.named_children()}


def test_parameters_as_published() -> None:
    with torch.device("meta"):
        model = PIG(Config())
    found = sums(model)
    assert found == {"clip": 151_289_601, "generator": 38_394_880, "fusioner": 1_316_352}
    assert sum(found.values()) == 191_000_833
    added = {"added_cls": 3 * 768, "cls_in_frames": 768, "temporal_embedding": 12 * 768}
    embeddings = model.clip.vision_model.embeddings
    assert {name: getattr(embeddings, name).numel() for name in added} == added
    trained = sum(w.numel() for w in model.parameters() if w.requires_grad)
    assert trained == 191_000_833 - 512, "all but [bos], which the released configuration leaves out"


def test_parameters_of_other_models() -> None:
    assert parameters(Config(clip=B16)) == 189_344_257
    assert parameters(Config.variant("clip4clip")) == 151_277_313
    assert parameters(Config.variant("clip_vip")) == 151_277_313 + 12_288 - 768
    assert parameters(Config(reading="paper")) == 191_000_833 - 1_024  # type: ignore[arg-type]


def counted(model: PIG, frames: int, whole: bool) -> int:
    """Half of what torch counts for one video: products of matrices and the convolution."""
    size = model.clip.config.vision_config.image_size
    weight = next(model.parameters())
    video = torch.ones(1, frames, 3, size, size, device=weight.device, dtype=weight.dtype)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        model.encode_video(video, whole=whole)
    total: int = counter.get_total_flops()
    assert total % 2 == 0
    return total // 2


SETTINGS: list[dict[str, Any]] = [
    {}, {"reading": "paper"}, {"inputs": "x_v+x_f"}, {"inputs": "x_f+x_ip", "top": 7, "frames": 4}, {"proxies": 1},
]  # fmt: skip


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_formulas_against_torch_s_counter(settings: dict[str, Any]) -> None:
    model = small(**settings, dtype=torch.float32)
    for frames in (2, model.config.frames):
        for code in ("whole", "used"):
            assert counted(model, frames, code == "whole") == video_cost(model.config, frames, code).products, code


def test_the_published_54_90_g() -> None:
    """They are MACs, and more than products of matrices: the tool multiplies element-wise too."""
    with torch.device("meta"):
        model = PIG(Config())
    whole, used = (counted(model, 12, whole) for whole in (True, False))
    assert round(whole / 1e9, 2) == 54.85
    released = video_cost(Config(), 12, "released")
    assert released.total == 54_904_666_112 and round(released.total / 1e9, 2) == 54.90
    assert released.products == 54_852_743_168
    # 604 tokens: in each of 12 layers twice for quick-GELU's 3072 and once for 768 of the queries; 33 in the generator.
    assert released.elementwise == 12 * 604 * (2 * 3072 + 768) + 12 * 33 * (2 * 2048 + 512)
    assert released.products - whole == 768 * 512 - 604 * 768, "token 0 twice there, the scores of ITS apart here"
    assert round(video_cost(Config(reading=BOS), 12, "released").total / 1e9, 4) == 54.9436
    # What is never looked at.
    assert whole - used == video_cost(Config(), 12, "whole").products - video_cost(Config()).products
    assert 3.5e9 < whole - used < 3.7e9


@pytest.mark.parametrize(("settings", "frames", "giga"), [({"clip": B16}, 12, 213.7), ({}, 32, 144.4)])
def test_other_sizes(settings: dict[str, Any], frames: int, giga: float) -> None:
    assert round(video_cost(Config(**settings), frames, "released").products / 1e9, 1) == giga


def test_proxies_instead_of_joint_attention() -> None:
    cost = video_cost(Config(), 12, "released")
    assert round(cost.attention / 1e9, 2) == 0.64
    assert round(12 * 2 * 604**2 * 768 / 1e9, 2) == 6.72


@pytest.mark.parametrize("backbone", ["clip_vip", "clip4clip"])
@torch.no_grad()
def test_what_is_saved_changes_nothing(backbone: str) -> None:
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        model, data = small(backbone=backbone, dtype=dtype), batch(dtype=dtype)
        whole, used = (model.encode_video(data["video"], whole=one) for one in (True, False))
        assert used.x_p is None and used.selected.equal(whole.selected)
        for name in ("v", "pseudo_query", "x_v", "x_f", "x_ip", "informativeness"):
            torch.testing.assert_close(getattr(used, name), getattr(whole, name), atol=tolerance, rtol=0)


def test_nor_do_its_gradients() -> None:
    model, data, found = small(), batch(), []
    for whole in (True, False):
        videos = model.encode_video(data["video"], whole=whole)
        weights = [w for name, w in model.named_parameters() if "text" not in name and "scale" not in name and w.requires_grad]
        found.append(torch.autograd.grad(videos.v.sin().sum(), weights))
    assert len(found[0]) > 60
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=0)


# --- matches ---


@pytest.mark.parametrize(
    "entry", [*MATCHES, *(entry for column in OFFLINE.values() for entry in column)],
    ids=lambda entry: f"{entry.method} {entry.printed:g}",
)  # fmt: skip
def test_printed_numbers(entry: Any) -> None:
    """What is derived, or counted as coded, is the printed number in all of its digits."""
    assert entry.status in ("derived", "as coded", "not derivable")
    assert (entry.count is None) == (entry.status == "not derivable")
    if entry.count is None:
        return
    digits = len(str(entry.printed).partition(".")[2]) if isinstance(entry.printed, float) else 0
    if entry.printed == 54.90:
        digits = 2
    assert round(entry.count(512, 12, 32) / entry.unit, digits) == entry.printed


def test_matches() -> None:
    assert match_cost("PIG(Ours)") == 512 and match_cost("PIG(Ours)", 64) == 64
    assert match_cost("X-CLIP") == 220_860 and match_cost("XPool") == 274_956
    assert match_cost("XPool", code=True) == 537_088
    assert match_cost("X-CLIP", 7, 3, 2) == 7 * 12 + 12 + 6
    assert match_cost("XPool", 7, 3) == 49 + 42 + 7 + 3 and match_cost("XPool", 7, 3, code=True) == 98 + 42 + 7
    named = [entry.method for entry in MATCHES if entry.status == "not derivable"]
    assert named == ["DRL", "ProST", "UCoFiA"] and len(MATCHES) == 18
    # "4,035-fold and 19,673-fold" divide by the rounded half K.
    printed = {entry.method: entry.printed for entry in MATCHES}
    ratios = [printed[name] / printed["PIG(Ours)"] for name in ("ProST", "UCoFiA")]
    assert [int(ratio) for ratio in ratios] == [4035, 19673]
    assert [int(1000 * printed[name] / match_cost("PIG(Ours)")) for name in ("ProST", "UCoFiA")] == [3940, 19212]


def test_x_pool_s_map_folds_into_the_values() -> None:
    """Why one of its two maps need not be charged to a match: weights sum to 1."""
    from small_pig import features, move
    from torch import nn

    from vtrlib.pig import XPool

    plain, folded = (XPool(6, 1).double().eval() for _ in range(2))
    move(plain)
    folded.load_state_dict(plain.state_dict())
    with torch.no_grad():
        out, value = plain.out_proj, plain.v_proj
        folded.v_proj.weight.copy_(out.weight @ value.weight)
        folded.v_proj.bias.copy_(out.weight @ value.bias + out.bias)
        nn.init.eye_(folded.out_proj.weight)
        nn.init.zeros_(folded.out_proj.bias)
    query, tokens = features(3, 6, seed=1), features(3, 5, 6, seed=2)
    torch.testing.assert_close(plain(query, tokens), folded(query, tokens))


def test_bad_questions() -> None:
    with pytest.raises(ValueError, match="method='ProST': its cost is not derivable: needs its code"):
        match_cost("ProST")
    with pytest.raises(ValueError, match="method='X-Pool'.*Did you mean 'XPool'"):
        match_cost("X-Pool")
    with pytest.raises(ValueError, match="frames=0"):
        match_cost("XPool", frames=0)
    with pytest.raises(ValueError, match="code='fast'"):
        video_cost(Config(), code="fast")
    with pytest.raises(ValueError, match="config: found backbone"):
        video_cost(Config.variant("cross"))
    with pytest.raises(ValueError, match="frames=60"):
        functools.partial(video_cost, Config(clip=SIZES, frames=2, top=2))(60)
