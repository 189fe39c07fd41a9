"""RagMe against the authors' released code: enhancer, MCA, adapters, RagInit, retrieval."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler
from small_ragme import golden
from torch import Tensor, nn

from vtrlib.ragme import Attention, Index, Infuser, Retrieved, TimeEnhancer, rag_init, retrieve, video_embedding
from vtrlib.released.ragme import _theirs, split

FOUND = golden()
close = functools.partial(torch.testing.assert_close, atol=2e-6, rtol=0)


def filled(module: nn.Module, prefix: str, state: dict[str, Tensor]) -> None:
    """A module of ours with released weights."""
    plain = split(state)
    with torch.no_grad():
        for name, weight in module.named_parameters():
            weight.copy_(plain[_theirs(prefix + name)])


# --- the enhancer ---


def enhancer(pool: str = "cls") -> TimeEnhancer:
    made = TimeEnhancer(32, 2, 8, pool)
    filled(made, "enhancer.", FOUND["time_enhancer"]["state_dict"])
    return made.eval()


@pytest.mark.parametrize(
    ("expected", "video", "mask"),
    [
        ("out_nomask", "z", None), ("out_allTrue", "z", "all"), ("out_masked", "z", "some"),
        ("out_masked", "z_padded", "some"), ("out_padded_nomask", "z_padded", None), ("out_perm", "shuffled", None),
    ],
)  # fmt: skip
@torch.no_grad()
def test_enhancer(expected: str, video: str, mask: str | None) -> None:
    found = FOUND["time_enhancer"]
    frames = found["z"][:, :, found["perm"]] if video == "shuffled" else found[video]
    some = found["frame_mask"]
    assert not some.all() and not found["perm"].equal(torch.arange(4))
    given = {None: None, "some": some, "all": torch.ones_like(some)}[mask]
    close(enhancer()(frames, given).flatten(0, 1), found[expected][:, 0])


def test_what_is_masked_matters() -> None:
    """The three results above that a mask separates are not one."""
    found = FOUND["time_enhancer"]
    assert (found["out_masked"] - found["out_nomask"]).abs().max() > 0.01
    assert (found["out_padded_nomask"] - found["out_masked"]).abs().max() > 0.01


@torch.no_grad()
def test_enhancer_without_cls_and_inside() -> None:
    found = FOUND["time_enhancer"]
    close(enhancer("mean")(found["z"]).flatten(0, 1), found["out_mean_pool"][:, 0])
    close(enhancer("sequence")(found["z"]).flatten(0, 1), found["out_sequence_no_cls"])
    close(enhancer().blocks[0](found["block0_in"], None), found["block0_out"])


# --- the adapters ---


@torch.no_grad()
def test_mca() -> None:
    found, state = FOUND["mca_only"], FOUND["infuser"]["state_dicts"]["layer_norm"]
    attention, norm = Attention(64, 8, 32), nn.LayerNorm(64)
    inner = {name.removeprefix("blocks.0."): one for name, one in state.items()}
    norm.load_state_dict({name: inner[f"norm2.{name}"] for name in ("weight", "bias")})
    theirs = {name: name.replace("to_out", "to_out.0") for name in attention.state_dict()}
    attention.load_state_dict({ours: inner[f"attn2.{name}"] for ours, name in theirs.items()})
    close(attention(norm(found["q"]), found["kv"]), found["out"])


CASES = [(name, case) for name, cases in FOUND["infuser"]["outs"].items() for case in cases]


def infuser(norm: str, case: str, leaky: bool) -> Infuser:
    made = Infuser(
        64, 32, 8, "transformer", timesteps=1000 if norm == "ada_norm" else None, leaky=leaky,
        pool_space="spatial_avg=True" in case, pool_time="temporal_avg=True" in case,
    )  # fmt: skip
    filled(made, "infusers.0.", FOUND["infuser"]["state_dicts"][norm])
    return made.eval()


def test_cases() -> None:
    assert len(CASES) == 20 and sum("MASKED" in case for _, case in CASES) == 4


@pytest.mark.parametrize(("name", "case"), CASES)
@torch.no_grad()
def test_infuser(name: str, case: str) -> None:
    """All four average flags, both norms, K tokens or their mean; the leak where they are masked."""
    norm, mode = name.split("/")
    given = FOUND["infuser"]["inputs"]
    z = given["cond"].unflatten(0, (2, 3)).squeeze(2)
    z = z.mean(1, keepdim=True) if mode == "mean" else z
    masked = "MASKED" in case
    mask = given["encoder_mask"] if masked else None
    expected = FOUND["infuser"]["outs"][name][case]
    close(infuser(norm, case, masked)(given["x"], 5, z, mask, given["timestep"]), expected)
    if masked:
        sound = infuser(norm, case, False)(given["x"], 5, z, mask, given["timestep"])
        assert (sound - expected).abs().max() > 0.1


# --- RagInit ---


@pytest.mark.parametrize(("start", "expected"), [("first", "out_code"), ("last", "out_t999")])
def test_rag_init(start: str, expected: str) -> None:
    found = FOUND["raginit"]
    scheduler = DDIMScheduler(**found["scheduler_config"])
    scheduler.set_timesteps(found["num_inference_steps"])
    assert scheduler.timesteps.equal(found["timesteps"])
    close(rag_init(scheduler, found["latents"].transpose(1, 2), found["noise"], start=start), found[expected])
    assert (found["out_code"] - found["out_t999"]).abs().max() > 1e-3


# --- retrieval ---

RETRIEVAL = FOUND["retrieval"]


@functools.cache
def index(backend: str) -> Index:
    return Index(RETRIEVAL["vectors"], backend)


def same(found: Retrieved, expected: dict[str, Any], kind: str) -> None:
    assert found.ids.tolist() == expected[f"{kind}_ids"]
    close(found.similarities, torch.tensor(expected[f"{kind}_sims"]))
    assert found.mask.tolist() == [one >= 0 for one in expected[f"{kind}_ids"]]


@pytest.mark.parametrize("backend", ["faiss", "torch"])
@pytest.mark.parametrize("case", list(RETRIEVAL["results"]))
def test_retrieval(case: str, backend: str) -> None:
    expected, of = RETRIEVAL["results"][case], index(backend)
    who, ranks, *rest = case.split("_")
    k = int(ranks.removeprefix("k"))
    if who == "self":
        radius = {"radius099": 0.99, "radius101": 1.01}[rest[0]]
        query = RETRIEVAL["vectors"][RETRIEVAL["self_query_id"]]
        same(retrieve(query, of, k, rule="components", radius=radius), expected, "official")
        return
    query = RETRIEVAL["queries"][int(who[1])]
    dedup = {"dedup098": 0.98, "nodedup": None}[rest[0]] if rest else RETRIEVAL["dedup"]
    same(retrieve(query, of, k, dedup, rule="components"), expected, "official")
    if not rest:
        same(retrieve(query, of, k, dedup), expected, "greedy")
        least = RETRIEVAL["min_sim"]
        same(retrieve(query, of, k, dedup, least, "components"), expected, "minsim")
        assert retrieve(query, of, k, dedup, least, "components").mask.tolist() == expected["mask"]


def test_the_rules_differ_once() -> None:
    found = RETRIEVAL["results"]
    differ = [case for case, one in found.items() if "greedy_ids" in one and one["greedy_ids"] != one["official_ids"]]
    assert differ == ["q0_k20"]
    extra = set(found["q0_k20"]["greedy_ids"]) - set(found["q0_k20"]["official_ids"])
    assert extra == {195}


def test_video_embedding() -> None:
    found = RETRIEVAL["video_mean"]
    for frames, expected in zip(found["frames"], found["out"], strict=True):
        close(video_embedding(frames), expected[0])
    assert any((frames == 0).all(1).any() for frames in found["frames"])
