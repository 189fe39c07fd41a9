"""DreamPRVR whole: what may and may not change its output, both readings and every switch, sizes, files, bad input."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_dreamprvr import DEVICES, LABELS, SIZES, batch, draws, features, lengths, small
from torch import Tensor
from torch.utils.data import Dataset

from vtrlib import training
from vtrlib.dreamprvr import DATASETS, Batch, Config, DreamPRVR, Losses, Reading, Videos, Weights
from vtrlib.training import BertAdam, adam, bert_adam

READINGS = ["paper", "released"]
SWITCHES = [field.name for field in dataclasses.fields(Reading)]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def encoded(model: DreamPRVR, data: Batch | None = None) -> Videos:
    data = data or batch(model.config)
    with torch.no_grad():
        return model.encode_video(
            data.clips, data.frames, data.frame_mask, draws=draws(model.config, len(data.clips))
        )  # fmt: skip


def scored(model: DreamPRVR, data: Batch | None = None) -> Tensor:
    data = data or batch(model.config)
    with torch.no_grad():
        queries = model.encode_query(data.words, data.word_mask)
        return torch.stack(model.score(queries, encoded(model, data)))


def lost(model: DreamPRVR, data: Batch | None = None) -> Losses:
    data = data or batch(model.config)
    noise = draws(model.config, len(data.clips))
    return model.loss(data, draws=noise, generator=seeded())


# --- sizes ---


@pytest.mark.parametrize(
    ("name", "parameters", "trained"),
    [("activitynet", 36_139_200, 36_135_360), ("charades", 36_139_968, 36_136_128), ("tvr", 37_622_976, 37_619_136)],
)
def test_parameters_as_published(name: str, parameters: int, trained: int) -> None:
    with torch.device("meta"):
        model = DreamPRVR(Config.for_dataset(name))
    sizes = [(weight.numel(), weight.requires_grad) for weight in model.parameters()]
    assert sum(size for size, _ in sizes) == parameters
    assert sum(size for size, grad in sizes if grad) == trained


def test_shapes_and_ranges() -> None:
    for reading in READINGS:
        model = small(reading)
        videos, scores = encoded(model), scored(model)
        assert videos.clips.shape == (4, 5, 6) and videos.frames.shape == (4, 9, 6)
        assert videos.registers.shape == (4, 2, 6) and videos.mask.sum(1).tolist() == [7, 5, 3, 1]
        assert scores.shape == (3, 7, 4) and scores.abs().max() <= 1 + 1e-9
        assert videos.frames[~videos.mask].eq(0).all()


@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize(
    "settings",
    [
        {"registers": 1}, {"steps": 0}, {"steps": 1}, {"registers": 8}, {"clips": 1, "frames": 1}, {"blocks": 1},
        {"heads": 1}, {"heads": 6}, {"width": 10, "heads": 5}, {"estimator_blocks": 1}, {"clip_positions": 5},
        {"video_width": 1, "text_width": 1}, {"registers_from": "noise"}, {"registers_from": "pooling"},
        {"registers_from": "none"}, {"registers": 8, "registers_from": "pooling"},
    ],
)  # fmt: skip
def test_any_size_trains(reading: str, settings: dict[str, Any]) -> None:
    model = small(reading, **settings).train()
    losses = model.loss(batch(model.config), hard=True, generator=seeded())
    losses.total.backward()
    grads = [weight.grad for weight in model.parameters() if weight.grad is not None]
    assert all(value.isfinite() for value in losses) and all(grad.isfinite().all() for grad in grads)
    assert len(grads) > 60


@pytest.mark.parametrize("reading", READINGS)
def test_one_query_and_one_video(reading: str) -> None:
    model = small(reading)
    data = batch(model.config, labels=torch.tensor([0]))
    assert scored(model, data).shape == (3, 1, 1)
    losses = lost(model, data)
    losses.total.backward()
    assert losses.diversity == losses.qsp == losses.clip_triplet == losses.clip_nce == 0, "nothing to compare with"
    assert all(weight.grad.isfinite().all() for weight in model.parameters() if weight.grad is not None)


@pytest.mark.parametrize("reading", READINGS)
def test_without_steps_registers_are_where_generation_starts(reading: str) -> None:
    model = small(reading, steps=0)
    imagined = model.imagine(batch(model.config).clips, generator=seeded(), trajectory=True)
    assert imagined.registers.shape == (1, 4, 2, 6)
    same = imagined.registers[0, :, 0].equal(imagined.registers[0, :, 1])
    assert same == (reading == "released"), "released, all registers of a video start at its mean"


def test_sources_of_registers() -> None:
    """Tab. 3's variants: pooling sees clips only, noise no video at T = 0, and nothing is nothing."""
    clips = batch(small().config).clips
    pooled = small(registers_from="pooling", registers=5).imagine(clips)
    assert pooled.registers.allclose(pooled.features), "as many registers as clips: each is one"
    noise = small(registers_from="noise", steps=0).imagine(clips, generator=seeded()).registers
    assert noise.equal(torch.randn(4, 2, 6, generator=seeded(), dtype=torch.float64))
    assert encoded(small(registers_from="none")).registers.shape == (4, 0, 6)


