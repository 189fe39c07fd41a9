"""`vtrlib.training`: the loop against a naive one, the schedules against the papers' released code."""

from __future__ import annotations

import doctest
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import count, cycle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import Dataset, TensorDataset

from vtrlib.training import Config, History, adamw, fit, loop, schedules

DEVICES = ["cpu"] + ["cuda"] * torch.cuda.is_available() + ["mps"] * torch.backends.mps.is_available()


def classifier(dropout: float = 0.0, dtype: torch.dtype = torch.float64) -> nn.Sequential:
    """The same small model at each call."""
    with torch.random.fork_rng():
        torch.manual_seed(11)
        return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Dropout(dropout), nn.Linear(7, 3)).to(dtype)


def samples(size: int = 41, dtype: torch.dtype = torch.float64) -> TensorDataset:
    generator = torch.Generator().manual_seed(size)
    x = torch.randn(size, 5, generator=generator, dtype=dtype)
    return TensorDataset(x, (x[:, 0] > 0).long() + (x[:, 1] > 0).long())


def loss_of(model: nn.Module, batch: Sequence[Tensor]) -> Tensor:
    return functional.cross_entropy(model(batch[0]), batch[1])


def weights(model: nn.Module) -> Tensor:
    return torch.cat([weight.detach().flatten() for weight in model.parameters()])


class Noisy(Dataset[tuple[Tensor, Tensor]]):
    """Samples with noise from every global generator that data code uses."""

    def __len__(self) -> int:
        return 41

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        x, y = samples()[index]
        return x + 0.1 * torch.randn(5, dtype=x.dtype) + random.random() + np.random.rand(), y


CONFIG = Config(steps=11, batch_size=6, learning_rate=0.05)


@pytest.mark.parametrize("clip", [None, 0.3])
@pytest.mark.parametrize("drop_last", [True, False])
def test_the_loop_is_the_naive_loop(clip: float | None, drop_last: bool) -> None:
    config = replace(CONFIG, weight_decay=0.1, clip=clip, drop_last=drop_last, schedule="cosine", warmup=0.2, seed=3)
    model, naive, data = classifier(), classifier(), samples(20)  # 3 whole batches in a pass, and 2 samples
    history = fit(model, data, loss_of, config)
    optimiser = torch.optim.AdamW(naive.parameters(), weight_decay=0.1)
    generator = torch.Generator().manual_seed(3)
    losses: list[float] = []
    while len(losses) < 11:
        for batch in torch.split(torch.randperm(20, generator=generator), 6):
            if len(losses) < 11 and (len(batch) == 6 or not drop_last):
                k = len(losses)
                rate = k / 2 if k < 2 else 0.5 * (1 + math.cos(math.pi * (k - 2) / 9))
                optimiser.param_groups[0]["lr"] = 0.05 * rate
                loss = loss_of(naive, data[batch])
                losses.append(loss.item())
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                if clip:
                    nn.utils.clip_grad_norm_(naive.parameters(), clip)
                optimiser.step()
    assert history.losses == losses
    assert torch.equal(weights(model), weights(naive))
    assert history.steps == list(range(1, 12)) and history.ended == "steps" and history.seconds > 0
    assert not model.training


@pytest.mark.parametrize("drop_last", [True, False])
def test_parts_add_up_to_the_batch(drop_last: bool) -> None:
    whole, parts, data = classifier(), classifier(), samples(20)
    config = replace(CONFIG, drop_last=drop_last, clip=0.3)
    one = fit(whole, data, loss_of, config)
    three = fit(parts, data, loss_of, replace(config, accumulation=3))
    assert three.losses == pytest.approx(one.losses, rel=1e-12)
    assert len(three.losses) == 11
    torch.testing.assert_close(weights(parts), weights(whole), rtol=0, atol=1e-9)


