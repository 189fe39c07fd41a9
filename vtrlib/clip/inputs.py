"""What goes into CLIP's towers, and the checks on it.

Values are read only where that costs no accelerator its time: on a CPU, and outside
training.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import CLIPConfig, CLIPModel

from vtrlib import check
from vtrlib.clip.towers import Towers

__all__ = [
    "checked_frames", "checked_mask", "checked_texts", "end_token", "end_tokens", "given_clip",
    "given_settings", "readable", "start_token",
]  # fmt: skip


def given_settings(clip: object) -> dict[str, Any]:
    """A CLIP model's settings as a configuration keeps them.

    Args:
        clip: a `transformers.CLIPConfig`, or its settings in a dict.

    Raises:
        TypeError: it is neither.
    """
    if isinstance(clip, CLIPConfig):
        found: dict[str, Any] = clip.to_diff_dict()
        return found
    if not isinstance(clip, dict):
        raise TypeError(
            f"clip ({type(clip).__name__}): expected a transformers.CLIPConfig, or "
            "its settings in a dict."
        )
    return clip


def given_clip(
    clip: CLIPModel | Towers, config: object, settings: dict[str, Any]
) -> tuple[CLIPModel, dict[str, Any]]:
    """A pretrained CLIP, and the fields of a configuration of a model on it.

    Args:
        clip: what `vtrlib.clip.load` gives, or a `transformers.CLIPModel`.
        config: a configuration, or None.
        settings: in its place.

    Raises:
        TypeError: both a config and settings.
    """
    source = clip.model if isinstance(clip, Towers) else clip
    if config is not None and settings:
        raise TypeError("config: found settings beside it, expected one alone.")
    known = settings if config is None else vars(config)
    return source, {**known, "clip": source.config}


def checked_mask(name: str, mask: Tensor, of: str, shape: tuple[int, ...]) -> Tensor:
    """A mask as bool; anything above ½ is true.

    Raises:
        ValueError: another shape than that of what it masks.
    """
    if tuple(mask.shape) != shape:
        raise ValueError(
            f"{name}: found shape {tuple(mask.shape)}, expected {shape}, as {of}."
        )
    return mask if mask.dtype == torch.bool else mask > 0.5


def readable(x: object, training: bool) -> bool:
    """May values be looked at? It would stop an accelerator in a training step, and
    break a compiled graph. What is no tensor has none; the check of shapes names it."""
    if not isinstance(x, Tensor):
        return False
    free = x.device.type == "cpu" or not training
    return free and not torch.compiler.is_compiling() and not x.is_meta


def end_token(config: CLIPConfig) -> int:
    """The id of [eos].

    Configurations from before transformers 4.31 carry a wrong `eos_token_id`, 2; there
    the end token is the last of the vocabulary, as in CLIP's byte pairs.
    """
    text = config.text_config
    end: int = text.vocab_size - 1 if text.eos_token_id == 2 else text.eos_token_id
    return end


def start_token(config: CLIPConfig) -> int:
    """The id of [bos]: where `end_token` finds `eos_token_id` wrong `bos_token_id` is wrong
    too, 0, and [bos] is the last but one of the vocabulary."""
    text = config.text_config
    start: int = text.vocab_size - 2 if text.eos_token_id == 2 else text.bos_token_id
    return start


def end_tokens(config: CLIPConfig, ids: Tensor, mask: Tensor) -> Tensor:
    """Where texts end: the first end token of each that the mask shows, ids (..., L).

    Returns:
        (..., L), bool, one true in each row that has an end token.
    """
    ends = (ids == end_token(config)) & mask
    return ends & (ends.cumsum(-1) == 1)


def checked_texts(
    config: CLIPConfig, name: str, ids: Tensor, mask: Tensor, letters: str, values: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Token ids, their mask as bool, and where each text ends, (..., L) each.

    Args:
        config: of the CLIP model.
        name: of the argument, as messages say it.
        ids, mask: "B L" or "B F L", as `letters` says.
        values: whether values may be read.

    Raises:
        ValueError: shapes or dtypes that do not fit, too long a text; and with `values`
            a token that the vocabulary lacks, a text without tokens, one whose first
            token is masked, or one without end token.
    """
    text = config.text_config
    known = check.sizes(name, ids, letters)
    if ids.is_floating_point() or ids.dtype == torch.bool:
        raise ValueError(f"{name}: found {ids.dtype}, expected integers, token ids.")
    if known["L"] > text.max_position_embeddings:
        raise ValueError(
            f"{name}: found {known['L']} tokens in a text, expected at most "
            f"{text.max_position_embeddings}, the text tower's context. Cut the texts."
        )
    mask = checked_mask(f"the mask of {name}", mask, name, tuple(ids.shape))
    ids = ids.long()
    ends = end_tokens(config, ids, mask)
    if values:
        shown = ids.where(mask, 0)
        # Padding is looked up too, so its ids must exist as well.
        if bool(((ids < 0) | (ids >= text.vocab_size)).any()):
            raise ValueError(
                f"{name}: found ids from {int(ids.min())} to {int(ids.max())}, expected "
                f"0 to {text.vocab_size - 1}, the vocabulary. Use the model's tokenizer."
            )
        _refuse(
            name, mask.any(-1), "no token",
            "at least [bos] and [eos]. Leave the text out, or correct its mask (1 "
            "where there is a token)",
        )  # fmt: skip
        _refuse(
            name, mask[..., 0], "the first token masked",
            "padding behind the tokens, not before them. Pad on the right",
        )  # fmt: skip
        _refuse(
            name, ends.any(-1), f"no end token (largest id {int(shown.max())})",
            "one in each text, within its mask: features are read there. Cut texts "
            "before their end token, not behind it, and check config.clip's "
            "text_config.eos_token_id",
        )  # fmt: skip
    return ids, mask, ends