# --- invariance ---


@pytest.mark.parametrize("reading", READINGS)
def test_what_stands_in_padding_never_matters(reading: str) -> None:
    model, data = small(reading), batch(small().config)
    for garbage in (1e6, torch.nan):
        spoiled = data._replace(
            frames=data.frames.masked_fill(~data.frame_mask[..., None], garbage),
            words=data.words.masked_fill(~data.word_mask[..., None], garbage),
        )
        assert scored(model, spoiled).equal(scored(model, data))


@pytest.mark.parametrize("reading", READINGS)
def test_more_padding_changes_nothing(reading: str) -> None:
    model, data = small(reading), batch(small().config)
    wider = data._replace(
        frames=torch.cat([data.frames, data.frames[:, :2]], 1), words=torch.cat([data.words, data.words[:, :3]], 1),
        frame_mask=torch.nn.functional.pad(data.frame_mask, (0, 2)),
        word_mask=torch.nn.functional.pad(data.word_mask, (0, 3)).double(),
    )  # fmt: skip
    torch.testing.assert_close(scored(model, wider), scored(model, data), rtol=1e-12, atol=1e-12)


def test_padding_reaches_the_released_maximum() -> None:
    """Zero vectors of padding take part: no frame score of a short video is below 0 (row 27)."""
    released = small()
    paper = small(Reading.released().flipped("padding"))
    q, videos = features(50, 6, seed=3), encoded(released)
    zeros = released.score(q, videos).frame
    masked = paper.score(q, videos).frame
    assert (zeros == masked.clamp(min=0)).all() and (masked < 0).any()


@pytest.mark.parametrize("reading", READINGS)
def test_videos_do_not_see_each_other(reading: str) -> None:
    """Order and company in a batch change no score; each video keeps its own draws."""
    model, data = small(reading), batch(small().config)
    whole, noise = scored(model, data), draws(model.config)
    order = torch.tensor([2, 0, 3, 1])
    with torch.no_grad():
        queries = model.encode_query(data.words, data.word_mask)
        for chosen in (order, torch.tensor([1])):
            mine = noise._replace(start=noise.start[chosen], reverse=noise.reverse[:, chosen])  # type: ignore[index]
            videos = model.encode_video(
                data.clips[chosen], data.frames[chosen], data.frame_mask[chosen], draws=mine
            )  # fmt: skip
            alone = torch.stack(model.score(queries, videos))
            torch.testing.assert_close(alone, whole[:, :, chosen], rtol=1e-10, atol=1e-10)
        one = model.encode_query(data.words[3:4], data.word_mask[3:4])
    torch.testing.assert_close(one, queries[3:4], rtol=1e-10, atol=1e-10)


