"""The studies of DreamPRVR on the world: what they train, and how they choose."""

import pytest
import torch

from vtrlib import ledger
from vtrlib.dreamprvr import Reading
from vtrlib.studies import dreamprvr as study


def test_each_variant_trains_at_the_rate_that_validation_chose() -> None:
    rows = ledger.read_rows(ledger.results_folder())
    found = rows["dreamprvr-rates"].metrics | rows["dreamprvr-rates-above"].metrics
    for name in study.VARIANTS:
        tried = {rate: found[f"{name}/{rate}"][0] for rate in (*study.RATES, study.ABOVE)}
        best = max(tried, key=tried.__getitem__)
        assert study.CHOSEN[name] == best, name
        assert min(tried) < best < max(tried), f"{name}: the grid ends at its best rate"


def test_what_adam_trains_has_a_rate_that_validation_chose() -> None:
    row = ledger.read_rows(ledger.results_folder())["dreamprvr-reading-rates"]
    assert set(study.PRINTED) == {name for name, config in study.flips().items() if config.reading.optimiser == "adam"}
    for name, chosen in study.PRINTED.items():
        tried = {rate: row.metrics[f"{name}/{rate}"][0] for rate in row.config["rates"][name]}
        best = max(tried, key=tried.__getitem__)
        assert chosen == best and min(tried) < best < max(tried), name


def test_variants_differ_from_the_full_model_as_table_3_says() -> None:
    made = study.variants("released")
    full = made.pop("full")
    assert made["w/o registers"].registers_from == "none" and made["w/ AP"].registers_from == "pooling"
    assert made["w/o DRE"].steps == 0 and made["w/o PVS"].registers_from == "noise"
    off = {name: {k for k, v in vars(config.weights).items() if v == 0} for name, config in made.items()}
    assert off["L_sim only"] == {"diversity", "qsp", "kl", "dre"} and off["w/o L_tss"] == {"diversity", "qsp"}
    assert off["w/o L_pvs"] == {"kl"} and off["w/o L_dre"] == {"dre"} and off["L_div only"] == {"qsp"}
    assert not off["w/o registers"] and full.steps == 10


def test_sweeps_change_one_number_each() -> None:
    base, made = study.settings("released"), study.swept("released", [1, 2, 4, 8, 16], [2, 5, 10, 15, 20])
    assert len(made) == 10
    for name, config in made.items():
        kind, value = name.split("=")
        key = {"N_r": "registers", "T": "steps"}[kind]
        assert vars(config) == vars(base) | {key: int(value)}


def test_a_summed_dre_loss_weighs_as_much_as_its_mean() -> None:
    paper, released = study.settings("paper"), study.settings("released")
    summands = paper.steps * paper.registers * paper.width
    assert paper.weights.dre * summands == pytest.approx(released.weights.dre)


def test_flips_change_one_switch_each() -> None:
    made = study.flips()
    released = vars(Reading.released())
    for name, config in made.items():
        changed = {key for key, value in vars(config.reading).items() if value != released[key]}
        if name.endswith(" as printed"):
            assert changed == {name.removesuffix(" as printed")}
    assert made["released"].reading == Reading.released() and made["paper"].reading == Reading.paper()


def test_training_is_repeatable_learns_and_leaves_torch_as_it_was() -> None:
    data, val = study.world("train", 48), study.world("val", 20)
    before = torch.random.get_rng_state()
    (a, first), (_, second) = (study.train(study.settings(), data, seed=3, steps=12, batch=16) for _ in range(2))
    assert first.losses == second.losses and torch.equal(before, torch.random.get_rng_state())
    _, other = study.train(study.settings(), data, seed=4, steps=12, batch=16)
    assert other.losses != first.losses
    found = study.evaluate_on(a, val)
    assert found == study.evaluate_on(a, val) and all(0 <= found[f"R@{k}"] <= found[f"true R@{k}"] for k in (1, 5, 10))


def test_hard_negatives_begin_where_they_should(monkeypatch: pytest.MonkeyPatch) -> None:
    from vtrlib.dreamprvr import DreamPRVR

    seen, loss = [], DreamPRVR.forward
    monkeypatch.setattr(DreamPRVR, "forward", lambda self, batch, hard=False: (seen.append(hard), loss(self, batch, hard=hard))[1])
    study.train(study.settings(), study.world("train", 48), steps=8, batch=16, hard_from=0.5)
    assert seen == [False] * 4 + [True] * 4


def test_a_peak_in_the_moment_is_found_where_it_is() -> None:
    data = study.world("val", 20)
    start, end = torch.tensor([truth.moment for truth in data.truth]).T
    length = data.lengths[data.relevant]
    middle = ((start + end) / 2 / length * study.FRAMES).long()
    curves = torch.zeros(len(middle), study.FRAMES).scatter_(1, middle[:, None], 1.0)
    assert study.in_moment(curves, data).all()
    before = (start == 0).logical_not()
    wrong = torch.zeros_like(curves)
    wrong[:, 0] = 1.0
    late = before & (start >= 2 * length // study.FRAMES)
    assert late.any() and not study.in_moment(wrong, data)[late].any()


def test_temporal_attention_is_the_cosine_with_each_frame() -> None:
    data = study.world("val", 20)
    model, _ = study.train(study.settings(), study.world("train", 48), steps=2, batch=16)
    queries, videos = study.encode(model, data)
    curves = study.temporal_attention(queries, videos, data.relevant)
    for n in (0, 7, 31):
        for f in (0, 5, 31):
            frame = videos.frames[data.relevant[n], f]
            assert curves[n, f] == pytest.approx(float(torch.cosine_similarity(queries[n], frame, dim=0)), abs=1e-5)
