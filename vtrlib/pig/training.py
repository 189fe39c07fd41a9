"""How PIG is trained (Sec. 3.6): the generator alone, then everything."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import Dataset

from vtrlib import check
from vtrlib.clip import Towers, preprocess
from vtrlib.datasets.retrieval import PairBatch
from vtrlib.pig.model import PIG
from vtrlib.pig.objective import Batch
from vtrlib.training import Config, History, TransformersAdamW, fit

__all__ = ["RATES", "adamw", "plan", "prepared", "train_stages"]

# Peaks of the learning rate: stage 1 as the paper has it, the only source; stage 2 as
# the paper has it and as the released configuration of B/32 does (difference 8).
RATES = {1: {"paper": 9e-5, "released": 9e-5}, 2: {"paper": 1e-6, "released": 2e-6}}
_BATCH = {"paper": 128, "released": 160}


def adamw(model: nn.Module, config: Config) -> Optimizer:
    r"""The released optimiser; the paper names none.

    `TransformersAdamW` with $\beta = (0.9, 0.98)$ and $\epsilon = 10^{-6}$; a model's
    `parameter_groups` say what is decayed.
    """
    assert isinstance(model, PIG)
    groups = model.parameter_groups(config.weight_decay)
    return TransformersAdamW(groups, lr=config.learning_rate, betas=(0.9, 0.98), eps=1e-6)


def plan(stage: int, reading: str = "released", **changes: Any) -> Config:
    """Settings of `vtrlib.training.fit` for a stage, at full size.

    The paper gives learning rates and batch; the rest is the released code's: one
    hundredth of the steps for the warm-up, a cosine down to 0, decay 0.2, gradients cut
    to norm 1, and 5 passes over all pairs. (Its "100 epochs" take one of the 20 captions
    of a video each.)

    Args:
        stage: 1 or 2.
        reading: "paper" or "released".
        changes: of a `vtrlib.training.Config`, on top; `steps` takes the place of epochs.

    Raises:
        ValueError: no such stage or reading.
    """
    check.integer("stage", stage, 1, 2)
    check.one_of("reading", reading, _BATCH)
    given: dict[str, Any] = {
        "epochs": None if "steps" in changes else 5, "batch_size": _BATCH[reading],
        "learning_rate": RATES[stage][reading], "weight_decay": 0.2, "schedule": "pig",
        "warmup": 0.01, "clip": 1.0, "seed": 42,
    }  # fmt: skip
    return Config(**{**given, **changes})


def prepared(batch: PairBatch, clip: Towers) -> Batch:
    """Pairs of real videos and captions, as `vtrlib.datasets.retrieval.collate_pairs`
    stacks them, as a batch; pixels are scaled where the batch is."""
    return Batch(
        video=preprocess(batch.frames, clip.size, clip.mean, clip.std),
        text_input_ids=batch.text_ids, text_input_mask=batch.text_mask,
    )  # fmt: skip


def train_stages(
    model: PIG, data: Dataset[Any], plans: Mapping[int, Config], *,
    batch: Callable[[Any], Batch] | None = None,
    validate: Mapping[int, Callable[[PIG], float]] | None = None,
    folder: str | Path | None = None, **options: Any,
) -> dict[int, History]:  # fmt: skip
    """Train a model in place, stage after stage.

    Stage 1 trains the generator on Eq. 8 while everything else stands still; stage 2
    trains everything on Eq. 9. Without a plan for stage 1, or without a generator,
    training starts with stage 2.

    Args:
        model: see `PIG.of`.
        data: items of which `batch` makes a `Batch`.
        plans: {1: …, 2: …}, one of them or both; see `plan`.
        batch: from what the loader gives to a `Batch`, on its device; by default it is
            one.
        validate: for a stage a score of the model, higher is better; see `fit`. The
            released code looks at R@1 of texts among pseudo-queries in stage 1, and
            among videos in stage 2, of the test split, which is not to be done.
        folder: for checkpoints, one subfolder a stage; the same call goes on from there.
        options: of `vtrlib.training.fit`, such as `collate`.

    Returns:
        Losses and scores of each stage, by its number.

    Raises:
        ValueError: no plan, or one for another stage; also what `fit` raises.

    Example:
        Full size, with `pairs` a `vtrlib.datasets.retrieval.VideoTextPairs`:

        >>> from functools import partial
        >>> from vtrlib.clip import load
        >>> from vtrlib.datasets.retrieval import collate_pairs
        >>> from vtrlib.pig import PIG, plan, prepared, train_stages
        >>> towers = load("openai/clip-vit-base-patch32")  # doctest: +SKIP
        >>> found = train_stages(PIG.of(towers), pairs, {s: plan(s) for s in (1, 2)},
        ...     batch=partial(prepared, clip=towers), collate=collate_pairs,
        ...     folder="run")  # doctest: +SKIP
    """
    if not plans or not set(plans) <= {1, 2}:
        raise ValueError(f"plans: found stages {sorted(plans)}, expected 1, 2 or both.")
    found: dict[int, History] = {}
    for stage in sorted(plans):
        if stage == 1 and not model.config.generates:
            continue
        model.enter_stage(stage)
        score = (validate or {}).get(stage)
        found[stage] = fit(
            model, data, partial(_total, batch=batch), plans[stage], optimiser=adamw,
            validate=score,  # type: ignore[arg-type]
            folder=None if folder is None else Path(folder) / f"stage{stage}", **options,
        )  # fmt: skip
    return found


def _total(model: nn.Module, items: Any, batch: Callable[[Any], Batch] | None) -> Tensor:
    total: Tensor = model(items if batch is None else batch(items))["total"]
    return total
