"""What goes into the model, and the checks on it.

Values are read only where that costs no accelerator its time: on a CPU, and outside
training.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from vtrlib import check
from vtrlib.dreamprvr.config import Config

__all__ = ["Batch"]


class Batch(NamedTuple):
    """B videos with all their N queries.

    Attributes:
        clips: (B, M_c, Dv), features of the clips.
        frames: (B, F, Dv), of the frames, F ≤ M_f; what stands in padding never
            matters.
        frame_mask: (B, F), true or 1 where there is a frame.
        words: (N, L, Dq), of the words, L ≤ `config.words`.
        word_mask: (N, L), true or 1 where there is a word.
        labels: (N,), integers: the place of each query's video among the B. Every video
            has a query.
    """

    clips: Tensor
    frames: Tensor
    frame_mask: Tensor
    words: Tensor
    word_mask: Tensor
    labels: Tensor


def checked_words(
    config: Config, words: Tensor, mask: Tensor, values: bool
) -> tuple[Tensor, Tensor]:
    """Words (N, L, Dq) with zeros in padding, and their mask as bool.

    Raises:
        ValueError: shapes that do not fit, too long a query; and with `values` one
            without words, or NaN or infinity.
    """
    known = check.sizes("words", words, "N L Dq", {"Dq": config.text_width})
    if known["L"] > config.words:
        raise ValueError(
            f"words: found {known['L']} words in a query, expected at most {config.words}. Cut the queries, or give "
            "Config more words."
        )
    return _masked("words", words, "word_mask", mask, "query", "word", values)


def checked_clips(config: Config, clips: Tensor, values: bool) -> Tensor:
    """Clips (V, M_c, Dv).

    Raises:
        ValueError: another shape; and with `values` NaN or infinity.
    """
    check.sizes(
        "clips", clips, "V M_c Dv", {"M_c": config.clips, "Dv": config.video_width}
    )
    if values:
        _finite("clips", clips, None, "video")
    return clips


def checked_videos(
    config: Config, clips: Tensor, frames: Tensor, mask: Tensor, values: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Clips (V, M_c, Dv), frames (V, F, Dv) with zeros in padding, and their mask as
    bool.

    Raises:
        ValueError: shapes that do not fit, too many frames; and with `values` a video
            without frames, or NaN or infinity.
    """
    clips = checked_clips(config, clips, values)
    known = check.sizes(
        "frames", frames, "V F Dv", {"V": len(clips), "Dv": config.video_width}
    )
    if known["F"] > config.frames:
        raise ValueError(
            f"frames: found {known['F']} frames, expected at most {config.frames}. Pool them, or give Config more "
            "frames."
        )
    return (
        clips,
        *_masked("frames", frames, "frame_mask", mask, "video", "frame", values),
    )


def check_labels(labels: Tensor, queries: int, videos: int, values: bool) -> None:
    """Raise ValueError unless labels are (N,) integers from 0 to B − 1, and with
    `values` name every video."""
    check.sizes("labels", labels, "N", {"N": queries})
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise ValueError(
            f"labels: found {labels.dtype}, expected integers: the place of each query's video."
        )
    if not values:
        return
    out = (labels < 0) | (labels >= videos)
    if out.any():
        query = int(out.int().argmax())
        raise ValueError(
            f"labels[{query}]: found {int(labels[query])}, expected 0 to {videos - 1}, the places of {videos} videos. "
            "Number the videos as they stand in this batch."
        )
    bare = (torch.bincount(labels, minlength=videos) == 0).nonzero().flatten().tolist()
    if bare:
        raise ValueError(
            f"labels: found no query of video {check.listed(map(str, bare))}, expected at least one of each. Leave "
            "videos without queries out of a training batch."
        )


def _masked(
    name: str,
    x: Tensor,
    mask_name: str,
    mask: Tensor,
    row: str,
    item: str,
    values: bool,
) -> tuple[Tensor, Tensor]:
    if tuple(mask.shape) != tuple(x.shape[:2]):
        raise ValueError(
            f"{mask_name}: found shape {tuple(mask.shape)}, expected {tuple(x.shape[:2])}, as {name}."
        )
    mask = mask if mask.dtype == torch.bool else mask > 0.5
    if values:
        empty = (~mask.any(1)).nonzero().flatten().tolist()
        if empty:
            raise ValueError(
                f"{mask_name}: found no {item} in {row} {check.listed(map(str, empty))}, expected at least one. Leave "
                f"the {row} out, or correct the mask (1 where there is a {item})."
            )
        _finite(name, x, mask, row)
    return x.masked_fill(~mask[..., None], 0), mask


def _finite(name: str, x: Tensor, mask: Tensor | None, row: str) -> None:
    if not x.is_floating_point():
        raise ValueError(f"{name}: found {x.dtype}, expected floating-point features.")
    bad = ~x.isfinite().all(-1)
    bad = bad if mask is None else bad & mask
    if bad.any():
        rows = bad.any(1).nonzero().flatten().tolist()
        raise ValueError(
            f"{name}: found NaN or infinity in {row} {check.listed(map(str, rows))}, expected finite features. Extract "
            f"them again, or leave the {row} out."
        )
