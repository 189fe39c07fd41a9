"""The study of PIG on the world: its models, its clips, what it measures, against loops and other libraries."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from sklearn.metrics import average_precision_score
from torch import Tensor

import vtrlib.pig
from vtrlib import experiments, ledger
from vtrlib.clip import load
from vtrlib.pig import PIG, Config, Reading, Videos, select
from vtrlib.studies import clips as shared
from vtrlib.studies import pig as study
from vtrlib.studies import pig_pairs
from vtrlib.studies import pig_tables as tables
from vtrlib.studies.clips import Clips
from vtrlib.training import History
from vtrlib.world import MovingDigits, card
from vtrlib.world.captioner import ERROR_EVERY, erroneous
from vtrlib.world.grammar import MOTION_PHRASES
from vtrlib.world.video import Video

STARTED: dict[str, Any] = {"seed": 3, "batch": 4, "steps": 20, "rate": 1e-3, "until": 1, "quiet": True}
BARE = {"pseudo_query": "none", "fusioner": "none", "alpha": 0.0}
# What each model is, told once more: what differs from PIG.
EXPECTED: dict[str, dict[str, Any]] = {
    "PIG": {},
    "w/o L_recon": {"alpha": 0.0},
    "L_recon in stage 1 alone": {"alpha": 0.0},
    "w/o stage 1": {},
    "x_v": {"inputs": "x_v"},
    "x_v, x_f": {"inputs": "x_v+x_f"},
    "x_f, x_ip": {"inputs": "x_f+x_ip"},
    "MLP": {"pseudo_query": "mlp"},
    "Q-Former": {"pseudo_query": "qformer"},
    "cross": {"fusioner": "cross"},
    "cross, no residual": {"fusioner": "cross", "residual": False},
    "co": {"fusioner": "co"},
    "co, no residual": {"fusioner": "co", "residual": False},
    "captions of a frame": {"pseudo_query": "captions", "alpha": 0.0},
    "captions with motion": {"pseudo_query": "captions", "alpha": 0.0},
    "CLIP4Clip": {**BARE, "backbone": "clip4clip"},
    "CLIP-ViP": {**BARE, "frame_cls": False},
    "PIG on CLIP4Clip": {"backbone": "clip4clip"},
    "single tower": {"pseudo_query": "query", "alpha": 0.0},
    "single tower on CLIP4Clip": {"pseudo_query": "query", "alpha": 0.0, "backbone": "clip4clip"},
}
SPOKEN = {"captions of a frame": "frame", "captions with motion": "motion"}
GENERATE = [name for name, changes in EXPECTED.items() if changes.get("pseudo_query") in (None, "mlp", "qformer")]
IN_BOTH = [name for name in GENERATE if name not in ("w/o L_recon", "w/o stage 1")]


@pytest.fixture(scope="module")
def data() -> pig_pairs.Pairs:
    return study.pairs("val", 26)


@pytest.fixture(scope="module")
def lively() -> PIG:
    """PIG whose temporal embedding and fusioner aren't as they start, so that time and pseudo-queries show."""
    model, generator = study.build(study.settings(), 2), torch.Generator().manual_seed(4)
    with torch.no_grad():
        time = model.clip.vision_model.embeddings.temporal_embedding
        time.copy_(torch.randn(time.shape, generator=generator))
        for weight in model.fusioner.parameters():  # type: ignore[union-attr]
            weight.add_(0.1 * torch.randn(weight.shape, generator=generator))
    return model


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cos(a: Tensor, b: Tensor) -> float:
    return float(torch.dot(a, b) / math.sqrt(float(torch.dot(a, a)) * float(torch.dot(b, b))))


def moved(one: PIG, other: PIG) -> set[str]:
    """The parts that differ."""
    weights = dict(other.named_parameters())
    return {name.split(".")[0] for name, weight in one.named_parameters() if not torch.equal(weight, weights[name])}


def differing(one: Any, other: Any) -> dict[str, Any]:
    """The fields of a dataclass in which it differs from another."""
    return {name: value for name, value in vars(one).items() if vars(other)[name] != value}


def bare(config: Config) -> Config:
    """A model's configuration as it was before the tiny CLIP's sizes came in."""
    return replace(config, clip={})


# --- models ---


def test_every_model_is_what_its_name_says() -> None:
    assert study.MODELS.keys() == EXPECTED.keys()
    base = {"frames": 8, "top": 16, "logit_scale": None}
    for name, changes in EXPECTED.items():
        assert study.settings(name) == Config(**base, **changes), name
        assert study.MODELS[name].captions == SPOKEN.get(name), name
        assert (study.MODELS[name].first and study.settings(name).generates) == (name in IN_BOTH), name
    assert study.settings() == study.settings("PIG") and len(IN_BOTH) == len(EXPECTED) - 8


def test_tables_compare_models_that_there_are() -> None:
    setups = ["pig", "no_recon", "x_v", "x_v_x_f", "x_f_x_ip", "mlp", "qformer", "cross", "co", "captions", "captions"]
    assert [study.MODELS[name].variant for name in study.TABLE_2] == setups
    assert [study.MODELS[name].variant for name in study.BACKBONES] == ["clip4clip", "clip_vip", "pig_clip4clip", "pig"]
    assert len({*study.TABLE_2, *study.BACKBONES}) == 14
    for names in (tables.CROSS, tables.GRID, tables.FIRST_GRID):
        assert set(names) < study.MODELS.keys()
    assert set(tables.FIRST_GRID) <= set(IN_BOTH)


def test_readings_and_changes_reach_the_settings() -> None:
    assert study.settings().reading == Reading.released()
    assert study.settings("co", "paper").reading == Reading.paper()
    found = study.settings("single tower on CLIP4Clip", top=3, backbone="clip_vip")
    assert differing(found, study.settings("single tower")) == {"top": 3}


def test_a_model_is_the_tiny_clip_with_new_weights_from_a_seed() -> None:
    clip, before = load("tiny").model, torch.random.get_rng_state()
    one, again, other = (study.build(study.settings(), seed) for seed in (1, 1, 2))
    assert torch.equal(before, torch.random.get_rng_state()) and not moved(one, again)
    assert moved(one, other) == {"clip", "generator"}, "proxies and the mapper are drawn"
    own, known = one.clip.state_dict(), clip.state_dict()
    shared_names = own.keys() & known.keys()
    assert shared_names >= {"logit_scale", "text_projection.weight", "visual_projection.weight"}
    assert all(torch.equal(own[name], known[name]) for name in shared_names)
    assert own["vision_model.embeddings.temporal_embedding"].shape == (1, 8, 128)
    found = one.encode_video(study.pairs("val", 26).clips.pixels(torch.tensor([1])), whole=False)
    assert found.informativeness.shape == (1, 8, 16) and found.selected.shape == (1, 16)