def test_epochs_are_passes() -> None:
    seen: list[int] = []

    def collate(drawn: list[tuple[Tensor, int]]) -> list[Tensor]:
        seen.extend(number for _, number in drawn)
        return [torch.stack([x for x, _ in drawn]), torch.zeros(len(drawn), dtype=torch.long)]

    data: Any = [(x, number) for number, x in enumerate(samples(20).tensors[0])]  # a list is a dataset
    for drop_last, steps in [(False, 8), (True, 6)]:
        seen.clear()
        config = Config(epochs=2, batch_size=6, drop_last=drop_last)
        scored = list(fit(classifier(), data, loss_of, config, collate=collate, validate=lambda _: 1.0).scores)
        assert scored == [steps // 2, steps], "validated after each pass"
        whole = 20 if not drop_last else 18
        assert len(set(seen[:whole])) == len(set(seen[whole:])) == whole
        assert seen[:whole] != seen[whole:], "each pass has an order of its own"


def test_nothing_but_the_configuration_decides() -> None:
    """Neither the caller's generators nor worker processes; and the caller's generators don't feel it."""

    def run(config: Config, disturb: int) -> tuple[list[float], Tensor]:
        torch.manual_seed(disturb), random.seed(disturb), np.random.seed(disturb)
        before = torch.get_rng_state(), random.getstate(), np.random.get_state(legacy=True)
        model = classifier(dropout=0.4)
        losses = fit(model, Noisy(), loss_of, config).losses
        assert torch.equal(torch.get_rng_state(), before[0]) and random.getstate() == before[1]
        assert str(np.random.get_state(legacy=True)) == str(before[2])
        return losses, weights(model)

    losses, found = run(CONFIG, 1)
    for workers in (0, 2):
        again = run(replace(CONFIG, workers=workers), 2)
        assert again[0] == losses and torch.equal(again[1], found)
    other = run(replace(CONFIG, seed=1), 1)
    assert other[0][0] != losses[0]
    assert len(set(losses)) == len(losses)


def test_dropout_follows_the_seed() -> None:
    """The order of the data is held fixed here, so that only dropout can differ."""
    first, same, other = (
        fit(classifier(0.4), samples(), loss_of, replace(CONFIG, seed=seed), sampler=lambda _: cycle(range(41))).losses
        for seed in (0, 0, 1)
    )
    assert first == same != other


def test_each_batch_has_draws_of_its_own() -> None:
    class Drawn(Dataset[Tensor]):
        def __len__(self) -> int:
            return 41

        def __getitem__(self, index: int) -> Tensor:
            return torch.cat([torch.randn(5), torch.tensor([random.random(), np.random.rand()])])

    drawn: list[Tensor] = []

    def watched(model: nn.Module, batch: Tensor) -> Tensor:
        drawn.append(batch)
        return model(batch[:, :5]).square().mean()  # type: ignore[no-any-return]

    fit(classifier(dtype=torch.float32), Drawn(), watched, replace(CONFIG, accumulation=2))
    together = torch.cat(drawn)  # (66, 7)
    assert len(together) == 66
    for column in together.unbind(1):
        assert len(set(column.tolist())) == 66


def test_samples_come_at_once_where_the_dataset_can() -> None:
    asked: list[list[int]] = []

    class Together(Dataset[Any]):
        def __len__(self) -> int:
            return 41

        def __getitems__(self, indices: list[int]) -> Any:
            asked.append(indices)
            return samples()[indices]

        def __getitem__(self, index: int) -> Any:
            raise AssertionError("one by one")

    one_by_one: Any = [samples()[index] for index in range(41)]
    expected = fit(classifier(), one_by_one, loss_of, CONFIG).losses
    assert fit(classifier(), Together(), loss_of, CONFIG, collate=list).losses == expected
    assert [len(indices) for indices in asked] == [6] * 11
    assert fit(classifier(), samples(), loss_of, CONFIG).losses == expected


def test_an_endless_sampler() -> None:
    drawn: list[int] = []

    def endless(generator: torch.Generator) -> Iterator[int]:
        while True:
            drawn.append(int(torch.randint(41, (), generator=generator)))
            yield drawn[-1]

    model, naive, data = classifier(), classifier(), samples()
    history = fit(model, data, loss_of, replace(CONFIG, schedule="constant"), sampler=endless, validate=lambda _: 0.0)
    assert len(drawn) == 66 and list(history.scores) == [11]
    optimiser = adamw(naive, CONFIG)
    for batch in torch.split(torch.tensor(drawn), 6):
        optimiser.zero_grad()
        loss_of(naive, data[batch]).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    assert torch.equal(weights(model), weights(naive))


def test_an_optimiser_of_ones_own_and_its_groups() -> None:
    rates: list[list[float]] = []

    class Watched(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            rates.append([group["lr"] for group in self.param_groups])
            return super().step(closure)

    def split(model: nn.Module, config: Config) -> Watched:
        assert isinstance(model, nn.Sequential)
        slow: dict[str, Any] = {"params": model[0].parameters(), "lr": config.learning_rate / 10}
        return Watched([slow, {"params": model[3].parameters()}], lr=config.learning_rate)

    config = replace(CONFIG, steps=5, learning_rate=1.0, schedule="linear", warmup=0.4)
    fit(classifier(), samples(), loss_of, config, optimiser=split)
    assert [fast for _, fast in rates] == pytest.approx([0, 0.5, 1, 2 / 3, 1 / 3])
    assert [slow for slow, _ in rates] == pytest.approx([fast / 10 for _, fast in rates])


def test_frozen_weights_stay() -> None:
    model = classifier()
    model[0].requires_grad_(False)
    before = weights(model)
    fit(model, samples(), loss_of, replace(CONFIG, weight_decay=0.5))
    kept = sum(weight.numel() for weight in model[0].parameters())
    assert torch.equal(weights(model)[:kept], before[:kept])
    assert not torch.equal(weights(model)[kept:], before[kept:])


def test_validation_chooses_and_is_not_felt() -> None:
    scripted = {2: 0.1, 4: 0.7, 6: 0.5, 8: 0.7, 10: 0.6, 11: 0.2}  # equal to the best is no better
    at: dict[int, Tensor] = {}

    def validate(model: nn.Module) -> float:
        assert not model.training and not torch.is_grad_enabled()
        torch.rand(3), torch.manual_seed(99)
        step = list(scripted)[len(at)]
        at[step] = weights(model)
        return scripted[step]

    plain = fit(classifier(0.4), samples(), loss_of, CONFIG)
    model = classifier(0.4)
    history = fit(model, samples(), loss_of, replace(CONFIG, eval_every=2), validate=validate)
    assert history.losses == plain.losses
    assert history.scores == scripted and (history.best_step, history.best_score) == (4, 0.7)
    assert torch.equal(weights(model), at[4]) and not torch.equal(at[4], at[8])
    at.clear()
    stopped = fit(
        model := classifier(0.4), samples(), loss_of, replace(CONFIG, eval_every=2, patience=2), validate=validate
    )
    assert (list(stopped.scores), len(stopped.losses), stopped.ended) == ([2, 4, 6, 8], 8, "patience")
    assert torch.equal(weights(model), at[4])


def test_until_stops_within_the_same_plan() -> None:
    config = replace(CONFIG, schedule="cosine", warmup=0.2)
    whole = fit(classifier(), samples(), loss_of, config)
    model = classifier()
    first = fit(model, samples(), loss_of, config, until=3, validate=lambda _: 0.0)
    assert first.losses == whole.losses[:3]
    assert (first.ended, first.scores) == ("until", {})


def test_the_loss_is_read_only_where_it_is_reported() -> None:
    """Reading a number makes a GPU's queue run dry; on a CPU the same reads can be counted."""

    class Reads(TorchDispatchMode):  # type: ignore[no-untyped-call]
        count = 0

        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.count += function is torch.ops.aten._local_scalar_dense.default
            return function(*args, **(kwargs or {}))

    def sgd(model: nn.Module, config: Config) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=config.learning_rate)

    found = {}
    for steps, every in [(12, 12), (48, 48), (48, 12)]:
        config = replace(CONFIG, steps=steps, clip=1.0, report_every=every)
        with Reads() as reads:  # type: ignore[no-untyped-call]
            fit(classifier(), samples(), loss_of, config, optimiser=sgd)
        found[steps, every] = reads.count
    assert found[48, 48] == found[12, 12], "a step reads nothing"
    assert found[48, 12] == found[12, 12] + 3, "a report asks once whether the weights are finite"


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("precision", "expected"), [("no", {"cpu": torch.float32}), ("bf16", {}), ("auto", {"cpu": torch.float32})]
)
def test_precision_and_learning(device: str, precision: str, expected: dict[str, torch.dtype]) -> None:
    seen: set[torch.dtype] = set()

    def watched(model: nn.Module, batch: Sequence[Tensor]) -> Tensor:
        scores = model(batch[0])
        seen.add(scores.dtype)
        return functional.cross_entropy(scores, batch[1])

    model = classifier(dtype=torch.float32).to(device)
    config = replace(CONFIG, steps=60, precision=precision, batch_size=20)
    history = fit(model, samples(dtype=torch.float32), watched, config)
    assert history.losses[-1] < 0.5 * history.losses[0]
    if device in expected or precision == "bf16":
        assert seen == {expected.get(device, torch.bfloat16)}
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    assert {weight.device.type for weight in model.parameters()} == {device}


