"""What the shell may say to `python -m vtrlib discovla`. Importing this loads no torch."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from vtrlib.recipes import commands

__all__ = ["add"]

_VARIANTS = ("zero_shot", "lora", "b1", "b2", "b3", "discovla", "full")
_EPILOG = """
The defaults are the paper's for MSR-VTT, and the released code's where the paper is silent. One thing is left out: the
released code distorts training frames (RandAugment: 15 operations, four drawn for each video, each applied with
probability 1/2, the same to all its frames); the paper doesn't mention it. If results fall short of the paper's,
suspect this first. On several GPUs: accelerate launch --num_processes 4 -m vtrlib discovla train ..., where --batch is
that of all of them together. Interrupted, the same command goes on where it stopped.
"""


def add(known: Any) -> None:
    """Add `discovla` with its own commands to the subparsers of `python -m vtrlib`."""
    about = "DiscoVLA on MSR-VTT or other videos: make pseudo captions, train, score"
    own = known.add_parser("discovla", help=about, description=f"{about}.")
    own = own.add_subparsers(required=True, metavar="COMMAND")

    caption = _command(own, "caption", commands.caption, "write the pseudo captions of the training videos")
    _data(caption)
    _sampling(caption)
    _needs(caption, "--model", "an image-text-to-text model, folder or hub name; the paper's is LLaVA-NeXT")
    _needs(caption, "--out", "where to; goes on if it was begun", type=Path, metavar="JSON")
    _may(caption, "--share", "1/1", "share I of N of the videos, for N processes with an --out each", metavar="I/N")
    _may(caption, "--batch", 8, "answers at a time")
    _may(caption, "--max-new-tokens", 64, "of an answer")
    _may(caption, "--dtype", "bfloat16", "of the model", choices=("float32", "bfloat16", "float16"))
    caption.add_argument("--unguided", action="store_true", help="without the video's caption in the prompt (Table 8)")
    caption.add_argument("--revision", help="of the model on the hub")

    train = _command(own, "train", commands.train, "train, then score the test split once", epilog=_EPILOG)
    _data(train)
    _sampling(train)
    _clip(train)
    told = "pseudo captions, in one file or several; needed by b2, b3 and discovla"
    train.add_argument("--pseudo", nargs="+", default=[], type=Path, metavar="JSON", help=told)
    _needs(train, "--out", "the run's folder, new or its own", type=Path, metavar="DIR")
    _may(train, "--variant", "discovla", "row of Table 5, or CLIP4Clip's full fine-tuning", choices=_VARIANTS)
    _may(train, "--reading", "released", "where paper and code differ", choices=("released", "paper"))
    _may(train, "--words", 32, "most tokens of a sentence")
    _may(train, "--batch", 128, "pairs of an update, over all processes")
    _may(train, "--epochs", 5, "passes over all pairs of video and caption")
    train.add_argument("--rate", type=float, help="peak of the learning rate (6e-4; full: 1e-7)")
    _may(train, "--warmup", 0.1, "share of the steps")
    _may(train, "--weight-decay", 0.2, "decoupled")
    _may(train, "--clip-norm", 1.0, "greatest norm of the gradient")
    _may(train, "--dtype", "float32", "bfloat16: autocast", choices=("float32", "bfloat16"))
    held = "training videos held out, by the hash of their source, to choose the epoch; 0: the last one counts"
    _may(train, "--val", 0, held, metavar="N")
    _may(train, "--seed", 42, "of new weights and order")
    _may(train, "--checkpoint-every", 200, "steps")

    score = _command(own, "evaluate", commands.evaluate, "score the test split by a run's weights")
    _needs(score, "--run", "what train gave as --out", type=Path, metavar="DIR")
    _data(score)
    _clip(score)
    score.add_argument("--report", type=Path, metavar="JSON", help="write it there too")


def _command(
    own: Any, name: str, run: Callable[[argparse.Namespace], None], about: str, **more: Any
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = own.add_parser(name, help=about, description=f"{about}.", **more)
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ...; by default a GPU if there is one")
    bar = "no progress bar; there is none anyway where the output is no terminal"
    parser.add_argument("--quiet", action="store_true", default=None, help=bar)
    parser.set_defaults(action=partial(commands.reported, run))
    return parser


def _needs(parser: argparse.ArgumentParser, name: str, about: str, **more: Any) -> None:
    parser.add_argument(name, required=True, help=about, **more)


def _may(parser: argparse.ArgumentParser, name: str, default: Any, about: str, **more: Any) -> None:
    parser.add_argument(name, default=default, type=type(default), help=f"{about} (%(default)s)", **more)


def _data(parser: argparse.ArgumentParser) -> None:
    _needs(parser, "--videos", "video0.mp4, video1.mp4, ..., also in folders by split", type=Path, metavar="DIR")
    either = parser.add_mutually_exclusive_group(required=True)
    files = "MSR-VTT's: MSRVTT_data.json, MSRVTT_train.9k.csv, MSRVTT_JSFUSION_test.csv"
    either.add_argument("--annotations", type=Path, metavar="DIR", help=files)
    others = "those of another set: two JSON files, video id to list of captions"
    either.add_argument("--captions", nargs=2, type=Path, metavar=("TRAIN", "TEST"), help=others)
    _may(parser, "--protocol", "1k-A-9k", "of the annotations", choices=("1k-A-9k", "1k-A-7k", "official"))


def _sampling(parser: argparse.ArgumentParser) -> None:
    _may(parser, "--frames", 12, "of a video")
    rules = "which frames: one a second, as released, or evenly spread"
    _may(parser, "--sampling", "seconds", rules, choices=("seconds", "ends", "middle"))


def _clip(parser: argparse.ArgumentParser) -> None:
    _needs(parser, "--clip", "CLIP: a folder, or a hub name such as openai/clip-vit-base-patch32")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="keep decoded frames there")
    _may(parser, "--workers", 0, "processes that decode, for each training process")
