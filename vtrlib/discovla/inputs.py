"""What goes into the model; the checks on it are `vtrlib.clip.inputs`."""

from __future__ import annotations

from typing import NotRequired, TypedDict

from torch import Tensor

__all__ = ["Batch"]


class Batch(TypedDict):
    """B videos, a caption each, and a pseudo caption for each frame.

    Attributes:
        text_ids: (B, L), token ids of the captions, [bos] … [eos] and padding.
        text_mask: (B, L), true or 1 where there is a token.
        video: (B, F, 3, size, size), prepared frames.
        video_mask: (B, F), true or 1 where there is a frame.
        f_text_ids: (B, F, L'), the pseudo captions, in the order of the frames; needed
            where α or β is not 0.
        f_text_mask: (B, F, L').
    """

    text_ids: Tensor
    text_mask: Tensor
    video: Tensor
    video_mask: Tensor
    f_text_ids: NotRequired[Tensor]
    f_text_mask: NotRequired[Tensor]