def checked_frames(
    config: CLIPConfig, video: Tensor, mask: Tensor | None, hidden: bool, values: bool
) -> tuple[Tensor, Tensor]:
    """Frames (B, F, 3, size, size), and their mask (B, F) as bool, all true by default.

    Args:
        config: of the CLIP model.
        video: frames.
        mask: true or 1 where there is a frame.
        hidden: padding takes part nowhere; zeros are put there, since not even a weight
            of 0 hides a NaN.
        values: whether values may be read.

    Raises:
        ValueError: shapes or dtypes that do not fit; and with `values` a video without
            frames, NaN or infinity, or a frame that is all zeros, which no picture is
            once its colours are standardised, but a frame that could not be read.
    """
    size = config.vision_config.image_size
    known = check.sizes("video", video, "B F C H W", {"C": 3})
    if (known["H"], known["W"]) != (size, size):
        raise ValueError(
            f"video: found frames of {known['H']}×{known['W']} pixels, expected "
            f"{size}×{size}, which the vision tower sees. Use vtrlib.clip.preprocess."
        )
    if not video.is_floating_point():
        raise ValueError(
            f"video: found {video.dtype}, expected floating-point frames with "
            "standardised colours. Use vtrlib.clip.preprocess."
        )
    shape, masked = tuple(video.shape[:2]), mask is not None
    if mask is None:
        mask = torch.ones(shape, dtype=torch.bool, device=video.device)
    else:
        mask = checked_mask("video_mask", mask, "video", shape)
    if values:
        _refuse(
            "video_mask", mask.any(1), "no frame",
            "at least one in each video. Leave the video out, or correct its mask (1 "
            "where there is a frame)",
        )  # fmt: skip
        least, most = video.flatten(2).aminmax(dim=-1)
        finite = least.isfinite() & most.isfinite()
        _refuse(
            "video", finite | ~mask if hidden else finite, "NaN or infinity",
            "finite frames. Decode it again, or leave it out",
        )  # fmt: skip
        _refuse(
            "video", ((least != 0) | (most != 0)) | ~mask, "a frame that is all zeros",
            "pictures: it was not decoded. Decode it again, "
            + ("leave it out, or set video_mask to 0 there" if masked else "or leave it out"),
        )  # fmt: skip
    if hidden:
        video = video.masked_fill(~mask[..., None, None, None], 0)
    return video, mask


def _refuse(name: str, good: Tensor, found: str, expected: str) -> None:
    """Raise ValueError unless all is good, naming the entries that are not."""
    if bool(good.all()):
        return
    rows = (~good).nonzero().tolist()
    places = check.listed(("[" + ", ".join(map(str, row)) + "]" for row in rows))
    raise ValueError(f"{name}{places}: found {found}, expected {expected}.")
