"""The two stages of PIG's training: what each moves, with which optimiser and settings, and how they resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small_pig import batch, small
from torch.utils.data import Dataset

from vtrlib import training
from vtrlib.clip import load, preprocess
from vtrlib.datasets.retrieval import PairBatch
from vtrlib.pig import PIG, VARIANTS, Config, plan, prepared, train_stages
from vtrlib.pig.training import adamw
from vtrlib.training import TransformersAdamW


class Rows(Dataset[Any]):
    """Rows of a batch, given together."""

    def __init__(self, videos: int = 6) -> None:
        self.whole: Any = batch(videos)
        self.given = 0

    def __len__(self) -> int:
        return len(self.whole["video"])

    def __getitems__(self, rows: list[int]) -> Any:
        self.given += 1
        return {name: x[rows] for name, x in self.whole.items()}


def whole(items: Any) -> Any:
    return items


def plans(**changes: Any) -> dict[int, training.Config]:
    return {stage: plan(stage, **{"steps": 3, "batch_size": 3, "learning_rate": 1e-2, **changes}) for stage in (1, 2)}


def weights(model: PIG) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


def moved(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    return {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}


def test_settings_of_both_readings() -> None:
    for stage, reading, batch_size, rate in (
        (1, "paper", 128, 9e-5), (2, "paper", 128, 1e-6), (1, "released", 160, 9e-5), (2, "released", 160, 2e-6)
    ):  # fmt: skip
        found = plan(stage, reading)
        assert (found.batch_size, found.learning_rate, found.epochs, found.steps) == (batch_size, rate, 5, None)
        assert (found.schedule, found.warmup, found.weight_decay, found.clip, found.seed) == ("pig", 0.01, 0.2, 1.0, 42)
    assert plan(2, steps=7, seed=3) == training.Config(
        steps=7, batch_size=160, learning_rate=2e-6, weight_decay=0.2, schedule="pig", warmup=0.01, clip=1.0, seed=3
    )
    with pytest.raises(ValueError, match="stage=3"):
        plan(3)
    with pytest.raises(ValueError, match="reading='letter': expected one of"):
        plan(1, "letter")


def test_the_optimiser_is_the_released_one() -> None:
    model = small()
    found = adamw(model, plan(2))
    assert type(found) is TransformersAdamW
    assert [group["weight_decay"] for group in found.param_groups] == [0.2, 0.0]
    for group in found.param_groups:
        assert (group["betas"], group["eps"], group["lr"]) == ((0.9, 0.98), 1e-6, 2e-6)
    assert sum(len(group["params"]) for group in found.param_groups) == sum(w.requires_grad for w in model.parameters())


@pytest.mark.parametrize("generator", ["causal", "mlp", "qformer"])
def test_stage_1_moves_the_generator_and_stage_2_everything(generator: str) -> None:
    model, data = small("paper", pseudo_query=generator), Rows()
    start = weights(model)
    found = train_stages(model, data, {1: plans()[1]}, collate=whole, quiet=True)
    between = weights(model)
    assert moved(start, between) == {"generator"} and list(found) == [1] and len(found[1].losses) == 3
    with torch.no_grad():
        expected = 2 * small("paper", pseudo_query=generator).loss(data.whole)["reconstruction"]
    assert found[1].losses[0] == pytest.approx(expected.item(), rel=0.6)  # of three rows of the six
    found = train_stages(model, data, {2: plans()[2]}, collate=whole, quiet=True)
    assert moved(between, weights(model)) == {"clip", "generator", "fusioner"} and model.config.stage == 2


def test_both_stages_at_once_are_the_one_after_the_other(tmp_path: Path) -> None:
    once, apart, killed = (small("released") for _ in range(3))
    data = Rows()
    found = train_stages(once, data, plans(), collate=whole, quiet=True)
    assert data.given == sum(len(history.losses) for history in found.values()), "neither stage has other data"
    parts = [train_stages(apart, Rows(), {stage: plans()[stage]}, collate=whole, quiet=True) for stage in (1, 2)]
    assert [found[stage].losses for stage in (1, 2)] == [part[stage].losses for stage, part in enumerate(parts, 1)]
    assert not moved(weights(once), weights(apart))
    train_stages(killed, Rows(), {1: plans(checkpoint_every=1)[1]}, collate=whole, quiet=True, folder=tmp_path)
    again = small("released", seed=5)  # another start: stage 1 comes from the checkpoint
    train_stages(again, Rows(), plans(checkpoint_every=1), collate=whole, quiet=True, folder=tmp_path)
    assert not moved(weights(once), weights(again))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["stage1", "stage2"]


def test_without_a_generator_there_is_no_stage_1() -> None:
    for name in ("clip_vip", "clip4clip", "single_tower"):
        model = small(**VARIANTS[name])
        found = train_stages(model, Rows(), plans(), collate=whole, quiet=True)
        assert list(found) == [2]


def test_the_best_weights_of_a_stage_by_a_score() -> None:
    model, seen = small("paper"), []

    def score(now: PIG) -> float:
        seen.append(weights(now))
        return -float(len(seen))  # the first is the best

    plan_ = {1: plans(eval_every=1)[1]}
    train_stages(model, Rows(), plan_, collate=whole, quiet=True, validate={1: score, 2: lambda _: 1.0})
    assert len(seen) == 3 and not moved(seen[0], weights(model)) and moved(seen[0], seen[2]) == {"generator"}


def test_real_pairs_become_a_batch_and_train() -> None:
    towers = load("tiny")
    frames = torch.randint(0, 256, (2, 5, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    ids, mask = towers.tokenize(["a red seven", "a white zero that spins"])
    rows = torch.arange(2)
    seen = torch.ones(2, 5, dtype=torch.bool)
    pairs = PairBatch(text_ids=ids, text_mask=mask, frames=frames, frame_mask=seen, video=rows, pair=rows)
    found = prepared(pairs, towers)
    torch.testing.assert_close(found["video"], preprocess(frames, towers.size, towers.mean, towers.std))
    assert found["text_input_ids"].equal(ids) and found["text_input_mask"].equal(mask) and len(found) == 3

    class Two(Dataset[Any]):
        def __len__(self) -> int:
            return 2

        def __getitems__(self, _: list[int]) -> PairBatch:
            return pairs

    model = PIG.of(towers, Config(frames=5, top=4), generator=torch.Generator().manual_seed(0))
    start = weights(model)
    both = plans(steps=1, batch_size=2)
    train_stages(model, Two(), both, batch=lambda items: prepared(items, towers), collate=whole, quiet=True)
    assert moved(start, weights(model)) == {"clip", "generator", "fusioner"}


@pytest.mark.parametrize("stages", [(), (0, 1), (3,)])
def test_stages_that_do_not_exist_are_named(stages: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"plans: found stages \[.*\], expected 1, 2 or both"):
        train_stages(small(), Rows(), dict.fromkeys(stages, plan(1)), collate=whole)
