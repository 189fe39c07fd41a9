"""What `python -m vtrlib discovla` does, given its arguments. Importing this loads no torch."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vtrlib.recipes.pairs import SourcedVideo

__all__ = ["caption", "evaluate", "reported", "train"]


def _splits(arguments: argparse.Namespace) -> tuple[Sequence[SourcedVideo], Sequence[SourcedVideo]]:
    if arguments.captions:
        from vtrlib.datasets.retrieval import read_captions

        train, test = (tuple(read_captions(path).values()) for path in arguments.captions)
        return train, test
    from vtrlib.datasets import msrvtt_protocol

    parts = msrvtt_protocol(arguments.protocol, arguments.annotations)
    return parts["train"], parts["test"]


def caption(arguments: argparse.Namespace) -> None:
    """Write the pseudo captions of the training videos, or of a share of them."""
    import torch
    from transformers.utils import logging

    from vtrlib.datasets.retrieval import VideoFolder, generate, load_captioner

    number, _, count = arguments.share.partition("/")
    if not (number.isdigit() and count.isdigit() and 1 <= int(number) <= int(count)):
        raise ValueError(f"--share {arguments.share}: expected I/N with 1 <= I <= N, such as 2/4.")
    if not arguments.out.parent.is_dir():
        raise FileNotFoundError(f"--out {arguments.out}: there is no folder {arguments.out.parent}. Make it.")
    videos = _splits(arguments)[0][int(number) - 1 :: int(count)]
    source = VideoFolder(
        arguments.videos, [v.id for v in videos], frames=arguments.frames, size=None, rule=arguments.sampling
    )
    if arguments.quiet or not sys.stderr.isatty():
        logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    captioner = load_captioner(
        arguments.model, device=device, dtype=getattr(torch, arguments.dtype), revision=arguments.revision,
        max_new_tokens=arguments.max_new_tokens,
    )  # fmt: skip
    made = generate(
        arguments.out, videos, source, captioner, guided=not arguments.unguided, batch_size=arguments.batch,
        quiet=arguments.quiet,
    )  # fmt: skip
    print(made)


def train(arguments: argparse.Namespace) -> None:
    """Train, and say what the report says."""
    from vtrlib.recipes import discovla

    names = "variant reading frames words sampling batch epochs rate warmup weight_decay clip_norm val seed".split()
    recipe = discovla.Recipe(**{name: getattr(arguments, name) for name in names}, precision=arguments.dtype)
    run = discovla.train(
        recipe, arguments.clip, *_splits(arguments), videos=arguments.videos, out=arguments.out,
        pseudo=arguments.pseudo, cache=arguments.cache, device=arguments.device, workers=arguments.workers,
        checkpoint_every=arguments.checkpoint_every, quiet=arguments.quiet,
    )  # fmt: skip
    _say(run.report, arguments.out / "report.json")


def evaluate(arguments: argparse.Namespace) -> None:
    """Score the test split by the weights of a run."""
    from vtrlib.datasets.retrieval.pseudo_captions import write_json
    from vtrlib.recipes import discovla
    from vtrlib.recipes.scoring import processes

    bank, test = _splits(arguments)
    run = discovla.load_run(arguments.run, arguments.clip, arguments.device)
    found = discovla.evaluate(
        run, test, videos=arguments.videos, bank=bank, cache=arguments.cache, workers=arguments.workers,
        quiet=arguments.quiet,
    )  # fmt: skip
    if arguments.report and processes().is_main_process:
        write_json(arguments.report, found)
    _say(found, arguments.report)


def _say(report: dict[str, Any], path: Path | None) -> None:
    from vtrlib.recipes.scoring import processes

    if not processes().is_main_process:
        return
    rows = [("test", report["test"]), *report["rescored"].items()]
    for name, ways in rows:
        for way, metrics in ways.items():
            if isinstance(metrics, dict):
                shown = "  ".join(f"{metric} {value:.1f}" for metric, value in metrics.items())
                print(f"{name:8} {way:14} {shown}")
        if "caution" in ways:
            print(f"{'':8} {ways['caution']}")
    if path is not None:
        print(path)


def reported(run: Callable[[argparse.Namespace], None], arguments: argparse.Namespace) -> int:
    """The exit status: 1 after one message where something is missing or unfit."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # else tokenizers warn in every process that loads data
    try:
        run(arguments)
    except (OSError, ValueError, TypeError, FloatingPointError) as error:
        # From a process that loads data it comes with that process's traceback; the message is its end.
        print(str(error).rsplit(f"{type(error).__name__}: ", 1)[-1], file=sys.stderr)
        return 1
    if "accelerate" in sys.modules:
        from vtrlib.recipes.scoring import processes

        processes().destroy_process_group()  # if there is one
    return 0
