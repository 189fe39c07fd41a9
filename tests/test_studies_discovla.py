"""The studies of DiscoVLA on the world: what they train, what they measure, against loops and other libraries."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from vtrlib import experiments, ledger, metrics, training
from vtrlib.clip import load
from vtrlib.discovla import Config, DiscoVLA, Reading
from vtrlib.studies import discovla as study
from vtrlib.studies import discovla_tables as tables
from vtrlib.studies.clips import Clips
from vtrlib.studies.time_positions import TimePositions
from vtrlib.world import card, pseudo_captions

STARTED: dict[str, Any] = {"seed": 3, "batch": 6, "steps": 40, "until": 3, "rate": 1e-3}
CAPTIONED = [name for name in study.MODELS if study.settings(name).alpha or study.settings(name).beta]


@pytest.fixture(scope="module")
def data() -> Clips:
    return study.clips("val", 26, "guided")


def trained_parameters(model: DiscoVLA) -> int:
    return sum(weight.numel() for weight in model.parameters() if weight.requires_grad)


def started(name: str, data: Clips, **changes: Any) -> tuple[DiscoVLA, list[float]]:
    model, history = study.train(study.settings(name), data, **(STARTED | changes))
    return model, history.losses


def moved(one: DiscoVLA, other: DiscoVLA) -> set[str]:
    weights = dict(other.named_parameters())
    return {name for name, weight in one.named_parameters() if not torch.equal(weight, weights[name])}


def changed(one: Config, other: Config) -> set[str]:
    """The settings in which two configurations differ."""
    return {name for name, value in vars(one).items() if vars(other)[name] != value}


# --- settings ---


def test_rows_of_table_6_differ_in_attention_alone() -> None:
    made = {name: study.settings(name) for name in study.TABLE_6}
    base = made.pop("image-level")
    assert (base.attention, base.vision_fusion, base.text_fusion, base.alpha, base.beta) == ("image", 0, 0, 0, 0)
    assert (base.rank, base.trained, base.reading) == (2, "added", replace(Reading.released(), kl="batchmean"))
    assert {name: config.attention for name, config in made.items()} == {
        "video-level": "video", "IVFusion w/o adapter": "average", "IVFusion": "fusion", study.TIME: "fusion",
    }  # fmt: skip
    for config in made.values():
        assert vars(config) == vars(base) | {"attention": config.attention, "vision_fusion": 2}
    assert [name for name in study.MODELS if study.MODELS[name].time] == [study.TIME]


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("zero-shot", "zero_shot"), ("image-level", "lora"), ("IVFusion", "b1"), ("B2", "b2"), ("B3", "b3"),
        ("DiscoVLA", "discovla"), ("full fine-tuning", "full"),
    ],
)  # fmt: skip
def test_components_are_those_of_table_5_in_miniature(name: str, row: str) -> None:
    assert name in study.COMPONENTS and len(study.COMPONENTS) == 7
    config, printed = study.settings(name), Config.variant(row)
    assert changed(config, printed) <= {"vision_fusion", "text_fusion", "rank", "adapter_rank", "reading"}
    small = {0: 0, 4: 2}[printed.vision_fusion], {0: 0, 2: 1}[printed.text_fusion], {0: 0, 8: 2}[printed.rank]
    assert (config.vision_fusion, config.text_fusion, config.rank) == small


def test_tables_7_and_8_change_one_thing() -> None:
    base = study.settings("DiscoVLA")
    assert study.settings() == base
    for name, kind in {"video-level similarity": "video", "paired similarity": "paired"}.items():
        assert study.settings(name) == replace(base, similarity=kind)
    for name, captions in {"W/O VidCap": "unguided", "shuffled captions": "shuffled"}.items():
        assert study.MODELS[name] == study.MODELS["DiscoVLA"]._replace(captions=captions)
    assert {study.MODELS[name].captions for name in CAPTIONED[:-2]} == {"guided"}


def test_models_train_what_they_should() -> None:
    lora = 4 * (4 * 2 * 128) + 3 * (4 * 2 * 64)  # vision and text layers; A is shared
    vision, text = 2 * (2 * 2 * 128 + 2 + 128), 2 * 2 * 64 + 2 + 64  # adapters with biases, as released
    first = ("embeddings", "pre_layrnorm")
    clip = sum(w.numel() for n, w in load("tiny").model.named_parameters() if not any(part in n for part in first))
    expected = dict.fromkeys(study.MODELS, lora + vision + text) | {
        "zero-shot": 0, "image-level": lora, "video-level": lora, "IVFusion w/o adapter": lora,
        "IVFusion": lora + vision, study.TIME: lora + vision + card.PHASES * 128, "B3": lora + vision,
        "full fine-tuning": clip,
    }  # fmt: skip
    for name, number in expected.items():
        model = study.build(study.settings(name), time=study.MODELS[name].time)
        assert trained_parameters(model) == number, name


def test_sweeps_change_one_setting() -> None:
    base, made = study.settings("DiscoVLA"), tables.swept({"alpha": [0.0, 0.3, 1.0], "vision_fusion": [0, 2, 3]})
    assert made == {
        "DiscoVLA": base, "alpha=0.0": replace(base, alpha=0.0), "alpha=1.0": replace(base, alpha=1.0),
        "vision_fusion=0": replace(base, vision_fusion=0), "vision_fusion=3": replace(base, vision_fusion=3),
    }  # fmt: skip
    for key, values in tables.SWEPT.items():
        assert getattr(base, key) in values, "the sweep holds the model's own value"


def test_readings_differ_by_one_switch() -> None:
    made = {name: asdict(reading) for name, reading in tables.read(tables.SINGLE).items()}
    base, paper = made.pop("released"), made.pop("paper")
    assert made.keys() == base.keys() - {"padding"}
    for name, switches in made.items():
        assert [key for key, value in switches.items() if value != base[key]] == [name]
        assert name == "kl" or switches[name] == paper[name]


def test_eq_13_is_a_mean_over_rows_in_both_readings_but_not_where_it_is_the_switch() -> None:
    assert study.reading("paper") == Reading.paper()
    assert study.reading() == replace(Reading.released(), kl="batchmean")
    assert tables.read(tables.SINGLE)["kl"] == Reading.released()
    assert study.settings("B3", "paper").reading == Reading.paper()


# --- data ---


@pytest.mark.parametrize("variant", ["guided", "unguided", "shuffled"])
def test_captions_and_pseudo_captions_of_each_variant_reach_the_batch(variant: str) -> None:
    data, tokenizer = study.clips("val", 26, variant), load("tiny").tokenizer
    said = {w: data.world.queries(w) for w in range(3)}
    for w, v in ((0, 5), (1, 25), (2, 0)):
        batch = data.batch(torch.tensor([3, v]), torch.tensor([1, w]))
        text = tokenizer.decode(batch["text_ids"][1], skip_special_tokens=True)
        assert text == said[w][v].text and batch["text_mask"][1].sum() == len(text.split()) + 2
        f_texts = tuple(tokenizer.batch_decode(batch["f_text_ids"][1], skip_special_tokens=True))
        assert f_texts == pseudo_captions(data.world, [said[w][v]], variant=variant)[0]
        assert torch.equal(batch["video"][1], (data.world[v].frames / 255 - 0.5) / 0.5)
        assert batch["video_mask"].all() and batch["video_mask"].shape == (2, 8)


def test_clips_are_made_once(data: Clips) -> None:
    assert study.clips("val", 26, captions="guided") is data is not study.clips("val", 26, "shuffled")
    assert study.clips("val", 26) is study.clips("val", size=26, captions=None)
    assert "f_text_ids" not in study.clips("val", 26).batch(torch.tensor([0]))


def test_wordings_are_drawn_from_torch_s_seed_and_all_occur(data: Clips) -> None:
    rows = [7] * 60
    torch.manual_seed(0)
    first, second = data.__getitems__(rows)["text_ids"], data.__getitems__(rows)["text_ids"]
    torch.manual_seed(0)
    assert torch.equal(data.__getitems__(rows)["text_ids"], first) and not torch.equal(first, second)
    assert len(first.unique(dim=0)) == 3


def test_truth_against_the_videos_themselves(data: Clips) -> None:
    videos, queries = data.world.__getitems__(range(len(data))), data.world.queries()
    for video, query in zip(videos, queries, strict=True):
        (moment,) = video.moments
        motion = moment.event.motion
        assert data.order_sensitive[video.index] == (card.OPPOSITE[motion] != motion)
        true = [other.moments[0].event == query.event and other.scene in query.scenes for other in videos]
        assert data.true_positives[video.index].tolist() == true


# --- measures ---


def test_untrained_image_level_attention_is_mean_pooled_clip(data: Clips) -> None:
    towers = load("tiny").frozen()
    texts, videos = study.encode(study.build(study.settings("image-level")), data)
    expected = towers.encode_text([q.text for q in data.world.queries()])
    torch.testing.assert_close(torch.nn.functional.normalize(texts, dim=1), expected, atol=1e-5, rtol=0)
    frames = towers.encode_frames(data.frames)
    torch.testing.assert_close(videos.video, frames.mean(1), atol=1e-5, rtol=0)


@pytest.fixture(scope="module")
def timed() -> DiscoVLA:
    """A model with positions in time that are not zero."""
    model = study.build(study.settings("IVFusion"), time=True)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        model.clip.vision_model.pre_layrnorm.time.copy_(torch.randn(8, 128, generator=generator))
    return model


def recalls(table: Tensor, rows: Any = None) -> dict[str, float]:
    """R@K of the diagonal, and the mean rank, by counting; equal scores are none here."""
    rows = range(len(table)) if rows is None else rows
    ranks = [1 + sum(bool(x > table[v, v]) for x in table[v]) for v in rows]
    hits = {f"R@{k}": 100 * sum(rank <= k for rank in ranks) / len(ranks) for k in (1, 5, 10)}
    return hits | {"R@sum": sum(hits.values()), "MnR": sum(ranks) / len(ranks)}


def test_metrics_against_loops(data: Clips, timed: DiscoVLA) -> None:
    found = study.evaluate_on(timed, data)
    texts, videos = study.encode(timed, data)
    _, reversals = study.encode(timed, data, backwards=True)
    scores = torch.cosine_similarity(texts[:, None], videos.video[None], dim=2)
    sensitive, free = ([v for v in range(26) if bool(data.order_sensitive[v]) == kind] for kind in (True, False))
    for group, rows in {"": range(26), "order-sensitive ": sensitive, "order-free ": free}.items():
        for way, table in (("t2v", scores), ("v2t", scores.T)):
            for name, value in recalls(table, rows).items():
                if name != "MnR" or not group:
                    assert found[f"{group}{way} {name}"] == pytest.approx(value)
    assert found["R@sum"] == found["t2v R@sum"] + found["v2t R@sum"] == study.r_sum_on(timed, data)
    best = [1 + sum(bool(x > scores[v][data.true_positives[v]].max()) for x in scores[v]) for v in range(26)]
    assert found["true t2v R@5"] == pytest.approx(100 * sum(rank <= 5 for rank in best) / 26)
    forwards = [
        bool(torch.cosine_similarity(texts[v], videos.video[v], dim=0)
             > torch.cosine_similarity(texts[v], reversals.video[v], dim=0))
        for v in sensitive
    ]  # fmt: skip
    assert found["forwards"] == pytest.approx(100 * sum(forwards) / len(forwards)) and found["forwards"] != 50


@pytest.mark.parametrize("name", [name for name in study.TABLE_6 if name != study.TIME])
def test_without_time_a_clip_and_its_reversal_tie(name: str, data: Clips) -> None:
    model, _ = started(name, data, rate=1e-2, until=1)
    assert study.evaluate_on(model, data)["forwards"] == 50


def naive_teacher(captions: Tensor, frames: Tensor, kind: str, weighted: bool, scale: float) -> Tensor:
    """Eq. 8-10 and Tab. 7 by loops over captions i and videos j, from unit vectors (V, F, D)."""
    number, every = captions.shape[1], range(captions.shape[1])

    def joined(maxima: Tensor) -> Tensor:
        weights = (scale * maxima).exp() if weighted else torch.ones(number, dtype=maxima.dtype)
        return (weights * maxima).sum() / weights.sum()

    scores = torch.empty(len(captions), len(frames), dtype=torch.float64)
    for i, t in enumerate(captions):
        for j, v in enumerate(frames):
            if kind == "video":
                scores[i, j] = torch.cosine_similarity(t.mean(0), v.mean(0), dim=0)
            elif kind == "paired":
                scores[i, j] = sum(t[n] @ v[n] for n in every) / number
            else:
                t2v = torch.stack([(v @ t[n]).max() for n in every])
                v2t = torch.stack([(t @ v[m]).max() for m in every])
                scores[i, j] = (joined(t2v) + joined(v2t)) / 2
    return scores


@pytest.mark.parametrize(
    ("name", "reading"),
    [
        ("DiscoVLA", "released"), ("DiscoVLA", "paper"), ("paired similarity", "released"),
        ("video-level similarity", "released"),
    ],
)  # fmt: skip
def test_the_teacher_against_loops(name: str, reading: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data, config, seen = study.clips("val", 26, "shuffled"), study.settings(name, reading), []
    model, judge = study.build(config, 5), metrics.evaluate_both
    videos = study.encode(model, data)[1]
    with torch.no_grad():
        captions = model.encode_pseudo_captions(data.f_ids[0], data.f_mask[0])  # type: ignore[index,arg-type]
    t, v = (torch.nn.functional.normalize(x.double(), dim=-1) for x in (captions, videos.frames))
    scores = naive_teacher(t, v, config.similarity, reading == "released", float(model.scale.detach()))
    expected = {("t2v", name): value for name, value in recalls(scores).items()}
    expected |= {("v2t", name): value for name, value in recalls(scores.T).items()}
    monkeypatch.setattr(metrics, "evaluate_both", lambda scores, own: seen.append(scores) or judge(scores, own))
    found = study.teacher_on(model, data)
    torch.testing.assert_close(seen[0].double(), scores, atol=1e-5, rtol=0)
    assert found == pytest.approx({f"teacher {way} {k}": x for (way, k), x in expected.items() if k != "MnR"})
    assert 0 < found["teacher t2v R@sum"] != found["teacher v2t R@sum"]


def test_a_teacher_reads_pseudo_captions() -> None:
    with pytest.raises(ValueError, match="data: found no pseudo captions, expected clips .* with a captioner"):
        study.teacher_on(study.build(study.settings()), study.clips("val", 26))


def test_positions_in_time_are_added_to_every_token_of_their_frame() -> None:
    norm = torch.nn.LayerNorm(5)
    module = TimePositions(norm, 3, 5)
    x = torch.randn(6, 4, 5, generator=torch.Generator().manual_seed(0))  # two videos of three frames
    assert torch.equal(module(x), norm(x))
    with torch.no_grad():
        module.time.copy_(torch.arange(15).reshape(3, 5))
    change = module(x) - norm(x)
    for row in range(6):
        for token in range(4):
            torch.testing.assert_close(change[row, token], module.time[row % 3])


# --- training ---


def test_training_is_repeatable_and_leaves_torch_as_it_was(data: Clips) -> None:
    before = torch.random.get_rng_state()
    (a, first), (b, second) = (started("DiscoVLA", data) for _ in range(2))
    assert first == second and torch.equal(before, torch.random.get_rng_state())
    assert not moved(a, b) and len(first) == 3
    assert started("DiscoVLA", data, seed=4)[1] != first


@pytest.mark.parametrize("name", [*study.COMPONENTS, study.TIME])
def test_each_model_moves_what_it_names(name: str, data: Clips) -> None:
    config, time = study.settings(name), name == study.TIME
    model, losses = started(name, data, time=time)
    found = moved(model, study.build(config, 3, time))
    expected = {key for key, weight in model.named_parameters() if weight.requires_grad}
    assert len(losses) == (0 if name == "zero-shot" else 3)
    own = {key for key in found if not any(part in key for part in ("lora", "adapter", ".time"))}
    assert found <= expected and bool(found) == (name != "zero-shot") and bool(own) == (name == "full fine-tuning")
    assert any("adapter" in key for key in found) == (config.vision_fusion > 0)
    assert any("text_model" in key and "adapter" in key for key in found) == (name in ("B2", "DiscoVLA"))
    assert any(key.endswith(".time") for key in found) == time


def test_the_best_of_four_moments_is_kept(data: Clips) -> None:
    val = study.clips("val", 12)
    _, history = study.train(study.settings("image-level"), data, steps=7, batch=4, rate=1e-3, val=val)
    assert list(history.scores) == [2, 4, 6, 7]


@pytest.mark.parametrize(
    ("name", "reading", "optimiser"),
    [
        ("DiscoVLA", "released", training.transformers_adamw), ("DiscoVLA", "paper", training.adamw),
        ("full fine-tuning", "released", training.bert_adam),
    ],
)
def test_the_optimiser_is_the_reading_s_and_clip4clip_s_where_all_is_trained(
    name: str, reading: str, optimiser: Callable[..., Any], data: Clips, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[training.Config, Any]] = []

    def fit(model: Any, data: Any, loss: Any, plan: training.Config, **given: Any) -> training.History:
        seen.append((plan, given["optimiser"]))
        return training.History(ended="steps")

    monkeypatch.setattr(training, "fit", fit)
    study.train(study.settings(name, reading), data, rate=3e-3, steps=9)
    ((plan, given),) = seen
    full = name == "full fine-tuning"
    assert (plan.learning_rate, plan.steps, plan.batch_size) == (3e-3, 9, study.BATCH)
    assert plan.schedule == ("clip4clip" if full else "cosine")
    assert (given.func if isinstance(given, partial) else given) is optimiser
    assert not full or given.keywords == {"betas": (0.9, 0.98)}


# --- experiments, on next to nothing ---


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Every split is its first twelve clips, and nothing is trained; what would have been is noted."""
    made, seen = study.clips, []

    def clips(split: str, size: int | None = None, captions: str | None = None) -> Clips:
        return made(split, 12, captions)

    def train(config: Config, data: Clips, *, seed: int, **given: Any) -> tuple[DiscoVLA, None]:
        seen.append(given | {"config": config, "data": data, "seed": seed})
        return study.build(config, seed, given["time"]), None

    monkeypatch.setattr(tables, "clips", clips)
    monkeypatch.setattr(tables, "train", train)
    return seen


