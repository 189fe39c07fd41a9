"""The training loop."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import Dataset
from tqdm import tqdm

from vtrlib import check
from vtrlib.training import generators
from vtrlib.training.batches import Sampler, loader
from vtrlib.training.config import Config
from vtrlib.training.history import History
from vtrlib.training.optimisers import adamw
from vtrlib.training.run import Run
from vtrlib.training.schedules import SCHEDULES

__all__ = ["Interrupted", "fit"]


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, answered at the end of a step; says how to go on."""


def fit(
    model: nn.Module,
    data: Dataset[Any],
    loss: Callable[[nn.Module, Any], Tensor],
    config: Config,
    *,
    validate: Callable[[nn.Module], float] | None = None,
    optimiser: Callable[[nn.Module, Config], Optimizer] = adamw,
    collate: Callable[[Any], Any] | None = None,
    sampler: Sampler | None = None,
    folder: str | Path | None = None,
    until: int | None = None,
    quiet: bool | None = None,
) -> History:
    """Train `model` in place, where its weights are; it comes back in evaluation mode.

    The result follows from the model's weights, the data and the configuration alone: every draw comes from a generator
    seeded by `config.seed`, and torch's global ones are afterwards as they were. The same script runs on several
    processes under `accelerate launch` (data parallel; each then trains on its own device, and losses and weights are
    those of one process where the loss is a mean over independent samples).

    Args:
        model: any module, weights to be left alone with `requires_grad` off.
        data: a dataset with a length and indices. One with `__getitems__` gives all samples of a batch at once; of a
            `TensorDataset` rows are gathered. What it draws must come from the global generators of torch (CPU), NumPy
            or `random`; they are seeded for each batch.
        loss: `(model, batch) -> scalar`, the mean over the batch. On several processes it calls `model(…)` itself, not
            another method: the gradients' averaging hangs on the call.
        config: settings.
        validate: `(model) -> score`, higher is better; called in evaluation mode, without gradients, and with draws of
            its own. The weights with the best score are those that the model has in the end. Never score the test
            split.
        optimiser: `(model, config) -> optimiser`; the schedule multiplies into the rate of each of its groups.
        collate: makes a batch of a list of samples (or of what `__getitems__` gives); by default torch's.
        sampler: `(generator) -> indices` of a pass, or endlessly many (then `config.steps` counts); by default a
            permutation of the data.
        folder: for checkpoints. If it holds one, training goes on from there, bit for bit as if it had never stopped
            (on a CPU); if that one is of a finished run, its result is loaded.
        until: stop after this many steps of the same plan, as a canary does; the last weights stay.
        quiet: no progress bar; by default there is one where the output is a terminal, as it isn't in a notebook.

    Returns:
        Losses, validation scores, seconds.

    Raises:
        TypeError, ValueError: an argument is at fault; also a checkpoint that is damaged, pickled, or of another
            configuration, model, optimiser or data.
        FloatingPointError: loss, weights or score are no finite numbers; names the step.
        OSError: `folder` can't be written to, told at the start; or a checkpoint can't, as on a full disk, and the one
            before stands.
        Interrupted: Ctrl-C, after the step and its checkpoint; a second Ctrl-C doesn't wait. A KeyboardInterrupt.

    Examples:
        Contrastive pre-training of two small towers for a minute, and its loss curve:

        >>> import torch
        >>> from torch.nn import functional
        >>> from torch.utils.data import TensorDataset
        >>> from vtrlib.training import Config, fit
        >>> class Towers(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.image, self.text = torch.nn.Linear(48, 16), torch.nn.EmbeddingBag(31, 16)
        ...     def forward(self, images, tokens):
        ...         return functional.normalize(self.image(images)), functional.normalize(self.text(tokens))
        >>> def contrast(model, batch):
        ...     images, texts = model(*batch)
        ...     scores = images @ texts.T / 0.07
        ...     return functional.cross_entropy(scores, torch.arange(len(scores), device=scores.device))
        >>> _ = torch.manual_seed(0)
        >>> tokens = torch.randint(31, (200, 5))
        >>> pairs = TensorDataset(torch.randn(31, 48)[tokens].sum(1), tokens)
        >>> recipe = Config(steps=60, batch_size=32, learning_rate=0.02, schedule="cosine", warmup=0.05)
        >>> history = fit(Towers(), pairs, contrast, recipe)
        >>> steps, losses = history.curve(points=3)  # axes.plot(steps, losses)
        >>> steps, losses == sorted(losses, reverse=True)
        ([10.5, 30.5, 50.5], True)

        A retrieval baseline on given features, its epoch chosen on validation, which resumes when killed:

        >>> from tempfile import mkdtemp
        >>> folder = mkdtemp()
        >>> held_out = TensorDataset(*pairs[:50])
        >>> def recall(model):  # R@1 in per cent
        ...     images, texts = model(*held_out.tensors)
        ...     return 100 * (texts @ images.T).argmax(1).eq(torch.arange(50)).float().mean().item()
        >>> recipe = Config(epochs=20, batch_size=50, learning_rate=0.02, patience=3, checkpoint_every=100, seed=1)
        >>> model = Towers()
        >>> history = fit(model, TensorDataset(*pairs[50:]), contrast, recipe, validate=recall, folder=folder)
        >>> history.best_score == recall(model) == max(history.scores.values())
        True
    """
    if until is not None:
        check.integer("until", until, 1)
    accelerator = Accelerator(mixed_precision="no")  # precision is the configuration's, whatever the launcher says
    run = Run(accelerator, model, data, config, validate, optimiser, sampler, Path(folder) if folder else None)
    device, processes, rate = run.device, accelerator.num_processes, SCHEDULES[config.schedule]
    end = min(until or run.total, run.total)
    with generators.lent(device, config.seed + accelerator.process_index), _interrupts(processes) as interrupted:
        run.resume()
        parts = run.order.parts(run.step, 0 if run.history.ended else end, accelerator.process_index, processes)
        off = quiet if accelerator.is_main_process else True
        model.train()
        with tqdm(total=end, initial=run.step, disable=off, unit="step", dynamic_ncols=True) as bar:
            for part, batch in loader(data, parts, config, collate, pin=device.type == "cuda"):
                with nullcontext() if part.last else accelerator.no_sync(run.wrapped):
                    with torch.autocast(device.type, torch.bfloat16, enabled=run.bf16):
                        value = loss(run.wrapped, send_to_device(batch, device, non_blocking=True))
                    # Shares make the parts' gradients add up to the whole batch's; processes average theirs.
                    accelerator.backward(_scalar(value) * (part.share * processes))
                run.add(value.detach() * part.share, first=part.number < processes)
                if not part.last:
                    continue
                if config.clip is not None:
                    accelerator.clip_grad_norm_(run.weights, config.clip)
                for group, peak in zip(run.optimiser.param_groups, run.peaks, strict=True):
                    group["lr"] = rate(part.step - 1, run.total, config.warmup, peak)
                run.optimiser.step()
                run.optimiser.zero_grad()
                run.step, run.place = part.step, part.place
                bar.update()
                if run.due(config.report_every) or run.step == end:
                    run.look()
                    bar.set_postfix_str(run.said())
                if validate is not None and (run.due(run.eval_every) or run.step == run.total):
                    run.score()
                run.close()
                asked = interrupted()  # also while it validated
                if run.folder and (asked or run.due(config.checkpoint_every) or run.history.ended or run.step == end):
                    run.save()
                if asked:
                    raise Interrupted(run.how_to_go_on())
                if run.history.ended:
                    break
    if interrupted():  # while the last checkpoint was written, say: whoever called must not go on
        raise Interrupted(run.how_to_go_on())
    return run.finish()