def test_parts_of_a_gallery_join() -> None:
    model, data = small(), batch(small().config)
    parts = [
        model.encode_video(data.clips[a:b], data.frames[a:b], data.frame_mask[a:b]) for a, b in ((0, 3), (3, 4))
    ]  # fmt: skip
    for joined, whole in zip(Videos.join(parts), encoded(model), strict=True):
        torch.testing.assert_close(joined, whole, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("reading", READINGS)
def test_retrieval_never_reads_registers(reading: str) -> None:
    """What is kept of a video for retrieval has the same size without registers, and they may be anything."""
    model, data = small(reading), batch(small().config)
    queries, videos = model.encode_query(data.words, data.word_mask), encoded(model)
    spoilt = videos._replace(registers=torch.full_like(videos.registers, torch.nan))
    for found, expected in zip(model.score(queries, spoilt), model.score(queries, videos), strict=True):
        assert found.isfinite().all() and found.equal(expected)
    bare = encoded(small(reading, registers_from="none"))
    assert (bare.clips.shape, bare.frames.shape) == (videos.clips.shape, videos.frames.shape)


@pytest.mark.parametrize("reading", READINGS)
def test_the_loss_does_not_depend_on_the_order_of_queries(reading: str) -> None:
    model, data = small(reading), batch(small().config)
    order = torch.tensor([4, 0, 6, 2, 1, 5, 3])
    mixed = data._replace(words=data.words[order], word_mask=data.word_mask[order], labels=data.labels[order])
    model.config = dataclasses.replace(model.config, hard_pool=1)
    first, second = (model.loss(x, hard=True, draws=draws(model.config)) for x in (data, mixed))
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


# --- readings ---


@pytest.mark.parametrize("switch", SWITCHES)
def test_a_switch_changes_what_it_says_and_nothing_else(switch: str) -> None:
    """From the released reading, one switch at a time; weights that both have are the same."""
    released = small()
    flipped = small(Reading.released().flipped(switch))
    shared, own = released.state_dict(), flipped.state_dict()
    if switch == "time_code":  # its two tables are what differs
        del shared["video.estimator.table"]
    flipped.load_state_dict({name: _taken(weight, shared.get(name)) for name, weight in own.items()})
    before, after = dict(_seen(released)), dict(_seen(flipped))
    changed = {name for name in before if not before[name].equal(after[name])}
    assert changed == CHANGES[switch]


def _taken(own: Tensor, other: Tensor | None) -> Tensor:
    """The other's weights where there are some; of a larger stack, as far as they go."""
    return own if other is None else torch.cat([other, own[len(other) :]])


def _seen(model: DreamPRVR) -> dict[str, Tensor]:
    data = batch(model.config)
    imagined = model.imagine(data.clips, draws=draws(model.config), trajectory=True)
    scores = dict(zip(("fused", "clip", "frame"), scored(model), strict=True))
    losses = lost(model)
    terms = {name: getattr(losses, name) for name in Losses._fields if name != "total"}
    return {"V_v": imagined.features, "mu": imagined.start.mean, "sigma": imagined.start.log_variance,
            "r_T": imagined.registers[0], "r_0": imagined.registers[-1], **scores, **terms}  # fmt: skip


SCORES = {"fused", "clip", "frame", "clip_nce", "frame_nce", "clip_triplet", "frame_triplet"}
GENERATED = {"r_0"} | SCORES  # registers are what generation is for: where they change, all that sees them does
CHANGES = {
    "start": {"r_T"} | GENERATED,
    "heads": {"mu", "sigma", "r_T", "kl", "dre"} | GENERATED,
    "forward_noise": {"dre"},
    "reverse_noise": GENERATED,
    "reverse_step": GENERATED,
    "time_code": {"dre"} | GENERATED,
    "windows": SCORES,
    "register_entry": SCORES,
    "feature_encoder": {"V_v", "mu", "sigma", "r_T", "kl", "dre"} | GENERATED,
    "padding": {"fused", "frame", "frame_nce", "frame_triplet"},
    "nce": {"clip_nce", "frame_nce"},
    "averages": {"clip_triplet", "frame_triplet", "diversity", "qsp"},
    "dre_loss": {"dre"},
    "query_passes": set(),  # with other dropout only, see below
    "optimiser": set(),
}


def test_the_query_encoder_runs_once_or_twice() -> None:
    for passes, number in (("one", 1), ("two", 2)):
        model = small(dataclasses.replace(Reading.released(), query_passes=passes))
        calls: list[int] = []
        model.query.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        lost(model.train())
        assert len(calls) == number
        lost(model.eval())
        assert len(calls) == number + 1, "without dropout both passes are the same"


def test_released_is_deterministic_and_paper_draws() -> None:
    data = batch(small().config)
    for reading in READINGS:
        model = small(reading)
        runs = [
            model.encode_video(data.clips, data.frames, data.frame_mask, generator=seeded(seed)).clips
            for seed in (0, 0, 1)
        ]
        assert runs[0].equal(runs[1])
        assert runs[0].equal(runs[2]) == (reading == "released")


def test_readings_by_name_and_back() -> None:
    assert Config(3, 4, reading="paper").reading == Reading.paper() == Reading.of("paper")  # type: ignore[arg-type]
    assert Reading.paper().flipped(*SWITCHES) == Reading.released()
    assert Config(3, 4, reading="paper", blocks=8).widths == (float("inf"), *(2.0**p for p in range(-2, 6)))  # type: ignore[arg-type]
    assert Config(3, 4, reading="released", blocks=8).widths == (float("inf"), *(2.0**p for p in range(-2, 5)))  # type: ignore[arg-type]


def test_a_summed_loss_gets_a_weight_that_keeps_its_size() -> None:
    for name in DATASETS:
        paper, released = Config.for_dataset(name, "paper"), Config.for_dataset(name)
        summands = paper.steps * paper.registers * paper.width
        assert paper.weights.dre * summands == pytest.approx(released.weights.dre) == 1e-3


def test_the_total_is_the_weighted_sum() -> None:
    weights = Weights(*(0.1 * 2**k for k in range(8)))
    losses = lost(small(weights=weights))
    expected = sum(getattr(weights, name) * getattr(losses, name) for name in Losses._fields[1:])
    assert losses.total.item() == pytest.approx(expected.item())


def test_draws_that_are_given_are_taken() -> None:
    """Noise that is given and the same noise from a generator give the same loss."""
    model = small("paper")
    given = draws(model.config)
    first = model.loss(batch(model.config), draws=given, generator=seeded())
    second = model.loss(batch(model.config), draws=given, generator=seeded())
    other = model.loss(batch(model.config), generator=seeded())
    assert first.total == second.total != other.total


# --- devices and dtypes ---


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("reading", READINGS)
def test_every_device(device: str, reading: str) -> None:
    model, data = small(reading), batch(small().config)
    expected = lost(model).total.item()
    moved = Batch(*(tensor.to(device) for tensor in data))
    found = model.to(device).loss(moved, draws=draws(model.config), generator=seeded())
    assert found.total.device.type == device
    assert found.total.item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("reading", READINGS)
def test_autocast(device: str, reading: str) -> None:
    model = small(reading, dtype=torch.float32).to(device)
    data = Batch(*(tensor.to(device) for tensor in batch(model.config, torch.float32)))
    expected = lost(model, data).total.item()
    with torch.autocast(device, torch.bfloat16):
        found = lost(model, data)
    found.total.backward()
    assert found.total.item() == pytest.approx(expected, rel=0.1)
    assert all(weight.grad.isfinite().all() for weight in model.parameters() if weight.grad is not None)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_a_training_step_never_waits_for_the_device() -> None:
    model = small(dtype=torch.float32).cuda().train()
    data = Batch(*(tensor.cuda() for tensor in batch(model.config, torch.float32)))
    generator = torch.Generator("cuda")
    model.loss(data, generator=generator).total.backward()
    torch.cuda.set_sync_debug_mode("error")
    try:
        model.loss(data, generator=generator).total.backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_step_compiles_in_one_graph() -> None:
    """The released reading's recurrent net apart, which torch.compile leaves to the framework."""
    model = small("paper")
    noise = draws(model.config)

    def step(data: Batch) -> Tensor:
        return model.loss(data, hard=True, draws=noise).total

    model.config = dataclasses.replace(model.config, hard_pool=1)  # so that nothing is drawn
    compiled = torch.compile(step, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(batch(model.config)), step(batch(model.config)))


# --- training ---


class Same(Dataset[Batch]):
    """One batch of videos, again and again."""

    def __init__(self, data: Batch) -> None:
        self.data = data

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Batch:
        return self.data


@pytest.mark.parametrize(("reading", "optimiser"), [("paper", adam), ("released", bert_adam)])
def test_it_learns_a_batch(reading: str, optimiser: Callable[..., torch.optim.Optimizer]) -> None:
    torch.manual_seed(0)
    weights = Config.for_dataset("charades", reading, **SIZES).weights
    model = DreamPRVR(Config(**SIZES, reading=reading, weights=weights, dropout=0.0, input_dropout=0.0))  # type: ignore[arg-type]
    data = batch(model.config, torch.float32)
    recipe = training.Config(
        steps=60, batch_size=1, learning_rate=0.01, schedule="linear", warmup=0.05, weight_decay=0.0
    )  # fmt: skip
    history = training.fit(
        model, Same(data), lambda net, b: net(b).total, recipe, optimiser=optimiser, collate=lambda x: x[0]
    )  # fmt: skip
    losses = history.curve(points=6)[1]
    assert losses[-1] < 0.6 * losses[0]
    with torch.no_grad():
        queries = model.encode_query(data.words, data.word_mask)
        videos = model.encode_video(data.clips, data.frames, data.frame_mask, generator=seeded())
    ranked = model.score(queries, videos).fused.argmax(1)
    assert (ranked == LABELS).float().mean() > 0.8


def test_initial_weights_as_released() -> None:
    torch.manual_seed(0)
    model = DreamPRVR(Config(40, 50, width=64, registers=30))
    for name, weight in model.named_parameters():
        if "bias" in name:
            assert weight.eq(0).all(), name
        elif "norm" in name or name == "video.estimator.condition.0.weight":
            assert weight.eq(1).all(), name
        elif "recurrent" not in name and weight.numel() > 1000:
            expected = 1.0 if "tokens" in name else 0.02
            assert weight.std().item() == pytest.approx(expected, rel=0.15), name


def test_groups_hold_every_trained_weight_once() -> None:
    for reading in READINGS:
        model = small(reading)
        groups = model.parameter_groups()
        held = [id(weight) for group in groups for weight in group["params"]]
        assert sorted(held) == sorted(id(weight) for weight in model.parameters() if weight.requires_grad)
        BertAdam(groups)


# --- files ---


@pytest.mark.parametrize("reading", READINGS)
def test_saved_and_loaded(reading: str, tmp_path: Path) -> None:
    model = small(reading, dtype=torch.float32)
    model.save_pretrained(tmp_path)
    again = DreamPRVR.from_pretrained(tmp_path)
    assert again.config == model.config
    data = batch(model.config, torch.float32)
    assert scored(again.eval(), data).equal(scored(model, data))
    other = small(reading, seed=1, dtype=torch.float32)
    other.load_state_dict(model.state_dict())
    assert scored(other, data).equal(scored(model, data))
    assert {file.name for file in tmp_path.iterdir()} >= {"config.json", "model.safetensors"}


# --- bad input ---

M = small()
B = batch(M.config)


def call(**changes: Tensor) -> Losses:
    return M.loss(B._replace(**changes), generator=seeded())


def spoil(x: Tensor, value: float) -> Tensor:
    x = x.clone()
    x[1, 0, 0] = value
    return x


BAD: list[tuple[Callable[[], object], str]] = [
    (lambda: call(frame_mask=lengths([7, 0, 3, 0], 7)), "frame_mask: found no frame in video 1, 3, expected at least"),
    (lambda: call(word_mask=lengths([1, 2, 0, 4, 5, 1, 2], 5)), "word_mask: found no word in query 2, expected"),
    (lambda: call(frames=spoil(B.frames, torch.nan)), "frames: found NaN or infinity in video 1, expected finite"),
    (lambda: call(clips=spoil(B.clips, torch.inf)), "clips: found NaN or infinity in video 1"),
    (lambda: call(words=spoil(B.words, -torch.inf)), "words: found NaN or infinity in query 1"),
    (lambda: call(labels=LABELS + 1), r"labels\[6\]: found 4, expected 0 to 3, the places of 4 videos"),
    (lambda: call(labels=torch.tensor([0, 0, 1, 2, 2, 2, 2])), "labels: found no query of video 3, expected at least"),
    (lambda: call(labels=LABELS[:5]), r"labels: found shape \(5,\), expected \(N=7\)"),
    (lambda: call(labels=LABELS.double()), "labels: found torch.float64, expected integers"),
    (lambda: call(clips=B.clips[:, :4]), r"clips: found shape \(4, 4, 13\), expected \(V, M_c=5, Dv=13\)"),
    (lambda: call(frames=B.frames[:3], frame_mask=B.frame_mask[:3]), r"frames: found shape \(3, 7, 13\), .*V=4"),
    (lambda: call(frames=B.frames.repeat(1, 2, 1)), "frames: found 14 frames, expected at most 9. Pool them"),
    (lambda: call(frame_mask=B.frame_mask[:, :6]), r"frame_mask: found shape \(4, 6\), expected \(4, 7\)"),
    (lambda: call(words=B.words[..., :3]), r"words: found shape \(7, 5, 3\), expected \(N, L, Dq=11\)"),
    (lambda: call(words=B.words.repeat(1, 2, 1)), "words: found 10 words in a query, expected at most 8"),
    (lambda: M.encode_query(B.words[:0], B.word_mask[:0]), r"words: found shape \(0, 5, 11\).*no axis empty"),
    (lambda: M.imagine(spoil(B.clips, torch.nan)), "clips: found NaN"),
    (lambda: M.score(features(2, 5, seed=0), encoded(M)), r"found shape \(4, 5, 6\), expected \(V, F, D=5\)"),
    (lambda: small("paper").encode_video(*B[:3], draws=draws(M.config, 3)), r"draws: found shape \(3, 2, 6\)"),
    (lambda: Config(3, 4, heads=5), "heads=5: expected a divisor of width=384"),
    (lambda: Config(3, 4, registers=0), "registers=0: expected at least 1"),
    (lambda: Config(3, 4, steps=-1), "steps=-1: expected at least 0"),
    (lambda: Config(3, 4, clips=40, clip_positions=32), "clip_positions=32: expected at least clips=40"),
    (lambda: Config(3, 4, reading="code"), "reading='code': expected one of 'paper', 'released'"),  # type: ignore[arg-type]
    (lambda: Config(3, 4, registers_from="air"), "registers_from='air': expected one of"),
    (lambda: Reading(start="random"), "reading.start='random': expected one of 'sampled', 'mean'"),
    (lambda: Reading.paper().flipped("noise"), "switch='noise': expected one of"),
    (lambda: Weights(kl=-1.0), "weights.kl=-1.0: expected a finite number, at least 0"),
    (lambda: Config.for_dataset("msrvtt"), "name='msrvtt': expected one of 'activitynet', 'charades', 'tvr'"),
]


@pytest.mark.parametrize(("bad", "message"), BAD)
def test_bad_input_is_named(bad: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bad()


def test_config_of_wrong_kind() -> None:
    with pytest.raises(TypeError, match="weights=3: expected a Weights"):
        Config(3, 4, weights=3)  # type: ignore[arg-type]
