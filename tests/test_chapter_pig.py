"""What chapters 11 and 12 say about PIG's printed numbers, and of what all patches would take."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from small_pig import SIZES
from torch import nn

from vtrlib.pig import MATCHES, Config, match_cost
from vtrlib.studies import pig as study
from vtrlib.studies.pig_cost import kept_for_backward


def test_all_patches_do_not_fit() -> None:
    with pytest.raises(ValueError, match="frames=12, top=588: found 605 tokens for the generator, expected at most 77"):
        Config(top=12 * 49)
    with pytest.raises(ValueError, match="found 606 tokens"):
        Config(top=12 * 49, reading="paper")
    assert Config(top=59, reading="paper").top == 77 - 4 - 12 - 2
    with pytest.raises(ValueError, match="found 78 tokens"):
        Config(top=60, reading="paper")


def test_all_patches_would_keep_nearly_as_much_as_the_vision_tower() -> None:
    """At full size; what each part keeps is above its attention weights alone, and grows as their number does."""
    found = kept_for_backward((16, 588))
    tower, few, all_ = found.values()
    assert [*found] == ["vision tower", "generator, k = 16", "generator, k = 588"]
    assert 0.5 * tower < all_ < tower and few < tower / 20
    weights = {k: 12 * 8 * (4 + 12 + k + 1) ** 2 * 4 for k in (16, 588)}  # layers, heads, queries and keys, bytes
    assert all_ > weights[588] and few > weights[16]
    tokens = (4 + 12 + 588 + 1) / (4 + 12 + 16 + 1)
    assert tokens < all_ / few < tokens**2


def test_what_is_kept_by_hand() -> None:
    """Of two linear layers and a square: the input of each and of the square, once, and no weight."""
    from vtrlib.studies.pig_cost import _saved

    model = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2))
    x = torch.randn(7, 3)
    inner = model[0](x).detach()
    assert inner.shape == (7, 5)

    def step() -> Any:
        return model(x).square()

    assert _saved(model, step) == 4 * (7 * 3 + 7 * 5 + 7 * 2)  # type: ignore[arg-type]
    small = kept_for_backward((1, 2), SIZES, frames=2)
    assert 0 < small["generator, k = 1"] < small["generator, k = 2"]


def test_how_many_times_more() -> None:
    """The printed ratios come of 500; with the 512 multiplications of a match they are others."""
    printed = {"ProST": 4035, "UCoFiA": 19673}
    for method, ratio in printed.items():
        (cost,) = (entry.printed * entry.unit for entry in MATCHES if entry.method == method)
        assert round(cost / 500) == ratio
        assert round(cost / match_cost("PIG(Ours)")) == {"ProST": 3940, "UCoFiA": 19212}[method] != ratio


def test_the_largest_printed_gain() -> None:
    gains = [round(pig - alone, 1) for alone, pig in study.GAINS.values()]
    assert (min(gains), max(gains)) == (1.5, 2.8)
    assert round(study.GAINS["CLIP-ViP B/32, MSRVTT-1k"][1], 1) == 48.6


def test_the_benchmarks() -> None:
    benchmarks = {name.split(", ")[1] for name in study.GAINS}
    assert benchmarks == {"MSRVTT-1k", "MSRVTT-3k", "MSVD", "VATEX", "DiDeMo"}
    assert len({re.sub("-[13]k$", "", name) for name in benchmarks}) == 4