def _scalar(value: Any) -> Tensor:
    """Return what a loss gave if it can be trained on."""
    if isinstance(value, Tensor) and value.ndim == 0 and value.requires_grad:
        return value
    found = type(value).__name__
    if isinstance(value, Tensor):
        found = f"a tensor of shape {tuple(value.shape)}{'' if value.requires_grad else ' without gradient'}"
    raise ValueError(f"loss: found {found}, expected a scalar tensor that depends on the model's weights.")


@contextmanager
def _interrupts(processes: int) -> Iterator[Callable[[], bool]]:
    """Have Ctrl-C wait for the end of a step, so that no checkpoint is of half an update; a second one doesn't wait.

    Gives a function that says whether it was pressed. On several processes Ctrl-C stops at once: they couldn't agree
    on a step without waiting for each other at every one. Elsewhere than in the main thread Python delivers none.
    """
    before = signal.getsignal(signal.SIGINT)
    pressed: list[int] = []
    ours = threading.current_thread() is threading.main_thread() and before not in (None, signal.SIG_IGN)
    if not ours or processes > 1:
        yield lambda: False
        return

    def note(number: int, frame: object) -> None:
        pressed.append(number)
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, note)
    try:
        yield lambda: bool(pressed)
    finally:
        signal.signal(signal.SIGINT, before)
