"""The studies of DiscoVLA on the world: what they train, what they measure, against loops and other libraries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from vtrlib.clip import load
from vtrlib.discovla import DiscoVLA
from vtrlib.studies import discovla as study
from vtrlib.studies.clips import Clips
from vtrlib.studies.time_positions import TimePositions
from vtrlib.world import MovingDigits, Query, card

STARTED = {"seed": 3, "batch": 6, "steps": 40, "until": 3}


def by_frame(world: MovingDigits, queries: Sequence[Query]) -> list[tuple[str, ...]]:
    """A captioner that ignores what it is told but its first word."""
    return [(f"a {q.text.split()[0]} digit", *world[q.video].frame_captions[1:]) for q in queries]


@pytest.fixture(scope="module")
def data() -> Clips:
    return study.clips("val", 26, by_frame)


def trained_parameters(model: DiscoVLA) -> int:
    return sum(weight.numel() for weight in model.parameters() if weight.requires_grad)


def started(config: Any, data: Clips, **changes: Any) -> tuple[DiscoVLA, list[float]]:
    model, history = study.train(config, data, **(STARTED | changes))
    return model, history.losses


# --- settings ---


def test_rows_of_table_6_differ_in_attention_alone() -> None:
    made = {name: study.settings(**changes) for name, changes in study.ATTENTION.items()}
    base = made.pop("image-level")
    assert (base.attention, base.vision_fusion, base.text_fusion, base.alpha, base.beta) == ("image", 0, 0, 0, 0)
    for config in made.values():
        assert vars(config) == vars(base) | {"attention": config.attention, "vision_fusion": 2}
    kinds = {name: config.attention for name, config in made.items()}
    assert kinds == {
        "video-level": "video", "IVFusion w/o adapter": "average", "IVFusion": "fusion", study.TIME: "fusion"
    }  # fmt: skip


def test_rows_of_table_6_train_what_they_should() -> None:
    lora, adapter = 4 * 4 * 2 * 128 + 3 * 4 * 2 * 64, 2 * 2 * 128 + 2 + 128
    for name, changes in study.ATTENTION.items():
        time = name == study.TIME
        model = study.build(study.settings(**changes), time=time)
        expected = lora + 2 * adapter * name.endswith(("IVFusion", study.TIME)) + card.PHASES * 128 * time
        assert trained_parameters(model) == expected, name


def test_the_sweep_changes_one_number() -> None:
    base = vars(study.settings(**study.ATTENTION["IVFusion"]))
    made = study.swept([0, 1, 3])
    assert {name: vars(config) for name, config in made.items()} == {
        f"H_V={n}": base | {"vision_fusion": n} for n in (0, 1, 3)
    }


def test_components_are_those_of_table_5_in_miniature() -> None:
    made = {name: study.component(name) for name in study.COMPONENTS}
    reads = [name for name, config in made.items() if config.alpha or config.beta]
    assert reads == ["b2", "b3", "discovla"]
    assert [name for name, config in made.items() if config.vision_fusion] == ["b1", *reads]
    assert [name for name, config in made.items() if config.text_fusion] == ["b2", "discovla"]
    assert {config.vision_fusion for config in made.values()} == {0, 2}
    assert [name for name, config in made.items() if not config.rank] == ["zero_shot", "full"]
    assert made["discovla"].rank == made["discovla"].adapter_rank == 2
    assert study.component("b1", "paper").reading.kl == "batchmean"


# --- data ---


def test_clips_hold_every_wording_and_the_pseudo_captions_of_each_frame(data: Clips) -> None:
    tokenizer = load("tiny").tokenizer
    said = {w: data.world.queries(w) for w in range(3)}
    for w, v in ((0, 5), (1, 25), (2, 0)):
        batch = data.batch(torch.tensor([3, v]), torch.tensor([1, w]))
        text = tokenizer.decode(batch["text_ids"][1], skip_special_tokens=True)
        assert text == said[w][v].text and batch["text_mask"][1].sum() == len(text.split()) + 2
        f_texts = tokenizer.batch_decode(batch["f_text_ids"][1], skip_special_tokens=True)
        assert tuple(f_texts) == by_frame(data.world, [said[w][v]])[0]
        assert torch.equal(batch["video"][1], (data.world[v].frames / 255 - 0.5) / 0.5)
        assert batch["video_mask"].all() and batch["video_mask"].shape == (2, 8)
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
    texts, videos = study.encode(study.build(study.settings(**study.ATTENTION["image-level"])), data)
    expected = towers.encode_text([q.text for q in data.world.queries()])
    torch.testing.assert_close(torch.nn.functional.normalize(texts, dim=1), expected, atol=1e-5, rtol=0)
    frames = towers.encode_frames(data.frames)
    torch.testing.assert_close(videos.video, frames.mean(1), atol=1e-5, rtol=0)


@pytest.fixture(scope="module")
def timed() -> DiscoVLA:
    """A model with positions in time that are not zero."""
    model = study.build(study.settings(**study.ATTENTION["IVFusion"]), time=True)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        model.clip.vision_model.pre_layrnorm.time.copy_(torch.randn(8, 128, generator=generator))
    return model


def test_metrics_against_loops(data: Clips, timed: DiscoVLA) -> None:
    found = study.evaluate_on(timed, data)
    texts, videos = study.encode(timed, data)
    _, reversals = study.encode(timed, data, backwards=True)
    scores = torch.cosine_similarity(texts[:, None], videos.video[None], dim=2)
    groups = {"": range(26)} | {
        f"order-{kind} ": [v for v in range(26) if bool(data.order_sensitive[v]) == (kind == "sensitive")]
        for kind in ("sensitive", "free")
    }
    for group, rows in groups.items():
        for way, table in (("t2v", scores), ("v2t", scores.T)):
            ranks = [1 + sum(bool(x > table[v, v]) for x in table[v]) for v in rows]
            hits = {k: 100 * sum(rank <= k for rank in ranks) / len(ranks) for k in (1, 5, 10)}
            for k, value in hits.items():
                assert found[f"{group}{way} R@{k}"] == pytest.approx(value)
            assert found[f"{group}{way} R@sum"] == pytest.approx(sum(hits.values()))
    assert found["R@sum"] == found["t2v R@sum"] + found["v2t R@sum"] == study.r_sum_on(timed, data)
    best = [1 + sum(bool(x > scores[v][data.true_positives[v]].max()) for x in scores[v]) for v in range(26)]
    assert found["true t2v R@5"] == pytest.approx(100 * sum(rank <= 5 for rank in best) / 26)
    forwards = [
        bool(torch.cosine_similarity(texts[v], videos.video[v], dim=0)
             > torch.cosine_similarity(texts[v], reversals.video[v], dim=0))
        for v in groups["order-sensitive "]
    ]  # fmt: skip
    assert found["forwards"] == pytest.approx(100 * sum(forwards) / len(forwards)) and found["forwards"] != 50


@pytest.mark.parametrize("name", [name for name in study.ATTENTION if name != study.TIME])
def test_without_time_a_clip_and_its_reversal_tie(name: str, data: Clips) -> None:
    model, _ = started(study.settings(**study.ATTENTION[name]), data)
    assert study.evaluate_on(model, data)["forwards"] == 50


def test_positions_in_time_are_added_to_every_token_of_their_frame() -> None:
    norm = torch.nn.LayerNorm(5)
    module = TimePositions(norm, 3, 5)
    x = torch.randn(6, 4, 5, generator=torch.Generator().manual_seed(0))  # two videos of three frames
    assert torch.equal(module(x), norm(x))
    with torch.no_grad():
        module.time.copy_(torch.arange(15).reshape(3, 5))
    moved = module(x) - norm(x)
    for row in range(6):
        for token in range(4):
            torch.testing.assert_close(moved[row, token], module.time[row % 3])


# --- training ---


def test_training_is_repeatable_and_leaves_torch_as_it_was(data: Clips) -> None:
    config = study.component("discovla")
    before = torch.random.get_rng_state()
    (a, first), (b, second) = (started(config, data) for _ in range(2))
    assert first == second and torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
    assert started(config, data, seed=4)[1] != first and len(first) == 3


def weights(model: DiscoVLA) -> dict[str, Tensor]:
    return {name: weight.detach() for name, weight in model.named_parameters()}


@pytest.mark.parametrize("name", study.COMPONENTS)
def test_each_component_moves_what_it_names(name: str, data: Clips) -> None:
    config = study.component(name)
    model, losses = started(config, data, rate=1e-3)
    start = weights(study.build(config, 3))
    moved = {key for key, weight in weights(model).items() if not torch.equal(weight, start[key])}
    expected = {key for key, weight in model.named_parameters() if weight.requires_grad}
    assert len(losses) == (0 if name == "zero_shot" else 3)
    added = {key for key in moved if "lora" in key or "adapter" in key}
    assert moved <= expected and bool(moved) == (name != "zero_shot") and (name == "full") == (added < moved)
    assert any("adapter" in key for key in moved) == (config.vision_fusion > 0)
    assert any("text_model" in key and "adapter" in key for key in moved) == (name in ("b2", "discovla"))


def test_time_is_trained_where_it_is_asked_for(data: Clips) -> None:
    model, _ = started(study.settings(**study.ATTENTION[study.TIME]), data, time=True)
    assert (model.clip.vision_model.pre_layrnorm.time != 0).any()


def test_the_best_of_four_moments_is_kept(data: Clips) -> None:
    val = study.clips("val", 12)
    _, history = study.train(study.component("lora"), data, steps=7, batch=4, val=val)
    assert list(history.scores) == [2, 4, 6, 7]


# --- experiments, on next to nothing ---


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every split is its first eight clips."""
    made = study.clips

    def clips(split: str, size: int | None = None, captioner: Any = None) -> Clips:
        return made(split, 8, captioner)

    monkeypatch.setattr(study, "clips", clips)
    monkeypatch.setattr(study.train, "__kwdefaults__", {**study.train.__kwdefaults__, "batch": 2})