def heads(found: dict[str, float]) -> list[str]:
    return list(dict.fromkeys(name.rsplit("/", 1)[0] for name in found))


def test_rates_are_tried_on_validation(few: list[dict[str, Any]]) -> None:
    grid = {"IVFusion": [1e-3, 2e-3], study.TIME: [5e-3], "full fine-tuning": [1e-4]}
    found = tables.rates(100, 1, grid)
    assert list(found) == [f"{name}/{rate}" for name, rates in grid.items() for rate in rates]
    assert [call["rate"] for call in few] == [1e-3, 2e-3, 5e-3, 1e-4]
    assert [call["time"] for call in few] == [False, False, True, False]
    assert {(call["seed"], call["steps"], call["data"].world.split) for call in few} == {(100, 1, "train")}
    plain = study.build(study.settings("full fine-tuning"), 100)
    assert found["full fine-tuning/0.0001"] == study.r_sum_on(plain, study.clips("val", 12))
    assert tables.GRID.keys() == {*study.TABLE_6, *study.COMPONENTS} - {"zero-shot"}


def test_rates_are_the_best_of_their_rows() -> None:
    rows = ledger.read_rows(ledger.results_folder())
    found = {name: x for id in ("", "-above") for name, (x,) in rows[f"discovla-rates{id}"].metrics.items()}
    tried: dict[str, dict[float, float]] = {}
    for key, value in found.items():
        name, _, rate = key.rpartition("/")
        tried.setdefault(name, {})[float(rate)] = value
    best = {name: max(values, key=values.__getitem__) for name, values in tried.items()}
    assert best.pop("full fine-tuning") == study.RATES["full fine-tuning"] and tried.pop("full fine-tuning")
    assert best == study.OWN_RATES
    in_all = {rate: sum(values[rate] for values in tried.values()) for rate in tried["IVFusion"]}
    assert study.RATES.keys() == {"DiscoVLA", "full fine-tuning"}
    assert max(in_all, key=in_all.__getitem__) == study.RATES["DiscoVLA"]
    for name, values in tried.items():
        assert min(values) < best[name] < max(values), "no best rate is at the edge of what was tried"