def test_a_history_is_told_in_a_line_and_a_curve() -> None:
    history = History([4.0, 2.0, 3.0, 1.0, 0.5], {2: 10.0, 4: 30.0, 5: 30.0}, 1.25, "steps")
    assert repr(history) == "History(5 steps in 1.2 s, loss 4 to 0.5, best validation 30 at step 4)"
    assert history.curve(points=3) == ([1.5, 3.5, 5.0], [3.0, 2.0, 0.5])
    assert history.curve() == ([1.0, 2.0, 3.0, 4.0, 5.0], history.losses)
    assert history.failures == 1
    empty = History()
    assert (empty.curve(), empty.best_step, empty.best_score, empty.failures) == (([], []), None, None, 0)


# Computed by the papers' released code: PIG's rates by its step number less one, DiscoVLA's, DreamPRVR's BertAdam's.
PIG = {0: 3.571428571428571e-08, 9: 3.5714285714285716e-07, 27: 1e-06, 55: 2e-06, 56: 1.9999998408834687e-06,
       999: 1.8615249560579862e-06, 2799: 1.022844933335181e-06, 4999: 6.151368685573988e-08,
       5623: 1.591165311731757e-13, 5624: 1e-08, -1: 1e-08}  # fmt: skip
DISCOVLA = [0.0, 0.0003, 0.0006, 0.000577163859753386, 0.0005121320343559641, 0.0004148050297095269]
BERTADAM = [0, 0.5, 1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125, 0, 0]


