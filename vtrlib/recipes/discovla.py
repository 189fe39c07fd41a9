"""DiscoVLA trained on real videos, and scored: any row of Table 5 on MSR-VTT, for whoever has weights and videos."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vtrlib.clip import Towers, load, preprocess
from vtrlib.datasets.retrieval import PairBatch, VideoTextPairs, collate_pairs
from vtrlib.datasets.retrieval.pseudo_captions import write_json
from vtrlib.discovla import Batch, Config, DiscoVLA, load_trained, save_trained
from vtrlib.recipes import runs
from vtrlib.recipes.facts import decisive, plain, refuse_unfit, told, where
from vtrlib.recipes.pairs import SourcedVideo, open_parts, open_test
from vtrlib.recipes.scoring import Features, encode_pairs, encode_sentences, measured, processes, r_sum, rescored
from vtrlib.recipes.settings import Recipe
from vtrlib.training import History, fit

__all__ = ["Recipe", "Result", "Trained", "evaluate", "load_run", "train"]


class Result(NamedTuple):
    """A run: the model with the weights that count, losses and validation scores, and what `report.json` holds.

    The history is empty where the run was finished before and only loaded.
    """

    model: DiscoVLA
    history: History
    report: dict[str, Any]


class Trained(NamedTuple):
    """A run that was loaded again: its model, the CLIP beneath, its recipe."""

    model: DiscoVLA
    clip: Towers
    recipe: Recipe


def train(
    recipe: Recipe, clip: str | Path, train: Sequence[SourcedVideo], test: Sequence[SourcedVideo], *,
    videos: str | Path, out: str | Path, pseudo: Sequence[str | Path] = (), cache: str | Path | None = None,
    device: str | None = None, workers: int = 0, checkpoint_every: int | None = 200, quiet: bool | None = None,
) -> Result:  # fmt: skip
    """Train on every caption of every training video, and score the test split once, at the end.

    If it is interrupted or killed, the same call goes on from the last checkpoint, on a CPU bit for bit. Under
    `accelerate launch` it runs on several processes, each with its part of a batch; similarities and losses are those
    of the whole batch, and so is the gradient (the released code's is 1/W of it on W processes). A finished run is
    loaded, and not scored again.

    In `out` stand `config.json`, what the run is made from; `checkpoints/`; then `weights.safetensors`, what was
    trained; `report.json`; and `test_features.safetensors`, from which every score follows.

    Args:
        recipe: settings.
        clip: a folder, or a name on the Hugging Face hub; see `vtrlib.clip.load`.
        train, test: videos with captions, such as those of `msrvtt_protocol`.
        videos: the folder of their files, see `find_videos`.
        out: the run's folder, new or its own.
        pseudo: JSON files of pseudo captions of the training videos, see `vtrlib.datasets.retrieval.generate`.
        cache: a folder for decoded frames: 9,000 videos of 12 frames take 15 GiB, and no epoch but the first decodes.
        device: by default a GPU if there is one; on several processes each has its own.
        workers: processes that load data on each of the training processes.
        checkpoint_every: steps; None: only at the end.
        quiet: no progress bar; by default there is one where the output is a terminal.

    Raises:
        FileNotFoundError, ValueError, TypeError: something is missing or unfit; nothing is written then. Also where
            `out` is of another run.
        OSError: `out` can't be written to; or, as a `VideoError`, a video can't be read.
        FloatingPointError, Interrupted: see `vtrlib.training.fit`.

    Example:
        >>> from vtrlib.datasets import msrvtt_protocol
        >>> from vtrlib.recipes.discovla import Recipe, train
        >>> parts = msrvtt_protocol("1k-A-9k", "annotations")  # doctest: +SKIP
        >>> run = train(Recipe(seed=1), "openai/clip-vit-base-patch32", parts["train"], parts["test"],
        ...             videos="videos", pseudo=["pseudo.json"], out="run")  # doctest: +SKIP
        >>> run.report["test"]["text to video"]["R@1"]  # doctest: +SKIP
    """
    state, out = processes(), Path(out)
    plan = recipe.plan(workers=workers, checkpoint_every=checkpoint_every)
    towers = load(clip)
    parts = open_parts(recipe, towers, train, test, videos, pseudo, cache)
    model = _build(towers, recipe.config(towers), recipe.seed)
    refuse_unfit(recipe, parts, state.num_processes)
    config = decisive(recipe, model, parts)
    runs.refuse_other(out, config)
    model.to(_device(device))
    if (out / runs.REPORT).is_file():
        load_trained(model, out / runs.WEIGHTS)
        return Result(model, History(ended="steps"), json.loads((out / runs.REPORT).read_text("utf-8")))
    state.wait_for_everyone()  # all have looked at the folder before it changes
    if state.is_main_process:
        runs.begin(out, config)
    history = History(ended="steps")
    common: dict[str, Any] = {"workers": workers, "quiet": quiet}
    if recipe.variant != "zero_shot":
        history = fit(
            model, parts.train, lambda m, batch: _loss(m, towers, batch), plan, optimiser=recipe.optimiser,
            collate=collate_pairs, folder=out / runs.CHECKPOINTS, quiet=quiet,
            validate=None if parts.val is None else lambda m: r_sum(_encode(m, towers, parts.val, recipe, common)),
        )  # fmt: skip
    if state.is_main_process:
        save_trained(model, out / runs.WEIGHTS)  # before the test videos are read: one may be broken
    features = _encode(model, towers, parts.test, recipe, common)
    found = _scored(model, towers, recipe, features, train)
    report = plain({**found, **told(model, history, recipe), **config, **where(state.num_processes)})
    if state.is_main_process:
        runs.write_features(out, features._asdict())
        write_json(out / runs.REPORT, report)
    state.wait_for_everyone()
    return Result(model, history, report)


def load_run(run: str | Path, clip: str | Path, device: str | None = None) -> Trained:
    """The model of a run, with its trained weights on the CLIP that it was trained on.

    Args:
        run: the folder that `train` wrote.
        clip: as for `train`.
        device: likewise.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: one is damaged, or the CLIP is another one.
    """
    run = Path(run)
    known = runs.read_config(run)
    recipe, towers = Recipe(**known["recipe"]), load(clip)
    model = _build(towers, recipe.config(towers), recipe.seed)
    if plain(asdict(model.config)) != known["model"]:
        raise ValueError(
            f"{run}: was trained on a CLIP of other sizes than {str(clip)!r}, with frames of "
            f"{known['clip']['size']} pixels; found {towers.size}. Expected the same CLIP."
        )
    return Trained(load_trained(model, run / runs.WEIGHTS).to(_device(device)), towers, recipe)


def evaluate(
    run: Trained, test: Sequence[SourcedVideo], *, videos: str | Path, bank: Sequence[SourcedVideo] = (),
    cache: str | Path | None = None, workers: int = 0, quiet: bool | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Score a split by the model of a run: the "test" and "rescored" of its report, for any videos.

    Args:
        run: see `load_run`.
        test: videos with captions, every caption a query.
        videos: the folder of their files.
        bank: training videos, whose first captions are QB-Norm's bank; without any it is left out.
        cache, workers, quiet: as for `train`.

    Raises:
        FileNotFoundError, ValueError, OSError: as `train` does.
    """
    pairs = open_test(run.recipe, run.clip, test, videos, cache)
    features = encode_pairs(run.model, run.clip, pairs, run.recipe, workers=workers, quiet=quiet)
    return _scored(run.model, run.clip, run.recipe, features, bank)


def _build(towers: Towers, config: Config, seed: int) -> DiscoVLA:
    with torch.random.fork_rng(devices=[]):  # CLIP's own weights are drawn before they are loaded
        return DiscoVLA.of(towers, config, generator=torch.Generator().manual_seed(seed))


def _loss(model: nn.Module, towers: Towers, batch: PairBatch) -> Tensor:
    pixels = preprocess(batch.frames, towers.size, towers.mean, towers.std)
    given = Batch(
        text_ids=batch.text_ids, text_mask=batch.text_mask, video=pixels, video_mask=batch.frame_mask
    )  # fmt: skip
    if batch.pseudo_ids is not None and batch.pseudo_mask is not None:
        given["f_text_ids"], given["f_text_mask"] = batch.pseudo_ids, batch.pseudo_mask
    total: Tensor = model(given)["total"]
    return total


def _encode(
    model: nn.Module, towers: Towers, pairs: VideoTextPairs | None, recipe: Recipe, common: dict[str, Any]
) -> Features:
    assert isinstance(model, DiscoVLA) and pairs is not None
    return encode_pairs(model, towers, pairs, recipe, **common)


def _scored(
    model: DiscoVLA, towers: Towers, recipe: Recipe, features: Features, bank: Sequence[SourcedVideo]
) -> dict[str, Any]:
    firsts = [video.captions[0] for video in bank]
    others = encode_sentences(model, towers, firsts, recipe) if firsts else None
    return {"test": measured(features), "rescored": rescored(features, others, float(model.scale.detach()))}


def _device(name: str | None) -> torch.device:
    state = processes()
    if state.num_processes > 1:
        return state.device
    chosen = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=chosen).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(
            f"device={chosen!r}: {str(error).splitlines()[0]} Expected one of this machine, such as 'cpu'."
        ) from None