def test_sweeps_change_one_setting_of_pig() -> None:
    base, made = study.settings(), tables.swept({"top": [1, 16, 5], "alpha": [0.0, 1.0, 2.0]})
    assert made == {
        "PIG": base, "top=1": replace(base, top=1), "top=5": replace(base, top=5),
        "alpha=0.0": replace(base, alpha=0.0), "alpha=2.0": replace(base, alpha=2.0),
    }  # fmt: skip
    assert made["alpha=0.0"] == study.settings("L_recon in stage 1 alone")
    assert list(tables.swept(tables.SWEPT)) == [
        "PIG", "top=1", "top=4", "top=8", "top=32", "alpha=0.0", "alpha=0.5", "alpha=2.0", "alpha=4.0"
    ]  # fmt: skip
    assert base.top in tables.SWEPT["top"] and base.weight() in tables.SWEPT["alpha"]


def test_readings_differ_by_one_switch() -> None:
    made = {name: asdict(reading) for name, reading in tables.read(tables.SINGLE).items()}
    base, paper = made.pop("released"), made.pop("paper")
    assert made.keys() == {name for name in base if base[name] != paper[name]} and len(made) == 6
    for name, switches in made.items():
        assert switches == base | {name: paper[name]}


def test_rates_are_the_best_of_their_rows() -> None:
    rows = ledger.read_rows(ledger.results_folder())

    def tried(row: str) -> dict[str, dict[float, float]]:
        found: dict[str, dict[float, float]] = {}
        for key, (value,) in rows[row].metrics.items():
            name, _, rate = key.rpartition("/")
            found.setdefault(name, {})[float(rate)] = value
        return found

    second = tried("pig-rates")
    assert second.keys() == tables.GRID.keys() and rows["pig-rates"].config["first"] == study.FIRST_RATE
    for values in second.values():
        assert max(values, key=values.__getitem__) == study.RATE and min(values) < study.RATE < max(values)
    first = tried("pig-first-rates")
    assert first.keys() == tables.FIRST_GRID.keys()
    in_all = {rate: sum(values[rate] for values in first.values()) for rate in first["PIG"]}
    for values in (in_all, first["PIG"]):
        assert max(values, key=values.__getitem__) == study.FIRST_RATE and min(values) < study.FIRST_RATE < max(values)


def test_experiments_are_registered_with_these_rates() -> None:
    names = ("first-rates", "rates", "ablations", "sweeps", "readings", "cross-domain", "hits", "frame-attention")
    for name in names:
        known = experiments.REGISTRY[f"pig-{name}"]
        assert known.config["steps"] == study.STEPS and known.canary is not None
        assert known.config.get("rate", study.RATE) == study.RATE
        assert known.config.get("first", study.FIRST_RATE) == study.FIRST_RATE
        assert ("rates" in name) == (known.seeds == (100,)), "rates are chosen at a seed that nothing else uses"
        assert "rates" in name or 100 not in known.seeds


# --- clips ---


def test_a_batch_holds_frames_captions_and_wordings(data: pig_pairs.Pairs) -> None:
    tokenizer, world = load("tiny").tokenizer, data.clips.world
    batch = data.batch(torch.tensor([3, 25, 0]), torch.tensor([1, 2, 0]))
    assert set(batch) == {"video", "text_input_ids", "text_input_mask"}
    for row, (video, wording) in enumerate([(3, 1), (25, 2), (0, 0)]):
        text = tokenizer.decode(batch["text_input_ids"][row], skip_special_tokens=True)
        assert text == world.queries(wording)[video].text
        assert batch["text_input_mask"][row].sum() == len(text.split()) + 2
        assert torch.equal(batch["video"][row], (world[video].frames / 255 - 0.5) / 0.5)
    assert torch.equal(data.batch(torch.tensor([5]))["text_input_ids"][0], data.clips.ids[0, 5])


def test_wordings_are_drawn_from_torch_s_seed_and_all_occur(data: pig_pairs.Pairs) -> None:
    rows = [7] * 60
    torch.manual_seed(0)
    first, second = (data.__getitems__(rows)["text_input_ids"] for _ in range(2))
    torch.manual_seed(0)
    assert torch.equal(data.__getitems__(rows)["text_input_ids"], first) and not torch.equal(first, second)
    assert {tuple(row.tolist()) for row in first} == {tuple(row.tolist()) for row in data.clips.ids[:, 7]}
    assert len(data) == 26 and len(first.unique(dim=0)) == 3


def test_pairs_are_made_once_and_share_their_clips(data: pig_pairs.Pairs) -> None:
    assert study.pairs("val", size=26, captions=None, domain="all") is data
    said = study.pairs("val", 26, "frame")
    assert said is not data and said.clips is data.clips and study.pairs("val", 26, captions="frame") is said
    seen = study.pairs("val", 26, domain="seen scenes")
    assert seen.clips is not data.clips and seen.clips.world.domain == "seen scenes"


@pytest.mark.parametrize("who", ["frame", "motion"])
def test_captions_of_a_captioner_reach_the_batch(who: str) -> None:
    said, tokenizer = study.pairs("val", 26, who), load("tiny").tokenizer
    texts = pig_pairs.spoken(said.clips, who)
    batch = said.batch(torch.tensor([9, 2, 9]), torch.tensor([0, 1, 2]))
    found = tokenizer.batch_decode(batch["caption_input_ids"], skip_special_tokens=True)
    assert found == [texts[9], texts[2], texts[9]]
    assert batch["caption_input_mask"].sum(1).tolist() == [len(text.split()) + 2 for text in found]
    plain = study.pairs("val", 26).batch(torch.tensor([9, 2, 9]), torch.tensor([0, 1, 2]))
    assert all(torch.equal(batch[name], x) for name, x in plain.items())  # type: ignore[literal-required]


@pytest.fixture(scope="module")
def val() -> Clips:
    return study.pairs("val").clips


@pytest.fixture(scope="module")
def videos(val: Clips) -> list[Video]:
    """The same with all that is known of them."""
    return val.world.__getitems__(range(len(val)))


def test_a_captioner_names_what_the_first_frame_with_a_digit_shows(val: Clips, videos: list[Video]) -> None:
    found, wrong, late = pig_pairs.spoken(val, "frame"), 0, 0
    assert len(found) == 300
    for text, video in zip(found, videos, strict=True):
        first = next(f for f in range(8) if video.mask[f].any())
        late += first > 0
        shown, scene = video.frame_captions[first], card.SCENE_CUES[video.scene]
        assert shown.endswith(f" {scene}")
        right = shown.removesuffix(f" {scene}")
        event, words = video.moments[0].event, text.split()
        named = [name in words for name in (card.DIGIT_WORDS[event.digit], card.COLOURS[event.colour])]
        assert (text == right) == all(named) == (not erroneous(val.world, video.index, 8)[first])
        if text != right:
            assert sum(named) == 1, "digit or colour, not both"
            changed = [pair for pair in zip(text.split()[1:], right.split()[1:], strict=True) if len(set(pair)) > 1]
            assert len(changed) == 1  # the article may change with it
            wrong += 1
    assert late > 0, "some digits blink"
    share = 1 / ERROR_EVERY
    assert share == 1 / 8 and abs(wrong / 300 - share) < 3 * (share * (1 - share) / 300) ** 0.5