def test_own_rates_are_used(few: list[dict[str, Any]]) -> None:
    found = tables.own_rates(3, 1, {"image-level": 5e-2, "IVFusion": 1e-2})
    assert heads(found) == ["image-level", "IVFusion"] and [call["rate"] for call in few] == [5e-2, 1e-2]
    assert [call["config"] for call in few] == [study.settings("image-level"), study.settings("IVFusion")]
    assert experiments.REGISTRY["discovla-own-rates"].config["chosen"] == {
        name: study.OWN_RATES[name] for name in ("image-level", "IVFusion")
    }
    above = tables.rates_above(100, 1, {"B3": [9.6e-2]})
    assert list(above) == ["B3/0.096"] and few[-1]["config"] == study.settings("B3")


def test_ablations_measure_every_model_at_its_rate_on_its_captions(few: list[dict[str, Any]]) -> None:
    found = tables.ablations(7, 2, {"DiscoVLA": 1e-2, "IVFusion": 3e-3})
    assert heads(found) == list(study.MODELS) and "IVFusion/v2t R@10" in found
    for name, call in zip(study.MODELS, few, strict=True):
        wanted = study.MODELS[name]
        assert call["config"] == study.settings(name) and call["time"] == wanted.time, name
        assert call["rate"] == (3e-3 if name == "IVFusion" else 1e-2) and (call["seed"], call["steps"]) == (7, 2)
        assert call["data"] is study.clips("train", 12, wanted.captions if name in CAPTIONED else None), name
        assert (f"{name}/teacher v2t R@1" in found) == (name in CAPTIONED)
        assert (f"{name}/DSL t2v R@sum" in found) == (name in ("image-level", "DiscoVLA"))
    model = study.build(study.settings("W/O VidCap"), 7)
    assert found["W/O VidCap/t2v MnR"] == study.evaluate_on(model, study.clips("test", 12))["t2v MnR"]
    teacher = study.teacher_on(model, study.clips("test", 12, "unguided"))
    assert {name: found[f"W/O VidCap/{name}"] for name in teacher} == teacher


