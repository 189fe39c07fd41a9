"""What is timed of DiscoVLA's attentions: that it is what it says, counted by torch, and how medians are taken."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch

from vtrlib.discovla import IVFusionAttention, attention_cost
from vtrlib.studies import discovla_cost as study

SMALL: dict[str, Any] = {"hidden_size": 12, "intermediate_size": 20, "num_attention_heads": 3}


@pytest.mark.parametrize("kind", study.KINDS)
def test_each_kind_costs_what_is_derived(kind: str) -> None:
    steps = study.timed(5, 7, SMALL, seed=1)
    cost = attention_cost(kind, 5, 7, 12, rank=8, adapter_rank=8)
    forward = study.counted(steps[f"{kind}/F=5/attention forward"])
    assert forward == 2 * cost.total
    mlp = 2 * (2 * 5 * 7 * 12 * 20)
    assert study.counted(steps[f"{kind}/F=5/layer forward"]) == forward + mlp
    both = study.counted(steps[f"{kind}/F=5/attention step"])
    # Backward: each product of pairs and each LoRA product twice, each frozen layer once.
    assert both == 2 * (3 * cost.pairs + 2 * cost.projections + 3 * cost.added)
    assert study.counted(steps[f"{kind}/F=5/layer step"]) == both + 2 * mlp


def test_layers_are_those_of_the_model_with_nothing_at_zero() -> None:
    for kind in study.KINDS:
        top = study.layer(kind, SMALL, torch.Generator().manual_seed(0))
        attention: Any = top.get_submodule("self_attn")
        assert (attention.kind if isinstance(attention, IVFusionAttention) else "image") == kind
        assert all((weight != 0).all() for weight in top.parameters())
        trained = {name for name, weight in top.named_parameters() if weight.requires_grad}
        assert trained and all("lora" in name or "adapter" in name for name in trained)


def test_steps_take_turns_and_the_first_round_does_not_count() -> None:
    now, order = 0.0, []

    def step(name: str, seconds: Iterator[int]) -> None:
        nonlocal now
        now += next(seconds)
        order.append(name)

    waits = {"a": [9, 1, 3, 50], "b": [9, 2, 70, 2]}
    steps: dict[str, Callable[[], object]] = {name: partial(step, name, iter(taken)) for name, taken in waits.items()}
    assert study.interleaved(steps, 3, clock=lambda: now) == {"a": [1, 3, 50], "b": [2, 70, 2]}
    assert order == ["a", "b"] * 4


def test_everything_that_the_ledger_keeps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Medians over rounds; the machine is three times as slow in the second."""

    def interleaved(steps: study.Steps, repeats: int) -> dict[str, list[float]]:
        assert repeats == 3
        seconds = {name: 0.5 if name == "matmul" else 2.0 + 0.5 * name.startswith("video") for name in steps}
        found = {name: [x, 3 * x, 1.1 * x] for name, x in seconds.items()}
        return found | {"fusion/F=3/layer step": [2.0, 30.0, 4.4]}

    monkeypatch.setattr(study, "interleaved", interleaved)
    threads = torch.get_num_threads()
    found = study.attention_times(0, [1, 3], 7, SMALL, matrix=16, repeats=3)
    assert threads == torch.get_num_threads()
    parts = [f"{part} {pass_}" for part in ("attention", "layer") for pass_ in ("forward", "step")]
    names = [f"{kind}/F={f}/{part}" for kind in study.KINDS for f in (1, 3) for part in parts]
    assert found.keys() == {f"{n} {unit}" for n in names for unit in ("ms", "ratio", "share")} | {
        f"F={f}/matmul GFLOP/s" for f in (1, 3)
    }
    assert found["F=3/matmul GFLOP/s"] == pytest.approx(2 * 16**3 / 0.55 / 1e9)
    assert found["video/F=3/layer step ms"] == pytest.approx(2750)
    assert found["video/F=3/layer step ratio"] == pytest.approx(1.25) and found["image/F=1/layer step ratio"] == 1
    assert found["fusion/F=3/layer step ratio"] == pytest.approx(4.4 / 2.2)
    flops = 2 * attention_cost("fusion", 3, 7, 12, rank=8, adapter_rank=8).total
    assert found["fusion/F=3/attention forward share"] == pytest.approx((flops / 2.0) / (2 * 16**3 / 0.5))


def test_the_canary_feels_its_seed() -> None:
    one = study._first_outputs(0, 7, SMALL)
    assert len(set(one)) == 3 and one == study._first_outputs(0, 7, SMALL) != study._first_outputs(1, 7, SMALL)