def test_a_captioner_leaks_neither_query_nor_scene_and_one_of_them_no_motion(
    val: Clips, videos: list[Video], monkeypatch: pytest.MonkeyPatch
) -> None:
    texts, moving = pig_pairs.spoken(val, "frame"), pig_pairs.spoken(val, "motion")
    motions = {word for phrases in MOTION_PHRASES for phrase in phrases for word in (phrase, phrase.split()[0])}
    for text in texts:
        assert not any(cue in text for cue in (*card.SCENE_CUES, *card.COARSE_CUES, "fog"))
        assert not motions & {*text.split()} and not any(phrase in text for phrase in motions if " " in phrase)
    for text, moved_, video in zip(texts, moving, videos, strict=True):
        assert moved_ == f"{text} that {MOTION_PHRASES[video.moments[0].event.motion][0]}"
    original = MovingDigits.queries
    monkeypatch.setattr(MovingDigits, "queries", lambda world, _=0: original(world, 2))
    assert pig_pairs.spoken(val, "frame") == texts and pig_pairs.spoken(val, "motion") == moving
    with pytest.raises(ValueError, match="who='frames': expected one of 'frame', 'motion'. Did you mean 'frame'"):
        pig_pairs.spoken(val, "frames")


def test_pixels_of_the_digit_and_tokens_of_sentences(data: pig_pairs.Pairs) -> None:
    videos = data.clips.world.__getitems__(range(26))
    assert data.clips.digit.dtype == torch.bool
    assert torch.equal(data.clips.digit, torch.stack([video.mask for video in videos]))
    said = ["a red seven", "the digit nine painted white rises by the sea"]
    ids, mask = data.clips.tokenize(tuple(said))
    assert load("tiny").tokenizer.batch_decode(ids, skip_special_tokens=True) == said
    assert mask.shape == ids.shape == (2, 11) and mask.sum(1).tolist() == [5, 11]


@pytest.mark.parametrize("kind", ["scenes", "colours"])
def test_clips_of_a_domain_hold_its_scenes_and_colours_alone(kind: str) -> None:
    shown: dict[str, set[int]] = {}
    for side in ("seen", "unseen"):
        domain = f"{side} {kind}"
        clips = study.pairs("test", 60, domain=domain).clips
        videos, (scenes, colours) = clips.world.__getitems__(range(60)), card.DOMAINS[domain]
        assert {video.scene for video in videos} == set(scenes)
        assert {video.moments[0].event.colour for video in videos} == set(colours)
        assert torch.equal(clips.frames, torch.stack([video.frames for video in videos]))
        elsewhere = [name for number, name in enumerate(card.COLOURS) if number not in colours]
        said = " ".join(query.text for wording in range(3) for query in clips.world.queries(wording)).split()
        assert not set(elsewhere) & set(said)
        told = " ".join(pig_pairs.spoken(clips, "frame")).split()
        assert not set(elsewhere) & set(told), "nor are captions wrong by a colour that isn't there"
        shown[side] = set(scenes if kind == "scenes" else colours)
    assert not shown["seen"] & shown["unseen"] and shown["seen"] | shown["unseen"] == set(range(6))


# --- measures of clips and features ---


def ranks(table: Tensor, rows: Any = None) -> list[int]:
    """Of the diagonal, by counting; equal scores are none here."""
    return [1 + sum(bool(x > table[v, v]) for x in table[v]) for v in (range(len(table)) if rows is None else rows)]


def recalls(found: list[int]) -> dict[str, float]:
    hits = {f"R@{k}": 100 * sum(rank <= k for rank in found) / len(found) for k in (1, 5, 10)}
    return hits | {"R@sum": sum(hits.values()), "MnR": sum(found) / len(found)}


def retrieved(scores: Tensor, sensitive: list[bool], true: Tensor) -> dict[str, float]:
    """What `retrieved` should give, by loops."""
    found, number = {}, len(scores)
    groups = {"": range(number), "order-sensitive ": [v for v in range(number) if sensitive[v]]}
    groups["order-free "] = [v for v in range(number) if not sensitive[v]]
    for group, rows in groups.items():
        for way, table in (("t2v", scores), ("v2t", scores.T)):
            if len(rows):
                values = recalls(ranks(table, rows))
                found |= {f"{group}{way} {name}": x for name, x in values.items() if name != "MnR" or not group}
    best = [1 + sum(bool(x > scores[v][true[v]].max()) for x in scores[v]) for v in range(number)]
    found |= {f"true t2v R@{k}": 100 * sum(rank <= k for rank in best) / number for k in (1, 5, 10)}
    return found | {"R@sum": found["t2v R@sum"] + found["v2t R@sum"]}


class Told:
    """As much of `Clips` as `retrieved` reads."""

    def __init__(self, sensitive: list[bool], true: Tensor) -> None:
        self.order_sensitive, self.true_positives = torch.tensor(sensitive), true

    def __len__(self) -> int:
        return len(self.order_sensitive)


@pytest.mark.parametrize("sensitive", ["some", "none", "all"])
def test_retrieval_against_loops(sensitive: str) -> None:
    number = 13
    scores = normal(number, number, seed=1) + torch.eye(number)
    true = (normal(number, number, seed=2) > 0.5) | torch.eye(number, dtype=torch.bool)
    kinds = {"some": [v % 3 > 0 for v in range(number)], "none": [False] * number, "all": [True] * number}[sensitive]
    found = shared.retrieved(scores, Told(kinds, true))  # type: ignore[arg-type]
    assert found == pytest.approx(retrieved(scores, kinds, true))
    assert found["true t2v R@1"] > found["t2v R@1"] != found["v2t R@1"]
    assert any(name.startswith("order-sensitive") for name in found) == (sensitive != "none")
    assert any(name.startswith("order-free") for name in found) == (sensitive != "all")


def test_a_lead_within_rounding_is_a_tie() -> None:
    lead = torch.tensor([1.0, 2e-5, 5e-6, 0.0, -5e-6, -2e-5, -3.0])
    assert shared.led(lead).tolist() == [1, 1, 0.5, 0.5, 0.5, 0, 0]


