"""What ships: a generator that does as it is told, and RagCA that looks at the clips it is shown."""

from __future__ import annotations

import functools
import json
from collections import Counter

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from vtrlib.ragme import Retrieved
from vtrlib.ragme.tiny import GENERATOR, load_generator
from vtrlib.studies import ragme as study
from vtrlib.studies.tiny_generator import Recipe
from vtrlib.world import DarkStage
from vtrlib.world.judges import motions, trace

CLIPS = 24  # of the validation split
WEIGHTS = GENERATOR / "diffusion_pytorch_model.safetensors"


@functools.cache
def known() -> study.Bank:
    return study.bank(200)


@functools.cache
def asked() -> DarkStage:
    return DarkStage("val", size=CLIPS)


def right(name: str, told: bool = False, found: Retrieved | None = None, **ways: bool) -> float:
    """Share of clips that move as their caption says, from the same noise, in ten steps without guidance."""
    noise = torch.randn(CLIPS, 48, 8, 4, 4, generator=torch.Generator().manual_seed(2))
    prompts = asked().prompts(motion=told)
    latents = study.generate(known(), study.adapted(name), prompts, noise, found, steps=10, guidance=1.0, **ways)
    return float((motions(trace(known().codec.decode(latents))) == asked().motion).double().mean())


def test_files_are_small_and_in_half_precision() -> None:
    adapters = sorted((GENERATOR / "adapters").rglob("*.safetensors"))
    assert [path.parent.name for path in adapters] == sorted(study.ADAPTED)
    assert sum(path.stat().st_size for path in GENERATOR.rglob("*") if path.is_file()) < 5_000_000
    for path in (WEIGHTS, *adapters):
        assert Counter(weight.dtype for weight in load_file(path).values()).keys() == {torch.float16}


def test_the_recipe_is_the_one_in_the_code() -> None:
    facts = json.loads((GENERATOR / "recipe.json").read_text("utf-8"))
    told = facts["recipe"]
    assert Recipe(**{**told, "worlds": tuple(told["worlds"])}) == Recipe()
    assert facts["parameters"] == sum(weight.numel() for weight in load_generator().parameters()) == 1_364_816
    assert len(facts["curve"]) == Recipe().steps / 50 and facts["curve"][-1] < facts["curve"][0] / 5
    scores = facts["scores"]
    assert scores["real"]["motion"] >= scores["told"]["motion"] > scores["not told"]["motion"] + 50


@pytest.mark.parametrize("name", study.ADAPTED)
def test_adapters_come_with_their_recipe(name: str) -> None:
    facts = json.loads((GENERATOR / "adapters" / name / "recipe.json").read_text("utf-8"))
    scores = facts.pop("scores")
    assert facts.pop("sha256") and facts == study.ADAPTED[name]
    assert set(scores) == {"nothing", "frames", "captions", "motion"}
    assert scores["motion"] > scores["nothing"]


def test_it_does_as_it_is_told() -> None:
    assert right("motion", told=True) > 0.6 > 0.4 > right("motion")


def test_shown_nothing_it_is_the_base() -> None:
    x = torch.randn(2, 48, 8, 4, 4, generator=torch.Generator().manual_seed(7))
    states, base = known().states(["a red seven", "a blue one"]), load_generator()
    with torch.no_grad():
        expected: Tensor = base(x, 501, states).sample
        for name in study.ADAPTED:
            model = study.adapted(name)
            assert model(x, 501, states).equal(expected)
            assert not model(x, 501, states, known().frames[:6].unflatten(0, (2, 3))).equal(expected)


def test_adapters_know_positions_or_not() -> None:
    """The paper's is blind to the order of frames; the other one isn't."""
    x = torch.randn(1, 48, 8, 4, 4, generator=torch.Generator().manual_seed(7))
    states, clips = known().states(["a red seven"]), known().frames[None, :3]
    for name, blind in (("similar", True), ("motion", False)):
        model = study.adapted(name)
        with torch.no_grad():
            change = (model(x, 501, states, clips) - model(x, 501, states, clips.flip(2))).abs().max()
        assert (change < 1e-4) == blind, (name, change)


def test_shown_how_things_move_it_moves_them_so() -> None:
    found = study.neighbours(known(), asked().prompts(), asked().motion, 5, "motion")
    assert right("motion", found=found, rag_ca=True) > right("motion") + 0.15


def test_other_names_are_refused() -> None:
    with pytest.raises(ValueError, match=r"name='both'"):
        study.adapted("both")