def test_schedules_are_the_released_ones() -> None:
    for step, expected in PIG.items():  # its step numbers are one higher: it counts updates from 1
        assert schedules.pig(step, 5625, 0.01, 2e-6) == pytest.approx(expected, rel=1e-12)
    assert [schedules.cosine(k, 10, 0.2, 6e-4) for k in range(6)] == pytest.approx(DISCOVLA, rel=1e-12)
    assert [schedules.linear(k, 10, 0.2, 1.0) for k in range(12)] == pytest.approx(BERTADAM, rel=1e-12)
    assert [schedules.linear(k, 300, 0.01, 1.0) for k in (0, 1, 3)] == pytest.approx([0, 1 / 3, 1])
    assert [schedules.constant(k, 10, 0.25, 4.0) for k in range(4)] == [0, 2, 4, 4]


def test_a_schedule_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[float, ...]] = []

    def mine(*state: float) -> float:
        asked.append(state)
        return 0.0

    monkeypatch.setitem(schedules.SCHEDULES, "mine", mine)
    model = classifier()
    before = weights(model)
    fit(model, samples(), loss_of, replace(CONFIG, steps=3, schedule="mine", warmup=0.1))
    assert asked == [(step, 3, 0.1, 0.05) for step in range(3)]
    assert torch.equal(weights(model), before)


@pytest.mark.parametrize("name", schedules.SCHEDULES)
def test_schedules_at_their_ends(name: str) -> None:
    for steps in (1, 2, 3, 97):
        for warmup in (0.0, 0.1, 0.999):
            rates = [schedules.SCHEDULES[name](k, steps, warmup, 0.5) for k in range(steps)]
            assert all(0 <= rate <= 0.5 for rate in rates), (steps, warmup, rates)
    assert schedules.SCHEDULES[name](48, 97, 0.5, 0.5) == pytest.approx(0.5, rel=0.05)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "steps=None, epochs=None: expected one of them"),
        ({"steps": 3, "epochs": 1}, "steps=3, epochs=1: expected one of them"),
        ({"steps": 0}, "steps=0: expected at least 1"),
        ({"steps": 2.5}, "steps=2.5 .*expected an integer"),
        ({"steps": 1, "learning_rate": math.nan}, "learning_rate=nan: expected a finite number, at least 0"),
        ({"steps": 1, "weight_decay": -1}, "weight_decay=-1.0: expected a finite number, at least 0"),
        ({"steps": 1, "warmup": 1.0}, "warmup=1: expected a share of the steps below 1"),
        ({"steps": 1, "warmup": 20}, "warmup=20.0: expected a finite number, at least 0 and at most 1"),
        ({"steps": 1, "clip": 0}, "clip=0: expected a norm above 0"),
        ({"steps": 1, "schedule": "cosin"}, "schedule='cosin': .*Did you mean 'cosine'"),
        ({"steps": 1, "precision": "fp16"}, "precision='fp16': expected one of"),
        ({"steps": 1, "batch_size": 10, "accumulation": 4}, "accumulation=4: expected a divisor of batch_size=10"),
        ({"steps": 1, "seed": True}, "seed=True .*expected an integer"),
    ],
)
def test_a_bad_configuration_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        Config(**settings)