def test_patches_that_show_the_digit_against_loops_over_pixels(data: pig_pairs.Pairs) -> None:
    generator = torch.Generator().manual_seed(6)
    sparse = torch.rand(3, 5, 32, 32, generator=generator) > 0.995
    some: Any = SimpleNamespace(digit=torch.cat([data.clips.digit[[0, 9], :5], sparse]))
    found = study.shows_digit(some)
    expected = torch.zeros(5, 5, 16, dtype=torch.bool)
    for v, f, row, column in some.digit.nonzero().tolist():
        expected[v, f, row // 8 * 4 + column // 8] = True
    assert torch.equal(found, expected) and 0.2 < expected[2:].double().mean() < 0.8


def test_patches_are_numbered_as_the_model_numbers_them() -> None:
    embed: Any = study.build(study.settings()).clip.vision_model.embeddings
    layout, start = embed.layout(3), torch.zeros(1, 3, 3, 32, 32)
    before = embed(start)
    for frame, row, column in ((0, 0, 31), (1, 9, 2), (2, 30, 17)):
        pixels, digit = start.clone(), torch.zeros(1, 3, 32, 32, dtype=torch.bool)
        pixels[0, frame, :, row, column] = 1
        digit[0, frame, row, column] = True
        (place,) = (embed(pixels) != before).any(-1)[0].nonzero().flatten().tolist()
        clip: Any = SimpleNamespace(digit=digit)
        flat = study.shows_digit(clip).flatten().nonzero().flatten()
        assert layout.patch_places(flat).tolist() == [place]


def test_hits_against_loops() -> None:
    true = normal(5, 3, 7, seed=3) > 0.3
    selected = torch.stack([torch.randperm(21, generator=torch.Generator().manual_seed(v))[:9] for v in range(5)])
    expected = [sum(bool(true[v][s // 7][s % 7]) for s in selected[v].tolist()) / 9 for v in range(5)]
    assert study.hits(selected, true).tolist() == pytest.approx(expected) and len(set(expected)) > 2


def naive_mixing(a: Tensor, b: Tensor, neighbours: int) -> float:
    points = [(x, "a") for x in a] + [(x, "b") for x in b]
    other = 0
    for i, (x, kind) in enumerate(points):
        near = sorted((-cos(x, y), k) for j, (y, k) in enumerate(points) if j != i)
        other += sum(k != kind for _, k in near[:neighbours])
    share = other / (len(points) * neighbours)
    return share / (len(a) / (2 * len(a) - 1))


def naive_gap(a: Tensor, b: Tensor) -> float:
    means = []
    for cloud in (a, b):
        units = [[float(x) / math.sqrt(float(row @ row)) for x in row] for row in cloud]
        means.append([sum(column) / len(cloud) for column in zip(*units, strict=True)])
    return math.dist(*means)


@pytest.mark.parametrize("neighbours", [1, 3, 10])
def test_mixing_against_loops(neighbours: int) -> None:
    a, b = normal(7, 5, seed=0), normal(7, 5, seed=1) + 0.7
    found = study.mixing(a, b, neighbours)
    assert found == pytest.approx(naive_mixing(a, b, neighbours)) == study.mixing(b, a, neighbours)
    lengths = torch.linspace(0.1, 9, 7, dtype=torch.float64)[:, None]
    assert study.mixing(a * lengths, b, neighbours) == pytest.approx(found), "cosines know no lengths"


def test_limits_of_mixing() -> None:
    a, far = normal(31, 6, seed=0) + 20, normal(31, 6, seed=1) - 20
    assert study.mixing(a, far) == 0
    cloud = normal(802, 6, seed=2)
    dealt = torch.randperm(802, generator=torch.Generator().manual_seed(0))
    assert study.mixing(cloud[dealt[:401]], cloud[dealt[401:]]) == pytest.approx(1, abs=0.06)
    a = normal(31, 6, seed=3)
    paired = a + 1e-3 * normal(31, 6, seed=4)
    assert study.mixing(a, paired, 1) == pytest.approx(61 / 31) and study.mixing(a, paired) > 1.05


def test_the_modality_gap_against_loops_and_its_limits() -> None:
    a, b = normal(7, 5, seed=0), 3 * normal(4, 5, seed=1) + 0.7
    assert study.modality_gap(a, b) == pytest.approx(naive_gap(a, b)) == study.modality_gap(b, 9 * a)
    x = normal(1, 5, seed=2)
    assert study.modality_gap(x.expand(3, 5), -2 * x) == pytest.approx(2)
    assert study.modality_gap(a, a.flip(0)) == pytest.approx(0, abs=1e-12)


def test_what_is_said_of_pseudo_queries_against_loops() -> None:
    number = 7
    texts, v = normal(number, 5, seed=0), normal(number, 5, seed=1)
    queries = 0.5 * texts + normal(number, 5, seed=2)
    near = [[cos(texts[i], queries[j]) for j in range(number)] for i in range(number)]
    first = ranks(torch.tensor(near))
    found = study.about_queries(texts, queries, v)
    others = [near[i][j] for i in range(number) for j in range(number) if i != j]
    assert found == pytest.approx({
        "own cosine": sum(near[i][i] for i in range(number)) / number, "other cosine": sum(others) / len(others),
        "query R@1": recalls(first)["R@1"], "gap": naive_gap(texts, queries), "gap of videos": naive_gap(texts, v),
        "mixing": naive_mixing(texts, queries, 10), "mixing of videos": naive_mixing(texts, v, 10),
    })  # fmt: skip
    assert study.recall_of_queries(texts, queries) == found["query R@1"] not in (0, 100)
    assert study.recall_of_queries(texts, texts) == 100 and max(first) > 1


def test_average_precision_against_sklearn() -> None:
    S, true = normal(5, 3, 7, seed=4), normal(5, 3, 7, seed=5) > 0.5
    true[2] = False
    expected = [average_precision_score(true[v].flatten(), S[v].flatten()) for v in (0, 1, 3, 4)]
    found = tables.average_precision(S, true)
    assert found.tolist() == pytest.approx(expected) and len(set(expected)) == 4


# --- measures of models ---


def test_features_of_many_clips_are_those_of_each_and_training_is_left() -> None:
    said = study.pairs("val", 26, "motion")
    model, clips = study.build(study.settings("captions with motion"), 1).train(), said.clips
    rows = torch.tensor([5, 0, 17])
    texts, videos = study.encode(model, said, rows)
    assert not model.training and not texts.requires_grad and not videos.v.requires_grad
    _, reversals = study.encode(model, said, rows, backwards=True)
    for row, v in enumerate(rows.tolist()):
        one = slice(v, v + 1)
        torch.testing.assert_close(texts[row], model.encode_text(clips.ids[0, one], clips.mask[0, one])[0])
        captions = said.said[0][one], said.said[1][one]  # type: ignore[index]
        for found, pixels in ((videos, clips.pixels(rows[[row]])), (reversals, clips.pixels(rows[[row]]).flip(1))):
            alone = model.encode_video(pixels, captions, whole=False)
            for name in ("v", "pseudo_query", "x_v", "x_f", "informativeness"):
                torch.testing.assert_close(getattr(found, name)[row], getattr(alone, name)[0], atol=2e-5, rtol=1e-4)
            assert found.x_p is None and found.selected.shape == (3, 0)
    assert not torch.allclose(videos.x_f, reversals.x_f)
    assert torch.equal(videos.pseudo_query, reversals.pseudo_query)  # type: ignore[arg-type]


def test_clips_are_encoded_in_parts(data: pig_pairs.Pairs) -> None:
    model = study.build(study.settings("CLIP4Clip"))
    texts, videos = study.encode(model, data)
    again, more = study.encode(model, data, torch.arange(105) % 26)
    for whole, tiled in ((texts, again), (videos.v, more.v), (videos.informativeness, more.informativeness)):
        torch.testing.assert_close(tiled, whole[torch.arange(105) % 26], atol=1e-5, rtol=1e-4)
    assert more.pseudo_query is None


def asked(model: PIG, texts: Tensor, videos: Videos) -> Tensor:
    """Each caption with each video, through the fusioner alone."""
    found = torch.empty(len(texts), len(videos.v))
    tokens = torch.cat([videos.x_v, videos.x_f], 1)
    with torch.no_grad():
        for q, text in enumerate(texts):
            for v, own in enumerate(tokens):
                found[q, v] = cos(text, model.fusioner(text[None], own[None])[0])  # type: ignore[misc]
    return found


def test_a_single_tower_asks_each_video_and_others_meet_what_is_stored(data: pig_pairs.Pairs, lively: PIG) -> None:
    rows = torch.arange(5)
    texts, videos = study.encode(lively, data, rows)
    expected = torch.tensor([[cos(text, v) for v in videos.v] for text in texts])
    torch.testing.assert_close(study.scores(lively, texts, videos), expected, atol=1e-5, rtol=0)
    single = study.build(study.settings("single tower"))
    single.fusioner.load_state_dict(lively.fusioner.state_dict())  # type: ignore[union-attr]
    texts, videos = study.encode(single, data, rows)
    found = study.scores(single, texts[:3], videos)
    torch.testing.assert_close(found, asked(single, texts[:3], videos), atol=1e-5, rtol=0)
    assert torch.equal(found, single.score_pairs(texts[:3], videos)) and not found.requires_grad
    assert not torch.allclose(found, single.score(texts[:3], videos.v), atol=1e-2)


def test_metrics_against_loops(data: pig_pairs.Pairs, lively: PIG) -> None:
    found = study.evaluate_on(lively, data)
    texts, videos = study.encode(lively, data)
    _, reversals = study.encode(lively, data, backwards=True)
    scores = torch.tensor([[cos(text, v) for v in videos.v] for text in texts])
    sensitive = data.clips.order_sensitive.tolist()
    expected = retrieved(scores, sensitive, data.clips.true_positives)
    single = retrieved(asked(lively, texts, videos), sensitive, data.clips.true_positives)
    expected |= {f"asked {name}": x for name, x in single.items() if "order" not in name and "true" not in name}
    rows = [v for v in range(26) if sensitive[v]]
    forwards = [cos(texts[v], videos.v[v]) > cos(texts[v], reversals.v[v]) for v in rows]
    expected["forwards"] = 100 * sum(forwards) / len(rows)
    expected |= study.about_queries(texts, videos.pseudo_query, videos.v)  # type: ignore[arg-type]
    shown = 0
    for v, chosen in enumerate(videos.selected.tolist()):
        for place in chosen:
            frame, patch = divmod(place, 16)
            top, left = 8 * (patch // 4), 8 * (patch % 4)
            shown += bool(data.clips.digit[v, frame, top : top + 8, left : left + 8].any())
    expected["hits"] = 100 * shown / (26 * 16)
    assert found == pytest.approx(expected)
    assert found["forwards"] not in (0, 50, 100) and found["asked R@sum"] != found["R@sum"]
    assert study.r_sum_on(lively, data) == found["R@sum"]


@pytest.mark.parametrize(
    ("name", "beside"),
    [
        ("CLIP4Clip", "nothing"), ("CLIP-ViP", "nothing"), ("single tower on CLIP4Clip", "asked"),
        ("x_v, x_f", "asked, queries"), ("captions of a frame", "asked, queries"),
        ("PIG on CLIP4Clip", "asked, queries, hits"),
    ],
)  # fmt: skip
def test_what_is_measured_of_each_kind(name: str, beside: str) -> None:
    data = study.pairs("val", 12, study.MODELS[name].captions)
    model, _ = study.train(study.settings(name), data, first=None, **(STARTED | {"rate": 1e-2}))
    found = study.evaluate_on(model, data)
    assert ("asked R@sum" in found) == ("asked" in beside) and ("hits" in found) == ("hits" in beside)
    assert ("own cosine" in found) == ("mixing of videos" in found) == ("queries" in beside)
    assert study.r_sum_on(model, data) == found["R@sum"]
    if name.startswith("single"):
        single = {key.removeprefix("asked "): x for key, x in found.items() if key.startswith("asked ")}
        assert single.items() <= found.items() and len(single) == 11
    if "CLIP4Clip" in name and "PIG" not in name:
        assert found["forwards"] == 50, "these see a bag of frames"
    assert all(math.isfinite(x) for x in found.values())


def test_clips_that_are_all_order_free_are_not_played_backwards() -> None:
    data = pig_pairs.Pairs(Clips("val", 5))
    data.clips.order_sensitive[:] = False
    found = study.evaluate_on(study.build(study.settings("CLIP4Clip")), data)
    assert "forwards" not in found and found["order-free t2v R@10"] == 100


@pytest.mark.parametrize("name", ["PIG", "PIG on CLIP4Clip"])
def test_informativeness_in_other_ways_and_the_model_stays_as_it_is(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    few, config = study.pairs("val", 6), study.settings(name)
    model = study.build(config, 1)
    kept = model.config
    found = tables.patches(model, few, tables.WAYS)
    assert model.config is kept and list(found) == ["keys", "patches", "mean"]
    for way, softmax, pool in (("keys", "keys", "max"), ("patches", "patches", "max"), ("mean", "keys", "mean")):
        made = replace(config, reading=replace(config.reading, softmax=softmax), score_heads=pool)
        assert torch.equal(found[way], study.encode(study.build(made, 1), few)[1].informativeness)
    assert torch.equal(found["keys"], study.encode(model, few)[1].informativeness)
    assert not any(torch.allclose(found["keys"], found[way]) for way in ("patches", "mean"))

    def fail(*_: Any) -> None:
        assert model.config != kept
        raise FloatingPointError

    monkeypatch.setattr(tables, "encode", fail)
    with pytest.raises(FloatingPointError):
        tables.patches(model, few, {"mean": tables.WAYS["mean"]})
    assert model.config is kept


@pytest.mark.parametrize("name", ["PIG", "single tower"])
def test_where_the_fusioner_looks_against_loops(name: str, data: pig_pairs.Pairs, lively: PIG) -> None:
    model = lively
    if name == "single tower":
        model = study.build(study.settings(name))
        model.load_state_dict(lively.state_dict(), strict=False)
    fusioner: Any = model.fusioner
    texts, videos = study.encode(model, data)
    asking = texts if videos.pseudo_query is None else videos.pseudo_query
    shares = []
    with torch.no_grad():
        for v in range(26):
            lit = [bool(frame.any()) for frame in data.clips.digit[v]]
            if all(lit):
                continue
            query = fusioner.q_proj(fusioner.norm_in(asking[v]))
            tokens = [*videos.x_v[v], *videos.x_f[v]]
            looks = [math.exp(float(query @ fusioner.k_proj(fusioner.norm_in(token))) / 8) for token in tokens]
            kinds = ["video"] * 4 + ["lit" if shown else "dark" for shown in lit]
            for kind in ("lit", "dark", "video"):
                own = sum(look for look, other in zip(looks, kinds, strict=True) if other == kind)
                shares.append((kind, 100 * own / sum(looks)))
    found = tables.looks(model, data)
    for kind in ("lit", "dark", "video"):
        values = [share for other, share in shares if other == kind]
        assert found[kind] == pytest.approx(sum(values) / len(values), rel=1e-4) and len(values) > 1
    assert sum(found.values()) == pytest.approx(100) and found["lit"] != pytest.approx(found["dark"], rel=1e-2)


def test_exchanged_pseudo_queries_against_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    said, seen, judge = study.pairs("val", 26, "motion"), [], shared.retrieved
    model = study.build(study.settings("captions with motion"))  # untrained, its queries differ more than made ones
    fusioner: Any = model.fusioner
    with torch.no_grad():
        fusioner.q_proj.weight.mul_(4)
    texts, videos = study.encode(model, said)
    queries: Any = videos.pseudo_query
    order = torch.randperm(26, generator=torch.Generator().manual_seed(3)).tolist()
    before = {order[place]: order[place - 1] for place in range(26)}
    assert all(video != other for video, other in before.items()) and sorted(before.values()) == list(range(26))
    mean, expected, tabled = sum(queries) / 26, {}, []
    for way in ("own", "another's", "the mean"):
        fused = []
        for v in range(26):
            query = {"own": queries[v], "another's": queries[before[v]], "the mean": mean}[way]
            with torch.no_grad():
                fused.append(fusioner(query[None], torch.cat([videos.x_v[v], videos.x_f[v]])[None])[0])
        table = torch.tensor([[cos(text, v) for v in fused] for text in texts])
        tabled.append(table)
        expected[f"{way} R@sum"] = sum(recalls(ranks(either))["R@sum"] for either in (table, table.T))
    monkeypatch.setattr(shared, "retrieved", lambda scores, clips: seen.append(scores) or judge(scores, clips))
    found = tables.exchanged(model, said, seed=3)
    torch.testing.assert_close(seen, tabled, atol=1e-5, rtol=0)
    assert found == pytest.approx(expected) and len(set(found.values())) == 3
    assert found["own R@sum"] == study.r_sum_on(model, said)


# --- training ---


@pytest.mark.parametrize("name", ["PIG", "MLP", "Q-Former", "co, no residual"])
def test_both_stages_move_what_they_should(name: str, data: pig_pairs.Pairs) -> None:
    config = study.settings(name)
    first, once = study.train(config, data, first=2e-3, **(STARTED | {"rate": None}))
    assert list(once) == [1] and moved(first, study.build(config, 3)) == {"generator"}
    model, histories = study.train(config, data, first=2e-3, **STARTED)
    assert list(histories) == [1, 2] and histories[1].losses == once[1].losses
    assert moved(model, first) == {"clip", "generator", "fusioner"}
    assert [len(history.losses) for history in histories.values()] == [1, 1]


@pytest.mark.parametrize("name", ["PIG", "CLIP4Clip", "CLIP-ViP", "single tower", "captions of a frame"])
def test_stage_1_is_left_out_where_it_is_said_and_where_nothing_generates(name: str) -> None:
    data, config = study.pairs("val", 26, study.MODELS[name].captions), study.settings(name)
    model, histories = study.train(config, data, first=None, **STARTED)
    assert list(histories) == [2] and model.config.stage == 2
    assert moved(model, study.build(config, 3)) == {
        "PIG": {"clip", "generator", "fusioner"}, "CLIP4Clip": {"clip"}, "CLIP-ViP": {"clip"}
    }.get(name, {"clip", "fusioner"})
    if name in ("CLIP4Clip", "single tower"):
        assert study.train(config, data, first=1e-3, **STARTED)[1][2].losses == histories[2].losses


def test_training_is_repeatable_and_leaves_torch_as_it_was(data: pig_pairs.Pairs) -> None:
    given, before = STARTED | {"until": 2}, torch.random.get_rng_state()
    (a, first), (b, second) = (study.train(study.settings(), data, **given) for _ in range(2))
    losses = [history.losses for history in first.values()]
    assert losses == [history.losses for history in second.values()] and [len(x) for x in losses] == [2, 2]
    assert not moved(a, b) and torch.equal(before, torch.random.get_rng_state())
    _, other = study.train(study.settings(), data, **(given | {"seed": 4}))
    assert all(history.losses != losses[stage - 1] for stage, history in other.items())


def test_plans_of_both_stages(data: pig_pairs.Pairs, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[dict[int, Any], dict[str, Any]]] = []

    def train_stages(model: PIG, found: Any, plans: dict[int, Any], **given: Any) -> dict[int, History]:
        assert found is data and bare(model.config) == study.settings()
        seen.append((plans, given))
        return {}

    monkeypatch.setattr(vtrlib.pig, "train_stages", train_stages)
    study.train(study.settings(), data, seed=7, rate=3e-4, steps=9, until=4)
    study.train(study.settings(), data, rate=3e-4, first=5e-3, batch=5)
    (one, given), (other, _) = seen
    assert [(one[s].learning_rate, one[s].steps, one[s].batch_size) for s in (1, 2)] == [
        (study.FIRST_RATE, 9, 24), (3e-4, 9, 24)
    ]  # fmt: skip
    assert [(other[s].learning_rate, other[s].steps, other[s].batch_size) for s in (1, 2)] == [
        (5e-3, 64, 5), (3e-4, 64, 5)
    ]  # fmt: skip
    for plan in (*one.values(), *other.values()):
        assert (plan.schedule, plan.warmup, plan.weight_decay, plan.clip) == ("pig", 0.1, 0.2, 1.0)
    assert [one[s].seed for s in (1, 2)] == [1007, 7] and given["until"] == 4


# --- experiments, on next to nothing ---

SMALL = 7  # nearest neighbours are sought among twice as many


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Every split is its first seven clips, of which four make a batch; what is trained is noted with its result."""
    made, trained, seen = study.pairs, study.train, []

    def pairs(split: str, size: int | None, captions: str | None, domain: str) -> pig_pairs.Pairs:
        return made(split, SMALL, captions, domain)

    def train(config: Config, data: pig_pairs.Pairs, **given: Any) -> tuple[PIG, dict[int, History]]:
        model, histories = trained(config, data, batch=4, **given)
        seen.append(given | {"config": config, "data": data, "model": model, "histories": histories})
        return model, histories

    monkeypatch.setattr(tables, "pairs", pairs)
    monkeypatch.setattr(tables, "train", train)
    return seen


def heads(found: dict[str, float]) -> list[str]:
    return list(dict.fromkeys(name.rsplit("/", 1)[0] for name in found))


def test_first_rates_are_tried_on_validation_with_stage_1_alone(
    few: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, clips, rated = [], study.pairs("train", SMALL), study.pairs("val", SMALL)

    def train_stages(model: PIG, data: Any, plans: dict[int, Any], **given: Any) -> None:
        assert data is clips and list(plans) == [1] and given["collate"]([3]) == [3]
        seen.append((bare(model.config), plans[1].learning_rate, plans[1].steps, plans[1].batch_size, plans[1].seed))

    monkeypatch.setattr(vtrlib.pig, "train_stages", train_stages)
    found = tables.first_rates(100, 2, {"PIG": [1e-3, 2e-3], "MLP": [4e-3]})
    assert list(found) == ["PIG/0.001", "PIG/0.002", "MLP/0.004"] and not few
    pig, mlp = study.settings(), study.settings("MLP")
    assert seen == [(pig, 1e-3, 2, 24, 100), (pig, 2e-3, 2, 24, 100), (mlp, 4e-3, 2, 24, 100)]
    texts, videos = study.encode(study.build(mlp, 100), rated)
    assert found["MLP/0.004"] == study.recall_of_queries(texts, videos.pseudo_query)  # type: ignore[arg-type]


def test_rates_are_tried_on_validation(few: list[dict[str, Any]]) -> None:
    found = tables.rates(100, 1, 2e-3, {"PIG": [1e-3], "CLIP-ViP": [1e-3, 5e-3]})
    assert list(found) == ["PIG/0.001", "CLIP-ViP/0.001", "CLIP-ViP/0.005"]
    assert [(call["rate"], call["first"], call["steps"], call["seed"]) for call in few] == [
        (1e-3, 2e-3, 1, 100), (1e-3, None, 1, 100), (5e-3, None, 1, 100)
    ]  # fmt: skip
    assert {call["data"].clips.world.split for call in few} == {"train"}
    for value, call in zip(found.values(), few, strict=True):
        assert value == study.r_sum_on(call["model"], study.pairs("val", SMALL))


def test_ablations_measure_every_model_on_its_captions(few: list[dict[str, Any]]) -> None:
    names = ["w/o L_recon", "L_recon in stage 1 alone", "w/o stage 1", "captions with motion", "single tower"]
    found = tables.ablations(7, 1, 3e-4, 4e-3, names)
    assert heads(found) == names and experiments.REGISTRY["pig-ablations"].config["models"] == list(study.MODELS)
    for name, call in zip(names, few, strict=True):
        assert call["config"] == study.settings(name) and call["data"] is study.pairs("train", SMALL, SPOKEN.get(name))
        assert (call["seed"], call["steps"], call["rate"]) == (7, 1, 3e-4)
        assert call["first"] == (4e-3 if name in IN_BOTH else None)
        assert list(call["histories"]) == ([1, 2] if name in IN_BOTH else [2])
        values = study.evaluate_on(call["model"], study.pairs("test", SMALL, SPOKEN.get(name)))
        assert {f"{name}/{metric}": value for metric, value in values.items()}.items() <= found.items()


def test_stage_1_comes_before_every_model_that_generates_but_two(monkeypatch: pytest.MonkeyPatch) -> None:
    firsts, empty = {}, (None, None)

    def train(config: Config, data: str, *, first: float | None, **_: Any) -> tuple[None, None]:
        firsts[data] = first
        return empty

    monkeypatch.setattr(tables, "_data", lambda name, split, domain="all": name)
    monkeypatch.setattr(tables, "train", train)
    monkeypatch.setattr(tables, "evaluate_on", lambda *_: {"x": 0.0})
    tables.ablations(0, 1, 1e-3, 2e-3, list(study.MODELS))
    assert [name for name, first in firsts.items() if first == 2e-3] == IN_BOTH
    assert {name for name, first in firsts.items() if first is None} == EXPECTED.keys() - set(IN_BOTH)


def test_sweeps_and_readings_measure_every_change(few: list[dict[str, Any]]) -> None:
    found = tables.sweeps(1, 1, 4e-4, 2e-3, {"top": [3, 16], "alpha": [0.0]})
    assert heads(found) == ["PIG", "top=3", "alpha=0.0"]
    assert [(call["config"].top, call["config"].alpha, call["first"]) for call in few] == [
        (16, None, 2e-3), (3, None, 2e-3), (16, 0.0, 2e-3)
    ]  # fmt: skip
    assert few[0]["histories"][1].losses == few[2]["histories"][1].losses, "with α = 0 stage 1 stays as it is"
    assert few[0]["histories"][2].losses != few[2]["histories"][2].losses
    few.clear()
    found = tables.readings(1, 1, 4e-4, 2e-3, {"bos": "on"})
    assert heads(found) == ["released", "bos", "paper"] and "paper/asked t2v MnR" in found
    assert [call["config"].reading for call in few] == list(tables.read({"bos": "on"}).values())
    assert all(call["data"] is study.pairs("train", SMALL) and call["rate"] == 4e-4 for call in few)


def test_domains_are_trained_on_what_is_seen_and_tested_on_both_sides(few: list[dict[str, Any]]) -> None:
    names, domains = ["CLIP4Clip", "PIG"], ["scenes", "colours"]
    found = tables.cross_domain(2, 1, 5e-4, 2e-3, names, domains)
    assert heads(found) == [
        f"{name}/{side} {domain}" for domain in domains for name in names for side in ("seen", "unseen")
    ]
    for (domain, name), call in zip([(d, n) for d in domains for n in names], few, strict=True):
        world = call["data"].clips.world
        assert (world.split, world.domain, call["seed"]) == ("train", f"seen {domain}", 2)
        scenes, colours = (range(4 if domain == kind else 6) for kind in ("scenes", "colours"))
        for video in world.__getitems__(range(SMALL)):
            assert video.scene in scenes and video.moments[0].event.colour in colours
        assert call["config"] == study.settings(name) and call["first"] == (2e-3 if name == "PIG" else None)
        for side in ("seen", "unseen"):
            values = study.evaluate_on(call["model"], study.pairs("test", SMALL, None, f"{side} {domain}"))
            own = {f"{name}/{side} {domain}/{metric}": value for metric, value in values.items()}
            assert own.items() <= found.items()


def naive_hits(S: Tensor, true: Tensor, tops: list[int]) -> dict[str, float]:
    """Average precision and hits at k of (V, F, N), by loops; no ties."""
    precisions, found = [], {f"hits@{top}": 0.0 for top in tops}
    for own, shows in zip(S.flatten(1).tolist(), true.flatten(1).tolist(), strict=True):
        order = sorted(range(len(own)), key=lambda place: -own[place])
        precisions.append(average_precision_score(shows, own))
        for top in tops:
            found[f"hits@{top}"] += 100 * sum(shows[place] for place in order[:top]) / top / len(S)
    return {"AP": 100 * sum(precisions) / len(precisions)} | found


def test_hit_rates_by_hand(few: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    true = torch.tensor([[[0, 1, 0], [1, 0, 0]], [[1, 1, 0], [0, 0, 1]]], dtype=torch.bool)
    ways = {
        "keys": torch.tensor([[[6, 5, 4], [3, 2, 1]], [[6, 5, 4], [3, 2, 1]]]).double(),
        "patches": torch.tensor([[[5, 6, 3], [4, 2, 1]], [[1, 2, 3], [4, 5, 6]]]).double(),
        "mean": torch.tensor([[[1, 6, 2], [5, 3, 4]], [[6, 5, 2], [1, 3, 4]]]).double(),
    }  # fmt: skip
    monkeypatch.setattr(tables, "shows_digit", lambda clips: true)
    monkeypatch.setattr(tables, "patches", lambda model, data, ways_: ways)
    names, tops = ["untrained", "CLIP-ViP with [cls]"], [1, 2, 3]
    found = tables.hit_rates(3, 1, 5e-4, 2e-3, names, tops)
    shuffled = torch.rand(2, 2, 3, generator=torch.Generator().manual_seed(3))
    expected: dict[str, float] = {}
    for way, S in {**ways, "random": shuffled}.items():
        expected |= {f"{way}/{key}": x for key, x in naive_hits(S, true, tops).items()}
    # keys takes 0, 1, 2 of both videos in this order; patches 1, 0, 3 and 5, 4, 3.
    expected |= {"agree@1": 0, "agree@2": 50, "agree@3": 100 * (2 / 3 + 0) / 2}
    expected |= {"same set@1": 0, "same set@2": 50, "same set@3": 0}
    assert found == pytest.approx({f"{name}/{key}": x for name in names for key, x in expected.items()})
    # Of 1, 0, 3 the first and third show it in video 0; of 5, 4, 3 the first alone in video 1.
    assert found["untrained/patches/hits@3"] == pytest.approx(100 * (2 / 3 + 1 / 3) / 2)
    assert found["untrained/mean/AP"] == pytest.approx(100 * (1 + (1 + 1 + 3 / 3) / 3) / 2) == 100
    (call,) = few
    assert differing(call["config"], study.settings("CLIP-ViP")) == {"frame_cls": True} and call["first"] is None


def test_hit_rates_of_models(few: list[dict[str, Any]]) -> None:
    names = ["untrained", "PIG", "CLIP-ViP with [cls]", "PIG on CLIP4Clip"]
    assert experiments.REGISTRY["pig-hits"].config["models"] == names
    found = tables.hit_rates(1, 1, 5e-4, 2e-3, names, [16, 128])
    test = study.pairs("test", SMALL)
    assert [call["config"].backbone for call in few] == ["clip_vip", "clip_vip", "clip4clip"]
    assert all(call["data"] is study.pairs("train", SMALL) for call in few)
    assert [call["first"] for call in few] == [2e-3, None, 2e-3]
    models = dict(zip(names, [study.build(study.settings(), 1), *(call["model"] for call in few)], strict=True))
    true = study.shows_digit(test.clips)
    for name, model in models.items():
        S = study.encode(model, test)[1].informativeness
        assert found[f"{name}/keys/hits@16"] == pytest.approx(100 * float(study.hits(select(S, 16), true).mean()))
        assert found[f"{name}/keys/AP"] == pytest.approx(100 * float(tables.average_precision(S, true).mean()))
        every = 100 * float(true.double().mean())
        assert [found[f"{name}/{way}/hits@128"] for way in (*tables.WAYS, "random")] == pytest.approx([every] * 4)
        assert found[f"{name}/agree@128"] == found[f"{name}/same set@128"] == 100
    assert found["PIG/keys/hits@16"] == study.evaluate_on(models["PIG"], test)["hits"]
    assert len({found[f"{name}/random/AP"] for name in names}) == 1


def test_frame_attention_of_models(few: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    names, made = ["PIG", "cross", "single tower"], study.pairs
    monkeypatch.setattr(tables, "pairs", lambda split, *_: made(split, 26))  # a digit blinks in some of them
    found = tables.frame_attention(1, 1, 5e-4, 2e-3, names)
    assert [call["config"] for call in few] == [study.settings(name) for name in names]
    assert [call["first"] for call in few] == [2e-3, 2e-3, None]
    test, expected = study.pairs("test", 26), {}
    for name, call in zip(names, few, strict=True):
        if name != "cross":  # its weights are not X-Pool's
            for when, model in {"untrained": study.build(study.settings(name), 1), "trained": call["model"]}.items():
                expected |= {f"{name}/{when}/{metric}": x for metric, x in tables.looks(model, test).items()}
        if name != "single tower":  # it has no pseudo-queries
            expected |= {f"{name}/{metric}": x for metric, x in tables.exchanged(call["model"], test).items()}
    assert found == expected and all(math.isfinite(x) for x in found.values())


# --- canaries ---


def test_canaries_give_two_losses_of_each_stage() -> None:
    pig = study.first_losses(0, ["PIG"])
    found = study.first_losses(0, ["w/o L_recon", "L_recon in stage 1 alone", "captions of a frame"])
    assert len(pig) == 4 and len(found) == 2 + 4 + 2
    assert found[2:4] == pig[:2], "α does not weigh stage 1"
    assert len({found[0], found[4], found[6], pig[2]}) == 4
    swept = tables._first_of_swept(0, {"top": [4]})
    assert swept[:4] == pig and len(swept) == 8 and swept[4:] != pig


def test_canaries_of_the_tables_feel_their_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, ...]] = []

    def first_losses(seed: int, names: Any, configs: Any = None, domain: str = "all") -> list[float]:
        calls.append((seed, list(names), configs, domain))
        return [float(len(calls))]

    monkeypatch.setattr(tables, "first_losses", first_losses)
    assert tables._first_of_cross(1, ["PIG"], ["scenes", "colours"], rate=1.0) == [1.0, 2.0]
    assert calls == [(1, ["PIG"], None, "seen scenes"), (1, ["PIG"], None, "seen colours")]
    calls.clear()
    tables._first_of_hits(2, ["untrained", "PIG", "CLIP-ViP with [cls]"], tops=[1])
    tables._first_of_grid(3, {"MLP": [1.0]}, steps=1)
    tables._first_of_all(4, ["co", "x_v"], steps=1)
    canary = experiments.REGISTRY["pig-frame-attention"].canary
    assert canary is not None
    canary(5, models=["cross"], steps=1)
    assert calls == [
        (2, ["PIG"], None, "all"), (3, ["MLP"], None, "all"), (4, ["co", "x_v"], None, "all"),
        (5, ["cross"], None, "all"),
    ]  # fmt: skip
    calls.clear()
    tables._first_of_readings(5, {"target": "detached"}, steps=1)
    ((_, names, configs, _),) = calls
    assert names == list(configs) == ["released", "target", "paper"]
    assert differing(configs["target"], configs["released"]).keys() == {"reading"}


def test_the_canary_feels_its_domain_and_its_seed() -> None:
    one, other = (study.first_losses(0, ["CLIP4Clip"], domain=f"seen {kind}") for kind in ("scenes", "colours"))
    assert len(one) == len(other) == 2 and one != other != study.first_losses(0, ["CLIP4Clip"])
    assert one != study.first_losses(1, ["CLIP4Clip"], domain="seen scenes")
