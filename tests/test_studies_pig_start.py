"""What PIG's generator has from CLIP: which weights are drawn anew, what is trained and measured."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from vtrlib import experiments, ledger
from vtrlib.studies import pig as study
from vtrlib.studies import pig_start

SMALL = 7


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every split is its first seven clips, of which four make a batch."""
    made = study.pairs
    monkeypatch.setattr(pig_start, "pairs", lambda split, size=None: made(split, SMALL))
    monkeypatch.setattr(pig_start, "BATCH", 4)


def test_all_but_the_mapper_is_drawn_anew() -> None:
    clip, one, again, other = (study.build(study.settings(), 3) for _ in range(4))
    before = torch.random.get_rng_state()
    for model, seed in ((one, 3), (again, 3), (other, 4)):
        assert pig_start.anew(model, seed) is model
    assert torch.random.get_rng_state().equal(before)
    drawn = dict(one.named_parameters())
    assert all(weight.equal(drawn[name]) for name, weight in again.named_parameters())
    moved = {name for name, weight in clip.named_parameters() if not weight.equal(drawn[name])}
    ours = {name for name in drawn if name.startswith("generator.") and ".mapper." not in name}
    assert moved == ours, "norms and biases have left where they started, in the tiny CLIP"
    drawn_too = {name for name, weight in other.named_parameters() if not weight.equal(drawn[name])}
    assert drawn_too == {name for name in ours if name.endswith("weight") and "norm" not in name} | {
        "generator.bos", "generator.eos", "generator.positions",
    }  # fmt: skip
    std = {name: float(drawn[f"generator.{name}.weight"].detach().std()) for name in ("projection", "layers.0.mlp.fc2")}
    width, layers = 64, clip.config.sizes.text_config.num_hidden_layers
    assert std["projection"] == pytest.approx(width**-0.5, rel=0.05)
    assert std["layers.0.mlp.fc2"] == pytest.approx(width**-0.5 * (2 * layers) ** -0.5, rel=0.05)


def test_a_stage_is_the_study_s(few: None) -> None:
    """Stage by stage as `train` has both: the same losses, and the same weights in the end."""
    data = study.pairs("train", SMALL)
    model, histories = study.train(study.settings(), data, seed=2, rate=1e-3, first=2e-3, steps=2, batch=4, quiet=True)
    apart = pig_start._built("PIG", 2)
    assert pig_start._stage(apart, 1, 2, 2e-3, 2) == histories[1].losses
    assert pig_start._stage(apart, 2, 2, 1e-3, 2) == histories[2].losses
    assert all(a.equal(b) for a, b in zip(apart.parameters(), model.parameters(), strict=True))


def test_starts_are_measured_on_test_after_each_stage(few: None, monkeypatch: pytest.MonkeyPatch) -> None:
    models: dict[str, Any] = {}
    built, about, early = pig_start._built, pig_start.about_queries, []

    def noted(name: str, seed: int) -> Any:
        return models.setdefault(name, built(name, seed))

    def first(*given: Any) -> dict[str, float]:
        early.append(about(*given))
        return early[-1]

    monkeypatch.setattr(pig_start, "_built", noted)
    monkeypatch.setattr(pig_start, "about_queries", first)
    found = pig_start.starts(1, 1, 5e-4, 2e-3, [pig_start.ANEW, "MLP"])
    test = study.pairs("test", SMALL)
    for name, values in zip(models, early, strict=True):
        assert {f"{name}/first {metric}": value for metric, value in values.items()}.items() <= found.items()
        values = study.evaluate_on(models[name], test)
        assert {f"{name}/{metric}": value for metric, value in values.items()}.items() <= found.items()
        assert values["own cosine"] != found[f"{name}/first own cosine"]
    assert [model.config.pseudo_query for model in models.values()] == ["causal", "mlp"]


def test_start_rates_are_tried_on_validation(few: None) -> None:
    found = pig_start.start_rates(100, 1, [1e-3, 4e-3])
    assert list(found) == [f"{pig_start.ANEW}/0.001", f"{pig_start.ANEW}/0.004"]
    model = pig_start._built(pig_start.ANEW, 100)
    pig_start._stage(model, 1, 100, 4e-3, 1)
    texts, videos = study.encode(model, study.pairs("val", SMALL))
    assert found[f"{pig_start.ANEW}/0.004"] == study.recall_of_queries(texts, videos.pseudo_query)  # type: ignore[arg-type]


def test_the_rate_is_the_best_inside_of_what_was_tried() -> None:
    rates = ledger.read_row(ledger.results_folder() / "pig-start-rates.json")
    assert rates.seeds == [100] and 100 not in experiments.REGISTRY["pig-generator-start"].seeds
    tried = {float(name.rpartition("/")[2]): value for name, (value,) in rates.metrics.items()}
    assert max(tried, key=tried.__getitem__) == study.FIRST_RATE and min(tried) < study.FIRST_RATE < max(tried)
    known = experiments.REGISTRY["pig-generator-start"].config
    assert (known["first"], known["rate"], known["steps"]) == (study.FIRST_RATE, study.RATE, study.STEPS)