@pytest.mark.parametrize(
    ("arguments", "settings", "message"),
    [
        ({"data": samples(5)}, {}, "data: found 5 samples, expected at least batch_size=6"),
        ({"data": iter([])}, {}, "data: found list_iterator, expected a dataset"),
        ({"model": nn.Tanh()}, {}, "model: found no weight with requires_grad"),
        ({"loss": lambda model, batch: 0.5}, {}, "loss: found float, expected a scalar tensor"),
        ({"loss": lambda model, batch: model(batch[0])}, {}, r"loss: found a tensor of shape \(6, 3\), expected"),
        ({"loss": lambda model, batch: batch[0].sum()}, {}, r"shape \(\) without gradient, expected"),
        ({"until": 0}, {}, "until=0: expected at least 1"),
        ({"until": 2.5}, {}, "until=2.5 .float.: expected an integer"),
        ({"until": True}, {}, "until=True .bool.: expected an integer"),
        ({"validate": lambda _: None}, {}, "validate: found None .NoneType., expected a number"),
        ({"validate": lambda _: torch.zeros(2)}, {}, r"validate: found tensor\(\[0., 0.\]\) .Tensor., expected a number"),
        ({"sampler": lambda _: range(4)}, {}, "data: found 4 samples in a pass"),
        ({"sampler": lambda _: range(9)}, {"steps": None, "epochs": 2}, "epochs: found together with a sampler"),
        ({}, {"patience": 2}, "patience=2: expected validate with it"),
        ({"validate": lambda _: math.nan}, {}, "validate: found the score nan at step 6 of 11"),
    ],
)  # fmt: skip
def test_bad_arguments_are_refused(arguments: dict[str, Any], settings: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"model": classifier(), "data": samples(), "loss": loss_of, **arguments}
    with pytest.raises((TypeError, ValueError, FloatingPointError), match=message):
        fit(config=replace(CONFIG, **settings), **given)


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_checkpoint(tmp_path: Path) -> None:
    calls = count(1)

    def poisoned(model: nn.Module, batch: Sequence[Tensor]) -> Tensor:
        return loss_of(model, batch) * (math.nan if next(calls) == 7 else 1)

    config = replace(CONFIG, checkpoint_every=5)
    with pytest.raises(
        FloatingPointError, match="loss: found nan at step 7 of 11, expected.*Lower learning_rate=0.05"
    ) as told:
        fit(classifier(), samples(), poisoned, config, folder=tmp_path)
    assert "step-00000005 is from before, and stands" in str(told.value)
    model = classifier()
    fit(model, samples(), loss_of, config, folder=tmp_path)
    fit(whole := classifier(), samples(), loss_of, config)
    assert torch.equal(weights(model), weights(whole))


def test_weights_that_are_no_numbers_never_reach_a_checkpoint(tmp_path: Path) -> None:
    def steep(model: nn.Module, batch: Sequence[Tensor]) -> Tensor:
        zero: Tensor = (model(batch[0]) * 0).abs().sum().sqrt()  # finite, its gradient is not
        return loss_of(model, batch) + zero

    config = replace(CONFIG, checkpoint_every=1)
    with pytest.raises(FloatingPointError, match="weights: found NaN or infinity after step 1"):
        fit(classifier(), samples(), steep, config, folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


class Towers(nn.Module, PyTorchModelHubMixin):
    """A model as the book's are: its settings are arguments, so that `from_pretrained` can make it again."""

    def __init__(self, width: int = 5, classes: int = 3) -> None:
        super().__init__()
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(x)
        return scores


def test_a_hub_model_is_trained_saved_and_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    model = Towers(classes=4)
    fit(model, samples(dtype=torch.float32), loss_of, CONFIG)
    model.save_pretrained(tmp_path)
    assert {"config.json", "model.safetensors"} <= {path.name for path in tmp_path.iterdir()}
    assert torch.equal(weights(Towers.from_pretrained(tmp_path)), weights(model))


def test_the_examples_of_fit_run() -> None:
    found = doctest.testmod(loop)
    assert found.attempted > 20 and found.failed == 0
