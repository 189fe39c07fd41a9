"""RagMe's study: what is retrieved, what adapters are trained on, and how clips are scored; in a small bank."""

import json
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from vtrlib.ragme import Config, RagMe, Retrieved
from vtrlib.ragme.tiny import FrameIndexUNet, tiny_unet
from vtrlib.studies import ragme as study
from vtrlib.world import DarkStage, card
from vtrlib.world.judges import motion_features, motions, trace

SIZE = 150


@cache
def known() -> study.Bank:
    return study.bank(SIZE)


@cache
def wanted() -> DarkStage:
    return DarkStage("val", size=6)


def noise(count: int = 6, seed: int = 0) -> Tensor:
    return torch.randn(count, 48, 8, 4, 4, generator=torch.Generator().manual_seed(seed))


def lively() -> FrameIndexUNet:
    """A U-Net whose last layers are not almost zero."""
    unet = tiny_unet(3)
    with torch.no_grad():
        for weight in unet.parameters():
            weight.add_(0.02 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
    return unet


def test_thresholds_are_the_declared_quantiles() -> None:
    videos = torch.nn.functional.normalize(known().frames.mean(1), dim=-1)
    pairs = sorted(float(videos[i] @ videos[j]) for i in range(SIZE) for j in range(i))
    assert known().dedup == pytest.approx(pairs[int(0.999 * len(pairs))], abs=1e-5)
    assert known().minimum["video"] == pytest.approx(pairs[int(0.99 * len(pairs))], abs=1e-5)
    asked = known().said(DarkStage("val").prompts())
    assert known().minimum["text"] == pytest.approx(float((asked @ videos.mT).quantile(0.99)), abs=1e-3)


def test_retrievers_against_loops() -> None:
    texts = wanted().prompts()
    asked = known().said(texts)
    frames = study.neighbours(known(), texts, wanted().motion, 4, "frames", dedup=False)
    for row, query in enumerate(asked):
        means = [sum(f / f.norm() for f in clip) for clip in known().frames]
        scores = torch.stack([query @ (one / one.norm()) for one in means])
        assert frames.ids[row].tolist() == scores.argsort(descending=True)[:4].tolist()
    captions = study.neighbours(known(), texts, wanted().motion, 4, "captions")
    for row, query in enumerate(asked):
        scores = torch.stack([query @ one for one in known().captions])
        best = scores.sort(descending=True).values[:4]  # equal captions have equal scores
        torch.testing.assert_close(captions.similarities[row], best, atol=1e-5, rtol=0)


def test_the_oracle_draws_the_motion_and_the_others_do_not_look_at_it() -> None:
    texts, motion = wanted().prompts(), wanted().motion
    oracle = study.neighbours(known(), texts, motion, 5, "motion", seed=1)
    assert (known().stage.motion[oracle.ids] == motion[:, None]).all()
    assert study.precision(known(), oracle, motion) == 1
    assert all(len(set(row)) == 5 for row in oracle.ids.tolist())
    again = study.neighbours(known(), texts, motion, 5, "motion", seed=2)
    assert (again.ids != oracle.ids).any()
    for how in ("frames", "captions", "random"):
        other = torch.tensor(card.OPPOSITE)[motion]
        one, two = (study.neighbours(known(), texts, way, 5, how, seed=1) for way in (motion, other))
        assert torch.equal(one.ids, two.ids)


def test_an_oracle_without_enough_clips_says_so_by_its_mask() -> None:
    rare = int(known().stage.motion.bincount().argmin())
    there = int((known().stage.motion == rare).sum())
    found = study.neighbours(known(), ["a red seven"], torch.tensor([rare]), there + 3, "motion")
    assert found.mask.sum() == there and (found.ids[0, there:] == -1).all()
    half = Retrieved(torch.tensor([[0, -1]]), torch.zeros(1, 2), torch.tensor([[True, False]]))
    assert study.precision(known(), half, known().stage.motion[:1]) == 1
    none = Retrieved(torch.tensor([[-1]]), torch.zeros(1, 1), torch.tensor([[False]]))
    assert study.precision(known(), none, known().stage.motion[:1]) == 0


def test_more_neighbours_than_there_are_clips() -> None:
    bank, asked = known(), ["a red seven"]
    way = torch.tensor([0])
    for how in study.RETRIEVERS:
        found = study.neighbours(bank, asked, way, len(bank.stage) + 3, how)
        assert found.ids.shape == found.mask.shape == (1, len(bank.stage) + 3)
        assert (found.ids[~found.mask] == -1).all() and 0 < found.mask.sum() <= len(bank.stage)
        with pytest.raises(ValueError, match="k=0: expected at least 1"):
            study.neighbours(bank, asked, way, 0, how)


def test_training_clips_are_shown_others() -> None:
    rows = list(range(40))
    similar = study.Adapting(known(), "similar", k=3)
    assert similar.found is not None
    for row in rows:
        assert row not in similar.found.ids[row][similar.found.mask[row]].tolist()
    same = study.Adapting(known(), "motion", k=3, empty=0.0)
    torch.manual_seed(0)
    batch = same.__getitems__(rows)
    for row in rows:
        for z in batch["z"][row][batch["mask"][row]]:
            places = (known().frames == z).flatten(1).all(1).nonzero().flatten().tolist()  # twins look the same
            assert row not in places
            assert {int(known().stage.motion[place]) for place in places} == {int(known().stage.motion[row])}
    torch.testing.assert_close(batch["text_states"], known().states(known().stage.prompts(motion=False)[:40]))
    nothing = study.Adapting(known(), "nothing", empty=1.0).__getitems__(rows)
    assert set(nothing) == {"latents", "text_states"}
    torch.testing.assert_close(nothing["text_states"], known().states([""]).expand(40, -1, -1))


@pytest.mark.parametrize("shown", ["similar", "motion", "nothing"])
def test_adapting_trains_what_it_should(shown: str) -> None:
    base = lively()
    before = {name: weight.clone() for name, weight in base.state_dict().items()}
    model, losses = study.adapt(known(), base, shown, seed=1, steps=3, rate=1e-3, batch=4, k=2)
    assert len(losses) == 3
    assert all(torch.equal(weight, before[name]) for name, weight in base.state_dict().items())
    moved = {name for name, weight in model.unet.state_dict().items() if not torch.equal(weight, before[name])}
    if shown == "nothing":
        assert moved and all("temp_attentions" in name for name in moved)
        assert not any(one.zero.weight.any() for one in model.infusers)
    else:
        assert not moved and all(one.zero.weight.any() for one in model.infusers)
    again = study.adapt(known(), base, shown, seed=1, steps=3, rate=1e-3, batch=4, k=2)[1]
    assert again == losses


def test_clips_do_not_depend_on_the_batch_they_are_made_in() -> None:
    model = RagMe(lively(), Config(**study.SIZES)).eval()
    with torch.no_grad():
        for one in model.infusers:
            one.zero.weight.normal_(0, 0.1, generator=torch.Generator().manual_seed(0))
    near = study.neighbours(known(), wanted().prompts(), wanted().motion, 3, "motion")
    ways = {"rag_ca": True, "rag_init": True, "steps": 3}
    whole = study.generate(known(), model, wanted().prompts(), noise(), near, **ways)
    parts = study.generate(known(), model, wanted().prompts(), noise(), near, batch=4, **ways)
    torch.testing.assert_close(whole, parts, atol=1e-4, rtol=1e-4)
    plain = study.generate(known(), model, wanted().prompts(), noise(), near, steps=3)
    assert (whole - plain).abs().max() > 0.01


def test_real_clips_are_judged_to_be_real() -> None:
    latents = known().codec.encode(known().stage.frames)
    found = study.judged(known(), latents, known().stage)
    assert found["motion"] > 99 and found["colour"] == 100 and found["none"] < 1 and found["direction"] > 99
    assert found["motion distance"] == pytest.approx(0, abs=1e-5)
    assert found["appearance distance"] == pytest.approx(0, abs=1e-2)
    assert found["copy"] == pytest.approx(1, abs=1e-5) and 85 < found["dynamic"] < 95


def test_scores_against_loops() -> None:
    latents = known().codec.encode(wanted().frames)
    latents[:2] = latents[:2].flip(2)
    near = study.neighbours(known(), wanted().prompts(), wanted().motion, 2, "random", seed=3)
    found = study.judged(known(), latents, wanted(), near)
    clips = known().codec.decode(latents)
    said = motions(trace(clips)).tolist()
    truth = wanted().motion.tolist()
    assert found["motion"] == pytest.approx(100 * sum(a == b for a, b in zip(said, truth, strict=True)) / 6)
    axes = [a // 2 == b // 2 for a, b in zip(said, truth, strict=True)]
    assert found["axis"] == pytest.approx(100 * sum(axes) / 6)
    ways = [a == b for a, b, axis in zip(said, truth, axes, strict=True) if axis and b < 6]
    assert found["direction"] == pytest.approx(100 * sum(ways) / len(ways))
    features = motion_features(trace(clips))
    assert found["path"] == pytest.approx(float(features[:, 5].mean()), rel=1e-5)
    own = latents.flatten(1) - known().mean
    alike = torch.tensor(
        [[float(torch.cosine_similarity(one, other.flatten() - known().mean, dim=0)) for other in known().latents]
         for one in own]
    )  # fmt: skip
    assert found["copy"] == pytest.approx(float(alike.max(1).values.mean()), abs=1e-4)
    nearest = [max(float(alike[row, i]) for i in ids) for row, ids in enumerate(near.ids.tolist())]
    assert found["copy of neighbour"] == pytest.approx(sum(nearest) / 6, abs=1e-4)
    told = known().said(wanted().prompts(motion=False))
    cosines = [float(torch.stack([f @ t for f in clip]).mean()) for clip, t in zip(known().seen(clips), told, strict=True)]
    assert found["alignment"] == pytest.approx(sum(cosines) / 6, abs=1e-4)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Experiments on the small bank, an untrained base and few steps."""
    monkeypatch.setattr(study, "_base", lively)
    few = known()  # before it is patched
    monkeypatch.setattr(study, "bank", lambda size=None: few)
    monkeypatch.setitem(study.generate.__kwdefaults__, "steps", 2)


def clips(seed: int, told: bool, shown: str = "", **ways: object) -> dict[str, float]:
    """What the main table's ways come to, step by step."""
    asked = DarkStage("test", size=3)
    start = torch.randn(3, 48, 8, 4, 4, generator=torch.Generator().manual_seed(seed))
    model = RagMe(lively(), Config(**study.SIZES)).eval()
    if shown:
        rate = {"similar": 1e-2, "nothing": 3e-3}[shown]
        model, _ = study.adapt(known(), lively(), shown, seed=seed, steps=2, rate=rate, k=2)
    made = study.generate(known(), model, asked.prompts(motion=told), start, **ways)  # type: ignore[arg-type]
    return study.judged(known(), made, asked, ways.get("found"))  # type: ignore[arg-type]


def test_the_main_table_says_what_it_is(small: None) -> None:
    found = study.main_table(1, prompts=3, steps=2, rate=1e-2, tuned_rate=3e-3, k=2)
    asked = DarkStage("test", size=3)
    for name, expected in {
        "real": study.judged(known(), known().codec.encode(asked.frames), asked),
        "base": clips(1, told=False),
        "told": clips(1, told=True),
        "finetuned": clips(1, False, "nothing"),
        "RagInit, motion": clips(1, False, found=near_of(asked, "motion", 1), rag_init=True),
        "RagCA, captions": clips(1, False, "similar", found=near_of(asked, "captions", 1), rag_ca=True),
        "both, frames": clips(1, False, "similar", found=near_of(asked, "frames", 1), rag_ca=True, rag_init=True),
    }.items():
        for key, value in expected.items():
            assert found[f"{name}/{key}"] == pytest.approx(value, rel=1e-4, abs=1e-4), (name, key)
    assert found["motion/precision"] == 100
    assert found["RagCA, captions/jerk"] != found["base/jerk"] != found["finetuned/jerk"]


def near_of(asked: DarkStage, how: str, seed: int) -> Retrieved:
    return study.neighbours(known(), asked.prompts(), asked.motion, 2, how, seed=seed)


def test_adapters_are_written_as_they_are_scored(
    small: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    how = {"shown": "motion", "positions": 8, "seed": 3, "steps": 2, "rate": 1e-2}
    monkeypatch.setattr(study, "ADAPTED", {"mine": how})
    monkeypatch.setattr("vtrlib.ragme.tiny.GENERATOR", tmp_path)
    made: list[Tensor] = []
    real = study.judged
    monkeypatch.setattr(study, "judged", lambda bank, one, asked: made.append(one) or real(bank, one, asked))
    study.ship_adapters(tmp_path / "adapters", prompts=3)
    model = study.adapted("mine")
    expected, _ = study.adapt(known(), lively(), **how)
    for key, weight in model.added().items():
        assert weight.equal(expected.added()[key].half().float())
    facts = json.loads((tmp_path / "adapters" / "mine" / "recipe.json").read_text("utf-8"))
    assert facts.items() >= how.items() and set(facts["scores"]) == {"nothing", "frames", "captions", "motion"}
    asked = DarkStage("val", size=3)
    noise = torch.randn(3, 48, 8, 4, 4, generator=torch.Generator().manual_seed(0))
    found = study.neighbours(known(), asked.prompts(), asked.motion, 5, "captions")
    again = study.generate(known(), model, asked.prompts(motion=False), noise, found, rag_ca=True)
    assert made[2].equal(again) and not made[0].equal(again)
    with pytest.raises(ValueError, match="sha256"):
        (tmp_path / "adapters" / "mine" / "model.safetensors").write_bytes(b"other")
        study.adapted("mine")


def test_positions_are_shown_the_right_clips_and_their_reverse(small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    real = study.judged

    def watched(bank: study.Bank, made: Tensor, asked: DarkStage, found: Retrieved) -> dict[str, float]:
        captions = study.neighbours(bank, asked.prompts(), asked.motion, 2, "captions")
        for name, expected in (("right", asked.motion), ("reverse", torch.tensor(card.OPPOSITE)[asked.motion])):
            if bool((bank.stage.motion[found.ids] == expected[:, None]).all()):
                shown.append(name)
        if torch.equal(found.ids, captions.ids):
            shown.append("captions")
        assert len(made) == 3
        return real(bank, made, asked, found)

    monkeypatch.setattr(study, "judged", watched)
    found = study.positions(0, prompts=3, steps=1, rate=1e-3, k=2, guidance=1.0)
    assert shown == ["right", "reverse", "captions"] * 4
    names = {name.split("/")[0] for name in found}
    assert len(names) == 12 and "motion, no positions, reverse" in names


def test_sweeps_change_one_rule_at_a_time(small: None) -> None:
    how = {"ks": [1, 4], "twins": [4], "minima": [4], "samplings": [2, 3]}
    found = study.sweeps(0, prompts=3, steps=1, rate=1e-3, guidance=1.0, **how)
    names = {name.split("/")[0] for name in found}
    assert {"RagCA, K=4", "RagCA, K=4, twins kept", "RagCA, K=4, minimum", "RagInit, motion, K=4"} <= names
    assert "RagCA, K=1" in names and not {"RagCA, K=1, twins kept", "RagCA, K=1, minimum"} & names
    assert {"base, 3 steps", "RagInit, motion, 3 steps", "RagInit, motion, 3 steps, first"} <= names
    assert found["RagCA, K=4, twins kept/shown"] == found["RagInit, motion, K=4/shown"] == 4
    assert found["RagCA, K=4, minimum/shown"] <= found["RagCA, K=4/shown"] <= 4
    assert found["RagCA, K=1/shown"] == 1


def test_readings_are_trained_as_they_are_asked(small: None) -> None:
    found = study.readings(0, prompts=2, steps=1, rate=1e-3, k=2, switches=["tokens", "block"], guidance=1.0)
    assert {name.split("/")[0] for name in found} == {"paper", "tokens", "block", "all four"}


def test_latency_measures_every_part(small: None) -> None:
    found = study.latency(0, repeats=2, steps=2, k=2)
    parts = {"embed", "retrieve", "enhance", "encode", "base", "RagInit", "RagCA", "both"}
    assert {name.removesuffix(" ms") for name in found if name.endswith(" ms")} == parts
    assert min(found.values()) > 0
    assert found["both ratio"] == pytest.approx(found["both ms"] / found["base ms"])