@pytest.mark.usefixtures("few")
def test_experiments_measure_every_variant(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, list[float]] = {}
    trained = study.train

    def train(config: Any, *rest: Any, rate: float, **given: Any) -> Any:
        seen.setdefault(f"{config.attention} {config.vision_fusion} {given.get('time', False)}", []).append(rate)
        return trained(config, *rest, rate=rate, **given)

    monkeypatch.setattr(study, "train", train)
    found = study.rates(100, 1, [1e-3, 2e-3])
    assert set(found) == {f"{name}/{rate}" for name in study.ATTENTION for rate in (1e-3, 2e-3)}
    assert seen == dict.fromkeys(
        ("image 0 False", "video 2 False", "average 2 False", "fusion 2 False", "fusion 2 True"), [1e-3, 2e-3]
    )
    seen.clear()
    found = study.attention(0, 1, {name: 1e-3 + n * 1e-4 for n, name in enumerate(study.ATTENTION)})
    assert {name.rsplit("/", 1)[0] for name in found} == set(study.ATTENTION) and "IVFusion/v2t R@10" in found
    assert [rate for rates in seen.values() for rate in rates] == [1e-3 + n * 1e-4 for n in range(5)]
    assert {name.split("/")[0] for name in study.sweep(0, 1, 1e-3, [0, 4])} == {"H_V=0", "H_V=4"}
    found = study.components(0, 1, {}, by_frame, {"train": 8})
    assert {name.split("/")[0] for name in found} == set(study.COMPONENTS)


def test_a_canary_feels_its_seed_and_its_settings() -> None:
    one = study._first_swept(0, [0, 2])
    assert len(one) == 6 and one[:3] != one[3:]
    assert one[3:] == study._first_swept(0, [2]) != study._first_swept(1, [2])