def test_sweeps_and_readings_measure_every_change(few: list[dict[str, Any]]) -> None:
    found = tables.sweeps(1, 1, 4e-3, {"beta": [0.0, 1.0], "alpha": [0.0]})
    assert heads(found) == ["DiscoVLA", "beta=0.0", "alpha=0.0"]
    assert [(call["config"].beta, call["config"].alpha, call["rate"]) for call in few] == [
        (1.0, 0.3, 4e-3), (0.0, 0.3, 4e-3), (1.0, 0.0, 4e-3)
    ]  # fmt: skip
    few.clear()
    found = tables.readings(1, 1, 4e-3, {"teacher": "detached"})
    assert heads(found) == ["released", "teacher", "paper"] and "teacher/teacher t2v R@1" in found
    assert [call["config"].reading for call in few] == list(tables.read({"teacher": "detached"}).values())


def test_rescored_metrics_against_loops(few: list[dict[str, Any]]) -> None:
    model = study.build(study.settings("DiscoVLA"))
    (texts, videos), number = study.encode(model, study.clips("test", 12)), 12
    bank = study.encode(model, study.clips("train", 12))[0]
    own, others = (torch.cosine_similarity(x[:, None], videos.video[None], dim=2).double() for x in (texts, bank))
    scale = float(model.scale.detach())
    columns = [sum((scale * own[i, j]).exp() for i in range(number)) for j in range(number)]
    dsl = torch.stack([
        torch.stack([own[i, j] * (scale * own[i, j]).exp() / columns[j] for j in range(number)]) for i in range(number)
    ])  # fmt: skip
    hubs = {int(row.argmax()) for row in others}
    qb = own.clone()
    for i in range(number):
        if int(own[i].argmax()) in hubs:
            for j in range(number):
                qb[i, j] = (20 * own[i, j]).exp() / sum((20 * others[b, j]).exp() for b in range(number))
    expected = {"DSL": recalls(dsl), "QB-Norm": recalls(qb)}
    assert tables.post_processed(model) == pytest.approx(
        {f"{way} t2v {name}": x for way, values in expected.items() for name, x in values.items() if name != "MnR"}
    )
    assert not torch.equal(own.argsort(1), qb.argsort(1)) and not torch.equal(own.argsort(1), dsl.argsort(1))


# --- canaries ---


def test_canaries_feel_their_seed_and_their_settings() -> None:
    one = tables._first_of_swept(0, {"beta": [0.0]})
    assert len(one) == 6 and one[:3] != one[3:]
    assert one[:3] == study.first_losses(0, ["DiscoVLA"]) != study.first_losses(1, ["DiscoVLA"])
    other = tables._first_of_readings(0, {"kl": "numel100"})
    assert len(other) == 9 and other[:3] == one[:3] and len({other[0], other[3], other[6]}) == 3
    named = study.first_losses(0, ["zero-shot", "W/O VidCap", study.TIME])
    assert len(named) == 6 and len({one[0], *named[::3]}) == 3
